//! Options of TCP sockets that no library sets.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// How many bytes must have come before a connection counts as readable (`SO_RCVLOWAT`); 1 is the usual. Sockets other than
/// TCP's take no notice.
///
/// The kernel then wakes its reader once for several small messages. The end of the connection and a fault always count; reading takes
/// what is there at any time. Lowered to what has come already, it counts at once (Linux since 4.18).
///
/// # Errors
/// Those of the kernel: it stays as it was.
pub fn low_water(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// How long a listening socket may keep a connection to itself whose client has said nothing yet (`TCP_DEFER_ACCEPT`). In whole
/// seconds, rounded up to when the kernel would have answered its SYN once more: 1, 3, 7, ... A client is connected meanwhile and
/// notices nothing; one that has left is shown at once.
///
/// # Errors
/// Those of the kernel: connections are shown as they come.
pub fn defer_accept(listener: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    set(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one `int` from where `value` stands; the socket is open while it is borrowed.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        (ours, theirs)
    }

    async fn is_readable(socket: &TcpStream) -> bool {
        timeout(Duration::from_millis(50), socket.readable())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn less_does_not_count_and_enough_does() {
        let (mut ours, mut theirs) = pair().await;
        low_water(ours.as_fd(), 10).unwrap();
        theirs.write_all(b"123456789").await.unwrap();
        assert!(!is_readable(&ours).await);
        theirs.write_all(b"0").await.unwrap();
        assert!(is_readable(&ours).await);
        let mut got = [0; 10];
        ours.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"1234567890");
    }

    /// Connects, and how long it takes until the listener shows it to `after` the client said or did something.
    async fn shown(after: impl AsyncFnOnce(TcpStream) -> Option<TcpStream>) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        defer_accept(listener.as_fd(), Duration::from_secs(1)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(
            timeout(Duration::from_millis(100), listener.accept())
                .await
                .is_err()
        );
        let begun = Instant::now();
        let _open = after(ours).await;
        listener.accept().await.unwrap();
        begun.elapsed()
    }

    #[tokio::test]
    async fn a_connection_is_shown_when_its_client_speaks_or_leaves_or_has_been_silent_for_long() {
        let speaks = async |mut ours: TcpStream| {
            ours.write_all(b"hello").await.unwrap();
            Some(ours)
        };
        assert!(shown(speaks).await < Duration::from_millis(100));
        assert!(shown(async |_| None).await < Duration::from_millis(100));
        let silent = shown(async |ours| Some(ours)).await;
        assert!(
            (Duration::from_millis(500)..Duration::from_secs(5)).contains(&silent),
            "{silent:?}"
        );
    }

    #[tokio::test]
    async fn what_has_come_counts_as_soon_as_it_is_enough() {
        let (ours, mut theirs) = pair().await;
        low_water(ours.as_fd(), 100).unwrap();
        theirs.write_all(b"some").await.unwrap();
        assert!(!is_readable(&ours).await);
        low_water(ours.as_fd(), 1).unwrap();
        assert!(is_readable(&ours).await);
    }

    #[tokio::test]
    async fn the_end_counts_whatever_has_come() {
        let (mut ours, mut theirs) = pair().await;
        low_water(ours.as_fd(), 100).unwrap();
        theirs.write_all(b"bye").await.unwrap();
        drop(theirs);
        assert!(is_readable(&ours).await);
        let mut got = Vec::new();
        ours.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"bye");
    }
}

//! How much must have come before a TCP connection counts as readable (`SO_RCVLOWAT`).
//!
//! The kernel then wakes its reader once for several small messages. The end of the connection and a fault always count; reading takes
//! what is there at any time. Lowered to what has come already, it counts at once (Linux since 4.18).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets it, in bytes; 1 is the usual. Sockets other than TCP's take no notice.
///
/// # Errors
/// Those of the kernel: it stays as it was.
pub fn set(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads one `int` from where `bytes` stands; the socket is open while it is borrowed.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

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
        set(ours.as_fd(), 10).unwrap();
        theirs.write_all(b"123456789").await.unwrap();
        assert!(!is_readable(&ours).await);
        theirs.write_all(b"0").await.unwrap();
        assert!(is_readable(&ours).await);
        let mut got = [0; 10];
        ours.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"1234567890");
    }

    #[tokio::test]
    async fn what_has_come_counts_as_soon_as_it_is_enough() {
        let (ours, mut theirs) = pair().await;
        set(ours.as_fd(), 100).unwrap();
        theirs.write_all(b"some").await.unwrap();
        assert!(!is_readable(&ours).await);
        set(ours.as_fd(), 1).unwrap();
        assert!(is_readable(&ours).await);
    }

    #[tokio::test]
    async fn the_end_counts_whatever_has_come() {
        let (mut ours, mut theirs) = pair().await;
        set(ours.as_fd(), 100).unwrap();
        theirs.write_all(b"bye").await.unwrap();
        drop(theirs);
        assert!(is_readable(&ours).await);
        let mut got = Vec::new();
        ours.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"bye");
    }
}

//! Writes to many sockets in one system call.
//!
//! The kernel's asynchronous I/O (`io_submit`) carries a write to a non-blocking socket out at once, and one call takes
//! many of them. What that saves is less the way into the kernel than the way out of it: behind each single `send` the peer
//! that was woken takes the processor; behind a batch all of them have something to do. Of the two interfaces
//! that can do this, `io_uring` is forbidden by the usual seccomp profiles of containers, this one is allowed.
//!
//! The only unsafe code of the workspace: four system calls that no library wraps for sockets.
#![allow(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most writes of one call; more are done in several.
pub const WRITES_MAX: usize = 64;

/// `IOCB_CMD_PWRITEV` of `linux/aio_abi.h`.
const PWRITEV: u16 = 8;

/// `struct iocb` of `linux/aio_abi.h`, on machines with the low byte first.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Control {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// `struct io_event` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// One write of a batch.
pub struct Write<'a> {
    /// A stream socket that does not block.
    pub socket: BorrowedFd<'a>,
    /// What is to be written.
    pub pieces: &'a [IoSlice<'a>],
}

/// The kernel's side of it.
#[derive(Debug)]
pub struct Batch {
    context: libc::c_ulong,
}

impl Batch {
    /// Asks the kernel for room for [`WRITES_MAX`] writes.
    ///
    /// # Errors
    /// Where the kernel has no such call, forbids it, or has no room left (`fs.aio-max-nr`).
    pub fn new() -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one `aio_context_t` to where `context` stands.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, WRITES_MAX, &raw mut context) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { context })
    }

    /// Writes each what its socket takes at once, and tells for each, in order, how much that was. Those the kernel was not
    /// asked about end with [`ErrorKind::WouldBlock`], as those whose socket is full. No socket may be named twice: the second
    /// write could go out although the first did not go out whole.
    ///
    /// A socket that blocks holds the thread up until it takes everything. Whose program does not ignore SIGPIPE, as those in
    /// Rust do, is ended by it when a peer is gone.
    pub fn write(&mut self, writes: &[Write<'_>], mut told: impl FnMut(usize, io::Result<usize>)) {
        if let [write] = writes {
            return told(0, one(write));
        }
        for (n, part) in writes.chunks(WRITES_MAX).enumerate() {
            let results = self.submit(part);
            for (i, result) in results[..part.len()].iter().enumerate() {
                told(
                    n * WRITES_MAX + i,
                    match *result {
                        NOT_TRIED => Err(ErrorKind::WouldBlock.into()),
                        n => usize::try_from(n).map_err(|_| {
                            io::Error::from_raw_os_error(i32::try_from(-n).unwrap_or(libc::EIO))
                        }),
                    },
                );
            }
        }
    }

    fn submit(&mut self, writes: &[Write<'_>]) -> [i64; WRITES_MAX] {
        let mut results = [NOT_TRIED; WRITES_MAX];
        let mut controls = [Control::default(); WRITES_MAX];
        let mut list = [std::ptr::null_mut::<Control>(); WRITES_MAX];
        for (n, write) in writes.iter().enumerate() {
            let control = &mut controls[n];
            control.data = n as u64;
            control.opcode = PWRITEV;
            control.fd = u32::try_from(write.socket.as_raw_fd()).unwrap_or(u32::MAX);
            control.buffer = write.pieces.as_ptr() as u64;
            control.bytes = write.pieces.len() as u64;
            list[n] = control;
        }
        // SAFETY: `list` holds as many pointers to valid control blocks as are announced. Each names a socket that is open
        // while `writes` is borrowed, and as many `iovec` (`IoSlice` has their form) of readable memory. The kernel is done with
        // all of them when the call returns: a write to a socket that does not block is carried out in it or refused.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, writes.len(), list.as_mut_ptr()) };
        let mut owed = usize::try_from(taken).unwrap_or(0);
        while owed > 0 {
            let mut events = [Event::default(); WRITES_MAX];
            // SAFETY: there is room for as many events as are asked for. No time limit: all of them are there.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    owed,
                    owed,
                    events.as_mut_ptr(),
                    std::ptr::null_mut::<libc::timespec>(),
                )
            };
            let got = usize::try_from(got).unwrap_or(0);
            for event in &events[..got] {
                if let Some(result) = usize::try_from(event.data).ok().and_then(|n| results.get_mut(n)) {
                    *result = event.result;
                }
            }
            owed -= got.min(owed);
        }
        results
    }
}

/// A single write needs no batch.
fn one(write: &Write<'_>) -> io::Result<usize> {
    // SAFETY: `IoSlice` has the form of `iovec`; the kernel only reads what it names.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = write.pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = write.pieces.len() as _;
    // SAFETY: as above; the socket is open while `write` is borrowed.
    let sent = unsafe {
        libc::sendmsg(
            write.socket.as_raw_fd(),
            &raw const message,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The kernel was not asked. Its own errors are above -4096.
const NOT_TRIED: i64 = i64::MIN;

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: nothing is under way in it, and it is not used again.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn each_socket_gets_its_own_bytes_whatever_the_number() {
        let mut batch = Batch::new().unwrap();
        for count in [0, 1, 2, 63, 64, 65, 200] {
            let mut pairs: Vec<_> = (0..count).map(|_| pair()).collect();
            let texts: Vec<_> = (0..count)
                .map(|n| (format!("text {n} "), format!("of {count}")))
                .collect();
            let pieces: Vec<_> = texts
                .iter()
                .map(|(a, b)| [IoSlice::new(a.as_bytes()), IoSlice::new(b.as_bytes())])
                .collect();
            let writes: Vec<_> = pairs
                .iter()
                .zip(&pieces)
                .map(|((ours, _), pieces)| Write {
                    socket: ours.as_fd(),
                    pieces,
                })
                .collect();
            let mut told = 0;
            batch.write(&writes, |n, result| {
                assert_eq!(n, told);
                assert_eq!(result.unwrap(), texts[n].0.len() + texts[n].1.len());
                told += 1;
            });
            assert_eq!(told, count);
            for ((_, theirs), (a, b)) in pairs.iter_mut().zip(&texts) {
                let mut read = vec![0; a.len() + b.len()];
                theirs.read_exact(&mut read).unwrap();
                assert_eq!(read, [a.as_bytes(), b.as_bytes()].concat());
            }
        }
    }

    #[test]
    fn a_full_socket_and_one_whose_peer_is_gone_concern_nobody_else() {
        let mut batch = Batch::new().unwrap();
        let (full, mut reader) = pair();
        let (dead, peer) = pair();
        drop(peer);
        let (well, mut theirs) = pair();
        let large = vec![7; 8 << 20];
        let (large, small) = ([IoSlice::new(&large)], [IoSlice::new(b"ok")]);
        let write = |socket, pieces| Write { socket, pieces };
        let mut results = Vec::new();
        let writes = [
            write(full.as_fd(), &large[..]),
            write(dead.as_fd(), &small[..]),
            write(well.as_fd(), &small[..]),
        ];
        batch.write(&writes, |_, result| results.push(result));
        batch.write(
            &[write(full.as_fd(), &small[..]), write(dead.as_fd(), &small[..])],
            |_, result| results.push(result),
        );
        let part = *results[0].as_ref().unwrap();
        assert!(part > 0 && part < 8 << 20);
        assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(*results[2].as_ref().unwrap(), 2);
        assert_eq!(results[3].as_ref().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(results[4].as_ref().unwrap_err().kind(), ErrorKind::BrokenPipe);
        let mut read = vec![0; part];
        reader.read_exact(&mut read).unwrap();
        assert!(read.iter().all(|b| *b == 7));
        let mut read = [0; 2];
        theirs.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"ok");
    }
}

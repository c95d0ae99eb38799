//! Writes to many sockets in one system call.
//!
//! The kernel's asynchronous I/O (`io_submit`) carries a write to a non-blocking socket out at once, and one call takes
//! many of them. What that saves is less the way into the kernel than the way out of it: behind each single `send` the peer
//! that was woken takes the processor; behind a batch all of them have something to do. Of the two interfaces
//! that can do this, `io_uring` is forbidden by the usual seccomp profiles of containers, this one is allowed.
//!
//! Most of the unsafe code of the workspace: four system calls that no library wraps for sockets. (Another one is in
//! [`crate::sockopt`]; the proxy borrows a socket by its number, in `plane/slot`.)
#![allow(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockRef;

/// Most writes of one call; more are done in several.
pub const WRITES_MAX: usize = 64;
/// Most pieces of one write.
pub const PIECES_MAX: usize = 4;

/// `IOCB_CMD_PWRITE` of `linux/aio_abi.h`: one piece, which saves the kernel from fetching a list.
const PWRITE: u16 = 1;
/// `IOCB_CMD_PWRITEV` of `linux/aio_abi.h`.
const PWRITEV: u16 = 8;

/// `struct iocb` of `linux/aio_abi.h`, on machines with the low byte first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
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
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// One write of a batch.
pub struct Write<'a> {
    socket: BorrowedFd<'a>,
    pieces: [IoSlice<'a>; PIECES_MAX],
    count: usize,
}

impl<'a> Write<'a> {
    /// Of nothing yet, to a stream socket that does not block.
    #[must_use]
    pub fn to(socket: BorrowedFd<'a>) -> Self {
        Self {
            socket,
            pieces: [IoSlice::new(&[]); PIECES_MAX],
            count: 0,
        }
    }

    /// Adds what follows what is there. False: there are [`PIECES_MAX`] pieces already.
    pub fn push(&mut self, piece: &'a [u8]) -> bool {
        let Some(free) = self.pieces.get_mut(self.count) else {
            return false;
        };
        *free = IoSlice::new(piece);
        self.count += 1;
        true
    }
}

/// The kernel's side of it.
#[derive(Debug)]
pub struct Batch {
    context: libc::c_ulong,
    controls: Box<[Control; WRITES_MAX]>,
    events: Box<[Event; WRITES_MAX]>,
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
        Ok(Self {
            context,
            controls: Box::new([Control::default(); WRITES_MAX]),
            events: Box::new([Event::default(); WRITES_MAX]),
        })
    }

    /// Writes each what its socket takes at once, and tells for each, by its place, how much that was. Those the kernel was not
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
            let first = n * WRITES_MAX;
            let taken = self.submit(part);
            let mut owed = taken;
            while owed > 0 {
                let got = self.results(owed);
                for event in &self.events[..got] {
                    let place = usize::try_from(event.data).unwrap_or(usize::MAX);
                    told(first.saturating_add(place), result(event.result));
                }
                owed -= got.min(owed);
            }
            for place in taken..part.len() {
                told(first + place, Err(ErrorKind::WouldBlock.into()));
            }
        }
    }

    /// How many the kernel has taken, from the first on.
    fn submit(&mut self, writes: &[Write<'_>]) -> usize {
        let mut list = [std::ptr::null_mut::<Control>(); WRITES_MAX];
        for (n, (write, control)) in writes.iter().zip(self.controls.iter_mut()).enumerate() {
            control.data = n as u64;
            control.fd = u32::try_from(write.socket.as_raw_fd()).unwrap_or(u32::MAX);
            (control.opcode, control.buffer, control.bytes) = match &write.pieces[..write.count] {
                [piece] => (PWRITE, piece.as_ptr() as u64, piece.len() as u64),
                pieces => (PWRITEV, pieces.as_ptr() as u64, pieces.len() as u64),
            };
            list[n] = control;
        }
        // SAFETY: `list` holds as many pointers to valid control blocks as are announced. Each names a socket that is open
        // while `writes` is borrowed, and readable memory, or as many `iovec` (`IoSlice` has their form) of it. The kernel is done with
        // all of them when the call returns: a write to a socket that does not block is carried out in it or refused.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, writes.len(), list.as_mut_ptr()) };
        usize::try_from(taken).unwrap_or(0)
    }

    /// Fetches the results of `owed` writes: as many are there.
    fn results(&mut self, owed: usize) -> usize {
        // SAFETY: there is room for as many events as are asked for. No time limit: all of them are there.
        let got = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                owed,
                owed,
                self.events.as_mut_ptr(),
                std::ptr::null_mut::<libc::timespec>(),
            )
        };
        usize::try_from(got).unwrap_or(0)
    }
}

/// What the kernel says of a write: bytes, or an error below zero.
fn result(said: i64) -> io::Result<usize> {
    usize::try_from(said).map_err(|_| io::Error::from_raw_os_error(i32::try_from(-said).unwrap_or(libc::EIO)))
}

/// A single write needs no batch.
fn one(write: &Write<'_>) -> io::Result<usize> {
    let socket = SockRef::from(&write.socket);
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    match &write.pieces[..write.count] {
        [piece] => socket.send_with_flags(piece, flags),
        pieces => socket.send_vectored_with_flags(pieces, flags),
    }
}

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
            let writes: Vec<_> = pairs
                .iter()
                .zip(&texts)
                .map(|((ours, _), (a, b))| {
                    let mut write = Write::to(ours.as_fd());
                    assert!(write.push(a.as_bytes()) && write.push(b.as_bytes()));
                    write
                })
                .collect();
            let mut told = vec![0; count];
            batch.write(&writes, |n, result| {
                assert_eq!(result.unwrap(), texts[n].0.len() + texts[n].1.len());
                told[n] += 1;
            });
            assert_eq!(told, vec![1; count]);
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
        let write = |socket, bytes| {
            let mut write = Write::to(socket);
            write.push(bytes);
            write
        };
        let mut results: [Option<io::Result<usize>>; 5] = Default::default();
        let writes = [
            write(full.as_fd(), &large[..]),
            write(dead.as_fd(), b"ok"),
            write(well.as_fd(), b"ok"),
        ];
        batch.write(&writes, |n, result| results[n] = Some(result));
        let writes = [write(full.as_fd(), b"ok"), write(dead.as_fd(), b"ok")];
        batch.write(&writes, |n, result| results[3 + n] = Some(result));
        let results = results.map(Option::unwrap);
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

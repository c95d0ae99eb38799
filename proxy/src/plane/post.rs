//! The post: what goes out in one turn leaves together, requests to servers first, then replies to clients.
//!
//! Sessions and workers lay in, the post's task takes all of it to the kernel in one call when every task before it in the turn
//! has run, then wakes the sessions whose reply has ended. What a socket does not take at once, and every fault, is the business
//! of its session or its worker's task.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use pgnet::batch::{Batch, WRITES_MAX, Write};
use pgnet::stream::Stream;
use smallvec::SmallVec;
use tracing::info;

use super::counters::Counters;
use super::slot::{self, Slot};
use super::worker::{self, Worker};

/// Who has something to send.
pub(super) enum Letter {
    /// A worker, to its server.
    Requests(Rc<Worker>),
    /// A session's slot, to its client.
    Reply(Rc<Slot>),
}

/// Looked at while it is written.
enum Opened<'a> {
    Requests(Ref<'a, worker::Inner>, Ref<'a, Stream>),
    Reply(Ref<'a, slot::Inner>),
}

impl Letter {
    fn open(&self) -> Option<Opened<'_>> {
        match self {
            Self::Requests(worker) => worker
                .look()
                .map(|(inner, stream)| Opened::Requests(inner, stream)),
            Self::Reply(slot) => slot.look().map(Opened::Reply),
        }
    }
}

impl Opened<'_> {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Requests(_, stream) => stream.plain(),
            Self::Reply(inner) => inner.socket(),
        }
    }

    fn write(&self) -> Option<Write<'_>> {
        let mut write = Write::to(self.socket()?);
        match self {
            Self::Requests(inner, _) => {
                write.push(&inner.out);
            }
            Self::Reply(inner) => inner
                .pieces()
                .take_while(|piece| write.push(piece))
                .for_each(drop),
        }
        Some(write)
    }
}

/// See the module.
pub(super) struct Post {
    /// `None`: the kernel does not want it, everybody writes by himself.
    batch: RefCell<Option<Batch>>,
    requests: RefCell<Vec<Letter>>,
    replies: RefCell<Vec<Letter>>,
    waker: Cell<Option<Waker>>,
    counters: Arc<Counters>,
}

impl Post {
    /// With the kernel's consent, or without. Starts its task.
    pub(super) fn start(counters: Arc<Counters>) -> Rc<Self> {
        let batch = Batch::new()
            .inspect_err(|error| info!(%error, "What goes out is sent piece by piece: no asynchronous I/O here. EAGAIN: raise fs.aio-max-nr"))
            .ok();
        let post = Rc::new(Self {
            batch: RefCell::new(batch),
            requests: RefCell::default(),
            replies: RefCell::default(),
            waker: Cell::default(),
            counters,
        });
        tokio::task::spawn_local(post.clone().run());
        post
    }

    /// Whether it is open: else nothing may be laid in.
    pub(super) fn is_open(&self) -> bool {
        self.batch.borrow().is_some()
    }

    /// This leaves with what else the turn brings. Nobody may have two letters here.
    pub(super) fn lay_in(&self, letter: Letter) {
        match letter {
            Letter::Requests(_) => self.requests.borrow_mut().push(letter),
            Letter::Reply(_) => self.replies.borrow_mut().push(letter),
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn run(self: Rc<Self>) {
        poll_fn(|cx| {
            self.carry();
            self.waker.set(Some(cx.waker().clone()));
            Poll::<()>::Pending
        })
        .await;
    }

    fn carry(&self) {
        let mut batch = self.batch.borrow_mut();
        let Some(batch) = batch.as_mut() else { return };
        let mut letters = self.requests.borrow_mut();
        letters.append(&mut self.replies.borrow_mut());
        for part in letters.chunks(WRITES_MAX) {
            self.carry_part(batch, part);
        }
        letters.clear();
    }

    fn carry_part(&self, batch: &mut Batch, letters: &[Letter]) {
        let mut sent: SmallVec<[Option<usize>; WRITES_MAX]> = SmallVec::from_elem(None, letters.len());
        {
            let mut opened: SmallVec<[Option<Opened<'_>>; WRITES_MAX]> = SmallVec::new();
            for letter in letters {
                opened.push(letter.open());
            }
            let mut places: SmallVec<[usize; WRITES_MAX]> = SmallVec::new();
            let mut writes: SmallVec<[Write<'_>; WRITES_MAX]> = SmallVec::new();
            for (place, open) in opened.iter().enumerate() {
                if let Some(write) = open.as_ref().and_then(Opened::write) {
                    places.push(place);
                    writes.push(write);
                }
            }
            batch.write(&writes, |n, result| sent[places[n]] = Some(result.unwrap_or(0)));
        }
        for (letter, n) in letters.iter().zip(sent) {
            match letter {
                Letter::Requests(worker) => worker.carried(n),
                Letter::Reply(slot) => {
                    self.counters.bytes_out.add(n.unwrap_or(0) as u64);
                    slot.carried(n.unwrap_or(0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWrite};
    use tokio::net::UnixStream;

    use super::super::slot::{End, Open, Settled};
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap()
            .block_on(test)
    }

    fn start() -> Rc<Post> {
        Post::start(Arc::new(Counters::default()))
    }

    /// A slot that is open to a socket, and the client's end of it.
    fn client(post: &Rc<Post>) -> (Rc<Slot>, Stream, UnixStream, Open) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stream = Stream::Unix(ours);
        let slot = Rc::new(Slot::default());
        let open = slot.open(post, &stream, 0).unwrap();
        (slot, stream, theirs, open)
    }

    fn done() -> End {
        End::Done {
            status: b'I',
            error: false,
            settled: Settled::default(),
        }
    }

    #[test]
    fn every_client_gets_its_own_reply_whatever_their_number() {
        run(async {
            let post = start();
            for count in [1, 2, 64, 65, 300] {
                let mut clients: Vec<_> = (0..count).map(|_| client(&post)).collect();
                for (n, (slot, ..)) in clients.iter().enumerate() {
                    slot.push(Bytes::from(format!("row of {n};")));
                    slot.push(Bytes::from(format!("end of {n}")));
                    slot.end(done());
                }
                for (n, (slot, _, theirs, _)) in clients.iter_mut().enumerate() {
                    let expected = format!("row of {n};end of {n}");
                    let mut got = vec![0; expected.len()];
                    theirs.read_exact(&mut got).await.unwrap();
                    assert_eq!(got, expected.as_bytes());
                    assert!(slot.is_drained());
                    assert!(matches!(slot.take_end(), Some(End::Done { .. })));
                }
            }
        });
    }

    #[test]
    fn the_session_is_woken_once_its_reply_has_left() {
        run(async {
            let post = start();
            let (slot, _stream, _theirs, _open) = client(&post);
            slot.push(Bytes::from_static(b"answer"));
            slot.end(done());
            poll_fn(|cx| {
                if slot.is_drained() {
                    return Poll::Ready(());
                }
                slot.register(cx);
                Poll::Pending
            })
            .await;
            assert!(slot.take_end().is_some());
        });
    }

    #[test]
    fn a_session_that_has_left_is_not_written_to_whoever_has_its_socket_now() {
        run(async {
            let post = start();
            let (slot, stream, mut theirs, open) = client(&post);
            slot.push(Bytes::from_static(b"of the one who left"));
            drop(open);
            let Stream::Unix(socket) = stream else { return };
            tokio::task::yield_now().await;
            drop(socket);
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"");
            assert!(slot.came_back());
        });
    }

    #[test]
    fn what_a_full_socket_does_not_take_is_its_sessions_and_nobody_elses_waits() {
        run(async {
            let post = start();
            let (full, mut stream, mut reader, _open_full) = client(&post);
            let (well, _stream, mut theirs, _open) = client(&post);
            let mut filled = 0;
            while let Ok(n) = stream.try_write(&[1; 4096]) {
                filled += n;
            }
            full.push(Bytes::from_static(b"later"));
            well.push(Bytes::from_static(b"now"));
            let mut got = [0; 3];
            theirs.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"now");
            assert!(full.came_back());
            reader.read_exact(&mut vec![0; filled]).await.unwrap();
            let written = poll_fn(|cx| {
                full.with_pieces(|pieces| Pin::new(&mut stream).poll_write(cx, &pieces[0]))
                    .unwrap()
            });
            assert_eq!(written.await.unwrap(), 5);
        });
    }
}

//! The one channel from a worker back to the session it serves: chunks of the reply, then how the request ended.

use std::cell::{Ref, RefCell, RefMut};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use pgnet::fields::ErrorFields;
use pgnet::stream::Stream;

use super::fifo::Fifo;
use super::post::{Letter, Post};
use super::turn;
use super::worker::{Shapes, Worker};

/// Pieces of a reply that are sent together.
const PIECES_MAX: usize = 16;

/// Largest reply that goes by the post, in bytes: more is written as it comes.
const LETTER_MAX: usize = 16 << 10;

/// What the server said of prepared statements in answer to a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Settled {
    /// How many `1` and `3` the client was shown.
    pub(super) acks: u32,
    /// The error was that of a Parse of the client's.
    pub(super) parse_failed: bool,
    /// How many PREPARE, DEALLOCATE and DISCARD ALL succeeded, where they are counted.
    pub(super) named: u16,
    /// What the statements the client had described look like, in its order.
    pub(super) shapes: Shapes,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// With `Z`: its status, whether an error came before, and what is settled about prepared statements.
    Done {
        status: u8,
        error: bool,
        settled: Settled,
    },
    /// Not at all, and no byte of a reply went out: run it again elsewhere.
    Repeat,
    /// The worker is gone. `said`: the server's last words; `started`: it may have run; `clean_cut`: what was passed on
    /// ends between two messages.
    Lost {
        said: Option<Rc<ErrorFields>>,
        started: bool,
        clean_cut: bool,
    },
    /// Cancelled before the server began it.
    Cancelled,
}

/// What of a slot the post has to know.
#[derive(Default)]
pub(super) struct Inner {
    chunks: Fifo<Bytes>,
    queued: usize,
    ended: Fifo<End>,
    copy_in: Option<bool>,
    waker: Option<Waker>,
    /// Who waits for room here.
    blocked: Option<Weak<Worker>>,
    /// Where replies go by the post.
    outlet: Option<Outlet>,
    /// They are on their way.
    posted: bool,
}

struct Outlet {
    post: Rc<Post>,
    socket: RawFd,
    /// Room enough for a worker that waits for it, in bytes.
    low_water: u32,
}

/// As long as it lives, replies leave by the post. It must not outlive the session's socket.
pub(super) struct Open(Rc<Slot>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().outlet = None;
    }
}

impl Inner {
    /// What is to be sent, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(|chunk| &chunk[..])
    }

    /// Where it is sent.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        let outlet = self.outlet.as_ref()?;
        // SAFETY: `Open` takes the outlet away before the session's socket is closed.
        #[expect(unsafe_code, reason = "see above")]
        Some(unsafe { BorrowedFd::borrow_raw(outlet.socket) })
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Slot {
    inner: RefCell<Inner>,
}

impl Slot {
    /// Takes a piece of the reply. Returns the bytes not yet sent to the client.
    pub(super) fn push(self: &Rc<Self>, chunk: Bytes) -> usize {
        let mut inner = self.inner.borrow_mut();
        inner.queued += chunk.len();
        inner.chunks.push(chunk);
        if inner.queued <= LETTER_MAX
            && !turn::is_lonely()
            && let Some(outlet) = &inner.outlet
        {
            if !inner.posted {
                outlet.post.lay_in(Letter::Reply(self.clone()));
                inner.posted = true;
            }
        } else {
            Self::wake(&mut inner);
        }
        inner.queued
    }

    /// Replies go by the post while the guard lives: straight to this socket, without the session. `None` where they cannot.
    pub(super) fn open(self: &Rc<Self>, post: &Rc<Post>, stream: &Stream, low_water: usize) -> Option<Open> {
        let socket = stream.plain()?.as_raw_fd();
        if !post.is_open() {
            return None;
        }
        self.inner.borrow_mut().outlet = Some(Outlet {
            post: post.clone(),
            socket,
            low_water: u32::try_from(low_water).unwrap_or(u32::MAX),
        });
        Some(Open(self.clone()))
    }

    /// Something stands here that the post could not carry.
    pub(super) fn came_back(&self) -> bool {
        let inner = self.inner.borrow();
        !inner.posted && !inner.chunks.is_empty()
    }

    /// For the post: what is to be sent, and where.
    pub(super) fn look(&self) -> Option<Ref<'_, Inner>> {
        let inner = self.inner.borrow();
        (!inner.chunks.is_empty() && inner.outlet.is_some()).then_some(inner)
    }

    /// The post has carried `n` bytes. The session is woken when it has something to do.
    pub(super) fn carried(&self, n: usize) {
        let mut inner = self.inner.borrow_mut();
        inner.posted = false;
        let low_water = inner
            .outlet
            .as_ref()
            .map_or(0, |outlet| outlet.low_water as usize);
        drop(inner);
        if n > 0 {
            self.sent(n, low_water);
        }
        let mut inner = self.inner.borrow_mut();
        if !inner.chunks.is_empty() || !inner.ended.is_empty() {
            Self::wake(&mut inner);
        }
    }

    /// A request of the session is over.
    pub(super) fn end(&self, end: End) {
        let mut inner = self.inner.borrow_mut();
        inner.ended.push(end);
        if !inner.posted {
            Self::wake(&mut inner);
        }
    }

    /// The server asks for CopyData. `reopened`: the Sync sent ahead is ignored.
    pub(super) fn set_copy_in(&self, reopened: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.copy_in = Some(reopened);
        Self::wake(&mut inner);
    }

    /// Whether the server asked for CopyData since the last call, and whether the request is open again.
    pub(super) fn take_copy_in(&self) -> Option<bool> {
        self.inner.borrow_mut().copy_in.take()
    }

    /// `worker` does not read on until the client has taken what is queued.
    pub(super) fn block(&self, worker: Weak<Worker>) {
        self.inner.borrow_mut().blocked = Some(worker);
    }

    /// Something to send, or an end to act on, or a wake-up later.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        if !inner.chunks.is_empty() || !inner.ended.is_empty() || inner.copy_in.is_some() {
            return Poll::Ready(());
        }
        match &inner.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => inner.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Wakes the session: something it waits for has come about elsewhere.
    pub(super) fn nudge(&self) {
        Self::wake(&mut self.inner.borrow_mut());
    }

    /// Registers for a wake-up without looking.
    pub(super) fn register(&self, cx: &mut Context<'_>) {
        let mut inner = self.inner.borrow_mut();
        match &inner.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => inner.waker = Some(cx.waker().clone()),
        }
    }

    /// Gives `write` what is to be sent, in one piece or in several; `None`: there is nothing.
    pub(super) fn with_pieces<R>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> R) -> Option<R> {
        let inner = self.inner.borrow();
        if inner.chunks.is_empty() {
            return None;
        }
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (piece, chunk) in pieces.iter_mut().zip(inner.chunks.iter()) {
            *piece = IoSlice::new(chunk);
            count += 1;
        }
        Some(write(&pieces[..count]))
    }

    /// Takes the first piece of the reply away.
    pub(super) fn pop(&self) -> Option<Bytes> {
        let mut inner = self.inner.borrow_mut();
        let piece = inner.chunks.pop()?;
        inner.queued -= piece.len().min(inner.queued);
        Self::unblock(inner);
        Some(piece)
    }

    /// `n` bytes went out. Lets a worker that waits for room read on.
    pub(super) fn sent(&self, mut n: usize, low_water: usize) {
        let mut inner = self.inner.borrow_mut();
        inner.queued -= n.min(inner.queued);
        while n > 0 {
            let Some(front) = inner.chunks.first_mut() else {
                break;
            };
            if n < front.len() {
                bytes::Buf::advance(front, n);
                break;
            }
            n -= front.len();
            inner.chunks.pop();
        }
        if inner.queued <= low_water {
            Self::unblock(inner);
        }
    }

    /// Whether everything was sent.
    pub(super) fn is_drained(&self) -> bool {
        self.inner.borrow().chunks.is_empty()
    }

    /// The next request that ended.
    pub(super) fn take_end(&self) -> Option<End> {
        self.inner.borrow_mut().ended.pop()
    }

    /// Forgets everything: the session is leaving. Lets a blocked worker go on.
    pub(super) fn clear(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.chunks.clear();
        inner.ended.clear();
        inner.queued = 0;
        inner.copy_in = None;
        inner.waker = None;
        Self::unblock(inner);
    }

    /// Lets the worker that waits for room here read on.
    fn unblock(mut inner: RefMut<'_, Inner>) {
        let blocked = inner.blocked.take().and_then(|worker| worker.upgrade());
        drop(inner);
        if let Some(worker) = blocked {
            worker.unblock();
        }
    }

    fn wake(inner: &mut Inner) {
        if let Some(waker) = &inner.waker {
            waker.wake_by_ref();
        }
    }
}

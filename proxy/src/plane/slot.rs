//! The one channel from a worker back to the session it serves: chunks of the reply, then how the request ended.

use std::cell::{RefCell, RefMut};
use std::io::IoSlice;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use pgnet::fields::ErrorFields;

use super::fifo::Fifo;
use super::worker::{Shapes, Worker};

/// Pieces of a reply that are sent together.
const PIECES_MAX: usize = 16;

/// How a request ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// With `Z`: its status, whether an error came before, how many `1` and `3` the client was shown.
    Done {
        status: u8,
        error: bool,
        acks: u32,
        /// What the statements the client had described look like, in its order.
        shapes: Shapes,
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

#[derive(Default)]
struct Inner {
    chunks: Fifo<Bytes>,
    queued: usize,
    ended: Fifo<End>,
    copy_in: Option<bool>,
    waker: Option<Waker>,
    /// Who waits for room here.
    blocked: Option<Weak<Worker>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Slot {
    inner: RefCell<Inner>,
}

impl Slot {
    /// Takes a piece of the reply. Returns the bytes not yet sent to the client.
    pub(super) fn push(&self, chunk: Bytes) -> usize {
        let mut inner = self.inner.borrow_mut();
        inner.queued += chunk.len();
        inner.chunks.push(chunk);
        Self::wake(&mut inner);
        inner.queued
    }

    /// A request of the session is over.
    pub(super) fn end(&self, end: End) {
        let mut inner = self.inner.borrow_mut();
        inner.ended.push(end);
        Self::wake(&mut inner);
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

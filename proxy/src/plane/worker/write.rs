//! What leaves a worker: by the post with what else the turn brings, at once, or by the worker's task as there is room.

use std::cell::Ref;
use std::rc::Rc;
use std::task::Waker;

use bytes::BytesMut;
use pgnet::stream::Stream;

use super::super::post::Letter;
use super::{Inner, READ_MAX, State, Worker};

/// Known reads a server has not answered yet, with which it is busy until we look again.
const ENOUGH: usize = 24;

impl Worker {
    /// What was appended leaves at the end of this turn, with what others have to send.
    pub(in crate::plane) fn write_soon(self: &Rc<Self>) {
        let mut inner = self.inner.borrow_mut();
        match &self.post {
            // What did not go at once is written by the task, as there is room.
            Some(post) if !inner.half_sent => {
                if !inner.posted {
                    inner.posted = true;
                    post.lay_in(Letter::Requests(self.clone()));
                }
            }
            _ => inner.wake(),
        }
    }

    /// For the post: what is to be written now, and where.
    pub(in crate::plane) fn look(&self) -> Option<(Ref<'_, Inner>, Ref<'_, Stream>)> {
        let inner = self.inner.borrow();
        if inner.out.is_empty() || inner.half_sent || self.has_enough(&inner) {
            return None;
        }
        let stream = Ref::filter_map(self.stream.borrow(), Option::as_ref).ok()?;
        Some((inner, stream))
    }

    /// The post has carried `n` bytes: the rest, if there should be one, is the task's.
    pub(in crate::plane) fn carried(&self, n: Option<usize>) {
        let mut inner = self.inner.borrow_mut();
        inner.posted = false;
        if let Some(n) = n {
            inner.advance(n);
            inner.leave_rest();
        }
        self.gather_more(&inner);
    }

    /// Known reads wait for each other while the server has enough to do: fewer and larger writes, for it and for us.
    pub(super) fn has_enough(&self, inner: &Inner) -> bool {
        self.state.get() == State::Shared && inner.sent() >= ENOUGH && !inner.half_sent
    }

    /// Writes what was appended, without the detour by the worker's task, for whose requests no others are expected to go
    /// with: those of a holder, and of a client that is alone. What the server does not take at once, and any fault, is the
    /// task's.
    pub(in crate::plane) fn write_now(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.out.is_empty() {
            return;
        }
        // Of TLS the task alone knows what is still to be flushed.
        if let Some(stream) = self.stream.borrow_mut().as_mut().filter(|s| !s.is_tls()) {
            while !inner.out.is_empty()
                && let Ok(n @ 1..) = stream.try_write(&inner.out)
            {
                inner.advance(n);
            }
        }
        inner.leave_rest();
    }

    /// Bytes appended and not yet written.
    pub(in crate::plane) fn unwritten(&self) -> usize {
        self.inner.borrow().out.len()
    }

    /// Wakes this task when everything appended is written.
    pub(in crate::plane) fn tell_when_written(&self, waker: &Waker) {
        self.inner.borrow_mut().writing = Some(waker.clone());
    }
}

impl Inner {
    /// Requests the server has not answered yet, of those it has: at least so many.
    pub(super) fn sent(&self) -> usize {
        self.pending.len().saturating_sub(self.unsent)
    }

    /// So much was written.
    pub(super) fn advance(&mut self, n: usize) {
        bytes::Buf::advance(&mut self.out, n);
        self.tail = None;
        self.half_sent = !self.out.is_empty();
    }

    /// What was not taken at once is the task's.
    fn leave_rest(&mut self) {
        if self.out.is_empty() {
            self.all_written();
        } else {
            self.wake();
        }
    }

    /// Nothing is left to be written.
    pub(super) fn all_written(&mut self) {
        self.unsent = 0;
        if let Some(waker) = self.writing.take() {
            waker.wake();
        }
        // The buffer is reused from its start; a large one is given back.
        if self.out.capacity() > READ_MAX {
            self.out = BytesMut::new();
        }
    }
}

//! Joined reads: reads of one shape that leave together share one Sync.
//!
//! A server sends what it has with each ReadyForQuery, and begins and ends a transaction for each Sync: for a short read that is half of
//! what it costs. A read whose neighbour stands unsent at the end of the buffer takes over that one's Sync: both run in one implicit
//! transaction, and each client is shown a ReadyForQuery of its own behind its answer.
//!
//! Nobody can tell, because:
//! - they are known reads, and at the isolation level *read committed* each statement has its own snapshot, taken after all of them were
//!   sent. At other levels nothing is joined ([`crate::classify::Catalog::reads_committed`]);
//! - a failed one ends with its error, and those behind it, which the server skips, are run again: no byte of theirs is out. Its
//!   shape has Syncs of its own for a while;
//! - they are of one shape, so they lock the same tables: together they hold no lock that would not be held while one of them runs;
//! - where one takes its time, everybody of the group goes elsewhere (`pool/watch.rs`): an answer the server has ready and does not send
//!   before the Sync is not waited for. What they left behind is cancelled, so nobody waits for its locks.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use pgnet::frontend;
use smallvec::SmallVec;

use super::super::script::{Op, Step};
use super::super::slot::{End, Slot};
use super::compose::Composer;
use super::{Inner, Purpose, Worker, in_micros};

/// Most reads with one Sync: larger groups leave the server without work while their answers are handed out.
const JOINED_MAX: u32 = 8;
/// What they may be expected to take together: so long the first answer waits for the last.
const TIME_MAX: Duration = Duration::from_micros(400);
/// Length of a Sync.
pub(in crate::plane) const SYNC_LENGTH: usize = 5;
/// ReadyForQuery outside a transaction.
pub(super) const READY_IDLE: Bytes = Bytes::from_static(b"Z\0\0\0\x05I");
/// Texts that fit here are moved without an allocation.
const USUAL_TEXT: usize = 512;

/// The read appended last, as long as nothing was written or appended since: the next may take over its Sync.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// Where it begins and ends in what is to be written.
    start: usize,
    end: usize,
    shape: u64,
    /// It is a Query still.
    is_query: bool,
    /// Reads with its Sync, and what they are expected to take together, in microseconds.
    count: u32,
    expected: u32,
}

/// As what a read would share a Sync with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plane) enum Joins {
    /// It does not.
    Nothing,
    /// A Query of a single statement.
    Query,
    /// A batch that executes one statement.
    Batch,
}

impl Worker {
    /// Appends a known read. `compose` is told whether it stands behind another whose Sync it takes over: a Query then has to be a
    /// batch ([`Composer::query_as_batch`]). It must end with a Query or a Sync. [`Worker::write_soon`] or [`Worker::write_now`] sends it.
    pub(in crate::plane) fn append_read(
        &self,
        slot: Rc<Slot>,
        shape: u64,
        expected: Duration,
        joins: Joins,
        compose: impl FnOnce(&mut Composer<'_>, bool),
    ) {
        let before = match joins {
            Joins::Nothing => None,
            _ => self.inner.borrow_mut().take_over_sync(shape, expected),
        };
        let start = self.inner.borrow().out.len();
        let behind_another = before.is_some();
        self.append(Purpose::Shared, Some(slot), shape, expected, |to| {
            compose(to, behind_another);
        });
        let mut inner = self.inner.borrow_mut();
        inner.tail = None;
        if joins == Joins::Nothing || inner.script.last_request_fails() {
            return;
        }
        let (count, so_far) = before.map_or((0, 0), |tail| (tail.count, tail.expected));
        inner.tail = Some(Tail {
            start,
            end: inner.out.len(),
            shape,
            is_query: joins == Joins::Query && !behind_another,
            count: count + 1,
            expected: so_far + in_micros(expected),
        });
    }

    /// The running read shares its Sync with one behind it: its answer may be ready and not be sent.
    pub(in crate::plane) fn head_is_joined(&self) -> bool {
        self.inner.borrow().script.head_is_joined()
    }

    /// Nobody waits any longer for the reads that share a Sync with the running one, nor for those behind them. True if the server is
    /// to be told to leave it at that. A reply that has begun is waited for: its own rows may be what takes so long.
    pub(in crate::plane) fn give_up_joined(&self, cancel: bool) -> bool {
        let mut inner = self.inner.borrow_mut();
        // First: it has waited longest.
        let begun = inner.pending.front_mut().is_some_and(|head| {
            if !head.forwarded
                && let Some(slot) = head.slot.take()
            {
                slot.end(End::Repeat);
            }
            head.forwarded
        });
        let cancel = cancel && !begun;
        let given_up = std::mem::replace(&mut inner.given_up, cancel);
        drop(inner);
        self.detach_followers();
        cancel && !given_up
    }
}

impl Inner {
    /// Takes the Sync of the read appended last away, if one of this shape may stand behind it.
    fn take_over_sync(&mut self, shape: u64, expected: Duration) -> Option<Tail> {
        let tail = self.tail.take()?;
        let fits = tail.shape == shape
            && tail.end == self.out.len()
            && tail.count < JOINED_MAX
            && tail.expected + in_micros(expected) <= in_micros(TIME_MAX);
        if !fits {
            return None;
        }
        if tail.is_query {
            let text = SmallVec::<[u8; USUAL_TEXT]>::from_slice(&self.out[tail.start + 5..]);
            self.out.truncate(tail.start);
            self.script.pop();
            Composer { inner: self }.query_as_batch(&text);
        } else {
            self.out.truncate(tail.end - SYNC_LENGTH);
            self.script.pop();
        }
        self.script.end_request();
        Some(tail)
    }

    /// An error has ended the running read, and made the server skip `skipped` ones that shared its Sync and that of the one behind
    /// them, which is skipped, too, but for the Sync. They are run again.
    pub(super) fn repeat_skipped(&mut self, skipped: usize, worker: &Worker) {
        for _ in 0..skipped {
            let Some(pending) = self.pending.pop_front() else {
                return;
            };
            worker
                .expected
                .set(worker.expected.get().saturating_sub(pending.expected));
            if let Some(slot) = pending.slot {
                slot.end(End::Repeat);
            }
        }
        if let Some(slot) = self.pending.front_mut().and_then(|last| last.slot.take()) {
            slot.end(End::Repeat);
        }
    }
}

impl Composer<'_> {
    /// The text of a Query, its final zero included, as a batch that brings the same answers, without its Sync.
    pub(in crate::plane) fn query_as_batch(&mut self, text: &[u8]) {
        let out = &mut self.inner.out;
        frontend::parse(out, b"", text.strip_suffix(b"\0").unwrap_or(text), &[]);
        frontend::bind(out, b"", b"", &[], &[], &[]);
        frontend::describe_portal(out, b"");
        frontend::execute(out, b"", 0);
        self.set_unnamed(None);
        self.step(Step::nobody(Op::Parse(None)));
        self.step(Step::nobody(Op::Bind(None)));
        self.step(Step::client(Op::DescribePortal(None)));
        self.step(Step::client(Op::Execute));
    }

    /// A Sync that ends a client's request.
    pub(in crate::plane) fn client_sync(&mut self) {
        frontend::sync(&mut self.inner.out);
        self.step(Step::client(Op::Sync));
    }
}

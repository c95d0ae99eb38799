//! COMMIT and ROLLBACK of a transaction that only read, answered ahead of the server (`worker/ending.rs` says why nobody can tell).

use std::rc::Rc;

use super::super::super::internal;
use super::super::super::slot::Slot;
use super::super::policy::{Answer, is_end};
use super::super::shared::reads_committed;
use super::super::translate;
use super::super::unit::{self, Scan, Unit};
use super::super::{Leave, Session, io};
use super::{Did, Lease};
use crate::classify::{Class, Kind};

impl Session {
    /// Whether a statement of this class, next on the lease, is the end of a transaction that only read.
    pub(super) fn may_end_early(&mut self, lease: &Lease, class: &Class) -> bool {
        is_end(class)
            && lease.did == Did::Read
            && lease.status == b'T'
            && lease.outstanding == 0
            && !lease.worker.batch_is_open()
            && lease.worker.fences.get() == 0
            && !(lease.dirty || lease.brought || lease.notified || lease.pinned)
            && self.card.slot.is_drained()
            && self.former_has_ended()
            && self.thread.setting(|config| config.defer_begin)
            && reads_committed(&self.thread, &lease.pool.database, &self.settings)
    }

    /// Answers the COMMIT or ROLLBACK at the front, of `total` bytes. The worker may be given back.
    pub(super) fn end_early(&mut self, lease: &mut Lease, total: usize, is_batch: bool, class: &Class) {
        let (answer, text) = match class.kind {
            Kind::Commit { .. } => (Answer::Commit, &b"COMMIT"[..]),
            _ => (Answer::Rollback, &b"ROLLBACK"[..]),
        };
        let input = self.input.split_to(total);
        answer.write(&mut self.out, &input, is_batch, &mut self.transaction);
        if is_batch {
            self.note_batch(Some(&lease.pool), &input, false);
        } else {
            self.names.drop_unnamed();
        }
        let ended = Rc::new(Slot::default());
        lease.worker.end_transaction(ended.clone(), text);
        self.ending = Some(ended);
        self.thread.counters.ended_early.add(1);
        lease.ended_early = true;
    }

    /// The same for a batch, if it is here as a whole and nothing else is in it.
    pub(super) fn end_batch_early(&mut self, lease: &mut Lease, class: &Class) -> Result<bool, Leave> {
        let Some(Unit::Batch { total }) =
            Scan::default().next(&self.input, self.effective.limits.max_query_size)?
        else {
            return Ok(false);
        };
        let batch = self.inspect(total)?;
        let alone = batch.single && !batch.obscure && !batch.names;
        if alone {
            self.end_early(lease, total, true, class);
        }
        Ok(alone)
    }

    /// The end of the transaction before, if that was answered ahead of the server, has been confirmed.
    fn former_has_ended(&mut self) -> bool {
        if self.ending.as_ref().is_some_and(|slot| slot.take_end().is_some()) {
            self.ending = None;
        }
        self.ending.is_none()
    }

    /// Whether the message at the front may reach this worker before the end of the client's former transaction is confirmed.
    pub(super) fn may_overtake(&mut self, lease: &Lease, tag: u8, total: usize) -> bool {
        if self.former_has_ended() {
            return true;
        }
        if self
            .ending
            .as_ref()
            .is_some_and(|end| lease.worker.position(end).is_some())
        {
            // It stands behind it.
            return true;
        }
        let Some(body) = self.input.get(5..total) else {
            return false;
        };
        match tag {
            b'Q' => unit::query_text(body).is_ok_and(|text| self.classify(text).is_known_read()),
            b'P' => {
                translate::parse_parts(body).is_ok_and(|(_, text, _)| self.classify(text).is_known_read())
            }
            b'B' => translate::bind_parts(body)
                .ok()
                .and_then(|(_, name, _)| self.names.get(name))
                .is_some_and(|statement| statement.class.borrow().is_known_read()),
            // They concern what was judged.
            b'D' | b'E' | b'C' | b'H' | b'S' => true,
            _ => false,
        }
    }

    /// Waits until the end of the client's former transaction is confirmed, or its server gone.
    pub(super) async fn await_ending(&mut self) -> Result<(), Leave> {
        let Some(slot) = self.ending.take() else {
            return Ok(());
        };
        let ended = internal::ended(&slot);
        let waiting = io::while_here(&self.thread, &self.card, &mut self.stream, &mut self.input, ended);
        // Where its server is gone nothing of it is left either.
        Box::pin(waiting).await.map(drop)
    }
}

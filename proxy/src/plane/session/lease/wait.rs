//! From the worker to the client, and waiting for either: what ended, what it changed, whose patience is over.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;

use super::super::super::cancel;
use super::super::super::card::Doing;
use super::super::super::slot::End;
use super::super::super::turn;
use super::super::effects::Effects;
use super::super::names::Named;
use super::super::policy::Transaction;
use super::super::{Leave, Session, io, killed, local, too_idle};
use super::{Did, Lease, Loss, UNWRITTEN_MAX, server_gone};

/// Why waiting has an end.
#[derive(Clone, Copy, Debug)]
enum Impatience {
    Write,
    Idle,
    IdleInTransaction,
    Query,
    Transaction,
}

impl Session {
    /// Waits for the worker, the client, or the end of somebody's patience.
    pub(super) async fn wait_lease(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        let idle = lease.outstanding == 0 && !lease.worker.batch_is_open();
        self.follow_settings();
        self.card.set_doing(match (idle, lease.status) {
            (false, _) => Doing::Leased,
            (true, b'I') => Doing::Pinned,
            (true, _) => Doing::InTransaction,
        });
        let (deadline, why) = self.patience(lease, idle);
        let slot = self.card.slot.clone();
        let unsent = !slot.is_drained();
        let fenced = lease.worker.fences.get() > 0;
        let _open = self.open_slot();
        let event = poll_fn(|cx| {
            let mut progress = false;
            let before = self.thread.counters.bytes_out.read();
            let delivered = match self.poll_deliver(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(leave)) => return Poll::Ready(Err(leave)),
                Poll::Pending => false,
            };
            // The client's time to take its reply runs from when it stopped taking it.
            progress |= !delivered && (!unsent || self.thread.counters.bytes_out.read() != before);
            progress |= self.absorb(lease) | self.is_behind();
            progress |= fenced && lease.worker.fences.get() == 0;
            if idle && lease.status == b'I' && self.card.ears.has_mail() && delivered {
                let mut mail = bytes::BytesMut::new();
                self.card.ears.take(&mut mail, usize::MAX);
                slot.push(mail.freeze());
                progress = true;
            }
            if let Some(leave) = killed(&self.card, idle && lease.status == b'I' && self.input.is_empty()) {
                return Poll::Ready(Err(leave));
            }
            if self.input.len() < io::INPUT_MAX.max(lease.needs) && lease.worker.unwritten() <= UNWRITTEN_MAX
            {
                match io::poll_read(&self.thread, &mut self.stream, &mut self.input, cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Leave::Gone)),
                    Poll::Ready(Ok(n)) => {
                        self.thread.counters.bytes_in.add(n as u64);
                        progress = true;
                    }
                    Poll::Ready(Err(leave)) => return Poll::Ready(Err(leave)),
                    Poll::Pending => {}
                }
            }
            if lease.throttled && lease.worker.unwritten() <= UNWRITTEN_MAX {
                // What is here already can go on, even when there is no room to read more.
                lease.throttled = false;
                progress = true;
            }
            if lease.worker.unwritten() > UNWRITTEN_MAX {
                lease.worker.tell_when_written(cx.waker());
            }
            if progress {
                return Poll::Ready(Ok(()));
            }
            if delivered {
                if slot.poll_ready(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            } else {
                slot.register(cx);
            }
            Poll::Pending
        });
        match deadline {
            None => event.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), event).await {
                Ok(result) => result,
                Err(_) => self.out_of_patience(lease, why).await,
            },
        }
    }

    /// Takes in what the worker reported. True if there was anything.
    pub(super) fn absorb(&mut self, lease: &mut Lease) -> bool {
        let slot = self.card.slot.clone();
        let copy_in = slot.take_copy_in();
        if copy_in == Some(true) {
            lease.outstanding = lease.outstanding.saturating_sub(1);
            if let Some(after) = lease.after.pop_back() {
                lease.open = after;
            }
            self.names.request_reopens();
        }
        let mut progress = copy_in.is_some();
        while let Some(end) = slot.take_end() {
            self.ended(lease, end);
            progress = true;
        }
        progress
    }

    /// Until when to wait, and for what.
    fn patience(&self, lease: &Lease, idle: bool) -> (Option<Instant>, Impatience) {
        let timeouts = &self.effective.timeouts;
        let mut soonest: (Option<Instant>, Impatience) = (None, Impatience::Write);
        let mut consider = |at: Option<Instant>, why: Impatience| {
            if let Some(at) = at
                && soonest.0.is_none_or(|s| at < s)
            {
                soonest = (Some(at), why);
            }
        };
        // The clock is looked at only where there is a limit.
        let from_now = |limit: Option<Duration>| limit.map(|limit| Instant::now() + limit);
        if !self.card.slot.is_drained() {
            consider(from_now(timeouts.client_write), Impatience::Write);
        }
        if idle && lease.status == b'I' {
            consider(from_now(timeouts.client_idle), Impatience::Idle);
        } else if idle {
            consider(
                from_now(timeouts.idle_in_transaction),
                Impatience::IdleInTransaction,
            );
        } else if !lease.cancelled {
            consider(timeouts.query.map(|l| lease.request_began + l), Impatience::Query);
        }
        if lease.status != b'I' || lease.outstanding > 0 && lease.had_transaction {
            consider(
                timeouts.transaction.map(|l| lease.began + l),
                Impatience::Transaction,
            );
        }
        soonest
    }

    async fn out_of_patience(&mut self, lease: &mut Lease, why: Impatience) -> Result<(), Leave> {
        match why {
            Impatience::Write => Err(Leave::Gone),
            Impatience::Idle => Err(too_idle(
                SqlState::IDLE_SESSION_TIMEOUT,
                self.effective.timeouts.client_idle,
            )),
            Impatience::IdleInTransaction => Err(too_idle(
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                self.effective.timeouts.idle_in_transaction,
            )),
            Impatience::Transaction => Err(Leave::fatal(
                SqlState::TRANSACTION_TIMEOUT,
                "terminating connection due to transaction timeout",
            )),
            Impatience::Query => {
                lease.cancelled = true;
                cancel::on_server(&lease.worker).await;
                Ok(())
            }
        }
    }

    /// A request on the lease is over.
    pub(super) fn ended(&mut self, lease: &mut Lease, end: End) {
        match end {
            End::Done {
                status,
                error,
                settled,
            } => {
                lease.outstanding = lease.outstanding.saturating_sub(1);
                lease.request_began = turn::began();
                lease.unread |= lease.status == b'I' && status != b'I' && !lease.changed.is_empty();
                lease.status = status;
                lease.had_transaction |= status != b'I';
                if status == b'I' && lease.outstanding == 0 && !lease.worker.batch_is_open() {
                    lease.did = Did::Nothing;
                }
                lease.expects_copy &= lease.outstanding > 0;
                for said in self.names.settle(settled) {
                    match said {
                        Named::Prepare(name, _) => drop(lease.materialized.insert(name)),
                        Named::Deallocate(name) => drop(lease.materialized.remove(&name)),
                        Named::ForgetAll => lease.materialized.clear(),
                    }
                }
                let Some(effects) = lease.after.pop_front() else {
                    return;
                };
                self.happened(lease, effects, error);
            }
            End::Lost {
                said,
                started,
                clean_cut,
            } => {
                lease.lost = true;
                lease.loss = Some(Loss {
                    said,
                    started,
                    clean_cut,
                });
            }
            End::Repeat | End::Cancelled => {}
        }
    }

    pub(super) fn happened(&mut self, lease: &mut Lease, effects: Effects, error: bool) {
        lease.changed.all |= effects.settings.all;
        lease.changed.names.extend(effects.settings.names);
        lease.changed.reset.extend(effects.settings.reset);
        lease.ask_pins |= effects.pins || (lease.pinned && !effects.clean);
        if effects.sequences {
            // With `sequenceState: ignore` they are nobody's, and forgotten by whoever comes next.
            let kept = self.thread.setting(|config| config.sequence_state) == crds::SequenceState::Pin;
            let owner = if kept { self.card.serial } else { 0 };
            lease.worker.sequences_of.set(Some(owner));
            if !error {
                lease.worker.sequences_at.set(Instant::now());
            }
        }
        if effects.ddl && !error {
            self.thread.catalogs.stale(&self.database);
            lease.pool.distrust_prepared();
        }
    }

    /// The worker died. What was asked of it is answered as lost; a transaction is failed until the client ends it.
    pub(super) async fn mourn(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        let loss = lease.loss.take();
        let clean_cut = loss.as_ref().is_none_or(|l| l.clean_cut);
        if !clean_cut {
            return Err(Leave::Gone);
        }
        if let Some(Loss { said: Some(said), .. }) = &loss
            && said.code == SqlState::PROTOCOL_VIOLATION
        {
            // What this client sent put the server out of step: it hears what it would hear from the server itself.
            return Err(Leave::Fatal(Box::new((**said).clone())));
        }
        let in_transaction = lease.status != b'I' || (lease.had_transaction && lease.outstanding > 0);
        let said = loss.as_ref().and_then(|l| l.said.clone());
        let mut fields = ErrorFields::new(
            Severity::Error,
            SqlState::CONNECTION_FAILURE,
            "the server was lost in the middle of this request; whether it took effect is unknown",
        )
        .with_hint(if in_transaction {
            "The transaction is lost: end it by ROLLBACK and begin again."
        } else {
            "Check whether it took effect before repeating it."
        });
        if let Some(said) = &said {
            fields.detail = Some(format!("The server said: {} {}", said.code, said.message));
        }
        let open_batch = lease.worker.batch_is_open();
        // A request whose ReadyForQuery was kept back is not done yet.
        let owes_ready = std::mem::take(&mut lease.owes_ready);
        let waiting = lease.outstanding.max(usize::from(owes_ready));
        // Settings and locks of requests that have succeeded: in a transaction they are rolled back with it, and so known.
        let unknown = !in_transaction && (lease.ask_pins || !lease.changed.is_empty()) || lease.unread;
        if unknown || lease.pinned && !in_transaction && waiting == 0 && !open_batch {
            return Err(server_gone());
        }
        self.transaction = if !in_transaction {
            Transaction::None
        } else if waiting > 0 || open_batch {
            Transaction::Failed
        } else {
            // Nothing was asked that could be answered: the client hears of it now, and at its next statement.
            let mut warning = local::lost_transaction(false);
            warning.severity = Severity::Warning.as_str().to_owned();
            warning.severity_nonlocalized = Severity::Warning;
            warning.detail.clone_from(&fields.detail);
            warning.encode_notice(&mut self.out);
            Transaction::Lost
        };
        self.names.forget_asked();
        self.thread.counters.error(fields.code);
        for _ in 0..waiting {
            local::error(&mut self.out, &fields, self.transaction.status());
        }
        if lease.raw + lease.drop > 0 {
            let rest = lease.raw + lease.drop;
            self.discard(rest).await?;
        }
        if open_batch {
            self.skip_batch(&fields).await?;
        }
        self.scan.taken();
        Ok(())
    }
}

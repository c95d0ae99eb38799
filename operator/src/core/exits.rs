//! How an operation stands still, goes back, or ends.

use super::act::{Act, Reason};
use super::durable::{Finished, Kind, Mode, Operation, Outcome, Step};
use super::types::Durability;
use super::view::Seen;
use super::{Core, Decision};
use std::time::Instant;

/// Failed probes in a row after which the old master counts as lost again.
const MASTER_LOST: u32 = 3;

impl Core {
    /// Puts the operation into the history.
    pub(super) fn close(
        &self,
        op: &Operation,
        durable: &mut super::Durable,
        to: &str,
        outcome: Outcome,
        message: String,
    ) {
        if let Some(request) = &op.request {
            durable.serve(request);
        }
        durable.finish(Finished {
            id: op.id.clone(),
            kind: Some(op.kind),
            from: op.from.clone(),
            to: to.to_owned(),
            outcome,
            message,
        });
    }

    pub(super) fn blocked(&self, op: &Operation, now: Instant) -> Decision {
        let began = self.step_began();
        let seen = self.view.server(&op.from);
        if intact_since(seen, op, began) && !op.promote_issued && self.risen(op, began).is_none() {
            return self.enter(op, Step::Aborting);
        }
        if self.settings.force.as_ref() == Some(&op.id) && !op.force {
            return self
                .advance(op, |_, op| {
                    op.force = true;
                    op.step = Step::Measuring;
                    op.attempt += 1;
                })
                .note(
                    Reason::FailoverStarted,
                    format!("{}: forced, data may be lost", op.id),
                );
        }
        let measured = self.measured(op, began);
        let chosen = self.choose(op, &measured);
        if chosen.is_ok() || self.risen(op, began).is_some() {
            return self.advance(op, |_, op| {
                op.step = Step::Measuring;
                op.attempt += 1;
            });
        }
        let mut acts = self.detach_acts(op, now);
        if op.promote_issued {
            acts.extend(self.guard(op, now));
        }
        Decision::acts(acts)
    }

    /// Back to the old master: nothing was promoted.
    pub(super) fn abort(&self, op: &Operation, now: Instant) -> Decision {
        let seen = self.view.server(&op.from);
        if seen.failures >= MASTER_LOST {
            return match op.kind {
                Kind::Failover => self.advance(op, |_, op| {
                    op.step = Step::Detaching;
                    op.attempt += 1;
                }),
                // It was never demoted: an ordinary failover will see to it.
                Kind::Switchover => self.aborted(op),
            };
        }
        let Some(sample) = seen.current() else {
            return Decision::default();
        };
        if sample.recovery {
            // It was restarted as a standby under our hands: an election decides, and it takes part.
            return self.advance(op, |durable, op| {
                durable.epoch += 1;
                durable.mode = Mode::Fenced;
                op.epoch = durable.epoch;
                op.step = Step::Detaching;
                op.attempt += 1;
                op.stopped_at = None;
            });
        }
        let mut acts = Vec::new();
        if sample.standby_signal {
            self.push(
                &mut acts,
                Act::UnmakeStandby {
                    server: op.from.clone(),
                },
                now,
            );
            return Decision::acts(acts);
        }
        if sample.read_only {
            self.push(
                &mut acts,
                Act::Unfence {
                    server: op.from.clone(),
                },
                now,
            );
            return Decision::acts(acts);
        }
        self.aborted(op)
    }

    pub(super) fn aborted(&self, op: &Operation) -> Decision {
        let mut durable = self.durable.clone();
        durable.epoch += 1;
        durable.mode = Mode::Open;
        let message = format!("{} stays master: {}", op.from, op.message);
        let reason = match op.kind {
            Kind::Failover => Reason::FailoverAborted,
            Kind::Switchover => Reason::SwitchoverAborted,
        };
        self.close(op, &mut durable, &op.from, Outcome::Aborted, message.clone());
        // What the election prepared for a target that was never promoted is not in force.
        if self.settings.durability == Durability::Async {
            durable.sync = Default::default();
        }
        Decision::write(durable).note(reason, message)
    }
}

/// Whether the old master is back as it was: then there is no question of data at all.
pub(super) fn intact_since(seen: &Seen, op: &Operation, moment: Instant) -> bool {
    seen.fresh(moment).is_some_and(|sample| {
        !sample.recovery && sample.system == op.system && sample.timeline == op.from_timeline
    })
}

//! The second half of every operation: the chosen one is promoted, opened, and followed.
//!
//! From the order to promote there is no way back; until the last proxy has let go there is no order (I2).

use super::act::{Act, ActKind, Reason};
use super::bootstrap::master_of;
use super::durable::{Kind, Mode, Operation, Outcome, Step};
use super::types::{Name, slot_name};
use super::view::Seen;
use super::{Core, Decision, detect, elect};
use std::time::{Duration, Instant};

/// How long slots are waited for.
const PREPARE: Duration = Duration::from_secs(1);
/// How long an operation waits for replicas to be repointed; the rest is everyday work.
const REPOINT: Duration = Duration::from_secs(5);
/// Failed probes in a row after which a target counts as lost.
const TARGET_LOST: u32 = 3;

impl Core {
    pub(super) fn target<'a>(&'a self, op: &Operation) -> (Name, &'a Seen) {
        let name = op.target.clone().unwrap_or_default();
        let seen = self.view.server(&name);
        (name, seen)
    }

    /// The chosen one is gone: choose again.
    pub(super) fn lose_target(&self, op: &Operation, name: Name) -> Decision {
        self.advance(op, |_, op| {
            op.step = Step::Measuring;
            op.attempt += 1;
            op.target = None;
            if op.promote_issued && !op.suspects.contains(&name) {
                op.suspects.push(name);
            }
        })
    }

    /// I2: nothing is promoted while a proxy may still write to the old master.
    pub(super) fn await_fence(&self, op: &Operation, now: Instant) -> Decision {
        let (name, seen) = self.target(op);
        if seen.failures >= 2 {
            return self.lose_target(op, name);
        }
        let Some(sample) = seen.current() else {
            return Decision::default();
        };
        let mut acts = Vec::new();
        if let Some(act) = self.sync_act(&name, sample) {
            self.push(&mut acts, act, now);
            return Decision::acts(acts);
        }
        if !self.is_fenced(op, now) {
            return Decision::default();
        }
        self.advance(op, |_, op| {
            op.step = Step::Promoting;
            op.promote_issued = true;
        })
    }

    pub(super) fn is_fenced(&self, op: &Operation, now: Instant) -> bool {
        let quorum = op.stopped_at.is_none() && elect::all_quorums(&self.durable.sync, &op.candidates);
        let detached = match op.kind {
            // Nothing was detached, but the old master has stopped.
            Kind::Switchover if op.stopped_at.is_some() => Duration::from_secs(3600),
            _ => self.in_step(now),
        };
        detect::proxies_fenced(&self.settings, &self.durable, &self.view, detached, quorum, now)
    }

    pub(super) fn promote(&self, op: &Operation, now: Instant) -> Decision {
        let (name, seen) = self.target(op);
        match seen.current() {
            Some(sample) if !sample.recovery && sample.timeline > op.from_timeline => {
                self.enter(op, Step::Preparing).note(
                    Reason::MasterPromoted,
                    format!("{name}, timeline {}", sample.timeline),
                )
            }
            Some(_) => {
                let mut acts = self.guard(op, now);
                self.push(&mut acts, Act::Promote { server: name }, now);
                Decision::acts(acts)
            }
            None if seen.failures >= TARGET_LOST => self.lose_target(op, name),
            None => Decision::acts(self.guard(op, now)),
        }
    }

    /// Whoever writes and is not the target is fenced, at any moment after the promotion was ordered.
    pub(super) fn guard(&self, op: &Operation, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        for (name, sample) in self.writable() {
            let is_target = op.target.as_ref() == Some(name);
            if !is_target && sample.system == op.system && (!sample.read_only || sample.clients > 0) {
                self.push(&mut acts, Act::Fence { server: name.clone() }, now);
            }
        }
        // The old master that was promoted again is master: to start it as a standby would be to demote it.
        let is_master_again =
            op.target.as_ref() == Some(&op.from) && matches!(op.step, Step::Preparing | Step::Repointing);
        if op.kind == Kind::Switchover && !is_master_again {
            self.push_start(&mut acts, op, now);
        }
        acts
    }

    pub(super) fn prepare(&self, op: &Operation, now: Instant) -> Decision {
        let (name, seen) = self.target(op);
        let Some(sample) = seen.current().filter(|sample| !sample.recovery) else {
            // Started as a standby again, it will not be master by being waited for.
            if seen.failures >= TARGET_LOST || seen.current().is_some() {
                return self.lose_target(op, name);
            }
            return Decision::default();
        };
        let missing: Vec<String> = self
            .settings
            .others(&name)
            .map(|server| slot_name(&server.name))
            .filter(|slot| !sample.slots.iter().any(|(have, _)| have == slot))
            .collect();
        if !missing.is_empty() && self.in_step(now) < PREPARE {
            let mut acts = self.guard(op, now);
            self.push(
                &mut acts,
                Act::Slots {
                    server: name,
                    slots: missing,
                },
                now,
            );
            return Decision::acts(acts);
        }
        let master = master_of(&name, sample);
        self.advance(op, |durable, op| {
            op.step = Step::Opening;
            durable.epoch += 1;
            durable.mode = Mode::Open;
            durable.sync.begin_line();
            durable.rejoin.remove(&master.name);
            durable.master = Some(master);
        })
    }

    pub(super) fn repoint(&self, op: &Operation, now: Instant) -> Decision {
        let (name, seen) = self.target(op);
        let Some(master) = &self.durable.master else {
            return Decision::default();
        };
        let mut acts = self.guard(op, now);
        // A checkpoint makes the new timeline known to pg_rewind. What was done here when it became master before does not count.
        let marked = self.done_since_entry(&name, ActKind::Mark).is_some();
        let written = self.done_since_entry(&name, ActKind::Checkpoint).is_some();
        if !written && !acts.iter().any(|act| act.server() == &name) {
            acts.push(if marked {
                Act::Checkpoint { server: name.clone() }
            } else {
                Act::Mark {
                    server: name.clone(),
                    epoch: self.durable.epoch,
                    operation: op.id.clone(),
                }
            });
        }
        let mut open = false;
        for server in self.settings.others(&name) {
            let Some(sample) = self.sample(&server.name).filter(|sample| sample.recovery) else {
                continue;
            };
            let is_diverged = seen.sample.as_ref().is_some_and(|new| new.is_diverged(sample));
            if !is_diverged && !self.points_at(sample, &server.name, &master.name) {
                open = true;
                let follow = Act::Follow {
                    server: server.name.clone(),
                    master: master.name.clone(),
                };
                self.push(&mut acts, follow, now);
            }
        }
        if open && self.in_step(now) < REPOINT && seen.failures < TARGET_LOST {
            return Decision::acts(acts);
        }
        let decision = self.enter(op, Step::Labelling);
        if !written && self.in_step(now) < PREPARE {
            return Decision::acts(acts);
        }
        decision
    }

    pub(super) fn complete(&self, op: &Operation) -> Decision {
        let (name, _) = self.target(op);
        let mut durable = self.durable.clone();
        for old in op.suspects.iter().chain([&op.from]).filter(|old| **old != name) {
            let rejoin = durable.rejoin.entry(old.clone()).or_default();
            if op.suspects.contains(old) {
                rejoin.suspect = rejoin.suspect.or(Some(op.from_timeline));
            }
        }
        let message = format!("{} -> {name}, epoch {}", op.from, durable.epoch);
        let (outcome, reason) = match op.kind {
            Kind::Failover => (Outcome::Completed, Reason::FailoverCompleted),
            // The target was lost and the old master promoted again, or another had to take over.
            Kind::Switchover if op.attempt > 1 => (Outcome::Aborted, Reason::SwitchoverAborted),
            Kind::Switchover => (Outcome::Completed, Reason::SwitchoverCompleted),
        };
        self.close(op, &mut durable, &name, outcome, message.clone());
        Decision::write(durable).note(reason, message)
    }
}

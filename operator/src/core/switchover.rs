//! The planned switchover (OPERATOR A7): up to the promotion; then the tail of a failover.
//!
//! ```text
//! Declared -> Warming -> HoldingLeases -> Pausing -> CatchingUp -> StoppingMaster -> Promoting -> ... as a failover
//!     |          |            |             |          |              |  '- target died -> Measuring (the old master takes part)
//!     '-refused  '------------'-------------'----------'--Aborting----'
//! ```

use super::act::{Act, ActKind, Reason};
use super::durable::{Finished, Kind, Mode, Operation, Outcome, Step};
use super::types::{Sample, SwitchoverRequest, slot_name};
use super::{Core, Decision, Master, detect};
use std::time::{Duration, Instant};

/// A target may lack this much at the start: one segment.
const LAG_AT_START: u64 = 16 << 20;
/// How long checkpoints and slots are waited for before the pause.
const WARM: Duration = Duration::from_secs(60);
/// What the proxies get beyond the drain time to tell us.
const DRAIN_SLACK: Duration = Duration::from_secs(2);
/// How long the old master may take to stop.
const STOP: Duration = Duration::from_secs(15);

impl Core {
    /// Begins a requested switchover, or refuses it.
    pub(super) fn request_switchover(
        &self,
        master: &Master,
        request: &SwitchoverRequest,
        now: Instant,
    ) -> Option<Decision> {
        if self.durable.is_served(&request.id) {
            return None;
        }
        if let Err(why) = self.may_switch(master, &request.to) {
            // A replica that only just came up gets a moment before the request is refused.
            let young = now.saturating_duration_since(self.view.born) < self.settings.election_timeout;
            if young && request.to != master.name {
                return None;
            }
            let mut durable = self.durable.clone();
            durable.serve(&request.id);
            durable.finish(Finished {
                id: format!("switchover-{}", request.id),
                kind: Some(Kind::Switchover),
                from: master.name.clone(),
                to: master.name.clone(),
                outcome: Outcome::Refused,
                message: why.clone(),
            });
            return Some(Decision::write(durable).note(Reason::SwitchoverRefused, why));
        }
        let mut durable = self.durable.clone();
        durable.operation = Some(Operation {
            id: format!("switchover-{}", durable.epoch + 1),
            kind: Kind::Switchover,
            from: master.name.clone(),
            from_timeline: master.timeline,
            system: master.system.clone(),
            target: Some(request.to.clone()),
            step: Step::Declared,
            attempt: 1,
            epoch: durable.epoch + 1,
            promote_issued: false,
            fencing: None,
            candidates: Vec::new(),
            detached: Vec::new(),
            suspects: Vec::new(),
            stopped_at: None,
            last_lsn: None,
            force: request.force,
            request: Some(request.id.clone()),
            blocked: None,
            message: String::new(),
        });
        let message = format!("{} -> {} (request {})", master.name, request.to, request.id);
        Some(Decision::write(durable).note(Reason::SwitchoverStarted, message))
    }

    /// Whether a switchover could work at all.
    fn may_switch(&self, master: &Master, to: &str) -> Result<(), String> {
        let server = self
            .settings
            .server(to)
            .ok_or_else(|| format!("{to} is not a server of this pool"))?;
        if to == master.name {
            return Err(format!("{to} is master already"));
        }
        if server.priority == 0 {
            return Err(format!("{to} has failoverPriority 0"));
        }
        let old = self.sample(&master.name).ok_or("the master does not answer")?;
        let new = self.sample(to).ok_or_else(|| format!("{to} does not answer"))?;
        if !detect::is_intact(master, old) {
            return Err("the master is not as it was recorded".into());
        }
        if !new.receiver.as_ref().is_some_and(|receiver| receiver.streaming) {
            return Err(format!("{to} does not stream"));
        }
        if new.timeline != old.timeline || new.version / 10_000 != old.version / 10_000 {
            return Err(format!("{to} is of another timeline or version"));
        }
        if new.delayed {
            return Err(format!("{to} applies the log with a delay"));
        }
        let lag = old.lsn.since(new.lsn);
        if lag >= LAG_AT_START {
            return Err(format!("{to} lacks {lag} bytes"));
        }
        if !old.can_stop && !self.settings.can_restart {
            return Err(format!(
                "no way to stop {}: neither by SQL nor by a command",
                master.name
            ));
        }
        Ok(())
    }

    /// Both ends of a switchover, while both answer and nothing has changed.
    fn both(&self, op: &Operation) -> Option<(&Sample, &Sample)> {
        let old = self.sample(&op.from)?;
        let new = self.sample(op.target.as_deref()?)?;
        let intact = !old.recovery && old.timeline == op.from_timeline && new.recovery;
        intact.then_some((old, new))
    }

    /// Gives up while the old master is untouched.
    fn give_up(&self, op: &Operation, why: impl Into<String>) -> Decision {
        let why = why.into();
        self.advance(op, |_, op| {
            op.step = Step::Aborting;
            op.message = why;
        })
    }

    pub(super) fn validate_switchover(&self, op: &Operation, now: Instant) -> Decision {
        if self.both(op).is_some() {
            return self.enter(op, Step::Warming);
        }
        if self.in_step(now) >= self.settings.election_timeout {
            return self.give_up(op, "master and target do not both answer");
        }
        Decision::default()
    }

    /// Checkpoints and slots, while everybody still works; and where the old master will find its own: it looks at that only
    /// when it comes back as a standby, which `standby.signal` makes it, and that is not there yet.
    pub(super) fn warm(&self, op: &Operation, now: Instant) -> Decision {
        let Some((old, new)) = self.both(op) else {
            let lost = self.view.server(&op.from).failures.max(self.target_failures(op));
            if lost >= 3 || self.in_step(now) >= WARM {
                return self.give_up(op, "master or target stopped answering before the pause");
            }
            return Decision::default();
        };
        let target = op.target.clone().unwrap_or_default();
        let mut acts = Vec::new();
        for server in [&op.from, &target] {
            if self.done_since_entry(server, ActKind::Checkpoint).is_none() {
                acts.push(Act::Checkpoint {
                    server: server.clone(),
                });
            }
        }
        // Version 12 would have to be restarted for it.
        let shown = old.version >= 130_000 && !self.points_at(old, &op.from, &target);
        if shown && self.done_since_entry(&op.from, ActKind::Follow).is_none() {
            acts.push(Act::Follow {
                server: op.from.clone(),
                master: target.clone(),
            });
        }
        let missing: Vec<String> = self
            .settings
            .others(&target)
            .map(|server| slot_name(&server.name))
            .filter(|slot| !new.slots.iter().any(|(have, _)| have == slot))
            .collect();
        if !missing.is_empty() && !acts.iter().any(|act| act.server() == &target) {
            self.push(
                &mut acts,
                Act::Slots {
                    server: target,
                    slots: missing.clone(),
                },
                now,
            );
        }
        if (acts.is_empty() && missing.is_empty()) || self.in_step(now) >= WARM {
            return self.next_mode(op, Mode::Holding, Step::HoldingLeases);
        }
        Decision::acts(acts)
    }

    fn target_failures(&self, op: &Operation) -> u32 {
        op.target
            .as_deref()
            .map_or(0, |name| self.view.server(name).failures)
    }

    /// Whether every proxy that lives has said so for the epoch it was asked in.
    fn is_drained(&self, op: &Operation, now: Instant) -> bool {
        // One whose lease ran out has let go by itself.
        let mut live = self.view.live_proxies(self.settings.lease, now);
        self.view.heard && live.all(|proxy| proxy.facts.acked >= op.epoch && proxy.facts.drained)
    }

    fn next_mode(&self, op: &Operation, mode: Mode, step: Step) -> Decision {
        self.advance(op, |durable, op| {
            durable.epoch += 1;
            durable.mode = mode;
            op.epoch = durable.epoch;
            op.step = step;
        })
    }

    /// Transactions end while single statements run on: nobody waits for somebody's long transaction but those who
    /// want to begin one.
    pub(super) fn hold_leases(&self, op: &Operation, now: Instant) -> Decision {
        if self.view.server(&op.from).failures.max(self.target_failures(op)) >= 3 {
            return self.give_up(op, "master or target was lost while draining");
        }
        let late = self.in_step(now) >= self.settings.drain + DRAIN_SLACK;
        if late && !op.force {
            return self.give_up(op, "transactions did not end in time");
        }
        if late || self.is_drained(op, now) {
            // Forced: what still runs is cut.
            let mode = if late { Mode::Fenced } else { Mode::Paused };
            return self.next_mode(op, mode, Step::Pausing);
        }
        Decision::default()
    }

    pub(super) fn pause(&self, op: &Operation, now: Instant) -> Decision {
        if self.view.server(&op.from).failures.max(self.target_failures(op)) >= 3 {
            return self.give_up(op, "master or target was lost while draining");
        }
        if self.is_drained(op, now) {
            return self.enter(op, Step::CatchingUp);
        }
        let mut live = self.view.live_proxies(self.settings.lease, now);
        let fenced = self.durable.mode == Mode::Fenced;
        if fenced && live.all(|proxy| proxy.facts.acked >= op.epoch) {
            return self.enter(op, Step::CatchingUp);
        }
        if self.in_step(now) < self.settings.drain + DRAIN_SLACK {
            return Decision::default();
        }
        if op.force && !fenced {
            return self.next_mode(op, Mode::Fenced, Step::Pausing);
        }
        self.give_up(op, "statements did not end in time")
    }

    pub(super) fn catch_up(&self, op: &Operation, now: Instant) -> Decision {
        let late = self.in_step(now) >= self.settings.election_timeout;
        let Some((old, new)) = self.both(op) else {
            let gone = self.view.server(&op.from).failures.max(self.target_failures(op)) >= 3;
            if gone || late {
                return self.give_up(op, "master or target was lost while catching up");
            }
            return Decision::default();
        };
        let target = op.target.clone().unwrap_or_default();
        let began = self.step_began();
        let fresh = self.view.server(&op.from).fresh(began).is_some()
            && self.view.server(&target).fresh(began).is_some();
        let mut acts = Vec::new();
        let will_return = self.will_return(old, &op.from, &target);
        if !will_return {
            self.push(
                &mut acts,
                Act::MakeStandby {
                    server: op.from.clone(),
                    master: target.clone(),
                },
                now,
            );
        }
        if fresh && new.lsn >= old.lsn && acts.is_empty() && will_return {
            let at = old.lsn;
            let set = self.sync_set_after_switch(op, &target);
            return self.advance(op, |durable, op| {
                op.step = Step::StoppingMaster;
                op.stopped_at = Some(at);
                if let Some(set) = set {
                    durable.sync.propose(set);
                }
            });
        }
        if late {
            return self.give_up(op, format!("{target} did not catch up"));
        }
        Decision::acts(acts)
    }

    pub(super) fn stop_master(&self, op: &Operation, now: Instant) -> Decision {
        let began = self.step_began();
        let seen = self.view.server(&op.from);
        let target = op.target.clone().unwrap_or_default();
        let serves = seen.current().is_some_and(|sample| !sample.recovery);
        let stopped = seen.settled(began) && !serves;
        let mut acts = Vec::new();
        if !stopped {
            if serves && self.in_step(now) >= STOP {
                return self.advance(op, |_, op| {
                    op.step = Step::Aborting;
                    op.message = format!("{} did not stop", op.from);
                    op.stopped_at = None;
                });
            }
            if serves {
                self.push(
                    &mut acts,
                    Act::Stop {
                        server: op.from.clone(),
                    },
                    now,
                );
            }
            return Decision::acts(acts);
        }
        let Some(sample) = self.view.server(&target).fresh(began) else {
            if self.target_failures(op) >= 3 {
                return self.lose_switch_target(op);
            }
            return Decision::default();
        };
        // It must hold the last record of the old master, and nobody may be sending it more.
        let complete = op.stopped_at.is_none_or(|at| sample.lsn > at);
        let alone = sample
            .receiver
            .as_ref()
            .is_none_or(|receiver| !receiver.streaming);
        if !complete || !alone {
            if self.in_step(now) >= self.settings.election_timeout + STOP {
                return self.lose_switch_target(op);
            }
            return Decision::acts(acts);
        }
        if let Some(act) = self.sync_act(&target, sample) {
            self.push(&mut acts, act, now);
            return Decision::acts(acts);
        }
        self.advance(op, |_, op| {
            op.step = Step::Promoting;
            op.promote_issued = true;
        })
    }

    /// The old master has stopped and the target is lost: whoever has everything may be promoted, the old one too.
    fn lose_switch_target(&self, op: &Operation) -> Decision {
        self.advance(op, |durable, op| {
            op.step = Step::Measuring;
            op.attempt += 1;
            op.target = None;
            op.message = "the target was lost after the old master had stopped".into();
            durable.mode = Mode::Fenced;
            durable.epoch += 1;
        })
    }
}

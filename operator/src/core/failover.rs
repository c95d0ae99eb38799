//! The failover state machine (OPERATOR A6), and the tail it shares with a planned switchover.
//!
//! ```text
//! Declared -> FencingProxies -> FencingMaster -> Detaching -> Measuring -> Elected -> Promoting -> Preparing
//!                                                  ^  ^          |  ^  <-target died-'  |             |
//!                                                  |  '-- more --|--'<----target died---'             v
//!                                   Aborting <- Blocked <--------'                  Opening -> Repointing -> Labelling
//! ```

use super::act::{Act, ActKind, Reason};
use super::bootstrap::master_of;
use super::durable::{Candidate, Fencing, Finished, Kind, Mode, Operation, Outcome, Step};
use super::types::{Durability, Name, Sample, Server, slot_name};
use super::view::{Class, Seen};
use super::{Core, Decision, Master, detect, elect};
use std::time::{Duration, Instant};

/// How long the acknowledgements alone are waited for, before the rest goes on beside them.
const FENCE_PROXIES: Duration = Duration::from_millis(300);
/// How long the old master is talked to.
const FENCE_MASTER: Duration = Duration::from_secs(2);
/// How long a replica may take to let go of the old master, before it counts as unreachable.
const DETACH: Duration = Duration::from_secs(3);
/// How long slots are waited for.
const PREPARE: Duration = Duration::from_secs(1);
/// How long an operation waits for replicas to be repointed; the rest is everyday work.
const REPOINT: Duration = Duration::from_secs(5);
/// Failed probes in a row after which a target counts as lost.
const TARGET_LOST: u32 = 3;

impl Core {
    /// One step of the operation under way.
    pub(super) fn operate(&self, op: &Operation, now: Instant) -> Decision {
        match op.step {
            Step::Declared if op.kind == Kind::Switchover => self.validate_switchover(op, now),
            Step::Declared => self.enter(op, Step::FencingProxies),
            Step::Warming => self.warm(op, now),
            Step::HoldingLeases => self.hold_leases(op, now),
            Step::Pausing => self.pause(op, now),
            Step::CatchingUp => self.catch_up(op, now),
            Step::StoppingMaster => self.stop_master(op, now),
            Step::FencingProxies => self.fence_proxies(op, now),
            Step::FencingMaster => self.fence_master(op, now),
            Step::Detaching => self.detach(op, now),
            Step::Measuring => self.measure(op, now),
            Step::Elected => self.await_fence(op, now),
            Step::Promoting => self.promote(op, now),
            Step::Preparing => self.prepare(op, now),
            Step::Opening => self.enter(op, Step::Repointing),
            Step::Repointing => self.repoint(op, now),
            Step::Labelling => self.complete(op),
            Step::Blocked => self.blocked(op, now),
            Step::Aborting => self.abort(op, now),
        }
    }

    /// Declares the master dead: one record fences the routing and creates the operation.
    pub(super) fn declare_failover(&self, master: &Master, why: &str) -> Decision {
        let mut durable = self.durable.clone();
        durable.epoch += 1;
        durable.mode = Mode::Fenced;
        let seen = self.view.server(&master.name);
        durable.operation = Some(Operation {
            id: format!("failover-{}", durable.epoch),
            kind: Kind::Failover,
            from: master.name.clone(),
            from_timeline: master.timeline,
            system: master.system.clone(),
            target: None,
            step: Step::Declared,
            attempt: 1,
            epoch: durable.epoch,
            promote_issued: false,
            fencing: None,
            candidates: Vec::new(),
            detached: Vec::new(),
            suspects: Vec::new(),
            stopped_at: None,
            last_lsn: seen.sample.as_ref().map(|sample| sample.lsn),
            force: false,
            request: None,
            blocked: None,
            message: why.to_owned(),
        });
        Decision::write(durable).note(Reason::FailoverStarted, format!("{} is dead: {why}", master.name))
    }

    fn fence_proxies(&self, op: &Operation, now: Instant) -> Decision {
        let acked = self.view.heard
            && self
                .view
                .proxies
                .values()
                .all(|proxy| proxy.facts.acked >= op.epoch);
        if acked || self.in_step(now) >= FENCE_PROXIES {
            return self.enter(op, Step::FencingMaster);
        }
        Decision::default()
    }

    fn fence_master(&self, op: &Operation, now: Instant) -> Decision {
        let seen = self.view.server(&op.from);
        let level = match seen.class {
            Some(Class::Refused) => Some(Fencing::ProcessDead),
            Some(Class::Up)
                if seen
                    .fresh(self.step_began())
                    .is_some_and(|sample| sample.recovery) =>
            {
                Some(Fencing::ProcessDead)
            }
            Some(Class::Up)
                if seen
                    .fresh(self.step_began())
                    .is_some_and(|sample| sample.read_only) =>
            {
                Some(Fencing::SqlFenced)
            }
            _ if self.in_step(now) >= FENCE_MASTER => Some(Fencing::ProxiesOnly),
            _ => None,
        };
        let Some(level) = level else {
            let mut acts = Vec::new();
            self.push(
                &mut acts,
                Act::Fence {
                    server: op.from.clone(),
                },
                now,
            );
            return Decision::acts(acts);
        };
        let detached = self
            .settings
            .others(&op.from)
            .map(|server| server.name.clone())
            .collect();
        self.advance(op, |_, op| {
            op.step = Step::Detaching;
            op.fencing = Some(level);
            op.detached = detached;
        })
        .note(Reason::MasterFenced, format!("{}: {level:?}", op.from))
    }

    /// Replicas that answer, are of our cluster, and still hang on a master.
    fn attached<'a>(&'a self, op: &'a Operation) -> Vec<&'a Server> {
        self.electorate(op)
            .filter(|server| {
                self.sample(&server.name)
                    .is_some_and(|s| s.recovery && !self.is_detached(op, s))
            })
            .collect()
    }

    fn is_detached(&self, op: &Operation, sample: &Sample) -> bool {
        let pointed_away = sample.upstream.as_ref().is_none_or(super::Upstream::is_detached);
        // Version 12 takes a change only by a restart: where the process is dead that is not worth it.
        let is_moot = sample.version < 130_000 && op.fencing == Some(Fencing::ProcessDead);
        sample.receiver.is_none() && (pointed_away || is_moot)
    }

    /// Who takes part in the election: everybody but the old master, and him too once he is a standby.
    fn electorate<'a>(&'a self, op: &'a Operation) -> impl Iterator<Item = &'a Server> {
        self.settings.servers.iter().filter(|server| {
            server.name != op.from || self.sample(&server.name).is_some_and(|sample| sample.recovery)
        })
    }

    fn detach_acts(&self, op: &Operation, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        if op.stopped_at.is_some() {
            // The old master stopped cleanly: there is nothing to be detached from.
            self.push_start(&mut acts, op, now);
            return acts;
        }
        for server in self.attached(op) {
            self.push(
                &mut acts,
                Act::Detach {
                    server: server.name.clone(),
                },
                now,
            );
        }
        acts
    }

    /// Switchover that lost its target: the old master, a standby by now, is wanted back.
    pub(super) fn push_start(&self, acts: &mut Vec<Act>, op: &Operation, now: Instant) {
        if self.settings.can_restart && self.view.server(&op.from).class == Some(Class::Refused) {
            let master = op.target.clone().unwrap_or_else(|| op.from.clone());
            self.push(
                acts,
                Act::Start {
                    server: op.from.clone(),
                    master,
                },
                now,
            );
        }
    }

    fn detach(&self, op: &Operation, now: Instant) -> Decision {
        let attached = self.attached(op);
        let began = self.step_began();
        let settled = self
            .settings
            .others(&op.from)
            .all(|server| self.view.server(&server.name).settled(began));
        if (attached.is_empty() && settled) || self.in_step(now) >= DETACH {
            return self.advance(op, |_, op| {
                op.step = Step::Measuring;
                if attached.is_empty() && op.fencing == Some(Fencing::ProxiesOnly) {
                    op.fencing = Some(Fencing::ReplicasDetached);
                }
            });
        }
        Decision::acts(self.detach_acts(op, now))
    }

    /// Detached replicas of our line, as they answered since this step began.
    fn measured(&self, op: &Operation, since: Instant) -> Vec<Candidate> {
        self.electorate(op)
            .filter_map(|server| {
                let sample = self.view.server(&server.name).fresh(since)?;
                let ours = sample.system == op.system && sample.recovery;
                let in_line = sample.descends_from(op.from_timeline) || server.name == op.from;
                let free = op.stopped_at.is_some() || self.is_detached(op, sample);
                (ours && in_line && free).then(|| elect::candidate(&server.name, server.priority, sample))
            })
            .collect()
    }

    /// A server that was promoted already: by us, when its answer got lost, or by somebody else.
    fn risen(&self, op: &Operation, since: Instant) -> Option<Name> {
        let mut servers = self.settings.servers.iter();
        let found = servers.find(|server| {
            self.view.server(&server.name).fresh(since).is_some_and(|sample| {
                sample.system == op.system
                    && !sample.recovery
                    && sample.timeline > op.from_timeline
                    && sample.descends_from(op.from_timeline)
            })
        });
        found.map(|server| server.name.clone())
    }

    fn measure(&self, op: &Operation, now: Instant) -> Decision {
        let began = self.step_began();
        if let Some(name) = self.risen(op, began) {
            return self.elected(op, name, Vec::new());
        }
        // A switchover that stopped it, but somebody started it as what it was.
        let back = op.stopped_at.is_some() && intact_since(self.view.server(&op.from), op, began);
        if back && !op.promote_issued {
            return self.enter(op, Step::Aborting);
        }
        let measured = self.measured(op, began);
        let waiting = self
            .electorate(op)
            .any(|server| !self.view.server(&server.name).settled(began));
        let late = self.in_step(now) >= self.settings.election_timeout;
        let chosen = elect::choose(&self.settings, op, &self.durable.sync, &measured, op.force);
        match chosen {
            Ok(best) if !waiting || late => self.elected(op, best.name, measured),
            Err(why) if late => {
                let names: Vec<&str> = measured.iter().map(|c| c.name.as_str()).collect();
                let message = format!("{why:?}: reachable are [{}]", names.join(", "));
                self.advance(op, |_, op| {
                    op.step = Step::Blocked;
                    op.blocked = Some(why);
                    op.candidates = measured.clone();
                    op.message = message.clone();
                })
                .note(Reason::FailoverBlocked, message.clone())
            }
            _ => Decision::acts(self.detach_acts(op, now)),
        }
    }

    fn elected(&self, op: &Operation, name: Name, measured: Vec<Candidate>) -> Decision {
        let set = self.sync_set_of_target(&name, &measured);
        let lsn = measured
            .iter()
            .find(|c| c.name == name)
            .map(|c| c.lsn.to_string())
            .unwrap_or_default();
        let message = format!("{name} at {lsn}, of {} measured", measured.len());
        let attempt = op.attempt;
        self.advance(op, |durable, op| {
            op.step = Step::Elected;
            op.target = Some(name);
            op.candidates = measured;
            op.blocked = None;
            if let Some(set) = set
                && durable.sync.pending.as_ref() != Some(&set)
            {
                durable.sync.propose(set);
            }
        })
        .note(Reason::ReplicaElected, format!("{message} (attempt {attempt})"))
    }

    fn target<'a>(&'a self, op: &Operation) -> (Name, &'a Seen) {
        let name = op.target.clone().unwrap_or_default();
        let seen = self.view.server(&name);
        (name, seen)
    }

    /// The chosen one is gone: choose again.
    fn lose_target(&self, op: &Operation, name: Name) -> Decision {
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
    fn await_fence(&self, op: &Operation, now: Instant) -> Decision {
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

    fn is_fenced(&self, op: &Operation, now: Instant) -> bool {
        let quorum = op.stopped_at.is_none() && elect::all_quorums(&self.durable.sync, &op.candidates);
        let detached = match op.kind {
            // Nothing was detached, but the old master has stopped.
            Kind::Switchover if op.stopped_at.is_some() => Duration::from_secs(3600),
            _ => self.in_step(now),
        };
        detect::proxies_fenced(&self.settings, &self.durable, &self.view, detached, quorum, now)
    }

    fn promote(&self, op: &Operation, now: Instant) -> Decision {
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
    fn guard(&self, op: &Operation, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        for (name, sample) in self.writable() {
            let is_target = op.target.as_ref() == Some(name);
            if !is_target && sample.system == op.system && (!sample.read_only || sample.clients > 0) {
                self.push(&mut acts, Act::Fence { server: name.clone() }, now);
            }
        }
        if op.kind == Kind::Switchover {
            self.push_start(&mut acts, op, now);
        }
        acts
    }

    fn prepare(&self, op: &Operation, now: Instant) -> Decision {
        let (name, seen) = self.target(op);
        let Some(sample) = seen.current().filter(|sample| !sample.recovery) else {
            if seen.failures >= TARGET_LOST {
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
            durable.rejoin.remove(&master.name);
            durable.master = Some(master);
        })
    }

    fn repoint(&self, op: &Operation, now: Instant) -> Decision {
        let (name, seen) = self.target(op);
        let Some(master) = &self.durable.master else {
            return Decision::default();
        };
        let mut acts = self.guard(op, now);
        let mark = Act::Mark {
            server: name.clone(),
            epoch: self.durable.epoch,
            operation: op.id.clone(),
        };
        // A checkpoint makes the new timeline known to pg_rewind; it is not waited for.
        let last = if self.view.tried(&name, ActKind::Mark).is_none() {
            mark
        } else {
            Act::Checkpoint { server: name.clone() }
        };
        self.push(&mut acts, last, now);
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
        if self.view.tried(&name, ActKind::Checkpoint).is_none() && self.in_step(now) < PREPARE {
            return Decision::acts(acts);
        }
        decision
    }

    fn complete(&self, op: &Operation) -> Decision {
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

    fn blocked(&self, op: &Operation, now: Instant) -> Decision {
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
        let chosen = elect::choose(&self.settings, op, &self.durable.sync, &measured, op.force);
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
        if seen.failures >= TARGET_LOST {
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

    fn aborted(&self, op: &Operation) -> Decision {
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
fn intact_since(seen: &Seen, op: &Operation, moment: Instant) -> bool {
    seen.fresh(moment).is_some_and(|sample| {
        !sample.recovery && sample.system == op.system && sample.timeline == op.from_timeline
    })
}

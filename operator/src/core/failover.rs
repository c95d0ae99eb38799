//! The failover state machine (OPERATOR A6), and the tail it shares with a planned switchover.
//!
//! ```text
//! Declared -> FencingProxies -> FencingMaster -> Detaching -> Measuring -> Elected -> Promoting -> Preparing
//!                                                  ^  ^          |  ^  <-target died-'  |             |
//!                                                  |  '-- more --|--'<----target died---'             v
//!                                   Aborting <- Blocked <--------'                  Opening -> Repointing -> Labelling
//! ```

use super::act::{Act, Reason};
use super::durable::{Blocked, Candidate, Fencing, Kind, Mode, Operation, Step};
use super::exits::intact_since;
use super::types::{Name, Sample, Server};
use super::view::Class;
use super::{Core, Decision, Master, elect};
use std::time::{Duration, Instant};

/// How long the acknowledgements alone are waited for, before the rest goes on beside them.
const FENCE_PROXIES: Duration = Duration::from_millis(300);
/// How long the old master is talked to.
const FENCE_MASTER: Duration = Duration::from_secs(2);
/// How long a replica may take to let go of the old master, before it counts as unreachable.
const DETACH: Duration = Duration::from_secs(3);

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

    pub(super) fn fence_proxies(&self, op: &Operation, now: Instant) -> Decision {
        let acked = self.view.heard
            && self
                .view
                .proxies
                .values()
                .all(|proxy| proxy.facts.acked >= op.epoch);
        if acked || self.in_step(now) >= FENCE_PROXIES {
            let detached = self
                .settings
                .others(&op.from)
                .map(|server| server.name.clone())
                .collect();
            return self.advance(op, |_, op| {
                op.step = Step::FencingMaster;
                op.detached = detached;
            });
        }
        Decision::default()
    }

    pub(super) fn fence_master(&self, op: &Operation, now: Instant) -> Decision {
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
            // It was tried; who says nothing will not be stopped by talking to it.
            Some(Class::Silent) if seen.settled(self.step_began()) => Some(Fencing::ProxiesOnly),
            _ if self.in_step(now) >= FENCE_MASTER => Some(Fencing::ProxiesOnly),
            _ => None,
        };
        let Some(level) = level else {
            // Beside it, replicas let go: that is a fence, too, where commits wait for them.
            let mut acts = self.detach_acts(op, now);
            self.push(
                &mut acts,
                Act::Fence {
                    server: op.from.clone(),
                },
                now,
            );
            return Decision::acts(acts);
        };
        self.advance(op, |_, op| {
            op.step = Step::Detaching;
            op.fencing = Some(level);
        })
        .note(Reason::MasterFenced, format!("{}: {level:?}", op.from))
    }

    /// Replicas that answer, are of our cluster, and still hang on a master.
    pub(super) fn attached<'a>(&'a self, op: &'a Operation) -> Vec<&'a Server> {
        self.electorate(op)
            .filter(|server| {
                self.sample(&server.name)
                    .is_some_and(|s| s.recovery && !self.is_detached(op, s))
            })
            .collect()
    }

    pub(super) fn is_detached(&self, op: &Operation, sample: &Sample) -> bool {
        let pointed_away = sample.upstream.as_ref().is_none_or(super::Upstream::is_detached);
        // Version 12 takes a change only by a restart: where the process is dead that is not worth it.
        let is_moot = sample.version < 130_000 && op.fencing == Some(Fencing::ProcessDead);
        sample.receiver.is_none() && (pointed_away || is_moot)
    }

    /// Who takes part in the election: everybody but the old master, and him too once he is a standby.
    pub(super) fn electorate<'a>(&'a self, op: &'a Operation) -> impl Iterator<Item = &'a Server> {
        self.settings.servers.iter().filter(|server| {
            server.name != op.from || self.sample(&server.name).is_some_and(|sample| sample.recovery)
        })
    }

    pub(super) fn detach_acts(&self, op: &Operation, now: Instant) -> Vec<Act> {
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

    pub(super) fn detach(&self, op: &Operation, now: Instant) -> Decision {
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

    /// Detached replicas of our line, as they answered since this step began, and those that stayed behind on a timeline
    /// it grew out of: they may not be promoted, but nothing later was acknowledged because of them.
    pub(super) fn measured(&self, op: &Operation, since: Instant) -> Vec<Candidate> {
        let free: Vec<(&Server, &Sample)> = self
            .electorate(op)
            .filter_map(|server| Some((server, self.view.server(&server.name).fresh(since)?)))
            .filter(|(_, sample)| sample.system == op.system && sample.recovery && !sample.replaying)
            .filter(|(_, sample)| op.stopped_at.is_some() || self.is_detached(op, sample))
            .collect();
        let in_line = |(server, sample): &(&Server, &Sample)| {
            let has_begun = sample.history.last().is_none_or(|fork| sample.lsn >= fork.at);
            (sample.descends_from(op.from_timeline) && has_begun) || server.name == op.from
        };
        let stayed_behind = |sample: &Sample| {
            free.iter().any(|newer| {
                let left = newer.1.left(sample.timeline);
                in_line(newer) && left.is_some_and(|at| sample.lsn <= at)
            })
        };
        free.iter()
            .filter(|both| in_line(both) || stayed_behind(both.1))
            .map(|(server, sample)| elect::candidate(&server.name, server.priority, sample))
            .collect()
    }

    /// Whom to promote among `measured`.
    pub(super) fn choose(&self, op: &Operation, measured: &[Candidate]) -> Result<Candidate, Blocked> {
        // Where the old master last stood is known only to half a second. But a master has slots, and what `pg_basebackup` or
        // `pg_rewind` makes of another has none. Of who was chosen the position is known.
        let is_itself = !op.suspects.is_empty()
            || self
                .sample(&op.from)
                .is_some_and(|sample| !sample.slots.is_empty());
        let complete = is_itself && elect::has_keeper(op, measured);
        elect::choose(
            &self.settings,
            op,
            &self.durable.sync,
            measured,
            complete,
            op.force,
        )
    }

    /// A server that was promoted already: by us, when its answer got lost, or by somebody else.
    pub(super) fn risen(&self, op: &Operation, since: Instant) -> Option<Name> {
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

    pub(super) fn measure(&self, op: &Operation, now: Instant) -> Decision {
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
        let waiting = self.electorate(op).any(|server| {
            let seen = self.view.server(&server.name);
            !seen.settled(began) || seen.current().is_some_and(|s| s.replaying && !s.delayed)
        });
        let late = self.in_step(now) >= self.settings.election_timeout;
        let chosen = self.choose(op, &measured);
        match chosen {
            Ok(best) if !waiting || late => self.elected(op, best.name, measured),
            Err(why) if late => {
                let names: Vec<&str> = measured.iter().map(|c| c.name.as_str()).collect();
                let message = format!("{why:?}: reachable are [{}]", names.join(", "));
                self.advance(op, |_, op| {
                    op.step = Step::Blocked;
                    op.blocked = Some(why);
                    // Who was chosen is judged by where it stood then.
                    if op.suspects.is_empty() {
                        op.candidates = measured.clone();
                    }
                    op.message = message.clone();
                })
                .note(Reason::FailoverBlocked, message.clone())
            }
            _ => Decision::acts(self.detach_acts(op, now)),
        }
    }

    pub(super) fn elected(&self, op: &Operation, name: Name, measured: Vec<Candidate>) -> Decision {
        let set = self.sync_set_of_target(&name, &measured);
        let lsn = measured.iter().find(|c| c.name == name).map(|c| c.lsn);
        let at = lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
        let message = format!("{name} at {at}, of {} measured", measured.len());
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
}

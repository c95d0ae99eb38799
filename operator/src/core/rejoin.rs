//! Everybody who is not master: zombies are fenced, replicas follow, an old master comes back (OPERATOR A8).

use super::act::{Act, ActKind, Note, Reason};
use super::durable::{REWINDS_MAX, Rejoin};
use super::types::{RejoinPolicy, Sample, slot_name};
use super::{Core, Decision, Master};
use std::time::Instant;

/// What a server that is not master needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It streams from our line.
    Nothing,
    /// It must be pointed at the master.
    Follow,
    /// It takes writes, and has none the master lacks: it can become a standby as it is.
    Demote,
    /// It has log that the master lacks.
    Rewind,
    /// It shares the master's timeline number but not its timeline: nothing but a new copy helps.
    Rebuild,
    /// It is stopped and was master: start it as a standby.
    Start,
    /// It is not of our cluster, or not to be reached.
    Unknown,
}

impl Core {
    /// Whether the standby points at `master` as we want it.
    pub(super) fn points_at(&self, sample: &Sample, name: &str, master: &str) -> bool {
        let Some(server) = self.settings.server(master) else {
            return false;
        };
        sample.slot == slot_name(name)
            && sample.upstream.as_ref().is_some_and(|upstream| {
                upstream.host == server.host
                    && upstream.port == server.port
                    && upstream.application_name == name
            })
    }

    /// Whether a running master comes back as a standby of `master` when it restarts.
    pub(super) fn will_return(&self, sample: &Sample, name: &str, master: &str) -> bool {
        // Version 12 shows the setting that is in force, not the one that will be: our own word must do.
        let told = || {
            let tried = self.view.tried(name, ActKind::MakeStandby);
            sample.version < 130_000 && tried.is_some_and(|tried| tried.error.is_none())
        };
        sample.standby_signal && (self.points_at(sample, name, master) || told())
    }

    /// What this server needs.
    pub(super) fn need(&self, master: &Master, name: &str) -> Need {
        let Some(sample) = self.sample(name) else {
            let record = self.durable.rejoin.get(name);
            let expected = record.is_some_and(|rejoin| !rejoin.given_up && rejoin.suspect.is_none());
            let start = expected && self.is_down(name) && self.settings.can_restart;
            return if start { Need::Start } else { Need::Unknown };
        };
        let Some(ours) = self.sample(&master.name).filter(|sample| !sample.recovery) else {
            return Need::Unknown;
        };
        let suspect = self.durable.rejoin.get(name).and_then(|rejoin| rejoin.suspect);
        if suspect.is_some_and(|before| sample.timeline > before) {
            return Need::Rebuild;
        }
        if !sample.recovery {
            // A writer that shares the master's timeline number was promoted beside it.
            return match ours.is_diverged(sample) {
                _ if sample.timeline == ours.timeline => Need::Rebuild,
                true => Need::Rewind,
                false => Need::Demote,
            };
        }
        if ours.is_twin(sample) {
            return Need::Rebuild;
        }
        let streams = sample.receiver.as_ref().is_some_and(|receiver| {
            receiver.streaming && receiver.timeline == master.timeline && sample.timeline == ours.timeline
        });
        let named = self.settings.durability == super::Durability::Async
            || sample
                .upstream
                .as_ref()
                .is_none_or(|upstream| upstream.application_name == *name);
        if streams && named {
            return Need::Nothing;
        }
        if ours.is_diverged(sample) {
            return Need::Rewind;
        }
        if self.points_at(sample, name, &master.name) {
            Need::Nothing
        } else {
            Need::Follow
        }
    }

    /// Whether it streams from the master's line.
    pub(super) fn is_following(&self, master: &Master, sample: &Sample) -> bool {
        let streams = |s: &Sample| s.receiver.as_ref().is_some_and(|receiver| receiver.streaming);
        sample.recovery && streams(sample) && sample.timeline == master.timeline
    }

    /// What the records of rejoining servers say next: back, rewind begun or failed, given up.
    pub(super) fn close_rejoins(&self, master: &Master) -> Option<Decision> {
        for server in self.settings.others(&master.name) {
            let name = &server.name;
            let record = self.durable.rejoin.get(name);
            let sample = self.sample(name);
            if record.is_some() && sample.is_some_and(|sample| self.is_following(master, sample)) {
                let mut durable = self.durable.clone();
                durable.rejoin.remove(name);
                return Some(
                    Decision::write(durable).note(Reason::RejoinCompleted, format!("{name} follows")),
                );
            }
            let need = self.need(master, name);
            let zombie = sample.is_some_and(|sample| !sample.recovery);
            let misfit = matches!(need, Need::Demote | Need::Rewind | Need::Rebuild);
            if misfit && (record.is_none() || (zombie && record.is_some_and(|record| !record.zombie))) {
                let mut durable = self.durable.clone();
                let rejoin = durable.rejoin.entry(name.clone()).or_default();
                rejoin.zombie |= zombie;
                let reason = if zombie {
                    Reason::ZombieMaster
                } else {
                    Reason::RejoinStarted
                };
                return Some(Decision::write(durable).note(reason, self.describe(name, need)));
            }
            if let Some(record) = record
                && let Some((next, note)) = self.next_try(name, record, need)
            {
                let mut durable = self.durable.clone();
                durable.rejoin.insert(name.clone(), next);
                let mut decision = Decision::write(durable);
                decision.notes.push(note);
                return Some(decision);
            }
        }
        None
    }

    fn describe(&self, name: &str, need: Need) -> String {
        let sample = self.sample(name);
        let at = sample
            .map(|s| format!(" (timeline {}, {})", s.timeline, s.lsn))
            .unwrap_or_default();
        match need {
            Need::Demote => format!("{name}{at} takes writes beside the master: it becomes a replica"),
            Need::Rewind => format!("{name}{at} has log the master never had: it must be rewound"),
            Need::Rebuild => format!("{name}{at} was promoted beside the master: it must be copied anew"),
            _ => format!("{name}{at}"),
        }
    }

    /// The ladder of a diverged server: at most three rewinds, then a person.
    fn next_try(&self, name: &str, record: &Rejoin, need: Need) -> Option<(Rejoin, Note)> {
        if record.given_up {
            return None;
        }
        if self.settings.rejoin == RejoinPolicy::Manual {
            let next = Rejoin {
                given_up: true,
                ..record.clone()
            };
            let message = format!("{}; spec.ha.rejoin is Manual", self.describe(name, need));
            return Some((next, Note::new(Reason::RejoinRequired, message)));
        }
        let since = self
            .rejoin_changed
            .get(name)
            .map_or(self.view.born, |(_, at)| *at);
        let tried = self
            .view
            .tried(name, ActKind::Rewind)
            .filter(|tried| tried.at.is_some_and(|at| at > since));
        let ended = record.rewinding && tried.is_some();
        let failed = tried.is_some_and(|tried| tried.error.is_some());
        if ended && !failed && need != Need::Rewind {
            let probed = self.view.server(name).probed > tried.and_then(|tried| tried.at);
            let next = Rejoin {
                rewinding: false,
                ..record.clone()
            };
            return probed.then(|| {
                (
                    next,
                    Note::new(Reason::RejoinStarted, format!("{name} was rewound")),
                )
            });
        }
        if need == Need::Rebuild {
            let next = Rejoin {
                given_up: true,
                rewinding: false,
                ..record.clone()
            };
            return Some((next, Note::new(Reason::RejoinRequired, self.describe(name, need))));
        }
        let begins = need == Need::Rewind && !record.rewinding;
        let settled = tried
            .and_then(|tried| tried.at)
            .is_none_or(|at| self.view.server(name).settled(at));
        if !begins && !(ended && (failed || settled)) {
            return None;
        }
        if !self.settings.can_rewind || record.tries >= REWINDS_MAX {
            let next = Rejoin {
                given_up: true,
                rewinding: false,
                ..record.clone()
            };
            let why = if self.settings.can_rewind {
                format!("{REWINDS_MAX} rewinds did not help")
            } else {
                "there is no --rewind-command".to_owned()
            };
            let error = tried.and_then(|tried| tried.error.as_deref()).unwrap_or_default();
            let message = format!("{}; {why} {error}", self.describe(name, need));
            return Some((
                next,
                Note::new(Reason::RejoinRequired, message.trim_end().to_owned()),
            ));
        }
        let next = Rejoin {
            tries: record.tries + 1,
            rewinding: true,
            ..record.clone()
        };
        let message = format!("{}: rewind {}", self.describe(name, Need::Rewind), next.tries);
        Some((next, Note::new(Reason::RejoinStarted, message)))
    }

    /// The acts one server needs that is not master.
    pub(super) fn tend(&self, master: &Master, name: &str, acts: &mut Vec<Act>, now: Instant) {
        let need = self.need(master, name);
        let record = self.durable.rejoin.get(name);
        let (server, master_name) = (name.to_owned(), master.name.clone());
        if let Some(sample) = self.sample(name).filter(|sample| !sample.recovery) {
            self.fence_zombie(name, sample, acts, now);
        }
        if matches!(need, Need::Follow | Need::Start) && !self.has_slot(master, name) {
            return;
        }
        let Some(record) = record else {
            if need == Need::Follow {
                self.push(
                    acts,
                    Act::Follow {
                        server,
                        master: master_name,
                    },
                    now,
                );
            } else if need == Need::Nothing {
                self.drop_slots(name, |_| false, acts, now);
            }
            return;
        };
        if record.given_up {
            return;
        }
        match need {
            _ if record.rewinding => {
                // Once a record; what it came to is judged before there is another.
                let since = self
                    .rejoin_changed
                    .get(name)
                    .map_or(self.view.born, |(_, at)| *at);
                let tried = self.view.tried(name, ActKind::Rewind).and_then(|tried| tried.at);
                if tried.is_none_or(|at| at <= since) {
                    acts.retain(|act| act.server() != name);
                    acts.push(Act::Rewind {
                        server,
                        master: master_name,
                    });
                }
            }
            Need::Follow => self.push(
                acts,
                Act::Follow {
                    server,
                    master: master_name,
                },
                now,
            ),
            Need::Start => self.push(
                acts,
                Act::Start {
                    server,
                    master: master_name,
                },
                now,
            ),
            Need::Demote => {
                let ready = self
                    .sample(name)
                    .is_some_and(|sample| self.will_return(sample, name, &master.name));
                let act = if ready {
                    Act::Stop { server }
                } else {
                    Act::MakeStandby {
                        server,
                        master: master_name,
                    }
                };
                if !acts.iter().any(|act| act.server() == name) {
                    self.push(acts, act, now);
                }
            }
            Need::Nothing => self.drop_slots(name, |_| false, acts, now),
            Need::Rewind | Need::Rebuild | Need::Unknown => {}
        }
    }

    /// Whoever writes and is not master is fenced at once, whatever becomes of it.
    fn fence_zombie(&self, name: &str, sample: &Sample, acts: &mut Vec<Act>, now: Instant) {
        if !sample.read_only || sample.clients > 0 || sample.senders.iter().any(|sender| sender.streaming) {
            self.push(
                acts,
                Act::Fence {
                    server: name.to_owned(),
                },
                now,
            );
        }
    }
}

//! The set of standbys commits wait for: changed in two phases, so that an election always knows every set under
//! which a commit may have been acknowledged (OPERATOR A4, I4).

use super::act::{Act, Reason};
use super::durable::{Candidate, SUPERSEDED_MAX, SyncSet};
use super::types::{Durability, Lsn, Name, Sample};
use super::{Core, Decision, Master, Operation};
use std::time::Instant;

/// A value of `synchronous_standby_names` as seen on the master.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    names: String,
    /// Where the log stood at the second look: commits before it may have been acknowledged under the set before.
    mark: Option<Lsn>,
}

impl Core {
    /// For how many standbys commits shall wait.
    fn sync_count(&self) -> u32 {
        let others = u32::try_from(self.settings.servers.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.settings.sync_replicas.max(1).min(others)
    }

    /// A set of `names`, by the rules of the mode: `Required` never waits for fewer than it must, even if that
    /// means waiting for servers that are down.
    fn sync_set(&self, mut names: Vec<Name>, master: &str) -> SyncSet {
        let mut k = self.sync_count();
        let have = u32::try_from(names.len()).unwrap_or(u32::MAX);
        match self.settings.durability {
            Durability::Async => return SyncSet::default(),
            Durability::Preferred => k = k.min(have),
            Durability::Required if have < k => {
                let recorded = self.durable.sync.sets().flat_map(|set| set.names.clone());
                let all = self.settings.others(master).map(|server| server.name.clone());
                for name in recorded.chain(all) {
                    let known = self.settings.server(&name).is_some() && name != master;
                    if known && !names.contains(&name) && names.len() < k as usize {
                        names.push(name);
                    }
                }
            }
            Durability::Required => {}
        }
        names.sort();
        names.dedup();
        if names.is_empty() {
            SyncSet::default()
        } else {
            SyncSet { names, k }
        }
    }

    /// The set a newly elected master begins with: everybody who was measured and will follow it.
    pub(super) fn sync_set_of_target(&self, target: &str, measured: &[Candidate]) -> Option<SyncSet> {
        let names = measured
            .iter()
            .map(|c| c.name.clone())
            .filter(|name| name != target)
            .collect();
        self.to_propose(self.sync_set(names, target))
    }

    /// The set after a planned switchover: the old master is among those who confirm.
    pub(super) fn sync_set_after_switch(&self, op: &Operation, target: &str) -> Option<SyncSet> {
        let others = self.settings.others(target);
        let names = others
            .filter(|server| {
                server.name == op.from || self.sample(&server.name).is_some_and(|sample| sample.recovery)
            })
            .map(|server| server.name.clone())
            .collect();
        self.to_propose(self.sync_set(names, target))
    }

    fn to_propose(&self, set: SyncSet) -> Option<SyncSet> {
        let recorded = self.durable.sync.sets().next().is_some();
        (recorded || !set.names.is_empty()).then_some(set)
    }

    /// What to set on `server`, which is or becomes master, if it is not yet so.
    pub(super) fn sync_act(&self, server: &str, sample: &Sample) -> Option<Act> {
        let sync = &self.durable.sync;
        let set = match (
            sync.pending.as_ref().or(sync.confirmed.as_ref()),
            self.settings.durability,
        ) {
            (Some(set), _) => set.clone(),
            // A clone of a master carries our old setting: it would wait for standbys of yesterday.
            (None, Durability::Async) if self.is_ours(&sample.sync_names) => SyncSet::default(),
            _ => return None,
        };
        (sample.sync_names != set.render()).then(|| Act::SyncNames {
            server: server.to_owned(),
            set,
        })
    }

    /// Whether we wrote this value: `ANY k` and nobody but servers of this pool.
    fn is_ours(&self, names: &str) -> bool {
        let Some((_, list)) = names.strip_prefix("ANY ").and_then(|rest| rest.split_once('(')) else {
            return false;
        };
        let mut list = list
            .trim_end_matches(')')
            .split(',')
            .map(|name| name.trim().trim_matches('"'));
        list.all(|name| self.settings.server(name).is_some())
    }

    /// Remembers since when a set is in force.
    pub(super) fn observe_sync(&mut self, server: &str) {
        let Some(master) = self
            .durable
            .master
            .as_ref()
            .filter(|master| master.name == server)
        else {
            return;
        };
        let Some(sample) = self.view.server(&master.name).current().filter(|s| !s.recovery) else {
            return;
        };
        match &mut self.sync_applied {
            Some(applied) if applied.names == sample.sync_names => {
                applied.mark = applied.mark.or(Some(sample.lsn));
            }
            applied => {
                *applied = Some(Applied {
                    names: sample.sync_names.clone(),
                    mark: None,
                })
            }
        }
    }

    /// The set that should be in force: whoever streams, or streamed until a moment ago.
    fn sync_wanted(&self, master: &Master, now: Instant) -> SyncSet {
        let grace = self.settings.probe_period * self.settings.threshold.max(2);
        let in_force = self
            .durable
            .sync
            .pending
            .as_ref()
            .or(self.durable.sync.confirmed.as_ref());
        let names = self
            .settings
            .others(&master.name)
            .filter(|server| {
                let streamed = self.view.server(&server.name).streamed;
                // Joins when it streams; leaves when it has not for a while, counted from our own start at least.
                let member = in_force.is_some_and(|set| set.names.contains(&server.name));
                let last = if member {
                    streamed.unwrap_or(self.view.born)
                } else {
                    streamed.unwrap_or(now - grace)
                };
                now.saturating_duration_since(last) < grace
            })
            .map(|server| server.name.clone())
            .collect();
        self.sync_set(names, &master.name)
    }

    /// One step of keeping the set: propose, put in force, confirm.
    pub(super) fn keep_sync(&self, master: &Master, sample: &Sample, now: Instant) -> Option<Decision> {
        let sync = &self.durable.sync;
        let wanted = self.sync_wanted(master, now);
        let recorded = sync
            .pending
            .as_ref()
            .or(sync.confirmed.as_ref())
            .cloned()
            .unwrap_or_default();
        if wanted != recorded && sync.superseded.len() < SUPERSEDED_MAX {
            let mut durable = self.durable.clone();
            let fewer = wanted.k < recorded.k;
            let message = format!("commits wait for [{}]", wanted.render());
            durable.sync.propose(wanted);
            let decision = Decision::write(durable);
            return Some(if fewer {
                decision.note(Reason::DurabilityDegraded, message)
            } else {
                decision
            });
        }
        let Some(pending) = &sync.pending else {
            return self
                .sync_act(&master.name, sample)
                .map(|act| Decision::acts(vec![act]));
        };
        if sample.sync_names != pending.render() {
            return self
                .sync_act(&master.name, sample)
                .map(|act| Decision::acts(vec![act]));
        }
        if !self.is_confirmed(pending, sample) {
            return None;
        }
        let mut durable = self.durable.clone();
        durable.sync.confirm();
        Some(Decision::write(durable).note(
            Reason::DurabilityRestored,
            format!("[{}] confirmed", pending.render()),
        ))
    }

    /// Whether enough of the set hold everything that may have been acknowledged before it was in force.
    fn is_confirmed(&self, pending: &SyncSet, sample: &Sample) -> bool {
        let Some(applied) = self
            .sync_applied
            .as_ref()
            .filter(|applied| applied.names == sample.sync_names)
        else {
            return false;
        };
        let Some(mark) = applied.mark else { return false };
        let holders = sample.senders.iter().filter(|sender| {
            sender.streaming
                && sender.counts()
                && sender.flushed >= mark
                && pending.names.contains(&sender.name)
        });
        // One standby may stream twice while it reconnects.
        let names: std::collections::BTreeSet<&str> = holders.map(|sender| sender.name.as_str()).collect();
        names.len() >= pending.k as usize
    }
}

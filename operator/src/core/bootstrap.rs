//! The first start, and following somebody else's promotion (OPERATOR A8).

use super::act::Reason;
use super::durable::{Finished, Master, Mode, Outcome};
use super::types::{Name, Sample};
use super::view::Class;
use super::{Core, Decision, Verdict, detect};
use std::time::Instant;

impl Core {
    /// Servers that take writes, with their samples.
    pub(super) fn writable(&self) -> Vec<(&Name, &Sample)> {
        let servers = self.settings.servers.iter();
        servers
            .filter_map(|server| Some((&server.name, self.view.server(&server.name).current()?)))
            .filter(|(_, sample)| !sample.recovery)
            .collect()
    }

    /// No status yet: whoever is the only one to take writes is master. Two of them are a person's business.
    pub(super) fn bootstrap(&self) -> Decision {
        let writable = self.writable();
        let [(name, sample)] = writable.as_slice() else {
            return Decision::default();
        };
        let seed = &self.settings.seed;
        let mut servers = self.settings.servers.iter();
        let all_told = servers.all(|server| self.view.server(&server.name).probed.is_some());
        // If the seed cannot be asked, somebody has to follow the one we see.
        let seed_is_out = *name != seed && self.view.server(seed).class != Some(Class::Up);
        let followed = self.settings.others(name).any(|server| {
            self.view.server(&server.name).current().is_some_and(|s| {
                s.system == sample.system && s.receiver.as_ref().is_some_and(|r| r.streaming)
            })
        });
        if !all_told || (seed_is_out && !followed) {
            return Decision::default();
        }
        let mut durable = self.durable.clone();
        durable.epoch += 1;
        durable.mode = Mode::Open;
        durable.master = Some(master_of(name, sample));
        let found = format!("{name} is master, timeline {}", sample.timeline);
        let decision = Decision::write(durable).note(Reason::MasterFound, found);
        if *name == seed {
            return decision;
        }
        decision.note(
            Reason::MasterAdopted,
            format!("the manifest begins with {seed}, but {name} takes the writes"),
        )
    }

    /// Somebody promoted outside of us: follow the highest timeline, never the order of the list or the loudest.
    pub(super) fn adopt(&self, master: &Master, now: Instant) -> Option<Decision> {
        let writable = self.writable();
        let mine = writable
            .iter()
            .find(|(name, _)| **name == master.name)
            .map(|(_, sample)| *sample);
        if let Some(sample) = mine
            && sample.system == master.system
            && sample.timeline > master.timeline
            && sample.descends_from(master.timeline)
        {
            return Some(self.adopted(master, &master.name, sample));
        }
        let mut risen: Vec<(&Name, &Sample)> = writable
            .iter()
            .filter(|(name, sample)| **name != master.name && sample.system == master.system)
            .filter(|(_, sample)| self.outranks(master, sample, mine.is_some(), now))
            .copied()
            .collect();
        risen.sort_by_key(|(_, sample)| std::cmp::Reverse(sample.timeline));
        match risen.as_slice() {
            [] => None,
            [(name, sample)] => Some(self.adopted(master, name, sample)),
            [(name, sample), (_, second), ..] if sample.timeline > second.timeline => {
                Some(self.adopted(master, name, sample))
            }
            // Two of one timeline: nobody can tell them apart from here.
            _ => None,
        }
    }

    fn outranks(&self, master: &Master, sample: &Sample, master_writes: bool, now: Instant) -> bool {
        if sample.timeline > master.timeline && sample.descends_from(master.timeline) {
            return true;
        }
        if self.settings.ha || master_writes {
            return false;
        }
        // We only follow: servers that are not ours may switch over without a timeline of their own.
        let verdict = detect::judge(&self.settings, master, &self.view, now);
        matches!(verdict, Verdict::Demoted | Verdict::Dead(_))
    }

    fn adopted(&self, master: &Master, name: &str, sample: &Sample) -> Decision {
        let mut durable = self.durable.clone();
        durable.epoch += 1;
        durable.mode = Mode::Open;
        durable.master = Some(master_of(name, sample));
        let message = format!(
            "{name} was promoted outside of the operator, timeline {}: following it",
            sample.timeline
        );
        durable.finish(Finished {
            id: format!("adoption-{}", durable.epoch),
            kind: None,
            from: master.name.clone(),
            to: name.to_owned(),
            outcome: Outcome::Adopted,
            message: message.clone(),
        });
        durable.rejoin.remove(name);
        if name != master.name && self.settings.ha {
            durable.rejoin.insert(master.name.clone(), Default::default());
        }
        Decision::write(durable).note(Reason::MasterAdopted, message)
    }
}

/// The record of a master as sampled.
pub(super) fn master_of(name: &str, sample: &Sample) -> Master {
    Master {
        name: name.to_owned(),
        timeline: sample.timeline,
        system: sample.system.clone(),
    }
}

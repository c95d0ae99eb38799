//! The everyday work while no operation is under way.

use super::act::{Act, Reason};
use super::durable::Mode;
use super::rejoin::Need;
use super::types::slot_name;
use super::view::Class;
use super::{Core, Decision, Master, Verdict, detect};
use std::time::Instant;

impl Core {
    /// Adopt, detect, keep the sync set, switch over, bring others in line: in this order.
    pub(super) fn steady(&self, master: &Master, now: Instant) -> Decision {
        if let Some(decision) = self.adopt(master, now) {
            return decision;
        }
        if !self.settings.ha {
            return Decision::default();
        }
        let verdict = detect::judge(&self.settings, master, &self.view, now);
        if let Some(why) = self.is_lost(master, &verdict, now)
            && !self.settings.paused
            && self.settings.others(&master.name).next().is_some()
        {
            return self.declare_failover(master, &why);
        }
        let suspect = match verdict {
            Verdict::Suspect(why) if self.view.server(&master.name).failures >= 3 => Some(why),
            _ => None,
        };
        let intact = self
            .sample(&master.name)
            .filter(|sample| detect::is_intact(master, sample));
        if self.durable.mode != Mode::Open && intact.is_some() {
            return self.reopen(master);
        }
        if let Some(decision) = self.close_rejoins(master) {
            return decision;
        }
        let mut acts = Vec::new();
        if let Some(sample) = intact {
            match self.keep_sync(master, sample, now) {
                Some(decision) if decision.write.is_some() => return decision,
                Some(decision) => decision
                    .acts
                    .into_iter()
                    .for_each(|act| self.push(&mut acts, act, now)),
                None => {}
            }
            if let Some(request) = self
                .settings
                .switchover
                .as_ref()
                .filter(|_| !self.settings.paused)
                && let Some(decision) = self.request_switchover(master, request, now)
            {
                return decision;
            }
            if sample.read_only {
                self.push(
                    &mut acts,
                    Act::Unfence {
                        server: master.name.clone(),
                    },
                    now,
                );
            }
            self.master_slots(master, &mut acts, now);
        }
        for server in self.settings.others(&master.name) {
            self.tend(master, &server.name, &mut acts, now);
        }
        let decision = Decision::acts(acts);
        match suspect {
            Some(why) => decision.note(Reason::MasterSuspect, format!("{}: {why}", master.name)),
            None => decision,
        }
    }

    /// Whether a failover is due, and why.
    fn is_lost(&self, master: &Master, verdict: &Verdict, now: Instant) -> Option<String> {
        match verdict {
            Verdict::Dead(why) => Some(why.clone()),
            Verdict::Demoted => {
                // Somebody may be in the middle of a switchover by hand: give him the time a crash would get.
                let since = self.view.server(&master.name).standby?;
                let waited = now.saturating_duration_since(since);
                (waited >= self.settings.crash_grace)
                    .then(|| "it is a standby and nobody took its place".into())
            }
            _ => None,
        }
    }

    /// Fenced without an operation, but the master is there as recorded.
    fn reopen(&self, master: &Master) -> Decision {
        let mut durable = self.durable.clone();
        durable.epoch += 1;
        durable.mode = Mode::Open;
        Decision::write(durable).note(Reason::MasterFound, format!("{} serves", master.name))
    }

    /// Slots of standbys that use one; those of nobody go.
    fn master_slots(&self, master: &Master, acts: &mut Vec<Act>, now: Instant) {
        let Some(sample) = self.sample(&master.name) else {
            return;
        };
        let missing: Vec<String> = self
            .settings
            .others(&master.name)
            .filter(|server| {
                let uses = self
                    .sample(&server.name)
                    .is_some_and(|s| s.recovery && s.slot == slot_name(&server.name));
                uses || self.durable.rejoin.contains_key(&server.name)
                    || self.need(master, &server.name) == Need::Follow
            })
            .map(|server| slot_name(&server.name))
            .filter(|slot| !sample.slots.iter().any(|(have, _)| have == slot))
            .collect();
        if !missing.is_empty() {
            return self.push(
                acts,
                Act::Slots {
                    server: master.name.clone(),
                    slots: missing,
                },
                now,
            );
        }
        let known: Vec<String> = self
            .settings
            .others(&master.name)
            .map(|server| slot_name(&server.name))
            .collect();
        self.drop_slots(&master.name, |slot| known.contains(slot), acts, now);
    }

    /// Drops slots of ours that nobody uses: they would hold back the log for ever.
    pub(super) fn drop_slots(
        &self,
        server: &str,
        keep: impl Fn(&String) -> bool,
        acts: &mut Vec<Act>,
        now: Instant,
    ) {
        let Some(sample) = self.sample(server) else { return };
        let orphans: Vec<String> = sample
            .slots
            .iter()
            .filter(|(slot, active)| !active && !keep(slot))
            .map(|(slot, _)| slot.clone())
            .collect();
        if !orphans.is_empty() {
            self.push(
                acts,
                Act::DropSlots {
                    server: server.to_owned(),
                    slots: orphans,
                },
                now,
            );
        }
    }

    /// Whether the master keeps the log for this standby: one that comes too early waits five seconds to ask again.
    pub(super) fn has_slot(&self, master: &Master, name: &str) -> bool {
        let slot = slot_name(name);
        self.sample(&master.name)
            .is_some_and(|sample| sample.slots.iter().any(|(have, _)| *have == slot))
    }

    /// Whether a server answers at all.
    pub(super) fn is_down(&self, name: &str) -> bool {
        self.view.server(name).class == Some(Class::Refused)
    }
}

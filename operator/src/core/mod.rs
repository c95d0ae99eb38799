//! The decision core: events and `now` in, one record to write or acts to do out. It does no I/O and reads no clock.
//!
//! It owns the rules of OPERATOR A4-A8. It must never act on anything that is not yet recorded (I5): a [`Decision`]
//! holds either a record to write by compare-and-swap, or acts, never both, and acts follow from [`Durable`] and the
//! [`View`] alone. So whoever comes after a dead operator reads the status, probes, and goes on (I7).
//!
//! Every step is level-triggered: look, then act if it is not yet so. Begin with [`Core::decide`].

mod act;
mod bootstrap;
mod detect;
mod durable;
mod elect;
mod exits;
mod failover;
mod promotion;
mod rejoin;
mod steady;
mod switchover;
mod sync;
mod types;
mod view;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod sim_acts;
#[cfg(test)]
mod walk;

pub use act::{Act, ActKind, Note, Reason};
pub use detect::Verdict;
pub use durable::{
    Blocked, Candidate, Durable, Fencing, Finished, Kind, Master, Mode, Operation, Outcome, Rejoin, Step,
    SyncSet, SyncState,
};
pub use types::{
    DETACHED_HOST, Durability, Fork, Lsn, Name, Probe, ProxyFacts, Receiver, RejoinPolicy, Sample, Sender,
    Server, Settings, SwitchoverRequest, Upstream, slot_name,
};
pub use view::{Class, Seen, Tried, View};

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A probe ended.
    Probed {
        /// Whom it asked.
        server: Name,
        /// What came of it.
        probe: Probe,
    },
    /// The reports of all proxies were read.
    Heard(Vec<ProxyFacts>),
    /// An act ended.
    Acted {
        /// On which server.
        server: Name,
        /// Which.
        kind: ActKind,
        /// Why it failed.
        error: Option<String>,
    },
    /// The manifest changed.
    Configured(Box<Settings>),
}

/// What to do next: write the record and decide again, or do the acts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To be written by compare-and-swap before anything else.
    pub write: Option<Box<Durable>>,
    /// To be done; empty when there is something to write.
    pub acts: Vec<Act>,
    /// To be told once the record is written (or at once, without one).
    pub notes: Vec<Note>,
}

impl Decision {
    fn write(durable: Durable) -> Self {
        Self {
            write: Some(Box::new(durable)),
            ..Self::default()
        }
    }

    fn acts(acts: Vec<Act>) -> Self {
        Self {
            acts,
            ..Self::default()
        }
    }

    fn note(mut self, reason: Reason, message: impl Into<String>) -> Self {
        self.notes.push(Note::new(reason, message));
        self
    }
}

/// The decision core of one pool.
#[derive(Clone, Debug)]
pub struct Core {
    settings: Settings,
    durable: Durable,
    view: View,
    /// The step we are in and since when we know.
    entered: Option<((String, Step, u32), Instant)>,
    /// When a server's rejoin record last changed.
    rejoin_changed: BTreeMap<Name, (Rejoin, Instant)>,
    /// The sync set seen in force on the master.
    sync_applied: Option<sync::Applied>,
}

impl Core {
    /// Takes over from whatever the record says.
    pub fn new(settings: Settings, durable: Durable, now: Instant) -> Self {
        let mut core = Self {
            settings,
            durable: Durable::default(),
            view: View::new(now),
            entered: None,
            rejoin_changed: BTreeMap::new(),
            sync_applied: None,
        };
        core.recorded(durable, now);
        core
    }

    /// The record as it stands.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// What was seen.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The record that was written, or read again after somebody else wrote.
    pub fn recorded(&mut self, durable: Durable, now: Instant) {
        let key = durable
            .operation
            .as_ref()
            .map(|op| (op.id.clone(), op.step, op.attempt));
        if self.entered.as_ref().map(|(key, _)| key) != key.as_ref() {
            self.entered = key.map(|key| (key, now));
        }
        let old = std::mem::take(&mut self.rejoin_changed);
        for (name, rejoin) in &durable.rejoin {
            let since = match old.get(name) {
                Some((before, at)) if before == rejoin => *at,
                _ => now,
            };
            self.rejoin_changed.insert(name.clone(), (rejoin.clone(), since));
        }
        self.durable = durable;
    }

    /// Takes an event in.
    pub fn on(&mut self, event: Event, now: Instant) {
        match event {
            Event::Probed { server, probe } => {
                self.view.probed(&server, probe, now);
                self.observe_sync(&server);
            }
            Event::Heard(reports) => self.view.heard(reports, now),
            Event::Acted { server, kind, error } => self.view.acted(&server, kind, error, now),
            Event::Configured(settings) => self.settings = *settings,
        }
    }

    /// What to do now. Call again after the record is written, and whenever something happened.
    pub fn decide(&self, now: Instant) -> Decision {
        let Some(master) = &self.durable.master else {
            return self.bootstrap();
        };
        match &self.durable.operation {
            Some(operation) if self.settings.ha => self.operate(operation, now),
            _ => self.steady(master, now),
        }
    }

    /// When this step began, as far as this operator knows.
    fn step_began(&self) -> Instant {
        self.entered.as_ref().map_or(self.view.born, |(_, at)| *at)
    }

    /// How long this step takes already.
    fn in_step(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.step_began())
    }

    /// When an act of this kind last ended since this step began.
    fn done_since_entry(&self, server: &str, kind: ActKind) -> Option<Instant> {
        let began = self.step_began();
        self.view
            .tried(server, kind)
            .and_then(|tried| tried.at)
            .filter(|at| *at >= began)
    }

    /// The current sample of a server, if it belongs to our cluster.
    fn sample(&self, name: &str) -> Option<&Sample> {
        let sample = self.view.server(name).current()?;
        let system = self
            .durable
            .master
            .as_ref()
            .map_or("", |master| master.system.as_str());
        (system.is_empty() || sample.system == system).then_some(sample)
    }

    /// Adds an act, unless it was just tried.
    fn push(&self, acts: &mut Vec<Act>, act: Act, now: Instant) {
        if self.view.may(act.server(), act.kind(), now) && !acts.iter().any(|a| a.server() == act.server()) {
            acts.push(act);
        }
    }

    /// The operation with changes, as a record to write.
    fn advance(&self, operation: &Operation, change: impl FnOnce(&mut Durable, &mut Operation)) -> Decision {
        let mut durable = self.durable.clone();
        let mut next = operation.clone();
        change(&mut durable, &mut next);
        durable.operation = Some(next);
        Decision::write(durable)
    }

    /// The operation at another step.
    fn enter(&self, operation: &Operation, step: Step) -> Decision {
        self.advance(operation, |_, op| op.step = step)
    }
}

//! What a request may change in its session, so that it is read back, pinned or cleaned after it. Pure.

use super::policy::state_that_cannot_move;
use crate::classify::{Argument, Class, Discard, Kind, ResetItem, SetItem, Touches};

/// Which settings have to be read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// These, by name.
    pub(super) names: Vec<String>,
    /// These were reset: their value is the startup's again.
    pub(super) reset: Vec<String>,
    /// Any.
    pub(super) all: bool,
}

impl Changed {
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty() && self.reset.is_empty()
    }

    /// Whether some may have gone back to what they were at the start.
    pub(super) fn resets(&self) -> bool {
        self.all || !self.reset.is_empty()
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) settings: Changed,
    /// May make or release state that cannot be moved: the server is asked.
    pub(super) pins: bool,
    /// State nobody can ask for: kept to the end of the session, and the worker closed then.
    pub(super) sticky: Option<&'static str>,
    /// Leaves nothing behind but what is above: no clean-up for its sake.
    pub(super) clean: bool,
    /// The catalog's copies are stale.
    pub(super) ddl: bool,
    /// May have drawn from a sequence.
    pub(super) sequences: bool,
}

const STICKY: [(Touches, &str); 6] = [
    (Touches::LOAD, "LOAD"),
    (Touches::SETSEED, "setseed"),
    (Touches::DBLINK, "dblink connection"),
    (Touches::REPLICATION_ORIGIN, "replication origin"),
    (Touches::BACKUP, "base backup"),
    (Touches::SLOT, "temporary slot"),
];

impl Effects {
    /// What a request of this class may leave behind.
    pub(super) fn of(class: &Class) -> Self {
        let mut effects = Self {
            clean: class.neutral || class.is_known_read() || keeps_clean(&class.kind),
            sequences: class
                .touches
                .intersects(Touches::SEQUENCE | Touches::SEQUENCE_DEFAULT)
                || !(class.neutral || class.is_known_read() || keeps_clean(&class.kind)),
            ..Self::default()
        };
        effects.add(&class.kind);
        if let Some(calls) = &class.set_config {
            for call in calls.iter() {
                match &call.name {
                    Argument::Text(name) => {
                        effects
                            .settings
                            .names
                            .push(String::from_utf8_lossy(name).to_ascii_lowercase());
                    }
                    _ => effects.settings.all = true,
                }
            }
            effects.clean = false;
        } else if class.touches.intersects(Touches::SETTINGS) {
            effects.settings.all = true;
            effects.clean = false;
        }
        let pins = Touches::LISTEN
            | Touches::ADVISORY_LOCK
            | Touches::ADVISORY_UNLOCK
            | Touches::ADVISORY_UNLOCK_ALL
            | Touches::TEMP
            | Touches::HOLD_CURSOR;
        effects.pins |= class.touches.intersects(pins) || state_that_cannot_move(class).is_some();
        effects.sticky = STICKY
            .iter()
            .find(|(t, _)| class.touches.intersects(*t))
            .map(|(_, why)| *why);
        effects
    }

    fn add(&mut self, kind: &Kind) {
        match kind {
            Kind::Set(statement) => {
                self.clean = false;
                for item in &statement.items {
                    match item {
                        SetItem::Set { local: true, .. } | SetItem::Reset { local: true, .. } => {}
                        SetItem::Set { name, .. } => self.settings.names.push(name.to_string()),
                        SetItem::Reset { name, .. } => self.settings.reset.push(name.to_string()),
                        SetItem::ResetAll => self.settings.all = true,
                    }
                }
            }
            Kind::Reset(items) => {
                self.clean = false;
                for item in items.iter() {
                    match item {
                        ResetItem::ResetAll | ResetItem::ResetRole | ResetItem::ResetSessionAuthorization => {
                            self.settings.all = true;
                        }
                        ResetItem::Discard(what) => self.discard(*what),
                        ResetItem::DeallocateAll => {}
                        ResetItem::AdvisoryUnlockAll | ResetItem::CloseAll | ResetItem::UnlistenAll => {
                            self.pins = true
                        }
                    }
                }
            }
            Kind::Discard(what) => self.discard(*what),
            Kind::Listen { .. }
            | Kind::Unlisten { .. }
            | Kind::CloseCursor { .. }
            | Kind::DeclareHold { .. }
            | Kind::CreateTemp { .. } => {
                self.pins = true;
            }
            Kind::Ddl => {
                self.ddl = true;
                self.pins = true;
            }
            Kind::List(list) => {
                for kind in &list.kinds {
                    self.add(kind);
                }
                self.ddl |= list.ddl;
            }
            _ => {}
        }
    }

    fn discard(&mut self, what: Discard) {
        self.clean = false;
        match what {
            Discard::All => {
                self.settings.all = true;
                self.pins = true;
            }
            Discard::Temp => self.pins = true,
            Discard::Plans | Discard::Sequences => {}
        }
    }
}

/// Statements that by their nature leave nothing in a session that is idle afterwards.
fn keeps_clean(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Empty
            | Kind::Begin { .. }
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint
            | Kind::ReleaseSavepoint
            | Kind::RollbackToSavepoint
            | Kind::SetTransaction
            | Kind::SetConstraints
            | Kind::LockTable
            | Kind::Notify
            | Kind::PrepareTransaction
            | Kind::CommitPrepared
            | Kind::RollbackPrepared
    )
}

//! What the core asks the shell to do. Every act looks first and does nothing where it is already so.

use super::durable::SyncSet;
use super::types::Name;
use std::time::Duration;

/// Something to do to one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Refuse writes, end the sessions of clients and the streams of standbys.
    Fence {
        /// The server.
        server: Name,
    },
    /// Undo [`Act::Fence`].
    Unfence {
        /// The server.
        server: Name,
    },
    /// Take a replica off its master.
    Detach {
        /// The server.
        server: Name,
    },
    /// Point a replica at a master.
    Follow {
        /// The server.
        server: Name,
        /// Its master.
        master: Name,
    },
    /// Create the slots of these standbys.
    Slots {
        /// The server.
        server: Name,
        /// Slot names.
        slots: Vec<String>,
    },
    /// Drop slots nobody uses.
    DropSlots {
        /// The server.
        server: Name,
        /// Slot names.
        slots: Vec<String>,
    },
    /// Set `synchronous_standby_names`.
    SyncNames {
        /// The server.
        server: Name,
        /// The set; no names: nobody.
        set: SyncSet,
    },
    /// Promote a standby.
    Promote {
        /// The server.
        server: Name,
    },
    /// Write the epoch row, where the schema is installed.
    Mark {
        /// The server.
        server: Name,
        /// The epoch.
        epoch: u64,
        /// The operation.
        operation: String,
    },
    /// A checkpoint.
    Checkpoint {
        /// The server.
        server: Name,
    },
    /// Make it come back as a standby when it restarts.
    MakeStandby {
        /// The server.
        server: Name,
        /// Its master to be.
        master: Name,
    },
    /// Undo [`Act::MakeStandby`].
    UnmakeStandby {
        /// The server.
        server: Name,
    },
    /// Stop it, fast.
    Stop {
        /// The server.
        server: Name,
    },
    /// Start a stopped one as a standby.
    Start {
        /// The server.
        server: Name,
        /// Its master.
        master: Name,
    },
    /// Stop it, rewind it to the master's line, start it as a standby.
    Rewind {
        /// The server.
        server: Name,
        /// Its master.
        master: Name,
    },
}

/// The verb of an [`Act`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as the variants of Act")]
pub enum ActKind {
    Fence,
    Unfence,
    Detach,
    Follow,
    Slots,
    DropSlots,
    SyncNames,
    Promote,
    Mark,
    Checkpoint,
    MakeStandby,
    UnmakeStandby,
    Stop,
    Start,
    Rewind,
}

impl ActKind {
    /// The least time between the end of one and the next of its kind.
    pub(super) fn pause(self) -> Duration {
        match self {
            Self::Start => Duration::from_secs(3),
            Self::DropSlots => Duration::from_secs(2),
            Self::Mark | Self::Checkpoint => Duration::from_secs(10),
            _ => Duration::from_millis(500),
        }
    }
}

impl Act {
    /// The server it is done to.
    pub fn server(&self) -> &Name {
        match self {
            Self::Fence { server }
            | Self::Unfence { server }
            | Self::Detach { server }
            | Self::Follow { server, .. }
            | Self::Slots { server, .. }
            | Self::DropSlots { server, .. }
            | Self::SyncNames { server, .. }
            | Self::Promote { server }
            | Self::Mark { server, .. }
            | Self::Checkpoint { server }
            | Self::MakeStandby { server, .. }
            | Self::UnmakeStandby { server }
            | Self::Stop { server }
            | Self::Start { server, .. }
            | Self::Rewind { server, .. } => server,
        }
    }

    /// Its verb.
    pub fn kind(&self) -> ActKind {
        match self {
            Self::Fence { .. } => ActKind::Fence,
            Self::Unfence { .. } => ActKind::Unfence,
            Self::Detach { .. } => ActKind::Detach,
            Self::Follow { .. } => ActKind::Follow,
            Self::Slots { .. } => ActKind::Slots,
            Self::DropSlots { .. } => ActKind::DropSlots,
            Self::SyncNames { .. } => ActKind::SyncNames,
            Self::Promote { .. } => ActKind::Promote,
            Self::Mark { .. } => ActKind::Mark,
            Self::Checkpoint { .. } => ActKind::Checkpoint,
            Self::MakeStandby { .. } => ActKind::MakeStandby,
            Self::UnmakeStandby { .. } => ActKind::UnmakeStandby,
            Self::Stop { .. } => ActKind::Stop,
            Self::Start { .. } => ActKind::Start,
            Self::Rewind { .. } => ActKind::Rewind,
        }
    }
}

/// What happened, for the log and for `kubectl get events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the names are the events of OPERATOR B4, with master for primary"
)]
pub enum Reason {
    MasterFound,
    MasterSuspect,
    MasterAdopted,
    FailoverStarted,
    FailoverBlocked,
    FailoverAborted,
    FailoverCompleted,
    MasterFenced,
    ReplicaElected,
    MasterPromoted,
    SwitchoverStarted,
    SwitchoverCompleted,
    SwitchoverAborted,
    SwitchoverRefused,
    ZombieMaster,
    SplitBrainSuspected,
    RejoinStarted,
    RejoinCompleted,
    RejoinRequired,
    DurabilityDegraded,
    DurabilityRestored,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

impl Note {
    /// An event.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Whether somebody should look at it.
    pub fn is_warning(&self) -> bool {
        matches!(
            self.reason,
            Reason::MasterSuspect
                | Reason::FailoverStarted
                | Reason::FailoverBlocked
                | Reason::SwitchoverAborted
                | Reason::SwitchoverRefused
                | Reason::ZombieMaster
                | Reason::SplitBrainSuspected
                | Reason::RejoinRequired
                | Reason::DurabilityDegraded
        )
    }
}

//! What a probe of a server came to.

use crate::plane::Identity;

/// What a server said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its cluster and timeline.
    pub identity: Identity,
    /// A replica: its WAL receiver streams.
    pub streaming: bool,
}

/// What was seen of a server last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is not in recovery.
    Master(Facts),
    /// It is in recovery.
    Replica(Facts),
    /// It answers, but does not let us in or has no free connection: it lives, nothing more is known.
    Alive(String),
    /// It does not answer, or is starting up.
    Lost {
        /// Why, for people.
        error: String,
        /// Nobody listens there: the process is down.
        refused: bool,
    },
}

impl Seen {
    /// Its cluster and timeline, where they are known.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Master(facts) | Self::Replica(facts) => Some(&facts.identity),
            Self::Alive(_) | Self::Lost { .. } => None,
        }
    }

    /// Whether it is a replica that streams.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self, Self::Replica(facts) if facts.streaming)
    }

    /// Whether it answered at all.
    pub(super) fn is_reachable(&self) -> bool {
        !matches!(self, Self::Lost { .. })
    }
}

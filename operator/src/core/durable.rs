//! What survives the operator: the part of status that decisions are made from (I5, I7).

use super::types::{Lsn, Name};
use std::collections::BTreeMap;

/// How proxies treat the master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Use it.
    Open,
    /// Hold what would open a lease; everything else runs.
    Holding,
    /// Finish what runs, hold the rest.
    Paused,
    /// Drop every connection to it, hold requests.
    #[default]
    Fenced,
}

/// Who is master. Together with the epoch this is the fencing token (I1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Master {
    /// Its name.
    pub name: Name,
    /// Its timeline.
    pub timeline: u32,
    /// Its system identifier.
    pub system: String,
}

/// `ANY k (names)`. No names: commits wait for nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncSet {
    /// Standbys that may confirm, sorted.
    pub names: Vec<Name>,
    /// How many must.
    pub k: u32,
}

impl SyncSet {
    /// As `synchronous_standby_names` wants it. Never `*`: that would let any stream confirm.
    pub fn render(&self) -> String {
        if self.names.is_empty() {
            return String::new();
        }
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| format!("\"{}\"", name.replace('"', "\"\"")))
            .collect();
        format!("ANY {} ({})", self.k, names.join(","))
    }
}

/// Sets under which a commit may have been acknowledged. An election must satisfy all of them (I4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncState {
    /// In force, and enough of its standbys hold everything.
    pub confirmed: Option<SyncSet>,
    /// Being put in force.
    pub pending: Option<SyncSet>,
    /// Were pending and given up before they were confirmed.
    pub superseded: Vec<SyncSet>,
}

impl SyncState {
    /// Every set to satisfy.
    pub fn sets(&self) -> impl Iterator<Item = &SyncSet> {
        self.confirmed.iter().chain(&self.pending).chain(&self.superseded)
    }

    /// Makes `set` the pending one and forgets none that may be in force.
    pub fn propose(&mut self, set: SyncSet) {
        if let Some(old) = self.pending.replace(set)
            && !self.superseded.contains(&old)
        {
            self.superseded.push(old);
        }
        let SyncState {
            confirmed,
            pending,
            superseded,
        } = self;
        superseded.retain(|old| Some(old) != pending.as_ref() && Some(old) != confirmed.as_ref());
    }

    /// A master begins a timeline with the pending set in force. Who is on that timeline has all that was acknowledged before it, and
    /// nobody else is promoted any more: the sets of masters before need not be satisfied again.
    pub fn begin_line(&mut self) {
        if self.pending.is_some() {
            self.confirmed = None;
            self.superseded.clear();
        }
    }

    /// The pending set holds everything now.
    pub fn confirm(&mut self) {
        if let Some(set) = self.pending.take() {
            self.confirmed = (!set.names.is_empty()).then_some(set);
            self.superseded.clear();
        }
    }
}

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The master died.
    Failover,
    /// Somebody asked.
    Switchover,
}

/// The step an operation is at. It is written before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Recorded. A failover has fenced the routing with this very write.
    Declared,
    /// Switchover: checkpoints and slots while everybody still works.
    Warming,
    /// Switchover: transactions end, and no new ones begin.
    HoldingLeases,
    /// Switchover: proxies finish what runs and hold the rest.
    Pausing,
    /// Switchover: the target receives the rest of the log.
    CatchingUp,
    /// Switchover: the old master becomes a standby and stops.
    StoppingMaster,
    /// Proxies acknowledge that they have let go of the old master.
    FencingProxies,
    /// The old master is stopped from serving, as far as it can be reached.
    FencingMaster,
    /// Replicas are taken off the old master (I3).
    Detaching,
    /// How far is each?
    Measuring,
    /// The target is known; waits for the proxies' acknowledgements (I2).
    Elected,
    /// The promotion was ordered. From here there is no way back.
    Promoting,
    /// Slots and settings on the new master.
    Preparing,
    /// Written together with the new master: proxies go there.
    Opening,
    /// The others follow the new master.
    Repointing,
    /// What is left: labels, end points.
    Labelling,
    /// Nobody may be promoted; waits for servers or for a person.
    Blocked,
    /// Back to the old master.
    Aborting,
}

/// How sure it is that the old master serves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fencing {
    /// Only the proxies keep away from it.
    ProxiesOnly,
    /// No replica follows it any more, so nothing it does can be acknowledged under `Required`.
    ReplicasDetached,
    /// It answered and refuses writes.
    SqlFenced,
    /// Its port is closed.
    ProcessDead,
}

/// Why nobody may be promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// A commit that was acknowledged could be missing (I4).
    QuorumLost,
    /// None is reachable, allowed and of the master's line.
    NoCandidate,
    /// The newest lacks more than `maxLagOnFailover`.
    LagLimit,
}

/// A replica as it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: Name,
    /// Its timeline.
    pub timeline: u32,
    /// Received.
    pub lsn: Lsn,
    /// Applied.
    pub replay: Lsn,
    /// Its `failoverPriority`.
    pub priority: u8,
    /// It applies the log with a delay on purpose.
    pub delayed: bool,
}

/// The operation under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// `failover-7`: kind and the epoch it was declared in, unique because epochs only grow.
    pub id: String,
    /// What for.
    pub kind: Kind,
    /// The master at the beginning.
    pub from: Name,
    /// Its timeline.
    pub from_timeline: u32,
    /// The system identifier of all.
    pub system: String,
    /// Who shall be master.
    pub target: Option<Name>,
    /// Where it is.
    pub step: Step,
    /// Counts elections.
    pub attempt: u32,
    /// The epoch proxies must have acknowledged before anything is promoted.
    pub epoch: u64,
    /// A promotion was ordered.
    pub promote_issued: bool,
    /// What is known about the old master.
    pub fencing: Option<Fencing>,
    /// The last measurement.
    pub candidates: Vec<Candidate>,
    /// Replicas we take off the old master, to be put back if it is aborted.
    pub detached: Vec<Name>,
    /// Targets that died after their promotion was ordered: second old masters.
    pub suspects: Vec<Name>,
    /// Switchover: where the log of the old master stood before it was stopped.
    pub stopped_at: Option<Lsn>,
    /// The last position we saw of the old master.
    pub last_lsn: Option<Lsn>,
    /// A person accepted a loss, or cut statements (switchover).
    pub force: bool,
    /// The switchover request.
    pub request: Option<String>,
    /// Why it stands still, or was given up.
    pub blocked: Option<Blocked>,
    /// One line for people.
    pub message: String,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a new master.
    Completed,
    /// The old one was kept.
    Aborted,
    /// Somebody else had promoted: we follow.
    Adopted,
    /// The request could not be served as it is.
    Refused,
}

/// An operation that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its id.
    pub id: String,
    /// What for; `None`: adopted.
    pub kind: Option<Kind>,
    /// The master before.
    pub from: Name,
    /// The master after.
    pub to: Name,
    /// How it ended.
    pub outcome: Outcome,
    /// One line for people.
    pub message: String,
}

/// A server that has to come back as a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejoin {
    /// Rewinds begun.
    pub tries: u32,
    /// A rewind is under way.
    pub rewinding: bool,
    /// A person is needed.
    pub given_up: bool,
    /// It was seen taking writes.
    pub zombie: bool,
    /// Its promotion was ordered and another was promoted instead: it may carry the same timeline number with other
    /// contents, which nothing but a new copy cures. The timeline before that; one that stayed on it is innocent.
    pub suspect: Option<u32>,
}

/// How many rewinds are tried before a person is asked.
pub(super) const REWINDS_MAX: u32 = 3;
/// How many ended operations are kept.
pub(super) const FINISHED_MAX: usize = 10;
/// How many unconfirmed sync sets may wait behind each other.
pub(super) const SUPERSEDED_MAX: usize = 8;

/// Everything decisions are made from that outlives the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Only grows.
    pub epoch: u64,
    /// How proxies treat the master.
    pub mode: Mode,
    /// Who is master.
    pub master: Option<Master>,
    /// Sync sets.
    pub sync: SyncState,
    /// The operation under way.
    pub operation: Option<Operation>,
    /// The last request that was served or refused.
    pub last_switchover: Option<String>,
    /// Earlier ones: a request may come from two places, and none is served twice.
    pub served: Vec<String>,
    /// Servers that have to come back.
    pub rejoin: BTreeMap<Name, Rejoin>,
    /// Ended operations, newest first.
    pub finished: Vec<Finished>,
}

/// How many served requests are remembered.
pub(super) const SERVED_MAX: usize = 20;

impl Durable {
    /// A switchover request was carried out or refused.
    pub fn serve(&mut self, request: &str) {
        self.last_switchover = Some(request.to_owned());
        self.served.retain(|served| served != request);
        self.served.insert(0, request.to_owned());
        self.served.truncate(SERVED_MAX);
    }

    /// Whether it was served before.
    pub fn is_served(&self, request: &str) -> bool {
        self.last_switchover.as_deref() == Some(request) || self.served.iter().any(|served| served == request)
    }

    /// Ends the operation.
    pub fn finish(&mut self, ended: Finished) {
        self.operation = None;
        self.finished.insert(0, ended);
        self.finished.truncate(FINISHED_MAX);
    }
}

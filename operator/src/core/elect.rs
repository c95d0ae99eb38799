//! Who may be promoted (OPERATOR A6 step 6), and whether that could lose an acknowledged commit (I4).

use super::durable::{Blocked, Candidate, Kind, Operation, SyncSet, SyncState};
use super::types::{Durability, Sample, Settings};

/// A replica as measured.
pub(super) fn candidate(name: &str, priority: u8, sample: &Sample) -> Candidate {
    Candidate {
        name: name.to_owned(),
        timeline: sample.timeline,
        lsn: sample.lsn,
        replay: sample.replay,
        priority,
        delayed: sample.delayed,
    }
}

/// R + W > N: at least one of the reachable must have confirmed every commit that was acknowledged under `set`.
pub(super) fn has_quorum(set: &SyncSet, reachable: &[Candidate]) -> bool {
    let readable = set
        .names
        .iter()
        .filter(|name| reachable.iter().any(|c| &c.name == *name))
        .count();
    readable + set.k as usize > set.names.len()
}

/// Whether every recorded set has its quorum among `reachable`. Without a recorded set nothing is known: no.
pub(super) fn all_quorums(sync: &SyncState, reachable: &[Candidate]) -> bool {
    let mut sets = sync.sets().peekable();
    sets.peek().is_some() && sets.all(|set| has_quorum(set, reachable))
}

/// The server that has everything by itself, if it comes back as a standby: the old master has on disk whatever it has
/// acknowledged, and whatever was acknowledged before it was promoted. Once the promotion of another was ordered it is that one, which
/// had everything when it was chosen.
pub(super) fn keeper(operation: &Operation) -> &str {
    operation.suspects.last().unwrap_or(&operation.from)
}

/// Whether the [`keeper`] is among `measured`: with it nothing can be missing, whoever else is away.
///
/// Its data directory has to be the one it wrote with, and not a copy of a server that lags: none may be ahead of it, nor may
/// it stand behind where it was last seen.
pub(super) fn has_keeper(operation: &Operation, measured: &[Candidate]) -> bool {
    let Some(keeper) = measured.iter().find(|c| c.name == keeper(operation)) else {
        return false;
    };
    let ahead = |c: &Candidate| (c.timeline, c.lsn) > (keeper.timeline, keeper.lsn);
    let is_whole = if operation.suspects.is_empty() {
        keeper.timeline == operation.from_timeline && operation.last_lsn.is_none_or(|last| keeper.lsn >= last)
    } else {
        // Either it was promoted, or it stands where it stood when it was chosen.
        let chosen =
            |c: &Candidate| c.name == keeper.name && c.timeline <= keeper.timeline && c.lsn <= keeper.lsn;
        keeper.timeline > operation.from_timeline || operation.candidates.iter().any(chosen)
    };
    is_whole && !measured.iter().any(ahead)
}

/// Chooses whom to promote among `measured`, which are detached, of our system, and of a line that holds the old
/// master's timeline. `complete`: one that has everything is among them ([`has_keeper`]).
///
/// # Errors
/// Why nobody may be promoted.
pub(super) fn choose(
    settings: &Settings,
    operation: &Operation,
    sync: &SyncState,
    measured: &[Candidate],
    complete: bool,
    force: bool,
) -> Result<Candidate, Blocked> {
    // Timelines first: a higher one that grew out of the old master's is newer, whatever its LSN.
    let highest = measured
        .iter()
        .map(|c| c.timeline)
        .max()
        .ok_or(Blocked::NoCandidate)?;
    let mut able: Vec<&Candidate> = measured
        .iter()
        .filter(|c| c.timeline == highest && c.priority > 0 && !c.delayed)
        .collect();
    // A planned switchover stopped the old master cleanly: whoever has its last record has everything.
    let has_last = |c: &Candidate| {
        operation
            .stopped_at
            .is_none_or(|at| c.lsn > at || c.name == operation.from)
    };
    if operation.kind == Kind::Switchover && operation.stopped_at.is_some() {
        able.retain(|c| has_last(c));
    } else if settings.durability == Durability::Required
        && !force
        && !complete
        && !all_quorums(sync, measured)
    {
        return Err(Blocked::QuorumLost);
    }
    able.sort_by(|a, b| {
        (b.lsn, b.replay, b.priority)
            .cmp(&(a.lsn, a.replay, a.priority))
            .then_with(|| a.name.cmp(&b.name))
    });
    let best = *able.first().ok_or(Blocked::NoCandidate)?;
    if settings.durability == Durability::Required && !force {
        // I4 speaks of the newest reachable one. If that may not be promoted, a lesser one may lack a commit.
        let newest = measured
            .iter()
            .filter(|c| c.timeline == highest)
            .map(|c| c.lsn)
            .max();
        if newest.is_some_and(|newest| best.lsn < newest) {
            return Err(Blocked::NoCandidate);
        }
    }
    if settings.durability == Durability::Async && settings.max_lag > 0 && !force {
        let lag = operation.last_lsn.map(|last| last.since(best.lsn));
        if operation.stopped_at.is_none() && lag.is_none_or(|lag| lag > settings.max_lag) {
            return Err(Blocked::LagLimit);
        }
    }
    Ok(best.clone())
}

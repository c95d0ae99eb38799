//! [`Durable`] as it stands in the status, both ways. What is written is read again as it was: an operator that takes over
//! knows what the one before it knew.

use crate::core::{
    Blocked, Candidate, Durable, Fencing, Finished, Kind, Lsn, Master, Mode, Operation, Outcome, Rejoin,
    Step, SyncSet, SyncState,
};
use crds::status::{self, OperationKind, OperationOutcome, OperationStep, PgPoolStatus, RoutingMode};
use std::time::SystemTime;

/// Why a status cannot be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the status holds an operation of a newer version: this operator leaves it alone")]
pub struct Newer;

const STEPS: [(Step, OperationStep); 18] = [
    (Step::Declared, OperationStep::Declared),
    (Step::Warming, OperationStep::Validating),
    (Step::HoldingLeases, OperationStep::HoldingLeases),
    (Step::Pausing, OperationStep::Pausing),
    (Step::CatchingUp, OperationStep::CatchingUp),
    (Step::StoppingMaster, OperationStep::Stopping),
    (Step::FencingProxies, OperationStep::FencingProxies),
    (Step::FencingMaster, OperationStep::FencingMaster),
    (Step::Detaching, OperationStep::Detaching),
    (Step::Measuring, OperationStep::Measuring),
    (Step::Elected, OperationStep::Elected),
    (Step::Promoting, OperationStep::Promoting),
    (Step::Preparing, OperationStep::Preparing),
    (Step::Opening, OperationStep::Opening),
    (Step::Repointing, OperationStep::Repointing),
    (Step::Labelling, OperationStep::Labelling),
    (Step::Blocked, OperationStep::Blocked),
    (Step::Aborting, OperationStep::Aborting),
];

const BLOCKED: [(Blocked, &str); 3] = [
    (Blocked::QuorumLost, "QuorumLost"),
    (Blocked::NoCandidate, "NoCandidate"),
    (Blocked::LagLimit, "LagLimit"),
];

const FENCING: [(Fencing, status::FencingLevel); 4] = [
    (Fencing::ProxiesOnly, status::FencingLevel::ProxiesOnly),
    (Fencing::ReplicasDetached, status::FencingLevel::ReplicasDetached),
    (Fencing::SqlFenced, status::FencingLevel::SqlFenced),
    (Fencing::ProcessDead, status::FencingLevel::ProcessDead),
];

fn right<A: Copy + PartialEq, B: Copy>(table: &[(A, B)], left: A) -> Option<B> {
    table.iter().find(|(a, _)| *a == left).map(|(_, b)| *b)
}

fn left<A: Copy, B: Copy + PartialEq>(table: &[(A, B)], right: B) -> Option<A> {
    table.iter().find(|(_, b)| *b == right).map(|(a, _)| *a)
}

/// Reads what decisions are made from.
///
/// # Errors
/// [`Newer`]: there is something in it this version does not know.
pub fn read(status: &PgPoolStatus) -> Result<Durable, Newer> {
    let mode = match status.routing.mode {
        RoutingMode::Open => Mode::Open,
        RoutingMode::Paused if status.routing.leases_only => Mode::Holding,
        RoutingMode::Paused => Mode::Paused,
        RoutingMode::Fenced => Mode::Fenced,
    };
    let sync_set = |set: &status::SyncSet| SyncSet {
        names: set.names.clone(),
        k: set.k,
    };
    let rejoin = status.servers.iter().filter_map(|server| {
        let rejoin = server.rejoin.as_ref()?;
        let rejoin = Rejoin {
            tries: rejoin.attempts,
            rewinding: rejoin.rewinding,
            given_up: rejoin.given_up,
            zombie: rejoin.zombie,
            suspect: rejoin.suspect_timeline,
        };
        Some((server.name.clone(), rejoin))
    });
    Ok(Durable {
        epoch: status.epoch,
        mode,
        master: status.master.as_ref().map(|master| Master {
            name: master.name.clone(),
            timeline: master.timeline,
            system: master.system_identifier.clone(),
        }),
        sync: SyncState {
            confirmed: status.sync.confirmed.as_ref().map(sync_set),
            pending: status.sync.pending.as_ref().map(sync_set),
            superseded: status.sync.superseded.iter().map(sync_set).collect(),
        },
        operation: status.operation.as_ref().map(operation).transpose()?,
        last_switchover: status.last_switchover_request.clone(),
        served: status.served_requests.clone(),
        rejoin: rejoin.collect(),
        // History only grows from here on: what is ended already needs no decision.
        finished: Vec::new(),
    })
}

fn operation(from: &status::Operation) -> Result<Operation, Newer> {
    let note = |key: &str| from.notes.get(key).map(String::as_str).unwrap_or_default();
    let number = |key: &str| note(key).parse::<u64>().ok();
    let candidates = from.candidates.iter().map(|candidate| Candidate {
        name: candidate.name.clone(),
        timeline: candidate.timeline,
        lsn: Lsn::parse(&candidate.lsn).unwrap_or_default(),
        replay: Lsn::parse(&candidate.replay).unwrap_or_default(),
        priority: candidate.priority,
        delayed: candidate.delay_ms > 0,
    });
    let names = |text: &str| {
        text.split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    };
    Ok(Operation {
        id: from.id.clone(),
        kind: match from.kind {
            OperationKind::Failover => Kind::Failover,
            OperationKind::Switchover => Kind::Switchover,
            OperationKind::Unknown => return Err(Newer),
        },
        from: from.from.clone(),
        from_timeline: number("fromTimeline")
            .and_then(|n| u32::try_from(n).ok())
            .ok_or(Newer)?,
        system: note("system").to_owned(),
        target: from.target.clone(),
        step: left(&STEPS, from.step).ok_or(Newer)?,
        attempt: from.attempt,
        epoch: number("epoch").ok_or(Newer)?,
        promote_issued: from.promote_issued_at.is_some(),
        fencing: from.fencing_level.and_then(|level| left(&FENCING, level)),
        candidates: candidates.collect(),
        detached: from
            .detached
            .iter()
            .map(|detached| detached.name.clone())
            .collect(),
        suspects: names(note("suspects")),
        stopped_at: from.master_lsn.as_deref().and_then(Lsn::parse),
        last_lsn: Lsn::parse(note("lastLsn")),
        force: from.force,
        request: from.request_id.clone(),
        blocked: from.reason.as_deref().and_then(|reason| left(&BLOCKED, reason)),
        message: from.message.clone(),
    })
}

/// Writes `durable` into `status`, which is what stood there before: times of what did not change stay.
pub fn write(durable: &Durable, status: &mut PgPoolStatus, now: SystemTime) {
    let now = crds::units::rfc3339(now);
    let (mode, leases_only) = match durable.mode {
        Mode::Open => (RoutingMode::Open, false),
        Mode::Holding => (RoutingMode::Paused, true),
        Mode::Paused => (RoutingMode::Paused, false),
        Mode::Fenced => (RoutingMode::Fenced, false),
    };
    if (status.routing.mode, status.routing.leases_only) != (mode, leases_only)
        || status.routing.since.is_empty()
    {
        status.routing.since.clone_from(&now);
    }
    status.routing.mode = mode;
    status.routing.leases_only = leases_only;
    let is_switchover = durable
        .operation
        .as_ref()
        .filter(|op| op.kind == Kind::Switchover);
    status.routing.force = mode != RoutingMode::Open && is_switchover.is_some_and(|op| op.force);
    if mode != RoutingMode::Paused {
        status.routing.deadline = None;
    }
    status.epoch = durable.epoch;
    write_master(durable.master.as_ref(), status, &now);
    let sync_set = |set: &SyncSet| status::SyncSet {
        names: set.names.clone(),
        k: set.k,
    };
    status.sync = status::SyncStatus {
        confirmed: durable.sync.confirmed.as_ref().map(sync_set),
        pending: durable.sync.pending.as_ref().map(sync_set),
        superseded: durable.sync.superseded.iter().map(sync_set).collect(),
    };
    for finished in durable.finished.iter().rev() {
        if !status.history.iter().any(|record| record.id == finished.id) {
            let record = ended(finished, durable.epoch, status.operation.as_ref(), &now);
            status.conclude(record);
        }
    }
    status.operation = durable
        .operation
        .as_ref()
        .map(|op| write_operation(op, status.operation.as_ref(), &now));
    status
        .last_switchover_request
        .clone_from(&durable.last_switchover);
    status.served_requests.clone_from(&durable.served);
    for name in durable.rejoin.keys() {
        if status.server(name).is_none() {
            status.servers.push(status::ServerStatus {
                name: name.clone(),
                ..Default::default()
            });
        }
    }
    for server in &mut status.servers {
        server.rejoin = durable
            .rejoin
            .get(&server.name)
            .map(|rejoin| status::RejoinStatus {
                attempts: rejoin.tries,
                rewinding: rejoin.rewinding,
                given_up: rejoin.given_up,
                zombie: rejoin.zombie,
                suspect_timeline: rejoin.suspect,
            });
    }
}

fn write_master(master: Option<&Master>, status: &mut PgPoolStatus, now: &str) {
    let Some(master) = master else {
        status.master = None;
        return;
    };
    let old = status.master.take();
    let same = old.filter(|old| {
        (&old.name, old.timeline, &old.system_identifier) == (&master.name, master.timeline, &master.system)
    });
    status.master = Some(same.unwrap_or_else(|| status::MasterStatus {
        name: master.name.clone(),
        timeline: master.timeline,
        system_identifier: master.system.clone(),
        since: now.to_owned(),
        ..Default::default()
    }));
}

fn write_operation(op: &Operation, old: Option<&status::Operation>, now: &str) -> status::Operation {
    let old = old.filter(|old| old.id == op.id);
    let step = right(&STEPS, op.step).unwrap_or_default();
    let same_step = old.filter(|old| old.step == step && old.attempt == op.attempt);
    let candidates = op.candidates.iter().map(|candidate| status::Candidate {
        name: candidate.name.clone(),
        timeline: candidate.timeline,
        lsn: candidate.lsn.to_string(),
        replay: candidate.replay.to_string(),
        delay_ms: u64::from(candidate.delayed),
        priority: candidate.priority,
        unfit: match candidate {
            Candidate { priority: 0, .. } => "failoverPriority 0".to_owned(),
            Candidate { delayed: true, .. } => "recovery_min_apply_delay".to_owned(),
            _ => String::new(),
        },
    });
    let mut notes = std::collections::BTreeMap::from([
        ("fromTimeline".to_owned(), op.from_timeline.to_string()),
        ("system".to_owned(), op.system.clone()),
        ("epoch".to_owned(), op.epoch.to_string()),
    ]);
    if !op.suspects.is_empty() {
        notes.insert("suspects".to_owned(), op.suspects.join(","));
    }
    if let Some(lsn) = op.last_lsn {
        notes.insert("lastLsn".to_owned(), lsn.to_string());
    }
    let issued = old
        .and_then(|old| old.promote_issued_at.clone())
        .unwrap_or_else(|| now.to_owned());
    status::Operation {
        id: op.id.clone(),
        kind: match op.kind {
            Kind::Failover => OperationKind::Failover,
            Kind::Switchover => OperationKind::Switchover,
        },
        from: op.from.clone(),
        target: op.target.clone(),
        step,
        started_at: old.map_or_else(|| now.to_owned(), |old| old.started_at.clone()),
        step_started_at: same_step.map_or_else(|| now.to_owned(), |old| old.step_started_at.clone()),
        attempt: op.attempt,
        promote_issued_at: op.promote_issued.then_some(issued),
        candidates: candidates.collect(),
        fencing_level: op.fencing.and_then(|level| right(&FENCING, level)),
        detached: op
            .detached
            .iter()
            .map(|name| status::Detached {
                name: name.clone(),
                // Login and settings stay in the standby's own primary_conninfo; only where it pointed was changed.
                conninfo: format!("application_name={name}"),
                slot: crate::core::slot_name(name),
            })
            .collect(),
        request_id: op.request.clone(),
        force: op.force,
        master_lsn: op.stopped_at.map(|lsn| lsn.to_string()),
        reason: op
            .blocked
            .and_then(|blocked| right(&BLOCKED, blocked))
            .map(str::to_owned),
        message: op.message.clone(),
        notes,
    }
}

fn ended(
    finished: &Finished,
    epoch: u64,
    operation: Option<&status::Operation>,
    now: &str,
) -> status::OperationRecord {
    let operation = operation.filter(|op| op.id == finished.id);
    let started_at = operation.map_or_else(|| now.to_owned(), |op| op.started_at.clone());
    status::OperationRecord {
        id: finished.id.clone(),
        kind: match finished.kind {
            Some(Kind::Switchover) => OperationKind::Switchover,
            Some(Kind::Failover) | None => OperationKind::Failover,
        },
        from: finished.from.clone(),
        to: finished.to.clone(),
        duration_ms: milliseconds(&started_at, now),
        started_at,
        finished_at: now.to_owned(),
        epoch,
        outcome: match finished.outcome {
            Outcome::Completed => OperationOutcome::Completed,
            Outcome::Aborted => OperationOutcome::Aborted,
            Outcome::Adopted => OperationOutcome::Adopted,
            Outcome::Refused => OperationOutcome::Refused,
        },
        message: finished.message.clone(),
    }
}

/// Between two times of ours (RFC 3339 in UTC with milliseconds); 0 when they are not.
fn milliseconds(from: &str, to: &str) -> u64 {
    let of = |text: &str| -> Option<i64> {
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        // Days since an arbitrary day, with March as the first month.
        let (y, m) = if month > 2 {
            (year, month - 3)
        } else {
            (year - 1, month + 9)
        };
        let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day;
        let seconds = ((days * 24 + number(11..13)?) * 60 + number(14..16)?) * 60 + number(17..19)?;
        Some(seconds * 1000 + number(20..23)?)
    };
    of(from)
        .zip(of(to))
        .and_then(|(from, to)| u64::try_from(to - from).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn example() -> Durable {
        let operation = Operation {
            id: "failover-8".into(),
            kind: Kind::Failover,
            from: "a".into(),
            from_timeline: 3,
            system: "77".into(),
            target: Some("b".into()),
            step: Step::Promoting,
            attempt: 2,
            epoch: 8,
            promote_issued: true,
            fencing: Some(Fencing::ProcessDead),
            candidates: vec![Candidate {
                name: "b".into(),
                timeline: 3,
                lsn: Lsn(0x1_0000_0010),
                replay: Lsn(0x10),
                priority: 50,
                delayed: true,
            }],
            detached: vec!["b".into(), "c".into()],
            suspects: vec!["c".into()],
            stopped_at: Some(Lsn(5)),
            last_lsn: Some(Lsn(7)),
            force: true,
            request: Some("r".into()),
            blocked: Some(Blocked::LagLimit),
            message: "m".into(),
        };
        let set = |names: &[&str]| SyncSet {
            names: names.iter().map(|n| n.to_string()).collect(),
            k: 1,
        };
        let rejoin = Rejoin {
            tries: 2,
            rewinding: true,
            given_up: false,
            zombie: true,
            suspect: Some(3),
        };
        Durable {
            epoch: 9,
            mode: Mode::Fenced,
            master: Some(Master {
                name: "a".into(),
                timeline: 3,
                system: "77".into(),
            }),
            sync: SyncState {
                confirmed: Some(set(&["b"])),
                pending: Some(set(&["c"])),
                superseded: vec![set(&["b", "c"])],
            },
            operation: Some(operation),
            last_switchover: Some("r0".into()),
            served: vec!["r0".into()],
            rejoin: [("c".to_owned(), rejoin)].into(),
            finished: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_in_every_step_and_mode() {
        for (step, _) in STEPS {
            for mode in [Mode::Open, Mode::Holding, Mode::Paused, Mode::Fenced] {
                let mut durable = example();
                durable.mode = mode;
                durable.operation.as_mut().unwrap().step = step;
                let mut status = PgPoolStatus::default();
                write(&durable, &mut status, UNIX_EPOCH);
                assert_eq!(read(&status), Ok(durable));
            }
        }
    }

    #[test]
    fn the_default_status_is_the_default_record_but_fenced() {
        let mut status = PgPoolStatus::default();
        write(&Durable::default(), &mut status, UNIX_EPOCH);
        assert_eq!(read(&status), Ok(Durable::default()));
    }

    #[test]
    fn an_ended_operation_stands_once_in_the_history_with_its_duration() {
        let mut durable = example();
        let mut status = PgPoolStatus::default();
        write(&durable, &mut status, UNIX_EPOCH);
        durable.finish(Finished {
            id: "failover-8".into(),
            kind: Some(Kind::Failover),
            from: "a".into(),
            to: "b".into(),
            outcome: Outcome::Completed,
            message: String::new(),
        });
        for second in [2, 3] {
            write(&durable, &mut status, UNIX_EPOCH + Duration::from_secs(second));
        }
        assert_eq!((status.history.len(), status.history[0].duration_ms), (1, 2000));
        assert!(status.operation.is_none());
    }

    #[test]
    fn an_operation_of_a_newer_version_is_left_alone() {
        let mut status = PgPoolStatus::default();
        write(&example(), &mut status, UNIX_EPOCH);
        status.operation.as_mut().unwrap().step = OperationStep::Unknown;
        assert_eq!(read(&status), Err(Newer));
    }
}

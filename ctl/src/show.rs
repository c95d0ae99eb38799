//! The picture of a pool.

use crate::Exit;
use cluster::{ProxyReport, Snapshot};
use crds::status::{
    ConditionStatus, OperationStep, PgPoolStatus, Phase, RoutingMode, ServerRole, ServerState, ServerStatus,
};
use std::fmt::Write;

/// Conditions that are well when they are not the case.
const BAD_IF_TRUE: [&str; 3] = ["FailoverBlocked", "SplitBrainSuspected", "RejoinRequired"];
/// Conditions that say nothing about health.
const NEUTRAL: [&str; 1] = ["Progressing"];
/// Lines of history and events.
const LINES_MAX: usize = 5;

/// What the exit code says.
pub(crate) fn verdict(status: Option<&PgPoolStatus>) -> Exit {
    let Some(status) = status else { return Exit::Down };
    match status.phase {
        Phase::Healthy => Exit::Good,
        Phase::SwitchingOver | Phase::Degraded | Phase::Pending | Phase::Unknown => Exit::Degraded,
        // The new master serves already while the others are turned to it.
        Phase::FailingOver if status.routing.mode == RoutingMode::Open => Exit::Degraded,
        Phase::FailingOver | Phase::Blocked | Phase::Down => Exit::Down,
    }
}

/// For people.
pub(crate) fn text(snapshot: &Snapshot, proxies: &[ProxyReport]) -> String {
    let mut out = String::new();
    let _ = draw(&mut out, snapshot, proxies);
    out
}

fn draw(out: &mut String, snapshot: &Snapshot, proxies: &[ProxyReport]) -> std::fmt::Result {
    let config = &snapshot.config;
    let Some(status) = snapshot.status.as_deref() else {
        writeln!(
            out,
            "{}: no status yet; the manifest begins with {}",
            config.name, config.master.name
        )?;
        return writeln!(out, "is the operator running?");
    };
    let mode = match status.routing.mode {
        RoutingMode::Open => "open",
        RoutingMode::Paused => "paused",
        RoutingMode::Fenced => "fenced",
    };
    writeln!(
        out,
        "{}  {:?}  epoch {}  {mode}",
        config.name, status.phase, status.epoch
    )?;
    servers(out, status)?;
    if let Some(operation) = &status.operation {
        let target = operation.target.as_deref().unwrap_or("?");
        let (id, from, step) = (&operation.id, &operation.from, operation.step);
        writeln!(
            out,
            "\nunder way: {id} {from} -> {target}, since {}",
            operation.started_at
        )?;
        writeln!(out, "  {step:?}: {}", meaning(step))?;
        let reason = operation.reason.as_deref().unwrap_or_default();
        for why in [reason, &operation.message] {
            if !why.is_empty() {
                writeln!(out, "  {why}")?;
            }
        }
    }
    writeln!(out, "\nproxies {}", status.proxies_ready)?;
    let width = proxies
        .iter()
        .map(|proxy| proxy.id.len())
        .max()
        .unwrap_or_default();
    for proxy in proxies {
        let behind = if proxy.acked_epoch < status.epoch {
            "  behind"
        } else {
            ""
        };
        writeln!(
            out,
            "  {:<width$}  epoch {}{behind}  {} clients, {} waiting  {}",
            proxy.id, proxy.acked_epoch, proxy.clients, proxy.waiting, proxy.peer_address
        )?;
    }
    conditions(out, status)?;
    if !status.history.is_empty() {
        writeln!(out, "\nhistory")?;
    }
    for record in status.history.iter().take(LINES_MAX) {
        writeln!(
            out,
            "  {}  {:<16} {:?}  {} -> {}  {} ms",
            record.finished_at, record.id, record.outcome, record.from, record.to, record.duration_ms
        )?;
    }
    if !status.events.is_empty() {
        writeln!(out, "\nevents")?;
    }
    for event in status.events.iter().take(LINES_MAX) {
        writeln!(out, "  {}  {:<20} {}", event.time, event.reason, event.message)?;
    }
    Ok(())
}

/// What happens in a step, for people who wait for its end.
pub(crate) fn meaning(step: OperationStep) -> &'static str {
    match step {
        OperationStep::Declared => "it begins",
        OperationStep::FencingProxies => "proxies let go of the old master; statements wait",
        OperationStep::FencingMaster => "the old master is kept from taking writes, if it can be reached",
        OperationStep::Detaching => "replicas are taken off the old master",
        OperationStep::Measuring => "what each replica has is compared",
        OperationStep::Elected => "the replica that has most is chosen",
        OperationStep::Promoting => "it is promoted; statements wait",
        OperationStep::Preparing => "slots for the others are made",
        OperationStep::Opening => "proxies are sent to the new master",
        OperationStep::Repointing => "statements go on; the others are turned to the new master",
        OperationStep::Labelling => "statements go on; what is left of before is cleaned up",
        OperationStep::Done => "over",
        OperationStep::Validating => "whether the target is fit is looked at; statements go on",
        OperationStep::HoldingLeases => "transactions end, new ones wait",
        OperationStep::Pausing => "what runs ends, statements wait",
        OperationStep::CatchingUp => "the target gets the rest; statements wait",
        OperationStep::Converting | OperationStep::Stopping => {
            "the old master is stopped, to come back as a replica; statements wait"
        }
        OperationStep::Confirming => "the target has all of it",
        OperationStep::Blocked => "it cannot go on by itself",
        OperationStep::Aborting => "it is undone: the old master stays",
        OperationStep::Unknown => "a newer operator is at it",
    }
}

fn servers(out: &mut String, status: &PgPoolStatus) -> std::fmt::Result {
    let is_master = |server: &ServerStatus| {
        status
            .master
            .as_ref()
            .is_some_and(|master| master.name == server.name)
    };
    let mut rows: Vec<&ServerStatus> = status.servers.iter().filter(|server| is_master(server)).collect();
    rows.extend(status.servers.iter().filter(|server| !is_master(server)));
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(4).max(4);
    let address = rows.iter().map(|row| row.address.len()).max().unwrap_or(7).max(7);
    for (at, row) in rows.iter().enumerate() {
        let branch = match (is_master(row), at + 1 == rows.len()) {
            (true, _) => "*  ",
            (false, true) => " └─",
            (false, false) => " ├─",
        };
        let role = match row.role {
            _ if is_master(row) => "master",
            ServerRole::Master => "MASTER?",
            ServerRole::Replica => "replica",
            ServerRole::Unknown => "?",
        };
        let state = format!("{:?}", row.state);
        let mut more = Vec::new();
        if row.timeline > 0 {
            more.push(format!("timeline {}", row.timeline));
        }
        if !row.lag.is_empty() {
            more.push(format!("lag {}", row.lag));
        }
        if !row.sync_state.is_empty() {
            more.push(row.sync_state.clone());
        }
        if row.state == ServerState::Streaming && !row.read_eligible {
            more.push("no reads".to_owned());
        }
        if !row.message.is_empty() {
            more.push(row.message.clone());
        }
        writeln!(
            out,
            "{branch} {:<width$}  {:<address$}  {role:<7} {state:<12} {}",
            row.name,
            row.address,
            more.join("  ")
        )?;
    }
    Ok(())
}

fn conditions(out: &mut String, status: &PgPoolStatus) -> std::fmt::Result {
    let bad: Vec<_> = status
        .conditions
        .iter()
        .filter(|condition| !NEUTRAL.contains(&condition.kind.as_str()))
        .filter(|condition| {
            let expected = !BAD_IF_TRUE.contains(&condition.kind.as_str());
            (condition.status == ConditionStatus::True) != expected
        })
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    match status.operation {
        Some(_) => writeln!(out, "\nnot as it should be, while this is under way")?,
        None => writeln!(out, "\nnot as it should be")?,
    }
    for condition in bad {
        let (kind, reason, message) = (&condition.kind, &condition.reason, &condition.message);
        let colon = if message.is_empty() { "" } else { ": " };
        writeln!(out, "  {kind}={:?} {reason}{colon}{message}", condition.status)?;
    }
    Ok(())
}

/// For programs.
pub(crate) fn json(snapshot: &Snapshot, proxies: &[ProxyReport]) -> Result<String, serde_json::Error> {
    let value = serde_json::json!({
        "pool": snapshot.config.name,
        "status": snapshot.status.as_deref(),
        "proxies": proxies,
    });
    serde_json::to_string_pretty(&value).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Secrets, StatusVersion};
    use crds::PoolConfig;
    use crds::status::{Condition, MasterStatus};
    use std::sync::Arc;

    fn snapshot() -> Snapshot {
        let server = |name: &str, role, state| ServerStatus {
            name: name.into(),
            address: "10.0.0.1:5432".into(),
            role,
            state,
            timeline: 2,
            read_eligible: true,
            ..ServerStatus::default()
        };
        let status = PgPoolStatus {
            epoch: 7,
            phase: Phase::Degraded,
            master: Some(MasterStatus {
                name: "b".into(),
                ..MasterStatus::default()
            }),
            servers: vec![
                server("a", ServerRole::Replica, ServerState::Streaming),
                server("b", ServerRole::Master, ServerState::Running),
                server("c", ServerRole::Replica, ServerState::Unreachable),
            ],
            proxies_ready: "0/0".into(),
            conditions: vec![
                Condition {
                    kind: "ReplicationHealthy".into(),
                    status: ConditionStatus::False,
                    reason: "NotStreaming".into(),
                    message: "c Unreachable".into(),
                    ..Condition::default()
                },
                Condition {
                    kind: "RejoinRequired".into(),
                    status: ConditionStatus::False,
                    ..Condition::default()
                },
            ],
            ..PgPoolStatus::default()
        };
        Snapshot {
            config: Arc::new(PoolConfig::default()),
            status: Some(Arc::new(status)),
            secrets: Arc::new(Secrets::default()),
            version: StatusVersion::ABSENT,
            highest_epoch: 7,
            faults: Arc::default(),
            warnings: Arc::default(),
        }
    }

    #[test]
    fn the_master_stands_first_and_what_is_wrong_is_said() {
        let expected = "\
test  Degraded  epoch 7  open
*   b     10.0.0.1:5432  master  Running      timeline 2
 ├─ a     10.0.0.1:5432  replica Streaming    timeline 2
 └─ c     10.0.0.1:5432  replica Unreachable  timeline 2

proxies 0/0

not as it should be
  ReplicationHealthy=False NotStreaming: c Unreachable
";
        assert_eq!(text(&snapshot(), &[]), expected);
        assert_eq!(verdict(snapshot().status.as_deref()), Exit::Degraded);
    }

    #[test]
    fn a_failover_whose_new_master_serves_is_degraded_and_before_that_down() {
        let mut status = PgPoolStatus {
            phase: Phase::FailingOver,
            ..PgPoolStatus::default()
        };
        for (mode, exit) in [
            (RoutingMode::Fenced, Exit::Down),
            (RoutingMode::Open, Exit::Degraded),
        ] {
            status.routing.mode = mode;
            assert_eq!(verdict(Some(&status)), exit, "{mode:?}");
        }
    }

    #[test]
    fn programs_get_everything() {
        let value: serde_json::Value = serde_json::from_str(&json(&snapshot(), &[]).unwrap()).unwrap();
        assert_eq!(value["status"]["master"]["name"], "b");
    }
}

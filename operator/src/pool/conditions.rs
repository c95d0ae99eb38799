//! The conditions of a pool: what is the case, in words for people, each with its remedy where there is one.

use super::publish::Facts;
use crate::core::{Class, Core, Durability, Kind, Mode, Step};
use crds::status::{Condition, ConditionStatus, PgPoolStatus, Phase, ProxiesStatus, ServerState};

fn condition(kind: &str, is: Option<bool>, reason: &str, message: impl Into<String>) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: match is {
            Some(true) => ConditionStatus::True,
            Some(false) => ConditionStatus::False,
            None => ConditionStatus::Unknown,
        },
        reason: reason.to_owned(),
        message: message.into(),
        ..Condition::default()
    }
}

pub(super) fn conditions(core: &Core, facts: &Facts<'_>, status: &PgPoolStatus) -> Vec<Condition> {
    let mut all = vec![
        ready(core, status),
        master_reachable(core),
        replication(core, status),
        failover_possible(core, facts),
        durability(core),
        progressing(core),
        blocked(core),
        split_brain(core),
        rejoin_required(core),
        proxies_in_sync(status),
        config_valid(core, facts),
    ];
    for condition in &mut all {
        condition.observed_generation = status.observed_generation;
    }
    all
}

fn ready(core: &Core, status: &PgPoolStatus) -> Condition {
    let durable = core.durable();
    let Some(master) = &durable.master else {
        let writable = status
            .servers
            .iter()
            .filter(|row| row.state == ServerState::Running)
            .count();
        return match writable {
            0 => condition("Ready", Some(false), "NoMaster", "no server takes writes"),
            1 => condition(
                "Ready",
                Some(false),
                "Undecided",
                "one server takes writes, but not all others were heard",
            ),
            _ => condition(
                "Ready",
                Some(false),
                "MultiplePrimaries",
                "several servers take writes: stop all but one",
            ),
        };
    };
    match durable.mode {
        Mode::Open if core.view().server(&master.name).failures == 0 => {
            condition("Ready", Some(true), "Open", format!("{} is master", master.name))
        }
        Mode::Open => condition(
            "Ready",
            Some(false),
            "MasterUnreachable",
            format!("{} does not answer", master.name),
        ),
        Mode::Holding | Mode::Paused => condition("Ready", Some(true), "Paused", "a switchover is under way"),
        Mode::Fenced => condition("Ready", Some(false), "Fenced", "requests wait for a new master"),
    }
}

fn master_reachable(core: &Core) -> Condition {
    let Some(master) = &core.durable().master else {
        return condition("MasterReachable", None, "NoMaster", "");
    };
    let seen = core.view().server(&master.name);
    match seen.class {
        Some(Class::Up)
            if seen
                .current()
                .is_some_and(|sample| sample.system != master.system) =>
        {
            condition(
                "MasterReachable",
                Some(false),
                "ForeignSystem",
                "another cluster answers at its address",
            )
        }
        Some(Class::Up) => condition("MasterReachable", Some(true), "Probed", ""),
        Some(Class::Odd) => condition(
            "MasterReachable",
            Some(true),
            "LoginRefused",
            seen.oddity.clone().unwrap_or_default(),
        ),
        Some(Class::Starting) => condition("MasterReachable", Some(false), "StartingUp", ""),
        None => condition("MasterReachable", None, "NotProbed", ""),
        Some(class) => condition("MasterReachable", Some(false), &format!("{class:?}"), ""),
    }
}

fn replication(core: &Core, status: &PgPoolStatus) -> Condition {
    let master = core.durable().master.as_ref().map(|master| master.name.as_str());
    let bad: Vec<String> = status
        .servers
        .iter()
        .filter(|row| Some(row.name.as_str()) != master && row.state != ServerState::Streaming)
        .map(|row| match row.message.as_str() {
            "" => format!("{} {:?}", row.name, row.state),
            why => format!("{} {:?} ({why})", row.name, row.state),
        })
        .collect();
    if bad.is_empty() {
        return condition("ReplicationHealthy", Some(true), "AllStreaming", "");
    }
    condition("ReplicationHealthy", Some(false), "NotStreaming", bad.join(", "))
}

fn failover_possible(core: &Core, facts: &Facts<'_>) -> Condition {
    let kind = "FailoverPossible";
    let settings = core.settings();
    if !settings.ha {
        return condition(
            kind,
            Some(false),
            "Disabled",
            facts
                .warnings
                .iter()
                .find(|text| text.starts_with("ha.enabled"))
                .map_or(
                    "ha.enabled is false: the operator follows and never promotes",
                    String::as_str,
                ),
        );
    }
    if settings.paused {
        return condition(kind, Some(false), "Paused", "ha.paused is true");
    }
    let Some(master) = &core.durable().master else {
        return condition(kind, None, "NoMaster", "");
    };
    // Nobody streams from a master that is gone: then whoever is on its timeline may be elected.
    let gone = core.view().server(&master.name).current().is_none();
    let able: Vec<&str> = settings
        .others(&master.name)
        .filter(|server| server.priority > 0)
        .filter(|server| {
            let sample = core.view().server(&server.name).current();
            sample.is_some_and(|s| {
                let streams = s.receiver.as_ref().is_some_and(|r| r.streaming);
                !s.delayed && s.timeline == master.timeline && (streams || gone)
            })
        })
        .map(|server| server.name.as_str())
        .collect();
    if able.is_empty() {
        return condition(
            kind,
            Some(false),
            "NoCandidate",
            "no replica that may be promoted follows the master",
        );
    }
    let by_command = if settings.can_restart {
        ""
    } else {
        "; without --restart-command servers are only stopped by SQL"
    };
    let rewind = if settings.can_rewind {
        ""
    } else {
        "; without --rewind-command a diverged server waits for a person"
    };
    condition(
        kind,
        Some(true),
        "Candidates",
        format!("{}{by_command}{rewind}", able.join(", ")),
    )
}

fn durability(core: &Core) -> Condition {
    let kind = "DurabilitySatisfied";
    let settings = core.settings();
    if settings.durability == Durability::Async || !settings.ha {
        return condition(kind, Some(true), "Async", "commits wait for no replica");
    }
    let Some(master) = &core.durable().master else {
        return condition(kind, None, "NoMaster", "");
    };
    let Some(sample) = core.view().server(&master.name).current() else {
        return condition(kind, None, "MasterUnreachable", "");
    };
    let counting = sample
        .senders
        .iter()
        .filter(|sender| sender.streaming && sender.counts())
        .count();
    if counting >= settings.sync_replicas as usize {
        return condition(
            kind,
            Some(true),
            "Confirming",
            format!("{counting} replicas confirm"),
        );
    }
    let what = match settings.durability {
        Durability::Required => "commits wait until more replicas stream",
        _ => "commits are confirmed by fewer replicas than asked for",
    };
    condition(
        kind,
        Some(false),
        "TooFewReplicas",
        format!("{counting} of {}: {what}", settings.sync_replicas),
    )
}

fn progressing(core: &Core) -> Condition {
    match &core.durable().operation {
        None => condition("Progressing", Some(false), "Idle", ""),
        Some(op) => condition(
            "Progressing",
            Some(op.step != Step::Blocked),
            &format!("{:?}", op.step),
            op.id.clone(),
        ),
    }
}

fn blocked(core: &Core) -> Condition {
    let kind = "FailoverBlocked";
    match &core.durable().operation {
        Some(op) if op.step == Step::Blocked => {
            let reason = op
                .blocked
                .map_or_else(|| "Unknown".to_owned(), |blocked| format!("{blocked:?}"));
            let message = format!(
                "{}; it goes on by itself when more servers answer; `pgstmtpool failover --force {}` may lose data",
                op.message, op.id
            );
            condition(kind, Some(true), &reason, message)
        }
        _ => condition(kind, Some(false), "NotBlocked", ""),
    }
}

fn split_brain(core: &Core) -> Condition {
    let kind = "SplitBrainSuspected";
    let Some(master) = &core.durable().master else {
        return condition(kind, Some(false), "NoMaster", "");
    };
    let target = core
        .durable()
        .operation
        .as_ref()
        .and_then(|op| op.target.as_deref());
    let zombies: Vec<&str> = core
        .settings()
        .others(&master.name)
        .filter(|server| target != Some(server.name.as_str()))
        .filter(|server| {
            core.view()
                .server(&server.name)
                .current()
                .is_some_and(|sample| !sample.recovery)
        })
        .map(|server| server.name.as_str())
        .collect();
    if zombies.is_empty() {
        return condition(kind, Some(false), "OneMaster", "");
    }
    let message = format!(
        "{} take(s) writes beside {}; proxies never go there",
        zombies.join(", "),
        master.name
    );
    condition(kind, Some(true), "ZombieMaster", message)
}

fn rejoin_required(core: &Core) -> Condition {
    let kind = "RejoinRequired";
    let given_up: Vec<&str> = core
        .durable()
        .rejoin
        .iter()
        .filter(|(_, rejoin)| rejoin.given_up)
        .map(|(name, _)| name.as_str())
        .collect();
    if given_up.is_empty() {
        return condition(kind, Some(false), "None", "");
    }
    let master = core
        .durable()
        .master
        .as_ref()
        .map_or("the master", |master| master.name.as_str());
    let message = format!(
        "{}: stop it, `pg_rewind --target-pgdata=... --source-server='host=... port=...'` from {master} (or pg_basebackup), \
         touch standby.signal, set primary_conninfo, start it",
        given_up.join(", ")
    );
    condition(kind, Some(true), "Diverged", message)
}

fn proxies_in_sync(status: &PgPoolStatus) -> Condition {
    let ProxiesStatus { ready, acked, .. } = status.proxies;
    let message = format!("{acked} of {ready} follow epoch {}", status.epoch);
    condition(
        "ProxiesInSync",
        Some(acked == ready),
        if acked == ready {
            "AllAcknowledged"
        } else {
            "Waiting"
        },
        message,
    )
}

fn config_valid(core: &Core, facts: &Facts<'_>) -> Condition {
    let kind = "ConfigValid";
    if let Some(fault) = facts.faults.first() {
        let message = format!(
            "{} fault(s); the last valid one stays in force: {fault}",
            facts.faults.len()
        );
        return condition(kind, Some(false), "Invalid", message);
    }
    if let Some(why) = facts.login {
        return condition(kind, Some(false), "NoLogin", why);
    }
    if let Some(master) = &core.durable().master
        && !facts
            .config
            .servers()
            .iter()
            .any(|server| server.name == master.name)
    {
        let message = format!(
            "{} is master and cannot be taken out of the spec: switch over first",
            master.name
        );
        return condition(kind, Some(false), "MasterNotInSpec", message);
    }
    match facts.warnings {
        [] => condition(kind, Some(true), "Valid", ""),
        warnings => condition(kind, Some(true), "ValidWithWarnings", warnings.join("; ")),
    }
}

pub(super) fn phase(core: &Core, status: &PgPoolStatus) -> Phase {
    let is = |kind: &str| status.condition(kind).map(|condition| condition.status);
    match (&core.durable().operation, &core.durable().master) {
        (Some(op), _) if op.step == Step::Blocked => Phase::Blocked,
        (Some(op), _) if op.kind == Kind::Switchover => Phase::SwitchingOver,
        (Some(_), _) => Phase::FailingOver,
        (None, None) if core.view().born.elapsed().as_secs() < 5 => Phase::Pending,
        (None, None) => Phase::Down,
        (None, Some(_)) => {
            let good = [
                ("Ready", ConditionStatus::True),
                ("ReplicationHealthy", ConditionStatus::True),
                ("DurabilitySatisfied", ConditionStatus::True),
                ("SplitBrainSuspected", ConditionStatus::False),
                ("ConfigValid", ConditionStatus::True),
            ];
            if is("Ready") == Some(ConditionStatus::False) {
                Phase::Down
            } else if good.iter().all(|(kind, wanted)| is(kind) == Some(*wanted)) {
                Phase::Healthy
            } else {
                Phase::Degraded
            }
        }
    }
}

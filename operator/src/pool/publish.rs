//! What people and proxies read in the status beside the record: servers, conditions, phase. Derived, never decided from.

use crate::core::{Class, Core, Durability, Kind, Master, Mode, Sample, Step};
use crds::status::{
    BudgetStatus, Condition, ConditionStatus, PgPoolStatus, Phase, ProxiesStatus, ServerRole, ServerState,
    ServerStatus, Share,
};
use crds::{Address, PoolConfig};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

/// What is derived from, beside the core.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// The manifest.
    pub config: &'a PoolConfig,
    /// What is wrong with the manifest as it stands now.
    pub faults: &'a [crds::Fault],
    /// Why nobody can log in.
    pub login: Option<&'a str>,
    /// Data directories.
    pub folders: &'a BTreeMap<String, String>,
}

/// Fills in everything that is derived.
pub(super) fn publish(
    core: &Core,
    facts: &Facts<'_>,
    status: &mut PgPoolStatus,
    now: Instant,
    time: SystemTime,
) {
    status.observed_generation = facts.config.generation;
    let rejoin: BTreeMap<String, _> = status
        .servers
        .iter()
        .filter_map(|server| Some((server.name.clone(), server.rejoin.clone()?)))
        .collect();
    let addresses: BTreeMap<String, String> = facts
        .config
        .servers()
        .iter()
        .map(|server| (server.name.clone(), server.address.to_string()))
        .collect();
    let old = std::mem::take(&mut status.servers);
    for server in &core.settings().servers {
        let mut row = row(core, &server.name);
        let before = old.iter().find(|old| old.name == server.name);
        row.address = addresses.get(&server.name).cloned().unwrap_or_else(|| {
            Address::Host {
                host: server.host.clone(),
                port: server.port,
            }
            .to_string()
        });
        row.rejoin = rejoin.get(&server.name).cloned();
        row.data_directory = facts
            .folders
            .get(&server.name)
            .cloned()
            .or_else(|| before.map(|before| before.data_directory.clone()))
            .unwrap_or_default();
        status.servers.push(row);
    }
    if let Some(master) = &mut status.master {
        if let Some(row) = status.servers.iter().find(|row| row.name == master.name) {
            master.address.clone_from(&row.address);
        }
        if let Some(sample) = core.view().server(&master.name).current() {
            master.version_num = sample.version;
        }
    }
    proxies(core, status, now);
    summary(core, status);
    let time = crds::units::rfc3339(time);
    for condition in conditions(core, facts, status) {
        status.set_condition(condition, &time);
    }
    status.phase = phase(core, status);
}

fn row(core: &Core, name: &str) -> ServerStatus {
    let durable = core.durable();
    let seen = core.view().server(name);
    let master = durable.master.as_ref();
    let is_master = master.is_some_and(|master| master.name == name);
    let sample = seen.current();
    let lag = lag_bytes(core, name);
    let sender = master
        .and_then(|master| core.view().server(&master.name).current())
        .and_then(|sample| sample.senders.iter().find(|sender| sender.name == name));
    let state = state(core, name, master, sample, lag);
    let rejoin = durable.rejoin.get(name);
    let message = match (&seen.oddity, rejoin) {
        (Some(why), _) => why.clone(),
        (None, Some(rejoin)) if rejoin.given_up => {
            "cannot come back by itself: rewind it (pg_rewind) or copy it anew (pg_basebackup), then start it as a standby"
                .to_owned()
        }
        _ => String::new(),
    };
    ServerStatus {
        name: name.to_owned(),
        role: match sample {
            Some(sample) if sample.recovery => ServerRole::Replica,
            _ if is_master => ServerRole::Master,
            Some(_) => ServerRole::Unknown,
            None => ServerRole::Replica,
        },
        state,
        timeline: sample.map_or(0, |sample| sample.timeline),
        lag: if is_master {
            String::new()
        } else {
            lag.map(bucket).unwrap_or_default().to_owned()
        },
        sync_state: sender.map(|sender| sender.sync_state.clone()).unwrap_or_default(),
        slot: if is_master {
            String::new()
        } else {
            sample.map(|s| s.slot.clone()).unwrap_or_default()
        },
        read_eligible: match state {
            ServerState::Streaming => true,
            ServerState::Running => is_master && durable.mode == Mode::Open,
            // During an election what was detached may still be read: the master takes no writes meanwhile.
            ServerState::Detached => durable.operation.is_some(),
            ServerState::CatchingUp => true,
            _ => false,
        },
        message,
        ..ServerStatus::default()
    }
}

fn state(
    core: &Core,
    name: &str,
    master: Option<&Master>,
    sample: Option<&Sample>,
    lag: Option<u64>,
) -> ServerState {
    let seen = core.view().server(name);
    let rejoining = core.durable().rejoin.get(name);
    let Some(sample) = sample else {
        return match seen.class {
            None => ServerState::Unknown,
            Some(Class::Starting) => ServerState::StartingUp,
            Some(Class::Odd) => ServerState::Running,
            _ if rejoining.is_some_and(|rejoin| !rejoin.given_up) => ServerState::Rejoining,
            _ => ServerState::Unreachable,
        };
    };
    let Some(master) = master else {
        return if sample.recovery {
            ServerState::NotStreaming
        } else {
            ServerState::Running
        };
    };
    if master.name == name && !sample.recovery {
        return if sample.read_only {
            ServerState::Fenced
        } else {
            ServerState::Running
        };
    }
    if !sample.recovery {
        return ServerState::Fenced;
    }
    let streams = sample
        .receiver
        .as_ref()
        .is_some_and(|receiver| receiver.streaming);
    if streams && sample.timeline == master.timeline {
        return if lag.is_some_and(|lag| lag >= 16 << 20) {
            ServerState::CatchingUp
        } else {
            ServerState::Streaming
        };
    }
    let ours = core.view().server(&master.name).sample.as_ref();
    if ours.is_some_and(|ours| !ours.recovery && ours.is_diverged(sample)) {
        return ServerState::Diverged;
    }
    if sample
        .upstream
        .as_ref()
        .is_some_and(crate::core::Upstream::is_detached)
        && !streams
    {
        return ServerState::Detached;
    }
    match rejoining {
        Some(rejoin) if !rejoin.given_up => ServerState::Rejoining,
        _ => ServerState::NotStreaming,
    }
}

/// Bytes a standby is behind the master, as far as both were seen.
pub fn lag_bytes(core: &Core, name: &str) -> Option<u64> {
    let master = core.durable().master.as_ref()?;
    let ours = core.view().server(&master.name).sample.as_ref()?;
    let sample = core.view().server(name).current()?;
    (master.name != name && sample.system == ours.system).then(|| ours.lsn.since(sample.lsn))
}

fn bucket(lag: u64) -> &'static str {
    match lag {
        // One record is always under way.
        0..=0xffff => "0",
        0x1_0000..0x10_0000 => "<1MiB",
        0x10_0000..0x100_0000 => "<16MiB",
        0x100_0000..0x1000_0000 => "<256MiB",
        _ => "more",
    }
}

fn proxies(core: &Core, status: &mut PgPoolStatus, now: Instant) {
    let live: Vec<_> = core.view().live_proxies(core.settings().lease, now).collect();
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let acked = live
        .iter()
        .filter(|proxy| proxy.facts.acked >= status.epoch)
        .count();
    status.proxies = ProxiesStatus {
        replicas: count(core.view().proxies.len()),
        ready: count(live.len()),
        acked: count(acked),
        selector: std::mem::take(&mut status.proxies.selector),
    };
    status.proxies_ready = format!("{}/{}", live.len(), core.view().proxies.len());
    // A lone proxy has it all and need not be named; several share evenly.
    let of = count(live.len());
    let shares = live
        .iter()
        .filter(|_| of > 1)
        .map(|proxy| (proxy.facts.id.clone(), Share { parts: 1, of }));
    let servers = core.settings().servers.iter().filter_map(|server| {
        let known = core
            .view()
            .server(&server.name)
            .sample
            .as_ref()
            .map(|sample| sample.connections);
        let before = status.budget.servers.get(&server.name).copied();
        Some((server.name.clone(), known.or(before)?))
    });
    status.budget = BudgetStatus {
        servers: servers.collect(),
        shares: shares.collect(),
    };
}

/// Applies `spec.budget`: what is ours of each server's connections.
pub(super) fn cap_budget(config: &PoolConfig, status: &mut PgPoolStatus) {
    for connections in status.budget.servers.values_mut() {
        let left = connections.saturating_sub(config.budget.reserve_connections);
        *connections = match config.budget.per_server {
            0 => left,
            per_server => per_server.min(left),
        };
    }
}

fn summary(core: &Core, status: &mut PgPoolStatus) {
    let master = core.durable().master.as_ref().map(|master| master.name.as_str());
    let replicas = status
        .servers
        .iter()
        .filter(|row| Some(row.name.as_str()) != master);
    let good = |row: &&ServerStatus| matches!(row.state, ServerState::Streaming | ServerState::CatchingUp);
    let (all, ready) = (replicas.clone().count(), replicas.filter(good).count());
    status.replicas_ready = format!("{ready}/{all}");
    let lags = core
        .settings()
        .servers
        .iter()
        .filter_map(|server| lag_bytes(core, &server.name));
    status.max_lag = lags.max().map(bucket).unwrap_or_default().to_owned();
}

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

fn conditions(core: &Core, facts: &Facts<'_>, status: &PgPoolStatus) -> Vec<Condition> {
    let mut all = vec![
        ready(core, status),
        master_reachable(core),
        replication(core, status),
        failover_possible(core),
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
        .map(|row| format!("{} {:?}", row.name, row.state))
        .collect();
    if bad.is_empty() {
        return condition("ReplicationHealthy", Some(true), "AllStreaming", "");
    }
    condition("ReplicationHealthy", Some(false), "NotStreaming", bad.join(", "))
}

fn failover_possible(core: &Core) -> Condition {
    let kind = "FailoverPossible";
    let settings = core.settings();
    if !settings.ha {
        return condition(
            kind,
            Some(false),
            "Disabled",
            "ha.enabled is false: the operator follows and never promotes",
        );
    }
    if settings.paused {
        return condition(kind, Some(false), "Paused", "ha.paused is true");
    }
    let Some(master) = &core.durable().master else {
        return condition(kind, None, "NoMaster", "");
    };
    let able: Vec<&str> = settings
        .others(&master.name)
        .filter(|server| server.priority > 0)
        .filter(|server| {
            let sample = core.view().server(&server.name).current();
            sample.is_some_and(|s| {
                !s.delayed
                    && s.timeline == master.timeline
                    && s.receiver.as_ref().is_some_and(|r| r.streaming)
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
    condition(kind, Some(true), "Valid", "")
}

fn phase(core: &Core, status: &PgPoolStatus) -> Phase {
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

/// Whether two statuses differ in something worth writing at once. What only creeps (lag, counts) may wait.
pub(super) fn differs(old: &PgPoolStatus, new: &PgPoolStatus) -> Difference {
    let calm = |status: &PgPoolStatus| {
        let mut calm = status.clone();
        calm.max_lag.clear();
        calm.servers.iter_mut().for_each(|server| server.lag.clear());
        for condition in &mut calm.conditions {
            condition.message.clear();
        }
        calm
    };
    if old == new {
        Difference::None
    } else if calm(old) == calm(new) {
        Difference::Small
    } else {
        Difference::Large
    }
}

/// How much two statuses differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// Not at all.
    None,
    /// In what creeps: write it now and then.
    Small,
    /// In what matters: write it now.
    Large,
}

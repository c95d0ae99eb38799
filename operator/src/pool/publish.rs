//! What people and proxies read in the status beside the record: servers, conditions, phase. Derived, never decided from.

use super::conditions::{conditions, phase};
use super::shares;
use crate::core::{Class, Core, Master, Mode, Sample};
use crate::servers::Pods;
use crds::status::{PgPoolStatus, ProxiesStatus, ServerRole, ServerState, ServerStatus};
use crds::{Address, PoolConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// What is derived from, beside the core.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// The manifest.
    pub config: &'a PoolConfig,
    /// What is wrong with the manifest as it stands now.
    pub faults: &'a [crds::Fault],
    /// What is allowed in the manifest but probably not meant, or not carried out.
    pub warnings: &'a [String],
    /// Why nobody can log in.
    pub login: Option<&'a str>,
    /// Pods, where servers are pods.
    pub pods: Option<&'a Arc<dyn Pods>>,
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
        if row.message.is_empty() && row.state == ServerState::Unreachable {
            let trouble = facts.pods.and_then(|pods| pods.trouble(&server.name));
            row.message = trouble.unwrap_or_default();
        }
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
    proxies(core, facts.config, status, now);
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
    let foreign = master.is_some_and(|master| sample.is_some_and(|sample| sample.system != master.system));
    let state = if foreign {
        ServerState::NotStreaming
    } else {
        state(core, name, master, sample, lag)
    };
    let rejoin = durable.rejoin.get(name);
    let message = match (&seen.oddity, rejoin) {
        _ if foreign => format!(
            "belongs to another cluster (system identifier {}): look at its address, or copy it anew",
            sample.map(|sample| sample.system.as_str()).unwrap_or_default()
        ),
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

fn proxies(core: &Core, config: &PoolConfig, status: &mut PgPoolStatus, now: Instant) {
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
    let acked = live
        .iter()
        .map(|proxy| (proxy.facts.id.as_str(), proxy.facts.budget))
        .collect();
    // Who was not heard yet is not known to be gone.
    if core.view().heard {
        shares::share_out(&mut status.budget, &acked);
    }
    let sampled = |name: &str| {
        let sample = core.view().server(name).sample.as_ref();
        sample.map(|sample| {
            sample
                .connections
                .saturating_sub(config.budget.reserve_connections)
        })
    };
    let servers = core.settings().servers.iter().filter_map(|server| {
        // What was published before is what was left already: nothing is taken off it twice.
        let before = status.budget.servers.get(&server.name).copied();
        let left = sampled(&server.name).or(before)?;
        let ours = match config.budget.per_server {
            0 => left,
            per_server => per_server.min(left),
        };
        Some((server.name.clone(), ours))
    });
    status.budget.servers = servers.collect();
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

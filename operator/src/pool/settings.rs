//! What the core is told of the manifest.

use crate::core::{Durability, Durable, RejoinPolicy, Server, Settings, SwitchoverRequest};
use crate::servers::Commands;
use cluster::Request;
use crds::status::PgPoolStatus;
use crds::{Address, DurabilityMode, PoolConfig, Rejoin};

/// The settings of a manifest, a request beside it, and the command line.
pub(super) fn settings(
    config: &PoolConfig,
    request: &Request,
    commands: &Commands,
    durable: &Durable,
    status: &PgPoolStatus,
) -> Settings {
    let mut servers: Vec<Server> = config
        .servers()
        .into_iter()
        .map(|server| {
            let (Address::Host { host, port } | Address::Pod { name: host, port }) = server.address;
            Server {
                name: server.name,
                host,
                port,
                priority: server.failover_priority,
            }
        })
        .collect();
    keep_master(&mut servers, durable, status);
    let asked = request.switchover.as_ref().map(|switchover| SwitchoverRequest {
        to: switchover.to.clone(),
        id: switchover.request_id.clone(),
        force: switchover.force,
    });
    let written = config.switchover.as_ref().map(|switchover| SwitchoverRequest {
        to: switchover.to.clone(),
        id: switchover.request_id.clone(),
        force: switchover.force,
    });
    let open = |request: &SwitchoverRequest| !durable.is_served(&request.id);
    Settings {
        servers,
        seed: config.master.name.clone(),
        ha: config.ha.enabled,
        paused: request.paused.unwrap_or(config.ha.paused),
        threshold: config.ha.failure_threshold,
        probe_period: config.ha.probe_period,
        crash_grace: config.ha.crash_recovery_grace,
        election_timeout: config.ha.election_timeout,
        max_lag: config.ha.max_lag_on_failover.unwrap_or(0),
        durability: match config.durability.mode {
            DurabilityMode::Async => Durability::Async,
            DurabilityMode::Preferred => Durability::Preferred,
            DurabilityMode::Required => Durability::Required,
        },
        sync_replicas: config.durability.sync_replicas,
        rejoin: match config.ha.rejoin {
            Rejoin::Manual => RejoinPolicy::Manual,
            // A volume can be thrown away on Kubernetes only; here it is as Auto.
            Rejoin::Auto | Rejoin::Rebuild => RejoinPolicy::Auto,
        },
        drain: config.timeouts.drain,
        switchover: asked.filter(open).or(written.filter(open)),
        force: [
            request.failover.as_ref().map(|failover| failover.force.clone()),
            config.failover.as_ref().map(|failover| failover.force.clone()),
        ]
        .into_iter()
        .flatten()
        .find(|id| durable.operation.as_ref().is_some_and(|op| op.id == *id)),
        can_restart: commands.can_restart(),
        can_rewind: commands.can_rewind(),
        lease: cluster::LEASE_DURATION,
    }
}

/// The settings of a manifest alone.
pub fn plain_settings(config: &PoolConfig) -> Settings {
    let (request, commands) = (Request::default(), Commands::default());
    settings(
        config,
        &request,
        &commands,
        &Durable::default(),
        &PgPoolStatus::default(),
    )
}

/// The master cannot be taken out of the spec while it is master: it is kept where the status says it is.
fn keep_master(servers: &mut Vec<Server>, durable: &Durable, status: &PgPoolStatus) {
    let Some(master) = &durable.master else { return };
    if servers.iter().any(|server| server.name == master.name) {
        return;
    }
    let address = status
        .master
        .as_ref()
        .map(|master| master.address.as_str())
        .unwrap_or_default();
    if let Some((host, port)) = address.rsplit_once(':')
        && let Ok(port) = port.parse()
    {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        servers.push(Server {
            name: master.name.clone(),
            host,
            port,
            priority: 50,
        });
    }
}

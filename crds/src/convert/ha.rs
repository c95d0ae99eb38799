//! Failover, durability, switchover, and what they must agree on with the servers.

use super::limits::{hours, minutes, ms};
use crate::raw;
use crate::units::SIZE_MAX;
use crate::{Durability, DurabilityMode, FailoverRequest, Faults, Ha, PoolConfig, Switchover};

pub(super) fn ha(faults: &mut Faults, written: raw::Ha) -> Ha {
    let raw::Ha {
        enabled,
        failure_threshold,
        probe_period,
        probe_timeout,
        crash_recovery_grace,
        election_timeout,
        max_lag_on_failover,
        rejoin,
        write_probe,
        paused,
    } = written;
    let max_lag = faults.size("maxLagOnFailover", &max_lag_on_failover, 0..=SIZE_MAX);
    Ha {
        enabled,
        failure_threshold: faults.range("failureThreshold", failure_threshold, 1..=1000),
        probe_period: faults.duration("probePeriod", &probe_period, ms(20)..=minutes(1)),
        probe_timeout: faults.duration("probeTimeout", &probe_timeout, ms(20)..=minutes(1)),
        crash_recovery_grace: faults.duration("crashRecoveryGrace", &crash_recovery_grace, ms(0)..=hours(24)),
        election_timeout: faults.duration("electionTimeout", &election_timeout, ms(100)..=minutes(10)),
        max_lag_on_failover: (max_lag > 0).then_some(max_lag),
        rejoin,
        write_probe,
        paused,
    }
}

pub(super) fn durability(faults: &mut Faults, written: raw::Durability) -> Durability {
    let raw::Durability { mode, sync_replicas } = written;
    Durability {
        mode,
        sync_replicas: faults.range("syncReplicas", sync_replicas, 1..=63),
    }
}

pub(super) fn switchover(faults: &mut Faults, written: raw::Switchover) -> Option<Switchover> {
    let raw::Switchover {
        to,
        request_id,
        force,
    } = written;
    let (to, request_id) = (
        faults.text("to", to, 40),
        faults.text("requestId", request_id, 100),
    );
    Some(Switchover {
        to: to?,
        request_id: request_id?,
        force,
    })
}

pub(super) fn failover(faults: &mut Faults, written: raw::Failover) -> Option<FailoverRequest> {
    let raw::Failover { force } = written;
    Some(FailoverRequest {
        force: faults.text("force", force, 100)?,
    })
}

/// What must fit the servers. Servers found by a selector are not known here.
pub(super) fn agreement(faults: &mut Faults, config: &PoolConfig) {
    if !config.selector.is_empty() {
        return;
    }
    let servers = config.servers();
    let Durability { mode, sync_replicas } = config.durability;
    if mode != DurabilityMode::Async && sync_replicas as usize >= servers.len() {
        let text = format!(
            "must be less than the number of servers, {}, is {sync_replicas}",
            servers.len()
        );
        faults.add("durability.syncReplicas", text);
    }
    if let Some(Switchover { to, .. }) = &config.switchover {
        match servers.iter().find(|server| server.name == *to) {
            None => {
                let names: Vec<_> = servers.iter().map(|server| server.name.as_str()).collect();
                faults.add(
                    "switchover.to",
                    format!("must be one of {}, is {to:?}", names.join(", ")),
                );
            }
            Some(server) if server.failover_priority == 0 => {
                faults.add(
                    "switchover.to",
                    format!("{to} has failoverPriority 0: it is never promoted"),
                );
            }
            Some(_) => {}
        }
    }
    if config.ha.enabled && servers.len() > 1 && servers.iter().all(|server| server.failover_priority == 0) {
        faults.add(
            "ha.enabled",
            "every server has failoverPriority 0: none could be promoted",
        );
    }
}

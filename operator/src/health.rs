//! What the operator counts, and whether it is well. One a pool.

use crate::core::{ActKind, Core, Mode, Probe, Reason, Step};
use crate::http::Report;
use crate::pool::lag_bytes;
use crds::status::PgPoolStatus;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

type Labels = Vec<(&'static str, String)>;

/// An actor that did nothing for so long hangs.
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);

/// Counters and state of one pool.
#[derive(Debug)]
pub struct Health {
    registry: Registry,
    beat: Mutex<Instant>,
    ready: Mutex<Result<(), String>>,
    probes: Family<Labels, Counter>,
    acts: Family<Labels, Counter>,
    events: Family<Labels, Counter>,
    up: Family<Labels, Gauge>,
    master: Family<Labels, Gauge>,
    lag: Family<Labels, Gauge>,
    epoch: Gauge,
    open: Gauge,
    operation: Gauge,
    blocked: Gauge,
    proxies: Gauge,
    proxies_acked: Gauge,
    rejoin_required: Gauge,
}

impl Health {
    /// For the pool of this name, in a namespace where there are any.
    pub fn new(pool: &str, namespace: Option<&str>) -> Self {
        let labels = [("pool", Some(pool)), ("namespace", namespace)];
        let labels = labels
            .into_iter()
            .filter_map(|(key, value)| Some((key.into(), value?.to_owned().into())));
        let mut registry = Registry::with_prefix_and_labels("pgstmtpool_operator", labels);
        let probes = Family::<Labels, Counter>::default();
        let acts = Family::<Labels, Counter>::default();
        let events = Family::<Labels, Counter>::default();
        let (up, master, lag) = (Family::default(), Family::default(), Family::default());
        let gauges: [Gauge; 7] = Default::default();
        let names = [
            ("epoch", "The epoch of the status"),
            ("open", "1: proxies use the master"),
            ("operation", "1: a failover or switchover is under way"),
            (
                "blocked",
                "1: it stands still and waits for servers or for a person",
            ),
            ("proxies", "Proxies with a live report"),
            (
                "proxies_acked",
                "Of those, the ones that follow the present epoch",
            ),
            ("rejoin_required", "Servers that a person has to bring back"),
        ];
        for ((name, help), gauge) in names.into_iter().zip(&gauges) {
            registry.register(name, help, gauge.clone());
        }
        registry.register("probes", "Probes by result", probes.clone());
        registry.register("acts", "Acts on servers by kind and result", acts.clone());
        registry.register("events", "Events by reason", events.clone());
        registry.register("server_up", "1: the last probe was answered", Family::clone(&up));
        registry.register("server_master", "1: it is the master", Family::clone(&master));
        registry.register(
            "server_lag_bytes",
            "How far a replica is behind",
            Family::clone(&lag),
        );
        let [
            epoch,
            open,
            operation,
            blocked,
            proxies,
            proxies_acked,
            rejoin_required,
        ] = gauges;
        Self {
            registry,
            beat: Mutex::new(Instant::now()),
            ready: Mutex::new(Err("not looked yet".into())),
            probes,
            acts,
            events,
            up,
            master,
            lag,
            epoch,
            open,
            operation,
            blocked,
            proxies,
            proxies_acked,
            rejoin_required,
        }
    }

    /// The actor is alive.
    pub fn beat(&self) {
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A probe ended.
    pub fn probed(&self, server: &str, probe: &Probe) {
        let result = match probe {
            Probe::Up(_) => "up",
            Probe::Odd(_) => "odd",
            Probe::Starting => "starting",
            Probe::Refused => "refused",
            Probe::Silent => "silent",
            Probe::WriteHung => "write_hung",
        };
        self.probes
            .get_or_create(&vec![
                ("server", server.to_owned()),
                ("result", result.to_owned()),
            ])
            .inc();
        let is_up = i64::from(matches!(probe, Probe::Up(_)));
        self.up
            .get_or_create(&vec![("server", server.to_owned())])
            .set(is_up);
    }

    /// An act ended.
    pub fn acted(&self, kind: ActKind, failed: bool) {
        let result = if failed { "failed" } else { "done" };
        self.acts
            .get_or_create(&vec![
                ("kind", format!("{kind:?}")),
                ("result", result.to_owned()),
            ])
            .inc();
    }

    /// Something happened.
    pub fn noted(&self, reason: Reason) {
        self.events
            .get_or_create(&vec![("reason", format!("{reason:?}"))])
            .inc();
    }

    /// Takes the state in.
    pub fn publish(&self, core: &Core, status: &PgPoolStatus) {
        let durable = core.durable();
        self.epoch.set(i64::try_from(durable.epoch).unwrap_or(i64::MAX));
        self.open.set(i64::from(durable.mode == Mode::Open));
        self.operation.set(i64::from(durable.operation.is_some()));
        self.blocked.set(i64::from(
            durable
                .operation
                .as_ref()
                .is_some_and(|op| op.step == Step::Blocked),
        ));
        self.proxies.set(i64::from(status.proxies.ready));
        self.proxies_acked.set(i64::from(status.proxies.acked));
        let given_up = durable.rejoin.values().filter(|rejoin| rejoin.given_up).count();
        self.rejoin_required
            .set(i64::try_from(given_up).unwrap_or(i64::MAX));
        for server in &core.settings().servers {
            let label = vec![("server", server.name.clone())];
            let is_master = durable
                .master
                .as_ref()
                .is_some_and(|master| master.name == server.name);
            self.master.get_or_create(&label).set(i64::from(is_master));
            if let Some(lag) = lag_bytes(core, &server.name) {
                self.lag
                    .get_or_create(&label)
                    .set(i64::try_from(lag).unwrap_or(i64::MAX));
            }
        }
        let seen = core
            .settings()
            .servers
            .iter()
            .any(|server| core.view().server(&server.name).probed.is_some());
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = if seen {
            Ok(())
        } else {
            Err("no server was probed yet".into())
        };
    }
}

impl Report for Health {
    fn live(&self) -> Result<(), String> {
        let silent = self.beat.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if silent < HEARTBEAT_MAX {
            Ok(())
        } else {
            Err(format!("nothing was decided for {} s", silent.as_secs()))
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

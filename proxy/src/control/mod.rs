//! The control loop: what is written becomes what data threads follow, and what they did is acknowledged.
//!
//! ```text
//! source -> settings, certificates, users -> plane, entrance, gate
//! source -> status -> Topology -> plane.apply -> acknowledgement
//! probes -> witness for the operator; without an operator: who is master
//! ```
//!
//! With a status its word is law: the highest epoch seen is never gone back from, and nothing is decided here. Without one (no
//! operator has ever run) the proxy follows whoever is seen to be master; it promotes nobody. Begin at [`Control::run`].

mod probe;
mod report;
mod seen;
mod share;
mod topology;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cluster::{ClusterSource, LEASE_RENEWAL, ProxyReport, Secrets, Snapshot};
use crds::{PoolConfig, SecretRef};
use futures::future::BoxFuture;
use pgnet::auth::scram::Key;
use pgnet::client::Credential;
use pgnet::tls::ClientTls;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

use crate::admin::Login;
use crate::auth::{Gate, Settings, Where};
use crate::house::{House, Order};
use crate::plane::{Mode, Plane, Server, Topology};
use crate::pseudo::Shutdown;
use crate::startup::Terms;
use crate::tls::Certificates;

use probe::{Probes, View};
use seen::Seen;

/// How long an acknowledgement may take before the loop goes on without.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// A topology that was applied but not drained is applied again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// What the control loop changes. The plane, but for tests.
pub trait Follower: Send + Sync + 'static {
    /// New settings.
    fn configure(&self, config: Arc<PoolConfig>);
    /// A new topology; `true` when nothing of an older epoch is left.
    fn apply(&self, topology: Arc<Topology>) -> BoxFuture<'static, bool>;
    /// Clients, and requests that wait.
    fn load(&self) -> (u32, u32);
}

/// The plane as a [`Follower`].
pub struct Following(pub Arc<Plane>);

impl Follower for Following {
    fn configure(&self, config: Arc<PoolConfig>) {
        self.0.configure(config);
    }

    fn apply(&self, topology: Arc<Topology>) -> BoxFuture<'static, bool> {
        let plane = Arc::clone(&self.0);
        Box::pin(async move { plane.apply(topology).await })
    }

    fn load(&self) -> (u32, u32) {
        let waiting: u64 = self
            .0
            .counters()
            .iter()
            .map(|counters| counters.waiting.read())
            .sum();
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        (small(self.0.client_count() as u64), small(waiting))
    }
}

/// What the loop is made of.
pub struct Parts {
    /// The manifest and its status.
    pub source: Arc<dyn ClusterSource>,
    /// What data threads are told through.
    pub follower: Arc<dyn Follower>,
    /// Shared with everybody.
    pub house: Arc<House>,
    /// Logins.
    pub gate: Arc<Gate>,
    /// Where look-ups go.
    pub place: watch::Sender<Arc<Where>>,
    /// Makes unknown users look like others.
    pub secret: Key,
    /// Who this proxy is.
    pub report: ProxyReport,
}

/// See the module.
pub struct Control {
    parts: Parts,
    certificates: Certificates,
    probes: Probes,
    view: watch::Receiver<View>,
    witness: report::Witnesses,
    /// Who is master without a status, and how often that changed.
    sight: Sight,
    current: Option<Snapshot>,
    login: Option<Login>,
    applying: JoinSet<Applied>,
    /// The number of the last topology handed to the plane: answers about older ones are not looked at.
    latest: u64,
    /// What the last report said.
    told: Option<ProxyReport>,
    /// Guards against a server that is not the one the status means.
    identity: Check,
}

/// Whether the master is the one the status means, by system identifier and timeline.
#[derive(Default)]
struct Check {
    /// The master, and how often it had been looked at when it was handed over: what is seen later counts.
    since: (String, u64),
    /// It is another server: nothing is sent to it.
    wrong: bool,
}

/// Who is master by our own eyes.
#[derive(Default)]
struct Sight {
    master: Option<String>,
    /// Grows with each change. Epochs of a status begin above it.
    epoch: u64,
}

/// What the plane made of a topology.
struct Applied {
    number: u64,
    topology: Arc<Topology>,
    /// The epoch as the status counts it.
    epoch: u64,
    drained: bool,
}

impl Control {
    /// Nothing is read yet.
    pub fn new(parts: Parts) -> Self {
        let probes = Probes::default();
        Self {
            view: probes.view(),
            probes,
            witness: report::Witnesses::default(),
            parts,
            certificates: Certificates::default(),
            sight: Sight::default(),
            current: None,
            login: None,
            applying: JoinSet::new(),
            latest: 0,
            told: None,
            identity: Check::default(),
        }
    }

    /// Follows until an order to end.
    pub async fn run(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> Shutdown {
        let mut renewal = interval(LEASE_RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.refresh().await;
        let source = Arc::clone(&self.parts.source);
        loop {
            self.parts.house.beat();
            tokio::select! {
                () = source.changed() => self.refresh().await,
                Ok(()) = self.view.changed() => self.look().await,
                Some(joined) = self.applying.join_next() => if let Ok(applied) = joined {
                    self.applied(applied).await;
                },
                _ = renewal.tick() => self.tell().await,
                order = orders.recv() => match order {
                    Some(Order::Reload) => {
                        info!("Reading everything again");
                        self.refresh().await;
                    }
                    Some(Order::End(how)) => return how,
                    None => return Shutdown::Drain,
                },
            }
        }
    }

    /// Reads what is written and puts it in force.
    async fn refresh(&mut self) {
        let snapshot = match self.parts.source.current().await {
            Ok(snapshot) => snapshot,
            Err(cause) => return warn!(error = %cause, "The manifest cannot be read: what is in force stays"),
        };
        if self
            .current
            .as_ref()
            .is_none_or(|before| before.faults != snapshot.faults)
        {
            for fault in snapshot.faults.iter() {
                error!(%fault, "What is written is wrong: what is in force stays");
            }
        }
        if self
            .current
            .as_ref()
            .is_none_or(|before| before.warnings != snapshot.warnings)
        {
            for warning in snapshot.warnings.iter() {
                warn!("{warning}");
            }
        }
        self.put_in_force(&snapshot);
        self.current = Some(snapshot);
        self.follow();
    }

    fn put_in_force(&mut self, snapshot: &Snapshot) {
        let Parts {
            follower,
            house,
            gate,
            secret,
            report,
            ..
        } = &self.parts;
        let (config, secrets) = (&snapshot.config, &snapshot.secrets);
        let share = share::share(snapshot.status.as_deref(), &report.id);
        let own = Arc::new(share::with_share(config, snapshot.status.as_deref(), share));
        let tls = self
            .certificates
            .to_clients(&config.tls, secrets)
            .unwrap_or_else(|cause| {
                error!(error = %cause, "TLS towards clients stays as it was");
                self.certificates.last_to_clients()
            });
        house.entrance.configure(Terms {
            config: Arc::clone(&own),
            tls,
        });
        gate.configure(Settings::new(config, secrets, *secret, &gate.settings()));
        house.config.store(Arc::clone(&own));
        follower.configure(own);
        let login = config
            .lookup_secret()
            .and_then(|reference| login(secrets, reference));
        if login.is_none() && self.login.is_some() {
            warn!("There is no login for our own look-ups any more");
        }
        self.login = login;
    }

    fn tls_to_servers(&mut self, snapshot: &Snapshot) -> Option<Arc<ClientTls>> {
        match self
            .certificates
            .to_servers(&snapshot.config.server_tls, &snapshot.secrets)
        {
            Ok(tls) => Some(tls),
            Err(cause) => {
                error!(error = %cause, "TLS towards servers stays as it was");
                self.parts
                    .house
                    .wait_for(format!("TLS towards servers cannot be set up: {cause}"));
                self.certificates.last_to_servers()
            }
        }
    }

    /// From what is written and seen to a topology, and to the plane where it differs.
    fn follow(&mut self) {
        let Some(snapshot) = self.current.clone() else {
            return;
        };
        // Without any, nothing is reached: better than in clear text where that was not asked for.
        let Some(tls) = self.tls_to_servers(&snapshot) else {
            return;
        };
        let topology = match snapshot.status.as_deref() {
            Some(status) => {
                let above = self.sight.epoch;
                let unknown = Topology {
                    epoch: status.epoch,
                    ..Topology::unknown()
                };
                let written = topology::of_status(&snapshot.config, status, &tls).unwrap_or_else(|| {
                    self.parts.house.wait_for("the operator knows no master yet");
                    unknown
                });
                let mode = if self.identity.wrong {
                    Mode::Fenced
                } else {
                    written.mode
                };
                Topology {
                    epoch: written.epoch.saturating_add(above),
                    mode,
                    ..written
                }
            }
            None => self.by_sight(&snapshot.config, &tls),
        };
        self.look_at(&snapshot.config, &topology, &tls);
        self.hand_over(Arc::new(topology));
    }

    /// Without a status: who is master as far as we can see.
    fn by_sight(&mut self, config: &PoolConfig, tls: &Arc<ClientTls>) -> Topology {
        if self.login.is_none() {
            if self.sight.master.is_none() {
                warn!(master = %config.master.name, "No login for look-ups: the manifest's master is taken at its word");
                self.sight.master = Some(config.master.name.clone());
            }
            return topology::without_status(
                config,
                self.sight.epoch,
                self.sight.master.as_deref(),
                None,
                tls,
            );
        }
        let seen: HashMap<String, Seen> = self
            .view
            .borrow()
            .iter()
            .map(|(name, looked)| (name.clone(), looked.seen.clone()))
            .collect();
        let master = topology::of_sight(config, self.sight.master.as_deref(), &seen);
        if master != self.sight.master {
            info!(
                from = self.sight.master.as_deref(),
                to = master.as_deref(),
                "This server is master, as far as is seen"
            );
            if self.sight.master.is_some() {
                self.sight.epoch += 1;
            }
            self.sight.master = master;
        }
        if self.sight.master.is_none() {
            self.parts.house.wait_for(why_no_master(config, &seen));
        }
        topology::without_status(
            config,
            self.sight.epoch,
            self.sight.master.as_deref(),
            Some(&seen),
            tls,
        )
    }

    fn look_at(&mut self, config: &PoolConfig, topology: &Topology, tls: &Arc<ClientTls>) {
        let known = topology
            .master
            .iter()
            .chain(topology.replicas.iter().map(|replica| &replica.server));
        let mut servers: Vec<Arc<Server>> = known.cloned().collect();
        for server in config.servers() {
            let target = topology::target(&server.address);
            let tls = Arc::clone(tls);
            servers.push(Arc::new(Server {
                name: server.name,
                target,
                tls,
                identity: None,
            }));
        }
        let mut names = std::collections::HashSet::new();
        servers.retain(|server| names.insert(server.name.clone()));
        self.probes.look_at(&servers, self.login.as_ref());

        let current = self.parts.place.borrow().clone();
        let mut asked: Vec<Arc<Server>> = topology.master.iter().cloned().collect();
        asked.extend(
            topology
                .replicas
                .iter()
                .map(|replica| Arc::clone(&replica.server)),
        );
        asked.dedup_by(|left, right| left.name == right.name);
        let place = Where {
            servers: asked,
            login: self.login.clone(),
        };
        let same =
            |left: &Server, right: &Server| left.target == right.target && Arc::ptr_eq(&left.tls, &right.tls);
        let unchanged = current.login == place.login
            && current.servers.len() == place.servers.len()
            && current
                .servers
                .iter()
                .zip(&place.servers)
                .all(|(left, right)| same(left, right));
        if !unchanged {
            self.parts.place.send_replace(Arc::new(place));
        }
    }

    /// Gives the plane a topology, unless it is the one it has.
    fn hand_over(&mut self, topology: Arc<Topology>) {
        let before = self.parts.house.topology.load_full();
        if self.latest > 0 && same(&before, &topology) {
            return;
        }
        if topology.epoch < before.epoch {
            return error!(
                seen = before.epoch,
                written = topology.epoch,
                "An older epoch was written: it is not followed"
            );
        }
        let master = topology.master.as_ref().map(|master| master.name.as_str());
        info!(epoch = topology.epoch, mode = ?topology.mode, master, replicas = topology.replicas.len(), "Following");
        let name = master.unwrap_or_default();
        if self.identity.since.0 != name {
            let times = self.view.borrow().get(name).map_or(0, |looked| looked.times);
            self.identity.since = (name.to_owned(), times + 1); // one may be under way
        }
        self.parts.house.topology.store(Arc::clone(&topology));
        self.latest += 1;
        self.applying.abort_all(); // nobody waits for an older one any more, nor tries it again
        self.apply(topology, Duration::ZERO);
        self.note();
    }

    fn apply(&mut self, topology: Arc<Topology>, after: Duration) {
        let follower = Arc::clone(&self.parts.follower);
        let number = self.latest;
        let epoch = match self
            .current
            .as_ref()
            .and_then(|snapshot| snapshot.status.as_ref())
        {
            Some(status) => status.epoch,
            None => 0,
        };
        self.applying.spawn(async move {
            sleep(after).await;
            let drained = follower.apply(Arc::clone(&topology)).await;
            Applied {
                number,
                topology,
                epoch,
                drained,
            }
        });
    }

    /// Data threads have done what a topology asks for.
    async fn applied(&mut self, applied: Applied) {
        if applied.number != self.latest {
            return; // another one came meanwhile, and will be answered for itself
        }
        if !applied.drained {
            info!(epoch = applied.epoch, "Not drained yet");
            return self.apply(applied.topology, AGAIN);
        }
        let report = &mut self.parts.report;
        report.acked_epoch = report.acked_epoch.max(applied.epoch);
        report.drained = applied.topology.mode != Mode::Open;
        if applied.topology.master.is_some() {
            self.parts.house.serve();
        }
        self.tell().await;
    }

    /// A probe has come back.
    async fn look(&mut self) {
        let master = self
            .parts
            .house
            .topology
            .load()
            .master
            .as_ref()
            .map(|master| master.name.clone());
        let changed = self
            .witness
            .take(&self.view.borrow_and_update(), master.as_deref());
        let checked = self.check_identity();
        if checked
            || self
                .current
                .as_ref()
                .is_some_and(|snapshot| snapshot.status.is_none())
        {
            self.follow();
        }
        self.note();
        if changed {
            self.tell().await;
        }
    }

    /// Compares the master with what the status says it is. `true`: that changed.
    ///
    /// Only what is certain counts: another cluster, or a timeline that the master has already left.
    fn check_identity(&mut self) -> bool {
        let topology = self.parts.house.topology.load();
        let Some(master) = &topology.master else {
            return false;
        };
        let view = self.view.borrow();
        let (Some(looked), Some(meant)) = (view.get(&master.name), &master.identity) else {
            return std::mem::take(&mut self.identity.wrong);
        };
        let (Some(found), true) = (looked.seen.identity(), looked.times > self.identity.since.1) else {
            return false;
        };
        let other = !found.system_identifier.is_empty() && found.system_identifier != meant.system_identifier;
        let wrong = other || (found.timeline != 0 && found.timeline < meant.timeline);
        if wrong && !self.identity.wrong {
            error!(master = %master.name, ?found, ?meant, "This is not our master: nothing is sent to it");
        }
        std::mem::replace(&mut self.identity.wrong, wrong) != wrong
    }

    /// Facts for /metrics.
    fn note(&self) {
        let topology = self.parts.house.topology.load();
        let master = self.witness.master();
        let facts = crate::metrics::Facts {
            epoch: topology.epoch,
            open: topology.mode == Mode::Open && topology.master.is_some(),
            master_reachable: master.ok > 0,
            master_fails: master.fails.into(),
            replicas: topology.replicas.len() as u64,
        };
        *self
            .parts
            .house
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// Writes what this proxy has acknowledged and sees.
    async fn tell(&mut self) {
        let (clients, waiting) = self.parts.follower.load();
        let report = ProxyReport {
            clients,
            waiting,
            master_probe: self.witness.master().clone(),
            replicas: self.witness.replicas(),
            ..self.parts.report.clone()
        };
        let began = Instant::now();
        match tokio::time::timeout(WRITE_TIMEOUT, self.parts.source.acknowledge(report.clone())).await {
            Ok(Ok(())) => self.told = Some(report),
            Ok(Err(cause)) => warn!(error = %cause, "The report of this proxy cannot be written"),
            Err(_) => warn!(after = ?began.elapsed(), "The report of this proxy was not written in time"),
        }
    }

    /// Takes the report back: this proxy has stopped.
    pub async fn withdraw(&mut self) {
        if self.told.is_none() {
            return;
        }
        let id = self.parts.report.id.clone();
        if let Ok(Err(cause)) = tokio::time::timeout(WRITE_TIMEOUT, self.parts.source.withdraw(&id)).await {
            warn!(error = %cause, "The report of this proxy stays behind");
        }
    }
}

/// Whether data threads would do the same with both.
fn same(left: &Topology, right: &Topology) -> bool {
    let same_server = |left: &Arc<Server>, right: &Arc<Server>| {
        left.name == right.name
            && left.target == right.target
            && left.identity == right.identity
            && Arc::ptr_eq(&left.tls, &right.tls)
    };
    left.epoch == right.epoch
        && left.mode == right.mode
        && left.force == right.force
        && match (&left.master, &right.master) {
            (Some(left), Some(right)) => same_server(left, right),
            (None, None) => true,
            _ => false,
        }
        && left.replicas.len() == right.replicas.len()
        && left
            .replicas
            .iter()
            .zip(&right.replicas)
            .all(|(left, right)| left.weight == right.weight && same_server(&left.server, &right.server))
}

fn why_no_master(config: &PoolConfig, seen: &HashMap<String, Seen>) -> String {
    let name = &config.master.name;
    match seen.get(name) {
        None => format!("server {name} was not looked at yet"),
        Some(Seen::Master(_)) => "several servers say that they are master".to_owned(),
        Some(Seen::Replica(_)) => format!("server {name} is a replica, and no other is master"),
        Some(Seen::Alive(text)) => format!("server {name} does not say what it is: {text}"),
        Some(Seen::Lost { error, .. }) => format!("server {name} does not answer: {error}"),
    }
}

fn login(secrets: &Secrets, reference: &SecretRef) -> Option<Login> {
    match secrets.login(reference) {
        Ok(login) => {
            let credential = match login.password.as_str() {
                "" => Credential::None,
                password => Credential::from_secret(password),
            };
            Some(Login {
                user: login.username,
                credential,
            })
        }
        Err(cause) => {
            warn!(error = %cause, "No login for look-ups");
            None
        }
    }
}

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

mod alone;
mod follow;
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
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::admin::Login;
use crate::auth::{Gate, Settings, Where};
use crate::house::{House, Order};
use crate::plane::{Mode, Plane, Topology};
use crate::pseudo::Shutdown;
use crate::startup::Terms;
use crate::tls::Certificates;

use probe::{Probes, View};

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
    /// Connections to the server that has most of them; those that are being opened count.
    fn connections(&self) -> BoxFuture<'static, u32>;
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

    fn connections(&self) -> BoxFuture<'static, u32> {
        let plane = Arc::clone(&self.0);
        Box::pin(async move {
            let mut servers: HashMap<String, usize> = HashMap::new();
            // In this order: one that is opened meanwhile is rather counted twice than not at all.
            for pool in plane.pools().await {
                *servers.entry(pool.server).or_default() += pool.workers_connecting;
            }
            for worker in plane.servers().await {
                *servers.entry(worker.server).or_default() += 1;
            }
            let most = servers.into_values().max().unwrap_or_default();
            u32::try_from(most).unwrap_or(u32::MAX)
        })
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
    /// Whether anybody hears of this proxy.
    contact: alone::Contact,
    /// Waits until this proxy keeps to its share of the budget of this number.
    keeping: JoinSet<u64>,
    budget: Kept,
    /// Reports on their way, while nobody answers: the loop does not wait for them.
    telling: JoinSet<Told>,
}

/// What became of a report.
struct Told {
    report: ProxyReport,
    began: Instant,
    written: bool,
}

/// The budget whose share this proxy keeps to, or will.
#[derive(Default)]
struct Kept {
    number: u64,
    /// Connections of a server; 0 = as many as it likes.
    most: u32,
    /// What is idle closes soon, until they are no more.
    lean: bool,
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
            contact: alone::Contact::default(),
            keeping: JoinSet::new(),
            budget: Kept::default(),
            telling: JoinSet::new(),
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
                Some(joined) = self.keeping.join_next() => if let Ok(number) = joined {
                    self.kept(number).await;
                },
                Some(joined) = self.telling.join_next() => if let Ok(told) = joined {
                    self.told(told);
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
        let mut own = share::with_share(config, snapshot.status.as_deref(), share);
        let most = own.budget.per_server;
        let number = snapshot
            .status
            .as_deref()
            .map_or(0, |status| status.budget.number);
        let is_told = number != self.budget.number;
        if is_told {
            let less = most != 0 && (self.budget.most == 0 || most < self.budget.most);
            let lean = less || self.budget.lean;
            self.budget = Kept { number, most, lean };
        }
        if self.budget.lean {
            share::make_lean(&mut own);
        }
        let own = Arc::new(own);
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
        if is_told {
            // Data threads know of it before they are asked how many they have.
            self.keeping.abort_all();
            self.keeping
                .spawn(share::keep(Arc::clone(follower), number, most));
        }
        let login = config
            .lookup_secret()
            .and_then(|reference| login(secrets, reference));
        if login.is_none() && self.login.is_some() {
            warn!("There is no login for our own look-ups any more");
        }
        self.login = login;
    }

    /// This proxy keeps to its share of the budget of this number.
    async fn kept(&mut self, number: u64) {
        self.parts.report.budget_number = number;
        if std::mem::take(&mut self.budget.lean)
            && let Some(snapshot) = self.current.clone()
        {
            self.put_in_force(&snapshot);
        }
        self.tell().await;
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
        if !self.contact.is_lost() {
            let told = write(Arc::clone(&self.parts.source), report).await;
            return self.told(told);
        }
        // Nobody has answered for long: what the servers do matters more than the next try.
        if self.telling.is_empty() {
            self.telling.spawn(write(Arc::clone(&self.parts.source), report));
        }
    }

    /// A report was written, or not.
    fn told(&mut self, told: Told) {
        if told.written {
            self.contact.renew(told.began);
            self.told = Some(told.report);
        }
        if self.judge_contact() {
            self.follow();
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

async fn write(source: Arc<dyn ClusterSource>, report: ProxyReport) -> Told {
    let began = Instant::now();
    let written = match tokio::time::timeout(WRITE_TIMEOUT, source.acknowledge(report.clone())).await {
        Ok(Ok(())) => true,
        Ok(Err(cause)) => {
            warn!(error = %cause, "The report of this proxy cannot be written");
            false
        }
        Err(_) => {
            warn!(after = ?began.elapsed(), "The report of this proxy was not written in time");
            false
        }
    };
    Told {
        report,
        began,
        written,
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

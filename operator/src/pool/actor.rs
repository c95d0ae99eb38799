//! The actor of one pool. It owns the one core and is the only one that writes the status.

use super::publish::{Difference, Facts, differs, publish};
use super::tasks::{Message, Tasks};
use super::{record, settings};
use crate::core::{Core, Event, Note, ProxyFacts};
use crate::health::Health;
use crate::servers::{Commands, Executor, Login};
use cluster::{CasError, ClusterSource, ProxyReport, Request, Snapshot, SourceError, StatusVersion};
use crds::status::{Condition, ConditionStatus, EventRecord, EventType, PgPoolStatus};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

/// How often proxies' reports are read and time-outs looked at: while an operation runs, and else.
const TICK_BUSY: Duration = Duration::from_millis(50);
const TICK_IDLE: Duration = Duration::from_millis(250);
/// How often servers are looked at while an operation runs.
const PROBE_BUSY: Duration = Duration::from_millis(100);
/// How often what only creeps is written.
const CREEP: Duration = Duration::from_secs(10);
/// How long the first status is held back, so that nobody sees the moment before the first look.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Records written in one go; more would be a circle.
const WRITES_MAX: usize = 40;
/// After a write failed.
const RETRY: Duration = Duration::from_millis(200);

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Commands for servers.
    pub commands: Commands,
    /// Where the command `pgstmtpool` leaves its requests.
    pub request_path: Option<PathBuf>,
    /// Where events go instead of into the status.
    pub events: Option<mpsc::UnboundedSender<EventRecord>>,
    /// Label selector of the proxies' pods.
    pub selector: String,
    /// Conditions of others that are published with our own.
    pub conditions: Option<watch::Receiver<Vec<Condition>>>,
    /// The proxies' pods, where somebody looks after them.
    pub proxies: Option<watch::Receiver<Option<ProxyPods>>>,
}

/// The pods of the proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyPods {
    /// Clients are sent there.
    pub ready: u32,
    /// How many are meant to be.
    pub wanted: u32,
    /// How many there are.
    pub there: u32,
}

/// One pool's actor. Run it with [`Actor::run`]; to drop that is to kill the operator.
#[derive(Debug)]
pub struct Actor {
    source: Arc<dyn ClusterSource>,
    options: Options,
    health: Arc<Health>,
    core: Core,
    /// The last status written or read, and its version.
    status: PgPoolStatus,
    version: StatusVersion,
    snapshot: Snapshot,
    request: Request,
    login: Result<Login, String>,
    executor: Option<Executor>,
    tasks: Tasks,
    inbox: mpsc::Receiver<Message>,
    written: Instant,
    /// The status is of a newer operator: hands off.
    newer: bool,
    told: BTreeMap<String, Instant>,
}

impl Actor {
    /// Reads what is written and takes over from there.
    ///
    /// # Errors
    /// [`SourceError`]: nothing valid can be read.
    pub async fn open(
        source: Arc<dyn ClusterSource>,
        options: Options,
        health: Arc<Health>,
    ) -> Result<Self, SourceError> {
        let snapshot = source.current().await?;
        let status = snapshot.status.as_deref().cloned().unwrap_or_default();
        let (durable, newer) = match record::read(&status) {
            Ok(durable) => (durable, false),
            Err(why) => {
                error!(%why, "Hands off");
                (Default::default(), true)
            }
        };
        let has_status = snapshot.status.is_some();
        let mut durable = if has_status { durable } else { Default::default() };
        // Somebody took the status away: proxies remember what they have seen.
        durable.epoch = durable.epoch.max(snapshot.highest_epoch);
        let now = Instant::now();
        let request = Request::default();
        let settings = settings::settings(&snapshot.config, &request, &options.commands, &durable, &status);
        let (sender, inbox) = mpsc::channel(256);
        let period = snapshot.config.ha.probe_period;
        let mut actor = Self {
            core: Core::new(settings, durable, now),
            version: snapshot.version.clone(),
            status,
            source,
            options,
            health,
            request,
            login: Err(String::new()),
            executor: None,
            tasks: Tasks::new(sender, period),
            inbox,
            written: now,
            newer,
            told: BTreeMap::new(),
            snapshot,
        };
        actor.log_in(true);
        Ok(actor)
    }

    /// The record as this operator knows it.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Works until `stop` says so.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let source = Arc::clone(&self.source);
        let mut changed = source.changed();
        let mut tick = Instant::now();
        loop {
            let pause = tick.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = &mut changed => {
                    changed = source.changed();
                    self.reload().await;
                }
                Some(message) = self.inbox.recv() => {
                    self.take(message);
                    while let Ok(message) = self.inbox.try_recv() {
                        self.take(message);
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
            if tick <= Instant::now() {
                tick = Instant::now() + if self.is_busy() { TICK_BUSY } else { TICK_IDLE };
                self.hear().await;
                self.read_request();
            }
            self.work().await;
            self.health.beat();
        }
    }

    fn is_busy(&self) -> bool {
        self.core.durable().operation.is_some()
    }

    fn take(&mut self, message: Message) {
        let now = Instant::now();
        match message {
            Message::Seen { round, .. } if !self.tasks.is_current(round) => {}
            Message::Seen { server, seen, .. } => {
                if let (crate::core::Probe::Up(sample), Some(executor)) = (&seen.probe, &self.executor) {
                    executor.learn(&server, &sample.data_directory, seen.conninfo);
                }
                self.health.probed(&server, &seen.probe);
                self.core.on(
                    Event::Probed {
                        server,
                        probe: seen.probe,
                    },
                    now,
                );
            }
            Message::Acted { server, kind, error } => {
                if let Some(error) = &error {
                    warn!(%server, ?kind, error, "Act failed");
                }
                self.health.acted(kind, error.is_some());
                self.tasks.acted(&server, kind);
                self.core.on(Event::Acted { server, kind, error }, now);
            }
        }
    }

    async fn hear(&mut self) {
        match self.source.proxies().await {
            Ok(reports) => {
                let facts = reports.into_iter().map(|report| self.facts(report)).collect();
                self.core.on(Event::Heard(facts), Instant::now());
            }
            Err(error) => debug!(%error, "Cannot read the proxies' reports"),
        }
    }

    fn facts(&self, report: ProxyReport) -> ProxyFacts {
        // A proxy that still probes another server is no witness for this one.
        let master = self
            .core
            .durable()
            .master
            .as_ref()
            .map(|master| master.name.as_str());
        let is_ours = master == Some(report.master_probe.name.as_str());
        ProxyFacts {
            acked: report.acked_epoch,
            drained: report.drained,
            budget: report.budget_number,
            master_fails: if is_ours { report.master_probe.fails } else { 0 },
            master_refused: is_ours && report.master_probe.refused,
            beat: format!("{}/{}", report.started_at, report.renewal),
            id: report.id,
        }
    }

    fn read_request(&mut self) {
        let Some(path) = &self.options.request_path else {
            return;
        };
        match Request::read(path) {
            Ok(request) => {
                let request = request.unwrap_or_default();
                if request != self.request {
                    info!(?request, "Request");
                    self.request = request;
                }
            }
            Err(error) => {
                let path = path.display().to_string();
                if self.is_news("request") {
                    warn!(path, %error, "A request that cannot be read is ignored");
                }
            }
        }
        self.configure();
    }

    /// Whether this was not said within the last minute.
    fn is_news(&mut self, what: &str) -> bool {
        let now = Instant::now();
        let old = self
            .told
            .get(what)
            .filter(|at| now.saturating_duration_since(**at) < Duration::from_secs(60));
        if old.is_some() {
            return false;
        }
        self.told.insert(what.to_owned(), now);
        true
    }

    /// What is written has changed: the manifest, a Secret, or the status under our hands.
    async fn reload(&mut self) {
        let snapshot = match self.source.current().await {
            Ok(snapshot) => snapshot,
            Err(error) => return warn!(%error, "Cannot read what is written"),
        };
        for fault in snapshot
            .faults
            .iter()
            .filter(|fault| !self.snapshot.faults.contains(fault))
        {
            warn!(%fault, "The manifest is wrong; the last valid one stays in force");
        }
        let reconnect = snapshot.config != self.snapshot.config
            || !Arc::ptr_eq(&snapshot.secrets, &self.snapshot.secrets);
        if snapshot.version != self.version {
            self.adopt_status(&snapshot);
        }
        self.snapshot = snapshot;
        if reconnect {
            info!("The manifest was read again");
            self.log_in(false);
        }
        self.configure();
    }

    fn adopt_status(&mut self, snapshot: &Snapshot) {
        self.version = snapshot.version.clone();
        let known = Some(&self.status).filter(|status| **status != PgPoolStatus::default());
        if snapshot.status.as_deref() == known {
            // In the API the version is that of the whole object: somebody wrote the spec.
            return;
        }
        let Some(status) = snapshot.status.as_deref() else {
            // Somebody took it away. What we know is not forgotten by that: it is written again.
            warn!("The status is gone: it is written again");
            self.status = PgPoolStatus::default();
            return;
        };
        info!(version = %snapshot.version, "The status was written by somebody else");
        self.status = status.clone();
        match record::read(status) {
            Ok(durable) => {
                self.newer = false;
                self.core.recorded(durable, Instant::now());
            }
            Err(why) => {
                self.newer = true;
                error!(%why, "Hands off");
            }
        }
    }

    fn settings(&self) -> crate::core::Settings {
        settings::settings(
            &self.snapshot.config,
            &self.request,
            &self.options.commands,
            self.core.durable(),
            &self.status,
        )
    }

    fn configure(&mut self) {
        let settings = self.settings();
        if settings == *self.core.settings() {
            return;
        }
        let servers = settings.servers != self.core.settings().servers;
        self.core
            .on(Event::Configured(Box::new(settings)), Instant::now());
        if servers {
            self.log_in(false);
        }
    }

    /// (Re)connects to the servers as the manifest says.
    fn log_in(&mut self, first: bool) {
        let config = Arc::clone(&self.snapshot.config);
        let settings = self.settings();
        if !first {
            self.core
                .on(Event::Configured(Box::new(settings.clone())), Instant::now());
        }
        match Login::of(&config, &self.snapshot.secrets) {
            Ok(login) => {
                self.tasks.probe(
                    &settings.servers,
                    &login,
                    config.ha.enabled && config.ha.write_probe,
                    self.options.commands.pods.as_ref(),
                );
                self.executor = Some(match &self.executor {
                    Some(executor) => executor.reconfigured(login.clone(), settings),
                    None => {
                        let executor = Executor::new(login.clone(), self.options.commands.clone(), settings);
                        for server in &self.status.servers {
                            executor.learn(&server.name, &server.data_directory, None);
                        }
                        executor
                    }
                });
                self.login = Ok(login);
            }
            Err(why) => {
                let why = why.to_string();
                error!(why, "No login for the servers");
                self.login = Err(why);
            }
        }
    }

    /// Decides until there is nothing more to write, then does the acts.
    async fn work(&mut self) {
        if self.newer {
            return;
        }
        let ha = &self.snapshot.config.ha;
        self.tasks.set_period(if self.is_busy() {
            ha.probe_period.min(PROBE_BUSY)
        } else {
            ha.probe_period
        });
        for _ in 0..WRITES_MAX {
            let now = Instant::now();
            let decision = self.core.decide(now);
            let Some(durable) = decision.write else {
                for note in &decision.notes {
                    // Said with every look as long as it is the case.
                    let key = format!("{:?}", note.reason);
                    if self.is_news(&key) {
                        self.tell(note);
                    }
                }
                if let Some(executor) = &self.executor {
                    for act in decision.acts {
                        self.tasks.act(act, executor);
                    }
                }
                return self.refresh(now).await;
            };
            let mut next = self.core.clone();
            next.recorded(*durable, now);
            let mut status = self.status.clone();
            record::write(next.durable(), &mut status, SystemTime::now());
            if self.options.events.is_none() {
                for note in &decision.notes {
                    status.record(event(note, next.durable().epoch));
                }
            }
            let status = self.derived(&next, status, now);
            if !self.swap(status).await {
                return;
            }
            // Only what is written is true.
            self.core = next;
            for note in &decision.notes {
                self.tell(note);
            }
        }
        error!("More records than an operation has steps: waiting for the next event");
    }

    fn derived(&self, core: &Core, mut status: PgPoolStatus, now: Instant) -> PgPoolStatus {
        let folders = self.executor.as_ref().map(Executor::folders).unwrap_or_default();
        let facts = Facts {
            config: &self.snapshot.config,
            faults: &self.snapshot.faults,
            warnings: &self.snapshot.warnings,
            login: self.login.as_ref().err().map(String::as_str),
            pods: self.options.commands.pods.as_ref(),
            folders: &folders,
        };
        let time = SystemTime::now();
        publish(core, &facts, &mut status, now, time);
        status.proxies.selector.clone_from(&self.options.selector);
        if let Some(others) = &self.options.conditions {
            for mut condition in others.borrow().iter().cloned() {
                condition.observed_generation = status.observed_generation;
                status.set_condition(condition, &crds::units::rfc3339(time));
            }
        }
        let pods = self.options.proxies.as_ref().and_then(|pods| *pods.borrow());
        let pods = pods.filter(|_| self.snapshot.config.proxy.managed);
        if let Some(ProxyPods { ready, wanted, there }) = pods {
            status.proxies.replicas = there;
            status.proxies_ready = format!("{ready}/{wanted}");
        }
        if status.routing.mode == crds::status::RoutingMode::Paused && status.routing.deadline.is_none() {
            let limit = self.snapshot.config.timeouts.drain * 2;
            status.routing.deadline = Some(crds::units::rfc3339(time + limit));
        }
        status
    }

    /// Writes what is derived, when it is worth it.
    async fn refresh(&mut self, now: Instant) {
        let nothing_yet = self.core.durable().master.is_none();
        if nothing_yet && now.saturating_duration_since(self.core.view().born) < FIRST_LOOK {
            return;
        }
        let mut status = self.status.clone();
        record::write(self.core.durable(), &mut status, SystemTime::now());
        let status = self.derived(&self.core, status, now);
        let due = match differs(&self.status, &status) {
            Difference::None => false,
            Difference::Small => now.saturating_duration_since(self.written) >= CREEP,
            Difference::Large => true,
        };
        if due {
            self.swap(status).await;
        }
        self.health.publish(&self.core, &self.status);
    }

    /// `true`: it is written and nobody wrote in between.
    async fn swap(&mut self, status: PgPoolStatus) -> bool {
        match self.source.compare_and_swap(&self.version, status.clone()).await {
            Ok(version) => {
                self.version = version;
                let before = std::mem::replace(&mut self.status, status);
                self.announce(&before);
                self.written = Instant::now();
                true
            }
            Err(error) => {
                match &error {
                    CasError::Conflict { .. } => debug!(%error, "Somebody else wrote first"),
                    other => warn!(error = %other, "The status was not written"),
                }
                tokio::time::sleep(RETRY).await;
                self.reload().await;
                false
            }
        }
    }

    /// Tells of conditions that a person has to look at, once each.
    fn announce(&self, before: &PgPoolStatus) {
        let Some(events) = &self.options.events else {
            return;
        };
        let epoch = self.status.epoch;
        for new in turned_bad(before, &self.status) {
            let record = EventRecord {
                time: crds::units::rfc3339(SystemTime::now()),
                kind: EventType::Warning,
                reason: new.reason.clone(),
                message: format!("{}: {}", new.kind, new.message),
                epoch,
            };
            let _ = events.send(record); // it fails only at the very end
        }
    }

    fn tell(&self, note: &Note) {
        let pool = &self.snapshot.config.name;
        let (reason, epoch) = (format!("{:?}", note.reason), self.core.durable().epoch);
        if note.is_warning() {
            warn!(pool, reason, epoch, "{}", note.message);
        } else {
            info!(pool, reason, epoch, "{}", note.message);
        }
        self.health.noted(note.reason);
        if let Some(events) = &self.options.events {
            let _ = events.send(event(note, epoch)); // it fails only at the very end
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever drops the sender means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Conditions with a cause a person can remove, which were well before or have another cause now.
fn turned_bad<'a>(before: &PgPoolStatus, now: &'a PgPoolStatus) -> impl Iterator<Item = &'a Condition> {
    let watched = [
        "ConfigValid",
        "MasterReachable",
        "ReplicationHealthy",
        "ProxiesDeployed",
    ];
    let causes = |status: &PgPoolStatus, kind: &str| {
        let condition = status.condition(kind)?;
        Some((condition.status, condition.reason.clone()))
    };
    let before: Vec<_> = watched.iter().map(|kind| (*kind, causes(before, kind))).collect();
    now.conditions.iter().filter(move |new| {
        let Some((_, before)) = before.iter().find(|(kind, _)| *kind == new.kind) else {
            return false;
        };
        let refused = new.reason == "LoginRefused";
        let bad = (new.status == ConditionStatus::False || refused) && !new.message.is_empty();
        bad && before.as_ref() != Some(&(new.status, new.reason.clone()))
    })
}

fn event(note: &Note, epoch: u64) -> EventRecord {
    EventRecord {
        time: crds::units::rfc3339(SystemTime::now()),
        kind: if note.is_warning() {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: format!("{:?}", note.reason),
        message: note.message.clone(),
        epoch,
    }
}

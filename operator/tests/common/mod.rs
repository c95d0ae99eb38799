//! Real clusters for tests: PostgreSQL processes in a temporary folder, and an operator that can be killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "test support"
)]

use cluster::{ClusterSource, FileSource, ProxyReport, Request};
use crds::status::{ConditionStatus, PgPoolStatus, RoutingMode};
use pgnet::client::{Config, Connection, Target};
use pgstmtpool_operator::health::Health;
use pgstmtpool_operator::pool::{Actor, Options};
use pgstmtpool_operator::servers::Commands;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Long enough for a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(90);

fn binary(name: &str) -> String {
    let folders = std::env::var("PG_BIN").into_iter().map(PathBuf::from).chain(
        (12..=18)
            .rev()
            .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))),
    );
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .unwrap()
        .stdout
        .starts_with(b"0\n")
}

/// PostgreSQL refuses to run as root.
fn as_owner() -> &'static str {
    if is_root() {
        "setpriv --reuid=postgres --regid=postgres --init-groups "
    } else {
        ""
    }
}

pub fn sh(script: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{text}");
    text
}

/// A freshly made cluster, copied by every test of this program.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        sweep();
        let folder = scratch("template");
        let data = folder.join("data");
        sh(&format!("{}{} -A trust -U postgres -N -D {} >/dev/null", as_owner(), binary("initdb"), data.display()));
        let settings = "fsync = off\nwal_log_hints = on\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
                        \
                        shared_buffers = 16MB\nlog_min_messages = warning\n";
        let version = fs::read_to_string(data.join("PG_VERSION")).unwrap();
        let keep = if version.trim() == "12" { "wal_keep_segments = 4\n" } else { "wal_keep_size = 64MB\n" };
        let conf = data.join("postgresql.conf");
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + settings + keep).unwrap();
        data
    })
}

/// Removes what test programs left that are no more: a template lives as long as its program.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix("pgstmtpool-operator-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn scratch(name: &str) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!(
        "pgstmtpool-operator-{}-{count}-{name}",
        std::process::id()
    ));
    fs::create_dir_all(&path).unwrap();
    if is_root() {
        sh(&format!("chown postgres: {}", path.display()));
    }
    path
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// One server.
#[derive(Debug)]
pub struct Server {
    pub name: &'static str,
    pub port: u16,
    pub data: PathBuf,
}

impl Server {
    pub fn start(&self) {
        sh(&start_script(
            &self.data.display().to_string(),
            &self.port.to_string(),
        ));
    }

    pub fn stop(&self) {
        sh(&format!(
            "{}{} -D {} -m fast -w stop >/dev/null",
            as_owner(),
            binary("pg_ctl"),
            self.data.display()
        ));
    }

    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.data.join("postmaster.pid"))
            .ok()?
            .lines()
            .next()?
            .parse()
            .ok()
    }

    /// SIGKILL to the postmaster; its children end by themselves.
    pub fn kill(&self) {
        let pid = self.pid().unwrap();
        sh(&format!(
            "kill -9 {pid}; while kill -0 {pid} 2>/dev/null && ! grep -q ') Z' /proc/{pid}/stat; do sleep 0.02; done"
        ));
        sh(&format!("rm -f {}", self.data.join("postmaster.pid").display()));
        // The children of a killed postmaster notice it within a moment; its shared memory must be gone before it starts again.
        let end = Instant::now() + DEADLINE;
        let pattern = self.data.display().to_string();
        while Instant::now() < end && !children(pid, &pattern).is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub async fn connect(&self) -> Result<Connection, pgnet::client::Error> {
        Connection::connect(&Config::new(
            Target::new("127.0.0.1", self.port),
            "postgres",
            "postgres",
        ))
        .await
    }

    /// One value of one row, or why not.
    pub async fn ask(&self, sql: &str) -> Result<String, String> {
        let work = async {
            let mut connection = self.connect().await.map_err(|error| error.to_string())?;
            let result = connection
                .query_one(sql)
                .await
                .map_err(|error| error.to_string())?;
            Ok(result.get(0, 0).unwrap_or_default().to_owned())
        };
        tokio::time::timeout(Duration::from_secs(20), work)
            .await
            .unwrap_or(Err("no answer".into()))
    }

    pub async fn value(&self, sql: &str) -> String {
        self.ask(sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.name))
    }

    /// Waits until a query gives this value.
    pub async fn until(&self, sql: &str, value: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let last = self.ask(sql).await;
            if last.as_deref() == Ok(value) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{}: {sql}: never {value}, but {last:?}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops or continues what receives the log.
    pub async fn signal_receiver(&self, signal: &str) {
        let pid = self
            .value("select pid from pg_stat_activity where backend_type = 'walreceiver'")
            .await;
        sh(&format!("kill -{signal} {pid}"));
    }

    pub async fn is_replica_of(&self, master: &Server) -> bool {
        let sql = "select sender_port::text || ' ' || status from pg_stat_wal_receiver";
        self.ask(sql).await == Ok(format!("{} streaming", master.port))
    }
}

/// Processes whose working folder is this data directory.
fn children(_postmaster: u32, data: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == Path::new(data)))
        .filter(|entry| {
            !fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| stat.contains(") Z "))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn start_script(data: &str, port: &str) -> String {
    format!(
        "{}{} -D {data} -l {data}.log -w -t 60 -o \"-p {port}\" start >/dev/null 2>&1 || {{ tail -n 20 {data}.log; exit 1; }}",
        as_owner(),
        binary("pg_ctl"),
    )
}

/// A master `a` and its replicas `b` and `c`, and a manifest for them. Everything goes when it is dropped.
#[derive(Debug)]
pub struct World {
    pub folder: PathBuf,
    pub manifest: PathBuf,
    pub servers: Vec<Server>,
    extra: String,
    /// The operator's login.
    pub admin: String,
    pub restart: Option<String>,
    pub rewind: Option<String>,
    reader: OnceLock<FileSource>,
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &self.servers {
            if std::thread::panicking() {
                let log = fs::read_to_string(format!("{}.log", server.data.display())).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "--- log of {}\n{}",
                    server.name,
                    lines[lines.len().saturating_sub(25)..].join("\n")
                );
            }
            if let Some(pid) = server.pid() {
                let _ = Command::new("kill").args(["-QUIT", &pid.to_string()]).status();
            }
        }
        if std::thread::panicking() {
            let status = fs::read_to_string(self.folder.join("pool.status.yaml")).unwrap_or_default();
            eprintln!("--- status\n{status}");
        }
        for server in &self.servers {
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && !children(0, &server.data.display().to_string()).is_empty() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl World {
    /// `extra`: more lines of the spec.
    pub async fn new(extra: &str) -> Self {
        let folder = scratch("world");
        let mut servers = Vec::new();
        for name in ["a", "b", "c"] {
            let server = Server {
                name,
                port: free_port(),
                data: folder.join(name),
            };
            let data = server.data.display();
            sh(&format!("cp -a {} {data}", template().display()));
            if let Some(master) = servers.first() {
                let master: &Server = master;
                // A copy of a cluster that was shut down cleanly is a standby of it, given these two files.
                let conf = format!(
                    "primary_conninfo = 'user=postgres host=127.0.0.1 port={} application_name=walreceiver'\n",
                    master.port
                );
                fs::write(server.data.join("postgresql.auto.conf"), conf).unwrap();
                fs::write(server.data.join("standby.signal"), "").unwrap();
                if is_root() {
                    sh(&format!(
                        "chown postgres: {data}/postgresql.auto.conf {data}/standby.signal"
                    ));
                }
            }
            server.start();
            if name == "a" {
                server.value("create table t (id int primary key)").await;
            }
            servers.push(server);
        }
        let ctl = start_script("$PGSTMTPOOL_DATA_DIRECTORY", "$PGSTMTPOOL_PORT");
        let stop = format!(
            "{}{} -D $PGSTMTPOOL_DATA_DIRECTORY -m fast -w stop >/dev/null",
            as_owner(),
            binary("pg_ctl")
        );
        let restart =
            format!("case $PGSTMTPOOL_ACTION in start) {ctl};; stop) {stop};; *) {stop}; {ctl};; esac");
        let rewind = format!(
            "{}{} -D $PGSTMTPOOL_DATA_DIRECTORY --source-server=\"$PGSTMTPOOL_SOURCE_CONNINFO\"",
            as_owner(),
            binary("pg_rewind")
        );
        let world = Self {
            manifest: folder.join("pool.yaml"),
            folder,
            servers,
            extra: extra.to_owned(),
            admin: "postgres".to_owned(),
            restart: Some(restart),
            rewind: Some(rewind),
            reader: OnceLock::new(),
        };
        world.write_manifest("");
        world
    }

    pub fn write_manifest(&self, more: &str) {
        let server = |at: usize| {
            let server = &self.servers[at];
            format!(
                "{{name: {}, host: 127.0.0.1, port: {}}}",
                server.name, server.port
            )
        };
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: admin}}\nstringData: {{username: {}, password: x}}\n---\n\
             apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {{name: pool}}\nspec:\n  adminSecretRef: {{name: admin}}\n  master: {}\n  replicas:\n    \
             - {}\n    - {}\n  serverTls: {{mode: disable}}\n  ha: {{enabled: true, failureThreshold: 6, probePeriod: 200ms, \
             probeTimeout: 2s, electionTimeout: 4s, crashRecoveryGrace: 10s}}\n  timeouts: {{drain: 5s}}\n{}{more}",
            self.admin,
            server(0),
            server(1),
            server(2),
            self.extra,
        );
        fs::write(&self.manifest, text).unwrap();
    }

    pub fn server(&self, name: &str) -> &Server {
        self.servers.iter().find(|server| server.name == name).unwrap()
    }

    pub async fn operator(&self) -> Operator {
        let source = FileSource::open(&self.manifest, None).unwrap();
        let options = Options {
            commands: Commands {
                restart: self.restart.clone(),
                rewind: self.rewind.clone(),
                pods: None,
            },
            request_path: Some(Request::path(&source.status_path())),
            ..Options::default()
        };
        let actor = Actor::open(Arc::new(source), options, Arc::new(Health::new("pool", None)))
            .await
            .unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            actor.run(stopped).await;
        });
        Operator { task, _stop: stop }
    }

    pub async fn status(&self) -> PgPoolStatus {
        let reader = self
            .reader
            .get_or_init(|| FileSource::open(&self.manifest, None).unwrap());
        reader
            .current()
            .await
            .unwrap()
            .status
            .as_deref()
            .cloned()
            .unwrap_or_default()
    }

    pub async fn until(&self, what: &str, done: impl Fn(&PgPoolStatus) -> bool) -> PgPoolStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            let status = self.status().await;
            if done(&status) {
                return status;
            }
            assert!(Instant::now() < end, "never came: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn until_settled(&self) -> PgPoolStatus {
        self.until("a settled pool", |status| {
            status.operation.is_none()
                && status.replicas_ready == "2/2"
                && status.routing.mode == RoutingMode::Open
        })
        .await
    }

    pub async fn until_replica(&self, replica: &str, master: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.server(replica).is_replica_of(self.server(master)).await {
            assert!(Instant::now() < end, "{replica} never followed {master}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn request(&self, request: &Request) {
        request
            .write(&Request::path(&self.folder.join("pool.status.yaml")))
            .unwrap();
    }

    pub fn switchover(&self, to: &str, id: &str) {
        let switchover = cluster::SwitchoverRequest {
            to: to.into(),
            request_id: id.into(),
            force: false,
        };
        self.request(&Request {
            switchover: Some(switchover),
            failover: None,
            paused: None,
        });
    }
}

pub fn master_of(status: &PgPoolStatus) -> &str {
    status.master.as_ref().map_or("", |master| master.name.as_str())
}

pub fn is_true(status: &PgPoolStatus, kind: &str) -> bool {
    status
        .condition(kind)
        .is_some_and(|condition| condition.status == ConditionStatus::True)
}

/// A running operator; dropped, it is dead at once.
#[derive(Debug)]
pub struct Operator {
    task: JoinHandle<()>,
    _stop: tokio::sync::watch::Sender<bool>,
}

impl Operator {
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A proxy that follows the status, acknowledges it, and does nothing else.
pub fn obedient_proxy(world: &World) -> JoinHandle<()> {
    let source = FileSource::open(&world.manifest, None).unwrap();
    tokio::spawn(async move {
        loop {
            if let Ok(snapshot) = source.current().await {
                let epoch = snapshot.status.map_or(0, |status| status.epoch);
                let report = ProxyReport {
                    id: "p1".into(),
                    acked_epoch: epoch,
                    drained: true,
                    ..ProxyReport::default()
                };
                let _ = source.acknowledge(report).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

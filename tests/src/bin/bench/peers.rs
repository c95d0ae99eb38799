//! Who is measured: direct connections, our proxy, and what else is installed. All by TCP, 20 servers each.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Address, Connection};
use pgstmtpool_tests::{Cluster, Manifest, Process, Proxy, World, free_port};

use crate::workloads::Workload;

/// One of those compared.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `direct`, `proxy`, `pgbouncer`, `haproxy`, `pgpool`.
    pub(crate) name: &'static str,
    /// Its version as it says it itself.
    pub(crate) version: String,
    /// The port clients connect to.
    pub(crate) port: u16,
    /// The first of its processes; none for direct connections.
    pub(crate) pid: Option<u32>,
    /// A folder for files of a run.
    pub(crate) folder: PathBuf,
    /// A database whose servers belong to one client each, for those that cannot keep prepared statements otherwise.
    session_database: Option<&'static str>,
    /// How many clients it takes at most.
    clients_max: usize,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Nothing,
    Process(Process),
    Proxy(Box<Proxy>),
}

impl Running {
    fn log_tail(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Process(process) => process.log_tail(10),
            Self::Proxy(proxy) => proxy.process.log_tail(10),
        }
    }
}

impl Peer {
    /// Name and version.
    pub(crate) fn title(&self) -> String {
        format!("{} ({})", self.name, self.version)
    }

    /// Can it run this workload at all?
    pub(crate) fn can(&self, workload: &Workload) -> bool {
        workload.clients <= self.clients_max
    }

    /// The connection string for a workload.
    pub(crate) fn conninfo(&self, workload: &Workload) -> String {
        let database = self
            .session_database
            .filter(|_| workload.prepared)
            .unwrap_or("bench");
        format!("host=127.0.0.1 port={} user=bench dbname={database}", self.port)
    }

    /// How many clients it takes at most.
    pub(crate) fn clients_max(&self) -> usize {
        self.clients_max
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        Address::Tcp("127.0.0.1".to_owned(), self.port)
    }
}

/// Starts all that `chosen` names (or, for `all`, that are installed).
pub(crate) fn start(world: &Arc<World>, cluster: &Cluster, chosen: &str) -> Vec<Peer> {
    let wanted = |name: &str| chosen == "all" || chosen.split(',').any(|c| c == name);
    let mut peers = Vec::new();
    if wanted("direct") {
        peers.push(direct(world, cluster));
    }
    if wanted("proxy") {
        peers.push(proxy(world, cluster));
    }
    let others: [(&str, Maker); 3] = [("pgbouncer", pgbouncer), ("haproxy", haproxy), ("pgpool", pgpool)];
    for (name, make) in others.into_iter().filter(|(name, _)| wanted(name)) {
        match make(world, cluster) {
            Some(peer) => peers.push(peer),
            None => println!("{name} is not installed: left out"),
        }
    }
    peers.retain_mut(answers);
    peers
}

/// Waits until a peer serves; one that does not is left out, with what it said.
fn answers(peer: &mut Peer) -> bool {
    let started = Instant::now();
    loop {
        let open = Connection::open(&peer.address(), "bench", "bench");
        let fault = match open.and_then(|mut connection| connection.query("select 1")) {
            Ok(_) => return true,
            Err(fault) => fault,
        };
        if started.elapsed() > Duration::from_secs(15) {
            let log = peer.running.log_tail();
            println!("{} does not answer ({fault}), left out:\n{log}", peer.name);
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

type Maker = fn(&Arc<World>, &Cluster) -> Option<Peer>;

fn direct(world: &Arc<World>, cluster: &Cluster) -> Peer {
    Peer {
        name: "direct",
        version: format!("PostgreSQL {}", cluster.master().value("show server_version")),
        port: cluster.master().port,
        pid: None,
        folder: world.path().join("direct"),
        session_database: None,
        clients_max: 500,
        running: Running::Nothing,
    }
}

fn proxy(world: &Arc<World>, cluster: &Cluster) -> Peer {
    let manifest = Manifest::of(cluster)
        .set("workers.max", "20")
        .named("bench")
        .write();
    let proxy = Proxy::builder(world, &manifest)
        .arg("--log-format")
        .arg("text")
        .start();
    let version = first_line(
        pgstmtpool_tests::program("pgstmtpool-proxy").to_str().unwrap(),
        &["--version"],
    );
    Peer {
        name: "proxy",
        version,
        port: proxy.port,
        pid: Some(proxy.process.pid()),
        folder: world.path().join("proxy"),
        session_database: None,
        clients_max: 10_000,
        running: Running::Proxy(Box::new(proxy)),
    }
}

fn pgbouncer(world: &Arc<World>, cluster: &Cluster) -> Option<Peer> {
    let program = std::env::var("PGBOUNCER").ok().or_else(|| find("pgbouncer"))?;
    let version = first_line(&program, &["--version"]);
    let port = free_port();
    let server = format!("host=127.0.0.1 port={} dbname=bench", cluster.master().port);
    // Versions before 1.21 know protocol-level prepared statements only where a client keeps its server.
    let old = version_of(&version) < (1, 21);
    let users = world.write("pgbouncer.users", "\"bench\" \"\"\n");
    let users = users.display();
    let prepared = if old {
        ""
    } else {
        "max_prepared_statements = 200\n"
    };
    let config = format!(
        "[databases]\nbench = {server}\nbench_session = {server} pool_mode=session pool_size=40\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\n\
         pool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = 10000\nmax_db_connections = 0\n\
         ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n{prepared}"
    );
    let config = world.write("pgbouncer.ini", &config);
    let mut command = plain_user(&program);
    let process = world.spawn("pgbouncer", command.arg("-q").arg(config));
    Some(Peer {
        name: "pgbouncer",
        version,
        port,
        pid: Some(process.pid()),
        folder: world.path().join("pgbouncer"),
        session_database: old.then_some("bench_session"),
        clients_max: 10_000,
        running: Running::Process(process),
    })
}

fn haproxy(world: &Arc<World>, cluster: &Cluster) -> Option<Peer> {
    let program = find("haproxy")?;
    let version = first_line(&program, &["-v"]);
    let port = free_port();
    let config = format!(
        "global\n  maxconn 6000\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
         frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  server s 127.0.0.1:{}\n",
        cluster.master().port
    );
    let config = world.write("haproxy.cfg", &config);
    let process = world.spawn("haproxy", Command::new(program).arg("-f").arg(config).arg("-db"));
    Some(Peer {
        name: "haproxy",
        version,
        port,
        pid: Some(process.pid()),
        folder: world.path().join("haproxy"),
        session_database: None,
        clients_max: 500,
        running: Running::Process(process),
    })
}

fn pgpool(world: &Arc<World>, cluster: &Cluster) -> Option<Peer> {
    let program = find("pgpool")?;
    let version = first_line(&program, &["--version"]);
    let (port, pcp) = (free_port(), free_port());
    let folder = world.postgres_folder("pgpool-run");
    let config = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\npcp_port = {pcp}\nunix_socket_directories = '{0}'\n\
         pcp_socket_dir = '{0}'\nlogdir = '{0}'\npid_file_name = '{0}/pgpool.pid'\n\
         backend_clustering_mode = 'raw'\nbackend_hostname0 = '127.0.0.1'\nbackend_port0 = {1}\n\
         num_init_children = 34\nmax_pool = 1\nconnection_cache = on\nenable_pool_hba = off\npool_passwd = ''\n\
         process_management_mode = static\n",
        folder.display(),
        cluster.master().port
    );
    let config = world.write("pgpool.conf", &config);
    let empty = world.write("pgpool.empty", "");
    let mut command = plain_user(&program);
    command
        .arg("-n")
        .arg("-f")
        .arg(config)
        .arg("-F")
        .arg(&empty)
        .arg("-a")
        .arg(&empty);
    let process = world.spawn("pgpool", &mut command);
    Some(Peer {
        name: "pgpool",
        version,
        port,
        pid: Some(process.pid()),
        folder: world.path().join("pgpool"),
        session_database: None,
        clients_max: 32,
        running: Running::Process(process),
    })
}

/// As user `postgres` when we are root, which these programs refuse.
fn plain_user(program: &str) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=postgres",
        "--regid=postgres",
        "--init-groups",
        "--",
        program,
    ]);
    command
}

fn find(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())?;
    Some(found.to_string_lossy().into_owned())
}

fn first_line(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect(program);
    let text = [out.stdout, out.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The first two numbers in a text such as `PgBouncer 1.18.0`.
fn version_of(text: &str) -> (u32, u32) {
    let word = text
        .split_whitespace()
        .find(|w| w.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or_default();
    let mut numbers = word.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

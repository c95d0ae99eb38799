//! Who is measured: direct connections, our proxy, and what else is installed. Clients come by TCP, 20 servers each.

mod others;
mod own;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Address, Connection};
use pgstmtpool_tests::{Process, Proxy};

use crate::stage::Stage;
use crate::workloads::Workload;
pub(crate) use own::other_build;

/// One of those compared.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `direct`, `proxy`, `pgbouncer`, `haproxy`, `pgpool`.
    pub(crate) name: &'static str,
    /// Its version as it says it itself.
    pub(crate) version: String,
    /// How it is set up, where that is not the same for all.
    pub(crate) setup: &'static str,
    /// The first of its processes; none for direct connections.
    pub(crate) pid: Option<u32>,
    /// A folder for files of a run.
    pub(crate) folder: PathBuf,
    /// How many clients it takes at most.
    pub(crate) clients_max: usize,
    /// Where clients connect: host and port.
    host: String,
    port: u16,
    /// A database whose servers belong to one client each, for those that cannot keep prepared statements otherwise.
    session_database: Option<&'static str>,
    /// It only runs this workload.
    only: Option<&'static str>,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Nothing,
    Process(Process),
    Proxy(Box<Proxy>),
}

impl Running {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Nothing => None,
            Self::Process(process) => Some(process.pid()),
            Self::Proxy(proxy) => Some(proxy.process.pid()),
        }
    }

    fn log_tail(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Process(process) => process.log_tail(10),
            Self::Proxy(proxy) => proxy.process.log_tail(10),
        }
    }
}

impl Peer {
    fn new(stage: &Stage, name: &'static str, version: String, port: u16, running: Running) -> Self {
        Self {
            name,
            version,
            setup: "",
            pid: running.pid(),
            folder: stage.world.path().join(name),
            clients_max: 10_000,
            host: "127.0.0.1".to_owned(),
            port,
            session_database: None,
            only: None,
            running,
        }
    }

    /// Name, version and how it is set up.
    pub(crate) fn title(&self) -> String {
        let setup = if self.setup.is_empty() {
            String::new()
        } else {
            format!("; {}", self.setup)
        };
        format!("{}: {}{setup}", self.name, self.version)
    }

    /// Must it run prepared statements with a server per client?
    pub(crate) fn is_old(&self) -> bool {
        self.session_database.is_some()
    }

    /// Can it run this workload at all, and shall it?
    pub(crate) fn can(&self, workload: &Workload) -> bool {
        workload.connections() <= self.clients_max && self.only.is_none_or(|only| only == workload.name)
    }

    /// Is it one of those that run everything?
    pub(crate) fn is_general(&self) -> bool {
        self.only.is_none()
    }

    /// The connection string for a workload.
    pub(crate) fn conninfo(&self, workload: &Workload) -> String {
        let database = self
            .session_database
            .filter(|_| workload.prepared)
            .unwrap_or("bench");
        let user = if workload.scram { "bench_scram" } else { "bench" };
        format!(
            "host={} port={} user={user} dbname={database}",
            self.host, self.port
        )
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        if self.host.starts_with('/') {
            Address::unix(self.host.as_ref(), self.port)
        } else {
            Address::Tcp(self.host.clone(), self.port)
        }
    }
}

/// Starts all that `chosen` names (or, for `all`, that are installed) and that have something to do.
pub(crate) fn start(stage: &Stage, chosen: &str, workloads: &[Workload]) -> Vec<Peer> {
    let wanted = |name: &str| chosen == "all" || chosen.split(',').any(|c| c == name);
    let chosen_too = |name: &str| workloads.iter().any(|w| w.name == name);
    let makers: [(&str, bool, Maker); 8] = [
        ("direct", true, own::direct),
        ("proxy", true, own::proxy),
        ("proxy", other_build().is_some(), own::other_proxy),
        (
            "proxy",
            chosen_too(own::NAMES_WORKLOAD),
            own::proxy_with_pool_names,
        ),
        (
            "proxy",
            chosen_too(own::THREADS_WORKLOAD),
            own::proxy_with_one_thread,
        ),
        ("pgbouncer", true, others::pgbouncer),
        ("haproxy", true, others::haproxy),
        ("pgpool", true, others::pgpool),
    ];
    let mut peers = Vec::new();
    for (name, _, make) in makers
        .into_iter()
        .filter(|(name, needed, _)| *needed && wanted(name))
    {
        match make(stage) {
            Some(peer) => peers.push(peer),
            None => println!("{name} is not installed: left out"),
        }
    }
    peers.retain_mut(answers);
    peers
}

type Maker = fn(&Stage) -> Option<Peer>;

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

fn first_line(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect(program);
    let text = [out.stdout, out.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

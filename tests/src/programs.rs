//! The proxy and the operator as processes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::wait::{DEADLINE, wait_for};
use crate::wire::{Address, Connection, WireError};
use crate::world::{Process, World, free_port};

/// One of our programs: from `$PGSTMTPOOL_BIN`, else beside this test's own program in the target folder.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let folders = own.ancestors().skip(1).take(2).map(Path::to_owned);
    let given = std::env::var_os("PGSTMTPOOL_BIN").map(PathBuf::from);
    given
        .into_iter()
        .chain(folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("no program {name}: run `cargo build --workspace --bins` (or `make test`) first")
        })
}

/// What a [`Proxy`] shall be like.
#[derive(Debug)]
pub struct ProxyBuilder {
    world: Arc<World>,
    manifest: PathBuf,
    name: String,
    program: Option<PathBuf>,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    readonly: bool,
}

/// A running proxy. Killed when dropped; when the test fails, the end of its log is shown.
#[derive(Debug)]
pub struct Proxy {
    /// The port of its read-write door on 127.0.0.1.
    pub port: u16,
    /// The port of its read-only door, if it has one.
    pub port_ro: Option<u16>,
    /// The port of /livez, /readyz, /metrics.
    pub http: u16,
    /// The folder of its Unix socket (same port number).
    pub sockets: PathBuf,
    /// The process.
    pub process: Process,
}

impl Proxy {
    /// Starts one with this manifest and waits until it is ready.
    pub fn start(world: &Arc<World>, manifest: &Path) -> Self {
        Self::builder(world, manifest).start()
    }

    /// One made to measure.
    pub fn builder(world: &Arc<World>, manifest: &Path) -> ProxyBuilder {
        ProxyBuilder {
            world: Arc::clone(world),
            manifest: manifest.to_owned(),
            name: "proxy".to_owned(),
            program: None,
            args: Vec::new(),
            environment: Vec::new(),
            readonly: false,
        }
    }

    /// Its address by TCP.
    pub fn tcp(&self) -> Address {
        Address::Tcp("127.0.0.1".to_owned(), self.port)
    }

    /// Its address by Unix socket.
    pub fn unix(&self) -> Address {
        Address::unix(&self.sockets, self.port)
    }

    /// Its read-only door.
    pub fn tcp_ro(&self) -> Address {
        Address::Tcp(
            "127.0.0.1".to_owned(),
            self.port_ro.expect("started with a read-only door"),
        )
    }

    /// A client of it.
    pub fn connect(&self, user: &str, database: &str) -> Connection {
        self.try_connect(user, database)
            .unwrap_or_else(|e| panic!("proxy: {e}\n{}", self.process.log_tail(20)))
    }

    /// A client of it, or why not.
    ///
    /// # Errors
    /// The proxy's answer, or what happened to the socket.
    pub fn try_connect(&self, user: &str, database: &str) -> Result<Connection, WireError> {
        Connection::open(&self.tcp(), user, database)
    }

    /// A connection string for libpq.
    pub fn conninfo(&self, user: &str, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} dbname={database}", self.port)
    }

    /// Rows of a command of the admin database, as user `postgres`.
    pub fn pseudo(&self, command: &str) -> Vec<Vec<Option<String>>> {
        let mut connection = self.connect("postgres", "pseudo");
        connection
            .query(command)
            .unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    /// A page of its HTTP port: status and body.
    pub fn http(&self, path: &str) -> Result<(u16, String), String> {
        http_get(self.http, path)
    }

    /// The value of a metric: the sum over the samples whose line starts with `name`.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.http("/metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl ProxyBuilder {
    /// Names its log file.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Another build of it.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// A further argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.args.push(argument.to_owned());
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Opens a read-only door too.
    pub fn readonly_door(mut self) -> Self {
        self.readonly = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Proxy {
        let proxy = self.start_nowait();
        let what = "the proxy to be ready";
        let mut proxy = proxy;
        wait_for(what, DEADLINE, || {
            if let Some(status) = proxy.process.exited() {
                panic!("the proxy ended ({status}):\n{}", proxy.process.log_tail(30));
            }
            match proxy.http("/readyz") {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}\n{}", proxy.process.log_tail(10))),
            }
        });
        proxy
    }

    /// Starts it without waiting.
    pub fn start_nowait(self) -> Proxy {
        let (port, http) = (free_port(), free_port());
        let port_ro = self.readonly.then(free_port);
        let sockets = self.world.path().join("proxy-sockets");
        std::fs::create_dir_all(&sockets).expect("folder");
        let own = || program("pgstmtpool-proxy");
        let mut command = Command::new(self.program.clone().unwrap_or_else(own));
        command.arg("--config").arg(&self.manifest);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--listen", &format!("{}:{port}", sockets.display())]);
        command.args(["--http-listen", &format!("127.0.0.1:{http}")]);
        if let Some(port) = port_ro {
            command.args(["--listen-ro", &format!("127.0.0.1:{port}")]);
        }
        command.args(&self.args).envs(self.environment.iter().cloned());
        let process = self.world.spawn(&self.name, &mut command);
        Proxy {
            port,
            port_ro,
            http,
            sockets,
            process,
        }
    }
}

/// What an [`Operator`] shall be like.
#[derive(Debug)]
pub struct OperatorBuilder {
    world: Arc<World>,
    manifest: PathBuf,
    name: String,
    args: Vec<String>,
}

/// A running operator in file mode.
#[derive(Debug)]
pub struct Operator {
    /// The process.
    pub process: Process,
    /// The port of /livez, /readyz, /metrics.
    pub http: u16,
}

impl Operator {
    /// One made to measure.
    pub fn builder(world: &Arc<World>, manifest: &Path) -> OperatorBuilder {
        OperatorBuilder {
            world: Arc::clone(world),
            manifest: manifest.to_owned(),
            name: "operator".to_owned(),
            args: Vec::new(),
        }
    }
}

impl OperatorBuilder {
    /// Names its log file.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A further argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.args.push(argument.to_owned());
        self
    }

    /// How it restarts a server: a shell command, as `--restart-command`.
    pub fn restart_command(self, command: &str) -> Self {
        self.arg("--restart-command").arg(command)
    }

    /// How it rewinds a server: a shell command, as `--rewind-command`.
    pub fn rewind_command(self, command: &str) -> Self {
        self.arg("--rewind-command").arg(command)
    }

    /// Starts it.
    pub fn start(self) -> Operator {
        let http = free_port();
        let mut command = Command::new(program("pgstmtpool-operator"));
        command
            .arg("--config")
            .arg(&self.manifest)
            .args(["--http-listen", &format!("127.0.0.1:{http}")]);
        let process = self.world.spawn(&self.name, command.args(&self.args));
        Operator { process, http }
    }
}

/// A GET request: status and body.
///
/// # Errors
/// Says what is wrong with the connection or the answer.
pub fn http_get(port: u16, path: &str) -> Result<(u16, String), String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .map_err(|e| e.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or("no HTTP status")?;
    Ok((status, body.to_owned()))
}

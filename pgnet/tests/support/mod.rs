//! A PostgreSQL server of our own in a temporary folder, shared by the tests that run at the same time.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use pgnet::client::{Config, Connection, Credential, Target};
use pgnet::tls::{ClientTls, Identity, SslMode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

const HBA: &str = "\
local    all  all                    trust
host     all  postgres  127.0.0.1/32 trust
host     all  trusted   127.0.0.1/32 trust
host     all  clear     127.0.0.1/32 password
host     all  md5er     127.0.0.1/32 md5
host     all  scrammer  127.0.0.1/32 scram-sha-256
hostssl  all  certified 127.0.0.1/32 cert
hostssl  all  tls_only  127.0.0.1/32 trust
hostnossl all plain_only 127.0.0.1/32 trust
host     all  made,prepared,prohibited 127.0.0.1/32 password
host     all  refused   127.0.0.1/32 reject
";

const ROLES: &str = "
    create role trusted login; create role certified login; create role tls_only login; create role plain_only login;
    create role refused login; create role clear login password 'clear secret';
    create role scrammer login password 'scram secret';
    set password_encryption = 'md5'; create role md5er login password 'md5 secret';
";

/// A running server.
pub struct Server {
    process: Child,
    folder: PathBuf,
    pub port: u16,
    pub ca: String,
    ca_issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The server; it ends when the last test that holds it is done.
pub fn server() -> Arc<Server> {
    static SHARED: OnceLock<Mutex<Weak<Server>>> = OnceLock::new();
    let mut shared = SHARED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start());
        *shared = Arc::downgrade(&server);
        server
    })
}

fn programs() -> PathBuf {
    let from_env = std::env::var_os("PG_BIN").map(PathBuf::from);
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("bin"));
    let mut found: Vec<PathBuf> = from_env
        .into_iter()
        .chain(installed)
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect(
        "no PostgreSQL server programs found: install them (Debian: apt-get install postgresql) or set PG_BIN to the folder of initdb",
    )
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// PostgreSQL refuses to run as root; the user `postgres` comes with its package.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
        .arg(program);
    command
}

fn output(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the command can be started");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn write_private(path: &Path, text: &str) {
    let mut child = command("sh")
        .args(["-c", "umask 077; cat > \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh can be started");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

impl Server {
    /// A port that was free may be taken before the server has it: then once more.
    fn start() -> Self {
        (0..5)
            .find_map(|_| Self::try_start())
            .expect("the server does not start; its log is above")
    }

    fn try_start() -> Option<Self> {
        let bin = programs();
        let folder = PathBuf::from(output(command("mktemp").args(["-d", "-t", "pgnet.XXXXXX"])));
        let data = folder.join("data");
        output(
            command(bin.join("initdb"))
                .args([
                    "-N",
                    "-U",
                    "postgres",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                    "-D",
                ])
                .arg(&data),
        );
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca = ca_issuer.pem();
        let (chain, key) = sign(&ca_issuer, "localhost");
        for (name, text) in [
            ("hba.conf", HBA),
            ("ca.pem", &ca),
            ("cert.pem", &chain),
            ("key.pem", &key),
        ] {
            write_private(&folder.join(name), text);
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let file = |name| folder.join(name).display().to_string();
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", folder.display()),
            format!("hba_file={}", file("hba.conf")),
            "ssl=on".to_owned(),
            format!("ssl_ca_file={}", file("ca.pem")),
            format!("ssl_cert_file={}", file("cert.pem")),
            format!("ssl_key_file={}", file("key.pem")),
            "fsync=off".to_owned(),
            "password_encryption=scram-sha-256".to_owned(),
        ];
        let log = std::fs::File::create(std::env::temp_dir().join(format!("pgnet-{port}.log"))).unwrap();
        let process = command(bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres can be started");
        let mut server = Self {
            process,
            folder,
            port,
            ca,
            ca_issuer,
        };
        if server.prepare() {
            return Some(server);
        }
        let log = std::fs::read_to_string(std::env::temp_dir().join(format!("pgnet-{port}.log")));
        eprintln!("the server ended at once: {}", log.unwrap_or_default());
        None
    }

    /// Waits until it answers, then makes the roles. `false`: it has ended instead.
    fn prepare(&mut self) -> bool {
        let config = self.unix("postgres");
        let work = async {
            let started = Instant::now();
            let mut connection = loop {
                match Connection::connect(&config).await {
                    Ok(connection) => break connection,
                    Err(_) if self.process.try_wait().unwrap().is_some() => return false,
                    Err(error) => assert!(
                        started.elapsed() < Duration::from_secs(60),
                        "the server does not start: {error}"
                    ),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            connection.query(ROLES).await.unwrap();
            true
        };
        // On a thread of its own: the caller may be inside a runtime.
        let run = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(work)
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    /// Over TCP, without TLS.
    pub fn tcp(&self, user: &str, credential: Credential) -> Config {
        Config {
            credential,
            ..Config::new(Target::new("127.0.0.1", self.port), user, "postgres")
        }
    }

    /// Over the Unix socket.
    pub fn unix(&self, user: &str) -> Config {
        Config::new(
            Target::new(self.folder.display().to_string(), self.port),
            user,
            "postgres",
        )
    }

    /// Over TCP with TLS of this mode, trusting the server's CA.
    pub fn tls(&self, mode: SslMode, user: &str, credential: Credential) -> Config {
        let ca = (mode != SslMode::Prefer && mode != SslMode::Allow).then_some(self.ca.as_bytes());
        Config {
            tls: ClientTls::new(mode, ca, None).unwrap(),
            ..self.tcp(user, credential)
        }
    }

    /// The same with a client certificate for this common name.
    pub fn certified(&self, user: &str, common_name: &str) -> Config {
        let (chain, key) = sign(&self.ca_issuer, common_name);
        let identity = Identity {
            chain_pem: chain.as_bytes(),
            key_pem: key.as_bytes(),
        };
        let tls = ClientTls::new(SslMode::VerifyFull, Some(self.ca.as_bytes()), Some(identity)).unwrap();
        Config {
            tls,
            ..self.tcp(user, Credential::None)
        }
    }

    /// A connection of the superuser.
    pub async fn connect(&self) -> Connection {
        Connection::connect(&self.unix("postgres")).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Immediate shutdown; its own children go with it.
        let _ = Command::new("kill")
            .args(["-QUIT", &self.process.id().to_string()])
            .status();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(std::env::temp_dir().join(format!("pgnet-{}.log", self.port)));
    }
}

fn sign(ca: &CertifiedIssuer<'static, KeyPair>, common_name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

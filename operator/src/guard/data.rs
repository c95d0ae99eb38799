//! The data directory and the programs of PostgreSQL that change it.

use super::decide::{Data, Order};
use super::say;
use crate::core::slot_name;
use crate::servers::{Conninfo, conninfo_of, make_standby};
use cluster::kube::environment;
use pgnet::client::{Config, Connection, Credential, Target};
use pgnet::tls::{ClientTls, SslMode};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long the master may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a checkpoint of it is waited for.
const CHECKPOINT: Duration = Duration::from_secs(300);

/// How much of what a program printed goes into an error.
const OUTPUT_MAX: usize = 1500;
/// Words by which programs say that nobody is there (yet).
const ABSENCE: [&str; 6] = [
    "could not connect",
    "connection to server",
    "the database system is starting up",
    "could not translate host name",
    "source data directory must be shut down cleanly",
    "no response",
];

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A program of PostgreSQL failed.
    #[error("{program}: {said}")]
    Program {
        /// Which.
        program: String,
        /// The end of what it printed.
        said: String,
    },
    /// Files.
    #[error("{}: {cause}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// There is no login to follow the master with.
    #[error("PGSTMTPOOL_REPLICATION_USER is not set, and the data names no user either")]
    NoLogin,
}

impl Failure {
    /// The master does not answer: that says nothing of the data here.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Program { said, .. } if ABSENCE.iter().any(|words| said.contains(words)))
    }
}

/// What the guard is told.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) pool: String,
    pub(super) pod: String,
    pub(super) namespace: String,
    data: PathBuf,
    replication: Option<(String, String)>,
    rewind: Option<(String, String)>,
    first: Option<String>,
}

fn login(prefix: &str) -> Option<(String, String)> {
    let user = environment(&format!("{prefix}_USER"))?;
    Some((
        user,
        environment(&format!("{prefix}_PASSWORD")).unwrap_or_default(),
    ))
}

fn files(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |cause| Failure::Files { path, cause }
}

impl Environment {
    pub(super) fn read() -> Result<Self, String> {
        let need = |name: &str| environment(name).ok_or_else(|| format!("{name} is not set"));
        let replication = login("PGSTMTPOOL_REPLICATION");
        Ok(Self {
            pool: need("PGSTMTPOOL_POOL")?,
            pod: need("POD_NAME")?,
            namespace: need("POD_NAMESPACE")?,
            data: need("PGDATA")?.into(),
            rewind: login("PGSTMTPOOL_REWIND").or_else(|| replication.clone()),
            replication,
            first: environment("PGSTMTPOOL_BOOTSTRAP_MASTER"),
        })
    }

    /// Whether this pod makes the cluster where there is none.
    pub(super) fn is_first(&self) -> bool {
        let host = self
            .first
            .as_deref()
            .map(|first| first.split(['.', ':']).next().unwrap_or_default());
        host.is_none_or(|host| host == self.pod)
    }

    /// A file beside the data directory: what is under way there.
    fn marker(&self, what: &str) -> PathBuf {
        let mut name = self.data.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{what}"));
        self.data.with_file_name(name)
    }

    pub(super) fn look(&self) -> Data {
        let here = |name: &str| self.data.join(name).exists();
        if !here("PG_VERSION") || self.marker("copying").exists() {
            Data::None
        } else if self.marker("rewinding").exists() {
            Data::HalfRewound
        } else if here("standby.signal") {
            Data::Standby
        } else {
            Data::Writable
        }
    }

    /// Marks what is begun until it is done: a container may be killed at any moment.
    fn marked(&self, what: &str, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let marker = self.marker(what);
        fs::write(&marker, "").map_err(files(&marker))?;
        work()?;
        fs::remove_file(&marker).map_err(files(&marker))
    }

    pub(super) fn make_standby(&self, order: &Order) -> Result<(), Failure> {
        let mut info = conninfo_of(&self.data).unwrap_or_default();
        if let Some((user, password)) = &self.replication {
            info.set("user", user);
            info.remove("password");
            if !password.is_empty() {
                info.set("password", password);
            }
        }
        if info.get("user").is_none() {
            return Err(Failure::NoLogin);
        }
        info.remove("passfile");
        let info = info.pointed_at(&order.host, order.port, &order.mine).to_string();
        make_standby(&self.data, &info, &slot_name(&order.mine)).map_err(files(&self.data))
    }

    pub(super) fn rewind(&self, order: &Order) -> Result<(), Failure> {
        say(&format!(
            "rewinding to the line of {} at {}:{}",
            order.master, order.host, order.port
        ));
        // PostgreSQL refuses a directory its group may write, as fsGroup makes it.
        let _ = fs::set_permissions(&self.data, fs::Permissions::from_mode(0o700));
        self.marked("rewinding", || {
            // pg_rewind finishes the recovery of a server that crashed, and cannot do that for a standby.
            let signal = self.data.join("standby.signal");
            if signal.exists() {
                fs::remove_file(&signal).map_err(files(&signal))?;
            }
            let source = self.source(&order.host, order.port, self.rewind.as_ref(), &order.mine);
            let mut command = Command::new("pg_rewind");
            command
                .arg("--target-pgdata")
                .arg(&self.data)
                .arg("--source-server")
                .arg(format!("{source} dbname=postgres"));
            run(command, self.rewind.as_ref())?;
            // It copies the master's settings over ours, and the master has no standby.signal.
            self.make_standby(order)
        })
    }

    /// A new master's timeline shows to pg_rewind with its first checkpoint only: before, it would find nothing to do.
    pub(super) async fn checkpoint(&self, order: &Order) {
        let Some((user, password)) = &self.rewind else {
            return;
        };
        let mut config = Config::new(
            Target::new(order.host.clone(), order.port),
            user.clone(),
            "postgres",
        );
        if !password.is_empty() {
            config.credential = Credential::from_secret(password);
        }
        config.connect_timeout = CONNECT;
        if let Ok(tls) = ClientTls::new(SslMode::Prefer, None, None) {
            config.tls = tls;
        }
        let asked = async {
            let mut sql = Connection::connect(&config).await?;
            sql.query("checkpoint").await?;
            Ok::<_, pgnet::client::Error>(())
        };
        match tokio::time::timeout(CHECKPOINT, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => say(&format!("no checkpoint of {}: {error}", order.master)),
            Err(_) => say(&format!("no checkpoint of {} in time", order.master)),
        }
    }

    pub(super) fn copy(&self, order: &Order) -> Result<(), Failure> {
        say(&format!(
            "copying {} at {}:{}",
            order.master, order.host, order.port
        ));
        self.marked("copying", || {
            self.base_backup(&order.host, order.port, &order.mine)?;
            self.make_standby(order)
        })?;
        // What was half rewound is gone with the rest.
        let _ = fs::remove_file(self.marker("rewinding"));
        Ok(())
    }

    /// The same from the first master, while nobody says who is.
    pub(super) fn copy_first(&self) -> Result<(), Failure> {
        let first = self.first.as_deref().unwrap_or_default();
        let (host, port) = match first
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        {
            Some((host, port)) => (host, port),
            None => (first, 5432),
        };
        self.copy(&Order {
            mine: self.pod.clone(),
            master: first.to_owned(),
            host: host.to_owned(),
            port,
            rewinding: false,
            deposed: false,
            rebuild: false,
        })
    }

    fn base_backup(&self, host: &str, port: u16, mine: &str) -> Result<(), Failure> {
        self.empty()?;
        let source = self.source(host, port, self.replication.as_ref(), mine);
        let mut command = Command::new("pg_basebackup");
        command
            .arg("--pgdata")
            .arg(&self.data)
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-password"])
            .args(["--write-recovery-conf", "--dbname"])
            .arg(source.to_string());
        run(command, self.replication.as_ref())
    }

    /// Removes what is in the data directory; the directory may be a mount.
    fn empty(&self) -> Result<(), Failure> {
        fs::create_dir_all(&self.data).map_err(files(&self.data))?;
        for entry in fs::read_dir(&self.data).map_err(files(&self.data))? {
            let path = entry.map_err(files(&self.data))?.path();
            let removed = match path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(files(&path))?;
        }
        let _ = fs::set_permissions(&self.data, fs::Permissions::from_mode(0o700));
        Ok(())
    }

    fn source(&self, host: &str, port: u16, login: Option<&(String, String)>, mine: &str) -> Conninfo {
        let mut info = Conninfo::default();
        if let Some((user, _)) = login {
            info.set("user", user);
        }
        info.set("connect_timeout", "5");
        info.pointed_at(host, port, mine)
    }
}

/// Runs a program; what it prints goes to the log, its last words into the error. The password never stands in its arguments.
fn run(mut command: Command, login: Option<&(String, String)>) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    if let Some((_, password)) = login.filter(|(_, password)| !password.is_empty()) {
        command.env("PGPASSWORD", password);
    }
    let failed = |said: String| Failure::Program {
        program: program.clone(),
        said,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = text.trim();
    if !text.is_empty() {
        say(&format!("{program}: {text}"));
    }
    if output.status.success() {
        return Ok(());
    }
    let mut from = text.len().saturating_sub(OUTPUT_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    Err(failed(format!("{}: {}", output.status, &text[from..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Environment {
        let root = std::env::temp_dir().join(format!("pgstmtpool-guard-{}-{name}", std::process::id()));
        let data = root.join("data");
        fs::create_dir_all(&data).unwrap();
        Environment {
            pool: "orders".to_owned(),
            pod: "pg-1".to_owned(),
            namespace: "db".to_owned(),
            data,
            replication: Some(("r".to_owned(), "secret".to_owned())),
            rewind: None,
            first: Some("pg-0.pg.db.svc".to_owned()),
        }
    }

    fn order() -> Order {
        Order {
            mine: "pg-1".to_owned(),
            master: "pg-0".to_owned(),
            host: "pg-0.pg.db.svc".to_owned(),
            port: 5432,
            rewinding: false,
            deposed: false,
            rebuild: false,
        }
    }

    #[test]
    fn what_was_interrupted_is_known_at_the_next_start() {
        let environment = environment("interrupted");
        assert_eq!(environment.look(), Data::None);
        fs::write(environment.data.join("PG_VERSION"), "15").unwrap();
        assert_eq!(environment.look(), Data::Writable);
        fs::write(environment.data.join("standby.signal"), "").unwrap();
        assert_eq!(environment.look(), Data::Standby);
        let failed = environment.marked("rewinding", || Err(Failure::NoLogin));
        assert!(failed.is_err());
        assert_eq!(environment.look(), Data::HalfRewound);
        _ = environment.marked("copying", || Err(Failure::NoLogin));
        assert_eq!(environment.look(), Data::None);
        fs::remove_dir_all(environment.data.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_standby_knows_its_master_its_slot_and_its_login() {
        let environment = environment("standby");
        fs::write(environment.data.join("PG_VERSION"), "15").unwrap();
        environment.make_standby(&order()).unwrap();
        let text = fs::read_to_string(environment.data.join("postgresql.auto.conf")).unwrap();
        assert!(
            text.contains("host=pg-0.pg.db.svc") && text.contains("password=secret"),
            "{text}"
        );
        assert!(text.contains("primary_slot_name = 'pgp_pg_1'"), "{text}");
        assert_eq!(environment.look(), Data::Standby);
        assert!(!environment.is_first());
        fs::remove_dir_all(environment.data.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_master_that_does_not_answer_says_nothing_of_the_data() {
        let said = |said: &str| Failure::Program {
            program: "pg_rewind".to_owned(),
            said: said.to_owned(),
        };
        assert!(said("pg_rewind: error: connection to server at \"x\" failed").is_absence());
        assert!(!said("pg_rewind: error: could not find common ancestor").is_absence());
    }
}

//! One look at one server (OPERATOR A5). The connection is kept: a server without free connections cannot blind us.

use super::conninfo::Conninfo;
use super::login::Login;
use super::sample::{FilesRow, StatusRow, sample};
use crate::core::{Probe, Server};
use pgnet::client::{ConnectError, Connection, Error, Fatal};
use pgnet::sqlstate::SqlState;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::debug;

const STATUS: &str = include_str!("../../../sql/status.sql");
const FILES: &str = include_str!("../../../sql/files.sql");
/// Writes about a hundred bytes of log and waits until they are on disk, but for no standby.
const WRITE: &str = "select pg_catalog.pg_logical_emit_message(true, 'pgstmtpool', '')";
/// How often a write is probed.
const WRITE_PERIOD: Duration = Duration::from_secs(5);
/// A write that takes longer hangs. On our clock: a process stuck in fsync obeys no statement_timeout.
const WRITE_HUNG: Duration = Duration::from_secs(3);
/// The largest answer we read.
const ANSWER_MAX: usize = 4 << 20;

/// What one look brought.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its class, and the sample if there is one.
    pub probe: Probe,
    /// `primary_conninfo` with its password.
    pub conninfo: Option<Conninfo>,
}

impl From<Probe> for Seen {
    fn from(probe: Probe) -> Self {
        Self {
            probe,
            conninfo: None,
        }
    }
}

/// Looks at one server.
#[derive(Debug)]
pub struct Prober {
    server: Server,
    login: Login,
    connection: Option<Connection>,
    read_files: bool,
    writes: bool,
    writer: Option<(Instant, JoinHandle<bool>)>,
    wrote: Option<Instant>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.writer {
            task.abort();
        }
    }
}

impl Prober {
    /// Looks at `server`; with `writes` also whether a write comes back.
    pub fn new(server: Server, login: Login, writes: bool) -> Self {
        Self {
            server,
            login,
            connection: None,
            read_files: false,
            writes,
            writer: None,
            wrote: None,
        }
    }

    /// One look, within the probe timeout.
    pub async fn probe(&mut self) -> Seen {
        let seen = match timeout(self.login.timeout(), self.look()).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => {
                self.connection = None;
                debug!(server = %self.server.name, %error, "Probe failed");
                classify(&error).into()
            }
            Err(_) => {
                self.connection = None;
                Probe::Silent.into()
            }
        };
        match &seen.probe {
            Probe::Up(sample) if self.writes && !sample.recovery && self.is_hung().await => {
                Probe::WriteHung.into()
            }
            _ => seen,
        }
    }

    async fn look(&mut self) -> Result<Seen, Error> {
        if let Some(connection) = &mut self.connection {
            match ask(connection, self.read_files).await {
                Err(Error::Fatal(_)) => self.connection = None,
                answer => return answer.map(|(seen, _)| seen),
            }
        }
        let config = self.login.config(&self.server, self.login.timeout());
        let mut connection = Connection::connect(&config).await?;
        connection.set_result_max(ANSWER_MAX);
        let (seen, read_files) = ask(&mut connection, false).await?;
        self.connection = Some(connection);
        self.read_files = read_files;
        if !read_files {
            return Ok(seen);
        }
        let Some(connection) = &mut self.connection else {
            return Ok(seen);
        };
        Ok(ask(connection, true).await?.0)
    }

    /// Whether the last write did not come back in time. It runs beside the probes, on a connection of its own.
    async fn is_hung(&mut self) -> bool {
        if let Some((began, task)) = &mut self.writer {
            if !task.is_finished() {
                return began.elapsed() >= WRITE_HUNG;
            }
            let done = task.await.unwrap_or(true);
            self.writer = None;
            self.wrote = Some(Instant::now());
            return !done;
        }
        if self.wrote.is_none_or(|at| at.elapsed() >= WRITE_PERIOD) {
            let config = self.login.config(&self.server, WRITE_HUNG * 100);
            let task = tokio::spawn(async move {
                // A refused connection or statement is no sign of a hanging disk; only silence is.
                if let Ok(mut connection) = Connection::connect(&config).await {
                    let _ = connection.query(WRITE).await;
                }
                true
            });
            self.writer = Some((Instant::now(), task));
        }
        false
    }
}

/// Asks both status queries in one round trip. The second half: whether files may be read.
async fn ask(connection: &mut Connection, read_files: bool) -> Result<(Seen, bool), Error> {
    let sql = if read_files {
        format!("{STATUS};\n{FILES}")
    } else {
        STATUS.to_owned()
    };
    let results = connection.query(&sql).await?;
    let Some(row) = results
        .first()
        .and_then(|result| json::<StatusRow>(result.get(0, 0)))
    else {
        return Ok((
            Probe::Odd("the status query gave no row that can be read".into()).into(),
            false,
        ));
    };
    let files = results
        .get(1)
        .and_then(|result| json::<FilesRow>(result.get(0, 0)));
    let may = row.may.read_files == Some(true);
    let (sample, conninfo) = sample(row, files);
    Ok((
        Seen {
            probe: Probe::Up(Box::new(sample)),
            conninfo,
        },
        may,
    ))
}

fn json<T: DeserializeOwned>(text: Option<&str>) -> Option<T> {
    serde_json::from_str(text?).ok()
}

/// What an error says about the server.
fn classify(error: &Error) -> Probe {
    if let Error::Fatal(Fatal::Connect(connect)) = error {
        match connect {
            ConnectError::Refused(_) => return Probe::Refused,
            ConnectError::Timeout(_) | ConnectError::Resolve(_) | ConnectError::Io(_) => {
                return Probe::Silent;
            }
            ConnectError::Server(_)
            | ConnectError::Auth(_)
            | ConnectError::Tls(_)
            | ConnectError::Protocol(_) => {}
        }
    }
    match error {
        Error::Fatal(Fatal::Io(_) | Fatal::Abandoned) => Probe::Silent,
        // Starting up, in crash recovery, or shutting down.
        _ if error.sqlstate() == SqlState::CANNOT_CONNECT_NOW => Probe::Starting,
        // It has just been told to go: the next look will tell how it ends.
        _ if error.sqlstate() == SqlState::ADMIN_SHUTDOWN || error.sqlstate() == SqlState::CRASH_SHUTDOWN => {
            Probe::Silent
        }
        _ => Probe::Odd(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgnet::fields::{ErrorFields, Severity};

    #[test]
    fn a_server_that_lives_is_never_taken_for_dead() {
        let server = |code| {
            let fields = ErrorFields::new(Severity::Fatal, code, "x");
            classify(&Error::Fatal(Fatal::Connect(ConnectError::Server(Box::new(
                fields,
            )))))
        };
        for code in [
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
        ] {
            assert!(matches!(server(code), Probe::Odd(_)), "{code:?}");
        }
        assert_eq!(server(SqlState::CANNOT_CONNECT_NOW), Probe::Starting);
        let io = |kind| std::io::Error::from(kind);
        let refused = ConnectError::Refused(io(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(classify(&Error::Fatal(Fatal::Connect(refused))), Probe::Refused);
        let lost = Fatal::Io(io(std::io::ErrorKind::ConnectionReset));
        assert_eq!(classify(&Error::Fatal(lost)), Probe::Silent);
    }
}

//! One PostgreSQL server in a folder of the world: start, stop, kill, freeze, ask.

use std::path::PathBuf;
use std::time::Duration;

use crate::wait::{DEADLINE, wait_for, wait_until};
use crate::wire::{Address, Connection, Row};
use crate::world::{append, as_postgres, is_alive, postgres_binary, run_command, signal_to, tail};

/// How a server is stopped, as `pg_ctl stop -m`.
#[derive(Clone, Copy, Debug)]
pub enum StopMode {
    /// Waits for clients to leave.
    Smart,
    /// Ends clients, writes a checkpoint.
    Fast,
    /// Ends at once; recovers at the next start.
    Immediate,
}

/// One PostgreSQL server: master or replica, running or not. Its data stay until the world ends.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name in the manifest and its `application_name` as a replica.
    pub name: String,
    /// Its TCP port on 127.0.0.1, and the number in its Unix socket's name.
    pub port: u16,
    /// The data folder.
    pub data: PathBuf,
    /// The folder of its Unix socket.
    pub sockets: PathBuf,
}

impl Server {
    /// Starts it and waits until it accepts connections. Of one that runs already: nothing.
    pub fn start(&self) {
        if self.is_running() {
            return;
        }
        let done = self
            .pg_ctl_start()
            .args(["-w", "-t", "60", "-s"])
            .status()
            .expect("pg_ctl");
        assert!(
            done.success(),
            "server {} did not start:\n{}",
            self.name,
            tail(&self.log(), 30)
        );
    }

    /// Starts it without waiting until it is ready.
    pub fn start_nowait(&self) {
        run_command(self.pg_ctl_start().args(["-W", "-s"]));
    }

    fn pg_ctl_start(&self) -> std::process::Command {
        let mut command = as_postgres(&postgres_binary("pg_ctl"));
        command
            .arg("start")
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(self.log_path());
        command.arg("-o").arg(self.options());
        command
    }

    /// Its port and socket on the command line, where they survive `pg_rewind`, which copies the source's files.
    pub(crate) fn options(&self) -> String {
        format!(
            "-c port={} -c unix_socket_directories={}",
            self.port,
            self.sockets.display()
        )
    }

    /// Stops it and waits until it is gone.
    pub fn stop(&self, mode: StopMode) {
        let mode = match mode {
            StopMode::Smart => "smart",
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        let mut command = as_postgres(&postgres_binary("pg_ctl"));
        run_command(
            command
                .arg("stop")
                .arg("-D")
                .arg(&self.data)
                .args(["-m", mode, "-w", "-s"]),
        );
    }

    /// SIGKILL to the postmaster, as a crash; its children end by themselves. Waits until all are gone.
    pub fn kill(&self) {
        let Some(pid) = self.pid() else { return };
        let children = children_of(pid);
        signal_to(&pid.to_string(), "KILL");
        let gone = || !is_alive(pid) && !children.iter().any(|child| is_alive(*child));
        wait_until(&format!("server {} to die", self.name), DEADLINE, gone);
        // In a container whose first process reaps nobody the dead postmaster stays a zombie, and PostgreSQL would
        // take its lock file for that of a running server.
        let _ = std::fs::remove_file(self.data.join("postmaster.pid"));
        let _ = std::fs::remove_file(self.sockets.join(format!(".s.PGSQL.{}.lock", self.port)));
    }

    /// SIGSTOP to the postmaster and all its children: the machine hangs.
    pub fn freeze(&self) {
        let pid = self.pid().expect("a running server");
        signal_to(&pid.to_string(), "STOP");
        children_of(pid)
            .iter()
            .for_each(|child| signal_to(&child.to_string(), "STOP"));
    }

    /// Undoes [`Server::freeze`].
    pub fn thaw(&self) {
        let pid = self.pid().expect("a running server");
        children_of(pid)
            .iter()
            .for_each(|child| signal_to(&child.to_string(), "CONT"));
        signal_to(&pid.to_string(), "CONT");
    }

    /// The postmaster's process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        text.lines()
            .next()?
            .trim()
            .parse()
            .ok()
            .filter(|pid| is_alive(*pid))
    }

    /// Does its postmaster run?
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Its Unix socket.
    pub fn unix(&self) -> Address {
        Address::unix(&self.sockets, self.port)
    }

    /// Its TCP address.
    pub fn tcp(&self) -> Address {
        Address::Tcp("127.0.0.1".to_owned(), self.port)
    }

    /// A connection as user `postgres` over the Unix socket, where `trust` is the rule.
    pub fn connect(&self, database: &str) -> Connection {
        self.try_connect(database)
            .unwrap_or_else(|e| panic!("server {}: {e}", self.name))
    }

    /// [`Server::connect`] for a server that may be down.
    ///
    /// # Errors
    /// Says why there is no connection.
    pub fn try_connect(&self, database: &str) -> Result<Connection, String> {
        Connection::open(&self.unix(), "postgres", database).map_err(|e| e.to_string())
    }

    /// Runs SQL as user `postgres` in database `postgres`; rows of the last result. Panics on an error.
    pub fn sql(&self, text: &str) -> Vec<Row> {
        self.sql_in("postgres", text)
    }

    /// [`Server::sql`] in another database.
    pub fn sql_in(&self, database: &str, text: &str) -> Vec<Row> {
        self.connect(database)
            .query(text)
            .unwrap_or_else(|e| panic!("server {}: {text}: {e}", self.name))
    }

    /// One value as text; empty for NULL or no row.
    pub fn value(&self, text: &str) -> String {
        self.sql(text)
            .first()
            .and_then(|row| row.first().cloned().flatten())
            .unwrap_or_default()
    }

    /// [`Server::value`] of a server that may be down or starting.
    ///
    /// # Errors
    /// Says why there is none.
    pub fn try_value(&self, text: &str) -> Result<String, String> {
        let mut connection = self.try_connect("postgres")?;
        let rows = connection.query(text).map_err(|e| e.to_string())?;
        Ok(rows
            .first()
            .and_then(|row| row.first().cloned().flatten())
            .unwrap_or_default())
    }

    /// Is it up and in recovery (a replica)?
    pub fn is_replica(&self) -> bool {
        self.try_value("select pg_is_in_recovery()")
            .is_ok_and(|value| value == "t")
    }

    /// Is it up and writable?
    pub fn is_master(&self) -> bool {
        self.try_value("select pg_is_in_recovery()")
            .is_ok_and(|value| value == "f")
    }

    /// Waits until a replica streams from somebody.
    pub fn wait_streaming(&self, limit: Duration) {
        let ask = "select coalesce((select status from pg_stat_wal_receiver), 'no WAL receiver')";
        wait_for(&format!("replica {} to stream", self.name), limit, || {
            let status = self.try_value(ask)?;
            if status == "streaming" {
                Ok(())
            } else {
                Err(status)
            }
        });
    }

    /// Waits until a replica has replayed all that `master` has written by now.
    pub fn wait_caught_up(&self, master: &Server) {
        let lsn = master.value("select pg_current_wal_insert_lsn()");
        let ask = format!("select coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)");
        wait_until(
            &format!("replica {} to replay {lsn}", self.name),
            DEADLINE,
            || self.try_value(&ask).is_ok_and(|v| v == "t"),
        );
    }

    /// Adds lines to postgresql.conf; takes effect at the next start or reload.
    pub fn configure(&self, lines: &str) {
        append(&self.data.join("postgresql.conf"), &format!("\n{lines}\n"));
    }

    /// Reads its configuration again.
    pub fn reload(&self) {
        self.sql("select pg_reload_conf()");
    }

    /// Puts lines at the head of pg_hba.conf, where they win, and reloads.
    pub fn hba(&self, lines: &str) {
        let path = self.data.join("pg_hba.conf");
        let old = std::fs::read_to_string(&path).expect("pg_hba.conf");
        std::fs::write(&path, format!("{lines}\n{old}")).expect("pg_hba.conf");
        self.reload();
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.sockets
            .with_file_name("logs")
            .join(format!("{}.log", self.name))
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

//! `--restart-command` and `--rewind-command`: what a person knows about how servers are started here, and SQL cannot do.

use crate::core::Server;
use futures::future::BoxFuture;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;
use tracing::{info, warn};

/// Starting, stopping: as long as `pg_ctl -w` waits by default.
const RESTART: Duration = Duration::from_secs(120);
/// A rewind copies what changed.
const REWIND: Duration = Duration::from_secs(3600);
/// How much of a command's output goes into an error.
const OUTPUT_MAX: usize = 2_000;

/// What a command is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Start a stopped server.
    Start,
    /// Stop it, fast.
    Stop,
    /// Both.
    Restart,
    /// `pg_rewind` it, while it is stopped.
    Rewind,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Rewind => "rewind",
        }
    }
}

/// Pods of PostgreSQL, where servers are pods: what Kubernetes knows of them and does to them.
pub trait Pods: Send + Sync + fmt::Debug {
    /// Whether a guard in each pod rewinds what has to be rewound.
    fn can_rewind(&self) -> bool;
    /// Whether it is certain that no PostgreSQL runs there.
    fn is_stopped(&self, server: &str) -> bool;
    /// Why a server does not answer, as far as its pod tells.
    fn trouble(&self, server: &str) -> Option<String>;
    /// Does it, by making the pod anew.
    fn run<'a>(&'a self, server: &'a str, purpose: Purpose) -> BoxFuture<'a, Result<(), String>>;
}

/// How servers are started, stopped and rewound where SQL cannot: commands, each run by `sh -c`, or pods.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// `--restart-command`.
    pub restart: Option<String>,
    /// `--rewind-command`.
    pub rewind: Option<String>,
    /// Servers are pods.
    pub pods: Option<Arc<dyn Pods>>,
}

impl Commands {
    /// Whether servers can be started and stopped.
    pub fn can_restart(&self) -> bool {
        self.restart.is_some() || self.pods.is_some()
    }

    /// Whether servers can be rewound.
    pub fn can_rewind(&self) -> bool {
        self.rewind.is_some() || self.pods.as_ref().is_some_and(|pods| pods.can_rewind())
    }

    /// Runs the command for `purpose`. It gets the environment of the operator and `PGSTMTPOOL_ACTION`, `_SERVER`, `_HOST`, `_PORT`
    /// and `_DATA_DIRECTORY` (empty where it is not known), and whatever `more` says. It is killed when it takes too long.
    ///
    /// # Errors
    /// What went wrong, with the end of what the command printed.
    pub async fn run(
        &self,
        server: &Server,
        folder: Option<&Path>,
        purpose: Purpose,
        more: &[(&str, String)],
    ) -> Result<(), String> {
        if let Some(pods) = &self.pods {
            info!(server = %server.name, action = purpose.as_str(), "Pod");
            return pods.run(&server.name, purpose).await;
        }
        let (text, option, limit) = match purpose {
            Purpose::Rewind => (&self.rewind, "--rewind-command", REWIND),
            _ => (&self.restart, "--restart-command", RESTART),
        };
        let Some(text) = text else {
            return Err(format!("{}: there is no {option}", server.name));
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", text])
            .env("PGSTMTPOOL_ACTION", purpose.as_str())
            .env("PGSTMTPOOL_SERVER", &server.name)
            .env("PGSTMTPOOL_HOST", &server.host)
            .env("PGSTMTPOOL_PORT", server.port.to_string())
            .env(
                "PGSTMTPOOL_DATA_DIRECTORY",
                folder.unwrap_or_else(|| Path::new("")),
            )
            .envs(more.iter().map(|(key, value)| (*key, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        info!(server = %server.name, action = purpose.as_str(), "Command");
        // A server that the command starts inherits its output: waiting for the end of a pipe would wait for the server.
        let output = tempfile().map_err(|error| format!("{option}: {error}"))?;
        let writers = output.0.try_clone().and_then(|a| Ok((a, output.0.try_clone()?)));
        let (stdout, stderr) = writers.map_err(|error| format!("{option}: {error}"))?;
        let mut child = command
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|error| format!("{option}: {error}"))?;
        let status = match timeout(limit, child.wait()).await {
            Ok(status) => status.map_err(|error| format!("{option}: {error}"))?,
            Err(_) => {
                let _ = child.kill().await;
                return Err(format!("{option} for {} took more than {limit:?}", server.name));
            }
        };
        if status.success() {
            return Ok(());
        }
        let said = output.tail();
        warn!(server = %server.name, action = purpose.as_str(), %status, said, "Command failed");
        Err(format!(
            "{option} {} {}: {status}: {said}",
            purpose.as_str(),
            server.name
        ))
    }
}

/// A file without a name for what a command prints.
struct Output(std::fs::File);

fn tempfile() -> std::io::Result<Output> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    let path = std::env::temp_dir().join(format!("pgstmtpool-command-{:016x}", u64::from_ne_bytes(bytes)));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(Output(file))
}

impl Output {
    fn tail(mut self) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let mut text = Vec::new();
        let length = self.0.metadata().map_or(0, |metadata| metadata.len());
        let from = length.saturating_sub(OUTPUT_MAX as u64);
        let read = self
            .0
            .seek(SeekFrom::Start(from))
            .and_then(|_| self.0.read_to_end(&mut text));
        if read.is_err() {
            return String::new();
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            name: "pg-1".into(),
            host: "h".into(),
            port: 5,
            priority: 50,
        }
    }

    #[tokio::test]
    async fn a_command_knows_what_it_is_for_and_its_words_are_in_the_error() {
        let text = "echo $PGSTMTPOOL_ACTION $PGSTMTPOOL_SERVER $PGSTMTPOOL_HOST $PGSTMTPOOL_PORT \
                    $PGSTMTPOOL_DATA_DIRECTORY $MORE; exit 3";
        let commands = Commands {
            restart: Some(text.into()),
            ..Commands::default()
        };
        let more = [("MORE", "a b".to_owned())];
        let error = commands
            .run(&server(), Some(Path::new("/d")), Purpose::Stop, &more)
            .await
            .unwrap_err();
        assert!(error.ends_with("exit status: 3: stop pg-1 h 5 /d a b"), "{error}");
        let error = commands
            .run(&server(), None, Purpose::Rewind, &[])
            .await
            .unwrap_err();
        assert_eq!(error, "pg-1: there is no --rewind-command");
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_does_not_hold_it_up() {
        let commands = Commands {
            restart: Some("sleep 20 & exit 0".into()),
            ..Commands::default()
        };
        let server = server();
        let ran = commands.run(&server, None, Purpose::Start, &[]);
        timeout(Duration::from_secs(10), ran).await.unwrap().unwrap();
    }
}

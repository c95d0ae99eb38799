//! The command `pgstmtpool` (also installed as `kubectl-pgpool`): what is the case, and what somebody wants to be the case.
//!
//! It reads what proxies and operator write and leaves requests beside the status; it never touches a server or the manifest.

mod ask;
mod cli;
mod show;

use clap::Parser;
use cli::{Cli, Command};
use cluster::{ClusterSource, FileSource, Snapshot, SourceError};
use std::process::ExitCode;

/// How a command ended. These numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done, or all is well.
    Good = 0,
    /// It could not be done or seen.
    Failed = 1,
    /// Bad arguments or a bad manifest.
    Invalid = 2,
    /// `status`: it serves, but something is missing.
    Degraded = 3,
    /// `status`: nobody can write.
    Down = 4,
    /// The operator refused the request.
    Refused = 5,
    /// The operator gave it up: the old master is master still.
    Aborted = 6,
    /// No answer in time; it may still happen.
    TimedOut = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pgstmtpool: {error}");
            return Exit::Failed.into();
        }
    };
    runtime.block_on(run(cli)).into()
}

async fn run(cli: Cli) -> Exit {
    let source = match FileSource::open(&cli.config, cli.pool.as_deref()) {
        Ok(source) => source,
        Err(error) => return faults(error),
    };
    match cli.command {
        Command::Status { json } => match source.current().await {
            Ok(snapshot) => status(&source, &snapshot, json).await,
            Err(error) => faults(error),
        },
        Command::Switchover(request) => ask::switchover(&source, &request).await,
        Command::Failover(request) => ask::failover(&source, &request).await,
    }
}

async fn status(source: &FileSource, snapshot: &Snapshot, json: bool) -> Exit {
    let proxies = source.proxies().await.unwrap_or_default();
    for fault in snapshot.faults.iter() {
        eprintln!("{fault}");
    }
    let text = if json {
        show::json(snapshot, &proxies)
    } else {
        Ok(show::text(snapshot, &proxies))
    };
    match text {
        Ok(text) => print!("{text}"),
        Err(error) => {
            eprintln!("pgstmtpool: {error}");
            return Exit::Failed;
        }
    }
    show::verdict(snapshot.status.as_deref())
}

/// Every fault on a line of its own.
fn faults(error: SourceError) -> Exit {
    for fault in error.into_faults() {
        eprintln!("{fault}");
    }
    Exit::Invalid
}

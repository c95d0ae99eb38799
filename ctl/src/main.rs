//! The command `pgstmtpool` (also installed as `kubectl-pgpool`): what is the case, and what somebody wants to be the case.
//!
//! It reads what proxies and operator write and leaves requests beside the status; it never touches a server or the manifest.

mod ask;
mod cli;
mod look;
mod place;
mod show;

use clap::Parser;
use cli::{Cli, Command};
use cluster::Snapshot;
use place::{Place, faults};
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
    let place = match Place::open(&cli).await {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    match cli.command {
        Command::Status { json, .. } => match place.source().current().await {
            Ok(snapshot) => status(&place, &snapshot, json).await,
            Err(error) => faults(error),
        },
        Command::Switchover(request) => ask::switchover(&place, &request).await,
        Command::Failover(request) => ask::failover(&place, &request).await,
        Command::Pause(_) => ask::pause(&place, true).await,
        Command::Resume(_) => ask::pause(&place, false).await,
        Command::Logs { tail, .. } => look::logs(&place, tail).await,
        Command::Doctor { .. } => match place.source().current().await {
            Ok(snapshot) => look::doctor(&place, &snapshot).await,
            Err(error) => faults(error),
        },
    }
}

async fn status(place: &Place, snapshot: &Snapshot, json: bool) -> Exit {
    let proxies = place.source().proxies().await.unwrap_or_default();
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

//! The command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Shows a pool and asks its operator to move the master.
#[derive(Debug, Parser)]
#[command(
    name = "pgstmtpool",
    version,
    after_help = "\
EXIT CODES
  0  done; status, doctor: all is well    4  status: there is no master to write to
  1  could not be done or seen            5  the operator refused the request
  2  bad arguments or a bad manifest      6  the operator aborted it: the old master stays
  3  status: serves, but degraded;        7  no result in time; it may still happen
     doctor: something is wrong

With --config, or a pgpool.yaml in this folder, the pool is the one of the manifest: requests are written beside its status
(x.yaml -> x.request.yaml). Else it is a PgPool of the Kubernetes API that KUBECONFIG names, and requests are written into its
spec, as `kubectl patch` would. As `kubectl pgpool` (a link of the name kubectl-pgpool in the PATH) it is always that."
)]
pub(crate) struct Cli {
    /// The manifest of the pool
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Which PgPool, when there are several
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) pool: Option<String>,

    /// Its namespace
    #[arg(long, short, value_name = "NAME", global = true, conflicts_with = "config")]
    pub(crate) namespace: Option<String>,

    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "config")]
    pub(crate) context: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Master, replicas and their lag, what is under way, conditions, proxies
    Status {
        /// The PgPool
        name: Option<String>,
        /// All of it for programs
        #[arg(long)]
        json: bool,
    },
    /// Make another server the master, without errors for clients
    Switchover(Switchover),
    /// Let a blocked failover go on although acknowledged writes may be lost
    Failover(Failover),
    /// Start no failover and no switchover until `resume`
    Pause(Pause),
    /// Undo `pause`
    Resume(Pause),
    /// The logs of the operator and the proxies (Kubernetes only)
    Logs {
        /// The PgPool
        name: Option<String>,
        /// So many lines of each
        #[arg(long, value_name = "LINES", default_value_t = 50)]
        tail: i64,
    },
    /// Look for what is usually wrong, and say what to do about it
    Doctor {
        /// The PgPool
        name: Option<String>,
    },
}

impl Command {
    /// The PgPool named behind the command.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Status { name, .. } | Self::Logs { name, .. } | Self::Doctor { name } => name.as_deref(),
            Self::Switchover(asked) => asked.name.as_deref(),
            Self::Failover(asked) => asked.name.as_deref(),
            Self::Pause(asked) | Self::Resume(asked) => asked.name.as_deref(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Switchover {
    /// The PgPool
    pub(crate) name: Option<String>,

    /// The server that becomes master
    #[arg(long, value_name = "NAME")]
    pub(crate) to: String,

    /// Cut off transactions that do not end within timeouts.drain, instead of giving up
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Failover {
    /// The PgPool
    pub(crate) name: Option<String>,

    /// The id of the blocked operation, as `status` shows it
    #[arg(long, value_name = "OPERATION")]
    pub(crate) force: String,

    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// The PgPool
    pub(crate) name: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Wait {
    /// Wait for the end and show the steps meanwhile
    #[arg(long)]
    pub(crate) wait: bool,

    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}

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
  0  done; status: all is well          4  status: there is no master to write to
  1  could not be done or seen          5  the operator refused the request
  2  bad arguments or a bad manifest    6  the operator aborted it: the old master stays
  3  status: serves, but degraded       7  no result in time; it may still happen

Without Kubernetes a request is written beside the status (x.yaml -> x.request.yaml) and the operator of the pool carries it
out. The same can be asked by spec.switchover and spec.failover in the manifest."
)]
pub(crate) struct Cli {
    /// The manifest of the pool
    #[arg(long, value_name = "FILE", global = true, default_value = "pgpool.yaml")]
    pub(crate) config: PathBuf,

    /// Which PgPool, when the file holds several
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) pool: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Master, replicas and their lag, what is under way, conditions, proxies
    Status {
        /// All of it for programs
        #[arg(long)]
        json: bool,
    },
    /// Make another server the master, without errors for clients
    Switchover(Switchover),
    /// Let a blocked failover go on although acknowledged writes may be lost
    Failover(Failover),
}

#[derive(Debug, Args)]
pub(crate) struct Switchover {
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
    /// The id of the blocked operation, as `status` shows it
    #[arg(long, value_name = "OPERATION")]
    pub(crate) force: String,

    #[command(flatten)]
    pub(crate) wait: Wait,
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

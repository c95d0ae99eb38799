//! The command line and the life of the process.

use crate::health::Health;
use crate::http;
use crate::kube;
use crate::pool::{Actor, Options};
use crate::servers::Commands;
use clap::{Parser, ValueEnum};
use cluster::kube::{environment, own_namespace, own_pod};
use cluster::{FileSource, Request, SourceError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

/// A bad manifest.
const INVALID: u8 = 2;
/// Another operator leads this pool.
const NOT_ALONE: u8 = 3;
/// How long another operator is waited for: one that is being replaced needs a moment to go.
const LEAD_WAIT: Duration = Duration::from_secs(10);

/// Watches the PostgreSQL servers of a pool, promotes a replica when the master dies, switches over on request, and brings
/// old masters back.
#[derive(Debug, Parser)]
#[command(
    name = "pgstmtpool-operator",
    version,
    after_help = "\
Without `ha: {enabled: true}` in the manifest it only follows whoever is master and changes nothing on any server.

Without --config it serves the PgPools of the Kubernetes API; several operators may run, one leads (Lease pgstmtpool-operator).

With --config it writes the status beside the manifest (x.yaml -> x.status.yaml); proxies follow that. One operator a pool: a second one
waits ten seconds and leaves with exit code 3.

COMMANDS FOR SERVERS
  Both commands are run by `sh -c`, with this environment:
    PGSTMTPOOL_ACTION          start | stop | restart | rewind
    PGSTMTPOOL_SERVER, _HOST, _PORT
    PGSTMTPOOL_DATA_DIRECTORY  as the server said when it last ran; empty where that is not known
  start and rewind also get PGSTMTPOOL_STANDBY=1, PGSTMTPOOL_MASTER, PGSTMTPOOL_PRIMARY_CONNINFO and
  PGSTMTPOOL_PRIMARY_SLOT_NAME. Where the data directory is on this machine and may be written, the operator has put
  standby.signal and these two settings there already; where it is not, the command must.
  rewind also gets PGSTMTPOOL_SOURCE, PGSTMTPOOL_SOURCE_HOST, _SOURCE_PORT and PGSTMTPOOL_SOURCE_CONNINFO.
  Without --restart-command a server is stopped by SQL and somebody else has to start it (systemd, a container runtime).

  --restart-command 'case $PGSTMTPOOL_ACTION in stop) systemctl stop postgresql@$PGSTMTPOOL_SERVER;;
                     *) systemctl restart postgresql@$PGSTMTPOOL_SERVER;; esac'
  --rewind-command 'pg_rewind -D \"$PGSTMTPOOL_DATA_DIRECTORY\" --source-server=\"$PGSTMTPOOL_SOURCE_CONNINFO\"'

EXIT CODES
  0 stopped by a signal, or --check found nothing wrong   1 a fault at run time   2 a bad manifest   3 another operator leads"
)]
pub struct Cli {
    /// The manifest: a YAML file with a PgPool, and any Secrets it names [default: the Kubernetes API]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Serve the PgPools of the Kubernetes API, as without --config
    #[arg(long, conflicts_with_all = ["config", "pool", "check", "restart_command", "rewind_command"])]
    pub kubernetes: bool,

    /// The namespace whose PgPools are served [default: that of the operator's pod]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub namespace: Option<String>,

    /// Serve the PgPools of all namespaces
    #[arg(long, conflicts_with_all = ["config", "namespace"])]
    pub all_namespaces: bool,

    /// Which PgPool, when the file holds several
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,

    /// Validate the manifest, print "ok" or every fault, and leave
    #[arg(long)]
    pub check: bool,

    /// Starts, stops and restarts a server (see below)
    #[arg(long, value_name = "CMD")]
    pub restart_command: Option<String>,

    /// Rewinds a stopped server to the line of the master (see below)
    #[arg(long, value_name = "CMD")]
    pub rewind_command: Option<String>,

    /// Serve /livez, /readyz and /metrics here
    #[arg(long, value_name = "ADDR:PORT")]
    pub http_listen: Option<SocketAddr>,

    /// How log lines look; RUST_LOG says how many
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people, and for the journal of systemd.
    Text,
    /// One JSON object a line.
    Json,
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.check {
        return match &cli.config {
            Some(config) => check(config, cli.pool.as_deref()),
            None => {
                eprintln!("--check needs --config: in a cluster the API checks what is applied");
                ExitCode::from(INVALID)
            }
        };
    }
    log_as(cli.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(async {
                match cli.config.clone() {
                    Some(config) => run(cli, &config).await,
                    None => run_in_cluster(cli).await,
                }
            });
            // A look-up of a name may hang in a thread of its own.
            runtime.shutdown_timeout(Duration::from_secs(1));
            code
        }
        Err(error) => {
            error!(%error, "No runtime");
            ExitCode::FAILURE
        }
    }
}

fn check(config: &Path, pool: Option<&str>) -> ExitCode {
    match cluster::check(config, pool) {
        Ok(checked) => {
            for warning in checked.warnings {
                eprintln!("warning: {warning}");
            }
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(error) => faults(error),
    }
}

/// Every fault on a line of its own, for people and for editors.
fn faults(error: SourceError) -> ExitCode {
    for fault in error.into_faults() {
        eprintln!("{fault}");
    }
    ExitCode::from(INVALID)
}

fn log_as(format: LogFormat) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // It calls every lost connection an error; we say ourselves what became of each call.
    if let Ok(quiet) = "kube_client::client::builder=off".parse() {
        filter = filter.add_directive(quiet);
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => builder.json().init(),
    }
}

async fn run(cli: Cli, config: &Path) -> ExitCode {
    let source = match FileSource::open(config, cli.pool.as_deref()) {
        Ok(source) => source,
        Err(error) => return faults(error),
    };
    let leadership = match lead(&source).await {
        Ok(leadership) => leadership,
        Err(code) => return code,
    };
    let options = Options {
        commands: Commands {
            restart: cli.restart_command,
            rewind: cli.rewind_command,
            pods: None,
        },
        request_path: Some(Request::path(&source.status_path())),
        ..Options::default()
    };
    let health = Arc::new(Health::new(source.pool(), None));
    info!(pool = source.pool(), status = %source.status_path().display(), "Operator started");
    let listener = match listen(cli.http_listen).await {
        Ok(listener) => listener,
        Err(code) => return code,
    };
    let actor = match Actor::open(Arc::new(source), options, Arc::clone(&health)).await {
        Ok(actor) => actor,
        Err(error) => return faults(error),
    };
    let (stop, stopped) = watch::channel(false);
    tokio::select! {
        () = actor.run(stopped) => {}
        () = served(listener, health) => {}
        () = signalled() => {
            // Whatever is under way is recorded: the next operator goes on.
            info!("Stopped by a signal");
            let _ = stop.send(true);
        }
    }
    drop(leadership);
    ExitCode::SUCCESS
}

async fn listen(address: Option<SocketAddr>) -> Result<Option<TcpListener>, ExitCode> {
    let Some(address) = address else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            error!(%address, %error, "Cannot listen");
            Err(ExitCode::FAILURE)
        }
    }
}

async fn served(listener: Option<TcpListener>, report: Arc<dyn http::Report>) {
    match listener {
        Some(listener) => http::serve(listener, report).await,
        None => std::future::pending().await,
    }
}

/// All pools of a namespace, or of the cluster. The lead that is lost ends the program: another one has it.
async fn run_in_cluster(cli: Cli) -> ExitCode {
    let own_namespace = own_namespace().unwrap_or_else(|| "default".to_owned());
    let options = kube::Options {
        namespace: match cli.all_namespaces {
            true => None,
            false => Some(cli.namespace.unwrap_or_else(|| own_namespace.clone())),
        },
        own_namespace,
        // A container that is restarted in its pod is the same one: the Lease is its own still.
        identity: own_pod(),
        image: environment("PGSTMTPOOL_PROXY_IMAGE"),
    };
    info!(version = env!("CARGO_PKG_VERSION"), ?options, "Operator started");
    let listener = match listen(cli.http_listen).await {
        Ok(listener) => listener,
        Err(code) => return code,
    };
    let reports = Arc::new(kube::Reports::default());
    let (stop, stopped) = watch::channel(false);
    let mut work = std::pin::pin!(kube::run(options, Arc::clone(&reports), stopped));
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = served(listener, reports) => Ok(()),
        () = signalled() => {
            info!("Stopped by a signal");
            let _ = stop.send(true);
            // The lead is given back, and whatever is under way is recorded.
            return match tokio::time::timeout(Duration::from_secs(5), work).await {
                Ok(Ok(())) => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            };
        }
    };
    match ended {
        Ok(()) => warn!("Ended: this operator does not lead any more"),
        Err(error) => error!(%error, "Cannot run"),
    }
    ExitCode::FAILURE
}

async fn lead(source: &FileSource) -> Result<cluster::Leadership, ExitCode> {
    let begun = std::time::Instant::now();
    loop {
        match source.lead() {
            Ok(Some(leadership)) => return Ok(leadership),
            Ok(None) if begun.elapsed() < LEAD_WAIT => tokio::time::sleep(Duration::from_millis(100)).await,
            Ok(None) => {
                warn!(pool = source.pool(), "Another operator leads this pool");
                return Err(ExitCode::from(NOT_ALONE));
            }
            Err(error) => {
                error!(%error, "Cannot take the lead");
                return Err(ExitCode::FAILURE);
            }
        }
    }
}

async fn signalled() {
    let mut streams = Vec::new();
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ] {
        match signal(kind) {
            Ok(stream) => streams.push(stream),
            Err(error) => warn!(%error, "Cannot wait for a signal"),
        }
    }
    let waits = streams.iter_mut().map(|stream| Box::pin(stream.recv()));
    futures::future::select_all(waits).await;
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

//! From a manifest to a running proxy, and back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cluster::{ProxyReport, SourceError};
use crds::{Fault, PoolConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::cli::{Cli, Listen};
use super::number::NumberError;
use super::place::Home;
use super::{files, signals};
use crate::accept::{self, Doors, OpenError, Place};
use crate::auth::{self, Gate, Settings, Where};
use crate::control::{Control, Following, Parts};
use crate::house::{House, Order, Porter};
use crate::metrics::Edge;
use crate::peers;
use crate::plane::{Door, Options, Plane};
use crate::pseudo::Shutdown;
use crate::seats::Seats;
use crate::startup::{Entrance, Terms};
use crate::tls::Certificates;

/// Why the program cannot run.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The manifest is wrong.
    #[error("the manifest has {} fault(s)", .0.len())]
    Manifest(Vec<Fault>),
    /// A door.
    #[error(transparent)]
    Door(#[from] OpenError),
    /// The port of HTTP.
    #[error("cannot serve HTTP")]
    Http(#[source] io::Error),
    /// No number.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// Threads, signals, randomness.
    #[error("the system refuses")]
    System(#[source] io::Error),
}

impl From<SourceError> for StartError {
    fn from(error: SourceError) -> Self {
        Self::Manifest(error.into_faults())
    }
}

/// What `--check` finds: everything the start would, without opening anything.
///
/// # Errors
/// All faults.
pub(super) fn faults(config: &Path, pool: Option<&str>) -> Result<Vec<String>, Vec<Fault>> {
    let checked = cluster::check(config, pool).map_err(SourceError::into_faults)?;
    let faults = unusable(&checked.config, &checked.secrets);
    if faults.is_empty() {
        Ok(checked.warnings)
    } else {
        Err(faults)
    }
}

/// Certificates that cannot be used.
fn unusable(config: &PoolConfig, secrets: &cluster::Secrets) -> Vec<Fault> {
    let mut certificates = Certificates::default();
    let to_clients = certificates.to_clients(&config.tls, secrets).err();
    let to_servers = certificates.to_servers(&config.server_tls, secrets).err();
    let fault = |error: crate::tls::SetupError| Fault::new(error.field(), error.to_string());
    to_clients.into_iter().chain(to_servers).map(fault).collect()
}

/// Runs until a signal or a command of the admin database ends it.
///
/// # Errors
/// [`StartError`]; once it runs there is none.
pub(super) fn run(cli: Cli) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::System)?;
    let ended = runtime.block_on(serve(cli));
    // Look-ups of names and rounds of SCRAM that are still running are nobody's any more.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

async fn serve(cli: Cli) -> Result<(), StartError> {
    let home = Home::open(&cli).await?;
    let source = home.source();
    let snapshot = source.current().await?;
    let unusable = unusable(&snapshot.config, &snapshot.secrets);
    if !unusable.is_empty() {
        return Err(StartError::Manifest(unusable));
    }
    let config = Arc::clone(&snapshot.config);
    info!(version = env!("CARGO_PKG_VERSION"), pool = %config.name, "Starting");
    files::raise_limit(config.limits.max_clients.into(), config.workers.max.into());

    let seat = home.take_seat(&cli, &config).await?;
    let secret = seat.secret;
    let doors = accept::open(&places(&cli))?;
    let http = match cli.http_listen {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(StartError::Http)?),
    };

    let edge = Arc::new(Edge::default());
    let (place, look_up) = watch::channel(Arc::new(Where::default()));
    let (desk, clerk) = auth::desk(look_up, Arc::clone(&edge));
    tokio::spawn(clerk);
    let gate = Arc::new(Gate::new(Arc::new(desk), Arc::clone(&edge)));
    gate.configure(Settings::new(
        &config,
        &snapshot.secrets,
        secret,
        &Settings::default(),
    ));
    let terms = Terms {
        config: Arc::clone(&config),
        tls: Certificates::default()
            .to_clients(&config.tls, &snapshot.secrets)
            .unwrap_or(None),
    };
    let entrance = Entrance::new(
        terms,
        Arc::clone(&gate),
        Arc::clone(&edge),
        Arc::new(Seats::default()),
    );
    let (give, mut orders) = mpsc::unbounded_channel();
    let meeting = home.meeting(&seat);
    let (peer_listener, peer_file) = match meeting.listen().await {
        Ok((listener, file)) => (Some(listener), file),
        Err(error) => {
            warn!(%error, "Cancels of clients of this proxy that reach another one are lost");
            (None, None)
        }
    };
    let peer_address = peer_listener
        .as_ref()
        .map(|_| meeting.own_address())
        .unwrap_or_default();
    let house = Arc::new(House::new(entrance, edge, Some(meeting), give));

    tokio::spawn(signals::listen(Arc::clone(&house)).map_err(StartError::System)?);
    let Doors {
        listeners,
        files: socket_files,
    } = doors;
    let plane = Plane::start(Options {
        threads: threads(&cli, &config),
        proxy_id: seat.number,
        listeners,
        config: Arc::clone(&config),
        doorman: Arc::new(Porter(Arc::clone(&house))),
    })
    .map_err(StartError::System)?;
    house.open(Arc::clone(&plane));
    if let Some(listener) = http {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "Serving HTTP");
        }
        tokio::spawn(crate::http::serve(listener, Arc::clone(&house) as _));
    }
    if let Some(listener) = peer_listener {
        tokio::spawn(peers::serve(listener, canceller(&plane)));
    }

    let report = ProxyReport {
        id: seat.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        proxy_number: seat.number,
        peer_address,
        started_at: crds::units::rfc3339(SystemTime::now()),
        ..ProxyReport::default()
    };
    let follower = Arc::new(Following(Arc::clone(&plane)));
    let parts = Parts {
        source,
        follower,
        house: Arc::clone(&house),
        gate,
        place,
        secret,
        report,
    };
    let mut control = Control::new(parts);
    let how = control.run(&mut orders).await;
    end(how, &plane, &house, &mut control, &mut orders).await;
    drop((socket_files, peer_file, seat));
    info!("Ended");
    Ok(())
}

/// Idle clients leave at once; the others have `timeouts.drain`, unless there is a second signal.
async fn end(
    how: Shutdown,
    plane: &Plane,
    house: &House,
    control: &mut Control,
    orders: &mut mpsc::UnboundedReceiver<Order>,
) {
    house.drain();
    if how == Shutdown::Drain {
        let deadline = house.config.load().timeouts.drain;
        info!(?deadline, clients = plane.client_count(), "Draining");
        tokio::select! {
            () = plane.drain(deadline) => {}
            // The report is renewed meanwhile: this proxy still writes.
            how = control.run(orders) => info!(?how, "Ending at once"),
        }
    }
    plane.drain(Duration::ZERO).await;
    control.withdraw().await;
}

fn places(cli: &Cli) -> Vec<(Place, Door)> {
    let place = |listen: &Listen| match listen {
        Listen::Tcp { host, port } => Place::Tcp {
            host: host.clone(),
            port: *port,
        },
        Listen::Unix { folder, port } => Place::Unix(folder.join(format!(".s.PGSQL.{port}"))),
    };
    let doors = cli.doors();
    let to_master = doors.iter().map(|listen| (place(listen), Door::ReadWrite));
    let to_replicas = cli.listen_ro.iter().map(|listen| (place(listen), Door::ReadOnly));
    to_master.chain(to_replicas).collect()
}

fn threads(cli: &Cli, config: &PoolConfig) -> usize {
    let asked = cli
        .threads
        .map(usize::from)
        .or_else(|| usize::try_from(config.proxy.threads).ok());
    match asked.filter(|threads| *threads > 0) {
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

fn canceller(plane: &Arc<Plane>) -> peers::Cancel {
    let plane = Arc::clone(plane);
    Arc::new(move |process_id, key| {
        let plane = Arc::clone(&plane);
        Box::pin(async move { plane.cancel(process_id, &key).await })
    })
}

//! Where this proxy lives: beside a manifest, or in a pod. What differs between the two is here and nowhere else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cluster::kube::{Holder, KubeSource, Reader, client, environment, own_namespace, own_pod};
use cluster::{ClusterSource, FileSource, SourceError};
use crds::PoolConfig;
use pgnet::auth::scram::Key;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::cli::Cli;
use super::number::{Number, NumberError, random, shared_secret};
use super::run::StartError;
use crate::peers::Peers;

/// Where proxies of a cluster carry cancels to each other.
const PEER_PORT: u16 = 5434;
/// After the API did not answer.
const AGAIN: Duration = Duration::from_secs(2);

/// See the module.
pub(super) enum Home {
    /// A manifest, and the folder where its proxies meet.
    Files(Arc<FileSource>, PathBuf),
    /// A `PgPool` of the API.
    Cluster {
        source: Arc<KubeSource>,
        /// The pod's name.
        pod: String,
        /// Its address, where it is known.
        ip: String,
    },
}

/// What this proxy is among the proxies of its pool.
pub(super) struct Seat {
    /// The first byte of the process ids it gives out.
    pub(super) number: u8,
    /// Its name.
    pub(super) id: String,
    /// Makes unknown users look alike at all proxies.
    pub(super) secret: Key,
    _lock: Option<Number>,
}

impl Home {
    /// Reads what is written for the first time. An API that does not answer is waited for.
    ///
    /// # Errors
    /// A bad manifest.
    pub(super) async fn open(cli: &Cli) -> Result<Self, StartError> {
        if let Some(config) = &cli.config {
            let source = FileSource::open(config, cli.pool.as_deref())?;
            let folder = source.proxies_path();
            return Ok(Self::Files(Arc::new(source), folder));
        }
        let pod = own_pod();
        let holder = Holder {
            pod: pod.clone(),
            uid: environment("POD_UID").unwrap_or_default(),
        };
        let source = loop {
            match cluster_source(cli, holder.clone()).await {
                Ok(source) => break source,
                Err(SourceError::Unavailable(why)) => {
                    warn!(why, "Waiting for the Kubernetes API");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Self::Cluster {
            source: Arc::new(source),
            pod,
            ip: environment("POD_IP").unwrap_or_default(),
        })
    }

    /// What is written.
    pub(super) fn source(&self) -> Arc<dyn ClusterSource> {
        match self {
            Self::Files(source, _) => Arc::clone(source) as _,
            Self::Cluster { source, .. } => Arc::clone(source) as _,
        }
    }

    /// Takes a number nobody else has.
    ///
    /// # Errors
    /// All are taken, or the place where they are kept cannot be used.
    pub(super) async fn take_seat(&self, cli: &Cli, config: &PoolConfig) -> Result<Seat, StartError> {
        match self {
            Self::Files(_, folder) => {
                let lock = Number::take(folder, cli.id)?;
                let secret = match shared_secret(folder) {
                    Ok(secret) => secret,
                    Err(error) => {
                        warn!(%error, "Unknown users look different at each proxy: the shared key cannot be used");
                        random().map_err(StartError::System)?
                    }
                };
                Ok(Seat {
                    number: lock.number,
                    id: format!("proxy-{}", lock.number),
                    secret,
                    _lock: Some(lock),
                })
            }
            Self::Cluster { source, pod, .. } => {
                let number = loop {
                    match source.claim_number(cluster::kube::highest_number(config)).await {
                        Ok(Some(number)) => break number,
                        Ok(None) => return Err(NumberError::AllTaken.into()),
                        Err(error) => {
                            warn!(%error, "No Lease yet");
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                };
                // The same for all proxies of the pool, and nobody outside the cluster knows it.
                let uid = source
                    .object()
                    .and_then(|object| object.metadata.uid)
                    .unwrap_or_default();
                Ok(Seat {
                    number,
                    id: pod.clone(),
                    secret: Sha256::digest(format!("pgstmtpool mock key of {uid}")).into(),
                    _lock: None,
                })
            }
        }
    }

    /// Where proxies meet.
    pub(super) fn meeting(&self, seat: &Seat) -> Peers {
        match self {
            Self::Files(_, folder) => Peers::new(folder, seat.number),
            Self::Cluster { source, ip, .. } => {
                let address = match ip.contains(':') {
                    true => format!("[{ip}]:{PEER_PORT}"),
                    false => format!("{ip}:{PEER_PORT}"),
                };
                Peers::in_cluster(Arc::clone(source) as _, seat.number, address)
            }
        }
    }
}

async fn cluster_source(cli: &Cli, holder: Holder) -> Result<KubeSource, SourceError> {
    let client = client(None).await?;
    let namespace = cli
        .namespace
        .clone()
        .or_else(own_namespace)
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let pool = cli.pool.as_deref().unwrap_or_default();
    KubeSource::open(client, &namespace, pool, Reader::Proxy(holder)).await
}

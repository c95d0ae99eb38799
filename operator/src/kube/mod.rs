//! The operator in a cluster: one actor a `PgPool`, as long as this operator leads.
//!
//! [`run`] takes the lead, watches the pools, and starts and stops what serves each: the actor (which decides and writes the
//! status), a caretaker (owned objects, labels, Events, the finalizer), and `serving` (which proxies the Services lead to). The moment the lead is lost the process ends: nothing
//! of it may go on.

mod caretaker;
mod children;
mod leader;
mod pods;
mod pool;
mod report;
mod serving;

use cluster::SourceError;
use cluster::kube::{call, follow_all, resource};
use kube::api::{DynamicObject, ListParams};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use leader::Candidate;
pub use report::Reports;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

/// Where the proxies' image is, unless the environment or the manifest says otherwise.
const IMAGE: &str = concat!("ghcr.io/pgstmtpool/pgstmtpool:", env!("CARGO_PKG_VERSION"));

/// What the command line and the environment say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace to watch; `None`: all.
    pub namespace: Option<String>,
    /// Where this operator's own Lease is.
    pub own_namespace: String,
    /// Unique among operators.
    pub identity: String,
    /// `PGSTMTPOOL_PROXY_IMAGE`.
    pub image: Option<String>,
}

/// What serving a pool takes.
#[derive(Clone)]
struct Context {
    client: Client,
    recorder: Recorder,
    image: String,
    reports: Arc<Reports>,
}

/// Waits for the lead, serves all pools, and returns when the lead is lost. To drop it is to kill the operator.
///
/// # Errors
/// There is no way to the API at all, or no such resource in it.
pub async fn run(
    options: Options,
    reports: Arc<Reports>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), SourceError> {
    let client = cluster::kube::client(None).await?;
    let candidate = Candidate::new(client.clone(), &options.own_namespace, options.identity.clone());
    let told = |contact: Result<(), String>| reports.contact(contact);
    let lease = tokio::select! {
        lease = candidate.acquire(told) => lease,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let context = Context {
        recorder: Recorder::new(
            client.clone(),
            Reporter {
                controller: leader::NAME.to_owned(),
                instance: Some(options.identity.clone()),
            },
        ),
        client: client.clone(),
        image: options.image.unwrap_or_else(|| IMAGE.to_owned()),
        reports: Arc::clone(&reports),
    };
    let api: Api<DynamicObject> = match &options.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource()),
        None => Api::all_with(client, &resource()),
    };
    check(&api).await;
    tokio::select! {
        () = candidate.keep(lease, told) => {}
        () = serve_all(&context, api, options.namespace.as_deref()) => {}
        _ = stop.wait_for(|stop| *stop) => candidate.release().await,
    }
    Ok(())
}

/// Says at once what would otherwise only show as an empty list.
async fn check(api: &Api<DynamicObject>) {
    match call(api.list(&ListParams::default().limit(1))).await {
        Ok(_) => {}
        Err(error) if error.is_missing() => {
            warn!(
                "There is no resource pgpools.pgstmtpool.io here: install the chart, or crds/pgpools.pgstmtpool.io.yaml"
            );
        }
        Err(error) => warn!(%error, "PgPools cannot be listed"),
    }
}

/// One task a pool, as pools come and go.
async fn serve_all(context: &Context, api: Api<DynamicObject>, namespace: Option<&str>) {
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    follow_all(api, "", |objects| {
        running.retain(|key, task| {
            let keep = objects.get(key).is_some_and(|object| task.is_of(object));
            if !keep {
                info!(pool = key, "No longer served");
                task.handle.abort();
                context.reports.remove(key);
            }
            keep
        });
        for (key, object) in objects {
            if running.contains_key(key) {
                continue;
            }
            let (namespace, name) = match key.split_once('/') {
                Some((namespace, name)) => (namespace, name),
                None => (namespace.unwrap_or_default(), key.as_str()),
            };
            let pool = pool::Pool {
                context: context.clone(),
                key: key.clone(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            let leaving = object.metadata.deletion_timestamp.is_some();
            let handle = match leaving {
                true => tasks.spawn(pool.leave()),
                false => tasks.spawn(pool.serve()),
            };
            info!(pool = key, leaving, "Served");
            let uid = object.metadata.uid.clone();
            running.insert(key.clone(), Running { uid, leaving, handle });
        }
        while tasks.try_join_next().is_some() {}
    })
    .await;
}

struct Running {
    uid: Option<String>,
    leaving: bool,
    handle: AbortHandle,
}

impl Running {
    /// Whether this task is the one the object needs.
    fn is_of(&self, object: &DynamicObject) -> bool {
        self.uid == object.metadata.uid && self.leaving == object.metadata.deletion_timestamp.is_some()
    }
}

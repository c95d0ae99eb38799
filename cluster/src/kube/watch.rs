//! The tasks that keep the state up to date. They end with the source, and never give up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DynamicObject;
use kube::core::Resource;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use super::leases::report_of;
use super::pods;
use super::state::secret_names;
use super::{Inner, Reader};

/// A watch is asked for anew so often: one whose connection died silently is noticed within five seconds more.
const WATCH_SECONDS: u32 = 10;
/// After an error.
const RETRY: Duration = Duration::from_secs(1);

/// The running watches.
#[derive(Debug)]
pub(super) struct Watches {
    _tasks: JoinSet<()>,
}

impl Watches {
    pub(super) fn start(client: Client, inner: &Arc<Inner>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(object(Arc::clone(inner)));
        if matches!(inner.reader, Reader::Operator) {
            tasks.spawn(leases(Arc::clone(inner)));
        }
        if !matches!(inner.reader, Reader::Person) {
            tasks.spawn(named(client, Arc::clone(inner)));
        }
        Self { _tasks: tasks }
    }
}

/// Follows what `config` selects; `take` hears of each change, in order.
async fn follow<K>(api: Api<K>, config: Config, what: &str, mut take: impl FnMut(Event<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher(api, config.timeout(WATCH_SECONDS)));
    let mut failing = false;
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                failing = false;
                take(event);
            }
            Some(Err(error)) => {
                let error = words(&error);
                if failing {
                    debug!(what, error, "Still cannot watch");
                } else {
                    warn!(what, error, "Cannot watch: what is known stays");
                }
                failing = true;
                tokio::time::sleep(RETRY).await;
            }
            None => return, // it never ends
        }
    }
}

fn words(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => super::text(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// One object by its name: what a Role with that name allows.
async fn follow_one<K>(api: Api<K>, name: &str, mut take: impl FnMut(Option<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut there = false;
    let config = Config::default().fields(&format!("metadata.name={name}"));
    follow(api, config, name, |event| match event {
        Event::Init => there = false,
        Event::InitApply(object) => {
            there = true;
            take(Some(object));
        }
        Event::Apply(object) => take(Some(object)),
        Event::Delete(_) => take(None),
        Event::InitDone if !there => take(None),
        Event::InitDone => {}
    })
    .await;
}

/// Everything a selector finds (all, where it is empty), whole and at once after each interruption. Keys are
/// `namespace/name` where `api` spans namespaces, else names. Ends never; errors are logged and tried again.
pub async fn follow_all<K>(api: Api<K>, labels: &str, mut take: impl FnMut(&BTreeMap<String, K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let spans = api.namespace().is_none();
    let name = |object: &K| {
        let name = object.meta().name.clone().unwrap_or_default();
        match (&object.meta().namespace, spans) {
            (Some(namespace), true) => format!("{namespace}/{name}"),
            _ => name,
        }
    };
    let (mut known, mut coming) = (BTreeMap::new(), BTreeMap::new());
    let config = match labels {
        "" => Config::default(),
        labels => Config::default().labels(labels),
    };
    follow(api, config, labels, |event| {
        match event {
            Event::Init => return coming.clear(),
            Event::InitApply(object) => {
                coming.insert(name(&object), object);
                return;
            }
            Event::InitDone => known = std::mem::take(&mut coming),
            Event::Apply(object) => _ = known.insert(name(&object), object),
            Event::Delete(object) => _ = known.remove(&name(&object)),
        }
        take(&known);
    })
    .await;
}

async fn object(inner: Arc<Inner>) {
    follow_one(inner.api.clone(), &inner.pool, |object: Option<DynamicObject>| {
        inner.update(|state| state.take_object(object));
    })
    .await;
}

async fn leases(inner: Arc<Inner>) {
    let selector = inner.leases.selector();
    follow_all(inner.leases.api.clone(), &selector, |leases| {
        // Read by who asks, several times a second: nobody is woken up.
        let reports = leases
            .iter()
            .map(|(name, lease)| (name.clone(), report_of(lease)));
        inner.state().reports = Some(reports.collect());
    })
    .await;
}

/// The objects the spec names, as the spec changes.
async fn named(client: Client, inner: Arc<Inner>) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &inner.namespace);
    let pods_api: Api<Pod> = Api::namespaced(client, &inner.namespace);
    let operator = matches!(inner.reader, Reader::Operator);
    let mut changes = inner.changes.subscribe();
    let mut tasks = JoinSet::new();
    let mut secret_tasks = Named::default();
    let mut pod_tasks = Named::default();
    loop {
        let written = inner.state().written();
        if let Some(written) = written {
            secret_tasks.want(secret_names(&written, operator), &mut tasks, |name| {
                let (inner, secrets) = (Arc::clone(&inner), secrets.clone());
                async move {
                    follow_one(secrets, &name, |secret| {
                        inner.update(|state| _ = state.secrets.insert(name.clone(), secret));
                    })
                    .await;
                }
            });
            if operator {
                pod_tasks.want(wanted_pods(&written), &mut tasks, |what| {
                    watch_pods(Arc::clone(&inner), pods_api.clone(), what)
                });
            }
            if operator && pod_tasks.running.is_empty() {
                inner.state().pods_seen = true;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Names of pods, or one selector in the form `key=value,...`.
fn wanted_pods(written: &crds::PoolConfig) -> BTreeSet<String> {
    if written.selector.is_empty() {
        return pods::names(written).into_iter().collect();
    }
    let selector: Vec<String> = written
        .selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    [selector.join(",")].into()
}

async fn watch_pods(inner: Arc<Inner>, api: Api<Pod>, what: String) {
    if what.contains('=') {
        follow_all(api, &what, |pods| inner.take_pods(|known| known.clone_from(pods))).await;
    } else {
        follow_one(api, &what, |pod| {
            inner.take_pods(|known| match pod {
                Some(pod) => _ = known.insert(what.clone(), pod),
                None => _ = known.remove(&what),
            });
        })
        .await;
    }
}

impl Inner {
    fn take_pods(&self, change: impl FnOnce(&mut BTreeMap<String, Pod>)) {
        let mut all = BTreeMap::new();
        self.update(|state| {
            change(&mut state.pods);
            state.pods_seen = true;
            all.clone_from(&state.pods);
        });
        self.pods.send_replace(Arc::new(all));
    }
}

/// One task a name.
#[derive(Debug, Default)]
struct Named {
    running: BTreeMap<String, AbortHandle>,
}

impl Named {
    /// Tasks for these names and no others.
    fn want<F>(&mut self, names: BTreeSet<String>, tasks: &mut JoinSet<()>, mut task: impl FnMut(String) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.retain(|name, running| {
            let keep = names.contains(name);
            if !keep {
                running.abort();
            }
            keep
        });
        for name in names {
            self.running
                .entry(name)
                .or_insert_with_key(|name| tasks.spawn(task(name.clone())));
        }
    }
}

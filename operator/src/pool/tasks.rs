//! What runs beside the actor: one prober a server, one act a server at a time. They end with the actor.

use crate::core::{Act, ActKind, Name, Probe, Server};
use crate::servers::{Executor, Login, Pods, Prober, Seen};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

/// What the tasks tell the actor.
#[derive(Debug)]
pub(super) enum Message {
    /// A look at a server.
    Seen {
        /// Which round of probers it belongs to.
        round: u64,
        server: Name,
        seen: Seen,
    },
    /// An act ended.
    Acted {
        server: Name,
        kind: ActKind,
        error: Option<String>,
    },
}

/// The running tasks of one actor.
#[derive(Debug)]
pub(super) struct Tasks {
    tasks: JoinSet<()>,
    inbox: mpsc::Sender<Message>,
    round: u64,
    probers: BTreeMap<Name, (AbortHandle, Arc<Notify>)>,
    period: watch::Sender<Duration>,
    /// One act a server; a checkpoint may take long and holds up nothing.
    busy: BTreeSet<(Name, bool)>,
}

impl Tasks {
    pub(super) fn new(inbox: mpsc::Sender<Message>, period: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            inbox,
            round: 0,
            probers: BTreeMap::new(),
            period: watch::channel(period).0,
            busy: BTreeSet::new(),
        }
    }

    /// Probes these servers from now on, and no others.
    pub(super) fn probe(
        &mut self,
        servers: &[Server],
        login: &Login,
        writes: bool,
        pods: Option<&Arc<dyn Pods>>,
    ) {
        self.round += 1;
        for (_, (task, _)) in std::mem::take(&mut self.probers) {
            task.abort();
        }
        for server in servers {
            let poke = Arc::new(Notify::new());
            let prober = Prober::new(server.clone(), login.clone(), writes);
            let task = probe(
                prober,
                pods.cloned(),
                server.name.clone(),
                self.round,
                self.inbox.clone(),
                Arc::clone(&poke),
                self.period.subscribe(),
            );
            self.probers
                .insert(server.name.clone(), (self.tasks.spawn(task), poke));
        }
    }

    /// Whether a message of this round still counts.
    pub(super) fn is_current(&self, round: u64) -> bool {
        round == self.round
    }

    /// How far apart probes are.
    pub(super) fn set_period(&self, period: Duration) {
        self.period
            .send_if_modified(|old| std::mem::replace(old, period) != period);
    }

    /// Looks at a server now.
    pub(super) fn poke(&self, server: &str) {
        if let Some((_, poke)) = self.probers.get(server) {
            poke.notify_one();
        }
    }

    /// Does an act, unless one is under way there.
    pub(super) fn act(&mut self, act: Act, executor: &Executor) {
        let (server, kind) = (act.server().clone(), act.kind());
        if !self.busy.insert((server.clone(), kind == ActKind::Checkpoint)) {
            return;
        }
        let (executor, inbox) = (executor.clone(), self.inbox.clone());
        self.tasks.spawn(async move {
            let error = executor.run(act).await.err().map(|error| error.to_string());
            let _ = inbox.send(Message::Acted { server, kind, error }).await;
        });
    }

    /// An act ended: look what it did.
    pub(super) fn acted(&mut self, server: &str, kind: ActKind) {
        self.busy
            .remove(&(server.to_owned(), kind == ActKind::Checkpoint));
        for name in self.probers.keys() {
            self.poke(name);
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn probe(
    mut prober: Prober,
    pods: Option<Arc<dyn Pods>>,
    server: Name,
    round: u64,
    inbox: mpsc::Sender<Message>,
    poke: Arc<Notify>,
    mut period: watch::Receiver<Duration>,
) {
    loop {
        let begun = Instant::now();
        let mut seen = prober.probe().await;
        let stopped = || pods.as_ref().is_some_and(|pods| pods.is_stopped(&server));
        if seen.probe == Probe::Silent && stopped() {
            // Its address answers nothing any more, but its kubelet does: as good as a closed port.
            seen.probe = Probe::Refused;
        }
        if inbox
            .send(Message::Seen {
                round,
                server: server.clone(),
                seen,
            })
            .await
            .is_err()
        {
            return;
        }
        let pause = period.borrow_and_update().saturating_sub(begun.elapsed());
        let wait = async {
            tokio::select! {
                () = poke.notified() => {}
                _ = period.changed() => {}
            }
        };
        // Poked or not: never faster than servers can bear.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = timeout(pause, wait).await;
    }
}

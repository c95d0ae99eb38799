//! The loop over a store in memory, with a plane that does what it is told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use cluster::MemorySource;
use crds::ServerConfig;
use crds::status::{BudgetStatus, MasterStatus, PgPoolStatus, RoutingMode, RoutingStatus, Share};

use tokio::time::sleep;

use super::seen::Seen;
use super::*;
use crate::auth::desk;
use crate::metrics::Edge;
use crate::startup::Entrance;

/// Remembers what it was told; answers when it may.
struct Plain {
    told: Mutex<Vec<(u64, Mode, Option<String>)>>,
    workers: Mutex<u32>,
    connections: Arc<AtomicU32>,
    drained: Arc<AtomicBool>,
}

impl Follower for Plain {
    fn configure(&self, config: Arc<PoolConfig>) {
        *self.workers.lock().unwrap() = config.workers.max;
    }
    fn apply(&self, topology: Arc<Topology>) -> BoxFuture<'static, bool> {
        let master = topology.master.as_ref().map(|master| master.name.clone());
        self.told
            .lock()
            .unwrap()
            .push((topology.epoch, topology.mode, master));
        let drained = Arc::clone(&self.drained);
        Box::pin(async move { drained.load(Relaxed) })
    }
    fn load(&self) -> (u32, u32) {
        (3, 1)
    }
    fn connections(&self) -> BoxFuture<'static, u32> {
        let connections = Arc::clone(&self.connections);
        Box::pin(async move { connections.load(Relaxed) })
    }
}

struct World {
    source: Arc<MemorySource>,
    plane: Arc<Plain>,
    house: Arc<House>,
    view: watch::Sender<View>,
}

fn status(epoch: u64, mode: RoutingMode) -> PgPoolStatus {
    PgPoolStatus {
        epoch,
        master: Some(MasterStatus {
            name: "a".into(),
            address: "127.0.0.1:1".into(),
            ..MasterStatus::default()
        }),
        routing: RoutingStatus {
            mode,
            ..RoutingStatus::default()
        },
        ..PgPoolStatus::default()
    }
}

/// Starts a loop; it ends with the test.
async fn world() -> World {
    let config = PoolConfig::minimal("p", ServerConfig::host("a", "127.0.0.1", 1));
    let source = Arc::new(MemorySource::new(config.clone(), Secrets::default()));
    let edge = Arc::new(Edge::default());
    let (place, look_up) = watch::channel(Arc::default());
    let (desk, _) = desk(look_up, Arc::clone(&edge));
    let gate = Arc::new(Gate::new(Arc::new(desk), Arc::clone(&edge)));
    let terms = Terms {
        config: Arc::new(config),
        tls: None,
    };
    let entrance = Entrance::new(terms, Arc::clone(&gate), Arc::clone(&edge), Arc::default());
    let (orders, mut give) = mpsc::unbounded_channel();
    let house = Arc::new(House::new(entrance, edge, None, orders));
    let plane = Arc::new(Plain {
        told: Mutex::default(),
        workers: Mutex::default(),
        connections: Arc::default(),
        drained: Arc::new(true.into()),
    });
    let parts = Parts {
        source: Arc::clone(&source) as _,
        follower: Arc::clone(&plane) as _,
        house: Arc::clone(&house),
        gate,
        place,
        secret: [0; 32],
        report: ProxyReport {
            id: "proxy-0".into(),
            ..ProxyReport::default()
        },
    };
    let mut control = Control::new(parts);
    let view = watch::Sender::default();
    control.view = view.subscribe();
    tokio::spawn(async move { control.run(&mut give).await });
    World {
        source,
        plane,
        house,
        view,
    }
}

impl World {
    async fn write(&self, status: PgPoolStatus) {
        let seen = self.source.current().await.unwrap().version;
        self.source.compare_and_swap(&seen, status).await.unwrap();
        self.settle().await;
    }

    async fn look(&self, view: View) {
        self.view.send_replace(view);
        self.settle().await;
    }

    async fn settle(&self) {
        sleep(Duration::from_millis(20)).await;
    }

    async fn report(&self) -> ProxyReport {
        self.source.proxies().await.unwrap().pop().unwrap()
    }

    fn last(&self) -> (u64, Mode, Option<String>) {
        self.plane.told.lock().unwrap().last().cloned().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_status_and_a_login_the_manifest_is_taken_at_its_word() {
    let world = world().await;
    world.settle().await;
    assert_eq!(world.last(), (0, Mode::Open, Some("a".into())));
    assert!(crate::http::Report::ready(&*world.house).is_ok());
    let report = world.report().await;
    assert_eq!(
        (report.acked_epoch, report.drained, report.clients, report.waiting),
        (0, false, 3, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_epoch_is_acknowledged_when_the_plane_has_done_it_and_not_before() {
    let world = world().await;
    world.plane.drained.store(false, Relaxed);
    world.write(status(5, RoutingMode::Paused)).await;
    assert_eq!(world.last(), (5, Mode::Paused, Some("a".into())));
    assert_eq!(world.report().await.acked_epoch, 0);
    world.plane.drained.store(true, Relaxed);
    sleep(AGAIN).await;
    world.settle().await;
    let report = world.report().await;
    assert_eq!((report.acked_epoch, report.drained), (5, true));
    world.write(status(6, RoutingMode::Open)).await;
    let report = world.report().await;
    assert_eq!((report.acked_epoch, report.drained), (6, false));
}

#[tokio::test(start_paused = true)]
async fn a_newer_topology_does_not_wait_for_one_that_drains() {
    let world = world().await;
    world.plane.drained.store(false, Relaxed);
    world.write(status(5, RoutingMode::Paused)).await;
    world.write(status(6, RoutingMode::Fenced)).await;
    assert_eq!(world.last().0, 6);
    world.plane.drained.store(true, Relaxed);
    sleep(AGAIN).await;
    world.settle().await;
    let told: Vec<u64> = world
        .plane
        .told
        .lock()
        .unwrap()
        .iter()
        .map(|told| told.0)
        .collect();
    assert_eq!(
        told.iter().filter(|epoch| **epoch == 5).count(),
        1,
        "the older one is not tried again: {told:?}"
    );
    assert_eq!(world.report().await.acked_epoch, 6);
}

#[tokio::test(start_paused = true)]
async fn a_status_without_a_master_opens_nothing() {
    let world = world().await;
    world
        .write(PgPoolStatus {
            epoch: 2,
            ..PgPoolStatus::default()
        })
        .await;
    assert_eq!(world.last(), (2, Mode::Fenced, None));
}

#[tokio::test(start_paused = true)]
async fn what_did_not_change_is_not_applied_again() {
    let world = world().await;
    world.write(status(5, RoutingMode::Open)).await;
    let before = world.plane.told.lock().unwrap().len();
    world
        .write(PgPoolStatus {
            observed_generation: 9,
            ..status(5, RoutingMode::Open)
        })
        .await;
    assert_eq!(world.plane.told.lock().unwrap().len(), before);
}

#[tokio::test(start_paused = true)]
async fn workers_are_cut_to_the_share_of_this_proxy() {
    let world = world().await;
    world.settle().await;
    assert_eq!(*world.plane.workers.lock().unwrap(), 20);
    let mut budget = BudgetStatus::default();
    budget.shares.insert("proxy-0".into(), Share { parts: 1, of: 4 });
    world
        .write(PgPoolStatus {
            budget: budget.clone(),
            ..status(1, RoutingMode::Open)
        })
        .await;
    assert_eq!(*world.plane.workers.lock().unwrap(), 5);
    budget.shares.clear();
    budget.shares.insert("proxy-1".into(), Share::ALL);
    world
        .write(PgPoolStatus {
            budget,
            ..status(2, RoutingMode::Open)
        })
        .await;
    assert_eq!(*world.plane.workers.lock().unwrap(), Share::LEAST);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_share_is_acknowledged_when_no_more_connections_are_open() {
    let world = world().await;
    let mut written = status(1, RoutingMode::Open);
    let mut share = |parts, of, number| {
        written.budget.servers.insert("a".into(), 20);
        written
            .budget
            .shares
            .insert("proxy-0".into(), Share { parts, of });
        written.budget.number = number;
        written.clone()
    };
    world.plane.connections.store(12, Relaxed);
    world.write(share(1, 1, 1)).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.report().await.budget_number, 1);
    world.write(share(1, 2, 2)).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.report().await.budget_number, 1, "12 of 10 are open");
    world.plane.connections.store(10, Relaxed);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.report().await.budget_number, 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_named_has_nothing_where_shares_are_given() {
    let world = world().await;
    let mut written = status(1, RoutingMode::Open);
    written.budget.number = 3;
    world.write(written).await;
    assert_eq!(*world.plane.workers.lock().unwrap(), Share::LEAST);
    assert_eq!(world.report().await.budget_number, 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_gone_for_less_than_a_lease_changes_nothing() {
    let world = world().await;
    world.write(status(5, RoutingMode::Open)).await;
    world.source.set_unavailable(true);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(world.last(), (5, Mode::Open, Some("a".into())));
    world.source.set_unavailable(false);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(world.report().await.acked_epoch, 5);
}

#[tokio::test(start_paused = true)]
async fn the_report_is_renewed() {
    let world = world().await;
    world.settle().await;
    let first = world.report().await.renewal;
    sleep(LEASE_RENEWAL * 2).await;
    assert!(world.report().await.renewal > first);
}

fn looked(times: u64, system_identifier: &str, timeline: u32) -> View {
    let identity = crate::plane::Identity {
        system_identifier: system_identifier.into(),
        timeline,
    };
    let seen = Seen::Master(seen::Facts {
        identity,
        streaming: false,
    });
    View::from([("a".to_owned(), probe::Looked { times, seen })])
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_to_a_server_of_another_cluster_or_an_older_timeline() {
    let world = world().await;
    let master = MasterStatus {
        name: "a".into(),
        address: "127.0.0.1:1".into(),
        timeline: 2,
        system_identifier: "71".into(),
        ..MasterStatus::default()
    };
    world.look(looked(5, "99", 1)).await;
    world
        .write(PgPoolStatus {
            master: Some(master),
            ..status(3, RoutingMode::Open)
        })
        .await;
    let cases = [
        (6, "99", 1, Mode::Open), // this probe may have begun before
        (7, "99", 2, Mode::Fenced),
        (8, "71", 2, Mode::Open),
        (9, "71", 1, Mode::Fenced),
        (10, "71", 3, Mode::Open), // the operator is about to say so
        (11, "", 0, Mode::Open),   // it does not say
    ];
    for (times, system_identifier, timeline, mode) in cases {
        world.look(looked(times, system_identifier, timeline)).await;
        assert_eq!(world.last().1, mode, "{times}: {system_identifier} {timeline}");
    }
    assert_eq!(world.report().await.acked_epoch, 3);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_nobody_hears_of_writes_only_while_it_sees_that_nobody_was_promoted() {
    let world = world().await;
    let mut written = status(4, RoutingMode::Open);
    let master = written.master.as_mut().unwrap();
    (master.system_identifier, master.timeline) = ("71".into(), 3);
    world.write(written).await;
    world.look(looked(5, "71", 3)).await;
    assert_eq!(world.last(), (4, Mode::Open, Some("a".into())));
    world.source.set_unavailable(true);
    sleep(Duration::from_secs(9)).await;
    world.look(View::from([("a".to_owned(), lost(6))])).await;
    assert_eq!(world.last().1, Mode::Open, "the operator still counts on it");
    sleep(Duration::from_secs(6)).await;
    world.look(View::from([("a".to_owned(), lost(7))])).await;
    assert_eq!(
        world.last().1,
        Mode::Fenced,
        "the master is lost: perhaps another one is there"
    );
    world.look(looked(8, "71", 3)).await;
    assert_eq!(world.last().1, Mode::Open, "every server is as it was");
    world.look(View::from([("a".to_owned(), lost(9))])).await;
    world.source.set_unavailable(false);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(world.last().1, Mode::Open, "it is heard of again");
}

fn lost(times: u64) -> probe::Looked {
    let seen = Seen::Lost {
        error: "gone".into(),
        refused: false,
    };
    probe::Looked { times, seen }
}

//! The master moves: planned, killed, frozen, twice, with the operator dying in between. Under load, with the set
//! test as judge: what was acknowledged is there once, what certainly failed is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "failover/budget.rs"]
mod budget;
#[path = "failover/sessions.rs"]
mod sessions;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{
    Cluster, Manifest, Operator, Proxy, Server, SetTest, Status, World, wait_for, wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);
const HA: &str = "{enabled: true, failureThreshold: 4, probePeriod: 250ms, probeTimeout: 500ms, \
                  crashRecoveryGrace: 5s, electionTimeout: 5s}";

/// A cluster of three with two proxies and the operator.
struct Scene {
    proxies: Vec<Proxy>,
    operator: Option<Operator>,
    cluster: Cluster,
    manifest: Manifest,
    path: PathBuf,
    world: Arc<World>,
}

impl Scene {
    fn start(name: &str, change: impl FnOnce(Manifest) -> Manifest) -> Self {
        let world = Arc::new(World::new(name));
        let cluster = Cluster::builder(&world).replicas(2).start();
        cluster.master().sql("create role app login");
        SetTest::create(cluster.master());
        cluster.wait_caught_up();
        let manifest = Manifest::of(&cluster)
            .set("ha", HA)
            .set("durability", "{mode: Required, syncReplicas: 1}");
        let manifest = change(manifest);
        let path = manifest.write();
        let mut scene = Self {
            proxies: Vec::new(),
            operator: None,
            cluster,
            manifest,
            path,
            world,
        };
        scene.start_operator("operator");
        for name in ["proxy-1", "proxy-2"] {
            scene
                .proxies
                .push(Proxy::builder(&scene.world, &scene.path).named(name).start());
        }
        scene.wait_settled("the pool to open");
        if scene.manifest.text().contains("mode: Required") {
            wait_for("synchronous replication", LIMIT, || {
                let names = scene
                    .cluster
                    .master()
                    .try_value("show synchronous_standby_names")?;
                if names.is_empty() {
                    Err(scene.describe())
                } else {
                    Ok(())
                }
            });
        }
        scene
    }

    fn start_operator(&mut self, name: &str) {
        let script = self.cluster.restart_script();
        let script = script.to_string_lossy();
        let operator = Operator::builder(&self.world, &self.path).named(name);
        self.operator = Some(operator.restart_command(&script).rewind_command(&script).start());
    }

    fn status(&self) -> Status {
        Status::beside(&self.path)
    }

    fn describe(&self) -> String {
        let status = self.status();
        let log = self
            .operator
            .as_ref()
            .map(|o| o.process.log_tail(6))
            .unwrap_or_default();
        format!(
            "master {} epoch {} mode {} phase {} operation {}\n{log}",
            status.master(),
            status.epoch(),
            status.text("routing.mode"),
            status.text("phase"),
            status.text("operation")
        )
    }

    fn wait_settled(&self, what: &str) -> String {
        wait_for(what, LIMIT, || {
            let status = self.status();
            let settled = status.is_settled() && !status.master().is_empty();
            if settled {
                Ok(status.master())
            } else {
                Err(self.describe())
            }
        })
    }

    /// The first server that is not `name`.
    fn other_than(&self, name: &str) -> String {
        let other = self.cluster.servers().iter().find(|server| server.name != name);
        other.unwrap().name.clone()
    }

    /// Waits until another than `old` is master and the pool is open.
    fn wait_moved(&self, old: &str) -> String {
        wait_for("another master", LIMIT, || {
            let status = self.status();
            let moved = !status.master().is_empty()
                && status.master() != old
                && status.text("routing.mode") == "Open";
            if moved {
                Ok(status.master())
            } else {
                Err(self.describe())
            }
        })
    }

    fn server(&self, name: &str) -> &Server {
        self.cluster
            .servers()
            .iter()
            .find(|s| s.name == name)
            .expect("a server of the cluster")
    }

    fn load(&self, clients: usize) -> SetTest {
        let addresses: Vec<_> = self.proxies.iter().map(Proxy::tcp).collect();
        let load = SetTest::start(&addresses, "app", "postgres", clients);
        load.wait_progress(300, LIMIT);
        load
    }

    fn switch_to(&mut self, to: &str, request: &str) {
        self.manifest = self
            .manifest
            .clone()
            .set("switchover", &format!("{{to: {to}, requestId: {request}}}"));
        self.manifest.write();
    }

    /// Every server but the master streams from it, and exactly one is writable.
    fn wait_whole(&self) {
        wait_for("one master and two streaming replicas", LIMIT, || {
            let master = self.status().master();
            let writable: Vec<&str> = self
                .cluster
                .servers()
                .iter()
                .filter(|s| s.is_master())
                .map(|s| s.name.as_str())
                .collect();
            if writable != [master.as_str()] {
                return Err(format!("writable: {writable:?}\n{}", self.describe()));
            }
            let streaming = self
                .server(&master)
                .try_value("select count(*) from pg_stat_replication where state = 'streaming'")?;
            // Until the master's own set of synchronous replicas is confirmed, every set it was changed from counts in the next failover,
            // too, and one that just died may be in it.
            let status = self.status();
            let pending = status.value("sync.pending").is_some_and(|set| !set.is_null());
            let names = status
                .value("sync.confirmed.names")
                .map(ToString::to_string)
                .unwrap_or_default();
            if pending || names.contains(&format!("\"{master}\"")) {
                return Err(format!("synchronous replicas not settled\n{}", self.describe()));
            }
            if streaming == "2" {
                Ok(())
            } else {
                Err(format!("{streaming} stream\n{}", self.describe()))
            }
        });
    }
}

/// How many times longer a soak goes.
fn times(quick: usize, soak: usize) -> usize {
    if std::env::var_os("SOAK").is_some() {
        soak
    } else {
        quick
    }
}

#[test]
fn a_planned_switchover_under_load_is_not_noticed_by_any_client() {
    let mut scene = Scene::start("fo-switch", |m| m);
    let load = scene.load(12);
    for round in 0..times(3, 50) {
        let old = scene.status().master();
        let to = scene.other_than(&old);
        let errors = load.tally().errors.load(Ordering::Relaxed);
        load.tally().longest_us.store(0, Ordering::Relaxed);
        scene.switch_to(&to, &format!("r{round}"));
        assert_eq!(scene.wait_moved(&old), to);
        load.wait_progress(300, LIMIT);
        let longest = Duration::from_micros(load.tally().longest_us.load(Ordering::Relaxed));
        println!("switchover {round}: {old} to {to}, longest statement {longest:?}");
        assert_eq!(
            load.tally().errors.load(Ordering::Relaxed),
            errors,
            "{:?}",
            load.tally().codes.lock().unwrap()
        );
        scene.wait_whole();
        assert_eq!(scene.status().text("lastSwitchoverRequest"), format!("r{round}"));
    }
    let master = scene.status().master();
    let verdict = load.finish(scene.server(&master));
    assert!(
        verdict.is_clean() && verdict.unknown == 0 && verdict.errors.is_empty(),
        "{verdict:?}"
    );
}

#[test]
fn a_killed_master_is_replaced_without_losing_an_acknowledged_write_and_returns_as_a_replica() {
    let scene = Scene::start("fo-kill", |m| m);
    let load = scene.load(12);
    for round in 0..times(2, 30) {
        let old = scene.status().master();
        let epoch = scene.status().epoch();
        scene.server(&old).kill();
        let new = scene.wait_moved(&old);
        println!("round {round}: {old} killed, {new} promoted");
        load.wait_progress(300, LIMIT);
        assert!(scene.status().epoch() > epoch);
        scene.wait_whole();
    }
    let master = scene.status().master();
    let verdict = load.finish(scene.server(&master));
    println!(
        "{} acknowledged, {} unknown, errors {:?}",
        verdict.acknowledged, verdict.unknown, verdict.errors
    );
    assert!(verdict.is_clean(), "{verdict:?}");
    for error in verdict.errors.keys() {
        let known = ["08006", "57P01", "57P03", "08007"]
            .iter()
            .any(|code| error.starts_with(code));
        assert!(known, "an error that a failover must not give: {error}");
    }
    assert_eq!(scene.proxies.len(), 2);
}

#[test]
fn a_frozen_master_is_replaced_and_harmless_when_it_wakes() {
    let scene = Scene::start("fo-freeze", |m| m);
    let load = scene.load(8);
    let old = scene.status().master();
    scene.server(&old).freeze();
    let new = scene.wait_moved(&old);
    load.wait_progress(200, LIMIT);
    scene.server(&old).thaw();
    load.wait_progress(200, LIMIT);
    scene.wait_whole();
    assert_eq!(scene.status().master(), new);
    let verdict = load.finish(scene.server(&new));
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn a_master_that_its_supervisor_restarts_at_once_is_not_failed_over() {
    let scene = Scene::start("fo-restart", |m| m);
    let load = scene.load(6);
    let (old, epoch) = (scene.status().master(), scene.status().epoch());
    scene.server(&old).kill();
    std::thread::sleep(Duration::from_millis(300));
    scene.server(&old).start_nowait();
    load.wait_progress(300, LIMIT);
    scene.wait_settled("the pool to be open");
    assert_eq!(
        (scene.status().master(), scene.status().epoch()),
        (old.clone(), epoch),
        "{}",
        scene.describe()
    );
    let verdict = load.finish(scene.server(&old));
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn an_operator_killed_in_the_middle_of_a_failover_is_continued_by_the_next() {
    let mut scene = Scene::start("fo-operator", |m| m);
    let load = scene.load(6);
    for (round, pause) in [0_u64, 40, 120, 250, 500].into_iter().enumerate() {
        let old = scene.status().master();
        scene.server(&old).kill();
        wait_for("the failover to be declared", LIMIT, || {
            let status = scene.status();
            let begun = status.text("routing.mode") != "Open" || status.master() != old;
            if begun { Ok(()) } else { Err(scene.describe()) }
        });
        std::thread::sleep(Duration::from_millis(pause));
        scene.operator = None;
        std::thread::sleep(Duration::from_millis(200));
        scene.start_operator(&format!("operator-{round}"));
        let new = scene.wait_moved(&old);
        println!("round {round}: {old} to {new}, operator killed {pause} ms after it was declared");
        load.wait_progress(100, LIMIT);
        scene.wait_whole();
    }
    let master = scene.status().master();
    let verdict = load.finish(scene.server(&master));
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn without_ha_nothing_is_promoted() {
    let scene = Scene::start("fo-off", |m| m.without("ha").without("durability"));
    let old = scene.status().master();
    scene.cluster.master().kill();
    std::thread::sleep(Duration::from_secs(4));
    assert!(
        scene.cluster.servers()[1..].iter().all(Server::is_replica),
        "a replica was promoted"
    );
    assert_eq!(scene.status().master(), old);
    scene.cluster.master().start();
    wait_for("the pool to serve again", LIMIT, || {
        let mut client = scene.proxies[0]
            .try_connect("app", "postgres")
            .map_err(|e| e.to_string())?;
        client.query("select 1").map_err(|e| e.to_string())
    });
}

#[test]
fn a_dead_replica_changes_nothing_for_writers_and_streams_again_when_it_is_back() {
    let scene = Scene::start("fo-replica", |m| m);
    let load = scene.load(6);
    let (master, epoch) = (scene.status().master(), scene.status().epoch());
    let errors = load.tally().errors.load(Ordering::Relaxed);
    scene.cluster.server(2).kill();
    load.wait_progress(500, LIMIT);
    assert_eq!(scene.status().master(), master);
    assert_eq!(
        load.tally().errors.load(Ordering::Relaxed),
        errors,
        "{:?}",
        load.tally().codes.lock().unwrap()
    );
    if !scene.cluster.server(2).is_running() {
        scene.cluster.server(2).start();
    }
    scene.wait_whole();
    assert_eq!(scene.status().epoch(), epoch);
    assert!(load.finish(scene.server(&master)).is_clean());
}

#[test]
fn a_switchover_that_cannot_drain_aborts_and_hurts_nobody() {
    let mut scene = Scene::start("fo-abort", |m| m.set("timeouts", "{drain: 1s}"));
    let old = scene.status().master();
    let mut busy = scene.proxies[0].connect("app", "postgres");
    busy.query("begin").unwrap();
    busy.query("insert into set_test values (-1, -1)").unwrap();
    let load = scene.load(4);
    let to = scene.other_than(&old);
    scene.switch_to(&to, "blocked");
    wait_until("the request to be answered", LIMIT, || {
        scene.status().text("lastSwitchoverRequest") == "blocked"
    });
    assert_eq!(scene.wait_settled("the pool to be open"), old);
    busy.query("delete from set_test where n = -1").unwrap();
    assert_eq!(busy.execute("commit").unwrap(), "COMMIT");
    load.wait_progress(100, LIMIT);
    let verdict = load.finish(scene.server(&old));
    assert!(verdict.is_clean() && verdict.errors.is_empty(), "{verdict:?}");
}

#[test]
fn an_old_master_that_wrote_on_is_rewound_or_kept_out() {
    let scene = Scene::start("fo-zombie", |m| m.set("durability", "{mode: Async}"));
    let old = scene.status().master();
    scene.server(&old).freeze();
    let new = scene.wait_moved(&old);
    scene.proxies[0]
        .connect("app", "postgres")
        .query("insert into set_test values (1, 1)")
        .unwrap();
    scene.server(&old).thaw();
    // A direct client writes to the old master if it still can.
    if let Ok(mut direct) = scene.server(&old).try_connect("postgres") {
        let _ = direct.query("insert into set_test values (999, 999)");
    }
    wait_for("the old master to follow or to be kept out", LIMIT, || {
        let writable: Vec<&str> = scene
            .cluster
            .servers()
            .iter()
            .filter(|s| s.is_master())
            .map(|s| s.name.as_str())
            .collect();
        if writable == [new.as_str()] {
            Ok(())
        } else {
            Err(format!("writable: {writable:?}\n{}", scene.describe()))
        }
    });
    assert_eq!(
        scene
            .server(&new)
            .value("select count(*) from set_test where n = 999"),
        "0"
    );
    assert_eq!(
        scene
            .server(&new)
            .value("select count(*) from set_test where n = 1"),
        "1"
    );
}

#[test]
fn when_nobody_is_left_to_promote_the_pool_waits_and_opens_again_by_itself() {
    let scene = Scene::start("fo-blocked", |m| m.set("timeouts", "{queryWait: 2s}"));
    let old = scene.status().master();
    let load = scene.load(4);
    for server in scene.cluster.servers() {
        server.kill();
    }
    // The operator may start them again by its command: what counts is that all is well in the end.
    std::thread::sleep(Duration::from_secs(3));
    for server in scene.cluster.servers() {
        if !server.is_running() {
            server.start_nowait();
        }
    }
    let master = scene.wait_settled("the pool to open again");
    load.wait_progress(200, LIMIT);
    scene.wait_whole();
    println!("{old} before, {master} after");
    let verdict = load.finish(scene.server(&scene.status().master()));
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn the_manifest_applied_again_after_a_failover_changes_nothing() {
    let scene = Scene::start("fo-again", |m| m);
    let old = scene.status().master();
    scene.server(&old).kill();
    let new = scene.wait_moved(&old);
    scene.wait_whole();
    let epoch = scene.status().epoch();
    scene.manifest.write();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((scene.status().master(), scene.status().epoch()), (new, epoch));
    let restarted = Proxy::builder(&scene.world, &scene.path).named("proxy-3").start();
    restarted
        .connect("app", "postgres")
        .query("insert into set_test values (1, 1)")
        .unwrap();
}

#[test]
fn a_master_without_a_free_connection_is_not_taken_for_dead() {
    let scene = Scene::start("fo-full", |m| m);
    let (old, epoch) = (scene.status().master(), scene.status().epoch());
    let mut hogs: Vec<Connection> = Vec::new();
    for _ in 0..400 {
        match Connection::open(&scene.server(&old).tcp(), "app", "postgres") {
            Ok(hog) => hogs.push(hog),
            Err(_) => break,
        }
    }
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!((scene.status().master(), scene.status().epoch()), (old, epoch));
    drop(hogs);
}

#[test]
fn statements_are_held_and_not_failed_while_the_pool_is_paused() {
    let mut scene = Scene::start("fo-held", |m| m);
    let old = scene.status().master();
    let to = scene.other_than(&old);
    let mut clients: Vec<Connection> = (0..20)
        .map(|n| scene.proxies[n % 2].connect("app", "postgres"))
        .collect();
    scene.switch_to(&to, "held");
    for round in 0..60 {
        for (n, client) in clients.iter_mut().enumerate() {
            client
                .send(&encode::query(
                    format!("insert into set_test values ({}, 0)", round * 100 + n).as_bytes(),
                ))
                .unwrap();
        }
        for client in &mut clients {
            client.collect().expect("held, not failed");
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(scene.wait_moved(&old), to);
    assert_eq!(scene.server(&to).value("select count(*) from set_test"), "1200");
}

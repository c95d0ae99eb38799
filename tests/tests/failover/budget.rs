//! The connections of a server while proxies come and go.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use pgstmtpool_tests::{Proxy, wait_for};

use super::{LIMIT, Scene};

/// For all proxies together.
const ALL: u32 = 12;
const CLIENTS: usize = 8;

/// How many connections clients have on the master through all proxies.
fn in_use(scene: &Scene) -> u32 {
    let count =
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and usename = 'app'";
    scene.cluster.master().value(count).parse().unwrap()
}

fn wait_shares(scene: &Scene, of: usize) {
    wait_for(&format!("{of} shares of one {of}th"), LIMIT, || {
        let status = scene.status();
        let shares = status
            .value("budget.shares")
            .and_then(|all| all.as_object().cloned());
        let shares = shares.unwrap_or_default();
        let even = shares
            .values()
            .all(|share| share["parts"] == 1 && share["of"] == of);
        // None has more than its share any more, either.
        let acknowledged = status.value("budget.held").is_none();
        if shares.len() == of && even && acknowledged {
            Ok(())
        } else {
            Err(status.text("budget"))
        }
    });
}

#[test]
fn the_connections_of_a_server_are_never_exceeded_while_proxies_come_and_go() {
    let mut scene = Scene::start("fo-budget", |m| {
        m.set("durability", "{mode: Async}")
            .set("workers", "{minByClients: [1], max: 100}")
            .set("budget", &format!("{{perServer: {ALL}}}"))
    });
    wait_shares(&scene, 2);
    let (done, most) = (AtomicBool::new(false), AtomicU32::new(0));
    // A burst that wants more than there are, then now and then one of its own.
    let client = |proxy: &Proxy| {
        let mut client = proxy.connect("app", "postgres");
        let done = &done;
        move || {
            client.query("select pg_sleep(1)").unwrap();
            while !done.load(Relaxed) {
                client.query("begin").unwrap();
                client.query("select pg_sleep(0.01)").unwrap();
                client.query("commit").unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        for proxy in &scene.proxies {
            (0..CLIENTS).for_each(|_| drop(scope.spawn(client(proxy))));
        }
        wait_for("both to use what they may", LIMIT, || match in_use(&scene) {
            ALL => Ok(()),
            used => Err(format!("{used} of {ALL}")),
        });
        let third = Proxy::builder(&scene.world, &scene.path).named("proxy-3").start();
        let watch = scope.spawn(|| {
            while !done.load(Relaxed) {
                let mut used = in_use(&scene);
                if used > ALL + 1 {
                    // The server takes a moment to end what was closed.
                    std::thread::sleep(Duration::from_millis(300));
                    used = used.min(in_use(&scene));
                }
                most.fetch_max(used, Relaxed);
            }
        });
        let its_own: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client(&third))).collect();
        wait_shares(&scene, 3);
        std::thread::sleep(Duration::from_secs(2));
        done.store(true, Relaxed);
        watch.join().unwrap();
        its_own.into_iter().for_each(|client| client.join().unwrap());
        drop(third);
        wait_shares(&scene, 2);
    });
    scene.proxies.clear();
    let most = most.load(Relaxed);
    // One that has just begun has one, out of those reserved, until it has its share.
    assert!(most <= ALL + 1, "{most} of {ALL}");
    assert!(most > ALL / 2, "only {most} were ever used: it proves nothing");
}

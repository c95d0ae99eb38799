//! A cancel hits the statement it is meant for, or nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Address, Connection, encode};
use pgstmtpool_tests::{Proxy, Random, Stage, wait_for};

fn stage(name: &str) -> Stage {
    Stage::start(name, |m| {
        m.set("workers", "{minByClients: [2], clientsPerWorker: 100, max: 6}")
    })
}

/// Waits until exactly this text runs at the server.
fn wait_running(stage: &Stage, text: &str) {
    let sql = format!("select count(*) from pg_stat_activity where state = 'active' and query = '{text}'");
    wait_for(&format!("{text} to run"), Duration::from_secs(10), || {
        let count = stage.direct(&sql);
        if count == "0" {
            Err("not yet".to_owned())
        } else {
            Ok(())
        }
    });
}

#[test]
fn a_running_statement_is_cancelled_at_once_and_the_session_goes_on() {
    let stage = stage("cancel-one");
    let mut client = stage.client();
    for n in 0..5 {
        let text = format!("select pg_sleep(2{n})");
        client.send(&encode::query(text.as_bytes())).unwrap();
        wait_running(&stage, &text);
        let started = Instant::now();
        client.cancel(&stage.proxy.tcp()).unwrap();
        assert_eq!(client.collect().unwrap_err().code(), "57014");
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(client.value("select 1").unwrap(), "1");
    }
}

#[test]
fn a_cancel_of_a_statement_in_a_transaction_fails_that_transaction_only() {
    let stage = stage("cancel-tx");
    let (mut client, mut other) = (stage.client(), stage.client());
    client.query("begin").unwrap();
    other.query("begin").unwrap();
    client.send(&encode::query(b"select pg_sleep(31)")).unwrap();
    wait_running(&stage, "select pg_sleep(31)");
    client.cancel(&stage.proxy.tcp()).unwrap();
    assert_eq!(client.collect().unwrap_err().code(), "57014");
    assert_eq!(client.status, b'E');
    assert_eq!(client.execute("commit").unwrap(), "ROLLBACK");
    assert_eq!(other.value("select 1").unwrap(), "1");
    assert_eq!(other.execute("commit").unwrap(), "COMMIT");
}

#[test]
fn every_client_has_a_key_of_its_own_and_a_wrong_one_does_nothing() {
    let stage = stage("cancel-keys");
    let clients: Vec<Connection> = (0..20).map(|_| stage.client()).collect();
    let keys: std::collections::BTreeSet<_> = clients.iter().map(|c| (c.process_id, c.key.clone())).collect();
    assert_eq!(keys.len(), 20);

    let mut victim = stage.client();
    victim.send(&encode::query(b"select pg_sleep(0.7)")).unwrap();
    wait_running(&stage, "select pg_sleep(0.7)");
    let mut wrong = victim.key.clone();
    wrong[0] ^= 1;
    for key in [wrong, Vec::new(), vec![0; 4], vec![7; 256]] {
        let mut attacker = Connection::dial(&stage.proxy.tcp()).unwrap();
        attacker.send(&encode::cancel(victim.process_id, &key)).unwrap();
        let _ = attacker.read_to_close();
    }
    victim.collect().expect("a wrong key must not cancel");
}

#[test]
fn a_cancel_while_idle_hits_nothing_that_comes_later() {
    let stage = stage("cancel-idle");
    let mut client = stage.client();
    for n in 0..50 {
        client.cancel(&stage.proxy.tcp()).unwrap();
        assert_eq!(client.value(&format!("select {n}")).unwrap(), n.to_string());
    }
}

#[test]
fn a_queued_statement_is_cancelled_where_it_stands() {
    let stage = Stage::start("cancel-queued", |m| {
        m.set("workers", "{minByClients: [1], max: 1}")
    });
    let (mut running, mut queued) = (stage.client(), stage.client());
    running.send(&encode::query(b"select pg_sleep(1.5)")).unwrap();
    wait_running(&stage, "select pg_sleep(1.5)");
    queued.send(&encode::query(b"select pg_sleep(0.1)")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    queued.cancel(&stage.proxy.tcp()).unwrap();
    assert_eq!(queued.collect().unwrap_err().code(), "57014");
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    running
        .collect()
        .expect("the running statement is not the one that was cancelled");
}

/// The storm: victims are cancelled again and again while neighbours run short statements on the same few workers.
#[test]
fn no_neighbour_is_ever_hit_in_a_storm_of_cancels() {
    let stage = Stage::start("cancel-storm", |m| {
        m.set("workers", "{minByClients: [2], clientsPerWorker: 100, max: 3}")
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (served, hits) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let neighbours: Vec<_> = (0..8)
        .map(|n| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            let mut client = stage.client();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let sql = if n % 2 == 0 {
                        "select 1"
                    } else {
                        "select count(*) from generate_series(1, 300)"
                    };
                    client.query(sql).expect("a neighbour was hit");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let victims: Vec<_> = (0..3)
        .map(|n| victim(stage.proxy.tcp(), n, Arc::clone(&stop), Arc::clone(&hits)))
        .collect();
    std::thread::sleep(Duration::from_secs(6));
    stop.store(true, Ordering::Relaxed);
    victims
        .into_iter()
        .for_each(|t| t.join().expect("a victim failed otherwise than by 57014"));
    neighbours
        .into_iter()
        .for_each(|t| t.join().expect("no neighbour may see an error"));
    println!(
        "{} served, {} hits",
        served.load(Ordering::Relaxed),
        hits.load(Ordering::Relaxed)
    );
    assert!(
        served.load(Ordering::Relaxed) > 200,
        "the neighbours must have been served"
    );
    assert!(
        hits.load(Ordering::Relaxed) > 10,
        "some cancels must have hit their target"
    );
}

fn victim(
    address: Address,
    n: u64,
    stop: Arc<AtomicBool>,
    hits: Arc<AtomicU64>,
) -> std::thread::JoinHandle<()> {
    let mut client = Connection::open(&address, "app", "app").unwrap();
    std::thread::spawn(move || {
        let mut random = Random::seeded(n + 1);
        while !stop.load(Ordering::Relaxed) {
            let sql: &[u8] = if n == 0 {
                b"select pg_sleep(0.02)"
            } else {
                b"select count(*) from generate_series(1, 20000)"
            };
            client.send(&encode::query(sql)).unwrap();
            std::thread::sleep(Duration::from_millis(random.below(25)));
            client.cancel(&address).unwrap();
            match client.collect() {
                Ok(_) => {}
                Err(error) if error.code() == "57014" => {
                    hits.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
}

#[test]
fn a_cancel_that_reaches_another_proxy_is_forwarded() {
    let stage = stage("cancel-peers");
    let second = Proxy::builder(&stage.world, &stage.path).named("proxy-2").start();
    let mut client = stage.client();
    client.send(&encode::query(b"select pg_sleep(33)")).unwrap();
    wait_running(&stage, "select pg_sleep(33)");
    client.cancel(&second.tcp()).unwrap();
    assert_eq!(client.collect().unwrap_err().code(), "57014");
    let mut other = second.connect("app", "app");
    other.send(&encode::query(b"select pg_sleep(34)")).unwrap();
    wait_running(&stage, "select pg_sleep(34)");
    other.cancel(&stage.proxy.tcp()).unwrap();
    assert_eq!(other.collect().unwrap_err().code(), "57014");
}

/// The cancel's own connection may end after the error has come: until then the worker is not offered.
#[test]
fn who_was_cancelled_and_says_nothing_more_holds_no_worker() {
    let stage = Stage::start("cancel-idle", |m| m.set("workers", "{minByClients: [1], max: 1}"));
    let (mut cancelled, mut other) = (stage.client(), stage.client());
    other.set_timeout(Duration::from_secs(5));
    for round in 0..20 {
        cancelled.send(&encode::query(b"select pg_sleep(30)")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        cancelled.cancel(&stage.proxy.tcp()).unwrap();
        assert_eq!(cancelled.collect().unwrap_err().code(), "57014");
        assert_eq!(other.value("select 1").unwrap(), "1", "round {round}");
    }
}

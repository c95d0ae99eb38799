//! Sizes and times: how many workers, who waits how long, who is told what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{Stage, wait_for};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn workers_are_sized_by_the_number_of_clients_without_a_plateau() {
    let workers = "{minByClients: [1, 1, 2, 2, 2, 2, 3, 3, 3, 3], clientsPerWorker: 10, max: 20}";
    let stage = Stage::start("limits-sizing", |m| m.set("workers", workers));
    let mut clients: Vec<Connection> = Vec::new();
    for (count, expected) in [
        (1, 1),
        (2, 1),
        (3, 2),
        (6, 2),
        (7, 3),
        (10, 3),
        (11, 4),
        (20, 4),
        (21, 5),
        (30, 5),
        (31, 6),
    ] {
        while clients.len() < count {
            let mut client = stage.client();
            client.query("select 1").unwrap();
            clients.push(client);
        }
        wait_for(
            &format!("{expected} workers for {count} clients"),
            10 * SECOND,
            || {
                let seen = stage.servers_of_app();
                // So many are kept open at least; a burst, and the proxy's own look-ups, may have started a few more.
                if (expected..=expected + 3).contains(&seen) {
                    Ok(())
                } else {
                    Err(format!("{seen} workers"))
                }
            },
        );
    }
}

#[test]
fn never_more_workers_than_max_and_never_more_than_max_clients_served_at_once() {
    let stage = Stage::start("limits-max", |m| m.set("workers", "{minByClients: [1], max: 4}"));
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = stage.client();
                for _ in 0..10 {
                    client.query("select pg_sleep(0.02)").unwrap();
                }
            });
        }
        for _ in 0..20 {
            let seen = stage.servers_of_app();
            assert!(seen <= 4, "{seen} servers");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn with_one_worker_a_second_client_works_while_the_first_is_in_a_transaction() {
    let stage = Stage::start("limits-lease", |m| {
        m.set("workers", "{minByClients: [1, 1], max: 3}")
    });
    let (mut first, mut second) = (stage.client(), stage.client());
    first.query("begin").unwrap();
    first.query("create table t (n int)").unwrap();
    let started = Instant::now();
    assert_eq!(second.value("select 1").unwrap(), "1");
    assert!(started.elapsed() < 2 * SECOND);
    first.query("commit").unwrap();
}

#[test]
fn waiting_too_long_for_a_worker_is_53300_and_the_session_stays() {
    let stage = Stage::start("limits-wait", |m| {
        m.set("workers", "{minByClients: [1], max: 1}")
            .set("timeouts.queryWait", "1500ms")
    });
    let (mut holder, mut waiter) = (stage.client(), stage.client());
    holder.query("begin").unwrap();
    holder.query("create table t (n int)").unwrap();
    let started = Instant::now();
    let error = waiter.query("select 1").unwrap_err();
    assert_eq!(error.code(), "53300", "{error}");
    assert!(
        started.elapsed() > Duration::from_millis(1300) && started.elapsed() < 5 * SECOND,
        "{:?}",
        started.elapsed()
    );
    holder.query("commit").unwrap();
    assert_eq!(waiter.value("select 2").unwrap(), "2");
}

#[test]
fn waiting_is_first_come_first_served() {
    let stage = Stage::start("limits-fair", |m| m.set("workers", "{minByClients: [1], max: 1}"));
    let mut holder = stage.client();
    holder.query("begin").unwrap();
    holder.query("create table t (n serial, who int)").unwrap();
    let mut waiters: Vec<Connection> = (0..8).map(|_| stage.client()).collect();
    for (n, waiter) in waiters.iter_mut().enumerate() {
        waiter
            .send(&encode::query(
                format!("insert into t (who) values ({n})").as_bytes(),
            ))
            .unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    holder.query("commit").unwrap();
    for waiter in &mut waiters {
        waiter.collect().unwrap();
    }
    assert_eq!(
        stage.direct("select string_agg(who::text, ',' order by n) from t"),
        "0,1,2,3,4,5,6,7"
    );
}

#[test]
fn too_many_clients_is_a_fatal_53300_and_room_is_made_when_one_leaves() {
    let stage = Stage::start("limits-clients", |m| m.set("limits.maxClients", "3"));
    let mut clients: Vec<Connection> = (0..3).map(|_| stage.client()).collect();
    let error = stage.proxy.try_connect("app", "app").unwrap_err();
    assert_eq!(error.code(), "53300", "{error}");
    assert_eq!(clients[0].value("select 1").unwrap(), "1");
    clients.pop();
    wait_for("a place to be free", 5 * SECOND, || {
        stage.proxy.try_connect("app", "app").map_err(|e| e.to_string())
    });
}

#[test]
fn clients_are_limited_by_user_and_by_database_too() {
    let stage = Stage::start("limits-user", |m| {
        m.set("limits", "{maxClientsPerUser: 2, maxClientsPerDatabase: 3}")
    });
    stage.direct("create role second login");
    let _one = stage.client();
    let _two = stage.client();
    assert_eq!(stage.proxy.try_connect("app", "app").unwrap_err().code(), "53300");
    let _three = stage.proxy.connect("second", "app");
    assert_eq!(
        stage.proxy.try_connect("second", "app").unwrap_err().code(),
        "53300"
    );
    drop(stage.proxy.connect("second", "postgres"));
}

#[test]
fn a_statement_over_the_time_limit_is_57014_and_the_session_stays() {
    let stage = Stage::start("limits-query", |m| m.set("timeouts.query", "300ms"));
    let mut client = stage.client();
    let started = Instant::now();
    assert_eq!(client.query("select pg_sleep(20)").unwrap_err().code(), "57014");
    assert!(started.elapsed() < 3 * SECOND);
    assert_eq!(client.value("select 1").unwrap(), "1");
}

#[test]
fn idle_in_a_transaction_for_too_long_is_a_fatal_25p03_and_rolled_back() {
    let stage = Stage::start("limits-idle-tx", |m| m.set("timeouts.idleInTransaction", "300ms"));
    let mut client = stage.client();
    client.query("begin").unwrap();
    client.query("create table t (n int)").unwrap();
    let (error, _) = client.read_to_close().unwrap();
    assert_eq!(error.unwrap().code(), "25P03");
    stage.wait_servers_clean(5 * SECOND);
    assert_eq!(stage.direct("select to_regclass('t') is null"), "t");
}

#[test]
fn an_idle_client_is_closed_with_57p05_where_that_is_asked_for() {
    let stage = Stage::start("limits-idle", |m| m.set("timeouts.clientIdle", "300ms"));
    let mut client = stage.client();
    client.query("select 1").unwrap();
    let (error, taken) = client.read_to_close().unwrap();
    assert_eq!(error.unwrap().code(), "57P05");
    assert!(taken < 3 * SECOND);
}

#[test]
fn who_does_not_log_in_in_time_is_closed() {
    let stage = Stage::start("limits-login", |m| m.set("timeouts.login", "500ms"));
    let mut silent = Connection::dial(&stage.proxy.tcp()).unwrap();
    let (_, taken) = silent.read_to_close().unwrap();
    assert!(taken < 3 * SECOND, "{taken:?}");
}

#[test]
fn idle_workers_are_closed_after_their_time() {
    let workers = "{minByClients: [1], max: 6, idleTimeout: 1s}";
    let stage = Stage::start("limits-worker-idle", |m| m.set("workers", workers));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| stage.client().query("select pg_sleep(0.3)").unwrap());
        }
    });
    assert!(stage.servers_of_app() > 1);
    wait_for("idle workers to be closed", 15 * SECOND, || {
        match stage.servers_of_app() {
            0 | 1 => Ok(()),
            more => Err(format!("{more} workers")),
        }
    });
}

#[test]
fn a_worker_is_replaced_at_the_end_of_its_life() {
    let stage = Stage::start("limits-life", |m| {
        m.set("workers", "{minByClients: [1], max: 2, lifetime: 1s}")
    });
    let mut client = stage.client();
    let first = client.value("select pg_backend_pid()").unwrap();
    wait_for("another worker", 10 * SECOND, || {
        let now = client.value("select pg_backend_pid()").unwrap();
        if now == first { Err(now) } else { Ok(()) }
    });
}

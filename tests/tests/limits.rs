//! Sizes and times: how many workers, who waits how long, who is told what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Connection, DbError, encode};
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

#[test]
fn idle_clients_are_exempt_by_user_database_application_and_address_and_told_why_they_go() {
    let mut stage = Stage::start("limits-exempt", |m| {
        m.set("timeouts.clientIdle", "400ms").set(
            "idleExemptions",
            "[{user: kept}, {database: postgres}, {applicationName: batch}, {user: app, address: 10.0.0.0/8}]",
        )
    });
    stage.direct("create role kept login");
    let open = |user: &str, database: &str, name: &str| {
        let parameters = [("user", user), ("database", database), ("application_name", name)];
        Connection::open_with(&stage.proxy.tcp(), &parameters, None).unwrap()
    };
    let mut exempt = [
        open("kept", "app", ""),
        open("app", "postgres", ""),
        open("app", "app", "batch"),
    ];
    let mut renamed = open("app", "app", "");
    renamed.query("set application_name = 'batch'").unwrap();
    let mut plain = open("app", "app", "other");
    plain.query("select 1").unwrap();
    let mut notice = None;
    let error = loop {
        let frame = plain.read().unwrap();
        match frame.tag {
            b'N' => notice = Some(DbError::decode(&frame.body)),
            b'E' => break DbError::decode(&frame.body),
            tag => panic!("{tag}"),
        }
    };
    assert_eq!(error.code(), "57P05");
    assert!(error.field('D').contains("clientIdle"), "{error:?}");
    assert_eq!(notice.expect("a notice first").code(), "57P05");
    std::thread::sleep(Duration::from_millis(600));
    for client in exempt.iter_mut().chain([&mut renamed]) {
        assert_eq!(client.value("select 1").unwrap(), "1");
    }
    // Rules are followed by clients that are here already.
    stage.change(|m| m.set("idleExemptions", "[]"));
    for client in &mut exempt {
        let (error, _) = client.read_to_close().unwrap();
        assert_eq!(error.unwrap().code(), "57P05");
    }
}

#[test]
fn the_extended_protocol_has_the_same_idle_time_as_the_simple_one() {
    let stage = Stage::start("limits-idle-extended", |m| m.set("timeouts.clientIdle", "300ms"));
    let mut client = stage.client();
    let batch = [
        encode::parse(b"", b"select 1", &[]),
        encode::bind(b"", b"", &[], &[], &[]),
        encode::execute(b"", 0),
        encode::sync(),
    ];
    client.send(&batch.concat()).unwrap();
    client.collect().unwrap();
    let (error, _) = client.read_to_close().unwrap();
    assert_eq!(error.unwrap().code(), "57P05");
}

#[test]
fn rules_give_single_clients_limits_and_timeouts_of_their_own() {
    let stage = Stage::start("limits-rules", |m| {
        m.set(
            "clientRules",
            "[{applicationName: report, timeouts: {query: 300ms}, limits: {maxClients: 1}}, \
              {address: 127.0.0.0/8, database: app, limits: {maxQuerySize: 1KiB}}]",
        )
    });
    let open = |name: &str| {
        let parameters = [("user", "app"), ("database", "app"), ("application_name", name)];
        Connection::open_with(&stage.proxy.tcp(), &parameters, None)
    };
    let mut report = open("report").unwrap();
    assert_eq!(report.query("select pg_sleep(5)").unwrap_err().code(), "57014");
    assert_eq!(
        open("report").unwrap_err().code(),
        "53300",
        "one of these at a time"
    );
    let mut other = open("other").unwrap();
    other.query("select pg_sleep(0.5)").unwrap();
    let long = format!("select '{}'", "x".repeat(2000));
    assert_eq!(other.query(&long).unwrap_err().code(), "54000");
    assert!(
        report.query(&long).is_ok(),
        "the first rule that matches counts alone"
    );
    // A client that takes another name has other limits from then on.
    other.query("set application_name = 'report'").unwrap();
    assert_eq!(other.query("select pg_sleep(5)").unwrap_err().code(), "57014");
    drop(report);
    wait_for("a place", 5 * SECOND, || {
        open("report").map_err(|e| e.to_string())
    });
}

#[test]
fn timeouts_and_limits_are_set_by_database_and_by_user() {
    let stage = Stage::start("limits-by", |m| {
        m.set(
            "databases",
            "[{name: app, timeouts: {query: 300ms}, limits: {maxClients: 2}, users: [{name: slow, timeouts: {query: 0s}}]}]",
        )
        .set("users", "[{name: app, timeouts: {transaction: 400ms}}]")
    });
    stage.direct("create role slow login");
    let mut app = stage.client();
    assert_eq!(app.query("select pg_sleep(5)").unwrap_err().code(), "57014");
    let mut slow = stage.proxy.connect("slow", "app");
    slow.query("select pg_sleep(0.6)").unwrap();
    assert_eq!(
        stage.proxy.try_connect("app", "app").unwrap_err().code(),
        "53300",
        "two clients of this database"
    );
    drop(stage.proxy.connect("app", "postgres"));
    app.query("begin").unwrap();
    app.query("select 1").unwrap();
    let (error, _) = app.read_to_close().unwrap();
    assert_eq!(error.unwrap().code(), "25P04", "the user's transaction timeout");
}

#[test]
fn workers_are_limited_by_database_and_by_user_over_all_their_pools() {
    let stage = Stage::start("limits-total", |m| {
        m.set("workers", "{minByClients: [1], max: 4, maxPerDatabase: 2}")
            .set("timeouts.queryWait", "4s")
            .set("users", "[{name: app, workers: {maxTotal: 1}}]")
    });
    stage.direct("create role second login; create role third login");
    let hold = |user: &str, database: &str| {
        let mut client = stage.proxy.try_connect(user, database)?;
        client.query("begin")?;
        client.query("select pg_backend_pid()").map(|_| client)
    };
    let _one = hold("second", "app").unwrap();
    let _two = hold("third", "app").unwrap();
    assert_eq!(
        hold("app", "app").unwrap_err().code(),
        "53300",
        "two workers in this database"
    );
    let _three = hold("app", "postgres").unwrap();
    assert_eq!(
        hold("app", "template1").unwrap_err().code(),
        "53300",
        "one worker of this user"
    );
    let _four = hold("second", "postgres").unwrap();
}

#[test]
fn the_reserve_opens_for_those_who_waited_too_long_and_closes_again() {
    let stage = Stage::start("limits-reserve", |m| {
        m.set(
            "workers",
            "{minByClients: [1], max: 1, reserve: 1, reserveAfter: 700ms, idleTimeout: 1s}",
        )
    });
    let (mut holder, mut waiter) = (stage.client(), stage.client());
    holder.query("begin").unwrap();
    holder.query("create table t (n int)").unwrap();
    let started = Instant::now();
    assert_eq!(waiter.value("select 1").unwrap(), "1");
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_millis(600) && waited < 5 * SECOND,
        "{waited:?}"
    );
    holder.query("commit").unwrap();
    wait_for("the reserve to be closed", 10 * SECOND, || {
        match stage.servers_of_app() {
            1 => Ok(()),
            more => Err(more.to_string()),
        }
    });
}

#[test]
fn a_database_may_have_another_name_on_the_servers() {
    let stage = Stage::start("limits-name", |m| {
        m.set("databases", "[{name: shop, serverName: app}]")
    });
    let mut client = stage.proxy.connect("app", "shop");
    assert_eq!(client.value("select current_database()").unwrap(), "app");
    client.query("listen c").unwrap();
    stage.direct("notify c, 'here'");
    assert_eq!(client.read().unwrap().tag, b'A');
}

#[test]
fn a_client_that_sends_without_end_does_not_keep_others_waiting() {
    let stage = Stage::with(
        "limits-turn",
        |cluster| cluster,
        |m| m.set("workers", "{minByClients: [4], max: 6}"),
        |proxy| proxy.arg("--threads").arg("1"),
    );
    stage.direct("create unlogged table sink (t text); grant all on sink to app");
    let mut others: Vec<Connection> = (0..3).map(|_| stage.client()).collect();
    for other in &mut others {
        other.query("select 1").unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut flood = stage.client();
            flood.send(&encode::query(b"copy sink from stdin")).unwrap();
            let data = encode::frame(b'd', &b"x\n".repeat(30_000));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                flood.send(&data).unwrap();
            }
        });
        let mut slowest = Duration::ZERO;
        for _ in 0..60 {
            for other in &mut others {
                let started = Instant::now();
                other.query("select 1").unwrap();
                slowest = slowest.max(started.elapsed());
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(slowest < 2 * SECOND, "a neighbour waited {slowest:?}");
    });
}

#[test]
fn a_statement_over_the_size_limit_is_54000_wherever_it_stands_and_the_session_stays() {
    let stage = Stage::start("limits-size", |m| m.set("limits.maxQuerySize", "512KiB"));
    let mut client = stage.client();
    let text = format!("select length('{}')", "x".repeat(600_000));
    let run = |text: &str| {
        [
            encode::parse(b"", text.as_bytes(), &[]),
            encode::bind(b"", b"", &[], &[], &[]),
            encode::execute(b"", 0),
        ]
        .concat()
    };
    let sync = encode::sync();
    let small = run("select 'small'");
    let refused = |client: &mut Connection, what: &str| {
        let error = client.collect().unwrap_err();
        assert_eq!(error.code(), "54000", "{what}: {error}");
    };
    client.send(&[run(&text), sync.clone()].concat()).unwrap();
    refused(&mut client, "alone");
    client
        .send(&[small.clone(), run(&text), sync.clone()].concat())
        .unwrap();
    refused(&mut client, "behind another in its batch");
    client
        .send(
            &[
                small.clone(),
                sync.clone(),
                run(&text),
                sync.clone(),
                small,
                sync.clone(),
            ]
            .concat(),
        )
        .unwrap();
    assert_eq!(client.collect().unwrap().0[0][0].as_deref(), Some("small"));
    refused(&mut client, "in a pipeline");
    assert_eq!(client.collect().unwrap().0[0][0].as_deref(), Some("small"));
    client.query("begin").unwrap();
    client.query("select 1").unwrap();
    client.send(&[run(&text), sync].concat()).unwrap();
    refused(&mut client, "in a transaction");
    assert_eq!(client.query("select 1").unwrap_err().code(), "25P02");
    client.query("rollback").unwrap();
    client.send(&encode::query(text.as_bytes())).unwrap();
    refused(&mut client, "as a Query");
    assert_eq!(client.value("select 'after'").unwrap(), "after");
}

#[test]
fn who_leaves_while_it_waits_gives_its_place_up_at_once() {
    let stage = Stage::start("limits-leave", |m| {
        m.set("workers", "{minByClients: [1], max: 1}")
            .set("timeouts.queryWait", "60s")
    });
    let mut holder = stage.client();
    let write = encode::query(b"create table never (n int)");
    let batch = [
        encode::parse(b"", b"select 1", &[]),
        encode::bind(b"", b"", &[], &[], &[]),
        encode::execute(b"", 0),
        encode::sync(),
    ];
    let mut waiters: Vec<Connection> = (0..4).map(|_| stage.client()).collect();
    holder.query("begin").unwrap();
    holder.query("create table t (n int)").unwrap();
    for (waiter, text) in
        waiters
            .iter_mut()
            .zip([&encode::query(b"select 1"), &write, &batch.concat(), &write])
    {
        waiter.send(text).unwrap();
    }
    let waiting = |expected: &str| {
        wait_for(&format!("{expected} in the queue"), 5 * SECOND, || {
            let rows = stage.proxy.pseudo("show clients");
            let count = rows
                .iter()
                .filter(|row| row.iter().flatten().any(|cell| cell == "waiting"))
                .count();
            if count.to_string() == expected {
                Ok(())
            } else {
                Err(format!("{count}"))
            }
        });
    };
    waiting("4");
    let last = waiters.pop();
    drop(waiters);
    waiting("1");
    drop(last);
    waiting("0");
    holder.query("commit").unwrap();
    assert_eq!(holder.value("select to_regclass('never') is null").unwrap(), "t");
}

#[test]
fn reads_and_writes_are_served_in_turn_however_many_of_the_others_wait() {
    let stage = Stage::start("limits-turns", |m| {
        m.set("workers", "{minByClients: [2], max: 2}")
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let write = "do $$ begin perform pg_sleep(0.01); end $$";
    let read = "select count(*) from pg_class";
    for (many, one) in [(write, read), (read, write)] {
        std::thread::scope(|scope| {
            let until = Instant::now() + 4 * SECOND;
            for _ in 0..12 {
                let mut client = stage.client();
                scope.spawn(move || {
                    while Instant::now() < until && !stopped() {
                        client.query(many).unwrap();
                    }
                });
            }
            let mut client = stage.client();
            while Instant::now() < until - SECOND {
                let started = Instant::now();
                client.query(one).unwrap();
                let took = started.elapsed();
                if took > 2 * SECOND {
                    stop.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                assert!(took < 2 * SECOND, "{one} beside many of {many}: {took:?}");
            }
        });
    }
}

//! What the pools inside applications send when they open a connection, ask whether it lives, and take it back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgstmtpool_tests::wire::{Connection, WireError, encode};
use pgstmtpool_tests::{Stage, wait_until};

/// Sent by pools around their users' work, in a Query.
const HABITS: &[(&str, &str)] = &[
    (
        "asyncpg, release",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
    ),
    (
        "Npgsql, close with prepared statements",
        "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP",
    ),
    ("Npgsql, close", "DISCARD ALL"),
    (
        "psycopg2, reset()",
        "ABORT; RESET ALL; SET SESSION AUTHORIZATION DEFAULT",
    ),
    (
        "Sequelize, open",
        "SET standard_conforming_strings=on;SET client_min_messages TO warning;SET TIME ZONE INTERVAL '+00:00' HOUR TO MINUTE",
    ),
    ("ActiveRecord, open", "SET standard_conforming_strings = on"),
    ("ActiveRecord, reset!", "DISCARD ALL"),
    ("pgjdbc, isolation", "SHOW TRANSACTION ISOLATION LEVEL"),
    (
        "HikariCP, isolation",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ),
    (
        "HikariCP, read-only",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ),
    ("Flyway", "SELECT set_config('search_path', 'public', false)"),
    ("PgBouncer users, server_reset_query", "DISCARD ALL"),
];

/// How pools ask whether a connection lives, in a Query.
const PINGS: &[&str] = &[
    "",
    ";",
    "-- ping",
    "/* ping */ SELECT 1",
    "SELECT 1",
    "SELECT NULL",
    "select 1;",
];

/// Where SHOW SERVERS says how many requests a worker has had.
const REQUESTS: usize = 8;

/// The one server connection of this stage would be kept by the first client that pins it.
fn one_worker(name: &str) -> Stage {
    Stage::start(name, |m| {
        m.set("workers", "{minByClients: [1], clientsPerWorker: 100, max: 1}")
            .set("timeouts.queryWait", "10s")
    })
}

#[test]
fn what_pools_send_around_their_users_work_pins_nothing() {
    let stage = one_worker("habits");
    let mut clients: Vec<Connection> = HABITS.iter().map(|_| stage.client()).collect();
    for round in 0..3 {
        for (client, (what, sql)) in clients.iter_mut().zip(HABITS) {
            client.query(sql).unwrap_or_else(|e| panic!("{what}: {e}"));
            let marker = format!("{what} {round}");
            let got = client.value(&format!("select '{marker}'"));
            assert_eq!(got.unwrap_or_else(|e| panic!("{what}: {e}")), marker);
        }
    }
}

#[test]
fn pings_are_held_and_not_failed_while_the_pool_is_paused() {
    let stage = one_worker("pings");
    let mut clients: Vec<Connection> = PINGS.iter().map(|_| stage.client()).collect();
    let mut extended: Vec<Connection> = ["", "SELECT 1"].iter().map(|_| stage.client()).collect();
    stage.proxy.pseudo("pause");
    for (client, ping) in clients.iter_mut().zip(PINGS) {
        client.send(&encode::query(ping.as_bytes())).unwrap();
    }
    for (client, text) in extended.iter_mut().zip(["", "SELECT 1"]) {
        let bytes = [
            encode::parse(b"", text.as_bytes(), &[]),
            encode::bind(b"", b"", &[], &[], &[]),
            encode::execute(b"", 0),
            encode::sync(),
        ];
        client.send(&bytes.concat()).unwrap();
    }
    let held = &mut extended[1];
    held.set_timeout(Duration::from_millis(300));
    assert!(held.read().is_err(), "held while paused");
    held.set_timeout(Duration::from_secs(30));
    stage.proxy.pseudo("resume");
    for (client, ping) in clients.iter_mut().zip(PINGS) {
        client.collect().unwrap_or_else(|e| panic!("{ping:?}: {e}"));
    }
    for client in &mut extended {
        client.collect().unwrap();
    }
}

#[test]
fn the_name_of_an_application_stays_on_a_worker_until_another_one_needs_it() {
    let stage = one_worker("names");
    let open = |name: &str| {
        let parameters = [("user", "app"), ("database", "app"), ("application_name", name)];
        Connection::open_with(&stage.proxy.tcp(), &parameters, None).unwrap()
    };
    let transaction = |client: &mut Connection, name: &str| {
        client.query("begin").unwrap();
        assert_eq!(client.value("show application_name").unwrap(), name);
        client.query("commit").unwrap();
    };
    // Requests the one worker has had: each clean-up is one.
    let requests = || -> u64 {
        let rows = stage.proxy.pseudo("show servers");
        rows[0][REQUESTS].as_ref().unwrap().parse().unwrap()
    };
    let (mut one, mut two) = (open("one"), open("two"));
    transaction(&mut two, "two");
    let before = requests();
    for _ in 0..100 {
        transaction(&mut two, "two");
    }
    let same = requests() - before;
    // Fewer than those after which a connection that suits nobody is replaced.
    for _ in 0..20 {
        transaction(&mut one, "one");
        transaction(&mut two, "two");
    }
    let changing = requests() - before - same;
    assert!(
        (200..210).contains(&same),
        "{same} requests for 100 transactions of one client"
    );
    assert!(
        (120..130).contains(&changing),
        "{changing} requests for 40 transactions of two clients"
    );
    // What not everybody has is undone before the next one comes.
    let mut nameless = stage.client();
    let usual = nameless.value("show work_mem").unwrap();
    one.query("set work_mem = '7MB'").unwrap();
    transaction(&mut one, "one");
    assert_eq!(nameless.value("show work_mem").unwrap(), usual);
    assert_eq!(two.value("show work_mem").unwrap(), usual);
    assert_eq!(one.value("show work_mem").unwrap(), "7MB");
    assert_eq!(two.value("show application_name").unwrap(), "two");
}

/// The readers never leave the one worker alone; without a copy of the catalog each of their statements has it to itself.
#[test]
fn a_pool_that_is_never_idle_still_learns_which_statements_are_reads() {
    let stage = one_worker("busy");
    let stop = AtomicBool::new(false);
    let shared = || stage.proxy.metric("pgstmtpool_requests_total{kind=\"shared\"");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (mut client, stop) = (stage.client(), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let got = client.value("select count(*) from generate_series(1, 100000)");
                    assert_eq!(got.unwrap(), "100000");
                }
            });
        }
        let learned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("reads share the worker", Duration::from_secs(10), || {
                shared() > 0.0
            });
            // DDL makes the copy worthless: it is read again, though nobody rests.
            stage.client().query("create table new_one (n int)").unwrap();
            let before = shared();
            wait_until("they do so again", Duration::from_secs(10), || {
                shared() > before + 20.0
            });
        }));
        stop.store(true, Ordering::Relaxed);
        learned.unwrap();
    });
}

/// BEGIN goes ahead of the first statement as a prepared statement. Here it is taken away behind the proxy's back: the
/// server refuses BEGIN, skips the statement behind it and waits for a Sync.
#[test]
fn a_begin_that_fails_ahead_of_its_first_statement_leaves_nothing_waiting() {
    let stage = one_worker("begin");
    let mut client = stage.client();
    client.set_timeout(Duration::from_secs(10));
    let mut refused = 0;
    let transaction = |client: &mut Connection| -> Result<String, WireError> {
        client.query("begin")?;
        let value = client.value("select 'in it'")?;
        client.query("commit")?;
        Ok(value)
    };
    for round in 0..3 {
        assert_eq!(transaction(&mut client).unwrap(), "in it", "round {round}");
        client
            .query("do $$ begin execute 'deallocate all'; end $$")
            .unwrap();
        // Once, and the server connection is whole again.
        if let Err(error) = transaction(&mut client) {
            assert_eq!(error.code(), "26000");
            refused += 1;
        }
    }
    assert!(refused > 0, "nothing was tried");
}

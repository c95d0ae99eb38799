//! Session mode: PostgreSQL itself, for as long as the client stays, and nothing of it for the next one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{Proxy, Stage, wait_for};

const SECOND: Duration = Duration::from_secs(1);

fn stage(name: &str) -> Stage {
    Stage::start(name, |m| {
        m.set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 4}")
    })
}

#[test]
fn the_process_id_is_the_servers_own_and_stays_for_the_whole_session() {
    let stage = stage("session-pid");
    let mut client = stage.client();
    let first = client.process_id.to_string();
    for _ in 0..5 {
        assert_eq!(client.value("select pg_backend_pid()").unwrap(), first);
    }
    client.query("create temp table t (n int)").unwrap();
    client.query("insert into t values (1)").unwrap();
    assert_eq!(client.value("select count(*) from t").unwrap(), "1");
    // What a real process id is for: another session speaks about this one.
    let mut other = stage.client();
    assert_ne!(other.process_id, client.process_id);
    client.send(&encode::query(b"select pg_sleep(30)")).unwrap();
    let running = format!("select state || wait_event from pg_stat_activity where pid = {first}");
    wait_for("the statement to run", 5 * SECOND, || {
        match other.value(&running).unwrap().as_str() {
            "activePgSleep" => Ok(()),
            no => Err(no.to_owned()),
        }
    });
    other
        .query(&format!("select pg_cancel_backend({first})"))
        .unwrap();
    assert_eq!(client.collect().unwrap_err().code(), "57014");
}

#[test]
fn a_cancel_hits_the_session_whichever_proxy_it_reaches() {
    let stage = stage("session-cancel");
    let second = Proxy::builder(&stage.world, &stage.path).named("second").start();
    let third = Proxy::builder(&stage.world, &stage.path).named("third").start();
    for through in [&stage.proxy, &second, &third] {
        let mut client = stage.client();
        let mut neighbour = stage.client();
        neighbour.send(&encode::query(b"select pg_sleep(1)")).unwrap();
        client.send(&encode::query(b"select pg_sleep(30)")).unwrap();
        let running =
            "select count(*) from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active'";
        wait_for("the statement to run", 5 * SECOND, || {
            match stage.direct(running).as_str() {
                "1" => Ok(()),
                no => Err(no.to_owned()),
            }
        });
        client.cancel(&through.tcp()).unwrap();
        assert_eq!(client.collect().unwrap_err().code(), "57014");
        neighbour.collect().expect("the neighbour is not hit");
    }
}

#[test]
fn a_cancel_with_a_wrong_key_hits_nobody() {
    let stage = stage("session-key");
    let mut client = stage.client();
    client.send(&encode::query(b"select pg_sleep(1)")).unwrap();
    let mut wrong = stage.client();
    wrong.process_id = client.process_id;
    wrong.cancel(&stage.proxy.tcp()).unwrap();
    client.collect().expect("not cancelled");
}

/// What a session may leave behind, and how the next one on the same server connection would see it.
const LEFT: [(&str, &str, &str); 11] = [
    ("set work_mem = '7MB'", "show work_mem", "4MB"),
    ("set datestyle = 'German'", "show datestyle", "ISO, MDY"),
    ("set role pg_monitor", "select current_user", "app"),
    (
        "prepare p as select 1",
        "select count(*) from pg_prepared_statements",
        "0",
    ),
    (
        "declare c cursor with hold for select 1",
        "select count(*) from pg_cursors",
        "0",
    ),
    ("listen l", "select count(*) from pg_listening_channels()", "0"),
    (
        "select pg_advisory_lock(1)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "0",
    ),
    ("select nextval('s')", "select lastval()", "55000"),
    (
        "do $$ begin perform set_config('work_mem', '9MB', false); create temp table h (n int); end $$",
        "select current_setting('work_mem') = '4MB' and to_regclass('h') is null",
        "t",
    ),
    (
        "begin; insert into kept values (1)",
        "select count(*) from kept",
        "0",
    ),
    ("begin; select 1/0", "select 1", "1"),
];

fn ask(client: &mut Connection, sql: &str) -> String {
    match client.query(sql) {
        Ok(rows) => rows[0][0].clone().unwrap_or("NULL".to_owned()),
        Err(error) => error.code().to_owned(),
    }
}

#[test]
fn the_next_session_gets_the_server_connection_clean() {
    let stage = Stage::start("session-reset", |m| {
        m.set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 1}")
    });
    stage.direct(
        "create sequence s; grant all on s to app; create table kept (n int); grant all on kept to app",
    );
    stage.direct("grant pg_monitor to app");
    let mut process_ids = Vec::new();
    for (leave, question, right) in LEFT {
        let mut first = stage.client();
        process_ids.push(first.process_id);
        let _ = first.query(leave);
        if leave.starts_with("set ") {
            assert_ne!(
                ask(&mut first, question),
                right,
                "{leave}: its own session keeps it"
            );
        }
        drop(first);
        let mut next = stage.client();
        assert_eq!(ask(&mut next, question), right, "after {leave}");
        let name = next.parameters.iter().find(|(n, _)| n == "DateStyle").unwrap();
        assert_eq!(name.1, "ISO, MDY", "after {leave}");
    }
    process_ids.dedup();
    assert_eq!(process_ids.len(), 1, "one server connection served them all");
}

#[test]
fn what_cannot_be_cleaned_costs_the_server_connection() {
    let stage = Stage::start("session-sticky", |m| {
        m.set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 1}")
    });
    stage.direct("alter role app superuser");
    let mut first = stage.client();
    first.query("load 'auto_explain'").unwrap();
    let before = first.process_id;
    drop(first);
    let mut next = stage.client();
    assert_ne!(next.process_id, before);
    let sql = "select count(*) from pg_settings where name like 'auto_explain.%'";
    assert_eq!(next.value(sql).unwrap(), "0");
    next.query("create temp table t (n int)").unwrap();
    let before = next.process_id;
    drop(next);
    let mut next = stage.client();
    assert_ne!(next.process_id, before, "its temporary schema would stay");
    // A client that leaves in the middle of its statement does not leave it to the next one, either.
    next.send(&encode::query(b"select pg_sleep(60)")).unwrap();
    drop(next);
    let mut third = stage.client();
    assert_eq!(third.value("select 1").unwrap(), "1");
}

#[test]
fn the_reset_query_of_the_manifest_is_run_between_two_sessions() {
    let stage = Stage::start("session-query", |m| {
        m.set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 1}")
            .set(
                "resetQuery",
                "\"DISCARD ALL; insert into public.resets default values\"",
            )
    });
    stage.direct("create table resets (at timestamptz default now()); grant all on resets to app");
    let mut first = stage.client();
    first.query("set work_mem = '7MB'").unwrap();
    drop(first);
    let mut next = stage.client();
    assert_eq!(next.value("show work_mem").unwrap(), "4MB");
    // DISCARD ALL in a list of statements is refused by PostgreSQL: such a connection is closed, not handed on.
    assert_eq!(stage.direct("select count(*) from resets"), "0");
    let stage = Stage::start("session-query-2", |m| {
        m.set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 1}")
            .set(
                "resetQuery",
                "\"RESET ALL; insert into public.resets default values\"",
            )
    });
    stage.direct("create table resets (at timestamptz default now()); grant all on resets to app");
    let mut first = stage.client();
    first.query("set work_mem = '7MB'").unwrap();
    let process_id = first.process_id;
    drop(first);
    let mut next = stage.client();
    assert_eq!(next.process_id, process_id);
    assert_eq!(next.value("show work_mem").unwrap(), "4MB");
    assert_eq!(stage.direct("select count(*) from resets"), "1");
}

#[test]
fn a_server_connection_is_only_for_clients_with_the_same_startup_packet() {
    let stage = Stage::start("session-startup", |m| {
        m.set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 1}")
    });
    let open = |name: &str| {
        let parameters = [("user", "app"), ("database", "app"), ("application_name", name)];
        Connection::open_with(&stage.proxy.tcp(), &parameters, None).unwrap()
    };
    for name in ["one", "two", "one"] {
        let mut client = open(name);
        client.query("set application_name = 'other'").unwrap();
        client.query("reset application_name").unwrap();
        assert_eq!(client.value("show application_name").unwrap(), name);
    }
}

#[test]
fn sessions_wait_for_a_server_connection_and_are_told_when_none_comes_free() {
    let stage = Stage::start("session-wait", |m| {
        m.set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 1}")
            .set("timeouts.queryWait", "500ms")
    });
    let first = stage.client();
    let started = Instant::now();
    let error = stage.proxy.try_connect("app", "app").unwrap_err();
    assert_eq!(error.code(), "53300", "{error}");
    assert!(started.elapsed() >= Duration::from_millis(400));
    drop(first);
    assert_eq!(stage.client().value("select 1").unwrap(), "1");
}

#[test]
fn modes_are_chosen_by_database_and_by_user() {
    let stage = Stage::start("session-overrides", |m| {
        m.set("poolMode", "transaction")
            .set(
                "databases",
                "[{name: app, poolMode: statement, users: [{name: twice, poolMode: transaction}]}]",
            )
            .set(
                "users",
                "[{name: own, poolMode: session}, {name: twice, poolMode: session}]",
            )
    });
    for role in ["own", "twice", "other"] {
        stage.direct(&format!("create role {role} login"));
    }
    let mode = |user: &str, database: &str| {
        let mut client = stage.proxy.connect(user, database);
        let process_id = client.process_id.to_string();
        if client.value("select pg_backend_pid()").unwrap() == process_id {
            return "session";
        }
        match client.query("begin") {
            Ok(_) => "transaction",
            Err(_) => "statement",
        }
    };
    assert_eq!(mode("other", "postgres"), "transaction", "the pool's");
    assert_eq!(mode("other", "app"), "statement", "the database's");
    assert_eq!(mode("own", "postgres"), "session", "the user's");
    assert_eq!(mode("own", "app"), "session", "the user wins over the database");
    assert_eq!(
        mode("twice", "app"),
        "transaction",
        "the user in the database wins over both"
    );
}

#[test]
fn a_killed_server_connection_ends_the_session_with_the_servers_own_words() {
    let stage = stage("session-killed");
    let mut client = stage.client();
    assert_eq!(client.value("select 1").unwrap(), "1");
    stage.direct(&format!("select pg_terminate_backend({})", client.process_id));
    let (error, _) = client.read_to_close().unwrap();
    assert_eq!(error.unwrap().code(), "57P01");
}

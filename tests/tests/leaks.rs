//! No state of one client is ever visible to another: every row of the session-state table, in both modes.
//!
//! Client A sets something, client B looks for it, first while A is there, then after A has gone. One worker is
//! kept, so that without care B would stand on A's. What pins is refused in statement mode.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::Connection;
use pgstmtpool_tests::{Stage, wait_for};

/// One kind of state.
struct State {
    name: &'static str,
    /// What A does.
    set: &'static [&'static str],
    /// What A then sees of it; empty: not asked.
    own: (&'static str, &'static str),
    /// What B asks, and the only answer that is right: a value, or a SQLSTATE.
    other: (&'static str, &'static str),
    /// Is it pinned to a server (transaction mode) and refused (statement mode)?
    pins: bool,
}

const fn state(
    name: &'static str,
    set: &'static [&'static str],
    own: (&'static str, &'static str),
    other: (&'static str, &'static str),
) -> State {
    State {
        name,
        set,
        own,
        other,
        pins: false,
    }
}

const fn pinned(
    name: &'static str,
    set: &'static [&'static str],
    own: (&'static str, &'static str),
    other: (&'static str, &'static str),
) -> State {
    State {
        name,
        set,
        own,
        other,
        pins: true,
    }
}

const NOTHING: (&str, &str) = ("", "");

const STATES: &[State] = &[
    state(
        "SET",
        &["set work_mem = '7MB'"],
        ("show work_mem", "7MB"),
        ("show work_mem", "4MB"),
    ),
    state(
        "SET in a list",
        &["select 1; set work_mem = '7MB'; select 2"],
        ("show work_mem", "7MB"),
        ("show work_mem", "4MB"),
    ),
    state(
        "set_config",
        &["select set_config('work_mem', '9MB', false)"],
        ("show work_mem", "9MB"),
        ("show work_mem", "4MB"),
    ),
    state(
        "search_path",
        &["set search_path = 'pg_catalog'"],
        ("show search_path", "pg_catalog"),
        ("show search_path", "\"$user\", public"),
    ),
    state(
        "DateStyle",
        &["set datestyle = 'German'"],
        ("select date '2026-11-21'", "21.11.2026"),
        ("select date '2026-11-21'", "2026-11-21"),
    ),
    state(
        "time zone",
        &["set time zone 'Asia/Tokyo'"],
        ("show timezone", "Asia/Tokyo"),
        ("select current_setting('timezone') = 'Asia/Tokyo'", "f"),
    ),
    state(
        "role",
        &["set role other"],
        ("select current_user", "other"),
        ("select current_user", "app"),
    ),
    state(
        "tenant of row security",
        &["set app.tenant = '7'"],
        ("select current_setting('app.tenant', true)", "7"),
        ("select current_setting('app.tenant', true) is null", "t"),
    ),
    state(
        "application_name",
        &["set application_name = 'of a'"],
        ("show application_name", "of a"),
        ("select current_setting('application_name') = 'of a'", "f"),
    ),
    state(
        "session characteristics",
        &["set session characteristics as transaction isolation level serializable"],
        ("show transaction isolation level", "serializable"),
        ("show transaction isolation level", "read committed"),
    ),
    state(
        "read only",
        &["set default_transaction_read_only = on"],
        ("show transaction_read_only", "on"),
        ("show transaction_read_only", "off"),
    ),
    state(
        "statement_timeout",
        &["set statement_timeout = 77"],
        ("show statement_timeout", "77ms"),
        ("show statement_timeout", "0"),
    ),
    state(
        "client_encoding",
        &["set client_encoding = 'latin1'"],
        ("show client_encoding", "LATIN1"),
        ("show client_encoding", "UTF8"),
    ),
    state(
        "PREPARE",
        &["prepare p as select 'of a'"],
        ("execute p", "of a"),
        ("execute p", "26000"),
    ),
    state(
        "setting hidden in DO",
        &["do $$ begin perform set_config('work_mem', '9MB', false); end $$"],
        NOTHING,
        ("show work_mem", "4MB"),
    ),
    state(
        "setting hidden in a function",
        &["select hidden_set()"],
        NOTHING,
        ("show work_mem", "4MB"),
    ),
    state(
        "temp table hidden in a function",
        &["select hidden_temp()"],
        NOTHING,
        ("select to_regclass('hidden_t') is null", "t"),
    ),
    state(
        "advisory lock hidden in a function",
        &["select hidden_lock()"],
        NOTHING,
        (
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
            "0",
        ),
    ),
    state(
        "LISTEN hidden in DO",
        &["do $$ begin execute 'listen hidden'; end $$"],
        NOTHING,
        ("select count(*) from pg_listening_channels()", "0"),
    ),
    state(
        "currval",
        &["select nextval('seq')"],
        NOTHING,
        ("select currval('seq')", "55000"),
    ),
    state(
        "lastval of a serial",
        &["insert into serials (s) values ('x')"],
        NOTHING,
        ("select lastval()", "55000"),
    ),
    state(
        "setseed",
        &["select setseed(0.5)"],
        NOTHING,
        ("select random() = seeded from seeds", "f"),
    ),
    state(
        "a list that fails",
        &["set work_mem = '7MB'; select 1/0"],
        ("show work_mem", "4MB"),
        ("show work_mem", "4MB"),
    ),
    pinned(
        "temp table",
        &["create temp table w (n int)"],
        ("select count(*) from w", "0"),
        ("select to_regclass('w') is null", "t"),
    ),
    pinned(
        "SELECT INTO TEMP",
        &["select 1 as n into temp w"],
        ("select n from w", "1"),
        ("select to_regclass('w') is null", "t"),
    ),
    pinned(
        "temp view",
        &["create temporary view v as select 5 as n"],
        ("select n from v", "5"),
        ("select to_regclass('v') is null", "t"),
    ),
    pinned(
        "advisory lock",
        &["select pg_advisory_lock(4712)"],
        NOTHING,
        NOTHING,
    ),
    state(
        "LISTEN",
        &["listen leak"],
        ("select count(*) from pg_listening_channels()", "1"),
        ("select count(*) from pg_listening_channels()", "0"),
    ),
    pinned(
        "cursor WITH HOLD",
        &["declare h cursor with hold for select 'of a'"],
        ("fetch 1 from h", "of a"),
        ("fetch 1 from h", "34000"),
    ),
    pinned(
        "LOAD",
        &["load 'auto_explain'"],
        NOTHING,
        (
            "select count(*) from pg_settings where name like 'auto_explain.%'",
            "0",
        ),
    ),
];

/// The user is superuser here, so that LOAD is allowed.
fn stage(mode: &str) -> Stage {
    let stage = Stage::start(&format!("leaks-{mode}"), |manifest| {
        manifest
            .set("poolMode", mode)
            .set("workers", "{minByClients: [1], clientsPerWorker: 100, max: 4}")
    });
    stage.direct("alter role app superuser");
    stage.direct("create extension dblink");
    stage.direct("create role other");
    stage.direct("create sequence seq");
    stage.direct("create table serials (id serial, s text)");
    stage.direct("create table seeds as select setseed(0.5) is null as x, 0::float8 as seeded");
    stage.direct("do $$ begin perform setseed(0.5); update seeds set seeded = random(); end $$");
    stage.direct("grant all on all tables in schema public to public");
    let function = |name: &str, body: &str| {
        stage.direct(&format!(
            "create function {name}() returns int language plpgsql as $$ begin {body}; return 1; end $$"
        ));
    };
    function("hidden_set", "perform set_config('work_mem', '9MB', false)");
    function("hidden_temp", "create temp table if not exists hidden_t (n int)");
    function("hidden_lock", "perform pg_advisory_lock(4713)");
    stage
}

/// The answer to a question: the first value, `NULL`, or the SQLSTATE.
fn ask(connection: &mut Connection, question: &str) -> String {
    match connection.query(question) {
        Ok(rows) => rows
            .first()
            .and_then(|row| row.first().cloned().flatten())
            .unwrap_or("NULL".to_owned()),
        Err(error) if !error.code().is_empty() => error.code().to_owned(),
        Err(error) => panic!("{question}: {error}"),
    }
}

fn check(stage: &Stage, mode: &str, state: &State) -> Result<(), String> {
    let mut a = stage.client();
    let mut b = stage.client();
    // Both have been served once, so both know the one worker.
    for client in [&mut a, &mut b] {
        ask(client, "select 1");
    }
    for text in state.set {
        let refused = ask(&mut a, text) == "0A000";
        if state.pins && mode == "statement" && !refused {
            return Err(format!("{text} was not refused in statement mode"));
        }
    }
    let kept = !(state.pins && mode == "statement");
    let expect = |who: &str, got: String, (question, right): (&str, &str)| {
        if question.is_empty() || got == right {
            return Ok(());
        }
        Err(format!("{who}: {question}: {got}, not {right}"))
    };
    for round in 0..3 {
        if !state.other.0.is_empty() {
            let got = ask(&mut b, state.other.0);
            expect(&format!("B beside A, round {round}"), got, state.other)?;
        }
        if kept && !state.own.0.is_empty() && (!state.own.0.starts_with("fetch") || round == 0) {
            let got = ask(&mut a, state.own.0);
            expect(&format!("A itself, round {round}"), got, state.own)?;
        }
    }
    drop(a);
    for round in 0..3 {
        let mut c = stage.client();
        if !state.other.0.is_empty() {
            let got = ask(&mut c, state.other.0);
            expect(&format!("C after A, round {round}"), got, state.other)?;
        }
    }
    Ok(())
}

fn check_all(mode: &str) {
    let stage = stage(mode);
    let faults: Vec<String> = STATES
        .iter()
        .filter_map(|state| {
            check(&stage, mode, state)
                .err()
                .map(|fault| format!("{}: {fault}", state.name))
        })
        .collect();
    assert!(
        faults.is_empty(),
        "{} of {} leak in {mode} mode:\n{}",
        faults.len(),
        STATES.len(),
        faults.join("\n")
    );
}

#[test]
fn no_state_of_one_client_is_visible_to_another_in_transaction_mode() {
    check_all("transaction");
}

#[test]
fn no_state_of_one_client_is_visible_to_another_in_statement_mode() {
    check_all("statement");
}

#[test]
fn no_state_of_one_client_is_visible_to_another_in_session_mode() {
    check_all("session");
}

/// What pins: how it is made, as SHOW PINS names it, how it is released.
const PINS: [(&str, &str, &str); 9] = [
    ("create temp table p (n int)", "temporary table", "drop table p"),
    ("create temp table p (n int)", "temporary table", "discard temp"),
    (
        "select pg_advisory_lock(1)",
        "advisory lock",
        "select pg_advisory_unlock(1)",
    ),
    (
        "select pg_advisory_lock(1)",
        "advisory lock",
        "select pg_advisory_unlock_all()",
    ),
    (
        "declare p cursor with hold for select 1",
        "hold cursor",
        "close p",
    ),
    (
        "declare p cursor with hold for select 1",
        "hold cursor",
        "close all",
    ),
    ("create temp table p (n int)", "temporary table", "discard all"),
    ("load 'auto_explain'", "LOAD", ""),
    (DBLINK, "dblink connection", ""),
];

/// Opens a connection of dblink to the same server.
const DBLINK: &str = "select dblink_connect('mine', 'host=127.0.0.1 dbname=app user=app application_name=of_dblink port=' \
                      || current_setting('port'))";

#[test]
fn each_pin_is_shown_with_its_reason_until_it_is_released() {
    let stage = stage("transaction");
    for (make, reason, release) in PINS {
        let mut client = stage.client();
        client.query(make).unwrap();
        let pins = || {
            let rows = stage.proxy.pseudo("show pins");
            rows.into_iter()
                .map(|row| row.into_iter().flatten().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
                .join("; ")
        };
        wait_for(&format!("{make}: its pin"), Duration::from_secs(5), || {
            let shown = pins();
            let own = shown.contains(reason) && shown.contains(&client.process_id.to_string());
            if own { Ok(()) } else { Err(shown) }
        });
        if release.is_empty() {
            drop(client);
        } else {
            client.query(release).unwrap();
        }
        wait_for(
            &format!("{make}, {release}: no pin"),
            Duration::from_secs(5),
            || {
                let shown = pins();
                if shown.is_empty() { Ok(()) } else { Err(shown) }
            },
        );
    }
}

#[test]
fn what_is_refused_in_statement_mode_says_so_before_a_server_sees_it() {
    let stage = stage("statement");
    for (make, _, _) in PINS {
        let mut client = stage.client();
        let error = client.query(make).unwrap_err();
        assert_eq!(error.code(), "0A000", "{make}");
        assert!(
            error.to_string().contains("hint: Use poolMode"),
            "{make}: {error}"
        );
        assert_eq!(client.value("select 1").unwrap(), "1");
    }
    assert_eq!(
        stage.direct("select count(*) from pg_locks where locktype = 'advisory'"),
        "0"
    );
}

#[test]
fn startup_parameters_and_options_are_their_clients_own() {
    for mode in ["statement", "transaction", "session"] {
        let stage = stage(mode);
        let open = |parameters: &[(&str, &str)]| {
            let mut all = vec![("user", "app"), ("database", "app")];
            all.extend(parameters);
            Connection::open_with(&stage.proxy.tcp(), &all, None).unwrap()
        };
        let mut options = open(&[("options", "-c work_mem=5MB --search-path=pg_catalog")]);
        let mut named = open(&[("DateStyle", "German"), ("application_name", "mine")]);
        let mut plain = open(&[]);
        for _ in 0..10 {
            assert_eq!(ask(&mut options, "show work_mem"), "5MB", "{mode}");
            assert_eq!(ask(&mut options, "show search_path"), "pg_catalog", "{mode}");
            assert_eq!(
                ask(&mut named, "select date '2026-11-21'"),
                "21.11.2026",
                "{mode}"
            );
            assert_eq!(ask(&mut named, "show application_name"), "mine", "{mode}");
            assert_eq!(ask(&mut plain, "show work_mem"), "4MB", "{mode}");
            assert_eq!(
                ask(&mut plain, "select date '2026-11-21'"),
                "2026-11-21",
                "{mode}"
            );
        }
        // RESET goes back to the client's own beginning, and its ParameterStatus says so.
        named.query("set datestyle = 'SQL'").unwrap();
        options.query("set work_mem = '1MB'").unwrap();
        named.query("reset datestyle").unwrap();
        options.query("reset all").unwrap();
        assert_eq!(
            ask(&mut named, "select date '2026-11-21'"),
            "21.11.2026",
            "{mode}"
        );
        assert_eq!(ask(&mut options, "show work_mem"), "5MB", "{mode}");
        let shown = named
            .parameters
            .iter()
            .find(|(name, _)| name == "DateStyle")
            .unwrap();
        assert_eq!(shown.1, "German, DMY", "{mode}");
    }
}

#[test]
fn settings_of_roles_reach_new_sessions_soon_after_they_were_changed() {
    let stage = stage("transaction");
    let mut client = stage.client();
    assert_eq!(ask(&mut client, "show work_mem"), "4MB");
    // The first look has nothing to compare with: a change before it may go unseen, one after it may not.
    let seen = (5..10).any(|n| {
        let value = format!("{n}MB");
        client
            .query(&format!("alter role app set work_mem = '{value}'"))
            .unwrap();
        (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(200));
            ask(&mut stage.client(), "show work_mem") == value
        })
    });
    assert!(seen, "no new session has the role's setting");
}

#[test]
fn an_advisory_lock_is_held_while_its_client_lives_and_free_at_once_when_it_is_gone() {
    let stage = stage("transaction");
    let mut a = stage.client();
    let mut b = stage.client();
    a.query("select pg_advisory_lock(4712)").unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&mut b, "select pg_try_advisory_xact_lock(4712)"), "f");
    }
    drop(a);
    wait_for("the lock to be free", Duration::from_secs(5), || {
        let got = ask(&mut b, "select pg_try_advisory_xact_lock(4712)");
        if got == "t" { Ok(()) } else { Err(got) }
    });
}

#[test]
fn a_notification_reaches_only_who_listens() {
    let stage = stage("transaction");
    let mut a = stage.client();
    let mut b = stage.client();
    a.query("listen talk").unwrap();
    for n in 0..5 {
        b.query(&format!("notify talk, '{n}'")).unwrap();
        b.send(&pgstmtpool_tests::wire::encode::query(b"select 1"))
            .unwrap();
        loop {
            let frame = b.read().unwrap();
            assert_ne!(frame.tag, b'A', "B does not listen");
            if frame.tag == b'Z' {
                break;
            }
        }
        loop {
            let frame = a.read().unwrap();
            if frame.tag == b'A' {
                assert!(
                    String::from_utf8_lossy(&frame.body).contains(&format!("talk\0{n}\0")),
                    "{frame:?}"
                );
                break;
            }
        }
    }
}

#[test]
fn two_clients_with_their_settings_keep_them_through_thousands_of_alternating_statements() {
    let stage = stage("transaction");
    let threads: Vec<_> = (0..6)
        .map(|n| {
            let mut client = stage.client();
            std::thread::spawn(move || {
                let (zone, tenant) = (
                    ["UTC", "Asia/Tokyo", "Europe/Berlin"][n % 3],
                    format!("tenant-{n}"),
                );
                client
                    .query(&format!("set time zone '{zone}'; set app.tenant = '{tenant}'"))
                    .unwrap();
                for _ in 0..500 {
                    let sql = "select current_setting('timezone') || ' ' || current_setting('app.tenant')";
                    assert_eq!(client.value(sql).unwrap(), format!("{zone} {tenant}"));
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|t| t.join().expect("a client saw another's settings"));
}

#[test]
fn a_timeout_shorter_than_reading_it_back_is_kept_all_the_same() {
    let stage = stage("transaction");
    for round in 0..20 {
        let mut client = stage.client();
        let own = format!("of {round}");
        client
            .query(&format!(
                "begin; set app.tenant = '{own}'; set statement_timeout = 1; commit"
            ))
            .unwrap();
        let mut client = Patient(client);
        assert_eq!(client.value("select current_setting('app.tenant', true)"), own);
        assert_eq!(client.value("show statement_timeout"), "1ms");
    }
}

/// A client whose statements may be over their time.
struct Patient(Connection);

impl Patient {
    fn value(&mut self, sql: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.0.value(sql) {
                Err(error) if error.code() == "57014" && Instant::now() < end => {}
                got => return got.unwrap(),
            }
        }
    }
}

#[test]
fn a_connection_of_dblink_stays_with_its_session_and_ends_with_it_or_is_refused() {
    let open = "select count(*) from pg_stat_activity where application_name = 'of_dblink'";
    for mode in ["transaction", "session"] {
        let stage = stage(mode);
        let mut client = stage.client();
        client.query(DBLINK).unwrap();
        for round in 0..3 {
            assert_eq!(stage.client().value("select 1").unwrap(), "1");
            let sql = format!("select n from dblink('mine', 'select {round}') as t(n int)");
            assert_eq!(client.value(&sql).unwrap(), round.to_string(), "{mode}");
        }
        assert_eq!(stage.direct(open), "1", "{mode}");
        drop(client);
        wait_for(&format!("{mode}: its end"), Duration::from_secs(10), || {
            let left = stage.direct(open);
            if left == "0" { Ok(()) } else { Err(left) }
        });
    }
    let stage = stage("statement");
    let error = stage.client().query(DBLINK).unwrap_err();
    assert_eq!(error.code(), "0A000", "{error}");
    assert_eq!(stage.direct(open), "0");
}

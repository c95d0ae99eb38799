//! Statement mode: what opens a transaction or needs a server of its own is refused before a server sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use pgstmtpool_tests::wire::{WireError, encode};
use pgstmtpool_tests::{Proxy, Stage};

/// Opens a transaction, or is part of one: afterwards the session is in a failed transaction.
const OPENS: &[&str] = &[
    "begin",
    "BEGIN WORK",
    "  /* hi */ Begin transaction isolation level serializable, read only",
    "-- comment\nstart transaction",
    "START TRANSACTION READ ONLY",
    "begin; select 1",
    "select 1; begin",
    "begin;",
];

/// Needs one server for itself: refused, nothing more.
const NEEDS_A_SERVER: &[&str] = &[
    "create temp table w (n int)",
    "create temporary table if not exists w as select 1",
    "create local temp table w (n int)",
    "select 1 as n into temp w",
    "create temp view v as select 1",
    "create temp sequence s",
    "declare c cursor with hold for select 1",
    "load 'auto_explain'",
    "select pg_advisory_lock(1)",
    "select pg_try_advisory_lock(1, 2)",
    "select * from (select pg_advisory_lock_shared(7)) x",
];

fn stage(name: &str) -> Stage {
    Stage::with(
        name,
        |cluster| cluster.setting("log_statement = all"),
        |manifest| manifest.set("poolMode", "statement"),
        |proxy| proxy,
    )
}

fn refusal(result: Result<Vec<Vec<Option<String>>>, WireError>, sql: &str) {
    let Err(WireError::Db(error)) = result else {
        panic!("{sql}: {result:?}")
    };
    assert_eq!(error.code(), "0A000", "{sql}: {error}");
    assert!(!error.field('H').is_empty(), "{sql}: no hint");
    assert_eq!(error.field('V'), "ERROR", "{sql}");
}

#[test]
fn opening_a_transaction_is_refused_and_the_session_fails_until_it_is_ended() {
    let stage = stage("refused-begin");
    for (n, opener) in OPENS.iter().enumerate() {
        let sql = format!("{opener} /* marker-{n} */");
        let mut client = stage.client();
        refusal(client.query(&sql), &sql);
        assert_eq!(client.status, b'E', "{sql}");
        for after in [
            "select 1",
            "insert into nosuch values (1)",
            "set work_mem = '1MB'",
        ] {
            assert_eq!(
                client.query(after).unwrap_err().code(),
                "25P02",
                "{sql}, then {after}"
            );
            assert_eq!(client.status, b'E');
        }
        let end = ["commit", "rollback", "end", "abort"][n % 4];
        assert_eq!(client.execute(end).unwrap(), "ROLLBACK", "{sql}, then {end}");
        assert_eq!(client.status, b'I');
        assert_eq!(client.value("select 5").unwrap(), "5");
    }
    assert!(
        !stage.cluster.master().log().contains("marker-"),
        "a refused statement reached the server"
    );
}

#[test]
fn opening_a_transaction_is_refused_in_the_extended_protocol_and_inside_a_pipeline() {
    let stage = stage("refused-extended");
    let batch = |sql: &str| {
        [
            encode::parse(b"", sql.as_bytes(), &[]),
            encode::bind(b"", b"", &[], &[], &[]),
            encode::execute(b"", 0),
        ]
        .concat()
    };
    let mut client = stage.client();
    client
        .send(&[batch("begin /* marker-1 */"), encode::sync()].concat())
        .unwrap();
    let got = client.outline().unwrap();
    assert_eq!(got.last().unwrap(), "ZE", "{got:?}");
    assert!(got.contains(&"0A000".to_owned()), "{got:?}");
    assert_eq!(client.execute("rollback").unwrap(), "ROLLBACK");

    // In the middle of a pipeline: what was before it is answered, what is behind it fails until the ROLLBACK.
    let pipeline = [
        [batch("select 1"), encode::sync()].concat(),
        [
            batch("begin /* marker-2 */"),
            batch("select 2 /* marker-3 */"),
            encode::sync(),
        ]
        .concat(),
        [batch("select 3 /* marker-4 */"), encode::sync()].concat(),
        [batch("rollback"), encode::sync()].concat(),
        [batch("select 4"), encode::sync()].concat(),
    ];
    client.send(&pipeline.concat()).unwrap();
    assert_eq!(client.outline().unwrap().last().unwrap(), "ZI");
    let refused = client.outline().unwrap();
    assert!(
        refused.contains(&"0A000".to_owned()) && refused.last().unwrap() == "ZE",
        "{refused:?}"
    );
    let failed = client.outline().unwrap();
    assert!(
        failed.contains(&"25P02".to_owned()) && failed.last().unwrap() == "ZE",
        "{failed:?}"
    );
    assert_eq!(client.outline().unwrap().last().unwrap(), "ZI");
    let served = client.outline().unwrap();
    assert_eq!(
        served,
        ["1", "2", "D", "C", "ZI"],
        "Execute without Describe gives rows only"
    );
    assert!(
        !stage.cluster.master().log().contains("marker-"),
        "a refused statement reached the server"
    );
}

#[test]
fn a_prepared_begin_is_refused_when_it_is_bound() {
    let stage = stage("refused-bound");
    let mut client = stage.client();
    client
        .send(&[encode::parse(b"b", b"begin", &[]), encode::sync()].concat())
        .unwrap();
    let parsed = client.outline().unwrap();
    if parsed.last().unwrap() == "ZI" {
        client
            .send(
                &[
                    encode::bind(b"", b"b", &[], &[], &[]),
                    encode::execute(b"", 0),
                    encode::sync(),
                ]
                .concat(),
            )
            .unwrap();
        let bound = client.outline().unwrap();
        assert!(bound.contains(&"0A000".to_owned()), "{bound:?}");
    } else {
        assert!(parsed.contains(&"0A000".to_owned()), "{parsed:?}");
    }
    client.execute("rollback").unwrap();
    assert_eq!(client.value("select 1").unwrap(), "1");
}

#[test]
fn a_script_that_goes_on_after_the_refusal_does_not_commit_what_it_meant_to_roll_back() {
    let stage = stage("refused-script");
    stage.direct("create table precious (n int)");
    stage.direct("insert into precious values (1)");
    stage.direct("grant all on precious to app");
    let mut client = stage.client();
    for sql in ["begin", "delete from precious", "rollback"] {
        let _ = client.query(sql);
    }
    assert_eq!(client.value("select count(*) from precious").unwrap(), "1");
}

#[test]
fn what_needs_a_server_of_its_own_is_refused_and_the_session_goes_on() {
    let stage = stage("refused-pins");
    for (n, text) in NEEDS_A_SERVER.iter().enumerate() {
        let sql = format!("{text} /* marker-{n} */");
        let mut client = stage.client();
        refusal(client.query(&sql), &sql);
        let _ = client.query("rollback");
        assert_eq!(client.value("select 5").unwrap(), "5", "{sql}");
        let result = client.query_params(&sql, &[]);
        assert_eq!(
            result.unwrap_err().code(),
            "0A000",
            "{sql} in the extended protocol"
        );
        let _ = client.query("rollback");
        assert_eq!(client.value("select 6").unwrap(), "6", "{sql}");
    }
    assert!(
        !stage.cluster.master().log().contains("marker-"),
        "a refused statement reached the server"
    );
}

#[test]
fn parts_of_a_transaction_are_errors_and_leave_nothing_behind() {
    let stage = stage("refused-parts");
    let mut client = stage.client();
    for sql in [
        "savepoint a",
        "release savepoint a",
        "rollback to savepoint a",
        "prepare transaction 'x'",
    ] {
        let code = client.query(sql).unwrap_err().code().to_owned();
        assert!(["0A000", "25P01"].contains(&code.as_str()), "{sql}: {code}");
        let _ = client.query("rollback");
        assert_eq!(client.value("select 1").unwrap(), "1");
    }
}

#[test]
fn a_whole_transaction_in_one_query_is_allowed_and_atomic() {
    let stage = stage("refused-whole");
    stage.direct("create table t (n int)");
    stage.direct("grant all on t to app");
    let mut client = stage.client();
    client
        .query("begin; insert into t values (1); insert into t values (2); commit")
        .unwrap();
    assert_eq!(client.value("select count(*) from t").unwrap(), "2");
    client.query("begin; insert into t values (3); rollback").unwrap();
    client.query("insert into t values (4); select 1/0").unwrap_err();
    assert_eq!(client.value("select count(*) from t").unwrap(), "2");
}

#[test]
fn a_transaction_that_is_left_open_by_an_error_is_rolled_back_and_hurts_nobody() {
    let stage = stage("refused-error");
    let mut client = stage.client();
    let mut other = stage.client();
    let error = client.query("begin; select 1/0; commit").unwrap_err();
    assert_eq!(error.code(), "22012");
    for _ in 0..20 {
        assert_eq!(other.value("select 1").unwrap(), "1");
    }
    stage.wait_servers_clean(std::time::Duration::from_secs(5));
}

#[test]
fn psql_is_told_what_to_do() {
    let stage = stage("refused-psql");
    let proxy: &Proxy = &stage.proxy;
    let out = pgstmtpool_tests::psql(&proxy.conninfo("app", "app"), &["begin"]);
    assert!(
        !out.ok && out.err.contains("0A000") && out.err.contains("HINT"),
        "{}",
        out.err
    );
}

/// A driver whose Parse was acknowledged counts on the statement from then on, whatever came behind it.
#[test]
fn in_a_failed_transaction_nothing_is_acknowledged_that_is_not_there_afterwards() {
    let stage = stage("refused-names");
    let mut client = stage.client();
    let batch = |name: &[u8], sql: Option<&[u8]>| {
        let mut bytes = Vec::new();
        if let Some(sql) = sql {
            bytes.extend(encode::parse(name, sql, &[]));
        }
        bytes.extend(encode::bind(b"", name, &[], &[], &[]));
        bytes.extend(encode::describe(b'P', b""));
        bytes.extend(encode::execute(b"", 0));
        bytes.extend(encode::sync());
        bytes
    };
    let mut says = |bytes: &[u8]| {
        client.send(bytes).unwrap();
        client.outline().unwrap()
    };
    assert_eq!(
        says(&batch(b"s", Some(b"select 1"))),
        ["1", "2", "T", "D", "C", "ZI"]
    );
    assert_eq!(says(&encode::query(b"begin")), ["0A000", "ZE"]);
    assert_eq!(says(&batch(b"t", Some(b"select 2"))), ["25P02", "ZE"]);
    assert_eq!(
        says(&[encode::close(b'S', b"s"), batch(b"t", Some(b"select 2"))].concat()),
        ["3", "25P02", "ZE"]
    );
    assert_eq!(says(&batch(b"r", Some(b"rollback"))), ["1", "2", "n", "C", "ZI"]);
    assert_eq!(says(&batch(b"s", None)), ["26000", "ZI"]);
    assert_eq!(says(&batch(b"t", None)), ["26000", "ZI"]);
    assert_eq!(
        says(&batch(b"s", Some(b"select 3"))),
        ["1", "2", "T", "D", "C", "ZI"]
    );
    assert_eq!(
        says(&batch(b"t", Some(b"select 2"))),
        ["1", "2", "T", "D", "C", "ZI"]
    );
    assert_eq!(says(&batch(b"r", None)), ["2", "n", "N", "C", "ZI"]);
}

/// A Flush makes the proxy pass on what there is without having seen the end.
#[test]
fn a_batch_that_comes_in_pieces_is_refused_like_any_other() {
    let stage = stage("refused-pieces");
    let flush = encode::frame(b'H', &[]);
    for (sql, status) in [("begin", "ZE"), ("create temporary table nowhere ()", "ZI")] {
        let mut client = stage.client();
        let parse = encode::parse(b"s", sql.as_bytes(), &[]);
        let run = [encode::bind(b"", b"s", &[], &[], &[]), encode::execute(b"", 0)].concat();
        let mut says = |messages: &[&[u8]]| {
            client.send(&messages.concat()).unwrap();
            client.outline().unwrap()
        };
        assert_eq!(
            says(&[&parse, &flush, &run, &flush, &encode::sync()]),
            ["0A000", status],
            "{sql}"
        );
        if status == "ZE" {
            assert_eq!(says(&[&encode::query(b"rollback")]), ["C", "ZI"]);
        }
        assert_eq!(says(&[&parse, &encode::sync()]), ["1", "ZI"], "{sql}");
        assert_eq!(says(&[&run, &flush, &encode::sync()]), ["0A000", status], "{sql}");
    }
}

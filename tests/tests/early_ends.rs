//! Transactions that only read: their COMMIT is answered ahead of the server, and nobody is to notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{DEADLINE, Stage, Stops, wait_until};

/// A table, and a proxy that knows it.
fn start(name: &str, settings: &[(&str, &str)]) -> Stage {
    Stage::with_table(name, |m| {
        settings.iter().fold(m, |m, (path, value)| m.set(path, value))
    })
}

fn early(stage: &Stage) -> u64 {
    stage.stat("ended_early")
}

/// Runs `sql` as a batch: parsed without a name, or as the statement `name` that is there already.
fn batch(client: &mut Connection, sql: &str, name: &str) -> String {
    let mut bytes = Vec::new();
    if name.is_empty() {
        bytes.extend(encode::parse(b"", sql.as_bytes(), &[]));
    }
    bytes.extend(encode::bind(b"", name.as_bytes(), &[], &[], &[]));
    bytes.extend(encode::describe(b'P', b""));
    bytes.extend(encode::execute(b"", 0));
    bytes.extend(encode::sync());
    client.send(&bytes).unwrap();
    client.collect().unwrap().1
}

#[test]
fn a_transaction_that_only_read_is_over_at_once_in_both_protocols_and_the_server_hears_how() {
    let stage = start("early", &[]);
    let mut client = stage.client();
    for (name, sql) in [("c", "commit"), ("r", "rollback")] {
        client
            .send(
                &[
                    encode::parse(name.as_bytes(), sql.as_bytes(), &[]),
                    encode::sync(),
                ]
                .concat(),
            )
            .unwrap();
        client.collect().unwrap();
    }
    let count = |what: &str| {
        stage
            .cluster
            .master()
            .value(&format!(
                "select pg_stat_clear_snapshot(), {what} from pg_stat_database where datname = 'app'"
            ))
            .parse::<u64>()
    };
    let _ = count("xact_rollback");
    let before = early(&stage);
    for _ in 0..10 {
        for (end, name) in [("COMMIT", "c"), ("ROLLBACK", "r")] {
            for how in ["query", "unnamed", "named"] {
                client.query("begin").unwrap();
                assert_eq!(client.value("select a from t").unwrap(), "1");
                assert_eq!(client.value("select 2").unwrap(), "2");
                let tag = match how {
                    "query" => client.execute(end).unwrap(),
                    "unnamed" => batch(&mut client, end, ""),
                    _ => batch(&mut client, end, name),
                };
                assert_eq!(tag, end, "{how}");
            }
        }
    }
    assert_eq!(early(&stage) - before, 60);
    // As pgjdbc does it: BEGIN ahead of the first statement, in its batch.
    for _ in 0..10 {
        let mut bytes = encode::parse(b"", b"BEGIN", &[]);
        bytes.extend(encode::bind(b"", b"", &[], &[], &[]));
        bytes.extend(encode::execute(b"", 0));
        client.send(&bytes).unwrap();
        assert_eq!(batch(&mut client, "select a from t", ""), "SELECT 1");
        assert_eq!(batch(&mut client, "COMMIT", ""), "COMMIT");
    }
    assert_eq!(early(&stage) - before, 70);
    // It is over there, too.
    let open = "select count(*) from pg_stat_activity where usename = 'app' and xact_start is not null";
    wait_until("the end of all transactions", DEADLINE, || {
        stage.direct(open) == "0"
    });
    // And the next statement of this client is in none.
    assert!(client.query("savepoint s").is_err());
}

#[test]
fn what_may_fail_or_change_something_at_its_end_is_ended_by_the_server() {
    let stage = start("early-not", &[]);
    let mut client = stage.client();
    client.query("prepare w as insert into t values (2)").unwrap();
    let before = early(&stage);
    for statements in [
        &["begin", "insert into t values (3)"][..],
        &["begin", "select a from t", "insert into t values (4)"],
        &["begin", "insert into t values (5)", "select a from t"],
        &["begin", "select a from t for update"],
        &["begin", "select set_config('application_name', 'x', true)"],
        &["begin", "set local work_mem = '1MB'", "select a from t"],
        &["begin", "select a from t", "execute w"],
        &["begin", "select a from t", "savepoint s"],
        &["begin isolation level serializable", "select a from t"],
        &["begin isolation level repeatable read", "select a from t"],
        &["begin", "declare c cursor for select a from t", "fetch c"],
    ] {
        for end in ["commit", "rollback"] {
            for statement in statements {
                client.query(statement).unwrap();
            }
            client.query(end).unwrap();
        }
    }
    assert_eq!(
        client
            .value("select string_agg(distinct a::text, ' ' order by a::text) from t")
            .unwrap(),
        "1 2 3 4 5"
    );
    client
        .query("set session characteristics as transaction isolation level serializable")
        .unwrap();
    client.query("begin").unwrap();
    client.query("select a from t").unwrap();
    client.query("commit").unwrap();
    assert_eq!(early(&stage), before);
}

#[test]
fn with_begin_not_deferred_every_end_is_the_servers() {
    let stage = start("early-off", &[("deferBegin", "false")]);
    let mut client = stage.client();
    for _ in 0..5 {
        client.query("begin").unwrap();
        client.query("select a from t").unwrap();
        client.query("commit").unwrap();
    }
    assert_eq!(early(&stage), 0);
}

/// The lock of a former transaction may be there for as long as the server has not read its COMMIT: not for this client.
#[test]
fn no_client_meets_a_lock_of_its_own_former_transaction() {
    let stage = start("early-locks", &[("workers", "{minByClients: [4], max: 4}")]);
    let stop = AtomicBool::new(false);
    let before = early(&stage);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (stage, stop) = (&stage, &stop);
            scope.spawn(move || {
                let mut client = stage.client();
                while !stop.load(Ordering::Relaxed) {
                    client.query("begin").unwrap();
                    assert_eq!(
                        client.value(&format!("select {number} + 0")).unwrap(),
                        number.to_string()
                    );
                    client.query("commit").unwrap();
                }
            });
        }
        let _stops = Stops(&stop);
        let mut client = stage.client();
        for round in 0..1500 {
            client.query("begin").unwrap();
            assert_eq!(client.value("select count(*) from t").unwrap(), "1");
            client.query("commit").unwrap();
            if round % 2 == 0 {
                client.query("begin").unwrap();
                client.query("lock table t nowait").unwrap();
            } else {
                // A read may be sooner than the end, what stands behind it not.
                client.query("begin").unwrap();
                client.query("select 1").unwrap();
                batch(&mut client, "lock table t nowait", "");
            }
            client.query("commit").unwrap();
        }
    });
    assert!(early(&stage) - before > 2000);
}

/// The worker is given on with the end still under way.
#[test]
fn who_gets_the_worker_behind_an_end_is_cancelled_alone_and_may_leave() {
    let stage = start("early-next", &[("workers", "{minByClients: [1], max: 1}")]);
    let mut reader = stage.client();
    for round in 0..40 {
        reader.query("begin").unwrap();
        reader.query("select a from t").unwrap();
        let mut next = stage.client();
        let seconds = if round % 2 == 0 { 30.0 } else { 0.03 };
        next.send(&encode::query(format!("select pg_sleep({seconds})").as_bytes()))
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        reader.query("commit").unwrap();
        if round % 2 == 0 {
            next.cancel(&stage.proxy.tcp()).unwrap();
            let error = next.collect().unwrap_err();
            assert_eq!(error.code(), "57014", "{error:?}");
        } else {
            drop(next);
        }
        assert_eq!(reader.value("select a from t").unwrap(), "1");
    }
}

/// Each may hold the worker on which the end of the other's transaction is still to be sent.
#[test]
fn clients_that_wait_for_the_ends_of_their_transactions_do_not_wait_for_each_other() {
    let stage = start("early-all", &[("workers", "{minByClients: [3], max: 3}")]);
    let before = early(&stage);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            let stage = &stage;
            scope.spawn(move || {
                let mut client = stage.client();
                client.set_timeout(Duration::from_secs(20));
                for _ in 0..200 {
                    client.query("begin").unwrap();
                    client.query("select 1").unwrap();
                    client.query("commit").unwrap();
                    client.query("begin").unwrap();
                    client.query("insert into t values (2)").unwrap();
                    client.query("rollback").unwrap();
                }
            });
        }
    });
    assert!(early(&stage) - before > 1000);
}

#[test]
fn a_commit_without_a_name_is_the_unnamed_statement_from_then_on() {
    let stage = start("early-unnamed", &[]);
    let mut client = stage.client();
    let again = |client: &mut Connection| {
        let mut bytes = encode::bind(b"", b"", &[], &[], &[]);
        bytes.extend(encode::execute(b"", 0));
        bytes.extend(encode::sync());
        client.send(&bytes).unwrap();
        client.collect().map(|(_, tag)| tag)
    };
    for _ in 0..3 {
        assert_eq!(batch(&mut client, "begin", ""), "BEGIN");
        assert_eq!(again(&mut client).unwrap(), "BEGIN");
        assert_eq!(batch(&mut client, "select a from t", ""), "SELECT 1");
        assert_eq!(batch(&mut client, "commit", ""), "COMMIT");
        assert_eq!(again(&mut client).unwrap(), "COMMIT");
        assert_eq!(again(&mut client).unwrap(), "COMMIT");
    }
    assert!(early(&stage) > 0);
}

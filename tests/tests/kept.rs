//! Statements that clients give no name, and that workers keep all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{DEADLINE, Stage, wait_until};

const TIMES: usize = 10;

/// Parses `sql` without a name and runs it, as often as it takes.
fn run(client: &mut Connection, sql: &[u8], parameters: &[Option<Vec<u8>>]) {
    for _ in 0..TIMES {
        let mut bytes = encode::parse(b"", sql, &[]);
        bytes.extend(encode::bind(b"", b"", &[], parameters, &[]));
        bytes.extend(encode::describe(b'P', b""));
        bytes.extend(encode::execute(b"", 0));
        bytes.extend(encode::sync());
        client.send(&bytes).unwrap();
        let (rows, _) = client.collect().unwrap();
        assert_eq!(rows.len(), 1);
    }
}

#[test]
fn what_depends_on_nothing_but_the_server_is_planned_once_and_everything_else_each_time() {
    let stage = Stage::start("kept", |m| m.set("workers.max", "1"));
    let server = stage.cluster.master();
    let mut client = stage.client();
    client.query("create table kept_t as select 1 as a").unwrap();
    server.sql("alter system set log_statement = 'all'");
    server.sql("select pg_reload_conf()");
    // Until the catalog is read anew nothing that calls a function is a known read.
    let ready = || {
        let before = server.log().len();
        run(&mut stage.client(), b"select now() as ready", &[]);
        server.log()[before..].contains("execute pgp_")
    };
    wait_until("a statement that is kept", DEADLINE, ready);
    run(&mut client, b"select now() as timeless", &[]);
    run(&mut client, b"select a as of_a_table from kept_t", &[]);
    run(
        &mut client,
        b"select $1::int as with_a_parameter",
        &[Some(b"1".to_vec())],
    );
    let log = server.log();
    let count = |how: &str, what: &str| {
        let lines = log
            .lines()
            .filter(|line| line.contains("execute ") && line.contains(what));
        lines.filter(|line| line.contains(how)).count()
    };
    assert_eq!(count("execute pgp_", "timeless"), TIMES - 2, "{log}");
    assert_eq!(count("<unnamed>", "timeless"), 2);
    for what in ["of_a_table", "with_a_parameter"] {
        assert_eq!(count("<unnamed>", what), TIMES, "{what}: {log}");
    }
}

//! Prepared statements whose tables change: a client that was told what the rows look like never gets others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use pgstmtpool_tests::Stage;
use pgstmtpool_tests::wire::{Connection, WireError, encode};

const WORKERS: usize = 4;

fn stage(name: &str) -> Stage {
    let stage = Stage::start(name, |m| {
        m.set("workers", "{minByClients: [4], clientsPerWorker: 100, max: 4}")
    });
    let mut client = stage.client();
    client.query("create table changing (a int)").unwrap();
    client.query("insert into changing values (1)").unwrap();
    stage
}

/// Prepares `sql` under a name, asks what it is, and runs it once.
fn prepare(client: &mut Connection, name: &[u8], sql: &[u8]) {
    let mut bytes = encode::parse(name, sql, &[]);
    bytes.extend(encode::describe(b'S', name));
    bytes.extend(encode::sync());
    client.send(&bytes).unwrap();
    client.collect().unwrap();
    run(client, name).unwrap();
}

/// Runs a prepared statement without asking what it is; the columns of its first row.
fn run(client: &mut Connection, name: &[u8]) -> Result<usize, WireError> {
    let mut bytes = encode::bind(b"", name, &[], &[], &[]);
    bytes.extend(encode::execute(b"", 0));
    bytes.extend(encode::sync());
    client.send(&bytes)?;
    let (rows, _) = client.collect()?;
    Ok(rows.first().map_or(0, Vec::len))
}

/// Runs `each` while other clients hold some of the workers, ever other ones, so that it gets to every worker.
fn on_every_worker(stage: &Stage, mut each: impl FnMut()) {
    let mut holders: Vec<Connection> = (1..WORKERS).map(|_| stage.client()).collect();
    for n in 0..2 * WORKERS {
        for holder in &mut holders {
            holder.query("begin").unwrap();
            holder.value("select 1").unwrap();
        }
        each();
        holders[n % (WORKERS - 1)].query("commit").unwrap();
        each();
        for holder in &mut holders {
            holder.query("commit").unwrap();
        }
        each();
    }
}

#[test]
fn rows_of_a_table_that_changed_are_refused_on_every_worker_until_the_statement_is_prepared_anew() {
    let stage = stage("changed");
    let mut client = stage.client();
    prepare(&mut client, b"all", b"select * from changing");
    prepare(
        &mut client,
        b"new",
        b"insert into changing values (2) returning *",
    );
    stage
        .client()
        .query("alter table changing add column b text")
        .unwrap();
    on_every_worker(&stage, || {
        for name in [&b"all"[..], b"new"] {
            let error = run(&mut client, name).unwrap_err();
            assert_eq!(error.code(), "0A000", "{error}");
        }
        // In a transaction, which it fails.
        client.query("begin").unwrap();
        assert_eq!(run(&mut client, b"all").unwrap_err().code(), "0A000");
        assert_eq!(client.query("select 1").unwrap_err().code(), "25P02");
        client.query("rollback").unwrap();
    });
    assert_eq!(
        client.value("select count(*) from changing where a = 2").unwrap(),
        "1"
    );
    for name in [&b"all"[..], b"new"] {
        let mut bytes = encode::close(b'S', name);
        bytes.extend(encode::sync());
        client.send(&bytes).unwrap();
        client.collect().unwrap();
    }
    prepare(&mut client, b"all", b"select * from changing");
    on_every_worker(&stage, || assert_eq!(run(&mut client, b"all").unwrap(), 2));
}

#[test]
fn a_statement_whose_rows_stay_the_same_runs_on_every_worker() {
    let stage = stage("unchanged");
    let mut client = stage.client();
    prepare(&mut client, b"all", b"select * from changing");
    on_every_worker(&stage, || assert_eq!(run(&mut client, b"all").unwrap(), 1));
    let mut other = stage.client();
    other.query("create table another (x int)").unwrap();
    on_every_worker(&stage, || assert_eq!(run(&mut client, b"all").unwrap(), 1));
    other.query("create index on changing (a)").unwrap();
    on_every_worker(&stage, || {
        client.query("begin").unwrap();
        assert_eq!(run(&mut client, b"all").unwrap(), 1);
        client.query("commit").unwrap();
    });
}

/// pgjdbc asks a portal for its rows when it runs a statement for the first time, and takes them for the statement's from then on.
#[test]
fn rows_a_client_was_told_of_by_a_portal_are_refused_once_they_changed() {
    let stage = stage("portal");
    let mut client = stage.client();
    let mut bytes = encode::parse(b"all", b"select * from changing", &[]);
    bytes.extend(described("all"));
    client.send(&bytes).unwrap();
    client.collect().unwrap();
    on_every_worker(&stage, || assert_eq!(run(&mut client, b"all").unwrap(), 1));
    let change = "alter table changing add column b text";
    stage.client().query(change).unwrap();
    on_every_worker(&stage, || {
        assert_eq!(run(&mut client, b"all").unwrap_err().code(), "0A000");
    });
}

/// libpq asks each time: it hears what the rows look like now, or the error of a server that still has the old plan, as without us.
#[test]
fn a_client_that_asks_each_portal_for_its_rows_is_never_told_of_others() {
    let stage = stage("portals");
    let mut client = stage.client();
    client
        .send(
            &[
                encode::parse(b"all", b"select * from changing", &[]),
                encode::sync(),
            ]
            .concat(),
        )
        .unwrap();
    client.collect().unwrap();
    let mut columns = || {
        client.send(&described("all")).unwrap();
        client.collect().map(|(rows, _)| rows[0].len())
    };
    on_every_worker(&stage, || assert_eq!(columns().unwrap(), 1));
    let change = "alter table changing add column b text";
    stage.client().query(change).unwrap();
    let mut told = 0;
    on_every_worker(&stage, || match columns() {
        Ok(columns) => {
            assert_eq!(columns, 2);
            told += 1;
        }
        Err(error) => assert_eq!(error.code(), "0A000", "{error}"),
    });
    assert!(
        told > 0,
        "a worker that heard the error parses the statement anew"
    );
}

fn described(name: &str) -> Vec<u8> {
    [
        encode::bind(b"", name.as_bytes(), &[], &[], &[]),
        encode::describe(b'P', b""),
        encode::execute(b"", 0),
        encode::sync(),
    ]
    .concat()
}

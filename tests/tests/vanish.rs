//! Clients that vanish at any moment leave no server in a transaction, no lock, no half statement, and hurt nobody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{DEADLINE, Random, Stage, wait_until};

fn stage(name: &str) -> Stage {
    let stage = Stage::start(name, |m| {
        m.set("workers", "{minByClients: [2], clientsPerWorker: 100, max: 8}")
    });
    stage.direct("create table t (n int, s text)");
    stage.direct("grant all on t to app");
    stage
}

/// What a client has sent when it goes.
fn moments() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let batch = |sql: &str| {
        [
            encode::parse(b"", sql.as_bytes(), &[]),
            encode::bind(b"", b"", &[], &[], &[]),
            encode::execute(b"", 0),
        ]
        .concat()
    };
    let query = |sql: &str| encode::query(sql.as_bytes());
    let insert = encode::query(b"insert into t values (666, 'never')");
    vec![
        ("before anything", vec![]),
        ("in mid-query", vec![query("select pg_sleep(0.4)")]),
        (
            "in the middle of a large answer",
            vec![query("select repeat('x', 1000) from generate_series(1, 20000)")],
        ),
        ("in mid-message", vec![insert[..insert.len() / 2].to_vec()]),
        ("in mid-header", vec![insert[..3].to_vec()]),
        (
            "in a large message",
            vec![[&b"Q\x00\x10\x00\x00select '"[..], &[b'x'; 500_000]].concat()],
        ),
        ("in mid-batch", vec![batch("insert into t values (666, 'never')")]),
        (
            "in mid-batch, flushed",
            vec![
                [
                    batch("insert into t values (666, 'never')"),
                    encode::frame(b'H', &[]),
                ]
                .concat(),
            ],
        ),
        (
            "in mid-pipeline",
            vec![
                [
                    batch("select 1"),
                    encode::sync(),
                    batch("insert into t values (666, 'never')"),
                ]
                .concat(),
            ],
        ),
        (
            "in mid-COPY",
            vec![query("copy t from stdin"), encode::frame(b'd', b"666\tnever\n")],
        ),
        (
            "in mid-COPY by the extended protocol",
            vec![
                [batch("copy t from stdin"), encode::sync()].concat(),
                encode::frame(b'd', b"666\tnever\n"),
            ],
        ),
        (
            "in mid-CopyData",
            vec![query("copy t from stdin"), b"d\x00\x00\xff\xff666\tnev".to_vec()],
        ),
        (
            "in COPY OUT",
            vec![query(
                "copy (select repeat('x', 1000) from generate_series(1, 20000)) to stdout",
            )],
        ),
        (
            "in a transaction",
            vec![query("begin"), query("insert into t values (666, 'never')")],
        ),
        (
            "in a transaction with a running statement",
            vec![
                query("begin"),
                query("insert into t values (666, 'never'); select pg_sleep(0.4)"),
            ],
        ),
        (
            "in a failed transaction",
            vec![
                query("begin"),
                query("insert into t values (666, 'x'); select 1/0"),
            ],
        ),
        ("with a temp table", vec![query("create temp table w (n int)")]),
        (
            "with an advisory lock",
            vec![query("select pg_advisory_lock(99)")],
        ),
        (
            "with a lock on the table",
            vec![query("begin"), query("lock table t in access exclusive mode")],
        ),
    ]
}

fn leave(stage: &Stage, messages: &[Vec<u8>], politely: bool, wait: bool) {
    let mut client = stage.client();
    for (n, message) in messages.iter().enumerate() {
        client.send(message).unwrap();
        // Let the server get there, except before the last: that one is cut off wherever it is.
        if wait || n + 1 < messages.len() {
            std::thread::sleep(Duration::from_millis(40));
        }
    }
    if politely {
        let _ = client.send(&encode::frame(b'X', &[]));
    }
}

#[test]
fn whenever_a_client_vanishes_its_server_is_clean_and_nothing_half_done_stays() {
    let stage = stage("vanish");
    let mut neighbour = stage.client();
    for (moment, messages) in moments() {
        for (politely, wait) in [(false, true), (false, false), (true, true)] {
            leave(&stage, &messages, politely, wait);
            neighbour
                .query("select 1")
                .unwrap_or_else(|e| panic!("{moment}: the neighbour: {e}"));
        }
        stage.wait_servers_clean(Duration::from_secs(10));
        let never = stage.direct("select count(*) from t where n = 666");
        assert_eq!(never, "0", "{moment}: something half done was committed");
        let locks = stage.direct(
            "select count(*) from pg_locks l join pg_stat_activity a using (pid) \
                                  where a.usename = 'app' and l.locktype in ('advisory', 'relation')",
        );
        assert_eq!(locks, "0", "{moment}: a lock was left");
    }
    assert!(stage.servers_of_app() <= 8);
}

#[test]
fn a_storm_of_clients_that_vanish_leaves_the_pool_whole() {
    let stage = stage("vanish-storm");
    let moments = moments();
    let mut random = Random::of_test(1);
    let mut neighbour = stage.client();
    for _ in 0..300 {
        let (_, messages) = random.choose(&moments);
        leave(&stage, messages, random.below(2) == 0, false);
        if random.below(4) == 0 {
            assert_eq!(neighbour.value("select 42").unwrap(), "42");
        }
    }
    stage.wait_servers_clean(Duration::from_secs(20));
    assert_eq!(stage.direct("select count(*) from t where n = 666"), "0");
    for n in 0..50 {
        assert_eq!(
            stage.client().value(&format!("select {n}")).unwrap(),
            n.to_string()
        );
    }
    assert!(stage.servers_of_app() <= 8);
}

#[test]
fn a_client_that_stalls_in_mid_batch_blocks_nobody_and_its_locks_end_with_it() {
    let stage = stage("vanish-stall");
    let mut staller = stage.client();
    let half = [
        encode::parse(b"", b"insert into t values (1, 'half')", &[]),
        encode::bind(b"", b"", &[], &[], &[]),
        encode::execute(b"", 0),
    ];
    staller.send(&half.concat()).unwrap();
    let mut others: Vec<Connection> = (0..10).map(|_| stage.client()).collect();
    for other in &mut others {
        other.set_timeout(Duration::from_secs(5));
        other.query("insert into t values (2, 'whole')").unwrap();
    }
    drop(staller);
    stage.wait_servers_clean(Duration::from_secs(10));
    assert_eq!(stage.direct("select count(*) from t where n = 1"), "0");
    assert_eq!(stage.direct("select count(*) from t where n = 2"), "10");
}

#[test]
fn a_dead_server_connection_hurts_only_what_was_in_flight_on_it() {
    let stage = stage("vanish-server");
    let mut clients: Vec<Connection> = (0..6).map(|_| stage.client()).collect();
    for round in 0..5 {
        for client in &mut clients {
            assert_eq!(client.value("select 1").unwrap(), "1", "round {round}");
        }
        // All are idle now: nothing is in flight, so nobody may notice.
        stage.direct("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app'");
        std::thread::sleep(Duration::from_millis(50));
    }
    // A write in flight: its outcome is unknown to us, and that is what the client is told; the session stays.
    let client = &mut clients[0];
    client
        .send(&encode::query(b"insert into t select 5, pg_sleep(3)::text"))
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    stage.direct("select count(pg_terminate_backend(pid)) from pg_stat_activity where query like 'insert into t select 5%'");
    let error = client.collect().unwrap_err();
    assert!(["08006", "57P01"].contains(&error.code()), "{error}");
    if error.code() == "08006" {
        assert_eq!(client.value("select 1").unwrap(), "1");
    }
}

/// A client in a transaction that has written, whose server is gone while it asks for nothing.
fn in_a_lost_transaction(stage: &Stage) -> Connection {
    let mut client = stage.client();
    client.query("begin").unwrap();
    client.query("insert into t values (7, 'lost')").unwrap();
    let theirs =
        "from pg_stat_activity where query like 'insert into t values (7%' and state = 'idle in transaction'";
    stage.direct(&format!("select count(pg_terminate_backend(pid)) {theirs}"));
    wait_until("the server to be gone", DEADLINE, || {
        stage.direct("select count(*) from pg_stat_activity where state = 'idle in transaction'") == "0"
    });
    std::thread::sleep(Duration::from_millis(100));
    client
}

fn tell(client: &mut Connection, bytes: &[u8]) -> Vec<String> {
    client.send(bytes).unwrap();
    client.outline().unwrap()
}

#[test]
fn a_transaction_whose_server_died_between_two_statements_says_so_at_the_next_one() {
    let stage = stage("vanish-idle-in-transaction");
    let query = |sql: &str| encode::query(sql.as_bytes());
    let mut client = in_a_lost_transaction(&stage);
    assert_eq!(tell(&mut client, &query("select 1")), ["N", "08006", "ZE"]);
    assert_eq!(tell(&mut client, &query("select 1")), ["25P02", "ZE"]);
    assert_eq!(tell(&mut client, &query("")), ["I", "ZE"]);
    assert_eq!(tell(&mut client, &query("commit")), ["C", "ZI"]);
    let mut client = in_a_lost_transaction(&stage);
    assert_eq!(tell(&mut client, &query("rollback")), ["N", "C", "ZI"]);
    // In pieces, and so not looked at as a whole.
    let mut client = in_a_lost_transaction(&stage);
    let flushed = [
        encode::parse(b"", b"select 1", &[]),
        encode::frame(b'H', &[]),
        encode::sync(),
    ]
    .concat();
    assert_eq!(tell(&mut client, &flushed), ["N", "08006", "ZE"]);
    assert_eq!(tell(&mut client, &query("select 1")), ["25P02", "ZE"]);
    assert_eq!(stage.direct("select count(*) from t"), "0");
}

#[test]
fn the_commit_of_a_transaction_whose_server_died_is_an_error() {
    let stage = stage("vanish-before-commit");
    let batch = |sql: &[u8]| {
        [
            encode::parse(b"", sql, &[]),
            encode::bind(b"", b"", &[], &[], &[]),
            encode::execute(b"", 0),
            encode::sync(),
        ]
        .concat()
    };
    for commit in [encode::query(b"commit"), batch(b"commit")] {
        let mut client = in_a_lost_transaction(&stage);
        assert_eq!(tell(&mut client, &commit), ["N", "08006", "ZI"]);
        assert_eq!(client.value("select 1").unwrap(), "1");
    }
    assert_eq!(stage.direct("select count(*) from t"), "0");
}

/// A driver that prepares first and then executes must not find itself outside of its transaction in between: what it executes
/// would be committed on its own.
#[test]
fn preparing_a_statement_does_not_end_a_transaction_whose_server_died() {
    let stage = stage("vanish-prepare");
    let prepare = |name: &[u8], sql: &[u8]| {
        [
            encode::parse(name, sql, &[]),
            encode::describe(b'S', name),
            encode::sync(),
        ]
        .concat()
    };
    let execute = |name: &[u8]| {
        [
            encode::bind(b"", name, &[], &[], &[]),
            encode::execute(b"", 0),
            encode::sync(),
        ]
        .concat()
    };
    let mut client = in_a_lost_transaction(&stage);
    let insert = prepare(b"i", b"insert into t values (8, 'alone')");
    assert_eq!(tell(&mut client, &insert), ["N", "08006", "ZE"]);
    assert_eq!(tell(&mut client, &insert), ["25P02", "ZE"]);
    assert_eq!(tell(&mut client, &execute(b"i")), ["25P02", "ZE"]);
    // Its end may be prepared as any other statement.
    assert_eq!(
        tell(&mut client, &prepare(b"r", b"rollback")),
        ["1", "t", "n", "ZE"]
    );
    assert_eq!(tell(&mut client, &prepare(b"i", b"select 1")), ["25P02", "ZE"]);
    assert_eq!(tell(&mut client, &execute(b"r")), ["2", "C", "ZI"]);
    assert_eq!(tell(&mut client, &execute(b"i")), ["26000", "ZI"]);
    assert_eq!(stage.direct("select count(*) from t"), "0");
}

#[test]
fn known_reads_survive_the_death_of_their_server() {
    let stage = stage("vanish-reads");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|n| {
            let (mut client, stop) = (stage.client(), std::sync::Arc::clone(&stop));
            std::thread::spawn(move || {
                let (mut served, mut cut) = (0, 0);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match client.value(&format!("select {n}")) {
                        Ok(value) => assert_eq!(value, n.to_string()),
                        // Killed between two parts of an answer of which the client has the first: not repeatable.
                        Err(error) => {
                            assert!(error.to_string().contains("while it answered"), "{error}");
                            cut += 1;
                        }
                    }
                    served += 1;
                }
                (served, cut)
            })
        })
        .collect();
    // A statement is a known read once the proxy has read the catalog.
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..15 {
        std::thread::sleep(Duration::from_millis(100));
        stage.direct("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app'");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let done = readers.into_iter().map(|t| t.join().unwrap());
    let (served, cut) = done.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("{served} served, {cut} cut off in the middle");
    assert!(served > 100 && cut <= 5, "{served} served, {cut} cut off");
}

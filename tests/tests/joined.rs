//! Reads that leave for a server together and share one Sync there, and so a transaction: nobody is to notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{DEADLINE, Random, Stage, wait_until};

/// One server connection, and clients that send while somebody else has it: they are put on it together.
struct Together {
    stage: Stage,
    holder: Connection,
    clients: Vec<Connection>,
}

impl Together {
    fn start(name: &str, clients: usize, settings: &[(&str, &str)]) -> Self {
        let stage = Stage::start(name, |m| {
            let m = m.set("workers", "{minByClients: [1], clientsPerWorker: 1000, max: 1}");
            settings.iter().fold(m, |m, (path, value)| m.set(path, value))
        });
        let holder = stage.client();
        let clients = (0..clients).map(|_| stage.client()).collect();
        Self {
            stage,
            holder,
            clients,
        }
    }

    /// Each client sends its request; what each got (its value, or the code of its error), and after what time.
    fn send(&mut self, requests: &[Vec<u8>]) -> Vec<(Result<String, String>, Duration)> {
        self.holder.query("begin").unwrap();
        self.holder.query("select 1").unwrap();
        for (client, request) in self.clients.iter_mut().zip(requests) {
            client.send(request).unwrap();
        }
        std::thread::sleep(Duration::from_millis(30));
        self.holder.query("commit").unwrap();
        let begun = Instant::now();
        let answers = self.clients.iter_mut().map(|client| {
            let answer = client.collect();
            let answer = answer.map(|(rows, _)| rows[0][0].clone().unwrap_or_default());
            (answer.map_err(|error| error.code().to_owned()), begun.elapsed())
        });
        answers.collect()
    }

    /// The same until reads have been joined, which their shape has to be known for.
    fn warm(&mut self, requests: &[Vec<u8>]) {
        wait_until("reads that share a Sync", DEADLINE, || {
            let before = joined(&self.stage);
            self.send(requests);
            joined(&self.stage) > before
        });
    }
}

/// How many reads had the Sync of one behind them.
fn joined(stage: &Stage) -> u64 {
    stage.stat("reads_joined")
}

/// A batch that binds `text` to one parameter.
fn batch(text: &str, parameter: &str) -> Vec<u8> {
    let mut bytes = encode::parse(b"", text.as_bytes(), &[]);
    bytes.extend(encode::bind(
        b"",
        b"",
        &[],
        &[Some(parameter.as_bytes().to_vec())],
        &[],
    ));
    bytes.extend(encode::describe(b'P', b""));
    bytes.extend(encode::execute(b"", 0));
    bytes.extend(encode::sync());
    bytes
}

fn query(text: &str) -> Vec<u8> {
    encode::query(text.as_bytes())
}

#[test]
fn reads_that_share_a_sync_get_their_own_answers_in_both_protocols() {
    let mut together = Together::start("joined", 30, &[]);
    for kind in ["queries", "batches", "both"] {
        let request = |n: usize, round: usize| match (kind, n % 10) {
            ("queries", _) | ("both", 0..5) => query(&format!("select '{round}-{n}'::text")),
            _ => batch("select $1::text", &format!("{round}-{n}")),
        };
        let requests = |round| (0..30).map(|n| request(n, round)).collect::<Vec<_>>();
        together.warm(&requests(0));
        let before = joined(&together.stage);
        for round in 1..20 {
            for (n, (answer, _)) in together.send(&requests(round)).into_iter().enumerate() {
                assert_eq!(answer, Ok(format!("{round}-{n}")), "{kind}");
            }
        }
        let shared = joined(&together.stage) - before;
        assert!(shared > 100, "{kind}: only {shared} of 570 reads shared a Sync");
    }
}

#[test]
fn a_read_that_fails_fails_alone() {
    let mut together = Together::start("joined-fails", 16, &[]);
    let requests = |zero: usize| {
        let divisor = |n| if n == zero { 0 } else { n + 1 };
        (0..16)
            .map(|n| batch("select 1000 / $1::int", &divisor(n).to_string()))
            .collect::<Vec<_>>()
    };
    for zero in 0..16 {
        // Their shape has failed in the round before.
        together.warm(&requests(usize::MAX));
        for (n, (answer, _)) in together.send(&requests(zero)).into_iter().enumerate() {
            let right = if n == zero {
                Err("22012".to_owned())
            } else {
                Ok((1000 / (n + 1)).to_string())
            };
            assert_eq!(answer, right, "client {n} while {zero} fails");
        }
    }
}

#[test]
fn reads_that_take_milliseconds_are_not_taken_for_short_ones_by_and_by() {
    let mut together = Together::start("joined-milliseconds", 8, &[]);
    let read = query("select count(*) from generate_series(1, 30000)");
    for _ in 0..400 {
        together.holder.send(&read).unwrap();
        together.holder.collect().unwrap();
    }
    let before = joined(&together.stage);
    for _ in 0..5 {
        together.send(&vec![read.clone(); 8]);
    }
    assert_eq!(joined(&together.stage) - before, 0, "of 40 reads of milliseconds");
}

#[test]
fn nobody_waits_for_a_read_that_takes_its_time_and_shares_its_sync() {
    let mut together = Together::start("joined-slow", 8, &[]);
    let requests = |slow: usize| {
        let rows = |n| if n == slow { 5_000_000 } else { 1 };
        let text = |n| format!("select count(*) from generate_series(1, {})", rows(n));
        (0..8).map(|n| query(&text(n))).collect::<Vec<_>>()
    };
    for slow in [2, 7] {
        for _ in 0..20 {
            together.send(&requests(usize::MAX));
        }
        together.warm(&requests(usize::MAX));
        let answers = together.send(&requests(slow));
        let time = |n: usize| answers[n].1;
        println!("{:?}", answers.iter().map(|(_, time)| *time).collect::<Vec<_>>());
        assert!(
            time(slow) > Duration::from_millis(200),
            "it takes its time: {:?}",
            time(slow)
        );
        assert!(
            time(slow - 1) < time(slow) / 2,
            "waited for what shares its Sync: {:?}",
            time(slow - 1)
        );
    }
}

/// The server waits for it, not for one of those behind: nothing is cancelled.
#[test]
fn who_reads_slowly_gets_all_of_a_large_answer_that_shares_its_sync() {
    let mut together = Together::start("joined-large", 8, &[]);
    let text = |rows: u32| query(&format!("select x from generate_series(1, {rows}) x"));
    for _ in 0..20 {
        together.send(&vec![text(1); 8]);
    }
    together.warm(&vec![text(1); 8]);
    together.holder.query("begin").unwrap();
    together.holder.query("select 1").unwrap();
    let rows = |n: usize| if n == 2 { 1_000_000 } else { 1 };
    for (n, client) in together.clients.iter_mut().enumerate() {
        client.send(&text(rows(n))).unwrap();
    }
    std::thread::sleep(Duration::from_millis(30));
    together.holder.query("commit").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    for (n, client) in together.clients.iter_mut().enumerate() {
        let (answer, _) = client.collect().unwrap();
        assert_eq!(answer.len(), rows(n) as usize, "client {n}");
    }
}

#[test]
fn nothing_is_joined_where_another_isolation_level_is_the_default_or_it_is_switched_off() {
    let requests: Vec<_> = (0..16).map(|n| query(&format!("select {n}"))).collect();
    let never = |name: &str, settings: &[(&str, &str)], sql: Option<&str>| {
        let mut together = Together::start(name, 16, settings);
        if let Some(sql) = sql {
            together.stage.cluster.master().sql(sql);
            // The catalog is read anew, and connections with what roles have set.
            together
                .holder
                .query("create table made_for_the_catalog ()")
                .unwrap();
            std::thread::sleep(Duration::from_secs(3));
        }
        let before = joined(&together.stage);
        for _ in 0..60 {
            together.send(&requests);
        }
        assert_eq!(joined(&together.stage), before, "{name}");
    };
    never("joined-off", &[("workers.pipeline.joinReads", "false")], None);
    let sql = "alter role app set default_transaction_isolation = 'serializable'";
    never("joined-serializable", &[], Some(sql));
}

/// What a transaction locks it keeps to its end: reads of several tables in one could be in each other's way with DDL.
#[test]
fn ddl_that_locks_table_after_table_meets_no_deadlock_with_joined_reads() {
    let stage = Stage::start("joined-ddl", |m| m.set("workers", "{minByClients: [2], max: 4}"));
    stage
        .client()
        .query("create table joined_a as select 1 as x; create table joined_b as select 1 as x")
        .unwrap();
    let (stop, reads, before) = (AtomicBool::new(false), AtomicU64::new(0), joined(&stage));
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (stage, stop, reads) = (&stage, &stop, &reads);
            scope.spawn(move || {
                let mut random = Random::of_test(number);
                let mut client = stage.client();
                while !stop.load(Ordering::Relaxed) {
                    let table = ["joined_a", "joined_b"][random.below(2) as usize];
                    assert_eq!(
                        client.value(&format!("select count(*) from {table}")).unwrap(),
                        "1"
                    );
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut owner = stage.cluster.master().connect("app");
        owner.query("set deadlock_timeout = '300ms'").unwrap();
        let until = Instant::now() + Duration::from_secs(6);
        let mut rounds = 0;
        while Instant::now() < until {
            for (first, second) in [("joined_a", "joined_b"), ("joined_b", "joined_a")] {
                owner.query("begin").unwrap();
                owner.query(&format!("lock table {first}")).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                owner.query(&format!("lock table {second}")).unwrap();
                owner.query("commit").unwrap();
                std::thread::sleep(Duration::from_millis(200));
                rounds += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        println!("{rounds} rounds");
    });
    let joined = joined(&stage) - before;
    println!("{} reads, {joined} of them joined", reads.load(Ordering::Relaxed));
    assert!(joined > 100, "{joined}");
}

//! Many clients at once, all kinds of requests, aborts, cancels, dying servers: each gets exactly its own answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgstmtpool_tests::wire::{Address, Connection, WireError, encode};
use pgstmtpool_tests::{Random, Stage};

/// Errors a client may see when servers die and statements are cancelled. Everything else is a fault.
const ALLOWED: &[&str] = &["57014", "08006", "57P01", "53300", "22012", "25P02"];

struct Client<'a> {
    address: &'a Address,
    number: u64,
    random: Random,
    connection: Connection,
    answers: u64,
}

impl Client<'_> {
    fn step(&mut self) -> Result<(), WireError> {
        let marker = format!("{}-{}", self.number, self.answers);
        match self.random.below(12) {
            0..=3 => self.expect(&format!("select '{marker}'"), &marker),
            4 => {
                let sql = format!("select '{marker}', pg_sleep(0.00{})", self.random.below(9));
                self.expect(&sql, &marker)
            }
            5 => {
                let rows = self
                    .connection
                    .query_params("select $1::text", &[Some(&marker)])?;
                assert_eq!(rows[0][0].as_deref(), Some(marker.as_str()));
                Ok(())
            }
            6 => self.pipeline(),
            7 => {
                self.connection.query("begin")?;
                self.expect(&format!("select '{marker}'"), &marker)?;
                self.connection.query("commit").map(drop)
            }
            8 => {
                let error = self.connection.query("select 1/0").unwrap_err();
                if error.code() == "22012" {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            9 => {
                let rows = self
                    .connection
                    .query(&format!("select '{marker}' from generate_series(1, 500)"))?;
                assert!(rows.len() == 500 && rows.iter().all(|r| r[0].as_deref() == Some(marker.as_str())));
                Ok(())
            }
            10 => self.cancelled(&marker),
            _ => self.leave(),
        }
    }

    fn expect(&mut self, sql: &str, right: &str) -> Result<(), WireError> {
        let got = self.connection.value(sql)?;
        assert_eq!(got, right, "client {} got another's answer", self.number);
        Ok(())
    }

    fn pipeline(&mut self) -> Result<(), WireError> {
        let markers: Vec<String> = (0..5)
            .map(|n| format!("{}-{}-{n}", self.number, self.answers))
            .collect();
        let queries: Vec<u8> = markers
            .iter()
            .flat_map(|m| encode::query(format!("select '{m}'").as_bytes()))
            .collect();
        self.connection.send(&queries)?;
        // All answers are read, also behind an error, so that the next request begins in step.
        let mut first_error = None;
        for marker in &markers {
            match self.connection.collect() {
                Ok((rows, _)) => assert_eq!(rows[0][0].as_deref(), Some(marker.as_str())),
                Err(error) if error.code().is_empty() => return Err(error),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn cancelled(&mut self, marker: &str) -> Result<(), WireError> {
        let sql = format!("select '{marker}', pg_sleep(0.01)");
        self.connection.send(&encode::query(sql.as_bytes()))?;
        if self.random.below(2) == 0 {
            std::thread::sleep(Duration::from_millis(self.random.below(12)));
        }
        let _ = self.connection.cancel(self.address);
        let (rows, _) = self.connection.collect()?;
        assert_eq!(rows[0][0].as_deref(), Some(marker));
        Ok(())
    }

    /// Goes in the middle of something and comes back as a new client.
    fn leave(&mut self) -> Result<(), WireError> {
        let half: &[&[u8]] = &[
            &encode::query(b"select pg_sleep(0.02)"),
            &encode::query(b"begin; create temp table gone (n int)"),
            &encode::parse(b"x", b"select 1", &[]),
            b"Q\0\0",
        ];
        let message = *self.random.choose(half);
        let _ = self.connection.send(message);
        self.reconnect()
    }

    fn reconnect(&mut self) -> Result<(), WireError> {
        self.connection = Connection::open(self.address, "app", "app")?;
        Ok(())
    }

    fn run(mut self, stop: &AtomicBool, total: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            self.answers += 1;
            let Err(error) = self.step() else {
                total.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let closed = matches!(error, WireError::Closed);
            let fatal = matches!(&error, WireError::Db(e) if e.is_fatal());
            assert!(
                closed || ALLOWED.contains(&error.code()),
                "client {}: {error}",
                self.number
            );
            if closed || fatal {
                while self.reconnect().is_err() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            } else if self.connection.status != b'I' {
                let _ = self.connection.query("rollback");
            }
        }
    }
}

fn storm(name: &str, clients: u64, seconds: u64, kills: bool) {
    let stage = Stage::start(name, |m| {
        m.set("workers", "{minByClients: [2], clientsPerWorker: 50, max: 8}")
    });
    let address = stage.proxy.tcp();
    let seed = Random::of_test(11).below(1 << 40);
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                let random = Random::seeded(seed + number);
                let connection = Connection::open(&address, "app", "app").unwrap();
                let client = Client {
                    address: &address,
                    number,
                    random,
                    connection,
                    answers: 0,
                };
                let (stop, total) = (&stop, &total);
                scope.spawn(move || client.run(stop, total))
            })
            .collect();
        let mut random = Random::seeded(seed);
        for _ in 0..seconds * 10 {
            std::thread::sleep(Duration::from_millis(100));
            if kills && random.below(2) == 0 {
                let sql = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app' order by random() limit 1";
                stage.direct(&format!("select count(*) from ({sql}) x"));
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("every client must get its own answers only");
        }
    });
    println!("{} answers", total.load(Ordering::Relaxed));
    assert!(
        total.load(Ordering::Relaxed) > clients,
        "they must have been served"
    );
    stage.wait_servers_clean(Duration::from_secs(20));
    assert_eq!(stage.client().value("select 'after'").unwrap(), "after");
}

#[test]
fn sixty_clients_under_aborts_and_cancels_get_their_own_answers() {
    storm("mixed", 60, 8, false);
}

#[test]
fn sixty_clients_get_their_own_answers_while_servers_die() {
    storm("mixed-kills", 60, 8, true);
}

#[test]
fn a_thousand_clients_get_their_own_answers() {
    let stage = Stage::start("mixed-thousand", |m| {
        m.set("workers", "{minByClients: [2], clientsPerWorker: 100, max: 10}")
    });
    let mut clients: Vec<Connection> = (0..900).map(|_| stage.client()).collect();
    for round in 0..3 {
        for (n, client) in clients.iter_mut().enumerate() {
            client
                .send(&encode::query(format!("select '{round}-{n}'").as_bytes()))
                .unwrap();
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let (rows, _) = client.collect().unwrap();
            assert_eq!(rows[0][0].as_deref(), Some(format!("{round}-{n}").as_str()));
        }
    }
}

/// Half of them take so long that those behind them are moved to another worker; who is moved too often gets one for itself.
#[test]
fn reads_behind_others_that_overrun_are_all_answered() {
    let stage = Stage::start("moved", |m| {
        m.set("workers", "{minByClients: [8], clientsPerWorker: 100, max: 8}")
    });
    let until = std::time::Instant::now() + Duration::from_secs(5);
    std::thread::scope(|scope| {
        for number in 0..12 {
            let stage = &stage;
            scope.spawn(move || {
                let mut random = Random::of_test(number);
                let mut client = stage.client();
                while std::time::Instant::now() < until {
                    let rows = [100, 120_000][random.below(2) as usize] + random.below(100);
                    let sql = format!("select count(*) from generate_series(1, {rows})");
                    let got = client.value(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
                    assert_eq!(got, rows.to_string());
                }
            });
        }
    });
}

/// Answers of many short reads are fetched together; one among them that takes its time must not keep those before it.
#[test]
fn answers_before_a_read_that_takes_its_time_do_not_wait_for_it() {
    let stage = Stage::start("gathered", |m| {
        m.set("workers", "{minByClients: [1], clientsPerWorker: 1000, max: 1}")
    });
    let mut holder = stage.client();
    let mut clients: Vec<Connection> = (0..15).map(|_| stage.client()).collect();
    // All wait for the only worker, are put on it together, and tell how long each has waited for its answer.
    let mut burst = |third: u64| -> Vec<Duration> {
        let rows = |n: usize| if n == 2 { third } else { 1 };
        holder.query("begin").unwrap();
        holder.query("select 1").unwrap();
        for (n, client) in clients.iter_mut().enumerate() {
            let sql = format!("select count(*) from generate_series(1, {})", rows(n));
            client.send(&encode::query(sql.as_bytes())).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
        holder.query("commit").unwrap();
        let begun = std::time::Instant::now();
        let mut times = Vec::new();
        for (n, client) in clients.iter_mut().enumerate() {
            let (answer, _) = client.collect().unwrap();
            assert_eq!(answer[0][0].as_deref(), Some(rows(n).to_string().as_str()));
            times.push(begun.elapsed());
        }
        times
    };
    for _ in 0..20 {
        burst(1);
    }
    let times = burst(5_000_000);
    println!("{times:?}");
    assert!(
        times[2] > Duration::from_millis(200),
        "it must take its time: {times:?}"
    );
    assert!(
        times[1] < times[2] / 2,
        "waited for what came behind them: {times:?}"
    );
}

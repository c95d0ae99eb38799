//! Thousands of clients at once, most of whom wait: aborts, cancels, timeouts, dying servers and a queue that is too long. Each
//! gets exactly its own answers, its own errors and its own settings; what was acknowledged is there once, what was refused is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Address, Connection, WireError, encode};
use pgstmtpool_tests::{Random, Stage, Stops, raise_open_files};

const CLIENTS: u64 = 2400;
const THREADS: u64 = 4;
const STORM: Duration = Duration::from_secs(10);
const WORKERS: usize = 8;
const QUERY_WAIT: Duration = Duration::from_secs(1);

/// What a server that dies and a queue that is full may be answered with, to anybody.
const OF_THE_STORM: [&str; 3] = ["53300", "08006", "57P01"];

/// Every seventh client has a statement_timeout.
const LIMITED: u64 = 7;

/// What a client sent and has not yet heard of.
enum Asked {
    /// Queries, each answered by one row with this text.
    Markers(Vec<String>),
    /// A query that fails with this code.
    Fails(&'static str),
    /// A statement that sleeps longer than this client's statement_timeout.
    Overtime,
    /// A statement that sleeps, and a cancel for it.
    Cancelled(String),
    /// BEGIN, a query, COMMIT.
    Transaction(String),
    /// An INSERT.
    Written(u64),
    /// This client's own TimeZone.
    Zone,
}

struct Client<'a> {
    address: &'a Address,
    number: u64,
    connection: Connection,
    /// How many requests it has made; makes each of its texts unlike all others.
    count: u64,
    /// A cancel of this or the request before may still hit.
    cancelled: u8,
}

/// What all clients of a thread heard.
#[derive(Default)]
struct Heard {
    answers: u64,
    /// Errors by what was asked and code.
    errors: BTreeMap<(&'static str, String), u64>,
    written: BTreeSet<(u64, u64)>,
    refused: BTreeSet<(u64, u64)>,
}

impl Heard {
    fn merge(&mut self, other: Self) {
        self.answers += other.answers;
        for (key, count) in other.errors {
            *self.errors.entry(key).or_default() += count;
        }
        self.written.extend(other.written);
        self.refused.extend(other.refused);
    }

    fn count(&self, asked: &str, code: &str) -> u64 {
        let of =
            |((a, c), _): &(&(&'static str, String), &u64)| (asked.is_empty() || *a == asked) && c == code;
        self.errors.iter().filter(of).map(|(_, count)| count).sum()
    }
}

impl<'a> Client<'a> {
    fn new(address: &'a Address, number: u64) -> Self {
        Self {
            connection: connect(address, number),
            address,
            number,
            count: 0,
            cancelled: 0,
        }
    }

    fn is_limited(&self) -> bool {
        self.number.is_multiple_of(LIMITED)
    }

    fn marker(&self, n: u64) -> String {
        format!("{}-{}-{n}", self.number, self.count)
    }

    /// Sends something.
    fn ask(&mut self, random: &mut Random) -> Result<Asked, WireError> {
        self.count += 1;
        let marker = self.marker(0);
        let select = format!("select '{marker}'");
        let (texts, asked) = match random.below(16) {
            0..=4 => (vec![select], Asked::Markers(vec![marker])),
            5 => {
                let markers: Vec<String> = (0..4).map(|n| self.marker(n)).collect();
                let texts = markers.iter().map(|m| format!("select '{m}'")).collect();
                (texts, Asked::Markers(markers))
            }
            6 => return self.ask_extended(marker),
            7 => (vec![format!("{select}, 1/0")], Asked::Fails("22012")),
            8 if self.is_limited() => (vec![format!("{select}, pg_sleep(0.5)")], Asked::Overtime),
            8 | 9 => (
                vec![format!("{select}, pg_sleep(0.00{})", random.below(9))],
                Asked::Markers(vec![marker]),
            ),
            10 => {
                self.cancelled = 2;
                (
                    vec![format!("{select}, pg_sleep(0.02)")],
                    Asked::Cancelled(marker),
                )
            }
            11 => {
                let texts = ["begin".to_owned(), select, "commit".to_owned()];
                (texts.to_vec(), Asked::Transaction(marker))
            }
            12 => {
                let text = format!("insert into said values ({}, {})", self.number, self.count);
                (vec![text], Asked::Written(self.count))
            }
            13 => (vec!["select current_setting('TimeZone')".to_owned()], Asked::Zone),
            14 => {
                let text = format!("{select} from generate_series(1, 200)");
                (vec![text], Asked::Markers(vec![marker]))
            }
            _ => {
                self.leave(random);
                (vec![select], Asked::Markers(vec![marker]))
            }
        };
        let bytes: Vec<u8> = texts
            .iter()
            .flat_map(|text| encode::query(text.as_bytes()))
            .collect();
        self.connection.send(&bytes)?;
        Ok(asked)
    }

    fn ask_extended(&mut self, marker: String) -> Result<Asked, WireError> {
        let value = Some(marker.clone().into_bytes());
        let bytes = [
            encode::parse(b"mine", b"select $1::text", &[]),
            encode::bind(b"", b"mine", &[], &[value], &[]),
            encode::execute(b"", 0),
            encode::close(b'S', b"mine"),
            encode::sync(),
        ];
        self.connection.send(&bytes.concat())?;
        Ok(Asked::Markers(vec![marker]))
    }

    /// Goes in the middle of something and comes back as another connection.
    fn leave(&mut self, random: &mut Random) {
        let half = [
            encode::query(b"select pg_sleep(0.02)"),
            encode::query(b"begin; create temp table gone (n int)"),
            encode::parse(b"mine", b"select 'half'", &[]),
            b"Q\0\0".to_vec(),
        ];
        let message: &Vec<u8> = random.choose(&half);
        let _ = self.connection.send(message);
        self.connection = connect(self.address, self.number);
    }

    /// Reads the answers.
    fn hear(&mut self, asked: &Asked, heard: &mut Heard) {
        let done = match asked {
            Asked::Markers(markers) => self.hear_markers(markers, heard),
            Asked::Fails(code) => self.hear_one(heard, "fails", &[code], &mut |_| panic!("it must fail")),
            Asked::Overtime => self.hear_one(heard, "overtime", &["57014"], &mut |_| {
                panic!("it must be stopped")
            }),
            Asked::Cancelled(marker) => {
                let right = marker.clone();
                self.hear_one(heard, "cancelled", &["57014"], &mut |row| assert_eq!(row, right))
            }
            Asked::Transaction(marker) => self.hear_transaction(marker, heard),
            Asked::Written(count) => self.hear_write(*count, heard),
            Asked::Zone => {
                let right = zone(self.number);
                self.hear_one(heard, "zone", &[], &mut |row| assert_eq!(row, right))
            }
        };
        if done.is_err() {
            self.connection = connect(self.address, self.number);
        } else if self.connection.status != b'I' {
            // A transaction of which something failed.
            let _ = self.connection.query("rollback");
        }
        self.cancelled = self.cancelled.saturating_sub(1);
    }

    fn hear_markers(&mut self, markers: &[String], heard: &mut Heard) -> Result<(), ()> {
        markers.iter().try_for_each(|marker| {
            self.hear_one(heard, "markers", &[], &mut |row| {
                assert_eq!(row, marker, "another's answer")
            })
        })
    }

    fn hear_transaction(&mut self, marker: &str, heard: &mut Heard) -> Result<(), ()> {
        let after_error = ["25P02", "25P01"];
        self.hear_one(heard, "transaction", &after_error, &mut |_| {})?;
        self.hear_one(heard, "transaction", &after_error, &mut |row| {
            assert_eq!(row, marker, "another's answer")
        })?;
        self.hear_one(heard, "transaction", &after_error, &mut |_| {})
    }

    fn hear_write(&mut self, count: u64, heard: &mut Heard) -> Result<(), ()> {
        let (before, full) = (heard.answers, heard.count("write", "53300"));
        let done = self.hear_one(heard, "write", &[], &mut |_| {});
        if heard.answers > before {
            heard.written.insert((self.number, count));
        } else if heard.count("write", "53300") > full {
            heard.refused.insert((self.number, count));
        }
        done
    }

    /// One answer, up to its ReadyForQuery. An error: the connection is gone.
    fn hear_one(
        &mut self,
        heard: &mut Heard,
        asked: &'static str,
        expected: &[&str],
        check: &mut dyn FnMut(&str),
    ) -> Result<(), ()> {
        let error = match self.connection.collect() {
            Ok((rows, _)) => {
                let texts: BTreeSet<&str> = rows.iter().filter_map(|row| row.first()?.as_deref()).collect();
                texts.into_iter().for_each(check);
                heard.answers += 1;
                return Ok(());
            }
            Err(WireError::Closed) => {
                *heard.errors.entry((asked, "closed".to_owned())).or_default() += 1;
                return Err(());
            }
            Err(error) => error,
        };
        let code = error.code();
        let mine = expected.contains(&code) || OF_THE_STORM.contains(&code);
        // Only who asked for it, or who has a timeout, is ever told that his statement was cancelled.
        let stopped = code == "57014" && (self.cancelled > 0 || self.is_limited());
        assert!(mine || stopped, "client {}, {asked}: {error}", self.number);
        *heard.errors.entry((asked, code.to_owned())).or_default() += 1;
        match &error {
            WireError::Db(e) if !e.is_fatal() => Ok(()),
            _ => Err(()),
        }
    }

    fn run(clients: &mut [Self], random: &mut Random, stop: &AtomicBool) -> Heard {
        let mut heard = Heard::default();
        while !stop.load(Ordering::Relaxed) {
            let asked: Vec<Option<Asked>> =
                clients.iter_mut().map(|client| client.ask(random).ok()).collect();
            for (client, _) in clients
                .iter()
                .zip(&asked)
                .filter(|(_, asked)| matches!(asked, Some(Asked::Cancelled(_))))
            {
                let _ = client.connection.cancel(client.address);
            }
            for (client, asked) in clients.iter_mut().zip(&asked) {
                match asked {
                    Some(asked) => client.hear(asked, &mut heard),
                    // Its server died between two rounds, and it was told so.
                    None => client.connection = connect(client.address, client.number),
                }
            }
        }
        heard
    }
}

fn zone(number: u64) -> String {
    // Half of all clients have the zone of the server.
    let hours = if number.is_multiple_of(2) {
        0
    } else {
        number % 5 + 1
    };
    if hours == 0 {
        "UTC".to_owned()
    } else {
        format!("Etc/GMT-{hours}")
    }
}

fn connect(address: &Address, number: u64) -> Connection {
    let zone = zone(number);
    let mut parameters = vec![("user", "app"), ("database", "app"), ("TimeZone", zone.as_str())];
    if number.is_multiple_of(LIMITED) {
        parameters.push(("statement_timeout", "100"));
    }
    let started = Instant::now();
    loop {
        match Connection::open_with(address, &parameters, None) {
            Ok(connection) => return connection,
            // The accept queue is full for a moment.
            Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "login: {error}"),
        }
    }
}

#[test]
fn thousands_of_clients_get_exactly_their_own_answers_under_aborts_cancels_timeouts_kills_and_a_full_queue() {
    let limit = raise_open_files();
    assert!(
        limit > 2 * CLIENTS + 200,
        "this test needs {} open files, the system allows {limit}: raise `ulimit -Hn`",
        2 * CLIENTS + 200
    );
    let stage = Stage::start("thousands", |m| {
        let workers = format!("{{minByClients: [2], clientsPerWorker: 300, max: {WORKERS}}}");
        m.set("workers", &workers)
            .set("timeouts.queryWait", &format!("{}ms", QUERY_WAIT.as_millis()))
    });
    stage.direct("create table said (client bigint, n bigint); alter table said owner to app; select 1");
    let seed = Random::of_test(23).below(1 << 40);
    let stop = AtomicBool::new(false);
    let address = stage.proxy.tcp();
    let mut heard = Heard::default();
    let mut shares = log_in(&address);
    std::thread::scope(|scope| {
        let _stop = Stops(&stop);
        let threads: Vec<_> = shares
            .iter_mut()
            .zip(seed..)
            .map(|(clients, seed)| {
                let stop = &stop;
                scope.spawn(move || {
                    let _stop = Stops(stop);
                    Client::run(clients, &mut Random::seeded(seed), stop)
                })
            })
            .collect();
        disturb(&stage, STORM);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            heard.merge(thread.join().expect("every client must get its own answers only"));
        }
    });
    drop(shares);
    println!("{} answers; {:?}", heard.answers, heard.errors);
    assert!(heard.answers > CLIENTS, "they must have been served");
    for (asked, code) in [
        ("cancelled", "57014"),
        ("overtime", "57014"),
        ("fails", "22012"),
        ("", "53300"),
    ] {
        assert!(
            heard.count(asked, code) > 0,
            "{code} must have happened ({asked}), or nothing was tested"
        );
    }
    check_writes(&stage, &heard);
    stage.wait_servers_clean(Duration::from_secs(20));
    assert_eq!(stage.client().value("select 'after'").unwrap(), "after");
}

/// All clients, a share for each thread. Nobody asks before everybody is in: the storm is for statements, not for logins.
fn log_in(address: &Address) -> Vec<Vec<Client<'_>>> {
    std::thread::scope(|scope| {
        let share = |thread: u64| {
            let numbers = (0..CLIENTS).filter(move |n| n % THREADS == thread);
            scope.spawn(move || numbers.map(|n| Client::new(address, n)).collect())
        };
        let threads: Vec<_> = (0..THREADS).map(share).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("every client must be let in"))
            .collect()
    })
}

/// Ends one server connection after the other, whatever it does; and once, in the middle, nobody gets one for a while.
fn disturb(stage: &Stage, long: Duration) {
    let sql = "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app' \
               order by random() limit 1) x";
    let started = Instant::now();
    let kill_until = |share: u32| {
        while started.elapsed() < long / 4 * share {
            std::thread::sleep(Duration::from_millis(300));
            stage.direct(sql);
        }
    };
    kill_until(2);
    hold_all_workers(stage);
    kill_until(4);
}

/// As many transactions as there may be workers, for longer than anybody waits.
fn hold_all_workers(stage: &Stage) {
    let mut holders: Vec<Connection> = Vec::new();
    let deadline = Instant::now() + 3 * QUERY_WAIT;
    while holders.len() < WORKERS && Instant::now() < deadline {
        let mut client = connect(&stage.proxy.tcp(), 2);
        if client
            .query("begin")
            .and_then(|_| client.query("select 'held'"))
            .is_ok()
        {
            holders.push(client);
        }
    }
    std::thread::sleep(QUERY_WAIT + QUERY_WAIT / 2);
}

fn check_writes(stage: &Stage, heard: &Heard) {
    let rows = stage
        .cluster
        .master()
        .sql_in("app", "select client, n, count(*) from said group by 1, 2");
    let number = |text: &Option<String>| text.as_deref().unwrap().parse::<u64>().unwrap();
    let mut there = BTreeSet::new();
    for row in &rows {
        assert_eq!(number(&row[2]), 1, "written twice: {row:?}");
        there.insert((number(&row[0]), number(&row[1])));
    }
    let lost: Vec<_> = heard.written.difference(&there).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    let done: Vec<_> = heard.refused.intersection(&there).collect();
    assert!(done.is_empty(), "refused and there all the same: {done:?}");
}

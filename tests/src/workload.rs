//! The set test: clients insert numbers that nobody else inserts, and remember what they were told about each.
//! At the end all are read back. What was acknowledged must be there once; what certainly failed must not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stats::Latencies;
use crate::wire::{Address, Connection, WireError};

/// What a client was told about one insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    Failed,
    Unknown,
}

/// What is counted while it runs.
#[derive(Debug, Default)]
pub struct Tally {
    /// Statements that succeeded.
    pub done: AtomicU64,
    /// Errors that clients saw, reads and writes.
    pub errors: AtomicU64,
    /// Times a connection was lost and opened again.
    pub reconnects: AtomicU64,
    /// Latencies since the last look.
    pub recent: Mutex<Latencies>,
    /// The longest successful statement since the last reset, in microseconds.
    pub longest_us: AtomicU64,
    /// SQLSTATEs (or what happened to the socket) and how often.
    pub codes: Mutex<BTreeMap<String, u64>>,
    /// When an insert was acknowledged last, and the longest time without one.
    writes: Mutex<(Option<Instant>, Duration)>,
}

impl Tally {
    /// The longest time that no insert was acknowledged to anybody, since the first one.
    pub fn longest_gap(&self) -> Duration {
        self.writes.lock().unwrap().1
    }

    fn written(&self) {
        let now = Instant::now();
        let mut writes = self.writes.lock().unwrap();
        if let Some(last) = writes.0.replace(now) {
            writes.1 = writes.1.max(now.duration_since(last));
        }
    }
}

/// Who the clients are, and how they go about it.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The user they log in as.
    pub user: String,
    /// The database.
    pub database: String,
    /// The password, if the server asks for one.
    pub password: Option<String>,
    /// How long each rests after a statement.
    pub pause: Duration,
    /// How long one waits for an answer before it connects anew.
    pub patience: Option<Duration>,
    /// Each tries its connection before it uses it, as pools do, and opens another where that one was closed.
    pub looks: bool,
}

/// A running workload.
#[derive(Debug)]
pub struct SetTest {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<Vec<(i64, Told, Instant)>>>,
}

/// What reading back showed.
#[derive(Debug, Default)]
pub struct SetVerdict {
    /// Inserts that were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged, but not there; with the time of the acknowledgement.
    pub lost: Vec<(i64, Instant)>,
    /// There, though nobody can have inserted them.
    pub phantoms: Vec<i64>,
    /// There more than once.
    pub duplicates: Vec<i64>,
    /// There, though the client was told that they failed.
    pub resurrected: Vec<i64>,
    /// Neither acknowledged nor certainly failed.
    pub unknown: usize,
    /// Errors that clients saw, by SQLSTATE.
    pub errors: BTreeMap<String, u64>,
}

impl SetVerdict {
    /// Is nothing lost, invented, doubled or resurrected?
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.phantoms.is_empty()
            && self.duplicates.is_empty()
            && self.resurrected.is_empty()
    }
}

impl SetTest {
    /// Makes the table; call it once, straight at the master.
    pub fn create(master: &crate::Server) {
        master.sql("create table if not exists set_test (n bigint, client int)");
        master.sql("grant all on set_test to public");
    }

    /// Starts `clients` threads, spread over the addresses, each with its own connection. Of three statements two
    /// read and one inserts.
    pub fn start(addresses: &[Address], user: &str, database: &str, clients: usize) -> Self {
        let manner = Manner {
            user: user.to_owned(),
            database: database.to_owned(),
            password: None,
            pause: Duration::ZERO,
            patience: None,
            looks: false,
        };
        Self::start_as(addresses, &manner, 0, clients)
    }

    /// [`SetTest::start`] with a manner of one's own. Clients are numbered from `first`, and so are the rows they write.
    pub fn start_as(addresses: &[Address], manner: &Manner, first: usize, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let threads = (first..first + clients).map(|client| {
            let address = addresses[client % addresses.len()].clone();
            let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
            let manner = manner.clone();
            std::thread::spawn(move || {
                Client {
                    address,
                    manner,
                    tally,
                    client,
                }
                .run(&stop)
            })
        });
        let threads = threads.collect();
        Self { stop, tally, threads }
    }

    /// What is counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What is counted, for another thread.
    pub fn tally_handle(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Waits until `count` more statements have succeeded: the workload runs.
    pub fn wait_progress(&self, count: u64, limit: Duration) {
        let goal = self.tally.done.load(Ordering::Relaxed) + count;
        crate::wait::wait_for("the workload to make progress", limit, || {
            let done = self.tally.done.load(Ordering::Relaxed);
            let codes = || {
                format!(
                    "{done} of {goal} done, errors {:?}",
                    self.tally.codes.lock().unwrap()
                )
            };
            if done >= goal { Ok(()) } else { Err(codes()) }
        });
    }

    /// Stops all clients and compares what they were told with what is in the table of `master`.
    pub fn finish(self, master: &crate::Server) -> SetVerdict {
        self.finish_with(|| {
            let rows = master.sql("select n from set_test");
            let numbers = rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok());
            numbers.collect()
        })
    }

    /// [`SetTest::finish`] with another way to read the table back.
    pub fn finish_with(self, read: impl FnOnce() -> Vec<i64>) -> SetVerdict {
        self.stop.store(true, Ordering::Relaxed);
        let told: Vec<(i64, Told, Instant)> = self
            .threads
            .into_iter()
            .flat_map(|t| t.join().expect("a client of the set test"))
            .collect();
        let found = read();
        let mut verdict = judge(&told, &found);
        verdict.errors = self.tally.codes.lock().unwrap().clone();
        verdict
    }
}

fn judge(told: &[(i64, Told, Instant)], found: &[i64]) -> SetVerdict {
    let mut verdict = SetVerdict::default();
    let mut seen = BTreeSet::new();
    verdict.duplicates = found.iter().copied().filter(|n| !seen.insert(*n)).collect();
    let mut known = BTreeSet::new();
    for (number, what, at) in told {
        known.insert(*number);
        match what {
            Told::Done => {
                verdict.acknowledged += 1;
                if !seen.contains(number) {
                    verdict.lost.push((*number, *at));
                }
            }
            Told::Failed if seen.contains(number) => verdict.resurrected.push(*number),
            Told::Failed => {}
            Told::Unknown => verdict.unknown += 1,
        }
    }
    verdict.phantoms = seen.difference(&known).copied().collect();
    verdict
}

struct Client {
    address: Address,
    manner: Manner,
    tally: Arc<Tally>,
    client: usize,
}

impl Client {
    fn run(self, stop: &AtomicBool) -> Vec<(i64, Told, Instant)> {
        let mut told = Vec::new();
        let mut connection: Option<Connection> = None;
        let mut number = i64::try_from(self.client).expect("few clients") * 1_000_000_000;
        while !stop.load(Ordering::Relaxed) {
            // As they do: a statement of their own, whose failure nobody hears of. Only to look whether it is closed would
            // leave the moment between the look and the statement.
            let works = |open: &mut Connection| open.is_quiet() && open.query("select 1").is_ok();
            if self.manner.looks && connection.as_mut().is_some_and(|open| !works(open)) {
                self.tally.reconnects.fetch_add(1, Ordering::Relaxed);
                connection = None;
            }
            let Some(open) = connection.as_mut() else {
                connection = self.connect();
                continue;
            };
            let insert = number % 3 == 0;
            let sql = if insert {
                format!("insert into set_test values ({number}, {})", self.client)
            } else {
                "select 1".to_owned()
            };
            let started = Instant::now();
            let result = open.query(&sql);
            if insert {
                told.push((number, verdict_of(&result), Instant::now()));
            }
            number += 1;
            match result {
                Ok(_) => {
                    if insert {
                        self.tally.written();
                    }
                    self.succeeded(started.elapsed());
                }
                Err(error) => {
                    self.failed(&error);
                    if !matches!(&error, WireError::Db(e) if !e.is_fatal()) {
                        self.tally.reconnects.fetch_add(1, Ordering::Relaxed);
                        connection = None;
                    }
                }
            }
            if !self.manner.pause.is_zero() {
                std::thread::sleep(self.manner.pause);
            }
        }
        told
    }

    fn connect(&self) -> Option<Connection> {
        let parameters = [
            ("user", self.manner.user.as_str()),
            ("database", self.manner.database.as_str()),
        ];
        let open = || -> Result<Connection, WireError> {
            let mut connection = Connection::dial(&self.address)?;
            if let Some(patience) = self.manner.patience {
                connection.set_timeout(patience);
            }
            connection.start(&parameters, self.manner.password.as_deref())?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.failed(&error);
                std::thread::sleep(Duration::from_millis(20));
                None
            }
        }
    }

    fn succeeded(&self, taken: Duration) {
        self.tally.done.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        self.tally.longest_us.fetch_max(micros, Ordering::Relaxed);
        self.tally.recent.lock().unwrap().add(taken);
    }

    fn failed(&self, error: &WireError) {
        self.tally.errors.fetch_add(1, Ordering::Relaxed);
        let code = match error {
            WireError::Db(error) => format!("{}: {}", error.code(), error.message()),
            other => other.to_string(),
        };
        *self.tally.codes.lock().unwrap().entry(code).or_default() += 1;
    }
}

/// 08006 and 08007 say that the outcome is unknown, as does a lost connection and a shutdown that came meanwhile
/// (57P01 may arrive while a commit waits). Every other error says that nothing happened.
fn verdict_of<T>(result: &Result<T, WireError>) -> Told {
    match result {
        Ok(_) => Told::Done,
        Err(WireError::Db(error)) => match error.code() {
            "08006" | "08007" | "57P01" | "57P02" => Told::Unknown,
            _ => Told::Failed,
        },
        Err(_) => Told::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_fault_is_found() {
        let now = Instant::now();
        let told = [
            (1, Told::Done),
            (2, Told::Done),
            (3, Told::Failed),
            (4, Told::Unknown),
            (5, Told::Unknown),
        ];
        let told = told.map(|(number, what)| (number, what, now));
        let verdict = judge(&told, &[1, 1, 3, 4, 9]);
        assert_eq!(verdict.lost, [(2, now)]);
        assert_eq!(verdict.duplicates, [1]);
        assert_eq!(verdict.resurrected, [3]);
        assert_eq!(verdict.phantoms, [9]);
        assert_eq!((verdict.acknowledged, verdict.unknown), (2, 2));
    }
}

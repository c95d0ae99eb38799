//! The workload of the end-to-end tests, inside the cluster as an application would be: the set test through a Service.
//!
//! `e2e-load run` works until `e2e-load stop` is run beside it (or for `--seconds`), reads back what it wrote and prints
//! one line of JSON, the verdict. `e2e-load status` prints how it goes. The password is in `PGPASSWORD`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test program: a panic is a failed test"
)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use pgstmtpool_tests::wire::{Address, Connection, WireError};
use pgstmtpool_tests::{Manner, SetTest, SetVerdict, Tally, wait_for};
use serde_json::{Value, json};

/// Inserts and reads, and counts what it was told.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Works until told to stop.
    Run(Run),
    /// Tells the one that runs to stop.
    Stop {
        /// Its folder.
        #[arg(long, default_value = "/tmp")]
        folder: PathBuf,
    },
    /// How it goes, one line of JSON.
    Status {
        /// Its folder.
        #[arg(long, default_value = "/tmp")]
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Where the clients connect, `host[:port]` or a folder with a Unix socket.
    #[arg(long)]
    to: String,
    /// Where the table is made and read back; default: as `--to`.
    #[arg(long)]
    judge: Option<String>,
    /// The table's name goes with it: two at once keep apart. Only the one without it makes the table.
    #[arg(long, default_value_t = 0)]
    first_client: usize,
    /// User.
    #[arg(long, default_value = "app")]
    user: String,
    /// Database.
    #[arg(long, default_value = "app")]
    database: String,
    /// Clients at once.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Milliseconds each rests after a statement.
    #[arg(long, default_value_t = 10)]
    pause: u64,
    /// Milliseconds one waits for an answer before it connects anew.
    #[arg(long, default_value_t = 60_000)]
    patience: u64,
    /// Each tries its connection (`select 1`) before it uses it, as pools of connections do.
    #[arg(long)]
    looks: bool,
    /// Seconds after which it stops by itself.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Where `stop` and `status` find it.
    #[arg(long, default_value = "/tmp")]
    folder: PathBuf,
}

fn main() {
    match Arguments::parse().action {
        Action::Run(run) => run.work(),
        Action::Stop { folder } => fs::write(folder.join("stop"), "").expect("stop"),
        Action::Status { folder } => {
            print!(
                "{}",
                fs::read_to_string(folder.join("status.json")).expect("no status yet")
            );
        }
    }
}

fn address(text: &str) -> Address {
    if text.starts_with('/') {
        return Address::unix(text.as_ref(), 5432);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "5432"));
    Address::Tcp(host.to_owned(), port.parse().expect("a port"))
}

impl Run {
    fn work(self) {
        let manner = Manner {
            user: self.user.clone(),
            database: self.database.clone(),
            password: std::env::var("PGPASSWORD").ok(),
            pause: Duration::from_millis(self.pause),
            patience: Some(Duration::from_millis(self.patience)),
            looks: self.looks,
        };
        let judge = address(self.judge.as_deref().unwrap_or(&self.to));
        if self.first_client == 0 {
            self.ask(&judge, "drop table if exists set_test", &manner);
            self.ask(&judge, "create table set_test (n bigint, client int)", &manner);
        }
        let work = SetTest::start_as(&[address(&self.to)], &manner, self.first_client, self.clients);
        let end = Instant::now() + Duration::from_secs(self.seconds);
        while !self.folder.join("stop").exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            let status = self.folder.join("status.json");
            fs::write(status.with_extension("new"), format!("{}\n", tally(work.tally()))).expect("status");
            fs::rename(status.with_extension("new"), status).expect("status");
        }
        let counted = work.tally_handle();
        let clients = self.first_client..self.first_client + self.clients;
        let mine = format!(
            "select n from set_test where client between {} and {}",
            clients.start,
            clients.end - 1
        );
        let verdict = work.finish_with(|| {
            let rows = self.ask(&judge, &mine, &manner);
            rows.iter().filter_map(|row| row.parse().ok()).collect()
        });
        println!("{}", report(&counted, &verdict));
    }

    /// Asks until there is an answer: the master may be on its way.
    fn ask(&self, at: &Address, sql: &str, manner: &Manner) -> Vec<String> {
        let parameters = [("user", self.user.as_str()), ("database", self.database.as_str())];
        wait_for(sql, Duration::from_secs(120), || {
            let ask = || -> Result<Vec<String>, WireError> {
                let mut connection = Connection::open_with(at, &parameters, manner.password.as_deref())?;
                let rows = connection.query(sql)?;
                Ok(rows
                    .into_iter()
                    .filter_map(|row| row.into_iter().next()?)
                    .collect())
            };
            ask().map_err(|error| error.to_string())
        })
    }
}

fn tally(tally: &Tally) -> Value {
    json!({
        "done": tally.done.load(Ordering::Relaxed),
        "errors": tally.errors.load(Ordering::Relaxed),
        "codes": *tally.codes.lock().unwrap(),
        "reconnects": tally.reconnects.load(Ordering::Relaxed),
        "longestMs": tally.longest_us.load(Ordering::Relaxed) / 1000,
        "gapMs": millis(tally.longest_gap()),
    })
}

fn report(counted: &Tally, verdict: &SetVerdict) -> Value {
    let mut report = tally(counted);
    report["acknowledged"] = json!(verdict.acknowledged);
    report["unknown"] = json!(verdict.unknown);
    report["lost"] = json!(verdict.lost.len());
    report["phantoms"] = json!(verdict.phantoms);
    report["duplicates"] = json!(verdict.duplicates);
    report["resurrected"] = json!(verdict.resurrected);
    report["clean"] = json!(verdict.is_clean());
    report
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

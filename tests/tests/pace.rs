//! While the server's processors are busy fewer workers are given out at once, and nobody is to be the worse for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgstmtpool_tests::wire::Connection;
use pgstmtpool_tests::{DEADLINE, Stage, Stops, wait_until};

const CLIENTS: usize = 40;
/// Column `lease_limit` of SHOW POOLS.
const LEASE_LIMIT: usize = 12;

/// A table, and a proxy with 20 workers that knows it.
fn start(name: &str, settings: &[(&str, &str)]) -> Stage {
    Stage::with_table(name, |m| {
        let m = m.set("workers.max", "20").set("proxy.threads", "1");
        settings.iter().fold(m, |m, (path, value)| m.set(path, value))
    })
}

fn lease_limit(stage: &Stage) -> usize {
    let rows = stage.proxy.pseudo("show pools");
    let limits = rows
        .iter()
        .map(|row| row[LEASE_LIMIT].as_ref().unwrap().parse::<usize>().unwrap());
    limits.max().unwrap_or(0)
}

/// A transaction of two reads; how long it took.
fn transaction(client: &mut Connection, number: usize) -> Duration {
    let began = Instant::now();
    client.query("begin").unwrap();
    for number in [number, number + 1] {
        let got = client.value(&format!("select a + {number} from t")).unwrap();
        assert_eq!(got, (number + 1).to_string(), "somebody else's answer");
    }
    client.query("commit").unwrap();
    began.elapsed()
}

/// Clients that run transactions one after the other until `stop`. Returns how many, and the longest one.
fn run(stage: &Stage, stop: &AtomicBool) -> (usize, Duration) {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn(move || {
                    let mut client = stage.client();
                    let (mut count, mut longest) = (0, Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        longest = longest.max(transaction(&mut client, n * 1_000_000 + count));
                        count += 1;
                    }
                    (count, longest)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .fold((0, Duration::ZERO), |(sum, max), (count, longest)| {
                (sum + count, max.max(longest))
            })
    })
}

/// Lets no server process of `app` run for 2 ms of 4, until `stop`: they are late as on a machine whose processors are busy.
fn hinder(stage: &Stage, stop: &AtomicBool) {
    let mut admin = stage.cluster.master().connect("app");
    while !stop.load(Ordering::Relaxed) {
        let pids = admin
            .query(
                "select pid from pg_stat_activity where usename = 'app' and backend_type = 'client backend'",
            )
            .unwrap();
        let pids: Vec<Pid> = pids
            .iter()
            .map(|row| Pid::from_raw(row[0].as_ref().unwrap().parse().unwrap()))
            .collect();
        let tell = |signal| {
            for pid in &pids {
                let _ = kill(*pid, signal); // it may have ended
            }
        };
        for _ in 0..50 {
            tell(Signal::SIGSTOP);
            sleep(Duration::from_millis(2));
            tell(Signal::SIGCONT);
            sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_busy_server_gets_fewer_transactions_at_once_and_every_client_its_own_answers() {
    let stage = start("pace", &[]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stops = Stops(&stop);
        let clients = scope.spawn(|| run(&stage, &stop));
        let hindrance = scope.spawn(|| hinder(&stage, &stop));
        wait_until("fewer workers at once", DEADLINE, || lease_limit(&stage) > 0);
        let limit = lease_limit(&stage);
        assert!(limit == 0 || (10..20).contains(&limit), "{limit}");
        // Clients that keep their transactions open take nobody's place.
        let mut open: Vec<Connection> = (0..8).map(|_| stage.client()).collect();
        for client in &mut open {
            client.query("begin").unwrap();
            client.query("select a from t").unwrap();
        }
        sleep(Duration::from_secs(1));
        let mut client = stage.client();
        let took = transaction(&mut client, 1);
        assert!(
            took < Duration::from_secs(2),
            "{took:?} beside those who hold a worker"
        );
        for client in &mut open {
            client.query("commit").unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        hindrance.join().unwrap();
        let (count, longest) = clients.join().unwrap();
        assert!(
            count > CLIENTS && longest < Duration::from_secs(10),
            "{count} transactions, one of {longest:?}"
        );
    });
    wait_until("all workers again", DEADLINE, || lease_limit(&stage) == 0);
    stage.wait_servers_clean(DEADLINE);
}

#[test]
fn with_adaptive_off_all_workers_are_given_out_however_busy_the_server_is() {
    let stage = start("pace-off", &[("workers.adaptive", "false")]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stops = Stops(&stop);
        scope.spawn(|| run(&stage, &stop));
        scope.spawn(|| hinder(&stage, &stop));
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            assert_eq!(lease_limit(&stage), 0);
            sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

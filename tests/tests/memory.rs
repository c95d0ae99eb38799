//! Huge rows, huge queries and slow readers cost bounded memory, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Connection, encode};
use pgstmtpool_tests::{Stage, Stops, resident_bytes, wait_until};

const MIB: u64 = 1024 * 1024;

fn stage(name: &str, timeouts: &str) -> Stage {
    let workers = "{minByClients: [2], clientsPerWorker: 100, max: 8}";
    Stage::start(name, |m| m.set("workers", workers).set("timeouts", timeouts))
}

/// The most memory the proxy had while `act` ran, above what it had before.
fn growth<T>(stage: &Stage, act: impl FnOnce() -> T) -> (T, u64) {
    let pid = stage.proxy.process.pid();
    let before = resident_bytes(pid);
    let stop = AtomicBool::new(false);
    let (result, peak) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = before;
            while !stop.load(Ordering::Relaxed) {
                peak = peak.max(resident_bytes(pid));
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let result = {
            let _stops = Stops(&stop);
            act()
        };
        (result, watcher.join().unwrap())
    });
    println!("grew by {} KiB", (peak - before) / 1024);
    (result, peak - before)
}

#[test]
fn a_row_of_100_mb_passes_without_being_held() {
    let stage = stage("memory-row", "{queryWait: 30s}");
    let mut client = stage.client();
    client.query("select 1").unwrap();
    let (length, grown) = growth(&stage, || {
        client.value("select repeat('x', 100000000)").unwrap().len()
    });
    assert_eq!(length, 100_000_000);
    assert!(grown < 24 * MIB, "grew by {grown}");
    assert_eq!(client.value("select 2").unwrap(), "2");
}

#[test]
fn a_query_of_40_mb_passes_without_being_held() {
    let stage = stage("memory-query", "{queryWait: 30s}");
    let mut client = stage.client();
    client.query("select 1").unwrap();
    let text = format!("select length('{}')", "x".repeat(40_000_000));
    let (length, grown) = growth(&stage, || client.value(&text).unwrap());
    assert_eq!(length, "40000000");
    assert!(grown < 24 * MIB, "grew by {grown}");
    let parameter = "y".repeat(40_000_000);
    let (rows, grown) = growth(&stage, || {
        client
            .query_params("select length($1)", &[Some(&parameter)])
            .unwrap()
    });
    assert_eq!(rows[0][0].as_deref(), Some("40000000"));
    assert!(grown < 24 * MIB, "grew by {grown}");
}

#[test]
fn a_message_over_the_limit_is_refused_and_the_client_stays() {
    let stage = Stage::start("memory-limit", |m| m.set("limits.maxQuerySize", "1MiB"));
    let mut client = stage.client();
    let text = format!("select length('{}')", "x".repeat(2_000_000));
    assert_eq!(client.query(&text).unwrap_err().code(), "54000");
    assert_eq!(client.value("select 1").unwrap(), "1");
    let parameter = "y".repeat(2_000_000);
    assert_eq!(
        client
            .query_params("select length($1)", &[Some(&parameter)])
            .unwrap_err()
            .code(),
        "54000"
    );
    assert_eq!(client.value("select 2").unwrap(), "2");
}

#[test]
fn copies_of_100_mb_pass_in_both_directions() {
    let stage = stage("memory-copy", "{queryWait: 30s}");
    stage.direct("create table t (s text)");
    stage.direct("grant all on t to app");
    let mut client = stage.client();
    let chunk = encode::frame(b'd', format!("{}\n", "z".repeat(99_999)).as_bytes());
    let (tag, grown) = growth(&stage, || {
        client.send(&encode::query(b"copy t from stdin")).unwrap();
        for _ in 0..1000 {
            client.send(&chunk).unwrap();
        }
        client.send(&encode::frame(b'c', &[])).unwrap();
        client.collect().unwrap().1
    });
    assert_eq!(tag, "COPY 1000");
    assert!(grown < 24 * MIB, "grew by {grown}");
    let (tag, grown) = growth(&stage, || {
        client.send(&encode::query(b"copy t to stdout")).unwrap();
        client.collect().unwrap().1
    });
    assert_eq!(tag, "COPY 1000");
    assert!(grown < 24 * MIB, "grew by {grown}");
}

#[test]
fn a_slow_reader_costs_little_memory_and_fifty_neighbours_are_served() {
    let stage = stage("memory-slow", "{queryWait: 30s, clientWrite: 60s}");
    let mut slow = stage.client();
    let mut neighbours: Vec<Connection> = (0..50).map(|_| stage.client()).collect();
    let ((), grown) = growth(&stage, || {
        slow.send(&encode::query(
            b"select repeat('x', 1000) from generate_series(1, 100000)",
        ))
        .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        for neighbour in &mut neighbours {
            assert_eq!(neighbour.value("select 7").unwrap(), "7");
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
    });
    assert!(grown < 24 * MIB, "grew by {grown}");
    let (rows, _) = slow.collect().unwrap();
    assert_eq!(rows.len(), 100_000);
}

#[test]
fn a_client_that_never_reads_is_closed_after_client_write() {
    let stage = stage("memory-never", "{clientWrite: 1s}");
    let mut never = stage.client();
    never
        .send(&encode::query(
            b"select repeat('x', 1000) from generate_series(1, 100000)",
        ))
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    wait_until("the proxy to give up on it", Duration::from_secs(15), || {
        stage.direct("select count(*) from pg_stat_activity where usename = 'app' and state <> 'idle'") == "0"
    });
    assert_eq!(stage.client().value("select 1").unwrap(), "1");
}

#[test]
fn forty_mb_of_requests_without_reading_do_not_stop_the_others() {
    let stage = stage("memory-flood", "{clientWrite: 60s}");
    let mut flooder = stage.client();
    let requests = 40_000;
    let padding = " ".repeat(1000);
    let one = encode::query(format!("select 1{padding}").as_bytes());
    let address = stage.proxy.tcp();
    let ((), grown) = growth(&stage, || {
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                let block = one.repeat(100);
                // Nobody reads for a while; the socket fills up and this waits.
                for n in 0..requests / 100 {
                    flooder.send(&block).unwrap();
                    if n % 4 == 3 {
                        (0..400).for_each(|_| drop(flooder.collect().unwrap()));
                    }
                }
                flooder
            });
            for _ in 0..20 {
                let mut other = Connection::open(&address, "app", "app").unwrap();
                assert_eq!(other.value("select 3").unwrap(), "3");
            }
            writer.join().unwrap();
        });
    });
    assert!(grown < 32 * MIB, "grew by {grown}");
}

#[test]
fn two_thousand_idle_clients_cost_a_few_kilobytes_each() {
    let stage = stage("memory-idle", "{queryWait: 30s}");
    stage.client().query("select 1").unwrap();
    let pid = stage.proxy.process.pid();
    let before = resident_bytes(pid);
    let limit = if open_file_limit() > 2_200 { 2_000 } else { 500 };
    let clients: Vec<Connection> = (0..limit)
        .map(|_| {
            let mut client = stage.client();
            client.query("select 1").unwrap();
            client
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let each = resident_bytes(pid).saturating_sub(before) / clients.len() as u64;
    println!("{each} bytes a client");
    assert!(each < 8 * 1024, "{each} bytes a client");
}

fn open_file_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text
        .lines()
        .find(|l| l.starts_with("Max open files"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(3)
        .and_then(|n| n.parse().ok())
        .unwrap_or(1024)
}

//! The program as it is run: exit codes, faults, signals, the ports, a manifest that changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{World, is_true, master_of};
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pgstmtpool-operator");

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_bad_manifest_is_told_completely_and_ends_with_code_2() {
    let path = std::env::temp_dir().join(format!("pgstmtpool-bad-{}.yaml", std::process::id()));
    let text = "apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {name: p}\nspec:\n  master: {name: a, podName: a}\n  \
                workerz: 1\n  ha: {enabled: true, probePeriod: fast}\n";
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    for args in [&["--config", file, "--check"][..], &["--config", file]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        for part in ["podName", "workerz", "probePeriod"] {
            assert!(said.contains(part), "{part} is missing in\n{said}");
        }
    }
    std::fs::remove_file(path).unwrap();
    assert_eq!(run(&["--config", "/no/such/file.yaml"]).status.code(), Some(2));
}

#[test]
fn help_and_version_say_something() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for word in [
        "--restart-command",
        "--rewind-command",
        "PGSTMTPOOL_DATA_DIRECTORY",
        "EXIT CODES",
    ] {
        assert!(help.contains(word), "{word}");
    }
    let version = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert!(version.starts_with("pgstmtpool-operator "), "{version}");
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + common::DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_leads_tells_how_it_is_and_leaves_on_a_signal() {
    let world = World::new("").await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let manifest = world.manifest.to_str().unwrap();
    let address = format!("127.0.0.1:{port}");
    let first = Command::new(PROGRAM)
        .args([
            "--config",
            manifest,
            "--http-listen",
            &address,
            "--log-format",
            "json",
        ])
        .stderr(Stdio::null())
        .spawn();
    let mut first = Running(first.unwrap());
    let ok = |path: &str| get(port, path).is_some_and(|text| text.starts_with("HTTP/1.1 200"));
    until("readiness", || ok("/readyz") && ok("/livez"));
    world.until_settled().await;
    until("metrics", || {
        get(port, "/metrics").is_some_and(|text| {
            text.contains("pgstmtpool_operator_epoch{pool=\"pool\"} 1")
                && text.contains("pgstmtpool_operator_server_master{pool=\"pool\",server=\"a\"} 1")
                && text.contains("# EOF")
        })
    });
    let second = tokio::task::spawn_blocking({
        let manifest = manifest.to_owned();
        move || run(&["--config", &manifest])
    });
    assert_eq!(second.await.unwrap().status.code(), Some(3));
    common::sh(&format!("kill -TERM {}", first.0.id()));
    assert_eq!(first.0.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_changes_is_followed_and_a_bad_one_changes_nothing() {
    let world = World::new("").await;
    let _operator = world.operator().await;
    world.until_settled().await;
    world.write_manifest("  durability: {mode: Required}\n");
    world
        .until("synchronous", |status| {
            status.sync.confirmed.as_ref().is_some_and(|set| set.k == 1)
        })
        .await;
    world.write_manifest("  durability: {mode: Nonsense}\n");
    let status = world
        .until("told", |status| {
            status
                .condition("ConfigValid")
                .is_some_and(|condition| condition.reason == "Invalid")
        })
        .await;
    assert_eq!(master_of(&status), "a");
    assert_ne!(
        world.server("a").value("show synchronous_standby_names").await,
        ""
    );
    world.write_manifest("");
    world
        .until("valid again", |status| is_true(status, "ConfigValid"))
        .await;
    world
        .server("a")
        .until("show synchronous_standby_names", "")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_somebody_took_away_is_written_again() {
    let world = World::new("").await;
    let operator = world.operator().await;
    world.until_settled().await;
    world.server("a").kill();
    let before = world
        .until("a new master", |status| {
            master_of(status) != "a" && status.operation.is_none()
        })
        .await;
    std::fs::remove_file(world.folder.join("pool.status.yaml")).unwrap();
    let after = world
        .until("written again", |status| status.master.is_some())
        .await;
    assert_eq!(
        (master_of(&after), after.epoch >= before.epoch),
        (master_of(&before), true)
    );
    drop(operator);
}

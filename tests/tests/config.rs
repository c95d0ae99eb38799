//! The manifest and the life of the process: faults, reload, drain, HTTP, the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::encode;
use pgstmtpool_tests::{Cluster, Manifest, Output, Stage, World, program, run_to_end, wait_for, wait_until};

const SECOND: Duration = Duration::from_secs(1);

fn check(path: &std::path::Path) -> Output {
    let mut command = Command::new(program("pgstmtpool-proxy"));
    run_to_end(command.arg("--config").arg(path).arg("--check"), 10 * SECOND)
}

#[test]
fn every_fault_of_a_manifest_is_reported_at_once_with_its_path_and_what_was_expected() {
    let world = Arc::new(World::new("config-faults"));
    let cluster = Cluster::single(&world);
    let good = Manifest::of(&cluster);
    let ok = check(&good.named("good").write());
    assert!(ok.ok, "{}{}", ok.out, ok.err);
    let bad = Manifest::of(&cluster)
        .named("bad")
        .set("workers.max", "0")
        .set("workers.maxx", "5")
        .set("poolMode", "sometimes")
        .set("timeouts.queryWait", "soon")
        .set("limits.maxQuerySize", "-1")
        .set("auth.hba", "[\"host all all all telepathy\"]")
        .write();
    let out = check(&bad);
    assert_eq!(out.code, 2, "{}{}", out.out, out.err);
    let text = format!("{}{}", out.out, out.err);
    for path in [
        "workers.max",
        "maxx",
        "poolMode",
        "queryWait",
        "maxQuerySize",
        "hba",
    ] {
        assert!(text.contains(path), "{path} is not reported:\n{text}");
    }
    for expected in ["transaction", "10000"] {
        assert!(
            text.contains(expected),
            "does not say what was expected ({expected}):\n{text}"
        );
    }
}

#[test]
fn each_kind_of_bad_manifest_ends_with_exit_code_2_and_says_where() {
    let world = Arc::new(World::new("config-kinds"));
    let cluster = Cluster::single(&world);
    let base = || Manifest::of(&cluster);
    let cases: Vec<(&str, String, &str)> = vec![
        ("not YAML", "spec: [".to_owned(), "bad"),
        ("empty", String::new(), "PgPool"),
        (
            "no pool",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n".to_owned(),
            "PgPool",
        ),
        ("no master", base().without("master").text(), "master"),
        (
            "podName in a file",
            base().set("master", "{name: a, podName: a}").text(),
            "podName",
        ),
        (
            "port",
            base().set("master", "{name: a, host: h, port: 99999}").text(),
            "port",
        ),
        (
            "host and podName",
            base().set("master", "{name: a, host: h, podName: p}").text(),
            "podName",
        ),
        (
            "missing secret",
            base().set("adminSecretRef", "{name: nosuch}").text(),
            "nosuch",
        ),
        (
            "two addresses of one name",
            base()
                .set("replicas", "[{name: r, host: a}, {name: r, host: b}]")
                .text(),
            "replicas",
        ),
        (
            "workers list",
            base().set("workers.minByClients", "[-1]").text(),
            "minByClients",
        ),
        ("unknown field", base().set("colour", "red").text(), "colour"),
        ("wrong type", base().set("workers", "many").text(), "workers"),
        (
            "duration",
            base().set("workers.idleTimeout", "10 parsecs").text(),
            "idleTimeout",
        ),
        (
            "wrong kind",
            base().text().replace("kind: PgPool", "kind: PgPond"),
            "PgPool",
        ),
        (
            "wrong version",
            base().text().replace("v1alpha1", "v9"),
            "v1alpha1",
        ),
    ];
    for (name, text, where_) in cases {
        let path = world.write("bad.yaml", &text);
        let out = check(&path);
        let said = format!("{}{}", out.out, out.err);
        assert_eq!(out.code, 2, "{name}: {said}");
        assert!(said.contains(where_), "{name}: does not name {where_}:\n{said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
    }
    let missing = check(&world.path().join("nosuch.yaml"));
    assert_eq!(missing.code, 2, "{}", missing.err);
}

#[test]
fn help_and_version_say_what_is_needed() {
    for name in ["pgstmtpool-proxy", "pgstmtpool-operator", "pgstmtpool"] {
        let help = run_to_end(Command::new(program(name)).arg("--help"), 10 * SECOND).expect_ok(name);
        assert!(help.out.contains("--config"), "{}", help.out);
        let version = run_to_end(Command::new(program(name)).arg("--version"), 10 * SECOND).expect_ok(name);
        assert!(version.out.starts_with(name), "{}", version.out);
        let bad = run_to_end(Command::new(program(name)).arg("--nonsense"), 10 * SECOND);
        assert_eq!(bad.code, 2, "{name}");
    }
}

#[test]
fn the_running_configuration_stays_when_a_bad_manifest_is_written_and_a_good_one_is_taken() {
    let mut stage = Stage::start("config-reload", |m| m.set("limits.maxClients", "2"));
    let _one = stage.client();
    let _two = stage.client();
    assert_eq!(stage.proxy.try_connect("app", "app").unwrap_err().code(), "53300");
    let broken = stage
        .manifest
        .clone()
        .set("workers.max", "-3")
        .set("limits.maxClients", "50");
    broken.write();
    wait_until("the fault to be logged", 10 * SECOND, || {
        stage.proxy.process.log().contains("workers.max")
    });
    assert_eq!(
        stage.proxy.try_connect("app", "app").unwrap_err().code(),
        "53300",
        "the old limit still counts"
    );
    std::fs::write(&stage.path, "garbage: [").unwrap();
    std::thread::sleep(SECOND);
    assert_eq!(stage.proxy.try_connect("app", "app").unwrap_err().code(), "53300");
    stage.change(|m| m.set("limits.maxClients", "50"));
    wait_for("the new limit", 10 * SECOND, || {
        stage.proxy.try_connect("app", "app").map_err(|e| e.to_string())
    });
}

#[test]
fn rules_and_modes_are_taken_by_new_connections_while_old_ones_go_on() {
    let mut stage = Stage::start("config-live", |m| m);
    let mut old = stage.client();
    stage.change(|m| m.set("poolMode", "statement"));
    wait_for(
        "statement mode for new connections",
        10 * SECOND,
        || match stage.client().query("begin") {
            Err(error) if error.code() == "0A000" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    old.query("select 1").unwrap();
    stage.change(|m| m.hba(&["host all all all reject"]));
    wait_for("the new rules", 10 * SECOND, || {
        match stage.proxy.try_connect("app", "app") {
            Err(error) if error.code() == "28000" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(old.value("select 2").unwrap(), "2");
}

#[test]
fn a_reload_under_load_hurts_nobody() {
    let mut stage = Stage::start("config-load", |m| m);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let (mut client, stop) = (stage.client(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let sql = if n % 2 == 0 {
                    "select 1"
                } else {
                    "begin; select 1; commit"
                };
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.query(sql).expect("a reload must not be noticed");
                }
            })
        })
        .collect();
    for n in 0..10 {
        stage.change(|m| {
            m.set(
                "workers",
                &format!("{{max: {}, idleTimeout: {}s}}", 3 + n % 3, 60 + n),
            )
        });
        std::thread::sleep(Duration::from_millis(200));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn sigterm_lets_running_work_end_closes_the_idle_and_exits_with_0() {
    let mut stage = Stage::start("config-drain", |m| m.set("timeouts.drain", "10s"));
    let (mut idle, mut busy, mut transaction) = (stage.client(), stage.client(), stage.client());
    idle.query("select 1").unwrap();
    transaction.query("begin").unwrap();
    transaction.query("create table t (n int)").unwrap();
    busy.send(&encode::query(b"select pg_sleep(1), 'done'")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    stage.proxy.process.signal("TERM");
    let (error, taken) = idle.read_to_close().unwrap();
    assert_eq!(error.unwrap().code(), "57P01");
    assert!(taken < 2 * SECOND, "an idle client leaves at once: {taken:?}");
    transaction.query("insert into t values (1)").unwrap();
    assert_eq!(transaction.execute("commit").unwrap(), "COMMIT");
    assert_eq!(busy.collect().unwrap().0[0][1].as_deref(), Some("done"));
    assert!(stage.proxy.process.wait(10 * SECOND).success());
    assert_eq!(stage.direct("select count(*) from t"), "1");
}

#[test]
fn a_client_that_goes_on_working_is_served_for_half_of_the_drain_time() {
    let mut stage = Stage::start("config-busy", |m| m.set("timeouts.drain", "6s"));
    let (mut busy, mut idle) = (stage.client(), stage.client());
    idle.query("select 1").unwrap();
    stage.proxy.process.signal("TERM");
    let started = Instant::now();
    let error = loop {
        match busy.query("select 1") {
            Ok(_) => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => break error,
        }
        assert!(started.elapsed() < 6 * SECOND, "it is never told");
    };
    let taken = started.elapsed();
    assert!(error.to_string().contains("57P01"), "{error}");
    assert!(taken >= Duration::from_millis(2500), "told after {taken:?}");
    assert_eq!(idle.read_to_close().unwrap().0.unwrap().code(), "57P01");
    assert!(stage.proxy.process.wait(10 * SECOND).success());
}

#[test]
fn a_drain_ends_at_its_deadline_and_sigquit_ends_at_once() {
    let mut stage = Stage::start("config-deadline", |m| m.set("timeouts.drain", "1s"));
    let mut stuck = stage.client();
    stuck.query("begin").unwrap();
    stuck.query("create table t (n int)").unwrap();
    let started = Instant::now();
    stage.proxy.process.signal("TERM");
    stage.proxy.process.wait(8 * SECOND);
    assert!(
        started.elapsed() >= Duration::from_millis(700),
        "it waits for the transaction: {:?}",
        started.elapsed()
    );
    stage.wait_servers_clean(5 * SECOND);

    let mut second = Stage::start("config-quit", |m| m);
    let mut stuck = second.client();
    stuck.query("begin").unwrap();
    let started = Instant::now();
    second.proxy.process.signal("QUIT");
    second.proxy.process.wait(5 * SECOND);
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
}

#[test]
fn http_says_how_it_is() {
    let stage = Stage::start("config-http", |m| m);
    stage.client().query("select 1").unwrap();
    assert_eq!(stage.proxy.http("/livez").unwrap().0, 200);
    assert_eq!(stage.proxy.http("/readyz").unwrap().0, 200);
    assert_eq!(stage.proxy.http("/nosuch").unwrap().0, 404);
    let (status, text) = stage.proxy.http("/metrics").unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("# TYPE pgstmtpool_"), "{text}");
    assert!(text.trim_end().ends_with("# EOF"), "OpenMetrics ends so");
}

#[test]
fn every_listener_is_opened_and_a_port_in_use_is_a_plain_error() {
    let stage = Stage::start("config-listen", |m| m);
    let mut unix = pgstmtpool_tests::wire::Connection::open(&stage.proxy.unix(), "app", "app").unwrap();
    assert_eq!(unix.value("select 1").unwrap(), "1");
    let mut command = Command::new(program("pgstmtpool-proxy"));
    command
        .arg("--config")
        .arg(&stage.path)
        .args(["--listen", &format!("127.0.0.1:{}", stage.proxy.port)]);
    let out = run_to_end(&mut command, 10 * SECOND);
    assert!(!out.ok && !out.err.contains("panicked"), "{}", out.err);
    assert!(
        format!("{}{}", out.out, out.err).contains(&stage.proxy.port.to_string()),
        "{}{}",
        out.out,
        out.err
    );
}

#[test]
fn the_shortest_manifest_is_useful() {
    let world = Arc::new(World::new("config-short"));
    let cluster = Cluster::builder(&world).scram().start();
    cluster.master().sql("create role app login password 'app'");
    let path = Manifest::of(&cluster).without("auth").write();
    let proxy = pgstmtpool_tests::Proxy::start(&world, &path);
    let parameters = [("user", "app"), ("database", "postgres")];
    let mut client =
        pgstmtpool_tests::wire::Connection::open_with(&proxy.tcp(), &parameters, Some("app")).unwrap();
    assert_eq!(client.value("select 1").unwrap(), "1");
}

//! The admin database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::encode;
use pgstmtpool_tests::{Stage, psql};

#[test]
fn show_commands_show_what_is_there() {
    let stage = Stage::start("pseudo-show", |m| m);
    let mut client = stage.client();
    client.query("select 1").unwrap();
    client.query("create temp table w (n int)").unwrap();
    for (command, wanted) in [
        ("show pools", "app"),
        ("show clients", "app"),
        ("show servers", "pg-0"),
        ("show pins", "app"),
    ] {
        let rows = stage.proxy.pseudo(command);
        let text = format!("{rows:?}");
        assert!(text.contains(wanted), "{command}: {text}");
    }
    assert!(format!("{:?}", stage.proxy.pseudo("SHOW VERSION;")).contains("pgstmtpool"));
    let error = stage
        .proxy
        .connect("postgres", "pseudo")
        .query("show nonsense")
        .unwrap_err();
    assert!(
        error.code().starts_with("42") || error.code() == "0A000",
        "{error}"
    );
}

#[test]
fn psql_speaks_to_it_under_both_names() {
    let stage = Stage::start("pseudo-psql", |m| m);
    for database in ["pseudo", "pgbouncer"] {
        let out = psql(&stage.proxy.conninfo("postgres", database), &["show version"]).expect_ok(database);
        assert!(out.out.contains("pgstmtpool"), "{}", out.out);
    }
}

#[test]
fn ordinary_users_may_not_pause() {
    let stage = Stage::start("pseudo-roles", |m| m);
    match stage.proxy.try_connect("app", "pseudo") {
        Err(error) => assert!(["42501", "28000"].contains(&error.code()), "{error}"),
        Ok(mut client) => assert_eq!(client.query("pause").unwrap_err().code(), "42501"),
    }
    assert_eq!(stage.client().value("select 1").unwrap(), "1");
}

#[test]
fn pause_holds_statements_and_resume_lets_them_go() {
    let stage = Stage::start("pseudo-pause", |m| m);
    let mut client = stage.client();
    client.query("select 1").unwrap();
    let mut admin = stage.proxy.connect("postgres", "pseudo");
    admin.query("pause").unwrap();
    let started = Instant::now();
    client.send(&encode::query(b"select 2")).unwrap();
    client.set_timeout(Duration::from_millis(400));
    assert!(client.read().is_err(), "held while paused");
    admin.query("resume").unwrap();
    client.set_timeout(Duration::from_secs(10));
    client.collect().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn secrets_are_never_shown() {
    let stage = Stage::start("pseudo-secrets", |m| m.users(&[("app", "top-secret-word")]));
    stage.client().query("select 1").unwrap();
    for command in [
        "show pools",
        "show clients",
        "show servers",
        "show pins",
        "show version",
        "show config",
    ] {
        let mut admin = stage.proxy.connect("postgres", "pseudo");
        let text = format!("{:?}", admin.query(command));
        assert!(
            !text.contains("top-secret-word") && !text.contains("SCRAM-SHA-256$"),
            "{command}: {text}"
        );
    }
    assert!(!stage.proxy.process.log().contains("top-secret-word"));
    assert!(
        !stage
            .proxy
            .http("/metrics")
            .unwrap()
            .1
            .contains("top-secret-word")
    );
}

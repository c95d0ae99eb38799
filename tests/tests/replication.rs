//! Replication connections: refused, or passed through where the manifest says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use pgstmtpool_tests::wire::Connection;
use pgstmtpool_tests::{Stage, postgres_binary, wait_for};

fn stage(name: &str, allow: &str) -> Stage {
    let stage = Stage::start(name, |m| {
        m.set("allowReplication", allow).hba(&[
            "host replication copier all trust",
            "host all app,postgres all trust",
        ])
    });
    stage.direct("create role copier login replication");
    stage
}

fn ask(stage: &Stage, user: &str, value: &str) -> Result<Connection, String> {
    let parameters = [("user", user), ("database", "app"), ("replication", value)];
    Connection::open_with(&stage.proxy.tcp(), &parameters, None).map_err(|e| e.code().to_owned())
}

#[test]
fn replication_is_refused_unless_it_is_allowed() {
    let stage = stage("replication-off", "false");
    for value in ["true", "database"] {
        assert_eq!(ask(&stage, "copier", value).unwrap_err(), "0A000");
    }
}

#[test]
fn a_base_backup_is_taken_through_the_proxy() {
    let stage = stage("replication-on", "true");
    stage.direct("create table t as select 42 as n; grant all on t to app");
    let folder = stage.world.path().join("backup");
    let done = Command::new(postgres_binary("pg_basebackup"))
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &stage.proxy.port.to_string(),
            "-U",
            "copier",
        ])
        .args(["-X", "stream", "-c", "fast", "-D", folder.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(folder.join("PG_VERSION").is_file() && folder.join("backup_manifest").is_file());
    // Rules for replication are rules of their own, as in pg_hba.conf.
    assert_eq!(ask(&stage, "app", "true").unwrap_err(), "28000");
    assert!(stage.proxy.try_connect("copier", "app").is_err());
    // With a database the usual rules hold, and the walsender answers SQL and its own commands.
    let mut connection = ask(&stage, "app", "database").err();
    assert_eq!(
        connection.take().as_deref(),
        Some("42501"),
        "PostgreSQL says who may replicate"
    );
    stage.direct("alter role app replication");
    let mut walsender = ask(&stage, "app", "database").unwrap();
    assert_eq!(walsender.query("IDENTIFY_SYSTEM").unwrap().len(), 1);
    assert_eq!(walsender.value("select n from t").unwrap(), "42");
    assert_eq!(
        walsender.value("select pg_backend_pid()").unwrap(),
        walsender.process_id.to_string()
    );
    drop(walsender);
    wait_for(
        "the server connection to be closed with the client",
        Duration::from_secs(5),
        || match stage
            .direct("select count(*) from pg_stat_activity where backend_type = 'walsender'")
            .as_str()
        {
            "0" => Ok(()),
            more => Err(more.to_owned()),
        },
    );
}

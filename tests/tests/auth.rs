//! Look-ups with as few rights as sql/ gives, groups in rules, and passwords of every age.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use pgstmtpool_tests::wire::{Connection, WireError};
use pgstmtpool_tests::{Cluster, Manifest, Proxy, Stage, World, psql};

/// The files of sql/ that a proxy's own role needs.
const SQL: [&str; 2] = [
    include_str!("../../sql/00_role.sql"),
    include_str!("../../sql/20_auth_lookup.sql"),
];

fn code(stage: &Stage, user: &str, password: &str) -> Option<String> {
    let parameters = [("user", user), ("database", "app")];
    match Connection::open_with(&stage.proxy.tcp(), &parameters, Some(password)) {
        Ok(mut client) => {
            assert_eq!(client.value("select current_user").unwrap(), user);
            None
        }
        Err(WireError::Db(error)) => Some(error.code().to_owned()),
        Err(other) => panic!("{user}: {other}"),
    }
}

/// A proxy that looks users up as the role `pool_proxy`, which has the rights of sql/ or none.
fn stage(name: &str, hba: &[&str], granted: bool) -> Stage {
    let world = Arc::new(World::new(name));
    let cluster = Cluster::builder(&world)
        .scram()
        .hba("host all md5 127.0.0.1/32 md5")
        .start();
    let master = cluster.master();
    master.sql("create role app login password 'app'");
    master.sql("create database app owner app");
    master.sql("create role pool_proxy login password 'lookup'");
    if granted {
        for text in SQL {
            master.sql(text);
        }
        master.sql("grant pgstmtpool_proxy to pool_proxy");
    }
    let manifest = Manifest::of(&cluster)
        .hba(hba)
        .secret("lookup", &[("username", "pool_proxy"), ("password", "lookup")])
        .set("proxyAdminSecretRef", "{name: lookup}")
        .set("auth.cacheFor", "1s");
    let path = manifest.write();
    let proxy = Proxy::builder(&world, &path).start();
    Stage {
        proxy,
        cluster,
        manifest,
        path,
        world,
    }
}

#[test]
fn a_role_with_no_rights_but_the_function_is_enough_for_lookups() {
    let stage = stage("auth-least", &["host all all all scram-sha-256"], true);
    let master = stage.cluster.master();
    master.sql("create role old login password 'old' valid until '2001-01-01'");
    master.sql("create role soon login password 'soon' valid until 'infinity'");
    master.sql("create role never login password 'never' valid until '-infinity'");
    assert_eq!(code(&stage, "app", "app"), None);
    assert_eq!(code(&stage, "soon", "soon"), None);
    for (user, password) in [
        ("app", "wrong"),
        ("nobody", "x"),
        ("old", "old"),
        ("never", "never"),
    ] {
        assert_eq!(code(&stage, user, password).as_deref(), Some("28P01"), "{user}");
    }
    let log = stage.proxy.process.log();
    assert!(!log.contains("users are looked up in pg_authid"), "{log}");
}

#[test]
fn without_the_function_and_without_the_right_to_read_the_catalog_nobody_is_let_in_unchecked() {
    let stage = stage("auth-none", &["host all all all scram-sha-256"], false);
    assert_eq!(code(&stage, "app", "app").as_deref(), Some("F0000"));
    assert_eq!(code(&stage, "pool_proxy", "lookup").as_deref(), Some("F0000"));
}

#[test]
fn groups_in_rules_are_those_of_the_master_directly_or_not() {
    let rules = ["host all +staff all scram-sha-256", "host all all all reject"];
    let stage = stage("auth-groups", &rules, true);
    let master = stage.cluster.master();
    master.sql("create role staff; create role team in role staff; grant team to app");
    master.sql("create role guest login password 'guest'");
    assert_eq!(code(&stage, "app", "app"), None);
    assert_eq!(code(&stage, "guest", "guest").as_deref(), Some("28000"));
}

#[test]
fn an_md5_hash_logs_in_by_md5_on_both_sides() {
    let stage = stage("auth-md5", &["host all all all md5"], true);
    let master = stage.cluster.master();
    master.sql("set password_encryption = 'md5'; create role md5 login password 'md5'");
    let conninfo = |password| format!("{} password={password}", stage.proxy.conninfo("md5", "app"));
    let said = psql(&conninfo("md5"), &["select current_user"]).expect_ok("md5");
    assert!(said.out.contains("md5"), "{}", said.out);
    let said = psql(&conninfo("wrong"), &["select 1"]);
    assert!(
        !said.ok && said.err.contains("password authentication failed"),
        "{}",
        said.err
    );
    assert_eq!(
        code(&stage, "app", "app"),
        None,
        "SCRAM where the verifier is one"
    );
}

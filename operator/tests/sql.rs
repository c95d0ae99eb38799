//! The files of `sql/` on a real server: each twice, then what they promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{World, sh};
use pgnet::client::{Config, Connection, Target};

const FILES: [&str; 3] = [
    include_str!("../../sql/00_role.sql"),
    include_str!("../../sql/10_schema.sql"),
    include_str!("../../sql/20_auth_lookup.sql"),
];
const DROP: &str = include_str!("../../sql/90_drop.sql");

async fn as_user(world: &World, user: &str) -> Connection {
    let target = Target::new("127.0.0.1", world.server("a").port);
    Connection::connect(&Config::new(target, user, "postgres"))
        .await
        .unwrap()
}

async fn one(connection: &mut Connection, sql: &str) -> Result<Option<String>, String> {
    match connection.query_one(sql).await {
        Ok(result) => Ok(result.get(0, 0).map(str::to_owned)),
        Err(error) => Err(error
            .fields()
            .map_or_else(|| error.to_string(), |fields| fields.message.clone())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_may_be_run_twice_and_the_schema_is_a_least_privilege_operators_home() {
    let world = World::new("").await;
    let mut admin = world.server("a").connect().await.unwrap();
    for file in FILES.iter().chain(&FILES) {
        admin.query(file).await.unwrap();
    }
    let logins = "set password_encryption = 'scram-sha-256';
        create role op login replication in role pgstmtpool_operator;
        create role lookup login in role pgstmtpool_proxy;
        create role nobody login;
        create role app login password 'secret';
        create role gone login password 'secret' valid until '2001-01-01';
        create role group1 nologin password 'secret'";
    admin.query(logins).await.unwrap();

    // The look-up: verifiers of those who may log in now, and of nobody else.
    let mut lookup = as_user(&world, "lookup").await;
    let verifier = |user: &str| format!("select verifier from pgstmtpool.user_lookup('{user}')");
    assert!(
        one(&mut lookup, &verifier("app"))
            .await
            .unwrap()
            .unwrap()
            .starts_with("SCRAM-SHA-256$")
    );
    for user in ["gone", "group1", "postgres"] {
        assert_eq!(one(&mut lookup, &verifier(user)).await, Ok(None), "{user}");
    }
    let columns = "select concat_ws(' ', username, valid_until is null, is_superuser, can_login)
        from pgstmtpool.user_lookup('app')";
    assert_eq!(one(&mut lookup, columns).await, Ok(Some("app t f t".into())));
    let count = |user: &str| format!("select count(*) from pgstmtpool.user_lookup({user})");
    for user in ["'no such user'", "repeat('x', 100)", "null", "''"] {
        assert_eq!(
            one(&mut lookup, &count(user)).await,
            Ok(Some("0".into())),
            "{user}"
        );
    }

    // Nothing of it is for everybody, and nobody can plant something in its way.
    let mut nobody = as_user(&world, "nobody").await;
    assert_eq!(
        one(&mut nobody, &verifier("app")).await,
        Err("permission denied for schema pgstmtpool".into())
    );
    let stop = "select pgstmtpool.stop('fast')";
    assert_eq!(
        one(&mut lookup, stop).await,
        Err("permission denied for function stop".into())
    );
    admin
        .query("grant create on schema public to lookup")
        .await
        .unwrap();
    let trap = "create function public.clock_timestamp() returns timestamptz language sql as $$ select 'infinity'::timestamptz $$;
        set search_path = public, pg_catalog";
    lookup.query(trap).await.unwrap();
    assert!(one(&mut lookup, &verifier("app")).await.unwrap().is_some());

    // The helpers, without superuser (from version 15 on).
    let mut op = as_user(&world, "op").await;
    let version: u32 = one(&mut op, "show server_version_num")
        .await
        .unwrap()
        .unwrap()
        .parse()
        .unwrap();
    for (sql, expected) in [
        ("select pgstmtpool.ensure_slot('pgp_x')", "t"),
        ("select pgstmtpool.ensure_slot('pgp_x')", "f"),
        ("select pgstmtpool.drop_slot('pgp_x')", "t"),
        ("select pgstmtpool.drop_slot('pgp_x')", "f"),
        ("select count(*) from pgstmtpool.history(1)", "0"),
        ("select pgstmtpool.status() ->> 'recovery'", "false"),
        (
            "insert into pgstmtpool.epoch values (1, 'o', 'a') returning epoch",
            "1",
        ),
        ("select pgstmtpool.make_standby()", ""),
        ("select (pg_stat_file('standby.signal', true)).size", "0"),
        ("select pgstmtpool.unmake_standby()", ""),
        ("select (pg_stat_file('standby.signal', true)).size is null", "t"),
        ("select pgstmtpool.kick_walsenders()", "0"),
        ("select pgstmtpool.kick_clients(array['keep']) > 0", "t"),
    ] {
        assert_eq!(one(&mut op, sql).await, Ok(Some(expected.into())), "{sql}");
    }
    if version >= 150_000 {
        for sql in [
            "alter system set synchronous_standby_names = ''",
            "select pg_reload_conf()",
            "checkpoint",
        ] {
            one(&mut op, sql).await.unwrap();
        }
        assert!(one(&mut op, "alter system set work_mem = '1MB'").await.is_err());
    }
    let mut admin = world.server("a").connect().await.unwrap();
    for _ in 0..2 {
        admin.query(DROP).await.unwrap();
    }
    let left = "select count(*) from pg_roles where rolname like 'pgstmtpool%'";
    assert_eq!(one(&mut admin, left).await, Ok(Some("0".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_function_stops_a_server_fast() {
    let world = World::new("").await;
    let mut admin = world.server("c").connect().await.unwrap();
    drop(
        world
            .server("a")
            .connect()
            .await
            .unwrap()
            .query(FILES[0])
            .await
            .unwrap(),
    );
    world
        .server("a")
        .connect()
        .await
        .unwrap()
        .query(FILES[1])
        .await
        .unwrap();
    world
        .server("c")
        .until(
            "select count(*) from pg_namespace where nspname = 'pgstmtpool'",
            "1",
        )
        .await;
    let _ = admin.query("select pgstmtpool.stop('fast')").await;
    let end = std::time::Instant::now() + common::DEADLINE;
    while world.server("c").pid().is_some() {
        assert!(std::time::Instant::now() < end, "it runs still");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(sh(&format!("tail -n 3 {}.log", world.server("c").data.display())).contains("shut down"));
}

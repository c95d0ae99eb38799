//! Which server a statement goes to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use pgstmtpool_tests::wire::Connection;
use pgstmtpool_tests::{Manifest, Stage, wait_for};

/// Says which server answers: its port.
const WHO: &str = "select inet_server_port()";

fn stage(name: &str, change: impl FnOnce(Manifest) -> Manifest) -> Stage {
    Stage::with(
        name,
        |c| c.replicas(2),
        change,
        pgstmtpool_tests::ProxyBuilder::readonly_door,
    )
}

fn ports(stage: &Stage) -> [String; 3] {
    [0, 1, 2].map(|n| stage.cluster.server(n).port.to_string())
}

/// Asks `count` times and counts who answered.
fn poll(client: &mut Connection, sql: &str, count: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        *seen.entry(client.value(sql).unwrap()).or_default() += 1;
    }
    seen
}

/// Waits until reads reach a replica: the proxy has to have seen that they are healthy.
fn wait_replicas(client: &mut Connection, master: &str) {
    wait_for("reads to reach a replica", Duration::from_secs(20), || {
        let port = client.value(&format!("/*s*/ {WHO}")).unwrap();
        if port == master {
            Err("the master answers".to_owned())
        } else {
            Ok(())
        }
    });
}

#[test]
fn everything_goes_to_the_master_and_hinted_reads_to_the_replicas() {
    let stage = stage("routing", |m| m);
    let [master, first, second] = ports(&stage);
    let mut client = stage.client();
    wait_replicas(&mut client, &master);
    assert_eq!(poll(&mut client, WHO, 50), BTreeMap::from([(master.clone(), 50)]));
    let seen = poll(&mut client, &format!("/*s*/ {WHO}"), 200);
    assert!(!seen.contains_key(&master), "{seen:?}");
    assert!(
        seen.get(&first) > Some(&20) && seen.get(&second) > Some(&20),
        "both must be used: {seen:?}"
    );
    let rows = client.query_params(&format!("/*s*/ {WHO}"), &[]).unwrap();
    assert_ne!(
        rows[0][0].as_deref(),
        Some(master.as_str()),
        "the hint counts in the extended protocol too"
    );
}

#[test]
fn weights_are_kept_and_a_replica_listed_twice_counts_twice() {
    let stage = stage("routing-weights", |m| {
        let list = m.text();
        let line = list
            .lines()
            .find(|l| l.contains("replicas:"))
            .unwrap()
            .trim()
            .to_owned();
        let items = line
            .trim_start_matches("replicas: [")
            .trim_end_matches(']')
            .to_owned();
        let mut parts = items.split("}, ");
        let first = parts.next().unwrap().trim_end_matches('}').to_owned();
        let second = parts.next().unwrap().trim_end_matches('}').to_owned();
        m.set(
            "replicas",
            &format!("[{first}, weight: 100}}, {second}, weight: 200}}, {second}, weight: 100}}]"),
        )
    });
    let [master, first, second] = ports(&stage);
    let mut client = stage.client();
    wait_replicas(&mut client, &master);
    let seen = poll(&mut client, &format!("/*s*/ {WHO}"), 800);
    let (one, three) = (seen[&first] as f64, seen[&second] as f64);
    assert!(
        (2.2..4.0).contains(&(three / one)),
        "1 to 3 was asked for: {seen:?}"
    );
    assert!(!seen.contains_key(&master), "{seen:?}");
}

#[test]
fn a_master_that_is_listed_as_a_replica_takes_reads_too() {
    let stage = stage("routing-master", |m| {
        let text = m.text();
        let find = |name: &str| {
            text.lines()
                .find(|l| l.trim().starts_with(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        let master = find("master:").trim_start_matches("master: ").to_owned();
        let replicas = find("replicas:")
            .trim_start_matches("replicas: [")
            .trim_end_matches(']')
            .to_owned();
        m.set("replicas", &format!("[{replicas}, {master}]"))
    });
    let [master, first, second] = ports(&stage);
    let mut client = stage.client();
    wait_for("all three to answer", Duration::from_secs(20), || {
        let seen = poll(&mut client, &format!("/*s*/ {WHO}"), 60);
        let all = [&master, &first, &second]
            .iter()
            .all(|port| seen.contains_key(*port));
        if all { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn without_a_healthy_replica_reads_go_to_the_master() {
    let stage = stage("routing-none", |m| m);
    let [master, ..] = ports(&stage);
    let mut client = stage.client();
    wait_replicas(&mut client, &master);
    stage.cluster.server(1).kill();
    stage.cluster.server(2).kill();
    for _ in 0..50 {
        assert_eq!(
            client.value(&format!("/*s*/ {WHO}")).unwrap(),
            master,
            "reads are repeated elsewhere"
        );
    }
    stage.cluster.server(1).start();
    wait_replicas(&mut client, &master);
}

#[test]
fn writes_never_go_to_a_replica_whatever_the_hint_says() {
    let stage = stage("routing-writes", |m| m);
    let [master, ..] = ports(&stage);
    let mut client = stage.client();
    wait_replicas(&mut client, &master);
    client.query("create table t (n int)").unwrap();
    client.query("/*s*/ insert into t values (1)").unwrap();
    client.query("/*s*/ select n from t for update").unwrap();
    client.query("/*s*/ select 1 as n into u").unwrap();
    client
        .query("/*s*/ with x as (insert into t values (2) returning n) select * from x")
        .unwrap();
    assert_eq!(client.value("select count(*) from t").unwrap(), "2");
}

#[test]
fn suffixes_of_user_and_database_and_the_readonly_door_mean_replicas() {
    let stage = stage("routing-suffix", |m| {
        m.set("routing", "{userSuffix: _r, databaseSuffix: \"@ro\"}")
    });
    let [master, ..] = ports(&stage);
    wait_replicas(&mut stage.client(), &master);
    for (user, database) in [("app_r", "app"), ("app", "app@ro")] {
        let mut client = stage.proxy.connect(user, database);
        let seen = poll(&mut client, WHO, 30);
        assert!(!seen.contains_key(&master), "{user}/{database}: {seen:?}");
        assert_eq!(client.value("select current_user").unwrap(), "app");
        assert_eq!(client.value("select current_database()").unwrap(), "app");
    }
    let mut door = Connection::open(&stage.proxy.tcp_ro(), "app", "app").unwrap();
    let seen = poll(&mut door, WHO, 30);
    assert!(!seen.contains_key(&master), "the read-only door: {seen:?}");
    assert_eq!(poll(&mut stage.client(), WHO, 10).len(), 1);
}

//! Every wire script, straight against PostgreSQL and through the proxy: the transcripts must be equal.
//! `WIRE=name` runs only scripts whose name contains it; `WIRE_SHOW=1` with `--nocapture` shows PostgreSQL's side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use pgstmtpool_tests::wire::Address;
use pgstmtpool_tests::{Manifest, Proxy, Server, script};

fn scripts() -> Vec<script::Script> {
    let filter = std::env::var("WIRE").unwrap_or_default();
    script::all()
        .into_iter()
        .filter(|script| script.name.contains(&filter))
        .collect()
}

/// Runs all scripts that apply to `mode` on both sides and reports every difference at once.
fn compare(server: &Server, other: &Address, mode: &str) {
    let mut faults = Vec::new();
    let mut ran = 0;
    for script in scripts().iter().filter(|script| script.applies_to(mode)) {
        let started = std::time::Instant::now();
        script::reset(server);
        let straight = script.run(&server.tcp(), script::USER, script::DATABASE, server);
        script::reset(server);
        let proxied = script.run(other, script::USER, script::DATABASE, server);
        if let (Ok(lines), true) = (&straight, std::env::var_os("WIRE_SHOW").is_some()) {
            println!("{}", lines.join("\n"));
        }
        let fault = match (straight, proxied) {
            (Ok(straight), Ok(proxied)) => script::difference(&straight, &proxied),
            (Err(fault), _) => Some(format!("straight: {fault}")),
            (_, Err(fault)) => Some(format!("through the proxy: {fault}")),
        };
        let verdict = if fault.is_some() { "DIFFERENT" } else { "equal" };
        println!(
            "{mode} {:<44} {verdict} ({} ms)",
            script.name,
            started.elapsed().as_millis()
        );
        faults.extend(fault.map(|fault| format!("--- {}\n{fault}", script.name)));
        ran += 1;
    }
    assert!(ran > 0, "no script ran");
    assert!(
        faults.is_empty(),
        "{} of {ran} scripts differ:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn every_script_gives_the_same_transcript_twice_straight_at_postgresql() {
    let (_world, cluster) = script::start("wire-self");
    compare(cluster.master(), &cluster.master().tcp(), "session");
}

#[test]
fn through_the_proxy_in_transaction_mode() {
    let (world, cluster) = script::start("wire-trans");
    let manifest = Manifest::of(&cluster).set("poolMode", "transaction").write();
    let proxy = Proxy::start(&world, &manifest);
    compare(cluster.master(), &proxy.tcp(), "transaction");
}

#[test]
fn through_the_proxy_in_session_mode() {
    let (world, cluster) = script::start("wire-session");
    let manifest = Manifest::of(&cluster).set("poolMode", "session").write();
    let proxy = Proxy::start(&world, &manifest);
    compare(cluster.master(), &proxy.tcp(), "session");
}

#[test]
fn through_the_proxy_in_statement_mode() {
    let (world, cluster) = script::start("wire-stmt");
    let manifest = Manifest::of(&cluster).set("poolMode", "statement").write();
    let proxy = Proxy::start(&world, &manifest);
    compare(cluster.master(), &proxy.tcp(), "statement");
}

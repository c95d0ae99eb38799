//! PostgreSQL's own regression and isolation tests, straight and through session mode: what passes straight passes proxied.
//! The tests come from the source package (`scripts/postgres-tests.sh`); the first run fetches and builds them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pgstmtpool_tests::{
    Cluster, Manifest, Proxy, World, command_as_postgres, postgres_binary, postgres_major,
};

/// The folder of PostgreSQL's tests.
fn sources() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/postgres-tests.sh");
    let done = Command::new(script)
        .arg(postgres_major().to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "PostgreSQL's tests cannot be had: {said}");
    PathBuf::from(String::from_utf8(done.stdout).unwrap().trim())
}

/// Runs one of the suites against a port; the verdict of each test, and what differed from what is expected.
fn run(world: &Arc<World>, kind: &str, how: &str, port: u16) -> (BTreeMap<String, String>, String) {
    let bin = postgres_binary("psql").parent().unwrap().to_owned();
    let programs = bin.join("../lib/pgxs/src/test");
    let folder = world.postgres_folder(&format!("{kind}-{how}"));
    let input = folder.join("in");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(sources().join(kind))
        .arg(&input)
        .status()
        .unwrap();
    assert!(copied.success());
    // As root the server runs as another user, which has to write there.
    let _ = Command::new("chown")
        .args(["-R", "postgres"])
        .arg(&folder)
        .output();
    let output = folder.join("out");
    let (program, schedule) = match kind {
        "regress" => ("regress/pg_regress", "parallel_schedule"),
        _ => ("isolation/pg_isolation_regress", "isolation_schedule"),
    };
    let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let mut command = command_as_postgres(&programs.join(program));
    let ran = command
        .current_dir(programs.join("isolation"))
        .env(
            "PATH",
            format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
        )
        .args(["--host=127.0.0.1", "--user=postgres", "--max-connections=6"])
        .arg(format!("--port={port}"))
        .arg(option("bindir", &bin))
        .arg(option("inputdir", &input))
        .arg(option("outputdir", &output))
        .arg(option("dlpath", &input))
        .arg(option("schedule", &input.join(schedule)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let mut verdicts = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.trim_start_matches("test ").split_whitespace().collect();
        if let [name, "...", verdict, ..] = words.as_slice() {
            verdicts.insert((*name).to_owned(), (*verdict).to_owned());
        }
    }
    let ok = verdicts.values().filter(|v| *v == "ok").count();
    println!("{kind} {how}: {ok} of {} pass", verdicts.len());
    assert!(
        verdicts.len() > 90,
        "{}{text}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let diffs = std::fs::read(output.join("regression.diffs")).unwrap_or_default();
    (verdicts, String::from_utf8_lossy(&diffs).into_owned())
}

/// What must differ: `stats` looks whether the server counts a session more when psql connects again. A pool is there so that it does not.
const NO_NEW_SESSION: [&str; 2] = ["- t", "+ f"];

/// The lines of a diff that are not the same on both sides.
fn changes(diff: &str) -> Vec<&str> {
    let lines = diff
        .lines()
        .filter(|line| !line.starts_with("--- ") && !line.starts_with("+++ "));
    lines.filter(|line| line.starts_with(['-', '+'])).collect()
}

/// Both ways, each against a fresh cluster.
fn compare(kind: &str) {
    let mut results = Vec::new();
    for how in ["straight", "proxied"] {
        let world = Arc::new(World::new(&format!("{kind}-{how}")));
        let cluster = Cluster::builder(&world)
            .setting("max_connections = 120")
            .setting("max_prepared_transactions = 10")
            .start();
        let manifest = Manifest::of(&cluster)
            .set("poolMode", "session")
            .set("workers", "{minByClients: [1], max: 80}")
            .write();
        let proxy = (how == "proxied").then(|| Proxy::start(&world, &manifest));
        let port = proxy.as_ref().map_or(cluster.master().port, |proxy| proxy.port);
        results.push(run(&world, kind, how, port));
    }
    let (straight, (proxied, diffs)) = (&results[0].0, &results[1]);
    let diff_of = |name: &str| {
        let end = format!("/{name}.out");
        let mut diffs = diffs.split("\ndiff -U3 ");
        diffs
            .find(|diff| diff.lines().next().is_some_and(|of| of.ends_with(&end)))
            .unwrap_or_default()
    };
    let lost: Vec<&String> = straight
        .iter()
        .filter(|(name, verdict)| *verdict == "ok" && proxied.get(*name) != Some(verdict))
        .map(|(name, _)| name)
        .filter(|name| *name != "stats" || changes(diff_of(name)) != NO_NEW_SESSION)
        .collect();
    for name in &lost {
        println!("{}", diff_of(name).chars().take(10_000).collect::<String>());
    }
    assert!(
        lost.is_empty(),
        "pass straight and not through session mode: {lost:?}"
    );
}

#[test]
fn the_regression_tests_of_postgresql_lose_nothing_in_session_mode() {
    compare("regress");
}

#[test]
fn the_isolation_tests_of_postgresql_lose_nothing_in_session_mode() {
    compare("isolation");
}

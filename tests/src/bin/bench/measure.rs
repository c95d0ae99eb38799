//! One measurement: pgbench runs, and we look at what the peer used meanwhile.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgstmtpool_tests::{Latencies, postgres_binary, usage_of};

use crate::peers::Peer;
use crate::workloads::Workload;

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Statements a second.
    pub(crate) tps: f64,
    /// The median latency of a transaction of pgbench.
    pub(crate) p50: Duration,
    /// Its 99th percentile.
    pub(crate) p99: Duration,
    /// CPU of the peer's own processes per statement, in microseconds; 0 for direct connections.
    pub(crate) cpu_us: f64,
}

/// Runs a workload against a peer for so long.
///
/// # Errors
/// What pgbench said when it failed.
pub(crate) fn run(workload: &Workload, peer: &Peer, seconds: u64) -> Result<Sample, String> {
    // A short run first: connections are made, caches are warm.
    go(workload, peer, 1)?;
    go(workload, peer, seconds)
}

fn go(workload: &Workload, peer: &Peer, seconds: u64) -> Result<Sample, String> {
    let logs = peer.folder.join("logs");
    let _ = std::fs::remove_dir_all(&logs);
    std::fs::create_dir_all(&logs).map_err(|e| e.to_string())?;
    let before = peer.pid.map(usage_of).unwrap_or_default();
    let children: Vec<Child> = (0..workload.processes)
        .map(|n| start(workload, peer, seconds, &logs, n))
        .collect();
    let mut tps = 0.0;
    let mut transactions = 0_u64;
    for child in children {
        let out = child.wait_with_output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            let error = String::from_utf8_lossy(&out.stderr).into_owned();
            return Err(error.lines().last().unwrap_or("no message").to_owned());
        }
        tps += figure(&text, "tps = ").ok_or("no tps in the output of pgbench")?;
        let done = figure(&text, "number of transactions actually processed: ").unwrap_or(0.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let done = done as u64;
        transactions += done;
    }
    let after = peer.pid.map(usage_of).unwrap_or_default();
    let mut latencies = read_logs(&logs);
    let statements = f64::from(workload.statements);
    #[allow(clippy::cast_precision_loss)]
    let cpu_us =
        after.cpu_us.saturating_sub(before.cpu_us) as f64 / (transactions.max(1) as f64 * statements);
    Ok(Sample {
        tps: tps * statements,
        p50: latencies.percentile(0.5),
        p99: latencies.percentile(0.99),
        cpu_us,
    })
}

fn start(workload: &Workload, peer: &Peer, seconds: u64, logs: &Path, n: usize) -> Child {
    let mut command = Command::new(postgres_binary("pgbench"));
    let clients = (workload.clients / workload.processes).max(1);
    let threads = clients.min(2);
    command.args([
        "-n",
        "-c",
        &clients.to_string(),
        "-j",
        &threads.to_string(),
        "-T",
        &seconds.to_string(),
    ]);
    command
        .args(["-l", "--sampling-rate", "0.1", "--log-prefix"])
        .arg(logs.join(format!("p{n}")));
    command
        .args(&workload.args)
        .arg(peer.conninfo(workload))
        .env("PGAPPNAME", format!("bench{n}"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("pgbench")
}

fn figure(text: &str, label: &str) -> Option<f64> {
    let rest = text.split(label).nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?
        .parse()
        .ok()
}

/// The third field of each line of pgbench's logs is the latency in microseconds.
fn read_logs(folder: &Path) -> Latencies {
    let mut all = Latencies::default();
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        let micros = text
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse().ok());
        micros.for_each(|m| all.add_micros(m));
    }
    all
}

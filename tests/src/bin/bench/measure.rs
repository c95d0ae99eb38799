//! One measurement: pgbench runs, and we look at what the peer and the server used meanwhile.

use std::fmt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgstmtpool_tests::{Latencies, postgres_binary, usage_of};

use crate::peers::Peer;
use crate::stage::Stage;
use crate::workloads::{Part, Workload};

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Statements a second.
    pub(crate) tps: f64,
    /// The median latency of a transaction of pgbench, in milliseconds.
    pub(crate) p50: f64,
    /// Its 99th percentile.
    pub(crate) p99: f64,
    /// CPU of the peer's own processes per statement, in microseconds; 0 for direct connections.
    pub(crate) cpu_us: f64,
    /// CPU of PostgreSQL's processes per statement, in microseconds.
    pub(crate) server_us: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8.0} /s  p50 {:>7.2}  p99 {:>7.2} ms  CPU {:>6.1} us, server {:>6.1} us",
            self.tps, self.p50, self.p99, self.cpu_us, self.server_us
        )
    }
}

/// How measurements are made.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// What the peers stand before.
    pub(crate) stage: &'a Stage,
    /// How long each takes.
    pub(crate) seconds: u64,
    /// A shell command that runs meanwhile.
    pub(crate) attach: Option<&'a str>,
}

impl Run<'_> {
    /// Runs a workload against a peer.
    ///
    /// # Errors
    /// What pgbench said when it failed.
    pub(crate) fn measure(&self, workload: &Workload, peer: &Peer) -> Result<Sample, String> {
        // A short run first: connections are made, caches are warm.
        go(workload, peer, self.stage, 1)?;
        let attached = self
            .attach
            .and_then(|command| self.attach(command, workload, peer));
        let sample = go(workload, peer, self.stage, self.seconds);
        if let Some(attached) = attached {
            show(attached, sample.as_ref().map_or(f64::NAN, |s| s.tps));
        }
        sample
    }

    fn attach(&self, command: &str, workload: &Workload, peer: &Peer) -> Option<Child> {
        let server = self.stage.pid()?.to_string();
        let command = command
            .replace("{pid}", &peer.pid?.to_string())
            .replace("{server}", &server)
            .replace("{peer}", peer.name)
            .replace("{workload}", workload.name);
        // All clients shall have logged in.
        let later = format!("sleep 1; {command}");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &later])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Some(shell.spawn().expect("sh"))
    }
}

/// Prints what an attached command said; its lines `per_second NAME NUMBER` as one, divided by the statements of that time.
fn show(attached: Child, tps: f64) {
    let Ok(out) = attached.wait_with_output() else {
        return;
    };
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    let per_second = |line: &str| {
        let mut words = line.strip_prefix("per_second ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse::<f64>().ok()?))
    };
    let (counts, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| per_second(line).is_some());
    rest.iter().for_each(|line| println!("{line}"));
    let shown: Vec<String> = counts
        .iter()
        .filter_map(|line| per_second(line))
        .map(|(name, count)| (name, count / tps))
        .filter(|(_, each)| *each >= 0.005)
        .map(|(name, each)| format!("{name} {each:.2}"))
        .collect();
    if !shown.is_empty() {
        println!("    per statement: {}", shown.join(", "));
    }
}

fn go(workload: &Workload, peer: &Peer, stage: &Stage, seconds: u64) -> Result<Sample, String> {
    let logs = peer.folder.join("logs");
    let _ = std::fs::remove_dir_all(&logs);
    std::fs::create_dir_all(&logs).map_err(|e| e.to_string())?;
    let used = || [peer.pid, stage.pid()].map(|pid| pid.map(usage_of).unwrap_or_default().cpu_us);
    let before = used();
    let start = |(n, part): (usize, &Part)| (start(workload, part, peer, seconds, &logs, n), part.measured);
    let children: Vec<(Child, bool)> = workload.parts.iter().enumerate().map(start).collect();
    let (mut tps, mut transactions, mut fault) = (0.0, 0.0, None);
    for (child, measured) in children {
        // All are waited for, also behind one that failed.
        match ended(child) {
            Ok((rate, done)) if measured => {
                tps += rate;
                transactions += done;
            }
            Ok(_) => {}
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    let after = used();
    if let Some(fault) = fault {
        return Err(fault);
    }
    let mut latencies = read_logs(&logs);
    let statements = f64::from(workload.statements);
    #[allow(clippy::cast_precision_loss)]
    let per_statement =
        |n: usize| after[n].saturating_sub(before[n]) as f64 / (f64::max(transactions, 1.0) * statements);
    Ok(Sample {
        tps: tps * statements,
        p50: millis(latencies.percentile(0.5)),
        p99: millis(latencies.percentile(0.99)),
        cpu_us: per_statement(0),
        server_us: per_statement(1),
    })
}

fn start(workload: &Workload, part: &Part, peer: &Peer, seconds: u64, logs: &Path, n: usize) -> Child {
    let mut command = Command::new(postgres_binary("pgbench"));
    command
        .args(["-n", "-c", &part.clients.to_string()])
        .args(["-j", &part.clients.min(2).to_string()])
        .args(["-T", &seconds.to_string()]);
    if part.measured {
        command
            .args(["-l", "--sampling-rate", workload.sampling, "--log-prefix"])
            .arg(logs.join(format!("p{n}")));
    }
    command
        .args(&part.args)
        .arg(peer.conninfo(workload))
        .env("PGAPPNAME", format!("bench{n}"))
        .env("PGPASSWORD", crate::stage::PASSWORD);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("pgbench")
}

/// Waits for a pgbench: transactions a second, and how many there were.
fn ended(child: Child) -> Result<(f64, f64), String> {
    let out = child.wait_with_output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        let line = error.lines().find(|line| line.contains("error:"));
        return Err(line.or(error.lines().last()).unwrap_or("no message").to_owned());
    }
    let tps = figure(&text, "tps = ").ok_or("no tps in the output of pgbench")?;
    let done =
        figure(&text, "number of transactions actually processed: ").ok_or("no transactions in it either")?;
    Ok((tps, done))
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

fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1000.0
}

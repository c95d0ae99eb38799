//! The Markdown report.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use pgstmtpool_tests::median;

use crate::Samples;
use crate::idle::Idle;
use crate::measure::Sample;
use crate::peers::Peer;
use crate::workloads::Workload;

/// All that goes into it.
pub(crate) struct Report<'a> {
    /// How often everything ran.
    pub(crate) rounds: usize,
    /// For how long each.
    pub(crate) seconds: u64,
    /// Who ran.
    pub(crate) peers: &'a [Peer],
    /// What ran.
    pub(crate) workloads: &'a [Workload],
    /// What it gave.
    pub(crate) samples: &'a Samples,
    /// Memory.
    pub(crate) idle: &'a [Idle],
}

/// Medians over the rounds.
struct Row {
    tps: f64,
    p50: f64,
    p99: f64,
    cpu_us: f64,
}

impl Report<'_> {
    /// The whole report.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from("# Benchmarks\n\nWritten by `make bench`; do not edit. ");
        out += "Only the ratios within one run mean something: all peers ran one after another in every round, on the \
                same machine as PostgreSQL and pgbench.\n\n";
        self.machine(&mut out);
        for workload in self.workloads {
            self.table(workload, &mut out);
        }
        self.memory(&mut out);
        out
    }

    fn machine(&self, out: &mut String) {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name"))
            .unwrap_or("unknown");
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let _ = writeln!(
            out,
            "- machine: {cores} x {}",
            model.trim_start_matches([' ', '\t', ':'])
        );
        let _ = writeln!(out, "- kernel: {}", run("uname", &["-sr"]));
        let _ = writeln!(out, "- date: {}", run("date", &["-u", "+%Y-%m-%d"]));
        let _ = writeln!(
            out,
            "- {} rounds of {} s each; medians",
            self.rounds, self.seconds
        );
        for peer in self.peers {
            let _ = writeln!(out, "- {}: {}", peer.name, peer.version);
        }
        out.push_str(
            "- clients and servers by TCP on the loopback interface, `trust`, at most 20 server connections each \
             (HAProxy relays one to one). PgBouncer before 1.21 keeps prepared statements only in session mode: \
             `select_prepared` runs so, with one server a client.\n\
             - CPU: user and system time of the peer's own processes per statement.\n",
        );
    }

    fn row(&self, workload: &Workload, peer: &str) -> Option<Row> {
        let all = self.samples.get(&(workload.name.to_owned(), peer.to_owned()))?;
        let of = |f: fn(&Sample) -> f64| median(&all.iter().map(f).collect::<Vec<_>>());
        Some(Row {
            tps: of(|s| s.tps),
            p50: of(|s| millis(s.p50)),
            p99: of(|s| millis(s.p99)),
            cpu_us: of(|s| s.cpu_us),
        })
    }

    fn table(&self, workload: &Workload, out: &mut String) {
        let (bouncer, direct) = (self.row(workload, "pgbouncer"), self.row(workload, "direct"));
        let _ = write!(
            out,
            "\n## {}\n\n{}, {} clients.\n\n",
            workload.name, workload.about, workload.clients
        );
        out.push_str("| peer | statements/s | vs PgBouncer | vs direct | CPU us/statement | CPU vs PgBouncer | p50 ms | p99 ms |\n");
        out.push_str("|---|---:|---:|---:|---:|---:|---:|---:|\n");
        for peer in self.peers {
            let Some(row) = self.row(workload, peer.name) else {
                continue;
            };
            let tps = |other: &Option<Row>| ratio(row.tps, other.as_ref().map(|r| r.tps));
            let cpu = ratio(row.cpu_us, bouncer.as_ref().map(|r| r.cpu_us));
            let cpu_us = if peer.pid.is_some() {
                format!("{:.1}", row.cpu_us)
            } else {
                "-".to_owned()
            };
            let cpu = if peer.pid.is_some() { cpu } else { "-".to_owned() };
            let _ = writeln!(
                out,
                "| {} | {:.0} | {} | {} | {cpu_us} | {cpu} | {:.2} | {:.2} |",
                peer.name,
                row.tps,
                tps(&bouncer),
                tps(&direct),
                row.p50,
                row.p99
            );
        }
    }

    fn memory(&self, out: &mut String) {
        if self.idle.is_empty() {
            return;
        }
        out.push_str("\n## Memory per idle client\n\nGrowth of resident memory, beyond the kernel's.\n\n");
        out.push_str("| peer | clients | bytes a client |\n|---|---:|---:|\n");
        for idle in self.idle {
            let _ = writeln!(out, "| {} | {} | {} |", idle.peer, idle.clients, idle.bytes);
        }
    }
}

fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1000.0
}

fn ratio(own: f64, other: Option<f64>) -> String {
    other
        .filter(|o| *o > 0.0)
        .map_or("-".to_owned(), |other| format!("{:.2}", own / other))
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

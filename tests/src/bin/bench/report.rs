//! The Markdown report.

use std::fmt::Write as _;
use std::process::Command;

use crate::chart;
use crate::goals;
use crate::idle::Idle;
use crate::peers::Peer;
use crate::table::{CPU, Figure, P50, P99, SERVER, Samples, TPS};
use crate::workloads::Workload;

const BEGIN: &str = "<!-- make bench: begin -->";
const END: &str = "<!-- make bench: end -->";
const EMPTY_PAGE: &str = "# Benchmarks\n";

/// All that goes into it.
pub(crate) struct Report<'a> {
    /// How often everything ran.
    pub(crate) rounds: usize,
    /// For how long each.
    pub(crate) seconds: u64,
    /// How PostgreSQL was reached.
    pub(crate) transport: &'a str,
    /// Settings of the proxy that are not the defaults.
    pub(crate) proxy_set: &'a str,
    /// Who ran.
    pub(crate) peers: &'a [Peer],
    /// What ran.
    pub(crate) workloads: &'a [Workload],
    /// What it gave.
    pub(crate) samples: &'a Samples,
    /// Memory.
    pub(crate) idle: &'a [Idle],
}

impl Report<'_> {
    /// A page with this report in place of the one between the marks; the rest of the page stays.
    pub(crate) fn page_with(&self, page: &str) -> String {
        let own = format!("{BEGIN}\n{}\n{END}", self.markdown());
        let parts = page
            .split_once(BEGIN)
            .and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
        match parts {
            Some((head, tail)) => format!("{head}{own}{tail}"),
            None if page.is_empty() => format!("{EMPTY_PAGE}\n{own}\n"),
            None => format!("{}\n\n{own}\n", page.trim_end()),
        }
    }

    /// The chart.
    pub(crate) fn chart(&self) -> String {
        let names: Vec<&'static str> = self
            .peers
            .iter()
            .filter(|p| p.is_general())
            .map(|p| p.name)
            .collect();
        let workloads: Vec<&'static str> = self.workloads.iter().map(|w| w.name).collect();
        chart::svg(self.samples, &names, &workloads)
    }

    fn markdown(&self) -> String {
        let mut out = String::from(
            "Written by `make bench`; do not edit between the marks. Only the ratios within one run mean something: all peers \
             ran one after another in every round, on the same machine as PostgreSQL and pgbench.\n\n",
        );
        self.conditions(&mut out);
        out.push_str("\n![Statements a second and CPU beside PgBouncer](benchmarks.svg)\n\n");
        out += &self.summary();
        for workload in self.workloads {
            self.table(workload, &mut out);
        }
        self.memory(&mut out);
        out
    }

    fn conditions(&self, out: &mut String) {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name"))
            .unwrap_or("unknown")
            .trim_start_matches([' ', '\t', ':']);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let lines = [
            format!("machine: {cores} x {model}, {}", run("uname", &["-sr"])),
            format!(
                "{}: {} rounds of {} s each after 1 s of warming up; medians, in brackets the least and greatest of the rounds",
                run("date", &["-u", "+%Y-%m-%d"]),
                self.rounds,
                self.seconds
            ),
            format!(
                "clients by TCP on the loopback interface, PostgreSQL by {}, `trust` unless it says SCRAM, at most 20 server \
                 connections each where a peer can share them",
                if self.transport == "tcp" { "TCP" } else { "Unix socket" }
            ),
            "CPU: user and system time of the peer's own processes per statement; server CPU: of PostgreSQL's".to_owned(),
        ];
        for line in lines.into_iter().chain(self.peers.iter().map(Peer::title)) {
            let _ = writeln!(out, "- {line}");
        }
        if !self.proxy_set.is_empty() {
            let _ = writeln!(out, "- the proxy was given {}", self.proxy_set);
        }
    }

    fn is_old(&self) -> bool {
        self.peers.iter().any(Peer::is_old)
    }

    /// The goals, and what was reached.
    pub(crate) fn summary(&self) -> String {
        let mut out = String::from("### Goals\n\nOf the proxy; ratios in this run.\n\n");
        out.push_str("| workload | measure | goal | reached | rounds | |\n|---|---|---:|---:|---:|---|\n");
        for workload in self.workloads {
            for goal in goals::of(workload.name, self.is_old()) {
                let ratio = self.samples.ratio(workload.name, "proxy", goal.to, goal.figure);
                let line = ratio.map_or_else(
                    || ("-".to_owned(), "-".to_owned(), ""),
                    |r| {
                        let verdict = if goal.reached(r.median) { "yes" } else { "**no**" };
                        (
                            format!("{:.2}", r.median),
                            format!("{:.2}-{:.2}", r.least, r.greatest),
                            verdict,
                        )
                    },
                );
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {} | {} | {} |",
                    workload.name,
                    goal.what,
                    goal.text(),
                    line.0,
                    line.1,
                    line.2
                );
            }
        }
        for idle in self.idle.iter().filter(|idle| idle.peer == "proxy") {
            let kb = |bytes: &u64| *bytes as f64 / 1024.0;
            let reached = idle
                .bytes
                .as_ref()
                .map_or("-".to_owned(), |b| format!("{:.2}", kb(b)));
            let verdict = idle
                .bytes
                .as_ref()
                .map_or("", |b| if kb(b) <= 2.0 { "yes" } else { "**no**" });
            let _ = writeln!(
                out,
                "| {} idle clients | KB a client | <= 2.00 | {reached} | | {verdict} |",
                idle.clients
            );
        }
        out
    }

    fn table(&self, workload: &Workload, out: &mut String) {
        let _ = write!(
            out,
            "\n### {}\n\n{}; {} clients.\n\n",
            workload.name,
            workload.about,
            workload.clients()
        );
        out.push_str(
            "| peer | statements/s | vs PgBouncer | vs direct | CPU us | vs PgBouncer | server CPU us | p50 ms | p99 ms | p99 vs PgBouncer |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for peer in self.peers.iter().filter(|peer| peer.can(workload)) {
            let figure = |of: Figure| self.samples.median(workload.name, peer.name, of);
            let ratio = |to: &'static str, of: Figure| {
                let found = self.samples.ratio(workload.name, peer.name, to, of);
                found.map_or("-".to_owned(), |r| format!("{:.2}", r.median))
            };
            let Some(tps) = figure(TPS) else {
                let why = self
                    .samples
                    .failure(workload.name, peer.name)
                    .unwrap_or("did not run");
                let _ = writeln!(out, "| {} | failed: {why} | | | | | | | | |", peer.name);
                continue;
            };
            let has_cpu = peer.pid.is_some();
            let number =
                |n: Option<f64>, digits: usize| n.map_or("-".to_owned(), |n| format!("{n:.digits$}"));
            let _ = writeln!(
                out,
                "| {} | {tps:.0} | {} | {} | {} | {} | {} | {} | {} | {} |",
                peer.name,
                ratio("pgbouncer", TPS),
                ratio("direct", TPS),
                if has_cpu {
                    number(figure(CPU), 1)
                } else {
                    "-".to_owned()
                },
                if has_cpu {
                    ratio("pgbouncer", CPU)
                } else {
                    "-".to_owned()
                },
                number(figure(SERVER), 1),
                number(figure(P50), 2),
                number(figure(P99), 2),
                ratio("pgbouncer", P99),
            );
        }
    }

    fn memory(&self, out: &mut String) {
        if self.idle.is_empty() {
            return;
        }
        out.push_str(
            "\n### Memory per idle client\n\nGrowth of resident memory, beyond the kernel's, by clients that logged in, asked one \
             thing and stay. HAProxy and pgpool-II need a server for each: they are measured with as many as there are.\n\n",
        );
        out.push_str("| peer | clients | KB a client |\n|---|---:|---:|\n");
        for idle in self.idle {
            let shown = match &idle.bytes {
                Ok(bytes) => format!("{:.1}", *bytes as f64 / 1024.0),
                Err(fault) => format!("failed: {fault}"),
            };
            let _ = writeln!(out, "| {} | {} | {shown} |", idle.peer, idle.clients);
        }
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

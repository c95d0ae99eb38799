//! `make bench`: the proxy beside direct connections and other poolers, interleaved in one run.
//!
//! Every round runs every workload against every peer, one after another, so that what else the machine does meets
//! all of them alike. Figures are medians over the rounds; only ratios within one run mean anything.
//!
//! Begin with `workloads` (what runs), `peers` (against whom) and `measure` (one run); `table` turns samples into medians and
//! ratios, `report` and `chart` write them down.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark: a panic ends it"
)]

mod chart;
mod goals;
mod idle;
mod measure;
mod peers;
mod report;
mod stage;
mod table;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use pgstmtpool_tests::raise_open_files;

use crate::peers::Peer;
use crate::stage::Stage;
use crate::table::Samples;
use crate::workloads::Workload;

/// Benchmarks of the proxy beside its peers.
#[derive(Debug, Parser)]
struct Options {
    /// A short run of some minutes: fewer workloads, one round.
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// How often everything is repeated.
    #[arg(long, env = "ROUNDS")]
    rounds: Option<usize>,
    /// How long each measurement takes, in seconds.
    #[arg(long, env = "SECONDS_EACH")]
    seconds: Option<u64>,
    /// Only workloads whose name contains one of these, separated by commas (idle memory is `idle`).
    #[arg(long, env = "WORKLOADS", default_value = "")]
    workloads: String,
    /// Only these peers: direct,proxy,pgbouncer,haproxy,pgpool.
    #[arg(long, env = "PEERS", default_value = "all")]
    peers: String,
    /// How everybody reaches PostgreSQL: tcp or unix. Clients come by TCP in either case.
    #[arg(long, env = "TRANSPORT", default_value = "tcp")]
    transport: String,
    /// Further settings of the proxy's manifest, as `path=value`, separated by semicolons.
    #[arg(long, env = "PROXY_SET", default_value = "")]
    proxy_set: String,
    /// A shell command to run during each measurement of a peer with processes, its output shown: `{pid}`, `{server}` (PostgreSQL's),
    /// `{peer}` and `{workload}` are filled in. For strace, perf, scripts/syscalls.sh; figures of such a run are worth less.
    #[arg(long, env = "ATTACH")]
    attach: Option<String>,
    /// The folder that gets BENCHMARKS.md and benchmarks.svg. A complete run writes to docs, any other to target/bench.
    #[arg(long, env = "OUT")]
    out: Option<PathBuf>,
}

impl Options {
    /// Is this the whole of it, whose results may replace those in docs?
    fn complete(&self) -> bool {
        !self.quick
            && self.workloads.is_empty()
            && self.peers == "all"
            && self.transport == "tcp"
            && self.proxy_set.is_empty()
            && self.attach.is_none()
            && peers::other_build().is_none()
    }

    fn folder(&self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        match &self.out {
            Some(folder) => folder.clone(),
            None if self.complete() => root.join("docs"),
            None => root.join("target/bench"),
        }
    }
}

fn main() -> ExitCode {
    // Thousands of clients, here and in what is started.
    raise_open_files();
    let options = Options::parse();
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 });
    let seconds = options.seconds.unwrap_or(if options.quick { 3 } else { 10 });
    println!("starting PostgreSQL and filling it");
    let stage = Stage::start(&options.transport, &options.proxy_set);
    let workloads = workloads::chosen(&stage, &options.workloads, options.quick);
    let peers = peers::start(&stage, &options.peers, &workloads);
    let titles: Vec<String> = peers.iter().map(Peer::title).collect();
    println!("{}", titles.join("\n"));
    // First of all: memory that a load has left behind would hide what idle clients cost.
    let idle = idle::measure(&peers, options.quick, &options.workloads);
    let mut samples = Samples::default();
    for round in 1..=rounds {
        for workload in &workloads {
            let title = format!("{round}/{rounds}");
            let run = measure::Run {
                stage: &stage,
                seconds,
                attach: options.attach.as_deref(),
            };
            one_row(&title, workload, &peers, &run, &mut samples);
        }
    }
    let report = report::Report {
        rounds,
        seconds,
        transport: &options.transport,
        proxy_set: &options.proxy_set,
        peers: &peers,
        workloads: &workloads,
        samples: &samples,
        idle: &idle,
    };
    finish(&report, &options.folder());
    let failed = samples.failed_of("proxy");
    failed
        .iter()
        .for_each(|(workload, why)| println!("FAILED: {workload}: {why}"));
    ExitCode::from(u8::from(!failed.is_empty()))
}

fn one_row(round: &str, workload: &Workload, peers: &[Peer], run: &measure::Run<'_>, samples: &mut Samples) {
    for peer in peers.iter().filter(|peer| peer.can(workload)) {
        let taken = run.measure(workload, peer);
        match &taken {
            Ok(sample) => println!("{round} {:<17} {:<10} {sample}", workload.name, peer.name),
            Err(fault) => println!("{round} {:<17} {:<10} failed: {fault}", workload.name, peer.name),
        }
        samples.add(workload.name, peer.name, taken);
    }
}

fn finish(report: &report::Report<'_>, folder: &Path) {
    println!("\n{}", report.summary());
    std::fs::create_dir_all(folder).expect("folder of the report");
    let page = folder.join("BENCHMARKS.md");
    let old = std::fs::read_to_string(&page).unwrap_or_default();
    std::fs::write(&page, report.page_with(&old)).expect("report");
    let chart = folder.join("benchmarks.svg");
    std::fs::write(&chart, report.chart()).expect("chart");
    let folder = folder.canonicalize().unwrap_or(folder.to_owned());
    println!(
        "written: BENCHMARKS.md and benchmarks.svg in {}",
        folder.display()
    );
}

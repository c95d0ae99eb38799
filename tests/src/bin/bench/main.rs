//! `make bench`: the proxy beside direct connections and other poolers, interleaved in one run.
//!
//! Every round runs every workload against every peer, one after another, so that what else the machine does meets
//! all of them alike. Figures are medians over the rounds; only ratios within one run mean anything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark: a panic ends it"
)]

mod idle;
mod measure;
mod peers;
mod report;
mod workloads;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use clap::Parser;
use pgstmtpool_tests::{Cluster, World, pgbench};

use crate::measure::Sample;
use crate::peers::Peer;
use crate::workloads::Workload;

/// Benchmarks of the proxy beside its peers.
#[derive(Debug, Parser)]
struct Options {
    /// A short run of some minutes.
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// How often everything is repeated.
    #[arg(long, env = "ROUNDS")]
    rounds: Option<usize>,
    /// How long each measurement takes, in seconds.
    #[arg(long, env = "SECONDS_EACH")]
    seconds: Option<u64>,
    /// Only workloads whose name contains one of these, separated by commas.
    #[arg(long, env = "WORKLOADS", default_value = "")]
    workloads: String,
    /// Only these peers: direct,proxy,pgbouncer,haproxy,pgpool; `all` that are installed.
    #[arg(long, env = "PEERS", default_value = "all")]
    peers: String,
    /// Where the report goes; `-` prints it.
    #[arg(long, env = "OUT", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/BENCHMARKS.md"))]
    out: String,
}

/// All samples: by workload and peer.
type Samples = BTreeMap<(String, String), Vec<Sample>>;

fn main() {
    raise_file_limit();
    let options = Options::parse();
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 3 });
    let seconds = options.seconds.unwrap_or(if options.quick { 3 } else { 10 });
    let world = Arc::new(World::new("bench"));
    let cluster = start_cluster(&world);
    let peers = peers::start(&world, &cluster, &options.peers);
    println!(
        "peers: {}",
        peers.iter().map(Peer::title).collect::<Vec<_>>().join(", ")
    );
    let workloads = workloads::chosen(&world, &options.workloads, options.quick);
    // First of all: memory that a load has left behind would hide what idle clients cost.
    let idle = idle::measure(&peers, options.quick, &options.workloads);
    let mut samples = Samples::new();
    for round in 1..=rounds {
        for workload in &workloads {
            one_row(
                &format!("round {round}/{rounds}"),
                workload,
                &peers,
                seconds,
                &mut samples,
            );
        }
    }
    let report = report::Report {
        rounds,
        seconds,
        peers: &peers,
        workloads: &workloads,
        samples: &samples,
        idle: &idle,
    };
    finish(&report.markdown(), &options.out);
}

fn one_row(round: &str, workload: &Workload, peers: &[Peer], seconds: u64, samples: &mut Samples) {
    for peer in peers.iter().filter(|peer| peer.can(workload)) {
        match measure::run(workload, peer, seconds) {
            Ok(sample) => {
                println!(
                    "{round}  {:<18} {:<10} {:>8.0} tps  p99 {:>7.2} ms  {:>6.1} us CPU a statement",
                    workload.name,
                    peer.name,
                    sample.tps,
                    sample.p99.as_secs_f64() * 1000.0,
                    sample.cpu_us,
                );
                samples
                    .entry((workload.name.to_owned(), peer.name.to_owned()))
                    .or_default()
                    .push(sample);
            }
            Err(fault) => println!("{round}  {:<18} {:<10} failed: {fault}", workload.name, peer.name),
        }
    }
}

fn finish(markdown: &str, out: &str) {
    println!("\n{markdown}");
    if out == "-" {
        return;
    }
    let path = PathBuf::from(out);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("docs");
    std::fs::write(&path, markdown).expect("report");
    println!("written to {}", path.canonicalize().unwrap_or(path).display());
}

/// Starts itself again with as many open files as the system allows: thousands of clients need them.
fn raise_file_limit() {
    if std::env::var_os("PGSTMTPOOL_BENCH_RAISED").is_some() {
        return;
    }
    let own = std::env::current_exe().expect("own path");
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n $(ulimit -Hn) 2>/dev/null; exec \"$0\" \"$@\""])
        .arg(own);
    let error = command
        .args(std::env::args().skip(1))
        .env("PGSTMTPOOL_BENCH_RAISED", "1")
        .exec();
    panic!("sh: {error}");
}

fn start_cluster(world: &Arc<World>) -> Cluster {
    println!("starting PostgreSQL and filling it");
    let cluster = Cluster::builder(world)
        .setting("max_connections = 1200")
        .setting("shared_buffers = 256MB")
        .setting("autovacuum = off")
        .setting("synchronous_commit = off")
        .start();
    let master = cluster.master();
    master.sql("create role bench login");
    master.sql("create database bench owner bench");
    let conninfo = format!("host=127.0.0.1 port={} user=bench dbname=bench", master.port);
    let limit = std::time::Duration::from_secs(300);
    pgbench(&conninfo, &["-i", "-q", "-s", "5"], limit).expect_ok("pgbench -i");
    master.sql_in("bench", "vacuum analyze");
    cluster
}

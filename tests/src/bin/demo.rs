//! `make demo`: one master, two streaming replicas, two proxies, the operator and a workload; a planned switchover,
//! then the master is killed and comes back as a replica. One line shows how it goes, a table what it cost.
//! With `KEEP=1` everything is left running.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a demonstration: a panic ends it"
)]

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgstmtpool_tests::{Cluster, Manifest, Operator, Proxy, SetTest, Status, Tally, World, wait_for};

const CLIENTS: usize = 16;
const LIMIT: Duration = Duration::from_secs(90);

/// What one event cost the clients.
struct Cost {
    event: String,
    began: Instant,
    took: Duration,
    errors: u64,
    longest: Duration,
}

struct Demo {
    world: Arc<World>,
    cluster: Cluster,
    manifest: Manifest,
    path: PathBuf,
    proxies: Vec<Proxy>,
    operator: Operator,
    costs: Vec<Cost>,
}

fn main() {
    let keep = std::env::var_os("KEEP").is_some_and(|v| !v.is_empty() && v != "0");
    let mut demo = Demo::start();
    let addresses: Vec<_> = demo.proxies.iter().map(Proxy::tcp).collect();
    SetTest::create(demo.cluster.master());
    println!("{CLIENTS} clients insert and read through both proxies");
    let work = SetTest::start(&addresses, "app", "postgres", CLIENTS);
    let display = Display::start(work.tally_handle(), demo.path.clone());
    work.wait_progress(1000, LIMIT);
    display.run_for("all is well", Duration::from_secs(5));
    demo.event(&display, &work, "planned switchover", Demo::switchover);
    display.run_for("after the switchover", Duration::from_secs(5));
    demo.event(&display, &work, "SIGKILL of the master", Demo::crash);
    display.run_for("after the failover", Duration::from_secs(3));
    demo.event(&display, &work, "return as a replica", Demo::rejoin);
    display.run_for("all is well again", Duration::from_secs(3));
    display.stop();
    let master = demo.master();
    let verdict = work.finish(demo.server(&master));
    let clean = demo.summary(&verdict);
    if keep {
        demo.leave_running();
    }
    drop(demo);
    std::process::exit(i32::from(!clean));
}

impl Demo {
    fn start() -> Self {
        let world = Arc::new(World::new("demo"));
        println!("starting a master and two streaming replicas");
        let cluster = Cluster::builder(&world).replicas(2).start();
        cluster.master().sql("create role app login");
        let manifest = Manifest::of(&cluster)
            .named("demo")
            .set("durability", "{mode: Required, syncReplicas: 1}")
            .set("ha", "{enabled: true, failureThreshold: 4, probePeriod: 500ms}");
        let path = manifest.write();
        println!("starting the operator and two proxies with {}", path.display());
        let restart = cluster.restart_script();
        let operator = Operator::builder(&world, &path)
            .restart_command(&restart.to_string_lossy())
            .start();
        let proxies = ["proxy-1", "proxy-2"].map(|name| Proxy::builder(&world, &path).named(name).start());
        let demo = Self {
            world,
            cluster,
            manifest,
            path,
            proxies: proxies.into(),
            operator,
            costs: Vec::new(),
        };
        wait_for(
            "the operator to open the pool with synchronous replication",
            LIMIT,
            || {
                let status = Status::beside(&demo.path);
                let names = demo
                    .cluster
                    .master()
                    .try_value("show synchronous_standby_names")?;
                let ready = status.is_settled() && !status.master().is_empty() && !names.is_empty();
                if ready {
                    Ok(())
                } else {
                    Err(format!(
                        "{}\n{}",
                        status.text("phase"),
                        demo.operator.process.log_tail(5)
                    ))
                }
            },
        );
        demo
    }

    fn master(&self) -> String {
        Status::beside(&self.path).master()
    }

    fn server(&self, name: &str) -> &pgstmtpool_tests::Server {
        self.cluster
            .servers()
            .iter()
            .find(|s| s.name == name)
            .expect("a server of the cluster")
    }

    fn event(&mut self, display: &Display, work: &SetTest, name: &str, act: fn(&mut Self) -> String) {
        let tally = work.tally();
        let errors = tally.errors.load(Ordering::Relaxed);
        tally.longest_us.store(0, Ordering::Relaxed);
        display.say(name);
        let started = Instant::now();
        let what = act(self);
        let took = started.elapsed();
        work.wait_progress(200, LIMIT);
        self.costs.push(Cost {
            event: format!("{name} ({what})"),
            began: started,
            took,
            errors: tally.errors.load(Ordering::Relaxed) - errors,
            longest: Duration::from_micros(tally.longest_us.load(Ordering::Relaxed)),
        });
    }

    fn switchover(&mut self) -> String {
        let from = self.master();
        let to = self
            .cluster
            .servers()
            .iter()
            .map(|s| s.name.clone())
            .find(|n| *n != from)
            .unwrap();
        self.manifest = self
            .manifest
            .clone()
            .set("switchover", &format!("{{to: {to}, requestId: demo-1}}"));
        self.manifest.write();
        self.wait_master("the switchover", &|name| name == to);
        format!("{from} to {to}")
    }

    fn crash(&mut self) -> String {
        let from = self.master();
        self.server(&from).kill();
        self.wait_master("the failover", &|name| !name.is_empty() && name != from);
        format!("{from}, then {}", self.master())
    }

    /// The operator starts the dead server again by its `--restart-command` and makes it follow the new master.
    fn rejoin(&mut self) -> String {
        let master = self.master();
        wait_for("the old master to stream as a replica", LIMIT, || {
            let all = self.cluster.servers().iter().filter(|s| s.name != master);
            let waiting: Vec<&str> = all.filter(|s| !streams(s)).map(|s| s.name.as_str()).collect();
            let log = || format!("{waiting:?} do not stream\n{}", self.operator.process.log_tail(5));
            if waiting.is_empty() { Ok(()) } else { Err(log()) }
        });
        format!("all replicas stream from {master}")
    }

    fn wait_master(&self, what: &str, wanted: &dyn Fn(&str) -> bool) {
        wait_for(what, LIMIT, || {
            let status = Status::beside(&self.path);
            let there = wanted(&status.master()) && status.text("routing.mode") == "Open";
            let seen = || format!("{} {}", status.master(), status.text("phase"));
            if there {
                Ok(())
            } else {
                Err(format!("{}\n{}", seen(), self.operator.process.log_tail(5)))
            }
        });
    }

    fn summary(&self, verdict: &pgstmtpool_tests::SetVerdict) -> bool {
        let head = (
            "event",
            "took",
            "errors",
            "longest statement",
            "acknowledged writes lost",
        );
        println!(
            "\n{:<52} {:>8} {:>7} {:>18} {:>25}",
            head.0, head.1, head.2, head.3, head.4
        );
        for (n, cost) in self.costs.iter().enumerate() {
            let (took, longest) = (cost.took.as_secs_f64(), cost.longest.as_secs_f64());
            let (event, errors, lost) = (&cost.event, cost.errors, self.lost_in(n, verdict));
            println!("{event:<52} {took:>6.2} s {errors:>7} {longest:>16.2} s {lost:>25}");
        }
        let (done, unknown) = (verdict.acknowledged, verdict.unknown);
        println!(
            "\n{done} writes acknowledged, {} lost, {unknown} with unknown outcome",
            verdict.lost.len()
        );
        if !verdict.is_clean() {
            println!("NOT CLEAN: {verdict:?}");
        }
        for (error, times) in &verdict.errors {
            println!("  {times} x {error}");
        }
        verdict.is_clean()
    }

    /// Lost writes that were acknowledged before the end of the `n`-th event, and after the end of the one before it.
    fn lost_in(&self, n: usize, verdict: &pgstmtpool_tests::SetVerdict) -> usize {
        let end = |cost: &Cost| cost.began + cost.took;
        let event_of = |at: &Instant| {
            self.costs
                .iter()
                .position(|cost| *at <= end(cost))
                .unwrap_or(self.costs.len() - 1)
        };
        verdict.lost.iter().filter(|(_, at)| event_of(at) == n).count()
    }

    fn leave_running(&self) {
        self.world.keep();
        let pids = self
            .proxies
            .iter()
            .map(|p| p.process.pid())
            .chain([self.operator.process.pid()]);
        let mut stop = String::from("#!/bin/sh\n# stops what KEEP=1 left running\n");
        pids.for_each(|pid| stop += &format!("kill -s TERM -- -{pid} 2>/dev/null\n"));
        for server in self.cluster.servers() {
            stop += &format!(
                "kill -s INT $(head -n 1 {}/postmaster.pid) 2>/dev/null\n",
                server.data.display()
            );
        }
        stop += &format!("sleep 2; rm -rf {}\n", self.world.path().display());
        let stop = self.world.write("stop.sh", &stop);
        println!("\nleft running:");
        for proxy in &self.proxies {
            println!("  psql '{}'", proxy.conninfo("app", "postgres"));
        }
        println!(
            "  psql '{}'    # SHOW POOLS, SHOW CLIENTS, ...",
            self.proxies[0].conninfo("postgres", "pseudo")
        );
        println!(
            "  manifest: {}\n  stop it:  sh {}",
            self.path.display(),
            stop.display()
        );
    }
}

fn streams(server: &pgstmtpool_tests::Server) -> bool {
    server.is_replica()
        && server
            .try_value("select status from pg_stat_wal_receiver")
            .is_ok_and(|status| status == "streaming")
}

/// The live line: on a terminal rewritten four times a second, else one line each second.
struct Display {
    stop: Arc<AtomicBool>,
    stage: Arc<Mutex<String>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Display {
    fn start(tally: Arc<Tally>, manifest: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stage = Arc::new(Mutex::new(String::new()));
        let (stop2, stage2) = (Arc::clone(&stop), Arc::clone(&stage));
        let thread = std::thread::spawn(move || show(&tally, &manifest, &stop2, &stage2));
        Self {
            stop,
            stage,
            thread: Mutex::new(Some(thread)),
        }
    }

    fn say(&self, stage: &str) {
        stage.clone_into(&mut self.stage.lock().unwrap());
    }

    fn run_for(&self, stage: &str, time: Duration) {
        self.say(stage);
        std::thread::sleep(time);
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().unwrap().take() {
            let _ = thread.join();
        }
        println!();
    }
}

fn show(tally: &Tally, manifest: &std::path::Path, stop: &AtomicBool, stage: &Mutex<String>) {
    let live = std::io::stdout().is_terminal();
    let period = Duration::from_millis(if live { 250 } else { 1000 });
    let started = Instant::now();
    let mut done = tally.done.load(Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now();
        std::thread::sleep(period);
        let now = tally.done.load(Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss)]
        let tps = (now - done) as f64 / from.elapsed().as_secs_f64();
        done = now;
        let p99 = std::mem::take(&mut *tally.recent.lock().unwrap()).percentile(0.99);
        let status = Status::beside(manifest);
        let line = format!(
            "{:>6.1} s  {tps:>7.0} statements/s  p99 {:>7.1} ms  errors {:<4} master {:<6} epoch {:<3} {}",
            started.elapsed().as_secs_f64(),
            p99.as_secs_f64() * 1000.0,
            tally.errors.load(Ordering::Relaxed),
            status.master(),
            status.epoch(),
            stage.lock().unwrap(),
        );
        let (before, after) = if live { ("\r\x1b[K", "") } else { ("", "\n") };
        print!("{before}{line}{after}");
        let _ = std::io::stdout().flush();
    }
}

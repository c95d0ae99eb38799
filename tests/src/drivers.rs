//! Programs in other languages that use their own drivers: run straight at PostgreSQL, then through the proxy.
//!
//! Each lives in `tests/drivers/<language>`, takes its target from the environment as libpq does (`PGHOST`, ...; also
//! as `DATABASE_URL`), prints `passed: what` for each thing it checked and last `all passed`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stage::{Random, Stage};
use crate::tools::{Output, run_to_end};
use crate::wait::{Stops, wait_for};
use crate::wire::{Address, Connection, WireError};
use crate::world::World;

/// How long one run of a program may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Clients with odd settings that use the pool while a driver is checked.
const NEIGHBOURS: u64 = 3;

/// How a program is started.
#[derive(Clone, Debug)]
pub struct Driver {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
}

impl Driver {
    fn new(name: &str, language: &str, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            environment: Vec::new(),
            folder: sources(language),
        }
    }

    /// A Python program, in the environment with its drivers.
    pub fn python(script: &str) -> Self {
        let mut driver = Self::new(script, "python", installed("python").join("bin/python"));
        driver.environment = vec![("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned())];
        driver.arg("-u").arg(script)
    }

    /// A Node program; it finds its modules through `NODE_PATH`, so it is CommonJS.
    pub fn node(script: &str) -> Self {
        let mut driver = Self::new(script, "node", "node");
        let modules = installed("node").join("node_modules");
        driver.environment = vec![("NODE_PATH".to_owned(), modules.display().to_string())];
        driver.arg(script)
    }

    /// A Go program: a folder of `tests/drivers/go`, built here into `world`.
    pub fn go(world: &World, package: &str) -> Self {
        installed("go");
        let binary = world.path().join(package);
        let mut build = Command::new("go");
        build
            .current_dir(sources("go"))
            .args(["build", "-mod=readonly", "-o"])
            .arg(&binary)
            .arg(format!("./{package}"));
        run_to_end(&mut build, LIMIT).expect_ok("go build");
        Self::new(package, "go", binary)
    }

    /// A Java program: a class of `tests/drivers/java`, compiled here into `world`.
    pub fn java(world: &World, class: &str) -> Self {
        let classes = world.path().join("classes");
        let path = format!(
            "{}/*:{}",
            installed("java").join("lib").display(),
            classes.display()
        );
        let mut build = Command::new("javac");
        build
            .current_dir(sources("java"))
            .args(["-nowarn", "-cp", &path, "-d"])
            .arg(&classes)
            .args(["Check.java", &format!("{class}.java")]);
        run_to_end(&mut build, LIMIT).expect_ok("javac");
        Self::new(class, "java", "java")
            .arg("-XX:TieredStopAtLevel=1")
            .arg("-cp")
            .arg(&path)
            .arg(class)
    }

    /// A PHP program.
    pub fn php(script: &str) -> Self {
        Self::new(script, "php", "php").arg(script)
    }

    /// A Ruby program.
    pub fn ruby(script: &str) -> Self {
        Self::new(script, "ruby", "ruby").arg(script)
    }

    /// A C program on libpq: a file of `tests/drivers/libpq`, compiled here into `world`.
    pub fn libpq(world: &World, name: &str) -> Self {
        let binary = world.path().join(name);
        let include = run_to_end(Command::new("pg_config").arg("--includedir"), LIMIT).expect_ok("pg_config");
        let mut build = Command::new("cc");
        build
            .current_dir(sources("libpq"))
            .args(["-Wall", "-Werror", "-O1", "-o"])
            .arg(&binary)
            .args([&format!("{name}.c"), &format!("-I{}", include.out.trim()), "-lpq"]);
        run_to_end(&mut build, LIMIT).expect_ok("cc");
        Self::new(name, "libpq", binary)
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.args.push(argument.to_owned());
        self
    }

    /// Runs it against a server or a proxy on this port of 127.0.0.1.
    fn run(&self, port: u16) -> Output {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.folder)
            .args(&self.args)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .envs([
                ("PGHOST", "127.0.0.1"),
                ("PGUSER", "app"),
                ("PGPASSWORD", "app"),
                ("PGDATABASE", "app"),
            ])
            .env("PGPORT", port.to_string())
            .env(
                "DATABASE_URL",
                format!("postgresql://app:app@127.0.0.1:{port}/app"),
            );
        run_to_end(&mut command, LIMIT)
    }
}

fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("drivers")
        .join(language)
}

/// Where `scripts/drivers.sh` has put the drivers of a language.
fn installed(language: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/drivers.sh");
    let mut command = Command::new(script);
    command.args(["where", language]);
    let found = run_to_end(&mut command, LIMIT).expect_ok(language);
    PathBuf::from(found.out.trim())
}

/// A proxy and the server behind it, with passwords asked for on both sides.
#[derive(Debug)]
pub struct DriverStage {
    stage: Stage,
    mode: String,
}

impl DriverStage {
    /// In this pool mode, with a pool so small that clients have to share.
    pub fn start(name: &str, mode: &str) -> Self {
        let change = |m: crate::manifest::Manifest| {
            m.set("poolMode", mode)
                .set("workers", "{minByClients: [2], clientsPerWorker: 4, max: 16}")
                .hba(&["host all app all scram-sha-256"])
                .users(&[("app", "app")])
        };
        let stage = Stage::start(&format!("driver-{name}"), change);
        Self {
            stage,
            mode: mode.to_owned(),
        }
    }

    /// The folder of this test.
    pub fn world(&self) -> &World {
        &self.stage.world
    }

    /// The program must pass straight at PostgreSQL and through the proxy, checking the same things; afterwards no
    /// server connection holds anything of it.
    pub fn check(&self, driver: &Driver) {
        self.both(&driver.name, &|port| driver.run(port));
    }

    /// The same for checks in this process: they panic, or say what they have checked.
    pub fn check_here(&self, name: &str, checks: impl Fn(u16) -> Vec<&'static str>) {
        self.both(name, &|port| {
            let started = Instant::now();
            let passed: String = checks(port)
                .iter()
                .map(|what| format!("passed: {what}\n"))
                .collect();
            Output {
                ok: true,
                code: 0,
                out: passed + "all passed\n",
                err: String::new(),
                took: started.elapsed(),
            }
        });
    }

    fn both(&self, name: &str, run: &dyn Fn(u16) -> Output) {
        self.fresh();
        let straight = run(self.stage.cluster.master().port);
        assert!(
            complete(&straight),
            "{name} straight at PostgreSQL:\n{}",
            shown(&straight)
        );
        let proxied = self.through(name, run);
        assert_eq!(
            passed(&straight.out),
            passed(&proxied.out),
            "{name}: not the same was checked on both sides"
        );
        let _ = writeln!(
            std::io::stderr(),
            "driver {name} in {} mode: {} checks; straight {:.1} s, through the proxy {:.1} s",
            self.mode,
            passed(&proxied.out).len(),
            straight.took.as_secs_f32(),
            proxied.took.as_secs_f32()
        );
    }

    /// Only through the proxy, for programs that know what a mode refuses.
    pub fn proxied(&self, driver: &Driver) {
        self.through(&driver.name, &|port| driver.run(port));
    }

    fn through(&self, name: &str, run: &dyn Fn(u16) -> Output) -> Output {
        self.fresh();
        let address = self.stage.proxy.tcp();
        let stop = AtomicBool::new(false);
        let out = std::thread::scope(|scope| {
            // Neighbours stop however this ends: a check that fails must not wait for them for ever.
            let _stop = Stops(&stop);
            let neighbours: Vec<_> = (0..NEIGHBOURS)
                .map(|number| {
                    let (address, stop) = (&address, &stop);
                    scope.spawn(move || neighbour(address, number, stop))
                })
                .collect();
            let out = run(self.stage.proxy.port);
            stop.store(true, Ordering::Relaxed);
            for one in neighbours {
                let served = one.join().expect("a neighbour must not notice the driver");
                served.unwrap_or_else(|e| panic!("a neighbour of {name}: {e}"));
            }
            out
        });
        assert!(complete(&out), "{name} through the proxy:\n{}", shown(&out));
        self.stage.wait_servers_clean(Duration::from_secs(20));
        let held = "select coalesce(string_agg(l.objid::text, ', '), '') from pg_locks l where locktype = 'advisory'";
        wait_for("every advisory lock to be free", Duration::from_secs(20), || {
            let held = self.stage.direct(held);
            if held.is_empty() { Ok(()) } else { Err(held) }
        });
        out
    }

    /// A schema without anything in it.
    fn fresh(&self) {
        let sql = "set lock_timeout = '20s'; drop schema if exists public cascade; create schema public authorization app";
        self.stage.cluster.master().sql_in("app", sql);
    }
}

fn complete(out: &Output) -> bool {
    out.ok && out.out.trim_end().ends_with("all passed")
}

fn passed(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("passed: ")).collect()
}

fn shown(out: &Output) -> String {
    format!("exit code {}\n{}\n{}", out.code, out.out, out.err)
}

/// Settings that would change what a driver sees if they reached it.
const ODD: [(&str, &str); 9] = [
    ("search_path", "nowhere"),
    ("timezone", "Pacific/Chatham"),
    ("datestyle", "SQL, DMY"),
    ("intervalstyle", "sql_standard"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("default_transaction_read_only", "on"),
    ("application_name", "neighbour"),
    ("statement_timeout", "1min"),
];

/// A client of the same pool, to which odd settings belong; it checks that its answers and settings are its own.
fn neighbour(address: &Address, number: u64, stop: &AtomicBool) -> Result<(), WireError> {
    let mut random = Random::seeded(number);
    let mut connection =
        Connection::open_with(address, &[("user", "app"), ("database", "app")], Some("app"))?;
    let mut own: Vec<(&str, &str)> = Vec::new();
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let marker = format!("{number}-{round}");
        match random.below(8) {
            0 => {
                let (name, value) = *random.choose(&ODD);
                connection.execute(&format!("set {name} = '{value}'"))?;
                own.retain(|(old, _)| *old != name);
                own.push((name, value));
            }
            1 if !own.is_empty() => {
                let (name, value) = *random.choose(&own);
                let got = connection.value(&format!("show {name}"))?;
                assert_eq!(
                    got.to_lowercase(),
                    value.to_lowercase(),
                    "{name} of neighbour {number}"
                );
            }
            2 => {
                let rows = connection.query_params("select $1::text", &[Some(&marker)])?;
                assert_eq!(rows[0][0].as_deref(), Some(marker.as_str()));
            }
            3 => {
                connection =
                    Connection::open_with(address, &[("user", "app"), ("database", "app")], Some("app"))?;
                own.clear();
            }
            _ => assert_eq!(connection.value(&format!("select '{marker}'"))?, marker),
        }
        std::thread::sleep(Duration::from_millis(random.below(20)));
    }
    Ok(())
}

//! Programs that tests run as a user would: psql, pgbench.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{postgres_binary, tail};

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Did it exit with 0?
    pub ok: bool,
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Panics with all it printed unless it succeeded.
    pub fn expect_ok(self, what: &str) -> Self {
        assert!(
            self.ok,
            "{what}: exit code {}\n{}\n{}",
            self.code,
            tail(&self.out, 40),
            tail(&self.err, 40)
        );
        self
    }
}

/// Runs a program to its end; after `limit` it is killed and the test fails.
pub fn run_to_end(command: &mut Command, limit: Duration) -> Output {
    let started = Instant::now();
    let shown = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let out = std::thread::spawn(move || read_all(&mut stdout));
    let err = std::thread::spawn(move || read_all(&mut stderr));
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
            panic!(
                "{shown} still ran after {limit:?}\n{}\n{}",
                tail(&out, 40),
                tail(&err, 40)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output {
        ok: status.success(),
        code: status.code().unwrap_or(-1),
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
        took: started.elapsed(),
    }
}

fn read_all(from: &mut impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `psql -X -At` with a connection string and a script (as `-c` each).
pub fn psql(conninfo: &str, commands: &[&str]) -> Output {
    let mut command = Command::new(postgres_binary("psql"));
    command.args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", conninfo]);
    commands.iter().for_each(|text| {
        command.args(["-c", text]);
    });
    run_to_end(&mut command, Duration::from_secs(60))
}

/// Runs pgbench with a connection string and further arguments.
pub fn pgbench(conninfo: &str, args: &[&str], limit: Duration) -> Output {
    let mut command = Command::new(postgres_binary("pgbench"));
    command.args(args).arg(conninfo);
    run_to_end(&mut command, limit)
}

//! One temporary folder, the processes that run in it, and the guarantee that none outlives the test.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait::wait_for;

/// What the guard process runs: it waits for the end of its input, which comes when the test process ends in
/// whatever way, kills all that the folder names, and removes the folder unless it holds a file `keep`.
const GUARD: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
cd "$1" || exit 0
[ -e keep ] && exit 0
for file in pids/*; do [ -e "$file" ] && kill -s KILL -- "-${file#pids/}" 2>/dev/null; done
for file in */postmaster.pid; do [ -e "$file" ] && kill -s KILL "$(head -n 1 "$file")" 2>/dev/null; done
sleep 0.2
cd / && rm -rf "$1"
"#;

/// A temporary folder with everything that a test starts. Dropped (or its process killed), all of it is gone.
#[derive(Debug)]
pub struct World {
    root: PathBuf,
    guard: Mutex<Option<(Child, ChildStdin)>>,
}

impl World {
    /// A new world; `name` appears in the folder's name and in messages.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = std::env::var("PGSTMTPOOL_TMP").unwrap_or_else(|_| "/tmp".to_owned());
        let root = PathBuf::from(base).join(format!("pgst-{name}-{}-{count}", std::process::id()));
        fs::create_dir_all(root.join("pids")).expect("temporary folder");
        let mut guard = Command::new("sh");
        guard
            .args(["-c", GUARD, "guard"])
            .arg(&root)
            .stdin(Stdio::piped())
            .process_group(0);
        let mut child = guard
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let stdin = child.stdin.take().expect("piped");
        Self {
            root,
            guard: Mutex::new(Some((child, stdin))),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A folder inside that the user `postgres` owns when we are root (it refuses to run as root).
    pub fn postgres_folder(&self, name: &str) -> PathBuf {
        let folder = self.root.join(name);
        fs::create_dir_all(&folder).expect("folder");
        if is_root() {
            run("chown", &["postgres:postgres", folder.to_str().unwrap()]);
        }
        run("chmod", &["700", folder.to_str().unwrap()]);
        folder
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// From now on nothing is stopped or removed when this process ends (`KEEP=1 make demo`).
    pub fn keep(&self) {
        self.write("keep", "");
    }

    /// Starts a program in a process group of its own, its output in `<name>.log`.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Process {
        let log = self.root.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("log file");
        let twin = file.try_clone().expect("log file");
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        fs::write(self.root.join("pids").join(child.id().to_string()), name).expect("pids");
        Process {
            name: name.to_owned(),
            log,
            pids: self.root.join("pids"),
            child,
            keep: self.root.join("keep"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some((mut child, stdin)) = self.guard.lock().unwrap().take() else {
            return;
        };
        drop(stdin);
        let _ = child.wait();
    }
}

/// A program that [`World::spawn`] started. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    pids: PathBuf,
    keep: PathBuf,
    child: Child,
}

impl Process {
    /// Its process id, which is its process group too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `QUIT`, `STOP`, `CONT`, `KILL`) to the whole group.
    pub fn signal(&self, signal: &str) {
        signal_to(&format!("-{}", self.pid()), signal);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal("KILL");
        let _ = self.child.wait();
        let _ = fs::remove_file(self.pids.join(self.pid().to_string()));
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        wait_for(&what, limit, || {
            self.child
                .try_wait()
                .expect("wait")
                .ok_or("still running".to_owned())
        })
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// The last lines it printed, for messages.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keep.exists() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("--- end of the log of {} ---\n{}", self.name, self.log_tail(40));
        }
        self.kill();
    }
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A TCP port of 127.0.0.1 that nothing uses now.
///
/// Taken below the ephemeral range where possible, so that an outgoing connection does not take it in the meantime.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..20_000 {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = u16::try_from(10_000 + offset).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10000 and 30000");
}

/// Are we root?
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Sends a signal to a process or, with a leading `-`, to a group. One that is gone already is fine.
pub(crate) fn signal_to(target: &str, signal: &str) {
    let script = format!("kill -s {signal} -- {target} 2>/dev/null");
    let _ = Command::new("sh").args(["-c", &script]).status();
}

/// Is this process there and not a zombie?
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}

/// Runs a program to its end, and panics with its output unless it succeeds.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    run_command(Command::new(program).args(args))
}

pub(crate) fn run_command(command: &mut Command) -> String {
    let out = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{command:?}: {}\n{text}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

/// A command that runs as user `postgres` when we are root.
pub fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
        .arg(program);
    command
}

/// A program of PostgreSQL: from `$PGBIN`, else the newest major below `/usr/lib/postgresql`, else the PATH.
pub fn postgres_binary(name: &str) -> PathBuf {
    binary_folders()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| {
            panic!("no {name} found: install PostgreSQL (scripts/install-deps.sh) or set PGBIN")
        })
}

/// The major version of the PostgreSQL that tests run.
pub fn postgres_major() -> u32 {
    let text = run(postgres_binary("postgres").to_str().unwrap(), &["--version"]);
    let number = text.split_whitespace().nth(2).unwrap_or_default();
    number
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a version")
}

fn binary_folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("PGBIN") {
        return vec![PathBuf::from(folder)];
    }
    let mut majors: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    majors.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    majors
        .into_iter()
        .rev()
        .map(|(_, bin)| bin)
        .chain(std::env::split_paths(&path))
        .collect()
}

/// Appends to a file.
pub(crate) fn append(path: &Path, text: &str) {
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(path)
        .expect("open to append");
    file.write_all(text.as_bytes()).expect("append");
}

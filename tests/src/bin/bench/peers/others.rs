//! Other people's programs, from Debian's packages.

use std::path::PathBuf;
use std::process::Command;

use pgstmtpool_tests::free_port;

use super::{Peer, Running, first_line};
use crate::stage::{PASSWORD, Stage};

/// PgBouncer, from `$PGBOUNCER` or the PATH, in transaction mode.
pub(super) fn pgbouncer(stage: &Stage) -> Option<Peer> {
    let program = std::env::var("PGBOUNCER").ok().or_else(|| find("pgbouncer"))?;
    let version = first_line(&program, &["--version"]);
    let port = free_port();
    let server = format!("host={} port={} dbname=bench", stage.host(), stage.port());
    // Versions before 1.21 know protocol-level prepared statements only where a client keeps its server.
    let old = version_of(&version) < (1, 21);
    let prepared = if old {
        ""
    } else {
        "max_prepared_statements = 200\n"
    };
    let users = format!("\"bench\" \"\"\n\"bench_scram\" \"{}\"\n", stage.verifier);
    let users = stage.world.write("pgbouncer.users", &users);
    let rules = "host all bench_scram 0.0.0.0/0 scram-sha-256\nhost all all 0.0.0.0/0 trust\n";
    let rules = stage.world.write("pgbouncer.hba", rules);
    let config = format!(
        "[databases]\nbench = {server}\nbench_session = {server} pool_mode=session pool_size=32\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = hba\nauth_hba_file = {}\n\
         auth_file = {}\npool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = 10000\n\
         max_db_connections = 0\nignore_startup_parameters = extra_float_digits\nlog_connections = 0\n\
         log_disconnections = 0\n{prepared}",
        rules.display(),
        users.display()
    );
    let config = stage.world.write("pgbouncer.ini", &config);
    let mut command = plain_user(&program);
    let process = stage.world.spawn("pgbouncer", command.arg("-q").arg(config));
    let setup = if old {
        "transaction mode; before 1.21 it keeps prepared statements only in session mode: select_prepared runs so, with 32 servers"
    } else {
        "transaction mode, max_prepared_statements 200"
    };
    Some(Peer {
        setup,
        session_database: old.then_some("bench_session"),
        ..Peer::new(stage, "pgbouncer", version, port, Running::Process(process))
    })
}

/// HAProxy as a plain relay of TCP: it knows nothing of PostgreSQL, so every client has a server.
pub(super) fn haproxy(stage: &Stage) -> Option<Peer> {
    let program = find("haproxy")?;
    let version = first_line(&program, &["-v"]);
    let port = free_port();
    let server = stage.socket().map_or_else(
        || format!("127.0.0.1:{}", stage.port()),
        |path| format!("unix@{}", path.display()),
    );
    let config = format!(
        "global\n  maxconn 6000\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
         frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  server s {server}\n"
    );
    let config = stage.world.write("haproxy.cfg", &config);
    let mut command = Command::new(program);
    let process = stage
        .world
        .spawn("haproxy", command.arg("-f").arg(config).arg("-db"));
    Some(Peer {
        setup: "mode tcp: a server for every client",
        clients_max: 1000,
        ..Peer::new(stage, "haproxy", version, port, Running::Process(process))
    })
}

/// pgpool-II without load balancing or replication: a process and a server for every client.
pub(super) fn pgpool(stage: &Stage) -> Option<Peer> {
    let program = find("pgpool")?;
    let version = first_line(&program, &["--version"]);
    let (port, pcp) = (free_port(), free_port());
    let folder = stage.world.postgres_folder("pgpool-run");
    let rules = "host all bench_scram 0.0.0.0/0 scram-sha-256\nhost all all 0.0.0.0/0 trust\n";
    let rules = stage.world.write("pgpool.hba", rules);
    let passwords = folder.join("pool_passwd");
    std::fs::write(&passwords, format!("bench_scram:TEXT{PASSWORD}\n")).expect("pool_passwd");
    let config = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\npcp_port = {pcp}\nunix_socket_directories = '{0}'\n\
         pcp_socket_dir = '{0}'\nlogdir = '{0}'\npid_file_name = '{0}/pgpool.pid'\n\
         backend_clustering_mode = 'raw'\nbackend_hostname0 = '{1}'\nbackend_port0 = {2}\n\
         num_init_children = 34\nmax_pool = 1\nconnection_cache = on\nenable_pool_hba = on\npool_passwd = '{3}'\n\
         process_management_mode = static\n",
        folder.display(),
        stage.host(),
        stage.port(),
        passwords.display(),
    );
    let config = stage.world.write("pgpool.conf", &config);
    let empty = stage.world.write("pgpool.empty", "");
    let mut command = plain_user(&program);
    command.arg("-n").arg("-f").arg(config);
    command.arg("-F").arg(&empty).arg("-a").arg(&rules);
    let process = stage.world.spawn("pgpool", &mut command);
    Some(Peer {
        setup: "raw mode, 34 processes: one, and a server, for every client",
        clients_max: 32,
        ..Peer::new(stage, "pgpool", version, port, Running::Process(process))
    })
}

/// As user `postgres` when we are root, which these programs refuse.
fn plain_user(program: &str) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=postgres",
        "--regid=postgres",
        "--init-groups",
        "--",
        program,
    ]);
    command
}

fn find(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())?;
    Some(found.to_string_lossy().into_owned())
}

/// The first two numbers in a text such as `PgBouncer 1.18.0`.
fn version_of(text: &str) -> (u32, u32) {
    let word = text
        .split_whitespace()
        .find(|w| w.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or_default();
    let mut numbers = word.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

//! The server that all peers stand before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgstmtpool_tests::{Cluster, Manifest, World, pgbench};

/// The password of the user who logs in by SCRAM.
pub(crate) const PASSWORD: &str = "secret of bench_scram";

/// PostgreSQL with pgbench's tables (scale 5), and how it is reached.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Folder and processes.
    pub(crate) world: Arc<World>,
    /// The server.
    pub(crate) cluster: Cluster,
    /// The SCRAM verifier of `bench_scram`, as the server has it.
    pub(crate) verifier: String,
    by_unix: bool,
    proxy_set: Vec<(String, String)>,
}

impl Stage {
    /// Starts and fills it. User `bench` is trusted, `bench_scram` has a password.
    pub(crate) fn start(transport: &str, proxy_set: &str) -> Self {
        assert!(matches!(transport, "tcp" | "unix"), "TRANSPORT is tcp or unix");
        let world = Arc::new(World::new("bench"));
        let cluster = Cluster::builder(&world)
            .setting("max_connections = 1200")
            .setting("shared_buffers = 256MB")
            .setting("autovacuum = off")
            .setting("synchronous_commit = off")
            .hba("host all bench_scram 127.0.0.1/32 scram-sha-256\nlocal all bench_scram scram-sha-256")
            .start();
        let master = cluster.master();
        master.sql("create role bench login");
        master.sql(&format!(
            "create role bench_scram login password '{PASSWORD}' in role bench"
        ));
        master.sql("create database bench owner bench");
        let conninfo = format!("host=127.0.0.1 port={} user=bench dbname=bench", master.port);
        pgbench(&conninfo, &["-i", "-q", "-s", "5"], Duration::from_secs(300)).expect_ok("pgbench -i");
        master.sql_in("bench", "vacuum analyze");
        master.sql("checkpoint");
        let verifier = master.value("select rolpassword from pg_authid where rolname = 'bench_scram'");
        let pair = |s: &str| {
            let (path, value) = s.split_once('=').expect("PROXY_SET is path=value;path=value");
            (path.trim().to_owned(), value.trim().to_owned())
        };
        let proxy_set = proxy_set.split(';').filter(|s| !s.is_empty()).map(pair).collect();
        Self {
            world,
            cluster,
            verifier,
            by_unix: transport == "unix",
            proxy_set,
        }
    }

    /// What libpq calls the host: an address, or the folder of the socket.
    pub(crate) fn host(&self) -> String {
        if self.by_unix {
            self.sockets().display().to_string()
        } else {
            "127.0.0.1".to_owned()
        }
    }

    /// The socket file, where peers shall use it.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.by_unix
            .then(|| self.sockets().join(format!(".s.PGSQL.{}", self.port())))
    }

    fn sockets(&self) -> &PathBuf {
        &self.cluster.master().sockets
    }

    /// The port of the server.
    pub(crate) fn port(&self) -> u16 {
        self.cluster.master().port
    }

    /// The first process of the server.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.cluster.master().pid()
    }

    /// The manifest of a proxy: 20 servers, everything else as it is by itself.
    pub(crate) fn manifest(&self) -> Manifest {
        let manifest = Manifest::of(&self.cluster)
            .set("workers.max", "20")
            .hba(&["host all bench_scram all scram-sha-256", "host all all all trust"]);
        let manifest = if self.by_unix {
            manifest.by_unix_socket(&self.cluster)
        } else {
            manifest
        };
        let set = |manifest: Manifest, (path, value): &(String, String)| manifest.set(path, value);
        self.proxy_set.iter().fold(manifest, set)
    }

    /// How many rows `generate_series` must have for a read to take so long here, with nothing else running.
    pub(crate) fn rows_for(&self, time: Duration) -> u64 {
        const ROWS: u64 = 1_000_000;
        let mut connection = self.cluster.master().connect("bench");
        let sql = format!("select count(*) from (select generate_series(1, {ROWS})) s");
        let mut once = || {
            let started = Instant::now();
            connection.query(&sql).expect("a read");
            started.elapsed()
        };
        let best = (0..5).map(|_| once()).min().unwrap_or(Duration::from_millis(50));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let rows = (time.as_secs_f64() / best.as_secs_f64() * ROWS as f64) as u64;
        rows.max(1)
    }
}

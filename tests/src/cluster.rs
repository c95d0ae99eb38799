//! A master and its streaming replicas.

use std::path::PathBuf;
use std::sync::Arc;

use crate::server::Server;
use crate::wait::DEADLINE;
use crate::world::{World, append, as_postgres, free_port, postgres_binary, run_command};

/// The settings every server of a test has. Durable against SIGKILL (that needs no fsync), small, rewindable.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = off
wal_log_hints = on
wal_level = logical
wal_keep_size = 256MB
max_wal_size = 512MB
max_wal_senders = 16
max_replication_slots = 16
max_connections = 200
max_prepared_transactions = 10
shared_buffers = 32MB
hot_standby = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 500ms
log_line_prefix = '%m [%p] %a '
";

/// One master and its replicas, in a [`World`]. Index 0 is the master at the start; who it is later, ask.
#[derive(Debug)]
pub struct Cluster {
    world: Arc<World>,
    servers: Vec<Server>,
}

/// What a [`Cluster`] shall be like.
#[derive(Debug)]
pub struct ClusterBuilder {
    world: Arc<World>,
    replicas: usize,
    scram: bool,
    settings: String,
    hba: String,
    prefix: String,
}

impl Cluster {
    /// One master without replicas, `trust` for everybody.
    pub fn single(world: &Arc<World>) -> Self {
        Self::builder(world).start()
    }

    /// A cluster made to measure.
    pub fn builder(world: &Arc<World>) -> ClusterBuilder {
        ClusterBuilder {
            world: Arc::clone(world),
            replicas: 0,
            scram: false,
            settings: String::new(),
            hba: String::new(),
            prefix: "pg".to_owned(),
        }
    }

    /// The folder and processes it belongs to.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// All servers; the first was the master at the start.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The `n`-th server.
    pub fn server(&self, n: usize) -> &Server {
        &self.servers[n]
    }

    /// The server that was the master at the start.
    pub fn master(&self) -> &Server {
        &self.servers[0]
    }

    /// The server that is up and writable now, if there is exactly one.
    pub fn writable(&self) -> Option<&Server> {
        let mut all = self.servers.iter().filter(|server| server.is_master());
        let first = all.next();
        if all.next().is_some() { None } else { first }
    }

    /// Waits until every replica has replayed what the master has.
    pub fn wait_caught_up(&self) {
        self.servers[1..]
            .iter()
            .for_each(|replica| replica.wait_caught_up(self.master()));
    }

    /// Adds a streaming replica, copied from `from`.
    pub fn add_replica(&mut self, from: &Server) -> Server {
        let name = format!(
            "{}-{}",
            from.name.rsplit_once('-').map_or("pg", |(p, _)| p),
            self.servers.len()
        );
        let replica = new_server(&self.world, &name);
        copy(from, &replica);
        replica.start();
        replica.wait_streaming(DEADLINE);
        self.servers.push(replica.clone());
        replica
    }

    /// A script that starts, stops, restarts and rewinds the servers: what a file-mode operator is given as
    /// `--restart-command` and `--rewind-command`. It reads `PGSTMTPOOL_SERVER` and `PGSTMTPOOL_ACTION`.
    ///
    /// `pg_rewind` finishes crash recovery of its target in single-user mode, which knows no standby mode: the signal file
    /// goes first, and the operator writes it again before the start.
    pub fn restart_script(&self) -> PathBuf {
        let mut script = String::from("#!/bin/sh\nset -e\ncase \"$PGSTMTPOOL_SERVER\" in\n");
        for server in &self.servers {
            let (data, log) = (server.data.display(), server.log_path());
            let (log, own) = (log.display(), server.options());
            script += &format!("{}) data={data} log={log} own='{own}' ;;\n", server.name);
        }
        script += "*) echo \"no server $PGSTMTPOOL_SERVER\" >&2; exit 2 ;;\nesac\ncd /\n";
        let (pg_ctl, pg_rewind) = (words("pg_ctl"), words("pg_rewind"));
        script += &format!(
            "case \"$PGSTMTPOOL_ACTION\" in\n\
             rewind) rm -f \"$data/standby.signal\"; exec {pg_rewind} -D \"$data\" --source-server \"$PGSTMTPOOL_SOURCE_CONNINFO\" ;;\n\
             stop) exec {pg_ctl} stop -D \"$data\" -m fast -w -t 60 -s </dev/null ;;\n\
             *) exec {pg_ctl} \"$PGSTMTPOOL_ACTION\" -D \"$data\" -l \"$log\" -o \"$own\" -w -t 60 -s </dev/null ;;\nesac\n"
        );
        let path = self.world.write("restart.sh", &script);
        crate::world::run("chmod", &["755", path.to_str().unwrap()]);
        path
    }
}

/// How a program of PostgreSQL is run, as words of a shell.
fn words(program: &str) -> String {
    let command = as_postgres(&postgres_binary(program));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

impl ClusterBuilder {
    /// With so many streaming replicas.
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// TCP connections log in by SCRAM; user `postgres` has the password `postgres`.
    pub fn scram(mut self) -> Self {
        self.scram = true;
        self
    }

    /// A line of postgresql.conf.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings += &format!("{line}\n");
        self
    }

    /// A line at the head of pg_hba.conf.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba += &format!("{line}\n");
        self
    }

    /// Names the servers `<prefix>-0`, `<prefix>-1`, ... (default `pg`).
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Makes and starts it, and waits until the replicas stream.
    pub fn start(self) -> Cluster {
        let master = new_server(&self.world, &format!("{}-0", self.prefix));
        self.init(&master);
        master.start();
        let mut cluster = Cluster {
            world: Arc::clone(&self.world),
            servers: vec![master.clone()],
        };
        for _ in 0..self.replicas {
            cluster.add_replica(&master);
        }
        cluster
    }

    fn init(&self, master: &Server) {
        let password = self.world.write("postgres.password", "postgres\n");
        let mut command = as_postgres(&postgres_binary("initdb"));
        command
            .arg("-D")
            .arg(&master.data)
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        command
            .args(["-A", "trust", "--no-instructions"])
            .arg(format!("--pwfile={}", password.display()));
        run_command(&mut command);
        append(
            &master.data.join("postgresql.conf"),
            &format!("{SETTINGS}\n{}", self.settings),
        );
        append(&master.data.join("postgresql.conf"), &own_settings(master));
        let method = if self.scram { "scram-sha-256" } else { "trust" };
        let hba = format!(
            "{}local all postgres trust\nlocal replication postgres trust\nlocal all all {method}\n\
             host all all 127.0.0.1/32 {method}\nhostssl all all 127.0.0.1/32 {method}\n\
             host replication all 127.0.0.1/32 {method}\n",
            self.hba
        );
        std::fs::write(master.data.join("pg_hba.conf"), hba).expect("pg_hba.conf");
    }
}

fn new_server(world: &World, name: &str) -> Server {
    let data = world.postgres_folder(name);
    let sockets = world.path().join("sockets");
    if !sockets.exists() {
        world.postgres_folder("sockets");
        world.postgres_folder("logs");
        crate::world::run("chmod", &["777", sockets.to_str().unwrap()]);
    }
    Server {
        name: name.to_owned(),
        port: free_port(),
        data,
        sockets,
    }
}

fn own_settings(server: &Server) -> String {
    format!(
        "\nport = {}\nunix_socket_directories = '{}'\n",
        server.port,
        server.sockets.display()
    )
}

fn copy(from: &Server, to: &Server) {
    // The TCP address, with the password: what a real replica has, and what an operator later replaces.
    let conninfo = format!(
        "host=127.0.0.1 port={} user=postgres password=postgres application_name={}",
        from.port, to.name
    );
    let mut command = as_postgres(&postgres_binary("pg_basebackup"));
    command.arg("-D").arg(&to.data).arg("-d").arg(conninfo);
    run_command(command.args(["-R", "-c", "fast", "-X", "stream", "--no-sync"]));
    append(&to.data.join("postgresql.conf"), &own_settings(to));
}

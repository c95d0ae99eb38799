//! What is measured.

use std::path::PathBuf;
use std::time::Duration;

use crate::stage::Stage;

/// One workload: some runs of pgbench at the same time.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// What it is, in words.
    pub(crate) about: &'static str,
    /// The runs of pgbench, each with its own application_name.
    pub(crate) parts: Vec<Part>,
    /// Statements a transaction of pgbench has.
    pub(crate) statements: u32,
    /// Does it use named prepared statements of the protocol?
    pub(crate) prepared: bool,
    /// Do clients log in by SCRAM?
    pub(crate) scram: bool,
    /// Which part of the transactions is written to pgbench's log, for the latencies.
    pub(crate) sampling: &'static str,
}

/// One run of pgbench.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Arguments besides clients, time and connection.
    pub(crate) args: Vec<String>,
    /// Concurrent clients.
    pub(crate) clients: usize,
    /// Are its transactions and latencies those of the workload? Otherwise it only disturbs.
    pub(crate) measured: bool,
}

impl Workload {
    /// All clients that count.
    pub(crate) fn clients(&self) -> usize {
        self.parts.iter().filter(|p| p.measured).map(|p| p.clients).sum()
    }

    /// All clients.
    pub(crate) fn connections(&self) -> usize {
        self.parts.iter().map(|p| p.clients).sum()
    }

    fn statements(self, statements: u32) -> Self {
        Self { statements, ..self }
    }

    fn prepared(self) -> Self {
        Self {
            prepared: true,
            ..self
        }
    }

    fn scram(self) -> Self {
        Self { scram: true, ..self }
    }

    fn log_all(self) -> Self {
        Self {
            sampling: "1",
            ..self
        }
    }

    fn beside(mut self, args: &[&str], clients: usize) -> Self {
        self.parts.push(Part {
            args: owned(args),
            clients,
            measured: false,
        });
        self
    }

    fn each_alone(mut self) -> Self {
        let one = Part {
            clients: 1,
            ..self.parts[0].clone()
        };
        self.parts = vec![one; self.parts[0].clients];
        self
    }
}

/// All workloads whose name contains one of the filters; the quick form leaves out what the first table needs not.
pub(crate) fn chosen(stage: &Stage, filter: &str, quick: bool) -> Vec<Workload> {
    let filters: Vec<&str> = filter.split(',').filter(|f| !f.is_empty()).collect();
    let wanted = |w: &Workload| {
        if filters.is_empty() {
            !w.name.starts_with(ONLY_BY_NAME) && (!quick || QUICK.contains(&w.name))
        } else {
            filters.iter().any(|f| w.name.contains(f))
        }
    };
    all(stage).into_iter().filter(wanted).collect()
}

/// These show how cost grows, for docs/PERFORMANCE.md: they run only when they are asked for.
const ONLY_BY_NAME: &str = "scale_";

const QUICK: [&str; 9] = [
    "select_simple",
    "select_prepared",
    "select1_1",
    "select1_32",
    "select1_1000",
    "rate_2000",
    "transactions",
    "rows_1mb",
    "mixed",
];

fn all(stage: &Stage) -> Vec<Workload> {
    let mut all = statements(stage);
    all.extend(longer(stage));
    all.extend(connections(stage));
    all.extend(mixes(stage));
    all.extend(scales(stage));
    all
}

/// The same with ever more clients, and with ever larger results.
fn scales(stage: &Stage) -> Vec<Workload> {
    let one = script(stage, "one", "select 1;\n");
    let clients = [
        ("scale_clients_2", 2),
        ("scale_clients_8", 8),
        ("scale_clients_64", 64),
        ("scale_clients_256", 256),
        ("scale_clients_512", 512),
    ];
    let rows = [
        ("scale_bytes_1k", 1_000),
        ("scale_bytes_10k", 10_000),
        ("scale_bytes_100k", 100_000),
        ("scale_bytes_10m", 10_000_000),
    ];
    let by_clients = clients.map(|(name, clients)| pgbench(name, "SELECT 1", &["-f", &one], clients));
    let by_bytes = rows.map(|(name, bytes)| {
        let text = format!(
            "select repeat('x', 1000) from generate_series(1, {});\n",
            bytes / 1000
        );
        pgbench(
            name,
            "rows of 1000 bytes",
            &["-f", &script(stage, name, &text)],
            8,
        )
    });
    by_clients.into_iter().chain(by_bytes).collect()
}

/// Single statements.
fn statements(stage: &Stage) -> Vec<Workload> {
    let one = script(stage, "one", "select 1;\n");
    let select = |mode: &'static str| ["-S", "-M", mode];
    vec![
        pgbench(
            "select_simple",
            "pgbench -S, simple protocol",
            &select("simple"),
            32,
        ),
        pgbench(
            "select_prepared",
            "pgbench -S, prepared statements",
            &select("prepared"),
            32,
        )
        .prepared(),
        pgbench(
            "select_extended",
            "pgbench -S, extended protocol",
            &select("extended"),
            32,
        ),
        pgbench("select1_1", "SELECT 1, one client", &["-f", &one], 1),
        pgbench("select1_32", "SELECT 1", &["-f", &one], 32),
        pgbench(
            "select1_1000",
            "SELECT 1, a thousand clients",
            &["-f", &one],
            1000,
        ),
        pgbench(
            "rate_2000",
            "pgbench -S at a fixed 2000 a second",
            &["-S", "-R", "2000"],
            32,
        )
        .log_all(),
        pgbench(
            "app_names",
            "pgbench -S, 32 clients with 32 different application_names",
            &select("simple"),
            32,
        )
        .each_alone(),
        pgbench(
            "writes",
            "single-row updates (autocommit)",
            &["-f", &script(stage, "update", UPDATE)],
            32,
        ),
    ]
}

const UPDATE: &str =
    "\\set a random(1, 500000)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :a;\n";

const TRANSACTION: &str = "\\set a random(1, 499999)\nbegin;\nselect abalance from pgbench_accounts where aid = :a;\n\
                           select abalance from pgbench_accounts where aid = :a + 1;\ncommit;\n";

/// Requests of several statements, and of many bytes.
fn longer(stage: &Stage) -> Vec<Workload> {
    let pipeline = format!("\\startpipeline\n{}\\endpipeline\n", "select 1;\n".repeat(10));
    let rows = "select repeat('x', 1100) from generate_series(1, 1000);\n";
    vec![
        pgbench(
            "transactions",
            "BEGIN, two selects, COMMIT",
            &["-f", &script(stage, "tx", TRANSACTION)],
            32,
        )
        .statements(4),
        pgbench(
            "pipeline_10",
            "pipelines of 10 selects",
            &["-M", "extended", "-f", &script(stage, "pipe", &pipeline)],
            16,
        )
        .statements(10),
        pgbench(
            "rows_1mb",
            "results of 1.1 MB",
            &["-f", &script(stage, "rows", rows)],
            8,
        )
        .log_all(),
    ]
}

/// A connection per statement.
fn connections(stage: &Stage) -> Vec<Workload> {
    let one = script(stage, "one", "select 1;\n");
    let args = ["-C", "-f", &one];
    vec![
        pgbench(
            "reconnect_trust",
            "a new connection per statement, trust",
            &args,
            8,
        )
        .log_all(),
        pgbench(
            "reconnect_scram",
            "a new connection per statement, SCRAM",
            &args,
            8,
        )
        .log_all()
        .scram(),
    ]
}

/// Short reads at a rate that leaves room, beside two clients whose reads take 2 s each.
fn mixes(stage: &Stage) -> Vec<Workload> {
    let short = stage.rows_for(Duration::from_millis(1));
    let long = stage.rows_for(Duration::from_secs(2));
    let series = |n: u64| format!("select count(*) from (select generate_series(1, {n})) s;\n");
    // The same work under another shape: what is known of long reads tells nothing of these.
    let other = format!("select sum(n) from (select generate_series(1, {short})) s(n);\n");
    let long = script(stage, "long", &series(long));
    let mix = |name: &'static str, about: &'static str, text: &str| {
        let file = script(stage, name, text);
        pgbench(name, about, &["-R", "200", "-f", &file], 16)
            .log_all()
            .beside(&["-f", &long], 2)
    };
    vec![
        mix(
            "mixed",
            "reads of 1 ms, 200 a second, beside two clients with reads of 2 s",
            &other,
        ),
        mix(
            "mixed_same_shape",
            "the same, where short and long reads differ only in a number",
            &series(short),
        ),
    ]
}

fn pgbench(name: &'static str, about: &'static str, args: &[&str], clients: usize) -> Workload {
    Workload {
        name,
        about,
        parts: vec![Part {
            args: owned(args),
            clients,
            measured: true,
        }],
        statements: 1,
        prepared: false,
        scram: false,
        sampling: "0.1",
    }
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

fn script(stage: &Stage, name: &str, text: &str) -> String {
    let path: PathBuf = stage.world.write(&format!("{name}.pgbench"), text);
    path.to_string_lossy().into_owned()
}

//! What is measured.

use std::path::PathBuf;

use pgstmtpool_tests::World;

/// One workload of pgbench.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// What it is, in words.
    pub(crate) about: &'static str,
    /// Arguments of pgbench besides clients, time and connection.
    pub(crate) args: Vec<String>,
    /// Concurrent clients.
    pub(crate) clients: usize,
    /// Statements a transaction of pgbench has.
    pub(crate) statements: u32,
    /// Does it use named prepared statements of the protocol?
    pub(crate) prepared: bool,
    /// How many pgbench processes share the clients, each with its own application_name.
    pub(crate) processes: usize,
}

/// All workloads whose name contains one of the filters; the quick form leaves out what the first table needs not.
pub(crate) fn chosen(world: &World, filter: &str, quick: bool) -> Vec<Workload> {
    let filters: Vec<&str> = filter.split(',').filter(|f| !f.is_empty()).collect();
    let wanted = |w: &Workload| {
        if filters.is_empty() {
            !quick || QUICK.contains(&w.name)
        } else {
            filters.iter().any(|f| w.name.contains(f))
        }
    };
    all(world).into_iter().filter(wanted).collect()
}

const QUICK: [&str; 5] = [
    "select_simple",
    "select_prepared",
    "select1_32",
    "select1_1000",
    "transactions",
];

fn all(world: &World) -> Vec<Workload> {
    let file = |name: &str, text: &str| script(world, name, text);
    let one = file("one", "select 1;\n");
    let transaction = "\\set a random(1, 500000)\nbegin;\nselect abalance from pgbench_accounts where aid = :a;\n\
                       select abalance from pgbench_accounts where aid = :a + 1;\ncommit;\n";
    let pipeline = format!("\\startpipeline\n{}\\endpipeline\n", "select 1;\n".repeat(10));
    let rows = "select repeat('x', 1100) from generate_series(1, 1000);\n";
    let mixed_short = file("short", "select 1;\n");
    let mixed_long = file("long", "select count(*) from generate_series(1, 20000);\n");
    vec![
        pgbench(
            "select_simple",
            "pgbench -S, simple protocol",
            &["-S", "-M", "simple"],
            32,
        ),
        Workload {
            prepared: true,
            ..pgbench(
                "select_prepared",
                "pgbench -S, prepared",
                &["-S", "-M", "prepared"],
                32,
            )
        },
        pgbench(
            "select_extended",
            "pgbench -S, extended protocol",
            &["-S", "-M", "extended"],
            32,
        ),
        pgbench("select1_1", "SELECT 1", &["-f", &one], 1),
        pgbench("select1_32", "SELECT 1", &["-f", &one], 32),
        pgbench("select1_1000", "SELECT 1", &["-f", &one], 1000),
        pgbench(
            "rate_2000",
            "pgbench -S at a fixed 2000 a second",
            &["-S", "-R", "2000"],
            32,
        ),
        Workload {
            statements: 4,
            ..pgbench(
                "transactions",
                "BEGIN, two selects, COMMIT",
                &["-f", &file("tx", transaction)],
                32,
            )
        },
        Workload {
            statements: 10,
            ..pgbench(
                "pipeline_10",
                "pipelines of 10 selects",
                &["-M", "extended", "-f", &file("pipe", &pipeline)],
                16,
            )
        },
        pgbench("rows_1mb", "results of 1.1 MB", &["-f", &file("rows", rows)], 8),
        pgbench(
            "mixed",
            "9 of 10 SELECT 1, one of some ms",
            &[
                "-f",
                &format!("{mixed_short}@9"),
                "-f",
                &format!("{mixed_long}@1"),
            ],
            32,
        ),
        pgbench(
            "reconnect",
            "a connection per statement, trust",
            &["-C", "-f", &one],
            8,
        ),
        Workload {
            processes: 32,
            ..pgbench(
                "app_names",
                "pgbench -S, 32 different application_name",
                &["-S", "-M", "simple"],
                32,
            )
        },
        pgbench(
            "writes",
            "single-row updates (autocommit)",
            &["-f", &file("upd", UPDATE)],
            32,
        ),
    ]
}

const UPDATE: &str =
    "\\set a random(1, 500000)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :a;\n";

fn pgbench(name: &'static str, about: &'static str, args: &[&str], clients: usize) -> Workload {
    let args = args.iter().map(|a| (*a).to_owned()).collect();
    Workload {
        name,
        about,
        args,
        clients,
        statements: 1,
        prepared: false,
        processes: 1,
    }
}

fn script(world: &World, name: &str, text: &str) -> String {
    let path: PathBuf = world.write(&format!("{name}.pgbench"), text);
    path.to_string_lossy().into_owned()
}

//! PostgreSQL's own programs through the proxy: psql, pgbench, pg_dump.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use pgstmtpool_tests::{Stage, pgbench, postgres_binary, psql, run_to_end};

const LIMIT: Duration = Duration::from_secs(120);

fn stage(name: &str, mode: &str) -> Stage {
    Stage::start(name, |m| {
        m.set("poolMode", mode)
            .set("workers", "{minByClients: [2], clientsPerWorker: 8, max: 12}")
    })
}

#[test]
fn psql_runs_scripts_copies_and_transactions() {
    let stage = stage("programs-psql", "transaction");
    let file = stage.world.write("data.csv", "1,one\n2,two\n3,three\n");
    let out = psql(
        &stage.conninfo(),
        &[
            "create table t (n int primary key, s text)",
            &format!("\\copy t from '{}' with (format csv)", file.display()),
            "\\copy t to stdout with (format csv)",
            "begin",
            "update t set s = upper(s) where n > 1",
            "savepoint a",
            "delete from t",
            "rollback to a",
            "commit",
            "select string_agg(s, ' ' order by n) from t",
            "\\d t",
            "\\df nothing",
            "\\l",
            "set work_mem = '3MB'",
            "show work_mem",
            "prepare p (int) as select s from t where n = $1",
            "execute p (2)",
            "select 'last'",
        ],
    )
    .expect_ok("psql");
    for wanted in ["2,two", "one TWO THREE", "3MB", "TWO", "last"] {
        assert!(out.out.contains(wanted), "{wanted} is missing:\n{}", out.out);
    }
}

#[test]
fn psql_works_in_statement_mode() {
    let stage = stage("programs-psql-stmt", "statement");
    let out = psql(
        &stage.conninfo(),
        &[
            "create table t (n int)",
            "insert into t select generate_series(1, 10)",
            "set work_mem = '3MB'",
            "show work_mem",
            "begin; update t set n = n + 1; commit",
            "\\copy t to stdout",
            "\\d t",
            "select sum(n) from t",
        ],
    )
    .expect_ok("psql");
    assert!(
        out.out.contains("3MB") && out.out.trim_end().ends_with("65"),
        "{}",
        out.out
    );
}

#[test]
fn a_dump_taken_and_restored_through_the_proxy_is_the_same() {
    let stage = stage("programs-dump", "transaction");
    let mut client = stage.client();
    client.query("create table t (n serial primary key, s text); insert into t (s) select md5(g::text) from generate_series(1, 2000) g").unwrap();
    client.query("create view v as select count(*) from t; create function f() returns int language sql as 'select 1'").unwrap();
    let dump = |name: &str| {
        let file = stage.world.path().join(name);
        let mut command = Command::new(postgres_binary("pg_dump"));
        command
            .arg("-d")
            .arg(stage.conninfo())
            .arg("-f")
            .arg(&file)
            .args(["-n", "public"]);
        run_to_end(&mut command, LIMIT).expect_ok("pg_dump");
        file
    };
    let first = dump("first.sql");
    client
        .query("drop view v; drop table t; drop function f()")
        .unwrap();
    let out = psql(
        &stage.conninfo(),
        &[
            &format!("\\i {}", first.display()),
            "select count(*) from public.v",
        ],
    )
    .expect_ok("restore");
    assert!(!out.err.contains("ERROR:  42P01"), "{}", out.err);
    let second = dump("second.sql");
    let text = |path| {
        // Some versions write a random key into every dump.
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter(|l| !l.contains("restrict"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(text(first), text(second));
}

#[test]
fn pgbench_runs_in_all_its_protocols_in_both_modes() {
    for mode in ["transaction", "statement"] {
        let stage = stage(&format!("programs-pgbench-{mode}"), mode);
        // Straight at the server: pgbench fills its tables in a transaction, which statement mode refuses.
        let server = format!(
            "host=127.0.0.1 port={} user=app dbname=app",
            stage.cluster.master().port
        );
        pgbench(&server, &["-i", "-q", "-s", "1"], LIMIT).expect_ok("pgbench -i");
        for protocol in ["simple", "extended", "prepared"] {
            let args = ["-n", "-S", "-M", protocol, "-c", "16", "-j", "2", "-t", "200"];
            let out = pgbench(&stage.conninfo(), &args, LIMIT).expect_ok(protocol);
            assert!(
                out.out.contains("actually processed: 3200/3200"),
                "{protocol}: {}",
                out.out
            );
            assert!(!out.out.contains("failed transactions: 1"), "{}", out.out);
            if mode == "transaction" {
                let args = ["-n", "-M", protocol, "-c", "8", "-j", "2", "-t", "50"];
                let out = pgbench(&stage.conninfo(), &args, LIMIT).expect_ok(protocol);
                assert!(
                    out.out.contains("actually processed: 400/400"),
                    "{protocol}: {}",
                    out.out
                );
            }
        }
        if mode == "transaction" {
            let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history) \
                        and (select count(*) from pgbench_history) = 1200";
            assert_eq!(stage.direct(sums), "t", "the books must balance");
        }
    }
}

#[test]
fn pgbench_pipelines_and_reconnects() {
    let stage = stage("programs-pipeline", "transaction");
    let text = format!("\\startpipeline\n{}\\endpipeline\n", "select 1;\n".repeat(10));
    let pipeline = stage.world.write("pipeline.sql", &text);
    for protocol in ["extended", "prepared"] {
        let args = [
            "-n",
            "-M",
            protocol,
            "-c",
            "8",
            "-j",
            "2",
            "-t",
            "100",
            "-f",
            pipeline.to_str().unwrap(),
        ];
        pgbench(&stage.conninfo(), &args, LIMIT).expect_ok(protocol);
    }
    let one = stage.world.write("one.sql", "select 1;\n");
    pgbench(
        &stage.conninfo(),
        &["-n", "-C", "-c", "4", "-t", "50", "-f", one.to_str().unwrap()],
        LIMIT,
    )
    .expect_ok("-C");
}

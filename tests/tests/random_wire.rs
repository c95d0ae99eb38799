//! Random conversations, straight against PostgreSQL and through the proxy: the transcripts must be equal. They are the same in
//! every run; `SEED=n` gives others, `SCRIPTS=n` so many of each kind (a minute or two for 1000).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;
use std::fmt::Write as _;

use pgstmtpool_tests::{Manifest, Proxy, Random, script};

/// Conversations of each test.
const SCRIPTS: u64 = 60;
/// Before each of them.
const TABLES: &str = "admin \"create table t (n int primary key, s text); insert into t select g, 'row ' || g from generate_series(1, 5) g; \
     create sequence q; grant all on all tables in schema public to app; grant all on all sequences in schema public to app\"";

/// Statements that may stand anywhere, with a parameter or without.
const STATEMENTS: &[&str] = &[
    "select 1",
    "select 'a', n from t order by n limit 2",
    "select s from t where n = 3",
    "select count(*) from t",
    "insert into t values (10, 'ten') returning n",
    "insert into t values (1, 'again')",
    "update t set s = 'changed' where n = 2",
    "delete from t where n > 4",
    "select 1/0",
    "selct 1",
    "select * from nowhere",
    "select nextval('q')",
    "begin",
    "begin isolation level serializable",
    "start transaction read only",
    "commit",
    "rollback",
    "commit and chain",
    "savepoint a",
    "rollback to a",
    "release a",
    "set work_mem = '3MB'",
    "set local work_mem = '5MB'",
    "show work_mem",
    "reset work_mem",
    "set application_name = 'other'",
    "show application_name",
    "set search_path = pg_catalog",
    "reset all",
    "set datestyle = 'German'",
    "select date '2026-01-02'",
    "select set_config('app.tenant', 'mine', false)",
    "select coalesce(current_setting('app.tenant', true), '')",
    "prepare z as select n from public.t where n < 3 order by n",
    "execute z",
    "deallocate z",
    "deallocate all",
    "declare c cursor for select n from t order by n",
    "declare h cursor with hold for select n from t order by n",
    "fetch 2 from c",
    "fetch 2 from h",
    "close c",
    "close h",
    "create temporary table x (a int)",
    "insert into x values (1)",
    "select count(*) from x",
    "drop table x",
    "create table y (a int)",
    "select count(*) from y",
    "alter table t add column z int default 7",
    "select * from t where n = 1",
    "drop table y",
    "lock table t",
    "select pg_try_advisory_lock(1)",
    "select pg_advisory_unlock(1)",
    "discard all",
    "",
    "select 1; select 2",
    "begin; select 1",
    "insert into t values (20, 'twenty'); select 1/0",
    "begin; insert into t values (30, 'thirty'); commit",
    "select 3; commit; select 4",
    "set role postgres",
    "vacuum t",
    "explain (costs off) select 1",
    "do $$ begin perform 1; end $$",
    "copy (select 1) to stdout",
];

/// What statement mode allows, as far as it must not differ.
fn is_for_statement_mode(sql: &str) -> bool {
    let words = [
        "begin",
        "start",
        "commit",
        "rollback",
        "savepoint",
        "release",
        "temporary",
        "cursor",
        "advisory",
        "lock table",
        "local",
        "fetch",
        "close",
    ];
    !words.iter().any(|word| sql.contains(word)) && !sql.contains(" x")
}

struct Writer<'a> {
    random: &'a mut Random,
    statements: &'a [&'a str],
    text: String,
    /// Names that were given to statements.
    made: u64,
}

impl Writer<'_> {
    fn line(&mut self, connection: &str, line: &str) {
        let _ = writeln!(self.text, "{connection}> {line}");
    }

    fn statement(&mut self) -> String {
        (*self.random.choose(self.statements)).to_owned()
    }

    /// A statement there may be, or the unnamed one.
    fn name(&mut self) -> String {
        match self.random.below(2) {
            0 => "\"\"".to_owned(),
            _ => format!("s{}", self.random.below(self.made + 1)),
        }
    }

    /// A statement there is not yet, or the unnamed one: that a name is taken PostgreSQL says last of all it has to say.
    fn new_name(&mut self) -> String {
        if self.random.below(2) == 0 {
            return "\"\"".to_owned();
        }
        self.made += 1;
        format!("s{}", self.made)
    }

    fn portal(&mut self) -> &'static str {
        if self.random.below(4) == 0 { "p1" } else { "\"\"" }
    }

    /// Parse, Bind, Describe, Execute of one statement, as drivers do it; now and then a part is missing.
    fn usual(&mut self, to: &str) {
        let (name, portal, sql) = (self.new_name(), self.portal(), self.statement());
        let say = |random: &mut Random, text: &mut String, line: String| {
            if random.below(12) > 0 {
                let _ = writeln!(text, "{to}> {line}");
            }
            if random.below(14) == 0 {
                let _ = writeln!(text, "{to}> H");
            }
            if random.below(20) == 0 {
                let _ = writeln!(text, "{to}> send");
            }
        };
        let what = if self.random.below(2) == 0 {
            format!("D P {portal}")
        } else {
            format!("D S {name}")
        };
        let rows = if self.random.below(4) == 0 { " 1" } else { "" };
        for line in [
            format!("P {name} {sql:?}"),
            format!("B {portal} {name}"),
            what,
            format!("E {portal}{rows}"),
        ] {
            say(self.random, &mut self.text, line);
        }
    }

    /// Messages of the extended protocol in any order. A portal that is not bound here has a name: the unnamed one may be left from a
    /// BEGIN of the proxy's, which is told otherwise.
    fn odd(&mut self, to: &str) {
        let mut bound = false;
        for _ in 0..=self.random.below(4) {
            let (name, sql) = (self.name(), self.statement());
            let portal = if bound { self.portal() } else { "p1" };
            let line = match self.random.below(8) {
                0 => format!("P {} {sql:?}", self.new_name()),
                1 | 2 => {
                    let portal = self.portal();
                    bound |= portal != "p1";
                    format!("B {portal} {name}")
                }
                3 => format!("D S {name}"),
                4 => format!("D P {portal}"),
                5 => format!("E {portal}"),
                6 => format!("C S {name}"),
                _ => format!("C P {portal}"),
            };
            self.line(to, &line);
        }
    }

    fn turn(&mut self) {
        let to = *self.random.choose(&["A", "A", "B"]);
        for _ in 0..=self.random.below(3) {
            match self.random.below(6) {
                0..=2 => {
                    let sql = self.statement();
                    self.line(to, &format!("Q {sql:?}"));
                }
                3 | 4 => {
                    for _ in 0..=self.random.below(2) {
                        self.usual(to);
                    }
                    self.line(to, "S");
                }
                _ => {
                    self.odd(to);
                    self.line(to, "S");
                }
            }
        }
        self.line(to, "wait");
    }
}

fn write(random: &mut Random, statements: &[&str]) -> String {
    let mut writer = Writer {
        random,
        statements,
        text: format!("{TABLES}\n"),
        made: 0,
    };
    for _ in 0..8 {
        writer.turn();
    }
    // Nobody waits for the other's locks at the end, nor in the next conversation.
    writer.line("A", "X");
    writer.line("A", "wait eof");
    writer.line("B", "X");
    writer.line("B", "wait eof");
    writer.text
}

/// Without what may differ: a client may be told of a setting once more, and that its Parse is complete where the server has the
/// statement already and says what is wrong with it a message later.
fn comparable(lines: Vec<String>) -> Vec<String> {
    let mut known = HashMap::new();
    let is_news = |line: &String| {
        let Some((client, told)) = line.trim_start().split_once("< ParameterStatus ") else {
            return true;
        };
        let (name, value) = told.split_once('=').unwrap_or((told, ""));
        let (key, value) = ((client.to_owned(), name.to_owned()), value.to_owned());
        known.insert(key, value.clone()) != Some(value)
    };
    let lines: Vec<String> = lines.into_iter().filter(is_news).collect();
    let failed = |line: Option<&String>| line.is_some_and(|line| line.contains("< ErrorResponse"));
    let is_in_vain = |n: usize| lines[n].ends_with("ParseComplete") && failed(lines.get(n + 1));
    (0..lines.len())
        .filter(|n| !is_in_vain(*n))
        .map(|n| lines[n].clone())
        .collect()
}

fn compare(name: &str, mode: &str, statements: &[&str]) {
    let (world, cluster) = script::start(name);
    let server = cluster.master();
    server.sql("alter role app set lock_timeout = '300ms'");
    let proxy = Proxy::start(&world, &Manifest::of(&cluster).set("poolMode", mode).write());
    let number = std::env::var("SCRIPTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(SCRIPTS);
    let mut random = Random::of_test(1);
    let mut faults = Vec::new();
    for n in 0..number {
        let text = write(&mut random, statements);
        let script =
            script::Script::parse(&format!("random {n}"), &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        script::reset(server);
        let straight = script.run(&server.tcp(), script::USER, script::DATABASE, server);
        script::reset(server);
        let proxied = script.run(&proxy.tcp(), script::USER, script::DATABASE, server);
        let fault = match (straight, proxied) {
            (Ok(straight), Ok(proxied)) => {
                let (straight, mut proxied) = (comparable(straight), comparable(proxied));
                // What a worker lacks cannot be parsed in a failed transaction, not even to be described.
                let first = straight
                    .iter()
                    .zip(&proxied)
                    .position(|(left, right)| left != right);
                if first.is_some_and(|n| proxied[n].contains("C=25P02")) {
                    proxied.clone_from(&straight);
                }
                script::difference(&straight, &proxied)
            }
            (Err(fault), _) => panic!("straight: {fault}\n{text}"),
            (_, Err(fault)) => Some(format!("through the proxy: {fault}")),
        };
        if let Some(fault) = fault {
            println!("--- {n}\n{fault}\n{text}");
            faults.push(fault);
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {number} conversations differ:\n{}",
        faults.len(),
        faults.join("\n---\n")
    );
}

#[test]
fn in_transaction_mode() {
    compare("random-transaction", "transaction", STATEMENTS);
}

#[test]
fn in_session_mode() {
    compare("random-session", "session", STATEMENTS);
}

#[test]
fn in_statement_mode() {
    let statements: Vec<&str> = STATEMENTS
        .iter()
        .copied()
        .filter(|sql| is_for_statement_mode(sql))
        .collect();
    compare("random-statement", "statement", &statements);
}

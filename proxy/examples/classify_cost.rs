//! What classifying costs: `cargo run --release -p pgstmtpool-proxy --example classify_cost`.
//!
//! Each line is the best of twenty rounds, in nanoseconds a text, the shape being known; the last line is a shape never seen before.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pgstmtpool_proxy::classify::{Catalog, Classifier, Context, Lexing, Limits};

const ROWS: &str = include_str!("../src/classify/tests/catalog.tsv");

fn catalog() -> Option<Catalog> {
    Catalog::from_rows(ROWS.lines().map(|line| {
        let mut fields = line.split('\t').map(str::as_bytes);
        [fields.next(), fields.next(), fields.next(), fields.next()]
    }))
}

fn long() -> String {
    let columns: Vec<String> = (0..25).map(|n| format!("p.a AS column_{n}")).collect();
    let conditions: Vec<String> = (0..16)
        .map(|n| format!("(p.b = {n} OR u.name = 'name {n}')"))
        .collect();
    let (columns, conditions) = (columns.join(", "), conditions.join(" AND "));
    format!("SELECT {columns} FROM plain p JOIN users u ON u.id = p.a WHERE {conditions} ORDER BY 1 LIMIT 20")
}

fn main() {
    let Some(catalog) = catalog() else { return };
    let context = Context {
        catalog: Some(&catalog),
        role: "ann",
        search_path: "\"$user\", public",
        lexing: Lexing::Standard,
    };
    let mut classifier = Classifier::new(Limits::default());
    let list = format!("SELECT a FROM plain WHERE a IN ({}0)", "123, ".repeat(100));
    for sql in [
        "SELECT a FROM plain WHERE a = 123",
        "SELECT abalance FROM pgbench_accounts WHERE aid = 123",
        "INSERT INTO plain (a, b) VALUES (1, 2)",
        "BEGIN",
        "SET search_path TO a, b",
        &list,
        &long(),
    ] {
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            for _ in 0..10_000 {
                black_box(classifier.classify(black_box(sql.as_bytes()), &context));
            }
            best = best.min(start.elapsed() / 10_000);
        }
        println!(
            "{:6} ns  {:5} bytes  {}",
            best.as_nanos(),
            sql.len(),
            sql.get(..50).unwrap_or(sql)
        );
    }
    let start = Instant::now();
    for n in 0..1000 {
        let sql = format!("SELECT a AS c{n}, count(*) FROM plain WHERE b = 5 GROUP BY a");
        black_box(classifier.classify(sql.as_bytes(), &context));
    }
    println!("{:6} ns  a new shape", (start.elapsed() / 1000).as_nanos());
}

//! What it costs to know what a text is: the lexer alone, a shape seen before (lexer, canonical form, hash, look-up), and one that
//! PostgreSQL's grammar has to read first.
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use divan::{Bencher, black_box};
use pgstmtpool_proxy::classify::lexer::{Lexer, TokenKind};
use pgstmtpool_proxy::classify::{Catalog, Classifier, Context, Kind, Lexing, Limits};

fn main() {
    divan::main();
}

const TEXTS: [&str; 4] = [
    "select 1",
    "SELECT abalance FROM pg_class WHERE aid = 31337;",
    "select u.oid, u.relname, n.nspname from pg_catalog.pg_class u join pg_catalog.pg_namespace n on n.oid = u.relnamespace \
     where u.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema') and u.relname like 'a%' \
     order by u.relname limit 20 offset 40",
    "begin",
];

/// Rows of the catalog query on PostgreSQL 15, as the tests of the classifier have them.
fn catalog() -> Catalog {
    let rows = include_str!("../src/classify/tests/catalog.tsv").lines();
    Catalog::from_rows(rows.map(|line| {
        let mut fields = line.split('\t').map(str::as_bytes);
        [fields.next(), fields.next(), fields.next(), fields.next()]
    }))
    .unwrap()
}

fn context(catalog: &Catalog) -> Context<'_> {
    Context {
        catalog: Some(catalog),
        role: "ann",
        search_path: "\"$user\", public",
        lexing: Lexing::Standard,
    }
}

#[divan::bench(args = 0..TEXTS.len())]
fn lexer(bencher: Bencher<'_, '_>, text: usize) {
    bencher.bench(|| {
        let mut lexer = Lexer::new(black_box(TEXTS[text].as_bytes()), 0);
        let mut tokens = 0;
        while lexer.token().kind != TokenKind::End {
            tokens += 1;
        }
        tokens
    });
}

#[divan::bench(args = 0..TEXTS.len())]
fn known_shape(bencher: Bencher<'_, '_>, text: usize) {
    let catalog = catalog();
    let context = context(&catalog);
    let mut classifier = Classifier::new(Limits::default());
    bencher.bench_local(|| classifier.classify(black_box(TEXTS[text].as_bytes()), &context));
}

/// A text like the one before, but for its literals.
#[divan::bench(args = 0..TEXTS.len())]
fn known_text(bencher: Bencher<'_, '_>, text: usize) {
    let catalog = catalog();
    let context = context(&catalog);
    let mut classifier = Classifier::new(Limits::default());
    let texts = [TEXTS[text].to_owned(), TEXTS[text].replace('3', "12")];
    let mut turn = 0;
    bencher.bench_local(|| {
        turn ^= 1;
        classifier.class_of(black_box(texts[turn].as_bytes()), &context)
    });
}

/// A classifier that has forgotten all: with the grammar of PostgreSQL.
#[divan::bench(args = 0..TEXTS.len())]
fn new_shape(bencher: Bencher<'_, '_>, text: usize) {
    let catalog = catalog();
    let context = context(&catalog);
    bencher
        .with_inputs(|| Classifier::new(Limits::default()))
        .bench_local_values(|mut classifier| {
            classifier.classify(black_box(TEXTS[text].as_bytes()), &context)
        });
}

/// Literals of any length fold to one shape; the text is read all the same.
#[divan::bench(args = [10, 1000, 100_000])]
fn known_shape_with_a_list(bencher: Bencher<'_, '_>, items: usize) {
    let list: Vec<String> = (0..items).map(|n| n.to_string()).collect();
    let text = format!("select relname from pg_class where oid in ({})", list.join(", "));
    let catalog = catalog();
    let context = context(&catalog);
    let mut classifier = Classifier::new(Limits::default());
    assert_ne!(classifier.classify(text.as_bytes(), &context).kind, Kind::Unknown);
    bencher
        .counter(divan::counter::BytesCount::of_str(&text))
        .bench_local(|| classifier.classify(black_box(text.as_bytes()), &context));
}

//! The lexer beside PostgreSQL's own scanner and parser.

use super::*;
use crate::classify::lexer::{Lexer, TokenKind};
use crate::classify::scan::Scan;
use crate::classify::statement::Verb;

/// A small generator (xorshift): the same texts for the same seed everywhere.
pub(in crate::classify) struct Dice(u64);

impl Dice {
    pub(in crate::classify) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::classify) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }

    pub(in crate::classify) fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// What texts are put together from, to be mistaken.
pub(in crate::classify) const PIECES: [&str; 83] = [
    "'",
    "''",
    "'a'",
    "'a''b'",
    "E'",
    "e'\\''",
    "E'a\\\\'",
    "\\",
    "\\'",
    "\"",
    "\"a\"",
    "\"a\"\"b\"",
    "U&'",
    "U&\"",
    "u&'\\0061'",
    "B'01'",
    "X'1f'",
    "$$",
    "$a$",
    "$b$",
    "$$ $$",
    "$a$ $b$ $a$",
    "$1",
    "$12",
    "$",
    "--",
    "-- x\n",
    "--\r",
    "/*",
    "*/",
    "/* x */",
    "/* /* */ */",
    "/**/",
    "//*",
    "\n",
    "\r",
    " ",
    "\t",
    ";",
    ";;",
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    "..",
    ":",
    "::",
    ":=",
    "=>",
    "<=",
    "<>",
    "!=",
    "+",
    "-",
    "*",
    "/",
    "<-",
    "@-",
    "||",
    "->>",
    "#>",
    "a",
    "A",
    "e",
    "E",
    "b1",
    "é",
    "a$b$",
    "_x",
    "select",
    "BEGIN",
    "from",
    "1",
    "1.5",
    ".5",
    "1.",
    "1e5",
    "1e",
    "12",
    "in (1,2)",
    "values (1),(2)",
];

fn tokens(sql: &str) -> (Vec<(usize, usize)>, Lexer<'_>) {
    let mut lexer = Lexer::new(sql.as_bytes(), 0);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token();
        if token.kind == TokenKind::End {
            return (tokens, lexer);
        }
        tokens.push((token.start, token.end));
    }
}

fn scanned(sql: &str) -> Option<Vec<(usize, usize)>> {
    let position = |at: i32| usize::try_from(at).unwrap();
    let comment = |token: &pg_query::protobuf::ScanToken| {
        let kind = token.token;
        kind == pg_query::protobuf::Token::SqlComment as i32
            || kind == pg_query::protobuf::Token::CComment as i32
    };
    let scan = pg_query::scan(sql).ok()?;
    Some(
        scan.tokens
            .iter()
            .filter(|token| !comment(token))
            .map(|token| (position(token.start), position(token.end)))
            .collect(),
    )
}

#[test]
fn tokens_are_those_of_the_servers_scanner() {
    let (mut compared, mut odd) = (0, 0);
    for seed in 1..=60_000 {
        let mut dice = Dice::new(seed);
        let sql: String = (0..=dice.below(12)).map(|_| dice.one_of(&PIECES)).collect();
        let (ours, lexer) = tokens(&sql);
        let Some(theirs) = scanned(&sql) else { continue };
        if lexer.odd {
            odd += 1;
            continue;
        }
        compared += 1;
        assert!(!lexer.broken, "seed {seed}: {sql:?}");
        assert_eq!(ours, theirs, "seed {seed}: {sql:?}");
    }
    assert!(compared > 10_000, "{compared} compared, {odd} odd");
}

/// Statements of the golden table, one by one.
pub(super) fn statements() -> impl Iterator<Item = String> {
    include_str!("golden.txt").lines().filter_map(|line| {
        let (sql, _) = line.split_once(" ==> ")?;
        (!sql.starts_with('#')).then(|| sql.replace("\\n", "\n"))
    })
}

#[test]
fn statements_end_where_the_servers_parser_ends_them() {
    let all: Vec<String> = statements().collect();
    let between = ["", " ", "\n", " -- ; BEGIN\n", " /* ; ' */ ", ";"];
    let mut compared = 0;
    for seed in 1..=4000 {
        let mut dice = Dice::new(seed);
        let count = 1 + dice.below(4);
        let mut sql = String::new();
        for _ in 0..count {
            sql.push_str(dice.one_of(&between));
            sql.push_str(&all[dice.below(all.len())]);
            sql.push_str("\n;");
        }
        let Ok(parsed) = pg_query::parse(&sql, 0) else {
            continue;
        };
        let mut scan = Scan::default();
        scan.run(sql.as_bytes(), false);
        if scan.atomic {
            continue;
        }
        compared += 1;
        let inside = |(start, end): (usize, usize), at: usize| start <= at && at <= end;
        assert_eq!(
            scan.statements.len(),
            parsed.protobuf.stmts.len(),
            "seed {seed}: {sql:?}"
        );
        for (ours, theirs) in scan.statements.iter().zip(&parsed.protobuf.stmts) {
            let start = usize::try_from(theirs.stmt_location).unwrap();
            let end = start + usize::try_from(theirs.stmt_len).unwrap();
            assert!(
                inside((start, end), ours.source.0) && inside((start, end), ours.source.1),
                "seed {seed}: {sql:?}"
            );
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn transaction_verbs_are_found_wherever_the_servers_parser_finds_them() {
    let all: Vec<String> = statements().collect();
    let catalog = catalog();
    let mut classifier = Classifier::new(Limits::default());
    let (mut with, mut without) = (0, 0);
    for seed in 1..=6000 {
        let mut dice = Dice::new(seed);
        let parts: Vec<&str> = (0..=dice.below(3))
            .map(|_| all[dice.below(all.len())].as_str())
            .collect();
        let sql = parts.join(dice.one_of(&["\n;", "\n;; ", "\n/* x */;"]));
        let Ok(parsed) = pg_query::parse(&sql, 0) else {
            continue;
        };
        let theirs = parsed.protobuf.stmts.iter().any(|statement| {
            let node = statement.stmt.as_ref().and_then(|stmt| stmt.node.as_ref());
            matches!(node, Some(pg_query::NodeEnum::TransactionStmt(_)))
        });
        let ours = classifier.classify(sql.as_bytes(), &context(Some(&catalog)));
        assert_eq!(ours.transaction_verbs, theirs, "seed {seed}: {sql:?}");
        if theirs { with += 1 } else { without += 1 }
    }
    assert!(with > 500 && without > 500, "{with}, {without}");
}

#[test]
fn splitting_agrees_with_the_servers_scanner() {
    for sql in [
        "select 1; select ';'; begin -- ;\n; commit",
        "select $$;$$; select 2",
        "select (1); select \";\"",
    ] {
        let theirs = pg_query::split_with_scanner(sql).unwrap();
        let mut scan = Scan::default();
        scan.run(sql.as_bytes(), false);
        let ours: Vec<&str> = scan
            .statements
            .iter()
            .map(|statement| &sql[statement.source.0..statement.source.1])
            .collect();
        assert_eq!(
            theirs
                .iter()
                .map(|part| part.trim())
                .map(|part| part.split(" --").next().unwrap())
                .collect::<Vec<_>>(),
            ours
        );
    }
}

#[test]
fn a_canonical_form_is_its_own_canonical_form() {
    let mut classes = 0;
    for sql in statements() {
        let (mut once, mut twice) = (Scan::default(), Scan::default());
        once.run(sql.as_bytes(), false);
        if once.broken || once.atomic || once.statements.len() != 1 {
            continue;
        }
        twice.run(&once.canonical, false);
        assert_eq!(
            String::from_utf8_lossy(&once.canonical),
            String::from_utf8_lossy(&twice.canonical)
        );
        classes += 1;
    }
    assert!(classes > 200);
}

/// The fingerprint of PostgreSQL's parse tree without literals.
fn fingerprint(sql: &str) -> Option<u64> {
    pg_query::fingerprint(sql, 0, pg_query::FingerprintOptions::default())
        .ok()
        .map(|print| print.value)
}

#[test]
fn a_canonical_form_means_what_the_text_means_but_for_its_literals() {
    let mut compared = 0;
    for sql in statements() {
        let mut scan = Scan::default();
        scan.run(sql.as_bytes(), false);
        let [_] = scan.statements.as_slice() else { continue };
        let utility = Verb::of(&scan.canonical) == Verb::Utility;
        if utility || scan.odd || sql.contains("VALUES") || sql.contains("IN ((") {
            continue; // utility statements are read from the text itself; rows fold
        }
        let canonical = String::from_utf8(scan.canonical.clone()).unwrap();
        let (Some(ours), Some(theirs)) = (fingerprint(&canonical), fingerprint(&sql)) else {
            continue;
        };
        assert_eq!(ours, theirs, "{sql}\n{canonical}");
        compared += 1;
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn lists_of_any_length_have_one_shape() {
    let shape = |sql: &str| {
        let mut scan = Scan::default();
        scan.run(sql.as_bytes(), false);
        String::from_utf8(scan.canonical).unwrap()
    };
    for alike in [
        &[
            "select * from t where a in (1)",
            "SELECT * FROM t WHERE a IN (1,2, 3)",
            "select * from t where a in ($1,$2,'x',-5,null)",
        ][..],
        &[
            "insert into t values (1,2)",
            "insert into t values (3,4),(5,6)",
            "insert into t values ('a',null), ($1, default), (-1, true)",
        ],
        &[
            "insert into t values (now(), 1), (now(), 2)",
            "insert into t values (now(), 7)",
        ],
        &["select array[1,2]", "select array['x']"],
        &[
            "select 1 where (a,b) in ((1,2))",
            "select 1 where (a,b) in ((1,2),(3,4))",
        ],
        &["select 'a'", "select $$b$$", "select E'c\\''", "select 'a'\n'b'"],
    ] {
        for other in alike {
            assert_eq!(shape(alike[0]), shape(other));
        }
    }
    for (one, other) in [
        ("select f(1)", "select f(1, 2)"),
        (
            "select * from t where a in (1, f(1))",
            "select * from t where a in (1)",
        ),
        ("values (1) order by nextval('s'), (1)", "values (1)"),
        ("values (1), (f(2))", "values (1)"),
        ("values (1) union values (1)", "values (1)"),
        (
            "select * from t where a in (- $1)",
            "select * from t where a in (1)",
        ),
        (
            "select * from t where a in (1 - 2)",
            "select * from t where a in (1)",
        ),
        ("select \"A\"", "select \"a\""),
        ("select \"a b\"", "select \"a\" b"),
        ("select b'1'", "select '1'"),
        (
            "select set_config('a', 'b', true)",
            "select set_config('a', 'b', false)",
        ),
        ("select a<-1", "select a< -1 , 1"),
    ] {
        assert_ne!(shape(one), shape(other), "{one}");
    }
}

#[test]
fn random_bytes_never_panic() {
    let catalog = catalog();
    let mut classifier = Classifier::new(Limits::default());
    for seed in 1..=20_000 {
        let mut dice = Dice::new(seed);
        let bytes: Vec<u8> = if seed % 2 == 0 {
            (0..dice.below(60))
                .map(|_| u8::try_from(dice.below(256)).unwrap())
                .collect()
        } else {
            (0..dice.below(20))
                .flat_map(|_| dice.one_of(&PIECES).bytes())
                .collect()
        };
        let _ = classifier.classify(&bytes, &context(Some(&catalog)));
        crate::classify::fuzz_lexer(&bytes);
    }
}

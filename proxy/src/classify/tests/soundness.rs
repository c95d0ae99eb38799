//! What could go wrong with verdicts that are remembered by shape.

use super::lexing::{Dice, statements};
use super::*;
use crate::classify::Touches;
use crate::classify::lexer::{Lexer, TokenKind};

const STRINGS: [&str; 14] = [
    "''",
    "'x'",
    "'true'",
    "'t'",
    "'false'",
    "'nextval'",
    "'users_id_seq'",
    "'pg_temp.t'",
    "'; begin; --'",
    "$$ it's $$",
    "E'a\\'b'",
    "'a'\n'b'",
    "U&'d\\0061t'",
    "'v_nextval'",
];
const NUMBERS: [&str; 8] = ["0", "1", "42", "1.5", "1e10", ".5", "99999999999999999999", "7"];
const PARAMS: [&str; 3] = ["$1", "$2", "$99"];

/// The text with each literal replaced by another of its sort, and its blanks by others.
fn mutated(sql: &str, dice: &mut Dice) -> String {
    let mut lexer = Lexer::new(sql.as_bytes(), 0);
    let mut text = String::new();
    let mut from = 0;
    loop {
        let token = lexer.token();
        let blank = &sql[from..token.start];
        if blank.trim().is_empty() && !blank.is_empty() {
            text.push_str(dice.one_of(&[" ", "\n", "\t ", " /* ; begin */ ", " -- x'\n"]));
        } else {
            text.push_str(blank);
        }
        from = token.end;
        match token.kind {
            TokenKind::End => return text,
            TokenKind::String => text.push_str(dice.one_of(&STRINGS)),
            TokenKind::Number => text.push_str(dice.one_of(&NUMBERS)),
            TokenKind::Param => text.push_str(dice.one_of(&PARAMS)),
            TokenKind::Word if dice.below(3) == 0 => {
                text.push_str(&sql[token.start..token.end].to_ascii_uppercase())
            }
            _ => text.push_str(&sql[token.start..token.end]),
        }
    }
}

#[test]
fn a_remembered_verdict_is_the_verdict_a_fresh_look_gives() {
    let catalog = catalog();
    let mut warm = Classifier::new(Limits::default());
    let context = context(Some(&catalog));
    let mut compared = 0;
    for sql in statements() {
        warm.classify(sql.as_bytes(), &context);
    }
    for (number, sql) in statements().enumerate() {
        for round in 0..4 {
            let mut dice = Dice::new(u64::try_from(number * 4 + round + 1).unwrap());
            let text = mutated(&sql, &mut dice);
            let remembered = warm.classify(text.as_bytes(), &context);
            let fresh = Classifier::new(Limits::default()).classify(text.as_bytes(), &context);
            assert_eq!(remembered, fresh, "{text}");
            // The first and the second time, among texts that differ from it in literals only.
            assert_eq!(*warm.class_of(text.as_bytes(), &context), fresh, "{text}");
            assert_eq!(*warm.class_of(text.as_bytes(), &context), fresh, "{text}");
            compared += 1;
        }
    }
    assert!(compared > 1000);
}

#[test]
fn what_a_literal_tells_is_asked_of_each_text() {
    let catalog = catalog();
    let context = context(Some(&catalog));
    let mut warm = Classifier::new(Limits::default());
    for sql in [
        "select set_config('work_mem', '1MB', 't')",
        "select set_config('work_mem', '1MB', 'f')",
        "set work_mem = 1",
        "set work_mem = 2",
        "fetch 1 from c",
        "fetch 2 from c",
        "explain (analyze 0) delete from plain",
        "explain (analyze 1) delete from plain",
        "execute p (1)",
        "execute p (22)",
    ] {
        let fresh = fresh(sql, Some(&catalog));
        assert_eq!(*warm.class_of(sql.as_bytes(), &context), fresh, "{sql}");
    }
}

#[test]
fn no_literal_makes_a_known_read_of_what_is_none() {
    let catalog = catalog();
    for (number, sql) in statements().enumerate() {
        if sql.contains("unterminated") {
            continue;
        }
        let first = fresh(&sql, Some(&catalog));
        let mut dice = Dice::new(u64::try_from(number + 1).unwrap());
        for _ in 0..4 {
            let other = fresh(&mutated(&sql, &mut dice), Some(&catalog));
            assert_eq!(first.is_known_read(), other.is_known_read(), "{sql}");
            assert_eq!(first.transaction_verbs, other.transaction_verbs, "{sql}");
            // Only the value of a literal `true` may take a touch away, and that is a word.
            assert_eq!(
                first.touches.without(Touches::SETTINGS),
                other.touches.without(Touches::SETTINGS),
                "{sql}"
            );
        }
    }
}

#[test]
fn a_verdict_holds_for_one_role_path_and_catalog() {
    let catalog = catalog();
    let mut classifier = Classifier::new(Limits::default());
    let mut known = |role: &str, search_path: &str, catalog: Option<&Catalog>| {
        let context = Context {
            catalog,
            role,
            search_path,
            lexing: Lexing::Standard,
        };
        classifier.classify(b"select * from plain", &context).kind
    };
    for _ in 0..2 {
        assert_eq!(known("ann", "\"$user\", public", Some(&catalog)), Kind::KnownRead);
        assert_eq!(
            known("ann", "evil, public", Some(&catalog)),
            Kind::Read,
            "a view hides the table"
        );
        assert_eq!(
            known("evil", "\"$user\", public", Some(&catalog)),
            Kind::Read,
            "so it does by the role's name"
        );
        assert_eq!(known("ann", "other", Some(&catalog)), Kind::Read, "no such table");
        assert_eq!(
            known("ann", "a b c", Some(&catalog)),
            Kind::Read,
            "a path that cannot be read"
        );
        assert_eq!(known("ann", "\"$user\", public", None), Kind::Read, "no catalog");
    }
}

#[test]
fn without_a_catalog_only_what_the_grammar_defines_is_known() {
    for (sql, known) in [
        ("SELECT 1", true),
        ("SELECT 'a', NULL, TRUE, current_timestamp, $1::int", true),
        ("SHOW work_mem", true),
        ("SELECT 1 + 1", false),
        ("SELECT now()", false),
        ("SELECT 'a'::text", false),
        ("SELECT a FROM plain", false),
    ] {
        assert_eq!(fresh(sql, None).is_known_read(), known, "{sql}");
    }
}

#[test]
fn where_the_lexer_could_be_fooled_nothing_is_read() {
    let context = Context {
        catalog: None,
        role: "a",
        search_path: "",
        lexing: Lexing::Unsafe,
    };
    let class = |sql: &[u8]| Classifier::new(Limits::default()).classify(sql, &context).kind;
    assert_eq!(class(b"select 'a\\'; begin; --'"), Kind::Unknown);
    assert_eq!(class(b"select '\x83\x5c'"), Kind::Unknown);
    assert_eq!(class(b"select '\x83a'"), Kind::Unknown);
    assert_eq!(class(b"select 'a'"), Kind::KnownRead);
    assert_eq!(
        class(b"begin"),
        Kind::Begin {
            plain: true,
            read_only: None
        }
    );
}

#[test]
fn a_text_that_is_too_long_is_not_read() {
    let mut classifier = Classifier::new(Limits {
        text_bytes: 100,
        ..Limits::default()
    });
    assert_eq!(
        classifier.classify(&[b' '; 101], &context(None)).kind,
        Kind::Unknown
    );
    assert_eq!(
        classifier.classify(&[b' '; 100], &context(None)).kind,
        Kind::Empty
    );
}

#[test]
fn deep_and_long_texts_are_answered_without_proof() {
    let catalog = catalog();
    let nested = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    assert_eq!(fresh(&nested, Some(&catalog)).kind, Kind::Read);
    let chained = format!("SELECT 1{}", " || 'x'".repeat(3000));
    assert_eq!(fresh(&chained, Some(&catalog)).kind, Kind::Read);
    let nested = format!("SELECT {}1{}", "abs(".repeat(1000), ")".repeat(1000));
    assert_eq!(fresh(&nested, Some(&catalog)).kind, Kind::Read);
    let comments = format!("{}{} SELECT 1", "/*".repeat(10_000), "*/".repeat(10_000));
    assert_eq!(fresh(&comments, Some(&catalog)).kind, Kind::KnownRead);
}

#[test]
fn a_long_list_asks_the_grammar_a_bounded_number_of_times() {
    let catalog = catalog();
    let list: String = (0..200).map(|n| format!("SELECT {n} AS c{n};")).collect();
    let mut classifier = Classifier::new(Limits::default());
    let class = classifier.classify(list.as_bytes(), &context(Some(&catalog)));
    assert_eq!((class.kind, class.statements), (Kind::Read, 200));
    let same: String = (0..200).map(|n| format!("SELECT {n};")).collect();
    assert_eq!(kind(&same), Kind::KnownRead);
}

#[test]
fn caches_stay_within_their_bytes() {
    let catalog = catalog();
    let mut classifier = Classifier::new(Limits {
        cache_bytes: 64 * 1024,
        ..Limits::default()
    });
    for n in 0..2000 {
        let sql = format!("SELECT a AS c{n} FROM plain");
        assert_eq!(
            classifier.classify(sql.as_bytes(), &context(Some(&catalog))).kind,
            Kind::KnownRead
        );
    }
    assert!(classifier.classes.len() < 200, "{}", classifier.classes.len());
    assert!(classifier.facts.len() < 200, "{}", classifier.facts.len());
}

#[test]
fn rows_that_the_query_does_not_answer_make_no_catalog() {
    let row = |kind: &'static str| {
        [
            Some(kind.as_bytes()),
            Some(&b"a"[..]),
            Some(&b"b"[..]),
            Some(&b"c"[..]),
        ]
    };
    assert!(Catalog::from_rows([row("?")]).is_none());
    assert!(Catalog::from_rows([row("r")]).is_none());
    assert!(Catalog::from_rows([row("x")]).is_none());
    assert!(Catalog::from_rows([[None; 4]]).is_none());
    assert!(Catalog::from_rows(std::iter::empty()).is_some());
    assert!(Catalog::from_rows((0..=crate::classify::catalog::CATALOG_ROWS_MAX).map(|_| row("o"))).is_none());
}

#[test]
fn a_volatile_cast_or_an_unsafe_domain_proves_nothing_more() {
    let with = |extra: [&'static str; 4]| {
        let rows = CATALOG_ROWS.lines().map(|line| {
            let mut fields = line.split('\t').map(str::as_bytes);
            [fields.next(), fields.next(), fields.next(), fields.next()]
        });
        Catalog::from_rows(rows.chain([extra.map(|field| Some(field.as_bytes()))])).unwrap()
    };
    let cast = with(["c", "cast", "", ""]);
    assert_eq!(fresh("SELECT a FROM plain", Some(&cast)).kind, Kind::Read);
    let domain = with(["x", "99999", "f_volatile", "tfUqv"]);
    assert_eq!(fresh("SELECT a FROM plain", Some(&domain)).kind, Kind::KnownRead);
    assert_eq!(
        fresh("SELECT jsonb_populate_record(NULL::plain, '{}')", Some(&domain)).kind,
        Kind::Read
    );
    assert_eq!(
        fresh("INSERT INTO plain VALUES (1)", Some(&domain)).kind,
        Kind::Dml { neutral: false }
    );
}

//! The table of statements and what they are.

use std::fmt::Write as _;

use super::*;
use crate::classify::{Argument, SetItem, Touches};

const TABLE: &str = include_str!("golden.txt");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn name(name: Option<&[u8]>) -> String {
    name.map_or("all".into(), text)
}

fn describe_kind(kind: &Kind, sql: &str) -> String {
    let sql = sql.as_bytes();
    match kind {
        Kind::Show(show) => format!("Show {}", show.name.as_deref().unwrap_or("all")),
        Kind::Dml { neutral } => format!("Dml{}", if *neutral { " neutral" } else { "" }),
        Kind::Begin { plain, read_only } => match (plain, read_only) {
            (true, _) => "Begin plain".into(),
            (false, None) => "Begin".into(),
            (false, Some(read_only)) => {
                format!("Begin {}", if *read_only { "read only" } else { "read write" })
            }
        },
        Kind::Commit { chain } => format!("Commit{}", if *chain { " chain" } else { "" }),
        Kind::Rollback { chain } => format!("Rollback{}", if *chain { " chain" } else { "" }),
        Kind::Set(set) => format!(
            "Set {}",
            set.items.iter().map(describe_item).collect::<Vec<_>>().join("; ")
        ),
        Kind::Reset(items) => format!("Reset {items:?}"),
        Kind::Prepare(of) => format!(
            "Prepare {} ({}) {}",
            text(&of.name),
            of.types.map_or(String::new(), |types| text(types.of(sql))),
            text(of.body.of(sql))
        ),
        Kind::Execute(of) => format!(
            "Execute {} at {} ({}){}",
            text(&of.name),
            text(of.name_span.of(sql)),
            of.arguments
                .map_or(String::new(), |arguments| text(arguments.of(sql))),
            if of.wrapped { " wrapped" } else { "" }
        ),
        Kind::Deallocate { name: of } => format!("Deallocate {}", name(of.as_deref())),
        Kind::Listen { channel } => format!("Listen {}", text(channel)),
        Kind::Unlisten { channel } => format!("Unlisten {}", name(channel.as_deref())),
        Kind::DeclareCursor { name } => format!("DeclareCursor {}", text(name)),
        Kind::DeclareHold { name } => format!("DeclareHold {}", text(name)),
        Kind::CloseCursor { name: of } => format!("CloseCursor {}", name(of.as_deref())),
        Kind::Fetch { name: of } => format!("Fetch {}", name(of.as_deref())),
        Kind::CreateTemp { drops_at_commit } => {
            format!("CreateTemp{}", if *drops_at_commit { " drops" } else { "" })
        }
        Kind::List(list) => {
            let mut line = format!(
                "List [{}]",
                list.kinds
                    .iter()
                    .map(|kind| describe_kind(kind, ""))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            for (flag, label) in [
                (list.begins, "begins"),
                (list.ends_outer, "ends_outer"),
                (list.leaves_open, "leaves_open"),
                (list.whole_transaction, "whole"),
                (list.outer_savepoints, "outer_savepoints"),
                (list.sets, "sets"),
                (list.copies_in, "copies_in"),
                (list.copies_out, "copies_out"),
                (list.ddl, "ddl"),
                (list.writes, "writes"),
                (list.no_block, "no_block"),
                (list.temp, "temp"),
                (list.prepared, "prepared"),
                (list.unknown, "unknown"),
            ] {
                if flag {
                    write!(line, " {label}").unwrap();
                }
            }
            line
        }
        other => format!("{other:?}"),
    }
}

fn describe_item(item: &SetItem) -> String {
    match item {
        SetItem::Set { name, value, local } => {
            let value = value.as_deref().map_or("?".into(), text);
            format!("{}{name}={value}", if *local { "local " } else { "" })
        }
        SetItem::Reset { name, local } => format!("{}{name} to default", if *local { "local " } else { "" }),
        SetItem::ResetAll => "all to default".into(),
    }
}

fn describe_argument(argument: &Argument) -> String {
    match argument {
        Argument::Text(value) => format!("'{}'", text(value)),
        Argument::Param(number) => format!("${number}"),
        Argument::Other => "?".into(),
    }
}

fn describe(class: &Class, sql: &str) -> String {
    let mut line = describe_kind(&class.kind, sql);
    if class.statements != 1 {
        write!(line, " x{}", class.statements).unwrap();
    }
    if class.neutral
        && !class.is_known_read()
        && !matches!(class.kind, Kind::Empty | Kind::Dml { neutral: true })
    {
        line.push_str(" neutral");
    }
    if class.transaction_verbs {
        line.push_str(" verbs");
    }
    if class.touches != Touches::NONE {
        write!(line, " +{:?}", class.touches).unwrap();
    }
    for call in class.set_config.iter().flat_map(|calls| calls.iter()) {
        let local = call.local.map_or("?".into(), |local| local.to_string());
        write!(
            line,
            " set_config({}, {}, {local})",
            describe_argument(&call.name),
            describe_argument(&call.value)
        )
        .unwrap();
    }
    if class.hints != crate::classify::Hints::default() {
        line.push_str(" hinted");
    }
    line
}

#[test]
fn every_statement_of_the_table_is_what_the_table_says() {
    let catalog = catalog();
    let mut classifier = Classifier::new(Limits::default());
    let mut wrong = String::new();
    let mut corrected = String::new();
    let mut count = 0;
    for line in TABLE.lines() {
        if line.is_empty() || line.starts_with('#') {
            writeln!(corrected, "{line}").unwrap();
            continue;
        }
        let (sql, expected) = line.split_once(" ==> ").unwrap_or((line, ""));
        let sql = sql.replace("\\n", "\n");
        count += 1;
        let found = describe(
            &classifier.classify(sql.as_bytes(), &context(Some(&catalog))),
            &sql,
        );
        let again = describe(
            &classifier.classify(sql.as_bytes(), &context(Some(&catalog))),
            &sql,
        );
        assert_eq!(found, again, "from the caches: {sql}");
        if found != expected {
            writeln!(wrong, "{sql}\n    expected {expected}\n    found    {found}").unwrap();
        }
        writeln!(corrected, "{} ==> {found}", sql.replace('\n', "\\n")).unwrap();
    }
    if let Ok(path) = std::env::var("CLASSIFY_GOLDEN_OUT") {
        std::fs::write(path, &corrected).unwrap();
    }
    assert!(count >= 250, "only {count} statements");
    assert!(wrong.is_empty(), "{wrong}");
}

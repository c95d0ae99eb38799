//! Documents that a program can write are written by this one: `UPDATE_DOCS=1 cargo test -p pgstmtpool-tests --test docs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crds::raw::PgPoolSpec;
use serde_json::{Map, Value};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

const HEAD: &str = "\
# The manifest, field by field

Written from the types in `crds/` by `UPDATE_DOCS=1 cargo test -p pgstmtpool-tests --test docs`; do not edit.

One `PgPool` document (`apiVersion: pgstmtpool.io/v1alpha1`) and the Secrets it names make a manifest; both programs take
the file as `--config`. A misspelt field is an error. `pgstmtpool-proxy --config FILE --check` reports every fault at
once, each with its path and what is expected, and exits with 2. A running proxy that meets a bad manifest keeps the
configuration it has.

Marks: [live] applies at once to running proxies; [new] to new connections; [roll] rolls the proxy Deployment.
Durations: `500ms`, `30s`, `5m`, `24h`; `0s` = never / no limit. Sizes: `64KiB`, `256MiB`, `1GiB`.

| field of `spec` | default | meaning |
|---|---|---|
";

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let reference = schema.get("$ref").and_then(Value::as_str).or_else(|| {
        let any = schema
            .get("anyOf")
            .or_else(|| schema.get("allOf"))
            .and_then(Value::as_array)?;
        any.iter().find_map(|one| one.get("$ref")?.as_str())
    });
    match reference.and_then(|r| r.strip_prefix("#/$defs/")) {
        Some(name) => &root["$defs"][name],
        None => schema,
    }
}

fn shown_default(default: Option<&Value>) -> String {
    match default {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if text.is_empty() => "`\"\"`".to_owned(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(Value::Object(map)) if map.is_empty() => "`{}`".to_owned(),
        Some(Value::Object(_)) => String::new(),
        Some(other) => format!("`{other}`"),
    }
}

fn rows(prefix: &str, schema: &Value, defaults: &Value, root: &Value, depth: usize, out: &mut String) {
    let empty = Map::new();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    for (name, property) in properties {
        let target = resolve(property, root);
        let about = property.get("description").or_else(|| target.get("description"));
        let about = about
            .and_then(Value::as_str)
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let path = format!("{prefix}{name}");
        let default = defaults.get(name);
        let _ = writeln!(
            out,
            "| `{path}` | {} | {} |",
            shown_default(default),
            about.replace('|', "\\|")
        );
        let items = property
            .get("items")
            .or_else(|| target.get("items"))
            .map(|items| resolve(items, root));
        let null = Value::Null;
        match items {
            Some(items) if depth < 3 => rows(&format!("{path}[]."), items, &null, root, depth + 1, out),
            _ if depth < 4 => rows(
                &format!("{path}."),
                target,
                default.unwrap_or(&null),
                root,
                depth + 1,
                out,
            ),
            _ => {}
        }
    }
}

#[test]
fn the_manual_of_the_manifest_is_what_the_types_say() {
    let schema = schemars::schema_for!(PgPoolSpec);
    let root = schema.as_value();
    let defaults = serde_json::to_value(PgPoolSpec::default()).unwrap();
    let mut text = HEAD.to_owned();
    rows("", root, &defaults, root, 0, &mut text);
    let path = repository().join("docs/CONFIGURATION.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, text,
        "docs/CONFIGURATION.md is out of date: UPDATE_DOCS=1 cargo test -p pgstmtpool-tests --test docs"
    );
}

/// Every test that ARCHITECTURE.md names exists, and every relative link of every document leads somewhere.
#[test]
fn documents_name_only_what_exists() {
    let mut sources = String::new();
    collect(&repository(), "rs", &mut |path| {
        sources += &std::fs::read_to_string(path).unwrap_or_default()
    });
    let text = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let missing: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.len() > 20
                && word.matches('_').count() > 3
                && word.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
        .filter(|name| !sources.contains(&format!("fn {name}")))
        .collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md names tests that do not exist: {missing:?}"
    );
    collect(&repository(), "md", &mut |path| check_links(path));
}

fn check_links(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    for part in text.split("](").skip(1) {
        let target = part.split([')', '#']).next().unwrap_or_default();
        if target.is_empty() || target.contains("://") || target.contains(' ') {
            continue;
        }
        assert!(
            path.parent().unwrap().join(target).exists(),
            "{}: no {target}",
            path.display()
        );
    }
}

fn collect(folder: &Path, extension: &str, found: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            if !name.starts_with('.') && !name.starts_with("target") && name != "node_modules" {
                collect(&path, extension, found);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            found(&path);
        }
    }
}

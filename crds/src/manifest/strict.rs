//! The strict reading of a file: every field that is unknown, repeated or of the wrong type, all at once.
//!
//! The types are those of the schema that [`crate::raw`] gives itself, the same that the Kubernetes API checks.
//! What is faulty is left out, so that the rest can be checked for its values too.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::tree::{Node, Yaml};
use crate::raw::{DURATION_PATTERN, PgPoolSpec};
use crate::units::{DURATION_FORM, SIZE_FORM};
use crate::{Fault, Faults};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<PgPoolSpec>()
        .to_value()
});

/// Reads the spec of a pool. What is missing or out of range is not looked at here.
pub(super) fn spec(node: &Node, found: &mut Vec<Fault>) -> PgPoolSpec {
    let mut reader = Reader {
        found,
        faults: Faults::new("spec"),
    };
    let value = reader.read(node, &SCHEMA);
    match serde_json::from_value(value.unwrap_or_else(|| Value::Object(Map::new()))) {
        Ok(spec) => spec,
        Err(error) => {
            // The schema and the types come from one source, so this is a gap between the two.
            reader.fault(node.line, error.to_string());
            PgPoolSpec::default()
        }
    }
}

struct Reader<'a> {
    found: &'a mut Vec<Fault>,
    faults: Faults,
}

impl Reader<'_> {
    fn fault(&mut self, line: u64, message: impl Into<String>) {
        let path = self.faults.path("");
        let line = (line > 0).then_some(line);
        if self.found.len() < crate::fault::FAULTS_MAX {
            self.found.push(Fault {
                line,
                ..Fault::new(path, message)
            });
        }
    }

    fn within<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let inner = Faults::new(self.faults.path(key));
        let outer = std::mem::replace(&mut self.faults, inner);
        let result = read(self);
        self.faults = outer;
        result
    }

    /// The value as JSON without what is faulty in it; `None`: nothing is left, or nothing is written.
    fn read(&mut self, node: &Node, schema: &Value) -> Option<Value> {
        if let Yaml::Null = node.value {
            return None;
        }
        let choices = choices(schema);
        let Some(schema) = choices.iter().find(|schema| admits(schema, &node.value)) else {
            self.fault(
                node.line,
                format!("{}, is {}", expected(schema, &choices), shown(&node.value)),
            );
            return None;
        };
        match &node.value {
            Yaml::Null => None,
            Yaml::Bool(value) => Some(Value::Bool(*value)),
            Yaml::Number(value) => Some(Value::Number(value.clone())),
            Yaml::Text(value) => Some(Value::String(value.clone())),
            Yaml::List(items) => {
                let items = items.iter().enumerate().filter_map(|(index, item)| {
                    self.within(&format!("[{index}]"), |reader| {
                        if let Yaml::Null = item.value {
                            reader.fault(item.line, "is empty");
                        }
                        reader.read(item, schema.get("items").unwrap_or(&Value::Bool(true)))
                    })
                });
                Some(Value::Array(items.collect()))
            }
            Yaml::Map(entries) => Some(Value::Object(self.read_map(entries, schema))),
        }
    }

    fn read_map(&mut self, entries: &[(String, Node)], schema: &Value) -> Map<String, Value> {
        let known = schema.get("properties").and_then(Value::as_object);
        let other = schema
            .get("additionalProperties")
            .filter(|other| **other != Value::Bool(false));
        let mut read = Map::new();
        for (index, (key, node)) in entries.iter().enumerate() {
            self.within(key, |reader| {
                if let Some((_, first)) = entries[..index].iter().find(|(before, _)| before == key) {
                    return reader.fault(
                        node.line,
                        format!("is written twice, first in line {}", first.line),
                    );
                }
                let value = match (known.and_then(|known| known.get(key)), other) {
                    (Some(schema), _) | (None, Some(schema)) => reader.read(node, schema),
                    (None, None) if known.is_none() => reader.read(node, &Value::Bool(true)),
                    (None, None) => {
                        let names: Vec<_> = known
                            .into_iter()
                            .flatten()
                            .map(|(name, _)| name.as_str())
                            .collect();
                        return reader.fault(node.line, unknown(key, &names));
                    }
                };
                if let Some(value) = value {
                    read.insert(key.clone(), value);
                }
            });
        }
        read
    }
}

/// The schemas of which one must fit.
fn choices(schema: &Value) -> Vec<&Value> {
    let list = ["anyOf", "oneOf"]
        .iter()
        .find_map(|key| schema.get(key).and_then(Value::as_array));
    match list {
        Some(list) if schema.get("type").is_none() => list.iter().flat_map(choices).collect(),
        _ => vec![schema],
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn constants(schema: &Value) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    listed
        .chain(schema.get("const"))
        .filter_map(Value::as_str)
        .collect()
}

fn admits(schema: &Value, value: &Yaml) -> bool {
    let constants = constants(schema);
    let types = types(schema);
    let fits = match value {
        Yaml::Null => types.contains(&"null"),
        Yaml::Bool(_) => types.contains(&"boolean"),
        Yaml::Number(number) if number.is_i64() => types.contains(&"integer") || types.contains(&"number"),
        Yaml::Number(_) => types.contains(&"number"),
        Yaml::Text(text) => {
            types.contains(&"string") && (constants.is_empty() || constants.contains(&text.as_str()))
        }
        Yaml::List(_) => types.contains(&"array"),
        Yaml::Map(_) => types.contains(&"object"),
    };
    fits || types.is_empty() && constants.is_empty()
}

fn expected(schema: &Value, choices: &[&Value]) -> String {
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return SIZE_FORM.to_owned();
    }
    if choices
        .iter()
        .any(|schema| schema.get("pattern").and_then(Value::as_str) == Some(DURATION_PATTERN))
    {
        return DURATION_FORM.to_owned();
    }
    let constants: Vec<_> = choices.iter().flat_map(|schema| constants(schema)).collect();
    if !constants.is_empty() {
        return format!("expected one of {}", constants.join(", "));
    }
    let named = choices
        .iter()
        .flat_map(|schema| types(schema))
        .find_map(|name| match name {
            "boolean" => Some("true or false"),
            "integer" => Some("a whole number"),
            "string" => Some("text"),
            "array" => Some("a list"),
            "object" => Some("a mapping"),
            _ => None,
        });
    format!("expected {}", named.unwrap_or("something else"))
}

fn shown(value: &Yaml) -> String {
    match value {
        Yaml::Null => "empty".to_owned(),
        Yaml::Bool(value) => format!("{value} (text needs quotes)"),
        Yaml::Number(value) => format!("the number {value} (text needs quotes)"),
        Yaml::Text(text) if text.len() > 60 => "a long text".to_owned(),
        Yaml::Text(text) => format!("{text:?}"),
        Yaml::List(_) => "a list".to_owned(),
        Yaml::Map(_) => "a mapping".to_owned(),
    }
}

/// What to say of a name that is not known, given those that are.
pub(super) fn unknown(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|other| (distance(name, other), other)).min();
    match near {
        Some((distance, other)) if distance <= 2 || distance * 3 <= other.len() => {
            format!("unknown field, did you mean {other}?")
        }
        _ => format!("unknown field, expected one of {}", known.join(", ")),
    }
}

/// Letters to change, add or leave out, upper and lower case alike.
pub(super) fn distance(left: &str, right: &str) -> usize {
    let (left, right) = (left.to_ascii_lowercase(), right.to_ascii_lowercase());
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

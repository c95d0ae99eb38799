//! The definition of the resource for the Kubernetes API (`crds/pgpools.pgstmtpool.io.yaml`), made from [`crate::raw`].
//!
//! Everything a person reads in it (descriptions, defaults, ranges) comes from the types; what only the API can check
//! stands in `rules`. `cargo run -p crds --features kube --bin crdgen` writes the file, a test compares.

mod rules;

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::raw::PgPool;

const HEAD: &str =
    "# Written by `cargo run -p crds --features kube --bin crdgen`. Change crds/src/raw, not this.\n";

/// The file.
///
/// # Errors
/// When the types cannot be written as a definition: a mistake in this crate.
pub fn yaml() -> Result<String, String> {
    let text = serde_saphyr::to_string(&definition()?).map_err(|error| error.to_string())?;
    Ok(format!("{HEAD}{text}"))
}

/// The definition.
///
/// # Errors
/// As [`yaml`].
pub fn definition() -> Result<Value, String> {
    let mut definition = serde_json::to_value(PgPool::crd()).map_err(|error| error.to_string())?;
    let version = definition
        .pointer_mut("/spec/versions/0")
        .ok_or("there is no version")?;
    version["additionalPrinterColumns"] = columns();
    let schema = version
        .pointer_mut("/schema/openAPIV3Schema")
        .ok_or("there is no schema")?;
    schema["description"] = json!("A pool of connections to one PostgreSQL master and its replicas.");
    tidy(schema, false);
    if let Some(status) = schema.pointer_mut("/properties/status") {
        tidy(status, true);
    }
    for (key, value) in [
        ("metadata", json!({ "type": "object" })),
        ("kind", json!({ "type": "string" })),
    ] {
        schema["properties"][key] = value;
    }
    schema["properties"]["apiVersion"] = json!({ "type": "string" });
    for rule in rules::RULES {
        let node = place(schema, rule.at)?;
        let rules = node
            .entry("x-kubernetes-validations")
            .or_insert_with(|| json!([]));
        let written = json!({ "rule": rule.holds, "message": rule.message });
        rules.as_array_mut().ok_or("rules are no list")?.push(written);
    }
    for (at, key) in [
        ("spec.databases", "name"),
        ("spec.users", "name"),
        ("status.conditions", "type"),
    ] {
        let list = place(schema, at)?;
        list.insert("x-kubernetes-list-type".to_owned(), json!("map"));
        list.insert("x-kubernetes-list-map-keys".to_owned(), json!([key]));
        list["items"]["required"] = json!([key]);
    }
    Ok(definition)
}

/// What `kubectl get pgpools` shows; with `-o wide` those of priority 1 too.
fn columns() -> Value {
    let column = |name: &str, kind: &str, path: &str, priority: u32| {
        let mut column = json!({ "name": name, "type": kind, "jsonPath": path });
        if priority > 0 {
            column["priority"] = json!(priority);
        }
        column
    };
    json!([
        column("Master", "string", ".status.master.name", 0),
        column("Epoch", "integer", ".status.epoch", 0),
        column(
            "Ready",
            "string",
            ".status.conditions[?(@.type==\"Ready\")].status",
            0
        ),
        column("Phase", "string", ".status.phase", 0),
        column("Replicas", "string", ".status.replicasReady", 0),
        column("Proxies", "string", ".status.proxiesReady", 0),
        column("Age", "date", ".metadata.creationTimestamp", 0),
        column("TL", "integer", ".status.master.timeline", 1),
        column("MaxLag", "string", ".status.maxLag", 1),
        column("Sync", "string", ".spec.durability.mode", 1),
    ])
}

/// The schema at `spec.tls`, or of the items at `spec.replicas[]`; all of it at an empty path.
fn place<'a>(schema: &'a mut Value, at: &str) -> Result<&'a mut Map<String, Value>, String> {
    let mut node = schema;
    for step in at.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]");
        node = &mut node["properties"][name];
        if step.ends_with("[]") {
            node = &mut node["items"];
        }
    }
    node.as_object_mut()
        .filter(|node| !node.is_empty())
        .ok_or_else(|| format!("the schema has no {at}"))
}

/// Makes a schema what the API wants of it.
///
/// Without `nullable` the API takes null for absent. Nothing in the status has a default: absent is absent. The default of
/// an object is written out, not `{}`: the API asks its rules of the default as it stands.
fn tidy(node: &mut Value, status: bool) {
    let Some(fields) = node.as_object_mut() else {
        if let Value::Array(items) = node {
            items.iter_mut().for_each(|item| tidy(item, status));
        }
        return;
    };
    let is_schema = fields.get("type").is_some_and(Value::is_string) || fields.contains_key("anyOf");
    if is_schema {
        fields.remove("nullable");
        // Both together and the API server takes each value for an object without fields: what is in it is unknown to it.
        if fields.contains_key("x-kubernetes-preserve-unknown-fields") {
            fields.remove("additionalProperties");
        }
        if status {
            fields.remove("default");
        }
        if fields.get("x-kubernetes-int-or-string").is_some() {
            fields.insert(
                "anyOf".to_owned(),
                json!([{ "type": "integer" }, { "type": "string" }]),
            );
        }
        if fields
            .get("format")
            .and_then(Value::as_str)
            .is_some_and(|format| format.starts_with("uint"))
        {
            fields.remove("format");
        }
        for bound in ["minimum", "maximum"] {
            let whole = fields
                .get(bound)
                .and_then(Value::as_f64)
                .filter(|bound| bound.fract() == 0.0);
            if let Some(whole) = whole {
                fields.insert(bound.to_owned(), json!(whole as i64));
            }
        }
        if let Some(Value::String(text)) = fields.get_mut("description") {
            *text = text.replace('\n', " ");
        }
    }
    for (name, value) in fields.iter_mut() {
        if !["default", "enum", "required"].contains(&name.as_str()) {
            tidy(value, status);
        }
    }
}

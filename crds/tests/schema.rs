//! The schema that `raw` gives itself (the Kubernetes API checks it) against the checks of `PoolConfig`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use crds::raw::PgPoolSpec;
use crds::{Identity, Place, PoolConfig};
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<PgPoolSpec>()
        .to_value()
}

/// A spec that has every optional part.
fn full() -> Value {
    let mut spec = serde_json::to_value(PgPoolSpec::default()).unwrap();
    let own = json!({
        "name": "n", "workers": {"max": 1, "maxTotal": 1}, "timeouts": {"query": "1s"},
        "limits": {"maxClients": 1, "maxClientsPerUser": 1, "maxClientsPerDatabase": 1, "maxPreparedStatements": 1},
    });
    let whom = json!({"user": "u", "database": "d", "applicationName": "a", "address": "10.0.0.0/8"});
    let rule = |more: Value| {
        let mut rule = whom.clone();
        rule.as_object_mut()
            .unwrap()
            .append(&mut more.as_object().unwrap().clone());
        rule
    };
    let parts = json!({
        "master": {"name": "a", "podName": "a"},
        "replicas": [{"name": "b", "host": "b", "weight": 1, "port": 1, "failoverPriority": 1, "zone": "z"}],
        "adminSecretRef": {"name": "s", "usernameKey": "u", "passwordKey": "p"},
        "databases": [own.clone()],
        "users": [own],
        "idleExemptions": [whom],
        "clientRules": [rule(json!({"timeouts": {"query": "1s"}, "limits": {"maxClients": 1}}))],
        "switchover": {"to": "b", "requestId": "r"},
        "failover": {"force": "f"},
        "routing": {"rules": [rule(json!({"query": "q", "to": "master"}))]},
        "cache": {
            "rules": [rule(json!({"query": "q", "tables": ["t"], "ttl": "1s"}))],
            "disk": {"path": "/x", "maxBytes": "1GiB"},
        },
        "proxy": {"replicas": 1, "autoscaling": {"minReplicas": 1, "maxReplicas": 250, "targetClients": 1}},
    });
    for (key, value) in parts.as_object().unwrap() {
        match (spec.get_mut(key), value) {
            (Some(Value::Object(there)), Value::Object(more)) => there.extend(more.clone()),
            _ => spec[key] = value.clone(),
        }
    }
    spec
}

fn check(spec: &Value) -> Result<(), Vec<String>> {
    let spec: PgPoolSpec = serde_json::from_value(spec.clone()).unwrap();
    let identity = Identity {
        name: "p".into(),
        ..Identity::default()
    };
    let faults = PoolConfig::from_spec(identity, spec, Place::Cluster).map(|_| ());
    faults.map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// Calls `visit` with the pointer and the schema of every value in `spec` that has a schema.
fn walk(pointer: &str, spec: &Value, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    let choices = schema.get("anyOf").and_then(Value::as_array);
    let plain = schema.get("type").is_none() && schema.get("x-kubernetes-int-or-string").is_none();
    let chosen = choices.filter(|_| plain).and_then(|choices| choices.first());
    let schema = chosen.unwrap_or(schema);
    visit(pointer, schema);
    match spec {
        Value::Object(fields) => {
            for (name, value) in fields {
                let known = schema
                    .get("properties")
                    .and_then(|properties| properties.get(name));
                if let Some(schema) = known.or(schema.get("additionalProperties")) {
                    walk(&format!("{pointer}/{name}"), value, schema, visit);
                }
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                walk(&format!("{pointer}/{index}"), value, &schema["items"], visit);
            }
        }
        _ => {}
    }
}

#[test]
fn numbers_have_the_same_range_in_the_schema_and_in_the_checks() {
    let full = full();
    assert_eq!(check(&full), Ok(()));
    let mut looked_at = 0;
    walk("", &full, &schema(), &mut |pointer, schema| {
        let is_integer = schema["type"] == "integer"
            || schema["type"]
                .as_array()
                .is_some_and(|types| types.contains(&json!("integer")));
        if !is_integer {
            return;
        }
        let bound = |key: &str| {
            schema[key]
                .as_i64()
                .unwrap_or_else(|| panic!("{pointer} has no {key}"))
        };
        let (low, high) = (bound("minimum"), bound("maximum"));
        for (value, good) in [(low, true), (high, true), (low - 1, false), (high + 1, false)] {
            let mut spec = full.clone();
            *spec.pointer_mut(pointer).unwrap() = json!(value);
            // minReplicas and maxReplicas bound each other.
            spec["proxy"]["autoscaling"]["maxReplicas"] = match pointer {
                "/proxy/autoscaling/maxReplicas" => json!(value),
                _ => json!(250),
            };
            // A switchover needs a target that may be promoted.
            let target = if pointer.starts_with("/master") { "b" } else { "a" };
            spec["switchover"]["to"] = json!(target);
            let found = check(&spec);
            assert_eq!(found.is_ok(), good, "{pointer}: {value}: {found:?}");
            looked_at += 1;
        }
    });
    assert!(looked_at > 100, "{looked_at}");
}

#[test]
fn texts_have_the_same_length_in_the_schema_and_in_the_checks() {
    let full = full();
    let mut missing = Vec::new();
    walk("", &full, &schema(), &mut |pointer, schema| {
        let is = |name: &str| {
            schema["type"] == name
                || schema["type"]
                    .as_array()
                    .is_some_and(|types| types.contains(&json!(name)))
        };
        if is("array") && schema["maxItems"].is_null() {
            missing.push(format!("{pointer} has no maxItems"));
        }
        if !is("string")
            || schema["enum"].is_array()
            || schema["oneOf"].is_array()
            || !schema["const"].is_null()
        {
            return;
        }
        let Some(longest) = schema["maxLength"].as_u64() else {
            return missing.push(format!("{pointer} has no maxLength"));
        };
        let mut spec = full.clone();
        *spec.pointer_mut(pointer).unwrap() = json!("a".repeat(longest as usize + 1));
        if check(&spec).is_ok() {
            missing.push(format!("{pointer} may be longer than the schema says"));
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_field_of_the_schema_is_described() {
    let mut missing = Vec::new();
    walk("", &full(), &schema(), &mut |pointer, schema| {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let described = |schema: &Value| {
                schema["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
            };
            if !described(property) {
                missing.push(format!("{pointer}/{name}"));
            }
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

//! The rules of the definition, asked as the Kubernetes API asks them: `cargo test -p crds --features cel`.
#![cfg(feature = "cel")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use crds::raw::PgPoolSpec;
use crds::{Identity, Place, PoolConfig};
use kube_cel::{Validator, apply_defaults};
use serde_json::{Value, json};

fn schema() -> Value {
    let definition: Value = serde_saphyr::from_str(include_str!("../pgpools.pgstmtpool.io.yaml")).unwrap();
    definition
        .pointer("/spec/versions/0/schema/openAPIV3Schema")
        .unwrap()
        .clone()
}

/// A pool with a master, two replicas and this in its spec.
fn object(spec: &str) -> Value {
    let more: Value = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
    let mut spec = json!({
        "master": {"name": "a", "podName": "a"},
        "replicas": [{"name": "b", "podName": "b"}, {"name": "c", "host": "c", "failoverPriority": 0}],
    });
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "pgstmtpool.io/v1alpha1", "kind": "PgPool", "metadata": {"name": "p"}, "spec": spec})
}

/// As the API does with fields that are null and have no default.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let there = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                there
                    .map(|(name, value)| (name.clone(), without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

fn messages(object: &Value) -> Vec<String> {
    match Validator::new().validate(&schema(), object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(ToString::to_string).collect(),
    }
}

fn checked(object: &Value) -> Result<PoolConfig, Vec<String>> {
    let spec: PgPoolSpec = serde_json::from_value(object["spec"].clone()).unwrap();
    let identity = Identity {
        name: "p".into(),
        ..Identity::default()
    };
    let checked = PoolConfig::from_spec(identity, spec, Place::Cluster);
    checked
        .map(|checked| checked.config)
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[test]
fn each_rule_lets_the_good_pass_and_refuses_the_bad() {
    let cases: Vec<Value> = serde_saphyr::from_str(include_str!("rules.yaml")).unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let (spec, expected) = (case["spec"].as_str().unwrap(), case["refused"].as_str().unwrap());
        let object = object(spec);
        let found = messages(&object);
        match expected {
            "" => assert_eq!(found, Vec::<String>::new(), "{spec}"),
            _ => assert!(
                found.iter().any(|found| found.contains(expected)),
                "{spec}\n{expected}\n{found:#?}"
            ),
        }
        // What the API lets pass the programs take, and what it refuses they refuse.
        assert_eq!(
            checked(&object).is_ok(),
            expected.is_empty(),
            "{spec}: {:?}",
            checked(&object)
        );
    }
}

#[test]
fn a_name_that_is_none_is_refused() {
    for (name, good) in [
        ("p", true),
        ("a-1", true),
        ("a.b", false),
        ("-a", false),
        (&"a".repeat(41), false),
    ] {
        let mut object = object("{}");
        object["metadata"]["name"] = json!(name);
        assert_eq!(messages(&object).is_empty(), good, "{name}");
    }
}

#[test]
fn the_defaults_of_the_api_are_those_of_the_programs() {
    let bare = object("{}");
    let defaulted = apply_defaults(&schema(), &bare);
    assert_eq!(defaulted["spec"]["workers"]["pipeline"]["maxDepth"], 256);
    assert_eq!(checked(&defaulted), checked(&bare));
    let overrides =
        object("databases: [{name: d, users: [{name: u, limits: {}}]}]\nproxy: {autoscaling: null}");
    let defaulted = apply_defaults(&schema(), &overrides);
    assert_eq!(
        checked(&defaulted),
        checked(&overrides),
        "an override has no defaults"
    );
}

#[test]
fn the_shipped_examples_are_accepted() {
    for text in [
        include_str!("../../examples/pgpool-cluster.yaml"),
        include_str!("../../examples/pgpool-all-fields.yaml"),
        include_str!("../../examples/pgpool-local.yaml"),
    ] {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let pool = documents
            .iter()
            .find(|document| document["kind"] == "PgPool")
            .unwrap();
        assert_eq!(messages(&without_nulls(pool)), Vec::<String>::new());
    }
}

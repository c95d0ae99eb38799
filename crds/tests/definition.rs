//! The generated definition is that of the types.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use schemars::generate::SchemaSettings;
use serde_json::Value;

const FILE: &str = include_str!("../pgpools.pgstmtpool.io.yaml");

fn definition() -> Value {
    serde_saphyr::from_str(FILE).unwrap()
}

/// The differences that matter to a person who writes a manifest; all of it is compared with the feature `kube`.
fn compare(path: &str, file: &Value, types: &Value, found: &mut Vec<String>) {
    // What may be absent and is no plain type is a choice of it and null.
    let choice = types["anyOf"]
        .as_array()
        .filter(|choices| choices.iter().any(|choice| choice["type"] == "null"));
    if choice.is_some() {
        return;
    }
    for key in [
        "default",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "pattern",
    ] {
        let (left, right) = (&file[key], &types[key]);
        let same = left == right || left.as_f64().is_some() && left.as_f64() == right.as_f64();
        if !same && !left.is_object() {
            found.push(format!(
                "{path}: {key} is {left} in the file and {right} in the types"
            ));
        }
    }
    let described = types["description"].as_str().map(|text| text.replace('\n', " "));
    if file["description"].as_str() != described.as_deref() {
        found.push(format!("{path}: the description differs"));
    }
    let names = |schema: &Value| {
        schema["properties"]
            .as_object()
            .map(|fields| fields.keys().cloned().collect::<Vec<_>>())
    };
    if names(file) != names(types) {
        found.push(format!(
            "{path}: {:?} in the file, {:?} in the types",
            names(file),
            names(types)
        ));
    }
    for name in names(file).unwrap_or_default() {
        compare(
            &format!("{path}.{name}"),
            &file["properties"][&name],
            &types["properties"][&name],
            found,
        );
    }
    if file["items"]["type"] == "object" {
        compare(&format!("{path}[]"), &file["items"], &types["items"], found);
    }
}

#[test]
fn the_definition_is_up_to_date() {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let types = settings
        .into_generator()
        .into_root_schema_for::<crds::raw::PgPoolSpec>()
        .to_value();
    let file = definition();
    let file = file
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .unwrap();
    let mut found = Vec::new();
    compare("spec", file, &types, &mut found);
    assert_eq!(
        found,
        Vec::<String>::new(),
        "cargo run -p crds --features kube --bin crdgen"
    );
}

/// Names only: what the operator writes has no bounds.
fn compare_names(path: &str, file: &Value, types: &Value, found: &mut Vec<String>) {
    let names = |schema: &Value| {
        let fields = schema["properties"].as_object();
        fields.map(|fields| fields.keys().cloned().collect::<Vec<_>>())
    };
    let choice = types["anyOf"].as_array().and_then(|choices| choices.first());
    let types = choice.unwrap_or(types);
    if names(file) != names(types) {
        found.push(format!(
            "{path}: {:?} in the file, {:?} in the types",
            names(file),
            names(types)
        ));
    }
    for name in names(file).unwrap_or_default() {
        compare_names(
            &format!("{path}.{name}"),
            &file["properties"][&name],
            &types["properties"][&name],
            found,
        );
    }
    if file["items"]["type"] == "object" {
        compare_names(&format!("{path}[]"), &file["items"], &types["items"], found);
    }
}

#[test]
fn the_definition_knows_every_field_of_the_status() {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let types = settings
        .into_generator()
        .into_root_schema_for::<crds::status::PgPoolStatus>()
        .to_value();
    let file = definition();
    let file = file
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status")
        .unwrap();
    let mut found = Vec::new();
    compare_names("status", file, &types, &mut found);
    assert_eq!(
        found,
        Vec::<String>::new(),
        "cargo run -p crds --features kube --bin crdgen"
    );
}

#[cfg(feature = "kube")]
#[test]
fn the_definition_is_what_the_generator_writes() {
    let generated = crds::definition::yaml().unwrap();
    assert!(
        generated == FILE,
        "cargo run -p crds --features kube --bin crdgen > crds/pgpools.pgstmtpool.io.yaml"
    );
}

#[test]
fn the_chart_brings_the_same_definition() {
    let of_chart = include_str!("../../charts/pgstmtpool/crds/pgpools.pgstmtpool.io.yaml");
    assert!(
        of_chart == FILE,
        "cp crds/pgpools.pgstmtpool.io.yaml charts/pgstmtpool/crds/"
    );
}

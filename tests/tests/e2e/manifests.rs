//! Manifests that are wrong are refused by the API with the path of the fault.

use pgstmtpool_tests::kube::KubeStage;
use serde_json::{Value, json};

/// A pool with this in its spec, laid over the one of `crds/tests/rules.rs`.
fn manifest(name: &str, spec: &str) -> String {
    let more: Value = serde_saphyr::from_str(spec).unwrap();
    let mut spec = json!({
        "master": {"name": "a", "podName": "a"},
        "replicas": [{"name": "b", "podName": "b"}, {"name": "c", "host": "c", "failoverPriority": 0}],
    });
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "pgstmtpool.io/v1alpha1", "kind": "PgPool", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn dry_run(stage: &KubeStage, name: &str, spec: &str) -> pgstmtpool_tests::Output {
    let file = stage.kube.world().write("tried.json", &manifest(name, spec));
    let file = file.to_str().unwrap();
    let args = [
        "-n",
        "default",
        "create",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        file,
    ];
    stage.kube.try_kubectl(&args)
}

#[test]
fn the_api_refuses_what_a_rule_forbids_and_takes_what_it_allows() {
    let stage = KubeStage::bare("rules");
    stage.install_definition();
    let cases: Vec<Value> = serde_saphyr::from_str(include_str!("../../../crds/tests/rules.yaml")).unwrap();
    for case in cases {
        let (spec, refused) = (case["spec"].as_str().unwrap(), case["refused"].as_str().unwrap());
        let answer = dry_run(&stage, "p", spec);
        if refused.is_empty() {
            assert!(answer.ok, "{spec}\n{}", answer.err);
        } else {
            assert!(!answer.ok, "taken: {spec}");
            assert!(answer.err.contains(refused), "{spec}\n{refused}\n{}", answer.err);
        }
    }
}

#[test]
fn a_field_that_is_wrong_is_refused_with_its_path() {
    let stage = KubeStage::bare("fields");
    stage.install_definition();
    for (spec, path) in [
        ("poolmode: session", "spec.poolmode"),
        ("poolMode: sometimes", "spec.poolMode"),
        ("workers: {max: 0}", "spec.workers.max"),
        ("workers: {max: many}", "spec.workers.max"),
        ("workers: {maximum: 5}", "spec.workers.maximum"),
        ("timeouts: {query: soon}", "spec.timeouts.query"),
        ("ha: {enabled: perhaps}", "spec.ha.enabled"),
        ("ha: {failureThreshold: 0}", "spec.ha.failureThreshold"),
        ("durability: {mode: Always}", "spec.durability.mode"),
        ("limits: {maxQuerySize: big}", "spec.limits.maxQuerySize"),
        ("proxy: {replicas: -1}", "spec.proxy.replicas"),
        ("proxy: {service: {type: Public}}", "spec.proxy.service.type"),
        ("tls: {mode: maybe}", "spec.tls.mode"),
        (
            "auth: {userSecretRefs: [{nam: x}]}",
            "spec.auth.userSecretRefs[0]",
        ),
    ] {
        let answer = dry_run(&stage, "p", spec);
        assert!(!answer.ok, "taken: {spec}");
        assert!(
            answer.err.contains(path),
            "{spec}: {path} is not in\n{}",
            answer.err
        );
    }
    for name in ["a.b", &"a".repeat(41)] {
        let answer = dry_run(&stage, name, "{}");
        assert!(
            !answer.ok && answer.err.contains("at most 40"),
            "{name}: {}",
            answer.err
        );
    }
}

#[test]
fn the_shipped_example_is_taken_by_the_api() {
    let stage = KubeStage::bare("example");
    stage.install_definition();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pgpool-cluster.yaml");
    let args = [
        "-n",
        "default",
        "create",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        path.to_str().unwrap(),
    ];
    stage.kube.kubectl(&args);
}

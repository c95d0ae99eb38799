//! The proxy as a native sidecar: the application speaks to a Unix socket in its own pod.

use pgstmtpool_tests::kube::{KubeStage, NAMESPACE};
use pgstmtpool_tests::wait_for;
use std::time::Duration;

#[test]
fn an_application_with_the_proxy_as_a_sidecar_uses_a_unix_socket() {
    let stage = KubeStage::set("sidecar");
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sidecar.yaml");
    let example = std::fs::read_to_string(example).unwrap();
    let manifest = example
        .replace("ghcr.io/pgstmtpool/pgstmtpool:0.1.0", "localhost/pgstmtpool:e2e")
        .replace("docker.io/library/postgres:17-alpine", "localhost/postgres:e2e");
    stage.kube.apply(NAMESPACE, &manifest);
    wait_for("the application's row", Duration::from_secs(90), || {
        let log = stage
            .kube
            .try_kubectl(&["-n", NAMESPACE, "logs", "shop", "-c", "application"]);
        let seen = log.out.contains("through the socket: f");
        seen.then_some(()).ok_or(log.out + &log.err)
    });
    stage.kube.kubectl(&["-n", NAMESPACE, "delete", "pod", "shop"]);
}

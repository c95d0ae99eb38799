//! The charts: what they render, what they refuse. Needs helm, no cluster: `make e2e`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use pgstmtpool_tests::kube::helm_program;
use pgstmtpool_tests::{Output, run_to_end};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn helm(args: &[&str]) -> Output {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(HELM.get_or_init(helm_program));
    // Without a cluster, whatever the environment names.
    command.args(args).env("KUBECONFIG", "/nowhere");
    run_to_end(&mut command, Duration::from_secs(60))
}

fn chart(name: &str) -> String {
    repository()
        .join("charts")
        .join(name)
        .to_str()
        .unwrap()
        .to_owned()
}

/// Everything that helm prints for a file of values in `golden/charts`, named `<chart>-<case>.values.yaml`.
fn cases() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/charts");
    let mut cases: Vec<(String, PathBuf)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(".values.yaml")?;
            Some((name.split('-').next()?.to_owned(), path.clone()))
        })
        .collect();
    cases.sort();
    cases
}

#[test]
fn helm_lint_finds_nothing_wrong_with_the_charts() {
    for (name, values) in cases() {
        let found = helm(&["lint", "--strict", &chart(&name), "-f", values.to_str().unwrap()]);
        assert!(found.ok, "{}: {}{}", values.display(), found.out, found.err);
    }
}

#[test]
fn the_charts_render_what_is_on_record() {
    let mut differ = Vec::new();
    for (name, values) in cases() {
        let rendered = helm(&[
            "template",
            "try",
            &chart(&name),
            "--namespace",
            "db",
            "--include-crds=false",
            "-f",
            values.to_str().unwrap(),
        ]);
        let rendered = rendered.expect_ok("helm template").out;
        let record = values.with_file_name(
            values
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .replace(".values", ""),
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&record, &rendered).unwrap();
        }
        if fs::read_to_string(&record).unwrap_or_default() != rendered {
            differ.push(record);
        }
    }
    assert!(
        differ.is_empty(),
        "rendered otherwise than on record (UPDATE_GOLDEN=1 writes it anew): {differ:?}"
    );
}

#[test]
fn wrong_values_are_refused_with_their_path() {
    for (name, value, expected) in [
        ("pgstmtpool", "operater.replicas=2", "operater"),
        ("pgstmtpool", "operator.replicas=many", "operator/replicas"),
        ("pgstmtpool", "operator.replicas=-1", "operator/replicas"),
        ("pgstmtpool", "operator.logFormat=xml", "operator/logFormat"),
        ("pgstmtpool", "image.digest=sha256:12", "image/digest"),
        ("pgstmtpool", "image.repository=", "image/repository"),
        ("pgstmtpool", "image.pullPolicy=Sometimes", "image/pullPolicy"),
        ("pgstmtpool", "watch.namespace=Not_A_Name", "watch/namespace"),
        (
            "pgstmtpool",
            "metrics.podMonitor.interval=often",
            "metrics/podMonitor/interval",
        ),
        (
            "pgstmtpool",
            "networkPolicy.postgresPorts={70000}",
            "networkPolicy/postgresPorts",
        ),
        ("pgstmtpool", "serviceAccount.create=false", "serviceAccount.name"),
        ("postgres", "replicas=0", "replicas"),
        ("postgres", "replicas=seventeen", "replicas"),
        ("postgres", "auth.user=x", "user"),
        ("postgres", "persistence.size=much", "persistence/size"),
        ("postgres", "settings.Shared-Buffers=1MB", "Shared-Buffers"),
        ("postgres", "user=0", "user"),
    ] {
        let refused = helm(&["template", "try", &chart(name), "--set", value]);
        assert!(!refused.ok, "{name} takes {value}");
        assert!(
            refused.err.contains(expected),
            "{name}, {value}: {expected} is not in\n{}",
            refused.err
        );
    }
}

#[test]
fn the_resource_definition_of_the_chart_is_that_of_the_types() {
    let file = "pgpools.pgstmtpool.io.yaml";
    let types = fs::read_to_string(repository().join("crds").join(file)).unwrap();
    let chart = fs::read_to_string(repository().join("charts/pgstmtpool/crds").join(file)).unwrap();
    assert!(
        types == chart,
        "copy crds/{file} to charts/pgstmtpool/crds/ (crdgen writes the first)"
    );
}

#[test]
fn the_notes_name_the_next_command() {
    for (name, expected) in [
        ("pgstmtpool", "kubectl --namespace db get pgpools"),
        ("postgres", "kind: PgPool"),
    ] {
        let notes = helm(&[
            "install",
            "try",
            &chart(name),
            "--namespace",
            "db",
            "--dry-run=client",
        ]);
        let notes = notes.expect_ok("helm install --dry-run").out;
        assert!(notes.contains(expected), "{notes}");
    }
}

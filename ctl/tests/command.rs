//! The command on files somebody else wrote: what it prints and how it ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MANIFEST: &str = "apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {name: p}\nspec:\n  master: {name: a, host: h1}\n  \
                        replicas: [{name: b, host: h2}]\n";

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder(name: &str) -> Folder {
    let path = std::env::temp_dir().join(format!("pgstmtpool-ctl-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("p.yaml"), MANIFEST).unwrap();
    Folder(path)
}

fn status(folder: &Path, status: &str) {
    let text = format!(
        "apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {{name: p, resourceVersion: \"1\"}}\nstatus:\n{status}"
    );
    std::fs::write(folder.join("p.status.yaml"), text).unwrap();
}

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgstmtpool"))
        .args(args)
        .args(["--config", folder.join("p.yaml").to_str().unwrap()])
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_status_there_is_nobody_to_write_to() {
    let folder = folder("none");
    let output = run(&folder.0, &["status"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stdout).contains("no status yet"));
    assert_eq!(
        run(&folder.0, &["switchover", "--to", "b"]).status.code(),
        Some(1)
    );
}

#[test]
fn the_exit_code_of_status_is_the_phase() {
    let folder = folder("phase");
    for (phase, code) in [
        ("Healthy", 0),
        ("Degraded", 3),
        ("SwitchingOver", 3),
        ("Blocked", 4),
        ("Down", 4),
    ] {
        status(
            &folder.0,
            &format!("  epoch: 3\n  phase: {phase}\n  master: {{name: a}}\n  servers: [{{name: a}}]\n"),
        );
        let output = run(&folder.0, &["status"]);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{phase}: {}",
            text(&output.stderr)
        );
        assert!(text(&output.stdout).starts_with(&format!("p  {phase}  epoch 3  open\n")));
    }
}

#[test]
fn a_request_stands_beside_the_status_and_the_manifest_is_not_touched() {
    let folder = folder("request");
    status(&folder.0, "  epoch: 3\n  master: {name: a}\n");
    let output = run(&folder.0, &["switchover", "--to", "b", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let request = std::fs::read_to_string(folder.0.join("p.request.yaml")).unwrap();
    assert!(
        request.contains("to: b") && request.contains("force: true"),
        "{request}"
    );
    assert_eq!(
        std::fs::read_to_string(folder.0.join("p.yaml")).unwrap(),
        MANIFEST
    );
    assert_eq!(
        run(&folder.0, &["switchover", "--to", "x"]).status.code(),
        Some(2)
    );
}

#[test]
fn only_the_blocked_operation_that_was_named_is_forced() {
    let folder = folder("force");
    let force = ["failover", "--force", "failover-4"];
    status(&folder.0, "  epoch: 4\n  master: {name: a}\n");
    assert_eq!(run(&folder.0, &force).status.code(), Some(1));
    for (step, code) in [("Measuring", 1), ("Blocked", 0)] {
        let operation = format!("  operation: {{id: failover-4, type: Failover, from: a, step: {step}}}\n");
        status(
            &folder.0,
            &format!("  epoch: 4\n  master: {{name: a}}\n{operation}"),
        );
        assert_eq!(run(&folder.0, &force).status.code(), Some(code), "{step}");
    }
    assert!(
        std::fs::read_to_string(folder.0.join("p.request.yaml"))
            .unwrap()
            .contains("force: failover-4")
    );
}

#[test]
fn a_bad_manifest_is_code_2_with_every_fault() {
    let folder = folder("bad");
    std::fs::write(folder.0.join("p.yaml"), MANIFEST.replace("host: h1", "hosst: h1")).unwrap();
    let output = run(&folder.0, &["status"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("hosst"));
}

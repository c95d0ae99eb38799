//! What only the running system can know to be wrong.

use std::time::Duration;

use pgstmtpool_tests::kube::{KubeStage, Load, LoadOptions};
use pgstmtpool_tests::wait_for;

use crate::assert_clean;

#[test]
fn what_only_the_running_system_can_know_becomes_a_condition_and_what_ran_goes_on() {
    let stage = KubeStage::set("conditions");
    let load = Load::start(stage.kube, "conditions", &LoadOptions::default());
    for (wrong, named) in [
        (
            r#"{"spec": {"adminSecretRef": {"name": "nowhere"}}}"#,
            "there is no Secret \\\"nowhere\\\"",
        ),
        (
            r#"{"spec": {"adminSecretRef": {"usernameKey": "login"}}}"#,
            "has no key \\\"login\\\"",
        ),
        // A login without a password is one too (cert, trust): only the server can say that it wants one.
        (
            r#"{"spec": {"adminSecretRef": {"passwordKey": "pass"}}}"#,
            "LoginRefused",
        ),
    ] {
        stage.patch(wrong);
        wait_for(
            &format!("a condition that names {named}"),
            Duration::from_secs(60),
            || {
                let conditions = stage.pool()["status"]["conditions"].to_string();
                let said = conditions.contains(named);
                said.then_some(()).ok_or(conditions)
            },
        );
        load.wait_progress(200);
        stage.patch(
            r#"{"spec": {"adminSecretRef": {"name": "pg", "usernameKey": "username", "passwordKey": "password"}}}"#,
        );
        stage.wait_healthy();
    }
    assert_clean(&load.finish());
}

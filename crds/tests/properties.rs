//! What must hold for any text: nothing panics, and what is written is read back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use crds::status::{
    Candidate, Condition, ConditionStatus, EventRecord, FencingLevel, MasterStatus, Operation, OperationKind,
    OperationRecord, OperationStep, PgPoolStatus, RoutingMode, RoutingStatus, ServerRole, ServerState,
    ServerStatus, Share, SyncSet, SyncStatus,
};
use crds::{hba, parse_manifest, units};
use proptest::prelude::*;

const WORDS: &[&str] = &[
    "apiVersion: pgstmtpool.io/v1alpha1\n",
    "kind: PgPool\n",
    "metadata: {name: p}\n",
    "spec:\n",
    "  master: {name: a, host: 127.0.0.1}\n",
    "  replicas: [",
    "{name: b, host: x}",
    "]\n",
    "  workers: {max: ",
    "}\n",
    "---\n",
    "&a ",
    "*a",
    "<<: ",
    "\"",
    "'",
    "? ",
    "- ",
    "!!str ",
    "\t",
    "|\n",
    "null",
    "7",
    "[",
    "{",
    "\u{feff}",
    "stringData: {a: b}\n",
];

proptest! {
    #[test]
    fn a_duration_is_read_back_as_it_was_written(ms in 0..=units::DURATION_MAX.as_millis() as u64) {
        let value = Duration::from_millis(ms);
        prop_assert_eq!(units::parse_duration(&units::duration(value)), Ok(value));
    }

    #[test]
    fn a_size_is_read_back_as_it_was_written(bytes in 0..=units::SIZE_MAX) {
        prop_assert_eq!(units::parse_size(&units::size(bytes)), Ok(bytes));
    }

    #[test]
    fn durations_and_sizes_of_any_text_are_read_or_refused(text in "\\PC{0,20}|[0-9a-zA-Z]{0,20}") {
        _ = units::parse_duration(&text);
        _ = units::parse_size(&text);
    }

    #[test]
    fn a_rule_of_any_text_is_read_or_refused(
        words in prop::collection::vec("host|local|all|\"|,|/\\(|/a|\\+g|10\\.0\\.0\\.0/8|::1|trust|md5|a=b|#|\\PC{1,3}", 0..10),
    ) {
        _ = hba::parse(&words.join(" "));
        _ = hba::parse(&words.concat());
    }

    #[test]
    fn a_file_of_any_text_is_read_or_refused(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..30),
        noise in "\\PC{0,5}",
    ) {
        _ = parse_manifest(&format!("{}{noise}", words.concat()), "x.yaml");
    }

    #[test]
    fn a_share_is_never_more_than_the_whole(parts in 0..100u32, of in 0..100u32, total in 0..100_000u32) {
        let share = Share { parts, of };
        prop_assert!(share.connections(total) <= total);
        prop_assert!(share.workers(total) <= total.max(Share::LEAST));
    }

    #[test]
    fn shares_together_never_exceed_what_the_server_has(parts in prop::collection::vec(1..50u32, 1..8), total in 0..10_000u32) {
        let of = parts.iter().sum();
        let together: u32 = parts.iter().map(|parts| Share { parts: *parts, of }.connections(total)).sum();
        prop_assert!(together <= total);
    }

    #[test]
    fn a_status_is_read_back_as_it_was_written(status in status()) {
        let text = serde_saphyr::to_string(&status).unwrap();
        let read: PgPoolStatus = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        prop_assert_eq!(&read, &status);
        let json = serde_json::to_value(&status).unwrap();
        prop_assert_eq!(serde_json::from_value::<PgPoolStatus>(json).unwrap(), status);
    }
}

/// Texts that YAML could take for something else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{1,10}",
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("0123".to_owned()),
        Just("0x1F".to_owned()),
        Just("1e3".to_owned()),
        Just("2/2".to_owned()),
        Just("<16MiB".to_owned()),
        Just("7380000000000000001".to_owned()),
        Just("0/3000060".to_owned()),
        Just("- a: b # c".to_owned()),
        Just("two\nlines\n".to_owned()),
        "\\PC{0,12}",
    ]
}

fn server() -> impl Strategy<Value = ServerStatus> {
    (text(), text(), 0..100u32, any::<bool>(), text()).prop_map(
        |(name, address, timeline, read_eligible, lag)| ServerStatus {
            name,
            address,
            role: ServerRole::Replica,
            state: ServerState::Streaming,
            timeline,
            lag: lag.clone(),
            sync_state: lag.clone(),
            slot: lag.clone(),
            read_eligible,
            message: lag,
            ..ServerStatus::default()
        },
    )
}

fn status() -> impl Strategy<Value = PgPoolStatus> {
    let names = prop::collection::vec(text(), 0..4);
    (
        any::<u32>(),
        prop::collection::vec(server(), 0..4),
        names,
        text(),
        any::<bool>(),
    )
        .prop_map(|(epoch, servers, names, text, flag)| {
            let candidate = Candidate {
                name: text.clone(),
                lsn: text.clone(),
                priority: 7,
                ..Candidate::default()
            };
            let operation = Operation {
                id: text.clone(),
                kind: OperationKind::Switchover,
                target: flag.then(|| text.clone()),
                step: OperationStep::Promoting,
                candidates: vec![candidate],
                fencing_level: Some(FencingLevel::SqlFenced),
                notes: [(text.clone(), text.clone())].into(),
                ..Operation::default()
            };
            let condition = Condition {
                kind: "Ready".into(),
                status: ConditionStatus::True,
                message: text.clone(),
                ..Condition::default()
            };
            let share = Share { parts: 1, of: 2 };
            PgPoolStatus {
                epoch: epoch.into(),
                master: flag.then(|| MasterStatus {
                    name: text.clone(),
                    system_identifier: "7380000000000000001".into(),
                    since: "2026-11-21T10:00:00.250Z".into(),
                    ..MasterStatus::default()
                }),
                routing: RoutingStatus {
                    mode: RoutingMode::Fenced,
                    leases_only: flag,
                    ..RoutingStatus::default()
                },
                servers,
                sync: SyncStatus {
                    confirmed: Some(SyncSet {
                        names: names.clone(),
                        k: 1,
                    }),
                    ..SyncStatus::default()
                },
                operation: flag.then_some(operation),
                history: vec![OperationRecord {
                    id: text.clone(),
                    ..OperationRecord::default()
                }],
                last_switchover_request: flag.then(|| text.clone()),
                budget: crds::status::BudgetStatus {
                    servers: names.iter().map(|name| (name.clone(), 90)).collect(),
                    shares: names.iter().map(|name| (name.clone(), share)).collect(),
                    number: 3,
                    held: names.iter().map(|name| (name.clone(), share)).collect(),
                },
                replicas_ready: "2/2".into(),
                conditions: vec![condition],
                events: vec![EventRecord {
                    message: text,
                    ..EventRecord::default()
                }],
                ..PgPoolStatus::default()
            }
        })
}

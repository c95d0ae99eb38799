//! The answer of the status queries, read into a [`Sample`].

use super::conninfo::Conninfo;
use crate::core::{Fork, Lsn, Receiver, Sample, Sender};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What `sql/status.sql` answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StatusRow {
    version: u32,
    system: Option<String>,
    recovery: bool,
    timeline: Option<u32>,
    replaying: Option<bool>,
    lsn: Option<String>,
    replay: Option<String>,
    receiver: Option<ReceiverRow>,
    conninfo: Option<String>,
    slot: Option<String>,
    sync_names: String,
    delay: Option<String>,
    read_only: bool,
    data_directory: Option<String>,
    connections: u32,
    clients: u32,
    senders: Option<Vec<SenderRow>>,
    slots: Option<BTreeMap<String, bool>>,
    pub(super) may: May,
}

/// What our login may do there.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct May {
    superuser: Option<bool>,
    pub(super) read_files: Option<bool>,
    programs: Option<bool>,
    stop: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ReceiverRow {
    status: Option<String>,
    host: Option<String>,
    port: Option<i64>,
    timeline: Option<u32>,
    age_ms: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SenderRow {
    name: Option<String>,
    state: Option<String>,
    sync_state: Option<String>,
    flushed: Option<String>,
}

/// What `sql/files.sql` answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FilesRow {
    standby_signal: bool,
    wal_timeline: Option<u32>,
    history: Option<String>,
}

/// Joins both answers. The second half is `primary_conninfo` as it stands, which holds a password: it never leaves this process.
pub(super) fn sample(row: StatusRow, files: Option<FilesRow>) -> (Sample, Option<Conninfo>) {
    let files = files.unwrap_or_default();
    let conninfo = row
        .conninfo
        .as_deref()
        .filter(|text| !text.is_empty())
        .and_then(Conninfo::parse);
    let lsn = |text: Option<String>| text.as_deref().and_then(Lsn::parse).unwrap_or_default();
    let sample = Sample {
        version: row.version,
        system: row.system.unwrap_or_default(),
        recovery: row.recovery,
        timeline: row.timeline.max(files.wal_timeline).unwrap_or_default(),
        lsn: lsn(row.lsn),
        replay: lsn(row.replay),
        replaying: row.replaying == Some(true),
        receiver: row.receiver.map(|receiver| Receiver {
            streaming: receiver.status.as_deref() == Some("streaming"),
            timeline: receiver.timeline.unwrap_or_default(),
            host: receiver.host.unwrap_or_default(),
            port: receiver
                .port
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or_default(),
            message_age: receiver
                .age_ms
                .and_then(|age| u64::try_from(age).ok())
                .map_or(Duration::ZERO, Duration::from_millis),
        }),
        upstream: conninfo.as_ref().map(Conninfo::upstream),
        slot: row.slot.unwrap_or_default(),
        sync_names: row.sync_names,
        delayed: row.delay.is_some_and(|delay| delay != "0"),
        read_only: row.read_only,
        standby_signal: files.standby_signal,
        can_stop: [row.may.superuser, row.may.programs, row.may.stop].contains(&Some(true)),
        clients: row.clients,
        senders: row.senders.unwrap_or_default().into_iter().map(sender).collect(),
        slots: row.slots.unwrap_or_default().into_iter().collect(),
        history: files.history.as_deref().map(history).unwrap_or_default(),
        data_directory: row.data_directory.unwrap_or_default(),
        connections: row.connections,
    };
    (sample, conninfo)
}

fn sender(row: SenderRow) -> Sender {
    Sender {
        name: row.name.unwrap_or_default(),
        streaming: row.state.as_deref() == Some("streaming"),
        sync_state: row.sync_state.unwrap_or_default(),
        flushed: row.flushed.as_deref().and_then(Lsn::parse).unwrap_or_default(),
    }
}

/// A timeline history file: `1\t0/160D390\tno recovery target specified`, one ancestor a line.
pub(super) fn history(text: &str) -> Vec<Fork> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Fork {
            timeline: words.next()?.parse().ok()?,
            at: Lsn::parse(words.next()?)?,
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_is_read_and_comments_are_skipped() {
        let text = "# a comment\n1\t0/160D390\tno recovery target specified\n\n2\t1/0\tx\n";
        assert_eq!(
            history(text),
            [
                Fork {
                    timeline: 1,
                    at: Lsn(0x160_D390)
                },
                Fork {
                    timeline: 2,
                    at: Lsn(1 << 32)
                }
            ]
        );
    }

    #[test]
    fn a_standby_without_a_receiver_has_the_timeline_of_its_log_segments() {
        let row: StatusRow = serde_json::from_str(
            r#"{"version": 150008, "system": "7", "recovery": true, "timeline": 1, "lsn": "0/3000000", "replay": "0/2FFFFFF",
                "receiver": null, "conninfo": "user=r password=x host=m", "slot": "pgp_b", "sync_names": "", "delay": "0",
                "read_only": false, "connections": 97, "clients": 0, "senders": null, "slots": null,
                "may": {"superuser": true, "read_files": true, "programs": true, "stop": null}}"#,
        )
        .unwrap();
        let files = FilesRow {
            standby_signal: true,
            wal_timeline: Some(2),
            history: Some("1\t0/2000000\tx".into()),
        };
        let (sample, conninfo) = sample(row, Some(files));
        assert_eq!(
            (sample.timeline, sample.lsn, sample.can_stop),
            (2, Lsn(0x300_0000), true)
        );
        assert_eq!(sample.upstream.unwrap().host, "m");
        assert_eq!(conninfo.unwrap().get("password"), Some("x"));
    }
}

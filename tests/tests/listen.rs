//! LISTEN and NOTIFY: one connection listens for thousands of clients, and each hears what it would hear from its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use pgstmtpool_tests::wire::{Connection, Frame, WireError, encode};
use pgstmtpool_tests::{Stage, wait_for};

const SECOND: Duration = Duration::from_secs(1);

fn stage(name: &str, mode: &str) -> Stage {
    Stage::start(name, |m| {
        m.set("poolMode", mode).set(
            "workers",
            "{minByClients: [1, 1], clientsPerWorker: 10000, max: 3}",
        )
    })
}

/// A notification: sender, channel, payload.
type Note = (i32, String, String);

fn note(frame: &Frame) -> Note {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut parts = frame.body[4..].split(|b| *b == 0);
    (
        i32::from_be_bytes(frame.body[..4].try_into().unwrap()),
        text(parts.next().unwrap()),
        text(parts.next().unwrap()),
    )
}

/// The next notification of a client.
fn heard(client: &mut Connection) -> Note {
    loop {
        let frame = client.read().expect("a notification");
        if frame.tag == b'A' {
            return note(&frame);
        }
    }
}

fn hears_nothing(client: &mut Connection) {
    client.set_timeout(Duration::from_millis(300));
    match client.read() {
        Err(WireError::Timeout) => {}
        other => panic!("heard {other:?}"),
    }
    client.set_timeout(30 * SECOND);
}

/// Connections at the server that listen for the proxy.
fn hubs(stage: &Stage) -> String {
    stage.direct("select count(*) from pg_stat_activity where application_name = 'pgstmtpool listener'")
}

#[test]
fn two_thousand_clients_listen_on_one_server_connection() {
    for mode in ["statement", "transaction"] {
        let stage = stage(&format!("listen-many-{mode}"), mode);
        let mut clients: Vec<Connection> = (0..2000).map(|_| stage.client()).collect();
        // All ask at once, each on the common channel and on one of its own.
        for client in &mut clients {
            client.send(&encode::query(b"listen everybody")).unwrap();
        }
        for client in &mut clients {
            client.collect().unwrap();
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client
                .send(&encode::query(format!("listen only_{n}").as_bytes()))
                .unwrap();
        }
        for client in &mut clients {
            client.collect().unwrap();
        }
        assert_eq!(hubs(&stage), "1");
        assert!(stage.servers_of_app() <= 4, "{}", stage.servers_of_app());
        stage.direct("select pg_notify('everybody', 'first'), pg_notify('only_7', 'seven'), pg_notify('everybody', 'last')");
        for (n, client) in clients.iter_mut().enumerate() {
            let mut got = vec![heard(client).2];
            if n == 7 {
                got.push(heard(client).2);
            }
            got.push(heard(client).2);
            let right: &[&str] = if n == 7 {
                &["first", "seven", "last"]
            } else {
                &["first", "last"]
            };
            assert_eq!(got, right, "client {n}");
        }
    }
}

#[test]
fn a_client_knows_its_own_notifications_by_their_process_id() {
    for mode in ["statement", "transaction", "session"] {
        let stage = stage(&format!("listen-own-{mode}"), mode);
        stage.direct("create table t (n int); grant all on t to app");
        stage.direct(
            "create function told() returns trigger language plpgsql as $$ begin \
             perform pg_notify('c', 'by a trigger'); return new; end $$",
        );
        stage.direct("create trigger told after insert on t for each row execute function told()");
        let mut a = stage.client();
        let mut b = stage.client();
        for client in [&mut a, &mut b] {
            client.query("listen c").unwrap();
        }
        for round in 0..20 {
            for (speaker, sql) in [
                (0, format!("notify c, '{round}'")),
                (1, format!("select pg_notify('c', '{round}')")),
                (0, "insert into t values (1)".to_owned()),
            ] {
                let own = [a.process_id, b.process_id][speaker];
                let speaking = if speaker == 0 { &mut a } else { &mut b };
                speaking.send(&encode::query(sql.as_bytes())).unwrap();
                for client in [&mut a, &mut b] {
                    assert_eq!(heard(client).0, own, "{mode}: {sql}");
                }
            }
        }
    }
}

#[test]
fn a_client_hears_its_own_notification_before_its_statement_ends() {
    let stage = stage("listen-self", "transaction");
    let mut client = stage.client();
    client.query("listen c").unwrap();
    for n in 0..50 {
        client
            .send(&encode::query(format!("notify c, '{n}'").as_bytes()))
            .unwrap();
        let mut tags = String::new();
        loop {
            let frame = client.read().unwrap();
            tags.push(char::from(frame.tag));
            if frame.tag == b'Z' {
                break;
            }
        }
        assert_eq!(tags, "CAZ");
    }
}

#[test]
fn notifications_come_once_and_in_order_however_often_the_listener_changes_its_mind() {
    let stage = stage("listen-storm", "transaction");
    let mut speaker = stage.client();
    let mut listener = stage.client();
    let talking = std::thread::spawn(move || {
        for n in 0..3000 {
            speaker.query(&format!("notify storm, '{n}'")).unwrap();
        }
        speaker.query("notify storm, 'end'").unwrap();
    });
    // Listens by itself, and in transactions, while the speaker speaks: no gap from one to the other, nothing twice.
    let mut got: Vec<Option<i64>> = Vec::new();
    let mut statement = 0;
    let mut quiet_from = None;
    let forms: [&[&str]; 6] = [
        &["listen storm"],
        &["begin", "listen other", "commit"],
        &["begin; unlisten other; listen storm; commit"],
        &["begin", "unlisten storm", "rollback"],
        &["select 1"],
        &["listen storm; listen third"],
    ];
    'all: loop {
        for sql in forms[statement % forms.len()] {
            listener.send(&encode::query(sql.as_bytes())).unwrap();
            loop {
                let frame = listener.read().unwrap();
                match frame.tag {
                    b'A' if note(&frame).2 == "end" => break 'all,
                    b'A' => got.push(note(&frame).2.parse().ok()),
                    b'E' => panic!("{sql}"),
                    b'Z' => break,
                    _ => {}
                }
            }
        }
        statement += 1;
        if quiet_from.is_none() && !got.is_empty() {
            quiet_from = Some(got.len());
        }
    }
    talking.join().unwrap();
    let numbers: Vec<i64> = got.into_iter().map(|n| n.expect("a number")).collect();
    let first = numbers[0];
    let right: Vec<i64> = (first..first + i64::try_from(numbers.len()).unwrap()).collect();
    assert_eq!(numbers, right, "from the first on every one, once, in order");
    assert_eq!(*numbers.last().unwrap(), 2999);
    assert!(
        statement > 10,
        "the listener changed its mind {statement} times only"
    );
}

#[test]
fn a_lost_connection_of_the_hub_is_told_and_it_listens_again() {
    let stage = stage("listen-gap", "transaction");
    let mut client = stage.client();
    client.query("listen c").unwrap();
    stage.direct(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgstmtpool listener'",
    );
    let frame = client.read().unwrap();
    assert_eq!(frame.tag, b'N', "{frame:?}");
    assert!(String::from_utf8_lossy(&frame.body).contains("may have been lost"));
    stage.direct("notify c, 'again'");
    assert_eq!(heard(&mut client).2, "again");
    assert_eq!(client.value("select 1").unwrap(), "1");
}

#[test]
fn a_listener_is_disconnected_by_a_gap_where_that_is_asked_for() {
    let stage = Stage::start("listen-disconnect", |m| m.set("onListenGap", "disconnect"));
    let (mut listener, mut other) = (stage.client(), stage.client());
    listener.query("listen c").unwrap();
    other.query("select 1").unwrap();
    stage.direct(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgstmtpool listener'",
    );
    let (error, _) = listener.read_to_close().unwrap();
    assert_eq!(error.unwrap().code(), "08006");
    assert_eq!(
        other.value("select 1").unwrap(),
        "1",
        "who does not listen is not concerned"
    );
}

#[test]
fn who_leaves_is_forgotten_and_who_never_listened_hears_nothing() {
    let stage = stage("listen-leave", "transaction");
    let mut silent = stage.client();
    silent.query("select 1").unwrap();
    for _ in 0..20 {
        let mut client = stage.client();
        client.query("listen c").unwrap();
        drop(client);
    }
    stage.direct("notify c, 'anybody'");
    hears_nothing(&mut silent);
    // A listener pins nothing: its statements are still everybody's.
    let mut client = stage.client();
    client.query("listen c").unwrap();
    assert!(stage.proxy.pseudo("show pins").is_empty());
    let mut others: Vec<Connection> = (0..6).map(|_| stage.client()).collect();
    for other in &mut others {
        other.query("listen c").unwrap();
    }
    wait_for("no more than a few servers", 5 * SECOND, || {
        match stage.servers_of_app() {
            0..=4 => Ok(()),
            more => Err(more.to_string()),
        }
    });
}

#[test]
fn nothing_is_heard_inside_a_transaction_and_everything_behind_it() {
    let stage = stage("listen-transaction", "transaction");
    let (mut listener, mut other) = (stage.client(), stage.client());
    listener.query("listen c").unwrap();
    for end in ["commit", "rollback"] {
        listener.query("begin").unwrap();
        listener.query("select 1").unwrap();
        other.query("notify c, '1'").unwrap();
        other.query("notify c, '2'").unwrap();
        hears_nothing(&mut listener);
        listener.query(end).unwrap();
        assert_eq!(
            [heard(&mut listener).2, heard(&mut listener).2],
            ["1", "2"],
            "{end}"
        );
        hears_nothing(&mut listener);
    }
}

#[test]
fn notifications_pass_a_switch_of_the_transaction_mode_listener_to_other_statements() {
    let stage = stage("listen-busy", "transaction");
    let mut listener = stage.client();
    listener.query("listen c").unwrap();
    for n in 0..200 {
        stage.direct(&format!("notify c, '{n}'"));
        // Whatever it does, it hears it, between its statements.
        let mut got = None;
        let sql = [
            "select 1",
            "select pg_backend_pid()",
            "set work_mem = '5MB'",
            "select count(*) from pg_class",
        ][n % 4];
        listener.send(&encode::query(sql.as_bytes())).unwrap();
        let mut ended = false;
        while got.is_none() || !ended {
            let frame = listener.read().unwrap();
            match frame.tag {
                b'A' => got = Some(note(&frame).2),
                b'Z' => ended = true,
                b'E' => panic!("{sql}"),
                _ => {}
            }
        }
        assert_eq!(got.unwrap(), n.to_string());
    }
}

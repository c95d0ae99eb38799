//! Hostile clients and servers: an SQLSTATE or a close within a second, bounded memory, nobody else touched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use pgstmtpool_tests::wire::{Connection, WireError, encode};
use pgstmtpool_tests::{
    Cluster, Manifest, Proxy, Random, Relay, RelayMode, Stage, World, resident_bytes, wait_for, wait_until,
};

fn stage(name: &str) -> Stage {
    Stage::start(name, |m| m.set("timeouts", "{login: 1s, queryWait: 5s}"))
}

/// Sends bytes on a fresh socket and waits for an error or a close.
fn answer(stage: &Stage, bytes: &[u8]) -> (String, Duration) {
    let mut attacker = Connection::dial(&stage.proxy.tcp()).unwrap();
    attacker.set_timeout(Duration::from_secs(5));
    let started = Instant::now();
    let _ = attacker.send(bytes);
    let code = match attacker.read_to_close() {
        Ok((error, _)) => error.map_or("closed".to_owned(), |e| e.code().to_owned()),
        Err(WireError::Timeout) => "no answer".to_owned(),
        Err(other) => other.to_string(),
    };
    (code, started.elapsed())
}

fn lengths(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], rest].concat()
}

#[test]
fn bad_startup_packets_are_answered_within_a_second() {
    let stage = stage("hostile-startup");
    let v3 = 0x0003_0000_u32.to_be_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("length 0", lengths(0, &[])),
        ("length 3", lengths(3, &[])),
        ("length 4", lengths(4, &[])),
        ("length 7", lengths(7, &[0, 3, 0])),
        ("a gigabyte", lengths(0x4000_0000, &[0; 100])),
        ("4 gigabytes", lengths(u32::MAX, &[0; 100])),
        ("10,001 bytes", lengths(10_001, &[0; 9997])),
        ("no user", encode::startup(0x0003_0000, &[("database", "app")])),
        ("empty user", encode::startup(0x0003_0000, &[("user", "")])),
        ("no terminator", lengths(13, &[&v3[..], b"user\0"].concat())),
        ("no value", lengths(14, &[&v3[..], b"user\0\0"].concat())),
        (
            "garbage parameters",
            lengths(108, &[&v3[..], &[0xff; 100]].concat()),
        ),
        ("protocol 2", encode::startup(0x0002_0000, &[("user", "app")])),
        ("protocol 1", encode::startup(0x0001_0000, &[("user", "app")])),
        ("protocol 4", encode::startup(0x0004_0000, &[("user", "app")])),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "a TLS hello without asking",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("a password first", encode::password(b"x")),
        ("a query first", encode::query(b"select 1")),
        (
            "a long user",
            encode::startup(0x0003_0000, &[("user", &"u".repeat(9000)), ("database", "app")]),
        ),
        (
            "a long database",
            encode::startup(0x0003_0000, &[("user", "app"), ("database", &"d".repeat(9000))]),
        ),
        (
            "replication",
            encode::startup(0x0003_0000, &[("user", "app"), ("replication", "true")]),
        ),
        (
            "a short cancel",
            lengths(12, &80_877_102_u32.to_be_bytes().repeat(2)),
        ),
        ("a cancel of nobody", encode::cancel(1, &[1, 2, 3, 4])),
        (
            "SSL twice",
            [
                encode::ssl_request(),
                encode::ssl_request(),
                encode::ssl_request(),
            ]
            .concat(),
        ),
        ("a special code", lengths(8, &80_877_199_u32.to_be_bytes())),
    ];
    for (name, bytes) in cases {
        let (code, taken) = answer(&stage, &bytes);
        assert_ne!(code, "no answer", "{name}");
        // What is merely incomplete is waited for until the login timeout, here a second.
        assert!(
            taken < Duration::from_millis(2500),
            "{name}: {taken:?} for {code}"
        );
        assert_ne!(code, "00000", "{name}");
    }
    assert_eq!(stage.client().value("select 1").unwrap(), "1");
}

#[test]
fn gss_and_tls_requests_are_answered_with_n_where_there_is_none() {
    let stage = stage("hostile-n");
    let mut client = Connection::dial(&stage.proxy.tcp()).unwrap();
    client.send(&encode::gss_request()).unwrap();
    assert_eq!(client.read_byte().unwrap(), b'N');
    client.send(&encode::ssl_request()).unwrap();
    assert_eq!(client.read_byte().unwrap(), b'N');
    client
        .send(&encode::startup(
            0x0003_0000,
            &[("user", "app"), ("database", "app")],
        ))
        .unwrap();
    client.login(None).unwrap();
    assert_eq!(client.value("select 1").unwrap(), "1");
}

#[test]
fn a_newer_minor_version_is_negotiated() {
    let stage = stage("hostile-minor");
    for (version, options) in [(0x0003_0002_u32, false), (0x0003_0063, true)] {
        let mut client = Connection::dial(&stage.proxy.tcp()).unwrap();
        let mut parameters = vec![("user", "app"), ("database", "app")];
        if options {
            parameters.push(("_pq_.unheard_of", "1"));
        }
        client.send(&encode::startup(version, &parameters)).unwrap();
        client.login(None).unwrap();
        assert_eq!(client.value("select 1").unwrap(), "1");
        if version == 0x0003_0002 {
            assert!(client.key.len() > 4, "3.2 has long keys: {}", client.key.len());
        }
    }
}

/// After a good login.
#[test]
fn bad_messages_are_answered_within_a_second() {
    let stage = stage("hostile-messages");
    let tagged = |tag: u8, length: u32, rest: &[u8]| [&[tag][..], &length.to_be_bytes(), rest].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an unknown type", tagged(b'z', 4, &[])),
        ("type 0", vec![0; 64]),
        ("length 0", tagged(b'Q', 0, &[])),
        ("length 3", tagged(b'Q', 3, &[])),
        ("4 gigabytes", tagged(b'Q', u32::MAX, b"select 1")),
        ("2 gigabytes", tagged(b'P', 0x7fff_ffff, b"x")),
        ("a long Close", tagged(b'C', 10_005, &[b'S'; 10_001])),
        ("a long Sync", tagged(b'S', 20_000, &[0; 19_996])),
        ("a backend message", tagged(b'Z', 5, b"I")),
        ("a password after login", encode::password(b"x")),
        ("random", Random::seeded(7).bytes(5000)),
    ];
    for (name, bytes) in cases {
        let mut attacker = stage.client();
        attacker.set_timeout(Duration::from_secs(4));
        attacker.query("select 1").unwrap();
        let started = Instant::now();
        let _ = attacker.send(&bytes);
        let result = attacker.read_to_close();
        assert!(result.is_ok(), "{name}: neither an answer nor a close");
        assert!(
            started.elapsed() < Duration::from_millis(2500),
            "{name}: {:?}",
            started.elapsed()
        );
        if let Ok((Some(error), _)) = result {
            assert!(error.is_fatal() || error.code() == "08P01", "{name}: {error}");
        }
    }
    assert_eq!(stage.client().value("select 1").unwrap(), "1");
}

/// What PostgreSQL answers with an error and goes on, so must we.
#[test]
fn malformed_but_framed_messages_are_errors_and_the_session_goes_on() {
    let stage = stage("hostile-framed");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a Query without terminator", encode::frame(b'Q', b"select 1")),
        ("an empty Query body", encode::frame(b'Q', b"")),
        (
            "a Parse with half a list",
            [encode::frame(b'P', b"\0select 1\0\0\x05\0\0"), encode::sync()].concat(),
        ),
        (
            "a Bind with a negative count",
            [encode::frame(b'B', b"\0\0\xff\xff"), encode::sync()].concat(),
        ),
        (
            "a Bind with a huge value",
            [
                encode::frame(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
                encode::sync(),
            ]
            .concat(),
        ),
        (
            "a Describe of what",
            [encode::frame(b'D', b"X\0"), encode::sync()].concat(),
        ),
        (
            "an empty Describe",
            [encode::frame(b'D', b""), encode::sync()].concat(),
        ),
        (
            "an Execute without rows",
            [encode::frame(b'E', b"\0"), encode::sync()].concat(),
        ),
    ];
    for (name, bytes) in cases {
        let (mut direct, mut client) = (stage.cluster.master().connect("app"), stage.client());
        let outcome = |connection: &mut Connection| {
            connection.set_timeout(Duration::from_secs(3));
            connection.send(&bytes).unwrap();
            let first = connection.collect().map(|_| ()).map_err(|e| e.code().to_owned());
            (
                first,
                connection.value("select 9").map_err(|e| e.code().to_owned()),
            )
        };
        let (right, got) = (outcome(&mut direct), outcome(&mut client));
        assert_eq!(got.0, right.0, "{name}");
        if right.1.is_ok() {
            assert_eq!(got.1, right.1, "{name}: the session");
        }
    }
}

#[test]
fn random_bytes_never_stop_the_proxy_nor_fill_its_memory() {
    let stage = stage("hostile-random");
    let before = resident_bytes(stage.proxy.process.pid());
    let mut random = Random::of_test(3);
    for n in 0..300 {
        let count = usize::try_from(random.below(3000)).unwrap();
        let bytes = random.bytes(count);
        let mut attacker = Connection::dial(&stage.proxy.tcp()).unwrap();
        if n % 2 == 0 {
            attacker
                .send(&encode::startup(
                    0x0003_0000,
                    &[("user", "app"), ("database", "app")],
                ))
                .unwrap();
            attacker.login(None).unwrap();
        }
        let _ = attacker.send(&bytes);
        if n % 3 == 0 {
            attacker.set_timeout(Duration::from_millis(5));
            let _ = attacker.read_to_close();
        }
    }
    assert_eq!(stage.client().value("select 1").unwrap(), "1");
    std::thread::sleep(Duration::from_millis(1500));
    let grown = resident_bytes(stage.proxy.process.pid()).saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "grew by {grown}");
    stage.wait_servers_clean(Duration::from_secs(10));
}

#[test]
fn a_thousand_silent_sockets_keep_nobody_out() {
    let stage = stage("hostile-silent");
    let silent: Vec<Connection> = (0..500)
        .map(|_| Connection::dial(&stage.proxy.tcp()).unwrap())
        .collect();
    let started = Instant::now();
    assert_eq!(stage.client().value("select 1").unwrap(), "1");
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(silent);
}

/// The server turns bad after the proxy has come to trust it. `workers`, `threads`: of the proxy.
fn behind_relay(name: &str, workers: &str, threads: &str) -> (std::sync::Arc<World>, Cluster, Relay, Proxy) {
    let world = std::sync::Arc::new(World::new(name));
    let cluster = Cluster::single(&world);
    cluster.master().sql("create role app login");
    let relay = Relay::to(cluster.master().port);
    let line = format!("{{name: pg-0, host: 127.0.0.1, port: {}}}", relay.port);
    let manifest = Manifest::of(&cluster).set("master", &line);
    let manifest = manifest
        .set("workers", workers)
        .set("proxy.threads", threads)
        .set("timeouts", "{queryWait: 2s}");
    let proxy = Proxy::start(&world, &manifest.write());
    (world, cluster, relay, proxy)
}

#[test]
fn nonsense_from_a_server_is_an_error_for_its_client_and_recovers_with_the_server() {
    let (_world, _cluster, relay, proxy) = behind_relay("hostile-server", "{connectTimeout: 1s}", "0");
    let mut client = proxy.connect("app", "postgres");
    client.query("select 1").unwrap();
    for mode in [RelayMode::Garbage, RelayMode::Closed] {
        relay.set(mode);
        let started = Instant::now();
        let mut doomed = proxy.connect("app", "postgres");
        let error = doomed.query("select 1").unwrap_err();
        assert!(
            started.elapsed() < Duration::from_secs(6),
            "{mode:?}: {:?} for {error}",
            started.elapsed()
        );
        relay.set(RelayMode::Pass);
        wait_for("the proxy to serve again", Duration::from_secs(20), || {
            let mut client = proxy.try_connect("app", "postgres").map_err(|e| e.to_string())?;
            client.query("select 1").map_err(|e| e.to_string())
        });
    }
}

#[test]
fn a_silent_server_is_reported_within_the_time_limits() {
    let (_world, _cluster, relay, proxy) = behind_relay("hostile-mute", "{connectTimeout: 1s}", "0");
    proxy.connect("app", "postgres").query("select 1").unwrap();
    let mut client = proxy.connect("app", "postgres");
    relay.set(RelayMode::Silent);
    let started = Instant::now();
    // Cancelled by the client, as psql would after some patience: the session must come back.
    client.send(&encode::query(b"select 1")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    client.cancel(&proxy.tcp()).unwrap();
    client.set_timeout(Duration::from_secs(15));
    let _ = client.collect();
    assert!(started.elapsed() < Duration::from_secs(15));
    relay.set(RelayMode::Pass);
    wait_for("the proxy to serve again", Duration::from_secs(30), || {
        let mut client = proxy.try_connect("app", "postgres").map_err(|e| e.to_string())?;
        client.set_timeout(Duration::from_secs(3));
        client.query("select 1").map_err(|e| e.to_string())
    });
}

#[test]
fn a_login_does_not_wait_for_a_connection_that_hangs_and_is_of_no_use_to_it() {
    let (_world, _cluster, relay, proxy) = behind_relay("hostile-hung", "{connectTimeout: 30s}", "1");
    let mut holder = proxy.connect("app", "postgres");
    holder.query("begin").unwrap();
    holder.query("create temporary table held ()").unwrap();
    let connecting = || {
        let pools = proxy.pseudo("show pools");
        pools
            .iter()
            .any(|pool| pool[1].as_deref() == Some("app") && pool[11].as_deref() != Some("0"))
    };
    // For a while: the proxy reads the catalog when the first client has come, and opens a worker in place of the one it takes for it.
    let mut calm = Instant::now();
    let idle = wait_for(
        "nobody but the holder has a worker",
        Duration::from_secs(10),
        || {
            let servers = proxy.pseudo("show servers");
            let leased = servers
                .iter()
                .filter(|server| server[4].as_deref() == Some("leased"));
            if leased.count() != 1 || servers.len() < 2 || connecting() {
                calm = Instant::now();
            }
            (calm.elapsed() >= Duration::from_millis(500))
                .then(|| servers.len() - 1)
                .ok_or_else(|| format!("{servers:?}"))
        },
    );
    relay.set(RelayMode::Silent);
    // They take the workers there are, and another is opened for who comes next: that connection says nothing.
    let mut others: Vec<Connection> = (0..idle).map(|_| proxy.connect("app", "postgres")).collect();
    for other in &mut others {
        other.send(&encode::query(b"begin; select 1")).unwrap();
    }
    wait_until("a connection in the making", Duration::from_secs(5), connecting);
    // What it says is to be swallowed, not to be found by a relay that passes it on.
    std::thread::sleep(Duration::from_millis(300));
    relay.set(RelayMode::Pass);
    let started = Instant::now();
    let parameters = [
        ("user", "app"),
        ("database", "postgres"),
        ("TimeZone", "Asia/Tokyo"),
    ];
    let mut late = Connection::open_with(&proxy.tcp(), &parameters, None).unwrap();
    assert_eq!(late.value("show timezone").unwrap(), "Asia/Tokyo");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(connecting(), "it still hangs");
}

/// The proxy has questions of its own behind some requests, and ReadyForQuery waits for them. A server that is gone by then must not
/// be waited for, and every request is answered to its end, or the connection ends.
#[test]
fn a_server_that_dies_right_behind_its_answer_is_missed_at_once() {
    let (_world, _cluster, relay, proxy) = behind_relay("hostile-goodbye", "{connectTimeout: 5s}", "0");
    let mut died = 0;
    let requests = requests();
    for ((what, bytes, ends), answer) in requests.iter().flat_map(|one| (1..=6).map(move |n| (one, n))) {
        let mut client = proxy.connect("app", "postgres");
        client.query("set app.tenant = 'before'; listen other").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        client.set_timeout(Duration::from_secs(8));
        relay.end_behind(answer);
        client.send(bytes).unwrap();
        let told = (0..=*ends).try_for_each(|n| {
            if n == *ends {
                client.send(&encode::query(b"select 1"))?;
            }
            let outline = client.outline()?;
            died += usize::from(outline.iter().any(|said| said == "08006"));
            Ok(())
        });
        relay.end_behind(0);
        match told {
            Ok(()) => {}
            Err(WireError::Closed | WireError::Io(_)) => died += 1,
            Err(error) => panic!("{what}, answer {answer}: {error}"),
        }
    }
    assert!(died > requests.len(), "{died} died");
}

/// Requests by all ways of the protocol: what they are, their messages, how many `ReadyForQuery` answer them.
fn requests() -> Vec<(String, Vec<u8>, usize)> {
    let statements = [
        "set app.tenant = 'a'",
        "create temporary table gone ()",
        "select pg_advisory_lock(1)",
        "begin; listen gone; commit",
        "begin; set local app.tenant = 'b'",
        "insert into nowhere values (1)",
        "notify other",
        "unlisten *",
        "discard all",
        "set role postgres",
        "prepare p as select 1; execute p",
        "copy (select 1) to stdout",
        "begin; declare c cursor with hold for select 1; commit",
        "create table if not exists made ()",
    ];
    let mut requests: Vec<_> = statements
        .iter()
        .map(|sql| (format!("query: {sql}"), encode::query(sql.as_bytes()), 1))
        .collect();
    let parse = |name: &[u8], sql: &str| encode::parse(name, sql.as_bytes(), &[]);
    let run = |name: &[u8]| {
        [
            encode::bind(b"", name, &[], &[], &[]),
            encode::describe(b'P', b""),
            encode::execute(b"", 0),
        ]
        .concat()
    };
    let (flush, sync) = (encode::frame(b'H', &[]), encode::sync());
    for sql in statements.iter().filter(|sql| !sql.contains(';')) {
        let batch = [parse(b"", sql), run(b""), sync.clone()].concat();
        requests.push((format!("batch: {sql}"), batch, 1));
        let flushed = [
            parse(b"s", sql),
            flush.clone(),
            run(b"s"),
            flush.clone(),
            sync.clone(),
        ]
        .concat();
        requests.push((format!("flushed batch: {sql}"), flushed, 1));
    }
    let two = [
        parse(b"a", "set app.tenant = 'c'"),
        run(b"a"),
        parse(b"b", "select 1"),
        run(b"b"),
    ]
    .concat();
    requests.push(("two in a batch".into(), [two.clone(), sync.clone()].concat(), 1));
    let pipeline = [
        two.clone(),
        sync.clone(),
        run(b"a"),
        sync.clone(),
        run(b"b"),
        sync,
    ]
    .concat();
    requests.push(("a pipeline".into(), pipeline, 3));
    let queries = ["begin", "select 1", "insert into nowhere values (1)", "rollback"];
    let queries: Vec<u8> = queries
        .iter()
        .flat_map(|sql| encode::query(sql.as_bytes()))
        .collect();
    requests.push(("queries sent ahead".into(), queries, 4));
    requests
}

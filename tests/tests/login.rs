//! Who may log in, how, and what the others are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use pgnet::auth::scram::Verifier;
use pgstmtpool_tests::wire::{Connection, DbError, WireError, encode};
use pgstmtpool_tests::{Stage, Stops, psql, wait_for};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

const HBA: &[&str] = &[
    "host all banned all reject",
    "host all trusted 127.0.0.1/32 trust",
    "hostssl all plain all password",
    "host postgres nobody all scram-sha-256",
    "host app all all scram-sha-256",
    "host postgres,pseudo postgres all scram-sha-256",
];

/// The server asks for SCRAM by TCP, too: the proxy has to log in with what it learns from its clients.
fn stage(name: &str) -> Stage {
    let stage = Stage::with(
        name,
        pgstmtpool_tests::ClusterBuilder::scram,
        |m| {
            m.hba(HBA)
                .users(&[("listed", "secret of listed"), ("trusted", "t")])
                .set("auth.cacheFor", "1s")
        },
        |proxy| proxy,
    );
    for (user, password) in [
        ("listed", "secret of listed"),
        ("banned", "x"),
        ("plain", "clear"),
        ("trusted", "t"),
    ] {
        stage.direct(&format!("create role {user} login password '{password}'"));
    }
    stage
}

fn login(stage: &Stage, user: &str, database: &str, password: &str) -> Result<Connection, WireError> {
    Connection::open_with(
        &stage.proxy.tcp(),
        &[("user", user), ("database", database)],
        Some(password),
    )
}

/// The fatal error of a refused login.
fn refused(result: Result<Connection, WireError>) -> DbError {
    match result {
        Err(WireError::Db(error)) if error.is_fatal() => error,
        Err(other) => panic!("not a fatal error: {other}"),
        Ok(_) => panic!("was let in"),
    }
}

#[test]
fn a_user_of_a_secret_and_a_user_of_the_master_log_in_by_scram() {
    let stage = stage("login-scram");
    for (user, password) in [("listed", "secret of listed"), ("app", "app")] {
        for _ in 0..3 {
            let mut client = login(&stage, user, "app", password).unwrap();
            assert_eq!(client.value("select current_user").unwrap(), user);
        }
    }
}

#[test]
fn a_verifier_in_a_secret_is_enough_for_both_sides() {
    let stage = stage("login-verifier");
    let server = stage.direct("select rolpassword from pg_authid where rolname = 'app'");
    let mut stage = stage;
    stage.change(|m| m.users(&[("app", &server)]).set("auth.authQuery", "false"));
    wait_for("the new secret to be used", Duration::from_secs(10), || {
        let mut client = login(&stage, "app", "app", "app").map_err(|e| e.to_string())?;
        client.value("select current_user").map_err(|e| e.to_string())
    });
    // Another verifier of the same password lets the client in, but its ClientKey does not open the server.
    let other = Verifier::generate("app", b"0123456789abcdef", 4096).to_string();
    stage.change(|m| m.users(&[("app", &other)]));
}

#[test]
fn wrong_password_and_unknown_user_are_28p01_and_look_alike() {
    let stage = stage("login-wrong");
    let wrong = refused(login(&stage, "app", "app", "wrong"));
    let unknown = refused(login(&stage, "ghost", "app", "wrong"));
    assert_eq!((wrong.code(), unknown.code()), ("28P01", "28P01"));
    assert_eq!(
        wrong.message().replace("app", "X"),
        unknown.message().replace("ghost", "X")
    );
    assert_eq!(wrong.message(), "password authentication failed for user \"app\"");
    assert_eq!(
        refused(login(&stage, "listed", "app", "secret of app")).code(),
        "28P01"
    );
    assert_eq!(refused(login(&stage, "app", "app", "")).code(), "28P01");
}

#[test]
fn an_unknown_database_is_3d000_after_the_password_and_not_before() {
    let stage = stage("login-database");
    let mut with = stage;
    with.change(|m| m.hba(&["host all all all scram-sha-256"]));
    wait_for(
        "the rules to be read again",
        Duration::from_secs(10),
        || match login(&with, "app", "nosuch", "app") {
            Err(WireError::Db(error)) if error.code() == "3D000" => Ok(()),
            Err(other) => Err(other.to_string()),
            Ok(mut client) => match client.query("select 1") {
                Err(error) if error.code() == "3D000" => Ok(()),
                other => Err(format!("{other:?}")),
            },
        },
    );
    assert_eq!(refused(login(&with, "app", "nosuch", "wrong")).code(), "28P01");
}

#[test]
fn rules_are_kept_first_match_wins_and_no_match_is_28000() {
    let stage = stage("login-rules");
    assert_eq!(refused(login(&stage, "banned", "app", "x")).code(), "28000");
    assert_eq!(refused(login(&stage, "app", "postgres", "app")).code(), "28000");
    // Without TLS the password rule does not match, the SCRAM rule does.
    login(&stage, "plain", "app", "clear").unwrap();
    assert_eq!(refused(login(&stage, "plain", "app", "wrong")).code(), "28P01");
    login(&stage, "trusted", "app", "").unwrap();
}

#[test]
fn a_password_that_is_no_longer_valid_is_refused() {
    let stage = stage("login-expired");
    stage.direct("create role old login password 'old' valid until '2001-01-01'");
    stage.direct("create role bare login");
    stage.direct("create role nologin nologin password 'x'");
    assert_eq!(refused(login(&stage, "old", "app", "old")).code(), "28P01");
    assert_eq!(refused(login(&stage, "bare", "app", "")).code(), "28P01");
    assert!(["28P01", "28000"].contains(&refused(login(&stage, "nologin", "app", "x")).code()));
}

#[test]
fn a_changed_password_counts_within_the_cache_time() {
    let stage = stage("login-changed");
    login(&stage, "app", "app", "app")
        .unwrap()
        .query("select 1")
        .unwrap();
    stage.direct("alter role app password 'new'");
    wait_for("the new password to be taken", Duration::from_secs(10), || {
        let mut client = login(&stage, "app", "app", "new").map_err(|e| e.to_string())?;
        client.query("select 1").map_err(|e| e.to_string())
    });
    wait_for(
        "the old password to be refused",
        Duration::from_secs(10),
        || match login(&stage, "app", "app", "app") {
            Err(_) => Ok(()),
            Ok(_) => Err("was let in".to_owned()),
        },
    );
}

#[test]
fn the_parameters_of_a_startup_packet_do_not_reach_the_lookups_of_the_proxy() {
    let stage = stage("login-lookup");
    stage.direct("create schema evil authorization app");
    stage.direct("create function evil.lower(text) returns text language sql as $$ select 'hacked' $$");
    let parameters = [
        ("user", "app"),
        ("database", "app"),
        ("search_path", "evil, pg_catalog"),
        ("options", "-csearch_path=evil"),
    ];
    let mut client = Connection::open_with(&stage.proxy.tcp(), &parameters, Some("app")).unwrap();
    assert_eq!(client.value("select current_user").unwrap(), "app");
}

#[test]
fn many_logins_at_once_are_served() {
    let stage = stage("login-many");
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    login(&stage, "app", "app", "app")
                        .unwrap()
                        .query("select 1")
                        .unwrap();
                }
            });
        }
    });
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

/// A certificate for `localhost` and the authority that made it, as PEM.
fn certificates(common_name: &str) -> (String, String, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "test authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    own.distinguished_name.push(DnType::CommonName, common_name);
    let key = KeyPair::generate().unwrap();
    let certificate = own.signed_by(&key, &authority).unwrap();
    (authority.pem(), certificate.pem(), key.serialize_pem())
}

fn tls_stage(name: &str, mode: &str) -> (Stage, std::path::PathBuf) {
    let (authority, certificate, key) = certificates("localhost");
    let stage = Stage::start(name, |m| {
        let m = m.secret(
            "certs",
            &[
                ("tls.crt", &certificate),
                ("tls.key", &key),
                ("ca.crt", &authority),
            ],
        );
        let m = m.set(
            "tls",
            &format!("{{mode: {mode}, certSecretRef: {{name: certs}}}}"),
        );
        m.users(&[("app", "app"), ("plain", "clear")]).hba(HBA)
    });
    let path = stage.world.write("authority.pem", &authority);
    (stage, path)
}

#[test]
fn psql_connects_with_tls_and_verifies_the_certificate() {
    let (stage, authority) = tls_stage("login-tls", "allow");
    let base = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=app password=app dbname=app",
        stage.proxy.port
    );
    for mode in ["disable", "prefer", "require", "verify-ca", "verify-full"] {
        let conninfo = format!("{base} sslmode={mode} sslrootcert={}", authority.display());
        let out = psql(&conninfo, &["\\conninfo", "select 7"]).expect_ok(mode);
        assert_eq!(
            out.out.contains("SSL connection"),
            mode != "disable",
            "{mode}: {}",
            out.out
        );
    }
    let (other, ..) = certificates("somebody");
    let other = stage.world.write("other.pem", &other);
    let out = psql(
        &format!("{base} sslmode=verify-full sslrootcert={}", other.display()),
        &["select 1"],
    );
    assert!(!out.ok, "a certificate of another authority must not do");
}

#[test]
fn where_tls_is_required_plain_connections_are_refused() {
    let (stage, _) = tls_stage("login-require", "require");
    assert_eq!(refused(login(&stage, "app", "app", "app")).code(), "28000");
}

#[test]
fn a_password_in_clear_is_taken_over_tls_only() {
    let (stage, _) = tls_stage("login-clear", "allow");
    let base = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=plain password=clear dbname=app",
        stage.proxy.port
    );
    stage.direct("create role plain login");
    psql(&format!("{base} sslmode=require"), &["select 1"]).expect_ok("password over TLS");
}

#[test]
fn a_new_certificate_is_used_without_a_restart() {
    let (mut stage, _) = tls_stage("login-reload", "allow");
    let (authority, certificate, key) = certificates("localhost");
    let path = stage.world.write("second.pem", &authority);
    stage.change(|m| {
        m.secret(
            "certs",
            &[
                ("tls.crt", &certificate),
                ("tls.key", &key),
                ("ca.crt", &authority),
            ],
        )
    });
    let base = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=app password=app dbname=app",
        stage.proxy.port
    );
    let conninfo = format!("{base} sslmode=verify-full sslrootcert={}", path.display());
    wait_for("the new certificate", Duration::from_secs(15), || {
        let out = psql(&conninfo, &["select 1"]);
        if out.ok { Ok(()) } else { Err(out.err) }
    });
}

#[test]
fn bytes_sent_before_the_handshake_are_an_error() {
    let (stage, _) = tls_stage("login-stuffing", "allow");
    let mut client = Connection::dial(&stage.proxy.tcp()).unwrap();
    let stuffed = [
        encode::ssl_request(),
        encode::startup(0x0003_0000, &[("user", "app")]),
    ]
    .concat();
    client.send(&stuffed).unwrap();
    let mut answer = Vec::new();
    while let Ok(byte) = client.read_byte() {
        answer.push(byte);
    }
    assert!(
        !answer.windows(4).any(|w| w == [0, 0, 0, 10]),
        "the stuffed packet was taken: {answer:?}"
    );
}

#[test]
fn the_connection_to_the_server_may_use_tls_too() {
    let (authority, certificate, key) = certificates("localhost");
    let world = std::sync::Arc::new(pgstmtpool_tests::World::new("login-server-tls"));
    let cluster = pgstmtpool_tests::Cluster::builder(&world)
        .hba("hostnossl all app all reject")
        .start();
    let server = cluster.master();
    for (name, text) in [("server.crt", &certificate), ("server.key", &key)] {
        let path = server.data.join(name);
        std::fs::write(&path, text).unwrap();
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!(
                "chown --reference={0} {1}; chmod 600 {1}",
                server.data.display(),
                path.display()
            ))
            .status()
            .unwrap();
        assert!(status.success());
    }
    server.sql("alter system set ssl = on");
    server.reload();
    server.sql("create role app login");
    let manifest = pgstmtpool_tests::Manifest::of(&cluster).secret("authority", &[("ca.crt", &authority)]);
    let line = format!("{{name: pg-0, host: localhost, port: {}}}", server.port);
    let manifest = manifest.set("master", &line);
    let path = manifest
        .set("serverTls", "{mode: verify-full, caSecretRef: {name: authority}}")
        .write();
    let proxy = pgstmtpool_tests::Proxy::start(&world, &path);
    let mut client = proxy.connect("app", "postgres");
    assert_eq!(
        client
            .value("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            .unwrap(),
        "t"
    );
}

/// Clients keep every worker busy and a queue behind each of them, with reads that share and with writes that do not.
#[test]
fn a_login_like_no_other_goes_before_queued_statements() {
    let stage = Stage::start("login-queue", |m| {
        m.set("workers", "{minByClients: [2], max: 2}")
            .set("timeouts.queryWait", "20s")
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stops(&stop);
        for number in 0..12 {
            let mut client = stage.client();
            let stop = &stop;
            scope.spawn(move || {
                let sql = if number % 3 == 0 {
                    "do $$ begin perform pg_sleep(0.02); end $$"
                } else {
                    "select pg_sleep(0.01)"
                };
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.query(sql).unwrap();
                }
            });
        }
        for zone in ["Asia/Tokyo", "Africa/Nairobi", "Europe/Paris", "America/Lima"] {
            let started = Instant::now();
            let parameters = [("user", "app"), ("database", "app"), ("TimeZone", zone)];
            let mut client = Connection::open_with(&stage.proxy.tcp(), &parameters, None).unwrap();
            assert!(
                started.elapsed() < Duration::from_secs(3),
                "{zone}: let in after {:?}",
                started.elapsed()
            );
            assert_eq!(client.parameter("TimeZone"), Some(zone));
            assert_eq!(client.value("show timezone").unwrap(), zone);
        }
    });
}

//! Every way to log in, against a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::time::Duration;

use pgnet::auth::{md5, scram};
use pgnet::client::{
    ChannelBinding, Config, ConnectError, Connection, Credential, Error, Fatal, Target, cancel, establish,
};
use pgnet::startup::ProtocolVersion;
use pgnet::tls::{ClientTls, SslMode};
use support::server;

fn password(text: &str) -> Credential {
    Credential::Password(text.to_owned())
}

async fn who(config: &Config) -> Result<String, Error> {
    let mut connection = Connection::connect(config).await?;
    let result = connection.query_one("select current_user").await?;
    connection.close().await;
    Ok(result.get(0, 0).unwrap_or_default().to_owned())
}

/// The code of the server's refusal.
async fn refusal(config: &Config) -> String {
    match establish(config).await {
        Err(ConnectError::Server(fields)) => fields.code.as_str().to_owned(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

#[tokio::test]
async fn each_method_lets_the_right_user_in() {
    let server = server();
    let table = [
        server.unix("trusted"),
        server.tcp("trusted", Credential::None),
        server.tcp("trusted", password("not asked for")),
        server.tcp("clear", password("clear secret")),
        server.tcp("md5er", password("md5 secret")),
        server.tcp(
            "md5er",
            Credential::from_secret(&md5::hash("md5er", "md5 secret")),
        ),
        server.tcp("scrammer", password("scram secret")),
        server.tls(SslMode::VerifyFull, "scrammer", password("scram secret")),
        server.tls(SslMode::Require, "clear", password("clear secret")),
        server.certified("certified", "certified"),
    ];
    for config in table {
        assert_eq!(who(&config).await.unwrap(), config.user, "{config:?}");
    }
}

#[tokio::test]
async fn each_refusal_has_the_servers_own_code() {
    let server = server();
    let unknown_database = Config {
        database: "nowhere".to_owned(),
        ..server.tcp("trusted", Credential::None)
    };
    let table = [
        (server.tcp("clear", password("wrong")), "28P01"),
        (server.tcp("md5er", password("wrong")), "28P01"),
        (server.tcp("scrammer", password("wrong")), "28P01"),
        (server.tcp("nobody", Credential::None), "28000"),
        (server.tcp("refused", Credential::None), "28000"),
        (server.certified("certified", "somebody else"), "28000"),
        (unknown_database, "3D000"),
    ];
    for (config, code) in table {
        assert_eq!(refusal(&config).await, code, "{config:?}");
    }
}

#[tokio::test]
async fn without_a_fitting_credential_nothing_is_sent() {
    let server = server();
    for user in ["clear", "md5er", "scrammer"] {
        let error = establish(&server.tcp(user, Credential::None)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Auth(_)), "{user} {error}");
    }
}

#[tokio::test]
async fn a_login_is_bound_to_its_tls_channel_when_that_is_required() {
    let server = server();
    let bind = |config| Config {
        channel_binding: ChannelBinding::Require,
        ..config
    };
    let over_tls = bind(server.tls(SslMode::VerifyCa, "scrammer", password("scram secret")));
    assert_eq!(who(&over_tls).await.unwrap(), "scrammer");
    for config in [
        bind(server.tcp("scrammer", password("scram secret"))),
        bind(server.tls(SslMode::Require, "trusted", password("x"))),
        bind(server.tls(SslMode::Require, "md5er", password("md5 secret"))),
    ] {
        assert!(
            matches!(establish(&config).await, Err(ConnectError::Auth(_))),
            "{config:?}"
        );
    }
}

#[tokio::test]
async fn the_keys_of_a_login_are_enough_for_the_next() {
    let server = server();
    let mut admin = server.connect().await;
    let stored = admin
        .query_params(
            "select rolpassword from pg_authid where rolname = $1",
            &[Some("scrammer")],
        )
        .await
        .unwrap();
    let verifier = scram::Verifier::parse(stored.get(0, 0).unwrap()).unwrap();
    assert!(
        verifier.matches("scram secret"),
        "PostgreSQL's verifier is understood"
    );

    // A client logs in to us by the verifier of the server; what it proved logs us in there.
    let client = scram::Client::from_password("scram secret").unwrap();
    let mut ours = scram::Server::new(verifier.clone(), None);
    let challenge = ours.first(client.mechanism(), &client.first()).unwrap();
    let finished = ours
        .last(client.challenge(&challenge).unwrap().run().message())
        .unwrap();
    let keys = scram::Keys {
        client_key: finished.client_key,
        server_key: verifier.server_key,
    };
    assert_eq!(
        who(&server.tcp("scrammer", Credential::Scram(keys.clone())))
            .await
            .unwrap(),
        "scrammer"
    );
    let bound = server.tls(SslMode::VerifyFull, "scrammer", Credential::Scram(keys.clone()));
    assert_eq!(
        who(&Config {
            channel_binding: ChannelBinding::Require,
            ..bound
        })
        .await
        .unwrap(),
        "scrammer"
    );

    let wrong = scram::Keys {
        server_key: [0; 32],
        ..keys
    };
    let error = establish(&server.tcp("scrammer", Credential::Scram(wrong)))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::Auth(_)),
        "a server with another verifier is not ours: {error}"
    );
}

#[tokio::test]
async fn a_verifier_of_ours_is_accepted_by_postgresql() {
    let server = server();
    let mut admin = server.connect().await;
    for (role, secret) in [
        ("made", "plain"),
        ("prepared", "I\u{ad}X \u{2168}\u{a0}ü"),
        ("prohibited", "a\u{7}ü\u{627}1"),
    ] {
        let verifier = scram::Verifier::generate_default(secret).unwrap().to_string();
        admin
            .query(&format!(
                "create role {role} login password {}",
                pgnet::quote::literal(&verifier)
            ))
            .await
            .unwrap();
        // Asked for in clear text, the password is prepared by the server and checked against what we made.
        assert_eq!(
            who(&server.tcp(role, password(secret))).await.unwrap(),
            role,
            "{secret:?}"
        );
        assert_eq!(refusal(&server.tcp(role, password("wrong"))).await, "28P01");
        admin.query(&format!("drop role {role}")).await.unwrap();
    }
}

/// The verifier is made by PostgreSQL and checked by us: both prepare the password alike, or neither does.
#[tokio::test]
async fn odd_passwords_are_prepared_as_postgresql_does() {
    let server = server();
    let mut admin = server.connect().await;
    for secret in [
        "I\u{ad}X",
        "\u{2168}",
        "a\u{a0}b",
        "\u{7}bell",
        "\u{627}1",
        "ünïcode",
        " ",
    ] {
        let stored = admin
            .query(&format!(
                "set password_encryption = 'scram-sha-256'; create role odd login password {};
                 select rolpassword from pg_authid where rolname = 'odd'; drop role odd",
                pgnet::quote::literal(secret)
            ))
            .await
            .unwrap();
        let verifier = scram::Verifier::parse(stored[2].get(0, 0).unwrap()).unwrap();
        assert!(verifier.matches(secret), "{secret:?}");
    }
}

#[tokio::test]
async fn each_sslmode_ends_up_encrypted_or_not_as_with_libpq() {
    let server = server();
    let encrypted = async |config: Config| {
        Connection::connect(&config)
            .await
            .map(|c| c.is_tls())
            .map_err(|e| e.to_string())
    };
    let tls = |mode, user| server.tls(mode, user, Credential::None);
    assert_eq!(
        encrypted(server.tcp("trusted", Credential::None)).await,
        Ok(false)
    );
    assert_eq!(encrypted(tls(SslMode::Allow, "trusted")).await, Ok(false));
    assert_eq!(
        encrypted(tls(SslMode::Allow, "tls_only")).await,
        Ok(true),
        "refused in the clear, tried again"
    );
    assert_eq!(encrypted(tls(SslMode::Prefer, "trusted")).await, Ok(true));
    assert_eq!(
        encrypted(tls(SslMode::Prefer, "plain_only")).await,
        Ok(false),
        "refused over TLS, tried again"
    );
    assert!(encrypted(tls(SslMode::Require, "plain_only")).await.is_err());
    assert!(encrypted(server.tcp("tls_only", Credential::None)).await.is_err());
    assert_eq!(encrypted(tls(SslMode::VerifyFull, "trusted")).await, Ok(true));

    let mut elsewhere = tls(SslMode::VerifyFull, "trusted");
    elsewhere.target.host = "127.0.0.2".to_owned();
    assert!(encrypted(elsewhere).await.is_err());

    let over_unix = Config {
        tls: ClientTls::new(SslMode::Require, None, None).unwrap(),
        ..server.unix("trusted")
    };
    assert_eq!(
        encrypted(over_unix).await,
        Ok(false),
        "TLS means nothing on a Unix socket"
    );
}

#[tokio::test]
async fn a_server_without_tls_is_refused_by_the_modes_that_need_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 8]).await.unwrap();
        socket.write_all(b"N").await.unwrap();
        socket.read(&mut [0; 1]).await.unwrap()
    };
    let tls = ClientTls::new(SslMode::Require, None, None).unwrap();
    let config = Config {
        tls,
        ..Config::new(Target::new("127.0.0.1", port), "joe", "")
    };
    let (error, sent) = tokio::join!(establish(&config), answer);
    assert!(matches!(error, Err(ConnectError::Tls(_))));
    assert_eq!(sent, 0, "not one byte in the clear");
}

#[tokio::test]
async fn the_server_says_who_it_is() {
    let server = server();
    let established = establish(&server.tcp("trusted", Credential::None)).await.unwrap();
    assert!(established.process_id > 0);
    assert!((4..=256).contains(&established.cancel_key.len()));
    assert!(established.buffered.is_empty());
    assert!(
        established
            .parameters
            .iter()
            .any(|(name, _)| name == "server_version")
    );

    let connection = server.connect().await;
    let version = connection.server_version_num().unwrap();
    assert!(version > 120_000);
    let expected = if version >= 180_000 {
        ProtocolVersion::V3_2
    } else {
        ProtocolVersion::V3_0
    };
    assert_eq!(
        connection.protocol(),
        expected,
        "asked for 3.2, taken down to what the server knows"
    );

    let old = Config {
        protocol: ProtocolVersion::V3_0,
        ..server.unix("postgres")
    };
    assert_eq!(establish(&old).await.unwrap().protocol, ProtocolVersion::V3_0);
}

#[tokio::test]
async fn a_cancel_has_taken_effect_when_it_returns() {
    let server = server();
    for config in [
        server.unix("trusted"),
        server.tcp("trusted", Credential::None),
        server.tls(SslMode::VerifyFull, "trusted", Credential::None),
    ] {
        let mut connection = Connection::connect(&config).await.unwrap();
        let token = connection.cancel_token();
        let mut admin = server.connect().await;
        let pid = connection.process_id().to_string();
        let stop = async {
            // Only once it runs: a cancel for an idle server does nothing.
            let sql = "select 1 from pg_stat_activity where pid = $1::int and state = 'active' and query like '%sleep%'";
            while admin
                .query_params(sql, &[Some(&pid)])
                .await
                .unwrap()
                .rows()
                .is_empty()
            {
                tokio::task::yield_now().await;
            }
            token.cancel(Duration::from_secs(5)).await.unwrap();
        };
        let (result, ()) = tokio::join!(connection.query("select pg_sleep(60)"), stop);
        assert_eq!(result.unwrap_err().sqlstate().as_str(), "57014");
        assert_eq!(
            connection.query_one("select 1").await.unwrap().get(0, 0),
            Some("1"),
            "and the connection goes on"
        );
    }
}

#[tokio::test]
async fn a_cancel_with_a_wrong_key_does_nothing_and_is_no_error() {
    let server = server();
    let mut connection = server.connect().await;
    let target = server.unix("postgres").target;
    let pid = connection.process_id();
    cancel(
        &target,
        &ClientTls::disabled(),
        pid,
        b"nope",
        Duration::from_secs(5),
    )
    .await
    .unwrap();
    assert!(connection.query("select 1").await.is_ok());
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let tcp = establish(&Config::new(Target::new("127.0.0.1", closed), "joe", "")).await;
    assert!(matches!(tcp, Err(ConnectError::Refused(_))));
    let unix = establish(&Config::new(Target::new("/nonexistent", 5432), "joe", "")).await;
    assert!(matches!(unix, Err(ConnectError::Refused(_))));
    let error = Connection::connect(&Config::new(Target::new("127.0.0.1", closed), "joe", ""))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        Error::Fatal(Fatal::Connect(ConnectError::Refused(_)))
    ));
}

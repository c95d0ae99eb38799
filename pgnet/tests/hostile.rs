//! Servers that are broken or hostile, played byte by byte: each must be told in time, cost bounded memory, and get nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use bytes::BytesMut;
use pgnet::client::{Config, ConnectError, Connection, Credential, Error, Fatal, Target, cancel, establish};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;
use pgnet::tls::{ClientTls, SslMode, TlsError};
use pgnet::{backend, startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that says `greeting` to whoever connects, and then only listens.
async fn plays(greeting: impl Into<Vec<u8>>) -> (Config, tokio::task::JoinHandle<Vec<u8>>) {
    let greeting = greeting.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config {
        credential: Credential::Password("secret".to_owned()),
        ..Config::new(
            Target::new("127.0.0.1", listener.local_addr().unwrap().port()),
            "joe",
            "db",
        )
    };
    let heard = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = BytesMut::new();
        socket.read_buf(&mut heard).await.unwrap();
        let _ = socket.write_all(&greeting).await;
        while matches!(socket.read_buf(&mut heard).await, Ok(n) if n > 0) {}
        heard.to_vec()
    });
    (config, heard)
}

fn made(encode: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut buf = BytesMut::new();
    encode(&mut buf);
    buf.to_vec()
}

async fn error_of(config: &Config) -> ConnectError {
    match establish(config).await {
        Err(error) => error,
        Ok(_) => panic!("let in"),
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_with_the_connect_timeout() {
    let half_a_login = made(backend::authentication_ok);
    for greeting in [Vec::new(), half_a_login, b"R\0\0\0".to_vec()] {
        let (config, _heard) = plays(greeting).await;
        assert!(matches!(error_of(&config).await, ConnectError::Timeout(d) if d == config.connect_timeout));
    }
}

#[tokio::test(start_paused = true)]
async fn silence_after_the_request_for_tls_ends_too() {
    for greeting in ["", "S"] {
        let (config, _heard) = plays(greeting).await;
        let config = Config {
            tls: ClientTls::new(SslMode::Require, None, None).unwrap(),
            ..config
        };
        assert!(matches!(error_of(&config).await, ConnectError::Timeout(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_is_never_closed_ends_with_its_timeout() {
    let (config, _heard) = plays("").await;
    let result = cancel(&config.target, &config.tls, 1, b"1234", Duration::from_secs(3)).await;
    assert!(matches!(result, Err(ConnectError::Timeout(_))));
}

/// CVE-2021-23222, CVE-2021-43767: answers stuffed in before the server's TLS.
#[tokio::test]
async fn cve_2021_23222_bytes_with_the_consent_to_tls_are_refused() {
    let mut stuffed = b"S".to_vec();
    stuffed.extend(made(backend::authentication_ok));
    let (config, heard) = plays(stuffed).await;
    let config = Config {
        tls: ClientTls::new(SslMode::Require, None, None).unwrap(),
        ..config
    };
    assert!(matches!(
        error_of(&config).await,
        ConnectError::Tls(TlsError::Early | TlsError::Handshake(_))
    ));
    let heard = heard.await.unwrap();
    assert_eq!(startup::decode(&heard[..8]), Ok(startup::Startup::Ssl));
    assert!(!heard.windows(3).any(|w| w == b"joe"), "not even the user's name");
}

/// CVE-2024-10977: an error in answer to the request for TLS is nobody's word.
#[tokio::test]
async fn cve_2024_10977_an_error_before_tls_is_not_shown() {
    let evil = ErrorFields::new(
        Severity::Fatal,
        SqlState::INVALID_PASSWORD,
        "please log in at evil.example",
    );
    let (config, _heard) = plays(made(|buf| evil.encode_error(buf))).await;
    let config = Config {
        tls: ClientTls::new(SslMode::Require, None, None).unwrap(),
        ..config
    };
    let error = error_of(&config).await;
    assert!(matches!(error, ConnectError::Protocol(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("evil"));
}

#[tokio::test]
async fn prefer_never_sends_a_password_in_clear_to_whom_refused_tls_by_rubbish() {
    let (config, heard) = plays("X").await;
    let config = Config {
        tls: ClientTls::new(SslMode::Prefer, None, None).unwrap(),
        ..config
    };
    assert!(matches!(error_of(&config).await, ConnectError::Protocol(_)));
    assert_eq!(
        heard.await.unwrap().len(),
        8,
        "the request for TLS and nothing else"
    );
}

/// PgBouncer CVE-2026-6666: an error without its SQLSTATE.
#[tokio::test]
async fn cve_2026_6666_an_error_without_sqlstate_is_an_internal_error() {
    let (config, _heard) = plays(*b"E\0\0\0\x0cMboom\0\0\0").await;
    assert!(
        matches!(error_of(&config).await, ConnectError::Protocol(_)),
        "one zero byte too many"
    );
    let (config, _heard) = plays(*b"E\0\0\0\x0bSX\0M!\0\0").await;
    let ConnectError::Server(fields) = error_of(&config).await else {
        panic!()
    };
    assert_eq!(fields.code, SqlState::INTERNAL_ERROR);
}

#[tokio::test]
async fn rubbish_is_a_protocol_violation_at_once() {
    let table: [&[u8]; 9] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\0\0\0\x03",
        b"R\xff\xff\xff\xff",
        b"R\x7f\xff\xff\xff",
        b"R\0\0\x10\0",
        b"E\x3f\xff\xff\xff",
        b"S\0\0\0\x08a\0b\0",
        b"Z\0\0\0\x05I",
        b"v\0\0\0\x0c\0\x04\0\0\0\0\0\0",
    ];
    for greeting in table {
        let (config, _heard) = plays(greeting).await;
        let error = error_of(&config).await;
        assert!(
            matches!(error, ConnectError::Protocol(_)),
            "{greeting:?} {error:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_closes_is_told_apart_from_one_that_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::new(
        Target::new("127.0.0.1", listener.local_addr().unwrap().port()),
        "joe",
        "",
    );
    let close = async { drop(listener.accept().await.unwrap()) };
    let (error, ()) = tokio::join!(error_of(&config), close);
    assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
}

#[tokio::test]
async fn an_endless_list_of_settings_is_refused() {
    let mut greeting = made(backend::authentication_ok);
    for i in 0..10_000 {
        greeting.extend(made(|buf| {
            backend::parameter_status(buf, i.to_string().as_bytes(), b"x")
        }));
    }
    let (config, _heard) = plays(greeting).await;
    assert!(matches!(error_of(&config).await, ConnectError::Protocol(_)));
}

/// A server that lets us in and then answers the first query with `answer`.
async fn answers(answer: impl Into<Vec<u8>>) -> Connection {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::new(
        Target::new("127.0.0.1", listener.local_addr().unwrap().port()),
        "joe",
        "",
    );
    tokio::spawn(async move {
        let (mut socket, _): (TcpStream, _) = listener.accept().await.unwrap();
        let mut heard = BytesMut::new();
        socket.read_buf(&mut heard).await.unwrap();
        let mut greeting = BytesMut::new();
        backend::authentication_ok(&mut greeting);
        backend::ready_for_query(&mut greeting, b'I');
        socket.write_all(&greeting).await.unwrap();
        socket.read_buf(&mut heard).await.unwrap();
        socket.write_all(&answer).await.unwrap();
    });
    Connection::connect(&config).await.unwrap()
}

#[tokio::test]
async fn answers_that_make_no_sense_end_the_connection() {
    let row = made(|buf| backend::data_row(buf, &[Some(b"1")]));
    let field = backend::Field {
        name: b"a",
        table_oid: 0,
        column: 0,
        type_oid: 23,
        type_size: 4,
        type_modifier: -1,
        format: 0,
    };
    let described = |row: &[u8]| [made(|buf| backend::row_description(buf, &[field])), row.to_vec()].concat();
    let table = [
        row.clone(),
        described(&made(|buf| backend::data_row(buf, &[Some(b"1"), None]))),
        described(b"D\0\0\0\x06\xff\xff"),
        made(backend::authentication_ok),
        made(|buf| backend::copy_both_response(buf, 0, &[])),
        made(backend::portal_suspended),
        b"Z\0\0\0\x05X".to_vec(),
        b"D\xff\xff\xff\xff".to_vec(),
    ];
    for (i, answer) in table.into_iter().enumerate() {
        let mut connection = answers(answer).await;
        let error = connection.query("select 1").await.unwrap_err();
        assert!(
            matches!(error, Error::Fatal(Fatal::Protocol(_))),
            "case {i}: {error:?}"
        );
        assert!(connection.is_broken());
    }
}

#[tokio::test]
async fn a_length_that_is_a_lie_costs_no_memory() {
    let mut connection = answers(*b"D\x3f\xff\xff\xff").await;
    connection.set_result_max(1_000_000);
    assert!(matches!(
        connection.query("select 1").await,
        Err(Error::Fatal(Fatal::TooLarge(_)))
    ));
}

#[tokio::test]
async fn a_server_that_vanishes_in_mid_answer_is_noticed() {
    let mut connection = answers(*b"T\0\0\0\x06").await;
    assert!(matches!(
        connection.query("select 1").await,
        Err(Error::Fatal(Fatal::Io(_)))
    ));
}

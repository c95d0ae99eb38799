use super::*;
use crate::client::Target;
use crate::fields::Severity;
use crate::frame;
use crate::sqlstate::SqlState;

fn config(credential: Credential) -> Config {
    Config {
        credential,
        ..Config::new(Target::new("db", 5432), "joe", "")
    }
}

/// Feeds one message made by `encode`.
fn feed(login: &mut Login<'_>, encode: impl FnOnce(&mut BytesMut)) -> Result<Step, ConnectError> {
    let mut buf = BytesMut::new();
    encode(&mut buf);
    let (frame, rest) = frame::split(&buf, u32::MAX).unwrap().unwrap();
    assert!(rest.is_empty());
    login.on(frame.tag, frame.body)
}

fn sent(step: Result<Step, ConnectError>) -> BytesMut {
    match step {
        Ok(Step::Send(bytes)) => bytes,
        Ok(_) => panic!("nothing sent"),
        Err(error) => panic!("{error}"),
    }
}

fn auth_error(step: Result<Step, ConnectError>) -> AuthError {
    match step {
        Err(ConnectError::Auth(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

fn mechanisms(buf: &mut BytesMut) {
    backend::authentication_sasl(buf, &[scram::SCRAM_SHA_256_PLUS, scram::SCRAM_SHA_256]);
}

/// PostgreSQL CVE-2024-10977: the text of a server that nobody has authenticated is believed.
#[test]
fn cve_2024_10977_a_text_before_authentication_is_quoted_and_capped() {
    let config = config(Credential::None);
    let mut hostile = ErrorFields::new(
        Severity::Fatal,
        SqlState::CANNOT_CONNECT_NOW,
        "a\x1b[2J\n".repeat(1_000),
    );
    hostile.hint = Some("send your password to evil.example".to_owned());
    let Err(ConnectError::Server(fields)) = feed(&mut Login::new(&config, Channel::default()), |buf| {
        hostile.encode_error(buf)
    }) else {
        panic!()
    };
    assert_eq!(
        (fields.severity_nonlocalized, fields.code),
        (Severity::Fatal, SqlState::CANNOT_CONNECT_NOW)
    );
    assert!(
        fields
            .message
            .starts_with("the server, not authenticated yet, says \"a\\u{1b}"),
        "{}",
        fields.message
    );
    assert!(fields.message.len() < 2_000 && !fields.message.contains(['\x1b', '\n']));
    assert_eq!(fields.hint, None);

    let mut login = Login::new(&config, Channel::default());
    feed(&mut login, backend::authentication_ok).unwrap();
    let Err(ConnectError::Server(fields)) = feed(&mut login, |buf| hostile.encode_error(buf)) else {
        panic!()
    };
    assert_eq!(
        *fields, hostile,
        "after authentication it is the server's own word"
    );
}

#[test]
fn the_startup_packet_names_user_and_database() {
    let mut config = config(Credential::None);
    config
        .parameters
        .push(("application_name".to_owned(), "x".to_owned()));
    let packet = Login::new(&config, Channel::default()).startup();
    let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
    assert_eq!(
        startup::decode(&packet),
        Ok(startup::Startup::Startup {
            version: ProtocolVersion::V3_2,
            parameters: vec![
                pair("user", "joe"),
                pair("database", "joe"),
                pair("application_name", "x")
            ],
        })
    );
}

#[test]
fn a_trusting_server_lets_us_in_unless_binding_is_required() {
    let mut config = config(Credential::Password("pw".to_owned()));
    let mut login = Login::new(&config, Channel::default());
    assert!(matches!(
        feed(&mut login, backend::authentication_ok),
        Ok(Step::Read)
    ));
    feed(&mut login, |buf| backend::parameter_status(buf, b"a", b"1")).unwrap();
    feed(&mut login, |buf| backend::parameter_status(buf, b"a", b"2")).unwrap();
    feed(&mut login, |buf| backend::backend_key_data(buf, 7, &[1; 32])).unwrap();
    assert!(matches!(
        feed(&mut login, |buf| backend::ready_for_query(buf, b'I')),
        Ok(Step::Ready)
    ));
    assert_eq!(
        login.parameters,
        [(Bytes::from_static(b"a"), Bytes::from_static(b"2"))]
    );
    assert_eq!((login.process_id, login.cancel_key.len()), (7, 32));

    config.channel_binding = ChannelBinding::Require;
    let bound = Channel {
        tls: true,
        protected: true,
        end_point: Some(vec![1]),
    };
    let refuse = |encode: fn(&mut BytesMut), channel: &Channel| {
        assert_eq!(
            auth_error(feed(&mut Login::new(&config, channel.clone()), encode)),
            AuthError::ChannelBinding
        );
    };
    refuse(backend::authentication_ok, &bound);
    refuse(backend::authentication_cleartext, &bound);
    refuse(
        |buf| backend::authentication_sasl(buf, &[scram::SCRAM_SHA_256]),
        &bound,
    );
    refuse(mechanisms, &Channel::default());
}

#[test]
fn a_password_in_clear_text_goes_only_where_nobody_listens() {
    let mut config = config(Credential::Password("pw".to_owned()));
    let ask = |config: &Config, protected| {
        feed(
            &mut Login::new(
                config,
                Channel {
                    tls: false,
                    protected,
                    end_point: None,
                },
            ),
            backend::authentication_cleartext,
        )
    };
    assert_eq!(&sent(ask(&config, true))[5..], b"pw\0");
    assert_eq!(auth_error(ask(&config, false)), AuthError::ClearText);
    config.clear_text = ClearText::Always;
    assert_eq!(&sent(ask(&config, false))[5..], b"pw\0");
    config.clear_text = ClearText::Never;
    assert_eq!(auth_error(ask(&config, true)), AuthError::ClearText);
}

#[test]
fn md5_is_answered_from_the_password_or_its_hash() {
    let ask = |credential| {
        let config = config(credential);
        feed(&mut Login::new(&config, Channel::default()), |buf| {
            backend::authentication_md5(buf, [1, 2, 3, 4])
        })
    };
    let hash = md5::hash("joe", "pw");
    let from_hash = sent(ask(Credential::from_secret(&hash)));
    assert_eq!(from_hash, sent(ask(Credential::from_secret("pw"))));
    assert_eq!(
        auth_error(ask(Credential::None)),
        AuthError::NoCredential("an md5 password")
    );
}

/// Drives both ends; the server may be swapped for a hostile one by `tamper`.
fn scram(
    config: &Config,
    end_point: Option<Vec<u8>>,
    tamper: impl Fn(&mut Vec<u8>),
) -> Result<bool, ConnectError> {
    let channel = Channel {
        tls: true,
        protected: true,
        end_point: end_point.clone(),
    };
    let mut login = Login::new(config, channel);
    let mut server = scram::Server::new(scram::Verifier::generate("pw", b"salt", 10), end_point);
    let first = match feed(&mut login, |buf| {
        backend::authentication_sasl(buf, server.mechanisms())
    })? {
        Step::Send(bytes) => bytes,
        _ => panic!(),
    };
    let initial = frontend::SaslInitial::decode(&first[5..]).unwrap();
    let mut challenge = server.first(initial.mechanism, initial.data.unwrap()).unwrap();
    tamper(&mut challenge);
    let Step::Derive(work) = feed(&mut login, |buf| {
        backend::authentication_sasl_continue(buf, &challenge)
    })?
    else {
        panic!()
    };
    let answer = login.derived(work.run());
    let mut last = server
        .last(&answer[5..])
        .map(|finished| finished.message)
        .unwrap_or_default();
    tamper(&mut last);
    feed(&mut login, |buf| backend::authentication_sasl_final(buf, &last))?;
    feed(&mut login, backend::authentication_ok)?;
    Ok(initial.mechanism == scram::SCRAM_SHA_256_PLUS)
}

#[test]
fn scram_binds_to_the_channel_where_there_is_one() {
    let mut config = config(Credential::Password("pw".to_owned()));
    assert!(!scram(&config, None, |_| ()).unwrap());
    assert!(scram(&config, Some(vec![9; 32]), |_| ()).unwrap());
    config.channel_binding = ChannelBinding::Require;
    assert!(scram(&config, Some(vec![9; 32]), |_| ()).unwrap());
    config.channel_binding = ChannelBinding::Disable;
    assert!(!scram(&config, Some(vec![9; 32]), |_| ()).unwrap());
}

#[test]
fn a_hostile_scram_server_is_refused() {
    let config = config(Credential::Password("pw".to_owned()));
    let refused = |tamper: fn(&mut Vec<u8>)| match scram(&config, None, tamper) {
        Err(ConnectError::Auth(AuthError::Scram(error))) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    };
    let rounds = refused(|data| {
        if data.starts_with(b"r=") {
            data.extend_from_slice(b"000000");
        }
    });
    assert_eq!(rounds, scram::ScramError::Iterations(10_000_000));
    let signature = refused(|data| {
        if data.starts_with(b"v=") {
            *data = b"v=AAAA".to_vec();
        }
    });
    assert_eq!(signature, scram::ScramError::ServerSignature);
}

#[test]
fn a_server_that_breaks_a_login_off_in_the_middle_is_not_believed() {
    let config = config(Credential::Password("pw".to_owned()));
    let mut login = Login::new(&config, Channel::default());
    sent(feed(&mut login, mechanisms));
    assert_eq!(
        auth_error(feed(&mut login, backend::authentication_ok)),
        AuthError::Unfinished
    );
}

#[test]
fn messages_out_of_place_are_refused() {
    type Encode = fn(&mut BytesMut);
    let before: [Encode; 6] = [
        |buf| backend::ready_for_query(buf, b'I'),
        |buf| backend::parameter_status(buf, b"a", b"b"),
        |buf| backend::backend_key_data(buf, 1, b"1234"),
        |buf| ErrorFields::default().encode_notice(buf),
        |buf| backend::authentication_sasl_final(buf, b"v=x"),
        |buf| backend::authentication_sasl_continue(buf, b"r=x"),
    ];
    let config = config(Credential::Password("pw".to_owned()));
    for (i, encode) in before.into_iter().enumerate() {
        let result = feed(&mut Login::new(&config, Channel::default()), encode);
        assert!(
            matches!(result, Err(ConnectError::Protocol(_) | ConnectError::Auth(_))),
            "case {i}"
        );
    }
    let after: [Encode; 4] = [
        backend::authentication_ok,
        |buf| backend::ready_for_query(buf, b'T'),
        |buf| backend::data_row(buf, &[]),
        |buf| backend::negotiate_protocol_version(buf, ProtocolVersion::V3_0, &[]),
    ];
    for (i, encode) in after.into_iter().enumerate() {
        let mut login = Login::new(&config, Channel::default());
        feed(&mut login, backend::authentication_ok).unwrap();
        assert!(
            matches!(feed(&mut login, encode), Err(ConnectError::Protocol(_))),
            "case {i}"
        );
    }
}

#[test]
fn an_older_version_is_taken_and_a_newer_one_refused() {
    let config = config(Credential::None);
    let negotiate = |version, names: &[&[u8]]| {
        let mut login = Login::new(&config, Channel::default());
        feed(&mut login, |buf| {
            backend::negotiate_protocol_version(buf, version, names)
        })
        .map(|_| login.protocol)
    };
    assert_eq!(
        negotiate(ProtocolVersion::V3_0, &[]).unwrap(),
        ProtocolVersion::V3_0
    );
    for version in [
        ProtocolVersion { major: 3, minor: 3 },
        ProtocolVersion { major: 2, minor: 0 },
    ] {
        assert!(negotiate(version, &[]).is_err(), "{version}");
    }
    assert!(negotiate(ProtocolVersion::V3_0, &[b"_pq_.never_asked"]).is_err());
}

#[test]
fn settings_are_bounded() {
    let config = config(Credential::None);
    let mut login = Login::new(&config, Channel::default());
    feed(&mut login, backend::authentication_ok).unwrap();
    let mut report = |i: usize| {
        feed(&mut login, |buf| {
            backend::parameter_status(buf, i.to_string().as_bytes(), b"")
        })
    };
    assert!((0..SETTINGS_MAX).all(|i| report(i).is_ok()));
    assert!(matches!(
        report(SETTINGS_MAX),
        Err(ConnectError::Protocol(ProtocolError::Settings))
    ));
}

#[test]
fn a_bearer_token_goes_out_over_tls_only() {
    let offer = |token: &str, tls| {
        let config = config(Credential::Bearer(token.to_owned()));
        let mut login = Login::new(
            &config,
            Channel {
                tls,
                protected: true,
                end_point: None,
            },
        );
        let step = feed(&mut login, |buf| {
            backend::authentication_sasl(buf, &[OAUTHBEARER])
        });
        (
            step.map(|step| sent(Ok(step))),
            feed(&mut login, backend::authentication_ok).is_ok(),
        )
    };
    let (message, is_in) = offer("abc.def", true);
    let initial = message.unwrap();
    let initial = frontend::SaslInitial::decode(&initial[5..]).unwrap();
    assert_eq!(initial.data, Some(&b"n,,\x01auth=Bearer abc.def\x01\x01"[..]));
    assert!(is_in);
    assert!(matches!(
        offer("abc", false).0,
        Err(ConnectError::Auth(AuthError::ClearText))
    ));
    for bad in ["", "a b", "a\x01auth=x"] {
        assert!(
            matches!(
                offer(bad, true).0,
                Err(ConnectError::Auth(AuthError::NoCredential(_)))
            ),
            "{bad:?}"
        );
    }
}

use super::*;

const SECRET: Key = [7; 32];

/// Runs a whole exchange; the error may come from either side.
fn exchange(client: Client, server: &mut Server) -> Result<Key, ScramError> {
    let challenge = server.first(client.mechanism(), &client.first())?;
    let proof = client.challenge(&challenge)?.run();
    let finished = server.last(proof.message())?;
    proof.verify(&finished.message)?;
    Ok(finished.client_key)
}

fn verifier(password: &str) -> Verifier {
    Verifier::generate(password, b"salt of sixteen.", 64)
}

/// The example of RFC 7677, section 3 (its user name stands in the message; ours never does, so the server's side is checked).
#[test]
fn the_exchange_of_rfc_7677_is_reproduced() {
    let salt = message::decode("W22ZaJ0SNY7soEsUEjb6gQ==", "").unwrap();
    let mut server = Server::new(Verifier::generate("pencil", &salt, 4096), None);
    let first = server
        .first_with(
            SCRAM_SHA_256,
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        )
        .unwrap();
    assert_eq!(
        String::from_utf8(first).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let finished = server
        .last(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
    assert_eq!(
        String::from_utf8(finished.message).unwrap(),
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    );
}

#[test]
fn the_right_password_logs_in_and_yields_its_key() {
    let verifier = verifier("pencil");
    let key = exchange(
        Client::from_password("pencil").unwrap(),
        &mut Server::new(verifier.clone(), None),
    )
    .unwrap();
    assert_eq!(sha256(&key), verifier.stored_key);

    let keys = Keys {
        client_key: key,
        server_key: verifier.server_key,
    };
    let client = Client::from_keys(keys).unwrap();
    assert_eq!(
        exchange(client, &mut Server::new(verifier, None)),
        Ok(key),
        "the key alone logs in elsewhere"
    );
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let wrong = exchange(
        Client::from_password("pencils").unwrap(),
        &mut Server::new(verifier("pencil"), None),
    );
    let unknown = exchange(
        Client::from_password("pencil").unwrap(),
        &mut Server::mock("joe", &SECRET, None),
    );
    assert_eq!(
        (wrong, unknown),
        (Err(ScramError::WrongPassword), Err(ScramError::WrongPassword))
    );

    let salt = |user| Verifier::mock(user, &SECRET).salt;
    assert_eq!(salt("joe"), salt("joe"), "asking twice tells nothing");
    assert_ne!(salt("joe"), salt("jim"));
}

/// A user who does not exist has no proof that succeeds, not even one made with the very verifier shown.
#[test]
fn cve_2015_6817_an_unknown_user_is_never_logged_in() {
    let mut server = Server::mock("joe", &SECRET, None);
    server.verifier = verifier("pencil");
    assert_eq!(
        exchange(Client::from_password("pencil").unwrap(), &mut server),
        Err(ScramError::WrongPassword)
    );
}

#[test]
fn channel_binding_cannot_be_downgraded() {
    let hash = || Some(b"certificate".to_vec());
    let client = || Client::from_password("pencil").unwrap();
    let server = |end_point| Server::new(verifier("pencil"), end_point);
    let ok = |client: Client, end_point| exchange(client, &mut server(end_point)).map(|_| ());

    assert_eq!(
        ok(client().bind(Binding::EndPoint(b"certificate".to_vec())), hash()),
        Ok(())
    );
    assert_eq!(
        ok(client().bind(Binding::None), hash()),
        Ok(()),
        "n: the client cannot bind"
    );
    assert_eq!(
        ok(client().bind(Binding::NotOffered), None),
        Ok(()),
        "y without TLS is true"
    );
    assert!(matches!(
        ok(client().bind(Binding::NotOffered), hash()),
        Err(ScramError::ChannelBinding(_))
    ));
    assert!(matches!(
        ok(client().bind(Binding::EndPoint(b"another".to_vec())), hash()),
        Err(ScramError::ChannelBinding(_))
    ));
    assert_eq!(
        ok(client().bind(Binding::EndPoint(b"certificate".to_vec())), None),
        Err(ScramError::Mechanism),
        "PLUS was not offered"
    );

    let refused: [(&[u8], &[u8]); 5] = [
        (SCRAM_SHA_256_PLUS, b"n,,n=,r=abc"),
        (SCRAM_SHA_256_PLUS, b"y,,n=,r=abc"),
        (SCRAM_SHA_256, b"p=tls-server-end-point,,n=,r=abc"),
        (SCRAM_SHA_256_PLUS, b"p=tls-unique,,n=,r=abc"),
        (b"SCRAM-SHA-1", b"n,,n=,r=abc"),
    ];
    for (mechanism, data) in refused {
        assert!(server(hash()).first(mechanism, data).is_err(), "{data:?}");
    }
}

#[test]
fn bad_first_messages_are_refused_with_their_sqlstate() {
    let long = format!("n,,n=,r={}", "x".repeat(NONCE_MAX + 1));
    let table: [(&[u8], &str); 13] = [
        (b"", "08P01"),
        (b"n", "08P01"),
        (b"n,", "08P01"),
        (b"n,,", "08P01"),
        (b"x,,n=,r=abc", "08P01"),
        (b"n,a=joe,n=,r=abc", "0A000"),
        (b"n,,m=x,n=,r=abc", "0A000"),
        (b"n,,n=", "08P01"),
        (b"n,,n=,r=", "08P01"),
        (b"n,,n=,r=a\x01b", "08P01"),
        (b"n,,n=,r=\xff", "08P01"),
        (b"n,,n=\0,r=abc", "08P01"),
        (long.as_bytes(), "08P01"),
    ];
    for (data, code) in table {
        let error = Server::new(verifier("x"), None)
            .first(SCRAM_SHA_256, data)
            .unwrap_err();
        assert_eq!(error.sqlstate().as_str(), code, "{data:?}");
    }
}

#[test]
fn bad_last_messages_are_refused() {
    let table = [
        "",
        "c=biws",
        "c=biws,r=N",
        "c=biws,r=N,p=",
        "c=biws,r=N,p=AAAA",
        "r=N,c=biws,p=AAAA",
        "c=biws,r=other,p=P",
    ];
    for text in table {
        let mut server = Server::new(verifier("x"), None);
        server.first_with(SCRAM_SHA_256, b"n,,n=,r=abc", "def").unwrap();
        let data = text
            .replace('N', "abcdef")
            .replace("=P", &format!("={}", message::encode(&[0; 32])));
        assert!(
            matches!(server.last(data.as_bytes()), Err(ScramError::Malformed(_))),
            "{text}"
        );
        assert_eq!(
            server.last(b"again"),
            Err(ScramError::Order),
            "there is no second try"
        );
    }
}

/// A last message before the first, and a second first message: no state is there to be confused (CVE-2015-4054).
#[test]
fn cve_2015_4054_messages_out_of_order_are_refused() {
    let mut server = Server::new(verifier("x"), None);
    assert_eq!(server.last(b"c=biws,r=abc,p=AAAA"), Err(ScramError::Order));
    server.first(SCRAM_SHA_256, b"n,,n=,r=abc").unwrap();
    assert_eq!(
        server.first(SCRAM_SHA_256, b"n,,n=,r=abc"),
        Err(ScramError::Order)
    );
}

fn challenge(text: &str) -> Result<Derivation, ScramError> {
    Client::from_password("x")
        .unwrap()
        .with_nonce("abc")
        .challenge(text.as_bytes())
}

/// PgBouncer CVE-2026-6665: a hostile server's long nonce.
#[test]
fn cve_2026_6665_an_endless_nonce_is_refused() {
    let endless = format!("r=abc{},s=AAAA,i=4096", "x".repeat(100_000));
    assert_eq!(
        challenge(&endless).unwrap_err(),
        ScramError::Malformed("length of the nonce")
    );
}

#[test]
fn a_hostile_server_cannot_make_us_count_for_ever() {
    assert_eq!(
        challenge("r=abcd,s=AAAA,i=1000001").unwrap_err(),
        ScramError::Iterations(1_000_001)
    );
    assert_eq!(
        challenge("r=abcd,s=AAAA,i=0").unwrap_err(),
        ScramError::Iterations(0)
    );
    let huge = format!("r=abcd,s=AAAA,i={}", "9".repeat(50));
    assert_eq!(challenge(&huge).unwrap_err(), ScramError::Iterations(u64::MAX));
    assert_eq!(
        challenge("r=abcd,s=AAAA,i=1000000").unwrap().rounds(),
        1_000_000,
        "not run yet"
    );
}

#[test]
fn bad_challenges_are_refused() {
    let salt = format!("r=abcd,s={},i=4096", "A".repeat(4_000));
    let table = [
        "",
        "r=abc,s=AAAA,i=1",
        "r=xyz1,s=AAAA,i=1",
        "s=AAAA,r=abcd,i=1",
        "r=abcd,s=!,i=1",
        "r=abcd,s=AAAA",
        "r=abcd,s=AAAA,i=+1",
        "r=abcd,s=AAAA,i=",
        "m=x,r=abcd,s=AAAA,i=1",
        "e=other-error",
        &salt,
    ];
    for text in table {
        assert!(challenge(text).is_err(), "{text}");
    }
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_found_out() {
    let proof = challenge("r=abcd,s=AAAA,i=1").unwrap().run();
    let table: [(&[u8], ScramError); 4] = [
        (b"e=other-error", ScramError::Refused),
        (b"v=AAAA", ScramError::ServerSignature),
        (b"v=", ScramError::ServerSignature),
        (b"", ScramError::Malformed("signature")),
    ];
    for (data, expected) in table {
        assert_eq!(proof.verify(data), Err(expected));
    }
}

#[test]
fn a_verifier_survives_a_round_trip() {
    let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let verifier = Verifier::parse(text).unwrap();
    assert_eq!(verifier.to_string(), text);
    assert_eq!(verifier, Verifier::generate("pencil", &verifier.salt, 4096));
    assert!(verifier.matches("pencil"));
    assert!(!verifier.matches("pen"));
}

#[test]
fn bad_verifiers_are_refused() {
    let key = message::encode(&[0; 32]);
    let table = [
        String::new(),
        "md5e5ac23c84eb3ad4aa99d8ff6df9af72b".to_owned(),
        "SCRAM-SHA-256".to_owned(),
        format!("SCRAM-SHA-256$4096$AAAA:{key}:{key}"),
        format!("SCRAM-SHA-256$0:AAAA${key}:{key}"),
        format!("SCRAM-SHA-256$+5:AAAA${key}:{key}"),
        format!("SCRAM-SHA-256$99999999999:AAAA${key}:{key}"),
        format!("SCRAM-SHA-256$1:${key}:{key}"),
        format!("SCRAM-SHA-256$1:!${key}:{key}"),
        format!("SCRAM-SHA-256$1:AAAA${key}"),
        format!("SCRAM-SHA-256$1:AAAA${key}:AAAA"),
        format!("SCRAM-SHA-1$1:AAAA${key}:{key}"),
    ];
    for text in table {
        assert!(Verifier::parse(&text).is_err(), "{text}");
    }
}

#[test]
fn passwords_are_prepared_or_taken_as_they_are() {
    let table = [
        ("plain", "plain"),
        ("\u{00aa}", "a"),
        ("\u{2168}", "IX"),
        ("I\u{00ad}X", "IX"),
        ("a\u{00a0}b", "a b"),
        ("\u{0007}", "\u{0007}"),
        ("\u{0627}1", "\u{0627}1"),
        ("\u{00ad}", "\u{00ad}"),
    ];
    for (given, expected) in table {
        assert_eq!(normalize(given), expected, "{given:?}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let verifier = verifier("pencil");
    let keys = verifier.keys_for("pencil").unwrap();
    let client = Client::from_password("pencil").unwrap();
    let shown = format!(
        "{verifier:?} {keys:?} {client:?} {:?}",
        Server::new(verifier.clone(), None)
    );
    for secret in ["pencil", &message::encode(&keys.client_key), "88, "] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

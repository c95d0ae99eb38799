use super::*;

type Encode = fn(&mut BytesMut);

fn packet(body: &[u8]) -> Vec<u8> {
    let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
    packet.extend_from_slice(body);
    packet
}

#[test]
fn every_packet_survives_a_round_trip() {
    let parameters = vec![
        ("user".to_owned(), "é".to_owned()),
        ("options".to_owned(), "-c a=b".to_owned()),
        ("_pq_.x".to_owned(), String::new()),
    ];
    let mut buf = BytesMut::new();
    startup(
        &mut buf,
        ProtocolVersion::V3_2,
        parameters.iter().map(|(n, v)| (n, v)),
    );
    assert_eq!(
        decode(&buf),
        Ok(Startup::Startup {
            version: ProtocolVersion::V3_2,
            parameters
        })
    );
    let simple: [(Encode, Startup); 2] = [(ssl_request, Startup::Ssl), (gssenc_request, Startup::GssEnc)];
    for (encode, expected) in simple {
        buf.clear();
        encode(&mut buf);
        assert_eq!(decode(&buf), Ok(expected));
    }
    for len in [4, 32, 256] {
        buf.clear();
        cancel_request(&mut buf, -7, &vec![9; len]);
        assert_eq!(
            decode(&buf),
            Ok(Startup::Cancel {
                process_id: -7,
                key: vec![9; len].into()
            })
        );
    }
}

#[test]
fn bad_packets_are_refused() {
    let table: [(Vec<u8>, DecodeError); 10] = [
        (vec![], DecodeError::Truncated),
        (packet(b""), DecodeError::Truncated),
        (packet(b"\0\x03\0\0"), DecodeError::Unterminated),
        (packet(b"\0\x03\0\0user\0me\0"), DecodeError::Unterminated),
        (packet(b"\0\x03\0\0user\0\0"), DecodeError::Unterminated),
        (packet(b"\0\x03\0\0user\0me\0\0x"), DecodeError::Trailing(1)),
        (
            packet(b"\0\x03\0\0user\0\xff\0\0"),
            DecodeError::Impossible("text in a startup packet"),
        ),
        (packet(b"\x04\xd2\x16\x2fx"), DecodeError::Trailing(1)),
        (
            packet(b"\x04\xd2\x16\x2e\0\0\0\x01abc"),
            DecodeError::Impossible("length of a cancel key"),
        ),
        (
            [packet(b"\0\x03\0\0\0"), b"!".to_vec()].concat(),
            DecodeError::Trailing(1),
        ),
    ];
    for (bytes, expected) in table {
        assert_eq!(decode(&bytes), Err(expected), "{bytes:?}");
    }
    let long_key = packet(&[&b"\x04\xd2\x16\x2e\0\0\0\x01"[..], &[0; 257]].concat());
    assert_eq!(
        decode(&long_key),
        Err(DecodeError::Impossible("length of a cancel key"))
    );
}

#[test]
fn an_unknown_major_version_is_told_not_parsed() {
    let version = ProtocolVersion { major: 2, minor: 0 };
    assert_eq!(
        decode(&packet(b"\0\x02\0\0whatever \xff")),
        Ok(Startup::Startup {
            version,
            parameters: vec![]
        })
    );
    let grease = ProtocolVersion {
        major: 3,
        minor: 9999,
    };
    assert_eq!(
        decode(&packet(b"\0\x03\x27\x0f\0")),
        Ok(Startup::Startup {
            version: grease,
            parameters: vec![]
        })
    );
}

#[test]
fn debug_does_not_show_a_cancel_key() {
    let text = format!(
        "{:?}",
        Startup::Cancel {
            process_id: 5,
            key: Bytes::from_static(b"\xab\xab\xab\xab")
        }
    );
    assert_eq!(text, "Cancel(5)");
}

/// PgBouncer CVE-2012-4575: a database name that is too long stops the process.
#[test]
fn cve_2012_4575_a_long_database_name_is_a_name_or_a_refused_packet() {
    for len in [63, 64, 9_000, 20_000] {
        let mut buf = BytesMut::new();
        startup(
            &mut buf,
            ProtocolVersion::V3_0,
            [("user", "joe"), ("database", &"x".repeat(len))],
        );
        assert_eq!(crate::frame::peek_startup(&buf).is_ok(), len < 10_000);
        assert!(
            decode(&buf).is_ok(),
            "the decoder itself has no limit but the packet's"
        );
    }
}

/// PgBouncer CVE-2015-4054: a password packet before the startup packet.
#[test]
fn cve_2015_4054_a_password_before_the_startup_packet_is_refused() {
    let mut buf = BytesMut::new();
    crate::frontend::password(&mut buf, b"secret");
    assert!(crate::frame::peek_startup(&buf).is_err());
}

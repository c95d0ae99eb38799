use super::*;

fn full() -> ErrorFields {
    let mut fields = ErrorFields::new(Severity::Fatal, SqlState::TOO_MANY_CONNECTIONS, "no")
        .with_hint("wait")
        .with_detail("all busy");
    for (i, letter) in b"PpqWstcdnFLR".iter().enumerate() {
        *fields.slot(*letter).unwrap() = Some(format!("value {i}"));
    }
    fields
}

#[test]
fn every_field_survives_a_round_trip() {
    let mut buf = BytesMut::new();
    full().encode_error(&mut buf);
    assert_eq!(buf[0], b'E');
    assert_eq!(ErrorFields::decode(&buf[5..]), Ok(full()));
    buf.clear();
    full().encode_notice(&mut buf);
    assert_eq!(buf[0], b'N');
    assert_eq!(
        u32::from_be_bytes(buf[1..5].try_into().unwrap()) as usize + 1,
        buf.len()
    );
}

/// PgBouncer CVE-2026-6666: a server's error without SQLSTATE.
#[test]
fn cve_2026_6666_an_error_without_a_code_is_read_as_internal_error() {
    let fields = ErrorFields::decode(b"SERROR\0Mboom\0\0").unwrap();
    assert_eq!(fields.code, SqlState::INTERNAL_ERROR);
    assert_eq!(fields.message, "boom");
    assert_eq!(ErrorFields::decode(b"\0").unwrap().code, SqlState::INTERNAL_ERROR);
}

#[test]
fn severity_is_v_or_s_or_error() {
    let table: [(&[u8], Severity); 5] = [
        (b"SFEHLER\0VFATAL\0\0", Severity::Fatal),
        (b"SPANIC\0\0", Severity::Panic),
        (b"SFEHLER\0\0", Severity::Error),
        (b"Vnonsense\0SLOG\0\0", Severity::Log),
        (b"\0", Severity::Error),
    ];
    for (body, expected) in table {
        assert_eq!(Fields::read(body).unwrap().severity(), expected, "{body:?}");
    }
}

#[test]
fn a_list_without_an_end_is_refused() {
    let table: [(&[u8], DecodeError); 4] = [
        (b"", DecodeError::Truncated),
        (b"Mboom\0", DecodeError::Truncated),
        (b"Mboom", DecodeError::Unterminated),
        (b"Mboom\0\0x", DecodeError::Trailing(1)),
    ];
    for (body, expected) in table {
        assert_eq!(ErrorFields::decode(body), Err(expected), "{body:?}");
    }
}

#[test]
fn unknown_fields_and_bad_utf8_are_tolerated() {
    let fields = ErrorFields::decode(b"Zwhat\0M\xff!\0C42P01\0\0").unwrap();
    assert_eq!(fields.message, "\u{fffd}!");
    assert_eq!(fields.code, SqlState::UNDEFINED_TABLE);
}

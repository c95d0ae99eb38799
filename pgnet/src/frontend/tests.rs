use bytes::BytesMut;

use super::*;

fn one(encode: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut buf = BytesMut::new();
    encode(&mut buf);
    assert_eq!(
        u32::from_be_bytes(buf[1..5].try_into().unwrap()) as usize + 1,
        buf.len()
    );
    buf
}

#[test]
fn every_message_survives_a_round_trip() {
    let table: Vec<(BytesMut, Message<'_>)> = vec![
        (one(|b| query(b, b"select 1")), Message::Query(b"select 1")),
        (
            one(|b| describe_statement(b, b"s")),
            Message::Describe {
                target: Target::Statement,
                name: b"s",
            },
        ),
        (
            one(|b| describe_portal(b, b"")),
            Message::Describe {
                target: Target::Portal,
                name: b"",
            },
        ),
        (
            one(|b| execute(b, b"p", 7)),
            Message::Execute {
                portal: b"p",
                max_rows: 7,
            },
        ),
        (
            one(|b| close_statement(b, b"s")),
            Message::Close {
                target: Target::Statement,
                name: b"s",
            },
        ),
        (
            one(|b| close_portal(b, b"p")),
            Message::Close {
                target: Target::Portal,
                name: b"p",
            },
        ),
        (one(sync), Message::Sync),
        (one(flush), Message::Flush),
        (one(terminate), Message::Terminate),
        (one(|b| copy_data(b, b"\0\xff")), Message::CopyData(b"\0\xff")),
        (one(copy_done), Message::CopyDone),
        (one(|b| copy_fail(b, b"why")), Message::CopyFail(b"why")),
        (
            one(|b| password(b, b"pw")),
            Message::Authentication(Secret(b"pw\0")),
        ),
        (
            one(|b| sasl_response(b, b"c=biws")),
            Message::Authentication(Secret(b"c=biws")),
        ),
    ];
    for (frame, expected) in &table {
        assert_eq!(decode(frame[0], &frame[5..]), Ok(*expected));
    }
}

#[test]
fn lists_survive_a_round_trip() {
    let frame = one(|b| parse(b, b"n", b"select $1", &[23, 0]));
    let Ok(Message::Parse {
        name: b"n",
        sql: b"select $1",
        types,
    }) = decode(frame[0], &frame[5..])
    else {
        panic!()
    };
    assert_eq!(types.iter().collect::<Vec<_>>(), [23, 0]);

    let frame = one(|b| bind(b, b"p", b"s", &[1], &[Some(b"x"), None, Some(b"")], &[0, 1]));
    let Ok(Message::Bind {
        portal: b"p",
        statement: b"s",
        param_formats,
        params,
        result_formats,
    }) = decode(frame[0], &frame[5..])
    else {
        panic!()
    };
    assert_eq!(param_formats.iter().collect::<Vec<_>>(), [1]);
    assert_eq!(
        params.iter().collect::<Vec<_>>(),
        [Some(&b"x"[..]), None, Some(&b""[..])]
    );
    assert_eq!(result_formats.iter().collect::<Vec<_>>(), [0, 1]);

    let frame = one(|b| function_call(b, 1598, &[], &[Some(b"1"), None], 1));
    let Ok(Message::FunctionCall {
        function: 1598,
        arg_formats,
        args,
        result_format: 1,
    }) = decode(frame[0], &frame[5..])
    else {
        panic!()
    };
    assert!(arg_formats.is_empty());
    assert_eq!((args.len(), args.iter().count()), (2, 2));
}

#[test]
fn bad_bodies_are_refused() {
    let table: [(u8, &[u8], DecodeError); 15] = [
        (b'Q', b"", DecodeError::Unterminated),
        (b'Q', b"select", DecodeError::Unterminated),
        (b'Q', b"a\0b\0", DecodeError::Trailing(2)),
        (b'P', b"\0select 1\0", DecodeError::Truncated),
        (b'P', b"\0select 1\0\xff\xff", DecodeError::Truncated),
        (b'B', b"\0\0\0\0\0\x01\0\0\0\x05abc", DecodeError::Truncated),
        (
            b'B',
            b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0",
            DecodeError::Impossible("length of a value"),
        ),
        (
            b'B',
            b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0",
            DecodeError::Truncated,
        ),
        (
            b'D',
            b"X\0",
            DecodeError::Impossible("subtype of Describe or Close"),
        ),
        (b'C', b"S", DecodeError::Unterminated),
        (b'E', b"\0\0\0", DecodeError::Truncated),
        (b'S', b"x", DecodeError::Trailing(1)),
        (
            b'F',
            b"\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff",
            DecodeError::Truncated,
        ),
        (b'?', b"", DecodeError::UnknownTag(b'?')),
        (0, b"", DecodeError::UnknownTag(0)),
    ];
    for (tag, body, expected) in table {
        assert_eq!(decode(tag, body), Err(expected), "{} {body:?}", tag as char);
    }
}

/// PgBouncer CVE-2026-6664: one SCRAM packet with the length -2.
#[test]
fn cve_2026_6664_a_sasl_length_below_minus_one_is_refused() {
    let good = one(|b| sasl_initial(b, b"SCRAM-SHA-256", Some(b"n,,n=,r=x")));
    let initial = SaslInitial {
        mechanism: b"SCRAM-SHA-256",
        data: Some(b"n,,n=,r=x"),
    };
    assert_eq!(SaslInitial::decode(&good[5..]), Ok(initial));
    let table: [(&[u8], DecodeError); 5] = [
        (
            b"SCRAM-SHA-256\0\xff\xff\xff\xfe",
            DecodeError::Impossible("length of a value"),
        ),
        (
            b"SCRAM-SHA-256\0\x80\0\0\0",
            DecodeError::Impossible("length of a value"),
        ),
        (b"SCRAM-SHA-256\0\0\0\0\x05abcd", DecodeError::Truncated),
        (b"SCRAM-SHA-256\0\0\0\0\x01abcd", DecodeError::Trailing(3)),
        (b"SCRAM-SHA-256", DecodeError::Unterminated),
    ];
    for (body, expected) in table {
        assert_eq!(SaslInitial::decode(body), Err(expected), "{body:?}");
    }
    assert_eq!(
        SaslInitial::decode(b"X\0\xff\xff\xff\xff"),
        Ok(SaslInitial {
            mechanism: b"X",
            data: None
        })
    );
}

#[test]
fn a_zero_byte_in_a_name_cannot_shift_the_parts_behind_it() {
    let frame = one(|b| parse(b, b"a\0b", b"select\x001", &[]));
    let Ok(Message::Parse { name, sql, .. }) = decode(frame[0], &frame[5..]) else {
        panic!()
    };
    assert_eq!((name, sql), (&b"a\xffb"[..], &b"select\xff1"[..]));
}

#[test]
fn a_password_is_exactly_one_string() {
    assert_eq!(password_of(b"pw\0"), Ok(&b"pw"[..]));
    assert_eq!(password_of(b"pw"), Err(DecodeError::Unterminated));
    assert_eq!(password_of(b"pw\0x\0"), Err(DecodeError::Trailing(2)));
}

#[test]
fn debug_shows_no_password() {
    let frame = one(|b| password(b, b"hunter2"));
    let text = format!("{:?}", decode(frame[0], &frame[5..]).unwrap());
    assert_eq!(text, "Authentication((8 bytes, not shown))");
}

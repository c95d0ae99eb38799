use bytes::BytesMut;

use super::*;
use crate::fields::{ErrorFields, Severity};
use crate::sqlstate::SqlState;

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
fn every_message_without_a_list_survives_a_round_trip() {
    use Authentication as A;
    let table: Vec<(BytesMut, Message<'_>)> = vec![
        (one(authentication_ok), Message::Authentication(A::Ok)),
        (
            one(authentication_cleartext),
            Message::Authentication(A::Cleartext),
        ),
        (
            one(|b| authentication_md5(b, [1, 2, 3, 4])),
            Message::Authentication(A::Md5 { salt: [1, 2, 3, 4] }),
        ),
        (
            one(|b| authentication_sasl_continue(b, b"r=x")),
            Message::Authentication(A::SaslContinue(b"r=x")),
        ),
        (
            one(|b| authentication_sasl_final(b, b"v=x")),
            Message::Authentication(A::SaslFinal(b"v=x")),
        ),
        (
            one(|b| parameter_status(b, b"TimeZone", b"UTC")),
            Message::ParameterStatus {
                name: b"TimeZone",
                value: b"UTC",
            },
        ),
        (
            one(|b| backend_key_data(b, 77, &[1; 32])),
            Message::BackendKeyData {
                process_id: 77,
                key: Secret(&[1; 32]),
            },
        ),
        (
            one(|b| ready_for_query(b, b'T')),
            Message::ReadyForQuery(TransactionStatus::InTransaction),
        ),
        (
            one(|b| command_complete(b, b"SELECT 1")),
            Message::CommandComplete(b"SELECT 1"),
        ),
        (one(empty_query), Message::EmptyQueryResponse),
        (one(parse_complete), Message::ParseComplete),
        (one(bind_complete), Message::BindComplete),
        (one(close_complete), Message::CloseComplete),
        (one(no_data), Message::NoData),
        (one(portal_suspended), Message::PortalSuspended),
        (one(|b| copy_data(b, b"1\t2\n")), Message::CopyData(b"1\t2\n")),
        (one(copy_done), Message::CopyDone),
        (
            one(|b| function_call_response(b, None)),
            Message::FunctionCallResponse(None),
        ),
        (
            one(|b| function_call_response(b, Some(b"9"))),
            Message::FunctionCallResponse(Some(b"9")),
        ),
        (
            one(|b| notification(b, 5, b"ch", b"")),
            Message::NotificationResponse {
                process_id: 5,
                channel: b"ch",
                payload: b"",
            },
        ),
    ];
    for (frame, expected) in &table {
        assert_eq!(decode(frame[0], &frame[5..]), Ok(*expected));
    }
}

#[test]
fn lists_survive_a_round_trip() {
    let fields = [
        Field {
            name: b"a",
            table_oid: 1,
            column: 2,
            type_oid: 23,
            type_size: 4,
            type_modifier: -1,
            format: 0,
        },
        Field {
            name: b"",
            table_oid: 0,
            column: 0,
            type_oid: 25,
            type_size: -1,
            type_modifier: 9,
            format: 1,
        },
    ];
    let frame = one(|b| row_description(b, &fields));
    let Ok(Message::RowDescription(row)) = decode(frame[0], &frame[5..]) else {
        panic!()
    };
    assert_eq!(row.iter().collect::<Vec<_>>(), fields);

    let frame = one(|b| data_row(b, &[Some(b"1"), None]));
    let Ok(Message::DataRow(values)) = decode(frame[0], &frame[5..]) else {
        panic!()
    };
    assert_eq!(values.iter().collect::<Vec<_>>(), [Some(&b"1"[..]), None]);

    let frame = one(|b| parameter_description(b, &[23, 25]));
    let Ok(Message::ParameterDescription(types)) = decode(frame[0], &frame[5..]) else {
        panic!()
    };
    assert_eq!(types.iter().collect::<Vec<_>>(), [23, 25]);

    let frame = one(|b| authentication_sasl(b, &[b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]));
    let Ok(Message::Authentication(Authentication::Sasl(list))) = decode(frame[0], &frame[5..]) else {
        panic!()
    };
    assert_eq!(
        list.iter().collect::<Vec<_>>(),
        [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]
    );

    let frame = one(|b| negotiate_protocol_version(b, ProtocolVersion::V3_0, &[b"_pq_.x"]));
    let Ok(Message::NegotiateProtocolVersion {
        version,
        unrecognized,
    }) = decode(frame[0], &frame[5..])
    else {
        panic!()
    };
    assert_eq!(version, ProtocolVersion::V3_0);
    assert_eq!(unrecognized.iter().collect::<Vec<_>>(), [b"_pq_.x"]);

    let frame = one(|b| copy_in_response(b, 1, &[1, 1]));
    let Ok(Message::CopyInResponse(copy)) = decode(frame[0], &frame[5..]) else {
        panic!()
    };
    assert_eq!((copy.format, copy.columns.len()), (1, 2));
    assert_eq!(one(|b| copy_out_response(b, 0, &[]))[0], b'H');
    assert_eq!(one(|b| copy_both_response(b, 0, &[]))[0], b'W');
}

#[test]
fn errors_and_notices_carry_their_fields() {
    let fields = ErrorFields::new(Severity::Error, SqlState::UNDEFINED_TABLE, "no t");
    let frame = one(|b| fields.encode_error(b));
    let Ok(Message::ErrorResponse(view)) = decode(frame[0], &frame[5..]) else {
        panic!()
    };
    assert_eq!(
        (view.code(), view.to_owned()),
        (SqlState::UNDEFINED_TABLE, fields.clone())
    );
    let frame = one(|b| fields.encode_notice(b));
    assert!(matches!(
        decode(frame[0], &frame[5..]),
        Ok(Message::NoticeResponse(_))
    ));
}

#[test]
fn bad_bodies_are_refused() {
    let table: [(u8, &[u8], DecodeError); 20] = [
        (b'R', b"\0\0\0", DecodeError::Truncated),
        (b'R', b"\0\0\0\x05abc", DecodeError::Truncated),
        (b'R', b"\0\0\0\0x", DecodeError::Trailing(1)),
        (b'R', b"\0\0\0\x0aSCRAM\0", DecodeError::Unterminated),
        (
            b'K',
            b"\0\0\0\x01abc",
            DecodeError::Impossible("length of a cancel key"),
        ),
        (b'Z', b"X", DecodeError::Impossible("transaction status")),
        (b'Z', b"", DecodeError::Truncated),
        (b'D', b"\xff\xff", DecodeError::Impossible("number of columns")),
        (b'D', b"\0\x01\0\0\0\x02a", DecodeError::Truncated),
        (
            b'D',
            b"\0\x01\xff\xff\xff\xfd",
            DecodeError::Impossible("length of a value"),
        ),
        (b'D', b"\0\x01\0\0\0\x01ab", DecodeError::Trailing(1)),
        (b'T', b"\0\x01a\0", DecodeError::Truncated),
        (b'T', b"\x80\0", DecodeError::Impossible("number of columns")),
        (b't', b"\0\x02\0\0\0\x01", DecodeError::Truncated),
        (
            b'v',
            b"\0\x03\0\0\xff\xff\xff\xff",
            DecodeError::Impossible("number of options"),
        ),
        (b'v', b"\0\x03\0\0\x7f\xff\xff\xff", DecodeError::Unterminated),
        (b'G', b"\0\0\x02\0\0", DecodeError::Truncated),
        (b'A', b"\0\0\0\x01chan\0", DecodeError::Unterminated),
        (b'C', b"SELECT", DecodeError::Unterminated),
        (b'p', b"", DecodeError::UnknownTag(b'p')),
    ];
    for (tag, body, expected) in table {
        assert_eq!(decode(tag, body), Err(expected), "{} {body:?}", tag as char);
    }
}

/// PC-18: the "unsafe row" of a patched server is no message of the protocol.
#[test]
fn a_row_with_a_negative_number_of_columns_is_refused() {
    assert_eq!(
        decode(b'D', b"\xff\xfe\0\0\0\0"),
        Err(DecodeError::Impossible("number of columns"))
    );
}

#[test]
fn a_minor_version_alone_is_read_as_three_point_it() {
    let Ok(Message::NegotiateProtocolVersion { version, .. }) = decode(b'v', b"\0\0\0\x02\0\0\0\0") else {
        panic!()
    };
    assert_eq!(version, ProtocolVersion::V3_2);
}

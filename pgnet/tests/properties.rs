//! Properties of the codec and of SCRAM, for whatever comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use bytes::{Buf, BytesMut};
use pgnet::auth::scram::{Client, Keys, Server, Verifier};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;
use pgnet::startup::{ProtocolVersion, Startup};
use pgnet::{backend, frame, frontend, startup};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A name or a text: bytes without a zero.
fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1u8..=255, 0..20)
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(vec(any::<u8>(), 0..50))
}

fn borrowed(values: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
    values.iter().map(Option::as_deref).collect()
}

/// One frame of a client.
fn from_client() -> impl Strategy<Value = BytesMut> {
    let made = |encode: &dyn Fn(&mut BytesMut)| {
        let mut buf = BytesMut::new();
        encode(&mut buf);
        buf
    };
    prop_oneof![
        text().prop_map(move |sql| made(&|b| frontend::query(b, &sql))),
        (text(), text(), vec(any::<u32>(), 0..5))
            .prop_map(move |(n, s, t)| made(&|b| frontend::parse(b, &n, &s, &t))),
        (
            text(),
            text(),
            vec(any::<i16>(), 0..4),
            vec(value(), 0..5),
            vec(any::<i16>(), 0..4)
        )
            .prop_map(move |(p, s, f, v, r)| made(&|b| frontend::bind(
                b,
                &p,
                &s,
                &f,
                &borrowed(&v),
                &r
            ))),
        (text(), any::<i32>()).prop_map(move |(p, n)| made(&|b| frontend::execute(b, &p, n))),
        vec(any::<u8>(), 0..100).prop_map(move |data| made(&|b| frontend::copy_data(b, &data))),
        Just(made(&frontend::sync)),
    ]
}

/// Reads a stream that comes in pieces as a program does: append, take what is whole.
fn read_in_pieces(pieces: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
    let mut buffered = BytesMut::new();
    let mut messages = Vec::new();
    for piece in pieces {
        buffered.extend_from_slice(piece);
        while let Some(header) = frame::peek(&buffered, frame::FRAME_MAX).unwrap() {
            if buffered.len() < header.total() {
                break;
            }
            let mut frame = buffered.split_to(header.total());
            frame.advance(frame::HEADER);
            frontend::decode(header.tag, &frame).unwrap();
            messages.push((header.tag, frame.to_vec()));
        }
    }
    assert!(buffered.is_empty());
    messages
}

proptest! {
    #[test]
    fn any_cut_of_a_stream_gives_the_same_messages(frames in vec(from_client(), 1..4)) {
        let stream = frames.concat();
        let whole = read_in_pieces(&[&stream]);
        prop_assert_eq!(whole.len(), frames.len());
        for cut in 0..=stream.len() {
            let (head, tail) = stream.split_at(cut);
            prop_assert_eq!(read_in_pieces(&[head, tail]), whole.clone(), "cut at byte {}", cut);
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(read_in_pieces(&single), whole, "byte by byte");
    }

    #[test]
    fn a_startup_packet_is_whole_or_refused_wherever_it_is_cut(pairs in vec(("[a-z_.]{1,10}", "[^\0]{0,10}"), 0..5)) {
        let mut packet = BytesMut::new();
        startup::startup(&mut packet, ProtocolVersion::V3_2, pairs.iter().map(|(n, v)| (n, v)));
        let expected = Startup::Startup { version: ProtocolVersion::V3_2, parameters: pairs };
        prop_assert_eq!(startup::decode(&packet), Ok(expected));
        for cut in 0..packet.len() {
            prop_assert!(startup::decode(&packet[..cut]).is_err());
            let peeked = frame::peek_startup(&packet[..cut]).unwrap();
            prop_assert!(peeked.is_none_or(|len| len as usize == packet.len()));
        }
    }

    #[test]
    fn random_bytes_never_panic_and_nothing_is_larger_than_they_are(tag: u8, body in vec(any::<u8>(), 0..200)) {
        if let Ok(frontend::Message::Bind { params, .. }) = frontend::decode(tag, &body) {
            prop_assert!(params.len() * 4 <= body.len());
        }
        match backend::decode(tag, &body) {
            Ok(backend::Message::DataRow(values)) => prop_assert!(values.len() * 4 <= body.len()),
            Ok(backend::Message::RowDescription(row)) => prop_assert!(row.len() * 19 <= body.len()),
            _ => {}
        }
        let _ = (startup::decode(&body), frame::peek(&body, u32::MAX), ErrorFields::decode(&body));
    }

    #[test]
    fn bind_survives_a_round_trip(
        portal in text(), statement in text(), formats in vec(any::<i16>(), 0..10),
        params in vec(value(), 0..10), results in vec(any::<i16>(), 0..10),
    ) {
        let mut buf = BytesMut::new();
        frontend::bind(&mut buf, &portal, &statement, &formats, &borrowed(&params), &results);
        let Ok(frontend::Message::Bind { portal: p, statement: s, param_formats, params: v, result_formats }) =
            frontend::decode(buf[0], &buf[5..])
        else {
            panic!("not a Bind")
        };
        prop_assert_eq!((p, s), (&portal[..], &statement[..]));
        prop_assert_eq!(param_formats.iter().collect::<Vec<_>>(), formats);
        prop_assert_eq!(v.iter().collect::<Vec<_>>(), borrowed(&params));
        prop_assert_eq!(result_formats.iter().collect::<Vec<_>>(), results);
    }

    #[test]
    fn rows_survive_a_round_trip(values in vec(value(), 0..20)) {
        let mut buf = BytesMut::new();
        backend::data_row(&mut buf, &borrowed(&values));
        let Ok(backend::Message::DataRow(view)) = backend::decode(buf[0], &buf[5..]) else { panic!("not a DataRow") };
        prop_assert_eq!(view.iter().collect::<Vec<_>>(), borrowed(&values));
    }

    #[test]
    fn errors_survive_a_round_trip(message in "[^\0]{0,40}", hint in option::of("[^\0]{0,40}"), context in option::of("[^\0]{0,40}")) {
        let fields = ErrorFields { hint, context, ..ErrorFields::new(Severity::Error, SqlState::UNDEFINED_TABLE, message) };
        let mut buf = BytesMut::new();
        fields.encode_error(&mut buf);
        prop_assert_eq!(ErrorFields::decode(&buf[5..]), Ok(fields));
    }

    #[test]
    fn scram_lets_in_who_knows_the_password_and_nobody_else(
        password in "\\PC{1,20}", other in "\\PC{1,20}", salt in vec(any::<u8>(), 1..30), rounds in 1u32..5,
    ) {
        let verifier = Verifier::generate(&password, &salt, rounds);
        prop_assert_eq!(Verifier::parse(&verifier.to_string()), Ok(verifier.clone()));
        let log_in = |client: Client| {
            let mut server = Server::new(verifier.clone(), None);
            let challenge = server.first(client.mechanism(), &client.first())?;
            let proof = client.challenge(&challenge)?.run();
            let finished = server.last(proof.message())?;
            proof.verify(&finished.message).map(|()| finished.client_key)
        };
        let key = log_in(Client::from_password(&password).unwrap());
        prop_assert!(key.is_ok());
        let keys = Keys { client_key: key.unwrap(), server_key: verifier.server_key };
        prop_assert!(log_in(Client::from_keys(keys).unwrap()).is_ok());
        prop_assert_eq!(log_in(Client::from_password(&other).unwrap()).is_ok(), verifier.matches(&other));
    }
}

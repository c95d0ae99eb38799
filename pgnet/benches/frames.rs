//! What framing costs: finding the ends of messages in what one read brought, and decoding those the proxy looks into.
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use pgnet::backend::{self, Field};
use pgnet::frame::{FRAME_MAX, split};
use pgnet::frontend;

fn main() {
    divan::main();
}

/// The answers to so many `select 1`, as a worker reads them.
fn answers(statements: usize) -> BytesMut {
    let mut buffer = BytesMut::new();
    let column = Field {
        name: b"?column?",
        table_oid: 0,
        column: 0,
        type_oid: 23,
        type_size: 4,
        type_modifier: -1,
        format: 0,
    };
    for _ in 0..statements {
        backend::row_description(&mut buffer, &[column]);
        backend::data_row(&mut buffer, &[Some(b"1")]);
        backend::command_complete(&mut buffer, b"SELECT 1");
        backend::ready_for_query(&mut buffer, b'I');
    }
    buffer
}

fn walk(mut rest: &[u8], mut each: impl FnMut(u8, &[u8])) {
    while let Ok(Some((frame, tail))) = split(rest, FRAME_MAX) {
        each(frame.tag, frame.body);
        rest = tail;
    }
}

/// Four frames a statement.
#[divan::bench(args = [1, 16, 256])]
fn split_answers(bencher: Bencher<'_, '_>, statements: usize) {
    let buffer = answers(statements);
    bencher.counter(ItemsCount::new(statements * 4)).bench(|| {
        walk(black_box(&buffer), |tag, body| {
            black_box((tag, body.len()));
        })
    });
}

/// A thousand rows of 1.1 KB.
#[divan::bench]
fn split_wide_rows(bencher: Bencher<'_, '_>) {
    let mut buffer = BytesMut::new();
    for _ in 0..1000 {
        backend::data_row(&mut buffer, &[Some(&[b'x'; 1100])]);
    }
    bencher.counter(BytesCount::new(buffer.len())).bench(|| {
        walk(black_box(&buffer), |tag, body| {
            black_box((tag, body.len()));
        })
    });
}

/// Every frame of an answer decoded.
#[divan::bench]
fn decode_answer(bencher: Bencher<'_, '_>) {
    let buffer = answers(1);
    bencher.bench(|| {
        walk(black_box(&buffer), |tag, body| {
            black_box(backend::decode(tag, body).unwrap());
        })
    });
}

/// What a client sends for a prepared statement.
#[divan::bench]
fn decode_bind_execute_sync(bencher: Bencher<'_, '_>) {
    let mut buffer = BytesMut::new();
    frontend::bind(&mut buffer, b"", b"P0_1", &[], &[Some(b"42".as_slice())], &[]);
    frontend::execute(&mut buffer, b"", 0);
    frontend::sync(&mut buffer);
    bencher.bench(|| {
        walk(black_box(&buffer), |tag, body| {
            black_box(frontend::decode(tag, body).unwrap());
        })
    });
}

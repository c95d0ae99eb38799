//! Queries of the proxy's own on a worker: reading state back, loading the catalog.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgnet::fields::ErrorFields;
use pgnet::{backend, frame, frontend};

use super::script::{Op, Step};
use super::slot::{End, Slot};
use super::statement::Statement;
use super::worker::{Purpose, Worker};

/// A row: a value for each column, `None` is NULL.
pub(super) type Row = Vec<Option<Bytes>>;

/// Largest answer such a query may have.
const ANSWER_MAX: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Error {
    /// The server said no.
    Server(Box<ErrorFields>),
    /// The worker is gone, or answered too much.
    Lost,
}

/// Runs one Query on a worker the caller holds, and returns the rows of all its statements.
///
/// Not cancel safe: when dropped the answer is swallowed by the worker, and nothing else is known.
pub(super) async fn query(worker: &Rc<Worker>, sql: &[u8]) -> Result<Vec<Row>, Error> {
    let slot = Rc::new(Slot::default());
    worker.enqueue(Purpose::Internal, Some(slot.clone()), 0, Duration::ZERO, |to| {
        frontend::query(to.out(), sql);
        to.step(Step::client(Op::Query));
    });
    let mut answer = BytesMut::new();
    let end = poll_fn(|cx| {
        loop {
            while let Some(piece) = slot.pop() {
                answer.extend_from_slice(&piece);
            }
            if let Some(end) = slot.take_end() {
                return Poll::Ready(end);
            }
            if answer.len() > ANSWER_MAX {
                worker.close("an answer to the proxy was too large");
            }
            if slot.poll_ready(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    match end {
        End::Done { .. } => rows(&answer.freeze()),
        _ => Err(Error::Lost),
    }
}

fn rows(answer: &Bytes) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let mut rest = &answer[..];
    while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
        rest = behind;
        match backend::decode(frame.tag, frame.body) {
            Ok(backend::Message::DataRow(values)) => {
                rows.push(values.iter().map(|v| v.map(|v| answer.slice_ref(v))).collect());
            }
            Ok(backend::Message::ErrorResponse(fields)) => {
                return Err(Error::Server(Box::new(fields.to_owned())));
            }
            _ => {}
        }
    }
    Ok(rows)
}

/// Prepares a statement under a client's own name on a worker the caller holds.
pub(super) async fn parse(
    worker: &Rc<Worker>,
    name: &[u8],
    key: &super::statement::StatementKey,
) -> Result<(), Error> {
    let slot = Rc::new(Slot::default());
    worker.enqueue(Purpose::Internal, Some(slot.clone()), 0, Duration::ZERO, |to| {
        let out = to.out();
        let start = out.len();
        out.extend_from_slice(b"P\0\0\0\0");
        out.extend_from_slice(name);
        out.extend_from_slice(b"\0");
        out.extend_from_slice(&key.text);
        out.extend_from_slice(b"\0");
        out.extend_from_slice(&key.types);
        super::worker::patch_length(out, start);
        to.step(Step::nobody(Op::Parse(None)));
        frontend::sync(to.out());
        to.step(Step::nobody(Op::Sync));
    });
    ended(&slot).await
}

/// Has a worker the caller holds parse a shared statement anew and look at what its rows are: [`Worker::shape`] knows it then,
/// unless the server had an error.
pub(super) async fn describe_anew(
    worker: &Rc<Worker>,
    statement: &Rc<Statement>,
    cap: usize,
) -> Result<(), Error> {
    let slot = Rc::new(Slot::default());
    worker.enqueue(Purpose::Internal, Some(slot.clone()), 0, Duration::ZERO, |to| {
        to.describe_anew(statement, cap);
        frontend::sync(to.out());
        to.step(Step::nobody(Op::Sync));
    });
    ended(&slot).await
}

/// Waits until what reports to `slot` has ended.
pub(super) async fn ended(slot: &Slot) -> Result<(), Error> {
    let end = poll_fn(|cx| match slot.take_end() {
        Some(end) => Poll::Ready(end),
        None => {
            slot.register(cx);
            Poll::Pending
        }
    })
    .await;
    if matches!(end, End::Done { .. }) {
        Ok(())
    } else {
        Err(Error::Lost)
    }
}

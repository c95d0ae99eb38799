//! Handing out replies: what the server sent is split by the script, and each piece goes to the session that asked.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgnet::backend;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::frame;
use pgnet::sqlstate::SqlState;

use super::super::pool::Run;
use super::super::script::{Event, Misfit, Op, Step, To, Verdict};
use super::super::slot::End;
use super::super::turn;
use super::join::READY_IDLE;
use super::task::{Gone, Io};
use super::{FRAME_MAX, Inner, Purpose, SMALL_FRAME_MAX, Shape, State, Worker};
use crate::spread;

/// Splits what was read by the script and hands each piece to the session that asked.
pub(super) fn hand_out(worker: &Rc<Worker>, io: &mut Io) -> Result<(), Gone> {
    let mut guard = worker.inner.borrow_mut();
    let inner = &mut *guard;
    let mut offer = false;
    // Bytes at the front of the buffer that go to the running request's session.
    let mut run = 0;
    loop {
        if io.body_left > 0 {
            let n = io.body_left.min(io.buffer.len() - run);
            if n == 0 {
                break;
            }
            io.body_left -= n;
            if io.body_forward {
                run += n;
            } else {
                drop_bytes(worker, inner, io, &mut run, n);
            }
            continue;
        }
        let header = match frame::peek(&io.buffer[run..], FRAME_MAX) {
            Ok(Some(header)) => header,
            Ok(None) => break,
            Err(_) => {
                return Err(Gone::Misfit(Misfit {
                    tag: char::from(io.buffer[run]),
                }));
            }
        };
        let here = io.buffer.len() - run;
        let total = header.total();
        let looked_at = inner.unconfirmed || inner.counts_named && header.tag == b'C';
        if total <= here && inner.script.merely_passes(header.tag) && !looked_at {
            run += total;
            continue;
        }
        if matches!(header.tag, b'S' | b'A' | b'N' | b'E' | b'C' | b'Z' | b'K' | b'v') {
            if total > SMALL_FRAME_MAX {
                return Err(Gone::Misfit(Misfit {
                    tag: char::from(header.tag),
                }));
            }
            if here < total {
                break;
            }
        }
        let body = &io.buffer[run + 5.min(here)..run + total.min(here)];
        let verdict = match header.tag {
            b'S' => {
                if worker.direct {
                    worker.note_parameter(body);
                }
                if inner.mute {
                    let frame = &io.buffer[run..run + total];
                    inner.muted.push(Bytes::copy_from_slice(frame));
                }
                on_parameter_status(inner)
            }
            b'A' => {
                // It stands behind what came before it, whoever's request runs now.
                let body = body.to_vec();
                deliver(worker, inner, io, &mut run);
                on_notification(worker, inner, &body);
                Verdict::Swallow
            }
            b'N' => on_notice(inner, body)?,
            b'E' => {
                let fields = ErrorFields::decode(body).map_err(|_| Gone::Misfit(Misfit { tag: 'E' }))?;
                if fields.is_fatal() {
                    deliver(worker, inner, io, &mut run);
                    return Err(Gone::Server(Some(Rc::new(fields))));
                }
                let replanned = fields.routine.as_deref() == Some("RevalidateCachedQuery");
                // Or somebody deallocated it where nobody could read it: in a function, in DO.
                if (replanned || fields.code == SqlState::INVALID_SQL_STATEMENT_NAME)
                    && let Some(id) = inner.script.binding()
                {
                    inner.prepared.is_broken(id);
                }
                if fields.code == SqlState::DUPLICATE_PREPARED_STATEMENT
                    && let Some(id) = inner.script.parsing()
                {
                    inner.prepared.is_taken(id);
                }
                if replanned {
                    repeat_with_new_plan(inner, run);
                }
                let at_parse = inner.script.at_parse_of_client();
                let (verdict, _) = inner.script.on_frame(b'E', 0).map_err(Gone::Misfit)?;
                if inner.script.take_owed_sync() {
                    pgnet::frontend::sync(&mut inner.out);
                    inner.script.push(Step::client(Op::Sync).ending());
                }
                if let Some(head) = inner.pending.front_mut() {
                    head.error = true;
                    head.settled.parse_failed |= at_parse;
                }
                inner.unconfirmed = false;
                // A Parse of it may be what was skipped.
                inner.unnamed = None;
                inner.prepared.skipped(inner.script.take_skipped());
                let early = inner.script.take_ended_early();
                if early > 0 {
                    join_no_more(worker, inner);
                    run += total;
                    deliver(worker, inner, io, &mut run);
                    offer |= end_joined(worker, inner)?;
                    inner.repeat_skipped(early - 1, worker);
                    continue;
                }
                verdict
            }
            tag => {
                let status = if tag == b'Z' {
                    body.first().copied().unwrap_or(0)
                } else {
                    0
                };
                if tag == b'C' && inner.counts_named {
                    count_named(inner, body);
                }
                let (mut verdict, event) = inner.script.on_frame(tag, status).map_err(Gone::Misfit)?;
                if inner.unconfirmed && tag == b'C' {
                    inner.unconfirmed = false;
                    verdict = Verdict::Error(unconfirmed());
                }
                if matches!(tag, b'1' | b'3')
                    && !matches!(verdict, Verdict::Swallow)
                    && let Some(head) = inner.pending.front_mut()
                {
                    head.settled.acks += 1;
                }
                match event {
                    Event::None | Event::Error => {}
                    Event::Parsed(id) => inner.prepared.parsed(id),
                    Event::Closed(id) => inner.prepared.closed(id),
                    Event::Described(id, to) => {
                        // Too long to be here as a whole: not looked at.
                        let seen = (here >= total).then(|| spread::add(spread::of(body), u64::from(tag)));
                        let shape = inner.prepared.described(id, seen, || shape_of(tag, body));
                        if to == To::Client
                            && let Some(head) = inner.pending.front_mut()
                        {
                            head.settled.shapes.push(shape);
                        }
                    }
                    Event::CopyIn { reopened } => {
                        let Some(head) = inner.pending.front() else {
                            return Err(Gone::Misfit(Misfit { tag: 'G' }));
                        };
                        if head.purpose != Purpose::Leased {
                            return Err(Gone::Misfit(Misfit { tag: 'G' }));
                        }
                        if let Some(slot) = &head.slot {
                            slot.set_copy_in(reopened);
                        }
                        inner.open_batch |= reopened;
                    }
                    Event::CopyBoth => return Err(Gone::Misfit(Misfit { tag: 'W' })),
                    Event::Answered => {
                        match verdict {
                            Verdict::Forward => run += total,
                            _ => drop_bytes(worker, inner, io, &mut run, total),
                        }
                        deliver(worker, inner, io, &mut run);
                        if let Verdict::Error(fields) = verdict {
                            pass(inner, error_frame(&fields));
                        }
                        offer |= end_joined(worker, inner)?;
                        continue;
                    }
                    Event::Ready { last, status } => {
                        inner.status = status;
                        if inner.unconfirmed {
                            inner.unconfirmed = false;
                            deliver(worker, inner, io, &mut run);
                            pass(inner, error_frame(&unconfirmed()));
                        }
                        let muted = std::mem::take(&mut inner.muted);
                        let failed = inner.pending.front().is_some_and(|head| head.error);
                        if !muted.is_empty() && (failed || status != b'I') {
                            // What an error has rolled back; or what holds until the transaction has ended.
                            deliver(worker, inner, io, &mut run);
                            for frame in muted {
                                pass(inner, frame);
                            }
                        }
                        if (inner.mute || inner.holds_ready) && verdict_forwards(&verdict) {
                            verdict = Verdict::Swallow;
                        }
                        if status == b'T' && inner.strict && verdict_forwards(&verdict) {
                            verdict = Verdict::Swallow;
                            deliver(worker, inner, io, &mut run);
                            pass(inner, error_frame(&left_open()));
                            pass(inner, Bytes::from_static(b"Z\0\0\0\x05E"));
                        }
                        if last {
                            if verdict_forwards(&verdict) {
                                run += total;
                            }
                            deliver(worker, inner, io, &mut run);
                            if !verdict_forwards(&verdict) {
                                io.buffer.advance(total);
                            }
                            offer |= end_request(worker, inner, status)?;
                            continue;
                        }
                    }
                }
                verdict
            }
        };
        match verdict {
            Verdict::Forward => {
                let n = total.min(here);
                run += n;
                io.body_left = total - n;
                io.body_forward = true;
            }
            Verdict::Swallow => {
                let n = total.min(here);
                drop_bytes(worker, inner, io, &mut run, n);
                io.body_left = total - n;
                io.body_forward = false;
            }
            Verdict::ParseComplete => {
                drop_bytes(worker, inner, io, &mut run, total);
                pass(inner, Bytes::from_static(b"1\0\0\0\x04"));
            }
            Verdict::Error(fields) => {
                drop_bytes(worker, inner, io, &mut run, total.min(here));
                io.body_left = total - total.min(here);
                io.body_forward = false;
                pass(inner, error_frame(&fields));
            }
        }
    }
    deliver(worker, inner, io, &mut run);
    account(worker, inner);
    drop(guard);
    if offer {
        worker.offer();
    }
    Ok(())
}

/// The least `limits.clientBuffer` may be.
const CLIENT_BUFFER_MIN: usize = 4 * 1024;

/// Notifications kept between a LISTEN on a worker and its move to the hub, which takes milliseconds.
const HEARD_MAX: usize = 100_000;

/// Requests that ended in one read took the same part of the time since the last: nobody can tell when each of them did.
fn account(worker: &Worker, inner: &mut Inner) {
    let Some((first, _)) = inner.ended.split_first() else {
        return;
    };
    let seen = turn::began();
    let took = seen.saturating_duration_since(inner.head_since);
    let next_turn = turn::count() < inner.head_turn + 2;
    let unwatched = next_turn && !turn::slept();
    let at_most = unwatched && inner.pending.is_empty();
    inner.head_since = seen.max(inner.head_since);
    inner.given_up = false;
    inner.head_turn = turn::count();
    worker.idle_since.set(seen);
    let Some(pool) = worker.pool.upgrade() else {
        return;
    };
    if took >= pool.long() {
        // It was the first that took so long; those behind it only waited.
        let (purpose, shape) = *first;
        let run = Run {
            took,
            unwatched,
            at_most: false,
            long: true,
        };
        pool.served(purpose, shape, run);
        inner.ended.clear();
        return;
    }
    let run = Run {
        took: took / u32::try_from(inner.ended.len()).unwrap_or(u32::MAX),
        at_most,
        unwatched,
        long: false,
    };
    for (purpose, shape) in inner.ended.drain(..) {
        pool.served(purpose, shape, run);
    }
}

/// A hash of what PostgreSQL compares before it says "cached plan must not change result type": names and types of the columns.
fn shape_of(tag: u8, body: &[u8]) -> Shape {
    let mut hasher = std::hash::DefaultHasher::new();
    if tag == b'T' {
        let Ok(backend::Message::RowDescription(columns)) = backend::decode(tag, body) else {
            return None;
        };
        for column in columns.iter() {
            (column.name, column.type_oid, column.type_modifier).hash(&mut hasher);
        }
    }
    Some(hasher.finish())
}

fn verdict_forwards(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Forward)
}

/// What a client is told in statement mode when its statement left a transaction open.
fn left_open() -> ErrorFields {
    ErrorFields::new(
        Severity::Error,
        SqlState::INVALID_TRANSACTION_STATE,
        "the statement left a transaction open, which statement mode does not allow; it was rolled back",
    )
    .with_hint("Use poolMode: transaction for this database or user.")
}

/// What a client is told instead of success when its commit was not confirmed by the synchronous replica (OPERATOR I6).
fn unconfirmed() -> Rc<ErrorFields> {
    Rc::new(
        ErrorFields::new(
            Severity::Error,
            SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            "the commit was not confirmed by a synchronous replica",
        )
        .with_detail("The transaction is committed on the master and may be lost if the master fails now.")
        .with_hint("Check whether it took effect before repeating it."),
    )
}

fn error_frame(fields: &ErrorFields) -> Bytes {
    let mut out = BytesMut::new();
    fields.encode_error(&mut out);
    out.freeze()
}

/// Hands the first `run` bytes of the buffer to the running request's session.
fn deliver(worker: &Rc<Worker>, inner: &mut Inner, io: &mut Io, run: &mut usize) {
    if *run == 0 {
        return;
    }
    let chunk = io.buffer.split_to(*run).freeze();
    *run = 0;
    let length = chunk.len();
    let queued = pass(inner, chunk);
    if queued == length && length <= CLIENT_BUFFER_MIN {
        return;
    }
    if let (Some(pool), Some(slot)) = (
        worker.pool.upgrade(),
        inner.pending.front().and_then(|p| p.slot.as_ref()),
    ) && queued > pool.limits().client_buffer
    {
        inner.blocked = true;
        slot.block(Rc::downgrade(worker));
    }
}

/// "cached plan must not change result type": a known read that asks for the shape of its rows in the same batch is run
/// again with a statement parsed anew. One that does not was described before the table changed: its client has to know.
fn repeat_with_new_plan(inner: &mut Inner, run: usize) {
    let describes = inner.script.request_describes();
    let Some(head) = inner.pending.front_mut() else {
        return;
    };
    if head.purpose == Purpose::Shared
        && describes
        && run == 0
        && !head.forwarded
        && let Some(slot) = head.slot.take()
    {
        slot.end(End::Repeat);
    }
}

/// Gives a piece to the running request's session. Returns what that session has not yet sent on.
fn pass(inner: &mut Inner, chunk: Bytes) -> usize {
    match inner.pending.front_mut() {
        Some(head) => {
            let Some(slot) = &head.slot else { return 0 };
            head.forwarded = true;
            slot.push(chunk)
        }
        None => inner.holder.as_ref().map_or(0, |holder| holder.push(chunk)),
    }
}

/// Drops `n` bytes that stand behind the run.
fn drop_bytes(worker: &Rc<Worker>, inner: &mut Inner, io: &mut Io, run: &mut usize, n: usize) {
    deliver(worker, inner, io, run);
    io.buffer.advance(n);
}

/// CommandComplete: what the holder did to prepared statements by SQL.
fn count_named(inner: &mut Inner, body: &[u8]) {
    let forgets = match body {
        b"PREPARE\0" | b"DEALLOCATE\0" => false,
        b"DEALLOCATE ALL\0" | b"DISCARD ALL\0" => true,
        _ => return,
    };
    let Some(head) = inner.pending.front_mut().filter(|p| p.purpose == Purpose::Leased) else {
        return;
    };
    head.settled.named = head.settled.named.saturating_add(1);
    if forgets {
        inner.prepared.forgotten();
    }
}

/// `S`: never relayed to a session that shares the worker; the holder of a lease sees what its own statement changed.
fn on_parameter_status(inner: &Inner) -> Verdict {
    if inner.mute {
        return Verdict::Swallow;
    }
    match (inner.pending.front(), inner.script.addressee()) {
        (Some(head), Some(To::Client)) if head.purpose == Purpose::Leased => Verdict::Forward,
        (None, _) if inner.holder.is_some() => Verdict::Forward,
        _ => Verdict::Swallow,
    }
}

/// `A`: only a session that holds the worker can have listened on it. In session mode it is told as it is; else it listens at
/// the hub, and decides itself what of this it has not heard there.
fn on_notification(worker: &Worker, inner: &mut Inner, body: &[u8]) {
    let Some(holder) = &inner.holder else {
        return;
    };
    if !worker.direct {
        if inner.heard.len() < HEARD_MAX {
            inner.heard.push(Bytes::copy_from_slice(body));
        }
        return;
    }
    let mut frame = BytesMut::with_capacity(body.len() + 5);
    frame.put_u8(b'A');
    frame.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    frame.extend_from_slice(body);
    holder.push(frame.freeze());
}

/// `N`: to the session whose statement raised it. A server that says goodbye is taken at its word.
fn on_notice(inner: &mut Inner, body: &[u8]) -> Result<Verdict, Gone> {
    let fields = ErrorFields::decode(body).map_err(|_| Gone::Misfit(Misfit { tag: 'N' }))?;
    if matches!(fields.code, SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN) {
        return Err(Gone::Server(Some(Rc::new(fields))));
    }
    if fields.code == SqlState::WARNING && fields.routine.as_deref() == Some("SyncRepWaitForLSN") {
        inner.unconfirmed = true;
    }
    Ok(match inner.script.addressee() {
        Some(To::Client) => Verdict::Forward,
        None if inner.pending.is_empty() && inner.holder.is_some() => Verdict::Forward,
        _ => Verdict::Swallow,
    })
}

/// Reads of this shape fail: as long as they do, none is to have others run again.
fn join_no_more(worker: &Worker, inner: &Inner) {
    if let (Some(pool), Some(head)) = (worker.pool.upgrade(), inner.pending.front()) {
        pool.failed_among_others(head.shape);
    }
}

/// The running read, which has its Sync from one behind it, is over. See [`end_request`].
fn end_joined(worker: &Rc<Worker>, inner: &mut Inner) -> Result<bool, Gone> {
    pass(inner, READY_IDLE);
    if let Some(pool) = worker.pool.upgrade() {
        pool.counters().reads_joined.add(1);
    }
    end_request(worker, inner, b'I')
}

/// The running request is over. True if the worker is to be offered.
fn end_request(worker: &Rc<Worker>, inner: &mut Inner, status: u8) -> Result<bool, Gone> {
    let Some(head) = inner.pending.pop_front() else {
        return Err(Gone::Misfit(Misfit { tag: 'Z' }));
    };
    worker
        .expected
        .set(worker.expected.get().saturating_sub(head.expected));
    if head.error
        && let Some(pool) = worker.pool.upgrade()
    {
        pool.counters().server_errors.add(1);
    }
    inner.ended.push((head.purpose, head.shape));
    let end = End::Done {
        status,
        error: head.error,
        settled: head.settled,
    };
    match head.purpose {
        Purpose::Shared => {
            if let Some(slot) = head.slot {
                slot.end(end);
            }
            // A known read cannot open a transaction; if one did all the same, nobody may stand behind it.
            if status != b'I' {
                return Err(Gone::Misfit(Misfit {
                    tag: char::from(status),
                }));
            }
            if inner.pending.is_empty() && worker.tickets.get() == 0 {
                worker.state.set(State::Idle);
            }
            Ok(true)
        }
        Purpose::Leased | Purpose::Internal => {
            if let Some(slot) = head.slot {
                slot.end(end);
            }
            Ok(false)
        }
        Purpose::Ending => {
            if let Some(slot) = head.slot {
                slot.end(end);
            }
            if head.error || status != b'I' {
                return Err(Gone::Closed("a transaction that only read could not be ended"));
            }
            Ok(false)
        }
        Purpose::Clean => {
            if head.error || status != b'I' {
                return Err(Gone::Closed("could not be cleaned"));
            }
            worker.state.set(State::Idle);
            Ok(true)
        }
    }
}

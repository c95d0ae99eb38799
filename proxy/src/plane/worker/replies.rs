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
    let mut reading = Reading {
        worker,
        inner: &mut guard,
        io,
        run: 0,
        offer: false,
    };
    while reading.take_frame()? {}
    reading.deliver();
    let offer = reading.offer;
    account(worker, &mut guard);
    drop(guard);
    if offer {
        worker.offer();
    }
    Ok(())
}

/// A frame at the front of what was read: its tag, its length, and how much of it is there.
#[derive(Clone, Copy)]
struct Piece {
    tag: u8,
    total: usize,
    here: usize,
}

impl Piece {
    /// What there is of its body; it begins behind the first `run` bytes.
    fn body(self, io: &Io, run: usize) -> &[u8] {
        &io.buffer[run + 5.min(self.here)..run + self.total.min(self.here)]
    }
}

/// Messages that are read here, so as a whole.
fn is_read(tag: u8) -> bool {
    matches!(tag, b'S' | b'A' | b'N' | b'E' | b'C' | b'Z' | b'K' | b'v')
}

/// What was read, while it is handed out.
struct Reading<'a> {
    worker: &'a Rc<Worker>,
    inner: &'a mut Inner,
    io: &'a mut Io,
    /// Bytes at the front of the buffer that go to the running request's session.
    run: usize,
    /// The worker is to be offered.
    offer: bool,
}

impl Reading<'_> {
    /// Takes in a frame, or what there is of the rest of one. False: nothing more can be done with what is there.
    fn take_frame(&mut self) -> Result<bool, Gone> {
        if self.io.body_left > 0 {
            return Ok(self.take_rest());
        }
        let misfit = |tag| Gone::Misfit(Misfit { tag: char::from(tag) });
        let unread = &self.io.buffer[self.run..];
        let header = match frame::peek(unread, FRAME_MAX) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(false),
            Err(_) => return Err(misfit(unread[0])),
        };
        let piece = Piece {
            tag: header.tag,
            total: header.total(),
            here: unread.len(),
        };
        let is_whole = piece.total <= piece.here;
        let looked_at = self.inner.unconfirmed || self.inner.counts_named && piece.tag == b'C';
        if is_whole && self.inner.script.merely_passes(piece.tag) && !looked_at {
            self.run += piece.total;
            return Ok(true);
        }
        if is_read(piece.tag) {
            if piece.total > SMALL_FRAME_MAX {
                return Err(misfit(piece.tag));
            }
            if !is_whole {
                return Ok(false);
            }
        }
        let verdict = match piece.tag {
            b'S' => Some(self.take_parameter(piece)),
            b'A' => {
                self.take_notification(piece);
                Some(Verdict::Swallow)
            }
            b'N' => Some(on_notice(self.inner, piece.body(self.io, self.run))?),
            b'E' => self.take_error(piece)?,
            _ => self.take_answer(piece)?,
        };
        if let Some(verdict) = verdict {
            self.carry_out(verdict, piece);
        }
        Ok(true)
    }

    /// More of a frame that did not come as a whole.
    fn take_rest(&mut self) -> bool {
        let n = self.io.body_left.min(self.io.buffer.len() - self.run);
        self.io.body_left -= n;
        if self.io.body_forward {
            self.run += n;
        } else {
            self.drop_bytes(n);
        }
        n > 0
    }

    /// Passes a frame on, drops it, or puts another in its place.
    fn carry_out(&mut self, verdict: Verdict, piece: Piece) {
        let here = piece.total.min(piece.here);
        let forwards = verdict_forwards(&verdict);
        if forwards {
            self.run += here;
        } else {
            self.drop_bytes(here);
        }
        self.io.body_left = piece.total - here;
        self.io.body_forward = forwards;
        match verdict {
            Verdict::Forward | Verdict::Swallow => {}
            Verdict::ParseComplete => drop(pass(self.inner, Bytes::from_static(b"1\0\0\0\x04"))),
            Verdict::Error(fields) => drop(pass(self.inner, error_frame(&fields))),
        }
    }

    /// `S`: never relayed to a session that shares the worker; the holder of a lease sees what its own statement changed.
    fn take_parameter(&mut self, piece: Piece) -> Verdict {
        if self.worker.direct {
            self.worker.note_parameter(piece.body(self.io, self.run));
        }
        if self.inner.mute {
            let frame = &self.io.buffer[self.run..self.run + piece.total];
            self.inner.muted.push(Bytes::copy_from_slice(frame));
            return Verdict::Swallow;
        }
        match (self.inner.pending.front(), self.inner.script.addressee()) {
            (Some(head), Some(To::Client)) if head.purpose == Purpose::Leased => Verdict::Forward,
            (None, _) if self.inner.holder.is_some() => Verdict::Forward,
            _ => Verdict::Swallow,
        }
    }

    /// `A`: it stands behind what came before it, whoever's request runs now.
    fn take_notification(&mut self, piece: Piece) {
        let body = piece.body(self.io, self.run).to_vec();
        self.deliver();
        on_notification(self.worker, self.inner, &body);
    }

    /// `E`. `None`: it is dealt with.
    fn take_error(&mut self, piece: Piece) -> Result<Option<Verdict>, Gone> {
        let fields = ErrorFields::decode(piece.body(self.io, self.run))
            .map_err(|_| Gone::Misfit(Misfit { tag: 'E' }))?;
        if fields.is_fatal() {
            self.deliver();
            return Err(Gone::Server(Some(Rc::new(fields))));
        }
        let inner = &mut *self.inner;
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
            repeat_with_new_plan(inner, self.run);
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
        if early == 0 {
            return Ok(Some(verdict));
        }
        join_no_more(self.worker, inner);
        self.run += piece.total;
        self.deliver();
        self.offer |= end_joined(self.worker, self.inner)?;
        self.inner.repeat_skipped(early - 1, self.worker);
        Ok(None)
    }

    /// Whatever else a server says. `None`: it is dealt with.
    fn take_answer(&mut self, piece: Piece) -> Result<Option<Verdict>, Gone> {
        let Piece { tag, total, here } = piece;
        let status = match tag {
            b'Z' => piece.body(self.io, self.run).first().copied().unwrap_or(0),
            _ => 0,
        };
        if tag == b'C' && self.inner.counts_named {
            count_named(self.inner, piece.body(self.io, self.run));
        }
        let (mut verdict, event) = self.inner.script.on_frame(tag, status).map_err(Gone::Misfit)?;
        if self.inner.unconfirmed && tag == b'C' {
            self.inner.unconfirmed = false;
            verdict = Verdict::Error(unconfirmed());
        }
        if matches!(tag, b'1' | b'3')
            && !matches!(verdict, Verdict::Swallow)
            && let Some(head) = self.inner.pending.front_mut()
        {
            head.settled.acks += 1;
        }
        match event {
            Event::None | Event::Error => {}
            Event::Parsed(id) => self.inner.prepared.parsed(id),
            Event::Closed(id) => self.inner.prepared.closed(id),
            Event::Described(id, to) => {
                let body = piece.body(self.io, self.run);
                // Too long to be here as a whole: not looked at.
                let seen = (here >= total).then(|| spread::add(spread::of(body), u64::from(tag)));
                let shape = self.inner.prepared.described(id, seen, || shape_of(tag, body));
                if to == To::Client
                    && let Some(head) = self.inner.pending.front_mut()
                {
                    head.settled.shapes.push(shape);
                }
            }
            Event::CopyIn { reopened } => {
                let head = self.inner.pending.front();
                let Some(head) = head.filter(|head| head.purpose == Purpose::Leased) else {
                    return Err(Gone::Misfit(Misfit { tag: 'G' }));
                };
                if let Some(slot) = &head.slot {
                    slot.set_copy_in(reopened);
                }
                self.inner.open_batch |= reopened;
            }
            Event::CopyBoth => return Err(Gone::Misfit(Misfit { tag: 'W' })),
            Event::Answered => {
                self.carry_out(verdict, piece);
                self.deliver();
                self.offer |= end_joined(self.worker, self.inner)?;
                return Ok(None);
            }
            Event::Ready { last, status } => {
                let verdict = self.before_ready(verdict, status);
                self.carry_out(verdict, piece);
                if last {
                    self.deliver();
                    self.offer |= end_request(self.worker, self.inner, status)?;
                }
                return Ok(None);
            }
        }
        Ok(Some(verdict))
    }

    /// What the client is told before it is told `Z`, and whether it is.
    fn before_ready(&mut self, verdict: Verdict, status: u8) -> Verdict {
        self.inner.status = status;
        if self.inner.unconfirmed {
            self.inner.unconfirmed = false;
            self.deliver();
            pass(self.inner, error_frame(&unconfirmed()));
        }
        let muted = std::mem::take(&mut self.inner.muted);
        let failed = self.inner.pending.front().is_some_and(|head| head.error);
        if !muted.is_empty() && (failed || status != b'I') {
            // What an error has rolled back; or what holds until the transaction has ended.
            self.deliver();
            for frame in muted {
                pass(self.inner, frame);
            }
        }
        if !verdict_forwards(&verdict) {
            return verdict;
        }
        if self.inner.mute || self.inner.holds_ready {
            return Verdict::Swallow;
        }
        if status == b'T' && self.inner.strict {
            self.deliver();
            pass(self.inner, error_frame(&left_open()));
            pass(self.inner, Bytes::from_static(b"Z\0\0\0\x05E"));
            return Verdict::Swallow;
        }
        verdict
    }

    /// Hands what is to be passed on to the running request's session.
    fn deliver(&mut self) {
        if self.run == 0 {
            return;
        }
        let chunk = self.io.buffer.split_to(self.run).freeze();
        self.run = 0;
        let length = chunk.len();
        let queued = pass(self.inner, chunk);
        if queued == length && length <= CLIENT_BUFFER_MIN {
            return;
        }
        if let (Some(pool), Some(slot)) = (
            self.worker.pool.upgrade(),
            self.inner.pending.front().and_then(|p| p.slot.as_ref()),
        ) && queued > pool.limits().client_buffer
        {
            self.inner.blocked = true;
            slot.block(Rc::downgrade(self.worker));
        }
    }

    /// Drops `n` bytes that stand behind what is to be passed on.
    fn drop_bytes(&mut self, n: usize) {
        self.deliver();
        self.io.buffer.advance(n);
    }
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

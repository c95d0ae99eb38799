//! A worker: one authenticated connection to a server, and the requests queued on it.
//!
//! Sessions append whole requests ([`Worker::enqueue`]) or hold it alone. The worker's task writes what was appended in one go, splits
//! what it reads by the script, and hands each piece to the session that asked. It must never hand a frame to anybody else:
//! whatever the script does not allow closes the connection.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgnet::client::Established;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;
use pgnet::stream::Stream;
use pgnet::{frame, frontend};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tracing::{debug, warn};

use super::pool::Pool;
use super::script::{Event, Misfit, Op, Script, Step, To, Verdict};
use super::settings::Settings;
use super::slot::{End, Slot};
use super::statement::{Statement, StatementId};
use super::topology::Server;

/// First size of a read buffer; it grows while reads fill it.
const READ_MIN: usize = 8 * 1024;
/// Largest size of a read.
const READ_MAX: usize = 256 * 1024;
/// Longest error, notice or status message a server may send; longer ones close the worker.
const SMALL_FRAME_MAX: usize = 1 << 20;
/// Longest frame of a server: what the protocol allows.
const FRAME_MAX: u32 = i32::MAX as u32;

/// Undoes everything a request may have left in a session, except prepared statements (ours) and sequences' last values
/// (they belong to the session the worker is tagged with). MULTIPLEXING, "State that leaks".
const CLEAN: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; \
                     SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP";

/// What a request in the queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A known read among others.
    Shared,
    /// A request of the session that holds the worker.
    Leased,
    /// The proxy's own: its rows go to an internal slot.
    Internal,
    /// Clean-up between two holders: on its success the worker is offered again.
    Clean,
}

/// A request in the queue.
struct Pending {
    slot: Option<Rc<Slot>>,
    purpose: Purpose,
    forwarded: bool,
    error: bool,
    acks: u32,
    shape: u64,
    /// Time it is expected to take, in microseconds.
    expected: u32,
}

/// How far a statement is on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prepared {
    /// Its Parse is in the queue.
    InFlight(u32),
    /// The server has it.
    Ready,
    /// The server has it, perhaps for tables that have changed since: a client's own Parse replaces it.
    Stale,
    /// Its tables have changed, and its clients have been told: parsed anew at its next use.
    Broken,
}

struct Inner {
    out: BytesMut,
    script: Script,
    pending: VecDeque<Pending>,
    prepared: HashMap<StatementId, (Prepared, u64, Rc<Statement>)>,
    waker: Option<Waker>,
    blocked: bool,
    /// Status of the last `Z`.
    status: u8,
    /// Messages of the holder's batch were written and no Sync yet.
    open_batch: bool,
    /// A synchronous replica did not confirm: the next CommandComplete or `Z` must not look like success.
    unconfirmed: bool,
    /// Session whose statement is the server's unnamed one.
    unnamed: Option<(u64, StatementId)>,
    head_since: Instant,
    closing: Option<&'static str>,
    clock: u64,
    /// Who holds the worker: gets what comes between its requests.
    holder: Option<Rc<Slot>>,
    /// Who waits until everything is written.
    writing: Option<Waker>,
    /// No request may leave a transaction open: one that does is shown as failed.
    strict: bool,
    /// ParameterStatus is not passed on: the session computes its own (RESET returns to the worker's base, not to the session's).
    mute: bool,
}

/// What the pool has to know of a worker to offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing owed, clean, offered.
    Idle,
    /// Known reads in its queue.
    Shared,
    /// Held by a session.
    Leased,
    /// Held, and kept although idle, because of state that cannot be moved.
    Pinned,
    /// Being cleaned.
    Cleaning,
    /// Gone.
    Closed,
}

impl State {
    /// As SHOW SERVERS names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Shared => "shared",
            Self::Leased => "leased",
            Self::Pinned => "pinned",
            Self::Cleaning => "cleaning",
            Self::Closed => "closing",
        }
    }
}

/// See the module.
pub(super) struct Worker {
    pub(super) id: u64,
    pub(super) pool: Weak<Pool>,
    pub(super) server: Arc<Server>,
    pub(super) process_id: i32,
    pub(super) cancel_key: Bytes,
    pub(super) base: Rc<Settings>,
    pub(super) born: Instant,
    /// When it stops being offered (lifetime with jitter).
    pub(super) retire_at: Option<Instant>,
    pub(super) state: Cell<State>,
    pub(super) idle_since: Cell<Instant>,
    pub(super) requests: Cell<u64>,
    /// CancelRequests under way: nothing is appended until their sockets reached EOF.
    pub(super) fences: Cell<u32>,
    /// No more shared requests: somebody waits to have it alone, or it is to be closed.
    pub(super) reserved: Cell<bool>,
    /// To be closed as soon as it is idle.
    pub(super) condemned: Cell<bool>,
    /// Requests on their way to its shared queue.
    pub(super) tickets: Cell<u32>,
    /// Somebody prepared statements on it under names of its own.
    pub(super) foreign_prepared: Cell<bool>,
    pub(super) cleaning_since: Cell<Instant>,
    /// Process id of the client that holds it or held it last: who sent a notification from here.
    pub(super) last_client: Cell<i32>,
    /// Sum of what its queue is expected to take, in microseconds.
    expected: Cell<u32>,
    /// Session whose nextval it saw last.
    pub(super) sequences_of: Cell<Option<u64>>,
    /// Custom settings (`app.x`) ever set here: they read as '' instead of NULL for ever.
    pub(super) custom: RefCell<std::collections::BTreeSet<String>>,
    inner: RefCell<Inner>,
}

impl Worker {
    /// Makes a worker of an established connection and starts its task.
    pub(super) fn start(
        id: u64,
        pool: &Rc<Pool>,
        established: Established,
        base: Rc<Settings>,
        retire_at: Option<Instant>,
    ) -> Rc<Self> {
        let now = Instant::now();
        let custom = base
            .iter()
            .map(|(n, _)| n)
            .filter(|n| n.contains('.'))
            .map(str::to_owned)
            .collect();
        let worker = Rc::new(Self {
            id,
            pool: Rc::downgrade(pool),
            server: pool.server.clone(),
            process_id: established.process_id,
            cancel_key: established.cancel_key,
            base,
            born: now,
            retire_at,
            state: Cell::new(State::Idle),
            idle_since: Cell::new(now),
            requests: Cell::new(0),
            fences: Cell::new(0),
            reserved: Cell::new(false),
            condemned: Cell::new(false),
            tickets: Cell::new(0),
            foreign_prepared: Cell::new(false),
            cleaning_since: Cell::new(now),
            last_client: Cell::new(0),
            expected: Cell::new(0),
            sequences_of: Cell::new(None),
            custom: RefCell::new(custom),
            inner: RefCell::new(Inner {
                out: BytesMut::new(),
                script: Script::default(),
                pending: VecDeque::new(),
                prepared: HashMap::new(),
                waker: None,
                blocked: false,
                status: b'I',
                open_batch: false,
                unconfirmed: false,
                unnamed: None,
                head_since: now,
                closing: None,
                clock: 0,
                holder: None,
                writing: None,
                strict: false,
                mute: false,
            }),
        });
        let io = Io::new(established.stream, established.buffered);
        tokio::task::spawn_local(run(worker.clone(), io));
        worker
    }

    /// Requests in the queue, the running one included.
    pub(super) fn depth(&self) -> usize {
        self.inner.borrow().pending.len() + self.tickets.get() as usize
    }

    /// How long a request appended now is expected to wait.
    pub(super) fn expected_wait(&self) -> Duration {
        Duration::from_micros(u64::from(self.expected.get()))
    }

    /// Prepared statements on it.
    pub(super) fn prepared_count(&self) -> usize {
        self.inner.borrow().prepared.len()
    }

    /// How long the server has been at the running request.
    pub(super) fn head_age(&self, now: Instant) -> Duration {
        let inner = self.inner.borrow();
        if inner.pending.is_empty() {
            Duration::ZERO
        } else {
            now.saturating_duration_since(inner.head_since)
        }
    }

    /// Status of the last `Z`.
    pub(super) fn status(&self) -> u8 {
        self.inner.borrow().status
    }

    /// Nothing owed, nothing half sent, no COPY, no cancel under way, status idle.
    pub(super) fn is_quiet(&self) -> bool {
        let inner = self.inner.borrow();
        inner.script.is_empty() && !inner.open_batch && inner.status == b'I' && self.fences.get() == 0
    }

    /// Bytes appended and not yet written.
    pub(super) fn unwritten(&self) -> usize {
        self.inner.borrow().out.len()
    }

    /// Appends a request. `compose` writes its bytes and steps; it must end with a Sync, Query or FunctionCall step.
    pub(super) fn enqueue<R>(
        &self,
        purpose: Purpose,
        slot: Option<Rc<Slot>>,
        shape: u64,
        expected: Duration,
        compose: impl FnOnce(&mut Composer<'_>) -> R,
    ) -> R {
        let mut inner = self.inner.borrow_mut();
        if inner.pending.is_empty() {
            inner.head_since = Instant::now();
        }
        let expected = u32::try_from(expected.as_micros()).unwrap_or(u32::MAX / 64);
        self.expected.set(self.expected.get().saturating_add(expected));
        inner.pending.push_back(Pending {
            slot,
            purpose,
            forwarded: false,
            error: false,
            acks: 0,
            shape,
            expected,
        });
        let result = compose(&mut Composer { inner: &mut inner });
        inner.script.end_request();
        self.requests.set(self.requests.get() + 1);
        inner.wake();
        result
    }

    /// Adds to the holder's batch: messages before their Sync. The first call opens a request, [`Worker::finish_batch`] ends it.
    pub(super) fn stream<R>(&self, slot: &Rc<Slot>, compose: impl FnOnce(&mut Composer<'_>) -> R) -> R {
        let mut inner = self.inner.borrow_mut();
        if !inner.open_batch {
            if inner.pending.is_empty() {
                inner.head_since = Instant::now();
            }
            inner.open_batch = true;
            inner.pending.push_back(Pending {
                slot: Some(slot.clone()),
                purpose: Purpose::Leased,
                forwarded: false,
                error: false,
                acks: 0,
                shape: 0,
                expected: 0,
            });
            self.requests.set(self.requests.get() + 1);
        }
        let result = compose(&mut Composer { inner: &mut inner });
        inner.wake();
        result
    }

    /// The holder's batch got its Sync (or was a Query): the request ends with its `Z`.
    pub(super) fn finish_batch(&self) {
        let mut inner = self.inner.borrow_mut();
        // A server that skips to the next Sync answers nothing before it, not even a Query.
        if !inner.script.is_skipping() {
            inner.open_batch = false;
            inner.script.end_request();
        }
    }

    /// Who holds the worker, if it is held: its slot, and its client's process id.
    pub(super) fn set_holder(&self, holder: Option<(Rc<Slot>, i32)>) {
        if let Some((_, client)) = &holder {
            self.last_client.set(*client);
        }
        self.inner.borrow_mut().holder = holder.map(|(slot, _)| slot);
    }

    /// Whether requests that leave a transaction open are shown as failed (statement mode).
    pub(super) fn set_strict(&self, strict: bool) {
        self.inner.borrow_mut().strict = strict;
    }

    /// Whether ParameterStatus is kept from the holder.
    pub(super) fn mute(&self, mute: bool) {
        self.inner.borrow_mut().mute = mute;
    }

    /// Wakes this task when everything appended is written.
    pub(super) fn tell_when_written(&self, waker: &Waker) {
        self.inner.borrow_mut().writing = Some(waker.clone());
    }

    /// Custom settings (with a dot) that were set here, if only for a moment.
    pub(super) fn note_custom<'a>(&self, names: impl Iterator<Item = &'a str>) {
        for name in names.filter(|n| n.contains('.')) {
            let mut custom = self.custom.borrow_mut();
            if !custom.contains(name) {
                custom.insert(name.to_owned());
            }
        }
    }

    /// Nobody else may get it: closed as soon as it is free.
    pub(super) fn condemn(&self) {
        self.condemned.set(true);
        self.reserved.set(true);
    }

    /// A cancel has been carried out: the worker may be offered again, if nothing else is in the way.
    pub(super) fn fence_ended(self: &Rc<Self>, pool: &Rc<Pool>) {
        if self.fences.get() == 0 && self.state.get() == State::Idle {
            pool.offer(self);
        }
    }

    /// Raw bytes of COPY data, or of a message too large to hold.
    pub(super) fn append_raw(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.out.extend_from_slice(bytes);
        inner.wake();
    }

    /// CopyDone or CopyFail was sent.
    pub(super) fn copy_ended(&self) {
        self.inner.borrow_mut().script.copy_ended();
    }

    /// The server reads CopyData.
    pub(super) fn copying_in(&self) -> bool {
        self.inner.borrow().script.copying_in()
    }

    /// Messages of the holder's batch were sent without Sync yet.
    pub(super) fn batch_is_open(&self) -> bool {
        self.inner.borrow().open_batch
    }

    /// DISCARD ALL, DEALLOCATE ALL: the server has no prepared statements now.
    pub(super) fn forget_prepared(&self) {
        self.inner.borrow_mut().prepared.clear();
    }

    /// Tables may have changed: statements are parsed anew at their next use.
    pub(super) fn distrust_prepared(&self) {
        self.inner.borrow_mut().distrust_prepared();
    }

    /// The client has room again.
    pub(super) fn unblock(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.blocked = false;
        inner.wake();
    }

    /// Closes the connection; `why` is for the log.
    pub(super) fn close(&self, why: &'static str) {
        let mut inner = self.inner.borrow_mut();
        if inner.closing.is_none() {
            inner.closing = Some(why);
        }
        inner.wake();
    }

    /// The requests behind the running one go elsewhere; their replies here are dropped.
    pub(super) fn detach_followers(&self) -> usize {
        let mut inner = self.inner.borrow_mut();
        let mut moved = 0;
        for pending in inner.pending.iter_mut().skip(1) {
            if pending.purpose == Purpose::Shared
                && let Some(slot) = pending.slot.take()
            {
                slot.end(End::Repeat);
                moved += 1;
            }
        }
        moved
    }

    /// Where the request of `slot` stands: 0 is running, `None` not here.
    pub(super) fn position(&self, slot: &Rc<Slot>) -> Option<usize> {
        self.inner
            .borrow()
            .pending
            .iter()
            .position(|p| p.slot.as_ref().is_some_and(|s| Rc::ptr_eq(s, slot)))
    }

    /// Takes the request of `slot` out of the conversation: its reply is dropped.
    pub(super) fn detach(&self, slot: &Rc<Slot>) {
        for pending in &mut self.inner.borrow_mut().pending {
            if pending.slot.as_ref().is_some_and(|s| Rc::ptr_eq(s, slot)) {
                pending.slot = None;
            }
        }
    }

    /// The holder left, whatever it was doing. Ends a COPY and an open batch, rolls back, cleans; the worker is offered
    /// again when all of that has succeeded.
    pub(super) fn abandon(&self) {
        let mut inner = self.inner.borrow_mut();
        for pending in &mut inner.pending {
            pending.slot = None;
        }
        inner.blocked = false;
        let Inner { out, script, .. } = &mut *inner;
        if script.copying_in() {
            frontend::copy_fail(out, b"client disconnected");
            script.copy_ended();
        }
        if inner.open_batch {
            // A Sync alone would commit what the client never asked to be committed: let the batch fail first.
            frontend::execute(&mut inner.out, NO_PORTAL, 0);
            inner.script.push(Step::nobody(Op::Execute));
            frontend::sync(&mut inner.out);
            inner.script.push(Step::nobody(Op::Sync).ending());
            inner.open_batch = false;
        }
        drop(inner);
        self.clean(true);
    }

    /// Cleans the worker; with `roll_back` it first leaves any transaction.
    pub(super) fn clean(&self, roll_back: bool) {
        self.state.set(State::Cleaning);
        self.cleaning_since.set(Instant::now());
        if roll_back {
            self.enqueue(Purpose::Internal, None, 0, Duration::ZERO, |c| {
                c.query_for_nobody(b"ROLLBACK")
            });
        }
        if self.foreign_prepared.replace(false) {
            self.forget_prepared();
            self.enqueue(Purpose::Internal, None, 0, Duration::ZERO, |c| {
                c.query_for_nobody(b"DEALLOCATE ALL")
            });
        }
        self.enqueue(Purpose::Clean, None, 0, Duration::ZERO, |c| {
            c.query_for_nobody(CLEAN.as_bytes())
        });
    }

    /// See [`Pool::offer`].
    fn offer(self: &Rc<Self>) {
        if let Some(pool) = self.pool.upgrade() {
            pool.offer(self);
        }
    }
}

/// Writes requests into the worker's buffer and its script.
pub(super) struct Composer<'a> {
    inner: &'a mut Inner,
}

impl Composer<'_> {
    /// The buffer to append frames to; each that is answered needs a [`Composer::step`].
    pub(super) fn out(&mut self) -> &mut BytesMut {
        &mut self.inner.out
    }

    /// Records what the server will answer.
    pub(super) fn step(&mut self, step: Step) {
        if matches!(step.op, Op::Query | Op::Function) {
            self.inner.unnamed = None;
        }
        self.inner.script.push(step);
    }

    /// A simple Query whose answer nobody sees.
    pub(super) fn query_for_nobody(&mut self, sql: &[u8]) {
        frontend::query(&mut self.inner.out, sql);
        self.step(Step::nobody(Op::Query));
    }

    /// Whether the server's unnamed statement is this one of this session.
    pub(super) fn unnamed_is(&self, session: u64, id: StatementId) -> bool {
        self.inner.unnamed == Some((session, id))
    }

    /// The server's unnamed statement is now this one.
    pub(super) fn set_unnamed(&mut self, unnamed: Option<(u64, StatementId)>) {
        self.inner.unnamed = unnamed;
    }

    /// Makes sure the server has `statement` by the time it reads what is appended next.
    pub(super) fn ensure(&mut self, statement: &Rc<Statement>, cap: usize) {
        self.inner.clock += 1;
        let clock = self.inner.clock;
        match self.inner.prepared.get_mut(&statement.id) {
            Some((Prepared::Ready | Prepared::Stale, used, _)) => *used = clock,
            Some((state @ Prepared::Broken, used, _)) => {
                *state = Prepared::InFlight(1);
                *used = clock;
                frontend::close_statement(&mut self.inner.out, &statement.name);
                self.inner.script.push(Step::nobody(Op::Close(None)));
                self.parse(statement, To::Nobody);
            }
            Some((Prepared::InFlight(n), used, _)) => {
                // Its Parse may yet be skipped by an error before it. Close of what is not there is fine.
                *n += 1;
                *used = clock;
                frontend::close_statement(&mut self.inner.out, &statement.name);
                self.inner.script.push(Step::nobody(Op::Close(None)));
                self.parse(statement, To::Nobody);
            }
            None => {
                self.evict(cap);
                self.inner
                    .prepared
                    .insert(statement.id, (Prepared::InFlight(1), clock, statement.clone()));
                self.parse(statement, To::Nobody);
            }
        }
    }

    /// The client's own Parse of `statement`: sent if the server lacks it, else a Close of nothing stands in for it.
    pub(super) fn client_parse(&mut self, statement: &Rc<Statement>, cap: usize) {
        self.inner.clock += 1;
        let clock = self.inner.clock;
        match self.inner.prepared.get_mut(&statement.id) {
            Some((Prepared::Ready, used, _)) => {
                *used = clock;
                frontend::close_statement(&mut self.inner.out, NO_STATEMENT);
                self.inner.script.push(Step::client(Op::ParseStandIn));
            }
            Some((state @ (Prepared::Stale | Prepared::Broken), used, _)) => {
                *state = Prepared::InFlight(1);
                *used = clock;
                frontend::close_statement(&mut self.inner.out, &statement.name);
                self.inner.script.push(Step::nobody(Op::Close(None)));
                self.parse(statement, To::Client);
            }
            Some((Prepared::InFlight(n), used, _)) => {
                *n += 1;
                *used = clock;
                frontend::close_statement(&mut self.inner.out, &statement.name);
                self.inner.script.push(Step::nobody(Op::Close(None)));
                self.parse(statement, To::Client);
            }
            None => {
                self.evict(cap);
                self.inner
                    .prepared
                    .insert(statement.id, (Prepared::InFlight(1), clock, statement.clone()));
                self.parse(statement, To::Client);
            }
        }
    }

    fn parse(&mut self, statement: &Rc<Statement>, to: To) {
        let out = &mut self.inner.out;
        let start = out.len();
        out.extend_from_slice(b"P\0\0\0\0");
        out.extend_from_slice(&statement.name);
        out.extend_from_slice(b"\0");
        out.extend_from_slice(&statement.key.text);
        out.extend_from_slice(b"\0");
        out.extend_from_slice(&statement.key.types);
        patch_length(out, start);
        self.inner.script.push(Step {
            op: Op::Parse(Some(statement.id)),
            to,
            last: false,
        });
    }

    /// Makes room for one more statement: the one used longest ago is closed.
    fn evict(&mut self, cap: usize) {
        while self.inner.prepared.len() >= cap.max(1) {
            let oldest = self
                .inner
                .prepared
                .iter()
                .filter(|(_, (prepared, _, _))| !matches!(prepared, Prepared::InFlight(_)))
                .min_by_key(|(_, (_, used, _))| *used)
                .map(|(id, _)| *id);
            let Some(id) = oldest else { return };
            self.inner.prepared.remove(&id);
            frontend::close_statement(&mut self.inner.out, id.server_name().as_bytes());
            self.inner.script.push(Step::nobody(Op::Close(None)));
        }
    }
}

/// A name no statement has.
pub(super) const NO_STATEMENT: &[u8] = b"pgp_none";
/// A name no portal has.
pub(super) const NO_PORTAL: &[u8] = b"pgp_none";

/// Writes the length word of the frame that starts at `start`.
pub(super) fn patch_length(out: &mut BytesMut, start: usize) {
    let len = u32::try_from(out.len() - start - 1).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
}

impl Inner {
    fn distrust_prepared(&mut self) {
        for (prepared, _, _) in self.prepared.values_mut() {
            if *prepared == Prepared::Ready {
                *prepared = Prepared::Stale;
            }
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The socket side of a worker.
struct Io {
    stream: Stream,
    buffer: BytesMut,
    read_size: usize,
    /// Bytes of a frame's body still to come, and whether they are passed on.
    body_left: usize,
    body_forward: bool,
    overrun: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Io {
    fn new(stream: Stream, buffer: BytesMut) -> Self {
        Self {
            stream,
            buffer,
            read_size: READ_MIN,
            body_left: 0,
            body_forward: false,
            overrun: None,
        }
    }
}

/// Why a worker's task ended.
enum Gone {
    /// We closed it.
    Closed(&'static str),
    /// The server closed it, with or without a word.
    Server(Option<Rc<ErrorFields>>),
    /// It answered what nobody asked.
    Misfit(Misfit),
}

async fn run(worker: Rc<Worker>, mut io: Io) {
    let gone = poll_fn(|cx| poll(&worker, &mut io, cx)).await;
    let said = match gone {
        Gone::Closed(why) => {
            debug!(worker = worker.id, why, "Closed");
            None
        }
        Gone::Server(said) => {
            let text = said.as_ref().map(|f| f.message.clone());
            debug!(worker = worker.id, said = text, "Lost");
            said
        }
        Gone::Misfit(misfit) => {
            warn!(worker = worker.id, server = %worker.server.name, %misfit, "Closed: the server answered what nobody asked");
            if let Some(pool) = worker.pool.upgrade() {
                pool.counters().misfits.add(1);
            }
            None
        }
    };
    lose(&worker, said, io.body_left > 0 && io.body_forward);
    // A polite goodbye; the socket is closed either way.
    let mut bye = BytesMut::new();
    frontend::terminate(&mut bye);
    let goodbye = tokio::io::AsyncWriteExt::write_all(&mut io.stream, &bye);
    let _ = tokio::time::timeout(Duration::from_millis(100), goodbye).await;
}

/// Tells everybody in the queue, and the pool.
fn lose(worker: &Rc<Worker>, said: Option<Rc<ErrorFields>>, in_frame: bool) {
    worker.state.set(State::Closed);
    let (pending, holder) = {
        let mut inner = worker.inner.borrow_mut();
        (
            inner.pending.drain(..).collect::<Vec<Pending>>(),
            inner.holder.take(),
        )
    };
    let mut holder_told = false;
    // The server says of some deaths that the waiting request never ran.
    let never_ran = said
        .as_ref()
        .is_some_and(|f| f.code == SqlState::IDLE_SESSION_TIMEOUT);
    for (n, pending) in pending.into_iter().enumerate() {
        let Some(slot) = pending.slot else { continue };
        let started = n == 0 && !never_ran;
        holder_told |= holder.as_ref().is_some_and(|h| Rc::ptr_eq(h, &slot));
        slot.end(if !pending.forwarded && pending.purpose == Purpose::Shared {
            End::Repeat
        } else {
            End::Lost {
                said: said.clone(),
                started,
                clean_cut: !(n == 0 && in_frame),
            }
        });
    }
    if let Some(holder) = holder.filter(|_| !holder_told) {
        holder.end(End::Lost {
            said,
            started: false,
            clean_cut: true,
        });
    }
    if let Some(pool) = worker.pool.upgrade() {
        pool.remove(worker);
    }
}

fn poll(worker: &Rc<Worker>, io: &mut Io, cx: &mut Context<'_>) -> Poll<Gone> {
    loop {
        if let Some(why) = worker.inner.borrow().closing {
            return Poll::Ready(Gone::Closed(why));
        }
        let mut progress = false;
        match poll_write(worker, io, cx) {
            Ok(wrote) => progress |= wrote,
            Err(_) => return Poll::Ready(Gone::Server(None)),
        }
        match poll_read(worker, io, cx) {
            Ok(read) => progress |= read,
            Err(gone) => return Poll::Ready(gone),
        }
        if !progress {
            watch_head(worker, io, cx);
            worker.inner.borrow_mut().waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

/// Writes what sessions appended. True if something was written and more may be.
fn poll_write(worker: &Rc<Worker>, io: &mut Io, cx: &mut Context<'_>) -> std::io::Result<bool> {
    let mut inner = worker.inner.borrow_mut();
    let mut wrote = false;
    while !inner.out.is_empty() {
        match Pin::new(&mut io.stream).poll_write(cx, &inner.out) {
            Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                inner.out.advance(n);
                wrote = true;
            }
            Poll::Ready(Err(e)) => return Err(e),
            Poll::Pending => return Ok(wrote),
        }
    }
    if wrote && inner.out.is_empty() {
        if let Some(waker) = inner.writing.take() {
            waker.wake();
        }
        // The buffer is reused from its start; a large one is given back.
        if inner.out.capacity() > READ_MAX {
            inner.out = BytesMut::new();
        }
        if io.stream.is_tls() {
            let _ = Pin::new(&mut io.stream).poll_flush(cx)?;
        }
    }
    Ok(wrote)
}

/// Reads once and hands out what came. True if something was read.
fn poll_read(worker: &Rc<Worker>, io: &mut Io, cx: &mut Context<'_>) -> Result<bool, Gone> {
    if worker.inner.borrow().blocked {
        return Ok(false);
    }
    if !io.buffer.is_empty() && io.body_left == 0 && io.read_size > READ_MAX {
        io.read_size = READ_MAX;
    }
    io.buffer.reserve(io.read_size);
    let spare = io.buffer.len();
    let capacity = spare + io.read_size;
    let n = match poll_read_buf(&mut io.stream, cx, &mut io.buffer, capacity) {
        Poll::Pending => return Ok(false),
        Poll::Ready(Err(_)) => return Err(Gone::Server(None)),
        Poll::Ready(Ok(0)) => return Err(Gone::Server(None)),
        Poll::Ready(Ok(n)) => n,
    };
    if n >= io.read_size {
        io.read_size = (io.read_size * 2).min(READ_MAX);
    } else if n < io.read_size / 4 {
        io.read_size = (io.read_size / 2).max(READ_MIN);
    }
    hand_out(worker, io)?;
    Ok(true)
}

/// One read into the spare capacity of `buffer`, up to `capacity` in all.
pub(super) fn poll_read_buf(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    capacity: usize,
) -> Poll<std::io::Result<usize>> {
    let room = capacity.saturating_sub(buffer.len());
    let mut limited = BufMut::limit(&mut *buffer, room);
    std::pin::pin!(stream.read_buf(&mut limited)).poll(cx)
}

/// Splits what was read by the script and hands each piece to the session that asked.
fn hand_out(worker: &Rc<Worker>, io: &mut Io) -> Result<(), Gone> {
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
        if matches!(header.tag, b'S' | b'A' | b'N' | b'E' | b'Z' | b'K' | b'v') {
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
            b'S' => on_parameter_status(inner),
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
                if fields.routine.as_deref() == Some("RevalidateCachedQuery") {
                    if let Some(id) = inner.script.binding()
                        && let Some((prepared, _, _)) = inner.prepared.get_mut(&id)
                    {
                        *prepared = Prepared::Broken;
                    }
                    repeat_with_new_plan(inner, run);
                }
                let (verdict, _) = inner.script.on_frame(b'E', 0).map_err(Gone::Misfit)?;
                if let Some(head) = inner.pending.front_mut() {
                    head.error = true;
                }
                inner.unconfirmed = false;
                settle_skipped(inner);
                verdict
            }
            tag => {
                let status = if tag == b'Z' {
                    body.first().copied().unwrap_or(0)
                } else {
                    0
                };
                let (mut verdict, event) = inner.script.on_frame(tag, status).map_err(Gone::Misfit)?;
                if inner.unconfirmed && tag == b'C' {
                    inner.unconfirmed = false;
                    verdict = Verdict::Error(unconfirmed());
                }
                if matches!(tag, b'1' | b'3')
                    && !matches!(verdict, Verdict::Swallow)
                    && let Some(head) = inner.pending.front_mut()
                {
                    head.acks += 1;
                }
                match event {
                    Event::None | Event::Error | Event::Closed(_) => {}
                    Event::Parsed(id) => {
                        if let Some((prepared, _, _)) = inner.prepared.get_mut(&id) {
                            *prepared = Prepared::Ready;
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
                    Event::Ready { last, status } => {
                        inner.status = status;
                        if inner.unconfirmed {
                            inner.unconfirmed = false;
                            deliver(worker, inner, io, &mut run);
                            pass(inner, error_frame(&unconfirmed()));
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
    drop(guard);
    if offer {
        worker.offer();
    }
    Ok(())
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
    let queued = pass(inner, chunk);
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
    let Some(head) = inner.pending.front_mut() else { return };
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

/// Parses that an error skipped: the statements are not there, unless a later one in the queue brings them.
fn settle_skipped(inner: &mut Inner) {
    let Inner { script, prepared, .. } = inner;
    for id in script.take_skipped() {
        if let Some((Prepared::InFlight(n), _, _)) = prepared.get_mut(&id) {
            *n -= 1;
            if *n == 0 {
                prepared.remove(&id);
            }
        }
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

/// `A`: only a session that holds the worker can have listened on it. The sender is shown as the client it was, where
/// that is one of this data thread's: an application recognises its own notifications by the process id it was given.
fn on_notification(worker: &Worker, inner: &Inner, body: &[u8]) {
    let (Some(holder), Some(sender)) = (&inner.holder, body.get(..4)) else { return };
    let sender = i32::from_be_bytes([sender[0], sender[1], sender[2], sender[3]]);
    let client = worker.pool.upgrade().and_then(|p| p.thread.upgrade()).and_then(|t| t.client_of(sender));
    let mut frame = BytesMut::with_capacity(body.len() + 5);
    frame.put_u8(b'A');
    frame.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    frame.put_i32(client.unwrap_or(sender));
    frame.extend_from_slice(&body[4..]);
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

/// The running request is over. True if the worker is to be offered.
fn end_request(worker: &Rc<Worker>, inner: &mut Inner, status: u8) -> Result<bool, Gone> {
    let Some(head) = inner.pending.pop_front() else {
        return Err(Gone::Misfit(Misfit { tag: 'Z' }));
    };
    worker
        .expected
        .set(worker.expected.get().saturating_sub(head.expected));
    let now = Instant::now();
    if let Some(pool) = worker.pool.upgrade() {
        pool.served(
            head.purpose,
            head.shape,
            now.saturating_duration_since(inner.head_since),
        );
        if head.error {
            pool.counters().server_errors.add(1);
        }
    }
    inner.head_since = now;
    let end = End::Done {
        status,
        error: head.error,
        acks: head.acks,
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
                worker.idle_since.set(now);
            }
            Ok(true)
        }
        Purpose::Leased | Purpose::Internal => {
            if let Some(slot) = head.slot {
                slot.end(end);
            }
            Ok(false)
        }
        Purpose::Clean => {
            if head.error || status != b'I' {
                return Err(Gone::Closed("could not be cleaned"));
            }
            worker.state.set(State::Idle);
            worker.idle_since.set(now);
            Ok(true)
        }
    }
}

/// Arms the timer that looks at a running request others wait behind, and detaches them when it overruns.
fn watch_head(worker: &Rc<Worker>, io: &mut Io, cx: &mut Context<'_>) {
    let (waiting, since) = {
        let inner = worker.inner.borrow();
        (
            inner.pending.len() > 1 && worker.state.get() == State::Shared,
            inner.head_since,
        )
    };
    if !waiting {
        io.overrun = None;
        return;
    }
    let Some(pool) = worker.pool.upgrade() else { return };
    let limit = pool.overrun();
    loop {
        let timer = io
            .overrun
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if timer.as_mut().poll(cx).is_pending() {
            return;
        }
        io.overrun = None;
        if since.elapsed() >= limit {
            let moved = worker.detach_followers();
            pool.counters().repeats.add(moved as u64);
            return;
        }
    }
}

//! A worker: one authenticated connection to a server, and the requests queued on it.
//!
//! Sessions append whole requests ([`Worker::enqueue`]) or hold it alone. The worker's task writes what was appended in one go, splits
//! what it reads by the script, and hands each piece to the session that asked. It must never hand a frame to anybody else:
//! whatever the script does not allow closes the connection.

mod clean;
mod compose;
mod ending;
mod gather;
mod join;
mod prepared;
mod replies;
mod task;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pgnet::client::Established;
use pgnet::fields::ErrorFields;
use pgnet::stream::Stream;
use smallvec::SmallVec;

use super::pool::{Fit, Pool};
use super::post::Post;
use super::script::Script;
use super::settings::Settings;
use super::slot::{End, Settled, Slot};
use super::statement::StatementId;
use super::topology::Server;
use super::turn;
pub(super) use compose::{Composer, NO_PORTAL, NO_STATEMENT, patch_length};
pub(super) use join::{Joins, SYNC_LENGTH};
use prepared::Prepared;
pub(super) use task::poll_read_buf;
use task::{Io, run};

/// First size of a read buffer; it grows while reads fill it.
const READ_MIN: usize = 8 * 1024;
/// Largest size of a read.
const READ_MAX: usize = 256 * 1024;
/// Longest error, notice or status message a server may send; longer ones close the worker.
const SMALL_FRAME_MAX: usize = 1 << 20;
/// Longest frame of a server: what the protocol allows.
const FRAME_MAX: u32 = i32::MAX as u32;

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
    /// The end of a transaction that only read, answered already (`worker/ending.rs`).
    Ending,
}

/// A request in the queue.
struct Pending {
    slot: Option<Rc<Slot>>,
    purpose: Purpose,
    forwarded: bool,
    error: bool,
    settled: Settled,
    shape: u64,
    /// Time it is expected to take, in microseconds.
    expected: u32,
}

impl Pending {
    /// The worker is gone: whoever asked is told. See [`End::Lost`].
    fn lost(self, said: Option<Rc<ErrorFields>>, started: bool, clean_cut: bool) {
        let Some(slot) = self.slot else { return };
        slot.end(if !self.forwarded && self.purpose == Purpose::Shared {
            End::Repeat
        } else {
            End::Lost {
                said,
                started,
                clean_cut,
            }
        });
    }
}

/// What the rows of a statement look like: a hash of the columns' names and types, of nothing where it returns none. `None`: it
/// was not looked at.
pub(super) type Shape = Option<u64>;

/// Those of the statements a request had described: mostly one.
pub(super) type Shapes = SmallVec<[Shape; 1]>;

/// What of a worker the post has to know.
pub(super) struct Inner {
    pub(super) out: BytesMut,
    script: Script,
    pending: VecDeque<Pending>,
    prepared: Prepared,
    waker: Option<Waker>,
    blocked: bool,
    /// Status of the last `Z`.
    status: u8,
    /// Messages of the holder's batch were written and no Sync yet.
    open_batch: bool,
    /// A synchronous replica did not confirm: the next CommandComplete or `Z` must not look like success.
    unconfirmed: bool,
    /// Session whose statement is the server's unnamed one, and the request that parses it.
    unnamed: Option<(u64, StatementId, u64)>,
    /// Requests begun so far.
    begun: u64,
    head_since: Instant,
    /// The turn it began in.
    head_turn: u64,
    /// Requests of which the server has nothing yet.
    unsent: usize,
    /// The read whose Sync the next may take over.
    tail: Option<join::Tail>,
    /// The server has been told to leave the running reads.
    given_up: bool,
    /// A part of what is to be written has been.
    half_sent: bool,
    /// The post has it on its list.
    posted: bool,
    /// Requests that ended in what is being read: their time is not accounted for yet.
    ended: Vec<(Purpose, u64)>,
    closing: Option<&'static str>,
    /// Its task has ended, with these last words of the server: nothing is run any more.
    lost: Option<Option<Rc<ErrorFields>>>,
    /// Who holds the worker: gets what comes between its requests.
    holder: Option<Rc<Slot>>,
    /// Who waits until everything is written.
    writing: Option<Waker>,
    /// No request may leave a transaction open: one that does is shown as failed.
    strict: bool,
    /// Notifications that came while the worker was held: what becomes of them its holder decides.
    heard: Vec<Bytes>,
    /// ParameterStatus that was not passed on in the running request.
    muted: Vec<Bytes>,
    /// ParameterStatus is not passed on: the session computes its own (RESET returns to the worker's base, not to the session's).
    mute: bool,
    /// A request of the holder may prepare statements by SQL, or deallocate some: the server's word for it is looked at.
    counts_named: bool,
    /// ReadyForQuery is not passed on: the session has to do something before its client may go on, and sends its own.
    holds_ready: bool,
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
    /// The settings it has now: those it was opened with, some perhaps with the values of the last session that held it.
    worn: RefCell<Rc<Settings>>,
    /// Of a pool of session mode.
    pub(super) direct: bool,
    /// There: ParameterStatus as of now.
    pub(super) parameters: RefCell<Vec<(Bytes, Bytes)>>,
    pub(super) born: Instant,
    /// When it stops being offered (lifetime with jitter).
    pub(super) retire_at: Option<Instant>,
    pub(super) state: Cell<State>,
    pub(super) idle_since: Cell<Instant>,
    /// When a session got it for itself last.
    pub(super) leased_at: Cell<Instant>,
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
    /// Session mode: the server's unnamed statement is its holder's.
    pub(super) unnamed_left: Cell<bool>,
    pub(super) cleaning_since: Cell<Instant>,
    /// Requests since the last sweep that found their settings here, and those that had to set some.
    pub(super) suited: Cell<(u32, u32)>,
    /// Sum of what its queue is expected to take, in microseconds.
    expected: Cell<u32>,
    /// Session whose nextval it saw last.
    pub(super) sequences_of: Cell<Option<u64>>,
    /// When that session last drew from one here.
    pub(super) sequences_at: Cell<Instant>,
    /// Custom settings (`app.x`) ever set here: they read as '' instead of NULL for ever.
    custom: RefCell<std::collections::BTreeSet<String>>,
    /// How well it suits the settings that were asked about last.
    fit: RefCell<Option<(Rc<Settings>, Fit)>>,
    /// What is to be written goes by the post, if it can.
    post: Option<Rc<Post>>,
    /// Bytes that must have come before it is woken to read.
    low_water: Cell<u32>,
    /// `None`: its task has ended.
    stream: RefCell<Option<Stream>>,
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
            worn: RefCell::new(base.clone()),
            base,
            direct: pool.direct,
            parameters: RefCell::new(if pool.direct {
                established.parameters.clone()
            } else {
                Vec::new()
            }),
            born: now,
            retire_at,
            state: Cell::new(State::Idle),
            idle_since: Cell::new(now),
            leased_at: Cell::new(now),
            requests: Cell::new(0),
            fences: Cell::new(0),
            reserved: Cell::new(false),
            condemned: Cell::new(false),
            tickets: Cell::new(0),
            foreign_prepared: Cell::new(false),
            unnamed_left: Cell::new(false),
            cleaning_since: Cell::new(now),
            suited: Cell::new((0, 0)),
            expected: Cell::new(0),
            sequences_of: Cell::new(None),
            sequences_at: Cell::new(now),
            custom: RefCell::new(custom),
            fit: RefCell::new(None),
            post: pool
                .thread
                .upgrade()
                .map(|thread| thread.post.clone())
                .filter(|post| post.is_open() && established.stream.plain().is_some()),
            low_water: Cell::new(1),
            stream: RefCell::new(Some(established.stream)),
            inner: RefCell::new(Inner {
                out: BytesMut::new(),
                script: Script::default(),
                pending: VecDeque::new(),
                prepared: Prepared::default(),
                waker: None,
                blocked: false,
                status: b'I',
                open_batch: false,
                unconfirmed: false,
                unnamed: None,
                begun: 0,
                head_since: now,
                head_turn: turn::count(),
                unsent: 0,
                tail: None,
                given_up: false,
                half_sent: false,
                posted: false,
                ended: Vec::new(),
                closing: None,
                lost: None,
                holder: None,
                writing: None,
                strict: false,
                muted: Vec::new(),
                mute: false,
                counts_named: false,
                holds_ready: false,
                heard: Vec::new(),
            }),
        });
        let io = Io::new(established.buffered);
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

    /// What the server believes the rows of a statement look like, if it was asked.
    pub(super) fn shape(&self, id: StatementId) -> Shape {
        self.inner.borrow().prepared.shape(id)
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

    /// Nothing owed that anybody waits for, nothing half sent, no COPY, status idle, or soon.
    pub(super) fn owes_nothing(&self) -> bool {
        let inner = self.inner.borrow();
        !inner.open_batch && (inner.script.is_empty() && inner.status == b'I' || inner.only_ends())
    }

    /// The same, and no cancel under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.owes_nothing() && self.fences.get() == 0
    }

    /// The settings it has now.
    pub(super) fn wears(&self) -> Rc<Settings> {
        self.worn.borrow().clone()
    }

    /// Settings of its base were given the values of this session. They stay: the next session has the same, or sets them to
    /// its own, or the worker is cleaned.
    pub(super) fn wear(&self, settings: &Rc<Settings>) {
        *self.worn.borrow_mut() = settings.clone();
        *self.fit.borrow_mut() = None;
    }

    /// How well it suits a session with these settings.
    pub(super) fn fit(&self, settings: &Rc<Settings>) -> Fit {
        let mut known = self.fit.borrow_mut();
        match &*known {
            Some((of, fit)) if Rc::ptr_eq(of, settings) => *fit,
            _ => {
                let fit = self.compare(settings);
                *known = Some((settings.clone(), fit));
                fit
            }
        }
    }

    fn compare(&self, settings: &Rc<Settings>) -> Fit {
        if self.direct && !Rc::ptr_eq(&self.base, settings) {
            return Fit::No;
        }
        let custom = self.custom.borrow();
        if custom.iter().any(|name| settings.get(name).is_none()) {
            return Fit::No;
        }
        match settings.differs(&self.worn.borrow()) {
            Some(false) => Fit::Same,
            Some(true) => Fit::Prefix,
            None => Fit::No,
        }
    }

    /// Offered, and nobody is on his way to it.
    pub(super) fn is_free(&self) -> bool {
        self.state.get() == State::Idle && self.fences.get() == 0 && self.tickets.get() == 0
    }

    /// Appends a request and has it written with what else this turn brings. See [`Worker::append`].
    pub(super) fn enqueue<R>(
        self: &Rc<Self>,
        purpose: Purpose,
        slot: Option<Rc<Slot>>,
        shape: u64,
        expected: Duration,
        compose: impl FnOnce(&mut Composer<'_>) -> R,
    ) -> R {
        let result = self.append(purpose, slot, shape, expected, compose);
        self.write_soon();
        result
    }

    /// Appends a request. `compose` writes its bytes and steps; it must end with a Sync, Query or FunctionCall step.
    /// [`Worker::write_soon`] or [`Worker::write_now`] sends it. A worker may be lost between two of its holder's requests, and the
    /// next one hears it here.
    pub(super) fn append<R>(
        &self,
        purpose: Purpose,
        slot: Option<Rc<Slot>>,
        shape: u64,
        expected: Duration,
        compose: impl FnOnce(&mut Composer<'_>) -> R,
    ) -> R {
        let mut inner = self.inner.borrow_mut();
        inner.unsent += 1;
        let expected = in_micros(expected);
        self.expected.set(self.expected.get().saturating_add(expected));
        inner.begin(slot, purpose, shape, expected);
        let result = compose(&mut Composer { inner: &mut inner });
        inner.script.end_request();
        self.requests.set(self.requests.get() + 1);
        if let Some(said) = inner.lost.clone() {
            inner.out.clear();
            let request = inner.pending.pop_back();
            drop(inner);
            if let Some(request) = request {
                request.lost(said, false, true);
            }
        }
        result
    }

    /// Adds to the holder's batch: messages before their Sync. The first call opens a request, [`Worker::finish_batch`] ends it.
    /// [`Worker::write_now`] sends what was added.
    pub(super) fn stream<R>(&self, slot: &Rc<Slot>, compose: impl FnOnce(&mut Composer<'_>) -> R) -> R {
        let mut inner = self.inner.borrow_mut();
        if !inner.open_batch {
            inner.open_batch = true;
            inner.begin(Some(slot.clone()), Purpose::Leased, 0, 0);
            self.requests.set(self.requests.get() + 1);
        }
        compose(&mut Composer { inner: &mut inner })
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

    /// Who holds the worker, if it is held.
    pub(super) fn set_holder(&self, holder: Option<Rc<Slot>>) {
        let mut inner = self.inner.borrow_mut();
        inner.heard.clear();
        inner.counts_named = false;
        inner.holder = holder;
    }

    /// From now on it is counted what the holder's requests do to prepared statements by SQL.
    pub(super) fn count_named(&self) {
        self.inner.borrow_mut().counts_named = true;
    }

    /// The bodies of the notifications that came since the worker was taken, or since the last call.
    pub(super) fn take_heard(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.inner.borrow_mut().heard)
    }

    /// Whether requests that leave a transaction open are shown as failed (statement mode).
    pub(super) fn set_strict(&self, strict: bool) {
        self.inner.borrow_mut().strict = strict;
    }

    /// Whether a session holds it.
    pub(super) fn is_held(&self) -> bool {
        self.inner.borrow().holder.is_some()
    }

    /// Whether ParameterStatus is kept from the holder.
    pub(super) fn mute(&self, mute: bool) {
        self.inner.borrow_mut().mute = mute;
    }

    /// Whether ReadyForQuery is kept from the holder.
    pub(super) fn hold_ready(&self, hold: bool) {
        self.inner.borrow_mut().holds_ready = hold;
    }

    /// Custom settings (with a dot) that were set here, if only for a moment.
    pub(super) fn note_custom<'a>(&self, names: impl Iterator<Item = &'a str>) {
        for name in names.filter(|n| n.contains('.')) {
            let mut custom = self.custom.borrow_mut();
            if !custom.contains(name) {
                custom.insert(name.to_owned());
                *self.fit.borrow_mut() = None;
            }
        }
    }

    /// A cancel has been carried out: the worker may be offered again, if nothing else is in the way.
    pub(super) fn fence_ended(self: &Rc<Self>, pool: &Rc<Pool>) {
        if self.fences.get() > 0 {
            return;
        }
        if self.state.get() == State::Idle {
            pool.offer(self);
        } else if let Some(holder) = &self.inner.borrow().holder {
            // It may be waiting for nothing else to give the worker back.
            holder.nudge();
        }
    }

    /// Raw bytes of COPY data, or of a message too large to hold. [`Worker::write_now`] sends them.
    pub(super) fn append_raw(&self, bytes: &[u8]) {
        self.inner.borrow_mut().out.extend_from_slice(bytes);
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

    /// What the server reads next may make it forget all prepared statements: whatever stands behind it has them parsed anew.
    pub(super) fn break_prepared(&self) {
        self.inner.borrow_mut().prepared.break_all();
    }

    /// Tables may have changed: statements are parsed anew at their next use.
    pub(super) fn distrust_prepared(&self) {
        self.inner.borrow_mut().prepared.distrust();
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
    pub(super) fn detach_followers(&self) {
        for pending in self.inner.borrow_mut().pending.iter_mut().skip(1) {
            if pending.purpose == Purpose::Shared
                && let Some(slot) = pending.slot.take()
            {
                slot.end(End::Repeat);
            }
        }
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

    /// ParameterStatus: what the next client will be greeted with.
    fn note_parameter(&self, body: &[u8]) {
        let mut parts = body.split(|b| *b == 0);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            return;
        };
        let mut parameters = self.parameters.borrow_mut();
        let value = Bytes::copy_from_slice(value);
        match parameters.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => parameters.push((Bytes::copy_from_slice(name), value)),
        }
    }

    /// See [`Pool::offer`].
    fn offer(self: &Rc<Self>) {
        if let Some(pool) = self.pool.upgrade() {
            pool.offer(self);
        }
    }
}

fn in_micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX / 64)
}

impl Inner {
    /// A request stands in the queue from now on, its time running if it is the first.
    fn begin(&mut self, slot: Option<Rc<Slot>>, purpose: Purpose, shape: u64, expected: u32) {
        if self.pending.is_empty() {
            self.head_since = Instant::now();
            self.head_turn = turn::count();
        }
        self.begun += 1;
        self.pending.push_back(Pending {
            slot,
            purpose,
            forwarded: false,
            error: false,
            settled: Settled::default(),
            shape,
            expected,
        });
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

//! A worker held alone: transactions, writes, COPY, pipelines, and whatever cannot share.
//!
//! The client's messages go to the worker as they come, its answers back as they come; the worker is given up when nothing
//! is owed, the status is idle and no state is left that cannot be moved. [`Lease`] gives its worker back however it is dropped.

mod direct;
mod ending;
mod feed;
mod wait;

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::frame;
use pgnet::sqlstate::SqlState;
use smallvec::SmallVec;

use super::super::card::Doing;
use super::super::error::ServeError;
use super::super::pool::Pool;
use super::super::turn;
use super::super::worker::{State, Worker};
use super::effects::{Changed, Effects};
use super::names::Named;
use super::policy::Transaction;
use super::shared::interner;
use super::unit::Unit;
use super::{Leave, Session, Unserved, asker, io, local};
use crate::classify::{Class, Discard, Kind, Prepare, ResetItem, Touches};

/// Bytes for a server not yet written, above which the client is not read.
const UNWRITTEN_MAX: usize = 1 << 20;
/// Why a worker is closed whose session loaded a library, seeded random(), and the like.
const STICKY_LEFT: &str = "a session left state behind that cannot be cleaned";

/// What was asked since the worker was last idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    /// Nothing.
    Nothing,
    /// A plain BEGIN, and behind it nothing but known reads.
    Read,
    /// Other things.
    More,
}

impl Did {
    fn and(self, class: &Class) -> Self {
        match (self, &class.kind) {
            (Self::Nothing | Self::Read, Kind::Begin { plain: true, .. }) => Self::Read,
            (Self::Read, _) if class.is_known_read() => Self::Read,
            _ => Self::More,
        }
    }
}

/// See the module.
pub(super) struct Lease {
    pub(super) pool: Rc<Pool>,
    pub(super) worker: Rc<Worker>,
    /// The worker may keep something of this session: it is cleaned before anybody else gets it.
    pub(super) dirty: bool,
    /// A transaction block was open at some time: settings may have been rolled back.
    pub(super) had_transaction: bool,
    pub(super) changed: Changed,
    /// Some of `changed` was committed before the open transaction began.
    pub(super) unread: bool,
    /// The server has to be asked whether state that cannot be moved is there.
    pub(super) ask_pins: bool,
    pub(super) sticky: Option<&'static str>,
    /// The client's channels were brought to the worker.
    pub(super) brought: bool,
    /// It may listen on something else at its end than at its beginning.
    pub(super) moves_ears: bool,
    /// Notifications of this worker are known as the client's until the hub has handed them on.
    pub(super) notified: bool,
    pub(super) pinned: bool,
    /// What the requests under way may do.
    after: VecDeque<Effects>,
    /// Effects of the messages of the open batch.
    open: Effects,
    outstanding: usize,
    status: u8,
    /// Bytes of a message under way to the server as they come.
    raw: usize,
    /// Bytes of a message to be dropped.
    drop: usize,
    /// The next unit is for the outer loop.
    leave: bool,
    /// Nothing more is sent before everything is answered.
    barrier: bool,
    /// So much of the client's input has to be here before anything can be done with it.
    needs: usize,
    pub(super) lost: bool,
    began: Instant,
    request_began: Instant,
    cancelled: bool,
    returned: bool,
    /// BEGIN was written ahead of a simple Query.
    begin_ahead: bool,
    did: Did,
    /// Its end was answered ahead of the server.
    ended_early: bool,
    /// The ReadyForQuery of a RESET was kept back: it goes out behind the session's own ParameterStatus.
    owes_ready: bool,
    /// The open batch has a RESET in it.
    resets: bool,
    /// The server does not read as fast as the client writes: feeding waits until it has caught up.
    throttled: bool,
    /// A Sync is owed when the message under way has gone.
    owes_sync: bool,
    /// A statement under way may ask for CopyData.
    expects_copy: bool,
    /// Statements the worker knows under the client's own names.
    pub(super) materialized: HashSet<Bytes>,
    loss: Option<Loss>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.notified
            && let Some(thread) = self.pool.thread.upgrade()
        {
            thread.shared.hubs.forget_sender(self.worker.process_id);
        }
        if !self.returned {
            if self.raw > 0 {
                // The server waits for the rest of a message nobody has.
                self.worker.close("its client left in the middle of a message");
            }
            if self.sticky.is_some() {
                self.worker.close(STICKY_LEFT);
            }
            self.pool.abandon(&self.worker);
        }
    }
}

impl Lease {
    fn new(pool: Rc<Pool>, worker: Rc<Worker>) -> Self {
        let now = turn::began();
        Self {
            pool,
            worker,
            dirty: false,
            had_transaction: false,
            changed: Changed::default(),
            unread: false,
            ask_pins: false,
            sticky: None,
            brought: false,
            moves_ears: false,
            notified: false,
            pinned: false,
            after: VecDeque::new(),
            open: Effects {
                clean: true,
                ..Effects::default()
            },
            outstanding: 0,
            status: b'I',
            raw: 0,
            drop: 0,
            leave: false,
            barrier: false,
            needs: 0,
            lost: false,
            began: now,
            request_began: now,
            cancelled: false,
            returned: false,
            begin_ahead: false,
            did: Did::Nothing,
            ended_early: false,
            owes_ready: false,
            resets: false,
            throttled: false,
            owes_sync: false,
            expects_copy: false,
            materialized: HashSet::new(),
            loss: None,
        }
    }

    /// Nothing owed, nothing half sent, idle.
    fn is_quiet(&self) -> bool {
        self.outstanding == 0 && self.raw == 0 && self.drop == 0 && self.worker.is_quiet()
    }

    /// The worker is the server's or the pool's again.
    fn give_back(mut self) {
        self.returned = true;
        if self.sticky.is_some() {
            self.worker.close(STICKY_LEFT);
        }
        self.pool.give_back(&self.worker, self.dirty);
    }

    fn request_starts(&mut self) {
        if self.outstanding == 0 {
            self.request_began = turn::began();
            if self.status == b'I' {
                self.began = self.request_began;
            }
            self.cancelled = false;
        }
        self.outstanding += 1;
        let fresh = Effects {
            clean: true,
            ..Effects::default()
        };
        self.after.push_back(std::mem::replace(&mut self.open, fresh));
    }

    /// Adds what a statement of the request may do.
    fn expect(&mut self, class: &Class) {
        let effects = Effects::of(class);
        let open = &mut self.open;
        open.clean &= effects.clean;
        open.pins |= effects.pins;
        open.ddl |= effects.ddl;
        open.sequences |= effects.sequences;
        open.sticky = open.sticky.or(effects.sticky);
        open.settings.all |= effects.settings.all;
        open.settings.names.extend(effects.settings.names);
        open.settings.reset.extend(effects.settings.reset);
        self.did = self.did.and(class);
        // Known before the answer: whatever happens now, the worker is not clean.
        self.dirty |= !effects.clean;
        self.sticky = self.sticky.or(effects.sticky);
    }
}

impl Session {
    /// Gets a worker for itself and runs requests on it until it can be given up.
    pub(super) async fn lease_for(&mut self, class: &Class) -> Result<(), Leave> {
        self.scan.taken();
        self.thread.counters.requests_leased.add(1);
        let mut lease = match self.acquire(class).await {
            Ok(lease) => lease,
            Err(Refused::Leave(leave)) => return Err(leave),
            Err(Refused::Tell(fields)) => return self.refuse_unit(&fields).await,
        };
        self.run_lease(&mut lease).await?;
        self.settle_lease(lease);
        Ok(())
    }

    /// Keeps a pinned worker, gives any other back.
    pub(super) fn settle_lease(&mut self, lease: Box<Lease>) {
        if lease.lost || lease.worker.state.get() == State::Closed {
            self.card.pins.borrow_mut().clear();
            self.card.set_worker(None);
            lease.give_back();
        } else if lease.pinned {
            lease.worker.state.set(State::Pinned);
            self.pinned = Some(lease);
        } else {
            self.card.set_worker(None);
            lease.give_back();
        }
    }

    /// Answers the unit at the front of the input with an error of ours.
    async fn refuse_unit(&mut self, fields: &ErrorFields) -> Result<(), Leave> {
        self.fail_open_transaction();
        let total = match self
            .scan
            .next(&self.input, self.effective.limits.max_query_size)?
        {
            Some(Unit::Query { total } | Unit::Batch { total }) => total,
            _ => return self.skip_batch(fields).await,
        };
        self.input.advance(total);
        self.scan.taken();
        local::error(&mut self.out, fields, self.transaction.status());
        Ok(())
    }

    /// A worker with this session's state on it.
    async fn acquire(&mut self, class: &Class) -> Result<Box<Lease>, Refused> {
        let reads = matches!(
            class.kind,
            Kind::Read | Kind::KnownRead | Kind::Show(_) | Kind::CopyOut
        ) && self.transaction == Transaction::None;
        loop {
            let replica = if reads { self.replica_for(class) } else { None };
            let pool = match replica {
                Some(pool) => pool,
                None => match self.master_pool(true).await {
                    Ok(pool) => pool,
                    Err(Unserved::Leave(leave)) => return Err(leave.into()),
                    Err(Unserved::Told(error)) => return Err(self.told(&error)),
                },
            };
            self.card.set_doing(Doing::Waiting);
            if class.touches.intersects(Touches::SEQUENCE) {
                pool.await_sequences(self.card.serial).await;
            }
            let asker = asker(&self.card, &self.settings, &self.startup);
            let taken = match pool.take_now(&asker) {
                Some(worker) => Ok(worker),
                None => {
                    let taking = pool.take(&asker);
                    // Room for the wait only where there is one.
                    let waiting = io::while_here(
                        &self.thread,
                        &self.card,
                        &mut self.stream,
                        &mut self.input,
                        taking,
                    );
                    Box::pin(waiting).await?
                }
            };
            let worker = match taken {
                Ok(worker) if worker.state.get() == State::Closed => {
                    // Lost between being granted and being taken: nobody was told.
                    pool.give_back(&worker, false);
                    continue;
                }
                Ok(worker) => worker,
                Err(error) if matches!(*error, ServeError::Moved) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => return Err(self.told(&error)),
            };
            self.card.slot.clear();
            worker.set_holder(Some(self.card.slot.clone()));
            self.card.set_worker(Some(&worker));
            self.card.set_doing(Doing::Leased);
            self.card.since.set(turn::began());
            worker.set_strict(self.mode() == crds::PoolMode::Statement);
            let mut lease = Box::new(Lease::new(pool, worker));
            self.dress(&mut lease).await?;
            if self.needs_ears(class) {
                // The hub may take its time.
                lease.worker.write_soon();
                self.bring_ears(&mut lease).await?;
            }
            if let Transaction::Deferred(begin) = &self.transaction {
                let begin = begin.clone();
                self.transaction = Transaction::None;
                // Between BEGIN and the request behind it nothing can be asked of the worker: what that request names
                // is made known before.
                self.materialize(&mut lease, &class.kind).await?;
                self.sql_names_ready(&mut lease).await?;
                self.begin(&mut lease, &begin);
            }
            return Ok(lease);
        }
    }

    fn told(&self, error: &ServeError) -> Refused {
        let fields = error.fields(Severity::Error);
        self.thread.counters.error(fields.code);
        Refused::Tell(Box::new(fields))
    }

    /// The deferred BEGIN goes ahead of the first request, without a Sync: if it fails, that request is skipped.
    fn begin(&mut self, lease: &mut Lease, begin: &[u8]) {
        let statement = {
            let intern = interner(&self.thread, &lease.pool, &self.startup);
            intern(begin, &[0, 0])
        };
        let cap = self.effective.limits.max_prepared_statements;
        let query_next = self.input.first() == Some(&b'Q');
        let slot = self.card.slot.clone();
        lease
            .worker
            .stream(&slot, |to| to.run_for_nobody(&statement, &[], cap));
        lease.begin_ahead = query_next;
        lease.did = Did::Read;
        lease.had_transaction = true;
    }

    /// Runs requests on the lease until it can be given up, or kept without work.
    pub(super) async fn run_lease(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        loop {
            self.feed(lease).await?;
            if lease.lost {
                return self.mourn(lease).await;
            }
            if lease.ended_early {
                return Ok(());
            }
            if self.mode() == crds::PoolMode::Statement
                && lease.outstanding == 0
                && lease.status != b'I'
                && lease.raw == 0
            {
                self.roll_back(lease).await?;
                if lease.lost {
                    return self.mourn(lease).await;
                }
            }
            if lease.owes_ready && lease.outstanding == 0 && self.card.slot.is_drained() {
                if lease.is_quiet() {
                    self.after_requests(lease).await?;
                }
                lease.worker.mute(false);
                lease.worker.hold_ready(false);
                if lease.lost {
                    return self.mourn(lease).await;
                }
                lease.owes_ready = false;
                if lease.status == b'I' {
                    self.take_mail();
                }
                pgnet::backend::ready_for_query(&mut self.out, lease.status);
                self.flush().await?;
                // What the client sent behind it has waited.
                continue;
            }
            if lease.is_quiet() && self.card.slot.is_drained() {
                self.after_requests(lease).await?;
                if lease.lost {
                    return self.mourn(lease).await;
                }
                if !lease.pinned || lease.leave {
                    let more =
                        !lease.leave && frame::peek(&self.input, u32::MAX >> 1).is_ok_and(|f| f.is_some());
                    if !more {
                        lease.leave = false;
                        return Ok(());
                    }
                }
            }
            self.wait_lease(lease).await?;
        }
    }

    /// Statement mode: a statement left a transaction behind. The client was told; until it ends the transaction it believes
    /// in, nothing is run.
    async fn roll_back(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        let _ = self.internal(lease, "ROLLBACK").await?;
        lease.status = b'I';
        lease.dirty = true;
        lease.leave = true;
        self.transaction = Transaction::Failed;
        Ok(())
    }

    /// Runs a query of ours on the leased worker and returns its rows.
    pub(super) async fn internal(
        &mut self,
        lease: &mut Lease,
        sql: &str,
    ) -> Result<Result<Vec<Vec<Option<Bytes>>>, ErrorFields>, Leave> {
        let rows = super::super::internal::query(&lease.worker, sql.as_bytes());
        match tokio::time::timeout(INTERNAL_MAX, rows).await {
            Ok(Ok(rows)) => Ok(Ok(rows)),
            Ok(Err(super::super::internal::Error::Server(fields))) => Ok(Err(*fields)),
            Ok(Err(super::super::internal::Error::Lost)) | Err(_) => {
                lease.lost = true;
                Ok(Ok(Vec::new()))
            }
        }
    }
}

/// What a request will have done to prepared statements by SQL, in its order, once the server has said so.
fn said_by_sql(kind: &Kind, text: &[u8]) -> SmallVec<[Named; 1]> {
    let one = |kind: &Kind, whole: Option<&[u8]>| match kind {
        Kind::Prepare(prepare) => {
            let statement = whole.map_or_else(|| prepare_alone(prepare, text), Bytes::copy_from_slice);
            Some(Named::Prepare(Bytes::copy_from_slice(&prepare.name), statement))
        }
        Kind::Deallocate { name: Some(name) } => Some(Named::Deallocate(Bytes::copy_from_slice(name))),
        Kind::Deallocate { name: None } | Kind::Discard(Discard::All) => Some(Named::ForgetAll),
        _ => None,
    };
    let forgets =
        |item: &&ResetItem| matches!(item, ResetItem::DeallocateAll | ResetItem::Discard(Discard::All));
    match kind {
        Kind::List(list) => list.kinds.iter().filter_map(|kind| one(kind, None)).collect(),
        Kind::Reset(items) => items.iter().filter(forgets).map(|_| Named::ForgetAll).collect(),
        other => one(other, Some(text)).into_iter().collect(),
    }
}

/// A PREPARE of a list as a text of its own.
fn prepare_alone(prepare: &Prepare, list: &[u8]) -> Bytes {
    let mut text = b"prepare \"".to_vec();
    for byte in prepare.name.iter() {
        text.push(*byte);
        if *byte == b'"' {
            text.push(b'"');
        }
    }
    text.push(b'"');
    if let Some(types) = prepare.types {
        text.push(b'(');
        text.extend_from_slice(types.of(list));
        text.push(b')');
    }
    text.extend_from_slice(b" as ");
    text.extend_from_slice(prepare.body.of(list));
    text.into()
}

/// How the worker was lost.
struct Loss {
    said: Option<Rc<ErrorFields>>,
    #[expect(dead_code, reason = "kept for the log")]
    started: bool,
    clean_cut: bool,
}

/// The session ends: what it had on the server is gone with it, or not known any more.
pub(super) fn server_gone() -> Leave {
    Leave::fatal(
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection because its server is gone",
    )
}

/// Why there is no lease.
pub(super) enum Refused {
    /// The session ends.
    Leave(Leave),
    /// The client is told, and goes on.
    Tell(Box<ErrorFields>),
}

impl From<Leave> for Refused {
    fn from(leave: Leave) -> Self {
        Self::Leave(leave)
    }
}

/// Longest a query of ours on a leased worker may take.
pub(super) const INTERNAL_MAX: Duration = Duration::from_secs(30);

//! A worker held alone: transactions, writes, COPY, pipelines, and whatever cannot share.
//!
//! The client's messages go to the worker as they come, its answers back as they come; the worker is given up when nothing
//! is owed, the status is idle and no state is left that cannot be moved. [`Lease`] gives its worker back however it is dropped.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::frame;
use pgnet::sqlstate::SqlState;

use super::super::card::Doing;
use super::super::error::ServeError;
use super::super::pool::Pool;
use super::super::script::{Op, Step};
use super::super::slot::End;
use super::super::worker::{State, Worker};
use super::effects::{Changed, Effects};
use super::policy::{self, Decision, Transaction};
use super::shared::interner;
use super::translate::{self, Ground};
use super::unit::{HOLD_MAX, UnitError};
use super::{Leave, Session, asker, io, killed, local, too_idle};
use crate::classify::{Class, Kind, SetItem, Touches};

/// Bytes for a server not yet written, above which the client is not read.
const UNWRITTEN_MAX: usize = 1 << 20;
/// Bytes of a client not yet dealt with, above which it is not read.
const INPUT_MAX: usize = HOLD_MAX + (64 << 10);

/// What becomes true when a request has succeeded.
#[derive(Default)]
struct After {
    effects: Effects,
    prepare: Vec<(Bytes, Bytes)>,
    deallocate: Vec<Bytes>,
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
    /// The server has to be asked whether state that cannot be moved is there.
    pub(super) ask_pins: bool,
    pub(super) sticky: Option<&'static str>,
    pub(super) pinned: bool,
    after: VecDeque<After>,
    /// Effects of the messages of the open batch.
    open: After,
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
    pub(super) lost: bool,
    began: Instant,
    request_began: Instant,
    cancelled: bool,
    returned: bool,
    /// BEGIN was written ahead of a simple Query: it needs a Sync behind it.
    begin_ahead: bool,
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
        if !self.returned {
            if self.raw > 0 {
                // The server waits for the rest of a message nobody has.
                self.worker.close("its client left in the middle of a message");
            }
            self.pool.abandon(&self.worker);
        }
    }
}

impl Lease {
    fn new(pool: Rc<Pool>, worker: Rc<Worker>) -> Self {
        let now = Instant::now();
        Self {
            pool,
            worker,
            dirty: false,
            had_transaction: false,
            changed: Changed::default(),
            ask_pins: false,
            sticky: None,
            pinned: false,
            after: VecDeque::new(),
            open: After {
                effects: Effects {
                    clean: true,
                    ..Effects::default()
                },
                ..After::default()
            },
            outstanding: 0,
            status: b'I',
            raw: 0,
            drop: 0,
            leave: false,
            barrier: false,
            lost: false,
            began: now,
            request_began: now,
            cancelled: false,
            returned: false,
            begin_ahead: false,
            owes_sync: false,
            expects_copy: false,
            materialized: HashSet::new(),
            loss: None,
        }
    }

    /// The client is gone: dropping the lease ends and cleans what it left.
    pub(super) fn vanish(&mut self) {}

    /// Nothing owed, nothing half sent, idle.
    fn is_quiet(&self) -> bool {
        self.outstanding == 0 && self.raw == 0 && self.drop == 0 && self.worker.is_quiet()
    }

    /// The worker is the server's or the pool's again.
    fn give_back(mut self) {
        self.returned = true;
        if self.sticky.is_some() {
            self.worker
                .close("a session left state behind that cannot be cleaned");
        }
        self.pool.give_back(&self.worker, self.dirty);
    }

    fn request_starts(&mut self) {
        if self.outstanding == 0 {
            self.request_began = Instant::now();
            if self.status == b'I' {
                self.began = self.request_began;
            }
            self.cancelled = false;
        }
        self.outstanding += 1;
        let fresh = After {
            effects: Effects {
                clean: true,
                ..Effects::default()
            },
            ..After::default()
        };
        self.after.push_back(std::mem::replace(&mut self.open, fresh));
    }

    /// Adds what a statement of the request may do.
    fn expect(&mut self, class: &Class) {
        let effects = Effects::of(class);
        let open = &mut self.open.effects;
        open.clean &= effects.clean;
        open.pins |= effects.pins;
        open.ddl |= effects.ddl;
        open.sequences |= effects.sequences;
        open.forgets_prepared |= effects.forgets_prepared;
        open.sticky = open.sticky.or(effects.sticky);
        open.settings.all |= effects.settings.all;
        open.settings.names.extend(effects.settings.names);
        open.settings.reset.extend(effects.settings.reset);
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
        let mut lease = match Box::pin(self.acquire(class)).await {
            Ok(lease) => lease,
            Err(Refused::Leave(leave)) => return Err(leave),
            Err(Refused::Tell(fields)) => return self.refuse_unit(&fields).await,
        };
        Box::pin(self.run_lease(&mut lease)).await?;
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
            Some(super::Unit::Query { total } | super::Unit::Batch { total }) => total,
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
            let replica = if reads && self.prefers_replica(class) {
                self.replica_pool()
            } else {
                None
            };
            let pool = match replica {
                Some(pool) => pool,
                None => self.master_pool(true).await.map_err(|e| self.told(&e))?,
            };
            self.card.set_doing(Doing::Waiting);
            if class.touches.intersects(Touches::SEQUENCE) {
                pool.await_sequences(self.card.serial).await;
            }
            let taken = pool.take(&asker(&self.card, &self.settings, &self.startup)).await;
            let worker = match taken {
                Ok(worker) => worker,
                Err(error) if matches!(*error, ServeError::Moved) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => return Err(self.told(&error)),
            };
            worker.set_holder(Some((self.card.slot.clone(), self.card.process_id)));
            self.card.set_worker(Some(&worker));
            self.card.set_doing(Doing::Leased);
            self.card.since.set(Instant::now());
            worker.set_strict(self.mode() == crds::PoolMode::Statement);
            let mut lease = Box::new(Lease::new(pool, worker));
            self.dress(&mut lease).await?;
            if let Transaction::Deferred(begin) = std::mem::replace(&mut self.transaction, Transaction::None)
            {
                self.begin(&mut lease, &begin);
            }
            return Ok(lease);
        }
    }

    fn told(&self, error: &ServeError) -> Refused {
        let fields = error.fields(Severity::Error);
        let class = match &fields.code.as_str().as_bytes()[..2] {
            b"08" => 0,
            b"25" => 1,
            b"53" => 2,
            b"57" => 3,
            _ => 4,
        };
        self.thread.counters.errors[class].add(1);
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
        lease.worker.stream(&slot, |to| {
            to.ensure(&statement, cap);
            pgnet::frontend::bind(to.out(), b"", &statement.name, &[], &[], &[]);
            to.step(Step::nobody(Op::Bind(None)));
            pgnet::frontend::execute(to.out(), b"", 0);
            to.step(Step::nobody(Op::Execute));
        });
        lease.begin_ahead = query_next;
        lease.had_transaction = true;
    }

    /// Runs requests on the lease until it can be given up, or kept without work.
    pub(super) async fn run_lease(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        loop {
            self.feed(lease).await?;
            if lease.lost {
                return self.mourn(lease).await;
            }
            if self.mode() == crds::PoolMode::Statement && lease.outstanding == 0 && lease.status != b'I' && lease.raw == 0 {
                self.roll_back(lease).await?;
                if lease.lost {
                    return self.mourn(lease).await;
                }
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

    /// Moves what the client sent to the worker, as far as that is possible now.
    async fn feed(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        loop {
            self.absorb(lease);
            if lease.lost || lease.leave || lease.worker.unwritten() > UNWRITTEN_MAX {
                return Ok(());
            }
            if lease.drop > 0 || lease.raw > 0 {
                let n = (lease.drop + lease.raw).min(self.input.len());
                if lease.raw > 0 {
                    lease.worker.append_raw(&self.input[..n]);
                    lease.raw -= n;
                } else {
                    lease.drop -= n;
                }
                self.input.advance(n);
                if lease.drop + lease.raw > 0 {
                    return Ok(());
                }
                if std::mem::take(&mut lease.owes_sync) {
                    self.sync_behind(lease);
                }
                continue;
            }
            if lease.barrier && lease.outstanding > 0 {
                return Ok(());
            }
            lease.barrier = false;
            let Some(header) = frame::peek(&self.input, u32::MAX >> 1).map_err(UnitError::from)? else {
                return Ok(());
            };
            let total = header.total();
            if super::unit::is_small(header.tag) && total > super::unit::SMALL_MAX {
                return Err(UnitError::Length.into());
            }
            let complete = self.input.len() >= total;
            if !complete && total <= HOLD_MAX {
                return Ok(());
            }
            if matches!(header.tag, b'Q' | b'P') && total > self.effective.limits.max_query_size {
                self.too_large(lease, header.tag, total);
                continue;
            }
            match header.tag {
                b'X' => return Err(Leave::Gone),
                b'd' | b'c' | b'f' => {
                    if !self.copy_message(lease, header.tag, total, complete) {
                        return Ok(());
                    }
                }
                b'S' => self.sync(lease, total),
                b'H' => {
                    let slot = self.card.slot.clone();
                    lease.worker.stream(&slot, |to| pgnet::frontend::flush(to.out()));
                    self.input.advance(total);
                }
                b'Q' if complete => {
                    if !self.query(lease, total).await? {
                        return Ok(());
                    }
                }
                b'Q' | b'F' => self.stream_request(lease, header.tag, total),
                b'P' | b'D' | b'E' | b'C' if !complete => return Ok(()),
                b'B' if !complete => self.stream_bind(lease, total)?,
                b'P' | b'B' | b'D' | b'E' | b'C' => {
                    if !self.sql_names_ready(lease).await? {
                        return Ok(());
                    }
                    if !self.extended(lease, header.tag, total)? {
                        return Ok(());
                    }
                }
                tag => return Err(UnitError::Tag(tag).into()),
            }
        }
    }

    fn too_large(&mut self, lease: &mut Lease, tag: u8, total: usize) {
        let fields = ErrorFields::new(
            Severity::Error,
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!(
                "statement of {total} bytes is larger than {}",
                self.effective.limits.max_query_size
            ),
        )
        .with_hint("Raise limits.maxQuerySize, or send the data by COPY.");
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| translate::fail(to, fields));
        if tag == b'Q' {
            lease.worker.stream(&slot, |to| {
                pgnet::frontend::sync(to.out());
                to.step(Step::client(Op::Sync));
            });
            lease.worker.finish_batch();
            self.names.request_ends();
            lease.request_starts();
        }
        lease.drop = total;
    }

    /// CopyData, CopyDone, CopyFail. False: whether the server wants it is not known yet.
    fn copy_message(&mut self, lease: &mut Lease, tag: u8, total: usize, complete: bool) -> bool {
        if lease.worker.copying_in() {
            if tag == b'd' {
                let n = total.min(self.input.len());
                lease.worker.append_raw(&self.input[..n]);
                self.input.advance(n);
                lease.raw = total - n;
                return true;
            }
            if !complete {
                return false;
            }
            lease.worker.append_raw(&self.input[..total]);
            lease.worker.copy_ended();
            self.input.advance(total);
            return true;
        }
        if lease.outstanding > 0 || lease.worker.batch_is_open() {
            // The CopyInResponse, or the end of the statement, is still to come.
            if lease.expects_copy {
                return false;
            }
        }
        lease.drop = total;
        true
    }

    fn sync(&mut self, lease: &mut Lease, total: usize) {
        self.input.advance(total);
        if lease.worker.copying_in() {
            // The server ignores it, too.
            return;
        }
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            pgnet::frontend::sync(to.out());
            to.step(Step::client(Op::Sync));
        });
        lease.worker.finish_batch();
        self.names.request_ends();
        lease.request_starts();
        lease.begin_ahead = false;
        lease.expects_copy = false;
    }

    /// A complete simple Query. False: it has to wait.
    async fn query(&mut self, lease: &mut Lease, total: usize) -> Result<bool, Leave> {
        let Some(text) = super::unit::query_text(&self.input[5..total]) else {
            self.input.advance(total);
            let fields = super::unit::invalid_string();
            let slot = self.card.slot.clone();
            lease.worker.stream(&slot, |to| {
                translate::fail(to, fields);
                pgnet::frontend::sync(to.out());
                to.step(Step::client(Op::Sync));
            });
            lease.worker.finish_batch();
            self.names.request_ends();
            lease.request_starts();
            return Ok(true);
        };
        let class = self.classify(text);
        if lease.status == b'I'
            && let Decision::Refuse(..) = policy::query(&class, &Transaction::None, self.mode(), false)
        {
            // The outer loop refuses it, when everything before it is answered.
            lease.leave = true;
            return Ok(false);
        }
        if needs_quiet(&class.kind) {
            if lease.outstanding > 0 || lease.worker.batch_is_open() && !lease.begin_ahead {
                return Ok(false);
            }
            lease.barrier = true;
            if !lease.begin_ahead {
                self.materialize(lease, &class.kind).await?;
            }
        }
        self.names.drop_unnamed();
        lease.expect(&class);
        let settings = &lease.open.effects.settings;
        if settings.all || !settings.reset.is_empty() {
            lease.worker.mute(true);
        }
        self.note_sql(lease, &class.kind, total);
        lease.expects_copy = expects_copy(&class.kind);
        let input = self.input.split_to(total);
        let ahead = std::mem::take(&mut lease.begin_ahead);
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            to.out().extend_from_slice(&input);
            to.step(Step::client(Op::Query));
            if ahead {
                pgnet::frontend::sync(to.out());
                to.step(Step::nobody(Op::Sync));
            }
        });
        lease.worker.finish_batch();
        self.names.request_ends();
        lease.request_starts();
        Ok(true)
    }

    /// Before a batch begins: statements made by SQL PREPARE that it names are made known to the worker. False: it has to wait.
    async fn sql_names_ready(&mut self, lease: &mut Lease) -> Result<bool, Leave> {
        if !self.names.has_sql() || lease.worker.batch_is_open() {
            return Ok(true);
        }
        if lease.outstanding > 0 {
            return Ok(false);
        }
        let mut names = Vec::new();
        let mut rest = &self.input[..];
        while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
            rest = behind;
            let name = match frame.tag {
                b'B' => translate::bind_parts(frame.body).map(|(_, name, _)| name),
                b'D' => translate::target_parts(frame.body).map(|(_, name)| name),
                b'S' | b'Q' => break,
                _ => continue,
            };
            names.extend(name.ok().filter(|n| self.names.sql(n).is_some()).map(Bytes::copy_from_slice));
        }
        self.materialize_names(lease, names).await?;
        Ok(true)
    }

    /// What SQL-level PREPARE and DEALLOCATE will have done once the request has succeeded.
    fn note_sql(&mut self, lease: &mut Lease, kind: &Kind, total: usize) {
        match kind {
            Kind::Prepare(prepare) => {
                let text = Bytes::copy_from_slice(&self.input[5..total - 1]);
                lease
                    .open
                    .prepare
                    .push((Bytes::copy_from_slice(&prepare.name), text));
                lease.worker.foreign_prepared.set(true);
            }
            Kind::Deallocate { name: Some(name) } => lease.open.deallocate.push(Bytes::copy_from_slice(name)),
            Kind::List(list) => {
                for kind in &list.kinds {
                    match kind {
                        // The statement's own text cannot be cut out of a list reliably: prepared for this lease only.
                        Kind::Prepare(_) => lease.worker.foreign_prepared.set(true),
                        other => self.note_sql(lease, other, total),
                    }
                }
            }
            _ => {}
        }
    }

    /// One message of the extended protocol. False: it has to wait.
    fn extended(&mut self, lease: &mut Lease, tag: u8, total: usize) -> Result<bool, Leave> {
        let body = &self.input[5..total];
        if tag == b'P' {
            let text = translate::parse_parts(body).map(|(_, text, _)| text).unwrap_or_default();
            let class = self.classify(text);
            if lease.status == b'I'
                && !lease.worker.batch_is_open()
                && let Decision::Refuse(..) = policy::query(&class, &Transaction::None, self.mode(), false)
            {
                lease.leave = true;
                return Ok(false);
            }
            if needs_quiet(&class.kind) && lease.outstanding > 0 {
                return Ok(false);
            }
            lease.expect(&class);
            lease.expects_copy |= expects_copy(&class.kind);
            lease.open.effects.forgets_prepared |= matches!(class.kind, Kind::Deallocate { name: None });
            if let Kind::Deallocate { name: Some(name) } = &class.kind {
                lease.open.deallocate.push(Bytes::copy_from_slice(name));
            }
        }
        if tag == b'B' {
            let name = translate::bind_parts(body).map(|(_, name, _)| name).unwrap_or_default();
            if let Some(statement) = self.names.get(name) {
                let class = statement.class.borrow().clone();
                lease.expect(&class);
                lease.expects_copy |= expects_copy(&class.kind);
            }
        }
        let input = self.input.split_to(total);
        let materialized = &lease.materialized;
        let intern = interner(&self.thread, &lease.pool, &self.settings);
        let ground = Ground {
            session: self.card.serial,
            prepared_max: self.effective.limits.max_prepared_statements,
            own: &|name| materialized.contains(name),
            intern: &intern,
        };
        let slot = self.card.slot.clone();
        let names = &mut self.names;
        lease.worker.stream(&slot, |to| {
            translate::message(to, names, &ground, tag, &input[5..]);
        });
        Ok(true)
    }

    /// A Query or FunctionCall that is not here completely: its bytes follow as they come.
    fn stream_request(&mut self, lease: &mut Lease, tag: u8, total: usize) {
        lease.expect(&Class::of(Kind::Unknown));
        let n = total.min(self.input.len());
        let input = self.input.split_to(n);
        lease.raw = total - n;
        let ahead = std::mem::take(&mut lease.begin_ahead);
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            to.out().extend_from_slice(&input);
            to.step(Step::client(if tag == b'Q' { Op::Query } else { Op::Function }));
        });
        lease.owes_sync = ahead;
        if !ahead {
            lease.worker.finish_batch();
        }
        self.names.request_ends();
        lease.request_starts();
    }

    /// The Sync behind a Query that BEGIN was written ahead of.
    fn sync_behind(&mut self, lease: &mut Lease) {
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            pgnet::frontend::sync(to.out());
            to.step(Step::nobody(Op::Sync));
        });
        lease.worker.finish_batch();
    }

    /// A Bind with large parameters: its names are put in place, the rest follows as it comes.
    fn stream_bind(&mut self, lease: &mut Lease, total: usize) -> Result<(), Leave> {
        let body = &self.input[5..];
        let (portal, name, rest) = translate::bind_parts(body)?;
        let (portal, name) = (portal.to_vec(), name.to_vec());
        let begun = body.len() - rest.len();
        let left = total - 5 - begun;
        let here = rest.len().min(left);
        if let Some(statement) = self.names.get(&name) {
            let class = statement.class.borrow().clone();
            lease.expect(&class);
        }
        let materialized = &lease.materialized;
        let intern = interner(&self.thread, &lease.pool, &self.settings);
        let ground = Ground {
            session: self.card.serial,
            prepared_max: self.effective.limits.max_prepared_statements,
            own: &|name| materialized.contains(name),
            intern: &intern,
        };
        let names = &mut self.names;
        let data = &self.input[5 + begun..5 + begun + here];
        let slot = self.card.slot.clone();
        let known = lease.worker.stream(&slot, |to| {
            translate::bind_head(to, names, &ground, &portal, &name, left, data)
        });
        self.input.advance(5 + begun + here);
        if known {
            lease.raw = left - here;
        } else {
            lease.drop = left - here;
        }
        Ok(())
    }

    /// Waits for the worker, the client, or the end of somebody's patience.
    async fn wait_lease(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        let idle = lease.outstanding == 0 && !lease.worker.batch_is_open();
        self.card.set_doing(match (idle, lease.status) {
            (false, _) => Doing::Leased,
            (true, b'I') => Doing::Pinned,
            (true, _) => Doing::InTransaction,
        });
        let (deadline, why) = self.patience(lease, idle);
        let slot = self.card.slot.clone();
        let event = poll_fn(|cx| {
            let mut progress = false;
            let delivered = match self.poll_deliver(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(leave)) => return Poll::Ready(Err(leave)),
                Poll::Pending => false,
            };
            progress |= self.absorb(lease);
            if let Some(leave) = killed(&self.card, idle && lease.status == b'I' && self.input.is_empty()) {
                return Poll::Ready(Err(leave));
            }
            if self.input.len() < INPUT_MAX && lease.worker.unwritten() <= UNWRITTEN_MAX {
                match io::poll_read(&self.thread, &mut self.stream, &mut self.input, cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Leave::Gone)),
                    Poll::Ready(Ok(n)) => {
                        self.thread.counters.bytes_in.add(n as u64);
                        progress = true;
                    }
                    Poll::Ready(Err(leave)) => return Poll::Ready(Err(leave)),
                    Poll::Pending => {}
                }
            }
            if lease.worker.unwritten() > UNWRITTEN_MAX {
                lease.worker.tell_when_written(cx.waker());
            }
            if progress {
                return Poll::Ready(Ok(()));
            }
            if delivered {
                if slot.poll_ready(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            } else {
                slot.register(cx);
            }
            Poll::Pending
        });
        match deadline {
            None => event.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), event).await {
                Ok(result) => result,
                Err(_) => self.out_of_patience(lease, why).await,
            },
        }
    }

    /// Takes in what the worker reported. True if there was anything.
    fn absorb(&mut self, lease: &mut Lease) -> bool {
        let slot = self.card.slot.clone();
        let copy_in = slot.take_copy_in();
        if copy_in == Some(true) {
            lease.outstanding = lease.outstanding.saturating_sub(1);
            if let Some(after) = lease.after.pop_back() {
                lease.open = after;
            }
            self.names.request_reopens();
        }
        let mut progress = copy_in.is_some();
        while let Some(end) = slot.take_end() {
            self.ended(lease, end);
            progress = true;
        }
        progress
    }

    /// Until when to wait, and for what.
    fn patience(&self, lease: &Lease, idle: bool) -> (Option<Instant>, Impatience) {
        let timeouts = &self.effective.timeouts;
        let mut soonest: (Option<Instant>, Impatience) = (None, Impatience::Write);
        let mut consider = |at: Option<Instant>, why: Impatience| {
            if let Some(at) = at
                && soonest.0.is_none_or(|s| at < s)
            {
                soonest = (Some(at), why);
            }
        };
        let now = Instant::now();
        if !self.card.slot.is_drained() {
            consider(timeouts.client_write.map(|l| now + l), Impatience::Write);
        }
        if idle && lease.status == b'I' {
            consider(timeouts.client_idle.map(|l| now + l), Impatience::Idle);
        } else if idle {
            consider(
                timeouts.idle_in_transaction.map(|l| now + l),
                Impatience::IdleInTransaction,
            );
        } else if !lease.cancelled {
            consider(timeouts.query.map(|l| lease.request_began + l), Impatience::Query);
        }
        if lease.status != b'I' || lease.outstanding > 0 && lease.had_transaction {
            consider(
                timeouts.transaction.map(|l| lease.began + l),
                Impatience::Transaction,
            );
        }
        soonest
    }

    async fn out_of_patience(&mut self, lease: &mut Lease, why: Impatience) -> Result<(), Leave> {
        match why {
            Impatience::Write => Err(Leave::Gone),
            Impatience::Idle => Err(too_idle(SqlState::IDLE_SESSION_TIMEOUT)),
            Impatience::IdleInTransaction => Err(too_idle(SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT)),
            Impatience::Transaction => Err(Leave::fatal(
                SqlState::TRANSACTION_TIMEOUT,
                "terminating connection due to transaction timeout",
            )),
            Impatience::Query => {
                lease.cancelled = true;
                super::super::cancel::on_server(&lease.worker).await;
                Ok(())
            }
        }
    }

    /// A request on the lease is over.
    fn ended(&mut self, lease: &mut Lease, end: End) {
        match end {
            End::Done { status, error, acks } => {
                lease.outstanding = lease.outstanding.saturating_sub(1);
                lease.request_began = Instant::now();
                lease.status = status;
                lease.had_transaction |= status != b'I';
                lease.expects_copy &= lease.outstanding > 0;
                self.names.settle(acks);
                let Some(after) = lease.after.pop_front() else {
                    return;
                };
                self.happened(lease, after, error);
            }
            End::Lost {
                said,
                started,
                clean_cut,
            } => {
                lease.lost = true;
                lease.loss = Some(Loss {
                    said,
                    started,
                    clean_cut,
                });
            }
            End::Repeat | End::Cancelled => {}
        }
    }

    fn happened(&mut self, lease: &mut Lease, after: After, error: bool) {
        let effects = after.effects;
        lease.changed.all |= effects.settings.all;
        lease.changed.names.extend(effects.settings.names);
        lease.changed.reset.extend(effects.settings.reset);
        lease.ask_pins |= effects.pins || (lease.pinned && !effects.clean);
        if effects.sequences {
            lease.worker.sequences_of.set(Some(self.card.serial));
        }
        if effects.ddl && !error {
            self.thread.catalogs.stale(&self.database);
            lease.pool.distrust_prepared();
        }
        if error {
            return;
        }
        if effects.forgets_prepared {
            lease.worker.forget_prepared();
            lease.materialized.clear();
            self.names.deallocate_all();
        }
        for (name, text) in after.prepare {
            lease.materialized.insert(name.clone());
            self.names.define_sql(&name, &text);
        }
        for name in after.deallocate {
            lease.materialized.remove(&name);
            self.names.deallocate(&name);
        }
    }

    /// The worker died. What was asked of it is answered as lost; a transaction is failed until the client ends it.
    async fn mourn(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        let loss = lease.loss.take();
        let clean_cut = loss.as_ref().is_none_or(|l| l.clean_cut);
        if !clean_cut {
            return Err(Leave::Gone);
        }
        if let Some(Loss { said: Some(said), .. }) = &loss
            && said.code == SqlState::PROTOCOL_VIOLATION
        {
            // What this client sent put the server out of step: it hears what it would hear from the server itself.
            return Err(Leave::Fatal(Box::new((**said).clone())));
        }
        let in_transaction = lease.status != b'I' || (lease.had_transaction && lease.outstanding > 0);
        let said = loss.as_ref().and_then(|l| l.said.clone());
        let mut fields = ErrorFields::new(
            Severity::Error,
            SqlState::CONNECTION_FAILURE,
            "the server was lost in the middle of this request; whether it took effect is unknown",
        )
        .with_hint(if in_transaction {
            "The transaction is lost: end it by ROLLBACK and begin again."
        } else {
            "Check whether it took effect before repeating it."
        });
        if let Some(said) = &said {
            fields.detail = Some(format!("The server said: {} {}", said.code, said.message));
        }
        let open_batch = lease.worker.batch_is_open();
        let waiting = lease.outstanding;
        if waiting == 0 && !open_batch {
            if lease.pinned && !in_transaction {
                return Err(Leave::fatal(
                    SqlState::ADMIN_SHUTDOWN,
                    "terminating connection because its server is gone",
                ));
            }
            if in_transaction {
                // Nothing was asked that could be answered: the client hears of it now, and at its next statement.
                fields.severity = Severity::Warning.as_str().to_owned();
                fields.severity_nonlocalized = Severity::Warning;
                "the server was lost in the middle of the transaction".clone_into(&mut fields.message);
                fields.encode_notice(&mut self.out);
            }
        }
        self.names.forget_asked();
        self.transaction = if in_transaction {
            Transaction::Failed
        } else {
            Transaction::None
        };
        self.thread.counters.errors[0].add(1);
        for _ in 0..waiting {
            local::error(&mut self.out, &fields, self.transaction.status());
        }
        if lease.raw + lease.drop > 0 {
            let rest = lease.raw + lease.drop;
            self.discard(rest).await?;
        }
        if open_batch {
            self.skip_batch(&fields).await?;
        }
        self.scan.taken();
        Ok(())
    }
}

/// Why waiting has an end.
#[derive(Clone, Copy, Debug)]
enum Impatience {
    Write,
    Idle,
    IdleInTransaction,
    Query,
    Transaction,
}

/// How the worker was lost.
struct Loss {
    said: Option<Rc<ErrorFields>>,
    #[expect(dead_code, reason = "kept for the log")]
    started: bool,
    clean_cut: bool,
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

/// Statements before and after which everything must be answered.
fn needs_quiet(kind: &Kind) -> bool {
    match kind {
        Kind::Set(set) => set.items.iter().any(|item| !matches!(item, SetItem::Set { .. })),
        Kind::Prepare(_) | Kind::Execute(_) | Kind::Deallocate { .. } | Kind::Discard(_) | Kind::Reset(_) => {
            true
        }
        Kind::List(list) => list.prepared || list.kinds.iter().any(needs_quiet),
        _ => false,
    }
}

fn expects_copy(kind: &Kind) -> bool {
    match kind {
        Kind::CopyIn | Kind::Unknown | Kind::Execute(_) => true,
        Kind::List(list) => list.copies_in || list.unknown,
        _ => false,
    }
}

/// Longest a query of ours on a leased worker may take.
pub(super) const INTERNAL_MAX: Duration = Duration::from_secs(30);

impl Session {
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

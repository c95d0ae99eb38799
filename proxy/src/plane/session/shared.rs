//! Known reads: a whole request put into a worker's queue among others, and its reply.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::frame;
use pgnet::sqlstate::SqlState;
use smallvec::SmallVec;

use super::super::card::Doing;
use super::super::error::ServeError;
use super::super::pool::Pool;
use super::super::script::{Op, Step};
use super::super::settings::{Difference, Settings};
use super::super::slot::{End, Settled};
use super::super::statement::{Statement, StatementKey};
use super::super::thread::Thread;
use super::super::turn;
use super::super::worker::{Composer, Joins, SYNC_LENGTH, State, Worker};
use super::dispatch::{Aside, Next};
use super::names::Change;
use super::policy::{Batch, is_end};
use super::translate::{self, Ground};
use super::unit::Unit;
use super::{Leave, Session, Unserved, asker, io, local};
use crate::classify::{Class, Kind, list};

/// Longest request that shares a Sync, in bytes.
const JOINED_LENGTH_MAX: usize = 8 * 1024;
/// Times a read is run again among others before it gets a worker for itself.
pub(super) const REPEATS_MAX: u32 = 5;

impl Session {
    /// Puts a known read into the queue of a worker that takes it now; without one it waits.
    pub(super) fn share_now(&mut self, unit: Unit, total: usize, class: Rc<Class>) -> Next {
        let pool = match self.replica_for(&class) {
            Some(pool) => Some(pool),
            None => self.open_master(false),
        };
        let found = pool.and_then(|pool| Some((pool.pick_shared(&self.settings, class.shape)?, pool)));
        match found {
            Some((worker, pool)) => self.put(&pool, &worker, unit, total, class),
            None => Next::Aside(Aside::Queue(unit, total, class)),
        }
    }

    /// Waits for a worker that takes a known read.
    pub(super) async fn share_later(
        &mut self,
        unit: Unit,
        total: usize,
        class: Rc<Class>,
    ) -> Result<Next, Leave> {
        match self.find_shared(&class).await {
            Ok((pool, worker)) => Ok(self.put(&pool, &worker, unit, total, class)),
            Err(Unserved::Leave(leave)) => Err(leave),
            Err(Unserved::Told(error)) => {
                self.names.forget_asked();
                self.pass_over(total);
                self.repeats = 0;
                self.own_error(&error);
                Ok(Next::Request)
            }
        }
    }

    fn put(
        &mut self,
        pool: &Rc<Pool>,
        worker: &Rc<Worker>,
        unit: Unit,
        total: usize,
        class: Rc<Class>,
    ) -> Next {
        if !self.unverified(worker).is_empty() {
            // The server is asked before it runs them, which needs a worker for oneself.
            pool.decline(worker);
            return Next::Aside(Aside::Lease(class));
        }
        self.submit(pool, worker, unit, total, &class);
        Next::Reply { total }
    }

    /// The known read at the front was answered, or has to be run again.
    pub(super) fn reply_ended(&mut self, total: usize, end: End) -> Result<(), Leave> {
        self.card.set_worker(None);
        let end = match end {
            End::Repeat if self.card.cancelled.get() => End::Cancelled,
            End::Repeat => {
                self.repeats += 1;
                self.thread.counters.repeats.add(1);
                self.names.forget_asked();
                self.scan.taken();
                return Ok(());
            }
            end => end,
        };
        self.repeats = 0;
        self.pass_over(total);
        self.thread.counters.requests_shared.add(1);
        match end {
            End::Done { settled, .. } => {
                self.names.settle(settled);
            }
            End::Cancelled => {
                self.names.forget_asked();
                self.own_error(&ServeError::Cancelled);
            }
            End::Repeat | End::Lost { .. } => {
                self.names.forget_asked();
                if matches!(end, End::Lost { clean_cut: false, .. }) {
                    // Half a message is out: nothing that follows could be understood.
                    return Err(Leave::Gone);
                }
                let fields = ErrorFields::new(
                    Severity::Error,
                    SqlState::CONNECTION_FAILURE,
                    "the server was lost while it answered",
                )
                .with_hint("The statement only read; it may be repeated.");
                self.thread.counters.error(fields.code);
                local::error(&mut self.out, &fields, self.transaction.status());
            }
        }
        Ok(())
    }

    /// Tells the client why its request could not be run, with its own status behind it.
    pub(super) fn own_error(&mut self, error: &ServeError) {
        let fields = error.fields(Severity::Error);
        self.thread.counters.error(fields.code);
        self.fail_open_transaction();
        local::error(&mut self.out, &fields, self.transaction.status());
    }

    /// The pool of a healthy replica, if this read goes to one.
    pub(super) fn replica_for(&mut self, class: &Class) -> Option<Rc<Pool>> {
        if self.prefers_replica(class) {
            self.replica_pool()
        } else {
            None
        }
    }

    /// A worker that takes this read: of a replica where that is wanted and one is healthy, else of the master.
    async fn find_shared(&mut self, class: &Class) -> Result<(Rc<Pool>, Rc<Worker>), Unserved> {
        loop {
            let pool = match self.replica_for(class) {
                Some(pool) => pool,
                None => self.master_pool(false).await?,
            };
            if let Some(worker) = pool.pick_shared(&self.settings, class.shape) {
                return Ok((pool, worker));
            }
            self.card.set_doing(Doing::Waiting);
            let asker = asker(&self.card, &self.settings, &self.startup);
            let share = io::while_here(
                &self.thread,
                &self.card,
                &mut self.stream,
                &mut self.input,
                pool.share(&asker, class.shape),
            )
            .await?;
            match share {
                Ok(worker) => {
                    worker.tickets.set(worker.tickets.get() - 1);
                    if worker.state.get() == State::Closed {
                        continue;
                    }
                    return Ok((pool, worker));
                }
                Err(error) if matches!(*error, ServeError::Moved) => tokio::task::yield_now().await,
                Err(error) => return Err(Unserved::Told(error)),
            }
        }
    }

    /// Puts the request into the worker's queue.
    fn submit(&mut self, pool: &Rc<Pool>, worker: &Rc<Worker>, unit: Unit, total: usize, class: &Class) {
        let worn = worker.wears();
        let difference = self.settings.difference(&worn);
        let was_idle = worker.state.get() == State::Idle;
        if !was_idle {
            pool.watch(worker.due(turn::began(), pool.overrun()));
        }
        pool.note_fit(worker, difference == Difference::None, &self.startup);
        let expected = pool.expected(class.shape);
        worker.state.set(State::Shared);
        self.card.set_worker(Some(worker));
        self.card.set_doing(Doing::Shared);
        self.card.since.set(turn::began());
        let slot = self.card.slot.clone();
        // Nothing is outstanding: whatever stands here belongs to a worker that is gone.
        slot.clear();
        let names = &mut self.names;
        let input = &self.input[..total];
        let settings = &self.settings;
        let intern = interner(&self.thread, pool, settings);
        let ground = Ground {
            session: self.card.serial,
            prepared_max: self.effective.limits.max_prepared_statements,
            own: &|_| false,
            intern: &intern,
            keeps: true,
        };
        let joins = if difference == Difference::None && may_join(&self.thread, pool, settings, class) {
            form(&unit, input)
        } else {
            Joins::Nothing
        };
        worker.append_read(slot, class.shape, expected, joins, |to, behind_another| {
            if let Difference::Set(set) = &difference {
                prefix(to, pool, set, ground.prepared_max);
            }
            match unit {
                Unit::Query { .. } if behind_another => {
                    to.query_as_batch(&input[5..]);
                    to.client_sync();
                }
                Unit::Query { .. } => {
                    to.out().extend_from_slice(input);
                    if matches!(difference, Difference::Set(_)) {
                        to.step(Step::query_before_sync());
                        to.client_sync();
                    } else {
                        to.step(Step::client(Op::Query));
                    }
                }
                _ => {
                    let mut rest = input;
                    while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
                        rest = behind;
                        if frame.tag == b'S' {
                            to.client_sync();
                        } else {
                            translate::message(to, names, &ground, frame.tag, frame.body);
                        }
                    }
                    names.request_ends();
                }
            }
        });
        if let Difference::Set(set) = &difference {
            worker.note_custom(set.iter().map(|(name, _)| *name));
        }
        if turn::brings_one() && was_idle {
            worker.write_now();
        } else {
            worker.write_soon();
        }
    }

    /// Sends the reply on as it comes, until the request has ended and all is out.
    pub(super) async fn await_shared(&mut self) -> Result<End, Leave> {
        let slot = self.card.slot.clone();
        let _open = self.open_slot();
        let mut ended = None;
        let mut stuck: Option<std::pin::Pin<Box<tokio::time::Sleep>>> = None;
        let limit = self
            .effective
            .timeouts
            .client_write
            .unwrap_or(Duration::from_secs(3600));
        let result = poll_fn(|cx| {
            loop {
                let before = self.thread.counters.bytes_out.read();
                let delivered = self.poll_deliver(cx);
                if self.thread.counters.bytes_out.read() != before {
                    stuck = None;
                }
                if let Poll::Ready(Err(leave)) = delivered {
                    return Poll::Ready(Err(leave));
                }
                if ended.is_none() {
                    ended = slot.take_end();
                }
                if delivered.is_ready() && slot.is_drained() {
                    stuck = None;
                    if let Some(end) = ended.take() {
                        return Poll::Ready(Ok(end));
                    }
                    if slot.poll_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                    continue;
                }
                // The client does not take what it is owed: it has so long, then it goes.
                slot.register(cx);
                let timer = stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                return match std::future::Future::poll(timer.as_mut(), cx) {
                    Poll::Ready(()) => Poll::Ready(Err(Leave::Gone)),
                    Poll::Pending => Poll::Pending,
                };
            }
        })
        .await;
        if result.is_err()
            && let Some(worker) = self.card.worker()
        {
            worker.detach(&slot);
            slot.clear();
        }
        result
    }

    /// Takes a complete batch apart: which statements it executes, and what they are together.
    pub(super) fn inspect(&mut self, total: usize) -> Result<Batch, Leave> {
        let input = &self.input[..total];
        let mut parsed: SmallVec<[(&[u8], &[u8], Rc<Class>); 1]> = SmallVec::new();
        let mut portals: SmallVec<[(&[u8], Option<Rc<Class>>); 1]> = SmallVec::new();
        // Statements by name that are bound or described.
        let mut used: SmallVec<[&[u8]; 2]> = SmallVec::new();
        let mut executed: SmallVec<[Rc<Class>; 4]> = SmallVec::new();
        let mut obscure = false;
        let mut names = false;
        let mut only_ends = true;
        let mut executes = 0;
        let mut shape = 0u64;
        let mut rest = input;
        while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
            rest = behind;
            match frame.tag {
                b'P' => {
                    let Ok((name, text, _)) = translate::parse_parts(frame.body) else {
                        obscure = true;
                        break;
                    };
                    names |= !name.is_empty();
                    // A pipeline often repeats one text.
                    let class = match parsed.last() {
                        Some((_, last, class)) if *last == text => class.clone(),
                        _ => self.classify(text),
                    };
                    only_ends &= is_end(&class);
                    parsed.push((name, text, class));
                }
                b'B' => {
                    let Ok((portal, name, _)) = translate::bind_parts(frame.body) else {
                        obscure = true;
                        break;
                    };
                    obscure |= self.names.sql(name).is_some();
                    let class = parsed
                        .iter()
                        .rev()
                        .find(|(n, ..)| *n == name)
                        .map(|(_, _, c)| c.clone());
                    let class = class.or_else(|| self.names.get(name).map(|s| self.class_of(&s)));
                    only_ends &= class.as_deref().is_some_and(is_end);
                    used.push(name);
                    portals.push((portal, class));
                }
                b'E' => {
                    let Ok(portal) = translate::execute_portal(frame.body) else {
                        obscure = true;
                        break;
                    };
                    executes += 1;
                    match portals.iter().rev().find(|(n, _)| *n == portal) {
                        Some((_, Some(class))) => {
                            shape = shape.rotate_left(7) ^ class.shape;
                            executed.push(class.clone());
                        }
                        // A statement the client does not have: the server's error is needed, nothing is run.
                        Some((_, None)) => {}
                        None => obscure = true,
                    }
                }
                b'D' => {
                    match translate::target_parts(frame.body) {
                        Ok((b'S', name)) => {
                            obscure |= self.names.sql(name).is_some();
                            let is_new = parsed.iter().any(|(n, ..)| *n == name);
                            only_ends &= !self.transaction.is_failed()
                                || is_new
                                || self.names.get(name).is_some_and(|s| is_end(&self.class_of(&s)));
                            used.push(name);
                        }
                        // A portal that is not bound here is not to be one of ours.
                        Ok((_, portal)) => obscure |= !portals.iter().any(|(n, _)| *n == portal),
                        Err(_) => only_ends = false,
                    }
                }
                b'C' => names = true,
                _ => {}
            }
        }
        let class = match executed.as_slice() {
            [] => Rc::new(Class::of(Kind::Unknown)),
            [one] => one.clone(),
            many => {
                let mut class = if many.iter().all(|c| c.is_known_read()) {
                    (*many[0]).clone()
                } else {
                    list::summed(many.iter().map(|c| (**c).clone()).collect())
                };
                class.shape = shape;
                Rc::new(class)
            }
        };
        // Nor is another parsed, bound or described.
        let first = used.first().copied();
        let is_first = |name: &[u8]| Some(name) == first;
        let alone = portals.len() <= 1
            && used.iter().all(|name| is_first(name))
            && parsed.iter().all(|(name, ..)| is_first(name));
        Ok(Batch {
            single: executed.len() == 1 && executes == 1 && alone && class.kind != Kind::Empty,
            executes_nothing: executed.is_empty() && !obscure,
            lone_sync: total == SYNC_LENGTH,
            obscure,
            names,
            only_ends,
            class,
        })
    }

    /// A batch was answered here: what it closed is no longer the client's, and what it parsed is, unless it failed.
    pub(super) fn note_batch(&mut self, pool: Option<&Rc<Pool>>, batch: &[u8], failed: bool) {
        let mut rest = batch;
        while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
            rest = behind;
            let change = match frame.tag {
                b'P' | b'B' | b'D' | b'E' if failed => return,
                b'P' => match (translate::parse_parts(frame.body), pool) {
                    (Ok((name, text, types)), Some(pool)) => {
                        let statement = interner(&self.thread, pool, &self.settings)(text, types);
                        Change::Define(Bytes::copy_from_slice(name), statement)
                    }
                    _ => Change::Remove(Bytes::new()),
                },
                b'C' => match translate::target_parts(frame.body) {
                    Ok((b'S', name)) => Change::Remove(Bytes::copy_from_slice(name)),
                    _ => continue,
                },
                _ => continue,
            };
            self.names.ask(change);
            self.names.request_ends();
            self.names.settle(Settled {
                acks: 1,
                ..Settled::default()
            });
        }
    }

    /// What a prepared statement does, judged again when the catalog has changed since.
    pub(super) fn class_of(&self, statement: &Rc<Statement>) -> Rc<Class> {
        let generation = self.thread.catalogs.generation(&self.database);
        if statement.judged.get() != generation {
            *statement.class.borrow_mut() = self.classify(&statement.key.text);
            statement.judged.set(generation);
        }
        statement.class.borrow().clone()
    }
}

/// Finds or makes the statement of a Parse. A pipeline often repeats one: the last is remembered.
pub(super) fn interner<'a>(
    thread: &'a Rc<super::Thread>,
    pool: &'a Rc<Pool>,
    settings: &'a Rc<Settings>,
) -> impl Fn(&[u8], &[u8]) -> Rc<Statement> + 'a {
    let last: RefCell<Option<Rc<Statement>>> = RefCell::default();
    move |text, types| {
        let mut last = last.borrow_mut();
        if let Some(statement) = &*last
            && statement.key.text == text
            && statement.key.types == types
        {
            return statement.clone();
        }
        let key = StatementKey {
            text: Bytes::copy_from_slice(text),
            types: Bytes::copy_from_slice(types),
            frozen: settings.frozen(),
        };
        let judge = |text: &[u8]| {
            let catalog = thread.catalogs.get(&pool.database);
            let context = crate::classify::Context {
                catalog: catalog.as_deref(),
                role: settings.get("role").unwrap_or(&pool.user),
                search_path: settings.get("search_path").unwrap_or("\"$user\", public"),
                lexing: if settings.unsafe_lexing() {
                    crate::classify::Lexing::Unsafe
                } else {
                    crate::classify::Lexing::Standard
                },
            };
            (
                thread.classifier.borrow_mut().class_of(text, &context),
                thread.catalogs.generation(&pool.database),
            )
        };
        let statement = pool.statements.intern(key, judge);
        if statement.judged.get() != thread.catalogs.generation(&pool.database) {
            let (class, generation) = judge(&statement.key.text);
            *statement.class.borrow_mut() = class;
            statement.judged.set(generation);
        }
        *last = Some(statement.clone());
        statement
    }
}

/// Whether a read of this class may share a Sync with others (`worker/join.rs`).
fn may_join(thread: &Thread, pool: &Pool, settings: &Settings, class: &Class) -> bool {
    class.kind == Kind::KnownRead
        && class.statements == 1
        && pool.may_join(class.shape)
        && reads_committed(thread, &pool.database, settings)
}

/// Whether what begins a transaction without saying how reads what is committed.
pub(super) fn reads_committed(thread: &Thread, database: &Arc<str>, settings: &Settings) -> bool {
    thread.catalogs.reads_committed(database)
        && settings
            .get("default_transaction_isolation")
            .is_none_or(|level| level == "read committed")
}

/// As what it would join others. Nothing that outlives its own messages may be in it: it has one unnamed portal, which the next takes over.
fn form(unit: &Unit, request: &[u8]) -> Joins {
    if request.len() > JOINED_LENGTH_MAX {
        return Joins::Nothing;
    }
    if matches!(unit, Unit::Query { .. }) {
        return Joins::Query;
    }
    let (mut rest, mut executes) = (request, 0);
    while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
        rest = behind;
        let fits = match frame.tag {
            b'P' | b'D' => executes == 0,
            b'B' => executes == 0 && frame.body.first() == Some(&0),
            b'E' => {
                executes += 1;
                executes == 1
            }
            b'S' => executes == 1,
            _ => false,
        };
        if !fits {
            return Joins::Nothing;
        }
    }
    Joins::Batch
}

/// Settings for exactly the statement behind it: without a Sync of its own, so that it and the statement stand or fall
/// together, and local, so that they are gone with it (MULTIPLEXING, "Settings").
pub(super) fn prefix(to: &mut Composer<'_>, pool: &Rc<Pool>, set: &[(&str, &str)], prepared_max: usize) {
    let statement = pool.statements.set_config(set.len());
    let mut params: Vec<Option<&[u8]>> = Vec::with_capacity(2 * set.len());
    for (name, value) in set {
        params.push(Some(name.as_bytes()));
        params.push(Some(value.as_bytes()));
    }
    to.run_for_nobody(&statement, &params, prepared_max);
}

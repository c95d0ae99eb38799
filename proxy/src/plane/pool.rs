//! A pool: the workers of one server, database and user on one data thread, and the requests that wait for one.
//!
//! Decides who runs where: known reads are put behind others on few busy workers, everything else gets an idle worker for
//! itself. Never hands out a worker on which anything is owed, except to known reads.

mod connect;
mod wait;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crds::Effective;
use pgnet::client::Credential;
use tokio::sync::Notify;

use super::counters::Counters;
use super::error::ServeError;
use super::settings::{Difference, Settings};
use super::statement::StatementInterner;
use super::thread::Thread;
use super::topology::Server;
use super::worker::{Purpose, State, Worker};
pub(super) use wait::Asker;
use wait::Waiter;

/// Shapes whose service time is remembered; beyond it the memory starts anew.
const ESTIMATES_MAX: usize = 8192;
/// Known reads whose time is not known are taken to need this long.
const UNKNOWN_SERVICE: Duration = Duration::from_millis(2);
/// How often the number of workers for shared reads is reconsidered.
const CLIMB_PERIOD: Duration = Duration::from_millis(250);
/// Workers for shared reads at the start.
const ACTIVE_AT_START: usize = 4;
/// A running request others wait behind is given at least this long before they go elsewhere.
const OVERRUN_MIN: Duration = Duration::from_millis(5);

/// Time a statement has to end after its client has gone.
const CLEANING_PATIENCE: Duration = Duration::from_secs(10);
/// Time after which a worker that is still not clean is closed.
const CLEANING_MAX: Duration = Duration::from_secs(20);

/// What a client is told at its login, as the server told us: by startup settings.
pub(super) type Greeting = Rc<Vec<(Bytes, Bytes)>>;

/// How well a worker suits a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Same settings.
    Same,
    /// Some have to be set.
    Prefix,
    /// It cannot serve this session.
    No,
}

/// Finds the number of workers that gives the most, by trying.
struct Climb {
    active: usize,
    up: bool,
    since: Instant,
    served: u64,
    rate: f64,
}

/// See the module.
pub(super) struct Pool {
    pub(super) server: Arc<Server>,
    pub(super) database: Arc<str>,
    pub(super) user: Arc<str>,
    /// Of session mode: a worker is given only to clients with the startup packet it was opened with, and reset between two.
    pub(super) direct: bool,
    pub(super) thread: Weak<Thread>,
    pub(super) credential: RefCell<Credential>,
    pub(super) workers: RefCell<Vec<Rc<Worker>>>,
    pub(super) clients: Cell<usize>,
    pub(super) statements: StatementInterner,
    greetings: RefCell<HashMap<*const Settings, (Rc<Settings>, Greeting)>>,
    effective: RefCell<Arc<Effective>>,
    counters: Arc<Counters>,
    alone: RefCell<VecDeque<Rc<Waiter>>>,
    shared: RefCell<VecDeque<Rc<Waiter>>>,
    connecting: Cell<usize>,
    backoff: Cell<(Option<Instant>, Duration)>,
    /// The last failure to connect: with which startup settings, when, why.
    trouble: RefCell<Option<(Rc<Settings>, Instant, Rc<ServeError>)>>,
    estimates: RefCell<HashMap<u64, f32>>,
    climb: RefCell<Climb>,
    closed: Cell<bool>,
    /// A worker was opened or could not be.
    greeted: Notify,
    /// Clients that wait to be greeted.
    greeted_wanted: Cell<usize>,
}

impl Pool {
    pub(super) fn new(
        thread: &Rc<Thread>,
        server: Arc<Server>,
        database: Arc<str>,
        user: Arc<str>,
        credential: Credential,
        direct: bool,
    ) -> Rc<Self> {
        let effective = Arc::new(thread.config().effective(&database, &user));
        Rc::new(Self {
            server,
            database,
            user,
            direct,
            thread: Rc::downgrade(thread),
            credential: RefCell::new(credential),
            workers: RefCell::default(),
            clients: Cell::new(0),
            statements: StatementInterner::default(),
            greetings: RefCell::default(),
            effective: RefCell::new(effective),
            counters: thread.counters.clone(),
            alone: RefCell::default(),
            shared: RefCell::default(),
            connecting: Cell::new(0),
            backoff: Cell::new((None, connect::BACKOFF_MIN)),
            trouble: RefCell::new(None),
            estimates: RefCell::default(),
            climb: RefCell::new(Climb {
                active: ACTIVE_AT_START,
                up: false,
                since: Instant::now(),
                served: 0,
                rate: 0.0,
            }),
            closed: Cell::new(false),
            greeted: Notify::new(),
            greeted_wanted: Cell::new(0),
        })
    }

    /// New settings of the resource.
    pub(super) fn configure(&self, effective: Effective) {
        *self.effective.borrow_mut() = Arc::new(effective);
    }

    pub(super) fn effective(&self) -> Arc<Effective> {
        self.effective.borrow().clone()
    }

    pub(super) fn limits(&self) -> crds::Limits {
        self.effective.borrow().limits
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long a running request may hold up those behind it.
    pub(super) fn overrun(&self) -> Duration {
        self.pipeline().max_expected_wait.max(OVERRUN_MIN)
    }

    fn pipeline(&self) -> crds::Pipeline {
        self.thread
            .upgrade()
            .map(|t| t.config().workers.pipeline)
            .unwrap_or_default()
    }

    /// How well `worker` suits a session with these settings.
    pub(super) fn fit(worker: &Worker, settings: &Rc<Settings>) -> Fit {
        if worker.direct && !Rc::ptr_eq(&worker.base, settings) {
            return Fit::No;
        }
        let custom = worker.custom.borrow();
        if !custom.is_empty() && custom.iter().any(|name| settings.get(name).is_none()) {
            return Fit::No;
        }
        match settings.difference(&worker.base) {
            Difference::None => Fit::Same,
            Difference::Set(_) => Fit::Prefix,
            Difference::Incompatible => Fit::No,
        }
    }

    /// Time a known read of this shape takes on the server, as measured.
    fn estimate(&self, shape: u64) -> Option<Duration> {
        self.estimates
            .borrow()
            .get(&shape)
            .map(|us| Duration::from_micros(*us as u64))
    }

    /// A request has ended after `took`.
    pub(super) fn served(&self, purpose: Purpose, shape: u64, took: Duration) {
        self.counters.service.observe(took);
        if purpose != Purpose::Shared {
            return;
        }
        let us = took.as_secs_f32() * 1e6;
        let mut estimates = self.estimates.borrow_mut();
        if estimates.len() >= ESTIMATES_MAX && !estimates.contains_key(&shape) {
            estimates.clear();
        }
        // Rises fast, falls slowly: one slow run is remembered for some time.
        let old = estimates.entry(shape).or_insert(us);
        *old += (us - *old) * if us > *old { 0.25 } else { 0.05 };
        drop(estimates);
        self.climb(Instant::now());
    }

    /// Reconsiders, now and then, how many workers take shared reads: one more or one less, and back if that was worse.
    fn climb(&self, now: Instant) {
        let mut climb = self.climb.borrow_mut();
        climb.served += 1;
        if !climb.served.is_multiple_of(64) {
            return;
        }
        let passed = now.saturating_duration_since(climb.since);
        if passed < CLIMB_PERIOD {
            return;
        }
        let rate = climb.served as f64 / passed.as_secs_f64();
        if climb.rate > 0.0 && rate < climb.rate * 0.98 {
            climb.up = !climb.up;
        }
        climb.rate = rate;
        climb.since = now;
        climb.served = 0;
        let most = self.workers.borrow().len().max(1);
        climb.active = if climb.up {
            (climb.active + 1).min(most)
        } else {
            climb.active.saturating_sub(1).max(1)
        };
        if climb.active == most || climb.active == 1 {
            climb.up = climb.active == 1;
        }
    }

    /// Picks a worker for a known read, if one may take it now.
    pub(super) fn pick_shared(&self, settings: &Rc<Settings>, shape: u64) -> Option<Rc<Worker>> {
        if self.closed.get() {
            return None;
        }
        let pipeline = self.pipeline();
        let active = self.climb.borrow().active;
        let short = self
            .estimate(shape)
            .is_some_and(|t| t < pipeline.max_expected_wait);
        let workers = self.workers.borrow();
        let mut idle: Option<(&Rc<Worker>, Fit)> = None;
        let mut busy: Option<(&Rc<Worker>, Duration)> = None;
        let mut rank = 0;
        for worker in workers.iter() {
            let state = worker.state.get();
            if !matches!(state, State::Idle | State::Shared) {
                continue;
            }
            rank += 1;
            if worker.fences.get() > 0 || worker.reserved.get() {
                continue;
            }
            let fit = Self::fit(worker, settings);
            if fit == Fit::No {
                continue;
            }
            if state == State::Idle {
                // Beyond the active ones an idle worker is used only when no busy one may take the request.
                let fresh = rank <= active;
                if (fresh || busy.is_none()) && idle.is_none_or(|(_, best)| fit < best) {
                    idle = Some((worker, fit));
                    if fit == Fit::Same && fresh {
                        break;
                    }
                }
                continue;
            }
            if !short || rank > active || worker.depth() >= pipeline.max_depth as usize {
                continue;
            }
            let expected = worker.expected_wait();
            if expected > pipeline.max_expected_wait {
                continue;
            }
            let expected = if fit == Fit::Same {
                expected
            } else {
                expected + Duration::from_micros(20)
            };
            if busy.is_none_or(|(_, best)| expected < best) {
                busy = Some((worker, expected));
            }
        }
        let idle_is_active = idle.is_some_and(|(w, _)| workers.iter().take(active).any(|a| Rc::ptr_eq(a, w)));
        let chosen = match (idle, busy) {
            (Some((worker, _)), None) => worker,
            (Some((worker, _)), Some(_)) if idle_is_active => worker,
            (_, Some((worker, _))) => worker,
            (None, None) => return None,
        };
        // The overrun check needs the clock: only for one that is busy.
        if chosen.state.get() == State::Shared && chosen.head_age(Instant::now()) > self.overrun() {
            let chosen = workers.iter().find(|w| {
                w.state.get() == State::Idle
                    && w.fences.get() == 0
                    && !w.reserved.get()
                    && Self::fit(w, settings) != Fit::No
            });
            return chosen.cloned();
        }
        Some(chosen.clone())
    }

    /// The time a known read of this shape is expected to take.
    pub(super) fn expected(&self, shape: u64) -> Duration {
        self.estimate(shape).unwrap_or(UNKNOWN_SERVICE)
    }

    /// Takes an idle worker away for one session. The caller gives it back by [`Pool::give_back`].
    pub(super) fn take_idle(&self, settings: &Rc<Settings>, session: u64) -> Option<Rc<Worker>> {
        if self.closed.get() {
            return None;
        }
        let workers = self.workers.borrow();
        let best = workers
            .iter()
            .rev()
            .filter(|w| w.state.get() == State::Idle && w.fences.get() == 0 && w.tickets.get() == 0)
            .map(|w| (w, Self::fit(w, settings), w.sequences_of.get()))
            .filter(|(_, fit, _)| *fit != Fit::No)
            .min_by_key(|(w, fit, sequences)| {
                let foreign = match sequences {
                    Some(owner) if *owner == session => 0,
                    None => 1,
                    Some(_) => 2,
                };
                // What it remembers of this session's sequences counts most.
                (
                    foreign != 0,
                    std::cmp::Reverse((foreign == 0).then(|| w.sequences_at.get())),
                    *fit,
                    foreign,
                )
            })?;
        let worker = best.0.clone();
        drop(workers);
        worker.state.set(State::Leased);
        worker.reserved.set(false);
        self.counters.workers_leased.add(1);
        Some(worker)
    }

    /// Tables have changed: prepared statements are parsed anew at their next use.
    pub(super) fn distrust_prepared(&self) {
        for worker in self.workers.borrow().iter() {
            worker.distrust_prepared();
        }
    }

    /// Waits, for a moment, until the worker that remembers this session's sequences is free.
    pub(super) async fn await_sequences(&self, session: u64) {
        for _ in 0..2000 {
            let busy = self.workers.borrow().iter().any(|w| {
                let mine = w.sequences_of.get() == Some(session);
                if mine && w.state.get() == State::Shared {
                    w.reserved.set(true);
                }
                // Leased and held by no session: the proxy itself is reading the catalog there.
                mine && (matches!(w.state.get(), State::Cleaning | State::Shared)
                    || (w.state.get() == State::Leased && !w.is_held()))
            });
            if !busy {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// An idle worker for the proxy itself, if there is one nobody waits for.
    pub(super) fn take_clean_idle(&self) -> Option<Rc<Worker>> {
        if self.closed.get() || !self.alone.borrow().is_empty() {
            return None;
        }
        let worker = self
            .workers
            .borrow()
            .iter()
            .rev()
            .filter(|w| w.state.get() == State::Idle && w.fences.get() == 0 && w.tickets.get() == 0)
            // One that remembers a session's sequences only if there is no other: that session may come back for them.
            .min_by_key(|w| w.sequences_of.get().is_some())
            .cloned()?;
        worker.state.set(State::Leased);
        self.counters.workers_leased.add(1);
        Some(worker)
    }

    /// A session is done with a worker it had alone. `dirty`: it may have left state behind.
    pub(super) fn give_back(self: &Rc<Self>, worker: &Rc<Worker>, dirty: bool) {
        self.counters.workers_leased.sub(1);
        worker.set_holder(None);
        if worker.state.get() == State::Closed {
            return;
        }
        if !worker.is_quiet() && worker.fences.get() == 0 {
            worker.abandon();
        } else if dirty {
            worker.clean(false);
        } else {
            worker.state.set(State::Idle);
            worker.idle_since.set(Instant::now());
            self.offer(worker);
        }
    }

    /// The holder vanished: whatever it was doing is ended and rolled back before anybody else gets the worker.
    pub(super) fn abandon(self: &Rc<Self>, worker: &Rc<Worker>) {
        self.counters.workers_leased.sub(1);
        worker.set_holder(None);
        if worker.state.get() != State::Closed {
            worker.abandon();
        }
    }

    /// A worker became idle, or has room for more reads.
    pub(super) fn offer(self: &Rc<Self>, worker: &Rc<Worker>) {
        if worker.state.get() == State::Idle && worker.fences.get() == 0 {
            let retired = worker.retire_at.is_some_and(|at| Instant::now() >= at);
            if retired || self.closed.get() || worker.condemned.get() {
                worker.close(if retired {
                    "lifetime over"
                } else {
                    "no longer wanted"
                });
                worker.state.set(State::Closed);
                self.top_up();
                return;
            }
        }
        self.serve_waiters();
    }

    /// A worker is gone.
    pub(super) fn remove(self: &Rc<Self>, worker: &Rc<Worker>) {
        let before = self.workers.borrow().len();
        self.workers.borrow_mut().retain(|w| !Rc::ptr_eq(w, worker));
        if self.workers.borrow().len() < before {
            self.counters.workers.sub(1);
            if let Some(thread) = self.thread.upgrade() {
                thread
                    .shared
                    .budget
                    .release(&self.server.name, &self.database, &self.user);
            }
        }
        self.serve_waiters();
        self.top_up();
    }

    /// Workers that no session holds, those being connected included.
    fn unleased(&self) -> usize {
        let workers = self.workers.borrow();
        let held = workers
            .iter()
            .filter(|w| matches!(w.state.get(), State::Leased | State::Pinned))
            .count();
        workers.len() - held + self.connecting.get()
    }

    /// Starts workers up to what the number of clients asks for; at least one that nobody holds while there are clients.
    pub(super) fn top_up(self: &Rc<Self>) {
        if self.closed.get() || self.clients.get() == 0 || self.direct {
            return;
        }
        let Some(thread) = self.thread.upgrade() else {
            return;
        };
        let clients = u32::try_from(self.clients.get()).unwrap_or(u32::MAX);
        let wanted = (thread.config().workers.wanted(clients) as usize).max(1);
        if self.unleased() < wanted
            && let Some(base) = self.any_base()
        {
            self.start_worker(base);
        }
    }

    /// One more worker, if the limits allow it.
    pub(super) fn start_another(self: &Rc<Self>) {
        if self.connecting.get() == 0
            && let Some(base) = self.any_base()
        {
            self.start_worker(base);
        }
    }

    /// Startup settings of the workers most sessions use.
    fn any_base(&self) -> Option<Rc<Settings>> {
        if let Some(worker) = self.workers.borrow().first() {
            return Some(worker.base.clone());
        }
        None
    }

    /// What a client with these startup settings is told, if it is known.
    pub(super) fn greeting(&self, startup: &Rc<Settings>) -> Option<Greeting> {
        self.greetings
            .borrow()
            .get(&Rc::as_ptr(startup))
            .map(|(_, greeting)| greeting.clone())
    }

    fn remember_greeting(&self, startup: &Rc<Settings>, greeting: Greeting) {
        let mut greetings = self.greetings.borrow_mut();
        if greetings.len() >= 256 {
            greetings.clear();
        }
        greetings.insert(Rc::as_ptr(startup), (startup.clone(), greeting));
    }

    /// No more: held requests are told to look for their server again. With `now` running requests are cut off too.
    pub(super) fn close(&self, now: bool) {
        self.closed.set(true);
        let workers = self.workers.borrow().clone();
        for worker in &workers {
            if now || matches!(worker.state.get(), State::Idle) {
                worker.close("the server is no longer to be used");
            } else {
                worker.condemned.set(true);
                worker.reserved.set(true);
            }
        }
        for waiter in self
            .alone
            .borrow_mut()
            .drain(..)
            .chain(self.shared.borrow_mut().drain(..))
        {
            waiter.grant(Err(Rc::new(ServeError::Moved)));
        }
    }

    /// Whether nothing runs here any more.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.borrow().is_empty() && self.connecting.get() == 0
    }

    /// Sessions that wait, and the longest wait.
    pub(super) fn waiting(&self, now: Instant) -> (usize, Duration) {
        let alone = self.alone.borrow();
        let shared = self.shared.borrow();
        let longest = alone
            .iter()
            .chain(shared.iter())
            .map(|w| now.saturating_duration_since(w.since))
            .max()
            .unwrap_or_default();
        (alone.len() + shared.len(), longest)
    }

    /// Workers in the making.
    pub(super) fn connecting(&self) -> usize {
        self.connecting.get()
    }

    /// A client left while its statement ran: the statement has some time to end by itself, then it is cancelled, then
    /// the worker is closed.
    fn hurry(&self, worker: &Rc<Worker>, now: Instant) {
        let since = now.saturating_duration_since(worker.cleaning_since.get());
        if since >= CLEANING_MAX {
            worker.close("its clean-up took too long");
        } else if since >= CLEANING_PATIENCE && worker.fences.get() == 0 {
            let worker = worker.clone();
            tokio::task::spawn_local(async move { super::cancel::on_server(&worker).await });
        }
    }

    /// Each second: closes workers nobody needs.
    pub(super) fn sweep(self: &Rc<Self>, now: Instant) {
        let Some(thread) = self.thread.upgrade() else {
            return;
        };
        let config = thread.config();
        let clients = u32::try_from(self.clients.get()).unwrap_or(u32::MAX);
        let wanted = config.workers.wanted(clients) as usize;
        let mut count = self.workers.borrow().len();
        let workers = self.workers.borrow().clone();
        for worker in workers.iter().rev() {
            if worker.state.get() == State::Cleaning {
                self.hurry(worker, now);
            }
            if worker.state.get() != State::Idle {
                continue;
            }
            let retired = worker.retire_at.is_some_and(|at| now >= at);
            let unused = count > wanted
                && config
                    .workers
                    .idle_timeout
                    .is_some_and(|limit| now.saturating_duration_since(worker.idle_since.get()) >= limit);
            if retired || unused {
                worker.state.set(State::Closed);
                worker.close(if retired {
                    "lifetime over"
                } else {
                    "idle for too long"
                });
                count -= 1;
            }
        }
    }
}

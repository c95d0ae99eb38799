//! A pool: the workers of one server, database and user on one data thread, and the requests that wait for one.
//!
//! Decides who runs where: known reads are put behind others on few busy workers, everything else gets an idle worker for
//! itself. Never hands out a worker on which anything is owed, except to known reads; the end of a transaction that only read is owed to nobody
//! any more (`worker/ending.rs`).

mod connect;
mod estimate;
mod greet;
mod pace;
mod wait;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{Effective, PoolConfig};
use pgnet::client::Credential;
use tokio::sync::Notify;

use super::counters::Counters;
use super::error::ServeError;
use super::greeting::Greeting;
use super::settings::Settings;
use super::statement::StatementInterner;
use super::thread::Thread;
use super::topology::Server;
use super::turn;
use super::worker::{Purpose, State, Worker};
use estimate::Estimates;
pub(super) use estimate::Run;
use pace::Pace;
pub(super) use wait::Asker;
use wait::Waiter;
pub(super) use watch::Watch;

/// Known reads whose time is not known are taken to need this long.
const UNKNOWN_SERVICE: Duration = Duration::from_millis(2);
/// A worker whose queue is expected to take no longer than this takes one more known read before the next worker does.
/// Packed so, few workers are busy without a pause: they and the proxy sleep and wake less often. It is also the most a
/// read waits for others while workers are idle.
const PACKED_WAIT: Duration = Duration::from_micros(200);
/// A running request others wait behind is given at least this long before they go elsewhere.
const OVERRUN_MIN: Duration = Duration::from_millis(5);

/// Requests between two sweeps that had to change a worker's settings, after which one that suits them takes its place.
const UNSUITED_MAX: u32 = 50;
/// How long a pool that made room opens no worker.
const STAND_BACK: Duration = Duration::from_secs(1);

/// Time a statement has to end after its client has gone.
const CLEANING_PATIENCE: Duration = Duration::from_secs(10);
/// Time after which a worker that is still not clean is closed.
const CLEANING_MAX: Duration = Duration::from_secs(20);

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
    greetings: RefCell<HashMap<*const Settings, (Rc<Settings>, Rc<Greeting>)>>,
    effective: RefCell<Arc<Effective>>,
    counters: Arc<Counters>,
    alone: RefCell<VecDeque<Rc<Waiter>>>,
    shared: RefCell<VecDeque<Rc<Waiter>>>,
    /// Some workers take no more known reads, for the sake of those who wait to have one alone.
    reserving: Cell<bool>,
    /// Workers in the making: what clients that are greeted from them have set.
    making: RefCell<Vec<Rc<Settings>>>,
    backoff: Cell<(Option<Instant>, Duration)>,
    /// The last failure to connect: with which startup settings, when, why.
    trouble: RefCell<Option<(Rc<Settings>, Instant, Rc<ServeError>)>>,
    estimates: Estimates,
    pace: Pace,
    closed: Cell<bool>,
    /// Startup settings of somebody who had to change those of many workers.
    sought: RefCell<Option<Rc<Settings>>>,
    /// When somebody looks at the latest after heads that take too long.
    watched: Cell<Option<Instant>>,
    /// A worker was opened or could not be.
    greeted: Notify,
    /// Clients that wait to be greeted, first come first.
    guests: RefCell<VecDeque<Rc<greet::Guest>>>,
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
            reserving: Cell::new(false),
            making: RefCell::default(),
            backoff: Cell::new((None, connect::BACKOFF_MIN)),
            trouble: RefCell::new(None),
            estimates: Estimates::default(),
            pace: Pace::default(),
            closed: Cell::new(false),
            sought: RefCell::new(None),
            watched: Cell::new(None),
            greeted: Notify::new(),
            guests: RefCell::default(),
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
        overrun(&self.pipeline())
    }

    fn pipeline(&self) -> crds::Pipeline {
        self.thread
            .upgrade()
            .map(|t| t.setting(|config| config.workers.pipeline))
            .unwrap_or_default()
    }

    /// A request has ended.
    pub(super) fn served(&self, purpose: Purpose, shape: u64, run: Run) {
        self.counters.service.observe(run.took);
        match purpose {
            Purpose::Shared => self.estimates.add(shape, run, turn::began()),
            Purpose::Ending => {
                let took = (!run.unwatched).then_some(run.took);
                self.pace
                    .confirmed(turn::began(), took, self.workers.borrow().len());
            }
            Purpose::Leased | Purpose::Internal | Purpose::Clean => {}
        }
    }

    /// A known read of this length is a nuisance to whoever stands behind it.
    pub(super) fn long(&self) -> Duration {
        self.overrun() * 5
    }

    /// Picks a worker for a known read, if one may take it now: the first that is idle or has little to do, so that few
    /// workers carry the load; the next ones as soon as the queues of those before them grow. When all are busy, the one
    /// with the shortest queue.
    pub(super) fn pick_shared(&self, settings: &Rc<Settings>, shape: u64) -> Option<Rc<Worker>> {
        if self.closed.get() {
            return None;
        }
        let pipeline = self.pipeline();
        let short = self.estimates.is_short(shape, pipeline.max_expected_wait);
        let packed = PACKED_WAIT.min(pipeline.max_expected_wait);
        let overrun = overrun(&pipeline);
        let workers = self.workers.borrow();
        let mut to_be_set: Option<&Rc<Worker>> = None;
        let mut busy: Option<(&Rc<Worker>, Duration)> = None;
        for worker in workers.iter() {
            let state = worker.state.get();
            if !matches!(state, State::Idle | State::Shared)
                || worker.fences.get() > 0
                || worker.reserved.get()
            {
                continue;
            }
            if state == State::Shared && (!short || worker.depth() >= pipeline.max_depth as usize) {
                continue;
            }
            let fit = worker.fit(settings);
            match (fit, state) {
                (Fit::No, _) => {}
                (Fit::Same, State::Idle) => return Some(worker.clone()),
                (Fit::Prefix, State::Idle) => to_be_set = to_be_set.or(Some(worker)),
                _ => {
                    let expected = worker.expected_wait();
                    let shortest = expected <= pipeline.max_expected_wait
                        && busy.is_none_or(|(_, best)| expected < best);
                    let near = fit == Fit::Same && expected <= packed;
                    if !near && !shortest {
                        continue;
                    }
                    // Nobody is put behind a request that takes longer than it should.
                    if worker.head_age(turn::began()) > overrun {
                        continue;
                    }
                    if near {
                        return Some(worker.clone());
                    }
                    busy = Some((worker, expected));
                }
            }
        }
        to_be_set.or(busy.map(|(worker, _)| worker)).cloned()
    }

    /// Whether known reads of this shape may share a Sync (`worker/join.rs`).
    pub(super) fn may_join(&self, shape: u64) -> bool {
        self.pipeline().join_reads && self.estimates.may_join(shape)
    }

    /// A read that shared its Sync has failed, and those behind it have to be run again.
    pub(super) fn failed_among_others(&self, shape: u64) {
        self.estimates.failed_among_others(shape);
    }

    /// The time a known read of this shape is expected to take.
    pub(super) fn expected(&self, shape: u64) -> Duration {
        self.estimates.time(shape).unwrap_or(UNKNOWN_SERVICE)
    }

    /// Takes an idle worker away for one session. The caller gives it back by [`Pool::give_back`].
    pub(super) fn take_idle(&self, settings: &Rc<Settings>, session: u64) -> Option<Rc<Worker>> {
        if self.closed.get() {
            return None;
        }
        let worker = self.best_idle(settings, session)?;
        worker.state.set(State::Leased);
        worker.leased_at.set(turn::began());
        worker.reserved.set(false);
        self.counters.workers_leased.add(1);
        Some(worker)
    }

    /// What it remembers of this session's sequences counts most, then that nothing has to be set, then that it remembers
    /// nobody's; of those one whose server is awake, because it ends a transaction that only read: that may still have to be sent, and goes
    /// with what the session brings.
    fn best_idle(&self, settings: &Rc<Settings>, session: u64) -> Option<Rc<Worker>> {
        let workers = self.workers.borrow();
        let free = || workers.iter().rev().filter(|w| w.is_free());
        let own = free()
            .filter(|w| w.sequences_of.get() == Some(session) && w.fit(settings) != Fit::No)
            .max_by_key(|w| w.sequences_at.get());
        if own.is_some() {
            return own.cloned();
        }
        let rank = |w: &Worker| (w.fit(settings), w.sequences_of.get().is_some());
        if let Some(awake) = free().find(|w| w.runs_an_end() && rank(w) == (Fit::Same, false)) {
            return Some(awake.clone());
        }
        let mut best: Option<((Fit, bool), &Rc<Worker>)> = None;
        for worker in free() {
            let rank = rank(worker);
            if rank == (Fit::Same, false) {
                return Some(worker.clone());
            }
            if rank.0 != Fit::No && best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, worker));
            }
        }
        best.map(|(_, worker)| worker.clone())
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
                    self.reserving.set(true);
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

    /// A session is done with a worker it had alone. `dirty`: it may have left state behind.
    pub(super) fn give_back(self: &Rc<Self>, worker: &Rc<Worker>, dirty: bool) {
        self.counters.workers_leased.sub(1);
        worker.set_holder(None);
        if worker.state.get() == State::Closed {
            return;
        }
        self.note_back(worker);
        if !worker.owes_nothing() {
            worker.abandon();
        } else if dirty {
            worker.clean(false);
        } else if worker.unnamed_left.get() {
            worker.close_unnamed();
        } else {
            worker.state.set(State::Idle);
            worker.idle_since.set(turn::began());
            self.offer(worker);
            write_end(worker);
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
            let retired = worker.retire_at.is_some_and(|at| turn::began() >= at);
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
            if self.gives_up_for_a_guest(worker) {
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
        self.grow_for_guests();
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
        workers.len() - held + self.connecting()
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
        if self.connecting() == 0
            && let Some(base) = self.any_base()
        {
            self.start_worker(base);
        }
    }

    /// Startup settings of the workers most sessions use.
    pub(super) fn any_base(&self) -> Option<Rc<Settings>> {
        let sought = self.sought.borrow().clone();
        sought.or_else(|| self.workers.borrow().first().map(|worker| worker.base.clone()))
    }

    /// Whether it is the pool of this server, database and user.
    pub(super) fn is_of(&self, server: &Server, database: &str, user: &str) -> bool {
        *self.user == *user
            && *self.database == *database
            && self.server.name == server.name
            && self.server.target == server.target
    }

    /// How to log in to the server as of now, as a client's login told.
    pub(super) fn learn(&self, credential: &Credential) {
        if *self.credential.borrow() != *credential {
            *self.credential.borrow_mut() = credential.clone();
        }
    }

    /// What a client with these startup settings is told, if it is known.
    pub(super) fn greeting(&self, startup: &Rc<Settings>) -> Option<Rc<Greeting>> {
        self.greetings
            .borrow()
            .get(&Rc::as_ptr(startup))
            .map(|(_, greeting)| greeting.clone())
    }

    fn remember_greeting(&self, startup: &Rc<Settings>, greeting: Rc<Greeting>) {
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

    /// Every worker is replaced as soon as it is idle: a new one would be opened with other settings.
    pub(super) fn recycle(self: &Rc<Self>) {
        self.greetings.borrow_mut().clear();
        for worker in self.workers.borrow().clone() {
            worker.condemned.set(true);
            if worker.state.get() == State::Idle {
                self.offer(&worker);
            } else {
                worker.reserved.set(true);
            }
        }
    }

    /// Closes an idle worker, so that another pool can have its place, and opens none for a moment. False: there is none.
    pub(super) fn stand_back(&self) -> bool {
        if self.waiting(Instant::now()).0 > 0 {
            return false;
        }
        let idle = self.workers.borrow().iter().rev().find(|w| w.is_free()).cloned();
        let Some(worker) = idle else { return false };
        let (_, pause) = self.backoff.get();
        self.backoff.set((Some(Instant::now() + STAND_BACK), pause));
        worker.state.set(State::Closed);
        worker.close("makes room for another pool");
        true
    }

    /// At most so many workers: with the reserve while somebody has waited for too long.
    pub(super) fn max_now(&self) -> usize {
        let max = self.effective.borrow().max_workers as usize;
        let reserve = self.thread.upgrade().map(|t| {
            let workers = &t.config().workers;
            (workers.reserve as usize, workers.reserve_after)
        });
        match reserve {
            Some((reserve, after)) if reserve > 0 && self.waiting(Instant::now()).1 >= after => max + reserve,
            _ => max,
        }
    }

    /// Whether nothing runs here any more.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.borrow().is_empty() && self.connecting() == 0
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
        self.making.borrow().len()
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

    /// Notes whether a request found its settings on the worker; `startup`: what it would have a worker started with.
    pub(super) fn note_fit(&self, worker: &Worker, fits: bool, startup: &Rc<Settings>) {
        let (same, other) = worker.suited.get();
        if fits {
            worker.suited.set((same.saturating_add(1), other));
        } else {
            worker.suited.set((same, other.saturating_add(1)));
            if other + 1 == UNSUITED_MAX {
                *self.sought.borrow_mut() = Some(startup.clone());
            }
        }
    }

    /// Workers whose settings suited none of the many requests since the last sweep are closed when they are idle next, some
    /// at a time; others take their places.
    fn replace_unsuited(&self) {
        let workers = self.workers.borrow();
        let mut some = workers.len().div_ceil(4);
        for worker in workers.iter() {
            let (same, other) = worker.suited.replace((0, 0));
            if some > 0 && same == 0 && other >= UNSUITED_MAX && !worker.condemned.replace(true) {
                worker.reserved.set(true);
                some -= 1;
            }
        }
    }

    /// Workers that are to end with what they do, whoever waits: the limits have become smaller, and another proxy gets what
    /// this one lets go of. Where several pools share what is too much, each gives up a part of it at a time.
    fn too_many(&self, thread: &Thread, config: &PoolConfig, staying: usize) -> usize {
        let of_pool = staying.saturating_sub(self.max_now());
        let budget = config.budget.per_server as usize;
        let of_server = thread.shared.budget.surplus(&self.server.name, budget);
        let leaving = self.workers.borrow().len() - staying;
        of_pool
            .max(of_server.div_ceil(4).saturating_sub(leaving))
            .min(staying.saturating_sub(1))
    }

    /// Each second: closes workers nobody needs.
    pub(super) fn sweep(self: &Rc<Self>, now: Instant) {
        let Some(thread) = self.thread.upgrade() else {
            return;
        };
        self.replace_unsuited();
        let config = thread.config();
        let clients = u32::try_from(self.clients.get()).unwrap_or(u32::MAX);
        let wanted = config.workers.wanted(clients) as usize;
        // The reserve may have opened, or another pool have made room.
        if self.waiting(now).0 > 0 {
            self.serve_waiters();
        }
        let most = self.effective.borrow().max_workers as usize;
        let workers = self.workers.borrow().clone();
        let mut count = workers.iter().filter(|worker| !worker.condemned.get()).count();
        let mut too_many = self.too_many(&thread, &config, count);
        for worker in workers.iter().rev() {
            if worker.state.get() == State::Cleaning {
                self.hurry(worker, now);
            }
            if too_many > 0 && worker.state.get() != State::Pinned && !worker.condemned.replace(true) {
                worker.reserved.set(true);
                too_many -= 1;
                count -= 1;
            }
            if worker.state.get() != State::Idle {
                continue;
            }
            if worker.condemned.get() {
                self.offer(worker);
                continue;
            }
            let retired = worker.retire_at.is_some_and(|at| now >= at);
            // The reserve goes when nobody waits any more.
            let surplus = count > most && self.waiting(now).0 == 0;
            let unused = surplus
                || count > wanted
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

/// The end of a transaction goes with what the next brings ([`Worker::end_transaction`]), or alone if there is none.
fn write_end(worker: &Rc<Worker>) {
    if worker.state.get() == State::Idle && worker.unwritten() > 0 {
        worker.write_soon();
    }
}

/// How long a running request may hold up those behind it.
fn overrun(pipeline: &crds::Pipeline) -> Duration {
    pipeline.max_expected_wait.max(OVERRUN_MIN)
}

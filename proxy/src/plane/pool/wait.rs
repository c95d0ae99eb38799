//! Waiting for a worker: first come, first served, bounded by `timeouts.queryWait`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::super::error::ServeError;
use super::super::settings::Settings;
use super::super::turn;
use super::super::worker::{State, Worker};
use super::pace::Back;
use super::{Fit, Pool};

/// When somebody looks at the latest after those who wait although a worker is idle.
const PACED_MAX: Duration = Duration::from_millis(5);

/// What a waiter was given.
type Grant = Result<Rc<Worker>, Rc<ServeError>>;

/// A request that waits for a worker.
pub(in crate::plane) struct Waiter {
    settings: Rc<Settings>,
    /// Settings a new worker for it is started with.
    pub(super) startup: Rc<Settings>,
    session: u64,
    shape: u64,
    pub(super) since: Instant,
    granted: RefCell<Option<Grant>>,
    waker: RefCell<Option<Waker>>,
    /// It was given something and is in no queue.
    served: Cell<bool>,
}

impl Waiter {
    pub(super) fn grant(&self, grant: Grant) {
        self.served.set(true);
        *self.granted.borrow_mut() = Some(grant);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Who asks for a worker.
pub(in crate::plane) struct Asker<'a> {
    pub(in crate::plane) session: u64,
    pub(in crate::plane) settings: &'a Rc<Settings>,
    pub(in crate::plane) startup: &'a Rc<Settings>,
    /// Lets a cancel or a lost client end the wait.
    pub(in crate::plane) cancelled: &'a Cell<bool>,
}

/// Gives a granted worker back if the waiting future is dropped before it took it.
struct Place<'a> {
    pool: &'a Rc<Pool>,
    waiter: Rc<Waiter>,
    alone: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.waiter.served.get() {
            let queue = if self.alone {
                &self.pool.alone
            } else {
                &self.pool.shared
            };
            queue.borrow_mut().retain(|w| !Rc::ptr_eq(w, &self.waiter));
        }
        self.pool.counters.waiting.sub(1);
        if let Some(Ok(worker)) = self.waiter.granted.borrow_mut().take() {
            if self.alone {
                self.pool.give_back(&worker, false);
            } else {
                worker.tickets.set(worker.tickets.get() - 1);
                self.pool.decline(&worker);
            }
        }
    }
}

impl Pool {
    /// How many workers may be given out at once; `None`: as many as there are (`pace.rs`).
    pub(in crate::plane) fn lease_limit(&self, now: Instant) -> Option<usize> {
        let limit = self.pace.limit(now)?;
        let thread = self.thread.upgrade()?;
        thread.setting(|config| config.workers.adaptive).then_some(limit)
    }

    /// Whether one more may be.
    fn may_lease(&self) -> bool {
        let now = turn::began();
        self.lease_limit(now).is_none_or(|limit| {
            let workers = self.workers.borrow();
            let counts =
                |w: &&Rc<Worker>| w.state.get() == State::Leased && self.pace.counts(w.leased_at.get(), now);
            workers.iter().filter(counts).count() < limit
        })
    }

    /// A worker comes back from a session that had it for itself.
    pub(super) fn note_back(&self, worker: &Worker) {
        let now = turn::began();
        self.pace.note(&Back {
            now,
            held: now.saturating_duration_since(worker.leased_at.get()),
            asked: self.is_asked(),
        });
    }

    /// A worker for oneself, if one is idle and nobody waits for it.
    pub(in crate::plane) fn take_now(self: &Rc<Self>, asker: &Asker<'_>) -> Option<Rc<Worker>> {
        if self.is_asked() || !self.may_lease() {
            return None;
        }
        let worker = self.take_idle(asker.settings, asker.session)?;
        self.keep_one_free();
        Some(worker)
    }

    /// A worker for oneself: an idle one, or the next that becomes idle.
    pub(in crate::plane) async fn take(self: &Rc<Self>, asker: &Asker<'_>) -> Grant {
        match self.take_now(asker) {
            Some(worker) => Ok(worker),
            None => self.wait(asker, 0, true).await,
        }
    }

    /// A worker that may take one more known read. One ticket is held on it: redeem it by enqueueing at once.
    pub(in crate::plane) async fn share(self: &Rc<Self>, asker: &Asker<'_>, shape: u64) -> Grant {
        self.wait(asker, shape, false).await
    }

    async fn wait(self: &Rc<Self>, asker: &Asker<'_>, shape: u64, alone: bool) -> Grant {
        if self.closed.get() {
            return Err(Rc::new(ServeError::Moved));
        }
        let waiter = Rc::new(Waiter {
            settings: asker.settings.clone(),
            startup: asker.startup.clone(),
            session: asker.session,
            shape,
            since: Instant::now(),
            granted: RefCell::new(None),
            waker: RefCell::new(None),
            served: Cell::new(false),
        });
        let queue = if alone { &self.alone } else { &self.shared };
        queue.borrow_mut().push_back(waiter.clone());
        self.counters.waiting.add(1);
        let place = Place {
            pool: self,
            waiter: waiter.clone(),
            alone,
        };
        self.serve_waiters();
        let granted = poll_fn(|cx| {
            if asker.cancelled.get() {
                return Poll::Ready(Err(Rc::new(ServeError::Cancelled)));
            }
            if let Some(grant) = waiter.granted.borrow_mut().take() {
                return Poll::Ready(grant);
            }
            *waiter.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        let limit = self.effective().timeouts.query_wait.unwrap_or(Duration::MAX / 4);
        let outcome = tokio::time::timeout(limit, granted).await;
        let waited = waiter.since.elapsed();
        self.counters.queue_wait.observe(waited);
        let grant = outcome.unwrap_or_else(|_| {
            let cause = self.trouble.borrow().as_ref().map(|(_, _, error)| error.clone());
            Err(Rc::new(ServeError::Waited {
                waited,
                holders: self.holders(),
                cause,
            }))
        });
        drop(place);
        grant
    }

    /// Who holds workers here, for the text of an error.
    pub(super) fn holders(&self) -> String {
        let workers = self.workers.borrow();
        let held = workers
            .iter()
            .filter(|w| matches!(w.state.get(), State::Leased | State::Pinned))
            .count();
        let pinned = workers.iter().filter(|w| w.state.get() == State::Pinned).count();
        format!(
            "pool of server {}, database \"{}\", user \"{}\": {} workers, {held} held by one client each ({pinned} of them pinned)",
            self.server.name,
            self.database,
            self.user,
            workers.len()
        )
    }

    /// When every worker is held, another is started for whoever comes next: with one worker for two clients a migration
    /// that locks on one connection and works on another would hang.
    fn keep_one_free(self: &Rc<Self>) {
        if self.unleased() == 0 {
            self.top_up();
        }
    }

    /// Somebody waits for a worker of his own.
    pub(super) fn is_asked(&self) -> bool {
        !self.alone.borrow().is_empty()
    }

    /// Gives what is free to those who wait, and starts workers where that is not enough.
    pub(super) fn serve_waiters(self: &Rc<Self>) {
        let nobody_waits = !self.is_asked() && self.shared.borrow().is_empty();
        if nobody_waits && !self.reserving.get() {
            return;
        }
        let mut unserved: Option<Rc<Settings>> = None;
        let mut idle = self.idle_workers();
        let (mut at, mut paced) = (0, false);
        while idle > 0 {
            let Some(waiter) = self.alone.borrow().get(at).cloned() else {
                break;
            };
            let read_is_first = self
                .shared
                .borrow()
                .front()
                .is_some_and(|read| read.since < waiter.since);
            if read_is_first && self.serve_read() {
                // Others follow it to its worker, which then runs dry for those who wait to have one alone.
                idle = self.idle_workers();
                continue;
            }
            if !self.may_lease() {
                // It gets one of those that come back, or, where none does, when those who have one no longer count.
                paced = true;
                self.watch(Instant::now() + PACED_MAX);
                break;
            }
            if let Some(worker) = self.take_idle(&waiter.settings, waiter.session) {
                self.alone.borrow_mut().remove(at);
                waiter.grant(Ok(worker));
                idle -= 1;
            } else {
                at += 1;
            }
        }
        // Those at the front found no worker that suits them.
        let mut missing = if paced { at } else { self.alone.borrow().len() };
        if let Some(waiter) = self.alone.borrow().front()
            && missing > 0
        {
            unserved = Some(waiter.startup.clone());
        }
        // Whoever waits to have a worker alone must not starve behind an endless stream of reads.
        let mut to_reserve = missing + usize::from(self.guest_needs_a_place());
        self.reserving.set(to_reserve > 0);
        for worker in self.workers.borrow().iter().rev() {
            let shared = worker.state.get() == State::Shared;
            worker
                .reserved
                .set(worker.condemned.get() || (shared && to_reserve > 0 && self.at_max()));
            if shared && to_reserve > 0 {
                to_reserve -= 1;
            }
        }
        while self.serve_read() {}
        if let Some(waiter) = self.shared.borrow().front() {
            missing += self.shared.borrow().len().min(2);
            unserved.get_or_insert(waiter.startup.clone());
        }
        if let Some(startup) = unserved
            && missing > self.connecting()
        {
            self.grow(&startup);
        }
    }

    /// Gives the read that has waited longest a worker that may take it.
    fn serve_read(&self) -> bool {
        let Some(waiter) = self.shared.borrow().front().cloned() else {
            return false;
        };
        let Some(worker) = self.pick_shared(&waiter.settings, waiter.shape) else {
            return false;
        };
        self.shared.borrow_mut().pop_front();
        worker.tickets.set(worker.tickets.get() + 1);
        worker.state.set(State::Shared);
        waiter.grant(Ok(worker));
        true
    }

    /// A worker that was found for a known read is not needed for it.
    pub(in crate::plane) fn decline(self: &Rc<Self>, worker: &Rc<Worker>) {
        if worker.state.get() == State::Shared && worker.tickets.get() == 0 && worker.owes_nothing() {
            worker.state.set(State::Idle);
        }
        self.offer(worker);
        super::write_end(worker);
    }

    /// Workers that could be taken for one session.
    fn idle_workers(&self) -> usize {
        self.workers.borrow().iter().filter(|w| w.is_free()).count()
    }

    pub(super) fn at_max(&self) -> bool {
        let workers = self.workers.borrow().len() + self.connecting();
        workers >= self.max_now()
    }

    /// Starts a worker; at the maximum one that suits nobody who waits makes room.
    fn grow(self: &Rc<Self>, startup: &Rc<Settings>) {
        if self.start_worker(startup.clone()) {
            return;
        }
        let unsuitable = self
            .workers
            .borrow()
            .iter()
            .find(|w| w.state.get() == State::Idle && w.fit(startup) == Fit::No)
            .cloned();
        if let Some(worker) = unsuitable {
            worker.state.set(State::Closed);
            worker.close("replaced by one with other startup settings");
        }
    }
}

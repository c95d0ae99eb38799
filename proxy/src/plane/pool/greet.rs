//! Greeting clients: what each is told at its login comes from a worker that was opened with its startup settings.
//!
//! A login nobody has been greeted like goes before queued statements: it needs one connection once, and its client can do nothing
//! without it, while statements behind a full pool would keep every worker busy for ever.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::error::ServeError;
use super::super::greeting::Greeting;
use super::super::settings::Settings;
use super::super::worker::{State, Worker};
use super::Pool;

/// How often a client that waits looks for itself.
const LOOK: Duration = Duration::from_millis(250);

/// A client that waits to be greeted.
pub(super) struct Guest {
    key: Rc<Settings>,
    startup: Rc<Settings>,
}

/// Takes the guest off the list however its waiting ends.
struct Seat<'a> {
    pool: &'a Rc<Pool>,
    guest: Rc<Guest>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.pool
            .guests
            .borrow_mut()
            .retain(|guest| !Rc::ptr_eq(guest, &self.guest));
        if self.pool.reserving.get() {
            // Workers kept free for it take reads again.
            self.pool.serve_waiters();
        }
    }
}

impl Pool {
    /// What a client with these startup settings is to be told, from a worker that was opened with them.
    ///
    /// # Errors
    /// What the server said to such a startup, or that no server could be reached within `timeouts.queryWait`.
    pub(in crate::plane) async fn greet(
        self: &Rc<Self>,
        key: &Rc<Settings>,
        startup: &Rc<Settings>,
    ) -> Result<Rc<Greeting>, Rc<ServeError>> {
        if let Some(greeting) = self.greeting(key) {
            return Ok(greeting);
        }
        let limit = self
            .effective()
            .timeouts
            .query_wait
            .unwrap_or(Duration::from_secs(3600));
        let begun = Instant::now();
        let guest = Rc::new(Guest {
            key: key.clone(),
            startup: startup.clone(),
        });
        self.guests.borrow_mut().push_back(guest.clone());
        let _seat = Seat { pool: self, guest };
        loop {
            if let Some(greeting) = self.greeting(key) {
                return Ok(greeting);
            }
            if self.closed.get() {
                return Err(Rc::new(ServeError::Moved));
            }
            let waited = begun.elapsed();
            if waited >= limit {
                let cause = self.trouble.borrow().as_ref().map(|(_, _, error)| error.clone());
                return Err(cause.unwrap_or_else(|| {
                    Rc::new(ServeError::Waited {
                        waited,
                        holders: self.holders(),
                        cause: None,
                    })
                }));
            }
            let notified = self.greeted.notified();
            self.grow_for_guests();
            let _ = tokio::time::timeout((limit - waited).min(LOOK), notified).await;
            let trouble = self.trouble.borrow().clone();
            if let Some((with, at, error)) = trouble
                && Rc::ptr_eq(&with, startup)
                && at >= begun
                && !error.may_pass()
            {
                return Err(error);
            }
        }
    }

    /// Startup settings of the first client whose greeting nobody knows yet, unless a worker in the making will bring it, or that of
    /// another one: guests are served one at a time.
    fn guest_without_worker(&self) -> Option<Rc<Settings>> {
        let (guests, making) = (self.guests.borrow(), self.making.borrow());
        let mut unknown = guests.iter().filter(|guest| self.greeting(&guest.key).is_none());
        let first = unknown.next()?;
        let is_coming =
            |guest: &Rc<Guest>| making.iter().any(|greeted_as| Rc::ptr_eq(greeted_as, &guest.key));
        (!is_coming(first) && !unknown.any(is_coming)).then(|| first.startup.clone())
    }

    /// A guest waits for a place that only a worker's end will make.
    pub(super) fn guest_needs_a_place(&self) -> bool {
        !self.guests.borrow().is_empty()
            && self.guest_without_worker().is_some()
            && self.at_max()
            && !self
                .workers
                .borrow()
                .iter()
                .any(|worker| worker.state.get() == State::Closed)
    }

    /// Opens a worker for who waits to be greeted; at the maximum one that is idle makes room, or the next that will be.
    pub(super) fn grow_for_guests(self: &Rc<Self>) {
        let Some(startup) = self.guest_without_worker() else {
            return;
        };
        if self.start_worker(startup) || !self.guest_needs_a_place() {
            return;
        }
        let workers = self.workers.borrow().clone();
        if !workers.iter().any(|worker| self.gives_up_for_a_guest(worker)) {
            // Shared queues have to run dry for one to become idle.
            self.reserving.set(true);
            self.serve_waiters();
        }
    }

    /// An idle worker goes if a guest needs its place.
    pub(super) fn gives_up_for_a_guest(&self, worker: &Worker) -> bool {
        if !worker.is_free() || self.direct || !self.guest_needs_a_place() {
            return false;
        }
        worker.state.set(State::Closed);
        worker.close("replaced by one with other startup settings");
        true
    }
}

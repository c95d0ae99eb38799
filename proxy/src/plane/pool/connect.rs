//! Opening workers: one attempt at a time per request that waits, with a growing pause after failures.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pgnet::client::{Config, ConnectError, establish};
use pgnet::startup::ProtocolVersion;
use tracing::{debug, warn};

use super::super::error::ServeError;
use super::super::greeting::Greeting;
use super::super::internal;
use super::super::settings::Settings;
use super::super::shared::Shares;
use super::super::worker::{State, Worker};
use super::Pool;

/// Pause after the first failed attempt; doubled up to [`BACKOFF_MAX`].
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// How long a server has to say who it is.
const IDENTITY_MAX: Duration = Duration::from_secs(5);
/// Who are you: in recovery, of which cluster, on which timeline.
const IDENTITY: &str = "select pg_catalog.pg_is_in_recovery(), \
     (select system_identifier from pg_catalog.pg_control_system())::text, \
     case when not pg_catalog.pg_is_in_recovery() then ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(\
     pg_catalog.pg_current_wal_lsn()), 1, 8))::pg_catalog.bit(32)::pg_catalog.int4 end";
const BACKOFF_MAX: Duration = Duration::from_secs(2);

impl Pool {
    /// Opens one more worker unless a limit or a pause forbids it.
    pub(in crate::plane) fn start_worker(self: &Rc<Self>, base: Rc<Settings>) -> bool {
        let Some(thread) = self.thread.upgrade() else {
            return false;
        };
        if self.closed.get() || self.at_max() {
            return false;
        }
        if let (Some(until), _) = self.backoff.get()
            && Instant::now() < until
        {
            return false;
        }
        let shares = {
            let effective = self.effective.borrow();
            Shares {
                pool: self.max_now(),
                database: effective.max_database_workers as usize,
                user: effective.max_user_workers as usize,
                server: thread.config().budget.per_server as usize,
            }
        };
        if !thread
            .shared
            .budget
            .acquire(&self.server.name, &self.database, &self.user, shares)
        {
            thread.make_room(&self.server.name, &self.database, &self.user);
            return false;
        }
        let greeted_as = thread
            .settings
            .with(&base, vec![("application_name".to_owned(), None)]);
        self.making.borrow_mut().push(greeted_as.clone());
        let pool = self.clone();
        tokio::task::spawn_local(async move { pool.connect(base, greeted_as).await });
        true
    }

    async fn connect(self: Rc<Self>, base: Rc<Settings>, greeted_as: Rc<Settings>) {
        let Some(thread) = self.thread.upgrade() else {
            return;
        };
        let config = Config {
            credential: self.credential.borrow().clone(),
            parameters: base.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            tls: (*self.server.tls).clone(),
            connect_timeout: thread.config().workers.connect_timeout,
            protocol: ProtocolVersion::V3_0,
            ..Config::new(
                self.server.target.clone(),
                &*self.user,
                &self.effective().server_database,
            )
        };
        let result = establish(&config).await;
        {
            let mut making = self.making.borrow_mut();
            let at = making.iter().position(|other| Rc::ptr_eq(other, &greeted_as));
            if let Some(at) = at {
                making.swap_remove(at);
            }
        }
        match result {
            Ok(established) if !self.closed.get() => {
                self.backoff.set((None, BACKOFF_MIN));
                *self.trouble.borrow_mut() = None;
                self.counters.connects.add(1);
                self.counters.workers.add(1);
                self.remember_greeting(
                    &greeted_as,
                    Rc::new(Greeting::new(established.parameters.clone())),
                );
                let lifetime = thread
                    .config()
                    .workers
                    .lifetime
                    .map(|l| l.mul_f64(0.95 + 0.1 * thread.random_fraction()));
                let retire_at = lifetime.map(|l| Instant::now() + l);
                let worker = Worker::start(thread.next_serial(), &self, established, base, retire_at);
                debug!(worker = worker.id, server = %self.server.name, database = %self.database, user = %self.user, "Connected");
                self.workers.borrow_mut().push(worker.clone());
                if !self.is_who_it_should_be(&worker).await {
                    return self.wrong_server(&worker);
                }
                self.greeted.notify_waiters();
                if worker.state.get() == State::Idle {
                    self.offer(&worker);
                }
                thread.catalogs.refresh(&self);
                self.top_up();
            }
            Ok(_) => {
                thread
                    .shared
                    .budget
                    .release(&self.server.name, &self.database, &self.user);
            }
            Err(error) => {
                thread
                    .shared
                    .budget
                    .release(&self.server.name, &self.database, &self.user);
                self.failed(error, base);
            }
        }
    }

    /// Asks the server who it is, before anything of a client is sent to it: one of another cluster, or a former master at
    /// the master's address, never gets a statement (OPERATOR I1).
    async fn is_who_it_should_be(&self, worker: &Rc<Worker>) -> bool {
        let Some(expected) = &self.server.identity else {
            return true;
        };
        worker.state.set(State::Leased);
        let is_master = self.thread.upgrade().is_some_and(|t| {
            t.topology()
                .master
                .as_ref()
                .is_some_and(|m| m.name == self.server.name)
        });
        let asked = tokio::time::timeout(IDENTITY_MAX, internal::query(worker, IDENTITY.as_bytes())).await;
        let right = match asked {
            Ok(Ok(rows)) => {
                let row = rows.first().map(Vec::as_slice).unwrap_or_default();
                let text = |n: usize| row.get(n).and_then(|v| v.as_deref()).map(String::from_utf8_lossy);
                let same = text(1).is_none_or(|id| id == expected.system_identifier);
                let writable = text(0).as_deref() == Some("f");
                let timeline = text(2).and_then(|t| t.parse::<u32>().ok());
                same && (!is_master || (writable && timeline.is_none_or(|t| t == expected.timeline)))
            }
            // A role that may not ask is served all the same; probes look, too.
            Ok(Err(internal::Error::Server(_))) => true,
            _ => false,
        };
        if right && worker.state.get() == State::Leased {
            worker.state.set(State::Idle);
        }
        right
    }

    fn wrong_server(self: &Rc<Self>, worker: &Rc<Worker>) {
        warn!(server = %self.server.name, "Not the server it should be: another cluster, another timeline, or not the master");
        self.counters.connect_failures.add(1);
        worker.state.set(State::Closed);
        worker.close("not the server it should be");
        let error = Rc::new(ServeError::Unreachable(
            "it is not the server it should be".to_owned(),
        ));
        let (_, pause) = self.backoff.get();
        self.backoff
            .set((Some(Instant::now() + pause), (pause * 2).min(BACKOFF_MAX)));
        *self.trouble.borrow_mut() = Some((worker.base.clone(), Instant::now(), error));
        self.greeted.notify_waiters();
    }

    /// An attempt failed. What will not get better by waiting is told to everybody who waits.
    fn failed(self: &Rc<Self>, error: ConnectError, base: Rc<Settings>) {
        self.counters.connect_failures.add(1);
        warn!(server = %self.server.name, database = %self.database, user = %self.user, %error, "Connecting a worker failed");
        let error = Rc::new(ServeError::from_connect(error));
        *self.trouble.borrow_mut() = Some((base.clone(), Instant::now(), error.clone()));
        self.greeted.notify_waiters();
        if !error.may_pass() {
            // Only those who would start with the same settings: others may be welcome.
            for queue in [&self.alone, &self.shared] {
                let refused: Vec<_> = queue
                    .borrow()
                    .iter()
                    .filter(|w| Rc::ptr_eq(&w.startup, &base))
                    .cloned()
                    .collect();
                queue.borrow_mut().retain(|w| !Rc::ptr_eq(&w.startup, &base));
                for waiter in refused {
                    waiter.grant(Err(error.clone()));
                }
            }
            return;
        }
        let (_, pause) = self.backoff.get();
        self.backoff
            .set((Some(Instant::now() + pause), (pause * 2).min(BACKOFF_MAX)));
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            let nobody = pool.workers.borrow().is_empty();
            pool.serve_waiters();
            if nobody {
                pool.grow_for_guests();
            }
        });
    }
}

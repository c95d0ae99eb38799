//! A session: one client from its greeting to its end.
//!
//! The hub of the data plane. Takes the client's bytes apart into units, decides how each is run ([`dispatch`], [`policy`]),
//! and runs it: answered here ([`local`]), in a shared queue ([`shared`]) or on a worker held alone ([`lease`]). Nothing below
//! calls back up.

mod dispatch;
mod effects;
mod greet;
mod io;
mod lazy_names;
mod lease;
mod listen;
mod local;
mod names;
mod policy;
mod replicate;
mod shared;
mod state;
mod translate;
mod unit;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use crds::Effective;
use pgnet::client::Credential;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;
use pgnet::stream::Stream;
use tracing::debug;

use super::card::{Card, Doing, Kill};
use super::client::{Client, Door};
use super::error::ServeError;
use super::pool::Pool;
use super::settings::Settings;
use super::slot::Slot;
use super::startups::Startup;
use super::thread::{Hold, Thread};
use super::turn;
use crate::classify::{Class, Context, Lexing};
use dispatch::Next;
use lazy_names::LazyNames;
use local::Status;
use policy::Transaction;
use unit::{Scan, UnitError};

/// Why a session ends.
#[derive(Debug)]
enum Leave {
    /// The client said goodbye or its socket broke.
    Gone,
    /// It is told this, and closed.
    Fatal(Box<ErrorFields>),
}

impl From<std::io::Error> for Leave {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<UnitError> for Leave {
    fn from(error: UnitError) -> Self {
        Self::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
    }
}

impl From<translate::Malformed> for Leave {
    fn from(error: translate::Malformed) -> Self {
        Self::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
    }
}

/// Why a request is not run.
enum Unserved {
    /// Its client is gone, or has to go.
    Leave(Leave),
    /// Its client is told this.
    Told(Rc<ServeError>),
}

impl From<Leave> for Unserved {
    fn from(leave: Leave) -> Self {
        Self::Leave(leave)
    }
}

impl From<ServeError> for Unserved {
    fn from(error: ServeError) -> Self {
        Self::Told(Rc::new(error))
    }
}

impl Leave {
    fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        Self::Fatal(Box::new(ErrorFields::new(Severity::Fatal, code, message)))
    }
}

/// See the module.
struct Session {
    thread: Rc<Thread>,
    card: Rc<Card>,
    stream: Stream,
    /// Bytes of the client not yet dealt with. A request in flight stays here until its answer has come: it may have to be repeated.
    input: BytesMut,
    /// Answers of our own not yet sent.
    out: BytesMut,
    scan: Scan,
    database: Arc<str>,
    user: Arc<str>,
    credential: Option<Arc<Credential>>,
    door: Door,
    /// Settings of the startup packet, to which RESET returns.
    startup: Rc<Settings>,
    /// `startup` without the name of the application: what a greeting depends on.
    greeted_as: Rc<Settings>,
    settings: Rc<Settings>,
    names: LazyNames,
    transaction: Transaction,
    /// A worker kept between requests because of state that cannot be moved.
    pinned: Option<Box<lease::Lease>>,
    /// Where the end of its last transaction is reported, if it was answered ahead of the server.
    ending: Option<Rc<Slot>>,
    /// Pools as of a generation of the topology.
    master: Option<(u64, Rc<Pool>)>,
    effective: Arc<Effective>,
    /// The settings of which `effective` is made: generation, and the application's name they were looked up with.
    follows: (u64, Rc<str>),
    /// As it was at the login: a change concerns new clients.
    mode: crds::PoolMode,
    /// Times the request at the front was begun and has to be run again.
    repeats: u32,
    _seat: Option<Box<dyn std::any::Any + Send>>,
}

/// Serves a client in a task of its own until it leaves; `present` is dropped then.
pub(super) fn begin(
    thread: Rc<Thread>,
    card: Rc<Card>,
    client: Box<Client>,
    full: bool,
    present: impl Sized + 'static,
) {
    if let Some(replication) = client.replication {
        tokio::task::spawn_local(async move {
            can_be_woken(&card).await;
            replicate::pass_through(&thread, &card, *client, replication).await;
            drop(present);
        });
        return;
    }
    let session = Session::new(thread, card, client);
    tokio::task::spawn_local(async move {
        session.run(full).await;
        drop(present);
    });
}

/// The task can be woken from now on.
async fn can_be_woken(card: &Card) {
    poll_fn(|cx| {
        card.set_waker(cx.waker());
        Poll::Ready(())
    })
    .await;
}

impl Session {
    fn new(thread: Rc<Thread>, card: Rc<Card>, client: Box<Client>) -> Box<Self> {
        let client = *client;
        let naming = thread.config().application_name;
        let Startup {
            settings: startup,
            greeted_as,
            application_name: name,
        } = thread
            .startups
            .of(&thread.settings, client.parameters, naming, &client.peer);
        let configured = thread.configured.get();
        let effective = thread.effective_of(&client.database, &client.user, &name, card.address());
        *card.application_name.borrow_mut() = name.clone();
        Box::new(Self {
            greeted_as,
            thread,
            card,
            stream: client.stream,
            input: client.ahead,
            out: client.unsent,
            scan: Scan::default(),
            database: client.database,
            user: client.user,
            credential: client.credential,
            door: client.door,
            settings: startup.clone(),
            startup,
            names: LazyNames::default(),
            transaction: Transaction::None,
            pinned: None,
            ending: None,
            master: None,
            mode: effective.pool_mode,
            follows: (configured, name),
            effective,
            repeats: 0,
            _seat: client.seat,
        })
    }

    /// From the greeting to the end.
    async fn run(mut self: Box<Self>, full: bool) {
        can_be_woken(&self.card).await;
        let leave = if full {
            Leave::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
        } else {
            let served = if self.is_direct() {
                Box::pin(self.serve_direct()).await
            } else {
                match Box::pin(self.greet()).await {
                    Ok(()) => self.serve().await,
                    Err(leave) => Err(leave),
                }
            };
            served.err().unwrap_or(Leave::Gone)
        };
        Box::pin(self.leave(leave)).await;
    }

    /// Serves requests until the client leaves.
    ///
    /// The three waits of the usual request have their room in the session's task. Whatever else there is to wait for gets
    /// room of its own for as long as it lasts: a client that idles holds none of it.
    async fn serve(&mut self) -> Result<(), Leave> {
        let mut next = Next::Request;
        loop {
            next = match next {
                Next::Request => self.next_request()?,
                Next::Input => {
                    self.wait_for_input().await?;
                    Next::Request
                }
                Next::Flush => {
                    self.flush().await?;
                    Next::Request
                }
                Next::Reply { total } => {
                    let end = self.await_shared().await?;
                    self.reply_ended(total, end)?;
                    Next::Request
                }
                Next::Aside(aside) => Box::pin(self.step_aside(aside)).await?,
            };
        }
    }

    /// Between requests: waits for the client's next bytes, for the end of the proxy, or for its patience to end.
    async fn wait_for_input(&mut self) -> Result<(), Leave> {
        if self.input.is_empty() {
            let empty = std::mem::take(&mut self.input);
            if empty.capacity() > 0 {
                self.thread.recycle(empty);
            }
        }
        self.card.set_doing(if self.transaction == Transaction::None {
            Doing::Idle
        } else {
            Doing::InTransaction
        });
        let (limit, what) = if self.transaction == Transaction::None {
            (
                self.effective.timeouts.client_idle,
                SqlState::IDLE_SESSION_TIMEOUT,
            )
        } else {
            (
                self.effective.timeouts.idle_in_transaction,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            )
        };
        let posted = self.post_answers();
        let read = poll_fn(|cx| {
            if posted.is_some() {
                self.card.slot.register(cx);
                if self.card.slot.came_back() {
                    return Poll::Ready(Ok(None));
                }
            }
            if let Some(leave) = killed(
                &self.card,
                self.transaction == Transaction::None && self.input.is_empty(),
            ) {
                if posted.is_some() && !self.card.slot.is_drained() {
                    // The post comes first: what was answered is heard.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                return Poll::Ready(Err(leave));
            }
            if self.is_behind() || self.transaction == Transaction::None && self.card.ears.has_mail() {
                return Poll::Ready(Ok(None));
            }
            io::poll_read(&self.thread, &mut self.stream, &mut self.input, cx).map_ok(Some)
        });
        let read = match limit {
            None => read.await,
            Some(limit) => match Box::pin(tokio::time::timeout(limit, read)).await {
                Ok(read) => read,
                Err(_) => return Err(too_idle(what, Some(limit))),
            },
        };
        let Some(n) = read? else {
            return Ok(()); // there is something to tell the client, or other settings
        };
        if n == 0 {
            return Err(Leave::Gone);
        }
        self.thread.counters.bytes_in.add(n as u64);
        Ok(())
    }

    /// Settings of the resource that hold for this client now.
    fn follow_settings(&mut self) {
        let configured = self.thread.configured.get();
        if self.follows.0 == configured && self.follows.1 == *self.card.application_name.borrow() {
            return;
        }
        let name = self.card.application_name.borrow().clone();
        self.effective = self
            .thread
            .effective_of(&self.database, &self.user, &name, self.card.address());
        self.follows = (configured, name);
    }

    /// Whether [`Session::follow_settings`] has something to do.
    fn is_behind(&self) -> bool {
        self.follows.0 != self.thread.configured.get()
    }

    fn mode(&self) -> crds::PoolMode {
        self.mode
    }

    /// Session mode: it has a server connection of its own.
    fn is_direct(&self) -> bool {
        self.mode == crds::PoolMode::Session
    }

    /// What a text is, judged with this session's role and search_path.
    fn classify(&self, sql: &[u8]) -> Rc<Class> {
        let catalog = self.thread.catalogs.get(&self.database);
        let context = Context {
            catalog: catalog.as_deref(),
            role: self.settings.get("role").unwrap_or(&self.user),
            search_path: self.settings.get("search_path").unwrap_or("\"$user\", public"),
            lexing: if self.settings.unsafe_lexing() {
                Lexing::Unsafe
            } else {
                Lexing::Standard
            },
        };
        self.thread.classifier.borrow_mut().class_of(sql, &context)
    }

    fn answer(&mut self, write: impl FnOnce(&mut BytesMut, Status)) {
        write(&mut self.out, self.transaction.status());
    }

    /// An error of ours inside a transaction that has not begun on a server fails it, as PostgreSQL's would.
    fn fail_open_transaction(&mut self) {
        if self.transaction != Transaction::None {
            self.transaction = Transaction::Failed;
        }
    }

    /// The pool of the master, if it may be used now.
    fn open_master(&mut self, opens_lease: bool) -> Option<Rc<Pool>> {
        if !self.thread.is_open(&self.database, opens_lease) {
            return None;
        }
        let generation = self.thread.generation.get();
        if let Some((of, pool)) = &self.master
            && *of == generation
        {
            return Some(pool.clone());
        }
        let topology = self.thread.topology();
        let server = topology.master.as_ref()?;
        let pool = self.thread.pool(
            server,
            &self.database,
            &self.user,
            self.credential.as_ref(),
            self.is_direct(),
        );
        self.enter(generation, pool.clone());
        Some(pool)
    }

    /// The pool of the master, or the error of not having one for too long. Waits while the master moves.
    async fn master_pool(&mut self, opens_lease: bool) -> Result<Rc<Pool>, Unserved> {
        let begun = turn::began();
        loop {
            if let Some(pool) = self.open_master(opens_lease) {
                return Ok(pool);
            }
            self.card.set_doing(Doing::Waiting);
            let clock = !matches!(self.thread.hold.get(), Hold::All { clock: false } | Hold::Leases);
            let limit = self.effective.timeouts.query_wait.filter(|_| clock);
            let waited = begun.elapsed();
            if self.card.cancelled.get() {
                return Err(ServeError::Cancelled.into());
            }
            if limit.is_some_and(|l| waited >= l) {
                return Err(ServeError::NoServer { waited }.into());
            }
            let thread = self.thread.clone();
            let changed = thread.changed.notified();
            let step = limit.map_or(std::time::Duration::from_millis(200), |l| {
                (l - waited).min(std::time::Duration::from_millis(200))
            });
            let _ = io::while_here(
                &self.thread,
                &self.card,
                &mut self.stream,
                &mut self.input,
                tokio::time::timeout(step, changed),
            )
            .await?;
        }
    }

    fn enter(&mut self, generation: u64, pool: Rc<Pool>) {
        if let Some((_, old)) = self.master.take() {
            old.clients.set(old.clients.get().saturating_sub(1));
        }
        pool.clients.set(pool.clients.get() + 1);
        pool.top_up();
        self.master = Some((generation, pool));
    }

    /// A pool of a healthy replica, by weight; `None`: the master has to do.
    fn replica_pool(&mut self) -> Option<Rc<Pool>> {
        let topology = self.thread.topology();
        let total: u32 = topology.replicas.iter().map(|r| r.weight).sum();
        if total == 0 {
            return None;
        }
        let mut point = (self.thread.random_fraction() * f64::from(total)) as u32;
        let chosen = topology.replicas.iter().find(|r| {
            let here = point < r.weight;
            point = point.saturating_sub(r.weight);
            here
        })?;
        let is_master = topology
            .master
            .as_ref()
            .is_some_and(|m| m.name == chosen.server.name);
        if is_master && !self.thread.is_open(&self.database, false) {
            return None;
        }
        Some(self.thread.pool(
            &chosen.server,
            &self.database,
            &self.user,
            self.credential.as_ref(),
            self.is_direct(),
        ))
    }

    /// Whether a read goes to a replica: by hint, by door.
    fn prefers_replica(&self, class: &Class) -> bool {
        use crds::ReadSplit;
        let split = self.thread.setting(|config| config.routing.read_split);
        if split == ReadSplit::Off || class.hints.master {
            return false;
        }
        self.door == Door::ReadOnly
            || class.hints.replica
            || (split == ReadSplit::Auto && class.is_known_read())
    }

    /// The session ends: tells the client if there is something to tell, gives back what it holds.
    async fn leave(mut self: Box<Self>, leave: Leave) {
        // Dropping it ends and cleans what it left on its worker.
        drop(self.pinned.take());
        if let Some((_, pool)) = self.master.take() {
            pool.clients.set(pool.clients.get().saturating_sub(1));
        }
        self.card.slot.clear();
        debug!(client = self.card.process_id, ?leave, "Left");
        let gone = matches!(leave, Leave::Gone);
        if let Leave::Fatal(fields) = leave {
            if let Some(notice) = farewell(&fields) {
                notice.encode_notice(&mut self.out);
            }
            fields.encode_error(&mut self.out);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.flush()).await;
        }
        if gone && !self.stream.is_tls() {
            return;
        }
        let _ = tokio::time::timeout(
            std::time::Duration::from_millis(100),
            tokio::io::AsyncWriteExt::shutdown(&mut self.stream),
        )
        .await;
    }
}

/// The session has to end now, if somebody said so and this is a moment for it.
fn killed(card: &Card, idle: bool) -> Option<Leave> {
    let why = match card.kill.get()? {
        Kill::WhenIdle | Kill::Moving if !idle => return None,
        Kill::Gap if !idle => return None,
        Kill::Gap => {
            return Some(Leave::fatal(
                SqlState::CONNECTION_FAILURE,
                "terminating connection because notifications may have been lost",
            ));
        }
        Kill::Deaf => {
            return Some(Leave::fatal(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                "terminating connection because it does not take its notifications",
            ));
        }
        Kill::Moving => "terminating connection because its server is being switched over",
        Kill::WhenIdle | Kill::Now => "terminating connection because the proxy is shutting down",
    };
    Some(Leave::fatal(SqlState::ADMIN_SHUTDOWN, why))
}

fn too_idle(code: SqlState, limit: Option<std::time::Duration>) -> Leave {
    let (message, name) = if code == SqlState::IDLE_SESSION_TIMEOUT {
        ("terminating connection due to idle-session timeout", "clientIdle")
    } else {
        (
            "terminating connection due to idle-in-transaction timeout",
            "idleInTransaction",
        )
    };
    let fields = ErrorFields::new(Severity::Fatal, code, message);
    Leave::Fatal(Box::new(match limit {
        Some(limit) => fields.with_detail(format!("timeouts.{name} is {} ms here", limit.as_millis())),
        None => fields,
    }))
}

/// A notice ahead of the end, for clients that show notices and take a closed connection for a broken one.
fn farewell(fields: &ErrorFields) -> Option<ErrorFields> {
    let idle = matches!(
        fields.code,
        SqlState::IDLE_SESSION_TIMEOUT | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
    );
    idle.then(|| {
        let text = "this connection was idle for too long and is closed now";
        let notice = ErrorFields::new(Severity::Notice, fields.code, text);
        match &fields.detail {
            Some(detail) => notice.with_detail(detail.clone()),
            None => notice,
        }
    })
}

/// What a worker is asked for.
fn asker<'a>(
    card: &'a Card,
    settings: &'a Rc<Settings>,
    startup: &'a Rc<Settings>,
) -> super::pool::Asker<'a> {
    super::pool::Asker {
        session: card.serial,
        settings,
        startup,
        cancelled: &card.cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_idles_takes_little_room() {
        // What is seldom needed belongs into a box: see `LazyNames`, `Ears`.
        let (session, card) = (size_of::<Session>(), size_of::<Card>());
        let slot = size_of::<super::super::slot::Slot>();
        assert!(
            session <= 344 && card <= 288 && slot <= 160,
            "{session} {card} {slot}"
        );
    }
}

//! What the rest of a data thread knows of a session: its name, its key, what it is doing; and how to reach it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;

use super::client::{Client, Peer};
use super::ears::Ears;
use super::rows::{ClientRow, PinRow};
use super::secrets::Secrets;
use super::slot::Slot;
use super::worker::Worker;
use pgnet::startup::ProtocolVersion;

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Logged in, being greeted.
    Login,
    /// Between requests.
    Idle,
    /// Waits for a worker.
    Waiting,
    /// Its known read is in a shared queue.
    Shared,
    /// Its request runs on a worker of its own.
    Leased,
    /// In a transaction, between statements.
    InTransaction,
    /// Keeps a worker between requests.
    Pinned,
}

/// Why a session has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kill {
    /// The proxy goes away: at the next moment nothing runs.
    WhenIdle,
    /// Its server goes away in a switchover, and it keeps state there.
    Moving,
    /// The connection that listens for it was lost, and `onListenGap` says that it has to know.
    Gap,
    /// It does not take its notifications.
    Deaf,
    /// At once.
    Now,
}

/// What a CancelRequest has to show.
pub(super) enum Key {
    /// Before protocol 3.2.
    Short([u8; 4]),
    /// From then on.
    Long(Box<[u8; 32]>),
}

impl Key {
    /// A new one; `None`: the operating system has no random bytes.
    pub(super) fn new(secrets: &Secrets, protocol: ProtocolVersion) -> Option<Self> {
        Some(if protocol == ProtocolVersion::V3_2 {
            Self::Long(Box::new(secrets.take()?))
        } else {
            Self::Short(secrets.take()?)
        })
    }
}

/// See the module.
pub(super) struct Card {
    pub(super) id: u32,
    /// Unlike `id` never used again.
    pub(super) serial: u64,
    pub(super) process_id: i32,
    pub(super) slot: Rc<Slot>,
    pub(super) cancelled: Cell<bool>,
    pub(super) doing: Cell<Doing>,
    pub(super) since: Cell<Instant>,
    pub(super) requests: Cell<u64>,
    pub(super) application_name: RefCell<Rc<str>>,
    pub(super) pins: RefCell<Vec<&'static str>>,
    pub(super) kill: Cell<Option<Kill>>,
    key: Key,
    /// In session mode: the process id and the key of its server connection, which are the client's.
    real: RefCell<Option<Box<(i32, Bytes)>>>,
    /// What it listens to, and what it has not been told yet.
    pub(super) ears: Ears,
    worker: RefCell<Weak<Worker>>,
    waker: RefCell<Option<Waker>>,
    database: Arc<str>,
    user: Arc<str>,
    peer: Peer,
    tls: bool,
    born: Instant,
}

impl Card {
    pub(super) fn new(id: u32, serial: u64, proxy_id: u8, key: Key, client: &Client) -> Self {
        let now = Instant::now();
        let process_id = (u32::from(proxy_id) << 23 | id) & 0x7fff_ffff;
        Self {
            id,
            serial,
            process_id: i32::try_from(process_id).unwrap_or(i32::MAX),
            slot: Rc::new(Slot::default()),
            cancelled: Cell::new(false),
            doing: Cell::new(Doing::Login),
            since: Cell::new(now),
            requests: Cell::new(0),
            application_name: RefCell::new("".into()),
            pins: RefCell::default(),
            kill: Cell::new(None),
            key,
            real: RefCell::new(None),
            ears: Ears::default(),
            worker: RefCell::new(Weak::new()),
            waker: RefCell::new(None),
            database: client.database.clone(),
            user: client.user.clone(),
            peer: client.peer.clone(),
            tls: client.stream.is_tls(),
            born: now,
        }
    }

    /// The key of BackendKeyData.
    pub(super) fn key(&self) -> &[u8] {
        match &self.key {
            Key::Short(key) => key,
            Key::Long(key) => &key[..],
        }
    }

    /// Whether a CancelRequest with these is this client's.
    pub(super) fn is_meant(&self, process_id: i32, key: &[u8]) -> bool {
        match self.real.borrow().as_deref() {
            Some((real, secret)) => *real == process_id && same(secret, key),
            None => self.process_id == process_id && same(self.key(), key),
        }
    }

    /// Where it is; `None`: on a Unix socket.
    pub(super) fn address(&self) -> Option<std::net::IpAddr> {
        match &self.peer {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix => None,
        }
    }

    /// The database it asked for.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// From now on the client is known by the process id and key of its own server connection.
    pub(super) fn adopt(&self, process_id: i32, key: Bytes) {
        *self.real.borrow_mut() = Some(Box::new((process_id, key)));
    }

    /// The process id its client knows.
    pub(super) fn shown_process_id(&self) -> i32 {
        self.real
            .borrow()
            .as_deref()
            .map_or(self.process_id, |(real, _)| *real)
    }

    /// The session's task can be woken from now on.
    pub(super) fn set_waker(&self, waker: &Waker) {
        *self.waker.borrow_mut() = Some(waker.clone());
    }

    /// Wakes the session's task.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The application is called so from now on.
    pub(super) fn set_application_name(&self, name: &str) {
        if **self.application_name.borrow() != *name {
            *self.application_name.borrow_mut() = name.into();
        }
    }

    pub(super) fn set_doing(&self, doing: Doing) {
        self.doing.set(doing);
    }

    /// The worker its request runs on, or that it holds.
    pub(super) fn worker(&self) -> Option<Rc<Worker>> {
        self.worker.borrow().upgrade()
    }

    pub(super) fn set_worker(&self, worker: Option<&Rc<Worker>>) {
        *self.worker.borrow_mut() = worker.map_or_else(Weak::new, Rc::downgrade);
    }

    /// Its request is in a shared queue.
    pub(super) fn shares(&self) -> bool {
        self.doing.get() == Doing::Shared
    }

    /// Something of it runs on the worker it holds.
    pub(super) fn runs(&self) -> bool {
        self.doing.get() == Doing::Leased
    }

    /// It keeps a worker although nothing runs and no transaction is open.
    pub(super) fn is_pinned_and_idle(&self) -> bool {
        self.doing.get() == Doing::Pinned
    }

    /// Nothing of it runs, and it is in no transaction.
    pub(super) fn rests(&self) -> bool {
        matches!(self.doing.get(), Doing::Idle | Doing::Pinned)
    }

    /// It has a worker for itself.
    pub(super) fn holds(&self) -> bool {
        matches!(
            self.doing.get(),
            Doing::Leased | Doing::InTransaction | Doing::Pinned
        )
    }

    /// Ends a wait for a worker.
    pub(super) fn cancel_wait(&self) {
        if self.doing.get() == Doing::Waiting {
            self.cancelled.set(true);
            self.wake();
        }
    }

    /// The session has to end; the strongest word counts.
    pub(super) fn kill(&self, kill: Kill) {
        if self.kill.get().is_none_or(|old| old < kill) {
            self.kill.set(Some(kill));
            self.wake();
        }
    }

    pub(super) fn row(&self, thread: usize) -> ClientRow {
        ClientRow {
            thread,
            process_id: self.shown_process_id(),
            database: self.database.to_string(),
            user: self.user.to_string(),
            address: self.peer.to_string(),
            application_name: self.application_name.borrow().to_string(),
            state: match self.doing.get() {
                Doing::Login => "login",
                Doing::Idle => "idle",
                Doing::Waiting => "waiting",
                Doing::Shared | Doing::Leased => "active",
                Doing::InTransaction => "transaction",
                Doing::Pinned => "pinned",
            },
            age: self.born.elapsed(),
            since: self.since.get().elapsed(),
            requests: self.requests.get(),
            server_process_id: self.worker().map_or(0, |w| w.process_id),
            tls: self.tls,
        }
    }

    pub(super) fn pin_row(&self) -> Option<PinRow> {
        let reasons = self.pins.borrow().clone();
        (!reasons.is_empty()).then(|| PinRow {
            process_id: self.shown_process_id(),
            database: self.database.to_string(),
            user: self.user.to_string(),
            server_process_id: self.worker().map_or(0, |w| w.process_id),
            reasons,
            age: self.since.get().elapsed(),
        })
    }
}

/// Compares in a time that does not depend on where they differ.
fn same(key: &[u8], other: &[u8]) -> bool {
    key.len() == other.len() && key.iter().zip(other).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

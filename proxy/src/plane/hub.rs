//! The hub: one connection per database that listens for all clients of this proxy (PRO-10 to PRO-17).
//!
//! Clients join channels and leave them; what the server sends goes to every data thread with a client on the channel, in the
//! order of the server. A client is told that it listens only when the server has answered a round trip that was begun after
//! it asked, and its first notification is the first behind that answer: exactly as with a connection of its own. The hub
//! never sits in a transaction.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pgnet::backend;
use pgnet::client::{Config, ConnectError, Credential, establish};
use pgnet::fields::ErrorFields;
use pgnet::startup::ProtocolVersion;
use pgnet::stream::Stream;
use pgnet::{frame, frontend, quote};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::shared::Shares;
use super::thread::{Command, Thread};
use super::topology::Server;

/// The channel by which a client's move from its own connection to the hub is marked in both streams.
pub(super) const CUT: &str = "pgstmtpool_cut";
/// Longest frame of a server that listens for us; a payload has less than 8000 bytes.
const FRAME_MAX: u32 = 1 << 20;
/// How often the hub looks whether it still listens at the right server.
const LOOK: Duration = Duration::from_millis(200);
/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);
/// A connection nobody listens on is closed after this time.
const LINGER: Duration = Duration::from_secs(30);
/// Channels in one statement of ours.
const CHANNELS_MAX: usize = 1000;

/// Who asks the hub to listen: the hub logs in as the one who asked last.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: Arc<str>,
    pub(super) credential: Credential,
    /// The database's name on the servers.
    pub(super) database: String,
}

/// A client, from any thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) thread: usize,
    /// Of its card.
    pub(super) id: u32,
    pub(super) serial: u64,
}

/// How it went: what the server said where it refused.
pub(super) type Joined = Result<(), Box<ErrorFields>>;

/// What threads ask of a hub.
pub(super) enum Order {
    /// Listen for this client too; with `cut`, from that mark on.
    Join {
        who: Listener,
        channels: Vec<Bytes>,
        cut: Option<u64>,
        login: Login,
        done: oneshot::Sender<Joined>,
    },
    /// One client of a thread less on these channels.
    Leave { thread: usize, channels: Vec<Bytes> },
    /// Tell when everything committed before this has been handed on.
    Fence {
        thread: usize,
        done: oneshot::Sender<Joined>,
    },
}

/// What a hub tells a data thread, in the order of the server.
pub(super) enum News {
    /// The client listens from here on.
    Joined {
        who: Listener,
        channels: Vec<Bytes>,
        cut: Option<u64>,
        done: oneshot::Sender<Joined>,
    },
    /// A notification: the frame as it goes to clients.
    Note { channel: Bytes, frame: Bytes },
    /// The mark of a client's move.
    Cut { token: u64 },
    /// The answer to a fence.
    Fenced { done: oneshot::Sender<Joined> },
    /// The connection was lost: notifications may be missing. `back`: it listens again.
    Gap { back: bool },
}

/// The hubs of this proxy, and who sends notifications from which server process.
#[derive(Default)]
pub(super) struct Hubs {
    orders: Mutex<HashMap<Arc<str>, UnboundedSender<Order>>>,
    senders: Mutex<HashMap<i32, i32>>,
}

impl Hubs {
    /// The hub of a database; started on this thread if there is none yet.
    pub(super) fn of(&self, thread: &Rc<Thread>, database: &Arc<str>) -> UnboundedSender<Order> {
        let mut hubs = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = hubs.entry(database.clone()).or_insert_with(|| {
            let (sender, orders) = unbounded_channel();
            let hub = Hub {
                thread: thread.clone(),
                database: database.clone(),
                orders,
                waiting: Vec::new(),
                channels: HashMap::new(),
                login: None,
                gap: false,
                alone: 0,
            };
            tokio::task::spawn_local(hub.run());
            sender
        });
        sender.clone()
    }

    /// The hub of a database, if anybody ever listened there.
    pub(super) fn find(&self, database: &str) -> Option<UnboundedSender<Order>> {
        let hubs = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        hubs.get(database).cloned()
    }

    /// Notifications from this server process are this client's until [`Hubs::forget_sender`].
    pub(super) fn note_sender(&self, process_id: i32, client: i32) {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.insert(process_id, client);
    }

    pub(super) fn forget_sender(&self, process_id: i32) {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.remove(&process_id);
    }

    fn sender(&self, process_id: i32) -> Option<i32> {
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.get(&process_id).copied()
    }
}

/// See the module.
struct Hub {
    thread: Rc<Thread>,
    database: Arc<str>,
    orders: UnboundedReceiver<Order>,
    /// Orders not yet begun.
    waiting: Vec<Order>,
    /// How many clients of which thread are on a channel.
    channels: HashMap<Bytes, HashMap<usize, usize>>,
    login: Option<Login>,
    /// The connection was lost while somebody listened.
    gap: bool,
    /// So many orders are asked one by one: their common statement failed.
    alone: usize,
}

/// Why a connection of the hub ended.
enum Lost {
    /// It broke, or the server is no longer the right one.
    Gone,
    /// Nobody listens any more.
    Unneeded,
    /// The proxy ends.
    Over,
}

/// What the server has been asked and not yet answered.
struct Flight {
    orders: Vec<Order>,
    /// The first on its connection: it listens on everything there was.
    fresh: bool,
    error: Option<Box<ErrorFields>>,
}

impl Hub {
    async fn run(mut self) {
        loop {
            while self.waiting.is_empty() && self.channels.is_empty() {
                match self.orders.recv().await {
                    Some(order) => self.take(order),
                    None => return,
                }
            }
            let Some(server) = self.thread.open_master() else {
                if !self.pause().await {
                    return;
                }
                continue;
            };
            match self.connect(&server).await {
                Ok((stream, buffer)) => {
                    let lost = Box::pin(self.serve(&server, stream, buffer)).await;
                    self.release(&server);
                    match lost {
                        Lost::Over => return,
                        Lost::Unneeded => {}
                        Lost::Gone => {
                            debug!(database = %self.database, "The hub lost its connection");
                            self.gap = !self.channels.is_empty();
                            if self.gap {
                                self.tell_all(|| News::Gap { back: false });
                            }
                        }
                    }
                }
                Err(error) => {
                    warn!(database = %self.database, %error, "The hub cannot listen");
                    if let ConnectError::Server(fields) = error {
                        self.refuse(&fields);
                    }
                    if !self.pause().await {
                        return;
                    }
                }
            }
        }
    }

    /// Waits a little, and takes what comes. False: the proxy ends.
    async fn pause(&mut self) -> bool {
        let until = tokio::time::Instant::now() + PAUSE;
        loop {
            match tokio::time::timeout_at(until, self.orders.recv()).await {
                Ok(Some(order)) => self.take(order),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Everybody who waits to listen hears why it is not possible.
    fn refuse(&mut self, fields: &ErrorFields) {
        for order in self.waiting.drain(..) {
            match order {
                Order::Join { done, .. } | Order::Fence { done, .. } => {
                    let _ = done.send(Err(Box::new(fields.clone())));
                }
                Order::Leave { .. } => {}
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Leave { thread, channels } => self.leave(thread, &channels),
            Order::Join { ref login, .. } => {
                self.login = Some(login.clone());
                self.waiting.push(order);
            }
            order => self.waiting.push(order),
        }
    }

    fn leave(&mut self, thread: usize, channels: &[Bytes]) {
        for channel in channels {
            // Without threads it stays until the server has been told: see `write`.
            if let Some(threads) = self.channels.get_mut(channel)
                && let Some(count) = threads.get_mut(&thread)
            {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    threads.remove(&thread);
                }
            }
        }
    }

    async fn connect(&self, server: &Arc<Server>) -> Result<(Stream, BytesMut), ConnectError> {
        let Some(login) = &self.login else {
            return Err(ConnectError::Io(std::io::ErrorKind::NotFound.into()));
        };
        let settings = self.thread.config();
        let shares = Shares {
            pool: 1,
            server: settings.budget.per_server as usize,
            ..Shares::default()
        };
        if !self
            .thread
            .shared
            .budget
            .acquire(&server.name, &self.database, CUT, shares)
        {
            return Err(ConnectError::Io(std::io::Error::other(
                "the server has all connections it may have",
            )));
        }
        let config = Config {
            credential: login.credential.clone(),
            parameters: vec![("application_name".to_owned(), "pgstmtpool listener".to_owned())],
            tls: (*server.tls).clone(),
            connect_timeout: settings.workers.connect_timeout,
            protocol: ProtocolVersion::V3_0,
            ..Config::new(server.target.clone(), &*login.user, &login.database)
        };
        match establish(&config).await {
            Ok(established) => Ok((established.stream, established.buffered)),
            Err(error) => {
                self.release(server);
                Err(error)
            }
        }
    }

    fn release(&self, server: &Server) {
        self.thread
            .shared
            .budget
            .release(&server.name, &self.database, CUT);
    }

    /// Listens until the connection ends. The first round trip listens again on every channel.
    async fn serve(&mut self, server: &Arc<Server>, mut stream: Stream, mut buffer: BytesMut) -> Lost {
        let mut flight: Option<Flight> = None;
        let mut fresh = true;
        let mut unneeded: Option<Instant> = None;
        let mut look = tokio::time::interval(LOOK);
        loop {
            if flight.is_none() && (fresh || self.has_work()) {
                let (sql, orders) = self.compose(fresh);
                flight = Some(Flight {
                    orders,
                    fresh,
                    error: None,
                });
                fresh = false;
                let mut query = BytesMut::new();
                frontend::query(&mut query, sql.as_bytes());
                if stream.write_all(&query).await.is_err() || stream.flush().await.is_err() {
                    return self.lost(flight);
                }
            }
            let idle = flight.is_none() && self.channels.is_empty();
            if !idle {
                unneeded = None;
            } else if unneeded.get_or_insert_with(Instant::now).elapsed() >= LINGER {
                return Lost::Unneeded;
            }
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.take(order),
                    None => return Lost::Over,
                },
                read = stream.read_buf(&mut buffer) => match read {
                    Ok(0) | Err(_) => return self.lost(flight),
                    Ok(_) => if self.hear(&mut buffer, &mut flight).is_err() {
                        return self.lost(flight);
                    },
                },
                _ = look.tick() => {
                    let right = self.thread.open_master().is_some_and(|now| {
                        now.name == server.name && now.target == server.target && now.identity == server.identity
                    });
                    if !right {
                        return self.lost(flight);
                    }
                }
            }
        }
    }

    /// What was under way is asked again on the next connection.
    fn lost(&mut self, flight: Option<Flight>) -> Lost {
        let mut orders = flight.map(|f| f.orders).unwrap_or_default();
        orders.append(&mut self.waiting);
        self.waiting = orders;
        Lost::Gone
    }

    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.channels.values().any(HashMap::is_empty)
    }

    /// One Query for all that is asked, and which orders its answer answers. `fresh`: on a new connection.
    fn compose(&mut self, fresh: bool) -> (String, Vec<Order>) {
        let mut sql = String::new();
        let mut say = |verb: &str, channel: &[u8]| {
            sql.push_str(verb);
            sql.push_str(&quote::identifier(&String::from_utf8_lossy(channel)));
            sql.push(';');
        };
        let unheard: Vec<Bytes> = self
            .channels
            .iter()
            .filter(|(_, threads)| threads.is_empty())
            .map(|(channel, _)| channel.clone())
            .collect();
        for channel in unheard {
            self.channels.remove(&channel);
            if !fresh {
                say("UNLISTEN ", &channel);
            }
        }
        if fresh {
            say("LISTEN ", CUT.as_bytes());
            for channel in self.channels.keys() {
                say("LISTEN ", channel);
            }
            return (sql, Vec::new());
        }
        let mut count = 0;
        let mut orders = Vec::new();
        let mut rest = self.waiting.drain(..);
        for order in rest.by_ref() {
            if let Order::Join { channels, .. } = &order {
                for channel in channels {
                    if !self.channels.contains_key(channel) {
                        say("LISTEN ", channel);
                    }
                }
                count += channels.len();
            }
            orders.push(order);
            if count >= CHANNELS_MAX || self.alone > 0 {
                self.alone = self.alone.saturating_sub(1);
                break;
            }
        }
        let rest: Vec<Order> = rest.collect();
        self.waiting = rest;
        (sql, orders)
    }

    /// Takes in what came. An error: the connection is of no use.
    fn hear(&mut self, buffer: &mut BytesMut, flight: &mut Option<Flight>) -> Result<(), ()> {
        loop {
            let Some(header) = frame::peek(buffer, FRAME_MAX).map_err(|_| ())? else {
                return Ok(());
            };
            let total = header.total();
            if buffer.len() < total {
                buffer.reserve(total - buffer.len());
                return Ok(());
            }
            let message = buffer.split_to(total).freeze();
            match header.tag {
                b'A' => self.note(&message.slice(5..)),
                b'E' => {
                    let fields = ErrorFields::decode(&message[5..]).map_err(|_| ())?;
                    if fields.is_fatal() {
                        return Err(());
                    }
                    if let Some(flight) = flight {
                        flight.error = Some(Box::new(fields));
                    }
                }
                b'Z' => {
                    if let Some(flight) = flight.take() {
                        if flight.fresh && flight.error.is_some() {
                            return Err(());
                        }
                        self.landed(flight);
                    }
                }
                _ => {}
            }
        }
    }

    fn landed(&mut self, flight: Flight) {
        let mut orders = flight.orders;
        let joins = |o: &Order| matches!(o, Order::Join { .. });
        if let Some(error) = flight.error {
            if orders.iter().filter(|o| joins(o)).count() > 1 {
                // One of them is to blame: each is asked alone.
                self.alone = orders.len();
                orders.append(&mut self.waiting);
                self.waiting = orders;
                return;
            }
            for order in orders.drain(..) {
                if let Order::Join { done, .. } | Order::Fence { done, .. } = order {
                    let _ = done.send(Err(error.clone()));
                }
            }
            return;
        }
        for order in orders {
            match order {
                Order::Join {
                    who,
                    channels,
                    cut,
                    done,
                    ..
                } => {
                    for channel in &channels {
                        let threads = self.channels.entry(channel.clone()).or_default();
                        *threads.entry(who.thread).or_default() += 1;
                    }
                    let news = News::Joined {
                        who,
                        channels,
                        cut,
                        done,
                    };
                    self.tell(who.thread, news);
                }
                Order::Fence { thread, done } => self.tell(thread, News::Fenced { done }),
                Order::Leave { .. } => {}
            }
        }
        if std::mem::take(&mut self.gap) {
            self.tell_all(|| News::Gap { back: true });
        }
    }

    /// A notification: with the process id its sender's client knows, where that is one of ours.
    fn note(&self, body: &Bytes) {
        let Some((process_id, channel, payload)) = notification(body) else {
            return;
        };
        if channel == CUT.as_bytes() {
            let token = std::str::from_utf8(payload).ok().and_then(|t| t.parse().ok());
            if let Some(token) = token {
                self.tell_all(|| News::Cut { token });
            }
            return;
        }
        let Some(threads) = self.channels.get(channel) else {
            return;
        };
        let sender = self.thread.shared.hubs.sender(process_id).unwrap_or(process_id);
        let mut frame = BytesMut::with_capacity(body.len() + 16);
        backend::notification(&mut frame, sender, channel, payload);
        let frame = frame.freeze();
        let channel = Bytes::copy_from_slice(channel);
        for thread in threads.keys() {
            let (channel, frame) = (channel.clone(), frame.clone());
            self.tell(*thread, News::Note { channel, frame });
        }
    }

    fn tell(&self, thread: usize, news: News) {
        if let Some(threads) = self.thread.shared.threads.get()
            && let Some(thread) = threads.get(thread)
        {
            let _ = thread.send(Command::News(self.database.clone(), news));
        }
    }

    fn tell_all(&self, news: impl Fn() -> News) {
        let threads = self.thread.shared.threads.get().map_or(0, Vec::len);
        for thread in 0..threads {
            self.tell(thread, news());
        }
    }
}

/// Sender, channel and payload of a notification's body.
pub(super) fn notification(body: &[u8]) -> Option<(i32, &[u8], &[u8])> {
    match backend::decode(backend::tag::NOTIFICATION_RESPONSE, body) {
        Ok(backend::Message::NotificationResponse {
            process_id,
            channel,
            payload,
        }) => Some((process_id, channel, payload)),
        _ => None,
    }
}

//! Doors: from an accepted socket to a client on its home thread.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use pgnet::stream::Stream;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::super::Listener;
use super::super::card::{Card, Key};
use super::super::client::{Client, Door, Login, Peer};
use super::super::session;
use super::{Command, Thread, cancel_anywhere};

/// How often a thread looks whether it is to accept connections.
const LOOK: Duration = Duration::from_millis(500);
/// How long it goes on when it is not any more: until the other one has looked.
const OVERLAP: Duration = Duration::from_millis(1100);

/// Accepts connections. A new one wakes every thread on whose reactor the listening socket is, and all but one in vain: so it
/// is there only while this thread keeps the door or helps.
pub(super) async fn accept(thread: Rc<Thread>, listener: Listener, door: Door) {
    let mut open: Option<Acceptor> = None;
    let mut until = Instant::now();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !thread.shared.draining.load(Relaxed) {
        if thread.shared.accepts(thread.index) {
            until = Instant::now() + OVERLAP;
            if open.is_none() {
                let opened = Acceptor::new(&listener);
                open = opened.inspect_err(|error| warn!(%error, "Cannot listen")).ok();
            }
        } else if until <= Instant::now() {
            open = None;
        }
        let may_change = open.is_none() || thread.shared.busy.len() > 1;
        let accepted = tokio::select! {
            accepted = Acceptor::next(open.as_ref()) => accepted,
            () = thread.changed.notified() => continue,
            _ = looks.tick(), if may_change => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::task::spawn_local(welcome(thread.clone(), stream, door, peer));
            }
            Err(error) => {
                // Out of file descriptors, mostly: give others time to end.
                warn!(%error, "Accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A listening socket on this thread's reactor.
enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    fn new(listener: &Listener) -> std::io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                Self::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            Listener::Unix(listener) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                Self::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        })
    }

    /// The next connection; never, where nothing is open.
    async fn next(open: Option<&Self>) -> std::io::Result<(Stream, Peer)> {
        match open {
            Some(acceptor) => acceptor.accept().await,
            None => std::future::pending().await,
        }
    }

    async fn accept(&self) -> std::io::Result<(Stream, Peer)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                (Stream::Tcp(stream), Peer::Tcp(address))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                (Stream::Unix(stream), Peer::Unix)
            }
        })
    }
}

/// From the first byte of a connection to its session.
pub(super) async fn welcome(thread: Rc<Thread>, stream: Stream, door: Door, peer: Peer) {
    let login = thread.shared.doorman.login(stream, door, peer).await;
    match login {
        Login::Closed => {}
        Login::Cancel {
            process_id,
            key,
            stream,
        } => {
            let shared = thread.shared.clone();
            drop(thread);
            cancel_anywhere(&shared, process_id, key).await;
            drop(stream);
        }
        Login::Pseudo(client) => thread.shared.doorman.pseudo(client).await,
        Login::Client(client) => {
            thread.counters.logins.add(1);
            let home = thread.shared.place(thread.index, &client.database, &client.user);
            if home == thread.index {
                serve(&thread, client);
            } else if let Some(threads) = thread.shared.threads.get() {
                match take_off(*client) {
                    Ok(traveller) => drop(threads[home].send(Command::Admit(Box::new(traveller)))),
                    Err(client) => serve(&thread, client),
                }
            }
        }
    }
}

/// Takes a client's socket off this thread's reactor, so that its home thread can put it on its own. A TLS session cannot
/// be taken apart: such a client is served where it was accepted.
fn take_off(client: Client) -> Result<Traveller, Box<Client>> {
    let (stream, rest) = client.exchange(());
    let carried = match stream {
        Stream::Tcp(stream) => stream.into_std().map_or(Carried::Lost, Carried::Tcp),
        Stream::Unix(stream) => stream.into_std().map_or(Carried::Lost, Carried::Unix),
        other => return Err(Box::new(rest.exchange(other).1)),
    };
    Ok(rest.exchange(carried).1)
}

/// A client's socket on no reactor.
pub(in crate::plane) enum Carried {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Lost,
}

/// A client between two data threads.
pub(in crate::plane) type Traveller = Client<Carried>;

/// Puts a client that has travelled on this thread's reactor; `None`: its socket was lost on the way.
pub(super) fn arrive(traveller: Traveller) -> Option<Client> {
    let (socket, rest) = traveller.exchange(());
    let stream = match socket {
        Carried::Tcp(stream) => Stream::Tcp(tokio::net::TcpStream::from_std(stream).ok()?),
        Carried::Unix(stream) => Stream::Unix(tokio::net::UnixStream::from_std(stream).ok()?),
        Carried::Lost => return None,
    };
    Some(rest.exchange(stream).1)
}

/// Serves a client in a task of its own: the room of the login is not kept.
pub(super) fn serve(thread: &Rc<Thread>, client: Box<Client>) {
    let admin = client.admin;
    let maximum = thread.config().limits.max_clients as usize;
    let before = thread.shared.clients.fetch_add(1, Relaxed);
    thread.shared.load[thread.index].fetch_add(1, Relaxed);
    thread.counters.clients.add(1);
    let mut present = Present {
        thread: thread.clone(),
        id: None,
    };
    let Some(key) = Key::new(&thread.secrets, client.protocol) else {
        warn!("No random bytes for the key of a client");
        return;
    };
    let card = thread.register(|id| {
        Rc::new(Card::new(
            id,
            thread.next_serial(),
            thread.shared.proxy_id,
            key,
            &client,
        ))
    });
    present.id = Some(card.id);
    let full = before >= maximum && !admin;
    session::begin(thread.clone(), card, client, full, present);
}

/// A client among those of its thread, until dropped.
struct Present {
    thread: Rc<Thread>,
    id: Option<u32>,
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let card = self.thread.cards.borrow_mut().remove(&id);
            if let Some(card) = card {
                self.thread.unlisten_all(&card);
            }
        }
        self.thread.counters.clients.sub(1);
        self.thread.shared.load[self.thread.index].fetch_sub(1, Relaxed);
        self.thread.shared.clients.fetch_sub(1, Relaxed);
    }
}

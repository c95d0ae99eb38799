//! What comes in: an authenticated client, and the doorman who let it in.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use pgnet::client::Credential;
use pgnet::startup::ProtocolVersion;
use pgnet::stream::Stream;

/// Which door a client came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// Statements go to the master unless a hint or a rule says otherwise.
    ReadWrite,
    /// Statements prefer replicas; without a healthy one they go to the master.
    ReadOnly,
}

/// Where a client connects from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Address and port of the client's end.
    Tcp(SocketAddr),
    /// A Unix socket: same host.
    Unix,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// An authenticated client, ready to be served.
pub struct Client<S = Stream> {
    /// The client's socket.
    pub stream: S,
    /// What the doorman read of it beyond the login.
    pub ahead: BytesMut,
    /// What it is to be sent ahead of everything else: `AuthenticationOk`, and what its authentication ends with.
    pub unsent: BytesMut,
    /// Database as the server knows it (suffixes are off).
    pub database: Arc<str>,
    /// Role as the server knows it (suffixes are off).
    pub user: Arc<str>,
    /// Settings of the startup packet: `options` taken apart, without user, database, replication and `_pq_.*`.
    pub parameters: Arc<Vec<(String, String)>>,
    /// A replication connection: `true` or `database`.
    pub replication: Option<&'static str>,
    /// How to log in to servers as this user; `None`: there is nothing to prove it with.
    pub credential: Option<Arc<Credential>>,
    /// Read-write or read-only, by port or by suffix.
    pub door: Door,
    /// Where the client is.
    pub peer: Peer,
    /// What was agreed on; 3.2 gets a long cancel key.
    pub protocol: ProtocolVersion,
    /// May run the changing commands of `pseudo`.
    pub admin: bool,
    /// Its place among `limits.maxClients` and the like: to be kept as long as the client is served, and dropped then.
    pub seat: Option<Box<dyn std::any::Any + Send>>,
}

impl<S> Client<S> {
    /// The same client with another socket in place of its own, and its own.
    pub(super) fn exchange<T>(self, stream: T) -> (S, Client<T>) {
        let Self {
            stream: own,
            ahead,
            unsent,
            database,
            user,
            parameters,
            replication,
            credential,
            door,
            peer,
            protocol,
            admin,
            seat,
        } = self;
        (
            own,
            Client {
                stream,
                ahead,
                unsent,
                database,
                user,
                parameters,
                replication,
                credential,
                door,
                peer,
                protocol,
                admin,
                seat,
            },
        )
    }
}

/// How a login ended.
pub enum Login {
    /// Serve it.
    Client(Box<Client>),
    /// A CancelRequest; its connection is closed once it has been acted on.
    Cancel {
        /// As in BackendKeyData.
        process_id: i32,
        /// 4 to 256 bytes.
        key: Bytes,
        /// Kept open until the cancel has been carried out: EOF tells the canceller it is done.
        stream: Stream,
    },
    /// A session with the admin database.
    Pseudo(Box<Client>),
    /// Refused or gone; the answer has been sent.
    Closed,
}

/// Lets clients in. Implemented by the edges of the program, called by data threads, so that the plane knows nothing of authentication.
pub trait Doorman: Send + Sync + 'static {
    /// Carries out startup, TLS and authentication on a fresh connection. Must end by itself (`timeouts.login`).
    fn login(&self, stream: Stream, door: Door, peer: Peer) -> LocalBoxFuture<'static, Login>;
    /// Serves a session with the admin database until it ends.
    fn pseudo(&self, client: Box<Client>) -> LocalBoxFuture<'static, ()>;
    /// Takes a CancelRequest whose key names another proxy there.
    fn forward_cancel(&self, process_id: i32, key: Bytes) -> LocalBoxFuture<'static, ()>;
}

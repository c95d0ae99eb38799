//! The client side: connections to servers.
//!
//! [`establish`] opens and authenticates one and hands the bare stream over (what a pool wants); [`Connection`] is the library for
//! everything else; [`cancel()`] cancels what runs on a connection. Owns how a server is reached and how much it is believed before it has proved itself: texts of an unauthenticated server
//! are quoted and capped, lengths and counts are bounded, and everything happens within the connect timeout.

mod cancel;
mod connection;
mod error;
mod establish;
mod login;
mod open;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::{md5, scram};
use crate::startup::ProtocolVersion;
use crate::tls::ClientTls;

pub use cancel::cancel;
pub use connection::{
    Array, AsyncMessage, ByteArray, CancelToken, Column, ColumnIndex, Connection, CopyIn, CopyOut, Error,
    Fatal, Format, FromValue, Lsn, MESSAGES_MAX, Options, QueryResult, RESULT_MAX, Range, Results, Row,
    Transaction, ValueError,
};
pub use error::{AuthError, ConnectError, ProtocolError};
pub use establish::{Established, establish};

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name, an address, or the folder of a Unix socket (it begins with `/`).
    pub host: String,
    /// The port; it is also in the name of a Unix socket.
    pub port: u16,
}

impl Target {
    /// A target.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// The path of the Unix socket, where it is one.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        self.host
            .starts_with('/')
            .then(|| PathBuf::from(format!("{}/.s.PGSQL.{}", self.host, self.port)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What we prove to a server who we are with. `Debug` shows the kind only.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credential {
    /// Nothing: the server trusts us, or our certificate, or the peer of the Unix socket.
    #[default]
    None,
    /// The password.
    Password(String),
    /// The hash of the obsolete md5 method: `md5` and 32 hexadecimal digits.
    Md5Hash(String),
    /// The keys of a SCRAM login; no password is known.
    Scram(scram::Keys),
    /// A bearer token for OAUTHBEARER (PostgreSQL 18); only ever sent over TLS.
    Bearer(String),
}

impl Credential {
    /// A text as it stands in a secret: a password, or an md5 hash (PC-01).
    #[must_use]
    pub fn from_secret(text: &str) -> Self {
        if md5::is_hash(text) {
            Self::Md5Hash(text.to_owned())
        } else {
            Self::Password(text.to_owned())
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password(_) => "Password(..)",
            Self::Md5Hash(_) => "Md5Hash(..)",
            Self::Scram(_) => "Scram(..)",
            Self::Bearer(_) => "Bearer(..)",
        })
    }
}

/// Whether a login is bound to its TLS channel; libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both ends can.
    #[default]
    Prefer,
    /// Always: a server that does not do SCRAM-SHA-256-PLUS is not believed, not even one that asks for no password.
    Require,
}

/// Whether a server that asks for the password in clear text gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClearText {
    /// Never.
    Never,
    /// Over TLS, a Unix socket, or to this very machine.
    #[default]
    Protected,
    /// Always, as libpq does.
    Always,
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to.
    pub target: Target,
    /// As whom.
    pub user: String,
    /// To which database; empty is the one named like the user.
    pub database: String,
    /// The proof.
    pub credential: Credential,
    /// Settings for the startup packet, `options` and `replication` among them. `user` and `database` do not belong here.
    pub parameters: Vec<(String, String)>,
    /// TLS.
    pub tls: ClientTls,
    /// Default [`ChannelBinding::Prefer`].
    pub channel_binding: ChannelBinding,
    /// Default [`ClearText::Protected`].
    pub clear_text: ClearText,
    /// For everything from the name look-up to the first ReadyForQuery. Default 5 s.
    pub connect_timeout: Duration,
    /// Silence of the TCP connection after which the kernel asks whether the other end lives. Default 30 s.
    pub keepalive: Option<Duration>,
    /// The version to ask for; a server may answer with an older one. Default 3.2.
    pub protocol: ProtocolVersion,
}

impl Config {
    /// With the defaults for everything else: no proof, no settings, no TLS.
    #[must_use]
    pub fn new(target: Target, user: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            target,
            user: user.into(),
            database: database.into(),
            credential: Credential::None,
            parameters: Vec::new(),
            tls: ClientTls::disabled(),
            channel_binding: ChannelBinding::default(),
            clear_text: ClearText::default(),
            connect_timeout: Duration::from_secs(5),
            keepalive: Some(Duration::from_secs(30)),
            protocol: ProtocolVersion::V3_2,
        }
    }
}

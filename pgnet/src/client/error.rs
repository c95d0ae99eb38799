//! Why a connection did not come about.

use std::io;
use std::time::Duration;

use crate::auth::scram::ScramError;
use crate::fields::ErrorFields;
use crate::frame::FrameError;
use crate::sqlstate::SqlState;
use crate::tls::TlsError;
use crate::wire::DecodeError;

/// Why a connection to a server did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not done within the connect timeout: nobody answers, or somebody is silent on purpose.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The name has no address.
    #[error("the host name cannot be resolved")]
    Resolve(#[source] io::Error),
    /// Nobody listens there (or there is no such Unix socket).
    #[error("connection refused")]
    Refused(#[source] io::Error),
    /// The socket failed, or the server closed it.
    #[error("connection lost")]
    Io(#[source] io::Error),
    /// The server's own error. The code can be acted on. Until the server has authenticated us it is not known to be the server at
    /// all: the text then is quoted, capped and says so, and nothing but severity and code is taken over (CVE-2024-10977).
    #[error("{0}")]
    Server(Box<ErrorFields>),
    /// We cannot or will not prove who we are the way the server asks.
    #[error("authentication failed: {0}")]
    Auth(#[from] AuthError),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// What the server sends is not the protocol.
    #[error("protocol violation by the server: {0}")]
    Protocol(#[from] ProtocolError),
}

impl ConnectError {
    /// The server's error, where it is one.
    #[must_use]
    pub fn fields(&self) -> Option<&ErrorFields> {
        match self {
            Self::Server(fields) => Some(fields),
            _ => None,
        }
    }

    /// The code of the server's error, or the one that fits best.
    #[must_use]
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Server(fields) => fields.code,
            Self::Timeout(_) | Self::Resolve(_) | Self::Refused(_) | Self::Tls(_) => {
                SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION
            }
            Self::Io(_) => SqlState::CONNECTION_FAILURE,
            Self::Auth(_) => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::Protocol(_) => SqlState::PROTOCOL_VIOLATION,
        }
    }

    pub(crate) fn opening(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::Refused(error),
            _ => Self::Io(error),
        }
    }
}

impl From<FrameError> for ConnectError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.into())
    }
}

impl From<DecodeError> for ConnectError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.into())
    }
}

/// Why we cannot or will not log in as the server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// We have nothing that would answer a request of this kind.
    #[error("the server asks for {0}, for which we have no credential")]
    NoCredential(&'static str),
    /// It asks for the password in clear text over a connection that anybody can read.
    #[error("the server asks for the password in clear text over an unprotected connection")]
    ClearText,
    /// A method we do not have (GSSAPI, SSPI, Kerberos ...).
    #[error("the server asks for authentication method {0}, which is not supported")]
    Method(i32),
    /// None of the SASL mechanisms offered is one of ours.
    #[error("the server offers no SASL mechanism that is supported")]
    Mechanism,
    /// Channel binding is required, and the server does without.
    #[error("channel binding is required, but the server does not do it")]
    ChannelBinding,
    /// The server lets us in before it has proved what it had begun to prove.
    #[error("the server broke the authentication off in the middle")]
    Unfinished,
    /// The exchange failed.
    #[error("{0}")]
    Scram(ScramError),
}

impl From<ScramError> for ConnectError {
    fn from(error: ScramError) -> Self {
        Self::Auth(AuthError::Scram(error))
    }
}

/// What the server did against the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An impossible length.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A body that is not what its type promises.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A message that has no business here.
    #[error("unexpected message of type {0:#04x}")]
    Unexpected(u8),
    /// Neither S nor N in answer to the request for TLS. An error text that may have followed is not read: whoever sent it is unknown.
    #[error("unexpected answer {0:#04x} to the request for TLS")]
    TlsAnswer(u8),
    /// A version newer than we asked for, or older than there is.
    #[error("the server answers with protocol {0}")]
    Version(crate::startup::ProtocolVersion),
    /// More settings than any server has.
    #[error("too many settings reported")]
    Settings,
}

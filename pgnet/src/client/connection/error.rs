//! What goes wrong on an open connection: either the connection is lost, or only what was asked.

use std::io;

use crate::client::{ConnectError, ProtocolError};
use crate::fields::ErrorFields;
use crate::frame::FrameError;
use crate::sqlstate::SqlState;
use crate::wire::DecodeError;

/// An error of the client library (PC-02).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection cannot be used any more; what was under way may or may not have been done.
    #[error("{0}")]
    Fatal(#[from] Fatal),
    /// The server refused what was asked; the connection goes on. All its fields are here (PC-08).
    #[error("{0}")]
    Db(Box<ErrorFields>),
    /// COMMIT was answered with ROLLBACK, as the transaction had failed before: nothing of it was done.
    #[error("the transaction had failed and was rolled back")]
    RolledBack,
    /// The call makes no sense; nothing was sent, the connection goes on.
    #[error("{0}")]
    Input(&'static str),
}

impl Error {
    /// The server's error, fatal or not.
    #[must_use]
    pub fn fields(&self) -> Option<&ErrorFields> {
        match self {
            Self::Db(fields) | Self::Fatal(Fatal::Server(fields)) => Some(fields),
            Self::Fatal(Fatal::Connect(error)) => error.fields(),
            _ => None,
        }
    }

    /// The server's code, or the one that fits best.
    #[must_use]
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Db(fields) => fields.code,
            Self::RolledBack => SqlState::TRANSACTION_ROLLBACK,
            Self::Input(_) => SqlState::SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION,
            Self::Fatal(fatal) => fatal.sqlstate(),
        }
    }

    /// Whether the connection is lost.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal(_))
    }
}

/// Why a connection is lost.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// It never came about.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The server ended it and said why.
    #[error("{0}")]
    Server(Box<ErrorFields>),
    /// The socket failed, or the server closed it without a word.
    #[error("connection to the server lost")]
    Io(#[source] io::Error),
    /// What the server sends is not the protocol.
    #[error("protocol violation by the server: {0}")]
    Protocol(#[from] ProtocolError),
    /// A result larger than the limit set (see [`super::Connection::set_result_max`]).
    #[error("the result is larger than {0} bytes")]
    TooLarge(usize),
    /// A call was dropped before its answer was there, or a COPY was: what comes next would belong to it.
    #[error("an earlier call on this connection was abandoned")]
    Abandoned,
}

impl Fatal {
    /// The server's code, or the one that fits best.
    #[must_use]
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Connect(error) => error.sqlstate(),
            Self::Server(fields) => fields.code,
            Self::Io(_) => SqlState::CONNECTION_FAILURE,
            Self::Protocol(_) => SqlState::PROTOCOL_VIOLATION,
            Self::TooLarge(_) => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Self::Abandoned => SqlState::CONNECTION_DOES_NOT_EXIST,
        }
    }
}

impl From<FrameError> for Fatal {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.into())
    }
}

impl From<DecodeError> for Fatal {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.into())
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Fatal(error.into())
    }
}

//! Why a request was not served, and what its client is told.

use std::rc::Rc;
use std::time::Duration;

use pgnet::client::ConnectError;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// No worker came free in time. No server saw the request.
    #[error("no worker came free within {waited:?}")]
    Waited {
        waited: Duration,
        holders: String,
        cause: Option<Rc<ServeError>>,
    },
    /// No server to send it to for too long.
    #[error("no server to send this to for {waited:?}")]
    NoServer { waited: Duration },
    /// The server is no longer the one to use: look again.
    #[error("the server is no longer in use")]
    Moved,
    /// Cancelled by the client before a server saw it.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// The server answered the login with an error.
    #[error("{}", .0.message)]
    Server(Box<ErrorFields>),
    /// The server could not be reached or spoken to.
    #[error("server cannot be reached: {0}")]
    Unreachable(String),
}

impl ServeError {
    /// What a failed attempt to connect means for those who wait.
    pub(super) fn from_connect(error: ConnectError) -> Self {
        match error {
            ConnectError::Server(fields) => Self::Server(fields),
            other => Self::Unreachable(other.to_string()),
        }
    }

    /// Whether waiting may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Server(fields) => matches!(
                fields.code,
                SqlState::TOO_MANY_CONNECTIONS
                    | SqlState::CANNOT_CONNECT_NOW
                    | SqlState::ADMIN_SHUTDOWN
                    | SqlState::CRASH_SHUTDOWN
            ),
            Self::Unreachable(_) | Self::Moved | Self::Waited { .. } | Self::NoServer { .. } => true,
            Self::Cancelled => false,
        }
    }

    /// What the client is told. `fatal` where it happens at login.
    pub(super) fn fields(&self, severity: Severity) -> ErrorFields {
        match self {
            Self::Waited {
                waited,
                holders,
                cause,
            } => {
                let fields = ErrorFields::new(
                    severity,
                    SqlState::TOO_MANY_CONNECTIONS,
                    format!("no worker came free within {} ms", waited.as_millis()),
                )
                .with_hint("Raise workers.max, shorten transactions, or raise timeouts.queryWait.");
                fields.with_detail(match cause {
                    Some(cause) => format!("{holders}. Last attempt to connect: {cause}"),
                    None => holders.clone(),
                })
            }
            Self::NoServer { waited } => ErrorFields::new(
                severity,
                SqlState::CANNOT_CONNECT_NOW,
                format!("no master for {} ms", waited.as_millis()),
            )
            .with_hint("A failover may be under way; the request was not sent anywhere and may be repeated."),
            Self::Moved => ErrorFields::new(severity, SqlState::CANNOT_CONNECT_NOW, "the master is moving")
                .with_hint("The request was not sent anywhere and may be repeated."),
            Self::Cancelled => ErrorFields::new(
                severity,
                SqlState::QUERY_CANCELED,
                "canceling statement due to user request",
            ),
            Self::Server(fields) => {
                let mut fields = (**fields).clone();
                fields.severity = severity.as_str().to_owned();
                fields.severity_nonlocalized = severity;
                fields
            }
            Self::Unreachable(cause) => {
                ErrorFields::new(severity, SqlState::CANNOT_CONNECT_NOW, "server cannot be reached")
                    .with_detail(cause.clone())
            }
        }
    }
}

//! How the doors turn a client away: what it is told, and what is counted.

use std::io;

use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;

use crate::metrics::Refusal;

/// Why a client is not let in.
#[derive(Debug)]
pub struct Refused {
    /// What is counted.
    pub reason: Refusal,
    /// What the client is told; `None`: nothing, it is gone or does not speak our language.
    pub answer: Option<Box<ErrorFields>>,
    /// What only the log is told: never shown before authentication.
    pub detail: Option<String>,
}

impl Refused {
    /// With PostgreSQL's words and its SQLSTATE.
    pub fn fatal(reason: Refusal, code: SqlState, message: impl Into<String>) -> Self {
        Self {
            reason,
            answer: Some(Box::new(ErrorFields::new(Severity::Fatal, code, message))),
            detail: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: &str) -> Self {
        self.answer = self.answer.map(|answer| Box::new(answer.with_hint(hint)));
        self
    }

    /// With something for the log.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The protocol is violated: 08P01.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::fatal(Refusal::Protocol, SqlState::PROTOCOL_VIOLATION, message)
    }

    /// The connection is closed without a word, as PostgreSQL does it.
    pub fn quiet(reason: Refusal, detail: impl Into<String>) -> Self {
        Self {
            reason,
            answer: None,
            detail: Some(detail.into()),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::quiet(Refusal::Protocol, error.to_string())
    }
}

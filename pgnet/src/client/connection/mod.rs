//! The client library: a connection for our own programs (rows PC-*).
//!
//! Owns one authenticated connection with at most one call under way, which the borrow checker sees to. A call that is dropped before
//! its answer came leaves the connection broken on purpose: what comes next on it would be the answer to something else.
//! Begin at [`Connection`]; what goes over the wire is in `link` and `collect`.

mod collect;
mod copy;
mod error;
mod link;
mod many;
mod messages;
mod result;
mod transaction;
mod value;

use std::time::Duration;

use bytes::BytesMut;

use self::collect::{Collector, Reaction};
use self::link::{Frame, Link};
use self::messages::Messages;
use super::{Config, ConnectError, Established, Target, establish};
use crate::backend::{self, Message, TransactionStatus};
use crate::frontend;
use crate::startup::ProtocolVersion;
use crate::tls::ClientTls;

pub use copy::{CopyIn, CopyOut};
pub use error::{Error, Fatal};
pub use many::{Format, Options, Results};
pub use messages::{AsyncMessage, MESSAGES_MAX};
pub use result::{Column, ColumnIndex, QueryResult, Row};
pub use transaction::Transaction;
pub use value::{Array, ByteArray, FromValue, Lsn, Range, ValueError};

/// How large a result may be unless told otherwise: 256 MiB.
pub const RESULT_MAX: usize = 256 * 1_024 * 1_024;

/// How long a look takes at least.
const LOOK: Duration = Duration::from_millis(1);

/// How many settings are remembered.
const SETTINGS_MAX: usize = 256;

/// A connection to a server, ready for use.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    messages: Messages,
    parameters: Vec<(String, String)>,
    token: CancelToken,
    protocol: ProtocolVersion,
    status: TransactionStatus,
    /// Answers are owed.
    busy: bool,
    broken: bool,
    /// A transaction guard was dropped: ROLLBACK goes ahead of the next call.
    rollback: bool,
    result_max: usize,
}

impl Connection {
    /// Connects; the text of both directions is UTF-8, whatever the parameters say.
    ///
    /// # Errors
    /// [`Fatal::Connect`].
    pub async fn connect(config: &Config) -> Result<Self, Error> {
        let mut config = config.clone();
        config.parameters.retain(|(name, _)| name != "client_encoding");
        config
            .parameters
            .push(("client_encoding".to_owned(), "UTF8".to_owned()));
        let established = establish(&config).await?;
        Ok(Self::from_established(established, config.target, config.tls))
    }

    /// Goes on with a connection made by [`establish`]; target and TLS are for cancel requests. Its `client_encoding` should be UTF8.
    #[must_use]
    pub fn from_established(established: Established, target: Target, tls: ClientTls) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            messages: Messages::default(),
            parameters: established
                .parameters
                .iter()
                .map(|(n, v)| (text(n), text(v)))
                .collect(),
            token: CancelToken {
                target,
                tls,
                process_id: established.process_id,
                key: established.cancel_key.to_vec(),
            },
            protocol: established.protocol,
            status: TransactionStatus::Idle,
            busy: false,
            broken: false,
            rollback: false,
            result_max: RESULT_MAX,
            link: Link::new(established, RESULT_MAX),
        }
    }

    /// Runs one or several statements by the simple protocol; several are one transaction (PC-03).
    ///
    /// # Errors
    /// [`Error::Db`] for the statement that failed; what the ones before it gave is lost, as what they did is.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<QueryResult>, Error> {
        self.begin(sql).await?;
        frontend::query(&mut self.link.write, sql.as_bytes());
        let mut collector = Collector::simple(self.result_max);
        self.collect(&mut collector).await?;
        collector.finish()
    }

    /// Runs one or several statements and returns what the last one gave.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn query_one(&mut self, sql: &str) -> Result<QueryResult, Error> {
        Ok(self.query(sql).await?.pop().unwrap_or_default())
    }

    /// Runs one statement with parameters, all as text (PC-04).
    ///
    /// # Errors
    /// [`Error::Db`]; [`Error::Input`] for more parameters than there can be.
    pub async fn query_params(&mut self, sql: &str, params: &[Option<&str>]) -> Result<QueryResult, Error> {
        let mut results = self.query_many(sql, [params], Options::default()).await?;
        Ok(results.pop().unwrap_or_default())
    }

    /// The value of a setting the server reports (`server_version`, `TimeZone`, `in_hot_standby` ...).
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The server's version as `server_version_num` has it: 150010 for 15.10, 180000 for 18beta1. `None`: it does not say.
    #[must_use]
    pub fn server_version_num(&self) -> Option<u32> {
        self.parameter("server_version").and_then(version_num)
    }

    /// The version of the protocol that was agreed on.
    #[must_use]
    pub fn protocol(&self) -> ProtocolVersion {
        self.protocol
    }

    /// The server process; 0 where it did not say.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.token.process_id
    }

    /// The state of the transaction after the last call.
    #[must_use]
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether it cannot be used any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken || self.busy
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.link.stream().is_tls()
    }

    /// How large a result may be, in bytes; what is larger breaks the connection. Default [`RESULT_MAX`].
    pub fn set_result_max(&mut self, bytes: usize) {
        self.result_max = bytes;
        self.link.limit = bytes;
    }

    /// What another task needs to cancel what runs here.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.token.clone()
    }

    /// Says goodbye and closes. Dropping closes too, without a word.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.link.write);
        // It is over either way.
        let _ = self.link.shutdown().await;
    }

    /// Takes the oldest message the server sent without being asked, if there is one.
    pub fn message(&mut self) -> Option<AsyncMessage> {
        self.messages.pop()
    }

    /// Takes all of them.
    pub fn messages(&mut self) -> Vec<AsyncMessage> {
        self.messages.take()
    }

    /// How many were dropped, the oldest first, as nobody took them.
    #[must_use]
    pub fn messages_lost(&self) -> u64 {
        self.messages.lost()
    }

    /// Waits for a message between calls and takes it. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Fatal`] when the server closes.
    pub async fn next_message(&mut self) -> Result<AsyncMessage, Error> {
        loop {
            if let Some(message) = self.messages.pop() {
                return Ok(message);
            }
            self.receive().await?;
        }
    }

    /// Waits until messages are there, no longer than `timeout` (`None`: for ever; zero: looks once), and says how many (PC-12).
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Fatal`] when the server closes.
    pub async fn wait_messages(&mut self, timeout: Option<Duration>) -> Result<usize, Error> {
        while self.messages.len() == 0 {
            match timeout {
                None => self.receive().await?,
                // The reactor needs a turn to see what is there: none at all would overlook it.
                Some(limit) => match tokio::time::timeout(limit.max(LOOK), self.receive()).await {
                    Ok(result) => result?,
                    Err(_) => break,
                },
            }
        }
        Ok(self.messages.len())
    }

    /// Reads one unasked message into the queue.
    async fn receive(&mut self) -> Result<(), Error> {
        self.check()?;
        let frame = match self.link.next(&mut |_| ()).await {
            Ok(frame) => frame,
            Err(fatal) => return Err(self.fail(fatal)),
        };
        match self.absorb(frame) {
            Ok(None) => Ok(()),
            Ok(Some(frame)) => Err(self.fail(super::ProtocolError::Unexpected(frame.tag).into())),
            Err(fatal) => Err(self.fail(fatal)),
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_broken() {
            Err(Fatal::Abandoned.into())
        } else {
            Ok(())
        }
    }

    /// Before every call: the connection is whole, the text can be sent, and a transaction nobody ended is rolled back.
    async fn begin(&mut self, sql: &str) -> Result<(), Error> {
        self.check()?;
        if sql.contains('\0') {
            return Err(Error::Input("a zero byte in the text of a statement"));
        }
        if std::mem::take(&mut self.rollback) && self.status != TransactionStatus::Idle {
            self.busy = true;
            frontend::query(&mut self.link.write, b"ROLLBACK");
            let mut collector = Collector::simple(self.result_max);
            self.collect(&mut collector).await?;
            collector.finish()?;
        }
        self.busy = true;
        Ok(())
    }

    /// Reads into `collector` until ReadyForQuery. A COPY FROM STDIN is answered with CopyFail.
    async fn collect(&mut self, collector: &mut Collector) -> Result<(), Error> {
        loop {
            match self.step(collector, &mut |_| ()).await? {
                Reaction::More | Reaction::CopyOut | Reaction::CopyData(_) => {}
                Reaction::CopyIn => frontend::copy_fail(&mut self.link.write, b"no data to copy here"),
                Reaction::Ready => return Ok(()),
            }
        }
    }

    /// One message into `collector`, sending what `fill` gives meanwhile.
    async fn step(&mut self, collector: &mut Collector, fill: link::Fill<'_>) -> Result<Reaction, Error> {
        let frame = self.next(fill).await?;
        collector.on(&frame).map_err(|fatal| self.fail(fatal))
    }

    /// The next message that is not an unasked one.
    async fn next(&mut self, fill: link::Fill<'_>) -> Result<Frame, Error> {
        loop {
            let result = match self.link.next(fill).await {
                Ok(frame) => self.absorb(frame),
                Err(fatal) => Err(fatal),
            };
            match result {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(fatal) => return Err(self.fail(fatal)),
            }
        }
    }

    fn fail(&mut self, fatal: Fatal) -> Error {
        self.broken = true;
        Error::Fatal(fatal)
    }

    /// Puts unasked messages aside, notes the state of the transaction, and ends the connection on a fatal error.
    fn absorb(&mut self, frame: Frame) -> Result<Option<Frame>, Fatal> {
        use backend::tag;
        let asynchronous = matches!(
            frame.tag,
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE | tag::PARAMETER_STATUS
        );
        if !asynchronous && !matches!(frame.tag, tag::ERROR_RESPONSE | tag::READY_FOR_QUERY) {
            return Ok(Some(frame));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match backend::decode(frame.tag, &frame.body)? {
            Message::NoticeResponse(fields) => self
                .messages
                .push(AsyncMessage::Notice(Box::new(fields.to_owned()))),
            Message::NotificationResponse {
                process_id,
                channel,
                payload,
            } => self.messages.push(AsyncMessage::Notification {
                process_id,
                channel: text(channel),
                payload: text(payload),
            }),
            Message::ParameterStatus { name, value } => self.changed(text(name), text(value)),
            Message::ErrorResponse(fields) if fields.severity().is_fatal() => {
                return Err(Fatal::Server(Box::new(fields.to_owned())));
            }
            Message::ReadyForQuery(status) => {
                self.status = status;
                self.busy = false;
                return Ok(Some(frame));
            }
            _ => return Ok(Some(frame)),
        }
        Ok(None)
    }

    fn changed(&mut self, name: String, value: String) {
        if let Some((_, old)) = self.parameters.iter_mut().find(|(n, _)| *n == name) {
            old.clone_from(&value);
        } else if self.parameters.len() < SETTINGS_MAX {
            self.parameters.push((name.clone(), value.clone()));
        }
        self.messages.push(AsyncMessage::Parameter { name, value });
    }

    fn write(&mut self) -> &mut BytesMut {
        &mut self.link.write
    }
}

/// Cancels what a connection runs, from anywhere. `Debug` does not show the key.
#[derive(Clone)]
pub struct CancelToken {
    target: Target,
    tls: ClientTls,
    process_id: i32,
    key: Vec<u8>,
}

impl CancelToken {
    /// See [`super::cancel()`]: when it returns, the signal has been sent.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn cancel(&self, timeout: Duration) -> Result<(), ConnectError> {
        super::cancel(&self.target, &self.tls, self.process_id, &self.key, timeout).await
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelToken({} process {})", self.target, self.process_id)
    }
}

/// `15.10 (Debian 15.10-0)`, `16beta1`, `9.6.24` as a number.
fn version_num(text: &str) -> Option<u32> {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?
        .split('.');
    let mut part = || {
        parts
            .next()
            .filter(|p| !p.is_empty())
            .map_or(Some(0), |p| p.parse::<u32>().ok())
    };
    let (major, minor, patch) = (part()?, part()?, part()?);
    let number = if major >= 10 {
        major.checked_mul(10_000)?.checked_add(minor)?
    } else {
        major * 10_000 + minor * 100 + patch
    };
    (major > 0).then_some(number)
}

#[cfg(test)]
mod tests;

//! The conversation with a client that has not logged in yet.
//!
//! Takes what is there in one read. Bytes that came before TLS cannot be taken for such that came through it
//! (CVE-2021-3935, CVE-2021-23214): [`Talk::is_ahead`] tells of them, and [`Talk::take`] keeps none. What follows the login
//! goes to the session ([`Talk::leave`]). Memory for a message is taken only as its bytes arrive.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pgnet::fields::ErrorFields;
use pgnet::frame;
use pgnet::frontend::tag;
use pgnet::startup::ProtocolVersion;
use pgnet::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::Refused;
use crate::limits::LOGIN_MESSAGE_MAX;
use crate::metrics::Refusal;

/// How long a refusal may take to leave: a client that does not read it need not be told.
const GOODBYE: Duration = Duration::from_secs(1);
/// Memory taken at first: enough for the messages of a usual login.
const FIRST: usize = 512;
/// Memory taken for a longer message at a time.
const PIECE: usize = 4096;

/// The client's end, until it has logged in.
pub struct Talk {
    /// `None` only while TLS is being negotiated.
    stream: Option<Stream>,
    /// What was read: first the message that was returned last, then what is behind it.
    read: BytesMut,
    /// Length of that message.
    taken: usize,
    /// Version 2 wants its errors in another form.
    old: bool,
}

impl Talk {
    /// With a fresh connection.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream: Some(stream),
            read: BytesMut::new(),
            taken: 0,
            old: false,
        }
    }

    /// Errors are sent as the client of this version reads them.
    pub fn speak(&mut self, version: ProtocolVersion) {
        self.old = version.major < 3;
    }

    /// The socket.
    pub fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Takes the socket away for TLS: what was read does not belong to what comes through it.
    pub fn take(&mut self) -> io::Result<Stream> {
        self.read = BytesMut::new();
        self.taken = 0;
        self.stream
            .take()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Ends the conversation: the socket, and what the client said beyond it.
    pub fn leave(&mut self) -> io::Result<(Stream, BytesMut)> {
        self.read.advance(self.taken);
        let ahead = if self.read.is_empty() {
            BytesMut::new()
        } else {
            std::mem::take(&mut self.read)
        };
        Ok((self.take()?, ahead))
    }

    /// Puts it back.
    pub fn put(&mut self, stream: Stream) {
        self.stream = Some(stream);
    }

    /// Whether something is here that the client could not know to be welcome yet.
    pub fn is_ahead(&mut self) -> io::Result<bool> {
        if self.read.len() > self.taken {
            return Ok(true);
        }
        let mut first = [0];
        match self.stream()? {
            Stream::Tcp(socket) => Ok(matches!(socket.try_read(&mut first), Ok(1))),
            _ => Ok(false),
        }
    }

    /// One packet without a type, whole. Scanners and load balancers come and go: an end before it is no fault.
    pub async fn packet(&mut self) -> Result<&[u8], Refused> {
        self.forget();
        self.fill(4).await?;
        let length = match frame::peek_startup(&self.read) {
            Ok(Some(length)) => length as usize,
            Ok(None) => return Err(Refused::protocol("invalid length of startup packet")),
            Err(error) => {
                return Err(Refused::quiet(
                    Refusal::Protocol,
                    format!("startup packet: {error}"),
                ));
            }
        };
        self.fill(length).await?;
        self.taken = length;
        Ok(&self.read[..length])
    }

    /// One answer of the client to what it was asked: the body of a message of type `p`.
    ///
    /// # Errors
    /// Any other type is answered as PostgreSQL does, with `expected` ("password", "SASL") in its words.
    pub async fn answer(&mut self, expected: &str) -> Result<&[u8], Refused> {
        self.forget();
        self.fill(frame::HEADER).await?;
        if self.read[0] != tag::AUTHENTICATION {
            let text = format!("expected {expected} response, got message type {}", self.read[0]);
            return Err(Refused::protocol(text));
        }
        let length = match frame::peek(&self.read, LOGIN_MESSAGE_MAX) {
            Ok(Some(header)) => header.total(),
            Ok(None) | Err(_) => return Err(Refused::protocol(format!("invalid {expected} packet size"))),
        };
        self.fill(length).await?;
        self.taken = length;
        Ok(&self.read[frame::HEADER..length])
    }

    /// The message that was returned last is done with.
    fn forget(&mut self) {
        self.read.advance(self.taken);
        self.taken = 0;
    }

    /// Reads until so many bytes are here, and whatever comes with them.
    async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.read.len() < length {
            let missing = length - self.read.len();
            self.read.reserve(if missing < FIRST { FIRST } else { PIECE });
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            if stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Sends all of it.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream()?;
        stream.write_all(bytes).await?;
        stream.flush().await
    }

    /// Tells the client why and closes.
    pub async fn refuse(mut self, answer: &ErrorFields) {
        let mut message = BytesMut::new();
        if self.old {
            message.extend_from_slice(b"E");
            let text = format!("{}:  {}\n\0", answer.severity, answer.message.replace('\0', ""));
            message.extend_from_slice(text.as_bytes());
        } else {
            answer.encode_error(&mut message);
        }
        let goodbye = async {
            self.send(&message).await?;
            self.stream()?.shutdown().await
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await; // it may be gone already
    }
}

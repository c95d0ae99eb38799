//! The conversation with a client that has not logged in yet.
//!
//! Reads exactly the bytes of one message and nothing beyond: no byte that came before TLS can be taken for one that
//! came through it (CVE-2021-3935, CVE-2021-23214), and what follows the login is still in the socket for the session.
//! Memory for a message is taken only as its bytes arrive.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
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
/// Memory taken for a message at a time.
const PIECE: usize = 4096;

/// The client's end, until it has logged in.
pub struct Talk {
    /// `None` only while TLS is being negotiated.
    stream: Option<Stream>,
    /// Version 2 wants its errors in another form.
    old: bool,
}

impl Talk {
    /// With a fresh connection.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream: Some(stream),
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

    /// Takes the socket away, for TLS or for the session.
    pub fn take(&mut self) -> io::Result<Stream> {
        self.stream
            .take()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Puts it back.
    pub fn put(&mut self, stream: Stream) {
        self.stream = Some(stream);
    }

    /// Whether something is here that the client could not know to be welcome yet.
    pub fn is_ahead(&mut self) -> io::Result<bool> {
        let mut first = [0];
        match self.stream()? {
            Stream::Tcp(socket) => Ok(matches!(socket.try_read(&mut first), Ok(1))),
            _ => Ok(false),
        }
    }

    /// One packet without a type, whole. Scanners and load balancers come and go: an end before it is no fault.
    pub async fn packet(&mut self) -> Result<BytesMut, Refused> {
        let mut head = [0; 4];
        let stream = self.stream()?;
        stream.read_exact(&mut head).await?;
        let length = match frame::peek_startup(&head) {
            Ok(Some(length)) => length as usize,
            Ok(None) => return Err(Refused::protocol("invalid length of startup packet")),
            Err(error) => {
                return Err(Refused::quiet(
                    Refusal::Protocol,
                    format!("startup packet: {error}"),
                ));
            }
        };
        let mut packet = BytesMut::from(&head[..]);
        self.fill(&mut packet, length).await?;
        Ok(packet)
    }

    /// One answer of the client to what it was asked: the body of a message of type `p`.
    ///
    /// # Errors
    /// Any other type is answered as PostgreSQL does, with `expected` ("password", "SASL") in its words.
    pub async fn answer(&mut self, expected: &str) -> Result<BytesMut, Refused> {
        let mut head = [0; frame::HEADER];
        self.stream()?.read_exact(&mut head).await?;
        if head[0] != tag::AUTHENTICATION {
            let text = format!("expected {expected} response, got message type {}", head[0]);
            return Err(Refused::protocol(text));
        }
        let body = match frame::peek(&head, LOGIN_MESSAGE_MAX) {
            Ok(Some(header)) => header.body(),
            Ok(None) | Err(_) => return Err(Refused::protocol(format!("invalid {expected} packet size"))),
        };
        let mut message = BytesMut::new();
        self.fill(&mut message, body).await?;
        Ok(message)
    }

    async fn fill(&mut self, message: &mut BytesMut, length: usize) -> io::Result<()> {
        let stream = self.stream()?;
        while message.len() < length {
            let have = message.len();
            let piece = PIECE.min(length - have);
            message.resize(have + piece, 0);
            stream.read_exact(&mut message[have..]).await?;
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

//! The shell around a login: sockets, time, and a thread for the long hash.

use std::io::ErrorKind;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::login::{Channel, Login, Step};
use super::open::{Encryption, attempts, open};
use super::{Config, ConnectError};
use crate::auth::scram::{Derivation, Proof};
use crate::frame;
use crate::startup::ProtocolVersion;
use crate::stream::Stream;

/// A connection the server is ready to serve, and what it said about itself.
pub struct Established {
    /// The connection.
    pub stream: Stream,
    /// What was read beyond the first ReadyForQuery; mostly nothing.
    pub buffered: BytesMut,
    /// The settings reported, each once, in the order of the server.
    pub parameters: Vec<(Bytes, Bytes)>,
    /// For a cancel request; 0 where the server did not say.
    pub process_id: i32,
    /// For a cancel request; empty where the server did not say.
    pub cancel_key: Bytes,
    /// The version that was agreed on.
    pub protocol: ProtocolVersion,
}

impl std::fmt::Debug for Established {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            parameters,
            process_id,
            protocol,
            ..
        } = self;
        write!(
            f,
            "Established(process {process_id}, protocol {protocol}, {} settings)",
            parameters.len()
        )
    }
}

/// Connects, authenticates and waits for the first ReadyForQuery, all within the connect timeout. Dropping the future drops the
/// connection.
///
/// # Errors
/// [`ConnectError`]; with the modes `allow` and `prefer` that of the last attempt.
pub async fn establish(config: &Config) -> Result<Established, ConnectError> {
    let deadline = Instant::now() + config.connect_timeout;
    match timeout_at(deadline, attempt_all(config, deadline)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout(config.connect_timeout)),
    }
}

async fn attempt_all(config: &Config, deadline: Instant) -> Result<Established, ConnectError> {
    let attempts = attempts(&config.target, config.tls.mode());
    let (last, first) = attempts.split_last().unwrap_or((&Encryption::Plain, &[]));
    for encryption in first {
        match attempt(config, *encryption, deadline).await {
            Err(Failure { error, refused: true }) => tracing::debug!(%error, "Refused, trying the other way"),
            result => return result.map_err(|failure| failure.error),
        }
    }
    attempt(config, *last, deadline)
        .await
        .map_err(|failure| failure.error)
}

/// An attempt that failed, and whether the other kind of connection may fare better.
struct Failure {
    error: ConnectError,
    refused: bool,
}

async fn attempt(config: &Config, encryption: Encryption, deadline: Instant) -> Result<Established, Failure> {
    let opened = open(
        &config.target,
        &config.tls,
        encryption,
        config.keepalive,
        deadline,
    )
    .await;
    let stream = opened.map_err(|error| {
        let refused = encryption == Encryption::Offered && matches!(error, ConnectError::Tls(_));
        Failure { error, refused }
    })?;
    let tried_tls = stream.is_tls();
    let mut login = Login::new(config, channel(&stream));
    match run(stream, &mut login).await {
        Ok((stream, buffered)) => {
            let Login {
                parameters,
                process_id,
                cancel_key,
                protocol,
                ..
            } = login;
            Ok(Established {
                stream,
                buffered,
                parameters,
                process_id,
                cancel_key,
                protocol,
            })
        }
        Err(error) => {
            // `prefer` falls back only from TLS; without it the server has already said no to the same thing.
            let other = encryption == Encryption::Plain || tried_tls;
            let refused = other && !login.is_in() && matches!(error, ConnectError::Server(_));
            Err(Failure { error, refused })
        }
    }
}

fn channel(stream: &Stream) -> Channel {
    let local = match stream {
        Stream::Tcp(socket) => socket
            .peer_addr()
            .is_ok_and(|peer| peer.ip().to_canonical().is_loopback()),
        Stream::Unix(_) | Stream::Tls(_) => true,
    };
    Channel {
        tls: stream.is_tls(),
        protected: local,
        end_point: stream.peer_end_point(),
    }
}

async fn run(mut stream: Stream, login: &mut Login<'_>) -> Result<(Stream, BytesMut), ConnectError> {
    let mut buffered = BytesMut::new();
    send(&mut stream, login.startup()).await?;
    loop {
        let (tag, total) = read_frame(&mut stream, &mut buffered, login).await?;
        let step = login.on(tag, &buffered[frame::HEADER..total])?;
        buffered.advance(total);
        match step {
            Step::Read => {}
            Step::Send(bytes) => send(&mut stream, bytes).await?,
            Step::Derive(work) => {
                let bytes = login.derived(derive(*work).await?);
                send(&mut stream, bytes).await?;
            }
            Step::Ready => return Ok((stream, buffered)),
        }
    }
}

async fn send(stream: &mut Stream, bytes: BytesMut) -> Result<(), ConnectError> {
    stream.write_all(&bytes).await.map_err(ConnectError::Io)?;
    stream.flush().await.map_err(ConnectError::Io)
}

/// Reads until a whole frame is buffered. Memory is bounded by the limit of the frame, not by its length word.
async fn read_frame(
    stream: &mut Stream,
    buffered: &mut BytesMut,
    login: &Login<'_>,
) -> Result<(u8, usize), ConnectError> {
    loop {
        let limit = buffered.first().map_or(u32::MAX, |tag| login.frame_max(*tag));
        if let Some(header) = frame::peek(buffered, limit)?
            && buffered.len() >= header.total()
        {
            return Ok((header.tag, header.total()));
        }
        buffered.reserve(1_024);
        if stream.read_buf(buffered).await.map_err(ConnectError::Io)? == 0 {
            return Err(ConnectError::Io(ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The hash takes a millisecond with PostgreSQL's 4,096 rounds and half a second with the most we accept: others share this
/// thread, so it is done on another one.
async fn derive(work: Derivation) -> Result<Proof, ConnectError> {
    if work.rounds() == 0 {
        return Ok(work.run());
    }
    tokio::task::spawn_blocking(|| work.run())
        .await
        .map_err(|error| ConnectError::Io(std::io::Error::other(error)))
}

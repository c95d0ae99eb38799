//! From a target to an open stream: names, sockets, TLS.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::{ConnectError, ProtocolError, Target};
use crate::startup;
use crate::stream::Stream;
use crate::tls::{ClientTls, SslMode, TlsError};

/// How the next attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// None.
    Plain,
    /// TLS if the server has it.
    Offered,
    /// TLS or nothing.
    Mandatory,
}

/// The attempts to make, in order; the second only where the first was refused in a way the other might not be.
pub(super) fn attempts(target: &Target, mode: SslMode) -> &'static [Encryption] {
    use Encryption::{Mandatory, Offered, Plain};
    match mode {
        _ if target.socket_path().is_some() => &[Plain],
        SslMode::Disable => &[Plain],
        SslMode::Allow => &[Plain, Mandatory],
        SslMode::Prefer => &[Offered, Plain],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Mandatory],
    }
}

/// Opens a stream. `deadline` only divides the time between several addresses of one name; the caller enforces it.
pub(super) async fn open(
    target: &Target,
    tls: &ClientTls,
    encryption: Encryption,
    keepalive: Option<Duration>,
    deadline: Instant,
) -> Result<Stream, ConnectError> {
    if let Some(path) = target.socket_path() {
        return UnixStream::connect(path)
            .await
            .map(Stream::Unix)
            .map_err(ConnectError::opening);
    }
    let mut socket = connect(target, deadline).await?;
    tune(&socket, keepalive).map_err(ConnectError::Io)?;
    if encryption == Encryption::Plain {
        return Ok(Stream::Tcp(socket));
    }
    if !tls.is_direct() && !ask_for_tls(&mut socket).await? {
        return match encryption {
            Encryption::Mandatory => Err(TlsError::NotOffered(tls.mode()).into()),
            Encryption::Plain | Encryption::Offered => Ok(Stream::Tcp(socket)),
        };
    }
    Ok(tls.handshake(&target.host, socket).await?)
}

async fn connect(target: &Target, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(ConnectError::Resolve)?
        .collect();
    let mut last = ConnectError::Resolve(io::Error::new(ErrorKind::NotFound, "no address"));
    for (i, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - i).unwrap_or(1);
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => ConnectError::opening(error),
            Err(_) => ConnectError::Timeout(share),
        };
    }
    Err(last)
}

fn tune(socket: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    if let Some(idle) = keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(idle / 3)
            .with_retries(3);
        SockRef::from(socket).set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

/// Asks; `false`: the server has no TLS. Whatever comes with the answer came before the handshake and cannot be from the server we
/// are about to verify: an error (CVE-2021-23222, CVE-2021-43767).
async fn ask_for_tls(socket: &mut TcpStream) -> Result<bool, ConnectError> {
    let mut request = BytesMut::new();
    startup::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(ConnectError::Io)?;
    let mut answer = [0; 2];
    match (
        socket.read(&mut answer).await.map_err(ConnectError::Io)?,
        answer[0],
    ) {
        (0, _) => Err(ConnectError::Io(ErrorKind::UnexpectedEof.into())),
        (1, b'S') => Ok(true),
        (1, b'N') => Ok(false),
        (_, b'S' | b'N') => Err(TlsError::Early.into()),
        (_, other) => Err(ProtocolError::TlsAnswer(other).into()),
    }
}

//! A connection in either role: TCP, a Unix socket, or TLS over TCP.
//!
//! Owns nothing but the choice between them; framing is the business of whoever reads. [`Stream::readable`] with
//! [`Stream::try_read_buf`] lets an idle connection live without a buffer.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::tls;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP, of either role.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether it is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether it is a Unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// The socket, where what is written to it is what the peer reads: not over TLS.
    #[must_use]
    pub fn plain(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(socket) => Some(socket.as_fd()),
            Self::Unix(socket) => Some(socket.as_fd()),
            Self::Tls(_) => None,
        }
    }

    /// The certificate the peer showed, as DER; it was verified as the configuration of this side demands.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(tls) => tls.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// The common name in the peer's certificate, which the method `cert` compares with the user.
    #[must_use]
    pub fn peer_common_name(&self) -> Option<String> {
        self.peer_certificate().and_then(tls::common_name)
    }

    /// The `tls-server-end-point` hash of the peer's certificate: what a client binds its login to.
    #[must_use]
    pub fn peer_end_point(&self) -> Option<Vec<u8>> {
        self.peer_certificate().and_then(tls::end_point_hash)
    }

    /// Version and cipher of the TLS connection, for those who look at it.
    #[must_use]
    pub fn tls_info(&self) -> Option<String> {
        let Self::Tls(tls) = self else { return None };
        let (_, connection) = tls.get_ref();
        Some(format!(
            "{:?} {:?}",
            connection.protocol_version()?,
            connection.negotiated_cipher_suite()?.suite()
        ))
    }

    /// Waits until reading is worth a try; takes nothing. Cancel safe.
    ///
    /// Over TLS this looks at the socket below: read until [`ErrorKind::WouldBlock`] before waiting, or bytes that are decrypted
    /// already are overlooked.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.readable().await,
            Self::Unix(socket) => socket.readable().await,
            Self::Tls(tls) => tls.get_ref().0.readable().await,
        }
    }

    /// Whether reading is worth a try; if not, the task is woken when it is. For those who would need a buffer first. Over TLS it
    /// always is: bytes that are decrypted already are not the socket's to tell.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads what is there into the room that `buf` has (a `BytesMut` grows by 64 bytes: reserve first). 0 is the end.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] where nothing is there.
    pub fn try_read_buf<B: BufMut>(&mut self, buf: &mut B) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read_buf(buf),
            Self::Unix(socket) => socket.try_read_buf(buf),
            Self::Tls(tls) => {
                // No waker: whoever sees WouldBlock waits by `readable`, which has its own.
                let mut context = Context::from_waker(Waker::noop());
                let mut read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(tls.as_mut(), buf));
                match read.as_mut().poll(&mut context) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Err(ErrorKind::WouldBlock.into()),
                }
            }
        }
    }
}

impl Stream {
    /// Writes what is taken at once; no task is woken when there is room for more.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] where nothing is taken.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
            Self::Tls(tls) => {
                let mut context = Context::from_waker(Waker::noop());
                let written = Pin::new(tls.as_mut()).poll_write(&mut context, bytes);
                let flushed = Pin::new(tls.as_mut()).poll_flush(&mut context);
                match (written, flushed) {
                    (Poll::Ready(result), Poll::Ready(Ok(())) | Poll::Pending) => result,
                    (_, Poll::Ready(Err(error))) => Err(error),
                    (Poll::Pending, _) => Err(ErrorKind::WouldBlock.into()),
                }
            }
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Self::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Self::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

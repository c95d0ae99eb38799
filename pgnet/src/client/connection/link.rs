//! The bytes of a connection: what waits to be written, what was read, and the frames in it.

use std::io::ErrorKind;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Fatal;
use crate::client::Established;
use crate::frame;
use crate::stream::Stream;

/// Below this much to write, the source is asked for more.
const WRITE_LOW: usize = 32 * 1_024;

/// A frame of its own.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// Where more to write comes from: appends to the buffer, or leaves it alone when there is no more.
pub(super) type Fill<'a> = &'a mut (dyn FnMut(&mut BytesMut) + Send);

#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    read: BytesMut,
    pub(super) write: BytesMut,
    unflushed: bool,
    /// The write side failed; the reason may still be readable.
    write_error: Option<std::io::Error>,
    /// The largest frame to accept.
    pub(super) limit: usize,
}

enum Progress {
    Read(usize),
    Written(usize),
    Flushed,
}

impl Link {
    pub(super) fn new(established: Established, limit: usize) -> Self {
        Self {
            stream: established.stream,
            read: established.buffered,
            write: BytesMut::new(),
            unflushed: false,
            write_error: None,
            limit,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A frame that is here already.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame>, Fatal> {
        let limit = u32::try_from(self.limit)
            .unwrap_or(u32::MAX)
            .min(frame::FRAME_MAX);
        let header = match frame::peek(&self.read, limit) {
            Err(frame::FrameError::TooLong { len, .. }) if len <= frame::FRAME_MAX => {
                return Err(Fatal::TooLarge(self.limit));
            }
            result => result?,
        };
        let Some(header) = header.filter(|header| self.read.len() >= header.total()) else {
            return Ok(None);
        };
        let mut bytes = self.read.split_to(header.total()).freeze();
        bytes.advance(frame::HEADER);
        Ok(Some(Frame {
            tag: header.tag,
            body: bytes,
        }))
    }

    /// The next frame. Meanwhile what waits is written, and `fill` is asked for more: a server that sends while we send never
    /// blocks us, nor we it. Cancel safe: nothing is lost, but what was written stays written.
    pub(super) async fn next(&mut self, fill: Fill<'_>) -> Result<Frame, Fatal> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            if self.write.len() < WRITE_LOW && self.write_error.is_none() {
                fill(&mut self.write);
            }
            self.progress().await?;
        }
    }

    /// One step: reads what is there, or writes what waits. Cancel safe. After an error of the write side it reads on, as the server
    /// may have said why it closed.
    pub(super) async fn progress(&mut self) -> Result<(), Fatal> {
        if self.read.capacity() - self.read.len() < 1_024 {
            self.read.reserve(8 * 1_024);
        }
        let write = self.write_error.is_none() && (self.unflushed || !self.write.is_empty());
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let pending = &self.write;
        let writing = async {
            if pending.is_empty() {
                writer.flush().await.map(|()| Progress::Flushed)
            } else {
                writer.write(pending).await.map(Progress::Written)
            }
        };
        let progress = tokio::select! {
            n = reader.read_buf(&mut self.read) => n.map(Progress::Read),
            progress = writing, if write => progress,
        };
        match progress {
            Ok(Progress::Read(0)) => Err(Fatal::Io(
                self.write_error
                    .take()
                    .unwrap_or_else(|| ErrorKind::UnexpectedEof.into()),
            )),
            Ok(Progress::Read(_)) => Ok(()),
            Ok(Progress::Written(n)) => {
                self.write.advance(n);
                self.unflushed = true;
                Ok(())
            }
            Ok(Progress::Flushed) => {
                self.unflushed = false;
                Ok(())
            }
            // The server may have said why it closed: read on until its end.
            Err(error) if self.write_error.is_none() && error.kind() == ErrorKind::BrokenPipe => {
                self.write.clear();
                self.write_error = Some(error);
                Ok(())
            }
            Err(error) => Err(Fatal::Io(error)),
        }
    }

    /// Writes what waits and closes our side.
    pub(super) async fn shutdown(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.write).await?;
        self.stream.shutdown().await
    }
}

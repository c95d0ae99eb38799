//! The client's socket: reading into a borrowed buffer, writing what is ours.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pgnet::fields::ErrorFields;
use pgnet::frame;
use pgnet::stream::Stream;
use tokio::io::AsyncWrite;

use super::super::card::Card;
use super::super::slot::Open;
use super::super::thread::{CLIENT_BUFFER, Thread};
use super::super::worker::poll_read_buf;
use super::unit::{HOLD_MAX, UnitError};
use super::{Leave, Session, killed};

/// Bytes of a client not yet dealt with, above which it is not read.
pub(super) const INPUT_MAX: usize = HOLD_MAX + (64 << 10);

/// A larger buffer for answers of ours is given back when they are sent.
const OUT_KEPT: usize = 64;

/// Reads once. A buffer is taken only when there is something to read: an idle client holds none.
pub(super) fn poll_read(
    thread: &Rc<Thread>,
    stream: &mut Stream,
    input: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, Leave>> {
    match stream.poll_readable(cx) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(_)) => return Poll::Ready(Err(Leave::Gone)),
        Poll::Pending => return Poll::Pending,
    }
    if input.capacity() == 0 {
        *input = thread.buffer();
    }
    input.reserve(CLIENT_BUFFER.saturating_sub(input.len()).max(CLIENT_BUFFER / 4));
    let capacity = input.capacity();
    let read = poll_read_buf(stream, cx, input, capacity);
    if input.is_empty() {
        thread.recycle(std::mem::take(input));
    }
    match read {
        Poll::Ready(Ok(n)) => Poll::Ready(Ok(n)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Leave::Gone)),
        Poll::Pending => Poll::Pending,
    }
}

/// Waits for something of ours as long as the client is there: one that leaves, or has to, gives its place up at once.
pub(super) async fn while_here<T>(
    thread: &Rc<Thread>,
    card: &Card,
    stream: &mut Stream,
    input: &mut BytesMut,
    awaited: impl Future<Output = T>,
) -> Result<T, Leave> {
    let mut awaited = std::pin::pin!(awaited);
    poll_fn(|cx| {
        if let Poll::Ready(done) = awaited.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Some(leave) = killed(card, false) {
            return Poll::Ready(Err(leave));
        }
        while input.len() < INPUT_MAX {
            match poll_read(thread, stream, input, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Leave::Gone)),
                Poll::Ready(Ok(n)) => thread.counters.bytes_in.add(n as u64),
                Poll::Ready(Err(leave)) => return Poll::Ready(Err(leave)),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await
}

impl Session {
    /// Sends our own answers.
    pub(super) async fn flush(&mut self) -> Result<(), Leave> {
        if self.out.is_empty() && self.card.slot.is_drained() {
            return Ok(());
        }
        self.thread.counters.bytes_out.add(self.out.len() as u64);
        let limit = self
            .effective
            .timeouts
            .client_write
            .unwrap_or(Duration::from_secs(3600));
        let mut patience: Option<Pin<Box<tokio::time::Sleep>>> = None;
        poll_fn(|cx| {
            let sent = self.poll_flush(cx);
            if sent.is_ready() {
                return sent;
            }
            let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            patience.as_mut().poll(cx).map(|()| Err(Leave::Gone))
        })
        .await?;
        if self.out.capacity() > OUT_KEPT {
            self.out = BytesMut::new();
        }
        Ok(())
    }

    /// What comes for the client leaves by the post while the guard lives, if it can.
    pub(super) fn open_slot(&self) -> Option<Open> {
        self.card
            .slot
            .open(&self.thread.post, &self.stream, self.low_water())
    }

    /// Bytes queued for the client, below which a worker that waits for room reads on.
    fn low_water(&self) -> usize {
        self.effective.limits.client_buffer / 2
    }

    /// Whether its own answers may go by the post.
    pub(super) fn has_post(&self) -> bool {
        self.card.slot.is_drained() && self.stream.plain().is_some() && self.thread.post.is_open()
    }

    /// Gives its own answers to the post, if there are any; they leave while the guard lives.
    pub(super) fn post_answers(&mut self) -> Option<Open> {
        if self.out.is_empty() {
            return None;
        }
        let open = self.open_slot()?;
        self.card.slot.push(Bytes::copy_from_slice(&self.out));
        if self.out.capacity() > OUT_KEPT {
            self.out = BytesMut::new();
        } else {
            self.out.clear();
        }
        Some(open)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Leave>> {
        if self.poll_deliver(cx)?.is_pending() {
            return Poll::Pending;
        }
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Err(Leave::Gone)),
                Poll::Ready(Ok(n)) => self.out.advance(n),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.stream.is_tls() && Pin::new(&mut self.stream).poll_flush(cx)?.is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and drops the next `total` bytes of the client.
    pub(super) async fn discard(&mut self, total: usize) -> Result<(), Leave> {
        let mut left = total;
        loop {
            let n = left.min(self.input.len());
            self.input.advance(n);
            left -= n;
            if left == 0 {
                self.scan.taken();
                return Ok(());
            }
            let read = poll_fn(|cx| poll_read(&self.thread, &mut self.stream, &mut self.input, cx)).await?;
            if read == 0 {
                return Err(Leave::Gone);
            }
        }
    }

    /// Answers with an error and drops everything up to the client's Sync, as a server does after an error.
    pub(super) async fn skip_batch(&mut self, fields: &ErrorFields) -> Result<(), Leave> {
        fields.encode_error(&mut self.out);
        self.flush().await?;
        loop {
            match frame::peek(&self.input, 0x3fff_ffff).map_err(UnitError::from)? {
                Some(header) => {
                    self.discard(header.total()).await?;
                    if matches!(header.tag, b'S' | b'Q') {
                        break;
                    }
                    if header.tag == b'X' {
                        return Err(Leave::Gone);
                    }
                }
                None => {
                    let read =
                        poll_fn(|cx| poll_read(&self.thread, &mut self.stream, &mut self.input, cx)).await?;
                    if read == 0 {
                        return Err(Leave::Gone);
                    }
                }
            }
        }
        self.answer(|out, status| pgnet::backend::ready_for_query(out, status.byte()));
        Ok(())
    }

    /// Sends what the worker delivered. Ready when all of it is out.
    pub(super) fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Leave>> {
        let slot = self.card.slot.clone();
        let low_water = self.low_water();
        loop {
            let stream = Pin::new(&mut self.stream);
            let written = slot.with_pieces(|pieces| match pieces {
                [piece] => stream.poll_write(cx, piece),
                pieces => stream.poll_write_vectored(cx, pieces),
            });
            let Some(written) = written else {
                if self.stream.is_tls() && Pin::new(&mut self.stream).poll_flush(cx)?.is_pending() {
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(()));
            };
            match written {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Err(Leave::Gone)),
                Poll::Ready(Ok(n)) => {
                    self.thread.counters.bytes_out.add(n as u64);
                    slot.sent(n, low_water);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

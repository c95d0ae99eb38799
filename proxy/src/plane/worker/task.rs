//! The task of a worker: writes what sessions appended in one go, reads what the server sent, and tells everybody when it ends.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use pgnet::fields::ErrorFields;
use pgnet::frontend;
use pgnet::sqlstate::SqlState;
use pgnet::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tracing::{debug, warn};

use super::super::script::Misfit;
use super::super::slot::End;
use super::replies::hand_out;
use super::{Pending, READ_MAX, READ_MIN, State, Worker};

/// The reading side of a worker.
pub(super) struct Io {
    pub(super) buffer: BytesMut,
    read_size: usize,
    /// Bytes of a frame's body still to come, and whether they are passed on.
    pub(super) body_left: usize,
    pub(super) body_forward: bool,
}

impl Io {
    pub(super) fn new(buffer: BytesMut) -> Self {
        Self {
            buffer,
            read_size: READ_MIN,
            body_left: 0,
            body_forward: false,
        }
    }
}

/// Why a worker's task ended.
pub(super) enum Gone {
    /// We closed it.
    Closed(&'static str),
    /// The server closed it, with or without a word.
    Server(Option<Rc<ErrorFields>>),
    /// It answered what nobody asked.
    Misfit(Misfit),
}

pub(super) async fn run(worker: Rc<Worker>, mut io: Io) {
    let gone = poll_fn(|cx| poll(&worker, &mut io, cx)).await;
    let said = match gone {
        Gone::Closed(why) => {
            debug!(worker = worker.id, why, "Closed");
            None
        }
        Gone::Server(said) => {
            let text = said.as_ref().map(|f| f.message.clone());
            debug!(worker = worker.id, said = text, "Lost");
            said
        }
        Gone::Misfit(misfit) => {
            warn!(worker = worker.id, server = %worker.server.name, %misfit, "Closed: the server answered what nobody asked");
            if let Some(pool) = worker.pool.upgrade() {
                pool.counters().misfits.add(1);
            }
            None
        }
    };
    lose(&worker, said, io.body_left > 0 && io.body_forward);
    // A polite goodbye; the socket is closed either way.
    if let Some(mut stream) = worker.stream.take() {
        let mut bye = BytesMut::new();
        frontend::terminate(&mut bye);
        let _ = stream.try_write(&bye);
    }
}

/// Tells everybody in the queue, and the pool.
fn lose(worker: &Rc<Worker>, said: Option<Rc<ErrorFields>>, in_frame: bool) {
    worker.state.set(State::Closed);
    let (pending, holder) = {
        let mut inner = worker.inner.borrow_mut();
        inner.lost = Some(said.clone());
        (
            inner.pending.drain(..).collect::<Vec<Pending>>(),
            inner.holder.take(),
        )
    };
    let mut holder_told = false;
    // The server says of some deaths that the waiting request never ran.
    let never_ran = said
        .as_ref()
        .is_some_and(|f| f.code == SqlState::IDLE_SESSION_TIMEOUT);
    for (n, pending) in pending.into_iter().enumerate() {
        holder_told |= holder
            .as_ref()
            .is_some_and(|h| pending.slot.as_ref().is_some_and(|slot| Rc::ptr_eq(h, slot)));
        pending.lost(said.clone(), n == 0 && !never_ran, !(n == 0 && in_frame));
    }
    if let Some(holder) = holder.filter(|_| !holder_told) {
        holder.end(End::Lost {
            said,
            started: false,
            clean_cut: true,
        });
    }
    if let Some(pool) = worker.pool.upgrade() {
        pool.remove(worker);
    }
}

fn poll(worker: &Rc<Worker>, io: &mut Io, cx: &mut Context<'_>) -> Poll<Gone> {
    loop {
        if let Some(why) = worker.inner.borrow().closing {
            return Poll::Ready(Gone::Closed(why));
        }
        let mut progress = false;
        match poll_write(worker, cx) {
            Ok(wrote) => progress |= wrote,
            Err(_) => return Poll::Ready(Gone::Server(None)),
        }
        match poll_read(worker, io, cx) {
            Ok(read) => progress |= read,
            Err(gone) => return Poll::Ready(gone),
        }
        if !progress {
            worker.inner.borrow_mut().waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

/// Writes what sessions appended, or lets the post do it. True if something was written and more may be.
fn poll_write(worker: &Rc<Worker>, cx: &mut Context<'_>) -> std::io::Result<bool> {
    {
        let inner = worker.inner.borrow();
        if inner.out.is_empty() || worker.has_enough(&inner) {
            return Ok(false);
        }
        if worker.post.is_some() && !inner.half_sent {
            drop(inner);
            worker.write_soon();
            return Ok(false);
        }
    }
    let mut inner = worker.inner.borrow_mut();
    let mut stream = worker.stream.borrow_mut();
    let Some(stream) = stream.as_mut() else {
        return Ok(false);
    };
    let mut wrote = false;
    while !inner.out.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, &inner.out) {
            Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                inner.advance(n);
                wrote = true;
            }
            Poll::Ready(Err(e)) => return Err(e),
            Poll::Pending => return Ok(wrote),
        }
    }
    if wrote && inner.out.is_empty() {
        inner.all_written();
        if stream.is_tls() {
            let _ = Pin::new(stream).poll_flush(cx)?;
        }
    }
    Ok(wrote)
}

/// Reads once and hands out what came. True if something was read.
fn poll_read(worker: &Rc<Worker>, io: &mut Io, cx: &mut Context<'_>) -> Result<bool, Gone> {
    if worker.inner.borrow().blocked {
        return Ok(false);
    }
    let n = {
        let mut stream = worker.stream.borrow_mut();
        let Some(stream) = stream.as_mut() else {
            return Ok(false);
        };
        match stream.poll_readable(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Gone::Server(None)),
            Poll::Pending => return Ok(false),
        }
        io.buffer.reserve(io.read_size);
        let capacity = io.buffer.len() + io.read_size;
        match poll_read_buf(stream, cx, &mut io.buffer, capacity) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(_)) => return Err(Gone::Server(None)),
            Poll::Ready(Ok(0)) => return Err(Gone::Server(None)),
            Poll::Ready(Ok(n)) => n,
        }
    };
    if n >= io.read_size {
        io.read_size = (io.read_size * 2).min(READ_MAX);
    } else if n < io.read_size / 4 {
        io.read_size = (io.read_size / 2).max(READ_MIN);
    }
    hand_out(worker, io)?;
    worker.gather_less(&worker.inner.borrow());
    Ok(true)
}

/// One read into the spare capacity of `buffer`, up to `capacity` in all.
pub(in crate::plane) fn poll_read_buf(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    capacity: usize,
) -> Poll<std::io::Result<usize>> {
    let room = capacity.saturating_sub(buffer.len());
    let mut limited = BufMut::limit(&mut *buffer, room);
    std::pin::pin!(stream.read_buf(&mut limited)).poll(cx)
}

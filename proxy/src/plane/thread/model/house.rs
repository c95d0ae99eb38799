//! The server of the model: it answers slowly, in random steps, and keeps book of its own sessions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;
use pgnet::startup::{self, Startup};
use pgnet::{backend, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

#[derive(Clone)]
pub(super) struct Dice(pub(super) Rc<Cell<u64>>);

impl Dice {
    pub(super) fn below(&self, limit: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        (x >> 11) % limit
    }
}

/// The server's own book of one of its sessions.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) status: Cell<u8>,
    pub(super) copying: Cell<bool>,
    /// By a Query, which ends with a ReadyForQuery of its own.
    pub(super) copy_is_simple: Cell<bool>,
    /// A session left something behind.
    pub(super) dirty: Cell<bool>,
    /// Messages of a batch were taken and no Sync yet.
    pub(super) in_batch: Cell<bool>,
    /// Bytes not yet looked at.
    pub(super) unread: Cell<usize>,
    pub(super) busy: Cell<bool>,
    /// CancelRequests that have not reached their end.
    pub(super) cancels: Cell<u32>,
    pub(super) cancelled: Cell<bool>,
    pub(super) wake: Notify,
    pub(super) killed: Cell<bool>,
    pub(super) gone: Cell<bool>,
}

#[derive(Clone)]
pub(super) struct House {
    pub(super) dice: Dice,
    pub(super) sessions: Rc<RefCell<HashMap<i32, Rc<Truth>>>>,
    pub(super) next: Rc<Cell<i32>>,
}

impl House {
    async fn pause(&self, most: u64) {
        tokio::time::sleep(Duration::from_micros(self.dice.below(most))).await;
    }

    pub(super) async fn listen(self, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(self.clone().welcome(stream));
        }
    }

    async fn welcome(self, mut stream: UnixStream) {
        let mut head = [0; 4];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes(head) as usize;
        let mut packet = vec![0; length];
        packet[..4].copy_from_slice(&head);
        if stream.read_exact(&mut packet[4..]).await.is_err() {
            return;
        }
        match startup::decode(&packet) {
            Ok(Startup::Cancel { process_id, .. }) => {
                let truth = self.sessions.borrow().get(&process_id).cloned();
                if let Some(truth) = truth {
                    truth.cancels.set(truth.cancels.get() + 1);
                    self.pause(3000).await;
                    truth.cancelled.set(true);
                    truth.wake.notify_waiters();
                    self.pause(2000).await;
                    truth.cancels.set(truth.cancels.get() - 1);
                }
            }
            Ok(Startup::Startup { .. }) => {
                let process_id = self.next.get();
                self.next.set(process_id + 1);
                let truth = Rc::new(Truth::default());
                truth.status.set(b'I');
                self.sessions.borrow_mut().insert(process_id, truth.clone());
                let mut out = BytesMut::new();
                backend::authentication_ok(&mut out);
                backend::parameter_status(&mut out, b"server_version", b"15.0");
                backend::backend_key_data(&mut out, process_id, b"1234");
                backend::ready_for_query(&mut out, b'I');
                if stream.write_all(&out).await.is_ok() {
                    self.serve(stream, &truth).await;
                }
                truth.gone.set(true);
            }
            _ => {}
        }
    }

    async fn serve(&self, mut stream: UnixStream, truth: &Rc<Truth>) {
        let mut buffer = BytesMut::new();
        let mut skipping = false;
        let mut text = Vec::new();
        loop {
            let Some(header) = frame::peek(&buffer, 1 << 20)
                .unwrap()
                .filter(|h| buffer.len() >= h.total())
            else {
                truth.busy.set(false);
                let read = tokio::select! {
                    read = stream.read_buf(&mut buffer) => read,
                    () = truth.wake.notified() => { if truth.killed.get() { return } else { continue } }
                };
                if !matches!(read, Ok(n) if n > 0) {
                    return;
                }
                truth.unread.set(buffer.len());
                continue;
            };
            truth.busy.set(true);
            let message = buffer.split_to(header.total()).freeze();
            truth.unread.set(buffer.len());
            self.pause(1500).await;
            if truth.killed.get() {
                return;
            }
            let body = &message[5..];
            let mut out = BytesMut::new();
            match header.tag {
                b'X' => return,
                b'd' if truth.copying.get() => {}
                b'c' | b'f' if truth.copying.get() => {
                    truth.copying.set(false);
                    if header.tag == b'c' {
                        backend::command_complete(&mut out, b"COPY 1");
                    } else {
                        fail(&mut out, truth, SqlState::QUERY_CANCELED);
                        skipping = !truth.copy_is_simple.get();
                    }
                    if truth.copy_is_simple.get() {
                        backend::ready_for_query(&mut out, truth.status.get());
                    }
                }
                b'S' | b'H' if truth.copying.get() => {}
                _ if truth.copying.get() => return, // a protocol violation: FATAL
                b'd' | b'c' | b'f' => panic!("a stray message of COPY reached the server"),
                b'S' => {
                    skipping = false;
                    truth.in_batch.set(false);
                    backend::ready_for_query(&mut out, truth.status.get());
                }
                b'Q' if !skipping => {
                    let sql = body.split(|b| *b == 0).next().unwrap_or_default();
                    self.run(&mut out, truth, sql).await;
                    truth.copy_is_simple.set(true);
                    if !truth.copying.get() {
                        truth.in_batch.set(false);
                        backend::ready_for_query(&mut out, truth.status.get());
                    }
                }
                _ if skipping => {}
                b'P' => {
                    truth.in_batch.set(true);
                    text = body.split(|b| *b == 0).nth(1).unwrap_or_default().to_vec();
                    backend::parse_complete(&mut out);
                }
                b'B' => backend::bind_complete(&mut out),
                b'D' => backend::no_data(&mut out),
                b'E' if body.starts_with(b"pgp_none") => {
                    fail(&mut out, truth, SqlState::INVALID_CURSOR_NAME);
                    skipping = true;
                }
                b'E' => {
                    skipping = !self.run(&mut out, truth, &text).await;
                    truth.copy_is_simple.set(false);
                }
                tag => panic!("{}", char::from(tag)),
            }
            if stream.write_all(&out).await.is_err() {
                return;
            }
        }
    }

    /// Runs a statement. False: it failed.
    async fn run(&self, out: &mut BytesMut, truth: &Rc<Truth>, sql: &[u8]) -> bool {
        let sql = String::from_utf8_lossy(sql).into_owned();
        let word = sql.split(':').next().unwrap_or_default();
        if truth.status.get() == b'E' && !matches!(word, "ROLLBACK" | "commit") {
            fail(out, truth, SqlState::IN_FAILED_SQL_TRANSACTION);
            return false;
        }
        // What came before this statement began hits nobody, or this one: the second of a cancel's two signals.
        truth.cancelled.set(false);
        if word == "sleep" {
            let until = tokio::time::Instant::now() + Duration::from_millis(5);
            while !truth.cancelled.get() && !truth.killed.get() && tokio::time::Instant::now() < until {
                let _ = tokio::time::timeout_at(until, truth.wake.notified()).await;
            }
        }
        if truth.cancelled.replace(false) {
            fail(out, truth, SqlState::QUERY_CANCELED);
            return false;
        }
        match word {
            "begin" => truth.status.set(b'T'),
            "commit" | "ROLLBACK" => truth.status.set(b'I'),
            "dirty" => truth.dirty.set(true),
            "copy" => {
                truth.copying.set(true);
                backend::copy_in_response(out, 0, &[0]);
                return true;
            }
            "fail" => {
                fail(out, truth, SqlState::DIVISION_BY_ZERO);
                return false;
            }
            "read" => backend::data_row(out, &[Some(sql.as_bytes())]),
            _ if sql.starts_with("CLOSE ALL") => truth.dirty.set(false),
            _ => {}
        }
        backend::command_complete(out, b"DONE");
        true
    }
}

fn fail(out: &mut BytesMut, truth: &Truth, code: SqlState) {
    if truth.status.get() == b'T' {
        truth.status.set(b'E');
    }
    ErrorFields::new(Severity::Error, code, "no").encode_error(out);
}

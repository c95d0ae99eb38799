//! LISTEN, UNLISTEN and NOTIFY: a client listens at the hub, whatever worker its statements run on.
//!
//! A LISTEN on its own is carried out here. Where it stands in a transaction, in a list or in a function, the server runs it:
//! what holds after commit, rollback and savepoints is asked of the server, and moved to the hub. Both connections listen
//! for a moment then; a mark in the server's one order of notifications says where the hub takes over, so that nothing is
//! heard twice or not at all.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgnet::fields::{ErrorFields, Severity};
use pgnet::{backend, frame, quote};

use super::super::card::Doing;
use super::super::hub::{self, Login};
use super::super::thread::Deaf;
use super::lease::Lease;
use super::policy::{Batch, Transaction};
use super::unit::{self, Unit};
use super::{Leave, Session, local, translate};
use crate::classify::{Class, Discard, Kind, ResetItem, Touches};

/// Set on a worker for a transaction in which a client's channels were brought to it: gone if that was rolled back.
const BROUGHT: &str = "pgstmtpool.listens";
/// Longest the hub has for a round trip, before a client goes on without it.
const FENCE_MAX: Duration = Duration::from_secs(5);
/// Names of this length may have been cut: the server has a notice to give.
const NAME_MAX: usize = 63;
/// Notifications are handed to the client in pieces of so many bytes.
const PIECE: usize = 64 << 10;

impl Session {
    /// Carries out a LISTEN or UNLISTEN that stands alone, outside a transaction. False: it does not.
    pub(super) async fn listen_alone(
        &mut self,
        unit: Unit,
        total: usize,
        class: &Class,
        batch: Option<&Batch>,
    ) -> bool {
        let (channel, tag) = match &class.kind {
            Kind::Listen { channel } => (Some(channel), "LISTEN"),
            Kind::Unlisten { channel } => (channel.as_ref(), "UNLISTEN"),
            _ => return false,
        };
        let alone = self.transaction == Transaction::None
            && batch.is_none_or(|batch| batch.single && !batch.obscure)
            && channel.is_none_or(|name| !name.is_empty() && name.len() < NAME_MAX);
        if !alone || !is_sound(&self.input[..total], batch.is_some()) {
            return false;
        }
        let outcome = match (tag, channel) {
            ("LISTEN", Some(channel)) => self.open_ears(vec![Bytes::copy_from_slice(channel)], None).await,
            (_, Some(channel)) => {
                self.close_ears(&[Bytes::copy_from_slice(channel)]);
                Ok(())
            }
            (_, None) => {
                let all: Vec<Bytes> = self.card.ears.channels().into_iter().collect();
                self.close_ears(&all);
                Ok(())
            }
        };
        let input = self.input.split_to(total);
        self.scan.taken();
        self.names.drop_unnamed();
        self.thread.counters.requests_local.add(1);
        let status = self.transaction.status();
        match (outcome, unit) {
            (Ok(()), Unit::Batch { .. }) => local::batch(&mut self.out, &input, Ok((None, tag)), status),
            (Ok(()), _) => local::complete(&mut self.out, None, tag, status),
            (Err(fields), Unit::Batch { .. }) => local::batch(&mut self.out, &input, Err(&*fields), status),
            (Err(fields), _) => local::error(&mut self.out, &fields, status),
        }
        true
    }

    async fn open_ears(&mut self, channels: Vec<Bytes>, cut: Option<u64>) -> Result<(), Box<ErrorFields>> {
        self.card.set_doing(Doing::Waiting);
        let credential = match &self.credential {
            None => self
                .master
                .as_ref()
                .map_or(pgnet::client::Credential::None, |(_, pool)| {
                    pool.credential.borrow().clone()
                }),
            Some(own) => (**own).clone(),
        };
        let login = Login {
            user: self.user.clone(),
            credential,
            database: self.effective.server_database.clone(),
        };
        let limit = self.effective.timeouts.query_wait;
        let listening = self
            .thread
            .listen(&self.card, &self.database, channels, cut, login, limit);
        listening.await.map_err(|deaf| match deaf {
            Deaf::Server(mut fields) => {
                fields.severity = Severity::Error.as_str().to_owned();
                fields.severity_nonlocalized = Severity::Error;
                fields
            }
            Deaf::Late(error) => Box::new(error.fields(Severity::Error)),
        })
    }

    fn close_ears(&self, channels: &[Bytes]) {
        self.thread.unlisten(&self.card, &self.database, channels);
    }

    /// Whether a request of this class needs the client's channels on its worker: it changes them, or shows them.
    pub(super) fn needs_ears(&self, class: &Class) -> bool {
        self.card.ears.listens()
            && (class.touches.intersects(Touches::LISTEN | Touches::SHOWS_SESSION) || changes(&class.kind))
    }

    /// Whether a request of this class may change on what the client listens.
    pub(super) fn moves_ears(&self, class: &Class) -> bool {
        class.touches.intersects(Touches::LISTEN) || self.card.ears.listens() && changes(&class.kind)
    }

    /// Lets the worker listen on the client's channels, in the transaction that is open, if one is.
    pub(super) async fn bring_ears(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        if lease.worker.status() == b'E' {
            return Ok(());
        }
        let asked = format!("select pg_catalog.current_setting('{BROUGHT}', true)");
        let there = self.internal(lease, &asked).await?;
        if there.is_ok_and(|rows| value(&rows, 0) == b"1") {
            return Ok(());
        }
        let mut sql = format!("select pg_catalog.set_config('{BROUGHT}', '1', false)");
        for channel in self.card.ears.channels() {
            let _ = write!(
                sql,
                "; LISTEN {}",
                quote::identifier(&String::from_utf8_lossy(&channel))
            );
        }
        let _ = self.internal(lease, &sql).await?;
        lease.brought = true;
        lease.dirty = true;
        lease.ask_pins = true;
        Ok(())
    }

    /// What the worker listens on now is what the client listens on: moved to the hub, and off the worker.
    pub(super) async fn settle_ears(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        let brought = std::mem::take(&mut lease.brought);
        lease.moves_ears = false;
        lease.dirty = true;
        let sql = format!(
            "select pg_catalog.current_setting('{BROUGHT}', true) union all \
             select * from (select c from pg_catalog.pg_listening_channels() c where c <> '{}' order by 1) s",
            hub::CUT
        );
        let Ok(rows) = self.internal(lease, &sql).await? else {
            return Ok(());
        };
        if lease.lost {
            return Ok(());
        }
        let committed = brought && value(&rows, 0) == b"1";
        let listed: BTreeSet<Bytes> = rows
            .iter()
            .skip(1)
            .filter_map(|row| row.first().cloned().flatten())
            .collect();
        let old = self.card.ears.channels();
        let added: Vec<Bytes> = listed.difference(&old).cloned().collect();
        if committed {
            let removed: Vec<Bytes> = old.difference(&listed).cloned().collect();
            self.close_ears(&removed);
        }
        if !added.is_empty() {
            self.move_ears(lease, added).await?;
        }
        let sql = format!("UNLISTEN *; select pg_catalog.set_config('{BROUGHT}', '', false)");
        let _ = self.internal(lease, &sql).await?;
        lease.worker.take_heard();
        Ok(())
    }

    /// Moves channels from the worker to the hub.
    async fn move_ears(&mut self, lease: &mut Lease, added: Vec<Bytes>) -> Result<(), Leave> {
        let client = u64::from(self.card.process_id.unsigned_abs());
        let token = client << 32 | self.card.ears.next_token() & 0xffff_ffff;
        if let Err(mut fields) = self.open_ears(added.clone(), Some(token)).await {
            // Its LISTEN is committed: it must not believe that it listens.
            fields.severity = Severity::Fatal.as_str().to_owned();
            fields.severity_nonlocalized = Severity::Fatal;
            return Err(Leave::Fatal(fields));
        }
        let sql = format!("LISTEN {0}; NOTIFY {0}, '{token}'", hub::CUT);
        let _ = self.internal(lease, &sql).await?;
        let card = self.card.clone();
        let passed = std::future::poll_fn(|cx| {
            if !card.ears.awaits_cut() {
                return std::task::Poll::Ready(());
            }
            card.set_waker(cx.waker());
            std::task::Poll::Pending
        });
        let _ = tokio::time::timeout(FENCE_MAX, passed).await;
        let mut before = Vec::new();
        for body in lease.worker.take_heard() {
            let Some((sender, channel, payload)) = hub::notification(&body) else {
                continue;
            };
            if channel == hub::CUT.as_bytes() {
                if payload == token.to_string().as_bytes() {
                    break;
                }
                continue;
            }
            if added.iter().any(|c| c == channel) {
                let own = sender == lease.worker.process_id;
                let mut frame = BytesMut::new();
                let sender = if own { self.card.process_id } else { sender };
                backend::notification(&mut frame, sender, channel, payload);
                before.push(frame.freeze());
            }
        }
        self.card.ears.end_cut(before);
        Ok(())
    }

    /// Remembers who sends what this request may notify, so that the client knows its own.
    pub(super) fn note_sender(&self, lease: &mut Lease, class: &Class) {
        let may = notifies(class) || self.card.ears.listens() && !class.neutral && !class.is_known_read();
        if may && !lease.notified && self.thread.has_hub(&self.database) {
            let hubs = &self.thread.shared.hubs;
            hubs.note_sender(lease.worker.process_id, self.card.process_id);
            lease.notified = true;
        }
    }

    /// Before the worker is another's: everything this client notified has been handed on, under its name.
    pub(super) async fn heard_by_all(&mut self, lease: &mut Lease) {
        if std::mem::take(&mut lease.notified) {
            self.thread.fence_notifications(&self.database, FENCE_MAX).await;
            self.thread.shared.hubs.forget_sender(lease.worker.process_id);
        }
    }

    /// Between two statements: what the client is to hear.
    pub(super) fn take_mail(&mut self) {
        if self.card.ears.has_mail() {
            self.card.ears.take(&mut self.out, PIECE);
        }
    }
}

/// Whether the request is nothing but a LISTEN or UNLISTEN the server would take: one Query, or one unnamed Parse.
fn is_sound(input: &[u8], is_batch: bool) -> bool {
    let text = if is_batch {
        let mut text = None;
        let mut rest = input;
        while let Ok(Some((message, behind))) = frame::split(rest, u32::MAX >> 1) {
            rest = behind;
            if message.tag == b'P' {
                match translate::parse_parts(message.body) {
                    Ok((b"", sql, types)) if text.is_none() && types == [0, 0] => text = Some(sql),
                    _ => return false,
                }
            }
        }
        text
    } else {
        input.get(5..).and_then(|body| unit::query_text(body).ok())
    };
    text.and_then(|text| std::str::from_utf8(text).ok())
        .is_some_and(|text| pg_query::parse(text, 0).is_ok_and(|parsed| parsed.protobuf.stmts.len() == 1))
}

/// Whether a statement may change what its session listens on.
fn changes(kind: &Kind) -> bool {
    match kind {
        Kind::Listen { .. } | Kind::Unlisten { .. } | Kind::Discard(Discard::All) => true,
        Kind::Reset(items) => items
            .iter()
            .any(|item| matches!(item, ResetItem::UnlistenAll | ResetItem::Discard(Discard::All))),
        Kind::List(list) => list.kinds.iter().any(changes),
        _ => false,
    }
}

/// Whether it visibly notifies.
fn notifies(class: &Class) -> bool {
    fn has(kind: &Kind) -> bool {
        match kind {
            Kind::Notify => true,
            Kind::List(list) => list.kinds.iter().any(has),
            _ => false,
        }
    }
    has(&class.kind) || class.touches.intersects(Touches::NOT_REPEATABLE)
}

fn value(rows: &[Vec<Option<Bytes>>], row: usize) -> &[u8] {
    let cell = rows.get(row).and_then(|row| row.first());
    cell.and_then(Option::as_deref).unwrap_or_default()
}

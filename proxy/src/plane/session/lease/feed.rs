//! From the client to the worker: each message as it comes, as far as it may go now.

use bytes::{Buf, Bytes};
use pgnet::frame;
use smallvec::SmallVec;

use super::super::super::script::{Op, Step};
use super::super::names::{Change, Named};
use super::super::policy::{self, Decision, Transaction};
use super::super::shared::interner;
use super::super::state::collect;
use super::super::translate::{self, Ground};
use super::super::unit::{self, HOLD_MAX, UnitError};
use super::super::{Leave, Session, local};
use super::{Did, Lease, UNWRITTEN_MAX, said_by_sql};
use crate::classify::{Class, Kind, SetItem};

impl Session {
    /// Moves what the client sent to the worker, as far as that is possible now.
    pub(super) async fn feed(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        let fed = self.feed_messages(lease).await;
        if !lease.ended_early {
            lease.worker.write_soon();
        }
        fed
    }

    async fn feed_messages(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        lease.needs = 0;
        loop {
            self.absorb(lease);
            lease.throttled = lease.worker.unwritten() > UNWRITTEN_MAX;
            if lease.lost || lease.leave || lease.throttled || lease.ended_early {
                return Ok(());
            }
            if lease.drop > 0 || lease.raw > 0 {
                let n = (lease.drop + lease.raw).min(self.input.len());
                if lease.raw > 0 {
                    lease.worker.append_raw(&self.input[..n]);
                    lease.raw -= n;
                } else {
                    lease.drop -= n;
                }
                self.input.advance(n);
                if lease.drop + lease.raw > 0 {
                    return Ok(());
                }
                if std::mem::take(&mut lease.owes_sync) {
                    self.sync_behind(lease);
                }
                continue;
            }
            if lease.barrier && !lease.worker.copying_in() {
                if lease.outstanding > 0 || lease.owes_ready {
                    return Ok(());
                }
                lease.barrier = false;
            }
            let Some(header) = frame::peek(&self.input, u32::MAX >> 1).map_err(UnitError::from)? else {
                return Ok(());
            };
            let total = header.total();
            if unit::is_small(header.tag) && total > unit::SMALL_MAX {
                return Err(UnitError::Length.into());
            }
            let complete = self.input.len() >= total;
            if !complete && total <= HOLD_MAX {
                return Ok(());
            }
            if self.ending.is_some() && !self.may_overtake(lease, header.tag, total) {
                // Who waits for the end that stands here need not wait for ours.
                lease.worker.write_soon();
                self.await_ending().await?;
                continue;
            }
            if matches!(header.tag, b'Q' | b'P' | b'B' | b'F') && total > self.effective.limits.max_query_size
            {
                self.too_large(lease, header.tag, total);
                continue;
            }
            match header.tag {
                b'X' => return Err(Leave::Gone),
                b'd' | b'c' | b'f' => {
                    if !self.copy_message(lease, header.tag, total, complete) {
                        return Ok(());
                    }
                }
                b'S' => self.sync(lease, total),
                b'H' => {
                    let slot = self.card.slot.clone();
                    lease.worker.stream(&slot, |to| pgnet::frontend::flush(to.out()));
                    self.input.advance(total);
                }
                b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' if lease.worker.direct => {
                    self.forward(lease, header.tag, total, complete);
                }
                b'Q' if complete => {
                    if !self.query(lease, total).await? {
                        return Ok(());
                    }
                }
                b'Q' | b'F' => self.stream_request(lease, header.tag, total),
                b'P' | b'D' | b'E' | b'C' if !complete => {
                    // Its whole text is what names the statement.
                    lease.needs = total;
                    return Ok(());
                }
                b'B' if !complete => {
                    if !self.stream_bind(lease, total)? {
                        return Ok(());
                    }
                }
                b'P' | b'B' | b'D' | b'E' | b'C' => {
                    if !self.sql_names_ready(lease).await? {
                        return Ok(());
                    }
                    if !self.extended(lease, header.tag, total)? {
                        return Ok(());
                    }
                }
                tag => return Err(UnitError::Tag(tag).into()),
            }
        }
    }

    pub(super) fn too_large(&mut self, lease: &mut Lease, tag: u8, total: usize) {
        let fields = local::too_large(total, self.effective.limits.max_query_size);
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| translate::fail(to, fields));
        if matches!(tag, b'Q' | b'F') {
            lease.worker.stream(&slot, |to| {
                pgnet::frontend::sync(to.out());
                to.step(Step::client(Op::Sync));
            });
            lease.worker.finish_batch();
            self.names.request_ends();
            lease.request_starts();
        }
        lease.drop = total;
    }

    /// CopyData, CopyDone, CopyFail. False: whether the server wants it is not known yet.
    pub(super) fn copy_message(&mut self, lease: &mut Lease, tag: u8, total: usize, complete: bool) -> bool {
        if lease.worker.copying_in() {
            if tag == b'd' {
                let n = total.min(self.input.len());
                lease.worker.append_raw(&self.input[..n]);
                self.input.advance(n);
                lease.raw = total - n;
                return true;
            }
            if !complete {
                return false;
            }
            lease.worker.append_raw(&self.input[..total]);
            lease.worker.copy_ended();
            self.input.advance(total);
            return true;
        }
        if lease.outstanding > 0 || lease.worker.batch_is_open() {
            // The CopyInResponse, or the end of the statement, is still to come.
            if lease.expects_copy {
                return false;
            }
        }
        lease.drop = total;
        true
    }

    pub(super) fn sync(&mut self, lease: &mut Lease, total: usize) {
        self.input.advance(total);
        if lease.worker.copying_in() {
            // The server ignores it, too.
            return;
        }
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            pgnet::frontend::sync(to.out());
            to.step(Step::client(Op::Sync));
        });
        lease.worker.finish_batch();
        self.names.request_ends();
        if std::mem::take(&mut lease.resets) {
            lease.owes_ready = true;
            lease.barrier = true;
        }
        lease.request_starts();
        lease.begin_ahead = false;
        lease.expects_copy = false;
    }

    /// The settings a RESET leaves behind depend on this session, not on the worker: its ParameterStatus is ours, and the
    /// ReadyForQuery behind it.
    fn keep_back(lease: &mut Lease) {
        lease.worker.mute(true);
        lease.worker.hold_ready(true);
    }

    /// A complete simple Query. False: it has to wait.
    pub(super) async fn query(&mut self, lease: &mut Lease, total: usize) -> Result<bool, Leave> {
        let text = match unit::query_text(&self.input[5..total]) {
            Ok(text) => text,
            Err(fields) => {
                self.input.advance(total);
                let slot = self.card.slot.clone();
                lease.worker.stream(&slot, |to| {
                    translate::fail(to, *fields);
                    pgnet::frontend::sync(to.out());
                    to.step(Step::client(Op::Sync));
                });
                lease.worker.finish_batch();
                self.names.request_ends();
                lease.request_starts();
                return Ok(true);
            }
        };
        let class = self.classify(text);
        if lease.status == b'I'
            && let Decision::Refuse(..) = policy::query(&class, &Transaction::None, self.mode(), false)
        {
            // The outer loop refuses it, when everything before it is answered.
            lease.leave = true;
            return Ok(false);
        }
        if self.may_end_early(lease, &class) {
            self.end_early(lease, total, false, &class);
            return Ok(false);
        }
        if self.needs_ears(&class) && !lease.begin_ahead {
            if lease.outstanding > 0 || lease.worker.batch_is_open() {
                return Ok(false);
            }
            self.bring_ears(lease).await?;
        }
        // A client hears what it says itself before its statement ends, and listens when it is told so.
        lease.moves_ears |= self.moves_ears(&class);
        let holds_ready = !lease.begin_ahead
            && (lease.moves_ears
                || lease.status == b'I' && matches!(class.kind, Kind::Notify) && self.card.ears.listens());
        if needs_quiet(&class.kind) || holds_ready {
            if lease.outstanding > 0 || lease.worker.batch_is_open() && !lease.begin_ahead {
                return Ok(false);
            }
            lease.barrier = true;
            if !lease.begin_ahead {
                self.materialize(lease, &class.kind).await?;
            }
        }
        self.names.drop_unnamed();
        if let Some(reason) = policy::pin_reason(&class) {
            // Shown at once; what is really there the server is asked when the request has ended.
            let mut pins = self.card.pins.borrow_mut();
            if !pins.contains(&reason) {
                pins.push(reason);
            }
        }
        lease.expect(&class);
        let resets = lease.open.settings.resets();
        if holds_ready {
            lease.worker.hold_ready(true);
            lease.owes_ready = true;
        }
        if resets {
            Self::keep_back(lease);
            lease.owes_ready = true;
        }
        self.note_sender(lease, &class);
        let said = said_by_sql(&class.kind, &self.input[5..total - 1]);
        self.ask_sql(lease, said);
        lease.expects_copy = expects_copy(&class.kind);
        let input = self.input.split_to(total);
        // Should BEGIN fail, the server skips to a Sync: until that is known nothing else may stand before it. The Sync itself
        // is sent when it is needed (`Script::take_owed_sync`): its ReadyForQuery would cost a message per transaction.
        lease.barrier |= std::mem::take(&mut lease.begin_ahead);
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            to.out().extend_from_slice(&input);
            to.step(Step::client(Op::Query));
        });
        lease.worker.finish_batch();
        self.names.request_ends();
        lease.request_starts();
        Ok(true)
    }

    /// Before a batch begins: statements that it names by SQL, and those of SQL PREPARE that it names by the protocol,
    /// are made known to the worker. False: it has to wait.
    pub(super) async fn sql_names_ready(&mut self, lease: &mut Lease) -> Result<bool, Leave> {
        if lease.worker.batch_is_open() {
            return Ok(true);
        }
        if self.card.ears.listens()
            && self.input.first() == Some(&b'P')
            && let Ok(Some((message, _))) = frame::split(&self.input, u32::MAX >> 1)
            && let Ok((_, text, _)) = translate::parse_parts(message.body)
        {
            let class = self.classify(text);
            if self.needs_ears(&class) {
                if lease.outstanding > 0 {
                    return Ok(false);
                }
                self.bring_ears(lease).await?;
            }
        }
        let unverified = self.unverified(&lease.worker);
        let by_sql = self.names.has_sql() || self.names_by_sql();
        if unverified.is_empty() && !by_sql {
            return Ok(true);
        }
        if lease.outstanding > 0 {
            return Ok(false);
        }
        self.verify(lease, unverified).await?;
        if !by_sql {
            return Ok(true);
        }
        let mut names = Vec::new();
        let mut rest = &self.input[..];
        while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
            rest = behind;
            let name = match frame.tag {
                b'P' => {
                    if let Ok((_, text, _)) = translate::parse_parts(frame.body) {
                        collect(&self.classify(text).kind, &mut names);
                    }
                    continue;
                }
                b'B' => translate::bind_parts(frame.body).map(|(_, name, _)| name),
                b'D' => translate::target_parts(frame.body).map(|(_, name)| name),
                b'S' | b'Q' => break,
                _ => continue,
            };
            let Ok(name) = name else { continue };
            if self.names.sql(name).is_some() {
                names.push(Bytes::copy_from_slice(name));
            } else if let Some(statement) = self.names.get(name) {
                collect(&statement.class.borrow().kind, &mut names);
            }
        }
        self.materialize_names(lease, names).await?;
        Ok(true)
    }

    /// Does the batch at the front begin with a statement that names others by SQL?
    fn names_by_sql(&self) -> bool {
        let Ok(Some((frame, _))) = frame::split(&self.input, u32::MAX >> 1) else {
            return false;
        };
        match frame.tag {
            b'P' => translate::parse_parts(frame.body).is_ok_and(|(_, text, _)| {
                let text = text.trim_ascii_start();
                [&b"execute"[..], b"deallocate", b"prepare"].iter().any(|word| {
                    text.get(..word.len())
                        .is_some_and(|t| t.eq_ignore_ascii_case(word))
                })
            }),
            b'B' => translate::bind_parts(frame.body)
                .ok()
                .and_then(|(_, name, _)| self.names.get(name))
                .is_some_and(|statement| {
                    let class = statement.class.borrow();
                    matches!(
                        class.kind,
                        Kind::Execute(_) | Kind::Deallocate { name: Some(_) } | Kind::Prepare(_)
                    )
                }),
            _ => false,
        }
    }

    fn ask_sql(&mut self, lease: &Lease, said: SmallVec<[Named; 1]>) {
        for named in said {
            lease.worker.count_named();
            if matches!(named, Named::Prepare(..)) {
                lease.worker.foreign_prepared.set(true);
            }
            self.names.ask(Change::Sql(named));
        }
    }

    /// Whether the message means another thing if an earlier request fails: a statement that it runs, or makes, is made or closed there.
    fn names_what_is_unsettled(&self, tag: u8, total: usize) -> bool {
        let body = &self.input[5..total];
        let name = match tag {
            b'P' => translate::parse_parts(body).ok().map(|(name, ..)| name),
            b'B' => translate::bind_parts(body).ok().map(|(_, name, _)| name),
            b'D' => translate::target_parts(body)
                .ok()
                .and_then(|(kind, name)| (kind == b'S').then_some(name)),
            _ => None,
        };
        name.is_some_and(|name| (tag != b'P' || !name.is_empty()) && self.names.is_unsettled(name))
    }

    /// One message of the extended protocol. False: it has to wait.
    pub(super) fn extended(&mut self, lease: &mut Lease, tag: u8, total: usize) -> Result<bool, Leave> {
        if lease.status == b'I' && !lease.worker.batch_is_open() && self.refusal_at_front().is_some() {
            // The outer loop refuses it, when everything before it is answered.
            lease.leave = true;
            return Ok(false);
        }
        if lease.outstanding > 0 && self.names_what_is_unsettled(tag, total) {
            return Ok(false);
        }
        let mut quiet = false;
        if tag == b'P' {
            let text = translate::parse_parts(&self.input[5..total])
                .map(|(_, text, _)| text)
                .unwrap_or_default();
            let class = self.classify(text);
            quiet = needs_quiet(&class.kind);
            if quiet && lease.outstanding > 0 {
                return Ok(false);
            }
            if self.may_end_early(lease, &class) && self.end_batch_early(lease, &class)? {
                return Ok(false);
            }
            lease.expect(&class);
            self.note_sender(lease, &class);
            lease.expects_copy |= expects_copy(&class.kind);
        }
        let mut said = SmallVec::new();
        if tag == b'B' {
            let name = translate::bind_parts(&self.input[5..total])
                .map(|(_, name, _)| name)
                .unwrap_or_default();
            if let Some(statement) = self.names.get(name) {
                let class = statement.class.borrow().clone();
                quiet = needs_quiet(&class.kind);
                if quiet && lease.outstanding > 0 {
                    return Ok(false);
                }
                if self.may_end_early(lease, &class) && self.end_batch_early(lease, &class)? {
                    return Ok(false);
                }
                lease.expect(&class);
                self.note_sender(lease, &class);
                lease.expects_copy |= expects_copy(&class.kind);
                said = said_by_sql(&class.kind, &statement.key.text);
            } else {
                // One of SQL PREPARE.
                lease.did = Did::More;
            }
        }
        if quiet && lease.open.settings.resets() {
            lease.resets = true;
            Self::keep_back(lease);
        }
        let input = self.input.split_to(total);
        self.translate(lease, tag, &input[5..]);
        if !said.is_empty() || self.names.some_say() {
            self.follow_portal(lease, tag, &input[5..], said);
        }
        Ok(true)
    }

    /// What a portal says by SQL is said when it is executed.
    fn follow_portal(&mut self, lease: &Lease, tag: u8, body: &[u8], said: SmallVec<[Named; 1]>) {
        let portal = body.split(|byte| *byte == 0).next().unwrap_or_default();
        match tag {
            b'B' => self.names.bind_saying(portal, said),
            b'E' => {
                let said = self.names.said_by(portal);
                let forgets = said.iter().any(|named| matches!(named, Named::ForgetAll));
                self.ask_sql(lease, said);
                if forgets {
                    lease.worker.break_prepared();
                }
            }
            _ => {}
        }
    }

    fn translate(&mut self, lease: &Lease, tag: u8, body: &[u8]) {
        let materialized = &lease.materialized;
        let intern = interner(&self.thread, &lease.pool, &self.settings);
        let ground = Ground {
            session: self.card.serial,
            prepared_max: self.effective.limits.max_prepared_statements,
            own: &|name| materialized.contains(name),
            intern: &intern,
            keeps: false,
        };
        let slot = self.card.slot.clone();
        let names = &mut self.names;
        lease.worker.stream(&slot, |to| {
            translate::message(to, names, &ground, tag, body);
        });
    }

    /// A Query or FunctionCall that is not here completely: its bytes follow as they come.
    pub(super) fn stream_request(&mut self, lease: &mut Lease, tag: u8, total: usize) {
        lease.expect(&Class::of(Kind::Unknown));
        let n = total.min(self.input.len());
        let input = self.input.split_to(n);
        lease.raw = total - n;
        let ahead = std::mem::take(&mut lease.begin_ahead);
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            to.out().extend_from_slice(&input);
            to.step(match (tag, ahead) {
                (b'Q', true) => Step::query_before_sync(),
                (b'Q', false) => Step::client(Op::Query),
                _ => Step::client(Op::Function),
            });
        });
        lease.owes_sync = ahead;
        if !ahead {
            lease.worker.finish_batch();
        }
        self.names.request_ends();
        lease.request_starts();
    }

    /// The Sync behind a Query that BEGIN was written ahead of.
    pub(super) fn sync_behind(&mut self, lease: &mut Lease) {
        let slot = self.card.slot.clone();
        lease.worker.stream(&slot, |to| {
            pgnet::frontend::sync(to.out());
            to.step(Step::client(Op::Sync));
        });
        lease.worker.finish_batch();
    }

    /// A Bind with large parameters: its names are put in place, the rest follows as it comes. False: they are not here yet.
    pub(super) fn stream_bind(&mut self, lease: &mut Lease, total: usize) -> Result<bool, Leave> {
        let body = &self.input[5..];
        if body.len() < HOLD_MAX && translate::bind_parts(body).is_err() {
            return Ok(false);
        }
        let (portal, name, rest) = translate::bind_parts(body)?;
        let (portal, name) = (portal.to_vec(), name.to_vec());
        if self.names.some_say() {
            self.names.bind_saying(&portal, SmallVec::new());
        }
        let begun = body.len() - rest.len();
        let left = total - 5 - begun;
        let here = rest.len().min(left);
        if let Some(statement) = self.names.get(&name) {
            let class = statement.class.borrow().clone();
            lease.expect(&class);
        } else {
            lease.did = Did::More;
        }
        let materialized = &lease.materialized;
        let intern = interner(&self.thread, &lease.pool, &self.settings);
        let ground = Ground {
            session: self.card.serial,
            prepared_max: self.effective.limits.max_prepared_statements,
            own: &|name| materialized.contains(name),
            intern: &intern,
            keeps: false,
        };
        let names = &mut self.names;
        let data = &self.input[5 + begun..5 + begun + here];
        let slot = self.card.slot.clone();
        let known = lease.worker.stream(&slot, |to| {
            translate::bind_head(to, names, &ground, &portal, &name, left, data)
        });
        self.input.advance(5 + begun + here);
        if known {
            lease.raw = left - here;
        } else {
            lease.drop = left - here;
        }
        Ok(true)
    }
}

/// Statements before and after which everything must be answered.
fn needs_quiet(kind: &Kind) -> bool {
    match kind {
        Kind::Set(set) => set.items.iter().any(|item| !matches!(item, SetItem::Set { .. })),
        Kind::Prepare(_) | Kind::Execute(_) | Kind::Deallocate { .. } | Kind::Discard(_) | Kind::Reset(_) => {
            true
        }
        Kind::List(list) => list.prepared || list.kinds.iter().any(needs_quiet),
        _ => false,
    }
}

fn expects_copy(kind: &Kind) -> bool {
    match kind {
        Kind::CopyIn | Kind::Unknown | Kind::Execute(_) => true,
        Kind::List(list) => list.copies_in || list.unknown,
        _ => false,
    }
}

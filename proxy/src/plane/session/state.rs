//! Virtual state: putting a session's settings on a worker it holds, and taking what its requests changed off again.

use std::fmt::Write as _;

use bytes::Bytes;
use pgnet::fields::ErrorFields;
use pgnet::{frame, quote};

use super::super::internal;
use super::super::settings::{Difference, Settings};
use super::super::worker::Worker;
use super::lease::{self, INTERNAL_MAX, Lease, Refused};
use super::{Leave, Session, translate};
use crate::classify::Kind;

/// What is asked after a request that may have made or released state that cannot be moved.
const PINS: &str = "select (select count(*) from pg_catalog.pg_listening_channels()), \
     (select count(*) from pg_catalog.pg_locks where locktype = 'advisory' and pid = pg_catalog.pg_backend_pid()), \
     (select count(*) from pg_catalog.pg_cursors where is_holdable), \
     (select count(*) from pg_catalog.pg_class where relnamespace = pg_catalog.pg_my_temp_schema())";

/// How often the server is asked again for state that it did not tell.
const STATE_TRIES: usize = 3;
/// Ahead of such a question: its statement_timeout, as a row in front of all others, and none from there to its end.
const UNHURRIED: &str = "select 'statement_timeout', pg_catalog.current_setting('statement_timeout'), 'session'; \
     set local statement_timeout = 0; ";

type Row = Vec<Option<Bytes>>;

/// Names of the columns of [`PINS`].
const PIN_NAMES: [&str; 4] = ["listen", "advisory lock", "hold cursor", "temporary table"];

impl Session {
    /// Makes the worker this session's: its settings are set and confirmed before any statement of it is sent.
    pub(super) async fn dress(&mut self, lease: &mut Lease) -> Result<(), Refused> {
        if lease
            .worker
            .sequences_of
            .get()
            .is_some_and(|owner| owner != self.card.serial)
        {
            lease.worker.sequences_of.set(None);
            self.confirmed(lease, "DISCARD SEQUENCES").await?;
        }
        let settings = self.settings.clone();
        let worn = lease.worker.wears();
        let difference = settings.difference(&worn);
        lease
            .pool
            .note_fit(&lease.worker, difference == Difference::None, &self.startup);
        if let Difference::Set(set) = difference {
            lease.worker.note_custom(set.iter().map(|(name, _)| *name));
            // Other values of settings that everybody has here may stay for the next session; whatever else is set is undone.
            let base = &lease.worker.base;
            let may_stay =
                |name: &str| base.get(name).is_some() && !matches!(name, "role" | "session_authorization");
            lease.dirty |= !set.iter().all(|(name, _)| may_stay(name));
            let calls: Vec<String> = set
                .iter()
                .map(|(name, value)| {
                    format!(
                        "pg_catalog.set_config({}, {}, false)",
                        quote::literal(name),
                        quote::literal(value)
                    )
                })
                .collect();
            self.confirmed(lease, &format!("select {}", calls.join(", ")))
                .await?;
            lease.worker.wear(&settings);
        }
        Ok(())
    }

    async fn confirmed(&mut self, lease: &mut Lease, sql: &str) -> Result<(), Refused> {
        match self.internal(lease, sql).await? {
            Ok(_) if lease.lost => Err(Refused::Tell(Box::new(ErrorFields::new(
                pgnet::fields::Severity::Error,
                pgnet::sqlstate::SqlState::CONNECTION_FAILURE,
                "the server was lost before this request was sent; it may be repeated",
            )))),
            Ok(_) => Ok(()),
            Err(fields) => Err(Refused::Tell(Box::new(fields))),
        }
    }

    /// After the last request on a quiet worker: reads back the settings it changed, and asks what pins it.
    pub(super) async fn after_requests(&mut self, lease: &mut Lease) -> Result<(), Leave> {
        self.heard_by_all(lease).await;
        let changed = std::mem::take(&mut lease.changed);
        lease.unread = false;
        if !changed.is_empty() {
            lease.dirty = true;
            self.read_back(lease, changed).await?;
        }
        if lease.ask_pins && !lease.lost {
            lease.ask_pins = false;
            let mut reasons: Vec<&'static str> = Vec::new();
            let rows = self.ask_state(lease, PINS).await?;
            let counts = rows.first().map(Vec::as_slice).unwrap_or_default();
            let listens = counts.first().is_some_and(|n| n.as_deref() != Some(b"0"));
            reasons.extend(
                PIN_NAMES
                    .iter()
                    .zip(counts)
                    .skip(1)
                    .filter(|(_, n)| n.as_deref() != Some(b"0"))
                    .map(|(why, _)| *why),
            );
            if listens || lease.brought {
                self.settle_ears(lease).await?;
            }
            lease.moves_ears = false;
            reasons.extend(lease.sticky);
            lease.dirty |= !reasons.is_empty();
            lease.pinned = !reasons.is_empty();
            *self.card.pins.borrow_mut() = reasons;
        }
        if lease.sticky.is_some() && !lease.pinned {
            lease.pinned = true;
            *self.card.pins.borrow_mut() = lease.sticky.into_iter().collect();
        }
        Ok(())
    }

    /// What the server says of this session's state, after a request that changed it has succeeded. When it cannot be
    /// known any more, the client may not go on as if nothing were: another `search_path` or tenant would be taken for its own.
    async fn ask_state(&mut self, lease: &mut Lease, sql: &str) -> Result<Vec<Row>, Leave> {
        if let Ok(rows) = self.internal(lease, sql).await?
            && !lease.lost
        {
            return Ok(rows);
        }
        // Cancelled, or too long for a statement_timeout of the client's own.
        let unhurried = format!("{UNHURRIED}{sql}");
        for _ in 0..STATE_TRIES {
            if lease.lost {
                break;
            }
            if let Ok(mut rows) = self.internal(lease, &unhurried).await?
                && !lease.lost
                && !rows.is_empty()
            {
                let timeout = rows.remove(0);
                for row in rows.iter_mut().filter(|row| row.first() == timeout.first()) {
                    row.clone_from(&timeout);
                }
                return Ok(rows);
            }
        }
        Err(lease::server_gone())
    }

    /// Takes over as this session's what the server says the settings are now.
    async fn read_back(&mut self, lease: &mut Lease, changed: super::effects::Changed) -> Result<(), Leave> {
        let was_reset = changed.resets();
        let mut names = changed.names.clone();
        names.extend(changed.reset);
        if changed.all {
            names.extend(self.settings.iter().map(|(n, _)| n.to_owned()));
            names.extend(["role".to_owned(), "session_authorization".to_owned()]);
        }
        names.sort_unstable();
        names.dedup();
        let literals: Vec<String> = names.iter().map(|n| quote::literal(n)).collect();
        let mut sql = String::from(
            "select n, pg_catalog.current_setting(n, true), s.source from pg_catalog.unnest(array[",
        );
        sql.push_str(&literals.join(", "));
        sql.push_str("]::text[]) n left join pg_catalog.pg_settings s on pg_catalog.lower(s.name) = n");
        if changed.all {
            let _ = write!(
                sql,
                " union all select pg_catalog.lower(name), pg_catalog.current_setting(name, true), source \
                 from pg_catalog.pg_settings where source = 'session'"
            );
        }
        let rows = self.ask_state(lease, &sql).await?;
        let mut changes: Vec<(String, Option<String>)> = Vec::new();
        for row in rows {
            let [Some(name), value, source] = row.as_slice() else {
                continue;
            };
            let name = String::from_utf8_lossy(name).into_owned();
            let value = value.as_ref().map(|v| String::from_utf8_lossy(v).into_owned());
            let session = source.as_deref() == Some(b"session");
            let named_by_us = self.thread.config().application_name == crds::ApplicationName::Pool;
            if name == "application_name" && named_by_us {
                continue;
            }
            let keep = match name.as_str() {
                "role" => value.as_deref() != Some("none"),
                "session_authorization" => value.as_deref() != Some(&*self.user),
                name if name.contains('.') => value.is_some(),
                _ => session,
            };
            let value = if keep {
                value
            } else {
                self.startup.get(&name).map(str::to_owned)
            };
            changes.push((name, value));
        }
        lease.worker.note_custom(
            changes
                .iter()
                .filter(|(_, v)| v.is_some())
                .map(|(n, _)| n.as_str()),
        );
        let before = self.settings.clone();
        self.settings = self.thread.settings.with(&self.settings, changes);
        let name = self.settings.get("application_name").unwrap_or_default();
        self.card.set_application_name(name);
        if was_reset {
            self.report_reset(lease, &before, &changed.names);
            // The worker went back to its own base, which need not be this session's.
            lease.worker.wear(&lease.worker.base);
            if !lease.lost && self.dress(lease).await.is_err() {
                lease.lost = true;
            }
        }
        Ok(())
    }

    /// ParameterStatus for what a RESET changed, as a server opened with this session's startup packet would send it. What was `set`
    /// ahead of it in one go the client may have been told.
    fn report_reset(&mut self, lease: &Lease, before: &Settings, set: &[String]) {
        let Some(greeting) = lease.pool.greeting(&self.greeted_as) else {
            return;
        };
        for (name, value) in greeting.iter() {
            let key = String::from_utf8_lossy(name).to_ascii_lowercase();
            // The greeting knows what holds where the session sets nothing, but for the application's name, which is its own.
            let usual = if key == "application_name" {
                b""
            } else {
                &value[..]
            };
            let shown = |settings: &Settings| {
                // What came with the startup packet the greeting knows in the server's own spelling.
                let spelled = |v: &&str| key == "application_name" || self.startup.get(&key) != Some(*v);
                settings
                    .get(&key)
                    .filter(spelled)
                    .map_or(usual.to_vec(), |v| v.as_bytes().to_vec())
            };
            let new = shown(&self.settings);
            if shown(before) == new && !set.iter().any(|name| name.eq_ignore_ascii_case(&key)) {
                continue;
            }
            let value = &new[..];
            pgnet::backend::parameter_status(&mut self.out, name, value);
        }
    }

    /// Makes the statements this request names known to the worker under the client's own names.
    pub(super) async fn materialize(&mut self, lease: &mut Lease, kind: &Kind) -> Result<(), Leave> {
        let mut names: Vec<Bytes> = Vec::new();
        collect(kind, &mut names);
        self.materialize_names(lease, names).await
    }

    /// The same for names known already.
    pub(super) async fn materialize_names(
        &mut self,
        lease: &mut Lease,
        names: Vec<Bytes>,
    ) -> Result<(), Leave> {
        for name in names {
            if lease.materialized.contains(&name) || lease.worker.status() == b'E' {
                continue;
            }
            if let Some(prepared) = self.names.sql(&name) {
                let text = prepared.text.clone();
                lease.worker.foreign_prepared.set(true);
                lease.dirty = true;
                let _ = self.internal(lease, &String::from_utf8_lossy(&text)).await?;
            } else if let Some(statement) = self.names.protocol(&name) {
                lease.worker.foreign_prepared.set(true);
                lease.dirty = true;
                let parsed = internal::parse(&lease.worker, &name, &statement.key);
                if tokio::time::timeout(INTERNAL_MAX, parsed).await.is_err() {
                    lease.lost = true;
                }
            } else {
                continue;
            }
            lease.materialized.insert(name);
        }
        Ok(())
    }

    /// Statements the batch at the front of the input binds whose rows were described to the client, and which this worker may
    /// take for something else: it never had them, or has them since a table changed. A batch that asks for them again is told.
    pub(super) fn unverified(&self, worker: &Worker) -> Vec<Bytes> {
        let mut names = Vec::new();
        if !self.names.has_shapes() {
            return names;
        }
        // The portal bound last, and what is to be verified of it.
        let mut last: (&[u8], Option<&[u8]>) = (b"", None);
        let mut rest = &self.input[..];
        while let Ok(Some((frame, behind))) = frame::split(rest, u32::MAX >> 1) {
            rest = behind;
            match frame.tag {
                b'B' => {
                    let Ok((portal, name, _)) = translate::bind_parts(frame.body) else {
                        break;
                    };
                    let doubtful = self.names.shape(name).is_some_and(|believed| {
                        !self.names.is_changed(name)
                            && self
                                .names
                                .get(name)
                                .is_some_and(|statement| worker.shape(statement.id) != Some(believed))
                    });
                    let before = std::mem::replace(&mut last, (portal, doubtful.then_some(name)));
                    names.extend(before.1.map(Bytes::copy_from_slice));
                }
                b'D' if translate::target_parts(frame.body) == Ok((b'P', last.0)) => last.1 = None,
                b'S' | b'Q' => break,
                _ => {}
            }
        }
        names.extend(last.1.map(Bytes::copy_from_slice));
        names
    }

    /// Has the worker parse these statements anew, and notes those whose rows are not what the client was told.
    pub(super) async fn verify(&mut self, lease: &mut Lease, names: Vec<Bytes>) -> Result<(), Leave> {
        for name in names {
            // In a failed transaction nothing can be asked, and nothing will be run.
            let (Some(statement), false) = (self.names.get(&name), lease.worker.status() == b'E') else {
                continue;
            };
            let asked = internal::describe_anew(
                &lease.worker,
                &statement,
                self.effective.limits.max_prepared_statements,
            );
            if tokio::time::timeout(INTERNAL_MAX, asked).await.is_err() {
                lease.lost = true;
                return Ok(());
            }
            // Where the server knew no answer the statement itself brings its error.
            let now = lease.worker.shape(statement.id);
            if now.is_some() && now != self.names.shape(&name) {
                self.names.set_changed(name);
            }
        }
        Ok(())
    }
}

/// Names of prepared statements a request uses by SQL.
pub(super) fn collect(kind: &Kind, names: &mut Vec<Bytes>) {
    match kind {
        Kind::Execute(execute) => names.push(Bytes::copy_from_slice(&execute.name)),
        Kind::Prepare(prepare) => names.push(Bytes::copy_from_slice(&prepare.name)),
        Kind::Deallocate { name: Some(name) } => names.push(Bytes::copy_from_slice(name)),
        Kind::List(list) => list.kinds.iter().for_each(|kind| collect(kind, names)),
        _ => {}
    }
}

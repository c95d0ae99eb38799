//! The prepared statements of a session: the client's names, and what they stand for on any worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::slot::Settled;
use super::super::statement::Statement;
use super::super::worker::Shape;

/// A statement the client made by SQL `PREPARE`.
#[derive(Clone, Debug)]
pub(super) struct SqlPrepared {
    /// The whole PREPARE statement.
    pub(super) text: Bytes,
}

/// What SQL says of prepared statements. The server says when it is done, and no error that follows undoes it.
#[derive(Clone, Debug)]
pub(super) enum Named {
    /// PREPARE: a name, and the whole statement.
    Prepare(Bytes, Bytes),
    /// DEALLOCATE of a name.
    Deallocate(Bytes),
    /// DEALLOCATE ALL, DISCARD ALL.
    ForgetAll,
}

impl Named {
    /// What it makes of a name, if it concerns it.
    fn makes_of(&self, name: &[u8]) -> Option<Becomes<'static>> {
        match self {
            Self::Prepare(made, _) => (made == name).then_some(Becomes::OfSql),
            Self::Deallocate(freed) => (freed == name).then_some(Becomes::Nothing),
            Self::ForgetAll => (!name.is_empty()).then_some(Becomes::Nothing),
        }
    }
}

/// What becomes of a name.
enum Becomes<'a> {
    /// The client's own Parse makes it.
    Statement(&'a Rc<Statement>),
    /// SQL PREPARE makes it.
    OfSql,
    /// It is no statement's any more.
    Nothing,
}

/// What a `1` or `3` shown to the client makes true, or the completion of a statement.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Its Parse succeeded.
    Define(Bytes, Rc<Statement>),
    /// Its Close succeeded; the empty name closes the unnamed statement.
    Remove(Bytes),
    /// A portal was closed, or nothing that concerns statements.
    None,
    /// It was said by SQL.
    Sql(Named),
    /// Shown by nothing: a simple Query drops the unnamed statement, whatever becomes of it.
    DropUnnamed,
}

impl Change {
    /// What it makes of a name, if it concerns it.
    fn makes_of(&self, name: &[u8]) -> Option<Becomes<'_>> {
        match self {
            Self::Define(n, statement) => (n == name).then_some(Becomes::Statement(statement)),
            Self::Remove(n) => (n == name).then_some(Becomes::Nothing),
            Self::DropUnnamed => name.is_empty().then_some(Becomes::Nothing),
            Self::Sql(said) => said.makes_of(name),
            Self::None => None,
        }
    }
}

/// Portals that say something by SQL and are remembered for it.
const SAYING_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Names {
    named: BTreeMap<Bytes, Rc<Statement>>,
    sql: BTreeMap<Bytes, SqlPrepared>,
    unnamed: Option<Rc<Statement>>,
    /// Changes asked for and not yet acknowledged by the server, by request.
    asked: VecDeque<Vec<Change>>,
    open: Vec<Change>,
    /// Statements whose rows were asked for and not yet described, by request; the empty name: one that is not looked after.
    described: VecDeque<SmallVec<[Bytes; 1]>>,
    describing: SmallVec<[Bytes; 1]>,
    /// The portal that was bound last, and the named statement it was bound to.
    bound: Option<(Bytes, Bytes)>,
    /// What portals say by SQL when they are executed. One that is gone by then fails, and says nothing.
    saying: BTreeMap<Bytes, SmallVec<[Named; 1]>>,
    /// What the client was told the rows of its statements look like.
    shapes: BTreeMap<Bytes, u64>,
    /// Statements whose rows look different now: the client has to prepare them anew.
    changed: BTreeSet<Bytes>,
}

impl Names {
    /// What `name` stands for once everything asked for has succeeded.
    pub(super) fn get(&self, name: &[u8]) -> Option<Rc<Statement>> {
        if self.open.is_empty() && self.asked.is_empty() {
            return self.settled(name);
        }
        match self.becomes(name) {
            Some(Becomes::Statement(statement)) => Some(statement.clone()),
            Some(Becomes::OfSql | Becomes::Nothing) => None,
            None => self.settled(name),
        }
    }

    /// What was asked for makes of `name`, if all of it succeeds; `None`: nothing that concerns it.
    fn becomes(&self, name: &[u8]) -> Option<Becomes<'_>> {
        let mut asked = self.asked.iter().flatten().chain(&self.open).rev();
        asked.find_map(|change| change.makes_of(name))
    }

    /// Whether the worker knows it by the client's own name; `own`: it did before what was asked for.
    pub(super) fn is_own(&self, name: &[u8], own: bool) -> bool {
        self.becomes(name)
            .map_or(own, |becomes| matches!(becomes, Becomes::OfSql))
    }

    /// Whether what `name` stands for hangs on the answer to an earlier request.
    pub(super) fn is_unsettled(&self, name: &[u8]) -> bool {
        let concerns = |change: &Change| change.makes_of(name).is_some();
        !self.open.iter().any(concerns) && self.asked.iter().flatten().any(concerns)
    }

    fn settled(&self, name: &[u8]) -> Option<Rc<Statement>> {
        if name.is_empty() {
            self.unnamed.clone()
        } else {
            self.named.get(name).cloned()
        }
    }

    /// A copy of a name of ours that shares its bytes where it can.
    fn copy(&self, name: &[u8]) -> Bytes {
        match self.named.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => Bytes::copy_from_slice(name),
        }
    }

    /// Whether the client may not define `name` again.
    pub(super) fn is_taken(&self, name: &[u8]) -> bool {
        if name.is_empty() {
            return false;
        }
        match self.becomes(name) {
            Some(Becomes::Nothing) => false,
            Some(_) => true,
            None => self.named.contains_key(name) || self.sql.contains_key(name),
        }
    }

    /// Statements the client has.
    pub(super) fn len(&self) -> usize {
        self.named.len() + self.sql.len() + self.open.len()
    }

    /// Something that will be acknowledged by a `1` or `3`.
    pub(super) fn ask(&mut self, change: Change) {
        if let Change::Define(name, _) | Change::Remove(name) = &change {
            // What was described before is another statement of this name.
            self.describing
                .iter_mut()
                .filter(|described| *described == name)
                .for_each(Bytes::clear);
        }
        self.open.push(change);
    }

    /// A portal is bound to a statement.
    pub(super) fn bind(&mut self, portal: &[u8], name: &[u8]) {
        self.bound = (!name.is_empty()).then(|| (Bytes::copy_from_slice(portal), self.copy(name)));
    }

    /// A portal is bound to a statement that says this by SQL.
    pub(super) fn bind_saying(&mut self, portal: &[u8], said: SmallVec<[Named; 1]>) {
        if said.is_empty() {
            self.saying.remove(portal);
            return;
        }
        if self.saying.len() >= SAYING_MAX {
            self.saying.clear();
        }
        self.saying.insert(Bytes::copy_from_slice(portal), said);
    }

    /// What it says by SQL when it is executed.
    pub(super) fn said_by(&self, portal: &[u8]) -> SmallVec<[Named; 1]> {
        self.saying.get(portal).cloned().unwrap_or_default()
    }

    /// Whether any portal says something.
    pub(super) fn some_say(&self) -> bool {
        !self.saying.is_empty()
    }

    /// The named statement this portal was bound to, if it was the last one bound.
    pub(super) fn bound_to(&self, portal: &[u8]) -> Option<Bytes> {
        let (last, name) = self.bound.as_ref()?;
        (last == portal).then(|| name.clone())
    }

    /// The rows of this statement will be described.
    pub(super) fn ask_shape(&mut self, name: &[u8]) {
        self.describing.push(self.copy(name));
    }

    /// The request that asked is complete.
    pub(super) fn request_ends(&mut self) {
        self.asked.push_back(std::mem::take(&mut self.open));
        self.described.push_back(std::mem::take(&mut self.describing));
    }

    /// The last request goes on: its Sync was ignored.
    pub(super) fn request_reopens(&mut self) {
        if let Some(changes) = self.asked.pop_back() {
            self.open = changes;
        }
        if let Some(names) = self.described.pop_back() {
            self.describing = names;
        }
    }

    /// The oldest request has ended as `settled` says. Returns what it did to the statements that SQL knows.
    pub(super) fn settle(&mut self, settled: Settled) -> Vec<Named> {
        let Settled {
            acks: mut acknowledged,
            parse_failed,
            mut named,
            shapes,
        } = settled;
        let described = self.described.pop_front().unwrap_or_default();
        let mut done = Vec::new();
        for change in self.asked.pop_front().unwrap_or_default() {
            match change {
                Change::DropUnnamed => self.unnamed = None,
                // Without the server's word it failed, or was never executed.
                Change::Sql(said) => {
                    if named > 0 {
                        named -= 1;
                        self.said(&said);
                        done.push(said);
                    }
                }
                change if acknowledged > 0 => {
                    acknowledged -= 1;
                    if let Change::Remove(name) = &change
                        && !name.is_empty()
                    {
                        done.push(Named::Deallocate(name.clone()));
                    }
                    self.acknowledged(change);
                }
                Change::Define(name, _) if parse_failed && name.is_empty() => {
                    // A Parse drops the unnamed statement before it can fail.
                    self.unnamed = None;
                    break;
                }
                // An error before it: skipped, with all that stands behind it.
                _ => break,
            }
        }
        for (name, shape) in described.into_iter().zip(shapes) {
            if let Some(shape) = shape
                && self.shapes.get(&name) != Some(&shape)
                && self.named.contains_key(&name)
            {
                self.shapes.insert(name, shape);
            }
        }
        done
    }

    fn acknowledged(&mut self, change: Change) {
        match change {
            Change::Define(name, statement) if name.is_empty() => self.unnamed = Some(statement),
            Change::Define(name, statement) => {
                self.forget_shape(&name);
                self.named.insert(name, statement);
            }
            Change::Remove(name) if name.is_empty() => self.unnamed = None,
            Change::Remove(name) => {
                self.forget_shape(&name);
                self.named.remove(&name);
                self.sql.remove(&name);
            }
            Change::None | Change::Sql(_) | Change::DropUnnamed => {}
        }
    }

    fn said(&mut self, said: &Named) {
        match said {
            Named::Prepare(name, text) => {
                let text = text.clone();
                self.sql.insert(name.clone(), SqlPrepared { text });
            }
            Named::Deallocate(name) => {
                self.forget_shape(name);
                self.named.remove(name);
                self.sql.remove(name);
            }
            Named::ForgetAll => {
                self.named.clear();
                self.sql.clear();
                self.shapes.clear();
                self.changed.clear();
            }
        }
    }

    fn forget_shape(&mut self, name: &[u8]) {
        self.shapes.remove(name);
        self.changed.remove(name);
    }

    /// What the client believes the rows of a statement look like.
    pub(super) fn shape(&self, name: &[u8]) -> Shape {
        self.shapes.get(name).copied()
    }

    /// Whether it believes anything.
    pub(super) fn has_shapes(&self) -> bool {
        !self.shapes.is_empty()
    }

    /// Its rows look different now.
    pub(super) fn set_changed(&mut self, name: Bytes) {
        self.changed.insert(name);
    }

    /// Whether its rows look different from what the client believes.
    pub(super) fn is_changed(&self, name: &[u8]) -> bool {
        self.changed.contains(name)
    }

    /// Nothing of what was asked will be answered any more.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
        self.open.clear();
        self.described.clear();
        self.describing.clear();
    }

    /// A simple Query replaces the unnamed statement.
    pub(super) fn drop_unnamed(&mut self) {
        if self.open.is_empty() && self.asked.is_empty() {
            self.unnamed = None;
        } else {
            self.open.push(Change::DropUnnamed);
        }
    }

    /// What SQL `PREPARE` made under this name.
    pub(super) fn sql(&self, name: &[u8]) -> Option<&SqlPrepared> {
        self.sql.get(name)
    }

    /// Whether SQL `PREPARE` made any.
    pub(super) fn has_sql(&self) -> bool {
        !self.sql.is_empty()
    }

    /// A statement of the extended protocol under this name: SQL `EXECUTE` sees those too.
    pub(super) fn protocol(&self, name: &[u8]) -> Option<Rc<Statement>> {
        self.named.get(name).cloned()
    }
}

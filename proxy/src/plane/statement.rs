//! Prepared statements: one object per text, types and frozen settings, shared by all clients of a pool.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::{Rc, Weak};

use bytes::Bytes;

use crate::classify::{Class, Kind};
use crate::spread;

/// Names a statement on the workers of one data thread. Never used again for another statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StatementId(u64);

impl Hash for StatementId {
    /// The number spread over all bits: nobody chooses it, so that is enough.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(spread::add(0, self.0));
    }
}

impl StatementId {
    /// The name the server knows the statement by.
    pub(super) fn server_name(self) -> String {
        format!("pgp_{}", self.0)
    }

    #[cfg(test)]
    pub(super) fn test(id: u64) -> Self {
        Self(id)
    }
}

/// What a statement is: equal keys are one statement. Compared in full, so two texts can never be taken for one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StatementKey {
    /// SQL as the client sent it.
    pub(super) text: Bytes,
    /// The parameter types of the Parse message as on the wire (count and OIDs).
    pub(super) types: Bytes,
    /// [`Settings::frozen`](super::settings::Settings::frozen) at the client's Parse.
    pub(super) frozen: Rc<str>,
}

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) id: StatementId,
    pub(super) key: StatementKey,
    /// Its name on servers.
    pub(super) name: Bytes,
    /// What it does.
    pub(super) class: RefCell<Rc<Class>>,
    /// Generation of the catalog `class` was judged with.
    pub(super) judged: Cell<u64>,
    /// It has no parameters.
    plain: bool,
    /// How often clients parsed it without a name.
    unnamed: Cell<u32>,
}

/// So often a statement is parsed without a name before it is kept.
const KEPT_FROM: u32 = 3;

impl Statement {
    /// Whether a failed transaction takes it: what ends one, or goes back to a savepoint.
    pub(super) fn ends_failed(&self) -> bool {
        matches!(
            self.class.borrow().kind,
            Kind::Commit { .. }
                | Kind::Rollback { .. }
                | Kind::RollbackToSavepoint
                | Kind::PrepareTransaction
        )
    }

    /// Whether what it returns depends on what else the session has: a FETCH looks like its cursor at its Parse. PostgreSQL (15 at
    /// least) dies of a Describe of one whose cursor is gone: no client is to meet a FETCH that another one had parsed.
    pub(super) fn is_of_its_session(&self) -> bool {
        matches!(self.class.borrow().kind, Kind::Fetch { .. })
    }

    /// A client parses it without a name.
    pub(super) fn parsed_unnamed(&self) {
        self.unnamed.set(self.unnamed.get().saturating_add(1));
    }

    /// Whether workers keep it under its name although clients give it none: planned once it is planned for ever, and it is
    /// asked for again and again. (Of one with parameters the server makes a new plan for each Bind, and of a table the plan
    /// may have become bad or wrong: those are parsed each time, as without us.)
    pub(super) fn is_kept(&self) -> bool {
        self.plain && self.unnamed.get() >= KEPT_FROM && self.class.borrow().timeless
    }
}

/// The statements of one pool, by key; those nobody uses are forgotten.
#[derive(Default)]
pub(super) struct StatementInterner {
    known: RefCell<HashMap<StatementKey, Weak<Statement>>>,
    set_config: RefCell<HashMap<usize, Rc<Statement>>>,
    next: Cell<u64>,
}

/// Above this many entries the interner drops those nobody uses.
const SWEEP_AT: usize = 4096;

impl StatementInterner {
    /// The one object for this key; `classify` is asked only for a new one.
    pub(super) fn intern(
        &self,
        key: StatementKey,
        classify: impl FnOnce(&[u8]) -> (Rc<Class>, u64),
    ) -> Rc<Statement> {
        let mut known = self.known.borrow_mut();
        if let Some(statement) = known.get(&key).and_then(Weak::upgrade) {
            return statement;
        }
        if known.len() >= SWEEP_AT {
            known.retain(|_, statement| statement.strong_count() > 0);
        }
        let id = StatementId(self.next.get());
        self.next.set(id.0 + 1);
        let (class, generation) = classify(&key.text);
        let statement = Rc::new(Statement {
            id,
            name: id.server_name().into(),
            class: RefCell::new(class),
            judged: Cell::new(generation),
            plain: !key.text.contains(&b'$') && *key.types == [0, 0],
            unnamed: Cell::new(0),
            key: key.clone(),
        });
        known.insert(key, Rc::downgrade(&statement));
        statement
    }

    /// The statement that sets `count` parameters for the rest of its transaction.
    pub(super) fn set_config(&self, count: usize) -> Rc<Statement> {
        if let Some(statement) = self.set_config.borrow().get(&count) {
            return statement.clone();
        }
        // Qualified: a function of this name in the client's search_path must not be called in its place.
        let calls: Vec<String> = (0..count)
            .map(|n| format!("pg_catalog.set_config(${}, ${}, true)", 2 * n + 1, 2 * n + 2))
            .collect();
        let mut types = Vec::with_capacity(2 + 8 * count);
        types.extend_from_slice(&u16::try_from(2 * count).unwrap_or(0).to_be_bytes());
        for _ in 0..2 * count {
            types.extend_from_slice(&TEXT_OID.to_be_bytes());
        }
        let key = StatementKey {
            text: Bytes::from(format!("select {}", calls.join(", "))),
            types: Bytes::from(types),
            frozen: "".into(),
        };
        let statement = self.intern(key, |_| (Rc::new(Class::of(Kind::Unknown)), 0));
        self.set_config.borrow_mut().insert(count, statement.clone());
        statement
    }
}

/// Type `text`, as in pg_type.dat of the server.
const TEXT_OID: u32 = 25;

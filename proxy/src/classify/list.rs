//! What several statements in one text do together.

use std::rc::Rc;

use super::kind::{Class, Discard, Kind, ResetItem, Touches};
use super::settings::{SetItem, SetStatement};

/// Kinds of so many statements are kept; the summary covers all.
pub const LIST_KINDS_MAX: usize = 256;

/// Several statements in one text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct List {
    /// The kinds of the first [`LIST_KINDS_MAX`] statements, in order.
    pub kinds: Vec<Kind>,
    /// There is a BEGIN, or a COMMIT or ROLLBACK that chains.
    pub begins: bool,
    /// There is a COMMIT, ROLLBACK or PREPARE TRANSACTION before any BEGIN: it ends a transaction that was open before.
    pub ends_outer: bool,
    /// Run from idle without an error, it leaves a transaction open.
    pub leaves_open: bool,
    /// It begins, and ends whatever it begins: a whole transaction (or several) in one text.
    pub whole_transaction: bool,
    /// A savepoint verb stands outside any transaction the list itself begins.
    pub outer_savepoints: bool,
    /// It sets parameters.
    pub sets: bool,
    /// It has COPY FROM STDIN.
    pub copies_in: bool,
    /// It has COPY TO STDOUT.
    pub copies_out: bool,
    /// It changes the catalog.
    pub ddl: bool,
    /// It writes, or may write, tables.
    pub writes: bool,
    /// It holds something that refuses to run in a block, or ends transactions by itself.
    pub no_block: bool,
    /// It makes temporary objects that outlive it.
    pub temp: bool,
    /// It uses statements prepared by SQL.
    pub prepared: bool,
    /// Something in it is [`Kind::Unknown`] or [`Kind::Other`].
    pub unknown: bool,
}

impl List {
    fn add(&mut self, kind: &Kind) {
        match kind {
            Kind::Begin { .. } => (self.begins, self.leaves_open) = (true, true),
            Kind::Commit { chain } | Kind::Rollback { chain } => {
                self.ends(*chain);
            }
            Kind::PrepareTransaction => self.ends(false),
            Kind::Savepoint | Kind::ReleaseSavepoint | Kind::RollbackToSavepoint => {
                self.outer_savepoints |= !self.leaves_open;
            }
            Kind::Set(_) => self.sets = true,
            Kind::Discard(Discard::All) => (self.sets, self.no_block) = (true, true),
            Kind::CopyIn => (self.copies_in, self.writes) = (true, true),
            Kind::CopyOut => self.copies_out = true,
            Kind::Ddl => (self.ddl, self.writes) = (true, true),
            Kind::Dml { .. } => self.writes = true,
            Kind::NoTransactionBlock | Kind::CommitPrepared | Kind::RollbackPrepared => {
                (self.no_block, self.writes) = (true, true);
            }
            Kind::CreateTemp { drops_at_commit } => {
                (self.temp, self.writes) = (self.temp | !drops_at_commit, true)
            }
            Kind::Prepare(_) | Kind::Deallocate { .. } => self.prepared = true,
            Kind::Execute(_) => (self.prepared, self.writes, self.unknown) = (true, true, true),
            Kind::Other | Kind::Unknown => (self.unknown, self.writes) = (true, true),
            _ => {}
        }
        if self.kinds.len() < LIST_KINDS_MAX {
            self.kinds.push(kind.clone());
        }
    }

    fn ends(&mut self, chain: bool) {
        self.ends_outer |= !self.leaves_open;
        self.begins |= chain;
        self.leaves_open = chain;
    }
}

/// One class for the classes of a list's statements.
pub(crate) fn summed(classes: Vec<Class>) -> Class {
    let mut whole = Class::of(Kind::Empty);
    whole.statements = u32::try_from(classes.len()).unwrap_or(u32::MAX);
    whole.neutral = true;
    let mut set_config = Vec::new();
    let mut tables = super::kind::Tables::default();
    let mut all_tables = true;
    for class in &classes {
        whole.touches |= class.touches;
        whole.transaction_verbs |= class.transaction_verbs;
        whole.neutral &= class.neutral;
        set_config.extend(class.set_config.iter().flat_map(|calls| calls.iter().cloned()));
        match &class.tables {
            Some(of) => {
                tables.read.extend(of.read.iter().cloned());
                tables.written.extend(of.written.iter().cloned());
            }
            None => all_tables &= matches!(class.kind, Kind::Show(_) | Kind::Set(_)),
        }
    }
    whole.tables = all_tables.then(|| Rc::new(tables));
    whole.set_config = (!set_config.is_empty()).then(|| set_config.into());
    whole.kind = kind(&classes);
    whole
}

fn kind(classes: &[Class]) -> Kind {
    if classes.iter().all(Class::is_known_read) {
        return Kind::KnownRead;
    }
    if let Some(items) = all(classes, |class| match &class.kind {
        Kind::Set(set) => Some(set.items.clone()),
        _ => None,
    }) {
        return Kind::Set(Rc::new(SetStatement {
            items: items.concat(),
        }));
    }
    if let Some(items) = all(classes, reset_item) {
        return Kind::Reset(items.into());
    }
    if classes
        .iter()
        .all(|class| class.is_known_read() || class.kind == Kind::Read)
    {
        return Kind::Read;
    }
    let mut list = List::default();
    for class in classes {
        list.add(&class.kind);
        list.temp |= class.touches.contains(Touches::TEMP);
    }
    list.whole_transaction = list.begins && !list.leaves_open && !list.ends_outer;
    Kind::List(Rc::new(list))
}

fn all<T>(classes: &[Class], of: impl Fn(&Class) -> Option<T>) -> Option<Vec<T>> {
    classes.iter().map(of).collect()
}

/// The part of a virtual reset that a statement is, if it is one.
pub(crate) fn reset_item(class: &Class) -> Option<ResetItem> {
    Some(match &class.kind {
        Kind::Reset(items) => *items.first()?,
        Kind::CloseCursor { name: None } => ResetItem::CloseAll,
        Kind::Unlisten { channel: None } => ResetItem::UnlistenAll,
        Kind::Deallocate { name: None } => ResetItem::DeallocateAll,
        Kind::Discard(what) if *what != Discard::All => ResetItem::Discard(*what),
        Kind::Set(set) => match set.items.as_slice() {
            [SetItem::ResetAll] => ResetItem::ResetAll,
            [SetItem::Reset { name, local: false }] if **name == *"role" => ResetItem::ResetRole,
            [
                SetItem::Set {
                    name,
                    value: Some(value),
                    local: false,
                },
            ] if **name == *"role" && **value == *b"none" => ResetItem::ResetRole,
            [SetItem::Reset { name, local: false }] if **name == *"session_authorization" => {
                ResetItem::ResetSessionAuthorization
            }
            _ => return None,
        },
        _ => return None,
    })
}

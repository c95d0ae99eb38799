//! What a request is: the types the rest of the proxy decides by.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::rc::Rc;

use super::hint::Hints;
use super::list::List;
use super::settings::{SetConfig, SetStatement};

/// A name of the client's as the server will see it: folded to lower case unless quoted, cut at 63 bytes. Need not be UTF-8.
pub type Name = Rc<[u8]>;

/// A part of the text that was classified, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One behind the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    /// The bytes of this part of `sql`, the text it was made from; empty when it is another text and too short.
    #[must_use]
    pub fn of<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// What the proxy knows about one request text. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// What leading comments ask for.
    pub hints: Hints,
    /// How many statements that are not empty the text holds.
    pub statements: u32,
    /// What it is.
    pub kind: Kind,
    /// The text with literals, parameters, blanks and comments taken out, as a number: the key of per-shape statistics.
    /// Keyed per process, so it cannot be forged, and means nothing to another process.
    pub shape: u64,
    /// The session state that it visibly touches, whatever its kind.
    pub touches: Touches,
    /// A transaction or savepoint verb stands somewhere in it, also in the middle of a list.
    pub transaction_verbs: bool,
    /// Proven to leave nothing in the session beyond what `touches` says: needs no clean-up. Never true by guess.
    pub neutral: bool,
    /// A known read of nothing that DDL could change: no tables, and PostgreSQL's own types, functions and operators. A plan of
    /// it holds for as long as the class does.
    pub timeless: bool,
    /// The tables it names, where the grammar was asked; `None` when nothing is known.
    pub tables: Option<Rc<Tables>>,
    /// Its calls of `set_config` whose effect outlasts the statement, in order.
    pub set_config: Option<Rc<[SetConfig]>>,
}

impl Class {
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            hints: Hints::default(),
            statements: 1,
            kind,
            shape: 0,
            touches: Touches::NONE,
            transaction_verbs: false,
            neutral: false,
            timeless: false,
            tables: None,
            set_config: None,
        }
    }

    /// Whether it may stand in a queue that several clients share, and be repeated while nothing of its reply is out.
    #[must_use]
    pub fn is_known_read(&self) -> bool {
        matches!(self.kind, Kind::KnownRead | Kind::Show(_))
    }
}

/// The tables a text names, as written (an absent schema means: by search_path).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// Read, or possibly read. Names of common table expressions may be among them.
    pub read: Vec<TableName>,
    /// Written by INSERT, UPDATE, DELETE or MERGE, in CTEs too.
    pub written: Vec<TableName>,
}

/// A possibly qualified name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The schema as written.
    pub schema: Option<Box<str>>,
    /// The table.
    pub name: Box<str>,
}

/// What a text is. Variants that carry names or spans are made anew for each text, the rest come from the shape's entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing but blanks, comments and semicolons.
    Empty,
    /// Writes nothing, locks no row, calls only built-in functions that change and show nothing of a session: may be shared.
    /// One statement or several.
    KnownRead,
    /// Writes nothing as far as the text shows, but that is not proof (user functions, views, no catalog yet): alone; may go to
    /// a replica where a hint says so.
    Read,
    /// SHOW: answered with the session's settings in force; a known read.
    Show(Show),
    /// INSERT, UPDATE, DELETE, MERGE (also behind WITH). `neutral`: see [`Class::neutral`].
    Dml {
        /// Proven to call nothing but harmless built-in functions, in triggers, defaults and the like too.
        neutral: bool,
    },
    /// BEGIN or START TRANSACTION.
    Begin {
        /// Without any option: may be deferred.
        plain: bool,
        /// READ ONLY or READ WRITE, if it says so.
        read_only: Option<bool>,
    },
    /// COMMIT or END.
    Commit {
        /// AND CHAIN: a new transaction begins at once.
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE.
    ReleaseSavepoint,
    /// ROLLBACK TO.
    RollbackToSavepoint,
    /// PREPARE TRANSACTION.
    PrepareTransaction,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    RollbackPrepared,
    /// SET TRANSACTION (also SET LOCAL/SESSION of the transaction's own modes).
    SetTransaction,
    /// SET CONSTRAINTS.
    SetConstraints,
    /// LOCK.
    LockTable,
    /// SET and RESET of parameters, one or a list of nothing else.
    Set(Rc<SetStatement>),
    /// A list (or a lone `SELECT pg_advisory_unlock_all()`) that only puts the session back to its beginning, in order.
    Reset(Rc<[ResetItem]>),
    /// PREPARE.
    Prepare(Prepare),
    /// EXECUTE, also inside EXPLAIN or CREATE TABLE AS.
    Execute(Execute),
    /// DEALLOCATE of one, or of all (`None`).
    Deallocate {
        /// The statement.
        name: Option<Name>,
    },
    /// LISTEN.
    Listen {
        /// The channel.
        channel: Name,
    },
    /// UNLISTEN of one, or of all (`None`).
    Unlisten {
        /// The channel.
        channel: Option<Name>,
    },
    /// NOTIFY.
    Notify,
    /// DISCARD.
    Discard(Discard),
    /// DECLARE, without WITH HOLD: works inside a transaction only.
    DeclareCursor {
        /// The cursor.
        name: Name,
    },
    /// DECLARE ... WITH HOLD: outlives its transaction.
    DeclareHold {
        /// The cursor.
        name: Name,
    },
    /// CLOSE of one, or of all (`None`).
    CloseCursor {
        /// The cursor.
        name: Option<Name>,
    },
    /// FETCH or MOVE.
    Fetch {
        /// The cursor, where it is plain to see.
        name: Option<Name>,
    },
    /// COPY ... FROM STDIN.
    CopyIn,
    /// COPY ... TO STDOUT.
    CopyOut,
    /// Refuses to run inside a transaction block, or may end transactions by itself: VACUUM, CREATE DATABASE, CALL, DO ...
    NoTransactionBlock,
    /// Makes a temporary object: CREATE TEMP, SELECT INTO TEMP, CREATE ... pg_temp.x.
    CreateTemp {
        /// ON COMMIT DROP: gone with its transaction.
        drops_at_commit: bool,
    },
    /// LOAD.
    Load,
    /// Changes the catalog: copies of it are stale afterwards.
    Ddl,
    /// Anything else, or text that is not understood: alone, on the master, never repeated.
    Other,
    /// The text cannot be taken apart safely (see [`super::Lexing::Unsafe`], or too large): a lease, or refused.
    Unknown,
    /// Several statements of more than one kind.
    List(Rc<List>),
}

/// SHOW of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Show {
    /// The parameter in lower case (`transaction_isolation` for its SQL spelling); `None` for SHOW ALL.
    pub name: Option<Rc<str>>,
}

/// PREPARE name (types) AS body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The statement's name.
    pub name: Name,
    /// The list of types without its parentheses.
    pub types: Option<Span>,
    /// The statement behind AS.
    pub body: Span,
}

/// EXECUTE name (arguments).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// The statement's name.
    pub name: Name,
    /// Where the name stands, to put another in its place.
    pub name_span: Span,
    /// The arguments without their parentheses.
    pub arguments: Option<Span>,
    /// It stands inside EXPLAIN or CREATE TABLE AS, so the text holds more than it.
    pub wrapped: bool,
}

/// What DISCARD forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// Everything.
    All,
    /// Cached plans.
    Plans,
    /// Temporary objects.
    Temp,
    /// What currval and lastval remember.
    Sequences,
}

/// One part of a virtual reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetItem {
    /// `SELECT pg_advisory_unlock_all()`: one row with one empty `void`.
    AdvisoryUnlockAll,
    /// CLOSE ALL.
    CloseAll,
    /// UNLISTEN *.
    UnlistenAll,
    /// RESET ALL.
    ResetAll,
    /// RESET ROLE, SET ROLE NONE.
    ResetRole,
    /// RESET SESSION AUTHORIZATION, SET SESSION AUTHORIZATION DEFAULT.
    ResetSessionAuthorization,
    /// DEALLOCATE ALL.
    DeallocateAll,
    /// DISCARD.
    Discard(Discard),
}

/// Session state that a text visibly touches: a set of the constants.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Touches(u32);

impl Touches {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `set_config` that is not plainly local to the transaction.
    pub const SETTINGS: Self = Self(1);
    /// Takes a session-level advisory lock.
    pub const ADVISORY_LOCK: Self = Self(1 << 1);
    /// Gives one back.
    pub const ADVISORY_UNLOCK: Self = Self(1 << 2);
    /// Gives all back.
    pub const ADVISORY_UNLOCK_ALL: Self = Self(1 << 3);
    /// Makes or names temporary objects.
    pub const TEMP: Self = Self(1 << 4);
    /// Declares a cursor WITH HOLD.
    pub const HOLD_CURSOR: Self = Self(1 << 5);
    /// LISTEN.
    pub const LISTEN: Self = Self(1 << 6);
    /// LOAD.
    pub const LOAD: Self = Self(1 << 7);
    /// nextval, setval, currval, lastval.
    pub const SEQUENCE: Self = Self(1 << 8);
    /// An INSERT into a table whose columns draw from a sequence by default (known from the catalog only).
    pub const SEQUENCE_DEFAULT: Self = Self(1 << 9);
    /// setseed, SET seed.
    pub const SETSEED: Self = Self(1 << 10);
    /// dblink connections.
    pub const DBLINK: Self = Self(1 << 11);
    /// Large-object descriptors.
    pub const LARGE_OBJECT: Self = Self(1 << 12);
    /// The session's replication origin.
    pub const REPLICATION_ORIGIN: Self = Self(1 << 13);
    /// A base backup in progress.
    pub const BACKUP: Self = Self(1 << 14);
    /// Shows what only one session has: its cursors, prepared statements, channels, temporary schema.
    pub const SHOWS_SESSION: Self = Self(1 << 15);
    /// Must not run a second time though it writes no table: pg_sleep, transaction ids, signals.
    pub const NOT_REPEATABLE: Self = Self(1 << 16);
    /// Temporary replication slots, exported snapshots.
    pub const SLOT: Self = Self(1 << 17);
    /// PREPARE, EXECUTE or DEALLOCATE of SQL.
    pub const PREPARED: Self = Self(1 << 18);

    const NAMES: [(Self, &'static str); 19] = [
        (Self::SETTINGS, "SETTINGS"),
        (Self::ADVISORY_LOCK, "ADVISORY_LOCK"),
        (Self::ADVISORY_UNLOCK, "ADVISORY_UNLOCK"),
        (Self::ADVISORY_UNLOCK_ALL, "ADVISORY_UNLOCK_ALL"),
        (Self::TEMP, "TEMP"),
        (Self::HOLD_CURSOR, "HOLD_CURSOR"),
        (Self::LISTEN, "LISTEN"),
        (Self::LOAD, "LOAD"),
        (Self::SEQUENCE, "SEQUENCE"),
        (Self::SEQUENCE_DEFAULT, "SEQUENCE_DEFAULT"),
        (Self::SETSEED, "SETSEED"),
        (Self::DBLINK, "DBLINK"),
        (Self::LARGE_OBJECT, "LARGE_OBJECT"),
        (Self::REPLICATION_ORIGIN, "REPLICATION_ORIGIN"),
        (Self::BACKUP, "BACKUP"),
        (Self::SHOWS_SESSION, "SHOWS_SESSION"),
        (Self::NOT_REPEATABLE, "NOT_REPEATABLE"),
        (Self::SLOT, "SLOT"),
        (Self::PREPARED, "PREPARED"),
    ];

    /// Whether all of `other` are in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in it.
    #[must_use]
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// It without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Touches {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Touches {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Touches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Self::NAMES
            .iter()
            .filter(|(bit, _)| self.contains(*bit))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join("|"))
    }
}

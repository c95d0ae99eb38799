//! What a request is, decided from its text alone before anything is sent.
//!
//! [`Classifier::classify`] is the way in, [`Class`] the answer. One pass ([`lexer`], `scan`) finds statements and a canonical form;
//! queries are looked up by that form, everything else is read by its words (`statement`, [`settings`]). Nothing here does I/O,
//! reads a clock or guesses in the client's favour: what is not proven harmless is not called so. What a text hides from its reader
//! (functions, DO, triggers) is the pool's business: such requests run alone and are cleaned up after.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

pub mod catalog;
pub mod hint;
mod kind;
pub mod lexer;
pub mod list;
mod scan;
pub mod settings;
mod statement;
mod touches;
mod words;

pub use catalog::Catalog;
pub use hint::{Hints, Page};
pub use kind::{
    Class, Discard, Execute, Kind, Name, Prepare, ResetItem, Show, Span, TableName, Tables, Touches,
};
pub use list::List;
pub use settings::{Argument, SetConfig, SetItem, SetStatement};

use scan::{Scan, Statement};
use statement::Verb;
use words::Words;

/// Whether the lexer can be trusted with a session's texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lexing {
    /// standard_conforming_strings is on, and client_encoding has no backslash or quote inside characters.
    Standard,
    /// Otherwise (off; SJIS, BIG5, GBK, GB18030, JOHAB, UHC): only texts without a backslash and without bytes over 127 are read.
    Unsafe,
}

/// What a verdict depends on besides the text.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The database's catalog; without it nothing that names a table or calls a function is proven.
    pub catalog: Option<&'a Catalog>,
    /// The role in force.
    pub role: &'a str,
    /// search_path in force, as SHOW prints it.
    pub search_path: &'a str,
    /// See [`Lexing`].
    pub lexing: Lexing,
}

/// Bounds of a [`Classifier`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// All cached shapes and verdicts together, in bytes.
    pub cache_bytes: usize,
    /// Longer texts are [`Kind::Unknown`].
    pub text_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cache_bytes: 8 * 1024 * 1024,
            text_bytes: 1024 * 1024,
        }
    }
}

/// Classifies texts and remembers what it learnt by shape. One per data thread.
#[derive(Debug)]
pub struct Classifier {
    limits: Limits,
    scan: Scan,
}

impl Classifier {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            scan: Scan::default(),
        }
    }

    /// What `sql`, the text of a Query or Parse message without its final zero, is.
    pub fn classify(&mut self, sql: &[u8], context: &Context<'_>) -> Class {
        let unreadable =
            context.lexing == Lexing::Unsafe && sql.iter().any(|byte| *byte == b'\\' || *byte > 127);
        if unreadable || sql.len() > self.limits.text_bytes {
            return Class::of(Kind::Unknown);
        }
        let mut scan = std::mem::take(&mut self.scan);
        scan.run(sql, false);
        let mut class = self.scanned(sql, &scan, context);
        for (start, end) in &scan.leading {
            class.hints.read(sql.get(*start..*end).unwrap_or_default());
        }
        self.scan = scan;
        class
    }

    fn scanned(&mut self, sql: &[u8], scan: &Scan, context: &Context<'_>) -> Class {
        if scan.broken {
            return Class::of(Kind::Other);
        }
        if scan.atomic {
            return Class::of(Kind::Unknown);
        }
        let mut class = match scan.statements.as_slice() {
            [] => Class {
                neutral: true,
                ..Class::of(Kind::Empty)
            },
            [one] => {
                let class = self.single(sql, scan, *one, context);
                match lone_reset(&class) {
                    Some(item) => Class {
                        kind: Kind::Reset([item].into()),
                        ..class
                    },
                    None => class,
                }
            }
            many => {
                let classes = many
                    .iter()
                    .map(|statement| self.single(sql, scan, *statement, context))
                    .collect();
                list::summed(classes)
            }
        };
        class.statements = u32::try_from(scan.statements.len()).unwrap_or(u32::MAX);
        class.shape = shape(&scan.canonical).0;
        class
    }

    fn single(&mut self, sql: &[u8], scan: &Scan, statement: Statement, _context: &Context<'_>) -> Class {
        let canonical = scan.text(statement);
        let words = Words::new(sql, statement.source.0, statement.source.1);
        let verb = Verb::of(canonical);
        let mut class = Class::of(match verb {
            Verb::Utility => statement::utility(words.clone()),
            Verb::Explain => statement::explained(words.clone()).unwrap_or(Kind::Read),
            Verb::Select => Kind::Read,
            Verb::With | Verb::Dml => Kind::Dml { neutral: false },
        });
        class.touches = touches::of(canonical);
        if canonical == b"select pg_advisory_unlock_all ( ) " {
            class.kind = Kind::Reset([ResetItem::AdvisoryUnlockAll].into());
        }
        finished(class, words)
    }
}

/// Adds what follows from a statement's kind.
fn finished(mut class: Class, words: Words<'_>) -> Class {
    if class.touches.contains(Touches::SETTINGS) {
        let calls = settings::set_config_calls(words);
        if calls.is_empty() {
            class.touches = class.touches.without(Touches::SETTINGS);
        } else {
            class.set_config = Some(calls.into());
        }
    }
    if class.kind == Kind::Ddl && class.touches.contains(Touches::TEMP) {
        class.kind = Kind::CreateTemp {
            drops_at_commit: false,
        };
    }
    class.touches |= match &class.kind {
        Kind::CreateTemp {
            drops_at_commit: false,
        } => Touches::TEMP,
        Kind::DeclareHold { .. } => Touches::HOLD_CURSOR,
        Kind::Listen { .. } => Touches::LISTEN,
        Kind::Load => Touches::LOAD,
        Kind::Prepare(_) | Kind::Execute(_) | Kind::Deallocate { .. } => Touches::PREPARED,
        Kind::Set(set) if set.items.iter().any(|item| item.name() == Some("seed")) => Touches::SETSEED,
        _ => Touches::NONE,
    };
    class.transaction_verbs = matches!(
        class.kind,
        Kind::Begin { .. }
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint
            | Kind::ReleaseSavepoint
            | Kind::RollbackToSavepoint
            | Kind::PrepareTransaction
            | Kind::CommitPrepared
            | Kind::RollbackPrepared
    );
    class
}

/// A statement that is a virtual reset even alone.
fn lone_reset(class: &Class) -> Option<ResetItem> {
    match &class.kind {
        Kind::Reset(items) => items.first().copied(),
        _ => None,
    }
}

/// Two independent keyed hashes: nobody outside the process can make two texts meet.
fn shape(canonical: &[u8]) -> (u64, u64) {
    static KEYS: LazyLock<(RandomState, RandomState)> =
        LazyLock::new(|| (RandomState::new(), RandomState::new()));
    let hashed = |keys: &RandomState| {
        let mut hasher = keys.build_hasher();
        hasher.write(canonical);
        hasher.finish()
    };
    (hashed(&KEYS.0), hashed(&KEYS.1))
}

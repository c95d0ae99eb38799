//! What a request is, decided from its text alone before anything is sent.
//!
//! [`Classifier::classify`] is the way in, [`Class`] the answer. One pass ([`lexer`], `scan`) finds statements and a canonical form;
//! queries are looked up by that form, everything else is read by its words (`statement`, [`settings`]). Nothing here does I/O,
//! reads a clock or guesses in the client's favour: what is not proven harmless is not called so. What a text hides from its reader
//! (functions, DO, triggers) is the pool's business: such requests run alone and are cleaned up after.

use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::LazyLock;

use siphasher::sip128::SipHasher13;

mod cache;
pub mod catalog;
mod facts;
pub mod hint;
mod kind;
pub mod lexer;
pub mod list;
mod recent;
mod scan;
pub mod settings;
mod statement;
#[cfg(test)]
mod tests;
mod touches;
mod verdict;
mod words;

pub use catalog::{CATALOG_QUERY, Catalog};
pub use hint::{Hints, Page};
pub use kind::{
    Class, Discard, Execute, Kind, Name, Prepare, ResetItem, Show, Span, TableName, Tables, Touches,
};
pub use list::List;
pub use settings::{Argument, SetConfig, SetItem, SetStatement};

pub(crate) use cache::AlreadyHashed;
use cache::Cache;
use catalog::SearchPath;
use facts::Facts;
use recent::{Basis, Recent};
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

/// Queries longer than this in canonical form are not shown to the grammar.
const PARSED_BYTES_MAX: usize = 32 * 1024;
/// The grammar is asked so often for one text; what is left of a list is not proven.
const PARSES_MAX: u32 = 16;

/// A keyed hash of a canonical form.
type Shape = (u64, u64);

/// Classifies texts and remembers what it learnt by shape. One per data thread.
#[derive(Debug)]
pub struct Classifier {
    limits: Limits,
    scan: Scan,
    /// What the grammar says about a shape; `None`: it refuses it.
    facts: Cache<Shape, Option<Rc<Facts>>>,
    /// Classes of shapes, each under one snapshot of a catalog, role and search_path.
    classes: Cache<(Shape, Shape), Class>,
    recent: Recent,
    names: Names,
    parses_left: u32,
}

/// The names a class depends on, as they were at the last call: they seldom change from one to the next.
#[derive(Debug, Default)]
struct Names {
    generation: Option<u64>,
    role: String,
    search_path: String,
    key: Shape,
}

impl Names {
    fn key(&mut self, context: &Context<'_>) -> Shape {
        let generation = context.catalog.map_or(0, Catalog::generation);
        if self.generation != Some(generation)
            || self.role != context.role
            || self.search_path != context.search_path
        {
            context.role.clone_into(&mut self.role);
            context.search_path.clone_into(&mut self.search_path);
            self.generation = Some(generation);
            self.key = shape(format!("{generation}\0{}\0{}", self.role, self.search_path).as_bytes());
        }
        self.key
    }
}

impl Classifier {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            scan: Scan::default(),
            facts: Cache::new(limits.cache_bytes / 2),
            classes: Cache::new(limits.cache_bytes / 2),
            recent: Recent::default(),
            names: Names::default(),
            parses_left: 0,
        }
    }

    /// Forgets every verdict. Not needed when a catalog is replaced (verdicts belong to a snapshot), but it frees room at once.
    pub fn forget_database(&mut self) {
        self.classes.clear();
        self.recent.clear();
    }

    /// What `sql`, the text of a Query or Parse message without its final zero, is. The same text again, or with other literals,
    /// costs next to nothing.
    pub fn class_of(&mut self, sql: &[u8], context: &Context<'_>) -> Rc<Class> {
        if !self.is_readable(sql, context.lexing) {
            return Rc::new(Class::of(Kind::Unknown));
        }
        let basis = Basis {
            names: self.names.key(context),
            lexing: context.lexing,
        };
        if let Some(class) = self.recent.get(sql, basis) {
            return class;
        }
        let (class, by_shape) = self.judge(sql, context);
        if class.statements > 1 {
            // The next time may tell more of a long list: the grammar is not asked about all of it at once.
            return Rc::new(class);
        }
        self.recent.put(sql, basis, class, by_shape)
    }

    /// The same, found out anew.
    pub fn classify(&mut self, sql: &[u8], context: &Context<'_>) -> Class {
        if !self.is_readable(sql, context.lexing) {
            return Class::of(Kind::Unknown);
        }
        self.judge(sql, context).0
    }

    fn is_readable(&self, sql: &[u8], lexing: Lexing) -> bool {
        let plain = |byte: &u8| *byte != b'\\' && *byte <= 127;
        sql.len() <= self.limits.text_bytes && (lexing == Lexing::Standard || sql.iter().all(plain))
    }

    /// The class of a readable text, and whether the canonical form and the comments in front alone have told it: whatever the literals are.
    fn judge(&mut self, sql: &[u8], context: &Context<'_>) -> (Class, bool) {
        self.parses_left = PARSES_MAX;
        let mut scan = std::mem::take(&mut self.scan);
        scan.run(sql, false);
        let mut class = self.scanned(sql, &scan, context);
        for (start, end) in &scan.leading {
            class.hints.read(sql.get(*start..*end).unwrap_or_default());
        }
        // Whether set_config outlasts the transaction is for its last argument to say.
        let by_shape = scan
            .one_query()
            .is_some_and(|text| !touches::of(text).contains(Touches::SETTINGS));
        self.scan = scan;
        (class, by_shape)
    }

    fn scanned(&mut self, sql: &[u8], scan: &Scan, context: &Context<'_>) -> Class {
        if scan.broken {
            return Class::of(Kind::Other);
        }
        if scan.atomic {
            return self
                .atomic(sql, context)
                .unwrap_or_else(|| Class::of(Kind::Unknown));
        }
        match scan.statements.as_slice() {
            [] => Class {
                neutral: true,
                statements: 0,
                ..Class::of(Kind::Empty)
            },
            [one] => self.single(sql, scan, *one, context),
            many => {
                let classes = many
                    .iter()
                    .map(|statement| self.single(sql, scan, *statement, context))
                    .collect();
                Class {
                    shape: shape(&scan.canonical).0,
                    ..list::summed(classes)
                }
            }
        }
    }

    /// A text with an SQL-standard function body: only the grammar can tell which semicolons end statements.
    fn atomic(&mut self, sql: &[u8], context: &Context<'_>) -> Option<Class> {
        if sql.len() > PARSED_BYTES_MAX {
            return None;
        }
        let parsed = pg_query::parse(std::str::from_utf8(sql).ok()?, 0).ok()?;
        let mut classes = Vec::new();
        for statement in &parsed.protobuf.stmts {
            let start = usize::try_from(statement.stmt_location).ok()?;
            let length = usize::try_from(statement.stmt_len).ok()?;
            let end = if length == 0 { sql.len() } else { start + length };
            let mut scan = Scan::default();
            scan.run(sql.get(start..end)?, true);
            let mut one = *scan.statements.first()?;
            one.source = (one.source.0 + start, one.source.1 + start);
            classes.push(self.single(sql, &scan, one, context));
        }
        match classes.len() {
            1 => classes.pop(),
            _ => Some(list::summed(classes)),
        }
    }

    fn single(&mut self, sql: &[u8], scan: &Scan, statement: Statement, context: &Context<'_>) -> Class {
        let canonical = scan.text(statement);
        let words = || Words::new(sql, statement.source.0, statement.source.1);
        let verb = Verb::of(canonical);
        let utility = match verb {
            Verb::Utility => Some(statement::utility(words())),
            Verb::Explain => statement::explained(words()),
            _ => None,
        };
        let shape = shape(canonical);
        let mut class = match utility {
            Some(kind) => Class {
                touches: touches::of(canonical),
                ..Class::of(kind)
            },
            None if scan.odd => unproven(canonical, verb),
            None => self.query(canonical, shape, verb, context),
        };
        class.shape = shape.0;
        if class.kind == Kind::Ddl
            && class.touches.contains(Touches::TEMP)
            && canonical.starts_with(b"create ")
        {
            class.kind = Kind::CreateTemp {
                drops_at_commit: false,
            };
        }
        finished(class, words)
    }

    /// The class of a query: as remembered, or found out and remembered.
    fn query(&mut self, canonical: &[u8], shape: Shape, verb: Verb, context: &Context<'_>) -> Class {
        let key = (shape, self.names.key(context));
        if let Some(class) = self.classes.get(&key) {
            return class;
        }
        if canonical == b"select pg_advisory_unlock_all ( ) " {
            return Class {
                touches: Touches::ADVISORY_UNLOCK_ALL,
                neutral: true,
                ..Class::of(Kind::Reset([ResetItem::AdvisoryUnlockAll].into()))
            };
        }
        let Some(facts) = self.facts(canonical, shape) else {
            return unproven(canonical, verb); // the budget is spent: the next time may tell more
        };
        let path = SearchPath::parse(context.search_path, context.role);
        let mut class = match &facts {
            Some(facts) => verdict::of(facts, context.catalog, path.as_ref()),
            None => verdict::guessed(canonical, verb),
        };
        class.touches |= touches::of(canonical);
        let bytes = 256 + facts.as_deref().map_or(0, Facts::bytes);
        self.classes.put(key, class.clone(), bytes);
        class
    }

    /// What the grammar says; outer `None`: it was not asked.
    fn facts(&mut self, canonical: &[u8], shape: Shape) -> Option<Option<Rc<Facts>>> {
        if let Some(known) = self.facts.get(&shape) {
            return Some(known);
        }
        // A name outside ASCII may be spelt otherwise in the catalog's encoding than in the client's.
        if canonical.len() > PARSED_BYTES_MAX || !canonical.is_ascii() {
            return Some(None);
        }
        self.parses_left = self.parses_left.checked_sub(1)?;
        let facts = Facts::of(canonical).map(Rc::new);
        let bytes = 64 + facts.as_deref().map_or(0, Facts::bytes);
        self.facts.put(shape, facts.clone(), bytes);
        Some(facts)
    }
}

fn unproven(canonical: &[u8], verb: Verb) -> Class {
    Class {
        touches: touches::of(canonical),
        ..verdict::guessed(canonical, verb)
    }
}

/// Adds what follows from a statement's kind.
fn finished<'a>(mut class: Class, words: impl Fn() -> Words<'a>) -> Class {
    if class.touches.contains(Touches::SETTINGS) {
        let calls = settings::set_config_calls(words());
        if calls.is_empty() {
            class.touches = class.touches.without(Touches::SETTINGS);
        } else {
            class.set_config = Some(calls.into());
        }
    }
    if class.kind == Kind::Ddl && class.touches.contains(Touches::TEMP) && !words().is("drop") {
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
    class.neutral |= matches!(class.kind, Kind::Show(_));
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

/// A keyed hash of 128 bits: nobody outside the process can make two texts meet.
fn shape(canonical: &[u8]) -> Shape {
    static KEYS: LazyLock<SipHasher13> = LazyLock::new(|| {
        let random = || RandomState::new().hash_one(());
        SipHasher13::new_with_keys(random(), random())
    });
    let hash = KEYS.hash(canonical);
    (hash.h1, hash.h2)
}

/// Body of a fuzz target: any bytes at all are taken apart and classified without a panic, and the same way twice.
#[doc(hidden)]
pub fn fuzz_lexer(data: &[u8]) {
    let mut lexer = lexer::Lexer::new(data, 0);
    let mut end = 0;
    loop {
        let token = lexer.token();
        assert!(
            end <= token.start && token.start <= token.end && token.end <= data.len(),
            "tokens follow each other"
        );
        if token.kind == lexer::TokenKind::End {
            break;
        }
        assert!(token.start < token.end, "a token has a byte");
        end = token.end;
    }
    for lexing in [Lexing::Standard, Lexing::Unsafe] {
        let context = Context {
            catalog: None,
            role: "role",
            search_path: "public",
            lexing,
        };
        let mut classifier = Classifier::new(Limits::default());
        let first = classifier.classify(data, &context);
        assert_eq!(
            first,
            classifier.classify(data, &context),
            "the caches change nothing"
        );
    }
}

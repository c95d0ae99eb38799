//! Utility statements, told apart by their words alone.

use super::kind::{Discard, Execute, Kind, Prepare};
use super::lexer::TokenKind;
use super::settings;
use super::words::Words;

/// Options of BEGIN, SET TRANSACTION and their like.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Modes {
    pub(crate) isolation: Option<&'static str>,
    pub(crate) read_only: Option<bool>,
    pub(crate) deferrable: Option<bool>,
}

/// What the first word of a statement says about how to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// SELECT, VALUES, TABLE, or an opening parenthesis.
    Select,
    /// WITH: may be either.
    With,
    /// INSERT, UPDATE, DELETE, MERGE.
    Dml,
    /// EXPLAIN.
    Explain,
    /// All else.
    Utility,
}

impl Verb {
    /// By the canonical form of a statement.
    pub(crate) fn of(canonical: &[u8]) -> Self {
        let end = canonical
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(canonical.len());
        match canonical.get(..end).unwrap_or_default() {
            b"select" | b"values" | b"table" | b"(" => Self::Select,
            b"insert" | b"update" | b"delete" | b"merge" => Self::Dml,
            b"with" => Self::With,
            b"explain" => Self::Explain,
            _ => Self::Utility,
        }
    }
}

/// What a utility statement is; [`Kind::Other`] if its words do not make sense.
pub(crate) fn utility(mut words: Words<'_>) -> Kind {
    let first = words.clone();
    let Some(verb) = words.take_any(&[
        "begin",
        "start",
        "commit",
        "end",
        "rollback",
        "abort",
        "savepoint",
        "release",
        "prepare",
        "execute",
        "deallocate",
        "set",
        "reset",
        "show",
        "discard",
        "listen",
        "unlisten",
        "notify",
        "declare",
        "close",
        "fetch",
        "move",
        "copy",
        "lock",
        "load",
        "create",
        "alter",
        "drop",
        "truncate",
        "comment",
        "grant",
        "revoke",
        "security",
        "reindex",
        "refresh",
        "cluster",
        "import",
        "reassign",
        "vacuum",
        "call",
        "do",
        "repack",
    ]) else {
        return Kind::Other;
    };
    let kind = match verb {
        "begin" => begin(&mut words, &["work", "transaction"]),
        "start" => words
            .take("transaction")
            .then(|| begin(&mut words, &[]))
            .flatten(),
        "commit" | "end" => commit(&mut words),
        "rollback" | "abort" => rollback(&mut words),
        "savepoint" => words.name().map(|_| Kind::Savepoint),
        "release" => Some(Kind::ReleaseSavepoint),
        "prepare" => prepare(&mut words),
        "execute" => execute(&mut words, false),
        "deallocate" => deallocate(&mut words),
        "set" => settings::set(&mut words),
        "reset" => settings::reset(&mut words),
        "show" => settings::show(&mut words),
        "discard" => discard(&mut words),
        "listen" => words.name().map(|channel| Kind::Listen { channel }),
        "unlisten" => unlisten(&mut words),
        "notify" => Some(Kind::Notify),
        "declare" => declare(&mut words),
        "close" => close(&mut words),
        "fetch" | "move" => Some(fetch(&words)),
        "copy" => copy(words),
        "lock" => Some(Kind::LockTable),
        "load" => Some(Kind::Load),
        "create" => Some(create(&mut words)),
        "alter" => Some(alter(&mut words)),
        "drop" => Some(drop_(&mut words)),
        "reindex" => Some(reindex(&words)),
        "cluster" => Some(if words.at_end() || words.is("verbose") {
            Kind::NoTransactionBlock
        } else {
            Kind::Ddl
        }),
        "vacuum" | "call" | "do" | "repack" => Some(Kind::NoTransactionBlock),
        _ => Some(Kind::Ddl),
    };
    kind.unwrap_or_else(|| malformed(first))
}

/// A statement whose words do not make sense is the server's to refuse. Only what may begin a transaction in a way not known here
/// counts as doing so: to take it for less would let it through where that is not allowed.
fn malformed(mut words: Words<'_>) -> Kind {
    let begins = words.take("begin") || words.take_all(&["start", "transaction"]);
    if begins {
        Kind::Begin {
            plain: false,
            read_only: None,
        }
    } else {
        Kind::Other
    }
}

fn begin(words: &mut Words<'_>, noise: &[&str]) -> Option<Kind> {
    let _ = words.take_any(noise);
    if words.at_end() {
        return Some(Kind::Begin {
            plain: true,
            read_only: None,
        });
    }
    let modes = transaction_modes(words)?;
    Some(Kind::Begin {
        plain: false,
        read_only: modes.read_only,
    })
}

/// ISOLATION LEVEL, READ ONLY and their like up to the end; commas between them are optional.
pub(crate) fn transaction_modes(words: &mut Words<'_>) -> Option<Modes> {
    let mut modes = Modes::default();
    while !words.at_end() {
        if words.take_all(&["isolation", "level"]) {
            modes.isolation = Some(isolation(words)?);
        } else if words.take_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if words.take_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if words.take_all(&["not", "deferrable"]) {
            modes.deferrable = Some(false);
        } else if words.take("deferrable") {
            modes.deferrable = Some(true);
        } else {
            return None;
        }
        words.take_punct(b',');
    }
    Some(modes)
}

fn isolation(words: &mut Words<'_>) -> Option<&'static str> {
    if words.take("serializable") {
        Some("serializable")
    } else if words.take_all(&["repeatable", "read"]) {
        Some("repeatable read")
    } else if words.take_all(&["read", "committed"]) {
        Some("read committed")
    } else if words.take_all(&["read", "uncommitted"]) {
        Some("read uncommitted")
    } else {
        None
    }
}

/// AND [NO] CHAIN up to the end.
fn chain(words: &mut Words<'_>) -> Option<bool> {
    let chain = words
        .take("and")
        .then(|| (!words.take("no"), words.take("chain")));
    match chain {
        _ if !words.at_end() => None,
        None => Some(false),
        Some((chain, true)) => Some(chain),
        Some((_, false)) => None,
    }
}

fn commit(words: &mut Words<'_>) -> Option<Kind> {
    if words.take("prepared") {
        return Some(Kind::CommitPrepared);
    }
    let _ = words.take_any(&["work", "transaction"]);
    Some(Kind::Commit { chain: chain(words)? })
}

fn rollback(words: &mut Words<'_>) -> Option<Kind> {
    if words.take("prepared") {
        return Some(Kind::RollbackPrepared);
    }
    let _ = words.take_any(&["work", "transaction"]);
    if words.take("to") {
        return Some(Kind::RollbackToSavepoint);
    }
    Some(Kind::Rollback { chain: chain(words)? })
}

fn prepare(words: &mut Words<'_>) -> Option<Kind> {
    let mut ahead = words.clone();
    if ahead.take("transaction") && matches!(ahead.token().kind, TokenKind::String | TokenKind::End) {
        return Some(Kind::PrepareTransaction);
    }
    let name = words.name()?;
    let types = if words.is_punct(b'(') {
        Some(words.parentheses()?)
    } else {
        None
    };
    if !words.take("as") || words.at_end() {
        return None;
    }
    Some(Kind::Prepare(Prepare {
        name,
        types,
        body: words.rest(),
    }))
}

/// EXECUTE with its name ahead.
fn execute(words: &mut Words<'_>, wrapped: bool) -> Option<Kind> {
    let token = words.token();
    let name_span = super::kind::Span::new(token.start, token.end);
    let name = words.name()?;
    let arguments = if words.is_punct(b'(') {
        Some(words.parentheses()?)
    } else {
        None
    };
    (wrapped || words.at_end()).then_some(Kind::Execute(Execute {
        name,
        name_span,
        arguments,
        wrapped,
    }))
}

/// What stands behind EXPLAIN and its options, where that is no query.
pub(crate) fn explained(mut words: Words<'_>) -> Option<Kind> {
    words.advance();
    if words.is_punct(b'(') {
        let inside = words.clone_after();
        let query = inside.is_punct(b'(')
            || ["select", "values", "with", "table"]
                .iter()
                .any(|verb| inside.is(verb));
        if query {
            return None;
        }
        let _options = words.parentheses();
    } else {
        while words.take_any(&["analyze", "analyse", "verbose"]).is_some() {}
    }
    if words.take("execute") {
        return execute(&mut words, true);
    }
    ["create", "declare", "refresh"]
        .iter()
        .any(|verb| words.is(verb))
        .then_some(Kind::Other)
}

fn deallocate(words: &mut Words<'_>) -> Option<Kind> {
    let mut ahead = words.clone();
    if ahead.take("prepare") && !ahead.at_end() {
        *words = ahead;
    }
    let name = if words.take("all") {
        None
    } else {
        Some(words.name()?)
    };
    words.at_end().then_some(Kind::Deallocate { name })
}

fn discard(words: &mut Words<'_>) -> Option<Kind> {
    let what = match words.take_any(&["all", "plans", "temp", "temporary", "sequences"])? {
        "all" => Discard::All,
        "plans" => Discard::Plans,
        "sequences" => Discard::Sequences,
        _ => Discard::Temp,
    };
    words.at_end().then_some(Kind::Discard(what))
}

fn unlisten(words: &mut Words<'_>) -> Option<Kind> {
    let channel = if words.text() == b"*" {
        words.advance();
        None
    } else {
        Some(words.name()?)
    };
    words.at_end().then_some(Kind::Unlisten { channel })
}

fn declare(words: &mut Words<'_>) -> Option<Kind> {
    let name = words.name()?;
    while words
        .take_any(&["binary", "asensitive", "insensitive", "no", "scroll"])
        .is_some()
    {}
    if !words.take("cursor") {
        return None;
    }
    let hold = words.take_all(&["with", "hold"]);
    Some(if hold {
        Kind::DeclareHold { name }
    } else {
        Kind::DeclareCursor { name }
    })
}

fn close(words: &mut Words<'_>) -> Option<Kind> {
    let name = if words.take("all") {
        None
    } else {
        Some(words.name()?)
    };
    words.at_end().then_some(Kind::CloseCursor { name })
}

fn fetch(words: &Words<'_>) -> Kind {
    // The cursor's name is the last word, whatever direction stands before it.
    let mut at = words.clone();
    let mut name = None;
    while !at.at_end() {
        name = super::words::name_of(at.token().kind, at.text()).map(Into::into);
        at.advance();
    }
    Kind::Fetch { name }
}

fn copy(mut words: Words<'_>) -> Option<Kind> {
    let mut ahead = words.clone();
    if ahead.take("binary")
        && !ahead.is("from")
        && !ahead.is("to")
        && !ahead.is_punct(b'.')
        && !ahead.is_punct(b'(')
    {
        words = ahead;
    }
    if words.is_punct(b'(') {
        words.parentheses()?;
    } else {
        words.name()?;
        while words.take_punct(b'.') {
            words.name()?;
        }
        if words.is_punct(b'(') {
            words.parentheses()?;
        }
    }
    let from = words.take_any(&["from", "to"])? == "from";
    Some(match words.take_any(&["stdin", "stdout"]) {
        Some(_) if from => Kind::CopyIn,
        Some(_) => Kind::CopyOut,
        None => Kind::Other,
    })
}

fn create(words: &mut Words<'_>) -> Kind {
    words.take_all(&["or", "replace"]);
    let _ = words.take_any(&["local", "global"]);
    if words.take_any(&["temp", "temporary"]).is_some() {
        return Kind::CreateTemp {
            drops_at_commit: drops_at_commit(words),
        };
    }
    if let Some(execute) = created_by_execute(words) {
        return execute;
    }
    let _ = words.take("unique");
    let what = words.take_any(&["database", "tablespace", "subscription", "index"]);
    match what {
        Some("index") if words.is("concurrently") => Kind::NoTransactionBlock,
        Some("index") | None => Kind::Ddl,
        Some(_) => Kind::NoTransactionBlock,
    }
}

/// CREATE TABLE ... AS EXECUTE name.
fn created_by_execute(words: &Words<'_>) -> Option<Kind> {
    let mut at = words.clone();
    if !at.take("table") && !at.take_all(&["unlogged", "table"]) {
        return None;
    }
    while !at.at_end() {
        if at.take_all(&["as", "execute"]) {
            return execute(&mut at, true);
        }
        at.advance();
    }
    None
}

fn drops_at_commit(words: &Words<'_>) -> bool {
    let mut at = words.clone();
    while !at.at_end() {
        if at.take_all(&["on", "commit", "drop"]) {
            return true;
        }
        at.advance();
    }
    false
}

fn alter(words: &mut Words<'_>) -> Kind {
    match words.take_any(&["system", "database", "subscription", "table"]) {
        Some("system" | "subscription") => Kind::NoTransactionBlock,
        Some("database") if mentions(words, &["set", "tablespace"]) => Kind::NoTransactionBlock,
        Some("table") if mentions(words, &["detach", "partition"]) && mentions(words, &["concurrently"]) => {
            Kind::NoTransactionBlock
        }
        _ => Kind::Ddl,
    }
}

fn drop_(words: &mut Words<'_>) -> Kind {
    match words.take_any(&["database", "tablespace", "subscription", "index"]) {
        Some("index") if words.is("concurrently") => Kind::NoTransactionBlock,
        Some("index") | None => Kind::Ddl,
        Some(_) => Kind::NoTransactionBlock,
    }
}

fn reindex(words: &Words<'_>) -> Kind {
    let mut at = words.clone();
    let _options = at.parentheses();
    let many = at.is("database") || at.is("system") || at.is("schema");
    if many || mentions(words, &["concurrently"]) {
        Kind::NoTransactionBlock
    } else {
        Kind::Ddl
    }
}

fn mentions(words: &Words<'_>, phrase: &[&str]) -> bool {
    let mut at = words.clone();
    while !at.at_end() {
        if at.take_all(phrase) {
            return true;
        }
        at.advance();
    }
    false
}

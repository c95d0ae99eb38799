//! How a request is run: decided from what it is, the state of the client's transaction and the mode. Pure.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use crds::PoolMode;
use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;

use super::local::{self, Status};
use crate::classify::{Class, Kind, Touches};

/// A transaction as far as the proxy itself keeps it. One that runs on a server belongs to the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transaction {
    /// None.
    None,
    /// BEGIN was answered and will be sent with the next request.
    Deferred(Bytes),
    /// It failed before or without a server: everything is refused until COMMIT or ROLLBACK.
    Failed,
    /// Its server was lost while nothing was asked of it: what is asked next, be it COMMIT, is the first to be told so.
    Lost,
}

impl Transaction {
    pub(super) fn status(&self) -> Status {
        match self {
            Self::None => Status::Idle,
            Self::Deferred(_) => Status::InTransaction,
            Self::Failed | Self::Lost => Status::Failed,
        }
    }

    /// Nothing is run in it any more.
    pub(super) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed | Self::Lost)
    }
}

/// An answer the proxy gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// EmptyQueryResponse.
    Empty,
    /// ReadyForQuery for a lone Sync.
    Sync,
    /// BEGIN, to be sent with the next request.
    Begin,
    /// COMMIT of a transaction no server knows of.
    Commit,
    /// ROLLBACK of one.
    Rollback,
    /// COMMIT or ROLLBACK without a transaction: PostgreSQL's warning.
    NoTransaction(&'static str),
    /// Anything in a failed transaction.
    Failed,
    /// The first thing asked of a transaction whose server was lost; with `over`, its COMMIT.
    Lost {
        /// The transaction has ended.
        over: bool,
    },
    /// What will end a failed transaction is made known, and nothing is run.
    Prepared,
}

impl Answer {
    /// Writes the answer and moves the transaction on. `input` is the request, `is_batch` its protocol.
    pub(super) fn write(
        &self,
        out: &mut BytesMut,
        input: &[u8],
        is_batch: bool,
        transaction: &mut Transaction,
    ) {
        let (outcome, next): (Result<(Option<ErrorFields>, &str), ErrorFields>, Transaction) = match self {
            Self::Empty => {
                pgnet::backend::empty_query(out);
                pgnet::backend::ready_for_query(out, transaction.status().byte());
                return;
            }
            Self::Sync => {
                pgnet::backend::ready_for_query(out, transaction.status().byte());
                return;
            }
            Self::Begin => (
                Ok((None, begin_tag(input))),
                Transaction::Deferred(Bytes::from_static(b"BEGIN")),
            ),
            Self::Commit => (Ok((None, "COMMIT")), Transaction::None),
            Self::Rollback => (Ok((None, "ROLLBACK")), Transaction::None),
            Self::NoTransaction(tag) => (Ok((Some(local::no_transaction()), tag)), Transaction::None),
            Self::Failed => (Err(local::in_failed_transaction()), Transaction::Failed),
            Self::Lost { over: true } => (Err(local::lost_transaction(true)), Transaction::None),
            Self::Lost { over: false } => (Err(local::lost_transaction(false)), Transaction::Failed),
            Self::Prepared => (Ok((None, "")), transaction.clone()),
        };
        let status = next.status();
        match (is_batch, outcome.as_ref()) {
            (true, outcome) => {
                let outcome = outcome.map(|(warning, tag)| (warning.as_ref(), *tag));
                local::batch(out, input, outcome, status);
            }
            (false, Ok((warning, tag))) => local::complete(out, warning.as_ref(), tag, status),
            (false, Err(fields)) => local::error(out, fields, status),
        }
        *transaction = next;
    }
}

/// The tag of a plain BEGIN: START TRANSACTION has its own.
fn begin_tag(input: &[u8]) -> &'static str {
    let has = |word: &[u8]| input.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
    if has(b"start") && !has(b"begin") {
        "START TRANSACTION"
    } else {
        "BEGIN"
    }
}

/// How a request is run.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    /// Answered here.
    Local(Answer),
    /// Refused before anything is sent; the transaction is then this.
    Refuse(Box<ErrorFields>, Transaction),
    /// In a queue with others.
    Shared,
    /// On a worker for itself.
    Lease,
}

/// What a batch of the extended protocol does, summed up.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Of all statements it executes.
    pub(super) class: Rc<Class>,
    /// It executes exactly one statement, once, and concerns no other.
    pub(super) single: bool,
    /// It executes nothing.
    pub(super) executes_nothing: bool,
    /// It is nothing but a Sync.
    pub(super) lone_sync: bool,
    /// It contains a statement that cannot be judged from its own messages (a portal of an earlier batch).
    pub(super) obscure: bool,
    /// It makes a statement with a name, or closes something.
    pub(super) names: bool,
    /// In a failed transaction: whatever it parses, binds or describes is COMMIT or ROLLBACK.
    pub(super) only_ends: bool,
}

/// A simple Query.
pub(super) fn query(class: &Class, transaction: &Transaction, mode: PoolMode, defer: bool) -> Decision {
    if class.kind == Kind::Empty {
        return Decision::Local(Answer::Empty);
    }
    if let Some(decision) = verb(class, transaction, mode, defer) {
        return decision;
    }
    if let Some(decision) = mode_check(class, mode) {
        return decision;
    }
    run(class, transaction)
}

/// A batch.
pub(super) fn batch(batch: &Batch, transaction: &Transaction, mode: PoolMode, defer: bool) -> Decision {
    if batch.lone_sync {
        return Decision::Local(Answer::Sync);
    }
    // What is to have a name, a worker has to have parsed. A failed transaction has none.
    if batch.single
        && !batch.obscure
        && (!batch.names || transaction.is_failed())
        && let Some(decision) = verb(&batch.class, transaction, mode, defer)
    {
        return decision;
    }
    if transaction.is_failed() {
        return Decision::Local(if batch.executes_nothing && batch.only_ends {
            Answer::Prepared
        } else {
            failed(transaction)
        });
    }
    if let Some(decision) = mode_check(&batch.class, mode) {
        return decision;
    }
    if batch.obscure {
        return Decision::Lease;
    }
    if batch.executes_nothing {
        return if matches!(transaction, Transaction::None) {
            Decision::Shared
        } else {
            Decision::Lease
        };
    }
    run(&batch.class, transaction)
}

/// BEGIN, COMMIT and ROLLBACK where the proxy can answer them itself.
fn verb(class: &Class, transaction: &Transaction, mode: PoolMode, defer: bool) -> Option<Decision> {
    let answer = match (&class.kind, transaction) {
        (Kind::Commit { chain: false }, Transaction::None) => Answer::NoTransaction("COMMIT"),
        (Kind::Rollback { chain: false }, Transaction::None) => Answer::NoTransaction("ROLLBACK"),
        (Kind::Commit { chain: false }, Transaction::Deferred(_)) => Answer::Commit,
        (Kind::Rollback { chain: false }, Transaction::Deferred(_)) => Answer::Rollback,
        (Kind::Commit { chain: false }, Transaction::Failed)
        | (Kind::Rollback { chain: false }, Transaction::Failed | Transaction::Lost) => Answer::Rollback,
        (Kind::Commit { chain: false }, Transaction::Lost) => Answer::Lost { over: true },
        (_, Transaction::Failed | Transaction::Lost) => failed(transaction),
        (Kind::Begin { plain: true, .. }, Transaction::None) if defer && mode != PoolMode::Statement => {
            Answer::Begin
        }
        _ => return None,
    };
    Some(Decision::Local(answer))
}

/// Whether it ends a transaction, failed or not.
pub(super) fn is_end(class: &Class) -> bool {
    matches!(
        class.kind,
        Kind::Commit { chain: false } | Kind::Rollback { chain: false }
    )
}

/// What anything in this failed transaction is told.
fn failed(transaction: &Transaction) -> Answer {
    match transaction {
        Transaction::Lost => Answer::Lost { over: false },
        _ => Answer::Failed,
    }
}

/// What the mode does not allow.
fn mode_check(class: &Class, mode: PoolMode) -> Option<Decision> {
    if mode != PoolMode::Statement {
        return None;
    }
    if class.transaction_verbs && !is_whole_transaction(class) {
        let fields = ErrorFields::new(
            Severity::Error,
            SqlState::FEATURE_NOT_SUPPORTED,
            "transaction commands are not allowed in statement mode",
        )
        .with_hint("Send the whole transaction in one Query message, or use poolMode: transaction.");
        return Some(Decision::Refuse(Box::new(fields), Transaction::Failed));
    }
    let what = state_that_cannot_move(class)?;
    let fields = ErrorFields::new(
        Severity::Error,
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("{what} would outlive the statement, which statement mode does not allow"),
    )
    .with_hint("Use poolMode: transaction or session for this database or user.");
    Some(Decision::Refuse(Box::new(fields), Transaction::None))
}

/// A list that begins and ends its own transaction and leaves nothing open.
fn is_whole_transaction(class: &Class) -> bool {
    match &class.kind {
        Kind::List(list) => list.whole_transaction,
        _ => false,
    }
}

/// Why a session will be pinned after a request of this class, as SHOW PINS names it.
pub(super) fn pin_reason(class: &Class) -> Option<&'static str> {
    Some(match state_that_cannot_move(class)? {
        "a temporary table" => "temporary table",
        "a session-level advisory lock" => "advisory lock",
        "a cursor WITH HOLD" => "hold cursor",
        other => other,
    })
}

/// Session state that cannot be made virtual, by the name users know it by.
pub(super) fn state_that_cannot_move(class: &Class) -> Option<&'static str> {
    let touches = class.touches;
    let temp = match &class.kind {
        Kind::CreateTemp { drops_at_commit } => !drops_at_commit,
        Kind::List(list) => {
            // Made and dropped in one Query, as some ORMs do with functions in pg_temp.
            let made = list
                .kinds
                .iter()
                .rposition(|kind| matches!(kind, Kind::CreateTemp { .. }));
            list.temp && !made.is_some_and(|at| list.kinds[at..].iter().any(|kind| matches!(kind, Kind::Ddl)))
        }
        _ => false,
    };
    [
        (temp, "a temporary table"),
        (
            touches.intersects(Touches::ADVISORY_LOCK),
            "a session-level advisory lock",
        ),
        (touches.intersects(Touches::HOLD_CURSOR), "a cursor WITH HOLD"),
        (touches.intersects(Touches::LOAD), "LOAD"),
        (touches.intersects(Touches::SETSEED), "setseed"),
        (touches.intersects(Touches::DBLINK), "a dblink connection"),
        (
            touches.intersects(Touches::REPLICATION_ORIGIN),
            "a replication origin",
        ),
        (touches.intersects(Touches::BACKUP), "a base backup"),
        (touches.intersects(Touches::SLOT), "a temporary slot or snapshot"),
    ]
    .into_iter()
    .find_map(|(is, what)| is.then_some(what))
}

fn run(class: &Class, transaction: &Transaction) -> Decision {
    match transaction {
        Transaction::Failed | Transaction::Lost => Decision::Local(failed(transaction)),
        Transaction::None if class.is_known_read() => Decision::Shared,
        _ => Decision::Lease,
    }
}

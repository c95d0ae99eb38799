//! A copy of what one database's catalog says about names, small enough to keep and to throw away whole.
//!
//! It is read by [`CATALOG_QUERY`] through a worker of the pool itself, with no more rights than the clients have, and judged here:
//! which relations may be read or written without running anybody's code, and which names are functions to beware of. In doubt a name
//! is not harmless.
//!
//! Operators, casts and overloads of built-in names are trusted where only a superuser could make them: functions in C, and members of
//! extensions that a superuser owns, if they are declared not volatile. Everything that any role can define is a user's code.

mod load;
mod path;

use std::collections::{HashMap, HashSet};

use super::facts::Named;
use super::kind::TableName;

pub(crate) use path::SearchPath;

/// One statement that any role may run on PostgreSQL 12 to 18. Rows of four texts `(kind, a, b, c)`, read by [`Catalog::from_rows`].
/// Every name and operator in it is qualified: the session's search_path cannot redirect it.
pub const CATALOG_QUERY: &str = include_str!("query.sql");

/// More rows than this are not kept: the database is served without a catalog, and nothing in it is a known read.
pub const CATALOG_ROWS_MAX: usize = 400_000;

/// A snapshot of one database.
#[derive(Debug)]
pub struct Catalog {
    generation: u64,
    relations: HashMap<Box<str>, Vec<Relation>>,
    functions: HashMap<Box<str>, FunctionFlags>,
    /// Operators whose function is a user's code.
    operators: HashSet<Box<str>>,
    types: HashMap<Box<str>, Vec<Type>>,
    /// Some cast calls a user's code, and nobody can see from a text where.
    casts_run_code: bool,
    /// Some domain's check calls a user's code.
    domains_run_code: bool,
    /// No other isolation level is anybody's default.
    reads_committed: bool,
}

#[derive(Debug, Clone)]
struct Relation {
    schema: Box<str>,
    /// Reading it runs nothing but harmless built-in functions.
    readable: bool,
    /// So does writing it.
    writable: bool,
    /// A column draws from a sequence by default.
    serial: bool,
}

#[derive(Debug, Clone)]
struct Type {
    schema: Box<str>,
    /// A base type, enum or range: casting to it runs only what a superuser installed.
    plain: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct FunctionFlags {
    builtin: bool,
    volatile: bool,
    /// One that is not built in is a user's code, or volatile (else all are C or an extension's, and not volatile).
    user_code: bool,
    /// One that is not built in takes a single argument, so that `x.name` can call it.
    user_of_one: bool,
    /// One in pg_catalog itself.
    user_in_catalog: bool,
}

/// How much a function does besides returning a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// Nothing; may run twice.
    None,
    /// Something that its name tells: a sequence, an advisory lock, a wait.
    Visible,
    /// Unknown.
    Hidden,
}

/// What is known of a relation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelationFacts {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) serial: bool,
}

impl Catalog {
    /// A number no other snapshot of this process has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether *read committed* is the isolation level of everybody who asks for no other.
    pub(crate) fn reads_committed(&self) -> bool {
        self.reads_committed
    }

    pub(crate) fn casts_run_code(&self) -> bool {
        self.casts_run_code
    }

    /// What is known of a table's name; of all that it could mean, the worst. `None`: it could mean nothing known.
    pub(crate) fn relation(&self, table: &TableName, path: Option<&SearchPath>) -> Option<RelationFacts> {
        let named = self.relations.get(&table.name)?;
        let meant = |relation: &&Relation| match (&table.schema, path) {
            (Some(schema), _) => relation.schema == *schema,
            (None, Some(path)) => path.has(&relation.schema),
            // A path that cannot be read may lead anywhere.
            (None, None) => true,
        };
        let worst = |a: RelationFacts, b: RelationFacts| RelationFacts {
            readable: a.readable && b.readable,
            writable: a.writable && b.writable,
            serial: a.serial || b.serial,
        };
        named.iter().filter(meant).map(Relation::facts).reduce(worst)
    }

    /// What calling `function` may do.
    pub(crate) fn function(&self, function: &Named) -> Effect {
        let name = &*function.name;
        let known = self.functions.get(name).copied().unwrap_or_default();
        let theirs = match function.schema.as_deref() {
            // An extension's overload of a built-in name (citext's max) does no more than the built-in one.
            None => !known.builtin || known.user_code,
            Some("pg_catalog") => known.user_in_catalog && known.user_code,
            Some(_) => true,
        };
        if theirs || !self.builtin_is_fit(name) {
            return Effect::Hidden;
        }
        builtin_effect(name, known.volatile)
    }

    fn builtin_is_fit(&self, name: &str) -> bool {
        !(self.domains_run_code && coerces_unseen(name))
    }

    /// Whether `x.name` can only be a column, or a harmless function.
    pub(crate) fn field_is_harmless(&self, name: &str) -> bool {
        match self.functions.get(name) {
            None => true,
            Some(known) => {
                !known.user_of_one && (!known.builtin || builtin_effect(name, known.volatile) == Effect::None)
            }
        }
    }

    pub(crate) fn operator_is_harmless(&self, name: &str) -> bool {
        !self.operators.contains(name)
    }

    pub(crate) fn type_is_harmless(&self, of: &Named) -> bool {
        let element = of
            .name
            .strip_prefix('_')
            .filter(|_| !self.types.contains_key(&of.name));
        if let Some(types) = self.types.get(element.unwrap_or(&of.name)) {
            let meant = |known: &&Type| of.schema.as_deref().is_none_or(|schema| *known.schema == *schema);
            let mut meant = types.iter().filter(meant).peekable();
            return meant.peek().is_some() && meant.all(|known| known.plain || !self.domains_run_code);
        }
        !self.domains_run_code && self.relations.contains_key(&of.name)
    }

    pub(crate) fn domains_run_code(&self) -> bool {
        self.domains_run_code
    }
}

impl Relation {
    fn facts(&self) -> RelationFacts {
        RelationFacts {
            readable: self.readable,
            writable: self.writable,
            serial: self.serial,
        }
    }
}

/// What a built-in function does, by its name and whether any of that name is volatile.
pub(crate) fn builtin_effect(name: &str, volatile: bool) -> Effect {
    if shows_session(name) {
        return Effect::Hidden;
    }
    // Not all that has an effect is declared volatile: txid_current is called stable.
    if super::touches::is_visible(name) {
        return Effect::Visible;
    }
    if !volatile || is_harmless_volatile(name) {
        return Effect::None;
    }
    if leaves_nothing(name) {
        Effect::Visible
    } else {
        Effect::Hidden
    }
}

/// Volatile functions that may be shared and repeated (MULTIPLEXING, part 4, 7).
fn is_harmless_volatile(name: &str) -> bool {
    matches!(
        name,
        "random"
            | "random_normal"
            | "clock_timestamp"
            | "timeofday"
            | "gen_random_uuid"
            | "uuidv4"
            | "uuidv7"
    )
}

/// Functions, volatile or not, whose answer is one session's own affair, or that run what another catalog entry says.
fn shows_session(name: &str) -> bool {
    matches!(
        name,
        "pg_prepared_statement"
            | "pg_cursor"
            | "pg_listening_channels"
            | "pg_my_temp_schema"
            | "pg_is_other_temp_schema"
            | "pg_backend_pid"
    ) || ["_to_xml", "_to_xmlschema", "_to_xml_and_xmlschema"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Functions that cast to a type which no part of the text names as one.
fn coerces_unseen(name: &str) -> bool {
    matches!(
        name,
        "json_populate_record"
            | "jsonb_populate_record"
            | "json_populate_recordset"
            | "jsonb_populate_recordset"
            | "jsonb_populate_record_valid"
            | "json_to_record"
            | "jsonb_to_record"
            | "json_to_recordset"
            | "jsonb_to_recordset"
            | "pg_input_is_valid"
            | "pg_input_error_info"
            | "record_in"
            | "record_recv"
            | "domain_in"
            | "domain_recv"
            | "array_in"
            | "array_recv"
    )
}

/// Volatile functions that leave nothing behind: they look at the server, or lock until the transaction ends.
fn leaves_nothing(name: &str) -> bool {
    matches!(
        name,
        "pg_advisory_xact_lock"
            | "pg_advisory_xact_lock_shared"
            | "pg_try_advisory_xact_lock"
            | "pg_try_advisory_xact_lock_shared"
            | "pg_is_in_recovery"
            | "pg_relation_size"
            | "pg_table_size"
            | "pg_indexes_size"
            | "pg_total_relation_size"
            | "pg_database_size"
            | "pg_tablespace_size"
            | "pg_lock_status"
            | "pg_blocking_pids"
            | "pg_current_wal_lsn"
            | "pg_current_wal_insert_lsn"
            | "pg_current_wal_flush_lsn"
            | "pg_last_wal_receive_lsn"
            | "pg_last_wal_replay_lsn"
            | "pg_last_xact_replay_timestamp"
            | "pg_partition_tree"
            | "pg_sequence_last_value"
            | "pg_control_system"
            | "pg_control_checkpoint"
    )
}

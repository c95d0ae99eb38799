//! From what a query names to what it is.

use std::rc::Rc;

use super::catalog::{Catalog, Effect, SearchPath};
use super::facts::{Facts, Head, Named};
use super::kind::{Class, Kind, Tables, Touches};
use super::statement::Verb;

/// The class of a query whose names are known.
pub(crate) fn of(facts: &Facts, catalog: Option<&Catalog>, path: Option<&SearchPath>) -> Class {
    let effect = catalog.map_or_else(|| without_catalog(facts), |catalog| effect(facts, catalog, path));
    let reads = reads_are_harmless(facts, catalog, path);
    let (writes, serial) = writes_are_harmless(facts, catalog, path);
    let neutral = reads && writes && effect <= Effect::Visible;
    let kind = match facts.head {
        Head::Query if reads && effect == Effect::None && !facts.locks => Kind::KnownRead,
        // FOR UPDATE and its like write to the rows they lock.
        Head::Query if facts.locks => Kind::Dml { neutral },
        Head::Query | Head::ExplainedDml => Kind::Read,
        Head::Dml => Kind::Dml { neutral },
        Head::Into { temp: true } => Kind::CreateTemp {
            drops_at_commit: false,
        },
        Head::Into { temp: false } => Kind::Ddl,
        Head::Other => Kind::Other,
    };
    let mut class = Class::of(kind);
    class.neutral = neutral && matches!(facts.head, Head::Query | Head::Dml);
    class.timeless = class.is_known_read()
        && facts.read.is_empty()
        && facts.ctes.is_empty()
        && facts.types.iter().all(own);
    if serial {
        class.touches |= Touches::SEQUENCE_DEFAULT;
    }
    class.tables = Some(Rc::new(Tables {
        read: facts.read.clone(),
        written: facts.written.clone(),
    }));
    class
}

/// The class of a query that the grammar was not asked about, or refused.
pub(crate) fn guessed(canonical: &[u8], verb: Verb) -> Class {
    let has = |word: &[u8]| {
        canonical.starts_with(word.get(1..).unwrap_or_default())
            || canonical.windows(word.len()).any(|at| at == word)
    };
    let writes = [&b" insert "[..], b" update ", b" delete ", b" merge "]
        .iter()
        .any(|word| has(word));
    Class::of(match verb {
        Verb::Dml => Kind::Dml { neutral: false },
        Verb::With | Verb::Explain | Verb::Select if writes => Kind::Dml { neutral: false },
        Verb::Select | Verb::With | Verb::Explain if !has(b" into ") => Kind::Read,
        _ => Kind::Other,
    })
}

/// A name PostgreSQL's grammar gives, or one that cannot mean anything else.
fn own(of: &Named) -> bool {
    of.schema.as_deref() == Some("pg_catalog")
}

/// Without a catalog only what the grammar itself defines is known.
fn without_catalog(facts: &Facts) -> Effect {
    let nothing = !facts.unproven
        && facts.functions.is_empty()
        && facts.fields.is_empty()
        && facts.operators.is_empty()
        && facts.types.iter().all(own);
    if nothing { Effect::None } else { Effect::Hidden }
}

fn effect(facts: &Facts, catalog: &Catalog, _path: Option<&SearchPath>) -> Effect {
    let hidden = facts.unproven
        || catalog.casts_run_code()
        || facts.fields.iter().any(|name| !catalog.field_is_harmless(name))
        || facts
            .operators
            .iter()
            .any(|name| !catalog.operator_is_harmless(name))
        || facts.types.iter().any(|of| !catalog.type_is_harmless(of));
    if hidden {
        return Effect::Hidden;
    }
    facts
        .functions
        .iter()
        .map(|function| catalog.function(function))
        .max()
        .unwrap_or(Effect::None)
}

fn reads_are_harmless(facts: &Facts, catalog: Option<&Catalog>, path: Option<&SearchPath>) -> bool {
    facts.read.iter().all(|table| {
        match catalog.and_then(|catalog| catalog.relation(table, path)) {
            Some(relation) => relation.readable,
            // Whether the name means a CTE takes its scope to tell; if it does not, the server knows no such table either.
            None => catalog.is_some() && table.schema.is_none() && facts.ctes.contains(&table.name),
        }
    })
}

/// Whether the tables written run nobody's code, and whether a default draws from a sequence.
fn writes_are_harmless(facts: &Facts, catalog: Option<&Catalog>, path: Option<&SearchPath>) -> (bool, bool) {
    if facts.written.is_empty() {
        return (true, false);
    }
    let Some(catalog) = catalog else {
        return (false, false);
    };
    let mut harmless = !catalog.domains_run_code();
    let mut serial = false;
    for table in &facts.written {
        match catalog.relation(table, path) {
            Some(relation) => {
                harmless &= relation.writable;
                serial |= relation.serial && facts.defaults;
            }
            None => harmless = false,
        }
    }
    (harmless, serial)
}

//! Tests that cross the files of this module.

mod golden;
pub(super) mod lexing;
mod soundness;

use super::{Catalog, Class, Classifier, Context, Kind, Lexing, Limits};

/// Rows of the catalog query on PostgreSQL 15 with `schema.sql` loaded.
const CATALOG_ROWS: &str = include_str!("catalog.tsv");

fn catalog() -> Catalog {
    let rows = CATALOG_ROWS.lines().map(|line| {
        let mut fields = line.split('\t').map(str::as_bytes);
        [fields.next(), fields.next(), fields.next(), fields.next()]
    });
    Catalog::from_rows(rows).unwrap()
}

fn context(catalog: Option<&Catalog>) -> Context<'_> {
    Context {
        catalog,
        role: "ann",
        search_path: "\"$user\", public",
        lexing: Lexing::Standard,
    }
}

/// The class of `sql` by a classifier that has seen nothing else.
fn fresh(sql: &str, catalog: Option<&Catalog>) -> Class {
    Classifier::new(Limits::default()).classify(sql.as_bytes(), &context(catalog))
}

fn kind(sql: &str) -> Kind {
    let catalog = catalog();
    fresh(sql, Some(&catalog)).kind
}

//! Ways in for the micro-benchmarks in `benches/`; no part of the product.

use std::rc::Rc;

use bytes::Bytes;

use super::settings::SettingsInterner;
use super::statement::{StatementInterner, StatementKey};
use crate::classify::{Class, Kind};

/// What stands for the key of a statement: one object per text, types and frozen settings.
pub struct Keys {
    settings: SettingsInterner,
    statements: StatementInterner,
    /// They are forgotten when nobody uses them.
    held: Vec<Rc<super::statement::Statement>>,
}

impl Keys {
    /// With so many statements known.
    #[must_use]
    pub fn new(known: usize) -> Self {
        let mut keys = Self {
            settings: SettingsInterner::default(),
            statements: StatementInterner::default(),
            held: Vec::new(),
        };
        for n in 0..known {
            let statement = keys.look_up(&Bytes::from(format!("select {n}")), &[("datestyle", "ISO")]);
            keys.held.push(statement);
        }
        keys
    }

    /// Finds (or makes) settings and the statement for them; true when it was known.
    pub fn find(&self, text: &Bytes, settings: &[(&str, &str)]) -> bool {
        Rc::strong_count(&self.look_up(text, settings)) > 1
    }

    fn look_up(&self, text: &Bytes, settings: &[(&str, &str)]) -> Rc<super::statement::Statement> {
        let owned = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let key = StatementKey {
            text: text.clone(),
            types: Bytes::from_static(&[0, 0]),
            frozen: self.settings.intern(owned).frozen(),
        };
        self.statements
            .intern(key, |_| (Rc::new(Class::of(Kind::Unknown)), 0))
    }
}

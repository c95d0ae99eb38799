//! The settings of a session and of a worker, interned: equal maps are one object, so equality is a pointer compare.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

/// Settings a statement freezes when it is parsed (MULTIPLEXING: literals are read as of Parse), and those that decide
/// what its names mean. Two sessions share a prepared statement only where all of these are equal.
const FROZEN_AT_PARSE: [&str; 13] = [
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "quote_all_identifiers",
    "role",
    "search_path",
    "session_authorization",
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
    "xmloption",
];

/// Encodings in which a byte of a character may look like a backslash or a quote: the lexer could be fooled.
const UNSAFE_ENCODINGS: [&str; 10] = [
    "sjis",
    "shiftjis",
    "mskanji",
    "shift_jis_2004",
    "big5",
    "gbk",
    "gb18030",
    "johab",
    "uhc",
    "win949",
];

/// Names (lower case) and values a session or a worker differs in from the server's defaults.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Settings {
    values: BTreeMap<String, String>,
    /// Identifies everything of `values` that a prepared statement depends on.
    frozen: Rc<str>,
    unsafe_lexing: bool,
    transaction_defaults: bool,
}

/// What has to be set on a worker for a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Difference<'a> {
    /// Nothing.
    None,
    /// These, in this order (role last: it may take the right to set others away).
    Set(Vec<(&'a str, &'a str)>),
    /// The worker has a setting the session has not, and its default is unknown: another worker must be found.
    Incompatible,
}

impl Settings {
    fn new(values: BTreeMap<String, String>) -> Self {
        let mut frozen = String::new();
        for name in FROZEN_AT_PARSE {
            if let Some(value) = values.get(name) {
                frozen.push_str(name);
                frozen.push('\0');
                frozen.push_str(value);
                frozen.push('\0');
            }
        }
        let off = |name: &str| {
            values.get(name).is_some_and(|v| {
                matches!(
                    v.to_ascii_lowercase().as_str(),
                    "off" | "false" | "no" | "0" | "f" | "n"
                )
            })
        };
        let encoding = values
            .get("client_encoding")
            .map(|v| v.trim_matches('\'').to_ascii_lowercase());
        let unsafe_lexing = off("standard_conforming_strings")
            || encoding.is_some_and(|e| {
                UNSAFE_ENCODINGS
                    .iter()
                    .any(|u| e.replace(['-', ' '], "") == u.replace('_', "") || e == *u)
            });
        let transaction_defaults = values.keys().any(|name| name.starts_with("default_transaction_"));
        Self {
            values,
            frozen: frozen.into(),
            unsafe_lexing,
            transaction_defaults,
        }
    }

    /// The value of `name` (lower case).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// What a prepared statement depends on.
    pub(super) fn frozen(&self) -> Rc<str> {
        self.frozen.clone()
    }

    /// The lexer cannot be trusted with statements of a session with these settings.
    pub(super) fn unsafe_lexing(&self) -> bool {
        self.unsafe_lexing
    }

    /// Sets what a transaction takes over when it begins: too late for a prefix, which stands inside it.
    pub(super) fn has_transaction_defaults(&self) -> bool {
        self.transaction_defaults
    }

    /// Whether [`Settings::difference`] is nothing, something that can be set, or `None`: incompatible.
    pub(super) fn differs(self: &Rc<Self>, base: &Rc<Self>) -> Option<bool> {
        if Rc::ptr_eq(self, base) {
            return Some(false);
        }
        // Both are in order: each name of the base is looked for from where the one before it was found.
        let mut own = self.values.iter();
        let mut same = self.values.len() == base.values.len();
        for (name, value) in &base.values {
            let (_, found) = own.find(|(own, _)| *own == name)?;
            same &= found == value;
        }
        Some(!same)
    }

    /// What has to be set on a worker whose base is `base` for a session with these settings.
    pub(super) fn difference<'a>(self: &'a Rc<Self>, base: &Rc<Self>) -> Difference<'a> {
        if Rc::ptr_eq(self, base) {
            return Difference::None;
        }
        if base.values.keys().any(|name| !self.values.contains_key(name)) {
            return Difference::Incompatible;
        }
        let mut set: Vec<(&str, &str)> = self
            .iter()
            .filter(|(name, value)| base.get(name) != Some(value))
            .collect();
        set.sort_by_key(|(name, _)| match *name {
            "session_authorization" => 1,
            "role" => 2,
            _ => 0,
        });
        if set.is_empty() {
            Difference::None
        } else {
            Difference::Set(set)
        }
    }
}

/// Makes equal settings one object.
#[derive(Default)]
pub(super) struct SettingsInterner(RefCell<HashMap<BTreeMap<String, String>, Weak<Settings>>>);

/// Above this many entries the interner drops those nobody uses.
const SWEEP_AT: usize = 1024;

impl SettingsInterner {
    /// The one object for these values. Names are folded to lower case.
    pub(super) fn intern(&self, values: impl IntoIterator<Item = (String, String)>) -> Rc<Settings> {
        let values: BTreeMap<String, String> = values
            .into_iter()
            .map(|(n, v)| (n.to_ascii_lowercase(), v))
            .collect();
        let mut known = self.0.borrow_mut();
        if let Some(settings) = known.get(&values).and_then(Weak::upgrade) {
            return settings;
        }
        if known.len() >= SWEEP_AT {
            known.retain(|_, settings| settings.strong_count() > 0);
        }
        let settings = Rc::new(Settings::new(values.clone()));
        known.insert(values, Rc::downgrade(&settings));
        settings
    }

    /// `settings` with some values changed; `None` removes one.
    pub(super) fn with(
        &self,
        settings: &Rc<Settings>,
        changes: Vec<(String, Option<String>)>,
    ) -> Rc<Settings> {
        let mut values = settings.values.clone();
        for (name, value) in changes {
            match value {
                Some(value) => values.insert(name, value),
                None => values.remove(&name),
            };
        }
        self.intern(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(interner: &SettingsInterner, pairs: &[(&str, &str)]) -> Rc<Settings> {
        interner.intern(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn equal_settings_are_one_object() {
        let interner = SettingsInterner::default();
        let a = settings(&interner, &[("DateStyle", "ISO"), ("app.x", "1")]);
        let b = settings(&interner, &[("app.x", "1"), ("datestyle", "ISO")]);
        assert!(Rc::ptr_eq(&a, &b));
    }

    #[test]
    fn a_role_is_set_last() {
        let interner = SettingsInterner::default();
        let base = settings(&interner, &[]);
        let mine = settings(
            &interner,
            &[
                ("role", "r"),
                ("statement_timeout", "5"),
                ("session_authorization", "s"),
            ],
        );
        assert_eq!(
            mine.difference(&base),
            Difference::Set(vec![
                ("statement_timeout", "5"),
                ("session_authorization", "s"),
                ("role", "r")
            ])
        );
    }

    #[test]
    fn a_worker_with_a_setting_the_session_lacks_is_incompatible() {
        let interner = SettingsInterner::default();
        let base = settings(&interner, &[("timezone", "UTC")]);
        assert_eq!(
            settings(&interner, &[]).difference(&base),
            Difference::Incompatible
        );
        assert_eq!(
            settings(&interner, &[("timezone", "PST8PDT")]).difference(&base),
            Difference::Set(vec![("timezone", "PST8PDT")])
        );
    }

    #[test]
    fn whether_they_differ_is_what_their_difference_says() {
        let interner = SettingsInterner::default();
        let values = [("a", "1"), ("a", "2"), ("b", "1"), ("role", "r"), ("role", "s")];
        let all: Vec<Rc<Settings>> = (0..1usize << values.len())
            .map(|chosen| {
                let chosen = values.iter().enumerate().filter(|(n, _)| chosen & (1 << n) != 0);
                settings(&interner, &chosen.map(|(_, pair)| *pair).collect::<Vec<_>>())
            })
            .collect();
        for (mine, base) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            let expected = match mine.difference(base) {
                Difference::None => Some(false),
                Difference::Set(_) => Some(true),
                Difference::Incompatible => None,
            };
            assert_eq!(mine.differs(base), expected, "{mine:?} on {base:?}");
        }
    }

    #[test]
    fn statements_depend_on_what_is_frozen_at_parse_and_on_nothing_else() {
        let interner = SettingsInterner::default();
        let plain = settings(&interner, &[("application_name", "a")]);
        let other = settings(&interner, &[("application_name", "b"), ("work_mem", "1MB")]);
        let german = settings(&interner, &[("datestyle", "German")]);
        assert_eq!(plain.frozen(), other.frozen());
        assert_ne!(plain.frozen(), german.frozen());
    }

    #[test]
    fn encodings_that_hide_a_backslash_are_not_lexed() {
        let interner = SettingsInterner::default();
        for encoding in ["SJIS", "Big5", "GBK", "gb18030", "UHC", "JOHAB", "SHIFT_JIS_2004"] {
            assert!(
                settings(&interner, &[("client_encoding", encoding)]).unsafe_lexing(),
                "{encoding}"
            );
        }
        for encoding in ["UTF8", "utf-8", "LATIN1", "EUC_JP"] {
            assert!(
                !settings(&interner, &[("client_encoding", encoding)]).unsafe_lexing(),
                "{encoding}"
            );
        }
        assert!(settings(&interner, &[("standard_conforming_strings", "off")]).unsafe_lexing());
    }
}

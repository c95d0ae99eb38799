//! SQLSTATE codes: five characters that say what went wrong, with the names of Appendix A of the PostgreSQL manual.
//!
//! Owns the type and the table of codes (in `codes`). Begin at [`SqlState`].

mod codes;

use std::fmt;

/// A SQLSTATE: five characters out of `0-9A-Z`; the first two are its class.
///
/// There is a constant for each code of Appendix A; where one name stands for two codes, the rarer one carries a prefix
/// (`WARNING_`, `S_R_E_`, `E_R_E_`, `E_R_I_E_`). Functions can raise codes of their own, so an unknown code is no error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// Takes what stands in a message. Whatever is not five of `0-9A-Z` becomes `XX000` ([`SqlState::INTERNAL_ERROR`]):
    /// a broken or hostile server may leave the code out or fill it with anything (CVE-2026-6666).
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match <[u8; 5]>::try_from(bytes) {
            Ok(code) if code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) => Self(code),
            _ => Self::INTERNAL_ERROR,
        }
    }

    /// The code itself, such as `53300`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The code as the five bytes that go on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }

    /// The class, such as `53`.
    #[must_use]
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or("XX")
    }

    /// The condition name of Appendix A, such as `too_many_connections`; `None` for a code that is not in it.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        codes::NAMES
            .binary_search_by(|(code, _)| code.cmp(self))
            .ok()
            .map(|at| codes::NAMES[at].1)
    }
}

impl Default for SqlState {
    fn default() -> Self {
        Self::INTERNAL_ERROR
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{self} {name}"),
            None => write!(f, "{self}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_every_name_is_found() {
        assert!(codes::NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(SqlState::TOO_MANY_CONNECTIONS.as_str(), "53300");
        for (code, name) in codes::NAMES {
            assert_eq!(code.name(), Some(*name));
            assert_eq!(SqlState::from_bytes(code.as_str().as_bytes()), *code);
        }
    }

    #[test]
    fn what_is_no_code_becomes_internal_error() {
        for bad in [
            &b""[..],
            b"5330",
            b"533000",
            b"53\x003",
            b"5330a",
            b"\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(SqlState::from_bytes(bad), SqlState::INTERNAL_ERROR, "{bad:?}");
        }
    }

    #[test]
    fn a_code_of_ones_own_is_kept() {
        let own = SqlState::from_bytes(b"ZZ123");
        assert_eq!((own.as_str(), own.class(), own.name()), ("ZZ123", "ZZ", None));
    }
}

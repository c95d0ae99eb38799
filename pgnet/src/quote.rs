//! SQL text for values and names (PC-09).
//!
//! The client library always speaks UTF-8 with its server, so no byte of a longer character can be mistaken for a quote or a
//! backslash here. A zero byte stays; a statement that has one is refused before it is sent.

/// A string constant that gives `value` whatever `standard_conforming_strings` is.
///
/// With a backslash inside it takes the form ` E'...'`, the blank keeping it apart from a word before it (as `PQescapeLiteral`).
#[must_use]
pub fn literal(value: &str) -> String {
    let escaped = value.contains('\\');
    let mut text = String::with_capacity(value.len() + 5);
    text.push_str(if escaped { " E'" } else { "'" });
    for c in value.chars() {
        if matches!(c, '\'' | '\\') {
            text.push(c);
        }
        text.push(c);
    }
    text.push('\'');
    text
}

/// A quoted identifier. It is always quoted: case matters, and no list of reserved words can be out of date.
#[must_use]
pub fn identifier(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for c in name.chars() {
        if c == '"' {
            text.push(c);
        }
        text.push(c);
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_or_backslash_cannot_leave_a_literal() {
        let table = [
            ("", "''"),
            ("plain", "'plain'"),
            ("O'Neill", "'O''Neill'"),
            ("\\", " E'\\\\'"),
            ("\\'; drop", " E'\\\\''; drop'"),
            ("$$é$$", "'$$é$$'"),
        ];
        for (value, expected) in table {
            assert_eq!(literal(value), expected);
        }
    }

    #[test]
    fn an_identifier_is_always_quoted() {
        for (name, expected) in [
            ("t", "\"t\""),
            ("Tab", "\"Tab\""),
            ("a\"b", "\"a\"\"b\""),
            ("", "\"\""),
        ] {
            assert_eq!(identifier(name), expected);
        }
    }
}

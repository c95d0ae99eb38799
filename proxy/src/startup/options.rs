//! The startup parameter `options`: command-line switches for one session.
//!
//! The words are split as `pg_split_opts` of the server does it: white space separates, a backslash takes the next
//! character as it is. Of the switches only the two that set a parameter are served: `-c name=value` and `--name=value`.

/// Why the switches are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionsError {
    /// A switch without `=`.
    #[error("{0} requires a value")]
    NoValue(String),
    /// Anything that is not a parameter.
    #[error("invalid command-line argument for server process: {0}")]
    NotServed(String),
}

/// The parameters that `options` sets, in order. A dash in a name stands for an underscore in the form `--name=value`
/// and in `-c`, as in the server.
///
/// # Errors
/// [`OptionsError`], to be answered with 42601 as the server does.
pub(super) fn parse(options: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut words = split(options).into_iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let (switch, setting) = if let Some(long) = word.strip_prefix("--") {
            ("--", long.to_owned())
        } else if let Some(rest) = word.strip_prefix("-c") {
            let setting = if rest.is_empty() {
                words.next()
            } else {
                Some(rest.to_owned())
            };
            (
                "-c ",
                setting.ok_or_else(|| OptionsError::NoValue("-c".to_owned()))?,
            )
        } else {
            return Err(OptionsError::NotServed(word));
        };
        match setting.split_once('=') {
            Some((name, value)) if !name.is_empty() => found.push((name.replace('-', "_"), value.to_owned())),
            _ => return Err(OptionsError::NoValue(format!("{switch}{setting}"))),
        }
    }
    Ok(found)
}

fn split(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            // What C's isspace calls space.
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(characters.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_become_parameters() {
        let cases: [(&str, &[(&str, &str)]); 10] = [
            ("", &[]),
            ("   ", &[]),
            ("-c search_path=app", &[("search_path", "app")]),
            ("-csearch_path=app", &[("search_path", "app")]),
            ("--search-path=app", &[("search_path", "app")]),
            ("  -c a=1\t--b=2\n-cc=3 ", &[("a", "1"), ("b", "2"), ("c", "3")]),
            (r"-c search_path=a,\ b", &[("search_path", "a, b")]),
            (r"-c x=back\\slash", &[("x", r"back\slash")]),
            ("-c x=a=b", &[("x", "a=b")]),
            ("-c x=", &[("x", "")]),
        ];
        for (options, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(n, v)| (n.to_string(), v.to_string()))
                .collect();
            assert_eq!(parse(options), Ok(expected), "{options:?}");
        }
    }

    #[test]
    fn other_switches_are_refused_with_the_words_of_the_server() {
        let cases = [
            ("-B 10", "invalid command-line argument for server process: -B"),
            ("plain", "invalid command-line argument for server process: plain"),
            ("-c", "-c requires a value"),
            ("-c x", "-c x requires a value"),
            ("--x", "--x requires a value"),
            ("--=1", "--=1 requires a value"),
            ("-", "invalid command-line argument for server process: -"),
            ("--", "-- requires a value"),
        ];
        for (options, expected) in cases {
            assert_eq!(parse(options).unwrap_err().to_string(), expected, "{options:?}");
        }
    }

    #[test]
    fn a_backslash_at_the_end_is_dropped() {
        assert_eq!(parse(r"-c x=1\"), Ok(vec![("x".into(), "1".into())]));
    }
}

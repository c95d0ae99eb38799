//! What a startup packet asks for: pure, from parameters to [`Wanted`].

use std::sync::Arc;

use crds::Routing;
use pgnet::sqlstate::SqlState;
use pgnet::startup::ProtocolVersion;

use super::options;
use crate::error::Refused;
use crate::limits::NAME_MAX;
use crate::metrics::Refusal;

/// The newest version of the protocol that is spoken.
pub(super) const NEWEST: ProtocolVersion = ProtocolVersion::V3_2;

/// The admin database and the name people know it by from another pooler.
const PSEUDO: [&str; 2] = ["pseudo", "pgbouncer"];

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The role, without suffix, as long as the server would take it.
    pub user: String,
    /// The database, likewise; the role's name when the client names none.
    pub database: String,
    /// Settings: `options` first, then those of the packet, each name once, the last value wins.
    pub parameters: Arc<Vec<(String, String)>>,
    /// A replication connection, and what it asked for: `true` or `database`.
    pub replication: Option<&'static str>,
    /// A suffix asked for replicas.
    pub read_only: bool,
    /// The admin database.
    pub pseudo: bool,
    /// The version that is spoken from here on.
    pub protocol: ProtocolVersion,
    /// NegotiateProtocolVersion has to be sent, with the options that are not known.
    pub negotiate: Option<Vec<String>>,
}

/// Reads the parameters of a startup packet.
///
/// # Errors
/// What PostgreSQL refuses, with its words.
pub(super) fn wanted(
    version: ProtocolVersion,
    parameters: Vec<(String, String)>,
    routing: &Routing,
) -> Result<Wanted, Refused> {
    if version.major != NEWEST.major {
        let text = format!("unsupported frontend protocol {version}: server supports 3.0 to {NEWEST}");
        return Err(Refused::fatal(
            Refusal::Protocol,
            SqlState::FEATURE_NOT_SUPPORTED,
            text,
        ));
    }
    let (mut user, mut database) = (String::new(), String::new());
    let mut replicates = None;
    let (mut set, mut of_packet, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in parameters {
        match name.as_str() {
            "user" => user = value,
            "database" => database = value,
            "options" => set = settings(&value)?,
            "replication" => replicates = replication(&value)?,
            _ if name.starts_with("_pq_.") => unknown.push(name),
            _ => of_packet.push((name, value)),
        }
    }
    if user.is_empty() {
        let text = "no PostgreSQL user name specified in startup packet";
        return Err(Refused::fatal(
            Refusal::Protocol,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            text,
        ));
    }
    let by_user = strip(&mut user, &routing.user_suffix);
    if database.is_empty() {
        database.clone_from(&user);
    }
    let by_database = strip(&mut database, &routing.database_suffix);
    truncate(&mut user);
    truncate(&mut database);
    let negotiate = (version > NEWEST || !unknown.is_empty()).then_some(unknown);
    set.extend(of_packet);
    Ok(Wanted {
        pseudo: PSEUDO.contains(&database.as_str()),
        replication: replicates,
        read_only: by_user || by_database,
        parameters: Arc::new(once(set)),
        protocol: version.min(NEWEST),
        user,
        database,
        negotiate,
    })
}

fn settings(value: &str) -> Result<Vec<(String, String)>, Refused> {
    options::parse(value)
        .map_err(|error| Refused::fatal(Refusal::Protocol, SqlState::SYNTAX_ERROR, error.to_string()))
}

/// `replication` is a boolean, or the word `database`.
fn replication(value: &str) -> Result<Option<&'static str>, Refused> {
    if value == "database" {
        return Ok(Some("database"));
    }
    match boolean(value) {
        Some(false) => Ok(None),
        Some(true) => Ok(Some("true")),
        None => {
            let text = format!("invalid value for parameter \"replication\": \"{value}\"");
            Err(
                Refused::fatal(Refusal::Protocol, SqlState::INVALID_PARAMETER_VALUE, text)
                    .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."),
            )
        }
    }
}

/// Replication was asked for, and the manifest does not allow it.
pub(super) fn no_replication() -> Refused {
    let text = "replication connections are not served by pgstmtpool";
    Refused::fatal(Refusal::NotServed, SqlState::FEATURE_NOT_SUPPORTED, text)
        .hint("Connect to the server directly, or set allowReplication.")
}

/// A boolean as the server reads one: any unique beginning of the words.
fn boolean(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str| !value.is_empty() && word.starts_with(&value);
    match value.as_str() {
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        _ if begins("true") || begins("yes") => Some(true),
        _ if begins("false") || begins("no") => Some(false),
        _ => None,
    }
}

/// Takes the suffix off. A name that is nothing but the suffix keeps it.
fn strip(name: &mut String, suffix: &str) -> bool {
    if suffix.is_empty() || name.len() <= suffix.len() || !name.ends_with(suffix) {
        return false;
    }
    name.truncate(name.len() - suffix.len());
    true
}

/// Cuts a name as the server does, but never inside of a character.
fn truncate(name: &mut String) {
    if name.len() > NAME_MAX {
        let cut = (0..=NAME_MAX)
            .rev()
            .find(|cut| name.is_char_boundary(*cut))
            .unwrap_or(0);
        name.truncate(cut);
    }
}

/// Each name once, in the order of the first, with the last value: names of settings do not regard case.
fn once(settings: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::with_capacity(settings.len());
    for (name, value) in settings {
        match kept
            .iter_mut()
            .find(|(known, _)| known.eq_ignore_ascii_case(&name))
        {
            Some(known) => known.1 = value,
            None => kept.push((name, value)),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(parameters: &[(&str, &str)]) -> Result<Wanted, Refused> {
        let routing = Routing {
            user_suffix: "_r".into(),
            database_suffix: "@ro".into(),
            ..Routing::default()
        };
        let parameters = parameters
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        wanted(ProtocolVersion::V3_0, parameters, &routing)
    }

    fn code(refused: Refused) -> String {
        refused
            .answer
            .map(|answer| answer.code.as_str().to_owned())
            .unwrap_or_default()
    }

    #[test]
    fn the_database_is_the_user_unless_it_is_named() {
        let cases = [
            (&[("user", "app")][..], ("app", "app", false)),
            (&[("user", "app"), ("database", "")], ("app", "app", false)),
            (&[("user", "app"), ("database", "shop")], ("app", "shop", false)),
            (&[("user", "app_r")], ("app", "app", true)),
            (&[("user", "app"), ("database", "shop@ro")], ("app", "shop", true)),
            (&[("user", "_r"), ("database", "@ro")], ("_r", "@ro", false)),
            (&[("user", "a"), ("user", "b")], ("b", "b", false)),
        ];
        for (parameters, (user, database, read_only)) in cases {
            let wanted = ask(parameters).unwrap();
            assert_eq!(
                (wanted.user.as_str(), wanted.database.as_str(), wanted.read_only),
                (user, database, read_only),
                "{parameters:?}"
            );
        }
    }

    #[test]
    fn without_a_user_nobody_logs_in() {
        for parameters in [&[][..], &[("user", "")], &[("database", "shop")]] {
            assert_eq!(code(ask(parameters).unwrap_err()), "28000", "{parameters:?}");
        }
    }

    #[test]
    fn names_are_cut_at_63_bytes_and_not_inside_of_a_character() {
        // PgBouncer ended at a database name that was too long (CVE-2012-4575).
        let wanted = ask(&[("user", &"u".repeat(9_000)), ("database", &"\u{e9}".repeat(40))]).unwrap();
        assert_eq!(wanted.user, "u".repeat(63));
        assert_eq!(wanted.database, "\u{e9}".repeat(31));
    }

    #[test]
    fn replication_is_a_boolean_or_a_database() {
        let asks = |value| ask(&[("user", "a"), ("replication", value)]).unwrap().replication;
        for value in ["true", "on", "1", "yes", "t", "YES"] {
            assert_eq!(asks(value), Some("true"), "{value}");
        }
        assert_eq!(asks("database"), Some("database"));
        for value in ["false", "off", "0", "no"] {
            assert_eq!(asks(value), None, "{value}");
        }
        for value in ["maybe", "", "o"] {
            assert_eq!(
                code(ask(&[("user", "a"), ("replication", value)]).unwrap_err()),
                "22023",
                "{value}"
            );
        }
    }

    #[test]
    fn settings_of_the_packet_win_over_options_and_names_come_once() {
        let wanted = ask(&[
            ("user", "a"),
            ("DateStyle", "ISO"),
            ("options", "-c datestyle=German -c work_mem=1MB"),
            ("client_encoding", "'utf-8'"),
        ])
        .unwrap();
        let expected = [
            ("datestyle", "ISO"),
            ("work_mem", "1MB"),
            ("client_encoding", "'utf-8'"),
        ];
        assert_eq!(
            *wanted.parameters,
            expected.map(|(n, v)| (n.to_string(), v.to_string()))
        );
    }

    #[test]
    fn bad_options_are_a_syntax_error() {
        assert_eq!(
            code(ask(&[("user", "a"), ("options", "-B 1")]).unwrap_err()),
            "42601"
        );
    }

    #[test]
    fn versions_and_unknown_options_are_negotiated() {
        let ask = |minor, parameters: &[(&str, &str)]| {
            let parameters = parameters
                .iter()
                .map(|(n, v)| (n.to_string(), v.to_string()))
                .collect();
            let wanted = wanted(
                ProtocolVersion { major: 3, minor },
                parameters,
                &Routing::default(),
            )
            .unwrap();
            (wanted.protocol.minor, wanted.negotiate, wanted.parameters.len())
        };
        assert_eq!(ask(0, &[("user", "a")]), (0, None, 0));
        assert_eq!(ask(2, &[("user", "a")]), (2, None, 0));
        assert_eq!(ask(9999, &[("user", "a")]), (2, Some(vec![]), 0));
        assert_eq!(
            ask(0, &[("user", "a"), ("_pq_.x", "1")]),
            (0, Some(vec!["_pq_.x".into()]), 0)
        );
        let two = super::wanted(
            ProtocolVersion { major: 2, minor: 0 },
            vec![],
            &Routing::default(),
        );
        assert_eq!(code(two.unwrap_err()), "0A000");
    }

    #[test]
    fn the_admin_database_has_two_names() {
        for name in ["pseudo", "pgbouncer"] {
            assert!(
                ask(&[("user", "a"), ("database", name)]).unwrap().pseudo,
                "{name}"
            );
        }
        assert!(!ask(&[("user", "a")]).unwrap().pseudo);
        assert!(ask(&[("user", "pseudo")]).unwrap().pseudo, "as the default too");
    }
}

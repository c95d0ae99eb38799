//! The text of the admin database: a few verbs, read without regard to case.

/// A command of the admin database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Only spaces, comments and semicolons.
    Empty,
    /// Rows about this proxy.
    Show(Topic),
    /// Hold new statements: of one database, or of all.
    Pause(Option<String>),
    /// Let them go on.
    Resume(Option<String>),
    /// Read the manifest and the certificates again.
    Reload,
    /// End the program.
    Shutdown(Shutdown),
    /// What drivers send unasked (SET, BEGIN, COMMIT, ROLLBACK): answered with this tag, nothing is done.
    Courtesy(&'static str),
}

/// What `SHOW` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    /// The commands.
    Help,
    /// This program's name and version.
    Version,
    /// One row a pool.
    Pools,
    /// One row a client.
    Clients,
    /// How many clients there are.
    ClientCount,
    /// One row a worker.
    Servers,
    /// Workers that are held for one session, and why.
    Pins,
    /// The servers and what part they play.
    Databases,
    /// Totals since the start.
    Stats,
    /// The limits and times in force.
    Config,
}

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// At once, as SIGQUIT.
    Now,
    /// Idle clients leave, the others have `timeouts.drain`, as SIGTERM.
    Drain,
}

/// A text that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown command: {0}")]
pub(super) struct Unknown(String);

/// The commands with what they do, for `SHOW HELP`.
pub(super) const HELP: &[(&str, &str)] = &[
    ("SHOW HELP", "this list"),
    ("SHOW VERSION", "the version of this proxy"),
    ("SHOW POOLS", "clients, waiting requests and workers of each pool"),
    ("SHOW CLIENTS", "the clients that are connected"),
    ("SHOW SERVERS", "the connections to servers (workers)"),
    ("SHOW PINS", "workers held for one session, since when and why"),
    ("SHOW DATABASES", "the servers, their parts and the epoch"),
    ("SHOW STATS", "totals since the start"),
    ("SHOW CONFIG", "the limits and times in force"),
    ("PAUSE [database]", "hold new requests, let the running ones end"),
    ("RESUME [database]", "go on"),
    ("RELOAD", "read the manifest and the certificates again"),
    (
        "SHUTDOWN [WAIT_FOR_CLIENTS|WAIT_FOR_SERVERS]",
        "end at once, or drain first",
    ),
];

/// How much of a text that is not known is repeated in the error.
const QUOTED_MAX: usize = 80;

/// The commands of one Query, in order.
///
/// # Errors
/// The first text that is no command; the ones before it are not returned: nothing of such a Query is carried out.
pub(super) fn parse(text: &str) -> Result<Vec<Command>, Unknown> {
    let statements = words(text);
    let commands: Result<Vec<_>, _> = statements
        .iter()
        .filter(|statement| !statement.is_empty())
        .map(|words| one(words))
        .collect();
    commands.map(|list| {
        if list.is_empty() {
            vec![Command::Empty]
        } else {
            list
        }
    })
}

fn one(words: &[Word]) -> Result<Command, Unknown> {
    let folded: Vec<String> = words.iter().map(Word::keyword).collect();
    let folded: Vec<&str> = folded.iter().map(String::as_str).collect();
    Ok(match folded.as_slice() {
        ["show", topic] => Command::Show(topic_of(topic).ok_or_else(|| unknown(words))?),
        ["cmd"] => Command::Show(Topic::Help),
        ["fe"] | ["fe", "list"] => Command::Show(Topic::Clients),
        ["fe", "count"] => Command::Show(Topic::ClientCount),
        ["pool"] | ["pool", "list"] => Command::Show(Topic::Pools),
        ["pool", "show"] => Command::Show(Topic::Servers),
        ["pause"] => Command::Pause(None),
        ["pause", _] => Command::Pause(words.get(1).map(Word::name)),
        ["resume"] => Command::Resume(None),
        ["resume", _] => Command::Resume(words.get(1).map(Word::name)),
        ["reload"] => Command::Reload,
        ["shutdown"] => Command::Shutdown(Shutdown::Now),
        ["shutdown", "wait_for_clients" | "wait_for_servers"] => Command::Shutdown(Shutdown::Drain),
        ["set", _, ..] => Command::Courtesy("SET"),
        ["begin"] => Command::Courtesy("BEGIN"),
        ["commit"] => Command::Courtesy("COMMIT"),
        ["rollback"] => Command::Courtesy("ROLLBACK"),
        _ => return Err(unknown(words)),
    })
}

fn topic_of(word: &str) -> Option<Topic> {
    Some(match word {
        "help" | "cmd" => Topic::Help,
        "version" | "pool_version" | "server_version" => Topic::Version,
        "pools" | "pool_pools" => Topic::Pools,
        "clients" | "fe" => Topic::Clients,
        "servers" | "pool_processes" => Topic::Servers,
        "pins" => Topic::Pins,
        "databases" | "nodes" | "pool_nodes" => Topic::Databases,
        "stats" => Topic::Stats,
        "config" | "pool_status" => Topic::Config,
        _ => return None,
    })
}

fn unknown(words: &[Word]) -> Unknown {
    let mut text: String = words
        .iter()
        .map(|word| word.text.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    if let Some((cut, _)) = text.char_indices().nth(QUOTED_MAX) {
        text.truncate(cut);
        text.push_str("...");
    }
    Unknown(text)
}

/// A word, and whether it stood in double quotes.
#[derive(Debug, Default)]
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    /// As a keyword: a quoted word never is one.
    fn keyword(&self) -> String {
        if self.quoted {
            String::from("\"")
        } else {
            self.text.to_ascii_lowercase()
        }
    }

    /// As an identifier: folded unless it was quoted.
    fn name(&self) -> String {
        if self.quoted {
            self.text.clone()
        } else {
            self.text.to_lowercase()
        }
    }
}

/// Splits at semicolons and spaces, outside of quotes and comments.
fn words(text: &str) -> Vec<Vec<Word>> {
    let mut statements = vec![Vec::new()];
    let mut word: Option<Word> = None;
    let mut rest = text.chars().peekable();
    let end_word = |word: &mut Option<Word>, statements: &mut Vec<Vec<Word>>| {
        if let (Some(word), Some(statement)) = (word.take(), statements.last_mut()) {
            statement.push(word);
        }
    };
    while let Some(character) = rest.next() {
        match character {
            ';' => {
                end_word(&mut word, &mut statements);
                statements.push(Vec::new());
            }
            '-' if rest.peek() == Some(&'-') => {
                end_word(&mut word, &mut statements);
                rest.by_ref().find(|c| *c == '\n');
            }
            '/' if rest.peek() == Some(&'*') => {
                end_word(&mut word, &mut statements);
                let mut before = '\0';
                rest.next();
                rest.by_ref()
                    .find(|c| std::mem::replace(&mut before, *c) == '*' && *c == '/');
            }
            '"' => {
                let quoted = word.get_or_insert_default();
                quoted.quoted = true;
                while let Some(inner) = rest.next() {
                    if inner == '"' && rest.next_if_eq(&'"').is_none() {
                        break;
                    }
                    quoted.text.push(inner);
                }
            }
            space if space.is_whitespace() => end_word(&mut word, &mut statements),
            other => word.get_or_insert_default().text.push(other),
        }
    }
    end_word(&mut word, &mut statements);
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_without_regard_to_case() {
        let cases: [(&str, Command); 18] = [
            ("SHOW POOLS", Command::Show(Topic::Pools)),
            ("show pools;", Command::Show(Topic::Pools)),
            ("  Show\n\tClients ;; ", Command::Show(Topic::Clients)),
            ("-- ping\nSHOW /* a */ VERSION", Command::Show(Topic::Version)),
            ("fe count", Command::Show(Topic::ClientCount)),
            ("cmd", Command::Show(Topic::Help)),
            ("PAUSE", Command::Pause(None)),
            ("PAUSE Shop", Command::Pause(Some("shop".into()))),
            ("PAUSE \"Shop\"\"s;\"", Command::Pause(Some("Shop\"s;".into()))),
            ("pause \"\"", Command::Pause(Some(String::new()))),
            ("resume shop", Command::Resume(Some("shop".into()))),
            ("RELOAD", Command::Reload),
            ("shutdown", Command::Shutdown(Shutdown::Now)),
            ("SHUTDOWN WAIT_FOR_CLIENTS", Command::Shutdown(Shutdown::Drain)),
            ("SET extra_float_digits = 3", Command::Courtesy("SET")),
            ("BEGIN", Command::Courtesy("BEGIN")),
            ("", Command::Empty),
            (" ; /**/ -- x", Command::Empty),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(vec![expected]), "{text:?}");
        }
    }

    #[test]
    fn anything_else_is_unknown() {
        for text in [
            "select 1",
            "show",
            "show all tables",
            "\"show\" pools",
            "shutdown please",
            "pause a b",
            "sho\u{1F600}",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let long = parse(&"x".repeat(10_000)).unwrap_err().to_string();
        assert!(long.len() < 120, "{long}");
    }

    #[test]
    fn a_query_with_an_unknown_command_is_not_begun() {
        assert_eq!(parse("PAUSE; nonsense; RESUME"), Err(Unknown("nonsense".into())));
        assert_eq!(
            parse("PAUSE; RESUME"),
            Ok(vec![Command::Pause(None), Command::Resume(None)])
        );
    }

    #[test]
    fn every_command_of_the_help_is_known() {
        for (form, _) in HELP {
            let text = form.split(['[', '|']).next().unwrap_or(form);
            assert!(parse(text).is_ok(), "{form}");
        }
    }
}

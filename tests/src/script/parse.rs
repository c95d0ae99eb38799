//! The text of a script.

use std::path::Path;

use crate::wire::encode;

/// A parsed script.
#[derive(Debug)]
pub struct Script {
    /// The file's name without its extension.
    pub name: String,
    /// The pool modes in which its transcript must equal PostgreSQL's; none named: all.
    pub modes: Vec<String>,
    /// What to do.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Debug)]
pub struct Line {
    /// Its number in the file.
    pub number: usize,
    /// The connection it is about.
    pub connection: String,
    /// Its text, for the transcript.
    pub text: String,
    /// What it does.
    pub step: Step,
}

/// What a line does.
#[derive(Debug)]
pub enum Step {
    /// Opens a connection with these startup parameters on top of user and database.
    Connect(Vec<(String, String)>),
    /// Adds a message to what is sent next; does the server answer it with a ReadyForQuery?
    Message(Vec<u8>, bool),
    /// Sends and reads.
    Wait(Until),
    /// Sends.
    Send,
    /// Sends, and expects silence.
    Quiet,
    /// Closes the socket.
    Drop,
    /// Cancels.
    Cancel,
    /// SQL straight at the server.
    Admin(String),
    /// The same until it says `t`.
    Until(String),
}

/// What a `wait` waits for.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// As many ReadyForQuery as requests.
    Ready,
    /// A frame with this tag.
    Tag(u8),
    /// The end of the stream.
    Eof,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(Vec<u8>),
    List(Vec<Token>),
}

impl Script {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self::parse(&name, &text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Parses a text.
    ///
    /// # Errors
    /// Names the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut script = Self {
            name: name.to_owned(),
            modes: Vec::new(),
            lines: Vec::new(),
        };
        for (at, raw) in text.lines().enumerate() {
            let trimmed = raw.trim();
            if let Some(modes) = trimmed.strip_prefix("# modes:") {
                script.modes.extend(modes.split_whitespace().map(str::to_owned));
            }
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let line = line(at + 1, trimmed).map_err(|e| format!("line {}: {e}: {trimmed}", at + 1))?;
            script.lines.push(line);
        }
        Ok(script)
    }

    /// Must it give PostgreSQL's transcript in this pool mode?
    pub fn applies_to(&self, mode: &str) -> bool {
        self.modes.is_empty() || self.modes.iter().any(|m| m == mode)
    }
}

fn line(number: usize, text: &str) -> Result<Line, String> {
    let (connection, rest) = match text.split_once('>') {
        Some((name, rest)) if name.len() <= 2 && name.chars().all(char::is_alphanumeric) => {
            (name, rest.trim())
        }
        _ => ("A", text),
    };
    let tokens = tokens(rest)?;
    let Some((Token::Word(verb), args)) = tokens.split_first() else {
        return Err("no verb".to_owned());
    };
    let step = step(verb, args)?;
    Ok(Line {
        number,
        connection: connection.to_owned(),
        text: rest.to_owned(),
        step,
    })
}

fn step(verb: &str, args: &[Token]) -> Result<Step, String> {
    let message = |bytes: Vec<u8>| Ok(Step::Message(bytes, false));
    match verb {
        "Q" => {
            let parts: Vec<Vec<u8>> = (0..args.len())
                .map(|at| text(args, at))
                .collect::<Result<_, _>>()?;
            Ok(Step::Message(encode::query(&parts.concat()), true))
        }
        "P" => message(encode::parse(
            &text(args, 0)?,
            &text(args, 1)?,
            &numbers(args, 2)?,
        )),
        "B" => {
            let (formats, results) = (numbers(args, 3)?, numbers(args, 4)?);
            message(encode::bind(
                &text(args, 0)?,
                &text(args, 1)?,
                &formats,
                &values(args, 2)?,
                &results,
            ))
        }
        "D" => message(encode::describe(kind(args)?, &text(args, 1)?)),
        "C" => message(encode::close(kind(args)?, &text(args, 1)?)),
        "E" => {
            let rows = args.get(1).map_or(Ok(0), number)?;
            message(encode::execute(&text(args, 0).unwrap_or_default(), rows))
        }
        "S" => Ok(Step::Message(encode::sync(), true)),
        "H" => message(encode::frame(b'H', &[])),
        "X" => message(encode::frame(b'X', &[])),
        "d" => message(encode::frame(b'd', &text(args, 0)?)),
        "c" => message(encode::frame(b'c', &[])),
        "f" => message(encode::copy_fail(&text(args, 0)?)),
        "F" => {
            let function = args.first().ok_or("no function")?;
            Ok(Step::Message(
                encode::function_call(number(function)?, &values(args, 1)?),
                true,
            ))
        }
        "raw" => message(text(args, 0)?),
        "connect" => args
            .iter()
            .map(setting)
            .collect::<Result<_, _>>()
            .map(Step::Connect),
        "wait" => until(args.first()),
        "send" => Ok(Step::Send),
        "quiet" => Ok(Step::Quiet),
        "drop" => Ok(Step::Drop),
        "cancel" => Ok(Step::Cancel),
        "admin" => Ok(Step::Admin(utf8(text(args, 0)?)?)),
        "until" => Ok(Step::Until(utf8(text(args, 0)?)?)),
        other => Err(format!("unknown verb {other:?}")),
    }
}

fn until(token: Option<&Token>) -> Result<Step, String> {
    match token {
        None => Ok(Step::Wait(Until::Ready)),
        Some(Token::Word(word)) if word == "eof" => Ok(Step::Wait(Until::Eof)),
        Some(Token::Word(word)) if word.len() == 1 => Ok(Step::Wait(Until::Tag(word.as_bytes()[0]))),
        Some(other) => Err(format!("cannot wait for {other:?}")),
    }
}

fn setting(token: &Token) -> Result<(String, String), String> {
    let Token::Word(word) = token else {
        return Err("name=value".to_owned());
    };
    let (name, value) = word.split_once('=').ok_or("name=value")?;
    Ok((name.to_owned(), value.replace('+', " ")))
}

fn text(args: &[Token], at: usize) -> Result<Vec<u8>, String> {
    match args.get(at) {
        Some(Token::Text(bytes)) => Ok(bytes.clone()),
        Some(Token::Word(word)) => Ok(word.as_bytes().to_vec()),
        other => Err(format!("argument {}: a string, not {other:?}", at + 1)),
    }
}

fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|e| e.to_string())
}

fn kind(args: &[Token]) -> Result<u8, String> {
    text(args, 0)?.first().copied().ok_or_else(|| "S or P".to_owned())
}

fn number<T: std::str::FromStr>(token: &Token) -> Result<T, String> {
    match token {
        Token::Word(word) => word.parse().map_err(|_| format!("{word:?} is not a number")),
        other => Err(format!("a number, not {other:?}")),
    }
}

fn numbers<T: std::str::FromStr>(args: &[Token], at: usize) -> Result<Vec<T>, String> {
    match args.get(at) {
        None => Ok(Vec::new()),
        Some(Token::List(items)) => items.iter().map(number).collect(),
        Some(other) => Err(format!("a list, not {other:?}")),
    }
}

fn values(args: &[Token], at: usize) -> Result<Vec<Option<Vec<u8>>>, String> {
    let Some(Token::List(items)) = args.get(at) else {
        return Ok(Vec::new());
    };
    let value = |item: &Token| match item {
        Token::Word(word) if word == "null" => Ok(None),
        Token::Word(word) => Ok(Some(word.as_bytes().to_vec())),
        Token::Text(bytes) => Ok(Some(bytes.clone())),
        Token::List(_) => Err("a list in a list".to_owned()),
    };
    items.iter().map(value).collect()
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut rest = text.as_bytes();
    let mut out: Vec<Vec<Token>> = vec![Vec::new()];
    while let Some((first, tail)) = rest.split_first() {
        match first {
            b' ' | b',' | b'\t' => rest = tail,
            b'[' => {
                out.push(Vec::new());
                rest = tail;
            }
            b']' => {
                let list = out.pop().filter(|_| !out.is_empty()).ok_or("] without [")?;
                out.last_mut().ok_or("] without [")?.push(Token::List(list));
                rest = tail;
            }
            b'"' => {
                let (mut bytes, mut tail) = string(tail)?;
                while let Some(more) = tail.strip_prefix(b"+\"") {
                    let (joined, behind) = string(more)?;
                    bytes.extend(joined);
                    tail = behind;
                }
                out.last_mut().ok_or("]")?.push(Token::Text(bytes));
                rest = tail;
            }
            _ => {
                let end = rest
                    .iter()
                    .position(|b| matches!(b, b' ' | b',' | b']' | b'\t'))
                    .unwrap_or(rest.len());
                out.last_mut()
                    .ok_or("]")?
                    .push(Token::Word(utf8(rest[..end].to_vec())?));
                rest = &rest[end..];
            }
        }
    }
    if out.len() == 1 {
        out.pop().ok_or_else(String::new)
    } else {
        Err("[ without ]".to_owned())
    }
}

/// The rest of a string behind its opening quote, and what follows it.
fn string(text: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let byte = *text.get(at).ok_or("a string without end")?;
        at += 1;
        match byte {
            b'"' => break,
            b'\\' => {
                let (byte, used) = escape(&text[at..])?;
                out.push(byte);
                at += used;
            }
            other => out.push(other),
        }
    }
    let rest = &text[at..];
    let Some(tail) = rest.strip_prefix(b"*") else {
        return Ok((out, rest));
    };
    let digits = tail.iter().take_while(|b| b.is_ascii_digit()).count();
    let times: usize = utf8(tail[..digits].to_vec())?
        .parse()
        .map_err(|_| "a number behind *")?;
    Ok((out.repeat(times), &tail[digits..]))
}

fn escape(text: &[u8]) -> Result<(u8, usize), String> {
    match text {
        [b'n', ..] => Ok((b'\n', 1)),
        [b't', ..] => Ok((b'\t', 1)),
        [b'r', ..] => Ok((b'\r', 1)),
        [c @ (b'"' | b'\\'), ..] => Ok((*c, 1)),
        [b'x', high, low, ..] => {
            let digits = utf8(vec![*high, *low])?;
            u8::from_str_radix(&digits, 16)
                .map(|b| (b, 3))
                .map_err(|e| e.to_string())
        }
        _ => Err("an unknown escape".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_message_it_names() {
        let script = Script::parse("t", "B> B \"\" s1 [\"a\\x00\", null] [0 1]\nQ \"a\"*3").unwrap();
        assert_eq!(script.lines[0].connection, "B");
        let Step::Message(bytes, false) = &script.lines[0].step else {
            panic!("{:?}", script.lines[0])
        };
        assert_eq!(
            *bytes,
            encode::bind(b"", b"s1", &[0, 1], &[Some(b"a\0".to_vec()), None], &[])
        );
        let Step::Message(bytes, true) = &script.lines[1].step else {
            panic!("{:?}", script.lines[1])
        };
        assert_eq!(*bytes, encode::query(b"aaa"));
    }

    #[test]
    fn a_greater_sign_inside_sql_names_no_connection() {
        let script = Script::parse("t", "Q \"select 1>0\"").unwrap();
        assert_eq!(script.lines[0].connection, "A");
    }

    #[test]
    fn faults_name_their_line() {
        let fault = Script::parse("t", "\nfly").unwrap_err();
        assert!(fault.starts_with("line 2: unknown verb"), "{fault}");
    }
}

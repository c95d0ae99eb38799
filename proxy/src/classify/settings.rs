//! SET, RESET, SHOW and `set_config`: which parameters a text touches, and the values it gives them where that is plain to see.

use std::rc::Rc;

use super::kind::{Kind, Show};
use super::lexer::{Token, TokenKind};
use super::words::{Words, string_value};

/// A statement, or a list of nothing else, that sets parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStatement {
    /// In order.
    pub items: Vec<SetItem>,
}

/// What one SET or RESET does. Names are canonical: lower case, `timezone` for TIME ZONE, `client_encoding` for NAMES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetItem {
    /// SET.
    Set {
        /// The parameter. `role` and `session_authorization` are parameters like others.
        name: Rc<str>,
        /// The value in the form `set_config` takes; `None` where it is not plain to see (a string with escapes).
        value: Option<Rc<[u8]>>,
        /// SET LOCAL: for the transaction only.
        local: bool,
    },
    /// RESET, SET ... TO DEFAULT.
    Reset {
        /// The parameter.
        name: Rc<str>,
        /// SET LOCAL ... TO DEFAULT.
        local: bool,
    },
    /// RESET ALL.
    ResetAll,
}

impl SetItem {
    /// The parameter it touches; `None` means all.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Set { name, .. } | Self::Reset { name, .. } => Some(name),
            Self::ResetAll => None,
        }
    }
}

/// One call of `set_config` that is not plainly local to its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetConfig {
    /// The parameter's name.
    pub name: Argument,
    /// Its value.
    pub value: Argument,
    /// `false` as written; `None` where it takes evaluating.
    pub local: Option<bool>,
}

/// An argument of a call, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A string constant's value.
    Text(Rc<[u8]>),
    /// `$n`: its value comes with Bind.
    Param(u16),
    /// Anything else.
    Other,
}

/// Parameters whose values are lists of names: the server quotes each element of a SET.
const QUOTED_LISTS: [&str; 5] = [
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "local_preload_libraries",
    "shared_preload_libraries",
];

/// SET with its words ahead; `None`: not understood.
pub(crate) fn set(words: &mut Words<'_>) -> Option<Kind> {
    if words.take("constraints") {
        return Some(Kind::SetConstraints);
    }
    if words.take_all(&["session", "characteristics", "as", "transaction"]) {
        return transaction_defaults(words);
    }
    if words.take_all(&["session", "authorization"]) {
        return authorization_value(words, false);
    }
    let local = words.take_any(&["local", "session"]) == Some("local");
    if words.take("transaction") {
        return Some(Kind::SetTransaction);
    }
    if words.take_all(&["session", "authorization"]) {
        return authorization_value(words, local);
    }
    let (name, mut values) = if words.take_all(&["time", "zone"]) {
        (Rc::from("timezone"), time_zone(words)?)
    } else if words.is("role") && !is_assignment(&words.clone_after()) {
        words.advance();
        (Rc::from("role"), vec![value(words)?])
    } else if words.take("names") {
        let value = if words.at_end() {
            Value::Default
        } else {
            value(words)?
        };
        (Rc::from("client_encoding"), vec![value])
    } else if words.take("schema") {
        (Rc::from("search_path"), vec![Value::Text(words.string()?)])
    } else if words.take_all(&["xml", "option"]) {
        (Rc::from("xmloption"), vec![Value::Text(words.name()?.to_vec())])
    } else {
        assignment(words)?
    };
    if !words.at_end() {
        return None;
    }
    if name.starts_with("transaction_") && is_transaction_mode(&name) {
        return Some(Kind::SetTransaction);
    }
    if values.len() == 1 && matches!(values.first(), Some(Value::Default)) {
        return Some(only(SetItem::Reset { name, local }));
    }
    let value = flattened(&name, &mut values);
    Some(only(SetItem::Set { name, value, local }))
}

/// RESET with its words ahead.
pub(crate) fn reset(words: &mut Words<'_>) -> Option<Kind> {
    let item = if words.take("all") {
        SetItem::ResetAll
    } else if words.take_all(&["time", "zone"]) {
        SetItem::Reset {
            name: "timezone".into(),
            local: false,
        }
    } else if words.take_all(&["session", "authorization"]) {
        SetItem::Reset {
            name: "session_authorization".into(),
            local: false,
        }
    } else if words.take_all(&["transaction", "isolation", "level"]) {
        return Some(Kind::SetTransaction);
    } else {
        let name = parameter(words)?;
        if is_transaction_mode(&name) {
            return Some(Kind::SetTransaction);
        }
        SetItem::Reset { name, local: false }
    };
    words.at_end().then(|| only(item))
}

/// SHOW with its words ahead.
pub(crate) fn show(words: &mut Words<'_>) -> Option<Kind> {
    let name: Option<Rc<str>> = if words.take("all") {
        None
    } else if words.take_all(&["time", "zone"]) {
        Some("timezone".into())
    } else if words.take_all(&["session", "authorization"]) {
        Some("session_authorization".into())
    } else if words.take_all(&["transaction", "isolation", "level"]) {
        Some("transaction_isolation".into())
    } else {
        Some(parameter(words)?)
    };
    words.at_end().then_some(Kind::Show(Show { name }))
}

fn only(item: SetItem) -> Kind {
    Kind::Set(Rc::new(SetStatement { items: vec![item] }))
}

fn is_transaction_mode(name: &str) -> bool {
    matches!(
        name,
        "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" | "transaction_snapshot"
    )
}

/// One value of a SET.
enum Value {
    Default,
    Text(Vec<u8>),
    /// It is there, but cannot be read without the server.
    Opaque,
}

/// A possibly dotted parameter name in its canonical form.
fn parameter(words: &mut Words<'_>) -> Option<Rc<str>> {
    let mut name = String::from_utf8(words.name()?.to_vec()).ok()?;
    while words.take_punct(b'.') {
        name.push('.');
        name.push_str(std::str::from_utf8(&words.name()?).ok()?);
    }
    name.make_ascii_lowercase();
    Some(match name.as_str() {
        "sort_mem" => "work_mem".into(),
        "vacuum_mem" => "maintenance_work_mem".into(),
        _ => name.into(),
    })
}

fn is_assignment(words: &Words<'_>) -> bool {
    words.is("to") || words.text() == b"="
}

fn assignment(words: &mut Words<'_>) -> Option<(Rc<str>, Vec<Value>)> {
    let name = parameter(words)?;
    if !is_assignment(words) {
        return None;
    }
    words.advance();
    if words.take("default") {
        return Some((name, vec![Value::Default]));
    }
    let mut values = vec![value(words)?];
    while words.take_punct(b',') {
        values.push(value(words)?);
    }
    Some((name, values))
}

fn value(words: &mut Words<'_>) -> Option<Value> {
    let token = words.token();
    match token.kind {
        TokenKind::Word if words.take("default") => Some(Value::Default),
        TokenKind::Word | TokenKind::QuotedName => Some(Value::Text(words.name()?.to_vec())),
        TokenKind::String => {
            let value = words.string().map_or(Value::Opaque, Value::Text);
            if matches!(value, Value::Opaque) {
                words.advance();
            }
            Some(value)
        }
        TokenKind::Operator | TokenKind::Number => {
            let mut text = Vec::new();
            if words.text() == b"-" {
                text.push(b'-');
                words.advance();
            } else if words.text() == b"+" {
                words.advance();
            }
            if words.token().kind != TokenKind::Number {
                return None;
            }
            text.extend_from_slice(words.text());
            words.advance();
            Some(Value::Text(text))
        }
        _ => None,
    }
}

fn time_zone(words: &mut Words<'_>) -> Option<Vec<Value>> {
    if words.take("local") || words.take("default") {
        return Some(vec![Value::Default]);
    }
    if words.take("interval") {
        let _precision = words.parentheses();
        let mut text = b"INTERVAL '".to_vec();
        text.extend(words.string()?);
        text.push(b'\'');
        while words.take_any(&["hour", "to", "minute"]).is_some() {}
        return Some(vec![Value::Text(text)]);
    }
    Some(vec![value(words)?])
}

fn authorization_value(words: &mut Words<'_>, local: bool) -> Option<Kind> {
    let name: Rc<str> = "session_authorization".into();
    let value = value(words)?;
    if !words.at_end() {
        return None;
    }
    Some(only(match value {
        Value::Default => SetItem::Reset { name, local },
        Value::Text(text) => SetItem::Set {
            name,
            value: Some(text.into()),
            local,
        },
        Value::Opaque => SetItem::Set {
            name,
            value: None,
            local,
        },
    }))
}

/// SET SESSION CHARACTERISTICS AS TRANSACTION ...: the defaults of later transactions.
fn transaction_defaults(words: &mut Words<'_>) -> Option<Kind> {
    let modes = super::statement::transaction_modes(words)?;
    let set = |name: &str, value: &str| SetItem::Set {
        name: name.into(),
        value: Some(value.as_bytes().into()),
        local: false,
    };
    let on = |flag: bool| if flag { "on" } else { "off" };
    let mut items = Vec::new();
    if let Some(isolation) = modes.isolation {
        items.push(set("default_transaction_isolation", isolation));
    }
    if let Some(read_only) = modes.read_only {
        items.push(set("default_transaction_read_only", on(read_only)));
    }
    if let Some(deferrable) = modes.deferrable {
        items.push(set("default_transaction_deferrable", on(deferrable)));
    }
    (!items.is_empty()).then(|| Kind::Set(Rc::new(SetStatement { items })))
}

/// The values as `set_config` takes them, quoted where the server would.
fn flattened(name: &str, values: &mut Vec<Value>) -> Option<Rc<[u8]>> {
    let quote = QUOTED_LISTS.contains(&name);
    let mut text = Vec::new();
    for value in values.drain(..) {
        let Value::Text(value) = value else { return None };
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        if quote {
            text.extend(quoted(&value))
        } else {
            text.extend(value)
        }
    }
    Some(text.into())
}

fn quoted(name: &[u8]) -> Vec<u8> {
    let plain = name
        .first()
        .is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'_')
        && name
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_');
    if plain {
        return name.to_vec();
    }
    let mut quoted = vec![b'"'];
    for byte in name {
        if *byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    quoted
}

/// The calls of `set_config` in a statement, except those that are plainly local.
pub(crate) fn set_config_calls(mut words: Words<'_>) -> Vec<SetConfig> {
    let mut calls = Vec::new();
    while !words.at_end() {
        let named = words.name().is_some_and(|name| *name == *b"set_config");
        if !named {
            if !words.at_end() && super::words::name_of(words.token().kind, words.text()).is_none() {
                words.advance();
            }
            continue;
        }
        let call = if words.is_punct(b'(') {
            call(&mut words.clone())
        } else {
            unread()
        };
        if call.local != Some(true) {
            calls.push(call);
        }
    }
    calls
}

fn unread() -> SetConfig {
    SetConfig {
        name: Argument::Other,
        value: Argument::Other,
        local: None,
    }
}

fn call(words: &mut Words<'_>) -> SetConfig {
    let mut arguments = vec![Vec::new()];
    let mut depth = 0_usize;
    while !words.at_end() {
        let token = words.token();
        match token.kind {
            TokenKind::Punct(b'(' | b'[') => depth += 1,
            TokenKind::Punct(b')' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && token.kind == TokenKind::Punct(b',') {
            arguments.push(Vec::new());
        } else if !(depth == 1 && token.kind == TokenKind::Punct(b'('))
            && let Some(argument) = arguments.last_mut()
        {
            argument.push((token, words.text()));
        }
        words.advance();
    }
    let [name, value, local] = arguments.as_slice() else {
        return unread();
    };
    let local = match local.as_slice() {
        [(token, text)] if token.kind == TokenKind::Word && text.eq_ignore_ascii_case(b"true") => Some(true),
        [(token, text)] if token.kind == TokenKind::Word && text.eq_ignore_ascii_case(b"false") => {
            Some(false)
        }
        _ => None,
    };
    SetConfig {
        name: argument(name),
        value: argument(value),
        local,
    }
}

fn argument(tokens: &[(Token, &[u8])]) -> Argument {
    let (token, text) = match tokens {
        [one] => *one,
        [one, (cast, sign), (_, of)]
            if cast.kind == TokenKind::Double
                && *sign == b"::"
                && [&b"text"[..], b"varchar", b"name"]
                    .iter()
                    .any(|name| of.eq_ignore_ascii_case(name)) =>
        {
            *one
        }
        _ => return Argument::Other,
    };
    match token.kind {
        TokenKind::Param => {
            let number = text.get(1..).and_then(|digits| std::str::from_utf8(digits).ok());
            number
                .and_then(|digits| digits.parse().ok())
                .map_or(Argument::Other, Argument::Param)
        }
        kind => string_value(kind, text).map_or(Argument::Other, |value| Argument::Text(value.into())),
    }
}

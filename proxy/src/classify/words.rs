//! Reading a statement by its words, for everything that is not a query: utility statements have a plain head.

use super::kind::{Name, Span};
use super::lexer::{Lexer, Token, TokenKind};

/// Longest name the server keeps, in bytes (`NAMEDATALEN` - 1).
const NAME_BYTES_MAX: usize = 63;

/// A place in a statement; copying it costs nothing, so looking ahead is reading from a copy.
#[derive(Debug, Clone)]
pub(crate) struct Words<'a> {
    sql: &'a [u8],
    end: usize,
    lexer: Lexer<'a>,
    token: Token,
}

impl<'a> Words<'a> {
    /// Reads the statement at `start..end` of `sql`.
    pub(crate) fn new(sql: &'a [u8], start: usize, end: usize) -> Self {
        let sql = sql.get(..end).unwrap_or(sql);
        let mut lexer = Lexer::new(sql, start);
        let token = lexer.token();
        Self {
            sql,
            end,
            lexer,
            token,
        }
    }

    /// The token it stands at.
    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// The bytes of the token it stands at.
    pub(crate) fn text(&self) -> &'a [u8] {
        self.sql.get(self.token.start..self.token.end).unwrap_or_default()
    }

    pub(crate) fn advance(&mut self) {
        self.token = self.lexer.token();
    }

    /// A copy of it, one token on.
    pub(crate) fn clone_after(&self) -> Self {
        let mut after = self.clone();
        after.advance();
        after
    }

    /// Whether nothing is left.
    pub(crate) fn at_end(&self) -> bool {
        self.token.kind == TokenKind::End
    }

    /// From the token it stands at to the end of the statement.
    pub(crate) fn rest(&self) -> Span {
        Span::new(self.token.start, self.end)
    }

    /// Whether it stands at this word (no quotes, any case).
    pub(crate) fn is(&self, word: &str) -> bool {
        self.token.kind == TokenKind::Word && self.text().eq_ignore_ascii_case(word.as_bytes())
    }

    pub(crate) fn is_punct(&self, byte: u8) -> bool {
        self.token.kind == TokenKind::Punct(byte)
    }

    /// Steps over `word` if it stands there.
    pub(crate) fn take(&mut self, word: &str) -> bool {
        let found = self.is(word);
        if found {
            self.advance();
        }
        found
    }

    pub(crate) fn take_punct(&mut self, byte: u8) -> bool {
        let found = self.is_punct(byte);
        if found {
            self.advance();
        }
        found
    }

    /// Steps over one of `words`; which one it was.
    pub(crate) fn take_any<'w>(&mut self, words: &[&'w str]) -> Option<&'w str> {
        let found = words.iter().find(|word| self.is(word)).copied();
        if found.is_some() {
            self.advance();
        }
        found
    }

    /// Steps over all of `words` if they stand there in this order, else stays.
    pub(crate) fn take_all(&mut self, words: &[&str]) -> bool {
        let mut ahead = self.clone();
        let found = words.iter().all(|word| ahead.take(word));
        if found {
            *self = ahead;
        }
        found
    }

    /// Steps over a name; as the server will see it.
    pub(crate) fn name(&mut self) -> Option<Name> {
        let name = name_of(self.token.kind, self.text())?;
        self.advance();
        Some(name.into())
    }

    /// Steps over a string; its value. `None` where it stays in place: no string, or one with escapes.
    pub(crate) fn string(&mut self) -> Option<Vec<u8>> {
        let value = string_value(self.token.kind, self.text())?;
        self.advance();
        Some(value)
    }

    /// Steps over a group in parentheses; its inside.
    pub(crate) fn parentheses(&mut self) -> Option<Span> {
        if !self.take_punct(b'(') {
            return None;
        }
        let start = self.token.start;
        let mut depth = 1_usize;
        while !self.at_end() {
            match self.token.kind {
                TokenKind::Punct(b'(') => depth += 1,
                TokenKind::Punct(b')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let end = self.token.start;
                self.advance();
                return Some(Span::new(start, end));
            }
            self.advance();
        }
        None
    }
}

/// A name as the server will see it; `None` for anything else, or where that takes decoding escapes.
pub(crate) fn name_of(kind: TokenKind, text: &[u8]) -> Option<Vec<u8>> {
    let name = match kind {
        TokenKind::Word => text.to_ascii_lowercase(),
        TokenKind::QuotedName => undouble(text.get(1..text.len().checked_sub(1)?)?, b'"'),
        _ => return None,
    };
    Some(clipped(name))
}

/// The value of a string constant that is plain to see: `'..'` in one piece, dollar quotes, `E'..'` without a backslash.
pub(crate) fn string_value(kind: TokenKind, text: &[u8]) -> Option<Vec<u8>> {
    if kind != TokenKind::String {
        return None;
    }
    if let Some(rest) = text.strip_prefix(b"$") {
        let tag = rest.iter().position(|byte| *byte == b'$')? + 2;
        return Some(text.get(tag..text.len().checked_sub(tag)?)?.to_vec());
    }
    let text = match text.strip_prefix(b"E").or_else(|| text.strip_prefix(b"e")) {
        Some(rest) if rest.contains(&b'\\') => return None,
        Some(rest) => rest,
        None => text,
    };
    let inside = text.strip_prefix(b"'")?.strip_suffix(b"'")?;
    let mut at = 0;
    while let Some(found) = inside.get(at..)?.iter().position(|byte| *byte == b'\'') {
        if inside.get(at + found + 1) != Some(&b'\'') {
            return None; // pieces on several lines
        }
        at += found + 2;
    }
    Some(undouble(inside, b'\''))
}

fn undouble(inside: &[u8], quote: u8) -> Vec<u8> {
    let mut value = Vec::with_capacity(inside.len());
    let mut skip = false;
    for byte in inside {
        if *byte == quote && !skip {
            skip = true;
            value.push(*byte);
        } else if *byte == quote {
            skip = false;
        } else {
            skip = false;
            value.push(*byte);
        }
    }
    value
}

/// Cut as the server cuts names, not inside a UTF-8 character.
fn clipped(mut name: Vec<u8>) -> Vec<u8> {
    if name.len() > NAME_BYTES_MAX {
        let mut end = NAME_BYTES_MAX;
        while end > 0 && name.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end -= 1;
        }
        name.truncate(end);
    }
    name
}

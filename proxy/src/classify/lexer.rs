//! PostgreSQL's lexical rules (`scan.l`, versions 12 to 18) with standard_conforming_strings on, without any allocation.
//!
//! It must never disagree with the server about where a literal, a comment or a statement ends: everything else rests on that.
//! Where versions differ (`1from`, `0x1F`) the token is marked [`Lexer::odd`], and nothing is proven about such a text.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or a name without quotes.
    Word,
    /// `"name"`.
    QuotedName,
    /// `U&"name"`: what it says depends on its escapes.
    UnicodeName,
    /// `'..'`, `E'..'`, `U&'..'` and dollar-quoted strings.
    String,
    /// `N'..'`.
    NationalString,
    /// `B'..'`.
    BitString,
    /// `X'..'`.
    HexString,
    /// Any number.
    Number,
    /// `$1`.
    Param,
    /// A run of operator characters.
    Operator,
    /// One of `( ) [ ] , ; . :` or a byte that starts no token.
    Punct(u8),
    /// `::`, `:=` or `..`.
    Double,
    /// The end of the text.
    End,
}

/// One token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Its first byte.
    pub start: usize,
    /// One behind its last byte.
    pub end: usize,
}

/// Walks through a text, token by token.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    /// A literal, name or comment has no end: the server refuses the whole text.
    pub broken: bool,
    /// Something was met that servers read differently, or whose meaning is not in plain sight.
    pub odd: bool,
}

const SPACE: u8 = 1;
const NAME_START: u8 = 2;
const DIGIT: u8 = 4;
const DOLLAR: u8 = 8;
const OPERATOR: u8 = 16;
const NAME_PART: u8 = NAME_START | DIGIT | DOLLAR;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c | 0x0b => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => NAME_START,
            b'0'..=b'9' => DIGIT,
            b'$' => DOLLAR,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        byte += 1;
    }
    table
}

impl<'a> Lexer<'a> {
    /// Starts at byte `at` of `sql`, which must not be inside a token.
    #[must_use]
    pub fn new(sql: &'a [u8], at: usize) -> Self {
        Self {
            sql,
            at,
            broken: false,
            odd: false,
        }
    }

    #[inline]
    fn class(&self, at: usize) -> u8 {
        self.sql.get(at).map_or(0, |byte| CLASSES[*byte as usize])
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.sql.get(at).copied().unwrap_or(0)
    }

    /// Skips blanks and comments; `true` if it stopped at a token. Each comment is shown to `comment` as (start, end).
    pub fn skip_blank(&mut self, mut comment: impl FnMut(usize, usize)) -> bool {
        while let Some(&byte) = self.sql.get(self.at) {
            if CLASSES[byte as usize] & SPACE != 0 {
                self.at += 1;
                continue;
            }
            let start = self.at;
            match (byte, self.byte(start + 1)) {
                (b'-', b'-') => self.at = self.line_end(start),
                (b'/', b'*') => self.at = self.comment_end(start),
                _ => return true,
            }
            comment(start, self.at);
        }
        false
    }

    fn line_end(&self, start: usize) -> usize {
        let rest = self.sql.get(start..).unwrap_or_default();
        rest.iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'))
            .map_or(self.sql.len(), |length| start + length)
    }

    fn comment_end(&mut self, start: usize) -> usize {
        let mut depth = 1_usize;
        let mut at = start + 2;
        while at < self.sql.len() {
            match (self.byte(at), self.byte(at + 1)) {
                (b'/', b'*') => {
                    depth += 1;
                    at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        return at;
                    }
                }
                _ => at += 1,
            }
        }
        self.broken = true;
        self.sql.len()
    }

    /// The next token; [`TokenKind::End`] for ever once the text is used up.
    #[inline]
    pub fn token(&mut self) -> Token {
        let mut start = self.run(self.at, SPACE);
        self.at = start;
        if matches!(self.byte(start), b'-' | b'/') {
            self.skip_blank(|_, _| {});
            start = self.at;
        }
        let Some(&byte) = self.sql.get(start) else {
            return Token {
                kind: TokenKind::End,
                start,
                end: start,
            };
        };
        let class = CLASSES[byte as usize];
        let kind = if class & NAME_START != 0 {
            if matches!(self.byte(start + 1), b'\'' | b'&') {
                self.word_or_prefixed(byte)
            } else {
                self.word()
            }
        } else if class & DIGIT != 0 || (byte == b'.' && self.class(start + 1) & DIGIT != 0) {
            self.number();
            TokenKind::Number
        } else if class & OPERATOR != 0 {
            self.operator();
            TokenKind::Operator
        } else {
            self.other(byte)
        };
        Token {
            kind,
            start,
            end: self.at,
        }
    }

    fn other(&mut self, byte: u8) -> TokenKind {
        let start = self.at;
        match byte {
            b'\'' => self.string(start, false, TokenKind::String),
            b'"' => self.quoted_name(start, TokenKind::QuotedName),
            b'$' => self.dollar(),
            b':' if matches!(self.byte(start + 1), b':' | b'=') => self.fixed(2, TokenKind::Double),
            b'.' if self.byte(start + 1) == b'.' => self.fixed(2, TokenKind::Double),
            b'(' | b')' | b'[' | b']' | b',' | b';' | b'.' | b':' => self.fixed(1, TokenKind::Punct(byte)),
            _ => {
                self.odd = true;
                self.fixed(1, TokenKind::Punct(byte))
            }
        }
    }

    /// The first byte from `at` on that is of none of the classes in `mask`.
    #[inline]
    fn run(&self, mut at: usize, mask: u8) -> usize {
        while let Some(&byte) = self.sql.get(at)
            && CLASSES[byte as usize] & mask != 0
        {
            at += 1;
        }
        at
    }

    fn fixed(&mut self, length: usize, kind: TokenKind) -> TokenKind {
        self.at += length;
        kind
    }

    fn word_or_prefixed(&mut self, first: u8) -> TokenKind {
        let start = self.at;
        match (first, self.byte(start + 1)) {
            (b'e' | b'E', b'\'') => return self.string(start + 1, true, TokenKind::String),
            (b'n' | b'N', b'\'') => return self.string(start + 1, false, TokenKind::NationalString),
            (b'b' | b'B', b'\'') => return self.string(start + 1, false, TokenKind::BitString),
            (b'x' | b'X', b'\'') => return self.string(start + 1, false, TokenKind::HexString),
            (b'u' | b'U', b'&') => match self.byte(start + 2) {
                b'\'' => return self.string(start + 2, false, TokenKind::String),
                b'"' => {
                    self.odd = true;
                    return self.quoted_name(start + 2, TokenKind::UnicodeName);
                }
                _ => {}
            },
            _ => {}
        }
        self.word()
    }

    #[inline]
    fn word(&mut self) -> TokenKind {
        let start = self.at;
        self.at = self.run(start + 1, NAME_PART);
        if self.at - start > 63 {
            self.odd = true; // cut by the server, at a character of its own encoding
        }
        TokenKind::Word
    }

    /// A string whose opening quote stands at `quote`, with the pieces that continue it on later lines.
    fn string(&mut self, quote: usize, escapes: bool, kind: TokenKind) -> TokenKind {
        // In bit strings two quotes are an end and a beginning.
        let doubled = !matches!(kind, TokenKind::BitString | TokenKind::HexString);
        let mut at = quote + 1;
        loop {
            match self.sql.get(at) {
                None => {
                    self.broken = true;
                    self.at = self.sql.len();
                    return kind;
                }
                Some(b'\'') if doubled && self.byte(at + 1) == b'\'' => at += 2,
                Some(b'\'') => {
                    self.at = at + 1;
                    match self.continued(at + 1) {
                        Some(next) => at = next + 1,
                        None => return kind,
                    }
                }
                Some(b'\\') if escapes => at += 2,
                Some(_) => at += 1,
            }
        }
    }

    /// A string goes on if nothing but blanks and line comments, with a line break among them, stand before the next quote.
    fn continued(&self, mut at: usize) -> Option<usize> {
        let mut new_line = false;
        loop {
            match self.sql.get(at)? {
                b'\n' | b'\r' => {
                    new_line = true;
                    at += 1;
                }
                byte if CLASSES[*byte as usize] & SPACE != 0 => at += 1,
                b'-' if self.byte(at + 1) == b'-' => at = self.line_end(at),
                b'\'' if new_line => return Some(at),
                _ => return None,
            }
        }
    }

    fn quoted_name(&mut self, quote: usize, kind: TokenKind) -> TokenKind {
        let mut at = quote + 1;
        loop {
            match self.sql.get(at) {
                None => {
                    self.broken = true;
                    self.at = self.sql.len();
                    return kind;
                }
                Some(b'"') if self.byte(at + 1) == b'"' => at += 2,
                Some(b'"') => {
                    if at - quote > 64 {
                        self.odd = true;
                    }
                    self.at = at + 1;
                    return kind;
                }
                Some(_) => at += 1,
            }
        }
    }

    /// `$1`, `$$..$$`, `$tag$..$tag$`, or a dollar sign that is an error.
    fn dollar(&mut self) -> TokenKind {
        let start = self.at;
        let mut at = start + 1;
        if self.class(at) & DIGIT != 0 {
            while self.class(at) & DIGIT != 0 {
                at += 1;
            }
            self.at = at;
            self.odd |= self.class(at) & NAME_START != 0;
            return TokenKind::Param;
        }
        if self.class(at) & NAME_START != 0 {
            while self.class(at) & (NAME_START | DIGIT) != 0 {
                at += 1;
            }
        }
        if self.byte(at) != b'$' {
            self.odd = true;
            self.at = start + 1;
            return TokenKind::Punct(b'$');
        }
        let tag = self.sql.get(start..=at).unwrap_or_default();
        let mut from = at + 1;
        loop {
            let rest = self.sql.get(from..).unwrap_or_default();
            let Some(found) = rest.iter().position(|byte| *byte == b'$') else {
                self.broken = true;
                self.at = self.sql.len();
                return TokenKind::String;
            };
            if rest.get(found..).unwrap_or_default().starts_with(tag) {
                self.at = from + found + tag.len();
                return TokenKind::String;
            }
            from += found + 1;
        }
    }

    fn digits(&self, at: usize) -> usize {
        self.run(at, DIGIT)
    }

    fn number(&mut self) {
        let mut at = self.digits(self.at);
        if self.byte(at) == b'.' && self.byte(at + 1) != b'.' {
            at = self.digits(at + 1);
        }
        if matches!(self.byte(at), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(at + 1), b'+' | b'-'));
            if self.class(at + 1 + sign) & DIGIT != 0 {
                at = self.digits(at + 1 + sign);
            }
        }
        self.odd |= self.class(at) & NAME_START != 0; // 1from, 0x1F, 1_000: versions differ
        self.at = at;
    }

    fn operator(&mut self) {
        let start = self.at;
        let mut at = start + 1;
        while self.class(at) & OPERATOR != 0 {
            if matches!((self.byte(at), self.byte(at + 1)), (b'-', b'-') | (b'/', b'*')) {
                break;
            }
            at += 1;
        }
        // A longer operator ends in + or - only if one of these characters is in it.
        let special = |byte: &u8| {
            matches!(
                byte,
                b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%'
            )
        };
        if at - start > 1 && !self.sql.get(start..at).unwrap_or_default().iter().any(special) {
            while at - start > 1 && matches!(self.byte(at - 1), b'+' | b'-') {
                at -= 1;
            }
        }
        self.at = at;
    }
}

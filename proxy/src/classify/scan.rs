//! One pass over a text: its statements, and its *canonical form*.
//!
//! The canonical form is valid SQL again: literals become `1` or `''`, parameters `$1`, words lower case, one blank between tokens,
//! comments gone, `IN (...)`, `ARRAY[...]` and `VALUES` lists of any length one row of one literal. What is proven about a shape is
//! proven about this text and nothing else, so no literal can change a verdict that another literal's text has earned.

use super::lexer::{Lexer, Token, TokenKind};
use super::statement::Verb;

/// One statement that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Where it stands in the text, from its first token to the end of its last.
    pub(crate) source: (usize, usize),
    /// Where it stands in the canonical form; the last byte is a blank.
    pub(crate) canonical: (usize, usize),
}

/// What one pass finds. Its buffers are used again for the next text.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) canonical: Vec<u8>,
    pub(crate) statements: Vec<Statement>,
    /// Comments before the first token.
    pub(crate) leading: Vec<(usize, usize)>,
    /// See [`Lexer::odd`] and [`Lexer::broken`].
    pub(crate) odd: bool,
    pub(crate) broken: bool,
    /// `BEGIN ATOMIC` stands in a CREATE: semicolons inside its body end nothing.
    pub(crate) atomic: bool,
    /// How deep parentheses and brackets nest.
    pub(crate) depth: usize,
    /// How many tokens there are.
    pub(crate) tokens: usize,
}

const GROUPS: usize = 32;
/// Buffers that grew beyond this for one huge text are given back.
const BUFFER_KEPT: usize = 64 * 1024;

/// One open parenthesis or bracket.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// Where its inside begins in the canonical form.
    inside: usize,
    /// Its items are a list whose length must not matter.
    list: bool,
    /// It is a row of VALUES.
    row: bool,
    /// Nothing but literals, signs and commas so far.
    pure: bool,
}

/// The row of VALUES before, as a range of the canonical form including its parentheses.
#[derive(Debug, Clone, Copy)]
struct Row {
    start: usize,
    end: usize,
    depth: usize,
}

struct Builder<'a> {
    scan: &'a mut Scan,
    groups: [Group; GROUPS],
    depth: usize,
    row: Option<Row>,
    /// Start of the last word in the canonical form, if the last token was one.
    word: Option<usize>,
    last: TokenKind,
    open: Option<Statement>,
    create: bool,
    previous_begin: bool,
}

impl Scan {
    /// Takes `sql` apart. With `whole`, semicolons do not end statements: the text is known to be one.
    pub(crate) fn run(&mut self, sql: &[u8], whole: bool) {
        self.clear();
        self.canonical.reserve(sql.len() + sql.len() / 4 + 16);
        let mut lexer = Lexer::new(sql, 0);
        let leading = &mut self.leading;
        lexer.skip_blank(|start, end| leading.push((start, end)));
        let mut builder = Builder::new(self);
        loop {
            let token = lexer.token();
            match token.kind {
                TokenKind::End => break,
                TokenKind::Punct(b';') if builder.depth == 0 && !whole => builder.end_statement(),
                _ => builder.add(sql, token),
            }
        }
        builder.end_statement();
        self.odd = lexer.odd;
        self.broken = lexer.broken;
    }

    fn clear(&mut self) {
        self.canonical.clear();
        self.statements.clear();
        self.leading.clear();
        self.canonical.shrink_to(BUFFER_KEPT);
        self.statements.shrink_to(1024);
        self.leading.shrink_to(64);
        (self.odd, self.broken, self.atomic, self.depth, self.tokens) = (false, false, false, 0, 0);
    }

    /// The canonical text, if it is one query and nothing about it is read differently by some servers.
    pub(crate) fn one_query(&self) -> Option<&[u8]> {
        let [one] = self.statements.as_slice() else {
            return None;
        };
        let text = self.text(*one);
        let plain = !self.odd && !self.broken && !self.atomic;
        (plain && matches!(Verb::of(text), Verb::Select | Verb::With | Verb::Dml)).then_some(text)
    }

    /// The canonical text of `statement`, with the blank behind its last token.
    pub(crate) fn text(&self, statement: Statement) -> &[u8] {
        self.canonical
            .get(statement.canonical.0..statement.canonical.1)
            .unwrap_or_default()
    }
}

/// Words that may stand in a row of constants.
fn is_constant(word: &[u8]) -> bool {
    match word.len() {
        4 => word.eq_ignore_ascii_case(b"null") || word.eq_ignore_ascii_case(b"true"),
        5 => word.eq_ignore_ascii_case(b"false"),
        7 => word.eq_ignore_ascii_case(b"default"),
        _ => false,
    }
}

impl<'a> Builder<'a> {
    fn new(scan: &'a mut Scan) -> Self {
        Self {
            scan,
            groups: [Group::default(); GROUPS],
            depth: 0,
            row: None,
            word: None,
            last: TokenKind::End,
            open: None,
            create: false,
            previous_begin: false,
        }
    }

    fn end_statement(&mut self) {
        if let Some(mut statement) = self.open.take() {
            statement.canonical.1 = self.scan.canonical.len();
            self.scan.statements.push(statement);
        }
        self.depth = 0;
        self.row = None;
        self.word = None;
        self.last = TokenKind::End;
    }

    fn add(&mut self, sql: &[u8], token: Token) {
        let text = sql.get(token.start..token.end).unwrap_or_default();
        let at = self.scan.canonical.len();
        self.scan.tokens += 1;
        match &mut self.open {
            Some(statement) => statement.source.1 = token.end,
            None => {
                self.open = Some(Statement {
                    source: (token.start, token.end),
                    canonical: (at, at),
                });
                self.create = text.eq_ignore_ascii_case(b"create");
                self.previous_begin = false;
            }
        }
        let word = self.word.take();
        match token.kind {
            TokenKind::Word => self.word_token(text, at),
            TokenKind::Number => self.raw(b"1 "),
            TokenKind::String => self.literal(b"'' "),
            TokenKind::Param => self.literal(b"$1 "),
            TokenKind::NationalString => self.literal(b"n'' "),
            TokenKind::BitString => self.literal(b"b'' "),
            TokenKind::HexString => self.literal(b"x'' "),
            TokenKind::Punct(b'(' | b'[') => self.open_group(text, word),
            TokenKind::Punct(b')' | b']') => self.close_group(text),
            TokenKind::Punct(b',') => self.push(text),
            // A minus before a number is part of the constant; before anything else it is an operator to look up.
            TokenKind::Operator if text == b"-" && self.starts_item() => self.push(text),
            TokenKind::QuotedName
            | TokenKind::UnicodeName
            | TokenKind::Operator
            | TokenKind::Punct(_)
            | TokenKind::Double => {
                self.impure();
                self.push(text);
            }
            TokenKind::End => {}
        }
        self.last = token.kind;
    }

    #[inline]
    fn push(&mut self, text: &[u8]) {
        let canonical = &mut self.scan.canonical;
        if let [byte] = *text {
            canonical.extend_from_slice(&[byte, b' ']);
        } else {
            canonical.extend_from_slice(text);
            canonical.push(b' ');
        }
    }

    #[inline]
    fn raw(&mut self, text: &[u8]) {
        self.scan.canonical.extend_from_slice(text);
    }

    /// A literal other than a number.
    fn literal(&mut self, text: &[u8]) {
        if self.last == TokenKind::Operator {
            self.impure();
        }
        self.raw(text);
    }

    fn starts_item(&self) -> bool {
        matches!(self.last, TokenKind::Punct(b'(' | b'[' | b','))
    }

    fn word_token(&mut self, text: &[u8], at: usize) {
        let canonical = &mut self.scan.canonical;
        canonical.extend(text.iter().map(u8::to_ascii_lowercase));
        canonical.push(b' ');
        self.word = Some(at);
        if self.depth > 0 && !is_constant(text) {
            self.impure();
        }
        if self.create {
            self.scan.atomic |= self.previous_begin && text.eq_ignore_ascii_case(b"atomic");
            self.previous_begin = text.eq_ignore_ascii_case(b"begin");
        }
    }

    fn impure(&mut self) {
        if let Some(group) = self.depth.checked_sub(1).and_then(|at| self.groups.get_mut(at)) {
            group.pure = false;
        }
    }

    /// The innermost open group, unless nesting is deeper than is kept.
    fn group(&self) -> Option<&Group> {
        self.depth.checked_sub(1).and_then(|at| self.groups.get(at))
    }

    fn open_group(&mut self, text: &[u8], word: Option<usize>) {
        let before = word
            .and_then(|at| self.scan.canonical.get(at..))
            .unwrap_or_default();
        let within = self.group().is_some_and(|group| group.list);
        let starts_item = within && self.starts_item();
        // Directly behind the row before, with nothing but a comma (and its blank) between them.
        let behind = self.scan.canonical.len().saturating_sub(2);
        let next_row = self.last == TokenKind::Punct(b',')
            && self
                .row
                .is_some_and(|row| row.depth == self.depth && row.end == behind);
        let row = text == b"(" && (before == b"values " || next_row);
        if !next_row {
            self.row = self.row.filter(|row| row.depth < self.depth);
        }
        let list =
            starts_item || row || (text == b"(" && before == b"in ") || (text == b"[" && before == b"array ");
        self.push(text);
        let inside = self.scan.canonical.len();
        if let Some(group) = self.groups.get_mut(self.depth) {
            *group = Group {
                inside,
                list,
                row,
                pure: true,
            };
        }
        self.depth += 1;
        self.scan.depth = self.scan.depth.max(self.depth);
    }

    fn close_group(&mut self, text: &[u8]) {
        let Some(depth) = self.depth.checked_sub(1) else {
            self.push(text);
            return;
        };
        self.depth = depth;
        let Some(&group) = self.groups.get(depth) else {
            self.push(text);
            return;
        };
        let folds = group.pure && group.list && self.scan.canonical.len() > group.inside;
        if folds {
            self.scan.canonical.truncate(group.inside);
            self.raw(b"1 ");
        }
        if !folds {
            self.impure();
        }
        self.push(text);
        if group.row {
            self.end_row(group.inside, depth);
        }
    }

    /// Drops a row that is like the one before, and the comma between them.
    fn end_row(&mut self, inside: usize, depth: usize) {
        let start = inside.saturating_sub(2);
        let end = self.scan.canonical.len();
        if let Some(before) = self.row.filter(|row| row.depth == depth && row.end + 2 == start)
            && self.scan.canonical.get(before.start..before.end) == self.scan.canonical.get(start..end)
        {
            self.scan.canonical.truncate(before.end);
            return;
        }
        self.row = Some(Row { start, end, depth });
    }
}

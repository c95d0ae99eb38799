//! The texts classified last: the same one again, or one that differs in its literals only, costs a look and a comparison.
//!
//! `begin`, `commit`, pings and what applications ask all day come as the same bytes, or with another number or string in the same
//! place. The class of a query is that of its canonical form, in which every literal of one kind is the same (`scan`), so a text
//! that is read by the lexer as this one, literal for literal, has its class. Where literals tell (SET, FETCH, EXPLAIN) only the
//! same bytes do.

use std::rc::Rc;

use super::lexer::{Lexer, Token, TokenKind};
use super::{Class, Lexing, Shape};
use crate::spread;

/// Texts remembered; each has one place it can stand in.
const PLACES: usize = 256;
/// Longer texts are not remembered, in bytes.
const TEXT_MAX: usize = 4096;
/// A text with more literals is known by its bytes only.
const LITERALS_MAX: usize = 32;

/// What a verdict was found with, besides the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    /// Catalog, role and search_path.
    pub(super) names: Shape,
    pub(super) lexing: Lexing,
}

#[derive(Debug)]
struct Known {
    text: Vec<u8>,
    /// Its literals that could as well be others.
    literals: Vec<Token>,
    basis: Basis,
    class: Rc<Class>,
}

impl Known {
    fn new(text: &[u8], basis: Basis, class: Rc<Class>, by_shape: bool) -> Self {
        let mut known = Self {
            text: Vec::new(),
            literals: Vec::new(),
            basis,
            class,
        };
        known.learn(text, basis, by_shape);
        known
    }

    /// Takes the place of what it was.
    fn learn(&mut self, text: &[u8], basis: Basis, by_shape: bool) {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.basis = basis;
        self.literals.clear();
        if by_shape {
            self.find_literals();
        }
    }

    fn find_literals(&mut self) {
        let mut lexer = Lexer::new(&self.text, 0);
        loop {
            let token = lexer.token();
            match token.kind {
                TokenKind::End => return,
                // A number like `.5` needs the byte before it to be seen as one: it stays as it is.
                TokenKind::Number if self.text.get(token.start) == Some(&b'.') => {}
                TokenKind::Number
                | TokenKind::String
                | TokenKind::NationalString
                | TokenKind::BitString
                | TokenKind::HexString => {
                    if self.literals.len() == LITERALS_MAX {
                        self.literals.clear();
                        return;
                    }
                    self.literals.push(token);
                }
                _ => {}
            }
        }
    }

    /// Whether the lexer finds the same tokens in `text`, but for what the literals say.
    ///
    /// Up to a literal the bytes are the same, and it begins with the same byte, or with a digit in both: so the lexer gets there
    /// with the same tokens, none of which looks further ahead. From there on it is asked itself.
    fn is_like(&self, text: &[u8]) -> bool {
        if self.text == text {
            return true;
        }
        let (mut here, mut there) = (0, 0);
        for literal in &self.literals {
            let fixed = self.text.get(here..literal.start).unwrap_or_default();
            if !text.get(there..).is_some_and(|rest| rest.starts_with(fixed)) {
                return false;
            }
            there += fixed.len();
            let alike = match (self.text.get(literal.start), text.get(there)) {
                (Some(one), Some(other)) => one == other || one.is_ascii_digit() && other.is_ascii_digit(),
                _ => false,
            };
            if !alike {
                return false;
            }
            let mut lexer = Lexer::new(text, there);
            let token = lexer.token();
            if token.kind != literal.kind || lexer.odd || lexer.broken {
                return false;
            }
            (here, there) = (literal.end, token.end);
        }
        self.text.get(here..) == text.get(there..)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    places: Vec<Option<Known>>,
}

impl Recent {
    /// The class of this text, if it is one of those, or like one of them.
    pub(super) fn get(&self, text: &[u8], basis: Basis) -> Option<Rc<Class>> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let known = self.places.get(place(text))?.as_ref()?;
        (known.basis == basis && known.is_like(text)).then(|| known.class.clone())
    }

    /// Remembers it, in the place of another, whose room it takes over. With `by_shape` its literals have no part in its class.
    pub(super) fn put(&mut self, text: &[u8], basis: Basis, class: Class, by_shape: bool) -> Rc<Class> {
        if text.len() > TEXT_MAX {
            return Rc::new(class);
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        match self.places.get_mut(place(text)) {
            Some(Some(known)) => {
                known.learn(text, basis, by_shape);
                match Rc::get_mut(&mut known.class) {
                    Some(unused) => *unused = class,
                    None => known.class = Rc::new(class),
                }
                known.class.clone()
            }
            place => {
                let class = Rc::new(class);
                if let Some(place) = place {
                    *place = Some(Known::new(text, basis, class.clone(), by_shape));
                }
                class
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.places.clear();
    }
}

/// Where a text stands, whatever the literals in it are. Who makes texts meet on purpose gains nothing: they are compared.
fn place(text: &[u8]) -> usize {
    let (mut sum, mut from) = (0, 0);
    while let Some(literal) = next_literal(text, from) {
        sum = spread::add(sum, spread::of(text.get(from..literal).unwrap_or_default()));
        let rest = text.get(literal + 1..).unwrap_or_default();
        let length = if text.get(literal) == Some(&b'\'') {
            rest.iter().position(|byte| *byte == b'\'').map(|end| end + 1)
        } else {
            rest.iter()
                .position(|byte| !(byte.is_ascii_digit() || *byte == b'.'))
        };
        from = literal + 1 + length.unwrap_or(rest.len());
    }
    sum = spread::add(sum, spread::of(text.get(from..).unwrap_or_default()));
    (sum >> 32) as usize % PLACES
}

/// Where the next quote stands, or the next number, from `from` on. Digits of names are none.
fn next_literal(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = text.get(at..)?;
        at += match rest.first_chunk::<8>() {
            Some(word) => match quotes_and_digits(u64::from_le_bytes(*word)) {
                0 => {
                    at += 8;
                    continue;
                }
                found => (found.trailing_zeros() / 8) as usize,
            },
            None => rest
                .iter()
                .position(|byte| *byte == b'\'' || byte.is_ascii_digit())?,
        };
        let in_name = |before: &u8| before.is_ascii_alphanumeric() || matches!(before, b'_' | b'$');
        let is_name = text.get(at) != Some(&b'\'')
            && at.checked_sub(1).and_then(|at| text.get(at)).is_some_and(in_name);
        if !is_name {
            return Some(at);
        }
        at += 1;
    }
}

/// The highest bit of each byte that is a quote or a digit.
fn quotes_and_digits(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    const LOW: u64 = 0x7f * EACH;
    // In each of them: high where the byte is at least `limit`, which nothing is carried out of.
    let at_least = |bytes: u64, limit: u64| (((bytes & LOW) + (0x80 - limit) * EACH) | bytes) & HIGH;
    let digit = !at_least(word ^ (0x30 * EACH), 10);
    let quote = !at_least(word ^ (u64::from(b'\'') * EACH), 1);
    (digit | quote) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Kind;
    use crate::classify::scan::Scan;
    use crate::classify::tests::lexing::{Dice, PIECES};

    const BASIS: Basis = Basis {
        names: (1, 2),
        lexing: Lexing::Standard,
    };

    fn class(shape: u64) -> Class {
        Class {
            shape,
            ..Class::of(Kind::Other)
        }
    }

    #[test]
    fn a_text_is_known_by_all_its_bytes_and_by_what_it_was_judged_with() {
        let mut recent = Recent::default();
        assert_eq!(recent.get(b"select 1", BASIS), None);
        let put = recent.put(b"select 1", BASIS, class(1), false);
        assert_eq!(recent.get(b"select 1", BASIS), Some(put));
        assert_eq!(recent.get(b"select 2", BASIS), None);
        let others = [
            Basis {
                names: (1, 3),
                ..BASIS
            },
            Basis {
                lexing: Lexing::Unsafe,
                ..BASIS
            },
        ];
        for other in others {
            assert_eq!(recent.get(b"select 1", other), None);
        }
        recent.clear();
        assert_eq!(recent.get(b"select 1", BASIS), None);
    }

    #[test]
    fn whatever_takes_a_place_is_never_taken_for_what_stood_there() {
        let mut recent = Recent::default();
        let text = |n: u64| format!("select a{n}").into_bytes();
        for n in 0..10_000 {
            let held = recent.put(&text(n), BASIS, class(n), false);
            let other = recent.put(&text(n + 1), BASIS, class(n + 1), false);
            assert_eq!((held.shape, other.shape), (n, n + 1));
            for m in n.saturating_sub(300)..=n {
                let found = recent.get(&text(m), BASIS);
                assert!(found.is_none_or(|found| found.shape == m));
            }
        }
        assert!(recent.places.len() <= PLACES);
    }

    #[test]
    fn a_long_text_is_not_remembered() {
        let mut recent = Recent::default();
        let text = vec![b'x'; TEXT_MAX + 1];
        assert_eq!(recent.put(&text, BASIS, class(1), false).shape, 1);
        assert_eq!(recent.get(&text, BASIS), None);
    }

    fn known(text: &[u8]) -> Known {
        Known::new(text, BASIS, Rc::new(class(1)), true)
    }

    #[test]
    fn a_text_with_other_literals_is_found_and_stands_in_the_same_place() {
        for (one, other) in [
            ("select 1", "select 22"),
            (
                "SELECT a FROM t1 WHERE b = 12345;",
                "SELECT a FROM t1 WHERE b = 7;",
            ),
            ("select 'a', x", "select '12\n', x"),
            ("/* 1 */ select a1 -- '2'\n, 3", "/* 1 */ select a1 -- '2'\n, 4"),
        ] {
            assert_eq!(place(one.as_bytes()), place(other.as_bytes()), "{one} {other}");
            assert!(known(one.as_bytes()).is_like(other.as_bytes()), "{one} {other}");
        }
    }

    #[test]
    fn what_is_alike_may_stand_elsewhere_for_only_quotes_and_digits_are_looked_for() {
        for (one, other) in [
            ("select 'a', x", "select 'it''s', x"),
            ("select 1", "select 1.5"),
            ("select 1 + 1", "select 1e10 + 5e1"),
            (
                "select n'a', b'1', x'1f', E'a'",
                "select n'', b'0101', x'00', E'\\'b'",
            ),
            ("select $$a$$", "select $b$ '' $b$"),
        ] {
            assert!(known(one.as_bytes()).is_like(other.as_bytes()), "{one} {other}");
        }
    }

    #[test]
    fn a_text_that_is_read_otherwise_is_not_like_it() {
        for (one, other) in [
            ("select 1", "select 1 "),
            ("select 1", "select '1'"),
            ("select 1", "select a"),
            ("select 1", "select 1a"),
            ("select 1", "select -1"),
            ("select 1", "select 1;"),
            ("select 1", "select "),
            ("select 1", "/**/ select 1"),
            ("select a1", "select a2"),
            ("select $1", "select $2"),
            ("select 1, a", "select 1, b"),
            ("select 1 from a", "select 1from a"),
            ("select 'a' from t", "select 'a from t"),
            ("select 'a'", "select 'a' 'b'"),
            ("select a 'x'", "select a'x'"),
            ("select a'x'", "select a$$x$$"),
            ("select a'x'", "select aE'x'"),
            ("select 'x'", "select e'x'"),
            ("select 'a', 'b'", "select 'a'', 'b'"),
            ("select E'a', 'b'", "select E'a\\', 'b'"),
            ("select .5", "select .6"),
            ("select 1 + 1", "select 1e10 + .5e1"),
            ("select \"1\"", "select \"2\""),
        ] {
            assert!(!known(one.as_bytes()).is_like(other.as_bytes()), "{one} {other}");
        }
    }

    #[test]
    fn texts_that_are_like_each_other_have_one_canonical_form() {
        let literals = [
            "1", "22", "1.5", "1.", "1e5", "'a'", "'b''c'", "''", "E'a\\''", "n'a'", "b'01'", "x'1f'",
            "$$a$$", "$b$'$b$",
        ];
        let mut dice = Dice::new(1);
        let (mut alike, mut scan, mut other_scan) = (0, Scan::default(), Scan::default());
        for _ in 0..100_000 {
            let mut text = vec!["select "];
            text.extend(
                (0..dice.below(8)).map(|n| dice.one_of(if n % 2 == 0 { &literals } else { &PIECES })),
            );
            let mut other = text.clone();
            for _ in 0..=dice.below(2) {
                let at = dice.below(other.len());
                let from: &[&str] = if dice.below(2) == 0 { &literals } else { &PIECES };
                other[at] = dice.one_of(from);
            }
            let (text, other) = (text.concat(), other.concat());
            scan.run(text.as_bytes(), false);
            if text == other
                || scan.one_query().is_none()
                || !known(text.as_bytes()).is_like(other.as_bytes())
            {
                continue;
            }
            other_scan.run(other.as_bytes(), false);
            assert_eq!(scan.one_query(), other_scan.one_query(), "{text} {other}");
            assert_eq!(scan.leading, other_scan.leading, "{text} {other}");
            alike += 1;
        }
        assert!(alike > 1000, "{alike}");
    }
}

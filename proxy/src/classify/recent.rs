//! The texts classified last, word for word: the same one again costs a look and a comparison.
//!
//! `begin`, `commit`, pings and what applications ask all day come as the same bytes. A text that is different each time (literals)
//! finds nothing here; it is classified once even if it is asked about twice.

use std::rc::Rc;

use super::{Class, Lexing, Shape};
use crate::spread;

/// Texts remembered; each has one place it can stand in.
const PLACES: usize = 256;
/// Longer texts are not remembered, in bytes.
const TEXT_MAX: usize = 1024;

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
    basis: Basis,
    class: Rc<Class>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    places: Vec<Option<Known>>,
}

impl Recent {
    /// The class of this text, if it is one of those.
    pub(super) fn get(&self, text: &[u8], basis: Basis) -> Option<Rc<Class>> {
        let known = self.places.get(place(text))?.as_ref()?;
        (known.text == text && known.basis == basis).then(|| known.class.clone())
    }

    /// Remembers it, in the place of another, whose room it takes over.
    pub(super) fn put(&mut self, text: &[u8], basis: Basis, class: Class) -> Rc<Class> {
        if text.len() > TEXT_MAX {
            return Rc::new(class);
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        match self.places.get_mut(place(text)) {
            Some(Some(known)) => {
                known.text.clear();
                known.text.extend_from_slice(text);
                known.basis = basis;
                match Rc::get_mut(&mut known.class) {
                    Some(unused) => *unused = class,
                    None => known.class = Rc::new(class),
                }
                known.class.clone()
            }
            place => {
                let class = Rc::new(class);
                if let Some(place) = place {
                    *place = Some(Known {
                        text: text.to_vec(),
                        basis,
                        class: class.clone(),
                    });
                }
                class
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.places.clear();
    }
}

/// Where a text stands. Who makes texts meet on purpose gains nothing: they are compared in full.
fn place(text: &[u8]) -> usize {
    (spread::of(text) >> 32) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Kind;

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
        let put = recent.put(b"select 1", BASIS, class(1));
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
        let text = |n: u64| format!("select {n}").into_bytes();
        for n in 0..10_000 {
            let held = recent.put(&text(n), BASIS, class(n));
            let other = recent.put(&text(n + 1), BASIS, class(n + 1));
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
        assert_eq!(recent.put(&text, BASIS, class(1)).shape, 1);
        assert_eq!(recent.get(&text, BASIS), None);
    }
}

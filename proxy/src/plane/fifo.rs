//! A queue that seldom holds more than one thing: it has room for that one in itself.

use std::collections::VecDeque;

/// See the module.
pub(super) struct Fifo<T> {
    /// Empty only if `rest` is.
    first: Option<T>,
    #[expect(
        clippy::box_collection,
        reason = "a third of the room where there is no rest, as nearly always"
    )]
    rest: Option<Box<VecDeque<T>>>,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self {
            first: None,
            rest: None,
        }
    }
}

impl<T> Fifo<T> {
    pub(super) fn push(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.get_or_insert_default().push_back(item);
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        std::mem::replace(&mut self.first, next)
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut T> {
        self.first.as_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn clear(&mut self) {
        self.first = None;
        self.rest = None;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first
            .iter()
            .chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_first_comes_out_first() {
        let mut fifo = Fifo::default();
        let mut expected = VecDeque::new();
        for n in 0..100 {
            fifo.push(n);
            expected.push_back(n);
            if n % 3 == 0 {
                fifo.push(-n);
                expected.push_back(-n);
            }
            if n % 4 < 3 {
                assert_eq!(fifo.first_mut().copied(), expected.front().copied());
                assert_eq!(fifo.pop(), expected.pop_front());
            }
            assert!(fifo.iter().eq(&expected));
            assert_eq!(fifo.is_empty(), expected.is_empty());
        }
        fifo.clear();
        assert!(fifo.is_empty() && fifo.pop().is_none());
    }
}

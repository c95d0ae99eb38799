//! The prepared statements of a session, which take no room as long as there are none: most clients that idle in great
//! number prepare nothing.

use std::ops::{Deref, DerefMut};

use super::super::slot::Settled;
use super::names::{Named, Names};

thread_local! {
    /// What those see who have none.
    static NONE: &'static Names = Box::leak(Box::default());
}

/// See the module. Whoever changes something has names from then on.
#[derive(Default)]
pub(super) struct LazyNames {
    names: Option<Box<Names>>,
    /// Requests under way that asked for nothing before there were names.
    asked: u32,
}

impl Deref for LazyNames {
    type Target = Names;

    fn deref(&self) -> &Names {
        match &self.names {
            Some(names) => names,
            None => NONE.with(|none| *none),
        }
    }
}

impl DerefMut for LazyNames {
    fn deref_mut(&mut self) -> &mut Names {
        let asked = std::mem::take(&mut self.asked);
        self.names.get_or_insert_with(|| {
            let mut names = Box::<Names>::default();
            (0..asked).for_each(|_| names.request_ends());
            names
        })
    }
}

/// What every request does is done here without names where there are none.
impl LazyNames {
    /// See [`Names::request_ends`].
    pub(super) fn request_ends(&mut self) {
        match &mut self.names {
            Some(names) => names.request_ends(),
            None => self.asked += 1,
        }
    }

    /// See [`Names::request_reopens`].
    pub(super) fn request_reopens(&mut self) {
        match &mut self.names {
            Some(names) => names.request_reopens(),
            None => self.asked = self.asked.saturating_sub(1),
        }
    }

    /// See [`Names::settle`].
    pub(super) fn settle(&mut self, settled: Settled) -> Vec<Named> {
        match &mut self.names {
            Some(names) => names.settle(settled),
            None => {
                self.asked = self.asked.saturating_sub(1);
                Vec::new()
            }
        }
    }

    /// See [`Names::forget_asked`].
    pub(super) fn forget_asked(&mut self) {
        self.asked = 0;
        if let Some(names) = &mut self.names {
            names.forget_asked();
        }
    }

    /// See [`Names::drop_unnamed`].
    pub(super) fn drop_unnamed(&mut self) {
        if let Some(names) = &mut self.names {
            names.drop_unnamed();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::names::Change;
    use super::*;

    #[test]
    fn what_every_request_does_makes_no_names_and_reading_neither() {
        let mut names = LazyNames::default();
        names.request_ends();
        names.request_reopens();
        names.request_ends();
        names.settle(Settled::default());
        names.drop_unnamed();
        assert!(names.get(b"a").is_none() && !names.has_sql());
        names.forget_asked();
        assert!(names.names.is_none());
    }

    #[test]
    fn requests_before_the_first_name_are_settled_before_its_own() {
        let mut names = LazyNames::default();
        names.request_ends(); // knows no names yet
        let name = Bytes::from_static(b"a");
        names.ask(Change::Sql(Named::Prepare(name.clone(), Bytes::new())));
        names.request_ends();
        let done = || Settled {
            named: 1,
            ..Settled::default()
        };
        names.settle(done());
        assert!(names.sql(b"a").is_none(), "the first request asked for nothing");
        names.settle(done());
        assert!(names.sql(b"a").is_some());
        names.ask(Change::Sql(Named::Deallocate(name)));
        names.request_ends();
        names.settle(Settled::default());
        assert!(names.sql(b"a").is_some(), "it failed, or was not executed");
    }
}

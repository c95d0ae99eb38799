//! What a worker's server has prepared for us, and what it will have once it has read what stands in the queue.
//!
//! A statement has one name on all workers ([`Statement::name`]). An error makes the server skip what stands behind it in the same batch,
//! Parse and Close included, so what was sent counts only when it is answered, or known to be skipped.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::rc::Rc;

use super::super::statement::{Statement, StatementId};
use super::Shape;
use crate::classify::AlreadyHashed;

/// How far a statement is on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// So many of its Parses are in the queue.
    InFlight(u32),
    /// The server has it.
    Ready,
    /// The server has it, perhaps for tables that have changed since: a client's own Parse replaces it.
    Stale,
    /// The server may have it, but not as it should be: parsed anew at its next use.
    Broken,
    /// Its Close is in the queue.
    Closing,
}

struct Known {
    stage: Stage,
    /// The server has, or had, one of its name: before another is parsed it is closed.
    there: bool,
    /// When it was used last, by the count of uses.
    used: u64,
    /// As long as it is here its name is not given to another.
    _statement: Rc<Statement>,
    shape: Shape,
    /// The description `shape` was read from, as a number.
    described: Option<u64>,
}

impl Known {
    fn forget_shape(&mut self) {
        self.shape = None;
        self.described = None;
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Prepared {
    known: HashMap<StatementId, Known, BuildHasherDefault<AlreadyHashed>>,
    uses: u64,
}

impl Prepared {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it is known, however far.
    pub(super) fn holds(&self, id: StatementId) -> bool {
        self.known.contains_key(&id)
    }

    /// What the rows of a statement looked like when the server was asked last.
    pub(super) fn shape(&self, id: StatementId) -> Shape {
        self.known.get(&id).and_then(|known| known.shape)
    }

    /// How far the server is with `statement`, which is used now. `None`: it never heard of it.
    pub(super) fn touch(&mut self, statement: &Statement) -> Option<Stage> {
        self.uses += 1;
        let known = self.known.get_mut(&statement.id)?;
        known.used = self.uses;
        Some(known.stage)
    }

    /// A Parse of `statement`, touched just before, joins the queue. True if its name has to be closed first: a Parse that is in
    /// the queue may yet be skipped by an error before it, and Close of what is not there is fine.
    pub(super) fn parse(&mut self, statement: &Rc<Statement>) -> bool {
        if let Some(known) = self.known.get_mut(&statement.id) {
            known.stage = match known.stage {
                Stage::InFlight(n) => Stage::InFlight(n + 1),
                _ => Stage::InFlight(1),
            };
            known.forget_shape();
            return true;
        }
        let known = Known {
            stage: Stage::InFlight(1),
            there: false,
            used: self.uses,
            _statement: statement.clone(),
            shape: None,
            described: None,
        };
        self.known.insert(statement.id, known);
        false
    }

    /// The statement to be closed to make room for one more among at most `cap`: the one used longest ago that nothing in the queue
    /// brings. `None`: there is room, or none that may go.
    pub(super) fn evict(&mut self, cap: usize) -> Option<StatementId> {
        if self.known.len() < cap.max(1) {
            return None;
        }
        let kept = self.known.values().filter(|known| known.stage != Stage::Closing);
        if kept.count() < cap.max(1) {
            return None;
        }
        let may_go = |known: &Known| !matches!(known.stage, Stage::InFlight(_) | Stage::Closing);
        let idle = self.known.iter_mut().filter(|(_, known)| may_go(known));
        let (id, known) = idle.min_by_key(|(_, known)| known.used)?;
        known.stage = Stage::Closing;
        Some(*id)
    }

    /// ParseComplete.
    pub(super) fn parsed(&mut self, id: StatementId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.stage = Stage::Ready;
            known.there = true;
        }
    }

    /// CloseComplete of a statement that was evicted.
    pub(super) fn closed(&mut self, id: StatementId) {
        if self
            .known
            .get(&id)
            .is_some_and(|known| known.stage == Stage::Closing)
        {
            self.known.remove(&id);
        }
    }

    /// The server answered a Description of it, `seen` as a number if it was looked at, and `shape` finds out what it says. The shape.
    pub(super) fn described(
        &mut self,
        id: StatementId,
        seen: Option<u64>,
        shape: impl FnOnce() -> Shape,
    ) -> Shape {
        let known = self.known.get_mut(&id);
        let shape = match &known {
            Some(known) if seen.is_some() && known.described == seen => known.shape,
            _ => seen.and_then(|_| shape()),
        };
        if let Some(known) = known {
            known.shape = shape;
            known.described = seen;
        }
        shape
    }

    /// The server has one of this name that we did not know of.
    pub(super) fn is_taken(&mut self, id: StatementId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.there = true;
        }
    }

    /// What the server has is of no use, or gone.
    pub(super) fn is_broken(&mut self, id: StatementId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.stage = Stage::Broken;
            known.forget_shape();
        }
    }

    /// What an error skipped: statements that were to be parsed are not there, unless a later Parse in the queue brings them, or the
    /// server has had them before; those that were to be closed are.
    pub(super) fn skipped(&mut self, ids: impl IntoIterator<Item = StatementId>) {
        for id in ids {
            let Some(known) = self.known.get_mut(&id) else {
                continue;
            };
            match &mut known.stage {
                Stage::InFlight(n) if *n > 1 => *n -= 1,
                Stage::InFlight(_) if !known.there => drop(self.known.remove(&id)),
                Stage::InFlight(_) | Stage::Closing => known.stage = Stage::Broken,
                Stage::Ready | Stage::Stale | Stage::Broken => {}
            }
        }
    }

    /// The server has forgotten all of them, but those still to be parsed will be there.
    pub(super) fn forgotten(&mut self) {
        self.known
            .retain(|_, known| matches!(known.stage, Stage::InFlight(_)));
    }

    /// The server has forgotten all of them, and nothing is in the queue.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// What the server reads next may make it forget all of them: whatever stands behind it has them parsed anew.
    pub(super) fn break_all(&mut self) {
        for known in self.known.values_mut() {
            if matches!(known.stage, Stage::Ready | Stage::Stale) {
                known.stage = Stage::Broken;
            }
        }
    }

    /// Tables may have changed.
    pub(super) fn distrust(&mut self) {
        for known in self.known.values_mut() {
            if known.stage == Stage::Ready {
                known.stage = Stage::Stale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::statement::{StatementInterner, StatementKey};
    use super::*;
    use crate::classify::{Class, Kind};

    /// A worker's knowledge, and statements to try it with.
    #[derive(Default)]
    struct Server {
        statements: StatementInterner,
        prepared: Prepared,
    }

    impl Server {
        fn statement(&self, text: &'static str) -> Rc<Statement> {
            let key = StatementKey {
                text: Bytes::from_static(text.as_bytes()),
                types: Bytes::from_static(&[0, 0]),
                frozen: Rc::from(""),
            };
            let class = |_: &[u8]| (Rc::new(Class::of(Kind::Unknown)), 0);
            self.statements.intern(key, class)
        }

        /// It is asked for; whether its name had to be closed first.
        fn asked(&mut self, statement: &Rc<Statement>) -> bool {
            self.prepared.touch(statement);
            self.prepared.parse(statement)
        }

        /// It is asked for, and the server has parsed it.
        fn has(&mut self, text: &'static str) -> Rc<Statement> {
            let statement = self.statement(text);
            self.asked(&statement);
            self.prepared.parsed(statement.id);
            statement
        }

        fn stage(&mut self, statement: &Statement) -> Option<Stage> {
            self.prepared.touch(statement)
        }
    }

    #[test]
    fn a_parse_counts_when_it_is_answered_and_leaves_no_trace_when_it_is_skipped() {
        let mut server = Server::default();
        let one = server.statement("select 1");
        assert_eq!(server.stage(&one), None);
        assert!(!server.asked(&one));
        assert_eq!(server.stage(&one), Some(Stage::InFlight(1)));
        server.prepared.skipped([one.id]);
        assert_eq!(server.stage(&one), None);
        assert!(!server.asked(&one));
        server.prepared.parsed(one.id);
        assert_eq!(server.stage(&one), Some(Stage::Ready));
    }

    #[test]
    fn what_one_of_two_parses_brings_survives_the_other_that_is_skipped() {
        let mut server = Server::default();
        let one = server.statement("select 1");
        server.asked(&one);
        assert!(server.asked(&one), "the first may be there by then");
        server.prepared.skipped([one.id]);
        assert_eq!(server.stage(&one), Some(Stage::InFlight(1)));
        server.prepared.parsed(one.id);
        assert_eq!(server.stage(&one), Some(Stage::Ready));
    }

    #[test]
    fn the_name_of_a_statement_that_was_there_is_closed_before_it_is_parsed_again() {
        let mut server = Server::default();
        let one = server.has("select 1");
        assert!(server.asked(&one));
        // Skipped: it is unknown whether the Close was, too.
        server.prepared.skipped([one.id]);
        assert_eq!(server.stage(&one), Some(Stage::Broken));
        assert!(server.asked(&one));
        // One that we did not know of.
        let two = server.statement("select 2");
        server.asked(&two);
        server.prepared.is_taken(two.id);
        server.prepared.skipped([two.id]);
        assert_eq!(server.stage(&two), Some(Stage::Broken));
        assert!(server.asked(&two));
    }

    #[test]
    fn the_one_used_longest_ago_makes_room_unless_it_is_still_to_come() {
        let mut server = Server::default();
        let coming = server.statement("select 0");
        server.asked(&coming);
        let [one, two] = ["select 1", "select 2"].map(|text| server.has(text));
        server.stage(&one);
        assert_eq!(server.prepared.evict(4), None, "there is room");
        assert_eq!(server.prepared.evict(3), Some(two.id));
        assert_eq!(server.prepared.evict(3), None, "there will be");
        assert_eq!(server.stage(&two), Some(Stage::Closing));
        server.prepared.closed(two.id);
        assert_eq!(server.stage(&two), None);
        assert_eq!(server.prepared.evict(1), Some(one.id));
        assert_eq!(server.prepared.evict(1), None, "nobody can go");
    }

    #[test]
    fn a_close_that_was_skipped_or_overtaken_by_a_parse_is_not_believed() {
        let mut server = Server::default();
        let one = server.has("select 1");
        assert_eq!(server.prepared.evict(1), Some(one.id));
        server.prepared.skipped([one.id]);
        assert_eq!(server.stage(&one), Some(Stage::Broken));
        assert_eq!(server.prepared.evict(1), Some(one.id));
        assert!(server.asked(&one));
        server.prepared.closed(one.id);
        assert_eq!(server.stage(&one), Some(Stage::InFlight(1)));
    }

    #[test]
    fn what_sql_has_deallocated_is_gone_but_not_what_is_still_to_come() {
        let mut server = Server::default();
        let one = server.has("select 1");
        let coming = server.statement("select 2");
        server.asked(&coming);
        server.prepared.break_all();
        assert_eq!(server.stage(&one), Some(Stage::Broken));
        assert_eq!(server.stage(&coming), Some(Stage::InFlight(1)));
        server.prepared.forgotten();
        assert_eq!(server.stage(&one), None);
        assert_eq!(server.stage(&coming), Some(Stage::InFlight(1)));
    }

    #[test]
    fn a_shape_is_read_once_for_each_description_and_goes_with_the_plan() {
        let mut server = Server::default();
        let one = server.has("select 1");
        assert_eq!(server.prepared.described(one.id, Some(7), || Some(70)), Some(70));
        assert_eq!(
            server.prepared.described(one.id, Some(7), || panic!("known")),
            Some(70)
        );
        assert_eq!(server.prepared.shape(one.id), Some(70));
        assert_eq!(server.prepared.described(one.id, Some(8), || Some(80)), Some(80));
        assert_eq!(
            server.prepared.described(one.id, None, || panic!("too long")),
            None
        );
        server.prepared.described(one.id, Some(8), || Some(80));
        server.prepared.is_broken(one.id);
        assert_eq!(server.prepared.shape(one.id), None);
        // Tables that may have changed make it stale, not shapeless.
        let two = server.has("select 2");
        server.prepared.described(two.id, Some(9), || Some(90));
        server.prepared.distrust();
        assert_eq!(server.stage(&two), Some(Stage::Stale));
        assert_eq!(server.prepared.shape(two.id), Some(90));
    }
}

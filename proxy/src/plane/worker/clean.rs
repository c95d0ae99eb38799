//! What a worker goes through between two clients: nothing of the one is left for the other.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pgnet::frontend;

use super::super::script::{Op, Step};
use super::{Inner, NO_PORTAL, Pending, Purpose, State, Worker};

/// Undoes everything a request may have left in a session, except prepared statements (ours) and sequences' last values
/// (they belong to the session the worker is tagged with). MULTIPLEXING, "State that leaks".
const CLEAN: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; \
                     SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP";

/// Session mode: the same between two clients, with everything else that DISCARD ALL forgets, except the plans.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; DEALLOCATE ALL; UNLISTEN *; \
                     SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

impl Worker {
    /// The holder left, whatever it was doing. Ends a COPY and an open batch, rolls back, cleans; the worker is offered
    /// again when all of that has succeeded.
    pub(in crate::plane) fn abandon(self: &Rc<Self>) {
        let mut inner = self.inner.borrow_mut();
        let of_holder = |pending: &&mut Pending| pending.purpose != Purpose::Ending;
        for pending in inner.pending.iter_mut().filter(of_holder) {
            pending.slot = None;
        }
        inner.blocked = false;
        let Inner { out, script, .. } = &mut *inner;
        if script.copying_in() {
            frontend::copy_fail(out, b"client disconnected");
            script.copy_ended();
        }
        if inner.open_batch {
            // A Sync alone would commit what the client never asked to be committed: let the batch fail first.
            frontend::execute(&mut inner.out, NO_PORTAL, 0);
            inner.script.push(Step::nobody(Op::Execute));
            frontend::sync(&mut inner.out);
            inner.script.push(Step::nobody(Op::Sync).ending());
            inner.open_batch = false;
        }
        drop(inner);
        self.clean(true);
    }

    /// Cleans the worker; with `roll_back` it first leaves any transaction.
    pub(in crate::plane) fn clean(self: &Rc<Self>, roll_back: bool) {
        self.state.set(State::Cleaning);
        self.cleaning_since.set(Instant::now());
        if roll_back {
            self.enqueue(Purpose::Internal, None, 0, Duration::ZERO, |c| {
                c.query_for_nobody(b"ROLLBACK")
            });
        }
        if self.direct {
            return self.reset();
        }
        if self.foreign_prepared.replace(false) {
            self.forget_prepared();
            self.enqueue(Purpose::Internal, None, 0, Duration::ZERO, |c| {
                c.query_for_nobody(b"DEALLOCATE ALL")
            });
        }
        self.enqueue(Purpose::Clean, None, 0, Duration::ZERO, |c| {
            c.query_for_nobody(CLEAN.as_bytes())
        });
        self.wear(&self.base);
    }

    /// Session mode: the next client is not to find the unnamed statement of this one, which left nothing else behind.
    pub(in crate::plane) fn close_unnamed(self: &Rc<Self>) {
        self.state.set(State::Cleaning);
        self.cleaning_since.set(Instant::now());
        self.unnamed_left.set(false);
        self.enqueue(Purpose::Clean, None, 0, Duration::ZERO, |to| {
            frontend::close_statement(to.out(), b"");
            to.step(Step::nobody(Op::Close(None)));
            frontend::sync(to.out());
            to.step(Step::nobody(Op::Sync));
        });
    }

    /// Session mode: puts the session back to its beginning, by `resetQuery` where there is one.
    fn reset(self: &Rc<Self>) {
        let own = self
            .pool
            .upgrade()
            .and_then(|p| p.thread.upgrade())
            .map(|t| t.config().reset_query.clone())
            .filter(|query| !query.trim().is_empty());
        self.forget_prepared();
        self.unnamed_left.set(false);
        self.enqueue(Purpose::Clean, None, 0, Duration::ZERO, |c| {
            c.query_for_nobody(own.as_deref().unwrap_or(RESET).as_bytes())
        });
    }
}

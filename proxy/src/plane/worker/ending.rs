//! Ends of transactions that only read: answered at once, sent with what the next client brings.
//!
//! A server that gets COMMIT alone wakes up for it alone, and its client waits for an answer that is certain. So the worker is offered
//! with the COMMIT still unsent: one wake-up of the server in three less where a transaction is two statements.
//!
//! Nobody can tell, because:
//! - the transaction was begun by a plain BEGIN at the isolation level *read committed*, and the server has answered known reads in it and
//!   nothing else: there is nothing to be committed, and nothing that could be refused. If it is refused all the same the worker is closed;
//! - whoever comes next on this worker stands behind it, on the same connection;
//! - until the server has confirmed it, nothing of its client but known reads runs elsewhere (`session/lease/ending.rs`), so no
//!   statement of that client meets a lock of its own former transaction. It is a request of its own for that: confirmed at once,
//!   however long what stands behind it takes.
//!
//! What is left: another client that hears of the end from this one may find the table's weakest lock held for the moment the
//! server needs to read the COMMIT.

use std::rc::Rc;
use std::time::Duration;

use super::super::slot::Slot;
use super::{Inner, Purpose, Worker};

impl Worker {
    /// Appends the end of the holder's transaction, `sql`; `slot` hears when the server has confirmed it, or is gone. [`super::Pool::give_back`]
    /// sends it, or who is given the worker there. As a Query: nobody can have taken that away, as `DEALLOCATE ALL` in a function
    /// takes what is prepared, and an error would cost whoever comes next the connection.
    pub(in crate::plane) fn end_transaction(&self, slot: Rc<Slot>, sql: &[u8]) {
        self.append(Purpose::Ending, Some(slot), 0, Duration::ZERO, |to| {
            to.query_for_nobody(sql);
        });
    }

    /// The server is at the end of a transaction whose client has its answer.
    pub(in crate::plane) fn runs_an_end(&self) -> bool {
        self.inner.borrow().head_ends()
    }
}

impl Inner {
    fn head_ends(&self) -> bool {
        self.pending
            .front()
            .is_some_and(|head| head.purpose == Purpose::Ending)
    }

    /// All it owes is the end of a transaction whose client has its answer.
    pub(super) fn only_ends(&self) -> bool {
        self.pending.len() == 1 && self.head_ends()
    }
}

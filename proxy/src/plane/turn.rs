//! The turns of a data thread's reactor: it asks the kernel what came, then runs every task that has something to do.
//!
//! What came is known at the beginning of a turn; when a task gets to it says more about us than about the server.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static TURN: Cell<(u64, Option<Instant>)> = const { Cell::new((0, None)) };
}

/// The reactor has looked: a turn begins. Called by the runtime of a data thread.
pub(super) fn begin() {
    TURN.with(|turn| turn.set((turn.get().0 + 1, Some(Instant::now()))));
}

/// How many turns this thread has begun.
pub(super) fn count() -> u64 {
    TURN.with(Cell::get).0
}

/// When the current turn began.
pub(super) fn began() -> Instant {
    TURN.with(Cell::get).1.unwrap_or_else(Instant::now)
}

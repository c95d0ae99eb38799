//! The turns of a data thread's reactor: it asks the kernel what came, then runs every task that has something to do.
//!
//! What came is known at the beginning of a turn; when a task gets to it says more about us than about the server.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Who has waited for so long for something to come did not find it there when it asked.
const SLEPT_MIN: Duration = Duration::from_micros(50);

/// Turns in a row with at most one request each, after which the next is not expected to have company either.
const LONELY: u32 = 4;

thread_local! {
    static LONE: Cell<Lone> = const { Cell::new(Lone { turn: 0, requests: 0, turns: 0 }) };
    static TURN: Cell<(u64, Option<Instant>)> = const { Cell::new((0, None)) };
    /// When the last turn ended, and whether there was nothing to do between it and this one.
    static REST: Cell<(Option<Instant>, bool)> = const { Cell::new((None, false)) };
}

/// The reactor has looked: a turn begins. Called by the runtime of a data thread.
pub(super) fn begin() {
    let now = Instant::now();
    TURN.with(|turn| turn.set((turn.get().0 + 1, Some(now))));
    REST.with(|rest| {
        let ended = rest.get().0;
        rest.set((
            ended,
            ended.is_some_and(|at| now.saturating_duration_since(at) >= SLEPT_MIN),
        ));
    });
}

/// Every task has run: the reactor is about to look. Called by the runtime of a data thread.
pub(super) fn end() {
    REST.with(|rest| rest.set((Some(Instant::now()), false)));
}

/// Whether nothing had come when the reactor looked: what this turn brings came just now.
pub(super) fn slept() -> bool {
    REST.with(Cell::get).1
}

/// How many requests the turns brought of late.
#[derive(Clone, Copy)]
struct Lone {
    /// The last turn with a request.
    turn: u64,
    /// Its requests so far.
    requests: u32,
    /// Turns before it, one after the other, with one request each.
    turns: u32,
}

/// A request of a client goes to a shared queue. True if none is expected to go with it.
pub(super) fn brings_one() -> bool {
    LONE.with(|cell| {
        let mut lone = cell.get();
        if lone.turn == count() {
            lone.requests += 1;
            lone.turns = 0;
        } else {
            lone.turns = if lone.requests == 1 { lone.turns + 1 } else { 0 };
            lone.turn = count();
            lone.requests = 1;
        }
        cell.set(lone);
        lone.requests == 1 && lone.turns >= LONELY
    })
}

/// Whether turns bring one request each: there is nothing to gather.
pub(super) fn is_lonely() -> bool {
    let lone = LONE.with(Cell::get);
    // A request is answered in the turn behind its own, or in the one behind that.
    lone.requests == 1 && lone.turns >= LONELY && count() - lone.turn <= 2
}

/// How many turns this thread has begun.
pub(super) fn count() -> u64 {
    TURN.with(Cell::get).0
}

/// When the current turn began.
pub(super) fn began() -> Instant {
    TURN.with(Cell::get).1.unwrap_or_else(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_alone_after_some_turns_with_one_each_and_until_one_brings_two() {
        let turn = |requests: usize| {
            begin();
            (0..requests).map(|_| brings_one()).collect::<Vec<_>>()
        };
        for _ in 0..LONELY {
            assert_eq!(turn(1), [false]);
        }
        assert_eq!(turn(1), [true]);
        assert_eq!(turn(2), [true, false]);
        for _ in 0..LONELY {
            assert_eq!(turn(1), [false]);
        }
        assert_eq!(turn(1), [true]);
    }
}

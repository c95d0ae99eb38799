//! How long known reads take on the server, by shape, when it has nothing else to do.
//!
//! What can be measured is the time until we looked. It holds our own turn, and on a busy machine the time of everybody
//! else: were that believed, reads would be spread over ever more server processes, which makes each of them look slower
//! still. So the least that was seen counts; it rises slowly. Where the server had answered everything it was given by the
//! time we looked, even that is only an upper bound, unless we had slept until its answer came: who doubts that too takes reads of
//! a millisecond for short ones by and by, and puts them behind each other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

use crate::classify::AlreadyHashed;

/// Shapes that are remembered; beyond it the memory starts anew.
const SHAPES_MAX: usize = 8192;
/// Shapes of which more than this part ran long are not put in one queue with others: an average says nothing about them.
const LONG_SHARE_MAX: f32 = 0.001;
/// Weight of one run in that part.
const LONG_WEIGHT: f32 = 0.01;
/// How fast the time of a shape may rise, per second.
const RISE: f32 = 0.1;
/// Reads that are expected to take longer, in microseconds, have a Sync each: the first answer would wait for the last.
const JOINED_EACH_MAX: f32 = DOUBTED;
/// Runs of a shape that have a Sync each after one that failed and had others run again.
const ALONE_AFTER_ERROR: u16 = 256;
/// An upper bound above this many microseconds is doubted: it shrinks until reads are put behind each other, which shows.
const DOUBTED: f32 = 100.0;
const DOUBT: f32 = 0.98;

/// One measured run, or several that ended together.
#[derive(Clone, Copy, Debug)]
pub(in crate::plane) struct Run {
    /// Its time, or its part of the time of all.
    pub(in crate::plane) took: Duration,
    /// It did not take longer, but perhaps less.
    pub(in crate::plane) at_most: bool,
    /// Nobody has looked between its beginning and its end: how long it took is not known.
    pub(in crate::plane) unwatched: bool,
    /// It took so long that nobody should have had to wait behind it.
    pub(in crate::plane) long: bool,
}

#[derive(Clone, Copy)]
struct Shape {
    /// Microseconds.
    time: f32,
    /// Part of the runs that were long.
    long: f32,
    /// So many runs have a Sync each.
    alone: u16,
    seen: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct Estimates {
    shapes: RefCell<HashMap<u64, Shape, BuildHasherDefault<AlreadyHashed>>>,
}

impl Estimates {
    /// The time a run of this shape takes; `None`: it never ran.
    pub(super) fn time(&self, shape: u64) -> Option<Duration> {
        self.shapes
            .borrow()
            .get(&shape)
            .map(|s| Duration::from_micros(s.time as u64))
    }

    /// Whether runs of this shape are reliably shorter than `limit`.
    pub(super) fn is_short(&self, shape: u64, limit: Duration) -> bool {
        let known = self.shapes.borrow().get(&shape).copied();
        known.is_some_and(|s| s.long < LONG_SHARE_MAX && u128::from(s.time as u64) < limit.as_micros())
    }

    /// Whether runs of this shape may share a Sync: they are short and do not fail.
    pub(super) fn may_join(&self, shape: u64) -> bool {
        let known = self.shapes.borrow().get(&shape).copied();
        known.is_some_and(|s| s.alone == 0 && s.long < LONG_SHARE_MAX && s.time <= JOINED_EACH_MAX)
    }

    /// A run of this shape has failed, and others had to be run again.
    pub(super) fn failed_among_others(&self, shape: u64) {
        if let Some(known) = self.shapes.borrow_mut().get_mut(&shape) {
            known.alone = ALONE_AFTER_ERROR;
        }
    }

    /// A run of this shape has ended at `now`.
    pub(super) fn add(&self, shape: u64, run: Run, now: Instant) {
        let took = run.took.as_secs_f32() * 1e6;
        let mut shapes = self.shapes.borrow_mut();
        if shapes.len() >= SHAPES_MAX && !shapes.contains_key(&shape) {
            shapes.clear();
        }
        let known = shapes.entry(shape).or_insert(Shape {
            time: took,
            long: 0.0,
            alone: 0,
            seen: now,
        });
        known.alone = known.alone.saturating_sub(1);
        known.long += (f32::from(u8::from(run.long)) - known.long) * LONG_WEIGHT;
        if run.at_most {
            known.time = known.time.min(took);
            if known.time > DOUBTED {
                known.time *= DOUBT;
            }
        } else if took > known.time {
            let passed = now.saturating_duration_since(known.seen).as_secs_f32();
            known.time = took.min(known.time * (1.0 + RISE * passed.min(1.0)));
            known.seen = now;
        } else {
            known.time += (took - known.time) * 0.25;
            known.seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock {
        estimates: Estimates,
        now: Instant,
    }

    impl Clock {
        fn new() -> Self {
            Self {
                estimates: Estimates::default(),
                now: Instant::now(),
            }
        }

        /// One run every millisecond.
        fn run(&mut self, us: u64, at_most: bool, long: bool) {
            self.now += Duration::from_millis(1);
            let took = Duration::from_micros(us);
            self.estimates.add(
                1,
                Run {
                    took,
                    at_most,
                    unwatched: at_most,
                    long,
                },
                self.now,
            );
        }

        fn time(&self) -> Duration {
            self.estimates.time(1).unwrap()
        }
    }

    #[test]
    fn a_shape_that_never_ran_has_no_time() {
        assert_eq!(Estimates::default().time(1), None);
    }

    #[test]
    fn a_busy_proxy_does_not_make_the_server_look_slow() {
        let mut clock = Clock::new();
        for _ in 0..200 {
            clock.run(800, true, false);
        }
        assert!(clock.time() <= Duration::from_micros(100));
    }

    #[test]
    fn a_busy_machine_does_not_make_a_statement_look_slow_at_once() {
        let mut clock = Clock::new();
        clock.run(40, false, false);
        for _ in 0..1_000 {
            clock.run(2_000, false, false);
        }
        assert!(clock.time() <= Duration::from_micros(45));
    }

    #[test]
    fn a_statement_that_has_become_slow_is_noticed_in_the_end() {
        let mut clock = Clock::new();
        clock.run(40, false, false);
        for _ in 0..60_000 {
            clock.run(2_000, false, false);
        }
        assert_eq!(clock.time(), Duration::from_millis(2));
    }

    #[test]
    fn a_slow_shape_is_known_from_its_first_run_on() {
        let mut clock = Clock::new();
        for _ in 0..10 {
            clock.run(1_000, false, false);
            assert_eq!(clock.time(), Duration::from_millis(1));
        }
    }

    #[test]
    fn a_shape_with_a_long_run_now_and_then_is_not_short() {
        let limit = Duration::from_millis(5);
        let mut clock = Clock::new();
        for _ in 0..100 {
            clock.run(50, false, false);
        }
        assert!(clock.estimates.is_short(1, limit));
        for _ in 0..5 {
            clock.run(2_000_000, false, true);
            for _ in 0..200 {
                clock.run(50, false, false);
                assert!(!clock.estimates.is_short(1, limit));
            }
        }
        for _ in 0..1_000 {
            clock.run(50, false, false);
        }
        assert!(clock.estimates.is_short(1, limit));
    }

    #[test]
    fn the_memory_is_bounded() {
        let estimates = Estimates::default();
        let run = Run {
            took: Duration::from_micros(10),
            at_most: false,
            unwatched: false,
            long: false,
        };
        for shape in 0..3 * SHAPES_MAX as u64 {
            estimates.add(shape, run, Instant::now());
        }
        assert!(estimates.shapes.borrow().len() <= SHAPES_MAX);
    }
}

//! How many workers are given out at once to clients that want one for themselves, where more ask than there are.
//!
//! A server whose processors are busy does not get more done with more transactions at once: its processes wait for each
//! other, find their caches cold, and take the processor from whoever is to bring them the next statement. Whether it is
//! so busy shows in what costs it nothing: the end of a transaction that only read (`worker/ending.rs`), which it confirms as soon
//! as the process gets a processor. While that takes long and clients wait anyway, fewer workers are given out, by and
//! by; the clients wait here instead of there, first come, first served.
//!
//! What is measured cannot tell why the server is busy. Where somebody else keeps it so, giving way gains nothing and costs us our share:
//! so it is known what got done without, from half a second in thirty, and where less gets done with fewer it ends for a while.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// No bound: as many as there are.
const ALL: usize = usize::MAX;
/// So many are always given out, or half of what is there if that is less.
const LEAST: usize = 10;
/// Of fewer workers none is held back.
const FEW: usize = 8;
/// An end is confirmed late after so many microseconds more than it takes when the server is idle, or after twice that time where the way
/// there takes longer than this. One or two short statements on one processor.
const LATE: f32 = 150.0;
/// Weight of one end in what is usual.
const WEIGHT: f32 = 1.0 / 64.0;
/// Ends between two steps.
const STEP: u32 = 32;
/// How fast the least time seen may rise, per second.
const RISE: f32 = 0.01;
/// What was seen so long ago counts no longer: no end was heard of, or nobody has waited.
const FORGOTTEN: Duration = Duration::from_millis(100);
/// Weight of one holder in the usual time a worker is held.
const HELD_WEIGHT: u32 = 32;
/// Who has held a worker for this many times the usual time does not count: he thinks, works for long, or waits for a lock.
const LONG: u32 = 4;
/// But not before this time, and after that one in any case.
const LONG_MIN: Duration = Duration::from_millis(5);
const LONG_MAX: Duration = Duration::from_millis(100);
/// What gets done is counted over so long.
const WINDOW: Duration = Duration::from_millis(500);
/// A window in which nothing came back for so long says nothing: the load has paused.
const PAUSE: Duration = Duration::from_millis(25);
/// With fewer at once at least this part of what got done before has to get done, else it was not worth it; in two windows, one after the other.
const WORTH: f32 = 0.85;
/// So long nothing is held back where it was not worth it; and after so long it has to be seen again what gets done without.
const REST: Duration = Duration::from_secs(30);

/// A worker comes back from the client that had it for itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Back {
    pub(super) now: Instant,
    /// How long it was held.
    pub(super) held: Duration,
    /// Whether clients wait for one.
    pub(super) asked: bool,
}

/// What got done in some time.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// Workers that came back.
    backs: u32,
    last: Instant,
    /// Whether clients were held back; `None`: that has changed since it began, or for a moment nobody waited or nothing came back.
    paced: Option<bool>,
    /// Whether anybody waited.
    asked: bool,
}

impl Window {
    fn new(began: Instant, paced: bool) -> Self {
        Self {
            began,
            backs: 0,
            last: began,
            paced: Some(paced),
            asked: false,
        }
    }
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// The least time an end took, in microseconds. As long as it is not known none is late.
    least: f32,
    /// How much longer than that it takes, usually.
    late: f32,
    /// Since the last step.
    ends: u32,
    heard: Option<Instant>,
    /// When somebody waited last.
    asked: Option<Instant>,
    usual: Duration,
    window: Option<Window>,
    /// Workers that came back per second while none were held back, and when that was. Without it, or when it is old, none are.
    unpaced: Option<(f32, Instant)>,
    /// Less got done in the last window.
    doubted: bool,
    /// Nothing is held back before.
    rests_until: Option<Instant>,
}

impl State {
    fn limit(&self, now: Instant) -> usize {
        if self.limit == ALL {
            return ALL;
        }
        let within =
            |seen: Option<Instant>, limit| seen.is_some_and(|at| now.saturating_duration_since(at) < limit);
        let rests = self.rests_until.is_some_and(|until| now < until);
        let known = within(self.unpaced.map(|(_, at)| at), REST);
        if within(self.heard, FORGOTTEN) && within(self.asked, FORGOTTEN) && known && !rests {
            self.limit
        } else {
            ALL
        }
    }

    /// Counts what comes back, and looks whether more did when none were held back.
    fn count(&mut self, back: &Back) {
        let paced = self.limit(back.now) != ALL;
        let window = self.window.get_or_insert_with(|| Window::new(back.now, paced));
        window.backs += 1;
        window.asked |= back.asked;
        let paused = back.now.saturating_duration_since(window.last) >= PAUSE;
        window.last = back.now;
        if paused || paced && !back.asked || window.paced != Some(paced) {
            window.paced = None;
        }
        let took = back.now.saturating_duration_since(window.began);
        if took < WINDOW {
            return;
        }
        let rate = window.backs as f32 / took.as_secs_f32();
        match window.paced.filter(|_| window.asked) {
            Some(false) => self.unpaced = Some((rate, back.now)),
            Some(true) if self.unpaced.is_some_and(|(before, _)| rate < before * WORTH) => {
                if self.doubted {
                    self.rests_until = Some(back.now + REST);
                }
                self.doubted = !self.doubted;
            }
            Some(true) => self.doubted = false,
            None => {}
        }
        let paced = self.limit(back.now) != ALL;
        self.window = Some(Window::new(back.now, paced));
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pace(RefCell<State>);

impl Default for Pace {
    fn default() -> Self {
        Self(RefCell::new(State {
            limit: ALL,
            least: f32::MAX,
            late: 0.0,
            ends: 0,
            heard: None,
            asked: None,
            usual: Duration::ZERO,
            window: None,
            unpaced: None,
            doubted: false,
            rests_until: None,
        }))
    }
}

impl Pace {
    /// How many may be given out at once now; `None`: as many as there are.
    pub(super) fn limit(&self, now: Instant) -> Option<usize> {
        Some(self.0.borrow().limit(now)).filter(|limit| *limit != ALL)
    }

    /// Whether a worker that was given out at `since` counts.
    pub(super) fn counts(&self, since: Instant, now: Instant) -> bool {
        let long = (self.0.borrow().usual * LONG).clamp(LONG_MIN, LONG_MAX);
        now.saturating_duration_since(since) < long
    }

    /// The server has confirmed an end. `took`: `None` if we have not looked before. There are `all` workers.
    pub(super) fn confirmed(&self, now: Instant, took: Option<Duration>, all: usize) {
        let mut state = self.0.borrow_mut();
        let passed = state
            .heard
            .replace(now)
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if passed >= FORGOTTEN {
            (state.limit, state.late, state.ends) = (ALL, 0.0, 0);
        }
        let above = took.map_or(0.0, |took| {
            let us = took.as_secs_f32() * 1e6;
            let risen = state.least * (1.0 + RISE * passed.min(FORGOTTEN).as_secs_f32());
            state.least = us.min(risen);
            us - state.least
        });
        state.late += (above - state.late) * WEIGHT;
        state.ends += 1;
        if state.ends < STEP {
            return;
        }
        state.ends = 0;
        let allowed = LATE.max(state.least);
        if all < FEW {
            state.limit = ALL;
        } else if state.late > allowed * 1.2 {
            state.limit = state.limit.min(all).saturating_sub(1).max(LEAST.min(all / 2));
        } else if state.late < allowed * 0.8 && state.limit != ALL {
            state.limit = if state.limit + 1 < all {
                state.limit + 1
            } else {
                ALL
            };
        }
    }

    /// A worker came back.
    pub(super) fn note(&self, back: &Back) {
        let mut state = self.0.borrow_mut();
        state.usual = if state.usual.is_zero() {
            back.held
        } else {
            (state.usual * (HELD_WEIGHT - 1) + back.held) / HELD_WEIGHT
        };
        if back.asked {
            state.asked = Some(back.now);
        }
        state.count(back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: usize = 20;

    /// Transactions of clients that never pause, one after the other.
    struct Load {
        pace: Pace,
        now: Instant,
    }

    impl Load {
        fn new() -> Self {
            Self {
                pace: Pace::default(),
                now: Instant::now(),
            }
        }

        fn limit(&self) -> Option<usize> {
            self.pace.limit(self.now)
        }

        /// For so long, so many a second, each held for 3 ms; a confirmation takes `took`.
        fn run(&mut self, time: Duration, rate: u32, took: Option<Duration>, asked: bool) {
            for _ in 0..(time.as_secs_f32() * rate as f32) as u32 {
                self.end(rate, took, asked);
            }
        }

        /// Until some are held back, and it was seen what gets done when none are.
        fn be_late(&mut self) {
            self.run(WINDOW * 4, 3000, us(800), true);
        }

        /// `ends` of a server that is late: 3000 a second, and `paced` while some are held back. How many seconds that was, and of how many.
        fn held_back(mut self, paced: u32, ends: u32) -> (f64, f64) {
            self.run(Duration::from_secs(2), 3000, us(80), true);
            let (mut held, mut all) = (0.0, 0.0);
            for _ in 0..ends {
                let rate = if self.limit().is_some() { paced } else { 3000 };
                self.end(rate, us(800), true);
                all += 1.0 / f64::from(rate);
                held += self.limit().map_or(0.0, |_| 1.0 / f64::from(rate));
            }
            (held, all)
        }

        fn end(&mut self, rate: u32, took: Option<Duration>, asked: bool) {
            self.now += Duration::from_secs(1) / rate;
            self.pace.note(&Back {
                now: self.now,
                held: Duration::from_millis(3),
                asked,
            });
            self.pace.confirmed(self.now, took, WORKERS);
        }
    }

    fn us(us: u64) -> Option<Duration> {
        Some(Duration::from_micros(us))
    }

    #[test]
    fn a_server_that_confirms_at_once_gets_all_workers() {
        let mut load = Load::new();
        load.run(Duration::from_secs(2), 3000, us(80), true);
        assert_eq!(load.limit(), None);
        // However far away it is.
        let mut load = Load::new();
        load.run(Duration::from_secs(2), 3000, us(5_000), true);
        load.run(Duration::from_secs(2), 3000, us(6_000), true);
        assert_eq!(load.limit(), None);
        // And it is not the server's fault when we are the ones who are late.
        load.run(Duration::from_secs(2), 3000, None, true);
        assert_eq!(load.limit(), None);
    }

    #[test]
    fn one_that_confirms_late_gets_half_and_all_again_when_it_is_idle_or_nobody_waits() {
        let mut load = Load::new();
        load.run(Duration::from_millis(100), 3000, us(80), true);
        load.be_late();
        assert_eq!(load.limit(), Some(LEAST));
        load.run(Duration::from_secs(1), 3000, us(90), true);
        assert_eq!(load.limit(), None);
        load.run(Duration::from_secs(1), 3000, us(800), true);
        assert_eq!(load.limit(), Some(LEAST));
        load.run(Duration::from_millis(200), 3000, us(800), false);
        assert_eq!(load.limit(), None);
    }

    #[test]
    fn without_news_of_the_server_nothing_is_held_back() {
        let mut load = Load::new();
        load.run(Duration::from_millis(100), 3000, us(80), true);
        load.be_late();
        assert!(load.limit().is_some());
        load.now += FORGOTTEN;
        assert_eq!(load.limit(), None);
        load.run(Duration::from_millis(5), 3000, us(800), true);
        assert_eq!(load.limit(), None, "it begins anew");
    }

    #[test]
    fn where_less_gets_done_with_fewer_it_ends() {
        // Somebody else keeps the processors busy: with half as many at once half as much gets done.
        let (paced, all) = Load::new().held_back(1500, 60_000);
        assert!((0.1..2.0).contains(&paced), "{paced} s of {all}");
    }

    #[test]
    fn a_pause_of_the_load_is_not_taken_for_less_that_gets_done() {
        let mut load = Load::new();
        load.run(Duration::from_secs(1), 3000, us(80), true);
        load.be_late();
        for _ in 0..10 {
            load.run(Duration::from_millis(400), 3000, us(800), true);
            load.now += Duration::from_millis(90);
            assert!(load.limit().is_some());
        }
        load.run(Duration::from_millis(500), 3000, us(800), true);
        assert!(load.limit().is_some());
    }

    #[test]
    fn where_more_gets_done_with_fewer_it_lasts() {
        let (paced, all) = Load::new().held_back(3300, 300_000);
        assert!(paced > 0.95 * all, "{paced} s of {all}");
    }

    #[test]
    fn who_holds_a_worker_for_long_does_not_count() {
        let mut load = Load::new();
        load.run(Duration::from_secs(1), 3000, us(80), true);
        let since = load.now;
        assert!(load.pace.counts(since, since + Duration::from_millis(11)));
        assert!(!load.pace.counts(since, since + Duration::from_millis(13)));
    }
}

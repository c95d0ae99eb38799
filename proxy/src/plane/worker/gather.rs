//! Gathering answers: a server that has many known reads to answer wakes us for several of them, not for each.
//!
//! It does so by how much must have come before its socket counts as readable. What it still owes is more than that, as short as
//! its answers to reads may be. Where one of them takes its time, or requests that only parse are answered by less, the pool's watch
//! has fetched what came.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use pgnet::sockopt;
use pgnet::stream::Stream;

use super::super::turn;
use super::{Inner, State, Worker};

/// Bytes a server sends at least for a known read: BindComplete and CommandComplete (`SELECT 0`), or that and ReadyForQuery.
const ANSWER_MIN: u32 = 19;
/// Reads a server has to have before it is worth it.
const MANY: usize = 8;
/// Most reads that count: larger turns bring no more, they only come later.
const MOST: usize = 64;
/// Reads that are expected to take longer are fetched as they come.
const SHORT: Duration = Duration::from_micros(50);
/// So is what stands behind a read that takes this long.
const LATE: Duration = Duration::from_millis(1);

impl Worker {
    /// What the server has was added to.
    pub(super) fn gather_more(&self, inner: &Inner) {
        self.set_low_water(self.worth_gathering(inner));
    }

    /// The server has answered some of it.
    pub(super) fn gather_less(&self, inner: &Inner) {
        // What is on its way to the server sets it anyhow.
        if self.low_water.get() > 1 && !inner.posted {
            let wanted = self.worth_gathering(inner);
            self.set_low_water(wanted.min(self.low_water.get()));
        }
    }

    /// The running request is said to be this old: if that is much, whatever has come is fetched. True if something may have.
    pub(in crate::plane) fn fetch_if_late(&self, age: Duration) -> bool {
        let late = age >= LATE && self.low_water.get() > 1;
        if late {
            self.set_low_water(1);
        }
        late
    }

    /// When the running request is to be looked at (again): it may keep those behind it waiting for no longer than `limit`, and where it
    /// does, or where answers wait for each other, half of that passes from one look to the next.
    pub(in crate::plane) fn due(&self, now: Instant, limit: Duration) -> Instant {
        let left = limit.saturating_sub(self.head_age(now));
        now + if left.is_zero() {
            limit / 2
        } else if self.low_water.get() > 1 {
            left.min(limit / 2)
        } else {
            left
        }
    }

    /// How many bytes to wait for: by what the server has now it owes more.
    fn worth_gathering(&self, inner: &Inner) -> u32 {
        let sent = inner.sent();
        if sent < MANY || self.state.get() != State::Shared {
            return 1;
        }
        let each = self.expected_wait() / u32::try_from(inner.pending.len()).unwrap_or(u32::MAX);
        if each > SHORT || turn::began().saturating_duration_since(inner.head_since) > LATE {
            return 1;
        }
        // Those that share a Sync come together anyhow; the server is to have more to do meanwhile.
        let wanted = if inner.script.head_is_joined() {
            sent / 4
        } else {
            sent
        };
        // In steps, so that it need not be set each time.
        let counted = 1_u32 << wanted.clamp(1, MOST).ilog2();
        counted * ANSWER_MIN
    }

    fn set_low_water(&self, bytes: u32) {
        if self.low_water.get() == bytes {
            return;
        }
        let stream = self.stream.borrow();
        if let Some(Stream::Tcp(socket)) = stream.as_ref()
            && sockopt::low_water(socket.as_fd(), bytes).is_ok()
        {
            self.low_water.set(bytes);
            if bytes > 1
                && let Some(pool) = self.pool.upgrade()
            {
                pool.watch(turn::began() + pool.overrun() / 2);
            }
        }
    }
}

//! Reads that take longer than expected: those behind them go elsewhere, if there is a free worker.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::cancel;
use super::super::worker::State;
use super::Pool;

/// Reads that share a Sync and are not answered after this time are cancelled where they are: well below the second (deadlock_timeout) after
/// which the server would look for a deadlock, and longer than a busy machine keeps a process waiting for its turn.
const HOPELESS: Duration = Duration::from_millis(100);

impl Pool {
    /// A known read stands behind another: from now on somebody looks now and then whether it waits too long.
    pub(in crate::plane) fn watch(self: &Rc<Self>) {
        if self.watched.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                let Some(period) = pool.upgrade().map(|pool| pool.overrun() / 2) else {
                    return;
                };
                tokio::time::sleep(period).await;
                let Some(pool) = pool.upgrade() else { return };
                if !pool.look() {
                    pool.watched.set(false);
                    return;
                }
            }
        });
    }

    /// Moves reads from behind heads that take too long. True if reads stand behind others anywhere.
    fn look(self: &Rc<Self>) -> bool {
        let now = Instant::now();
        let limit = self.overrun();
        let workers = self.workers.borrow();
        let mut free = workers.iter().filter(|w| w.is_free()).count();
        let (mut queued, mut scarce) = (false, false);
        for worker in workers.iter().filter(|w| w.state.get() == State::Shared) {
            if worker.depth() < 2 {
                continue;
            }
            queued = true;
            // On a machine where everybody is late, running it again would only add to the load.
            let age = worker.head_age(now);
            // What is said to run may have been answered long ago.
            if worker.fetch_if_late(age) {
                continue;
            }
            // Which of those that share a Sync takes so long is unknown, and the answers of those before it are held back.
            let hopeless = age >= limit.max(HOPELESS);
            if worker.head_is_joined() && age >= limit && (free > 0 || hopeless) {
                free = free.saturating_sub(1);
                if worker.give_up_joined(hopeless) {
                    let worker = worker.clone();
                    tokio::task::spawn_local(async move { cancel::on_server(&worker).await });
                }
                continue;
            }
            if free > 0 && age >= limit {
                free -= 1;
                worker.detach_followers();
            }
            scarce |= free == 0 && age >= self.long();
        }
        drop(workers);
        if scarce {
            self.start_another();
        }
        queued
    }
}

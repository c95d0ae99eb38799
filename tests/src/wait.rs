//! Waiting with a deadline and a message that says what was waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen soon. Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Calls `probe` until it gives `Ok`, or panics after `limit` with `what` and the last reason.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        let reason = match probe() {
            Ok(value) => return value,
            Err(reason) => reason,
        };
        assert!(
            started.elapsed() < limit,
            "waited {:?} for {what}; last seen: {reason}",
            started.elapsed()
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// [`wait_for`] with a condition.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || {
        if condition() {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
}

/// Tells those who run beside a test to stop, however it ends: a scope would wait for them for ever.
pub struct Stops<'a>(pub &'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

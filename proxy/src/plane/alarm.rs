//! A clock that wakes a data thread in some milliseconds.
//!
//! The runtime's own timers tell the kernel with every wait how long it is to last, and a wait that may end so soon makes it set the
//! processor's timer when it begins and again when it ends; on a virtual machine either is a way out of it. Under load a data thread waits
//! thousands of times a second, and something is always to be looked at in five milliseconds. This timer (`timerfd`) is set once for
//! all waits until it rings.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// See the module.
pub(super) struct Alarm(TimerFd);

/// Where it is heard.
pub(super) struct Bell(
    /// The alarm's timer: the runtime reads what it is given, a timer as well as a pipe.
    Receiver,
);

impl Alarm {
    /// One that is not set. To be called on the runtime whose thread it wakes.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub(super) fn new() -> io::Result<(Self, Bell)> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let bell = Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)?;
        Ok((Self(timer), Bell(bell)))
    }

    /// It rings once, this long from now, whatever it was set to before.
    pub(super) fn set(&self, after: Duration) {
        // Zero would switch it off.
        let after = Expiration::OneShot(after.max(Duration::from_micros(1)).into());
        // It fails for times that are none, which a Duration is not.
        let _ = self.0.set(after, TimerSetTimeFlags::empty());
    }
}

impl Bell {
    /// Waits until it rings.
    pub(super) async fn rings(&mut self) {
        // The timer gives eight bytes: with room for more the runtime knows that there are none, and need not ask.
        if self.0.read(&mut [0; 16]).await.is_err() {
            std::future::pending::<()>().await; // the runtime ends
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    async fn rings_within(bell: &mut Bell, time: Duration) -> bool {
        tokio::time::timeout(time, bell.rings()).await.is_ok()
    }

    #[tokio::test]
    async fn it_rings_once_when_it_was_set_to_last() {
        let (alarm, mut bell) = Alarm::new().unwrap();
        assert!(
            !rings_within(&mut bell, Duration::from_millis(20)).await,
            "not set"
        );
        alarm.set(Duration::from_secs(3600));
        alarm.set(Duration::from_millis(5));
        let began = Instant::now();
        assert!(rings_within(&mut bell, Duration::from_secs(10)).await);
        assert!(began.elapsed() >= Duration::from_millis(4));
        assert!(!rings_within(&mut bell, Duration::from_millis(20)).await, "once");
        alarm.set(Duration::ZERO);
        assert!(rings_within(&mut bell, Duration::from_secs(10)).await);
    }
}

//! Signals become orders.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::house::{House, Order};
use crate::pseudo::Shutdown;

/// Listens until the future is dropped.
///
/// # Errors
/// When a signal cannot be listened to.
pub(super) fn listen(house: Arc<House>) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {
                    house.order(Order::Reload);
                    continue;
                }
                Some(()) = interrupt.recv() => {}
                Some(()) = terminate.recv() => {}
                Some(()) = quit.recv() => asked = true,
                else => return,
            }
            if asked {
                info!("Ending at once");
                house.order(Order::End(Shutdown::Now));
            } else {
                info!("Draining; the same signal again, or SIGQUIT, ends at once");
                house.order(Order::End(Shutdown::Drain));
                asked = true;
            }
        }
    })
}

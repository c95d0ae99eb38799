//! The limit of open files: every client and every worker is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors that are neither clients nor workers: logs, listeners, timers, look-ups.
const OTHERS: u64 = 64;

/// Raises the soft limit to the hard one, says what it is, and warns when `clients` and `workers` do not fit.
pub fn raise_limit(clients: u64, workers: u64) {
    let before = getrlimit(Resource::Nofile);
    let mut now = before;
    if before.current != before.maximum {
        let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
        match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => now = wanted,
            Err(error) => warn!(%error, "The limit of open files cannot be raised"),
        }
    }
    let limit = now.current;
    let needed = clients.saturating_add(workers).saturating_add(OTHERS);
    match limit {
        Some(limit) if limit < needed => {
            warn!(limit, needed, "Fewer open files are allowed than limits.maxClients and workers.max may need");
        }
        Some(limit) => info!(limit, "Open files"),
        None => info!("Open files are not limited"),
    }
}

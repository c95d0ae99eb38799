//! The limit of open files: every client and every worker is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors that are neither clients nor workers: logs, listeners, timers, look-ups.
const OTHERS: u64 = 64;

/// Raises the soft limit to the hard one, says what it is, and warns when `clients` and `workers` do not fit.
pub(super) fn raise_limit(clients: u64, workers: u64) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return warn!(%error, "The limit of open files is not known"),
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) if soft != hard => {
            warn!(%error, "The limit of open files cannot be raised");
            soft
        }
        Err(_) => soft,
    };
    let needed = clients.saturating_add(workers).saturating_add(OTHERS);
    if limit < needed {
        warn!(
            limit,
            needed, "Fewer open files are allowed than limits.maxClients and workers.max may need"
        );
    } else {
        info!(limit, "Open files");
    }
}

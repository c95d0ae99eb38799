//! This proxy's part of what all proxies may have together.

use std::sync::Arc;
use std::time::Duration;

use crds::PoolConfig;
use crds::status::{PgPoolStatus, Share};
use tokio::time::sleep;

use super::Follower;

/// How often it is looked whether enough connections were closed.
const LOOK: Duration = Duration::from_millis(200);

/// How long a worker may be idle while there are more of them than our share.
const LEAN: Duration = Duration::from_millis(200);

/// Ends when no server has more than `most` connections of this proxy (0: as many as it likes), with the number of the budget that asks for
/// it: nobody else gets what this proxy still has.
pub(super) async fn keep(follower: Arc<dyn Follower>, number: u64, most: u32) -> u64 {
    if most == 0 {
        return number;
    }
    // A server takes a moment to end the process behind a connection that was closed.
    sleep(LOOK).await;
    while follower.connections().await > most {
        sleep(LOOK).await;
    }
    sleep(LOOK).await;
    number
}

/// What nobody needs at the moment is closed soon.
pub(super) fn make_lean(config: &mut PoolConfig) {
    let idle = config.workers.idle_timeout.unwrap_or(LEAN);
    config.workers.idle_timeout = Some(idle.min(LEAN));
    if config.budget.per_server != 0 {
        config.workers.max = config.workers.max.min(config.budget.per_server).max(1);
    }
}

/// This proxy's part of what all proxies may have together.
pub(super) fn share(status: Option<&PgPoolStatus>, id: &str) -> Share {
    match status.map(|status| &status.budget) {
        // Nobody shares out.
        None => Share::ALL,
        Some(budget) if budget.number == 0 && budget.shares.is_empty() => Share::ALL,
        Some(budget) => budget.shares.get(id).copied().unwrap_or(Share::NONE),
    }
}

/// The pool with `workers.max` and the like cut to this proxy's share.
pub(super) fn with_share(config: &PoolConfig, status: Option<&PgPoolStatus>, share: Share) -> PoolConfig {
    let mut own = config.clone();
    let cut = |max: &mut Option<u32>| *max = max.map(|max| share.workers(max));
    if share != Share::ALL {
        own.workers.max = share.workers(own.workers.max);
        for database in &mut own.databases {
            cut(&mut database.overrides.max_workers);
            database
                .users
                .iter_mut()
                .for_each(|user| cut(&mut user.overrides.max_workers));
        }
        own.users
            .iter_mut()
            .for_each(|user| cut(&mut user.overrides.max_workers));
    }
    let budget = status
        .into_iter()
        .flat_map(|status| status.budget.servers.values());
    if let Some(least) = budget.copied().min() {
        own.budget.per_server = share.connections(least).max(1);
    }
    own
}

//! This proxy's part of what all proxies may have together: pure.

use crds::PoolConfig;
use crds::status::{PgPoolStatus, Share};

/// This proxy's part of what all proxies may have together.
pub(super) fn share(status: Option<&PgPoolStatus>, id: &str) -> Share {
    match status.map(|status| &status.budget.shares) {
        None => Share::ALL,
        Some(shares) if shares.is_empty() => Share::ALL,
        Some(shares) => shares.get(id).copied().unwrap_or(Share { parts: 0, of: 1 }),
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

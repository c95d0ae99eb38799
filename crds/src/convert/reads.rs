//! Routing and cache.

use std::path::PathBuf;

use super::access::{Whom, matcher};
use super::limits::{hours, ms};
use crate::raw;
use crate::units::SIZE_MAX;
use crate::{Cache, CacheDisk, CacheRule, Faults, RouteTo, Routing, RoutingRule};

/// More than any machine has, and small enough to be counted in.
const MEMORY_MAX: u64 = 1 << 40;

/// A regular expression that compiles within a bounded size.
fn query(faults: &mut Faults, query: Option<String>) -> Option<String> {
    let query = faults.optional_text("query", query, 1024)?;
    if let Err(error) = regex::RegexBuilder::new(&query).size_limit(1 << 20).build() {
        let text = error.to_string();
        let last = text
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        faults.add(
            "query",
            format!("expected a regular expression: {last}, is {query:?}"),
        );
    }
    Some(query)
}

pub(super) fn routing(faults: &mut Faults, written: raw::Routing) -> Routing {
    let raw::Routing {
        read_split,
        consistency,
        max_lag,
        user_suffix,
        database_suffix,
        rules,
    } = written;
    for (key, suffix) in [("userSuffix", &user_suffix), ("databaseSuffix", &database_suffix)] {
        if suffix.len() > 16 || suffix.chars().any(char::is_control) {
            faults.add(key, "must be at most 16 bytes without control characters");
        }
    }
    let rules = faults.at_most("rules", rules, 64);
    let rules = rules.into_iter().enumerate().map(|(index, rule)| {
        faults.within(&format!("rules[{index}]"), |faults| {
            let raw::RoutingRule {
                user,
                database,
                application_name,
                address,
                query: text,
                to,
            } = rule;
            if to.is_none() {
                faults.add("to", "is missing: expected master or replica");
            }
            RoutingRule {
                clients: matcher(
                    faults,
                    Whom {
                        user,
                        database,
                        application_name,
                        address,
                    },
                ),
                query: query(faults, text),
                to: to.unwrap_or(RouteTo::Master),
            }
        })
    });
    let rules = rules.collect();
    let max_lag = faults.size("maxLag", &max_lag, 0..=SIZE_MAX);
    Routing {
        read_split,
        consistency,
        max_lag: (max_lag > 0).then_some(max_lag),
        user_suffix,
        database_suffix,
        rules,
    }
}

pub(super) fn cache(faults: &mut Faults, written: raw::Cache) -> Cache {
    let raw::Cache {
        enabled,
        max_bytes,
        max_entry,
        disk,
        rules,
    } = written;
    let max_bytes = faults.size("maxBytes", &max_bytes, 0..=MEMORY_MAX);
    let max_entry = faults.size("maxEntry", &max_entry, 0..=MEMORY_MAX);
    if max_entry > max_bytes && max_bytes > 0 {
        faults.add("maxEntry", "must be at most maxBytes");
    }
    let disk = disk.and_then(|disk| faults.within("disk", |faults| cache_disk(faults, disk)));
    let rules = faults.at_most("rules", rules, 64);
    let rules = rules
        .into_iter()
        .enumerate()
        .map(|(index, rule)| faults.within(&format!("rules[{index}]"), |faults| cache_rule(faults, rule)));
    let rules = rules.collect();
    Cache {
        enabled,
        max_bytes,
        max_entry,
        disk,
        rules,
    }
}

fn cache_disk(faults: &mut Faults, written: raw::CacheDisk) -> Option<CacheDisk> {
    let raw::CacheDisk { path, max_bytes } = written;
    let path = faults.text("path", path, 4096).map(PathBuf::from);
    if path.as_ref().is_some_and(|path| !path.is_absolute()) {
        faults.add("path", "must be absolute: /...");
    }
    let Some(max_bytes) = max_bytes else {
        faults.add("maxBytes", "is missing");
        return None;
    };
    let max_bytes = faults.size("maxBytes", &max_bytes, 1 << 20..=SIZE_MAX);
    Some(CacheDisk {
        path: path?,
        max_bytes,
    })
}

fn cache_rule(faults: &mut Faults, written: raw::CacheRule) -> CacheRule {
    let raw::CacheRule {
        user,
        database,
        application_name,
        address,
        query: text,
        tables,
        ttl,
    } = written;
    let tables = faults.at_most("tables", tables, 64);
    for (index, table) in tables.iter().enumerate() {
        let key = format!("tables[{index}]");
        faults.text(&key, Some(table.clone()), 130);
    }
    if ttl.is_none() {
        faults.add(
            "ttl",
            "is missing: how long a result is good, 0s = it is not cached",
        );
    }
    CacheRule {
        clients: matcher(
            faults,
            Whom {
                user,
                database,
                application_name,
                address,
            },
        ),
        query: query(faults, text),
        tables,
        ttl: ttl.and_then(|ttl| faults.never_or("ttl", &ttl, ms(1)..=hours(366 * 24))),
    }
}

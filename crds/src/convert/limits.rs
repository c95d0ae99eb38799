//! How many, how large, how long.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::access::{Whom, matcher};
use crate::raw;
use crate::{
    Budget, ClientRule, DatabaseOverride, Faults, Limits, Overrides, Pipeline, Timeouts, UserOverride,
    Workers,
};

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

pub(super) const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// What a timeout may be that is not never.
const TIMEOUT: RangeInclusive<Duration> = ms(1)..=hours(366 * 24);
const COUNT: RangeInclusive<u32> = 0..=1_000_000;
const STATEMENTS: RangeInclusive<u32> = 1..=1_000_000;
const WORKERS: RangeInclusive<u32> = 1..=10_000;
const QUERY_SIZE: RangeInclusive<u64> = 1 << 10..=1 << 30;
const CLIENT_BUFFER: RangeInclusive<u64> = 4 << 10..=1 << 30;
/// Identifiers of PostgreSQL have at most so many bytes.
pub(super) const IDENTIFIER_MAX: usize = 63;

/// Sizes here are at most 1 GiB, which fits everywhere.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

pub(super) fn workers(faults: &mut Faults, written: raw::Workers) -> Workers {
    let raw::Workers {
        min_by_clients,
        clients_per_worker,
        max,
        max_per_database,
        max_per_user,
        reserve,
        reserve_after,
        idle_timeout,
        lifetime,
        connect_timeout,
        adaptive,
        pipeline,
    } = written;
    if min_by_clients.is_empty() {
        faults.add(
            "minByClients",
            "must have at least one value: the workers for one client",
        );
    }
    let min_by_clients = faults.at_most("minByClients", min_by_clients, 100);
    let counts = min_by_clients.into_iter().enumerate();
    let min_by_clients = counts
        .map(|(index, count)| faults.range(&format!("minByClients[{index}]"), count, 0..=10_000))
        .collect();
    let raw::Pipeline {
        max_depth,
        max_expected_wait,
        join_reads,
    } = pipeline;
    Workers {
        min_by_clients,
        clients_per_worker: faults.range("clientsPerWorker", clients_per_worker, 1..=10_000),
        max: faults.range("max", max, WORKERS),
        max_per_database: faults.range("maxPerDatabase", max_per_database, 0..=10_000),
        max_per_user: faults.range("maxPerUser", max_per_user, 0..=10_000),
        reserve: faults.range("reserve", reserve, 0..=10_000),
        reserve_after: faults.duration("reserveAfter", &reserve_after, ms(0)..=hours(1)),
        idle_timeout: faults.never_or("idleTimeout", &idle_timeout, TIMEOUT),
        lifetime: faults.never_or("lifetime", &lifetime, ms(1000)..=hours(366 * 24)),
        connect_timeout: faults.duration("connectTimeout", &connect_timeout, ms(10)..=minutes(10)),
        adaptive,
        pipeline: faults.within("pipeline", |faults| Pipeline {
            max_depth: faults.range("maxDepth", max_depth, 1..=1_000),
            max_expected_wait: faults.duration("maxExpectedWait", &max_expected_wait, ms(0)..=ms(10_000)),
            join_reads,
        }),
    }
}

pub(super) fn budget(faults: &mut Faults, written: raw::Budget) -> Budget {
    let raw::Budget {
        reserve_connections,
        per_server,
    } = written;
    Budget {
        reserve_connections: faults.range("reserveConnections", reserve_connections, 0..=100_000),
        per_server: faults.range("perServer", per_server, 0..=100_000),
    }
}

pub(super) fn limits(faults: &mut Faults, written: raw::Limits) -> Limits {
    let raw::Limits {
        max_clients,
        max_clients_per_user,
        max_clients_per_database,
        max_prepared_statements,
        max_query_size,
        client_buffer,
    } = written;
    Limits {
        max_clients: faults.range("maxClients", max_clients, 1..=1_000_000),
        max_clients_per_user: faults.range("maxClientsPerUser", max_clients_per_user, COUNT),
        max_clients_per_database: faults.range("maxClientsPerDatabase", max_clients_per_database, COUNT),
        max_prepared_statements: faults.range("maxPreparedStatements", max_prepared_statements, STATEMENTS)
            as usize,
        max_query_size: bytes(faults.size("maxQuerySize", &max_query_size, QUERY_SIZE)),
        client_buffer: bytes(faults.size("clientBuffer", &client_buffer, CLIENT_BUFFER)),
    }
}

pub(super) fn timeouts(faults: &mut Faults, written: raw::Timeouts) -> Timeouts {
    let raw::Timeouts {
        login,
        query,
        query_wait,
        transaction,
        idle_in_transaction,
        client_idle,
        client_write,
        drain,
    } = written;
    Timeouts {
        login: faults.duration("login", &login, ms(100)..=minutes(10)),
        query: faults.never_or("query", &query, TIMEOUT),
        query_wait: faults.never_or("queryWait", &query_wait, TIMEOUT),
        transaction: faults.never_or("transaction", &transaction, TIMEOUT),
        idle_in_transaction: faults.never_or("idleInTransaction", &idle_in_transaction, TIMEOUT),
        client_idle: faults.never_or("clientIdle", &client_idle, TIMEOUT),
        client_write: faults.never_or("clientWrite", &client_write, TIMEOUT),
        drain: faults.duration("drain", &drain, ms(0)..=hours(24)),
    }
}

/// What the entries of `databases` and `users` have in common.
struct Own {
    pool_mode: Option<crate::PoolMode>,
    workers: Option<raw::WorkersOverride>,
    limits: Option<raw::LimitsOverride>,
    timeouts: Option<raw::TimeoutsOverride>,
}

fn overrides(faults: &mut Faults, own: Own) -> Overrides {
    let Own {
        pool_mode,
        workers,
        limits,
        timeouts,
    } = own;
    let mut overrides = Overrides {
        pool_mode,
        ..Overrides::default()
    };
    if let Some(raw::WorkersOverride { max, max_total }) = workers {
        overrides.max_workers = max.map(|max| faults.range("workers.max", max, WORKERS));
        overrides.max_total_workers = max_total.map(|max| faults.range("workers.maxTotal", max, 0..=10_000));
    }
    if let Some(written) = limits {
        faults.within("limits", |faults| {
            limit_overrides(faults, written, &mut overrides)
        });
    }
    if let Some(written) = timeouts {
        faults.within("timeouts", |faults| {
            timeout_overrides(faults, written, &mut overrides)
        });
    }
    overrides
}

fn limit_overrides(faults: &mut Faults, written: raw::LimitsOverride, overrides: &mut Overrides) {
    let raw::LimitsOverride {
        max_clients,
        max_clients_per_user,
        max_clients_per_database,
        max_prepared_statements,
        max_query_size,
        client_buffer,
    } = written;
    let mut count = |key, value: Option<i64>| value.map(|value| faults.range(key, value, COUNT));
    overrides.max_clients = count("maxClients", max_clients);
    overrides.max_clients_per_user = count("maxClientsPerUser", max_clients_per_user);
    overrides.max_clients_per_database = count("maxClientsPerDatabase", max_clients_per_database);
    overrides.max_prepared_statements = max_prepared_statements
        .map(|value| faults.range("maxPreparedStatements", value, STATEMENTS) as usize);
    overrides.max_query_size =
        max_query_size.map(|size| bytes(faults.size("maxQuerySize", &size, QUERY_SIZE)));
    overrides.client_buffer =
        client_buffer.map(|size| bytes(faults.size("clientBuffer", &size, CLIENT_BUFFER)));
}

fn timeout_overrides(faults: &mut Faults, written: raw::TimeoutsOverride, overrides: &mut Overrides) {
    let raw::TimeoutsOverride {
        query,
        query_wait,
        transaction,
        idle_in_transaction,
        client_idle,
        client_write,
    } = written;
    let mut read =
        |key, text: Option<raw::DurationText>| text.map(|text| faults.never_or(key, &text, TIMEOUT));
    overrides.query = read("query", query);
    overrides.query_wait = read("queryWait", query_wait);
    overrides.transaction = read("transaction", transaction);
    overrides.idle_in_transaction = read("idleInTransaction", idle_in_transaction);
    overrides.client_idle = read("clientIdle", client_idle);
    overrides.client_write = read("clientWrite", client_write);
}

/// A name nobody before it in the list has.
fn unique_name(faults: &mut Faults, name: Option<String>, before: &[String]) -> Option<String> {
    let name = faults.text("name", name, IDENTIFIER_MAX)?;
    if before.contains(&name) {
        faults.add("name", format!("{name:?} is listed twice"));
    }
    Some(name)
}

pub(super) fn databases(faults: &mut Faults, written: Vec<raw::Database>) -> Vec<DatabaseOverride> {
    let mut names = Vec::new();
    let mut databases = Vec::new();
    for (index, database) in faults.at_most("databases", written, 256).into_iter().enumerate() {
        faults.within(&format!("databases[{index}]"), |faults| {
            let raw::Database {
                name,
                server_name,
                pool_mode,
                workers,
                limits,
                timeouts,
                users: own_users,
            } = database;
            let name = unique_name(faults, name, &names);
            let server_name = faults.optional_text("serverName", server_name, IDENTIFIER_MAX);
            let overrides = overrides(
                faults,
                Own {
                    pool_mode,
                    workers,
                    limits,
                    timeouts,
                },
            );
            let users = users(faults, own_users);
            if let Some(name) = name {
                if name == "pseudo" || name == "pgbouncer" {
                    faults.add("name", format!("{name:?} is the admin database"));
                }
                names.push(name.clone());
                databases.push(DatabaseOverride {
                    name,
                    server_name,
                    overrides,
                    users,
                });
            }
        });
    }
    databases
}

pub(super) fn users(faults: &mut Faults, written: Vec<raw::User>) -> Vec<UserOverride> {
    let mut names = Vec::new();
    let mut users = Vec::new();
    for (index, user) in faults.at_most("users", written, 256).into_iter().enumerate() {
        faults.within(&format!("users[{index}]"), |faults| {
            let raw::User {
                name,
                pool_mode,
                workers,
                limits,
                timeouts,
            } = user;
            let name = unique_name(faults, name, &names);
            let overrides = overrides(
                faults,
                Own {
                    pool_mode,
                    workers,
                    limits,
                    timeouts,
                },
            );
            if let Some(name) = name {
                names.push(name.clone());
                users.push(UserOverride { name, overrides });
            }
        });
    }
    users
}

pub(super) fn client_rules(faults: &mut Faults, written: Vec<raw::ClientRule>) -> Vec<ClientRule> {
    let written = faults.at_most("clientRules", written, 64);
    let each = written.into_iter().enumerate().map(|(index, rule)| {
        faults.within(&format!("clientRules[{index}]"), |faults| {
            let raw::ClientRule {
                user,
                database,
                application_name,
                address,
                limits,
                timeouts,
            } = rule;
            if user.is_none() && database.is_none() && application_name.is_none() && address.is_none() {
                faults.add("", "must have user, database, applicationName or address");
            }
            let overrides = overrides(
                faults,
                Own {
                    pool_mode: None,
                    workers: None,
                    limits,
                    timeouts,
                },
            );
            let whom = Whom {
                user,
                database,
                application_name,
                address,
            };
            ClientRule {
                whom: matcher(faults, whom),
                overrides,
            }
        })
    });
    each.collect()
}

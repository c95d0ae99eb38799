//! Carries the commands out.

use std::sync::Arc;
use std::time::Duration;

use pgnet::fields::{ErrorFields, Severity};
use pgnet::sqlstate::SqlState;

use super::Stage;
use super::command::{Command, HELP, Topic};
use super::table::{Column, Kind, Value};
use crate::plane::Counters;

use Kind::{Flag, Number, Text};

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Who {
    /// The role it logged in as.
    pub user: Arc<str>,
    /// May do everything.
    pub admin: bool,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Rows, then the tag `SHOW`.
    Rows(Vec<Vec<Value>>),
    /// Done: the tag.
    Done(&'static str),
    /// There was nothing to do.
    Empty,
}

/// The columns a command answers with; empty: it answers without rows.
pub(super) fn columns(command: &Command) -> &'static [Column] {
    let Command::Show(topic) = command else { return &[] };
    match topic {
        Topic::Help => &[("command", Text), ("description", Text)],
        Topic::Version => &[("version", Text)],
        Topic::Pools => &[
            ("database", Text),
            ("user", Text),
            ("server", Text),
            ("thread", Number),
            ("mode", Text),
            ("clients", Number),
            ("clients_active", Number),
            ("clients_waiting", Number),
            ("workers_idle", Number),
            ("workers_shared", Number),
            ("workers_leased", Number),
            ("workers_connecting", Number),
            ("lease_limit", Number),
            ("maxwait_us", Number),
            ("paused", Flag),
        ],
        Topic::Clients => &[
            ("pid", Number),
            ("user", Text),
            ("database", Text),
            ("address", Text),
            ("application_name", Text),
            ("state", Text),
            ("thread", Number),
            ("age_us", Number),
            ("since_us", Number),
            ("requests", Number),
            ("server_pid", Number),
            ("tls", Flag),
        ],
        Topic::ClientCount => &[("count", Number)],
        Topic::Servers => &[
            ("server", Text),
            ("database", Text),
            ("user", Text),
            ("pid", Number),
            ("state", Text),
            ("depth", Number),
            ("thread", Number),
            ("age_us", Number),
            ("requests", Number),
            ("prepared", Number),
        ],
        Topic::Pins => &[
            ("pid", Number),
            ("user", Text),
            ("database", Text),
            ("server_pid", Number),
            ("reasons", Text),
            ("age_us", Number),
        ],
        Topic::Databases => &[
            ("name", Text),
            ("address", Text),
            ("role", Text),
            ("weight", Number),
            ("epoch", Number),
            ("mode", Text),
        ],
        Topic::Stats => &[("name", Text), ("value", Number)],
        Topic::Config => &[("key", Text), ("value", Text)],
    }
}

/// Carries one command out.
///
/// # Errors
/// 42501 when `who` may not.
pub(super) async fn run(
    stage: &dyn Stage,
    who: &Who,
    command: &Command,
) -> Result<Outcome, Box<ErrorFields>> {
    allowed(who, command)?;
    Ok(match command {
        Command::Empty => Outcome::Empty,
        Command::Courtesy(tag) => Outcome::Done(tag),
        Command::Show(topic) => Outcome::Rows(rows(stage, who, *topic).await),
        Command::Pause(database) => {
            stage.pause(database.clone()).await;
            Outcome::Done("PAUSE")
        }
        Command::Resume(database) => {
            stage.resume(database.clone()).await;
            Outcome::Done("RESUME")
        }
        Command::Reload => {
            stage.reload();
            Outcome::Done("RELOAD")
        }
        Command::Shutdown(how) => {
            stage.shutdown(*how);
            Outcome::Done("SHUTDOWN")
        }
    })
}

/// Every command stands here: a new one is not open to everybody by accident.
fn allowed(who: &Who, command: &Command) -> Result<(), Box<ErrorFields>> {
    let open = match command {
        Command::Empty | Command::Courtesy(_) => true,
        Command::Show(topic) => match topic {
            Topic::Help | Topic::Version | Topic::Stats => true,
            // Only the own rows: see `rows`.
            Topic::Pools | Topic::Clients | Topic::ClientCount | Topic::Servers | Topic::Pins => true,
            Topic::Databases | Topic::Config => false,
        },
        Command::Pause(_) | Command::Resume(_) | Command::Reload | Command::Shutdown(_) => false,
    };
    if open || who.admin {
        return Ok(());
    }
    let denied = ErrorFields::new(
        Severity::Error,
        SqlState::INSUFFICIENT_PRIVILEGE,
        "permission denied",
    );
    Err(Box::new(
        denied.with_hint("This command is for the user of adminSecretRef."),
    ))
}

macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$(Value::from($value)),*] };
}

async fn rows(stage: &dyn Stage, who: &Who, topic: Topic) -> Vec<Vec<Value>> {
    let seen = |user: &str| who.admin || user == &*who.user;
    match topic {
        Topic::Help => HELP.iter().map(|(form, text)| values![*form, *text]).collect(),
        Topic::Version => vec![values![concat!("pgstmtpool ", env!("CARGO_PKG_VERSION"))]],
        Topic::Pools => {
            let pools = stage.pools().await.into_iter().filter(|pool| seen(&pool.user));
            pools
                .map(|pool| {
                    values![
                        pool.database,
                        pool.user,
                        pool.server,
                        pool.thread,
                        pool.mode,
                        pool.clients,
                        pool.clients_active,
                        pool.clients_waiting,
                        pool.workers_idle,
                        pool.workers_shared,
                        pool.workers_leased,
                        pool.workers_connecting,
                        pool.lease_limit,
                        pool.max_wait,
                        pool.paused,
                    ]
                })
                .collect()
        }
        Topic::Clients => {
            let clients = stage
                .clients()
                .await
                .into_iter()
                .filter(|client| seen(&client.user));
            clients
                .map(|client| {
                    values![
                        client.process_id,
                        client.user,
                        client.database,
                        client.address,
                        client.application_name,
                        client.state,
                        client.thread,
                        client.age,
                        client.since,
                        client.requests,
                        client.server_process_id,
                        client.tls,
                    ]
                })
                .collect()
        }
        Topic::ClientCount => {
            let count = stage
                .clients()
                .await
                .iter()
                .filter(|client| seen(&client.user))
                .count();
            vec![values![count]]
        }
        Topic::Servers => {
            let workers = stage
                .servers()
                .await
                .into_iter()
                .filter(|worker| seen(&worker.user));
            workers
                .map(|worker| {
                    values![
                        worker.server,
                        worker.database,
                        worker.user,
                        worker.process_id,
                        worker.state,
                        worker.depth,
                        worker.thread,
                        worker.age,
                        worker.requests,
                        worker.prepared,
                    ]
                })
                .collect()
        }
        Topic::Pins => {
            let pins = stage.pins().await.into_iter().filter(|pin| seen(&pin.user));
            pins.map(|pin| {
                let reasons = pin.reasons.join(", ");
                values![
                    pin.process_id,
                    pin.user,
                    pin.database,
                    pin.server_process_id,
                    reasons,
                    pin.age
                ]
            })
            .collect()
        }
        Topic::Databases => databases(stage),
        Topic::Stats => stats(&stage.counters()),
        Topic::Config => config(stage),
    }
}

fn databases(stage: &dyn Stage) -> Vec<Vec<Value>> {
    let topology = stage.topology();
    let row = |server: &crate::plane::Server, role: &str, weight: u32| {
        let address = format!("{}:{}", server.target.host, server.target.port);
        values![
            server.name.as_str(),
            address,
            role,
            u64::from(weight),
            topology.epoch,
            format!("{:?}", topology.mode)
        ]
    };
    let master = topology.master.iter().map(|server| row(server, "master", 0));
    let replicas = topology.replicas.iter().map(|replica| {
        let of_master = topology
            .master
            .as_ref()
            .is_some_and(|master| master.name == replica.server.name);
        let role = if of_master {
            "reads of the master"
        } else {
            "replica"
        };
        row(&replica.server, role, replica.weight)
    });
    master.chain(replicas).collect()
}

fn stats(threads: &[Arc<Counters>]) -> Vec<Vec<Value>> {
    let sum = |of: fn(&Counters) -> u64| {
        threads
            .iter()
            .fold(0_u64, |sum, thread| sum.wrapping_add(of(thread)))
    };
    let rows: [(&str, u64); 17] = [
        ("clients", sum(|c| c.clients.read())),
        ("clients_waiting", sum(|c| c.waiting.read())),
        ("workers", sum(|c| c.workers.read())),
        ("workers_leased", sum(|c| c.workers_leased.read())),
        ("logins", sum(|c| c.logins.read())),
        ("requests_shared", sum(|c| c.requests_shared.read())),
        ("reads_joined", sum(|c| c.reads_joined.read())),
        ("requests_leased", sum(|c| c.requests_leased.read())),
        ("ended_early", sum(|c| c.ended_early.read())),
        ("requests_local", sum(|c| c.requests_local.read())),
        ("repeats", sum(|c| c.repeats.read())),
        ("server_errors", sum(|c| c.server_errors.read())),
        ("cancels", sum(|c| c.cancels.read())),
        ("connects", sum(|c| c.connects.read())),
        ("connect_failures", sum(|c| c.connect_failures.read())),
        ("bytes_in", sum(|c| c.bytes_in.read())),
        ("bytes_out", sum(|c| c.bytes_out.read())),
    ];
    rows.into_iter()
        .map(|(name, value)| values![name, value])
        .collect()
}

fn config(stage: &dyn Stage) -> Vec<Vec<Value>> {
    let config = stage.config();
    let time =
        |duration: Option<Duration>| duration.map_or_else(|| "0s".to_owned(), |some| format!("{some:?}"));
    let (workers, limits, timeouts) = (&config.workers, &config.limits, &config.timeouts);
    let rows = [
        ("name", config.name.clone()),
        ("poolMode", config.pool_mode.as_str().to_owned()),
        ("workers.minByClients", format!("{:?}", workers.min_by_clients)),
        ("workers.clientsPerWorker", workers.clients_per_worker.to_string()),
        ("workers.max", workers.max.to_string()),
        ("workers.idleTimeout", time(workers.idle_timeout)),
        ("workers.lifetime", time(workers.lifetime)),
        ("workers.connectTimeout", time(Some(workers.connect_timeout))),
        ("workers.adaptive", workers.adaptive.to_string()),
        (
            "workers.pipeline.maxDepth",
            workers.pipeline.max_depth.to_string(),
        ),
        (
            "workers.pipeline.maxExpectedWait",
            time(Some(workers.pipeline.max_expected_wait)),
        ),
        (
            "workers.pipeline.joinReads",
            workers.pipeline.join_reads.to_string(),
        ),
        ("limits.maxClients", limits.max_clients.to_string()),
        (
            "limits.maxClientsPerUser",
            limits.max_clients_per_user.to_string(),
        ),
        (
            "limits.maxClientsPerDatabase",
            limits.max_clients_per_database.to_string(),
        ),
        (
            "limits.maxPreparedStatements",
            limits.max_prepared_statements.to_string(),
        ),
        ("limits.maxQuerySize", limits.max_query_size.to_string()),
        ("limits.clientBuffer", limits.client_buffer.to_string()),
        ("timeouts.login", time(Some(timeouts.login))),
        ("timeouts.query", time(timeouts.query)),
        ("timeouts.queryWait", time(timeouts.query_wait)),
        ("timeouts.transaction", time(timeouts.transaction)),
        ("timeouts.idleInTransaction", time(timeouts.idle_in_transaction)),
        ("timeouts.clientIdle", time(timeouts.client_idle)),
        ("timeouts.clientWrite", time(timeouts.client_write)),
        ("timeouts.drain", time(Some(timeouts.drain))),
        ("deferBegin", config.defer_begin.to_string()),
        (
            "applicationName",
            format!("{:?}", config.application_name).to_lowercase(),
        ),
        ("auth.hba", config.auth.hba.join("; ")),
        ("auth.authQuery", config.auth.auth_query.to_string()),
        ("auth.cacheFor", time(Some(config.auth.cache_for))),
        ("tls.mode", format!("{:?}", config.tls.mode).to_lowercase()),
    ];
    rows.into_iter().map(|(key, value)| values![key, value]).collect()
}

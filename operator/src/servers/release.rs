//! Leaving servers as they would be without us: what deleting a pool does.

use super::acts::{ActError, Executor};
use super::login::Login;
use crate::core::{Act, DETACHED_HOST, Server, slot_name};
use pgnet::client::Connection;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// One server takes no longer.
const EACH: Duration = Duration::from_secs(10);
/// How long a standby needs to let go of its slot.
const LET_GO: Duration = Duration::from_secs(2);

/// Takes off every server what holds up or fills up: `synchronous_standby_names` (commits would wait for ever), our fence, our
/// slots (the log would never be removed). Standbys go on following. `true`: all of it was done.
pub async fn release(executor: &Executor, login: &Login, servers: &[Server], master: Option<&str>) -> bool {
    let mut done = true;
    for server in servers {
        done &= told(server, timeout(EACH, one(executor, login, server, master)).await);
    }
    sleep(LET_GO).await;
    for server in servers {
        done &= told(server, timeout(EACH, drop_slots(login, server, servers)).await);
    }
    done
}

fn told(server: &Server, result: Result<Result<(), ActError>, tokio::time::error::Elapsed>) -> bool {
    let error = match result {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {EACH:?}"),
    };
    warn!(server = server.name, error, "Not released");
    false
}

async fn one(
    executor: &Executor,
    login: &Login,
    server: &Server,
    master: Option<&str>,
) -> Result<(), ActError> {
    let mut sql = Connection::connect(&login.config(server, EACH)).await?;
    let state = sql
        .query_one(
            "select pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('synchronous_standby_names'), \
             pg_catalog.current_setting('default_transaction_read_only'), \
             pg_catalog.current_setting('primary_slot_name'), \
             (select setting from pg_catalog.pg_settings where name = 'primary_conninfo')",
        )
        .await?;
    let recovery = state.get(0, 0) == Some("t");
    let text = |column| state.get(0, column).unwrap_or_default().to_owned();
    if recovery
        && text(4).contains(DETACHED_HOST)
        && let Some(master) = master
    {
        let follow = Act::Follow {
            server: server.name.clone(),
            master: master.to_owned(),
        };
        executor.run(follow).await?;
    }
    let ours = text(3) == slot_name(&server.name);
    let reset = [
        ("synchronous_standby_names", !text(1).is_empty()),
        ("default_transaction_read_only", text(2) == "on"),
        ("primary_slot_name", ours),
    ];
    for (name, _) in reset.iter().filter(|(_, set)| *set) {
        sql.query(&format!("alter system reset {name}")).await?;
        info!(server = server.name, setting = name, "Reset");
    }
    sql.query("select pg_catalog.pg_reload_conf()").await?;
    sql.close().await;
    Ok(())
}

async fn drop_slots(login: &Login, server: &Server, servers: &[Server]) -> Result<(), ActError> {
    let names: Vec<String> = servers
        .iter()
        .map(|server| pgnet::quote::literal(&slot_name(&server.name)).to_string())
        .collect();
    let mut sql = Connection::connect(&login.config(server, EACH)).await?;
    let statement = format!(
        "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots \
         where slot_name in ({}) and not active",
        names.join(", ")
    );
    sql.query(&statement).await?;
    sql.close().await;
    Ok(())
}

//! Looks at the servers: one task a server, one connection each that is kept open.
//!
//! What is seen is published in a [`watch`] channel; a probe decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pgnet::client::{ConnectError, Credential};
use pgnet::fields::ErrorFields;
use pgnet::sqlstate::SqlState;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::seen::{Facts, Seen};
use crate::admin::{Admin, AdminError, Login};
use crate::plane::{Identity, Server};

/// How far apart probes are.
const PERIOD: Duration = Duration::from_secs(1);
/// How long one may take, connecting included.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Role, cluster, timeline and, of a replica, the state of its WAL receiver. What a login may not see is null.
const QUESTION: &str = "select pg_catalog.pg_is_in_recovery()::text, \
     (select system_identifier::text from pg_catalog.pg_control_system()), \
     case when pg_catalog.pg_is_in_recovery() then (select received_tli::text from pg_catalog.pg_stat_wal_receiver) \
     else pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) end, \
     (select status from pg_catalog.pg_stat_wal_receiver)";

/// What is seen, by name of the server.
pub(super) type View = HashMap<String, Looked>;

/// The last probe of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Looked {
    /// How many probes there were: so that each is counted once.
    pub times: u64,
    /// What it came to.
    pub seen: Seen,
}

/// The probes of all servers.
pub(super) struct Probes {
    tasks: JoinSet<()>,
    running: HashMap<String, (Arc<Server>, Option<Login>, AbortHandle)>,
    view: watch::Sender<View>,
}

impl Default for Probes {
    /// Nobody is looked at yet.
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            running: HashMap::new(),
            view: watch::Sender::default(),
        }
    }
}

impl Probes {
    /// What is seen, as it changes.
    pub(super) fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Looks at these servers, as this login, and at no others.
    pub(super) fn look_at(&mut self, servers: &[Arc<Server>], login: Option<&Login>) {
        let wanted: HashMap<&str, &Arc<Server>> = servers
            .iter()
            .map(|server| (server.name.as_str(), server))
            .collect();
        let stale = |name: &String, (old, by, _): &(Arc<Server>, Option<Login>, AbortHandle)| {
            let same = |new: &&&Arc<Server>| new.target == old.target && Arc::ptr_eq(&new.tls, &old.tls);
            wanted.get(name.as_str()).filter(same).is_none() || by.as_ref() != login
        };
        let gone: Vec<String> = self
            .running
            .iter()
            .filter(|(name, task)| stale(name, task))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some((_, _, task)) = self.running.remove(&name) {
                task.abort();
            }
            self.view.send_modify(|view| drop(view.remove(&name)));
        }
        for (name, server) in wanted {
            if !self.running.contains_key(name) {
                let task = self
                    .tasks
                    .spawn(watch_one(Arc::clone(server), login.cloned(), self.view.clone()));
                self.running
                    .insert(name.to_owned(), (Arc::clone(server), login.cloned(), task));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn watch_one(server: Arc<Server>, login: Option<Login>, view: watch::Sender<View>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut connection, mut times) = (None, 0);
    loop {
        ticks.tick().await;
        let probe = look(&server, login.as_ref(), &mut connection);
        let seen = match timeout(TIMEOUT, probe).await {
            Ok(seen) => seen,
            Err(_) => {
                connection = None;
                Seen::Lost {
                    error: format!("no answer within {TIMEOUT:?}"),
                    refused: false,
                }
            }
        };
        times += 1;
        view.send_modify(|view| drop(view.insert(server.name.clone(), Looked { times, seen })));
    }
}

async fn look(server: &Server, login: Option<&Login>, connection: &mut Option<Admin>) -> Seen {
    let nobody = Login {
        user: "pgstmtpool".to_owned(),
        credential: Credential::None,
    };
    let mut open = match connection.take() {
        Some(open) => open,
        None => match Admin::connect(server, login.unwrap_or(&nobody), "pgstmtpool-probe", TIMEOUT).await {
            Ok(open) => open,
            Err(error) => return of_connect(&error),
        },
    };
    match open.rows(QUESTION, &[]).await {
        Ok(rows) => {
            *connection = Some(open);
            rows.into_iter()
                .next()
                .and_then(of_row)
                .unwrap_or_else(|| Seen::Alive("no answer to the probe".to_owned()))
        }
        Err(AdminError::Server(fields)) => of_error(&fields),
        Err(AdminError::Lost(error)) => Seen::Lost {
            error,
            refused: false,
        },
    }
}

fn of_connect(error: &ConnectError) -> Seen {
    match error {
        ConnectError::Server(fields) => of_error(fields),
        // It asked for something we do not have: it lives.
        ConnectError::Auth(_) => Seen::Alive(error.to_string()),
        ConnectError::Refused(_) => Seen::Lost {
            error: error.to_string(),
            refused: true,
        },
        _ => Seen::Lost {
            error: error.to_string(),
            refused: false,
        },
    }
}

/// "Too many clients", "no such role" and the like come from a server that lives; one that is starting up or going
/// down serves nobody.
fn of_error(fields: &ErrorFields) -> Seen {
    let text = format!("{}: {}", fields.code.as_str(), fields.message);
    let down = [
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
    ];
    if down.contains(&fields.code) {
        Seen::Lost {
            error: text,
            refused: false,
        }
    } else {
        Seen::Alive(text)
    }
}

fn of_row(row: Vec<Option<String>>) -> Option<Seen> {
    let mut columns = row.into_iter();
    let mut next = || columns.next().flatten();
    let (recovery, system, timeline, receiver) = (next()?, next().unwrap_or_default(), next(), next());
    let replica = match recovery.as_str() {
        "true" => true,
        "false" => false,
        _ => return None,
    };
    // The name of a WAL file begins with the timeline in hexadecimal digits.
    let timeline = timeline.and_then(|text| u32::from_str_radix(&text, if replica { 10 } else { 16 }).ok());
    let identity = Identity {
        system_identifier: system,
        timeline: timeline.unwrap_or(0),
    };
    let facts = Facts {
        identity,
        streaming: receiver.as_deref() == Some("streaming"),
    };
    Some(if replica {
        Seen::Replica(facts)
    } else {
        Seen::Master(facts)
    })
}

#[cfg(test)]
mod tests {
    use pgnet::fields::Severity;

    use super::*;

    fn row(values: [Option<&str>; 4]) -> Vec<Option<String>> {
        values.map(|value| value.map(str::to_owned)).to_vec()
    }

    #[test]
    fn a_row_says_what_a_server_is() {
        let seen = of_row(row([Some("false"), Some("71"), Some("0000000A"), None])).unwrap();
        assert!(matches!(&seen, Seen::Master(facts) if facts.identity.timeline == 10 && !facts.streaming));
        let seen = of_row(row([Some("true"), Some("71"), Some("10"), Some("streaming")])).unwrap();
        assert!(matches!(&seen, Seen::Replica(facts) if facts.identity.timeline == 10 && facts.streaming));
        let seen = of_row(row([Some("true"), None, None, None])).unwrap();
        assert!(matches!(&seen, Seen::Replica(facts) if facts.identity.timeline == 0 && !facts.streaming));
        assert_eq!(of_row(row([None, None, None, None])), None);
        assert_eq!(of_row(vec![]), None);
    }

    #[test]
    fn a_server_that_refuses_us_lives_and_one_that_starts_up_does_not_serve() {
        let seen = |code| of_error(&ErrorFields::new(Severity::Fatal, code, "x"));
        for code in [
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_CATALOG_NAME,
        ] {
            assert!(seen(code).is_reachable(), "{code:?}");
        }
        for code in [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN] {
            assert!(!seen(code).is_reachable(), "{code:?}");
        }
    }
}

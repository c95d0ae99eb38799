//! Asks the servers about roles: one connection of our own, used by nobody else.
//!
//! The master is asked; while it cannot be reached, a replica, which has the same roles. The connection logs in as the
//! look-up role of the manifest, never as the client, with a pinned search_path and without any parameter a client sent
//! (CVE-2025-12819); what it finds is the answer to the question and never its own identity (CVE-2015-6817).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pgnet::sqlstate::SqlState;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::store::{Lookup, LookupError, Role};
use crate::admin::{Admin, AdminError, Login, Rows};
use crate::limits::{LOOKUP_TIMEOUT, LOOKUPS_MAX};
use crate::metrics::Edge;
use crate::plane::Server;

/// Questions taken at a time; equal ones are asked once.
const BATCH: usize = 64;
/// Long enough, and short enough to be added to a time.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Password, and the seconds until VALID UNTIL (null: there is none), by the function of `sql/`: for a role that may not
/// read pg_authid.
const BY_FUNCTION: &str = "select verifier, case when valid_until is null or valid_until = 'infinity' then null \
     when pg_catalog.isfinite(valid_until) then pg_catalog.date_part('epoch', valid_until - pg_catalog.now()) \
     else 0 end::text from pgstmtpool.user_lookup($1)";

/// The same from the catalog, for a superuser.
const BY_CATALOG: &str = "select rolpassword, case when rolvaliduntil is null or rolvaliduntil = 'infinity' then null \
     when pg_catalog.isfinite(rolvaliduntil) then pg_catalog.date_part('epoch', rolvaliduntil - pg_catalog.now()) \
     else 0 end::text from pg_catalog.pg_authid where rolname = $1";

/// Roles a role is a member of, itself included.
const GROUPS: &str = "with recursive member (oid) as (\
       select oid from pg_catalog.pg_roles where rolname = $1 \
       union select m.roleid from pg_catalog.pg_auth_members m join member on m.member = member.oid) \
     select r.rolname from pg_catalog.pg_roles r join member on r.oid = member.oid";

/// Whom to ask, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Where {
    /// The master first, then replicas.
    pub servers: Vec<Arc<Server>>,
    /// The look-up role.
    pub login: Option<Login>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Role(String),
    Groups(String),
}

#[derive(Clone)]
enum Answer {
    Role(Option<Role>),
    Groups(HashSet<String>),
}

struct Ask {
    question: Question,
    reply: oneshot::Sender<Result<Answer, LookupError>>,
}

/// Where questions are handed in, from any thread.
#[derive(Clone)]
pub struct Desk {
    asks: mpsc::Sender<Ask>,
    edge: Arc<Edge>,
}

/// The desk, and the task behind it.
pub fn desk(place: watch::Receiver<Arc<Where>>, edge: Arc<Edge>) -> (Desk, impl Future<Output = ()>) {
    let (asks, queue) = mpsc::channel(LOOKUPS_MAX);
    let clerk = Clerk {
        place,
        connection: None,
        form: Form::Function,
    };
    (Desk { asks, edge }, clerk.work(queue))
}

impl Desk {
    fn ask(&self, question: Question) -> impl Future<Output = Result<Answer, LookupError>> + use<> {
        self.edge.lookups.raise();
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.try_send(Ask { question, reply });
        async move {
            sent.map_err(|_| LookupError::Unavailable("too many look-ups are waiting".to_owned()))?;
            answer
                .await
                .unwrap_or_else(|_| Err(LookupError::Unavailable("the proxy is ending".to_owned())))
        }
    }
}

impl Lookup for Desk {
    fn role(&self, user: &str) -> BoxFuture<'static, Result<Option<Role>, LookupError>> {
        let asked = self.ask(Question::Role(user.to_owned()));
        Box::pin(async {
            match asked.await? {
                Answer::Role(role) => Ok(role),
                Answer::Groups(_) => Err(LookupError::Unavailable(
                    "the answer to another question".to_owned(),
                )),
            }
        })
    }

    fn groups(&self, user: &str) -> BoxFuture<'static, Result<HashSet<String>, LookupError>> {
        let asked = self.ask(Question::Groups(user.to_owned()));
        Box::pin(async {
            match asked.await? {
                Answer::Groups(groups) => Ok(groups),
                Answer::Role(_) => Err(LookupError::Unavailable(
                    "the answer to another question".to_owned(),
                )),
            }
        })
    }
}

/// How the server is asked about a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Function,
    Catalog,
}

struct Clerk {
    place: watch::Receiver<Arc<Where>>,
    connection: Option<Admin>,
    form: Form,
}

impl Clerk {
    async fn work(mut self, mut queue: mpsc::Receiver<Ask>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            let mut waiting: HashMap<Question, Vec<oneshot::Sender<_>>> = HashMap::new();
            for ask in batch.drain(..).filter(|ask| !ask.reply.is_closed()) {
                waiting.entry(ask.question).or_default().push(ask.reply);
            }
            for (question, replies) in waiting {
                let answer = match tokio::time::timeout(LOOKUP_TIMEOUT, self.answer(&question)).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        self.connection = None; // an answer that comes late would be taken for the next one's
                        Err(LookupError::Unavailable("no answer in time".to_owned()))
                    }
                };
                for reply in replies {
                    let _ = reply.send(answer.clone()); // a client that left does not wait
                }
            }
        }
    }

    async fn answer(&mut self, question: &Question) -> Result<Answer, LookupError> {
        match question {
            Question::Role(user) => Ok(Answer::Role(self.role(user).await?)),
            Question::Groups(user) => {
                let rows = self.query(GROUPS, user).await?;
                Ok(Answer::Groups(
                    rows.into_iter()
                        .filter_map(|row| row.into_iter().next()?)
                        .collect(),
                ))
            }
        }
    }

    async fn role(&mut self, user: &str) -> Result<Option<Role>, LookupError> {
        loop {
            let sql = match self.form {
                Form::Function => BY_FUNCTION,
                Form::Catalog => BY_CATALOG,
            };
            match self.ask(sql, user).await {
                Ok(rows) => return Ok(rows.into_iter().next().map(role_of)),
                Err(AdminError::Server(fields)) if self.form == Form::Function && is_missing(fields.code) => {
                    info!("No function pgstmtpool.user_lookup: users are looked up in pg_authid");
                    self.form = Form::Catalog;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    async fn query(&mut self, sql: &str, user: &str) -> Result<Rows, LookupError> {
        match self.ask(sql, user).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&mut self, error: AdminError) -> LookupError {
        match error {
            AdminError::Server(fields) => {
                LookupError::Refused(format!("{}: {}", fields.code.as_str(), fields.message))
            }
            AdminError::Lost(detail) => LookupError::Unavailable(detail),
        }
    }

    /// Asks over the connection there is; one that was lost meanwhile is replaced once.
    async fn ask(&mut self, sql: &str, user: &str) -> Result<Rows, AdminError> {
        if self.place.has_changed().unwrap_or(false) {
            self.connection = None; // another master, or another login
        }
        let had_one = self.connection.is_some();
        let first = self.ask_once(sql, user).await;
        match first {
            Err(AdminError::Lost(_)) if had_one => self.ask_once(sql, user).await,
            other => other,
        }
    }

    async fn ask_once(&mut self, sql: &str, user: &str) -> Result<Rows, AdminError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let result = connection.rows(sql, &[user]).await;
        if !matches!(result, Err(AdminError::Lost(_))) {
            self.connection = Some(connection);
        }
        result
    }

    async fn connect(&mut self) -> Result<Admin, AdminError> {
        let place = Arc::clone(&self.place.borrow_and_update());
        let Some(login) = &place.login else {
            return Err(AdminError::Lost("there is no login for look-ups".to_owned()));
        };
        self.form = Form::Function;
        let mut last = AdminError::Lost("no server is known".to_owned());
        for server in &place.servers {
            match Admin::connect(server, login, "pgstmtpool-lookup", Duration::from_secs(2)).await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    warn!(server = %server.name, %error, "Users cannot be looked up here");
                    // Whatever it says, it is no answer about the user.
                    last = AdminError::Lost(error.to_string());
                }
            }
        }
        Err(last)
    }
}

fn is_missing(code: SqlState) -> bool {
    code == SqlState::INVALID_SCHEMA_NAME || code == SqlState::UNDEFINED_FUNCTION
}

/// A row of password and seconds.
fn role_of(row: Vec<Option<String>>) -> Role {
    let mut columns = row.into_iter();
    let (stored, seconds) = (columns.next().flatten(), columns.next().flatten());
    // A number that cannot be read is no reason to let somebody in.
    let remaining = seconds.map(|seconds| {
        let seconds = seconds
            .parse::<f64>()
            .unwrap_or(0.0)
            .clamp(0.0, FOR_EVER.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    });
    let over = remaining.is_some_and(|remaining| remaining.is_zero());
    Role {
        stored: stored.filter(|_| !over),
        remaining,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_until_when_a_password_is_good() {
        let role = |seconds: Option<&str>| role_of(vec![Some("x".into()), seconds.map(str::to_owned)]);
        let cases = [
            (None, true, None),
            (Some("60"), true, Some(60)),
            (Some("1e300"), true, Some(FOR_EVER.as_secs())),
            (Some("0"), false, Some(0)),
            (Some("-5"), false, Some(0)),
            (Some("NaN"), false, Some(0)),
            (Some("soon"), false, Some(0)),
        ];
        for (seconds, good, remaining) in cases {
            let role = role(seconds);
            assert_eq!(role.stored.is_some(), good, "{seconds:?}");
            assert_eq!(
                role.remaining.map(|remaining| remaining.as_secs()),
                remaining,
                "{seconds:?}"
            );
        }
        assert!(role_of(vec![None, None]).stored.is_none());
    }
}

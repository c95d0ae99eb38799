//! Acts done by SQL. Each looks first where that matters, and may be done again.
//!
//! `ALTER SYSTEM` runs alone in its message: PostgreSQL refuses it in a function or beside other statements.

use super::command::{Commands, Purpose};
use super::conninfo::Conninfo;
use super::login::Login;
use super::{APPLICATION_NAME, files};
use crate::core::{Act, Server, Settings, SyncSet, slot_name};
use pgnet::client::{Connection, Error};
use pgnet::quote::literal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;
use tracing::{info, warn};

/// How long an act may take that should take no time.
const SHORT: Duration = Duration::from_secs(5);
/// A promotion waits a minute for the server, and the server for its replay.
const PROMOTE: Duration = Duration::from_secs(70);
/// A checkpoint writes what there is to write.
const CHECKPOINT: Duration = Duration::from_secs(600);
/// A promotion that is not begun by then is not begun at all: whoever was stopped meanwhile is not the operator any more.
const PROMOTE_BY: &str = "10 s";

/// Why an act failed.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The server did not do it.
    #[error("{0}")]
    Sql(#[from] Error),
    /// It took too long.
    #[error("not done within {0:?}")]
    Timeout(Duration),
    /// A command failed, or is needed and not there.
    #[error("{0}")]
    Command(String),
    /// The files of a stopped server could not be changed.
    #[error("{0}")]
    Files(#[from] std::io::Error),
}

/// What is known about servers beyond the decisions: secrets and folders.
#[derive(Debug, Default)]
struct Known {
    conninfos: BTreeMap<String, Conninfo>,
    folders: BTreeMap<String, String>,
}

/// Does acts. Cheap to clone; all clones know the same.
#[derive(Clone, Debug)]
pub struct Executor {
    login: Login,
    commands: Commands,
    settings: Arc<Settings>,
    known: Arc<Mutex<Known>>,
}

impl Executor {
    /// With this login and these commands.
    pub fn new(login: Login, commands: Commands, settings: Settings) -> Self {
        Self {
            login,
            commands,
            settings: Arc::new(settings),
            known: Arc::default(),
        }
    }

    /// The same knowledge, another login or manifest.
    #[must_use]
    pub fn reconfigured(&self, login: Login, settings: Settings) -> Self {
        Self {
            login,
            settings: Arc::new(settings),
            ..self.clone()
        }
    }

    /// Takes in where a server's files are, and how it reaches its master.
    pub fn learn(&self, server: &str, folder: &str, conninfo: Option<Conninfo>) {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !folder.is_empty() {
            known.folders.insert(server.to_owned(), folder.to_owned());
        }
        if let Some(conninfo) = conninfo.filter(|conninfo| conninfo.get("user").is_some()) {
            known.conninfos.insert(server.to_owned(), conninfo);
        }
    }

    /// The data directories known, to be remembered in the status.
    pub fn folders(&self) -> BTreeMap<String, String> {
        self.known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .folders
            .clone()
    }

    fn folder(&self, server: &str) -> Option<PathBuf> {
        self.folders().get(server).map(PathBuf::from)
    }

    fn server(&self, name: &str) -> Result<&Server, ActError> {
        self.settings
            .server(name)
            .ok_or_else(|| ActError::Command(format!("{name} is not in the manifest any more")))
    }

    /// Does one act.
    ///
    /// # Errors
    /// `ActError`; the core tries again, less and less often.
    pub async fn run(&self, act: Act) -> Result<(), ActError> {
        info!(?act, "Act");
        let server = self.server(act.server())?.clone();
        match act {
            Act::Start { master, .. } => return self.start(&server, &master).await,
            Act::Rewind { master, .. } => return self.rewind(&server, &master).await,
            Act::Stop { .. } if self.commands.pods.is_some() => return self.stop_pod(&server, act).await,
            Act::Stop { .. } if self.commands.can_restart() => {
                return self.command(&server, Purpose::Stop, &[]).await;
            }
            _ => {}
        }
        self.in_time(&server, act).await
    }

    /// Does an act that needs nothing but SQL, within the time it may take.
    async fn in_time(&self, server: &Server, act: Act) -> Result<(), ActError> {
        let limit = match act {
            Act::Promote { .. } => PROMOTE,
            Act::Checkpoint { .. } => CHECKPOINT,
            _ => SHORT,
        };
        timeout(limit, self.by_sql(server, act, limit))
            .await
            .map_err(|_| ActError::Timeout(limit))?
    }

    async fn by_sql(&self, server: &Server, act: Act, limit: Duration) -> Result<(), ActError> {
        let mut sql = Connection::connect(&self.login.config(server, limit)).await?;
        match act {
            Act::Fence { .. } => fence(&mut sql).await?,
            Act::Unfence { .. } => set(&mut sql, "default_transaction_read_only", None).await?,
            Act::Detach { .. } => self.detach(&mut sql, server).await?,
            Act::Follow { master, .. } => self.follow(&mut sql, server, &master).await?,
            Act::Slots { slots, .. } => {
                for slot in slots {
                    let name = literal(&slot);
                    let sql_text = format!(
                        "select pg_catalog.pg_create_physical_replication_slot({name}, true) \
                         where not exists (select from pg_catalog.pg_replication_slots where slot_name = {name})"
                    );
                    sql.query(&sql_text).await?;
                }
            }
            Act::DropSlots { slots, .. } => {
                for slot in slots {
                    let sql_text = format!(
                        "select pg_catalog.pg_drop_replication_slot(slot_name) \
                         from pg_catalog.pg_replication_slots where slot_name = {} and not active",
                        literal(&slot)
                    );
                    sql.query(&sql_text).await?;
                }
            }
            Act::SyncNames {
                set: SyncSet { names, k },
                ..
            } => {
                let value = SyncSet { names, k }.render();
                set(&mut sql, "synchronous_standby_names", Some(&value)).await?;
            }
            Act::Promote { .. } => promote(&mut sql).await?,
            Act::Mark { epoch, operation, .. } => mark(&mut sql, epoch, &operation, &server.name).await?,
            Act::Checkpoint { .. } => {
                sql.query("checkpoint").await?;
            }
            Act::MakeStandby { master, .. } => self.make_standby(&mut sql, server, &master).await?,
            Act::UnmakeStandby { .. } => {
                let direct = "copy (select where false) to program 'rm -f standby.signal'";
                helper(
                    &mut sql,
                    "unmake_standby()",
                    "select pgstmtpool.unmake_standby()",
                    direct,
                )
                .await?;
            }
            Act::Stop { .. } => stop(&mut sql).await?,
            Act::Start { .. } | Act::Rewind { .. } => {}
        }
        sql.close().await;
        Ok(())
    }

    async fn detach(&self, sql: &mut Connection, server: &Server) -> Result<(), ActError> {
        let Some(conninfo) = current_conninfo(sql).await? else {
            return Ok(());
        };
        self.learn(&server.name, "", Some(conninfo.clone()));
        set(sql, "primary_conninfo", Some(&conninfo.detached().to_string())).await?;
        self.restart_if_old(sql, server).await
    }

    async fn follow(&self, sql: &mut Connection, server: &Server, master: &str) -> Result<(), ActError> {
        let own = current_conninfo(sql).await?;
        let conninfo = self.conninfo(server, master, own)?;
        set_without_reload(sql, "primary_slot_name", Some(&slot_name(&server.name))).await?;
        set(sql, "primary_conninfo", Some(&conninfo)).await?;
        self.restart_if_old(sql, server).await
    }

    /// Version 12 reads both settings at the start only.
    async fn restart_if_old(&self, sql: &Connection, server: &Server) -> Result<(), ActError> {
        if sql.server_version_num().is_none_or(|version| version >= 130_000) {
            return Ok(());
        }
        self.command(server, Purpose::Restart, &[]).await
    }

    async fn make_standby(
        &self,
        sql: &mut Connection,
        server: &Server,
        master: &str,
    ) -> Result<(), ActError> {
        let own = current_conninfo(sql).await?;
        let conninfo = self.conninfo(server, master, own.clone())?;
        // A master does not look at these two before it restarts; the reload lets us see that they are set. Where they are set
        // already nothing is written: clients wait meanwhile.
        let slot = slot_name(&server.name);
        let now = sql.query_one("show primary_slot_name").await?;
        if now.get(0, 0) != Some(&slot) || own.is_none_or(|own| own.to_string() != conninfo) {
            set_without_reload(sql, "primary_slot_name", Some(&slot)).await?;
            set(sql, "primary_conninfo", Some(&conninfo)).await?;
        }
        // A fence stays up until the restart.
        set_without_reload(sql, "default_transaction_read_only", None).await?;
        let direct = "do $$ begin execute pg_catalog.format('copy (select where false) to %L', \
                      pg_catalog.current_setting('data_directory') || '/standby.signal'); end $$";
        helper(sql, "make_standby()", "select pgstmtpool.make_standby()", direct).await
    }

    /// How `server` reaches `master`: by the replication Secret, else as it did, else as another standby does, else as we do.
    fn conninfo(&self, server: &Server, master: &str, own: Option<Conninfo>) -> Result<String, ActError> {
        let to = self.server(master)?;
        let with = |(user, password): &(String, String)| {
            let mut info = Conninfo::default();
            info.set("user", user);
            if !password.is_empty() {
                info.set("password", password);
            }
            info
        };
        let mut base = match (&self.login.replication, own) {
            (Some(login), own) => {
                let mut info = own.unwrap_or_default();
                info.set("user", &login.0);
                info.remove("password");
                if !login.1.is_empty() {
                    info.set("password", &login.1);
                }
                info
            }
            (None, Some(own)) if own.get("user").is_some() => own,
            _ => {
                let known = self
                    .known
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let mine = known.conninfos.get(&server.name);
                let anybodys = || known.conninfos.values().next();
                mine.or_else(anybodys)
                    .cloned()
                    .unwrap_or_else(|| with(&self.login.fallback))
            }
        };
        base.remove("passfile");
        Ok(base.pointed_at(&to.host, to.port, &server.name).to_string())
    }

    // --- commands

    async fn command(
        &self,
        server: &Server,
        purpose: Purpose,
        more: &[(&str, String)],
    ) -> Result<(), ActError> {
        let folder = self.folder(&server.name);
        self.commands
            .run(server, folder.as_deref(), purpose, more)
            .await
            .map_err(ActError::Command)
    }

    /// What a stopped server needs to come up as a standby; also told to the command, in case the files are not within our reach.
    fn standby_environment(
        &self,
        server: &Server,
        master: &str,
    ) -> Result<Vec<(&'static str, String)>, ActError> {
        let folder = self.folder(&server.name);
        let own = folder.as_deref().and_then(files::conninfo);
        let conninfo = self.conninfo(server, master, own)?;
        Ok(vec![
            ("PGSTMTPOOL_STANDBY", "1".to_owned()),
            ("PGSTMTPOOL_MASTER", master.to_owned()),
            ("PGSTMTPOOL_PRIMARY_CONNINFO", conninfo),
            ("PGSTMTPOOL_PRIMARY_SLOT_NAME", slot_name(&server.name)),
        ])
    }

    fn place(&self, server: &Server, environment: &[(&str, String)]) -> Result<(), ActError> {
        let Some(folder) = self.folder(&server.name) else {
            return Ok(());
        };
        let get = |key: &str| {
            environment
                .iter()
                .find(|(name, _)| *name == key)
                .map_or("", |(_, value)| value)
        };
        let conninfo = get("PGSTMTPOOL_PRIMARY_CONNINFO");
        files::make_standby(&folder, conninfo, get("PGSTMTPOOL_PRIMARY_SLOT_NAME"))?;
        Ok(())
    }

    /// By SQL, which is fast whatever signal the image stops with; where that is not allowed the pod goes.
    async fn stop_pod(&self, server: &Server, act: Act) -> Result<(), ActError> {
        match timeout(SHORT, self.by_sql(server, act, SHORT)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                info!(server = %server.name, %error, "Not stopped by SQL: its pod is deleted");
                self.command(server, Purpose::Stop, &[]).await
            }
            Err(_) => self.command(server, Purpose::Stop, &[]).await,
        }
    }

    async fn start(&self, server: &Server, master: &str) -> Result<(), ActError> {
        if self.commands.pods.is_some() {
            // What it may come up as its guard decides, or what was written before it stopped.
            return self.command(server, Purpose::Start, &[]).await;
        }
        let environment = self.standby_environment(server, master)?;
        self.place(server, &environment)?;
        self.command(server, Purpose::Start, &environment).await
    }

    async fn rewind(&self, server: &Server, master: &str) -> Result<(), ActError> {
        if self.commands.pods.is_some() {
            // Its guard reads in the status that it has to be rewound, and from whom.
            return self.command(server, Purpose::Rewind, &[]).await;
        }
        let source = self.server(master)?;
        // A new master's timeline shows to pg_rewind with its first checkpoint only: before, it finds nothing to do, or goes by an older one.
        let checkpoint = Act::Checkpoint {
            server: source.name.clone(),
        };
        if let Err(error) = self.in_time(source, checkpoint).await {
            warn!(%error, server = master, "No checkpoint before the rewind");
        }
        let mut environment = self.standby_environment(server, master)?;
        let mut info = Conninfo::default();
        info.set("user", &self.login.fallback.0);
        if !self.login.fallback.1.is_empty() {
            info.set("password", &self.login.fallback.1);
        }
        let mut info = info.pointed_at(&source.host, source.port, APPLICATION_NAME);
        info.set("dbname", "postgres");
        environment.push(("PGSTMTPOOL_SOURCE", master.to_owned()));
        environment.push(("PGSTMTPOOL_SOURCE_HOST", source.host.clone()));
        environment.push(("PGSTMTPOOL_SOURCE_PORT", source.port.to_string()));
        environment.push(("PGSTMTPOOL_SOURCE_CONNINFO", info.to_string()));
        if self.commands.can_restart() {
            // It may be stopped already; what counts is whether the rewind works.
            let _ = self.command(server, Purpose::Stop, &[]).await;
        } else {
            let stopped = timeout(SHORT, async {
                let mut sql = Connection::connect(&self.login.config(server, SHORT)).await?;
                stop(&mut sql).await
            });
            let _ = stopped.await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.command(server, Purpose::Rewind, &environment).await?;
        // The rewind has copied the master's configuration files too.
        self.place(server, &environment)?;
        if self.commands.can_restart() {
            self.command(server, Purpose::Start, &environment).await?;
        }
        Ok(())
    }
}

async fn current_conninfo(sql: &mut Connection) -> Result<Option<Conninfo>, ActError> {
    let text = "select setting from pg_catalog.pg_settings where name = 'primary_conninfo'";
    let result = sql.query_one(text).await?;
    Ok(result
        .get(0, 0)
        .filter(|text| !text.is_empty())
        .and_then(Conninfo::parse))
}

async fn set_without_reload(sql: &mut Connection, name: &str, value: Option<&str>) -> Result<(), ActError> {
    let statement = match value {
        Some(value) => format!("alter system set {name} = {}", literal(value)),
        None => format!("alter system reset {name}"),
    };
    sql.query(&statement).await?;
    Ok(())
}

async fn set(sql: &mut Connection, name: &str, value: Option<&str>) -> Result<(), ActError> {
    set_without_reload(sql, name, value).await?;
    sql.query("select pg_catalog.pg_reload_conf()").await?;
    Ok(())
}

/// A speed bump, not a wall: a session can still say READ WRITE. What counts is that the proxies keep away and the replicas too.
async fn fence(sql: &mut Connection) -> Result<(), ActError> {
    set(sql, "default_transaction_read_only", Some("on")).await?;
    // Sessions of superusers are left alone by those who may not end them: PostgreSQL would refuse all of it.
    let kick = format!(
        "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity \
         where pid <> pg_catalog.pg_backend_pid() and (backend_type = 'walsender' or backend_type = 'client backend' \
         and not (application_name = {} and usename = current_user)) \
         and (usesysid in (select oid from pg_catalog.pg_roles where not rolsuper) \
         or (select rolsuper from pg_catalog.pg_roles where rolname = current_user))",
        literal(APPLICATION_NAME)
    );
    sql.query(&kick).await?;
    Ok(())
}

async fn promote(sql: &mut Connection) -> Result<(), ActError> {
    let state = sql
        .query_one(
            "select pg_catalog.pg_is_in_recovery(), pg_catalog.clock_timestamp() + interval '10 s', \
             pg_catalog.current_setting('default_transaction_read_only'), \
             pg_catalog.current_setting('server_version_num')::int < 130000",
        )
        .await?;
    if state.get(0, 0) != Some("t") {
        return Ok(());
    }
    debug_assert!(PROMOTE_BY == "10 s");
    let deadline = literal(state.get(0, 1).unwrap_or_default());
    if state.get(0, 2) == Some("on") {
        set(sql, "default_transaction_read_only", None).await?;
    }
    if state.get(0, 3) == Some("t") {
        sql.query("select pg_catalog.pg_wal_replay_resume()").await?;
    }
    let statement = format!(
        "select case when pg_catalog.clock_timestamp() < {deadline}::timestamptz \
         then pg_catalog.pg_promote(true, 60) end"
    );
    let result = sql.query_one(&statement).await?;
    match result.get(0, 0) {
        Some("t") => Ok(()),
        _ => Err(ActError::Command("the server was not promoted in time".into())),
    }
}

async fn mark(sql: &mut Connection, epoch: u64, operation: &str, master: &str) -> Result<(), ActError> {
    let there = sql
        .query_one("select pg_catalog.to_regclass('pgstmtpool.epoch') is not null")
        .await?;
    if there.get(0, 0) == Some("t") {
        let statement = format!(
            "insert into pgstmtpool.epoch (epoch, op_id, master_name) values ({epoch}, {}, {}) on conflict do nothing",
            literal(operation),
            literal(master)
        );
        sql.query(&statement).await?;
    }
    Ok(())
}

/// Calls the helper of the schema where we may, else does the same as ourselves.
async fn helper(sql: &mut Connection, function: &str, call: &str, direct: &str) -> Result<(), ActError> {
    let name = literal(&format!("pgstmtpool.{function}"));
    let there = sql
        .query_one(&format!(
            "select pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_function_privilege(f.oid, 'execute') \
             from pg_catalog.pg_proc f join pg_catalog.pg_namespace n on n.oid = f.pronamespace \
             where f.oid = pg_catalog.to_regprocedure({name})"
        ))
        .await?;
    sql.query(if there.get(0, 0) == Some("t") {
        call
    } else {
        direct
    })
    .await?;
    Ok(())
}

/// Fast. That our connection is ended by it is what we want to see.
async fn stop(sql: &mut Connection) -> Result<(), ActError> {
    let direct = "copy (select where false) to program 'kill -INT $(head -n 1 postmaster.pid)'";
    match helper(sql, "stop(text)", "select pgstmtpool.stop('fast')", direct).await {
        Err(ActError::Sql(error)) if is_shutdown(&error) => Ok(()),
        other => other,
    }
}

fn is_shutdown(error: &Error) -> bool {
    use pgnet::sqlstate::SqlState;
    let code = error.sqlstate();
    // 57P01: it said goodbye. The program may also "fail", because its parent is gone.
    error.is_fatal() || code == SqlState::ADMIN_SHUTDOWN || code == SqlState::EXTERNAL_ROUTINE_EXCEPTION
}

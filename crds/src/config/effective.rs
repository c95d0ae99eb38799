//! Settings per database and user: what holds for one client.

use std::net::IpAddr;
use std::time::Duration;

use super::{Limits, Matcher, PoolConfig, PoolMode, Timeouts};

/// What a database or a user has its own values for; `None`: the next wider level decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// When a client holds a server.
    pub pool_mode: Option<PoolMode>,
    /// `workers.max`.
    pub max_workers: Option<u32>,
    /// `workers.maxTotal`: of all pools of this database or user.
    pub max_total_workers: Option<u32>,
    /// `limits.maxClients`, here of this database or user.
    pub max_clients: Option<u32>,
    /// See [`Limits`].
    pub max_clients_per_user: Option<u32>,
    /// See [`Limits`].
    pub max_clients_per_database: Option<u32>,
    /// See [`Limits`].
    pub max_prepared_statements: Option<usize>,
    /// See [`Limits`].
    pub max_query_size: Option<usize>,
    /// See [`Limits`].
    pub client_buffer: Option<usize>,
    /// See [`Timeouts`]; `Some(None)`: never. (Its `login` and `drain` are the same for everybody.)
    pub query: Option<Option<Duration>>,
    /// See [`Timeouts`].
    pub query_wait: Option<Option<Duration>>,
    /// See [`Timeouts`].
    pub transaction: Option<Option<Duration>>,
    /// See [`Timeouts`].
    pub idle_in_transaction: Option<Option<Duration>>,
    /// See [`Timeouts`].
    pub client_idle: Option<Option<Duration>>,
    /// See [`Timeouts`].
    pub client_write: Option<Option<Duration>>,
}

/// Settings of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseOverride {
    /// The name clients ask for.
    pub name: String,
    /// Its name on the servers; `None`: the same.
    pub server_name: Option<String>,
    /// Its settings.
    pub overrides: Overrides,
    /// Users of this database with settings of their own.
    pub users: Vec<DatabaseUser>,
}

/// Settings of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserOverride {
    /// The user.
    pub name: String,
    /// Its settings.
    pub overrides: Overrides,
}

/// Settings of the clients that match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRule {
    /// For whom.
    pub whom: Matcher,
    /// Limits and timeouts; `max_clients` is of those this rule was the first to match.
    pub overrides: Overrides,
}

/// Settings of one user in one database.
pub type DatabaseUser = UserOverride;

/// What holds for the clients of one database and user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The database's name on the servers.
    pub server_database: String,
    /// When a client holds a server.
    pub pool_mode: PoolMode,
    /// Workers of this pool, over all proxies.
    pub max_workers: u32,
    /// Workers of all pools of this database; 0 = no limit.
    pub max_database_workers: u32,
    /// Workers of all pools of this user; 0 = no limit.
    pub max_user_workers: u32,
    /// Bounds on its clients. `max_clients` stays that of the whole proxy; see `max_database_clients` and
    /// `max_user_clients`.
    pub limits: Limits,
    /// Clients of this database at one proxy; 0 = no limit.
    pub max_database_clients: u32,
    /// Clients of this user at one proxy; 0 = no limit.
    pub max_user_clients: u32,
    /// Bounds on time.
    pub timeouts: Timeouts,
}

impl Effective {
    fn apply(&mut self, own: &Overrides) {
        fn set<T: Copy>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut self.pool_mode, own.pool_mode);
        set(&mut self.max_workers, own.max_workers);
        set(&mut self.limits.max_clients_per_user, own.max_clients_per_user);
        set(
            &mut self.limits.max_clients_per_database,
            own.max_clients_per_database,
        );
        set(
            &mut self.limits.max_prepared_statements,
            own.max_prepared_statements,
        );
        set(&mut self.limits.max_query_size, own.max_query_size);
        set(&mut self.limits.client_buffer, own.client_buffer);
        set(&mut self.timeouts.query, own.query);
        set(&mut self.timeouts.query_wait, own.query_wait);
        set(&mut self.timeouts.transaction, own.transaction);
        set(&mut self.timeouts.idle_in_transaction, own.idle_in_transaction);
        set(&mut self.timeouts.client_idle, own.client_idle);
        set(&mut self.timeouts.client_write, own.client_write);
        set(&mut self.max_user_clients, own.max_clients_per_user);
        set(&mut self.max_database_clients, own.max_clients_per_database);
    }
}

impl PoolConfig {
    /// What holds for a client of `user` in `database` (the names it logged in with): the user in the database
    /// over the user over the database over the pool. Databases and users that are not listed are the pool's.
    pub fn effective(&self, database: &str, user: &str) -> Effective {
        let mut effective = Effective {
            server_database: database.to_owned(),
            pool_mode: self.pool_mode,
            max_workers: self.workers.max,
            max_database_workers: self.workers.max_per_database,
            max_user_workers: self.workers.max_per_user,
            limits: self.limits,
            max_database_clients: self.limits.max_clients_per_database,
            max_user_clients: self.limits.max_clients_per_user,
            timeouts: self.timeouts,
        };
        let of_database = self.databases.iter().find(|item| item.name == database);
        let of_user = self.users.iter().find(|item| item.name == user);
        if let Some(item) = of_database {
            if let Some(name) = &item.server_name {
                effective.server_database.clone_from(name);
            }
            effective.apply(&item.overrides);
            effective.max_database_clients = item
                .overrides
                .max_clients
                .unwrap_or(effective.max_database_clients);
            effective.max_database_workers = item
                .overrides
                .max_total_workers
                .unwrap_or(effective.max_database_workers);
        }
        if let Some(item) = of_user {
            effective.apply(&item.overrides);
            effective.max_user_clients = item.overrides.max_clients.unwrap_or(effective.max_user_clients);
            effective.max_user_workers = item
                .overrides
                .max_total_workers
                .unwrap_or(effective.max_user_workers);
        }
        if let Some(item) =
            of_database.and_then(|database| database.users.iter().find(|item| item.name == user))
        {
            effective.apply(&item.overrides);
            effective.max_user_clients = item.overrides.max_clients.unwrap_or(effective.max_user_clients);
        }
        effective
    }

    /// The rule for this client, and its place in the list.
    pub fn client_rule(
        &self,
        database: &str,
        user: &str,
        application_name: &str,
        address: Option<IpAddr>,
    ) -> Option<(usize, &ClientRule)> {
        let mut rules = self.client_rules.iter().enumerate();
        rules.find(|(_, rule)| rule.whom.matches(database, user, application_name, address))
    }

    /// What holds for one client: [`PoolConfig::effective`], the first rule for it above that, and no `clientIdle` for those
    /// who are exempt.
    pub fn effective_of(
        &self,
        database: &str,
        user: &str,
        application_name: &str,
        address: Option<IpAddr>,
    ) -> Effective {
        let mut effective = self.effective(database, user);
        if let Some((_, rule)) = self.client_rule(database, user, application_name, address) {
            effective.apply(&rule.overrides);
        }
        let mut exempt = self.idle_exemptions.iter();
        if exempt.any(|whom| whom.matches(database, user, application_name, address)) {
            effective.timeouts.client_idle = None;
        }
        effective
    }
}

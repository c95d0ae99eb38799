//! What the admin database shows: plain rows, gathered from all data threads.

use std::time::Duration;

/// A pool: the workers of one server, database and user on one data thread.
#[derive(Clone, Debug)]
pub struct PoolRow {
    /// Data thread that serves it.
    pub thread: usize,
    /// Name of the server in the resource.
    pub server: String,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Clients whose statements go here.
    pub clients: usize,
    /// Requests of clients that run now.
    pub clients_active: usize,
    /// Requests that wait for a worker.
    pub clients_waiting: usize,
    /// Workers with nothing to do.
    pub workers_idle: usize,
    /// Workers that serve shared reads.
    pub workers_shared: usize,
    /// Workers one session has for itself.
    pub workers_leased: usize,
    /// Workers being connected.
    pub workers_connecting: usize,
    /// So many are given out at once to sessions that want one for themselves, because the server is busy; 0 = as many as there are.
    pub lease_limit: usize,
    /// Longest wait of those waiting now.
    pub max_wait: Duration,
    /// `statement`, `transaction` or `session`.
    pub mode: &'static str,
    /// Held by PAUSE.
    pub paused: bool,
}

/// A client.
#[derive(Clone, Debug)]
pub struct ClientRow {
    /// Data thread.
    pub thread: usize,
    /// Process id as in BackendKeyData.
    pub process_id: i32,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Its address.
    pub address: String,
    /// `application_name` now.
    pub application_name: String,
    /// idle, waiting, active, transaction, pinned, failed.
    pub state: &'static str,
    /// Since it logged in.
    pub age: Duration,
    /// Since its last request began or ended.
    pub since: Duration,
    /// Requests served.
    pub requests: u64,
    /// Server process id it holds, 0 for none.
    pub server_process_id: i32,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct ServerRow {
    /// Data thread.
    pub thread: usize,
    /// Name of the server in the resource.
    pub server: String,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Process id on the server.
    pub process_id: i32,
    /// connecting, idle, shared, leased, pinned, cleaning, fenced, closing.
    pub state: &'static str,
    /// Requests in its queue, the running one included.
    pub depth: usize,
    /// Since it was connected.
    pub age: Duration,
    /// Requests served.
    pub requests: u64,
    /// Prepared statements it holds.
    pub prepared: usize,
}

/// A session that keeps a worker because of state that cannot be moved.
#[derive(Clone, Debug)]
pub struct PinRow {
    /// Process id of the client.
    pub process_id: i32,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Process id on the server.
    pub server_process_id: i32,
    /// Why: listen, temp table, advisory lock, hold cursor, load ...
    pub reasons: Vec<&'static str>,
    /// Since when.
    pub age: Duration,
}

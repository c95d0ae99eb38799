//! The admin database `pseudo` (alias `pgbouncer`): `psql -d pseudo`.
//!
//! Clients log in as for any database; then [`serve`] answers a few verbs in the simple and in the extended protocol.
//!
//! Who may do what: *admins* (who logged in with the user of `adminSecretRef`) everything. Everybody else sees
//! the help, the version, the totals, and of the other lists only the rows of the own user: 42501 for the rest. Nothing
//! here shows a secret: there is no command that could.
//!
//! `command` reads the text, `console` carries it out and makes rows, `table` puts them on the wire, `session` is the protocol.

mod command;
mod console;
mod session;
mod table;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crds::PoolConfig;
use futures::future::BoxFuture;

use crate::plane::{ClientRow, Counters, PinRow, PoolRow, ServerRow, Topology};

pub use command::Shutdown;
pub use session::serve;

/// What the admin database works on.
pub trait Stage: Send + Sync + 'static {
    /// Rows of SHOW POOLS.
    fn pools(&self) -> BoxFuture<'_, Vec<PoolRow>>;
    /// Rows of SHOW CLIENTS.
    fn clients(&self) -> BoxFuture<'_, Vec<ClientRow>>;
    /// Rows of SHOW SERVERS.
    fn servers(&self) -> BoxFuture<'_, Vec<ServerRow>>;
    /// Rows of SHOW PINS.
    fn pins(&self) -> BoxFuture<'_, Vec<PinRow>>;
    /// Holds new requests; returns when what ran has ended.
    fn pause(&self, database: Option<String>) -> BoxFuture<'_, ()>;
    /// Lets them go on.
    fn resume(&self, database: Option<String>) -> BoxFuture<'_, ()>;
    /// Totals.
    fn counters(&self) -> Vec<Arc<Counters>>;
    /// The settings in force.
    fn config(&self) -> Arc<PoolConfig>;
    /// Who is master.
    fn topology(&self) -> Arc<Topology>;
    /// Read everything again.
    fn reload(&self);
    /// End the program.
    fn shutdown(&self, how: Shutdown);
}

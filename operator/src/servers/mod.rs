//! How the operator talks to PostgreSQL servers: probes, statements, commands. It decides nothing.
//!
//! Its connections can always be told (`application_name` [`APPLICATION_NAME`]), find nothing but `pg_catalog` (a database owner
//! must not be able to plant a function a superuser calls), and never wait for a standby.

mod acts;
mod command;
mod conninfo;
mod files;
mod login;
mod probe;
mod release;
mod sample;

pub use acts::Executor;
pub use command::{Commands, Pods, Purpose};
pub use conninfo::Conninfo;
pub(crate) use files::{conninfo as conninfo_of, make_standby};
pub use login::{Login, LoginError};
pub use probe::{Prober, Seen};
pub use release::release;

/// The name our connections carry.
pub const APPLICATION_NAME: &str = "pgstmtpool-probe";

//! The operator of pgstmtpool: it watches the PostgreSQL servers of a pool and moves the master when it must.
//!
//! Begin with [`core`], the pure decisions. Around it is a thin shell: [`pool`] (the actor of one pool, its record in the status),
//! [`servers`] (SQL and commands), [`health`] and [`http`], and [`app`] (command line and signals). Arrows go one way: `app`
//! -> `pool` -> `servers` -> `core`; `core` knows none of them.

pub mod app;
pub mod core;
pub mod health;
pub mod http;
pub mod pool;
pub mod servers;

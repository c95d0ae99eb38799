//! The operator of pgstmtpool: it watches the PostgreSQL servers of a pool and moves the master when it must.
//!
//! Begin with [`core`], the pure decisions. Around it is a thin shell: [`pool`] (the actor of one pool, its record in the status),
//! [`servers`] (SQL and commands), [`health`] and [`http`], [`kube`] (a cluster: who leads, one actor a pool, owned objects), and [`app`] (command line and signals). Arrows go one way: `app`
//! -> `kube` -> `pool` -> `servers` -> `core`; `core` knows none of them.

pub mod app;
pub mod core;
pub mod guard;
pub mod health;
pub mod http;
pub mod kube;
pub mod pool;
pub mod servers;

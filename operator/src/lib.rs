//! The operator of pgstmtpool: it watches the PostgreSQL servers of a pool and moves the master when it must.
//!
//! Begin with [`core`], the pure decisions; the rest is the thin shell around it that does SQL, commands and files.

pub mod core;

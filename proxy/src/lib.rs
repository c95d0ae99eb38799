//! The pooling proxy of pgstmtpool.
//!
//! A module imports only modules that stand after it in this list, so the list reads as the architecture.

pub mod classify;
pub mod plane;

//! The pooling proxy of pgstmtpool.
//!
//! A module imports only modules that stand after it in this list, so the list reads as the architecture.

pub mod accept;
pub mod admin;
pub mod app;
pub mod auth;
pub mod classify;
pub mod control;
pub mod error;
pub mod house;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod peers;
pub mod plane;
pub mod pseudo;
pub mod seats;
pub mod spread;
pub mod startup;
pub mod talk;
pub mod tls;

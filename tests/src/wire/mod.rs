//! A small client of protocol 3.0 that sends exactly what it is told and shows exactly what it gets. Frames and
//! messages are written without `pgnet` on purpose (a fault in our codec must not hide itself); SCRAM is `pgnet`'s,
//! and proven against PostgreSQL by the self-check.
//!
//! Begin with [`Connection`]; [`encode`] makes messages, [`show`] turns frames into lines of a transcript.

mod connection;
pub mod encode;
pub mod show;

pub use connection::{Address, Connection, DbError, Frame, Row, WireError};

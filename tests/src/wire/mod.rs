//! A small client of protocol 3.0 that sends exactly what it is told and shows exactly what it gets.
//!
//! Begin with [`Connection`]; [`encode`] makes messages, [`show`] turns frames into lines of a transcript.

mod connection;
pub mod encode;
pub mod show;

pub use connection::{Address, Connection, DbError, Frame, Row, WireError};

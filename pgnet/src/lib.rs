//! PostgreSQL protocol 3: frames, messages, authentication in both directions, and the client library.
//!
//! Owns everything that knows what bytes on a PostgreSQL connection mean, for both roles. It must never know what a pool, a
//! manifest or a proxy is: none of our other crates is imported here.
//!
//! Where to begin, from the wire upwards:
//! - [`frame`]: where a message begins and ends, found without consuming or allocating anything;
//! - [`startup`], [`frontend`], [`backend`]: every message, as a view that borrows its bytes and as a function that appends it
//!   to a buffer; [`fields`] and [`sqlstate`]: what an error or a notice says;
//! - [`auth`]: md5 and SCRAM for both roles, as values; [`tls`] and [`stream`]: encryption and sockets, for both roles; [`batch`] and
//!   [`sockopt`]: what saves system calls;
//! - [`client`]: [`client::establish`] for whoever wants a bare authenticated connection, [`Connection`] for everything else;
//! - [`quote`]: literals and identifiers for SQL text; [`trace`]: reading along.
//!
//! What holds everywhere: no length from the wire is allocated for before it is checked against a limit and the bytes are here;
//! nothing panics, whatever a peer sends; secrets are in no `Debug` and no error text; texts of a server that has not authenticated
//! us are quoted and capped; every wait of the client side ends with a timeout.

pub mod auth;
pub mod backend;
pub mod batch;
pub mod client;
pub mod fields;
pub mod frame;
pub mod frontend;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod quote;
pub mod sockopt;
pub mod sqlstate;
pub mod startup;
pub mod stream;
pub mod tls;
pub mod trace;
mod wire;

pub use client::Connection;
pub use wire::{DecodeError, Formats, Oids, Secret, Values};

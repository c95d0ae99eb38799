//! PostgreSQL protocol 3: frames, messages, authentication in both directions, and the client library.
//!
//! Owns everything that knows what bytes on a PostgreSQL connection mean, for both roles. It must never know what a pool, a
//! manifest or a proxy is: none of our other crates is imported here.
//!
//! Where to begin, from the wire upwards:
//! - [`frame`]: where a message begins and ends, found without consuming or allocating anything;
//! - [`startup`], [`frontend`], [`backend`]: every message, as a view that borrows its bytes and as a function that appends it
//!   to a buffer; [`fields`] and [`sqlstate`]: what an error or a notice says;
//! - [`quote`]: literals and identifiers for SQL text.

pub mod auth;
pub mod backend;
pub mod client;
pub mod fields;
pub mod frame;
pub mod frontend;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod quote;
pub mod sqlstate;
pub mod startup;
pub mod stream;
pub mod tls;
mod wire;

pub use client::Connection;
pub use wire::{DecodeError, Formats, Oids, Values};

//! Authentication, in both directions.
//!
//! Owns what is computed from passwords and verifiers, and the SASL exchange as values: messages in, messages out, no socket, no
//! clock. Who may log in and where verifiers come from is decided elsewhere. Begin at [`scram`].

pub mod md5;
pub mod scram;

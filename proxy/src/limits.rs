//! Bounds of the edges that no manifest changes.

use std::time::Duration;

/// Clients that may be in their login at a time. More are refused at once: what they cost before they have
/// proven who they are is bounded by this times the other bounds here.
pub const LOGINS_MAX: u64 = 2_000;
/// Bytes of a message of a login after the startup packet; PostgreSQL takes 65,535 too.
pub const LOGIN_MESSAGE_MAX: u32 = 65_535;
/// Encryption requests before a startup packet: one for GSS, one for TLS.
pub const NEGOTIATIONS_MAX: usize = 2;
/// Names of roles and databases, as `NAMEDATALEN - 1`.
pub const NAME_MAX: usize = 63;
/// Users whose verifiers are remembered, known or not.
pub const VERIFIERS_MAX: usize = 10_000;
/// Look-ups of verifiers that wait for the master.
pub const LOOKUPS_MAX: usize = 1_000;
/// How long one look-up may take.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// A verifier that was found is not asked for again sooner, even after a failed login.
pub const LOOKUP_AGAIN: Duration = Duration::from_secs(1);
/// How long an unknown user stays unknown.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Passwords that are put through the rounds of SCRAM at a time, each on a thread of its own.
pub const ROUNDS_MAX: usize = 4;
/// Cancels that are carried to other proxies at a time.
pub const FORWARDS_MAX: usize = 64;
/// How long one may take.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

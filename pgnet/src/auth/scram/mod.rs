//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677, 5929) as PostgreSQL speaks them, for both roles.
//!
//! Owns the exchange as values: [`Server`] and [`Client`] take the peer's bytes and return their own; [`Verifier`] is what a server
//! stores, [`Keys`] what a proxy keeps of a login to log in elsewhere. Nothing here waits, logs or shows a secret.

mod client;
mod message;
mod server;
mod verifier;

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::sqlstate::SqlState;

pub use client::{Binding, Client, Derivation, Proof};
pub use server::{Finished, Server};
pub use verifier::{Verifier, VerifierError};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &[u8] = b"SCRAM-SHA-256";

/// The mechanism that binds the login to the TLS channel.
pub const SCRAM_SHA_256_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// The count PostgreSQL uses unless told otherwise (`scram_iterations`), which is also the least RFC 7677 allows.
pub const ITERATIONS_DEFAULT: u32 = 4_096;

/// The largest count a server may ask of us. OWASP advises 600,000 for PBKDF2 with SHA-256, so an honest server may use that; a
/// million takes about half a second on a thread of its own, which is all a hostile server can cost us per connection.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// The longest nonce taken from a peer; ours has 24 characters, PostgreSQL's as many (CVE-2026-6665: an endless one).
pub const NONCE_MAX: usize = 256;

/// The longest salt in bytes; PostgreSQL's has 16.
pub const SALT_MAX: usize = 1_024;

/// A key or a hash.
pub type Key = [u8; 32];

/// What is enough to log in to a server that holds the verifier these keys belong to, without knowing the password.
///
/// The proxy learns the client key at the client's own login; the server key, which tells a true server from a false one, stands
/// in the verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Proves to the server who we are.
    pub client_key: Key,
    /// Proves to us who the server is.
    pub server_key: Key,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The peer sent something that is no SCRAM message; the text says which part. 08P01.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A mechanism that was not offered. 08P01.
    #[error("unknown SASL mechanism")]
    Mechanism,
    /// An authorization identity or a mandatory extension, neither of which PostgreSQL knows. 0A000.
    #[error("unsupported SCRAM feature: {0}")]
    Unsupported(&'static str),
    /// The two ends do not see the same TLS channel, or one was made to believe the other cannot bind: somebody is between. 28000.
    #[error("SCRAM channel binding failed: {0}")]
    ChannelBinding(&'static str),
    /// The client does not know the password (or there is no such user). 28P01.
    #[error("the password is wrong")]
    WrongPassword,
    /// The server does not know the verifier: it is not the one it pretends to be.
    #[error("the server could not prove that it knows the password")]
    ServerSignature,
    /// The server asks for more rounds than [`ITERATIONS_MAX`], or none.
    #[error("the server asks for {0} iterations, over the limit of {ITERATIONS_MAX} or none")]
    Iterations(u64),
    /// The server broke the exchange off, giving an error of its own.
    #[error("the server gave the exchange up")]
    Refused,
    /// A step out of order.
    #[error("SCRAM message out of order")]
    Order,
    /// No random bytes from the operating system.
    #[error("no random bytes")]
    Random,
}

impl ScramError {
    /// What the client is told, as PostgreSQL has it.
    #[must_use]
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Malformed(_) | Self::Mechanism | Self::Order => SqlState::PROTOCOL_VIOLATION,
            Self::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::ChannelBinding(_) => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::WrongPassword => SqlState::INVALID_PASSWORD,
            Self::ServerSignature | Self::Iterations(_) | Self::Refused => SqlState::CONNECTION_FAILURE,
            Self::Random => SqlState::INTERNAL_ERROR,
        }
    }
}

/// The password as it goes into the hash: SASLprep (RFC 4013), or the bytes as they are where that does not allow them, which is
/// what PostgreSQL does on both ends.
#[must_use]
pub fn normalize(password: &str) -> Cow<'_, str> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => Cow::Borrowed(password),
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    // A key of any length is a valid one: the error cannot come.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// The expensive part: `iterations` rounds over the password.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let mut key = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(normalize(password).as_bytes(), salt, iterations, &mut key);
    key
}

fn keys_of(salted: &Key) -> Keys {
    Keys {
        client_key: hmac(salted, &[b"Client Key"]),
        server_key: hmac(salted, &[b"Server Key"]),
    }
}

/// A nonce of 144 random bits.
fn nonce() -> Result<String, ScramError> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes).map_err(|_| ScramError::Random)?;
    Ok(message::encode(&bytes))
}

#[cfg(test)]
mod tests;

//! What a server stores of a password.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

use super::{
    ITERATIONS_DEFAULT, ITERATIONS_MAX, Key, Keys, SALT_MAX, ScramError, hmac, keys_of, message,
    salted_password, sha256,
};

/// A verifier: enough to check a login, not enough to make one.
///
/// Its text is `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword`. `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// The salt.
    pub salt: Vec<u8>,
    /// Hash of the client key.
    pub stored_key: Key,
    /// Signs the server's last message.
    pub server_key: Key,
}

/// Not the text of a verifier; the word says which part. It never quotes the text: it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier: {0}")]
pub struct VerifierError(&'static str);

impl Verifier {
    /// Reads the text of a verifier.
    ///
    /// # Errors
    /// [`VerifierError`] for anything else. A count of rounds over [`ITERATIONS_MAX`] is allowed here, as it costs the server
    /// nothing; a client of ours will refuse it.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        let bad = |what| VerifierError(what);
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(bad("the scheme"))?;
        let (parameters, keys) = rest.split_once('$').ok_or(bad("number of parts"))?;
        let (iterations, salt) = parameters.split_once(':').ok_or(bad("number of parts"))?;
        let (stored, server) = keys.split_once(':').ok_or(bad("number of parts"))?;
        let digits = iterations.bytes().all(|b| b.is_ascii_digit());
        let iterations = iterations
            .parse()
            .ok()
            .filter(|n| digits && (1..=i32::MAX as u32).contains(n));
        let salt = message::decode(salt, "").map_err(|_| bad("the salt"))?;
        if salt.is_empty() || salt.len() > SALT_MAX {
            return Err(bad("length of the salt"));
        }
        let key = |text: &str, what| {
            message::decode(text, "")
                .ok()
                .and_then(|key| Key::try_from(key).ok())
                .ok_or(bad(what))
        };
        Ok(Self {
            iterations: iterations.ok_or(bad("the iterations"))?,
            salt,
            stored_key: key(stored, "the stored key")?,
            server_key: key(server, "the server key")?,
        })
    }

    /// Makes the verifier of a password. Costs the rounds: not for an event loop.
    ///
    /// `iterations` is brought into 1 to [`ITERATIONS_MAX`].
    #[must_use]
    pub fn generate(password: &str, salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.clamp(1, ITERATIONS_MAX);
        let keys = keys_of(&salted_password(password, salt, iterations));
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&keys.client_key),
            server_key: keys.server_key,
        }
    }

    /// [`Verifier::generate`] with a random salt and PostgreSQL's count of rounds.
    ///
    /// # Errors
    /// [`ScramError::Random`] where the operating system has no random bytes.
    pub fn generate_default(password: &str) -> Result<Self, ScramError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|_| ScramError::Random)?;
        Ok(Self::generate(password, &salt, ITERATIONS_DEFAULT))
    }

    /// For a user who does not exist: looks like a real one and stays the same as long as `secret` does, so that nobody can tell by
    /// asking twice. Nothing can be proved against it; use [`super::Server::mock`].
    pub(super) fn mock(user: &str, secret: &Key) -> Self {
        let salt = hmac(secret, &[b"salt", user.as_bytes()]);
        Self {
            iterations: ITERATIONS_DEFAULT,
            salt: salt[..16].to_vec(),
            stored_key: hmac(secret, &[b"stored key", user.as_bytes()]),
            server_key: hmac(secret, &[b"server key", user.as_bytes()]),
        }
    }

    /// Whether this clear-text password belongs to it. Costs the rounds: not for an event loop.
    #[must_use]
    pub fn matches(&self, password: &str) -> bool {
        self.keys_for(password).is_some()
    }

    /// The keys, if this clear-text password belongs to it. Costs the rounds: not for an event loop.
    #[must_use]
    pub fn keys_for(&self, password: &str) -> Option<Keys> {
        let keys = keys_of(&salted_password(password, &self.salt, self.iterations));
        let same = sha256(&keys.client_key).ct_eq(&self.stored_key) & keys.server_key.ct_eq(&self.server_key);
        bool::from(same).then_some(keys)
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(message::encode);
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

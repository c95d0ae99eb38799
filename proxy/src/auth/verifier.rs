//! What is known of a user's password.

use std::sync::{Arc, OnceLock};

use hmac::{Hmac, KeyInit, Mac};
use pgnet::auth::md5;
use pgnet::auth::scram::{self, Key, Keys};
use pgnet::client::Credential;
use sha2::Sha256;
use tokio::sync::{OnceCell, Semaphore};

use crate::limits::ROUNDS_MAX;

/// What checks a password.
pub enum Verifier {
    /// The password itself, from a Secret.
    Plain(String),
    /// A SCRAM verifier.
    Scram(Arc<scram::Verifier>),
    /// `md5` and 32 digits.
    Md5(String),
}

impl Verifier {
    /// From a Secret, where whatever is no verifier and no hash is a password. `None`: empty, nobody can log in with it.
    pub fn of_secret(stored: &str) -> Option<Self> {
        match Self::of_server(stored) {
            Some(known) => Some(known),
            None if stored.is_empty() => None,
            None => Some(Self::Plain(stored.to_owned())),
        }
    }

    /// From `pg_authid.rolpassword`, which never holds a password. `None`: nothing to log in with.
    pub fn of_server(stored: &str) -> Option<Self> {
        if let Ok(verifier) = scram::Verifier::parse(stored) {
            return Some(Self::Scram(Arc::new(verifier)));
        }
        md5::is_hash(stored).then(|| Self::Md5(stored.to_owned()))
    }
}

/// A user who can log in with a password, and what his logins have taught us. Memory only.
pub struct Known {
    /// Checks the password.
    pub verifier: Verifier,
    /// What the verifier was read from, to see whether it is still the same.
    stored: String,
    /// The SCRAM verifier of a plain password, made once.
    made: OnceCell<Arc<scram::Verifier>>,
    /// How to log in to servers: with what is stored, or with the key a login proved to know.
    learned: OnceLock<Arc<Credential>>,
    /// A hash of the password that was right: it need not be put through the rounds again.
    checked: OnceLock<Key>,
}

impl Known {
    /// Nothing has been learned yet.
    pub fn new(verifier: Verifier, stored: &str) -> Self {
        let learned = match &verifier {
            Verifier::Plain(password) => OnceLock::from(Arc::new(Credential::Password(password.clone()))),
            Verifier::Md5(hash) => OnceLock::from(Arc::new(Credential::Md5Hash(hash.clone()))),
            Verifier::Scram(_) => OnceLock::new(),
        };
        Self {
            verifier,
            stored: stored.to_owned(),
            made: OnceCell::new(),
            learned,
            checked: OnceLock::new(),
        }
    }

    /// Whether it was read from this text: then what was learned is still good.
    pub fn is_of(&self, stored: &str) -> bool {
        self.stored == stored
    }

    /// The SCRAM verifier. That of a plain password is made on a thread of its own, once; its salt is the one a user
    /// who does not exist would have, so that the two look alike. `None`: an md5 hash, which has none.
    pub async fn scram(&self, user: &str, secret: &Key) -> Option<Arc<scram::Verifier>> {
        match &self.verifier {
            Verifier::Scram(verifier) => Some(Arc::clone(verifier)),
            Verifier::Md5(_) => None,
            Verifier::Plain(password) => {
                let salt = stable_salt(user, secret);
                let make = || async {
                    let password = password.clone();
                    let rounds = scram::ITERATIONS_DEFAULT;
                    rounds_of(move || Arc::new(scram::Verifier::generate(&password, &salt, rounds))).await
                };
                self.made
                    .get_or_try_init(|| async { make().await.ok_or(()) })
                    .await
                    .ok()
                    .cloned()
            }
        }
    }

    /// Remembers the key of a login that succeeded.
    pub fn learn(&self, keys: &Keys) {
        // Known already: there is only one for a verifier.
        self.learned
            .get_or_init(|| Arc::new(Credential::Scram(keys.clone())));
    }

    /// Whether this is the password that was right before.
    pub fn was_right(&self, password: &[u8], secret: &Key) -> bool {
        self.checked
            .get()
            .is_some_and(|right| same(right, &keyed(secret, &[b"password", password])))
    }

    /// Remembers a password that was right.
    pub fn remember(&self, password: &[u8], secret: &Key) {
        let _ = self.checked.set(keyed(secret, &[b"password", password])); // likewise
    }

    /// How to log in to servers as this user without having seen the password; `None`: no login has told.
    pub fn credential(&self) -> Option<Arc<Credential>> {
        self.learned.get().cloned()
    }
}

/// Does the work of many rounds on a thread of its own; only so many of them at a time. `None`: the program is ending.
pub(super) async fn rounds_of<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    static PLACES: Semaphore = Semaphore::const_new(ROUNDS_MAX);
    let _place = PLACES.acquire().await.ok()?;
    tokio::task::spawn_blocking(work).await.ok()
}

/// The salt of users who do not exist, as `scram::Server::mock` has it.
pub(super) fn stable_salt(user: &str, secret: &Key) -> [u8; 16] {
    let salt = keyed(secret, &[b"salt", user.as_bytes()]);
    std::array::from_fn(|index| salt[index])
}

/// HMAC-SHA-256 of all parts.
fn keyed(secret: &Key, parts: &[&[u8]]) -> Key {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return [0; 32];
    }; // a key of any length is good
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Compares in a time that does not depend on where they differ.
pub(super) fn same(left: &[u8], right: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Key = [7; 32];

    #[test]
    fn a_stored_text_is_what_it_looks_like() {
        let scram = scram::Verifier::generate("x", b"salt", 1).to_string();
        let md5 = md5::hash("u", "x");
        for (stored, expected) in [
            (scram.as_str(), "scram"),
            (&md5, "md5"),
            ("md5 is fun", "plain"),
            ("", "none"),
        ] {
            let found = match Verifier::of_secret(stored) {
                Some(Verifier::Scram(_)) => "scram",
                Some(Verifier::Md5(_)) => "md5",
                Some(Verifier::Plain(_)) => "plain",
                None => "none",
            };
            assert_eq!(found, expected, "{stored}");
        }
        assert!(
            Verifier::of_server("plain").is_none(),
            "a server stores no passwords"
        );
    }

    #[tokio::test]
    async fn a_plain_password_is_put_through_the_rounds_once() {
        let known = Known::new(Verifier::Plain("x".into()), "x");
        let first = known.scram("app", &SECRET).await.unwrap();
        let second = known.scram("app", &SECRET).await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(first.matches("x"));
        assert_eq!(first.salt, stable_salt("app", &SECRET));
    }

    #[test]
    fn the_key_of_a_login_logs_in_to_servers() {
        let verifier = scram::Verifier::generate("x", b"salt", 1);
        let keys = verifier.keys_for("x").unwrap();
        let known = Known::new(Verifier::Scram(Arc::new(verifier)), "");
        assert!(known.credential().is_none());
        known.learn(&keys);
        assert_eq!(known.credential().as_deref(), Some(&Credential::Scram(keys)));
    }

    #[test]
    fn a_right_password_is_recognised_and_others_are_not() {
        let known = Known::new(Verifier::Md5(md5::hash("u", "x")), "");
        assert!(!known.was_right(b"x", &SECRET));
        known.remember(b"x", &SECRET);
        assert!(known.was_right(b"x", &SECRET));
        assert!(!known.was_right(b"y", &SECRET));
        assert!(!known.was_right(b"x", &[8; 32]));
    }
}

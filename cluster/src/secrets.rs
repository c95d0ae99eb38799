//! Secrets: values that are never printed.

use std::collections::BTreeMap;
use std::fmt;

use crds::SecretRef;

/// The type of Secrets that hold one user and its password.
const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

/// The Secrets a pool refers to, by name. `Debug` shows names and keys, never a value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    by_name: BTreeMap<String, Secret>,
}

#[derive(Clone, Default, PartialEq, Eq)]
struct Secret {
    kind: String,
    values: BTreeMap<String, String>,
}

/// A user and its password, or its verifier. `Debug` shows the user only.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub username: String,
    /// Its password; empty where the Secret has none.
    pub password: String,
}

/// Why a Secret holds no login.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// There is no such Secret.
    #[error("there is no Secret {0:?}")]
    NoSecret(String),
    /// It has no such key.
    #[error("Secret {secret:?} has no key {key:?}, and no key \"uri\"")]
    NoKey {
        /// The Secret.
        secret: String,
        /// The key.
        key: String,
    },
    /// Its `uri` cannot be read.
    #[error("Secret {0:?}: expected uri to be postgresql://user:password@...")]
    BadUri(String),
}

impl Secrets {
    /// Adds a Secret; one of the same name is replaced. `kind` is its `type`, empty for `Opaque`.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        kind: impl Into<String>,
        values: impl IntoIterator<Item = (String, String)>,
    ) {
        let secret = Secret {
            kind: kind.into(),
            values: values.into_iter().collect(),
        };
        self.by_name.insert(name.into(), secret);
    }

    /// Adds a Secret as `before` has it, if it has it.
    #[cfg(feature = "kube")]
    pub(crate) fn keep(&mut self, name: &str, before: &Self) {
        if let Some(secret) = before.by_name.get(name) {
            self.by_name.insert(name.to_owned(), secret.clone());
        }
    }

    /// Whether there is a Secret of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The value of a key.
    pub fn get(&self, name: &str, key: &str) -> Option<&str> {
        self.by_name.get(name)?.values.get(key).map(String::as_str)
    }

    /// Keys and values of a Secret; none if there is no such Secret.
    pub fn entries(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let secret = self.by_name.get(name);
        secret
            .into_iter()
            .flat_map(|secret| secret.values.iter())
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Names of all Secrets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The login that a reference means: its two keys, else the key `uri`.
    ///
    /// # Errors
    /// [`LoginError`] says what is missing. A missing password is none: the server may trust us.
    pub fn login(&self, reference: &SecretRef) -> Result<Login, LoginError> {
        let SecretRef {
            name,
            username_key,
            password_key,
        } = reference;
        let secret = self
            .by_name
            .get(name)
            .ok_or_else(|| LoginError::NoSecret(name.clone()))?;
        let value = |key: &str| secret.values.get(key).cloned();
        if let Some(username) = value(username_key) {
            return Ok(Login {
                username,
                password: value(password_key).unwrap_or_default(),
            });
        }
        let missing = || LoginError::NoKey {
            secret: name.clone(),
            key: username_key.clone(),
        };
        let uri = value("uri").ok_or_else(missing)?;
        login_of_uri(&uri).ok_or_else(|| LoginError::BadUri(name.clone()))
    }

    /// The users that a reference of `auth.userSecretRefs` means: each with its password, SCRAM verifier or md5 hash.
    ///
    /// A Secret of type `kubernetes.io/basic-auth`, or one with the two keys of the reference and no others, is one
    /// user; any other is a map from users to their passwords.
    pub fn users(&self, reference: &SecretRef) -> Vec<Login> {
        let SecretRef {
            name,
            username_key,
            password_key,
        } = reference;
        let Some(secret) = self.by_name.get(name) else {
            return Vec::new();
        };
        let pair = secret
            .values
            .get(username_key)
            .zip(secret.values.get(password_key));
        match pair {
            Some((username, password)) if secret.kind == BASIC_AUTH || secret.values.len() == 2 => {
                vec![Login {
                    username: username.clone(),
                    password: password.clone(),
                }]
            }
            _ => {
                let login = |(user, password): (&String, &String)| Login {
                    username: user.clone(),
                    password: password.clone(),
                };
                secret.values.iter().map(login).collect()
            }
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .by_name
            .iter()
            .map(|(name, secret)| (name, secret.values.keys().collect::<Vec<_>>()));
        f.debug_map().entries(names).finish()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// User and password of `postgresql://user:password@host/...`.
fn login_of_uri(uri: &str) -> Option<Login> {
    let rest = uri
        .strip_prefix("postgresql://")
        .or_else(|| uri.strip_prefix("postgres://"))?;
    let authority = rest.split(['/', '?']).next()?;
    let (userinfo, _) = authority.rsplit_once('@')?;
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let username = percent_decoded(user)?;
    (!username.is_empty()).then_some(Login {
        username,
        password: percent_decoded(password)?,
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || {
                    char::from(bytes.next()?)
                        .to_digit(16)
                        .and_then(|digit| u8::try_from(digit).ok())
                };
                digit()? << 4 | digit()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(kind: &str, values: &[(&str, &str)]) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.insert(
            "s",
            kind,
            values
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string())),
        );
        secrets
    }

    fn logins(secrets: &Secrets) -> Vec<(String, String)> {
        let logins = secrets.users(&SecretRef::new("s"));
        logins
            .into_iter()
            .map(|login| (login.username, login.password))
            .collect()
    }

    #[test]
    fn no_value_of_a_secret_is_ever_printed() {
        let secrets = secrets("", &[("username", "postgres"), ("password", "hunter2")]);
        assert_eq!(format!("{secrets:?}"), r#"{"s": ["password", "username"]}"#);
        let login = secrets.login(&SecretRef::new("s")).unwrap();
        assert!(!format!("{login:?}").contains("hunter2"));
    }

    #[test]
    fn a_login_is_two_keys_or_a_uri() {
        let by_keys = secrets("", &[("username", "u"), ("password", "p")])
            .login(&SecretRef::new("s"))
            .unwrap();
        assert_eq!((by_keys.username.as_str(), by_keys.password.as_str()), ("u", "p"));
        for (uri, user, password) in [
            ("postgresql://u:p@h/db", "u", "p"),
            ("postgres://a%40b:x%3A%2f@h:1/db?sslmode=x", "a@b", "x:/"),
            ("postgresql://u@h", "u", ""),
        ] {
            let login = secrets("", &[("uri", uri)]).login(&SecretRef::new("s")).unwrap();
            assert_eq!(
                (login.username.as_str(), login.password.as_str()),
                (user, password),
                "{uri}"
            );
        }
    }

    #[test]
    fn what_is_missing_in_a_login_is_said() {
        let empty = secrets("", &[]);
        assert_eq!(
            empty.login(&SecretRef::new("t")).unwrap_err().to_string(),
            r#"there is no Secret "t""#
        );
        assert_eq!(
            empty.login(&SecretRef::new("s")).unwrap_err().to_string(),
            r#"Secret "s" has no key "username", and no key "uri""#
        );
        for uri in [
            "http://u:p@h",
            "postgresql://h/db",
            "postgresql://u%zz:p@h",
            "postgresql://:p@h",
        ] {
            let error = secrets("", &[("uri", uri)]).login(&SecretRef::new("s"));
            assert_eq!(error, Err(LoginError::BadUri("s".to_owned())), "{uri}");
        }
    }

    #[test]
    fn users_are_a_pair_or_a_map() {
        let pair = [("username", "u"), ("password", "p")];
        assert_eq!(
            logins(&secrets(BASIC_AUTH, &pair)),
            [("u".to_owned(), "p".to_owned())]
        );
        assert_eq!(logins(&secrets("", &pair)), [("u".to_owned(), "p".to_owned())]);
        let map = secrets("", &[("app", "x"), ("username", "y"), ("password", "z")]);
        assert_eq!(logins(&map).len(), 3);
    }
}

//! What the manifest and its Secrets say about logging in: an immutable snapshot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::Secrets;
use crds::PoolConfig;
use crds::hba::{self, Rule};
use pgnet::auth::scram::Key;

use super::verifier::{Known, Verifier};

/// Rules and users.
#[derive(Default)]
pub struct Settings {
    /// In order: the first that is for a client decides.
    pub rules: Vec<Rule>,
    /// Users of the manifest's Secrets.
    pub users: HashMap<String, Arc<Known>>,
    /// The user of `adminSecretRef`, with what checks his password when the Secret holds one.
    pub admin: Option<(String, Option<Arc<Known>>)>,
    /// Whether the master is asked about everybody else.
    pub ask_master: bool,
    /// How long its answers are good.
    pub fresh: Duration,
    /// Makes users that do not exist look as if they did. The same at all proxies of the pool where that can be.
    pub secret: Key,
}

impl Settings {
    /// From what is written now. What logins have taught about users whose password stayed the same is kept.
    pub fn new(config: &PoolConfig, secrets: &Secrets, secret: Key, before: &Self) -> Self {
        let rules = config
            .auth
            .hba
            .iter()
            .filter_map(|line| hba::parse(line).ok().flatten())
            .collect();
        let logins = config
            .auth
            .user_secrets
            .iter()
            .flat_map(|reference| secrets.users(reference));
        let mut users = HashMap::new();
        for login in logins {
            let old = before.users.get(&login.username);
            if let Some(known) = known(&login.password, old) {
                users.entry(login.username).or_insert(known); // the first Secret that names a user wins
            }
        }
        let admin = config
            .admin_secret
            .as_ref()
            .and_then(|reference| secrets.login(reference).ok());
        let old = before.admin.as_ref().and_then(|(_, known)| known.as_ref());
        Self {
            rules,
            users,
            ask_master: config.auth.auth_query && config.lookup_secret().is_some(),
            admin: admin.map(|login| (login.username, known(&login.password, old))),
            fresh: config.auth.cache_for,
            secret,
        }
    }

    /// Whether this is the user who may do everything in the admin database.
    pub fn is_admin(&self, user: &str) -> bool {
        self.admin.as_ref().is_some_and(|(name, _)| name == user)
    }
}

fn known(stored: &str, before: Option<&Arc<Known>>) -> Option<Arc<Known>> {
    match before.filter(|known| known.is_of(stored)) {
        Some(same) => Some(Arc::clone(same)),
        None => Verifier::of_secret(stored).map(|verifier| Arc::new(Known::new(verifier, stored))),
    }
}

#[cfg(test)]
mod tests {
    use crds::SecretRef;

    use super::*;

    fn secrets(users: &[(&str, &str)]) -> Secrets {
        let mut secrets = Secrets::default();
        let pairs = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect::<Vec<_>>()
        };
        secrets.insert("users", "", pairs(users));
        secrets.insert(
            "admin",
            "",
            pairs(&[("username", "postgres"), ("password", "secret")]),
        );
        secrets
    }

    fn config() -> PoolConfig {
        let mut config = PoolConfig {
            admin_secret: Some(SecretRef::new("admin")),
            ..PoolConfig::default()
        };
        config.auth.user_secrets = vec![SecretRef::new("users")];
        config
    }

    #[test]
    fn what_was_learned_survives_a_reload_unless_the_password_changed() {
        let first = Settings::new(
            &config(),
            &secrets(&[("a", "x"), ("b", "y"), ("empty", "")]),
            [0; 32],
            &Settings::default(),
        );
        assert_eq!(first.users.len(), 2, "nobody logs in with an empty password");
        let second = Settings::new(&config(), &secrets(&[("a", "x"), ("b", "z")]), [0; 32], &first);
        assert!(Arc::ptr_eq(&first.users["a"], &second.users["a"]));
        assert!(!Arc::ptr_eq(&first.users["b"], &second.users["b"]));
        let old = |settings: &Settings| {
            settings
                .admin
                .as_ref()
                .and_then(|(_, known)| known.clone())
                .unwrap()
        };
        assert!(Arc::ptr_eq(&old(&first), &old(&second)));
    }

    #[test]
    fn the_admin_is_the_user_of_the_admin_secret_and_no_other() {
        let settings = Settings::new(&config(), &secrets(&[("a", "x")]), [0; 32], &Settings::default());
        assert!(settings.is_admin("postgres"));
        assert!(!settings.is_admin("a"));
        let nobody = Settings::new(
            &PoolConfig::default(),
            &Secrets::default(),
            [0; 32],
            &Settings::default(),
        );
        assert!(!nobody.is_admin("postgres") && !nobody.is_admin(""));
        assert!(!nobody.ask_master, "there is nobody to ask as");
    }
}

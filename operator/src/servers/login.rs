//! How to log in to the servers of a pool: from the manifest and its Secrets.

use super::APPLICATION_NAME;
use crate::core::Server;
use cluster::Secrets;
use crds::{KeyRef, PoolConfig, SecretRef, ServerTlsMode};
use pgnet::client::{Config, Credential, Target};
use pgnet::tls::{ClientTls, Identity, SslMode};
use std::time::Duration;

/// The operator's login.
#[derive(Clone, Debug)]
pub struct Login {
    user: String,
    credential: Credential,
    tls: ClientTls,
    timeout: Duration,
    /// User and password for `primary_conninfo`, where the manifest says one.
    pub replication: Option<(String, String)>,
    /// User and password for `primary_conninfo` where nothing else is known: our own.
    pub fallback: (String, String),
}

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A Secret is missing or wrong.
    #[error("{0}")]
    Secret(String),
    /// The certificates cannot be used.
    #[error("serverTls: {0}")]
    Tls(#[from] pgnet::tls::TlsError),
}

impl Login {
    /// The login the manifest means. Without `adminSecretRef`: as `postgres`, without a password (trust, peer).
    ///
    /// # Errors
    /// [`LoginError`].
    pub fn of(config: &PoolConfig, secrets: &Secrets) -> Result<Self, LoginError> {
        let login = |reference: &SecretRef| {
            secrets
                .login(reference)
                .map_err(|error| LoginError::Secret(error.to_string()))
        };
        let admin = config.admin_secret.as_ref().map(login).transpose()?;
        let replication = config.replication_secret.as_ref().map(login).transpose()?;
        let (user, password) = admin.map_or_else(
            || ("postgres".to_owned(), String::new()),
            |login| (login.username, login.password),
        );
        let credential = if password.is_empty() {
            Credential::None
        } else {
            Credential::from_secret(&password)
        };
        Ok(Self {
            credential,
            tls: tls(config, secrets)?,
            timeout: config.ha.probe_timeout,
            replication: replication.map(|login| (login.username, login.password)),
            fallback: (user.clone(), password),
            user,
        })
    }

    /// How to connect to `server`; a statement may take `limit`.
    pub fn config(&self, server: &Server, limit: Duration) -> Config {
        let mut config = Config::new(
            Target::new(server.host.clone(), server.port),
            self.user.clone(),
            "postgres",
        );
        let options = format!(
            "-c search_path=pg_catalog -c statement_timeout={} -c synchronous_commit=local \
             -c lock_timeout=0 -c idle_in_transaction_session_timeout=0",
            limit.as_millis()
        );
        config.credential = self.credential.clone();
        config.tls = self.tls.clone();
        config.connect_timeout = self.timeout;
        config.keepalive = Some(Duration::from_secs(3));
        config.parameters = vec![
            ("application_name".to_owned(), APPLICATION_NAME.to_owned()),
            ("options".to_owned(), options),
        ];
        config
    }

    /// How long connecting, or one probe, may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

fn tls(config: &PoolConfig, secrets: &Secrets) -> Result<ClientTls, LoginError> {
    let mode = match config.server_tls.mode {
        ServerTlsMode::Disable => SslMode::Disable,
        ServerTlsMode::Prefer => SslMode::Prefer,
        ServerTlsMode::Require => SslMode::Require,
        ServerTlsMode::VerifyCa => SslMode::VerifyCa,
        ServerTlsMode::VerifyFull => SslMode::VerifyFull,
    };
    let key = |name: &str, key: &str| {
        secrets
            .get(name, key)
            .ok_or_else(|| LoginError::Secret(format!("Secret {name:?} has no key {key:?}")))
    };
    let ca = config
        .server_tls
        .ca_secret
        .as_ref()
        .map(|KeyRef { name, key: k }| key(name, k))
        .transpose()?;
    let pair = config.server_tls.client_cert_secret.as_ref();
    let identity = pair
        .map(|pair| {
            Ok::<_, LoginError>(Identity {
                chain_pem: key(&pair.name, &pair.cert_key)?.as_bytes(),
                key_pem: key(&pair.name, &pair.private_key)?.as_bytes(),
            })
        })
        .transpose()?;
    Ok(ClientTls::new(mode, ca.map(str::as_bytes), identity)?)
}

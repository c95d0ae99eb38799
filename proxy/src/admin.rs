//! Our own connections to servers: look-ups and probes.
//!
//! They log in with a Secret of the manifest, never with anything of a client, and pin what a server or a database owner could
//! use to make them run something else: `search_path` above all (CVE-2018-1058 and its kind).

use std::time::Duration;

use pgnet::client::{Config, ConnectError, Connection, Credential, Error, establish};
use pgnet::fields::ErrorFields;

use crate::plane::Server;

/// The database they connect to: it is there unless somebody took it away, and roles are the same in all.
const DATABASE: &str = "postgres";
/// For the session: see the module.
const OPTIONS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off -c statement_timeout=5s \
     -c idle_in_transaction_session_timeout=10s -c client_min_messages=warning";

/// As whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its proof.
    pub credential: Credential,
}

/// Rows as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The server said so, to a statement: the connection is still good.
    #[error("{}: {}", .0.code.as_str(), .0.message)]
    Server(Box<ErrorFields>),
    /// There is no connection (any more).
    #[error("{0}")]
    Lost(String),
}

/// One connection of our own.
pub struct Admin(Connection);

impl Admin {
    /// Connects and pins.
    ///
    /// # Errors
    /// Those of the connection, the server's own among them.
    pub async fn connect(
        server: &Server,
        login: &Login,
        application: &str,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let mut config = Config::new(server.target.clone(), &login.user, DATABASE);
        config.credential = login.credential.clone();
        config.tls = server.tls.as_ref().clone();
        config.connect_timeout = timeout;
        config.parameters = vec![
            ("application_name".into(), application.into()),
            ("options".into(), OPTIONS.into()),
            ("client_encoding".into(), "UTF8".into()),
        ];
        let established = establish(&config).await?;
        Ok(Self(Connection::from_established(
            established,
            config.target,
            config.tls,
        )))
    }

    /// The rows of one statement. Not cancel safe: drop the connection too.
    ///
    /// # Errors
    /// [`AdminError::Lost`]: connect again.
    pub async fn rows(&mut self, sql: &str, parameters: &[&str]) -> Result<Rows, AdminError> {
        let parameters: Vec<Option<&str>> = parameters.iter().copied().map(Some).collect();
        let result = self
            .0
            .query_params(sql, &parameters)
            .await
            .map_err(|error| match error {
                Error::Db(fields) => AdminError::Server(fields),
                fatal => AdminError::Lost(fatal.to_string()),
            })?;
        let texts = |row: &pgnet::client::Row| {
            (0..row.len())
                .map(|column| row.get(column).map(str::to_owned))
                .collect()
        };
        Ok(result.rows().iter().map(texts).collect())
    }
}

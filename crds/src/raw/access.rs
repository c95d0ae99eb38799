//! Who may log in, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, KeySecretRef, LoginSecretRef, TlsSecretRef};
use crate::{ClientTlsMode, TlsVersion};

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Auth {
    /// Lines in the form of pg_hba.conf; the first match wins. Methods: trust, reject, scram-sha-256, md5, password
    /// (TLS only), cert.
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub hba: Vec<String>,
    /// Secrets with users, asked first: of type kubernetes.io/basic-auth (username, password) or a map from user to
    /// password, SCRAM verifier or md5 hash.
    #[schemars(length(max = 64))]
    pub user_secret_refs: Vec<LoginSecretRef>,
    /// Ask the master for verifiers (by the function of sql/). Needs adminSecretRef or proxyAdminSecretRef.
    pub auth_query: bool,
    /// How long an answer of the master is good. 0s to 24h.
    pub cache_for: DurationText,
}

impl Default for Auth {
    fn default() -> Self {
        let default = crate::Auth::default();
        Self {
            hba: default.hba,
            user_secret_refs: Vec::new(),
            auth_query: default.auth_query,
            cache_for: default.cache_for.into(),
        }
    }
}

/// TLS towards clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// disable, allow (offered when there is a certificate) or require.
    pub mode: ClientTlsMode,
    /// Our certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<TlsSecretRef>,
    /// The authorities of client certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_secret_ref: Option<KeySecretRef>,
    /// The oldest version of TLS: "1.2" or "1.3".
    pub min_version: TlsVersion,
}

/// Clients to whom timeouts.clientIdle does not apply. All that is given must match; at least one must be given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IdleExemption {
    /// This user.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// This database.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// This application_name.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_name: Option<String>,
    /// From this network or address: 10.0.0.0/8.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

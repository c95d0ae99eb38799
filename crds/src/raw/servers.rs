//! Servers and the Secrets that open them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ServerTlsMode;

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct Server {
    /// Its name here, in status, and in synchronous_standby_names: a-z, 0-9 and -, at most 40. Required.
    #[schemars(
        required,
        length(min = 1, max = 40),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The pod it runs in. Exactly one of podName and host (a file has no pods: there host is required).
    #[schemars(length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Where it is: a name, IPv4, IPv6 or a folder (Unix socket).
    #[schemars(length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// 0 to 100; 0 = never promoted. Decides only between equally new candidates.
    #[schemars(range(min = 0, max = 100))]
    pub failover_priority: i64,
    /// Its availability zone. Default: topology.kubernetes.io/zone of the node.
    #[schemars(length(max = 63))]
    pub zone: String,
    /// Share of the reads, 0 to 1000. Listed twice: the weights add (and the addresses must agree). Of replicas only.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

impl Default for Server {
    fn default() -> Self {
        let crate::ServerConfig {
            failover_priority,
            zone,
            ..
        } = crate::ServerConfig::host("", "", 5432);
        Self {
            name: None,
            pod_name: None,
            host: None,
            port: 5432,
            failover_priority: failover_priority.into(),
            zone,
            weight: None,
        }
    }
}

/// A Secret with a login: user and password, or a key `uri`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct LoginSecretRef {
    /// Name of the Secret. Required.
    #[schemars(required, length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Key of the user.
    #[schemars(length(min = 1, max = 253))]
    pub username_key: String,
    /// Key of the password.
    #[schemars(length(min = 1, max = 253))]
    pub password_key: String,
}

impl Default for LoginSecretRef {
    fn default() -> Self {
        let crate::SecretRef {
            username_key,
            password_key,
            ..
        } = crate::SecretRef::new("");
        Self {
            name: None,
            username_key,
            password_key,
        }
    }
}

/// A key of a Secret: certificate authorities in PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct KeySecretRef {
    /// Name of the Secret. Required.
    #[schemars(required, length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Key of the authorities.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl Default for KeySecretRef {
    fn default() -> Self {
        Self {
            name: None,
            key: "ca.crt".to_owned(),
        }
    }
}

/// A Secret of type kubernetes.io/tls: a certificate chain and its private key in PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct TlsSecretRef {
    /// Name of the Secret. Required.
    #[schemars(required, length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Key of the chain.
    #[schemars(length(min = 1, max = 253))]
    pub cert_key: String,
    /// Key of the private key.
    #[schemars(length(min = 1, max = 253))]
    pub private_key: String,
}

impl Default for TlsSecretRef {
    fn default() -> Self {
        Self {
            name: None,
            cert_key: "tls.crt".to_owned(),
            private_key: "tls.key".to_owned(),
        }
    }
}

/// TLS towards the servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTls {
    /// As libpq's sslmode: disable, prefer, require, verify-ca, verify-full.
    pub mode: ServerTlsMode,
    /// The authorities that are trusted. Absent: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<KeySecretRef>,
    /// Our own certificate, for servers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<TlsSecretRef>,
}

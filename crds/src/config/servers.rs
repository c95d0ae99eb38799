//! The servers of a pool, how to log in to them, and the Secrets that say so.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name, IPv4, IPv6 or a folder (Unix socket), and the port.
    Host {
        /// Name, address or folder.
        host: String,
        /// Port, also part of the name of a Unix socket.
        port: u16,
    },
    /// A pod (Kubernetes only) and the port.
    Pod {
        /// Name of the pod.
        name: String,
        /// Port.
        port: u16,
    },
}

impl Address {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Host { port, .. } | Self::Pod { port, .. } => *port,
        }
    }
}

impl fmt::Display for Address {
    /// `host:port`, `[v6]:port`, `/folder:port` or `pod/name:port`. What `MasterStatus::address` holds for hosts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } if host.contains(':') && !host.starts_with('/') => {
                write!(f, "[{host}]:{port}")
            }
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Pod { name, port } => write!(f, "pod/{name}:{port}"),
        }
    }
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Unique name; also its application_name in `primary_conninfo` and in `synchronous_standby_names`.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// 0 = never promoted; decides only between equally new candidates. Default 50.
    pub failover_priority: u8,
    /// Availability zone; empty: that of the pod's node.
    pub zone: String,
    /// Share of the reads. Default 100. In [`crate::PoolConfig::master`] it is 0 and means nothing.
    pub weight: u32,
}

impl ServerConfig {
    /// A server by host with the defaults: priority 50, weight 100.
    pub fn host(name: impl Into<String>, host: impl Into<String>, port: u16) -> Self {
        let address = Address::Host {
            host: host.into(),
            port,
        };
        Self {
            name: name.into(),
            address,
            failover_priority: 50,
            zone: String::new(),
            weight: 100,
        }
    }

    /// The name of its replication slot: `pgp_<name>` with `-` as `_`. Names are checked to stay unique so.
    pub fn slot(&self) -> String {
        format!("pgp_{}", self.name.replace('-', "_"))
    }
}

/// A Secret that holds a login.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: String,
    /// Key of the user. Default `username`.
    pub username_key: String,
    /// Key of the password. Default `password`. A key `uri` is understood too.
    pub password_key: String,
}

impl SecretRef {
    /// A reference with the usual keys.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            username_key: "username".to_owned(),
            password_key: "password".to_owned(),
        }
    }
}

/// One key of a Secret: a certificate authority in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Key in it. Default `ca.crt`.
    pub key: String,
}

/// A Secret of type `kubernetes.io/tls`: a certificate chain and its private key in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PairRef {
    /// Name of the Secret.
    pub name: String,
    /// Key of the chain. Default `tls.crt`.
    pub cert_key: String,
    /// Key of the private key. Default `tls.key`.
    pub private_key: String,
}

/// TLS towards the servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// As libpq's `sslmode`.
    pub mode: ServerTlsMode,
    /// The authorities that `verify-ca` and `verify-full` trust; `None`: those of the system.
    pub ca_secret: Option<KeyRef>,
    /// Our own certificate, for servers that ask for one.
    pub client_cert_secret: Option<PairRef>,
}

/// As libpq's `sslmode`, without `allow`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServerTlsMode {
    /// Never.
    Disable,
    /// TLS where the server offers it.
    #[default]
    Prefer,
    /// TLS or nothing; the certificate is not looked at (with a CA: as `verify-ca`).
    Require,
    /// The certificate must come from the CA.
    VerifyCa,
    /// As `verify-ca`, and it must be for this host.
    VerifyFull,
}

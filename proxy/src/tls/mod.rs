//! Certificates of the manifest's Secrets, for both directions.
//!
//! A value is built anew only when what it is made of has changed: connections, pools and probes that compare it by
//! its address then do not see a change where there is none. A certificate that cannot be used leaves the last good one
//! in force.

use std::sync::Arc;

use cluster::Secrets;
use crds::{ClientFacingTls, ClientTlsMode, KeyRef, PairRef, ServerTls as ServerTlsConfig, ServerTlsMode};
use pgnet::tls::{ClientTls, Identity, ServerTls, SslMode, TlsError};

/// Why TLS cannot be set up as the manifest says.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A Secret, or a key of it, is missing.
    #[error("Secret {secret:?} has no key {key:?}")]
    Missing {
        /// The field that names it.
        field: &'static str,
        /// Its name.
        secret: String,
        /// The key.
        key: String,
    },
    /// What it holds cannot be used.
    #[error("unusable certificate, key or authority")]
    Unusable {
        /// The field that names it.
        field: &'static str,
        /// Why.
        #[source]
        cause: TlsError,
    },
}

impl SetupError {
    /// The field of the manifest.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Missing { field, .. } | Self::Unusable { field, .. } => field,
        }
    }
}

/// What a value is made of.
#[derive(Clone, PartialEq, Eq)]
struct Parts {
    mode: SslMode,
    newest_only: bool,
    ca: Option<String>,
    pair: Option<(String, String)>,
}

/// The last good values, and what they are made of.
#[derive(Default)]
pub struct Certificates {
    to_servers: Option<(Parts, Arc<ClientTls>)>,
    to_clients: Option<(Parts, ServerTls)>,
}

impl Certificates {
    /// TLS towards the servers.
    ///
    /// # Errors
    /// [`SetupError`]; what was in force before is still given by [`Certificates::last_to_servers`].
    pub fn to_servers(
        &mut self,
        config: &ServerTlsConfig,
        secrets: &Secrets,
    ) -> Result<Arc<ClientTls>, SetupError> {
        let field = "spec.serverTls";
        let parts = Parts {
            mode: match config.mode {
                ServerTlsMode::Disable => SslMode::Disable,
                ServerTlsMode::Prefer => SslMode::Prefer,
                ServerTlsMode::Require => SslMode::Require,
                ServerTlsMode::VerifyCa => SslMode::VerifyCa,
                ServerTlsMode::VerifyFull => SslMode::VerifyFull,
            },
            newest_only: false,
            ca: config
                .ca_secret
                .as_ref()
                .map(|of| ca(field, of, secrets))
                .transpose()?,
            pair: config
                .client_cert_secret
                .as_ref()
                .map(|of| pair(field, of, secrets))
                .transpose()?,
        };
        if let Some((old, value)) = &self.to_servers
            && *old == parts
        {
            return Ok(Arc::clone(value));
        }
        let identity = parts.pair.as_ref().map(identity);
        let built = ClientTls::new(parts.mode, parts.ca.as_deref().map(str::as_bytes), identity);
        let value = Arc::new(built.map_err(|cause| SetupError::Unusable { field, cause })?);
        self.to_servers = Some((parts, Arc::clone(&value)));
        Ok(value)
    }

    /// TLS towards clients; `None`: none is spoken.
    ///
    /// # Errors
    /// [`SetupError`]; what was in force before is still given by [`Certificates::last_to_clients`].
    pub fn to_clients(
        &mut self,
        config: &ClientFacingTls,
        secrets: &Secrets,
    ) -> Result<Option<ServerTls>, SetupError> {
        let field = "spec.tls";
        let (Some(own), true) = (&config.cert_secret, config.mode != ClientTlsMode::Disable) else {
            self.to_clients = None;
            return Ok(None);
        };
        let own = pair(field, own, secrets)?;
        let parts = Parts {
            mode: SslMode::Prefer,
            newest_only: config.min_version == crds::TlsVersion::V1_3,
            ca: config
                .client_ca_secret
                .as_ref()
                .map(|of| ca(field, of, secrets))
                .transpose()?,
            pair: Some(own.clone()),
        };
        if let Some((old, value)) = &self.to_clients
            && *old == parts
        {
            return Ok(Some(value.clone()));
        }
        let oldest = if parts.newest_only {
            pgnet::tls::TlsVersion::V1_3
        } else {
            pgnet::tls::TlsVersion::V1_2
        };
        let built = ServerTls::with_oldest(identity(&own), parts.ca.as_deref().map(str::as_bytes), oldest);
        let value = built.map_err(|cause| SetupError::Unusable { field, cause })?;
        self.to_clients = Some((parts, value.clone()));
        Ok(Some(value))
    }

    /// What was good last.
    pub fn last_to_servers(&self) -> Option<Arc<ClientTls>> {
        self.to_servers.as_ref().map(|(_, value)| Arc::clone(value))
    }

    /// What was good last.
    pub fn last_to_clients(&self) -> Option<ServerTls> {
        self.to_clients.as_ref().map(|(_, value)| value.clone())
    }
}

fn identity((chain, key): &(String, String)) -> Identity<'_> {
    Identity {
        chain_pem: chain.as_bytes(),
        key_pem: key.as_bytes(),
    }
}

fn ca(field: &'static str, of: &KeyRef, secrets: &Secrets) -> Result<String, SetupError> {
    value(field, &of.name, &of.key, secrets)
}

fn pair(field: &'static str, of: &PairRef, secrets: &Secrets) -> Result<(String, String), SetupError> {
    Ok((
        value(field, &of.name, &of.cert_key, secrets)?,
        value(field, &of.name, &of.private_key, secrets)?,
    ))
}

fn value(field: &'static str, secret: &str, key: &str, secrets: &Secrets) -> Result<String, SetupError> {
    let missing = || SetupError::Missing {
        field,
        secret: secret.to_owned(),
        key: key.to_owned(),
    };
    secrets.get(secret, key).map(str::to_owned).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn secrets(pair: &(String, String)) -> Secrets {
        let mut secrets = Secrets::default();
        let values = [
            ("tls.crt".to_owned(), pair.0.clone()),
            ("tls.key".to_owned(), pair.1.clone()),
        ];
        secrets.insert("tls", "kubernetes.io/tls", values);
        secrets
    }

    fn config() -> ClientFacingTls {
        let cert_secret = Some(PairRef {
            name: "tls".into(),
            cert_key: "tls.crt".into(),
            private_key: "tls.key".into(),
        });
        ClientFacingTls {
            cert_secret,
            ..ClientFacingTls::default()
        }
    }

    #[test]
    fn a_value_changes_only_when_its_parts_do() {
        let mut certificates = Certificates::default();
        let first = certificates
            .to_servers(&ServerTlsConfig::default(), &Secrets::default())
            .unwrap();
        let second = certificates
            .to_servers(&ServerTlsConfig::default(), &Secrets::default())
            .unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let other = ServerTlsConfig {
            mode: ServerTlsMode::Require,
            ..ServerTlsConfig::default()
        };
        assert!(!Arc::ptr_eq(
            &first,
            &certificates.to_servers(&other, &Secrets::default()).unwrap()
        ));
    }

    #[test]
    fn a_bad_certificate_leaves_the_good_one_in_force() {
        let mut certificates = Certificates::default();
        assert!(
            certificates
                .to_clients(&ClientFacingTls::default(), &Secrets::default())
                .unwrap()
                .is_none()
        );
        let good = certificate();
        assert!(
            certificates
                .to_clients(&config(), &secrets(&good))
                .unwrap()
                .is_some()
        );
        let other_key = (good.0.clone(), certificate().1);
        assert!(certificates.to_clients(&config(), &secrets(&other_key)).is_err());
        assert!(
            certificates
                .to_clients(&config(), &secrets(&("x".into(), "y".into())))
                .is_err()
        );
        let missing = certificates
            .to_clients(&config(), &Secrets::default())
            .err()
            .unwrap();
        assert_eq!(missing.to_string(), "Secret \"tls\" has no key \"tls.crt\"");
        assert!(certificates.last_to_clients().is_some());
    }
}

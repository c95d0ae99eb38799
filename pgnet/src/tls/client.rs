//! TLS towards servers: the meaning of `sslmode`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ALPN, TlsError, certificates, private_key, provider};
use crate::stream::Stream;

/// How much TLS a connection to a server must have; libpq's `sslmode`. None of them means anything on a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only where the server wants it.
    Allow,
    /// Where the server can.
    #[default]
    Prefer,
    /// Always, whoever the server is (with a CA given: as `verify-ca`).
    Require,
    /// Always, and the certificate is from our CA.
    VerifyCa,
    /// Always, the certificate is from our CA and for this host.
    VerifyFull,
}

impl SslMode {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Disable, "disable"),
        (Self::Allow, "allow"),
        (Self::Prefer, "prefer"),
        (Self::Require, "require"),
        (Self::VerifyCa, "verify-ca"),
        (Self::VerifyFull, "verify-full"),
    ];

    /// As libpq writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(mode, _)| *mode == self)
            .map_or("", |(_, name)| name)
    }

    /// Whether a connection without TLS is refused.
    #[must_use]
    pub fn is_mandatory(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(mode, _)| *mode)
            .ok_or_else(|| "expected disable, allow, prefer, require, verify-ca or verify-full".to_owned())
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A certificate of our own with its key, both as PEM.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate, then those that sign it.
    pub chain_pem: &'a [u8],
    /// The private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key_pem: &'a [u8],
}

impl fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// TLS towards a server. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    mode: SslMode,
    config: Option<Arc<ClientConfig>>,
    direct: bool,
}

impl ClientTls {
    /// No TLS at all.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            mode: SslMode::Disable,
            config: None,
            direct: false,
        }
    }

    /// TLS of this mode. `ca_pem` holds the certificates to trust; a server certificate that is itself among them is believed too.
    /// `identity` is shown to servers that ask for one.
    ///
    /// # Errors
    /// [`TlsError`] for PEM without a usable certificate or key, and for a verifying mode without a CA.
    pub fn new(
        mode: SslMode,
        ca_pem: Option<&[u8]>,
        identity: Option<Identity<'_>>,
    ) -> Result<Self, TlsError> {
        if mode == SslMode::Disable {
            return Ok(Self::disabled());
        }
        let provider = provider();
        let trust = match (mode, ca_pem) {
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => return Err(TlsError::NoCa(mode)),
            (SslMode::Require | SslMode::VerifyCa, Some(pem)) => Trust::Chain(Anchors::read(pem)?),
            (SslMode::VerifyFull, Some(pem)) => Trust::ChainAndName(Anchors::read(pem)?),
            (SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require, _) => Trust::Anybody,
        };
        let verifier = Arc::new(Verifier {
            trust,
            provider: Arc::clone(&provider),
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::config)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(
                    certificates(identity.chain_pem, "certificate")?,
                    private_key(identity.key_pem)?,
                )
                .map_err(TlsError::config)?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            mode,
            config: Some(Arc::new(config)),
            direct: false,
        })
    }

    /// Starts TLS without asking first (`sslnegotiation=direct`, PostgreSQL 17): one round trip less. Only for mandatory modes.
    #[must_use]
    pub fn direct(mut self) -> Self {
        self.direct = self.mode.is_mandatory();
        self
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// The handshake, on a socket from which nothing has been read beyond the server's consent.
    pub(crate) async fn handshake(&self, host: &str, socket: TcpStream) -> Result<Stream, TlsError> {
        let config = self.config.clone().ok_or(TlsError::NotOffered(self.mode))?;
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if self.mode == SslMode::VerifyFull => return Err(TlsError::HostName),
            // Not looked at in the other modes; an address keeps it out of the handshake.
            Err(_) => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4]))),
        };
        let stream = TlsConnector::from(config)
            .connect(name, socket)
            .await
            .map_err(TlsError::Handshake)?;
        if self.direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::Alpn);
        }
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self::disabled()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({})", self.mode)
    }
}

#[derive(Debug)]
struct Anchors {
    roots: RootCertStore,
    /// The same as given: OpenSSL, and with it libpq, believes a certificate that is itself in the file.
    pinned: Vec<CertificateDer<'static>>,
}

impl Anchors {
    fn read(pem: &[u8]) -> Result<Self, TlsError> {
        let pinned = certificates(pem, "CA certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(pinned.iter().cloned());
        Ok(Self { roots, pinned })
    }
}

/// Whom we believe.
#[derive(Debug)]
enum Trust {
    Anybody,
    Chain(Anchors),
    ChainAndName(Anchors),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (anchors, by_name) = match &self.trust {
            Trust::Anybody => return Ok(ServerCertVerified::assertion()),
            Trust::Chain(anchors) => (anchors, false),
            Trust::ChainAndName(anchors) => (anchors, true),
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &anchors.roots,
            intermediates,
            now,
            algorithms,
        ) {
            Ok(()) => {}
            // A self-signed CA certificate used by the server itself. Its dates were looked at before this error arose.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if anchors.pinned.contains(end_entity) => {}
            Err(error) => return Err(error),
        }
        if by_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

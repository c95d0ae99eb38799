//! TLS towards clients.

use std::fmt;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{ALPN, Identity, TlsError, certificates, end_point_hash, private_key, provider};
use crate::stream::Stream;

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// 1.2, the oldest there is here.
    #[default]
    V1_2,
    /// 1.3.
    V1_3,
}

static NEWEST: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl TlsVersion {
    fn and_newer(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        match self {
            Self::V1_2 => rustls::ALL_VERSIONS,
            Self::V1_3 => NEWEST,
        }
    }
}

/// Our certificate and whom we ask for one. Cheap to clone; a changed certificate is a new value.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

impl ServerTls {
    /// With this certificate. Where `client_ca_pem` is given, clients are asked for a certificate and one they show must be from it;
    /// to insist that they show one is the business of the rules for logging in.
    ///
    /// # Errors
    /// [`TlsError`] for PEM without a usable certificate or key, and for a key of another certificate.
    pub fn new(identity: Identity<'_>, client_ca_pem: Option<&[u8]>) -> Result<Self, TlsError> {
        Self::with_oldest(identity, client_ca_pem, TlsVersion::V1_2)
    }

    /// The same, and clients that speak nothing newer than what comes before `oldest` are turned away.
    ///
    /// # Errors
    /// As [`ServerTls::new`].
    pub fn with_oldest(
        identity: Identity<'_>,
        client_ca_pem: Option<&[u8]>,
        oldest: TlsVersion,
    ) -> Result<Self, TlsError> {
        let provider = provider();
        let chain = certificates(identity.chain_pem, "certificate")?;
        let end_point = chain.first().and_then(|cert| end_point_hash(cert)).map(Arc::from);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(oldest.and_newer())
            .map_err(TlsError::config)?;
        let builder = match client_ca_pem {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(pem, "CA certificate")?);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(TlsError::config)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, private_key(identity.key_pem)?)
            .map_err(TlsError::config)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            end_point,
        })
    }

    /// The handshake after our `S`. `buffered` is what was read from the client beyond its request for TLS: it must be nothing.
    ///
    /// # Errors
    /// [`TlsError::Early`] where the client (or somebody between) sent bytes ahead of the handshake: close at once.
    pub async fn accept(&self, socket: TcpStream, buffered: &[u8]) -> Result<Stream, TlsError> {
        if !buffered.is_empty() {
            return Err(TlsError::Early);
        }
        let stream = TlsAcceptor::from(Arc::clone(&self.config))
            .accept(socket)
            .await
            .map_err(TlsError::Handshake)?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// The handshake of a client that started TLS without asking: the first byte of its connection, which must still be in the
    /// socket (see [`starts_tls`](Self::starts_tls)), was [`TLS_HANDSHAKE`](crate::startup::TLS_HANDSHAKE).
    ///
    /// # Errors
    /// [`TlsError::Alpn`] where it did not name the protocol, as PostgreSQL demands (so that no web browser can be made to speak to
    /// a database).
    pub async fn accept_direct(&self, socket: TcpStream) -> Result<Stream, TlsError> {
        let stream = self.accept(socket, b"").await?;
        let named = matches!(&stream, Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN));
        if named { Ok(stream) } else { Err(TlsError::Alpn) }
    }

    /// Waits for the first byte of a connection without taking it: does the client start TLS directly? Cancel safe.
    ///
    /// # Errors
    /// Those of the socket; a client that closes at once is `UnexpectedEof`.
    pub async fn starts_tls(socket: &TcpStream) -> std::io::Result<bool> {
        let mut first = [0];
        match socket.peek(&mut first).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first == [crate::startup::TLS_HANDSHAKE]),
        }
    }

    /// What channel binding binds to: the `tls-server-end-point` hash of our certificate, where it has one.
    #[must_use]
    pub fn end_point(&self) -> Option<Vec<u8>> {
        self.end_point.as_deref().map(<[u8]>::to_vec)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls(..)")
    }
}

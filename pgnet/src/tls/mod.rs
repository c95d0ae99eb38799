//! TLS by rustls, for both roles, from PEM bytes.
//!
//! Owns the meaning of libpq's `sslmode` ([`SslMode`], [`ClientTls`]), the acceptor for clients ([`ServerTls`]) and what is read out
//! of certificates (in `der`). It opens no socket and reads no file: certificates come as bytes, so that whoever reads them can
//! notice when they change and simply build a new value.

mod client;
mod der;
mod server;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use client::{ClientTls, Identity, SslMode};
pub use der::{common_name, end_point_hash};
pub use server::{ServerTls, TlsVersion};

/// The ALPN name of the protocol, mandatory where a client starts TLS without asking (`sslnegotiation=direct`).
pub const ALPN: &[u8] = b"postgresql";

/// What is wrong with certificates, or with a handshake.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM text of this thing has nothing in it, or something else.
    #[error("no usable {what} in the PEM text")]
    Pem {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        cause: Option<rustls::pki_types::pem::Error>,
    },
    /// The certificates do not go together.
    #[error("unusable TLS configuration")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A mode that verifies needs a CA.
    #[error("sslmode {0} needs a CA certificate")]
    NoCa(SslMode),
    /// The mode asks for TLS and the server has none.
    #[error("the server does not support TLS, but sslmode is {0}")]
    NotOffered(SslMode),
    /// Bytes came before the handshake that pretend to have come through it: somebody is between (CVE-2021-23222 and its kind).
    #[error("unencrypted data before the TLS handshake")]
    Early,
    /// A direct start without the ALPN name.
    #[error("TLS was started directly without the ALPN name postgresql")]
    Alpn,
    /// The handshake failed; a certificate that was not believed is here too.
    #[error("TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    /// Not a host name that a certificate could be for.
    #[error("the host name cannot be verified")]
    HostName,
}

impl TlsError {
    fn config(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Config(cause.into())
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match list {
        Ok(list) if list.is_empty() => Err(TlsError::Pem { what, cause: None }),
        Ok(list) => Ok(list),
        Err(cause) => Err(TlsError::Pem {
            what,
            cause: Some(cause),
        }),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|cause| TlsError::Pem {
        what: "private key",
        cause: Some(cause),
    })
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::stream::Stream;

struct Pem {
    chain: String,
    key: String,
}

impl Pem {
    fn identity(&self) -> Identity<'_> {
        Identity {
            chain_pem: self.chain.as_bytes(),
            key_pem: self.key.as_bytes(),
        }
    }
}

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, host: &str, common_name: &str) -> Pem {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        Pem {
            chain: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn self_signed_ca() -> Pem {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Pem {
        chain: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

async fn shake(
    client: &ClientTls,
    server: &ServerTls,
    host: &str,
) -> (Result<Stream, TlsError>, Result<Stream, TlsError>) {
    let (near, far) = pair().await;
    tokio::join!(client.handshake(host, near), server.accept(far, b""))
}

#[tokio::test]
async fn each_mode_believes_whom_libpq_would() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = ServerTls::new(ca.sign("localhost", "server").identity(), None).unwrap();
    let itself = self_signed_ca();
    let own = ServerTls::new(itself.identity(), None).unwrap();
    use SslMode::{Allow, Prefer, Require, VerifyCa, VerifyFull};
    let table = [
        (Allow, None, "localhost", &server, true),
        (Prefer, Some(&other), "localhost", &server, true),
        (Require, None, "elsewhere", &server, true),
        (Require, Some(&ca), "elsewhere", &server, true),
        (Require, Some(&other), "localhost", &server, false),
        (VerifyCa, Some(&ca), "elsewhere", &server, true),
        (VerifyCa, Some(&other), "localhost", &server, false),
        (VerifyFull, Some(&ca), "localhost", &server, true),
        (VerifyFull, Some(&ca), "elsewhere", &server, false),
        (VerifyFull, Some(&other), "localhost", &server, false),
    ];
    for (mode, trusted, host, server, expected) in table {
        let pem = trusted.map(Ca::pem);
        let client = ClientTls::new(mode, pem.as_deref().map(str::as_bytes), None).unwrap();
        let (near, _) = shake(&client, server, host).await;
        assert_eq!(near.is_ok(), expected, "{mode} {host} {:?}", near.err());
    }
    for (mode, host, expected) in [
        (VerifyCa, "x", true),
        (VerifyFull, "localhost", true),
        (VerifyFull, "x", false),
    ] {
        let client = ClientTls::new(mode, Some(itself.chain.as_bytes()), None).unwrap();
        let (near, _) = shake(&client, &own, host).await;
        assert_eq!(
            near.is_ok(),
            expected,
            "a self-signed CA certificate, {mode} {host} {:?}",
            near.err()
        );
    }
}

#[tokio::test]
async fn a_client_certificate_is_seen_and_its_common_name_read() {
    let ca = Ca::new();
    let pem = ca.sign("localhost", "joe");
    let server = ServerTls::new(
        ca.sign("localhost", "server").identity(),
        Some(ca.pem().as_bytes()),
    )
    .unwrap();
    let client = ClientTls::new(
        SslMode::VerifyFull,
        Some(ca.pem().as_bytes()),
        Some(pem.identity()),
    )
    .unwrap();
    let (near, far) = shake(&client, &server, "localhost").await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(far.peer_common_name().as_deref(), Some("joe"));
    assert_eq!(near.peer_common_name().as_deref(), Some("server"));
    assert_eq!(near.peer_end_point(), server.end_point());
    assert!(near.is_tls() && near.tls_info().unwrap().contains("TLSv1_3"));

    let (_, far) = shake(
        &ClientTls::new(SslMode::Require, None, None).unwrap(),
        &server,
        "localhost",
    )
    .await;
    assert!(
        far.unwrap().peer_certificate().is_none(),
        "none shown is allowed here"
    );

    let stranger = Ca::new().sign("localhost", "joe");
    let client = ClientTls::new(SslMode::Require, None, Some(stranger.identity())).unwrap();
    assert!(shake(&client, &server, "localhost").await.1.is_err());
}

/// CVE-2021-3935, CVE-2021-43766, CVE-2021-23214: plaintext sent ahead of the handshake is taken as if it came through TLS.
#[tokio::test]
async fn cve_2021_3935_bytes_ahead_of_the_handshake_are_refused() {
    let server = ServerTls::new(Ca::new().sign("localhost", "s").identity(), None).unwrap();
    let (_near, far) = pair().await;
    assert!(matches!(
        server.accept(far, b"\0\0\0\x08").await,
        Err(TlsError::Early)
    ));
}

#[tokio::test]
async fn a_direct_start_must_name_the_protocol() {
    let ca = Ca::new();
    let server = ServerTls::new(ca.sign("localhost", "s").identity(), None).unwrap();
    let client = ClientTls::new(SslMode::Require, None, None).unwrap().direct();
    let (near, far) = pair().await;
    let serve = async {
        assert!(ServerTls::starts_tls(&far).await.unwrap());
        server.accept_direct(far).await
    };
    let (near, far) = tokio::join!(client.handshake("localhost", near), serve);
    assert!(near.is_ok() && far.is_ok());

    let anonymous = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates({
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(certificates(ca.pem().as_bytes(), "CA").unwrap());
            roots
        })
        .with_no_client_auth();
    let (near, far) = pair().await;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(anonymous));
    let (_, far) = tokio::join!(
        connector.connect("localhost".try_into().unwrap(), near),
        server.accept_direct(far)
    );
    assert!(matches!(far, Err(TlsError::Alpn)));
}

#[tokio::test]
async fn an_idle_stream_can_be_read_without_a_buffer_of_its_own() {
    use tokio::io::AsyncWriteExt;
    let server = ServerTls::new(Ca::new().sign("localhost", "s").identity(), None).unwrap();
    let client = ClientTls::new(SslMode::Require, None, None).unwrap();
    let (near, far) = shake(&client, &server, "localhost").await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    let mut buf = bytes::BytesMut::with_capacity(64);
    let nothing = far.try_read_buf(&mut buf).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    near.write_all(b"hello").await.unwrap();
    near.flush().await.unwrap();
    while buf.len() < 5 {
        far.readable().await.unwrap();
        match far.try_read_buf(&mut buf) {
            Ok(n) => assert_ne!(n, 0),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!(&buf[..], b"hello");
    near.shutdown().await.unwrap();
    let end = loop {
        far.readable().await.unwrap();
        match far.try_read_buf(&mut buf) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            result => break result,
        }
    };
    assert_eq!(end.unwrap(), 0);
}

#[test]
fn bad_pem_is_an_error_and_never_a_silent_downgrade() {
    let ca = Ca::new();
    let good = ca.sign("localhost", "s");
    let other = ca.sign("localhost", "s");
    assert!(matches!(
        ClientTls::new(SslMode::VerifyFull, None, None),
        Err(TlsError::NoCa(SslMode::VerifyFull))
    ));
    assert!(matches!(
        ClientTls::new(SslMode::Require, Some(b""), None),
        Err(TlsError::Pem { .. })
    ));
    assert!(ClientTls::new(SslMode::Require, Some(b"-----BEGIN CERTIFICATE-----\n!\n"), None).is_err());
    let mixed = Identity {
        chain_pem: good.chain.as_bytes(),
        key_pem: other.key.as_bytes(),
    };
    assert!(
        ServerTls::new(mixed, None).is_err(),
        "the key of another certificate"
    );
    let keyless = Identity {
        chain_pem: good.chain.as_bytes(),
        key_pem: b"",
    };
    assert!(ServerTls::new(keyless, None).is_err());
}

#[test]
fn modes_are_spelt_as_libpq_spells_them() {
    for mode in [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ] {
        assert_eq!(mode.parse::<SslMode>().unwrap().to_string(), mode);
    }
    assert!("verify_full".parse::<SslMode>().is_err());
}

#[test]
fn the_end_point_hash_follows_the_signature() {
    let hash_len = |algorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let cert = CertificateParams::default().self_signed(&key).unwrap();
        end_point_hash(cert.der()).map(|hash| hash.len())
    };
    assert_eq!(hash_len(&rcgen::PKCS_ECDSA_P256_SHA256), Some(32));
    assert_eq!(hash_len(&rcgen::PKCS_ECDSA_P384_SHA384), Some(48));
    assert_eq!(hash_len(&rcgen::PKCS_ED25519), None, "no hash of its own");
}

#[test]
fn a_broken_certificate_gives_nothing_and_never_panics() {
    let pem = Ca::new().sign("localhost", "joe");
    let der = certificates(pem.chain.as_bytes(), "x")
        .unwrap()
        .remove(0)
        .to_vec();
    assert_eq!(common_name(&der).as_deref(), Some("joe"));
    for cut in 0..der.len() {
        assert_eq!(end_point_hash(&der[..cut]), None);
        assert_eq!(common_name(&der[..cut]), None);
    }
    for at in 0..der.len().min(300) {
        for value in [0, 0x80, 0x84, 0xff] {
            let mut bad = der.clone();
            bad[at] = value;
            let _ = (end_point_hash(&bad), common_name(&bad));
        }
    }
}

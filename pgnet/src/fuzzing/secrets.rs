//! Targets for what is read before anybody is trusted: SCRAM, verifiers, certificates.

use super::two;
use crate::auth::scram::{Client, ITERATIONS_MAX, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Server, Verifier};
use crate::frontend::SaslInitial;
use crate::tls;

/// The nonce of both sides, so that a fuzzer can get past it.
const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// The body of a client's first SASL message.
pub(super) fn sasl(data: &[u8]) {
    if let Ok(SaslInitial {
        mechanism,
        data: initial,
    }) = SaslInitial::decode(data)
    {
        assert!(mechanism.len() + initial.map_or(0, <[u8]>::len) < data.len());
    }
}

/// The two messages of a client, a line feed between them. Nobody gets in: the user does not exist.
pub(super) fn scram_server(data: &[u8]) {
    let (first, last) = two(data);
    for (mechanism, end_point) in [(SCRAM_SHA_256, None), (SCRAM_SHA_256_PLUS, Some(vec![0; 32]))] {
        let mut server = Server::mock("nobody", &[7; 32], end_point);
        if server.first_with(mechanism, first, NONCE).is_ok() {
            assert!(server.last(last).is_err());
        }
    }
}

/// The two messages of a server, a line feed between them. It does not know the verifier, so it is found out.
pub(super) fn scram_client(data: &[u8]) {
    let (challenge, last) = two(data);
    let Ok(client) = Client::from_password("secret") else {
        return;
    };
    let Ok(work) = client.with_nonce(NONCE).challenge(challenge) else {
        return;
    };
    assert!((1..=ITERATIONS_MAX).contains(&work.rounds()));
    if work.rounds() <= 16 {
        assert!(work.run().verify(last).is_err());
    }
}

/// What is read as a verifier is written as one.
pub(super) fn verifier(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(verifier) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(&verifier.to_string()), Ok(verifier));
    }
}

/// A certificate, which a hostile server chooses freely.
pub(super) fn certificate(data: &[u8]) {
    if let Some(hash) = tls::end_point_hash(data) {
        assert!(matches!(hash.len(), 32 | 48 | 64));
    }
    if let Some(name) = tls::common_name(data) {
        assert!(name.len() <= data.len() && !name.contains('\0'));
    }
}

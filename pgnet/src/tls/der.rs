//! The two things we read out of a certificate: the hash that channel binding stands on, and the subject's common name.
//!
//! A walk over tags and lengths that never allocates by one and never goes deeper than a certificate is; signatures and validity
//! are rustls's business.

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const EXPLICIT_0: u8 = 0xa0;

/// One element: its tag, what is in it, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                bytes.iter().fold(0usize, |len, b| len << 8 | usize::from(*b)),
                rest,
            )
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// The element if it has this tag.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der)
        .filter(|(found, ..)| *found == tag)
        .map(|(_, content, rest)| (content, rest))
}

/// The `tls-server-end-point` hash of a certificate (RFC 5929): its bytes through the hash of its signature, SHA-256 in place of MD5
/// and SHA-1. `None` where the signature has no hash of its own (Ed25519): such a server offers no channel binding.
#[must_use]
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (certificate_body, _) = expect(certificate, SEQUENCE)?;
    let (_, after_tbs) = expect(certificate_body, SEQUENCE)?;
    let (algorithm, _) = expect(after_tbs, SEQUENCE)?;
    let (oid, parameters) = expect(algorithm, OID)?;
    let hash = match oid {
        // rsassaPss: the hash stands in the parameters; left out it is SHA-1.
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a" => pss_hash(parameters)?,
        // rsaEncryption with md5, sha1, sha224, sha256, sha384, sha512.
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04" | b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05" => Hash::Sha256,
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b" => Hash::Sha256,
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c" => Hash::Sha384,
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d" => Hash::Sha512,
        // ecdsa with sha1, sha256, sha384, sha512.
        b"\x2a\x86\x48\xce\x3d\x04\x01" | b"\x2a\x86\x48\xce\x3d\x04\x03\x02" => Hash::Sha256,
        b"\x2a\x86\x48\xce\x3d\x04\x03\x03" => Hash::Sha384,
        b"\x2a\x86\x48\xce\x3d\x04\x03\x04" => Hash::Sha512,
        _ => return None,
    };
    Some(match hash {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (parameters, _) = expect(parameters, SEQUENCE)?;
    let Some((explicit, _)) = expect(parameters, EXPLICIT_0) else {
        return Some(Hash::Sha256);
    };
    let (algorithm, _) = expect(explicit, SEQUENCE)?;
    match expect(algorithm, OID)?.0 {
        b"\x2b\x0e\x03\x02\x1a" | b"\x60\x86\x48\x01\x65\x03\x04\x02\x01" => Some(Hash::Sha256),
        b"\x60\x86\x48\x01\x65\x03\x04\x02\x02" => Some(Hash::Sha384),
        b"\x60\x86\x48\x01\x65\x03\x04\x02\x03" => Some(Hash::Sha512),
        _ => None,
    }
}

/// The subject's common name, which the method `cert` compares with the user. The last one where there are several, as PostgreSQL
/// takes it. `None` where there is none, it is not text, or it has a zero byte (CVE-2009-4034: a name that looks shorter than it is).
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (certificate_body, _) = expect(certificate, SEQUENCE)?;
    let (mut tbs, _) = expect(certificate_body, SEQUENCE)?;
    if let Some((_, rest)) = expect(tbs, EXPLICIT_0) {
        tbs = rest;
    }
    // serial, signature, issuer, validity, then the subject.
    for _ in 0..4 {
        tbs = element(tbs)?.2;
    }
    let (mut names, _) = expect(tbs, SEQUENCE)?;
    let mut found = None;
    while let Some((mut set, rest)) = expect(names, SET) {
        names = rest;
        while let Some((pair, more)) = expect(set, SEQUENCE) {
            set = more;
            let (oid, value) = expect(pair, OID)?;
            if oid == b"\x55\x04\x03" {
                found = Some(text(value)?);
            }
        }
    }
    found
}

/// UTF8String, PrintableString, TeletexString and IA5String, as far as they are UTF-8.
fn text(value: &[u8]) -> Option<String> {
    let (tag, bytes, _) = element(value)?;
    let text = std::str::from_utf8(bytes).ok()?;
    (matches!(tag, 0x0c | 0x13 | 0x14 | 0x16) && !text.contains('\0')).then(|| text.to_owned())
}

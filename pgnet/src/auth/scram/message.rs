//! The parts of SCRAM messages: attributes, base64, the header about channel binding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{NONCE_MAX, ScramError};

pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode(text: &str, what: &'static str) -> Result<Vec<u8>, ScramError> {
    STANDARD.decode(text).map_err(|_| ScramError::Malformed(what))
}

/// SCRAM messages are text; what is not UTF-8, or has a zero byte, is none.
pub(super) fn text(bytes: &[u8]) -> Result<&str, ScramError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(ScramError::Malformed("not a text")),
    }
}

/// Takes the attribute `name=` off the front of `rest`; it ends at a comma or at the end.
pub(super) fn attribute<'a>(
    rest: &mut &'a str,
    name: char,
    what: &'static str,
) -> Result<&'a str, ScramError> {
    let value = rest
        .strip_prefix(name)
        .and_then(|r| r.strip_prefix('='))
        .ok_or(ScramError::Malformed(what))?;
    let (value, tail) = value.split_once(',').unwrap_or((value, ""));
    *rest = tail;
    Ok(value)
}

/// A nonce is printable ASCII without a comma, not empty and not endless.
pub(super) fn check_nonce(nonce: &str) -> Result<&str, ScramError> {
    if nonce.is_empty() || nonce.len() > NONCE_MAX {
        return Err(ScramError::Malformed("length of the nonce"));
    }
    if !nonce.bytes().all(|b| b.is_ascii_graphic() && b != b',') {
        return Err(ScramError::Malformed("characters of the nonce"));
    }
    Ok(nonce)
}

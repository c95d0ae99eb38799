//! The packets without a type that open a connection: startup, TLS and GSS requests, cancel requests.
//!
//! Owns their bytes in both directions and the protocol versions. What a version or a parameter leads to is decided elsewhere.
//! Begin at [`decode`].

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{DecodeError, Reader, put_cstr, unnamed};

const CANCEL: u32 = 1234 << 16 | 5678;
const SSL: u32 = 1234 << 16 | 5679;
const GSSENC: u32 = 1234 << 16 | 5680;

/// The first byte of a TLS handshake record: a client that begins with it wants TLS at once (`sslnegotiation=direct`).
pub const TLS_HANDSHAKE: u8 = 0x16;

/// The shortest and the longest secret of a cancel request (four bytes before protocol 3.2).
pub const CANCEL_KEY_LEN: std::ops::RangeInclusive<usize> = 4..=256;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// 3 for everything since 2003.
    pub major: u16,
    /// 0, or 2 since PostgreSQL 18; 1 was never used. 9999 is sent by clients that test for tolerance.
    pub minor: u16,
}

impl ProtocolVersion {
    /// 3.0.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// 3.2, of PostgreSQL 18: cancel keys of up to 256 bytes.
    pub const V3_2: Self = Self { major: 3, minor: 2 };

    /// From the word on the wire.
    #[must_use]
    pub const fn from_u32(word: u32) -> Self {
        Self {
            major: (word >> 16) as u16,
            minor: word as u16,
        }
    }

    /// The word on the wire.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        (self.major as u32) << 16 | self.minor as u32
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a client wants when it opens a connection.
#[derive(Clone, PartialEq, Eq)]
pub enum Startup {
    /// To log in.
    Startup {
        /// The version it asks for.
        version: ProtocolVersion,
        /// All of them in the order sent, with `user`, `database`, `options`, `replication` and `_pq_.*`. Where a name comes
        /// twice PostgreSQL takes the last. Empty for a major version other than 3, whose form is not known.
        parameters: Vec<(String, String)>,
    },
    /// To speak TLS: answer one byte, `S` or `N`.
    Ssl,
    /// To speak GSSAPI encryption: answer one byte, `G` or `N`.
    GssEnc,
    /// To cancel what runs on another connection: no answer, close.
    Cancel {
        /// The process id that connection was told.
        process_id: i32,
        /// The secret that connection was told, [`CANCEL_KEY_LEN`] bytes.
        key: Bytes,
    },
}

impl fmt::Debug for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Startup { version, parameters } => f
                .debug_struct("Startup")
                .field("version", version)
                .field("parameters", parameters)
                .finish(),
            Self::Ssl => f.write_str("Ssl"),
            Self::GssEnc => f.write_str("GssEnc"),
            Self::Cancel { process_id, .. } => write!(f, "Cancel({process_id})"),
        }
    }
}

/// Reads one whole packet, length word included (as long as [`crate::frame::peek_startup`] says).
///
/// # Errors
/// [`DecodeError`] for a packet of another length than its word says, a list of parameters without its end, a cancel key of an
/// impossible length, or text that is not UTF-8 (PostgreSQL would compare its bytes; names that differ must not become equal).
pub fn decode(packet: &[u8]) -> Result<Startup, DecodeError> {
    let mut reader = Reader(packet);
    let len = reader.u32()? as usize;
    if len > packet.len() {
        return Err(DecodeError::Truncated);
    }
    if len < packet.len() {
        return Err(DecodeError::Trailing(packet.len() - len));
    }
    match reader.u32()? {
        SSL => reader.end().map(|()| Startup::Ssl),
        GSSENC => reader.end().map(|()| Startup::GssEnc),
        CANCEL => {
            let process_id = reader.i32()?;
            let key = reader.rest();
            if !CANCEL_KEY_LEN.contains(&key.len()) {
                return Err(DecodeError::Impossible("length of a cancel key"));
            }
            Ok(Startup::Cancel {
                process_id,
                key: Bytes::copy_from_slice(key),
            })
        }
        word => {
            let version = ProtocolVersion::from_u32(word);
            let parameters = if version.major == 3 {
                parameters(reader)?
            } else {
                Vec::new()
            };
            Ok(Startup::Startup { version, parameters })
        }
    }
}

fn parameters(mut reader: Reader<'_>) -> Result<Vec<(String, String)>, DecodeError> {
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| DecodeError::Impossible("text in a startup packet"))
    };
    let mut parameters = Vec::new();
    loop {
        let name = reader.cstr()?;
        if name.is_empty() {
            reader.end()?;
            return Ok(parameters);
        }
        parameters.push((text(name)?, text(reader.cstr()?)?));
    }
}

/// Appends a startup packet.
pub fn startup<N: AsRef<str>, V: AsRef<str>>(
    buf: &mut BytesMut,
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (N, V)>,
) {
    unnamed(buf, |buf| {
        buf.put_u32(version.to_u32());
        for (name, value) in parameters {
            put_cstr(buf, name.as_ref().as_bytes());
            put_cstr(buf, value.as_ref().as_bytes());
        }
        buf.put_u8(0);
    });
}

/// Appends a request for TLS.
pub fn ssl_request(buf: &mut BytesMut) {
    unnamed(buf, |buf| buf.put_u32(SSL));
}

/// Appends a request for GSSAPI encryption.
pub fn gssenc_request(buf: &mut BytesMut) {
    unnamed(buf, |buf| buf.put_u32(GSSENC));
}

/// Appends a cancel request. A key of an impossible length is what the peer will refuse.
pub fn cancel_request(buf: &mut BytesMut, process_id: i32, key: &[u8]) {
    unnamed(buf, |buf| {
        buf.put_u32(CANCEL);
        buf.put_i32(process_id);
        buf.put_slice(key);
    });
}

#[cfg(test)]
mod tests;

//! Where a message begins and ends.
//!
//! Owns the length words and their limits. It never consumes, copies or allocates, so a hostile length costs nothing; what the
//! body means is the business of [`crate::frontend`], [`crate::backend`] and [`crate::startup`].

/// The longest startup packet, as `MAX_STARTUP_PACKET_LENGTH` in the server's `libpq/pqcomm.h`; it does not count the length word.
pub const STARTUP_MAX: u32 = 10_000;

/// The longest frame PostgreSQL itself accepts (`PQ_LARGE_MESSAGE_LIMIT`, one gigabyte less one).
pub const FRAME_MAX: u32 = 0x3fff_ffff;

/// The longest message a client may send before it is authenticated (`PG_MAX_AUTH_TOKEN_LENGTH` of the server).
pub const AUTH_MAX: u32 = 65_535;

/// How long the part of a frame before its body is: the type and the length word.
pub const HEADER: usize = 5;

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type of the message.
    pub tag: u8,
    /// Length in bytes; counts itself, not the tag.
    pub len: u32,
}

impl Header {
    /// The whole frame in bytes, tag included.
    #[must_use]
    pub fn total(&self) -> usize {
        1 + self.len as usize
    }

    /// The body in bytes, without tag and length word.
    #[must_use]
    pub fn body(&self) -> usize {
        (self.len as usize).saturating_sub(4)
    }
}

/// The stream is out of step for good: answer 08P01 and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that does not even count its own word (or, of a startup packet, its code).
    #[error("invalid length {len} of message type {tag:#04x}")]
    TooShort {
        /// The type, 0 for a startup packet.
        tag: u8,
        /// The length as written.
        len: u32,
    },
    /// A length over the limit; 54000 may be the kinder answer for a query.
    #[error("message of type {tag:#04x} has {len} bytes, over the limit of {limit}")]
    TooLong {
        /// The type, 0 for a startup packet.
        tag: u8,
        /// The length as written.
        len: u32,
        /// The limit that was asked for.
        limit: u32,
    },
}

/// Reads the first bytes of a frame and consumes nothing. `None`: fewer than five bytes are here, read more.
///
/// `limit` is the largest length word to accept. The body need not be here yet.
///
/// # Errors
/// [`FrameError`] when the length is below 4 or over `limit`.
#[inline]
pub fn peek(buffered: &[u8], limit: u32) -> Result<Option<Header>, FrameError> {
    let Some((&[tag, a, b, c, d], _)) = buffered.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]);
    if len < 4 {
        return Err(FrameError::TooShort { tag, len });
    }
    if len > limit {
        return Err(FrameError::TooLong { tag, len, limit });
    }
    Ok(Some(Header { tag, len }))
}

/// Reads the length word of a startup packet, which has no type, and consumes nothing. The result is the length of the whole
/// packet, length word included. `None`: fewer than four bytes are here, read more.
///
/// # Errors
/// [`FrameError`] when the packet has no room for its code (8 bytes), or more than [`STARTUP_MAX`] after the length word.
pub fn peek_startup(buffered: &[u8]) -> Result<Option<u32>, FrameError> {
    let Some((word, _)) = buffered.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*word);
    let limit = STARTUP_MAX + 4;
    if len < 8 {
        return Err(FrameError::TooShort { tag: 0, len });
    }
    if len > limit {
        return Err(FrameError::TooLong { tag: 0, len, limit });
    }
    Ok(Some(len))
}

/// A whole frame, without its length word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type of the message.
    pub tag: u8,
    /// What it carries.
    pub body: &'a [u8],
}

/// Splits the first whole frame off and gives it with what follows. `None`: it is not all here.
///
/// # Errors
/// As [`peek`].
pub fn split(buffered: &[u8], limit: u32) -> Result<Option<(Frame<'_>, &[u8])>, FrameError> {
    let Some(header) = peek(buffered, limit)? else {
        return Ok(None);
    };
    Ok(buffered.split_at_checked(header.total()).map(|(frame, rest)| {
        (
            Frame {
                tag: header.tag,
                body: &frame[HEADER..],
            },
            rest,
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Peeked = Result<Option<u32>, ()>;

    #[test]
    fn a_length_is_refused_before_its_body_is_here() {
        let table: [(&[u8], Peeked); 8] = [
            (b"", Ok(None)),
            (b"Q\0\0\0", Ok(None)),
            (b"Q\0\0\0\x04", Ok(Some(4))),
            (b"Q\0\0\0\x64", Ok(Some(100))),
            (b"Q\0\0\0\x65", Err(())),
            (b"Q\0\0\0\x03", Err(())),
            (b"p\xff\xff\xff\xfe", Err(())),
            (b"p\x7f\xff\xff\xff", Err(())),
        ];
        for (bytes, expected) in table {
            let got = peek(bytes, 100)
                .map(|header| header.map(|h| h.len))
                .map_err(|_| ());
            assert_eq!(got, expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_startup_packet_has_the_servers_limits() {
        let table: [(&[u8], Peeked); 6] = [
            (b"\0\0\0", Ok(None)),
            (b"\0\0\0\x07", Err(())),
            (b"\0\0\0\x08", Ok(Some(8))),
            (b"\0\0\x27\x14", Ok(Some(10_004))),
            (b"\0\0\x27\x15", Err(())),
            (b"GET / HTTP", Err(())),
        ];
        for (bytes, expected) in table {
            assert_eq!(peek_startup(bytes).map_err(|_| ()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn total_counts_the_tag() {
        let header = Header { tag: b'S', len: 4 };
        assert_eq!((header.total(), header.body()), (5, 0));
        assert_eq!(
            split(b"S\0\0\0\x04rest", 10),
            Ok(Some((Frame { tag: b'S', body: b"" }, &b"rest"[..])))
        );
        assert_eq!(split(b"Q\0\0\0\x06a", 10), Ok(None));
    }
}

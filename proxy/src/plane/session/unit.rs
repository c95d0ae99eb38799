//! Taking a client's bytes apart into units: what makes the server answer and is here completely.

use std::ffi::{CStr, FromBytesWithNulError};

use pgnet::fields::{ErrorFields, Severity};
use pgnet::frame::{self, FrameError};
use pgnet::sqlstate::SqlState;

/// Larger requests are not held: they go through a lease as they come.
pub(super) const HOLD_MAX: usize = 256 * 1024;
/// Longest frame a client may send at all; what each message may have is checked where it is read.
const FRAME_MAX: u32 = 0x3fff_ffff;

/// Longest message of those that carry no data: the server's own limit (`PQ_SMALL_MESSAGE_LIMIT` in `libpq/libpq.h`).
pub(super) const SMALL_MAX: usize = 10_000;

/// Messages the server limits to [`SMALL_MAX`].
pub(super) fn is_small(tag: u8) -> bool {
    matches!(tag, b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f')
}

/// The text of a Query's body, or what the server says where its zero byte is missing or not the last.
pub(super) fn query_text(body: &[u8]) -> Result<&[u8], Box<ErrorFields>> {
    let wrong = |text: &str| {
        Box::new(ErrorFields::new(
            Severity::Error,
            SqlState::PROTOCOL_VIOLATION,
            text,
        ))
    };
    match CStr::from_bytes_with_nul(body) {
        Ok(text) => Ok(text.to_bytes()),
        Err(FromBytesWithNulError::InteriorNul { .. }) => Err(wrong("invalid message format")),
        Err(FromBytesWithNulError::NotNulTerminated) => Err(wrong("invalid string in message")),
    }
}

/// What stands first in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A simple Query, complete.
    Query { total: usize },
    /// Messages of the extended protocol up to and with their Sync.
    Batch { total: usize },
    /// Something that needs a worker for itself from its first byte: Flush before Sync, a function call, what is too large to hold.
    Stream,
    /// Goodbye.
    Terminate,
    /// CopyData and the like outside COPY: the server would drop it too.
    Stray { total: usize },
    /// A Query, Parse, Bind or FunctionCall over `limits.maxQuerySize`.
    TooLarge { tag: u8, total: usize },
}

/// Where the search for a batch's end goes on when more bytes have come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    offset: usize,
}

/// A message type no client may send here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitError {
    /// Out of step for good.
    #[error("invalid frontend message type {0}")]
    Tag(u8),
    /// A length no message can have.
    #[error("invalid message length")]
    Length,
}

impl From<FrameError> for UnitError {
    fn from(_: FrameError) -> Self {
        Self::Length
    }
}

impl Scan {
    /// The unit at the front of `input`; `None`: read more.
    pub(super) fn next(&mut self, input: &[u8], query_max: usize) -> Result<Option<Unit>, UnitError> {
        loop {
            let rest = &input[self.offset..];
            let Some(header) = frame::peek(rest, FRAME_MAX)? else {
                return Ok(self.held(input.len()));
            };
            let total = header.total();
            let first = self.offset == 0;
            let known = matches!(
                header.tag,
                b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' | b'F' | b'X' | b'd' | b'c' | b'f'
            );
            if !known {
                return Err(UnitError::Tag(header.tag));
            }
            if matches!(header.tag, b'Q' | b'P' | b'B' | b'F') && total > query_max {
                return Ok(Some(if first {
                    Unit::TooLarge {
                        tag: header.tag,
                        total,
                    }
                } else {
                    // What stands before it is answered first.
                    Unit::Stream
                }));
            }
            if is_small(header.tag) && total > SMALL_MAX {
                return Err(UnitError::Length);
            }
            if first && header.tag == b'X' {
                return Ok(Some(Unit::Terminate));
            }
            if matches!(header.tag, b'H' | b'F')
                || (!first && matches!(header.tag, b'Q' | b'X' | b'd' | b'c' | b'f'))
            {
                return Ok(Some(Unit::Stream));
            }
            if matches!(header.tag, b'd' | b'c' | b'f') {
                return Ok((rest.len() >= total || total > HOLD_MAX).then_some(Unit::Stray { total }));
            }
            if rest.len() < total {
                return Ok(if self.offset + total > HOLD_MAX {
                    Some(Unit::Stream)
                } else {
                    None
                });
            }
            if header.tag == b'Q' {
                return Ok(Some(Unit::Query { total }));
            }
            self.offset += total;
            if header.tag == b'S' {
                return Ok(Some(Unit::Batch { total: self.offset }));
            }
        }
    }

    fn held(&self, length: usize) -> Option<Unit> {
        (length > HOLD_MAX).then_some(Unit::Stream)
    }

    /// The unit was taken: the next one starts at the front again.
    pub(super) fn taken(&mut self) {
        self.offset = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pgnet::frontend;

    fn bytes(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut out);
        out
    }

    #[test]
    fn a_batch_ends_with_its_sync_wherever_the_stream_is_cut() {
        let batch = bytes(|b| {
            frontend::parse(b, b"", b"select 1", &[]);
            frontend::bind(b, b"", b"", &[], &[], &[]);
            frontend::execute(b, b"", 0);
            frontend::sync(b);
        });
        let mut input = batch.clone();
        frontend::query(&mut input, b"select 2");
        for cut in 0..batch.len() {
            let mut scan = Scan::default();
            assert_eq!(scan.next(&input[..cut], 1 << 20), Ok(None), "cut at byte {cut}");
            assert_eq!(
                scan.next(&input, 1 << 20),
                Ok(Some(Unit::Batch { total: batch.len() })),
                "cut at byte {cut}"
            );
        }
    }

    #[test]
    fn flush_functions_and_large_requests_need_a_worker_for_themselves() {
        let flush = bytes(|b| {
            frontend::parse(b, b"", b"select 1", &[]);
            frontend::flush(b);
        });
        assert_eq!(Scan::default().next(&flush, 1 << 20), Ok(Some(Unit::Stream)));
        let large = bytes(|b| frontend::query(b, &vec![b' '; HOLD_MAX]));
        assert_eq!(
            Scan::default().next(&large[..100], 1 << 30),
            Ok(Some(Unit::Stream))
        );
    }

    #[test]
    fn a_query_over_the_limit_is_known_by_its_length_alone() {
        let large = bytes(|b| frontend::query(b, &[b' '; 2000]));
        assert_eq!(
            Scan::default().next(&large[..5], 1000),
            Ok(Some(Unit::TooLarge {
                tag: b'Q',
                total: large.len()
            }))
        );
    }

    #[test]
    fn a_parse_over_the_limit_behind_others_needs_a_worker_that_answers_them_first() {
        let batch = bytes(|b| {
            frontend::parse(b, b"", b"select 1", &[]);
            frontend::parse(b, b"", &[b' '; 2000], &[]);
        });
        assert_eq!(Scan::default().next(&batch, 1000), Ok(Some(Unit::Stream)));
    }

    #[test]
    fn what_no_client_may_send_is_an_error() {
        for tag in 0..=255u8 {
            let known = b"QPBDECSHFXdcf".contains(&tag);
            assert_eq!(
                Scan::default().next(&[tag, 0, 0, 0, 4], 1000).is_ok(),
                known,
                "{tag}"
            );
        }
        assert_eq!(
            Scan::default().next(&[b'Q', 0, 0, 0, 3], 1000),
            Err(UnitError::Length)
        );
    }
}

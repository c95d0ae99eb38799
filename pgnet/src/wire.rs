//! Reading and writing the parts that messages are made of. Private to the crate; all decoders stand on it.

use bytes::{BufMut, BytesMut};

/// Why the body of a message is not what its type promises: answer 08P01 and close, the peer does not speak the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A message type that does not exist in this direction.
    #[error("unknown message type {0:#04x}")]
    UnknownTag(u8),
    /// The body ends before the message does.
    #[error("the message ends too early")]
    Truncated,
    /// A string without its terminating zero byte.
    #[error("a string has no end")]
    Unterminated,
    /// Bytes are left after the last part of the message.
    #[error("{0} bytes too many in the message")]
    Trailing(usize),
    /// A value that no peer in its right mind sends; the text names it.
    #[error("impossible {0}")]
    Impossible(&'static str),
}

type Result<T> = std::result::Result<T, DecodeError>;

/// A cursor over the body of one message; never reads beyond it and never allocates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A string up to its zero byte, without it.
    pub(crate) fn cstr(&mut self) -> Result<&'a [u8]> {
        let text = std::ffi::CStr::from_bytes_until_nul(self.0)
            .map_err(|_| DecodeError::Unterminated)?
            .to_bytes();
        self.0 = self.0.get(text.len() + 1..).ok_or(DecodeError::Unterminated)?;
        Ok(text)
    }

    /// A value with its length word in front: -1 is NULL, anything else below zero is refused.
    pub(crate) fn value(&mut self) -> Result<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Ok(None),
            len => self
                .take(usize::try_from(len).map_err(|_| DecodeError::Impossible("length of a value"))?)
                .map(Some),
        }
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn end(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.0.len()))
        }
    }
}

/// Appends one frame: the type, room for the length, what `body` writes, then the length is put in its place.
#[inline]
pub(crate) fn framed(buf: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    buf.put_u8(tag);
    unnamed(buf, body);
}

/// The same without a type, as the startup packets have it.
#[inline]
pub(crate) fn unnamed(buf: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = buf.len();
    buf.put_u32(0);
    body(buf);
    // A body over 4 GiB has no length; the largest possible one makes the peer refuse the frame.
    let len = u32::try_from(buf.len() - at).unwrap_or(u32::MAX);
    if let Some(word) = buf.get_mut(at..at + 4) {
        word.copy_from_slice(&len.to_be_bytes());
    }
}

/// A string and its zero byte. A zero byte inside, which no string of the protocol can carry, is written as 0xFF: what follows
/// can then never be read as the next part of the message.
#[inline]
pub(crate) fn put_cstr(buf: &mut BytesMut, text: &[u8]) {
    if text.contains(&0) {
        buf.extend(text.iter().map(|b| if *b == 0 { 0xff } else { *b }));
    } else {
        buf.put_slice(text);
    }
    buf.put_u8(0);
}

#[inline]
pub(crate) fn put_value(buf: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => buf.put_i32(-1),
        Some(bytes) => {
            buf.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            buf.put_slice(bytes);
        }
    }
}

/// A count of two bytes. More than 65,535 parts cannot be said; the peer then finds bytes left over and refuses the message.
#[inline]
pub(crate) fn put_count(buf: &mut BytesMut, count: usize) {
    buf.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
}

#[inline]
pub(crate) fn put_formats(buf: &mut BytesMut, formats: &[i16]) {
    put_count(buf, formats.len());
    for format in formats {
        buf.put_i16(*format);
    }
}

/// Bytes that no log should show, such as a password: `Debug` says only how many there are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<'a>(pub &'a [u8]);

impl std::ops::Deref for Secret<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} bytes, not shown)", self.0.len())
    }
}

/// A list of two-byte words as it stands in a message (format codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats<'a>(&'a [[u8; 2]]);

impl<'a> Formats<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, count: usize) -> Result<Self> {
        Ok(Self(reader.take(count * 2)?.as_chunks().0))
    }

    /// The words in order; 0 is text and 1 is binary.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = i16> + 'a {
        self.0.iter().map(|word| i16::from_be_bytes(*word))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none, which means text for all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A list of four-byte words as it stands in a message (types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oids<'a>(&'a [[u8; 4]]);

impl<'a> Oids<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, count: usize) -> Result<Self> {
        Ok(Self(reader.take(count * 4)?.as_chunks().0))
    }

    /// The types in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.iter().map(|word| u32::from_be_bytes(*word))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A list of values with their length words, as it stands in a message; its shape was checked when it was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Values<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, count: usize) -> Result<Self> {
        let all = reader.0;
        for _ in 0..count {
            reader.value()?;
        }
        Ok(Self {
            count,
            bytes: &all[..all.len() - reader.0.len()],
        })
    }

    /// The values in order; `None` is NULL.
    pub fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut reader = Reader(self.bytes);
        (0..self.count).map_while(move |_| reader.value().ok())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

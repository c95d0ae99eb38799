//! What an ErrorResponse or NoticeResponse says.
//!
//! Owns the fields in both forms: [`Fields`], a view of the bytes, and [`ErrorFields`], the same owned. A missing or senseless
//! field is never an error: the peer may be broken or hostile, and its message is wanted all the same.

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::sqlstate::SqlState;
use crate::wire::{DecodeError, Reader, framed, put_cstr};

/// How bad it is: the field V, never translated. ERROR ends the statement, FATAL the connection, PANIC the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs, reason = "the words of the manual")]
pub enum Severity {
    #[default]
    Error,
    Fatal,
    Panic,
    Warning,
    Notice,
    Debug,
    Info,
    Log,
}

impl Severity {
    const ALL: [Self; 8] = [
        Self::Error,
        Self::Fatal,
        Self::Panic,
        Self::Warning,
        Self::Notice,
        Self::Debug,
        Self::Info,
        Self::Log,
    ];

    /// As it stands in the message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Log => "LOG",
        }
    }

    /// Whether the connection is over after it.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::Fatal | Self::Panic)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|severity| severity.as_str().as_bytes() == bytes)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The fields of an ErrorResponse or NoticeResponse as they stand in the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        loop {
            match reader.u8()? {
                0 => break,
                _ => reader.cstr()?,
            };
        }
        reader.end()?;
        Ok(Self(body))
    }

    /// Letter and value of each field, in the order of the message.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut reader = Reader(self.0);
        std::iter::from_fn(move || match reader.u8() {
            Ok(0) | Err(_) => None,
            Ok(letter) => reader.cstr().ok().map(|value| (letter, value)),
        })
    }

    /// The value of the field with this letter.
    #[must_use]
    pub fn field(&self, letter: u8) -> Option<&'a [u8]> {
        self.iter().find(|(l, _)| *l == letter).map(|(_, value)| value)
    }

    /// The code; `XX000` where the message has none.
    #[must_use]
    pub fn code(&self) -> SqlState {
        SqlState::from_bytes(self.field(b'C').unwrap_or_default())
    }

    /// The severity: the field V, or S where a server before 9.6 has no V, or ERROR where neither is known.
    #[must_use]
    pub fn severity(&self) -> Severity {
        [b'V', b'S']
            .into_iter()
            .find_map(|l| self.field(l).and_then(Severity::from_bytes))
            .unwrap_or_default()
    }

    /// An owned copy.
    #[must_use]
    pub fn to_owned(&self) -> ErrorFields {
        let mut fields = ErrorFields::new(self.severity(), self.code(), "");
        for (letter, value) in self.iter() {
            let text = || String::from_utf8_lossy(value).into_owned();
            match letter {
                b'S' => fields.severity = text(),
                b'M' => fields.message = text(),
                _ => {
                    if let Some(slot) = fields.slot(letter) {
                        *slot = Some(text());
                    }
                }
            }
        }
        fields
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

/// An error or a notice with all its fields (PC-08). Text that is not UTF-8 has its bad bytes replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    /// S: the severity in the language of the server.
    pub severity: String,
    /// V: the severity, never translated.
    pub severity_nonlocalized: Severity,
    /// C: the code.
    pub code: SqlState,
    /// M: one line for a human.
    pub message: String,
    /// D: more about it.
    pub detail: Option<String>,
    /// H: what to do about it.
    pub hint: Option<String>,
    /// P: where in the query, in characters from 1.
    pub position: Option<String>,
    /// p: where in the internal query.
    pub internal_position: Option<String>,
    /// q: the internal query.
    pub internal_query: Option<String>,
    /// W: the call stack.
    pub context: Option<String>,
    /// s: schema of what it is about.
    pub schema: Option<String>,
    /// t: table of what it is about.
    pub table: Option<String>,
    /// c: column of what it is about.
    pub column: Option<String>,
    /// d: data type of what it is about.
    pub data_type: Option<String>,
    /// n: constraint that was broken.
    pub constraint: Option<String>,
    /// F: source file.
    pub file: Option<String>,
    /// L: line in it.
    pub line: Option<String>,
    /// R: function in it.
    pub routine: Option<String>,
}

impl ErrorFields {
    /// The three fields that must be there; the rest is empty.
    #[must_use]
    pub fn new(severity: Severity, code: SqlState, message: impl Into<String>) -> Self {
        Self {
            severity: severity.as_str().to_owned(),
            severity_nonlocalized: severity,
            code,
            message: message.into(),
            ..Self::default()
        }
    }

    /// With a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Reads the body of an ErrorResponse or NoticeResponse. Unknown fields are passed over; a missing code is `XX000`.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is not a list of fields at all.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Fields::read(body).map(|fields| fields.to_owned())
    }

    /// Whether the connection is over after it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.severity_nonlocalized.is_fatal()
    }

    /// Appends it as an ErrorResponse.
    pub fn encode_error(&self, buf: &mut BytesMut) {
        framed(buf, b'E', |buf| self.encode_fields(buf));
    }

    /// Appends it as a NoticeResponse.
    pub fn encode_notice(&self, buf: &mut BytesMut) {
        framed(buf, b'N', |buf| self.encode_fields(buf));
    }

    fn encode_fields(&self, buf: &mut BytesMut) {
        let mut put = |letter: u8, text: &str| {
            buf.put_u8(letter);
            put_cstr(buf, text.as_bytes());
        };
        put(b'S', &self.severity);
        put(b'V', self.severity_nonlocalized.as_str());
        put(b'C', self.code.as_str());
        put(b'M', &self.message);
        let optional = [
            (b'D', &self.detail),
            (b'H', &self.hint),
            (b'P', &self.position),
            (b'p', &self.internal_position),
            (b'q', &self.internal_query),
            (b'W', &self.context),
            (b's', &self.schema),
            (b't', &self.table),
            (b'c', &self.column),
            (b'd', &self.data_type),
            (b'n', &self.constraint),
            (b'F', &self.file),
            (b'L', &self.line),
            (b'R', &self.routine),
        ];
        for (letter, text) in optional {
            if let Some(text) = text {
                put(letter, text);
            }
        }
        buf.put_u8(0);
    }

    fn slot(&mut self, letter: u8) -> Option<&mut Option<String>> {
        Some(match letter {
            b'D' => &mut self.detail,
            b'H' => &mut self.hint,
            b'P' => &mut self.position,
            b'p' => &mut self.internal_position,
            b'q' => &mut self.internal_query,
            b'W' => &mut self.context,
            b's' => &mut self.schema,
            b't' => &mut self.table,
            b'c' => &mut self.column,
            b'd' => &mut self.data_type,
            b'n' => &mut self.constraint,
            b'F' => &mut self.file,
            b'L' => &mut self.line,
            b'R' => &mut self.routine,
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorFields {
    /// One line: severity, code, message, and detail and hint where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.severity_nonlocalized, self.code, self.message
        )?;
        for (word, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(f, " ({word}: {text})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ErrorFields {}

#[cfg(test)]
mod tests;

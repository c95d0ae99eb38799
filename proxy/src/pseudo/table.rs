//! Rows of the admin database and how they look on the wire.

use std::time::Duration;

use bytes::BytesMut;
use pgnet::backend::{self, Field};

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `text`.
    Text,
    /// `bigint`.
    Number,
    /// `boolean`.
    Flag,
}

impl Kind {
    /// Its OID and size in `pg_type`.
    fn of_catalog(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Number => (20, 8),
            Self::Flag => (16, 1),
        }
    }
}

/// Name and type of a column.
pub(super) type Column = (&'static str, Kind);

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// `text`.
    Text(String),
    /// `bigint`.
    Number(i64),
    /// `boolean`.
    Flag(bool),
}

impl Value {
    fn encoded(&self, format: Format) -> Vec<u8> {
        match (self, format) {
            (Self::Text(text), _) => text.clone().into_bytes(),
            (Self::Number(number), Format::Text) => number.to_string().into_bytes(),
            (Self::Number(number), Format::Binary) => number.to_be_bytes().to_vec(),
            (Self::Flag(flag), Format::Text) => vec![if *flag { b't' } else { b'f' }],
            (Self::Flag(flag), Format::Binary) => vec![u8::from(*flag)],
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

/// In microseconds, whole.
impl From<Duration> for Value {
    fn from(duration: Duration) -> Self {
        Self::from(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

/// How a value is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// As text.
    Text,
    /// As the type's own bytes.
    Binary,
}

/// The formats a Bind asked for: none, one for all, or one a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Formats(Vec<i16>);

impl Formats {
    /// As in Bind. `None`: a format that does not exist, or not as many as columns.
    pub(super) fn new(formats: Vec<i16>, columns: usize) -> Option<Self> {
        let counted = formats.len() <= 1 || formats.len() == columns;
        (counted && formats.iter().all(|format| matches!(format, 0 | 1))).then_some(Self(formats))
    }

    fn of(&self, column: usize) -> Format {
        let format = if self.0.len() == 1 {
            self.0.first()
        } else {
            self.0.get(column)
        };
        if format == Some(&1) {
            Format::Binary
        } else {
            Format::Text
        }
    }
}

/// Appends the RowDescription.
pub(super) fn describe(buffer: &mut BytesMut, columns: &[Column], formats: &Formats) {
    let fields: Vec<Field<'_>> = columns
        .iter()
        .enumerate()
        .map(|(index, (name, kind))| {
            let (type_oid, type_size) = kind.of_catalog();
            Field {
                name: name.as_bytes(),
                table_oid: 0,
                column: 0,
                type_oid,
                type_size,
                type_modifier: -1,
                format: i16::from(formats.of(index) == Format::Binary),
            }
        })
        .collect();
    backend::row_description(buffer, &fields);
}

/// Appends one DataRow.
pub(super) fn row(buffer: &mut BytesMut, values: &[Value], formats: &Formats) {
    let encoded: Vec<Vec<u8>> = values
        .iter()
        .enumerate()
        .map(|(index, value)| value.encoded(formats.of(index)))
        .collect();
    let values: Vec<Option<&[u8]>> = encoded.iter().map(|value| Some(value.as_slice())).collect();
    backend::data_row(buffer, &values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_none_one_for_all_or_one_a_column() {
        assert_eq!(Formats::new(vec![], 3).map(|f| f.of(2)), Some(Format::Text));
        assert_eq!(Formats::new(vec![1], 3).map(|f| f.of(2)), Some(Format::Binary));
        assert_eq!(
            Formats::new(vec![0, 0, 1], 3).map(|f| f.of(2)),
            Some(Format::Binary)
        );
        assert_eq!(Formats::new(vec![0, 1], 3), None);
        assert_eq!(Formats::new(vec![2], 3), None);
    }

    #[test]
    fn values_have_both_formats() {
        assert_eq!(Value::from(5_u64).encoded(Format::Text), b"5");
        assert_eq!(
            Value::from(5_u64).encoded(Format::Binary),
            [0, 0, 0, 0, 0, 0, 0, 5]
        );
        assert_eq!(Value::from(true).encoded(Format::Text), b"t");
        assert_eq!(Value::from(true).encoded(Format::Binary), [1]);
        assert_eq!(Value::from(u64::MAX), Value::Number(i64::MAX));
        assert_eq!(Value::from(Duration::from_millis(2)), Value::Number(2000));
    }
}

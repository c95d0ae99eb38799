//! Values in text and binary (PC-14): the types our programs read. JSON is text; what to make of it is up to the caller.

/// A value that is not what was asked for. It never quotes the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No such column.
    #[error("no column {0}")]
    NoColumn(String),
    /// NULL where there must be a value.
    #[error("column {0} is null")]
    Null(String),
    /// Not UTF-8.
    #[error("the value is not text")]
    NotText,
    /// Not a value of this type.
    #[error("the value is no {0}")]
    NotA(&'static str),
}

/// A type that can be read from a value.
pub trait FromValue: Sized {
    /// From the text format.
    ///
    /// # Errors
    /// [`ValueError::NotA`].
    fn from_text(text: &str) -> Result<Self, ValueError>;

    /// From the binary format.
    ///
    /// # Errors
    /// [`ValueError::NotA`], also for types that are only read as text.
    fn from_binary(bytes: &[u8]) -> Result<Self, ValueError>;
}

macro_rules! numbers {
    ($($type:ty: $name:literal),*) => {$(
        impl FromValue for $type {
            fn from_text(text: &str) -> Result<Self, ValueError> {
                text.parse().map_err(|_| ValueError::NotA($name))
            }

            fn from_binary(bytes: &[u8]) -> Result<Self, ValueError> {
                bytes.try_into().map(Self::from_be_bytes).map_err(|_| ValueError::NotA($name))
            }
        }
    )*};
}

numbers!(i16: "int2", i32: "int4", i64: "int8", u32: "oid", u64: "xid8", f32: "float4", f64: "float8");

impl FromValue for bool {
    fn from_text(text: &str) -> Result<Self, ValueError> {
        match text {
            "t" | "true" | "on" => Ok(true),
            "f" | "false" | "off" => Ok(false),
            _ => Err(ValueError::NotA("bool")),
        }
    }

    fn from_binary(bytes: &[u8]) -> Result<Self, ValueError> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(ValueError::NotA("bool")),
        }
    }
}

impl FromValue for String {
    fn from_text(text: &str) -> Result<Self, ValueError> {
        Ok(text.to_owned())
    }

    fn from_binary(bytes: &[u8]) -> Result<Self, ValueError> {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| ValueError::NotText)
    }
}

/// The bytes of a `bytea`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ByteArray(pub Vec<u8>);

impl FromValue for ByteArray {
    /// From the hex form, which is the only one since PostgreSQL 9.0 unless `bytea_output` says otherwise.
    fn from_text(text: &str) -> Result<Self, ValueError> {
        let bad = ValueError::NotA("bytea");
        let digits = text.strip_prefix("\\x").ok_or_else(|| bad.clone())?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?))
            .collect();
        bytes.filter(|_| rest.is_empty()).map(Self).ok_or(bad)
    }

    fn from_binary(bytes: &[u8]) -> Result<Self, ValueError> {
        Ok(Self(bytes.to_vec()))
    }
}

/// A position in the write-ahead log (`pg_lsn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromValue for Lsn {
    fn from_text(text: &str) -> Result<Self, ValueError> {
        let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or(ValueError::NotA("pg_lsn"))
    }

    fn from_binary(bytes: &[u8]) -> Result<Self, ValueError> {
        u64::from_binary(bytes)
            .map(Self)
            .map_err(|_| ValueError::NotA("pg_lsn"))
    }
}

/// The elements of an array of one dimension; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Array<T>(pub Vec<Option<T>>);

impl<T: FromValue> FromValue for Array<T> {
    fn from_text(text: &str) -> Result<Self, ValueError> {
        elements(text)?
            .into_iter()
            .map(|element| element.map(|text| T::from_text(&text)).transpose())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn from_binary(bytes: &[u8]) -> Result<Self, ValueError> {
        let bad = ValueError::NotA("array of one dimension");
        let mut reader = crate::wire::Reader(bytes);
        let mut read = || -> Result<Vec<Option<&[u8]>>, crate::DecodeError> {
            let (dimensions, _nulls, _element) = (reader.u32()?, reader.u32()?, reader.u32()?);
            if dimensions == 0 {
                reader.end()?;
                return Ok(Vec::new());
            }
            let (count, _lower) = (reader.u32()?, reader.u32()?);
            // Collected as they come: no room is made for a count that may be a lie.
            let values = (0..count).map(|_| reader.value()).collect::<Result<_, _>>()?;
            reader.end()?;
            if dimensions == 1 {
                Ok(values)
            } else {
                Err(crate::DecodeError::Impossible("dimensions"))
            }
        };
        let values = read().map_err(|_| bad)?;
        values
            .into_iter()
            .map(|v| v.map(T::from_binary).transpose())
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Splits `{a,"b c",NULL}`.
fn elements(text: &str) -> Result<Vec<Option<String>>, ValueError> {
    let bad = || ValueError::NotA("array of one dimension");
    // Bounds other than from 1 stand in front: `[0:1]={...}`.
    let text = if text.starts_with('[') {
        text.split_once('=').ok_or_else(bad)?.1
    } else {
        text
    };
    let inner = text
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .ok_or_else(bad)?;
    let mut elements = Vec::new();
    let mut chars = inner.chars().peekable();
    if chars.peek().is_none() {
        return Ok(elements);
    }
    loop {
        let mut element = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        loop {
            match chars.next() {
                Some('\\') => element.push(chars.next().ok_or_else(bad)?),
                Some('"') if quoted => break,
                Some('"' | '{' | '}') if !quoted => return Err(bad()),
                Some(c) => element.push(c),
                None => return Err(bad()),
            }
            if !quoted && matches!(chars.peek(), None | Some(',')) {
                break;
            }
        }
        elements.push((quoted || element != "NULL").then_some(element));
        match chars.next() {
            None => return Ok(elements),
            Some(',') => {}
            Some(_) => return Err(bad()),
        }
    }
}

/// A range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range<T> {
    /// Nothing.
    Empty,
    /// From here to there; `None` is without end.
    Between {
        /// The lower bound and whether it belongs to the range.
        lower: Option<(T, bool)>,
        /// The upper bound and whether it belongs to the range.
        upper: Option<(T, bool)>,
    },
}

impl<T: FromValue> FromValue for Range<T> {
    fn from_text(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::NotA("range");
        if text == "empty" {
            return Ok(Self::Empty);
        }
        let closed_below = text.starts_with('[');
        let closed_above = text.ends_with(']');
        let inner = text
            .strip_prefix(['[', '('])
            .and_then(|t| t.strip_suffix([']', ')']))
            .ok_or_else(bad)?;
        let (lower, upper) = bounds(inner).ok_or_else(bad)?;
        let bound = |text: Option<String>, closed| {
            text.map(|text| T::from_text(&text).map(|value| (value, closed)))
                .transpose()
        };
        Ok(Self::Between {
            lower: bound(lower, closed_below)?,
            upper: bound(upper, closed_above)?,
        })
    }

    /// Flags: 1 empty, 2 lower inclusive, 4 upper inclusive, 8 no lower bound, 16 no upper bound.
    fn from_binary(bytes: &[u8]) -> Result<Self, ValueError> {
        let bad = |_| ValueError::NotA("range");
        let mut reader = crate::wire::Reader(bytes);
        let flags = reader.u8().map_err(bad)?;
        if flags & 1 != 0 {
            return Ok(Self::Empty);
        }
        let mut bound = |infinite: u8, closed: u8| {
            if flags & infinite != 0 {
                return Ok(None);
            }
            let bytes = reader.value().map_err(bad)?.ok_or(ValueError::NotA("range"))?;
            T::from_binary(bytes).map(|value| Some((value, flags & closed != 0)))
        };
        Ok(Self::Between {
            lower: bound(8, 2)?,
            upper: bound(16, 4)?,
        })
    }
}

type Bounds = (Option<String>, Option<String>);

/// Splits `a,"b"`; an empty one without quotes has no end.
fn bounds(inner: &str) -> Option<Bounds> {
    let mut found = Vec::new();
    let mut chars = inner.chars().peekable();
    loop {
        let (mut text, mut quoted, mut inside) = (String::new(), false, false);
        while let Some(c) = chars.next_if(|c| inside || *c != ',') {
            match c {
                '\\' => text.push(chars.next()?),
                '"' if inside && chars.next_if_eq(&'"').is_some() => text.push('"'),
                '"' => {
                    quoted = true;
                    inside = !inside;
                }
                c => text.push(c),
            }
        }
        found.push((quoted || !text.is_empty()).then_some(text));
        if inside {
            return None;
        }
        if chars.next().is_none() {
            break;
        }
    }
    let [lower, upper] = <[_; 2]>::try_from(found).ok()?;
    Some((lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_split_as_postgresql_writes_them() {
        let table: [(&str, Option<Vec<Option<&str>>>); 13] = [
            ("{}", Some(vec![])),
            ("{1,2}", Some(vec![Some("1"), Some("2")])),
            ("{NULL,\"NULL\"}", Some(vec![None, Some("NULL")])),
            (
                r#"{"a\"b","c\\d","e,f","{}"}"#,
                Some(vec![Some("a\"b"), Some("c\\d"), Some("e,f"), Some("{}")]),
            ),
            ("{\"\"}", Some(vec![Some("")])),
            ("[0:1]={a,b}", Some(vec![Some("a"), Some("b")])),
            ("{a", None),
            ("a}", None),
            ("{a,}", None),
            ("{{a},{b}}", None),
            ("{\"a}", None),
            ("{\"a\"b}", None),
            ("", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|v| v.into_iter().map(|e| e.map(str::to_owned)).collect());
            assert_eq!(
                Array::<String>::from_text(text).ok().map(|a| a.0),
                expected,
                "{text}"
            );
        }
        assert_eq!(
            Array::<i32>::from_text("{1,NULL}"),
            Ok(Array(vec![Some(1), None]))
        );
        assert!(Array::<i32>::from_text("{x}").is_err());
    }

    #[test]
    fn ranges_are_split_as_postgresql_writes_them() {
        let between = |lower, upper| Ok(Range::Between { lower, upper });
        let table = [
            ("empty", Ok(Range::Empty)),
            ("[1,5)", between(Some((1, true)), Some((5, false)))),
            ("(,5]", between(None, Some((5, true)))),
            ("(,)", between(None, None)),
            ("[\"1\",5)", between(Some((1, true)), Some((5, false)))),
            ("[1,5", Err(ValueError::NotA("range"))),
            ("[1)", Err(ValueError::NotA("range"))),
            ("[1,2,3)", Err(ValueError::NotA("range"))),
            ("[\"1,5)", Err(ValueError::NotA("range"))),
        ];
        for (text, expected) in table {
            assert_eq!(Range::<i32>::from_text(text), expected, "{text}");
        }
    }

    #[test]
    fn scalars_are_read_from_both_formats() {
        assert_eq!(i32::from_binary(&[0, 0, 1, 0]), Ok(256));
        assert!(i32::from_binary(&[0, 1]).is_err() && i32::from_text("1x").is_err());
        assert_eq!(
            (bool::from_text("t"), bool::from_binary(&[0])),
            (Ok(true), Ok(false))
        );
        assert_eq!(ByteArray::from_text("\\x00Ff"), Ok(ByteArray(vec![0, 255])));
        assert!(ByteArray::from_text("\\x0").is_err() && ByteArray::from_text("00").is_err());
        assert_eq!(
            Lsn::from_text("16/B374D848").map(|lsn| lsn.to_string()),
            Ok("16/B374D848".to_owned())
        );
        assert!(Lsn::from_text("16").is_err());
    }

    #[test]
    fn a_binary_array_with_a_false_count_costs_nothing() {
        let bytes = [
            0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1,
        ];
        assert!(Array::<i32>::from_binary(&bytes).is_err());
        assert_eq!(Array::<i32>::from_binary(&[0; 12]), Ok(Array(vec![])));
    }
}

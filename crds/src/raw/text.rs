//! Durations and sizes as text.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::units;

/// The form of a duration, for the schema.
pub const DURATION_PATTERN: &str = "^([0-9]+(ms|s|m|h|d))+$";

/// A duration as written: `500ms`, `30s`, `5m`, `24h`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

impl From<Duration> for DurationText {
    fn from(value: Duration) -> Self {
        Self(units::duration(value))
    }
}

impl From<Option<Duration>> for DurationText {
    /// `None` is never, written `0s`.
    fn from(value: Option<Duration>) -> Self {
        Self(units::duration(value.unwrap_or_default()))
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 32, "pattern": DURATION_PATTERN })
    }
}

/// A size as written: `64KiB`, `256MiB`, `1GiB`, or a plain number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SizeText {
    /// A plain number.
    Bytes(i64),
    /// Number and unit.
    Text(String),
}

impl From<u64> for SizeText {
    fn from(bytes: u64) -> Self {
        match i64::try_from(bytes) {
            Ok(0) => Self::Bytes(0),
            _ => Self::Text(units::size(bytes)),
        }
    }
}

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": "^[0-9]+(B|KiB|MiB|GiB|Ki|Mi|Gi)?$",
        })
    }
}

//! What is wrong with a manifest: every fault at once, each with its path.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::raw::{DurationText, SizeText};
use crate::units;

/// One thing that is wrong: where, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where: `spec.workers.max`, `spec.replicas[1].host`; empty for a whole file.
    pub path: String,
    /// What is wrong and what was expected, for a person.
    pub message: String,
    /// The file; empty: not known.
    pub source: String,
    /// Line in the file, from 1, where it is known.
    pub line: Option<u64>,
}

impl Fault {
    /// A fault whose place in a file is not known (yet).
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            source: String::new(),
            line: None,
        }
    }

    /// The same fault, found in this file.
    pub fn in_file(self, source: &str) -> Self {
        Self {
            source: source.to_owned(),
            ..self
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.source.as_str(), self.line) {
            ("", None) => {}
            ("", Some(line)) => write!(f, "line {line}: ")?,
            (source, None) => write!(f, "{source}: ")?,
            (source, Some(line)) => write!(f, "{source}:{line}: ")?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// No file is worth more lines of complaint than this.
pub(crate) const FAULTS_MAX: usize = 200;

/// Collects faults below a path, so that a reader of a manifest sees all of them in one go.
#[derive(Debug, Default)]
pub struct Faults {
    prefix: String,
    found: Vec<Fault>,
}

impl Faults {
    /// An empty collection for what stands below `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            found: Vec::new(),
        }
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The faults found so far.
    pub fn into_vec(self) -> Vec<Fault> {
        self.found
    }

    /// The full path of `key` here. A key that begins with `[` needs no dot.
    pub fn path(&self, key: &str) -> String {
        match (self.prefix.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.prefix.clone(),
            (false, false) if key.starts_with('[') => format!("{}{key}", self.prefix),
            (false, false) => format!("{}.{key}", self.prefix),
        }
    }

    /// Adds a fault at `key`.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        if self.found.len() < FAULTS_MAX {
            let path = self.path(key);
            self.found.push(Fault::new(path, message));
        }
    }

    /// The text at `key` if it has 1 to `max` bytes and no control characters; else a fault and nothing.
    pub fn text(&mut self, key: &str, text: Option<String>, max: usize) -> Option<String> {
        let Some(text) = text else {
            self.add(key, "is missing");
            return None;
        };
        if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
            self.add(
                key,
                format!("must be 1 to {max} bytes without control characters"),
            );
            return None;
        }
        Some(text)
    }

    /// As [`Faults::text`], but nothing where nothing is written.
    pub fn optional_text(&mut self, key: &str, text: Option<String>, max: usize) -> Option<String> {
        text.is_some().then(|| self.text(key, text, max)).flatten()
    }

    /// A list of more than `max` items is a fault and cut.
    pub fn at_most<T>(&mut self, key: &str, mut list: Vec<T>, max: usize) -> Vec<T> {
        if list.len() > max {
            self.add(
                key,
                format!("must have at most {max} entries, has {}", list.len()),
            );
            list.truncate(max);
        }
        list
    }

    /// Runs `read` with `key` as the new place; what it finds is added here.
    pub fn within<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let inner = self.path(key);
        let outer = std::mem::replace(&mut self.prefix, inner);
        let result = read(self);
        self.prefix = outer;
        result
    }

    /// `value` if it lies in `range`; else a fault and the nearest end of the range, so that reading can go on.
    pub fn range<N>(&mut self, key: &str, value: i64, range: RangeInclusive<N>) -> N
    where
        N: Copy + Into<i64> + TryFrom<i64> + fmt::Display,
    {
        let (low, high): (i64, i64) = ((*range.start()).into(), (*range.end()).into());
        if value < low || value > high {
            self.add(key, format!("must be {low} to {high}, is {value}"));
        }
        N::try_from(value.clamp(low, high)).unwrap_or(*range.start())
    }

    /// The size written as `text` or number if it lies in `range`; else a fault and the start of the range.
    pub fn size(&mut self, key: &str, written: &SizeText, range: RangeInclusive<u64>) -> u64 {
        let read = match written {
            SizeText::Bytes(bytes) => {
                u64::try_from(*bytes).map_err(|_| format!("{}, is {bytes}", units::SIZE_FORM))
            }
            SizeText::Text(text) => units::parse_size(text),
        };
        match read {
            Ok(value) if range.contains(&value) => value,
            Ok(value) => {
                let (low, high) = (units::size(*range.start()), units::size(*range.end()));
                self.add(key, format!("must be {low} to {high}, is {}", units::size(value)));
                *range.start()
            }
            Err(message) => {
                self.add(key, message);
                *range.start()
            }
        }
    }

    /// The duration written as `text` if it lies in `range`; else a fault and the start of the range.
    pub fn duration(&mut self, key: &str, text: &DurationText, range: RangeInclusive<Duration>) -> Duration {
        let text = text.0.as_str();
        match units::parse_duration(text) {
            Ok(value) if range.contains(&value) => value,
            Ok(_) => {
                let (low, high) = (units::duration(*range.start()), units::duration(*range.end()));
                self.add(key, format!("must be {low} to {high}, is {text}"));
                *range.start()
            }
            Err(message) => {
                self.add(key, message);
                *range.start()
            }
        }
    }

    /// As [`Faults::duration`]; `0s` is never, hence `None`.
    pub fn never_or(
        &mut self,
        key: &str,
        text: &DurationText,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        match units::parse_duration(&text.0) {
            Ok(Duration::ZERO) => None,
            _ => Some(self.duration(key, text, range)),
        }
    }
}

//! The status that the operator writes beside a manifest, read as anybody's script would read it.

use std::path::Path;

use serde_json::Value;

/// `x.status.yaml`, as it is now.
#[derive(Clone, Debug, Default)]
pub struct Status {
    root: Value,
}

impl Status {
    /// The status beside a manifest; empty when there is none yet.
    pub fn beside(manifest: &Path) -> Self {
        let text = std::fs::read_to_string(manifest.with_extension("status.yaml")).unwrap_or_default();
        let root: Value = serde_saphyr::from_str(&text).unwrap_or_default();
        Self {
            root: root.get("status").cloned().unwrap_or(root),
        }
    }

    /// A value by its path, as text: `master.name`, `routing.mode`; empty when it is not there.
    pub fn text(&self, path: &str) -> String {
        match self.value(path) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// A value by its path.
    pub fn value(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.root, |value, part| match part.parse::<usize>() {
                Ok(index) => value.get(index),
                Err(_) => value.get(part),
            })
    }

    /// The name of the master; empty when there is none.
    pub fn master(&self) -> String {
        self.text("master.name")
    }

    /// The epoch; 0 when there is no status.
    pub fn epoch(&self) -> u64 {
        self.text("epoch").parse().unwrap_or(0)
    }

    /// Is the pool open (nothing fenced or paused) with no operation under way?
    pub fn is_settled(&self) -> bool {
        self.text("routing.mode") == "Open" && self.value("operation").is_none_or(Value::is_null)
    }

    /// The last operations, newest first.
    pub fn history(&self) -> Vec<Value> {
        self.value("history")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    }

    /// The status of a condition (`True`, `False`, `Unknown`); empty when it is not there.
    pub fn condition(&self, kind: &str) -> String {
        let all = self
            .value("conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let found = all
            .iter()
            .find(|c| c.get("type").and_then(Value::as_str) == Some(kind));
        found
            .and_then(|c| c.get("status")?.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

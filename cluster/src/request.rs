//! What the command `pgstmtpool` asks of the operator where there is no API server: a file beside the status.
//!
//! `spec.switchover` and `spec.failover` are the user's and stay in the manifest; a command line must not edit that. The
//! operator honours both, and serves no request twice (`status.servedRequests`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is asked for. The last request stands; it is over when the status says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Request {
    /// As `spec.switchover`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverRequest>,
    /// As `spec.failover`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverRequest>,
    /// As `spec.ha.paused`; absent: as the manifest says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// As `spec.switchover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SwitchoverRequest {
    /// Who shall be master.
    pub to: String,
    /// Any text; another text asks again.
    pub request_id: String,
    /// Clients that do not finish in time are cut off.
    #[serde(default)]
    pub force: bool,
}

/// As `spec.failover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailoverRequest {
    /// The id of the blocked operation that may lose data.
    pub force: String,
}

impl Request {
    /// Where requests stand for the pool whose status is at `status_path`: `x.status.yaml` has `x.request.yaml`.
    pub fn path(status_path: &Path) -> PathBuf {
        let name = status_path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.strip_suffix(".status.yaml").unwrap_or(&name);
        status_path.with_file_name(format!("{stem}.request.yaml"))
    }

    /// Reads a request; `None`: nobody asks for anything.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a request.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if text.trim().is_empty() {
            return Ok(None);
        }
        let request = serde_saphyr::from_str(&text);
        request
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_saphyr::to_string(self).map_err(|error| io::Error::other(error.to_string()))?;
        let beside = path.with_extension(format!("yaml.{}", std::process::id()));
        fs::write(&beside, text)?;
        fs::rename(&beside, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("request-{}.request.yaml", std::process::id()));
        assert_eq!(Request::read(&path).unwrap(), None);
        let switchover = SwitchoverRequest {
            to: "b".into(),
            request_id: "1: 'x'".into(),
            force: true,
        };
        let failover = FailoverRequest {
            force: "failover-3".into(),
        };
        let request = Request {
            switchover: Some(switchover),
            failover: Some(failover),
            paused: Some(true),
        };
        request.write(&path).unwrap();
        assert_eq!(Request::read(&path).unwrap(), Some(request));
        fs::write(&path, "switchover: {too: b}").unwrap();
        assert!(Request::read(&path).is_err());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn it_stands_beside_the_status() {
        for (status, request) in [
            ("/d/x.status.yaml", "/d/x.request.yaml"),
            ("x.p.status.yaml", "x.p.request.yaml"),
        ] {
            assert_eq!(Request::path(Path::new(status)), Path::new(request));
        }
    }
}

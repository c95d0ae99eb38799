//! The status file: read within bounds, written by compare-and-swap.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::Path;

use crds::status::PgPoolStatus;
use serde::{Deserialize, Serialize};

use super::atomic::{self, Durable, failed};
use super::paths::Paths;
use crate::{CasError, SourceError, StatusVersion};

/// A status is a few kilobytes; what is larger is none.
const STATUS_MAX: usize = 1 << 20;

const HEAD: &str =
    "# Written by the operator. Who is master now stands here; the manifest is yours, this file is not.\n";

/// As the API would show it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    status: PgPoolStatus,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    /// Grows by one with every write.
    #[serde(default)]
    resource_version: String,
}

/// A status that was read.
#[derive(Debug)]
pub(super) struct StatusFile {
    pub(super) status: PgPoolStatus,
    pub(super) version: StatusVersion,
    counter: u64,
}

/// The bytes of a file, or why there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Content {
    #[default]
    Absent,
    Bytes(Vec<u8>),
    Unreadable(String),
}

/// Nothing that is read here is larger; more is cut off, and then not valid.
const CONTENT_MAX: u64 = 8 << 20;

impl Content {
    pub(super) fn read(path: &Path) -> Self {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(CONTENT_MAX).read_to_end(&mut bytes)) {
            Ok(_) => Self::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

fn document(bytes: &[u8]) -> Result<Document, String> {
    if bytes.len() > STATUS_MAX {
        return Err(format!("is larger than {STATUS_MAX} bytes: no status"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is no text: no status".to_owned())?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 32, max_nodes: 100_000, max_aliases: 0, max_documents: 1 },
        strict_booleans: true,
        with_snippet: false,
    };
    let read = serde_saphyr::from_str_with_options(text, options);
    read.map_err(|error| format!("is no status: {}", error.without_snippet()))
}

/// Whether a file is the status of this pool.
pub(super) fn is_of_pool(path: &Path, pool: &str) -> bool {
    fs::read(path)
        .ok()
        .and_then(|bytes| document(&bytes).ok())
        .is_some_and(|document| document.metadata.name == pool)
}

impl StatusFile {
    /// Reads a status; `None`: there is none.
    pub(super) fn parse(content: &Content, pool: &str) -> Result<Option<Self>, String> {
        let bytes = match content {
            Content::Absent => return Ok(None),
            Content::Unreadable(error) => return Err(format!("cannot be read: {error}")),
            Content::Bytes(bytes) => bytes,
        };
        let document = document(bytes)?;
        let Metadata {
            name,
            resource_version,
        } = document.metadata;
        if name != pool {
            return Err(format!(
                "is the status of pool {name:?}, not of {pool:?}: move it away, or rename the pool"
            ));
        }
        // The hash makes a version of what was edited by hand, too.
        let mut hash = DefaultHasher::new();
        bytes.hash(&mut hash);
        let version = StatusVersion::new(format!("{resource_version}-{:016x}", hash.finish()));
        let counter = resource_version.parse().unwrap_or_default();
        Ok(Some(Self {
            status: document.status,
            version,
            counter,
        }))
    }
}

/// Writes the status if it is still at `seen`.
pub(super) fn swap(
    paths: &Paths,
    pool: &str,
    seen: &StatusVersion,
    new: PgPoolStatus,
) -> Result<StatusVersion, CasError> {
    let _lock = atomic::lock(&paths.lock).map_err(CasError::Failed)?;
    let invalid = |message: String| {
        CasError::Failed(SourceError::Io {
            path: paths.status.clone(),
            cause: io::Error::new(io::ErrorKind::InvalidData, message),
        })
    };
    let old = StatusFile::parse(&Content::read(&paths.status), pool).map_err(invalid)?;
    let current = old
        .as_ref()
        .map_or(StatusVersion::ABSENT, |old| old.version.clone());
    if current != *seen {
        return Err(CasError::Conflict { current });
    }
    if let Some(old) = old.as_ref().filter(|old| old.status.epoch > new.epoch) {
        return Err(CasError::EpochBackwards {
            new: new.epoch,
            seen: old.status.epoch,
        });
    }
    let counter = old.map_or(0, |old| old.counter) + 1;
    let bytes = written(pool, counter, new).map_err(invalid)?;
    if let Some(folder) = paths
        .status
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder).map_err(|cause| CasError::Failed(failed(folder)(cause)))?;
    }
    atomic::write(&paths.status, &bytes, Durable::Yes).map_err(CasError::Failed)?;
    // What was written must be what is read: anything else would show as somebody else's write.
    match StatusFile::parse(&Content::Bytes(bytes), pool) {
        Ok(Some(file)) => Ok(file.version),
        Ok(None) => Err(invalid("nothing was written".to_owned())),
        Err(message) => Err(invalid(message)),
    }
}

fn written(pool: &str, counter: u64, status: PgPoolStatus) -> Result<Vec<u8>, String> {
    let document = Document {
        api_version: crds::API_VERSION.to_owned(),
        kind: crds::KIND.to_owned(),
        metadata: Metadata {
            name: pool.to_owned(),
            resource_version: counter.to_string(),
        },
        status,
    };
    let text = serde_saphyr::to_string(&document).map_err(|error| error.to_string())?;
    Ok(format!("{HEAD}{text}").into_bytes())
}

//! Reading what a person wrote: the manifest and the Secrets beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crds::{Fault, Manifest, PoolConfig, SecretDocument, parse_manifest_with};

use super::atomic::failed;
use super::paths::{self, Paths};
use super::status::{self, Content};
use crate::{Secrets, SourceError};

/// A value of a Secret is at most so large, as in Kubernetes.
const VALUE_MAX: u64 = 1 << 20;
/// Secrets and keys in a folder, at most.
const ENTRIES_MAX: usize = 1_000;

/// A manifest that is valid.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The pool that was asked for.
    pub config: PoolConfig,
    /// The Secrets.
    pub secrets: Secrets,
    /// What is allowed but probably not meant, a line each.
    pub warnings: Vec<String>,
}

/// Reads a manifest as the programs do, for `--check`: the whole file is checked, `pool` chooses what is returned.
///
/// # Errors
/// Every fault, or that the file cannot be read.
pub fn check(config_path: &Path, pool: Option<&str>) -> Result<Checked, SourceError> {
    let bytes = fs::read(config_path).map_err(failed(config_path))?;
    let source = config_path.display().to_string();
    let text = String::from_utf8(bytes)
        .map_err(|_| SourceError::Invalid(vec![Fault::new("", "is no text in UTF-8").in_file(&source)]))?;
    let folder = paths::secrets(config_path);
    let elsewhere = read_secrets(&folder)?;
    let manifest = parse_manifest_with(&text, &source, &elsewhere).map_err(SourceError::Invalid)?;
    let mut warnings: Vec<String> = manifest.warnings.iter().map(ToString::to_string).collect();
    if manifest.secrets.len() > elsewhere.len() && readable_by_others(config_path) {
        warnings.push(format!(
            "{source}: holds Secrets and others may read it: chmod o-r"
        ));
    }
    warnings.extend(open_secrets(&folder, &elsewhere));
    let Manifest {
        secrets: documents, ..
    } = &manifest;
    let mut secrets = Secrets::default();
    for secret in documents {
        secrets.insert(&secret.name, &secret.kind, secret.values.clone());
    }
    let chosen = manifest
        .pool(pool)
        .map_err(|fault| SourceError::Invalid(vec![fault.in_file(&source)]))?;
    let mut config = chosen.clone();
    if config.generation == 0 {
        config.generation = modified_ms(config_path);
    }
    Ok(Checked {
        config,
        secrets,
        warnings,
    })
}

/// What stands in for `metadata.generation`, which only the API counts: it grows when the file is written.
fn modified_ms(path: &Path) -> i64 {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since = modified
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

fn open_secrets(folder: &Path, secrets: &[SecretDocument]) -> Vec<String> {
    let files = secrets.iter().flat_map(|secret| {
        secret
            .values
            .keys()
            .map(|key| folder.join(&secret.name).join(key))
    });
    let open = files.filter(|path| {
        let passable = |path: Option<&Path>| {
            path.and_then(|path| fs::metadata(path).ok())
                .is_some_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
        };
        // Certificates are for everybody.
        let public = path.extension().is_some_and(|extension| extension == "crt");
        !public && readable_by_others(path) && passable(path.parent()) && passable(Some(folder))
    });
    open.map(|path| format!("{}: others may read it: chmod o-r", path.display()))
        .collect()
}

/// Reads `x.secrets/<name>/<key>`: the folder of a Secret is what Kubernetes mounts, a file a key. One line feed at the
/// end of a file is not part of its value.
fn read_secrets(folder: &Path) -> Result<Vec<SecretDocument>, SourceError> {
    let mut secrets = Vec::new();
    for name in names(folder)? {
        let inner = folder.join(&name);
        if !inner.is_dir() {
            continue;
        }
        let mut values = BTreeMap::new();
        for key in names(&inner)? {
            let path = inner.join(&key);
            let metadata = fs::metadata(&path).map_err(failed(&path))?;
            if !metadata.is_file() {
                continue;
            }
            if metadata.len() > VALUE_MAX {
                let cause = io::Error::new(io::ErrorKind::InvalidData, "larger than 1 MiB");
                return Err(failed(&path)(cause));
            }
            let mut value = fs::read_to_string(&path).map_err(failed(&path))?;
            if value.ends_with('\n') {
                value.pop();
            }
            values.insert(key, value);
        }
        secrets.push(SecretDocument {
            name,
            kind: String::new(),
            values,
        });
    }
    Ok(secrets)
}

/// What a folder holds, hidden files left out; nothing where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, SourceError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries.take(ENTRIES_MAX) {
        let name = entry
            .map_err(failed(folder))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// All that is written, as bytes: two are equal if and only if nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) paths: Paths,
    pub(super) manifest: Content,
    /// Whether the manifest holds no other pool.
    alone: bool,
    pub(super) secrets: Vec<(String, Content)>,
    pub(super) status: Content,
}

impl Written {
    /// Reads everything. `before` saves parsing a manifest that is the same.
    pub(super) fn read(config_path: &Path, pool: &str, before: &Self) -> Self {
        let manifest = Content::read(config_path);
        let alone = if manifest == before.manifest {
            before.alone
        } else {
            is_alone(&manifest, pool)
        };
        let paths = Paths::of(config_path, pool, alone, |path| status::is_of_pool(path, pool));
        let status = Content::read(&paths.status);
        let folder = paths::secrets(config_path);
        let mut secrets = Vec::new();
        for name in names(&folder).unwrap_or_default() {
            for key in names(&folder.join(&name)).unwrap_or_default() {
                let path = folder.join(&name).join(&key);
                secrets.push((format!("{name}/{key}"), Content::read(&path)));
            }
        }
        Self {
            paths,
            manifest,
            alone,
            secrets,
            status,
        }
    }
}

/// A manifest that cannot be read says nothing against it.
fn is_alone(manifest: &Content, pool: &str) -> bool {
    let Content::Bytes(bytes) = manifest else {
        return true;
    };
    let text = String::from_utf8_lossy(bytes);
    crds::pool_names(&text).iter().all(|name| name == pool)
}

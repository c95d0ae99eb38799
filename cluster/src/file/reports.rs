//! What each proxy writes, a file for each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use super::atomic::{self, Durable, failed};
use crate::{ProxyReport, SourceError};

/// No pool has more proxies than this; further files are not read.
const REPORTS_MAX: usize = 256;
/// A report is a few hundred bytes.
const REPORT_MAX: u64 = 64 << 10;

fn path(folder: &Path, id: &str) -> Result<PathBuf, SourceError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if id.is_empty() || id.len() > 100 || id.starts_with('.') || !id.chars().all(allowed) {
        let text = format!("a proxy's id must be 1 to 100 of letters, digits, -, _ and ., is {id:?}");
        let cause = io::Error::new(io::ErrorKind::InvalidInput, text);
        return Err(SourceError::Io {
            path: folder.to_owned(),
            cause,
        });
    }
    Ok(folder.join(format!("{id}.yaml")))
}

pub(super) fn write(folder: &Path, mut report: ProxyReport) -> Result<(), SourceError> {
    /// Of this process: a report only has to differ from the one before.
    static RENEWALS: AtomicU64 = AtomicU64::new(0);
    let path = path(folder, &report.id)?;
    report.renewal = RENEWALS.fetch_add(1, Ordering::Relaxed) + 1;
    let text =
        serde_saphyr::to_string(&report).map_err(|error| SourceError::Unavailable(error.to_string()))?;
    fs::create_dir_all(folder).map_err(failed(folder))?;
    atomic::write(&path, text.as_bytes(), Durable::No)
}

pub(super) fn remove(folder: &Path, id: &str) -> Result<(), SourceError> {
    let path = path(folder, id)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn read(folder: &Path) -> Result<Vec<ProxyReport>, SourceError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(folder)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".yaml") && !name.starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    paths.truncate(REPORTS_MAX);
    let mut reports = Vec::new();
    for path in paths {
        match read_one(&path) {
            Ok(Some(report)) => reports.push(report),
            Ok(None) => {}
            Err(error) => warn!(path = %path.display(), %error, "Left out the report of a proxy"),
        }
    }
    Ok(reports)
}

/// `None`: it was withdrawn meanwhile.
fn read_one(path: &Path) -> Result<Option<ProxyReport>, String> {
    let text = match fs::metadata(path).and_then(|metadata| match metadata.len() {
        0..=REPORT_MAX => fs::read_to_string(path),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "too large")),
    }) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: 16, max_nodes: 10_000, max_aliases: 0, max_documents: 1 },
        with_snippet: false,
    };
    let report: ProxyReport = serde_saphyr::from_str_with_options(&text, options)
        .map_err(|error| error.without_snippet().to_string())?;
    match path
        .file_stem()
        .is_some_and(|stem| stem.to_string_lossy() == report.id)
    {
        true => Ok(Some(report)),
        false => Err(format!("is of proxy {:?}", report.id)),
    }
}

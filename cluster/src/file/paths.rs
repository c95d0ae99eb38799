//! What the files beside a manifest are called.

use std::path::{Path, PathBuf};

/// The files of one pool. Which of two names is used depends on what is there already, so that a second pool in the
/// manifest does not move the status of the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Paths {
    /// `x.status.yaml`.
    pub(super) status: PathBuf,
    /// `x.status.lock`: held while the status is compared and swapped.
    pub(super) lock: PathBuf,
    /// `x.operator.lock`: held by the one operator.
    pub(super) leader_lock: PathBuf,
    /// `x.proxies/`.
    pub(super) proxies: PathBuf,
}

/// `x` of `x.yaml`.
fn stem(config: &Path) -> PathBuf {
    match config.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => config.with_extension(""),
        _ => config.to_owned(),
    }
}

fn with(stem: &Path, tail: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(tail);
    PathBuf::from(path)
}

/// `x.secrets/`.
pub(super) fn secrets(config: &Path) -> PathBuf {
    with(&stem(config), ".secrets")
}

impl Paths {
    fn named(base: &Path) -> Self {
        Self {
            status: with(base, ".status.yaml"),
            lock: with(base, ".status.lock"),
            leader_lock: with(base, ".operator.lock"),
            proxies: with(base, ".proxies"),
        }
    }

    /// The files of `pool`, of which the manifest says whether it is the only one. `is_of_pool` looks into a status.
    pub(super) fn of(config: &Path, pool: &str, alone: bool, is_of_pool: impl Fn(&Path) -> bool) -> Self {
        let short = Self::named(&stem(config));
        let long = Self::named(&with(&stem(config), &format!(".{pool}")));
        let (usual, other) = if alone { (short, long) } else { (long, short) };
        if !usual.status.exists() && other.status.exists() && is_of_pool(&other.status) {
            other
        } else {
            usual
        }
    }
}

//! Files that are there as a whole or not at all, and locks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::SourceError;

/// Nobody holds the lock of a status for longer, unless it was stopped in the middle.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(5);

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |cause| SourceError::Io { path, cause }
}

/// Whether what was written must survive a crash of the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// It must: it is on disk when the call returns.
    Yes,
    /// It need not: its writer is gone too then.
    No,
}

/// Replaces a file: readers see all of the old or all of the new. One writer at a time per path.
pub(super) fn write(path: &Path, content: &[u8], durable: Durable) -> Result<(), SourceError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)?;
        file.write_all(content)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable == Durable::Yes {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    })();
    written.map_err(failed(path))
}

fn open_lock(path: &Path) -> Result<File, SourceError> {
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path);
    open.map_err(failed(path))
}

/// Waits for a lock, for [`LOCK_WAIT`] at most. It is given back when the result is dropped, or its process ends.
pub(super) fn lock(path: &Path) -> Result<File, SourceError> {
    let file = open_lock(path)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => {
                let text = format!("{} is held by another process for {LOCK_WAIT:?}", path.display());
                return Err(SourceError::Unavailable(text));
            }
            Err(TryLockError::Error(cause)) => return Err(failed(path)(cause)),
        }
    }
}

/// To be the one operator of a pool. Dropping it, or the end of the process, gives it back.
#[derive(Debug)]
pub struct Leadership {
    path: PathBuf,
    _file: File,
}

impl Leadership {
    /// The lock file; it holds the process id of the operator, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) fn lead(path: &Path) -> Result<Option<Leadership>, SourceError> {
    let mut file = open_lock(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(cause)) => return Err(failed(path)(cause)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed(path))?;
    Ok(Some(Leadership {
        path: path.to_owned(),
        _file: file,
    }))
}

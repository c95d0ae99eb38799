//! The number of this proxy among its peers: the first byte of the process ids it gives out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pgnet::auth::scram::Key;

/// A number that is ours as long as this lives.
#[derive(Debug)]
pub(super) struct Number {
    /// It.
    pub number: u8,
    _lock: File,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NumberError {
    /// The one asked for, or all.
    #[error("another proxy of this pool has number {0}")]
    Taken(u8),
    /// All.
    #[error("256 proxies of this pool run already")]
    AllTaken,
    /// The folder of the proxies cannot be used.
    #[error("the folder of the proxies cannot be used")]
    Folder(#[source] io::Error),
}

impl Number {
    /// Takes `wanted`, or the smallest that is free, by a lock on a file in the folder of the proxies: the system gives it
    /// back however this program ends.
    ///
    /// # Errors
    /// [`NumberError`].
    pub(super) fn take(folder: &Path, wanted: Option<u8>) -> Result<Self, NumberError> {
        fs::create_dir_all(folder).map_err(NumberError::Folder)?;
        let candidates = wanted.map_or(0..=u8::MAX, |number| number..=number);
        for number in candidates {
            let lock = private(&folder.join(format!("{number}.lock"))).map_err(NumberError::Folder)?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { number, _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(NumberError::Folder(error)),
            }
        }
        Err(wanted.map_or(NumberError::AllTaken, NumberError::Taken))
    }
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// A secret that all proxies of the pool share, made by the first: it makes users who do not exist look alike at all of them.
/// It is random and made of nothing: whoever guesses at it learns nothing about any password.
///
/// # Errors
/// When it can neither be read nor written; the caller then takes one of its own.
pub(super) fn shared_secret(folder: &Path) -> io::Result<Key> {
    let path = folder.join("mock.key");
    loop {
        match fs::read(&path) {
            Ok(bytes) => {
                if let Ok(key) = Key::try_from(bytes) {
                    return Ok(key);
                }
                fs::remove_file(&path)?; // cut short: made anew
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let early = folder.join(format!("mock.key.{}", std::process::id()));
        let mut file = private(&early)?;
        io::Write::write_all(&mut file, &random()?)?;
        let linked = fs::hard_link(&early, &path); // fails when another proxy was first: then its key is read
        fs::remove_file(&early)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
}

/// Random bytes.
///
/// # Errors
/// When the operating system has none.
pub(super) fn random() -> io::Result<Key> {
    let mut key = Key::default();
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder() -> PathBuf {
        let random = u64::from_ne_bytes(random().unwrap()[..8].try_into().unwrap());
        std::env::temp_dir().join(format!("pgp-number-{random:x}"))
    }

    #[test]
    fn proxies_have_different_numbers_and_give_them_back() {
        let folder = folder();
        let first = Number::take(&folder, None).unwrap();
        let second = Number::take(&folder, None).unwrap();
        assert_eq!((first.number, second.number), (0, 1));
        assert!(matches!(
            Number::take(&folder, Some(1)),
            Err(NumberError::Taken(1))
        ));
        drop(first);
        assert_eq!(Number::take(&folder, None).unwrap().number, 0);
        assert_eq!(Number::take(&folder, Some(200)).unwrap().number, 200);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_first_proxy_makes_the_secret_and_the_others_read_it() {
        let folder = folder();
        fs::create_dir(&folder).unwrap();
        let first = shared_secret(&folder).unwrap();
        assert_eq!(first, shared_secret(&folder).unwrap());
        fs::write(folder.join("mock.key"), "short").unwrap();
        assert_ne!(first, shared_secret(&folder).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        fs::remove_dir_all(folder).unwrap();
    }
}

//! Unix sockets: a stale file is removed, a served one is not, and ours goes when we do.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Everybody on this host may try to log in, as with PostgreSQL.
pub(crate) const CLIENTS_MODE: u32 = 0o777;
/// Only our own user.
pub(crate) const OWNER_MODE: u32 = 0o600;

/// The file of a Unix socket of ours; dropping it removes the file, unless another program has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path); // at the end of the program there is nobody to tell
        }
    }
}

/// Listens on `path`. A socket there that nobody serves any more is removed first.
///
/// The file is made under another name and renamed once it has its mode: nobody connects before.
pub(crate) fn listen(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let mut early = path.as_os_str().to_owned();
    early.push(format!(".{}", std::process::id()));
    let early = PathBuf::from(early);
    let _ = fs::remove_file(&early); // left by a program that had our process id
    let listener = UnixListener::bind(&early)?;
    let named =
        fs::set_permissions(&early, fs::Permissions::from_mode(mode)).and_then(|()| fs::rename(&early, path));
    if let Err(error) = named {
        let _ = fs::remove_file(&early);
        return Err(error);
    }
    listener.set_nonblocking(true)?;
    let inode = fs::symlink_metadata(path)?.ino();
    Ok((
        listener,
        SocketFile {
            path: path.to_owned(),
            inode,
        },
    ))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another program serves this socket",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let random: u64 = {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            u64::from_ne_bytes(bytes)
        };
        let folder = std::env::temp_dir().join(format!("pgp-{random:x}"));
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let folder = folder();
        let path = folder.join(".s.PGSQL.6432");
        let (first, file) = listen(&path, OWNER_MODE).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            OWNER_MODE
        );
        assert_eq!(
            listen(&path, OWNER_MODE).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        std::mem::forget(file); // as after SIGKILL
        drop(first);
        assert!(path.exists());
        let (_second, file) = listen(&path, CLIENTS_MODE).unwrap();
        drop(file);
        assert!(!path.exists(), "ours goes when we do");
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = folder();
        let path = folder.join("precious");
        fs::write(&path, "data").unwrap();
        assert_eq!(
            listen(&path, OWNER_MODE).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_socket_that_somebody_else_put_in_our_place_stays() {
        let folder = folder();
        let path = folder.join("socket");
        let (_listener, file) = listen(&path, OWNER_MODE).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        // The file system may give the number of the removed file to the new one; then it counts as ours.
        let same = fs::symlink_metadata(&path).unwrap().ino() == file.inode;
        drop(file);
        assert_eq!(path.exists(), !same);
        fs::remove_dir_all(folder).unwrap();
    }
}

//! The files of a stopped server on this machine, so that it comes up as a standby and never as a second master.

use super::conninfo::Conninfo;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

const AUTO_CONF: &str = "postgresql.auto.conf";
/// Settings we write; what stands there of them goes. A fence by SQL ends with the new part.
const OURS: [&str; 3] = [
    "primary_conninfo",
    "primary_slot_name",
    "default_transaction_read_only",
];

/// Writes `standby.signal` and where to follow. Does nothing where `folder` is not a data directory within our reach: then the
/// restart command must do it, and is told how.
///
/// # Errors
/// When it is within our reach and cannot be written.
pub(crate) fn make_standby(folder: &Path, conninfo: &str, slot: &str) -> io::Result<()> {
    if !folder.join("PG_VERSION").is_file() {
        return Ok(());
    }
    let old = match fs::read_to_string(folder.join(AUTO_CONF)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(error),
    };
    let text = format!(
        "{}primary_conninfo = {}\nprimary_slot_name = {}\n",
        without_ours(&old),
        quoted(conninfo),
        quoted(slot)
    );
    write_like_owner(folder, AUTO_CONF, &text)?;
    write_like_owner(folder, "standby.signal", "")
}

/// `primary_conninfo` as it stands there.
pub(crate) fn conninfo(folder: &Path) -> Option<Conninfo> {
    let text = fs::read_to_string(folder.join(AUTO_CONF)).ok()?;
    let line = text
        .lines()
        .rev()
        .find(|line| name_of(line) == Some("primary_conninfo"))?;
    let value = line
        .split_once('=')?
        .1
        .trim()
        .strip_prefix('\'')?
        .strip_suffix('\'')?;
    Conninfo::parse(&value.replace("''", "'").replace("\\\\", "\\"))
}

fn without_ours(text: &str) -> String {
    let kept = text
        .lines()
        .filter(|line| name_of(line).is_none_or(|name| !OURS.contains(&name)));
    kept.flat_map(|line| [line, "\n"]).collect()
}

fn name_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line.find(|c: char| c == '=' || c.is_whitespace())?;
    (!line.starts_with('#')).then(|| &line[..end])
}

/// As `ALTER SYSTEM` writes a value.
fn quoted(value: &str) -> String {
    format!(
        "'{}'",
        value.replace('\\', "\\\\").replace('\'', "''").replace('\n', " ")
    )
}

/// Writes beside and renames; owner and mode are those of the folder and of PostgreSQL's own files.
fn write_like_owner(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let owner = fs::metadata(folder)?;
    let beside = folder.join(format!("{name}.pgstmtpool"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let mine = file.metadata()?;
    if (mine.uid(), mine.gid()) != (owner.uid(), owner.gid()) {
        chown(&beside, Some(owner.uid()), Some(owner.gid()))?;
    }
    fs::rename(&beside, folder.join(name))?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("pgstmtpool-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_stopped_server_comes_up_as_a_standby() {
        let folder = folder("standby");
        fs::write(folder.join("PG_VERSION"), "15\n").unwrap();
        let old = "# Do not edit\nwork_mem = '1MB'\nprimary_conninfo = 'host=old'\ndefault_transaction_read_only = 'on'\n";
        fs::write(folder.join(AUTO_CONF), old).unwrap();
        for _ in 0..2 {
            make_standby(&folder, r"host=n password='it\'s'", "pgp_a").unwrap();
        }
        let text = fs::read_to_string(folder.join(AUTO_CONF)).unwrap();
        let expected = "# Do not edit\nwork_mem = '1MB'\nprimary_conninfo = 'host=n password=''it\\\\''s'''\n\
                        primary_slot_name = 'pgp_a'\n";
        assert_eq!(text, expected);
        assert!(folder.join("standby.signal").is_file());
        assert_eq!(conninfo(&folder).unwrap().get("password"), Some("it's"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_is_no_data_directory_is_left_alone() {
        let folder = folder("foreign");
        make_standby(&folder, "host=n", "s").unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }
}

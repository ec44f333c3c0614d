//! What outlives the shim: the exit record, and while it lives, the note that says which process it holds.
//!
//! ```text
//!   <exit_path>          {"version":1,"id":…,"pid":…,"code":137,"signal":9,"oom_killed":true,"started":…,"finished":…,"log_lines_dropped":0,"log_end":…}
//!   <run>/shim.json      {"version":1,"pid":…,"start_ticks":…,"boot_id":…,"shim_pid":…}
//!   <exit_path>.reserved  room for the exit record, taken before the container is made and renamed into its place: a disk that is full by then
//!                         cannot take an exit status away
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::error::ShimError;

/// More than any exit record is long, in bytes.
const RECORD_MAX: usize = 1024;

/// What a record has to outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// The daemon and this program: the kernel has it.
    ThisBoot,
    /// A power cut too: the disk has it.
    BeyondPowerCut,
}

fn reserved(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".reserved");
    name.into()
}

/// Takes the room for the exit record. A disk that is full now is a reason not to begin.
pub(crate) fn reserve(path: &Path) -> Result<(), ShimError> {
    let place = reserved(path);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&place)
        .and_then(|mut file| {
            let length = as_offset(RECORD_MAX)?;
            // The blocks, not the length: a reader sees only what was written.
            match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
                Err(nix::errno::Errno::EOPNOTSUPP) => file.write_all(&[b' '; RECORD_MAX]),
                other => other.map_err(Into::into),
            }
        })
        .map_err(ShimError::file("reserve", place))
}

fn as_offset(length: usize) -> std::io::Result<i64> {
    i64::try_from(length).map_err(std::io::Error::other)
}

/// Writes into a file that has room for it, or is new, and gives it its name.
fn write_atomically(temp: &Path, path: &Path, bytes: &[u8], lasts: Lasts) -> Result<(), ShimError> {
    let length = bytes.len() as u64;
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        // Its blocks are the point.
        .truncate(false)
        .mode(0o600)
        .open(temp)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.set_len(length)?;
            match lasts {
                Lasts::ThisBoot => Ok(()),
                Lasts::BeyondPowerCut => file.sync_all(),
            }
        })
        .and_then(|()| fs::rename(temp, path));
    if let Err(source) = written {
        let _may_not_exist = fs::remove_file(temp);
        return Err(ShimError::File {
            call: "write",
            path: path.into(),
            source,
        });
    }
    if lasts == Lasts::ThisBoot {
        return Ok(());
    }
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(ShimError::file("sync", dir))
}

/// Writes the exit record; if its place is unusable (a full disk), into the run directory.
pub(crate) fn write_record(path: &str, record: &serde_json::Value, lasts: Lasts) -> Result<(), ShimError> {
    let bytes = record.to_string().into_bytes();
    let path = Path::new(path);
    match write_atomically(&reserved(path), path, &bytes, lasts) {
        Ok(()) => Ok(()),
        Err(first) => {
            let (temp, path) = (Path::new("exit.json.tmp"), Path::new("exit.json"));
            write_atomically(temp, path, &bytes, lasts).map_err(|_| first)
        }
    }
}

/// Writes the note that lets a daemon adopt the container if the shim is killed.
pub(crate) fn write_note(pid: i32, start_ticks: u64) -> Result<(), ShimError> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let note = serde_json::json!({
        "version": 1,
        "pid": pid,
        "start_ticks": start_ticks,
        "boot_id": boot_id.trim(),
        "shim_pid": std::process::id(),
    });
    let temp = "shim.json.tmp";
    fs::write(temp, note.to_string())
        .and_then(|()| fs::rename(temp, "shim.json"))
        .map_err(ShimError::file("write", "shim.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_takes_the_reserved_file_and_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        reserve(&path).unwrap();
        let before = fs::metadata(reserved(&path)).unwrap();
        let inode = |metadata: &fs::Metadata| std::os::unix::fs::MetadataExt::ino(metadata);
        write_record(
            path.to_str().unwrap(),
            &serde_json::json!({ "code": 3 }),
            Lasts::BeyondPowerCut,
        )
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"code":3}"#);
        assert_eq!(inode(&fs::metadata(&path).unwrap()), inode(&before));
        assert!(!reserved(&path).exists());
        // One that was taken away is no reason to lose the record.
        write_record(
            path.to_str().unwrap(),
            &serde_json::json!({ "code": 4 }),
            Lasts::ThisBoot,
        )
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"code":4}"#);
    }
}

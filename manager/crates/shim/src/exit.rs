//! What outlives the shim: the exit record, and while it lives, the note that says which process it holds.
//!
//! ```text
//!   <exit_path>          {"version":1,"id":…,"pid":…,"code":137,"signal":9,"oom_killed":true,"started":…,"finished":…,"log_lines_dropped":0,"log_end":…}
//!   <run>/shim.json      {"version":1,"pid":…,"start_ticks":…,"boot_id":…,"shim_pid":…}
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::error::ShimError;

/// What a record has to outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// The daemon and this program: the kernel has it.
    ThisBoot,
    /// A power cut too: the disk has it.
    BeyondPowerCut,
}

/// Replaces a file atomically.
fn write_atomically(path: &Path, bytes: &[u8], lasts: Lasts) -> Result<(), ShimError> {
    let temp = path.with_extension(format!("tmp{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            match lasts {
                Lasts::ThisBoot => Ok(()),
                Lasts::BeyondPowerCut => file.sync_all(),
            }
        })
        .and_then(|()| fs::rename(&temp, path));
    if let Err(source) = written {
        let _may_not_exist = fs::remove_file(&temp);
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
    match write_atomically(Path::new(path), &bytes, lasts) {
        Ok(()) => Ok(()),
        Err(first) => write_atomically(Path::new("exit.json"), &bytes, lasts).map_err(|_| first),
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

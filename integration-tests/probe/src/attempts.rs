//! Attempts: privileged system calls with arguments that do no harm where they succeed, and the errno each gives.
//!
//! A confined process meets `EPERM` (from its capabilities or its seccomp filter); which of the two it was is the test's
//! to arrange. Names are those of the system calls, with the flag that matters after a colon.

use std::io::Write;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag};
use serde_json::{Map, Value, json};

use crate::{Outcome, say};

/// Tries every named call in turn and prints one JSON object.
pub(crate) fn print(names: &[&str]) -> Outcome {
    let mut results = Map::new();
    for name in names {
        results.insert((*name).to_owned(), attempt(name)?);
    }
    say(&Value::Object(results).to_string())?;
    Ok(0)
}

fn attempt(name: &str) -> Result<Value, String> {
    let result = match name {
        "mount" => mount_tmpfs(),
        "mount:proc" => in_scratch(
            |path| nix::mount::mount(Some("proc"), path, Some("proc"), MsFlags::empty(), None::<&str>),
            true,
        ),
        "umount" => nix::mount::umount2("/proc", MntFlags::MNT_DETACH),
        "unshare:user" => nix::sched::unshare(CloneFlags::CLONE_NEWUSER),
        "unshare:mount" => nix::sched::unshare(CloneFlags::CLONE_NEWNS),
        "unshare:net" => nix::sched::unshare(CloneFlags::CLONE_NEWNET),
        "sethostname" => nix::unistd::sethostname("changed-by-probe"),
        "mknod" => in_scratch(
            |path| nix::sys::stat::mknod(path, SFlag::S_IFCHR, Mode::S_IRUSR, nix::sys::stat::makedev(1, 3)),
            false,
        ),
        "mknod:disk" => in_scratch(|path| open_after_mknod(path, SFlag::S_IFBLK, 7, 0), false),
        "chroot" => nix::unistd::chroot("/"),
        "clock_settime" => nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
            .and_then(|now| nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, now)),
        "reboot" => nix::sys::reboot::set_cad_enabled(true),
        "delete_module" => {
            nix::kmod::delete_module(c"croze-no-such-module", nix::kmod::DeleteModuleFlags::O_NONBLOCK)
        }
        "setuid:0" => nix::unistd::setuid(nix::unistd::Uid::from_raw(0)),
        "kill:parent" => nix::sys::signal::kill(nix::unistd::getppid(), None::<Signal>),
        "open:/dev/mem" => open("/dev/mem"),
        "open:/dev/kmsg" => open("/dev/kmsg"),
        "mkdir" => in_scratch(|path| nix::unistd::mkdir(path, Mode::S_IRWXU), false),
        "write:/proc/sysrq-trigger" => append("/proc/sysrq-trigger"),
        "write:/proc/sys" => append("/proc/sys/kernel/core_pattern"),
        "write:/" => std::fs::File::create("/croze-probe-write")
            .map(drop)
            .map_err(|error| errno_of(&error)),
        other => return Err(format!("attempt: {other:?} is not known")),
    };
    Ok(match result {
        Ok(()) => json!("ok"),
        Err(errno) => json!(format!("{errno:?}")),
    })
}

/// A path under /tmp that is free before and after.
fn in_scratch(call: impl FnOnce(&str) -> nix::Result<()>, directory: bool) -> nix::Result<()> {
    let path = format!("/tmp/croze-probe-{}", std::process::id());
    if directory {
        std::fs::create_dir_all(&path).map_err(|error| errno_of(&error))?;
    }
    let result = call(&path);
    // Whatever kind of thing came to be there goes again.
    nix::mount::umount2(path.as_str(), MntFlags::MNT_DETACH).ok();
    drop(std::fs::remove_dir(&path));
    drop(std::fs::remove_file(&path));
    result
}

fn mount_tmpfs() -> nix::Result<()> {
    in_scratch(
        |path| nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>),
        true,
    )
}

/// Making a node may be allowed where opening it is not: the device cgroup judges both.
fn open_after_mknod(path: &str, kind: SFlag, major: u64, minor: u64) -> nix::Result<()> {
    nix::sys::stat::mknod(path, kind, Mode::S_IRUSR, nix::sys::stat::makedev(major, minor))?;
    open(path)
}

fn open(path: &str) -> nix::Result<()> {
    std::fs::File::open(path)
        .map(drop)
        .map_err(|error| errno_of(&error))
}

/// Opens for writing and writes nothing: the permission is what is asked about.
fn append(path: &str) -> nix::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(b""))
        .map_err(|error| errno_of(&error))
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

//! What the image has below a new tmpfs, copied into it (`tmpcopyup`).
//!
//! Both sides are worked on by descriptors, and links are copied as links: nothing in the image can lead the copy elsewhere.
//! Files are copied with their modes and owners; devices, sockets and pipes are left out.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};

/// Copies what is in the directory `from` into the directory `to`.
///
/// # Errors
/// No space left in the tmpfs, or the image cannot be read.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, mode)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner_from = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let inner_to = rustix::fs::openat(to, name, flags, Mode::empty())?;
            copy(&inner_from, &inner_to)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = std::fs::File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut copy = std::fs::File::from(rustix::fs::openat(to, name, flags, mode)?);
            io::copy(&mut source, &mut copy)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        _ => return Ok(()),
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(to.as_fd(), name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // A change of owner takes the set-id bits away.
        rustix::fs::chmodat(to.as_fd(), name, mode, AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn directories_files_and_links_arrive_as_they_were() {
        let base = std::env::temp_dir().join(format!("croze-copy-up-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(from.join("sub")).expect("made");
        fs::create_dir_all(&to).expect("made");
        fs::write(from.join("sub/file"), "text").expect("written");
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4711)).expect("changed");
        symlink("/etc/passwd", from.join("link")).expect("linked");
        let open = |path| OwnedFd::from(fs::File::open(path).expect("opened"));
        copy(&open(&from), &open(&to)).expect("copied");
        assert_eq!(fs::read_to_string(to.join("sub/file")).expect("read"), "text");
        assert_eq!(
            fs::metadata(to.join("sub/file"))
                .expect("there")
                .permissions()
                .mode()
                & 0o7777,
            0o4711
        );
        assert_eq!(
            fs::read_link(to.join("link")).expect("a link"),
            std::path::Path::new("/etc/passwd")
        );
        fs::remove_dir_all(&base).expect("removed");
    }
}

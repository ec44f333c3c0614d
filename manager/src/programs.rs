//! Finding the programs the daemon calls: the runtime and the shim.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use croze_model::{Error, ErrorKind, Result};

/// The absolute path of a program: a path as it is, a name beside this program, then in PATH.
///
/// # Errors
/// `NotFound` with what to do about it.
pub(crate) fn find(what: &str, flag: &str, program: &Path) -> Result<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = beside.into_iter().chain(std::env::split_paths(&path)).collect();
    find_in(&dirs, program).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "start",
            format!("cannot find the {what} {}", program.display()),
        )
        .because("it is not an executable file, neither beside crozed nor in PATH".to_owned())
        .hint(format!(
            "build it with `make build`, or name another one with {flag}"
        ))
    })
}

fn find_in(dirs: &[PathBuf], program: &Path) -> Option<PathBuf> {
    let is_path = program.components().count() > 1 || program.is_absolute();
    if is_path {
        let absolute = std::path::absolute(program).ok()?;
        return is_executable(&absolute).then_some(absolute);
    }
    dirs.iter()
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_absolute() && is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_for_and_paths_are_taken() {
        let dirs = [
            PathBuf::from("/nowhere"),
            PathBuf::from("relative"),
            PathBuf::from("/bin"),
        ];
        for (program, found) in [
            ("sh", Some("/bin/sh")),
            ("/bin/sh", Some("/bin/sh")),
            ("no-such-program", None),
            ("/etc/passwd", None),
            ("/etc", None),
        ] {
            assert_eq!(
                find_in(&dirs, Path::new(program)),
                found.map(PathBuf::from),
                "{program}"
            );
        }
        let error = find("OCI runtime", "--runtime", Path::new("no-such-program")).unwrap_err();
        assert!(error.advice().unwrap().contains("--runtime"));
    }
}

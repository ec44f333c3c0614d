//! Where the programs under test, and the ones that help, are found.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The repository's root.
fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A program of ours: in `$CROZE_BIN`, else in the repository's `bin/`.
///
/// # Errors
/// It is not there.
pub fn bin(name: &str) -> Result<PathBuf> {
    let directory = std::env::var_os("CROZE_BIN").map_or_else(|| repository().join("bin"), PathBuf::from);
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not there: `make build` makes it",
        path.display()
    );
    Ok(path)
}

/// The low-level runtime that the suites judge: `$RUNTIME`, else croze-rt.
///
/// # Errors
/// It is not there.
pub fn runtime_under_test() -> Result<PathBuf> {
    match std::env::var_os("RUNTIME") {
        Some(path) => Ok(PathBuf::from(path)),
        None => bin("croze-rt"),
    }
}

/// A static busybox: `$CROZE_TEST_BUSYBOX`, else the installed one.
///
/// # Errors
/// It is not installed.
pub fn busybox() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CROZE_TEST_BUSYBOX") {
        return Ok(PathBuf::from(path));
    }
    let found = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        anyhow::anyhow!("busybox is not installed: `make setup-tests` installs busybox-static")
    })
}

//! OCI bundles: a root directory and a config.json.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::programs::{bin, busybox};
use crate::scene::Scene;

/// The names under which busybox is called in the tests' root directories.
const APPLETS: [&str; 24] = [
    "sh", "ls", "cat", "echo", "id", "mkdir", "mount", "umount", "ps", "sleep", "stat", "touch", "true",
    "false", "env", "kill", "dd", "wc", "ln", "rm", "readlink", "hostname", "stty", "chmod",
];

/// A bundle on disk.
#[derive(Clone, Debug)]
pub struct Bundle {
    directory: PathBuf,
}

impl Bundle {
    /// Makes a bundle with a root directory of busybox and the probe, and this spec.
    ///
    /// # Errors
    /// A program is missing, or the disk fails.
    pub fn new(scene: &Scene, name: &str, spec: &Value) -> Result<Self> {
        let directory = scene.new_directory(name)?;
        let rootfs = directory.join("rootfs");
        populate_rootfs(&rootfs)?;
        let bundle = Self { directory };
        bundle.write(&serde_json::to_string_pretty(spec)?)?;
        Ok(bundle)
    }

    /// The bundle's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path below the root directory, as the host names it.
    #[must_use]
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.directory.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// Replaces config.json by this text, be it valid or not.
    ///
    /// # Errors
    /// The disk fails.
    pub fn write(&self, text: &str) -> Result<()> {
        let path = self.directory.join("config.json");
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// Fills a directory as the root of a small system: busybox, the probe at `/probe`, users `root` and `app` (1000).
///
/// # Errors
/// A program is missing, or the disk fails.
pub fn populate_rootfs(rootfs: &Path) -> Result<()> {
    for directory in [
        "bin", "dev", "etc", "proc", "sys", "tmp", "root", "home/app", "var/run",
    ] {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    fs::set_permissions(
        rootfs.join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )?;
    fs::copy(busybox()?, rootfs.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", rootfs.join("bin").join(applet))?;
    }
    fs::copy(bin("croze-probe")?, rootfs.join("probe"))?;
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
    )?;
    fs::write(
        rootfs.join("etc/group"),
        "root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
    )?;
    Ok(())
}

//! A real distribution as an image: Debian by debootstrap, and an image of three layers on top of it by umoci.
//!
//! Both are made once and kept, because that takes a minute:
//!
//! ```text
//! $CROZE_TEST_CACHE, else /var/cache/croze-tests/
//!   lock          held while it is being made
//!   debian-1/     an OCI layout with the tags `debian` (one layer) and `app` (the same layer and two more)
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::reaper;
use crate::scene::Scene;

/// The layout's format: to be raised when what is in it changes.
const LAYOUT: &str = "debian-1";

/// The cached OCI layout.
#[derive(Clone, Debug)]
pub struct Debian {
    layout: PathBuf,
}

impl Debian {
    /// The layout, made first if it is not there.
    ///
    /// # Errors
    /// debootstrap or umoci fails, or the disk does.
    pub fn prepare(scene: &Scene) -> Result<Self> {
        let cache = std::env::var_os("CROZE_TEST_CACHE")
            .map_or_else(|| PathBuf::from("/var/cache/croze-tests"), PathBuf::from);
        fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
        let lock = fs::File::create(cache.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        let layout = cache.join(LAYOUT);
        if !layout.is_dir() {
            let fresh = Self::make(scene)?;
            // A copy and a rename: the cache may be on another file system, and nobody shall see half of it.
            let temporary = cache.join(format!("{LAYOUT}.new"));
            if temporary.is_dir() {
                fs::remove_dir_all(&temporary)?;
            }
            scene
                .call(&["cp", "-a", &fresh.to_string_lossy(), &temporary.to_string_lossy()])?
                .success()?;
            fs::remove_dir_all(&fresh)?;
            fs::rename(&temporary, &layout)?;
        }
        Ok(Self { layout })
    }

    /// The layout's directory; its tags are `debian` and `app`.
    #[must_use]
    pub fn layout(&self) -> &std::path::Path {
        &self.layout
    }

    fn make(scene: &Scene) -> Result<PathBuf> {
        let rootfs = scene.new_directory("debian-rootfs")?;
        let mut debootstrap = reaper::command("debootstrap");
        debootstrap
            .args(["--variant=minbase", "bookworm"])
            .arg(&rootfs)
            .arg("http://deb.debian.org/debian");
        scene
            .start_daemon(debootstrap)?
            .wait(Duration::from_secs(540))?
            .success()?;
        // What would not be the same next time, or is only there for the next package.
        for waste in ["var/cache/apt", "var/lib/apt/lists", "var/log"] {
            let path = rootfs.join(waste);
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            fs::create_dir_all(&path)?;
        }
        let layout = scene.path("debian-layout");
        let image = |tag: &str| format!("{}:{tag}", layout.display());
        let umoci = |words: &[&str]| scene.call(&[&["umoci"], words].concat())?.success().map(drop);
        umoci(&["init", "--layout", &layout.to_string_lossy()])?;
        umoci(&["new", "--image", &image("debian")])?;
        umoci(&[
            "insert",
            "--image",
            &image("debian"),
            &rootfs.to_string_lossy(),
            "/",
        ])?;
        umoci(&["config", "--image", &image("debian"), "--config.cmd", "/bin/bash"])?;
        fs::remove_dir_all(&rootfs)?;

        let tools = scene.new_directory("debian-tools")?;
        fs::copy(crate::programs::bin("croze-probe")?, tools.join("probe"))?;
        symlink("probe", tools.join("probe-link"))?;
        umoci(&[
            "insert",
            "--image",
            &image("debian"),
            "--tag",
            "app",
            &tools.to_string_lossy(),
            "/opt/tools",
        ])?;
        let data = scene.new_directory("debian-data")?;
        fs::write(data.join("greeting"), "hello from the third layer\n")?;
        umoci(&[
            "insert",
            "--image",
            &image("app"),
            &data.to_string_lossy(),
            "/srv/data",
        ])?;
        umoci(&[
            "config",
            "--image",
            &image("app"),
            "--config.env",
            "LAYERS=three",
            "--config.workingdir",
            "/srv/data",
            "--config.cmd",
            "cat",
            "--config.cmd",
            "greeting",
        ])?;
        Ok(layout)
    }
}

//! What the daemon runs on.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use croze_containers::{RuntimeProgram, State};
use croze_model::{Platform, Result};

use crate::checks::{HostCheck, HostFacts};
use crate::engine::Engine;

/// A runtime that does not say its version in this time has none.
pub(crate) const VERSION_LIMIT: Duration = Duration::from_secs(3);
/// So much of what it says is read.
const VERSION_BYTES: u64 = 4096;

/// Versions of the daemon and what it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Operating system and CPU architecture.
    pub platform: Platform,
    /// Kernel release.
    pub kernel: String,
    /// First line of the runtime's `--version`.
    pub runtime: String,
}

/// What the daemon runs on and how much it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Containers in all.
    pub containers: usize,
    /// Containers that run.
    pub running: usize,
    /// Images.
    pub images: usize,
    /// Durable state.
    pub root: String,
    /// State of this boot.
    pub run_root: String,
    /// The OCI runtime's program.
    pub runtime: String,
    /// `1`, `2` or `hybrid`.
    pub cgroup_version: &'static str,
    /// Kernel release.
    pub kernel: String,
    /// Name of the operating system.
    pub operating_system: String,
    /// Operating system and CPU architecture.
    pub platform: Platform,
    /// CPUs that may be used.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The host's name.
    pub hostname: String,
    /// How containers' file systems are made: `overlay` or `copy`.
    pub snapshotter: &'static str,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What the host can do for containers, and what it lacks.
    pub checks: Vec<HostCheck>,
}

impl Engine {
    /// Versions.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            platform: Platform::host(),
            kernel: kernel(),
            runtime: self.known_runtime_version().to_owned(),
        }
    }

    /// What the daemon runs on and how much it holds.
    ///
    /// # Errors
    /// If the images cannot be listed.
    pub async fn info(&self) -> Result<Info> {
        let containers = self.containers().list();
        let running = containers
            .iter()
            .filter(|container| container.state.is_running())
            .count();
        let mut warnings = self.leftovers();
        warnings.extend(self.network_warnings().await);
        warnings.extend(containers.iter().filter_map(|container| match &container.state {
            State::Dead { reason } => Some(format!("container {} cannot be used: {reason}", container.name)),
            _ => None,
        }));
        warnings.extend(self.images().unreadable().await?);
        let settings = self.settings();
        Ok(Info {
            containers: containers.len(),
            running,
            images: self.images().list().await?.len(),
            root: settings.root.display().to_string(),
            run_root: settings.run_root.display().to_string(),
            runtime: settings.runtimes.default_program().path.display().to_string(),
            cgroup_version: cgroup_version(&read("/proc/self/mountinfo")),
            kernel: kernel(),
            operating_system: os_name(&read("/etc/os-release")),
            platform: Platform::host(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
            snapshotter: self.snapshots().snapshotter().name(),
            warnings,
            checks: HostFacts::observe(&settings.root).checks(),
        })
    }
}

/// The first line of `RUNTIME --version`, or why there is none. Blocks.
pub(crate) fn runtime_version(runtime: &RuntimeProgram, limit: Duration) -> String {
    let program = &runtime.path;
    let child = Command::new(program)
        .args(&runtime.args)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return format!("unknown ({}: {error})", program.display()),
    };
    let (tell, told) = std::sync::mpsc::channel();
    let stdout = child.stdout.take();
    // Reading has no time limit, so it is done elsewhere; the thread ends with the program, at the latest when that is killed.
    std::thread::spawn(move || {
        let mut words = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(VERSION_BYTES).read_to_end(&mut words).ok();
        }
        tell.send(words).ok();
    });
    let words = told.recv_timeout(limit);
    if words.is_err() {
        child.kill().ok();
    }
    match (words, child.wait()) {
        (Ok(words), Ok(status)) if status.success() => String::from_utf8_lossy(&words)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
        (Ok(_), Ok(status)) => format!("unknown ({} --version ended with {status})", program.display()),
        (_, Err(error)) => format!("unknown ({}: {error})", program.display()),
        (Err(_), _) => format!(
            "unknown ({} --version took longer than {} s)",
            program.display(),
            limit.as_secs()
        ),
    }
}

/// A small file of the kernel; what cannot be read is empty.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn kernel() -> String {
    read("/proc/sys/kernel/osrelease").trim().to_owned()
}

/// Which versions of cgroups are mounted, by the file system types in mountinfo(5).
fn cgroup_version(mountinfo: &str) -> &'static str {
    let types: Vec<&str> = mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - ")?.1.split(' ').next())
        .collect();
    match (types.contains(&"cgroup"), types.contains(&"cgroup2")) {
        (true, true) => "hybrid",
        (true, false) => "1",
        (false, true) => "2",
        (false, false) => "none",
    }
}

fn os_name(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn memory_bytes(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_runtime_that_hangs_has_no_version() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &Path| RuntimeProgram {
            path: path.to_owned(),
            args: Vec::new(),
        };
        let program = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            at(&path)
        };
        let hangs = runtime_version(&program("hangs", "exec sleep 1000"), Duration::ZERO);
        assert!(hangs.contains("took longer"), "{hangs}");
        for (name, text, version) in [
            ("good", "echo rt 1; echo more", "rt 1"),
            ("fails", "exit 3", "ended with exit status: 3"),
        ] {
            let said = runtime_version(&program(name, text), VERSION_LIMIT);
            assert!(said.contains(version) && !said.contains("more"), "{said}");
        }
        assert!(runtime_version(&at(Path::new("/nowhere")), VERSION_LIMIT).contains("unknown"));
    }

    #[test]
    fn facts_are_read_from_the_kernels_words() {
        let v1 = "36 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let v2 = "37 25 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        for (text, version) in [
            (v1.to_owned(), "1"),
            (v2.to_owned(), "2"),
            (format!("{v1}{v2}"), "hybrid"),
            (String::new(), "none"),
        ] {
            assert_eq!(cgroup_version(&text), version);
        }
        assert_eq!(memory_bytes("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2 << 20);
        assert_eq!(memory_bytes(""), 0);
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Some Linux 1\"\n"), "Some Linux 1");
        assert_eq!(os_name(""), "Linux");
    }
}

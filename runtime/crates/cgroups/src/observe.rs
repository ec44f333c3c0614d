//! Which cgroup hierarchies a host shows, and where this process stands in each.
//!
//! A hierarchy is known by its line in `/proc/self/cgroup`; its mount is found in `/proc/self/mountinfo`. A
//! mount that another one covers is not used: its mount point then leads to another device.

use crate::error::Error;
use crate::file;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One hierarchy per controller or group of controllers, or a named one without any.
    V1,
    /// The unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Its version.
    pub kind: Kind,
    /// Its controllers: for version 1 as in `/proc/self/cgroup` (a named hierarchy has `name=NAME`), for
    /// version 2 those that are available at its mount point.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The directory of this process, below `mount`.
    pub own: PathBuf,
}

/// Which versions a host shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// No cgroups.
    None,
    /// Version 1 only.
    V1,
    /// Version 1 with a version 2 tree beside it.
    Hybrid,
    /// Version 2 only.
    V2,
}

/// Every hierarchy that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// In the order of `/proc/self/cgroup`.
    pub trees: Vec<Tree>,
}

/// What [`Observed::read`] asks of a host besides the two texts.
pub trait Host {
    /// Whether the file system of device `major:minor` is what is seen at `mount`.
    fn is_visible(&self, mount: &Path, device: (u32, u32)) -> bool;
    /// The contents of `cgroup.controllers` at `mount`.
    fn controllers(&self, mount: &Path) -> String;
}

/// Looks at the host.
///
/// # Errors
/// If `/proc/self/mountinfo` or `/proc/self/cgroup` cannot be read.
pub fn observe() -> Result<Observed, Error> {
    observe_from(Path::new("/proc/self/cgroup"))
}

/// Looks at the host as [`observe`], with `own` being where the process `pid` stands.
///
/// # Errors
/// As [`observe`]; the process may be gone.
pub fn observe_process(pid: i32) -> Result<Observed, Error> {
    observe_from(&PathBuf::from(format!("/proc/{pid}/cgroup")))
}

fn observe_from(cgroup: &Path) -> Result<Observed, Error> {
    let mountinfo = file::read(Path::new("/proc/self/mountinfo"))?;
    let cgroup = file::read(cgroup)?;
    Ok(Observed::read(&mountinfo, &cgroup, &Live))
}

struct Live;

impl Host for Live {
    fn is_visible(&self, mount: &Path, device: (u32, u32)) -> bool {
        fs::metadata(mount)
            .is_ok_and(|meta| (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev())) == device)
    }

    fn controllers(&self, mount: &Path) -> String {
        fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
    }
}

impl Observed {
    /// Reads the two texts as the kernel writes them.
    #[must_use]
    pub fn read(mountinfo: &str, cgroup: &str, host: &dyn Host) -> Self {
        let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        let trees = cgroup
            .lines()
            .filter_map(|line| tree(line, &mounts, host))
            .collect();
        Self { trees }
    }

    /// Which versions are there.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let v1 = self.trees.iter().any(|t| t.kind == Kind::V1);
        let v2 = self.trees.iter().any(|t| t.kind == Kind::V2);
        match (v1, v2) {
            (false, false) => Layout::None,
            (true, false) => Layout::V1,
            (true, true) => Layout::Hybrid,
            (false, true) => Layout::V2,
        }
    }

    /// The tree that has a controller.
    #[must_use]
    pub fn tree_of(&self, controller: &str) -> Option<&Tree> {
        self.trees
            .iter()
            .find(|t| t.controllers.iter().any(|c| c == controller))
    }

    /// The version 2 tree.
    #[must_use]
    pub fn unified(&self) -> Option<&Tree> {
        self.trees.iter().find(|t| t.kind == Kind::V2)
    }
}

/// One line of mountinfo, if it is a cgroup's.
struct Mount {
    kind: Kind,
    device: (u32, u32),
    root: PathBuf,
    point: PathBuf,
    options: String,
}

impl Mount {
    /// `36 31 0:33 / /sys/fs/cgroup/devices rw,relatime shared:9 - cgroup cgroup rw,devices`
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = match right.next()? {
            "cgroup" => Kind::V1,
            "cgroup2" => Kind::V2,
            _ => return None,
        };
        let options = right.nth(1)?.to_owned();
        let mut left = left.split(' ').skip(2);
        let (major, minor) = left.next()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let root = unescape(left.next()?);
        let point = unescape(left.next()?);
        Some(Self {
            kind,
            device,
            root,
            point,
            options,
        })
    }

    fn has(&self, controllers: &[String]) -> bool {
        controllers
            .iter()
            .all(|wanted| self.options.split(',').any(|option| option == wanted))
    }
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    if !text.contains('\\') {
        return PathBuf::from(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

/// `4:memory:/a/b` or `0::/a/b`.
fn tree(line: &str, mounts: &[Mount], host: &dyn Host) -> Option<Tree> {
    let mut fields = line.splitn(3, ':');
    let number = fields.next()?;
    let names = fields.next()?;
    let path = fields.next()?;
    let kind = if number == "0" && names.is_empty() {
        Kind::V2
    } else {
        Kind::V1
    };
    let mut controllers: Vec<String> = names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    // The mount through which this process' own directory can be reached is preferred: a bind mount of some
    // other part of the hierarchy may be there as well.
    let candidates = || {
        mounts.iter().filter(|m| {
            m.kind == kind && (kind == Kind::V2 || m.has(&controllers)) && host.is_visible(&m.point, m.device)
        })
    };
    let mount = candidates()
        .find(|m| Path::new(path).starts_with(&m.root))
        .or_else(|| candidates().next())?;
    let own = Path::new(path)
        .strip_prefix(&mount.root)
        .ok()
        .filter(|below| is_plain(below));
    let own = match own {
        Some(below) if !below.as_os_str().is_empty() => mount.point.join(below),
        // Outside of what is mounted (a cgroup namespace shows such paths with ".."): its top is all that can
        // be used.
        _ => mount.point.clone(),
    };
    let point = mount.point.clone();
    if kind == Kind::V2 {
        controllers = host
            .controllers(&point)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
    }
    Some(Tree {
        kind,
        controllers,
        mount: point,
        own,
    })
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host where every mount is visible but those named, and version 2 has the given controllers.
    pub(crate) struct Fixture {
        pub(crate) hidden: &'static [&'static str],
        pub(crate) v2: &'static str,
    }

    impl Host for Fixture {
        fn is_visible(&self, mount: &Path, _device: (u32, u32)) -> bool {
            !self.hidden.iter().any(|hidden| Path::new(hidden) == mount)
        }

        fn controllers(&self, _mount: &Path) -> String {
            self.v2.to_owned()
        }
    }

    pub(crate) const V1_MOUNTS: &str = "\
22 1 259:1 / / rw - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
";
    pub(crate) const V1_OWN: &str = "\
8:name=systemd:/
7:pids:/
6:freezer:/
5:devices:/
4:memory:/sandbox/a
3:cpuset:/
2:cpu,cpuacct:/
";
    pub(crate) const UNIFIED_MOUNT: &str =
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    pub(crate) const V2_MOUNT: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    pub(crate) fn v1() -> Observed {
        Observed::read(V1_MOUNTS, V1_OWN, &Fixture { hidden: &[], v2: "" })
    }

    pub(crate) fn hybrid() -> Observed {
        let mounts = format!("{V1_MOUNTS}{UNIFIED_MOUNT}");
        Observed::read(
            &mounts,
            &format!("{V1_OWN}0::/\n"),
            &Fixture {
                hidden: &[],
                v2: "hugetlb\n",
            },
        )
    }

    pub(crate) fn v2() -> Observed {
        let host = Fixture {
            hidden: &[],
            v2: "cpuset cpu io memory hugetlb pids\n",
        };
        Observed::read(V2_MOUNT, "0::/user.slice/session.scope\n", &host)
    }

    #[test]
    fn trees_are_found_on_every_layout() {
        assert_eq!(v1().layout(), Layout::V1);
        assert_eq!(hybrid().layout(), Layout::Hybrid);
        assert_eq!(v2().layout(), Layout::V2);
        assert_eq!(Observed::default().layout(), Layout::None);

        let observed = hybrid();
        let memory = observed.tree_of("memory").unwrap();
        assert_eq!(memory.own, Path::new("/sys/fs/cgroup/memory/sandbox/a"));
        assert_eq!(observed.tree_of("cpu"), observed.tree_of("cpuacct"));
        assert_eq!(
            observed.tree_of("name=systemd").unwrap().mount,
            Path::new("/sys/fs/cgroup/systemd")
        );
        assert_eq!(observed.tree_of("hugetlb").unwrap().kind, Kind::V2);
        assert_eq!(
            v2().unified().unwrap().own,
            Path::new("/sys/fs/cgroup/user.slice/session.scope")
        );
    }

    #[test]
    fn a_covered_mount_is_not_used() {
        let mounts = format!("{V1_MOUNTS}{UNIFIED_MOUNT}{V2_MOUNT}");
        let hidden = &[
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/cpuset",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/devices",
            "/sys/fs/cgroup/freezer",
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified",
        ];
        let observed = Observed::read(
            &mounts,
            &format!("{V1_OWN}0::/\n"),
            &Fixture { hidden, v2: "pids" },
        );
        assert_eq!(observed.layout(), Layout::V2);
        assert_eq!(observed.unified().unwrap().mount, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn inside_a_container_the_mount_root_is_taken_off() {
        let mounts = "50 40 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let all = Fixture { hidden: &[], v2: "" };
        for (own, want) in [
            ("/docker/x/child", "/sys/fs/cgroup/memory/child"),
            ("/docker/x", "/sys/fs/cgroup/memory"),
            ("/../elsewhere", "/sys/fs/cgroup/memory"),
            ("/docker/xy", "/sys/fs/cgroup/memory"),
        ] {
            let observed = Observed::read(mounts, &format!("4:memory:{own}\n"), &all);
            assert_eq!(observed.trees[0].own, Path::new(want), "{own}");
        }
    }

    #[test]
    fn escapes_in_mountinfo_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/a\\zz"), Path::new("/a\\zz"));
        assert_eq!(unescape("/a\\"), Path::new("/a\\"));
    }
}

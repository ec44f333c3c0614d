//! What the host can do for containers, what it lacks, and what to do about it: the part of `info` that answers "why does this not work here".
//!
//! ```text
//!   /proc, /sys, statvfs ──observe──▶ HostFacts ──checks (pure)──▶ [HostCheck]
//! ```
//!
//! Nothing is tried out and nothing is changed; a fact that cannot be read counts as not there. Not here: what Croze itself holds.

use std::fs;
use std::path::Path;

/// How well one thing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Ok,
    /// It is, with less than all that Croze can use.
    Partly,
    /// It is not.
    Missing,
}

/// One thing that containers may need of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCheck {
    /// What is looked at: a word or two.
    pub name: &'static str,
    /// How well it is there.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What follows and what to do about it; empty when all is well.
    pub hint: String,
}

impl HostCheck {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            hint: String::new(),
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// The oldest kernel that Croze is made for.
const OLDEST_KERNEL: (u32, u32) = (5, 10);
const NAMESPACES: [&str; 8] = ["pid", "mnt", "uts", "ipc", "net", "user", "cgroup", "time"];
/// What limits are made of; v1 and v2 names of the same thing side by side.
const CONTROLLERS: [(&str, &str); 5] = [
    ("memory", "memory"),
    ("cpu", "cpu"),
    ("cpuset", "cpuset"),
    ("pids", "pids"),
    ("blkio", "io"),
];
/// Capabilities (capabilities(7)) a daemon may lack in a container or under a service manager, and what is lost then.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (21, "SYS_ADMIN", "nothing can be isolated"),
    (12, "NET_ADMIN", "only the networks none and host can be used"),
    (
        24,
        "SYS_RESOURCE",
        "limits cannot be raised above the daemon's own, and shims are not protected from the OOM killer",
    ),
    (27, "MKNOD", "devices cannot be made in containers"),
];
/// Below this many open files a busy daemon may run out.
const ENOUGH_FILES: u64 = 65_536;
/// Below this share of the file system, in percent, pulls are likely to fail soon.
const LITTLE_SPACE_PERCENT: u64 = 5;

/// What the kernel says, as it says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostFacts {
    kernel: String,
    mountinfo: String,
    /// `cgroup.controllers` at the top of the v2 tree.
    controllers_v2: String,
    /// Whether v1's memory controller also counts swap; `None` without that controller.
    swap_accounting: Option<bool>,
    namespaces: Vec<&'static str>,
    max_user_namespaces: u64,
    filesystems: String,
    seccomp_actions: String,
    apparmor: bool,
    selinux: bool,
    ipv6: bool,
    effective_capabilities: u64,
    open_files: u64,
    /// Free and all bytes of the file system of the durable state.
    space: Option<(u64, u64)>,
    root: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

impl HostFacts {
    /// Looks at the host; `root` is where images and containers are kept.
    pub(crate) fn observe(root: &Path) -> Self {
        let mountinfo = read("/proc/self/mountinfo");
        let v1_memory = mount_of(&mountinfo, "cgroup", Some("memory"));
        let v2 = mount_of(&mountinfo, "cgroup2", None);
        let status = read("/proc/self/status");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            controllers_v2: v2
                .map(|dir| read(&format!("{dir}/cgroup.controllers")))
                .unwrap_or_default(),
            swap_accounting: v1_memory
                .map(|dir| Path::new(&dir).join("memory.memsw.limit_in_bytes").exists()),
            mountinfo,
            namespaces: NAMESPACES
                .into_iter()
                .filter(|kind| Path::new("/proc/self/ns").join(kind).exists())
                .collect(),
            max_user_namespaces: read("/proc/sys/user/max_user_namespaces")
                .trim()
                .parse()
                .unwrap_or(0),
            filesystems: read("/proc/filesystems"),
            seccomp_actions: read("/proc/sys/kernel/seccomp/actions_avail"),
            apparmor: read("/sys/module/apparmor/parameters/enabled").trim() == "Y",
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            ipv6: read("/proc/sys/net/ipv6/conf/all/disable_ipv6").trim() == "0",
            effective_capabilities: capability_mask(&status),
            open_files: open_files(&read("/proc/self/limits")),
            space: rustix::fs::statvfs(root).ok().map(|stat| {
                (
                    stat.f_bavail.saturating_mul(stat.f_frsize),
                    stat.f_blocks.saturating_mul(stat.f_frsize),
                )
            }),
            root: root.display().to_string(),
        }
    }

    /// What follows from the facts, in the order in which it is shown.
    pub(crate) fn checks(&self) -> Vec<HostCheck> {
        vec![
            self.kernel(),
            self.cgroups(),
            self.swap(),
            self.namespaces(),
            self.overlay(),
            self.space(),
            self.seccomp(),
            self.mandatory_access(),
            self.ipv6(),
            self.capabilities(),
            self.files(),
        ]
    }

    fn kernel(&self) -> HostCheck {
        let mut numbers = self
            .kernel
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= OLDEST_KERNEL {
            return HostCheck::new("kernel", Verdict::Ok, &self.kernel);
        }
        let (major, minor) = OLDEST_KERNEL;
        HostCheck::new("kernel", Verdict::Missing, &self.kernel).hint(format!(
            "Croze is made for Linux {major}.{minor} or newer; parts of it will fail here"
        ))
    }

    fn cgroups(&self) -> HostCheck {
        let v2: Vec<&str> = self.controllers_v2.split_whitespace().collect();
        let has = |(v1, name): &(&str, &str)| {
            v2.contains(name) || mount_of(&self.mountinfo, "cgroup", Some(v1)).is_some()
        };
        let (here, missing): (Vec<_>, Vec<_>) = CONTROLLERS.iter().partition(|names| has(names));
        let names = |list: &[&(&str, &str)]| list.iter().map(|(_, v2)| *v2).collect::<Vec<_>>().join(" ");
        if here.is_empty() {
            return HostCheck::new("cgroups", Verdict::Missing, "no controller is to be seen").hint(
                "no limit can be set; mount cgroups at /sys/fs/cgroup (`mount -t cgroup2 none /sys/fs/cgroup`)",
            );
        }
        if missing.is_empty() {
            return HostCheck::new("cgroups", Verdict::Ok, names(&here));
        }
        HostCheck::new(
            "cgroups",
            Verdict::Partly,
            format!("{}; without {}", names(&here), names(&missing)),
        )
        .hint("limits of the missing kinds are refused; the kernel's command line may enable them (cgroup_enable=memory)")
    }

    fn swap(&self) -> HostCheck {
        match self.swap_accounting {
            Some(false) => HostCheck::new("swap limit", Verdict::Missing, "the kernel does not count swap")
                .hint("--memory-swap is without effect; boot with swapaccount=1"),
            _ => HostCheck::new("swap limit", Verdict::Ok, "memory and swap are counted together"),
        }
    }

    fn namespaces(&self) -> HostCheck {
        let missing: Vec<&str> = NAMESPACES
            .into_iter()
            .filter(|kind| !self.namespaces.contains(kind))
            .collect();
        if !missing.is_empty() {
            return HostCheck::new(
                "namespaces",
                Verdict::Partly,
                format!("{}; without {}", self.namespaces.join(" "), missing.join(" ")),
            )
            .hint("containers that ask for the missing ones are refused");
        }
        if self.max_user_namespaces == 0 {
            return HostCheck::new("namespaces", Verdict::Partly, "user namespaces are switched off").hint(
                "allow them with `sysctl user.max_user_namespaces=15000` where containers are to have them",
            );
        }
        HostCheck::new("namespaces", Verdict::Ok, self.namespaces.join(" "))
    }

    fn overlay(&self) -> HostCheck {
        let overlay = self
            .filesystems
            .lines()
            .any(|line| line.split_whitespace().last() == Some("overlay"));
        if overlay {
            HostCheck::new("overlayfs", Verdict::Ok, "there")
        } else {
            HostCheck::new("overlayfs", Verdict::Missing, "not loaded")
                .hint("images cannot be stacked without it: `modprobe overlay`")
        }
    }

    fn space(&self) -> HostCheck {
        let Some((free, all)) = self.space else {
            return HostCheck::new(
                "space",
                Verdict::Partly,
                format!("{} cannot be looked at", self.root),
            );
        };
        let gib = |bytes: u64| bytes.div_euclid(1 << 30);
        let detail = format!("{} of {} GiB are free for {}", gib(free), gib(all), self.root);
        if free.saturating_mul(100) < all.saturating_mul(LITTLE_SPACE_PERCENT) {
            return HostCheck::new("space", Verdict::Partly, detail)
                .hint("pulls will fail soon: remove images (`croze rmi`) and containers (`croze rm`), or move --root");
        }
        HostCheck::new("space", Verdict::Ok, detail)
    }

    fn seccomp(&self) -> HostCheck {
        if !self
            .seccomp_actions
            .split_whitespace()
            .any(|action| action == "errno")
        {
            return HostCheck::new("seccomp", Verdict::Missing, "the kernel has no filters").hint(
                "containers run without a filter of system calls only with --security-opt seccomp=unconfined",
            );
        }
        HostCheck::new(
            "seccomp",
            Verdict::Ok,
            "filters, docker's default profile is used",
        )
    }

    fn mandatory_access(&self) -> HostCheck {
        match (self.apparmor, self.selinux) {
            (false, false) => HostCheck::new("AppArmor, SELinux", Verdict::Missing, "neither is active")
                .hint("containers are isolated without a second lock; --security-opt apparmor=… and label=… are refused"),
            (true, _) => HostCheck::new("AppArmor, SELinux", Verdict::Ok, "AppArmor"),
            (false, true) => HostCheck::new("AppArmor, SELinux", Verdict::Ok, "SELinux"),
        }
    }

    fn ipv6(&self) -> HostCheck {
        if self.ipv6 {
            HostCheck::new("IPv6", Verdict::Ok, "there")
        } else {
            HostCheck::new("IPv6", Verdict::Missing, "switched off or not in this kernel")
                .hint("bridge containers have IPv4 addresses only")
        }
    }

    fn capabilities(&self) -> HostCheck {
        let missing: Vec<_> = CAPABILITIES
            .iter()
            .filter(|(bit, ..)| self.effective_capabilities >> bit & 1 == 0)
            .collect();
        if missing.is_empty() {
            return HostCheck::new("capabilities", Verdict::Ok, "the daemon has what it needs");
        }
        let names: Vec<&str> = missing.iter().map(|(_, name, _)| *name).collect();
        let lost: Vec<&str> = missing.iter().map(|(.., lost)| *lost).collect();
        HostCheck::new(
            "capabilities",
            Verdict::Partly,
            format!("the daemon lacks {}", names.join(", ")),
        )
        .hint(lost.join("; "))
    }

    fn files(&self) -> HostCheck {
        let detail = format!("{} for the daemon", self.open_files);
        if self.open_files < ENOUGH_FILES {
            return HostCheck::new("open files", Verdict::Partly, detail)
                .hint(format!("enough for some hundred containers; LimitNOFILE=1024:{ENOUGH_FILES} or more in the service lifts it"));
        }
        HostCheck::new("open files", Verdict::Ok, detail)
    }
}

/// Where a file system of this type is mounted, for v1 the one with this controller (mountinfo: proc_pid_mountinfo(5)).
fn mount_of(mountinfo: &str, kind: &str, controller: Option<&str>) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut words = right.split(' ');
        let fits = words.next() == Some(kind)
            && controller.is_none_or(|name| {
                words
                    .nth(1)
                    .is_some_and(|options| options.split(',').any(|o| o == name))
            });
        fits.then(|| left.split(' ').nth(4).map(str::to_owned))?
    })
}

fn capability_mask(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// The soft limit in /proc/self/limits; `unlimited` is the largest number.
fn open_files(limits: &str) -> u64 {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next())
        .map_or(0, |soft| soft.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
                          31 25 0:27 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
                          32 25 0:28 / /sys/fs/cgroup/cpuset rw,nosuid - cgroup cgroup rw,cpuset\n\
                          33 25 0:29 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids\n\
                          34 25 0:30 / /sys/fs/cgroup/blkio rw,nosuid - cgroup cgroup rw,blkio\n";

    fn good() -> HostFacts {
        HostFacts {
            kernel: "6.1.0-18-amd64".into(),
            mountinfo: HYBRID.into(),
            swap_accounting: Some(true),
            namespaces: NAMESPACES.to_vec(),
            max_user_namespaces: 1000,
            filesystems: "nodev\tproc\nnodev\toverlay\n\text4\n".into(),
            seccomp_actions: "kill_process errno allow".into(),
            apparmor: true,
            ipv6: true,
            effective_capabilities: u64::MAX,
            open_files: 1 << 20,
            space: Some((50 << 30, 100 << 30)),
            root: "/var/lib/croze".into(),
            ..HostFacts::default()
        }
    }

    /// Else every container would get the daemon's many, or the daemon only the containers' few.
    #[test]
    fn the_packaged_service_has_a_low_limit_of_open_files_and_a_high_one() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../packaging/systemd/croze.service"
        );
        let unit = fs::read_to_string(path).unwrap();
        let limit = unit.lines().find_map(|line| line.strip_prefix("LimitNOFILE="));
        let (soft, hard) = limit.unwrap().split_once(':').unwrap();
        assert_eq!(soft, "1024");
        assert!(hard.parse::<u64>().unwrap() >= ENOUGH_FILES, "{hard}");
    }

    #[test]
    fn a_good_host_has_nothing_to_be_said() {
        for facts in [
            good(),
            HostFacts {
                mountinfo: "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n".into(),
                controllers_v2: "cpuset cpu io memory hugetlb pids\n".into(),
                swap_accounting: None,
                ..good()
            },
        ] {
            for check in facts.checks() {
                assert_eq!(
                    (check.verdict, check.hint.as_str()),
                    (Verdict::Ok, ""),
                    "{}",
                    check.name
                );
            }
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_follows() {
        let mut facts = good();
        facts.kernel = "4.19.0".into();
        facts.mountinfo = HYBRID.lines().skip(1).map(|line| format!("{line}\n")).collect();
        facts.swap_accounting = Some(false);
        facts.namespaces.retain(|kind| *kind != "time");
        facts.filesystems.clear();
        facts.seccomp_actions.clear();
        facts.apparmor = false;
        facts.ipv6 = false;
        facts.effective_capabilities &= !(1 << 24);
        facts.open_files = 1024;
        facts.space = Some((1 << 30, 100 << 30));
        let checks = facts.checks();
        let table = [
            ("kernel", Verdict::Missing, "4.19.0", "5.10"),
            (
                "cgroups",
                Verdict::Partly,
                "cpu cpuset pids io; without memory",
                "refused",
            ),
            ("swap limit", Verdict::Missing, "does not count", "swapaccount"),
            ("namespaces", Verdict::Partly, "without time", "refused"),
            ("overlayfs", Verdict::Missing, "not loaded", "modprobe"),
            ("space", Verdict::Partly, "1 of 100 GiB", "croze rmi"),
            ("seccomp", Verdict::Missing, "no filters", "unconfined"),
            ("AppArmor, SELinux", Verdict::Missing, "neither", "second lock"),
            ("IPv6", Verdict::Missing, "switched off", "IPv4"),
            ("capabilities", Verdict::Partly, "SYS_RESOURCE", "OOM"),
            ("open files", Verdict::Partly, "1024", "LimitNOFILE"),
        ];
        assert_eq!(checks.len(), table.len());
        for (check, (name, verdict, detail, hint)) in checks.iter().zip(table) {
            assert_eq!((check.name, check.verdict), (name, verdict));
            assert!(check.detail.contains(detail), "{name}: {}", check.detail);
            assert!(check.hint.contains(hint), "{name}: {}", check.hint);
        }
    }

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(
            mount_of(HYBRID, "cgroup", Some("cpu")).as_deref(),
            Some("/sys/fs/cgroup/cpu")
        );
        assert_eq!(mount_of(HYBRID, "cgroup", Some("cpuac")), None);
        assert_eq!(mount_of(HYBRID, "cgroup2", None), None);
        assert_eq!(
            capability_mask("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert_eq!(
            open_files(
                "Limit  Soft Limit  Hard\nMax open files            20000                20000                files\n"
            ),
            20_000
        );
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files\n"),
            u64::MAX
        );
        assert_eq!((capability_mask(""), open_files("")), (0, 0));
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let checks = HostFacts::observe(Path::new("/")).checks();
        assert_eq!(checks.len(), 11);
        assert!(
            checks
                .iter()
                .all(|check| (check.verdict == Verdict::Ok) == check.hint.is_empty() || check.name == "space")
        );
    }
}

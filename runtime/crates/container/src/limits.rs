//! Limits of a single process and parameters of the container's own namespaces.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use croze_sys::mount::{self, Attributes};
use croze_sys::{Errno, path};
use oci_spec::runtime::PosixRlimitType;
use rustix::fs::OFlags;

use crate::error::{Error, Result, While};
use crate::rootless::Rights;

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Its name, for messages.
    pub kind: PosixRlimitType,
    /// What applies.
    pub soft: u64,
    /// Up to where the process may raise it.
    pub hard: u64,
}

impl Limit {
    /// Raises the hard limit of the new process `pid` if the plan's is above what it has inherited. The parent does this, while the
    /// child is still who the parent is: in a user namespace, or as somebody else, the child has no right to.
    ///
    /// # Errors
    /// The caller has no `CAP_SYS_RESOURCE`.
    pub fn allow(&self, pid: i32) -> Result<()> {
        let action = || {
            format!(
                "raise the hard limit process.rlimits {} to {}",
                self.kind, self.hard
            )
        };
        let (soft, hard) = croze_sys::process::limit(number(self.kind)).while_doing(action)?;
        if self.hard <= hard {
            return Ok(());
        }
        croze_sys::process::set_limit(pid, number(self.kind), soft, self.hard).while_doing(action)
    }

    /// Sets the limit of the calling process, whose hard limit is high enough already.
    ///
    /// # Errors
    /// Nobody has raised it.
    pub fn take(&self) -> Result<()> {
        croze_sys::process::set_limit(0, number(self.kind), self.soft, self.hard)
            .while_doing(|| format!("set process.rlimits {} to {}/{}", self.kind, self.soft, self.hard))
    }
}

/// The kernel's number of a limit.
const fn number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

/// Sets how willing the kernel is to kill the process `pid` when memory runs out.
///
/// The parent does this for init: the file belongs to it even if init is in a user namespace.
///
/// # Errors
/// It is to be lowered and the caller has no `CAP_SYS_RESOURCE`.
pub fn set_oom_score_adj(pid: i32, score: i32) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    match std::fs::write(&path, score.to_string()) {
        // Only root may be less willing to be killed than it was.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !Rights::Looked.are_full() => {
            Ok(())
        }
        result => result.map_err(|source| Error::File {
            action: "set process.oomScoreAdj in",
            path,
            source,
        }),
    }
}

/// The names on the way to a kernel parameter, below `/proc/sys`; `None` if that is no name of one.
///
/// Both spellings are in use: `net.ipv4.ip_forward`, and `net/ipv4/conf/eth0.1/forwarding`, where a dot is part of a name. As in
/// sysctl(8), the first separator decides which of the two it is; the other one is then the one that stands inside of names. What
/// is checked is what will be opened: no name is empty, leads up, or has a separator left in it.
pub fn sysctl_names(parameter: &str) -> Option<Vec<String>> {
    let first = parameter.find(['.', '/'])?;
    let (separator, inside) = if parameter[first..].starts_with('/') {
        ('/', '.')
    } else {
        ('.', '/')
    };
    let names: Vec<String> = parameter
        .split(separator)
        .map(|name| name.replace(inside, "."))
        .collect();
    let is_plain = |name: &String| !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\0']);
    names.iter().all(is_plain).then_some(names)
}

/// The file of a kernel parameter, below a procfs.
fn sysctl_path(parameter: &str) -> Option<PathBuf> {
    let names = sysctl_names(parameter)?;
    Some(Path::new("sys").join(names.join("/")))
}

/// Writes kernel parameters through a procfs that no container has touched.
///
/// The files are looked up below `proc` without following a link or crossing a mount: a container whose `/proc` is forged, or
/// covered in places, cannot turn the write into one to another file. Which namespace's value is written depends on the
/// writing process alone, so the host's procfs does. Where that is read-only, or partly covered, a new one is made
/// that nothing else can see.
///
/// # Errors
/// There is no such parameter, or the value is refused.
pub fn write_sysctls(proc: impl AsFd, sysctls: &[(String, String)]) -> Result<()> {
    let mut own: Option<OwnedFd> = None;
    for (name, value) in sysctls {
        let action = || format!("set linux.sysctl {name} to {value:?}");
        let path = sysctl_path(name)
            .ok_or(croze_sys::Error::new("openat2", Errno::INVAL))
            .while_doing(action)?;
        let open = |proc: std::os::fd::BorrowedFd<'_>| path::open_same_mount(proc, &path, OFlags::WRONLY);
        let mut file = open(own.as_ref().map_or(proc.as_fd(), AsFd::as_fd));
        // Read-only as a whole, or in parts, by mounts on it.
        if own.is_none() && matches!(&file, Err(error) if matches!(error.errno, Errno::ROFS | Errno::XDEV)) {
            let private = mount::new_filesystem("proc", None, &[], Attributes::NONE).while_doing(action)?;
            file = open(private.as_fd());
            own = Some(private);
        }
        let file = file.while_doing(action)?;
        std::fs::File::from(file)
            .write_all(value.as_bytes())
            .map_err(|source| Error::File {
                action: "write",
                path: PathBuf::from("/proc").join(&path),
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_parameter_lead_to_its_file() {
        let cases = [
            ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "sys/net/ipv4/ip_forward"),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "sys/net/ipv4/conf/eth0.1/forwarding",
            ),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "sys/net/ipv4/conf/eth0.1/forwarding",
            ),
        ];
        for (name, path) in cases {
            assert_eq!(sysctl_path(name), Some(PathBuf::from(path)), "{name}");
        }
    }

    #[test]
    fn no_spelling_leads_up_or_elsewhere() {
        for name in [
            "",
            "net",
            "net.",
            ".net",
            "net..x",
            "net./.x",
            "net.//.kernel.core_pattern",
            "net.ipv4.//.//.kernel.printk",
            "net/../kernel/panic",
            "net/./x",
            "net//x",
            "/net/x",
            "net.x\0y",
        ] {
            assert_eq!(sysctl_path(name), None, "{name:?}");
        }
        // Three slashes in a dotted name are three dots in a directory's name: odd, and harmless.
        let odd = PathBuf::from("sys/net/.../x");
        assert_eq!(sysctl_path("net.///.x"), Some(odd));
    }
}

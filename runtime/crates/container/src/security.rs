//! What a process may do: capabilities, ids, labels. The order in which they are given up is what matters here.
//!
//! ```text
//! bounding set limited ─ capabilities kept over ─▶ groups, gid, uid ─▶ the four other sets
//!  (needs CAP_SETPCAP)      the change of user     (needs CAP_SETUID)   (nothing more can be gained)
//! ```

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use croze_sys::caps::{self, Set};
use croze_sys::{Errno, keyring, path, process};
use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use rustix::fs::{FileType, OFlags};

use crate::error::{Error, Result, While};

/// The name of a container's session keyring.
pub fn keyring_of(id: &str) -> String {
    format!("_ses.{id}")
}

/// Makes the session keyring of this name, which is the container's, this process's own: the first process makes it, those that are
/// added find it. Without that a process would keep its caller's, with the caller's secrets in it.
///
/// # Errors
/// Too many keys.
pub fn join_keyring(name: &str) -> Result<()> {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    match keyring::join_new_session(&name) {
        Ok(id) => match keyring::allow_owner(id) {
            // Somebody else's by now; whoever made it has opened it already.
            Err(error) if error.errno == Errno::ACCESS => Ok(()),
            result => result.while_doing(|| "open the session keyring to its owner".to_owned()),
        },
        // A kernel without keyrings has none that could leak in.
        Err(error) if error.is_missing() => Ok(()),
        Err(error) => Err(error).while_doing(|| "take a session keyring".to_owned()),
    }
}

/// The five capability sets of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    /// The most that any program it executes can have.
    pub bounding: Set,
    /// What it uses.
    pub effective: Set,
    /// What it can use.
    pub permitted: Set,
    /// What files that ask for it pass on.
    pub inheritable: Set,
    /// What programs keep that a user other than root executes.
    pub ambient: Set,
}

/// Reads the sets of a spec; pure. A process without any sets gets no capabilities.
///
/// The kernel refuses ambient capabilities that are not both permitted and inheritable: they are left out.
pub fn plan(sets: Option<&LinuxCapabilities>) -> CapabilityPlan {
    let Some(sets) = sets else {
        return CapabilityPlan::default();
    };
    let (permitted, inheritable) = (set_of(sets.permitted()), set_of(sets.inheritable()));
    CapabilityPlan {
        bounding: set_of(sets.bounding()),
        effective: set_of(sets.effective()).intersection(permitted),
        permitted,
        inheritable,
        ambient: set_of(sets.ambient())
            .intersection(permitted)
            .intersection(inheritable),
    }
}

fn set_of(names: &Option<Capabilities>) -> Set {
    names
        .iter()
        .flatten()
        .filter_map(|name| Set::named(&name.to_string()))
        .collect()
}

impl CapabilityPlan {
    /// Adds capabilities for one process that is to have more than its container (`exec --cap`). The inheritable set stays as
    /// it is: whoever executes a file with inheritable capabilities would otherwise gain them (CVE-2022-29162).
    pub fn add(&mut self, extra: Set) {
        self.bounding = self.bounding.with(extra);
        self.permitted = self.permitted.with(extra);
        self.effective = self.effective.with(extra);
    }

    /// What the host's kernel and the caller itself have of it: asking for more would only fail.
    #[must_use]
    pub fn limited_to(self, available: Set) -> Self {
        Self {
            bounding: self.bounding.intersection(available),
            effective: self.effective.intersection(available),
            permitted: self.permitted.intersection(available),
            inheritable: self.inheritable.intersection(available),
            ambient: self.ambient.intersection(available),
        }
    }
}

/// Who a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserPlan {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// Whether it keeps the caller's supplementary groups instead.
    pub keeps_groups: bool,
    /// The mask for new files.
    pub umask: u32,
}

/// Gives up everything that `user` and `capabilities` do not have.
///
/// # Errors
/// An id has no mapping in the container's user namespace, or the caller lacks the right to change it.
pub fn take_identity(user: &UserPlan, capabilities: &CapabilityPlan) -> Result<()> {
    let own = caps::own().while_doing(|| "read the capabilities".to_owned())?;
    let wanted = capabilities.limited_to(own.permitted);
    caps::limit_bounding(capabilities.bounding)
        .while_doing(|| "limit the bounding capabilities".to_owned())?;
    process::set_keep_capabilities(true).while_doing(|| "keep the capabilities".to_owned())?;
    if !user.keeps_groups {
        set_groups(&user.groups)?;
    }
    process::set_group(user.gid).while_doing(|| format!("set process.user.gid {}", user.gid))?;
    process::set_user(user.uid).while_doing(|| format!("set process.user.uid {}", user.uid))?;
    process::set_keep_capabilities(false).while_doing(|| "stop keeping the capabilities".to_owned())?;
    let sets = caps::Own {
        effective: wanted.effective,
        permitted: wanted.permitted,
        inheritable: wanted.inheritable,
    };
    caps::set_own(&sets).while_doing(|| "set the capabilities".to_owned())?;
    caps::set_ambient(wanted.ambient).while_doing(|| "set the ambient capabilities".to_owned())
}

fn set_groups(groups: &[u32]) -> Result<()> {
    match process::set_groups(groups) {
        // In a user namespace without a right to setgroups(2) there is nothing to drop and nothing can be added.
        Err(error) if groups.is_empty() && error.errno == Errno::PERM => Ok(()),
        result => result.while_doing(|| format!("set process.user.additionalGids {groups:?}")),
    }
}

/// Gives the standard descriptors to the user of the process, so that it can open `/dev/stdout` and its like.
///
/// # Errors
/// None: descriptors that cannot be given (a read-only file system, another user namespace) stay as they are.
pub fn give_stdio(uid: u32) {
    let null = rustix::fs::makedev(1, 3);
    for fd in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        let is_null =
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null;
        if stat.st_uid != uid && !is_null {
            rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None).ok();
        }
    }
}

/// Labels that take effect with the next `execve`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelPlan {
    /// An AppArmor profile.
    pub apparmor: Option<String>,
    /// An SELinux context.
    pub selinux: Option<String>,
}

/// Writes the labels through a procfs that no container has touched.
///
/// # Errors
/// The security module is not there, or does not know the label.
pub fn set_exec_labels(proc: BorrowedFd<'_>, labels: &LabelPlan) -> Result<()> {
    if let Some(profile) = &labels.apparmor {
        // The module's own directory exists since Linux 5.8; the shared file may belong to another module.
        let files = ["thread-self/attr/apparmor/exec", "thread-self/attr/exec"];
        write_attribute(
            proc,
            &files,
            &format!("exec {profile}"),
            "process.apparmorProfile",
        )?;
    }
    if let Some(label) = &labels.selinux {
        write_attribute(proc, &["thread-self/attr/exec"], label, "process.selinuxLabel")?;
    }
    Ok(())
}

/// Checks that a host whose labels a process is to have knows such labels. (Mounts go without theirs there, as with runc.)
///
/// # Errors
/// There is no SELinux.
pub fn check_selinux(labels: &LabelPlan) -> Result<()> {
    if labels.selinux.is_none() {
        return Ok(());
    }
    let field = "process.selinuxLabel";
    // The kernel registers it only where SELinux is enabled.
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.ends_with("\tselinuxfs")) {
        return Ok(());
    }
    let feature = "SELinux is not enabled in this kernel";
    Err(Error::MissingFeature { field, feature })
}

fn write_attribute(proc: BorrowedFd<'_>, files: &[&str], value: &str, field: &str) -> Result<()> {
    let own = thread_directory(proc)?;
    let mut last = Errno::NOENT;
    for file in files {
        let inner = PathBuf::from(file.trim_start_matches("thread-self/"));
        match path::open_same_mount(own.as_fd(), &inner, OFlags::WRONLY) {
            Ok(fd) => {
                let written = rustix::io::write(&fd, value.as_bytes()).map(drop);
                // What a kernel says that has another security module, or none.
                let hint = if matches!(written, Err(Errno::INVAL)) {
                    " (is the security module enabled on this host?)"
                } else {
                    ""
                };
                return written.while_doing(|| format!("set {field} {value:?} through `/proc/{file}`{hint}"));
            }
            Err(error) => last = error.errno,
        }
    }
    Err(Error::System {
        action: format!("set {field} {value:?}: is the security module enabled on this host?"),
        source: croze_sys::Error::new("openat2", last),
    })
}

/// `/proc/thread-self` is a link, which is not followed blindly: its target is looked up in the same procfs.
fn thread_directory(proc: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd> {
    let action = || "find this process in /proc".to_owned();
    let link = rustix::fs::readlinkat(proc, "thread-self", Vec::new()).while_doing(action)?;
    let target = PathBuf::from(String::from_utf8_lossy(link.as_bytes()).into_owned());
    path::open_same_mount(proc, &target, OFlags::PATH | OFlags::DIRECTORY).while_doing(action)
}

/// All capabilities that the caller could hand on.
///
/// # Errors
/// None that is to be expected.
pub fn available() -> Result<Set> {
    Ok(caps::own()
        .while_doing(|| "read the capabilities".to_owned())?
        .permitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    fn sets(names: &[Capability]) -> Option<Capabilities> {
        Some(names.iter().copied().collect())
    }

    fn set(names: &[&str]) -> Set {
        names.iter().filter_map(|name| Set::named(name)).collect()
    }

    #[test]
    fn no_sets_mean_no_capabilities() {
        assert_eq!(plan(None), CapabilityPlan::default());
    }

    #[test]
    fn ambient_and_effective_stay_within_what_is_permitted() {
        let mut given = LinuxCapabilities::default();
        given.set_bounding(sets(&[Capability::Kill, Capability::Chown]));
        given.set_permitted(sets(&[Capability::Kill]));
        given.set_effective(sets(&[Capability::Kill, Capability::Chown]));
        given.set_inheritable(sets(&[]));
        given.set_ambient(sets(&[Capability::Kill]));
        let plan = plan(Some(&given));
        assert_eq!(plan.bounding, set(&["KILL", "CHOWN"]));
        assert_eq!(plan.effective, set(&["KILL"]));
        assert_eq!(plan.ambient, Set::EMPTY);
    }

    #[test]
    fn added_capabilities_are_not_inheritable() {
        let mut plan = CapabilityPlan::default();
        plan.add(set(&["SYS_ADMIN"]));
        assert_eq!(plan.permitted, set(&["SYS_ADMIN"]));
        assert_eq!((plan.inheritable, plan.ambient), (Set::EMPTY, Set::EMPTY));
    }
}

//! The stage that a process is cloned from which the runtime cannot be the one to clone.
//!
//! Whoever is in a user namespace has rights over the namespaces that are made in it. A namespace that is made by `clone3` belongs to the
//! caller's user namespace, so somebody must be in the joined one before init is cloned, and that cannot be the runtime, which would
//! not come back out. It is the same with the pid and time namespaces that init is to be born into: the runtime might not have the right
//! to go back to its own, and its next children, the hooks, would be born in the container's.
//!
//! ```text
//! runtime ──clone──▶ stage: enter the namespaces, become root of a user namespace that is among them
//!    │                   └──clone with CLONE_PARENT──▶ init (the runtime's own child)
//!    ◀── pidfd of init ──┘ ends
//! ```

use std::os::fd::{AsFd, BorrowedFd};

use croze_sys::clone::{self, CloneRequest, Cloned, Parentage};
use croze_sys::{pidfd, process, socket};

use crate::error::{Error, Result, While, chain};
use crate::namespaces::Opened;

/// Clones as `request` says, from within the user namespace `user`, and within `others`, which its root may join.
///
/// # Errors
/// The user namespace cannot be joined, or the process cannot be made in it.
pub fn clone_in_user_namespace(
    user: &Opened,
    others: &[Opened],
    request: &CloneRequest<'_>,
) -> Result<Cloned> {
    // The stage is born in the cgroup, and init inherits it: from within the user namespace it could not be chosen.
    clone_from_stage(request.cgroup, || clone_inside(user, others, request))
}

/// Clones a stage, into a cgroup of version 2 if one is given, which clones what is wanted: `clone` is called in it, and makes a
/// [`Parentage::Sibling`] there.
///
/// # Errors
/// The stage cannot be made, or what `clone` says.
pub fn clone_from_stage(
    cgroup: Option<BorrowedFd<'_>>,
    clone: impl FnOnce() -> Result<Cloned>,
) -> Result<Cloned> {
    let action = || "prepare to enter the namespaces".to_owned();
    let (here, there) = socket::message_pair().while_doing(action)?;
    let stage = CloneRequest {
        cgroup,
        ..CloneRequest::default()
    };
    match clone::clone3(&stage).while_doing(action)? {
        Cloned::Child => {
            drop(here);
            match clone() {
                Ok(Cloned::Child) => Ok(Cloned::Child),
                Ok(Cloned::Parent { pidfd, .. }) => {
                    let sent = socket::send_fds(&there, b"+", &[pidfd.as_fd()]);
                    process::exit_now(i32::from(sent.is_err()))
                }
                Err(error) => {
                    // If the runtime is gone there is nobody to tell.
                    socket::send(&there, chain(&error).as_bytes()).ok();
                    process::exit_now(1)
                }
            }
        }
        Cloned::Parent { pidfd: stage, .. } => {
            drop(there);
            let mut buffer = [0; 1024];
            let (length, mut fds) = socket::receive_fds(&here, &mut buffer).while_doing(action)?;
            pidfd::reap(&stage).while_doing(action)?;
            let Some(init) = fds.pop() else {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                return Err(Error::Init {
                    step: "enter the namespaces".to_owned(),
                    message,
                });
            };
            let pid = pid_of(&init)?;
            Ok(Cloned::Parent { pid, pidfd: init })
        }
    }
}

/// To be called in a stage: clones as `request` says, in the stage's cgroup, from within the user namespace.
///
/// # Errors
/// As [`clone_in_user_namespace`].
pub fn clone_inside(user: &Opened, others: &[Opened], request: &CloneRequest<'_>) -> Result<Cloned> {
    user.join()?;
    let action = || "become root in the joined user namespace (is id 0 mapped?)".to_owned();
    process::set_group(0).while_doing(action)?;
    process::set_user(0).while_doing(action)?;
    others.iter().try_for_each(Opened::join)?;
    let request = CloneRequest {
        cgroup: None,
        parentage: Parentage::Sibling,
        ..*request
    };
    clone::clone3(&request).while_doing(|| "make the container's first process in its namespaces".to_owned())
}

/// The pid behind a pidfd, in this process's namespace: the stage may see another one.
fn pid_of(pidfd: &std::os::fd::OwnedFd) -> Result<i32> {
    use std::os::fd::AsRawFd;
    let path = std::path::PathBuf::from(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let text = std::fs::read_to_string(&path).map_err(|source| Error::File {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or(Error::InitEnded {
        how: "before its pid was known".to_owned(),
    })
}

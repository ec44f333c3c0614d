//! The stage that joins a user namespace.
//!
//! Whoever is in a user namespace has rights over the namespaces that are made in it. A namespace that is made by `clone3` belongs to the
//! caller's user namespace, so somebody must be in the joined one before init is cloned, and that cannot be the runtime, which would
//! not come back out.
//!
//! ```text
//! runtime ──clone──▶ bootstrap: join the user namespace, become its root
//!    │                   └──clone with CLONE_PARENT──▶ init (the runtime's own child)
//!    ◀── pidfd of init ──┘ ends
//! ```

use std::os::fd::AsFd;

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
    let action = || "prepare to join the user namespace".to_owned();
    let (here, there) = socket::message_pair().while_doing(action)?;
    // The stage is born in the cgroup, and init inherits it: from within the user namespace it could not be chosen.
    let stage = CloneRequest {
        cgroup: request.cgroup,
        ..CloneRequest::default()
    };
    match clone::clone3(&stage).while_doing(action)? {
        Cloned::Child => {
            drop(here);
            match clone_inside(user, others, request) {
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
                    step: "join the user namespace".to_owned(),
                    message,
                });
            };
            let pid = pid_of(&init)?;
            Ok(Cloned::Parent { pid, pidfd: init })
        }
    }
}

fn clone_inside(user: &Opened, others: &[Opened], request: &CloneRequest<'_>) -> Result<Cloned> {
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

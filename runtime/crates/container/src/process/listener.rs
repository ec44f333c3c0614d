//! Handing over the listener of a seccomp filter: who reads from it decides about the system calls that the filter asks about.
//!
//! ```text
//! child ── Listening { descriptor } ──▶ runtime ── pidfd_getfd ──▶ the descriptor, here too
//!                                          └── ContainerProcessState + descriptor ──▶ the socket at listenerPath
//! ```
//!
//! The child cannot send the descriptor itself: its filter may ask the listener about `sendmsg`, before anybody listens.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use croze_sys::{pidfd, socket};
use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;

use crate::error::{Result, While};
use crate::hooks::HookState;

/// Who listens, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `linux.seccomp.listenerPath`: a unix socket.
    pub path: PathBuf,
    /// `linux.seccomp.listenerMetadata`: passed on as it is.
    pub metadata: String,
}

/// The specification's `ContainerProcessState`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a HookState,
}

impl Listener {
    /// The listener of a profile, if it names one.
    pub fn of(profile: &LinuxSeccomp) -> Option<Self> {
        let path = profile.listener_path().clone()?;
        let metadata = profile.listener_metadata().clone().unwrap_or_default();
        Some(Self { path, metadata })
    }

    /// Takes the descriptor out of the process `pid` and sends it to the socket, with what is to be known of the container.
    ///
    /// # Errors
    /// Nobody listens there, or the kernel cannot take descriptors out of processes (before Linux 5.6).
    pub fn hand_over(&self, pid: i32, process: &OwnedFd, descriptor: i32, state: &HookState) -> Result<()> {
        let taken = pidfd::take_descriptor(process, descriptor)
            .while_doing(|| "take over the listener of linux.seccomp (needs Linux 5.6)".to_owned())?;
        let state = HookState {
            // Of a first process the caller does not know the pid yet.
            pid: if state.pid == 0 { pid } else { state.pid },
            ..state.clone()
        };
        let message = Message {
            oci_version: &state.oci_version,
            fds: ["seccompFd"],
            pid,
            metadata: &self.metadata,
            state: &state,
        };
        let text = serde_json::to_vec(&message).unwrap_or_default();
        let action = || {
            format!(
                "send the listener to linux.seccomp.listenerPath {}",
                self.path.display()
            )
        };
        let to = socket::connect(&self.path).while_doing(action)?;
        socket::send_fds(&to, &text, &[taken.as_fd()]).while_doing(action)
    }
}

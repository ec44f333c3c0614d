//! Containers that share namespaces of another one: whose they are is fixed when they are created, and looked up when they start.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use crate::error::ContainersError;
use crate::observe;
use crate::options::PidMode;
use crate::record::{Container, State};
use crate::request::CreateRequest;
use crate::service::{Containers, Result};

impl Containers {
    /// The request with the full id of the container whose namespaces it joins: a name may be another one's by the time of the start.
    pub(crate) fn with_full_ids(&self, mut request: CreateRequest) -> Result<CreateRequest> {
        if let PidMode::Container(name) = &mut request.options.namespaces.pid {
            *name = self.resolve(name)?.to_string();
        }
        Ok(request)
    }

    /// The pid namespace that a container joins; that container must run.
    pub(crate) fn pid_namespace(&self, container: &Container) -> Result<Option<JoinedNamespace>> {
        let PidMode::Container(id) = &container.request.options.namespaces.pid else {
            return Ok(None);
        };
        let other = self.get(&self.resolve(id)?)?;
        let held = match &other.state {
            State::Running { process } => observe::open_pid_namespace(process),
            _ => None,
        };
        match held {
            Some(namespace) => Ok(Some(JoinedNamespace(namespace))),
            None => Err(ContainersError::WrongState {
                name: other.name.to_string(),
                state: other.state.name(),
                needs: "it must run, for another container joins its processes",
            }),
        }
    }
}

/// A namespace that is held open until the runtime has joined it.
///
/// The runtime gets this descriptor's path and not the process's: when that process ends its number may become another one's, a process of the
/// host's perhaps, before the runtime looks.
#[derive(Debug)]
pub(crate) struct JoinedNamespace(File);

impl JoinedNamespace {
    /// Where other processes find it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

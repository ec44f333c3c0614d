//! Containers that share namespaces of another one: whose they are is fixed when they are created, and looked up when they start.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

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
        let joined = self.namespace_of(
            id,
            "pid",
            "it must run, for another container joins its processes",
        )?;
        Ok(Some(joined))
    }

    /// The network namespace of a container that runs, for another one to join.
    ///
    /// # Errors
    ///
    /// [`ContainersError::NotFound`], [`ContainersError::WrongState`] if it does not run.
    pub fn network_namespace(&self, id: &str) -> Result<JoinedNamespace> {
        self.namespace_of(id, "net", "it must run, for another container joins its network")
    }

    fn namespace_of(&self, id: &str, kind: &str, needs: &'static str) -> Result<JoinedNamespace> {
        let other = self.get(&self.resolve(id)?)?;
        let held = match &other.state {
            State::Running { process } => observe::open_namespace(process, kind),
            _ => None,
        };
        match held {
            Some(namespace) => Ok(JoinedNamespace(Arc::new(namespace))),
            None => Err(ContainersError::WrongState {
                name: other.name.to_string(),
                state: other.state.name(),
                needs,
            }),
        }
    }
}

/// A namespace that is held open until the runtime has joined it.
///
/// The runtime gets this descriptor's path and not the process's: when that process ends its number may become another one's, a process of the
/// host's perhaps, before the runtime looks.
#[derive(Debug, Clone)]
pub struct JoinedNamespace(Arc<File>);

impl JoinedNamespace {
    /// Where other processes find it, for as long as this is held.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

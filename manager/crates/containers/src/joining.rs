//! Containers that share namespaces of another one: whose they are is fixed when they are created, and looked up when they start.

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

    /// The pid namespace that a container joins, as a path; that container must run.
    ///
    /// The path is by number: a process that ends between here and the runtime's look leaves a name that leads nowhere, or, after a whole turn
    /// of the numbers, to a process whose namespace only root's own request can have chosen.
    pub(crate) fn pid_namespace(&self, container: &Container) -> Result<Option<PathBuf>> {
        let PidMode::Container(id) = &container.request.options.namespaces.pid else {
            return Ok(None);
        };
        let other = self.get(&self.resolve(id)?)?;
        match &other.state {
            State::Running { process } if observe::open_process(process).is_some() => {
                Ok(Some(PathBuf::from(format!("/proc/{}/ns/pid", process.pid))))
            }
            state => Err(ContainersError::WrongState {
                name: other.name.to_string(),
                state: state.name(),
                needs: "it must run, for another container joins its processes",
            }),
        }
    }
}

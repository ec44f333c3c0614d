//! What still occupies a container that does not run: whoever unmounts or removes its root file system asks here first.
//!
//! The record alone cannot tell. A shim that waits to execute the command uses the root file system in every state of the record, and one
//! that does not answer may.

use std::time::Duration;

use croze_model::ContainerId;
use croze_proto::shim::{self as wire, Phase, request};
use tokio::time::timeout;

use crate::link::{DialError, Link};
use crate::service::{Containers, Result};

/// How long a discarded container and its shim may take to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is found on a container's run directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// No shim: nothing uses the root file system.
    Nothing,
    /// A shim waits to execute the command: prepared, not started.
    Prepared,
    /// A shim is there that runs the command, is starting it, is about to leave, or does not answer.
    Busy,
}

impl Containers {
    /// Asks the shim of a container, if there is one.
    ///
    /// # Errors
    ///
    /// [`crate::ContainersError::NotFound`].
    pub async fn remains(&self, id: &ContainerId) -> Result<Remains> {
        let container = self.get(id)?;
        Ok(
            match Link::dial(&self.run_dir(id), container.name.as_str()).await {
                // A shim whose socket was taken away, or what a dead one left running.
                Err(DialError::Absent) => {
                    let traces = self.traces(&container).await?;
                    match traces.shim_lives || traces.process.is_some() {
                        true => Remains::Busy,
                        false => Remains::Nothing,
                    }
                }
                Err(DialError::Silent(_) | DialError::Unusable(_)) => Remains::Busy,
                Ok(mut link) => match link.status().await {
                    Ok(status) if status.phase() == Phase::Created && !status.starting => Remains::Prepared,
                    // In doubt it is in use.
                    Ok(_) | Err(_) => Remains::Busy,
                },
            },
        )
    }

    /// Takes back what [`Containers::prepare`] did; says whether there was something to take back. One that was started meanwhile is
    /// left alone.
    ///
    /// # Errors
    ///
    /// [`crate::ContainersError::NotFound`], or what the shim says.
    pub async fn discard(&self, id: &ContainerId) -> Result<bool> {
        let container = self.get(id)?;
        let Ok(mut link) = Link::dial(&self.run_dir(id), container.name.as_str()).await else {
            return Ok(false);
        };
        let status = link.status().await?;
        if status.phase() != Phase::Created || status.starting {
            // A start that a former daemon asked for, and which nobody has recorded.
            self.reconcile(&container).await?;
            return Ok(false);
        }
        link.ask(request::Body::Discard(wire::Discard {})).await?;
        // The run directory and the root file system are free when the shim is gone; one that stays is seen by who asks next.
        let _gone = timeout(GONE_TIMEOUT, link.wait_for_end()).await;
        Ok(true)
    }
}

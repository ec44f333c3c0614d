//! `stop`, `kill`, `rm`, `wait`: one call per name, the name printed when it worked.

use croze_client::v1::{
    KillContainerRequest, RemoveContainerRequest, StopContainerRequest, WaitContainerRequest,
};
use croze_client::{Client, Error};

use crate::args::{KillArgs, NamesArgs, RmArgs, StopArgs};
use crate::failure::Failure;
use crate::verbs::for_each_name;

/// `croze stop`
pub(super) async fn stop(client: &Client, args: &StopArgs) -> Result<u8, Failure> {
    for_each_name(&args.containers, |container| async move {
        let request = StopContainerRequest {
            container: container.clone(),
            timeout_seconds: args.time,
            signal: args.signal.clone().unwrap_or_default(),
        };
        client
            .containers()
            .stop_container(request)
            .await
            .map_err(Error::from)?;
        Ok(container)
    })
    .await
}

/// `croze kill`
pub(super) async fn kill(client: &Client, args: &KillArgs) -> Result<u8, Failure> {
    for_each_name(&args.containers, |container| async move {
        let request = KillContainerRequest {
            container: container.clone(),
            signal: args.signal.clone(),
        };
        client
            .containers()
            .kill_container(request)
            .await
            .map_err(Error::from)?;
        Ok(container)
    })
    .await
}

/// `croze rm`
pub(super) async fn remove(client: &Client, args: &RmArgs) -> Result<u8, Failure> {
    for_each_name(&args.containers, |container| async move {
        let request = RemoveContainerRequest {
            container: container.clone(),
            force: args.force,
        };
        client
            .containers()
            .remove_container(request)
            .await
            .map_err(Error::from)?;
        Ok(container)
    })
    .await
}

/// `croze wait`
pub(super) async fn wait(client: &Client, args: &NamesArgs) -> Result<u8, Failure> {
    for_each_name(&args.names, |container| async move {
        let request = WaitContainerRequest { container };
        let answer = client
            .containers()
            .wait_container(request)
            .await
            .map_err(Error::from)?
            .into_inner();
        let status = answer.status.ok_or(Error::Protocol {
            expected: "the exit status",
        })?;
        Ok(status.code.to_string())
    })
    .await
}

//! `inspect`: everything about containers and images, with docker's field names.

use croze_client::v1::{
    ContainerState, ErrorKind, InspectContainerRequest, InspectContainerResponse, InspectImageRequest,
    InspectImageResponse, Mount,
};
use croze_client::{Client, Error};
use serde_json::{Value, json};

use crate::args::NamesArgs;
use crate::failure::Failure;
use crate::output;

/// Time of something that has not happened, as docker writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// `croze inspect`: containers first, then images.
pub(super) async fn inspect(client: &Client, args: &NamesArgs) -> Result<u8, Failure> {
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.names {
        match one(client, name).await {
            Ok(value) => found.push(value),
            Err(failure) => {
                failure.print();
                failed = true;
            }
        }
    }
    let text =
        serde_json::to_string_pretty(&found).map_err(|error| Failure::io("encode JSON", error.into()))?;
    output::line(&text)?;
    if failed { Err(Failure::reported()) } else { Ok(0) }
}

async fn one(client: &Client, name: &str) -> Result<Value, Failure> {
    let request = InspectContainerRequest {
        container: name.to_owned(),
    };
    match client
        .containers()
        .inspect_container(request)
        .await
        .map_err(Error::from)
    {
        Ok(response) => return Ok(container(&response.into_inner())),
        // What is no container's name may be an image's, even one that no container could have.
        Err(error)
            if matches!(
                error.kind(),
                Some(ErrorKind::NotFound | ErrorKind::InvalidArgument)
            ) => {}
        Err(error) => return Err(error.into()),
    }
    let request = InspectImageRequest {
        image: name.to_owned(),
    };
    match client.images().inspect_image(request).await.map_err(Error::from) {
        Ok(response) => Ok(image(&response.into_inner())),
        Err(error) if error.kind() == Some(ErrorKind::NotFound) => Err(Failure::usage(
            format!("no such object: {name}"),
            Some("`croze ps -a` and `croze images` list what there is"),
        )),
        Err(error) => Err(error.into()),
    }
}

fn container(response: &InspectContainerResponse) -> Value {
    let summary = response.summary.clone().unwrap_or_default();
    let limits = response.resources.clone().unwrap_or_default();
    let (path, arguments) = match summary.command.split_first() {
        Some((path, arguments)) => (path.as_str(), arguments),
        None => ("", &[][..]),
    };
    json!({
        "Id": summary.id,
        "Created": summary.created_at,
        "Path": path,
        "Args": arguments,
        "State": state(response),
        "Image": summary.image_id,
        "LogPath": response.log_path,
        "Name": format!("/{}", summary.name),
        "Driver": "overlay",
        "Platform": "linux",
        // Nothing restarts a container but its user.
        "RestartCount": 0,
        "BundlePath": response.bundle_path,
        "HostConfig": {
            "Binds": response.mounts.iter().map(bind).collect::<Vec<_>>(),
            "NetworkMode": response.network,
            "AutoRemove": response.auto_remove,
            "Runtime": response.runtime,
            "Memory": limits.memory_bytes,
            "MemorySwap": limits.memory_swap_bytes,
            "NanoCpus": limits.nano_cpus,
            "CpuShares": limits.cpu_shares,
            "CpusetCpus": limits.cpuset_cpus,
            "PidsLimit": limits.pids_limit,
        },
        "Mounts": response.mounts.iter().map(mount).collect::<Vec<_>>(),
        "NetworkSettings": network(&response.network),
        "Config": {
            "Hostname": response.hostname,
            "User": response.user,
            "Tty": response.tty,
            "OpenStdin": response.open_stdin,
            "Env": response.env,
            "Entrypoint": or_null(&response.entrypoint),
            "Cmd": or_null(&response.cmd),
            "Image": summary.image,
            "WorkingDir": response.working_dir,
            "Labels": summary.labels,
            "StopSignal": response.stop_signal,
        },
    })
}

fn state(response: &InspectContainerResponse) -> Value {
    let summary = response.summary.clone().unwrap_or_default();
    let exit = summary.exit.clone().unwrap_or_default();
    let state = summary.state();
    json!({
        "Status": state_name(state),
        "Running": state == ContainerState::Running,
        // What docker's readers look for, and what no container here can be.
        "Paused": false,
        "Restarting": false,
        "OOMKilled": exit.oom_killed,
        "Dead": state == ContainerState::Dead,
        "Pid": response.pid,
        "ShimPid": response.shim_pid,
        "ExitCode": exit.code,
        "Error": summary.error,
        "StartedAt": or_never(&summary.started_at),
        "FinishedAt": or_never(&exit.finished_at),
        "LogLinesDropped": response.log_lines_dropped,
    })
}

fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Unspecified => "unknown",
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Dead => "dead",
    }
}

/// A list that is not there is `null` to docker's readers.
fn or_null(words: &[String]) -> Value {
    if words.is_empty() {
        Value::Null
    } else {
        json!(words)
    }
}

/// Neither `none` nor `host` has an address or a port of its own.
fn network(kind: &str) -> Value {
    json!({
        "Ports": {},
        "IPAddress": "",
        "Gateway": "",
        "MacAddress": "",
        "Networks": { kind: { "IPAddress": "", "Gateway": "", "MacAddress": "" } },
    })
}

/// A mount as `-v` takes it.
fn bind(mount: &Mount) -> String {
    let mut options = Vec::new();
    if mount.read_only {
        options.push("ro");
    }
    if !mount.propagation.is_empty() {
        options.push(&mount.propagation);
    }
    let mut text = format!("{}:{}", mount.source, mount.target);
    if !options.is_empty() {
        text.push(':');
        text.push_str(&options.join(","));
    }
    text
}

fn or_never(time: &str) -> &str {
    if time.is_empty() { NEVER } else { time }
}

fn mount(mount: &Mount) -> Value {
    json!({
        "Type": "bind",
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": if mount.read_only { "ro" } else { "rw" },
        "RW": !mount.read_only,
        "Propagation": if mount.propagation.is_empty() { "rprivate" } else { &mount.propagation },
    })
}

fn image(response: &InspectImageResponse) -> Value {
    let summary = response.summary.clone().unwrap_or_default();
    // What the registry delivered may be any JSON; an object's "config" is what docker shows.
    let delivered: Value = serde_json::from_slice(&response.config_json).unwrap_or(Value::Null);
    let (with_digest, with_tag): (Vec<_>, Vec<_>) = summary
        .references
        .iter()
        .partition(|reference| reference.contains('@'));
    json!({
        "Id": summary.id,
        "RepoTags": with_tag,
        "RepoDigests": with_digest,
        "Digest": summary.digest,
        "Created": summary.created,
        "Author": delivered.get("author").cloned().unwrap_or(Value::String(String::new())),
        "Config": delivered.get("config").cloned().unwrap_or(Value::Null),
        "Architecture": summary.architecture,
        "Os": summary.os,
        "Size": summary.size_bytes,
        "RootFS": { "Type": "layers", "Layers": response.diff_ids },
    })
}

#[cfg(test)]
mod tests {
    use croze_client::v1::{ContainerSummary, ExitStatus, ImageSummary};

    use super::*;

    #[test]
    fn a_container_has_dockers_fields() {
        let value = container(&InspectContainerResponse {
            summary: Some(ContainerSummary {
                id: "ab".to_owned(),
                name: "web".to_owned(),
                command: vec!["sh".to_owned(), "-c".to_owned()],
                state: ContainerState::Exited.into(),
                exit: Some(ExitStatus {
                    code: 137,
                    oom_killed: true,
                    finished_at: "T".to_owned(),
                }),
                ..ContainerSummary::default()
            }),
            cmd: vec!["-c".to_owned()],
            network: "none".to_owned(),
            mounts: vec![Mount {
                source: "/a".to_owned(),
                target: "/b".to_owned(),
                read_only: true,
                ..Mount::default()
            }],
            ..InspectContainerResponse::default()
        });
        assert_eq!(value["Name"], "/web");
        assert_eq!(value["Config"]["Entrypoint"], Value::Null);
        assert_eq!(value["Config"]["Cmd"], json!(["-c"]));
        assert_eq!(value["HostConfig"]["Binds"], json!(["/a:/b:ro"]));
        assert_eq!(value["NetworkSettings"]["Networks"]["none"]["IPAddress"], "");
        assert_eq!(value["Path"], "sh");
        assert_eq!(value["Args"], json!(["-c"]));
        assert_eq!(value["State"]["Status"], "exited");
        assert_eq!(value["State"]["Running"], false);
        assert_eq!(value["State"]["ExitCode"], 137);
        assert_eq!(value["State"]["OOMKilled"], true);
        assert_eq!(value["State"]["StartedAt"], NEVER);
    }

    #[test]
    fn an_image_shows_its_own_configuration() {
        let value = image(&InspectImageResponse {
            summary: Some(ImageSummary {
                references: vec!["a:1".to_owned(), "a@sha256:00".to_owned()],
                ..ImageSummary::default()
            }),
            diff_ids: vec!["sha256:11".to_owned()],
            config_json: br#"{"config":{"Cmd":["sh"]}}"#.to_vec().into(),
        });
        assert_eq!(value["RepoTags"], json!(["a:1"]));
        assert_eq!(value["RepoDigests"], json!(["a@sha256:00"]));
        assert_eq!(value["Config"]["Cmd"], json!(["sh"]));
        assert_eq!(value["RootFS"]["Layers"], json!(["sha256:11"]));
    }
}

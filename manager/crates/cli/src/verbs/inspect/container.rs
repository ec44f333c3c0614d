//! docker's document about a container.

use croze_client::v1::{ContainerState, InspectContainerResponse, Mount};
use serde_json::{Value as Json, json};

use super::host_config::host_config;
use crate::human::or_never;
use crate::verbs::STORAGE_DRIVER;
use crate::verbs::networks;
use crate::verbs::ps::state_name;

/// Everything about a container.
pub(super) fn document(response: &InspectContainerResponse) -> Json {
    let summary = response.summary.clone().unwrap_or_default();
    let (path, arguments) = match summary.command.split_first() {
        Some((path, arguments)) => (path.as_str(), arguments),
        None => ("", &[][..]),
    };
    let mut document = json!({
        "Id": summary.id,
        "Created": summary.created_at,
        "Path": path,
        "Args": arguments,
        "State": state(response),
        "Image": summary.image_id,
        "ResolvConfPath": response.resolv_conf_path,
        "HostnamePath": response.hostname_path,
        "HostsPath": response.hosts_path,
        "LogPath": response.log_path,
        "BundlePath": response.bundle_path,
        "Name": format!("/{}", summary.name),
        // Nothing restarts a container but its user.
        "RestartCount": 0,
        "Driver": STORAGE_DRIVER,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(response),
        "GraphDriver": {"Data": null, "Name": STORAGE_DRIVER},
        "Mounts": response.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": config(response),
        // Of Croze's own: docker would have made anonymous volumes.
        "Notes": notes(response),
        "NetworkSettings": networks::settings(&response.network, &summary),
    });
    if let (Json::Object(document), Some(used)) = (&mut document, summary.disk_use) {
        document.insert("SizeRw".to_owned(), json!(used.written_bytes));
        document.insert("SizeRootFs".to_owned(), json!(used.whole_bytes));
    }
    document
}

fn state(response: &InspectContainerResponse) -> Json {
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

fn config(response: &InspectContainerResponse) -> Json {
    let options = response.options.clone().unwrap_or_default();
    let summary = response.summary.clone().unwrap_or_default();
    let mut config = json!({
        "Hostname": response.hostname,
        "Domainname": options.domainname,
        "User": response.user,
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": response.tty,
        "OpenStdin": response.open_stdin,
        "StdinOnce": response.stdin_once,
        "Env": response.env,
        "Cmd": or_null(&response.cmd),
        "Image": summary.image,
        "Volumes": volumes(&response.image_volumes),
        "WorkingDir": response.working_dir,
        "Entrypoint": or_null(&response.entrypoint),
        "OnBuild": null,
        "Labels": sorted(&summary.labels),
        "StopSignal": response.stop_signal,
    });
    let wanted = response.network_options.clone().unwrap_or_default();
    // docker leaves it out where there is none.
    if let Some(exposed) = networks::exposed(&summary, &wanted) {
        config["ExposedPorts"] = exposed;
    }
    if let (Json::Object(config), Some(seconds)) = (&mut config, response.stop_timeout_seconds) {
        config.insert("StopTimeout".to_owned(), json!(seconds));
    }
    config
}

/// The paths that the image declares as volumes, as docker lists them.
fn volumes(paths: &[String]) -> Json {
    if paths.is_empty() {
        return Json::Null;
    }
    paths.iter().map(|path| (path.clone(), json!({}))).collect()
}

/// What this container has that its user may not expect.
fn notes(response: &InspectContainerResponse) -> Vec<String> {
    response
        .image_volumes
        .iter()
        .map(|path| {
            format!(
                "{path} is a volume by the image's word: it is part of the container's writable layer and goes with it"
            )
        })
        .collect()
}

/// A list that is not there is `null` to docker's readers.
pub(super) fn or_null(words: &[String]) -> Json {
    if words.is_empty() {
        Json::Null
    } else {
        json!(words)
    }
}

/// In the order of the keys: the wire has none.
pub(super) fn sorted(labels: &std::collections::HashMap<String, String>) -> Json {
    let sorted: std::collections::BTreeMap<_, _> = labels.iter().collect();
    json!(sorted)
}

fn mount(mount: &Mount) -> Json {
    json!({
        "Type": "bind",
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": if mount.read_only { "ro" } else { "" },
        "RW": !mount.read_only,
        "Propagation": if mount.propagation.is_empty() { "rprivate" } else { &mount.propagation },
    })
}

#[cfg(test)]
mod tests {
    use croze_client::v1::{ContainerSummary, ExitStatus};

    use super::*;

    #[test]
    fn a_container_has_dockers_fields() {
        let value = document(&InspectContainerResponse {
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
            image_volumes: vec!["/data".to_owned()],
            mounts: vec![Mount {
                source: "/a".to_owned(),
                target: "/b".to_owned(),
                read_only: true,
                ..Mount::default()
            }],
            ..InspectContainerResponse::default()
        });
        assert_eq!(value["Name"], "/web");
        assert_eq!(value["Config"]["Entrypoint"], Json::Null);
        assert_eq!(value["Config"]["Cmd"], json!(["-c"]));
        assert_eq!(value["HostConfig"]["Binds"], json!(["/a:/b:ro"]));
        assert_eq!(value["HostConfig"]["PidsLimit"], Json::Null);
        assert_eq!(value["NetworkSettings"]["Networks"]["none"]["IPAddress"], "");
        assert_eq!(value["Config"]["Volumes"], json!({"/data": {}}));
        let note = value["Notes"][0].as_str().unwrap();
        assert!(
            note.contains("/data") && note.contains("writable layer"),
            "{note}"
        );
        assert_eq!(value["Path"], "sh");
        assert_eq!(value["Args"], json!(["-c"]));
        assert_eq!(value["State"]["Status"], "exited");
        assert_eq!(value["State"]["Running"], false);
        assert_eq!(value["State"]["ExitCode"], 137);
        assert_eq!(value["State"]["OOMKilled"], true);
        assert_eq!(value["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    }
}

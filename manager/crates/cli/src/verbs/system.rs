//! `version`, `info`.

use croze_client::v1::{InfoRequest, InfoResponse, VersionRequest, VersionResponse};
use croze_client::{API_VERSION, Client, Error};
use serde_json::{Value as Json, json};

use crate::args::FormatArgs;
use crate::failure::Failure;
use crate::template::{Functions, Shape, Template, Value, Zero};
use crate::verbs::host;
use crate::{human, output, verbs};

/// `croze version`: works with a daemon of any version, and says its own even without one.
pub(super) async fn version(host: Option<String>, args: &FormatArgs) -> Result<u8, Failure> {
    let form = Form::parse(args)?;
    if form.is_none() {
        output::line(&fields(&[
            ("Client", String::new()),
            (" Version", env!("CARGO_PKG_VERSION").to_owned()),
            (" API version", API_VERSION.to_string()),
            (" OS/Arch", format!("{}/{}", os(), architecture())),
        ]))?;
    }
    let daemon = match verbs::connect(host).await {
        Ok(client) => daemon_version(&client).await,
        Err(failure) => Err(failure),
    };
    match (form, daemon) {
        (None, Ok(daemon)) => output::line(&fields(&[
            ("Daemon", String::new()),
            (" Version", daemon.version),
            (" API version", daemon.api_version.to_string()),
            (" OS/Arch", format!("{}/{}", daemon.os, daemon.architecture)),
            (" Kernel", daemon.kernel),
            (" Runtime", daemon.runtime_version),
        ]))?,
        (Some(form), Ok(daemon)) => form.print(&versions(Some(&daemon)))?,
        // The client's own part is printed all the same, as docker does.
        (Some(form), Err(failure)) => {
            form.print(&versions(None))?;
            return Err(failure);
        }
        (None, Err(failure)) => return Err(failure),
    }
    Ok(0)
}

async fn daemon_version(client: &Client) -> Result<VersionResponse, Failure> {
    let answer = client.system().version(VersionRequest {}).await;
    Ok(answer.map_err(Error::from)?.into_inner())
}

/// This program's, in Go's words.
fn os() -> &'static str {
    std::env::consts::OS
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// docker's document about versions.
fn versions(daemon: Option<&VersionResponse>) -> Json {
    let server = daemon.map(|daemon| {
        json!({
            "Platform": {"Name": "Croze"},
            "Components": [
                {"Name": "crozed", "Version": daemon.version, "Details": {"KernelVersion": daemon.kernel}},
                {"Name": "runtime", "Version": daemon.runtime_version, "Details": {}},
            ],
            "Version": daemon.version,
            "ApiVersion": daemon.api_version.to_string(),
            "MinAPIVersion": daemon.api_version.to_string(),
            "GitCommit": "",
            "GoVersion": "",
            "Os": daemon.os,
            "Arch": daemon.architecture,
            "KernelVersion": daemon.kernel,
            "BuildTime": "",
        })
    });
    json!({
        "Client": {
            "Platform": {"Name": "Croze"},
            "Version": env!("CARGO_PKG_VERSION"),
            "ApiVersion": API_VERSION.to_string(),
            "DefaultAPIVersion": API_VERSION.to_string(),
            "GitCommit": "",
            "GoVersion": "",
            "Os": os(),
            "Arch": architecture(),
            "BuildTime": "",
            "Context": "default",
        },
        "Server": server,
    })
}

/// `croze info`
pub(super) async fn info(client: &Client, args: &FormatArgs) -> Result<u8, Failure> {
    let form = Form::parse(args)?;
    let info = client
        .system()
        .info(InfoRequest {})
        .await
        .map_err(Error::from)?
        .into_inner();
    if let Some(form) = form {
        form.print(&facts(&info))?;
        return Ok(0);
    }
    output::line(&fields(&[
        ("Containers", info.containers.to_string()),
        (" Running", info.containers_running.to_string()),
        (" Stopped", info.containers_stopped.to_string()),
        ("Images", info.images.to_string()),
        ("Version", info.version),
        ("Storage", info.snapshotter),
        ("Runtime", info.runtime),
        ("Cgroup version", info.cgroup_version),
        ("Kernel", info.kernel),
        ("Operating system", info.operating_system),
        ("Architecture", info.architecture),
        ("CPUs", info.cpus.to_string()),
        ("Memory", human::size(info.memory_bytes)),
        ("Name", info.hostname),
        ("Root", info.root),
        ("Run root", info.run_root),
    ]))?;
    output::text(&host::screen(&info.checks, host::Colour::detect()))?;
    for warning in &info.warnings {
        output::notice(&format!("warning: {warning}"));
    }
    Ok(0)
}

/// docker's document about the daemon, with what Croze has besides.
fn facts(info: &InfoResponse) -> Json {
    json!({
        "ID": "",
        "Containers": info.containers,
        "ContainersRunning": info.containers_running,
        "ContainersPaused": 0,
        "ContainersStopped": info.containers_stopped,
        "Images": info.images,
        // docker's name for overlayfs; copies have none of docker's.
        "Driver": if info.snapshotter == "copy" { &info.snapshotter } else { verbs::STORAGE_DRIVER },
        "DriverStatus": [],
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": info.cgroup_version,
        "KernelVersion": info.kernel,
        "OperatingSystem": info.operating_system,
        "OSType": "linux",
        "Architecture": info.architecture,
        "NCPU": info.cpus,
        "MemTotal": info.memory_bytes,
        "DockerRootDir": info.root,
        "RunRoot": info.run_root,
        "Name": info.hostname,
        "Labels": [],
        "ServerVersion": info.version,
        "DefaultRuntime": info.runtime,
        "LiveRestoreEnabled": true,
        "InitBinary": "",
        "SecurityOptions": ["name=seccomp,profile=default"],
        "Warnings": info.warnings,
        "Checks": host::document(&info.checks),
    })
}

/// What `--format` asks for: `json`, or a template.
#[derive(Debug)]
enum Form {
    Json,
    Template(Template),
}

impl Form {
    fn parse(args: &FormatArgs) -> Result<Option<Self>, Failure> {
        Ok(match args.format.as_deref() {
            None | Some("") => None,
            Some("json") => Some(Self::Json),
            Some(template) => Some(Self::Template(Template::parse(template)?)),
        })
    }

    fn print(&self, document: &Json) -> Result<(), Failure> {
        match self {
            Self::Json => output::line(&document.to_string()),
            Self::Template(template) => {
                let value = Value::from_json(document, |_, key| match key {
                    "Details" => Shape::Map(Zero::Text),
                    "Server" => Shape::Struct,
                    _ => Shape::List,
                });
                output::line(&template.execute(&value, Functions::Values)?)
            }
        }
    }
}

/// Lines of `name: value`.
fn fields(pairs: &[(&str, String)]) -> String {
    let lines: Vec<String> = pairs
        .iter()
        .map(|(name, value)| {
            if value.is_empty() {
                format!("{name}:")
            } else {
                format!("{name}: {value}")
            }
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_dockers_fields() {
        let print = |document: &Json, template: &str| {
            let value = Value::from_json(document, |_, _| Shape::Struct);
            Template::parse(template)
                .and_then(|template| template.execute(&value, Functions::Values))
                .map_err(|error| error.to_string())
        };
        let daemon = VersionResponse {
            version: "1".to_owned(),
            ..VersionResponse::default()
        };
        let own = env!("CARGO_PKG_VERSION");
        let both = print(
            &versions(Some(&daemon)),
            "{{.Client.Version}} {{.Server.Version}}",
        );
        assert_eq!(both, Ok(format!("{own} 1")));
        assert!(
            print(&versions(None), "{{.Server.Version}}").is_err(),
            "there is no server"
        );
        let info = InfoResponse {
            containers: 3,
            ..InfoResponse::default()
        };
        assert_eq!(print(&facts(&info), "{{.Containers}}").as_deref(), Ok("3"));
    }
}

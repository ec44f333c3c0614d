//! `version`, `info`, `events`.

use croze_client::v1::{Event, EventsRequest, InfoRequest, VersionRequest};
use croze_client::{API_VERSION, Client, Error};

use crate::failure::Failure;
use crate::{human, output, verbs};

/// `croze version`: works with a daemon of any version, and says its own even without one.
pub(super) async fn version(host: Option<String>) -> Result<u8, Failure> {
    output::line(&fields(&[
        ("Client", String::new()),
        (" Version", env!("CARGO_PKG_VERSION").to_owned()),
        (" API version", API_VERSION.to_string()),
    ]))?;
    let client = verbs::connect(host).await?;
    let daemon = client
        .system()
        .version(VersionRequest {})
        .await
        .map_err(Error::from)?
        .into_inner();
    output::line(&fields(&[
        ("Daemon", String::new()),
        (" Version", daemon.version),
        (" API version", daemon.api_version.to_string()),
        (" OS/Arch", format!("{}/{}", daemon.os, daemon.architecture)),
        (" Kernel", daemon.kernel),
        (" Runtime", daemon.runtime_version),
    ]))?;
    Ok(0)
}

/// `croze info`
pub(super) async fn info(client: &Client) -> Result<u8, Failure> {
    let info = client
        .system()
        .info(InfoRequest {})
        .await
        .map_err(Error::from)?
        .into_inner();
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
    for warning in &info.warnings {
        output::notice(&format!("warning: {warning}"));
    }
    Ok(0)
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

/// `croze events`
pub(super) async fn events(client: &Client) -> Result<u8, Failure> {
    let mut events = client
        .system()
        .events(EventsRequest {})
        .await
        .map_err(Error::from)?
        .into_inner();
    while let Some(event) = events.message().await.map_err(Error::from)? {
        output::line(&event_line(&event))?;
    }
    Ok(0)
}

fn event_line(event: &Event) -> String {
    let mut attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    attributes.sort();
    output::printable(&format!(
        "{} {} {} {} ({})",
        event.time,
        event.kind,
        event.action,
        event.id,
        attributes.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            time: "T".to_owned(),
            kind: "container".to_owned(),
            action: "die".to_owned(),
            id: "ab".to_owned(),
            attributes: [("name", "web"), ("exitCode", "0")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        assert_eq!(event_line(&event), "T container die ab (exitCode=0, name=web)");
    }
}

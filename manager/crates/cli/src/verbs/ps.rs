//! `ps`.

use croze_client::v1::{ContainerState, ContainerSummary, ListContainersRequest, Mount};
use croze_client::{Client, Error};
use jiff::Timestamp;

use crate::args::PsArgs;
use crate::failure::Failure;
use crate::human;
use crate::listing::{Format, Title};
use crate::template::{Method, Value, quoted};
use crate::verbs::networks;

/// docker's table.
const TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
/// The fields of a container and the titles of their columns.
const TITLES: [Title; 14] = [
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];
/// Characters of a shortened command.
const COMMAND_WIDTH: usize = 20;
/// Characters of a shortened source of a mount.
const MOUNT_WIDTH: usize = 15;

/// `croze ps`
pub(super) async fn list(client: &Client, args: &PsArgs) -> Result<u8, Failure> {
    let format = if args.quiet {
        Format::quiet(args.format.as_deref(), "ID")?
    } else if args.size {
        Format::parse(args.format.as_deref(), &format!("{TABLE}\t{{{{.Size}}}}"))?
    } else {
        Format::parse(args.format.as_deref(), TABLE)?
    };
    let request = ListContainersRequest {
        all: args.all,
        filters: args.filter.clone(),
        limit: if args.latest {
            1
        } else {
            u32::try_from(args.last).unwrap_or(0)
        },
        // Who asks for sizes in a template means them; with -q nobody sees them.
        sizes: !args.quiet && (args.size || format.mentions("Size")),
    };
    let containers = client
        .containers()
        .list_containers(request)
        .await
        .map_err(Error::from)?
        .into_inner()
        .containers;
    let now = Timestamp::now();
    let rows: Vec<Value> = containers
        .iter()
        .map(|container| row(container, args.no_trunc, now))
        .collect();
    format.print(&TITLES, &rows)?;
    Ok(0)
}

/// A container's fields as docker's templates name them, in the order of its JSON.
fn row(container: &ContainerSummary, whole: bool, now: Timestamp) -> Value {
    let labels = container.labels.clone().into_iter().collect();
    let fields = [
        ("Command", command(container, whole)),
        ("CreatedAt", human::moment(&container.created_at)),
        ("ID", shown_id(container, whole).to_owned()),
        ("Image", image(container, whole)),
        ("Labels", pairs(&labels)),
        // There are no volumes yet.
        ("LocalVolumes", "0".to_owned()),
        ("Mounts", mounts(&container.mounts, whole)),
        ("Names", container.name.clone()),
        ("Networks", container.network.clone()),
        ("Ports", networks::column(container)),
        ("RunningFor", human::ago(&container.created_at, now)),
        ("Size", size(container)),
        ("State", state_name(container.state()).to_owned()),
        ("Status", status(container, now)),
    ];
    let fields = fields.map(|(name, text)| (name.to_owned(), Value::Text(text)));
    let label = ("Label".to_owned(), Value::Method(Method::Lookup(labels)));
    Value::Struct(fields.into_iter().chain([label]).collect())
}

/// What it wrote, and that with its image.
fn size(container: &ContainerSummary) -> String {
    match &container.disk_use {
        None => human::size(0),
        Some(used) => format!(
            "{} (virtual {})",
            human::size(used.written_bytes),
            human::size(used.whole_bytes)
        ),
    }
}

fn pairs(labels: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

fn mounts(mounts: &[Mount], whole: bool) -> String {
    let sources: Vec<String> = mounts
        .iter()
        .map(|mount| {
            if whole {
                mount.source.clone()
            } else {
                human::ellipsis(&mount.source, MOUNT_WIDTH)
            }
        })
        .collect();
    sources.join(",")
}

fn shown_id(container: &ContainerSummary, whole: bool) -> &str {
    if whole {
        &container.id
    } else {
        human::short_id(&container.id)
    }
}

/// The image as it was given; a digest beside a tag is left out where things are shortened, and an id is cut.
fn image(container: &ContainerSummary, whole: bool) -> String {
    let given = container.image.as_str();
    if whole {
        return given.to_owned();
    }
    let digits = given.strip_prefix("sha256:").unwrap_or(given);
    let id = container
        .image_id
        .strip_prefix("sha256:")
        .unwrap_or(&container.image_id);
    if digits.len() >= human::SHORT_ID && id.starts_with(digits) {
        return human::short_id(&container.image_id).to_owned();
    }
    match given.split_once('@') {
        Some((name, _)) if name.rsplit('/').next().is_some_and(|last| last.contains(':')) => name.to_owned(),
        _ => given.to_owned(),
    }
}

/// The words of the process; those with a space in single quotes, the whole in double ones and harmless to a terminal.
fn command(container: &ContainerSummary, whole: bool) -> String {
    let words: Vec<String> = container
        .command
        .iter()
        .enumerate()
        .map(|(index, word)| {
            if index > 0 && word.contains(' ') {
                format!("'{word}'")
            } else {
                word.clone()
            }
        })
        .collect();
    let line = words.join(" ");
    if whole {
        quoted(&line)
    } else {
        quoted(&human::ellipsis(&line, COMMAND_WIDTH))
    }
}

/// docker's name of a state.
pub(in crate::verbs) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Unspecified => "unknown",
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Dead => "dead",
    }
}

/// The state in docker's words.
fn status(container: &ContainerSummary, now: Timestamp) -> String {
    match container.state() {
        ContainerState::Unspecified => "Unknown".to_owned(),
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => match human::seconds_since(&container.started_at, now) {
            Some(seconds) => format!("Up {}", human::duration(seconds)),
            None => "Up".to_owned(),
        },
        ContainerState::Exited => match &container.exit {
            Some(exit) => format!("Exited ({}) {}", exit.code, human::ago(&exit.finished_at, now)),
            None => "Exited".to_owned(),
        },
        ContainerState::Dead => "Dead".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use croze_client::v1::ExitStatus;

    use super::*;

    #[test]
    fn states_in_dockers_words() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let container = |state: ContainerState| ContainerSummary {
            state: state.into(),
            started_at: "2026-01-01T00:00:50Z".to_owned(),
            exit: (state == ContainerState::Exited).then(|| ExitStatus {
                code: 137,
                oom_killed: true,
                finished_at: "2026-01-01T00:00:57Z".to_owned(),
            }),
            ..ContainerSummary::default()
        };
        for (state, words) in [
            (ContainerState::Created, "Created"),
            (ContainerState::Running, "Up 10 seconds"),
            (ContainerState::Exited, "Exited (137) 3 seconds ago"),
            (ContainerState::Dead, "Dead"),
        ] {
            assert_eq!(status(&container(state), now), words);
        }
    }

    #[test]
    fn commands_are_quoted_cut_and_harmless() {
        let container = ContainerSummary {
            command: vec![
                "sh".to_owned(),
                "-c".to_owned(),
                "echo \x1b[31m\"long\" words".to_owned(),
            ],
            ..ContainerSummary::default()
        };
        assert_eq!(command(&container, false), "\"sh -c 'echo \\x1b[31m\\\"l…\"");
        assert_eq!(
            command(&container, true),
            "\"sh -c 'echo \\x1b[31m\\\"long\\\" words'\""
        );
    }

    #[test]
    fn images_as_they_were_given() {
        let id = format!("sha256:{}", "ab".repeat(32));
        for (given, shown) in [
            ("debian:12", "debian:12"),
            ("localhost:5000/a@sha256:00", "localhost:5000/a@sha256:00"),
            ("localhost:5000/a:1@sha256:00", "localhost:5000/a:1"),
            (&*id, "abababababab"),
            ("ababababababab", "abababababab"),
            ("abab", "abab"),
        ] {
            let container = ContainerSummary {
                image: given.to_owned(),
                image_id: id.clone(),
                ..ContainerSummary::default()
            };
            assert_eq!(image(&container, false), shown);
            assert_eq!(image(&container, true), given);
        }
    }

    #[test]
    fn every_title_is_a_field() {
        let row = row(&ContainerSummary::default(), false, Timestamp::UNIX_EPOCH);
        let Value::Struct(fields) = row else {
            panic!("{row:?}");
        };
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let titles: Vec<&str> = TITLES.iter().map(|(name, _)| *name).chain(["Label"]).collect();
        assert_eq!(names, titles);
    }
}

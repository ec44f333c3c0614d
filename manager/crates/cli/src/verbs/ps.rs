//! `ps`.

use croze_client::v1::{ContainerState, ContainerSummary, ListContainersRequest};
use croze_client::{Client, Error};
use jiff::Timestamp;

use crate::args::PsArgs;
use crate::failure::Failure;
use crate::human;
use crate::output::{self, Table};

/// Characters of a shortened command.
const COMMAND_WIDTH: usize = 20;

/// `croze ps`
pub(super) async fn list(client: &Client, args: &PsArgs) -> Result<u8, Failure> {
    let request = ListContainersRequest { all: args.all };
    let containers = client
        .containers()
        .list_containers(request)
        .await
        .map_err(Error::from)?
        .into_inner()
        .containers;
    if args.quiet {
        for container in &containers {
            output::line(shown_id(container, args.no_trunc))?;
        }
        return Ok(0);
    }
    let mut table = Table::new(&[
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ]);
    let now = Timestamp::now();
    for container in &containers {
        table.row(vec![
            shown_id(container, args.no_trunc).to_owned(),
            container.image.clone(),
            command(container, args.no_trunc),
            human::ago(&container.created_at, now),
            status(container, now),
            String::new(),
            container.name.clone(),
        ]);
    }
    table.print()?;
    Ok(0)
}

fn shown_id(container: &ContainerSummary, whole: bool) -> &str {
    if whole {
        &container.id
    } else {
        human::short_id(&container.id)
    }
}

fn command(container: &ContainerSummary, whole: bool) -> String {
    let words = output::printable(&container.command.join(" "));
    let shown = if whole {
        words
    } else {
        human::ellipsis(&words, COMMAND_WIDTH)
    };
    format!("\"{shown}\"")
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
                "echo \x1b[31mlong words".to_owned(),
            ],
            ..ContainerSummary::default()
        };
        assert_eq!(command(&container, false), "\"sh -c echo \\u{1b}[3…\"");
    }
}

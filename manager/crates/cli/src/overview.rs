//! The first screen: what `croze` and `croze --help` print.
//!
//! ```text
//!   Usage: croze [OPTIONS] VERB …
//!
//!   Run and look at containers:
//!     run        Create a container from an image and start it       <- the verb's own first sentence, from its definition
//!     …
//!   Images: …   Networks: …   The daemon and this machine: …
//!
//!   Options: …  Examples: …  where to read on
//! ```
//!
//! Invariant: every verb that is shown stands in exactly one group (a test holds it), the most used ones first; its words are those of its
//! definition, so that they cannot differ from `croze VERB --help`.

use clap::Command;

/// The groups, and their verbs in the order of use.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Run and look at containers",
        &[
            "run",
            "ps",
            "logs",
            "exec",
            "stop",
            "start",
            "rm",
            "inspect",
            "attach",
            "kill",
            "wait",
            "create",
            "container",
        ],
    ),
    (
        "Images and registries",
        &[
            "pull", "images", "rmi", "tag", "history", "login", "logout", "image",
        ],
    ),
    ("Networks", &["port", "network"]),
    (
        "The daemon and this machine",
        &[
            "info",
            "version",
            "events",
            "operation",
            "daemon",
            "completion",
            "system",
            "help",
        ],
    ),
];

const EXAMPLES: &str = "\
Examples:
  croze run --rm -it debian:bookworm bash        a shell in a new container, removed at the end
  croze run -d --name web -p 8080:80 nginx       a server in the background, on port 8080 of this machine
  croze logs -f web; croze stop web              what it prints; its end

'croze VERB --help' says everything about a verb; 'croze info' what this machine can do for containers.
The manual is in `man croze`, and in docs/ of the sources: getting-started.md, cli.md.";

/// The command line's definition with this screen as its help.
pub(crate) fn with_overview(command: Command) -> Command {
    let text = text(&command);
    command.override_help(text)
}

fn text(command: &Command) -> String {
    let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("{}.\n\nUsage: croze [OPTIONS] VERB …\n", about(command));
    for (title, verbs) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for name in verbs {
            if let Some(verb) = command.find_subcommand(name) {
                text.push_str(&format!("  {name:<11}{}\n", about(verb)));
            }
        }
    }
    text.push_str("\nOptions:\n");
    for argument in command.get_arguments() {
        let flag = match (argument.get_short(), argument.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, Some(long)) => format!("    --{long}"),
            (None, None) => continue,
        };
        let value = argument
            .get_value_names()
            .filter(|_| argument.get_action().takes_values())
            .and_then(<[_]>::first)
            .map(|name| format!(" {name}"))
            .unwrap_or_default();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("  {:<15} {help}\n", format!("{flag}{value}")));
    }
    text.push_str("  -h, --help      Print this\n\n");
    text.push_str(EXAMPLES);
    text
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::args::Cli;

    #[test]
    fn every_verb_stands_in_one_group() {
        let command = Cli::command();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let found = GROUPS
                .iter()
                .flat_map(|(_, verbs)| verbs.iter())
                .filter(|name| **name == verb.get_name())
                .count();
            assert_eq!(found, 1, "{}", verb.get_name());
        }
    }

    #[test]
    fn the_screen_has_the_verbs_the_options_and_examples() {
        let text = text(&Cli::command());
        for part in [
            "  run        Create a container from an image and start it\n",
            "-H, --host URL",
            "-v, --version",
            "croze run --rm -it",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains("man-pages"), "hidden verbs stay hidden");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    }

    #[test]
    fn the_examples_are_understood() {
        for line in EXAMPLES.lines().filter(|line| line.starts_with("  croze")) {
            let commands = line.trim().split("   ").next().unwrap();
            for command in commands.split(';') {
                let parsed = Cli::try_parse_from(command.split_whitespace());
                assert!(parsed.is_ok(), "{command}: {parsed:?}");
            }
        }
    }
}

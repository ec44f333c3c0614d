//! What is said about arguments that make no sense: one line like every other error's, then where the help is.
//!
//! ```text
//!   croze: unexpected argument '--bogus' found
//!   See 'croze run --help'.
//! ```

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ErrorKind};

use crate::args::Cli;
use crate::failure::USAGE_EXIT_CODE;
use crate::output;

/// Prints what clap has to say: help and version on stdout with success, everything else on stderr.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            if error.print().is_err() {
                return ExitCode::FAILURE;
            }
            if error.use_stderr() {
                ExitCode::from(USAGE_EXIT_CODE)
            } else {
                ExitCode::SUCCESS
            }
        }
        _ => {
            output::error(&words(error));
            let verb = verb(std::env::args().skip(1));
            output::notice(&format!("See '{} --help'.", in_full(verb.as_deref())));
            ExitCode::from(USAGE_EXIT_CODE)
        }
    }
}

fn in_full(verb: Option<&str>) -> String {
    verb.map_or_else(|| "croze".to_owned(), |verb| format!("croze {verb}"))
}

/// clap's words in one line: without its label, the usage and the pointer to the help.
fn words(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty() && !line.starts_with("tip:"));
    let first = lines.next().unwrap_or("the arguments make no sense");
    let rest: Vec<&str> = lines.collect();
    let said = if rest.is_empty() {
        first.to_owned()
    } else {
        format!("{first} {}", rest.join(" "))
    };
    match suggestion(error) {
        Some(near) => format!("{said}; did you mean {near}?"),
        None => said,
    }
}

/// What the user may have meant: one option, verb or value.
fn suggestion(error: &clap::Error) -> Option<String> {
    [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ]
    .into_iter()
    .find_map(|kind| match error.get(kind)? {
        clap::error::ContextValue::String(near) => Some(near.clone()),
        clap::error::ContextValue::Strings(near) => near.first().cloned(),
        _ => None,
    })
}

/// The verb among the arguments, with its noun: the first words that are neither options nor the value of `--host`.
fn verb(mut arguments: impl Iterator<Item = String>) -> Option<String> {
    let mut command = Cli::command();
    let mut path = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--host" {
            arguments.next();
        } else if !argument.starts_with('-') {
            let Some(found) = command.find_subcommand(&argument).cloned() else {
                break;
            };
            path.push(argument);
            if !found.has_subcommands() {
                break;
            }
            command = found;
        }
    }
    (!path.is_empty()).then(|| path.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn wrong_arguments_are_one_line() {
        for (line, said) in [
            (
                vec!["run", "--bogus", "img"],
                "unexpected argument '--bogus' found",
            ),
            (
                vec!["rm"],
                "the following required arguments were not provided: <CONTAINER>...",
            ),
            (
                vec!["ps", "--al"],
                "unexpected argument '--al' found; did you mean --all?",
            ),
            (vec!["runn"], "unrecognized subcommand 'runn'; did you mean run?"),
            (
                vec!["run", "-m", "lots", "img"],
                "invalid value 'lots' for '--memory <SIZE>': invalid size",
            ),
        ] {
            let error = Cli::try_parse_from(["croze"].iter().chain(&line)).unwrap_err();
            let words = words(&error);
            assert!(
                words.starts_with(said) && !words.contains('\n'),
                "{line:?}: {words}"
            );
        }
    }

    #[test]
    fn the_help_of_the_verb_is_named() {
        for (line, help) in [
            (vec!["run", "--bogus"], "croze run"),
            (vec!["--host", "ps", "rm", "--bogus"], "croze rm"),
            (vec!["--host=x", "-z", "exec"], "croze exec"),
            (vec!["container", "ls", "--bogus"], "croze container ls"),
            (vec!["image", "lss"], "croze image"),
            (vec!["runn"], "croze"),
            (vec!["--bogus"], "croze"),
        ] {
            let verb = verb(line.iter().map(|&word| word.to_owned()));
            assert_eq!(in_full(verb.as_deref()), help, "{line:?}");
        }
    }
}

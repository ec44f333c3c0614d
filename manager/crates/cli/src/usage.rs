//! What is said about arguments that make no sense: one line like every other error's, then where the help is.
//!
//! ```text
//!   croze: unexpected argument '--bogus' found
//!   See 'croze run --help'.
//! ```

mod absent;
mod flags;

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ErrorKind};

use crate::args::Cli;
use crate::failure::{PLAIN_EXIT_CODE, USAGE_EXIT_CODE};
use crate::output;

/// Prints what clap has to say: help and version on stdout with success, everything else on stderr.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // What clap sends to stderr here is the help that somebody gets who gave no words: docker prints it and is content.
            match output::text(&error.to_string()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => failure.report(),
            }
        }
        _ => {
            // What is no text is no verb, and is shown as it can be.
            let words_given = std::env::args_os().skip(1);
            let verbs = verbs(words_given.map(|word| word.to_string_lossy().into_owned()));
            let (said, hint) = words(error, &verbs);
            output::error(&said);
            if let Some(hint) = hint {
                output::hint(hint);
            }
            output::notice(&format!("See '{} --help'.", in_full(&verbs)));
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

/// docker's exit codes: 125 for options that make no sense, 1 for verbs that are not there and for words that are missing.
fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidSubcommand | ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues => {
            PLAIN_EXIT_CODE
        }
        _ => USAGE_EXIT_CODE,
    }
}

fn in_full(verbs: &[String]) -> String {
    let mut words = vec!["croze"];
    words.extend(verbs.iter().map(String::as_str));
    words.join(" ")
}

/// What is wrong, in one line, and what to do about it where that is not plain from the help.
fn words(error: &clap::Error, verbs: &[String]) -> (String, Option<&'static str>) {
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = context(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            if let Some((said, instead)) = absent::absent(verbs, &name) {
                return (said, Some(instead));
            }
            let below = match verbs {
                [] => String::new(),
                nouns => format!(" below '{}'", nouns.join(" ")),
            };
            let near = nearest_verb(verbs, &name)
                .map(|near| format!("; did you mean '{near}'?"))
                .unwrap_or_default();
            (format!("there is no verb '{name}'{below}{near}"), None)
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues => (
            format!(
                "'{}' needs more words: {}",
                in_full(verbs),
                wanted(verbs).unwrap_or_else(|| said_by_clap(error))
            ),
            None,
        ),
        ErrorKind::UnknownArgument => {
            let flag = context(error, ContextKind::InvalidArg).unwrap_or_default();
            match flags::absent(verbs, &flag) {
                Some((said, instead)) => (said, Some(instead)),
                None => (said_by_clap(error), None),
            }
        }
        _ => (said_by_clap(error), None),
    }
}

/// The words that a verb takes after its options, as its usage has them.
fn wanted(verbs: &[String]) -> Option<String> {
    let verb = definition(verbs)?;
    let words: Vec<String> = verb.get_positionals().map(ToString::to_string).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// The definition of the verb below these nouns.
fn definition(verbs: &[String]) -> Option<clap::Command> {
    verbs.iter().try_fold(Cli::command(), |command, name| {
        command.find_subcommand(name).cloned()
    })
}

/// The verb that is spelled most alike; none if none is near.
fn nearest_verb(nouns: &[String], name: &str) -> Option<String> {
    let command = definition(nouns)?;
    let names = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .map(clap::Command::get_name);
    croze_client::nearest(name, names).map(str::to_owned)
}

/// clap's words in one line: without its label, the usage and the pointer to the help.
fn said_by_clap(error: &clap::Error) -> String {
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
    // The standard library's words for what is no number.
    let said = said.replace(
        "invalid digit found in string",
        "write a whole number, such as 10",
    );
    match suggestion(error) {
        Some(near) => format!("{said}; did you mean {near}?"),
        None => said,
    }
}

/// What the user may have meant: one option or value.
fn suggestion(error: &clap::Error) -> Option<String> {
    [ContextKind::SuggestedArg, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| context(error, kind))
}

/// A word, or the first of several, that clap attached to its error.
fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        clap::error::ContextValue::String(word) => Some(word.clone()),
        clap::error::ContextValue::Strings(words) => words.first().cloned(),
        _ => None,
    }
}

/// The verb among the arguments, after its nouns: the first words that are neither options nor the value of `--host`.
fn verbs(mut arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut command = Cli::command();
    let mut path = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--host" || argument == "-H" {
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
    path
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn wrong_arguments_are_one_line() {
        for (line, code, said) in [
            (
                &["run", "--bogus", "img"][..],
                125,
                "unexpected argument '--bogus' found",
            ),
            (&["rm"], 1, "'croze rm' needs more words: <CONTAINER>..."),
            (&["run"], 1, "'croze run' needs more words: <IMAGE> [COMMAND]..."),
            (
                &["exec", "c"],
                1,
                "'croze exec' needs more words: <CONTAINER> <COMMAND>...",
            ),
            (
                &["ps", "--al"],
                125,
                "unexpected argument '--al' found; did you mean --all?",
            ),
            (&["rnu"], 1, "there is no verb 'rnu'; did you mean 'run'?"),
            (&["image-list"], 1, "there is no verb 'image-list'"),
            (
                &["push"],
                1,
                "there is no verb 'push': Croze cannot push images yet",
            ),
            (
                &["network", "lss"],
                1,
                "there is no verb 'lss' below 'network'; did you mean 'ls'?",
            ),
            (
                &["run", "-m", "lots", "img"],
                125,
                "invalid value 'lots' for '--memory <SIZE>': invalid size",
            ),
            (
                &["stop", "-t", "x", "c"],
                125,
                "invalid value 'x' for '--time <SECONDS>': write a whole number, such as 10",
            ),
        ] {
            let error = Cli::try_parse_from(["croze"].iter().chain(line)).unwrap_err();
            let (words, _) = words(&error, &verbs(owned(line).into_iter()));
            assert!(
                words.starts_with(said) && !words.contains('\n'),
                "{line:?}: {words}"
            );
            assert_eq!(exit_code(error.kind()), code, "{line:?}");
        }
    }

    #[test]
    fn the_help_of_the_verb_is_named() {
        for (line, help) in [
            (&["run", "--bogus"][..], "croze run"),
            (&["--host", "ps", "rm", "--bogus"], "croze rm"),
            (&["-H", "ps", "rm", "--bogus"], "croze rm"),
            (&["--host=x", "-z", "exec"], "croze exec"),
            (&["network", "ls", "--bogus"], "croze network ls"),
            (&["network", "lss"], "croze network"),
            (&["runn"], "croze"),
            (&["--bogus"], "croze"),
        ] {
            assert_eq!(in_full(&verbs(owned(line).into_iter())), help, "{line:?}");
        }
    }
}

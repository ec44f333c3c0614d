//! The screen of `croze info` that says what the host can do for containers.
//!
//! ```text
//!   Host:
//!     ok       kernel       6.1.0
//!     partly   swap limit   memory alone is counted
//!                           --memory-swap is without effect; boot with swapaccount=1
//!     missing  …
//! ```
//!
//! The daemon looks and judges; here it is only printed. Colours are for terminals, and not where `NO_COLOR` is set.

use croze_client::v1::{HostCheck, HostVerdict};
use serde_json::{Value as Json, json};

use crate::output;

/// Whether the verdicts have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    /// For a terminal.
    Yes,
    /// For a file, a pipe, or somebody who wants none.
    No,
}

impl Colour {
    /// What standard output and the environment allow.
    pub(super) fn detect() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if !unwanted && rustix::termios::isatty(rustix::stdio::stdout()) {
            Self::Yes
        } else {
            Self::No
        }
    }
}

/// The lines about the host, each ended by a newline; nothing where an older daemon says nothing.
pub(super) fn screen(checks: &[HostCheck], colour: Colour) -> String {
    if checks.is_empty() {
        return String::new();
    }
    let width = checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or_default();
    let mut text = "Host:\n".to_owned();
    for check in checks {
        let (word, sgr) = verdict(check.verdict());
        let padding = " ".repeat(9 - word.len());
        let word = match colour {
            Colour::Yes => format!("\x1b[{sgr}m{word}\x1b[0m"),
            Colour::No => word.to_owned(),
        };
        let (name, detail) = (output::printable(&check.name), output::printable(&check.detail));
        text.push_str(format!(" {word}{padding}{name:<width$}  {detail}").trim_end());
        text.push('\n');
        if !check.hint.is_empty() {
            let hint = output::printable(&check.hint);
            text.push_str(&format!(" {:9}{:width$}  {hint}\n", "", ""));
        }
    }
    text
}

/// The same for `--format`: a list of documents.
pub(super) fn document(checks: &[HostCheck]) -> Json {
    checks
        .iter()
        .map(|check| {
            json!({
                "Name": check.name,
                "Verdict": verdict(check.verdict()).0,
                "Detail": check.detail,
                "Hint": check.hint,
            })
        })
        .collect()
}

/// A verdict's word, and its colour as ECMA-48 numbers them.
fn verdict(verdict: HostVerdict) -> (&'static str, u8) {
    match verdict {
        HostVerdict::Ok => ("ok", 32),
        HostVerdict::Partly => ("partly", 33),
        HostVerdict::Missing => ("missing", 31),
        HostVerdict::Unspecified => ("unknown", 35),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> [HostCheck; 2] {
        [
            HostCheck {
                name: "kernel".to_owned(),
                verdict: HostVerdict::Ok.into(),
                detail: "6.1".to_owned(),
                hint: String::new(),
            },
            HostCheck {
                name: "swap limit".to_owned(),
                verdict: HostVerdict::Missing.into(),
                detail: "none\x1b[2J".to_owned(),
                hint: "boot with swapaccount=1".to_owned(),
            },
        ]
    }

    #[test]
    fn the_screen_is_aligned_and_has_hints_below() {
        assert_eq!(
            screen(&checks(), Colour::No),
            "Host:\n ok       kernel      6.1\n missing  swap limit  none\\u{1b}[2J\n                      boot with \
             swapaccount=1\n"
        );
        assert_eq!(screen(&[], Colour::No), "");
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let coloured = screen(&checks(), Colour::Yes);
        assert!(
            coloured.contains(" \x1b[32mok\x1b[0m       kernel"),
            "{coloured:?}"
        );
        let plain = coloured
            .replace("\x1b[32m", "")
            .replace("\x1b[31m", "")
            .replace("\x1b[0m", "");
        assert_eq!(plain, screen(&checks(), Colour::No));
    }

    #[test]
    fn templates_find_names_and_verdicts() {
        assert_eq!(
            document(&checks())[1],
            json!({"Name": "swap limit", "Verdict": "missing", "Detail": "none\u{1b}[2J", "Hint": "boot with swapaccount=1"})
        );
    }
}

//! What a pull shows while it runs: bars on a terminal, plain lines elsewhere; always on standard error.

use std::collections::HashMap;

use croze_client::v1::{PullPhase, PullProgress, PullResult};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::human;
use crate::output;
use crate::terminal::{self, RawMode};

/// What of a pull is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// All of it.
    Everything,
    /// What comes, from when something does: of an image that is here already, nothing.
    Arrivals,
    /// Nothing.
    Nothing,
}

/// Shows the progress of one pull.
#[derive(Debug)]
pub(crate) enum Display {
    /// Nothing yet. As soon as something comes it is one of the next two, and begins with what was said last of the reference.
    Waiting(Option<PullProgress>),
    /// One bar per layer.
    Bars(Bars),
    /// One line per change of a layer's phase.
    Lines(HashMap<String, PullPhase>),
    /// Nothing.
    Quiet,
}

impl Display {
    /// The display that fits standard error.
    pub(crate) fn new(shown: Shown) -> Self {
        match shown {
            Shown::Nothing => Self::Quiet,
            Shown::Arrivals => Self::Waiting(None),
            Shown::Everything if terminal::stderr_is_terminal() => Self::Bars(Bars::new()),
            Shown::Everything => Self::Lines(HashMap::new()),
        }
    }

    /// Whether something stands on a terminal that must be taken away before the program ends.
    pub(crate) fn is_drawn(&self) -> bool {
        matches!(self, Self::Bars(_))
    }

    /// Shows one message of the daemon.
    pub(crate) fn update(&mut self, progress: &PullProgress) {
        match self {
            Self::Waiting(_) if progress.phase() == PullPhase::Fetching => {
                let waited = std::mem::replace(self, Self::new(Shown::Everything));
                if let Self::Waiting(Some(said)) = waited {
                    self.update(&said);
                }
                self.update(progress);
            }
            Self::Waiting(said) => {
                if progress.phase() == PullPhase::Resolving {
                    *said = Some(progress.clone());
                }
            }
            Self::Bars(bars) => bars.update(progress),
            Self::Lines(phases) => {
                if let Some(line) = changed_line(phases, progress) {
                    output::notice(&line);
                }
            }
            Self::Quiet => {}
        }
    }
}

/// The line to print when an item's phase is new and worth a line.
fn changed_line(phases: &mut HashMap<String, PullPhase>, progress: &PullProgress) -> Option<String> {
    let phase = progress.phase();
    if phases.insert(progress.item.clone(), phase) == Some(phase) {
        return None;
    }
    match phase {
        PullPhase::Unspecified | PullPhase::Waiting | PullPhase::Unpacking => None,
        PullPhase::Resolving => Some(format!("Pulling {}", progress.item)),
        PullPhase::Fetching => Some(format!(
            "{}: fetching {}",
            label(progress),
            human::size(progress.total_bytes)
        )),
        PullPhase::Done => Some(format!("{}: done", label(progress))),
        PullPhase::Present => Some(format!("{}: already here", label(progress))),
    }
}

fn label(progress: &PullProgress) -> &str {
    human::short_id(&progress.item)
}

/// Bars for layers; the reference itself has none. If the pull ends before all of them are finished, they leave with this value.
#[derive(Debug)]
pub(crate) struct Bars {
    /// Echoed keys would move the cursor from where the bars are drawn over.
    _echo: Option<RawMode>,
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        Self {
            _echo: RawMode::without_echo(),
            all: MultiProgress::new(),
            bars: HashMap::new(),
        }
    }

    fn update(&mut self, progress: &PullProgress) {
        let phase = progress.phase();
        if phase == PullPhase::Resolving {
            return;
        }
        let all = &self.all;
        let bar = self.bars.entry(progress.item.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(progress.total_bytes));
            bar.set_style(style(template(terminal::stderr_columns())));
            bar.set_prefix(label(progress).to_owned());
            bar
        });
        if progress.total_bytes > 0 {
            bar.set_length(progress.total_bytes);
        }
        bar.set_position(progress.current_bytes);
        bar.set_message(words(phase));
        if matches!(phase, PullPhase::Done | PullPhase::Present) && !bar.is_finished() {
            bar.set_style(style("{prefix} {msg}"));
            bar.finish();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.bars.values().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}

/// With the rate and the time left.
const WIDEST: &str = "{prefix} {msg:12} [{bar:25}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const WIDE: &str = "{prefix} {msg:12} [{bar:25}] {bytes}/{total_bytes}";
/// For terminals in which the wide one would be broken: a broken line cannot be drawn over.
const NARROW: &str = "{prefix} {msg:12} {percent:>3}%";

fn template(columns: u16) -> &'static str {
    match columns {
        0..80 => NARROW,
        80..110 => WIDE,
        110.. => WIDEST,
    }
}

fn words(phase: PullPhase) -> &'static str {
    match phase {
        PullPhase::Unspecified => "",
        PullPhase::Resolving => "resolving",
        PullPhase::Waiting => "waiting",
        PullPhase::Fetching => "fetching",
        PullPhase::Unpacking => "unpacking",
        PullPhase::Done => "done",
        PullPhase::Present => "already here",
    }
}

/// A bar's style; a template that does not parse falls back to the default one.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// What a finished pull says: how much came, and how much was there.
pub(crate) fn summary(result: &PullResult) -> String {
    format!(
        "fetched {} ({} bytes, {} layers), already here {} ({} bytes, {} layers)",
        human::size(result.bytes_fetched),
        result.bytes_fetched,
        result.layers_fetched,
        human::size(result.bytes_present),
        result.bytes_present,
        result.layers_present,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_per_change() {
        let mut phases = HashMap::new();
        let mut say = |phase: PullPhase| {
            let progress = PullProgress {
                item: "sha256:0123456789abcdef".to_owned(),
                phase: phase.into(),
                current_bytes: 1,
                total_bytes: 2000,
            };
            changed_line(&mut phases, &progress)
        };
        assert_eq!(say(PullPhase::Waiting), None);
        assert_eq!(
            say(PullPhase::Fetching).as_deref(),
            Some("0123456789ab: fetching 2kB")
        );
        assert_eq!(say(PullPhase::Fetching), None);
        assert_eq!(say(PullPhase::Done).as_deref(), Some("0123456789ab: done"));
    }

    #[test]
    fn what_is_here_draws_nothing_and_what_comes_draws_all() {
        let progress = |phase: PullPhase| PullProgress {
            item: "a:1".to_owned(),
            phase: phase.into(),
            ..PullProgress::default()
        };
        let mut display = Display::new(Shown::Arrivals);
        for phase in [PullPhase::Resolving, PullPhase::Waiting, PullPhase::Present] {
            display.update(&progress(phase));
            assert!(matches!(display, Display::Waiting(Some(_))), "{phase:?}");
        }
        display.update(&progress(PullPhase::Fetching));
        assert!(
            matches!(display, Display::Bars(_) | Display::Lines(_)),
            "{display:?}"
        );
    }

    #[test]
    fn every_template_parses() {
        for template in [WIDEST, WIDE, NARROW, "{prefix} {msg}"] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}

//! docs/benchmarks.md, section by section.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

/// How every section is to be read.
const HEAD: &str = "# Benchmarks\n\n\
    Written by `make bench`: do not edit the sections of figures. What is compared is called in turns, so that a change in the machine's\n\
    load meets all of it; the figures are medians. Absolute times belong to the machine they were taken on: compare the ratios.\n";

/// Replaces one section of the report, or appends it, and leaves the others.
///
/// # Errors
/// The file cannot be read or written.
pub fn save_section(report: &Path, title: &str, body: &str) -> Result<()> {
    let before = match fs::read_to_string(report) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("reading {}", report.display()))?,
    };
    fs::write(report, replace_section(&before, title, body))
        .with_context(|| format!("writing {}", report.display()))
}

/// The document with this section; `body` is what follows the heading. A document without the right beginning gets it.
#[must_use]
pub fn replace_section(document: &str, title: &str, body: &str) -> String {
    let heading = format!("## {title}\n");
    let fresh = format!("{heading}\n{}\n", body.trim());
    let mut sections: Vec<String> = Vec::new();
    for line in document.split_inclusive('\n') {
        match sections.last_mut() {
            Some(section) if !line.starts_with("## ") => section.push_str(line),
            None if !line.starts_with("## ") => {}
            _ => sections.push(line.to_owned()),
        }
    }
    match sections.iter_mut().find(|section| section.starts_with(&heading)) {
        Some(section) => *section = fresh,
        None => sections.push(fresh),
    }
    let sections: Vec<&str> = sections.iter().map(|section| section.trim_end()).collect();
    format!("{HEAD}\n{}\n", sections.join("\n\n"))
}

/// One line on the machine that the figures were taken on.
#[must_use]
pub fn machine() -> String {
    let system = rustix::system::uname();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let layout = if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) {
        2
    } else {
        1
    };
    // The numbers only: what follows names a distribution or a provider, and says nothing of the speed.
    let release = system.release().to_string_lossy();
    let release = release.split('-').next().unwrap_or_default();
    let machine = system.machine().to_string_lossy();
    format!("Linux {release} ({machine}), {processors} processors, cgroup version {layout}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_where_it_stands() {
        let before = "# Old words\n\nof old\n\n## One\n\n1\n\n### Part\n\n2\n\n## Two\n\nkept\n";
        assert_eq!(
            replace_section(before, "One", "new\n"),
            format!("{HEAD}\n## One\n\nnew\n\n## Two\n\nkept\n")
        );
        assert_eq!(
            replace_section(before, "Three", "3"),
            format!("{HEAD}\n## One\n\n1\n\n### Part\n\n2\n\n## Two\n\nkept\n\n## Three\n\n3\n")
        );
        assert_eq!(replace_section("", "One", "1"), format!("{HEAD}\n## One\n\n1\n"));
    }
}

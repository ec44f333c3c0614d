//! All that this program prints: text and tables on standard output, errors and notices on standard error.

use std::io::{self, Write as _};

use crate::failure::Failure;

/// Prints one line on standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|source| Failure::io("write to standard output", source))
}

/// Prints one line on standard error. There is nowhere to report that this failed.
pub(crate) fn notice(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Prints an error as every verb does: `croze: WHAT: CAUSE`.
pub(crate) fn error(text: &str) {
    notice(&format!("croze: {text}"));
}

/// Prints what to do about the error above it.
pub(crate) fn hint(text: &str) {
    notice(&format!("hint: {text}"));
}

/// A table as docker prints it: upper-case titles, columns padded to their widest cell, three spaces between.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these titles.
    pub(crate) fn new(titles: &[&str]) -> Self {
        Self {
            rows: vec![titles.iter().map(|&title| title.to_owned()).collect()],
        }
    }

    /// Adds a row with as many cells as there are titles.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints the table.
    pub(crate) fn print(&self) -> Result<(), Failure> {
        line(&self.render())
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let lines: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let cells: Vec<String> = row
                    .iter()
                    .zip(&widths)
                    .map(|(cell, &width)| format!("{cell:width$}"))
                    .collect();
                cells.join("   ").trim_end().to_owned()
            })
            .collect();
        lines.join("\n")
    }
}

/// Text from a container or an image made safe for a terminal: control characters become visible escapes.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
            .chars()
            .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(vec!["1234".to_owned(), "a".to_owned()]);
        table.row(vec!["1".to_owned(), String::new()]);
        assert_eq!(table.render(), "ID     NAME\n1234   a\n1");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31m\nö"), "a\\u{1b}[31m\\nö");
    }
}

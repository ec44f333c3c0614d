//! Columns as docker prints them: cells end with tabs, and each column is as wide as its widest cell, with three spaces after it and ten
//! characters at least.
//!
//! The rules are those of Go's `text/tabwriter`: a column is a block of lines that follow each other and have a cell there; what stands after a
//! line's last tab belongs to no column. Widths are counted in characters.

/// Spaces after a column's widest cell.
const PADDING: usize = 3;
/// The least width of a column, its padding included.
const LEAST_WIDTH: usize = 10;

/// Lays out lines whose cells end with tabs.
pub(crate) fn aligned(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|_| Vec::new()).collect();
    let deepest = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..deepest {
        let mut start = 0;
        while start < lines.len() {
            // A cell with a tab after it: not the last one of its line.
            let in_block = |line: &&Vec<&str>| column + 1 < line.len();
            let length = lines[start..].iter().take_while(in_block).count();
            let block = start..start + length;
            let widest = lines[block.clone()]
                .iter()
                .map(|line| line[column].chars().count())
                .max();
            let width = (widest.unwrap_or(0) + PADDING).max(LEAST_WIDTH);
            for line in &mut widths[block] {
                line.push(width);
            }
            start += length.max(1);
        }
    }
    let laid: Vec<String> = lines
        .iter()
        .zip(&widths)
        .map(|(cells, widths)| laid_out(cells, widths))
        .collect();
    laid.join("\n")
}

fn laid_out(cells: &[&str], widths: &[usize]) -> String {
    let mut line = String::new();
    for (column, cell) in cells.iter().enumerate() {
        line.push_str(cell);
        if let Some(width) = widths.get(column) {
            line.push_str(&" ".repeat(width.saturating_sub(cell.chars().count())));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        for (text, laid) in [
            ("", ""),
            ("alone", "alone"),
            ("ID\tNAME\n1234\ta\n", "ID        NAME\n1234      a\n"),
            (
                "a much longer cell\tx\n1\t",
                "a much longer cell   x\n1                    ",
            ),
            ("é\tx\nab\ty", "é         x\nab        y"),
            // A line without a cell there ends the column's block.
            (
                "a\tb\nplain\nlonger than ten\tc",
                "a         b\nplain\nlonger than ten   c",
            ),
            ("a\t\tb", "a                   b"),
        ] {
            assert_eq!(aligned(text), laid, "{text:?}");
        }
    }
}

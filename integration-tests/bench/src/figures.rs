//! Medians, ratios, tables.

use std::fmt::Write as _;

/// The middle of these values, the upper one of two.
#[must_use]
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len() / 2).copied()
}

/// A table of figures, each with its ratio to the column `reference`. A figure that was not taken is a dash.
#[must_use]
pub fn table(columns: &[&str], reference: usize, rows: &[(&str, Vec<Option<f64>>)]) -> String {
    let mut out = format!(
        "| case | {} |\n|---{}|\n",
        columns.join(" | "),
        "|---".repeat(columns.len())
    );
    for (name, values) in rows {
        let base = values.get(reference).copied().flatten();
        // Writing to a string cannot fail.
        write!(out, "| {name} |").ok();
        for value in values {
            match (value, base) {
                (Some(value), Some(base)) if base > 0.0 => {
                    write!(out, " {value:.2} ({:.2}) |", value / base).ok();
                }
                (Some(value), _) => {
                    write!(out, " {value:.2} |").ok();
                }
                (None, _) => out.push_str(" - |"),
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median::<u32>(&[]), None);
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(median(&[0.5, 0.25]), Some(0.5));
        assert_eq!(
            median(&[Duration::from_millis(4), Duration::from_millis(2)]),
            Some(Duration::from_millis(4))
        );
    }

    #[test]
    fn tables_show_values_and_ratios() {
        let rows = [
            ("run", vec![Some(3.0), Some(6.0), None]),
            ("exec", vec![Some(1.0), None, Some(2.0)]),
        ];
        assert_eq!(
            table(&["a", "b", "c"], 1, &rows),
            "| case | a | b | c |\n|---|---|---|---|\n| run | 3.00 (0.50) | 6.00 (1.00) | - |\n| exec | 1.00 | - | 2.00 |\n"
        );
    }
}

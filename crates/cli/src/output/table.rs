use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{escape, raw};
use crate::error::Outcome;

/// Rows beneath headings, in columns that are as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; the first column is the id.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row. An empty cell is shown as `-`, so that columns can be counted.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { escape(&cell) }).collect());
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints it.
    ///
    /// # Errors
    /// As [`line`](super::line).
    pub(crate) fn print(&self) -> Outcome {
        raw(self.render().as_bytes())
    }
}

/// A number of bytes for a reader: `1.5G`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["K", "M", "G", "T"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

/// How long ago a moment (Unix milliseconds) was: `3m`.
pub(crate) fn ago(moment_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    span(u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(moment_ms) / 1000)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_cells_are_visible() {
        let mut table = Table::new(&["ID", "NAME", "STATE"]);
        table.row(["sb-1".into(), String::new(), "running".into()]);
        table.row(["sb-1234".into(), "ä\x1b".into(), "x".into()]);
        assert_eq!(table.render(), "ID       NAME     STATE\nsb-1     -        running\nsb-1234  ä\\u{1b}  x\n");
    }

    #[test]
    fn numbers_are_short() {
        for (count, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5K"), (512 << 20, "512M"), (3 << 40, "3.0T")] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(5, "5s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")] {
            assert_eq!(span(seconds), text);
        }
    }
}

//! Aligned text.

use super::format::printable;

/// Spaces between two columns.
const GAP: usize = 2;

/// A table with a header; columns are as wide as their widest cell.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table without rows.
    #[must_use]
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|cell| (*cell).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, and cells beyond the header are left out.
    #[must_use]
    pub fn row(mut self, cells: Vec<String>) -> Self {
        self.push(cells);
        self
    }

    /// Adds a row in place, by the rule of [`Table::row`].
    pub fn push(&mut self, mut cells: Vec<String>) {
        cells.resize(self.header.len(), String::new());
        for cell in &mut cells {
            *cell = if cell.is_empty() { "-".to_owned() } else { printable(cell) };
        }
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, one line per row, without a line end after the last.
    #[must_use]
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|cell| cell.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let lines: Vec<String> =
            std::iter::once(&self.header).chain(&self.rows).map(|row| render_row(row, &widths)).collect();
        lines.join("\n")
    }

    /// Prints the table to standard output.
    pub fn print(&self) {
        super::print_line(&self.render());
    }
}

/// One line, without spaces at its end.
fn render_row(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        line.push_str(cell);
        let padding = width.saturating_sub(cell.chars().count()).saturating_add(GAP);
        line.extend(std::iter::repeat_n(' ', padding));
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = Table::new(&["NAME", "STATE"])
            .row(cells(&["gpu-node-1", "up"]))
            .row(cells(&["größe", "down"]))
            .row(cells(&["x"]));
        assert_eq!(
            table.render(),
            "NAME        STATE\n\
             gpu-node-1  up\n\
             größe       down\n\
             x           -"
        );
    }

    #[test]
    fn a_cell_cannot_break_the_line() {
        let table = Table::new(&["NAME"]).row(cells(&["a\nb\x1b[2J", "beyond"]));
        assert_eq!(table.render(), "NAME\na\u{fffd}b\u{fffd}[2J");
    }

    #[test]
    fn an_empty_table_is_its_header() {
        let table = Table::new(&["A", "B"]);
        assert!(table.is_empty());
        assert_eq!(table.render(), "A  B");
    }
}

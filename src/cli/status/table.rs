//! Tables with aligned columns, and the colors of the screen.

use clap::builder::styling::{AnsiColor, Style};

/// Most rows of a table that are shown.
const MAX_ROWS: usize = 20;

/// The meaning of a piece of text, which decides its color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary text, without a color.
    Plain,
    /// A heading, in bold.
    Head,
    /// Less important text, dimmed.
    Quiet,
    /// Everything is in order: green.
    Good,
    /// Something needs attention: yellow.
    Warning,
    /// An error or a failure: bold red.
    Error,
}

/// One row of a table, with an optional note below it.
pub struct Row {
    /// One cell for each column.
    pub cells: Vec<(String, Tone)>,
    /// An indented line below the row; empty means none.
    pub note: String,
}

/// `text` in the color of `tone`, if `color` is set.
pub fn paint(text: &str, tone: Tone, color: bool) -> String {
    let style = match tone {
        _ if !color || text.is_empty() => return text.into(),
        Tone::Plain => return text.into(),
        Tone::Head => Style::new().bold(),
        Tone::Quiet => Style::new().dimmed(),
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Warning => AnsiColor::Yellow.on_default(),
        Tone::Error => AnsiColor::Red.on_default().bold(),
    };
    format!("{style}{text}{style:#}")
}

/// Formats the first rows of `rows` under `heads`. A head that begins with `>` makes its column
/// right-aligned.
pub fn table(heads: &[&str], rows: &[Row], color: bool) -> String {
    table_of(heads, rows, color, MAX_ROWS)
}

/// Formats the first `max` rows, like [`table`].
pub fn table_of(heads: &[&str], rows: &[Row], color: bool, max: usize) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .take(max)
            .filter_map(|row| row.cells.get(column))
            .map(|(text, _)| text.chars().count());
        cells
            .chain([heads[column].trim_start_matches('>').chars().count()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let line = |cells: Vec<(&str, Tone)>| {
        let mut line = String::new();
        for ((text, tone), (width, head)) in cells.into_iter().zip(widths.iter().zip(heads)) {
            // Padded by the bare text: the escape codes of a color have no width.
            let blank = " ".repeat(width.saturating_sub(text.chars().count()));
            let painted = paint(text, tone, color);
            line.push_str(&if head.starts_with('>') {
                format!("{blank}{painted}  ")
            } else {
                format!("{painted}{blank}  ")
            });
        }
        format!("{}\n", line.trim_end())
    };
    let mut out =
        line(heads.iter().map(|head| (head.trim_start_matches('>'), Tone::Head)).collect());
    for row in rows.iter().take(max) {
        out.push_str(&line(row.cells.iter().map(|(text, tone)| (text.as_str(), *tone)).collect()));
        if !row.note.is_empty() {
            out.push_str(&format!("  {}\n", row.note));
        }
    }
    if rows.len() > max {
        out.push_str(&format!("… and {} more, which --json has\n", rows.len() - max));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str], note: &str) -> Row {
        Row {
            cells: cells.iter().map(|cell| ((*cell).to_owned(), Tone::Plain)).collect(),
            note: note.into(),
        }
    }

    #[test]
    fn columns_are_aligned_and_numbers_right_aligned() {
        let rows = [row(&["a", "3,102", "x"], "further in"), row(&["longer", "1", "y"], "")];
        assert_eq!(
            table(&["name", ">tunnels", "z"], &rows, false),
            "name    tunnels  z\na         3,102  x\n  further in\nlonger        1  y\n"
        );
    }

    #[test]
    fn color_does_not_affect_alignment() {
        let rows = [Row {
            cells: vec![("a".into(), Tone::Error), ("b".into(), Tone::Plain)],
            note: String::new(),
        }];
        let (plain, colored) = (table(&["n", "m"], &rows, false), table(&["n", "m"], &rows, true));
        assert!(!plain.contains('\u{1b}') && colored.contains("\u{1b}[31m"), "{colored:?}");
        let mut stripped = colored.clone();
        while let Some(from) = stripped.find('\u{1b}') {
            let end = stripped[from..].find('m').unwrap();
            stripped.replace_range(from..=from + end, "");
        }
        assert_eq!(stripped, plain);
    }

    #[test]
    fn long_table_is_cut_with_a_note() {
        let rows: Vec<_> = (0..50).map(|number| row(&[&number.to_string()], "")).collect();
        let text = table(&["n"], &rows, false);
        assert_eq!(text.lines().count(), 22);
        assert!(text.ends_with("… and 30 more, which --json has\n"), "{text}");
    }
}

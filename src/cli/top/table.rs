//! A table that fits a given width: the first columns always, further ones where there is room.

use crate::cli::status::table::Tone;
use crate::cli::top::text::{TextPiece, cut, cut_line, width};

/// Columns between two columns of a table.
const GAP: usize = 2;

/// The least width of a first column that is cut.
const MIN_NAME: usize = 8;

/// The table of one panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanelTable {
    /// The heads; the first is the panel's title. A head that begins with `>` makes its column
    /// right-aligned.
    pub heads: Vec<&'static str>,
    /// Number of columns that are shown in any width.
    pub essential: usize,
    /// The rows, with a piece for each head.
    pub rows: Vec<Vec<TextPiece>>,
    /// Number of rows of the whole table, of which the agent has sent the first.
    pub total: u64,
    /// Sentence in place of rows if there are none.
    pub empty: &'static str,
}

impl PanelTable {
    /// Leaves only the rows that have `text` in one of their pieces, in any case.
    pub fn retain(&mut self, text: &str) {
        let wanted = text.to_lowercase();
        let has = |piece: &TextPiece| piece.text.to_lowercase().contains(&wanted);
        self.rows.retain(|row| row.iter().any(has));
    }

    /// The head and the rows from `from` on, in at most `width` columns and `height` lines.
    pub fn lines(&self, width: usize, from: usize, height: usize) -> Vec<Vec<TextPiece>> {
        let room = height.saturating_sub(1);
        let from = from.min(self.rows.len().saturating_sub(room));
        let shown = &self.rows[from..self.rows.len().min(from + room)];
        let heads = self.heads(from, shown.len());
        let widths = fit(&self.natural(&heads, shown), self.essential, width);
        let line = |pieces: &[TextPiece]| self.line(pieces, &widths);
        let mut lines = vec![line(&heads)];
        lines.extend(shown.iter().map(|row| line(row)));
        if self.rows.is_empty() && room > 0 {
            lines.push(vec![TextPiece::new(&cut(self.empty, width), Tone::Quiet)]);
        }
        lines.truncate(height);
        // Less room than the essential columns need cuts the whole line.
        lines.into_iter().map(|line| cut_line(line, width)).collect()
    }

    /// The heads, of which the first says which rows of how many are shown.
    fn heads(&self, from: usize, shown: usize) -> Vec<TextPiece> {
        let head = |text: &str| TextPiece::new(text.trim_start_matches('>'), Tone::Head);
        let mut heads: Vec<_> = self.heads.iter().map(|text| head(text)).collect();
        let total = self.total.max(self.rows.len() as u64);
        if let Some(title) = heads.first_mut().filter(|_| (shown as u64) < total && shown > 0) {
            let rows = match from {
                0 => format!(" {shown}/{total}"),
                from => format!(" {}-{}/{total}", from + 1, from + shown),
            };
            title.text.push_str(&rows);
        }
        heads
    }

    fn natural(&self, heads: &[TextPiece], rows: &[Vec<TextPiece>]) -> Vec<usize> {
        let of = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(TextPiece::width);
            cells.chain([heads[column].width()]).max().unwrap_or_default()
        };
        (0..heads.len()).map(of).collect()
    }

    fn line(&self, pieces: &[TextPiece], widths: &[usize]) -> Vec<TextPiece> {
        let mut line = Vec::new();
        for (at, (piece, columns)) in pieces.iter().zip(widths).enumerate() {
            let text = cut(&piece.text, *columns);
            let blank = " ".repeat(columns - width(&text).min(*columns));
            let is_last = at + 1 == widths.len();
            let text = match self.heads[at].starts_with('>') {
                true => format!("{blank}{text}"),
                // No blanks at the end of a line: a pipe keeps them.
                false if is_last => text,
                false => format!("{text}{blank}"),
            };
            line.push(TextPiece { text, tone: piece.tone });
            if !is_last {
                line.push(TextPiece { text: " ".repeat(GAP), tone: Tone::Plain });
            }
        }
        line
    }
}

/// The widths of the columns that are shown.
fn fit(natural: &[usize], essential: usize, width: usize) -> Vec<usize> {
    let Some((name, rest)) = natural.split_first() else { return Vec::new() };
    let shown = essential.min(natural.len());
    let taken: usize = rest[..shown.saturating_sub(1)].iter().map(|one| one + GAP).sum();
    let least = MIN_NAME.min(*name);
    let mut widths = vec![(*name).min(width.saturating_sub(taken)).max(least)];
    widths.extend(&rest[..shown.saturating_sub(1)]);
    let mut left = width.saturating_sub(widths[0] + taken);
    for more in &natural[shown..] {
        // A text at the end may be cut, as long as something of it is left.
        let room = left.saturating_sub(GAP).min(*more);
        if room < (*more).min(MIN_NAME) {
            break;
        }
        widths.push(room);
        left = left.saturating_sub(room + GAP);
        if room < *more {
            break;
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 4]]) -> PanelTable {
        PanelTable {
            heads: vec!["CLIENT", ">TUNNELS", "REASON", "AT"],
            essential: 2,
            rows: rows
                .iter()
                .map(|row| row.iter().map(|text| TextPiece::plain(text)).collect())
                .collect(),
            total: rows.len() as u64,
            empty: "no clients",
        }
    }

    fn text(table: &PanelTable, width: usize, from: usize, height: usize) -> Vec<String> {
        let lines = table.lines(width, from, height).into_iter();
        let lines: Vec<String> =
            lines.map(|line| line.into_iter().map(|piece| piece.text).collect()).collect();
        assert!(lines.iter().all(|line| super::width(line) <= width), "{lines:?}");
        lines
    }

    const ROWS: [[&str; 4]; 3] = [
        ["192.0.2.7", "20", "network", "policies/lists/partners.cidr:8"],
        ["2001:db8:1:2::/64", "3", "origin", "policies/chat.toml:4"],
        ["192.0.2.9", "1", "rate", "-"],
    ];

    #[test]
    fn width_decides_which_columns_are_shown() {
        let table = table(&ROWS);
        assert_eq!(
            text(&table, 100, 0, 2)[1],
            "192.0.2.7        20  network  policies/lists/partners.cidr:8"
        );
        assert_eq!(text(&table, 40, 0, 9)[1], "192.0.2.7               20  network");
        assert_eq!(text(&table, 20, 0, 9)[2], "2001:db8:1…        3");
        assert_eq!(text(&table, 46, 0, 9)[1], "192.0.2.7               20  network  policies…");
    }

    #[test]
    fn title_counts_the_rows_that_are_not_shown() {
        let mut table = table(&ROWS);
        assert_eq!(text(&table, 60, 0, 4)[0].split_whitespace().next(), Some("CLIENT"));
        assert!(text(&table, 60, 0, 2)[0].starts_with("CLIENT 1/3"));
        assert!(text(&table, 60, 1, 2)[0].starts_with("CLIENT 2-2/3"));
        table.total = 4000;
        assert!(text(&table, 60, 0, 9)[0].starts_with("CLIENT 3/4000"));
        assert_eq!(
            text(&table, 60, 99, 2)[1].split(' ').next(),
            Some("192.0.2.9"),
            "the last page"
        );
    }

    #[test]
    fn filter_finds_any_piece_in_any_case() {
        let mut table = table(&ROWS);
        table.retain("PARTNERS");
        assert_eq!(table.rows.len(), 1);
        table.retain("nothing");
        assert_eq!(text(&table, 30, 0, 5)[1], "no clients");
    }

    #[test]
    fn any_size_is_kept() {
        for width in 0..60 {
            for height in 0..6 {
                assert!(text(&table(&ROWS), width, 1, height).len() <= height);
            }
        }
    }
}

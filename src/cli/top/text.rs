//! Texts of the screen: harmless on a terminal, measured in its columns, and cut.

use ratatui::style::Style;
use ratatui::text::Span;

use crate::cli::status::table::Tone;
use sidegate::observe::printable;

/// The mark in place of a character that has no width of its own.
const INVISIBLE: char = '\u{fffd}';

/// The mark at the end of a text that was cut.
const CUT: char = '…';

/// A text with the meaning that decides its color.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPiece {
    /// The text, which has no controls.
    pub text: String,
    /// Its meaning, which decides its color.
    pub tone: Tone,
}

impl TextPiece {
    /// A text of the agent, made harmless.
    pub fn new(text: &str, tone: Tone) -> TextPiece {
        TextPiece { text: harmless(text), tone }
    }

    /// An ordinary text of the agent.
    pub fn plain(text: &str) -> TextPiece {
        TextPiece::new(text, Tone::Plain)
    }

    /// Number of columns that it takes.
    pub fn width(&self) -> usize {
        width(&self.text)
    }
}

/// `text` as one line without controls, and with a mark in place of each character that has no
/// column of its own.
///
/// Terminals disagree on combining marks, joiners, flags and the colors of skins: any of them would
/// move the rest of its line. So a cluster of characters keeps the first of them alone.
pub fn harmless(text: &str) -> String {
    let line = Span::raw(printable::line(text));
    let mut shown = String::new();
    for cluster in line.styled_graphemes(Style::new()) {
        let is_own = |(at, c): (usize, char)| at == 0 && char_width(c) > 0;
        let chars = cluster.symbol.chars().enumerate();
        shown.extend(chars.map(|one| if is_own(one) { one.1 } else { INVISIBLE }));
    }
    shown
}

/// Number of columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match c.is_ascii() {
        true => 1,
        false => Span::raw(c.encode_utf8(&mut [0; 4]) as &str).width(),
    }
}

/// `text` in at most `columns` columns.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut left = columns.saturating_sub(1);
    for c in text.chars() {
        // A wide character that doesn't fit whole is left out.
        let Some(rest) = left.checked_sub(char_width(c)) else { break };
        left = rest;
        kept.push(c);
    }
    if columns > 0 {
        kept.push(CUT);
    }
    kept
}

/// The pieces of a line in at most `columns` columns.
pub fn cut_line(line: Vec<TextPiece>, columns: usize) -> Vec<TextPiece> {
    let mut left = columns;
    let mut kept = Vec::new();
    for piece in line {
        let text = cut(&piece.text, left);
        let is_cut = text != piece.text;
        left -= width(&text).min(left);
        kept.push(TextPiece { text, tone: piece.tone });
        if is_cut {
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_take_the_columns_that_are_counted() {
        let controls = ["\u{1b}[2J", "\u{202e}x", "\u{9b}31m", "a\nb"];
        let marks = ["a\u{300}\u{301}", "x\u{200d}y", "\u{300}x", "1\u{fe0f}\u{20e3}"];
        for text in [controls, marks].concat() {
            let shown = harmless(text);
            assert!(!shown.contains(printable::is_control), "{shown:?}");
            assert_eq!(width(&shown), shown.chars().count(), "{text:?}");
        }
        assert_eq!((harmless("例え"), width("例え")), ("例え".into(), 4));
        // Skin, joined persons, a flag, and a syllable of three letters.
        for text in ["👩🏽x", "👩🏽\u{200d}🚀x", "🇩🇪x", "\u{1112}\u{1161}\u{11ab}x"]
        {
            let shown = harmless(text);
            assert_eq!(Span::raw(&shown).width(), width(&shown), "{text:?}");
            let clusters = Span::raw(&shown).styled_graphemes(Style::new()).count();
            assert_eq!(clusters, text.chars().count(), "{shown:?}: one character each");
        }
    }

    #[test]
    fn long_text_is_cut_within_its_columns() {
        for (text, columns, expected) in [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 4, "abc…"),
            ("例えば", 4, "例…"),
            ("例えば", 5, "例え…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected);
        }
        let line = vec![TextPiece::plain("abc"), TextPiece::plain("def"), TextPiece::plain("ghi")];
        let texts: Vec<_> = cut_line(line, 5).into_iter().map(|one| one.text).collect();
        assert_eq!(texts, ["abc", "d…"]);
    }
}

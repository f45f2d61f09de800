//! Text from files and from other processes, made safe to print on a terminal.
//!
//! Visible characters are never changed. This module doesn't know where the text is printed.

use std::borrow::Cow;
use std::fmt::Write;

/// The mark that replaces a character that is not printed.
const REPLACEMENT: char = '\u{fffd}';

/// Most characters of a text that is shortened.
const MAX_SHOWN: usize = 100;

/// Whether a terminal obeys `c` or reorders text because of it.
///
/// These are the C0 and C1 controls, DEL, the bidi controls of Unicode (UAX #9 §2) and its line
/// and paragraph separators.
pub fn is_control(c: char) -> bool {
    let is_bidi = matches!(c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `text` with its newlines and tabs, and a mark in place of every other control.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_control(c) && c != '\n' && c != '\t')
}

/// `text` as one line: newlines and tabs are replaced as well.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_control)
}

/// `text`, or its beginning and its length where it is longer than a line has room for.
pub fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN) {
        None => Cow::Borrowed(text),
        Some((end, _)) => {
            let length = text.chars().count();
            Cow::Owned(format!("{}… ({length} characters)", &text[..end]))
        }
    }
}

/// The JSON text `json` with every control inside its strings escaped (RFC 8259 §7).
///
/// JSON writers escape U+0000 to U+001F only. Outside of strings the only controls are newlines.
pub fn json(json: &str) -> Cow<'_, str> {
    let is_raw = |c: char| is_control(c) && c != '\n';
    if !json.contains(is_raw) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_raw(c) {
            // All controls are in the basic plane, so one escape suffices. Writing to a string
            // doesn't fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn replaced(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_bad(c) { REPLACEMENT } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLS: [char; 9] =
        ['\u{1b}', '\u{7}', '\r', '\u{7f}', '\u{9b}', '\u{85}', '\u{202e}', '\u{2066}', '\u{2028}'];

    #[test]
    fn controls_are_replaced_and_words_of_any_script_kept() {
        for control in CONTROLS {
            let text = format!("a{control}[2Jb");
            assert_eq!((&*lines(&text), &*line(&text)), ("a\u{fffd}[2Jb", "a\u{fffd}[2Jb"));
        }
        let text = "Grüße, שלום, 例え, 🦀\n\tc";
        assert_eq!(lines(text), text);
        assert_eq!(line(text), "Grüße, שלום, 例え, 🦀\u{fffd}\u{fffd}c");
    }

    #[test]
    fn long_text_is_shortened_between_characters() {
        assert_eq!(shortened("ä"), "ä");
        assert_eq!(shortened(&"ä".repeat(100)), "ä".repeat(100));
        let shown = shortened(&"ä".repeat(5000)).into_owned();
        assert_eq!(shown, format!("{}… (5000 characters)", "ä".repeat(100)));
    }

    #[test]
    fn printable_json_has_the_same_meaning() {
        for control in CONTROLS {
            let value = serde_json::json!({ format!("k{control}"): [format!("{control}v")] });
            for text in [value.to_string(), format!("{value:#}")] {
                let printed = json(&text).into_owned();
                assert!(!printed.contains(|c| is_control(c) && c != '\n'), "{printed:?}");
                assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
            }
        }
    }
}

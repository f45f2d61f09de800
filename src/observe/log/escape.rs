//! Escapes logged values: no terminal control, no early end of a line, no unbounded length.
//!
//! This module knows how each format quotes, not what the values mean.

use std::fmt::{self, Write};

/// The way in which a format quotes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteStyle {
    /// Unquoted; only invisible characters are escaped. For a message, or a field with a line of
    /// its own.
    Bare,
    /// In quotes if the value would not be one word otherwise.
    Word,
    /// The inside of a JSON string (RFC 8259 §7).
    Json,
}

/// Appends the output of `say` to `out`, escaped, as at most `max` bytes; a longer value is cut
/// and ends with `…`.
pub fn escape(
    out: &mut String,
    quoting: QuoteStyle,
    max: usize,
    say: impl Fn(&mut dyn fmt::Write) -> fmt::Result,
) {
    let start = out.len();
    // Fast path: nearly every value needs no escape, and one scan of the whole is cheaper than one
    // for each piece.
    if say(&mut BoundedString { end: start.saturating_add(max), out }).is_ok()
        && needs_no_escape(&out[start..], quoting)
    {
        return;
    }
    out.truncate(start);
    let mut escaping =
        EscapingWriter { end: start.saturating_add(max), out, quoting, is_cut: false };
    // The error says that there is no room for more.
    let _ = say(&mut escaping);
    if escaping.is_cut {
        out.push('…');
    }
    if quoting == QuoteStyle::Word && !is_word(&out[start..]) {
        out.insert(start, '"');
        out.push('"');
    }
}

/// Like [`escape`], for a finished string: nearly every one needs no escape and is copied.
pub fn escape_text(out: &mut String, quoting: QuoteStyle, max: usize, text: &str) {
    if text.len() <= max && needs_no_escape(text, quoting) {
        out.push_str(text);
    } else {
        escape(out, quoting, max, |out| out.write_str(text));
    }
}

/// Whether an escaped value is one word and needs no quotes.
pub fn is_word(escaped: &str) -> bool {
    !escaped.is_empty() && all(escaped, |byte| !matches!(byte, b' ' | b'"' | b'=' | b'\\'))
}

/// Whether `text` needs neither an escape nor quotes.
fn needs_no_escape(text: &str, quoting: QuoteStyle) -> bool {
    is_plain(text) && (quoting != QuoteStyle::Word || is_word(text))
}

/// Whether no character of `text` needs an escape under any quoting.
fn is_plain(text: &str) -> bool {
    all(text, |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
}

/// Tests every byte. The fold has no branch or early exit, so that it vectorizes.
fn all(text: &str, is_so: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & is_so(byte))
}

/// A string with a fixed maximum length; writes beyond it fail.
struct BoundedString<'o> {
    out: &'o mut String,
    end: usize,
}

impl Write for BoundedString<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.out.len().saturating_add(text.len()) > self.end {
            return Err(fmt::Error);
        }
        self.out.push_str(text);
        Ok(())
    }
}

/// A writer that escapes all text on its way into `out`.
struct EscapingWriter<'o> {
    out: &'o mut String,
    quoting: QuoteStyle,
    /// Maximum length of `out`, in bytes.
    end: usize,
    is_cut: bool,
}

impl Write for EscapingWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Fast path: nearly all text is plain.
        if is_plain(text) {
            return self.run(text);
        }
        let mut seen = 0;
        for (at, c) in text.char_indices() {
            if self.passes(c) {
                continue;
            }
            self.run(&text[seen..at])?;
            self.escaped(c)?;
            seen = at + c.len_utf8();
        }
        self.run(&text[seen..])
    }
}

impl EscapingWriter<'_> {
    /// Whether `c` is written unescaped.
    fn passes(&self, c: char) -> bool {
        match c {
            '"' | '\\' => self.quoting == QuoteStyle::Bare,
            ' '..='~' => true,
            // `escape_debug` escapes controls, bidi marks, zero-width characters and combining
            // marks.
            c => !c.is_ascii() && c.escape_debug().len() == 1,
        }
    }

    fn run(&mut self, run: &str) -> fmt::Result {
        let room = self.end.saturating_sub(self.out.len());
        if run.len() <= room && !self.is_cut {
            self.out.push_str(run);
            return Ok(());
        }
        if !self.is_cut {
            self.out.push_str(&run[..run.floor_char_boundary(room)]);
        }
        self.cut()
    }

    /// Writes the escape of `c` whole or not at all: half an escape would mean something else.
    fn escaped(&mut self, c: char) -> fmt::Result {
        let before = self.out.len();
        match (self.quoting, c) {
            (_, '"' | '\\') => self.out.extend(['\\', c]),
            (QuoteStyle::Json, c) => {
                // JSON escapes UTF-16 units: a character beyond the basic plane is a surrogate pair
                // (RFC 8259 §7).
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(self.out, "\\u{unit:04x}")?;
                }
            }
            (QuoteStyle::Bare | QuoteStyle::Word, c) => self.out.extend(c.escape_debug()),
        }
        if self.out.len() > self.end {
            self.out.truncate(before);
            return self.cut();
        }
        Ok(())
    }

    fn cut(&mut self) -> fmt::Result {
        self.is_cut = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(value: &str, bare: &str, word: &str, json: &str) {
        for (quoting, escaped) in
            [(QuoteStyle::Bare, bare), (QuoteStyle::Word, word), (QuoteStyle::Json, json)]
        {
            let mut out = String::new();
            escape(&mut out, quoting, 64, |out| out.write_str(value));
            assert_eq!(out, escaped, "{quoting:?} of {value:?}");
        }
    }

    #[test]
    fn visible_characters_are_not_escaped() {
        check(
            "ws.example.com:8443",
            "ws.example.com:8443",
            "ws.example.com:8443",
            "ws.example.com:8443",
        );
        check("Bücher/日本", "Bücher/日本", "Bücher/日本", "Bücher/日本");
        check("two words", "two words", "\"two words\"", "two words");
        check("a=b", "a=b", "\"a=b\"", "a=b");
        check("", "", "\"\"", "");
    }

    #[test]
    fn escaped_text_has_no_newline_quote_or_control() {
        check("a\nPRIORITY=0", r"a\nPRIORITY=0", r#""a\nPRIORITY=0""#, r"a\u000aPRIORITY=0");
        check(
            "\x1b[2J\0\x7f",
            r"\u{1b}[2J\0\u{7f}",
            r#""\u{1b}[2J\0\u{7f}""#,
            r"\u001b[2J\u0000\u007f",
        );
        check("\u{9b}31m", r"\u{9b}31m", r#""\u{9b}31m""#, r"\u009b31m");
        check(
            r#"","level":"ERROR"#,
            r#"","level":"ERROR"#,
            r#""\",\"level\":\"ERROR""#,
            r#"\",\"level\":\"ERROR"#,
        );
        check("a\\", "a\\", r#""a\\""#, r"a\\");
        check(
            "\u{202e}gpj.exe\u{2066}",
            r"\u{202e}gpj.exe\u{2066}",
            r#""\u{202e}gpj.exe\u{2066}""#,
            r"\u202egpj.exe\u2066",
        );
        check(
            "\u{2028}\u{feff}\u{200b}",
            r"\u{2028}\u{feff}\u{200b}",
            r#""\u{2028}\u{feff}\u{200b}""#,
            r"\u2028\ufeff\u200b",
        );
        check("\u{e0001}", r"\u{e0001}", r#""\u{e0001}""#, r"\udb40\udc01");
        check(
            &String::from_utf8_lossy(b"\xff\xc3("),
            "\u{fffd}\u{fffd}(",
            "\u{fffd}\u{fffd}(",
            "\u{fffd}\u{fffd}(",
        );
    }

    #[test]
    fn long_value_is_cut_with_a_mark() {
        let mut out = "path=".to_owned();
        escape(&mut out, QuoteStyle::Word, 8, |out| out.write_str("/12345678"));
        assert_eq!(out, "path=/1234567…");
        let mut out = String::new();
        escape(&mut out, QuoteStyle::Json, 8, |out| out.write_str("日本語")); // nine bytes
        assert_eq!(out, "日本…");
        let mut out = String::new();
        escape(&mut out, QuoteStyle::Json, 8, |out| write!(out, "{}\n\n", "ab".to_owned()));
        assert_eq!(out, r"ab\u000a…");
    }

    proptest! {
        #[test]
        fn escaped_json_round_trips(value in any::<String>()) {
            let mut out = String::new();
            escape(&mut out, QuoteStyle::Json, usize::MAX, |out| out.write_str(&value));
            prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{out}\"")).unwrap(), value);
        }

        #[test]
        fn no_control_passes_and_no_bound_is_exceeded(value in any::<String>(), max in 0usize..40) {
            for quoting in [QuoteStyle::Bare, QuoteStyle::Word, QuoteStyle::Json] {
                let mut out = String::new();
                escape(&mut out, quoting, max, |out| out.write_str(&value));
                prop_assert!(!out.chars().any(char::is_control), "{out:?}");
                prop_assert!(out.len() <= max + "\"…\"".len());
            }
        }
    }
}

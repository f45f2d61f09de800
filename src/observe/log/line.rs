//! Formats an event as a line, in each of the three shapes.
//!
//! A line has every field of its event once; events are chosen where they happen, not here. The
//! length of a line is bounded, whatever its fields hold.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;

use crate::observe::log::escape::{QuoteStyle, escape, escape_text, is_word};

/// Most bytes of one escaped value.
const MAX_VALUE_BYTES: usize = 1024;

/// Most bytes of all fields together. The first field beyond it and all later ones are left out.
const MAX_FIELDS_BYTES: usize = 8 * 1024;

/// Most bytes of the escaped message.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;

/// Initial capacity of a line's fields, in bytes.
const INITIAL_CAPACITY: usize = 768;

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// `2026-12-31T23:59:59.999Z INFO refused route=ticks reason=network …`
    Text {
        /// Whether ANSI escapes color time, level and names.
        colours: bool,
    },
    /// One JSON object: `{"timestamp":"…","level":"INFO","message":"refused","route":"ticks",…}`.
    Json,
    /// One journal entry with a line for each field: `PRIORITY=6`, `MESSAGE=refused route=ticks …`,
    /// `ROUTE=ticks`, …
    Journald,
}

/// A `tracing` layer that writes each event as one line.
pub struct LineLayer<W> {
    shape: LineFormat,
    writer: W,
    clock: fn() -> Timestamp,
}

impl<W> LineLayer<W> {
    /// Creates a layer for lines of this shape, with timestamps from `clock`.
    pub fn new(shape: LineFormat, writer: W, clock: fn() -> Timestamp) -> Self {
        LineLayer { shape, writer, clock }
    }
}

impl<S: Subscriber, W: for<'w> MakeWriter<'w> + 'static> Layer<S> for LineLayer<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = LineFields::new(self.shape);
        event.record(&mut fields);
        let line = fields.line(*event.metadata().level(), (self.clock)());
        // One write is one line. The sink counts the lines that it loses.
        let _ = self.writer.make_writer().write_all(line.as_bytes());
    }
}

/// The fields of an event recorded so far, escaped.
struct LineFields {
    shape: LineFormat,
    message: String,
    /// ` route=ticks reason=network`: for people, so empty in JSON.
    words: String,
    /// `,"route":"ticks","reason":"network"`; in the journal a line for each field.
    own: String,
    is_cut: bool,
}

impl LineFields {
    fn new(shape: LineFormat) -> Self {
        let room = |is_used| String::with_capacity(if is_used { INITIAL_CAPACITY } else { 0 });
        let (words, own) =
            (room(shape != LineFormat::Json), room(!matches!(shape, LineFormat::Text { .. })));
        LineFields { shape, message: String::new(), words, own, is_cut: false }
    }

    fn line(mut self, level: Level, now: Timestamp) -> String {
        if self.is_cut {
            // Without a bound: this field has to fit where another did not.
            self.put("cut", FieldValue::Plain(&true), usize::MAX);
        }
        let LineFields { shape, message, words, own, .. } = self;
        // 96 bytes for the time, the level and the fixed text.
        let mut line = String::with_capacity(words.len() + own.len() + message.len() + 96);
        // Writing to a string doesn't fail.
        let _ = match shape {
            LineFormat::Text { colours: false } => {
                writeln!(line, "{now:.3} {level:>5} {message}{words}")
            }
            LineFormat::Text { colours: true } => {
                writeln!(
                    line,
                    "{DIM}{now:.3}{RESET} {}{level:>5}{RESET} {message}{words}",
                    colour(level)
                )
            }
            LineFormat::Json => {
                writeln!(
                    line,
                    r#"{{"timestamp":"{now:.3}","level":"{level}","message":"{message}"{own}}}"#
                )
            }
            LineFormat::Journald => {
                // By default journalctl shows MESSAGE alone, so it repeats the fields.
                let priority = priority(level);
                write!(
                    line,
                    "PRIORITY={priority}\nSYSLOG_IDENTIFIER=sidegate\nMESSAGE={message}{words}\n{own}"
                )
            }
        };
        line
    }

    /// Adds a field, or leaves it out if an earlier one was already left out.
    fn field(&mut self, field: &Field, value: FieldValue<'_>) {
        if field.name() == "message" {
            let quoting =
                if self.shape == LineFormat::Json { QuoteStyle::Json } else { QuoteStyle::Bare };
            value.put(&mut self.message, quoting, MAX_MESSAGE_BYTES);
        } else if !self.is_cut {
            self.put(field.name(), value, MAX_FIELDS_BYTES);
        }
    }

    fn put(&mut self, name: &str, value: FieldValue<'_>, max: usize) {
        let LineFields { words, own, .. } = self;
        let before = (words.len(), own.len());
        match self.shape {
            LineFormat::Text { colours } => {
                let (dim, plain) = if colours { (DIM, RESET) } else { ("", "") };
                words.extend([" ", dim, name, "=", plain]);
                value.put(words, QuoteStyle::Word, MAX_VALUE_BYTES);
            }
            LineFormat::Json => {
                let quote = if value.is_plain() { "" } else { "\"" };
                own.extend([",\"", name, "\":", quote]);
                value.put(own, QuoteStyle::Json, MAX_VALUE_BYTES);
                own.push_str(quote);
            }
            LineFormat::Journald => {
                // A line feed would begin another field of the entry. `escape` leaves none in a
                // value.
                own.extend(name.bytes().map(journal_letter));
                own.push('=');
                let start = own.len();
                value.put(own, QuoteStyle::Bare, MAX_VALUE_BYTES);
                words.extend([" ", name, "="]);
                match &own[start..] {
                    word if is_word(word) => words.push_str(word),
                    _ => value.put(words, QuoteStyle::Word, MAX_VALUE_BYTES),
                }
                own.push('\n');
            }
        }
        // The escaped length is known only now, so the field is taken back.
        if words.len().max(own.len()) > max {
            words.truncate(before.0);
            own.truncate(before.1);
            self.is_cut = true;
        }
    }
}

/// The value of a field.
#[derive(Clone, Copy)]
enum FieldValue<'v> {
    Text(&'v str),
    Count(u64),
    /// A number or a boolean, which JSON doesn't quote.
    Plain(&'v dyn fmt::Display),
    /// A `Debug` value. `tracing` passes `Display` values in this form too.
    Debug(&'v dyn fmt::Debug),
}

impl FieldValue<'_> {
    /// Appends the value, escaped, as at most `max` bytes.
    fn put(&self, out: &mut String, quoting: QuoteStyle, max: usize) {
        match self {
            FieldValue::Text(text) => escape_text(out, quoting, max, text),
            FieldValue::Count(count) => out.push_str(itoa::Buffer::new().format(*count)),
            FieldValue::Plain(value) => escape(out, quoting, max, |out| write!(out, "{value}")),
            FieldValue::Debug(value) => escape(out, quoting, max, |out| write!(out, "{value:?}")),
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self, FieldValue::Count(_) | FieldValue::Plain(_))
    }
}

impl Visit for LineFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, FieldValue::Debug(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, FieldValue::Text(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, FieldValue::Count(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, FieldValue::Plain(&value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, FieldValue::Plain(&value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no literal for infinity or NaN, so they become strings.
        self.field(
            field,
            if value.is_finite() { FieldValue::Plain(&value) } else { FieldValue::Debug(&value) },
        );
    }
}

/// Maps a byte of a field's name to what the journal allows: `A` to `Z`, digits and `_`.
fn journal_letter(letter: u8) -> char {
    if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase().into() } else { '_' }
}

/// The syslog priority (RFC 5424 §6.2.1).
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    /// A sink that a test can read.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `log` writes, at one instant of 2026.
    fn written(shape: LineFormat, log: &dyn Fn()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let clock = || "2026-11-22T20:05:01.0005Z".parse().unwrap();
        let subscriber = tracing_subscriber::registry().with(LineLayer::new(
            shape,
            move || writer.clone(),
            clock,
        ));
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    fn check(log: &dyn Fn(), text: &str, json: &str, journald: &str) {
        assert_eq!(written(LineFormat::Text { colours: false }, log), text);
        assert_eq!(written(LineFormat::Json, log), json);
        assert_eq!(written(LineFormat::Journald, log), journald);
        serde_json::from_str::<serde_json::Value>(json).unwrap();
    }

    #[test]
    fn line_has_the_event_in_each_format() {
        check(
            &|| tracing::info!(route = "ticks", client = %"192.0.2.1", status = 403, reason = None::<&str>, seconds = 0.25, "refused"),
            "2026-11-22T20:05:01.000Z  INFO refused route=ticks client=192.0.2.1 status=403 seconds=0.25\n",
            "{\"timestamp\":\"2026-11-22T20:05:01.000Z\",\"level\":\"INFO\",\"message\":\"refused\",\"route\":\"ticks\",\"client\":\"192.0.2.1\",\"status\":403,\"seconds\":0.25}\n",
            "PRIORITY=6\nSYSLOG_IDENTIFIER=sidegate\nMESSAGE=refused route=ticks client=192.0.2.1 status=403 seconds=0.25\nROUTE=ticks\nCLIENT=192.0.2.1\nSTATUS=403\nSECONDS=0.25\n",
        );
        check(
            &|| tracing::error!("no list `x`: \"a\""),
            "2026-11-22T20:05:01.000Z ERROR no list `x`: \"a\"\n",
            "{\"timestamp\":\"2026-11-22T20:05:01.000Z\",\"level\":\"ERROR\",\"message\":\"no list `x`: \\\"a\\\"\"}\n",
            "PRIORITY=3\nSYSLOG_IDENTIFIER=sidegate\nMESSAGE=no list `x`: \"a\"\n",
        );
    }

    #[test]
    fn hostile_bytes_stay_within_their_field() {
        let host = "a\nPRIORITY=0\n\x1b[2J\"},{\"";
        check(
            &|| tracing::warn!(host, "{host}"),
            "2026-11-22T20:05:01.000Z  WARN a\\nPRIORITY=0\\n\\u{1b}[2J\"},{\" host=\"a\\nPRIORITY=0\\n\\u{1b}[2J\\\"},{\\\"\"\n",
            "{\"timestamp\":\"2026-11-22T20:05:01.000Z\",\"level\":\"WARN\",\"message\":\"a\\u000aPRIORITY=0\\u000a\\u001b[2J\\\"},{\\\"\",\"host\":\"a\\u000aPRIORITY=0\\u000a\\u001b[2J\\\"},{\\\"\"}\n",
            "PRIORITY=4\nSYSLOG_IDENTIFIER=sidegate\nMESSAGE=a\\nPRIORITY=0\\n\\u{1b}[2J\"},{\" host=\"a\\nPRIORITY=0\\n\\u{1b}[2J\\\"},{\\\"\"\nHOST=a\\nPRIORITY=0\\n\\u{1b}[2J\"},{\"\n",
        );
    }

    #[test]
    fn colours_are_for_terminals() {
        let line = written(LineFormat::Text { colours: true }, &|| {
            tracing::warn!(route = "ticks", "refused");
        });
        assert_eq!(
            line,
            "\x1b[2m2026-11-22T20:05:01.000Z\x1b[0m \x1b[33m WARN\x1b[0m refused \x1b[2mroute=\x1b[0mticks\n"
        );
    }

    #[test]
    fn endless_line_is_cut_with_a_mark() {
        let (path, short) = ("/a".repeat(4096), "x".repeat(1000));
        let (a, b) = (&*path, &*short);
        let log = || {
            tracing::info!(
                path = a,
                a = b,
                b,
                c = b,
                d = b,
                e = b,
                f = b,
                g = b,
                h = b,
                i = b,
                last = 1,
                "{a}"
            );
        };
        for shape in [LineFormat::Text { colours: false }, LineFormat::Json, LineFormat::Journald] {
            let line = written(shape, &log);
            assert!(
                line.len() < 2 * (MAX_FIELDS_BYTES + MAX_MESSAGE_BYTES),
                "{} bytes",
                line.len()
            );
            assert!(
                line.contains("/a…") && line.contains("cut") && !line.contains("last"),
                "{line}"
            );
        }
        serde_json::from_str::<serde_json::Value>(&written(LineFormat::Json, &log)).unwrap();
    }

    #[test]
    fn non_finite_numbers_are_json_strings() {
        let line = written(LineFormat::Json, &|| {
            tracing::info!(seconds = f64::INFINITY, open = true, left = -1, "odd");
        });
        assert!(line.ends_with("\"seconds\":\"inf\",\"open\":true,\"left\":-1}\n"), "{line}");
    }
}

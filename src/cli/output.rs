//! Output of the commands: text without control characters, JSON, diagnostics, and counts.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;

use serde::Serialize;

use crate::cli::exit::Exit;
use sidegate::admin::wire;
use sidegate::control::config::diagnostic::Diagnostic;
use sidegate::observe::printable;

/// Why standard output could not be written.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Prints to standard output, without control characters. A closed pipe (`| head`) is no error.
pub fn print(text: impl std::fmt::Display) {
    print_colored(&printable::lines(&text.to_string()));
}

/// Prints `text` to standard output unchanged. The caller has made it printable; its only controls
/// are our colors.
pub fn print_colored(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}")
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        // The first error is the cause.
        let _ = LOST.set(error);
    }
}

/// The exit of a command that ends with `exit`: a failure if a part of its output is lost.
pub fn exit_of(exit: Exit) -> Exit {
    let Some(error) = LOST.get() else { return exit };
    print_error(format_args!("standard output cannot be written and is incomplete: {error}"));
    match exit {
        Exit::Success => Exit::Failure,
        other => other,
    }
}

/// Prints an answer to standard output as JSON.
pub fn print_json(answer: &impl Serialize) {
    print_colored(&wire::encode_pretty(answer));
}

/// Prints JSON text to standard output, with every control character escaped.
pub fn print_json_text(json: &str) {
    print_colored(&printable::json(json));
}

/// Prints an error sentence to standard error, without control characters.
pub fn print_error(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "sidegate: {}", printable::lines(&text.to_string()));
}

/// Prints text of several lines to standard error, without control characters but newlines and
/// tabs.
pub fn print_error_lines(text: &str) {
    let _ = writeln!(io::stderr(), "{}\n", printable::lines(text));
}

/// Whether to color output to `stream`.
pub fn is_colored(stream: &impl IsTerminal) -> bool {
    wants_color(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// Whether to use color: on a terminal, unless NO_COLOR is set and not empty (no-color.org).
pub fn wants_color(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Prints diagnostics to standard error, in color on a terminal.
pub fn print_diagnostics(diagnostics: &[Diagnostic]) {
    let color = is_colored(&io::stderr());
    for diagnostic in diagnostics {
        let _ = writeln!(io::stderr(), "{}\n", rendered(diagnostic, color));
    }
}

/// Renders a diagnostic for printing. If its text has control characters it gets no colors: a
/// file's controls could not be told from ours.
pub fn rendered(diagnostic: &Diagnostic, color: bool) -> String {
    let plain = diagnostic.render(false);
    match printable::lines(&plain) {
        Cow::Borrowed(_) if color => diagnostic.render(true),
        Cow::Borrowed(_) => plain,
        Cow::Owned(printable) => printable,
    }
}

/// Quotes a path for a shell, if necessary. A path that begins with a dash gets `./` in front, so
/// that no command takes it for an option.
pub fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    let plain =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@%:,".contains(&byte));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A number with its noun: "1 error", "2 errors".
pub fn count(number: usize, noun: &str) -> String {
    count_u64(number as u64, noun)
}

/// Like [`count`], for a number from the wire.
pub fn count_u64(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_path_is_one_word_and_no_option() {
        for (path, expected) in [
            ("etc/sidegate.toml", "etc/sidegate.toml"),
            ("-dash/sidegate.toml", "./-dash/sidegate.toml"),
            ("--", "./--"),
            ("-a b", "'./-a b'"),
            ("/-a", "/-a"),
            ("a'b", r"'a'\''b'"),
        ] {
            assert_eq!(shell_quoted(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn diagnostic_has_no_terminal_controls_with_or_without_color() {
        let about = |message: &str| {
            Diagnostic::for_file(Path::new("a.toml"), message.to_owned(), Some(message.to_owned()))
        };
        for control in ['\u{1b}', '\u{9b}', '\u{202e}', '\u{2066}'] {
            let text = rendered(&about(&format!("a{control}[31mb")), true);
            assert!(
                text.contains("[31mb") && !text.contains(&format!("{control}[31m")),
                "{text:?}"
            );
        }
        assert!(
            rendered(&about("b"), true).contains('\u{1b}')
                && !rendered(&about("b"), false).contains('\u{1b}')
        );
    }

    #[test]
    fn color_is_used_on_terminals_unless_no_color_is_set() {
        for (is_terminal, no_color, colored) in [
            (true, None, true),
            (true, Some(""), true),
            (true, Some("1"), false),
            (true, Some("0"), false),
            (false, None, false),
        ] {
            assert_eq!(
                wants_color(is_terminal, no_color.map(OsStr::new)),
                colored,
                "{is_terminal} {no_color:?}"
            );
        }
    }
}

//! The verbs, and what they have in common: where the configuration is, and how a command ends.

mod ask;
#[cfg(test)]
mod believing;
mod certificate;
mod check;
mod demo;
mod diff;
mod drain;
mod explain;
mod import;
mod init;
mod manual;
mod pages;
mod promote;
mod reload;
mod run;
mod schema;
mod status;
mod trust;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use sidegate::admin::wire;
use sidegate::control::config::diagnostic::Diagnostic;
use sidegate::observe::printable;

/// A WebSocket sidecar: terminates TLS, decides who may open a WebSocket, relays to a local backend.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = manual::chapters())]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve what the configuration says, until SIGTERM; SIGHUP reloads.
    Run(run::Run),
    /// Show it working: an own certificate, an echo backend, a page to open.
    Demo(demo::Demo),
    /// Write a configuration to begin with.
    Init(init::Init),
    /// Make a configuration of nginx' one, and say what became of each of its lines.
    Import(import::Import),
    /// Say everything that is wrong with a configuration.
    Check(check::Check),
    /// Say why a client is admitted or refused, down to the line of the list.
    Explain(explain::Explain),
    /// Say what the files would change of what runs, and which tunnels that would close.
    Diff(diff::Diff),
    /// Put a policy's candidate in its place, after all gates.
    Promote(promote::Promote),
    /// Print the JSON Schema of the files, for editors.
    Schema(schema::Schema),
    /// Make the running agent read its files now.
    Reload(reload::Reload),
    /// Say how the running agent stands: what runs since when, tunnels, rates, certificates, lists, warnings.
    Status(status::Status),
    /// Make the running agent stop accepting, let its tunnels end, and end.
    Drain(drain::Drain),
}

/// Where the configuration is.
#[derive(clap::Args)]
struct Config {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/sidegate/sidegate.toml")]
    config: PathBuf,
}

/// How a command ends (`docs/operations.md`, "How a command ends").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Yes, clean, drained.
    Yes,
    /// No: errors, a rejection, nothing running.
    No,
    /// The arguments are wrong: clap ends so by itself.
    Usage,
    /// A port, a socket or descriptors not to be had; systemd tries again.
    Unavailable,
    /// A file missing, unreadable or wrong; systemd does not try again.
    Config,
}

impl Exit {
    const ALL: [Exit; 5] = [Exit::Yes, Exit::No, Exit::Usage, Exit::Unavailable, Exit::Config];

    const fn code(self) -> u8 {
        match self {
            Exit::Yes => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 75,
            Exit::Config => 78,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Exit::Yes => "yes, clean, drained (also by a second SIGTERM)",
            Exit::No => "no: errors found, refused, reload rejected, over the bound, nothing running, permission denied",
            Exit::Usage => "wrong arguments",
            Exit::Unavailable => "run: a port, a socket or descriptors are not to be had; systemd tries again",
            Exit::Config => "run: a file is missing, unreadable or wrong; systemd doesn't try again",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Parses the arguments and runs the verb; clap itself ends with 2 on wrong usage.
pub fn main() -> ExitCode {
    let exit = match Cli::parse().verb {
        Verb::Run(verb) => run::run(&verb),
        Verb::Demo(verb) => demo::demo(&verb),
        Verb::Init(verb) => init::init(&verb),
        Verb::Import(verb) => import::import(&verb),
        Verb::Check(verb) => check::check(&verb),
        Verb::Explain(verb) => explain::explain(&verb),
        Verb::Diff(verb) => diff::diff(&verb),
        Verb::Promote(verb) => promote::promote(&verb),
        Verb::Schema(verb) => schema::schema(&verb),
        Verb::Reload(verb) => reload::reload(&verb),
        Verb::Status(verb) => status::status(&verb),
        Verb::Drain(verb) => drain::drain(&verb),
    };
    exit.into()
}

/// Prints to standard output, without controls; a reader that went away (`| head`) is no error of ours.
fn say(text: impl std::fmt::Display) {
    say_painted(&printable::lines(&text.to_string()));
}

/// Prints `text` to standard output as it is: its colors are ours, and all else in it is printable.
fn say_painted(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints an answer to standard output, for programs.
fn say_json(answer: &impl Serialize) {
    say_painted(&wire::encode_pretty(answer));
}

/// Prints JSON to standard output, for programs, with every control escaped.
fn say_json_text(json: &str) {
    say_painted(&printable::json(json));
}

/// Prints an error sentence to standard error, without controls.
fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "sidegate: {}", printable::lines(&text.to_string()));
}

/// Prints text of several lines to standard error, without other controls.
fn complain_whole(text: &str) {
    let _ = writeln!(io::stderr(), "{}\n", printable::lines(text));
}

/// Whether what is printed there is colored.
fn is_colored(stream: &impl IsTerminal) -> bool {
    may_color(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// On a terminal, unless NO_COLOR is set to something (no-color.org).
fn may_color(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Prints diagnostics as people read them, in color on a terminal.
fn show(diagnostics: &[Diagnostic]) {
    let color = is_colored(&io::stderr());
    for diagnostic in diagnostics {
        let _ = writeln!(io::stderr(), "{}\n", rendered(diagnostic, color));
    }
}

/// A diagnostic as it is printed. What shows text with controls in it has no colors: a control of a
/// file could not be told from one of ours.
fn rendered(diagnostic: &Diagnostic, color: bool) -> String {
    let plain = diagnostic.render(false);
    match printable::lines(&plain) {
        Cow::Borrowed(_) if color => diagnostic.render(true),
        Cow::Borrowed(_) => plain,
        Cow::Owned(printable) => printable,
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@%:,".contains(&byte));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// "1 error", "2 errors".
fn count(number: usize, noun: &str) -> String {
    count_u64(number as u64, noun)
}

/// The same of a count from the wire.
fn count_u64(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_commands_no_terminal_colored_or_not() {
        let about = |message: &str| Diagnostic::of(Path::new("a.toml"), message.to_owned(), Some(message.to_owned()));
        for control in ['\u{1b}', '\u{9b}', '\u{202e}', '\u{2066}'] {
            let text = rendered(&about(&format!("a{control}[31mb")), true);
            assert!(text.contains("[31mb") && !text.contains(&format!("{control}[31m")), "{text:?}");
        }
        assert!(rendered(&about("b"), true).contains('\u{1b}') && !rendered(&about("b"), false).contains('\u{1b}'));
    }

    #[test]
    fn color_is_for_terminals_whose_user_wants_it() {
        for (is_terminal, no_color, colored) in
            [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (true, Some("0"), false), (false, None, false)]
        {
            assert_eq!(may_color(is_terminal, no_color.map(OsStr::new)), colored, "{is_terminal} {no_color:?}");
        }
    }
}

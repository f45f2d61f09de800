//! Prints the findings of `sidegate check` in the requested format.
//!
//! As text, findings go to standard error, as a compiler prints them, with one line for each PATH.
//! The other formats print their findings, and nothing else, to standard output.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use crate::cli::check::target::CheckResult;
use crate::cli::output::{count, print, print_diagnostics, print_error, print_json_text};
use sidegate::control::config::diagnostic::{Diagnostic, DiagnosticLevel};

/// How findings are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    /// Text, on standard error.
    Text,
    /// One JSON array, on standard output.
    Json,
    /// GitHub workflow commands, on standard output: they annotate the lines of a pull request.
    Github,
}

/// The report over all paths.
pub struct Report {
    format: ReportFormat,
    strict: bool,
    said: HashSet<Diagnostic>,
    /// Findings in the order found, for the JSON array.
    all: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    unfinished: bool,
}

/// A finding as JSON. Its fields are a public interface.
#[derive(Serialize)]
struct JsonFinding<'d> {
    level: &'static str,
    file: &'d str,
    line: usize,
    column: usize,
    message: &'d str,
    remedy: Option<&'d str>,
}

impl Report {
    /// Creates an empty report; `strict` makes warnings count as errors.
    pub fn new(format: ReportFormat, strict: bool) -> Report {
        Report {
            format,
            strict,
            said: HashSet::new(),
            all: Vec::new(),
            errors: 0,
            warnings: 0,
            unfinished: false,
        }
    }

    /// Reports what was `found` about `path`. A finding that was already reported for an earlier
    /// path is not repeated.
    pub fn add(&mut self, path: &Path, found: CheckResult) {
        let CheckResult { diagnostics, holds, unfinished } = found;
        let errors = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.level == DiagnosticLevel::Error)
            .count();
        let notes = diagnostics.iter().filter(|found| found.level == DiagnosticLevel::Note).count();
        let warnings = diagnostics.len() - errors - notes;
        for diagnostic in diagnostics {
            // Two policies may share a list, and each check of a policy includes its lists.
            if self.said.insert(diagnostic.clone()) {
                self.print(diagnostic);
            }
        }
        // Counted with the repeated ones: each path has its own result.
        let holds = match notes {
            0 => holds,
            // Said in the last line too, since `fine` alone would claim more.
            notes => [holds, format!("{} not checked", count(notes, "thing"))].join(", "),
        };
        self.conclude(path, holds.trim_start_matches(", "), errors, warnings, unfinished);
        self.errors += errors;
        self.warnings += warnings;
        self.unfinished |= unfinished;
    }

    /// Prints the JSON array, if that is the format; returns whether all paths are fine.
    pub fn finish(self) -> bool {
        if self.format == ReportFormat::Json {
            let findings: Vec<_> = self.all.iter().map(JsonFinding::of).collect();
            let json = serde_json::to_string_pretty(&findings).unwrap_or_default();
            print_json_text(&json);
        }
        self.errors == 0 && !(self.strict && (self.warnings > 0 || self.unfinished))
    }

    fn print(&mut self, diagnostic: Diagnostic) {
        match self.format {
            // In one line: nothing of a note is to be mended.
            ReportFormat::Text if diagnostic.level == DiagnosticLevel::Note => {
                print_error(format_args!("{}: note: {}", diagnostic.place(), diagnostic.message));
            }
            ReportFormat::Text => print_diagnostics(&[diagnostic]),
            ReportFormat::Json => self.all.push(diagnostic),
            ReportFormat::Github => print(workflow_command(&diagnostic)),
        }
    }

    /// Prints the line about `path` as a whole.
    fn conclude(&self, path: &Path, holds: &str, errors: usize, warnings: usize, unfinished: bool) {
        let path = path.display();
        let counts = [(errors, "error"), (warnings, "warning")]
            .map(|(number, noun)| (number > 0).then(|| count(number, noun)));
        let counts: Vec<_> = counts.into_iter().flatten().collect();
        if errors > 0 {
            return print_error(format_args!("{path}: {}", counts.join(", ")));
        }
        if unfinished {
            return print_error(format_args!(
                "{path}: no errors; warnings were not checked, because of errors in other files"
            ));
        }
        if self.strict && warnings > 0 {
            return print_error(format_args!("{path}: {}, and --strict", counts.join(", ")));
        }
        let told: Vec<_> = [holds.to_owned()]
            .into_iter()
            .filter(|holds| !holds.is_empty())
            .chain(counts)
            .collect();
        let colon = if told.is_empty() { "" } else { ": " };
        let line = format_args!("{path}: fine{colon}{}", told.join(", "));
        // Standard output belongs to the findings in the other formats.
        if self.format == ReportFormat::Text { print(line) } else { print_error(line) }
    }
}

impl<'d> JsonFinding<'d> {
    fn of(diagnostic: &'d Diagnostic) -> JsonFinding<'d> {
        let Diagnostic { file, line, column, message, remedy, .. } = diagnostic;
        JsonFinding {
            level: diagnostic.level_name(),
            file,
            line: *line,
            column: *column,
            message,
            remedy: remedy.as_deref(),
        }
    }
}

/// Formats a workflow command:
/// <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>.
fn workflow_command(diagnostic: &Diagnostic) -> String {
    let Diagnostic { file, line, column, message, remedy, .. } = diagnostic;
    let help = remedy.as_ref().map(|remedy| format!("\nhelp: {remedy}")).unwrap_or_default();
    format!(
        "::{} file={},line={line},col={column},title=sidegate check::{}",
        match diagnostic.level {
            DiagnosticLevel::Note => "notice",
            DiagnosticLevel::Error | DiagnosticLevel::Warning => diagnostic.level_name(),
        },
        property(file),
        data(&format!("{message}{help}"))
    )
}

/// Escapes the characters that would end a command's message.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes the characters that would end the value of a command's property.
fn property(text: &str) -> String {
    // `%` is escaped by `data`, first of all, so that these escapes stay whole.
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workflow_command_escapes_its_delimiters() {
        let (message, remedy) = ("100% of:\r\nit, all".to_owned(), Some("write 50%".to_owned()));
        assert_eq!(
            workflow_command(&Diagnostic::for_file(Path::new("a,b:c%.toml"), message, remedy)),
            "::error file=a%2Cb%3Ac%25.toml,line=1,col=1,title=sidegate check::100%25 of:%0D%0Ait, all%0Ahelp: write 50%25"
        );
    }
}

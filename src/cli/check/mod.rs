//! `sidegate check`: loads the files as `run` and a reload do, and reports all errors at once, and
//! lints.

mod report;
mod subject;

use std::path::{Path, PathBuf};

use crate::cli::check::report::{Format, Report};
use crate::cli::check::subject::{Configurations, Subject};
use crate::cli::exit::Exit;
use sidegate::control::config::diagnostic::Diagnostic;

/// The arguments.
#[derive(clap::Args)]
pub struct Check {
    /// Configuration files, directories with a `sidegate.toml`, `policies` directories, files in
    /// them, or lists (`*.cidr`).
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The configuration file to check if no PATH is given.
    #[arg(long, value_name = "FILE", default_value = "/etc/sidegate/sidegate.toml")]
    config: PathBuf,
    /// Treat warnings as errors.
    #[arg(long)]
    strict: bool,
    /// The format of the output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Checks every path and prints the findings.
pub fn check(verb: &Check) -> Exit {
    let paths =
        if verb.paths.is_empty() { std::slice::from_ref(&verb.config) } else { &verb.paths };
    let mut configurations = Configurations::default();
    let mut report = Report::new(verb.format, verb.strict);
    for path in paths {
        report.add(path, Subject::of(path).check(&mut configurations));
    }
    if report.finish() { Exit::Yes } else { Exit::No }
}

/// All diagnostics about `path`, errors before warnings.
pub fn found(path: &Path) -> Vec<Diagnostic> {
    Subject::of(path).check(&mut Configurations::default()).diagnostics
}

//! `sidegate check`: loads the files as `run` and a reload do, and reports all errors at once, and
//! lints.

mod report;
mod target;

use std::path::{Path, PathBuf};

use crate::cli::check::report::{Report, ReportFormat};
use crate::cli::check::target::{CheckTarget, ConfigCache};
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::host_args::HostArgs;
use sidegate::control::config::diagnostic::Diagnostic;

/// Arguments of `sidegate check`.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Configuration files, directories with a `sidegate.toml`, `policies` directories, files in
    /// them, or lists (`*.cidr`).
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    // Checked if no PATH is given.
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    host: HostArgs,
    /// Treat warnings as errors.
    #[arg(long)]
    strict: bool,
    /// The format of the output.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

/// Checks every path and prints the findings.
pub fn check(verb: &CheckArgs) -> Exit {
    let config = [verb.config.below(verb.host.root())];
    let paths = if verb.paths.is_empty() { &config[..] } else { &verb.paths };
    let mut configurations = ConfigCache::new(&verb.host);
    let mut report = Report::new(verb.format, verb.strict);
    for path in paths {
        report.add(path, CheckTarget::of(path).check(&mut configurations));
    }
    if report.finish() { Exit::Success } else { Exit::Failure }
}

/// All diagnostics about `path`, errors before warnings.
pub fn found(path: &Path) -> Vec<Diagnostic> {
    CheckTarget::of(path).check(&mut ConfigCache::new(&HostArgs::default())).diagnostics
}

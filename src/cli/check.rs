//! `sidegate check`: the loading that `run` and a reload do, and everything that it finds, at once.

use std::path::{Path, PathBuf};

use crate::cli::{Exit, complain, count, say, show};
use sidegate::control::config::{self, source::Files};

/// The arguments.
#[derive(clap::Args)]
pub struct Check {
    /// Configurations, or directories with a `sidegate.toml`.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The configuration, where no PATH is given.
    #[arg(long, value_name = "FILE", default_value = "/etc/sidegate/sidegate.toml")]
    config: PathBuf,
    /// Warnings count as errors.
    #[arg(long)]
    strict: bool,
}

/// Checks every path, and says what it found on standard error.
pub fn check(verb: &Check) -> Exit {
    let paths: Vec<&Path> =
        if verb.paths.is_empty() { vec![&verb.config] } else { verb.paths.iter().map(PathBuf::as_path).collect() };
    let clean = paths.iter().filter(|path| is_clean(path, verb.strict)).count();
    if clean == paths.len() { Exit::Yes } else { Exit::No }
}

fn is_clean(path: &Path, strict: bool) -> bool {
    let config = if path.is_dir() { path.join("sidegate.toml") } else { path.to_owned() };
    match config::load(&mut Files::new(), &config, None) {
        Ok(loaded) => {
            show(&loaded.warnings);
            let warnings = loaded.warnings.len();
            let told = if warnings == 0 { String::new() } else { format!(", {}", count(warnings, "warning")) };
            let (routes, policies) = (count(loaded.settings.routes.len(), "route"), loaded.policies.len());
            let policies = if policies == 1 { "1 policy".to_owned() } else { format!("{policies} policies") };
            say(format_args!("{}: fine: {routes}, {policies}{told}", config.display()));
            warnings == 0 || !strict
        }
        Err(diagnostics) => {
            show(&diagnostics);
            let errors = diagnostics.iter().filter(|one| one.is_error()).count();
            complain(format_args!("{}: {}", config.display(), count(errors, "error")));
            false
        }
    }
}

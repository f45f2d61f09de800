//! Warnings about configurations that are valid but hardly meant. Only `sidegate check` gives them.
//!
//! At a reload they would be noise. They are pure functions of the loaded values, which are valid;
//! the text of the files is only read to show a line. `sockets` alone looks at this host. Changes
//! nothing and refuses nothing.

mod clients;
mod coverage;
mod entries;
mod location;
mod loops;
mod paths;
mod rules;
mod sockets;
#[cfg(test)]
mod tests;

use std::path::Path;

use jiff::Timestamp;

use self::location::Lint;
use crate::control::config::LoadedConfig;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::Files;
use crate::policy::list::List;

/// Warnings about the values `loaded` from `files`, without duplicates. `config` is the path of
/// `sidegate.toml`; `now` decides which entries have lapsed.
pub fn lint(
    files: &mut Files,
    config: &Path,
    loaded: &LoadedConfig,
    now: Timestamp,
) -> Vec<Diagnostic> {
    let mut remarks = rules::unused(loaded);
    remarks.extend(rules::rebinding(loaded, config));
    remarks.extend(rules::unverified(loaded));
    remarks.extend(rules::unidentified(loaded));
    remarks.extend(loops::looping(loaded, config));
    remarks.extend(clients::misapplied(loaded, config));
    remarks.extend(coverage::uncovered(loaded, config));
    remarks.extend(paths::differing_in_case(loaded, config));
    remarks.extend(paths::ambiguous(loaded, config));
    remarks.extend(paths::literal(loaded, config));
    for page in loaded.policies.iter().chain(&loaded.candidates) {
        remarks.extend(rules::missing(page));
        remarks.extend(entries::idle_exceptions(page, loaded.baseline.as_ref(), now));
    }
    let baseline = loaded.baseline.as_ref();
    for page in loaded.policies.iter().chain(&loaded.candidates).chain(baseline) {
        remarks.extend(entries::redundant_entries(page, now));
        remarks.extend(entries::denied_entries(page, baseline, now));
    }
    let folder = config.parent().unwrap_or(Path::new(""));
    let places = [clients::listeners(loaded), sockets::unusable(loaded, files)].concat();
    [shown(remarks, files, folder), places].concat()
}

/// Warnings about a list without a policy. Its file is a path from the working directory.
pub fn lint_list(files: &mut Files, list: &List, now: Timestamp) -> Vec<Diagnostic> {
    shown(entries::redundant(list, now), files, Path::new(""))
}

fn shown(
    remarks: impl IntoIterator<Item = Lint>,
    files: &mut Files,
    folder: &Path,
) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    for diagnostic in remarks.into_iter().map(|remark| remark.into_diagnostic(files, folder)) {
        // Two policies may name the same list.
        if !found.contains(&diagnostic) {
            found.push(diagnostic);
        }
    }
    found
}

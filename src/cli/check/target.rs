//! Classifies the PATHs of `sidegate check`, and checks each.
//!
//! A policy is checked with the configuration that uses it; only diagnostics about the policy and
//! its lists are reported. A list is checked by itself.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use jiff::Timestamp;

use crate::cli::host_args::HostArgs;
use crate::cli::output::count;
use sidegate::control::compile;
use sidegate::control::config::diagnostic::{Diagnostic, DiagnosticLevel};
use sidegate::control::config::source::Files;
use sidegate::control::config::{self, LoadOptions, LoadedConfig};
use sidegate::control::lint;
use sidegate::control::overrides::Overrides;
use sidegate::snapshot::tls::TicketKeys;

/// Name of the folder of policies, beside `sidegate.toml`.
const POLICY_FOLDER: &str = "policies";

/// The kind of thing that a PATH names.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckTarget {
    /// A `sidegate.toml`, with all files that it names.
    Configuration(PathBuf),
    /// Policies, checked with the configuration beside their folder.
    Policies {
        /// Path of the `sidegate.toml`, which may not exist.
        config: PathBuf,
        /// One policy's file name; `None` means all policies of the folder.
        only: Option<PathBuf>,
    },
    /// A list, checked without a policy.
    List(PathBuf),
    /// A directory without anything to check.
    Empty(PathBuf),
}

/// The result of checking a subject.
pub struct CheckResult {
    /// All diagnostics, errors before warnings.
    pub diagnostics: Vec<Diagnostic>,
    /// The subject's contents in words: "2 routes, 1 policy".
    pub holds: String,
    /// Whether errors in other files prevented the search for warnings.
    pub unfinished: bool,
}

impl CheckTarget {
    /// Classifies `path` by its name and by the files there.
    pub fn of(path: &Path) -> CheckTarget {
        if path.is_dir() {
            return CheckTarget::of_folder(path);
        }
        let path = short(path);
        if path.extension().is_some_and(|extension| extension == "cidr") {
            return CheckTarget::List(path.to_owned());
        }
        match policy_folder_of(path) {
            Some(config) => {
                CheckTarget::Policies { config, only: path.file_name().map(PathBuf::from) }
            }
            None => CheckTarget::Configuration(path.to_owned()),
        }
    }

    fn of_folder(path: &Path) -> CheckTarget {
        // First, since a folder called `policies` may itself hold a configuration.
        let config = short(path).join("sidegate.toml");
        if config.exists() {
            return CheckTarget::Configuration(config);
        }
        match config_beside(short(path)) {
            Some(config) => CheckTarget::Policies { config, only: None },
            None => CheckTarget::Empty(path.to_owned()),
        }
    }

    /// Checks the subject; `configurations` caches what was loaded.
    pub fn check(&self, configurations: &mut ConfigCache<'_>) -> CheckResult {
        match self {
            CheckTarget::Configuration(config) => {
                let checked = &*configurations.get(config);
                CheckResult {
                    diagnostics: [&*checked.diagnostics, &checked.unknown_names].concat(),
                    holds: checked.holds.clone(),
                    unfinished: false,
                }
            }
            CheckTarget::Policies { config, only } => {
                policies(config, only.as_deref(), configurations)
            }
            CheckTarget::List(path) => list(path),
            CheckTarget::Empty(folder) => {
                let what = "nothing to check: no sidegate.toml in this directory";
                let remedy = "name a sidegate.toml, a `policies` directory or a file in it, or a \
                              *.cidr list; `sidegate init` writes all of them";
                CheckResult::from_diagnostic(Diagnostic::for_file(
                    folder,
                    what.into(),
                    Some(remedy.into()),
                ))
            }
        }
    }
}

impl CheckResult {
    fn from_diagnostic(diagnostic: Diagnostic) -> CheckResult {
        CheckResult { diagnostics: vec![diagnostic], holds: String::new(), unfinished: false }
    }
}

/// The configurations loaded so far: for ten policies beside one configuration, it is loaded once.
pub struct ConfigCache<'h> {
    loaded: HashMap<PathBuf, Rc<CheckedConfig>>,
    host: &'h HostArgs,
}

/// The result of checking one configuration.
struct CheckedConfig {
    diagnostics: Vec<Diagnostic>,
    /// Notes on users and groups that the files name and this host lacks.
    unknown_names: Vec<Diagnostic>,
    holds: String,
    /// Whether the files loaded, so that warnings were searched for.
    complete: bool,
}

impl<'h> ConfigCache<'h> {
    /// No configuration loaded yet; `host` holds for all.
    pub fn new(host: &'h HostArgs) -> ConfigCache<'h> {
        ConfigCache { loaded: HashMap::new(), host }
    }

    fn get(&mut self, config: &Path) -> Rc<CheckedConfig> {
        let checked = || Rc::new(CheckedConfig::check(config, self.host));
        Rc::clone(self.loaded.entry(config.to_owned()).or_insert_with(checked))
    }
}

impl CheckedConfig {
    /// Loads the configuration, lints it, and runs the policies' tests.
    fn check(config: &Path, host: &HostArgs) -> CheckedConfig {
        let mut files = Files::for_person();
        let options = LoadOptions { rejects_expired_crls: true, ..host.options() };
        let loaded = match config::load_with(&mut files, config, options) {
            Ok(loaded) => loaded,
            Err(diagnostics) => {
                let (unknown_names, holds) = (host.notes(config), String::new());
                return CheckedConfig { diagnostics, unknown_names, holds, complete: false };
            }
        };
        let holds = holds(&loaded);
        let mut warnings = loaded.warnings.clone();
        let lints = lint::lint(&mut files, config, &loaded, Timestamp::now());
        let tickets = TicketKeys::unused();
        let built = compile::build(loaded, config, "", None, &tickets, &Overrides::default());
        let errors = match built {
            Ok(built) => {
                warnings = built.warnings;
                Vec::new()
            }
            Err(errors) => errors,
        };
        let mut diagnostics = [errors, warnings, lints].concat();
        // Notes come last, in the order of their places.
        diagnostics.sort_by_key(|found| found.level == DiagnosticLevel::Note);
        CheckedConfig { diagnostics, unknown_names: host.notes(config), holds, complete: true }
    }
}

/// The contents of a configuration in words: "2 routes, 1 policy".
fn holds(loaded: &LoadedConfig) -> String {
    let (routes, policies) = (count(loaded.settings.routes.len(), "route"), loaded.policies.len());
    format!(
        "{routes}, {}",
        if policies == 1 { "1 policy".to_owned() } else { format!("{policies} policies") }
    )
}

/// Checks the policies beside `config`, or only the file `only` among them, and the lists that they
/// name.
fn policies(
    config: &Path,
    only: Option<&Path>,
    configurations: &mut ConfigCache<'_>,
) -> CheckResult {
    let folder = config.with_file_name(POLICY_FOLDER);
    let named = only.map(|file| folder.join(file));
    if let Some(fault) = named.as_deref().and_then(config::not_a_policy) {
        return CheckResult::from_diagnostic(fault);
    }
    if !config.exists() {
        let what = format!(
            "{} does not exist: policies are checked with the routes that use them",
            config.display()
        );
        let remedy = "write a sidegate.toml beside the `policies` directory, or let `sidegate \
                      init` write one";
        return CheckResult::from_diagnostic(Diagnostic::for_file(
            config,
            what,
            Some(remedy.into()),
        ));
    }
    let looked = configurations.get(config);
    let policies = named.map_or_else(|| config::policy_files(config), |file| vec![file]);
    let mut files = Files::for_person();
    let root = configurations.host.root();
    let mut about: BTreeSet<_> =
        policies.iter().flat_map(|policy| config::lists_named(&mut files, policy, root)).collect();
    about.extend(policies.iter().cloned());
    if only.is_none() {
        about.insert(folder);
    }
    let is_about = |diagnostic: &&Diagnostic| about.contains(Path::new(&*diagnostic.file));
    let findings = looked.diagnostics.iter().filter(is_about).chain(&looked.unknown_names);
    let diagnostics: Vec<_> = findings.cloned().collect();
    // With errors of its own the subject is not fine anyway, and says so.
    let unfinished = !looked.complete && !diagnostics.iter().any(Diagnostic::is_error);
    let holds = if only.is_some() { String::new() } else { count(policies.len(), "policy file") };
    CheckResult { diagnostics, holds, unfinished }
}

fn list(path: &Path) -> CheckResult {
    let mut files = Files::for_person();
    let now = Timestamp::now();
    let (list, mut diagnostics) = config::load_list(&mut files, path, now);
    let Some(list) = list else {
        return CheckResult { diagnostics, holds: String::new(), unfinished: false };
    };
    diagnostics.extend(lint::lint_list(&mut files, &list, now));
    let holds = if list.len() == 1 { "1 entry".into() } else { format!("{} entries", list.len()) };
    CheckResult { diagnostics, holds, unfinished: false }
}

/// The configuration with which a file in a folder of policies is checked; `None` means the file is
/// in no such folder.
fn policy_folder_of(file: &Path) -> Option<PathBuf> {
    if file.extension().is_none_or(|extension| extension != "toml") {
        return None;
    }
    let config = config_beside(file.parent()?)?;
    // A configuration may itself be in a folder that is called `policies`.
    let is_configuration =
        file.file_name().is_some_and(|name| name == "sidegate.toml") && !config.exists();
    (!is_configuration).then_some(config)
}

/// The path of `sidegate.toml` beside `folder`, existing or not; `None` means `folder` is no folder
/// of policies.
fn config_beside(folder: &Path) -> Option<PathBuf> {
    if folder.file_name().is_some_and(|name| name == POLICY_FOLDER) {
        return Some(folder.with_file_name("sidegate.toml"));
    }
    // The true name of "" or "a/.." may be `policies`.
    let is_unnamed = folder.file_name().is_none();
    let real = Path::new(".").join(folder).canonicalize();
    let is_one = is_unnamed
        && real.is_ok_and(|real| real.file_name().is_some_and(|name| name == POLICY_FOLDER));
    is_one.then(|| folder.join("../sidegate.toml"))
}

/// Strips a leading "./"; the current directory becomes "".
fn short(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[track_caller]
    fn check(path: &Path, expected: CheckTarget) {
        assert_eq!(CheckTarget::of(path), expected, "{}", path.display());
    }

    #[test]
    fn path_is_classified_by_its_name_and_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("policies/lists")).unwrap();
        fs::create_dir_all(at("empty/policies")).unwrap();
        fs::write(at("sidegate.toml"), "").unwrap();
        let policies = |only: Option<&str>| CheckTarget::Policies {
            config: at("sidegate.toml"),
            only: only.map(PathBuf::from),
        };
        check(folder.path(), CheckTarget::Configuration(at("sidegate.toml")));
        check(&at("sidegate.toml"), CheckTarget::Configuration(at("sidegate.toml")));
        check(&at("another.toml"), CheckTarget::Configuration(at("another.toml")));
        check(&at("policies"), policies(None));
        check(&at("policies/"), policies(None));
        check(&at("policies/chat.toml"), policies(Some("chat.toml")));
        check(&at("policies/sidegate.toml"), policies(Some("sidegate.toml")));
        check(
            &at("empty/policies/sidegate.toml"),
            CheckTarget::Configuration(at("empty/policies/sidegate.toml")),
        );
        check(
            &at("policies/lists/office.cidr"),
            CheckTarget::List(at("policies/lists/office.cidr")),
        );
        check(&at("policies/lists"), CheckTarget::Empty(at("policies/lists")));
        check(&at("empty"), CheckTarget::Empty(at("empty")));
    }
}

//! The files of the folder `policies/`, sorted by the meaning of their names.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::document::did_you_mean;
use crate::control::config::identifier::{is_name, is_reserved};
use crate::control::config::load_context::{LoadContext, about};
use crate::control::config::source::FileError;
use crate::control::config::source_text::{Finding, error};

/// The folder of the policies, beside `sidegate.toml`.
pub const POLICY_FOLDER: &str = "policies";

/// The policy files in the folder.
#[derive(Debug, Default)]
pub struct PolicyNames {
    /// Names of all policies.
    pub policies: BTreeSet<Arc<str>>,
    /// Names of the policies that have a candidate.
    pub candidates: BTreeSet<Arc<str>>,
    /// Whether there is a baseline.
    pub baseline: bool,
    promoted: Option<Arc<str>>,
}

impl PolicyNames {
    /// Reads the policy `name` from its candidate's file, as if promoted.
    pub fn promoting(mut self, name: Option<&str>) -> PolicyNames {
        self.promoted = name.and_then(|name| self.candidates.take(name));
        self
    }

    /// The file of the policy `name`, relative to the folder of `sidegate.toml`.
    pub fn file_of(&self, name: &Arc<str>) -> Arc<str> {
        let candidate = self.promoted.as_ref() == Some(name);
        if candidate { candidate_file(name) } else { format!("{POLICY_FOLDER}/{name}.toml").into() }
    }
}

/// One policy file of the folder.
#[derive(Debug, Clone)]
pub enum PolicySource<'n> {
    /// A policy. While its candidate is promoted, the file is the candidate's.
    Policy {
        /// Name of the policy.
        name: &'n Arc<str>,
        /// The file relative to the folder of `sidegate.toml`.
        file: Arc<str>,
    },
    /// The candidate of the policy of this name.
    Candidate(&'n Arc<str>),
    /// The policy that is judged before every other.
    Baseline,
}

impl PolicySource<'_> {
    pub fn name(&self) -> Arc<str> {
        match self {
            PolicySource::Policy { name, .. } | PolicySource::Candidate(name) => Arc::clone(name),
            PolicySource::Baseline => BASELINE.into(),
        }
    }

    pub fn file(&self) -> Arc<str> {
        match self {
            PolicySource::Policy { file, .. } => Arc::clone(file),
            PolicySource::Candidate(name) => candidate_file(name),
            PolicySource::Baseline => format!("{POLICY_FOLDER}/{BASELINE}.toml").into(),
        }
    }
}

fn candidate_file(name: &str) -> Arc<str> {
    format!("{POLICY_FOLDER}/{name}.shadow.toml").into()
}

/// Name of the policy whose denials come before every other.
const BASELINE: &str = "baseline";

/// Names of all policies and candidates, and findings about other files among them.
pub fn names(load: &mut LoadContext<'_>) -> (PolicyNames, Vec<Diagnostic>) {
    let (mut names, mut found) = (PolicyNames::default(), Vec::new());
    let folder = load.folder.join(POLICY_FOLDER);
    let at = |file: &str, finding: Finding| {
        finding.into_diagnostic(Span::whole_file(folder.join(file).display().to_string().into()))
    };
    let listed = match load.files.list(&folder) {
        Ok(listed) => listed,
        // No error here: each route that names a policy reports the missing file.
        Err(FileError::Missing) => return (names, found),
        Err(fault) => {
            let span = Span::whole_file(folder.display().to_string().into());
            return (names, vec![about(POLICY_FOLDER, &fault).into_diagnostic(span)]);
        }
    };
    for file in listed.iter() {
        let Some(stem) = file.strip_suffix(".toml") else { continue };
        let policy = stem.strip_suffix(".shadow").filter(|name| is_name(name));
        if stem == BASELINE {
            names.baseline = true;
        } else if policy == Some(BASELINE) {
            let remedy = "deny in the candidates of the policies, policies/NAME.shadow.toml";
            let finding = error("the baseline has no candidate").with_remedy(remedy);
            found.push(at(file, finding));
        } else if is_reserved(policy.unwrap_or(stem)) {
            let finding = error(format!("`{}` is a reserved word", policy.unwrap_or(stem)))
                .with_remedy("take another name");
            found.push(at(file, finding));
        } else if let Some(name) = policy {
            names.candidates.insert(name.into());
        } else if is_name(stem) {
            names.policies.insert(stem.into());
        }
    }
    for name in names.candidates.difference(&names.policies) {
        let finding =
            error(format!("a candidate of a policy that isn't there: {POLICY_FOLDER}/{name}.toml"));
        let finding = finding.with_remedy("a candidate is judged beside the policy of its name");
        let guess = did_you_mean(name, names.policies.iter().map(|name| &**name));
        found.push(at(&format!("{name}.shadow.toml"), finding.with_remedy_if(guess)));
    }
    (names, found)
}

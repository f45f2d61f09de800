//! The files of the folder `policies/`, sorted by the meaning of their names.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::control::config::diagnostic::{Diagnostic, Place};
use crate::control::config::document::did_you_mean;
use crate::control::config::identifier::{is_name, is_reserved};
use crate::control::config::page::{Finding, error};
use crate::control::config::pass::{Reading, about};
use crate::control::config::source::Fault;

/// The folder of the policies, beside `sidegate.toml`.
pub const FOLDER: &str = "policies";

/// The policy files in the folder.
#[derive(Debug, Default)]
pub struct Names {
    /// Names of all policies.
    pub policies: BTreeSet<Arc<str>>,
    /// Names of the policies that have a candidate.
    pub candidates: BTreeSet<Arc<str>>,
    /// Whether there is a baseline.
    pub baseline: bool,
    promoted: Option<Arc<str>>,
}

impl Names {
    /// Reads the policy `name` from its candidate's file, as if promoted.
    pub fn promoting(mut self, name: Option<&str>) -> Names {
        self.promoted = name.and_then(|name| self.candidates.take(name));
        self
    }

    /// The file of the policy `name`, relative to the folder of `sidegate.toml`.
    pub fn file_of(&self, name: &Arc<str>) -> Arc<str> {
        let candidate = self.promoted.as_ref() == Some(name);
        if candidate { candidate_file(name) } else { format!("{FOLDER}/{name}.toml").into() }
    }
}

/// One policy file of the folder.
#[derive(Debug, Clone)]
pub enum Sheet<'n> {
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

impl Sheet<'_> {
    pub fn name(&self) -> Arc<str> {
        match self {
            Sheet::Policy { name, .. } | Sheet::Candidate(name) => Arc::clone(name),
            Sheet::Baseline => BASELINE.into(),
        }
    }

    pub fn file(&self) -> Arc<str> {
        match self {
            Sheet::Policy { file, .. } => Arc::clone(file),
            Sheet::Candidate(name) => candidate_file(name),
            Sheet::Baseline => format!("{FOLDER}/{BASELINE}.toml").into(),
        }
    }
}

fn candidate_file(name: &str) -> Arc<str> {
    format!("{FOLDER}/{name}.shadow.toml").into()
}

/// Name of the policy whose denials come before every other.
const BASELINE: &str = "baseline";

/// Names of all policies and candidates, and findings about other files among them.
pub fn names(reading: &mut Reading<'_>) -> (Names, Vec<Diagnostic>) {
    let (mut names, mut found) = (Names::default(), Vec::new());
    let folder = reading.folder.join(FOLDER);
    let at = |file: &str, finding: Finding| {
        finding.at(Place::file(folder.join(file).display().to_string().into()))
    };
    let listed = match reading.files.list(&folder) {
        Ok(listed) => listed,
        Err(Fault::Missing) => return (names, found),
        Err(fault) => {
            return (
                names,
                vec![about(FOLDER, &fault).at(Place::file(folder.display().to_string().into()))],
            );
        }
    };
    for file in listed.iter() {
        let Some(stem) = file.strip_suffix(".toml") else { continue };
        let policy = stem.strip_suffix(".shadow").filter(|name| is_name(name));
        if stem == BASELINE {
            names.baseline = true;
        } else if policy == Some(BASELINE) {
            let finding = error("the baseline has no candidate");
            found.push(at(
                file,
                finding.remedy("deny in the candidates of the policies, policies/NAME.shadow.toml"),
            ));
        } else if is_reserved(policy.unwrap_or(stem)) {
            let finding = error(format!("`{}` is a reserved word", policy.unwrap_or(stem)))
                .remedy("take another name");
            found.push(at(file, finding));
        } else if let Some(name) = policy {
            names.candidates.insert(name.into());
        } else if is_name(stem) {
            names.policies.insert(stem.into());
        }
    }
    for name in names.candidates.difference(&names.policies) {
        let finding =
            error(format!("a candidate of a policy that isn't there: {FOLDER}/{name}.toml"));
        let finding = finding.remedy("a candidate is judged beside the policy of its name");
        let guess = did_you_mean(name, names.policies.iter().map(|name| &**name));
        found.push(at(&format!("{name}.shadow.toml"), finding.perhaps(guess)));
    }
    (names, found)
}

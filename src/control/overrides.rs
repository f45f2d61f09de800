//! Overrides: failed `[[test]]`s that reject no generation, because an operator named them.
//!
//! An override is for a test by its file and name. It ends once the test passes, or is gone.

use std::sync::Arc;

use jiff::Timestamp;

use crate::control::config::LoadedConfig;
use crate::control::config::source_text::{Finding, error};

/// Most names of tests in a message.
const MAX_NAMES: usize = 20;

/// A test that fails, and is overridden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOverride {
    /// The policy's file, relative to the folder of `sidegate.toml`.
    pub file: Arc<str>,
    /// Name of the test.
    pub test: Arc<str>,
    /// When it was ordered.
    pub since: Timestamp,
}

/// The overrides that one generation is tested with.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Those of the running generation.
    pub in_force: Arc<Vec<TestOverride>>,
    /// Names of tests that the present order adds.
    pub named: Vec<String>,
}

impl Overrides {
    /// The overrides that are in force, without an order.
    pub fn in_force(in_force: Arc<Vec<TestOverride>>) -> Overrides {
        Overrides { in_force, named: Vec::new() }
    }

    /// The override of the test `name` of `file`, ordered at `now` if it is new. `None` means that
    /// its failure is an error.
    pub fn of(&self, file: &Arc<str>, name: &Arc<str>, now: Timestamp) -> Option<TestOverride> {
        let earlier = self.in_force.iter().find(|one| one.file == *file && one.test == *name);
        let is_named = || self.named.iter().any(|named| **named == **name);
        let new = || TestOverride { file: Arc::clone(file), test: Arc::clone(name), since: now };
        earlier.cloned().or_else(|| is_named().then(new))
    }

    /// Reports the first name that no test of `loaded` has. `None` means that all exist.
    pub(in crate::control) fn unknown(&self, loaded: &LoadedConfig) -> Option<Finding> {
        let pages = loaded.policies.iter().chain(&loaded.candidates).chain(&loaded.baseline);
        let mut names: Vec<&str> =
            pages.flat_map(|page| page.tests.iter().map(|test| &*test.name)).collect();
        let unknown = self.named.iter().find(|named| !names.contains(&named.as_str()))?;
        names.sort_unstable();
        names.dedup();
        let (first, more) = names.split_at(names.len().min(MAX_NAMES));
        let listed = match (first.is_empty(), more.len()) {
            (true, _) => "no policy has a [[test]]".into(),
            (false, 0) => format!("the tests are: {}", first.join(", ")),
            (false, more) => format!("the tests are: {}, and {more} more", first.join(", ")),
        };
        Some(error(format!("--override: there is no test \"{unknown}\"")).with_remedy(listed))
    }
}

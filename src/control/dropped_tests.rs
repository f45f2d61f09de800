//! The `[[test]]`s of a policy that its candidate lacks, which a promotion would drop.
//!
//! Compares what tests ask and expect, not their names: a renamed test is kept, and a test that
//! expects something else under the same name is dropped.

use std::sync::Arc;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source_text::warning;
use crate::control::config::{ExpectedVerdict, LoadedConfig, PolicySettings, PolicyTest};

/// A test that a promotion would drop.
pub struct DroppedTest {
    /// The policy of the test.
    pub policy: Arc<str>,
    /// A warning with the place of the test.
    pub diagnostic: Diagnostic,
}

/// The tests of all policies that their candidates lack.
pub fn dropped_tests(loaded: &LoadedConfig) -> Vec<DroppedTest> {
    let of = |candidate: &PolicySettings| {
        let policy = loaded.policies.iter().find(|policy| policy.name == candidate.name);
        let tests = policy.map_or(&[][..], |policy| &policy.tests);
        let lacks = |test: &&PolicyTest| !candidate.tests.iter().any(|own| covers(own, test));
        let report = |test: &PolicyTest| DroppedTest {
            policy: Arc::clone(&candidate.name),
            diagnostic: diagnostic(&candidate.name, test),
        };
        tests.iter().filter(lacks).map(report).collect::<Vec<_>>()
    };
    loaded.candidates.iter().flat_map(of).collect()
}

/// Whether `own` fails whenever `test` does.
pub fn covers(own: &PolicyTest, test: &PolicyTest) -> bool {
    // The time is a part of the question: entries lapse, so that the answer depends on it.
    let is_same = own.subject == test.subject && own.request == test.request && own.at == test.at;
    // A refusal for a reason is also a refusal.
    let is_stricter = test.expect == ExpectedVerdict::Refuse
        && matches!(own.expect, ExpectedVerdict::RefuseFor(_));
    is_same && (own.expect == test.expect || is_stricter)
}

fn diagnostic(policy: &str, test: &PolicyTest) -> Diagnostic {
    let finding = warning(format!(
        "test \"{}\" is missing in policies/{policy}.shadow.toml: `promote` refuses to drop it",
        test.name
    ));
    let remedy = "copy it to the candidate, or promote with --drop-tests";
    finding.with_remedy(remedy).into_diagnostic(test.at_expect.clone().with_names_shown())
}

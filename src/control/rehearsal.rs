//! The policies' own tests, run against a snapshot before it is published.
//!
//! They ask the same judge as live traffic, routes included. It changes nothing and charges nobody.

use std::sync::Arc;

use jiff::Timestamp;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::page::{error, warning};
use crate::control::config::{Expect, Loaded, PolicyPage, PolicyTest};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::explanation::Question;

/// The tests of one policy, or of its candidate.
pub struct Script {
    policy: Arc<str>,
    kind: Kind,
    tests: Vec<PolicyTest>,
}

/// Whose tests they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Policy,
    /// They are run as if it had its policy's place.
    Candidate,
    Baseline,
}

impl Script {
    /// Takes the tests of every page out of `loaded`.
    pub fn all(loaded: &mut Loaded) -> Vec<Script> {
        let script = |page: &mut PolicyPage, kind| {
            let tests = std::mem::take(&mut page.tests);
            Script { policy: Arc::clone(&page.name), kind, tests }
        };
        let policies = loaded.policies.iter_mut().map(|page| script(page, Kind::Policy));
        let mut scripts: Vec<_> = policies.collect();
        scripts.extend(loaded.candidates.iter_mut().map(|page| script(page, Kind::Candidate)));
        scripts.extend(loaded.baseline.iter_mut().map(|page| script(page, Kind::Baseline)));
        scripts
    }
}

/// Runs every test; what is told of those that fail are errors.
pub fn rehearse(snapshot: &Snapshot, scripts: &[Script]) -> Vec<Diagnostic> {
    scripts.iter().flat_map(|script| script.tests.iter().filter_map(|test| run(snapshot, script, test))).collect()
}

fn run(snapshot: &Snapshot, script: &Script, test: &PolicyTest) -> Option<Diagnostic> {
    let candidate = (script.kind == Kind::Candidate).then_some(&*script.policy);
    let judged = test
        .request
        .as_ref()
        .map_err(|refusal| *refusal)
        .map(|request| snapshot.judge_by(test.client, request, None, test.at.unwrap_or(Timestamp::MIN), candidate));
    let route = judged.as_ref().ok().and_then(|judgement| judgement.route.as_ref());
    if route.is_none() && judged.is_ok() && test.expect != Expect::RefuseFor(Refusal::Route.word()) {
        let finding = error(format!("test \"{}\": no route leads there", test.name));
        let remedy = "look at the host and the path of the [[route]]s; expect = \"refuse:route\" where it is meant";
        return Some(finding.remedy(remedy).at(test.at_url.clone()));
    }
    let verdict = judged.as_ref().map_err(|refusal| *refusal).and_then(|judgement| match &judgement.verdict {
        Ok(_) => Ok(()),
        Err(refusal) => Err(*refusal),
    });
    if meets(test.expect, verdict) {
        let policy = route.map(|route| &*route.policy.name).filter(|name| *name != &*script.policy)?;
        let stray = script.kind != Kind::Baseline;
        return stray.then(|| {
            let finding = warning(format!("test \"{}\": its URL is `{policy}`'s, another policy's, to judge", test.name));
            finding.remedy("move it there, or look at the [[route]]s").at(test.at_url.clone())
        });
    }
    let got = verdict.map_or_else(|refusal| format!("refuse:{refusal}"), |()| "allow".into());
    let request = test.request.as_ref().map_err(|refusal| *refusal);
    let question = Question { client: test.client, request, at: test.at, live: false, candidate };
    let explanation = snapshot.explain(question).to_string();
    let finding = error(format!("test \"{}\" failed: expected {}, got {got}", test.name, written(test.expect)));
    Some(finding.at(test.at_expect.clone()).because(explanation))
}

fn meets(expect: Expect, verdict: Result<(), Refusal>) -> bool {
    match (expect, verdict) {
        (Expect::Allow, Ok(())) | (Expect::Refuse, Err(_)) => true,
        (Expect::RefuseFor(word), Err(refusal)) => refusal.word() == word,
        (Expect::Allow, Err(_)) | (Expect::Refuse | Expect::RefuseFor(_), Ok(())) => false,
    }
}

fn written(expect: Expect) -> String {
    match expect {
        Expect::Allow => "allow".into(),
        Expect::Refuse => "refuse".into(),
        Expect::RefuseFor(word) => format!("refuse:{word}"),
    }
}

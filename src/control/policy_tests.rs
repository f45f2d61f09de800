//! The policies' own tests, run against a snapshot before it is published.
//!
//! Asks the same judge as live traffic, routes included. Changes nothing and charges no budget.

use std::sync::Arc;

use jiff::Timestamp;

use crate::control::config::diagnostic::{Diagnostic, DiagnosticLevel};
use crate::control::config::source_text::{error, warning};
use crate::control::config::{ExpectedVerdict, LoadedConfig, PolicySettings, PolicyTest};
use crate::control::dropped_tests::covers;
use crate::control::overrides::{Overrides, TestOverride};
use crate::policy::request::Request;
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::explanation::ExplainInput;
use crate::snapshot::{Judgement, Snapshot};

/// The tests of one policy, or of its candidate.
pub struct PolicyTests {
    policy: Arc<str>,
    /// The file of the tests, relative to the folder of `sidegate.toml`.
    file: Arc<str>,
    kind: TestedPage,
    tests: Vec<PolicyTest>,
}

/// A `[[test]]` of a running policy that expects `allow`.
#[derive(Debug, Clone)]
pub struct AllowTest {
    /// Its name.
    pub name: Arc<str>,
    /// File and line of its expectation.
    pub place: String,
    /// The client that is to be admitted.
    pub subject: Subject,
}

impl AllowTest {
    /// The tests of `scripts` that expect `allow`, but for those of candidates.
    pub fn all(scripts: &[PolicyTests]) -> Vec<AllowTest> {
        let running = scripts.iter().filter(|script| script.kind != TestedPage::Candidate);
        let tests = running.flat_map(|script| &script.tests);
        let allow = tests.filter(|test| test.expect == ExpectedVerdict::Allow);
        allow
            .map(|test| AllowTest {
                name: Arc::clone(&test.name),
                place: test.at_expect.file_and_line(),
                subject: test.subject.clone(),
            })
            .collect()
    }
}

/// The kind of page that the tests belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TestedPage {
    Policy,
    /// Runs as if the candidate had replaced its policy.
    Candidate,
    Baseline,
}

impl PolicyTests {
    /// Takes the tests of every page out of `loaded`.
    pub fn all(loaded: &mut LoadedConfig) -> Vec<PolicyTests> {
        let script = |page: &mut PolicySettings, kind| {
            let tests = std::mem::take(&mut page.tests);
            let (policy, file) = (Arc::clone(&page.name), Arc::clone(&page.file));
            PolicyTests { policy, file, kind, tests }
        };
        let policies = loaded.policies.iter_mut().map(|page| script(page, TestedPage::Policy));
        let mut scripts: Vec<_> = policies.collect();
        scripts
            .extend(loaded.candidates.iter_mut().map(|page| script(page, TestedPage::Candidate)));
        scripts.extend(loaded.baseline.iter_mut().map(|page| script(page, TestedPage::Baseline)));
        scripts
    }
}

impl PolicyTests {
    /// The policy of the tests.
    pub fn policy(&self) -> &Arc<str> {
        &self.policy
    }

    /// The names of the tests that no test of the same page in `all` covers. Those of a candidate
    /// guard nothing yet.
    pub fn missing_in<'t>(&'t self, all: &[PolicyTests]) -> impl Iterator<Item = &'t Arc<str>> {
        let same = all.iter().find(|other| other.policy == self.policy && other.kind == self.kind);
        let same = same.map_or(&[][..], |same| &same.tests);
        let own = self.tests.iter().filter(|_| self.kind != TestedPage::Candidate);
        let missing = own.filter(|test| !same.iter().any(|other| covers(other, test)));
        missing.map(|test| &test.name).collect::<Vec<_>>().into_iter()
    }

    /// The policy whose candidate is judged in its place. `None` means that there is none.
    fn candidate(&self) -> Option<&str> {
        (self.kind == TestedPage::Candidate).then_some(&*self.policy)
    }
}

/// The results of tests.
#[derive(Debug, Default)]
pub struct TestResults {
    /// Failed tests are errors, or warnings if overridden; a test of another policy's URL is a
    /// warning.
    pub found: Vec<Diagnostic>,
    /// The failed tests that are overridden.
    pub overridden: Vec<TestOverride>,
}

/// Runs every test. The failure of a test in `overrides` is a warning.
pub fn run_tests(
    snapshot: &Snapshot,
    scripts: &[PolicyTests],
    overrides: &Overrides,
) -> TestResults {
    let (mut results, now) = (TestResults::default(), Timestamp::now());
    for script in scripts {
        let tests = script.tests.iter();
        let mut judged: Vec<_> = tests.map(|test| TestRun::of(snapshot, script, test)).collect();
        judged.retain(|one| {
            let Some(failure) = one.failure(snapshot, script) else { return true };
            let Some(ordered) = overrides.of(&script.file, &one.test.name, now) else {
                return true;
            };
            results.found.push(overridden(failure));
            if !results.overridden.contains(&ordered) {
                results.overridden.push(ordered);
            }
            false
        });
        results.found.extend(findings(snapshot, script, &judged));
    }
    results
}

/// The warning about a failed test that is overridden.
fn overridden(mut failure: Diagnostic) -> Diagnostic {
    let remedy = "the override ends once the test passes: change the test or the rules";
    failure.level = DiagnosticLevel::Warning;
    failure.message.insert_str(0, "overridden: ");
    failure.remedy = Some(remedy.into());
    failure
}

/// The findings about the tests of one page. URLs that lead nowhere because of the same slip are
/// one error.
fn findings(snapshot: &Snapshot, script: &PolicyTests, judged: &[TestRun<'_>]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut slips: Vec<&str> = Vec::new();
    for one in judged {
        match &one.slip {
            Some(slip) if slips.contains(&&**slip) => {}
            Some(slip) => {
                slips.push(slip);
                let same = judged.iter().filter(|other| other.slip.as_ref() == Some(slip));
                found.push(leads_nowhere(snapshot, one.test, &same.skip(1).collect::<Vec<_>>()));
            }
            None => found.extend(one.finding(snapshot, script)),
        }
    }
    found
}

/// A test and the verdict on its request.
struct TestRun<'t> {
    test: &'t PolicyTest,
    verdict: Result<Judgement, Refusal>,
    /// Set where no route leads to the URL, though the test expects one. Tests with equal text
    /// fail for the same reason: a route with another host, or another path below the host.
    slip: Option<String>,
}

impl<'t> TestRun<'t> {
    fn of(snapshot: &Snapshot, script: &PolicyTests, test: &'t PolicyTest) -> TestRun<'t> {
        let request = test.request.as_ref().map_err(|refusal| *refusal);
        let verdict = request.map(|request| {
            // As live traffic does: a path that lacks its slash is judged with it, and answered
            // 308.
            let slashed = snapshot.with_slash(request);
            let request = slashed.as_ref().unwrap_or(request);
            // Without an instant, no entry has lapsed.
            let at = test.at.unwrap_or(Timestamp::MIN);
            let judged = snapshot.judge_by(&test.subject, request, None, at, script.candidate());
            judged.of_forwarded(request)
        });
        let is_stray = verdict
            .as_ref()
            .is_ok_and(|judgement| judgement.route.is_none() && judgement.ambiguity.is_none());
        let is_stray = is_stray && test.expect != ExpectedVerdict::RefuseFor(Refusal::Route.word());
        let slip = request.ok().filter(|_| is_stray).map(|request| slip(snapshot, request));
        TestRun { test, verdict, slip }
    }

    /// The error about the test. `None` means that it passes.
    fn failure(&self, snapshot: &Snapshot, script: &PolicyTests) -> Option<Diagnostic> {
        match self.slip {
            Some(_) => Some(leads_nowhere(snapshot, self.test, &[])),
            None => self.finding(snapshot, script).filter(Diagnostic::is_error),
        }
    }

    /// The finding about a test whose URL leads to a route. `None` means that it passes.
    fn finding(&self, snapshot: &Snapshot, script: &PolicyTests) -> Option<Diagnostic> {
        let TestRun { test, verdict: judged, .. } = self;
        let route = judged.as_ref().ok().and_then(|judgement| judgement.route.as_ref());
        let verdict = match judged {
            Ok(judgement) => judgement.verdict.as_ref().map(|_| ()).map_err(|refusal| *refusal),
            Err(refusal) => Err(*refusal),
        };
        if matches_expectation(test.expect, verdict) {
            let policy =
                route.map(|route| &*route.policy.name).filter(|name| *name != &*script.policy)?;
            let stray = script.kind != TestedPage::Baseline;
            return stray.then(|| {
                let finding = warning(format!(
                    "test \"{}\": its URL is `{policy}`'s, another policy's, to judge",
                    test.name
                ));
                finding
                    .with_remedy("move it there, or look at the [[route]]s")
                    .into_diagnostic(test.at_url.clone().with_names_shown())
            });
        }
        let got = verdict.map_or_else(|refusal| format!("refuse:{refusal}"), |()| "allow".into());
        let request = test.request.as_ref().map_err(|refusal| *refusal);
        let (subject, at, candidate) = (&test.subject, test.at, script.candidate());
        let question = ExplainInput {
            subject,
            request,
            at,
            budgets: None,
            candidate,
            speaks_for_others: false,
        };
        let explanation = snapshot.explain(question).to_string();
        let finding = error(format!(
            "test \"{}\" failed: expected {}, got {got}",
            test.name,
            expectation_text(test.expect)
        ));
        Some(
            finding
                .into_diagnostic(test.at_expect.clone().with_names_shown())
                .with_explanation(explanation),
        )
    }
}

/// What probably is wrong with the routes: the text is equal for URLs with the same slip.
fn slip(snapshot: &Snapshot, request: &Request) -> String {
    let (host, path) = (request.host.name(), request.path.sent());
    if snapshot.with_missing_slash(request).is_some() {
        return format!("{host}{path}");
    }
    // No route has the host: whichever the path is, the host of a route is the slip.
    let has_routes = snapshot.routes.has_host(host);
    let first = path.split('/').nth(1).filter(|_| has_routes).unwrap_or_default();
    format!("{host}/{first}")
}

/// The error about the URL of `test`, and about those of the tests `more` with the same slip.
fn leads_nowhere(snapshot: &Snapshot, test: &PolicyTest, more: &[&TestRun<'_>]) -> Diagnostic {
    let finding = error(format!("test \"{}\": no route leads there", test.name));
    let remedy = "look at the host and the path of the [[route]]s; \
                  expect = \"refuse:route\" where it is meant";
    let slashed = test.request.as_ref().ok();
    let slashed = slashed.and_then(|request| snapshot.with_missing_slash(request));
    let meant = slashed
        .map(|slashed| format!("a route begins at {}: end the path with a slash", slashed.path));
    let finding = match more {
        [] => finding,
        [second, others @ ..] => {
            let label = match others.len() {
                0 => "also here".to_owned(),
                1 => "also here, and in 1 more test".to_owned(),
                count => format!("also here, and in {count} more tests"),
            };
            finding.with_related(second.test.at_url.clone().with_names_shown(), label)
        }
    };
    finding
        .with_remedy(remedy)
        .with_remedy_if(meant)
        .into_diagnostic(test.at_url.clone().with_names_shown())
}

fn matches_expectation(expect: ExpectedVerdict, verdict: Result<(), Refusal>) -> bool {
    match (expect, verdict) {
        (ExpectedVerdict::Allow, Ok(())) | (ExpectedVerdict::Refuse, Err(_)) => true,
        (ExpectedVerdict::RefuseFor(word), Err(refusal)) => refusal.word() == word,
        (ExpectedVerdict::Allow, Err(_))
        | (ExpectedVerdict::Refuse | ExpectedVerdict::RefuseFor(_), Ok(())) => false,
    }
}

fn expectation_text(expect: ExpectedVerdict) -> String {
    match expect {
        ExpectedVerdict::Allow => "allow".into(),
        ExpectedVerdict::Refuse => "refuse".into(),
        ExpectedVerdict::RefuseFor(word) => format!("refuse:{word}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::control::compile::build;
    use crate::control::config;
    use crate::control::config::source::Files;
    use crate::control::overrides::Overrides;
    use crate::snapshot::tls::TicketKeys;

    const SIDEGATE: &str = "schema = 1
[[listener]]
name = 'public'
listen = '127.0.0.1:0'
tls = false
[[route]]
name = 'chat'
host = 'ws.example.com'
path = '/chat/'
backend = 'http://127.0.0.1:8080'
policy = 'chat'
[[route]]
name = 'desk'
host = 'ws.example.com'
path = '/desk'
backend = 'http://127.0.0.1:8080'
policy = 'desk'
";

    const CHAT: &str = r#"schema = 1

[lists]
office   = ["192.0.2.0/24 owner=acme", "!192.0.2.13 ticket=SEC-3"]
visitors = ["198.51.100.7 expires=2026-12-31"]

[client]
allow   = ["office", "visitors"]
origins = ["https://app.example.com"]

"#;

    /// Whether `files` can be used, and the findings about them. [`CHAT`] is the policy `chat`
    /// unless they name it.
    fn told(files: &[(&str, &str)]) -> (bool, String) {
        let (built, text) = overriding(files, &[]);
        (built.is_some(), text)
    }

    /// The overrides in use and the findings about `files`, if the tests `named` may fail. `None`
    /// means that they cannot be used.
    fn overriding(files: &[(&str, &str)], named: &[&str]) -> (Option<Vec<String>>, String) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        let desk = ("policies/desk.toml", "schema = 1\nclient.allow = ['any']\n");
        for (name, text) in
            [("sidegate.toml", SIDEGATE), ("policies/chat.toml", CHAT), desk].iter().chain(files)
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let (mut files, config) = (Files::for_person(), folder.path().join("sidegate.toml"));
        let loaded =
            config::load(&mut files, &config, None).unwrap_or_else(|found| panic!("{found:?}"));
        let tickets = TicketKeys::new().unwrap();
        let named = named.iter().map(|name| (*name).to_owned()).collect();
        let overrides = Overrides { named, ..Overrides::default() };
        let built = build(loaded, &config, "", None, &tickets, &overrides);
        let found = built.as_ref().map_or_else(Clone::clone, |built| built.warnings.clone());
        let text: Vec<_> = found.iter().map(ToString::to_string).collect();
        let used = built.ok().map(|built| {
            built.overridden.iter().map(|one| format!("{}: {}", one.file, one.test)).collect()
        });
        (used, text.join("\n\n").replace(&format!("{}/", folder.path().display()), ""))
    }

    /// A `[[test]]` of a client and a path below the host of the routes.
    fn test(client: &str, path: &str, keys: &str, expect: &str) -> String {
        format!(
            "[[test]]\nname = \"x\"\nclient = \"{client}\"\nurl = \"wss://ws.example.com{path}\"\n{keys}\nexpect = \"{expect}\"\n"
        )
    }

    /// Whether the policy `chat` can be used with a test of this client, from its own page.
    fn passes(client: &str, path: &str, at: &str, expect: &str) -> bool {
        let keys = format!("origin = \"https://app.example.com\"\n{at}");
        told(&[("policies/chat.toml", &format!("{CHAT}{}", test(client, path, &keys, expect)))]).0
    }

    #[test]
    fn failed_test_is_a_warning_when_it_is_overridden() {
        let baseline = "schema = 1\nclient.deny = ['192.0.2.7']\n".to_owned()
            + &test("192.0.2.9", "/chat/a", "origin = 'https://app.example.com'", "allow")
            + &test("192.0.2.7", "/nowhere", "", "allow").replace("\"x\"", "\"stray\"");
        let chat = CHAT.to_owned()
            + &test("192.0.2.7", "/chat/a", "origin = 'https://app.example.com'", "allow");
        let files = [("policies/chat.toml", &*chat), ("policies/baseline.toml", baseline.as_str())];
        assert!(overriding(&files, &["x"]).0.is_none(), "the stray one is not named");
        assert!(overriding(&files, &["stray"]).0.is_none());
        let (used, text) = overriding(&files, &["x", "stray"]);
        let used = used.unwrap();
        assert_eq!(used, ["policies/chat.toml: x", "policies/baseline.toml: stray"]);
        let failed = "warning: overridden: test \"x\" failed: expected allow, got refuse:network";
        assert!(text.contains(failed), "{text}");
        assert!(text.contains("warning: overridden: test \"stray\": no route leads"), "{text}");
        assert!(text.contains("REFUSE 403 network"), "it says why: {text}");
    }

    #[test]
    fn failed_test_shows_expectation_result_and_reason() {
        let text = format!("{CHAT}{}", test("192.0.2.13", "/chat/a", "", "allow"));
        let expected = r#"
error: test "x" failed: expected allow, got refuse:network
  --> policies/chat.toml:16:10
   |
16 | expect = "allow"
   |          ^^^^^^^
   |
   = note: REFUSE 403 network   policy chat (policies/chat.toml:8)
             client      192.0.2.13, the socket's peer
             route       chat, for ws.example.com/chat/a (upgrade)
             allow       `office`: carved out by !192.0.2.13 (policies/chat.toml:4, ticket SEC-3); would match 192.0.2.0/24 (policies/chat.toml:4, owner acme); not in `visitors` (1 entry)
             origin      none sent: not among "https://app.example.com"
"#;
        assert_eq!(
            told(&[("policies/chat.toml", &text)]),
            (false, expected.trim_matches('\n').to_owned())
        );
    }

    #[test]
    fn plain_http_that_no_route_forwards_is_refused() {
        let plain = |client: &str, expect: &str| {
            let page = "origin = \"https://app.example.com\"\n";
            let test = test(client, "/chat/a", page, expect).replace("wss:", "https:");
            told(&[("policies/chat.toml", &format!("{CHAT}{test}"))])
        };
        for (client, expect, passes) in [
            ("192.0.2.1", "refuse:plain", true),
            ("192.0.2.1", "refuse", true),
            ("192.0.2.1", "allow", false),
            ("192.0.2.13", "refuse:network", true), // the policy's refusal comes first
            ("192.0.2.13", "refuse:plain", false),
        ] {
            assert_eq!(plain(client, expect).0, passes, "{client} {expect}");
        }
        let said = plain("192.0.2.1", "allow").1;
        let why = "http        plain HTTP is answered 426 here; http = \"forward\" of the route";
        assert!(said.contains("got refuse:plain") && said.contains(why), "{said}");
        // The same URL passes where the route forwards plain HTTP.
        let forwards = SIDEGATE.replacen("path = '/chat/'", "path = '/chat/'\nhttp = 'forward'", 1);
        let page = "origin = \"https://app.example.com\"\n";
        let test = test("192.0.2.1", "/chat/a", page, "allow").replace("wss:", "https:");
        let files =
            [("sidegate.toml", &*forwards), ("policies/chat.toml", &format!("{CHAT}{test}"))];
        assert!(told(&files).0);
    }

    #[test]
    fn certificate_of_a_test_is_judged() {
        let policy = |tests: &str| {
            let rule =
                "certificate = { allow = ['spiffe://a/ws/*'], deny = ['spiffe://a/ws/old'] }";
            let chat = CHAT.replacen("[client]", &format!("[client]\n{rule}"), 1);
            let origin = "origin = \"https://app.example.com\"\n";
            let keys = format!("{origin}{tests}");
            format!("{chat}{}", test("192.0.2.1", "/chat/a", &keys, "refuse:identity"))
        };
        for (identity, is_refused) in [
            ("", true),
            ("identity = 'spiffe://a/ws/edge'", false),
            ("identity = 'spiffe://a/ws/old'", true),
            ("identity = 'spiffe://b/ws/edge'", true),
            ("identity = 'dns:a.example.com'", true),
        ] {
            let (passes, says) = told(&[("policies/chat.toml", &policy(identity))]);
            assert_eq!(passes, is_refused, "{identity}: {says}");
            let place = "admitted by \"spiffe://a/ws/*\"";
            assert_eq!(says.contains(place), !is_refused, "{says}");
        }
    }

    #[test]
    fn unexpected_admission_shows_the_entry() {
        let text = format!(
            "{CHAT}{}",
            test("192.0.2.1", "/chat/a", "origin = \"https://app.example.com\"", "refuse:network")
        );
        let expected = r#"
error: test "x" failed: expected refuse:network, got allow
  --> policies/chat.toml:16:10
   |
16 | expect = "refuse:network"
   |          ^^^^^^^^^^^^^^^^
   |
   = note: ALLOW   policy chat (policies/chat.toml:8)
             client      192.0.2.1, the socket's peer
             route       chat, for ws.example.com/chat/a (upgrade)
             allow       in `office`: 192.0.2.0/24 (policies/chat.toml:4, owner acme)
             origin      https://app.example.com: admitted by "https://app.example.com"
"#;
        assert_eq!(
            told(&[("policies/chat.toml", &text)]),
            (false, expected.trim_matches('\n').to_owned())
        );
    }

    #[test]
    fn url_without_a_route_is_an_error_unless_expected() {
        let text = format!("{CHAT}{}", test("192.0.2.1", "/chta/a", "", "refuse"));
        let expected = r#"
error: test "x": no route leads there
  --> policies/chat.toml:14:7
   |
14 | url = "wss://ws.example.com/chta/a"
   |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: look at the host and the path of the [[route]]s; expect = "refuse:route" where it is meant
"#;
        assert_eq!(
            told(&[("policies/chat.toml", &text)]),
            (false, expected.trim_matches('\n').to_owned())
        );
        assert!(
            passes("192.0.2.1", "/chta/a", "", "refuse:route")
                && !passes("192.0.2.1", "/chat/a", "", "refuse:route")
        );
    }

    #[test]
    fn urls_that_lead_nowhere_by_one_slip_are_one_error() {
        let keys = "origin = \"https://app.example.com\"";
        let at = |path: &str| test("192.0.2.1", path, keys, "allow");
        let errors = |paths: &[&str], files: &[(&str, &str)]| {
            let tests: String = paths.iter().map(|path| at(path)).collect();
            let page = format!("{CHAT}{tests}");
            let (usable, found) = told(&[files, &[("policies/chat.toml", &page)]].concat());
            assert_eq!(usable, !found.contains("error: "), "{found}");
            (found.matches("error: ").count(), found)
        };
        let (count, found) = errors(&["/chta/a", "/chat/b", "/chta/c", "/chta/d"], &[]);
        assert_eq!(count, 1, "{found}");
        assert!(found.contains(":14:7") && found.contains("also here, and in 1 more"), "{found}");
        assert_eq!(errors(&["/chta/a", "/hcat/a", "/chat/a"], &[]).0, 2, "two slips");
        // The host of the route: every path below it leads nowhere.
        let misspelt = SIDEGATE.replacen("ws.example.com", "ws.exmaple.com", 2);
        let files = [("sidegate.toml", &*misspelt)];
        let (count, found) = errors(&["/chat/a", "/desk", "/chat/b", "/x/y"], &files);
        assert_eq!(count, 1, "{found}");
        assert!(found.contains("also here, and in 2 more tests"), "{found}");
        assert_eq!(errors(&["/chat", "/chat/a"], &[]).0, 1, "a slash is a slip of its own");
    }

    #[test]
    fn a_url_of_another_policy_is_a_warning() {
        let text = format!("{CHAT}{}", test("192.0.2.1", "/desk", "", "allow"));
        let expected = r#"
warning: test "x": its URL is `desk`'s, another policy's, to judge
  --> policies/chat.toml:14:7
   |
14 | url = "wss://ws.example.com/desk"
   |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: move it there, or look at the [[route]]s
"#;
        assert_eq!(
            told(&[("policies/chat.toml", &text)]),
            (true, expected.trim_matches('\n').to_owned())
        );
    }

    #[test]
    fn lapse_counts_only_in_tests_with_an_instant() {
        assert!(passes("198.51.100.7", "/chat/", "", "allow"));
        assert!(passes("198.51.100.7", "/chat/", "at = 2026-12-31T23:59:59Z", "allow"));
        assert!(passes("198.51.100.7", "/chat/", "at = 2027-01-01T00:00:00Z", "refuse:network"));
        assert!(!passes("198.51.100.7", "/chat/", "at = 2027-01-01", "allow"));
    }

    #[test]
    fn refuse_matches_any_refusal_and_a_word_only_its_own() {
        for (client, path, word) in
            [("192.0.2.13", "/chat/", "network"), ("192.0.2.1", "/chat/x%2fy", "path")]
        {
            assert!(
                passes(client, path, "", "refuse")
                    && passes(client, path, "", &format!("refuse:{word}"))
            );
            assert!(
                !passes(client, path, "", "allow") && !passes(client, path, "", "refuse:origin")
            );
        }
        assert!(!passes("192.0.2.1", "/chat/", "", "refuse"));
    }

    #[test]
    fn candidate_is_tested_in_place_of_its_policy() {
        let (here, there) = (
            test("10.0.0.1", "/chat/", "", "refuse:network"),
            test("10.0.0.1", "/chat/", "", "allow"),
        );
        let candidate = |tests: &str| format!("schema = 1\nclient.allow = ['10.0.0.0/8']\n{tests}");
        let both = |policy: &str, tests: &str| {
            told(&[
                ("policies/chat.toml", &format!("{CHAT}{policy}")),
                ("policies/chat.shadow.toml", &candidate(tests)),
            ])
        };
        assert_eq!(both(&here, &there), (true, String::new()));
        let (usable, found) = both("", &here);
        assert!(
            !usable && found.contains("policies/chat.shadow.toml:8:10") && found.contains("ALLOW"),
            "{found}"
        );
        assert!(!both(&there, "").0);
    }

    #[test]
    fn baseline_is_tested_first_and_never_stray() {
        let baseline = |tests: &str| format!("schema = 1\nclient.deny = ['192.0.2.66']\n{tests}");
        let refused = test("192.0.2.66", "/desk", "", "refuse:network");
        assert_eq!(told(&[("policies/baseline.toml", &baseline(&refused))]), (true, String::new()));
        let (usable, found) = told(&[(
            "policies/baseline.toml",
            &baseline(&test("192.0.2.66", "/desk", "", "allow")),
        )]);
        assert!(!usable && found.contains("policy baseline (policies/baseline.toml:2)"), "{found}");
        let admitted = format!(
            "{CHAT}{}",
            test("192.0.2.66", "/chat/", "origin = \"https://app.example.com\"", "allow")
        );
        assert!(
            !told(&[("policies/chat.toml", &admitted), ("policies/baseline.toml", &baseline(""))])
                .0
        );
    }

    #[test]
    fn every_failed_test_is_reported() {
        let failing = test("192.0.2.13", "/chat/", "", "allow");
        let desk = format!("schema = 1\nclient.allow = []\n{}", test("::1", "/desk", "", "allow"));
        let (_, found) = told(&[
            ("policies/chat.toml", &format!("{CHAT}{failing}{failing}")),
            ("policies/desk.toml", &desk),
        ]);
        assert_eq!(
            found.matches("failed: expected allow, got refuse:network").count(),
            3,
            "{found}"
        );
    }
}

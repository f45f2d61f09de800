//! `[[test]]`: the security team's expectations of a policy, checked at every load.
//!
//! Reads requests and expected verdicts only; `policy_tests` runs them.

use std::net::IpAddr;

use crate::control::config::document::{TomlTable, TomlValue, did_you_mean};
use crate::control::config::keys::policy::{TEST, test as keys};
use crate::control::config::policy::rule;
use crate::control::config::policy_settings::{ExpectedVerdict, PolicyTest};
use crate::control::config::source_text::{Finding, error};
use crate::control::config::users;
use crate::observe::printable::is_control;
use crate::policy::certificate::ClientCertificate;
use crate::policy::network::Client;
use crate::policy::request::Request;
use crate::policy::subject::Subject;
use crate::policy::unix::{self, UnixPattern, UnixPatternFault};
use crate::refusal::Refusal;

/// The refusals that judging can return.
const TESTABLE_REFUSALS: [Refusal; 7] = [
    Refusal::Path,
    Refusal::Route,
    Refusal::Network,
    Refusal::Origin,
    Refusal::Identity,
    Refusal::Subprotocol,
    Refusal::Plain,
];

/// Reads every `[[test]]` of the file whose table is `root`.
pub fn read(root: &mut TomlTable<'_>) -> Vec<PolicyTest> {
    root.tables(&TEST).into_iter().filter_map(test).collect()
}

fn test(mut table: TomlTable<'_>) -> Option<PolicyTest> {
    let name = table
        .require(&keys::NAME, "name = \"what it shows\"")
        .and_then(|value| value.parse("a string", name));
    let client = table
        .require(&keys::CLIENT, "client = \"192.0.2.1\"")
        .and_then(|value| value.parse("an address", subject));
    let url = table.require(&keys::URL, "url = \"wss://ws.example.com/ticks\"");
    let origin = table.get(&keys::ORIGIN).and_then(|value| value.string());
    let subprotocol = table.get(&keys::SUBPROTOCOL);
    let subprotocol = subprotocol.map(|value| value.parse("a subprotocol", rule::subprotocol));
    let identity = table.get(&keys::IDENTITY);
    let certificate = identity.map(|value| value.parse("a name of a certificate", certificate));
    let at = table.get(&keys::AT).map(|value| value.instant());
    let expect = table.require(&keys::EXPECT, "expect = \"allow\", \"refuse\" or \"refuse:WORD\"");
    table.finish();
    // Each part is parsed even if another has an error, so that all errors come at once.
    let request = url.and_then(|url| request(&url, origin, subprotocol.flatten()));
    let expected = expect.and_then(|expect| expectation(&expect));
    Some(PolicyTest {
        name: name?.into(),
        subject: match certificate {
            None => client?,
            Some(certificate) => client?.with_certificate(certificate?.into()),
        },
        request: request?,
        at: at.map_or(Some(None), |at| at.map(Some))?,
        expect: expected?,
        at_url: url?.place(),
        at_expect: expect?.place(),
    })
}

/// Checks that `--override` and messages of one line can name the test.
fn name(text: &str) -> Result<&str, Finding> {
    let fault = match text {
        _ if text.trim().is_empty() => "the name of a test is empty",
        _ if text.contains(is_control) => "the name of a test is one line, without controls",
        _ => return Ok(text),
    };
    Err(error(fault).with_remedy("what the test shows, like \"the office may connect\""))
}

/// Builds the request. The inner result is the gate's verdict on the path.
fn request(
    url: &TomlValue<'_>,
    origin: Option<&str>,
    subprotocol: Option<&str>,
) -> Option<Result<Request, Refusal>> {
    let text = url.string()?;
    let request = Request::of_url(text, origin, subprotocol);
    request.map_err(|fault| url.report(error(fault.fault).with_remedy(fault.remedy))).ok()
}

fn subject(text: &str) -> Result<Subject, Finding> {
    if UnixPattern::is_meant(text) {
        return unix::parse_subject(text, &users::resolve).map_err(|fault| {
            let remedy = "one client, like \"unix:uid=33,gid=33\"";
            let known = matches!(fault, UnixPatternFault::Unknown(..)).then(|| fault.remedy());
            error(fault.to_string()).with_remedy(remedy).with_remedy_if(known)
        });
    }
    let address = text.parse::<IpAddr>();
    address.map(|address| Client::new(address).into()).map_err(|_| {
        error(format!("\"{text}\" is not an address")).with_remedy("one client, like \"192.0.2.1\"")
    })
}

fn certificate(identity: &str) -> Result<ClientCertificate, Finding> {
    ClientCertificate::named(identity).map_err(|fault| {
        error(format!("\"{identity}\" is no name of a certificate: {fault}")).with_remedy(
            "one name, like \"spiffe://example.com/ws/edge\" or \"dns:client.example.com\"",
        )
    })
}

fn expectation(value: &TomlValue<'_>) -> Option<ExpectedVerdict> {
    value.parse("\"allow\", \"refuse\" or \"refuse:WORD\"", |text| match text {
        "allow" => Ok(ExpectedVerdict::Allow),
        "refuse" => Ok(ExpectedVerdict::Refuse),
        _ => match text.strip_prefix("refuse:") {
            Some(word) => reason(word).map(ExpectedVerdict::RefuseFor),
            None => {
                let words = ["allow", "refuse"];
                Err(error(format!("\"{text}\" is nothing that a test can expect"))
                    .with_remedy("\"allow\", \"refuse\" or \"refuse:network\"")
                    .with_remedy_if(did_you_mean(text, words)))
            }
        },
    })
}

/// The word of a refusal that judging can return.
fn reason(word: &str) -> Result<&'static str, Finding> {
    let within = "refuse:".len().."refuse:".len() + word.len();
    let words = TESTABLE_REFUSALS.map(Refusal::word);
    if let Some(known) = words.into_iter().find(|known| *known == word) {
        return Ok(known);
    }
    let known = Refusal::ALL.iter().any(|refusal| refusal.word() == word);
    let fault = match word {
        "" => "the reason is missing".to_owned(),
        _ if known => format!("`{word}` is not for a policy to say"),
        _ => format!("there is no reason `{word}`"),
    };
    let remedy = format!("what judging gives: {}", words.join(", "));
    Err(error(fault)
        .with_remedy(remedy)
        .with_remedy_if(did_you_mean(word, words))
        .with_span(within))
}

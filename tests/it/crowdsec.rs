//! CrowdSec's Local API as a peer: answers that cannot be used, an API that hangs, TLS and Unix
//! sockets. The system suite `crowdsec` has CrowdSec itself.

use std::sync::{Arc, Mutex};

use ::sidegate::admin::wire::{
    BansRequest, CrowdsecAnswer, CrowdsecRequest, UnbanRequest, WarningKind,
};

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Tunnel};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::{certificate, within};

const KEY: &str = "a-key";
const BANNED: &str = "192.0.2.7";

/// What a Local API answers now. `None` means nothing at all.
type Script = Arc<Mutex<Option<String>>>;

/// The head and body of an answer with these decisions.
fn answer(new: &str) -> String {
    let body = format!("{{\"new\":[{new}],\"deleted\":null}}");
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn decision() -> String {
    format!(
        r#"{{"id":1,"duration":"1h","origin":"cscli","scenario":"manual","scope":"Ip",
           "type":"ban","value":"{BANNED}"}}"#
    )
}

/// A Local API that answers each request by the script, and closes.
fn api(script: &Script) -> backend::Builder {
    let script = Arc::clone(script);
    backend::raw(move |mut wire| {
        let script = Arc::clone(&script);
        async move {
            let Some(_) = wire.try_head().await else { return };
            let answer = script.lock().unwrap().clone();
            match answer {
                Some(answer) => wire.send(answer).await,
                None => std::future::pending().await,
            }
        }
    })
}

/// An agent that polls the API at this URL, with more keys of `[crowdsec]`.
fn polling(url: &str, keys: &str) -> Builder {
    let table = format!("crowdsec = {{ url = '{url}', key = {{ file = 'crowdsec.key' }}{keys} }}");
    let agent = sidegate::new().toml(&format!("process.state = 'off'\n{table}"));
    agent.file("crowdsec.key", KEY)
}

async fn state_when(
    sidegate: &Sidegate,
    what: &str,
    is_so: impl Fn(&CrowdsecAnswer) -> bool,
) -> CrowdsecAnswer {
    let looked = async {
        loop {
            let state = sidegate.answer_to(&CrowdsecRequest::default()).await;
            if is_so(&state) {
                return state;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(what, looked).await
}

async fn targets(sidegate: &Sidegate) -> Vec<String> {
    let answer = sidegate.answer_to(&BansRequest).await;
    answer.bans.into_iter().map(|ban| ban.target).collect()
}

#[tokio::test]
async fn answer_that_cannot_be_used_changes_no_ban() {
    let script = Script::new(Some(answer(&decision())).into());
    let api = api(&script).run().await;
    let sidegate = polling(api.address(), ", interval = '1s'").run().await;
    state_when(&sidegate, "a ban", |state| state.bans == 1).await;
    *script.lock().unwrap() = Some("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".into());
    let state = state_when(&sidegate, "a fault", |state| state.fault.is_some()).await;
    assert_eq!(state.fault.as_deref(), Some("it answers 500"));
    assert_eq!((state.bans, targets(&sidegate).await), (1, vec![BANNED.to_owned()]));
    *script.lock().unwrap() = Some(answer(""));
    let state = state_when(&sidegate, "an answer", |state| state.bans == 0).await;
    assert_eq!(state.fault, None);
    assert!(api.heads().iter().all(|head| head.all("x-api-key") == [KEY]));
}

#[tokio::test]
async fn hanging_api_delays_no_order() {
    let script = Script::new(Some(answer(&decision())).into());
    let api = api(&script).run().await;
    let sidegate = polling(api.address(), "").run().await;
    state_when(&sidegate, "a ban", |state| state.bans == 1).await;
    api.head().await;
    *script.lock().unwrap() = None;
    // A key that was rotated is tried at once.
    sidegate.write("crowdsec.key", "another-key\n").await;
    assert_eq!(api.head().await.all("x-api-key"), ["another-key"]);
    let lifted = UnbanRequest { client: Some(BANNED.into()), ..UnbanRequest::default() };
    sidegate.answer_to(&lifted).await;
    let is_lifted = |state: &CrowdsecAnswer| {
        state.refused_counts.iter().any(|one| (&*one.reason, one.decisions) == ("lifted", 1))
    };
    state_when(&sidegate, "the lifted decision", is_lifted).await;
    let remove = |toml: &mut toml::Table| drop(toml.remove("crowdsec"));
    sidegate.reconfigure(remove).await;
    state_when(&sidegate, "CrowdSec off", |state| state.url.is_none()).await;
}

async fn expect_fault(url: &str, keys: &str, says: &str) {
    let sidegate = polling(url, keys).file("ca.pem", certificate::authority_pem()).run().await;
    let state =
        state_when(&sidegate, says, |state| state.fault.is_some() || state.answered.is_some())
            .await;
    assert!(state.fault.as_ref().is_some_and(|fault| fault.contains(says)), "{:?}", state.fault);
    assert!(state.answered.is_none() && state.bans == 0);
}

#[tokio::test]
async fn api_over_tls_has_a_certificate_that_is_trusted() {
    let script = Script::new(Some(answer(&decision())).into());
    let over_tls =
        async |name: &str| api(&script).tls(certificate::server(&[name], false)).run().await;
    let api = over_tls("127.0.0.1").await;
    let trusting = polling(api.address(), ", ca = 'ca.pem'");
    let sidegate = trusting.file("ca.pem", certificate::authority_pem()).run().await;
    state_when(&sidegate, "a ban", |state| state.bans == 1).await;
    let heads = api.heads().len();
    expect_fault(api.address(), "", "not signed by a trusted CA").await;
    assert_eq!(api.heads().len(), heads, "the key went to an API that is not trusted");
    let other: Backend = over_tls("lapi.example").await;
    let says = "for lapi.example, not for 127.0.0.1";
    expect_fault(other.address(), ", ca = 'ca.pem'", says).await;
}

#[tokio::test]
async fn api_answers_at_a_unix_socket_too() {
    let script = Script::new(Some(answer(&decision())).into());
    let api = api(&script).unix().run().await;
    let sidegate = polling(api.address(), "").run().await;
    state_when(&sidegate, "a ban", |state| state.bans == 1).await;
    assert_eq!(api.head().await.header("host"), Some("localhost"));
}

fn range(network: &str) -> String {
    decision().replace("\"Ip\"", "\"Range\"").replace(BANNED, network)
}

/// An agent that polls each second, believes its clients' names, and keeps what it knows.
fn crowded(url: &str, backend: &Backend) -> Builder {
    let table = format!(
        "crowdsec = {{ url = '{url}', key = {{ file = 'crowdsec.key' }}, interval = '1s' }}"
    );
    let believed = "forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1'] }";
    let settings = format!("process.state = 'state'\nreload.revoke_spread = '0s'\n{table}");
    let agent = sidegate::new().clear().route("/", backend).on_listener(believed);
    agent.toml(&settings).file("crowdsec.key", KEY)
}

async fn open(sidegate: &Sidegate, client: &str) -> Tunnel {
    client::new(sidegate).header("X-Forwarded-For", client).open("/").await
}

async fn accept(sidegate: &Sidegate, digest: &str) -> CrowdsecAnswer {
    let accept_held = Some(digest.to_owned());
    sidegate.answer_to(&CrowdsecRequest { accept_held }).await
}

#[tokio::test]
async fn held_ban_holds_once_more_neighbours_are_there() {
    let (echo, script) = (backend::echo().run().await, Script::new(Some(answer("")).into()));
    let api = api(&script).run().await;
    let sidegate = crowded(api.address(), &echo).run().await;
    let mut one = open(&sidegate, "198.51.100.1").await;
    let mut attacker = open(&sidegate, BANNED).await;
    let other = open(&sidegate, "198.51.100.2").await;
    let new = [range("198.51.100.0/24"), decision(), range("203.0.113.0/24")].join(",");
    *script.lock().unwrap() = Some(answer(&new));
    let state = state_when(&sidegate, "a held ban", |state| state.held == 1).await;
    attacker.expect_close_with(1008, "banned").await;
    assert_eq!((&*state.held_bans[0].target, state.held_clients), ("198.51.100.0/24", 2));
    assert_eq!(targets(&sidegate).await, [BANNED, "203.0.113.0/24"], "the others hold");
    one.expect_echo("held").await;
    let mut neighbours = Vec::new();
    for at in 1..=9 {
        neighbours.push(open(&sidegate, &format!("10.0.0.{at}")).await);
    }
    state_when(&sidegate, "no held ban", |state| (state.held, state.bans) == (0, 3)).await;
    one.expect_close_with(1008, "banned").await;
    neighbours[0].expect_echo("untouched").await;
    drop(other);
}

#[tokio::test]
async fn held_bans_are_accepted_as_they_were_shown() {
    let (echo, script) = (backend::echo().run().await, Script::new(Some(answer("")).into()));
    let api = api(&script).run().await;
    let sidegate = crowded(api.address(), &echo).run().await;
    let mut tunnels = Vec::new();
    for client in ["198.51.100.1", "198.51.100.2", "203.0.113.1", "203.0.113.2"] {
        tunnels.push(open(&sidegate, client).await);
    }
    *script.lock().unwrap() = Some(answer(&range("198.51.100.0/24")));
    let one = state_when(&sidegate, "a held ban", |state| state.held == 1).await;
    let both = [range("198.51.100.0/24"), range("203.0.113.0/24")].join(",");
    *script.lock().unwrap() = Some(answer(&both));
    state_when(&sidegate, "two held bans", |state| state.held == 2).await;
    let refused = accept(&sidegate, one.held_digest.as_deref().unwrap()).await;
    assert!(!refused.accepted && refused.bans == 0);
    assert_eq!((refused.held, refused.held_revoked, refused.open), (2, 4, 4));
    *script.lock().unwrap() = Some(answer(&range("198.51.100.0/24")));
    let state = state_when(&sidegate, "one held ban", |state| state.held == 1).await;
    assert!(accept(&sidegate, state.held_digest.as_deref().unwrap()).await.accepted);
    tunnels[0].expect_close_with(1008, "banned").await;
    tunnels[2].expect_echo("untouched").await;
    state_when(&sidegate, "no held ban", |state| (state.held, state.bans) == (0, 1)).await;
    assert!(!accept(&sidegate, state.held_digest.as_deref().unwrap()).await.accepted);
}

#[tokio::test]
async fn held_ban_stays_held_over_a_restart() {
    let (echo, script) = (backend::echo().run().await, Script::new(Some(answer("")).into()));
    let api = api(&script).run().await;
    let mut sidegate = crowded(api.address(), &echo).run().await;
    let tunnels = [open(&sidegate, "198.51.100.1").await, open(&sidegate, "198.51.100.2").await];
    let new = [range("198.51.100.0/24"), decision()].join(",");
    *script.lock().unwrap() = Some(answer(&new));
    let before = state_when(&sidegate, "a held ban", |state| state.held == 1).await;
    let path = sidegate.folder().join("state/crowdsec.json");
    let kept = || std::fs::read_to_string(&path).unwrap_or_default();
    let is_written = async {
        while !kept().contains("\"held\":[\"198.51.100.0/24\"]") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within("the file", is_written).await;
    // A drain ends the tunnels, which lets no held ban hold: it looks at them each second.
    sidegate.drain().await;
    let polls = api.heads().len() + 3;
    let looked = async {
        while api.heads().len() < polls {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within("three polls", looked).await;
    drop(tunnels);
    sidegate.ended().await;
    let again = crowded(api.address(), &echo).file("state/crowdsec.json", &kept()).run().await;
    assert_eq!(targets(&again).await, [BANNED]);
    open(&again, "198.51.100.1").await.expect_echo("admitted").await;
    let answered = |state: &CrowdsecAnswer| state.answered.is_some() && state.held == 1;
    let state = state_when(&again, "a held ban after the restart", answered).await;
    assert_eq!((state.held_digest, state.bans), (before.held_digest, 1));
    *script.lock().unwrap() = Some(answer(""));
    state_when(&again, "the API takes it back", |state| (state.held, state.bans) == (0, 0)).await;
}

#[tokio::test]
async fn failing_poll_is_told_by_the_status_at_once() {
    let script = Script::new(Some("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".into()).into());
    let api = api(&script).run().await;
    let sidegate = polling(api.address(), ", interval = '1s', max_age = '1h'").run().await;
    state_when(&sidegate, "a fault", |state| state.fault.is_some()).await;
    let warned = async |sidegate: &Sidegate| {
        let warnings = sidegate.status().await.warnings;
        warnings.into_iter().find(|one| one.word == WarningKind::Crowdsec)
    };
    let sentence = warned(&sidegate).await.unwrap().sentence;
    assert!(sentence.contains("failed: it refuses the key (403)"), "{sentence}");
    *script.lock().unwrap() = Some(answer(""));
    state_when(&sidegate, "an answer", |state| state.answered.is_some()).await;
    assert_eq!(warned(&sidegate).await, None);
}

//! The recent decisions: `sidegate explain --request`, `sidegate refused`, and their requests.

use ::sidegate::admin::wire::{
    BanRequest, DecisionResult, DecisionsRequest, RefusalsRequest, RefusedAnswer, UnbanRequest,
};
use serde_json::Value;

use crate::cli::done;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{Answer, lossy};
use crate::harness::{backend, client, sidegate};

const PARTNERS: &[&str] = &["127.0.0.0/8 owner=acme", "!127.0.0.66 ticket=SEC-7"];

/// An agent that admits all loopback addresses but 127.0.0.66.
fn files() -> sidegate::Builder {
    sidegate::new().clear().policy(|page| page.list("partners", PARTNERS).allow_only("partners"))
}

/// The request id in the body of a refusal, all that a screenshot shows.
fn id_of(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.text()).unwrap();
    body["request_id"].as_str().unwrap().to_owned()
}

async fn refused(sidegate: &Sidegate) -> RefusedAnswer {
    sidegate.answer_to(&RefusalsRequest::default()).await
}

/// Runs a command for this agent, which ends with this code. Returns both of its outputs.
async fn command(sidegate: &Sidegate, arguments: &[&str], code: i32) -> String {
    let all = [arguments, &["--config", "sidegate.toml"]].concat();
    let output = done(&all, sidegate.folder()).await;
    let text = lossy(&output.stdout).to_string() + &lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

#[tokio::test]
async fn request_id_of_a_refusal_leads_to_its_entry() {
    let backend = backend::echo().run().await;
    let sidegate = files().route("/chat", &backend).run().await;
    let answer = client::new(&sidegate).from("127.0.0.66").attempt("/chat").await;
    let id = id_of(answer.expect_refused(403, "network"));
    // Another generation, in which the line is gone: the answer is that of the request's own.
    let text = "schema = 1\nclient.allow = ['any']\n";
    assert_eq!(sidegate.write("policies/default.toml", text).await, 2);
    let said = command(&sidegate, &["explain", "--request", &id], 1).await;
    for part in [
        "refused: network (403)",
        "client    127.0.0.66",
        "asked     upgrade localhost/chat at public",
        "policy    default, generation 1",
        "client.allow at policies/default.toml:",
        "!127.0.0.66 of partners at policies/default.toml:",
        "ticket    SEC-7",
        "127.0.0.0/8 would admit the client",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let copied = format!("\"{}\",", id.to_uppercase());
    let again = command(&sidegate, &["explain", "--request", &copied], 1).await;
    assert!(again.contains("refused: network (403)"), "{again}");
    let json = command(&sidegate, &["explain", "--request", &id, "--json"], 1).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["decisions"][0]["by"]["ticket"], "SEC-7");
}

#[tokio::test]
async fn request_id_of_a_refusal_leads_to_a_ban_that_is_over() {
    let backend = backend::echo().run().await;
    let named = "forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1'] }";
    let sidegate = files().route("/chat", &backend).on_listener(named).run().await;
    let (client, why) = (Some("203.0.113.9".to_owned()), "INC-7".to_owned());
    sidegate.answer_to(&BanRequest { client: client.clone(), why, ..BanRequest::default() }).await;
    let reader = client::new(&sidegate).header("X-Forwarded-For", "203.0.113.9");
    let id = id_of(reader.attempt("/chat").await.expect_refused(403, "banned"));
    sidegate.answer_to(&UnbanRequest { client, ..UnbanRequest::default() }).await;
    let said = command(&sidegate, &["explain", "--request", &id], 1).await;
    for part in
        ["refused: banned (403)", "ban       203.0.113.9 ", "by operator", "why       INC-7"]
    {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[tokio::test]
async fn permitted_requests_are_found_by_their_id() {
    let backend = backend::echo().run().await;
    let sidegate = files().route("/chat", &backend).run().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo("open").await;
    let id = backend.head().await.header("x-request-id").unwrap().to_owned();
    let said = command(&sidegate, &["explain", "--request", &id], 0).await;
    assert!(said.starts_with("permitted (101)") && said.contains("127.0.0.0/8 of"), "{said}");
    assert!(said.contains("owner     acme"), "{said}");
}

#[tokio::test]
async fn unknown_id_says_how_far_back_decisions_go() {
    let sidegate = files().route("/chat", &backend::refusing()).run().await;
    let said = command(&sidegate, &["explain", "--request", "0000"], 1).await;
    assert!(said.contains("refusals are kept since 20") && said.contains("see the log"), "{said}");
    let said = command(&sidegate, &["explain", "--request", ""], 1).await;
    assert!(said.contains("`request` is empty"), "{said}");
}

#[tokio::test]
async fn id_of_a_listed_peer_may_repeat_and_all_are_shown() {
    let backend = backend::echo().run().await;
    let sidegate = files()
        .on_listener("forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1'] }")
        .route("/chat", &backend)
        .run()
        .await;
    let peer = client::new(&sidegate).header("X-Request-Id", "same");
    for named in ["127.0.0.66", "192.0.2.1"] {
        let peer = peer.clone().header("X-Forwarded-For", named);
        assert_eq!(id_of(peer.attempt("/chat").await.expect_refused(403, "network")), "same");
    }
    let found = sidegate.answer_to(&DecisionsRequest { request: "same".into() }).await;
    let clients: Vec<_> = found.decisions.iter().map(|one| (&*one.client, &*one.peer)).collect();
    assert_eq!(clients, [("192.0.2.1", "127.0.0.1"), ("127.0.0.66", "127.0.0.1")]);
    assert_eq!((found.matching, &found.decisions[0].by), (2, &None));
    let said = command(&sidegate, &["explain", "--request", "same"], 1).await;
    assert!(said.contains("named by the peer 127.0.0.1"), "{said}");
    assert!(said.ends_with("2 decisions with this id, the newest first\n"), "{said}");
}

#[tokio::test]
async fn refused_counts_every_refusal_by_client_and_rule() {
    let backend = backend::echo().run().await;
    let sidegate = files().route("/chat", &backend).threads(2).run().await;
    for _ in 0..3 {
        client::new(&sidegate).from("127.0.0.66").attempt("/chat").await.expect(403);
    }
    client::new(&sidegate).from("127.0.0.5").attempt("/nowhere").await.expect(404);
    let found = refused(&sidegate).await;
    assert_eq!((found.refused, found.refused_clients), (4, 2));
    let clients: Vec<_> = found.clients.iter().map(|one| (&*one.client, one.refused)).collect();
    assert_eq!(clients, [("127.0.0.66", 3), ("127.0.0.5", 1)]);
    let reasons: Vec<_> = found.reasons.iter().map(|one| (&*one.reason, one.refused)).collect();
    assert_eq!(reasons, [("network", 3), ("route", 1)]);
    let rule = &found.rules[0];
    assert_eq!((rule.entry.as_deref(), rule.refused), (Some("!127.0.0.66"), 3));
    let said = command(&sidegate, &["refused", "--last", "1h"], 0).await;
    assert!(said.starts_with("4 refusals of 2 clients since 20"), "{said}");
    assert!(said.contains("less than was asked for"), "{said}");
    let json = command(&sidegate, &["refused", "--top", "1", "--json"], 0).await;
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap()["clients"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn refusals_before_tls_are_counted_without_an_id() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .file(
            "policies/baseline.toml",
            "schema = 1\nclient.deny = ['bad']\nlists.bad = ['127.0.0.9']\n",
        )
        .run()
        .await;
    assert!(client::new(&sidegate).from("127.0.0.9").try_connect().await.is_err());
    let found = refused(&sidegate).await;
    assert_eq!((found.refused, &found.clients[0].request_id), (1, &None));
    assert_eq!((&*found.clients[0].client, &*found.rules[0].policy), ("127.0.0.9", "baseline"));
    assert_eq!(found.rules[0].entry.as_deref(), Some("127.0.0.9"));
}

#[tokio::test]
async fn bounds_drop_the_oldest_and_say_so() {
    let sidegate = files()
        .toml("admin.recent_decisions = 4")
        .threads(1)
        .route("/chat", &backend::refusing())
        .run()
        .await;
    let client = client::new(&sidegate).from("127.0.0.66");
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(id_of(client.attempt("/chat").await.expect(403)));
    }
    let found = refused(&sidegate).await;
    assert_eq!((found.refused, found.since), (2, found.kept_since));
    let kept = async |id: &String| {
        sidegate.answer_to(&DecisionsRequest { request: id.clone() }).await.matching
    };
    assert_eq!((kept(&ids[2]).await, kept(&ids[3]).await, kept(&ids[4]).await), (0, 1, 1));
}

#[tokio::test]
async fn decisions_are_switched_off_and_on_by_a_reload() {
    let backend = backend::echo().run().await;
    let sidegate = files().toml("admin.recent_decisions = 0").route("/chat", &backend).run().await;
    client::new(&sidegate).from("127.0.0.66").attempt("/chat").await.expect(403);
    let said = command(&sidegate, &["refused"], 1).await;
    assert!(said.contains("recent decisions are off: set [admin] recent_decisions"), "{said}");
    sidegate
        .reconfigure(|all| {
            all["admin"]["recent_decisions"] = toml::Value::Integer(100);
        })
        .await;
    assert_eq!(refused(&sidegate).await.refused, 0);
    client::new(&sidegate).from("127.0.0.66").attempt("/chat").await.expect(403);
    assert_eq!(refused(&sidegate).await.refused, 1);
}

#[tokio::test]
async fn hostile_texts_are_bounded_and_escaped() {
    let sidegate = files().route("/chat", &backend::refusing()).run().await;
    let path = format!("/\u{1b}[2J{}", "x".repeat(3000));
    let client = client::new(&sidegate).from("127.0.0.66");
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\u{9b}\u{202e}b\r\n\r\n");
    client.send(head).await.expect(400);
    let found = refused(&sidegate).await;
    let id = found.clients[0].request_id.clone();
    let long = format!("/{}", "%1b".repeat(900));
    let id = match id {
        Some(id) => id,
        None => id_of(client.attempt(&long).await.expect(403)),
    };
    let found = sidegate.answer_to(&DecisionsRequest { request: id.clone() }).await;
    assert_eq!(found.decisions[0].result, DecisionResult::Refused);
    assert!(found.decisions[0].path.len() <= 512 && found.decisions[0].host.len() <= 256);
    let said = command(&sidegate, &["explain", "--request", &id], 1).await;
    assert!(!said.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{said:?}");
}

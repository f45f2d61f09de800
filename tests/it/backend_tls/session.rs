//! TLS sessions with backends: resumed from dial to dial and over reloads, as long as trusted
//! authorities and our identity stay the same.

use super::{CA, IDENTITY, agent, echo};
use crate::harness::backend::{self, Backend};
use crate::harness::certificate;
use crate::harness::client;
use crate::harness::sidegate::Sidegate;

/// Opens a tunnel; says whether its dial resumed a session.
async fn resumes(sidegate: &Sidegate, backend: &Backend) -> bool {
    let before = backend.resumed();
    client::new(sidegate).open("/chat").await.expect_echo("through").await;
    backend.resumed() > before
}

/// An agent with these keys, one of whose dials has left a session.
async fn after_a_dial(asks: bool, keys: &str) -> (Sidegate, Backend) {
    let backend = echo(certificate::server(&["127.0.0.1"], asks)).await;
    let sidegate = agent(&backend, keys).await;
    assert!(!resumes(&sidegate, &backend).await);
    (sidegate, backend)
}

#[tokio::test]
async fn second_dial_resumes_the_session_of_the_first() {
    let (sidegate, backend) = after_a_dial(false, CA).await;
    assert!(resumes(&sidegate, &backend).await);
}

#[tokio::test]
async fn unrelated_reload_keeps_sessions() {
    let (sidegate, backend) = after_a_dial(true, IDENTITY).await;
    sidegate.policy().deny("192.0.2.1").write().await;
    assert!(resumes(&sidegate, &backend).await);
    let more = |config: &mut toml::Table| {
        drop(config["route"][0].as_table_mut().unwrap().insert("max_body".into(), "2MiB".into()));
    };
    sidegate.reconfigure(more).await;
    assert!(resumes(&sidegate, &backend).await);
}

#[tokio::test]
async fn a_session_under_former_authorities_is_not_resumed() {
    let (sidegate, backend) = after_a_dial(false, CA).await;
    let more = certificate::authority_pem().to_owned() + &certificate::unknown(&["more"]).chain;
    sidegate.write("certs/backend-ca.pem", &more).await;
    assert!(!resumes(&sidegate, &backend).await);
    assert!(resumes(&sidegate, &backend).await);
}

#[tokio::test]
async fn session_of_a_former_client_certificate_is_not_resumed() {
    let (sidegate, backend) = after_a_dial(true, IDENTITY).await;
    let renewed = certificate::signed(&["sidecar"]);
    sidegate.put("certs/backend-client.key", &renewed.key);
    sidegate.write("certs/backend-client.pem", &renewed.chain).await;
    assert!(!resumes(&sidegate, &backend).await);
}

#[tokio::test]
async fn idle_connections_are_shared_and_outlive_other_reloads() {
    let config = certificate::server(&["127.0.0.1"], false);
    let backend = backend::http(|_| backend::reply(204)).tls(config).run().await;
    let keys = format!("{CA}\nhttp = 'forward'");
    let own = certificate::signed(&["sidecar"]);
    let sidegate =
        super::files(&backend, &keys, &own).route("/feed", &backend).on_route(&keys).run().await;
    client::new(&sidegate).get("/chat").await.expect(204);
    client::new(&sidegate).get("/feed").await.expect(204);
    sidegate.policy().deny("192.0.2.1").write().await;
    client::new(&sidegate).get("/chat").await.expect(204);
    assert_eq!(backend.connections(), 1);
}

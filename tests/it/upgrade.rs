//! From an attempt to an open WebSocket, and every way in which it is refused.

use crate::harness::{backend, client, sidegate};

// C-WS-16
#[tokio::test]
async fn a_good_handshake_opens_a_tunnel_both_ways() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).allow("127.0.0.0/29").run().await;
    let mut client = client::new(&sidegate).from("127.0.0.2").open("/chat").await;
    client.expect_echo("hello").await;
    sidegate.expect_metric("sidegate_tunnels_open", [("route", "chat")], 1).await;
}

#[tokio::test]
async fn a_revoked_client_is_closed_with_1008_and_the_others_stay() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).allow("127.0.0.0/29").run().await;
    let mut leaving = client::new(&sidegate).from("127.0.0.2").open("/chat").await;
    let mut staying = client::new(&sidegate).from("127.0.0.3").open("/chat").await;

    sidegate.policy().allow("127.0.0.3/32").write().await; // returns at the new generation

    leaving.expect_close(1008).await;
    staying.expect_echo("still here").await;
    sidegate.expect_metric("sidegate_tunnels_closed_total", [("reason", "revoked")], 1).await;
}

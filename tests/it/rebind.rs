//! Addresses that change while the agent runs: bound last of all, and given up after the publish.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use ::sidegate::control::reload::Outcome;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::within;

/// Between two looks at something that only can be looked at.
const BETWEEN: Duration = Duration::from_millis(5);

async fn echoing() -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    (sidegate::new().route("/chat", &backend).toml("reload.poll = '100ms'").run().await, backend)
}

/// Writes another address for metrics, and reads the files.
async fn listen(sidegate: &Sidegate, address: &str) -> Outcome {
    let mut config = sidegate.toml();
    config["metrics"].as_table_mut().unwrap().insert("listen".into(), address.into());
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    sidegate.reload().await
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn metrics_move_to_their_new_address_and_leave_the_old_one() {
    let (sidegate, _backend) = echoing().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    let (before, after) = (sidegate.agent().metrics().unwrap(), free());
    let outcome = listen(&sidegate, &after.to_string()).await;
    assert!(matches!(outcome, Outcome::Published { generation: 2, .. }), "{outcome:?}");
    assert_eq!(sidegate.agent().metrics(), Some(after));
    assert_eq!(sidegate.generation().await, 2);
    let closed = async { while TcpStream::connect(before).await.is_ok() {} };
    within("the end of the old address", closed).await;
    tunnel.expect_echo("not my business").await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_rejection_and_tried_again_until_it_is_free() {
    let (sidegate, _backend) = echoing().await;
    let before = sidegate.agent().metrics();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let Outcome::Rejected { errors } = listen(&sidegate, &address.to_string()).await else { panic!("published") };
    let text = errors[0].to_string();
    assert!(
        text.contains("[metrics]") && text.contains(&address.to_string()) && text.contains("something else listens"),
        "{text}"
    );
    assert_eq!(sidegate.agent().metrics(), before);
    assert_eq!(sidegate.generation().await, 1);
    drop(taken);
    let moved = async {
        while sidegate.agent().metrics() != Some(address) {
            sleep(BETWEEN).await;
        }
    };
    within("the new address", moved).await;
    assert_eq!(sidegate.generation().await, 2);
}

#[tokio::test]
async fn metrics_can_be_turned_off_and_on_and_moved_to_a_unix_socket() {
    let (sidegate, _backend) = echoing().await;
    let before = sidegate.agent().metrics().unwrap();
    listen(&sidegate, "off").await;
    assert_eq!(sidegate.agent().metrics(), None);
    within("the end of the old address", async { while TcpStream::connect(before).await.is_ok() {} }).await;
    listen(&sidegate, "unix:metrics.sock").await;
    let path = sidegate.folder().join("metrics.sock");
    within("the Unix socket", async { tokio::net::UnixStream::connect(&path).await.unwrap() }).await;
    listen(&sidegate, "127.0.0.1:0").await;
    assert_eq!(sidegate.generation().await, 4);
    within("the end of the Unix socket", async {
        while path.exists() {
            sleep(BETWEEN).await;
        }
    })
    .await;
}

#[tokio::test]
async fn another_address_with_the_same_port_says_whose_port_it_is() {
    let (sidegate, _backend) = echoing().await;
    let before = free();
    listen(&sidegate, &before.to_string()).await;
    let Outcome::Rejected { errors } = listen(&sidegate, &format!("0.0.0.0:{}", before.port())).await else {
        panic!("published")
    };
    let text = errors[0].to_string();
    assert!(text.contains("sidegate itself"), "{text}");
}

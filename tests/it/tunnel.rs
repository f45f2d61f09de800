//! From the 101 to the end: what passes and is counted, and how each ending looks from both sides
//! (`docs/spec/wire.md`, "Close codes").

mod closing;
mod flow;
mod frames;
mod framing;
mod gone;
mod pulse;
mod rest;
mod turn;
mod violation;

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::{Frame, Wire};

/// A tunnel with both its ends in the test's hand.
pub struct Ends {
    pub sidegate: Sidegate,
    pub client: Wire,
    pub backend: Wire,
    pub server: Backend,
}

/// A tunnel at `/chat` behind what `build` makes of a sidegate.
pub async fn open(build: impl FnOnce(Builder) -> Builder) -> Ends {
    let server = backend::manual().run().await;
    let sidegate = build(sidegate::new().route("/chat", &server)).run().await;
    let (client, backend) = ends(&client::new(&sidegate), &server, "").await;
    Ends { sidegate, client, backend, server }
}

/// One more tunnel: `client`'s end of it and the backend's, whose 101 has these `lines` as well.
pub async fn ends(client: &Client, server: &Backend, lines: &str) -> (Wire, Wire) {
    let granted = async {
        let mut wire = server.accepted().await;
        backend::grant(&mut wire, lines).await;
        wire
    };
    tokio::join!(client.open_wire("/chat"), granted)
}

/// Does the same with a tunnel over TLS and with one in the clear.
async fn both(build: impl Fn(Builder) -> Builder, act: impl AsyncFn(Ends)) {
    act(open(|sidegate| build(sidegate.tls())).await).await;
    act(open(|sidegate| build(sidegate.clear())).await).await;
}

impl Ends {
    /// Asserts that the client gets a Close with `to_client`, the backend one with `to_backend`,
    /// that the connections end when both have answered, and that the tunnel is booked as `ended`.
    async fn expect_closed(
        mut self,
        to_client: (u16, &str),
        to_backend: (u16, &str),
        ended: [&str; 3],
    ) {
        expect_close(&mut self.client, to_client).await;
        expect_close(&mut self.backend, to_backend).await;
        self.expect_over(ended).await;
    }

    /// That, the closing handshake being done, Sidegate ends the client's connection first, and
    /// books the tunnel as `ended`.
    async fn expect_over(mut self, ended: [&str; 3]) {
        self.client.expect_end().await;
        self.client.finish().await;
        self.backend.finish().await;
        self.backend.expect_end().await;
        expect_ended(&self.sidegate, ended).await;
        assert_eq!(self.server.connections(), 1);
    }
}

/// Expects a Close with this code and reason next, and answers it, as a peer does.
async fn expect_close(wire: &mut Wire, (code, reason): (u16, &str)) {
    assert_eq!(wire.frame().await.closes(), Some((code, reason.to_owned())));
    wire.send_frame(Frame::close(code, "")).await;
}

/// Asserts that one tunnel has ended, and by which side, in which phase and for which reason.
pub async fn expect_ended(sidegate: &Sidegate, [by, phase, reason]: [&str; 3]) {
    sidegate.expect_metric("sidegate_tunnels_closed_total", [], 1).await;
    sidegate
        .expect_metric(
            "sidegate_tunnels_closed_total",
            [("by", by), ("phase", phase), ("reason", reason)],
            1,
        )
        .await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
}

//! Corner cases of TLS under a tunnel, by clients that drive TLS themselves: input that must pass
//! however it is cut up, and input that ends its own connection and harms no other.

mod alert;
mod ending;
mod flow;
mod forged;
mod handshake;
mod name;
mod random;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::tls::{self, Client, Forger};
use crate::harness::wire::{Frame, Wire};
use crate::tunnel;

/// An open tunnel with both its ends in the test's hand; `C` is the client's.
struct Edge<C = Client> {
    sidegate: Sidegate,
    server: Backend,
    client: C,
    backend: Wire,
}

/// A sidegate with a backend at `/chat`.
async fn agent() -> (Sidegate, Backend) {
    let server = backend::manual().run().await;
    (sidegate::new().route("/chat", &server).run().await, server)
}

/// A tunnel over this version of TLS; `early` goes out right behind the request, ciphertext in
/// `pieces`.
async fn edge(version: &'static SupportedProtocolVersion, pieces: usize, early: &[u8]) -> Edge {
    let (sidegate, server) = agent().await;
    let mut client = tls::begin(&sidegate, version).await;
    client.pieces = pieces;
    let backend = opened(&mut client, &server, early).await;
    Edge { sidegate, server, client, backend }
}

/// A tunnel over this version of TLS whose client seals its records by hand.
async fn forged(version: &'static SupportedProtocolVersion) -> Edge<Forger> {
    let Edge { sidegate, server, client, backend } = edge(version, usize::MAX, b"").await;
    Edge { sidegate, server, client: client.forge(), backend }
}

/// Opens a tunnel: the backend's end of it.
async fn opened(client: &mut Client, server: &Backend, early: &[u8]) -> Wire {
    client.attempt(early).await;
    tokio::join!(client.expect_101(), granted(server)).1
}

/// The backend's end of the next tunnel.
async fn granted(server: &Backend) -> Wire {
    let mut wire = server.accepted().await;
    backend::grant(&mut wire, "").await;
    wire
}

/// A message of this size, no two bytes in a row alike.
fn message(size: usize) -> Frame {
    Frame::binary((0..size).map(|at| (at * 7 + at / 251) as u8).collect::<Vec<_>>())
}

impl Edge {
    /// Sends a message each way, of this size.
    async fn expect_both_ways(&mut self, size: usize) {
        let frame = message(size);
        let (up, down) = (frame.encode(true), frame.encode(false));
        let (client, backend) = (&mut self.client, &mut self.backend);
        let sent = async {
            client.send(&up).await;
            assert!(client.bytes(down.len()).await == down);
        };
        let echoed = async {
            assert!(backend.frame().await == frame);
            backend.send(&down).await;
        };
        tokio::join!(sent, echoed);
    }
}

impl Edge<Forger> {
    /// Sends records as they are, and expects this message at the backend next.
    async fn expect_up(&mut self, records: &[u8], frame: &Frame) {
        self.client.send_below(records).await;
        assert!(self.backend.frame().await == *frame);
    }

    /// Sends a message down.
    async fn expect_down(&mut self, text: &str) {
        let frame = Frame::text(text);
        self.backend.send_frame(frame.clone()).await;
        let down = frame.encode(false);
        assert_eq!(self.client.bytes(down.len()).await, down);
    }

    /// Asserts that the connection ends, after a fatal alert with this number if one is due (RFC
    /// 8446 §6.2), and that no other client notices.
    async fn expect_over(mut self, alert: Option<u8>) {
        assert_eq!(self.client.last_alert().await, alert.map(|number| [2, number]));
        self.expect_gone().await;
    }
}

impl<C> Edge<C> {
    /// Asserts that the tunnel ends as for a client that is gone, that the backend gets nothing
    /// more, and that no other client notices.
    async fn expect_gone(mut self) {
        self.backend.expect_end().await;
        drop(self.backend);
        tunnel::expect_ended(&self.sidegate, ["client", "open", "client_gone"]).await;
        expect_unharmed(&self.sidegate, &self.server).await;
    }
}

/// Asserts that others are served as before, and nothing has panicked.
async fn expect_unharmed(sidegate: &Sidegate, server: &Backend) {
    let (mut client, mut backend) = tunnel::ends(&client::new(sidegate), server, "").await;
    client.send_frame(Frame::text("others live on")).await;
    assert_eq!(backend.frame().await, Frame::text("others live on"));
    sidegate.expect_metric("sidegate_panics_total", [], 0).await;
}

/// Asserts that one TLS handshake has failed, and that no other client notices.
async fn expect_failed(sidegate: &Sidegate, server: &Backend) {
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "failed")], 1).await;
    expect_unharmed(sidegate, server).await;
}

//! The end of the process: requests refused, exchanges that may finish, tunnels told to go, and
//! connections cut.

use std::time::{Duration, Instant};

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::tls;
use crate::harness::wire::{Frame, Wire};
use crate::harness::within;
use crate::tunnel::{Ends, ends, open};

/// An echo backend, and a sidegate with these `[shutdown]` keys.
async fn echoing(shutdown: &str) -> (Sidegate, Client, Backend) {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .toml(&format!("[shutdown]\n{shutdown}"))
        .run()
        .await;
    let client = client::new(&sidegate);
    (sidegate, client, backend)
}

/// A plain request that waits for its backend: the client's end, and the backend's.
async fn waiting(sidegate: &Sidegate, server: &Backend) -> (Wire, Wire) {
    let client = client::new(sidegate);
    let mut wire = client.connect().await;
    wire.send(client.request("GET /chat HTTP/1.1", "")).await;
    let mut at_backend = server.accepted().await;
    at_backend.head().await;
    (wire, at_backend)
}

// C-LIFE-02, C-LIFE-07
#[tokio::test]
async fn drain_closes_tunnels_with_1001_and_ends_after_them() {
    for tls in [true, false] {
        let build = |sidegate: sidegate::Builder| if tls { sidegate } else { sidegate.clear() };
        let Ends { mut sidegate, mut client, mut backend, .. } = open(build).await;
        let began = Instant::now();
        sidegate.drain().await;
        for wire in [&mut client, &mut backend] {
            assert_eq!(wire.frame().await, Frame::close(1001, "drain"));
            wire.send_frame(Frame::close(1001, "")).await;
        }
        client.expect_end().await;
        drop((client, backend));
        sidegate.ended().await;
        assert!(began.elapsed() < Duration::from_secs(3), "it waited for the deadline");
    }
}

#[tokio::test]
async fn drain_code_is_configurable_for_clients_only() {
    let Ends { sidegate, mut client, mut backend, .. } =
        open(|sidegate| sidegate.toml("shutdown.code = 1012")).await;
    sidegate.drain().await;
    assert_eq!(client.frame().await, Frame::close(1012, "drain"));
    assert_eq!(backend.frame().await, Frame::close(1001, "drain"));
}

#[tokio::test]
async fn drain_is_recorded_as_the_close_reason() {
    let Ends { sidegate, mut client, mut backend, server } = open(|sidegate| sidegate).await;
    // It is in no hurry, and the process waits for it.
    let _other = ends(&client::new(&sidegate), &server, "").await;
    sidegate.drain().await;
    for wire in [&mut client, &mut backend] {
        assert_eq!(wire.frame().await, Frame::close(1001, "drain"));
    }
    drop((client, backend));
    let of = [("by", "sidegate"), ("phase", "closing"), ("reason", "drain")];
    sidegate.expect_metric("sidegate_tunnels_closed_total", of, 1).await;
}

// C-LIFE-01, F18
#[tokio::test]
async fn readyz_is_503_at_once_and_accepting_stops_after_the_delay() {
    let (mut sidegate, client, _backend) = echoing("delay = '700ms'").await;
    let mut before = client.open("/chat").await;
    sidegate.drain().await;
    sidegate.expect_metric("sidegate_draining", [], 1).await;
    let (status, body) = sidegate.readyz().await;
    assert!(status == 503 && body.contains("draining"), "{status} {body}");
    assert_eq!(sidegate.ask("/livez").await.0, 200);
    client.open("/chat").await.expect_echo("in the delay all goes on").await;
    before.expect_echo("here too").await;
    before.expect_close_with(1001, "drain").await;
    assert!(
        within("a connection attempt", tokio::net::TcpStream::connect(sidegate.address()))
            .await
            .is_err()
    );
    sidegate.ended().await;
}

// F18
#[tokio::test]
async fn accepting_stops_at_once_without_a_delay() {
    let Ends { sidegate, client: _client, backend: _backend, .. } = open(|sidegate| sidegate).await;
    let began = Instant::now();
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

// C-LIFE-02
#[tokio::test]
async fn tunnel_ends_are_spread_over_the_window() {
    let (mut sidegate, client, _backend) = echoing("spread = '600ms'").await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(client.open("/chat").await);
    }
    sidegate.drain().await;
    let closes = open.iter_mut().map(|tunnel| async {
        tunnel.expect_close_with(1001, "drain").await;
        Instant::now()
    });
    let mut closed = futures_util::future::join_all(closes).await;
    closed.sort();
    let spread = closed[5] - closed[0];
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&spread), "{spread:?}");
    sidegate.ended().await;
}

// C-LIFE-01
#[tokio::test]
async fn request_in_a_drain_is_answered_and_its_connection_closed() {
    let server = backend::manual().run().await;
    let mut sidegate =
        sidegate::new().route("/chat", &server).on_route("http = 'forward'").run().await;
    let (mut wire, mut at_backend) = waiting(&sidegate, &server).await;
    let began = Instant::now();
    sidegate.drain().await;
    sidegate.expect_metric("sidegate_draining", [], 1).await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo").await;
    at_backend.send("ne").await;
    let answer = wire.answer().await;
    answer.expect(200).expect_header("connection", "close");
    assert_eq!(answer.text(), "done");
    wire.expect_end().await;
    // The backend would have kept its connection for the next one.
    at_backend.expect_end().await;
    sidegate.ended().await;
    assert!(began.elapsed() < Duration::from_secs(3), "it waited for the deadline");
}

#[tokio::test]
async fn drain_closes_idle_connections_at_once_and_silent_ones_soon() {
    let (mut sidegate, client, _backend) = echoing("").await;
    let (mut silent, mut kept) = (client.connect().await, client.connect().await);
    kept.send(client.request("GET /chat HTTP/1.1", "")).await;
    kept.answer().await.expect(426);
    let began = Instant::now();
    sidegate.drain().await;
    kept.expect_end().await;
    assert!(began.elapsed() < Duration::from_millis(1500));
    silent.expect_end().await;
    sidegate.ended().await;
    assert!(began.elapsed() < Duration::from_secs(6), "it waited for a head until the timeout");
}

#[tokio::test]
async fn tls_handshake_delays_a_drain_no_longer_than_a_head() {
    let one = "handshakes_per_client = { rate = '1/m', burst = 2 }";
    for (said, waits) in [(0, false), (3, false), (100, false), (usize::MAX, true)] {
        let backend = backend::echo().run().await;
        let sidegate =
            sidegate::new().route("/chat", &backend).on_listener(one).timeouts("tls = '1h'");
        let mut sidegate = sidegate.run().await;
        let mut wires = Vec::new();
        let mut hello = tls::begin(&sidegate, &rustls::version::TLS13).await;
        if waits {
            // They use the rate up.
            for _ in 0..2 {
                wires.push(client::new(&sidegate).connect().await);
            }
        }
        let hello = hello.outgoing();
        let mut below = client::new(&sidegate).connect_below_tls().await;
        below.send(&hello[..said.min(hello.len())]).await;
        wires.push(below);
        let open = u32::try_from(wires.len() + 1).unwrap();
        sidegate.expect_metric("sidegate_connections_open", [], open).await;
        let began = Instant::now();
        sidegate.drain().await;
        for wire in &mut wires {
            wire.expect_end().await;
        }
        sidegate.ended().await;
        let took = began.elapsed();
        assert!(took > Duration::from_secs(1) && took < Duration::from_secs(6), "{said}: {took:?}");
    }
}

#[tokio::test]
async fn tls_handshake_that_ends_in_a_drain_is_followed_by_an_answer() {
    let (sidegate, client, _backend) = echoing("").await;
    let mut late = tls::begin(&sidegate, &rustls::version::TLS13).await;
    let hello = late.outgoing();
    late.send_below(&hello[..60]).await;
    client.get("/chat").await; // The one thread has read the part before.
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    late.send_below(&hello[60..]).await;
    late.attempt(b"").await;
    assert!(late.fill().await.unwrap());
    let answer = late.bytes(12).await;
    assert_eq!(answer, b"HTTP/1.1 503");
}

#[tokio::test]
async fn drain_revokes_tunnels_that_wait_to_be_revoked() {
    let window = "reload.revoke_spread = '1h'";
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).toml(window);
    let mut sidegate = sidegate.run().await;
    let mut open = Vec::new();
    for from in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        open.push(client::new(&sidegate).from(from).open("/chat").await);
    }
    // Half a head keeps the drain from its end until the metrics are read.
    let mut half = client::new(&sidegate).from("127.0.0.4").connect().await;
    half.send("GET / HTTP/1.1\r\n").await;
    sidegate.expect_metric("sidegate_connections_open", [("listener", "public")], 5).await;
    sidegate.policy().deny("127.0.0.1").deny("127.0.0.2").deny("127.0.0.3").write().await;
    sidegate.drain().await;
    for (at, tunnel) in open.iter_mut().enumerate() {
        match at {
            3 => tunnel.expect_close_with(1001, "drain").await,
            _ => tunnel.expect_close_with(1008, "network").await,
        }
    }
    for (reason, count) in [("revoked", 3), ("drain", 1)] {
        let of = [("phase", "closing"), ("reason", reason)];
        sidegate.expect_metric("sidegate_tunnels_closed_total", of, count).await;
    }
    drop((open, half));
    sidegate.ended().await;
}

#[tokio::test]
async fn drain_cuts_exchanges_that_wait_to_be_revoked() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).on_route("http = 'forward'");
    let sidegate = sidegate.toml("reload.revoke_spread = '1h'").run().await;
    let mut open = Vec::new();
    for begun in [false, true, true] {
        let (mut wire, mut at_backend) = waiting(&sidegate, &server).await;
        if begun {
            at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await;
            wire.head().await;
        }
        open.push((wire, at_backend));
    }
    // Half a head keeps the drain from its end until the metrics are read.
    let mut half = client::new(&sidegate).connect().await;
    half.send("GET / HTTP/1.1\r\n").await;
    sidegate.expect_metric("sidegate_connections_open", [("listener", "public")], 4).await;
    sidegate.policy().deny("127.0.0.1").write().await;
    sidegate.drain().await;
    // One of them is the first of the window, and revoked before the drain.
    for (at, (wire, _)) in open.iter_mut().enumerate() {
        match at {
            0 => drop(wire.answer().await.expect_refused(403, "network")),
            _ => drop(wire.rest().await),
        }
    }
    let revoked = [("reason", "revoked")];
    sidegate.expect_metric("sidegate_exchanges_closed_total", revoked, 3).await;
}

#[tokio::test]
async fn connection_accepted_before_a_drain_is_answered() {
    let (sidegate, client, _backend) = echoing("").await;
    let mut wire = client.connect().await;
    sidegate.expect_metric("sidegate_connections_open", [("listener", "public")], 1).await;
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    wire.send(client.attempt_head("/chat", "")).await;
    wire.answer().await.expect_refused(503, "draining").expect_header("connection", "close");
}

#[tokio::test]
async fn attempt_in_a_drain_is_refused_with_retry_after() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let client = client::new(&sidegate);
    let head = client.attempt_head("/chat", "");
    let mut wire = client.connect().await;
    // Half a head, so that the connection is not idle.
    wire.send(&head[..40]).await;
    client.get("/chat").await; // The one thread that answers this has read the half before.
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    wire.send(&head[40..]).await;
    let answer = wire.answer().await;
    answer.expect_refused(503, "draining").expect_header("connection", "close");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 5);
    wire.expect_end().await;
    server.expect_untouched();
}

// C-LIFE-07
#[tokio::test]
async fn attempt_overtaken_by_a_drain_opens_and_is_closed() {
    let server = backend::manual().run().await;
    let mut sidegate = sidegate::new().route("/chat", &server).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.attempt_head("/chat", "")).await;
    let mut at_backend = server.accepted().await;
    at_backend.readable().await;
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    backend::grant(&mut at_backend, "").await;
    wire.answer().await.expect(101);
    for wire in [&mut wire, &mut at_backend] {
        assert_eq!(wire.frame().await, Frame::close(1001, "drain"));
    }
    drop((wire, at_backend));
    sidegate.ended().await;
}

// C-LIFE-02
#[tokio::test]
async fn tunnels_are_cut_at_the_drain_deadline() {
    let Ends { mut sidegate, mut client, mut backend, server } =
        open(|sidegate| sidegate.toml("shutdown = { spread = '0s', deadline = '400ms' }")).await;
    // In the middle of a frame, so that no Close can be put.
    backend.send(&Frame::binary(vec![7; 1000]).encode(false)[..600]).await;
    client.bytes(600).await;
    let plain = waiting_elsewhere(&sidegate).await;
    let began = Instant::now();
    sidegate.drain().await;
    client.expect_end().await;
    sidegate.ended().await;
    let took = began.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&took), "{took:?}");
    drop((plain, server));
}

/// A connection that never gets on with its head.
async fn waiting_elsewhere(sidegate: &Sidegate) -> Wire {
    let mut wire = client::new(sidegate).connect().await;
    wire.send("GET /chat HTTP/1.1\r\n").await;
    wire
}

#[tokio::test]
async fn tunnel_without_a_close_before_the_deadline_is_logged_as_cut() {
    let (mut sidegate, client, _backend) = echoing("spread = '60s'\ndeadline = '300ms'").await;
    let mut open = [client.open("/chat").await, client.open("/chat").await];
    let began = Instant::now();
    sidegate.drain().await;
    let ends = open.iter_mut().map(|tunnel| async { while tunnel.next().await.is_ok() {} });
    futures_util::future::join_all(ends).await;
    sidegate.ended().await;
    assert!(began.elapsed() < Duration::from_secs(3));
}

// C-LIFE-02
#[tokio::test]
async fn a_second_order_ends_everything_at_once() {
    let Ends { mut sidegate, mut client, backend, server } =
        open(|sidegate| sidegate.toml("shutdown = { delay = '60s', deadline = '60s' }")).await;
    sidegate.drain().await;
    sidegate.expect_metric("sidegate_draining", [], 1).await;
    let began = Instant::now();
    sidegate.drain().await;
    client.expect_end().await;
    sidegate.ended().await;
    assert!(began.elapsed() < Duration::from_secs(3));
    drop((backend, server));
}

#[tokio::test]
async fn a_process_without_connections_ends_at_once() {
    let (mut sidegate, _client, _backend) = echoing("spread = '20s'\ndeadline = '60s'").await;
    let began = Instant::now();
    sidegate.drain().await;
    sidegate.ended().await;
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn revoked_tunnel_gets_no_second_close_in_a_drain() {
    let Ends { sidegate, mut client, mut backend, .. } = open(|sidegate| sidegate).await;
    sidegate.policy().deny("127.0.0.1").write().await;
    assert_eq!(client.frame().await, Frame::close(1008, "network"));
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    client.send_frame(Frame::close(1008, "")).await;
    assert_eq!(backend.frame().await, Frame::close(1008, "network"));
    backend.send_frame(Frame::close(1008, "")).await;
    client.expect_end().await;
}

// C-OBS-03
#[tokio::test]
async fn opened_tunnels_equal_closed_plus_open_in_a_drain() {
    let server = backend::manual().run().await;
    let sidegate =
        sidegate::new().threads(2).route("/chat", &server).on_route("http = 'forward'").run().await;
    let client = client::new(&sidegate);
    let mut kept = Vec::new();
    for turn in 0..30 {
        match turn % 6 {
            0 => kept.push(ends(&client, &server, "").await),
            1 => drop(ends(&client, &server, "").await),
            2 => ends(&client, &server, "").await.0.reset(),
            3 => drop(
                client.expect_refused(client.attempt_head("/elsewhere", ""), 404, "route").await,
            ),
            4 => drop(client.connect_below_tls().await),
            _ => drop(client.connect().await),
        }
    }
    sidegate.expect_metric("sidegate_connections_open", [], 5).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 5).await;
    sidegate.expect_metric("sidegate_connections_accepted_total", [], 30).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [], 25).await;
    sidegate.expect_metric("sidegate_tunnels_opened_total", [], 15).await;
    sidegate.expect_metric("sidegate_tunnels_closed_total", [], 10).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "upgraded")], 10).await;
    sidegate.expect_metric("sidegate_panics_total", [], 0).await;
}

//! Backends by name: which addresses are dialled, and what happens while a name does not resolve.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use ::sidegate::control::reload::ReloadOutcome;

use crate::harness::backend::{self, Backend};
use crate::harness::names::FakeResolver;
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::{certificate, client, process, within};

const UP: &str = "sidegate_backend_up";
const ADDRESSES: &str = "sidegate_backend_addresses";
const RESOLVED: &str = "sidegate_backend_resolved";

/// The second address of a name: another address of the loopback network.
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The URL of the host `app` at the port of `backend`.
fn url(backend: &Backend) -> String {
    format!("http://app:{}", backend.port())
}

/// An agent without TLS whose route `/chat` leads to [`url`], resolved every second.
fn at_app(backend: &Backend, resolver: &FakeResolver) -> sidegate::Builder {
    let keys = format!("backend = '{}'\nresolve = '1s'", url(backend));
    sidegate::new().clear().route("/chat", backend).on_route(&keys).lookup(resolver.lookup())
}

/// A backend at the second address, with the port of `first`.
async fn beside(first: &Backend) -> Backend {
    backend::echo().at((SECOND, first.port()).into()).run().await
}

async fn refused(sidegate: &Sidegate) {
    client::new(sidegate).attempt("/chat").await.expect_refused(502, "backend");
}

async fn echoes(sidegate: &Sidegate) {
    client::new(sidegate).open("/chat").await.expect_echo("through").await;
}

#[tokio::test]
async fn named_backend_is_dialled_at_its_address() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&backend, &resolver).run().await;
    echoes(&sidegate).await;
    let route = &sidegate.status().await.routes[0];
    assert_eq!((&*route.backends[0].address, route.backends[0].up), (&*url(&backend), true));
    let addresses = route.backends[0].addresses.as_deref().unwrap();
    assert_eq!(addresses, [format!("127.0.0.1:{}", backend.port())]);
    sidegate.expect_metric(RESOLVED, [("route", "chat"), ("backend", &url(&backend))], 1).await;
}

#[tokio::test]
async fn unresolved_name_is_a_state_and_recovers() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    let sidegate = at_app(&backend, &resolver).run().await;
    refused(&sidegate).await;
    backend.expect_untouched();
    let own = [("backend", &*url(&backend))];
    for (family, value) in [(UP, 0), (ADDRESSES, 0), (RESOLVED, 0)] {
        sidegate.expect_metric(family, own, value).await;
    }
    let (status, body) = sidegate.readyz().await;
    assert!(status == 200 && body.contains("does not resolve: no such host; no address"), "{body}");
    let words: Vec<_> =
        sidegate.status().await.warnings.into_iter().map(|warning| warning.sentence).collect();
    assert!(words.iter().any(|sentence| sentence.contains("no such host")), "{words:?}");
    resolver.set("app", &["127.0.0.1"]);
    sidegate.expect_metric(RESOLVED, own, 1).await;
    echoes(&sidegate).await;
    sidegate.expect_metric(UP, own, 1).await;
}

#[tokio::test]
async fn addresses_of_a_name_are_used_like_a_list() {
    let (first, resolver) = (backend::echo().run().await, FakeResolver::default());
    let second = beside(&first).await;
    // In any order, each twice, and one of them mapped.
    resolver.set("app", &["127.0.0.2", "::ffff:127.0.0.1", "127.0.0.1", "127.0.0.2"]);
    let sidegate = at_app(&first, &resolver).run().await;
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        tunnels.push(client::new(&sidegate).open("/chat").await);
    }
    assert_eq!((first.connections(), second.connections()), (2, 2));
    sidegate.expect_metric(ADDRESSES, [("backend", &*url(&first))], 2).await;
}

#[tokio::test]
async fn address_that_refuses_is_passed_over_and_the_name_is_up() {
    let (first, resolver) = (backend::echo().run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1", "127.0.0.2"]);
    let sidegate = at_app(&first, &resolver).run().await;
    for _ in 0..4 {
        echoes(&sidegate).await;
    }
    assert_eq!(first.connections(), 4);
    sidegate.expect_metric(UP, [("backend", &*url(&first))], 1).await;
}

#[tokio::test]
async fn changed_addresses_keep_tunnels_and_take_new_ones() {
    let (first, resolver) = (backend::echo().run().await, FakeResolver::default());
    let second = beside(&first).await;
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&first, &resolver).run().await;
    let mut early = client::new(&sidegate).open("/chat").await;
    resolver.set("app", &["127.0.0.2"]);
    let moved = async {
        while second.connections() == 0 {
            echoes(&sidegate).await;
        }
    };
    within("a tunnel to the new address", moved).await;
    let before = first.connections();
    echoes(&sidegate).await;
    early.expect_echo("I live on").await;
    assert_eq!((first.connections(), second.connections()), (before, 2));
    sidegate.expect_metric("sidegate_tunnels_closed_total", [("reason", "revoked")], 0).await;
}

#[tokio::test]
async fn plain_requests_leave_idle_connections_to_old_addresses() {
    let (first, resolver) =
        (backend::http(|_| backend::reply(200)).run().await, FakeResolver::default());
    let second =
        backend::http(|_| backend::reply(200)).at((SECOND, first.port()).into()).run().await;
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&first, &resolver).on_route("http = 'forward'").run().await;
    client::new(&sidegate).get("/chat").await.expect(200);
    resolver.set("app", &["127.0.0.2"]);
    let moved = async {
        while second.connections() == 0 {
            client::new(&sidegate).get("/chat").await.expect(200);
        }
    };
    within("a request to the new address", moved).await;
    assert_eq!(first.connections(), 1);
}

#[tokio::test]
async fn last_addresses_stay_in_use_when_a_name_is_gone() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&backend, &resolver).run().await;
    let own = [("backend", &*url(&backend))];
    for unusable in [&[][..], &["0.0.0.0"], &["224.0.0.1", "::"]] {
        resolver.set("app", unusable);
        sidegate.expect_metric(RESOLVED, own, 0).await;
        echoes(&sidegate).await;
        sidegate.expect_metric(ADDRESSES, own, 1).await;
        resolver.set("app", &["127.0.0.1"]);
        sidegate.expect_metric(RESOLVED, own, 1).await;
    }
}

#[tokio::test]
async fn failed_dials_resolve_the_name_early() {
    let (refusing, resolver) = (backend::refusing(), FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]);
    let hourly = at_app(&refusing, &resolver).on_route("resolve = '1h'");
    let sidegate = hourly.run().await;
    let moved = beside(&refusing).await;
    resolver.set("app", &["127.0.0.2"]);
    let early = async {
        while moved.connections() == 0 {
            client::new(&sidegate).attempt("/chat").await;
        }
    };
    within("a tunnel to the new address", early).await;
    // At most one a second: the start, and the dials of a second or two.
    assert!((2..=4).contains(&resolver.asked()), "{} look-ups", resolver.asked());
}

#[tokio::test]
async fn hanging_resolver_stops_neither_start_nor_reload() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]).set("other", &["127.0.0.1"]).hang(true);
    let sidegate = at_app(&backend, &resolver).run().await;
    refused(&sidegate).await;
    let other = format!("http://other:{}", backend.port());
    for address in [&*other, backend.address(), &other] {
        let to = address.to_owned();
        sidegate.reconfigure(|config| config["route"][0]["backend"] = to.into()).await;
    }
    assert_eq!(resolver.asked(), 2, "one look-up of each name at a time");
    resolver.hang(false);
    sidegate.expect_metric(RESOLVED, [("backend", &*other)], 1).await;
    echoes(&sidegate).await;
}

#[tokio::test]
async fn name_that_a_reload_adds_has_addresses_at_once() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&backend, &resolver).on_route("backend = 'unix:none.sock'").run().await;
    refused(&sidegate).await;
    assert_eq!(resolver.asked(), 0);
    let to = url(&backend);
    sidegate.reconfigure(|config| config["route"][0]["backend"] = to.into()).await;
    echoes(&sidegate).await;
}

#[tokio::test]
async fn unresolved_name_rejects_no_reload() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&backend, &resolver).run().await;
    let text = std::fs::read_to_string(sidegate.config()).unwrap();
    let both = format!("[\"http://nowhere:80\", \"{}\"]", url(&backend));
    sidegate.put("sidegate.toml", text.replace(&format!("\"{}\"", url(&backend)), &both));
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Published { .. }));
    echoes(&sidegate).await;
    sidegate.expect_metric(RESOLVED, [("backend", "http://nowhere:80")], 0).await;
}

#[tokio::test]
async fn name_that_leads_back_to_the_listener_is_left_out() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&backend, &resolver).run().await;
    for listen in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let to = format!("{listen}:0");
        if sidegate.address().ip() != listen {
            sidegate.reconfigure(|config| config["listener"][0]["listen"] = to.into()).await;
        }
        let looped = format!("http://app:{}", sidegate.address().port());
        let to = looped.clone();
        sidegate.reconfigure(|config| config["route"][0]["backend"] = to.into()).await;
        refused(&sidegate).await;
        let (_, body) = sidegate.readyz().await;
        assert!(body.contains("leads back to a listener of this process"), "{listen}: {body}");
    }
}

#[tokio::test]
async fn thousands_of_addresses_are_bounded() {
    let (backend, resolver) = (backend::echo().run().await, FakeResolver::default());
    let many: Vec<_> = (1..=5000_u16).map(|at| format!("127.1.{}.{}", at >> 8, at & 255)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).rev().chain(["127.0.0.1"]).collect();
    resolver.set("app", &many);
    let sidegate = at_app(&backend, &resolver).run().await;
    sidegate.expect_metric(ADDRESSES, [("backend", &*url(&backend))], 64).await;
    echoes(&sidegate).await;
}

#[tokio::test]
async fn certificate_of_a_named_backend_has_to_hold_the_name() {
    let resolver = FakeResolver::default();
    resolver.set("app.internal", &["127.0.0.1"]);
    let other = ", name = 'other.internal'";
    for (certified, named, status) in [
        ("app.internal", "", 101),
        ("127.0.0.1", "", 502),
        ("other.internal", other, 101),
        ("app.internal", other, 502),
    ] {
        let config = certificate::server(&[certified], false);
        let backend = backend::echo().tls(config).run().await;
        let keys = format!(
            "backend = 'https://app.internal:{}'\nbackend_tls = {{ ca = 'ca.pem'{named} }}",
            backend.port()
        );
        let sidegate = sidegate::new().clear().route("/chat", &backend).on_route(&keys);
        let sidegate = sidegate.file("ca.pem", certificate::authority_pem());
        let sidegate = sidegate.lookup(resolver.lookup()).run().await;
        client::new(&sidegate).attempt("/chat").await.expect(status);
    }
}

#[tokio::test]
async fn request_without_a_host_names_the_backend() {
    let (backend, resolver) =
        (backend::http(|_| backend::reply(200)).run().await, FakeResolver::default());
    resolver.set("app", &["127.0.0.1"]);
    let sidegate = at_app(&backend, &resolver).on_route("http = 'forward'").run().await;
    client::new(&sidegate).send("GET /chat HTTP/1.0\r\n\r\n").await;
    assert_eq!(backend.head().await.header("host"), Some(&*format!("app:{}", backend.port())));
}

#[tokio::test]
async fn localhost_is_tried_by_ipv4_and_then_by_ipv6() {
    let first = backend::echo().run().await;
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, first.port()));
    if TcpListener::bind(v6).is_err() {
        return; // A machine without IPv6, or the port is taken there.
    }
    let second = backend::echo().at(v6).run().await;
    let keys = format!("backend = 'http://localhost:{}'", first.port());
    // The system's own resolver, which is not asked.
    let sidegate = sidegate::new().clear().route("/chat", &first).on_route(&keys).run().await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(client::new(&sidegate).open("/chat").await);
    }
    assert_eq!((first.connections(), second.connections()), (3, 0));
    drop(tunnels);
    drop(first);
    echoes(&sidegate).await;
    assert_eq!(second.connections(), 1);
    sidegate.expect_metric(UP, [], 1).await;
}

#[tokio::test]
async fn log_has_the_backend_and_the_address_that_was_dialled() {
    let backend = backend::refusing();
    let to = format!("http://localhost:{}", backend.port());
    let folder = sidegate::new().clear().route("/chat", &backend);
    let folder = folder.on_route(&format!("backend = '{to}'")).write();
    let process = process::new(folder.path()).run().await;
    for _ in 0..3 {
        process.client().attempt("/chat").await.expect_refused(502, "backend");
    }
    let lines = process.ended_json().await;
    let told = |message: &str| lines.iter().filter(|line| line["message"] == message).count();
    assert_eq!((told("an address of the backend is down"), told("the backend is down")), (1, 1));
    let failed: Vec<_> = lines.iter().filter(|line| line["result"] == "failed").collect();
    assert_eq!(failed.len(), 3);
    for line in failed {
        assert_eq!(line["backend"], to);
        assert!(line["backend_address"].as_str().unwrap().ends_with(&to[16..]), "{line}");
    }
}

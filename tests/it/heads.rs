//! Heads that are legal and seldom: HTTP/1.0, identity headers of gateways, odd answers of
//! backends.

use std::time::{Duration, Instant};

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::{Head, Wire, lossy};

/// An agent that forwards plain HTTP to `backend`, for every host.
async fn forwarding(backend: &Backend) -> Sidegate {
    new(backend).run().await
}

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/", backend).on_route("http = 'forward'")
}

/// Returns the head that a backend gets for this request, whose lines are separated by `|`.
async fn seen(lines: &str) -> Head {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = forwarding(&backend).await;
    client::new(&sidegate).send(lines.replace('|', "\r\n") + "\r\n\r\n").await.expect(200);
    backend.head().await
}

#[tokio::test]
async fn identity_headers_of_every_gateway_are_removed() {
    let forged = [
        "Fastly-Client-IP",
        "X-Forwarded",
        "X-Originating-IP",
        "X-Envoy-External-Address",
        "CF-Connecting-IPv6",
        "X_Azure_ClientIP",
        "HTTP_CLIENT_IP",
        "X.Real.IP",
        "Remote-User",
        "X-SSL-Client-Verify",
        "X-Auth-Request-Email",
        "Proxy",
        "SCRIPT_NAME",
        "X-Script-Name",
        "PATH_INFO",
    ];
    let lines: Vec<_> = forged.iter().map(|name| format!("|{name}: 10.9.9.9")).collect();
    let kept = "|X-User-Id: 7|X-HTTP-Method-Override: PUT";
    let head = seen(&format!("GET / HTTP/1.1|Host: a{}{kept}", lines.concat())).await;
    assert!(!lossy(&head.raw).contains("10.9.9.9"), "{}", lossy(&head.raw));
    assert_eq!(
        (head.header("x-user-id"), head.header("x-http-method-override")),
        (Some("7"), Some("PUT"))
    );
}

#[tokio::test]
async fn identity_headers_are_removed_from_attempts_too() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/", &backend).run().await;
    let client = client::new(&sidegate)
        .header("X-Forwarded", "10.9.9.9")
        .header("X_WebAuth_User", "10.9.9.9");
    client.open("/").await.expect_echo("hello").await;
    assert!(!lossy(&backend.head().await.raw).contains("10.9.9.9"));
}

#[tokio::test]
async fn http_1_0_without_host_matches_the_host_star() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = forwarding(&backend).await;
    for method in ["OPTIONS", "GET", "HEAD"] {
        let mut wire = client::new(&sidegate).connect().await;
        wire.send(format!("{method} / HTTP/1.0\r\n\r\n")).await;
        wire.answer_to(method).await.expect(200);
        wire.expect_end().await;
        let head = backend.head().await;
        assert_eq!((head.method(), head.word(2)), (method, "HTTP/1.1"));
        assert_eq!(head.all("host"), [backend.address().trim_start_matches("http://")]);
        assert_eq!(
            (head.header("x-forwarded-host"), head.header("x-forwarded-for")),
            (None, Some("127.0.0.1"))
        );
    }
}

#[tokio::test]
async fn http_1_0_without_host_is_404_without_a_host_star() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let builder = new(&backend).host("ws.example.com").clear();
    let sidegate = builder.run().await;
    let client = client::new(&sidegate);
    client.send("OPTIONS / HTTP/1.0\r\n\r\n").await.expect_refused(404, "route");
    client.send("GET http://ws.example.com/ HTTP/1.0\r\n\r\n").await.expect(200);
    assert_eq!(backend.head().await.header("host"), Some("ws.example.com"));
    client.send("GET / HTTP/1.1\r\n\r\n").await.expect_refused(400, "head");
    client.send("GET / HTTP/1.0\r\nHost:\r\n\r\n").await.expect_refused(400, "head");
    let kept = client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    kept.expect_refused(404, "route").expect_header("connection", "close");
}

#[tokio::test]
async fn http_1_0_keeps_its_connection_when_the_answer_has_a_length() {
    let backend = backend::http(|_| backend::reply(200).body("hello")).run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    for _ in 0..2 {
        wire.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.expect(200).text().as_str(), answer.head.word(0)),
            ("hello", "HTTP/1.0")
        );
        answer.expect_header("connection", "keep-alive");
    }
    wire.send("GET / HTTP/1.0\r\n\r\n").await;
    wire.answer().await.expect(200);
    wire.expect_end().await;
}

#[tokio::test]
async fn http_1_0_answer_without_length_has_connection_close() {
    let backend = backend::raw(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n")
            .await;
        wire.rest().await;
    });
    let backend = backend.run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!(answer.expect(200).text(), "one");
    assert_eq!(answer.header("transfer-encoding"), None);
    answer.expect_header("connection", "close");
}

#[tokio::test]
async fn redirect_without_a_host_is_refused() {
    let backend = backend::echo().run().await;
    let plain =
        "\n[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\nredirect = 'https'";
    let sidegate = sidegate::new().tls().route("/", &backend).toml(plain).run().await;
    let client = client::clear(sidegate.listener("plain"));
    let refused = client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!(refused.expect_refused(400, "head").header("connection"), Some("close"));
    client.send("GET /a HTTP/1.0\r\nHost: a.example\r\n\r\n").await.expect(308);
    client.send("GET http://a.example/a HTTP/1.0\r\n\r\n").await.expect(308);
    backend.expect_untouched();
}

#[tokio::test]
async fn invalid_port_in_host_is_refused() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = forwarding(&backend).await;
    let client = client::new(&sidegate);
    for host in [
        "localhost:0",
        "localhost:00000",
        "localhost:65536",
        "localhost:+80",
        "[::1]:0",
        "127.0.0.1:0",
    ] {
        client
            .send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await
            .expect_refused(400, "head");
        let absolute = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let status = client.send(absolute).await.status();
        assert_eq!(status, 400, "{host}");
        let attempt =
            client.attempt_head("/", "").replace("Host: localhost", &format!("Host: {host}"));
        client.send(attempt).await.expect_refused(400, "head");
    }
    backend.expect_untouched();
}

#[tokio::test]
async fn a_101_of_http_1_0_or_with_a_second_protocol_is_a_502() {
    let odd = [
        ("HTTP/1.0", "websocket"),
        ("HTTP/1.1", "websocket, h2c"),
        ("HTTP/1.1", "h2c, websocket"),
        ("HTTP/1.1", "websocket\r\nUpgrade: h2c"),
    ];
    for (version, upgrade) in odd {
        let backend = backend::raw(move |mut wire| async move {
            let head = wire.head().await;
            let granted = backend::granted(&head, "");
            let granted = granted.replacen("HTTP/1.1", version, 1);
            wire.send(granted.replacen("Upgrade: websocket", &format!("Upgrade: {upgrade}"), 1))
                .await;
            wire.rest().await;
        });
        let backend = backend.run().await;
        let sidegate = new(&backend).run().await;
        let client = client::new(&sidegate);
        client.attempt("/").await.expect_refused(502, "backend");
        // An attempt with Expect is read by hyper, and the same holds.
        let expecting = client.attempt_head("/", "Expect: 100-continue\r\n");
        client.send(expecting).await.expect_refused(502, "backend");
    }
}

/// A client's connection in the clear to a listener that speaks TLS.
async fn in_the_clear(builder: Builder) -> (Sidegate, client::Client) {
    let sidegate = builder.tls().run().await;
    let client = client::clear(sidegate.address());
    (sidegate, client)
}

#[tokio::test]
async fn plain_http_on_a_tls_port_gets_a_readable_400() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let (sidegate, client) = in_the_clear(new(&backend)).await;
    let body = "x".repeat(40 * 1024);
    let post =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let attempt = client.attempt_head("/", "");
    let requests =
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS / HTTP/1.0\r\n\r\n", &attempt, &post];
    for request in requests {
        let mut wire = client.connect().await;
        wire.send(request).await;
        let answer = wire.answer().await;
        answer.expect_refused(400, "tls").expect_header("connection", "close");
        assert!(answer.text().contains("use https"), "{}", answer.text());
        wire.expect_end().await;
    }
    // A method that comes byte by byte.
    let mut wire = client.connect().await;
    for byte in "GET / HTTP/1.1\r\n\r\n".bytes() {
        wire.send([byte]).await;
    }
    wire.answer().await.expect_refused(400, "tls");
    let count = requests.len() as u32 + 1;
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "failed")], count).await;
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "-"), ("reason", "tls")], count)
        .await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "tls")], count).await;
    backend.expect_untouched();
}

#[tokio::test]
async fn garbage_on_a_tls_port_gets_no_http() {
    let backend = backend::echo().run().await;
    let (sidegate, client) = in_the_clear(sidegate::new().route("/", &backend)).await;
    for garbage in
        ["SSH-2.0-OpenSSH_9.2\r\n", "EHLO a\r\n", "get / HTTP/1.1\r\n\r\n", "\r\n\r\n\r\n"]
    {
        let mut wire = client.connect().await;
        wire.send(garbage).await;
        let rest = lossy(&wire.rest().await);
        assert!(!rest.contains("HTTP"), "{garbage:?}: {rest:?}");
    }
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "failed")], 4).await;
}

#[tokio::test]
async fn http_2_without_negotiation_gets_a_readable_400() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for builder in [new(&backend).clear(), new(&backend).tls()] {
        let sidegate = builder.run().await;
        let client = client::new(&sidegate);
        for pieces in [preface.len(), 3, 20] {
            let mut wire = client.connect().await;
            for piece in preface.chunks(pieces) {
                wire.send(piece).await;
            }
            let answer = wire.answer().await;
            answer.expect_refused(400, "head");
            assert!(answer.text().contains("HTTP/2"), "{}", answer.text());
            wire.expect_end().await;
        }
        sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "head")], 3).await;
        // Methods that begin alike are none of it.
        let mut wire = client.connect().await;
        wire.send("P").await;
        wire.send("OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        wire.answer().await.expect(200);
    }
}

#[tokio::test]
async fn alpn_may_offer_http_1_0_alone() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = new(&backend).tls().run().await;
    for (offered, chosen) in [
        (&["http/1.0"][..], "http/1.0"),
        (&["http/1.0", "http/1.1"], "http/1.1"),
        (&["h2", "http/1.0"], "http/1.0"),
    ] {
        let mut wire = client::new(&sidegate).alpn(offered).connect().await;
        assert_eq!(wire.tls().alpn_protocol(), Some(chosen.as_bytes()));
        wire.send("OPTIONS / HTTP/1.0\r\n\r\n").await;
        wire.answer().await.expect(200);
    }
    assert!(client::new(&sidegate).alpn(&["h2"]).try_connect().await.is_err());
}

/// An agent whose backend sends what `script` says to each request, whose head it has read.
async fn interim(answer: &'static str) -> (Sidegate, Backend) {
    let backend = backend::raw(move |mut wire| async move {
        while wire.try_head().await.is_some() {
            wire.send(answer.replace('|', "\r\n")).await;
        }
    });
    let backend = backend.run().await;
    (forwarding(&backend).await, backend)
}

#[tokio::test]
async fn interim_answers_pass_to_http_1_1_and_not_to_http_1_0() {
    let (sidegate, _backend) = interim(
        "HTTP/1.1 100 Continue||HTTP/1.1 103 Early Hints|Link: </a.css>|Connection: X-Hop|X-Hop: 1|\
         Content-Length: 5|Keep-Alive: 1||HTTP/1.1 102 Processing||HTTP/1.1 200 OK|Content-Length: 2||ok",
    )
    .await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    for _ in 0..2 {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let hint = wire.head().await;
        assert_eq!(
            (hint.status(), hint.lines.len(), hint.header("link")),
            (103, 1, Some("</a.css>"))
        );
        assert_eq!(wire.head().await.status(), 102);
        assert_eq!(wire.answer().await.expect(200).text(), "ok");
    }
    wire.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(wire.head().await.status(), 200);
}

#[tokio::test]
async fn an_early_hint_passes_before_there_is_an_answer() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    for hint in ["</a.css>", "</b.css>"] {
        at_backend.send(format!("HTTP/1.1 103 Early Hints\r\nLink: {hint}\r\n\r\n")).await;
        let head = loop {
            let head = wire.head().await;
            if head.status() != 100 {
                break head;
            }
        };
        assert_eq!((head.status(), head.header("link")), (103, Some(hint)));
    }
    wire.send("body").await;
    assert_eq!(at_backend.bytes(4).await, b"body");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(wire.answer().await.expect(200).text(), "ok");
}

/// A request whose client waits for a 100: both ends, once the backend has its head.
async fn expecting(sidegate: &Sidegate, backend: &Backend) -> (Wire, Wire) {
    let mut wire = client::new(sidegate).connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n")
        .await;
    let mut at_backend = backend.accepted().await;
    assert_eq!(at_backend.head().await.all("expect"), ["100-continue"]);
    (wire, at_backend)
}

#[tokio::test]
async fn backend_that_refuses_before_the_body_gets_none() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    for (answer, status) in [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", 401),
        ("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n", 417),
        (
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            403,
        ),
    ] {
        let (mut wire, mut at_backend) = expecting(&sidegate, &backend).await;
        at_backend.send(answer).await;
        let answer = wire.answer().await;
        answer.expect(status).expect_header("connection", "close");
        assert!(!answer.informed.contains(&100), "{:?}", answer.informed);
        assert_eq!(at_backend.rest().await, b"");
    }
}

#[tokio::test]
async fn backend_100_releases_the_body() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    for first in ["", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let (mut wire, mut at_backend) = expecting(&sidegate, &backend).await;
        let asked = Instant::now();
        at_backend.send(format!("{first}HTTP/1.1 100 Continue\r\n\r\n")).await;
        while wire.head().await.status() != 100 {}
        assert!(asked.elapsed() < Duration::from_secs(2), "it was the backend's");
        wire.send("body").await;
        assert_eq!(at_backend.bytes(4).await, b"body");
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let answer = wire.answer().await;
        assert_eq!((answer.expect(200).text().as_str(), answer.informed.len()), ("ok", 0));
    }
}

#[tokio::test]
async fn expect_without_a_body_is_removed() {
    for lines in ["Expect: 100-continue", "Content-Length: 0|Expect: 100-continue", "Expect: other"]
    {
        let head = seen(&format!("POST / HTTP/1.1|Host: a|{lines}")).await;
        assert_eq!(head.header("expect"), None, "{lines}");
    }
}

#[tokio::test]
async fn endless_interim_answers_are_502() {
    let flood = backend::raw(|mut wire| async move {
        let attempts = wire.try_head().await;
        if attempts.is_some() {
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(5000)).await;
            wire.rest().await;
        }
    });
    let flood = flood.run().await;
    let sidegate = forwarding(&flood).await;
    let client = client::new(&sidegate);
    client.get("/").await.expect_refused(502, "backend");
    client.attempt("/").await.expect_refused(502, "backend");
}

/// A backend that sends so many interim answers before each answer, so many of them at once.
async fn interims(status: u16, count: usize, at_once: usize) -> Backend {
    let backend = backend::raw(move |mut wire| async move {
        while let Some(head) = wire.try_head().await {
            let answer = match head.header("upgrade") {
                Some(_) => backend::granted(&head, ""),
                None => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
            };
            let interim = format!("HTTP/1.1 {status} Interim\r\n\r\n");
            wire.send(interim.repeat(count % at_once)).await;
            for _ in 1..count / at_once {
                wire.send(interim.repeat(at_once)).await;
            }
            wire.send(interim.repeat(at_once) + &answer).await;
        }
    });
    backend.run().await
}

#[tokio::test]
async fn interim_answers_are_bounded_within_one_read() {
    for status in [100, 102, 103, 199] {
        for (count, at_once) in [(1000, 1000), (1000, 7), (1001, 1001), (1001, 7), (3000, 3000)] {
            let backend = interims(status, count, at_once).await;
            let sidegate = forwarding(&backend).await;
            let client = client::new(&sidegate);
            let answers = [
                client.get("/").await,
                client.attempt("/").await,
                client.send(client.attempt_head("/", "Expect: 100-continue\r\n")).await,
            ];
            for (answer, admitted) in answers.iter().zip([200, 101, 101]) {
                if count > 1000 {
                    answer.expect_refused(502, "backend");
                } else {
                    answer.expect(admitted);
                }
            }
        }
    }
}

#[tokio::test]
async fn backend_connection_is_closed_after_an_interim_flood() {
    let flood = interims(103, 1001, 1001).await;
    let sidegate = forwarding(&flood).await;
    let client = client::new(&sidegate);
    for connections in 1..4 {
        client.get("/").await.expect_refused(502, "backend");
        flood.expect_done(connections).await;
    }
}

#[tokio::test]
async fn invalid_interim_answer_is_502() {
    let ok = "HTTP/1.1 200 OK|Content-Length: 2||ok";
    for odd in [
        format!("HTTP/1.1 101 Switching Protocols|Upgrade: websocket|Connection: Upgrade||{ok}"),
        format!("HTTP/1.1 103 Early Hints|Content-Length: 5||hello{ok}"),
        format!("HTTP/1.1 103 Early Hints|Transfer-Encoding: chunked||0||{ok}"),
        format!("HTTP/1.1 099 Odd||{ok}"),
        format!("HTTP/1.1 103 Early Hints|{}||{ok}", fields(103).trim_end()),
        format!("HTTP/1.1 103 Early Hints|X: {}||{ok}", "x".repeat(70 * 1024)),
    ] {
        let (sidegate, backend) = interim(odd.leak()).await;
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        wire.answer().await.expect_refused(502, "backend");
        // The connection that the rest came on is left.
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        wire.answer().await.expect_refused(502, "backend");
        assert_eq!(backend.connections(), 2);
    }
}

#[tokio::test]
async fn early_hints_for_a_stalled_client_are_dropped() {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "x".repeat(8000));
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    for _ in 0..900 {
        at_backend.send(&hint).await;
    }
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    // Whatever was dropped, heads are whole and the answer comes last.
    let answer = wire.answer().await;
    assert_eq!(answer.expect(200).text(), "ok");
    assert!(answer.informed.iter().all(|status| *status == 103));
}

/// Header lines of so many fields in all, with the two that are counted already.
fn fields(count: usize) -> String {
    (2..count).map(|at| format!("X-{at}: {at}\r\n")).collect()
}

#[tokio::test]
async fn an_answer_has_at_most_max_fields() {
    let answer_of = |count: usize| {
        backend::raw(move |mut wire| async move {
            while let Some(head) = wire.try_head().await {
                let more = format!("Content-Length: 0\r\nX-One: 1\r\n{}", fields(count));
                let answer = match head.header("upgrade") {
                    // Four of its fields are there already.
                    Some(_) => backend::granted(&head, &fields(count - 1)),
                    None => format!("HTTP/1.1 200 OK\r\n{more}\r\n"),
                };
                wire.send(answer).await;
            }
        })
    };
    for (key, most) in [("", 100), ("max_fields = 16", 16), ("max_fields = 300", 300)] {
        for (count, fits) in [(most, true), (most + 1, false)] {
            let backend = answer_of(count).run().await;
            let sidegate = new(&backend).on_route(key).run().await;
            let client = client::new(&sidegate);
            let (plain, attempt) = (client.get("/").await, client.attempt("/").await);
            if fits {
                plain.expect(200).expect_header("x-one", "1");
                attempt.expect(101);
            } else {
                plain.expect_refused(502, "backend");
                attempt.expect_refused(502, "backend");
            }
        }
    }
}

#[tokio::test]
async fn a_request_has_at_most_max_fields() {
    let backend = backend::echo().run().await;
    for (key, most) in [("", 100), ("max_fields = 16", 16), ("max_fields = 300", 300)] {
        let sidegate = new(&backend).on_listener(key).run().await;
        let client = client::new(&sidegate);
        // Host is one field, and an attempt has five.
        client.send(client.request("GET / HTTP/1.1", &fields(most + 1))).await.expect(200);
        client.send(client.attempt_head("/", &fields(most - 3))).await.expect(101);
        client
            .expect_refused(client.request("GET / HTTP/1.1", &fields(most + 2)), 431, "head")
            .await;
        client.expect_refused(client.attempt_head("/", &fields(most - 2)), 431, "head").await;
    }
}

#[tokio::test]
async fn unparsable_heads_are_refused_with_a_reason() {
    let backend = backend::echo().run().await;
    for build in [Builder::tls, Builder::clear] {
        let sidegate = build(new(&backend)).run().await;
        let client = client::new(&sidegate);
        let heads = [
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            (&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40 * 1024)), 431),
        ];
        for (at, (head, status)) in heads.into_iter().enumerate() {
            if at != 3 {
                client.expect_refused(head, status, "head").await;
            }
            // Behind a request, of which the answer comes first.
            let mut wire = client.connect().await;
            wire.send(format!("GET /none HTTP/1.1\r\nHost: a\r\n\r\n{head}")).await;
            wire.answer().await.expect(200);
            wire.answer().await.expect_refused(status, "head").expect_header("connection", "close");
            wire.expect_end().await;
        }
        let many = [("route", "-"), ("reason", "head")];
        sidegate.expect_metric("sidegate_refusals_total", many, 9).await;
        sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "head")], 9).await;
    }
}

#[tokio::test]
async fn refusal_of_a_head_request_has_no_body() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("HEAD / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n").await;
    wire.answer_to("HEAD")
        .await
        .expect(400)
        .expect_header("content-type", "application/problem+json");
    wire.expect_end().await;
}

#[tokio::test]
async fn unparsable_head_in_pieces_is_refused() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    for piece in ["GE", "T / HTTP/1.1\r", "\nHost: a\r\nCont", "ent-Length: 1,", "1\r\n", "\r\n"] {
        wire.send(piece).await;
        tokio::task::yield_now().await;
    }
    wire.answer().await.expect_refused(400, "head");
    wire.expect_end().await;
}

#[tokio::test]
async fn too_many_fields_are_named_in_the_log() {
    let many = backend::raw(|mut wire| async move {
        wire.head().await;
        wire.send(format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(103))).await;
        wire.rest().await;
    });
    let large = backend::raw(|mut wire| async move {
        wire.head().await;
        wire.send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70 * 1024))).await;
        wire.rest().await;
    });
    let (many, large) = (many.run().await, large.run().await);
    let builder = sidegate::new().route("/many", &many).on_route("http = 'forward'");
    let folder = builder.route("/large", &large).on_route("http = 'forward'").clear().write();
    let mut agent = process::new(folder.path()).run().await;
    let client = agent.client();
    for (path, words) in [
        ("/many", "its answer has too many header fields (more than 100, `max_fields`)"),
        ("/large", "its answer's head is over 64 KiB"),
    ] {
        client.get(path).await.expect_refused(502, "backend");
        assert_eq!(agent.logged("failed").await["error"], words);
    }
    client.attempt("/many").await.expect_refused(502, "backend");
    agent.line("its answer has too many header fields").await;
}

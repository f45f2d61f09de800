//! From an attempt to an open WebSocket, and every way in which it is refused or fails.

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

use crate::harness::client::Client;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{Frame, Wire};
use crate::harness::{backend, client, sidegate, within};

/// Sixteen bytes in base64.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The header lines of an attempt in order.
const ATTEMPT: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A client whose attempt at `path` is on its way, and the backend's end of it, its head read and
/// not yet answered.
async fn half_way(client: &Client, backend: &backend::Backend, path: &str) -> (Wire, Wire) {
    let mut wire = client.connect().await;
    wire.send(client.attempt_head(path, "")).await;
    (wire, backend.accepted().await)
}

/// Asserts that a backend which answers an attempt (with `lines` in its head) with what `answer`
/// makes of the right Accept gets its client a 502.
async fn check_answer(
    sidegate: &Sidegate,
    backend: &backend::Backend,
    lines: &str,
    answer: impl Fn(&str) -> String,
) {
    let client = client::new(sidegate);
    let mut wire = client.connect().await;
    wire.send(client.attempt_head("/chat", lines)).await;
    let mut at_backend = backend.accepted().await;
    let granted = backend::granted(&at_backend.head().await, "");
    let accept = granted.split("Accept: ").nth(1).unwrap().trim();
    let answer = answer(accept);
    at_backend.send(&answer).await;
    let got = wire.answer().await;
    assert_eq!(got.status(), 502, "{answer}");
    got.expect_refused(502, "backend").expect_header("connection", "close");
    wire.expect_end().await;
    at_backend.expect_end().await;
}

// C-WS-16
#[tokio::test]
async fn a_good_handshake_opens_a_tunnel_both_ways() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).allow("127.0.0.0/29").run().await;
    let mut client = client::new(&sidegate).from("127.0.0.2").open("/chat").await;
    client.expect_echo("hello").await;
    sidegate.expect_metric("sidegate_tunnels_open", [("route", "chat")], 1).await;
    sidegate
        .expect_metric("sidegate_requests_total", [("kind", "upgrade"), ("result", "permitted")], 1)
        .await;
}

// C-WS-16
#[tokio::test]
async fn pings_and_pongs_pass_both_ways() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let (mut client, mut at_backend) = half_way(&client::new(&sidegate), &backend, "/chat").await;
    backend::grant(&mut at_backend, "").await;
    client.answer().await.expect(101);
    for frame in [Frame::ping("from the client"), Frame::pong("unasked")] {
        client.send_frame(frame.clone()).await;
        assert_eq!(at_backend.frame().await, frame);
    }
    at_backend.send_frame(Frame::ping("from the backend")).await;
    assert_eq!(client.frame().await, Frame::ping("from the backend"));
    client.send_frame(Frame::pong("from the backend")).await;
    assert_eq!(at_backend.frame().await, Frame::pong("from the backend"));
}

#[tokio::test]
async fn a_clear_listener_speaks_ws() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    client::new(&sidegate).open("/chat").await.expect_echo("hello").await;
    let head = backend.head().await;
    assert_eq!(
        (head.header("x-forwarded-proto"), head.header("x-forwarded-host")),
        (Some("http"), Some("localhost"))
    );
}

// C-WS-01, C-WS-05
#[tokio::test]
async fn an_attempt_by_another_method_or_with_a_body_is_refused() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        client
            .expect_refused(
                client.request(&format!("{method} /chat HTTP/1.1"), ATTEMPT),
                400,
                "handshake",
            )
            .await;
    }
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n"] {
        client
            .expect_refused(
                client.request("GET /chat HTTP/1.1", &format!("{ATTEMPT}{body}")),
                400,
                "handshake",
            )
            .await;
    }
    backend.expect_untouched();
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "chat"), ("reason", "handshake")], 6)
        .await;
}

// C-WS-02
#[tokio::test]
async fn an_attempt_without_a_key_of_sixteen_bytes_is_refused() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let line = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let twice = format!("{line}{line}");
    for instead in [
        "",
        "Sec-WebSocket-Key: \r\n",
        "Sec-WebSocket-Key: AA==\r\n",
        "Sec-WebSocket-Key: not base64!\r\n",
        &twice,
    ] {
        client
            .expect_refused(
                client.request("GET /chat HTTP/1.1", &ATTEMPT.replace(&line, instead)),
                400,
                "handshake",
            )
            .await;
    }
    backend.expect_untouched();
}

// C-WS-03
#[tokio::test]
async fn other_version_gets_426_with_the_supported_one() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    for version in [
        "Sec-WebSocket-Version: 8\r\n",
        "Sec-WebSocket-Version: 14\r\n",
        "Sec-WebSocket-Version: 13, 8\r\n",
        "",
    ] {
        let lines = ATTEMPT.replace("Sec-WebSocket-Version: 13\r\n", version);
        let answer = client
            .expect_refused(client.request("GET /chat HTTP/1.1", &lines), 426, "version")
            .await;
        answer.expect_header("sec-websocket-version", "13").expect_header("upgrade", "websocket");
        answer.expect_header("connection", "Upgrade, close");
    }
    backend.expect_untouched();
    sidegate.expect_metric("sidegate_tunnels_opened_total", [], 0).await;
}

#[tokio::test]
async fn a_host_and_path_without_a_route_get_404() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).host("ws.example.com").run().await;
    for (host, path) in
        [("ws.example.com", "/other"), ("ws.example.com", "/chat/"), ("localhost", "/chat")]
    {
        let client = client::new(&sidegate).host(host);
        client
            .expect_refused(client.attempt_head(path, ""), 404, "route")
            .await
            .expect_header("connection", "close");
    }
    backend.expect_untouched();
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "-"), ("reason", "route")], 3)
        .await;
}

// C-WS-14
#[tokio::test]
async fn refused_attempt_closes_and_reaches_no_backend() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .allow("127.0.0.2")
        .origins(&["https://app.example"])
        .run()
        .await;
    let admitted = client::new(&sidegate).from("127.0.0.2");
    let foreign = admitted.clone().origin("https://evil.example");
    foreign
        .expect_refused(foreign.attempt_head("/chat", ""), 403, "origin")
        .await
        .expect_header("connection", "close");
    admitted.expect_refused(admitted.attempt_head("/chat", ""), 403, "origin").await;
    let stranger = client::new(&sidegate).from("127.0.0.3").origin("https://app.example");
    stranger
        .expect_refused(stranger.attempt_head("/chat", ""), 403, "network")
        .await
        .expect_header("connection", "close");
    backend.expect_untouched();
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "refused")], 3).await;
}

// C-WS-25
#[tokio::test]
async fn plain_request_never_becomes_a_tunnel() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let plain = [
        ("HTTP/1.1", ATTEMPT.replace("Connection: Upgrade\r\n", "")),
        ("HTTP/1.1", ATTEMPT.replace("Connection: Upgrade", "Connection: keep-alive")),
        ("HTTP/1.1", ATTEMPT.replace("Upgrade: websocket", "Upgrade: h2c")),
        ("HTTP/1.1", ATTEMPT.replace("Upgrade: websocket", "Upgrade: websockets")),
        ("HTTP/1.0", ATTEMPT.to_owned()),
    ];
    for (version, lines) in plain {
        let answer = client.send(client.request(&format!("GET /chat {version}"), &lines)).await;
        answer
            .expect_refused(426, "plain")
            .expect_header("upgrade", "websocket")
            .expect_header("sec-websocket-version", "13");
    }
    backend.expect_untouched();
}

// C-WS-25
#[tokio::test]
async fn incomplete_upgrade_is_forwarded_as_plain_http() {
    let backend = backend::http(|_| backend::reply(200).body("plain")).run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).on_route("http = 'forward'").run().await;
    let client = client::new(&sidegate);
    for lines in [
        ATTEMPT.replace("Connection: Upgrade\r\n", ""),
        ATTEMPT.replace("Upgrade: websocket", "Upgrade: h2c"),
    ] {
        assert_eq!(
            client.send(client.request("GET /chat HTTP/1.1", &lines)).await.expect(200).text(),
            "plain"
        );
        let head = backend.head().await;
        assert_eq!((head.header("upgrade"), head.header("connection")), (None, None));
    }
}

// C-WS-27
#[tokio::test]
async fn the_tokens_of_an_attempt_match_in_any_case_and_in_lists() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    for (upgrade, connection) in [
        ("WebSocket", "UPGRADE"),
        ("WEBSOCKET", "keep-alive, Upgrade"),
        ("foo, websocket", "x,upgrade"),
    ] {
        let lines = ATTEMPT.replace("Upgrade: websocket", &format!("Upgrade: {upgrade}"));
        let lines = lines.replace("Connection: Upgrade", &format!("Connection: {connection}"));
        client.send(client.request("GET /chat HTTP/1.1", &lines)).await.expect(101);
        let head = backend.head().await;
        assert_eq!(
            (head.all("upgrade"), head.all("connection")),
            (vec!["websocket"], vec!["Upgrade"])
        );
    }
}

// C-WS-04
#[tokio::test]
async fn any_answer_but_101_is_passed_on_and_closes_both_connections() {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    for (first, connection) in [("426 Upgrade Required", "Upgrade, close"), ("200 OK", "close")] {
        let (mut client, mut at_backend) =
            half_way(&client::new(&sidegate), &backend, "/chat").await;
        at_backend.head().await;
        at_backend.send(format!("HTTP/1.1 {first}\r\n{upgrade}Content-Length: 2\r\n\r\nno")).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status().to_string(), answer.text()),
            (first[..3].to_owned(), "no".to_owned())
        );
        answer.expect_header("connection", connection);
        client.expect_end().await;
        at_backend.expect_end().await;
    }
    sidegate.expect_metric("sidegate_tunnels_opened_total", [], 0).await;
}

#[tokio::test]
async fn backend_401_and_redirect_reach_the_client_unchanged() {
    let backend = backend::http(|asked| match asked.head.target() {
        "/login" => backend::reply(302)
            .header("Location", "https://login.example/")
            .header("Set-Cookie", "a=1"),
        _ => backend::reply(401).header("WWW-Authenticate", "Bearer").body("who?"),
    });
    let backend = backend.run().await;
    let sidegate = sidegate::new().route("/", &backend).run().await;
    let client = client::new(&sidegate);
    client
        .attempt("/login")
        .await
        .expect(302)
        .expect_header("location", "https://login.example/")
        .expect_header("set-cookie", "a=1");
    let answer = client.attempt("/chat").await;
    assert_eq!(answer.expect(401).expect_header("www-authenticate", "Bearer").text(), "who?");
    sidegate
        .expect_metric("sidegate_requests_total", [("kind", "upgrade"), ("result", "permitted")], 2)
        .await;
}

// C-WS-08, C-WS-09, C-WS-10
#[tokio::test]
async fn a_101_that_is_not_valid_is_a_502() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let switched = "HTTP/1.1 101 Switching Protocols\r\n";
    let asked = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    check_answer(&sidegate, &backend, "", |_| format!("{switched}{asked}\r\n")).await;
    check_answer(&sidegate, &backend, "", |_| {
        format!("{switched}{asked}Sec-WebSocket-Accept: {KEY}\r\n\r\n")
    })
    .await;
    check_answer(&sidegate, &backend, "", |accept| {
        format!("{switched}{asked}Sec-WebSocket-Accept: {}\r\n\r\n", accept.to_uppercase())
    })
    .await;
    check_answer(&sidegate, &backend, "", |accept| {
        format!("{switched}Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
    })
    .await;
    check_answer(&sidegate, &backend, "", |accept| {
        format!("{switched}Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
    })
    .await;
    check_answer(&sidegate, &backend, "", |accept| {
        format!("{switched}Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
    })
    .await;
    sidegate
        .expect_metric("sidegate_requests_total", [("kind", "upgrade"), ("result", "failed")], 6)
        .await;
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "chat"), ("reason", "backend")], 6)
        .await;
}

#[tokio::test]
async fn switch_with_an_unoffered_extension_is_502() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let good = |accept: &str| {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
        )
    };
    for (offered, named) in [
        ("", "Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        (
            "Sec-WebSocket-Extensions: x-other\r\n",
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        ),
        ("", "Sec-WebSocket-Protocol: chat\r\n"),
        ("Sec-WebSocket-Protocol: v1, v2\r\n", "Sec-WebSocket-Protocol: v3\r\n"),
    ] {
        check_answer(&sidegate, &backend, offered, |accept| format!("{}{named}\r\n", good(accept)))
            .await;
    }
}

// C-H1-16
#[tokio::test]
async fn an_answer_to_an_attempt_whose_framing_is_ambiguous_is_a_502() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    for framing in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 2",
        "Transfer-Encoding: gzip",
    ] {
        check_answer(&sidegate, &backend, "", |_| {
            format!("HTTP/1.1 401 Unauthorized\r\n{framing}\r\n\r\nno")
        })
        .await;
    }
}

// F03
#[tokio::test]
async fn backend_that_sends_garbage_or_closes_is_502() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    for nonsense in ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", ""] {
        let (mut client, mut at_backend) =
            half_way(&client::new(&sidegate), &backend, "/chat").await;
        at_backend.head().await;
        at_backend.send(nonsense).await;
        drop(at_backend);
        client.answer().await.expect_refused(502, "backend");
    }
    let (mut client, mut at_backend) = half_way(&client::new(&sidegate), &backend, "/chat").await;
    at_backend.head().await;
    at_backend.reset();
    client.answer().await.expect_refused(502, "backend");
}

// C-WS-28
#[tokio::test]
async fn an_attempt_is_never_sent_twice() {
    let backend = backend::raw(|mut wire| async move { drop(wire.head().await) }).run().await;
    let sidegate =
        sidegate::new().route_to("/chat", &[&backend, &backend::echo().run().await]).run().await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(502, "backend");
    assert_eq!(backend.heads().len(), 1);
    sidegate.expect_metric("sidegate_tunnels_opened_total", [], 0).await;
}

// F01
#[tokio::test]
async fn a_backend_that_refuses_the_connection_is_a_502() {
    let backend = backend::refusing();
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    client::new(&sidegate)
        .attempt("/chat")
        .await
        .expect_refused(502, "backend")
        .expect_header("connection", "close");
    sidegate.expect_metric("sidegate_requests_total", [("result", "failed")], 1).await;
}

// F01
#[tokio::test]
async fn a_backend_that_is_back_is_used_at_once() {
    let backend = backend::refusing();
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .on_route("timeouts = { response = '50ms' }")
        .run()
        .await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(502, "backend");
    backend.listen(); // and still says nothing
    client::new(&sidegate).attempt("/chat").await.expect_refused(504, "backend");
}

// F02
#[tokio::test]
async fn silent_or_hanging_backend_is_504() {
    let (silent, full) = (backend::silent().run().await, backend::full());
    let sidegate =
        sidegate::new().route("/silent", &silent).on_route("timeouts = { response = '100ms' }");
    let sidegate =
        sidegate.route("/full", &full).on_route("timeouts = { dial = '100ms' }").run().await;
    client::new(&sidegate)
        .attempt("/silent")
        .await
        .expect_refused(504, "backend")
        .expect_header("connection", "close");
    client::new(&sidegate).attempt("/full").await.expect_refused(504, "backend");
    sidegate
        .expect_metric("sidegate_requests_total", [("kind", "upgrade"), ("result", "failed")], 2)
        .await;
}

#[tokio::test]
async fn a_refused_dial_tries_the_next_backend() {
    let (refusing, echo) = (backend::refusing(), backend::echo().run().await);
    let sidegate = sidegate::new().route_to("/chat", &[&refusing, &echo]).run().await;
    for _ in 0..3 {
        client::new(&sidegate).open("/chat").await.expect_echo("hello").await;
    }
    assert_eq!(echo.connections(), 3);
}

#[tokio::test]
async fn the_backend_with_the_fewest_tunnels_gets_the_next() {
    let backends =
        [backend::echo().run().await, backend::echo().run().await, backend::echo().run().await];
    let [a, b, c] = &backends;
    let sidegate = sidegate::new().route_to("/chat", &[a, b, c]).run().await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(client::new(&sidegate).open("/chat").await);
    }
    assert_eq!([a.connections(), b.connections(), c.connections()], [2, 2, 2]);
    open.remove(1).close(1000, "").await; // the first one of the second backend
    sidegate.expect_metric("sidegate_tunnels_closed_total", [], 1).await;
    open.push(client::new(&sidegate).open("/chat").await);
    assert_eq!([a.connections(), b.connections(), c.connections()], [2, 3, 2]);
}

#[tokio::test]
async fn a_backend_on_a_unix_socket_serves_as_well() {
    let backend = backend::echo().unix().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    client::new(&sidegate).open("/chat").await.expect_echo("hello").await;
    assert_eq!(backend.head().await.header("host"), Some("localhost"));
}

// C-WS-15, C-WS-17
#[tokio::test]
async fn websocket_fields_pass_unchanged_both_ways() {
    let extensions = "permessage-deflate; client_max_window_bits, x-own; a=1";
    let backend = backend::echo_with(
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\nX-Own: 1\r\n",
    )
    .run()
    .await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client =
        client::new(&sidegate).origin("https://App.example:443").subprotocols(&["v2", "v1"]);
    let answer = client.header("Sec-WebSocket-Extensions", extensions).attempt("/chat").await;
    answer.expect(101).expect_header("sec-websocket-protocol", "v2").expect_header("x-own", "1");
    answer.expect_header(
        "sec-websocket-extensions",
        "permessage-deflate; server_no_context_takeover",
    );
    assert_eq!(
        answer.head.all("content-length").len() + answer.head.all("transfer-encoding").len(),
        0
    );
    let head = backend.head().await;
    assert_eq!(head.header("sec-websocket-extensions"), Some(extensions));
    assert_eq!(
        (head.header("sec-websocket-protocol"), head.header("origin")),
        (Some("v2, v1"), Some("https://App.example:443"))
    );
    assert_eq!(head.all("content-length").len() + head.all("transfer-encoding").len(), 0);
}

// C-WS-17
#[tokio::test]
async fn compressed_frames_pass_bit_by_bit() {
    let backend =
        backend::echo_with("Sec-WebSocket-Extensions: permessage-deflate\r\n").run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let mut client = client::new(&sidegate)
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .open_wire("/chat")
        .await;
    for frame in [
        Frame::new(0xc1, [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        Frame::new(0x41, "not deflate, not ours"),
        Frame::new(0x80, ""),
    ] {
        client.send_frame(frame.clone()).await;
        assert_eq!(client.frame().await, frame);
    }
}

// C-WS-13
#[tokio::test]
async fn fields_named_by_connection_are_removed_and_own_ones_kept() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let lines = ATTEMPT
        .replace("Connection: Upgrade", "X-Secret: 1\r\nConnection: Upgrade, X-Secret, X-Real-IP");
    client.send(client.request("GET /chat HTTP/1.1", &lines)).await.expect(101);
    let head = backend.head().await;
    assert_eq!(
        (head.header("x-secret"), head.header("x-forwarded-for")),
        (None, Some("127.0.0.1"))
    );
    assert_eq!((head.all("upgrade"), head.all("connection")), (vec!["websocket"], vec!["Upgrade"]));
    assert_eq!(head.header("host"), Some("localhost"));
}

/// Sends this attempt at once, behind a plain request, and with a head that is too large to be read
/// without hyper: that each is refused so, and reaches no backend.
async fn check_refused_each_way(sidegate: &Sidegate, lines: &str, status: u16, word: &str) {
    let client = client::new(sidegate);
    for (before, more) in
        [("", String::new()), ("GET /chat HTTP/1.1", String::new()), ("", "x".repeat(9 * 1024))]
    {
        let mut wire = client.connect().await;
        if !before.is_empty() {
            wire.send(client.request(before, "")).await;
            wire.answer().await.expect_refused(426, "plain");
        }
        wire.send(client.request("GET /chat HTTP/1.1", &format!("{lines}X-Big: {more}\r\n"))).await;
        wire.answer().await.expect_refused(status, word);
        wire.expect_end().await;
    }
}

// C-WS-13
#[tokio::test]
async fn attempt_is_refused_when_connection_names_judged_fields() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .subprotocols(&["v2"])
        .origins(&["https://a"])
        .run()
        .await;
    let fields = "Origin: https://a\r\nSec-WebSocket-Protocol: v2\r\n";
    for hidden in
        ["Sec-WebSocket-Protocol", "origin", "SEC_WEBSOCKET_KEY", "host", "x\r\nConnection: Cookie"]
    {
        let lines =
            ATTEMPT.replace("Connection: Upgrade", &format!("Connection: Upgrade ,\t{hidden}"));
        check_refused_each_way(&sidegate, &format!("{lines}{fields}"), 400, "head").await;
    }
    backend.expect_untouched();
    client::new(&sidegate)
        .origin("https://a")
        .subprotocols(&["v2"])
        .open("/chat")
        .await
        .expect_echo("hello")
        .await;
}

// C-WS-07
#[tokio::test]
async fn early_client_bytes_wait_for_the_101() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    let early = [Frame::text("one").encode(true), Frame::text("two").encode(true)].concat();
    wire.send([client.attempt_head("/chat", "").as_bytes(), &early].concat()).await;
    let mut at_backend = backend.accepted().await;
    backend::grant(&mut at_backend, "").await;
    wire.send_frame(Frame::text("three")).await;
    for text in ["one", "two", "three"] {
        assert_eq!(at_backend.frame().await, Frame::text(text));
    }
}

#[tokio::test]
async fn early_client_bytes_of_a_refused_attempt_are_dropped() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wire.send(format!("{}{smuggled}", client.attempt_head("/chat", ""))).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    wire.answer().await.expect(403);
    wire.expect_end().await;
    at_backend.expect_end().await;
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn bytes_behind_a_101_arrive_first() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let (mut client, mut at_backend) = half_way(&client::new(&sidegate), &backend, "/chat").await;
    let granted = backend::granted(&at_backend.head().await, "");
    at_backend.send([granted.as_bytes(), &Frame::text("welcome").encode(false)].concat()).await;
    at_backend.send_frame(Frame::text("next")).await;
    client.answer().await.expect(101);
    assert_eq!(
        [client.frame().await, client.frame().await],
        [Frame::text("welcome"), Frame::text("next")]
    );
}

// C-WS-30
#[tokio::test]
async fn four_megabytes_each_way_at_once_arrive_byte_for_byte() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let (mut client, mut at_backend) = half_way(&client::new(&sidegate), &backend, "/chat").await;
    backend::grant(&mut at_backend, "").await;
    client.answer().await.expect(101);
    let (up, down) = (frames(true), frames(false));
    let (got_down, got_up) =
        tokio::join!(exchange(client, &up, down.len()), exchange(at_backend, &down, up.len()));
    assert!(got_up == up, "what the backend got differs");
    assert!(got_down == down, "what the client got differs");
}

/// Frames of many sizes, 4 MiB in all.
fn frames(masked: bool) -> Vec<u8> {
    let sizes = [0, 1, 125, 126, 65_535, 65_536, 300_000, 7];
    let frame = |index: usize| {
        Frame::binary((0..sizes[index % 8]).map(|at| (at * 31 + index) as u8).collect::<Vec<_>>())
            .encode(masked)
    };
    (0..80).flat_map(frame).collect()
}

/// Sends `bytes` while it reads `count` bytes.
async fn exchange(wire: Wire, bytes: &[u8], count: usize) -> Vec<u8> {
    let (io, mut got) = wire.into_parts();
    let (mut reads, mut writes) = split(io);
    assert!(got.is_empty(), "read ahead");
    got.resize(count, 0);
    let write = async {
        writes.write_all(bytes).await?;
        writes.flush().await
    };
    let both = async { tokio::try_join!(reads.read_exact(&mut got), write) };
    within("four megabytes each way", both).await.unwrap();
    got
}

// C-RT-01
#[tokio::test]
async fn the_path_that_is_judged_is_the_path_that_is_forwarded() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/ticks/", &backend).run().await;
    let client = client::new(&sidegate);
    for (sent, forwarded) in [
        ("/ticks/btc", "/ticks/btc"),
        ("/ticks/%7Euser;v=1/a%20b", "/ticks/~user;v=1/a%20b"),
        ("/chat/../ticks/./b%74c", "/ticks/btc"),
        ("//ticks///b", "/ticks/b"),
        ("/../../ticks/x/..", "/ticks/"),
        ("/%74icks/%2e%2e/ticks/a", "/ticks/a"),
    ] {
        client.attempt(sent).await.expect(101);
        assert_eq!(backend.head().await.target(), forwarded, "{sent}");
    }
    client.attempt("/ticks/../admin").await.expect_refused(404, "route");
}

#[tokio::test]
async fn every_query_passes_byte_for_byte() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/ticks/", &backend).on_route("strip_prefix = true").run().await;
    let client = client::new(&sidegate);
    for query in
        ["?", "?a=1&a=2", "?x=/../y//z/./", "?%zz%00%2f\\", "?q=a?b&c={d}'", "?token=ab%2Bcd=="]
    {
        client.attempt(&format!("/ticks/btc{query}")).await.expect(101);
        assert_eq!(backend.head().await.target(), format!("/btc{query}"));
    }
}

#[tokio::test]
async fn strip_prefix_takes_the_routes_prefix_off() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/ticks/", &backend).on_route("strip_prefix = true");
    let sidegate = sidegate.route("/exact", &backend).on_route("strip_prefix = true").run().await;
    let client = client::new(&sidegate);
    for (sent, forwarded) in [
        ("/ticks/btc", "/btc"),
        ("/ticks/", "/"),
        ("/ticks/a/../b?c", "/b?c"),
        ("/exact", "/"),
        ("/ticks/a;b/c;d", "/a;b/c;d"),
    ] {
        client.attempt(sent).await.expect(101);
        assert_eq!(backend.head().await.target(), forwarded, "{sent}");
    }
}

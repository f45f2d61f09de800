//! Targets that no URI may hold: quotes, angle brackets and bytes beyond ASCII, in queries and
//! paths.
//!
//! An attempt that comes first on its connection is passed on byte for byte; where hyper reads the
//! request, the same is percent-encoded as browsers do.

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate;
use crate::harness::wire::{Frame, Wire, lossy};

/// Queries as libraries and devices send them, and as browsers would.
const QUERIES: [(&[u8], &str); 7] = [
    (b"filter={\"a\":\"b\"}", "filter={%22a%22:%22b%22}"),
    (b"q=<b>&r=a|b^c`d'", "q=%3Cb%3E&r=a|b^c`d'"),
    ("q=\u{e9}\u{1f355}".as_bytes(), "q=%C3%A9%F0%9F%8D%95"),
    (b"name=M\xfcller\xa0\x85", "name=M%FCller%A0%85"),
    (b"\"", "%22"),
    (b"a=%22\"%zz?/../\\", "a=%22%22%zz?/../\\"),
    (b"q={}", "q={}"),
];

/// A request for `/x?QUERY`, with these lines and body behind its first line (`|` means CRLF).
fn with(method: &str, query: &[u8], lines: &str) -> Vec<u8> {
    [
        method.as_bytes(),
        b" /x?",
        query,
        b" HTTP/1.1\r\nHost: localhost\r\n",
        lines.replace('|', "\r\n").as_bytes(),
    ]
    .concat()
}

const UPGRADE: &str = "Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==||";

/// The target that the backend got next, byte for byte.
async fn target(backend: &Backend) -> Vec<u8> {
    let head = backend.head().await;
    head.raw.split(|byte| *byte == b' ').nth(1).unwrap().to_vec()
}

async fn expect_101(wire: &mut Wire) {
    wire.answer().await.expect(101);
    wire.send_frame(Frame::text("hello")).await;
    assert_eq!(wire.frame().await, Frame::text("hello"));
}

#[tokio::test]
async fn a_query_passes_byte_for_byte_when_its_attempt_comes_first() {
    let backend = backend::echo().run().await;
    for clear in [false, true] {
        let sidegate = sidegate::new().route("/", &backend);
        let sidegate = if clear { sidegate.clear() } else { sidegate }.run().await;
        for (query, _) in QUERIES {
            let mut wire = client::new(&sidegate).connect().await;
            wire.send(with("GET", query, UPGRADE)).await;
            expect_101(&mut wire).await;
            assert_eq!(lossy(&target(&backend).await), lossy(&[b"/x?", query].concat()));
        }
    }
}

#[tokio::test]
async fn a_query_is_encoded_when_its_attempt_comes_later() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/", &backend).run().await;
    for (query, encoded) in QUERIES {
        let mut wire = client::new(&sidegate).connect().await;
        wire.send(with("GET", query, "|")).await;
        wire.answer().await.expect_refused(426, "plain");
        wire.send(with("GET", query, UPGRADE)).await;
        expect_101(&mut wire).await;
        assert_eq!(lossy(&target(&backend).await), format!("/x?{encoded}"));
    }
}

#[tokio::test]
async fn a_query_is_encoded_in_every_plain_request_of_a_connection() {
    let backend = backend::http(|asked| backend::reply(200).body(asked.body.clone())).run().await;
    for clear in [false, true] {
        let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'");
        let sidegate = if clear { sidegate.clear() } else { sidegate }.run().await;
        let mut wire = client::new(&sidegate).connect().await;
        // A body that looks like a request stays as it is.
        let body = "GET /?\" HTTP/1.1\r\n\r\n";
        let sized = format!("Content-Length: {}||{body}", body.len());
        let chunked = format!("Transfer-Encoding: chunked||{:x}|{body}|0|T: \"||", body.len());
        for (query, encoded) in QUERIES {
            for (method, lines, echoed) in
                [("GET", "|", ""), ("POST", &sized, body), ("PUT", &chunked, body)]
            {
                wire.send(with(method, query, lines)).await;
                assert_eq!(wire.answer().await.expect(200).text(), echoed);
                assert_eq!(lossy(&target(&backend).await), format!("/x?{encoded}"), "{method}");
            }
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_each_encoded() {
    let backend = backend::http(|asked| backend::reply(200).body(asked.body.clone())).run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").run().await;
    let mut wire = client::new(&sidegate).connect().await;
    let (get, post) = (with("GET", b"<1>", "|"), with("POST", b"<2>", "Content-Length: 3||\"\"\""));
    wire.send([&get[..], &post, &get, &post].concat()).await;
    for (encoded, echoed) in
        [("%3C1%3E", ""), ("%3C2%3E", "\"\"\""), ("%3C1%3E", ""), ("%3C2%3E", "\"\"\"")]
    {
        assert_eq!(wire.answer().await.expect(200).text(), echoed);
        assert_eq!(lossy(&target(&backend).await), format!("/x?{encoded}"));
    }
}

#[tokio::test]
async fn bytes_behind_an_attempt_belong_to_the_tunnel() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/", &backend).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send(with("GET", b"\"", "|")).await;
    wire.answer().await.expect_refused(426, "plain");
    // Masked by zeros, the payload stays readable.
    let line = b"GET /?\" HTTP/1.1\r\n\r\n";
    let frame = [&[0x81, 0x80 | line.len() as u8, 0, 0, 0, 0], &line[..]].concat();
    wire.send([with("GET", b"\"", UPGRADE), frame].concat()).await;
    wire.answer().await.expect(101);
    assert_eq!(wire.frame().await.payload, line);
}

#[tokio::test]
async fn an_answer_other_than_101_reaches_a_client_with_such_a_query() {
    let backend = backend::http(|_| backend::reply(401).body("who?")).run().await;
    let sidegate = sidegate::new().route("/", &backend).run().await;
    let answer = client::new(&sidegate).send(with("GET", b"\"<\xff", UPGRADE)).await;
    assert_eq!(answer.expect(401).text(), "who?");
    assert_eq!(target(&backend).await, b"/x?\"<\xff");
    assert_eq!(backend.heads().len(), 1);
}

#[tokio::test]
async fn a_control_a_space_or_del_in_a_target_is_400_with_a_reason() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").run().await;
    let client = client::new(&sidegate);
    let broken: [&[u8]; 7] = [b"a b", b"\0", b"\t", b"\x1b[2J", b"\x7f", b"\r", b"x HTTP/1.1"];
    for query in broken {
        for lines in ["|", UPGRADE, "Content-Length: 2||ab"] {
            client.expect_refused(with("GET", query, lines), 400, "head").await;
        }
        let mut wire = client.connect().await;
        wire.send(with("GET", b"\"", "|")).await;
        wire.answer().await.expect(200);
        wire.send(with("GET", query, "|")).await;
        wire.answer().await.expect_refused(400, "head");
        wire.expect_end().await;
    }
    assert!(backend.heads().iter().all(|head| head.target() == "/x?%22"), "{:?}", backend.heads());
}

#[tokio::test]
async fn raw_byte_in_a_path_is_judged_and_passed_as_its_escape() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/", &backend).route("/caf%C3%A9/", &backend);
    let sidegate = sidegate.under("shut", |page| page.allow("10.0.0.0/8")).run().await;
    let client = client::new(&sidegate);
    for (sent, forwarded) in [
        ("/a\"{b}|^", "/a\"{b}|^"),
        ("/<a>`", "/%3Ca%3E%60"),
        ("/caf\u{e9}s/../\u{1f355}", "/%F0%9F%8D%95"),
        ("/x\u{85}\u{202e}?\"", "/x%C2%85%E2%80%AE?\""),
    ] {
        client.attempt(sent).await.expect(101);
        assert_eq!(backend.head().await.target(), forwarded, "{sent}");
    }
    client.attempt("/caf\u{e9}/x").await.expect_refused(403, "network");
    client.attempt("/\u{e9}%2fx").await.expect_refused(400, "path");
}

#[tokio::test]
async fn target_of_8_kib_is_measured_before_encoding() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").run().await;
    let client = client::new(&sidegate);
    let query = |length: usize| "\"".repeat(length - "/x?".len());
    client.send(with("GET", query(8 * 1024).as_bytes(), "|")).await.expect(200);
    assert_eq!(backend.head().await.target().len(), 3 * (8 * 1024 - 3) + 3);
    client.expect_refused(with("GET", query(8 * 1024 + 1).as_bytes(), "|"), 414, "head").await;
    // A fragment's growth by encoding doesn't count towards the target.
    let long = [&[b'a'; 8 * 1024][..], b"#", &[b'"'; 200]].concat();
    client.expect_refused(with("GET", &long, "|"), 414, "head").await;
}

#[tokio::test]
async fn head_too_large_when_encoded_is_left_to_hyper() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().on_listener("max_head = '8KiB'").route("/", &backend).run().await;
    let attempt = with("GET", &[b'"'; 3000], UPGRADE);
    client::new(&sidegate).send(attempt).await.expect(431);
    backend.expect_untouched();
}

#[tokio::test]
async fn a_redirect_leads_to_the_encoded_target() {
    let backend = backend::echo().run().await;
    let redirect =
        "[[listener]]\nname = 'redirect'\nlisten = '127.0.0.1:0'\ntls = false\nredirect = 'https'";
    let sidegate = sidegate::new().route("/", &backend).toml(redirect).run().await;
    let client = client::new(&sidegate).at_clear(sidegate.listener("redirect"));
    let answer = client.send(with("GET", b"<\"\xff>{}", "|")).await;
    let location = answer.expect(308).head.header("location").unwrap().to_owned();
    assert!(location.ends_with("/x?%3C%22%FF%3E{}"), "{location}");
}

/// Paths as a route with `paths = "as-is"` passes them.
const AS_IS: [&str; 7] = [
    "/api/queues/%2F/a//b",
    "/api//",
    "/api/group%2Fproject/x;y=1?q=%2F//..",
    "/api/a%23b%3fc/%7e%61",
    "/api/100%25/a./%20",
    "/api/",
    "/api/plain",
];

#[tokio::test]
async fn as_is_path_is_passed_unchanged() {
    let backend = backend::echo().run().await;
    let plain = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new().route("/api/", &backend).on_route("paths = 'as-is'");
    let sidegate = sidegate
        .route("/api/", &plain)
        .on_route("name = 'plain'\nhttp = 'forward'\npaths = 'as-is'")
        .host("plain");
    let sidegate = sidegate.run().await;
    let client = client::new(&sidegate);
    for path in AS_IS {
        client.attempt(path).await.expect(101);
        assert_eq!(backend.head().await.target(), path);
        let mut wire = client.connect().await;
        wire.send(client.request(&format!("GET {path} HTTP/1.1"), "")).await;
        wire.answer().await.expect_refused(426, "plain");
        wire.send(client.attempt_head(path, "")).await;
        wire.answer().await.expect(101);
        assert_eq!(backend.head().await.target(), path);
        let other = client.clone().host("plain");
        let mut wire = other.connect().await;
        for _ in 0..2 {
            wire.send(other.request(&format!("GET {path} HTTP/1.1"), "")).await;
            wire.answer().await.expect(200);
            assert_eq!(plain.head().await.target(), path);
        }
    }
}

#[tokio::test]
async fn a_path_that_begins_with_two_slashes_is_no_authority() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new()
        .route("/", &backend)
        .on_route("http = 'forward'\npaths = 'as-is'")
        .run()
        .await;
    let client = client::new(&sidegate);
    for path in ["//b.example/x", "//", "///a%2F", "//user@b.example:80/?q"] {
        client.get(path).await.expect(200);
        assert_eq!(backend.head().await.target(), path);
        client.attempt(path).await.expect(200);
        assert_eq!(backend.head().await.target(), path);
    }
}

#[tokio::test]
async fn targets_are_encoded_behind_incomplete_upgrades() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").run().await;
    let mut wire = client::new(&sidegate).connect().await;
    for lines in [
        "Upgrade: h2c|Connection: Upgrade, HTTP2-Settings|HTTP2-Settings: AAMAAABk||",
        "Upgrade: websocket||",
        "|",
    ] {
        wire.send(with("GET", b"\"", lines)).await;
        wire.answer().await.expect(200);
        assert_eq!(lossy(&target(&backend).await), "/x?%22");
    }
}

#[tokio::test]
async fn as_is_path_that_leaves_its_route_is_refused() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/", &backend).under("shut", |page| page.allow("10.0.0.0/8"));
    let sidegate = sidegate
        .route("/api/", &backend)
        .on_route("policy = 'default'\npaths = 'as-is'")
        .run()
        .await;
    let client = client::new(&sidegate);
    for path in [
        "/api/../x",
        "/api/./x",
        "/api/%2e%2e/x",
        "/api/%2F..",
        "/api/..%2Fx",
        "/api/%252e%252e%252fx",
        "/api/..;/x",
        "/api/..%3bx/x",
        "/api/%00",
        "/api/\\..\\x",
        "/api/..%5cx",
        "/api/%zz",
        "/api/%c0%ae%c0%ae/x",
        "//api/x",
        "/%61pi/x",
        "/api%2Fx",
        "/x%2Fy",
    ] {
        client.attempt(path).await.expect_refused(400, "path");
    }
    backend.expect_untouched();
    client.attempt("/x").await.expect_refused(403, "network");
}

#[tokio::test]
async fn reload_revokes_tunnels_that_need_an_as_is_path() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("paths = 'as-is'").run().await;
    let client = client::new(&sidegate);
    let (mut hiding, mut merged) = (client.open("/a%2Fb").await, client.open("/a//b").await);
    sidegate
        .reconfigure(|config| {
            let route = config["route"][0].as_table_mut().unwrap();
            assert_eq!(route.remove("paths").unwrap().as_str(), Some("as-is"));
        })
        .await;
    hiding.expect_close_with(1008, "path").await;
    merged.expect_echo("on").await;
    client.attempt("/a%2Fb").await.expect_refused(400, "path");
}

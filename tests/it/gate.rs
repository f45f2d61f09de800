//! The request gate over real sockets: requests that hyper accepts and Sidegate must refuse
//! (`docs/spec/wire.md`, "The order of decisions").
//!
//! Every route forwards plain HTTP, so that whatever passes the gate reaches the backend and shows
//! there.

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::wire::{Answer, lossy};

/// A backend that answers every request with 200 and its body, a route that forwards to it, and a
/// client.
async fn gate() -> (Backend, Sidegate, Client) {
    let backend = backend::http(|asked| backend::reply(200).body(asked.body.clone())).run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").run().await;
    let client = client::new(&sidegate);
    (backend, sidegate, client)
}

/// A head with these lines, ended; `|` means CRLF.
fn head(lines: &str) -> String {
    format!("{lines}||").replace('|', "\r\n")
}

/// Asserts that each of these heads (`|` means CRLF) is refused with this status and word, closed,
/// and reaches no backend.
async fn refused(heads: &[&str], status: u16, word: &str) {
    let (backend, sidegate, client) = gate().await;
    for lines in heads {
        println!("{lines}");
        client.expect_refused(head(lines), status, word).await;
    }
    backend.expect_untouched();
    sidegate
        .expect_metric(
            "sidegate_refusals_total",
            [("route", "-"), ("reason", word)],
            heads.len() as u32,
        )
        .await;
}

/// Asserts that hyper would refuse each of these heads, which are refused, closed and counted as
/// bad, and reach no backend.
async fn rejected(heads: &[&str], status: u16) {
    let (backend, sidegate, client) = gate().await;
    for lines in heads {
        println!("{lines:?}");
        client.expect_refused(head(lines), status, "head").await;
    }
    backend.expect_untouched();
    sidegate
        .expect_metric(
            "sidegate_connections_closed_total",
            [("reason", "head")],
            heads.len() as u32,
        )
        .await;
}

// C-H1-01
#[tokio::test]
async fn transfer_encoding_wins_over_content_length_and_closes() {
    let (backend, _sidegate, client) = gate().await;
    for framing in [
        "Content-Length: 5|Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked|Content-Length: 5",
    ] {
        let mut wire = client.connect().await;
        wire.send(
            head(&format!("POST / HTTP/1.1|Host: a|{framing}"))
                + "3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
        assert_eq!(wire.answer().await.expect(200).text(), "abc");
        wire.expect_end().await;
        let head = backend.head().await;
        assert_eq!(
            (head.all("content-length"), head.all("transfer-encoding")),
            (vec![], vec!["chunked"])
        );
    }
    assert_eq!(backend.heads().len(), 2);
}

// C-H1-03, C-H1-05
#[tokio::test]
async fn a_transfer_encoding_that_is_not_chunked_alone_is_refused() {
    refused(
        &[
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked, chunked",
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked, gzip, chunked",
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked",
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: chunked",
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: identity|Transfer-Encoding: chunked",
        ],
        400,
        "head",
    )
    .await;
    rejected(
        &[
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked, gzip",
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: xchunked",
            "POST / HTTP/1.1|Host: a|Transfer-Encoding : chunked",
            "POST / HTTP/1.1|Host: a|Transfer-Encoding: \x0bchunked",
            "POST / HTTP/1.0|Host: a|Transfer-Encoding: chunked",
        ],
        400,
    )
    .await;
}

// C-H1-07
#[tokio::test]
async fn a_content_length_that_is_not_one_number_is_rejected() {
    rejected(
        &[
            "POST / HTTP/1.1|Host: a|Content-Length: 3|Content-Length: 4",
            "POST / HTTP/1.1|Host: a|Content-Length: 3, 3",
            "POST / HTTP/1.1|Host: a|Content-Length: +3",
            "POST / HTTP/1.1|Host: a|Content-Length: ",
            "POST / HTTP/1.1|Host: a|Content-Length: 0x3",
            "POST / HTTP/1.1|Host: a|Content-Length: 18446744073709551616",
            "GET / HTTP/1.1|Host: a|Upgrade: websocket|Connection: Upgrade|Content-Length: 18446744073709551616",
            "POST / HTTP/1.1|Host: a|Content-Length: 99999999999999999999",
            "POST / HTTP/1.1|Host: a|Content-Length: -1",
        ],
        400,
    )
    .await;
}

// C-H1-08, C-H1-09
#[tokio::test]
async fn invalid_chunk_ends_the_connection() {
    let backend = backend::raw(|mut wire| async move {
        let _head = wire.try_head().await;
        let body = lossy(&wire.rest().await);
        assert!(!body.ends_with("0\r\n\r\n"), "a whole request: {body:?}");
    });
    let backend = backend.run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").run().await;
    let bad = [
        "fffffffffffffffff\r\nabc",
        "3\r\nabcX\r\n0\r\n\r\n",
        "zz\r\n",
        "3\nabc\n0\n\n",
        "3;\nabc\r\n0\r\n\r\n",
    ];
    for chunks in bad {
        let request = head("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked") + chunks;
        client::new(&sidegate).expect_refused(request, 400, "head").await;
    }
    backend.expect_done(backend.connections()).await;
}

// C-H1-11, C-H1-12
#[tokio::test]
async fn heads_that_break_the_grammar_are_rejected() {
    rejected(
        &[
            "GET / HTTP/1.1|Host: a|X: a\rb",
            "GET / HTTP/1.1|Host: a|X: a\0b",
            "GET / HTTP/1.1|Host: a|X: a| folded",
            "GET / HTTP/1.1| Host: a",
            "GET / HTTP/1.1|Host: a|Foo : x",
            "GET / HTTP/1.1|Host: a|Fo o: x",
            "GET / HTTP/1.1|Host: a|: x",
            "GET / HTTP/1.1|Host: a|no colon",
            "G\x01T / HTTP/1.1|Host: a",
            "GET / HTTP/2.1|Host: a",
            "GET / HTTPS/1.1|Host: a",
            "GET / HTTP/2.0|Host: a",
        ],
        400,
    )
    .await;
}

// C-H1-13
#[tokio::test]
async fn bare_line_feeds_reach_the_backend_as_crlf() {
    let (backend, _sidegate, client) = gate().await;
    client.send("GET /x HTTP/1.1\nHost: a\nX-One: 1\n\n").await.expect(200);
    let head = backend.head().await;
    assert_eq!((head.target(), head.header("x-one")), ("/x", Some("1")));
    assert_eq!(lossy(&head.raw).replace("\r\n", "").matches(['\r', '\n']).count(), 0);
}

// C-RT-14
#[tokio::test]
async fn missing_repeated_or_invalid_host_is_refused() {
    let unsound = [
        "GET / HTTP/1.1|X: no host",
        "GET / HTTP/1.1|Host: a|Host: a",
        "GET / HTTP/1.1|Host: a|Host: b",
        "GET / HTTP/1.1|Host: ",
        "GET / HTTP/1.1|Host: .",
        "GET / HTTP/1.1|Host: a/b",
        "GET / HTTP/1.1|Host: a:b",
        "GET / HTTP/1.1|Host: a:99999",
        "GET / HTTP/1.1|Host: user@a",
        "GET / HTTP/1.1|Host: a b",
        "GET / HTTP/1.1|Host: [::1",
        "GET / HTTP/1.1|Host: a, b",
    ];
    refused(&unsound, 400, "head").await;
}

// C-RT-14
#[tokio::test]
async fn host_is_routed_canonically_and_forwarded_unchanged() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new()
        .clear()
        .route("/", &backend)
        .host("ws.example.com")
        .on_route("http = 'forward'")
        .run()
        .await;
    for host in [
        "ws.example.com",
        "WS.Example.COM",
        "ws.example.com.",
        "ws.example.com:8443",
        "Ws.example.com.:1",
    ] {
        client::new(&sidegate).host(host).get("/").await.expect(200);
        assert_eq!(backend.head().await.header("host"), Some(host));
    }
    client::new(&sidegate).host("[::1]:80").get("/").await.expect_refused(404, "route");
}

// C-RT-13
#[tokio::test]
async fn an_absolute_target_that_disagrees_with_host_is_refused() {
    let disagreeing = [
        "GET http://b/ HTTP/1.1|Host: a",
        "GET http://a:81/ HTTP/1.1|Host: a",
        "GET https://a/ HTTP/1.1|Host: a:80",
        "GET http://user@a/ HTTP/1.1|Host: a",
        "GET ftp://a/ HTTP/1.1|Host: a",
        "GET http://a/ HTTP/1.1|X: no host",
    ];
    refused(&disagreeing, 400, "head").await;
    let (backend, _sidegate, client) = gate().await;
    client.send(head("GET http://A/x?y HTTP/1.1|Host: a")).await.expect(200);
    assert_eq!(backend.head().await.target(), "/x?y");
}

// C-H1-23, C-H1-27
#[tokio::test]
async fn method_with_a_wrong_target_form_is_refused() {
    refused(
        &[
            "GET * HTTP/1.1|Host: a",
            "OPTIONS */ HTTP/1.1|Host: a",
            "GET a:80 HTTP/1.1|Host: a",
            "GET admin HTTP/1.1|Host: a",
            "CONNECT a:80 HTTP/1.1|Host: a:80",
            "CONNECT / HTTP/1.1|Host: a",
            "CONNECT http://a/ HTTP/1.1|Host: a",
            "CONNECT * HTTP/1.1|Host: a",
        ],
        400,
        "head",
    )
    .await;
}

// C-H1-23
#[tokio::test]
async fn options_asterisk_has_no_route() {
    refused(&["OPTIONS * HTTP/1.1|Host: a", "OPTIONS * HTTP/1.0"], 404, "route").await;
}

#[tokio::test]
async fn later_minor_version_is_served_as_http_1_1() {
    let (backend, sidegate, client) = gate().await;
    let mut wire = client.connect().await;
    for (target, seen) in [("/a", "/a"), ("/?\"", "/?%22")] {
        wire.send(head(&format!("GET {target} HTTP/1.2|Host: a"))).await;
        assert_eq!(wire.answer().await.expect(200).head.word(0), "HTTP/1.1");
        assert_eq!(backend.head().await.target(), seen);
    }
    let attempt = client.attempt_head("/", "").replace("HTTP/1.1", "HTTP/1.9");
    client.send(attempt).await.expect(200);
    assert_eq!(backend.head().await.header("upgrade"), Some("websocket"));
    drop(sidegate);
}

// C-H1-23
#[tokio::test]
async fn a_target_that_is_no_uri_is_never_served() {
    let (backend, _sidegate, client) = gate().await;
    for target in ["*/test", "", "http://", "http:///x", "//", "/\u{7f}", "a\"<>"] {
        let answer = client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(answer.status() == 400 || target == "//", "{target:?} {answer:?}");
    }
    assert!(backend.heads().iter().all(|head| head.target() == "/"));
}

// C-H1-15
#[tokio::test]
async fn connection_is_refused_when_it_names_an_end_to_end_field() {
    let named = [
        "Host",
        "origin",
        "COOKIE",
        "Authorization",
        "Content-Length",
        "Content-Type",
        "Sec-WebSocket-Protocol",
        "Forwarded",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Request-Id",
        "Client-Cert",
        "Via",
        "Date",
        "Cache-Control",
        "Range",
    ];
    let mut heads: Vec<_> =
        named.map(|name| format!("GET / HTTP/1.1|Host: a|Connection: {name}")).into();
    heads.extend(
        [
            "keep-alive ,\tCookie",
            ",,Cookie,",
            "close|Connection: Cookie",
            "|Connection: x,Cookie |Connection: y",
        ]
        .map(|value| format!("GET / HTTP/1.1|Host: a|Connection: {value}")),
    );
    heads.push("GET / HTTP/1.0|Host: a|Connection: Cookie".into());
    refused(&heads.iter().map(String::as_str).collect::<Vec<_>>(), 400, "head").await;
}

// C-H1-15, C-WS-11
#[tokio::test]
async fn connection_passes_when_it_names_anything_else() {
    let (backend, _sidegate, client) = gate().await;
    let upgrade = "Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA";
    for value in [
        "close",
        "keep-alive",
        "TE|TE: trailers",
        "proxy-connection",
        upgrade,
        "X-Own, Accept, \"Cookie\"",
    ] {
        let lines =
            format!("GET / HTTP/1.1|Host: a|Cookie: a=1|X-Own: 1|Accept: */*|Connection: {value}");
        client.send(head(&lines)).await.expect(200);
        let got = backend.head().await;
        assert_eq!(
            (got.header("connection"), got.header("cookie")),
            (None, Some("a=1")),
            "{value}"
        );
        assert_eq!(got.header("x-own").is_none(), value.contains("X-Own"), "{value}");
    }
}

// C-H1-25
#[tokio::test]
async fn http_0_9_is_rejected() {
    let (backend, _sidegate, client) = gate().await;
    for simple in ["GET /\r\n", "GET /\r\n\r\n", "GET / HTTP/0.9\r\nHost: a\r\n\r\n"] {
        client.expect_refused(simple, 400, "head").await;
    }
    backend.expect_untouched();
}

#[tokio::test]
async fn fragment_is_removed_before_judging() {
    let (backend, _sidegate, client) = gate().await;
    client.send(head("GET /a#/../b HTTP/1.1|Host: a")).await.expect(200);
    assert_eq!(backend.head().await.target(), "/a");
}

// C-RT-07, C-RT-08, C-RT-11
#[tokio::test]
async fn ambiguous_path_is_refused() {
    refused(
        &[
            "GET /% HTTP/1.1|Host: a",
            "GET /%1 HTTP/1.1|Host: a",
            "GET /%zz HTTP/1.1|Host: a",
            "GET /%00%zz HTTP/1.1|Host: a",
            "GET /a%2fb HTTP/1.1|Host: a",
            "GET /a%5Cb HTTP/1.1|Host: a",
            "GET /a%00b HTTP/1.1|Host: a",
            "GET /a%23b HTTP/1.1|Host: a",
            "GET /a%3fb HTTP/1.1|Host: a",
            "GET /a\\b HTTP/1.1|Host: a",
        ],
        400,
        "path",
    )
    .await;
}

#[tokio::test]
async fn a_dot_segment_with_a_parameter_is_refused() {
    refused(
        &[
            "GET /a/..;/b HTTP/1.1|Host: a",
            "GET /a/..;x=y HTTP/1.1|Host: a",
            "GET /a/.;/b HTTP/1.1|Host: a",
            "GET /a/..%3b/b HTTP/1.1|Host: a",
            "GET /a/%2e%2E%3B/b HTTP/1.1|Host: a",
            "GET /a/..;/../b HTTP/1.1|Host: a",
            "GET http://a/x/..;/b HTTP/1.1|Host: a",
        ],
        400,
        "path",
    )
    .await;
}

/// A backend behind an open route, and the strict `/admin/` beside it.
async fn two_policies() -> (Backend, Sidegate, Client) {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new()
        .route("/", &backend)
        .on_route("http = 'forward'")
        .route("/admin/", &backend);
    let sidegate = sidegate
        .on_route("http = 'forward'")
        .under("shut", |page| page.allow("192.0.2.0/24"))
        .run()
        .await;
    let client = client::new(&sidegate);
    (backend, sidegate, client)
}

#[tokio::test]
async fn path_with_a_reading_of_another_policy_is_refused() {
    let (backend, sidegate, client) = two_policies().await;
    let paths = [
        "/admin;a=b/x",
        "/public/%252e%252e/admin/x",
        "/public/%252e%252e;/admin/x",
        "/%2561dmin/x",
        "/public/%c0%ae%c0%ae/admin/x",
        "/admin./x",
        "/admin%20/x",
        "/admin.;x=y/",
        "/public/..%255cadmin/x",
    ];
    for path in paths {
        let mut wire = client.connect().await;
        for head in [head(&format!("GET {path} HTTP/1.1|Host: a")), client.attempt_head(path, "")] {
            wire.send(head).await;
            wire.answer().await.expect_refused(400, "path");
        }
        client.attempt(path).await.expect_refused(400, "path");
    }
    backend.expect_untouched();
    let labels = [("route", "root"), ("reason", "path")];
    sidegate.expect_metric("sidegate_refusals_total", labels, 3 * paths.len() as u32).await;
}

#[tokio::test]
async fn path_passes_when_no_reading_has_another_policy() {
    let (backend, _sidegate, client) = two_policies().await;
    for path in
        ["/public/a;b=c/d", "/public/%2541%c3%a9", "/v1./x%20", "/public/..%20/x", "/ADMIN/x"]
    {
        client.get(path).await.expect(200);
        assert_eq!(backend.head().await.target(), path);
    }
    client.get("/admin/x;y").await.expect_refused(403, "network");
}

// C-RT-01, C-RT-08
#[tokio::test]
async fn a_path_reaches_the_backend_in_its_canonical_form() {
    let (backend, _sidegate, client) = gate().await;
    for (sent, forwarded) in [
        ("/a/../b", "/b"),
        ("/./a", "/a"),
        ("//a//b", "/a/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/..///b///", "/b/"),
        ("/%2e%2e/a%2Fb".trim_end_matches("%2Fb"), "/a"),
        ("/a%3bb;c", "/a%3bb;c"),
        ("/%61?x=%2f/../", "/a?x=%2f/../"),
    ] {
        client.send(head(&format!("GET {sent} HTTP/1.1|Host: a"))).await.expect(200);
        assert_eq!(backend.head().await.target(), forwarded, "{sent}");
    }
}

// C-H1-20
#[tokio::test]
async fn a_target_over_8_kib_is_414_and_one_over_the_heads_limit_431() {
    let (backend, sidegate, client) = gate().await;
    client
        .expect_refused(
            head(&format!("GET /{} HTTP/1.1|Host: a", "a".repeat(8 * 1024))),
            414,
            "head",
        )
        .await;
    client
        .expect_refused(
            head(&format!("GET /{} HTTP/1.1|Host: a", "a".repeat(60 * 1024))),
            431,
            "head",
        )
        .await;
    backend.expect_untouched();
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "head")], 2).await;
    client.get(&format!("/{}", "a".repeat(8 * 1024 - 1))).await.expect(200);
}

// C-H1-21, C-H1-22
#[tokio::test]
async fn a_head_over_its_limit_or_with_over_100_fields_is_431() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new()
        .route("/", &backend)
        .on_route("http = 'forward'")
        .on_listener("max_head = '16KiB'")
        .run()
        .await;
    let client = client::new(&sidegate);
    let with = |size: usize| head(&format!("GET / HTTP/1.1|Host: a|X-Big: {}", "b".repeat(size)));
    for large in [
        with(17 * 1024),
        with(300 * 1024),
        head(&format!("GET / HTTP/1.1|Host: a{}", "|X: y".repeat(100))),
    ] {
        client.expect_refused(large, 431, "head").await;
    }
    backend.expect_untouched();
    client.send(with(15 * 1024)).await.expect(200);
    client.send(head(&format!("GET / HTTP/1.1|Host: a{}", "|X: y".repeat(99)))).await.expect(200);
}

// C-H1-10
#[tokio::test]
async fn a_refusal_with_an_unread_body_closes_the_connection() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    for (lines, status, word) in [
        ("POST /chat HTTP/1.1|Host: a|Content-Length: 40", 426, "plain"),
        ("POST /none HTTP/1.1|Host: a|Content-Length: 40", 404, "route"),
        ("POST /none HTTP/1.1|Host: a|Transfer-Encoding: chunked", 404, "route"),
    ] {
        let answer = client
            .expect_refused(head(lines) + "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", status, word)
            .await;
        assert!(
            answer.header("connection").is_some_and(|connection| connection.ends_with("close")),
            "{answer:?}"
        );
    }
    backend.expect_untouched();
}

// C-H1-26
#[tokio::test]
async fn pipelined_requests_are_each_judged_in_order() {
    let backend = backend::http(|asked| backend::reply(200).body(asked.head.target())).run().await;
    let sidegate = sidegate::new().route("/open/", &backend).on_route("http = 'forward'");
    let sidegate = sidegate.route("/post/", &backend).route("/shut/", &backend);
    let sidegate = sidegate.under("shut", |page| page.allow("192.0.2.0/24")).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    let paths = ["/open/1", "/post/2", "/open/3", "/shut/4", "/open/5"];
    let requests = paths.map(|path| head(&format!("GET {path} HTTP/1.1|Host: a")));
    wire.send(requests.concat()).await;
    let answers: [Answer; 4] =
        [wire.answer().await, wire.answer().await, wire.answer().await, wire.answer().await];
    assert_eq!((answers[0].text(), answers[2].text()), ("/open/1".into(), "/open/3".into()));
    answers[1].expect_refused(426, "plain");
    answers[3].expect_refused(403, "network");
    wire.expect_end().await; // a client that is not admitted keeps no connection
    assert_eq!(backend.heads().len(), 2);
}

#[tokio::test]
async fn plain_refusals_keep_the_connection_for_an_attempt() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    for _ in 0..3 {
        wire.send(head("GET /chat HTTP/1.1|Host: localhost")).await;
        wire.answer().await.expect_refused(426, "plain").expect_header("connection", "Upgrade");
    }
    wire.send(client.attempt_head("/chat", "")).await;
    wire.answer().await.expect(101);
    wire.expect_echo("hello").await;
    sidegate
        .expect_metric("sidegate_requests_total", [("kind", "plain"), ("result", "refused")], 3)
        .await;
}

#[tokio::test]
async fn connection_close_of_a_client_is_honoured() {
    let (_backend, _sidegate, client) = gate().await;
    for lines in [
        "GET / HTTP/1.1|Host: a|Connection: close",
        "GET / HTTP/1.0|Host: a",
        "GET /% HTTP/1.1|Host: a",
    ] {
        let mut wire = client.connect().await;
        wire.send(head(lines)).await;
        wire.answer().await;
        wire.expect_end().await;
    }
}

#[tokio::test]
async fn a_declared_body_over_the_limit_is_413_before_the_dial() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new()
        .route("/", &backend)
        .on_route("http = 'forward'\nmax_body = '1KiB'")
        .run()
        .await;
    let client = client::new(&sidegate);
    client.expect_refused(head("POST / HTTP/1.1|Host: a|Content-Length: 1025"), 413, "body").await;
    client
        .expect_refused(
            head("POST / HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 1025"),
            413,
            "body",
        )
        .await;
    backend.expect_untouched();
    client
        .send(head("POST / HTTP/1.1|Host: a|Content-Length: 1024") + &"x".repeat(1024))
        .await
        .expect(200);
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "root"), ("reason", "body")], 2)
        .await;
}

#[tokio::test]
async fn chunked_body_over_the_limit_is_413() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new()
        .route("/", &backend)
        .on_route("http = 'forward'\nmax_body = '1KiB'")
        .run()
        .await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    wire.send(
        head("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked") + &chunk.repeat(3) + "0\r\n\r\n",
    )
    .await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    wire.answer().await.expect_refused(413, "body");
    wire.expect_end().await;
    assert!(!lossy(&at_backend.rest().await).ends_with("0\r\n\r\n"), "a whole request");
}

#[tokio::test]
async fn chunked_body_over_the_limit_after_the_head_is_cut() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new()
        .route("/", &backend)
        .on_route("http = 'forward'\nmax_body = '1KiB'")
        .run()
        .await;
    let mut wire = client::new(&sidegate).connect().await;
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    wire.send(head("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked") + &chunk).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    assert_eq!(wire.head().await.status(), 200);
    wire.send(chunk.repeat(2)).await;
    let rest = lossy(&wire.rest().await);
    assert!(!rest.ends_with("0\r\n\r\n"), "a whole answer: {rest:?}");
}

// C-H1-28
#[tokio::test]
async fn expect_100_continue_is_answered_for_a_silent_backend() {
    let (backend, _sidegate, client) = gate().await;
    let mut wire = client.connect().await;
    wire.send(head("POST / HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 5")).await;
    assert_eq!(wire.head().await.status(), 100);
    wire.send("hello").await;
    assert_eq!(wire.answer().await.expect(200).text(), "hello");
    assert_eq!(backend.head().await.header("expect"), Some("100-continue"));
    wire.send(head("POST /none HTTP/1.0|Host: a|Expect: 100-continue|Content-Length: 5") + "hello")
        .await;
    assert_eq!(wire.answer().await.expect(200).informed, [0_u16; 0]);
}

//! Forwarding to a backend and back: headers, and plain HTTP streamed both ways.

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::wire::{Answer, Frame, Head, Wire, lossy};

/// An agent that forwards plain HTTP to `backend`.
async fn forwarding(backend: &Backend) -> Sidegate {
    sidegate::new().route("/", backend).on_route("http = 'forward'").run().await
}

/// A plain request with these header lines (`|` means CRLF), and the head that the backend gets of
/// it.
async fn forwarded(lines: &str) -> Head {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = forwarding(&backend).await;
    let lines = lines.replace('|', "\r\n");
    client::new(&sidegate)
        .send(format!("GET /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"))
        .await
        .expect(200);
    backend.head().await
}

/// A plain request, its answer as the backend writes it (`|` means CRLF), and what the client gets.
async fn answered(answer: &str) -> Answer {
    let answer = answer.replace('|', "\r\n");
    let backend = backend::raw(move |mut wire| {
        let answer = answer.clone();
        async move {
            wire.head().await;
            // A fault and the end of the answer come together with its head.
            wire.send_last(answer).await;
        }
    });
    let backend = backend.run().await;
    client::new(&forwarding(&backend).await).get("/").await
}

/// A connection to `sidegate`, and the idle backend connection that its first request made
/// (answered with 200 and a length).
async fn idle(sidegate: &Sidegate, backend: &Backend) -> (Wire, Wire) {
    let mut client = client::new(sidegate).connect().await;
    client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    client.answer().await.expect(200);
    (client, at_backend)
}

#[tokio::test]
async fn backend_gets_the_forwarded_fields() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).certificate(&["ws.example.com"]).run().await;
    client::new(&sidegate)
        .host("ws.example.com")
        .header("X-Own", "1")
        .from("127.0.0.7")
        .open("/chat")
        .await;
    let head = backend.head().await;
    for (name, value) in [
        ("X-Forwarded-For", "127.0.0.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "ws.example.com"),
        ("X-Forwarded-Port", "443"),
        ("Host", "ws.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
    ] {
        assert_eq!(head.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn forged_forwarded_fields_are_removed() {
    let forged = "X-Forwarded-For: 10.0.0.1|X-Forwarded-Proto: https|X-Forwarded-Host: evil|X-Forwarded-Port: 1|X-Forwarded-Prefix: /x|\
        Forwarded: for=10.0.0.1|X-Real-IP: 10.0.0.1|True-Client-IP: 10.0.0.1|CF-Connecting-IP: 10.0.0.1|X-Client-IP: 10.0.0.1|\
        X-Cluster-Client-IP: 10.0.0.1|X-Original-URL: /admin|X-Rewrite-URL: /admin|Client-Cert: x|Client-Cert-Chain: x|X-Request-Id: mine";
    let head = forwarded(&format!("{forged}|X-Forwarded-For: 10.0.0.2")).await;
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    let removed = [
        "forwarded",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-client-ip",
        "x-cluster-client-ip",
    ];
    for name in removed.iter().chain(&[
        "x-original-url",
        "x-rewrite-url",
        "client-cert",
        "client-cert-chain",
        "x-forwarded-prefix",
    ]) {
        assert_eq!(head.header(name), None, "{name}");
    }
    let text = lossy(&head.raw);
    assert!(
        !text.contains("10.0.0.") && !text.contains("evil") && !text.contains("mine"),
        "{text}"
    );
}

// C-H1-14
#[tokio::test]
async fn underscore_spellings_of_own_fields_are_removed() {
    let head =
        forwarded("X_Forwarded_For: 10.0.0.1|x-forwarded_proto: https|X_Real_IP: 1|CLIENT_CERT: x|X_Request_Id: y|x_api_key: 7")
            .await;
    for name in ["X_Forwarded_For", "x-forwarded_proto", "X_Real_IP", "CLIENT_CERT", "X_Request_Id"]
    {
        assert_eq!(head.header(name), None, "{name}");
    }
    assert_eq!(head.header("x_api_key"), Some("7"));
}

// C-H1-15
#[tokio::test]
async fn hop_by_hop_fields_are_removed_both_ways() {
    let hops = "Connection: keep-alive, X-Named|X-Named: 1|Keep-Alive: timeout=5|Proxy-Connection: keep-alive|TE: trailers|Upgrade: h2c";
    let head = forwarded(hops).await;
    let answer = answered(&format!("HTTP/1.1 200 OK|{hops}|X-Kept: 1|Content-Length: 2||ok")).await;
    for name in ["connection", "x-named", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!((head.header(name), answer.header(name)), (None, None), "{name}");
    }
    answer.expect_header("x-kept", "1");
}

// C-WS-11
#[tokio::test]
async fn h2c_is_never_upgraded() {
    let head = forwarded(
        "Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    )
    .await;
    assert_eq!(
        (head.header("upgrade"), head.header("connection"), head.header("http2-settings")),
        (None, None, None)
    );
}

#[tokio::test]
async fn request_id_is_generated_and_equal_on_both_sides() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = forwarding(&backend).await;
    let client = client::new(&sidegate).header("X-Request-Id", "forged");
    client.get("/one").await.expect(200);
    client.get("/two").await.expect(200);
    let ids = [backend.head().await, backend.head().await]
        .map(|head| head.header("x-request-id").unwrap().to_owned());
    assert!(
        ids[0] != ids[1]
            && ids
                .iter()
                .all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())),
        "{ids:?}"
    );
}

#[tokio::test]
async fn field_names_and_values_pass_unchanged_both_ways() {
    let fields = "x-LoWeR-UpPeR: 1|Cookie: a=1; b=\"2\"|X-Many: one|X-Many: two, three|X-Many: one|X-Empty:|ETag: W/\"x\"";
    let (head, answer) = (
        forwarded(fields).await,
        answered(&format!("HTTP/1.1 200 OK|{fields}|Content-Length: 0||")).await,
    );
    for head in [head, answer.head] {
        assert!(
            head.spells("x-LoWeR-UpPeR") && head.spells("ETag") && head.spells("X-Many"),
            "{head:?}"
        );
        assert_eq!(head.all("x-many"), ["one", "two, three", "one"]);
        assert_eq!(
            (head.header("cookie"), head.header("x-empty")),
            (Some("a=1; b=\"2\""), Some(""))
        );
    }
}

#[tokio::test]
async fn own_fields_are_spelled_as_documented() {
    let head = forwarded("x-own: 1").await;
    for name in [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Request-Id",
        "Host",
    ] {
        assert!(head.spells(name), "{name} in {head:?}");
    }
}

#[tokio::test]
async fn non_ascii_bytes_in_a_value_pass_unchanged() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = forwarding(&backend).await;
    client::new(&sidegate)
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Name: J\xf6rg \xe2\x82\xac\r\n\r\n")
        .await
        .expect(200);
    let raw = backend.head().await.raw;
    assert!(raw.windows(10).any(|bytes| bytes == b": J\xf6rg \xe2\x82\xac"), "{:?}", lossy(&raw));
}

#[tokio::test]
async fn a_requests_body_is_streamed() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let mut client = client::new(&sidegate).connect().await;
    client
        .send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    let mut at_backend = backend.accepted().await;
    assert_eq!(at_backend.head().await.header("transfer-encoding"), Some("chunked"));
    assert_eq!(at_backend.chunk().await.unwrap(), b"one"); // the client has not sent the rest yet
    client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(
        (at_backend.chunk().await.unwrap(), at_backend.chunk().await),
        (b"two".to_vec(), None)
    );
    at_backend.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    client.answer().await.expect(201);
}

/// Returns what a backend gets of a chunked request with these trailers, declared in its head.
async fn trailed(trailers: &[&str]) -> (Head, String) {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let mut client = client::new(&sidegate).connect().await;
    let names: Vec<_> = trailers.iter().filter_map(|line| line.split(':').next()).collect();
    let (names, lines) = (names.join(", "), trailers.join("\r\n"));
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\n{lines}\r\n\r\n"
        ))
        .await;
    let mut at_backend = backend.accepted().await;
    let head = at_backend.head().await;
    at_backend.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    client.answer().await.expect(200);
    (head, lossy(&at_backend.rest().await))
}

#[tokio::test]
async fn trailers_of_a_request_reach_no_backend() {
    for trailers in [
        &["X-Forwarded-For: 10.9.9.9"][..],
        &["X-Real-IP: 10.9.9.9", "forwarded: for=10.9.9.9", "X_Forwarded_For: 10.9.9.9"],
        &["X-Request-Id: mine", "Client-Cert: x"],
        &["X-Checksum: 1"],
    ] {
        let (head, body) = trailed(trailers).await;
        assert_eq!((head.header("trailer"), head.header("te")), (None, None), "{trailers:?}");
        assert_eq!(body, "3\r\nabc\r\n0\r\n\r\n", "{trailers:?}");
    }
}

#[tokio::test]
async fn trailers_of_an_answer_pass_when_the_client_asks_for_them() {
    for (te, trailers) in [("TE: trailers", "X-Sum: 7\r\n"), ("X-No: te", "")] {
        let answer = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
        let backend = backend::raw(move |mut wire| async move {
            wire.head().await;
            wire.send(answer).await;
        });
        let backend = backend.run().await;
        let sidegate = forwarding(&backend).await;
        let mut wire = client::new(&sidegate).connect().await;
        wire.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{te}\r\nConnection: close, TE\r\n\r\n"))
            .await;
        let answer = lossy(&wire.rest().await);
        assert!(answer.ends_with(&format!("3\r\nabc\r\n0\r\n{trailers}\r\n")), "{te}: {answer:?}");
    }
}

/// Answers with trailers, which the backend writes for each of these paths.
const TRAILED: [(&str, &str); 4] = [
    ("/announced", "Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"),
    ("/unannounced", "\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"),
    ("/empty", "Trailer: X-Sum\r\n\r\n0\r\nX-Sum: 7\r\n\r\n"),
    ("/none", "Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
];

async fn trailing() -> Backend {
    let backend = backend::raw(|mut wire| async move {
        while let Some(head) = wire.try_head().await {
            let (_, rest) = TRAILED.iter().find(|(path, _)| *path == head.target()).unwrap();
            wire.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{rest}")).await;
        }
    });
    backend.run().await
}

#[tokio::test]
async fn answers_with_trailers_are_complete_and_end_the_connection() {
    for te in ["", "TE: trailers\r\n"] {
        let backend = trailing().await;
        let builder = sidegate::new().route("/", &backend).on_route("http = 'forward'");
        let sidegate = builder.threads(1).run().await;
        for (path, _) in TRAILED {
            for version in ["1.1", "1.0"] {
                let mut wire = client::new(&sidegate).connect().await;
                let fields = format!("Host: a\r\n{te}Connection: close, TE");
                wire.send(format!("GET {path} HTTP/{version}\r\n{fields}\r\n\r\n")).await;
                assert_eq!(wire.head().await.status(), 200);
                wire.rest().await;
            }
        }
        let complete = [("by", "backend"), ("reason", "complete")];
        sidegate.expect_metric("sidegate_exchanges_closed_total", complete, 8).await;
        assert_eq!(backend.connections(), 1, "{te:?}");
    }
}

#[tokio::test]
async fn trailers_pass_when_announced_and_accepted() {
    let backend = trailing().await;
    let sidegate = forwarding(&backend).await;
    for (path, te, trailer, ending) in [
        ("/announced", "TE: gzip;q=0.5, Trailers", Some("X-Sum"), "abc\r\n0\r\nX-Sum: 7\r\n\r\n"),
        ("/announced", "TE: gzip", None, "abc\r\n0\r\n\r\n"),
        ("/empty", "TE: trailers", Some("X-Sum"), "\r\n\r\n0\r\nX-Sum: 7\r\n\r\n"),
        ("/unannounced", "TE: trailers", None, "abc\r\n0\r\n\r\n"),
        ("/none", "TE: trailers", Some("X-Sum"), "abc\r\n0\r\n\r\n"),
    ] {
        let mut wire = client::new(&sidegate).connect().await;
        wire.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\n{te}\r\nConnection: close, TE\r\n\r\n"
        ))
        .await;
        let head = wire.head().await;
        let answer = lossy(&head.raw) + &lossy(&wire.rest().await);
        assert_eq!(head.header("trailer"), trailer, "{path} {te}");
        assert!(answer.ends_with(ending), "{path} {te}: {answer:?}");
    }
}

#[tokio::test]
async fn hop_by_hop_trailers_are_removed() {
    let backend = backend::raw(|mut wire| async move {
        wire.head().await;
        let trailers = "Keep-Alive: 1\r\nX-Sum: 7\r\nUpgrade: h2c\r\n";
        let head =
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum, Keep-Alive, Upgrade\r\nTransfer-Encoding: chunked";
        wire.send(format!("{head}\r\n\r\n0\r\n{trailers}\r\n")).await;
    });
    let backend = backend.run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n").await;
    let answer = lossy(&wire.rest().await);
    assert!(answer.ends_with("\r\n\r\n0\r\nX-Sum: 7\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
async fn answer_204_never_has_a_length() {
    for framing in ["Content-Length: 5", "Trailer: X-Sum|Transfer-Encoding: chunked"] {
        let answer = answered(&format!("HTTP/1.1 204 No Content|X-Own: 1|{framing}||")).await;
        answer.expect(204).expect_header("x-own", "1");
        for name in ["content-length", "transfer-encoding", "trailer"] {
            assert_eq!(answer.header(name), None, "{framing}: {name}");
        }
    }
}

#[tokio::test]
async fn fields_that_an_answers_connection_names_are_removed() {
    let named = "Connection: Content-Type, Date, Set-Cookie";
    let lines = format!(
        "HTTP/1.1 200 OK|{named}|Content-Type: x|Set-Cookie: a|X-Own: 1|Content-Length: 2||ok"
    );
    let answer = answered(&lines).await;
    answer.expect(200).expect_header("x-own", "1");
    assert_eq!((answer.header("content-type"), answer.header("set-cookie")), (None, None));
}

#[tokio::test]
async fn an_answers_body_is_streamed() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let mut client = client::new(&sidegate).connect().await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    assert_eq!(client.chunk().await.unwrap(), b"one"); // the backend has not sent the rest yet
    at_backend.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!((client.chunk().await.unwrap(), client.chunk().await), (b"two".to_vec(), None));
}

#[tokio::test]
async fn large_bodies_arrive_byte_for_byte() {
    let backend = backend::http(|asked| backend::reply(200).body(asked.body.repeat(8))).run().await;
    let sidegate = forwarding(&backend).await;
    let body: Vec<u8> = (0..1_000_000_u32).map(|at| (at * 7 + at / 256) as u8).collect();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = client::new(&sidegate).send([head.as_bytes(), &body].concat()).await;
    assert!(answer.expect(200).body == body.repeat(8), "the bodies differ");
}

#[tokio::test]
async fn backend_connection_is_reused_by_any_client() {
    let backend = backend::http(|_| backend::reply(200).body("x")).run().await;
    let sidegate = forwarding(&backend).await;
    for address in ["127.0.0.2", "127.0.0.3", "127.0.0.2"] {
        let client = client::new(&sidegate).from(address);
        client.get("/").await.expect(200);
        client.get("/").await.expect(200);
    }
    assert_eq!((backend.connections(), backend.heads().len()), (1, 6));
}

#[tokio::test]
async fn backend_that_closes_after_its_answer_is_dialled_again() {
    let backend =
        backend::http(|_| backend::reply(200).header("Connection", "close").body("x")).run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    for _ in 0..3 {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        wire.answer().await.expect(200); // and the client's connection stays
    }
    assert_eq!(backend.connections(), 3);
}

#[tokio::test]
async fn safe_request_is_retried_when_a_reused_connection_is_closed() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let (mut client, mut at_backend) = idle(&sidegate, &backend).await;
    client.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(at_backend.head().await.target(), "/second");
    drop(at_backend);
    let mut again = backend.accepted().await;
    assert_eq!(again.head().await.target(), "/second");
    again.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").await;
    assert_eq!(client.answer().await.expect(200).text(), "yes");
}

#[tokio::test]
async fn unsafe_request_or_one_with_a_body_is_never_retried() {
    for request in [
        "POST /second HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /second HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let backend = backend::manual().run().await;
        let sidegate = forwarding(&backend).await;
        let (mut client, mut at_backend) = idle(&sidegate, &backend).await;
        client.send(request).await;
        assert_eq!(at_backend.head().await.target(), "/second");
        drop(at_backend);
        client.answer().await.expect_refused(502, "backend");
        assert_eq!(backend.connections(), 1);
    }
}

#[tokio::test]
async fn no_retry_after_an_answer_byte_or_on_a_fresh_connection() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let (mut client, mut at_backend) = idle(&sidegate, &backend).await;
    client.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 2").await;
    drop(at_backend);
    client.answer().await.expect_refused(502, "backend");
    client.send("GET /third HTTP/1.1\r\nHost: a\r\n\r\n").await;
    drop(backend.accepted().await);
    client.answer().await.expect_refused(502, "backend");
    assert_eq!(backend.connections(), 2);
}

// C-H1-16
#[tokio::test]
async fn an_answer_whose_framing_is_ambiguous_is_a_502() {
    for framing in [
        "Content-Length: 2|Content-Length: 2",
        "Content-Length: 2|Content-Length: 3",
        "Content-Length: 2|Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked|Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: two",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 2, 2",
        "Content-Length: 2,2",
        "Content-Length: 0x2",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
    ] {
        println!("{framing}");
        answered(&format!("HTTP/1.1 200 OK|{framing}||ok")).await.expect_refused(502, "backend");
    }
}

#[tokio::test]
async fn invalid_length_is_502_for_head_and_304_too() {
    for length in ["2, 2", "+2", "", "99999999999999999999"] {
        for (method, status) in [("HEAD", "200 OK"), ("GET", "304 Not Modified")] {
            let backend = backend::raw(move |mut wire| async move {
                wire.head().await;
                wire.send(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")).await;
                wire.rest().await;
            });
            let backend = backend.run().await;
            let sidegate = forwarding(&backend).await;
            let mut wire = client::new(&sidegate).connect().await;
            wire.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            wire.answer_to(method).await.expect(502);
        }
    }
}

#[tokio::test]
async fn body_that_is_broken_from_its_start_is_a_502() {
    let chunked = "HTTP/1.1 200 OK|Transfer-Encoding: chunked||";
    for rest in ["zz|", "-1|", "0|X T: 1||", ""] {
        answered(&format!("{chunked}{rest}")).await.expect_refused(502, "backend");
    }
    answered("HTTP/1.1 200 OK|Content-Length: 5||").await.expect_refused(502, "backend");
    let begun = answered("HTTP/1.1 200 OK|Content-Length: 3||abc").await;
    assert_eq!(begun.expect(200).text(), "abc");
}

// C-WS-10
#[tokio::test]
async fn unrequested_101_is_502() {
    let switched = "HTTP/1.1 101 Switching Protocols|Upgrade: websocket|Connection: Upgrade||";
    answered(switched).await.expect_refused(502, "backend");
}

#[tokio::test]
async fn garbage_and_an_endless_head_are_502() {
    answered("SSH-2.0-OpenSSH||").await.expect_refused(502, "backend");
    answered("HTTP/1.1 200 OK|X: a\0b||").await.expect_refused(502, "backend");
    answered("").await.expect_refused(502, "backend");
    answered(&format!("HTTP/1.1 200 OK|X-Big: {}||", "x".repeat(100 * 1024)))
        .await
        .expect_refused(502, "backend");
}

// C-H1-19
#[tokio::test]
async fn an_early_hint_never_desyncs() {
    let answer =
        answered("HTTP/1.1 103 Early Hints|Link: </a.css>||HTTP/1.1 100 Continue||HTTP/1.1 200 OK|Content-Length: 2||ok").await;
    assert_eq!(answer.expect(200).text(), "ok");
}

#[tokio::test]
async fn answer_delimited_by_close_arrives_whole() {
    for version in ["1.0", "1.1"] {
        let answer = answered(&format!("HTTP/{version} 200 OK||until the end")).await;
        assert_eq!(
            (answer.expect(200).text().as_str(), answer.head.word(0)),
            ("until the end", "HTTP/1.1")
        );
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length() {
    let backend = backend::http(|asked| match asked.head.target() {
        "/304" => backend::reply(304).header("ETag", "x"),
        _ => backend::reply(200).body("hello"),
    });
    let backend = backend.run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.answer_to("HEAD").await.expect(200).expect_header("content-length", "5");
    wire.send("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.answer().await.expect(304).expect_header("etag", "x");
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(wire.answer().await.expect(200).text(), "hello");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let backend = backend::raw(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n").await;
        wire.rest().await;
    });
    let backend = backend.run().await;
    let sidegate = forwarding(&backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!(
        (answer.expect(200).text().as_str(), answer.header("transfer-encoding")),
        ("onetwo", None)
    );
}

#[tokio::test]
async fn truncated_answer_is_truncated_for_the_client() {
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let backend = backend::raw(move |mut wire| async move {
            wire.head().await;
            wire.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n")).await;
        });
        let backend = backend.run().await;
        let sidegate = forwarding(&backend).await;
        let mut wire = client::new(&sidegate).connect().await;
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = lossy(&wire.rest().await);
        assert!(answer.contains("hello") && !answer.ends_with("0\r\n\r\n"), "{answer:?}");
    }
}

#[tokio::test]
async fn client_that_leaves_aborts_its_request_at_the_backend() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let mut client = client::new(&sidegate).connect().await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    client.head().await;
    client.reset();
    at_backend.expect_end().await;
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
}

#[tokio::test]
async fn strip_prefix_holds_for_plain_http_as_well() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new()
        .route("/api/", &backend)
        .on_route("http = 'forward'\nstrip_prefix = true")
        .run()
        .await;
    client::new(&sidegate).get("/api/v1/./users?x=/../").await.expect(200);
    assert_eq!(backend.head().await.target(), "/v1/users?x=/../");
}

#[tokio::test]
async fn the_next_backend_gets_a_plain_request_that_the_first_refuses() {
    let (refusing, http) =
        (backend::refusing(), backend::http(|_| backend::reply(200)).run().await);
    let sidegate =
        sidegate::new().route_to("/", &[&refusing, &http]).on_route("http = 'forward'").run().await;
    client::new(&sidegate)
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
        .await
        .expect(200);
    assert_eq!(http.head().await.method(), "POST");
}

#[tokio::test]
async fn a_redirect_listener_only_answers_308() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend);
    let sidegate = sidegate
        .toml(
            "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\nredirect = 'https'",
        )
        .run()
        .await;
    let client =
        client::new(&sidegate).at_clear(sidegate.listener("plain")).host("ws.example.com:80");
    for request in
        [client.request("GET /a/./b?c=%2f HTTP/1.1", ""), client.attempt_head("/a/./b?c=%2f", "")]
    {
        let mut wire = client.connect().await;
        wire.send(request).await;
        wire.answer()
            .await
            .expect(308)
            .expect_header("location", "https://ws.example.com/a/./b?c=%2f")
            .expect_header("connection", "close");
        wire.expect_end().await;
    }
    client.expect_refused("GET / HTTP/1.1\r\n\r\n", 400, "head").await;
    backend.expect_untouched();
}

/// The `Sec-WebSocket-Accept` that answers `head`.
fn accept_of(head: &Head) -> String {
    let granted = backend::granted(head, "");
    granted.split("Accept: ").nth(1).unwrap().trim().to_owned()
}

/// The lines of the head that the backend gets of an attempt, and of the 101 that its client gets,
/// in their case; without what differs from one attempt to the next. `before` is sent over the same
/// connection first, and answered.
async fn switched(before: &str, more: &str) -> [Vec<(String, String)>; 2] {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    if !before.is_empty() {
        wire.send(client.request(before, "")).await;
        let mut at_backend = backend.accepted().await;
        at_backend.head().await;
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        wire.answer().await.expect(200);
        at_backend.finish().await;
    }
    let lines = format!(
        "x-LoWeR: 1\r\nX-Many: a\r\nx-many: b\r\nCookie: a=1; b=\"2\"\r\nConnection: X-Hop\r\nX-Hop: 1\r\n{more}"
    );
    wire.send(client.attempt_head("/a%20b/./c?d=/../", &lines)).await;
    let mut at_backend = backend.accepted().await;
    let asked = at_backend.head().await;
    let lines = "server: x\r\nX-FooBar: 1\r\nx-foobar: 2\r\nkeep-alive: 5\r\nDATE: now\r\n\
        content-length: 5\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\nX-Hop: 1\r\n\
        Connection: X-Hop, Sec-WebSocket-Accept\r\n";
    at_backend.send(backend::granted(&asked, lines)).await;
    let answer = wire.answer().await;
    answer.expect(101).expect_header("sec-websocket-accept", &accept_of(&asked));
    at_backend.send_frame(Frame::text("hello")).await;
    assert_eq!(wire.frame().await, Frame::text("hello"));
    assert_eq!(asked.target(), "/a%20b/c?d=/../");
    [asked, answer.head].map(|head| {
        let differs = [
            "x-request-id",
            "x-forwarded-port",
            "sec-websocket-key",
            "sec-websocket-accept",
            "x-big",
        ];
        let mut lines = head.lines;
        lines.retain(|(name, _)| !differs.contains(&name.to_ascii_lowercase().as_str()));
        // The order between names is not promised, that of the values of one is.
        lines.sort_by_key(|(name, _)| name.to_ascii_lowercase());
        lines
    })
}

#[tokio::test]
async fn attempt_is_forwarded_alike_by_both_head_readers() {
    let [asked, granted] = switched("", "").await;
    let spelled = |lines: &[(String, String)], like: &str| {
        let like = |(name, _): &&(String, String)| name.eq_ignore_ascii_case(like);
        lines
            .iter()
            .filter(like)
            .map(|(name, value)| format!("{name}: {value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(spelled(&asked, "x-many"), ["X-Many: a", "x-many: b"]);
    assert_eq!(spelled(&asked, "x-lower"), ["x-LoWeR: 1"]);
    assert_eq!(spelled(&asked, "x-hop"), [""; 0]);
    assert_eq!(spelled(&granted, "x-foobar"), ["X-FooBar: 1", "x-foobar: 2"]);
    for gone in ["keep-alive", "content-length", "trailer", "transfer-encoding", "x-hop"] {
        assert_eq!(spelled(&granted, gone), [""; 0], "{gone}");
    }
    let large = format!("X-Big: {}\r\n", "x".repeat(9 * 1024));
    for (before, more) in [("GET / HTTP/1.1", ""), ("", large.as_str())] {
        assert_eq!(switched(before, more).await, [asked.clone(), granted.clone()], "{before:?}");
    }
}

/// An agent, a client whose attempt is on its way, and the backend's end of it.
async fn attempted() -> (Sidegate, Wire, Wire) {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.attempt_head("/", "")).await;
    let at_backend = backend.accepted().await;
    (sidegate, wire, at_backend)
}

#[tokio::test]
async fn first_attempt_is_answered_without_hyper() {
    // Which would add a Date; a 1xx needs none (RFC 9110 §6.6.1).
    let (_sidegate, mut wire, mut at_backend) = attempted().await;
    let granted = backend::granted(&at_backend.head().await, "");
    at_backend.send(granted).await;
    let answer = wire.answer().await;
    answer.expect(101);
    assert_eq!(answer.header("date"), None);
}

#[tokio::test]
async fn a_101_may_come_in_pieces_and_behind_an_early_hint() {
    let (_sidegate, mut wire, mut at_backend) = attempted().await;
    let granted = backend::granted(&at_backend.head().await, "");
    let answer = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n{granted}"
    );
    for piece in answer.as_bytes().chunks(7) {
        at_backend.send(piece).await;
    }
    at_backend.send_frame(Frame::text("hello")).await;
    let answer = wire.answer().await;
    answer.expect(101);
    assert_eq!((answer.informed.as_slice(), answer.header("link")), ([].as_slice(), None));
    assert_eq!(wire.frame().await, Frame::text("hello"));
}

#[tokio::test]
async fn other_answer_may_come_in_pieces_behind_an_early_hint() {
    let (_sidegate, mut wire, mut at_backend) = attempted().await;
    at_backend.head().await;
    let hint = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let answer = format!(
        "{hint}HTTP/1.1 404 Not Here\r\nX-FooBar: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    for piece in answer.as_bytes().chunks(5) {
        at_backend.send(piece).await;
    }
    let answer = wire.answer().await;
    assert_eq!(answer.expect(404).text(), "abcde");
    assert!(answer.head.spells("X-FooBar"), "{:?}", answer.head);
    wire.expect_end().await;
    at_backend.expect_end().await;
}

#[tokio::test]
async fn chunked_body_reaches_the_backend_for_any_method() {
    let backend = backend::http(|asked| backend::reply(200).body(asked.body.clone())).run().await;
    let sidegate = forwarding(&backend).await;
    for method in ["GET", "DELETE", "OPTIONS", "POST", "QUERY"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let answer = client::new(&sidegate).send(head + "3\r\nabc\r\n0\r\n\r\n").await;
        assert_eq!(answer.expect(200).text(), "abc", "{method}");
    }
}

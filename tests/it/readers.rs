//! The two readers of a connection's first head: an attempt gets the same over either of them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ::sidegate::data::http::head::HeadReader;
use tokio::task::spawn_blocking;

use crate::harness::backend::Backend;
use crate::harness::wire::{Wire, lossy};
use crate::harness::{backend, client, process, sidegate, within};

/// Fields of a 101 that no client may see, and some that it gets.
const HOSTILE: &str = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTrailer: X-One\r\n\
    Keep-Alive: 1\r\nX-Own: 1\r\nConnection: X-Own, Sec-WebSocket-Accept\r\nx-KEPT: 2\r\n\
    Set-Cookie: a=1\r\nX-Other: 3\r\nset-cookie: b=2\r\n";

/// Paths and fields of attempts, each with its status.
const ATTEMPTS: [(&str, &str, u16); 11] = [
    ("/granted?a=/../b", "X-Own: 1\r\nx-own: 2\r\nX-Forwarded-For: 10.9.9.9\r\n", 101),
    ("/a/../granted", "Origin: https://app.example\r\n", 101),
    ("/other", "", 401),
    ("/streamed", "TE: trailers\r\n", 503),
    ("/invalid", "", 502),
    ("/left", "", 502),
    ("/large", "", 502),
    ("/none/", "Host: localhost\r\n", 400),
    ("/other", "Connection: Cookie\r\n", 400),
    ("/other", "Origin: https://evil.example\r\n", 403),
    ("/other", "Sec-WebSocket-Protocol: a b\r\n", 400),
];

async fn answers(mut wire: Wire) {
    let head = wire.head().await;
    let answer = match head.target().split('?').next().unwrap() {
        "/granted" => backend::granted(&head, HOSTILE),
        "/other" => "HTTP/1.1 401 Who?\r\nwww-AUTHENTICATE: Bearer\r\nConnection: X-Own\r\n\
                     X-Own: 1\r\nContent-Length: 4\r\n\r\nwho?"
            .into(),
        "/streamed" => "HTTP/1.1 503 Later\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                        3\r\none\r\n3\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n"
            .into(),
        "/large" => backend::granted(&head, &format!("X: {}\r\n", "x".repeat(80 * 1024))),
        "/invalid" => backend::granted(&head, "Sec-WebSocket-Protocol: unasked\r\n"),
        _ => String::new(),
    };
    wire.send(answer).await;
    if head.target() != "/left" {
        wire.rest().await;
    }
}

/// What is on the wire without the values that differ from run to run; and without `Date`, which
/// only hyper adds to a 101.
fn steady(bytes: &[u8]) -> Vec<String> {
    let varying = [
        "date: ",
        "x-request-id: ",
        "x-forwarded-port: ",
        "sec-websocket-key: ",
        "sec-websocket-accept: ",
    ];
    let text = lossy(bytes);
    let lines = text.split("\r\n").filter(|line| {
        let line = line.to_ascii_lowercase();
        !varying.iter().any(|name| line.starts_with(name))
    });
    let lines = lines.map(|line| match line.split_once("\"request_id\":\"") {
        Some((before, after)) => format!("{before}{}", after.split_once('"').unwrap().1),
        None => line.to_owned(),
    });
    lines.collect()
}

/// What the backend and the client of each attempt get.
async fn exchanged(reader: HeadReader) -> Vec<(Vec<String>, Vec<String>)> {
    let backend = backend::raw(answers).run().await;
    let builder = sidegate::new().route("/", &backend).heads(reader);
    let sidegate = builder.origins(&["none", "https://app.example"]).run().await;
    let client = client::new(&sidegate);
    let mut all = Vec::new();
    for (path, lines, status) in ATTEMPTS {
        let before = backend.heads().len();
        let mut wire = client.connect().await;
        wire.send(client.attempt_head(path, lines)).await;
        let head = wire.head().await;
        assert_eq!(head.status(), status, "{path} {lines:?} by {reader:?}");
        let mut got = head.raw.clone();
        if status == 101 {
            // Only hyper adds one.
            assert_eq!(head.header("date").is_some(), reader == HeadReader::Hyper);
        } else {
            got.extend(wire.rest().await);
        }
        let asked = backend.heads()[before..].iter().flat_map(|head| steady(&head.raw)).collect();
        all.push((asked, steady(&got)));
    }
    for (name, labels, count) in [
        ("sidegate_requests_total", ("kind", "upgrade"), 8),
        // What the gate refuses is not known to be an attempt.
        ("sidegate_requests_total", ("kind", "plain"), 3),
        ("sidegate_connections_closed_total", ("reason", "upgraded"), 2),
        ("sidegate_connections_closed_total", ("reason", "refused"), 9),
    ] {
        sidegate.expect_metric(name, [labels], count).await;
    }
    all
}

#[tokio::test]
async fn attempt_gets_the_same_from_both_readers() {
    let (direct, hyper) = tokio::join!(exchanged(HeadReader::Direct), exchanged(HeadReader::Hyper));
    for ((path, lines, _), (direct, hyper)) in ATTEMPTS.iter().zip(direct.iter().zip(&hyper)) {
        assert_eq!(direct, hyper, "{path} {lines:?}");
    }
    let hidden = ["content-length", "transfer-encoding", "trailer", "keep-alive", "x-own"];
    let (asked, got) = &direct[0];
    assert!(
        !got.iter().any(|line| hidden.iter().any(|name| line.to_lowercase().starts_with(name)))
    );
    assert!(got.contains(&"x-KEPT: 2".to_owned()), "{got:?}");
    assert!(asked.contains(&"x-own: 2".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn redirect_of_an_attempt_is_the_same_from_both_readers() {
    let mut got = Vec::new();
    for reader in [HeadReader::Direct, HeadReader::Hyper] {
        let backend = backend::echo().run().await;
        let plain = "\n[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\n\
                     redirect = 'https'";
        let builder = sidegate::new().tls().route("/", &backend).heads(reader);
        let sidegate = builder.toml(plain).run().await;
        let client = client::clear(sidegate.listener("plain"));
        let port = format!(":{}/", sidegate.address().port());
        for target in ["/a?b", "/b/é?ü", "/b<?\"c", "http://localhost?d"] {
            let mut wire = client.connect().await;
            wire.send(client.attempt_head(target, "")).await;
            got.push(steady(lossy(&wire.rest().await).replace(&port, "/").as_bytes()));
        }
        sidegate.expect_metric("sidegate_requests_total", [], 0).await;
        sidegate
            .expect_metric("sidegate_connections_closed_total", [("reason", "refused")], 4)
            .await;
        backend.expect_untouched();
    }
    let (direct, hyper) = got.split_at(4);
    assert_eq!(direct, hyper);
    for (answer, target) in direct.iter().zip(["/a?b", "/b/%C3%A9?%C3%BC", "/b%3C?%22c", "/?d"]) {
        assert!(answer.contains(&format!("Location: https://localhost{target}")), "{answer:?}");
    }
}

#[tokio::test]
async fn bytes_behind_a_refused_attempt_do_not_cost_its_answer() {
    let backend = backend::echo().run().await;
    for reader in [HeadReader::Direct, HeadReader::Hyper] {
        let builder = sidegate::new().clear().route("/chat", &backend).heads(reader);
        let sidegate = builder.run().await;
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        // Read together with the head: the socket has nothing left that would tell of more.
        wire.send(client.attempt_head("/none", "") + "more").await;
        wire.answer().await.expect_refused(404, "route").expect_header("connection", "close");
        sidegate.expect_metric("sidegate_connections_discarding", [], 1).await;
        wire.finish().await;
        wire.expect_end().await;
    }
    backend.expect_untouched();
}

/// A process that is killed when it is dropped, so that the thread that reads its log ends too.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an agent with this variable. Returns its line about it, and its exit code, if it ends.
async fn start(folder: &Path, value: &str) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    command.args(["run", "--config", "sidegate.toml", "--log", "text"]).current_dir(folder);
    let spawned = command.env("SIDEGATE_HEADS", value).stderr(Stdio::piped()).spawn();
    let mut agent = Agent(spawned.unwrap());
    let stderr = BufReader::new(agent.0.stderr.take().unwrap());
    let line = spawn_blocking(move || {
        let mut lines = stderr.lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("SIDEGATE_HEADS") || line.contains("listening"));
        line.unwrap_or_default()
    });
    let line = within("a line about SIDEGATE_HEADS", line).await.unwrap();
    let code = if line.contains("unset it") { agent.0.wait().unwrap().code() } else { None };
    (line, code)
}

async fn echo() -> (Backend, tempfile::TempDir) {
    let backend = backend::echo().run().await;
    let folder = sidegate::new().clear().route("/chat", &backend).write();
    (backend, folder)
}

#[tokio::test]
async fn sidegate_heads_sends_every_head_to_hyper_and_is_logged() {
    let (_backend, folder) = echo().await;
    let (told, _) = start(folder.path(), "hyper").await;
    assert!(told.contains("SIDEGATE_HEADS=hyper"), "{told}");
    for (value, has_date) in [("hyper", true), ("", false)] {
        let agent = process::new(folder.path()).env("SIDEGATE_HEADS", value).run().await;
        let answer = agent.client().attempt("/chat").await;
        assert_eq!(answer.expect(101).header("date").is_some(), has_date, "{value:?}");
    }
}

#[tokio::test]
async fn unknown_sidegate_heads_ends_the_start_with_78() {
    let (_backend, folder) = echo().await;
    for value in ["direct", "Hyper", "1"] {
        let (told, code) = start(folder.path(), value).await;
        assert_eq!(code, Some(78), "{told}");
        assert!(told.contains("set it to hyper, or unset it"), "{told}");
    }
}

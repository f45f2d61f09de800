//! The log of a whole process: one line for each decision and each ending, whatever its sink does.

use std::path::Path;
use std::time::Duration;

use ::sidegate::observe::log::fields::FIELDS;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::harness::backend::{self, Backend};
use crate::harness::client::Client;
use crate::harness::process::{self, Process};
use crate::harness::{sidegate, within};

/// A route `chat` under a policy that admits the list `partners`, which is in a file.
fn folder(backend: &Backend, list: &str) -> TempDir {
    let sidegate = sidegate::new()
        .clear()
        .route("/chat", backend)
        .policy(|page| page.list_file("partners").allow("partners"));
    sidegate.file("policies/lists/partners.cidr", list).write()
}

async fn run(folder: &TempDir) -> Process {
    process::new(folder.path()).run().await
}

/// `policies/default.toml:N`, where N is the line of `key`.
fn rule(folder: &Path, key: &str) -> String {
    let text = std::fs::read_to_string(folder.join("policies/default.toml")).unwrap();
    let line = text
        .lines()
        .position(|line| line.starts_with(key))
        .unwrap_or_else(|| panic!("no {key} in {text}"));
    format!("policies/default.toml:{}", line + 1)
}

/// Asserts that `line` has exactly these fields, all of them in the table; `null` means any value.
#[track_caller]
fn check(line: &Value, expected: Value) {
    let (line, expected) = (line.as_object().unwrap(), expected.as_object().unwrap());
    let known = |name: &str| {
        FIELDS.iter().any(|(known, _)| *known == name)
            || ["timestamp", "level", "message"].contains(&name)
    };
    let unknown: Vec<_> = line.keys().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "not in the table of fields: {unknown:?}");
    let fields =
        line.iter().filter(|(name, _)| !["timestamp", "level", "message"].contains(&name.as_str()));
    let shown = fields.map(|(name, value)| {
        (
            name.clone(),
            if expected.get(name) == Some(&Value::Null) { Value::Null } else { value.clone() },
        )
    });
    let shown: Map<String, Value> = shown.collect();
    assert_eq!(&shown, expected, "\n{line:?}");
}

/// Of the lines of decisions, the endings and what was left out: their messages with one field.
fn told<'l>(lines: &'l [Value], field: &str) -> Vec<(&'l str, &'l Value)> {
    let words = ["permitted", "refused", "failed", "tunnel closed", "refusals left out"];
    let told = lines.iter().filter(|line| words.contains(&line["message"].as_str().unwrap()));
    told.map(|line| (line["message"].as_str().unwrap(), &line[field])).collect()
}

#[tokio::test]
async fn tunnel_has_one_permit_line_and_one_end_line() {
    let backend = backend::echo().run().await;
    let folder = folder(
        &backend,
        "# ours\n127.0.0.0/8 owner=acme ticket=SEC-1042 expires=2099-12-31 # VPN\n",
    );
    let mut process = run(&folder).await;
    let mut tunnel = process.client().from("127.0.0.9").open("/chat?token=x").await;
    let permitted = process.logged("permitted").await;
    check(
        &permitted,
        json!({
            "route": "chat", "listener": "public", "client": "127.0.0.9", "peer": "127.0.0.9",
            "kind": "upgrade", "result": "permitted",
            "status": 101, "host": "localhost", "path": "/chat", "request_id": null,
            "generation": 1, "policy": "default",
            "rule": rule(folder.path(), "allow"), "list": "partners", "entry": "127.0.0.0/8",
            "entry_at": "policies/lists/partners.cidr:2", "owner": "acme", "ticket": "SEC-1042",
            "expires": "2099-12-31",
            "backend": backend.address(),
        }),
    );
    assert_eq!(permitted["request_id"].as_str(), backend.head().await.header("x-request-id"));
    tunnel.expect_echo("hello").await;
    tunnel.close(1000, "bye").await;
    check(
        &process.logged("tunnel closed").await,
        json!({
            "route": "chat", "client": "127.0.0.9", "peer": "127.0.0.9",
            "request_id": permitted["request_id"], "generation": 1,
            "tunnel": 1, "by": "client", "phase": "closing", "reason": "client_closed",
            "code": 1000, "bytes_from_client": null,
            "messages_from_client": 1, "bytes_from_backend": null, "messages_from_backend": 1,
            "seconds": null,
        }),
    );
    assert!(told(&process.ended_json().await, "reason").is_empty(), "no second line");
}

/// What `line` says of the refusal besides who asked for what.
fn why(mut line: Value) -> Value {
    for rest in [
        "timestamp",
        "level",
        "message",
        "route",
        "listener",
        "peer",
        "kind",
        "host",
        "path",
        "request_id",
        "generation",
    ] {
        assert!(line.as_object_mut().unwrap().remove(rest).is_some(), "no {rest}: {line}");
    }
    line
}

/// Asserts that an attempt of `client` is refused, and that its line gives this reason.
async fn check_refused(client: Client, process: &mut Process, status: u16, expected: Value) {
    client.attempt("/chat").await.expect(status);
    assert_eq!(why(process.logged(expected["result"].as_str().unwrap()).await), expected);
}

#[tokio::test]
async fn network_refusal_is_logged_with_rule_and_entry() {
    let backend = backend::echo().run().await;
    let folder = folder(
        &backend,
        "127.0.0.0/24 ticket=SEC-1\n!127.0.0.66 ticket=SEC-2190\n127.0.1.1 expires=2020-01-01\n",
    );
    let mut process = run(&folder).await;
    let (allow, at) =
        (rule(folder.path(), "allow"), |line| format!("policies/lists/partners.cidr:{line}"));
    let carved = json!({
        "client": "127.0.0.66", "result": "refused", "reason": "network", "status": 403,
        "policy": "default", "rule": allow,
        "list": "partners", "entry": "!127.0.0.66", "entry_at": at(2), "ticket": "SEC-2190",
        "would_match": "127.0.0.0/24",
    });
    check_refused(process.client().from("127.0.0.66"), &mut process, 403, carved).await;
    let lapsed = json!({
        "client": "127.0.1.1", "result": "refused", "reason": "network", "status": 403,
        "policy": "default", "rule": allow,
        "list": "partners", "entry": "127.0.1.1", "entry_at": at(3), "expires": "2020-01-01",
    });
    check_refused(process.client().from("127.0.1.1"), &mut process, 403, lapsed).await;
    let nowhere = json!({ "client": "127.9.9.9", "result": "refused", "reason": "network", "status": 403, "policy": "default", "rule": allow });
    check_refused(process.client().from("127.9.9.9"), &mut process, 403, nowhere).await;
}

#[tokio::test]
async fn other_refusals_are_logged_with_their_rule_line() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .origins(&["https://a.example"])
        .deny("127.0.0.4");
    let folder = sidegate.limits("upgrades = { rate = '1/m', burst = 1 }").write();
    let mut process = run(&folder).await;
    let a = process.client().origin("https://a.example");
    let refusal = |client: &str, reason: &str, status: u16, rule: String| json!({ "client": client, "result": "refused", "reason": reason, "status": status, "policy": "default", "rule": rule });
    let mut denied = refusal("127.0.0.4", "network", 403, rule(folder.path(), "deny"));
    (denied["list"], denied["entry"]) = ("(deny)".into(), "127.0.0.4".into());
    denied["entry_at"] = denied["rule"].clone();
    check_refused(a.clone().from("127.0.0.4"), &mut process, 403, denied).await;
    let mut origin = refusal("127.0.0.1", "origin", 403, rule(folder.path(), "origins"));
    origin["origin"] = "https://b.example".into();
    check_refused(process.client().origin("https://b.example"), &mut process, 403, origin).await;
    a.attempt("/chat").await.expect(101);
    let text = std::fs::read_to_string(folder.path().join("policies/default.toml")).unwrap();
    let upgrades = text.lines().position(|line| line.contains("upgrades")).unwrap() + 1;
    check_refused(
        a.clone(),
        &mut process,
        429,
        refusal("127.0.0.1", "rate", 429, format!("policies/default.toml:{upgrades}")),
    )
    .await;
}

#[tokio::test]
async fn a_refused_path_has_the_reading_that_leads_elsewhere() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/", &backend).route("/admin/", &backend);
    let folder = sidegate.under("shut", |page| page.allow("192.0.2.1")).write();
    let mut process = run(&folder).await;
    process.client().attempt("/admin;a=b/x").await.expect_refused(400, "path");
    let line = process.logged("refused").await;
    let fields =
        ["route", "reason", "path", "error"].map(|field| line[field].as_str().unwrap_or_default());
    let reading = "parameters cut: /admin/x, of the route admin (policy shut)";
    assert_eq!(fields, ["root", "path", "/admin;a=b/x", reading]);
    backend.expect_untouched();
}

#[tokio::test]
async fn failed_backend_is_logged_with_its_error() {
    let (refusing, silent) = (backend::refusing(), backend::silent().run().await);
    let sidegate = sidegate::new()
        .clear()
        .route("/chat", &refusing)
        .route("/late", &silent)
        .timeouts("response = '100ms'");
    let folder = sidegate.write();
    let mut process = run(&folder).await;
    process.client().attempt("/chat").await.expect_refused(502, "backend");
    let down = process.logged("failed").await;
    assert_eq!(
        (&down["backend"], &down["reason"]),
        (&refusing.address().into(), &"backend".into())
    );
    assert!(down["error"].as_str().unwrap().contains("refused"), "{down}");
    process.client().attempt("/late").await.expect_refused(504, "backend");
    let late = process.logged("failed").await;
    assert_eq!(
        (&late["backend"], &late["error"]),
        (&silent.address().into(), &"no answer in time".into())
    );
    assert_eq!((&late["status"], &late["result"]), (&504.into(), &"failed".into()));
}

#[tokio::test]
async fn revocation_is_logged_with_entry_and_generation() {
    let backend = backend::echo().run().await;
    let folder = folder(&backend, "127.0.0.0/8\n");
    let mut process = run(&folder).await;
    let mut tunnel = process.client().open("/chat").await;
    tunnel.expect_echo("before").await;
    let list = folder.path().join("policies/lists/partners.cidr");
    std::fs::write(folder.path().join("new~"), "127.0.0.0/8\n!127.0.0.1 ticket=SEC-7 owner=blue\n")
        .unwrap();
    std::fs::rename(folder.path().join("new~"), list).unwrap();
    tunnel.expect_close_with(1008, "network").await;
    let closed = process.logged("tunnel closed").await;
    let fields = [
        "reason",
        "refusal",
        "by",
        "list",
        "entry",
        "entry_at",
        "ticket",
        "owner",
        "would_match",
        "policy",
        "rule",
    ];
    let said: Map<String, Value> =
        fields.iter().map(|name| ((*name).to_owned(), closed[*name].clone())).collect();
    let expected = json!({
        "reason": "revoked", "refusal": "network", "by": "sidegate", "list": "partners",
        "entry": "!127.0.0.1", "policy": "default",
        "entry_at": "policies/lists/partners.cidr:2", "ticket": "SEC-7", "owner": "blue",
        "would_match": "127.0.0.0/8",
        "rule": rule(folder.path(), "allow"),
    });
    assert_eq!((Value::Object(said), &closed["generation"]), (expected, &2.into()));
}

#[tokio::test]
async fn refused_connection_has_one_line_and_a_health_check_none() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).on_listener("tls = false\npending_per_client = 2");
    let folder =
        sidegate.toml("[[listener]]\nname = 'secure'\nlisten = '127.0.0.1:0'\ntls = true").write();
    let mut process = run(&folder).await;
    let line = process.logged("listening").await;
    assert_eq!(line["listener"], "secure");
    let secure = process.client().to(line["address"].as_str().unwrap().parse().unwrap());

    process.client().connect().await.finish().await; // a health check
    secure.connect().await.finish().await;
    process.client().expect_refused("GET / HTTP/9.9\r\n\r\n", 400, "head").await;
    let head = json!({ "route": "-", "listener": "public", "client": "127.0.0.1", "peer": "127.0.0.1", "result": "refused", "reason": "head", "error": null });
    let mut bad = head.clone();
    for (name, value) in [("kind", "plain"), ("host", ""), ("path", "")] {
        bad[name] = value.into();
    }
    (bad["status"], bad["request_id"]) = (400.into(), Value::Null);
    check(&process.logged("refused").await, bad);
    let mut not_tls = secure.from("127.0.0.5").connect().await;
    not_tls.send("GET / HTTP/1.1\r\n\r\n").await;
    not_tls.rest().await;
    let mut tls = head.clone();
    (tls["listener"], tls["reason"], tls["client"], tls["peer"]) =
        ("secure".into(), "tls".into(), "127.0.0.5".into(), "127.0.0.5".into());
    check(&process.logged("refused").await, tls);
    let busy = process.client().from("127.0.0.6");
    let _waiting = (busy.connect().await, busy.connect().await);
    busy.connect().await.expect_end().await;
    let pending = json!({ "route": "-", "listener": "public", "client": "127.0.0.6", "peer": "127.0.0.6", "result": "refused", "reason": "pending" });
    check(&process.logged("refused").await, pending);
    assert!(told(&process.ended_json().await, "reason").is_empty(), "no other line");
}

#[tokio::test]
async fn target_is_logged_in_ascii() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new().route("/chat", &backend).on_listener("tls = false").write();
    let mut process = run(&folder).await;
    for (target, path, error) in [
        (
            "/a\u{1b}[2J\u{202e}<b>\u{85}?x",
            "/a%1B[2J%E2%80%AE%3Cb%3E%C2%85",
            json!("a control, a space or DEL in the target"),
        ),
        (
            "/a\rlevel=ERROR b",
            "/a%0Dlevel=ERROR%20b",
            json!("a control, a space or DEL in the target"),
        ),
        ("/\u{202e}<\"b\">?\"", "/%E2%80%AE%3C\"b\"%3E", json!(null)),
    ] {
        process.client().send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let line = process.logged("refused").await;
        assert_eq!((&line["path"], &line["error"]), (&json!(path), &error));
    }
}

#[tokio::test]
async fn refusal_flood_is_throttled_for_its_client_only() {
    let backend = backend::echo().run().await;
    let process = run(&folder(&backend, "192.0.2.0/24\n")).await;
    let (flood, other) = (process.client().from("127.0.0.2"), process.client().from("127.0.0.3"));
    for _ in 0..40 {
        flood.attempt("/chat").await.expect_refused(403, "network");
    }
    flood.get("/nowhere").await.expect_refused(404, "route");
    other.attempt("/chat").await.expect_refused(403, "network");
    let lines = process.ended_json().await;
    let shown: Vec<_> =
        told(&lines, "client").into_iter().filter(|(message, _)| *message == "refused").collect();
    assert_eq!(shown.iter().filter(|(_, client)| *client == "127.0.0.2").count(), 10);
    assert_eq!(shown.last().unwrap().1, "127.0.0.3");
    let left_out = lines.iter().find(|line| line["message"] == "refusals left out").unwrap();
    let expected = json!({ "route": "-", "listener": "public", "client": "127.0.0.2", "result": "refused", "reason": "route", "left_out": 31 });
    check(left_out, expected);
}

/// Secrets that must never be in a log.
const SECRETS: [&str; 6] = [
    "s3cret-query",
    "s3cret-cookie",
    "s3cret-bearer",
    "czNjcmV0LWtleS1hYmNkZQ==",
    "s3cret-protocol",
    "s3cret-header",
];

fn with_secrets(first: &str) -> String {
    let [query, cookie, bearer, key, protocol, header] = SECRETS;
    format!(
        "{first}?token={query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Cookie: session={cookie}\r\nAuthorization: Bearer {bearer}\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\
         X-Secret: {header}\r\n"
    )
}

/// Asserts that no secret is in the log of requests that are permitted, refused, malformed or
/// failed.
async fn check_secrets(format: &str) {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .route("/plain", &backend)
        .on_route("http = 'forward'");
    let folder = sidegate.route("/down", &backend::refusing()).deny("127.0.0.2").write();
    let process = process::new(folder.path())
        .log(format)
        .env("SIDEGATE_LOG", "trace,hyper=trace,rustls=trace")
        .run()
        .await;
    let client = process.client();
    client.send(with_secrets("GET /chat") + "\r\n").await.expect(101);
    client.clone().from("127.0.0.2").send(with_secrets("GET /chat") + "\r\n").await.expect(403);
    client.send(with_secrets("GET /down") + "\r\n").await.expect(502);
    client.send(with_secrets("POST /chat") + "\r\n").await.expect(400);
    client.send(with_secrets("GET /chat") + "Host: two\r\n\r\n").await.expect(400);
    client.send(with_secrets("GET /chat") + "no field at all\r\n\r\n").await.expect(400);
    client.send(with_secrets("GET /%zz") + "\r\n").await.expect(400);
    let lines = process.ended().await;
    assert!(lines.len() > 8, "{lines:#?}");
    for (line, secret) in lines.iter().flat_map(|line| SECRETS.map(|secret| (line, secret))) {
        assert!(!line.contains(secret), "{secret} in {line}");
    }
}

#[tokio::test]
async fn nothing_secret_is_logged_at_any_level() {
    check_secrets("json").await;
    check_secrets("text").await;
}

#[tokio::test]
async fn permit_lines_can_be_switched_off() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).deny("127.0.0.2");
    let folder = sidegate.route("/down", &backend::refusing()).write();
    let process = process::new(folder.path())
        .log("json")
        .env("SIDEGATE_LOG", "info,sidegate::permitted=off")
        .run()
        .await;
    let client = process.client();
    client.attempt("/chat").await.expect(101);
    client.clone().from("127.0.0.2").attempt("/chat").await.expect(403);
    client.attempt("/down").await.expect(502);
    let lines = process.ended().await;
    let said: Vec<_> = lines
        .iter()
        .map(|line| process::json(line)["message"].as_str().unwrap().to_owned())
        .collect();
    for message in ["refused", "failed", "tunnel closed"] {
        assert_eq!(said.iter().filter(|said| *said == message).count(), 1, "{message}: {said:?}");
    }
    assert!(!said.iter().any(|said| said == "permitted"), "{said:?}");
}

#[tokio::test]
async fn hostile_hosts_and_paths_stay_within_their_log_line() {
    let backend = backend::echo().run().await;
    let folder = folder(&backend, "127.0.0.1\n");
    for format in ["json", "text"] {
        let process = process::new(folder.path()).log(format).run().await;
        for host in ["a\"},{\"level\":\"ERROR", "\u{202e}gpj", "a\u{9b}31mb", &"h".repeat(9000)] {
            let head = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
            process.client().send(head).await;
        }
        process.client().send(b"GET /x HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n").await;
        process.client().get(&format!("/{}", "%1b%0a".repeat(1000))).await;
        let lines: Vec<_> =
            process.ended().await.into_iter().filter(|line| line.contains("refused")).collect();
        assert_eq!(lines.len(), 6, "{lines:#?}");
        for line in lines {
            assert!(line.len() < 4096 && !line.contains(['\u{202e}', '\u{9b}', '\x1b']), "{line}");
            assert!(format == "text" || process::json(&line)["level"] == "INFO", "{line}");
        }
    }
}

#[tokio::test]
async fn without_a_terminal_lines_are_json_and_text_has_no_colours() {
    let backend = backend::echo().run().await;
    let folder = folder(&backend, "127.0.0.1\n");
    let mut process = process::new(folder.path()).run().await;
    process.client().attempt("/chat").await.expect(101);
    let line = process.logged("permitted").await;
    let time = line["timestamp"].as_str().unwrap();
    assert!(time.len() == "2026-12-31T23:59:59.999Z".len() && time.ends_with('Z'), "{time}");
    time.parse::<jiff::Timestamp>().unwrap();
    process.ended().await;
    let mut process = process::new(folder.path()).log("text").run().await;
    process.client().from("127.0.0.2").attempt("/chat").await.expect(403);
    let line = process.line("refused").await;
    assert!(
        line.contains("  INFO refused route=chat listener=public client=127.0.0.2 ")
            && !line.contains('\x1b'),
        "{line}"
    );
}

#[tokio::test]
async fn full_log_pipe_delays_no_tunnel_and_counts_lost_lines() {
    let backend = backend::http(|_| backend::reply(204)).run().await;
    let echo = backend::echo().run().await;
    let sidegate = sidegate::new()
        .clear()
        .route("/chat", &echo)
        .route("/plain", &backend)
        .on_route("http = 'forward'");
    let folder = sidegate.write();
    let process = run(&folder).await;
    let mut tunnel = process.client().open("/chat").await;
    process.deafen();
    let client = process.client();
    let request = client.request("GET /plain HTTP/1.1", "").repeat(500);
    // More lines than the pipe holds and than may wait for it.
    let lost = async {
        while process.metric("sidegate_log_drops_total").await == 0.0 {
            let mut wire = client.connect().await;
            wire.send(&request).await;
            for _ in 0..500 {
                wire.answer().await.expect(204);
            }
            tunnel.expect_echo("still here").await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), lost).await.expect("lines that are lost");
    tunnel.expect_echo("and after").await;
    drop(tunnel);
    within("an end without the last lines", process.ended()).await;
}

#[test]
fn every_field_of_every_line_is_in_the_table() {
    let mut names = Vec::new();
    for text in crate::layers::sources().values() {
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| line.to_owned() + "\n")
            .collect();
        for call in
            ["error!(", "warn!(", "info!(", "debug!("].map(|level| format!("tracing::{level}"))
        {
            names.extend(code.split(&call).skip(1).flat_map(fields));
        }
    }
    assert!(names.len() > 50, "only {names:?}");
    names.retain(|name| !FIELDS.iter().any(|(known, _)| known == name));
    assert!(names.is_empty(), "not in the table of fields: {names:?}");
}

/// The names of the fields of a `tracing` macro, from behind its parenthesis on.
fn fields(call: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut parts = vec![String::new()];
    for c in call.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            ')' if depth == 0 => break,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    let parts = parts.iter().map(|part| part.trim()).take_while(|part| !part.starts_with('"'));
    let names = parts.map(|part| {
        part.split('=').next().unwrap().trim().trim_start_matches(['%', '?']).to_owned()
    });
    // A target is no field of a line.
    names.filter(|name| !name.is_empty() && !name.starts_with("target:")).collect()
}

#[test]
fn field_scanner_sees_every_form() {
    let call = "target: TARGET, route, client = %self.client(a, \"b, c\"), %error, status = x.map(|s| s == 1), \"a {message}, too\", more);";
    assert_eq!(fields(call), ["route", "client", "error", "status"]);
}

#[tokio::test]
async fn log_level_changes_at_run_time_and_returns() {
    let folder = sidegate::new().clear().write();
    let mut agent = process::new(folder.path()).run().await;
    let set = async |words: &[&str], code, said: &[&str]| {
        let command = [&["log-level", "--config", "."], words].concat();
        crate::cli::check(&command, folder.path(), code, said).await;
    };
    set(&[], 0, &["info\n"]).await;
    set(&["info,sidegate=loud"], 1, &["`sidegate=loud` at character 6 is no directive"]).await;
    set(&["debgu"], 1, &["`debgu` at character 1 is neither a level nor a target"]).await;
    set(&["debug", "--for", "soon"], 2, &["`soon` is no duration"]).await;
    set(&["warn"], 0, &["warn\n"]).await;
    let line = agent.logged("the log level is set").await;
    assert_eq!(line["filter"], "warn");
    assert_eq!(line["uid"], rustix::process::getuid().as_raw());
    // At `warn`, requests have no line; the next one is that of the change back to `info`.
    set(&[], 0, &["warn\n"]).await;
    set(&["info", "--for", "200ms"], 0, &["info, until ", ", then warn\n"]).await;
    let next = process::json(&agent.line("").await);
    assert_eq!(
        (&next["message"], &next["filter"]),
        (&"the log level is set".into(), &"info".into())
    );
    assert!(next["until"].is_string(), "{next}");
    let back = agent.logged("the log level is back").await;
    assert_eq!(back["filter"], "warn");
    set(&[], 0, &["warn\n"]).await;
}

//! The admin socket: who may ask, which answers it gives, and how it treats invalid requests.

use std::collections::BTreeSet;
use std::io::{Read, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream as StdStream;
use std::time::{Duration, Instant};

use ::sidegate::admin::wire::{
    AdminRequest, ConfigRequest, DrainAnswer, DrainRequest, Draining, ErrorAnswer, LastOutcome,
    ListenerProtocol, TunnelsRequest, WarningKind,
};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::cli;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::Wire;
use crate::harness::{backend, client, process, sidegate, within};
use crate::metrics::expect_told;

/// Most requests that are answered at one time.
const MOST: usize = 32;

async fn echoing() -> (Sidegate, backend::Backend) {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    (sidegate, backend)
}

/// Waits until so many tunnels are in the table: a client has its 101 a moment before.
async fn settled(sidegate: &Sidegate, tunnels: u32) {
    sidegate.expect_metric("sidegate_tunnels_open", [], tunnels).await;
}

/// Asserts that the socket answers this line with this error status, and a sentence that contains
/// this.
async fn check_wrong(sidegate: &Sidegate, line: &str, status: u16, said: &str) {
    let answer = sidegate.reply(line).await;
    let ErrorAnswer { error } = serde_json::from_str(&answer.text())
        .unwrap_or_else(|_| panic!("{line}: {}", answer.text()));
    assert_eq!(answer.status(), status, "{line}: {error}");
    assert!(error.contains(said), "{line}: {error}");
}

/// The ids on all pages of so many tunnels each; `between` happens between two pages.
async fn walk(sidegate: &Sidegate, limit: usize, mut between: impl AsyncFnMut()) -> Vec<u64> {
    let (mut ids, mut after) = (Vec::new(), 0);
    loop {
        let page =
            sidegate.answer_to(&TunnelsRequest { limit, after, ..TunnelsRequest::default() }).await;
        assert!(page.tunnels.len() <= limit);
        ids.extend(page.tunnels.iter().map(|tunnel| tunnel.id));
        match page.next {
            Some(next) => after = next,
            None => return ids,
        }
        between().await;
    }
}

#[tokio::test]
async fn status_has_generation_and_traffic() {
    let (sidegate, _backend) = echoing().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo("hello").await;
    let status = sidegate.status().await;
    assert_eq!((status.generation, status.tunnels, status.draining), (1, 1, false));
    assert_eq!(status.config, sidegate.config().display().to_string());
    let listener = &status.listeners[0];
    assert_eq!(listener.address, sidegate.address().to_string());
    assert_eq!((&listener.speaks, listener.connections), (&Some(ListenerProtocol::Plain), Some(1)));
    let route = &status.routes[0];
    assert_eq!((&*route.name, &*route.policy, route.tunnels), ("chat", "default", 1));
    assert_eq!((route.totals.opened, route.totals.from_client.messages), (1, 1));
    assert_eq!((status.last_reload, &*status.warnings), (None, &[][..]));
}

#[tokio::test]
async fn status_has_rates_after_a_second_sample() {
    let (sidegate, _backend) = echoing().await;
    assert_eq!(sidegate.status().await.routes[0].per_second, None); // who answers has looked
    let _tunnels =
        [client::new(&sidegate).open("/chat").await, client::new(&sidegate).open("/chat").await];
    let rates = async {
        loop {
            if let Some(rates) = sidegate.status().await.routes.swap_remove(0).per_second {
                return rates;
            }
        }
    };
    let rates = within("the first rates", rates).await;
    assert!(rates.over_seconds >= 1 && rates.opened > 0.0 && rates.opened <= 2.0, "{rates:?}");
}

#[tokio::test]
async fn status_has_the_rejection_until_a_reload_succeeds() {
    let (sidegate, _backend) = echoing().await;
    sidegate.write_rejected("policies/default.toml", "schema = 1\nclient.alow = ['any']\n").await;
    let status = sidegate.status().await;
    let last = status.last_reload.unwrap();
    assert_eq!((last.outcome, last.diagnostics[0].line), (LastOutcome::Rejected, 2));
    assert_eq!(status.warnings[0].word, WarningKind::Rejected);
    sidegate.put("policies/default.toml", "schema = 1\nclient.allow = ['any']\n\n");
    sidegate.expect_metric("sidegate_generation", [], 2).await;
    let status = sidegate.status().await;
    assert_eq!(
        (status.last_reload.unwrap().outcome, &*status.warnings),
        (LastOutcome::Published, &[][..])
    );
}

#[tokio::test]
async fn status_names_the_backend_that_is_down() {
    let gone = backend::refusing();
    let sidegate = sidegate::new().clear().route("/chat", &gone).run().await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(502, "backend");
    let status = sidegate.status().await;
    assert!(!status.routes[0].backends[0].up);
    assert_eq!(status.warnings[0].word, WarningKind::BackendDown);
}

#[tokio::test]
async fn the_configuration_shows_defaults_and_paths_and_no_key() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let answer = sidegate.answer_to(&ConfigRequest).await;
    assert_eq!((answer.generation, answer.file), (1, sidegate.config().display().to_string()));
    let at = |pointer: &str| answer.sidegate.pointer(pointer).and_then(Value::as_str);
    assert_eq!((at("/timeouts/dial"), at("/certificate/0/key")), (Some("2s"), Some("certs/0.key")));
    assert_eq!(
        answer.policies.get("default").unwrap().pointer("/client/allow"),
        Some(&serde_json::json!(["any"]))
    );
    assert!(!sidegate.reply("GET /v1/config").await.text().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn tunnels_answer_has_every_fact_of_a_tunnel() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    let client = client::new(&sidegate)
        .from("127.0.0.7")
        .header("Sec-WebSocket-Protocol", "v1.ticks, v2.ticks");
    let (_wire, mut served) =
        crate::tunnel::ends(&client, &backend, "Sec-WebSocket-Protocol: v2.ticks\r\n").await;
    served.send_frame(crate::harness::wire::Frame::text("hello")).await;
    sidegate.expect_metric("sidegate_messages_total", [("direction", "from_backend")], 1).await;
    let tunnel = sidegate.answer_to(&TunnelsRequest::default()).await.tunnels.swap_remove(0);
    assert_eq!([&*tunnel.route, &*tunnel.policy, &*tunnel.path], ["chat", "default", "/chat"]);
    assert_eq!([&*tunnel.client, &*tunnel.peer], ["127.0.0.7"; 2]);
    assert_eq!((tunnel.subprotocol.as_deref(), tunnel.generation), (Some("v2.ticks"), 1));
    assert_eq!((tunnel.from_backend.messages, tunnel.from_client.messages), (1, 0));
    assert!(tunnel.request_id.len() == 32 && tunnel.seconds < 60, "{tunnel:?}");
}

#[tokio::test]
async fn tunnels_are_filtered_by_route_and_by_network() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().clear().route("/chat", &backend).route("/ticks", &backend).run().await;
    let mut open = Vec::new();
    for (path, from) in [("/chat", "127.0.0.2"), ("/chat", "127.0.0.130"), ("/ticks", "127.0.0.3")]
    {
        open.push(client::new(&sidegate).from(from).open(path).await);
        settled(&sidegate, open.len() as u32).await; // so that their ids are in this order
    }
    for (query, clients) in [
        ("route=chat", &["127.0.0.2", "127.0.0.130"][..]),
        ("client=127.0.0.0/25", &["127.0.0.2", "127.0.0.3"]),
        ("client=127.0.0.0%2F25&route=ticks", &["127.0.0.3"]),
        ("client=127.0.0.3", &["127.0.0.3"]),
        ("client=192.0.2.0/24&route=chat", &[]),
        ("limit=1&after=1", &["127.0.0.130"]),
    ] {
        let page = sidegate.answer_to(&TunnelsRequest::parse(query).unwrap()).await;
        let found: Vec<_> = page.tunnels.iter().map(|one| &*one.client).collect();
        assert_eq!(found, clients, "{query}");
    }
}

#[tokio::test]
async fn tunnel_open_on_all_pages_is_listed_once() {
    let (sidegate, _backend) = echoing().await;
    let client = client::new(&sidegate);
    let (mut staying, mut leaving) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        staying.push(client.open("/chat").await);
        leaving.push(client.open("/chat").await);
    }
    settled(&sidegate, 80).await;
    let before = walk(&sidegate, 1000, async || {}).await;
    let stay: BTreeSet<u64> = before.iter().copied().step_by(2).collect();
    let told = walk(&sidegate, 7, async || {
        drop(leaving.pop());
        staying.push(client.open("/chat").await);
    });
    let told = told.await;
    let once: BTreeSet<u64> = told.iter().copied().collect();
    assert_eq!(once.len(), told.len(), "none twice: {told:?}");
    assert!(stay.is_subset(&once), "none left out: {told:?}");
    assert!(told.is_sorted() && before.len() == 80);
}

#[tokio::test]
async fn bad_parameters_get_an_error_sentence() {
    let (sidegate, _backend) = echoing().await;
    check_wrong(&sidegate, "GET /v1/tunnels?limit=1001", 400, "`limit` is a number from 1 to 1000")
        .await;
    check_wrong(&sidegate, "GET /v1/tunnels?client=office", 400, "`office` is not an address")
        .await;
    check_wrong(&sidegate, "GET /v1/tunnels?route=nowhere", 400, "there is no route `nowhere`")
        .await;
    check_wrong(&sidegate, "GET /v1/tunnels?page=2", 400, "there is no `page`").await;
    check_wrong(&sidegate, "POST /v1/reload?wait=maybe", 400, "wait=true or wait=false").await;
    check_wrong(&sidegate, "GET /v1/reload", 405, "POST").await;
    check_wrong(&sidegate, "POST /v1/status", 405, "GET").await;
    check_wrong(&sidegate, "DELETE /v1/tunnels", 405, "GET").await;
    check_wrong(&sidegate, "GET /metrics", 404, "GET /v1/status").await;
    assert_eq!(sidegate.generation().await, 1);
}

#[tokio::test]
async fn garbage_is_answered_400_or_closed() {
    let (sidegate, _backend) = echoing().await;
    let head = format!("GET /v1/status HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    for bytes in [
        "\0\u{1}\u{2}\r\n\r\n",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /v1/status HTTP/9.9\r\n\r\n",
        &head,
    ] {
        let mut wire = sidegate.admin().await;
        wire.send(bytes).await;
        let said = String::from_utf8_lossy(&wire.rest().await).into_owned();
        assert!(said.starts_with("HTTP/1.1 4") || said.is_empty(), "{bytes:?}: {said}");
    }
    sidegate.status().await;
}

#[tokio::test]
async fn answers_arrive_when_bodies_are_not_read() {
    let (sidegate, _backend) = echoing().await;
    let body = "x".repeat(8 << 20);
    let lines = format!("Host: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for (first, status) in [
        ("GET /v1/status HTTP/1.1", 200),
        ("POST /v1/reload HTTP/1.1", 200),
        ("POST /v1/explain?nonsense HTTP/1.1", 400),
        ("GET", 400),
        ("POST /metrics HTTP/1.1", 404),
        ("DELETE /v1/tunnels HTTP/1.1", 405),
    ] {
        let bytes = format!("{first}\r\n{lines}");
        expect_told(sidegate.admin().await, bytes.as_bytes(), status).await;
    }
    let long = format!("GET /v1/status HTTP/1.1\r\nHost: a\r\nX: {body}\r\n\r\n");
    expect_told(sidegate.admin().await, long.as_bytes(), 431).await;
}

#[tokio::test]
async fn silent_callers_are_evicted() {
    let (sidegate, _backend) = echoing().await;
    let mut stalled: Vec<Wire> = Vec::new();
    for _ in 0..MOST {
        let mut wire = sidegate.admin().await;
        wire.send("GET /v1/status HTTP/1.1\r\n").await;
        stalled.push(wire);
    }
    let began = Instant::now();
    let asking: Vec<_> = (0..40).map(|_| sidegate.status()).collect();
    within("the answers", futures_util::future::join_all(asking)).await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "they waited for the deadline of a head: {:?}",
        began.elapsed()
    );
    stalled[0].expect_end().await;
}

#[tokio::test]
async fn full_accept_queue_is_reported() {
    let folder = sidegate::new().clear().write();
    let running = cli::run(folder.path()).await;
    running.stop();
    let socket = folder.path().join("admin.sock");
    let mut queued = Vec::new();
    loop {
        let next =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        next.set_nonblocking(true).unwrap();
        if next.connect(&socket2::SockAddr::unix(&socket).unwrap()).is_err() {
            break;
        }
        queued.push(next);
    }
    let output = cli::done(&["status", "--config", "sidegate.toml"], folder.path()).await;
    running.signal(rustix::process::Signal::CONT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("is busy")
            && said.contains("admin.sock")
            && !said.contains("no agent answers"),
        "{said}"
    );
    assert!(queued.len() > MOST);
}

#[tokio::test]
async fn repeated_drain_requests_order_one_drain() {
    let backend = backend::echo().run().await;
    let config = "shutdown = { spread = '0s', deadline = '1h' }\ntimeouts.grace = '1h'";
    let sidegate = sidegate::new().clear().route("/chat", &backend).toml(config).run().await;
    let mut stubborn = client::new(&sidegate).open_wire("/chat").await; // answers no Close
    settled(&sidegate, 1).await;
    let DrainAnswer::Draining(Draining { already, tunnels, shutdown, .. }) =
        sidegate.answer_to(&DrainRequest).await;
    assert_eq!((already, tunnels, &*shutdown.deadline), (false, 1, "1h"));
    assert_eq!(stubborn.frame().await.closes().map(|(code, _)| code), Some(1001));
    let DrainAnswer::Draining(again) = sidegate.answer_to(&DrainRequest).await;
    let status = sidegate.status().await;
    assert!(again.already && status.draining && status.tunnels == 1, "{again:?}");
    assert_eq!(status.warnings[0].word, WarningKind::Draining);
}

#[tokio::test]
async fn socket_has_mode_and_group_and_is_removed_with_the_agent() {
    let group = rustix::process::getgid().as_raw();
    let mut sidegate = sidegate::new()
        .clear()
        .toml(&format!("admin = {{ mode = '0622', group = '{group}' }}"))
        .run()
        .await;
    let path = sidegate.agent().admin().unwrap();
    let made = std::fs::metadata(&path).unwrap();
    assert_eq!((made.mode() & 0o777, made.gid()), (0o622, group));
    sidegate.drain().await;
    sidegate.ended().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn log_has_caller_request_and_outcome() {
    let folder = sidegate::new().clear().write();
    let mut running = cli::run(folder.path()).await;
    for (arguments, method, path, outcome) in [
        (&["status", "--config", "sidegate.toml"][..], "GET", "/v1/status", "told"),
        (&["reload", "--config", "sidegate.toml", "--wait"], "POST", "/v1/reload", "unchanged"),
        (&["drain", "--config", "sidegate.toml"], "POST", "/v1/drain", "draining"),
    ] {
        let output = cli::done(arguments, folder.path()).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let line = running.logged("admin").await;
        let ids = [rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()];
        assert_eq!(
            [&line["uid"], &line["gid"]].map(Value::as_u64),
            ids.map(|id| Some(id.into())),
            "{line}"
        );
        assert!(line["pid"].as_u64().is_some_and(|pid| pid > 1), "{line}");
        assert_eq!(
            [&line["method"], &line["path"], &line["outcome"]],
            [method, path, outcome],
            "{line}"
        );
    }
    assert_eq!(running.code().await, Some(0));
}

#[tokio::test]
async fn order_whose_caller_has_left_is_not_begun() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new().route("/", &backend).clear().toml("process.state = 'off'").write();
    let mut agent = process::new(folder.path()).log("json").run().await;
    let orders = ["ban?client=192.0.2.7&why=x", "close?all=true&code=1000&reason=x", "drain"];
    let ask = |order: &str| {
        let mut caller = StdStream::connect(folder.path().join("admin.sock")).unwrap();
        write!(caller, "POST /v1/{order} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        caller
    };
    kill_process(agent.pid(), Signal::STOP).unwrap();
    orders.iter().for_each(|order| drop(ask(order)));
    let mut stays = ask("ban?client=192.0.2.8&why=x");
    kill_process(agent.pid(), Signal::CONT).unwrap();
    for _ in orders {
        agent.line("\"outcome\":\"dropped\"").await;
    }
    let mut answer = [0; 15];
    stays.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let bans = cli::done(&["bans", "--config", "sidegate.toml"], folder.path()).await;
    let bans = String::from_utf8(bans.stdout).unwrap();
    assert!(bans.contains("192.0.2.8") && !bans.contains("192.0.2.7"), "{bans}");
}

#[tokio::test]
async fn every_answer_has_schema_and_version() {
    let (sidegate, _backend) = echoing().await;
    let explain = "POST /v1/explain?client=127.0.0.9&url=ws://localhost/chat";
    for line in [
        "GET /v1/status",
        "GET /v1/config",
        "GET /v1/tunnels",
        "POST /v1/reload",
        "POST /v1/reload?wait=false",
        "POST /v1/diff",
        explain,
        "GET /v1/nothing",
        "GET /v1/reload",
        "GET /v1/tunnels?limit=0",
        "POST /v1/drain",
    ] {
        let answer = sidegate.reply(line).await;
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json.pointer("/schema").and_then(Value::as_u64), Some(1), "{line}: {json}");
        assert_eq!(
            answer.header("server"),
            Some(concat!("sidegate/", env!("CARGO_PKG_VERSION"))),
            "{line}"
        );
    }
}

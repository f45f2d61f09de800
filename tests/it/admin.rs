//! The admin socket: who may ask, what is told, and what nonsense gets.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::Wire;
use crate::harness::{backend, client, sidegate, within};
use crate::metrics::expect_told;

/// The most who are answered at one time.
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

/// What the socket answers to this line is an error with this status, and a sentence with this in it.
async fn check_wrong(sidegate: &Sidegate, line: &str, status: u16, said: &str) {
    let (got, body) = sidegate.told(line).await;
    let sentence = body["error"].as_str().unwrap_or_else(|| panic!("{line}: {body}"));
    assert_eq!(got, status, "{line}: {body}");
    assert!(sentence.contains(said), "{line}: {sentence}");
}

/// The ids on all pages of so many tunnels each; `between` happens between two pages.
async fn walk(sidegate: &Sidegate, limit: usize, mut between: impl AsyncFnMut()) -> Vec<u64> {
    let (mut ids, mut after) = (Vec::new(), 0);
    loop {
        let (status, page) = sidegate.told(&format!("GET /v1/tunnels?limit={limit}&after={after}")).await;
        assert_eq!(status, 200, "{page}");
        let tunnels = page["tunnels"].as_array().unwrap();
        assert!(tunnels.len() <= limit);
        ids.extend(tunnels.iter().map(|tunnel| tunnel["id"].as_u64().unwrap()));
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => return ids,
        }
        between().await;
    }
}

#[tokio::test]
async fn status_says_what_runs_and_what_passes() {
    let (sidegate, _backend) = echoing().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo("hello").await;
    let (status, told) = sidegate.told("GET /v1/status").await;
    assert_eq!((status, &told["generation"], &told["tunnels"], &told["draining"]), (200, &1.into(), &1.into(), &false.into()));
    assert_eq!(told["config"], sidegate.config().display().to_string());
    assert_eq!(told["listeners"][0]["address"], sidegate.address().to_string());
    assert_eq!((&told["listeners"][0]["speaks"], &told["listeners"][0]["connections"]), (&"plain".into(), &1.into()));
    let route = &told["routes"][0];
    assert_eq!((&route["name"], &route["policy"], &route["tunnels"]), (&"chat".into(), &"default".into(), &1.into()));
    assert_eq!((&route["totals"]["opened"], &route["totals"]["from_client"]["messages"]), (&1.into(), &1.into()));
    assert_eq!((&told["last_reload"], &told["warnings"]), (&Value::Null, &Value::Array(Vec::new())));
}

#[tokio::test]
async fn status_has_rates_once_it_has_looked_for_a_second() {
    let (sidegate, _backend) = echoing().await;
    assert_eq!(sidegate.told("GET /v1/status").await.1["routes"][0]["per_second"], Value::Null); // who answers has looked
    let _tunnels = [client::new(&sidegate).open("/chat").await, client::new(&sidegate).open("/chat").await];
    let rates = async {
        loop {
            let rates = sidegate.told("GET /v1/status").await.1["routes"][0]["per_second"].clone();
            if rates.is_object() {
                return rates;
            }
        }
    };
    let rates = within("the first rates", rates).await;
    let (over, opened) = (rates["over_seconds"].as_f64().unwrap(), rates["opened"].as_f64().unwrap());
    assert!(over >= 1.0 && opened > 0.0 && opened <= 2.0, "{rates}");
}

#[tokio::test]
async fn status_says_what_a_reload_was_rejected_for_until_one_is_not() {
    let (sidegate, _backend) = echoing().await;
    sidegate.write_rejected("policies/default.toml", "schema = 1\nclient.alow = ['any']\n").await;
    let (_, told) = sidegate.told("GET /v1/status").await;
    let last = &told["last_reload"];
    assert_eq!((&last["outcome"], &last["diagnostics"][0]["line"]), (&"rejected".into(), &2.into()), "{last}");
    assert_eq!(told["warnings"][0]["word"], "rejected");
    sidegate.put("policies/default.toml", "schema = 1\nclient.allow = ['any']\n\n");
    sidegate.expect_metric("sidegate_generation", [], 2).await;
    let (_, told) = sidegate.told("GET /v1/status").await;
    assert_eq!((&told["last_reload"]["outcome"], &told["warnings"]), (&"published".into(), &Value::Array(Vec::new())));
}

#[tokio::test]
async fn status_says_which_backend_is_down() {
    let gone = backend::refusing();
    let sidegate = sidegate::new().clear().route("/chat", &gone).run().await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(502, "backend");
    let (_, told) = sidegate.told("GET /v1/status").await;
    assert_eq!(told["routes"][0]["backends"][0]["up"], false);
    assert_eq!(told["warnings"][0]["word"], "backend_down");
}

#[tokio::test]
async fn the_configuration_shows_defaults_and_paths_and_no_key() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let (status, told) = sidegate.told("GET /v1/config").await;
    assert_eq!((status, &told["generation"], &told["file"]), (200, &1.into(), &sidegate.config().display().to_string().into()));
    assert_eq!(told["sidegate"]["timeouts"]["dial"], "2s");
    assert_eq!(told["sidegate"]["certificate"][0]["key"], "certs/0.key");
    assert_eq!(told["policies"]["default"]["client"]["allow"], serde_json::json!(["any"]));
    assert!(!told.to_string().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_tunnel_is_told_with_all_that_is_known_of_it() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    let client = client::new(&sidegate).from("127.0.0.7").header("Sec-WebSocket-Protocol", "v1.ticks, v2.ticks");
    let (_wire, mut served) = crate::tunnel::ends(&client, &backend, "Sec-WebSocket-Protocol: v2.ticks\r\n").await;
    served.send_frame(crate::harness::wire::Frame::text("hello")).await;
    sidegate.expect_metric("sidegate_messages_total", [("direction", "from_backend")], 1).await;
    let (_, page) = sidegate.told("GET /v1/tunnels").await;
    let tunnel = &page["tunnels"][0];
    for (key, value) in
        [("route", "chat"), ("policy", "default"), ("client", "127.0.0.7"), ("peer", "127.0.0.7"), ("path", "/chat")]
    {
        assert_eq!(tunnel[key], value, "{tunnel}");
    }
    assert_eq!((&tunnel["subprotocol"], &tunnel["generation"]), (&"v2.ticks".into(), &1.into()), "{tunnel}");
    assert_eq!((&tunnel["from_backend"]["messages"], &tunnel["from_client"]["messages"]), (&1.into(), &0.into()));
    assert_eq!(tunnel["request_id"].as_str().map(str::len), Some(32));
    assert!(tunnel["seconds"].as_u64().is_some_and(|seconds| seconds < 60) && tunnel["opened"].is_string());
}

#[tokio::test]
async fn tunnels_are_filtered_by_route_and_by_network() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).route("/ticks", &backend).run().await;
    let mut open = Vec::new();
    for (path, from) in [("/chat", "127.0.0.2"), ("/chat", "127.0.0.130"), ("/ticks", "127.0.0.3")] {
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
        let (_, page) = sidegate.told(&format!("GET /v1/tunnels?{query}")).await;
        let found: Vec<_> = page["tunnels"].as_array().unwrap().iter().map(|one| one["client"].as_str().unwrap()).collect();
        assert_eq!(found, clients, "{query}");
    }
}

#[tokio::test]
async fn what_is_open_from_the_first_page_to_the_last_is_told_once() {
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
async fn bad_parameters_get_a_sentence() {
    let (sidegate, _backend) = echoing().await;
    check_wrong(&sidegate, "GET /v1/tunnels?limit=1001", 400, "`limit` is a number from 1 to 1000").await;
    check_wrong(&sidegate, "GET /v1/tunnels?client=office", 400, "`office` is not an address").await;
    check_wrong(&sidegate, "GET /v1/tunnels?route=nowhere", 400, "there is no route `nowhere`").await;
    check_wrong(&sidegate, "GET /v1/tunnels?page=2", 400, "there is no `page`").await;
    check_wrong(&sidegate, "POST /v1/reload?wait=maybe", 400, "wait=true or wait=false").await;
    check_wrong(&sidegate, "GET /v1/reload", 405, "POST").await;
    check_wrong(&sidegate, "POST /v1/status", 405, "GET").await;
    check_wrong(&sidegate, "DELETE /v1/tunnels", 405, "GET").await;
    check_wrong(&sidegate, "GET /metrics", 404, "GET /v1/status").await;
    assert_eq!(sidegate.generation().await, 1);
}

#[tokio::test]
async fn nonsense_is_answered_400_or_ended_and_hurts_nobody() {
    let (sidegate, _backend) = echoing().await;
    let head = format!("GET /v1/status HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    for bytes in
        ["\0\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /v1/status HTTP/9.9\r\n\r\n", &head]
    {
        let mut wire = sidegate.admin().await;
        wire.send(bytes).await;
        let said = String::from_utf8_lossy(&wire.rest().await).into_owned();
        assert!(said.starts_with("HTTP/1.1 4") || said.is_empty(), "{bytes:?}: {said}");
    }
    assert_eq!(sidegate.told("GET /v1/status").await.0, 200);
}

#[tokio::test]
async fn answers_arrive_though_bodies_are_not_read() {
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
async fn callers_that_ask_nothing_make_room_for_others() {
    let (sidegate, _backend) = echoing().await;
    let mut stalled: Vec<Wire> = Vec::new();
    for _ in 0..MOST {
        let mut wire = sidegate.admin().await;
        wire.send("GET /v1/status HTTP/1.1\r\n").await;
        stalled.push(wire);
    }
    let began = Instant::now();
    let asking: Vec<_> = (0..40).map(|_| sidegate.told("GET /v1/status")).collect();
    let answered = within("the answers", futures_util::future::join_all(asking)).await;
    assert!(began.elapsed() < Duration::from_secs(4), "they waited for the deadline of a head: {:?}", began.elapsed());
    assert!(answered.iter().all(|(status, _)| *status == 200));
    stalled[0].expect_end().await;
}

#[tokio::test]
async fn a_full_queue_is_said_to_be_one() {
    let folder = sidegate::new().clear().write();
    let running = cli::run(folder.path()).await;
    running.stop();
    let socket = folder.path().join("admin.sock");
    let mut queued = Vec::new();
    loop {
        let next = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        next.set_nonblocking(true).unwrap();
        if next.connect(&socket2::SockAddr::unix(&socket).unwrap()).is_err() {
            break;
        }
        queued.push(next);
    }
    let output = cli::done(&["status", "--config", "sidegate.toml"], folder.path()).await;
    running.signal(rustix::process::Signal::CONT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is busy") && said.contains("admin.sock") && !said.contains("no agent answers"), "{said}");
    assert!(queued.len() > MOST);
}

#[tokio::test]
async fn a_drain_is_ordered_once_however_often_it_is_asked_for() {
    let backend = backend::echo().run().await;
    let config = "shutdown = { spread = '0s', deadline = '1h' }\ntimeouts.grace = '1h'";
    let sidegate = sidegate::new().clear().route("/chat", &backend).toml(config).run().await;
    let mut stubborn = client::new(&sidegate).open_wire("/chat").await; // answers no Close
    settled(&sidegate, 1).await;
    let (status, first) = sidegate.told("POST /v1/drain").await;
    assert_eq!(
        (status, &first["outcome"], &first["already"], &first["tunnels"]),
        (202, &"draining".into(), &false.into(), &1.into())
    );
    assert_eq!(first["shutdown"]["deadline"], "1h");
    assert_eq!(stubborn.frame().await.closes().map(|(code, _)| code), Some(1001));
    assert_eq!(sidegate.told("POST /v1/drain").await.1["already"], true);
    let (_, told) = sidegate.told("GET /v1/status").await;
    assert_eq!(
        (&told["draining"], &told["tunnels"], &told["warnings"][0]["word"]),
        (&true.into(), &1.into(), &"draining".into())
    );
}

#[tokio::test]
async fn the_socket_has_its_mode_and_group_and_is_gone_with_the_agent() {
    let group = rustix::process::getgid().as_raw();
    let mut sidegate = sidegate::new().clear().toml(&format!("admin = {{ mode = '0622', group = '{group}' }}")).run().await;
    let path = sidegate.agent().admin().unwrap();
    let made = std::fs::metadata(&path).unwrap();
    assert_eq!((made.mode() & 0o777, made.gid()), (0o622, group));
    sidegate.drain().await;
    sidegate.ended().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn the_log_says_who_asked_for_what_and_what_became_of_it() {
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
        assert_eq!([&line["uid"], &line["gid"]].map(Value::as_u64), ids.map(|id| Some(id.into())), "{line}");
        assert!(line["pid"].as_u64().is_some_and(|pid| pid > 1), "{line}");
        assert_eq!([&line["method"], &line["path"], &line["outcome"]], [method, path, outcome], "{line}");
    }
    assert_eq!(running.code().await, Some(0));
}

/// The names of all members of `json`, however deep.
fn names(json: &Value, into: &mut BTreeSet<String>) {
    match json {
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            into.insert(name.clone());
            names(value, into);
        }),
        Value::Array(items) => items.iter().for_each(|item| names(item, into)),
        _ => {}
    }
}

#[tokio::test]
async fn every_name_stands_in_the_documentation() {
    let backend = backend::echo().run().await;
    let builder = sidegate::new().route("/chat", &backend).policy(|page| page.list_file("banned").deny("banned"));
    let sidegate = builder.file("policies/lists/banned.cidr", "127.0.0.9\n").run().await;
    let _tunnel = client::new(&sidegate).open("/chat").await;
    settled(&sidegate, 1).await;
    let mut used = BTreeSet::new();
    sidegate.put("policies/lists/banned.cidr", "127.0.0.0/24\n");
    names(&sidegate.told("POST /v1/diff").await.1, &mut used);
    let asked = "POST /v1/explain?client=127.0.0.9&url=wss://localhost/chat";
    names(&sidegate.told(asked).await.1, &mut used);
    sidegate.write_rejected("policies/default.toml", "schema = 2\n").await;
    for line in ["GET /v1/status", "GET /v1/tunnels", "POST /v1/reload", "POST /v1/reload?wait=false", "POST /v1/drain"] {
        names(&sidegate.told(line).await.1, &mut used);
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.md")).unwrap();
    let missing: Vec<_> = used.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty() && used.len() > 50, "{missing:?} of {}", used.len());
}

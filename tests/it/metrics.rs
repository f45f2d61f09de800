//! The content of `/metrics`, `/livez` and `/readyz`, who may read it, and that no reader disturbs
//! another.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::sidegate::admin::wire::{ReadyState, ReadyzAnswer};
use ::sidegate::observe::metrics::table;
use jiff::{Timestamp, ToSpan};
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::harness::client::Client;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{End, Frame, Wire, lossy};
use crate::harness::{backend, client, sidegate, within};

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A client of the metrics listener.
fn scraper(sidegate: &Sidegate) -> Client {
    client::clear(sidegate.agent().metrics().unwrap())
}

/// The samples of a scrape by series.
fn series(scrape: &str) -> BTreeMap<&str, f64> {
    let samples = scrape.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series, value.parse().unwrap()))
        .collect()
}

/// The sum of the samples of a family whose labels begin with these.
fn sum(scrape: &str, series_of: &str) -> f64 {
    series(scrape)
        .iter()
        .filter(|(name, _)| name.starts_with(series_of))
        .map(|(_, value)| value)
        .sum()
}

/// Asserts that everything that came in has gone out or is still there, for connections and for the
/// tunnels of `route`. Returns how many are open.
fn check_conserved(scrape: &str, route: &str) -> (f64, f64) {
    let connections =
        |what: &str| sum(scrape, &format!("sidegate_connections_{what}{{listener=\"public\""));
    let tunnels = |what: &str| sum(scrape, &format!("sidegate_tunnels_{what}{{route=\"{route}\""));
    assert_eq!(
        connections("accepted_total"),
        connections("open") + connections("closed_total"),
        "{scrape}"
    );
    assert_eq!(tunnels("opened_total"), tunnels("open") + tunnels("closed_total"), "{scrape}");
    (connections("open"), tunnels("open"))
}

/// Does it on a thread of its own.
fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime.block_on(work))
}

/// Comes and goes in every way there is; says how many tunnels it opened.
async fn churn(client: Client, turns: u32) -> u32 {
    let mut opened = 0;
    for turn in 0..turns {
        match turn % 6 {
            0 => client.open("/chat").await.expect_echo("hello").await,
            1 => client.open_wire("/chat").await.reset(),
            2 => client.open_wire("/chat").await.send_frame(Frame::close(1000, "")).await,
            3 => drop(client.attempt("/elsewhere").await),
            4 => drop(client.get("/chat").await),
            _ => drop(client.connect_below_tls().await),
        }
        opened += u32::from(turn % 6 < 3);
    }
    opened
}

// C-OBS-03
#[tokio::test]
async fn connections_are_conserved_at_every_scrape() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().threads(3).route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let _kept =
        (client.open("/chat").await, client.open("/chat").await, client.connect_below_tls().await);
    let churning: Vec<_> = (0..4).map(|_| apart(churn(client.clone(), 120))).collect();
    let mut most = 0.0;
    while churning.iter().any(|one| !one.is_finished()) {
        most = check_conserved(&sidegate.metrics().await, "chat").0.max(most);
    }
    assert!(most > 3.0, "nobody was ever seen there");
    let opened = 2 + churning.into_iter().map(|one| one.join().unwrap()).sum::<u32>();
    sidegate.expect_metric("sidegate_connections_open", [], 3).await;
    sidegate.expect_metric("sidegate_tunnels_opened_total", [("route", "chat")], opened).await;
    sidegate.expect_metric("sidegate_connections_accepted_total", [], 4 * 120 + 3).await;
    assert_eq!(check_conserved(&sidegate.metrics().await, "chat"), (3.0, 2.0));
}

#[tokio::test]
async fn relayed_traffic_of_all_threads_is_counted_once() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().threads(4).route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut wire = client.open_wire("/chat").await;
        wire.expect_echo("ten bytes.").await;
        open.push(wire);
    }
    for open in [open, Vec::new()] {
        sidegate
            .expect_metric(
                "sidegate_messages_total",
                [("route", "chat"), ("direction", "from_client")],
                16,
            )
            .await;
        sidegate
            .expect_metric(
                "sidegate_bytes_total",
                [("route", "chat"), ("direction", "from_client")],
                16 * 16,
            )
            .await;
        sidegate
            .expect_metric(
                "sidegate_bytes_total",
                [("route", "chat"), ("direction", "from_backend")],
                16 * 12,
            )
            .await;
        sidegate
            .expect_metric("sidegate_tunnels_open", [("route", "chat")], open.len() as u32)
            .await;
        drop(open);
        sidegate.expect_metric("sidegate_tunnels_open", [("route", "chat")], 0).await;
    }
    sidegate.expect_metric("sidegate_tunnel_lifetime_seconds_count", [("route", "chat")], 16).await;
    sidegate
        .expect_metric("sidegate_upgrade_seconds_bucket", [("route", "chat"), ("le", "+Inf")], 16)
        .await;
    sidegate.expect_metric("sidegate_dial_seconds_count", [("route", "chat")], 16).await;
}

/// Requests with addresses, hosts, paths and headers that no request had before.
async fn stray(client: Client, turns: u32) {
    for turn in 0..turns {
        let random = || format!("{:x}", rand::random::<u64>());
        let [a, b, c] = rand::random::<[u8; 3]>();
        let client = client.clone().from(&format!("127.{a}.{b}.{}", c.clamp(1, 254)));
        let client = client
            .host(&format!("{}.example.com", random()))
            .header(&format!("X-{}", random()), &random());
        let path = format!("/{}?{}", random(), random());
        match turn % 5 {
            0 => client.get(&path).await.expect(404),
            1 => client.get(&format!("/a{path}")).await.expect(204),
            2 => client
                .origin(&format!("https://{}", random()))
                .attempt(&format!("/ab{path}"))
                .await
                .expect(204),
            3 => client.subprotocols(&[&random()]).attempt(&format!("/-{path}")).await.expect(404),
            _ => client.get(&format!("/a/%zz{path}")).await.expect(400),
        };
    }
}

#[tokio::test]
async fn ten_thousand_clients_add_no_series() {
    let backend = backend::http(|_| backend::reply(204)).run().await;
    let limits = "upgrades = { rate = '1/m', burst = 99 }\nrequests = { rate = '1/m', burst = 99 }";
    let sidegate = sidegate::new()
        .clear()
        .threads(2)
        .limits(limits)
        .route("/a/", &backend)
        .on_route("http = 'forward'");
    let sidegate = sidegate.route("/ab/", &backend).on_route("name = 'a-_0'").run().await;
    stray(client::new(&sidegate), 5).await;
    let before = sidegate.metrics().await;
    let strays: Vec<_> = (0..4).map(|_| apart(stray(client::new(&sidegate), 2500))).collect();
    strays.into_iter().for_each(|one| one.join().unwrap());
    let after = sidegate.metrics().await;
    assert_eq!(
        series(&before).into_keys().collect::<Vec<_>>(),
        series(&after).into_keys().collect::<Vec<_>>()
    );
    assert_eq!(sum(&after, "sidegate_requests_total"), 10_005.0);
    assert!(sum(&after, "sidegate_limiter_keys") > 100.0, "{after}");
}

/// An agent where everything has happened that is counted.
async fn eventful(backend: &backend::Backend) -> Sidegate {
    let expires = |days: i64| (Timestamp::now() + (days * 24).hours()).to_string();
    let partners = format!(
        "127.0.0.0/8\n192.0.2.1 expires={}\n192.0.2.2 expires={}\n",
        expires(29),
        expires(31)
    );
    let limits = "connections = { total = 9 }\nstreams = { total = 9 }\nupgrades = { rate = '9/s', burst = 99 }";
    let sidegate =
        sidegate::new().route("/chat", backend).on_route("http = 'forward'").limits(limits);
    let named = format!("backend = 'http://localhost:{}'", backend.port());
    let sidegate = sidegate.route("/named", backend).on_route(&named);
    let sidegate = sidegate.policy(|page| page.list_file("partners").allow("partners"));
    let candidate = "schema = 1\nclient.allow = ['127.0.0.2']\n";
    let sidegate = sidegate.file("policies/default.shadow.toml", candidate);
    let sidegate = sidegate.file("policies/lists/partners.cidr", &partners).run().await;
    client::new(&sidegate)
        .open("/chat")
        .await
        .expect_echo("which the candidate would refuse")
        .await;
    let mut leaving = client::new(&sidegate).from("127.0.0.2").open("/chat").await;
    sidegate.policy().deny("127.0.0.2").write().await;
    leaving.expect_close(1008).await;
    sidegate.expect_metric("sidegate_revoked_total", [("refusal", "network")], 1).await;
    client::new(&sidegate).get("/chat").await.expect(200);
    client::new(&sidegate).attempt("/elsewhere").await.expect(404);
    sidegate
}

#[tokio::test]
async fn scrape_has_every_family_of_the_table_once() {
    let backend = backend::echo().run().await;
    let sidegate = eventful(&backend).await;
    let scrape = sidegate.metrics().await;
    let mut wanted: Vec<_> =
        table().into_iter().map(|family| (family.name, family.kind.word(), family.help)).collect();
    // Only a listener with revocation lists has it: `identity` asks for it.
    wanted.retain(|(name, ..)| *name != "sidegate_crl_next_update_timestamp_seconds");
    // Without `[crowdsec]` there are none of its families.
    wanted.retain(|(name, ..)| !name.starts_with("sidegate_crowdsec_"));
    wanted.sort_unstable();
    let told = |word: &str| -> Vec<(&str, &str)> {
        scrape.lines().filter_map(|line| line.strip_prefix(word)?.split_once(' ')).collect()
    };
    assert_eq!(
        told("# HELP "),
        wanted.iter().map(|(name, _, help)| (*name, *help)).collect::<Vec<_>>()
    );
    assert_eq!(
        told("# TYPE "),
        wanted.iter().map(|(name, kind, _)| (*name, *kind)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn every_sample_has_the_labels_of_its_family() {
    let backend = backend::echo().run().await;
    let scrape = eventful(&backend).await.metrics().await;
    let mut family = None;
    let mut samples = BTreeSet::new();
    for line in scrape.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family =
                table().into_iter().find(|family| rest.starts_with(&format!("{} ", family.name)));
        } else if !line.starts_with('#') {
            let family = family.unwrap();
            let (name, labels) = line
                .rsplit_once(' ')
                .unwrap()
                .0
                .split_once('{')
                .unwrap_or((line.split(' ').next().unwrap(), ""));
            let labels = labels
                .split(',')
                .filter_map(|label| Some(label.split_once('=')?.0))
                .filter(|label| *label != "le");
            assert!(
                name.starts_with(family.name) && labels.eq(family.labels.iter().copied()),
                "{line}"
            );
            assert!(samples.insert(line.rsplit_once(' ').unwrap().0), "twice: {line}");
        }
    }
}

#[tokio::test]
async fn entries_that_lapse_within_thirty_days_are_counted() {
    let backend = backend::echo().run().await;
    let sidegate = eventful(&backend).await;
    let partners = [("list", "partners"), ("policy", "default")];
    sidegate.expect_metric("sidegate_list_entries", partners, 3).await;
    sidegate.expect_metric("sidegate_entries_lapsing_30d", partners, 1).await;
    let written = sidegate.metric("sidegate_list_modified_timestamp_seconds", partners).await;
    assert!((Timestamp::now().as_second() as f64 - written).abs() < 3600.0);
}

#[tokio::test]
async fn backend_is_down_from_a_failed_dial_until_a_success() {
    let backend = backend::refusing();
    let sidegate = sidegate::new()
        .route("/one", &backend)
        .route("/two", &backend)
        .toml("timeouts.response = '1ms'")
        .run()
        .await;
    let (up, changes) = ("sidegate_backend_up", "sidegate_backend_changes_total");
    sidegate.expect_metric(up, [], 2).await;
    for _ in 0..3 {
        client::new(&sidegate).attempt("/one").await.expect_refused(502, "backend");
    }
    for route in ["one", "two"] {
        sidegate.expect_metric(up, [("route", route), ("backend", backend.address())], 0).await;
        sidegate
            .expect_metric(changes, [("route", route), ("backend", backend.address())], 1)
            .await;
    }
    assert!(sidegate.readyz().await.1.contains(backend.address()));
    backend.listen();
    client::new(&sidegate).attempt("/two").await.expect_refused(504, "backend");
    sidegate.expect_metric(up, [("route", "one")], 1).await;
    sidegate.expect_metric(changes, [("route", "one")], 2).await;
}

#[tokio::test]
async fn removed_backend_has_no_series() {
    let (gone, stays) = (backend::refusing(), backend::echo().run().await);
    let sidegate = sidegate::new().route_to("/chat", &[&gone, &stays]).run().await;
    while sidegate.metric("sidegate_backend_changes_total", []).await == 0.0 {
        client::new(&sidegate).open("/chat").await.expect_echo("over the other").await;
    }
    sidegate.reconfigure(|config| config["route"][0]["backend"] = stays.address().into()).await;
    let scrape = sidegate.metrics().await;
    assert!(!scrape.contains(gone.address()), "{scrape}");
    assert_eq!(sidegate.metric("sidegate_backend_up", [("backend", stays.address())]).await, 1.0);
}

#[tokio::test]
async fn route_keeps_its_counters_when_others_change() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).route("/feed", &backend).run().await;
    let before = sidegate.toml();
    let only = |path: &str| {
        vec![
            before["route"]
                .as_array()
                .unwrap()
                .iter()
                .find(|route| route["path"].as_str() == Some(path))
                .unwrap()
                .clone(),
        ]
    };
    let client = client::new(&sidegate);
    let mut kept = client.open("/chat").await;
    sidegate.reconfigure(|config| config["route"] = only("/feed").into()).await;
    kept.expect_close(1008).await;
    client.open("/feed").await.expect_echo("alone").await;
    sidegate
        .reconfigure(|config| config["route"] = [only("/feed"), only("/chat")].concat().into())
        .await;
    for _ in 0..2 {
        client.open("/chat").await.expect_echo("here again").await;
    }
    sidegate.expect_metric("sidegate_tunnels_opened_total", [("route", "chat")], 3).await;
    sidegate.expect_metric("sidegate_tunnels_opened_total", [("route", "feed")], 1).await;
}

#[tokio::test]
async fn rerouted_tunnel_is_counted_under_its_first_route() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo("before").await;
    sidegate.reconfigure(|config| config["route"][0]["name"] = "renamed".into()).await;
    tunnel.expect_echo("after").await;
    sidegate
        .expect_metric(
            "sidegate_messages_total",
            [("route", "chat"), ("direction", "from_client")],
            2,
        )
        .await;
    sidegate.expect_metric("sidegate_tunnels_open", [("route", "chat")], 1).await;
    tunnel.close(1000, "").await;
    sidegate
        .expect_metric(
            "sidegate_tunnels_closed_total",
            [("route", "chat"), ("reason", "client_closed")],
            1,
        )
        .await;
    assert_eq!(check_conserved(&sidegate.metrics().await, "chat").1, 0.0);
}

#[tokio::test]
async fn expected_series_exist_before_the_first_event() {
    let backend = backend::echo().run().await;
    let scrape = sidegate::new().route("/chat", &backend).run().await.metrics().await;
    let expected = [
        "refusals_total{route=\"chat\",reason=\"capacity\"}",
        "refusals_total{route=\"-\",reason=\"route\"}",
    ];
    let more = [
        "revoked_total{route=\"chat\",refusal=\"network\"}",
        "backend_changes_total{route=\"chat\",backend=",
    ];
    let failed = "requests_total{route=\"chat\",kind=\"plain\",result=\"failed\"}";
    for series in expected
        .into_iter()
        .chain(more)
        .chain([failed, "tls_handshakes_total{listener=\"public\",result=\"timeout\"}"])
    {
        assert!(scrape.lines().any(|line| line.starts_with(&format!("sidegate_{series}")) && line.ends_with(" 0")), "{series}");
    }
    assert!(!scrape.contains("sidegate_refusals_total{route=\"chat\",reason=\"route\"}"));
}

#[tokio::test]
async fn label_values_are_escaped() {
    let backend = backend::refusing();
    let sidegate = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .on_route("backend = 'unix:/run/a\"b\\c.sock'")
        .run()
        .await;
    assert!(sidegate.metrics().await.contains("backend=\"unix:/run/a\\\"b\\\\c.sock\"} 1\n"));
}

#[tokio::test]
async fn scrape_has_the_content_type_of_prometheus() {
    let sidegate = sidegate::new().run().await;
    let answer = scraper(&sidegate).get("/metrics").await;
    answer
        .expect(200)
        .expect_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
        .expect_header("connection", "close");
    assert!(answer.text().starts_with("# HELP process_cpu_seconds_total "), "{}", answer.text());
    scraper(&sidegate).get("/elsewhere").await.expect(404);
    let changing = scraper(&sidegate)
        .send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        .await;
    changing.expect(405).expect_header("allow", "GET, HEAD");
}

#[tokio::test]
async fn head_is_answered_without_a_body() {
    let sidegate = sidegate::new().run().await;
    for path in ["/metrics", "/livez", "/readyz"] {
        let mut wire = scraper(&sidegate).connect().await;
        wire.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let answer = wire.answer_to("HEAD").await;
        assert!(answer.expect(200).header("content-length").unwrap().parse::<u64>().unwrap() > 0);
        wire.expect_end().await;
    }
}

#[tokio::test]
async fn caller_outside_allow_gets_403_and_is_counted() {
    let sidegate = sidegate::new().toml("metrics.allow = ['127.0.0.0/30']").run().await;
    for (turn, path) in (1u32..).zip(["/metrics", "/livez", "/readyz"]) {
        let answer = scraper(&sidegate).from("127.0.0.9").get(path).await;
        assert_eq!(answer.expect(403).text(), "not in [metrics] allow\n");
        sidegate.expect_metric("sidegate_scrapes_refused_total", [], turn).await;
    }
    scraper(&sidegate).from("127.0.0.3").get("/metrics").await.expect(200);
}

/// So many connections that ask for all metrics and read nothing, or don't even ask.
async fn stall(scraper: &Client, count: usize) -> Vec<Wire> {
    let mut stalled = Vec::new();
    for turn in 0..count {
        let mut wire = scraper.connect().await;
        if turn % 2 == 0 {
            wire.send(SCRAPE).await;
        }
        stalled.push(wire);
    }
    stalled
}

// F28
#[tokio::test]
async fn stalled_scrapers_are_evicted() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    let mut stalled = stall(&scraper(&sidegate), 200).await;
    tunnel.expect_echo("meanwhile").await;
    for path in ["/livez", "/readyz", "/metrics"] {
        let began = Instant::now();
        scraper(&sidegate).get(path).await.expect(200);
        assert!(began.elapsed() < Duration::from_secs(2), "{path}: {:?}", began.elapsed());
    }
    stalled[1].expect_end().await;
}

/// More than the kernel's buffers of one connection hold.
const LARGE: usize = 8 << 20;

/// A request with this first line, and a body that is there in full.
fn upload(first: &str, lines: &str) -> Vec<u8> {
    let head = format!("{first}\r\n{lines}Content-Length: {LARGE}\r\n\r\n");
    [head.as_bytes(), &vec![b'x'; LARGE]].concat()
}

/// Asserts that a client that sends all of this before it reads gets this answer, and an end in
/// order.
pub async fn expect_told(mut wire: Wire, bytes: &[u8], status: u16) {
    wire.deliver(bytes).await;
    assert_eq!(wire.answer().await.status(), status, "{:?}", lossy(&bytes[..bytes.len().min(80)]));
    assert!(!wire.is_reset().await, "reset behind {status}");
}

#[tokio::test]
async fn answers_arrive_when_bodies_are_not_read() {
    let sidegate = sidegate::new().toml("metrics.allow = ['127.0.0.1']").run().await;
    let host = "Host: localhost\r\n";
    let long = format!("GET /livez HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(LARGE));
    for (bytes, status) in [
        (upload("POST /metrics HTTP/1.1", host), 405),
        (upload("PUT /metrics HTTP/1.0", ""), 405),
        (upload("GET /elsewhere HTTP/1.1", host), 404),
        (upload("GET /metrics HTTP/1.1", host), 200),
        (upload("POST /metrics HTTP/1.1", "Host: evil.example\r\n"), 403),
        (upload("POST /metrics HTTP/1.1", ""), 400),
        (upload("GET", ""), 400),
        (long.into_bytes(), 431),
        (format!("GET /metrics HTTP/1.1\r\n{host}\r\n").repeat(10_000).into_bytes(), 200),
    ] {
        expect_told(scraper(&sidegate).connect().await, &bytes, status).await;
    }
    let stranger = scraper(&sidegate).from("127.0.0.9").connect().await;
    expect_told(stranger, &upload("POST /metrics HTTP/1.1", host), 403).await;
}

#[tokio::test]
async fn readyz_503_arrives_when_a_body_is_not_read() {
    let sidegate = sidegate::new().toml("shutdown.delay = '5s'").run().await;
    sidegate.drain().await;
    sidegate.expect_metric("sidegate_draining", [], 1).await;
    let bytes = upload("GET /readyz HTTP/1.1", "Host: localhost\r\n");
    expect_told(scraper(&sidegate).connect().await, &bytes, 503).await;
}

#[tokio::test]
async fn unread_scrape_does_not_stay_in_the_kernel() {
    let sidegate = sidegate::new().run().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let tcp = socket.connect(sidegate.agent().metrics().unwrap()).await.unwrap();
    let mut wire = Wire::new(tcp, End::Client, None);
    wire.send(SCRAPE).await;
    wire.readable().await;
    let _stalled = stall(&scraper(&sidegate), 130).await;
    scraper(&sidegate).get("/livez").await.expect(200);
    assert!(wire.is_reset().await);
}

#[tokio::test]
async fn a_foreign_host_is_refused_at_a_loopback_address() {
    let sidegate = sidegate::new().toml("metrics.hosts = ['metrics.example']").run().await;
    let ask = async |host: &str, path: &str| scraper(&sidegate).host(host).get(path).await.status();
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(ask("evil.example", path).await, 403, "{path}");
        assert_eq!(ask("127.0.0.1:10464", path).await, 200, "{path}");
        assert_eq!(ask("Metrics.Example.", path).await, 200, "{path}");
    }
    sidegate.expect_metric("sidegate_scrapes_refused_total", [], 3).await;
    scraper(&sidegate).send("GET /livez HTTP/1.0\r\n\r\n").await.expect(200);
    scraper(&sidegate).send("GET /livez HTTP/1.1\r\n\r\n").await.expect(400);
    let target = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    scraper(&sidegate).send(target).await.expect(403);
}

#[tokio::test]
async fn stalled_denied_callers_do_not_delay_an_allowed_one() {
    let sidegate = sidegate::new().toml("metrics.allow = ['127.0.0.1']").run().await;
    let _stalled = stall(&scraper(&sidegate).from("127.0.0.9"), 100).await;
    within("a scrape beside them", scraper(&sidegate).get("/metrics")).await.expect(200);
    sidegate.expect_metric("sidegate_scrapes_refused_total", [], 100).await;
}

#[tokio::test]
async fn a_hundred_scrapes_at_a_time_are_all_answered() {
    let sidegate = sidegate::new().run().await;
    let scraper = scraper(&sidegate);
    let mut scrapes: JoinSet<_> = (0..100)
        .map(|_| scraper.clone())
        .map(|scraper| async move { scraper.get("/metrics").await })
        .collect();
    while let Some(answer) = scrapes.join_next().await {
        assert!(answer.unwrap().expect(200).text().contains("\nsidegate_generation 1\n"));
    }
}

#[tokio::test]
async fn livez_answers_in_the_accepted_format() {
    let sidegate = sidegate::new().run().await;
    let answer = scraper(&sidegate).get("/livez").await;
    assert_eq!(answer.expect(200).text(), "alive\n");
    let answer = scraper(&sidegate)
        .header("Accept", "text/html, application/json;q=0.5")
        .get("/livez")
        .await;
    answer.expect(200).expect_header("content-type", "application/json");
    assert_eq!(answer.text(), "{\"schema\":1,\"status\":\"alive\"}\n");
}

/// What `/readyz` says as JSON.
async fn ready(sidegate: &Sidegate, status: u16) -> ReadyzAnswer {
    let answer = scraper(sidegate).header("Accept", "application/json").get("/readyz").await;
    serde_json::from_str(&answer.expect(status).text()).unwrap()
}

#[tokio::test]
async fn serving_host_is_ready_with_warnings() {
    let backend = backend::refusing();
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(502, "backend");
    let text = sidegate.write_rejected("policies/default.toml", "schema = 2").await;
    assert!(text.starts_with("ready: generation 1 ("), "{text}");
    assert!(
        text.contains("rejected, and the previous configuration keeps running:\n  ")
            && text.contains("default.toml:1:"),
        "{text}"
    );
    let answer = ready(&sidegate, 200).await;
    assert_eq!(
        (answer.status, answer.generation, answer.watch_degraded),
        (ReadyState::Ready, 1, false)
    );
    assert!(answer.last_reload_rejected[0].contains("default.toml:1:"), "{answer:?}");
    assert_eq!(answer.backends_down, [backend.address()]);
    assert_eq!((answer.log_drops, answer.panics), (0, 0));
}

#[tokio::test]
async fn draining_host_is_live_and_not_ready() {
    let sidegate = sidegate::new().toml("shutdown.delay = '5s'").run().await;
    assert_eq!(ready(&sidegate, 200).await.last_reload_rejected, [""; 0]);
    sidegate.drain().await;
    sidegate.expect_metric("sidegate_draining", [], 1).await;
    assert_eq!(ready(&sidegate, 503).await.status, ReadyState::Draining);
    scraper(&sidegate).get("/livez").await.expect(200);
}

#[tokio::test]
async fn inline_allow_and_deny_are_separate_lists() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .allow("127.0.0.0/8")
        .deny("10.0.0.0/8")
        .run()
        .await;
    for list in ["(allow)", "(deny)"] {
        sidegate
            .expect_metric("sidegate_list_entries", [("list", list), ("policy", "default")], 1)
            .await;
    }
}

//! The page `/status`: who may read it, what it shows, and that its readers cost others nothing.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use ::sidegate::admin::wire::BanRequest;
use ::sidegate::control::config::PageAddress;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::{Answer, Wire, lossy};
use crate::harness::{backend, within};
use crate::metrics::expect_told;

/// Pages that are sent updates at one time.
const MAX_VIEWERS: usize = 16;

fn new() -> Builder {
    sidegate::new().clear().toml("admin.page_listen = '127.0.0.1:0'")
}

fn address(sidegate: &Sidegate) -> SocketAddr {
    match sidegate.agent().page() {
        Some(PageAddress::Tcp(address)) => address,
        other => panic!("no TCP address of the page: {other:?}"),
    }
}

/// A reader that asks for the page's own name and port.
fn reader(sidegate: &Sidegate) -> Client {
    let address = address(sidegate);
    client::clear(address).host(&format!("localhost:{}", address.port()))
}

async fn page(sidegate: &Sidegate) -> Answer {
    let answer = reader(sidegate).get("/status").await;
    answer.expect(200);
    answer
}

/// Asks for the updates of an open page, and returns the answer's status with the connection.
async fn events(reader: &Client) -> (u16, Wire) {
    let mut wire = reader.connect().await;
    wire.send(reader.request("GET /status/events HTTP/1.1", "Sec-Fetch-Site: same-origin\r\n"))
        .await;
    let head = wire.head().await;
    (head.status(), wire)
}

/// The next update of an open page.
async fn update(wire: &mut Wire) -> String {
    lossy(&within("an update", wire.chunk()).await.expect("the stream goes on"))
}

/// Changes a key of `[admin]`, and reads the files.
async fn set(sidegate: &Sidegate, key: &str, value: &str) {
    let mut config = sidegate.toml();
    config["admin"].as_table_mut().unwrap().insert(key.into(), value.into());
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    sidegate.reload().await;
}

#[tokio::test]
async fn page_is_off_by_default() {
    let sidegate = sidegate::new().run().await;
    assert_eq!(sidegate.agent().page(), None);
    client::clear(sidegate.agent().metrics().unwrap()).get("/status").await.expect(404);
}

#[tokio::test]
async fn page_has_the_state_and_headers_against_everything_foreign() {
    let backend = backend::echo().run().await;
    let sidegate = new().route("/chat", &backend).run().await;
    let _tunnel = client::new(&sidegate).open("/chat").await;
    client::new(&sidegate).attempt("/other").await.expect_refused(404, "route");
    let page = page(&sidegate).await;
    page.expect_header("content-type", "text/html; charset=utf-8");
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none';", "script-src 'self';", "frame-ancestors 'none';"] {
        assert!(policy.contains(rule) && !policy.contains("unsafe"), "{policy}");
    }
    page.expect_header("x-content-type-options", "nosniff");
    page.expect_header("referrer-policy", "no-referrer");
    page.expect_header("cache-control", "no-store");
    page.expect_header("cross-origin-resource-policy", "same-origin");
    let text = page.text();
    for shown in ["127.0.0.0/24", ">chat<", ">route<", "Open tunnels", "1 client;", "http-equiv"] {
        assert!(text.contains(shown), "no {shown} in {text}");
    }
    for foreign in ["http://www", "https://", "style=", "onclick", "<script>"] {
        assert!(!text.contains(foreign), "{foreign} in {text}");
    }
}

#[tokio::test]
async fn parts_of_the_page_are_served_from_its_own_paths() {
    let sidegate = new().run().await;
    let get = async |path: &str| reader(&sidegate).get(path).await;
    let script = get("/status/script.js").await;
    script.expect(200).expect_header("content-type", "text/javascript; charset=utf-8");
    get("/status/style.css")
        .await
        .expect(200)
        .expect_header("content-type", "text/css; charset=utf-8");
    get("/status/icon.svg").await.expect(200).expect_header("content-type", "image/svg+xml");
    get("/").await.expect(303).expect_header("location", "/status");
    get("/metrics").await.expect(404);
    get("/v1/status").await.expect(404);
}

#[tokio::test]
async fn hostile_text_on_the_page_stays_text() {
    let sidegate = new()
        .toml("admin.page = 'full'")
        .policy(|page| page.list("office", &["192.0.2.1 owner=<img/src=x> expires=2027-01-01"]))
        .allow("office")
        .run()
        .await;
    let why = "</td><script>alert(1)</script>&amp;".to_owned();
    let client = Some("203.0.113.9".into());
    sidegate.answer_to(&BanRequest { client, why, ..BanRequest::default() }).await;
    let text = page(&sidegate).await.text();
    assert!(!text.contains("<script>") && !text.contains("<img"), "{text}");
    let shown = "<bdi>&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;</bdi>";
    assert!(text.contains(shown), "{text}");
}

#[tokio::test]
async fn foreign_names_and_pages_read_nothing() {
    let sidegate = new().run().await;
    let (own, port) = (reader(&sidegate), address(&sidegate).port());
    for host in ["evil.example", &format!("evil.example:{port}"), "localhost", "127.0.0.1:1"] {
        for path in ["/status", "/status/events", "/status/script.js"] {
            let answer = within("a refusal", own.clone().host(host).get(path)).await;
            assert_eq!(answer.expect(403).header("access-control-allow-origin"), None);
        }
    }
    own.clone().host(&format!("127.0.0.1:{port}")).get("/status").await.expect(200);
    own.clone().host(&format!("[::1]:{port}")).get("/status").await.expect(200);
    for (name, value) in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://localhost:1"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        let asks = own.clone().header(name, value);
        within("a refusal", asks.get("/status/events")).await.expect(403);
    }
    own.send("GET /status HTTP/1.1\r\n\r\n").await.expect(400);
    own.send("GET /status HTTP/1.0\r\n\r\n").await.expect(400);
}

#[tokio::test]
async fn page_is_read_only_and_answers_before_it_reads_bodies() {
    let sidegate = new().run().await;
    let reader = reader(&sidegate);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = reader.send(reader.request(&format!("{method} /status HTTP/1.1"), "")).await;
        answer.expect(405).expect_header("allow", "GET, HEAD");
    }
    let length = 8 << 20;
    let upload = reader
        .request("POST /status/events HTTP/1.1", &format!("Content-Length: {length}\r\n"))
        .into_bytes();
    let bytes = [upload, vec![b'x'; length]].concat();
    expect_told(reader.connect().await, &bytes, 405).await;
    for path in ["/status", "/status/events"] {
        let mut wire = reader.connect().await;
        wire.send(reader.request(&format!("HEAD {path} HTTP/1.1"), "")).await;
        wire.answer_to("HEAD").await.expect(200);
        wire.expect_end().await;
    }
}

#[tokio::test]
async fn open_page_is_sent_what_changes() {
    let backend = backend::echo().run().await;
    let sidegate = new().route("/chat", &backend).run().await;
    let (status, mut wire) = events(&reader(&sidegate)).await;
    assert_eq!(status, 200);
    let first = update(&mut wire).await;
    assert!(first.starts_with("id: 1\ndata: ") && first.ends_with("\n\n"), "{first}");
    assert!(first.contains("id=\"routes\"") && first.contains("No tunnel is open"), "{first}");
    let _tunnel = client::new(&sidegate).open("/chat").await;
    let changed = within("the tunnel", async {
        loop {
            let update = update(&mut wire).await;
            if update.contains("127.0.0.0/24") {
                return update;
            }
        }
    });
    let changed = changed.await;
    assert!(!changed.contains("id=\"certificates\""), "what is as before is left out: {changed}");
}

#[tokio::test]
async fn full_page_names_clients_from_the_next_update_on() {
    let backend = backend::echo().run().await;
    let sidegate = new().route("/chat", &backend).run().await;
    let _tunnel = client::new(&sidegate).open("/chat").await;
    let (_, mut wire) = events(&reader(&sidegate)).await;
    assert!(!update(&mut wire).await.contains(">127.0.0.1<"));
    set(&sidegate, "page", "full").await;
    within("the whole address", async {
        while !update(&mut wire).await.contains(">127.0.0.1<") {}
    })
    .await;
    assert!(page(&sidegate).await.text().contains("whole addresses"));
}

#[tokio::test]
async fn viewers_beyond_the_bound_are_told_to_come_later() {
    let sidegate = new().run().await;
    let mut viewers = Vec::new();
    for _ in 0..MAX_VIEWERS {
        let (status, wire) = events(&reader(&sidegate)).await;
        assert_eq!(status, 200);
        viewers.push(wire);
    }
    let one_more = reader(&sidegate);
    let full = within("a refusal", one_more.get("/status/events")).await;
    full.expect(503).expect_header("retry-after", "10");
    page(&sidegate).await;
    drop(viewers.pop());
    within("a free place", async { while events(&reader(&sidegate)).await.0 != 200 {} }).await;
}

#[tokio::test]
async fn stalled_readers_lose_their_places() {
    let sidegate = new().run().await;
    let mut stalled = Vec::new();
    for turn in 0..100 {
        let mut wire = reader(&sidegate).connect().await;
        if turn % 2 == 0 {
            wire.send("GET /status HTTP/1.1\r\n").await;
        }
        stalled.push(wire);
    }
    let (status, mut viewer) = within("a viewer beside them", events(&reader(&sidegate))).await;
    assert_eq!(status, 200);
    update(&mut viewer).await;
    within("a page beside them", page(&sidegate)).await;
}

#[tokio::test]
async fn reload_moves_the_page_and_ends_its_streams() {
    let sidegate = new().run().await;
    let before = address(&sidegate);
    let (_, mut viewer) = events(&reader(&sidegate)).await;
    set(&sidegate, "page_listen", "unix:page.sock").await;
    within("the end of the stream", async { while viewer.chunk().await.is_some() {} }).await;
    within("the end of the port", async { while TcpStream::connect(before).await.is_ok() {} })
        .await;
    let path = sidegate.folder().join("page.sock");
    let at_socket = client::unix(&sidegate, &path);
    at_socket.clone().host("localhost:8080").get("/status").await.expect(200);
    at_socket.clone().host("evil.example").get("/status").await.expect(403);
    let mode = || std::fs::metadata(&path).map(|file| file.permissions().mode() & 0o777).ok();
    assert_eq!(mode(), Some(0o660));
    set(&sidegate, "page_mode", "0600").await;
    assert_eq!(mode(), Some(0o600));
    at_socket.host("localhost").get("/status").await.expect(200);
    set(&sidegate, "page_listen", "off").await;
    assert_eq!(sidegate.agent().page(), None);
    within("the end of the socket", async {
        while path.exists() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn change_of_the_page_keeps_the_admin_socket() {
    let sidegate = sidegate::new().run().await;
    let path = sidegate.agent().admin().unwrap();
    let inode = || std::fs::metadata(&path).unwrap().ino();
    let before = inode();
    set(&sidegate, "page_listen", "127.0.0.1:0").await;
    page(&sidegate).await;
    assert_eq!(inode(), before, "bound anew");
}

#[tokio::test]
async fn port_that_is_taken_rejects_the_reload() {
    let sidegate = sidegate::new().run().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = sidegate.toml();
    let listen = taken.local_addr().unwrap().to_string();
    config["admin"].as_table_mut().unwrap().insert("page_listen".into(), listen.into());
    let rejected =
        sidegate.write_rejected("sidegate.toml", &toml::to_string(&config).unwrap()).await;
    assert!(rejected.contains("page_listen cannot listen"), "{rejected}");
    assert_eq!(sidegate.agent().page(), None);
}

#[tokio::test]
async fn open_page_does_not_delay_the_end() {
    let mut sidegate = new().run().await;
    let (_, mut viewer) = events(&reader(&sidegate)).await;
    update(&mut viewer).await;
    sidegate.drain().await;
    timeout(Duration::from_secs(3), sidegate.ended()).await.expect("the end within its time");
    viewer.rest().await;
}

//! The values of a file with every key left out, and of a file with every key.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::{load, write};
use crate::control::config::source::Files;
use crate::control::config::{
    AdminSettings, AdminSocket, ExpectedVerdict, ListFeed, LoadedConfig, MetricsAddress,
    PageAddress, PageAddresses, PageSettings, ReloadSettings, ShareOrCount, ShutdownSettings,
    WatchMode,
};
use crate::observe::recent::RingBounds;
use crate::policy::AllowRule;
use crate::policy::limit::{ClientLimits, LimitUnit, LimitUnits, Rate, TunnelLimits};
use crate::policy::network::Client;
use crate::policy::subprotocol::Subprotocols;
use crate::snapshot::listener::{HttpsPorts, ListenerTimeouts, Protocol, TlsRules};
use crate::snapshot::route::{BackendAddress, PathForwarding, PlainHttp, RouteTimeouts};

/// Every key of this version with its default.
pub const EVERYTHING: &str = r#"schema = 1

[metrics]
listen = "127.0.0.1:10464"
allow  = ["127.0.0.0/8", "::1"]
hosts  = []

[policies]
lists_from = []

[admin]
socket = "auto"
mode   = "0660"
group  = ""

[reload]
watch         = "auto"
poll          = "30s"
revoke_spread = "2s"
max_revoked   = "100%"
max_widened   = "100%"

[shutdown]
delay    = "0s"
spread   = "5s"
deadline = "30s"
deadline_upgrade = "24h"
code     = 1001

[timeouts]
proxy_header = "5s"
tls = "10s"
head = "10s"
keep_alive = "75s"
body_stall = "1m"
body_pace = "500B/s"
dial = "2s"
response = "2m"
write_stall = "30s"
grace = "5s"

[process]
threads = "auto"

[defaults]
http = "refuse"
forward_as = "x-forwarded"
refuse = "answer"
max_body = "1MiB"
timeouts = {}

[[listener]]
name   = "public"
listen = "0.0.0.0:8443"
tls    = true
tls_min = "1.2"
http2  = false
strict_sni = false
max_head = "32KiB"
max_fields = 100
max_connections = "auto"
pending_per_client = 512
handshakes_per_client = { rate = "500/s", burst = 10000 }

[[certificate]]
chain = "certs/ws.example.com.pem"
key   = "certs/ws.example.com.key"

[[route]]
name    = "ticks"
host    = "ws.example.com"
path    = "/ticks/"
backend = "http://127.0.0.1:8080"
policy  = "market-data"
http    = "refuse"
forward_as = "x-forwarded"
refuse  = "answer"
strip_prefix = false
paths = "canonical"
max_body = "1MiB"
max_fields = 100
proxy_protocol = "off"
client_certificate = "off"
"#;

/// The same file without the keys that have a default.
pub const NOTHING: &str = r#"schema = 1

[[listener]]
name   = "public"
listen = "0.0.0.0:8443"

[[certificate]]
chain = "certs/ws.example.com.pem"
key   = "certs/ws.example.com.key"

[[route]]
name    = "ticks"
host    = "ws.example.com"
path    = "/ticks/"
backend = "http://127.0.0.1:8080"
policy  = "market-data"
"#;

/// Every key that a policy has in this version.
pub const POLICY: &str = r#"schema = 1
owner  = "security@example.com"

[lists]
office   = ["192.0.2.0/24", "!192.0.2.13 ticket=SEC-3"]
partners = { file = "lists/partners.cidr", max_age = "36h", on_stale = "warn", max_shrink = "50%", live = false }
banned   = { file = "lists/banned.cidr" }

[client]
allow = ["office", "partners", "10.1.0.0/16"]
deny  = ["banned"]
origins = ["https://app.example.com", "https://*.partner.example"]
subprotocols = ["v2.ticks"]
certificate = { required = true, allow = ["spiffe://example.com/ws/*"], deny = [] }

[limits]
upgrades    = { rate = "5/s", burst = 20 }
requests    = { rate = "50/s", burst = 200, per = "identity" }
connections = { per_client = 10, per = "address", total = 20000 }
streams     = { per_client = 6, total = 500 }
message     = { max = "1MiB", rate = "200/s" }
frames      = { rate = "100/s", burst = 500 }
idle        = "10m"
lifetime    = "24h"
ping        = "25s"
pong        = "20s"

[[limits.for]]
client      = ["office"]
upgrades    = { rate = "50/s", burst = 500 }
requests    = { rate = "50/s", burst = 500 }
connections = { per_client = 2000 }
streams     = { per_client = 100 }
message     = { max = "2MiB", rate = "2000/m" }
frames      = { rate = "600/m", burst = 50 }
idle        = "1h"
lifetime    = "48h"
ping        = "off"
pong        = "30s"

[[limits.for]]
identity    = ["spiffe://example.com/ws/*"]
upgrades    = { rate = "50/s", burst = 500 }
streams     = { per_client = 100, per = "address" }

[[test]]
name   = "a partner opens the feed from its own page"
client = "203.0.113.9"
url    = "wss://ws.example.com/ticks/btc"
origin = "https://desk.partner.example"
subprotocol = "v2.ticks"
expect = "allow"

[[test]]
name   = "the pentest address stops working in the new year"
client = "198.51.100.7"
url    = "wss://ws.example.com/ticks/btc"
at     = 2027-01-01T00:00:00Z
expect = "refuse:network"
"#;

const PARTNERS: &str = "203.0.113.0/24    owner=acme ticket=SEC-1042     # Acme VPN egress
!203.0.113.66     ticket=SEC-2190                # carve-out: host under investigation
198.51.100.7      expires=2026-12-31             # through the last second of that UTC day
";

pub fn loaded(sidegate: &str, policy: &str) -> LoadedConfig {
    let mut params = CertificateParams::new(vec!["ws.example.com".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let (loaded, found) = load(&[
        ("sidegate.toml", sidegate),
        ("certs/ws.example.com.pem", &chain),
        ("certs/ws.example.com.key", &key.serialize_pem()),
        ("policies/market-data.toml", policy),
        ("policies/lists/partners.cidr", PARTNERS),
        ("policies/lists/banned.cidr", "2001:db8::/32\n"),
    ]);
    assert_eq!(found, "");
    loaded.unwrap()
}

#[test]
fn omitted_keys_have_the_documented_defaults() {
    for text in [NOTHING, EVERYTHING] {
        let settings = loaded(text, POLICY).settings;
        assert_eq!(
            settings.metrics.listen,
            Some(MetricsAddress::Tcp("127.0.0.1:10464".parse().unwrap()))
        );
        assert_eq!(settings.metrics.allow.len(), 2);
        for (address, may) in
            [("127.9.9.9", true), ("::1", true), ("10.0.0.1", false), ("::2", false)]
        {
            assert_eq!(
                settings.metrics.allow.longest(address.parse().unwrap()).is_some(),
                may,
                "{address}"
            );
        }
        assert!(settings.metrics.hosts.is_empty() && settings.lists_from.is_empty());
        assert_eq!(
            settings.admin,
            AdminSettings {
                socket: AdminSocket::Auto,
                mode: 0o660,
                group: None,
                recent: RingBounds { count: 10_000, bytes: 8 << 20 },
                page: PageSettings {
                    listen: None,
                    mode: 0o660,
                    group: None,
                    addresses: PageAddresses::Short,
                },
            }
        );
        let seconds = Duration::from_secs;
        assert_eq!(
            settings.reload,
            ReloadSettings {
                watch: WatchMode::Auto,
                poll: seconds(30),
                revoke_spread: seconds(2),
                max_revoked: ShareOrCount::Percent(100),
                max_widened: ShareOrCount::Percent(100),
            }
        );
        let shutdown = ShutdownSettings {
            delay: Duration::ZERO,
            spread: seconds(5),
            deadline: seconds(30),
            deadline_upgrade: seconds(24 * 60 * 60),
            code: 1001,
        };
        assert_eq!(settings.shutdown, shutdown);
        assert_eq!(settings.process.threads, None);

        let [listener] = &settings.listeners[..] else { panic!("{:?}", settings.listeners) };
        assert_eq!(
            (&*listener.name, listener.address.to_string().as_str()),
            ("public", "0.0.0.0:8443")
        );
        assert_eq!(
            listener.protocol,
            Protocol::Tls(TlsRules { only_13: false, strict_sni: false })
        );
        assert_eq!((listener.max_fields, settings.routes[0].max_fields), (100, 100));
        assert_eq!(
            (listener.max_head, listener.max_connections, listener.pending_per_client),
            (32768, None, 512)
        );
        let written = listener.handshakes_per_client.map(|rate| rate.to_string());
        assert_eq!(written.as_deref(), Some("500/s, burst 10000"));
        assert_eq!(listener.timeouts, ListenerTimeouts::default());

        let [route] = &settings.routes[..] else { panic!("{:?}", settings.routes) };
        assert_eq!(
            (&*route.name, route.host.to_string(), route.path.to_string()),
            ("ticks", "ws.example.com".into(), "/ticks/".into())
        );
        assert_eq!(*route.backends, [BackendAddress::Tcp("127.0.0.1:8080".parse().unwrap())]);
        assert_eq!(
            (&*route.policy, route.http, route.strip_prefix, route.paths, route.max_body),
            ("market-data", PlainHttp::Refuse, false, PathForwarding::Canonical, Some(1 << 20))
        );
        assert_eq!(route.timeouts, RouteTimeouts::default());
    }
}

#[test]
fn every_key_of_a_policy_is_read() {
    let loaded = loaded(NOTHING, POLICY);
    let policy = loaded.policies.iter().find(|policy| &*policy.name == "market-data").unwrap();
    assert_eq!(&*policy.file, "policies/market-data.toml");
    let AllowRule::Lists(allow) = &policy.allow else { panic!("{:?}", policy.allow) };
    let lists: Vec<_> = allow
        .iter()
        .chain(&policy.deny)
        .map(|list| (&*list.name, &*list.file, list.len()))
        .collect();
    assert_eq!(
        lists,
        [
            ("office", "policies/market-data.toml", 2),
            ("partners", "policies/lists/partners.cidr", 3),
            ("(allow)", "policies/market-data.toml", 1),
            ("banned", "policies/lists/banned.cidr", 1),
        ]
    );
    let now = "2026-07-01T00:00:00Z".parse().unwrap();
    let decide = |list: usize, address: &str| {
        allow[list]
            .decide(Client::new(address.parse().unwrap()), now)
            .map(|(entry, line)| (entry.admits, line))
    };
    assert_eq!(decide(0, "192.0.2.13"), Some((false, 5)));
    assert_eq!(decide(1, "203.0.113.66"), Some((false, 2)));
    assert_eq!(decide(1, "198.51.100.7"), Some((true, 3)));
    assert_eq!(decide(2, "10.1.2.3"), Some((true, 10)));
    let origins: Vec<_> =
        policy.origins.as_ref().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(origins, ["https://app.example.com", "https://*.partner.example"]);
    assert_eq!(policy.subprotocols, Some(Subprotocols::new(vec!["v2.ticks".into()])));
    let rate = |tokens, burst| {
        let (tokens, burst) = (NonZeroU32::new(tokens).unwrap(), NonZeroU32::new(burst).unwrap());
        Some(Rate { tokens, per: Duration::from_secs(1), burst })
    };
    let share = ClientLimits {
        upgrades: rate(5, 20),
        requests: rate(50, 200),
        per_client: Some(10),
        streams: Some(6),
        tunnel: TunnelLimits {
            message_max: Some(1 << 20),
            message_rate: rate(200, 200),
            frames: rate(100, 500),
            idle: Some(Duration::from_secs(600)),
            lifetime: Some(Duration::from_secs(86400)),
            ping: Some(Duration::from_secs(25)),
            pong: Duration::from_secs(20),
        },
        units: LimitUnits { requests: LimitUnit::Identity, ..LimitUnits::default() },
    };
    assert_eq!(
        (policy.limits.share, policy.limits.total, policy.limits.streams_total),
        (share, Some(20000), Some(500))
    );
    let [office, edges] = &policy.limits.exceptions[..] else {
        panic!("{:?}", policy.limits.exceptions)
    };
    assert_eq!((&*office.lists()[0].name, office.line), ("office", 29));
    let tunnel = TunnelLimits {
        message_max: Some(2 << 20),
        message_rate: rate(2000, 2000).map(|rate| Rate { per: Duration::from_secs(60), ..rate }),
        frames: rate(600, 50).map(|rate| Rate { per: Duration::from_secs(60), ..rate }),
        idle: Some(Duration::from_secs(3600)),
        lifetime: Some(Duration::from_secs(2 * 86400)),
        ping: None,
        pong: Duration::from_secs(30),
    };
    let of_office = ClientLimits {
        upgrades: rate(50, 500),
        requests: rate(50, 500),
        per_client: Some(2000),
        streams: Some(100),
        tunnel,
        units: share.units,
    };
    assert_eq!(office.share, of_office);
    let [pattern] = edges.patterns() else { panic!("{edges:?}") };
    assert_eq!((pattern.to_string().as_str(), edges.line), ("spiffe://example.com/ws/*", 42));
    let units = LimitUnits { upgrades: LimitUnit::Identity, ..share.units };
    let of_edges = ClientLimits { upgrades: rate(50, 500), streams: Some(100), units, ..share };
    assert_eq!(edges.share, of_edges);
}

#[test]
fn feed_settings_and_tests_of_a_policy_are_read() {
    let loaded = loaded(NOTHING, POLICY);
    let policy = loaded.policies.iter().find(|policy| &*policy.name == "market-data").unwrap();
    let minded = |feed: &ListFeed| {
        (feed.name.to_string(), feed.entries, feed.max_age, feed.rejects_stale, feed.max_shrink)
    };
    let feeds: Vec<_> = policy.feeds.iter().map(minded).collect();
    let partners = ("partners".into(), 3, Some(Duration::from_secs(36 * 3600)), false, Some(50));
    assert_eq!(feeds, [partners, ("banned".into(), 1, None, false, None)]);
    assert!(policy.feeds.iter().all(|feed| feed.modified.is_some()));
    let tests: Vec<_> = policy
        .tests
        .iter()
        .map(|test| (test.subject.client.to_string(), test.at, test.expect))
        .collect();
    let new_year = Some("2027-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(tests[0], ("203.0.113.9".into(), None, ExpectedVerdict::Allow));
    assert_eq!(
        tests[1..],
        [("198.51.100.7".into(), new_year, ExpectedVerdict::RefuseFor("network"))]
    );
}

#[test]
fn frames_limit_is_off_when_configured() {
    let text = "schema = 1\nclient.allow = [\"any\"]\n[limits]\nframes = \"off\"\n\
                [[limits.for]]\nclient = [\"192.0.2.1\"]\nframes = { rate = \"7/s\" }\n";
    let loaded = loaded(NOTHING, text);
    let policy = loaded.policies.iter().find(|policy| &*policy.name == "market-data").unwrap();
    let seven = NonZeroU32::new(7).unwrap();
    let shares: Vec<_> = policy.limits.shares().map(|share| share.tunnel.frames).collect();
    assert_eq!(
        shares,
        [None, Some(Rate { tokens: seven, per: Duration::from_secs(1), burst: seven })]
    );
}

#[test]
fn minimal_policy_limits_nothing_but_silence() {
    let loaded = loaded(NOTHING, "schema = 1\nclient.allow = [\"any\"]\n");
    let policy = loaded.policies.iter().find(|policy| &*policy.name == "market-data").unwrap();
    assert!(matches!(policy.allow, AllowRule::Any) && policy.deny.is_empty());
    assert!(policy.origins.is_none() && policy.subprotocols.is_none());
    assert_eq!((policy.limits.share, policy.limits.total), (ClientLimits::default(), None));
    assert!(
        policy.limits.exceptions.is_empty() && policy.feeds.is_empty() && policy.tests.is_empty()
    );
}

#[test]
fn configured_values_are_returned() {
    let text = r#"schema = 1
metrics = { listen = "off", allow = ["10.0.0.0/8"], hosts = ["Metrics.Example.com."] }
policies = { lists_from = ["/var/lib/feeds", "feeds"] }
admin = { socket = "run/admin.sock", mode = "600", group = "wheel", page = "full", page_mode = "640",
          page_listen = "[::1]:9401", page_group = "staff" }
reload = { watch = "off", poll = "1m", revoke_spread = "0s", max_revoked = "10%", max_widened = 100 }
shutdown = { delay = "1s", spread = "2s", deadline = "3s", deadline_upgrade = "1h", code = 1012 }
timeouts = { tls = "1s", dial = "500ms", grace = "1s" }
process = { threads = 2 }

[[listener]]
name = "plain"
listen = "[::]:8080"
tls = false
redirect = "https"

[[listener]]
name = "public"
listen = "[::1]:8443"
tls_min = "1.3"
strict_sni = true
max_head = "8KiB"
max_fields = 16
max_connections = 100
pending_per_client = 1
handshakes_per_client = { rate = "30/m" }

[[certificate]]
chain = "certs/ws.example.com.pem"
key = "certs/ws.example.com.key"

[[route]]
name = "ticks"
host = "*"
path = "/"
backend = ["http://localhost", "http://[::1]:81", "unix:run/app.sock"]
policy = "market-data"
http = "forward"
strip_prefix = true
max_body = "0B"
max_fields = 1000
resolve = "1m"
timeouts = { response = "5m" }
"#;
    let settings =
        loaded(text, "schema = 1\nclient.allow = [\"any\"]\nlimits.ping = \"off\"\n").settings;
    assert_eq!(
        (settings.metrics.listen, settings.metrics.hosts),
        (None, vec!["metrics.example.com".into()])
    );
    assert_eq!(settings.lists_from, ["/var/lib/feeds".into(), "feeds".into()]);
    assert!(
        matches!(&settings.admin.socket, AdminSocket::Path(path) if path.ends_with("run/admin.sock") && path.is_absolute())
    );
    assert_eq!((settings.admin.mode, settings.admin.group.as_deref()), (0o600, Some("wheel")));
    let page = PageSettings {
        listen: Some(PageAddress::Tcp("[::1]:9401".parse().unwrap())),
        mode: 0o640,
        group: Some("staff".into()),
        addresses: PageAddresses::Full,
    };
    assert_eq!(settings.admin.page, page);
    assert_eq!((settings.reload.watch, settings.shutdown.code), (WatchMode::Off, 1012));
    assert_eq!(settings.reload.max_revoked, ShareOrCount::Percent(10));
    assert_eq!(settings.reload.max_widened, ShareOrCount::Count(100));
    assert_eq!(settings.process.threads.map(usize::from), Some(2));
    assert_eq!(
        settings.listeners[0].protocol,
        Protocol::Redirect(HttpsPorts { public: None, bound: Some(8443) })
    );
    assert_eq!(
        settings.listeners[1].protocol,
        Protocol::Tls(TlsRules { only_13: true, strict_sni: true })
    );
    assert_eq!(
        (settings.listeners[1].max_head, settings.listeners[1].max_connections),
        (8192, Some(100))
    );
    assert_eq!((settings.listeners[1].max_fields, settings.routes[0].max_fields), (16, 1000));
    let handshakes = [0, 1].map(|at: usize| settings.listeners[at].handshakes_per_client);
    assert_eq!(
        handshakes.map(|rate| rate.map(|rate| rate.to_string())),
        [None, Some("30/m, burst 30".into())]
    );
    assert_eq!(settings.listeners[1].timeouts.tls, Duration::from_secs(1));
    let route = &settings.routes[0];
    let backends: BTreeSet<_> = route.backends.iter().map(ToString::to_string).collect();
    assert!(
        backends.contains("http://localhost:80")
            && backends.contains("http://[::1]:81")
            && backends.len() == 3
    );
    assert_eq!(
        (route.http, route.strip_prefix, route.max_body),
        (PlainHttp::Forward, true, Some(0))
    );
    assert_eq!(route.resolve, Duration::from_secs(60));
    let expected = RouteTimeouts {
        dial: Duration::from_millis(500),
        response: Some(Duration::from_secs(300)),
        grace: Duration::from_secs(1),
        ..RouteTimeouts::default()
    };
    assert_eq!(route.timeouts, expected);
}

#[test]
fn one_file_means_one_digest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidegate.toml");
    write(&path, super::SIDEGATE);
    write(&folder.path().join("policies/chat.toml"), super::POLICY);
    let pass = || {
        let mut files = Files::new();
        crate::control::config::load(&mut files, &path, None).unwrap();
        files
    };
    let first = pass();
    write(&folder.path().join("policies/.chat.toml.swp"), "");
    assert_eq!(first.digest(), pass().digest());
    assert!(first.unchanged());
    write(&folder.path().join("policies/desk.toml"), super::POLICY);
    assert_ne!(first.digest(), pass().digest());
}

#[test]
fn a_relative_path_is_shown_as_it_was_given() {
    let found =
        crate::control::config::load(&mut Files::new(), Path::new("nowhere/sidegate.toml"), None)
            .unwrap_err();
    assert_eq!(found[0].file, Arc::from("nowhere/sidegate.toml"));
}

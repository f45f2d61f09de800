//! Costs of the parts of an upgrade and of an echo: judging and charging, frame boundaries, message
//! rates, counters.

use std::fs;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use jiff::Timestamp;
use sidegate::control::reload;
use sidegate::control::systemd::PassedSockets;
use sidegate::data::websocket::frame::{Extensions, Scanner, Sender};
use sidegate::lifecycle::Lifecycle;
use sidegate::observe::metrics::{Direction, RouteMetrics};
use sidegate::policy::limit::Rate;
use sidegate::policy::network::Client;
use sidegate::policy::request::{Host, Request, RequestPath, RequestType, Scheme};
use sidegate::refusal::Refusal;
use sidegate::snapshot::CurrentSnapshot;
use sidegate::tunnels::budget::Bucket;
use sidegate::tunnels::{TrafficCell, Tunnels};

use crate::feed::{self, Family};
use crate::measure::{CpuTime, asking};

/// Clients in turn; each has a budget of its own.
const CLIENTS: usize = 1 << 12;
/// Clients in turn, of which most have to share their budgets.
const CROWD: usize = 1 << 20;

/// Segments of which each step makes something else.
const ODD: &str = "a%25c0%25ae%255c%2520./b;x%253by%20.%3bz/%c0%ae%252e/";

/// An attempt up to its slot, and the slot's end: judged, a token taken from the client's rate, a
/// place under both caps.
pub fn charging(criterion: &mut Criterion<CpuTime>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let networks = feed::text(&feed::networks(Family::V4, 1000));
    let rules = "schema = 1\nlists.feed = { file = \"lists/feed.cidr\" }\nclient.allow = [\"0.0.0.0/0\", \"feed\"]\n";
    let limits = "[limits]\nupgrades = { rate = \"1000000/s\", burst = 1000000 }\nconnections = { per_client = 1000, total = 100000 }\n";
    let mut group = criterion.benchmark_group("attempt");
    for (name, policy, clients) in [
        ("judged", rules.to_owned(), CLIENTS),
        ("judged and charged", rules.to_owned() + limits, CLIENTS),
        ("judged and charged, of a million clients", rules.to_owned() + limits, CROWD),
    ] {
        let config = feed::configuration(folder.path(), &networks, &policy);
        let (snapshot, ..) = reload::start(&config, &PassedSockets::new([]))
            .expect("a sound configuration")
            .into_parts();
        let live = Arc::new(CurrentSnapshot::new(snapshot));
        let tunnels = Tunnels::new(Arc::clone(&live), Lifecycle::new());
        let kind = RequestType::Attempt { subprotocols: [].into() };
        let (host, scheme) = (Host::parse(b"ws.example.com").expect("a host"), Scheme::Https);
        let request = Request {
            host,
            path: "/chat/".into(),
            origin: None,
            kind,
            scheme,
            reported_host: None,
        };
        let clients: Vec<Client> = feed::anywhere(Family::V4, clients);
        let charges = name != "judged";
        asking(&mut group, name, &clients, |client, now| {
            let verdict = live.load().judge(&client.into(), &request, None, now).verdict;
            let permit = verdict.expect("everybody is let in");
            !charges || tunnels.charge(permit).is_ok()
        });
    }
    group.finish();
}

/// A path under two policies: made canonical, and judged with all its readings. The last path has
/// more readings than are looked at.
pub fn reading(criterion: &mut Criterion<CpuTime>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let policy = "schema = 1\nclient.allow = [\"any\"]\n";
    let config = feed::configuration(folder.path(), "", policy);
    fs::write(folder.path().join("policies/shut.toml"), policy).expect("a temporary folder");
    let strict = "[[route]]\nname = \"admin\"\nhost = \"*\"\npath = \"/admin/\"\nbackend = \"unix:/a\"\npolicy = \"shut\"\n";
    let text = fs::read_to_string(&config).expect("a configuration") + strict;
    fs::write(&config, text).expect("a temporary folder");
    let (snapshot, ..) = reload::start(&config, &PassedSockets::new([]))
        .expect("a sound configuration")
        .into_parts();
    let host = Host::parse(b"ws.example.com").expect("a host");
    let mut group = criterion.benchmark_group("path");
    for (name, path) in [
        ("plain", "/chat/ticks/btc".to_owned()),
        ("with a parameter", "/chat/ticks;jsessionid=0123456789abcdef/btc".to_owned()),
        ("8 KiB of %2525", format!("/chat/{}", "%2525".repeat(1600))),
        ("8 KiB of more readings than are looked at", format!("/chat/{}", ODD.repeat(150))),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let path = RequestPath::read(black_box(&path)).expect("a path");
                let (host, kind, scheme) = (host.clone(), RequestType::Plain, Scheme::Https);
                let request =
                    Request { host, path, origin: None, kind, scheme, reported_host: None };
                snapshot
                    .judge(
                        &Client::new([192, 0, 2, 1].into()).into(),
                        &request,
                        None,
                        Timestamp::MIN,
                    )
                    .verdict
                    .is_ok()
            });
        });
    }
    group.finish();
}

/// The bytes of one read.
pub fn scanning(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("frames");
    let small = |payload: usize| {
        [&[0x82, 0x80 | payload as u8, 1, 2, 3, 4][..], &vec![0; payload]].concat()
    };
    let fragments = |payload: usize, count: usize| {
        let (mut begun, mut more) = (small(payload), small(payload));
        (begun[0], more[0]) = (0x02, 0x00);
        let last = [&[0x80][..], &more[1..]].concat();
        [begun, more.repeat(count - 2), last].concat()
    };
    let large = |payload: u64| {
        [&[0x82, 0xff][..], &payload.to_be_bytes(), &[1, 2, 3, 4], &vec![0; payload as usize]]
            .concat()
    };
    for (name, read) in [
        ("one of 64 B", small(64)),
        ("a hundred of 64 B", small(64).repeat(100)),
        ("a hundred of 1 B", small(1).repeat(100)),
        ("ten thousand of 1 B", small(1).repeat(10_000)),
        ("ten thousand of 1 B to 8 B", (1..9).flat_map(small).collect::<Vec<_>>().repeat(1_250)),
        ("ten thousand fragments of 64 B", fragments(64, 10_000)),
        ("one of 64 KiB", large(1 << 16)),
    ] {
        group.bench_function(name, |bencher| {
            let mut scanner = Scanner::new(Sender::Client, Extensions::None);
            bencher.iter(|| {
                let mut left = black_box(&read[..]);
                while !left.is_empty() {
                    let piece = scanner.next(left, &Some(1 << 20)).expect("sound frames");
                    left = &left[black_box(piece).taken..];
                }
            });
        });
    }
    group.finish();
}

/// The bookkeeping per read, per message where a policy limits their rate, and once per tunnel.
pub fn counting(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("noted");
    let (metrics, traffic) = (RouteMetrics::default(), TrafficCell::default());
    group.bench_function("a read: bytes and messages, of the route and of the tunnel", |bencher| {
        bencher.iter(|| {
            traffic.add_from_client(black_box(70), 1);
            metrics.relayed(Direction::FromClient, black_box(70), 1);
        });
    });
    let rate = |tokens| Rate { tokens, per: Duration::from_secs(1), burst: NonZeroU32::MAX };
    let bucket = Bucket::new(rate(NonZeroU32::MAX));
    group.bench_function("a message, under a rate", |bencher| {
        bencher.iter(|| black_box(bucket.take()));
    });
    group.bench_function("a refusal", |bencher| {
        bencher.iter(|| metrics.refused(black_box(Refusal::Origin)));
    });
    group.bench_function("a tunnel opens: count and histogram", |bencher| {
        bencher.iter_batched(
            || Duration::from_micros(700),
            |took| metrics.tunnel_opened(took),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

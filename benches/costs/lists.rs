//! Costs of a list: one decision, and loading it.
//!
//! On an otherwise idle machine, caches hold the part of a large list that the day's clients need;
//! after a pause they hold nothing.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use jiff::Timestamp;
use sidegate::control::config::{self, source::Files};
use sidegate::control::reload;
use sidegate::control::systemd::PassedSockets;
use sidegate::policy::list::{List, ListEntry};
use sidegate::policy::request::{Host, Request, RequestType, Scheme};

use crate::feed::{self, Family};
use crate::measure::{CpuTime, asking};

/// Networks in a large list.
const MANY: usize = 1_000_000;

/// Clients asked about in turn: few enough that their part of a large list stays in caches.
const FEW: usize = 1 << 12;

/// Clients asked about in turn: more than caches hold of a large list.
const ASKED: usize = 1 << 20;

/// One list, small or large.
pub fn decision(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("decision");
    for (family, count) in
        [(Family::V4, MANY), (Family::V6, MANY), (Family::V4, 1000), (Family::V6, 1000)]
    {
        let networks = feed::networks(family, count);
        let entries =
            networks.iter().zip(1..).map(|(network, line)| (entry(&network.to_string()), line));
        let list = List::new("feed", "lists/feed.cidr", entries.collect())
            .expect("no network stands there twice");
        let outside: Vec<_> = feed::anywhere(family, 2 * ASKED);
        let outside: Vec<_> = outside
            .into_iter()
            .filter(|client| !list.admits(*client, Timestamp::MIN))
            .take(ASKED)
            .collect();
        for (side, clients) in [("inside", feed::inside(&networks, ASKED)), ("outside", outside)] {
            for (how, clients) in [("", &clients[..FEW]), (", in no cache", &clients[..])] {
                let name = format!("{side} of {count} {} networks{how}", family.word());
                asking(&mut group, &name, clients, |client, now| list.admits(client, now));
            }
        }
    }
    group.finish();
}

/// A whole snapshot, as a request meets it: an office, a carve-out, partners for a while, a feed to
/// deny, pages and subprotocols.
pub fn judgement(criterion: &mut Criterion<CpuTime>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let networks = feed::networks(Family::V4, 1000);
    let policy = r#"schema = 1
[lists]
office = ["10.0.0.0/8", "!10.66.0.0/16 ticket=SEC-3", "2001:db8::/32", "192.0.2.1 expires=2999-12-31"]
banned = { file = "lists/feed.cidr" }
[client]
allow = ["office", "172.16.0.0/12"]
deny = ["banned"]
origins = ["https://app.example.com", "https://*.partner.example"]
subprotocols = ["v2.ticks"]
"#;
    let config = feed::configuration(folder.path(), &feed::text(&networks), policy);
    let (snapshot, ..) = reload::start(&config, &PassedSockets::new([]))
        .expect("a sound configuration")
        .into_parts();
    let kind = RequestType::Attempt { subprotocols: ["v2.ticks".into()].into() };
    let (host, origin) = (
        Host::parse(b"ws.example.com").expect("a host"),
        Some("https://desk.partner.example".into()),
    );
    let request = Request {
        host,
        path: "/chat/ticks".into(),
        origin,
        kind,
        scheme: Scheme::Https,
        reported_host: None,
    };
    let office = feed::inside(&["10.0.0.0/8".parse().expect("a network")], ASKED);
    let elsewhere = feed::anywhere(Family::V4, ASKED);
    let mut group = criterion.benchmark_group("judgement");
    for (name, clients) in [("from the office", &office), ("from anywhere", &elsewhere)] {
        asking(&mut group, name, clients, |client, now| {
            snapshot.judge(&client.into(), &request, None, now).verdict.is_ok()
        });
    }
    group.finish();
}

/// From files to values. The feed is a file of a configuration, so reading and its digest are
/// included.
pub fn loading(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("loading");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (family, count) in [(Family::V4, 100_000), (Family::V4, MANY), (Family::V6, MANY)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = feed::configuration(
            folder.path(),
            &feed::text(&feed::networks(family, count)),
            feed::POLICY,
        );
        group.bench_function(format!("{count} {} networks", family.word()), |bencher| {
            bencher.iter_with_large_drop(|| {
                let mut files = Files::new();
                let loaded =
                    config::load(&mut files, &config, None).expect("a sound configuration");
                black_box(files.digest());
                loaded
            });
        });
    }
    group.finish();
}

fn entry(line: &str) -> ListEntry {
    ListEntry::parse(line).expect("a network").expect("not a comment")
}

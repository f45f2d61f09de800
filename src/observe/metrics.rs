//! Every metric of the program: names, help and labels, each written once.
//!
//! Labels carry words from the configuration and fixed words only, never an
//! address, a path or a header off the wire. A series is a handle of its own,
//! kept by whoever counts: looking one up by label values is for cold paths.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, TextEncoder};

use crate::close::{Closed, Traffic};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::tunnels::{Entry, Tunnels};

/// The label's value where no route was found.
pub const NO_ROUTE: &str = "-";

/// 100 µs to 30 s: dials, upgrades, TLS handshakes.
const LATENCY: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// 1 s to a week: how long tunnels live.
const LIFETIME: [f64; 12] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0];

/// Makes one series.
type Make<M> = Box<dyn Fn(&Opts) -> prometheus::Result<M> + Send + Sync>;

/// One metric family: its series by label values.
struct Family<M> {
    name: &'static str,
    labels: &'static [&'static str],
    make: Make<M>,
    help: &'static str,
    series: RwLock<HashMap<Vec<Arc<str>>, M>>,
}

impl<M: Collector + Clone> Family<M> {
    fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        make: impl Fn(&Opts) -> prometheus::Result<M> + Send + Sync + 'static,
    ) -> Self {
        Family { name, labels, make: Box::new(make), help, series: RwLock::default() }
    }

    /// The handle of one series; `values` in the order of the labels.
    ///
    /// # Panics
    /// If the number of values is not that of the labels, which every caller's first test shows.
    fn with(&self, values: &[&str]) -> M {
        let key: Vec<Arc<str>> = values.iter().map(|value| Arc::from(*value)).collect();
        if let Some(series) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return series.clone();
        }
        assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let labels = self.labels.iter().zip(values).map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        let opts = Opts::new(self.name, self.help).const_labels(labels.collect());
        let made = (self.make)(&opts).expect("names and labels are constants that fit");
        self.series.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(made).clone()
    }

    /// Drops the series that `keep` does not want.
    fn retain(&self, mut keep: impl FnMut(&[Arc<str>]) -> bool) {
        self.series.write().unwrap_or_else(PoisonError::into_inner).retain(|values, _| keep(values));
    }

    fn gather(&self, into: &mut Vec<MetricFamily>) {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let mut families = series.values().flat_map(Collector::collect);
        let Some(mut first) = families.next() else { return };
        for mut family in families {
            first.mut_metric().append(family.mut_metric());
        }
        into.push(first);
    }
}

fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<IntCounter> {
    Family::new(name, help, labels, |opts| IntCounter::with_opts(opts.clone()))
}

fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<IntGauge> {
    Family::new(name, help, labels, |opts| IntGauge::with_opts(opts.clone()))
}

fn seconds(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    buckets: &'static [f64],
) -> Family<Histogram> {
    Family::new(name, help, labels, move |opts| {
        Histogram::with_opts(HistogramOpts { common_opts: opts.clone(), buckets: buckets.to_vec() })
    })
}

/// Every metric of the program.
pub struct Metrics {
    /// Held while a tunnel's traffic moves from the table to the totals, and while both are
    /// summed: else a scrape would count it twice or not at all.
    moving: Mutex<()>,
    connections_accepted: Family<IntCounter>,
    connections_open: Family<IntGauge>,
    connections_closed: Family<IntCounter>,
    connections_limit: Family<IntGauge>,
    probes: Family<IntCounter>,
    tls_handshakes: Family<IntCounter>,
    tls_handshake_seconds: Family<Histogram>,
    requests: Family<IntCounter>,
    refusals: Family<IntCounter>,
    upgrade_seconds: Family<Histogram>,
    dial_seconds: Family<Histogram>,
    tunnels_open: Family<IntGauge>,
    tunnels_opened: Family<IntCounter>,
    tunnels_closed: Family<IntCounter>,
    tunnels_limit: Family<IntGauge>,
    tunnel_lifetime: Family<Histogram>,
    bytes: Family<IntCounter>,
    messages: Family<IntCounter>,
    revoked: Family<IntCounter>,
    reloads: Family<IntCounter>,
    generation: Family<IntGauge>,
    reload_successful: Family<IntGauge>,
    reload_success_timestamp: Family<Gauge>,
    config_info: Family<IntGauge>,
    certificate_not_after: Family<Gauge>,
    list_entries: Family<IntGauge>,
    list_modified: Family<Gauge>,
    limiter_keys: Family<IntGauge>,
    limiter_overflow: Family<IntGauge>,
    watch_degraded: Family<IntGauge>,
    draining: Family<IntGauge>,
    log_drops: Family<IntCounter>,
    panics: Family<IntCounter>,
    scrapes_refused: Family<IntCounter>,
    build_info: Family<IntGauge>,
}

/// What a route has carried since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteTotals {
    /// Tunnels that are open.
    pub open: u64,
    /// Tunnels that opened.
    pub opened: u64,
    /// Requests that were refused, or failed at the backend.
    pub refused: u64,
    /// What came from clients.
    pub from_client: Traffic,
    /// What came from backends.
    pub from_backend: Traffic,
}

/// Whether a request was for an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// An attempt to open a WebSocket.
    Upgrade,
    /// Plain HTTP.
    Plain,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestResult {
    /// It reached a backend that answered.
    Permitted,
    /// We said no.
    Refused,
    /// The backend gave no usable answer.
    Failed,
}

/// How a TLS handshake went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsResult {
    /// A full one.
    Full,
    /// One that resumed a session.
    Resumed,
    /// The client did something wrong, or went away.
    Failed,
    /// It took too long.
    Timeout,
}

/// What became of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// A new generation runs.
    Published,
    /// The files are what runs.
    Unchanged,
    /// What runs was kept.
    Rejected,
}

/// Why a connection ended, beside the refusal words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The client ended it, or its stream broke.
    Client,
    /// Idle for too long between plain requests.
    KeepAlive,
    /// An answer of ours closed it.
    Refused,
    /// It became a tunnel, which ended.
    Upgraded,
    /// We are shutting down.
    Drain,
    /// A bug of ours.
    Panic,
    /// Refused before a request could be answered.
    Because(Refusal),
}

impl Metrics {
    /// All families, without a series.
    pub fn new() -> Arc<Self> {
        let metrics = Metrics {
            moving: Mutex::new(()),
            connections_accepted: counter("sidegate_connections_accepted_total", "Connections accepted.", &["listener"]),
            connections_open: gauge("sidegate_connections_open", "Connections that are open.", &["listener"]),
            connections_closed: counter(
                "sidegate_connections_closed_total",
                "Connections closed, by reason.",
                &["listener", "reason"],
            ),
            connections_limit: gauge("sidegate_connections_limit", "The most connections at once.", &["listener"]),
            probes: counter("sidegate_probes_total", "Connections that ended without a byte.", &["listener"]),
            tls_handshakes: counter("sidegate_tls_handshakes_total", "TLS handshakes, by result.", &["listener", "result"]),
            tls_handshake_seconds: seconds(
                "sidegate_tls_handshake_seconds",
                "From accept to the end of a TLS handshake that succeeded.",
                &["listener"],
                &LATENCY,
            ),
            requests: counter("sidegate_requests_total", "Requests, by kind and result.", &["route", "kind", "result"]),
            refusals: counter("sidegate_refusals_total", "Requests refused, by reason.", &["route", "reason"]),
            upgrade_seconds: seconds("sidegate_upgrade_seconds", "From the head of an attempt to its 101.", &["route"], &LATENCY),
            dial_seconds: seconds("sidegate_dial_seconds", "From dialling a backend to the connection.", &["route"], &LATENCY),
            tunnels_open: gauge("sidegate_tunnels_open", "Tunnels that are open.", &["route"]),
            tunnels_opened: counter("sidegate_tunnels_opened_total", "Tunnels opened.", &["route"]),
            tunnels_closed: counter(
                "sidegate_tunnels_closed_total",
                "Tunnels closed, by who acted first, in which phase, and why.",
                &["route", "by", "phase", "reason"],
            ),
            tunnels_limit: gauge("sidegate_tunnels_limit", "The policy's total of tunnels.", &["policy"]),
            tunnel_lifetime: seconds(
                "sidegate_tunnel_lifetime_seconds",
                "From the 101 to the end of a tunnel.",
                &["route"],
                &LIFETIME,
            ),
            bytes: counter("sidegate_bytes_total", "Bytes of WebSocket frames relayed.", &["route", "direction"]),
            messages: counter("sidegate_messages_total", "WebSocket messages relayed.", &["route", "direction"]),
            revoked: counter(
                "sidegate_revoked_total",
                "Tunnels closed because they are no longer permitted.",
                &["route", "refusal"],
            ),
            reloads: counter("sidegate_reloads_total", "Reloads, by outcome.", &["outcome"]),
            generation: gauge("sidegate_generation", "The generation that runs.", &[]),
            reload_successful: gauge(
                "sidegate_config_last_reload_successful",
                "1: the files are what runs; 0: the last reload was rejected.",
                &[],
            ),
            reload_success_timestamp: Family::new(
                "sidegate_config_last_reload_success_timestamp_seconds",
                "When the files last became, or were found to be, what runs.",
                &[],
                |opts| Gauge::with_opts(opts.clone()),
            ),
            config_info: gauge("sidegate_config_info", "The digest of the files that run.", &["digest"]),
            certificate_not_after: Family::new(
                "sidegate_certificate_not_after_timestamp_seconds",
                "When the certificate that is served stops being valid.",
                &["certificate"],
                |opts| Gauge::with_opts(opts.clone()),
            ),
            list_entries: gauge("sidegate_list_entries", "Entries of a list.", &["list", "policy"]),
            list_modified: Family::new(
                "sidegate_list_modified_timestamp_seconds",
                "When a list's file was last written.",
                &["list", "policy"],
                |opts| Gauge::with_opts(opts.clone()),
            ),
            limiter_keys: gauge("sidegate_limiter_keys", "Clients whose rate is tracked.", &["policy", "limit"]),
            limiter_overflow: gauge(
                "sidegate_limiter_overflow_total",
                "Charges to a shared bucket, because the table was full.",
                &["policy", "limit"],
            ),
            watch_degraded: gauge("sidegate_watch_degraded", "1: files are polled because they cannot be watched.", &[]),
            draining: gauge("sidegate_draining", "1: shutting down.", &[]),
            log_drops: counter("sidegate_log_drops_total", "Log lines dropped because their sink was too slow.", &[]),
            panics: counter("sidegate_panics_total", "Bugs of ours that ended a connection.", &[]),
            scrapes_refused: counter(
                "sidegate_scrapes_refused_total",
                "Requests to this address from outside `[metrics] allow`.",
                &[],
            ),
            build_info: gauge("sidegate_build_info", "The version that runs.", &["version"]),
        };
        metrics.build_info.with(&[env!("CARGO_PKG_VERSION")]).set(1);
        for outcome in [ReloadResult::Published, ReloadResult::Unchanged, ReloadResult::Rejected] {
            metrics.reloads.with(&[outcome.word()]);
        }
        for plain in [&metrics.panics, &metrics.scrapes_refused, &metrics.log_drops] {
            plain.with(&[]);
        }
        metrics.watch_degraded.with(&[]).set(0);
        metrics.draining.with(&[]).set(0);
        Arc::new(metrics)
    }

    /// The handles of one listener.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            name: name.into(),
            accepted: self.connections_accepted.with(&[name]),
            open: self.connections_open.with(&[name]),
            probes: self.probes.with(&[name]),
            limit: self.connections_limit.with(&[name]),
        }
    }

    /// A connection of `listener` ended.
    pub fn connection_closed(&self, listener: &ListenerMetrics, end: ConnectionEnd) {
        listener.open.dec();
        self.connections_closed.with(&[&listener.name, end.word()]).inc();
    }

    /// A TLS handshake of `listener` came to its end after `took`.
    pub fn tls_handshake(&self, listener: &ListenerMetrics, result: TlsResult, took: Duration) {
        self.tls_handshakes.with(&[&listener.name, result.word()]).inc();
        if matches!(result, TlsResult::Full | TlsResult::Resumed) {
            self.tls_handshake_seconds.with(&[&listener.name]).observe(took.as_secs_f64());
        }
    }

    /// A request was answered.
    pub fn request(&self, route: &str, kind: RequestKind, result: RequestResult) {
        self.requests.with(&[route, kind.word(), result.word()]).inc();
    }

    /// A request was refused, or its backend failed.
    pub fn refused(&self, route: &str, refusal: Refusal) {
        self.refusals.with(&[route, refusal.word()]).inc();
    }

    /// A backend was dialled.
    pub fn dialled(&self, route: &str, took: Duration) {
        self.dial_seconds.with(&[route]).observe(took.as_secs_f64());
    }

    /// A tunnel opened, `took` after its head.
    pub fn tunnel_opened(&self, route: &str, took: Duration) {
        self.tunnels_opened.with(&[route]).inc();
        self.upgrade_seconds.with(&[route]).observe(took.as_secs_f64());
    }

    /// A tunnel ended; its traffic so far stood in the table, and moves to the totals.
    pub fn tunnel_closed(&self, route: &str, entry: &Entry, closed: &Closed, refusal: Option<Refusal>) {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        entry.traffic.clear();
        self.tunnels_closed.with(&[route, closed.by.word(), closed.phase.word(), closed.reason.word()]).inc();
        self.tunnel_lifetime.with(&[route]).observe(closed.lasted.as_secs_f64());
        for (direction, traffic) in [("from_client", closed.from_client), ("from_backend", closed.from_backend)] {
            self.bytes.with(&[route, direction]).inc_by(traffic.bytes);
            self.messages.with(&[route, direction]).inc_by(traffic.messages);
        }
        if let Some(refusal) = refusal {
            self.revoked.with(&[route, refusal.word()]).inc();
        }
    }

    /// A reload came to its outcome at `now`.
    pub fn reloaded(&self, result: ReloadResult, now: Timestamp) {
        self.reloads.with(&[result.word()]).inc();
        match result {
            ReloadResult::Published | ReloadResult::Unchanged => self.succeeded(now),
            ReloadResult::Rejected => self.reload_successful.with(&[]).set(0),
        }
    }

    /// The files are what runs; a start is no reload, but says so too.
    pub fn succeeded(&self, now: Timestamp) {
        self.reload_successful.with(&[]).set(1);
        self.reload_success_timestamp.with(&[]).set(now.as_millisecond() as f64 / 1000.0);
    }

    /// The generation that runs now, whether it came by a start or by a reload.
    pub fn running(&self, snapshot: &Snapshot) {
        self.generation.with(&[]).set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        self.config_info.retain(|_| false);
        self.config_info.with(&[&snapshot.digest]).set(1);
        self.certificate_not_after.retain(|_| false);
        for certificate in snapshot.certificates.iter() {
            self.certificate_not_after.with(&[&certificate.label]).set(certificate.not_after.as_second() as f64);
        }
        self.tunnels_limit.retain(|_| false);
        self.list_entries.retain(|_| false);
        for policy in snapshot.policies.values() {
            if let Some(total) = policy.limits.total {
                self.tunnels_limit.with(&[&policy.name]).set(total.into());
            }
            for list in policy.lists() {
                self.list_entries.with(&[&list.name, &policy.name]).set(i64::try_from(list.len()).unwrap_or(i64::MAX));
            }
        }
    }

    /// The list files of what runs: policy, list, and when it was last written.
    pub fn lists_modified<'a>(&self, lists: impl Iterator<Item = (&'a str, &'a str, Timestamp)>) {
        self.list_modified.retain(|_| false);
        for (policy, list, modified) in lists {
            self.list_modified.with(&[list, policy]).set(modified.as_second() as f64);
        }
    }

    /// Whether watching is degraded to polling.
    pub fn watch_degraded(&self, degraded: bool) {
        self.watch_degraded.with(&[]).set(degraded.into());
    }

    /// A drain began.
    pub fn drains(&self) {
        self.draining.with(&[]).set(1);
    }

    /// Whether a drain began.
    pub fn is_draining(&self) -> bool {
        self.draining.with(&[]).get() != 0
    }

    /// Whether files are polled because they cannot be watched.
    pub fn is_watch_degraded(&self) -> bool {
        self.watch_degraded.with(&[]).get() != 0
    }

    /// A bug of ours ended a connection.
    pub fn panicked(&self) {
        self.panics.with(&[]).inc();
    }

    /// Somebody outside `[metrics] allow` asked.
    pub fn scrape_refused(&self) {
        self.scrapes_refused.with(&[]).inc();
    }

    /// All metrics as Prometheus' text format 0.0.4; what lives in the tables is summed here.
    pub fn scrape(&self, snapshot: &Snapshot, tunnels: &Tunnels, log_drops: u64) -> String {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.sum_tunnels(snapshot, tunnels);
        for policy in snapshot.policies.values() {
            for (limit, limiter) in [("upgrades", &policy.budgets.upgrades), ("requests", &policy.budgets.requests)] {
                let Some(limiter) = limiter else { continue };
                self.limiter_keys.with(&[&policy.name, limit]).set(i64::try_from(limiter.keys()).unwrap_or(i64::MAX));
                self.limiter_overflow.with(&[&policy.name, limit]).set(i64::try_from(limiter.overflowed()).unwrap_or(i64::MAX));
            }
        }
        let drops = self.log_drops.with(&[]);
        drops.inc_by(log_drops.saturating_sub(drops.get()));

        let mut families = Vec::new();
        for family in [
            &self.connections_accepted,
            &self.connections_closed,
            &self.probes,
            &self.tls_handshakes,
            &self.requests,
            &self.refusals,
            &self.tunnels_opened,
            &self.tunnels_closed,
            &self.revoked,
            &self.reloads,
            &self.log_drops,
            &self.panics,
            &self.scrapes_refused,
        ] {
            family.gather(&mut families);
        }
        for family in [
            &self.connections_open,
            &self.connections_limit,
            &self.tunnels_open,
            &self.tunnels_limit,
            &self.generation,
            &self.reload_successful,
            &self.config_info,
            &self.list_entries,
            &self.limiter_keys,
            &self.watch_degraded,
            &self.draining,
            &self.build_info,
        ] {
            family.gather(&mut families);
        }
        for family in [&self.tls_handshake_seconds, &self.upgrade_seconds, &self.dial_seconds, &self.tunnel_lifetime] {
            family.gather(&mut families);
        }
        for family in [&self.reload_success_timestamp, &self.certificate_not_after, &self.list_modified] {
            family.gather(&mut families);
        }
        self.gather_overflow(&mut families);
        self.gather_traffic(&live, &mut families);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }

    /// What each route of `snapshot` has carried since the start, in the order written.
    pub fn totals(&self, snapshot: &Snapshot, tunnels: &Tunnels) -> Vec<(Arc<str>, RouteTotals)> {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.sum_tunnels(snapshot, tunnels);
        let of = |route: &str| {
            let (mut from_client, mut from_backend) = live.get(route).copied().unwrap_or_default();
            for (direction, traffic) in [("from_client", &mut from_client), ("from_backend", &mut from_backend)] {
                traffic.bytes += self.bytes.with(&[route, direction]).get();
                traffic.messages += self.messages.with(&[route, direction]).get();
            }
            let open = u64::try_from(self.tunnels_open.with(&[route]).get()).unwrap_or_default();
            let refused = Refusal::ALL.iter().map(|refusal| self.refusals.with(&[route, refusal.word()]).get()).sum();
            RouteTotals { open, opened: self.tunnels_opened.with(&[route]).get(), refused, from_client, from_backend }
        };
        snapshot.route_list.iter().map(|route| (Arc::clone(&route.name), of(&route.name))).collect()
    }

    /// Sets the gauges of open tunnels, and returns the traffic of those by route.
    fn sum_tunnels(&self, snapshot: &Snapshot, tunnels: &Tunnels) -> HashMap<Arc<str>, (Traffic, Traffic)> {
        let mut open: HashMap<Arc<str>, i64> = snapshot.route_list.iter().map(|route| (Arc::clone(&route.name), 0)).collect();
        let mut live: HashMap<Arc<str>, (Traffic, Traffic)> = HashMap::new();
        for entry in tunnels.entries() {
            let route = Arc::clone(&entry.route().name);
            let (from_client, from_backend) = entry.traffic.totals();
            let sums = live.entry(Arc::clone(&route)).or_default();
            for (sum, traffic) in [(&mut sums.0, from_client), (&mut sums.1, from_backend)] {
                sum.bytes += traffic.bytes;
                sum.messages += traffic.messages;
            }
            *open.entry(route).or_default() += 1;
        }
        self.tunnels_open.retain(|values| open.contains_key(&values[0]));
        for (route, count) in open {
            self.tunnels_open.with(&[&route]).set(count);
        }
        live
    }

    /// `limiter_overflow_total` is kept by the limiters, so it is set here and typed as the counter that it is.
    fn gather_overflow(&self, families: &mut Vec<MetricFamily>) {
        let mut gauges = Vec::new();
        self.limiter_overflow.gather(&mut gauges);
        for mut family in gauges {
            for metric in family.mut_metric() {
                let mut counter = prometheus::proto::Counter::default();
                counter.set_value(metric.get_gauge().get_value());
                metric.set_counter(counter);
            }
            family.set_field_type(prometheus::proto::MetricType::COUNTER);
            families.push(family);
        }
    }

    /// Bytes and messages: those of tunnels that ended, and of those that live.
    fn gather_traffic(&self, live: &HashMap<Arc<str>, (Traffic, Traffic)>, families: &mut Vec<MetricFamily>) {
        let of = |traffic: &Traffic, is_bytes: bool| if is_bytes { traffic.bytes } else { traffic.messages };
        for (family, is_bytes) in [(&self.bytes, true), (&self.messages, false)] {
            for route in live.keys() {
                family.with(&[route, "from_client"]);
                family.with(&[route, "from_backend"]);
            }
            let mut gathered = Vec::new();
            family.gather(&mut gathered);
            for metric in gathered.iter_mut().flat_map(MetricFamily::mut_metric) {
                let label = |name: &str| {
                    metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value().to_owned())
                };
                let (Some(route), Some(direction)) = (label("route"), label("direction")) else { continue };
                let Some((from_client, from_backend)) = live.get(route.as_str()) else { continue };
                let more = of(if direction == "from_client" { from_client } else { from_backend }, is_bytes);
                let mut counter = prometheus::proto::Counter::default();
                counter.set_value(metric.get_counter().get_value() + more as f64);
                metric.set_counter(counter);
            }
            families.append(&mut gathered);
        }
    }
}

/// The handles of one listener, for the path of every connection.
#[derive(Clone)]
pub struct ListenerMetrics {
    name: Arc<str>,
    accepted: IntCounter,
    open: IntGauge,
    probes: IntCounter,
    limit: IntGauge,
}

impl ListenerMetrics {
    /// A connection was accepted.
    pub fn accepted(&self) {
        self.accepted.inc();
        self.open.inc();
    }

    /// A connection ended without a byte: a health check.
    pub fn probed(&self) {
        self.probes.inc();
    }

    /// The most connections at once.
    pub fn limit(&self, connections: usize) {
        self.limit.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }
}

impl RequestKind {
    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            RequestKind::Upgrade => "upgrade",
            RequestKind::Plain => "plain",
        }
    }
}

impl RequestResult {
    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            RequestResult::Permitted => "permitted",
            RequestResult::Refused => "refused",
            RequestResult::Failed => "failed",
        }
    }
}

impl TlsResult {
    const fn word(self) -> &'static str {
        match self {
            TlsResult::Full => "full",
            TlsResult::Resumed => "resumed",
            TlsResult::Failed => "failed",
            TlsResult::Timeout => "timeout",
        }
    }
}

impl ReloadResult {
    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            ReloadResult::Published => "published",
            ReloadResult::Unchanged => "unchanged",
            ReloadResult::Rejected => "rejected",
        }
    }
}

impl ConnectionEnd {
    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            ConnectionEnd::Client => "client",
            ConnectionEnd::KeepAlive => "keep_alive",
            ConnectionEnd::Refused => "refused",
            ConnectionEnd::Upgraded => "upgraded",
            ConnectionEnd::Drain => "drain",
            ConnectionEnd::Panic => "panic",
            ConnectionEnd::Because(refusal) => refusal.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<M: Collector + Clone>(family: &Family<M>) -> String {
        let mut families = Vec::new();
        family.gather(&mut families);
        TextEncoder::new().encode_to_string(&families).unwrap()
    }

    #[test]
    fn label_values_that_run_together_alike_are_two_series() {
        let family = counter("t_total", "Test.", &["a", "b"]);
        family.with(&["ab", "c"]).inc();
        family.with(&["a", "bc"]).inc_by(2);
        let text = text(&family);
        assert!(text.contains("t_total{a=\"ab\",b=\"c\"} 1\n"), "{text}");
        assert!(text.contains("t_total{a=\"a\",b=\"bc\"} 2\n"), "{text}");
        assert_eq!(text.matches("# TYPE").count(), 1, "{text}");
    }

    #[test]
    fn a_series_is_one_however_often_it_is_asked_for() {
        let family = counter("t_total", "Test.", &["a"]);
        family.with(&["x"]).inc();
        family.with(&["x"]).inc();
        assert!(text(&family).contains("t_total{a=\"x\"} 2\n"));
    }

    #[test]
    fn every_reason_to_end_a_connection_has_a_word_of_its_own() {
        let ends = [
            ConnectionEnd::Client,
            ConnectionEnd::KeepAlive,
            ConnectionEnd::Refused,
            ConnectionEnd::Upgraded,
            ConnectionEnd::Drain,
            ConnectionEnd::Panic,
            ConnectionEnd::Because(Refusal::Tls),
        ];
        let words: std::collections::HashSet<_> = ends.iter().map(|end| end.word()).collect();
        assert_eq!(words.len(), ends.len());
    }
}

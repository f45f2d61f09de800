//! `[limits]` of a policy: the share of each client, and the bounds on all of them.

use std::cmp::Reverse;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::certificate::IdentityPattern;
use crate::policy::limit::key::{LimitUnit, LimitUnits};
use crate::policy::limit::rate::Rate;
use crate::policy::list::List;
use crate::policy::subject::Subject;

/// A policy's `[limits]`. `None` means unlimited.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// The share of a client that no exception names.
    pub share: ClientLimits,
    /// Tunnels of all clients at once.
    pub total: Option<u32>,
    /// Streams of all clients at once: exchanges of plain HTTP that have lasted 5 s.
    pub streams_total: Option<u32>,
    /// `[[limits.for]]`: other shares for some clients. No network and no pattern is in two of
    /// them.
    pub exceptions: Box<[LimitException]>,
}

/// What one client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientLimits {
    /// Rate of WebSocket upgrade requests that the rules permit.
    pub upgrades: Option<Rate>,
    /// Rate of plain HTTP requests that the rules permit.
    pub requests: Option<Rate>,
    /// Tunnels open at once.
    pub per_client: Option<u32>,
    /// Streams at once: exchanges of plain HTTP that have lasted 5 s.
    pub streams: Option<u32>,
    /// Limits on each of the client's tunnels.
    pub tunnel: TunnelLimits,
    /// What rates and counts count by.
    pub units: LimitUnits,
}

/// A rate of a policy that has a budget for each client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimit {
    /// `upgrades`: WebSocket upgrade requests.
    Upgrades,
    /// `requests`: plain HTTP requests.
    Requests,
}

impl RateLimit {
    /// Every rate limit, once.
    pub const ALL: [RateLimit; 2] = [RateLimit::Upgrades, RateLimit::Requests];

    /// The key in `[limits]`.
    pub const fn word(self) -> &'static str {
        match self {
            RateLimit::Upgrades => "upgrades",
            RateLimit::Requests => "requests",
        }
    }

    /// The rate of `share`. `None` means unlimited.
    pub const fn of(self, share: &ClientLimits) -> Option<Rate> {
        match self {
            RateLimit::Upgrades => share.upgrades,
            RateLimit::Requests => share.requests,
        }
    }

    /// What the rate of `share` counts by.
    pub const fn unit(self, share: &ClientLimits) -> LimitUnit {
        match self {
            RateLimit::Upgrades => share.units.upgrades,
            RateLimit::Requests => share.units.requests,
        }
    }
}

/// Names the limiters of one limit of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterId<'a> {
    /// Name of the policy.
    pub policy: &'a str,
    /// Whether they are those of its candidate, which is charged apart.
    pub is_candidate: bool,
    /// The limit whose tokens they hold.
    pub limit: RateLimit,
}

impl<'a> LimiterId<'a> {
    /// Iterates over those of the policy and of its candidate.
    pub fn all(policy: &'a str) -> impl Iterator<Item = LimiterId<'a>> {
        let both = [false, true].into_iter();
        both.flat_map(move |is_candidate| {
            let one = move |limit| LimiterId { policy, is_candidate, limit };
            RateLimit::ALL.map(one)
        })
    }
}

/// One `[[limits.for]]`, with all that it leaves out filled in from `[limits]`.
#[derive(Debug, Clone)]
pub struct LimitException {
    /// The clients that this exception applies to.
    pub scope: ExceptionScope,
    /// The share of each of these clients.
    pub share: ClientLimits,
    /// Its line in the policy's file, from 1.
    pub line: u32,
}

/// The clients that an exception applies to.
#[derive(Debug, Clone)]
pub enum ExceptionScope {
    /// `client`: those in one of these lists.
    Clients(Vec<Arc<List>>),
    /// `identity`: those with a certificate that one of these patterns matches.
    Identities(Box<[IdentityPattern]>),
}

impl LimitException {
    /// The lists that the exception names.
    pub fn lists(&self) -> &[Arc<List>] {
        match &self.scope {
            ExceptionScope::Clients(lists) => lists,
            ExceptionScope::Identities(_) => &[],
        }
    }

    /// The patterns of certificates that the exception names.
    pub fn patterns(&self) -> &[IdentityPattern] {
        match &self.scope {
            ExceptionScope::Clients(_) => &[],
            ExceptionScope::Identities(patterns) => patterns,
        }
    }

    /// The narrowest pattern that matches the certificate of `subject`. `None` means that none
    /// does.
    pub fn pattern_of(&self, subject: &Subject) -> Option<&IdentityPattern> {
        let certificate = subject.certificate()?;
        // A certificate with several names may match several patterns, each by another name.
        let matching = self.patterns().iter().filter(|pattern| pattern.matches(certificate));
        matching.max_by_key(|pattern| pattern.narrowness())
    }
}

impl Limits {
    /// Returns the index of the exception for `subject` at the time `now`.
    pub fn exception(&self, subject: &Subject, now: Timestamp) -> Option<usize> {
        // A certificate says more about a client than the address that it comes from.
        self.identity_exception(subject).or_else(|| self.client_exception(subject, now))
    }

    /// The exception with the narrowest pattern for the certificate of `subject`.
    fn identity_exception(&self, subject: &Subject) -> Option<usize> {
        // Clients without a certificate skip the walk over all exceptions.
        subject.certificate()?;
        let named =
            self.exceptions.iter().enumerate().filter_map(|(at, exception)| {
                Some((exception.pattern_of(subject)?.narrowness(), at))
            });
        // Patterns that are alike narrow tie, as where a certificate has two names.
        named.max_by_key(|(narrowness, at)| (*narrowness, Reverse(*at))).map(|(_, at)| at)
    }

    /// The exception with the longest network for `subject`, or with the narrowest pattern of
    /// users.
    fn client_exception(&self, subject: &Subject, now: Timestamp) -> Option<usize> {
        // An exception may name several lists: its longest network competes with other exceptions.
        let longest = |exception: &LimitException| {
            exception.lists().iter().filter_map(|list| list.holds(subject, now)).max()
        };
        let named = self
            .exceptions
            .iter()
            .enumerate()
            .filter_map(|(at, exception)| Some((longest(exception)?, at)));
        // Networks of one length that hold the client are the same network, and no network is in
        // two exceptions. Only groups tie: of a process in several, the first exception holds.
        named.max_by_key(|(length, at)| (*length, Reverse(*at))).map(|(_, at)| at)
    }

    /// Returns the share of an exception. `None` means the share of clients without one.
    pub fn share(&self, exception: Option<usize>) -> &ClientLimits {
        exception
            .and_then(|at| self.exceptions.get(at))
            .map_or(&self.share, |exception| &exception.share)
    }

    /// Returns the share of `subject` at the time `now`.
    pub fn client_limits(&self, subject: &Subject, now: Timestamp) -> &ClientLimits {
        self.share(self.exception(subject, now))
    }

    /// Returns the distinct rates of `limit` among all shares.
    pub fn rates(&self, limit: RateLimit) -> Vec<Rate> {
        let mut rates: Vec<Rate> = Vec::new();
        for rate in self.shares().filter_map(|share| limit.of(share)) {
            if !rates.contains(&rate) {
                rates.push(rate);
            }
        }
        rates
    }

    /// Iterates over every share, first the one of clients without an exception.
    pub fn shares(&self) -> impl Iterator<Item = &ClientLimits> {
        std::iter::once(&self.share).chain(self.exceptions.iter().map(|exception| &exception.share))
    }
}

/// Limits on one tunnel, and the keep-alive of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelLimits {
    /// Largest message, in bytes on the wire.
    pub message_max: Option<u64>,
    /// Rate of messages from the client.
    pub message_rate: Option<Rate>,
    /// Rate of frames from the client that its messages do not bound: Pings, Pongs, data frames
    /// without payload, and frames of less than 64 bytes in the middle of a message. `None` means
    /// off.
    pub frames: Option<Rate>,
    /// Time without a frame in either direction until the tunnel is closed.
    pub idle: Option<Duration>,
    /// Time from the 101 until the tunnel is closed.
    pub lifetime: Option<Duration>,
    /// Silence of the client after which Sidegate sends a Ping. `None` means off.
    pub ping: Option<Duration>,
    /// Time after a Ping, Sidegate's or the backend's, without a byte from the client until it
    /// counts as dead.
    pub pong: Duration,
}

/// More such frames than any client needs, and far fewer than a thread can handle.
const DEFAULT_FRAMES: Rate = Rate {
    tokens: NonZeroU32::new(2_000).unwrap(),
    per: Duration::from_secs(1),
    burst: NonZeroU32::new(10_000).unwrap(),
};

impl Default for TunnelLimits {
    /// Limits nothing but the frames that messages do not bound. Pings are on, so that a dead
    /// client is noticed, and every 25 s, because load balancers cut after 60 s of silence.
    fn default() -> Self {
        TunnelLimits {
            message_max: None,
            message_rate: None,
            frames: Some(DEFAULT_FRAMES),
            idle: None,
            lifetime: None,
            ping: Some(Duration::from_secs(25)),
            pong: Duration::from_secs(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::certificate::ClientCertificate;
    use crate::policy::list::ListEntry;
    use crate::policy::network::Client;

    fn exception(line: u32, networks: &[&str]) -> LimitException {
        let entries = networks.iter().map(|text| (ListEntry::parse(text).unwrap().unwrap(), 1));
        let list = List::new("nets", "policies/chat.toml", entries.collect()).unwrap();
        LimitException {
            scope: ExceptionScope::Clients(vec![Arc::new(list)]),
            share: ClientLimits { per_client: Some(line), ..ClientLimits::default() },
            line,
        }
    }

    /// The line of the exception for `client` on new year's day of 2027; 1 means the share without
    /// an exception.
    fn check(exceptions: &[(u32, &[&str])], client: &str, line: u32) {
        let exceptions =
            exceptions.iter().map(|(line, networks)| exception(*line, networks)).collect();
        let limits = Limits {
            share: ClientLimits { per_client: Some(1), ..ClientLimits::default() },
            total: None,
            streams_total: None,
            exceptions,
        };
        let (client, now) =
            (Client::new(client.parse().unwrap()), "2027-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(limits.client_limits(&client.into(), now).per_client, Some(line), "{client}");
    }

    #[test]
    fn longest_network_decides_the_share_in_any_order() {
        let both: [(u32, &[&str]); 2] =
            [(10, &["192.0.2.0/24", "!192.0.2.9"]), (20, &["192.0.2.8/30", "10.0.0.0/8"])];
        let swapped = [both[1], both[0]];
        for exceptions in [both, swapped] {
            check(&exceptions, "192.0.2.1", 10);
            check(&exceptions, "192.0.2.8", 20);
            check(&exceptions, "192.0.2.9", 20);
            check(&exceptions, "10.1.2.3", 20);
            check(&exceptions, "203.0.113.1", 1);
        }
    }

    #[test]
    fn lapsed_or_carved_out_client_gets_the_common_limits() {
        check(&[(10, &["192.0.2.1 expires=2026-12-31"])], "192.0.2.1", 1);
        check(&[(10, &["192.0.2.0/24", "!192.0.2.1"])], "192.0.2.1", 1);
    }

    /// The line of the exception for a client of 192.0.2.1 with these names, in every order of the
    /// exceptions; 1 means the share without an exception.
    fn check_identity(exceptions: &[(u32, &[&str])], names: &[&str], line: u32) {
        let of = |(line, names): &(u32, &[&str])| {
            if names.iter().all(|name| name.starts_with(|first: char| first.is_ascii_digit())) {
                return exception(*line, names);
            }
            let parse = |name: &&str| IdentityPattern::parse(name).unwrap();
            let scope = ExceptionScope::Identities(names.iter().map(parse).collect());
            let share = ClientLimits { per_client: Some(*line), ..ClientLimits::default() };
            LimitException { scope, share, line: *line }
        };
        let mut certificate = ClientCertificate::named(names[0]).unwrap();
        certificate.uris =
            names.iter().filter_map(|uri| ClientCertificate::uri_name(uri)).collect();
        let client = Client::new([192, 0, 2, 1].into());
        let subject = Subject::new(client).with_certificate(certificate.into());
        for exceptions in [
            exceptions.iter().map(of).collect::<Vec<_>>(),
            exceptions.iter().rev().map(of).collect::<Vec<_>>(),
        ] {
            let share = ClientLimits { per_client: Some(1), ..ClientLimits::default() };
            let limits = Limits { share, exceptions: exceptions.into(), ..Limits::default() };
            let share = limits.client_limits(&subject, Timestamp::UNIX_EPOCH);
            assert_eq!(share.per_client, Some(line), "{names:?}");
        }
    }

    #[test]
    fn narrowest_name_decides_the_share_in_any_order() {
        let all: [(u32, &[&str]); 4] = [
            (10, &["spiffe://a/**"]),
            (20, &["spiffe://a/ws/*", "spiffe://b/1"]),
            (30, &["spiffe://a/ws/edge-*"]),
            (40, &["spiffe://a/ws/edge-7"]),
        ];
        check_identity(&all, &["spiffe://a/x/y"], 10);
        check_identity(&all, &["spiffe://a/ws/1"], 20);
        check_identity(&all, &["spiffe://b/1"], 20);
        check_identity(&all, &["spiffe://a/ws/edge-1"], 30);
        check_identity(&all, &["spiffe://a/ws/edge-7"], 40);
        check_identity(&all, &["spiffe://a/x", "spiffe://a/ws/edge-7"], 40);
        check_identity(&all, &["spiffe://c/1"], 1);
        // What a wildcard cannot be read in one way for, it does not match.
        check_identity(&all, &["spiffe://a/ws/%2e%2e"], 1);
    }

    #[test]
    fn identity_wins_over_the_address_in_any_order() {
        let both: [(u32, &[&str]); 2] = [(10, &["192.0.2.1"]), (20, &["spiffe://a/**"])];
        check_identity(&both, &["spiffe://a/x"], 20);
        check_identity(&both, &["spiffe://b/x"], 10);
    }

    #[test]
    fn first_table_wins_between_equally_narrow_names() {
        let of = |line, name: &str| LimitException {
            scope: ExceptionScope::Identities([IdentityPattern::parse(name).unwrap()].into()),
            share: ClientLimits::default(),
            line,
        };
        let mut certificate = ClientCertificate::named("spiffe://a/1").unwrap();
        certificate.dns_names = ["a.example".into()].into();
        let client = Client::new([192, 0, 2, 1].into());
        let subject = Subject::new(client).with_certificate(certificate.into());
        let (uri, dns) = (of(1, "spiffe://a/1"), of(2, "dns:a.example"));
        for exceptions in [[uri.clone(), dns.clone()], [dns, uri]] {
            let limits = Limits { exceptions: exceptions.into(), ..Limits::default() };
            assert_eq!(limits.exception(&subject, Timestamp::UNIX_EPOCH), Some(0));
        }
    }

    #[test]
    fn shares_lists_every_share() {
        let rate =
            Rate { tokens: NonZeroU32::MIN, per: Duration::from_secs(1), burst: NonZeroU32::MIN };
        let one = exception(10, &["192.0.2.1"]);
        let exceptions =
            [LimitException { share: ClientLimits { upgrades: Some(rate), ..one.share }, ..one }]
                .into();
        let limits = Limits { exceptions, ..Limits::default() };
        assert_eq!(
            limits.shares().map(|share| share.upgrades).collect::<Vec<_>>(),
            [None, Some(rate)]
        );
    }

    #[test]
    fn pings_and_frame_limits_are_on_by_default() {
        let limits = Limits::default();
        assert_eq!(
            (limits.share.upgrades, limits.share.requests, limits.share.per_client, limits.total),
            (None, None, None, None)
        );
        let pulse = TunnelLimits {
            ping: Some(Duration::from_secs(25)),
            pong: Duration::from_secs(20),
            ..limits.share.tunnel
        };
        assert_eq!((limits.share.tunnel, pulse.frames), (pulse, Some(DEFAULT_FRAMES)));
        assert_eq!(
            (pulse.message_max, pulse.message_rate, pulse.idle, pulse.lifetime),
            (None, None, None, None)
        );
    }
}

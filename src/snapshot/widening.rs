//! What one generation lets in that another one refuses: by route, policy and listener.
//!
//! Compares two values and judges neither. Bans are outside the files, and do not count.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::ptr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::addresses::AddressSet;
use crate::policy::peers::{PeerList, PeerPattern};
use crate::policy::widening::{AdmittedClients, Gate, WiderRule, is_higher, wider_rules};
use crate::policy::wider_lists::wider_lists;
use crate::snapshot::client_auth::ClientAuthMode;
use crate::snapshot::listener::{ClientCertificates, ListenAddress, Listener, Protocol};
use crate::snapshot::route::{PathForwarding, PlainHttp, Route};
use crate::snapshot::{ListenerRules, Snapshot};

/// Most networks that a sentence names.
const MAX_NAMED_NETWORKS: usize = 5;

/// What a generation lets in beyond another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Widening {
    /// Clients that routes newly admit, by policy.
    pub clients: Vec<WidenedRoutes>,
    /// Rules that have become wider.
    pub rules: Vec<WidenedPart>,
}

/// The clients that routes of one policy newly admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WidenedRoutes {
    /// The policy that judges on these routes.
    pub policy: Arc<str>,
    /// The names of the routes, in ascending order.
    pub routes: Vec<Arc<str>>,
    /// The clients that are newly admitted.
    pub admitted: AdmittedClients,
}

/// A part of the configuration with a rule that has become wider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WidenedPart {
    /// The kind of the part.
    pub kind: PartKind,
    /// The name of the part.
    pub name: Arc<str>,
    /// The rule, and what it admits.
    pub rule: WiderRule,
}

/// The parts of a configuration that a rule may belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartKind {
    /// A policy, by its file.
    Policy,
    /// A route of `sidegate.toml`.
    Route,
    /// A listener of `sidegate.toml`.
    Listener,
    /// A list of a policy.
    List,
    /// `sidegate.toml` itself.
    File,
}

impl PartKind {
    /// The word for the kind.
    pub const fn word(self) -> &'static str {
        match self {
            PartKind::Policy => "policy",
            PartKind::Route => "route",
            PartKind::Listener => "listener",
            PartKind::List => "list",
            PartKind::File => "file",
        }
    }
}

impl Widening {
    /// The addresses that at least one route newly admits.
    pub fn addresses(&self) -> AddressSet {
        let all = self.clients.iter().map(|one| one.admitted.addresses.clone());
        all.fold(AddressSet::default(), AddressSet::union)
    }

    /// The number of networks, patterns of users and wider rules, as a number bounds them.
    pub fn counted_len(&self) -> usize {
        self.patterns_len() + self.rules.len()
    }

    /// The number of networks and patterns of users that at least one route newly admits.
    pub fn patterns_len(&self) -> usize {
        let users = self.clients.iter().flat_map(|one| &one.admitted.users);
        self.addresses().networks_len() + users.collect::<BTreeSet<_>>().len()
    }
}

/// What `to` lets in at the time `now` and `from` does not.
pub fn widening(from: &Snapshot, to: &Snapshot, now: Timestamp) -> Widening {
    let pairs = route_pairs(from, to);
    let mut rules = Vec::new();
    rules.extend(pairs.iter().flat_map(RoutePair::widened));
    rules.extend(widened_policies(&pairs, now));
    rules.extend(widened_baseline(from, to, now));
    rules.extend(to.listeners.values().flat_map(|new| {
        let new = &new.listener;
        widened_listener(from.listeners.get(&new.name), new, now)
    }));
    // Routes of one policy find the same rules again.
    rules.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    rules.dedup();
    Widening { clients: widened_clients(from, to, &pairs, now), rules }
}

/// The routes that serve the same requests in two generations.
struct RoutePair<'s> {
    /// The former route. `None` means that those requests had none.
    from: Option<&'s Route>,
    to: &'s Route,
}

/// The routes of `to`, each with every route of `from` whose requests it serves. A route that is
/// gone leaves its requests to a wider one, which may admit more.
fn route_pairs<'s>(from: &'s Snapshot, to: &'s Snapshot) -> Vec<RoutePair<'s>> {
    let hosts: BTreeSet<_> = from.routes.sample_hosts().chain(to.routes.sample_hosts()).collect();
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for host in &hosts {
        let paths: BTreeSet<_> =
            from.routes.paths_of(host).chain(to.routes.paths_of(host)).collect();
        // Every set of requests that two routes share has a request with one of these paths.
        for path in paths {
            let Some(to) = to.routes.find_decoded(host, path) else { continue };
            let from = from.routes.find_decoded(host, path).map(|route| &**route);
            // By address: routes of two generations may share a name and serve other requests.
            let identity = (from.map(ptr::from_ref), Arc::as_ptr(to));
            if seen.insert(identity) {
                pairs.push(RoutePair { from, to });
            }
        }
    }
    pairs
}

impl RoutePair<'_> {
    fn widened(&self) -> Vec<WidenedPart> {
        let mut rules = Rules::new();
        match self.from {
            None => rules.push(("path", "is new".into())),
            Some(from) => {
                let to = self.to;
                if from.http == PlainHttp::Refuse && to.http == PlainHttp::Forward {
                    rules.push(("http", "forwards plain HTTP too".into()));
                }
                if from.paths == PathForwarding::Canonical && to.paths == PathForwarding::AsIs {
                    rules.push(("paths", "forwards paths as they are sent".into()));
                }
                raised("max_body", from.max_body, to.max_body, &mut rules);
                raised("max_fields", Some(from.max_fields), Some(to.max_fields), &mut rules);
            }
        }
        parts(PartKind::Route, &self.to.name, rules)
    }

    /// The policies of both routes, by address.
    fn policies(&self) -> PolicyPair {
        (self.from.map(|from| Arc::as_ptr(&from.policy)), Arc::as_ptr(&self.to.policy))
    }
}

type PolicyPair = (Option<*const Policy>, *const Policy);

/// The clients that are newly admitted, each pair of policies compared once.
fn widened_clients(
    from: &Snapshot,
    to: &Snapshot,
    pairs: &[RoutePair<'_>],
    now: Timestamp,
) -> Vec<WidenedRoutes> {
    let mut by_policies: BTreeMap<PolicyPair, Vec<&RoutePair<'_>>> = BTreeMap::new();
    for pair in pairs {
        by_policies.entry(pair.policies()).or_default().push(pair);
    }
    let widened = by_policies.into_values().filter_map(|pairs| {
        // All of them have the same two policies, so one comparison answers for all.
        let RoutePair { from: old, to: new } = pairs.first()?;
        let old = old.map(|old| &*old.policy);
        let before = Gate { policy: old, baseline: from.baseline.as_deref() };
        let after = Gate { policy: Some(&new.policy), baseline: to.baseline.as_deref() };
        let admitted = before.widened_by(&after, now);
        let routes: BTreeSet<_> = pairs.iter().map(|pair| Arc::clone(&pair.to.name)).collect();
        let routes = routes.into_iter().collect();
        let policy = Arc::clone(&new.policy.name);
        (!admitted.is_empty()).then_some(WidenedRoutes { policy, routes, admitted })
    });
    let mut widened: Vec<_> = widened.collect();
    // Addresses in memory are in no order that a reader would know.
    widened.sort_by(|one, other| (&one.policy, &one.routes).cmp(&(&other.policy, &other.routes)));
    widened
}

fn widened_policies<'p>(
    pairs: &'p [RoutePair<'_>],
    now: Timestamp,
) -> impl Iterator<Item = WidenedPart> + 'p {
    let mut seen = HashSet::new();
    let fresh = pairs.iter().filter(move |pair| seen.insert(pair.policies()));
    let pairs = fresh.filter_map(|pair| Some((&pair.from?.policy, &pair.to.policy)));
    pairs.flat_map(move |(from, to)| {
        let rules = wider_rules(from, to).into_iter().chain(wider_lists(from, to, now));
        rules.map(|rule| WidenedPart { kind: PartKind::Policy, name: Arc::clone(&to.name), rule })
    })
}

/// The denials of the baseline that are gone, or end earlier.
fn widened_baseline(from: &Snapshot, to: &Snapshot, now: Timestamp) -> Vec<WidenedPart> {
    let Some(before) = from.baseline.as_deref() else { return Vec::new() };
    let rules = match to.baseline.as_deref() {
        Some(after) => wider_lists(before, after, now),
        None => vec![WiderRule { key: "client.deny", what: "is gone".into() }],
    };
    let name = &before.name;
    let part = |rule| WidenedPart { kind: PartKind::Policy, name: Arc::clone(name), rule };
    rules.into_iter().map(part).collect()
}

/// The rules of the listener `to` that are wider than those of `from`. `None` means that the
/// listener is new.
fn widened_listener(
    from: Option<&ListenerRules>,
    to: &Listener,
    now: Timestamp,
) -> Vec<WidenedPart> {
    let mut rules = Vec::new();
    match from {
        None => rules.push(("listen", format!("is new, at {}", to.address))),
        Some(from) => compare_listeners(&from.listener, to, now, &mut rules),
    }
    parts(PartKind::Listener, &to.name, rules)
}

type Rules = Vec<(&'static str, String)>;

fn parts(kind: PartKind, name: &Arc<str>, rules: Rules) -> Vec<WidenedPart> {
    let part =
        |(key, what)| WidenedPart { kind, name: Arc::clone(name), rule: WiderRule { key, what } };
    rules.into_iter().map(part).collect()
}

/// Notes a bound that is higher or gone. `None` means unlimited.
fn raised<T: PartialOrd + Display>(
    key: &'static str,
    from: Option<T>,
    to: Option<T>,
    rules: &mut Rules,
) {
    match (from, to) {
        (Some(from), None) => rules.push((key, format!("unlimited instead of {from}"))),
        (Some(from), Some(to)) if to > from => rules.push((key, format!("{to} instead of {from}"))),
        _ => {}
    }
}

fn compare_listeners(from: &Listener, to: &Listener, now: Timestamp, rules: &mut Rules) {
    if is_local(&from.address) && !is_local(&to.address) {
        rules.push(("listen", format!("is at {} instead of {}", to.address, from.address)));
    }
    compare_protocols(from, to, rules);
    compare_bounds(from, to, rules);
    let certificates = |listener: &Listener| listener.client_certificates.clone();
    if let Some(from) = certificates(from) {
        compare_certificates(&from, certificates(to).as_deref(), now, rules);
    }
    compare_peers(
        "proxy_protocol.from",
        from.proxy_protocol.as_ref(),
        to.proxy_protocol.as_ref(),
        rules,
    );
    let forwarders = |listener: &Listener| listener.forwarded.as_ref().map(|all| all.from.clone());
    compare_peers("forwarded.from", forwarders(from).as_ref(), forwarders(to).as_ref(), rules);
}

fn compare_protocols(from: &Listener, to: &Listener, rules: &mut Rules) {
    match (&from.protocol, &to.protocol) {
        (Protocol::Tls(_), Protocol::Plain) => {
            rules.push(("tls", "serves requests without TLS".into()));
        }
        // A redirect answers all requests itself.
        (Protocol::Redirect(_), Protocol::Plain) => {
            rules.push(("redirect", "serves requests instead of redirecting them".into()));
        }
        (Protocol::Tls(from), Protocol::Tls(to)) => {
            if from.only_13 && !to.only_13 {
                rules.push(("tls_min", "accepts TLS 1.2".into()));
            }
            if from.strict_sni && !to.strict_sni {
                let what = "accepts names that no certificate covers";
                rules.push(("strict_sni", what.into()));
            }
        }
        _ => {}
    }
    if let (ListenAddress::Unix(from), ListenAddress::Unix(to)) = (&from.address, &to.address) {
        // The kernel checks them at each connect (unix(7)).
        if to.mode & !from.mode != 0 {
            rules.push(("mode", format!("{:04o} instead of {:04o}", to.mode, from.mode)));
        }
        if to.group != from.group {
            let name = to.group.as_ref().map_or("that of the process", |group| &*group.name);
            rules.push(("group", format!("is {name} now")));
        }
    }
}

fn compare_bounds(from: &Listener, to: &Listener, rules: &mut Rules) {
    raised("max_head", Some(from.max_head), Some(to.max_head), rules);
    raised("max_fields", Some(from.max_fields), Some(to.max_fields), rules);
    raised("max_connections", from.max_connections, to.max_connections, rules);
    let pending = |listener: &Listener| Some(listener.pending_per_client);
    raised("pending_per_client", pending(from), pending(to), rules);
    let key = "handshakes_per_client";
    match (from.handshakes_per_client, to.handshakes_per_client) {
        (Some(from), None) => rules.push((key, format!("unlimited instead of {from}"))),
        (Some(from), Some(to)) if is_higher(&from, &to) => {
            rules.push((key, format!("{to} instead of {from}")));
        }
        _ => {}
    }
}

/// Whether only this host reaches the address. Unknown counts as yes, so that a change is reported.
fn is_local(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Tcp(address) => address.ip().is_loopback(),
        ListenAddress::Unix(_) => true,
        // The unit of the socket says where it listens.
        ListenAddress::Systemd(_) => false,
    }
}

fn compare_certificates(
    from: &ClientCertificates,
    to: Option<&ClientCertificates>,
    now: Timestamp,
    rules: &mut Rules,
) {
    let Some(to) = to else {
        return rules.push(("client_certificates", "asks clients for no certificate".into()));
    };
    let (from, to) = (&from.options, &to.options);
    if from.mode == ClientAuthMode::Required && to.mode == ClientAuthMode::Optional {
        rules.push(("client_certificates.mode", "admits clients without a certificate".into()));
    }
    // An authority that is gone only narrows.
    let known = &from.roots.roots;
    let new = to.roots.roots.iter().filter(|root| !known.contains(root)).count();
    if new > 0 {
        rules.push(("client_certificates.ca", format!("trusts {new} more authorities")));
    }
    if !from.crls.is_empty() && to.crls.is_empty() {
        rules.push(("client_certificates.crl", "checks no revocation list any more".into()));
    }
    if from.enforces_crl_expiry && !to.enforces_crl_expiry {
        rules.push(("client_certificates.on_expired", "uses expired revocation lists".into()));
    }
    let freed = from.revoked.missing_in(&to.revoked, now);
    if freed > 0 {
        let what = format!("{freed} serial numbers are revoked no more");
        rules.push(("client_certificates.revoked_serials", what));
    }
}

/// Notes the peers that may name clients now and could not before.
fn compare_peers(
    key: &'static str,
    from: Option<&PeerList>,
    to: Option<&PeerList>,
    rules: &mut Rules,
) {
    let patterns = |list: Option<&PeerList>| -> Vec<_> {
        list.into_iter().flat_map(|list| list.iter()).collect()
    };
    let (from, to) = (patterns(from), patterns(to));
    let addresses = |all: &[PeerPattern]| {
        AddressSet::of_networks(all.iter().filter_map(|pattern| match pattern {
            PeerPattern::Network(network) => Some(*network),
            PeerPattern::Unix | PeerPattern::UnixUid(_) => None,
        }))
    };
    let new = addresses(&to).without(&addresses(&from));
    let mut named: Vec<_> =
        new.largest_networks(MAX_NAMED_NETWORKS).iter().map(ToString::to_string).collect();
    let is_user = |pattern: &&PeerPattern| !matches!(pattern, PeerPattern::Network(_));
    let users = to.iter().filter(is_user);
    let users = users.filter(|new| !from.iter().any(|old| old.contains(**new)));
    named.extend(users.map(ToString::to_string));
    let more = new.networks_len().saturating_sub(MAX_NAMED_NETWORKS);
    if more > 0 {
        named.push(format!("{more} more networks"));
    }
    if !named.is_empty() {
        rules
            .push((key, format!("believes {}, whose peers may name any client", named.join(", "))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ipnet::IpNet;

    use crate::policy::AllowRule;
    use crate::policy::limit::Limits;
    use crate::policy::list::{List, ListEntry};
    use crate::policy::route::{HostPattern, PathPattern, Routes};
    use crate::policy::subject::Ingress;
    use crate::snapshot::listener::ListenerTimeouts;
    use crate::snapshot::tests::{generation, policy, route};

    /// A policy that admits `network` alone.
    fn admitting(name: &str, network: &str) -> Arc<Policy> {
        let entry = ListEntry::parse(network).unwrap().unwrap();
        let list = List::new("list", "file", vec![(entry, 1)]).unwrap();
        let allow = AllowRule::Lists(vec![Arc::new(list)]);
        Arc::new(Policy { name: name.into(), allow, ..policy(&[], &Limits::default()) })
    }

    /// A generation whose routes are named by their place: `HOST/PATH` and the network admitted.
    fn routed(routes: &[(&str, &str)]) -> Snapshot {
        let mut table = Vec::new();
        for (at, network) in routes {
            let (host, path) = at.split_at(at.find('/').unwrap());
            let route = route(at, path, &admitting(network, network));
            table.push((
                HostPattern::parse(host).unwrap(),
                PathPattern::parse(path).unwrap(),
                route,
            ));
        }
        let route_list = table.iter().map(|(_, _, route)| Arc::clone(route)).collect();
        let base = generation(1, policy(&[], &Limits::default()), None);
        Snapshot { routes: Routes::new(table).unwrap(), route_list, ..base }
    }

    /// `route: networks` of each group of routes, then `kind name key: what` of each rule.
    fn check(from: &Snapshot, to: &Snapshot, expected: &[&str]) {
        let now = Timestamp::UNIX_EPOCH;
        let found = widening(from, to, now);
        let clients = found.clients.iter().map(|one| {
            let networks = one.admitted.addresses.largest_networks(9);
            let networks: Vec<_> = networks.iter().map(IpNet::to_string).collect();
            format!("{}: {}", one.routes.join(" "), networks.join(" "))
        });
        let rules = found.rules.iter().map(|part| {
            let WiderRule { key, what } = &part.rule;
            format!("{} {} {key}: {what}", part.kind.word(), part.name)
        });
        assert_eq!(clients.chain(rules).collect::<Vec<_>>(), expected);
        assert_eq!(widening(to, to, now), Widening::default());
    }

    #[test]
    fn routes_are_compared_by_the_requests_that_they_serve() {
        let old = routed(&[("a.example/", "10.0.0.0/8")]);
        check(&old, &routed(&[("a.example/", "10.0.0.0/9")]), &[]);
        check(&old, &routed(&[("a.example/", "10.0.0.0/7")]), &["a.example/: 11.0.0.0/8"]);
        check(&old, &routed(&[("a.example/", "10.0.0.0/8"), ("a.example/x", "10.0.0.0/8")]), &[]);
        check(
            &old,
            &routed(&[("a.example/", "10.0.0.0/8"), ("b.example/x", "10.0.0.0/8")]),
            &["b.example/x: 10.0.0.0/8", "route b.example/x path: is new"],
        );
    }

    #[test]
    fn route_that_goes_leaves_its_requests_to_a_wider_one() {
        let old = routed(&[("*/", "0.0.0.0/0"), ("a.example/admin/", "10.0.0.0/8")]);
        check(
            &old,
            &routed(&[("*/", "0.0.0.0/0")]),
            &["*/: 128.0.0.0/1 64.0.0.0/2 32.0.0.0/3 16.0.0.0/4 0.0.0.0/5 12.0.0.0/6 \
                 8.0.0.0/7 11.0.0.0/8"],
        );
        let below = routed(&[("*.example/", "192.0.2.0/24"), ("a.example/", "10.0.0.0/8")]);
        check(&below, &routed(&[("*.example/", "192.0.2.0/24")]), &["*.example/: 192.0.2.0/24"]);
    }

    #[test]
    fn baseline_counts_on_every_route() {
        let with = |denied: &[&str]| {
            let baseline = Policy { name: "baseline".into(), ..policy(denied, &Limits::default()) };
            let routes = routed(&[("*/a/", "10.0.0.0/8"), ("*/b/", "192.0.2.0/24")]);
            Snapshot { baseline: Some(Arc::new(baseline)), ..routes }
        };
        let (tight, loose) = (with(&["10.1.0.0/16", "192.0.2.1"]), with(&["10.1.0.0/17"]));
        check(&tight, &loose, &["*/a/: 10.1.128.0/17", "*/b/: 192.0.2.1/32"]);
        let found = widening(&tight, &loose, Timestamp::UNIX_EPOCH);
        assert_eq!((found.patterns_len(), found.addresses().ipv4_len()), (2, 32_769));
        check(&loose, &tight, &[]);
    }

    fn peers(patterns: &[&str]) -> Option<PeerList> {
        Some(PeerList::new(patterns.iter().map(|pattern| match *pattern {
            "unix" => PeerPattern::Unix,
            network => PeerPattern::Network(network.parse().unwrap()),
        })))
    }

    #[test]
    fn peers_that_may_name_clients_are_compared_as_networks() {
        let said = |from: Option<PeerList>, to: Option<PeerList>| {
            let mut rules = Vec::new();
            compare_peers("forwarded.from", from.as_ref(), to.as_ref(), &mut rules);
            rules.pop().map(|(_, what)| what)
        };
        let both = ["10.0.0.0/9", "10.128.0.0/9"];
        assert_eq!(said(peers(&["10.0.0.0/8", "unix"]), peers(&both)), None);
        assert_eq!(said(peers(&both), None), None);
        let wider = said(peers(&["10.0.0.0/8"]), peers(&["10.0.0.0/7", "unix"])).unwrap();
        assert_eq!(wider, "believes 11.0.0.0/8, unix, whose peers may name any client");
        assert!(said(None, peers(&["192.0.2.1/32"])).unwrap().contains("192.0.2.1/32"));
    }

    fn plain_listener(address: &str) -> ListenerRules {
        let listener = Listener {
            name: "web".into(),
            address: ListenAddress::Tcp(address.parse().unwrap()),
            protocol: Protocol::Plain,
            public_port: None,
            client_certificates: None,
            max_head: 8192,
            max_fields: 100,
            max_connections: None,
            pending_per_client: 9,
            handshakes_per_client: None,
            proxy_protocol: None,
            forwarded: None,
            timeouts: ListenerTimeouts::default(),
        };
        let ingress = Ingress {
            listener: "web".into(),
            named_by: None,
            certificate: None,
            verified_by: 0.into(),
        };
        ListenerRules { listener: Arc::new(listener), tls: None, ingress: Arc::new(ingress) }
    }

    #[test]
    fn listener_is_compared_by_its_name() {
        let of = |address: Option<&str>| {
            let listeners = address.map(|address| ("web".into(), plain_listener(address)));
            Snapshot { listeners: listeners.into_iter().collect(), ..routed(&[]) }
        };
        let local = of(Some("127.0.0.1:80"));
        check(&of(None), &local, &["listener web listen: is new, at 127.0.0.1:80"]);
        check(&local, &of(Some("127.0.0.1:81")), &[]);
        let public = of(Some("0.0.0.0:80"));
        let said = "listener web listen: is at 0.0.0.0:80 instead of 127.0.0.1:80";
        check(&local, &public, &[said]);
        check(&public, &local, &[]);
    }
}

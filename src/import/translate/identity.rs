//! Who the client is: `proxy_protocol` and `forwarded` of a listener, and where nginx judges
//! another address.
//!
//! A listener has one rule for all requests; nginx has one for each server and location. The rule
//! is carried over where all of them agree. Otherwise the listener judges its peers, and a note
//! names each location that admits or refuses another client for that.

use ipnet::IpNet;

use crate::import::access::{
    AccessRule, AccessSubject, admits_beyond, admits_some, decide, decide_users, mapped_refusals,
};
use crate::import::nginx::limit::{ZoneKey, Zones};
use crate::import::nginx::location::{Location, LocationHandler};
use crate::import::nginx::real_ip::{
    ClientSource, ListenTraits, RealIpHeader, RealIpSettings, TrustedPeers,
};
use crate::import::nginx::server::Server;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::DirectiveOutcome;
use crate::import::translate::socket::NginxSocket;
use crate::import::tree::DirectiveId;
use sidegate::policy::peers::PeerPattern;

const NAMES_ALONE: &str = "Names of peers are not looked up: write their addresses";

/// How one listener finds the client of a request.
#[derive(Debug)]
pub struct ListenerIdentity {
    /// Name of the listener.
    listener: String,
    /// The `listen` directives behind it.
    ids: Vec<DirectiveId>,
    /// Kind of its peers, and whether they send PROXY headers.
    kind: ListenTraits,
    /// Whether nginx knows IPv4 peers by IPv4-mapped addresses.
    mapped: bool,
    /// Whether nginx asks each peer for a PROXY header. `None` means: of one address family only.
    proxy_protocol: Option<bool>,
    /// From where nginx takes the address. `None` means that servers or locations differ.
    source: Option<ClientSource>,
    /// Peers of the key `proxy_protocol`. Empty means no key.
    pub proxies: Vec<PeerPattern>,
    /// Peers of the key `forwarded`, whose header is `x-forwarded-for`. Empty means no key.
    pub forwarders: Vec<PeerPattern>,
}

/// A note on how a listener's client differs from that of nginx.
#[derive(Debug)]
pub struct IdentityNote {
    /// The directives that cause the difference.
    pub ids: Vec<DirectiveId>,
    /// The outcome of these directives.
    pub word: DirectiveOutcome,
    /// What differs, and what to write instead.
    pub text: String,
    /// The requests that differ.
    pub extent: NoteExtent,
}

/// The requests that a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteExtent {
    /// The requests that come to the location.
    Location,
    /// All requests of connections to the server, also requests that nginx answers by itself.
    Server,
}

/// A location of nginx, with all that decides about its clients.
#[derive(Clone, Copy)]
pub struct JudgedLocation<'n> {
    /// The server around it.
    pub server: &'n Server,
    /// The location whose rules judge.
    pub location: &'n Location,
    /// The zones in which its limits count.
    pub zones: &'n Zones,
}

impl ListenerIdentity {
    /// Finds the rule of the listener that is made from `socket`.
    pub fn new(nginx: &HttpBlock, socket: &NginxSocket, listener: String) -> ListenerIdentity {
        let kind = ListenTraits {
            is_unix: socket.address.is_unix(),
            proxy_protocol: socket.proxy_protocol == Some(true),
        };
        let servers = || socket.servers.iter().map(|server| &nginx.servers[*server]);
        // A catch-all that answers by itself judges no client. At a socket of redirects all do so.
        let passes = servers().any(Server::proxies);
        let judging = servers().filter(|server| server.proxies() || !passes);
        // The level of the server counts too: `ngx_http_realip_module` runs in the POST_READ phase,
        // before a location is chosen, and again in PREACCESS.
        let mut sources = judging.flat_map(levels).map(|level| ClientSource::of(level, kind));
        let first = sources.next().unwrap_or(ClientSource::Peer);
        let source = sources.all(|other| other == first).then_some(first);
        let (mut proxies, mut forwarders) = (Vec::new(), Vec::new());
        match &source {
            Some(ClientSource::ProxyHeader(from)) => proxies = from.listed.clone(),
            // Left out where PROXY headers come as well: Sidegate's walk begins at the client of
            // the PROXY header, that of nginx at the peer of the connection.
            Some(ClientSource::Field { header, from, .. })
                if is_x_forwarded_for(header)
                    && socket.proxy_protocol == Some(false)
                    && everyone(&from.listed).is_none() =>
            {
                forwarders = from.listed.clone();
            }
            Some(ClientSource::Peer | ClientSource::Field { .. }) | None => {}
        }
        ListenerIdentity {
            listener,
            ids: socket.ids.clone(),
            kind,
            mapped: socket.mapped,
            proxy_protocol: socket.proxy_protocol,
            source,
            proxies,
            forwarders,
        }
    }

    /// Returns what differs for the clients of a location.
    pub fn notes(&self, at: JudgedLocation<'_>) -> Vec<IdentityNote> {
        let mut notes = Vec::new();
        // `None` as well: in one of the two families nginx waits for a header.
        if self.proxy_protocol != Some(false) {
            self.note_header(at, &mut notes);
        }
        let source = |level| ClientSource::of(level, self.kind);
        let outer = source(&at.server.settings.real_ip);
        let inner = source(&at.location.settings.real_ip);
        let from = outer.from().and(inner.from());
        self.note_mapped(at, &from, &mut notes);
        let ids = at.directives();
        match &self.source {
            _ if from.is_empty() => self.note_unused(at, &mut notes),
            Some(ClientSource::ProxyHeader(_)) if !self.proxies.is_empty() => {
                let text = format!("`proxy_protocol.from` of the listener `{}`", self.listener);
                let word = DirectiveOutcome::Carried;
                notes.push(IdentityNote { ids, word, text, extent: NoteExtent::Location });
                self.note_names(at, &from, &mut notes);
            }
            Some(ClientSource::Field { header, recursive, .. }) if !self.forwarders.is_empty() => {
                let text = format!(
                    "`forwarded` of the listener `{}`; an element of the header that is no address \
                     is answered 400, and some that nginx can't read, as `[2001:db8::5]`, are \
                     addresses, where nginx judged the peer",
                    self.listener
                );
                let word = DirectiveOutcome::Differs;
                notes.push(IdentityNote { ids, word, text, extent: NoteExtent::Location });
                self.note_chains(at, header, *recursive, &from, &mut notes);
                self.note_names(at, &from, &mut notes);
            }
            Some(ClientSource::Field { header, .. }) => {
                let why = self.reason(header, &from);
                notes.extend(not_carried(at, &from, ids, &why));
            }
            Some(ClientSource::ProxyHeader(_)) => {
                notes.extend(not_carried(at, &from, ids, NAMES_ALONE));
            }
            Some(ClientSource::Peer) | None => {
                let why = format!(
                    "the listener `{}` has one rule, and servers or locations there differ",
                    self.listener
                );
                notes.extend(not_carried(at, &from, ids, &why));
            }
        }
        notes
    }

    /// Notes whether a listener that only redirects takes PROXY headers.
    pub fn note_redirects(&self, context: &mut ImportContext<'_>) {
        let (word, text) = match (self.proxy_protocol, self.proxies.is_empty()) {
            (Some(false), _) => return,
            (_, true) => (DirectiveOutcome::Closes, self.reason_without_header()),
            (_, false) => (
                DirectiveOutcome::Differs,
                format!(
                    "`proxy_protocol` of the listener `{}`: others than the peers of \
                     `set_real_ip_from` are redirected without a PROXY header and refused with one",
                    self.listener
                ),
            ),
        };
        for id in &self.ids {
            context.notes.add(*id, word, text.clone());
        }
    }

    /// Notes rules about IPv6 that refuse IPv4 clients by IPv4-mapped addresses, which the listener
    /// folds to IPv4. `from` are the peers that may name such an address.
    fn note_mapped(
        &self,
        at: JudgedLocation<'_>,
        from: &TrustedPeers,
        notes: &mut Vec<IdentityNote>,
    ) {
        // A rule sees a mapped address as the peer of an IPv6 socket, or out of a header.
        if !self.mapped && from.is_empty() {
            return;
        }
        let ids = mapped_refusals(at.rules());
        let text = format!(
            "no rule is about IPv4, so nginx refuses IPv4-mapped addresses (::ffff:0:0/96) by this \
             one. The listener `{}` judges those as IPv4 clients, and admits them. Write a rule \
             about IPv4, such as `deny 0.0.0.0/0`, and import again",
            self.listener
        );
        notes.extend(graded(ids, true, false, &text));
    }

    /// Notes which connections need a PROXY header.
    fn note_header(&self, at: JudgedLocation<'_>, notes: &mut Vec<IdentityNote>) {
        let mut note = |word, text: String| {
            let (ids, extent) = (self.ids.clone(), NoteExtent::Server);
            notes.push(IdentityNote { ids, word, text, extent });
        };
        if self.proxies.is_empty() {
            // nginx closes a connection without a valid PROXY header before any rule is judged.
            // Where the rules refuse every peer, serving such a connection opens nothing.
            if self.admits_peer(at, &[]) {
                let text = "nginx asks each peer for a PROXY header, and here a connection without \
                            one is served";
                note(DirectiveOutcome::Opens, text.into());
                note(DirectiveOutcome::Closes, self.reason_without_header());
            }
            return;
        }
        let text = format!("`proxy_protocol` of the listener `{}`", self.listener);
        note(DirectiveOutcome::Carried, text);
        if self.admits_peer(at, &self.proxies) {
            let text = "nginx asks each peer for a PROXY header; here a peer that is in no \
                        `set_real_ip_from` is served without one";
            note(DirectiveOutcome::Opens, text.into());
            let text = "a PROXY header of a peer that is in no `set_real_ip_from` closes its \
                        connection, where nginx judged the peer";
            note(DirectiveOutcome::Closes, text.into());
        }
    }

    /// Says why connections with a PROXY header are refused.
    fn reason_without_header(&self) -> String {
        let refused = "a connection with a PROXY header is refused";
        match (&self.source, self.proxy_protocol) {
            (Some(ClientSource::Peer), Some(true)) => format!(
                "{refused}: nginx asks every peer for one and believes none. List the balancers \
                 by `set_real_ip_from`, with `real_ip_header proxy_protocol`, and import again"
            ),
            (_, None) => format!(
                "{refused}: nginx asks for one in one address family alone, and one listener \
                 serves both"
            ),
            (None, _) => {
                format!("{refused}: servers or locations there take the client from elsewhere")
            }
            (Some(ClientSource::ProxyHeader(_)), _) => format!("{refused}. {NAMES_ALONE}"),
            (Some(_), _) => format!(
                "{refused}: nginx takes the client from a header of the request, and Sidegate \
                 would begin at the client that the PROXY header names"
            ),
        }
    }

    /// Notes directives that name no client of this listener.
    fn note_unused(&self, at: JudgedLocation<'_>, notes: &mut Vec<IdentityNote>) {
        let settings = [&at.server.settings.real_ip, &at.location.settings.real_ip];
        let is_inert = settings.iter().any(|level| !level.from.is_empty());
        let text = if is_inert {
            format!(
                "no peer of the listener `{}` is judged by it: nginx takes the address of the \
                 connection",
                self.listener
            )
        } else {
            "without a `set_real_ip_from` nginx trusts no peer".to_owned()
        };
        let (ids, word) = (at.directives(), DirectiveOutcome::Dropped);
        if !ids.is_empty() {
            notes.push(IdentityNote { ids, word, text, extent: NoteExtent::Location });
        }
    }

    /// Notes where the walk through the header finds another address than nginx.
    fn note_chains(
        &self,
        at: JudgedLocation<'_>,
        header: &RealIpHeader,
        recursive: bool,
        from: &TrustedPeers,
        notes: &mut Vec<IdentityNote>,
    ) {
        let ids = at.deciding();
        // Peers at a Unix socket are no addresses of the header.
        let is_address = |peer: &&PeerPattern| matches!(peer, PeerPattern::Network(_));
        let listed: Vec<_> = from.listed.iter().filter(is_address).copied().collect();
        if !recursive && !listed.is_empty() {
            // Only chains that end at a listed proxy differ: nginx takes their last element, and
            // Sidegate walks on to the left of it.
            let from = &TrustedPeers { listed, named: Vec::new() };
            let opens = at.admits_some() && (at.refuses_some_of(from) || at.counts_clients());
            let closes = at.refuses_some() && at.admits_some_of(from);
            let text = "`real_ip_recursive` is off: nginx judges the last address of the header, \
                        and Sidegate passes over listed ones. A client inside of \
                        `set_real_ip_from` can then name any other address, as it can in nginx \
                        with `real_ip_recursive on`";
            notes.extend(graded(ids.clone(), opens, closes, text));
        }
        if let RealIpHeader::FirstXForwardedFor(name) = header {
            let text = format!(
                "nginx reads only the first line of `{name}` if it is spelled so, and Sidegate \
                 all lines, the last one first. Write `X-Forwarded-For` for that"
            );
            let any = at.admits_some() && (at.refuses_some() || at.counts_clients());
            notes.extend(graded(ids, any, false, &text));
        }
    }

    /// Notes names of peers, whose addresses are not known here.
    fn note_names(
        &self,
        at: JudgedLocation<'_>,
        from: &TrustedPeers,
        notes: &mut Vec<IdentityNote>,
    ) {
        if from.named.is_empty() {
            return;
        }
        let unsure = at.admits_some() && at.refuses_some();
        let text = format!(
            "names of peers are not looked up: {} is not listed, and judged itself. Write its \
             address and import again",
            from.named.join(", ")
        );
        notes.extend(graded(at.deciding(), unsure, false, &text));
    }

    /// Says why a header can't be carried over.
    fn reason(&self, header: &RealIpHeader, from: &TrustedPeers) -> String {
        match header {
            RealIpHeader::Other(name) => format!(
                "`forwarded` reads X-Forwarded-For or Forwarded (RFC 7239), not {name}, in which a \
                 value that a client wrote looks like that of its proxy. Let the proxies set \
                 X-Forwarded-For"
            ),
            _ if self.proxy_protocol != Some(false) => {
                "`forwarded` begins at the client that the PROXY header names".into()
            }
            _ => match everyone(&from.listed) {
                Some(everyone) => format!(
                    "`forwarded` takes no {everyone}, which would let every client name any \
                     address. List the proxies alone"
                ),
                None => NAMES_ALONE.into(),
            },
        }
    }

    /// Returns whether a location admits a peer of this listener that is not in `listed`, by its
    /// own address.
    fn admits_peer(&self, at: JudgedLocation<'_>, listed: &[PeerPattern]) -> bool {
        let rules = &at.location.settings.access;
        if self.kind.is_unix {
            return !listed.contains(&PeerPattern::Unix) && decide_users(rules).admits;
        }
        admits_some(&[rules_for(listed, false), rules.clone()].concat())
    }
}

/// Returns the word and the directives for an address that nginx takes from elsewhere, while the
/// listener judges each peer of `from` itself.
fn not_carried(
    at: JudgedLocation<'_>,
    from: &TrustedPeers,
    ids: Vec<DirectiveId>,
    why: &str,
) -> Option<IdentityNote> {
    // A name may resolve to any address, so its peer counts as admitted and as refused.
    let is_unsure = !from.named.is_empty();
    // The clients of one peer share its budget, and a client has one behind each peer.
    let (shares, spreads) = (at.counts_clients(), at.counts_clients() && !is_one(from));
    let admits = at.admits_some_of(from) || is_unsure && at.admits_some();
    let opens = at.refuses_some() && admits || spreads && at.admits_some();
    let refuses = at.refuses_some_of(from) || is_unsure && at.refuses_some();
    let closes = at.admits_some() && (refuses || shares);
    let text = format!(
        "not carried over: behind such a peer each client is judged, counted and told to the \
         backend as that peer. {why}"
    );
    graded(ids, opens, closes, &text)
}

/// Returns a note with the gravest word that holds.
fn graded(ids: Vec<DirectiveId>, opens: bool, closes: bool, text: &str) -> Option<IdentityNote> {
    let word = match (opens, closes) {
        (true, _) => DirectiveOutcome::Opens,
        (false, true) => DirectiveOutcome::Closes,
        (false, false) => DirectiveOutcome::Differs,
    };
    let (text, extent) = (text.to_owned(), NoteExtent::Location);
    (!ids.is_empty()).then_some(IdentityNote { ids, word, text, extent })
}

impl JudgedLocation<'_> {
    /// Returns the directives that say from where the client's address is taken.
    fn directives(self) -> Vec<DirectiveId> {
        let outer = self.server.settings.real_ip.directives();
        let mut ids: Vec<_> = outer.chain(self.location.settings.real_ip.directives()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Returns the directive to change for another walk through the header.
    fn deciding(self) -> Vec<DirectiveId> {
        let settings = &self.location.settings.real_ip;
        let header = settings.header.as_ref().map(|set| set.id);
        settings.recursive.map(|set| set.id).or(header).into_iter().collect()
    }

    fn rules(&self) -> &[AccessRule] {
        &self.location.settings.access
    }

    /// Returns whether a client that a header can name is admitted.
    fn admits_some(self) -> bool {
        admits_some(self.rules())
    }

    /// Returns whether a client that a header can name is refused.
    fn refuses_some(self) -> bool {
        decide(self.rules()).iter().any(|one| !one.admits)
    }

    /// Returns whether one of these peers is admitted by its own address.
    fn admits_some_of(self, from: &TrustedPeers) -> bool {
        // The first match decides, so a leading rule for these peers overrides all others. If
        // refusing them shuts out a client, the rules admitted that client.
        let without = [rules_for(&from.listed, false), self.rules().to_vec()].concat();
        admits_beyond(self.rules(), &without)
            || from.listed.contains(&PeerPattern::Unix) && decide_users(self.rules()).admits
    }

    /// Returns whether one of these peers is refused by its own address.
    fn refuses_some_of(self, from: &TrustedPeers) -> bool {
        let with = [rules_for(&from.listed, true), self.rules().to_vec()].concat();
        admits_beyond(&with, self.rules())
            || from.listed.contains(&PeerPattern::Unix) && !decide_users(self.rules()).admits
    }

    /// Returns whether a limit counts each client by its address.
    fn counts_clients(self) -> bool {
        let settings = &self.location.settings;
        let rates = settings.rates.iter().filter_map(|rate| self.zones.rate(&rate.zone));
        let counts = settings.counts.iter().filter_map(|count| self.zones.count(&count.zone));
        // `dry_run` only logs what a limit would refuse, so its zone divides no budget.
        let rates = rates.filter(|_| settings.dry_rates != Some(true));
        let counts = counts.filter(|_| settings.dry_counts != Some(true));
        rates.chain(counts).any(|zone| zone.key == ZoneKey::Client)
    }
}

/// Returns rules that admit or refuse the networks of `peers`.
fn rules_for(peers: &[PeerPattern], admits: bool) -> Vec<AccessRule> {
    let rule = |network: IpNet| AccessRule {
        id: DirectiveId::default(),
        admits,
        whom: AccessSubject::Network(network),
    };
    peers.iter().filter_map(network).map(rule).collect()
}

/// Yields the levels of a server at which nginx may take an address for a request that it passes
/// on.
fn levels(server: &Server) -> impl Iterator<Item = &RealIpSettings> {
    // Other locations answer without a backend, and none of their rules becomes a policy.
    let passes = |location: &&Location| {
        matches!(location.serves, LocationHandler::Proxy(_) | LocationHandler::Named(..))
    };
    let locations =
        server.locations.iter().filter(passes).map(|location| &location.settings.real_ip);
    std::iter::once(&server.settings.real_ip).chain(locations)
}

fn is_x_forwarded_for(header: &RealIpHeader) -> bool {
    matches!(header, RealIpHeader::XForwardedFor | RealIpHeader::FirstXForwardedFor(_))
}

/// Returns whether it is one peer.
fn is_one(from: &TrustedPeers) -> bool {
    match &from.listed[..] {
        [PeerPattern::Network(network)] => {
            from.named.is_empty() && network.prefix_len() == network.max_prefix_len()
        }
        [_] => from.named.is_empty(),
        _ => false,
    }
}

/// Returns the family whose addresses are all in `peers`, which `forwarded` refuses. Two halves are
/// a whole.
fn everyone(peers: &[PeerPattern]) -> Option<IpNet> {
    let networks: Vec<_> = peers.iter().filter_map(network).collect();
    IpNet::aggregate(&networks).into_iter().find(|network| network.prefix_len() == 0)
}

fn network(peer: &PeerPattern) -> Option<IpNet> {
    match peer {
        PeerPattern::Network(network) => Some(*network),
        PeerPattern::Unix | PeerPattern::UnixUid(_) => None,
    }
}

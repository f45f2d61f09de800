//! `set_real_ip_from`, `real_ip_header` and `real_ip_recursive`: from where nginx takes the address
//! of a client.
//!
//! Reads `ngx_http_realip_module`, and compares nothing. nginx replaces the address of a listed
//! peer once for each request: by the settings of the server, else by those of the location.

use sidegate::policy::peers::PeerPattern;

use crate::import::access::{is_mapped, network};
use crate::import::nginx::setting::Setting;
use crate::import::tree::DirectiveId;

/// The three directives as they hold at one level.
#[derive(Debug, Clone, Default)]
pub struct RealIpSettings {
    /// `set_real_ip_from`, inherited as a whole.
    pub from: Vec<Setting<TrustedPeer>>,
    /// `real_ip_header`. `None` means nginx' default, `X-Real-IP`.
    pub header: Option<Setting<RealIpHeader>>,
    /// Whether `real_ip_recursive` is on. `None` means nginx' default, off.
    pub recursive: Option<Setting<bool>>,
}

impl RealIpSettings {
    /// Returns these settings, completed by those of the level around; each directive is inherited
    /// by itself.
    pub fn inherit(self, outer: &RealIpSettings) -> RealIpSettings {
        RealIpSettings {
            // An array in nginx: a level with one directive of its own inherits none of the outer
            // ones (`ngx_http_realip_merge_loc_conf`).
            from: if self.from.is_empty() { outer.from.clone() } else { self.from },
            header: self.header.or_else(|| outer.header.clone()),
            recursive: self.recursive.or(outer.recursive),
        }
    }

    /// Yields the directives behind the settings.
    pub fn directives(&self) -> impl Iterator<Item = DirectiveId> + '_ {
        let header = self.header.as_ref().map(|set| set.id);
        let recursive = self.recursive.map(|set| set.id);
        self.from.iter().map(|set| set.id).chain(header).chain(recursive)
    }
}

/// A peer of `set_real_ip_from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedPeer {
    /// Peers that a Sidegate listener can list as well.
    Listed(PeerPattern),
    /// A name, whose addresses nginx looks up when it starts.
    Named(String),
    /// IPv4-mapped addresses. nginx folds those of peers, so that none is ever found here.
    Nobody,
}

impl TrustedPeer {
    /// Parses the word after `set_real_ip_from`.
    pub fn parse(text: &str) -> TrustedPeer {
        // nginx tries the word as a network (`ngx_ptocidr`) before it resolves it as a name.
        match network(text) {
            Some(network) if is_mapped(network) => TrustedPeer::Nobody,
            Some(network) => TrustedPeer::Listed(PeerPattern::Network(network)),
            None if text == "unix:" => TrustedPeer::Listed(PeerPattern::Unix),
            None => TrustedPeer::Named(text.to_owned()),
        }
    }
}

/// The value of `real_ip_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealIpHeader {
    /// `X-Forwarded-For`, in this spelling: nginx reads all of its lines, the last one first.
    XForwardedFor,
    /// `X-Forwarded-For` in another spelling: nginx reads its first line only.
    FirstXForwardedFor(String),
    /// `proxy_protocol`: the client that the PROXY header of the connection names.
    ProxyProtocol,
    /// Any other header, with its name.
    Other(String),
}

impl RealIpHeader {
    /// Returns the header of a level without the directive.
    fn default_header() -> RealIpHeader {
        RealIpHeader::Other("X-Real-IP".to_owned())
    }

    /// Parses the word after `real_ip_header`.
    pub fn parse(text: &str) -> RealIpHeader {
        // nginx compares by `strcmp`, so only this spelling selects the reader of all lines.
        // Another spelling makes it a generic header, of which the first line counts.
        match text {
            "X-Forwarded-For" => RealIpHeader::XForwardedFor,
            "proxy_protocol" => RealIpHeader::ProxyProtocol,
            text if text.eq_ignore_ascii_case("x-forwarded-for") => {
                RealIpHeader::FirstXForwardedFor(text.to_owned())
            }
            text => RealIpHeader::Other(text.to_owned()),
        }
    }
}

/// From where nginx takes the address of a client at one level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientSource {
    /// The connection: the client is its peer.
    Peer,
    /// The PROXY header of the connection, if its peer is listed.
    ProxyHeader(TrustedPeers),
    /// A header of the request, if its peer is listed.
    Field {
        /// The header that names the client.
        header: RealIpHeader,
        /// Whether listed addresses in the header are passed over.
        recursive: bool,
        /// The peers whose header is believed.
        from: TrustedPeers,
    },
}

/// The properties of a socket that decide from where an address can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenTraits {
    /// Whether its peers are users of this host, who have no address.
    pub is_unix: bool,
    /// Whether its connections begin with a PROXY header.
    pub proxy_protocol: bool,
}

impl ClientSource {
    /// Returns the source at the level `settings`, for connections to a socket.
    pub fn of(settings: &RealIpSettings, socket: ListenTraits) -> ClientSource {
        let from = TrustedPeers::of(settings).at(socket);
        let set = settings.header.as_ref().map(|set| set.value.clone());
        let header = set.unwrap_or_else(RealIpHeader::default_header);
        let recursive = settings.recursive.is_some_and(|set| set.value);
        // Without a trusted peer the handler declines, whatever `real_ip_header` says.
        match header {
            _ if from.is_empty() => ClientSource::Peer,
            RealIpHeader::ProxyProtocol if socket.proxy_protocol => ClientSource::ProxyHeader(from),
            // Without `proxy_protocol` on the socket no header is read, and the handler declines.
            RealIpHeader::ProxyProtocol => ClientSource::Peer,
            header => ClientSource::Field { header, recursive, from },
        }
    }

    /// Returns the peers that it believes; none of `Peer`.
    pub fn from(&self) -> TrustedPeers {
        match self {
            ClientSource::Peer => TrustedPeers::default(),
            ClientSource::ProxyHeader(from) | ClientSource::Field { from, .. } => from.clone(),
        }
    }
}

/// The peers of `set_real_ip_from`, in an order that doesn't depend on that of the directives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedPeers {
    /// Peers that a Sidegate listener can list as well.
    pub listed: Vec<PeerPattern>,
    /// Names, whose addresses are not known here.
    pub named: Vec<String>,
}

impl TrustedPeers {
    fn of(settings: &RealIpSettings) -> TrustedPeers {
        let mut peers = TrustedPeers::default();
        for peer in &settings.from {
            peers.add(&peer.value);
        }
        peers.sort();
        peers
    }

    /// Returns the peers of these that can connect to a socket. An address is no peer at a Unix
    /// socket, and may still lie in a header.
    fn at(mut self, socket: ListenTraits) -> TrustedPeers {
        // The peer of a Unix socket matches `unix:` alone. Once it is trusted, addresses matter
        // again: the recursive walk through the header passes over them.
        let has_users = self.listed.contains(&PeerPattern::Unix);
        if !socket.is_unix {
            self.listed.retain(|peer| *peer != PeerPattern::Unix);
            self
        } else if has_users {
            self
        } else {
            TrustedPeers::default()
        }
    }

    fn add(&mut self, peer: &TrustedPeer) {
        match peer {
            TrustedPeer::Listed(pattern) => self.listed.push(*pattern),
            TrustedPeer::Named(name) => self.named.push(name.clone()),
            TrustedPeer::Nobody => {}
        }
    }

    fn sort(&mut self) {
        self.listed.sort_by_key(PeerPattern::to_string);
        self.listed.dedup();
        self.named.sort();
        self.named.dedup();
    }

    /// Returns the peers of both.
    pub fn and(mut self, other: TrustedPeers) -> TrustedPeers {
        self.listed.extend(other.listed);
        self.named.extend(other.named);
        self.sort();
        self
    }

    /// Returns whether no peer is believed.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.named.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::import::nginx::server;

    /// The source of the last location, and that of its server.
    fn sources(text: &str, proxy_protocol: bool) -> (ClientSource, ClientSource) {
        let server = server::parse(text);
        let location = server.locations.iter().max_by_key(|location| location.id).unwrap();
        let socket = ListenTraits { is_unix: text.contains("unix:"), proxy_protocol };
        let at = |settings: &RealIpSettings| ClientSource::of(settings, socket);
        (at(&server.settings.real_ip), at(&location.settings.real_ip))
    }

    fn shown(source: &ClientSource) -> String {
        let from = source.from();
        let listed: Vec<_> = from.listed.iter().map(PeerPattern::to_string).collect();
        let from = [listed, from.named].concat().join(" ");
        match source {
            ClientSource::Peer => "peer".to_owned(),
            ClientSource::ProxyHeader(_) => format!("proxy {from}"),
            ClientSource::Field { header, recursive, .. } => {
                format!("{header:?} {recursive} {from}")
            }
        }
    }

    #[track_caller]
    fn check(text: &str, server: &str, location: &str) {
        let (of_server, of_location) = sources(text, true);
        assert_eq!((&*shown(&of_server), &*shown(&of_location)), (server, location), "{text}");
    }

    #[test]
    fn levels_inherit_each_directive_by_itself() {
        let xff = "set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;";
        check(
            &format!("{xff} location / {{ real_ip_recursive on; }}"),
            "XForwardedFor false 10.0.0.0/8",
            "XForwardedFor true 10.0.0.0/8",
        );
        check(
            &format!("{xff} location / {{ set_real_ip_from 192.0.2.1; }}"),
            "XForwardedFor false 10.0.0.0/8",
            "XForwardedFor false 192.0.2.1",
        );
        check(
            &format!("{xff} location / {{ real_ip_header proxy_protocol; }}"),
            "XForwardedFor false 10.0.0.0/8",
            "proxy 10.0.0.0/8",
        );
        check(
            "real_ip_header proxy_protocol; location / { set_real_ip_from unix:; }",
            "peer",
            "proxy unix",
        );
    }

    #[test]
    fn header_without_a_trusted_peer_names_no_client() {
        check("real_ip_header X-Forwarded-For; location / {}", "peer", "peer");
        check("set_real_ip_from ::ffff:10.0.0.0/104; location / {}", "peer", "peer");
        let own = "Other(\"X-Real-IP\") false 10.0.0.1";
        check("set_real_ip_from 10.0.0.1; location / {}", own, own);
        let text = "set_real_ip_from 10.0.0.1; real_ip_header proxy_protocol; location / {}";
        assert_eq!(sources(text, false), (ClientSource::Peer, ClientSource::Peer));
    }

    #[test]
    fn peers_that_never_connect_to_a_socket_are_left_out() {
        let both = "set_real_ip_from unix:; set_real_ip_from 10.0.0.1; location / {}";
        let own = "Other(\"X-Real-IP\") false 10.0.0.1 unix";
        check(both, own, own);
        let at = |text: &str, is_unix| {
            let server = server::parse(text);
            let socket = ListenTraits { is_unix, proxy_protocol: false };
            shown(&ClientSource::of(&server.settings.real_ip, socket))
        };
        assert_eq!(at(both, false), "Other(\"X-Real-IP\") false 10.0.0.1");
        assert_eq!(at("set_real_ip_from unix:;", false), "peer");
        assert_eq!(at("set_real_ip_from 10.0.0.1; set_real_ip_from a.example;", true), "peer");
    }

    #[test]
    fn spelling_of_the_header_decides_how_it_is_read() {
        for (text, header) in [
            ("X-Forwarded-For", RealIpHeader::XForwardedFor),
            ("x-forwarded-for", RealIpHeader::FirstXForwardedFor("x-forwarded-for".into())),
            ("Proxy_Protocol", RealIpHeader::Other("Proxy_Protocol".into())),
            ("Forwarded", RealIpHeader::Other("Forwarded".into())),
        ] {
            assert_eq!(RealIpHeader::parse(text), header);
        }
    }

    #[test]
    fn order_and_repetition_of_peers_mean_nothing() {
        let text = "location /a/ { set_real_ip_from 10.0.0.1; set_real_ip_from proxy.example; } \
                    location / { set_real_ip_from proxy.example; set_real_ip_from 10.0.0.1; \
                    set_real_ip_from 10.0.0.1/32; }";
        let server = server::parse(text);
        let socket = ListenTraits { is_unix: false, proxy_protocol: false };
        let all: Vec<_> = server
            .locations
            .iter()
            .map(|location| ClientSource::of(&location.settings.real_ip, socket))
            .collect();
        assert_eq!(all[0], all[1]);
    }
}

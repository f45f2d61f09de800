//! Addresses by the role they play, and networks by longest prefix.
//!
//! A peer has an IP address, or is a user of this host at the other end of a Unix socket.
//! IPv4-mapped IPv6 is folded to IPv4 here, once, so that no other module meets both spellings of
//! one address. Names are never resolved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// The address at the other end of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(Address);

/// The address that a request is judged by: the peer's, or the address that a listed forwarder
/// named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(Address);

/// An address, never an IPv4-mapped one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Address {
    Ip(IpAddr),
    Unix(UnixUser),
}

/// The user that a process at the other end of a Unix socket runs as (`SO_PEERCRED`, unix(7)). It
/// displays as `unix:uid=33`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnixUser {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
}

/// The unit that limits count by: an IPv4 address, an IPv6 /64 (one host owns a whole one), an IPv6
/// address whose /64 has many hosts, or a user of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// The whole IPv4 address.
    V4(u32),
    /// The upper 64 bits of the address.
    V6(u64),
    /// The whole address, where [`host_length`] is 128.
    V6Host(CrowdedAddress),
    /// The user id of a peer at a Unix socket.
    Unix(u32),
}

/// An IPv6 address of a range in which a /64 has many hosts.
///
/// Its first 32 bits are kept as their range, so that a key takes 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CrowdedAddress {
    range: CrowdedRange,
    low: [u32; 3],
}

/// The first 32 bits of crowded addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum CrowdedRange {
    Zero,
    Translated,
    LinkLocal,
}

impl CrowdedRange {
    const fn of(first: u32) -> Option<CrowdedRange> {
        match first {
            0 => Some(CrowdedRange::Zero),
            0x0064_ff9b => Some(CrowdedRange::Translated),
            0xfe80_0000 => Some(CrowdedRange::LinkLocal),
            // The rest of fe80::/10, which no host uses (RFC 4291 §2.5.6).
            _ => None,
        }
    }

    const fn first(self) -> u32 {
        match self {
            CrowdedRange::Zero => 0,
            CrowdedRange::Translated => 0x0064_ff9b,
            CrowdedRange::LinkLocal => 0xfe80_0000,
        }
    }
}

impl CrowdedAddress {
    /// Returns `None` where the /64 of `address` counts as one host.
    const fn of(address: Ipv6Addr) -> Option<CrowdedAddress> {
        let bits = address.to_bits();
        match CrowdedRange::of((bits >> 96) as u32) {
            Some(range) if host_length(address) == 128 => {
                let low = [(bits >> 64) as u32, (bits >> 32) as u32, bits as u32];
                Some(CrowdedAddress { range, low })
            }
            _ => None,
        }
    }

    /// Returns the address with all of its bits.
    pub fn address(self) -> Ipv6Addr {
        let [one, two, three] = self.low.map(u128::from);
        let first = u128::from(self.range.first());
        Ipv6Addr::from_bits(first << 96 | one << 64 | two << 32 | three)
    }
}

/// Length of the network that counts as the host of `address`: 64, since one host owns a whole /64,
/// and 128 in the ranges where a /64 has many hosts.
///
/// These are the link-local fe80::/10, ::/96 with ::1, and the ranges of translators, with all of
/// IPv4 in a /64: 64:ff9b::/96 (RFC 6052), 64:ff9b:1::/48 (RFC 8215) and ::ffff:0:0:0/96.
pub const fn host_length(address: Ipv6Addr) -> u8 {
    let bits = address.to_bits();
    let is_crowded = bits >> 118 == 0xfe80 >> 6
        || bits >> 80 == 0x0064_ff9b_0001
        || matches!(bits >> 32, 0 | 0x0064_ff9b_0000_0000_0000_0000 | 0xffff_0000);
    if is_crowded { 128 } else { 64 }
}

impl Peer {
    /// Folds an IPv4-mapped address to IPv4 (RFC 4291 §2.5.5.2).
    pub const fn new(address: IpAddr) -> Self {
        Peer(Address::Ip(address.to_canonical()))
    }

    /// The peer at the other end of a Unix socket.
    pub const fn unix(user: UnixUser) -> Self {
        Peer(Address::Unix(user))
    }

    /// The client in the role of a peer: a proxy whose address another proxy names.
    pub const fn of_client(client: Client) -> Self {
        Peer(client.0)
    }

    /// The IP address, folded to IPv4 where it is mapped. `None` means a Unix socket.
    pub const fn ip(self) -> Option<IpAddr> {
        self.0.ip()
    }

    /// The user of this host. `None` means an IP address.
    pub const fn user(self) -> Option<UnixUser> {
        self.0.user()
    }
}

impl Client {
    /// Folds an IPv4-mapped address to IPv4 (RFC 4291 §2.5.5.2).
    pub const fn new(address: IpAddr) -> Self {
        Client(Address::Ip(address.to_canonical()))
    }

    /// The client of a peer that speaks for itself.
    pub const fn of_peer(peer: Peer) -> Self {
        Client(peer.0)
    }

    /// The IP address, folded to IPv4 where it is mapped. `None` means a user of this host.
    pub const fn ip(self) -> Option<IpAddr> {
        self.0.ip()
    }

    /// The user of this host. `None` means an IP address.
    pub const fn user(self) -> Option<UnixUser> {
        self.0.user()
    }

    /// The network that counts as this client, where it is more than one address.
    pub const fn network(self) -> Option<ClientKey> {
        match self.key() {
            key @ ClientKey::V6(_) => Some(key),
            ClientKey::V4(_) | ClientKey::V6Host(_) | ClientKey::Unix(_) => None,
        }
    }

    /// The key that limits count this client by.
    pub const fn key(self) -> ClientKey {
        match self.0 {
            Address::Ip(IpAddr::V4(address)) => ClientKey::V4(address.to_bits()),
            Address::Ip(IpAddr::V6(address)) => match CrowdedAddress::of(address) {
                Some(address) => ClientKey::V6Host(address),
                None => ClientKey::V6((address.to_bits() >> 64) as u64),
            },
            Address::Unix(user) => ClientKey::Unix(user.uid),
        }
    }
}

impl Address {
    const fn ip(self) -> Option<IpAddr> {
        match self {
            Address::Ip(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    const fn user(self) -> Option<UnixUser> {
        match self {
            Address::Ip(_) => None,
            Address::Unix(user) => Some(user),
        }
    }
}

impl ClientKey {
    /// The network around this key, as a key: the /24 of an IPv4 address, the /48 of an IPv6 one,
    /// and its /120 where a /64 has many hosts. A user has no network, and stays itself.
    pub const fn block(self) -> ClientKey {
        match self {
            ClientKey::V4(address) => ClientKey::V4(address & !0xff),
            // The key holds 64 bits of prefix: 16 fewer are a /48.
            ClientKey::V6(network) => ClientKey::V6(network & !0xffff),
            ClientKey::V6Host(CrowdedAddress { range, low: [one, two, three] }) => {
                let low = [one, two, three & !0xff];
                ClientKey::V6Host(CrowdedAddress { range, low })
            }
            ClientKey::Unix(uid) => ClientKey::Unix(uid),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, f)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, f)
    }
}

/// Writes the address in one piece: the standard library writes an IPv4 address in seven, and a log
/// line inspects each.
fn show(address: Address, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let address = match address {
        Address::Ip(IpAddr::V4(address)) => address,
        Address::Ip(IpAddr::V6(address)) => return fmt::Display::fmt(&address, f),
        Address::Unix(user) => return fmt::Display::fmt(&user, f),
    };
    let (mut text, mut length) = ([0; "255.255.255.255".len()], 0);
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text[length] = b'.';
            length += 1;
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(octet).as_bytes();
        text[length..length + digits.len()].copy_from_slice(digits);
        length += digits.len();
    }
    // Digits and dots are UTF-8, so this never fails.
    f.pad(str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
}

impl fmt::Display for UnixUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("unix:uid={}", self.uid))
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ClientKey::V4(address) => Ipv4Addr::from_bits(address).fmt(f),
            ClientKey::V6(network) => {
                write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(network) << 64))
            }
            ClientKey::V6Host(address) => address.address().fmt(f),
            ClientKey::Unix(uid) => write!(f, "unix:uid={uid}"),
        }
    }
}

/// Values by network, found by address. Only the prefix of a network counts: host bits are ignored.
#[derive(Debug, Clone)]
pub struct Networks<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Networks { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<T> Networks<T> {
    /// Stores `value` at exactly `network`, and returns the previous value.
    pub fn insert(&mut self, network: IpNet, value: T) -> Option<T> {
        match fold(network) {
            IpNet::V4(network) => self.v4.insert(network, value),
            IpNet::V6(network) => self.v6.insert(network, value),
        }
    }

    /// Returns the value of exactly `network`.
    pub fn get(&self, network: IpNet) -> Option<&T> {
        match fold(network) {
            IpNet::V4(network) => self.v4.get(&network),
            IpNet::V6(network) => self.v6.get(&network),
        }
    }

    /// Returns the value of the longest prefix that holds `address`.
    pub fn longest(&self, address: IpAddr) -> Option<&T> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, value)| value),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, value)| value),
        }
    }

    /// Returns the value of the longest prefix that holds `address` and for which `counts` holds.
    pub fn narrowest(&self, address: IpAddr, counts: impl Fn(&T) -> bool) -> Option<&T> {
        // `cover` yields the longest prefix last.
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let host = address.into();
                self.v4.cover(&host).map(|(_, value)| value).filter(|value| counts(value)).last()
            }
            IpAddr::V6(address) => {
                let host = address.into();
                self.v6.cover(&host).map(|(_, value)| value).filter(|value| counts(value)).last()
            }
        }
    }

    /// Returns the values of all networks that hold `address`, the longest prefix last.
    pub fn covering(&self, address: IpAddr) -> Vec<&T> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.cover(&address.into()).map(|(_, value)| value).collect(),
            IpAddr::V6(address) => self.v6.cover(&address.into()).map(|(_, value)| value).collect(),
        }
    }

    /// Iterates over the networks, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let v4 = self.v4.iter().map(|(network, value)| (IpNet::V4(network), value));
        v4.chain(self.v6.iter().map(|(network, value)| (IpNet::V6(network), value)))
    }

    /// The number of networks.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no network.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Returns the network as it is judged. A network of IPv4-mapped addresses becomes the IPv4 network
/// (`::ffff:10.0.0.0/104` → `10.0.0.0/8`), since no client keeps a mapped address. A network wider
/// than the mapped range (shorter than /96) stays IPv6.
pub fn fold(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let folded = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    folded
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok())
        .map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn key(address: &str) -> ClientKey {
        Client::new(ip(address)).key()
    }

    /// Which of `networks` is the longest that holds `address`.
    fn check(networks: &[&str], address: &str, longest: Option<&str>) {
        let mut map = Networks::default();
        for network in networks {
            assert_eq!(map.insert(network.parse().unwrap(), *network), None);
        }
        assert_eq!(map.len(), networks.len());
        assert_eq!(map.longest(ip(address)).copied(), longest);
    }

    #[test]
    fn an_address_is_written_as_the_standard_library_does() {
        for address in
            ["0.0.0.0", "10.20.30.4", "255.255.255.255", "203.0.113.9", "2001:db8::1", "::1"]
        {
            assert_eq!(Client::new(ip(address)).to_string(), address);
            assert_eq!(format!("{:>20}", Peer::new(ip(address))), format!("{address:>20}"));
        }
    }

    #[test]
    fn the_longest_prefix_is_found() {
        check(
            &["10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "10.2.0.0/16"],
            "10.1.2.3",
            Some("10.1.2.3/32"),
        );
        check(&["10.1.0.0/16", "10.0.0.0/8", "10.1.2.3/32"], "10.1.2.4", Some("10.1.0.0/16"));
        check(&["2001:db8::/32", "::/0"], "2001:db8::1", Some("2001:db8::/32"));
        check(&["10.0.0.0/8"], "11.0.0.1", None);
    }

    #[test]
    fn the_families_are_apart() {
        check(&["::/0"], "10.0.0.1", None);
        check(&["0.0.0.0/0"], "2001:db8::1", None);
    }

    #[test]
    fn an_ipv4_mapped_address_meets_ipv4_networks() {
        check(&["10.0.0.0/16"], "::ffff:10.0.1.2", Some("10.0.0.0/16"));
        check(&["::ffff:10.0.0.0/112"], "10.0.1.2", Some("::ffff:10.0.0.0/112"));
        assert_eq!(Client::new(ip("::ffff:10.1.2.3")), Client::of_peer(Peer::new(ip("10.1.2.3"))));
        assert_eq!(Peer::new(ip("::ffff:10.1.2.3")).to_string(), "10.1.2.3");
    }

    #[test]
    fn mapped_network_is_folded_and_a_wider_one_is_not() {
        let folded = |network: &str| fold(network.parse().unwrap()).to_string();
        assert_eq!(folded("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(folded("::ffff:0.0.0.0/96"), "0.0.0.0/0");
        assert_eq!(folded("::ffff:192.0.2.1/128"), "192.0.2.1/32");
        assert_eq!(folded("::ffff:0.0.0.0/95"), "::ffff:0.0.0.0/95");
        assert_eq!(folded("::/0"), "::/0");
        assert_eq!(folded("2001:db8::/96"), "2001:db8::/96");
    }

    #[test]
    fn inserting_twice_replaces() {
        let mut map = Networks::default();
        assert!(map.is_empty());
        assert_eq!(map.insert("::ffff:10.0.0.0/104".parse().unwrap(), 1), None);
        assert_eq!(map.insert("10.0.0.0/8".parse().unwrap(), 2), Some(1));
        assert_eq!((map.longest(ip("10.1.2.3")), map.len()), (Some(&2), 1));
    }

    #[test]
    fn a_key_is_an_ipv4_address_or_an_ipv6_64() {
        assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(key("2001:db8:1:2:3:4:5:6").to_string(), "2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        for crowded in ["64:ff9b::", "64:ff9b:1:2:3:4:", "64:ff9b:1::", "fe80::", "::", "::ffff:0:"]
        {
            let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|v4| format!("{crowded}{v4}"));
            assert_ne!(key(&one), key(&other), "one translator or link has both");
            assert_eq!(key(&one).block(), key(&other).block());
            assert_eq!(key(&one).to_string(), ip(&one).to_string());
            assert_ne!(key(&one), key("192.0.2.1"));
        }
    }

    #[test]
    fn user_of_a_unix_socket_has_no_address_and_a_key_by_uid() {
        let peer = Peer::unix(UnixUser { uid: 33, gid: 34 });
        let client = Client::of_peer(peer);
        assert_eq!((peer.ip(), client.ip()), (None, None));
        assert_eq!(client.user(), Some(UnixUser { uid: 33, gid: 34 }));
        assert_eq!(client.key(), Client::of_peer(Peer::unix(UnixUser { uid: 33, gid: 0 })).key());
        assert_eq!(client.to_string(), "unix:uid=33");
        assert_eq!(client.key().to_string(), "unix:uid=33");
        assert_ne!(client.key(), key("0.0.0.33"));
        assert_eq!(client.key().block(), client.key());
    }

    #[test]
    fn a_block_is_a_24_or_a_48() {
        assert_eq!(key("192.0.2.1").block(), key("192.0.2.200").block());
        assert_ne!(key("192.0.2.1").block(), key("192.0.3.1").block());
        assert_eq!(key("2001:db8:1:2::1").block(), key("2001:db8:1:ffff::1").block());
        assert_ne!(key("2001:db8:1:2::1").block(), key("2001:db8:2:2::1").block());
    }
}

//! How clients are named: in full, or by their network where strangers may read.
//!
//! Pure. An address, a user of this host and the identity of a certificate all name a person or a
//! machine, so the short form shortens the first and drops the others.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::network::{ClientKey, fold};
use crate::policy::unix::UnixPattern;

/// Length of an IPv4 network that stays in the short form.
const SHORT_V4: u8 = 24;

/// Length of an IPv6 network that stays in the short form.
const SHORT_V6: u8 = 48;

/// The short form of every user of this host.
const ANY_USER: &str = "unix";

/// The mark in place of a text that the short form drops.
const DROPPED: &str = "…";

/// Whether clients are named in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientForm {
    /// An IPv4 address, an IPv6 /64, a user id, and the identity of a certificate.
    Full,
    /// A /24 or a /48.
    Short,
}

impl ClientForm {
    /// The key under which a client is counted: clients that are shown alike are counted together.
    pub fn key(self, key: ClientKey) -> ClientKey {
        match (self, key) {
            (ClientForm::Full, key) => key,
            (ClientForm::Short, ClientKey::Unix(_)) => ClientKey::Unix(0),
            // Shown as its /48, as all others of IPv6.
            (ClientForm::Short, ClientKey::V6Host(host)) => {
                ClientKey::V6((host.address().to_bits() >> 64) as u64).block()
            }
            (ClientForm::Short, key) => key.block(),
        }
    }

    /// The text of a client.
    pub fn client(self, key: ClientKey) -> String {
        match (self, key) {
            (ClientForm::Full, key) => key.to_string(),
            (ClientForm::Short, ClientKey::V4(bits)) => {
                short_address(IpAddr::V4(bits.into())).to_string()
            }
            (ClientForm::Short, ClientKey::V6(upper)) => {
                short_address(IpAddr::V6((u128::from(upper) << 64).into())).to_string()
            }
            (ClientForm::Short, ClientKey::V6Host(host)) => {
                short_address(IpAddr::V6(host.address())).to_string()
            }
            (ClientForm::Short, ClientKey::Unix(_)) => ANY_USER.into(),
        }
    }

    /// The identity of a certificate, or a text that an operator has written about a client.
    pub fn personal(self, text: Option<&str>) -> Option<String> {
        match self {
            ClientForm::Full => text.map(str::to_owned),
            ClientForm::Short => None,
        }
    }

    /// An entry of a list or the target of a ban: a network, users, or the name of a certificate.
    /// A `!` of a carve-out stays.
    pub fn pattern(self, text: &str) -> String {
        if self == ClientForm::Full {
            return text.to_owned();
        }
        let (sign, name) = text.strip_prefix('!').map_or(("", text), |name| ("!", name));
        let shown = match short_network(name) {
            Some(network) => network.to_string(),
            None if UnixPattern::is_meant(name) => ANY_USER.into(),
            None => DROPPED.into(),
        };
        format!("{sign}{shown}")
    }

    /// A sentence, in which addresses are shortened and words in backticks are dropped: those quote
    /// the files, which may name clients.
    pub fn sentence(self, text: &str) -> String {
        match self {
            ClientForm::Full => text.to_owned(),
            ClientForm::Short => short_addresses(&without_quotes(text)),
        }
    }
}

/// The network of an address in the short form.
fn short_address(address: IpAddr) -> IpNet {
    // Folded like every client: the /48 of a mapped address would hold all of IPv4.
    match address.to_canonical() {
        IpAddr::V4(address) => trunc(address.into(), SHORT_V4),
        IpAddr::V6(address) => trunc(address.into(), SHORT_V6),
    }
}

fn trunc(address: IpAddr, length: u8) -> IpNet {
    // Both lengths are valid. Otherwise the whole address space is a form that tells nothing.
    IpNet::new(address, length).unwrap_or_default().trunc()
}

/// The network that `text` is, in the short form. `None` means that it is no network. A wider
/// network stays.
fn short_network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(short_address(address));
    }
    let network = fold(text.parse().ok()?);
    let length = match network {
        IpNet::V4(_) => SHORT_V4,
        IpNet::V6(_) => SHORT_V6,
    };
    Some(match network.prefix_len() > length {
        true => short_address(network.addr()),
        false => network.trunc(),
    })
}

/// `text` with a mark in place of each piece in backticks.
fn without_quotes(text: &str) -> String {
    let mut pieces = text.split('`');
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    // An odd number of backticks leaves a last piece without an end, which is dropped too.
    while pieces.next().is_some() {
        kept.push_str("`…`");
        kept.push_str(pieces.next().unwrap_or_default());
    }
    kept
}

/// `text` with every address and network in the short form.
fn short_addresses(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '/');
    let mut shortened = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, word) = rest.split_at(start);
        let length = word.find(|c| !is_part(c)).unwrap_or(word.len());
        let (word, behind) = word.split_at(length);
        shortened.push_str(before);
        shortened.push_str(&short_word(word));
        rest = behind;
    }
    shortened.push_str(rest);
    shortened
}

/// The short form of `word`, if it is an address with a port, a length or a full stop.
fn short_word(word: &str) -> String {
    // A colon may end a sentence's part, or be the end of `2001:db8::`.
    let trimmed = word.trim_end_matches(['.', '/']);
    for address in [trimmed, trimmed.trim_end_matches(':')] {
        if let Some(network) = short_network(address) {
            return format!("{network}{}", &word[address.len()..]);
        }
        // `192.0.2.7:8443`: of IPv6 the brackets end the word.
        if let Some((host, port)) = address.split_once(':')
            && let Ok(IpAddr::V4(host)) = host.parse()
        {
            return format!("{}:{port}{}", short_address(host.into()), &word[address.len()..]);
        }
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::{Client, Peer, UnixUser};

    fn shown(address: &str) -> [String; 2] {
        let key = Client::new(address.parse().unwrap()).key();
        [ClientForm::Full, ClientForm::Short].map(|form| form.client(form.key(key)))
    }

    #[test]
    fn clients_are_shortened_to_their_networks() {
        for (address, full, short) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("::1", "::1", "::/48"),
            ("64:ff9b::192.0.2.7", "64:ff9b::c000:207", "64:ff9b::/48"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.0/24"),
        ] {
            assert_eq!(shown(address), [full, short], "{address}");
        }
    }

    #[test]
    fn users_and_identities_have_no_short_form() {
        let user = Peer::unix(UnixUser { uid: 33, gid: 33 });
        let key = Client::of_peer(user).key();
        assert_eq!(ClientForm::Full.client(key), "unix:uid=33");
        let short = ClientForm::Short.key(key);
        assert_eq!((ClientForm::Short.client(short), short), ("unix".into(), ClientKey::Unix(0)));
        let identity = Some("spiffe://example.com/ana");
        assert_eq!(ClientForm::Short.personal(identity), None);
        assert_eq!(ClientForm::Full.personal(identity).as_deref(), identity);
    }

    #[test]
    fn patterns_are_shortened_unless_they_are_wide() {
        for (text, short) in [
            ("192.0.2.7", "192.0.2.0/24"),
            ("!192.0.2.7/32", "!192.0.2.0/24"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("unix:user=ana", "unix"),
            ("unix:", "unix"),
            ("spiffe://example.com/ana", "…"),
            ("dns:ana.example.com", "…"),
        ] {
            assert_eq!(ClientForm::Short.pattern(text), short);
            assert_eq!(ClientForm::Full.pattern(text), text);
        }
    }

    #[test]
    fn sentences_name_no_client() {
        for (text, short) in [
            ("from 192.0.2.7: if that", "from 192.0.2.0/24: if that"),
            ("10.1.2.3.", "10.1.2.0/24."),
            ("is 10.1.2.3:8443, and", "is 10.1.2.0/24:8443, and"),
            ("at [2001:db8::1:2]:443", "at [2001:db8::/48]:443"),
            ("2001:db8:1:2:3::/64 (x)", "2001:db8:1::/48 (x)"),
            ("`10.1.2.3/8` has bits: write 10.0.0.0/8", "`…` has bits: write 10.0.0.0/8"),
            ("no `spiffe://a/b` and `x", "no `…` and `…`"),
            ("expires in 3 days, at 12:30", "expires in 3 days, at 12:30"),
            ("policies/chat.toml:4", "policies/chat.toml:4"),
        ] {
            assert_eq!(ClientForm::Short.sentence(text), short);
            assert_eq!(ClientForm::Full.sentence(text), text);
        }
    }
}

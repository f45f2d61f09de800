//! How clients are named: in full, or by their network where strangers may read.
//!
//! Pure. An address, a user of this host and the identity of a certificate all name a person or a
//! machine, so the short form shortens the first and drops the others.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::policy::network::{ClientKey, fold};
use crate::policy::unix::UnixPattern;

/// Length of an IPv4 network that stays in the short form.
const SHORT_V4: u8 = 24;

/// Length of an IPv6 network that stays in the short form.
const SHORT_V6: u8 = 48;

/// Length of a 6to4 network that stays in the short form: the /24 of the IPv4 address behind its 16
/// bits (RFC 3056 §2).
const SHORT_6TO4: u8 = 40;

/// The first 16 bits of 6to4 addresses (RFC 3056 §2).
const SIX_TO_FOUR: u16 = 0x2002;

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
            (ClientForm::Short, ClientKey::V6(upper)) if upper >> 48 == u64::from(SIX_TO_FOUR) => {
                ClientKey::V6(upper & !0xff_ffff)
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
    /// A `!` of a carve-out stays, and `within` marks a network that is wider than the entry.
    pub fn pattern(self, text: &str) -> String {
        if self == ClientForm::Full {
            return text.to_owned();
        }
        let (sign, name) = text.strip_prefix('!').map_or(("", text), |name| ("!", name));
        let shown = match short_network(name) {
            // Otherwise the ban of one address would look like that of its whole network.
            Some(network) if is_narrower(name, network) => format!("within {network}"),
            Some(network) => network.to_string(),
            None if UnixPattern::is_meant(name) => ANY_USER.into(),
            None => DROPPED.into(),
        };
        format!("{sign}{shown}")
    }

    /// A sentence without quotations and names, in which addresses are shortened. The files, from
    /// which both come, may name clients.
    pub fn sentence(self, text: &str) -> String {
        match self {
            ClientForm::Full => text.to_owned(),
            ClientForm::Short => only_prose(&without_quotes(text)),
        }
    }
}

/// The network of an address in the short form.
fn short_address(address: IpAddr) -> IpNet {
    // Folded like every client: the /48 of a mapped address would hold all of IPv4.
    match address.to_canonical() {
        IpAddr::V4(address) => trunc(address.into(), SHORT_V4),
        IpAddr::V6(address) => trunc(address.into(), short_length(address)),
    }
}

/// Length of the network of `address` in the short form.
fn short_length(address: Ipv6Addr) -> u8 {
    match address.segments()[0] == SIX_TO_FOUR {
        true => SHORT_6TO4,
        false => SHORT_V6,
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
        IpNet::V6(network) => short_length(network.addr()),
    };
    Some(match network.prefix_len() > length {
        true => short_address(network.addr()),
        false => network.trunc(),
    })
}

/// Whether `name` is an address or a smaller network than `network`.
fn is_narrower(name: &str, network: IpNet) -> bool {
    name.parse::<IpNet>().map_or(true, |own| fold(own).prefix_len() > network.prefix_len())
}

/// `text` with a mark in place of each piece in backticks, and of all between the first and the
/// last double quote: what they quote may hold quotes itself.
fn without_quotes(text: &str) -> String {
    let mut pieces = text.split('`');
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    // An odd number of backticks leaves a last piece without an end, which is dropped too.
    while pieces.next().is_some() {
        kept.push_str("`…`");
        kept.push_str(pieces.next().unwrap_or_default());
    }
    match (kept.find('"'), kept.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}\"…\"{}", &kept[..first], &kept[last + 1..])
        }
        (Some(first), _) => format!("{}\"…\"", &kept[..first]),
        (None, _) => kept,
    }
}

/// `text` with every address and network in the short form, and a mark in place of each word that
/// is neither prose, nor a number, nor the place of a file: it may name a client.
fn only_prose(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(short_word).collect()
}

/// The short form of `word`, with the punctuation and the space around it.
fn short_word(word: &str) -> String {
    let core = word.trim_start_matches(['(', '[']);
    let (before, core) = word.split_at(word.len() - core.len());
    // A colon may end a sentence's part, or be the end of `2001:db8::`.
    let trimmed = core.trim_end_matches(|c: char| c.is_whitespace() || ",.;)]/!?".contains(c));
    for name in [trimmed, trimmed.trim_end_matches(':')] {
        let behind = &core[name.len()..];
        if let Some(shown) = short_name(name) {
            return format!("{before}{shown}{behind}");
        }
        if is_prose(name) {
            return word.to_owned();
        }
    }
    format!("{before}{DROPPED}{}", &core[trimmed.len()..])
}

/// The short form of an address or a network, which may have a port.
fn short_name(name: &str) -> Option<String> {
    if let Some(network) = short_network(name) {
        return Some(network.to_string());
    }
    // `2001:db8::1]:8443`: the first bracket is cut off.
    let (host, rest) = name.split_once("]:").or_else(|| name.split_once(':'))?;
    let (host, port) = (host.parse().ok()?, rest.parse::<u16>().ok()?);
    let close = if name.contains("]:") { "]" } else { "" };
    Some(format!("{}{close}:{port}", short_address(host)))
}

/// Whether `word` is of a sentence, a number with its unit, a time, or the place of a file.
fn is_prose(word: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_'%=…`{}".contains(c);
    // A range of addresses has more dots, and a part of an IPv6 address more colons.
    let count = |mark| word.matches(mark).count();
    let is_number = count('.') < 2
        && count(':') < 3
        && word.chars().all(|c| c.is_ascii_digit() || ".:+-TZ%".contains(c));
    word.chars().all(is_word) || is_number || is_quoted(word) || is_place(word)
}

/// Whether `word` is the mark of a quotation, with the punctuation around it: `["…"]`.
fn is_quoted(word: &str) -> bool {
    word.contains(DROPPED) && word.chars().all(|c| c == '…' || c.is_ascii_punctuation())
}

/// Whether `word` is the path of a file of the configuration, with or without its line.
fn is_place(word: &str) -> bool {
    const ENDINGS: [&str; 5] = [".toml", ".cidr", ".pem", ".crl", ".json"];
    let path = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':');
    // Two slashes are of a URL.
    let is_path = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    path.chars().all(is_path)
        && !path.contains("//")
        && ENDINGS.iter().any(|ending| path.ends_with(ending))
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
            ("2002:cb00:714d:1::1", "2002:cb00:714d:1::/64", "2002:cb00:7100::/40"),
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
            ("192.0.2.7", "within 192.0.2.0/24"),
            ("!192.0.2.7/32", "!within 192.0.2.0/24"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "within 192.0.2.0/24"),
            ("2001:db8:1:2::/64", "within 2001:db8:1::/48"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2002:cb00:714d::/48", "within 2002:cb00:7100::/40"),
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
            (
                "(certs/a.pem:4:1) of 2026-12-01T10:00:00Z",
                "(certs/a.pem:4:1) of 2026-12-01T10:00:00Z",
            ),
            ("80 % are max_widened, [[limits.for]]", "80 % are max_widened, [[…]]"),
            ("no certificate: spiffe://corp/ana.smith in x", "no certificate: … in x"),
            ("identity: dns:ana.example.com, then", "identity: …, then"),
            ("the client unix:uid=4242", "the client …"),
            ("client:203.0.113.99 or ip:2001:db8:aa::1", "… or …"),
            ("at http://198.51.100.99/x and //10.1.2.3", "at … and …"),
            ("from = [\"127.0.0.5\"] reads", "from = [\"…\"] reads"),
            ("test \"an \"office\" of 10.1.2.3\" fails", "test \"…\" fails"),
            ("an \"end that is missing", "an \"…\""),
            ("10.1.2.3-10.1.2.9 in 1.5 s", "… in 1.5 s"),
            ("ana@example.com or ana.smith", "… or …"),
        ] {
            assert_eq!(ClientForm::Short.sentence(text), short);
            assert_eq!(ClientForm::Full.sentence(text), text);
        }
    }
}

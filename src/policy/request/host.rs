//! The host of a request in canonical form, the key for routes and certificates.
//!
//! Names are never resolved and never repaired: a value that isn't plainly a host is rejected.

use std::fmt;
use std::net::Ipv6Addr;

/// The longest name, without the trailing dot (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// The longest label (RFC 1035 §2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// The host of a `Host` field or an authority (RFC 9110 §7.2), and its port if one is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    name: Box<str>,
    port: Option<u16>,
}

impl Host {
    /// Parses `name[:port]`, `192.0.2.1[:port]` or `[2001:db8::1][:port]` (RFC 3986 §3.2). Returns
    /// `None` for anything else: empty, userinfo, zone, a path, escapes, characters beyond ASCII,
    /// or a port that is 0 or over 65535, which no connection has.
    ///
    /// Stricter than RFC 3986, whose `reg-name` may hold escapes and `!$&'()*+,;=`. `_` is
    /// accepted, since such host names exist. An empty port (`a.example:`) counts as none, which
    /// RFC 3986 §3.2.3 allows.
    pub fn parse(value: &[u8]) -> Option<Host> {
        let value = str::from_utf8(value).ok()?;
        let (name, rest) = match value.strip_prefix('[') {
            Some(literal) => {
                let (address, rest) = literal.split_once(']')?;
                (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), rest)
            }
            None => {
                // An IPv6 address without brackets fails below: behind its first `:` is no port.
                let (name, rest) = value.split_at(value.find(':').unwrap_or(value.len()));
                (canonical_name(name)?, rest)
            }
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) => Some(port(digits)?),
        };
        Some(Host { name: name.into_boxed_str(), port })
    }

    /// The host of a request that names none, as HTTP/1.0 allows. It matches only routes of the
    /// host `*`: no pattern has an empty name, and an empty name is below no wildcard.
    pub fn unnamed() -> Host {
        Host { name: "".into(), port: None }
    }

    /// The same name with this port.
    pub fn with_port(&self, port: Option<u16>) -> Host {
        Host { name: self.name.clone(), port }
    }

    /// Whether the request names no host.
    pub fn is_unnamed(&self) -> bool {
        self.name.is_empty()
    }

    /// The name in lower case, without trailing dot and port; an IPv6 address in brackets, in the
    /// form of RFC 5952.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, if one is written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether the host is an address or the tail of one: no top-level domain is a number (RFC 3696
    /// §2).
    pub fn is_address(&self) -> bool {
        let last = self.name.rsplit('.').next().unwrap_or(&self.name);
        self.name.starts_with('[') || last.bytes().all(|byte| byte.is_ascii_digit())
    }
}

impl fmt::Display for Host {
    /// As in a `Host` field.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

fn canonical_name(name: &str) -> Option<String> {
    // A second trailing dot leaves an empty label, which is no label.
    let name = name.strip_suffix('.').unwrap_or(name);
    let sound = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label);
    sound.then(|| name.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !label.is_empty() && label.len() <= MAX_LABEL_BYTES && label.bytes().all(legal)
}

/// Digits only: Rust's integer parser would accept `+80`.
fn port(digits: &str) -> Option<u16> {
    let plain = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok().filter(|port| *port > 0) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// `canonical` is the name and port read from `value`, as `Display` writes them. `None` means
    /// that `value` is no host.
    fn check(value: &str, canonical: Option<&str>) {
        let read = Host::parse(value.as_bytes()).map(|host| host.to_string());
        assert_eq!(read.as_deref(), canonical, "{value:?}");
    }

    // C-RT-14
    #[test]
    fn case_trailing_dot_and_port_are_normalised() {
        check("WS.Example.COM", Some("ws.example.com"));
        check("ws.example.com.", Some("ws.example.com"));
        check("WS.example.com.:8443", Some("ws.example.com:8443"));
        check("ws.example.com:", Some("ws.example.com"));
        check("ws.example.com:00080", Some("ws.example.com:80"));
        check("my_host-1", Some("my_host-1"));
        check("192.0.2.1:80", Some("192.0.2.1:80"));
    }

    // C-RT-14
    #[test]
    fn ipv6_literals_have_one_form() {
        check("[2001:DB8:0:0::1]:8443", Some("[2001:db8::1]:8443"));
        check("[::ffff:192.0.2.1]", Some("[::ffff:192.0.2.1]"));
        check("[::1]:", Some("[::1]"));
        for odd in [
            "::1",
            "[::1",
            "[::1]x",
            "[::1]80",
            "[]",
            "[192.0.2.1]",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[a.example]",
            "[[::1]]",
        ] {
            check(odd, None);
        }
    }

    // C-RT-14
    #[test]
    fn invalid_host_is_none() {
        for odd in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            " a",
            "a b",
            "a/b",
            "/",
            "a\\b",
            "user@a",
            "user:pw@a",
            "a,b",
            "a%2eb",
            "a?",
            "a#",
            "*",
        ] {
            check(odd, None);
        }
        for odd in ["a:0", "a:00000", "[::1]:0", "192.0.2.1:0"] {
            check(odd, None);
        }
        for odd in [
            ":80",
            "a:b",
            "a:80:80",
            "a:+80",
            "a:-1",
            "a:65536",
            "a:000080",
            "a: 80",
            "é.example",
            "a\0",
        ] {
            check(odd, None);
        }
        check(&"a".repeat(63), Some(&"a".repeat(63)));
        check(&"a".repeat(64), None);
        check(&format!("{}a", "a.".repeat(126)), Some(&format!("{}a", "a.".repeat(126))));
        check(&format!("{}aa", "a.".repeat(126)), None);
        assert_eq!(Host::parse(b"\xff.example"), None);
    }

    #[test]
    fn address_is_distinguished_from_a_name() {
        for (value, is_address) in [
            ("192.0.2.1", true),
            ("0.2.1", true),
            ("[::1]", true),
            ("1.example", false),
            ("a1", false),
        ] {
            assert_eq!(
                Host::parse(value.as_bytes()).map(|host| host.is_address()),
                Some(is_address),
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn host_round_trips(value in "[a-zA-Z0-9_.-]{0,12}|\\[[0-9a-fA-F:.]{2,12}\\]", port in "(:[0-9]{0,6})?") {
            if let Some(host) = Host::parse(format!("{value}{port}").as_bytes()) {
                prop_assert_eq!(Host::parse(host.to_string().as_bytes()), Some(host.clone()));
                prop_assert_eq!(Host::parse(host.name().as_bytes()).map(|again| again.name), Some(host.name));
            }
        }

        #[test]
        fn any_bytes_parse_without_a_panic(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Host::parse(&value);
        }
    }
}

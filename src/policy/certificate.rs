//! Client certificates: the names that one proves, and the rule that admits them.
//!
//! Nothing here verifies a certificate: a listener has verified it before (`data/tls`). A name of
//! one kind never matches a pattern of another kind.

use std::cmp::Reverse;
use std::fmt;

use jiff::Timestamp;

use crate::policy::identity_text::{self, IdentityText, MAX_NAME_BYTES, reads_as_uri};

/// A verified certificate of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its URI names, in order: scheme and authority in lower case (RFC 5280 §4.2.1.6).
    pub uris: Box<[Box<str>]>,
    /// Whether it has a URI name that is left out of `uris`. See [`ClientCertificate::uri_name`].
    pub has_odd_uri: bool,
    /// Its DNS names, in order: lower case, without a trailing dot.
    pub dns_names: Box<[Box<str>]>,
    /// The digest of its public key.
    pub key_pin: KeyPin,
    /// The digest of the certificate itself, which tools call its fingerprint.
    pub digest: KeyPin,
    /// The common name of its subject. `None` means that it has none.
    pub common_name: Option<Box<str>>,
    /// Its serial number: big-endian, without leading zeros.
    pub serial: Box<[u8]>,
    /// End of its validity.
    pub not_after: Timestamp,
    /// The chain as the client sent it, in DER, its own certificate first.
    pub chain: Box<[Box<[u8]>]>,
}

/// The name by which logs and limits know the holder of a certificate. It displays as a URI, as
/// `dns:` and a name, or as a [`KeyPin`]; a URI that reads like one of these has `uri:` before it.
///
/// Identities are compared by kind and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity<'c> {
    /// The first URI name.
    Uri(&'c str),
    /// The first DNS name of a certificate without a URI name.
    Dns(&'c str),
    /// The key of a certificate without either.
    Key(KeyPin),
}

/// SHA-256 of a SubjectPublicKeyInfo in DER (RFC 7469 §2.4). It displays as `sha256:` and 64
/// hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyPin(pub [u8; 32]);

/// The rule `[client] certificate` of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRule {
    /// Whether a client without a certificate is refused.
    pub required: bool,
    /// Certificates that are admitted. `None` means every certificate that a listener verifies.
    pub allow: Option<Box<[IdentityPattern]>>,
    /// Certificates that are refused, whatever `allow` says.
    pub deny: Box<[IdentityPattern]>,
}

/// Why a rule refuses a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault<'r> {
    /// The client has no certificate.
    Missing,
    /// This pattern of `deny` matches.
    Denied(&'r IdentityPattern),
    /// No pattern of `allow` matches.
    NotAllowed,
}

/// A pattern for one name of a certificate. It displays as in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IdentityPattern {
    /// `spiffe://example.com/ws/*`: a URI name. `*` matches within a segment, and `**` one segment
    /// or more.
    Uri(UriPattern),
    /// `dns:client.example.com`, or `dns:*.example.com` for one label.
    Dns(Box<str>),
    /// `sha256:…`: a public key, or the certificate itself.
    Key(KeyPin),
}

/// How narrow a pattern is, in ascending order: of two that match one certificate, the narrower
/// decides. A pattern never is narrower than one whose names are all among its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Narrowness {
    /// A pattern with `**`, by the number of its other characters and of its wildcards.
    Deep(usize, Reverse<usize>),
    /// A pattern with `*`, likewise.
    Wildcard(usize, Reverse<usize>),
    /// A pattern without wildcards, which matches one name.
    Name,
    /// The digest of one public key.
    Key,
}

/// A pattern of URI names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UriPattern {
    /// As written, with scheme and authority in lower case.
    text: Box<str>,
    has_wildcard: bool,
}

impl ClientCertificate {
    /// The name by which logs and limits know the client: its first URI name, else its first DNS
    /// name, else its key.
    pub fn identity(&self) -> Identity<'_> {
        // The first name suffices: an X.509-SVID has exactly one URI name (SPIFFE X509-SVID §2).
        match (self.uris.first(), self.dns_names.first()) {
            (Some(uri), _) => Identity::Uri(uri),
            (None, Some(name)) => Identity::Dns(name),
            (None, None) => Identity::Key(self.key_pin),
        }
    }

    /// A certificate with one name, for a policy's tests: a URI, `dns:NAME` or `sha256:HEX`.
    ///
    /// # Errors
    /// A sentence about the name.
    pub fn named(identity: &str) -> Result<Self, &'static str> {
        let mut certificate = ClientCertificate {
            uris: Box::default(),
            has_odd_uri: false,
            dns_names: Box::default(),
            key_pin: KeyPin([0; 32]),
            digest: KeyPin([0; 32]),
            common_name: None,
            serial: Box::default(),
            not_after: Timestamp::MAX,
            chain: Box::default(),
        };
        match IdentityPattern::parse(identity)? {
            pattern if pattern.has_wildcard() => return Err("it is a pattern, and no one name"),
            IdentityPattern::Uri(uri) => certificate.uris = [uri.text].into(),
            IdentityPattern::Dns(name) => certificate.dns_names = [name].into(),
            IdentityPattern::Key(pin) => certificate.key_pin = pin,
        }
        Ok(certificate)
    }

    /// The URI name `text` as certificates hold it. `None` means that no pattern may match it: it
    /// is empty or long, or has spaces, controls or bytes beyond ASCII.
    pub fn uri_name(text: &str) -> Option<Box<str>> {
        let is_sound = !text.is_empty()
            && text.len() <= MAX_NAME_BYTES
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_sound.then(|| lower_authority(text).into())
    }

    /// The DNS name `text` as certificates hold it. `None` means that no pattern may match it.
    pub fn dns_name(text: &str) -> Option<Box<str>> {
        let name = text.strip_suffix('.').unwrap_or(text);
        is_dns_name(name).then(|| name.to_ascii_lowercase().into())
    }
}

impl CertificateRule {
    /// Judges a client by its certificate. `None` means that it has none.
    ///
    /// # Errors
    /// The first fault, of which `deny` comes before `allow`.
    pub fn judge(
        &self,
        certificate: Option<&ClientCertificate>,
    ) -> Result<(), CertificateFault<'_>> {
        let Some(certificate) = certificate else {
            return if self.required { Err(CertificateFault::Missing) } else { Ok(()) };
        };
        // `deny` sees all names before `allow` does: a certificate with two names must not be
        // admitted by the one if the other is denied.
        if let Some(denies) = self.deny.iter().find(|pattern| pattern.denies(certificate)) {
            return Err(CertificateFault::Denied(denies));
        }
        match &self.allow {
            Some(_) if self.admitting(certificate).is_none() => Err(CertificateFault::NotAllowed),
            _ => Ok(()),
        }
    }

    /// The pattern of `allow` that admits `certificate`. `None` also where there is no `allow`.
    pub fn admitting(&self, certificate: &ClientCertificate) -> Option<&IdentityPattern> {
        self.allow.as_ref()?.iter().find(|pattern| pattern.matches(certificate))
    }
}

impl IdentityPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence about its first fault.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match identity_text::read(text)? {
            IdentityText::Dns(name) => {
                let plain = name.strip_prefix("*.").unwrap_or(name);
                match is_dns_name(plain) {
                    true => Ok(IdentityPattern::Dns(name.to_ascii_lowercase().into())),
                    false => Err("`dns:` needs a host name behind it, or *. and a host name"),
                }
            }
            IdentityText::Digest(digest) => Ok(IdentityPattern::Key(KeyPin(digest))),
            IdentityText::Uri(uri) => UriPattern::parse(uri).map(IdentityPattern::Uri),
        }
    }

    /// Whether a name of the pattern has an empty or a dot segment, which programs resolve or
    /// refuse, so that certificates hardly have it.
    pub fn has_odd_segment(&self) -> bool {
        let IdentityPattern::Uri(uri) = self else { return false };
        let path = uri.text.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        path.is_some_and(|(_, path)| path.split('/').any(|one| matches!(one, "" | "." | "..")))
    }

    /// Whether a certificate that has only the names of this pattern matches `other` too. Of two
    /// patterns with `*` it knows only equal ones.
    pub fn is_within(&self, other: &IdentityPattern) -> bool {
        let named = || ClientCertificate::named(&self.to_string()).ok();
        self == other || (!self.has_wildcard() && named().is_some_and(|one| other.denies(&one)))
    }

    /// Whether the pattern matches a name of `certificate`.
    pub fn matches(&self, certificate: &ClientCertificate) -> bool {
        match self {
            IdentityPattern::Uri(pattern) => {
                certificate.uris.iter().any(|uri| pattern.matches(uri))
            }
            IdentityPattern::Dns(pattern) => {
                certificate.dns_names.iter().any(|name| matches_dns(pattern, name))
            }
            // No digest is of both: whichever a tool has printed is meant.
            IdentityPattern::Key(pin) => [certificate.key_pin, certificate.digest].contains(pin),
        }
    }

    /// Whether the pattern matches the URI name `uri`.
    pub fn matches_uri(&self, uri: &str) -> bool {
        matches!(self, IdentityPattern::Uri(pattern) if pattern.matches(uri))
    }

    /// Whether the pattern, in `deny`, matches a name of `certificate`, or may match an ambiguous
    /// name. A name that programs read in different ways must not slip past a wildcard.
    pub fn denies(&self, certificate: &ClientCertificate) -> bool {
        let may_match = match self {
            IdentityPattern::Uri(pattern) if pattern.has_wildcard => {
                // A name that was left out may be the denied name, so `deny` fails closed.
                certificate.has_odd_uri || certificate.uris.iter().any(|uri| pattern.may_match(uri))
            }
            _ => false,
        };
        may_match || self.matches(certificate)
    }

    /// How narrow the pattern is among patterns that match the same certificate.
    pub fn narrowness(&self) -> Narrowness {
        let text: &str = match self {
            IdentityPattern::Key(_) => return Narrowness::Key,
            _ if !self.has_wildcard() => return Narrowness::Name,
            IdentityPattern::Uri(pattern) => &pattern.text,
            IdentityPattern::Dns(name) => name,
        };
        let others = text.bytes().filter(|byte| *byte != b'*').count();
        // `**` is one wildcard: `*/**` and `**/*` hold the same names.
        let wildcards = Reverse(text.replace("**", "*").len() - others);
        // A pattern without `**` has a fixed number of segments, so it holds none with one.
        match text.contains("**") {
            true => Narrowness::Deep(others, wildcards),
            false => Narrowness::Wildcard(others, wildcards),
        }
    }

    fn has_wildcard(&self) -> bool {
        match self {
            IdentityPattern::Uri(pattern) => pattern.has_wildcard,
            IdentityPattern::Dns(name) => name.starts_with("*."),
            IdentityPattern::Key(_) => false,
        }
    }
}

impl UriPattern {
    /// The pattern with scheme and authority in lower case.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The literal texts before the first and behind the last `*`. `None` means that it has none.
    pub fn ends(&self) -> Option<(&str, &str)> {
        let (start, _) = self.text.split_once('*')?;
        let (_, end) = self.text.rsplit_once('*')?;
        Some((start, end))
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once(':').ok_or("it is no URI")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return Err("its scheme has other characters than letters, digits, +, - and .");
        }
        if rest.is_empty() || rest == "//" {
            return Err("nothing follows its scheme");
        }
        let has_wildcard = text.contains('*');
        let mut segments = segments(rest);
        if has_wildcard && !segments.clone().all(is_plain) {
            return Err(
                "a pattern with * has no empty segment, no dot segment and no %, ?, # or @",
            );
        }
        if segments.any(|segment| segment.contains("**") && segment != "**") {
            return Err("`**` matches whole segments: write it between slashes");
        }
        let opens = rest.strip_prefix("//").is_some_and(|rest| rest.starts_with("**"));
        if opens {
            return Err("`**` in the place of the authority would match every authority");
        }
        Ok(UriPattern { text: lower_authority(text).into(), has_wildcard })
    }

    /// Whether a name of the pattern's scheme has segments that programs read in several ways.
    fn may_match(&self, uri: &str) -> bool {
        let (Some((scheme, _)), Some((of, name))) =
            (self.text.split_once(':'), uri.split_once(':'))
        else {
            return true;
        };
        scheme == of && !segments(name).all(is_plain)
    }

    fn matches(&self, uri: &str) -> bool {
        if !self.has_wildcard {
            return *self.text == *uri;
        }
        let (Some((scheme, pattern)), Some((of, name))) =
            (self.text.split_once(':'), uri.split_once(':'))
        else {
            return false;
        };
        // An authority never matches a path, nor the other way round.
        if scheme != of || pattern.starts_with("//") != name.starts_with("//") {
            return false;
        }
        // A server that decodes or resolves such a name would read another one.
        if !segments(name).all(is_plain) {
            return false;
        }
        let pattern: Vec<_> = segments(pattern).collect();
        let name: Vec<_> = segments(name).collect();
        matches_segments(&pattern, &name)
    }
}

/// The segments of a URI behind its scheme; the authority is the first of them.
fn segments(rest: &str) -> impl Iterator<Item = &str> + Clone {
    rest.strip_prefix("//").unwrap_or(rest).split('/')
}

/// Whether all programs read the URI name `uri` in the same way.
pub fn is_plain_uri(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(_, name)| segments(name).all(is_plain))
}

/// Whether a segment means the same to everyone: not empty, no dot segment, nothing escaped, no
/// user, query or fragment (RFC 3986 §3).
fn is_plain(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && !segment.contains(['%', '?', '#', '@', '\\'])
}

/// Matches by backtracking to the last `**` only, which is enough: a later one may take all that an
/// earlier one leaves.
fn matches_segments(pattern: &[&str], name: &[&str]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            // It takes one segment at once, and more when the rest does not match.
            Some(&"**") => {
                last = Some((p, n + 1));
                (p, n) = (p + 1, n + 1);
            }
            Some(segment) if matches_glob(segment.as_bytes(), name[n].as_bytes()) => {
                (p, n) = (p + 1, n + 1);
            }
            // The last `**` takes one more segment, and the rest of the pattern is tried again.
            _ => {
                let Some((at, taken)) = last else { return false };
                last = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
                if n > name.len() {
                    return false;
                }
            }
        }
    }
    // A `**` at the end needs a segment of its own, so no part of the pattern may be left.
    p == pattern.len()
}

/// Whether `text` matches `pattern`, in which each `*` matches any characters or none.
fn matches_glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, taken)) = last else { return false };
                last = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Scheme and authority are case-insensitive, the path is not (RFC 3986 §6.2.2.1).
fn lower_authority(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once(':') else { return text.to_owned() };
    let path = rest
        .strip_prefix("//")
        .map_or(0, |behind| 2 + behind.find(['/', '?', '#']).unwrap_or(behind.len()));
    let (authority, path) = rest.split_at(path);
    format!("{}:{}{path}", scheme.to_ascii_lowercase(), authority.to_ascii_lowercase())
}

/// A wildcard matches one whole label (RFC 6125 §6.4.3).
fn matches_dns(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern == name,
        Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest == parent),
    }
}

/// Whether `name` is a host name of letters, digits, hyphens and underscores.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

impl KeyPin {
    /// Reads 64 hexadecimal digits, with or without colons between bytes.
    pub fn parse(digits: &str) -> Option<Self> {
        identity_text::digest(digits).map(KeyPin)
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Writes a URI so that it reads like no other kind.
fn write_uri(uri: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let kind = if reads_as_uri(uri) { "" } else { "uri:" };
    write!(f, "{kind}{uri}")
}

impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Uri(uri) => write_uri(uri, f),
            Identity::Dns(name) => write!(f, "dns:{name}"),
            Identity::Key(pin) => pin.fmt(f),
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityPattern::Uri(pattern) => write_uri(&pattern.text, f),
            IdentityPattern::Dns(name) => write!(f, "dns:{name}"),
            IdentityPattern::Key(pin) => pin.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const PIN: &str = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    /// Whether `pattern` matches a certificate with these URI names.
    fn matches(pattern: &str, uris: &[&str]) -> bool {
        let mut certificate = ClientCertificate::named(PIN).unwrap();
        certificate.uris = uris.iter().filter_map(|uri| ClientCertificate::uri_name(uri)).collect();
        IdentityPattern::parse(pattern).unwrap().matches(&certificate)
    }

    #[test]
    fn star_stays_within_a_segment_and_two_stars_do_not() {
        let ws = "spiffe://example.com/ws/*";
        assert!(matches(ws, &["spiffe://example.com/ws/edge-1"]));
        assert!(!matches(ws, &["spiffe://example.com/ws/edge/1"]));
        assert!(!matches(ws, &["spiffe://example.com/ws/"]));
        assert!(!matches(ws, &["spiffe://example.com/ws"]));
        assert!(matches("spiffe://example.com/ws/e*-1", &["spiffe://example.com/ws/edge-1"]));
        assert!(!matches("spiffe://example.com/ws/e*-1", &["spiffe://example.com/ws/edge-12"]));
        let deep = "spiffe://example.com/**";
        assert!(matches(deep, &["spiffe://example.com/a"]));
        assert!(matches(deep, &["spiffe://example.com/a/b/c"]));
        assert!(!matches(deep, &["spiffe://example.com"]));
        let middle = "spiffe://example.com/**/ws/**/x";
        assert!(matches(middle, &["spiffe://example.com/a/ws/ws/b/x"]));
        assert!(!matches(middle, &["spiffe://example.com/ws/b/x"]));
        assert!(!matches(middle, &["spiffe://example.com/a/ws/x"]));
        assert!(matches("urn:example:*", &["urn:example:client-1"]));
        assert!(!matches("urn:example:*", &["urn:other:client-1"]));
    }

    #[test]
    fn scheme_and_authority_are_compared_without_case() {
        assert!(matches("SPIFFE://Example.com/ws", &["spiffe://EXAMPLE.com/ws"]));
        assert!(!matches("spiffe://example.com/ws", &["spiffe://example.com/WS"]));
        assert!(matches("spiffe://*.example.com/ws", &["spiffe://A.example.com/ws"]));
        assert!(!matches("spiffe://*.example.com/ws", &["spiffe://example.com/ws"]));
        assert!(!matches("spiffe://*.example.com/ws", &["https://a.example.com/ws"]));
    }

    #[test]
    fn hostile_name_matches_no_wildcard() {
        let deep = "spiffe://example.com/**";
        for name in [
            "spiffe://example.com/a/../b",
            "spiffe://example.com/./b",
            "spiffe://example.com//b",
            "spiffe://example.com/a/",
            "spiffe://example.com/a%2fb",
            "spiffe://example.com/a?b",
            "spiffe://example.com/a#b",
            "spiffe://example.com/a\\b",
            "spiffe://evil@example.com/a",
            "spiffe://example.com@evil/a",
            "spiffe:/example.com/a",
            "spiffe:example.com/a",
            "spiffe://example.com.evil/a",
            "spiffe://example.com:1/a",
            "spiffe://example.com/a\0",
            "spiffe://example.com/a b",
            "spiffe://example.com/\u{e9}",
        ] {
            assert!(!matches(deep, &[name]), "{name:?}");
        }
        // Written out, such a name is the operator's own.
        assert!(matches("spiffe://example.com/a%2fb", &["spiffe://example.com/a%2fb"]));
        assert!(!matches("spiffe://example.com/a%2fb", &["spiffe://example.com/a%2Fb"]));
    }

    #[test]
    fn name_of_one_kind_never_matches_a_pattern_of_another() {
        let kinds = ["spiffe://example.com/a", "dns:a.example.com", PIN];
        for (at, pattern) in kinds.iter().enumerate() {
            for (of, name) in kinds.iter().enumerate() {
                let certificate = ClientCertificate::named(name).unwrap();
                let matches = IdentityPattern::parse(pattern).unwrap().matches(&certificate);
                assert_eq!(matches, at == of, "{pattern} {name}");
            }
        }
        let uri = "dns:a.example.com";
        let mut certificate = ClientCertificate::named(PIN).unwrap();
        certificate.uris = [uri.into()].into();
        assert!(!IdentityPattern::parse(uri).unwrap().matches(&certificate));
        assert!(IdentityPattern::parse(&format!("uri:{uri}")).unwrap().matches(&certificate));
    }

    #[test]
    fn dns_wildcard_stands_for_one_label() {
        let matches = |pattern: &str, name: &str| {
            let mut certificate = ClientCertificate::named(PIN).unwrap();
            certificate.dns_names = ClientCertificate::dns_name(name).into_iter().collect();
            IdentityPattern::parse(pattern).unwrap().matches(&certificate)
        };
        assert!(matches("dns:*.example.com", "A.example.com."));
        assert!(!matches("dns:*.example.com", "example.com"));
        assert!(!matches("dns:*.example.com", "a.b.example.com"));
        assert!(!matches("dns:a.example.com", "a.example.com\0.evil"));
        // A certificate for a wildcard proves no name below it.
        assert!(!matches("dns:a.example.com", "*.example.com"));
    }

    #[test]
    fn broken_pattern_is_refused() {
        for text in [
            "",
            "example.com",
            "*",
            "**",
            "spiffe:",
            "spiffe://",
            "1spiffe://a",
            "sp*ffe://example.com/a",
            "spiffe://**/a",
            "spiffe://example.com/a**",
            "spiffe://example.com/*/../a",
            "spiffe://example.com//*",
            "spiffe://example.com/*?a",
            "spiffe://example.com/a b",
            "dns:",
            "dns:*",
            "dns:*.*.example.com",
            "dns:a*.example.com",
            "sha256:00",
            "sha256:zz0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        ] {
            assert!(IdentityPattern::parse(text).is_err(), "{text:?}");
        }
        assert!(ClientCertificate::named("spiffe://example.com/*").is_err());
    }

    #[test]
    fn digest_names_the_key_or_the_certificate() {
        let pattern = IdentityPattern::parse(PIN).unwrap();
        let mut certificate = ClientCertificate::named("dns:a.example").unwrap();
        assert!(!pattern.matches(&certificate));
        certificate.digest = KeyPin::parse(PIN.strip_prefix("sha256:").unwrap()).unwrap();
        assert!(pattern.matches(&certificate));
        std::mem::swap(&mut certificate.digest, &mut certificate.key_pin);
        assert!(pattern.matches(&certificate));
    }

    #[test]
    fn deny_comes_before_allow_and_a_missing_certificate_is_judged() {
        let pattern = |text: &str| IdentityPattern::parse(text).unwrap();
        let rule = |required, allow: Option<&str>| CertificateRule {
            required,
            allow: allow.map(|allow| [pattern(allow)].into()),
            deny: [pattern("spiffe://a/deny")].into(),
        };
        let named = |uri: &str| ClientCertificate::named(uri).unwrap();
        let all = rule(true, Some("spiffe://a/*"));
        assert_eq!(all.judge(None), Err(CertificateFault::Missing));
        assert_eq!(all.judge(Some(&named("spiffe://a/b"))), Ok(()));
        let denied = pattern("spiffe://a/deny");
        let verdict = all.judge(Some(&named("spiffe://a/deny")));
        assert_eq!(verdict, Err(CertificateFault::Denied(&denied)));
        let verdict = all.judge(Some(&named("spiffe://b/c")));
        assert_eq!(verdict, Err(CertificateFault::NotAllowed));
        assert_eq!(rule(false, None).judge(None), Ok(()));
        assert_eq!(rule(true, None).judge(Some(&named("dns:x.example"))), Ok(()));
        assert!(rule(false, None).judge(Some(&named("spiffe://a/deny"))).is_err());
    }

    #[test]
    fn hostile_name_does_not_slip_past_a_denied_wildcard() {
        let deny = |pattern: &str| CertificateRule {
            required: false,
            allow: None,
            deny: [IdentityPattern::parse(pattern).unwrap()].into(),
        };
        let rule = deny("spiffe://example.com/**");
        let with = |uri: &str| {
            let mut certificate = ClientCertificate::named(PIN).unwrap();
            let name = ClientCertificate::uri_name(uri);
            certificate.has_odd_uri = name.is_none();
            certificate.uris = name.into_iter().collect();
            certificate
        };
        for uri in [
            "spiffe://example.com/a",
            "spiffe://example.com/a/",
            "spiffe://example.com/a/../b",
            "spiffe://user@example.com/a",
            "spiffe://other.example/%2e%2e/a",
            "spiffe://example.com/a b",
            "spiffe://example.com/\u{e9}",
            "no uri",
        ] {
            assert!(rule.judge(Some(&with(uri))).is_err(), "{uri}");
        }
        for uri in ["spiffe://other.example/a", "https://example.com/a/", "urn:x:y"] {
            assert_eq!(rule.judge(Some(&with(uri))), Ok(()), "{uri}");
        }
        // Without a wildcard only the name itself is denied.
        let rule = deny("spiffe://example.com/a");
        assert_eq!(rule.judge(Some(&with("spiffe://example.com/a/"))), Ok(()));
        assert!(rule.judge(Some(&with("SPIFFE://example.com/a"))).is_err());
    }

    #[test]
    fn narrower_pattern_comes_after_a_wider_one() {
        let rising = [
            "spiffe://example.com/**",
            "spiffe://example.com/**/ws",
            "spiffe://example.com/ws/**/edge/*",
            "spiffe://example.com/*",
            "spiffe://example.com/ws/*e*",
            "spiffe://example.com/ws/e*",
            "spiffe://example.com/ws/edge-*",
            "spiffe://example.com/ws/edge-1",
            PIN,
        ];
        let narrowness = |text: &str| IdentityPattern::parse(text).unwrap().narrowness();
        for pair in rising.windows(2) {
            assert!(narrowness(pair[0]) < narrowness(pair[1]), "{pair:?}");
        }
        assert_eq!(narrowness("spiffe://a/b"), narrowness("dns:a.example.com"));
        assert!(narrowness("dns:*.example.com") < narrowness("dns:a.example.com"));
    }

    #[test]
    fn pin_is_read_with_and_without_colons() {
        let IdentityPattern::Key(pin) = IdentityPattern::parse(PIN).unwrap() else { panic!() };
        assert_eq!(pin.to_string(), PIN);
        let spaced: Vec<_> = pin.0.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(KeyPin::parse(&spaced.join(":")), Some(pin));
    }

    proptest! {
        #[test]
        fn pattern_without_wildcard_matches_itself_alone(
            path in "[a-z0-9./%-]{1,12}", other in "[a-z0-9./%-]{1,12}"
        ) {
            let pattern = format!("spiffe://example.com/{path}");
            prop_assert!(matches(&pattern, &[&pattern]));
            let name = format!("spiffe://example.com/{other}");
            prop_assert_eq!(matches(&pattern, &[&name]), path == other);
        }

        #[test]
        fn pattern_is_no_wider_than_one_that_holds_its_names(
            wide in "(a|b|\\*|ab|a\\*)(/(a|b|\\*|a\\*b|\\*\\*)){0,3}",
            narrow in "(a|b|\\*|ab|a\\*)(/(a|b|\\*|a\\*b|\\*\\*)){0,3}",
        ) {
            // `*` and `**` of the narrow pattern become names that no letter of the other matches.
            let text = narrow.replace("**", "xxx/yyy").replace('*', "zzz");
            let inside = [text, narrow.replace("**", "w").replace('*', "v")];
            let uri = |rest: &str| format!("spiffe://h/{rest}");
            let narrowness = |text: &str| {
                IdentityPattern::parse(&uri(text)).unwrap().narrowness()
            };
            if inside.iter().all(|name| matches(&uri(&wide), &[&uri(name)])) {
                prop_assert!(narrowness(&narrow) >= narrowness(&wide), "{} {}", narrow, wide);
            }
        }

        #[test]
        fn wildcard_matches_as_a_plain_search_would(
            pattern in "(a|b|\\*|ab|a\\*)(/(a|b|\\*|a\\*b|\\*\\*)){0,4}",
            name in "(a|b|ab)(/(a|b|ab|aab)){0,5}"
        ) {
            let uri = |rest: &str| format!("spiffe://h/{rest}");
            let expected = search(
                &pattern.split('/').collect::<Vec<_>>(),
                &name.split('/').collect::<Vec<_>>(),
            );
            prop_assert_eq!(matches(&uri(&pattern), &[&uri(&name)]), expected);
        }
    }

    #[test]
    fn identity_of_each_kind_reads_like_no_other() {
        let (key, uris) =
            (KeyPin([0; 32]), ["dns:a.example", "sha256:00", "uri:dns:a", "spiffe://a"]);
        let mut shown: Vec<_> = uris.map(|uri| Identity::Uri(uri).to_string()).into();
        assert_eq!(shown, ["uri:dns:a.example", "uri:sha256:00", "uri:uri:dns:a", "spiffe://a"]);
        shown.extend([Identity::Dns("a.example").to_string(), Identity::Key(key).to_string()]);
        for text in &shown {
            assert_eq!(IdentityPattern::parse(text).unwrap().to_string(), *text);
        }
        let all: std::collections::HashSet<_> = shown.iter().collect();
        assert_eq!(all.len(), shown.len());
    }

    /// The meaning of a pattern, by recursion.
    fn search(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**", rest @ ..], [_, names @ ..]) => search(rest, names) || search(pattern, names),
            ([segment, rest @ ..], [first, names @ ..]) => {
                glob(segment.as_bytes(), first.as_bytes()) && search(rest, names)
            }
            _ => false,
        }
    }

    fn glob(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                glob(rest, text) || (!text.is_empty() && glob(pattern, &text[1..]))
            }
            ([p, rest @ ..], [t, texts @ ..]) => p == t && glob(rest, texts),
            _ => false,
        }
    }
}

//! The text of an identity, as operators write it or paste it from another tool.
//!
//! A text is understood exactly or refused: a pattern that silently matches no certificate would
//! look like a ban.

/// The most bytes of a name. A longer name of a certificate is left out, and matches nothing.
pub const MAX_NAME_BYTES: usize = 2048;

/// Words that tools write in front of parts of a certificate. As schemes of URIs they would match
/// nothing.
const NO_SCHEMES: [&str; 34] = [
    "c",
    "cert",
    "certificate",
    "dc",
    "dirname",
    "dns-name",
    "dnsname",
    "domain",
    "email",
    "fingerprint",
    "host",
    "hostname",
    "identity",
    "ip",
    "issuer",
    "key",
    "md5",
    "o",
    "othername",
    "ou",
    "pin-sha256",
    "rid",
    "san",
    "serial",
    "sha-1",
    "sha-256",
    "sha-384",
    "sha-512",
    "sha1",
    "sha384",
    "sha512",
    "spki",
    "subject",
    "upn",
];

/// Schemes whose names all have an authority behind `//`.
const WITH_AUTHORITY: [&str; 5] = ["http", "https", "spiffe", "ws", "wss"];

const DIGEST_FAULT: &str = "behind `sha256:` come 64 hex digits";

/// An identity by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityText<'t> {
    /// A URI, or a pattern of URIs.
    Uri(&'t str),
    /// A DNS name, or a pattern of DNS names, behind `dns:`.
    Dns(&'t str),
    /// A SHA-256 digest.
    Digest([u8; 32]),
}

/// Reads `text`: a URI, `dns:NAME` or `sha256:HEX`, also as openssl prints them.
///
/// # Errors
/// A sentence about its first fault.
pub fn read(text: &str) -> Result<IdentityText<'_>, &'static str> {
    let text = text.trim_ascii();
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err("it is empty, or longer than 2048 bytes");
    }
    if let Some(printed) = printed_digest(text) {
        return printed;
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it has a space, a control or a character beyond ASCII");
    }
    if text.contains(",DNS:") || text.contains(",URI:") || text.ends_with(',') {
        return Err("it is a list, or has a comma at its end: write one name");
    }
    let Some((scheme, rest)) = text.split_once(':') else { return Err(without_kind(text)) };
    // A scheme is case-insensitive (RFC 3986 §3.1), and openssl prints `DNS:` and `URI:`.
    match &*scheme.to_ascii_lowercase() {
        "dns" => Ok(IdentityText::Dns(rest.strip_suffix('.').unwrap_or(rest))),
        "sha256" => digest(rest).map(IdentityText::Digest).ok_or(DIGEST_FAULT),
        // Written out, any text behind it is the name itself.
        "uri" => Ok(IdentityText::Uri(rest)),
        // A common name is text without a type, which RFC 9525 rules out as an identifier.
        "cn" => Err("the common name matches no pattern"),
        scheme if NO_SCHEMES.contains(&scheme) => {
            Err("it begins with a kind that no pattern has; a URI may have `uri:` before it")
        }
        scheme if WITH_AUTHORITY.contains(&scheme) && !has_authority(rest) => {
            Err("its scheme needs // and an authority behind it")
        }
        _ if (1..=5).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("it reads like a host and its port: a DNS name has `dns:` before it, and no port")
        }
        _ => Ok(IdentityText::Uri(text)),
    }
}

/// Whether the URI name `uri` is read as itself, without `uri:` before it.
pub fn reads_as_uri(uri: &str) -> bool {
    read(uri) == Ok(IdentityText::Uri(uri))
}

/// Reads 64 hexadecimal digits, with or without colons between bytes.
pub fn digest(digits: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(digest)
}

/// Reads a digest as openssl prints it: `sha256 Fingerprint=AB:CD…`, `SHA2-256(stdin)= abcd…`, or
/// the digits alone. `None` means that `text` is none.
fn printed_digest(text: &str) -> Option<Result<IdentityText<'_>, &'static str>> {
    let of = |digits: &str| digest(digits.trim_ascii()).map(IdentityText::Digest);
    let lower = text.to_ascii_lowercase();
    let of_dgst = lower.starts_with("sha") || lower.starts_with("(stdin");
    let marks = [Some(" fingerprint="), of_dgst.then_some(")= ")];
    let mark = marks
        .into_iter()
        .flatten()
        .find_map(|mark| lower.find(mark).map(|at| (&lower[..at], at + mark.len())));
    if let Some((algorithm, at)) = mark {
        let mut sha256 = ["sha256", "sha2-256", "(stdin"].iter();
        let is_sha256 = sha256.any(|one| algorithm.starts_with(one));
        let other = "it is no SHA-256 digest: `openssl x509 -fingerprint -sha256` prints one";
        return Some(of(&text[at..]).filter(|_| is_sha256).ok_or(other));
    }
    if let Some(digest) = of(text) {
        return Some(Ok(digest));
    }
    // Pairs of digits would be a URI with the scheme of the first one.
    let is_pair = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = text.split(':').filter(|part| is_pair(part)).count();
    let is_all = pairs > 2 && text.split(':').count() == pairs;
    is_all.then_some(Err("it is a digest or a serial number, and no SHA-256 digest"))
}

fn without_kind(text: &str) -> &'static str {
    if text.contains('=') {
        return "a subject matches no pattern: write a URI name, a DNS name or a digest";
    }
    match text.contains('.') && !text.contains('/') {
        true => "it is no URI: a DNS name has `dns:` before it",
        false => "it is no URI",
    }
}

fn has_authority(rest: &str) -> bool {
    rest.strip_prefix("//").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn pasted_text_is_read_as_it_is_meant() {
        let of_openssl: String = (0..32).map(|byte| format!(":{byte:02X}")).collect();
        let of_openssl = &of_openssl[1..];
        let expected = digest(HEX).unwrap();
        for text in [
            format!("sha256:{HEX}"),
            format!("SHA256:{of_openssl}"),
            format!("sha256 Fingerprint={of_openssl}"),
            format!("SHA256 Fingerprint={of_openssl}\n"),
            format!("SHA2-256(stdin)= {HEX}"),
            of_openssl.to_owned(),
            HEX.to_uppercase(),
        ] {
            assert_eq!(read(&text), Ok(IdentityText::Digest(expected)), "{text}");
        }
        for (text, read_as) in [
            (" spiffe://a/b\t", IdentityText::Uri("spiffe://a/b")),
            ("URI:spiffe://a/b", IdentityText::Uri("spiffe://a/b")),
            ("uri:dns:a.example", IdentityText::Uri("dns:a.example")),
            ("uri:uri:x", IdentityText::Uri("uri:x")),
            ("urn:example:client", IdentityText::Uri("urn:example:client")),
            ("DNS:a.example", IdentityText::Dns("a.example")),
            ("dns:a.example.", IdentityText::Dns("a.example")),
        ] {
            assert_eq!(read(text), Ok(read_as), "{text}");
        }
    }

    #[test]
    fn text_that_would_match_nothing_is_refused() {
        for text in [
            "CN=client",
            "CN = client",
            "subject=CN = client",
            "/CN=client/O=x",
            "a.example",
            "a.example:8443",
            "localhost:80",
            "DNS:a.example, URI:spiffe://a/b",
            "DNS:a.example,URI:spiffe://a/b",
            "URI:spiffe://a/b,",
            "spiffe:a/b",
            "spiffe:///a",
            "https:a",
            "email:a@example.com",
            "IP Address:192.0.2.1",
            "IP:192.0.2.1",
            "Serial:01",
            "0A:1B:2C:3D",
            "sha1 Fingerprint=00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13",
            "sha256 Fingerprint=00:01",
            "sha256:00",
            "SHA-256:00",
            "host:a.example",
        ] {
            assert!(read(text).is_err(), "{text}: {:?}", read(text));
        }
    }
}

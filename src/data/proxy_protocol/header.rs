//! Parses PROXY headers of both versions. Sans-I/O, and stricter than the crate below it.
//!
//! The crate `proxy-header` reads addresses and TLVs. It takes v1 lines of any length and with any
//! byte behind `PROXY`, ports with a sign or with leading zeros, and TLVs of a wrong length, and it
//! refuses a `LOCAL` header for the family that a receiver has to ignore. This module decides all
//! of that before the crate sees a byte.

use proxy_header::{ParseConfig, Protocol, ProxyHeader};

use crate::data::proxy_protocol::fault::{HeaderFault, MAX_HEADER_BYTES, MAX_V1_BYTES, Opening};
use crate::data::proxy_protocol::tlv;
use crate::policy::proxied::{Endpoints, HeaderVersion, ProxiedConnection, ProxyDetails};

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// The first bytes of a header of version 2 (section 2.2).
pub const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a v2 header in front of its addresses: signature, command, family and length.
const V2_FIXED_BYTES: usize = 16;

/// What a connection's first bytes say about a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// They begin a header of this version.
    Of(HeaderVersion),
    /// They may become a signature.
    Partial,
    /// They begin no header.
    Absent,
}

/// What the first bytes of a connection say about a PROXY header.
pub fn signature(bytes: &[u8]) -> Signature {
    for (signature, version) in
        [(V1_SIGNATURE, HeaderVersion::V1), (V2_SIGNATURE, HeaderVersion::V2)]
    {
        if bytes.starts_with(signature) {
            return Signature::Of(version);
        }
        // Holds for no bytes at all too: a connection that has said nothing yet is no fault.
        if signature.starts_with(bytes) {
            return Signature::Partial;
        }
    }
    Signature::Absent
}

/// Parses the header at the start of `bytes`, and returns its length. `None` means that all of
/// `bytes` belongs to a header of which more has to come.
///
/// # Errors
/// There is no header, or it is malformed.
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxiedConnection, usize)>, HeaderFault> {
    match signature(bytes) {
        Signature::Of(HeaderVersion::V1) => parse_v1(bytes),
        Signature::Of(HeaderVersion::V2) => parse_v2(bytes),
        Signature::Partial => Ok(None),
        Signature::Absent => Err(HeaderFault::Absent(opening(bytes))),
    }
}

fn opening(bytes: &[u8]) -> Opening {
    match bytes {
        // A record of the type `handshake` (RFC 8446 §5.1).
        [0x16, ..] => Opening::Tls,
        [first, ..] if first.is_ascii_uppercase() => Opening::Http,
        _ => Opening::Other,
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxiedConnection, usize)>, HeaderFault> {
    // Without a line end in its first 107 bytes the line is invalid (section 2.1). A line end
    // behind them belongs to another protocol.
    let end = bytes.iter().take(MAX_V1_BYTES).position(|byte| *byte == b'\n');
    let Some(end) = end else {
        let is_over = bytes.len() >= MAX_V1_BYTES;
        return if is_over { Err(HeaderFault::V1TooLong) } else { Ok(None) };
    };
    let line = &bytes[..=end];
    let endpoints = v1_endpoints(line).ok_or(HeaderFault::V1Malformed)?;
    let details = ProxyDetails::default();
    let connection = ProxiedConnection { version: HeaderVersion::V1, endpoints, details };
    Ok(Some((connection, line.len())))
}

/// The endpoints in a whole line, which are absent for `UNKNOWN`. `None` means that the line is
/// malformed.
fn v1_endpoints(line: &[u8]) -> Option<Option<Endpoints>> {
    let inner = line.strip_prefix(V1_SIGNATURE)?.strip_suffix(b"\r\n")?;
    // Whatever follows UNKNOWN is ignored (section 2.1).
    if inner == b"UNKNOWN" || inner.starts_with(b"UNKNOWN ") {
        return Some(None);
    }
    // Skips the protocol and both addresses. The ports are checked here: the crate takes `+443` and
    // `0443` for 443, and section 2.1 allows neither.
    let mut fields = inner.split(|byte| *byte == b' ').skip(3);
    let ports = [fields.next()?, fields.next()?];
    if fields.next().is_some() || !ports.into_iter().all(is_decimal) {
        return None;
    }
    let (header, length) = ProxyHeader::parse(line, ParseConfig::default()).ok()?;
    let addresses = header.proxied_address().filter(|_| length == line.len())?;
    let (source, destination) = (addresses.source, addresses.destination);
    Some(Some(Endpoints { source, destination }))
}

/// Whether a number has neither a sign nor a leading zero (section 2.1).
fn is_decimal(text: &[u8]) -> bool {
    let is_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_digits && (text.len() == 1 || text[0] != b'0')
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(ProxiedConnection, usize)>, HeaderFault> {
    let Some(&version_and_command) = bytes.get(V2_SIGNATURE.len()) else { return Ok(None) };
    let (version, command) = (version_and_command >> 4, version_and_command & 0xF);
    // Checked before the rest has come: a stray connection must not wait for a length that its
    // bytes happen to hold.
    if version != 2 {
        return Err(HeaderFault::Version(version));
    }
    if command > 1 {
        return Err(HeaderFault::Command(command));
    }
    let Some(&[family, high, low]) = bytes.get(V2_SIGNATURE.len() + 1..V2_FIXED_BYTES) else {
        return Ok(None);
    };
    let whole = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if whole > MAX_HEADER_BYTES {
        return Err(HeaderFault::V2TooLong(whole));
    }
    let Some(header) = bytes.get(..whole) else { return Ok(None) };
    // LOCAL: "the receiver must … discard the protocol block including the family which is ignored"
    // (section 2.2).
    let (endpoints, details) = match command {
        0 => (None, ProxyDetails::default()),
        _ => proxied(header, family)?,
    };
    let connection = ProxiedConnection { version: HeaderVersion::V2, endpoints, details };
    Ok(Some((connection, whole)))
}

/// The contents of a whole header with the command `PROXY`.
fn proxied(header: &[u8], family: u8) -> Result<(Option<Endpoints>, ProxyDetails), HeaderFault> {
    // Section 2.2: UNSPEC, IPv4, IPv6 and Unix, each over a stream or datagrams.
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 2 * 4 + 2 * 2,
        0x21 | 0x22 => 2 * 16 + 2 * 2,
        0x31 | 0x32 => 2 * 108,
        _ => return Err(HeaderFault::Family(family)),
    };
    // The crate checks TLVs only as they are iterated over. All are walked here: a header whose end
    // is in doubt has no beginning to believe (`docs/decisions/038-proxy-protocol.md`).
    let tlvs = header.get(V2_FIXED_BYTES + addresses..).ok_or(HeaderFault::V2TooShort)?;
    let details = tlv::read(header, tlvs)?;
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let parsed = ProxyHeader::parse(header, config).map_err(|_| HeaderFault::V2TooShort)?;
    // A listener takes streams alone. A receiver treats what it doesn't support as UNSPEC.
    let named =
        parsed.0.proxied_address().filter(|addresses| addresses.protocol == Protocol::Stream);
    let endpoints = named.map(|addresses| Endpoints {
        source: addresses.source,
        destination: addresses.destination,
    });
    Ok((endpoints, details))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proxy_header::{ProxiedAddress, SslInfo, Tlv};

    const SOURCE: &str = "192.0.2.7:51234";
    const DESTINATION: &str = "198.51.100.1:443";

    fn endpoints(source: &str, destination: &str) -> Endpoints {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Endpoints { source, destination }
    }

    /// A header of version 2 with these bytes behind its signature, and their length.
    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, payload].concat()
    }

    /// The addresses of [`SOURCE`] and [`DESTINATION`] with TLVs behind them.
    fn ipv4(tlvs: &[u8]) -> Vec<u8> {
        let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0xC8, 0x22, 0x01, 0xBB];
        v2(0x21, 0x11, &[&addresses, tlvs].concat())
    }

    /// That `header` is taken off the start of any stream, and no part of it is enough.
    #[track_caller]
    fn check(header: &[u8], expected: Option<Endpoints>) -> ProxiedConnection {
        for length in 1..header.len() {
            assert_eq!(parse(&header[..length]), Ok(None), "{length} bytes");
        }
        let stream = [header, b"GET / HTTP/1.1\r\n"].concat();
        let (connection, length) = parse(&stream).unwrap().unwrap();
        assert_eq!((connection.endpoints, length), (expected, header.len()));
        assert_eq!(parse(header), Ok(Some((connection.clone(), length))));
        connection
    }

    #[track_caller]
    fn refused(bytes: &[u8], fault: HeaderFault) {
        assert_eq!(parse(bytes), Err(fault), "{bytes:?}");
    }

    #[test]
    fn v1_line_is_read() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 443\r\n";
        assert_eq!(check(line, Some(endpoints(SOURCE, DESTINATION))).version, HeaderVersion::V1);
        let ipv6 = Some(endpoints("[2001:db8::7]:1", "[::1]:65535"));
        check(b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", ipv6);
        check(b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", {
            Some(endpoints("192.0.2.7:0", "198.51.100.1:0"))
        });
    }

    #[test]
    fn v1_unknown_has_no_endpoints() {
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None);
        check(b"PROXY UNKNOWN \r\r\n", None);
    }

    #[test]
    fn v1_line_is_malformed() {
        for inner in [
            "UNKNOWNX",
            "TCP4",
            "TCP5 192.0.2.7 198.51.100.1 1 2",
            "UDP4 192.0.2.7 198.51.100.1 1 2",
            "TCP4 192.0.2.7 198.51.100.1 1",
            "TCP4 192.0.2.7 198.51.100.1 1 2 3",
            "TCP4 192.0.2.7 198.51.100.1 1 2 ",
            "TCP4  192.0.2.7 198.51.100.1 1 2",
            "TCP4 192.0.2.7 198.51.100.1 +1 2",
            "TCP4 192.0.2.7 198.51.100.1 01 2",
            "TCP4 192.0.2.7 198.51.100.1 1 65536",
            "TCP4 192.0.2.7 198.51.100.1 1 -2",
            "TCP4 192.0.2.07 198.51.100.1 1 2",
            "TCP4 192.0.2.256 198.51.100.1 1 2",
            "TCP4 ::1 ::1 1 2",
            "TCP6 192.0.2.7 198.51.100.1 1 2",
            "TCP6 fe80::1%eth0 ::1 1 2",
            "TCP4 a.example b.example 1 2",
            "TCP4\t192.0.2.7 198.51.100.1 1 2",
            "TCP4 192.0.2.7 198.51.100.1 1 2\r",
            "",
        ] {
            refused(format!("PROXY {inner}\r\n").as_bytes(), HeaderFault::V1Malformed);
        }
        refused(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n", HeaderFault::V1Malformed);
        refused(b"PROXY UNKNOWN\nGET / HTTP/1.1\r\n", HeaderFault::V1Malformed);
    }

    #[test]
    fn v1_line_has_107_bytes_at_most() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(longest.len(), 107);
        check(longest.as_bytes(), None);
        let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        refused(longer.as_bytes(), HeaderFault::V1TooLong);
        refused(&longer.as_bytes()[..107], HeaderFault::V1TooLong);
        assert_eq!(parse(&longer.as_bytes()[..106]), Ok(None));
    }

    // C-FWD-07
    #[test]
    fn v2_header_is_read() {
        let named = Some(endpoints(SOURCE, DESTINATION));
        assert_eq!(check(&ipv4(&[]), named).version, HeaderVersion::V2);
        let addresses = [&[0; 15][..], &[1], &[0; 15], &[2], &[0, 1, 0, 2]].concat();
        check(&v2(0x21, 0x21, &addresses), Some(endpoints("[::1]:1", "[::2]:2")));
    }

    // C-FWD-11
    #[test]
    fn v2_local_has_no_endpoints_whatever_follows() {
        check(&v2(0x20, 0x00, &[]), None);
        // HAProxy sends the addresses of its check; other senders send anything.
        for family in [0x00, 0x11, 0x21, 0x31, 0x55, 0xFF] {
            check(&v2(0x20, family, b"xyz"), None);
            check(&v2(0x20, family, &[0xFF; 300]), None);
        }
    }

    #[test]
    fn v2_datagrams_have_no_endpoints() {
        for (family, length) in [(0x12, 12), (0x22, 36), (0x32, 216)] {
            check(&v2(0x21, family, &vec![1; length]), None);
            // The TLVs behind are those of the connection all the same.
            let whole = [&vec![1; length][..], b"\x02\x00\x01a"].concat();
            let read = check(&v2(0x21, family, &whole), None);
            assert_eq!(read.details.authority.as_deref(), Some("a"));
        }
    }

    #[test]
    fn v2_client_without_an_ip_address_has_no_endpoints() {
        check(&v2(0x21, 0x00, &[]), None);
        check(&v2(0x21, 0x31, &[b'/'; 216]), None);
        let authority = v2(0x21, 0x00, b"\x02\x00\x01a");
        assert_eq!(check(&authority, None).details.authority.as_deref(), Some("a"));
    }

    #[test]
    fn v2_fixed_part_is_malformed() {
        for version in [0x01, 0x11, 0x31, 0xF1] {
            refused(&v2(version, 0x11, &[0; 12]), HeaderFault::Version(version >> 4));
        }
        refused(&v2(0x22, 0x11, &[0; 12]), HeaderFault::Command(2));
        refused(&v2(0x2F, 0x11, &[0; 12]), HeaderFault::Command(15));
        for family in [0x01, 0x10, 0x13, 0x20, 0x30, 0x41, 0xFF] {
            refused(&v2(0x21, family, &[0; 216]), HeaderFault::Family(family));
        }
        for (family, length) in [(0x11, 11), (0x21, 35), (0x31, 215), (0x12, 0)] {
            refused(&v2(0x21, family, &vec![0; length]), HeaderFault::V2TooShort);
        }
    }

    #[test]
    fn v2_header_has_16_kib_at_most() {
        let filled = |bytes: usize| {
            let length = u16::try_from(bytes - 16 - 12 - 3).unwrap().to_be_bytes();
            let noop = [&[4], &length[..], &vec![0; bytes - 16 - 12 - 3]].concat();
            ipv4(&noop)
        };
        check(&filled(MAX_HEADER_BYTES), Some(endpoints(SOURCE, DESTINATION)));
        let longer = filled(MAX_HEADER_BYTES + 1);
        // Its length alone decides.
        refused(&longer[..16], HeaderFault::V2TooLong(MAX_HEADER_BYTES + 1));
        refused(&v2(0x20, 0, &[0; 65535])[..16], HeaderFault::V2TooLong(65551));
    }

    // C-FWD-08, C-FWD-09, C-FWD-10
    #[test]
    fn v2_tlv_with_a_wrong_length_is_refused() {
        // One byte behind the last, a length over the end, a length short of the end.
        for tlvs in [
            &b"\x02\x00\x01a\x05"[..],
            b"\x02\x00\x01a\x05\x00",
            b"\x05\x00\x02a",
            b"\x05\xff\xffa",
            b"\x05\x00\x01ab",
        ] {
            let kind = if tlvs.ends_with(b"ab") { b'b' } else { 0x05 };
            refused(&ipv4(tlvs), HeaderFault::Tlv(kind));
        }
        // A checksum of three bytes, and TLS facts of four.
        refused(&ipv4(b"\x03\x00\x03abc"), HeaderFault::Tlv(0x03));
        refused(&ipv4(b"\x20\x00\x04\x01\x00\x00\x00"), HeaderFault::Tlv(0x20));
        // A TLV inside TLS facts that is longer than they are.
        refused(&ipv4(b"\x20\x00\x09\x01\x00\x00\x00\x00\x21\x00\x02a"), HeaderFault::Tlv(0x21));
    }

    #[test]
    fn v2_tlvs_are_read() {
        let mut ssl = SslInfo::new(true, true, false, 0);
        ssl.append_tlv(Tlv::SslVersion("TLSv1.3".into()));
        ssl.append_tlv(Tlv::SslCn("M\u{fc}ller".into()));
        ssl.append_tlv(Tlv::SslCipher("TLS_AES_256_GCM_SHA384".into()));
        let addresses =
            ProxiedAddress::stream(SOURCE.parse().unwrap(), DESTINATION.parse().unwrap());
        let tlvs = [
            Tlv::Alpn(b"http/1.1".into()),
            Tlv::Authority("ws.example.com".into()),
            Tlv::UniqueId(b"\x00\x7f".into()),
            Tlv::Custom(0xEA, b"vpce-1".into()),
            Tlv::Ssl(ssl),
        ];
        let mut header = Vec::new();
        ProxyHeader::with_tlvs(Some(addresses), tlvs).encode_v2(&mut header).unwrap();
        let read = check(&header, Some(endpoints(SOURCE, DESTINATION))).details;
        let expected = "authority=\"ws.example.com\" unique_id=\"007f\" tls=\"TLSv1.3\" \
                        cn=\"M\u{fc}ller\" verify=0";
        assert_eq!(read.to_string(), expected);
    }

    #[test]
    fn v2_checksum_is_compared() {
        let mut header = ipv4(b"\x03\x00\x04\x00\x00\x00\x00\x04\x00\x01x");
        let at = header.len() - 8;
        let sum = tlv::crc32c(&header, at);
        header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        check(&header, Some(endpoints(SOURCE, DESTINATION)));
        for changed in [16, at, header.len() - 1] {
            let mut header = header.clone();
            header[changed] ^= 1;
            refused(&header, HeaderFault::Checksum);
        }
    }

    #[test]
    fn other_openings_are_named() {
        refused(&[0x16, 3, 1], HeaderFault::Absent(Opening::Tls));
        refused(b"GET / HTTP/1.1\r\n", HeaderFault::Absent(Opening::Http));
        refused(b"POST", HeaderFault::Absent(Opening::Http));
        refused(b"PROXYTCP4", HeaderFault::Absent(Opening::Http));
        refused(b"\r\nGET", HeaderFault::Absent(Opening::Other));
        refused(b"\r\n\r\n\0\r\nQUIT\r", HeaderFault::Absent(Opening::Other));
        refused(b"proxy tcp4", HeaderFault::Absent(Opening::Other));
        assert_eq!(parse(b""), Ok(None));
    }

    /// Beginnings of streams, which any bytes may follow.
    const STARTS: [&[u8]; 5] =
        [b"PROXY TCP4 ", b"PROXY ", b"", b"\r\n\r\n\0\r\nQUIT\n!\x11\0", b"\r\n\r\n\0\r\nQUIT\n"];

    proptest! {
        #[test]
        fn any_bytes_behind_a_signature_are_read_alike(
            start in 0..STARTS.len(),
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [STARTS[start], &rest].concat();
            let whole = parse(&bytes);
            // A longer stream never turns a verdict, and no verdict needs bytes behind the header.
            for length in 0..bytes.len() {
                let part = parse(&bytes[..length]);
                prop_assert!(part == Ok(None) || part == whole, "{:?} of {:?}", part, whole);
            }
            if let Ok(Some((_, length))) = whole {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(parse(&bytes[..length]), whole);
            }
        }
    }
}

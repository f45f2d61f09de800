//! The elements of forwarded headers, from right to left, and the address that each names.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderValue};

use crate::policy::forwarded::derivation::{WalkFault, excerpt};
use crate::policy::forwarded::header::ForwardedHeader;
use crate::policy::request::field::token;

/// One element: the address that a proxy was connected from, and what it says besides.
pub struct Element<'h> {
    /// The address that `for` or the element itself is.
    pub address: IpAddr,
    /// `proto`. `None` means that the element has none.
    pub scheme: Option<Cow<'h, [u8]>>,
    /// `host`. `None` means that the element has none.
    pub host: Option<Cow<'h, [u8]>>,
}

impl<'h> Element<'h> {
    /// Parses one element of `header`.
    pub fn parse(text: &'h [u8], header: ForwardedHeader) -> Result<Self, WalkFault> {
        match header {
            ForwardedHeader::XForwardedFor => {
                Ok(Element { address: node(text, PortForm::Number)?, scheme: None, host: None })
            }
            ForwardedHeader::Forwarded => parameters(text),
        }
    }
}

/// The elements of a header, last to first, over all its lines (RFC 9110 §5.3). Empty elements are
/// left out (RFC 9110 §5.6.1).
pub struct FromRight<'h, L> {
    lines: L,
    line: Option<&'h [u8]>,
    header: ForwardedHeader,
}

impl<'h> FromRight<'h, ()> {
    /// The elements of `header`.
    pub fn new(
        headers: &'h HeaderMap,
        header: ForwardedHeader,
    ) -> FromRight<'h, impl Iterator<Item = &'h [u8]>> {
        let lines = headers.get_all(header.field()).iter().rev().map(HeaderValue::as_bytes);
        FromRight { lines, line: None, header }
    }
}

impl<'h, L: Iterator<Item = &'h [u8]>> Iterator for FromRight<'h, L> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        loop {
            let line = match self.line.take() {
                Some(line) => line,
                None => self.lines.next()?,
            };
            // A quoted string ends with its line: no proxy may continue another's.
            let comma = match self.header {
                ForwardedHeader::XForwardedFor => line.iter().rposition(|byte| *byte == b','),
                ForwardedHeader::Forwarded => last_comma(line),
            };
            let element = match comma {
                Some(at) => {
                    self.line = Some(&line[..at]);
                    &line[at + 1..]
                }
                None => line,
            };
            let element = element.trim_ascii();
            if !element.is_empty() {
                return Some(element);
            }
        }
    }
}

/// The last comma outside of quoted strings. Read from the right, quotes that a client has left
/// open cannot swallow the elements that proxies appended.
fn last_comma(line: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' if !quoted => quoted = true,
            // `\"` is a character of the string (RFC 9110 §5.6.4), unless the `\` is one itself.
            b'"' => {
                let slashes = line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
                quoted = slashes % 2 == 1;
            }
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Parses an element of RFC 7239 §4. Spaces around `;` are accepted.
fn parameters(element: &[u8]) -> Result<Element<'_>, WalkFault> {
    let malformed = || WalkFault::Malformed(excerpt(element));
    let (mut client, mut scheme, mut host) = (None, None, None);
    let mut rest = element;
    while !rest.is_empty() {
        // A pair between two semicolons may be empty (RFC 7239 §4).
        if rest[0] == b';' {
            rest = rest[1..].trim_ascii();
            continue;
        }
        let equals = rest.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        let name = token(&rest[..equals]).filter(|name| !name.is_empty()).ok_or_else(malformed)?;
        let (value, behind) = value(&rest[equals + 1..]).ok_or_else(malformed)?;
        rest = behind.trim_ascii();
        if !matches!(rest.first(), None | Some(b';')) {
            return Err(malformed());
        }
        let known = [("for", &mut client), ("proto", &mut scheme), ("host", &mut host)];
        for (parameter, slot) in known {
            // Each parameter occurs once (RFC 7239 §4): two would have two readings.
            if name.eq_ignore_ascii_case(parameter) && slot.replace(value.clone()).is_some() {
                return Err(malformed());
            }
        }
    }
    // A hop that names no address hides it, as `unknown` does.
    let client = client.ok_or_else(|| WalkFault::Hidden(excerpt(element)))?;
    Ok(Element { address: node(&client, PortForm::Any)?, scheme, host })
}

/// The value at the start of `text`, and what follows. `:`, `[` and `]` need no quotes here: many
/// proxies write none around a port.
fn value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let is_plain = |byte: &u8| matches!(byte, b':' | b'[' | b']') || token(&[*byte]).is_some();
        let end = text.iter().position(|byte| !is_plain(byte)).unwrap_or(text.len());
        return Some((Cow::Borrowed(&text[..end]), &text[end..]));
    };
    let mut unquoted = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                // A string that may hold another proxy's element: a client that leaves a quote open
                // could otherwise make its own address the nearest.
                let swallows = unquoted.contains(&b',') && unquoted.contains(&b'=');
                return (!swallows).then(|| (Cow::Owned(unquoted), &quoted[at + 1..]));
            }
            b'\\' => unquoted.push(*bytes.next()?.1),
            other => unquoted.push(*other),
        }
    }
    None
}

/// How a port may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PortForm {
    /// A number of 16 bits.
    Number,
    /// Digits, or an obfuscated port (RFC 7239 §6.3).
    Any,
}

/// The address of a node: `192.0.2.1`, `2001:db8::1` or `[2001:db8::1]`, the first and the last
/// also with a port. A zone id is refused: it names an interface of another host.
fn node(text: &[u8], form: PortForm) -> Result<IpAddr, WalkFault> {
    if is_hidden(text) {
        return Err(WalkFault::Hidden(excerpt(text)));
    }
    let address = str::from_utf8(text).ok().and_then(|text| {
        let (address, port) = match text.strip_prefix('[') {
            Some(literal) => {
                let (address, rest) = literal.split_once(']')?;
                (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), rest)
            }
            // As a whole first: behind a bare IPv6 address a port looks like one more group.
            None => match text.parse() {
                Ok(address) => (address, ""),
                Err(_) => {
                    let (address, _) = text.split_once(':')?;
                    let rest = &text[address.len()..];
                    (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), rest)
                }
            },
        };
        (port.is_empty() || is_port(port, form)).then_some(address)
    });
    address.ok_or_else(|| WalkFault::NoAddress(excerpt(text)))
}

fn is_port(text: &str, form: PortForm) -> bool {
    let Some(port) = text.strip_prefix(':') else { return false };
    let is_number = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && port.parse::<u16>().is_ok())
        || (form == PortForm::Any && is_obfuscated(port.as_bytes()))
}

/// Whether a node has no address: `unknown`, or an obfuscated identifier (RFC 7239 §6.2, §6.3).
fn is_hidden(node: &[u8]) -> bool {
    let name = node.split(|byte| *byte == b':').next().unwrap_or_default();
    name.eq_ignore_ascii_case(b"unknown") || is_obfuscated(name)
}

fn is_obfuscated(name: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    name.len() > 1 && name[0] == b'_' && name.iter().all(is_part)
}

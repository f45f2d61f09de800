//! Protocols that a listener does not speak, told by a connection's first bytes: plain HTTP on a
//! port for TLS, HTTP/2 without negotiation on a port for HTTP/1.1, and a PROXY header of a peer
//! that may send none.
//!
//! Such a client gets an answer that its user can read, in HTTP/1.1, and nothing else: it is never
//! served. Bytes that are no HTTP get no answer.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::data::proxy_protocol::header::V2_SIGNATURE;

/// The longest method that is recognised. The longest registered one has 17 characters
/// (`UPDATEREDIRECTREF`).
const MAX_METHOD_BYTES: usize = 20;

/// The first line of HTTP/2 without negotiation (RFC 9113 §3.4).
const HTTP2_PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a few first bytes say about a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// The bytes begin this protocol.
    Match,
    /// The bytes cannot begin this protocol.
    Mismatch,
    /// More bytes are needed to decide.
    NeedMore,
}

/// Whether `said` begins a request of plain HTTP: a method, a space, and the beginning of a target.
/// A TLS record begins with no letter.
pub fn sniff_http(said: &[u8]) -> Sniffed {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    let length = said.iter().take(MAX_METHOD_BYTES + 1).take_while(|byte| is_method(byte)).count();
    let (method, rest) = said.split_at(length);
    match rest {
        // A method may have a hyphen inside (`VERSION-CONTROL`); no registered one begins with it.
        _ if length > MAX_METHOD_BYTES || said.starts_with(b"-") => Sniffed::Mismatch,
        [] => Sniffed::NeedMore,
        [b' '] if length > 0 => Sniffed::NeedMore,
        // A path, the asterisk, or a URI of the scheme `http` or `https` (RFC 9112 §3.2).
        [b' ', b'/' | b'*' | b'h' | b'H', ..] if length > 0 => Sniffed::Match,
        // CONNECT alone names an authority (RFC 9112 §3.2.3).
        [b' ', first, ..] if method == b"CONNECT" && first.is_ascii_alphanumeric() => {
            Sniffed::Match
        }
        _ => Sniffed::Mismatch,
    }
}

/// Whether `said` begins HTTP/2 without negotiation.
pub fn sniff_http2(said: &[u8]) -> Sniffed {
    match said {
        _ if said.starts_with(HTTP2_PREFACE_LINE) => Sniffed::Match,
        _ if HTTP2_PREFACE_LINE.starts_with(said) => Sniffed::NeedMore,
        _ => Sniffed::Mismatch,
    }
}

/// Whether `said` begins a PROXY header. `PROXY` alone may be a method of HTTP, whose target begins
/// otherwise (RFC 9112 §3.2).
pub fn sniff_proxy(said: &[u8]) -> Sniffed {
    let mut sniffed = Sniffed::Mismatch;
    for beginning in [V2_SIGNATURE, b"PROXY TCP", b"PROXY UNKNOWN"] {
        if said.starts_with(beginning) {
            return Sniffed::Match;
        }
        if beginning.starts_with(said) {
            sniffed = Sniffed::NeedMore;
        }
    }
    sniffed
}

/// Sends `answer`, and ends our direction. The caller discards what the client has sent.
pub async fn send_and_shutdown(
    io: &mut (impl AsyncWrite + Unpin),
    answer: &[u8],
) -> io::Result<()> {
    io.write_all(answer).await?;
    io.flush().await?;
    io.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is: fn(&[u8]) -> Sniffed, whole: &str, from: usize) {
        for length in 0..=whole.len() {
            let expected = if length < from { Sniffed::NeedMore } else { Sniffed::Match };
            assert_eq!(is(&whole.as_bytes()[..length]), expected, "{:?}", &whole[..length]);
        }
    }

    #[test]
    fn plain_http_is_recognised_by_its_method_and_its_target() {
        check(sniff_http, "GET / HTTP/1.1\r\n", 5);
        check(sniff_http, "OPTIONS * HTTP/1.0\r\n", 9);
        check(sniff_http, "GET http://a.example/ HTTP/1.1\r\n", 5);
        check(sniff_http, "CONNECT a.example:443 HTTP/1.1\r\n", 9);
        check(sniff_http, "VERSION-CONTROL /x HTTP/1.1\r\n", 17);
        check(sniff_http, "PRI * HTTP/2.0\r\n", 5);
    }

    #[test]
    fn bytes_of_other_protocols_are_not_sniffed_as_http() {
        let client_hello = &[0x16, 3, 1, 2, 0][..];
        for said in [
            client_hello,
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"EHLO a.example\r\n",
            b"get / HTTP/1.1\r\n",
            b" GET / HTTP/1.1\r\n",
            b"-GET / HTTP/1.1\r\n",
            b"GET\t/ HTTP/1.1\r\n",
            b"GET \r\n",
            b"QUIT\r\n",
            b"\r\n",
            b"\0\0\0",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        ] {
            assert_eq!(sniff_http(said), Sniffed::Mismatch, "{said:?}");
        }
    }

    #[test]
    fn proxy_headers_are_recognised_and_the_method_is_not() {
        check(sniff_proxy, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 9);
        check(sniff_proxy, "PROXY TCP6 ::1 ::1 1 2\r\n", 9);
        check(sniff_proxy, "PROXY UNKNOWN\r\n", 13);
        check(sniff_proxy, "\r\n\r\n\0\r\nQUIT\n!", 12);
        for said in [&b"PROXY / HTTP/1.1"[..], b"PROPFIND", b"POST", b"\r\nGET", b"\r\n\r\nGET"] {
            assert_eq!(sniff_proxy(said), Sniffed::Mismatch, "{said:?}");
        }
    }

    #[test]
    fn http_2_is_recognised_by_its_first_line() {
        check(sniff_http2, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2_PREFACE_LINE.len());
        for said in [&b"PRI * HTTP/1.1\r\n"[..], b"PRO", b"GET", b"POST", b"PRI /"] {
            assert_eq!(sniff_http2(said), Sniffed::Mismatch, "{said:?}");
        }
    }
}

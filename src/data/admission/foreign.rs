//! Protocols that a listener does not speak, told by a connection's first bytes: plain HTTP on a
//! port for TLS, and HTTP/2 without negotiation on a port for HTTP/1.1.
//!
//! Such a client gets an answer that its user can read, in HTTP/1.1, and nothing else: it is never
//! served. Bytes that are no HTTP get no answer.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// The longest method that is recognised. The longest registered one has 17 characters
/// (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 20;

/// The first line of HTTP/2 without negotiation (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a few first bytes say about a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// The bytes begin this protocol.
    Yes,
    /// The bytes cannot begin this protocol.
    No,
    /// More bytes are needed to decide.
    NotYet,
}

/// Whether `said` begins a request of plain HTTP: a method, a space, and the beginning of a target.
/// A TLS record begins with no letter.
pub fn is_http(said: &[u8]) -> Is {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    let length = said.iter().take(MAX_METHOD + 1).take_while(|byte| is_method(byte)).count();
    let (method, rest) = said.split_at(length);
    match rest {
        _ if length > MAX_METHOD || said.starts_with(b"-") => Is::No,
        [] => Is::NotYet,
        [b' '] if length > 0 => Is::NotYet,
        [b' ', b'/' | b'*' | b'h' | b'H', ..] if length > 0 => Is::Yes,
        [b' ', first, ..] if method == b"CONNECT" && first.is_ascii_alphanumeric() => Is::Yes,
        _ => Is::No,
    }
}

/// Whether `said` begins HTTP/2 without negotiation.
pub fn is_http2(said: &[u8]) -> Is {
    match said {
        _ if said.starts_with(PREFACE) => Is::Yes,
        _ if PREFACE.starts_with(said) => Is::NotYet,
        _ => Is::No,
    }
}

/// Sends `answer`, and ends our direction. The caller discards what the client has sent.
pub async fn dismiss(io: &mut (impl AsyncWrite + Unpin), answer: &[u8]) -> io::Result<()> {
    io.write_all(answer).await?;
    io.flush().await?;
    io.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is: fn(&[u8]) -> Is, whole: &str, from: usize) {
        for length in 0..=whole.len() {
            let expected = if length < from { Is::NotYet } else { Is::Yes };
            assert_eq!(is(&whole.as_bytes()[..length]), expected, "{:?}", &whole[..length]);
        }
    }

    #[test]
    fn plain_http_is_recognised_by_its_method_and_its_target() {
        check(is_http, "GET / HTTP/1.1\r\n", 5);
        check(is_http, "OPTIONS * HTTP/1.0\r\n", 9);
        check(is_http, "GET http://a.example/ HTTP/1.1\r\n", 5);
        check(is_http, "CONNECT a.example:443 HTTP/1.1\r\n", 9);
        check(is_http, "VERSION-CONTROL /x HTTP/1.1\r\n", 17);
        check(is_http, "PRI * HTTP/2.0\r\n", 5);
    }

    #[test]
    fn what_is_neither_tls_nor_http_is_not_taken_for_http() {
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
            assert_eq!(is_http(said), Is::No, "{said:?}");
        }
    }

    #[test]
    fn http_2_is_recognised_by_its_first_line() {
        check(is_http2, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PREFACE.len());
        for said in [&b"PRI * HTTP/1.1\r\n"[..], b"PRO", b"GET", b"POST", b"PRI /"] {
            assert_eq!(is_http2(said), Is::No, "{said:?}");
        }
    }
}

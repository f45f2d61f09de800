//! Heads that hyper would refuse with a bare status, found before it reads them.
//!
//! hyper answers such a head by itself: no body, no reason, no request id. Here the same parser
//! (httparse) and the same rules of framing (RFC 9112 §6.3) look at a head first, so that its
//! request is refused as every other is. A head that passes is still parsed by hyper: a mistake
//! here may cost a bare status, and never lets a head through that hyper refuses.

use std::fmt;
use std::mem::MaybeUninit;

use http::{Method, Uri};

use crate::refusal::{HeadError, Refusal};
use crate::snapshot::listener::DEFAULT_MAX_FIELDS;

/// Longest target that hyper hands over, in bytes; the gate refuses shorter ones by itself.
const MAX_TARGET_BYTES: usize = u16::MAX as usize - 1;

/// Largest `Content-Length` that hyper accepts: it keeps the two values above for itself.
const MAX_CONTENT_LENGTH: u64 = u64::MAX - 2;

/// The bounds of the heads of one listener.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// The most bytes of a head.
    pub max_head: usize,
    /// The most fields of a head.
    pub max_fields: usize,
}

/// What [`check`] finds at the start of a client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadCheck {
    /// A complete head of this many bytes, without a flaw.
    Complete(usize),
    /// An incomplete head, without a flaw so far.
    Partial,
    /// A head that hyper would refuse, or bytes that are none.
    Flawed(HeadFlaw),
}

/// Why hyper would refuse a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFlaw {
    /// The parser cannot read it.
    Unreadable(httparse::Error),
    /// The target is no URI.
    Target,
    /// The target is longer than hyper accepts.
    TargetTooLong,
    /// `Content-Length` is no number, or several that differ.
    ContentLength,
    /// `Transfer-Encoding` does not end in `chunked`, or comes with HTTP/1.0, which has none.
    TransferEncoding,
    /// It has more fields than the listener takes.
    TooManyFields(usize),
    /// It has more bytes than the listener takes.
    TooLarge,
}

impl HeadFlaw {
    /// The refusal of a request whose head has this flaw.
    pub fn refusal(self) -> Refusal {
        Refusal::Head(match self {
            HeadFlaw::Unreadable(_)
            | HeadFlaw::Target
            | HeadFlaw::ContentLength
            | HeadFlaw::TransferEncoding => HeadError::Malformed,
            HeadFlaw::TargetTooLong => HeadError::TargetTooLong,
            HeadFlaw::TooManyFields(_) | HeadFlaw::TooLarge => HeadError::TooLarge,
        })
    }
}

impl fmt::Display for HeadFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadFlaw::Unreadable(error) => write!(f, "its head cannot be read: {error}"),
            HeadFlaw::Target => f.write_str("its target is no URI"),
            HeadFlaw::TargetTooLong => f.write_str("its target is over 64 KiB"),
            HeadFlaw::ContentLength => f.write_str("its Content-Length is not one number"),
            HeadFlaw::TransferEncoding => f.write_str("its Transfer-Encoding is not chunked"),
            HeadFlaw::TooManyFields(max) => {
                write!(
                    f,
                    "its head is too large: too many header fields (more than {max}, `max_fields`)"
                )
            }
            HeadFlaw::TooLarge => f.write_str("its head is too large: over `max_head`"),
        }
    }
}

/// Looks at the head at the start of `bytes`; the checks are in the order of hyper.
pub fn check(bytes: &[u8], limits: HeadLimits) -> HeadCheck {
    let mut usual = [const { MaybeUninit::uninit() }; DEFAULT_MAX_FIELDS];
    let mut more = Vec::new();
    // On the stack up to hyper's default. Only a listener with a larger `max_fields` allocates.
    let fields = match usual.get_mut(..limits.max_fields) {
        Some(fields) => fields,
        None => {
            more.resize_with(limits.max_fields, MaybeUninit::uninit);
            &mut more[..]
        }
    };
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(bytes, fields) {
        Ok(httparse::Status::Complete(length)) => length,
        // Bounded while it is still incomplete: a head without an end must not fill the buffer.
        Ok(httparse::Status::Partial) if bytes.len() > limits.max_head => {
            return HeadCheck::Flawed(HeadFlaw::TooLarge);
        }
        Ok(httparse::Status::Partial) => return HeadCheck::Partial,
        Err(httparse::Error::TooManyHeaders) => {
            return HeadCheck::Flawed(HeadFlaw::TooManyFields(limits.max_fields));
        }
        Err(error) => return HeadCheck::Flawed(HeadFlaw::Unreadable(error)),
    };
    if length > limits.max_head {
        return HeadCheck::Flawed(HeadFlaw::TooLarge);
    }
    match flaw(&head) {
        Some(flaw) => HeadCheck::Flawed(flaw),
        None => HeadCheck::Complete(length),
    }
}

/// Returns the flaw of a head that the parser can read. `None` means that hyper accepts it.
fn flaw(head: &httparse::Request<'_, '_>) -> Option<HeadFlaw> {
    let (method, target) = (head.method.unwrap_or_default(), head.path.unwrap_or_default());
    if target.len() > MAX_TARGET_BYTES {
        return Some(HeadFlaw::TargetTooLong);
    }
    if Method::from_bytes(method.as_bytes()).is_err() {
        return Some(HeadFlaw::Unreadable(httparse::Error::Token));
    }
    if Uri::try_from(target.as_bytes()).is_err() {
        return Some(HeadFlaw::Target);
    }
    framing(head)
}

/// Checks that the end of the body is known (RFC 9112 §6.3). Like hyper, it ignores a
/// `Content-Length` behind a `Transfer-Encoding`.
fn framing(head: &httparse::Request<'_, '_>) -> Option<HeadFlaw> {
    let (mut length, mut is_chunked) = (None, None);
    for field in head.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            // HTTP/1.0 has no `Transfer-Encoding` (RFC 9112 §6.1): an older reader would end the
            // body elsewhere.
            if head.version != Some(1) {
                return Some(HeadFlaw::TransferEncoding);
            }
            // Of several lines the last decides, as in hyper.
            is_chunked = Some(ends_in_chunked(field.value));
        } else if field.name.eq_ignore_ascii_case("content-length") && is_chunked.is_none() {
            let Some(number) = parse_digits(field.value) else {
                return Some(HeadFlaw::ContentLength);
            };
            // Equal repetitions are one length (RFC 9110 §8.6). Two that differ have no meaning
            // that all readers share.
            if *length.get_or_insert(number) != number {
                return Some(HeadFlaw::ContentLength);
            }
        }
    }
    (is_chunked == Some(false)).then_some(HeadFlaw::TransferEncoding)
}

fn ends_in_chunked(value: &[u8]) -> bool {
    // hyper reads the value as text: tabs and visible ASCII. Any other byte makes it no coding.
    let is_text = value.iter().all(|byte| *byte == b'\t' || (b' '..=b'~').contains(byte));
    let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    is_text && last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Parses digits alone (RFC 9110 §8.6): `parse` would also accept a sign in front of them.
fn parse_digits(value: &[u8]) -> Option<u64> {
    // An empty value passes this filter, and fails in `parse`.
    let digits = str::from_utf8(value).ok().filter(|_| value.iter().all(u8::is_ascii_digit))?;
    digits.parse().ok().filter(|length| *length <= MAX_CONTENT_LENGTH)
}

/// Returns the request that hyper reads in place of a head that begins with `came`. That request
/// ends its connection, and its answer has a body unless the client expects none.
pub fn stand_in_request(came: &[u8]) -> &'static [u8] {
    if came.starts_with(b"HEAD ") {
        b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    } else {
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const BOUNDS: HeadLimits = HeadLimits { max_head: 8192, max_fields: 16 };

    #[test]
    fn head_is_checked_as_it_comes() {
        let check =
            |came: &str, looked| assert_eq!(check(came.as_bytes(), BOUNDS), looked, "{came:?}");
        check("", HeadCheck::Partial);
        check("\r\nGET / HT", HeadCheck::Partial);
        check("GET / HTTP/1.1\r\nHost: a\r\n", HeadCheck::Partial);
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\nmore", HeadCheck::Complete(27));
        check("GET / HTTP/1.1\nHost: a\n\n", HeadCheck::Complete(24));
        check(
            "GET / HTTP/1.2\r\n",
            HeadCheck::Flawed(HeadFlaw::Unreadable(httparse::Error::Version)),
        );
        check("X : y\r\n", HeadCheck::Flawed(HeadFlaw::Unreadable(httparse::Error::Version)));
        let name = HeadCheck::Flawed(HeadFlaw::Unreadable(httparse::Error::HeaderName));
        check("GET / HTTP/1.1\r\nX : y\r\n", name);
        check("GET / HTTP/1.1\r\nA: b\r\n c\r\n", name);
        check("GET http:// HTTP/1.1\r\n\r\n", HeadCheck::Flawed(HeadFlaw::Target));
        check(&format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(16)), HeadCheck::Partial);
        let many = HeadCheck::Flawed(HeadFlaw::TooManyFields(16));
        check(&format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(17)), many);
        check(
            &format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(8192)),
            HeadCheck::Flawed(HeadFlaw::TooLarge),
        );
    }

    #[test]
    fn framing_is_one_length_or_chunked() {
        let check = |fields: &str, flaw: Option<HeadFlaw>| {
            let head = format!("POST / HTTP/1.1\r\n{}\r\n\r\n", fields.replace('|', "\r\n"));
            let looked = flaw.map_or(HeadCheck::Complete(head.len()), HeadCheck::Flawed);
            assert_eq!(check(head.as_bytes(), BOUNDS), looked, "{fields}");
        };
        for fields in [
            "A: b",
            "Content-Length: 5",
            "Content-Length: 005|content-length:5",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, Chunked",
            "Transfer-Encoding: chunked|Content-Length: x",
            "Transfer-Encoding: gzip|Transfer-Encoding: chunked",
        ] {
            check(fields, None);
        }
        for length in ["5, 5", "+5", "-5", "0x5", "", "5 5", "5.0", "99999999999999999999"] {
            check(&format!("Content-Length: {length}"), Some(HeadFlaw::ContentLength));
        }
        check("Content-Length: 5|Content-Length: 6", Some(HeadFlaw::ContentLength));
        check("Content-Length: x|Transfer-Encoding: chunked", Some(HeadFlaw::ContentLength));
        for coding in ["xchunked", "gzip", "chunked, gzip", "", "chunked,", "chunked;a=b"] {
            check(&format!("Transfer-Encoding: {coding}"), Some(HeadFlaw::TransferEncoding));
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(super::check(old, BOUNDS), HeadCheck::Flawed(HeadFlaw::TransferEncoding));
    }

    /// Whether hyper hands over the head at the start of `came`.
    async fn by_hyper(came: &[u8]) -> bool {
        let (mut near, far) = duplex(1 << 16);
        let is_seen = std::sync::atomic::AtomicBool::new(false);
        let service = service_fn(|_: Request<Incoming>| {
            is_seen.store(true, std::sync::atomic::Ordering::Relaxed);
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        near.write_all(came).await.unwrap();
        near.shutdown().await.unwrap();
        let mut builder = http1::Builder::new();
        builder.max_headers(BOUNDS.max_fields).max_header_size(BOUNDS.max_head);
        let connection = builder.serve_connection(TokioIo::new(far), service);
        let _ = tokio::join!(connection, async { near.read_to_end(&mut Vec::new()).await });
        is_seen.into_inner()
    }

    #[tokio::test]
    async fn fault_is_found_exactly_where_hyper_refuses() {
        const BYTES: &[u8] = b" \t\r\n:,;/?#%\\\"()<>@[]\0\x01\x7f\x80\xffaZ09-+.*";
        let whole: &[&[u8]] = &[
            b"GET /a/%2e?b=c#f HTTP/1.1\r\nHost: localhost:80\r\nCookie: a=\"b\"\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n\r\n",
            b"POST / HTTP/1.0\nContent-Length: 12\nTransfer-Encodings: x\n\n",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http://a.example:80/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ];
        let mut random = StdRng::seed_from_u64(9112);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..6000 {
            let mut came = whole.choose(&mut random).unwrap().to_vec();
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..came.len());
                let byte = *BYTES.choose(&mut random).unwrap();
                match random.random_range(0..4) {
                    0 => came[at] = byte,
                    1 => came.insert(at, byte),
                    2 => drop(came.remove(at)),
                    _ => came[at] ^= 0x20,
                }
            }
            let (looked, said) = (check(&came, BOUNDS), String::from_utf8_lossy(&came));
            match (looked, by_hyper(&came).await) {
                (HeadCheck::Complete(_), true) => taken += 1,
                // hyper sees the end of the stream in the middle of a head.
                (HeadCheck::Flawed(_) | HeadCheck::Partial, false) => refused += 1,
                (looked, is_taken) => panic!("{looked:?}, hyper takes it: {is_taken}, {said:?}"),
            }
        }
        assert!(
            taken > 1000 && refused > 1000,
            "{taken} taken, {refused} refused: that shows little"
        );
    }

    #[tokio::test]
    async fn hyper_accepts_the_stand_in() {
        for came in ["GET / HTTP/9", "HEAD / HTTP/9", "\x16\x03\x01"] {
            let stand_in = stand_in_request(came.as_bytes());
            assert_eq!(check(stand_in, BOUNDS), HeadCheck::Complete(stand_in.len()));
            assert!(
                by_hyper(stand_in).await
                    && stand_in.starts_with(b"HEAD") == came.starts_with("HEAD")
            );
        }
    }
}

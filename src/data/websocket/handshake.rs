//! The opening handshake (RFC 6455 §4.2): whether an attempt's is in order, and whether the
//! backend's 101 answers it.
//!
//! Heads are read here, and none is written. Neither the client's identity nor a policy matters.

use data_encoding::BASE64;
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode, Version, request, response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::data::websocket::frame::Extensions;
use crate::refusal::Refusal;

/// An attempt whose method, key and version are in order. Without one no 101 can
/// be agreed to.
#[derive(Debug, Clone)]
pub struct Handshake {
    key: [u8; KEY_BYTES],
    /// In the order of the offer.
    subprotocols: Box<[Box<str>]>,
    /// Names alone, without their parameters.
    extensions: Box<[Box<str>]>,
}

/// What the backend's 101 settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The subprotocol that the backend chose of those offered.
    pub subprotocol: Option<Box<str>>,
    /// The extensions in force: they say which reserved bits and opcodes are legal.
    pub extensions: Extensions,
}

/// Length of sixteen bytes in base64.
const KEY_BYTES: usize = 24;

impl Handshake {
    /// Reads the handshake of an HTTP/1.1 attempt (RFC 6455 §4.2.1; that `Upgrade`
    /// and `Connection` ask for one is what makes the request an attempt).
    ///
    /// `Refusal::Version` where `Sec-WebSocket-Version` is anything but a single
    /// 13; `Refusal::Handshake` where the method, the key or the lack of a body
    /// is wrong. A version that is stated and wrong comes before the key: old
    /// drafts had other keys, and their clients need to learn which version is
    /// spoken here.
    pub fn parse(parts: &request::Parts) -> Result<Handshake, Refusal> {
        let headers = &parts.headers;
        if parts.method != Method::GET || has_body(headers) {
            return Err(Refusal::Handshake);
        }
        let versioned = headers.contains_key(header::SEC_WEBSOCKET_VERSION);
        if versioned && single(headers, header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
            return Err(Refusal::Version);
        }
        let key =
            single(headers, header::SEC_WEBSOCKET_KEY).and_then(key).ok_or(Refusal::Handshake)?;
        if !versioned {
            return Err(Refusal::Version);
        }
        let subprotocols =
            elements(headers, header::SEC_WEBSOCKET_PROTOCOL).map(Box::from).collect();
        let extensions = elements(headers, header::SEC_WEBSOCKET_EXTENSIONS)
            .map(|one| extension(one).into())
            .collect();
        Ok(Handshake { key, subprotocols, extensions })
    }

    /// The first subprotocol of the offer. `None` means that none is offered.
    pub fn first_subprotocol(&self) -> Option<&str> {
        self.subprotocols.first().map(|name| &**name)
    }

    /// The `Sec-WebSocket-Accept` that answers this handshake.
    pub fn accept(&self) -> String {
        derive_accept_key(&self.key)
    }

    /// Checks that the backend's answer is a valid 101 to this handshake (RFC 6455 §4.2.2). The
    /// error is a sentence about its first mistake.
    ///
    /// The 101 names the protocol that follows, and that is WebSocket alone: with a second token
    /// the two sides may not agree on the protocol that they speak (RFC 9110 §7.8). HTTP/1.0 has no
    /// upgrades.
    pub fn agree(&self, head: &response::Parts) -> Result<Agreement, &'static str> {
        let headers = &head.headers;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Err("The status is not 101.");
        }
        if head.version != Version::HTTP_11 {
            return Err("The 101 is not of HTTP/1.1.");
        }
        match tokens(headers, header::UPGRADE) {
            (0, _) | (_, false) => return Err("The 101 does not list websocket in Upgrade."),
            (1, true) => {}
            _ => return Err("The 101 lists more than websocket in Upgrade."),
        }
        if !elements(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
        {
            return Err("The 101 does not list upgrade in Connection.");
        }
        // Case matters in base64, so the comparison is one of bytes.
        if single(headers, header::SEC_WEBSOCKET_ACCEPT) != Some(self.accept().as_bytes()) {
            return Err("The 101 does not hold the one Sec-WebSocket-Accept that answers the key.");
        }
        // RFC 6455 §4.1: a client must fail the connection where the answer names an extension or a
        // subprotocol that it did not offer.
        let subprotocol = self.chosen_subprotocol(headers)?;
        let mut extensions = Extensions::None;
        for named in elements(headers, header::SEC_WEBSOCKET_EXTENSIONS) {
            if !self.extensions.iter().any(|offered| offered.eq_ignore_ascii_case(extension(named)))
            {
                return Err("The 101 names an extension that was not offered.");
            }
            let is_deflate = extension(named).eq_ignore_ascii_case("permessage-deflate");
            // A second extension may use the other reserved bits: then only the frame boundaries
            // are certain.
            extensions = match extensions {
                Extensions::None | Extensions::Deflate if is_deflate => Extensions::Deflate,
                _ => Extensions::Unknown,
            };
        }
        Ok(Agreement { subprotocol, extensions })
    }

    /// The subprotocol that the 101 chose; names are compared byte for byte. `None` means that it
    /// chose none.
    fn chosen_subprotocol(&self, headers: &HeaderMap) -> Result<Option<Box<str>>, &'static str> {
        if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            return Ok(None);
        }
        let chosen = single(headers, header::SEC_WEBSOCKET_PROTOCOL)
            .ok_or("The 101 holds two Sec-WebSocket-Protocol.")?;
        let offered = self.subprotocols.iter().find(|offered| offered.as_bytes() == chosen);
        offered.cloned().map(Some).ok_or("The 101 chooses a subprotocol that was not offered.")
    }
}

/// Whether the head announces a body, which would be read as frames.
fn has_body(headers: &HeaderMap) -> bool {
    // A length is any number of digits (RFC 9110 §8.6), so `00` is no body either.
    let nothing = |value: &[u8]| !value.is_empty() && value.iter().all(|digit| *digit == b'0');
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|value| !nothing(value.as_bytes().trim_ascii()))
}

/// The value of a header that must come once. `None` means that it is absent or comes twice.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { Some(value.as_bytes().trim_ascii()) }
}

/// Reads a key in its only canonical spelling. The padding is looked for at the end, because the
/// decoder accepts it inside as well (base64 strings in a row).
fn key(value: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let key = <[u8; KEY_BYTES]>::try_from(value).ok()?;
    let decoded = BASE64.decode_mut(&key, &mut [0; KEY_BYTES / 4 * 3]).ok()?;
    if decoded == 16 && key.ends_with(b"==") { Some(key) } else { None }
}

/// The elements of a comma-separated header, over all its lines. Elements that are not UTF-8 are no
/// tokens, can match nothing, and are left out. A comma inside a quoted parameter splits as well,
/// since no valid one holds any (RFC 6455 §9.1).
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter();
    let elements = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    elements
        .filter_map(|element| str::from_utf8(element.trim_ascii()).ok())
        .filter(|element| !element.is_empty())
}

/// How many elements a list header has, valid or not, and whether `websocket` is among them.
fn tokens(headers: &HeaderMap, name: HeaderName) -> (usize, bool) {
    let lines = headers.get_all(name).into_iter();
    let tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let tokens = tokens.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty());
    tokens.fold((0, false), |(count, found), token| {
        (count + 1, found || token.eq_ignore_ascii_case(b"websocket"))
    })
}

/// The name of one element of `Sec-WebSocket-Extensions`.
fn extension(element: &str) -> &str {
    element.split(';').next().unwrap_or(element).trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Request};

    /// The example of RFC 6455 §1.3.
    const GOOD: [(&str, &str); 2] =
        [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")];
    const ANSWER: [(&str, &str); 3] = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];

    fn head(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(line) {
            headers.append(name, value);
        }
        headers
    }

    fn parse(method: &str, lines: &[(&'static str, &str)]) -> Result<Handshake, Refusal> {
        let mut request = Request::builder().method(method).body(()).unwrap();
        *request.headers_mut() = head(lines);
        Handshake::parse(&request.into_parts().0)
    }

    /// The attempt's side.
    fn check(method: &str, lines: &[(&'static str, &str)], expected: Result<(), Refusal>) {
        assert_eq!(parse(method, lines).map(drop), expected, "{method} {lines:?}");
    }

    /// The backend's side: whether `answer` agrees to the example with `offer`.
    fn check_answer(
        offer: &[(&'static str, &str)],
        status: u16,
        answer: &[(&'static str, &str)],
        agreed: Option<(Option<&str>, Extensions)>,
    ) {
        let handshake = parse("GET", &[&GOOD, offer].concat()).unwrap();
        let got = handshake.agree(&answered(Version::HTTP_11, status, answer));
        let expected = agreed.map(|(subprotocol, extensions)| Agreement {
            subprotocol: subprotocol.map(Box::from),
            extensions,
        });
        assert_eq!(got.clone().ok(), expected, "{answer:?}: {got:?}");
    }

    fn answered(version: Version, status: u16, lines: &[(&'static str, &str)]) -> response::Parts {
        let answer = http::Response::builder().version(version).status(status);
        let (mut parts, ()) = answer.body(()).unwrap().into_parts();
        parts.headers = head(lines);
        parts
    }

    #[test]
    fn the_example_of_the_rfc_is_in_order() {
        check("GET", &GOOD, Ok(()));
        check_answer(&[], 101, &ANSWER, Some((None, Extensions::None)));
    }

    // C-WS-01
    #[test]
    fn a_method_other_than_get_is_refused() {
        for method in ["POST", "HEAD", "CONNECT", "get"] {
            check(method, &GOOD, Err(Refusal::Handshake));
        }
    }

    // C-WS-02
    #[test]
    fn a_key_that_is_not_sixteen_bytes_of_base64_is_refused() {
        let refused = Err(Refusal::Handshake);
        check("GET", &GOOD[1..], refused);
        check("GET", &[GOOD[0], GOOD[0], GOOD[1]], refused);
        for key in [
            "",
            "AA==",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25jZTEy",
            "dGhlIHNhbXBsZSBub25jZR==",
            "dA==IHNhbXBsZSBub25jZQAA",
            "AA==AA==AA==AA==AA==AA==",
            "dGhlIHNhbXBsZSBub25j_-==",
            "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZQ\u{e9}",
        ] {
            check("GET", &[("Sec-WebSocket-Key", key), GOOD[1]], refused);
        }
    }

    // C-WS-03
    #[test]
    fn other_version_is_refused_as_version_even_without_a_key() {
        for version in ["8", "12", "14", "0", "013", "13, 8", "13,13", "", "websocket"] {
            let wrong = ("Sec-WebSocket-Version", version);
            check("GET", &[GOOD[0], wrong], Err(Refusal::Version));
            check("GET", &[wrong], Err(Refusal::Version));
            check("POST", &[GOOD[0], wrong], Err(Refusal::Handshake));
        }
        check("GET", &GOOD[..1], Err(Refusal::Version));
        check("GET", &[GOOD[0], GOOD[1], GOOD[1]], Err(Refusal::Version));
        check("GET", &[], Err(Refusal::Handshake));
    }

    // C-WS-05
    #[test]
    fn attempt_with_a_body_is_refused() {
        for (name, value) in [
            ("Content-Length", "1"),
            ("Content-Length", "00x"),
            ("Content-Length", ""),
            ("Transfer-Encoding", "chunked"),
        ] {
            check("GET", &[GOOD[0], GOOD[1], (name, value)], Err(Refusal::Handshake));
        }
        check(
            "GET",
            &[GOOD[0], GOOD[1], ("Transfer-Encoding", "identity")],
            Err(Refusal::Handshake),
        );
        check(
            "GET",
            &[GOOD[0], GOOD[1], ("Content-Length", "0"), ("Content-Length", "7")],
            Err(Refusal::Handshake),
        );
        check("GET", &[GOOD[0], GOOD[1], ("Content-Length", "0")], Ok(()));
    }

    // C-WS-08
    #[test]
    fn a_101_without_accept_or_with_two_is_not_agreed() {
        check_answer(&[], 101, &ANSWER[..2], None);
        check_answer(&[], 101, &[ANSWER[0], ANSWER[1], ANSWER[2], ANSWER[2]], None);
    }

    // C-WS-09
    #[test]
    fn a_101_with_a_wrong_accept_is_not_agreed() {
        for accept in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ==",
            "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo",
        ] {
            check_answer(&[], 101, &[ANSWER[0], ANSWER[1], ("Sec-WebSocket-Accept", accept)], None);
        }
    }

    // C-WS-10
    #[test]
    fn only_a_101_that_lists_the_upgrade_is_agreed() {
        check_answer(&[], 200, &ANSWER, None);
        check_answer(&[], 101, &ANSWER[1..], None);
        check_answer(&[], 101, &[ANSWER[0], ANSWER[2]], None);
        check_answer(&[], 101, &[("Upgrade", "h2c"), ANSWER[1], ANSWER[2]], None);
        check_answer(&[], 101, &[ANSWER[0], ("Connection", "close"), ANSWER[2]], None);
        check_answer(&[], 101, &[("Upgrade", "websockets"), ANSWER[1], ANSWER[2]], None);
    }

    #[test]
    fn a_101_of_http_1_0_is_not_agreed() {
        let handshake = parse("GET", &GOOD).unwrap();
        for version in [Version::HTTP_10, Version::HTTP_09, Version::HTTP_2] {
            assert!(handshake.agree(&answered(version, 101, &ANSWER)).is_err(), "{version:?}");
        }
    }

    #[test]
    fn a_101_that_lists_a_second_protocol_is_not_agreed() {
        for upgrade in ["websocket, h2c", "h2c, websocket", "websocket,websocket", "websocket/13"] {
            check_answer(&[], 101, &[("Upgrade", upgrade), ANSWER[1], ANSWER[2]], None);
        }
        check_answer(&[], 101, &[ANSWER[0], ("Upgrade", "h2c"), ANSWER[1], ANSWER[2]], None);
        check_answer(&[], 101, &[ANSWER[0], ("Upgrade", "\u{e9}"), ANSWER[1], ANSWER[2]], None);
        check_answer(
            &[],
            101,
            &[("Upgrade", ", websocket,"), ANSWER[1], ANSWER[2]],
            Some((None, Extensions::None)),
        );
    }

    // C-WS-27
    #[test]
    fn tokens_match_in_any_case_and_anywhere_in_a_list() {
        let agreed = Some((None, Extensions::None));
        check_answer(
            &[],
            101,
            &[("Upgrade", "WebSocket"), ("Connection", "UPGRADE"), ANSWER[2]],
            agreed,
        );
        check_answer(
            &[],
            101,
            &[ANSWER[0], ("Connection", "keep-alive ,\tuPgRaDe"), ANSWER[2]],
            agreed,
        );
        check_answer(
            &[],
            101,
            &[ANSWER[0], ("Connection", "keep-alive"), ANSWER[1], ANSWER[2]],
            agreed,
        );
    }

    #[test]
    fn a_subprotocol_must_have_been_offered_in_the_same_case() {
        let offer =
            [("Sec-WebSocket-Protocol", "v1.ticks, v2.ticks"), ("Sec-WebSocket-Protocol", "chat")];
        let check_choice = |chosen: &[&str], agreed| {
            let lines: Vec<_> = chosen.iter().map(|one| ("Sec-WebSocket-Protocol", *one)).collect();
            check_answer(&offer, 101, &[&ANSWER, &lines[..]].concat(), agreed);
        };
        check_choice(&[], Some((None, Extensions::None)));
        check_choice(&["v2.ticks"], Some((Some("v2.ticks"), Extensions::None)));
        check_choice(&["chat"], Some((Some("chat"), Extensions::None)));
        for wrong in
            [&["V2.ticks"][..], &["v3.ticks"], &[""], &["v1.ticks, chat"], &["chat", "chat"]]
        {
            check_choice(wrong, None);
        }
        check_answer(
            &[],
            101,
            &[&ANSWER[..], &[("Sec-WebSocket-Protocol", "chat")]].concat(),
            None,
        );
    }

    #[test]
    fn extension_must_have_been_offered() {
        let offer = [(
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits, x-Own;a=\"b\"",
        )];
        let check_named = |named: &'static str, agreed| {
            check_answer(
                &offer,
                101,
                &[&ANSWER[..], &[("Sec-WebSocket-Extensions", named)]].concat(),
                agreed,
            );
        };
        check_named("", Some((None, Extensions::None)));
        let (deflate, unknown) =
            (Some((None, Extensions::Deflate)), Some((None, Extensions::Unknown)));
        check_named("permessage-deflate", deflate);
        check_named("PerMessage-Deflate ; server_no_context_takeover", deflate);
        check_named("X-OWN", unknown);
        check_named("X-OWN, permessage-deflate", unknown);
        check_named("permessage-deflate, x-own", unknown);
        check_named("permessage-bzip2", None);
        check_named("permessage-deflate, client_max_window_bits", None);
        check_answer(
            &[],
            101,
            &[&ANSWER[..], &[("Sec-WebSocket-Extensions", "permessage-deflate")]].concat(),
            None,
        );
    }
}

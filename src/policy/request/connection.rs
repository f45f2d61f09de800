//! `Connection`: the fields that a sender marks as its connection's own (RFC 9110 §7.6.1).
//!
//! An intermediary removes them, so naming a field makes it vanish behind the gate. A request may
//! not name a field on which the gate or a backend bases a decision.

use http::HeaderMap;
use http::header::CONNECTION;

use crate::policy::request::field::elements;

/// Fields that only an end of the message may drop. Lower case, with `-` for `_`.
const END_TO_END: [&str; 10] = [
    "host",
    "origin",
    "cookie",
    "authorization",
    "forwarded",
    "x-request-id",
    "via",
    "date",
    "cache-control",
    "range",
];

/// Prefixes of further end-to-end field names.
const END_TO_END_BEGIN: [&str; 4] = ["content-", "sec-websocket-", "x-forwarded-", "client-cert"];

/// The elements of `Connection`, over all its lines and without empty ones. An element that is no
/// field name is returned but matches no field.
pub fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    elements(headers, CONNECTION)
}

/// Whether `Connection` names a field that the next hop must see.
pub fn names_end_to_end(headers: &HeaderMap) -> bool {
    options(headers).any(is_end_to_end)
}

fn is_end_to_end(name: &[u8]) -> bool {
    let begins = |begin: &&str| name.get(..begin.len()).is_some_and(|start| reads_as(start, begin));
    END_TO_END.iter().any(|field| reads_as(name, field)) || END_TO_END_BEGIN.iter().any(begins)
}

/// Whether a backend may take `name` for `field`: in any case, and with `_` for `-` as CGI, WSGI
/// and PHP do.
fn reads_as(name: &[u8], field: &str) -> bool {
    let same =
        |(byte, own): (u8, u8)| byte.to_ascii_lowercase() == own || (byte == b'_' && own == b'-');
    name.len() == field.len() && name.iter().copied().zip(field.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderValue;

    fn check(lines: &[&str], refused: bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONNECTION, HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(names_end_to_end(&headers), refused, "{lines:?}");
    }

    #[test]
    fn every_end_to_end_field_is_refused_in_any_spelling() {
        let families = [
            "Content-Length",
            "Content-Type",
            "Sec-WebSocket-Key",
            "X-Forwarded-For",
            "Client-Cert",
            "Client-Cert-Chain",
        ];
        for name in END_TO_END.iter().chain(&families).chain(&END_TO_END_BEGIN) {
            let spellings = [(*name).to_owned(), name.to_uppercase(), name.replace('-', "_")];
            for name in spellings {
                check(&[&name], true);
                check(&[&format!("Upgrade,\t{name} ,close")], true);
                check(&["keep-alive", &format!(",, {name}"), ""], true);
            }
        }
    }

    #[test]
    fn every_other_option_passes() {
        for name in [
            "close",
            "keep-alive",
            "Upgrade",
            "TE",
            "HTTP2-Settings",
            "proxy-connection",
            "trailer",
            "transfer-encoding",
            "X-Secret",
            "X-Forward",
            "hosts",
            "ghost",
            "X-Host",
            "Set-Cookie",
            "Cookie2",
            "Proxy-Authorization",
            "If-Range",
            "Accept",
            "Origin;x",
            "\"Origin\"",
            "Ori gin",
        ] {
            check(&[name], false);
        }
        check(&[], false);
        check(&["", ",", " , "], false);
    }

    #[test]
    fn the_specification_lists_exactly_these_fields() {
        let page = include_str!("../../../docs/spec/wire.md");
        let (_, section) = page.split_once("## Fields that `Connection` names\n").unwrap();
        let rows =
            section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
        let mut listed: Vec<_> = rows
            .flat_map(|row| row.split('`').skip(1).step_by(2))
            .map(str::to_ascii_lowercase)
            .collect();
        let begin = END_TO_END_BEGIN.iter().map(|begin| format!("{begin}*"));
        let mut known: Vec<_> =
            END_TO_END.iter().map(|field| (*field).to_owned()).chain(begin).collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
    }
}

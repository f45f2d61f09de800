//! `forwarded` of a `[[listener]]`.

use crate::control::config::keys::key::{Key, KeyTable, ValueForm, ValueKind, ValueSchema};
use crate::control::config::keys::sidegate::peers::peers;
use crate::control::config::source_text::{Finding, error};
use crate::policy::forwarded::ForwardedHeader;
use crate::policy::peers::PeerPattern;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&HEADER, &FROM],
    reload: "A change holds for every request that comes after it, on open connections too. A \
             tunnel keeps the client that was found when it opened.",
    ..KeyTable::EMPTY
};

const EXPECTED: &str = "\"x-forwarded-for\" or \"forwarded\"";

pub static HEADER: Key<ForwardedHeader> = Key::new(
    "header",
    ValueKind {
        words: "`\"x-forwarded-for\"` or `\"forwarded\"`",
        form: ValueForm::Text { expected: EXPECTED, parse: header },
        schema: ValueSchema::Members(&[("enum", r#"["x-forwarded-for", "forwarded"]"#)]),
        write: |_, header: &ForwardedHeader| header.field().as_str().into(),
    },
    "The header that these peers append to: \"x-forwarded-for\", or \"forwarded\" (RFC 7239). The \
     other is never read.",
)
.required()
.example("\"x-forwarded-for\"");

pub static FROM: Key<Vec<PeerPattern>> = Key::new(
    "from",
    peers(),
    "Networks and addresses of these peers, and of the proxies in front of them. What they say \
     about a client is believed.",
)
.required()
.example("[\"10.20.0.0/24\"]");

fn header(text: &str) -> Result<ForwardedHeader, Finding> {
    let known = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded];
    if let Some(header) = known.into_iter().find(|header| header.field() == *text) {
        return Ok(header);
    }
    let lower = text.to_ascii_lowercase().replace('_', "-");
    if let Some(header) = known.into_iter().find(|header| header.field() == *lower) {
        let finding = error(format!("\"{text}\" is not known"));
        return Err(finding.with_remedy(format!("write \"{}\"", header.field())));
    }
    // Fields with a single address: a proxy replaces them, or passes on what the client wrote.
    let is_single = lower.ends_with("-ip") || matches!(&*lower, "x-forwarded" | "forwarded-for");
    let finding = error(match is_single {
        true => format!(
            "\"{text}\" is not supported: it has no hops, so nothing shows which proxy wrote it"
        ),
        false => format!("\"{text}\" is not a header that Sidegate reads clients from"),
    });
    Err(finding
        .with_remedy(format!("let the proxy append to X-Forwarded-For, and write {EXPECTED}")))
}

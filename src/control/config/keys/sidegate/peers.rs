//! The peers that a listener believes, by network.

use crate::control::config::keys::key::{ValueForm, ValueKind, ValueSchema};
use crate::control::config::keys::parse::network;
use crate::control::config::source_text::{Finding, error};
use crate::control::config::users;
use crate::policy::peers::PeerPattern;
use crate::policy::unix::{UnixPattern, UnixPatternFault};

/// Networks and addresses of peers.
pub const fn peers() -> ValueKind<Vec<PeerPattern>> {
    ValueKind {
        words: "array of networks, addresses, `unix` and `unix:uid=33`",
        form: ValueForm::List {
            expected: "a network",
            empty: Vec::new,
            add: |all, text| pattern(text).map(|pattern| all.push(pattern)),
        },
        schema: ValueSchema::Members(&[
            ("type", r#""array""#),
            ("minItems", "1"),
            (
                "items",
                r#"{
  "type": "string",
  "pattern": "^(unix(:uid=[A-Za-z0-9_.$-]+)?|[ \\t]*[0-9A-Fa-f.:]+(/[0-9]+)?([ \\t].*)?)$"
}"#,
            ),
        ]),
        write: |_, all| all.iter().map(ToString::to_string).collect(),
    }
}

fn pattern(text: &str) -> Result<PeerPattern, Finding> {
    if UnixPattern::is_meant(text) {
        return unix(text);
    }
    let is_name = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        // `fe` and `face` are no addresses either, but nearer to one than to a list's name.
        && !text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_name {
        let finding = error(format!("\"{text}\" is not a network, and lists belong to policies"));
        return Err(finding.with_remedy("write the networks, like \"10.20.0.0/24\""));
    }
    network(text).map(PeerPattern::Network)
}

/// Parses `unix` and `unix:uid=33`, or the name of the user.
fn unix(text: &str) -> Result<PeerPattern, Finding> {
    const REMEDY: &str = "write \"unix\" or \"unix:uid=33\"";
    match UnixPattern::parse(text, &users::resolve) {
        Ok(pattern) if pattern.is_overflow() => {
            let finding = error(format!("\"{text}\" is any user of other user namespaces"));
            Err(finding.with_remedy("run the proxy in front as a user of this host"))
        }
        Ok(UnixPattern::Any) => Ok(PeerPattern::Unix),
        Ok(UnixPattern::Uid(uid)) => Ok(PeerPattern::UnixUid(uid)),
        Ok(UnixPattern::Gid(_)) => Err(error(format!("\"{text}\" is no peer")).with_remedy(REMEDY)),
        Err(fault @ UnixPatternFault::Unknown(..)) => {
            Err(error(fault.to_string()).with_remedy(fault.remedy()))
        }
        Err(fault) => Err(error(format!("\"{text}\": {fault}")).with_remedy(REMEDY)),
    }
}

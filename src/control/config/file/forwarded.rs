//! `forwarded` of a `[[listener]]`.

use ipnet::IpNet;

use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::forwarded::{FROM, HEADER};
use crate::control::config::keys::sidegate::listener::FORWARDED;
use crate::control::config::source_text::{error, warning};
use crate::policy::forwarded::ForwardedRules;
use crate::policy::peers::{PeerList, PeerPattern};

const EXPECTED: &str = "from = [\"10.20.0.0/24\"]";

/// Reads whose forwarded headers are believed. `None` means that the listener has no such key.
pub fn read(table: &mut TomlTable<'_>) -> Option<ForwardedRules> {
    let value = table.get(&FORWARDED)?;
    let mut table = value.table("`forwarded`".to_owned())?;
    let header = table.require(&HEADER, "header = \"x-forwarded-for\"");
    let from = table.require(&FROM, EXPECTED);
    table.finish();
    let header = header.and_then(|header| header.read(&HEADER.kind.form));
    let from = peers(&from?)?;
    Some(ForwardedRules { header: header?, from })
}

fn peers(from: &TomlValue<'_>) -> Option<PeerList> {
    let patterns = from.read(&FROM.kind.form)?;
    if from.items().is_some_and(|items| items.is_empty()) {
        // An empty list would switch off a key that its operator takes to be on.
        let finding = error("lists no peer, so that no header would be believed");
        from.report(finding.with_remedy(format!("{EXPECTED}, or remove the key")));
    }
    for pattern in &patterns {
        let PeerPattern::Network(network) = pattern else { continue };
        let remedy = "list the addresses of the proxies in front alone";
        match width(*network) {
            Width::Everyone => {
                let finding = error(format!("{network} lets every client claim any address"));
                from.report(finding.with_remedy(remedy));
            }
            Width::Wide => {
                let finding = warning(format!("{network} lets very many claim any address"));
                from.report(finding.with_remedy(remedy));
            }
            Width::Proxies => {}
        }
    }
    Some(PeerList::new(patterns))
}

/// How much of the address space a network has.
enum Width {
    Everyone,
    /// More than an organisation has of its own.
    Wide,
    Proxies,
}

fn width(network: IpNet) -> Width {
    // 10.0.0.0/8 and fc00::/7 are the widest private networks (RFC 1918, RFC 4193).
    let private = if network.network().is_ipv4() { 8 } else { 7 };
    match network.prefix_len() {
        0 => Width::Everyone,
        length if length < private => Width::Wide,
        _ => Width::Proxies,
    }
}

//! `forwarded` of a `[[listener]]`.

use ipnet::IpNet;

use super::from_peers::{self, EXPECTED, Width};
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::forwarded::{FROM, HEADER};
use crate::control::config::keys::sidegate::listener::FORWARDED;
use crate::control::config::source_text::{error, warning};
use crate::policy::forwarded::ForwardedRules;
use crate::policy::peers::{PeerList, PeerPattern};
use crate::snapshot::listener::ListenAddress;

/// Reads whose forwarded headers are believed. `None` means that the listener has no such key.
/// `address` is that of the listener, and `proxies` are the peers with a PROXY header.
pub fn read(
    table: &mut TomlTable<'_>,
    address: Option<&ListenAddress>,
    proxies: Option<&PeerList>,
) -> Option<ForwardedRules> {
    let value = table.get(&FORWARDED)?;
    let mut table = value.table("`forwarded`".to_owned())?;
    let header = table.require(&HEADER, "header = \"x-forwarded-for\"");
    let from = table.require(&FROM, EXPECTED);
    table.finish();
    let header = header.and_then(|header| header.read(&HEADER.kind.form));
    let from = peers(&from?, address, proxies.is_some())?;
    Some(ForwardedRules { header: header?, from })
}

fn peers(
    from: &TomlValue<'_>,
    address: Option<&ListenAddress>,
    is_relayed: bool,
) -> Option<PeerList> {
    let patterns = from.read(&FROM.kind.form)?;
    if from.items().is_some_and(|items| items.is_empty()) {
        // An empty list would switch off a key that its operator takes to be on.
        let finding = error("lists no peer, so that no header would be believed");
        from.report(finding.with_remedy(format!("{EXPECTED}, or remove the key")));
    } else {
        from_peers::check_kind(from, &patterns, address, is_relayed);
    }
    for pattern in &patterns {
        let PeerPattern::Network(network) = pattern else { continue };
        report_width(from, *network, "");
    }
    for network in from_peers::joined(&patterns) {
        report_width(from, network, "together these are ");
    }
    Some(PeerList::new(patterns))
}

/// Reports a network of too many peers.
fn report_width(from: &TomlValue<'_>, network: IpNet, are: &str) {
    let finding = match Width::of(network) {
        Width::Proxies => return,
        Width::Wide => warning(wide(network, are, "lets very many claim any address")),
        Width::Everyone => error(wide(network, are, "lets every client claim any address")),
    };
    from.report(finding.with_remedy("list only the addresses of the proxies in front"));
}

fn wide(network: IpNet, are: &str, lets: &str) -> String {
    let lets = if are.is_empty() { format!(" {lets}") } else { format!(", which {lets}") };
    format!("{are}{network}{lets}")
}

//! `proxy_protocol` of a `[[listener]]`.

use super::from_peers::{self, EXPECTED, Width};
use crate::control::config::document::TomlTable;
use crate::control::config::keys::sidegate::listener::PROXY_PROTOCOL;
use crate::control::config::keys::sidegate::proxy_protocol::FROM;
use crate::control::config::source_text::{error, warning};
use crate::policy::peers::{PeerList, PeerPattern};
use crate::snapshot::listener::ListenAddress;

/// Reads the peers whose connections begin with a PROXY header. `None` means that the listener has
/// no such key. `address` is that of the listener.
pub fn read(table: &mut TomlTable<'_>, address: Option<&ListenAddress>) -> Option<PeerList> {
    let value = table.get(&PROXY_PROTOCOL)?;
    let mut table = value.table("`proxy_protocol`".to_owned())?;
    let from = table.require(&FROM, EXPECTED);
    table.finish();
    let from = from?;
    let patterns = from.read(&FROM.kind.form)?;
    if from.is_array() && from.items().is_some_and(|items| items.is_empty()) {
        // An empty list would switch off a key that its operator takes to be on.
        let finding = error("lists no peer, so that no PROXY header would be read");
        from.report(finding.with_remedy(format!("{EXPECTED}, or remove the key")));
    } else {
        from_peers::check_kind(&from, &patterns, address, false);
    }
    let mut wide = Vec::new();
    for pattern in &patterns {
        let PeerPattern::Network(network) = pattern else { continue };
        // Halves of the Internet too, and `2000::/3`, which is all of IPv6 that is assigned.
        if Width::of(*network) > Width::Proxies {
            wide.push(format!("{network} lets"));
        }
    }
    if wide.is_empty() {
        let joined = from_peers::joined(&patterns).into_iter();
        wide.extend(joined.map(|network| format!("together these are {network}, which lets")));
    }
    for network in wide {
        let finding = warning(format!("{network} everyone claim any address"));
        from.report(finding.with_remedy("list only the proxies in front"));
    }
    Some(PeerList::new(patterns))
}

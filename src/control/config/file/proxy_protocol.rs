//! `proxy_protocol` of a `[[listener]]`.

use crate::control::config::document::TomlTable;
use crate::control::config::keys::sidegate::listener::PROXY_PROTOCOL;
use crate::control::config::keys::sidegate::proxy_protocol::FROM;
use crate::control::config::source_text::{error, warning};
use crate::policy::peers::{PeerList, PeerPattern};

const EXPECTED: &str = "from = [\"10.20.0.0/24\"]";

/// Reads the peers whose connections begin with a PROXY header. `None` means that the listener has
/// no such key.
pub fn read(table: &mut TomlTable<'_>) -> Option<PeerList> {
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
    }
    for pattern in &patterns {
        let PeerPattern::Network(network) = pattern else { continue };
        // Halves of the Internet too, and `2000::/3`, which is all of IPv6 that is assigned.
        if network.prefix_len() < if network.addr().is_ipv4() { 8 } else { 7 } {
            let finding = warning(format!("{network} lets everyone claim any address"));
            from.report(finding.with_remedy("list the proxies in front alone"));
        }
    }
    Some(PeerList::new(patterns))
}

//! The lines of `sidegate diff` about what new files let in.

use sidegate::admin::wire::{WidenedClients, WidenedRule, WideningChanges};
use sidegate::observe::printable;

use crate::cli::output::count_u64;

/// Most networks and most routes that are named one by one.
const MAX_NAMED: usize = 10;

/// The lines: for each policy the networks that its routes newly admit, then each wider rule.
pub fn lines(widening: &WideningChanges) -> Vec<String> {
    let clients = widening.clients.iter().map(client_lines);
    clients.chain(widening.rules.iter().map(rule_line)).collect()
}

/// `  widens: 3 networks on ticks (policy market-data): 0.01 % of IPv4`, and the largest ones.
fn client_lines(clients: &WidenedClients) -> String {
    let mut names: Vec<_> = clients.routes.iter().map(|route| printable::line(route)).collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    names.truncate(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let mut what = Vec::new();
    if clients.networks > 0 {
        what.push(count_u64(clients.networks, "network"));
    }
    if !clients.users.is_empty() {
        what.push(count_u64(clients.users.len() as u64, "kind") + " of users of this host");
    }
    let mut lines = format!(
        "  widens: {} on {}{more} (policy {})",
        what.join(" and "),
        names.join(", "),
        printable::line(&clients.policy)
    );
    let shares = [(clients.ipv4, 32, "IPv4"), (clients.ipv6_64, 64, "IPv6")];
    let shares = shares.into_iter().filter(|(part, ..)| *part > 0);
    let shares: Vec<_> =
        shares.map(|(part, bits, family)| format!("{} of {family}", percent(part, bits))).collect();
    if !shares.is_empty() {
        lines.push_str(&format!(": {}", shares.join(", ")));
    }
    let named = clients.users.iter().chain(clients.largest.iter().take(MAX_NAMED));
    named.for_each(|one| lines.push_str(&format!("\n    {}", printable::line(one))));
    let named = clients.largest.len().min(MAX_NAMED) as u64;
    let rest = clients.networks.saturating_sub(named);
    if rest > 0 {
        lines.push_str(&format!(
            "\n    … and {rest} more network{}",
            if rest == 1 { "" } else { "s" }
        ));
    }
    lines
}

/// `  widens: policy market-data  client.origins: admits every origin`.
fn rule_line(rule: &WidenedRule) -> String {
    let WidenedRule { part, name, key, what } = rule;
    let [part, name, key, what] = [part, name, key, what].map(|text| printable::line(text));
    format!("  widens: {part} {name}  {key}: {what}")
}

/// The share of `part` in two to the power of `bits`.
fn percent(part: u64, bits: i32) -> String {
    let share = part as f64 / 2f64.powi(bits) * 100.0;
    match share {
        share if share < 0.01 => "less than 0.01 %".into(),
        share if share < 10.0 => format!("{share:.2} %"),
        share => format!("{share:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(networks: u64, ipv4: u64, ipv6_64: u64, largest: &[&str]) -> WidenedClients {
        WidenedClients {
            policy: "chat".into(),
            routes: vec!["ticks".into(), "feed".into()],
            networks,
            ipv4,
            ipv6_64,
            largest: largest.iter().map(|one| (*one).to_owned()).collect(),
            users: Vec::new(),
        }
    }

    #[test]
    fn networks_are_bounded_and_counted() {
        let listed: Vec<_> = (0..12).map(|low| format!("192.0.2.{low}/32")).collect();
        let listed: Vec<_> = listed.iter().map(String::as_str).collect();
        let said = client_lines(&clients(226, 429_497, 0, &listed));
        let first = "  widens: 226 networks on ticks, feed (policy chat): 0.01 % of IPv4";
        assert_eq!(said.lines().next(), Some(first));
        assert_eq!(said.lines().count(), 12);
        assert_eq!(said.lines().last(), Some("    … and 216 more networks"));
        let one = client_lines(&clients(1, 0, 1, &["2001:db8::/64"]));
        assert!(one.contains("1 network on") && one.contains("less than 0.01 % of IPv6"), "{one}");
        assert!(one.ends_with("\n    2001:db8::/64"), "{one}");
    }

    #[test]
    fn users_and_rules_are_escaped() {
        let users = WidenedClients { users: vec!["unix:uid=33".into()], ..clients(0, 0, 0, &[]) };
        let said = client_lines(&users);
        let expected =
            "  widens: 1 kind of users of this host on ticks, feed (policy chat)\n    unix:uid=33";
        assert_eq!(said, expected);
        let rule = WidenedRule {
            part: "policy".into(),
            name: "a\u{9b}".into(),
            key: "client.origins".into(),
            what: "admits every origin".into(),
        };
        let said = "  widens: policy a\u{fffd}  client.origins: admits every origin";
        assert_eq!(rule_line(&rule), said);
    }

    #[test]
    fn share_is_rounded_and_never_shown_as_none() {
        assert_eq!(percent(1, 32), "less than 0.01 %");
        assert_eq!(percent(1 << 24, 32), "0.39 %");
        assert_eq!(percent(1 << 32, 32), "100 %");
        assert_eq!(percent(u64::MAX, 64), "100 %");
    }
}

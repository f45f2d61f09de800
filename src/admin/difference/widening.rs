//! The wire form of what a generation newly admits.

use crate::admin::wire::{WidenedClients, WidenedRule, WideningChanges};
use crate::snapshot::widening::{WidenedPart, WidenedRoutes, Widening};

/// Most networks that an answer lists.
const MAX_LISTED_NETWORKS: usize = 100_000;

/// The wire form of `widening`.
pub fn changes(widening: &Widening) -> WideningChanges {
    let addresses = widening.addresses();
    let mut room = MAX_LISTED_NETWORKS;
    let clients = widening.clients.iter().map(|one| {
        let clients = clients(one, room);
        room -= clients.largest.len();
        clients
    });
    WideningChanges {
        networks: widening.patterns_len() as u64,
        ipv4: addresses.ipv4_len(),
        ipv6_64: addresses.ipv6_len_64(),
        clients: clients.collect(),
        rules: widening.rules.iter().map(rule).collect(),
    }
}

fn clients(widened: &WidenedRoutes, room: usize) -> WidenedClients {
    let addresses = &widened.admitted.addresses;
    WidenedClients {
        policy: widened.policy.to_string(),
        routes: widened.routes.iter().map(|route| route.to_string()).collect(),
        networks: addresses.networks_len() as u64,
        ipv4: addresses.ipv4_len(),
        ipv6_64: addresses.ipv6_len_64(),
        largest: addresses.largest_networks(room).iter().map(ToString::to_string).collect(),
        users: widened.admitted.users.clone(),
    }
}

fn rule(part: &WidenedPart) -> WidenedRule {
    WidenedRule {
        part: part.kind.word().to_owned(),
        name: part.name.to_string(),
        key: part.rule.key.to_owned(),
        what: part.rule.what.clone(),
    }
}

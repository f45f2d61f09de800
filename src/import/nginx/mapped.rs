//! IPv4 clients of IPv6 sockets, which nginx knows by IPv4-mapped addresses.
//!
//! nginx judges a mapped address by the rules about IPv4. If there are none, it judges it by the rules
//! about IPv6 (`ngx_http_access_handler`). Sidegate knows these clients by their IPv4 addresses.

use std::net::{Ipv4Addr, SocketAddr};

use crate::import::access::rules_for_mapped;
use crate::import::nginx::listen::{Listen, NginxAddress};
use crate::import::nginx::server::Server;

/// Returns whether IPv4 clients of a Sidegate listener at `address` are judged by mapped addresses:
/// in nginx, or by no address because nginx doesn't serve them there.
pub fn takes_mapped(address: &NginxAddress, all: &[Listen]) -> bool {
    let Some(SocketAddr::V6(own)) = address.tcp() else { return false };
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), own.port());
    // `ipv6only` is on by default, so IPv4 clients of the port come to a twin at `0.0.0.0`, where
    // nginx knows them by their IPv4 addresses.
    let is_shared = || all.iter().any(|one| one.address == *address && one.both_families);
    let has_twin = || all.iter().any(|one| one.address.tcp() == Some(any));
    let is_any = own.ip().is_unspecified() && (is_shared() || !has_twin());
    is_any || own.ip().to_ipv4_mapped().is_some()
}

/// Adds the rules about IPv4 that hold for mapped addresses to the servers whose IPv4 clients all
/// have one. A header may name a client by either address, so servers that read one are left out.
pub fn add_rules(servers: &mut [Server]) {
    let all: Vec<_> = servers.iter().flat_map(|server| server.listens.clone()).collect();
    for server in servers {
        let listens = || server.listens.iter();
        let has_v4 = listens().any(|one| one.address.tcp().is_some_and(|at| at.is_ipv4()));
        let has_mapped = listens().any(|one| takes_mapped(&one.address, &all));
        let locations = server.locations.iter_mut().map(|location| &mut location.settings);
        let mut levels: Vec<_> = std::iter::once(&mut server.settings).chain(locations).collect();
        let reads_header = levels.iter().any(|level| !level.real_ip.from.is_empty());
        if !has_mapped || has_v4 || reads_header {
            continue;
        }
        for level in &mut levels {
            // Appended, which overrides nothing: rules are added only where none is about IPv4.
            let more = rules_for_mapped(&level.access);
            level.access.extend(more);
        }
    }
}

//! Backends that are a listener of the same file: its requests come back to Sidegate.
//!
//! Pure. Reports what the addresses alone make certain; other addresses of this host, names and
//! sockets from systemd are left out.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::location::{LinePart, Lint, LintLocation};
use crate::control::config::{LoadedConfig, RouteSettings};
use crate::snapshot::listener::{ListenAddress, Listener};

/// Routes with a backend at which a listener accepts. One remark for each route.
pub fn looping(loaded: &LoadedConfig, config: &Path) -> Vec<Lint> {
    let settings = &loaded.settings;
    let file: Arc<str> = config.file_name().unwrap_or_default().to_string_lossy().into();
    let remark = |route: &RouteSettings| {
        let backends = route.backends.iter();
        let mut all = backends.flat_map(|backend| {
            backend.fixed_addresses().into_iter().map(move |address| (backend, address))
        });
        let (backend, listener) = all.find_map(|(backend, address)| {
            let accepts = |listener: &&Arc<Listener>| accepts_at(listener, address);
            Some((backend, settings.listeners.iter().find(accepts)?))
        })?;
        Some(Lint {
            location: LintLocation {
                file: Arc::clone(&file),
                line: route.line,
                part: LinePart::Word(Arc::clone(&route.name)),
            },
            message: format!(
                "the backend {backend} of the route `{}` is the listener `{}` ({}): requests \
                 come back to Sidegate",
                route.name, listener.name, listener.address
            ),
            remedy: "the application's own port in `backend`, or another port in `listen`".into(),
            other: None,
        })
    };
    settings.routes.iter().filter_map(remark).collect()
}

/// Whether a connection to `address` certainly reaches `listener`.
fn accepts_at(listener: &Listener, address: SocketAddr) -> bool {
    let ListenAddress::Tcp(listen) = &listener.address else { return false };
    let (bound, ip) = (listen.ip().to_canonical(), address.ip().to_canonical());
    // A listener at `[::]` accepts IPv4 too. To connect to `0.0.0.0` reaches the loopback.
    let is_of_family = bound.is_ipv6() || ip.is_ipv4();
    let is_local = ip.is_loopback() || ip.is_unspecified();
    listen.port() == address.port()
        && (bound == ip || (bound.is_unspecified() && is_local && is_of_family))
}

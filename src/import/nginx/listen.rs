//! `listen`: an address or a Unix socket, and the protocol spoken there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::import::nginx::import_context::ImportContext;
use crate::import::nginx::unit;
use crate::import::report::{DirectiveOutcome, NoteScope};
use crate::import::tree::{Directive, DirectiveId};

/// nginx' port if `listen` has none.
const DEFAULT_PORT: u16 = 80;

/// Most bytes in the path of a Unix socket (unix(7)).
const MAX_PATH_BYTES: usize = 107;

/// Where nginx listens. Displays as the `listen` of a Sidegate listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NginxAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(String),
}

impl NginxAddress {
    /// Returns address and port. `None` means a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            NginxAddress::Tcp(address) => Some(*address),
            NginxAddress::Unix(_) => None,
        }
    }

    /// Returns whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.tcp().is_none()
    }
}

impl fmt::Display for NginxAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NginxAddress::Tcp(address) => address.fmt(f),
            NginxAddress::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A `listen` that can be carried over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The `listen` directive, or the `server` itself if it has none.
    pub id: DirectiveId,
    /// Address or path of the socket.
    pub address: NginxAddress,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether its server is the default server of this socket.
    pub default: bool,
    /// Whether peers send a PROXY header.
    pub proxy_protocol: bool,
    /// `ipv6only=off`: IPv4 clients are accepted there, too.
    pub both_families: bool,
}

impl Listen {
    /// Returns the socket of the server `id` that has no `listen` of its own: `0.0.0.0:80`.
    pub fn implied(id: DirectiveId) -> Listen {
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT);
        Listen {
            id,
            address: NginxAddress::Tcp(address),
            tls: false,
            default: false,
            proxy_protocol: false,
            both_families: false,
        }
    }

    /// Reads a `listen`. `None` means that it is left out or that a fault was noted.
    pub fn read(directive: &Directive, context: &mut ImportContext<'_>) -> Option<Listen> {
        let id = directive.id;
        let text = directive.first();
        let address = match text.strip_prefix("unix:") {
            Some(path) => NginxAddress::Unix(unix_path(id, path, context)?.to_owned()),
            None => match address(text) {
                Some(address) => NginxAddress::Tcp(address),
                None => {
                    let what = format!(
                        "`{text}` is no address and port, and names of listeners are not resolved"
                    );
                    context.fault(id, what);
                    return None;
                }
            },
        };
        let mut listen = Listen { id, address, ..Listen::implied(id) };
        for word in directive.words.iter().skip(1) {
            match word.as_str() {
                "ssl" => listen.tls = true,
                "default_server" | "default" => listen.default = true,
                "proxy_protocol" => listen.proxy_protocol = true,
                "ipv6only=off" => listen.both_families = true,
                // QUIC runs over UDP; the TCP socket of the server has its own `listen`.
                "quic" => {
                    context.notes.add(
                        id,
                        DirectiveOutcome::Dropped,
                        "HTTP/3 is not spoken: browsers use TCP then",
                    );
                    return None;
                }
                "http2" | "spdy" => context.notes.add(
                    id,
                    DirectiveOutcome::Differs,
                    "HTTP/2 is not in this version: browsers open WebSockets over HTTP/1.1 then",
                ),
                "reuseport" | "bind" | "ipv6only=on" => {} // how nginx binds it
                word => {
                    let text = format!(
                        "`{word}` is not carried over: Sidegate sets its sockets by itself"
                    );
                    context.notes.add(id, DirectiveOutcome::Differs, text);
                }
            }
        }
        Some(listen)
    }
}

/// Returns `path` if Sidegate can listen there; notes why it can't.
fn unix_path<'p>(
    id: DirectiveId,
    path: &'p str,
    context: &mut ImportContext<'_>,
) -> Option<&'p str> {
    if path.is_empty() {
        context.fault(id, "no path in the unix domain socket");
        return None;
    }
    if path.len() > MAX_PATH_BYTES {
        context.fault(id, "too long path in the unix domain socket");
        return None;
    }
    if !path.starts_with('/') {
        let text = "not carried over: the path is relative to where nginx was started. Write an \
                    absolute one and import again";
        context.notes.add_scoped(id, DirectiveOutcome::Closes, text, vec![NoteScope::everything()]);
        return None;
    }
    Some(path)
}

/// Parses `80`, `*:80`, `192.0.2.1:80`, `192.0.2.1`, `[::]:80`, `[::1]`, `localhost:80`.
fn address(text: &str) -> Option<SocketAddr> {
    if let Some(port) = port(text) {
        return Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    }
    let (host, after) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (IpAddr::V6(host.parse::<Ipv6Addr>().ok()?), after)
        }
        None => {
            let (host, after) = text.split_at(text.find(':').unwrap_or(text.len()));
            let host = match host {
                "*" => Ipv4Addr::UNSPECIFIED,
                "localhost" => Ipv4Addr::LOCALHOST,
                host => host.parse().ok()?,
            };
            (IpAddr::V4(host), after)
        }
    };
    let port = if after.is_empty() { DEFAULT_PORT } else { port(after.strip_prefix(':')?)? };
    Some(SocketAddr::new(host, port))
}

fn port(text: &str) -> Option<u16> {
    unit::count(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_or_both() {
        for (text, expected) in [
            ("80", "0.0.0.0:80"),
            ("*:8080", "0.0.0.0:8080"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("[::]:443", "[::]:443"),
            ("[::1]", "[::1]:80"),
            ("localhost:8000", "127.0.0.1:8000"),
        ] {
            assert_eq!(
                address(text).map(|address| address.to_string()).as_deref(),
                Some(expected),
                "{text}"
            );
        }
        for wrong in ["", "0", "70000", "a.example:80", "192.0.2.1:", "[::1", "[::1]80", "80-90"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }
}

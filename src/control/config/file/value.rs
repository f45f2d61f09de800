//! Values that several tables of `sidegate.toml` have in common.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::control::config::document::TomlTable;
use crate::control::config::keys::any_file::SCHEMA;
use crate::control::config::keys::sidegate::timeouts;
use crate::control::config::load_context::LoadContext;
use crate::control::config::socket_paths::check_length;
use crate::control::config::source_text::{Finding, error};
use crate::snapshot::route::RouteTimeouts;

/// Reads `schema = 1`, which every TOML file must begin with.
pub fn schema(root: &mut TomlTable<'_>) {
    let Some(value) = root.require(&SCHEMA, "begin the file with: schema = 1") else { return };
    let Some(number) = value.integer(i64::MIN..=i64::MAX) else { return };
    if number != 1 {
        value.report(
            error(format!("{number} is not known to this version")).with_remedy("schema = 1"),
        );
    }
}

/// Reads the timeouts that a route may set for itself; omitted ones are those of `base`.
pub fn route_timeouts(table: &mut TomlTable<'_>, base: RouteTimeouts) -> RouteTimeouts {
    RouteTimeouts {
        body_stall: table.read(&timeouts::BODY_STALL).unwrap_or(base.body_stall),
        body_pace: table.read(&timeouts::BODY_PACE_FORM).unwrap_or(base.body_pace),
        dial: table.read(&timeouts::DIAL).unwrap_or(base.dial),
        response: table.read(&timeouts::RESPONSE).unwrap_or(base.response),
        write_stall: table.read(&timeouts::WRITE_STALL).unwrap_or(base.write_stall),
        grace: table.read(&timeouts::GRACE).unwrap_or(base.grace),
    }
}

/// Parses `"127.0.0.1:8443"`. Host names are not resolved.
pub fn address(text: &str) -> Result<SocketAddr, Finding> {
    let fault = || {
        error(format!("\"{text}\" is not an address with a port"))
            .with_remedy("like \"127.0.0.1:8443\" or \"[::]:8443\"")
    };
    text.parse().map_err(|_| fault())
}

/// The error about a value that only a later version supports.
pub fn unsupported(text: &str) -> Finding {
    error(format!("\"{text}\": not in this version"))
}

/// Parses the path of a Unix socket.
pub fn socket_path(load: &LoadContext<'_>, text: &str) -> Result<PathBuf, Finding> {
    let path = load.path(text)?;
    check_length(&path)?;
    Ok(path)
}

/// Whether sockets at the two addresses would conflict.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, of) = (one.ip().to_canonical(), other.ip().to_canonical());
    // An unspecified IPv6 address includes all of IPv4.
    let holds = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    one.port() == other.port() && (ip == of || holds(ip, of) || holds(of, ip))
}

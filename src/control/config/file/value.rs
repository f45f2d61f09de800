//! Values that several tables of `sidegate.toml` have in common.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::control::config::document::{Table, Value, unit};
use crate::control::config::page::{Finding, error};
use crate::control::config::pass::Reading;
use crate::policy::list::Entry;
use crate::snapshot::listener::MAX_FIELDS;
use crate::snapshot::route::RouteTimeouts;

/// Reads `schema = 1`, which every TOML file must begin with.
pub fn schema(root: &mut Table<'_>) {
    let Some(value) = root.need("schema", "begin the file with: schema = 1") else { return };
    let Some(number) = value.integer(i64::MIN..=i64::MAX) else { return };
    if number != 1 {
        value.report(error(format!("{number} is not known to this version")).remedy("schema = 1"));
    }
}

/// Least and most of `max_fields`.
const FIELDS: RangeInclusive<i64> = 16..=1000;

/// Description of the values that `body_pace` accepts.
const BODY_PACE: &str = "a pace like \"500B/s\", or \"off\"";

/// Reads the timeouts that a route may set for itself; omitted ones are those of `default`.
pub fn route_timeouts(table: &mut Table<'_>, default: RouteTimeouts) -> RouteTimeouts {
    let body_pace = table.get("body_pace").and_then(|value| value.parse(BODY_PACE, unit::pace));
    let body_stall = table.duration_or_off("body_stall").unwrap_or(default.body_stall);
    let response = table.duration_or_off("response").unwrap_or(default.response);
    let mut timeout =
        |key, default| -> Duration { table.positive_duration(key).unwrap_or(default) };
    RouteTimeouts {
        body_stall,
        body_pace: body_pace.unwrap_or(default.body_pace),
        dial: timeout("dial", default.dial),
        response,
        write_stall: timeout("write_stall", default.write_stall),
        grace: timeout("grace", default.grace),
    }
}

/// Parses `"127.0.0.1:8443"`. Host names are not resolved.
pub fn address(text: &str) -> Result<SocketAddr, Finding> {
    let fault = || {
        error(format!("\"{text}\" is not an address with a port"))
            .remedy("like \"127.0.0.1:8443\" or \"[::]:8443\"")
    };
    text.parse().map_err(|_| fault())
}

/// The error about a value that only a later version supports.
pub fn not_yet(text: &str) -> Finding {
    error(format!("\"{text}\": not in this version"))
}

/// Parses a network without the sign and the annotations that a list's line may have.
pub fn network(text: &str) -> Result<IpNet, Finding> {
    let entry = Entry::parse(text)
        .map_err(|fault| error(fault.fault).remedy(fault.remedy).within(fault.span))?;
    let plain = entry.filter(|entry| entry.admits && !entry.is_annotated());
    let network = plain.map(|entry| entry.network);
    network.ok_or_else(|| {
        error(format!("\"{text}\" is not a network alone"))
            .remedy("like \"192.0.2.0/24\" or \"::1\"")
    })
}

/// Parses the path of a Unix socket, at most 107 bytes as in the kernel.
pub fn socket_path(reading: &Reading<'_>, text: &str) -> Result<PathBuf, Finding> {
    let path = reading.path(text)?;
    if path.as_os_str().len() > 107 {
        return Err(error("a Unix socket's path has at most 107 bytes"));
    }
    Ok(path)
}

/// Reads `max_fields` of a listener, for requests, or of a route, for responses.
pub fn max_fields(table: &mut Table<'_>) -> usize {
    let value = table.get("max_fields").and_then(|value| value.integer(FIELDS));
    value.and_then(|count| usize::try_from(count).ok()).unwrap_or(MAX_FIELDS)
}

/// Parses an integer from 1 to `most`. `None` means `"auto"`, or an error that was reported.
pub fn auto_or_count(value: Value<'_>, most: i64) -> Option<usize> {
    if let Some(text) = value.as_str() {
        match text.parse::<u32>() {
            Ok(_) => value.unexpected("an integer"),
            Err(_) => drop(value.choice(&[("auto", ())])),
        }
        return None;
    }
    value.integer(1..=most).and_then(|count| usize::try_from(count).ok())
}

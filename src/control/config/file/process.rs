//! Settings of the process as a whole: metrics, admin, reload, shutdown, threads.

use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::path::{Component, Path};
use std::time::Duration;

use super::named::{Named, SYSTEMD, Wants};
use super::value::{address, auto_or_count, network, socket_path};
use crate::control::config::document::unit::{self, Bound};
use crate::control::config::document::{Table, Value};
use crate::control::config::page::{Finding, error, warning};
use crate::control::config::pass::Reading;
use crate::control::config::settings::{
    AdminSettings, AdminSocket, MetricsAddress, MetricsSettings, ReloadSettings, ShutdownSettings,
    Watch,
};
use crate::policy::network::Networks;
use crate::policy::request::Host;

/// Most data-plane threads: more than any host has CPUs.
const MOST_THREADS: i64 = 4096;

/// Reads `[metrics]`; by default 127.0.0.1:10464, open to loopback clients.
pub fn metrics(
    mut table: Table<'_>,
    reading: &Reading<'_>,
    named: &mut Named<'_>,
) -> MetricsSettings {
    let listen = match table.get("listen") {
        Some(value) if value.as_str() == Some("off") => None,
        Some(value) => value.parse("an address like \"127.0.0.1:10464\"", |text| {
            if let Some(name) = text.strip_prefix(SYSTEMD) {
                return named
                    .want(&value, name, "[metrics]", Wants::Both)
                    .map(MetricsAddress::Systemd);
            }
            match text.strip_prefix("unix:") {
                Some(path) => socket_path(reading, path).map(MetricsAddress::Unix),
                None => address(text).map(MetricsAddress::Tcp),
            }
        }),
        None => Some(MetricsAddress::Tcp((Ipv4Addr::LOCALHOST, 10464).into())),
    };
    let written = table.get("allow").and_then(|value| value.strings());
    let networks: Vec<_> = match written {
        Some(strings) => {
            strings.into_iter().filter_map(|(_, value)| value.parse("a network", network)).collect()
        }
        None => ["127.0.0.0/8", "::1"].into_iter().filter_map(|text| network(text).ok()).collect(),
    };
    let mut allow = Networks::default();
    for network in networks {
        allow.insert(network, ());
    }
    let hosts = table.get("hosts").and_then(|value| value.strings()).unwrap_or_default();
    let hosts =
        hosts.into_iter().filter_map(|(_, value)| value.parse("the name of a host", host_name));
    let hosts = hosts.collect();
    table.finish();
    MetricsSettings { listen, allow, hosts }
}

/// Reads `[policies]`: the folders from which policies may read lists.
pub fn lists_from(mut table: Table<'_>) -> Vec<Box<str>> {
    let folders = table.get("lists_from").and_then(|value| value.strings()).unwrap_or_default();
    let folders = folders.into_iter().filter_map(|(_, value)| value.parse("a folder", list_folder));
    let folders = folders.collect();
    table.finish();
    folders
}

/// Parses a folder, and refuses the root, which contains every file.
fn list_folder(text: &str) -> Result<Box<str>, Finding> {
    if text.is_empty() {
        return Err(error("an empty path"));
    }
    if Path::new(text)
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::CurDir))
        && text.starts_with('/')
    {
        return Err(error("the root holds every file")
            .remedy("name the folder that the feeds are written to"));
    }
    Ok(text.into())
}

/// Parses a host name: lower case, without a final dot. `localhost` and addresses need not be
/// listed.
fn host_name(text: &str) -> Result<Box<str>, Finding> {
    match Host::parse(text.as_bytes()) {
        Some(host) if !text.contains(':') => Ok(host.name().into()),
        _ => Err(error(format!("\"{text}\" is not the name of a host"))
            .remedy("like \"metrics.example.com\", without a port")),
    }
}

/// Reads `[admin]`; by default the socket `auto` with mode 0660.
pub fn admin(mut table: Table<'_>, reading: &Reading<'_>, named: &mut Named<'_>) -> AdminSettings {
    let mut socket = |value: &Value<'_>, text: &str| match text {
        "auto" => Ok(AdminSocket::Auto),
        "off" => Ok(AdminSocket::Off),
        _ if text.starts_with("unix:") => Err(error("a path stands here without `unix:`")),
        _ => match text.strip_prefix(SYSTEMD) {
            Some(name) => named.want(value, name, "[admin]", Wants::Unix).map(AdminSocket::Systemd),
            None => socket_path(reading, text).map(AdminSocket::Path),
        },
    };
    let settings = AdminSettings {
        socket: table
            .get("socket")
            .and_then(|value| {
                value.parse("\"auto\", a path or \"off\"", |text| socket(&value, text))
            })
            .unwrap_or(AdminSocket::Auto),
        mode: table
            .get("mode")
            .and_then(|value| value.parse("an octal string like \"0660\"", mode))
            .unwrap_or(0o660),
        group: table
            .get("group")
            .and_then(|value| value.parse_number("a group's name", group))
            .flatten(),
    };
    table.finish();
    settings
}

/// Reads `[reload]`, with `max_revoked` at 100 % by default.
pub fn reload(mut table: Table<'_>) -> ReloadSettings {
    let settings = ReloadSettings {
        watch: table
            .choice("watch", &[("auto", Watch::Auto), ("poll", Watch::Poll), ("off", Watch::Off)])
            .unwrap_or(Watch::Auto),
        poll: table.positive_duration("poll").unwrap_or(Duration::from_secs(30)),
        revoke_spread: table.duration("revoke_spread").unwrap_or(Duration::from_secs(2)),
        max_revoked: table
            .get("max_revoked")
            .and_then(|value| {
                value.parse_number(
                    "a share like \"20%\", or a number like \"300\"",
                    unit::share_or_number,
                )
            })
            .unwrap_or(Bound::Percent(100)),
    };
    table.finish();
    settings
}

/// Reads `[shutdown]`, with the close code 1001 by default.
pub fn shutdown(mut table: Table<'_>) -> ShutdownSettings {
    let code = table.get("code").and_then(|value| {
        let code = value.integer(0..=u16::MAX.into())?;
        if code != 1001 && code != 1012 {
            value.report(
                error(format!("{code} is not a code for a shutdown"))
                    .remedy("1001 (going away) or 1012 (service restart)"),
            );
        }
        u16::try_from(code).ok()
    });
    let settings = ShutdownSettings {
        delay: table.duration("delay").unwrap_or(Duration::ZERO),
        spread: table.duration("spread").unwrap_or(Duration::from_secs(5)),
        deadline: table.duration("deadline").unwrap_or(Duration::from_secs(30)),
        code: code.unwrap_or(1001),
    };
    if settings.spread > settings.deadline {
        table.report(warning(
            "`spread` is longer than `deadline`: some tunnels are cut without a Close",
        ));
    }
    table.finish();
    settings
}

/// Reads `[process] threads`. `None` means automatic.
pub fn threads(mut table: Table<'_>) -> Option<NonZeroUsize> {
    let threads = table.get("threads").and_then(|value| auto_or_count(value, MOST_THREADS));
    table.finish();
    threads.and_then(NonZeroUsize::new)
}

/// Parses `"0660"`: permission bits, without the setuid, setgid and sticky bits.
fn mode(text: &str) -> Result<u32, Finding> {
    let octal = !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777);
    mode.ok_or_else(|| {
        error(format!("\"{text}\" is not a file mode"))
            .remedy("three octal digits after a zero, like \"0660\"")
    })
}

/// Parses a group's name or number. `""` means none. Whether the group exists shows when the socket
/// is made.
fn group(text: &str) -> Result<Option<String>, Finding> {
    if text.is_empty() {
        return Ok(None);
    }
    let well_formed = text.len() <= 32
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$'));
    if !well_formed {
        return Err(error(format!("\"{text}\" cannot be the name of a group")));
    }
    Ok(Some(text.to_owned()))
}

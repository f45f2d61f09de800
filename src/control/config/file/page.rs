//! The keys of the page `/status`, which belong to `[admin]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::systemd_refs::SYSTEMD_PREFIX;
use super::value::{address, overlap, socket_path};
use crate::control::config::document::TomlTable;
use crate::control::config::keys::sidegate::admin;
use crate::control::config::load_context::LoadContext;
use crate::control::config::settings::{
    MetricsAddress, MetricsSettings, PageAddress, PageSettings,
};
use crate::control::config::socket_paths::SocketRole;
use crate::control::config::source_text::{Finding, error};

/// Reads the keys of the page, which may not have the address of `metrics`.
pub fn read(
    table: &mut TomlTable<'_>,
    metrics: &MetricsSettings,
    load: &mut LoadContext<'_>,
) -> PageSettings {
    PageSettings {
        listen: listen(table, metrics, load),
        mode: table.read_or_default(&admin::PAGE_MODE),
        group: table.read_or_default(&admin::PAGE_GROUP),
        addresses: table.read_or_default(&admin::PAGE),
    }
}

/// Reads `page_listen`. `None` means off, or that the address cannot be used.
fn listen(
    table: &mut TomlTable<'_>,
    metrics: &MetricsSettings,
    load: &mut LoadContext<'_>,
) -> Option<PageAddress> {
    let value = table.get(&admin::PAGE_LISTEN)?;
    if value.as_str() == Some("off") {
        return None;
    }
    let listen = value.parse("an address like \"127.0.0.1:9401\"", |text| {
        if text.starts_with(SYSTEMD_PREFIX) {
            let finding = error("the page takes no socket from systemd");
            return Err(finding.with_remedy("a loopback address, or \"unix:PATH\""));
        }
        match text.strip_prefix("unix:") {
            Some(path) => unix_path(load, path).map(PageAddress::Unix),
            None => loopback(text, metrics).map(PageAddress::Tcp),
        }
    })?;
    if let PageAddress::Unix(path) = &listen {
        load.sockets.bind(path, SocketRole::Page, &value, load.files);
    }
    Some(listen)
}

/// Parses the path of the page's Unix socket.
fn unix_path(load: &LoadContext<'_>, text: &str) -> Result<PathBuf, Finding> {
    if text.starts_with('@') {
        let what = "an abstract socket has no permissions: every local user could connect";
        return Err(error(what).with_remedy("the path of a file"));
    }
    socket_path(load, text)
}

/// Parses the TCP address of the page, which is a loopback address and not that of `metrics`.
fn loopback(text: &str, metrics: &MetricsSettings) -> Result<SocketAddr, Finding> {
    let at = address(text)?;
    if !at.ip().to_canonical().is_loopback() {
        let what = format!("{at} is no loopback address: the page has no login and no TLS");
        return Err(error(what).with_remedy(
            "127.0.0.1 or [::1], or \"unix:PATH\"; from elsewhere, reach it through `ssh -L`",
        ));
    }
    match metrics.listen {
        Some(MetricsAddress::Tcp(taken)) if at.port() != 0 && overlap(taken, at) => {
            let what = if taken == at { "is" } else { "is part of" };
            Err(error(format!("{at} {what} the address of [metrics]"))
                .with_remedy("another port here, or another `listen` in [metrics]"))
        }
        _ => Ok(at),
    }
}

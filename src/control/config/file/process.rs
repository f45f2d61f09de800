//! Settings of the process as a whole: metrics, admin, reload, shutdown, threads, state.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use super::page;
use super::systemd_refs::{SYSTEMD_PREFIX, SocketUse, SystemdRefs};
use super::value::{address, socket_path};
use crate::control::config::certificate::authorities;
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::{
    admin, metrics, policies, process, reload, shutdown, tracing,
};
use crate::control::config::load_context::LoadContext;
use crate::control::config::settings::{
    AdminSettings, AdminSocket, MetricsAddress, MetricsSettings, ProcessSettings, ReloadSettings,
    ShutdownSettings, StateSetting, TraceSettings,
};
use crate::control::config::socket_paths::SocketRole;
use crate::control::config::source_text::{error, warning};
use crate::observe::recent::RingBounds;
use crate::policy::network::Networks;
use crate::trace_context::TraceRules;

/// Reads the table `[metrics]`.
pub fn metrics(
    mut table: TomlTable<'_>,
    load: &mut LoadContext<'_>,
    systemd_refs: &mut SystemdRefs<'_>,
) -> MetricsSettings {
    let written = table.get(&metrics::LISTEN);
    let listen = match written {
        Some(value) if value.as_str() == Some("off") => None,
        Some(value) => value.parse("an address like \"127.0.0.1:10464\"", |text| {
            if let Some(name) = text.strip_prefix(SYSTEMD_PREFIX) {
                return systemd_refs
                    .register(&value, name, "[metrics]", SocketUse::Both)
                    .map(MetricsAddress::Systemd);
            }
            match text.strip_prefix("unix:") {
                Some(path) => socket_path(load, path).map(MetricsAddress::Unix),
                None => address(text).map(MetricsAddress::Tcp),
            }
        }),
        None => metrics::LISTEN.default_value(),
    };
    if let (Some(value), Some(MetricsAddress::Unix(path))) = (&written, &listen) {
        load.sockets.bind(path, SocketRole::Metrics, value, load.files);
    }
    let mut allow = Networks::default();
    for network in table.read_or_default(&metrics::ALLOW) {
        allow.insert(network, ());
    }
    let hosts = table.read_or_default(&metrics::HOSTS);
    table.finish();
    MetricsSettings { listen, allow, hosts }
}

/// Reads `[policies]`: the folders from which policies may read lists.
pub fn lists_from(mut table: TomlTable<'_>) -> Vec<Box<str>> {
    let folders = table.read_or_default(&policies::LISTS_FROM);
    table.finish();
    folders
}

/// Reads the table `[admin]`. The page may not have the address of `metrics`.
pub fn admin(
    mut table: TomlTable<'_>,
    metrics: &MetricsSettings,
    load: &mut LoadContext<'_>,
    systemd_refs: &mut SystemdRefs<'_>,
) -> AdminSettings {
    let written = table.get(&admin::SOCKET);
    let mut socket = |value: &TomlValue<'_>, text: &str| match text {
        "auto" => Ok(AdminSocket::Auto),
        "off" => Ok(AdminSocket::Off),
        _ if text.starts_with("unix:") => Err(error("a path needs `unix:` in front")),
        _ => match text.strip_prefix(SYSTEMD_PREFIX) {
            Some(name) => systemd_refs
                .register(value, name, "[admin]", SocketUse::Unix)
                .map(AdminSocket::Systemd),
            None => socket_path(load, text).map(AdminSocket::Path),
        },
    };
    let socket = written
        .as_ref()
        .and_then(|value| value.parse("\"auto\", a path or \"off\"", |text| socket(value, text)))
        .unwrap_or_else(|| admin::SOCKET.default_value());
    if let (Some(value), AdminSocket::Path(path)) = (&written, &socket) {
        load.sockets.bind(path, SocketRole::Admin, value, load.files);
    }
    let settings = AdminSettings {
        socket,
        mode: table.read_or_default(&admin::MODE),
        group: table.read_or_default(&admin::GROUP),
        recent: RingBounds {
            count: table.read_or_default(&admin::RECENT_DECISIONS) as usize,
            // Where an address has fewer than 64 bits, more cannot be allocated anyway.
            bytes: usize::try_from(table.read_or_default(&admin::RECENT_BYTES))
                .unwrap_or(usize::MAX),
        },
        page: page::read(&mut table, metrics, load),
    };
    table.finish();
    settings
}

/// Reads the table `[reload]`.
pub fn reload(mut table: TomlTable<'_>) -> ReloadSettings {
    let settings = ReloadSettings {
        watch: table.read_or_default(&reload::WATCH),
        poll: table.read_or_default(&reload::POLL_INTERVAL),
        revoke_spread: table.read_or_default(&reload::REVOKE_SPREAD),
        max_revoked: table.read_or_default(&reload::MAX_REVOKED),
        max_widened: table.read_or_default(&reload::MAX_WIDENED),
    };
    table.finish();
    settings
}

/// Reads the table `[shutdown]`.
pub fn shutdown(mut table: TomlTable<'_>) -> ShutdownSettings {
    let code = table.get(&shutdown::CODE).and_then(|value| {
        let code = value.integer(0..=u16::MAX.into())?;
        if code != 1001 && code != 1012 {
            value.report(
                error(format!("{code} is not a code for a shutdown"))
                    .with_remedy("1001 (going away) or 1012 (service restart)"),
            );
        }
        u16::try_from(code).ok()
    });
    let settings = ShutdownSettings {
        delay: table.read_or_default(&shutdown::DELAY),
        spread: table.read_or_default(&shutdown::SPREAD),
        deadline: table.read_or_default(&shutdown::DEADLINE),
        deadline_upgrade: table.read_or_default(&shutdown::DEADLINE_UPGRADE),
        code: code.unwrap_or_else(|| shutdown::CODE.default_value()),
    };
    if settings.spread > settings.deadline {
        table.report(warning(
            "`spread` is longer than `deadline`: some tunnels are cut without a Close",
        ));
    }
    table.finish();
    settings
}

/// Reads the table `[tracing]`.
pub fn traces(mut table: TomlTable<'_>, load: &mut LoadContext<'_>) -> TraceSettings {
    let collector = table.read_or_default(&tracing::OTLP);
    let ca = table.get(&tracing::OTLP_CA);
    let is_secure = collector.as_ref().is_some_and(|url| url.starts_with("https:"));
    if let Some(ca) = ca.filter(|_| !is_secure) {
        ca.report(warning("`otlp_ca` does nothing: `otlp` is not https://"));
    }
    let roots = ca.and_then(|ca| authorities(load, ca));
    let rules = TraceRules {
        mode: table.read_or_default(&tracing::TRACEPARENT),
        sampled_percent: table.read_or_default(&tracing::SAMPLED),
        exports: collector.is_some(),
    };
    table.finish();
    let collector_ca = ca.and_then(|ca| ca.as_str()).map(Into::into);
    TraceSettings { rules, collector, collector_ca, collector_roots: roots.map(Arc::new) }
}

/// Reads `[process]`.
pub fn process(mut table: TomlTable<'_>) -> ProcessSettings {
    let threads = table.read_or_default(&process::THREADS);
    let state = table.get(&process::STATE).and_then(|value| {
        value.parse("\"auto\", a path or \"off\"", |text| match text {
            "auto" => Ok(StateSetting::Auto),
            "off" => Ok(StateSetting::Off),
            "" => Err(error("an empty path")),
            _ => Ok(StateSetting::Path(PathBuf::from(text))),
        })
    });
    table.finish();
    ProcessSettings {
        threads: threads.and_then(NonZeroUsize::new),
        state: state.unwrap_or_else(|| process::STATE.default_value()),
    }
}

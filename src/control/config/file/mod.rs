//! `sidegate.toml`: the operator's file, key by key, with the defaults of each.
//!
//! A wrong value is reported and replaced by its default, so that reading goes on. The settings are
//! only used if there was no error.

mod backend;
mod backend_host;
mod certificates;
mod client_certificates;
mod common;
mod crowdsec;
mod forwarded;
mod from_peers;
mod listener;
mod page;
mod paths;
mod process;
mod proxy_protocol;
mod route;
mod route_context;
mod systemd_refs;
mod unix_socket;
pub(super) mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::backend::backend;
use self::listener::TakenAddress;
pub use self::process::process as process_table;
use self::route_context::RouteContext;
use self::systemd_refs::SystemdRefs;
pub use self::unix_socket::path as listener_path;
use self::value::{route_timeouts, schema};
use super::crowdsec_settings::CrowdsecSettings;
use super::document::{Document, TomlTable};
use super::keys::sidegate::{self as keys, timeouts};
use super::load_context::LoadContext;
use super::settings::{
    AdminSettings, MetricsAddress, MetricsSettings, PageAddress, ProcessSettings, ReloadSettings,
    SettingSpans, Settings, ShutdownSettings, TraceSettings,
};
use super::source_text::warning;
use crate::snapshot::certificate::{Certificate, Certificates};
use crate::snapshot::listener::{Listener, ListenerTimeouts, Protocol};
use crate::snapshot::route::RouteTimeouts;

/// Reads the whole file. `policies` are the names of the existing policies.
pub fn read(
    load: &mut LoadContext<'_>,
    document: &Document<'_>,
    policies: &BTreeSet<Arc<str>>,
) -> Settings {
    let mut root = document.root();
    schema(&mut root);
    let mut systemd_refs = SystemdRefs::new(load.passed);
    let (process, mut written) = process_tables(load, document, &mut root, &mut systemd_refs);
    let (listener_timeouts, route_timeouts) = read_timeouts(root.table(&keys::TIMEOUTS));

    root.declare("defaults");
    for key in ["listener", "certificate", "route"] {
        root.declare_expected(key);
    }
    let (certificates, certified) = certificates::all(load, &mut root);
    let taken = taken_addresses(&process.metrics, &process.admin);
    let tables = root.tables(&keys::LISTENER);
    let (listeners, at_listeners) =
        listener::all(tables, listener_timeouts, &taken, certified, &mut systemd_refs, load);
    // A chain that was left out may cover any host.
    let known = certificates.as_deref().filter(|_| !load.lacks_chain);
    let covering = covering(&listeners, known);
    let table = root.table(&keys::DEFAULTS);
    let defaults = common::defaults(table, route_timeouts, policies, root.misspells("defaults"));
    let mut context = RouteContext {
        load,
        policies,
        certificates: covering.as_ref(),
        defaults: &defaults,
        system: None,
    };
    let routes = route::all(root.tables(&keys::ROUTE), &mut context);
    report_nothing_served(document, &root, listeners.is_empty(), routes.is_empty());
    if !root.misspells("listener") {
        systemd_refs.finish(&root);
    }
    root.finish();

    let certificates = certificates.unwrap_or_default();
    written.listeners = at_listeners;
    Settings {
        metrics: process.metrics,
        admin: process.admin,
        reload: process.reload,
        shutdown: process.shutdown,
        lists_from: process.lists_from,
        process: process.process,
        traces: process.traces,
        crowdsec: process.crowdsec,
        listeners,
        certificates,
        lacks_chain: load.lacks_chain,
        routes,
        defaults: defaults.into(),
        listener_timeouts,
        route_timeouts,
        written,
    }
}

/// The settings of the process as a whole.
struct ProcessTables {
    metrics: MetricsSettings,
    admin: AdminSettings,
    reload: ReloadSettings,
    shutdown: ShutdownSettings,
    lists_from: Vec<Box<str>>,
    process: ProcessSettings,
    traces: TraceSettings,
    crowdsec: Option<Arc<CrowdsecSettings>>,
}

/// Reads the tables of the process as a whole.
fn process_tables(
    load: &mut LoadContext<'_>,
    document: &Document<'_>,
    root: &mut TomlTable<'_>,
    systemd_refs: &mut SystemdRefs<'_>,
) -> (ProcessTables, SettingSpans) {
    let (metrics, admin, process) =
        (root.table(&keys::METRICS), root.table(&keys::ADMIN), root.table(&keys::PROCESS));
    let mut written = spans(document, &metrics, &admin, &process);
    let has_crowdsec = root.has("crowdsec");
    let reload = root.table(&keys::RELOAD);
    written.max_revoked = reload.place("max_revoked");
    written.max_widened = reload.place("max_widened");
    let metrics = process::metrics(metrics, load, systemd_refs);
    let admin = process::admin(admin, &metrics, load, systemd_refs);
    let tables = ProcessTables {
        metrics,
        admin,
        reload: process::reload(reload),
        shutdown: process::shutdown(root.table(&keys::SHUTDOWN)),
        lists_from: process::lists_from(root.table(&keys::POLICIES)),
        process: process::process(process),
        traces: process::traces(root.table(&keys::TRACING), load),
        crowdsec: crowdsec::read(root.table(&keys::CROWDSEC), has_crowdsec, load),
    };
    (tables, written)
}

/// Where settings of `metrics`, `admin` and `process` are written, for findings of a reload.
fn spans(
    document: &Document<'_>,
    metrics: &TomlTable<'_>,
    admin: &TomlTable<'_>,
    process: &TomlTable<'_>,
) -> SettingSpans {
    SettingSpans {
        file: document.file(),
        listeners: BTreeMap::new(),
        metrics: metrics.place("listen"),
        admin: ["socket", "group", "mode"].into_iter().find_map(|key| admin.place(key)),
        page: ["page_listen", "page_group", "page_mode"]
            .into_iter()
            .find_map(|key| admin.place(key)),
        threads: process.place("threads"),
        state: process.place("state"),
        max_revoked: None,
        max_widened: None,
    }
}

/// The addresses that no listener may have.
fn taken_addresses(metrics: &MetricsSettings, admin: &AdminSettings) -> Vec<TakenAddress> {
    let metrics = match metrics.listen {
        Some(MetricsAddress::Tcp(address)) => Some(TakenAddress {
            address,
            owner: "[metrics]",
            remedy: "another port here, or another `listen` in [metrics]",
        }),
        _ => None,
    };
    let page = match admin.page.listen {
        Some(PageAddress::Tcp(address)) => Some(TakenAddress {
            address,
            owner: "the page",
            remedy: "another port here, or another `page_listen` in [admin]",
        }),
        _ => None,
    };
    metrics.into_iter().chain(page).collect()
}

/// Warns of a file without listeners or without routes.
fn report_nothing_served(
    document: &Document<'_>,
    root: &TomlTable<'_>,
    no_listener: bool,
    no_route: bool,
) {
    // Behind a syntax error or a misspelt header, the tables may only seem to be missing.
    let lacks =
        |key: &'static str| !root.has(key) && !document.has_syntax_errors() && !root.misspells(key);
    if no_listener && lacks("listener") {
        root.report(warning("no [[listener]]: nothing is served"));
    }
    if no_route && lacks("route") {
        root.report(warning("no [[route]]: every request is answered 404"));
    }
}

/// Certificates that must cover the hosts of routes. `None` means that there is no TLS listener, or
/// that they are not known.
fn covering(
    listeners: &[Arc<Listener>],
    certificates: Option<&[Arc<Certificate>]>,
) -> Option<Certificates> {
    let tls = listeners.iter().any(|listener| matches!(listener.protocol, Protocol::Tls(_)));
    let certificates = certificates.filter(|certificates| tls && !certificates.is_empty())?;
    Some(Certificates::new(certificates.to_vec()))
}

fn read_timeouts(mut table: TomlTable<'_>) -> (ListenerTimeouts, RouteTimeouts) {
    let listener = ListenerTimeouts {
        proxy_header: table.read_or_default(&timeouts::PROXY_HEADER),
        tls: table.read_or_default(&timeouts::TLS),
        head: table.read_or_default(&timeouts::HEAD),
        keep_alive: table.read_or_default(&timeouts::KEEP_ALIVE),
    };
    let route = route_timeouts(&mut table, RouteTimeouts::default());
    table.finish();
    (listener, route)
}

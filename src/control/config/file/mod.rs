//! `sidegate.toml`: the operator's file, key by key, with the defaults of each.
//!
//! What is wrong is reported and replaced by its default, so that the reading
//! goes on; the settings count only if nothing was wrong.

mod backend;
mod common;
mod listener;
mod named;
mod paths;
mod process;
mod route;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use self::backend::backend;
use self::named::Named;
use super::certificate;
use super::document::{Document, Table, Value, unit};
use super::page::{Finding, error, warning};
use super::{Reading, Settings, Written};
use crate::policy::list::Entry;
use crate::snapshot::certificate::{Certificate, Certificates};
use crate::snapshot::listener::{Listener, ListenerTimeouts, MAX_FIELDS, Speaks};
use crate::snapshot::route::RouteTimeouts;

/// Reads the whole file; `policies` are the names that a route may give.
pub fn read(reading: &mut Reading<'_>, document: &Document<'_>, policies: &BTreeSet<Arc<str>>) -> Settings {
    let mut root = document.root();
    schema(&mut root);
    let mut named = Named::new(reading.passed);
    let (metrics, admin, process) = (root.table("metrics"), root.table("admin"), root.table("process"));
    let at_metrics = metrics.place("listen");
    let at_admin = ["socket", "group", "mode"].into_iter().find_map(|key| admin.place(key));
    let at_threads = process.place("threads");
    let metrics = process::metrics(metrics, reading, &mut named);
    let admin = process::admin(admin, reading, &mut named);
    let reload = root.table("reload");
    let max_revoked = reload.place("max_revoked");
    let reload = process::reload(reload);
    let shutdown = process::shutdown(root.table("shutdown"));
    let lists_from = process::lists_from(root.table("policies"));
    let (listener_timeouts, route_timeouts) = timeouts(root.table("timeouts"));
    let threads = process::threads(process);

    root.knows("defaults");
    for key in ["listener", "certificate", "route"] {
        root.wants(key);
    }
    let pairs = root.tables("certificate");
    let certified = !pairs.is_empty() || root.misspells("certificate");
    let read: Vec<_> = pairs.into_iter().map(|table| read_certificate(reading, table)).collect();
    let certificates: Option<Vec<_>> = read.into_iter().collect();
    let (listeners, at_listeners) =
        listener::all(root.tables("listener"), listener_timeouts, metrics.listen.as_ref(), certified, &mut named);
    let covering = covering(&listeners, certificates.as_deref());
    let table = root.table("defaults");
    let defaults = common::defaults(table, route_timeouts, policies, root.misspells("defaults"));
    let mut ground = route::Ground { reading, policies, certificates: covering.as_ref(), defaults: &defaults, system: None };
    let routes = route::all(root.tables("route"), &mut ground);
    let lacks = |key: &'static str| !root.has(key) && !document.is_torn() && !root.misspells(key);
    if listeners.is_empty() && lacks("listener") {
        root.report(warning("no [[listener]]: nothing is served"));
    }
    if routes.is_empty() && lacks("route") {
        root.report(warning("no [[route]]: every request is answered 404"));
    }
    if !root.misspells("listener") {
        named.finish(&root);
    }
    root.finish();

    let certificates = certificates.unwrap_or_default();
    let written = Written {
        file: document.file(),
        listeners: at_listeners,
        metrics: at_metrics,
        admin: at_admin,
        threads: at_threads,
        max_revoked,
    };
    Settings {
        metrics,
        admin,
        reload,
        shutdown,
        lists_from,
        threads,
        listeners,
        certificates,
        routes,
        defaults: defaults.into(),
        listener_timeouts,
        route_timeouts,
        written,
    }
}

/// `schema = 1`, which every TOML file of ours begins with.
pub fn schema(root: &mut Table<'_>) {
    let Some(value) = root.need("schema", "begin the file with: schema = 1") else { return };
    let Some(number) = value.integer(i64::MIN..=i64::MAX) else { return };
    if number != 1 {
        value.report(error(format!("{number} is not known to this version")).remedy("schema = 1"));
    }
}

/// The certificates that say which hosts are covered, where that matters and can be known.
fn covering(listeners: &[Arc<Listener>], certificates: Option<&[Arc<Certificate>]>) -> Option<Certificates> {
    let tls = listeners.iter().any(|listener| matches!(listener.speaks, Speaks::Tls(_)));
    let certificates = certificates.filter(|certificates| tls && !certificates.is_empty())?;
    Some(Certificates::new(certificates.to_vec()))
}

fn read_certificate(reading: &mut Reading<'_>, mut table: Table<'_>) -> Option<Arc<Certificate>> {
    let chain = table.need("chain", "chain = \"certs/ws.example.com.pem\"");
    let key = table.need("key", "key = \"certs/ws.example.com.key\"; it may be the same file as the chain");
    table.finish();
    certificate::read(reading, chain?, key?).map(Arc::new)
}

fn timeouts(mut table: Table<'_>) -> (ListenerTimeouts, RouteTimeouts) {
    let default = ListenerTimeouts::default();
    let listener = ListenerTimeouts {
        tls: table.positive_duration("tls").unwrap_or(default.tls),
        head: table.positive_duration("head").unwrap_or(default.head),
        keep_alive: table.positive_duration("keep_alive").unwrap_or(default.keep_alive),
    };
    let route = route_timeouts(&mut table, RouteTimeouts::default());
    table.finish();
    (listener, route)
}

/// The bounds of `max_fields`.
const FIELDS: RangeInclusive<i64> = 16..=1000;

/// What `body_pace` may be.
const BODY_PACE: &str = "a pace like \"500B/s\", or \"off\"";

/// The timeouts that a route may set for itself, and else has from `default`.
fn route_timeouts(table: &mut Table<'_>, default: RouteTimeouts) -> RouteTimeouts {
    let body_pace = table.get("body_pace").and_then(|value| value.parse(BODY_PACE, unit::pace));
    let body_stall = table.duration_or_off("body_stall").unwrap_or(default.body_stall);
    let response = table.duration_or_off("response").unwrap_or(default.response);
    let mut timeout = |key, default| -> Duration { table.positive_duration(key).unwrap_or(default) };
    RouteTimeouts {
        body_stall,
        body_pace: body_pace.unwrap_or(default.body_pace),
        dial: timeout("dial", default.dial),
        response,
        write_stall: timeout("write_stall", default.write_stall),
        grace: timeout("grace", default.grace),
    }
}

/// `"127.0.0.1:8443"`; no names of hosts.
fn address(text: &str) -> Result<SocketAddr, Finding> {
    let fault = || error(format!("\"{text}\" is not an address with a port")).remedy("like \"127.0.0.1:8443\" or \"[::]:8443\"");
    text.parse().map_err(|_| fault())
}

/// A value that a later version will act on.
fn not_yet(text: &str) -> Finding {
    error(format!("\"{text}\": not in this version"))
}

/// A network, and nothing else of what a list's line may hold.
fn network(text: &str) -> Result<IpNet, Finding> {
    let entry = Entry::parse(text).map_err(|fault| error(fault.fault).remedy(fault.remedy).within(fault.span))?;
    let plain = entry.filter(|entry| entry.admits && !entry.is_annotated());
    let network = plain.map(|entry| entry.network);
    network.ok_or_else(|| error(format!("\"{text}\" is not a network alone")).remedy("like \"192.0.2.0/24\" or \"::1\""))
}

/// A path of a Unix socket, which the kernel bounds.
fn socket_path(reading: &Reading<'_>, text: &str) -> Result<PathBuf, Finding> {
    let path = reading.path(text)?;
    if path.as_os_str().len() > 107 {
        return Err(error("a Unix socket's path has at most 107 bytes"));
    }
    Ok(path)
}

/// `max_fields` of a listener, for requests, and of a route, for answers.
fn max_fields(table: &mut Table<'_>) -> usize {
    let value = table.get("max_fields").and_then(|value| value.integer(FIELDS));
    value.and_then(|count| usize::try_from(count).ok()).unwrap_or(MAX_FIELDS)
}

/// `"auto"` (`None`) or an integer of at least one.
fn auto_or_count(value: Value<'_>, most: i64) -> Option<usize> {
    if let Some(text) = value.as_str() {
        match text.parse::<u32>() {
            Ok(_) => value.unexpected("an integer"),
            Err(_) => drop(value.choice(&[("auto", ())])),
        }
        return None;
    }
    value.integer(1..=most).and_then(|count| usize::try_from(count).ok())
}

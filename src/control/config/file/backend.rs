//! The backends of a route, and TLS towards them.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::backend_host::{self, BackendHost};
use super::route_context::RouteContext;
use super::value::socket_path;
use crate::control::config::certificate;
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::backend_tls as keys;
use crate::control::config::keys::sidegate::route::BACKEND_TLS;
use crate::control::config::load_context::LoadContext;
use crate::control::config::name::UniqueKeys;
use crate::control::config::off_host;
use crate::control::config::settings::BackendTlsSettings;
use crate::control::config::source_text::{Finding, error, note, warning};
use crate::snapshot::backend_name::BackendName;
use crate::snapshot::certificate::Certificate;
use crate::snapshot::route::BackendAddress;

/// Reads the backends of one route. `None` means that none is valid.
pub fn all(value: TomlValue<'_>, load: &mut LoadContext<'_>) -> Option<Box<[BackendAddress]>> {
    let values = if value.is_array() { value.items()? } else { vec![value] };
    if values.is_empty() {
        value.report(error("an empty list").with_remedy("backend = \"http://127.0.0.1:8080\""));
        return None;
    }
    let mut taken = UniqueKeys::new();
    let mut backends = Vec::new();
    for value in values {
        let Some(backend) = value
            .parse("\"http://HOST:PORT\", \"https://HOST:PORT\" or \"unix:/PATH\"", |text| {
                backend(text, load)
            })
        else {
            continue;
        };
        if let BackendAddress::Unix(path) = &backend {
            load.sockets.expect_foreign(path, &value, load.files);
        }
        if let Some(what) = exposure(&backend) {
            value.report(warning(format!("{what}: data sent there is not encrypted")));
        }
        let name = Arc::from(backend.to_string());
        match taken.insert(backend.clone(), &name, &value) {
            Ok(()) => {
                check_overlap(value, &backend, &backends);
                backends.push(backend);
            }
            Err((_, first)) => {
                value.report(
                    error(format!("{name} is listed twice")).with_related(first, "first here"),
                );
            }
        }
    }
    (!backends.is_empty()).then(|| backends.into())
}

/// Why data for the backend may be read on its way. `None` means that it is encrypted, or does not
/// leave this host as far as can be told.
fn exposure(backend: &BackendAddress) -> Option<&'static str> {
    match backend {
        BackendAddress::Tcp(address) if !address.ip().to_canonical().is_loopback() => {
            Some("not on this host")
        }
        // A name of one label is mostly that of a container beside this one. Any warning about it
        // could only be ignored.
        BackendAddress::Named(name)
            if !backend.is_tls() && !name.is_localhost() && !name.is_single_label() =>
        {
            Some("the name may lead to another host")
        }
        BackendAddress::Tcp(_)
        | BackendAddress::Tls(_)
        | BackendAddress::Unix(_)
        | BackendAddress::Named(_) => None,
    }
}

/// Warns of a server that is listed by two spellings, as `localhost` and 127.0.0.1 are.
fn check_overlap(value: TomlValue<'_>, backend: &BackendAddress, others: &[BackendAddress]) {
    let own = backend.fixed_addresses();
    let is_same = |other: &&BackendAddress| {
        other.is_tls() == backend.is_tls()
            && other.fixed_addresses().iter().any(|address| own.contains(address))
    };
    if let Some(other) = others.iter().find(is_same) {
        let finding = warning(format!("{backend} and {other} are the same server"));
        value.report(finding.with_remedy("write one of them"));
    }
}

/// Parses `"http://HOST[:PORT]"` or `"https://…"`, where HOST is an address or a name, or
/// `"unix:PATH"`.
pub fn backend(text: &str, load: &LoadContext<'_>) -> Result<BackendAddress, Finding> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(load, path).map(BackendAddress::Unix);
    }
    // The last one: a password may contain an `@` itself.
    if let Some(at) = text.rfind('@') {
        // The message leaves out the text, which may contain a password.
        let finding = error("a backend has no user name and no password")
            .with_remedy("leave out the part before the @");
        return Err(finding.with_span(0..at + 1));
    }
    let (scheme, authority) = text.split_once("//").unwrap_or(("", text));
    let (default, is_tls) = match scheme {
        "http:" => (80, false),
        "https:" => (443, true),
        _ => {
            let rest = text.rsplit("//").next().unwrap_or(text);
            return Err(error(format!("\"{text}\" is not a backend"))
                .with_remedy(format!("write \"http://{rest}\"")));
        }
    };
    if let Some(path) = authority.find('/') {
        let finding = error("a backend has no path")
            .with_remedy("leave it out; strip_prefix = true takes a route's prefix off");
        return Err(finding.with_span(scheme.len() + "//".len() + path..text.len()));
    }
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of `[::1]` is part of the address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = port.map_or(Ok(default), self::port)?;
    Ok(match backend_host::parse(host)? {
        BackendHost::Address(ip) if is_tls => BackendAddress::Tls(SocketAddr::new(ip, port)),
        BackendHost::Address(ip) => BackendAddress::Tcp(SocketAddr::new(ip, port)),
        BackendHost::Name(name) => {
            let bare = name.strip_suffix('.').unwrap_or(&name);
            let server_name = is_tls.then(|| server_name(bare)).transpose()?;
            BackendAddress::Named(Arc::new(BackendName { host: name.into(), port, server_name }))
        }
    })
}

/// Accepts digits only: integer parsing would accept a `+` too.
fn port(text: &str) -> Result<u16, Finding> {
    let port = text
        .parse()
        .ok()
        .filter(|port| *port > 0 && text.bytes().all(|digit| digit.is_ascii_digit()));
    port.ok_or_else(|| error(format!("\"{text}\" is not a port")).with_remedy("1 to 65535"))
}

/// Reads `backend_tls`, which is optional and only used with `https://` backends. The outer `None`
/// means that an error was reported, and the inner one means that no backend uses TLS.
pub fn tls(
    table: &mut TomlTable<'_>,
    backends: Option<&[BackendAddress]>,
    context: &mut RouteContext<'_, '_>,
) -> Option<Option<BackendTlsSettings>> {
    let is_there = table.has("backend_tls");
    let mut table = table.table(&BACKEND_TLS);
    let ca = table.get(&keys::CA);
    let name = table.get(&keys::NAME);
    let name = name.map(|value| value.parse("a name of DNS or an address", server_name));
    let chain = table.get(&keys::CHAIN);
    let key = if chain.is_some() {
        table.require(&keys::KEY, "key = \"certs/client.key\"")
    } else {
        table.get(&keys::KEY)
    };
    let used = backends.map(|backends| backends.iter().any(BackendAddress::is_tls));
    if is_there && used == Some(false) {
        table.report(warning(
            "backend_tls: no backend of this route is https://, so it does nothing",
        ));
    }
    let identity = identity(&table, chain, key, context);
    let roots = match ca {
        Some(ca) if off_host::is_left_out(context.load, ca) => {
            Some(Arc::new(RootCertStore::empty()))
        }
        Some(ca) => certificate::authorities(context.load, ca).map(Arc::new),
        None if used == Some(true) => system(&table, context),
        None => Some(Arc::new(RootCertStore::empty())),
    };
    table.finish();
    let ca = ca.and_then(|ca| ca.string()).map(Arc::from);
    let page = BackendTlsSettings {
        ca,
        roots: roots?,
        name: all_or_nothing(name)?,
        identity: all_or_nothing(identity)?,
    };
    Some((used == Some(true)).then_some(page))
}

/// Reads the client certificate. The outer `None` means that there is none, and the inner `None`
/// means that an error was reported.
fn identity(
    table: &TomlTable<'_>,
    chain: Option<TomlValue<'_>>,
    key: Option<TomlValue<'_>>,
    context: &mut RouteContext<'_, '_>,
) -> Option<Option<Arc<Certificate>>> {
    let is_left_out = chain.is_some_and(|chain| off_host::is_left_out(context.load, chain));
    match (chain, key) {
        (Some(_), Some(_)) if is_left_out => None,
        (Some(chain), Some(key)) => {
            Some(certificate::read_client(context.load, chain, key).map(Arc::new))
        }
        (None, Some(_)) if table.misspells("chain") => Some(None),
        (None, Some(key)) => {
            let remedy = "chain = \"certs/client.pem\"";
            key.report(error("a key without its chain").with_remedy(remedy));
            Some(None)
        }
        _ => None,
    }
}

/// `None` only if a value was written and could not be read.
fn all_or_nothing<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    read.map_or(Some(None), |read| read.map(Some))
}

/// The authorities that the system trusts. Loaded once for all routes.
fn system(table: &TomlTable<'_>, context: &mut RouteContext<'_, '_>) -> Option<Arc<RootCertStore>> {
    if context.system.is_none() {
        let mut roots = RootCertStore::empty();
        // The environment may name the files (SSL_CERT_FILE), and their file system may not answer.
        let certificates =
            context.load.files.call(|| rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(certificates.unwrap_or_default());
        if roots.is_empty() && context.load.is_off_host {
            table.report(note("this system trusts no authority: not checked with --off-host"));
        } else if roots.is_empty() {
            let finding =
                error("this system trusts no authority that could vouch for an https:// backend");
            table.report(finding.with_remedy(
                "backend_tls = { ca = \"certs/backend-ca.pem\" }, or install ca-certificates",
            ));
            return None;
        }
        context.system = Some(Arc::new(roots));
    }
    context.system.clone()
}

fn server_name(text: &str) -> Result<ServerName<'static>, Finding> {
    let fault = || {
        error(format!("\"{text}\" is not a name that a certificate can have"))
            .with_remedy("like \"app.internal\"")
    };
    ServerName::try_from(text.to_owned()).map_err(|_| fault())
}

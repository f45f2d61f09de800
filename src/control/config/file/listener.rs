//! `[[listener]]`: its address and its protocol.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::client_certificates;
use super::forwarded;
use super::proxy_protocol;
use super::systemd_refs::{SYSTEMD_PREFIX, SocketUse, SystemdRefs};
use super::unix_socket::{self, AccessKeys, UNIX_PREFIX};
use super::value::{address, overlap};
use crate::control::config::diagnostic::Span;
use crate::control::config::document::{TomlTable, TomlValue, unit};
use crate::control::config::keys::any_file;
use crate::control::config::keys::sidegate::listener as keys;
use crate::control::config::load_context::LoadContext;
use crate::control::config::name::UniqueKeys;
use crate::control::config::socket_paths::SocketRole;
use crate::control::config::source_text::{error, warning};
use crate::policy::limit::Rate;
use crate::snapshot::listener::{
    HttpsPorts, ListenAddress, Listener, ListenerTimeouts, Protocol, TlsRules,
};

/// Where redirects lead before the first TLS listener is known.
const UNKNOWN_PORTS: HttpsPorts = HttpsPorts { public: None, bound: None };

const MIN_HEAD_BYTES: u64 = 8 << 10;
const MAX_HEAD_BYTES: u64 = 1 << 20;

/// Reads all listeners, and returns them with the place of each address. None of them may
/// have an address of `taken`; `certified` says whether there is any certificate.
pub fn all(
    tables: Vec<TomlTable<'_>>,
    timeouts: ListenerTimeouts,
    taken: &[TakenAddress],
    certified: bool,
    systemd_refs: &mut SystemdRefs<'_>,
    load: &mut LoadContext<'_>,
) -> (Vec<Arc<Listener>>, BTreeMap<Arc<str>, Span>) {
    let (names, addresses, written) = (UniqueKeys::new(), UniqueKeys::new(), BTreeMap::new());
    let is_copy = false;
    let mut known =
        ListenerContext { names, addresses, written, taken, certified, is_copy, systemd_refs };
    let mut listeners: Vec<_> =
        tables.into_iter().filter_map(|table| read(table, timeouts, &mut known, load)).collect();
    // After all are read: a redirecting listener may be written above the TLS listener.
    let first_tls = listeners.iter().find(|listener| matches!(listener.protocol, Protocol::Tls(_)));
    let first_tls = first_tls.map(|listener| HttpsPorts {
        public: listener.public_port,
        bound: known.sockets(&listener.address).first().map(SocketAddr::port).filter(|p| *p > 0),
    });
    for listener in &mut listeners {
        if let Protocol::Redirect(ports) = &mut listener.protocol {
            *ports = first_tls.unwrap_or(UNKNOWN_PORTS);
        }
    }
    (listeners.into_iter().map(Arc::new).collect(), known.written)
}

/// An address of another socket of this process.
pub struct TakenAddress {
    pub address: SocketAddr,
    /// The table or the part that listens there.
    pub owner: &'static str,
    /// What a listener at the same address can do.
    pub remedy: &'static str,
}

/// Facts about the file and the other listeners that reading one listener depends on.
struct ListenerContext<'k, 's> {
    names: UniqueKeys<Arc<str>>,
    addresses: UniqueKeys<SocketAddr>,
    written: BTreeMap<Arc<str>, Span>,
    taken: &'k [TakenAddress],
    certified: bool,
    /// Whether the listener being read repeats an earlier name, so that its other values may be
    /// copies too.
    is_copy: bool,
    systemd_refs: &'k mut SystemdRefs<'s>,
}

impl ListenerContext<'_, '_> {
    /// The socket addresses of `address`, as far as they are known.
    fn sockets(&self, address: &ListenAddress) -> Vec<SocketAddr> {
        match address {
            ListenAddress::Tcp(address) => vec![*address],
            ListenAddress::Unix(_) => Vec::new(),
            ListenAddress::Systemd(name) => self.systemd_refs.addresses(name),
        }
    }
}

fn read(
    mut table: TomlTable<'_>,
    timeouts: ListenerTimeouts,
    known: &mut ListenerContext<'_, '_>,
    load: &mut LoadContext<'_>,
) -> Option<Listener> {
    let before = known.names.len();
    let name = known.names.name(&mut table, "public");
    known.is_copy = name.is_some() && known.names.len() == before;
    let speaks = speaks(&mut table);
    let address = listen(&mut table, name.as_ref(), speaks, known, load);
    let head = table.get(&keys::MAX_HEAD).and_then(|value| {
        let size = value.read(&keys::MAX_HEAD.kind.form)?;
        if !(MIN_HEAD_BYTES..=MAX_HEAD_BYTES).contains(&size) {
            value.report(error("out of range").with_remedy("8KiB to 1MiB"));
        }
        Some(size)
    });
    let max_fields = table.read_or_default(&keys::MAX_FIELDS);
    let max_connections = table.read_or_default(&keys::MAX_CONNECTIONS);
    let pending = table.read_or_default(&keys::PENDING_PER_CLIENT);
    let handshakes = handshakes(&mut table, speaks);
    let public_port = public_port(&mut table, speaks);
    let proxy_protocol = proxy_protocol::read(&mut table, address.as_ref());
    let forwarded = forwarded::read(&mut table, address.as_ref(), proxy_protocol.as_ref());
    let client_certificates = client_certificates::read(&mut table, speaks, load);
    refuse_reserved(&mut table);
    report_uncertified(&table, speaks, &mut known.certified);
    table.finish();
    Some(Listener {
        name: name?,
        address: address?,
        protocol: speaks,
        public_port,
        client_certificates,
        max_head: head.unwrap_or_else(|| keys::MAX_HEAD.default_value()) as usize,
        max_fields: max_fields as usize,
        max_connections,
        pending_per_client: pending as usize,
        handshakes_per_client: handshakes,
        proxy_protocol,
        forwarded,
        timeouts,
    })
}

/// Reports TLS without any certificate, once for all listeners: `is_certified` is true then.
fn report_uncertified(table: &TomlTable<'_>, speaks: Protocol, is_certified: &mut bool) {
    // Without its header, the keys of a [[certificate]] belong to the table above.
    let has_pair = table.has("chain") || table.has("key");
    let means_tls = matches!(speaks, Protocol::Tls(_)) && !table.misspells("tls") && !has_pair;
    if means_tls && !*is_certified && !table.document().has_syntax_errors() {
        let remedy = "add a [[certificate]] with its chain and key, or tls = false";
        table.report(error("TLS without a certificate").with_remedy(remedy));
        *is_certified = true;
    }
}

/// Refuses keys and values of later versions.
fn refuse_reserved(table: &mut TomlTable<'_>) {
    if let Some(value) = table.get(&keys::HTTP2)
        && value.boolean() == Some(true)
    {
        value.report(error("not in this version"));
    }
}

fn speaks(table: &mut TomlTable<'_>) -> Protocol {
    // An unreadable `tls` counts as false, so that no error about certificates follows.
    let tls = match table.get(&keys::TLS) {
        Some(value) => value.boolean().unwrap_or(false),
        None => keys::TLS.default_value(),
    };
    let only_13 = table.get(&keys::TLS_MIN);
    let strict_sni = table.get(&keys::STRICT_SNI);
    let redirect = table.get(&keys::REDIRECT);
    let rules = TlsRules {
        only_13: only_13
            .and_then(|value| value.read(&keys::TLS_MIN.kind.form))
            .unwrap_or_else(|| keys::TLS_MIN.default_value()),
        strict_sni: strict_sni
            .and_then(|value| value.boolean())
            .unwrap_or_else(|| keys::STRICT_SNI.default_value()),
    };
    let redirects = redirect.and_then(|value| value.read(&keys::REDIRECT.kind.form)).is_some();
    if tls {
        if let Some(value) = redirect {
            value.report(error("only a plain listener can redirect").with_remedy("tls = false"));
        }
        return Protocol::Tls(rules);
    }
    let idle = [only_13.filter(|_| rules.only_13), strict_sni.filter(|_| rules.strict_sni)];
    for value in idle.into_iter().flatten() {
        value.report(warning("has no effect on a plain listener"));
    }
    if redirects { Protocol::Redirect(UNKNOWN_PORTS) } else { Protocol::Plain }
}

/// `public_port`, which a redirect listener has no use for: its redirects lead elsewhere.
fn public_port(table: &mut TomlTable<'_>, speaks: Protocol) -> Option<u16> {
    let value = table.get(&keys::PUBLIC_PORT)?;
    let port = value.read(&keys::PUBLIC_PORT.kind.form);
    if matches!(speaks, Protocol::Redirect(_)) {
        let finding = warning("has no effect on a listener that redirects");
        value.report(finding.with_remedy("`public_port` of the listener with TLS, if any"));
    }
    port
}

/// `handshakes_per_client`: `{ rate = "500/s", burst = 10000 }`, or `"off"`.
fn handshakes(table: &mut TomlTable<'_>, speaks: Protocol) -> Option<Rate> {
    const EXPECTED: &str = "{ rate = \"500/s\", burst = 10000 }, or \"off\"";
    let encrypts = matches!(speaks, Protocol::Tls(_));
    let Some(value) = table.get(&keys::HANDSHAKES_PER_CLIENT) else {
        return encrypts.then(|| keys::HANDSHAKES_PER_CLIENT.default_value()).flatten();
    };
    if value.is_string() {
        value.parse(EXPECTED, |text| match text {
            "off" => Ok(()),
            _ => Err(error(format!("\"{text}\" is not a rate per client")).with_remedy(EXPECTED)),
        });
        return None;
    }
    let mut table = value.table("`handshakes_per_client`".to_owned())?;
    let rate = table.require(&any_file::RATE, format!("handshakes_per_client = {EXPECTED}"));
    let rate = rate.and_then(|rate| rate.parse("a rate like \"500/s\"", unit::rate));
    let burst = table.read(&any_file::BURST).and_then(NonZeroU32::new);
    table.finish();
    if !encrypts {
        value.report(warning("has no effect on a plain listener"));
        return None;
    }
    let (tokens, per) = rate?;
    Some(Rate { tokens, per, burst: burst.unwrap_or(tokens) })
}

fn listen(
    table: &mut TomlTable<'_>,
    name: Option<&Arc<str>>,
    speaks: Protocol,
    known: &mut ListenerContext<'_, '_>,
    load: &mut LoadContext<'_>,
) -> Option<ListenAddress> {
    let value = table.require(&keys::LISTEN, "listen = \"0.0.0.0:8443\"")?;
    if let Some(name) = name {
        known.written.insert(Arc::clone(name), value.place());
    }
    let who = name.map_or_else(|| "this listener".to_owned(), |name| format!("listener `{name}`"));
    let access = AccessKeys::take(table);
    let address = value.parse("an address like \"0.0.0.0:8443\"", |text| {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            return Ok(ListenAddress::Unix(access.address(unix_socket::path(path)?)));
        }
        match text.strip_prefix(SYSTEMD_PREFIX) {
            Some(socket) => known
                .systemd_refs
                .register(&value, socket, &who, SocketUse::Clients)
                .map(ListenAddress::Systemd),
            None => address(text).map(ListenAddress::Tcp),
        }
    })?;
    if !matches!(address, ListenAddress::Unix(_)) {
        access.refuse();
    }
    let reachable =
        known.sockets(&address).iter().any(|address| !address.ip().to_canonical().is_loopback());
    if speaks == Protocol::Plain && reachable && !value.document().has_syntax_errors() {
        let finding = warning("plain ws:// on an address that others can reach");
        value.report(finding.with_remedy("tls = true, or listen on a loopback address"));
    }
    match &address {
        // The values of a copied table are copies too, and one error about its name says so.
        ListenAddress::Unix(_) if known.is_copy => {}
        ListenAddress::Unix(unix) => {
            let role = SocketRole::Listener(name.cloned());
            load.sockets.bind(&unix.path, role, &value, load.files);
        }
        ListenAddress::Tcp(fixed) => known.report_clash(*fixed, name, &value),
        ListenAddress::Systemd(_) => {}
    }
    Some(address)
}

impl ListenerContext<'_, '_> {
    /// Reports that another socket, or a listener before, has the same port.
    fn report_clash(&mut self, fixed: SocketAddr, name: Option<&Arc<str>>, at: &TomlValue<'_>) {
        // Port 0 gets a different port each time, so it clashes with none.
        if fixed.port() == 0 {
            return;
        }
        for taken in self.taken.iter().filter(|taken| overlap(taken.address, fixed)) {
            let what = if taken.address == fixed { "is" } else { "takes" };
            let finding = error(format!("{fixed} {what} the address of {}", taken.owner));
            at.report(finding.with_remedy(taken.remedy));
        }
        let nameless = Arc::from("another listener");
        let name = name.unwrap_or(&nameless);
        if let Err((first, span)) = self.addresses.insert(fixed, name, at)
            && !self.is_copy
        {
            let finding = error(format!("{fixed} is the address of `{first}`"))
                .with_remedy("another address or port for one of the two");
            at.report(finding.with_related(span, "first here"));
        }
    }
}

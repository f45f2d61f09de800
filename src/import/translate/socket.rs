//! Which servers answer on which socket, and which sockets one Sidegate can serve.
//!
//! nginx chooses among the servers of the socket that a request arrived on; Sidegate's routes hold
//! on all of its listeners. So sockets with the same servers share a configuration, and the others
//! get one of their own.

use std::collections::BTreeMap;

use crate::import::nginx::listen::{Listen, NginxAddress};
use crate::import::nginx::mapped::takes_mapped;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::{DirectiveOutcome, NoteScope};
use crate::import::tree::DirectiveId;

/// A socket that nginx listens on.
#[derive(Debug)]
pub struct NginxSocket {
    /// The address and port, or the path.
    pub address: NginxAddress,
    /// The servers that answer there, by place.
    pub servers: Vec<usize>,
    /// Index of the server that answers when no name matches.
    pub default: usize,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether each connection begins with a PROXY header. `None` means that IPv4 and IPv6
    /// clients, who share the socket here, differ in it.
    pub proxy_protocol: Option<bool>,
    /// Whether an IPv6 socket also accepts IPv4 clients.
    pub both_families: bool,
    /// Whether nginx knows its IPv4 clients by IPv4-mapped addresses, or has none there.
    pub mapped: bool,
    /// The `listen` directives behind it.
    pub ids: Vec<DirectiveId>,
}

impl NginxSocket {
    /// Returns the socket of the first `listen` with its address, of the server at `place`.
    fn new(listen: &Listen, place: usize) -> NginxSocket {
        NginxSocket {
            address: listen.address.clone(),
            servers: Vec::new(),
            // Without `default_server`, the first server of a socket is its default.
            default: place,
            tls: false,
            proxy_protocol: Some(false),
            both_families: false,
            mapped: false,
            ids: Vec::new(),
        }
    }
}

/// Sockets that one Sidegate serves.
#[derive(Debug)]
pub struct SocketGroup {
    /// Sockets with the same servers, and the same default server.
    pub sockets: Vec<NginxSocket>,
    /// Sockets on which nginx only redirects to https.
    pub redirects: Vec<NginxSocket>,
}

impl SocketGroup {
    /// Returns the indices of the servers that answer on its sockets.
    pub fn servers(&self) -> &[usize] {
        self.sockets.first().map(|socket| &socket.servers[..]).unwrap_or_default()
    }

    /// Returns the index of the server that answers when no name matches.
    pub fn default(&self) -> Option<usize> {
        self.sockets.first().map(|socket| socket.default)
    }
}

/// Returns all groups, in the order of nginx' files.
pub fn groups(nginx: &HttpBlock, context: &mut ImportContext<'_>) -> Vec<SocketGroup> {
    let sockets = sockets(nginx, context);
    note_overlaps(nginx, &sockets, context);
    let (mut groups, mut redirects) = (Vec::<SocketGroup>::new(), Vec::new());
    for socket in sockets {
        let servers = || socket.servers.iter().map(|server| &nginx.servers[*server]);
        // If all servers of a socket answer by themselves, its listener would have no route.
        if !servers().any(|server| server.proxies()) {
            if !socket.tls && servers().any(|server| server.to_https.is_some()) {
                redirects.push(socket);
            } else {
                for id in &socket.ids {
                    context.notes.add(
                        *id,
                        DirectiveOutcome::Dropped,
                        "no server there passes anything on: no listener",
                    );
                }
            }
            continue;
        }
        // Routes hold on all listeners of a configuration. The default server has to agree as well,
        // or requests for unknown names would reach another server than in nginx.
        let same = groups.iter_mut().find(|group| {
            group.servers() == socket.servers && group.default() == Some(socket.default)
        });
        match same {
            Some(group) => group.sockets.push(socket),
            None => groups.push(SocketGroup { sockets: vec![socket], redirects: Vec::new() }),
        }
    }
    let is_tls = |group: &SocketGroup| group.sockets.iter().any(|socket| socket.tls);
    // Sockets that only redirect to https join the first group that serves TLS.
    // The redirect leads to the port of a TLS listener of the same Sidegate.
    let with_tls = groups.iter().position(is_tls).unwrap_or(0);
    if let Some(group) = groups.get_mut(with_tls) {
        group.redirects = redirects;
    }
    for group in &mut groups {
        // `merge` comes first: `remove_covered` would drop `0.0.0.0` without a note, and with it
        // the settings that `[::]` has to take over.
        merge(&mut group.sockets, context);
        merge(&mut group.redirects, context);
        remove_covered(group, context);
    }
    groups
}

fn sockets(nginx: &HttpBlock, context: &mut ImportContext<'_>) -> Vec<NginxSocket> {
    let (mut sockets, mut explicit) =
        (Vec::<NginxSocket>::new(), BTreeMap::<NginxAddress, DirectiveId>::new());
    for (place, server) in nginx.servers.iter().enumerate() {
        for listen in &server.listens {
            let known = sockets.iter().position(|socket| socket.address == listen.address);
            let at = known.unwrap_or_else(|| {
                sockets.push(NginxSocket::new(listen, place));
                sockets.len() - 1
            });
            let socket = &mut sockets[at];
            if socket.servers.contains(&place) {
                context.fault(listen.id, format!("a duplicate listen {}", listen.address));
                continue;
            }
            socket.servers.push(place);
            socket.ids.push(listen.id);
            // A setting that one server makes on a socket holds for all of them.
            socket.tls |= listen.tls;
            socket.both_families |= listen.both_families;
            if listen.proxy_protocol {
                socket.proxy_protocol = Some(true);
            }
            if listen.default {
                // nginx does not start with two default servers, so there is nothing to carry over.
                if let Some(first) = explicit.insert(listen.address.clone(), listen.id) {
                    let first = context.tree.place(first).clone();
                    context.fault(
                        listen.id,
                        format!(
                            "a duplicate default server for {}, the first is {first}",
                            listen.address
                        ),
                    );
                }
                socket.default = place;
            }
        }
    }
    // Only after the loop: a twin in the other family may be a `listen` of a later server.
    let all: Vec<_> = nginx.servers.iter().flat_map(|server| server.listens.clone()).collect();
    for socket in &mut sockets {
        socket.mapped = takes_mapped(&socket.address, &all);
    }
    sockets
}

/// Merges `0.0.0.0:80` into `[::]:80`: the latter accepts both families, so Sidegate can't bind
/// both.
fn merge(sockets: &mut Vec<NginxSocket>, context: &mut ImportContext<'_>) {
    let wildcard =
        |socket: &NginxSocket| socket.address.tcp().filter(|address| address.ip().is_unspecified());
    let v6 = sockets.iter().filter_map(wildcard).filter(|address| address.is_ipv6());
    let twins: Vec<_> = v6.map(|address| address.port()).collect();
    for port in twins {
        let v4 = |socket: &NginxSocket| {
            wildcard(socket).is_some_and(|address| address.is_ipv4() && address.port() == port)
        };
        let Some(at) = sockets.iter().position(v4) else { continue };
        let v4 = sockets.remove(at);
        for id in &v4.ids {
            context.notes.add(
                *id,
                DirectiveOutcome::Carried,
                format!("the listener at [::]:{port} takes IPv4 clients as well"),
            );
        }
        if let Some(v6) =
            sockets.iter_mut().find(|socket| wildcard(socket).is_some_and(|at| at.port() == port))
        {
            v6.tls |= v4.tls;
            // Disagreement becomes `None`: one listener cannot ask one family alone for a header.
            v6.proxy_protocol =
                v6.proxy_protocol.filter(|_| v4.proxy_protocol == v6.proxy_protocol);
            v6.both_families = true;
            v6.ids.extend(v4.ids);
        }
    }
    for socket in sockets
        .iter()
        .filter(|socket| wildcard(socket).is_some_and(|at| at.is_ipv6()) && !socket.both_families)
    {
        for id in &socket.ids {
            let text = "`[::]` takes IPv4 clients as well, by the same rules, unless the kernel \
                        is configured otherwise (net.ipv6.bindv6only)";
            context.notes.add(*id, DirectiveOutcome::Differs, text);
        }
    }
}

/// Notes a socket whose address a wider one of the same port has as well. nginx binds the wider one
/// alone, and asks each connection for its address; Sidegate's listener serves all of them alike.
fn note_overlaps(nginx: &HttpBlock, sockets: &[NginxSocket], context: &mut ImportContext<'_>) {
    for socket in sockets {
        for wide in sockets.iter().filter(|other| is_around(other, socket)) {
            note_overlap(nginx, wide, socket, context);
        }
    }
}

/// Returns whether a listener at the address of `wide` gets the connections to that of `socket`.
fn is_around(wide: &NginxSocket, socket: &NginxSocket) -> bool {
    let (Some(wide), Some(own)) = (wide.address.tcp(), socket.address.tcp()) else { return false };
    // The kernel gives IPv4 connections to a socket that is bound to an IPv4-mapped address.
    let (all, ip) = (wide.ip().to_canonical(), own.ip().to_canonical());
    // `[::]` takes clients of both families, `0.0.0.0` those of IPv4 alone.
    let holds = all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    wide != own && wide.port() == own.port() && (holds || all == ip)
}

fn note_overlap(
    nginx: &HttpBlock,
    wide: &NginxSocket,
    socket: &NginxSocket,
    context: &mut ImportContext<'_>,
) {
    let passes = |one: &NginxSocket| one.servers.iter().any(|at| nginx.servers[*at].proxies());
    let leads = |at: &usize| nginx.servers[*at].to_https.is_some();
    let redirects = |one: &NginxSocket| !one.tls && one.servers.iter().any(leads);
    let alike = wide.servers == socket.servers && wide.default == socket.default;
    let speaks = |one: &NginxSocket| (one.tls, one.proxy_protocol);
    let (wider, own) = (&wide.address, &socket.address);
    let (word, text) = match (passes(wide), passes(socket)) {
        // `merge` makes one listener of them.
        (true, true) if alike && is_any(wide) && is_any(socket) => return,
        (true, true) if alike && speaks(wide) == speaks(socket) => {
            let text = format!("the listener at {wider} takes its clients as well");
            (DirectiveOutcome::Carried, text)
        }
        (true, _) => {
            let text = format!(
                "a listener at {wider} serves the clients of {own} too, by the servers of \
                 {wider}, and both can't be bound. Give one of them another port"
            );
            (DirectiveOutcome::Opens, text)
        }
        (false, true) if redirects(wide) => {
            let text =
                format!("{wider} and {own} can't both be bound: give one of them another port");
            (DirectiveOutcome::Closes, text)
        }
        (false, _) => return, // at most a redirect for more addresses
    };
    let scopes = match word {
        DirectiveOutcome::Carried => Vec::new(),
        _ => vec![NoteScope::everything()],
    };
    for id in &socket.ids {
        context.notes.add_scoped(*id, word, text.clone(), scopes.clone());
    }
}

fn is_any(socket: &NginxSocket) -> bool {
    socket.address.tcp().is_some_and(|address| address.ip().is_unspecified())
}

/// Removes the sockets that can't be bound beside another one of the same configuration.
fn remove_covered(group: &mut SocketGroup, context: &mut ImportContext<'_>) {
    let around =
        |all: &[NginxSocket], own: &NginxSocket| all.iter().any(|wide| is_around(wide, own));
    let addresses = |all: &[NginxSocket], own: &NginxSocket| {
        all.iter().find(|other| is_around(own, other)).map(|other| other.address.to_string())
    };
    let covered: Vec<_> = group.sockets.iter().map(|one| around(&group.sockets, one)).collect();
    let mut covered = covered.into_iter();
    group.sockets.retain(|_| covered.next() != Some(true));
    let covered: Vec<_> = group.redirects.iter().map(|one| around(&group.redirects, one)).collect();
    let mut covered = covered.into_iter();
    group.redirects.retain(|_| covered.next() != Some(true));
    // Serving sockets win: a wider redirect cannot be bound beside them, and losing a redirect
    // closes less than losing a service.
    let sockets = &group.sockets;
    group.redirects.retain(|redirect| {
        if let Some(inner) = addresses(sockets, redirect) {
            let text = format!(
                "not carried over: {inner} can't be bound beside it. Give one of them another port"
            );
            for id in &redirect.ids {
                context.notes.add(*id, DirectiveOutcome::Closes, text.clone());
            }
            return false;
        }
        !around(sockets, redirect)
    });
}

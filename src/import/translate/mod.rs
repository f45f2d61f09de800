//! Translates nginx' meaning into Sidegate's settings: one configuration per group of sockets.
//!
//! Decisions stay those of nginx. Where they can't, or where something is lost, the directive in
//! question gets a note with the attempts that are affected. This module reads and writes no
//! Sidegate files.

mod compare;
mod config;
mod guard;
mod host;
mod naming;
mod paths;
pub mod policy;
pub mod route;
mod socket;
mod tls;

pub use self::config::{OutputConfig, OutputListener, OutputProtocol, TrustedForwarders};
use self::naming::free_name;
pub use self::paths::GuardHandling;
use self::socket::SocketGroup;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::{DirectiveOutcome, NoteScope};

/// Translates all servers; `unsaid` decides about guards that can't be carried over.
pub fn translate(
    nginx: &HttpBlock,
    unsaid: GuardHandling,
    context: &mut ImportContext<'_>,
) -> Vec<OutputConfig> {
    let mut configs = Vec::<OutputConfig>::new();
    let groups = socket::groups(nginx, context);
    note_unreached(nginx, &groups, context);
    for group in &groups {
        let listeners = listeners(nginx, group, context);
        let folder = (!configs.is_empty()).then(|| {
            free_name(&listeners[0].name, |name| {
                configs.iter().any(|config| config.folder.as_deref() == Some(name))
            })
        });
        if let Some(folder) = &folder {
            for id in group.sockets.iter().flat_map(|socket| &socket.ids) {
                let text = format!(
                    "other servers answer there, so it gets a Sidegate of its own: \
                     {folder}/sidegate.toml"
                );
                context.notes.add(*id, DirectiveOutcome::Carried, text);
            }
        }
        let certificates = tls::certificates(nginx, group, context);
        let (hosts, strays) = host::hosts(nginx, group, context);
        let (routes, policies) =
            route::routes(nginx, &hosts, &strays, unsaid, configs.len(), context);
        let names = hosts.iter().map(|host| host.scope.clone()).collect();
        let forwarded = forwarded(nginx, group, context);
        configs.push(OutputConfig {
            folder,
            listeners,
            certificates,
            routes,
            policies,
            hosts: names,
            forwarded,
        });
    }
    configs
}

fn listeners(
    nginx: &HttpBlock,
    group: &SocketGroup,
    context: &mut ImportContext<'_>,
) -> Vec<OutputListener> {
    let mut listeners = Vec::<OutputListener>::new();
    let sockets = group
        .sockets
        .iter()
        .map(|socket| (socket, false))
        .chain(group.redirects.iter().map(|socket| (socket, true)));
    for (socket, redirects) in sockets {
        let server = &nginx.servers[socket.default];
        let speaks = match (redirects, socket.tls) {
            (true, _) => OutputProtocol::Redirect,
            (false, true) => OutputProtocol::Tls {
                only_13: server.settings.only_13.is_some_and(|set| set.value),
                strict_sni: server.strict_sni.is_some(),
            },
            (false, false) => OutputProtocol::Plain,
        };
        let kind = if socket.tls { "tls" } else { "plain" };
        let name = free_name(&format!("{kind}-{}", socket.address.port()), |name| {
            listeners.iter().any(|listener| listener.name == name)
        });
        let said = match speaks {
            OutputProtocol::Redirect => {
                format!("listener `{name}`, which answers everything with a redirect to https")
            }
            OutputProtocol::Tls { .. } | OutputProtocol::Plain => format!("listener `{name}`"),
        };
        for id in &socket.ids {
            context.notes.add(*id, DirectiveOutcome::Carried, said.clone());
        }
        if let (OutputProtocol::Tls { strict_sni: true, .. }, Some(id)) =
            (speaks, server.strict_sni)
        {
            context.notes.add(id, DirectiveOutcome::Carried, "`strict_sni` of the listener");
        }
        if speaks == OutputProtocol::Redirect {
            for server in socket.servers.iter().map(|server| &nginx.servers[*server]) {
                for id in server.to_https.iter().chain(&server.answer) {
                    context.notes.add(
                        *id,
                        DirectiveOutcome::Carried,
                        "`redirect = \"https\"` of the listener, which answers 308",
                    );
                }
            }
        }
        listeners.push(OutputListener { name, address: socket.address, speaks });
    }
    listeners
}

/// Notes the servers that no request reaches.
fn note_unreached(nginx: &HttpBlock, groups: &[SocketGroup], context: &mut ImportContext<'_>) {
    for (place, server) in nginx.servers.iter().enumerate() {
        let named = server
            .names
            .iter()
            .any(|(_, name)| *name != crate::import::nginx::name::ServerName::Unmatchable);
        let default = groups.iter().any(|group| group.default() == Some(place));
        let answers = groups.iter().any(|group| group.servers().contains(&place));
        if answers && !named && !default {
            context.notes.add(
                server.id,
                DirectiveOutcome::Dropped,
                "no request comes to it: it has no name and is nowhere the default server",
            );
        }
    }
}

/// Returns where nginx took the client's address from. `None` means from the connection.
fn forwarded(
    nginx: &HttpBlock,
    group: &SocketGroup,
    context: &mut ImportContext<'_>,
) -> Option<TrustedForwarders> {
    let mut found = None;
    for server in group.servers().iter().map(|server| &nginx.servers[*server]) {
        let inside = server.locations.iter().map(|location| &location.settings);
        for settings in std::iter::once(&server.settings).chain(inside) {
            let header = settings.real_ip_header.as_ref();
            if settings.forwarders.is_empty() {
                if let Some(header) = header {
                    context.notes.add(
                        header.id,
                        DirectiveOutcome::Dropped,
                        "without a `set_real_ip_from` nginx trusts no peer",
                    );
                }
                continue;
            }
            let ids = settings
                .forwarders
                .iter()
                .map(|from| from.id)
                .chain(header.map(|header| header.id));
            for id in ids {
                let text = "not carried over: behind such a peer every client is that peer, for \
                            networks and for limits alike, until `forwarded` is enabled. \
                            The list is in sidegate.toml as a comment";
                context.notes.add_scoped(
                    id,
                    DirectiveOutcome::Opens,
                    text,
                    vec![NoteScope::everything()],
                );
            }
            let from = settings.forwarders.iter().map(|from| from.value.clone()).collect();
            let header =
                header.map_or("x-real-ip".into(), |header| header.value.to_ascii_lowercase());
            found.get_or_insert(TrustedForwarders { header, from });
        }
    }
    found
}

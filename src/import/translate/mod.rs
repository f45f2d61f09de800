//! Translates nginx' meaning into Sidegate's settings: one configuration per group of sockets.
//!
//! Decisions stay those of nginx. Where they can't, or where something is lost, the directive in
//! question gets a note with the attempts that are affected. This module reads and writes no
//! Sidegate files.

mod compare;
mod config;
mod guard;
mod host;
mod identity;
mod listener;
mod naming;
mod paths;
pub mod policy;
pub mod route;
mod socket;
mod tls;

pub use self::config::{OutputConfig, OutputListener, OutputProtocol};
use self::naming::free_name;
pub use self::paths::GuardHandling;
use self::route::RouteSite;
use self::socket::SocketGroup;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::DirectiveOutcome;

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
        let (listeners, identities) = listener::listeners(nginx, group, context);
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
        let site = RouteSite {
            nginx,
            hosts: &hosts,
            strays: &strays,
            identities: &identities,
            config: configs.len(),
        };
        let (routes, policies) = route::routes(site, unsaid, context);
        let names = hosts.iter().map(|host| host.scope.clone()).collect();
        configs.push(OutputConfig {
            folder,
            listeners,
            certificates,
            routes,
            policies,
            hosts: names,
        });
    }
    configs
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

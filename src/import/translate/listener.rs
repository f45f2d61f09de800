//! Listeners: one for each socket of a group, with its protocol and the peers that it believes.

use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::DirectiveOutcome;
use crate::import::translate::config::{OutputListener, OutputProtocol};
use crate::import::translate::identity::ListenerIdentity;
use crate::import::translate::naming::free_name;
use crate::import::translate::socket::{NginxSocket, SocketGroup};

/// Returns the listeners of a group, and how those find the client that lead to its routes.
pub fn listeners(
    nginx: &HttpBlock,
    group: &SocketGroup,
    context: &mut ImportContext<'_>,
) -> (Vec<OutputListener>, Vec<ListenerIdentity>) {
    let (mut listeners, mut identities) = (Vec::<OutputListener>::new(), Vec::new());
    let redirects = group.redirects.iter().map(|socket| (socket, OutputProtocol::Redirect));
    let serving = group.sockets.iter().map(|socket| (socket, protocol(nginx, socket)));
    for (socket, speaks) in serving.chain(redirects) {
        let kind = if socket.tls { "tls" } else { "plain" };
        let place = socket.address.tcp().map_or("unix".into(), |at| at.port().to_string());
        let name = free_name(&format!("{kind}-{place}"), |name| {
            listeners.iter().any(|listener| listener.name == name)
        });
        note(nginx, socket, &name, speaks, context);
        let identity = ListenerIdentity::new(nginx, socket, name.clone());
        let (proxies, mut forwarders) = (identity.proxies.clone(), identity.forwarders.clone());
        if speaks == OutputProtocol::Redirect {
            // A redirect asks for no client.
            forwarders.clear();
            identity.note_redirects(context);
        } else {
            identities.push(identity);
        }
        let address = socket.address.clone();
        listeners.push(OutputListener { name, address, speaks, proxies, forwarders });
    }
    (listeners, identities)
}

/// Returns the protocol of a socket whose servers pass requests on.
fn protocol(nginx: &HttpBlock, socket: &NginxSocket) -> OutputProtocol {
    let server = &nginx.servers[socket.default];
    // OpenSSL negotiates the version before nginx chooses a server by SNI, so `ssl_protocols` of
    // the default server hold for the whole socket.
    match socket.tls {
        true => OutputProtocol::Tls {
            only_13: server.settings.only_13.is_some_and(|set| set.value),
            strict_sni: server.strict_sni.is_some(),
        },
        false => OutputProtocol::Plain,
    }
}

/// Notes the listener `name` at the directives behind it.
fn note(
    nginx: &HttpBlock,
    socket: &NginxSocket,
    name: &str,
    speaks: OutputProtocol,
    context: &mut ImportContext<'_>,
) {
    let mut said = format!("listener `{name}`");
    if speaks == OutputProtocol::Redirect {
        said.push_str(", which answers everything with a redirect to https");
    }
    // `ngx_open_listening_sockets` sets mode 0666 on each Unix socket, whatever the umask.
    if socket.address.is_unix() {
        said.push_str(
            ", with `mode = \"0666\"` as in nginx: every user of this host may connect. Limits \
             count each user, where nginx counts all as one client",
        );
    }
    for id in &socket.ids {
        context.notes.add(*id, DirectiveOutcome::Carried, said.clone());
    }
    let strict_sni = nginx.servers[socket.default].strict_sni;
    if let (OutputProtocol::Tls { strict_sni: true, .. }, Some(id)) = (speaks, strict_sni) {
        context.notes.add(id, DirectiveOutcome::Carried, "`strict_sni` of the listener");
    }
    if speaks == OutputProtocol::Redirect {
        let text = "`redirect = \"https\"` of the listener, which answers 308";
        for server in socket.servers.iter().map(|server| &nginx.servers[*server]) {
            for id in server.to_https.iter().chain(&server.answer) {
                context.notes.add(*id, DirectiveOutcome::Carried, text);
            }
        }
    }
}

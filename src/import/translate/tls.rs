//! Certificates: the files that nginx names, used in place.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::import::nginx::context::Setting;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::DirectiveOutcome;
use crate::import::translate::socket::SocketGroup;

/// Returns chain and key of each certificate of a group, the default one first; empty if no socket
/// speaks TLS.
pub fn certificates(
    nginx: &HttpBlock,
    group: &SocketGroup,
    context: &mut ImportContext<'_>,
) -> Vec<(PathBuf, PathBuf)> {
    let Some(socket) = group.sockets.iter().find(|socket| socket.tls) else { return Vec::new() };
    // A client without SNI gets the first certificate, so the default server's must come first.
    let mut order = vec![socket.default];
    order.extend(socket.servers.iter().copied().filter(|server| *server != socket.default));
    let mut pairs = Vec::new();
    for server in order {
        let settings = &nginx.servers[server].settings;
        if settings.chains.is_empty()
            && nginx.servers[server].strict_sni.is_none()
            && server == socket.default
        {
            context.fault(
                nginx.servers[server].id,
                "no \"ssl_certificate\" is defined for a server that speaks TLS",
            );
        }
        for (at, chain) in settings.chains.iter().enumerate() {
            let Some(key) = settings.keys.get(at) else {
                context.fault(
                    chain.id,
                    format!(
                        "no \"ssl_certificate_key\" is defined for certificate \"{}\"",
                        chain.value
                    ),
                );
                continue;
            };
            if let (Some(chain_path), Some(key_path)) = (path(chain, context), path(key, context)) {
                for id in [chain.id, key.id] {
                    context.notes.add(
                        id,
                        DirectiveOutcome::Carried,
                        "a [[certificate]]; the names that it carries decide who gets it",
                    );
                }
                if !pairs.contains(&(chain_path.clone(), key_path.clone())) {
                    pairs.push((chain_path, key_path));
                }
            }
        }
        if let Some(only_13) = settings.only_13 {
            context.notes.add(
                only_13.id,
                DirectiveOutcome::Carried,
                "`tls_min` of the listeners, 1.2 or 1.3",
            );
        }
    }
    pairs
}

/// Returns the absolute path of a file. `None` means that the value is no file, or that the file
/// can't be read.
fn path(set: &Setting<String>, context: &mut ImportContext<'_>) -> Option<PathBuf> {
    if set.value.contains('$')
        || ["data:", "engine:", "store:"].iter().any(|start| set.value.starts_with(start))
    {
        context.notes.add(
            set.id,
            DirectiveOutcome::Differs,
            "a certificate is a file: write a [[certificate]] for each name",
        );
        return None;
    }
    let path = context.tree.folder.join(Path::new(&set.value));
    let path = std::path::absolute(&path).unwrap_or(path);
    if let Err(error) = File::open(&path) {
        context.fault(set.id, format!("{} cannot be read: {error}", path.display()));
        return None;
    }
    Some(path)
}

//! Parses where a location passes requests on: `proxy_pass`, and the `upstream` that it may name.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::import::nginx::constants::Constants;
use crate::import::nginx::fixed;
use crate::import::nginx::import_context::ImportContext;
use crate::import::report::DirectiveOutcome;
use crate::import::tree::{Directive, DirectiveId};
use sidegate::control::config;

/// A `proxy_pass`, with its upstream resolved.
#[derive(Debug)]
pub struct ProxyPass {
    /// Number of the `proxy_pass` directive.
    pub id: DirectiveId,
    /// The backends, or why they are unknown.
    pub to: PassTarget,
    /// The URI after the address. `None` means that the path passes unchanged.
    pub path: Option<String>,
    /// Whether it has variables: then nginx sends `path` in place of the whole path.
    pub is_evaluated: bool,
    /// The `rewrite` in the same location that strips the location's path.
    pub cut_by: Option<DirectiveId>,
}

/// The backends that requests go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassTarget {
    /// Backends in the form of a route's `backend`; never empty.
    Backends(Vec<String>),
    /// Backends that can't be written down; says why, and what to do.
    Unknown(String),
}

/// All `upstream` blocks by name.
#[derive(Debug, Default)]
pub struct Upstreams(HashMap<String, PassTarget>);

impl Upstreams {
    /// Reads an `upstream` block; a duplicate name or an empty block is a fault.
    pub fn read(&mut self, directive: &Directive, context: &mut ImportContext<'_>) {
        let name = directive.first();
        let (mut backends, mut unknown, mut servers) = (Vec::new(), None, 0);
        for inner in directive.inside() {
            match inner.name.as_str() {
                "server" => {
                    servers += 1;
                    match server(inner, context) {
                        Ok(Some(backend)) if !backends.contains(&backend) => backends.push(backend),
                        Ok(_) => {}
                        Err(why) => unknown = Some(why),
                    }
                }
                "ip_hash" | "hash" | "sticky" | "sticky_cookie_insert" => {
                    let text = "a client's next tunnel may go to another backend: the one with \
                                the fewest tunnels gets it";
                    context.notes.add(inner.id, DirectiveOutcome::Differs, text);
                }
                "random" | "least_time" => {
                    context.notes.add(
                        inner.id,
                        DirectiveOutcome::Differs,
                        "the backend with the fewest tunnels gets the next",
                    );
                }
                _ => fixed::note_upstream(inner, context),
            }
        }
        if servers == 0 {
            return context
                .fault(directive.id, format!("no servers are inside upstream \"{name}\""));
        }
        let to = match unknown {
            Some(why) => PassTarget::Unknown(why),
            None if backends.is_empty() => {
                PassTarget::Unknown("every server of the upstream is `down` or `backup`".into())
            }
            None => PassTarget::Backends(backends),
        };
        let count = if let PassTarget::Backends(backends) = &to { backends.len() } else { 0 };
        let text = if count == 1 {
            "the `backend` of the routes that lead there"
        } else {
            "a list as `backend` of the routes that lead there"
        };
        context.notes.add(directive.id, DirectiveOutcome::Carried, text);
        if self.0.insert(name.to_owned(), to).is_some() {
            context.fault(directive.id, format!("duplicate upstream \"{name}\""));
        }
    }

    /// Reads a `proxy_pass`. `None` means that a fault was noted.
    pub fn pass(
        &self,
        directive: &Directive,
        constants: &Constants<'_>,
        context: &mut ImportContext<'_>,
    ) -> Option<ProxyPass> {
        let id = directive.id;
        let is_evaluated = directive.first().contains('$');
        let expanded = constants.expand(directive.first());
        let url = expanded.text.as_str();
        let Some((scheme, rest)) =
            url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))
        else {
            if url.starts_with('$') {
                return Some(ProxyPass {
                    id,
                    to: PassTarget::Unknown(variable(url)),
                    path: None,
                    is_evaluated,
                    cut_by: None,
                });
            }
            context.fault(id, format!("invalid URL prefix in \"{url}\""));
            return None;
        };
        let (address, path) = address_and_path(rest);
        let to = match self.0.get(&address) {
            _ if scheme == "https" => PassTarget::Unknown(
                "nginx verifies the certificate of an https:// backend only if configured to, and \
                 Sidegate always does: write it by hand, with `backend_tls`"
                    .into(),
            ),
            // The name of an upstream goes before a host name of the same spelling, as in nginx.
            Some(to) => to.clone(),
            None if address.contains('$') => PassTarget::Unknown(variable(&address)),
            None => match backend(&address) {
                Ok(backend) => PassTarget::Backends(vec![backend]),
                Err(why) => PassTarget::Unknown(why),
            },
        };
        if matches!(to, PassTarget::Backends(_)) {
            expanded.note(context);
        }
        let path = (!path.is_empty()).then(|| path.to_owned());
        Some(ProxyPass { id, to, path, is_evaluated, cut_by: None })
    }
}

fn variable(text: &str) -> String {
    format!("`{text}` is known only when a request comes: write the addresses")
}

/// Reads a `server` of an upstream. `None` means that it is left out.
fn server(
    directive: &Directive,
    context: &mut ImportContext<'_>,
) -> Result<Option<String>, String> {
    let id = directive.id;
    let mut kept = true;
    for word in directive.words.iter().skip(1) {
        match word.split_once('=').map_or(word.as_str(), |(key, _)| key) {
            "down" => {
                context.notes.add(id, DirectiveOutcome::Dropped, "it is `down`: left out");
                kept = false;
            }
            "backup" => {
                let text = "a `backup` is left out: all backends of a route are equal";
                context.notes.add(id, DirectiveOutcome::Differs, text);
                kept = false;
            }
            "weight" if word != "weight=1" => {
                let text =
                    "backends have no weights: the one with the fewest tunnels gets the next";
                context.notes.add(id, DirectiveOutcome::Differs, text);
            }
            "max_conns" if word != "max_conns=0" => {
                let text = "a backend has no `max_conns`: see `connections.total` of the policy";
                context.notes.add(id, DirectiveOutcome::Differs, text);
            }
            // The name is resolved again in any case.
            "weight" | "max_conns" | "resolve" => {}
            "max_fails" | "fail_timeout" => {
                let text = format!(
                    "`{word}` is not carried over: after a dial that fails, the next backend is \
                     tried"
                );
                context.notes.add(id, DirectiveOutcome::Differs, text);
            }
            _ => {
                let text = format!("`{word}` is not carried over");
                context.notes.add(id, DirectiveOutcome::Differs, text);
            }
        }
    }
    if !kept {
        return Ok(None);
    }
    match backend(directive.first()) {
        Ok(backend) => {
            context.notes.add(id, DirectiveOutcome::Carried, format!("backend \"{backend}\""));
            Ok(Some(backend))
        }
        Err(why) => {
            context.notes.add(id, DirectiveOutcome::Closes, why.clone());
            Err(why)
        }
    }
}

/// Converts an nginx address to the form of a route's `backend`.
fn backend(address: &str) -> Result<String, String> {
    if let Some(socket) = address.strip_prefix("unix:") {
        return Ok(format!("unix:{socket}"));
    }
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(format!("http://{address}"));
    }
    config::backend(&format!("http://{address}"))
        .map_err(|fault| format!("`{address}` is no backend: {fault}"))
}
/// Splits a URL behind its scheme into the address and the URI behind it.
fn address_and_path(rest: &str) -> (String, &str) {
    if let Some(socket) = rest.strip_prefix("unix:") {
        // A colon ends the path of the socket if a URI follows.
        return match socket.split_once(':') {
            Some((socket, path)) => (format!("unix:{socket}"), path),
            None => (rest.to_owned(), ""),
        };
    }
    let end = rest
        .find(['/', '?'])
        // In `http://app$request_uri` the variable is the whole URI, which begins with a slash.
        .or_else(|| rest.find("$request_uri").filter(|at| *at > 0))
        .unwrap_or(rest.len());
    (rest[..end].to_owned(), &rest[end..])
}

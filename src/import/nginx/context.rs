//! Settings at one level (http, server or location): its own ones, else the inherited ones.
//!
//! nginx inherits lists whole or not at all: a level with an `allow`, `limit_req` or
//! `proxy_set_header` of its own inherits none of that kind. This module notes where an inherited
//! `deny` is lost that way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::import::access::{
    AccessRule, AccessSubject, all_v4, decide, decide_users, mapped_refusals,
};
use crate::import::nginx::import_context::ImportContext;
use crate::import::nginx::limit::{ConnLimit, ReqLimit};
use crate::import::nginx::real_ip::{RealIpHeader, RealIpSettings, TrustedPeer};
pub use crate::import::nginx::setting::Setting;
use crate::import::nginx::{fixed, unit};
use crate::import::report::{DirectiveOutcome, silent};
use crate::import::tree::{Directive, DirectiveId};

/// A `proxy_set_header` with name and value.
#[derive(Debug, Clone)]
pub struct ProxyHeader {
    /// Number of the `proxy_set_header` directive.
    pub id: DirectiveId,
    /// Header name in lower case.
    pub name: String,
    /// Value as written, with its variables.
    pub value: String,
}

/// The settings in force at one level.
#[derive(Debug, Clone, Default)]
pub struct ContextSettings {
    /// `allow` and `deny` in their order; the first match decides.
    pub access: Vec<AccessRule>,
    /// `limit_req`, inherited as a whole.
    pub rates: Vec<ReqLimit>,
    /// `limit_conn`, inherited as a whole.
    pub counts: Vec<ConnLimit>,
    /// `proxy_set_header`, inherited as a whole.
    pub headers: Vec<ProxyHeader>,
    /// Whether `proxy_http_version` is 1.1. `None` means nginx' default.
    pub http_11: Option<Setting<bool>>,
    /// `proxy_read_timeout`. `None` means nginx' default of 60 s.
    pub read_timeout: Option<Setting<Duration>>,
    /// `proxy_send_timeout`. `None` means nginx' default of 60 s.
    pub send_timeout: Option<Setting<Duration>>,
    /// `proxy_connect_timeout`. `None` means nginx' default of 60 s.
    pub connect_timeout: Option<Setting<Duration>>,
    /// `client_body_timeout`. `None` means nginx' default of 60 s.
    pub body_timeout: Option<Setting<Duration>>,
    /// `send_timeout` to the client. `None` means nginx' default of 60 s.
    pub client_timeout: Option<Setting<Duration>>,
    /// `client_max_body_size` in bytes; 0 means unlimited. `None` means nginx' default of 1 MiB.
    pub max_body: Option<Setting<u64>>,
    /// Whether `satisfy` is `any`. `None` means nginx' default, `all`.
    pub satisfy: Option<Setting<bool>>,
    /// Guards that may refuse and can't be carried over, by directive name. `None` means off.
    pub guards: BTreeMap<&'static str, Option<DirectiveId>>,
    /// Directives that may refuse for all that is known.
    pub unknown: Vec<DirectiveId>,
    /// `internal`: the location isn't reachable from outside.
    pub internal: Option<DirectiveId>,
    /// Whether `limit_req_dry_run` is on.
    pub dry_rates: Option<bool>,
    /// Whether `limit_conn_dry_run` is on.
    pub dry_counts: Option<bool>,
    /// `ssl_certificate`: paths of the certificate chains, in order.
    pub chains: Vec<Setting<String>>,
    /// `ssl_certificate_key`: paths of the keys, in the order of the chains.
    pub keys: Vec<Setting<String>>,
    /// Whether `ssl_protocols` allows TLS 1.3 alone.
    pub only_13: Option<Setting<bool>>,
    /// From where nginx takes the address of a client.
    pub real_ip: RealIpSettings,
}

/// Directives that may refuse and can't be carried over, unless they are `off`. `satisfy any`
/// requires only one of them, `allow` and `deny` included.
const SATISFY_GUARDS: [&str; 11] = [
    "auth_basic",
    "auth_request",
    "auth_jwt",
    "auth_digest",
    "auth_pam",
    "auth_ldap",
    "auth_gss",
    "auth_oidc",
    "access_by_lua_block",
    "access_by_lua_file",
    "access_by_lua",
];

/// Guards that hold whatever `satisfy` says.
const STRICT_GUARDS: [&str; 6] = [
    "rewrite_by_lua_block",
    "rewrite_by_lua_file",
    "rewrite_by_lua",
    "js_access",
    "modsecurity",
    "ssl_verify_client",
];

/// Returns the name of a guard as a constant. `None` means that the directive is none.
fn guard(name: &str) -> Option<&'static str> {
    SATISFY_GUARDS.into_iter().chain(STRICT_GUARDS).find(|guard| *guard == name)
}

/// Returns whether the directive `name` is a guard.
pub fn is_guard(name: &str) -> bool {
    guard(name).is_some()
}

impl ContextSettings {
    /// Returns the settings inside a block of `directives` that is nested in this level.
    pub fn inside<'d>(
        &self,
        directives: impl IntoIterator<Item = &'d Directive>,
        context: &mut ImportContext<'_>,
    ) -> ContextSettings {
        let mut own = ContextSettings::default();
        for directive in directives {
            own.take(directive, context);
        }
        own.note_lost(self, context);
        own.inherit(self)
    }

    /// Returns the guards without which the networks alone would admit more clients than nginx
    /// does.
    ///
    /// With `satisfy any`, nginx admits a client by a guard or by an `allow` that matches; a client
    /// that no rule matches needs the guard. `has_users` says that some come by a Unix socket.
    pub fn binding_guards(&self, has_users: bool) -> Vec<DirectiveId> {
        let any = self.satisfy.is_some_and(|set| set.value);
        let by_rule = decide(&self.access).iter().all(|one| !one.admits || one.by.is_some());
        let users_by_rule = !has_users || decide_users(&self.access).by.is_some();
        let enough = any && by_rule && users_by_rule && !self.access.is_empty();
        let guards =
            self.guards.iter().filter(|(name, _)| !enough || !SATISFY_GUARDS.contains(name));
        guards.filter_map(|(_, id)| *id).collect()
    }

    fn take(&mut self, directive: &Directive, context: &mut ImportContext<'_>) {
        let id = directive.id;
        match directive.name.as_str() {
            "allow" | "deny" => self.take_access(directive, context),
            "limit_req" => self.rates.extend(ReqLimit::read(directive, context)),
            "limit_conn" => self.counts.extend(ConnLimit::read(directive, context)),
            "limit_req_dry_run" => self.dry_rates = Some(directive.first() == "on"),
            "limit_conn_dry_run" => self.dry_counts = Some(directive.first() == "on"),
            "client_max_body_size" => read_once(&mut self.max_body, directive, context, unit::size),
            "internal" => self.internal = Some(id),
            "satisfy" => self.satisfy = Some(Setting { id, value: directive.first() == "any" }),
            "ssl_certificate" => {
                self.chains.push(Setting { id, value: directive.first().to_owned() });
            }
            "ssl_certificate_key" => {
                self.keys.push(Setting { id, value: directive.first().to_owned() });
            }
            "ssl_protocols" => {
                let only_13 = directive.words.iter().all(|version| version == "TLSv1.3");
                self.only_13 = Some(Setting { id, value: only_13 });
            }
            "set_real_ip_from" => {
                let value = TrustedPeer::parse(directive.first());
                self.real_ip.from.push(Setting { id, value });
            }
            "real_ip_header" => {
                let parse = |text: &str| Some(RealIpHeader::parse(text));
                read_once(&mut self.real_ip.header, directive, context, parse);
            }
            "real_ip_recursive" => {
                read_once(&mut self.real_ip.recursive, directive, context, unit::flag);
            }
            // The conditions of the next three arms have an effect: each takes the directive if it
            // knows it.
            name if name.starts_with("proxy_") && self.take_proxy(directive, context) => {}
            name if name.ends_with("_timeout") && self.take_timeout(directive, context) => {}
            _ if fixed::note(directive, context) => {}
            name => match guard(name) {
                Some(guard) => self.take_guard(guard, directive, context),
                None => {
                    // `merge_slashes off` counts as unknown: Sidegate makes paths canonical before
                    // it matches them.
                    let off = directive.first() == "off";
                    if !silent::is_known(name) || name == "merge_slashes" && off {
                        self.unknown.push(id);
                    }
                }
            },
        }
    }

    /// Takes an `allow` or a `deny`.
    fn take_access(&mut self, directive: &Directive, context: &mut ImportContext<'_>) {
        let id = directive.id;
        match (AccessSubject::parse(directive.first()), directive.words.len()) {
            (Some(whom), 1) => {
                let admits = directive.name == "allow";
                self.access.push(AccessRule { id, admits, whom });
            }
            _ => {
                let words = directive.words.join(" ");
                context.fault(id, format!("invalid parameter \"{words}\""));
            }
        }
    }

    /// Takes a header or the HTTP version of requests to the backend. Returns false for any other
    /// directive.
    fn take_proxy(&mut self, directive: &Directive, context: &mut ImportContext<'_>) -> bool {
        let id = directive.id;
        match directive.name.as_str() {
            "proxy_set_header" => match &directive.words[..] {
                [name, value] => {
                    let (name, value) = (name.to_ascii_lowercase(), value.clone());
                    self.headers.push(ProxyHeader { id, name, value });
                }
                _ => context.fault(id, "`proxy_set_header` takes a name and a value"),
            },
            "proxy_http_version" => {
                read_once(&mut self.http_11, directive, context, |text| match text {
                    "1.0" => Some(false),
                    "1.1" => Some(true),
                    _ => None,
                });
            }
            _ => return false,
        }
        true
    }

    /// Takes a timeout that Sidegate has as well. Returns false for any other directive.
    fn take_timeout(&mut self, directive: &Directive, context: &mut ImportContext<'_>) -> bool {
        let timeout = match directive.name.as_str() {
            "proxy_read_timeout" => &mut self.read_timeout,
            "proxy_send_timeout" => &mut self.send_timeout,
            "proxy_connect_timeout" => &mut self.connect_timeout,
            "client_body_timeout" => &mut self.body_timeout,
            "send_timeout" => &mut self.client_timeout,
            _ => return false,
        };
        read_once(timeout, directive, context, unit::time);
        true
    }

    /// Takes a directive that asks clients for more than their address.
    fn take_guard(
        &mut self,
        guard: &'static str,
        directive: &Directive,
        context: &mut ImportContext<'_>,
    ) {
        let id = directive.id;
        let on = match directive.first() {
            "off" => {
                let text = "nothing of the kind is ever asked for";
                context.notes.add(id, DirectiveOutcome::Needless, text);
                None
            }
            optional if optional.starts_with("optional") => {
                let text = "the listener asks for no certificate. Write `client_certificates` of \
                            the listener with `mode = \"optional\"`, and `client_certificate` of \
                            routes whose backends read one";
                context.notes.add(id, DirectiveOutcome::Differs, text);
                None
            }
            _ => Some(id),
        };
        // An `off` is kept as `None`: it ends what an outer level asks for.
        self.guards.insert(guard, on);
    }

    /// Notes where this level's own rules admit clients that the outer rules refused, or that an
    /// `allow` without `deny all` doesn't keep out.
    fn note_lost(&self, outer: &ContextSettings, context: &mut ImportContext<'_>) {
        let Some(first) = self.access.first() else { return };
        let open: Vec<_> = decide(&self.access)
            .into_iter()
            // A whole family that no rule decides: nginx admits it by default.
            .filter(|one| one.network.prefix_len() == 0 && one.by.is_none())
            .collect();
        let has_v6 = !mapped_refusals(&self.access).is_empty();
        let clients = match &open[..] {
            [] => return,
            [one] if one.network == all_v4() && has_v6 => {
                "every other IPv4 client, unless nginx knows it by an IPv6 address"
            }
            [one] if one.network == all_v4() => "every other IPv4 client",
            [_] => "every other IPv6 client",
            _ => "everyone else",
        };
        if let Some(lost) = outer.access.iter().rev().find(|rule| !rule.admits) {
            let place = context.tree.place(lost.id);
            let said = &context.tree.lines[lost.id].text;
            let text = format!(
                "a location with rules inherits none: `{said}` ({place}) does not apply here, and {clients} is admitted. \
                 If that was not intended, write `deny all` here and import again"
            );
            context.notes.add(first.id, DirectiveOutcome::FailsOpen, text);
        } else if let Some(allow) = self.access.iter().find(|rule| rule.admits) {
            let text = format!(
                "no `deny all` follows: {clients} is admitted as well. If that was not intended, \
                 write one and import again"
            );
            context.notes.add(allow.id, DirectiveOutcome::FailsOpen, text);
        }
    }

    fn inherit(self, outer: &ContextSettings) -> ContextSettings {
        // Guards merge one by one, unlike the lists below: an inner `off` removes only the guard of
        // its name.
        let mut guards = outer.guards.clone();
        guards.extend(self.guards);
        ContextSettings {
            access: inherit_list(self.access, &outer.access),
            rates: inherit_list(self.rates, &outer.rates),
            counts: inherit_list(self.counts, &outer.counts),
            headers: inherit_list(self.headers, &outer.headers),
            http_11: self.http_11.or(outer.http_11),
            read_timeout: self.read_timeout.or(outer.read_timeout),
            send_timeout: self.send_timeout.or(outer.send_timeout),
            connect_timeout: self.connect_timeout.or(outer.connect_timeout),
            body_timeout: self.body_timeout.or(outer.body_timeout),
            client_timeout: self.client_timeout.or(outer.client_timeout),
            max_body: self.max_body.or(outer.max_body),
            satisfy: self.satisfy.or(outer.satisfy),
            guards,
            // These add up, since it is not known whether an inner level replaces them.
            unknown: outer.unknown.iter().copied().chain(self.unknown).collect(),
            // nginx passes it on to nested locations (docs/decisions/015-import.md).
            internal: self.internal.or(outer.internal),
            dry_rates: self.dry_rates.or(outer.dry_rates),
            dry_counts: self.dry_counts.or(outer.dry_counts),
            chains: inherit_list(self.chains, &outer.chains),
            keys: inherit_list(self.keys, &outer.keys),
            only_13: self.only_13.or(outer.only_13),
            real_ip: self.real_ip.inherit(&outer.real_ip),
        }
    }
}

fn inherit_list<T: Clone>(own: Vec<T>, outer: &[T]) -> Vec<T> {
    // nginx inherits such a list only where the inner level has none of its own.
    if own.is_empty() { outer.to_vec() } else { own }
}

/// Reads a directive that may appear once per level; a second one is a fault.
fn read_once<T>(
    slot: &mut Option<Setting<T>>,
    directive: &Directive,
    context: &mut ImportContext<'_>,
    parse: impl Fn(&str) -> Option<T>,
) {
    let Some(value) = parse(directive.first()).filter(|_| directive.words.len() == 1) else {
        return context
            .fault(directive.id, format!("invalid value \"{}\"", directive.words.join(" ")));
    };
    if slot.replace(Setting { id: directive.id, value }).is_some() {
        context.fault(directive.id, format!("\"{}\" directive is duplicate", directive.name));
    }
}

//! Rules that do not apply to the clients that they name, as the listeners let clients come.
//!
//! Any client reaches every route at every listener that serves requests. A redirect serves none.

use std::sync::Arc;

use super::location::{LinePart, Lint, LintLocation};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::{LoadedConfig, PolicySettings};
use crate::policy::AllowRule;
use crate::policy::limit::{ClientLimits, LimitUnit, Rate};
use crate::policy::peers::{PeerList, PeerPattern};
use crate::snapshot::client_auth::ClientAuthMode;
use crate::snapshot::listener::{ListenAddress, Listener, Protocol};
use crate::snapshot::route::{RefusalForm, SentCertificate};

/// Permission of all users to connect to a Unix socket.
const OTHERS_WRITE: u32 = 0o002;

/// Warnings about policies and routes.
pub fn misapplied(loaded: &LoadedConfig, config: &std::path::Path) -> Vec<Lint> {
    let serving: Vec<_> = serving(loaded).collect();
    let mut remarks = dropped(loaded, &serving, config);
    for page in loaded.policies.iter().chain(&loaded.candidates) {
        remarks.extend(left_out(page, &serving));
        remarks.extend(wider_without(page, &serving));
        remarks.extend(unreachable_users(page, &serving));
        remarks.extend(only_proxies(page, &serving));
    }
    remarks
}

/// Warnings about listeners, at their `listen`.
pub fn listeners(loaded: &LoadedConfig) -> Vec<Diagnostic> {
    let remark = |listener: &Listener| {
        let (message, remedy) = anyone_names(listener)
            .or_else(|| beside_open(loaded, listener))
            .or_else(|| asks_for_nothing(loaded, listener))?;
        let place = loaded.settings.written.listener(&listener.name);
        Some(Diagnostic::warning(place, message, remedy.into()))
    };
    serving(loaded).filter_map(remark).collect()
}

fn serving(loaded: &LoadedConfig) -> impl Iterator<Item = &Listener> {
    let listeners = loaded.settings.listeners.iter().map(|listener| &**listener);
    listeners.filter(|listener| !matches!(listener.protocol, Protocol::Redirect(_)))
}

fn mode(listener: &Listener) -> Option<ClientAuthMode> {
    Some(listener.client_certificates.as_ref()?.options.mode)
}

/// Whether some clients come with a certificate, and others may leave theirs out.
fn are_certificates_optional(serving: &[&Listener]) -> bool {
    serving.iter().any(|one| mode(one).is_some())
        && serving.iter().any(|one| mode(one) != Some(ClientAuthMode::Required))
}

fn requires_certificate(page: &PolicySettings) -> bool {
    page.certificate.as_ref().is_some_and(|certificate| certificate.required)
}

/// A `deny` of certificates that a client escapes without one.
fn left_out(page: &PolicySettings, serving: &[&Listener]) -> Option<Lint> {
    let rule = page.certificate.as_ref()?;
    let is_escaped = !rule.required && !rule.deny.is_empty() && are_certificates_optional(serving);
    is_escaped.then(|| Lint {
        location: at(page, page.lines.certificate, "deny"),
        message: "a client whose certificate is denied is admitted without it".into(),
        remedy: "required = true in `certificate`, or mode = \"required\" in the \
                 client_certificates of every listener"
            .into(),
        other: None,
    })
}

/// Stricter limits for certificates that a client escapes without one.
fn wider_without(page: &PolicySettings, serving: &[&Listener]) -> Option<Lint> {
    if requires_certificate(page) || !are_certificates_optional(serving) {
        return None;
    }
    let base = &page.limits.share;
    let mut exceptions = page.limits.exceptions.iter();
    let stricter =
        exceptions.find(|one| !one.patterns().is_empty() && is_stricter(&one.share, base))?;
    Some(Lint {
        location: at(page, stricter.line, "identity"),
        message: "without its certificate such a client has the wider limits of all others".into(),
        remedy: "certificate = { required = true } in [client], or mode = \"required\" in the \
                 client_certificates of every listener"
            .into(),
        other: None,
    })
}

fn is_stricter(one: &ClientLimits, base: &ClientLimits) -> bool {
    let count = |one: Option<u32>, base: Option<u32>| {
        one.is_some_and(|one| base.is_none_or(|base| one < base))
    };
    let tokens = |rate: Rate| f64::from(rate.tokens.get()) / rate.per.as_secs_f64();
    let rate = |one: Option<Rate>, base: Option<Rate>| {
        one.is_some_and(|one| base.is_none_or(|base| tokens(one) < tokens(base)))
    };
    count(one.per_client, base.per_client)
        || count(one.streams, base.streams)
        || rate(one.upgrades, base.upgrades)
        || rate(one.requests, base.requests)
}

/// Entries of `allow` for users of this host, or for networks, of which no client can come.
fn unreachable_users(page: &PolicySettings, serving: &[&Listener]) -> Option<Lint> {
    // systemd's sockets may be of both kinds.
    if serving.iter().any(|one| matches!(one.address, ListenAddress::Systemd(_))) {
        return None;
    }
    let is_unix = |one: &&&Listener| matches!(one.address, ListenAddress::Unix(_));
    let lists = page.allow.lists();
    let has_users = || lists.iter().any(|list| list.user_entries().any(|entry| entry.admits));
    if !serving.iter().any(|one| is_unix(&one)) {
        return has_users().then(|| Lint {
            location: at(page, page.lines.allow, "allow"),
            message: "no listener is a Unix socket: the users in `allow` cannot connect".into(),
            remedy: "listen = \"unix:/run/sidegate/public.sock\" in a [[listener]], or remove \
                     these entries"
                .into(),
            other: None,
        });
    }
    // A proxy names clients by their addresses.
    let names_none = |one: &&Listener| one.forwarded.is_none() && one.proxy_protocol.is_none();
    let is_all_unix = serving.iter().all(|one| is_unix(&one) && names_none(one));
    let has_lists = matches!(page.allow, AllowRule::Lists(_));
    (is_all_unix && has_lists && !has_users()).then(|| Lint {
        location: at(page, page.lines.allow, "allow"),
        message: "every client comes over a Unix socket: the networks in `allow` admit none".into(),
        remedy: "\"unix\" or \"unix:uid=www-data\" in `allow`, or `forwarded` or `proxy_protocol` \
                 of the listener for a proxy's clients"
            .into(),
        other: None,
    })
}

/// A policy that admits the proxies, although clients behind them are judged.
fn only_proxies(page: &PolicySettings, serving: &[&Listener]) -> Option<Lint> {
    let AllowRule::Lists(lists) = &page.allow else { return None };
    let entries = lists.iter().flat_map(|list| list.entries());
    let admitting = entries.filter(|(entry, _)| entry.admits);
    let admitted: Vec<_> = admitting.map(|(entry, _)| entry.pattern).collect();
    let holds_all = |peers: &PeerList| {
        admitted.iter().all(|pattern| {
            let network = pattern.network().map(PeerPattern::Network);
            network.is_some_and(|network| peers.iter().any(|peer| peer.contains(network)))
        })
    };
    let are_proxies = |one: &&Listener| {
        let forwarded = one.forwarded.as_ref().map(|rules| &rules.from);
        forwarded.into_iter().chain(&one.proxy_protocol).any(holds_all)
    };
    let is_mistake = !admitted.is_empty() && !serving.is_empty() && serving.iter().all(are_proxies);
    is_mistake.then(|| Lint {
        location: at(page, page.lines.allow, "allow"),
        message:
            "`allow` holds nothing but proxies of `from`: the clients behind them are judged, \
                  not they"
                .into(),
        remedy: "the networks of the clients, or \"any\"".into(),
        other: None,
    })
}

/// Routes with `refuse = "drop"` that every peer reaches for others, so that nothing is dropped.
fn dropped(loaded: &LoadedConfig, serving: &[&Listener], config: &std::path::Path) -> Vec<Lint> {
    let forwards_all = |one: &&Listener| {
        let Some(rules) = &one.forwarded else { return false };
        match &one.address {
            ListenAddress::Unix(_) => rules.from.iter().any(|peer| peer == PeerPattern::Unix),
            // At a loopback address only this host connects, mostly from the same address.
            ListenAddress::Tcp(address) => {
                address.ip().is_loopback() && rules.from.contains_address(address.ip())
            }
            ListenAddress::Systemd(_) => false,
        }
    };
    if serving.is_empty() || !serving.iter().all(forwards_all) {
        return Vec::new();
    }
    let file: Arc<str> = config.file_name().unwrap_or_default().to_string_lossy().into();
    let routes = loaded.settings.routes.iter();
    let dropping = routes.filter(|route| route.refuse == RefusalForm::Drop);
    dropping
        .map(|route| Lint {
            location: LintLocation {
                file: Arc::clone(&file),
                line: route.line,
                part: LinePart::Word(Arc::clone(&route.name)),
            },
            message: format!(
                "`refuse = \"drop\"` of the route `{}` drops nothing: every peer is in \
                 `forwarded.from`, and gets a 403",
                route.name
            ),
            remedy: "remove it: other clients share the proxy's connection".into(),
            other: None,
        })
        .collect()
}

/// A Unix socket at which any user of this host may say who the client is.
fn anyone_names(listener: &Listener) -> Option<(String, &'static str)> {
    let ListenAddress::Unix(unix) = &listener.address else { return None };
    let forwarded = listener.forwarded.as_ref().map(|rules| (&rules.from, "forwarded"));
    let proxies = listener.proxy_protocol.as_ref().map(|from| (from, "proxy_protocol"));
    let believes = |from: &PeerList| from.iter().any(|peer| peer == PeerPattern::Unix);
    let (_, key) = forwarded.into_iter().chain(proxies).find(|(from, _)| believes(from))?;
    (unix.mode & OTHERS_WRITE != 0).then(|| {
        let what = format!(
            "any user of this host may connect with mode {:04o}, and `{key}` lets each name any \
             client",
            unix.mode
        );
        (what, "mode = \"0660\" and the proxy's `group`, or `from` with \"unix:uid=…\"")
    })
}

/// A listener that requires certificates, beside a listener that serves the same routes and asks
/// for none.
fn beside_open(loaded: &LoadedConfig, listener: &Listener) -> Option<(String, &'static str)> {
    if mode(listener) != Some(ClientAuthMode::Required) {
        return None;
    }
    let open = serving(loaded).find(|other| mode(other).is_none())?;
    let policies = loaded.settings.routes.iter().map(|route| &route.policy);
    let mut pages =
        policies.filter_map(|name| loaded.policies.iter().find(|page| page.name == *name));
    let page = pages.find(|page| !requires_certificate(page))?;
    let what = format!(
        "certificates are required here, and the listener `{}` admits the same clients under the \
         policy `{}` without one",
        open.name, page.name
    );
    Some((what, "certificate = { required = true } in [client] of the policy"))
}

/// A listener that asks for certificates of which nothing depends.
fn asks_for_nothing(loaded: &LoadedConfig, listener: &Listener) -> Option<(String, &'static str)> {
    if mode(listener) != Some(ClientAuthMode::Optional) {
        return None;
    }
    let uses = |page: &PolicySettings| {
        let limits = &page.limits;
        let units = limits.exceptions.iter().flat_map(|one| one.share.units.all());
        page.certificate.is_some()
            || limits
                .share
                .units
                .all()
                .into_iter()
                .chain(units)
                .any(|one| one == LimitUnit::Identity)
            || limits.exceptions.iter().any(|one| !one.patterns().is_empty())
    };
    let mut pages = loaded.policies.iter().chain(&loaded.candidates);
    let mut routes = loaded.settings.routes.iter();
    let is_used = pages.any(uses)
        || routes.any(|one| one.proxy_protocol || one.client_certificate != SentCertificate::Off);
    (!is_used).then(|| {
        let what = "clients may leave their certificate out, and no policy and no route uses it";
        let remedy = "`certificate` in [client] of a policy, or mode = \"required\"";
        (what.to_owned(), remedy)
    })
}

fn at(page: &PolicySettings, line: u32, word: &str) -> LintLocation {
    LintLocation { file: Arc::clone(&page.file), line, part: LinePart::Word(word.into()) }
}

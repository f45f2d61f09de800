//! Policies as a whole: unused ones, omissions that leave them open, and openings to other sites by
//! DNS rebinding.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::location::{LinePart, Lint, LintLocation};
use crate::control::config::{LoadedConfig, PolicySettings, RouteSettings};
use crate::policy::limit::{LimitException, LimitUnit, LimitUnits};
use crate::policy::origin::OriginPattern;
use crate::policy::route::HostPattern;
use crate::snapshot::client_auth::ClientAuthMode;
use crate::snapshot::listener::{Listener, Protocol};

/// Policies that no route names.
pub fn unused(loaded: &LoadedConfig) -> Vec<Lint> {
    let used: HashSet<_> = loaded.settings.routes.iter().map(|route| &route.policy).collect();
    let unused = loaded.policies.iter().filter(|page| !used.contains(&page.name));
    let remark = |page: &PolicySettings| Lint {
        location: whole_policy(page),
        message: format!("no route names the policy `{}`: it has no effect", page.name),
        remedy: format!("policy = \"{}\" in a [[route]], or remove the file", page.name),
        other: None,
    };
    unused.map(remark).collect()
}

/// Missing rules that leave a policy wider open than most people mean it.
pub fn missing(page: &PolicySettings) -> Vec<Lint> {
    let mut remarks = Vec::new();
    if page.origins.is_none() {
        remarks.push(Lint {
            location: LintLocation {
                file: Arc::clone(&page.file),
                line: page.lines.allow,
                part: LinePart::Word("allow".into()),
            },
            message: "no `origins` beside it: any web page can open this from its visitor's \
                      browser, with the visitor's cookies"
                .into(),
            remedy:
                "origins = [\"same\", \"none\"] admits the pages of the same host; \"none\" is \
                 for clients that are no browsers"
                    .into(),
            other: None,
        });
    }
    let limits = &page.limits;
    if limits.share.upgrades.is_none()
        && limits.share.per_client.is_none()
        && limits.total.is_none()
    {
        remarks.push(Lint {
            location: whole_policy(page),
            message: format!(
                "`{}` limits neither `upgrades` nor `connections`: one client can take all there \
                 is",
                page.name
            ),
            remedy: "[limits] upgrades = { rate = \"5/s\", burst = 20 } and connections = { \
                     per_client = 10 }"
                .into(),
            other: None,
        });
    }
    remarks
}

/// Policies with rules for certificates, while no listener asks for one. They refuse every client
/// if they require one, and their limits know no identity.
pub fn unverified(loaded: &LoadedConfig) -> Vec<Lint> {
    let asks = |listener: &Arc<Listener>| listener.client_certificates.is_some();
    if loaded.settings.listeners.iter().any(asks) {
        return Vec::new();
    }
    let remark = |page: &PolicySettings, line, word: &str, effect| Lint {
        location: LintLocation {
            file: Arc::clone(&page.file),
            line,
            part: LinePart::Word(word.into()),
        },
        message: format!("no listener asks for certificates: {effect}"),
        remedy: "client_certificates = { ca = \"certs/clients.pem\" } in a [[listener]] with TLS"
            .into(),
        other: None,
    };
    let mut remarks = Vec::new();
    for page in loaded.policies.iter().chain(&loaded.candidates) {
        if requires_certificate(page) {
            let effect = "every client is refused";
            remarks.push(remark(page, page.lines.certificate, "certificate", effect));
        }
        let counts = "every client is counted by its address";
        remarks.extend(by_identity(page).map(|line| remark(page, line, "identity", counts)));
        let exceptions = page.limits.exceptions.iter();
        let of_certificates = exceptions.filter(|exception| !exception.patterns().is_empty());
        let exempts = "these limits apply to no client";
        remarks.extend(of_certificates.map(|one| remark(page, one.line, "identity", exempts)));
    }
    remarks
}

/// Policies that count by identity and admit clients without one.
pub fn unidentified(loaded: &LoadedConfig) -> Vec<Lint> {
    let certificates = |listener: &Arc<Listener>| {
        let of_listener = listener.client_certificates.as_ref();
        of_listener.map(|certificates| certificates.options.mode)
    };
    // A redirect answers no request by a policy.
    let listeners = loaded.settings.listeners.iter();
    let serving = listeners.filter(|listener| !matches!(listener.protocol, Protocol::Redirect(_)));
    let modes: Vec<_> = serving.map(certificates).collect();
    let asks = modes.iter().any(Option::is_some);
    if !asks || modes.iter().all(|mode| *mode == Some(ClientAuthMode::Required)) {
        return Vec::new();
    }
    let remark = |page: &PolicySettings| {
        let line = by_identity(page).filter(|_| !requires_certificate(page))?;
        Some(Lint {
            location: LintLocation {
                file: Arc::clone(&page.file),
                line,
                part: LinePart::Word("identity".into()),
            },
            message: "a client without a certificate is admitted, and counted by its address"
                .into(),
            remedy: "certificate = { required = true } in [client], or mode = \"required\" in the \
                     client_certificates of every listener"
                .into(),
            other: None,
        })
    };
    loaded.policies.iter().chain(&loaded.candidates).filter_map(remark).collect()
}

/// The line of the first limit that counts by identity. Limits of an exception for certificates
/// are not among them: such a client always has one.
fn by_identity(page: &PolicySettings) -> Option<u32> {
    let LimitUnits { upgrades, requests, connections, streams } = page.limits.share.units;
    let lines = &page.lines;
    let of_all = [
        (upgrades, lines.upgrades),
        (requests, lines.requests),
        (connections, lines.connections),
        (streams, lines.streams),
    ];
    let line = of_all.into_iter().find(|(unit, _)| *unit == LimitUnit::Identity);
    let mut exceptions = page.limits.exceptions.iter().filter(|one| one.patterns().is_empty());
    let is_by_identity =
        |one: &&LimitException| one.share.units.all().contains(&LimitUnit::Identity);
    let of_some = || exceptions.find(is_by_identity).map(|one| one.line);
    line.map(|(_, line)| line).or_else(of_some)
}

fn requires_certificate(page: &PolicySettings) -> bool {
    page.certificate.as_ref().is_some_and(|certificate| certificate.required)
}

/// Routes for every host whose policy admits pages of the `same` origin, while a listener speaks
/// without TLS. A page under any name that resolves to this host is then of the same origin.
pub fn rebinding(loaded: &LoadedConfig, config: &Path) -> Vec<Lint> {
    let settings = &loaded.settings;
    // With TLS a rebound name fails earlier: the certificate is not valid for the attacker's host.
    if !settings.listeners.iter().any(|listener| listener.protocol == Protocol::Plain) {
        return Vec::new();
    }
    let pages = || loaded.policies.iter().chain(&loaded.candidates);
    // `same` compares `Origin` with `Host`, and after rebinding both name the attacker's site.
    let admits_same = |page: &PolicySettings| {
        page.origins
            .as_ref()
            .is_some_and(|origins| origins.iter().any(|one| *one == OriginPattern::Same))
    };
    let remark = |route: &RouteSettings| {
        let page = pages().find(|page| page.name == route.policy && admits_same(page))?;
        let file = config.file_name().unwrap_or_default().to_string_lossy().into();
        let line = LintLocation {
            file: Arc::clone(&page.file),
            line: page.lines.origins,
            part: LinePart::Word("same".into()),
        };
        Some(Lint {
            location: LintLocation {
                file,
                line: route.line,
                part: LinePart::Word(Arc::clone(&route.name)),
            },
            message: format!(
                "the route `{}` is for every host and reachable without TLS, and `same` admits whatever host a page names: \
                 any web page can get in by DNS rebinding",
                route.name
            ),
            remedy: "host = \"ws.example.com\" in the route, or the origins in full in its policy"
                .into(),
            other: Some((line, "here")),
        })
    };
    settings
        .routes
        .iter()
        .filter(|route| route.host == HostPattern::Any)
        .filter_map(remark)
        .collect()
}

fn whole_policy(page: &PolicySettings) -> LintLocation {
    LintLocation { file: Arc::clone(&page.file), line: 1, part: LinePart::File }
}

//! Policies as a whole: unused ones, omissions that leave them open, and openings to other sites by
//! DNS rebinding.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::location::{LinePart, Lint, LintLocation};
use crate::control::config::{LoadedConfig, PolicySettings, RouteSettings};
use crate::policy::origin::OriginPattern;
use crate::policy::route::HostPattern;
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

/// Policies that require a certificate, while no listener asks for one: they refuse every client.
pub fn unverified(loaded: &LoadedConfig) -> Vec<Lint> {
    let asks = |listener: &Arc<Listener>| listener.client_certificates.is_some();
    if loaded.settings.listeners.iter().any(asks) {
        return Vec::new();
    }
    let requires = |page: &&PolicySettings| {
        page.certificate.as_ref().is_some_and(|certificate| certificate.required)
    };
    let remark = |page: &PolicySettings| Lint {
        location: LintLocation {
            file: Arc::clone(&page.file),
            line: page.lines.certificate,
            part: LinePart::Word("certificate".into()),
        },
        message: "no listener asks for certificates: every client is refused".into(),
        remedy: "client_certificates = { ca = \"certs/clients.pem\" } in a [[listener]] with TLS"
            .into(),
        other: None,
    };
    loaded.policies.iter().chain(&loaded.candidates).filter(requires).map(remark).collect()
}

/// Routes for every host whose policy admits pages of the `same` origin, while a listener speaks
/// without TLS. A page under any name that resolves to this host is then of the same origin.
pub fn rebinding(loaded: &LoadedConfig, config: &Path) -> Vec<Lint> {
    let settings = &loaded.settings;
    if !settings.listeners.iter().any(|listener| listener.protocol == Protocol::Plain) {
        return Vec::new();
    }
    let pages = || loaded.policies.iter().chain(&loaded.candidates);
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

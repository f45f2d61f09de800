//! Policies as a whole: unused ones, omissions that leave them open, and openings to other sites by
//! DNS rebinding.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::spot::{Part, Remark, Spot};
use crate::control::config::{Loaded, PolicyPage, RoutePage};
use crate::policy::origin::Pattern;
use crate::policy::route::HostPattern;
use crate::snapshot::listener::Speaks;

/// Policies that no route names.
pub fn unused(loaded: &Loaded) -> Vec<Remark> {
    let used: HashSet<_> = loaded.settings.routes.iter().map(|route| &route.policy).collect();
    let unused = loaded.policies.iter().filter(|page| !used.contains(&page.name));
    let remark = |page: &PolicyPage| Remark {
        spot: whole(page),
        message: format!("no route names the policy `{}`: it has no effect", page.name),
        remedy: format!("policy = \"{}\" in a [[route]], or remove the file", page.name),
        other: None,
    };
    unused.map(remark).collect()
}

/// Missing rules that leave a policy wider open than most people mean it.
pub fn missing(page: &PolicyPage) -> Vec<Remark> {
    let mut remarks = Vec::new();
    if page.origins.is_none() {
        remarks.push(Remark {
            spot: Spot { file: Arc::clone(&page.file), line: page.lines.allow, part: Part::Word("allow".into()) },
            message: "no `origins` beside it: any web page can open this from its visitor's browser, with the visitor's cookies"
                .into(),
            remedy:
                "origins = [\"same\", \"none\"] admits the pages of the same host; \"none\" is for clients that are no browsers"
                    .into(),
            other: None,
        });
    }
    let limits = &page.limits;
    if limits.share.upgrades.is_none()
        && limits.share.per_client.is_none()
        && limits.total.is_none()
    {
        remarks.push(Remark {
            spot: whole(page),
            message: format!("`{}` limits neither `upgrades` nor `connections`: one client can take all there is", page.name),
            remedy: "[limits] upgrades = { rate = \"5/s\", burst = 20 } and connections = { per_client = 10 }".into(),
            other: None,
        });
    }
    remarks
}

/// Routes for every host whose policy admits pages of the `same` origin, while a listener speaks
/// without TLS. A page under any name that resolves to this host is then of the same origin.
pub fn rebinding(loaded: &Loaded, config: &Path) -> Vec<Remark> {
    let settings = &loaded.settings;
    if !settings.listeners.iter().any(|listener| listener.speaks == Speaks::Plain) {
        return Vec::new();
    }
    let pages = || loaded.policies.iter().chain(&loaded.candidates);
    let admits_same = |page: &PolicyPage| {
        page.origins.as_ref().is_some_and(|origins| origins.iter().any(|one| *one == Pattern::Same))
    };
    let remark = |route: &RoutePage| {
        let page = pages().find(|page| page.name == route.policy && admits_same(page))?;
        let file = config.file_name().unwrap_or_default().to_string_lossy().into();
        let line = Spot {
            file: Arc::clone(&page.file),
            line: page.lines.origins,
            part: Part::Word("same".into()),
        };
        Some(Remark {
            spot: Spot { file, line: route.line, part: Part::Word(Arc::clone(&route.name)) },
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

fn whole(page: &PolicyPage) -> Spot {
    Spot { file: Arc::clone(&page.file), line: 1, part: Part::File }
}

//! Of policies as a whole: what no route uses, and what a policy leaves open by saying nothing.

use std::collections::HashSet;
use std::sync::Arc;

use super::spot::{Part, Remark, Spot};
use crate::control::config::{Loaded, PolicyPage};

/// Policies that no route names.
pub fn unused(loaded: &Loaded) -> Vec<Remark> {
    let used: HashSet<_> = loaded.settings.routes.iter().map(|route| &route.policy).collect();
    let unused = loaded.policies.iter().filter(|page| !used.contains(&page.name));
    let remark = |page: &PolicyPage| Remark {
        spot: whole(page),
        message: format!("no route names the policy `{}`: it binds nobody", page.name),
        remedy: format!("policy = \"{}\" in a [[route]], or remove the file", page.name),
        other: None,
    };
    unused.map(remark).collect()
}

/// The rules without which a policy is wider open than most people mean it.
pub fn missing(page: &PolicyPage) -> Vec<Remark> {
    let mut remarks = Vec::new();
    if page.origins.is_none() {
        remarks.push(Remark {
            spot: Spot { file: Arc::clone(&page.file), line: page.lines.allow, part: Part::Word("allow".into()) },
            message: "no `origins` beside it: any web page can open this from its visitor's browser, with the visitor's cookies"
                .into(),
            remedy:
                "origins = [\"https://app.example.com\", \"none\"] names your pages; \"none\" is for clients that are no browsers"
                    .into(),
            other: None,
        });
    }
    let limits = &page.limits;
    if limits.share.upgrades.is_none() && limits.share.per_client.is_none() && limits.total.is_none() {
        remarks.push(Remark {
            spot: whole(page),
            message: format!("`{}` limits neither `upgrades` nor `connections`: one client can take all there is", page.name),
            remedy: "[limits] upgrades = { rate = \"5/s\", burst = 20 } and connections = { per_client = 10 }".into(),
            other: None,
        });
    }
    remarks
}

fn whole(page: &PolicyPage) -> Spot {
    Spot { file: Arc::clone(&page.file), line: 1, part: Part::File }
}

//! From values to a snapshot: a pure step, apart from the keys of fresh tickets.
//!
//! What has been used of an unchanged limit is carried over from the generation
//! before, so that a reload gives nobody a full bucket.

use std::collections::HashMap;
use std::sync::Arc;

use crate::control::config::{Loaded, PolicyPage, RoutePage};
use crate::policy::Policy;
use crate::policy::limit::Budgets;
use crate::policy::route::Routes;
use crate::snapshot::certificate::Certificates;
use crate::snapshot::listener::{Listener, Speaks};
use crate::snapshot::route::Route;
use crate::snapshot::tls::{Tickets, server_config};
use crate::snapshot::{ListenerRules, Snapshot};

/// Compiles `loaded`, as the generation after `before`.
///
/// # Errors
/// What rustls refuses of a TLS listener: nothing that a file can cause by itself.
pub fn compile(
    loaded: &Loaded,
    policies: Vec<PolicyPage>,
    digest: &str,
    before: Option<&Snapshot>,
    tickets: &Tickets,
) -> Result<Snapshot, String> {
    let policies: HashMap<Arc<str>, Arc<Policy>> = policies
        .into_iter()
        .map(|page| {
            let used = before.and_then(|before| before.policies.get(&page.name));
            (Arc::clone(&page.name), Arc::new(policy(page, used.map(|policy| &policy.budgets))))
        })
        .collect();
    let mut numbers = Numbers::after(before);
    let mut table = Vec::new();
    let mut route_list = Vec::new();
    for page in &loaded.settings.routes {
        let policy =
            policies.get(&page.policy).ok_or_else(|| format!("route `{}` has no policy `{}`", page.name, page.policy))?;
        let route = Arc::new(route(page, numbers.of(&page.name), Arc::clone(policy)));
        route_list.push(Arc::clone(&route));
        table.push((page.host.clone(), page.path.clone(), route));
    }
    let routes = Routes::new(table).map_err(|twins| format!("routes {} and {} are equal", twins.first, twins.second))?;
    let certificates = Arc::new(Certificates::new(loaded.settings.certificates.clone()));
    let listeners =
        loaded.settings.listeners.iter().map(|one| Ok((Arc::clone(&one.name), listener(one, &certificates, tickets)?)));
    Ok(Snapshot {
        generation: before.map_or(1, |before| before.generation + 1),
        digest: digest.into(),
        listeners: listeners.collect::<Result<_, String>>()?,
        certificates,
        routes,
        route_list,
        numbered: numbers.given,
        policies,
    })
}

/// The numbers of routes: a name keeps the one that it has, and one that is gone is never given again.
struct Numbers<'s> {
    known: HashMap<&'s str, usize>,
    given: usize,
}

impl<'s> Numbers<'s> {
    fn after(before: Option<&'s Snapshot>) -> Self {
        let known = before.into_iter().flat_map(|before| &before.route_list).map(|route| (&*route.name, route.number));
        Numbers { known: known.collect(), given: before.map_or(0, |before| before.numbered) }
    }

    fn of(&mut self, name: &str) -> usize {
        self.known.get(name).copied().unwrap_or_else(|| {
            self.given += 1;
            self.given - 1
        })
    }
}

fn policy(page: PolicyPage, used: Option<&Budgets>) -> Policy {
    let budgets = Budgets::carry(used, &page.limits);
    let PolicyPage { name, file, owner, allow, deny, origins, subprotocols, limits, lines } = page;
    Policy { name, file, owner, allow, deny, origins, subprotocols, limits, budgets, lines }
}

fn route(page: &RoutePage, number: usize, policy: Arc<Policy>) -> Route {
    Route {
        number,
        name: Arc::clone(&page.name),
        path: page.path.to_string().into(),
        backends: page.backends.clone(),
        policy,
        http: page.http,
        strip_prefix: page.strip_prefix,
        max_body: page.max_body,
        timeouts: page.timeouts,
    }
}

fn listener(listener: &Arc<Listener>, certificates: &Arc<Certificates>, tickets: &Tickets) -> Result<ListenerRules, String> {
    let tls = match listener.speaks {
        Speaks::Tls(rules) => {
            let config = server_config(rules, Arc::clone(certificates), tickets);
            Some(config.map_err(|error| format!("listener `{}`: {error}", listener.name))?)
        }
        Speaks::Plain | Speaks::Redirect { .. } => None,
    };
    Ok(ListenerRules { listener: Arc::clone(listener), tls })
}

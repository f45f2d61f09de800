//! `GET /v1/tunnels`: the live tunnels, page by page.
//!
//! Pages are ordered by id, which only grows. A tunnel that is open from the first page to the last
//! appears exactly once, whatever opens and closes meanwhile.

use std::sync::Arc;

use jiff::Timestamp;

use crate::admin::wire::{Time, TrafficCount, TunnelStatus, TunnelsAnswer, TunnelsRequest};
use crate::close::Traffic;
use crate::control::config::users;
use crate::policy::list::ListEntry as Line;
use crate::policy::list::pattern::ClientPattern;
use crate::snapshot::Snapshot;
use crate::tunnels::{LiveEntry, Tunnels};

/// A [`TunnelsRequest`] with parsed parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelFilter {
    route: Option<String>,
    client: Option<ClientPattern>,
    limit: usize,
    after: u64,
}

impl TunnelFilter {
    /// Parses the parameters of `request`.
    ///
    /// # Errors
    /// A sentence that names the wrong parameter and a valid value.
    pub fn parse(request: TunnelsRequest) -> Result<TunnelFilter, String> {
        let TunnelsRequest { route, client, limit, after } = request;
        let client = client.as_deref().map(pattern).transpose()?;
        Ok(TunnelFilter { route, client, limit, after })
    }

    fn admits(&self, entry: &LiveEntry) -> bool {
        let holds = |pattern: ClientPattern| match pattern {
            ClientPattern::Network(network) => {
                entry.subject.client.ip().is_some_and(|ip| network.contains(&ip))
            }
            ClientPattern::Unix(users) => users.matches(&entry.subject),
        };
        self.client.is_none_or(holds)
            && self.route.as_ref().is_none_or(|route| *route == *entry.route().name)
    }
}

/// The page of tunnels that `filter` selects.
///
/// # Errors
/// A sentence, if no such route exists and no tunnel has it.
pub fn page(
    filter: &TunnelFilter,
    tunnels: &Tunnels,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<TunnelsAnswer, String> {
    let entries = tunnels.entries().into_iter();
    let mut found: Vec<_> = entries.filter(|entry| filter.admits(entry)).collect();
    if let Some(route) = &filter.route
        && found.is_empty()
        && !snapshot.route_list.iter().any(|one| *one.name == **route)
    {
        return Err(format!("there is no route `{}`", route.escape_debug()));
    }
    let matching = found.len() as u64;
    // Ids only grow, so a page continues behind the last one although tunnels come and go.
    found.retain(|entry| entry.id > filter.after);
    found.sort_unstable_by_key(|entry| entry.id);
    let more = found.len() > filter.limit;
    found.truncate(filter.limit);
    let next = found.last().filter(|_| more).map(|entry| entry.id);
    let tunnels = found.iter().map(|entry| tunnel(entry, now)).collect();
    Ok(TunnelsAnswer { matching, tunnels, next })
}

fn tunnel(entry: &Arc<LiveEntry>, now: Timestamp) -> TunnelStatus {
    let route = entry.route();
    let (from_client, from_backend) = entry.traffic.totals();
    // Wall-clock time: negative, and then shown as 0, if the clock was set back.
    let seconds = now.duration_since(entry.opened).as_secs();
    TunnelStatus {
        id: entry.id,
        route: route.name.to_string(),
        policy: route.policy.name.to_string(),
        generation: entry.generation(),
        client: entry.subject.client.to_string(),
        peer: entry.peer.to_string(),
        host: entry.request.host.to_string(),
        path: route.forwarded(&entry.request.path).to_string(),
        origin: entry.request.origin.as_deref().map(str::to_owned),
        subprotocol: entry.subprotocol.as_deref().map(str::to_owned),
        request_id: entry.request_id.to_string(),
        opened: Time(entry.opened),
        seconds: u64::try_from(seconds).unwrap_or_default(),
        from_client: traffic(from_client),
        from_backend: traffic(from_backend),
    }
}

fn traffic(Traffic { messages, bytes }: Traffic) -> TrafficCount {
    TrafficCount { messages, bytes }
}

/// Parses a network, an address or users of this host, in the syntax of a list's entry.
fn pattern(value: &str) -> Result<ClientPattern, String> {
    let line = Line::parse_with(value, Some(&users::resolve))
        .map_err(|fault| format!("`client`: {}: {}", fault.fault, fault.remedy))?;
    // A list's line may also be a carve-out or have annotations, which select nothing here.
    let plain = line.filter(|line| line.admits && !value.contains(char::is_whitespace));
    plain.map(|line| line.pattern).ok_or_else(|| {
        "`client` is a network, an address or users, like 192.0.2.0/24 or unix:uid=33".into()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::admin::wire::{AdminRequest, MAX_PAGE_TUNNELS};
    use crate::policy::limit::Limits;
    use crate::tunnels::tests::{charge, enter, table};

    fn read(query: &str) -> Result<TunnelFilter, String> {
        TunnelsRequest::parse(query).and_then(TunnelFilter::parse)
    }

    /// What `query` is read as, or what the sentence holds.
    fn check(query: &str, expected: Result<(Option<&str>, Option<&str>, usize, u64), &str>) {
        match (read(query), expected) {
            (Ok(filter), Ok((route, client, limit, after))) => {
                let client = client.map(|client| pattern(client).unwrap());
                assert_eq!(
                    filter,
                    TunnelFilter { route: route.map(str::to_owned), client, limit, after },
                    "{query}"
                );
            }
            (Err(sentence), Err(part)) => assert!(sentence.contains(part), "{query}: {sentence}"),
            (found, expected) => panic!("{query}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn parameters_may_be_left_out_and_escaped() {
        check("", Ok((None, None, MAX_PAGE_TUNNELS, 0)));
        check("route=chat&after=41&limit=1", Ok((Some("chat"), None, 1, 41)));
        check("client=192.0.2.0%2F24", Ok((None, Some("192.0.2.0/24"), MAX_PAGE_TUNNELS, 0)));
        check("client=2001:db8::1&", Ok((None, Some("2001:db8::1/128"), MAX_PAGE_TUNNELS, 0)));
        check(
            "client=::ffff:10.0.0.0/104&limit=1000",
            Ok((None, Some("10.0.0.0/8"), MAX_PAGE_TUNNELS, 0)),
        );
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (query, said) in [
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=", "from 1 to 1000"),
            ("limit=-1", "from 1 to 1000"),
            ("after=x", "`after` is the `next`"),
            ("client=10.0.0.1/8", "write 10.0.0.0/8"),
            ("client=office", "`client`: `office` is not an address"),
            ("client=!10.0.0.0/8", "like 192.0.2.0/24"),
            ("client=10.0.0.0/8%20owner=acme", "like 192.0.2.0/24"),
            ("client=", "like 192.0.2.0/24"),
            ("route=a&route=b", "`route` is given twice"),
            ("router=a", "there is no `router`: route, client, limit and after"),
            ("route=%ff", "`route` is not UTF-8"),
        ] {
            check(query, Err(said));
        }
    }

    #[test]
    fn pages_have_each_tunnel_once_while_others_open_and_close() {
        let (tunnels, live) = table(&Limits::default());
        let open = |host: u64| enter(charge(&tunnels, &live, (host % 250) as u8).unwrap());
        let mut staying: Vec<_> = (0..4000).map(open).collect();
        let mut leaving: Vec<_> = (0..2000).map(open).collect();
        let stay: BTreeSet<u64> = staying.iter().map(|(_, entry)| entry.id).collect();
        let (mut told, mut filter) = (Vec::new(), read("limit=1000").unwrap());
        loop {
            let page = page(&filter, &tunnels, &live.load(), Timestamp::now()).unwrap();
            let ids: Vec<_> = page.tunnels.iter().map(|one| one.id).collect();
            assert!(ids.len() <= MAX_PAGE_TUNNELS && !ids.is_empty());
            told.extend(ids);
            let Some(next) = page.next else { break };
            filter.after = next;
            leaving.truncate(leaving.len() - 300);
            staying.extend((0..100).map(open));
        }
        let once: BTreeSet<u64> = told.iter().copied().collect();
        assert!(told.is_sorted() && once.len() == told.len(), "none twice");
        assert!(stay.is_subset(&once), "none left out");
    }
}

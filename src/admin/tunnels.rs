//! `GET /v1/tunnels`: the live tunnels, page by page.
//!
//! By default pages are ordered by id, which only grows. A tunnel that is open from the first page
//! to the last appears exactly once, whatever opens and closes meanwhile.

use std::cmp::Reverse;

use jiff::Timestamp;

use crate::admin::tunnel_filter::{SelectedEntry, TunnelFilter, seconds_open};
use crate::admin::wire::{
    Time, TrafficCount, TunnelOrder, TunnelStatus, TunnelsAnswer, TunnelsRequest,
};
use crate::close::Traffic;
use crate::snapshot::Snapshot;
use crate::tunnels::Tunnels;

/// The page that `request` asks for.
///
/// # Errors
/// A sentence about a wrong filter, or a name that nothing has.
pub fn page(
    request: TunnelsRequest,
    tunnels: &Tunnels,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<TunnelsAnswer, String> {
    let TunnelsRequest { selector, sort, limit, after } = request;
    let mut found = TunnelFilter::parse(selector)?.select(tunnels, snapshot, now)?;
    let matching = found.len() as u64;
    match sort {
        // The selection is in this order.
        TunnelOrder::Id => {}
        // Stable: entries with equal keys stay in the order of their ids. Keys are read once each,
        // since the bytes grow meanwhile.
        TunnelOrder::Bytes => found.sort_by_cached_key(|one| {
            let (from_client, from_backend) = one.entry.traffic.totals();
            Reverse(from_client.bytes.saturating_add(from_backend.bytes))
        }),
        TunnelOrder::Client => found.sort_by_cached_key(|one| {
            let client = one.entry.subject.client;
            (client.ip(), client.user().map(|user| user.uid))
        }),
    }
    skip(&mut found, sort, after)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|one| one.entry.id);
    let tunnels = found.iter().map(|one| tunnel(one, now)).collect();
    Ok(TunnelsAnswer { matching, tunnels, next })
}

/// Leaves what comes behind the entry `after`. 0 means the first page.
fn skip(found: &mut Vec<SelectedEntry>, sort: TunnelOrder, after: u64) -> Result<(), String> {
    // Ids only grow, so a page continues behind the last one although tunnels come and go.
    if sort == TunnelOrder::Id || after == 0 {
        found.retain(|one| one.entry.id > after);
        return Ok(());
    }
    // Of an entry that is gone, the place in another order is unknown. To guess it could leave
    // out tunnels in silence.
    let place = found.iter().position(|one| one.entry.id == after).ok_or_else(|| {
        format!("{after} is not open or not selected any more: begin again without `after`")
    })?;
    found.drain(..=place);
    Ok(())
}

fn tunnel(SelectedEntry { entry, kind }: &SelectedEntry, now: Timestamp) -> TunnelStatus {
    let route = entry.route();
    let (from_client, from_backend) = entry.traffic.totals();
    let identity = entry.subject.certificate().map(|own| own.identity().to_string());
    TunnelStatus {
        id: entry.id,
        kind: kind.clone(),
        route: route.name.to_string(),
        policy: route.policy.name.to_string(),
        generation: entry.generation(),
        client: entry.subject.client.to_string(),
        peer: entry.peer.to_string(),
        identity,
        host: entry.request.host.to_string(),
        path: route.forwarded(&entry.request.path).to_string(),
        origin: entry.request.origin.as_deref().map(str::to_owned),
        subprotocol: entry.subprotocol.as_deref().map(str::to_owned),
        request_id: entry.request_id.to_string(),
        trace_id: entry.trace.map(|trace| trace.trace_id.to_string()),
        process: entry.process,
        opened: Time(entry.opened),
        seconds: seconds_open(entry, now),
        from_client: traffic(from_client),
        from_backend: traffic(from_backend),
    }
}

fn traffic(Traffic { messages, bytes }: Traffic) -> TrafficCount {
    TrafficCount { messages, bytes }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::admin::wire::{AdminRequest, MAX_PAGE_TUNNELS};
    use crate::policy::limit::Limits;
    use crate::tunnels::tests::{charge, enter, table};

    fn read(query: &str) -> Result<TunnelFilter, String> {
        TunnelFilter::parse(TunnelsRequest::parse(query)?.selector)
    }

    fn check(query: &str, said: &str) {
        let sentence = read(query).unwrap_err();
        assert!(sentence.contains(said), "{query}: {sentence}");
    }

    #[test]
    fn parameters_may_be_left_out_and_escaped() {
        let parsed = |query: &str| TunnelsRequest::parse(query).unwrap();
        let all = parsed("");
        assert_eq!((all.limit, all.after, all.sort), (MAX_PAGE_TUNNELS, 0, TunnelOrder::Id));
        let one = parsed("route=chat&after=41&limit=1");
        assert_eq!((one.selector.route.as_deref(), one.after, one.limit), (Some("chat"), 41, 1));
        let same = |one: &str, other: &str| assert_eq!(read(one).unwrap(), read(other).unwrap());
        same("client=192.0.2.0%2F24", "client=192.0.2.0/24");
        same("client=2001:db8::1&", "client=2001:db8::1/128");
        same("client=::ffff:10.0.0.0/104&limit=1000", "client=10.0.0.0/8");
        assert_ne!(read("client=10.0.0.0/8").unwrap(), read("").unwrap());
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
            ("router=a", "there is no `router`: route, client, identity, policy, older, bytes"),
            ("older=1h", "`older` is a whole number"),
            ("bytes=-1", "`bytes` is a whole number"),
            ("kind=stream", "`kind` is tunnel or exchange"),
            ("identity=cn:a", "`identity`: `cn:a`: the common name"),
            ("sort=age", "`sort` is id, bytes or client"),
            ("route=%ff", "`route` is not UTF-8"),
        ] {
            check(query, said);
        }
    }

    #[test]
    fn pages_of_every_order_have_each_tunnel_once() {
        let (tunnels, live) = table(&Limits::default());
        let open: Vec<_> =
            (0..25).map(|at| enter(charge(&tunnels, &live, 200 - at * 7 % 25).unwrap())).collect();
        for (at, (_, entry)) in open.iter().enumerate() {
            entry.traffic.add_from_client(at as u64 % 4, 1);
        }
        for sort in [TunnelOrder::Id, TunnelOrder::Bytes, TunnelOrder::Client] {
            let all = TunnelsRequest { sort, ..TunnelsRequest::default() };
            let ask = |request| page(request, &tunnels, &live.load(), Timestamp::now());
            let ids =
                |page: &TunnelsAnswer| page.tunnels.iter().map(|one| one.id).collect::<Vec<_>>();
            let whole = ids(&ask(all.clone()).unwrap());
            let (mut told, mut after, mut pages) = (Vec::new(), Some(0), 0);
            while let Some(next) = after {
                let page = ask(TunnelsRequest { limit: 10, after: next, ..all.clone() }).unwrap();
                told.extend(ids(&page));
                (after, pages) = (page.next, pages + 1);
            }
            assert_eq!((told, pages), (whole, 3), "{sort:?}");
            let gone = ask(TunnelsRequest { after: 9999, ..all });
            assert_eq!(gone.is_err(), sort != TunnelOrder::Id);
        }
    }

    #[test]
    fn pages_have_each_tunnel_once_while_others_open_and_close() {
        let (tunnels, live) = table(&Limits::default());
        let open = |host: u64| enter(charge(&tunnels, &live, (host % 250) as u8).unwrap());
        let mut staying: Vec<_> = (0..4000).map(open).collect();
        let mut leaving: Vec<_> = (0..2000).map(open).collect();
        let stay: BTreeSet<u64> = staying.iter().map(|(_, entry)| entry.id).collect();
        let (mut told, mut request) = (Vec::new(), TunnelsRequest::default());
        loop {
            let page = page(request.clone(), &tunnels, &live.load(), Timestamp::now()).unwrap();
            let ids: Vec<_> = page.tunnels.iter().map(|one| one.id).collect();
            assert!(ids.len() <= MAX_PAGE_TUNNELS && !ids.is_empty());
            told.extend(ids);
            let Some(next) = page.next else { break };
            request.after = next;
            leaving.truncate(leaving.len() - 300);
            staying.extend((0..100).map(open));
        }
        let once: BTreeSet<u64> = told.iter().copied().collect();
        assert!(told.is_sorted() && once.len() == told.len(), "none twice");
        assert!(stay.is_subset(&once), "none left out");
    }
}

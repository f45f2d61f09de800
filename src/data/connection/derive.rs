//! The client of each request: the connection's, or the address that the forwarded headers of a
//! listed peer name.
//!
//! A balancer sends requests of many clients over one connection, so nothing that is found here
//! outlives its request, except for the end of the connection (`HttpService::latest_client`).

use crate::data::connection::decide::RequestHead;
use crate::data::connection::request_log::RequestLog;
use crate::data::connection::service::HttpService;
use crate::data::http::head_check::HeadFlaw;
use crate::policy::forwarded::{ForwardedHeader, ForwardedRules};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;

impl HttpService {
    /// Finds the client of a request under the rules of `live`, and refuses the request if its
    /// peer's headers cannot be read. A refusal by the gate comes first.
    pub fn derive_client(&self, live: &Snapshot, head: &mut RequestHead, log: &mut RequestLog) {
        // hyper has read another head instead, in which no peer has named a client.
        if head.parts.extensions.get::<HeadFlaw>().is_some() {
            return;
        }
        let connection = &self.connection.forwarded;
        let note = |client, unread| self.connection.metrics.identity.note(client, unread);
        let sent = |headers: &[ForwardedHeader]| {
            let is_sent =
                |header: &ForwardedHeader| head.parts.headers.contains_key(header.field());
            headers.iter().copied().find(is_sent)
        };
        let either = &[ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded];
        let Some(rules) = self.forwarded_rules(live) else {
            return note(connection.subject.client, sent(either));
        };
        match rules.derive(connection.subject.client, &head.parts.headers) {
            Ok(None) => note(connection.subject.client, sent(either)),
            Ok(Some(derived)) => {
                let facts = connection.derived(derived);
                if let Ok(request) = &mut head.request {
                    request.scheme = facts.scheme();
                    request.reported_host = facts.reported_host(&request.host).map(Box::new);
                }
                // A listed peer that sends the other header alone names its clients in vain.
                let other = rules.header.other();
                let is_named = head.parts.headers.contains_key(rules.header.field());
                note(facts.subject.client, if is_named { None } else { sent(&[other]) });
                self.set_latest_client(facts.subject.client);
                log.set_facts(facts);
            }
            Err(derivation) => {
                if head.request.is_ok() {
                    head.request = Err(Refusal::Forwarded);
                }
                log.set_fault(derivation);
            }
        }
    }

    /// Finds the client anew, where another generation runs than the one it was found under.
    pub fn derive_again(&self, live: &Snapshot, head: &mut RequestHead, log: &mut RequestLog) {
        let connection = &self.connection.forwarded;
        log.set_facts(connection.clone());
        if let Ok(request) = &mut head.request {
            request.scheme = connection.scheme();
            request.reported_host = None;
        }
        self.derive_client(live, head, log);
    }

    /// The rules of the generation that runs now. A listener that a reload has removed keeps the
    /// rules of the accept.
    fn forwarded_rules<'s>(&'s self, live: &'s Snapshot) -> Option<&'s ForwardedRules> {
        // A balancer keeps connections for hours: by the rules of the accept, a peer would be
        // believed long after it was taken off the list.
        let present = live.listeners.get(&self.connection.listener);
        let listener = present.map_or(&self.connection.accepted, |rules| &rules.listener);
        listener.forwarded.as_ref()
    }
}

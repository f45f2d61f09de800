//! Whether a request can arrive at a listener as `explain` asks about it.
//!
//! A certificate that no listener asks for never reaches a policy. The answer has to be what the
//! client would get, so such a request is judged without it, and a note says so. The files and the
//! URL are all that this module looks at: an address may be translated on its way.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::policy::request::{Host, Request, Scheme};
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::client_auth::ClientAuthMode;
use crate::snapshot::listener::{ListenAddress, Listener, Protocol};

/// A request as it arrives.
pub struct ArrivingRequest<'s> {
    /// The client, without a certificate that cannot arrive.
    pub subject: Cow<'s, Subject>,
    /// Why no request arrives. `None` means that one does.
    pub refusal: Option<Refusal>,
    /// What arrives otherwise than it was asked about, as sentences.
    pub notes: Vec<String>,
}

/// How the request of `subject` arrives at the listeners of `snapshot`.
pub fn arrival<'s>(
    subject: &'s Subject,
    request: &Request,
    snapshot: &Snapshot,
) -> ArrivingRequest<'s> {
    let all = snapshot.listeners.values().map(|one| &*one.listener);
    let (redirects, serving): (Vec<_>, Vec<_>) =
        all.partition(|one| matches!(one.protocol, Protocol::Redirect(_)));
    let listeners = ServingListeners { serving, has_redirect: !redirects.is_empty() };
    let mut arrival = listeners.by_certificate(subject, request);
    arrival.notes.extend(listeners.by_scheme(request));
    arrival.notes.extend(listeners.by_user(subject));
    let is_uncovered = listeners.is_strict() && !is_covered(&request.host, snapshot);
    if is_tls(request) && is_uncovered {
        arrival.refusal = Some(Refusal::Tls);
        let host = request.host.name();
        arrival
            .notes
            .push(format!("no certificate covers {host}: `strict_sni` ends the TLS handshake"));
    }
    arrival
}

/// The listeners of a generation.
struct ServingListeners<'s> {
    /// Listeners that serve requests.
    serving: Vec<&'s Listener>,
    has_redirect: bool,
}

impl ServingListeners<'_> {
    /// Whether `test` holds for each listener, of which there is one.
    fn all(&self, test: impl Fn(&Listener) -> bool) -> bool {
        !self.serving.is_empty() && self.serving.iter().all(|one| test(one))
    }

    fn is_strict(&self) -> bool {
        self.all(|one| matches!(one.protocol, Protocol::Tls(rules) if rules.strict_sni))
    }

    fn by_certificate<'s>(&self, subject: &'s Subject, request: &Request) -> ArrivingRequest<'s> {
        let (mut refusal, mut notes) = (None, Vec::new());
        let mut subject = Cow::Borrowed(subject);
        let identity = subject.certificate().map(|own| own.identity().to_string());
        let is_asked = self.serving.iter().any(|one| one.client_certificates.is_some());
        match identity {
            Some(identity) if !is_asked || !is_tls(request) => {
                let why = match is_asked {
                    true => "a URL without TLS carries no certificate",
                    false => "no listener asks for certificates",
                };
                notes.push(format!("{why}: {identity} cannot arrive, judged without it"));
                subject = Cow::Owned(subject.without_certificate());
            }
            // With a plain listener, a proxy may end TLS in front of it.
            None if is_tls(request) && self.all(requires_certificate) => {
                refusal = Some(Refusal::Tls);
                let note = "every listener requires a certificate: the TLS handshake fails without";
                notes.push(note.into());
            }
            _ => {}
        }
        ArrivingRequest { subject, refusal, notes }
    }

    /// A note where no listener serves requests without TLS. One without is no note: a proxy in
    /// front may end TLS.
    fn by_scheme(&self, request: &Request) -> Option<String> {
        let is_plain = |one: &Listener| one.protocol == Protocol::Plain;
        let is_lost = !is_tls(request) && self.all(|one| !is_plain(one));
        is_lost.then(|| match self.has_redirect {
            true => "without TLS only a redirect is reached, which answers 308 to https".into(),
            false => "no listener is plain: a client without TLS gets no answer".into(),
        })
    }

    /// A note where no user of this host can connect.
    fn by_user(&self, subject: &Subject) -> Option<String> {
        let is_tcp = |one: &Listener| matches!(one.address, ListenAddress::Tcp(_));
        let is_lost = subject.client.user().is_some() && self.all(is_tcp);
        is_lost.then(|| "no listener is a Unix socket: users of this host cannot connect".into())
    }
}

fn is_tls(request: &Request) -> bool {
    request.scheme == Scheme::Https
}

fn requires_certificate(listener: &Listener) -> bool {
    let options = listener.client_certificates.as_ref().map(|all| &all.options);
    options.is_some_and(|options| options.mode == ClientAuthMode::Required)
}

/// Whether a ClientHello for `host` gets a certificate for its name. An address is no server name
/// (RFC 6066 §3).
fn is_covered(host: &Host, snapshot: &Snapshot) -> bool {
    let name = host.name();
    let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    !is_address && snapshot.certificates.may_cover(name)
}

/// Notes about words of the question that no client sends, or that nothing looks at.
pub fn unread(origin: Option<&str>, subprotocol: Option<&str>, is_plain: bool) -> Vec<String> {
    let mut notes = Vec::new();
    match origin {
        // Words of policies; no client sends them.
        Some(word @ ("none" | "same" | "any")) => notes.push(format!(
            "Origin `{word}`: a word of policies, which no browser sends; without --origin, none \
             is sent"
        )),
        Some(origin) if origin != "null" && !origin.contains("://") => notes.push(format!(
            "Origin `{}`: browsers send a scheme and a host, like https://app.example.com",
            origin.escape_debug()
        )),
        _ => {}
    }
    if subprotocol.is_some() && is_plain {
        notes.push("plain HTTP offers no subprotocol: it is not looked at".into());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_no_client_sends_are_named() {
        let check = |origin, subprotocol, is_plain, said: &[&str]| {
            let notes = unread(origin, subprotocol, is_plain);
            assert_eq!(notes.len(), said.len(), "{notes:?}");
            assert!(notes.iter().zip(said).all(|(note, part)| note.contains(part)), "{notes:?}");
        };
        check(None, None, false, &[]);
        check(Some("https://app.example.com"), Some("v1"), false, &[]);
        check(Some("null"), None, true, &[]);
        check(Some("file://"), None, false, &[]);
        check(Some("none"), None, false, &["a word of policies"]);
        check(Some("app.example.com"), None, false, &["a scheme and a host"]);
        check(Some(""), Some("v1"), true, &["Origin ``", "no subprotocol"]);
    }
}

//! A route at run time: the destination of a host and a path, with its policy and timeouts.
//!
//! A live tunnel holds its route's `Arc` and nothing else of a generation, so a route never points
//! back at the snapshot.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::close::code;
use crate::policy::Policy;
use crate::policy::request::{Request, RequestPath};
use crate::refusal::Refusal;
use crate::snapshot::backend_name::{BackendName, NameState};
use crate::snapshot::tls::BackendTls;

/// The destination of requests for one host pattern and path pattern.
#[derive(Debug)]
pub struct Route {
    /// Number of the route in this process: a name keeps its number over reloads.
    pub number: usize,
    /// The name in `sidegate.toml`; the `route` label of every metric.
    pub name: Arc<str>,
    /// The path pattern as written; `strip_prefix` removes it.
    pub path: Box<str>,
    /// The backends in the order written; never empty.
    pub backends: Box<[Backend]>,
    /// TLS settings for the backends over TLS. `None` means that no backend uses TLS.
    pub backend_tls: Option<Arc<BackendTls>>,
    /// Whether each connection to a backend begins with a PROXY header for the client.
    pub proxy_protocol: bool,
    /// The certificates of the client that its backends get.
    pub client_certificate: SentCertificate,
    /// The policy that judges its requests.
    pub policy: Arc<Policy>,
    /// Whether plain HTTP is forwarded or refused.
    pub http: PlainHttp,
    /// Whether `path` is removed before forwarding.
    pub strip_prefix: bool,
    /// The form in which clients learn of refusals.
    pub refuse: RefusalForm,
    /// The form in which the path of a request is forwarded.
    pub paths: PathForwarding,
    /// The largest body of plain HTTP, in bytes; `None` means unlimited.
    pub max_body: Option<u64>,
    /// Most fields in the head of a backend's answer.
    pub max_fields: usize,
    /// Timeouts of the route.
    pub timeouts: RouteTimeouts,
}

/// The certificates of a client that a backend gets (RFC 9440).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentCertificate {
    /// No certificate of the client.
    Off,
    /// The client's own, in `Client-Cert`.
    Leaf,
    /// The client's own, and the others that it sent in `Client-Cert-Chain`.
    Chain,
}

/// Treatment of plain HTTP on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// Answered with 426: only WebSockets are served.
    Refuse,
    /// Forwarded after the same verdict.
    Forward,
}

/// The code of a Close for a refusal that may not hold later (IANA's registry of WebSocket close
/// codes).
const TRY_AGAIN_LATER: u16 = 1013;

/// The form in which clients learn that a request is refused
/// (`docs/spec/wire.md`, "Forms of a refusal").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalForm {
    /// An HTTP answer with a status.
    Answer,
    /// An attempt is accepted, and closed with a code at once: scripts of a browser see no status.
    Close,
    /// The connection is closed without an answer.
    Drop,
}

impl RefusalForm {
    /// The form as the key `refuse` has it.
    pub const fn word(self) -> &'static str {
        match self {
            RefusalForm::Answer => "answer",
            RefusalForm::Close => "close",
            RefusalForm::Drop => "drop",
        }
    }

    /// The code of the Close that tells a WebSocket of the refusal (`refuse = "close"`): 1008 for a
    /// 403, 1013 for a 429 or a 503. `None` means that the refusal is always answered over HTTP.
    ///
    /// A backend that fails is not hidden behind a WebSocket that opens: clients would reset their
    /// back-off, and reconnect all the faster.
    pub const fn close_code(refusal: Refusal) -> Option<u16> {
        match refusal {
            Refusal::Network | Refusal::Banned => Some(code::POLICY_VIOLATION),
            Refusal::Origin | Refusal::Identity | Refusal::Subprotocol => {
                Some(code::POLICY_VIOLATION)
            }
            Refusal::Rate { .. } | Refusal::Connections | Refusal::Capacity | Refusal::Draining => {
                Some(TRY_AGAIN_LATER)
            }
            Refusal::Pending | Refusal::Proxy | Refusal::Tls | Refusal::Head(_) => None,
            Refusal::Path | Refusal::Forwarded | Refusal::Misdirected | Refusal::Route => None,
            Refusal::Handshake | Refusal::Version | Refusal::Plain | Refusal::Body => None,
            Refusal::Backend(_) => None,
        }
    }

    /// The form that `refusal` takes on a route of this form. `is_attempt` says whether the request
    /// asks for a WebSocket; `speaks_for_others` whether other clients share its connection, which
    /// then must not be dropped.
    pub fn of_refusal(
        self,
        refusal: Refusal,
        is_attempt: bool,
        speaks_for_others: bool,
    ) -> RefusalForm {
        match self {
            // A peer that is listed no more: its connection gets no answer on any route.
            _ if refusal.status().is_none() => RefusalForm::Drop,
            RefusalForm::Close if is_attempt && RefusalForm::close_code(refusal).is_some() => self,
            RefusalForm::Drop if refusal.is_droppable() && !speaks_for_others => self,
            _ => RefusalForm::Answer,
        }
    }
}

impl fmt::Display for RefusalForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The form in which a route forwards the path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathForwarding {
    /// The canonical form, by which the path is judged.
    Canonical,
    /// The path as sent. Every reading of it stays below the route's path.
    AsIs,
}

/// A server behind a route, as the route names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// `http://HOST:PORT`, with an address literal.
    Tcp(SocketAddr),
    /// `https://HOST:PORT`, with an address literal.
    Tls(SocketAddr),
    /// `unix:/run/app.sock`, a Unix socket.
    Unix(PathBuf),
    /// `http://NAME:PORT` or `https://NAME:PORT`, for the resolver.
    Named(Arc<BackendName>),
}

/// A backend of a route, with the addresses of its name.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The backend as the route names it.
    pub address: BackendAddress,
    /// The addresses that its name has now. `None` means that the backend has no name.
    pub name: Option<Arc<NameState>>,
}

/// One address at which a backend is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The backend as the route names it.
    pub backend: BackendAddress,
    /// The address of its name. `None` means that the backend has no name.
    pub resolved: Option<SocketAddr>,
}

impl Backend {
    /// Whether there is an address to dial.
    pub fn has_address(&self) -> bool {
        self.name.as_ref().is_none_or(|name| !name.answer().addresses.is_empty())
    }

    /// Calls `add` with each address of the backend that is known now, in order.
    pub fn each_endpoint(&self, mut add: impl FnMut(Endpoint)) {
        let Some(name) = &self.name else {
            return add(Endpoint { backend: self.address.clone(), resolved: None });
        };
        for address in &*name.answer().addresses {
            add(Endpoint { backend: self.address.clone(), resolved: Some(*address) });
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resolved {
            Some(address) => write!(f, "{} ({address})", self.backend),
            None => self.backend.fmt(f),
        }
    }
}

impl Route {
    /// Checks whether the route forwards `request`, as an attempt or as plain HTTP.
    ///
    /// # Errors
    /// [`Refusal::Plain`]: the request is plain HTTP, and the route forwards none.
    pub fn forwards(&self, request: &Request) -> Result<(), Refusal> {
        match self.http {
            PlainHttp::Refuse if request.is_plain() => Err(Refusal::Plain),
            PlainHttp::Refuse | PlainHttp::Forward => Ok(()),
        }
    }

    /// Returns the path that backends receive for `path`, before any prefix is stripped.
    pub fn forwarded<'p>(&self, path: &'p RequestPath) -> &'p str {
        path.forwarded(self.paths == PathForwarding::AsIs)
    }
}

impl BackendAddress {
    /// Whether the backend is reached over TLS.
    pub fn is_tls(&self) -> bool {
        match self {
            BackendAddress::Tls(_) => true,
            BackendAddress::Named(name) => name.server_name.is_some(),
            BackendAddress::Tcp(_) | BackendAddress::Unix(_) => false,
        }
    }

    /// The addresses that the backend has without a resolver.
    pub fn fixed_addresses(&self) -> Vec<SocketAddr> {
        match self {
            BackendAddress::Tcp(address) | BackendAddress::Tls(address) => vec![*address],
            BackendAddress::Named(name) => name.fixed_addresses(),
            BackendAddress::Unix(_) => Vec::new(),
        }
    }

    /// The `Host` for a request whose client sent none: the address, or the name that the backend's
    /// certificate has to prove.
    pub fn authority(&self, tls: Option<&BackendTls>) -> String {
        match self {
            BackendAddress::Tcp(address) => address.to_string(),
            BackendAddress::Tls(address) => match tls.and_then(BackendTls::name) {
                Some(ServerName::DnsName(name)) => format!("{}:{}", name.as_ref(), address.port()),
                _ => address.to_string(),
            },
            BackendAddress::Named(name) => {
                let configured = match tls.and_then(BackendTls::name) {
                    Some(ServerName::DnsName(name)) if self.is_tls() => Some(name.as_ref()),
                    _ => None,
                };
                format!("{}:{}", configured.unwrap_or(name.bare_host()), name.port)
            }
            BackendAddress::Unix(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendAddress::Tcp(address) => write!(f, "http://{address}"),
            BackendAddress::Tls(address) => write!(f, "https://{address}"),
            BackendAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            BackendAddress::Named(name) => name.fmt(f),
        }
    }
}

/// The timeouts that a route may set for itself (`docs/spec/formats.md`, "`[timeouts]`").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// Time without a byte of a body, on either side. `None` means unlimited. It does not apply to
    /// a stream of events, which may be silent for hours.
    pub body_stall: Option<Duration>,
    /// Minimum rate, in bytes a second, at which a client sends a request's body and takes an
    /// answer. It is averaged over half a minute of waiting for the client, in which one pause
    /// counts as 15 s at most. `None` means unlimited.
    pub body_pace: Option<u64>,
    /// Time to connect to the backend's socket.
    pub dial: Duration,
    /// Time from the complete request to the backend's head. `None` means unlimited.
    pub response: Option<Duration>,
    /// Time for which a peer may accept no byte while there is data for it.
    pub write_stall: Duration,
    /// Time for an ending after Sidegate's Close or one side's end of stream.
    pub grace: Duration,
}

impl Default for RouteTimeouts {
    fn default() -> Self {
        RouteTimeouts {
            body_stall: Some(Duration::from_secs(60)),
            body_pace: Some(500),
            dial: Duration::from_secs(2),
            response: Some(Duration::from_secs(120)),
            write_stall: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;

    use crate::refusal::HeadError;

    /// The words of the refusals that take the form `form` itself.
    fn taken(form: RefusalForm, is_attempt: bool, speaks_for_others: bool) -> String {
        let takes =
            |refusal: &&Refusal| form.of_refusal(**refusal, is_attempt, speaks_for_others) == form;
        let words: BTreeSet<_> = Refusal::ALL.iter().filter(takes).map(|one| one.word()).collect();
        words.into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn close_code_follows_the_status() {
        for refusal in Refusal::ALL {
            let expected = match refusal.status() {
                Some(403) => Some(1008),
                Some(429 | 503) => Some(1013),
                _ => None,
            };
            assert_eq!(RefusalForm::close_code(refusal), expected, "{refusal}");
        }
    }

    #[test]
    fn attempts_are_closed_for_what_a_policy_or_a_limit_says() {
        let closed =
            "banned capacity connections draining identity network origin rate subprotocol";
        for speaks_for_others in [false, true] {
            assert_eq!(taken(RefusalForm::Close, true, speaks_for_others), closed);
            assert_eq!(taken(RefusalForm::Close, false, speaks_for_others), "");
        }
    }

    #[test]
    fn only_networks_are_dropped_and_no_shared_connection() {
        for is_attempt in [false, true] {
            assert_eq!(
                taken(RefusalForm::Drop, is_attempt, false),
                "banned network pending proxy tls"
            );
            assert_eq!(taken(RefusalForm::Drop, is_attempt, true), "pending proxy tls");
        }
        for form in [RefusalForm::Answer, RefusalForm::Close] {
            assert_eq!(form.of_refusal(Refusal::Proxy, true, true), RefusalForm::Drop);
        }
        let malformed = Refusal::Head(HeadError::Malformed);
        let form = RefusalForm::Drop.of_refusal(malformed, true, false);
        assert_eq!(form, RefusalForm::Answer);
    }
}

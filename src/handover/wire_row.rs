//! A tunnel or an exchange as it goes from the process that keeps it to the newest one.

use std::net::IpAddr;
use std::sync::Arc;

use data_encoding::BASE64;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::close::Traffic;
use crate::policy::certificate::ClientCertificate;
use crate::policy::network::{Client, Peer, UnixUser};
use crate::policy::request::{Host, Request, RequestPath, RequestType, Scheme};
use crate::policy::subject::{Credentials, Ingress, Subject};
use crate::snapshot::client_certificate;
use crate::trace_context::TraceContext;
use crate::tunnels::{LiveEntry, RemoteKind, RequestSource};

/// Everything that a verdict reads of an entry, and what lists and logs show of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireRow {
    /// Its number in the process that keeps it.
    pub id: u64,
    /// Tunnel or exchange. The message around it has a `kind` of its own.
    #[serde(rename = "entry")]
    pub kind: WireKind,
    /// Whether it has opened after the start of the link.
    pub is_new: bool,
    /// Time at which it opened, in microseconds since 1970.
    opened_us: i64,
    /// What it has carried so far.
    pub traffic: RowTraffic,
    client: WireAddress,
    peer: WireAddress,
    groups: Vec<u32>,
    certificate: Option<Vec<String>>,
    ingress: Option<WireIngress>,
    request: WireRequest,
    request_id: String,
    trace_id: Option<String>,
    subprotocol: Option<String>,
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireKind {
    /// A tunnel that is open.
    Tunnel,
    /// An exchange in flight.
    Exchange {
        /// Whether it counts among the streams.
        is_stream: bool,
        /// Whether its answer is a stream of events.
        has_events: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireAddress {
    Ip(IpAddr),
    User { uid: u32, gid: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WireIngress {
    listener: String,
    named_by: Option<WireAddress>,
    certificate: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WireRequest {
    /// `None` means that the request names none, as HTTP/1.0 allows.
    host: Option<String>,
    path: WirePath,
    origin: Option<String>,
    /// `None` means plain HTTP.
    subprotocols: Option<Vec<String>>,
    scheme: WireScheme,
    reported_host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WirePath {
    Canonical(String),
    Other { canonical: String, sent: String },
    HiddenSeparator(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireScheme {
    Https,
    Http,
    Unknown,
}

/// Traffic of one row since it opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowTraffic {
    /// The number of the row in the old process.
    pub id: u64,
    /// Bytes and messages from the client.
    pub from_client: (u64, u64),
    /// Bytes and messages from the backend.
    pub from_backend: (u64, u64),
}

impl RowTraffic {
    /// The traffic of row `id`.
    pub fn new(id: u64, from_client: Traffic, from_backend: Traffic) -> Self {
        let pair = |traffic: Traffic| (traffic.bytes, traffic.messages);
        RowTraffic { id, from_client: pair(from_client), from_backend: pair(from_backend) }
    }
}

/// A row of another process, read.
pub struct ReadRow {
    /// The client with its credentials.
    pub subject: Subject,
    /// The request, as a verdict reads it.
    pub request: Request,
    /// Where it came from.
    pub from: RequestSource,
    /// Whether it is a tunnel or an exchange.
    pub kind: RemoteKind,
    /// Time at which it opened.
    pub opened: Timestamp,
}

impl WireRow {
    /// The row of `entry`.
    pub fn of(entry: &LiveEntry, is_tunnel: bool, is_new: bool, now: Timestamp) -> WireRow {
        let credentials = entry.subject.credentials.as_deref();
        let has_events = entry.has_events();
        let (from_client, from_backend) = entry.traffic.totals();
        WireRow {
            id: entry.id,
            kind: match is_tunnel {
                true => WireKind::Tunnel,
                false => WireKind::Exchange { is_stream: entry.is_stream(now), has_events },
            },
            is_new,
            opened_us: entry.opened.as_microsecond(),
            traffic: RowTraffic::new(entry.id, from_client, from_backend),
            client: WireAddress::of_client(entry.subject.client),
            peer: WireAddress::of_peer(entry.peer),
            groups: credentials.map(|of| of.groups.to_vec()).unwrap_or_default(),
            certificate: entry.subject.certificate().map(chain),
            ingress: entry.subject.ingress.as_deref().map(WireIngress::of),
            request: WireRequest::of(&entry.request),
            request_id: entry.request_id.to_string(),
            trace_id: entry.trace.map(|trace| trace.trace_id.to_string()),
            subprotocol: entry.subprotocol.as_deref().map(str::to_owned),
        }
    }

    /// Reads the row.
    ///
    /// # Errors
    /// What of it cannot be read.
    pub fn read(self) -> Result<ReadRow, &'static str> {
        let certificate = self.certificate.map(|chain| read_chain(&chain)).transpose()?;
        // An empty set and none are the same to a verdict, but not to a comparison of subjects.
        let has_credentials = certificate.is_some() || !self.groups.is_empty();
        let credentials = Credentials { groups: self.groups.into(), certificate };
        let ingress = self.ingress.map(WireIngress::read).transpose()?;
        Ok(ReadRow {
            subject: Subject {
                client: self.client.client(),
                credentials: has_credentials.then(|| credentials.into()),
                ingress: ingress.map(Arc::new),
            },
            request: self.request.read()?,
            opened: Timestamp::from_microsecond(self.opened_us).map_err(|_| "its time")?,
            from: RequestSource {
                peer: self.peer.peer(),
                request_id: self.request_id.into(),
                trace: self.trace_id.as_deref().and_then(TraceContext::named),
                subprotocol: self.subprotocol.map(Into::into),
            },
            kind: match self.kind {
                WireKind::Tunnel => RemoteKind::Tunnel,
                WireKind::Exchange { is_stream, .. } => RemoteKind::Exchange { is_stream },
            },
        })
    }
}

impl WireAddress {
    fn of_client(client: Client) -> WireAddress {
        match (client.ip(), client.user()) {
            (Some(ip), _) => WireAddress::Ip(ip),
            (None, user) => WireAddress::of_user(user),
        }
    }

    fn of_peer(peer: Peer) -> WireAddress {
        WireAddress::of_client(Client::of_peer(peer))
    }

    fn of_user(user: Option<UnixUser>) -> WireAddress {
        // An address is an IP address or a user.
        let UnixUser { uid, gid } = user.unwrap_or(UnixUser { uid: u32::MAX, gid: u32::MAX });
        WireAddress::User { uid, gid }
    }

    fn peer(self) -> Peer {
        match self {
            WireAddress::Ip(ip) => Peer::new(ip),
            WireAddress::User { uid, gid } => Peer::unix(UnixUser { uid, gid }),
        }
    }

    fn client(self) -> Client {
        Client::of_peer(self.peer())
    }
}

impl WireIngress {
    fn of(ingress: &Ingress) -> WireIngress {
        WireIngress {
            listener: ingress.listener.to_string(),
            named_by: ingress.named_by.map(WireAddress::of_peer),
            certificate: ingress.certificate.as_deref().map(chain),
        }
    }

    fn read(self) -> Result<Ingress, &'static str> {
        Ok(Ingress {
            listener: self.listener.into(),
            named_by: self.named_by.map(WireAddress::peer),
            certificate: self.certificate.map(|chain| read_chain(&chain)).transpose()?,
            // Verifiers have numbers of their own in each process: it is verified again.
            verified_by: 0.into(),
        })
    }
}

impl WireRequest {
    fn of(request: &Request) -> WireRequest {
        let text = |text: &str| text.to_owned();
        WireRequest {
            host: Some(request.host.to_string()).filter(|host| !host.is_empty()),
            path: match &request.path {
                RequestPath::Canonical(path) => WirePath::Canonical(text(path)),
                RequestPath::Other { canonical, sent } => {
                    WirePath::Other { canonical: text(canonical), sent: text(sent) }
                }
                RequestPath::HiddenSeparator(path) => WirePath::HiddenSeparator(text(path)),
            },
            origin: request.origin.as_deref().map(text),
            subprotocols: match &request.kind {
                RequestType::Attempt { subprotocols } => {
                    Some(subprotocols.iter().map(|one| text(one)).collect())
                }
                RequestType::Plain => None,
            },
            scheme: match request.scheme {
                Scheme::Https => WireScheme::Https,
                Scheme::Http => WireScheme::Http,
                Scheme::Unknown => WireScheme::Unknown,
            },
            reported_host: request.reported_host.as_ref().map(|host| host.to_string()),
        }
    }

    fn read(self) -> Result<Request, &'static str> {
        let host = |text: &str| Host::parse(text.as_bytes()).ok_or("its host");
        Ok(Request {
            host: self.host.as_deref().map_or(Ok(Host::unnamed()), host)?,
            path: match self.path {
                WirePath::Canonical(path) => RequestPath::Canonical(path.into()),
                WirePath::Other { canonical, sent } => {
                    RequestPath::Other { canonical: canonical.into(), sent: sent.into() }
                }
                WirePath::HiddenSeparator(path) => RequestPath::HiddenSeparator(path.into()),
            },
            origin: self.origin.map(Into::into),
            kind: match self.subprotocols {
                Some(all) => {
                    RequestType::Attempt { subprotocols: all.into_iter().map(Into::into).collect() }
                }
                None => RequestType::Plain,
            },
            scheme: match self.scheme {
                WireScheme::Https => Scheme::Https,
                WireScheme::Http => Scheme::Http,
                WireScheme::Unknown => Scheme::Unknown,
            },
            reported_host: self.reported_host.map(|text| host(&text).map(Box::new)).transpose()?,
        })
    }
}

fn chain(certificate: &ClientCertificate) -> Vec<String> {
    certificate.chain.iter().map(|one| BASE64.encode(one)).collect()
}

fn read_chain(chain: &[String]) -> Result<Arc<ClientCertificate>, &'static str> {
    let decoded: Result<Vec<_>, _> =
        chain.iter().map(|one| BASE64.decode(one.as_bytes())).collect();
    let chain: Vec<_> =
        decoded.map_err(|_| "its certificate")?.into_iter().map(CertificateDer::from).collect();
    client_certificate::read(&chain).map(Arc::new)
}

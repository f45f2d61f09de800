//! `GET /v1/tunnels`: the open tunnels and exchanges, page by page.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};
use crate::admin::wire::status::TrafficCount;
use crate::admin::wire::tunnel_selector::{SELECTOR_NAMES, TunnelSelector};
use crate::admin::wire::words::EntryKind;

/// The most tunnels on a page, and as many where the request has no `limit`.
pub const MAX_PAGE_TUNNELS: usize = 1000;

/// A request for one page of the open tunnels and exchanges.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelsRequest {
    /// The entries that are listed.
    #[cfg_attr(test, schemars(flatten))]
    pub selector: TunnelSelector,
    /// The order. The default is `id`.
    pub sort: TunnelOrder,
    /// Maximum number of tunnels on the page, 1 to 1000. The default is 1000.
    pub limit: usize,
    /// Only those behind this one in the order: the `next` of the page before.
    pub after: u64,
}

/// The order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename_all = "snake_case"))]
pub enum TunnelOrder {
    /// By number: the longest open first.
    #[default]
    Id,
    /// The most bytes in both directions first.
    Bytes,
    /// By the address of the client.
    Client,
}

impl TunnelOrder {
    /// All orders, in the sequence of the help text.
    pub const ALL: [TunnelOrder; 3] = [TunnelOrder::Id, TunnelOrder::Bytes, TunnelOrder::Client];

    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            TunnelOrder::Id => "id",
            TunnelOrder::Bytes => "bytes",
            TunnelOrder::Client => "client",
        }
    }

    /// The order with this word.
    pub fn parse(word: &str) -> Option<TunnelOrder> {
        TunnelOrder::ALL.into_iter().find(|order| order.word() == word)
    }
}

impl Default for TunnelsRequest {
    fn default() -> Self {
        TunnelsRequest {
            selector: TunnelSelector::default(),
            sort: TunnelOrder::Id,
            limit: MAX_PAGE_TUNNELS,
            after: 0,
        }
    }
}

impl AdminRequest for TunnelsRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/tunnels";
    type Answer = TunnelsAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let TunnelsRequest { selector, sort, limit, after } = self;
        let own = [
            (*sort != TunnelOrder::Id).then(|| ("sort", sort.word().to_owned())),
            (*limit != MAX_PAGE_TUNNELS).then(|| ("limit", limit.to_string())),
            (*after != 0).then(|| ("after", after.to_string())),
        ];
        selector.parameters().chain(own.into_iter().flatten()).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = TunnelsRequest::default();
        for (name, value) in pairs(query)? {
            if request.selector.take(name, &value)? {
                continue;
            }
            match name {
                "sort" => {
                    let known = TunnelOrder::parse(&value);
                    request.sort = known.ok_or("`sort` is id, bytes or client")?;
                }
                "limit" => request.limit = limit(&value)?,
                "after" => {
                    let number = value.parse();
                    request.after =
                        number.map_err(|_| "`after` is the `next` of the page before")?;
                }
                _ => {
                    let known = format!("{SELECTOR_NAMES}, sort, limit and after");
                    return Err(unknown(name, &known));
                }
            }
        }
        Ok(request)
    }
}

fn limit(value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (1..=MAX_PAGE_TUNNELS).contains(number));
    number.ok_or_else(|| format!("`limit` is a number from 1 to {MAX_PAGE_TUNNELS}"))
}

/// One page of the open tunnels and exchanges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelsAnswer {
    /// Number of tunnels and exchanges that match the filters now, on all pages.
    pub matching: u64,
    /// The tunnels and exchanges of this page.
    pub tunnels: Vec<TunnelStatus>,
    /// The `after` of the next page. `null`: this is the last page.
    #[serde(deserialize_with = "nullable")]
    pub next: Option<u64>,
}

impl AdminAnswer for TunnelsAnswer {}

/// An open tunnel or exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelStatus {
    /// Its number, never used again while the agent runs.
    pub id: u64,
    /// Whether it is a tunnel or an exchange.
    pub kind: EntryKind,
    /// Its route.
    pub route: String,
    /// Its policy.
    pub policy: String,
    /// The generation that judged it last.
    pub generation: u64,
    /// The address of the client.
    pub client: String,
    /// The address of the socket's remote end.
    pub peer: String,
    /// The name of the client's certificate. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub identity: Option<String>,
    /// The host that was requested.
    pub host: String,
    /// The requested path, without the query.
    pub path: String,
    /// The `Origin` that was sent. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub origin: Option<String>,
    /// The subprotocol that the backend chose. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub subprotocol: Option<String>,
    /// The id of its attempt in the logs of both sides.
    pub request_id: String,
    /// The trace of its attempt. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub trace_id: Option<String>,
    /// The process that keeps it, from before an upgrade. `null`: the agent itself.
    #[serde(deserialize_with = "nullable")]
    pub process: Option<u32>,
    /// When it opened.
    pub opened: Time,
    /// Seconds since it opened.
    pub seconds: u64,
    /// Data sent by the client.
    pub from_client: TrafficCount,
    /// Data sent by the backend.
    pub from_backend: TrafficCount,
}

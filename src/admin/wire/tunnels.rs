//! `GET /v1/tunnels`: the open tunnels, page by page.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};
use crate::admin::wire::status::TrafficCount;

/// The most tunnels on a page, and as many where the request has no `limit`.
pub const MAX_PAGE_TUNNELS: usize = 1000;

/// A request for one page of the open tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelsRequest {
    /// Only tunnels of this route. `None` means of all routes.
    pub route: Option<String>,
    /// Only tunnels of clients in this network, or of this address. `None` means of all clients.
    pub client: Option<String>,
    /// Maximum number of tunnels on the page, 1 to 1000. The default is 1000.
    pub limit: usize,
    /// Only tunnels with ids above this one: the `next` of the page before.
    pub after: u64,
}

impl Default for TunnelsRequest {
    fn default() -> Self {
        TunnelsRequest { route: None, client: None, limit: MAX_PAGE_TUNNELS, after: 0 }
    }
}

impl AdminRequest for TunnelsRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/tunnels";
    type Answer = TunnelsAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let TunnelsRequest { route, client, limit, after } = self;
        let limit = (*limit != MAX_PAGE_TUNNELS).then(|| limit.to_string());
        let after = (*after != 0).then(|| after.to_string());
        let all = [("route", route.clone()), ("client", client.clone())];
        let all = all.into_iter().chain([("limit", limit), ("after", after)]);
        all.filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = TunnelsRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "route" => request.route = Some(value),
                "client" => request.client = Some(value),
                "limit" => request.limit = limit(&value)?,
                "after" => {
                    let number = value.parse();
                    request.after =
                        number.map_err(|_| "`after` is the `next` of the page before")?;
                }
                _ => return Err(unknown(name, "route, client, limit and after")),
            }
        }
        Ok(request)
    }
}

fn limit(value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (1..=MAX_PAGE_TUNNELS).contains(number));
    number.ok_or_else(|| format!("`limit` is a number from 1 to {MAX_PAGE_TUNNELS}"))
}

/// One page of the open tunnels, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelsAnswer {
    /// Number of tunnels that match the filters now, on all pages.
    pub matching: u64,
    /// The tunnels of this page.
    pub tunnels: Vec<TunnelStatus>,
    /// The `after` of the next page. `null`: this is the last page.
    #[serde(deserialize_with = "nullable")]
    pub next: Option<u64>,
}

impl AdminAnswer for TunnelsAnswer {}

/// An open tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelStatus {
    /// Its number, never used again while the agent runs.
    pub id: u64,
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
    /// When it opened.
    pub opened: Time,
    /// Seconds since it opened.
    pub seconds: u64,
    /// Data sent by the client.
    pub from_client: TrafficCount,
    /// Data sent by the backend.
    pub from_backend: TrafficCount,
}

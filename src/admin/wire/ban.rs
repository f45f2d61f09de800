//! `POST /v1/ban`: refuses a client for a while, whatever the policies say.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};

/// A request to ban a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BanRequest {
    /// An address, a network or `unix:uid=33`. `None` means a ban of `identity`.
    pub client: Option<String>,
    /// A name of client certificates. `None` means a ban of `client`.
    pub identity: Option<String>,
    /// How long it lasts, like `90s` or `24h`. `None` means one hour.
    #[cfg_attr(test, schemars(rename = "for"))]
    pub period: Option<String>,
    /// Whether it lasts until it is lifted. The default is false.
    pub forever: bool,
    /// The reason, in words of the operator.
    pub why: String,
    /// Overrides, one a line: names of tests, `peers` and `loopback`.
    #[cfg_attr(test, schemars(rename = "override"))]
    pub overrides: Vec<String>,
    /// The program that orders it: `operator` or `fail2ban`. `None` means `operator`.
    pub origin: Option<String>,
}

impl AdminRequest for BanRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/ban";
    type Answer = BanAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let BanRequest { client, identity, period, forever, why, overrides, origin } = self;
        let all = [
            ("client", client.clone()),
            ("identity", identity.clone()),
            ("for", period.clone()),
            ("forever", forever.then(|| "true".to_owned())),
            ("why", Some(why.clone())),
            ("override", (!overrides.is_empty()).then(|| overrides.join("\n"))),
            ("origin", origin.clone()),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = BanRequest::default();
        for (name, value) in pairs(query)? {
            match (name, &*value) {
                ("client", _) => request.client = Some(value),
                ("identity", _) => request.identity = Some(value),
                ("for", _) => request.period = Some(value),
                ("forever", "true") => request.forever = true,
                ("why", _) => request.why = value,
                ("override", _) => {
                    let words = value.split('\n').filter(|word| !word.is_empty());
                    request.overrides = words.map(str::to_owned).collect();
                }
                ("origin", _) => request.origin = Some(value),
                _ => {
                    let known = "client or identity, for or forever=true, why, override and origin";
                    return Err(unknown(name, known));
                }
            }
        }
        Ok(request)
    }
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum BanAnswer {
    /// The ban holds (200).
    Banned {
        /// The ban.
        ban: Box<BanStatus>,
        /// The ban of the same target that it replaces. `null`: none.
        #[serde(deserialize_with = "nullable")]
        replaced: Option<Box<BanStatus>>,
        /// Number of open tunnels that it closes.
        tunnels: u64,
        /// Number of open exchanges of plain HTTP that it cuts.
        exchanges: u64,
        /// What it contradicts, each with the override that was given.
        overridden: Vec<BanConflict>,
        /// Why it does not outlast a restart. `null`: it does.
        #[serde(deserialize_with = "nullable")]
        not_kept: Option<String>,
    },
    /// Nothing changes: overrides are missing (422).
    Refused {
        /// What the ban contradicts, each with the override that it needs.
        conflicts: Vec<BanConflict>,
    },
}

impl AdminAnswer for BanAnswer {
    fn status(&self) -> StatusCode {
        match self {
            BanAnswer::Banned { .. } => StatusCode::OK,
            BanAnswer::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

/// What a ban contradicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BanConflict {
    /// The word for `--override`: the name of a test, `peers` or `loopback`.
    #[serde(rename = "override")]
    pub word: String,
    /// What the ban would do.
    pub says: String,
}

/// A ban, in force or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BanStatus {
    /// The address, network, user or name of certificates that it holds.
    pub target: String,
    /// When it ends by itself. `null`: never.
    #[serde(deserialize_with = "nullable")]
    pub until: Option<Time>,
    /// The reason, in words of the operator.
    pub why: String,
    /// Where it comes from: `operator`, `fail2ban` or `crowdsec`.
    pub origin: String,
    /// When it was ordered.
    pub since: Time,
    /// User id of the process that ordered it. `null`: not known.
    #[serde(deserialize_with = "nullable")]
    pub by: Option<u32>,
}

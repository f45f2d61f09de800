//! `POST /v1/unban`: lifts bans.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::admin::wire::ban::BanStatus;
use crate::admin::wire::field::nullable;
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};

/// A request to lift bans.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UnbanRequest {
    /// The address, network or user of the ban. `None` means that another parameter says which.
    pub client: Option<String>,
    /// The name of certificates of the ban. `None` means that another parameter says which.
    pub identity: Option<String>,
    /// Whether all bans are lifted. The default is false.
    pub all: bool,
    /// Only bans of this origin: `operator`, `fail2ban` or `crowdsec`. `None` means of any.
    pub origin: Option<String>,
}

impl AdminRequest for UnbanRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/unban";
    type Answer = UnbanAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let UnbanRequest { client, identity, all, origin } = self;
        let all = all.then(|| "true".to_owned());
        let pairs = [
            ("client", client.clone()),
            ("identity", identity.clone()),
            ("all", all),
            ("origin", origin.clone()),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = UnbanRequest::default();
        for (name, value) in pairs(query)? {
            match (name, &*value) {
                ("client", _) => request.client = Some(value),
                ("identity", _) => request.identity = Some(value),
                ("all", "true") => request.all = true,
                ("origin", _) => request.origin = Some(value),
                _ => return Err(unknown(name, "client, identity or all=true, and origin")),
            }
        }
        Ok(request)
    }
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum UnbanAnswer {
    /// The bans are lifted (200).
    Unbanned {
        /// The bans that held until now.
        lifted: Vec<BanStatus>,
        /// Why a restart would bring them back. `null`: it doesn't.
        #[serde(deserialize_with = "nullable")]
        not_kept: Option<String>,
    },
    /// No ban has this target, and nothing changes (422).
    NotBanned {
        /// Bans of other targets that meet it.
        around: Vec<BanStatus>,
    },
}

impl AdminAnswer for UnbanAnswer {
    fn status(&self) -> StatusCode {
        match self {
            UnbanAnswer::Unbanned { .. } => StatusCode::OK,
            UnbanAnswer::NotBanned { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

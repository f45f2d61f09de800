//! `POST /v1/log-level`: shows the filter of the log, or sets it.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};

/// A request for the filter of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LogLevelRequest {
    /// The new filter, in the grammar of `SIDEGATE_LOG`. `None` means to show the present one.
    pub filter: Option<String>,
    /// How long it holds, like `10m`. `None` means until the next change or restart.
    pub lasting: Option<String>,
}

impl AdminRequest for LogLevelRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/log-level";
    type Answer = LogLevelAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let filter = self.filter.iter().map(|filter| ("filter", filter.clone()));
        filter.chain(self.lasting.iter().map(|time| ("lasting", time.clone()))).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = LogLevelRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "filter" => request.filter = Some(value),
                "lasting" => request.lasting = Some(value),
                _ => return Err(unknown(name, "filter=FILTER and lasting=TIME")),
            }
        }
        match (&request.filter, &request.lasting) {
            (None, Some(_)) => Err("`lasting` needs `filter`".into()),
            _ => Ok(request),
        }
    }

    fn is_answered_by(&self, answer: &LogLevelAnswer) -> bool {
        let is_set = self.filter.as_ref().is_none_or(|filter| filter.trim() == answer.filter);
        is_set && (self.filter.is_none() || self.lasting.is_some() == answer.until.is_some())
    }
}

/// The filter of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LogLevelAnswer {
    /// The filter that holds now.
    pub filter: String,
    /// The filter that holds after `until`. `null`: the present one stays.
    #[serde(deserialize_with = "nullable")]
    pub then: Option<String>,
    /// End of the present filter. `null`: the next change, or the end of the process.
    #[serde(deserialize_with = "nullable")]
    pub until: Option<Time>,
}

impl AdminAnswer for LogLevelAnswer {
    fn contradiction(&self) -> Option<&'static str> {
        let disagrees = self.then.is_some() != self.until.is_some();
        disagrees.then_some("it has an end without a later filter, or the reverse")
    }
}

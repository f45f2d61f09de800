//! `POST /v1/close`: closes the tunnels and exchanges that a request selects.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};
use crate::admin::wire::tunnel_selector::{SELECTOR_NAMES, TunnelSelector};
use crate::close::code;

/// The most bytes of a reason (RFC 6455 §5.5): 125, less the code.
pub const MAX_CLOSE_REASON_BYTES: usize = 123;

/// The reason where the request has none.
pub const DEFAULT_CLOSE_REASON: &str = "operator";

/// A request to close tunnels and exchanges.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CloseRequest {
    /// The entries that are closed.
    #[cfg_attr(test, schemars(flatten))]
    pub selector: TunnelSelector,
    /// Whether all are meant; required where nothing else selects any.
    pub all: bool,
    /// The close code that clients get: 1000 to 4999, as far as it may be sent. The default is
    /// 1001.
    pub code: u16,
    /// The reason in the Close, at most 123 bytes. The default is `operator`.
    pub reason: String,
    /// Whether only to count them.
    pub dry_run: bool,
}

impl Default for CloseRequest {
    fn default() -> Self {
        CloseRequest {
            selector: TunnelSelector::default(),
            all: false,
            code: code::GOING_AWAY,
            reason: DEFAULT_CLOSE_REASON.into(),
            dry_run: false,
        }
    }
}

impl AdminRequest for CloseRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/close";
    type Answer = CloseAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let default = CloseRequest::default();
        let flag = |name, is_set: bool| is_set.then(|| (name, "true".to_owned()));
        let own = [
            flag("all", self.all),
            (self.code != default.code).then(|| ("code", self.code.to_string())),
            (self.reason != default.reason).then(|| ("reason", self.reason.clone())),
            flag("dry_run", self.dry_run),
        ];
        self.selector.parameters().chain(own.into_iter().flatten()).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = CloseRequest::default();
        for (name, value) in pairs(query)? {
            if request.selector.take(name, &value)? {
                continue;
            }
            let flag = || match &*value {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(format!("`{name}` is true or false")),
            };
            match name {
                "all" => request.all = flag()?,
                "dry_run" => request.dry_run = flag()?,
                "code" => request.code = close_code(&value)?,
                "reason" => request.reason = close_reason(value)?,
                _ => {
                    let known = format!("{SELECTOR_NAMES}, all, code, reason and dry_run");
                    return Err(unknown(name, &known));
                }
            }
        }
        // An empty selection must not mean everything: a script whose variable is empty would
        // otherwise close all tunnels.
        match (request.all, request.selector.is_empty()) {
            (false, true) => Err(format!("nothing is selected: {SELECTOR_NAMES}, or all=true")),
            (true, false) => Err("`all` and a filter contradict each other".into()),
            _ => Ok(request),
        }
    }

    fn is_answered_by(&self, answer: &CloseAnswer) -> bool {
        // An agent that ignored `dry_run` has closed tunnels: its answer must not pass for a count.
        self.dry_run == answer.dry_run && self.code == answer.code && self.reason == answer.reason
    }
}

/// Parses a close code that may be sent.
///
/// # Errors
/// A sentence that says which codes those are.
pub fn close_code(text: &str) -> Result<u16, String> {
    let wrong = "`code` is a close code that may be sent: 1000 to 1003, 1007 to 1009, 1011 to \
                 1014, or 3000 to 4999";
    // 1005, 1006 and 1015 never go on the wire, and 1010 is sent by clients only (RFC 6455 §7.4.1).
    text.parse().ok().filter(|code| code::may_be_sent(*code)).ok_or_else(|| wrong.into())
}

/// Checks the reason of a Close.
///
/// # Errors
/// It is too long.
pub fn close_reason(text: String) -> Result<String, String> {
    match text.len() <= MAX_CLOSE_REASON_BYTES {
        true => Ok(text),
        false => Err(format!("`reason` has at most {MAX_CLOSE_REASON_BYTES} bytes")),
    }
}

/// What was ordered to close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CloseAnswer {
    /// Whether they were only counted.
    pub dry_run: bool,
    /// Number of tunnels that match.
    pub tunnels: u64,
    /// Number of exchanges that match.
    pub exchanges: u64,
    /// The close code of the tunnels.
    pub code: u16,
    /// The reason in their Closes.
    pub reason: String,
    /// The window over which they are closed, `[reload] revoke_spread`.
    pub spread: String,
}

impl AdminAnswer for CloseAnswer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_of_zero_is_no_filter() {
        for query in ["", "bytes=0", "older=0", "older=0&bytes=0"] {
            let said = CloseRequest::parse(query).unwrap_err();
            assert!(said.starts_with("nothing is selected"), "{query}: {said}");
        }
        for query in ["bytes=1", "older=1", "route=a&bytes=0", "all=true"] {
            assert!(CloseRequest::parse(query).is_ok(), "{query}");
        }
    }
}

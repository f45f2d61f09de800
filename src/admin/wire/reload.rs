//! `POST /v1/reload`: reads the files now.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::nullable;
use crate::admin::wire::hold::OverrideStatus;
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::pairs;
use crate::admin::wire::report::DiagnosticReport;
use crate::admin::wire::words::ReloadCause;

/// A request to read the files now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReloadRequest {
    /// Whether the answer waits for the outcome. The default is true.
    pub wait: bool,
    /// Lists that may shrink by more than their `max_shrink`.
    pub accept_shrink: Vec<String>,
    /// Whether more tunnels may be closed than `[reload] max_revoked` allows.
    pub accept_revocations: bool,
    /// Whether more addresses may be newly admitted than `[reload] max_widened` allows.
    pub accept_widening: bool,
    /// Tests of policies that may fail, one a line.
    #[cfg_attr(test, schemars(rename = "override"))]
    pub overrides: Vec<String>,
    /// Whether held files stay as they run. The default is false.
    pub live: bool,
    /// The first digits, 12 at least, of the digest of the files that are meant. With any other
    /// files on disk, nothing is published.
    pub expect: Option<String>,
}

impl Default for ReloadRequest {
    fn default() -> Self {
        let (accept_shrink, overrides) = (Vec::new(), Vec::new());
        ReloadRequest {
            wait: true,
            accept_shrink,
            accept_revocations: false,
            accept_widening: false,
            overrides,
            live: false,
            expect: None,
        }
    }
}

/// Whether `text` begins a digest, and has enough of it that no other set of files has the same.
pub fn is_digest(text: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (MIN_DIGEST..=64).contains(&text.len()) && text.bytes().all(is_digit)
}

/// Least number of digits of a digest.
const MIN_DIGEST: usize = 12;

impl AdminRequest for ReloadRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/reload";
    type Answer = ReloadAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let flag = |name, is_set: bool| is_set.then(|| (name, "true".to_owned()));
        let list = |name, items: &[String], separator| {
            (!items.is_empty()).then(|| (name, items.join(separator)))
        };
        let all = [
            (!self.wait).then(|| ("wait", "false".to_owned())),
            list("accept_shrink", &self.accept_shrink, ","),
            flag("accept_revocations", self.accept_revocations),
            flag("accept_widening", self.accept_widening),
            list("override", &self.overrides, "\n"),
            flag("live", self.live),
            self.expect.clone().map(|digest| ("expect", digest)),
        ];
        all.into_iter().flatten().collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = ReloadRequest::default();
        for (name, value) in pairs(query)? {
            match (name, &*value) {
                ("wait", "true") => request.wait = true,
                ("wait", "false") => request.wait = false,
                ("accept_shrink", lists) => {
                    let lists = lists.split(',').filter(|list| !list.is_empty());
                    request.accept_shrink = lists.map(str::to_owned).collect();
                }
                ("accept_revocations", "true") => request.accept_revocations = true,
                ("accept_widening", "true") => request.accept_widening = true,
                ("override", tests) => {
                    let tests = tests.split('\n').filter(|test| !test.is_empty());
                    request.overrides = tests.map(str::to_owned).collect();
                }
                ("live", "true") => request.live = true,
                ("expect", digest) if is_digest(digest) => request.expect = Some(value),
                _ => {
                    let known = "wait=true or wait=false, accept_shrink=LIST,…, \
                                 accept_revocations=true, accept_widening=true, \
                                 override=TEST, live=true and expect=DIGEST";
                    return Err(format!("a reload takes {known}"));
                }
            }
        }
        Ok(request)
    }

    fn is_answered_by(&self, answer: &ReloadAnswer) -> bool {
        // A reload that was only asked for has no outcome yet, whatever was accepted.
        self.wait != matches!(answer, ReloadAnswer::Asked)
    }
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ReloadAnswer {
    /// A new generation runs (200).
    Published {
        /// The number of the running generation.
        generation: u64,
        /// The digest of its files.
        digest: String,
        /// Number of tunnels and exchanges that it closes.
        revoked: u64,
        /// Errors about the files, then warnings.
        diagnostics: Vec<DiagnosticReport>,
        /// The failed tests that are overridden.
        overridden: Vec<OverrideStatus>,
        /// Why held files and overrides do not outlast a restart. `null`: they do.
        #[serde(deserialize_with = "nullable")]
        not_kept: Option<String>,
    },
    /// The files match the running generation (200).
    Unchanged {
        /// The number of the running generation.
        generation: u64,
        /// The digest of its files.
        digest: String,
        /// The reload that published it, if that was in the last minute. `null`: it was not, or it
        /// is the first generation.
        #[serde(deserialize_with = "nullable")]
        recent: Option<RecentReload>,
        /// Why held files and overrides do not outlast a restart. `null`: they do.
        #[serde(deserialize_with = "nullable")]
        not_kept: Option<String>,
    },
    /// The running generation stays (422). The files have errors, are held, or are not those of
    /// `expect`.
    Rejected {
        /// All errors, then warnings.
        diagnostics: Vec<DiagnosticReport>,
    },
    /// The reload was requested; the answer did not wait for its outcome (202).
    Asked,
}

/// A reload that published the running generation a moment ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RecentReload {
    /// Its cause.
    pub cause: ReloadCause,
    /// Milliseconds since the publish.
    pub age_ms: u64,
}

impl AdminAnswer for ReloadAnswer {
    fn status(&self) -> StatusCode {
        match self {
            ReloadAnswer::Published { .. } | ReloadAnswer::Unchanged { .. } => StatusCode::OK,
            ReloadAnswer::Rejected { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ReloadAnswer::Asked => StatusCode::ACCEPTED,
        }
    }
}

//! `POST /v1/diff`: what a reload would change, without reloading.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};
use crate::admin::wire::report::DiagnosticReport;
use crate::admin::wire::staged::StagedFiles;
use crate::admin::wire::widening::WideningChanges;

/// A request for what a reload would change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DiffRequest {
    /// The policy whose candidate is taken as if it had been promoted. `None` means no policy.
    pub promote: Option<String>,
    /// Whether the body has files that are compared in place of those on disk. The default is
    /// false.
    pub staged: bool,
    /// Tests of policies that may fail, one a line.
    #[cfg_attr(test, schemars(rename = "override"))]
    pub overrides: Vec<String>,
    /// The files of the body, empty unless `staged` is true.
    #[cfg_attr(test, schemars(skip))]
    pub files: StagedFiles,
}

impl AdminRequest for DiffRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/diff";
    type Answer = DiffAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let promote = self.promote.as_ref().map(|name| ("promote", name.clone()));
        let staged = self.staged.then(|| ("staged", "true".to_owned()));
        let tests = (!self.overrides.is_empty()).then(|| ("override", self.overrides.join("\n")));
        promote.into_iter().chain(staged).chain(tests).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = DiffRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "promote" if !value.is_empty() => request.promote = Some(value),
                "staged" if value == "true" => request.staged = true,
                "override" => {
                    let tests = value.split('\n').filter(|test| !test.is_empty());
                    request.overrides = tests.map(str::to_owned).collect();
                }
                _ => {
                    return Err(unknown(name, "promote=NAME, staged=true and override=TEST"));
                }
            }
        }
        Ok(request)
    }

    fn body(&self) -> Option<Vec<u8>> {
        self.staged.then(|| self.files.encode())
    }

    fn is_answered_by(&self, answer: &DiffAnswer) -> bool {
        *answer.promote() == self.promote && answer.staged() == self.staged
    }
}

/// What a reload would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum DiffAnswer {
    /// The files match the running generation (200).
    Unchanged(Changes),
    /// The files differ from the running generation (200).
    Changed(Changes),
    /// The files have errors: a reload would be rejected (422).
    Rejected {
        /// The number of the running generation.
        generation: u64,
        /// The policy whose candidate was taken as promoted. `null`: none.
        #[serde(deserialize_with = "nullable")]
        promote: Option<String>,
        /// Whether staged files were compared.
        staged: bool,
        /// The digest of the files in full. Empty: they could not be read.
        expect: String,
        /// All errors, then warnings.
        diagnostics: Vec<DiagnosticReport>,
    },
}

impl DiffAnswer {
    /// The policy whose candidate was taken as promoted.
    pub fn promote(&self) -> &Option<String> {
        match self {
            DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes) => &changes.promote,
            DiffAnswer::Rejected { promote, .. } => promote,
        }
    }

    /// The digest in full of the files that were compared. Empty means that they were not read.
    pub fn expect(&self) -> &str {
        match self {
            DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes) => &changes.expect,
            DiffAnswer::Rejected { expect, .. } => expect,
        }
    }

    /// Whether staged files were compared.
    pub fn staged(&self) -> bool {
        match self {
            DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes) => changes.staged,
            DiffAnswer::Rejected { staged, .. } => *staged,
        }
    }
}

impl AdminAnswer for DiffAnswer {
    fn status(&self) -> StatusCode {
        match self {
            DiffAnswer::Unchanged(_) | DiffAnswer::Changed(_) => StatusCode::OK,
            DiffAnswer::Rejected { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        let (changes, same) = match self {
            DiffAnswer::Unchanged(changes) => (changes, true),
            DiffAnswer::Changed(changes) => (changes, false),
            DiffAnswer::Rejected { .. } => return None,
        };
        let Changes { from, to, tunnels, streams, .. } = changes;
        let counted: Option<u64> =
            // An overflow makes the sum `None`, which disagrees with any number.
            tunnels.by.iter().try_fold(0u64, |sum, one| sum.checked_add(one.tunnels));
        if (from == to) != same {
            Some("its outcome and its digests disagree")
        } else if tunnels.revoked > tunnels.open || streams.revoked > streams.open {
            Some("more would be closed than is open")
        } else if counted != Some(tunnels.revoked) {
            Some("its numbers of tunnels that would be closed disagree")
        } else if is_over(&tunnels.sample, tunnels.revoked)
            || is_over(&streams.sample, streams.revoked)
        {
            Some("it names more that would be closed than it counts")
        } else {
            changes.widening.contradiction()
        }
    }
}

fn is_over(sample: &[RevokedTunnel], revoked: u64) -> bool {
    u64::try_from(sample.len()).is_ok_and(|named| named > revoked)
}

/// What differs between the files and the generation that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Changes {
    /// The number of the running generation.
    pub generation: u64,
    /// The digest of its files.
    pub from: String,
    /// The digest of the files on disk.
    pub to: String,
    /// The digest in full of the files that a reload would find, for its `expect`.
    pub expect: String,
    /// The policy whose candidate was taken as promoted. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub promote: Option<String>,
    /// Whether staged files were compared in place of those on disk.
    pub staged: bool,
    /// Keys whose values differ.
    pub keys: Vec<KeyChange>,
    /// Lists whose entries differ.
    pub lists: Vec<ListChange>,
    /// The effect on open tunnels.
    pub tunnels: TunnelChanges,
    /// The effect on streams: event streams, and exchanges that have lasted 5 s.
    pub streams: StreamChanges,
    /// What the files on disk admit and the running generation refuses.
    pub widening: WideningChanges,
    /// Reasons for which a reload would be held until it is accepted; empty if it would not.
    pub held: Vec<DiagnosticReport>,
    /// Warnings about the files on disk.
    pub diagnostics: Vec<DiagnosticReport>,
}

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KeyChange {
    /// The file.
    pub file: String,
    /// The key, as in `client.origins` or `route.ticks.policy`. Empty: the whole file.
    pub key: String,
    /// The value in the running generation. `null`: the key is new.
    #[serde(deserialize_with = "nullable")]
    pub from: Option<Value>,
    /// The value on disk. `null`: the key is gone.
    #[serde(deserialize_with = "nullable")]
    pub to: Option<Value>,
}

/// A list whose entries differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListChange {
    /// The policy that names it.
    pub policy: String,
    /// Its name.
    pub list: String,
    /// The file that has its entries.
    pub file: String,
    /// Entries that only the files on disk have.
    pub added: u64,
    /// Entries that only the running generation has.
    pub removed: u64,
    /// Entries with other annotations.
    pub altered: u64,
    /// Number of entries on disk that lapse within 30 days.
    pub lapsing_30d: u64,
    /// The first ten of them, signed: `+198.51.100.7 expires=2026-12-31`.
    pub sample: Vec<String>,
}

/// The effect on open tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelChanges {
    /// How many are open.
    pub open: u64,
    /// How many would be closed.
    pub revoked: u64,
    /// How many would be closed, by route and reason.
    pub by: Vec<RevocationCount>,
    /// The first ten that would be closed.
    pub sample: Vec<RevokedTunnel>,
}

/// What would happen to streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StreamChanges {
    /// How many are open.
    pub open: u64,
    /// How many would be cut.
    pub revoked: u64,
    /// The first ten that would be cut.
    pub sample: Vec<RevokedTunnel>,
}

/// How many tunnels of a route would be closed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RevocationCount {
    /// The route.
    pub route: String,
    /// The refusal's word, as in docs/operations.md.
    pub reason: String,
    /// How many.
    pub tunnels: u64,
}

/// A tunnel or a stream that would be closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RevokedTunnel {
    /// Its number.
    pub id: u64,
    /// The address of its client.
    pub client: String,
    /// Its route.
    pub route: String,
    /// The refusal's word, as in docs/operations.md.
    pub reason: String,
    /// The rule that would refuse it, `file:line`. `null`: no rule of a policy.
    #[serde(deserialize_with = "nullable")]
    pub rule: Option<String>,
    /// The entry behind that rule, and its place. `null`: no entry.
    #[serde(deserialize_with = "nullable")]
    pub entry: Option<String>,
    /// When it opened.
    pub opened: Time,
}

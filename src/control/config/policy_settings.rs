//! The values of one policy file.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::control::config::diagnostic::Span;
use crate::policy::Policy;
use crate::policy::request::Request;
use crate::policy::subject::Subject;
use crate::refusal::Refusal;

/// Values of one `policies/NAME.toml`, of a candidate or of the baseline.
#[derive(Debug)]
pub struct PolicySettings {
    /// The policy, without its candidate.
    pub policy: Policy,
    /// The lists that the policy reads from files.
    pub feeds: Vec<ListFeed>,
    /// The policy's own tests, in the order written.
    pub tests: Vec<PolicyTest>,
}

/// The values of a file are for the most part those of its policy.
impl Deref for PolicySettings {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policy
    }
}

/// A list that a policy reads from a file, with the bounds on that file.
#[derive(Debug)]
pub struct ListFeed {
    /// Name of the list in the policy.
    pub name: Arc<str>,
    /// The file relative to the folder of `sidegate.toml`.
    pub file: Arc<str>,
    /// Number of entries in the file.
    pub entries: usize,
    /// Time of the file's last modification. `None` means not known.
    pub modified: Option<Timestamp>,
    /// Age from which the list is stale. `None` means unlimited.
    pub max_age: Option<Duration>,
    /// Whether a reload with a stale list is rejected.
    pub rejects_stale: bool,
    /// Share of its entries, in percent, that the list may lose in a reload. `None` means the
    /// default.
    pub max_shrink: Option<u8>,
    /// Whether the list holds as soon as it is saved.
    pub is_live: bool,
    /// Place of the file's name in the policy.
    pub place: Span,
}

/// One `[[test]]` of a policy.
#[derive(Debug)]
pub struct PolicyTest {
    /// Name of the test, which messages quote.
    pub name: Arc<str>,
    /// The client, and its credentials.
    pub subject: Subject,
    /// The request. The gate's own refusal of a path is kept, since such a request is never judged.
    pub request: Result<Request, Refusal>,
    /// Time of the request. `None` means a time at which no entry has lapsed.
    pub at: Option<Timestamp>,
    /// The verdict that is expected.
    pub expect: ExpectedVerdict,
    /// Place of `url` in the file.
    pub at_url: Span,
    /// Place of `expect` in the file.
    pub at_expect: Span,
}

/// The verdict that a test expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVerdict {
    /// `"allow"`: the request is permitted.
    Allow,
    /// `"refuse"`: the request is refused, for any reason.
    Refuse,
    /// `"refuse:WORD"`: the request is refused for this reason.
    RefuseFor(&'static str),
}

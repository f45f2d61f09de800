//! The values of one `policies/NAME.toml`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::control::config::diagnostic::Place;
use crate::policy::Allow;
use crate::policy::limit::Limits;
use crate::policy::list::List;
use crate::policy::network::Client;
use crate::policy::origin::Origins;
use crate::policy::request::Request;
use crate::policy::rule::RuleLines;
use crate::policy::subprotocol::Subprotocols;
use crate::refusal::Refusal;

/// One `policies/NAME.toml`.
#[derive(Debug)]
pub struct PolicyPage {
    /// The file's stem.
    pub name: Arc<str>,
    /// The file, as people write it: `policies/NAME.toml`.
    pub file: Arc<str>,
    /// Who answers for it, as written.
    pub owner: Option<Box<str>>,
    /// Who is admitted.
    pub allow: Allow,
    /// Whom nobody may admit.
    pub deny: Vec<Arc<List>>,
    /// Which pages may open it; `None`: not looked at.
    pub origins: Option<Origins>,
    /// Which subprotocols its tunnels may speak. `None` means not looked at.
    pub subprotocols: Option<Subprotocols>,
    /// How much of it.
    pub limits: Limits,
    /// Where its rules stand in the file.
    pub lines: RuleLines,
    /// The lists that it reads from files.
    pub feeds: Vec<Feed>,
    /// What it expects of itself, in the order written.
    pub tests: Vec<PolicyTest>,
}

/// A list that a policy reads from a file, and how that file is minded.
#[derive(Debug)]
pub struct Feed {
    /// The list's name.
    pub name: Arc<str>,
    /// Its file, as people write it.
    pub file: Arc<str>,
    /// How many entries it has.
    pub entries: usize,
    /// When it was last written.
    pub modified: Option<Timestamp>,
    /// How old it may become.
    pub max_age: Option<Duration>,
    /// Whether a reload with an older one is rejected.
    pub rejects_stale: bool,
    /// By how much of its entries, in percent, a reload may shrink it; `None`: it doesn't say.
    pub max_shrink: Option<u8>,
    /// Where the policy names it.
    pub place: Place,
}

/// One `[[test]]` of a policy.
#[derive(Debug)]
pub struct PolicyTest {
    /// What it shows.
    pub name: Arc<str>,
    /// Who asks.
    pub client: Client,
    /// What is asked; a path that the gate refuses is judged by nobody.
    pub request: Result<Request, Refusal>,
    /// When; `None`: at a time when no entry has lapsed.
    pub at: Option<Timestamp>,
    /// What should come of it.
    pub expect: Expect,
    /// Where its URL stands.
    pub at_url: Place,
    /// Where it says what should come of it.
    pub at_expect: Place,
}

/// What a test expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// `"allow"`
    Allow,
    /// `"refuse"`, whatever for.
    Refuse,
    /// `"refuse:WORD"`
    RefuseFor(&'static str),
}

//! The JSON of `sidegate apply --json`.

use serde::Serialize;

use sidegate::admin::wire::DiffAnswer;

/// What an apply did.
#[derive(Debug, Default, Serialize)]
pub struct ApplyReport {
    /// How the apply ended.
    pub outcome: ApplyOutcome,
    /// Paths of the files that have another version now, or would have.
    pub replaced: Vec<String>,
    /// Paths of new files.
    pub added: Vec<String>,
    /// Paths of removed files.
    pub removed: Vec<String>,
    /// Paths of files that are never held and stay, since the copy is not newer.
    pub left: Vec<String>,
    /// What an earlier, interrupted apply had left. `None` means nothing.
    pub recovered: Option<String>,
    /// Why nothing was applied. `None` means that there is no error.
    pub error: Option<String>,
    /// The difference from what ran. `None` means that no agent runs, or that nothing differs.
    pub diff: Option<DiffAnswer>,
}

/// How an apply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyOutcome {
    /// The new files count.
    Applied,
    /// The copy equals the files.
    Unchanged,
    /// An interrupted apply was put right, and nothing else was asked for.
    Recovered,
    /// The answer to the question was no.
    Declined,
    /// An error; the former files count.
    #[default]
    Failed,
}

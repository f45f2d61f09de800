//! The figures of CrowdSec's decisions, as a scrape shows them.

use jiff::Timestamp;

/// The figures of CrowdSec's decisions.
#[derive(Debug, Clone)]
pub struct CrowdsecFigures {
    /// Time of the last answer. `None` means that none has come.
    pub answered: Option<Timestamp>,
    /// Number of held bans.
    pub held: usize,
    /// Number of decisions that are not applied, by the word of the reason.
    pub refused: Vec<(&'static str, usize)>,
}

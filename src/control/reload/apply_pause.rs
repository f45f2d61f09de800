//! Pauses of the watch for commands that replace files, and applies that broke off.
//!
//! A pause lasts as long as the connection of its command. A journal that is there once no command
//! has a pause is of an apply that was killed.

use futures_util::future::select_all;
use tokio_util::sync::CancellationToken;

use crate::control::config::apply_journal::ApplyState;

/// The commands that replace files now.
#[derive(Debug, Default)]
pub(super) struct ApplyPauses {
    /// Each is cancelled when its command has ended.
    ends: Vec<CancellationToken>,
    /// Whether an apply that broke off was logged.
    is_told: bool,
}

impl ApplyPauses {
    /// Notes a command, whose connection ends with `end`.
    pub fn add(&mut self, end: CancellationToken) {
        self.ends.retain(|end| !end.is_cancelled());
        self.ends.push(end);
    }

    /// Waits until a command has ended. Cancel-safe.
    pub async fn ended(&mut self) {
        if self.ends.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.ends.iter().map(|end| Box::pin(end.cancelled()))).await;
        self.ends.retain(|end| !end.is_cancelled());
    }

    /// Whether an apply has broken off that was not logged yet, by the state that was found.
    pub fn is_news(&mut self, found: Option<ApplyState>) -> bool {
        self.ends.retain(|end| !end.is_cancelled());
        let is_left = found.is_some() && self.ends.is_empty();
        let is_news = is_left && !self.is_told;
        self.is_told = is_left;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::FutureExt;

    #[test]
    fn apply_that_ended_with_its_journal_in_place_is_told_once() {
        let mut pauses = ApplyPauses::default();
        let end = CancellationToken::new();
        pauses.add(end.clone());
        assert!(!pauses.is_news(Some(ApplyState::Replacing)), "its command is alive");
        assert!(pauses.ended().now_or_never().is_none());
        end.cancel();
        assert!(pauses.ended().now_or_never().is_some());
        assert!(pauses.ended().now_or_never().is_none(), "once");
        assert!(pauses.is_news(Some(ApplyState::Replacing)));
        assert!(!pauses.is_news(Some(ApplyState::Replacing)), "told already");
        assert!(!pauses.is_news(None));
        assert!(pauses.is_news(Some(ApplyState::Replaced)), "another one");
    }
}

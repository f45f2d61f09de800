//! Saved files that `[reload] watch = "hold"` holds back, and what publishing them would do.

use std::sync::Arc;

use jiff::Timestamp;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::Digest;

/// Most names of changed files in a sentence.
const MAX_NAMES: usize = 5;

/// Saved files that are not published.
#[derive(Debug, Clone)]
pub struct PendingFiles {
    /// Number that the generation would get now.
    pub generation: u64,
    /// Digest of the saved files.
    pub digest: Arc<str>,
    /// Since when files have been pending.
    pub since: Timestamp,
    /// Files that differ from the running generation, relative to the folder of
    /// `sidegate.toml`.
    pub changed: Vec<String>,
    /// Digests of the changed files, in the same order. `None` means that one is gone.
    pub(super) versions: Vec<Option<Digest>>,
    /// The effect of publishing them, or the errors that forbid it.
    pub effect: Result<PendingEffect, Arc<[Diagnostic]>>,
}

/// The effect that publishing pending files would have, as of the last look.
#[derive(Debug, Clone)]
pub struct PendingEffect {
    /// Number of open tunnels and streams.
    pub open: usize,
    /// Number of tunnels and streams that would be closed.
    pub revoked: usize,
    /// Reasons to reject the reload until they are accepted.
    pub held: Arc<[Diagnostic]>,
    /// Findings about the files that are not errors.
    pub warnings: Arc<[Diagnostic]>,
}

impl PendingFiles {
    /// The reasons why a plain `sidegate reload` would be rejected; empty if it would not be.
    pub fn obstacles(&self) -> &[Diagnostic] {
        match &self.effect {
            Ok(effect) => &effect.held,
            Err(errors) => errors,
        }
    }

    /// All findings: the reasons why it would be rejected, then warnings.
    pub fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
        let warnings = self.effect.as_ref().ok().map(|effect| &*effect.warnings);
        self.obstacles().iter().chain(warnings.unwrap_or_default())
    }

    /// Whether a plain `sidegate reload` would be rejected.
    pub fn is_rejected(&self) -> bool {
        self.obstacles().iter().any(Diagnostic::is_error)
    }

    /// Whether `other` would do the same, so that it is no news.
    pub(super) fn is_same_news(&self, other: &PendingFiles) -> bool {
        // Remedies name the digest of all files.
        let errors = |one: &PendingFiles| {
            let bare = |one: &Diagnostic| {
                let mut one = one.clone();
                one.remedy = None;
                one.one_line()
            };
            one.obstacles().iter().map(bare).collect::<Vec<_>>()
        };
        // Not by the digest of all files, which changes with each live list.
        let is_same = self.changed == other.changed && self.versions == other.versions;
        is_same && errors(self) == errors(other)
    }

    /// One sentence for people.
    pub fn sentence(&self) -> String {
        let changed = match names(&self.changed) {
            Some(names) => format!(": {names}"),
            None => String::new(),
        };
        let what = format!("saved files are pending since {:.0}{changed}", self.since);
        match &self.effect {
            Err(_) => format!("{what}; they have errors, and `sidegate reload` would be rejected"),
            Ok(effect) => {
                let PendingEffect { open, revoked, .. } = effect;
                let order = match self.is_rejected() {
                    true => "`sidegate reload` would be rejected: see `sidegate diff`",
                    false => "`sidegate reload` publishes them",
                };
                let number = self.generation;
                format!(
                    "{what}; as generation {number} they would close {revoked} of {open} open \
                     tunnels and streams; {order}"
                )
            }
        }
    }
}

/// The first names, and how many more there are. `None` means that there is none.
pub(super) fn names(all: &[String]) -> Option<String> {
    let (first, more) = all.split_at(all.len().min(MAX_NAMES));
    match more.len() {
        _ if first.is_empty() => None,
        0 => Some(first.join(", ")),
        more => Some(format!("{}, and {more} more", first.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_says_what_a_reload_would_do() {
        let effect = |held: Vec<Diagnostic>| PendingEffect {
            open: 12,
            revoked: 3,
            held: held.into(),
            warnings: Arc::default(),
        };
        let pending = |effect| PendingFiles {
            generation: 4,
            digest: "ab".into(),
            since: Timestamp::UNIX_EPOCH,
            changed: vec!["policies/chat.toml".into()],
            versions: vec![None],
            effect,
        };
        let error = Diagnostic::for_file("sidegate.toml".as_ref(), "too many".into(), None);
        let ready = pending(Ok(effect(Vec::new())));
        assert_eq!(
            ready.sentence(),
            "saved files are pending since 1970-01-01T00:00:00Z: policies/chat.toml; as generation \
             4 they would close 3 of 12 open tunnels and streams; `sidegate reload` publishes them"
        );
        let held = pending(Ok(effect(vec![error.clone()])));
        assert!(held.is_rejected() && held.sentence().contains("see `sidegate diff`"));
        let broken = pending(Err([error].into()));
        assert!(broken.is_rejected() && broken.sentence().contains("they have errors"));
        assert!(ready.is_same_news(&ready) && !ready.is_same_news(&broken));
    }
}

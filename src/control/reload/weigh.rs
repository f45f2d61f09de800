//! What a generation would do before it does it: to the open tunnels, to the lists, to what only a restart changes.
//!
//! It changes nothing; what it holds against a generation is for the reload to heed.

use jiff::Timestamp;

use super::{Accept, Preview, Reloader, Weighed};
use crate::control::compile::{Built, build};
use crate::control::config::Settings;
use crate::control::config::diagnostic::Diagnostic;
use crate::snapshot::Snapshot;

impl Reloader {
    /// What a reload would do now; it is none.
    pub(super) async fn preview(&self, promoted: Option<String>) -> Preview {
        let (now, settings) = (self.live.load_full(), self.standing.settings.load_full());
        let next = match self.load(promoted).await {
            Some((files, loaded)) => loaded.and_then(|loaded| {
                let restart = self.restart(&loaded.settings);
                if restart.is_empty() { Ok(()) } else { Err(restart) }?;
                build(loaded, &self.config, &files.digest().to_string(), Some(&now), &self.tickets)
            }),
            None => Err(vec![Diagnostic::of(&self.config, "the reading broke off: see the log".into(), None)]),
        };
        let weighed = next.as_ref().map(|built| self.weigh(built, &now, &Accept::default())).unwrap_or_default();
        Preview { now, settings, next, weighed }
    }

    /// Says what `built` would do to the open tunnels, and why it should be looked at before it does.
    pub(super) fn weigh(&self, built: &Built, before: &Snapshot, accept: &Accept) -> Weighed {
        let now = Timestamp::now();
        let weight = self.tunnels.weigh(&built.snapshot, now);
        let mut held: Vec<_> = built
            .feeds
            .iter()
            .filter_map(|(policy, feed)| {
                let policy = before.all_policies().find(|before| before.name == *policy);
                let list = policy.and_then(|policy| policy.lists().into_iter().find(|list| list.name == feed.name));
                feed.rejection(list.map(|list| list.len()), accept.shrunk.iter().any(|name| *name == *feed.name), now)
            })
            .collect();
        let bound = built.settings.reload.max_revoked;
        if !accept.revocations && bound.is_exceeded(weight.all_revoked(), weight.all()) {
            let what = if weight.streams == 0 { "open tunnels" } else { "open tunnels and streams" };
            let (revoked, all) = (weight.all_revoked(), weight.all());
            let fault = format!("{revoked} of {all} {what} would be closed, more than max_revoked = \"{bound}\"");
            let remedy = "`sidegate diff` says which; if they are meant: sidegate reload --accept-revocations";
            held.push(Diagnostic::of(&self.config, fault, Some(remedy.into())));
        }
        Weighed { weight, held }
    }

    /// What of `next` cannot be changed while running.
    pub(super) fn restart(&self, next: &Settings) -> Vec<Diagnostic> {
        if self.standing.settings.load().threads == next.threads {
            return Vec::new();
        }
        let fault = "threads: they are started once, and a reload starts and ends none".into();
        vec![Diagnostic::error(next.written.threads(), fault, Some("restart sidegate to change it, or take it back".into()))]
    }
}

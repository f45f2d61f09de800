//! The state of `watch = "hold"` between two looks at the files.

use std::sync::Arc;

use crate::control::compile::CompiledGeneration;
use crate::control::config::WatchMode;
use crate::control::config::overlay::Overlay;
use crate::control::config::source::{Digest, Files};
use crate::control::reload::prepare::NO_BOUND;

/// The texts that run while `watch` or a bound holds saves back, and the files that were last seen.
#[derive(Debug, Default)]
pub(super) struct HeldFiles {
    /// Texts of the running generation, for the next start. Empty unless `watch` or a bound holds
    /// saves back.
    pub texts: Arc<Overlay>,
    /// The last look at the saved files. `None` means that the next look reports them again.
    pub seen: Option<SeenFiles>,
    /// Whether the files that are never held had an error at the last look.
    pub is_live_faulty: bool,
    /// Whether the last rejected reload was of those files, and not of an order.
    pub is_live_rejected: bool,
    /// Whether files are kept that an order could not publish without a restart.
    pub awaits_restart: bool,
    /// Why the texts run without an order. `None` means that they are ordered, or need no order.
    pub unordered: Option<Arc<str>>,
    /// Whether the start served kept texts in place of files that it did not accept.
    pub looks_again: bool,
}

/// The saved files of a look, and the generation that they were compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeenFiles {
    pub saved: Digest,
    pub running: Digest,
}

impl HeldFiles {
    /// The texts of `files` that the next start compares with the saved files. Empty where the
    /// generation `built` holds no save back.
    pub fn texts_of(built: &CompiledGeneration, files: &Files) -> Arc<Overlay> {
        let settings = &built.settings.reload;
        let is_bounded = settings.max_widened != NO_BOUND
            || built.guards.feeds.iter().any(|(_, feed)| feed.max_shrink.is_some());
        match settings.watch {
            WatchMode::Hold => {
                let mut texts = files.texts();
                texts.set_ordered();
                Arc::new(texts)
            }
            _ if is_bounded => Arc::new(files.texts()),
            WatchMode::Auto | WatchMode::Poll | WatchMode::Off => Arc::default(),
        }
    }
}

/// The warning about saved files that run without an order.
pub(super) fn unordered_sentence(why: &str) -> String {
    format!(
        "the saved files run without an order, since {why}: check them with `sidegate check` and \
         against your own records, then `sidegate reload` accepts them"
    )
}

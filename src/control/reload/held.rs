//! The state of `watch = "hold"` between two looks at the files.

use std::sync::Arc;

use crate::control::config::overlay::Overlay;
use crate::control::config::source::{Digest, Files};
use crate::control::config::{Settings, WatchMode};

/// The texts that run while `watch` holds, and the saved files that were last seen.
#[derive(Debug, Default)]
pub(super) struct HeldFiles {
    /// Texts of the running generation; empty unless `watch` holds.
    pub texts: Arc<Overlay>,
    /// The last look at the saved files. `None` means that the next look reports them again.
    pub seen: Option<SeenFiles>,
    /// Whether the files that are never held had an error at the last look.
    pub is_live_faulty: bool,
    /// Whether the last rejected reload was of those files, and not of an order.
    pub is_live_rejected: bool,
    /// Whether files are kept that an order could not publish without a restart.
    pub awaits_restart: bool,
}

/// The saved files of a look, and the generation that they were compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeenFiles {
    pub saved: Digest,
    pub running: Digest,
}

impl HeldFiles {
    /// The texts of `files` that a generation with these settings holds; empty unless it does.
    pub fn texts_of(settings: &Settings, files: &Files) -> Arc<Overlay> {
        match settings.reload.watch {
            WatchMode::Hold => Arc::new(files.texts()),
            WatchMode::Auto | WatchMode::Poll | WatchMode::Off => Arc::default(),
        }
    }
}

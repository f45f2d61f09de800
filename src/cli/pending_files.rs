//! Saved files that an order publishes although it is about other files.

use std::path::Path;
use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::staged::StagedSet;
use sidegate::admin::wire::StatusRequest;
use sidegate::observe::printable;

/// Time for the agent's answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// A line about the files that `watch = "hold"` holds back and that are not among `staged`. `None`
/// means that there are none, or that no agent runs.
pub fn line(config: &Path, staged: &StagedSet) -> Option<String> {
    let status = admin_client::ask(config, &StatusRequest, STATUS_TIMEOUT).ok()?;
    let changed = status.pending?.changed;
    let is_staged = |name: &&String| {
        let mut all = staged.files.iter().map(|file| &file.path).chain(&staged.removed);
        !all.any(|path| path == Path::new(name.as_str()))
    };
    let others = changed.iter().filter(is_staged);
    let names: Vec<_> = others.map(|name| printable::line(name)).collect();
    (!names.is_empty()).then(|| format!("  publishes pending files too: {}", names.join(", ")))
}

//! Where the published files are, for a start that cannot learn it from `sidegate.toml`.
//!
//! The saved file may name another state folder than the running one, or be unreadable. So a folder
//! that `[process] state` names is noted in the folder of `"auto"`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::control::config::StateSetting;
use crate::control::state_dir::StateDir;

/// Name of the file in the folder of `"auto"`.
const FILE: &str = "published.at";

/// Most bytes of the file: two paths.
const MAX_BYTES: u64 = 16 << 10;

const SCHEMA: u64 = 1;

/// The contents of the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedPlace {
    schema: u64,
    config: String,
    folder: String,
}

/// The state folder in which the agent of `config` last kept its published files. `None` means that
/// it is that of `"auto"`, or not known.
pub fn read(config: &Path) -> Option<PathBuf> {
    let auto = StateDir::look(&StateSetting::Auto, config).ok()?;
    let bytes = auto.read(FILE, MAX_BYTES).inspect_err(|error| {
        let file = auto.path(FILE);
        tracing::warn!(place = %file.display(), %error, "a note of the state folder is not used");
    });
    let place: PublishedPlace = serde_json::from_slice(&bytes.ok()??).ok()?;
    // Agents with one `$STATE_DIRECTORY` would otherwise serve the files of each other.
    let is_own = place.schema == SCHEMA && Path::new(&place.config) == absolute(config);
    is_own.then(|| PathBuf::from(place.folder))
}

/// Whether a start finds `folder` without `sidegate.toml`, or no note can be made.
pub fn is_current(config: &Path, folder: &StateDir) -> bool {
    let Ok(auto) = StateDir::look(&StateSetting::Auto, config) else { return true };
    let is_auto = auto.folder() == folder.folder();
    is_auto || read(config).is_some_and(|known| known == absolute(folder.folder()))
}

/// Notes that the agent of `config` keeps its published files in `folder`. `None` means that it
/// keeps none.
pub fn write(config: &Path, folder: Option<&StateDir>) {
    // A note that cannot be written costs nothing while the saved file names the folder.
    let Ok(auto) = StateDir::look(&StateSetting::Auto, config) else { return };
    let noted = match folder.filter(|folder| folder.folder() != auto.folder()) {
        None => auto.remove(FILE),
        Some(folder) if is_current(config, folder) => Ok(()),
        Some(folder) => match place(config, folder) {
            Some(place) => auto.write(FILE, &place),
            None => auto.remove(FILE),
        },
    };
    if let Err(error) = noted {
        tracing::debug!(%error, "the state folder is not noted");
    }
}

/// The contents of the file. `None` means that a path is not UTF-8.
fn place(config: &Path, folder: &StateDir) -> Option<Vec<u8>> {
    let text = |path: PathBuf| path.to_str().map(str::to_owned);
    let (config, folder) = (text(absolute(config))?, text(absolute(folder.folder()))?);
    serde_json::to_vec(&PublishedPlace { schema: SCHEMA, config, folder }).ok()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

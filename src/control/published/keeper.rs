//! Reads the file of the last publish at a start, and replaces it at each publish.
//!
//! A write that fails or hangs delays no publish for long; `fault` says what a restart would do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::control::config::fs_executor::{FsCallError, FsExecutor};
use crate::control::config::named_state;
use crate::control::published::file::{MAX_BYTES, PublishedState};
use crate::control::state_dir::StateDir;

/// Name of the file in the state folder.
const FILE: &str = "published";

/// What a start found of the last publish.
#[derive(Debug, Clone)]
pub struct KeptState {
    /// The folder of the file. The error says why there is none.
    pub folder: Result<StateDir, String>,
    /// The state. `None` means that there is none, or that it cannot be used.
    pub state: Option<PublishedState>,
    /// What was wrong with the file. `None` means nothing.
    pub damage: Option<String>,
}

impl KeptState {
    /// Reads the file in the state folder of `config`. A damaged file is set aside.
    pub fn read(config: &Path) -> KeptState {
        let folder = StateDir::find(&named_state(config), config);
        // Without a folder nothing was kept, which the first publish reports.
        let read = folder.as_ref().map_or(Ok(None), |folder| read(folder, config));
        let damage = read.as_ref().err().cloned();
        KeptState { folder, state: read.unwrap_or_default(), damage }
    }

    /// Whether the next start of `config` serves kept files instead of the saved ones.
    pub fn is_served(config: &Path) -> bool {
        let folder = StateDir::unclaimed(&named_state(config), config).ok();
        let bytes = folder.and_then(|folder| folder.read(FILE, MAX_BYTES).ok().flatten());
        let state = bytes.and_then(|bytes| PublishedState::decode(bytes).ok());
        state.is_some_and(|state| state.config == config && state.held.is_some())
    }

    /// Keeps in the same folder from now on.
    pub fn into_keeper(self, config: &Path) -> PublishedKeeper {
        let empty =
            || PublishedState { config: config.to_owned(), overrides: Arc::default(), held: None };
        let kept = Some(self.state.unwrap_or_else(empty));
        PublishedKeeper { folder: self.folder, kept, fault: None, is_writing: Arc::default() }
    }
}

/// Reads the file of `config`. The error says what was wrong with it, and where it is now.
fn read(folder: &StateDir, config: &Path) -> Result<Option<PublishedState>, String> {
    let path = folder.path(FILE);
    let fault = match folder.read(FILE, MAX_BYTES) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match PublishedState::decode(bytes) {
            Ok(state) if state.config == config => return Ok(Some(state)),
            // Not damaged: the unit may have got another `--config`.
            Ok(state) => {
                let other = state.config.display();
                return Err(format!("{} is of {other}: it is not used", path.display()));
            }
            Err(fault) => format!("is damaged ({fault})"),
        },
        Err(error) => format!("cannot be read ({error})"),
    };
    let moved = folder.set_aside_sentence(FILE);
    Err(format!("{} {fault}; {moved}", path.display()))
}

/// Keeps the state of the last publish.
#[derive(Debug)]
pub struct PublishedKeeper {
    /// The folder of the file. The error says why there is none.
    folder: Result<StateDir, String>,
    /// The state that the file has. `None` means not known.
    kept: Option<PublishedState>,
    /// Why the last write failed. `None` means that the file has the state in force.
    fault: Option<String>,
    /// Whether a write has not returned yet.
    is_writing: Arc<AtomicBool>,
}

impl PublishedKeeper {
    /// The folder of the file. The error says why there is none.
    pub const fn folder(&self) -> &Result<StateDir, String> {
        &self.folder
    }

    /// Why a restart would not find the state in force. `None` means that it would.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Prepares to keep `state`. `None` means that the file has it already.
    pub fn write(&self, state: PublishedState) -> Option<PendingWrite> {
        // An unknown file may have anything: it is replaced, or removed.
        if self.kept.as_ref() == Some(&state) && self.fault.is_none() {
            return None;
        }
        let (folder, is_writing) = (self.folder.clone(), Arc::clone(&self.is_writing));
        Some(PendingWrite { state, folder, is_writing })
    }

    /// Notes how a write has ended, and logs a new fault.
    pub fn note(&mut self, written: Result<PublishedState, String>) {
        match written {
            Ok(state) => (self.kept, self.fault) = (Some(state), None),
            Err(fault) => {
                // A fault that lasts is logged once, though each retry meets it.
                if self.fault.as_ref() != Some(&fault) {
                    tracing::error!("the published files are not kept over a restart: {fault}");
                }
                (self.kept, self.fault) = (None, Some(fault));
            }
        }
    }
}

/// A write that is to be carried out on a thread that may block.
pub struct PendingWrite {
    state: PublishedState,
    folder: Result<StateDir, String>,
    is_writing: Arc<AtomicBool>,
}

impl PendingWrite {
    /// Writes with the deadlines of `executor`, and returns the state once it is kept.
    ///
    /// # Errors
    /// A sentence that says why it is not kept.
    pub fn run(self, executor: &FsExecutor) -> Result<PublishedState, String> {
        let PendingWrite { state, folder, is_writing } = self;
        let folder = match folder {
            Ok(folder) => folder,
            // Without a folder there is no file either.
            Err(_) if state.is_empty() => return Ok(state),
            Err(why) => return Err(why),
        };
        // One writer at a time: a write that hangs and ends late would replace a newer file.
        if is_writing.swap(true, Ordering::SeqCst) {
            return Err("an earlier write has not returned".into());
        }
        let ended = Arc::clone(&is_writing);
        let write = move || {
            let written = write(&folder, &state);
            ended.store(false, Ordering::SeqCst);
            written.map(|()| state)
        };
        match executor.run(&mut executor.new_budget(), |_| write()) {
            Ok(written) => written.map_err(|fault| format!("{FILE} cannot be written: {fault}")),
            // The call goes on, and clears the flag when it returns.
            Err(FsCallError::Stuck) => Err("the file system does not answer".into()),
            Err(FsCallError::TooManyStuck) => {
                // The write has not begun.
                is_writing.store(false, Ordering::SeqCst);
                Err("the file system does not answer".into())
            }
        }
    }
}

fn write(folder: &StateDir, state: &PublishedState) -> Result<(), String> {
    if state.is_empty() {
        return folder.remove(FILE).map_err(|error| error.to_string());
    }
    let bytes = state.encode().map_err(|fault| fault.to_string())?;
    folder.write(FILE, &bytes).map_err(|error| error.to_string())
}

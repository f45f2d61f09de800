//! Reads the file of the last publish at a start, and replaces it at each publish.
//!
//! A write that fails or hangs delays no publish for long; `fault` says what a restart would do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::fs_executor::{FsCallError, FsExecutor};
use crate::control::config::{StateSetting, named_state};
use crate::control::published::file::{MAX_BYTES, PublishedState};
use crate::control::published::pointer;
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
    /// Whether the last process has noted the folder.
    is_noted: bool,
    /// Whether it is known which folder is meant.
    is_known: bool,
}

impl KeptState {
    /// Reads the file in the state folder of the last process, or else of the saved `config`. A
    /// damaged file is set aside.
    pub fn read(config: &Path) -> KeptState {
        // The saved setting counts only once it is published, and may be unreadable.
        let (noted, named) = (pointer::read(config), named_state(config));
        let is_noted = noted.is_some();
        // Where a note can be made and is not, the folder is that of "auto".
        let is_known =
            is_noted || named.is_some() || StateDir::look(&StateSetting::Auto, config).is_ok();
        let setting = noted.map(StateSetting::Path).or(named).unwrap_or(StateSetting::Auto);
        let folder = StateDir::find(&setting, config);
        // Without a folder nothing was kept, which the first publish reports.
        let read = folder.as_ref().map_or(Ok(None), |folder| read(folder, config));
        let damage = read.as_ref().err().cloned();
        let damage = damage.or_else(|| StateDir::distrust(&setting, config));
        KeptState { folder, state: read.unwrap_or_default(), damage, is_noted, is_known }
    }

    /// Whether the next start of `config` serves kept files instead of the saved ones.
    pub fn is_served(config: &Path) -> bool {
        let setting = pointer::read(config).map(StateSetting::Path).or(named_state(config));
        let folder = StateDir::look(&setting.unwrap_or(StateSetting::Auto), config).ok();
        let bytes = folder.and_then(|folder| folder.read(FILE, MAX_BYTES).ok().flatten());
        let state = bytes.and_then(|bytes| PublishedState::decode(bytes).ok()?.spelled(config));
        let held = state.and_then(|state| state.held);
        held.is_some_and(|held| held.is_ordered())
    }

    /// Whether saved files count only after an order.
    pub fn is_ordered(&self) -> bool {
        let held = self.state.as_ref().and_then(|state| state.held.as_ref());
        held.is_some_and(|held| held.is_ordered())
    }

    /// Why saved files that need an order would run without one. `None` means that this is the
    /// first start, or that nothing can be kept at all, which each publish reports.
    pub fn unordered(&self) -> Option<Arc<str>> {
        let now = Timestamp::now();
        let why = match (&self.damage, &self.folder) {
            (Some(damage), _) => format!("{damage} (at the start of {now})"),
            (None, Ok(folder)) if self.is_noted || folder.was_used() => {
                let path = folder.path(FILE);
                format!("the start of {now} found no published files at {}", path.display())
            }
            (None, Err(why)) if self.is_noted => format!("{why} (at the start of {now})"),
            _ => return None,
        };
        Some(why.into())
    }

    /// The errors of a start that found no kept texts. Says so where they may be in another folder.
    pub fn not_found(&self, config: &Path, errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
        if self.is_known {
            return errors;
        }
        let fault = "does not say where the published files are, so that none are served";
        let remedy = "repair [process] state, or the whole file: published files count before it";
        let own = Diagnostic::for_file(config, fault.into(), Some(remedy.into()));
        errors.into_iter().chain([own]).collect()
    }

    /// The errors of a start that can serve neither the kept texts with the files nor without them.
    pub fn unusable(&self, errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let Ok(folder) = &self.folder else { return errors };
        let fault =
            "these published files cannot be served, and saved ones count only after an order";
        let remedy = "mend the files above, whose published texts count. Or, to serve the saved \
                      files as they are: move this file away, start, and check what runs";
        let own = Diagnostic::for_file(&folder.path(FILE), fault.into(), Some(remedy.into()));
        errors.into_iter().chain([own]).collect()
    }

    /// Keeps in the folder of `setting` from now on.
    pub fn into_keeper(self, setting: &StateSetting, config: &Path) -> PublishedKeeper {
        let folder = StateDir::find_again(setting, config, &self.folder);
        let place = |folder: &Result<StateDir, String>| {
            folder.as_ref().ok().map(|folder| folder.folder().to_owned())
        };
        // The published texts may name another folder than the one in which they were found.
        let has_moved = place(&folder) != place(&self.folder);
        let state = self.state.unwrap_or_else(|| PublishedState::new(config));
        // A kill may have come between the file and its note: both are then written again.
        let is_noted = state.is_empty()
            || folder.as_ref().map_or(true, |folder| pointer::is_current(config, folder));
        PublishedKeeper {
            former: self.folder.ok().filter(|_| has_moved),
            folder,
            kept: (!has_moved && is_noted).then(|| state.absolute()),
            fault: None,
            is_writing: Arc::default(),
        }
    }
}

/// Reads the file of `config`. The error says what was wrong with it, and where it is now.
fn read(folder: &StateDir, config: &Path) -> Result<Option<PublishedState>, String> {
    let path = folder.path(FILE);
    let fault = match folder.read(FILE, MAX_BYTES) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match PublishedState::decode(bytes) {
            Ok(state) => {
                let other = state.config.clone();
                // Not damaged: the unit may have got another `--config`.
                return state.spelled(config).map(Some).ok_or_else(|| {
                    format!("{} is of {}: it is not used", path.display(), other.display())
                });
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
    /// Another folder, which the last process used. `None` means that there is none.
    former: Option<StateDir>,
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
        let state = state.absolute();
        // An unknown file may have anything: it is replaced, or removed.
        if self.kept.as_ref() == Some(&state) && self.fault.is_none() {
            return None;
        }
        let (folder, former) = (self.folder.clone(), self.former.clone());
        Some(PendingWrite { state, folder, former, is_writing: Arc::clone(&self.is_writing) })
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
    former: Option<StateDir>,
    is_writing: Arc<AtomicBool>,
}

impl PendingWrite {
    /// Writes with the deadlines of `executor`, and returns the state once it is kept.
    ///
    /// # Errors
    /// A sentence that says why it is not kept.
    pub fn run(self, executor: &FsExecutor) -> Result<PublishedState, String> {
        let PendingWrite { state, folder, former, is_writing } = self;
        // Without a folder there is no file either.
        if folder.is_err() && former.is_none() && state.is_empty() {
            return Ok(state);
        }
        // One writer at a time: a write that hangs and ends late would replace a newer file.
        if is_writing.swap(true, Ordering::SeqCst) {
            return Err("an earlier write has not returned".into());
        }
        let ended = Arc::clone(&is_writing);
        let write = move || {
            let written = write(folder.as_ref(), former.as_ref(), &state);
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

/// Writes `state` into `folder`, and removes what the `former` folder has, which a later start
/// might take for the last publish.
fn write(
    folder: Result<&StateDir, &String>,
    former: Option<&StateDir>,
    state: &PublishedState,
) -> Result<(), String> {
    // The new file first: a kill in between leaves the former one, which the note still names.
    let written = match folder {
        Ok(folder) if state.is_empty() => folder.remove(FILE).map_err(|error| error.to_string()),
        Ok(folder) => state
            .encode()
            .map_err(|fault| fault.to_string())
            .and_then(|bytes| folder.write(FILE, &bytes).map_err(|error| error.to_string())),
        Err(_) if state.is_empty() => Ok(()),
        Err(why) => Err(why.clone()),
    };
    if written.is_ok() || folder.is_err() {
        pointer::write(&state.config, folder.ok().filter(|_| !state.is_empty()));
        former.map_or(Ok(()), |former| former.remove(FILE)).map_err(|error| error.to_string())?;
    }
    written
}

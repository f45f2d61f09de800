//! The first generation: made like every other, except that no running generation can be kept.

use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;

use crate::control::compile::{CompiledGeneration, build, fresh_tickets};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::fs_executor::FsExecutor;
use crate::control::config::overlay::Overlay;
use crate::control::config::source::{Digest, Digests, Files};
use crate::control::config::{self, ListFileCache, LoadOptions};
use crate::control::overrides::Overrides;
use crate::control::published::{KeptState, PublishedKeeper};
use crate::control::reload::config_status::{ConfigStatus, HoldStatus, ListFileStatus};
use crate::control::reload::held::HeldFiles;
use crate::control::state_dir::StateDir;
use crate::control::systemd::sockets::PassedSockets;
use crate::control::watch::WatchSet;
use crate::snapshot::Snapshot;
use crate::snapshot::tls::TicketKeys;

/// The first generation, and the values from which the next one is made.
pub struct FirstGeneration {
    /// The snapshot of the first generation.
    pub snapshot: Snapshot,
    /// Settings and warnings of the first generation.
    pub config_status: Arc<ConfigStatus>,
    tickets: TicketKeys,
    digest: Digest,
    digests: Digests,
    known: ListFileCache,
    executor: FsExecutor,
    watch_set: WatchSet,
    held: HeldFiles,
    keeper: PublishedKeeper,
}

/// Loads and compiles the first generation; `passed` are the sockets from systemd. Texts that were
/// held when the last process ended take the place of the saved ones.
///
/// # Errors
/// Every error in the files.
pub fn start(config: &Path, passed: &PassedSockets) -> Result<FirstGeneration, Vec<Diagnostic>> {
    let mut kept = KeptState::read(config);
    let lost = "no overrides are in force, and the saved files are served";
    kept.damage = kept.damage.map(|damage| format!("{damage}; {lost}"));
    if let Some(held) = kept.state.as_ref().and_then(|state| state.held.clone()) {
        match first(config, passed, held, kept.clone()) {
            Ok(started) => {
                tracing::info!("the published files are served: [reload] watch is \"hold\"");
                return Ok(started);
            }
            // A version of sidegate may refuse what an earlier one accepted. An agent that is down
            // enforces no policy at all, and the saved files have to pass every check as well.
            Err(errors) => {
                for error in errors.iter().filter(|error| error.is_error()) {
                    tracing::error!(place = error.place(), "{}", error.message);
                }
                let fault = errors.iter().find(|one| one.is_error()).map(Diagnostic::one_line);
                let fault = fault.unwrap_or_default();
                let what = "the kept files cannot be served, and the saved ones are";
                kept.damage = Some(format!("{what}: {fault}"));
            }
        }
    }
    if let Some(damage) = &kept.damage {
        tracing::error!("{damage}");
    }
    first(config, passed, Arc::default(), kept)
}

/// The first generation with the texts of `overlay` in place of files.
fn first(
    config: &Path,
    passed: &PassedSockets,
    overlay: Arc<Overlay>,
    kept: KeptState,
) -> Result<FirstGeneration, Vec<Diagnostic>> {
    let executor = FsExecutor::default();
    let options = LoadOptions { passed: Some(passed), ..LoadOptions::default() };
    let files = || Files::with_executor(executor.clone()).with_overlay(Arc::clone(&overlay));
    let (files, loaded) = config::load_settled(files, config, options);
    let mut loaded = loaded?;
    let known = std::mem::take(&mut loaded.lists);
    // Made once, and passed to every later generation: a reload must not end the clients' sessions.
    let tickets = fresh_tickets(config)?;
    let (digest, digests) = (files.digest(), files.digests());
    let overrides = kept.state.as_ref().map(|state| Arc::clone(&state.overrides));
    let overrides = Overrides::in_force(overrides.unwrap_or_default());
    let built = build(loaded, config, &digest.to_string(), None, &tickets, &overrides)?;
    let texts = HeldFiles::texts_of(&built.settings, &files);
    let (snapshot, config_status) = into_status(built, &kept);
    let watch_set = WatchSet::for_files(files.paths(), files.folders());
    Ok(FirstGeneration {
        snapshot,
        config_status: Arc::new(config_status),
        tickets,
        digest,
        digests,
        known,
        executor,
        watch_set,
        held: HeldFiles { texts, ..HeldFiles::default() },
        keeper: kept.into_keeper(config),
    })
}

/// The snapshot of `built`, and the state of its files.
fn into_status(built: CompiledGeneration, kept: &KeptState) -> (Snapshot, ConfigStatus) {
    let lists = ListFileStatus::of_guards(&built.guards);
    // Only failed tests count: an override whose test passes by now has ended.
    let hold = HoldStatus {
        overrides: ArcSwap::from_pointee(built.overridden),
        damage: ArcSwapOption::from(kept.damage.clone().map(Arc::new)),
        ..HoldStatus::default()
    };
    let config_status = ConfigStatus {
        settings: ArcSwap::from_pointee(built.settings),
        rejected: ArcSwapOption::empty(),
        warnings: ArcSwap::from_pointee(built.warnings),
        since: ArcSwap::from_pointee(Timestamp::now()),
        last: ArcSwapOption::empty(),
        lists: ArcSwap::from_pointee(lists),
        unwatched: ArcSwapOption::empty(),
        allow_tests: ArcSwap::from_pointee(built.allow_tests),
        guards: ArcSwap::from_pointee(built.guards),
        hold,
    };
    (built.snapshot, config_status)
}

/// Values of the first generation that the reloading task takes over.
pub struct ReloaderParts {
    pub(super) tickets: TicketKeys,
    pub(super) digest: Digest,
    pub(super) digests: Digests,
    pub(super) known: ListFileCache,
    pub(super) executor: FsExecutor,
    pub(super) watch_set: WatchSet,
    pub(super) held: HeldFiles,
    pub(super) keeper: PublishedKeeper,
}

impl ReloaderParts {
    /// The folder of the published files. The error says why there is none.
    pub const fn folder(&self) -> &Result<StateDir, String> {
        self.keeper.folder()
    }
}

impl FirstGeneration {
    /// The snapshot to run, the state of the files, and the values for the reloader.
    pub fn into_parts(self) -> (Snapshot, Arc<ConfigStatus>, ReloaderParts) {
        let FirstGeneration {
            snapshot,
            config_status,
            tickets,
            digest,
            digests,
            known,
            executor,
            watch_set,
            held,
            keeper,
        } = self;
        (
            snapshot,
            config_status,
            ReloaderParts { tickets, digest, digests, known, executor, watch_set, held, keeper },
        )
    }
}

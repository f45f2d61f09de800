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
use crate::control::config::{self, ListFileCache, LoadOptions, WatchMode};
use crate::control::overrides::Overrides;
use crate::control::published::{KeptState, PublishedKeeper, PublishedState};
use crate::control::reload::config_status::{ConfigStatus, HoldStatus, ListFileStatus};
use crate::control::reload::held::{HeldFiles, unordered_sentence};
use crate::control::reload::prepare::RunningState;
use crate::control::reload::request::{AcceptedEffects, COMMAND};
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

/// A generation that may become the first one.
struct Candidate {
    built: CompiledGeneration,
    files: Files,
    known: ListFileCache,
    tickets: TicketKeys,
}

/// Loads and compiles the first generation; `passed` are the sockets from systemd. What the last
/// process had published runs on where the saved files may not replace it yet.
///
/// # Errors
/// Every error in the files.
pub fn start(config: &Path, passed: &PassedSockets) -> Result<FirstGeneration, Vec<Diagnostic>> {
    let kept = KeptState::read(config);
    let overrides = kept.state.as_ref().map(|state| Arc::clone(&state.overrides));
    let executor = FsExecutor::default();
    let load = |overlay| {
        let overrides = Overrides::in_force(overrides.clone().unwrap_or_default());
        load(config, passed, files_with(&executor, overlay), &overrides)
    };
    let Some(held) = kept.state.as_ref().and_then(|state| state.held.clone()) else {
        let first = load(Overlay::default()).map_err(|errors| kept.not_found(config, errors))?;
        return Ok(first.without_kept(config, kept, executor));
    };
    // With an order, a save counts only later: its texts come from memory.
    let next = load(if held.is_ordered() { held.refreshed() } else { Overlay::default() });
    let next = match next {
        Ok(next) if !next.differs_from(&held) => {
            return Ok(next.into_first(config, kept, executor));
        }
        next => next,
    };
    // A certificate that was renewed meanwhile has a key that its former chain does not fit.
    let former = load(held.with_spares(false));
    let former = former.or_else(|errors| load(held.with_spares(true)).map_err(|_| errors));
    let (chosen, looks_again) = choose(config, &kept, next, former)?;
    let mut first = chosen.into_first(config, kept, executor);
    first.held.looks_again = looks_again;
    Ok(first)
}

/// Chooses between the `next` generation, of the files, and the `former` one, as it was kept. The
/// second value says that the files still have to be reported.
fn choose(
    config: &Path,
    kept: &KeptState,
    next: Result<Candidate, Vec<Diagnostic>>,
    former: Result<Candidate, Vec<Diagnostic>>,
) -> Result<(Candidate, bool), Vec<Diagnostic>> {
    let is_ordered = kept.is_ordered();
    // A restart is no order: it may not publish what a reload would have rejected.
    match (next, former) {
        (Ok(next), Ok(mut former)) => {
            let broken = former.bounds_broken_by(&next, config);
            if broken.is_empty() {
                return Ok((next, false));
            }
            tracing::error!(
                "the saved files may not replace the published ones, which are served: {}",
                first_error(&broken)
            );
            Ok((former, true))
        }
        (Ok(next), Err(errors)) => {
            // With an order the texts are the kept ones either way. Without one, a save needs none.
            tracing::warn!(
                "the published files cannot be compared with the saved ones: {}",
                first_error(&errors)
            );
            Ok((next, false))
        }
        (Err(errors), Ok(former)) if is_ordered => {
            tracing::error!(
                "a file that is never held has an error, and its last good contents are served: {}",
                first_error(&errors)
            );
            Ok((former, true))
        }
        // Most often a key that is gone. The saved files were held back, and stay so.
        (Err(errors), Err(_)) if is_ordered => Err(kept.unusable(errors)),
        (Err(errors), _) => Err(errors),
    }
}

/// The first error of `errors`, in one line.
fn first_error(errors: &[Diagnostic]) -> String {
    errors.iter().find(|one| one.is_error()).map(Diagnostic::one_line).unwrap_or_default()
}

/// Makes files of which `executor` reads all that `overlay` has no text of.
fn files_with(executor: &FsExecutor, overlay: Overlay) -> impl Fn() -> Files {
    let overlay = Arc::new(overlay);
    move || Files::with_executor(executor.clone()).with_overlay(Arc::clone(&overlay))
}

/// Loads and compiles a generation from `files`.
fn load(
    config: &Path,
    passed: &PassedSockets,
    files: impl Fn() -> Files,
    overrides: &Overrides,
) -> Result<Candidate, Vec<Diagnostic>> {
    let options = LoadOptions { passed: Some(passed), ..LoadOptions::default() };
    let (files, loaded) = config::load_settled(files, config, options);
    let mut loaded = loaded?;
    let known = std::mem::take(&mut loaded.lists);
    // Made once, and passed to every later generation: a reload must not end the clients' sessions.
    let tickets = fresh_tickets(config)?;
    let digest = files.digest().to_string();
    let built = build(loaded, config, &digest, None, &tickets, overrides)?;
    Ok(Candidate { built, files, known, tickets })
}

impl Candidate {
    /// Whether its files differ from the kept ones, as far as these can be known.
    fn differs_from(&self, held: &Overlay) -> bool {
        self.files.spares_differ(held) || !self.files.texts_differing(held, true).is_empty()
    }

    /// The reasons why `next` would not be published while this one runs.
    fn bounds_broken_by(&mut self, next: &Candidate, config: &Path) -> Vec<Diagnostic> {
        // Lent to the comparison, which shares them as a running generation does.
        let guards = Arc::new(std::mem::take(&mut self.built.guards));
        let state = RunningState {
            config,
            before: &self.built.snapshot,
            files: &self.files.digests(),
            settings: &self.built.settings,
            tickets: &self.tickets,
            tunnels: None,
            guards: Arc::clone(&guards),
            overrides: Overrides::default(),
            command: COMMAND.to_owned(),
        };
        let impact = state.assess_bounds(&next.built, &next.files, &AcceptedEffects::default());
        // The last other reference, so that the guards come back.
        drop(state);
        self.built.guards = Arc::into_inner(guards).unwrap_or_default();
        impact.held
    }

    /// The first generation of a start that found no kept texts.
    fn without_kept(
        self,
        config: &Path,
        mut kept: KeptState,
        executor: FsExecutor,
    ) -> FirstGeneration {
        let holds = self.built.settings.reload.watch == WatchMode::Hold;
        if let Some(why) = kept.unordered().filter(|_| holds) {
            kept.state.get_or_insert_with(|| PublishedState::new(config)).unordered = Some(why);
        }
        if let Some(damage) = &mut kept.damage {
            damage.push_str("; no overrides are in force, and the saved files are served");
            tracing::error!("{damage}");
        }
        self.into_first(config, kept, executor)
    }

    fn into_first(self, config: &Path, kept: KeptState, executor: FsExecutor) -> FirstGeneration {
        let Candidate { built, files, known, tickets } = self;
        let texts = HeldFiles::texts_of(&built, &files);
        let unordered = kept.state.as_ref().and_then(|state| state.unordered.clone());
        if built.settings.reload.watch == WatchMode::Hold && kept.is_ordered() {
            tracing::info!("the published files are served: [reload] watch is \"hold\"");
        }
        if let Some(why) = &unordered {
            tracing::warn!("{}", unordered_sentence(why));
        }
        let keeper = kept.clone().into_keeper(&built.settings.process.state, config);
        let (snapshot, config_status) = into_status(built, &kept);
        FirstGeneration {
            snapshot,
            config_status: Arc::new(config_status),
            tickets,
            digest: files.digest(),
            digests: files.digests(),
            known,
            executor,
            watch_set: WatchSet::for_files(files.paths(), files.folders()),
            held: HeldFiles { texts, unordered, ..HeldFiles::default() },
            keeper,
        }
    }
}

/// The snapshot of `built`, and the state of its files.
fn into_status(built: CompiledGeneration, kept: &KeptState) -> (Snapshot, ConfigStatus) {
    let lists = ListFileStatus::of_guards(&built.guards);
    // Only failed tests count: an override whose test passes by now has ended.
    let unordered = kept.state.as_ref().and_then(|state| state.unordered.as_deref());
    let hold = HoldStatus {
        overrides: ArcSwap::from_pointee(built.overridden),
        damage: ArcSwapOption::from(kept.damage.clone().map(Arc::new)),
        unordered: ArcSwapOption::from(unordered.map(|why| Arc::new(unordered_sentence(why)))),
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

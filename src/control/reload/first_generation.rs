//! The first generation: made like every other, except that no running generation can be kept.

use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;

use crate::control::compile::{CompiledGeneration, build, fresh_tickets};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::fs_executor::FsExecutor;
use crate::control::config::source::{Digest, Digests, Files};
use crate::control::config::{self, ListFileCache, LoadOptions};
use crate::control::reload::config_status::{ConfigStatus, ListFileStatus};
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
}

/// Loads and compiles the first generation; `passed` are the sockets from systemd.
///
/// # Errors
/// Every error in the files.
pub fn start(config: &Path, passed: &PassedSockets) -> Result<FirstGeneration, Vec<Diagnostic>> {
    let executor = FsExecutor::default();
    let options = LoadOptions { passed: Some(passed), ..LoadOptions::default() };
    let files = || Files::with_executor(executor.clone());
    let (files, loaded) = config::load_settled(files, config, options);
    let mut loaded = loaded?;
    let known = std::mem::take(&mut loaded.lists);
    // Made once, and passed to every later generation: a reload must not end the clients' sessions.
    let tickets = fresh_tickets(config)?;
    let (digest, digests) = (files.digest(), files.digests());
    let CompiledGeneration { snapshot, settings, warnings, feeds, dropped_tests: _, allow_tests } =
        build(loaded, config, &digest.to_string(), None, &tickets)?;
    let config_status = ConfigStatus {
        settings: ArcSwap::from_pointee(settings),
        rejected: ArcSwapOption::empty(),
        warnings: ArcSwap::from_pointee(warnings),
        since: ArcSwap::from_pointee(Timestamp::now()),
        last: ArcSwapOption::empty(),
        lists: ArcSwap::from_pointee(ListFileStatus::all(
            feeds.iter().map(|(policy, feed)| (policy, feed)),
        )),
        unwatched: ArcSwapOption::empty(),
        allow_tests: ArcSwap::from_pointee(allow_tests),
    };
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
    })
}

/// Values of the first generation that the reloading task takes over.
pub struct ReloaderParts {
    pub(super) tickets: TicketKeys,
    pub(super) digest: Digest,
    pub(super) digests: Digests,
    pub(super) known: ListFileCache,
    pub(super) executor: FsExecutor,
    pub(super) watch_set: WatchSet,
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
        } = self;
        (
            snapshot,
            config_status,
            ReloaderParts { tickets, digest, digests, known, executor, watch_set },
        )
    }
}

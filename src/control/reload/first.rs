//! The first generation: made like every other, except that no running generation can be kept.

use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;

use crate::control::compile::{Built, build, fresh_tickets};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::readers::Readers;
use crate::control::config::source::{Digest, Digests, Files};
use crate::control::config::{self, ListFiles};
use crate::control::reload::standing::{ListFile, Standing};
use crate::control::systemd::sockets::Sockets;
use crate::control::watch::Ways;
use crate::snapshot::Snapshot;
use crate::snapshot::tls::Tickets;

/// The first generation, and the values from which the next one is made.
pub struct Started {
    /// The snapshot of the first generation.
    pub snapshot: Snapshot,
    /// Settings and warnings of the first generation.
    pub standing: Arc<Standing>,
    tickets: Tickets,
    digest: Digest,
    digests: Digests,
    known: ListFiles,
    readers: Readers,
    ways: Ways,
}

/// Loads and compiles the first generation; `passed` are the sockets from systemd.
///
/// # Errors
/// Every error in the files.
pub fn start(config: &Path, passed: &Sockets) -> Result<Started, Vec<Diagnostic>> {
    let readers = Readers::default();
    let mut files = Files::reading_by(readers.clone());
    let mut loaded = config::load(&mut files, config, Some(passed))?;
    let known = std::mem::take(&mut loaded.lists);
    let tickets = fresh_tickets(config)?;
    let (digest, digests) = (files.digest(), files.digests());
    let Built { snapshot, settings, warnings, feeds } =
        build(loaded, config, &digest.to_string(), None, &tickets)?;
    let standing = Standing {
        settings: ArcSwap::from_pointee(settings),
        rejected: ArcSwapOption::empty(),
        warnings: ArcSwap::from_pointee(warnings),
        since: ArcSwap::from_pointee(Timestamp::now()),
        last: ArcSwapOption::empty(),
        lists: ArcSwap::from_pointee(ListFile::all(
            feeds.iter().map(|(policy, feed)| (policy, feed)),
        )),
        unwatched: ArcSwapOption::empty(),
    };
    let ways = Ways::to(files.paths(), files.folders());
    Ok(Started {
        snapshot,
        standing: Arc::new(standing),
        tickets,
        digest,
        digests,
        known,
        readers,
        ways,
    })
}

/// Values of the first generation that the reloading task takes over.
pub struct Handover {
    pub(super) tickets: Tickets,
    pub(super) digest: Digest,
    pub(super) digests: Digests,
    pub(super) known: ListFiles,
    pub(super) readers: Readers,
    pub(super) ways: Ways,
}

impl Started {
    /// The snapshot to run, the state of the files, and the values for the reloader.
    pub fn into_parts(self) -> (Snapshot, Arc<Standing>, Handover) {
        let Started { snapshot, standing, tickets, digest, digests, known, readers, ways } = self;
        (snapshot, standing, Handover { tickets, digest, digests, known, readers, ways })
    }
}

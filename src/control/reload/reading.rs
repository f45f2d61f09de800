//! From the files to values: read until they agree, and watched from then on.
//!
//! It says what they hold, and decides nothing about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Cause, Reloader};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::Files;
use crate::control::config::{self, Loaded, Pass};
use crate::control::watch::Ways;

/// How long the two reads of a saved change are apart.
const APART: Duration = Duration::from_millis(50);

/// How long files may keep changing before the reload is given up.
const RESTLESS: Duration = Duration::from_secs(10);

/// How long a certificate and a key that are no pair may be taken for one that is being renewed.
const RENEWAL: Duration = Duration::from_secs(5);

impl Reloader {
    /// Reads and loads: once if somebody asked, who has finished writing; else twice, apart, until
    /// nobody is writing. `None`: somebody never finishes.
    pub(super) async fn read(&self, cause: Cause) -> Option<(Files, Result<Loaded, Vec<Diagnostic>>)> {
        let began = Instant::now();
        if matches!(cause, Cause::Asked | Cause::Signal) {
            return self.load(None).await;
        }
        while began.elapsed() < RESTLESS {
            let (files, loaded) = self.load(None).await?;
            if cause == Cause::Poll && self.tried == Some(files.digest()) {
                return Some((files, loaded));
            }
            sleep(APART).await;
            let (unchanged, files) = self.apart.run(move || (files.unchanged(), files)).await?;
            if unchanged {
                return Some((files, loaded));
            }
        }
        None
    }

    /// One pass over the files, as if the candidate of the policy `promoted` stood in its place.
    pub(super) async fn load(&self, promoted: Option<String>) -> Option<(Files, Result<Loaded, Vec<Diagnostic>>)> {
        let (config, passed, known) = (self.config.clone(), Arc::clone(&self.passed), Arc::clone(&self.known));
        let readers = self.readers.clone();
        let read = move || {
            let mut files = Files::reading_by(readers);
            let pass = Pass { passed: Some(&passed), promoted: promoted.as_deref(), known: Some(&known) };
            let loaded = config::load_as(&mut files, &config, pass);
            (files, loaded)
        };
        self.apart.run(read).await
    }

    /// Watches what was asked for in this pass; `is_whole`: and nothing of it is missed.
    pub(super) async fn watch(&mut self, files: &Files, is_whole: bool) {
        if files.is_late() {
            // A look at the folders would be late as well. What was watched is watched on.
            return;
        }
        let paths: Vec<_> = files.paths().map(Path::to_owned).collect();
        let folders: Vec<_> = files.folders().map(Path::to_owned).collect();
        let turn = self.watching.turn(self.standing.settings.load().reload.watch);
        let turned = move || {
            let ways = Ways::to(paths.iter().map(PathBuf::as_path), folders.iter().map(PathBuf::as_path));
            turn.to(Ways { gone: ways.gone.filter(|_| !is_whole), ..ways })
        };
        // A folder's file system may not answer any more than a file's.
        let readers = self.readers.clone();
        let turned = self.apart.run(move || readers.run(&mut readers.pass(), |_| turned()).ok());
        self.watching.turned(turned.await.flatten());
        self.watching.found(files.mend_silently());
        self.tell_watch();
    }

    /// Says whether the files are watched, to everybody who asks.
    pub(super) fn tell_watch(&self) {
        let trouble = self.watching.trouble();
        self.metrics.watch_degraded(trouble.is_some());
        self.standing.unwatched.store(trouble.map(|why| Arc::new(why.to_owned())));
    }

    /// Whether a certificate whose key is another one's is taken for half of a renewal, the other half of which comes.
    pub(super) fn awaits_the_other(&mut self, cause: Cause, errors: &[Diagnostic]) -> bool {
        // Who asks has finished writing.
        if !matches!(cause, Cause::Saved | Cause::Poll) || self.half.is_some_and(|since| since.elapsed() >= RENEWAL) {
            return false;
        }
        if self.half.is_none() {
            for error in errors.iter().filter(|error| error.is_error()) {
                tracing::info!(
                    place = error.place(),
                    "{}: if it is being renewed, the other file comes; what runs is kept",
                    error.message
                );
            }
        }
        self.half.get_or_insert_with(Instant::now);
        self.tried = None;
        true
    }
}

/// Waits until half a renewal has been one for too long.
pub async fn outlast(half: Option<Instant>) {
    match half.map(|since| since + RENEWAL).filter(|until| *until > Instant::now()) {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

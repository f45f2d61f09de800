//! From the files to values: read until two passes agree, and compared with those tried before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::overlay::Overlay;
use crate::control::config::source::{Digest, Files};
use crate::control::config::{self, LoadOptions, LoadedConfig};
use crate::control::reload::config_status::ListFileStatus;
use crate::control::reload::request::Trigger;
use crate::control::reload::task::{AttemptedFiles, ReloadStop, Reloader};
use crate::control::watch::WatchSet;

/// Time between the two passes over a change.
const PASS_INTERVAL: Duration = Duration::from_millis(50);

/// Time after which a reload of files that keep changing is given up.
const UNSTABLE_FILES_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which a certificate and a key that do not match are taken for half of a renewal.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);

/// One pass over the files.
pub(super) struct FilePass {
    pub files: Files,
    pub loaded: Result<LoadedConfig, Vec<Diagnostic>>,
}

impl Reloader {
    /// Reads and loads the files: once for a request, whose sender has finished writing; else until
    /// two passes agree, so that a file is not read while it is written.
    /// The texts of `overlay` take the place of files. `tried` is the digest of files that need no
    /// second pass when a poll finds them.
    pub(super) async fn read(
        &self,
        trigger: Trigger,
        overlay: Arc<Overlay>,
        tried: Option<Digest>,
    ) -> Result<FilePass, ReloadStop> {
        let gave_up = || self.rejected("the files keep changing");
        if matches!(trigger, Trigger::Requested | Trigger::Signal) {
            return self.load(None, overlay).await.ok_or_else(gave_up);
        }
        let began = Instant::now();
        while began.elapsed() < UNSTABLE_FILES_TIMEOUT {
            let pass = self.load(None, Arc::clone(&overlay)).await;
            let FilePass { files, loaded } = pass.ok_or_else(gave_up)?;
            if trigger == Trigger::Poll && tried == Some(files.digest()) {
                return Ok(FilePass { files, loaded });
            }
            sleep(PASS_INTERVAL).await;
            // Sizes, times and bytes are compared: a second parse would cost more and find no more.
            let compared = self.worker.run(move || (files.unchanged(), files)).await;
            let (is_unchanged, files) = compared.ok_or_else(gave_up)?;
            if is_unchanged {
                return Ok(FilePass { files, loaded });
            }
        }
        Err(gave_up())
    }

    /// Runs one pass over the files and the texts of `overlay`, as if the candidate of the policy
    /// `promoted` had replaced it. `None` means that the pass panicked.
    pub(super) async fn load(
        &self,
        promoted: Option<String>,
        overlay: Arc<Overlay>,
    ) -> Option<FilePass> {
        let (config, passed) = (self.context.config.clone(), Arc::clone(&self.context.passed));
        let (known, executor) = (Arc::clone(&self.known), self.executor.clone());
        let read = move || {
            let files =
                || Files::with_executor(executor.clone()).with_overlay(Arc::clone(&overlay));
            let promoted = promoted.as_deref();
            let options = LoadOptions {
                passed: Some(&passed),
                promoted,
                known: Some(&known),
                rejects_expired_crls: false,
                off_host: false,
                root: None,
            };
            let (files, loaded) = config::load_settled(files, &config, options);
            FilePass { files, loaded }
        };
        self.worker.run(read).await
    }

    /// Compares a pass with what runs and what was tried, and watches the files that it read.
    pub(super) async fn recognise(
        &mut self,
        trigger: Trigger,
        read: FilePass,
    ) -> Result<(Files, LoadedConfig), ReloadStop> {
        // Watched even when the files are invalid: the next save may repair them.
        self.watch(&read.files, read.loaded.is_ok()).await;
        self.compare(trigger, read)
    }

    /// Compares a pass with what runs and what was tried.
    pub(super) fn compare(
        &mut self,
        trigger: Trigger,
        read: FilePass,
    ) -> Result<(Files, LoadedConfig), ReloadStop> {
        let FilePass { files, mut loaded } = read;
        self.report_broken_apply(&files);
        let digest = files.digest();
        let lists = loaded.as_ref().map(|loaded| ListFileStatus::all(loaded.feeds()));
        let lists = lists.unwrap_or_default();
        let is_running = digest == self.running;
        let was_tried = self
            .tried
            .as_ref()
            .is_some_and(|tried| tried.digest == digest && (is_running || tried.lists == lists));
        // Noted before the outcome: rejected files are not tried again by each poll.
        self.tried = Some(AttemptedFiles { digest, lists: lists.clone() });
        if let Ok(loaded) = &mut loaded
            && is_running
        {
            self.report_lists(lists);
            self.report_warnings(loaded);
        }
        if trigger == Trigger::Poll && was_tried {
            return Err(ReloadStop::NoChange);
        }
        let loaded = self.complete(trigger, loaded)?;
        if is_running { Err(ReloadStop::Unchanged) } else { Ok((files, loaded)) }
    }

    /// Returns the values. Errors that may all be half of a certificate renewal end the reload
    /// quietly, until the other half arrives or `RENEWAL_TIMEOUT` passes.
    fn complete(
        &mut self,
        trigger: Trigger,
        loaded: Result<LoadedConfig, Vec<Diagnostic>>,
    ) -> Result<LoadedConfig, ReloadStop> {
        let errors = match loaded {
            Ok(loaded) => {
                self.half = None;
                return Ok(loaded);
            }
            Err(errors) => errors,
        };
        let is_half = errors.iter().filter(|one| one.is_error()).all(Diagnostic::is_half_renewed);
        // Any other error is no renewal, and ends the wait.
        self.half = self.half.filter(|_| is_half);
        let waits = is_half && self.awaits_renewal(trigger, &errors);
        Err(if waits { ReloadStop::NoChange } else { ReloadStop::Rejected(errors) })
    }

    /// Watches the files that a pass read. `is_whole` says that the pass found all it looked for.
    pub(super) async fn watch(&mut self, files: &Files, is_whole: bool) {
        if files.is_late() {
            // Opening the folders would hang as well: the present watches stay.
            return;
        }
        let paths: Vec<_> = files.paths().map(Path::to_owned).collect();
        let folders: Vec<_> = files.folders().map(Path::to_owned).collect();
        // While files are held, the running generation may use files that no saved one names.
        let running: Vec<_> = match self.holds() {
            true => self.running_files.paths().map(Path::to_owned).collect(),
            false => Vec::new(),
        };
        let turn =
            self.watching.reconfigure(self.context.config_status.settings.load().reload.watch);
        let turned = move || {
            let mut watch_set = WatchSet::for_files(
                paths.iter().map(PathBuf::as_path),
                folders.iter().map(PathBuf::as_path),
            );
            watch_set.merge(WatchSet::for_files(running.iter().map(PathBuf::as_path), []));
            turn.apply(WatchSet { gone: watch_set.gone.filter(|_| !is_whole), ..watch_set })
        };
        // The file system of a folder may hang like that of a file.
        let executor = self.executor.clone();
        let turned =
            self.worker.run(move || executor.run(&mut executor.new_budget(), |_| turned()).ok());
        self.watching.reconfigured(turned.await.flatten());
        self.watching.set_faulty(files.has_silent_fault());
        self.report_watch();
    }

    /// Reports whether the files are watched.
    pub(super) fn report_watch(&self) {
        let trouble = self.watching.failure();
        self.context.metrics.watch_degraded(trouble.is_some());
        self.context.config_status.unwatched.store(trouble.map(|why| Arc::new(why.to_owned())));
    }

    /// Whether a certificate that does not match its key is taken for half of a renewal.
    fn awaits_renewal(&mut self, trigger: Trigger, errors: &[Diagnostic]) -> bool {
        // The sender of a request has finished writing.
        if !matches!(trigger, Trigger::Saved | Trigger::Poll)
            || self.half.is_some_and(|since| since.elapsed() >= RENEWAL_TIMEOUT)
        {
            return false;
        }
        if self.half.is_none() {
            for error in errors.iter().filter(|error| error.is_error()) {
                tracing::info!(
                    place = error.place(),
                    "{}: waiting for the other file of a renewal; the previous certificate stays \
                     in use",
                    error.message
                );
            }
        }
        self.half.get_or_insert_with(Instant::now);
        // Otherwise the poll after `RENEWAL_TIMEOUT` would find these files tried, and never reject
        // them.
        self.tried = None;
        true
    }
}

/// Waits until half of a renewal has lasted too long. Never returns if there is none.
pub async fn half_renewal_timeout(half: Option<Instant>) {
    match half.map(|since| since + RENEWAL_TIMEOUT).filter(|until| *until > Instant::now()) {
        Some(until) => sleep_until(until).await,
        // No half, or its time is over and it was rejected: other events cause the next look.
        None => std::future::pending().await,
    }
}

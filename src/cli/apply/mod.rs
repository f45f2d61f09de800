//! `sidegate apply`: replaces the configuration by a checked copy, all of its files or none.
//!
//! Nothing is written before the agent has compared exactly these files. The former files are put
//! back unless the agent confirms that it runs the new ones.

mod attributes;
mod install;
mod leftovers;
mod lock;
mod report;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use self::install::Installation;
use self::lock::ApplyLock;
use self::report::{ApplyOutcome, ApplyReport};
use crate::cli::admin_client::{self, AskError, HeldAnswer};
use crate::cli::config_arg::ConfigArg;
use crate::cli::diff::{self, DIFF_TIMEOUT, staged_request};
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_error, print_error_lines, print_json};
use crate::cli::pending_files;
use crate::cli::promote::check_running;
use crate::cli::reload::{self, RELOAD_TIMEOUT};
use crate::cli::staged::StagedSet;
use sidegate::admin::wire::{
    DiffAnswer, DiffRequest, PauseAnswer, PauseRequest, ReloadAnswer, ReloadRequest,
};
use sidegate::control::compile;
use sidegate::control::config::apply_journal::{ApplyState, FileChange};
use sidegate::control::published::KeptState;
use sidegate::observe::printable;

/// Arguments of `sidegate apply`.
#[derive(clap::Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// A copy of the configuration's folder, or copies of single files.
    #[arg(value_name = "PATH", required_unless_present = "recover")]
    paths: Vec<PathBuf>,
    /// Apply without a question.
    #[arg(long)]
    yes: bool,
    /// Only put the files right that an interrupted apply has left.
    #[arg(long, conflicts_with = "paths")]
    recover: bool,
    /// Apply even if a list shrinks by more than its `max_shrink`; repeatable.
    #[arg(long, value_name = "LIST")]
    accept_shrink: Vec<String>,
    /// Apply even if that closes more tunnels than `[reload] max_revoked` allows.
    #[arg(long)]
    accept_revocations: bool,
    /// Apply even if that newly admits more addresses than `[reload] max_widened` allows.
    #[arg(long)]
    accept_widening: bool,
    /// Apply even if this [[test]] of a policy fails; repeatable. It stays overridden until it
    /// passes.
    #[arg(long = "override", value_name = "TEST")]
    overrides: Vec<String>,
    /// Remove the policies that the copy lacks, without a question.
    #[arg(long)]
    allow_removal: bool,
    /// Take certificates, keys, revocation lists and live lists of the copy too that are not newer
    /// than the files.
    #[arg(long)]
    with_live: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Applies the copy. Ends with 1 if it is rejected, declined or taken back.
pub fn apply(verb: &ApplyArgs) -> Exit {
    // Absolute, as the agent has it: the digest covers the paths of the files.
    let config = &verb.config.config;
    let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
    let mut report = ApplyReport::default();
    match run_steps(verb, &config, &mut report) {
        Ok(outcome) => report.outcome = outcome,
        Err(sentence) => {
            print_error(&sentence);
            report.error = Some(sentence);
        }
    }
    if verb.json {
        print_json(&report);
    }
    match report.outcome {
        ApplyOutcome::Applied | ApplyOutcome::Unchanged | ApplyOutcome::Recovered => Exit::Success,
        ApplyOutcome::Declined | ApplyOutcome::Failed => Exit::Failure,
    }
}

/// Runs all steps, and takes them back if one fails.
///
/// # Errors
/// A sentence: why nothing is applied, or that the former files are back.
fn run_steps(
    verb: &ApplyArgs,
    config: &Path,
    report: &mut ApplyReport,
) -> Result<ApplyOutcome, String> {
    let folder = config.parent().unwrap_or(Path::new("/"));
    let _lock = ApplyLock::take(folder)?;
    recover(verb, folder, report)?;
    if verb.recover {
        return Ok(ApplyOutcome::Recovered);
    }
    let staged = StagedSet::read(config, &verb.paths, verb.with_live)?;
    list_live(verb, &staged, report);
    if staged.is_empty() {
        say(verb, "nothing to apply: the copy equals the files");
        return Ok(ApplyOutcome::Unchanged);
    }
    let installation = Installation::new(&staged)?;
    let expected = compare(verb, config, &staged, report)?;
    list_files(verb, &installation, report);
    // An order publishes all saved files, also those of other operators.
    pending_files::line(config, &staged).iter().for_each(|line| say(verb, line));
    check_removals(verb, &staged)?;
    if !verb.yes && !confirm(staged.removed.len())? {
        say(verb, "nothing was changed");
        return Ok(ApplyOutcome::Declined);
    }
    let Some(shown) = expected else { return install_alone(verb, config, &installation) };
    // Held to the end of this function: the watch would read the files before the reload below
    // does, and without the effects that it accepts.
    let _paused = pause_watch(config)?;
    installation.install()?;
    match reload(verb, config, &shown, &installation) {
        Ok(answer) => {
            // Not worth a rollback: the next run removes the rest.
            if let Err(why) = installation.run(&installation.finish_steps()) {
                print_error(format_args!("applied, but not cleaned up: {why}"));
            }
            if !verb.json {
                reload::print_after_diff(answer);
            }
            say(verb, "applied");
            Ok(ApplyOutcome::Applied)
        }
        Err(why) => {
            let restored = installation.restore();
            // The agent has read the rejected files, and reports their errors until it reads again.
            // Only the files that ran count: another's save may be held meanwhile.
            let again = ReloadRequest { expect: Some(shown.running), ..ReloadRequest::default() };
            let _ = admin_client::ask(config, &again, RELOAD_TIMEOUT);
            Err(format!("not applied: {why}; {restored}"))
        }
    }
}

/// Installs the files where no agent runs.
///
/// # Errors
/// A sentence: a step failed.
fn install_alone(
    verb: &ApplyArgs,
    config: &Path,
    installation: &Installation,
) -> Result<ApplyOutcome, String> {
    installation.install()?;
    installation.run(&installation.finish_steps())?;
    let when = match KeptState::is_served(config) {
        false => "count from the next start on",
        true => "are pending: a start serves the published files until `sidegate reload`",
    };
    say(verb, &format!("applied: the files are in place, and {when}"));
    Ok(ApplyOutcome::Applied)
}

/// Prints a line of the text output.
fn say(verb: &ApplyArgs, line: &str) {
    if !verb.json {
        print(line);
    }
}

/// Puts the files right that an interrupted apply has left in `folder`.
fn recover(verb: &ApplyArgs, folder: &Path, report: &mut ApplyReport) -> Result<(), String> {
    let Some((found, state)) = Installation::interrupted(folder)? else {
        leftovers::remove(folder);
        if verb.recover {
            say(verb, "no interrupted apply was found");
        }
        return Ok(());
    };
    let (steps, what) = match state {
        ApplyState::Replacing => (found.restore_all_steps(), "was rolled back: its former files"),
        ApplyState::Replaced => (found.finish_steps(), "was complete: its new files"),
    };
    let foreign = match state {
        ApplyState::Replacing => found.foreign(found.places().count()),
        ApplyState::Replaced => None,
    };
    found.run(&steps).map_err(|why| {
        format!("an interrupted apply cannot be put right: {why}; the former files count")
    })?;
    // Such as a journal that was being written when the run was killed.
    leftovers::remove(folder);
    let foreign = foreign.map(|what| format!("; {what}")).unwrap_or_default();
    let line = format!("an interrupted apply {what} are in place{foreign}");
    say(verb, &line);
    report.recovered = Some(line);
    Ok(())
}

/// The digests of a comparison that was shown.
struct ShownDigests {
    /// Of the files that ran.
    running: String,
    /// Of the files with the copy in place, which alone may be published.
    to: String,
    /// The same in full.
    expect: String,
}

/// Compares `staged` with what runs, and prints the difference. Returns the digests of both. `None`
/// means that no agent runs, and that the files are sound.
///
/// # Errors
/// A sentence: the files are wrong, a reload would be held, or the agent's answer is not known.
fn compare(
    verb: &ApplyArgs,
    config: &Path,
    staged: &StagedSet,
    report: &mut ApplyReport,
) -> Result<Option<ShownDigests>, String> {
    let request = DiffRequest { overrides: verb.overrides.clone(), ..staged_request(staged)? };
    let answer = match admin_client::ask(config, &request, DIFF_TIMEOUT) {
        Ok(mut answer) => {
            staged.name_copies(&mut answer);
            answer
        }
        Err(AskError::NoAgent(sentence)) => {
            check_alone(config, staged)?;
            print_error_lines(&format!(
                "no agent runs, so neither the tunnels that this would close are known, nor \
                 overrides of tests: {sentence}"
            ));
            return Ok(None);
        }
        Err(AskError::Unknown(sentence)) => return Err(sentence),
    };
    if !verb.json {
        diff::print_text(&answer);
    }
    let (DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes)) = &answer else {
        report.diff = Some(answer);
        return Err("nothing was changed".into());
    };
    let accepts = verb.accept_revocations || verb.accept_widening || !verb.accept_shrink.is_empty();
    let is_held = !changes.held.is_empty() && !accepts;
    let shown = ShownDigests {
        running: changes.from.clone(),
        to: changes.to.clone(),
        expect: changes.expect.clone(),
    };
    report.diff = Some(answer);
    if is_held { Err("held: nothing was changed".into()) } else { Ok(Some(shown)) }
}

/// Checks `staged` without an agent, as a start would.
fn check_alone(config: &Path, staged: &StagedSet) -> Result<(), String> {
    compile::check_overlay(config, staged.to_overlay()).map(drop).map_err(|errors| {
        for error in &errors {
            print_error_lines(&staged.in_copy(&error.render(false)));
        }
        "the staged files have errors: nothing was changed".to_owned()
    })
}

/// Prints what the copy has in place of files that are never held.
fn list_live(verb: &ApplyArgs, staged: &StagedSet, report: &mut ApplyReport) {
    for copy in &staged.live {
        say(verb, &printable::line(&copy.line()));
        if !copy.is_taken {
            report.left.push(copy.path.display().to_string());
        }
    }
}

/// Checks that an answer given beforehand covers policies that are removed.
///
/// # Errors
/// A sentence that names them: `--yes` alone does not.
fn check_removals(verb: &ApplyArgs, staged: &StagedSet) -> Result<(), String> {
    if !verb.yes || verb.allow_removal || staged.removed.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = staged.removed.iter().map(|path| path.display().to_string()).collect();
    Err(format!(
        "nothing was changed: the copy lacks {}, and --yes removes no policy without \
         --allow-removal",
        names.join(", ")
    ))
}

/// Prints what happens to each file.
fn list_files(verb: &ApplyArgs, installation: &Installation, report: &mut ApplyReport) {
    for (file, is_linked) in installation.places() {
        let (verb_word, list) = match file.change {
            FileChange::Replaced => ("replaces", &mut report.replaced),
            FileChange::Added => ("adds", &mut report.added),
            FileChange::Removed => ("removes", &mut report.removed),
        };
        let path = file.path.display().to_string();
        let leads = match is_linked && file.change != FileChange::Removed {
            true => format!(", which is {}", file.target.display()),
            false => String::new(),
        };
        say(verb, &format!("  {verb_word} {path}{leads}"));
        list.push(path);
    }
}

/// Asks on the terminal whether to go on.
///
/// # Errors
/// A sentence: there is no terminal to ask on.
fn confirm(removed_len: usize) -> Result<bool, String> {
    if !io::stdin().is_terminal() {
        return Err("nothing was changed: without a terminal, --yes applies the files".into());
    }
    let mut out = io::stderr();
    let question = match removed_len {
        0 => "Apply?".to_owned(),
        number => format!("Apply, and remove {number} of the policies?"),
    };
    let asked = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    let mut line = String::new();
    asked.and_then(|()| io::stdin().read_line(&mut line)).map_err(|error| error.to_string())?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Has the agent read no saved file until the next reload, or until the result is dropped, for ten
/// seconds at most.
fn pause_watch(config: &Path) -> Result<HeldAnswer<PauseAnswer>, String> {
    let held = admin_client::hold(config, &PauseRequest, RELOAD_TIMEOUT);
    held.map_err(|failure| format!("nothing was changed: {failure}"))
}

/// Makes the agent publish the files that were shown, and no others.
///
/// # Errors
/// A sentence: the agent rejects them, finds other files, or doesn't confirm that they run.
fn reload(
    verb: &ApplyArgs,
    config: &Path,
    shown: &ShownDigests,
    installation: &Installation,
) -> Result<ReloadAnswer, String> {
    let request = ReloadRequest {
        wait: true,
        accept_shrink: verb.accept_shrink.clone(),
        accept_revocations: verb.accept_revocations,
        accept_widening: verb.accept_widening,
        overrides: verb.overrides.clone(),
        expect: Some(shown.expect.clone()),
        ..ReloadRequest::default()
    };
    let answer = admin_client::ask(config, &request, RELOAD_TIMEOUT)
        .map_err(|failure| failure.to_string())?;
    let confirmed = check_running(&answer, &shown.to).or_else(|why| match answer {
        // A feed may have written a list meanwhile, which is never held. The agent has compared all
        // other files with the shown ones, and ours are in place.
        ReloadAnswer::Published { .. } | ReloadAnswer::Unchanged { .. }
            if installation.is_in_place() =>
        {
            Ok(())
        }
        _ => Err(why),
    });
    if confirmed.is_err() && !verb.json {
        reload::print_text(&answer);
    }
    confirmed.map(|()| answer)
}

//! `sidegate promote NAME`: replaces a policy by its candidate, after all checks of a reload.
//!
//! Nothing is written before the agent has permitted exactly these files. The change is taken back
//! unless the agent confirms that it runs them.

mod swap;

use std::path::Path;

use self::swap::PolicySwap;
use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::diff::{self, DIFF_TIMEOUT};
use crate::cli::exit::Exit;
use crate::cli::output::{count, print, print_diagnostics, print_error, print_error_lines};
use crate::cli::reload::{self, RELOAD_TIMEOUT};
use sidegate::admin::wire::{DiffAnswer, DiffRequest, ReloadAnswer, ReloadRequest};
use sidegate::control::compile::{self, Fingerprint};

/// Arguments of `sidegate promote`.
#[derive(clap::Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The policy to replace: its candidate policies/NAME.shadow.toml becomes policies/NAME.toml.
    #[arg(value_name = "NAME")]
    name: String,
    /// Promote even if the candidate lacks a [[test]] of the policy.
    #[arg(long)]
    drop_tests: bool,
    /// Promote even if that closes more tunnels than `[reload] max_revoked` allows.
    #[arg(long)]
    accept_revocations: bool,
    /// Promote even if that newly admits more addresses than `[reload] max_widened` allows.
    #[arg(long)]
    accept_widening: bool,
}

/// Promotes the candidate. Ends with 1 if a check fails or the agent doesn't confirm; the files are
/// then restored.
pub fn promote(verb: &PromoteArgs) -> Exit {
    // Absolute, as the agent has it: the digest covers the paths of the files.
    let config = &verb.config.config;
    let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
    match run_steps(verb, &config) {
        Ok(()) => {
            let name = &verb.name;
            print(format_args!(
                "promoted: policies/{name}.shadow.toml is policies/{name}.toml now"
            ));
            Exit::Success
        }
        Err(sentence) => {
            print_error(format_args!("{} is not promoted{sentence}", verb.name));
            Exit::Failure
        }
    }
}

/// Runs all steps of the promotion, and takes them back if one fails.
///
/// # Errors
/// The rest of the sentence that begins with "is not promoted".
fn run_steps(verb: &PromoteArgs, config: &Path) -> Result<(), String> {
    let (name, because) = (&*verb.name, |why: String| format!(": {why}"));
    // First, so that a change of the policy after this moment stops the promotion.
    let swap = PolicySwap::new(config, name).map_err(because);
    let judged = compile::promoted_fingerprint(config, name).map_err(|errors| {
        print_diagnostics(&errors);
        ": a reload with its candidate would be rejected".to_owned()
    })?;
    // Its error comes second: faults of the candidate are reported first.
    let swap = swap?;
    check_tests(verb, config, &judged)?;
    let shown = preview(verb, config, &judged)?;
    let placed = swap.place().map_err(because)?;
    // Read again after the swap: between the judgement and the rename another process may have
    // saved the candidate.
    let confirmed = match compile::placed_fingerprint(config, name) {
        Ok(files) if files.is_of_same_policy(&judged) => {
            shown.map_or(Ok(()), |shown| confirm(verb, config, &files, shown))
        }
        Ok(_) => Err("the candidate was changed during the promotion".to_owned()),
        Err(errors) => {
            print_diagnostics(&errors);
            Err("the files were changed during the promotion".to_owned())
        }
    };
    match confirmed {
        Ok(()) => {
            placed.keep();
            Ok(())
        }
        Err(why) => Err(format!(": {why}\n{}", placed.restore())),
    }
}

/// Checks that the candidate of `judged` has all tests of its policy, or prints the dropped ones.
///
/// # Errors
/// The rest of the sentence that begins with "is not promoted".
fn check_tests(verb: &PromoteArgs, config: &Path, judged: &Fingerprint) -> Result<(), String> {
    let (dropped, compared) = match compile::candidate_tests(config, &verb.name) {
        Ok(compared) => compared,
        Err(_) if verb.drop_tests => {
            print_error("the tests that this drops are not known: the present files have errors");
            return Ok(());
        }
        Err(errors) => {
            print_diagnostics(&errors);
            return Err(": the tests of its present policy are not known; --drop-tests promotes \
                        without them"
                .to_owned());
        }
    };
    // Another candidate may have been saved since it was judged.
    if !compared.is_of_same_policy(judged) {
        return Err(": the candidate was changed during the promotion".into());
    }
    if verb.drop_tests {
        dropped.iter().for_each(|test| print_error(&test.message));
        return Ok(());
    }
    match dropped.len() {
        0 => Ok(()),
        dropped_len => {
            print_diagnostics(&dropped);
            let tests = count(dropped_len, "test");
            Err(format!(": its candidate lacks {tests} of the policy; --drop-tests permits that"))
        }
    }
}

/// Asks the agent what the promotion would change, and returns the digest of the files that it
/// has shown. `None` means that no agent runs.
///
/// # Errors
/// The agent refuses, or its answer is not known.
fn preview(
    verb: &PromoteArgs,
    config: &Path,
    judged: &Fingerprint,
) -> Result<Option<String>, String> {
    let request = DiffRequest { promote: Some(verb.name.clone()), ..DiffRequest::default() };
    match admin_client::ask(config, &request, DIFF_TIMEOUT) {
        Ok(answer) => {
            diff::print_text(&answer);
            // Which bound each acceptance is for, the agent decides at the reload.
            let accepts = verb.accept_revocations || verb.accept_widening;
            check_preview(&answer, &judged.all, accepts)?;
            Ok(Some(answer.expect().to_owned()))
        }
        Err(admin_client::AskError::NoAgent(sentence)) => {
            print_error_lines(&format!(
                "the tunnels that this would close are not known, because no agent runs: {sentence}"
            ));
            Ok(None)
        }
        Err(admin_client::AskError::Unknown(sentence)) => Err(format!(": {sentence}")),
    }
}

/// Checks that the agent permits the files of `digest`.
///
/// # Errors
/// The rest of the sentence that begins with "is not promoted".
pub fn check_preview(answer: &DiffAnswer, digest: &str, accepts_held: bool) -> Result<(), String> {
    let (DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes)) = answer else {
        return Err(String::new());
    };
    // The digest ties the agent's permission to the files that this command has read.
    if changes.to != digest {
        let to = &changes.to;
        let why = "the files were changed meanwhile, or the agent runs with another --config";
        return Err(format!(
            ": the agent read other files (digest {to}) than this command ({digest}): {why}"
        ));
    }
    if !changes.held.is_empty() && !accepts_held {
        return Err(String::new());
    }
    Ok(())
}

/// Makes the agent publish `files`, which were shown under the digest `shown`, and no others.
///
/// # Errors
/// A sentence: the agent rejects them, finds other files, or doesn't confirm that they run.
fn confirm(
    verb: &PromoteArgs,
    config: &Path,
    files: &Fingerprint,
    shown: String,
) -> Result<(), String> {
    let request = ReloadRequest {
        accept_revocations: verb.accept_revocations,
        accept_widening: verb.accept_widening,
        expect: Some(shown),
        ..ReloadRequest::default()
    };
    let answer = admin_client::ask(config, &request, RELOAD_TIMEOUT)
        .map_err(|failure| failure.to_string())?;
    // The agent's answer arrives after its reload, which may have read later versions of files that
    // are never held.
    let confirmed = check_running(&answer, &files.all).or_else(|why| {
        let now = compile::placed_fingerprint(config, &verb.name).map_err(|_| why.clone())?;
        if now.is_of_same_policy(files) { check_running(&answer, &now.all) } else { Err(why) }
    });
    if confirmed.is_ok() || matches!(answer, ReloadAnswer::Rejected { .. }) {
        reload::print_after_diff(answer);
    }
    confirmed
}

/// Checks that `answer` says that the files of `digest` run.
///
/// # Errors
/// A sentence that says why they don't, or that it is unknown.
pub fn check_running(answer: &ReloadAnswer, digest: &str) -> Result<(), String> {
    match answer {
        ReloadAnswer::Published { digest: running, .. }
        | ReloadAnswer::Unchanged { digest: running, .. } => {
            let other = || {
                format!(
                    "the agent runs other files (digest {running}) than this command read \
                     ({digest})"
                )
            };
            if running == digest { Ok(()) } else { Err(other()) }
        }
        ReloadAnswer::Rejected { .. } => Err("the agent rejected the files".to_owned()),
        ReloadAnswer::Asked => Err("the agent did not report the outcome".to_owned()),
    }
}

//! `sidegate reload`: asks the running agent to reload, and prints the outcome.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::diff::DIFF_TIMEOUT;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error, print_error_lines};
use sidegate::admin::wire::{
    DiffAnswer, DiffRequest, OverrideStatus, RecentReload, ReloadAnswer, ReloadCause,
    ReloadRequest, is_digest,
};
use sidegate::observe::printable;

/// Time for the agent's answer. The agent itself allows a reload 60 s.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(70);

/// Arguments of `sidegate reload`.
#[derive(clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Wait for the outcome and print it; exit with 1 if the files were rejected.
    #[arg(long)]
    wait: bool,
    /// Reload even if this list has shrunk by more than its `max_shrink`; repeatable.
    #[arg(long, value_name = "LIST")]
    accept_shrink: Vec<String>,
    /// Reload even if that closes more tunnels than `[reload] max_revoked` allows.
    #[arg(long)]
    accept_revocations: bool,
    /// Reload even if that newly admits more addresses than `[reload] max_widened` allows.
    #[arg(long)]
    accept_widening: bool,
    /// Reload even if this [[test]] of a policy fails; repeatable. It stays overridden until it
    /// passes.
    #[arg(long = "override", value_name = "TEST")]
    overrides: Vec<String>,
    /// Under `[reload] watch = "hold"`: publish certificates and lists marked `live` only, with all
    /// other files as they run.
    #[arg(long)]
    live: bool,
    /// Reload only if the files have this digest, as `sidegate diff` prints it. Without it, an
    /// order that accepts effects shows them first.
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    digest: Option<String>,
}

impl ReloadArgs {
    /// Whether the order publishes what a save would not.
    fn accepts(&self) -> bool {
        let is_bound = self.accept_revocations || self.accept_widening;
        is_bound || !self.accept_shrink.is_empty() || !self.overrides.is_empty()
    }
}

/// Asks for a reload, and prints the answer. Ends with 1 if the files were rejected.
pub fn reload(verb: &ReloadArgs) -> Exit {
    let expect = match show_accepted(verb) {
        Ok(expect) => expect,
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    };
    let request = ReloadRequest {
        wait: verb.wait,
        accept_shrink: verb.accept_shrink.clone(),
        accept_revocations: verb.accept_revocations,
        accept_widening: verb.accept_widening,
        overrides: verb.overrides.clone(),
        live: verb.live,
        expect,
    };
    match admin_client::ask(&verb.config.config, &request, RELOAD_TIMEOUT) {
        Ok(answer) => {
            print_text(&answer);
            exit(&answer)
        }
        Err(failure) => {
            print_error(failure);
            Exit::Failure
        }
    }
}

/// Prints the effects that the order accepts, and returns the digest of the files that have them.
/// `None` means that the order is for any files: it accepts nothing, or only live files.
///
/// # Errors
/// A sentence: the effects are not known.
fn show_accepted(verb: &ReloadArgs) -> Result<Option<String>, String> {
    if verb.digest.is_some() || verb.live || !verb.accepts() {
        return Ok(verb.digest.clone());
    }
    let request = DiffRequest { overrides: verb.overrides.clone(), ..DiffRequest::default() };
    let answer = admin_client::ask(&verb.config.config, &request, DIFF_TIMEOUT)
        .map_err(|failure| failure.to_string())?;
    if let DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes) = &answer {
        for held in &changes.held {
            print(format_args!("to be accepted: {}", printable::line(&held.message)));
        }
    }
    // Errors do not end the order here: under `watch = "hold"` it keeps files for a restart.
    match answer.expect() {
        "" => Err("nothing was reloaded: the files could not be read".to_owned()),
        digest => Ok(Some(digest.to_owned())),
    }
}

/// Parses the first digits of a digest.
fn digest(text: &str) -> Result<String, String> {
    match is_digest(text) {
        true => Ok(text.to_owned()),
        false => Err("a digest has 12 to 64 digits, 0 to 9 and a to f".to_owned()),
    }
}

/// The exit code for an answer.
pub fn exit(answer: &ReloadAnswer) -> Exit {
    match answer {
        ReloadAnswer::Published { .. } | ReloadAnswer::Unchanged { .. } | ReloadAnswer::Asked => {
            Exit::Success
        }
        ReloadAnswer::Rejected { .. } => Exit::Failure,
    }
}

/// Prints the outcome of a reload whose warnings a difference has shown already.
pub fn print_after_diff(mut answer: ReloadAnswer) {
    if let ReloadAnswer::Published { diagnostics, .. } = &mut answer {
        diagnostics.clear();
    }
    print_text(&answer);
}

/// Prints the outcome of a reload; diagnostics go to standard error.
pub fn print_text(answer: &ReloadAnswer) {
    match answer {
        ReloadAnswer::Published {
            generation,
            digest,
            revoked,
            diagnostics,
            overridden,
            not_kept,
        } => {
            diagnostics.iter().for_each(|diagnostic| print_error_lines(&diagnostic.text));
            let revoked = count_u64(*revoked, "tunnel");
            print(format_args!("published: generation {generation} ({digest}), {revoked} revoked"));
            overridden.iter().for_each(|one| print_error(override_sentence(one)));
            print_not_kept(not_kept.as_deref());
        }
        ReloadAnswer::Unchanged { generation, digest, recent, not_kept } => {
            match recent {
                Some(recent) => print(format_args!(
                    "generation {generation} ({digest}), {}",
                    published_sentence(recent)
                )),
                None => print(format_args!(
                    "unchanged: the running configuration matches the files, generation \
                     {generation}"
                )),
            }
            print_not_kept(not_kept.as_deref());
        }
        ReloadAnswer::Asked => print("reload requested; --wait waits for the outcome"),
        ReloadAnswer::Rejected { diagnostics } => {
            diagnostics.iter().for_each(|diagnostic| print_error_lines(&diagnostic.text));
            print_error("rejected: the previous configuration keeps running");
            if diagnostics.iter().any(|one| one.message.starts_with("test \"")) {
                print_error(
                    "a failed test is forced by its name, in an emergency: --override TEST",
                );
            }
        }
    }
}

/// Prints why a restart would not find what was published. `None` means that it would.
fn print_not_kept(why: Option<&str>) {
    if let Some(why) = why {
        print_error(format_args!("not kept over a restart: {}", printable::line(why)));
    }
}

/// The sentence about a failed test that is overridden.
fn override_sentence(one: &OverrideStatus) -> String {
    let (test, file) = (printable::line(&one.test), printable::line(&one.file));
    format!("the test \"{test}\" of {file} fails, and is overridden until it passes")
}

/// The sentence about a publish that came before the request: "published 0.4 s ago when the file
/// was saved".
fn published_sentence(recent: &RecentReload) -> String {
    let seconds = Duration::from_millis(recent.age_ms).as_secs_f64();
    let cause = match &recent.cause {
        ReloadCause::Saved => "when the file was saved".to_owned(),
        ReloadCause::Poll => "when a poll found the change".to_owned(),
        ReloadCause::Signal => "on SIGHUP".to_owned(),
        ReloadCause::Asked => "by an earlier request".to_owned(),
        ReloadCause::Other(word) => format!("(cause: {})", printable::line(word)),
    };
    format!("published {seconds:.1} s ago {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_publish_is_told_with_its_age_and_cause() {
        for (cause, age_ms, said) in [
            (ReloadCause::Saved, 412, "published 0.4 s ago when the file was saved"),
            (ReloadCause::Poll, 59_960, "published 60.0 s ago when a poll found the change"),
            (ReloadCause::Signal, 0, "published 0.0 s ago on SIGHUP"),
            (ReloadCause::Asked, 1_000, "published 1.0 s ago by an earlier request"),
            (ReloadCause::Other("a\u{9b}b".into()), 50, "published 0.1 s ago (cause: a\u{fffd}b)"),
        ] {
            assert_eq!(published_sentence(&RecentReload { cause, age_ms }), said);
        }
    }
}

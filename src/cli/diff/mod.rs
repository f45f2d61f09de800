//! `sidegate diff`: what a reload of the files would change, and which tunnels it would close.

mod widening;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::cli::admin_client::{self, AskError};
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_diagnostics, print_error, print_error_lines, print_json};
use crate::cli::staged::StagedSet;
use sidegate::admin::offline_diff;
use sidegate::admin::wire::{
    Changes, DiffAnswer, DiffRequest, KeyChange, ListChange, MAX_STAGED_BYTES, RevokedTunnel,
    StreamChanges, TunnelChanges,
};
use sidegate::control::config::{ShareOrCount, bound};
use sidegate::observe::printable;

/// Time for the agent's answer, for which it reads all of its files.
pub const DIFF_TIMEOUT: Duration = Duration::from_secs(70);

/// Arguments of `sidegate diff`.
#[derive(clap::Args)]
pub struct DiffArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Exit with 1 if a reload would close more open tunnels than this: a number, or a share like
    /// 20%.
    #[arg(long, value_name = "N|P%", value_parser = bound)]
    max_revoked: Option<ShareOrCount>,
    /// Compare copies instead of the files: a copy of the configuration's folder, or copies of
    /// single files. Nothing is changed.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    staged: Vec<PathBuf>,
    /// With --staged: compare certificates, keys, revocation lists and live lists too that are not
    /// newer than the files.
    #[arg(long, requires = "staged")]
    with_live: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Prints the difference. Ends with 1 if the files are wrong, a reload would be held, or the bound
/// is exceeded.
pub fn diff(verb: &DiffArgs) -> Exit {
    let config = &verb.config.config;
    let answer = match &*verb.staged {
        [] => admin_client::ask(config, &DiffRequest::default(), DIFF_TIMEOUT)
            .map_err(|failure| failure.to_string()),
        paths => StagedSet::read(config, paths, verb.with_live).and_then(|staged| {
            let lines = staged.live.iter().map(|copy| printable::line(&copy.line()).into_owned());
            lines.for_each(|line| if verb.json { print_error(line) } else { print(line) });
            ask_staged(config, &staged)
        }),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    };
    if verb.json {
        print_json(&answer);
    } else {
        print_text(&answer);
    }
    let exit = exit(&answer, verb.max_revoked);
    // The last line, behind the changes that it refers to.
    if let Some(bound) = verb.max_revoked.filter(|bound| is_exceeded(&answer, *bound)) {
        print_error(format_args!("more than {bound} would be closed"));
    }
    exit
}

/// Compares `staged` with what runs, or with the files if no agent runs.
///
/// # Errors
/// A sentence: there is no answer, or the files have errors.
fn ask_staged(config: &Path, staged: &StagedSet) -> Result<DiffAnswer, String> {
    match admin_client::ask(config, &staged_request(staged)?, DIFF_TIMEOUT) {
        Ok(mut answer) => {
            staged.name_copies(&mut answer);
            Ok(answer)
        }
        Err(AskError::NoAgent(sentence)) => {
            print_error_lines(&format!("no agent runs, so the files are compared: {sentence}"));
            let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
            let answer = offline_diff(&config, staged.to_overlay()).map_err(|errors| {
                print_diagnostics(&errors);
                "the files have errors, so that there is nothing to compare with".to_owned()
            });
            answer.map(|mut answer| {
                staged.name_copies(&mut answer);
                answer
            })
        }
        Err(AskError::Unknown(sentence)) => Err(sentence),
    }
}

/// The request that compares `staged` with what runs.
///
/// # Errors
/// A sentence: the files are too large.
pub fn staged_request(staged: &StagedSet) -> Result<DiffRequest, String> {
    let files = staged.to_wire();
    let request = DiffRequest { staged: true, files, ..DiffRequest::default() };
    // Checked here as well: an agent closes the connection in the middle of a larger body.
    match request.files.encoded_len() {
        length if length > MAX_STAGED_BYTES => {
            Err(format!("the staged files take more than {} MiB", MAX_STAGED_BYTES >> 20))
        }
        _ => Ok(request),
    }
}

/// The exit code for an answer and the bound of `--max-revoked`.
pub fn exit(answer: &DiffAnswer, bound: Option<ShareOrCount>) -> Exit {
    let is_held = match answer {
        DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes) => !changes.held.is_empty(),
        DiffAnswer::Rejected { .. } => true,
    };
    let is_over = bound.is_some_and(|bound| is_exceeded(answer, bound));
    if is_held || is_over { Exit::Failure } else { Exit::Success }
}

/// Whether more tunnels and streams would be closed than `bound` allows.
fn is_exceeded(answer: &DiffAnswer, bound: ShareOrCount) -> bool {
    let (DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes)) = answer else {
        return false;
    };
    let Changes { tunnels, streams, .. } = changes;
    let sum = |tunnels: u64, streams: u64| {
        usize::try_from(tunnels.saturating_add(streams)).unwrap_or(usize::MAX)
    };
    bound.is_exceeded(sum(tunnels.revoked, streams.revoked), sum(tunnels.open, streams.open))
}

/// Prints the changes as text. The reasons for a rejection or a hold go to standard error.
pub fn print_text(answer: &DiffAnswer) {
    let (changes, same) = match answer {
        DiffAnswer::Rejected { diagnostics, .. } => {
            diagnostics.iter().for_each(|diagnostic| print_error_lines(&diagnostic.text));
            let files = files_word(answer);
            print_error(format_args!(
                "{files} have errors: a reload would be rejected, and the previous configuration \
                 would keep running"
            ));
            return;
        }
        DiffAnswer::Unchanged(changes) => (changes, true),
        DiffAnswer::Changed(changes) => (changes, false),
    };
    for diagnostic in changes.diagnostics.iter().chain(&changes.held) {
        print_error_lines(&diagnostic.text);
    }
    if changes.keys.is_empty() && changes.lists.is_empty() {
        print(if same {
            format!("the running configuration matches {}", files_word(answer))
        } else {
            "no change of behaviour".to_owned()
        });
    }
    changes.keys.iter().for_each(|key| print(key_line(key)));
    changes.lists.iter().for_each(|list| print(list_lines(list)));
    widening::lines(&changes.widening).iter().for_each(print);
    print(tunnel_lines(&changes.tunnels));
    if changes.streams.open > 0 {
        print(stream_lines(&changes.streams));
    }
    if !same && !changes.staged && changes.promote.is_none() {
        print(format_args!("  these files only: sidegate reload --digest {}", changes.to));
    }
}

/// The words for the files that were compared.
fn files_word(answer: &DiffAnswer) -> &'static str {
    if answer.staged() { "the staged files" } else { "the files" }
}

/// The line of one changed key: `~ policies/market-data.toml  client.origins: ["a"] -> ["b"]`.
fn key_line(change: &KeyChange) -> String {
    let KeyChange { file, key, from, to } = change;
    let (file, key) = (printable::line(file), printable::line(key));
    let json = |value: &Value| printable::json(&value.to_string()).into_owned();
    match (from, to) {
        (None, _) if key.is_empty() => format!("+ {file}"),
        (_, None) if key.is_empty() => format!("- {file}"),
        (None, None) => format!("~ {file}  {key}"),
        (None, Some(to)) => format!("+ {file}  {key}: {}", json(to)),
        (Some(from), None) => format!("- {file}  {key}: {}", json(from)),
        (Some(from), Some(to)) => format!("~ {file}  {key}: {} -> {}", json(from), json(to)),
    }
}

/// The lines of one changed list: `~ policies/lists/partners.cidr  +1 -0 ~0` and the first changed
/// entries.
fn list_lines(change: &ListChange) -> String {
    let ListChange { policy, list, file, added, removed, altered, sample, .. } = change;
    let (policy, list, file) =
        (printable::line(policy), printable::line(list), printable::line(file));
    let place = match list.strip_prefix('(') {
        Some(rule) => rule.trim_end_matches(')').to_owned(),
        None => format!("`{list}`"),
    };
    let mut lines = format!("~ {file}  +{added} -{removed} ~{altered}  in {place} of {policy}");
    sample.iter().for_each(|entry| lines.push_str(&format!("\n    {}", printable::line(entry))));
    let all = added.saturating_add(*removed).saturating_add(*altered);
    let more = all.saturating_sub(sample.len() as u64);
    if more > 0 {
        lines.push_str(&format!("\n    … and {more} more"));
    }
    lines
}

/// The lines about streams: `  now: 1 of 12 streams would be cut`, with the first ones and why.
fn stream_lines(streams: &StreamChanges) -> String {
    let StreamChanges { open, revoked, sample } = streams;
    format!("  now: {revoked} of {open} streams would be cut{}", sample_lines(sample))
}

/// A line for each sampled tunnel or stream that would be closed.
fn sample_lines(sample: &[RevokedTunnel]) -> String {
    let mut lines = String::new();
    for one in sample {
        let why = one.entry.as_ref().or(one.rule.as_ref());
        let why = why.map(|why| format!(": {}", printable::line(why))).unwrap_or_default();
        let (client, route, opened) =
            (printable::line(&one.client), printable::line(&one.route), one.opened);
        lines.push_str(&format!("\n      {client} on {route}, open since {opened}{why}"));
    }
    lines
}

/// The lines about tunnels: `  now: 2 of 3102 open tunnels would be closed`, with the first ones
/// and why.
fn tunnel_lines(tunnels: &TunnelChanges) -> String {
    let TunnelChanges { open, revoked, by, sample } = tunnels;
    let mut lines = format!("  now: {revoked} of {open} open tunnels would be closed");
    for one in by {
        let (route, reason) = (printable::line(&one.route), printable::line(&one.reason));
        lines.push_str(&format!("\n    {} on {route}: {reason}", one.tunnels));
    }
    lines.push_str(&sample_lines(sample));
    lines
}

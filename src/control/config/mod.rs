//! The configuration: from files to values, or to every error in them.
//!
//! [`load`] is the entry point. Decides nothing about a request, compiles no snapshot and touches
//! no socket. Reads only the files that `sidegate.toml` and the policies beside it name.

pub mod apply_journal;
mod certificate;
mod client_auth;
mod crl;
mod crowdsec_settings;
pub mod diagnostic;
pub(in crate::control) mod disclosure;
mod document;
pub mod effective;
mod encoding;
pub(in crate::control) mod feed;
mod file;
mod file_error;
pub mod fs_executor;
mod identifier;
pub mod keys;
mod list;
mod load_context;
mod name;
mod off_host;
pub mod overlay;
pub mod placeholder_ids;
mod policy;
mod policy_settings;
pub mod schema;
mod settings;
mod socket_paths;
pub mod source;
pub(in crate::control) mod source_text;
#[cfg(test)]
mod tests;
pub mod users;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::apply_journal::JOURNAL;
pub use self::crowdsec_settings::{CrowdsecSettings, KeySource, LapiAddress};
use self::diagnostic::{Diagnostic, Span};
use self::disclosure::Disclosure;
pub use self::document::unit::ShareOrCount;
use self::document::{Document, did_you_mean, typography};
use self::keys::sidegate::admin;
use self::list::ListFileBytes;
pub use self::list::ListFileCache;
use self::load_context::{LoadContext, about, rooted};
pub use self::load_context::{LoadOptions, LoadedConfig};
pub use self::policy::policy_source::POLICY_FOLDER as POLICIES;
use self::policy::policy_source::{self, PolicyNames, PolicySource};
pub use self::policy::{lists_named, not_a_policy, policy_files};
pub use self::policy_settings::{ExpectedVerdict, ListFeed, PolicySettings, PolicyTest};
pub use self::settings::{
    AdminSettings, AdminSocket, BackendTlsSettings, MetricsAddress, MetricsSettings, PageAddress,
    PageAddresses, PageSettings, ProcessSettings, ReloadSettings, RouteDefaults, RouteSettings,
    SettingSpans, Settings, ShutdownSettings, StateSetting, TraceSettings, WatchMode,
    unwatched_interval,
};
use self::source::{FileError, Files, MAX_LIST_BYTES, MAX_TOML_BYTES};
use self::source_text::{Finding, error, warning};
use crate::control::systemd::sockets::PassedSockets;
use crate::policy::list::List;
use crate::policy::route::HostPattern;

/// Most passes that are repeated because an apply began or ended meanwhile.
const MAX_UNSETTLED_PASSES: usize = 5;

/// Parses a duration above zero, as commands and their requests have it: as the keys of the files,
/// or in days.
///
/// # Errors
/// A sentence that says what to write.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let shown = text.escape_debug();
        format!("`{shown}` is no duration: write 500ms, 90s, 15m, 1h or 30d")
    };
    let Some(days) = text.strip_suffix('d') else {
        let is_short = text.ends_with(['s', 'm', 'h']);
        return document::unit::positive_duration(text).map_err(|finding| match is_short {
            true => finding.sentence(),
            false => wrong(),
        });
    };
    // `parse` alone would take a sign.
    let digits = Some(days).filter(|days| days.bytes().all(|byte| byte.is_ascii_digit()));
    let days = digits.and_then(|days| days.parse::<u32>().ok()).filter(|days| *days > 0);
    days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600)).ok_or_else(wrong)
}

/// Reads and checks every file that `config`, the path of `sidegate.toml`, names. `passed` are the
/// sockets from systemd. `None` means that no agent is to run, and every named socket is assumed to
/// exist.
///
/// # Errors
/// All errors of all files at once, followed by the warnings.
pub fn load(
    files: &mut Files,
    config: &Path,
    passed: Option<&PassedSockets>,
) -> Result<LoadedConfig, Vec<Diagnostic>> {
    load_with(files, config, LoadOptions { passed, ..LoadOptions::default() })
}

/// Like [`load`], with the facts in `options`.
///
/// # Errors
/// Those of [`load`]; also a missing candidate to promote.
pub fn load_with(
    files: &mut Files,
    config: &Path,
    options: LoadOptions<'_>,
) -> Result<LoadedConfig, Vec<Diagnostic>> {
    load_with_time(files, config, options, Timestamp::now())
}

/// Like [`load_with`]. `now` decides which entries and certificates have expired, which only
/// affects warnings.
fn load_with_time(
    files: &mut Files,
    config: &Path,
    options: LoadOptions<'_>,
    now: Timestamp,
) -> Result<LoadedConfig, Vec<Diagnostic>> {
    let LoadOptions { passed, promoted, known, rejects_expired_crls, off_host, root } = options;
    files.set_config(config);
    let folder = config.parent().unwrap_or(Path::new(""));
    let is_under_apply =
        files.begin_under_journal(folder).map_err(|fault| vec![unsound_journal(folder, &fault)])?;
    let file = Arc::from(config.display().to_string());
    let bytes = files.read_toml(config).map_err(|fault| vec![unreadable(&file, &fault)])?;
    let nothing = ListFileCache::default();
    let known = known.unwrap_or(&nothing);
    let context = LoadContext::new(files, folder, known, now);
    let is_off_host = off_host;
    let mut load = LoadContext { passed, rejects_expired_crls, is_off_host, root, ..context };
    let (names, misnamed) = policy_source::names(&mut load);
    if let Some(name) = promoted
        && !names.candidates.contains(name)
    {
        return Err(vec![no_candidate(folder, name, &names)]);
    }
    let names = names.promoting(promoted);

    let document = Document::parse(file, &bytes, load.files.disclosure(config));
    let settings = file::read(&mut load, &document, &names.policies);
    let lists_from =
        settings.lists_from.iter().map(|named| rooted(root, folder, Path::new(&**named)));
    load.torn = document.has_syntax_errors();
    // Before any policy is read: its lists must be in these folders.
    load.files.restrict_lists(
        std::iter::once(folder.join(policy_source::POLICY_FOLDER)).chain(lists_from).collect(),
    );
    let mut found = document.into_diagnostics();
    found.append(&mut load.found);
    found.extend(is_under_apply.then(|| broken_off(folder)));
    found.extend(misnamed);
    let mut read = |source| {
        let (page, diagnostics) = policy::read(&mut load, source);
        found.extend(diagnostics);
        page
    };
    let baseline = if names.baseline { read(PolicySource::Baseline) } else { None };
    let policies = names
        .policies
        .iter()
        .filter_map(|name| read(PolicySource::Policy { name, file: names.file_of(name) }))
        .collect();
    let candidates =
        names.candidates.iter().filter_map(|name| read(PolicySource::Candidate(name))).collect();

    // The sort is stable: each level stays in the order of the files.
    found.sort_by_key(|diagnostic| diagnostic.level);
    if found.iter().any(Diagnostic::is_error) {
        return Err(found);
    }
    let lists = load.lists;
    Ok(LoadedConfig { settings, baseline, policies, candidates, lists, warnings: found })
}

/// Runs passes over `config` until no `sidegate apply` has begun or ended during one, with new
/// `files` for each.
pub fn load_settled(
    files: impl Fn() -> Files,
    config: &Path,
    options: LoadOptions<'_>,
) -> (Files, Result<LoadedConfig, Vec<Diagnostic>>) {
    for _ in 0..MAX_UNSETTLED_PASSES {
        let mut files = files();
        let loaded = load_with(&mut files, config, options);
        if files.is_journal_current() {
            return (files, loaded);
        }
    }
    let folder = config.parent().unwrap_or(Path::new(""));
    let fault = "begins and ends again and again, so that no version is whole";
    (files(), Err(vec![unsound_journal(folder, fault)]))
}

/// Reports that the journal of `sidegate apply` in `folder` tells no version of the files.
fn unsound_journal(folder: &Path, fault: &str) -> Diagnostic {
    let remedy = "no version of the files is known to be whole: compare them with those named \
                  .NAME.sidegate-before beside them, then remove the journal";
    let file = folder.join(JOURNAL);
    let sentence = format!("the journal of `sidegate apply` {fault}");
    Diagnostic::for_file(&file, sentence, Some(remedy.into()))
}

/// Warns that the former version of the files in `folder` is read.
fn broken_off(folder: &Path) -> Diagnostic {
    let sentence = "`sidegate apply` is under way or was broken off: the files before it count";
    let remedy = "if it is not under way: `sidegate apply --recover` puts those files back";
    let file = folder.join(JOURNAL).display().to_string();
    warning(sentence).with_remedy(remedy).into_diagnostic(Span::whole_file(file.into()))
}

/// Reports that `file`, the path of `sidegate.toml`, cannot be read because of `fault`.
fn unreadable(file: &Arc<str>, fault: &FileError) -> Diagnostic {
    let remedy = "name the file with --config, or let `sidegate init` write one";
    about(file, fault)
        .with_remedy_if((*fault == FileError::Missing).then(|| remedy.into()))
        .into_diagnostic(Span::whole_file(Arc::clone(file)))
}

/// Reports that the policy `name` has no candidate to promote, and lists the names that exist.
fn no_candidate(folder: &Path, name: &str, names: &PolicyNames) -> Diagnostic {
    let shown = format!("policies/{name}.shadow.toml");
    let file = folder.join(&shown).display().to_string();
    let listed = |names: &BTreeSet<Arc<str>>| first_names(names.iter().map(|name| &**name));
    let mut remedies = Vec::new();
    remedies.extend(did_you_mean(name, names.candidates.iter().map(|name| &**name)));
    remedies.push(match names.candidates.is_empty() {
        true => "no policy has a candidate".to_owned(),
        false => format!("policies with a candidate: {}", listed(&names.candidates)),
    });
    if names.policies.contains(name) {
        let purpose = "a candidate is written there, judged beside the policy for a while, and \
                       then promoted";
        remedies.push(purpose.into());
    } else if !names.policies.is_empty() {
        remedies.push(format!("the policies are: {}", listed(&names.policies)));
    }
    let what = match names.policies.contains(name) {
        true => format!("{shown} does not exist: there is nothing to promote"),
        false => format!("there is no policy `{name}`"),
    };
    error(what).with_remedy(remedies.join("; ")).into_diagnostic(Span::whole_file(file.into()))
}

/// The first names, and how many more there are.
fn first_names<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    const MAX_NAMES: usize = 20;
    let more = names.len().saturating_sub(MAX_NAMES);
    let mut text = names.take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The path of the admin socket in `config`, as far as the file can be read: an error elsewhere
/// must not hide the running agent. `None` means that the file names no path.
pub fn named_socket(config: &Path) -> Option<PathBuf> {
    let bytes = Files::new().read(config, MAX_TOML_BYTES).ok()?;
    let document = Document::parse(Arc::default(), &bytes, Disclosure::Nothing);
    let socket = document.root().table(&keys::sidegate::ADMIN).get(&admin::SOCKET)?.as_str()?;
    match socket {
        "auto" | "off" => None,
        // The agent links the passed socket at the path of `auto`.
        passed if passed.starts_with("systemd:") => None,
        path => Some(config.parent().unwrap_or(Path::new("")).join(path)),
    }
}

/// Whether `config` can be read to its end as TOML. If not, a socket in it may be overlooked.
pub fn reads_whole(config: &Path) -> bool {
    Files::new().read(config, MAX_TOML_BYTES).is_ok_and(|bytes| {
        !Document::parse(Arc::default(), &bytes, Disclosure::Nothing).has_syntax_errors()
    })
}

/// `[process] state` in `config`, as far as the file can be read. `None` means that the file does
/// not say it.
pub fn named_state(config: &Path) -> Option<StateSetting> {
    let bytes = Files::new().read(config, MAX_TOML_BYTES).ok()?;
    let document = Document::parse(Arc::default(), &bytes, Disclosure::Nothing);
    let process = document.root().table(&keys::sidegate::PROCESS);
    let state = file::process_table(process).state;
    document.into_diagnostics().iter().all(|found| !found.is_error()).then_some(state)
}

/// Reads the list in the file `path`, without a policy, and returns all findings about it.
pub fn load_list(
    files: &mut Files,
    path: &Path,
    now: Timestamp,
) -> (Option<List>, Vec<Diagnostic>) {
    let shown: Arc<str> = path.display().to_string().into();
    files.restrict_lists(vec![policy_folder_of(path)]);
    match files.read(path, MAX_LIST_BYTES) {
        Ok(bytes) => {
            let (digest, disclosure) =
                (files.digest_of(path).unwrap_or_default(), files.disclosure(path));
            let read = ListFileBytes { path, bytes: &bytes, digest, disclosure };
            let (entries, found) = list::from_file(read, None, now);
            (entries.map(|entries| List::of_file("list".into(), shown, None, entries)), found)
        }
        Err(fault) => (
            None,
            vec![about(&shown, &fault).into_diagnostic(Span::whole_file(Arc::clone(&shown)))],
        ),
    }
}

/// The folder `policies` around `list`, or else the list's own folder. Links that lead out of it
/// point to foreign files.
fn policy_folder_of(list: &Path) -> PathBuf {
    let is_policies = |folder: &&Path| {
        folder.file_name().is_some_and(|name| name == policy_source::POLICY_FOLDER)
    };
    let own = list.parent().unwrap_or(Path::new(""));
    Path::new(".").join(own.ancestors().find(is_policies).unwrap_or(own))
}

/// Checks that `text` is a valid `backend` of a route.
///
/// # Errors
/// The fault and its remedy, in one sentence for people.
pub fn backend(text: &str) -> Result<String, String> {
    let (mut files, known) = (Files::new(), ListFileCache::default());
    let load = LoadContext::new(&mut files, Path::new(""), &known, Timestamp::now());
    let told = |finding: Finding| match text.contains(typography::is_quote) {
        true => typography::finding(text),
        false => finding,
    };
    file::backend(text, &load).map(|_| text.to_owned()).map_err(|finding| told(finding).sentence())
}

/// Parses `text` as the path of a listener's Unix socket.
///
/// # Errors
/// The fault and its remedy, in one sentence for people.
pub fn listener_path(text: &str) -> Result<Arc<Path>, String> {
    file::listener_path(text).map_err(|finding| finding.sentence())
}

/// Parses `text` as the `host` of a route.
///
/// # Errors
/// The fault, in one sentence for people.
pub fn host(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text)
}

/// Parses `text` as a share or a number.
///
/// # Errors
/// The fault and its remedy, in one sentence for people.
pub fn bound(text: &str) -> Result<ShareOrCount, String> {
    document::unit::share_or_number(text).map_err(|finding| finding.sentence())
}

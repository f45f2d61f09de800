//! The configuration: from files to values, or to every error in them.
//!
//! [`load`] is the entry point. Decides nothing about a request, compiles no snapshot and touches
//! no socket. Reads only the files that `sidegate.toml` and the policies beside it name.

mod certificate;
pub mod diagnostic;
mod document;
pub mod effective;
mod encoding;
mod fault;
pub(in crate::control) mod feed;
mod file;
mod identifier;
pub mod keys;
mod list;
mod name;
pub(in crate::control) mod page;
mod pass;
mod policy;
mod policy_page;
pub(in crate::control) mod quote;
pub mod readers;
pub mod schema;
mod settings;
pub mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use self::diagnostic::{Diagnostic, Place};
pub use self::document::unit::Bound;
use self::document::{Document, typography};
use self::keys::sidegate::admin;
use self::list::ListFile;
pub use self::list::ListFiles;
use self::page::{Finding, error};
pub use self::pass::{Loaded, Pass};
use self::pass::{Reading, about};
pub use self::policy::sheet::FOLDER as POLICIES;
use self::policy::sheet::{self, Sheet};
pub use self::policy::{lists_named, no_policy, policy_files};
pub use self::policy_page::{Expect, Feed, PolicyPage, PolicyTest};
use self::quote::Quoting;
pub use self::settings::{
    AdminSettings, AdminSocket, BackendTlsPage, MetricsAddress, MetricsSettings, ReloadSettings,
    RouteDefaults, RoutePage, Settings, ShutdownSettings, Watch, Written, unwatched_interval,
};
use self::source::{Fault, Files, MOST_LIST, MOST_TOML};
use crate::control::systemd::sockets::Sockets;
use crate::policy::list::List;
use crate::policy::route::HostPattern;

/// Reads and checks every file that `config`, the path of `sidegate.toml`, names. `passed` are the
/// sockets from systemd. `None` means that no agent is to run, and every named socket is assumed to
/// exist.
///
/// # Errors
/// All errors of all files at once, followed by the warnings.
pub fn load(
    files: &mut Files,
    config: &Path,
    passed: Option<&Sockets>,
) -> Result<Loaded, Vec<Diagnostic>> {
    load_as(files, config, Pass { passed, ..Pass::default() })
}

/// Like [`load`], with the facts in `pass`.
///
/// # Errors
/// Those of [`load`]; also a missing candidate to promote.
pub fn load_as(
    files: &mut Files,
    config: &Path,
    pass: Pass<'_>,
) -> Result<Loaded, Vec<Diagnostic>> {
    load_at(files, config, pass, Timestamp::now())
}

/// Like [`load_as`]. `now` decides which entries and certificates have expired, which only affects
/// warnings.
fn load_at(
    files: &mut Files,
    config: &Path,
    pass: Pass<'_>,
    now: Timestamp,
) -> Result<Loaded, Vec<Diagnostic>> {
    let Pass { passed, promoted, known } = pass;
    files.begin_with(config);
    let file = Arc::from(config.display().to_string());
    let bytes = files.read(config, MOST_TOML).map_err(|fault| {
        let remedy = "name the file with --config, or let `sidegate init` write one";
        vec![
            about(&file, &fault)
                .perhaps((fault == Fault::Missing).then(|| remedy.into()))
                .at(Place::file(Arc::clone(&file))),
        ]
    })?;
    let folder = config.parent().unwrap_or(Path::new(""));
    let nothing = ListFiles::default();
    let known = known.unwrap_or(&nothing);
    let (lists, torn) = Default::default();
    let mut reading = Reading { files, folder, now, passed, known, lists, torn };
    let (names, misnamed) = sheet::names(&mut reading);
    if let Some(name) = promoted
        && !names.candidates.contains(name)
    {
        let shown = format!("policies/{name}.shadow.toml");
        let remedy =
            "a candidate is written there, judged beside the policy for a while, and then promoted";
        let missing =
            error(format!("{shown} does not exist: there is nothing to promote")).remedy(remedy);
        return Err(vec![
            missing.at(Place::file(folder.join(&shown).display().to_string().into())),
        ]);
    }
    let names = names.promoting(promoted);

    let document = Document::parse(file, &bytes, reading.files.quoting(config));
    let settings = file::read(&mut reading, &document, &names.policies);
    let lists_from = settings.lists_from.iter().map(|named| folder.join(&**named));
    reading.torn = document.is_torn();
    // Before any policy is read: its lists must be in these folders.
    reading.files.confine(std::iter::once(folder.join(sheet::FOLDER)).chain(lists_from).collect());
    let mut found = document.into_diagnostics();
    found.extend(misnamed);
    let mut read = |sheet| {
        let (page, diagnostics) = policy::read(&mut reading, sheet);
        found.extend(diagnostics);
        page
    };
    let baseline = if names.baseline { read(Sheet::Baseline) } else { None };
    let policies = names
        .policies
        .iter()
        .filter_map(|name| read(Sheet::Policy { name, file: names.file_of(name) }))
        .collect();
    let candidates =
        names.candidates.iter().filter_map(|name| read(Sheet::Candidate(name))).collect();

    // The sort is stable: each level stays in the order of the files.
    found.sort_by_key(|diagnostic| diagnostic.level);
    if found.iter().any(Diagnostic::is_error) {
        return Err(found);
    }
    Ok(Loaded { settings, baseline, policies, candidates, lists: reading.lists, warnings: found })
}

/// The path of the admin socket in `config`, as far as the file can be read: an error elsewhere
/// must not hide the running agent. `None` means that the file names no path.
pub fn named_socket(config: &Path) -> Option<PathBuf> {
    let bytes = Files::new().read(config, MOST_TOML).ok()?;
    let document = Document::parse(Arc::default(), &bytes, Quoting::Nothing);
    let socket = document.root().table(&keys::sidegate::ADMIN).get(&admin::SOCKET)?.as_str()?;
    match socket {
        "auto" | "off" => None,
        // The agent links the passed socket at the path of `auto`.
        passed if passed.starts_with("systemd:") => None,
        path => Some(config.parent().unwrap_or(Path::new("")).join(path)),
    }
}

/// Reads the list in the file `path`, without a policy, and returns all findings about it.
pub fn list_alone(
    files: &mut Files,
    path: &Path,
    now: Timestamp,
) -> (Option<List>, Vec<Diagnostic>) {
    let shown: Arc<str> = path.display().to_string().into();
    files.confine(vec![neighbourhood(path)]);
    match files.read(path, MOST_LIST) {
        Ok(bytes) => {
            let (digest, quoting) =
                (files.digest_of(path).unwrap_or_default(), files.quoting(path));
            let read = ListFile { path, bytes: &bytes, digest, quoting };
            let (entries, found) = list::from_file(read, None, now);
            (entries.map(|entries| List::of_file("list".into(), shown, None, entries)), found)
        }
        Err(fault) => (None, vec![about(&shown, &fault).at(Place::file(Arc::clone(&shown)))]),
    }
}

/// The folder `policies` around `list`, or else the list's own folder. Links that lead out of it
/// point to foreign files.
fn neighbourhood(list: &Path) -> PathBuf {
    let is_policies = |folder: &&Path| folder.file_name().is_some_and(|name| name == sheet::FOLDER);
    let own = list.parent().unwrap_or(Path::new(""));
    Path::new(".").join(own.ancestors().find(is_policies).unwrap_or(own))
}

/// Checks that `text` is a valid `backend` of a route.
///
/// # Errors
/// The fault and its remedy, in one sentence for people.
pub fn backend(text: &str) -> Result<String, String> {
    let (mut files, known) = (Files::new(), ListFiles::default());
    let (folder, now, lists) = (Path::new(""), Timestamp::now(), ListFiles::default());
    let reading =
        Reading { files: &mut files, folder, now, passed: None, known: &known, lists, torn: false };
    let told = |finding: Finding| match text.contains(typography::is_quote) {
        true => typography::finding(text),
        false => finding,
    };
    file::backend(text, &reading)
        .map(|_| text.to_owned())
        .map_err(|finding| told(finding).sentence())
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
pub fn bound(text: &str) -> Result<Bound, String> {
    document::unit::share_or_number(text).map_err(|finding| finding.sentence())
}

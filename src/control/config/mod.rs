//! The configuration: from files to values, or to everything that is wrong with them.
//!
//! [`load`] is the story. It decides nothing about a request, compiles no
//! snapshot and touches no socket; it reads only what `sidegate.toml` and the
//! policies beside it name.

mod certificate;
pub mod diagnostic;
mod document;
pub mod effective;
mod encoding;
mod fault;
pub(in crate::control) mod feed;
mod file;
mod identifier;
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
    RouteDefaults, RoutePage, Settings, ShutdownSettings, Watch, Written,
};
use self::source::{Fault, Files, MOST_LIST, MOST_TOML};
use crate::control::systemd::sockets::Sockets;
use crate::policy::list::List;
use crate::policy::route::HostPattern;

/// Reads and checks everything that `config`, the path of `sidegate.toml`, names. `passed` is what systemd
/// passed; `None` where no agent is to run, and every socket is taken for granted.
///
/// # Errors
/// All errors of all files at once, and after them the warnings.
pub fn load(
    files: &mut Files,
    config: &Path,
    passed: Option<&Sockets>,
) -> Result<Loaded, Vec<Diagnostic>> {
    load_as(files, config, Pass { passed, ..Pass::default() })
}

/// [`load`], as `pass` says.
///
/// # Errors
/// As there; there is no candidate to promote.
pub fn load_as(
    files: &mut Files,
    config: &Path,
    pass: Pass<'_>,
) -> Result<Loaded, Vec<Diagnostic>> {
    load_at(files, config, pass, Timestamp::now())
}

/// [`load_as`], where `now` says which entries and certificates are past their time: a matter of warnings alone.
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

    found.sort_by_key(|diagnostic| diagnostic.level);
    if found.iter().any(Diagnostic::is_error) {
        return Err(found);
    }
    Ok(Loaded { settings, baseline, policies, candidates, lists: reading.lists, warnings: found })
}

/// The admin socket that `config` names, as far as it can be read: a file that is broken elsewhere is
/// no reason not to find the agent that runs. `None`: it names no path.
pub fn named_socket(config: &Path) -> Option<PathBuf> {
    let bytes = Files::new().read(config, MOST_TOML).ok()?;
    let document = Document::parse(Arc::default(), &bytes, Quoting::Nothing);
    let socket = document.root().table("admin").get("socket")?.as_str()?;
    match socket {
        "auto" | "off" => None,
        // A link to it is where `auto` would be.
        passed if passed.starts_with("systemd:") => None,
        path => Some(config.parent().unwrap_or(Path::new("")).join(path)),
    }
}

/// The list in the file `path`, which no policy names here, and all that is found in it.
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

/// The folder of the policies that `list` is for, or its own: a link that leads out of it names another's file.
fn neighbourhood(list: &Path) -> PathBuf {
    let is_policies = |folder: &&Path| folder.file_name().is_some_and(|name| name == sheet::FOLDER);
    let own = list.parent().unwrap_or(Path::new(""));
    Path::new(".").join(own.ancestors().find(is_policies).unwrap_or(own))
}

/// `text`, if it can stand as a route's `backend`; else why not, and what to write instead.
///
/// # Errors
/// One sentence for people.
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

/// `text`, if it can stand as a route's `host`; else why not, and what to write instead.
///
/// # Errors
/// One sentence for people.
pub fn host(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text)
}

/// `text`, as a share or a number of things.
///
/// # Errors
/// One sentence for people.
pub fn bound(text: &str) -> Result<Bound, String> {
    document::unit::share_or_number(text).map_err(|finding| finding.sentence())
}

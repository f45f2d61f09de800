//! `policies/*.toml`, the security team's files: policies, their candidates and the baseline.
//!
//! Reads what a policy says, and never judges a client by it.

mod limit;
mod list_table;
pub(super) mod policy_source;
mod rule;
mod test;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::list_table::{ListTable, RULE_KEYS};
use self::policy_source::{POLICY_FOLDER, PolicySource};
use super::diagnostic::{Diagnostic, Span};
use super::disclosure::Disclosure;
use super::document::{Document, TomlTable, TomlValue};
use super::file::value;
use super::identifier::is_name;
use super::keys::policy as keys;
use super::load_context::{LoadContext, about, rooted};
use super::policy_settings::PolicySettings;
use super::source::{FileError, Files, MAX_TOML_BYTES};
use super::source_text::{error, warning};
use crate::policy::certificate::CertificateRule;
use crate::policy::limit::Limits;
use crate::policy::origin::Origins;
use crate::policy::subprotocol::Subprotocols;
use crate::policy::{AllowRule, Policy};

/// Paths of all policy files beside `config`, the path of `sidegate.toml`, as [`load`](super::load)
/// shows them.
pub fn policy_files(config: &Path) -> Vec<PathBuf> {
    let folder = config.with_file_name(POLICY_FOLDER);
    let names = Files::new().list(&folder).unwrap_or_default();
    names.iter().map(|name| folder.join(name)).filter(|path| not_a_policy(path).is_none()).collect()
}

/// The reason why `path` is not a policy's file: it does not exist, or its name is ignored.
pub fn not_a_policy(path: &Path) -> Option<Diagnostic> {
    let shown: Arc<str> = path.display().to_string().into();
    let name =
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
    let stem = name.map(|name| name.strip_suffix(".shadow").unwrap_or(name));
    let finding = if !path.exists() {
        about(&shown, &FileError::Missing)
    } else if !stem.is_some_and(is_name) {
        error("no policy: a file of this name is ignored")
            .with_remedy("NAME.toml, of lower-case letters, digits, - and _, the first a letter")
    } else {
        return None;
    };
    Some(finding.into_diagnostic(Span::whole_file(shown)))
}

/// Paths of the list files in the policy at `path`, as far as it can be read, as
/// [`load`](super::load) shows them. Absolute paths are below `root`.
pub fn lists_named(files: &mut Files, path: &Path, root: Option<&Path>) -> Vec<PathBuf> {
    let Ok(bytes) = files.read(path, MAX_TOML_BYTES) else { return Vec::new() };
    let document = Document::parse(Arc::default(), &bytes, Disclosure::Nothing);
    let folder = path.parent().unwrap_or(Path::new(""));
    let lists = document.root().table(&keys::LISTS).all();
    let file = |value: TomlValue<'_>| {
        let file = value.table(String::new())?.get(&keys::lists::FILE)?.as_str()?;
        Some(rooted(root, folder, Path::new(file)))
    };
    lists
        .into_iter()
        .filter(|(_, _, value)| value.is_table())
        .filter_map(|(_, _, value)| file(value))
        .collect()
}

/// Reads the policy in `source`. `None` means that there is an error among the findings.
pub fn read(
    load: &mut LoadContext<'_>,
    source: PolicySource<'_>,
) -> (Option<PolicySettings>, Vec<Diagnostic>) {
    let shown = source.file();
    let path = load.folder.join(&*shown);
    let file: Arc<str> = path.display().to_string().into();
    let bytes = match load.files.read_toml(&path) {
        Ok(bytes) => bytes,
        Err(fault) => {
            return (None, vec![about(&shown, &fault).into_diagnostic(Span::whole_file(file))]);
        }
    };
    let document = Document::parse(file, &bytes, load.files.disclosure(&path));
    let mut list_table = ListTable::new(Arc::clone(&shown));
    let page = page(load, &document, &mut list_table, &source);
    let mut found = document.into_diagnostics();
    found.extend(list_table.into_diagnostics());
    (page, found)
}

fn page(
    load: &mut LoadContext<'_>,
    document: &Document<'_>,
    list_table: &mut ListTable,
    source: &PolicySource<'_>,
) -> Option<PolicySettings> {
    let mut root = document.root();
    value::schema(&mut root);
    let owner = root.get(&keys::OWNER).and_then(|value| value.string()).map(Box::from);
    let lists = root.table(&keys::LISTS);
    // Known before `misspells` is called below.
    for key in ["client", "limits", "test"] {
        root.declare(key);
    }
    let has_client = root.has("client") || root.misspells("client");
    let rules = if has_client { None } else { rules_in(&lists) };
    let is_misspelt = root.misspells("lists");
    list_table.read_all(lists, load, is_misspelt, rules.as_deref().unwrap_or_default());
    if !root.has("lists") && !is_misspelt {
        list_table.report_misplaced(&mut root);
    }
    let mut client = root.table(&keys::CLIENT);
    if rules.is_some() {
        client = client.mark_reported();
    }
    let is_baseline = matches!(source, PolicySource::Baseline);
    let (allow, limits, lines) = if is_baseline {
        check_baseline(&mut root, &mut client);
        (Some(AllowRule::Any), Limits::default(), rule::lines(&client, None))
    } else {
        let allow = rule::allow(&mut client, list_table, load.now);
        let table = root.table(&keys::LIMITS);
        let lines = rule::lines(&client, Some(&table));
        (allow, limit::read(table, list_table, load.now), lines)
    };
    let deny = rule::deny(&mut client, list_table, load.now);
    let (origins, subprotocols, certificate) = request_rules(&mut client, is_baseline);
    client.finish();
    let tests = test::read(&mut root);
    root.finish();
    list_table.report_missing(document);
    // With an error, a list may only look unused.
    if !document.has_errors() {
        list_table.report_unused(document);
    }
    let feeds = list_table.feeds();
    let (name, file) = (source.name(), source.file());
    let policy = Policy {
        name,
        file,
        owner,
        allow: allow?,
        deny,
        origins,
        subprotocols,
        certificate,
        limits,
        lines,
        candidate: None,
    };
    Some(PolicySettings { policy, feeds, tests })
}

/// Reads the rules about requests and certificates, which a baseline has none of.
fn request_rules(
    client: &mut TomlTable<'_>,
    is_baseline: bool,
) -> (Option<Origins>, Option<Subprotocols>, Option<CertificateRule>) {
    if is_baseline {
        return (None, None, None);
    }
    (rule::origins(client), rule::subprotocols(client), rule::certificate(client))
}

/// Reports rules in `[lists]`, if there are any: the header above them is missing.
fn rules_in<'d>(lists: &TomlTable<'d>) -> Option<Vec<&'d str>> {
    let all = lists.all();
    let rules: Vec<_> = all.into_iter().filter(|(key, ..)| RULE_KEYS.contains(key)).collect();
    let (first, span, _) = rules.first()?;
    let finding = error(format!("`{first}` in [lists], which is a rule and no list"));
    lists.document().report(
        span.clone(),
        finding.with_remedy("it belongs below [client]: is that header missing above?"),
    );
    Some(rules.into_iter().map(|(key, ..)| key).collect())
}

/// Reports what only policies may have: a baseline admits nothing by itself.
fn check_baseline(root: &mut TomlTable<'_>, client: &mut TomlTable<'_>) {
    let alone = || {
        error("the baseline has lists, `deny` and tests only").with_remedy("write it in a policy")
    };
    root.refuse("limits", alone());
    for key in ["allow", "origins", "subprotocols", "certificate"] {
        client.refuse(key, alone());
    }
    let denies = client.get(&keys::client::DENY).is_some_and(|deny| {
        !deny.is_array() || deny.items().is_some_and(|items| !items.is_empty())
    });
    if !denies && !root.misspells("client") && !client.misspells("deny") {
        client.report(
            warning("the baseline denies no client")
                .with_remedy("deny = [\"banned\"] denies a list on every route"),
        );
    }
}

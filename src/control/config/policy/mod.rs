//! `policies/NAME.toml`: the security team's files, one policy each.
//!
//! It says what a policy says, and never whether anybody may.

mod limit;
mod rule;
mod shelf;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::shelf::Shelf;
use super::diagnostic::{Diagnostic, Place};
use super::document::Document;
use super::name::{is_name, is_reserved};
use super::page::{Finding, error};
use super::source::{Fault, MOST_TOML};
use super::{PolicyPage, Reading, about, file};

/// The folder of the policies, beside `sidegate.toml`.
const FOLDER: &str = "policies";

/// The names of all policies, and what is wrong with other files among them.
pub fn names(reading: &mut Reading<'_>) -> (BTreeSet<Arc<str>>, Vec<Diagnostic>) {
    let (mut names, mut found) = (BTreeSet::new(), Vec::new());
    let folder = reading.folder.join(FOLDER);
    let at = |file: &str, finding: Finding| finding.at(Place::file(folder.join(file).display().to_string().into()));
    let listed = match reading.files.list(&folder) {
        Ok(listed) => listed,
        Err(Fault::Missing) => return (names, found),
        Err(fault) => return (names, vec![about(FOLDER, &fault).at(Place::file(folder.display().to_string().into()))]),
    };
    for file in listed.iter() {
        let Some(stem) = file.strip_suffix(".toml") else { continue };
        let shadow = stem.strip_suffix(".shadow").is_some_and(is_name);
        if stem == "baseline" || shadow {
            found.push(at(file, error(format!("{file}: not in this version"))));
        } else if is_reserved(stem) {
            found.push(at(file, error(format!("`{stem}` is a reserved word")).remedy("take another name")));
        } else if is_name(stem) {
            names.insert(stem.into());
        }
    }
    (names, found)
}

/// The policy `name`; `None`: what is found holds an error.
pub fn read(reading: &mut Reading<'_>, name: Arc<str>) -> (Option<PolicyPage>, Vec<Diagnostic>) {
    let shown: Arc<str> = format!("{FOLDER}/{name}.toml").into();
    let path = reading.folder.join(&*shown);
    let file: Arc<str> = path.display().to_string().into();
    let bytes = match reading.files.read(&path, MOST_TOML) {
        Ok(bytes) => bytes,
        Err(fault) => return (None, vec![about(&shown, &fault).at(Place::file(file))]),
    };
    let document = Document::parse(file, &bytes);
    let mut shelf = Shelf::new(Arc::clone(&shown));
    let page = page(reading, &document, &mut shelf, name, shown);
    let mut found = document.into_diagnostics();
    found.extend(shelf.into_diagnostics());
    (page, found)
}

fn page(
    reading: &mut Reading<'_>,
    document: &Document<'_>,
    shelf: &mut Shelf,
    name: Arc<str>,
    file: Arc<str>,
) -> Option<PolicyPage> {
    let mut root = document.root();
    file::schema(&mut root);
    let owner = root.string("owner").map(Box::from);
    shelf.fill(root.table("lists"), reading);
    let mut client = root.table("client");
    let allow = rule::allow(&mut client, shelf, reading.now);
    let deny = rule::deny(&mut client, shelf, reading.now);
    let origins = rule::origins(&mut client);
    let subprotocols = rule::subprotocols(&mut client);
    client.later("certificate");
    let table = root.table("limits");
    let lines = rule::lines(&client, &table);
    client.finish();
    let limits = limit::read(table);
    root.later("test");
    shelf.report_unused(document);
    root.finish();
    Some(PolicyPage { name, file, owner, allow: allow?, deny, origins, subprotocols, limits, lines })
}

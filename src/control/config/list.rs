//! Lists: from the lines of a `*.cidr` file, or the strings of an array, to a [`List`].
//!
//! `policy::list` defines the grammar of a line; this module places its faults. Never says which
//! clients a list is for.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::diagnostic::Diagnostic;
use super::disclosure::{Disclosure, is_secret};
use super::document::TomlValue;
use super::encoding;
use super::source::Digest;
use super::source_text::{Finding, SourceText, error, warning};
use super::users;
use crate::policy::list::pattern::ClientPattern;
use crate::policy::list::{Entries, EntryError, List, ListEntry};

/// Most errors in one list that are shown.
const MAX_ERRORS: usize = 20;

/// Most bytes in a line.
const MAX_LINE_BYTES: usize = 4 << 10;

/// Entries of the list files of a pass, by path. A file with the same bytes as before is not parsed
/// again: generations share its entries, and so do the policies that name it.
#[derive(Debug, Default)]
pub struct ListFileCache(HashMap<PathBuf, (Digest, Option<Arc<Entries>>)>);

impl ListFileCache {
    /// Returns the entries of the file `read`, and its findings the first time only. `known` is of
    /// an earlier pass. `None` means that the file has an error.
    pub fn read(
        &mut self,
        known: &ListFileCache,
        read: ListFileBytes<'_>,
        now: Timestamp,
    ) -> (Option<Arc<Entries>>, Vec<Diagnostic>) {
        let ListFileBytes { path, digest, .. } = read;
        if let Some(entries) = self.get(path, digest) {
            return (Some(Arc::clone(entries)), Vec::new());
        }
        // Parsed earlier in this pass, with errors that were reported then.
        if self.0.contains_key(path) {
            return (None, Vec::new());
        }
        let (entries, found) = from_file(read, known.get(path, digest), now);
        // Kept without entries too, so that a faulty file is reported once and not for each policy.
        self.0.insert(path.to_owned(), (digest, entries.clone()));
        (entries, found)
    }

    /// Entries that `next` does not share.
    pub fn not_shared_with(&self, next: &ListFileCache) -> Vec<Arc<Entries>> {
        let shares = |entries: &Arc<Entries>| {
            next.0.values().flat_map(|(_, said)| said).any(|said| Arc::ptr_eq(said, entries))
        };
        self.0
            .values()
            .filter_map(|(_, said)| said.clone())
            .filter(|entries| !shares(entries))
            .collect()
    }

    fn get(&self, path: &Path, digest: Digest) -> Option<&Arc<Entries>> {
        self.0.get(path).filter(|(of, _)| *of == digest)?.1.as_ref()
    }
}

/// The contents of a list's file.
#[derive(Debug, Clone, Copy)]
pub struct ListFileBytes<'f> {
    /// The path that was read.
    pub path: &'f Path,
    /// The bytes of the file.
    pub bytes: &'f [u8],
    /// Digest of the bytes.
    pub digest: Digest,
    /// How much of the file may be shown in findings.
    pub disclosure: Disclosure,
}

/// Parses the bytes of `read`, unless their entries are `known` already.
pub fn from_file(
    read: ListFileBytes<'_>,
    known: Option<&Arc<Entries>>,
    now: Timestamp,
) -> (Option<Arc<Entries>>, Vec<Diagnostic>) {
    let ListFileBytes { path, bytes, disclosure, .. } = read;
    let (file, disclosure) = (Arc::from(path.display().to_string()), disclosure.for_list());
    let (text, fault) = encoding::text(bytes);
    if let Some(fault) = fault {
        let disclosure = if is_secret(bytes) { Disclosure::Nothing } else { disclosure };
        let source_text = SourceText::new(file, text, disclosure, MAX_ERRORS);
        source_text.report(text.len()..text.len(), fault);
        return (None, source_text.into_diagnostics());
    }
    let source_text = SourceText::new(file, text, disclosure, MAX_ERRORS);
    let entries = known.map(Arc::clone).or_else(|| self::read(&source_text).map(Arc::new));
    if entries.is_none() && source_text.is_secret() {
        // Twenty errors without their text would be of no help.
        let finding =
            error("looks like a key or a certificate: it is no list, and nothing of it is shown");
        return (
            None,
            vec![
                finding
                    .with_remedy("name a file with one network on each line")
                    .into_diagnostic(source_text.file()),
            ],
        );
    }
    if let Some(entries) = &entries {
        report_lapsed(&source_text, entries, now);
    }
    (entries, source_text.into_diagnostics())
}

/// Parses the list `name` from the strings of an array in the file `shown`.
pub fn from_strings(
    name: Arc<str>,
    shown: Arc<str>,
    items: &[TomlValue<'_>],
    now: Timestamp,
) -> Option<List> {
    let mut entries = Vec::new();
    let mut sound = true;
    for item in items {
        match item.parse("a network", |text| {
            ListEntry::parse_with(text, Some(&users::resolve)).map_err(finding)
        }) {
            Some(entry) => entries.extend(entry.map(|entry| (entry, *item))),
            None => sound = false,
        }
    }
    for (first, second) in clashes(entries.iter().map(|(entry, item)| (entry, item))) {
        second.report(both_signs().with_related(first.place(), "first here"));
        sound = false;
    }
    if !sound {
        return None;
    }
    for (entry, item) in entries.iter().filter(|(entry, _)| entry.lapsed(now)) {
        item.report(lapsed(entry, 0));
    }
    // A line number fits into 32 bits: a TOML file has at most `MAX_TOML_BYTES`.
    let numbered = entries.iter().map(|(entry, item)| (entry.clone(), item.line() as u32));
    let list = match List::new(name, shown, numbered.collect()) {
        Ok(list) => list,
        Err(clash) => {
            // An omitted list must always be reported: a policy may deny by it.
            let item = items.iter().find(|item| item.line() as u32 == clash.second);
            item.or(items.first())?.report(both_signs());
            return None;
        }
    };
    for (entry, item) in entries.iter().filter(|(entry, _)| !entry.admits) {
        if !list.around(entry.pattern).any(|(wider, _)| wider.admits) {
            let finding = warning(format!("!{} carves out of nothing", entry.pattern));
            item.report(finding.with_remedy(
                "a carve-out applies within its own list only; a network that no list may admit \
                 goes into `deny`",
            ));
        }
    }
    Some(list)
}

fn read(source_text: &SourceText<'_>) -> Option<Entries> {
    let entries = entries(source_text);
    if source_text.errors() > 0 {
        return None;
    }
    let clash = match Entries::new(entries) {
        Ok(entries) => return Some(entries),
        Err(clash) => clash,
    };
    // The list stops at the first clash, but all are to be shown.
    let entries = self::entries(source_text);
    let mut all = clashes(entries.iter().map(|(entry, line)| (entry, *line)));
    if all.is_empty() {
        all.push((clash.first, clash.second));
    }
    for (first, second) in all {
        source_text.report(
            span_of(source_text, second),
            both_signs().with_related(source_text.place(span_of(source_text, first)), "first here"),
        );
    }
    None
}

/// Reports all lapsed entries in one warning.
fn report_lapsed(source_text: &SourceText<'_>, entries: &Entries, now: Timestamp) {
    let mut all = entries.iter().filter(|(entry, _)| entry.lapsed(now));
    // The count comes first: most lists have no lapsed entry and need no walk.
    if entries.lapsing(Timestamp::MIN, now) > 0
        && let Some((first, line)) = all.next()
    {
        source_text.report(span_of(source_text, line), lapsed(first, all.count()));
    }
}

/// Every entry with its line number. Reports faults.
fn entries(source_text: &SourceText<'_>) -> Vec<(ListEntry, u32)> {
    let mut entries = Vec::new();
    let mut start = 0;
    for (number, line) in (1..).zip(source_text.text().split_inclusive('\n')) {
        // Windows editors put a byte order mark before the first line, and joined files have them
        // inside.
        let bare = line.trim_start_matches('\u{feff}');
        let from = start + line.len() - bare.len();
        start += line.len();
        let bare = bare.trim_end_matches(['\n', '\r']);
        if bare.len() > MAX_LINE_BYTES {
            let finding = error(format!("a line of more than {} KiB", MAX_LINE_BYTES >> 10));
            source_text.report(
                from..from,
                finding.with_remedy("a list has one network on each line: is this a list?"),
            );
            continue;
        }
        match ListEntry::parse(bare) {
            Ok(entry) => entries.extend(entry.map(|entry| (entry, number))),
            Err(fault) => {
                source_text.report(from + fault.span.start..from + fault.span.end, finding(fault));
            }
        }
    }
    entries
}

/// Every pair of places that give one network both signs: the first of the network, and one of the
/// opposite sign.
fn clashes<'e, P: Copy>(entries: impl Iterator<Item = (&'e ListEntry, P)>) -> Vec<(P, P)> {
    let mut first: HashMap<ClientPattern, (bool, P)> = HashMap::new();
    let mut clashes = Vec::new();
    for (entry, place) in entries {
        let (admits, earlier) = *first.entry(entry.pattern).or_insert((entry.admits, place));
        if admits != entry.admits {
            clashes.push((earlier, place));
        }
    }
    clashes
}

/// The bytes of the network on a line of the page, as written.
fn span_of(source_text: &SourceText<'_>, line: u32) -> Range<usize> {
    let (start, text) = source_text.line_at(line as usize);
    let indent = text.len() - text.trim_start().len();
    let length = text
        .trim_start()
        .find(|c: char| c.is_ascii_whitespace())
        .unwrap_or(text.trim_start().len());
    start + indent..start + indent + length
}

fn finding(fault: EntryError) -> Finding {
    error(fault.fault).with_remedy(fault.remedy).with_span(fault.span)
}

fn both_signs() -> Finding {
    error("the same network with both signs")
        .with_remedy("keep one of the two: no order decides between them")
}

fn lapsed(entry: &ListEntry, more: usize) -> Finding {
    let when = entry.expires().map(|expires| format!(" since {expires}")).unwrap_or_default();
    let others = match more {
        0 => String::new(),
        1 => ", and one more entry".into(),
        more => format!(", and {more} more entries"),
    };
    warning(format!("{} is lapsed{when}{others}", entry.pattern))
        .with_remedy("a lapsed entry is as if absent: remove it, or renew it")
}

//! Lists: from the lines of a `*.cidr` file, or the strings of an array, to a [`List`].
//!
//! The grammar of a line is `policy::list`'s; here is where its faults are
//! placed. It never says whom a list is for.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use super::diagnostic::Diagnostic;
use super::document::Value;
use super::encoding;
use super::page::{Finding, Page, error, warning};
use super::quote::{Quoting, is_secret};
use super::source::Digest;
use crate::policy::list::{Entries, Entry, EntryFault, List};
use crate::policy::network::Client;

/// Of more errors in one list than this, the first ones are shown.
const MOST_ERRORS: usize = 20;

/// A longer line is refused, in bytes.
const LONGEST_LINE: usize = 4 << 10;

/// What the list files of a pass say, by path. One whose bytes are still the same says the same, and isn't read again: the
/// generations share it, and so do the policies that name it.
#[derive(Debug, Default)]
pub struct ListFiles(HashMap<PathBuf, (Digest, Option<Arc<Entries>>)>);

impl ListFiles {
    /// What the file `read` says, and what is found in it, which is told once.
    /// `known` is of an earlier pass. `None`: there is an error.
    pub fn read(
        &mut self,
        known: &ListFiles,
        read: ListFile<'_>,
        now: Timestamp,
    ) -> (Option<Arc<Entries>>, Vec<Diagnostic>) {
        let ListFile { path, digest, .. } = read;
        if let Some(entries) = self.of(path, digest) {
            return (Some(Arc::clone(entries)), Vec::new());
        }
        if self.0.contains_key(path) {
            return (None, Vec::new());
        }
        let (entries, found) = from_file(read, known.of(path, digest), now);
        self.0.insert(path.to_owned(), (digest, entries.clone()));
        (entries, found)
    }

    /// What these say and `next` doesn't share.
    pub fn without(&self, next: &ListFiles) -> Vec<Arc<Entries>> {
        let shares = |entries: &Arc<Entries>| {
            next.0.values().flat_map(|(_, said)| said).any(|said| Arc::ptr_eq(said, entries))
        };
        self.0
            .values()
            .filter_map(|(_, said)| said.clone())
            .filter(|entries| !shares(entries))
            .collect()
    }

    fn of(&self, path: &Path, digest: Digest) -> Option<&Arc<Entries>> {
        self.0.get(path).filter(|(of, _)| *of == digest)?.1.as_ref()
    }
}

/// A list's file, read.
#[derive(Debug, Clone, Copy)]
pub struct ListFile<'f> {
    /// Its path.
    pub path: &'f Path,
    /// What is in it.
    pub bytes: &'f [u8],
    /// The digest of that.
    pub digest: Digest,
    /// How much of it may be shown.
    pub quoting: Quoting,
}

/// What stands in the bytes of `read`, where it isn't `known` already.
pub fn from_file(
    read: ListFile<'_>,
    known: Option<&Arc<Entries>>,
    now: Timestamp,
) -> (Option<Arc<Entries>>, Vec<Diagnostic>) {
    let ListFile { path, bytes, quoting, .. } = read;
    let (file, quoting) = (Arc::from(path.display().to_string()), quoting.of_list());
    let (text, fault) = encoding::text(bytes);
    if let Some(fault) = fault {
        let quoting = if is_secret(bytes) { Quoting::Nothing } else { quoting };
        let page = Page::new(file, text, quoting, MOST_ERRORS);
        page.report(text.len()..text.len(), fault);
        return (None, page.into_diagnostics());
    }
    let page = Page::new(file, text, quoting, MOST_ERRORS);
    let entries = known.map(Arc::clone).or_else(|| self::read(&page).map(Arc::new));
    if entries.is_none() && page.is_secret() {
        // Twenty errors without their text would help nobody.
        let finding =
            error("looks like a key or a certificate: it is no list, and nothing of it is shown");
        return (
            None,
            vec![finding.remedy("name a file with one network on each line").at(page.file())],
        );
    }
    if let Some(entries) = &entries {
        report_lapsed(&page, entries, now);
    }
    (entries, page.into_diagnostics())
}

/// The list `name` in an array's strings, which stand in the file `shown`.
pub fn from_strings(
    name: Arc<str>,
    shown: Arc<str>,
    items: &[Value<'_>],
    now: Timestamp,
) -> Option<List> {
    let mut entries = Vec::new();
    let mut sound = true;
    for item in items {
        match item.parse("a network", |text| Entry::parse(text).map_err(finding)) {
            Some(entry) => entries.extend(entry.map(|entry| (entry, *item))),
            None => sound = false,
        }
    }
    for (first, second) in clashes(entries.iter().map(|(entry, item)| (entry, item))) {
        second.report(both_signs().and(first.place(), "first here"));
        sound = false;
    }
    if !sound {
        return None;
    }
    for (entry, item) in entries.iter().filter(|(entry, _)| entry.lapsed(now)) {
        item.report(lapsed(entry, 0));
    }
    let numbered = entries.iter().map(|(entry, item)| (entry.clone(), item.line() as u32));
    let list = match List::new(name, shown, numbered.collect()) {
        Ok(list) => list,
        Err(clash) => {
            // A list that is left out must never go unsaid: a policy may deny by it.
            let item = items.iter().find(|item| item.line() as u32 == clash.second);
            item.or(items.first())?.report(both_signs());
            return None;
        }
    };
    for (entry, item) in entries.iter().filter(|(entry, _)| !entry.admits) {
        if !list.covering(Client::new(entry.network.addr())).any(|(wider, _)| wider.admits) {
            let finding = warning(format!("!{} carves out of nothing", entry.network));
            item.report(finding.remedy("a carve-out holds within its own list only; whom nobody may admit goes into `deny`"));
        }
    }
    Some(list)
}

fn read(page: &Page<'_>) -> Option<Entries> {
    let entries = entries(page);
    if page.errors() > 0 {
        return None;
    }
    let clash = match Entries::new(entries) {
        Ok(entries) => return Some(entries),
        Err(clash) => clash,
    };
    // The list stops at the first clash; people want to see them all.
    let entries = self::entries(page);
    let mut all = clashes(entries.iter().map(|(entry, line)| (entry, *line)));
    if all.is_empty() {
        all.push((clash.first, clash.second));
    }
    for (first, second) in all {
        page.report(
            span_of(page, second),
            both_signs().and(page.place(span_of(page, first)), "first here"),
        );
    }
    None
}

/// One warning for all that have lapsed.
fn report_lapsed(page: &Page<'_>, entries: &Entries, now: Timestamp) {
    let mut all = entries.iter().filter(|(entry, _)| entry.lapsed(now));
    // Asked first: most lists have none, and needn't be walked.
    if entries.lapsing(Timestamp::MIN, now) > 0
        && let Some((first, line)) = all.next()
    {
        page.report(span_of(page, line), lapsed(first, all.count()));
    }
}

/// Every entry with its line; faults are reported.
fn entries(page: &Page<'_>) -> Vec<(Entry, u32)> {
    let mut entries = Vec::new();
    let mut start = 0;
    for (number, line) in (1..).zip(page.text().split_inclusive('\n')) {
        // Windows' editors put a byte order mark before the first line, and files are joined.
        let bare = line.trim_start_matches('\u{feff}');
        let from = start + line.len() - bare.len();
        start += line.len();
        let bare = bare.trim_end_matches(['\n', '\r']);
        if bare.len() > LONGEST_LINE {
            let finding = error(format!("a line of more than {} KiB", LONGEST_LINE >> 10));
            page.report(
                from..from,
                finding.remedy("a list has one network on each line: is this a list?"),
            );
            continue;
        }
        match Entry::parse(bare) {
            Ok(entry) => entries.extend(entry.map(|entry| (entry, number))),
            Err(fault) => {
                page.report(from + fault.span.start..from + fault.span.end, finding(fault));
            }
        }
    }
    entries
}

/// Every pair of places that give one network both signs: the first that names it, and one that says the opposite.
fn clashes<'e, P: Copy>(entries: impl Iterator<Item = (&'e Entry, P)>) -> Vec<(P, P)> {
    let mut first: HashMap<IpNet, (bool, P)> = HashMap::new();
    let mut clashes = Vec::new();
    for (entry, place) in entries {
        let (admits, earlier) = *first.entry(entry.network).or_insert((entry.admits, place));
        if admits != entry.admits {
            clashes.push((earlier, place));
        }
    }
    clashes
}

/// The network on a line of the page, as its entry is written.
fn span_of(page: &Page<'_>, line: u32) -> Range<usize> {
    let (start, text) = page.line_at(line as usize);
    let indent = text.len() - text.trim_start().len();
    let length = text
        .trim_start()
        .find(|c: char| c.is_ascii_whitespace())
        .unwrap_or(text.trim_start().len());
    start + indent..start + indent + length
}

fn finding(fault: EntryFault) -> Finding {
    error(fault.fault).remedy(fault.remedy).within(fault.span)
}

fn both_signs() -> Finding {
    error("the same network with both signs")
        .remedy("keep one of the two: no order decides between them")
}

fn lapsed(entry: &Entry, more: usize) -> Finding {
    let when = entry.expires().map(|expires| format!(" since {expires}")).unwrap_or_default();
    let others = match more {
        0 => String::new(),
        1 => ", and one more entry".into(),
        more => format!(", and {more} more entries"),
    };
    warning(format!("{} is lapsed{when}{others}", entry.network))
        .remedy("a lapsed entry is as if absent: remove it, or renew it")
}

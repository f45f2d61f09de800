//! Findings that wait until the whole file has been read, since later ones may explain them.
//!
//! One slip can show in several places: a missing header makes every key below it unknown, and a
//! name that is misspelt in its definition is missing at each use. Knows places and names, and
//! checks no value.

use std::ops::Range;

use crate::control::config::disclosure::MessageText;
use crate::control::config::schema;
use crate::control::config::source_text::Finding;

/// Most errors in one file that are shown.
pub(super) const MAX_ERRORS: usize = 100;

/// Title of the top-level table in messages.
pub(super) const ROOT: &str = "the file";

/// A required key of an absent table, which the parent reports unless the table's own key is
/// misspelt.
#[derive(Debug)]
pub(super) struct MissingKey {
    /// Place of the parent table.
    pub parent: Range<usize>,
    /// Key of the absent table.
    pub table: &'static str,
    /// The key that is required.
    pub key: &'static str,
    /// The error about the required key.
    pub finding: Finding,
}

/// Findings that wait for the end of the file.
#[derive(Debug, Default)]
pub(super) struct DeferredFindings {
    pub alike: Vec<RepeatedFinding>,
    pub strays: Vec<UnknownKey>,
    pub duplicates: Vec<DuplicateKey>,
    pub mixed: Vec<MixedHeaders>,
    pub titles: Vec<KnownTable>,
}

/// One finding, and the other places that it applies to.
#[derive(Debug)]
pub(super) struct RepeatedFinding {
    pub group: String,
    pub span: Range<usize>,
    pub finding: Finding,
    pub more: Vec<Range<usize>>,
}

/// An unknown key of a table.
#[derive(Debug)]
pub(super) struct UnknownKey {
    pub name: String,
    pub span: Range<usize>,
    /// Title of the table.
    pub title: String,
    pub finding: Finding,
}

/// A key or a header that appears twice.
#[derive(Debug)]
pub(super) struct DuplicateKey {
    pub name: String,
    pub span: Range<usize>,
    pub first: Option<Range<usize>>,
    /// Header of the table that contains the key.
    pub header: String,
}

/// A name with headers of both kinds, `[x]` and `[[x]]`.
#[derive(Debug)]
pub(super) struct MixedHeaders {
    pub name: String,
    pub singles: Vec<Range<usize>>,
    pub doubles: Vec<Range<usize>>,
}

/// The title of a table that was read, and the keys that it may have.
#[derive(Debug)]
pub(super) struct KnownTable {
    pub title: String,
    pub keys: Vec<MessageText>,
}

impl DeferredFindings {
    pub fn add_alike(&mut self, group: String, span: Range<usize>, finding: Finding) {
        match self.alike.iter_mut().find(|alike| alike.group == group) {
            // The first in the file is shown, whatever the order in which the keys are read.
            Some(alike) if alike.span.start > span.start => {
                alike.more.push(std::mem::replace(&mut alike.span, span));
            }
            Some(alike) => alike.more.push(span),
            None => self.alike.push(RepeatedFinding { group, span, finding, more: Vec::new() }),
        }
    }

    /// Whether so many findings wait that no more need an explanation.
    pub fn is_full(&self) -> bool {
        [self.alike.len(), self.strays.len(), self.duplicates.len()].into_iter().max()
            >= Some(MAX_ERRORS)
    }

    /// Whether no finding waits.
    pub fn is_empty(&self) -> bool {
        self.alike.is_empty()
            && self.strays.is_empty()
            && self.duplicates.is_empty()
            && self.mixed.is_empty()
    }

    /// Records the keys that a table of this title may have.
    pub fn knows(&mut self, title: &str, keys: Vec<MessageText>) {
        if !self.titles.iter().any(|one| one.title == title) {
            self.titles.push(KnownTable { title: title.to_owned(), keys });
        }
    }

    /// The table, other than `own`, that may have all of `names`. Of several, the one with most of
    /// `twins`, the duplicate keys beside them.
    pub fn find_table_for(&self, own: &str, names: &[&str], twins: &[&str]) -> Option<&KnownTable> {
        let has = |one: &KnownTable, name: &str| one.keys.iter().any(|key| key == name);
        let is_header = |one: &&KnownTable| one.title.starts_with('[') && one.title != own;
        let holds = |one: &&KnownTable| names.iter().all(|name| has(one, name));
        let homes = || self.titles.iter().filter(is_header).filter(holds);
        // A single key that several tables may have gives no hint.
        let is_clear = names.len() + twins.len() > 1 || homes().count() == 1;
        let max = |one: &&KnownTable| twins.iter().filter(|name| has(one, name)).count();
        homes().rev().max_by_key(max).filter(|_| is_clear)
    }

    /// Advice for the unknown key `name`: its place at the top of the file, or else the keys that
    /// the table `title` may have.
    pub fn known(&self, title: &str, name: &str) -> Option<String> {
        let keys =
            |title: &str| self.titles.iter().find(|one| one.title == title).map(|one| &one.keys);
        if keys(ROOT).is_some_and(|keys| keys.iter().any(|key| key == name)) {
            return Some(
                "it belongs at the top of the file, or below a header of its own".to_owned(),
            );
        }
        let mut quoted: Vec<_> = keys(title)?.iter().map(|key| format!("`{key}`")).collect();
        quoted.sort();
        quoted.dedup();
        Some(format!("remove it; what may be there: {}", quoted.join(", ")))
    }

    /// Adds the lists of tables that the file may have but lacks, from the schemas.
    pub fn add_absent(&mut self, root: &str) {
        let Some(root) =
            self.titles.iter().find(|one| one.title == root).map(|one| one.keys.clone())
        else {
            return;
        };
        for (key, keys) in schema::lists_of_tables() {
            if root.iter().any(|known| key.split('.').next() == Some(known)) {
                self.knows(&format!("[[{key}]]"), keys);
            }
        }
    }
}

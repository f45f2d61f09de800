//! One table of a TOML file: its keys, and the keys that it may have.
//!
//! Reading a key makes it known; [`TomlTable::finish`] reports the unknown ones.

use std::ops::Range;

use toml::de::DeTable;

use crate::control::config::diagnostic::Span;
use crate::control::config::disclosure::MessageText;
use crate::control::config::document::deferred::{MissingKey, ROOT};
use crate::control::config::document::report_deferred::{list_of_one, one_of_several};
use crate::control::config::document::suggest::{nearest, synonym};
use crate::control::config::document::tree::Document;
use crate::control::config::document::value::TomlValue;
use crate::control::config::keys::key::{CustomValue, Key};
use crate::control::config::source_text::{Finding, error};

/// A table, or an absent table, which reads like an empty one.
#[derive(Debug)]
pub struct TomlTable<'d> {
    document: &'d Document<'d>,
    title: String,
    span: Range<usize>,
    keys: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
    /// Required keys that are missing, with their errors.
    missing: Vec<(&'static str, Finding)>,
    /// Missing keys that another table can provide for all tables of this title.
    shared: Vec<&'static str>,
    /// Keys that are rarely omitted on purpose.
    wanted: Vec<&'static str>,
    /// Keys that were reported, and no longer count as unknown.
    ignored: Vec<&'d str>,
    /// Keys of lists of tables, which may appear again.
    lists: Vec<&'static str>,
    /// Keys that are known but not allowed here.
    refused: Vec<&'static str>,
    /// Key of this table if its parent lacks it. `None` means that the table is there.
    absent: Option<&'static str>,
    /// Whether the table was reported as a whole, so that its missing keys may be elsewhere.
    is_odd: bool,
}

impl<'d> TomlTable<'d> {
    fn new(
        document: &'d Document<'d>,
        title: String,
        span: Range<usize>,
        keys: &'d DeTable<'d>,
    ) -> TomlTable<'d> {
        let (known, missing, wanted, refused, shared, lists, ignored) = Default::default();
        TomlTable {
            document,
            title,
            span,
            keys: Some(keys),
            known,
            missing,
            shared,
            wanted,
            ignored,
            lists,
            refused,
            absent: None,
            is_odd: false,
        }
    }

    /// Marks a table that was reported as a whole, so that none of its keys count as missing.
    pub fn mark_reported(self) -> TomlTable<'d> {
        TomlTable { is_odd: true, ..self }
    }

    /// The document that contains the table.
    pub fn document(&self) -> &'d Document<'d> {
        self.document
    }

    /// Records `finding` about the table as a whole.
    pub fn report(&self, finding: Finding) {
        self.document.report(self.span.clone(), finding);
    }

    /// Whether `key` is there, with any value.
    pub fn has(&self, key: &str) -> bool {
        self.keys.is_some_and(|keys| keys.contains_key(key))
    }

    /// The place of the value of `key`. `None` means that the table lacks it.
    pub fn place(&self, key: &str) -> Option<Span> {
        self.keys?.get(key).map(|value| self.document.place(value.span()))
    }

    /// The number of the line with `key`, from 1; 0 if the table lacks it.
    pub fn line(&self, key: &str) -> u32 {
        let name =
            self.keys.and_then(|keys| keys.get_key_value(key)).map(|(name, _)| name.span().start);
        name.map_or(0, |at| self.document.line(at) as u32)
    }

    /// The value of `key`. `None` means that the table lacks it.
    pub fn get<T>(&mut self, key: &Key<T>) -> Option<TomlValue<'d>> {
        let key = key.name;
        self.known.push(key);
        #[cfg(test)]
        self.record_key(key);
        let (name, value) = self.keys?.get_key_value(key)?;
        Some(TomlValue::new(self.document, name, value))
    }

    /// The value of the required `key`; `with_remedy` says what to write. [`TomlTable::finish`]
    /// reports a missing key, unless an unknown key is a misspelling of it.
    pub fn require<T>(
        &mut self,
        key: &Key<T>,
        remedy: impl Into<MessageText>,
    ) -> Option<TomlValue<'d>> {
        let (value, key) = (self.get(key), key.name);
        if value.is_none() && !self.document.has_syntax_errors() && !self.is_odd {
            let finding = error(format!("{key}: missing from {}", self.title)).with_remedy(remedy);
            self.missing.push((key, finding));
        }
        value
    }

    /// Like [`TomlTable::require`], for a key that another table can provide for all tables of this
    /// title. Of several tables that lack it, one is reported.
    pub fn require_in_any<T>(
        &mut self,
        key: &Key<T>,
        remedy: impl Into<MessageText>,
    ) -> Option<TomlValue<'d>> {
        self.shared.push(key.name);
        self.require(key, remedy)
    }

    /// The value of `key`, without making the key known.
    pub fn peek(&self, key: &str) -> Option<TomlValue<'d>> {
        let (name, value) = self.keys?.get_key_value(key)?;
        Some(TomlValue::new(self.document, name, value))
    }

    /// Reports `finding` at `key` itself. A second `key` is no longer an error then: one of the two
    /// is misspelt.
    pub fn report_misspelt(&self, key: &str, finding: Finding) {
        let Some((name, _)) = self.keys.and_then(|keys| keys.get_key_value(key)) else { return };
        self.document.forgive_duplicate(key, &name.span());
        self.document.report(name.span(), finding.with_key(key));
    }

    /// Whether `key` is missing, and an unknown key looks like a misspelling of it. Only valid
    /// after all keys of the table have become known.
    pub fn misspells(&self, key: &'static str) -> bool {
        let unknown = self.unknown();
        !self.has(key) && unknown.iter().any(|(name, _)| self.suggest_key(name) == Some(key))
    }

    /// Marks `key` as reported.
    pub fn ignore(&mut self, key: &'d str) {
        self.ignored.push(key);
    }

    /// Makes `key` known; its value is read later.
    pub fn declare(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Makes a rarely omitted `key` known, so that an unknown key near it is reported as its
    /// misspelling.
    pub fn declare_expected(&mut self, key: &'static str) {
        self.known.push(key);
        self.wanted.push(key);
    }

    /// Reports `key`, if the table has it, with a message for the operator.
    pub fn refuse(&mut self, key: &'static str, finding: Finding) {
        self.known.push(key);
        self.refused.push(key);
        let Some((name, _)) = self.keys.and_then(|keys| keys.get_key_value(key)) else { return };
        self.document.defer_unknown_key(key, name.span(), &self.title, finding.with_key(key));
    }

    /// The table `[key]`, or an empty one. Of a list of tables the first is read, and the list is
    /// reported.
    pub fn table(&mut self, declared: &Key<CustomValue>) -> TomlTable<'d> {
        let key = declared.name;
        let is_root = self.title == ROOT;
        let title = if is_root { format!("[{key}]") } else { format!("`{key}`") };
        let is_mixed = is_root && self.document.report_mixed(key, false);
        let value = self.get(declared);
        let found = value.and_then(|value| match value.headed() {
            Some(first) => {
                if !is_mixed {
                    value.report(list_of_one(key).with_remedy(format!("write [{key}], once")));
                }
                first.table(title.clone()).map(TomlTable::mark_reported)
            }
            None => value.table(title.clone()),
        });
        found.unwrap_or_else(|| {
            let (known, missing, wanted, refused, shared, lists, ignored) = Default::default();
            let (span, document) = (self.span.clone(), self.document);
            // A value that is no table was reported as such.
            let absent = value.is_none().then_some(key);
            TomlTable {
                title,
                keys: None,
                known,
                missing,
                shared,
                wanted,
                ignored,
                lists,
                refused,
                span,
                document,
                absent,
                is_odd: false,
            }
        })
    }

    /// The tables `[[key]]`, in the order written. A single table `[key]` is reported, and read as
    /// one of them.
    pub fn tables(&mut self, declared: &Key<CustomValue>) -> Vec<TomlTable<'d>> {
        let key = declared.name;
        let name = match self.title.strip_prefix('[').and_then(|title| title.strip_suffix(']')) {
            Some(parent) => format!("{parent}.{key}"),
            None => key.to_owned(),
        };
        self.lists.push(key);
        let is_mixed = self.document.report_mixed(&name, true);
        let Some(value) = self.get(declared) else { return Vec::new() };
        let title = format!("[[{name}]]");
        if value.is_table() {
            if !is_mixed {
                value.report(one_of_several(&name));
            }
            return value.table(title).map(TomlTable::mark_reported).into_iter().collect();
        }
        let tables = value.items().unwrap_or_default();
        tables.iter().filter_map(|item| item.table(title.clone())).collect()
    }

    /// Every key with its value, known or not, in the order written.
    pub fn all(&self) -> Vec<(&'d str, Range<usize>, TomlValue<'d>)> {
        let Some(keys) = self.keys else { return Vec::new() };
        let mut all: Vec<_> = keys
            .iter()
            .map(|(name, value)| {
                (&**name.get_ref(), name.span(), TomlValue::new(self.document, name, value))
            })
            .collect();
        all.sort_by_key(|(_, span, _)| span.start);
        all
    }

    /// Reports unknown and missing keys. A misspelt key is one error, although it is unknown and
    /// the intended key is missing.
    pub fn finish(mut self) {
        let keys: Vec<_> =
            self.known.iter().filter(|key| !self.refused.contains(key)).copied().collect();
        self.document.has_keys(&self.title, &keys);
        for (name, span) in self.unknown() {
            self.document.has_unknown_keys.set(true);
            let (lacks, remedy) =
                if self.document.is_full() { (None, None) } else { self.explain(name) };
            let lacks = lacks.map(|key| format!(", which lacks `{key}`")).unwrap_or_default();
            let finding = error(format!("unknown key `{name}` in {}{lacks}", self.title));
            let finding = finding.with_remedy_if(remedy);
            self.document.defer_unknown_key(name, span, &self.title, finding);
        }
        let missing = std::mem::take(&mut self.missing);
        if let (Some(keys), [_, _, ..]) = (self.keys, &missing[..])
            && keys.is_empty()
        {
            let names: Vec<_> = missing.iter().map(|(key, _)| format!("`{key}`")).collect();
            let finding = error(format!("{} has no keys", self.title));
            self.report(
                finding.with_remedy(format!("write {} below it, or remove it", names.join(", "))),
            );
            return;
        }
        for (key, finding) in missing {
            match (self.keys, self.absent) {
                (Some(_), _) if self.shared.contains(&key) => {
                    let group = format!("{key} of {}", self.title);
                    self.document.defer_repeated(group, self.span.clone(), finding);
                }
                (Some(_), _) => self.report(finding),
                (None, Some(table)) => {
                    self.document.note_missing(MissingKey {
                        parent: self.span.clone(),
                        table,
                        key,
                        finding,
                    });
                }
                // The value in its place was reported.
                (None, None) => {}
            }
        }
        if self.keys.is_some() {
            for lacking in self.document.take_missing(|lacking| lacking.parent == self.span) {
                self.document.report(lacking.parent, lacking.finding);
            }
        }
    }

    /// The unknown keys, from top to bottom.
    fn unknown(&self) -> Vec<(&'d str, Range<usize>)> {
        let keys = self.keys.into_iter().flat_map(DeTable::keys);
        let is_known = |name: &str| self.known.contains(&name) || self.ignored.contains(&name);
        let unknown = keys.filter(|name| !is_known(name.get_ref()));
        let mut unknown: Vec<_> = unknown.map(|name| (&**name.get_ref(), name.span())).collect();
        unknown.sort_by_key(|(_, span)| span.start);
        unknown
    }

    /// The missing key in the place of the unknown key `name`, and advice. That missing key is then
    /// not reported by itself.
    fn explain(&mut self, name: &str) -> (Option<&'static str>, Option<String>) {
        if let Some(meant) = self.suggest_key(name) {
            let own = self.missing.extract_if(.., |(key, _)| *key == meant).count();
            let absent = self
                .document
                .take_missing(|lacking| lacking.parent == self.span && lacking.table == meant);
            let is_wanted = self.wanted.contains(&meant) && !self.has(meant);
            let lacks = (own + absent.len() > 0 || is_wanted).then_some(meant);
            return (lacks, Some(format!("did you mean `{meant}`?")));
        }
        let near = nearest(name, self.known.iter().copied()).map(|(_, key)| key);
        let near = near.or_else(|| synonym(name, self.known.iter().copied()));
        if let Some(there) = near.filter(|key| self.is_taken(key)) {
            return (None, Some(format!("remove it: `{there}` is there already")));
        }
        let inside = |lacking: &MissingKey| lacking.parent == self.span && lacking.key == name;
        let found = self.document.take_missing(inside);
        let written = |table: &str| match &*self.title {
            ROOT => format!("write it below [{table}]"),
            _ => format!("write it in `{table}`"),
        };
        (None, found.first().map(|lacking| written(lacking.table)))
    }

    /// Whether `key` is there and can't appear again. A table can, by another header.
    fn is_taken(&self, key: &str) -> bool {
        self.peek(key).is_some_and(|value| !value.is_table()) && !self.lists.contains(&key)
    }

    /// The absent key that `name` was probably meant to be. Of two that are equally near, a missing
    /// one is preferred.
    fn suggest_key(&self, name: &str) -> Option<&'static str> {
        let absent = self.document.absent_tables(&self.span);
        let missing: Vec<_> = self.missing.iter().map(|(key, _)| *key).chain(absent).collect();
        let is_free = |key: &&str| !self.is_taken(key) && !self.refused.contains(key);
        let free = || self.known.iter().copied().filter(is_free);
        let both = [nearest(name, missing.iter().copied()), nearest(name, free())];
        let near = both.into_iter().flatten().min_by_key(|(slips, _)| *slips).map(|(_, key)| key);
        near.or_else(|| synonym(name, missing)).or_else(|| synonym(name, free()))
    }
}

impl Document<'_> {
    /// The top-level table of the file.
    pub fn root(&self) -> TomlTable<'_> {
        TomlTable::new(self, ROOT.into(), 0..0, &self.tree)
    }
}

impl<'d> TomlValue<'d> {
    /// The table, which messages call `title`.
    pub fn table(&self, title: String) -> Option<TomlTable<'d>> {
        let found = self.or_expected("a table", self.value.get_ref().as_table());
        let inner = self.inner();
        let keys = found.or_else(|| inner.value.get_ref().as_table())?;
        Some(TomlTable::new(self.document, title, inner.value.span(), keys))
    }
}

#[cfg(test)]
mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::ops::Range;

    use toml::de::{DeTable, DeValue};

    use super::{ROOT, TomlTable};

    thread_local! {
        static READ_KEYS: RefCell<Option<BTreeSet<(String, String)>>> = const { RefCell::new(None) };
    }

    impl TomlTable<'_> {
        /// Every key that `read` reads in a table that exists, with the file:
        /// `limits.upgrades.rate`, `listener[].name`.
        pub fn record_keys(read: impl FnOnce()) -> BTreeSet<(String, String)> {
            READ_KEYS.set(Some(BTreeSet::new()));
            read();
            READ_KEYS.take().unwrap_or_default()
        }

        pub(super) fn record_key(&self, key: &str) {
            READ_KEYS.with_borrow_mut(|asked| {
                let (Some(asked), Some(_)) = (asked.as_mut(), self.keys) else { return };
                let path = if self.title == ROOT {
                    Some(String::new())
                } else {
                    path(&self.document.tree, &self.span)
                };
                let file = self.document.place(0..0).file.to_string();
                asked.extend(path.map(|path| (file, format!("{path}{key}"))));
            });
        }
    }

    /// The path of keys to the table at `span`, with a final dot.
    fn path(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
        table.iter().find_map(|(name, value)| {
            let below = |table: &DeTable<'_>, at: Range<usize>, sign: &str| {
                let inside = if at == *span { Some(String::new()) } else { path(table, span) };
                inside.map(|inside| format!("{}{sign}.{inside}", name.get_ref()))
            };
            match value.get_ref() {
                DeValue::Table(table) => below(table, value.span(), ""),
                DeValue::Array(items) => items
                    .iter()
                    .find_map(|item| below(item.get_ref().as_table()?, item.span(), "[]")),
                _ => None,
            }
        })
    }
}

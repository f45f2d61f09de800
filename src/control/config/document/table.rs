//! One table of a TOML file: which keys it has, and which it may have.
//!
//! Every key that is asked for is known; [`Table::finish`] reports the others.

use std::ops::Range;
use std::time::Duration;

use toml::de::DeTable;

use super::{Document, Value, did_you_mean, unit};
use crate::control::config::diagnostic::Place;
use crate::control::config::page::{Finding, error};
use crate::control::config::quote::Words;

/// What messages call the table of the whole file.
const ROOT: &str = "the file";

/// A table, or the lack of one, which is read like an empty one.
#[derive(Debug)]
pub struct Table<'d> {
    document: &'d Document<'d>,
    title: String,
    span: Range<usize>,
    keys: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
}

impl<'d> Table<'d> {
    pub(super) fn root(document: &'d Document<'d>, keys: &'d DeTable<'d>) -> Table<'d> {
        Table { document, title: ROOT.into(), span: 0..0, keys: Some(keys), known: Vec::new() }
    }

    pub(super) fn new(document: &'d Document<'d>, title: String, span: Range<usize>, keys: &'d DeTable<'d>) -> Table<'d> {
        Table { document, title, span, keys: Some(keys), known: Vec::new() }
    }

    /// The document that it is in.
    pub fn document(&self) -> &'d Document<'d> {
        self.document
    }

    /// Notes `finding` about the table as a whole.
    pub fn report(&self, finding: Finding) {
        self.document.report(self.span.clone(), finding);
    }

    /// Whether `key` is there, whatever it is.
    pub fn has(&self, key: &str) -> bool {
        self.keys.is_some_and(|keys| keys.contains_key(key))
    }

    /// Where the value of `key` is, if there is one.
    pub fn place(&self, key: &str) -> Option<Place> {
        self.keys?.get(key).map(|value| self.document.place(value.span()))
    }

    /// The number of the line that `key` is in, from 1; 0 if it isn't there.
    pub fn line(&self, key: &str) -> u32 {
        let name = self.keys.and_then(|keys| keys.get_key_value(key)).map(|(name, _)| name.span().start);
        name.map_or(0, |at| self.document.line(at) as u32)
    }

    /// The value of `key`, if there is one.
    pub fn get(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.known.push(key);
        #[cfg(test)]
        self.asked_for(key);
        let (name, value) = self.keys?.get_key_value(key)?;
        Some(Value::new(self.document, name, value))
    }

    /// The value of `key`, which must be there; `remedy` says what to write if it isn't.
    pub fn need(&mut self, key: &'static str, remedy: impl Into<Words>) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() && !self.document.is_torn() {
            self.report(error(format!("{key}: missing from {}", self.title)).remedy(remedy));
        }
        value
    }

    /// Reports `key`, if it is there: this version doesn't act on it.
    pub fn later(&mut self, key: &'static str) {
        self.known.push(key);
        let Some((name, _)) = self.keys.and_then(|keys| keys.get_key_value(key)) else { return };
        self.document.report(name.span(), error("not in this version").of(key));
    }

    /// Reports `key`, if it is there, with a message that its name alone doesn't explain.
    pub fn refuse(&mut self, key: &'static str, finding: Finding) {
        self.known.push(key);
        let Some((name, _)) = self.keys.and_then(|keys| keys.get_key_value(key)) else { return };
        self.document.report(name.span(), finding.of(key));
    }

    /// The table `[key]`; an empty one if there is none.
    pub fn table(&mut self, key: &'static str) -> Table<'d> {
        let title = if self.title == ROOT { format!("[{key}]") } else { format!("`{key}`") };
        let found = self.get(key).and_then(|value| value.table(title.clone()));
        found.unwrap_or_else(|| Table { title, keys: None, known: Vec::new(), span: self.span.clone(), document: self.document })
    }

    /// The tables `[[key]]`, in the order written.
    pub fn tables(&mut self, key: &'static str) -> Vec<Table<'d>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let title = match self.title.strip_prefix('[').and_then(|title| title.strip_suffix(']')) {
            Some(parent) => format!("[[{parent}.{key}]]"),
            None => format!("[[{key}]]"),
        };
        if value.is_table() {
            value.report(error("one table where several can be").remedy(format!("write {title}")));
            return Vec::new();
        }
        let tables = value.items().unwrap_or_default();
        tables.iter().filter_map(|item| item.table(title.clone())).collect()
    }

    /// Every key with its value, whatever its name, in the order written.
    pub fn all(&self) -> Vec<(&'d str, Range<usize>, Value<'d>)> {
        let Some(keys) = self.keys else { return Vec::new() };
        let mut all: Vec<_> =
            keys.iter().map(|(name, value)| (&**name.get_ref(), name.span(), Value::new(self.document, name, value))).collect();
        all.sort_by_key(|(_, span, _)| span.start);
        all
    }

    /// The string `key`.
    pub fn string(&mut self, key: &'static str) -> Option<&'d str> {
        self.get(key)?.string()
    }

    /// The boolean `key`.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.get(key)?.boolean()
    }

    /// The duration `key`, zero included.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.get(key)?.parse("a duration like \"10s\"", unit::duration)
    }

    /// The duration `key`, which is never zero.
    pub fn positive_duration(&mut self, key: &'static str) -> Option<Duration> {
        self.get(key)?.parse("a duration like \"10s\"", unit::positive_duration)
    }

    /// The duration `key`, which is never zero; the inner `None` stands for `"off"`.
    pub fn duration_or_off(&mut self, key: &'static str) -> Option<Option<Duration>> {
        self.get(key)?.parse("a duration like \"60s\", or \"off\"", unit::duration_or_off)
    }

    /// What the word at `key` stands for, one of `words`.
    pub fn choice<T: Clone>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        self.get(key)?.choice(words)
    }

    /// Reports every key that was never asked for.
    pub fn finish(self) {
        for name in self.keys.into_iter().flat_map(DeTable::keys) {
            if self.known.contains(&&**name.get_ref()) {
                continue;
            }
            let finding = error(format!("unknown key `{}` in {}", name.get_ref(), self.title));
            let known = self.known.iter().copied().filter(|_| !self.document.page.is_full());
            self.document.report(name.span(), finding.perhaps(did_you_mean(name.get_ref(), known)));
        }
    }
}

#[cfg(test)]
mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::ops::Range;

    use toml::de::{DeTable, DeValue};

    use super::{ROOT, Table};

    thread_local! {
        static ASKED: RefCell<Option<BTreeSet<(String, String)>>> = const { RefCell::new(None) };
    }

    impl Table<'_> {
        /// Every key that `read` asks a table that is there for, with the file: `limits.upgrades.rate`, `listener[].name`.
        pub fn keys_asked_for(read: impl FnOnce()) -> BTreeSet<(String, String)> {
            ASKED.set(Some(BTreeSet::new()));
            read();
            ASKED.take().unwrap_or_default()
        }

        pub(super) fn asked_for(&self, key: &str) {
            ASKED.with_borrow_mut(|asked| {
                let (Some(asked), Some(_)) = (asked.as_mut(), self.keys) else { return };
                let path = if self.title == ROOT { Some(String::new()) } else { path(&self.document.tree, &self.span) };
                let file = self.document.place(0..0).file.to_string();
                asked.extend(path.map(|path| (file, format!("{path}{key}"))));
            });
        }
    }

    /// What leads to the table at `span`, with a last dot.
    fn path(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
        table.iter().find_map(|(name, value)| {
            let below = |table: &DeTable<'_>, at: Range<usize>, sign: &str| {
                let inside = if at == *span { Some(String::new()) } else { path(table, span) };
                inside.map(|inside| format!("{}{sign}.{inside}", name.get_ref()))
            };
            match value.get_ref() {
                DeValue::Table(table) => below(table, value.span(), ""),
                DeValue::Array(items) => items.iter().find_map(|item| below(item.get_ref().as_table()?, item.span(), "[]")),
                _ => None,
            }
        })
    }
}

//! Names that operators give to listeners, routes, policies and lists.
//!
//! Decides which names are well-formed, and which are taken by which earlier use.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::control::config::diagnostic::Span;
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::identifier::{is_name, is_reserved};
use crate::control::config::keys::any_file::NAME;
use crate::control::config::source_text::{Finding, error};

/// Parses a name from a configuration file.
pub fn name(text: &str) -> Result<Arc<str>, Finding> {
    if is_reserved(text) {
        return Err(error(format!("`{text}` is a reserved word")).with_remedy("take another name"));
    }
    if !is_name(text) {
        return Err(error(format!("`{text}` is not a name"))
            .with_remedy("lower-case letters, digits, - and _, the first a letter"));
    }
    Ok(text.into())
}

/// The first holder of each key, among items whose keys must differ.
#[derive(Debug)]
pub struct UniqueKeys<K>(HashMap<K, (Arc<str>, Span)>);

impl<K: Hash + Eq> UniqueKeys<K> {
    /// An empty set of keys.
    pub fn new() -> UniqueKeys<K> {
        UniqueKeys(HashMap::new())
    }

    /// Number of distinct keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Registers `key` for `name`, written at `value`. If the key is taken, returns its holder's
    /// name and place.
    pub fn insert(
        &mut self,
        key: K,
        name: &Arc<str>,
        value: &TomlValue<'_>,
    ) -> Result<(), (Arc<str>, Span)> {
        if let Some((first, place)) = self.0.get(&key) {
            return Err((Arc::clone(first), place.clone()));
        }
        self.0.insert(key, (Arc::clone(name), value.place()));
        Ok(())
    }
}

impl UniqueKeys<Arc<str>> {
    /// Reads the `name` of `table` and reports a name that an earlier table has.
    pub fn name(&mut self, table: &mut TomlTable<'_>, example: &str) -> Option<Arc<str>> {
        let value = table.require(&NAME, format!("name = \"{example}\""))?;
        let name = value.parse("a name", name)?;
        if let Err((_, first)) = self.insert(Arc::clone(&name), &name, &value) {
            let finding =
                error(format!("`{name}` is defined twice")).with_remedy("take another name");
            value.report(finding.with_related(first, "first here"));
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::control::config::identifier::RESERVED;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(name(text).err().map(|finding| finding.message).as_deref(), expected);
    }

    #[test]
    fn names_are_lower_case_words() {
        for good in ["a", "market-data", "v2_ticks", "a1"] {
            check(good, None);
        }
        for bad in ["", "A", "1a", "-a", "a.b", "a b", "é", "a/b"] {
            check(bad, Some(&format!("`{bad}` is not a name")));
        }
    }

    #[test]
    fn reserved_words_are_no_names() {
        for word in RESERVED {
            check(word, Some(&format!("`{word}` is a reserved word")));
        }
    }
}

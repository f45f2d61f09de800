//! The files that commands have shown, and whether an order is for those on disk.
//!
//! An operator accepts what a command has shown. An order that names its files by their digest
//! publishes no others, so that a save between the look and the order is not accepted unseen.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::control::config::source::{Digests, Files};
use crate::control::reload::request::AcceptedEffects;

/// Most sets that are remembered. An older one is still recognised by its digest.
const MAX_SHOWN: usize = 8;

/// Sets of files that commands have shown, the latest last.
#[derive(Debug, Default)]
pub(super) struct ShownFiles(VecDeque<Digests>);

impl ShownFiles {
    /// Remembers `digests` as shown.
    pub fn note(&mut self, digests: Digests) {
        self.0.retain(|shown| *shown != digests);
        if self.0.len() >= MAX_SHOWN {
            self.0.pop_front();
        }
        self.0.push_back(digests);
    }

    /// The files by which `now` differs from the set that `order` names. Empty if it may be
    /// published; `None` means that the files of that set are not known any more.
    pub fn differing(
        &self,
        order: &AcceptedEffects,
        now: &Files,
        running: &Digests,
    ) -> Option<Vec<PathBuf>> {
        let is_named = |digests: &Digests| {
            order.expect.as_ref().is_none_or(|named| digests.all().to_hex().starts_with(named))
        };
        let found = now.digests();
        if is_named(&found) {
            return Some(Vec::new());
        }
        let shown = self.0.iter().rev().find(|shown| is_named(shown))?;
        // A file that is never held counts by itself, within all bounds. An order that accepts
        // effects takes such a version only if it runs already.
        let counts_by_itself = |path: &Path| {
            let is_known = found.of(path).is_some() && shown.of(path).is_some();
            let runs = || found.of(path) == running.of(path);
            is_known && !now.is_held(path) && (!order.is_any() || runs())
        };
        let changed = shown.changed(&found);
        Some(changed.into_iter().filter(|path| !counts_by_itself(path)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    /// A pass over a policy and a certificate with these contents.
    fn pass(folder: &Path, policy: &str, certificate: &str) -> Files {
        fs::write(folder.join("a.toml"), policy).unwrap();
        fs::write(folder.join("a.pem"), certificate).unwrap();
        let mut files = Files::new();
        files.read_toml(&folder.join("a.toml")).unwrap();
        files.read(&folder.join("a.pem"), 8).unwrap();
        files
    }

    #[test]
    fn order_is_for_the_files_that_were_shown() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let first = pass(folder.path(), "1", "1");
        let mut shown = ShownFiles::default();
        shown.note(first.digests());
        let named = Some(first.digest().to_string());
        let plain = AcceptedEffects { expect: named.clone(), ..AcceptedEffects::default() };
        let wide = AcceptedEffects { widening: true, ..plain.clone() };
        let check = |order: &AcceptedEffects, now: &Files, running: &Files, expected: &[&str]| {
            let expected = expected.iter().map(|name| at(name)).collect();
            assert_eq!(shown.differing(order, now, &running.digests()), Some(expected));
        };
        check(&wide, &first, &first, &[]);
        let saved = pass(folder.path(), "2", "1");
        check(&plain, &saved, &first, &["a.toml"]);
        check(&plain, &saved, &saved, &["a.toml"]);
        let renewed = pass(folder.path(), "1", "2");
        check(&plain, &renewed, &first, &[]);
        check(&wide, &renewed, &first, &["a.pem"]);
        check(&wide, &renewed, &renewed, &[]);
        let any = AcceptedEffects { widening: true, ..AcceptedEffects::default() };
        check(&any, &saved, &first, &[]);
        let other = AcceptedEffects { expect: Some("0".repeat(12)), ..any };
        assert_eq!(shown.differing(&other, &saved, &first.digests()), None);
        for number in 0..20 {
            shown.note(pass(folder.path(), &number.to_string(), "1").digests());
        }
        assert_eq!(shown.0.len(), MAX_SHOWN);
    }
}

//! Ids in place of users and groups that this host lacks, for `--off-host`.
//!
//! An agent never enables them: an unknown name is an error there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::diagnostic::{Diagnostic, Span};
use super::source_text::note;
use crate::policy::unix::IdKind;
use crate::sync::lock;

/// Whether unknown users and groups get placeholder ids. Set once for a command, before it reads
/// any file: the parsers of lists and of peers look names up without a context.
static HAS_PLACEHOLDER_IDS: AtomicBool = AtomicBool::new(false);

/// The names that got one.
static PLACEHOLDER_IDS: Mutex<BTreeSet<(bool, String)>> = Mutex::new(BTreeSet::new());

/// Lets every user and group that this host lacks have an id of its own, in this process.
pub fn enable() {
    HAS_PLACEHOLDER_IDS.store(true, Ordering::Relaxed);
}

/// The id of a name that this host lacks. `None` means that such a name is an error.
pub fn placeholder_id(kind: IdKind, name: &str) -> Option<u32> {
    // As useradd(8) restricts names, but for letters in upper case, which directories have.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.$@".contains(c);
    let is_valid = !name.is_empty() && name.len() <= 256 && name.chars().all(is_name);
    if !is_valid || !HAS_PLACEHOLDER_IDS.load(Ordering::Relaxed) {
        return None;
    }
    lock(&PLACEHOLDER_IDS).insert((matches!(kind, IdKind::User), name.to_owned()));
    // FNV-1a, above all ids that hosts and containers give: equal names have equal ids, so that a
    // test of a policy meets its rule.
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Some(0xf000_0000 | (hash & 0x0fff_ffff).min(0x0fff_fff0))
}

/// Notes on the names that got placeholder ids, as findings about `config`.
pub fn notes(config: &Path) -> Vec<Diagnostic> {
    let file: Arc<str> = config.display().to_string().into();
    let names = std::mem::take(&mut *lock(&PLACEHOLDER_IDS));
    let notes = names.into_iter().map(|(is_user, name)| {
        let kind = if is_user { "user" } else { "group" };
        let what = format!("this host has no {kind} `{name}`: not checked with --off-host");
        note(what).into_diagnostic(Span::whole_file(Arc::clone(&file)))
    });
    notes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_unknown_unless_placeholders_are_enabled() {
        assert_eq!(placeholder_id(IdKind::User, "no-such-user"), None);
    }
}

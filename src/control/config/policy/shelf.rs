//! The lists of one policy, by name.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::document::{Document, Table, Value, nearest, unit};
use crate::control::config::list::{self, ListFile};
use crate::control::config::name::name;
use crate::control::config::page::{Finding, error, warning};
use crate::control::config::source::Fault;
use crate::control::config::{Feed, Reading, about};
use crate::policy::list::List;

/// What `[lists]` holds, and what was found in the files that it names.
#[derive(Debug)]
pub struct Shelf {
    policy: Arc<str>,
    lists: Vec<Shelved>,
    found: Vec<Diagnostic>,
    feeds: Vec<Feed>,
    /// Whether `[lists]` is misspelt, so that no list is known.
    is_misspelt: bool,
}

#[derive(Debug)]
struct Shelved {
    name: Arc<str>,
    key: Range<usize>,
    /// `None`: it has an error, which was reported.
    list: Option<Arc<List>>,
    used: bool,
}

impl Shelf {
    /// No lists yet, of the policy in the file `policy`.
    pub fn new(policy: Arc<str>) -> Shelf {
        Shelf { policy, lists: Vec::new(), found: Vec::new(), feeds: Vec::new(), is_misspelt: false }
    }

    /// The file of the policy, as people write it.
    pub fn policy(&self) -> Arc<str> {
        Arc::clone(&self.policy)
    }

    /// Reads `[lists]`; `is_misspelt` says whether a misspelt table stands in its place.
    pub fn fill(&mut self, table: Table<'_>, reading: &mut Reading<'_>, is_misspelt: bool) {
        self.is_misspelt = is_misspelt;
        for (key, span, value) in table.all() {
            match name(key) {
                Ok(name) => {
                    let list = self.read(Arc::clone(&name), value, reading).map(Arc::new);
                    self.lists.push(Shelved { name, key: span, list, used: false });
                }
                Err(finding) => table.document().report(span, finding),
            }
        }
    }

    /// The list `name`; a known one that has an error is `Ok(None)`.
    pub fn find(&mut self, name: &str) -> Result<Option<Arc<List>>, Finding> {
        if let Some(shelved) = self.lists.iter_mut().find(|shelved| &*shelved.name == name) {
            shelved.used = true;
            return Ok(shelved.list.clone());
        }
        if self.is_misspelt {
            return Ok(None);
        }
        let meant = nearest(name, self.lists.iter().map(|shelved| &*shelved.name)).map(|(_, meant)| meant.to_owned());
        // The list that was meant is not unused.
        for shelved in self.lists.iter_mut().filter(|shelved| meant.as_deref() == Some(&shelved.name)) {
            shelved.used = true;
        }
        let remedy = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("add `{name}` to [lists], or write a network"),
        };
        Err(error(format!("there is no list `{name}`")).remedy(remedy))
    }

    /// Warns of lists that no rule names: a forgotten one denies nobody.
    pub fn report_unused(&self, document: &Document<'_>) {
        for shelved in self.lists.iter().filter(|shelved| !shelved.used) {
            document.report(shelved.key.clone(), warning(format!("the list `{}` is used by no rule", shelved.name)));
        }
    }

    /// The lists that are read from files, once they have been.
    pub fn feeds(&mut self) -> Vec<Feed> {
        std::mem::take(&mut self.feeds)
    }

    /// What was found in list files.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.found
    }

    fn read(&mut self, name: Arc<str>, value: Value<'_>, reading: &mut Reading<'_>) -> Option<List> {
        if value.is_array() {
            let items: Vec<_> = value.items()?;
            return list::from_strings(name, self.policy(), &items, reading.now);
        }
        if !value.is_table() {
            value.unexpected("an array of networks or { file = \"lists/NAME.cidr\" }");
            return None;
        }
        let mut table = value.table(format!("the list `{name}`"))?;
        let file = table.need("file", format!("{name} = {{ file = \"lists/{name}.cidr\" }}"));
        let max_age = table.positive_duration("max_age");
        let on_stale = table.get("on_stale");
        let rejects_stale = on_stale.and_then(|value| value.choice(&[("warn", false), ("reject", true)])).unwrap_or(false);
        if let Some(value) = on_stale
            && !table.has("max_age")
            && !table.misspells("max_age")
        {
            value.report(warning("nothing is ever stale without a `max_age`").remedy("max_age = \"36h\""));
        }
        let max_shrink = table.get("max_shrink").and_then(|value| value.parse_number("a share like \"50%\"", unit::percent));
        table.finish();
        let file = file?;
        let list = self.read_file(Arc::clone(&name), file, reading)?;
        let feed = Feed {
            name,
            file: Arc::clone(&list.file),
            entries: list.len(),
            modified: list.modified,
            max_age,
            rejects_stale,
            max_shrink,
            place: file.place(),
        };
        if let Some(age) = feed.stale(reading.now) {
            file.report(warning(feed.staleness(age)).remedy("let whatever writes it write it again, or raise max_age"));
        }
        self.feeds.push(feed);
        Some(list)
    }

    fn read_file(&mut self, name: Arc<str>, value: Value<'_>, reading: &mut Reading<'_>) -> Option<List> {
        let text = value.parse("a path", |text| if text.is_empty() { Err(error("an empty path")) } else { Ok(text) })?;
        let shown = PathBuf::from(super::FOLDER).join(text);
        let path = reading.folder.join(&shown);
        let shown: Arc<str> = shown.display().to_string().into();
        let torn = reading.torn;
        let unreadable = |fault: Fault| {
            if torn && fault == Fault::Outside {
                return;
            }
            let split = matches!(fault, Fault::TooLarge { .. }).then(|| "split it: a rule may name several lists".into());
            value.report(about(&shown, &fault).perhaps(split));
        };
        let bytes = reading.files.read_list(&path).map_err(unreadable).ok()?;
        let (modified, digest) = (reading.files.modified(&path), reading.files.digest_of(&path)?);
        let read = ListFile { path: &path, bytes: &bytes, digest, quoting: reading.files.quoting(&path) };
        let (entries, found) = reading.lists.read(reading.known, read, reading.now);
        self.found.extend(found);
        Some(List::of_file(name, shown, modified, entries?))
    }
}

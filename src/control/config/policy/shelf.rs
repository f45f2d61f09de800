//! The lists of one policy, by name.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::document::{Document, Table, Value, nearest, unit};
use crate::control::config::identifier::is_name;
use crate::control::config::list::{self, ListFile};
use crate::control::config::name::name;
use crate::control::config::page::{self, Finding, error, warning};
use crate::control::config::pass::{Reading, about};
use crate::control::config::policy::sheet::FOLDER;
use crate::control::config::policy_page::Feed;
use crate::control::config::source::Fault;
use crate::policy::list::List;

/// The rules of `[client]`.
pub const RULES: [&str; 4] = ["allow", "deny", "origins", "subprotocols"];

/// What `[lists]` holds, and what was found in the files that it names.
#[derive(Debug)]
pub struct Shelf {
    policy: Arc<str>,
    lists: Vec<Shelved>,
    found: Vec<Diagnostic>,
    feeds: Vec<Feed>,
    /// Names that are none, of lists that rules may name.
    misnamed: Vec<String>,
    missing: Vec<Missing>,
    /// Whether `[lists]` is misspelt, so that no list is known.
    is_misspelt: bool,
}

/// A list that rules name, and that isn't there.
#[derive(Debug)]
struct Missing {
    name: String,
    /// The key of the rule, and the place of the name, each time.
    uses: Vec<(String, Range<usize>)>,
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
        let (lists, found, feeds, misnamed, missing) = Default::default();
        Shelf { policy, lists, found, feeds, misnamed, missing, is_misspelt: false }
    }

    /// The file of the policy, as people write it.
    pub fn policy(&self) -> Arc<str> {
        Arc::clone(&self.policy)
    }

    /// Reads `[lists]`; `is_misspelt` says whether a misspelt table stands in its place. `rules` are keys that are
    /// rules and no lists: the header that is missing above them.
    pub fn fill(
        &mut self,
        table: Table<'_>,
        reading: &mut Reading<'_>,
        (is_misspelt, rules): (bool, &[&str]),
    ) {
        self.is_misspelt = is_misspelt;
        for (key, span, value) in table.all() {
            if rules.contains(&key) {
                continue;
            }
            match name(key) {
                Ok(name) => {
                    let list = self.read(Arc::clone(&name), value, reading).map(Arc::new);
                    self.lists.push(Shelved { name, key: span, list, used: false });
                }
                Err(finding) => {
                    self.misnamed.push(key.to_owned());
                    table.document().report(span, finding);
                }
            }
        }
    }

    /// Reports lists at the top of the file, which has no `[lists]`: its header is missing above them.
    pub fn adopt(&mut self, root: &mut Table<'_>) {
        let is_list = |value: &Value<'_>| value.is_array() || value.as_table_with("file");
        let lists: Vec<_> = root
            .all()
            .into_iter()
            .filter(|(key, _, value)| is_name(key) && is_list(value))
            .collect();
        let rules = |key: &str| {
            RULES.contains(&key) || ["lists", "client", "limits", "test"].contains(&key)
        };
        let lists: Vec<_> = lists.into_iter().filter(|(key, ..)| !rules(key)).collect();
        let Some((first, span, _)) = lists.first() else { return };
        let finding = error(format!("unknown key `{first}` in the file"));
        root.document().report(
            span.clone(),
            finding.remedy("it belongs below [lists]: is that header missing above?"),
        );
        for (key, ..) in lists {
            self.misnamed.push(key.to_owned());
            root.ignore(key);
        }
    }

    /// The list `name`, which `item` of a rule names. `None` means that it has an error, or that it isn't
    /// there, which [`Shelf::report_missing`] reports.
    pub fn find(&mut self, name: &str, item: &Value<'_>) -> Option<Arc<List>> {
        if let Some(shelved) = self.lists.iter_mut().find(|shelved| &*shelved.name == name) {
            shelved.used = true;
            return shelved.list.clone();
        }
        let is_misnamed = nearest(name, self.misnamed.iter().map(|one| &**one)).is_some();
        if self.is_misspelt || is_misnamed || item.document().is_torn() {
            return None;
        }
        let used = (item.key().to_owned(), item.span());
        match self.missing.iter_mut().find(|missing| missing.name == name) {
            Some(missing) => missing.uses.push(used),
            None => self.missing.push(Missing { name: name.to_owned(), uses: vec![used] }),
        }
        None
    }

    /// Reports the lists that rules name and that are not there, each once: where its own name is
    /// misspelt, if no rule names a list that is near and two rules or more name this one.
    pub fn report_missing(&mut self, document: &Document<'_>) {
        for Missing { name, uses } in std::mem::take(&mut self.missing) {
            let meant = nearest(&name, self.lists.iter().map(|shelved| &*shelved.name))
                .map(|(_, meant)| meant.to_owned());
            let shelved =
                self.lists.iter_mut().find(|shelved| meant.as_deref() == Some(&shelved.name));
            let Some(((key, first), more)) = uses.split_first() else { continue };
            let error = error(format!("there is no list `{name}`")).of(key);
            match shelved {
                Some(shelved) if !shelved.used && !more.is_empty() => {
                    let what = format!(
                        "no rule names the list `{}`, and {} name `{name}`",
                        shelved.name,
                        uses.len()
                    );
                    let finding = page::error(what).remedy(format!("did you mean `{name}`?"));
                    document.report(
                        shelved.key.clone(),
                        finding.and(document.place(first.clone()), "named here"),
                    );
                    shelved.used = true;
                }
                Some(shelved) if !shelved.used => {
                    let remedy = format!("did you mean `{}`, which no rule names?", shelved.name);
                    let error = error
                        .remedy(remedy)
                        .and(document.place(shelved.key.clone()), "the list that no rule names");
                    document.report(first.clone(), error);
                    shelved.used = true;
                }
                Some(shelved) => {
                    let remedy = format!("did you mean `{}`?", shelved.name);
                    report_all(document, &name, &uses, &error.remedy(remedy));
                }
                None => {
                    let remedy = format!("add `{name}` to [lists], or write a network");
                    report_all(document, &name, &uses, &error.remedy(remedy));
                }
            }
        }
    }

    /// Warns of lists that no rule names: a forgotten one denies nobody.
    pub fn report_unused(&self, document: &Document<'_>) {
        for shelved in self.lists.iter().filter(|shelved| !shelved.used) {
            let finding = warning(format!("the list `{}` is used by no rule", shelved.name));
            let remedy =
                format!("name it in a rule, such as deny = [\"{}\"], or remove it", shelved.name);
            document.report(shelved.key.clone(), finding.remedy(remedy));
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

    fn read(
        &mut self,
        name: Arc<str>,
        value: Value<'_>,
        reading: &mut Reading<'_>,
    ) -> Option<List> {
        if let Some(table) = value.only_table() {
            value.report(error("a table in an array").remedy("write it without the brackets"));
            return self.read(name, table, reading);
        }
        if value.is_array() {
            let items: Vec<_> = value.items()?;
            return list::from_strings(name, self.policy(), &items, reading.now);
        }
        if !value.is_table() {
            value.unexpected("an array of networks or { file = \"lists/NAME.cidr\" }");
            let items = value.as_str().map(|_| [value])?;
            return list::from_strings(name, self.policy(), &items, reading.now);
        }
        let mut table = value.table(format!("the list `{name}`"))?;
        let file = table.need("file", format!("{name} = {{ file = \"lists/{name}.cidr\" }}"));
        let max_age = table.positive_duration("max_age");
        let on_stale = table.get("on_stale");
        let rejects_stale = on_stale
            .and_then(|value| value.choice(&[("warn", false), ("reject", true)]))
            .unwrap_or(false);
        if let Some(value) = on_stale
            && !table.has("max_age")
            && !table.misspells("max_age")
        {
            value.report(
                warning("nothing is ever stale without a `max_age`").remedy("max_age = \"36h\""),
            );
        }
        let max_shrink = table
            .get("max_shrink")
            .and_then(|value| value.parse_number("a share like \"50%\"", unit::percent));
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
            file.report(
                warning(feed.staleness(age))
                    .remedy("let whatever writes it write it again, or raise max_age"),
            );
        }
        self.feeds.push(feed);
        Some(list)
    }

    fn read_file(
        &mut self,
        name: Arc<str>,
        value: Value<'_>,
        reading: &mut Reading<'_>,
    ) -> Option<List> {
        let text = value.parse("a path", |text| {
            if text.is_empty() { Err(error("an empty path")) } else { Ok(text) }
        })?;
        let shown = PathBuf::from(FOLDER).join(text);
        let path = reading.folder.join(&shown);
        let shown: Arc<str> = shown.display().to_string().into();
        let torn = reading.torn;
        let unreadable = |fault: Fault| {
            if torn && fault == Fault::Outside {
                return;
            }
            let split = matches!(fault, Fault::TooLarge { .. })
                .then(|| "split it: a rule may name several lists".into());
            value.report(about(&shown, &fault).perhaps(split));
        };
        let bytes = reading.files.read_list(&path).map_err(unreadable).ok()?;
        let (modified, digest) = (reading.files.modified(&path), reading.files.digest_of(&path)?);
        let read =
            ListFile { path: &path, bytes: &bytes, digest, quoting: reading.files.quoting(&path) };
        let (entries, found) = reading.lists.read(reading.known, read, reading.now);
        self.found.extend(found);
        Some(List::of_file(name, shown, modified, entries?))
    }
}

/// Reports that the list `name` isn't there, once for all `uses`.
fn report_all(
    document: &Document<'_>,
    name: &str,
    uses: &[(String, Range<usize>)],
    finding: &Finding,
) {
    for (_, span) in uses {
        document.report_alike(format!("list {name}"), span.clone(), finding.clone());
    }
}

//! The lists of one policy by name.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::document::{Document, TomlTable, TomlValue, nearest};
use crate::control::config::identifier::is_name;
use crate::control::config::keys::policy::lists as keys;
use crate::control::config::list::{self, ListFileBytes};
use crate::control::config::load_context::{LoadContext, about, rooted};
use crate::control::config::name::name;
use crate::control::config::policy::policy_source::POLICY_FOLDER;
use crate::control::config::policy_settings::ListFeed;
use crate::control::config::source::FileError;
use crate::control::config::source_text::{self, Finding, error, warning};
use crate::policy::list::List;

/// Keys of the rules in `[client]`.
pub const RULE_KEYS: [&str; 5] = ["allow", "deny", "origins", "subprotocols", "certificate"];

/// The lists of `[lists]`, and the findings in their files.
#[derive(Debug)]
pub struct ListTable {
    policy: Arc<str>,
    lists: Vec<DefinedList>,
    found: Vec<Diagnostic>,
    feeds: Vec<ListFeed>,
    /// Keys that are no valid names, which a rule may still refer to.
    misnamed: Vec<String>,
    missing: Vec<MissingList>,
    /// Whether `[lists]` is misspelt, so that no list is known.
    is_misspelt: bool,
}

/// A list that rules refer to and `[lists]` does not have.
#[derive(Debug)]
struct MissingList {
    name: String,
    /// For each use, the key of the rule and the place of the name.
    uses: Vec<(String, Range<usize>)>,
}

#[derive(Debug)]
struct DefinedList {
    name: Arc<str>,
    key: Range<usize>,
    /// `None` means that the list has an error, which was reported.
    list: Option<Arc<List>>,
    used: bool,
}

impl ListTable {
    /// An empty table for the policy in the file `policy`.
    pub fn new(policy: Arc<str>) -> ListTable {
        let (lists, found, feeds, misnamed, missing) = Default::default();
        ListTable { policy, lists, found, feeds, misnamed, missing, is_misspelt: false }
    }

    /// The file of the policy, relative to the folder of `sidegate.toml`.
    pub fn policy(&self) -> Arc<str> {
        Arc::clone(&self.policy)
    }

    /// Reads `[lists]`. `is_misspelt` says that a misspelt table takes its place. `rules` are keys
    /// in it that are rules, because the header above them is missing.
    pub fn read_all(
        &mut self,
        table: TomlTable<'_>,
        load: &mut LoadContext<'_>,
        is_misspelt: bool,
        rules: &[&str],
    ) {
        self.is_misspelt = is_misspelt;
        for (key, span, value) in table.all() {
            if rules.contains(&key) {
                continue;
            }
            match name(key) {
                Ok(name) => {
                    let list = self.read(Arc::clone(&name), value, load).map(Arc::new);
                    self.lists.push(DefinedList { name, key: span, list, used: false });
                }
                Err(finding) => {
                    self.misnamed.push(key.to_owned());
                    table.document().report(span, finding);
                }
            }
        }
    }

    /// Reports lists at the top of a file that has no `[lists]`: the header above them is missing.
    pub fn report_misplaced(&mut self, root: &mut TomlTable<'_>) {
        let is_list = |value: &TomlValue<'_>| value.is_array() || value.as_table_with("file");
        let lists: Vec<_> = root
            .all()
            .into_iter()
            .filter(|(key, _, value)| is_name(key) && is_list(value))
            .collect();
        let rules = |key: &str| {
            RULE_KEYS.contains(&key) || ["lists", "client", "limits", "test"].contains(&key)
        };
        let lists: Vec<_> = lists.into_iter().filter(|(key, ..)| !rules(key)).collect();
        let Some((first, span, _)) = lists.first() else { return };
        let finding = error(format!("unknown key `{first}` in the file"));
        root.document().report(
            span.clone(),
            finding.with_remedy("it belongs below [lists]: is that header missing above?"),
        );
        for (key, ..) in lists {
            self.misnamed.push(key.to_owned());
            root.ignore(key);
        }
    }

    /// The list `name`, to which `item` of a rule refers. `None` means that the list has an error,
    /// or does not exist, which [`ListTable::report_missing`] reports.
    pub fn find(&mut self, name: &str, item: &TomlValue<'_>) -> Option<Arc<List>> {
        if let Some(shelved) = self.lists.iter_mut().find(|shelved| &*shelved.name == name) {
            shelved.used = true;
            return shelved.list.clone();
        }
        let is_misnamed = nearest(name, self.misnamed.iter().map(|one| &**one)).is_some();
        // Each of these is an error of its own, of which the missing list is only a consequence.
        if self.is_misspelt || is_misnamed || item.document().has_syntax_errors() {
            return None;
        }
        let used = (item.key().to_owned(), item.span());
        match self.missing.iter_mut().find(|missing| missing.name == name) {
            Some(missing) => missing.uses.push(used),
            None => self.missing.push(MissingList { name: name.to_owned(), uses: vec![used] }),
        }
        None
    }

    /// Reports each list that rules refer to and that does not exist, once. The definition counts
    /// as misspelt if a near name is defined but never used and at least two rules use this one.
    pub fn report_missing(&mut self, document: &Document<'_>) {
        for MissingList { name, uses } in std::mem::take(&mut self.missing) {
            let meant = nearest(&name, self.lists.iter().map(|shelved| &*shelved.name))
                .map(|(_, meant)| meant.to_owned());
            let shelved =
                self.lists.iter_mut().find(|shelved| meant.as_deref() == Some(&shelved.name));
            let Some(((key, first), more)) = uses.split_first() else { continue };
            let error = error(format!("there is no list `{name}`")).with_key(key);
            match shelved {
                Some(shelved) if !shelved.used && !more.is_empty() => {
                    let what = format!(
                        "no rule names the list `{}`, and {} name `{name}`",
                        shelved.name,
                        uses.len()
                    );
                    let finding =
                        source_text::error(what).with_remedy(format!("did you mean `{name}`?"));
                    document.report(
                        shelved.key.clone(),
                        finding.with_related(document.place(first.clone()), "named here"),
                    );
                    shelved.used = true;
                }
                Some(shelved) if !shelved.used => {
                    let remedy = format!("did you mean `{}`, which no rule names?", shelved.name);
                    let error = error.with_remedy(remedy).with_related(
                        document.place(shelved.key.clone()),
                        "the list that no rule names",
                    );
                    document.report(first.clone(), error);
                    shelved.used = true;
                }
                Some(shelved) => {
                    let remedy = format!("did you mean `{}`?", shelved.name);
                    report_all(document, &name, &uses, &error.with_remedy(remedy));
                }
                None => {
                    let remedy = format!("add `{name}` to [lists], or write a network");
                    report_all(document, &name, &uses, &error.with_remedy(remedy));
                }
            }
        }
    }

    /// Warns of lists that no rule uses: a forgotten list has no effect.
    pub fn report_unused(&self, document: &Document<'_>) {
        for shelved in self.lists.iter().filter(|shelved| !shelved.used) {
            let finding = warning(format!("the list `{}` is used by no rule", shelved.name));
            let remedy =
                format!("name it in a rule, such as deny = [\"{}\"], or remove it", shelved.name);
            document.report(shelved.key.clone(), finding.with_remedy(remedy));
        }
    }

    /// Takes the lists that were read from files.
    pub fn feeds(&mut self) -> Vec<ListFeed> {
        std::mem::take(&mut self.feeds)
    }

    /// Findings in the list files.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.found
    }

    fn read(
        &mut self,
        name: Arc<str>,
        value: TomlValue<'_>,
        load: &mut LoadContext<'_>,
    ) -> Option<List> {
        if let Some(table) = value.only_table() {
            value.report(error("a table in an array").with_remedy("write it without the brackets"));
            return self.read(name, table, load);
        }
        if value.is_array() {
            let items: Vec<_> = value.items()?;
            return list::from_strings(name, self.policy(), &items, load.now);
        }
        if !value.is_table() {
            value.unexpected("an array of networks or { file = \"lists/NAME.cidr\" }");
            let items = value.as_str().map(|_| [value])?;
            return list::from_strings(name, self.policy(), &items, load.now);
        }
        let mut table = value.table(format!("the list `{name}`"))?;
        let file =
            table.require(&keys::FILE, format!("{name} = {{ file = \"lists/{name}.cidr\" }}"));
        let max_age = table.read(&keys::MAX_AGE);
        let on_stale = table.get(&keys::ON_STALE);
        let rejects_stale = on_stale
            .and_then(|value| value.read(&keys::ON_STALE.kind.form))
            .unwrap_or_else(|| keys::ON_STALE.default_value());
        if let Some(value) = on_stale
            && !table.has("max_age")
            && !table.misspells("max_age")
        {
            let finding = warning("nothing is ever stale without a `max_age`");
            value.report(finding.with_remedy("max_age = \"36h\""));
        }
        let max_shrink = table.read(&keys::MAX_SHRINK);
        let is_live = table.read_or_default(&keys::LIVE);
        table.finish();
        let file = file?;
        let list = self.read_file(Arc::clone(&name), file, is_live, load)?;
        let feed = ListFeed {
            name,
            file: Arc::clone(&list.file),
            entries: list.len(),
            modified: list.modified,
            max_age,
            rejects_stale,
            max_shrink,
            is_live,
            place: file.place(),
        };
        if let Some(age) = feed.stale(load.now) {
            let remedy = "let whatever writes it write it again, or raise max_age";
            file.report(warning(feed.staleness(age)).with_remedy(remedy));
        }
        self.feeds.push(feed);
        Some(list)
    }

    fn read_file(
        &mut self,
        name: Arc<str>,
        value: TomlValue<'_>,
        is_live: bool,
        load: &mut LoadContext<'_>,
    ) -> Option<List> {
        let text = value.parse("a path", |text| {
            if text.is_empty() { Err(error("an empty path")) } else { Ok(text) }
        })?;
        let shown = PathBuf::from(POLICY_FOLDER).join(text);
        let path = rooted(load.root, load.folder, &shown);
        let shown: Arc<str> = shown.display().to_string().into();
        report_marks(&value, &shown, load.list_marks.add(&path, is_live, value.place()));
        if is_live {
            load.files.mark_live(&path);
        }
        let torn = load.torn;
        let unreadable = |fault: FileError| {
            // `lists_from` may be in the part of `sidegate.toml` that could not be read.
            if torn && fault == FileError::Outside {
                return;
            }
            let split = matches!(fault, FileError::TooLarge { .. })
                .then(|| "split it: a rule may name several lists".into());
            value.report(about(&shown, &fault).with_remedy_if(split));
        };
        let bytes = load.files.read_list(&path).map_err(unreadable).ok()?;
        let (modified, digest) = (load.files.modified(&path), load.files.digest_of(&path)?);
        let read = ListFileBytes {
            path: &path,
            bytes: &bytes,
            digest,
            disclosure: load.files.disclosure(&path),
        };
        let (entries, found) = load.lists.read(load.known, read, load.now);
        self.found.extend(found);
        Some(List::of_file(name, shown, modified, entries?))
    }
}

/// Reports that the list of the file `shown` has another mark at the place `other`. `None` means
/// that all marks agree.
fn report_marks(value: &TomlValue<'_>, shown: &str, other: Option<Span>) {
    let Some(other) = other else { return };
    let finding = error(format!("{shown} is `live` in one list, and not in another"))
        .with_remedy("mark every list of the file, or none: it is held or it is not")
        .with_related(other, "the other list");
    value.report(finding);
}

/// Reports a missing list `name`, once for all `uses`.
fn report_all(
    document: &Document<'_>,
    name: &str,
    uses: &[(String, Range<usize>)],
    finding: &Finding,
) {
    for (_, span) in uses {
        document.defer_repeated(format!("list {name}"), span.clone(), finding.clone());
    }
}

//! Records findings that wait, and explains and reports them at the end of the file.

use std::ops::Range;

use crate::control::config::disclosure::MessageText;
use crate::control::config::document::deferred::{
    DeferredFindings, DuplicateKey, MixedHeaders, ROOT, RepeatedFinding, UnknownKey,
};
use crate::control::config::document::tree::Document;
use crate::control::config::source_text::{Finding, error};

impl Document<'_> {
    /// Records `finding` about the bytes `span`. Of several findings in one `group` the first is
    /// reported, with the number of the others.
    pub fn defer_repeated(&self, group: String, span: Range<usize>, finding: Finding) {
        let is_full = self.pending.borrow().is_full();
        if is_full {
            return self.report(span, finding);
        }
        self.pending.borrow_mut().add_alike(group, span, finding);
    }

    /// Records an unknown key of the table `title`.
    pub(super) fn defer_unknown_key(
        &self,
        name: &str,
        span: Range<usize>,
        title: &str,
        finding: Finding,
    ) {
        if self.is_damaged_at(span.start) {
            return;
        }
        if self.is_full() {
            return self.report(span, finding);
        }
        let (name, title) = (name.to_owned(), title.to_owned());
        self.pending.borrow_mut().strays.push(UnknownKey { name, span, title, finding });
    }

    /// Records that a table of this title may have `keys`.
    pub(super) fn has_keys(&self, title: &str, keys: &[&'static str]) {
        let keys = keys.iter().map(|key| MessageText::from(*key)).collect();
        self.pending.borrow_mut().knows(title, keys);
    }

    /// Records that `name`, at `span`, appears twice.
    pub(super) fn note_duplicate(
        &self,
        name: &str,
        span: Range<usize>,
        first: Option<Range<usize>>,
    ) {
        if self.is_full() {
            return self.source_text.report(span, error(format!("`{name}` is defined twice")));
        }
        let header = self.header_above(span.start);
        let duplicate = DuplicateKey { name: name.to_owned(), span, first, header };
        self.pending.borrow_mut().duplicates.push(duplicate);
    }

    /// Records that the table `name` has headers of both kinds.
    pub(super) fn note_mixed(
        &self,
        name: &str,
        singles: Vec<Range<usize>>,
        doubles: Vec<Range<usize>>,
    ) {
        let mixed = MixedHeaders { name: name.to_owned(), singles, doubles };
        self.pending.borrow_mut().mixed.push(mixed);
    }

    /// Reports the headers of `name` that are of the wrong kind, if there are headers of both.
    /// `is_list` says which kind is right. Returns whether there were both.
    pub(super) fn report_mixed(&self, name: &str, is_list: bool) -> bool {
        let mut pending = self.pending.borrow_mut();
        let Some(at) = pending.mixed.iter().position(|mixed| mixed.name == name) else {
            return false;
        };
        let MixedHeaders { singles, doubles, .. } = pending.mixed.remove(at);
        // `report` borrows the findings again.
        drop(pending);
        let (wrong, finding) = match is_list {
            true => (singles, one_of_several(name)),
            false => (
                doubles,
                list_of_one(name).with_remedy(format!("keep one table, and write [{name}]")),
            ),
        };
        if let Some(span) = wrong.into_iter().next() {
            self.source_text.report(span, finding);
        }
        true
    }

    /// Drops the record of a second `name` whose first place is `first`.
    pub(super) fn forgive_duplicate(&self, name: &str, first: &Range<usize>) {
        let is_it = |one: &DuplicateKey| one.name == name && one.first.as_ref() == Some(first);
        self.pending.borrow_mut().duplicates.retain(|one| !is_it(one));
    }

    /// Reports every finding that waited.
    pub(super) fn report_deferred(&self) {
        let mut pending = self.pending.take();
        for MixedHeaders { name, singles, doubles } in std::mem::take(&mut pending.mixed) {
            let finding =
                error(format!("`{name}` is a table here, and a list of tables elsewhere"));
            if let Some((span, other)) = singles.first().zip(doubles.first()) {
                let finding = finding.clone().with_remedy("write the same brackets around both");
                self.source_text.report(
                    span.clone(),
                    finding.with_related(self.place(other.clone()), "the other one"),
                );
            }
        }
        self.report_unknown_keys(&mut pending);
        self.report_duplicates(pending.duplicates);
        for RepeatedFinding { span, finding, more, .. } in pending.alike {
            let label = match more.len() {
                0 | 1 => "also here".to_owned(),
                count => format!("also here, and in {} more", places(count - 1)),
            };
            let finding = match more.first() {
                Some(second) => finding.with_related(self.place(second.clone()), label),
                None => finding,
            };
            self.report(span, finding);
        }
        if self.source_text.errors() == 0
            && (self.has_syntax_errors() || self.has_unknown_keys.get())
        {
            // Files with an error are never accepted, even if explanations have removed every
            // single report.
            self.source_text.report(0..0, error("the file could not be read as it was meant"));
        }
    }

    /// Reports unknown keys, in one error if another table may have all of them.
    fn report_unknown_keys(&self, pending: &mut DeferredFindings) {
        let strays = std::mem::take(&mut pending.strays);
        if !strays.is_empty() {
            pending.add_absent(ROOT);
        }
        for group in
            strays.chunk_by(|one, next| one.title == next.title && self.are_together(one, next))
        {
            let names: Vec<_> = group.iter().map(|stray| &*stray.name).collect();
            let first = &group[0];
            let header = self.header_above(first.span.start);
            let beside =
                |one: &&DuplicateKey| one.header == header && !self.is_header(one.span.start);
            let twins: Vec<_> =
                pending.duplicates.iter().filter(beside).map(|one| &*one.name).collect();
            let Some(home) = pending
                .find_table_for(&first.title, &names, &twins)
                .filter(|_| may_be_moved(group, &twins))
            else {
                for UnknownKey { name, span, title, finding } in group {
                    let finding = finding.clone();
                    let known =
                        if finding.has_remedy() { None } else { pending.known(title, name) };
                    let finding = finding.with_remedy_if(known);
                    // A word of another server tends to be in each table of that title.
                    pending.add_alike(format!("{name} in {title}"), span.clone(), finding);
                }
                continue;
            };
            // Keys that the table above has too now seem to appear twice.
            let has = |name: &str| home.keys.iter().any(|key| key == name);
            let moved = |one: &DuplicateKey| beside(&one) && has(&one.name);
            let spans = pending.duplicates.iter().filter(|one| moved(one)).map(|one| &one.span);
            let start = spans
                .chain([&first.span])
                .min_by_key(|span| span.start)
                .cloned()
                .unwrap_or_default();
            let is_one = names.len() + twins.len() == 1;
            let (what, them) = if is_one {
                ("unknown key", "it belongs")
            } else {
                ("unknown keys", "they belong")
            };
            let finding = error(format!("{what} {} in {}", listed(&names), first.title));
            let remedy = format!("{them} below {}: is that header missing above?", home.title);
            let left: Vec<_> = pending.duplicates.iter().map(|one| !moved(one)).collect();
            // Not `report`, which omits findings in the line of a duplicate key.
            self.source_text.report(start, finding.with_remedy(remedy));
            let mut left = left.into_iter();
            pending.duplicates.retain(|_| left.next().unwrap_or(true));
        }
    }

    /// Reports duplicates, in one error for several keys of a table.
    fn report_duplicates(&self, mut duplicates: Vec<DuplicateKey>) {
        duplicates.sort_by_key(|one| one.span.start);
        let is_key = |one: &DuplicateKey| !self.is_header(one.span.start);
        let together = |one: &DuplicateKey, next: &DuplicateKey| {
            is_key(one)
                && is_key(next)
                && self.header_above(one.span.start) == self.header_above(next.span.start)
        };
        for group in duplicates.chunk_by(together) {
            let names: Vec<_> = group.iter().map(|one| &*one.name).collect();
            let first = &group[0];
            let (verb, remedy) = match group {
                [one] if is_key(one) => {
                    ("is", "keep one of the two, or correct the name of one".to_owned())
                }
                [_] => ("is", "keep one of the two".to_owned()),
                _ => (
                    "are",
                    format!("keep one of each: is a header like `{}` missing above?", first.header),
                ),
            };
            let finding =
                error(format!("{} {verb} defined twice", listed(&names))).with_remedy(remedy);
            let finding = match &first.first {
                Some(earlier) => finding.with_related(self.place(earlier.clone()), "first here"),
                None => finding,
            };
            self.source_text.report(first.span.clone(), finding);
        }
    }

    fn are_together(&self, one: &UnknownKey, next: &UnknownKey) -> bool {
        self.header_above(one.span.start) == self.header_above(next.span.start)
    }

    fn is_header(&self, at: usize) -> bool {
        self.source_text.line_at(self.source_text.line(at)).1.trim_start().starts_with('[')
    }

    /// The header of the table with the byte `at`. For a header, that of the table above.
    fn header_above(&self, at: usize) -> String {
        let above = self.source_text.text().get(..at).unwrap_or_default();
        let begin = above.rfind('\n').map_or(0, |newline| newline + 1);
        let is_header =
            |line: &&str| line.starts_with('[') && line.contains(']') && !line.contains('=');
        let header = above[..begin].lines().rev().map(str::trim).find(is_header);
        header.and_then(|line| Some(&line[..=line.rfind(']')?])).unwrap_or_default().to_owned()
    }
}

/// The error about a single table in the place of a list of tables.
pub(super) fn one_of_several(name: &str) -> Finding {
    error("one table where several can be")
        .with_key(last(name))
        .with_remedy(format!("write [[{name}]]"))
}

/// The error about a list of tables in the place of a single table.
pub(super) fn list_of_one(name: &str) -> Finding {
    error("a list of tables, where there is one table").with_key(last(name))
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether the keys are more likely to be in the wrong table than misspelt.
fn may_be_moved(group: &[UnknownKey], twins: &[&str]) -> bool {
    group.len() + twins.len() > 1 || !group[0].finding.has_remedy()
}

fn listed(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    match names.len() - quoted.len() {
        0 => quoted.join(", "),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}

fn places(count: usize) -> String {
    if count == 1 { "place".into() } else { format!("{count} places") }
}

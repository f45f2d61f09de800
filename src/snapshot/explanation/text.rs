//! The text form of an explanation: the verdict, and a line for each fact it was based on.

use std::fmt;

use crate::policy::limit::LimitUnit;
use crate::snapshot::explanation::report::{
    EntryExplanation, Explanation, LimitExplanation, LimitKeyExplanation, ListExplanation,
};

impl fmt::Display for Explanation {
    /// Several lines, without a final newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdict(f)?;
        line(f, "client", &format_args!("{}, {}", self.client, self.derived))?;
        if let Some(at) = &self.at {
            line(f, "time", at)?;
        }
        match &self.route {
            Some(route) => {
                line(f, "route", &format_args!("{route}, for {} ({})", self.target, self.kind))?;
            }
            None if self.target.is_empty() => {}
            None => line(f, "route", &format_args!("none for {}", self.target))?,
        }
        match (&self.slash, &self.route) {
            (Some(slash), Some(_)) => {
                line(f, "answer", &format_args!("308 to {slash}, which is judged here"))?;
            }
            (Some(slash), None) => {
                let text =
                    format_args!("a route begins at {slash}: the slash at the end is missing");
                line(f, "hint", &text)?;
            }
            (None, _) => {}
        }
        if let Some(delivery) = self.delivery.as_ref().filter(|delivery| delivery.is_notable) {
            line(f, "refused", &format_args!("by {}: {}", delivery.form, delivery.says))?;
        }
        for note in &self.notes {
            line(f, "note", note)?;
        }
        for said in &self.rules {
            line(f, &said.rule, &said.says)?;
        }
        for limited in &self.limits {
            line(f, "limit", limited)?;
        }
        if let Some(candidate) = &self.candidate {
            let would = match &candidate.reason {
                Some(reason) => format!("would refuse: {reason}"),
                None => "would permit".into(),
            };
            line(f, "candidate", &format_args!("{} {would}", candidate.file))?;
        }
        Ok(())
    }
}

impl Explanation {
    /// Writes the first line: `REFUSE 403 network   policy market-data
    /// (policies/market-data.toml:10)`.
    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reason, self.status) {
            (None, _) => f.write_str("ALLOW")?,
            (Some(reason), Some(status)) => write!(f, "REFUSE {status} {reason}")?,
            (Some(reason), None) => write!(f, "REFUSE {reason}")?,
        }
        match (&self.policy, &self.rule) {
            (Some(policy), Some(rule)) => write!(f, "   policy {policy} ({rule})"),
            (Some(policy), None) => write!(f, "   policy {policy}"),
            (None, Some(rule)) => write!(f, "   {rule}"),
            (None, None) => Ok(()),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, subject: &str, text: &dyn fmt::Display) -> fmt::Result {
    write!(f, "\n  {subject:<11} {text}")
}

/// The verdicts of a rule's lists. Lists without an entry for the client share one phrase.
pub fn lists(lists: &[ListExplanation], admits: bool) -> String {
    if let Some(held) = lists.iter().find(|list| list.holds) {
        return match &held.by {
            Some(entry) => format!("in {}: {entry}", name(held)),
            None => format!("in {}", name(held)),
        };
    }
    let mut said: Vec<String> = Vec::new();
    let silent: Vec<_> =
        lists.iter().filter(|list| list.by.is_none() && list.instead.is_none()).collect();
    for list in lists {
        match (&list.by, &list.instead) {
            (Some(by), Some(instead)) => {
                let would = if admits { "would match" } else { "carved out of" };
                said.push(format!("{}: carved out by {by}; {would} {instead}", name(list)));
            }
            (Some(by), None) => said.push(format!("{}: carved out by {by}", name(list))),
            (None, Some(lapsed)) => said.push(format!("{}: {lapsed} has lapsed", name(list))),
            (None, None) => {}
        }
    }
    if !silent.is_empty() {
        let names: Vec<_> = silent
            .iter()
            .map(|list| format!("{} ({})", name(list), entries(list.entries)))
            .collect();
        said.push(format!("not in {}", names.join(", ")));
    }
    if said.is_empty() { "no client: it names no list".into() } else { said.join("; ") }
}

/// The count in words: `1,204 entries`.
fn entries(count: usize) -> String {
    format!("{} {}", group_digits(count), if count == 1 { "entry" } else { "entries" })
}

/// Name of the list, or a reference to the rule that contains its entries.
fn name(list: &ListExplanation) -> String {
    match list.list.strip_prefix('(') {
        Some(_) => "the rule itself".into(),
        None => format!("`{}`", list.list),
    }
}

impl fmt::Display for EntryExplanation {
    /// As in `203.0.113.66 (policies/lists/partners.cidr:2, ticket SEC-2190)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.entry, self.place)?;
        for (noted, word) in
            [(&self.owner, "owner"), (&self.ticket, "ticket"), (&self.expires, "expires")]
        {
            if let Some(noted) = noted {
                write!(f, ", {word} {}", noted.escape_debug())?;
            }
        }
        f.write_str(")")
    }
}

impl fmt::Display for LimitExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.limit, self.written)?;
        if let Some(place) = &self.place {
            f.write_str(" (")?;
            match &self.pattern {
                Some(pattern) => write!(f, "an exception for \"{pattern}\", ")?,
                None if self.exception => f.write_str("an exception, ")?,
                None => {}
            }
            write!(f, "{place})")?;
        }
        // By address is the rule, and the address is in the first line.
        let by = self.key.as_ref().filter(|key| key.unit == LimitUnit::Identity);
        if let Some(LimitKeyExplanation { name, .. }) = by {
            write!(f, ", counted by {name}")?;
        }
        match self.left {
            Some(left) => write!(f, "; {} left", group_digits(left as usize)),
            None => Ok(()),
        }
    }
}

/// Joins with commas: `a, b, c`. Of more than eight items it shows the first eight.
pub fn first_eight<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    match items.len() {
        0 => "nothing".into(),
        1..=8 => items.join(", "),
        more => format!("{}, … and {} more", items[..8].join(", "), more - 8),
    }
}

/// Formats `1204` as `1,204`.
fn group_digits(number: usize) -> String {
    let digits = number.to_string();
    let groups =
        digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(",")
}

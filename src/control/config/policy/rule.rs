//! `[client]`: the clients that a policy admits and denies, with which origins and subprotocols,
//! and the lines of these rules.

use std::sync::Arc;

use jiff::Timestamp;

use super::shelf::Shelf;
use crate::control::config::document::{Table, Value, did_you_mean};
use crate::control::config::identifier::is_name;
use crate::control::config::keys::policy::client as keys;
use crate::control::config::list;
use crate::control::config::page::{Finding, error, warning};
use crate::policy::Allow;
use crate::policy::list::List;
use crate::policy::origin::{Origins, Pattern};
use crate::policy::rule::RuleLines;
use crate::policy::subprotocol::Subprotocols;

/// Names of the lists of networks that are written in a rule itself. No `[lists]` entry can have
/// one.
const ALLOW_ITSELF: &str = "(allow)";
const DENY_ITSELF: &str = "(deny)";
const LIMITS_ITSELF: &str = "limits.for";

/// Reads `allow`, which is required. `None` means that an error was reported.
pub fn allow(client: &mut Table<'_>, shelf: &mut Shelf, now: Timestamp) -> Option<Allow> {
    let value = client.need(&keys::ALLOW, "allow = [\"any\"] admits everyone")?;
    let strings = value.strings()?;
    if let Some((_, any)) = strings.iter().find(|(text, _)| *text == "any") {
        if strings.len() > 1 {
            any.report(
                error("\"any\" excludes other entries")
                    .remedy("everyone is admitted already: leave the others out"),
            );
        }
        return Some(Allow::Any);
    }
    if strings.is_empty() {
        value.report(
            warning("an empty list admits no client").remedy("allow = [\"any\"] admits everyone"),
        );
    }
    let lists = lists(&strings, ALLOW_ITSELF, shelf, now, |item, list| {
        if list.is_empty() {
            item.report(warning(format!("`{}` has no entries: it admits no client", list.name)));
        }
    });
    Some(Allow::Lists(lists))
}

/// Reads `deny`; by default it is empty.
pub fn deny(client: &mut Table<'_>, shelf: &mut Shelf, now: Timestamp) -> Vec<Arc<List>> {
    let strings = client.get(&keys::DENY).and_then(|value| value.strings()).unwrap_or_default();
    if let Some((_, any)) = strings.iter().find(|(text, _)| *text == "any") {
        any.report(error("\"any\" is valid in `allow` only").remedy("allow = [] admits no client"));
        return Vec::new();
    }
    lists(&strings, DENY_ITSELF, shelf, now, |_, _| {})
}

/// Reads the clients of the `[[limits.for]]` with this number, from 1.
pub fn exempt(
    value: &Value<'_>,
    number: usize,
    shelf: &mut Shelf,
    now: Timestamp,
) -> Vec<Arc<List>> {
    let Some(strings) = value.strings() else { return Vec::new() };
    if let Some((_, any)) = strings.iter().find(|(text, _)| *text == "any") {
        any.report(
            error("\"any\" is valid in `allow` only")
                .remedy("limits for all clients belong into [limits] itself"),
        );
        return Vec::new();
    }
    if strings.is_empty() {
        value.report(warning("an empty list matches no client"));
    }
    // Each has a name of its own, because metrics must not repeat the labels of a list.
    let itself = if number == 1 {
        format!("({LIMITS_ITSELF})")
    } else {
        format!("({LIMITS_ITSELF} {number})")
    };
    lists(&strings, &itself, shelf, now, |_, _| {})
}

/// Reads `origins`. `None` means that origins are not checked, or that an error was reported.
pub fn origins(client: &mut Table<'_>) -> Option<Origins> {
    let value = client.get(&keys::ORIGINS)?;
    let strings = value.strings()?;
    if strings.is_empty() {
        value.report(
            warning("an empty list admits no page")
                .remedy("leave it out, and the origin is not looked at"),
        );
    }
    let parse = |(_, item): (&str, Value<'_>)| item.parse("an origin", origin);
    Some(Origins::new(strings.into_iter().filter_map(parse).collect()))
}

fn origin(text: &str) -> Result<Pattern, Finding> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let meant = || did_you_mean(text, ["same", "none", "null"]).filter(|_| is_word);
    Origins::parse_one(text).map_err(|fault| error(fault).perhaps(meant()))
}

/// Reads `subprotocols`. `None` means that they are not checked, or that an error was reported.
pub fn subprotocols(client: &mut Table<'_>) -> Option<Subprotocols> {
    let value = client.get(&keys::SUBPROTOCOLS)?;
    let strings = value.strings()?;
    if strings.is_empty() {
        value.report(
            warning("an empty list admits no attempt")
                .remedy("leave it out, and subprotocols are not looked at"),
        );
    }
    let parse =
        |(_, item): (&str, Value<'_>)| item.parse("a subprotocol", subprotocol).map(Box::from);
    Some(Subprotocols::new(strings.into_iter().filter_map(parse).collect()))
}

/// Checks the name of a subprotocol (RFC 6455 §4.1).
pub fn subprotocol(text: &str) -> Result<&str, Finding> {
    let fault = || {
        error(format!("\"{text}\" is not a subprotocol"))
            .remedy("letters, digits and !#$%&'*+-.^_`|~")
    };
    if is_token(text) { Ok(text) } else { Err(fault()) }
}

/// Line numbers of a policy's rules; 0 for omitted ones.
pub fn lines(client: &Table<'_>, limits: Option<&Table<'_>>) -> RuleLines {
    let limit = |key| limits.map_or(0, |limits| limits.line(key));
    RuleLines {
        allow: client.line("allow"),
        deny: client.line("deny"),
        origins: client.line("origins"),
        subprotocols: client.line("subprotocols"),
        upgrades: limit("upgrades"),
        requests: limit("requests"),
        connections: limit("connections"),
    }
}

/// The lists in `items`, and a list called `itself` of the networks written there. `look` is called
/// with each item that is a list's name, and its list.
fn lists(
    items: &[(&str, Value<'_>)],
    itself: &str,
    shelf: &mut Shelf,
    now: Timestamp,
    look: impl Fn(&Value<'_>, &List),
) -> Vec<Arc<List>> {
    let (mut lists, mut lines) = (Vec::new(), Vec::new());
    for (text, item) in items {
        if *text == "unix" {
            item.report(error("\"unix\": not in this version"));
        } else if is_name(text) {
            lists.extend(shelf.find(text, item).inspect(|list| look(item, list)));
        } else if text.strip_prefix('!').is_some_and(is_name) {
            item.report(error("a list cannot be carved out").remedy("put it into `deny`"));
        } else {
            lines.push(*item);
        }
    }
    if !lines.is_empty() {
        lists.extend(list::from_strings(itself.into(), shelf.policy(), &lines, now).map(Arc::new));
    }
    lists
}

/// Whether `text` is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

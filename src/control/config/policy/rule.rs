//! `[client]`: the clients that a policy admits and denies, with which origins and subprotocols,
//! and the lines of these rules.

use std::sync::Arc;

use jiff::Timestamp;

use super::list_table::ListTable;
use crate::control::config::document::{TomlTable, TomlValue, did_you_mean};
use crate::control::config::identifier::is_name;
use crate::control::config::keys::policy::{certificate, client as keys};
use crate::control::config::list;
use crate::control::config::source_text::{Finding, error, warning};
use crate::policy::AllowRule;
use crate::policy::certificate::{CertificateRule, IdentityPattern};
use crate::policy::list::{List, ListEntry};
use crate::policy::origin::{OriginPattern, Origins};
use crate::policy::rule::RuleLines;
use crate::policy::subprotocol::Subprotocols;
use crate::policy::unix::UnixPattern;

/// Names of the lists of networks that are written in a rule itself. No `[lists]` entry can have
/// one.
const INLINE_ALLOW: &str = "(allow)";
const INLINE_DENY: &str = "(deny)";
const INLINE_LIMITS: &str = "limits.for";

/// Reads `allow`, which is required. `None` means that an error was reported.
pub fn allow(
    client: &mut TomlTable<'_>,
    list_table: &mut ListTable,
    now: Timestamp,
) -> Option<AllowRule> {
    let value = client.require(&keys::ALLOW, "allow = [\"any\"] admits everyone")?;
    let strings = value.strings()?;
    if let Some((_, any)) = strings.iter().find(|(text, _)| *text == "any") {
        if strings.len() > 1 {
            any.report(
                error("\"any\" excludes other entries")
                    .with_remedy("everyone is admitted already: leave the others out"),
            );
        }
        return Some(AllowRule::Any);
    }
    if strings.is_empty() {
        value.report(
            warning("an empty list admits no client")
                .with_remedy("allow = [\"any\"] admits everyone"),
        );
    }
    let lists = lists(&strings, INLINE_ALLOW, list_table, now, |item, list| {
        if list.is_empty() {
            item.report(warning(format!("`{}` has no entries: it admits no client", list.name)));
        }
    });
    report_overflow(&value, &lists);
    Some(AllowRule::Lists(lists))
}

/// Reports entries of `allow` that name the overflow id, which is no user's.
fn report_overflow(value: &TomlValue<'_>, lists: &[Arc<List>]) {
    let named = |entry: &ListEntry| {
        entry.admits && entry.pattern.users().is_some_and(UnixPattern::is_overflow)
    };
    let mut entries = lists.iter().flat_map(|list| list.user_entries());
    if let Some(entry) = entries.find(|entry| named(entry)) {
        let finding = error(format!("{entry} admits any user of other user namespaces"));
        value.report(finding.with_remedy(
            "the kernel shows all of them as 65534: admit a user of this host, or a group",
        ));
    }
}

/// Reads `deny`; by default it is empty.
pub fn deny(
    client: &mut TomlTable<'_>,
    list_table: &mut ListTable,
    now: Timestamp,
) -> Vec<Arc<List>> {
    let strings = client.get(&keys::DENY).and_then(|value| value.strings()).unwrap_or_default();
    if let Some((_, any)) = strings.iter().find(|(text, _)| *text == "any") {
        any.report(
            error("\"any\" is valid in `allow` only").with_remedy("allow = [] admits no client"),
        );
        return Vec::new();
    }
    lists(&strings, INLINE_DENY, list_table, now, |_, _| {})
}

/// Reads the clients of the `[[limits.for]]` with this number, from 1.
pub fn exempt(
    value: &TomlValue<'_>,
    number: usize,
    list_table: &mut ListTable,
    now: Timestamp,
) -> Vec<Arc<List>> {
    let Some(strings) = value.strings() else { return Vec::new() };
    if let Some((_, any)) = strings.iter().find(|(text, _)| *text == "any") {
        any.report(
            error("\"any\" is valid in `allow` only")
                .with_remedy("limits for all clients belong into [limits] itself"),
        );
        return Vec::new();
    }
    if strings.is_empty() {
        value.report(warning("an empty list matches no client"));
    }
    // Each has a name of its own, because metrics must not repeat the labels of a list.
    let itself = if number == 1 {
        format!("({INLINE_LIMITS})")
    } else {
        format!("({INLINE_LIMITS} {number})")
    };
    lists(&strings, &itself, list_table, now, |_, _| {})
}

/// Reads the names of certificates of a `[[limits.for]]`.
pub fn exempt_identities(value: &TomlValue<'_>) -> Box<[IdentityPattern]> {
    patterns(value, Some(warning("an empty list matches no certificate")))
}

/// Reads `origins`. `None` means that origins are not checked, or that an error was reported.
pub fn origins(client: &mut TomlTable<'_>) -> Option<Origins> {
    let value = client.get(&keys::ORIGINS)?;
    // `None` means unchecked, so a wrong type must not end here in silence: the report of `strings`
    // keeps the file from use.
    let strings = value.strings()?;
    if strings.is_empty() {
        value.report(
            warning("an empty list admits no page")
                .with_remedy("leave it out, and the origin is not looked at"),
        );
    }
    let parse = |(_, item): (&str, TomlValue<'_>)| item.parse("an origin", origin);
    Some(Origins::new(strings.into_iter().filter_map(parse).collect()))
}

fn origin(text: &str) -> Result<OriginPattern, Finding> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let meant = || did_you_mean(text, ["same", "none", "null"]).filter(|_| is_word);
    Origins::parse_one(text).map_err(|fault| error(fault).with_remedy_if(meant()))
}

/// Reads `subprotocols`. `None` means that they are not checked, or that an error was reported.
pub fn subprotocols(client: &mut TomlTable<'_>) -> Option<Subprotocols> {
    let value = client.get(&keys::SUBPROTOCOLS)?;
    let strings = value.strings()?;
    if strings.is_empty() {
        value.report(
            warning("an empty list admits no attempt")
                .with_remedy("leave it out, and subprotocols are not looked at"),
        );
    }
    let parse =
        |(_, item): (&str, TomlValue<'_>)| item.parse("a subprotocol", subprotocol).map(Box::from);
    Some(Subprotocols::new(strings.into_iter().filter_map(parse).collect()))
}

/// Reads `certificate`. `None` means that certificates are not checked, or that an error was
/// reported.
pub fn certificate(client: &mut TomlTable<'_>) -> Option<CertificateRule> {
    if !client.has("certificate") {
        return None;
    }
    let mut table = client.table(&keys::CERTIFICATE);
    let required = table.read_or_default(&certificate::REQUIRED);
    let empty = warning("an empty list admits no certificate")
        .with_remedy("leave it out, and every verified certificate is admitted");
    let allow = table.get(&certificate::ALLOW).map(|value| patterns(&value, Some(empty)));
    let deny =
        table.get(&certificate::DENY).map(|value| patterns(&value, None)).unwrap_or_default();
    report_denied(table.get(&certificate::ALLOW), &deny);
    table.finish();
    Some(CertificateRule { required, allow, deny })
}

/// Warns of names in `allow` that `deny` has too.
fn report_denied(allow: Option<TomlValue<'_>>, deny: &[IdentityPattern]) {
    for (text, item) in allow.and_then(|value| value.strings()).unwrap_or_default() {
        let Ok(pattern) = IdentityPattern::parse(text) else { continue };
        if let Some(denies) = deny.iter().find(|denies| pattern.is_within(denies)) {
            let finding = warning(format!("admits no certificate: {denies} in `deny` has it too"));
            item.report(finding.with_remedy("remove one of the two"));
        }
    }
}

/// The patterns of a list. Reports each value that is not a pattern, and `empty` of an empty list.
fn patterns(value: &TomlValue<'_>, empty: Option<Finding>) -> Box<[IdentityPattern]> {
    let Some(strings) = value.strings() else { return Box::default() };
    if let Some(empty) = empty.filter(|_| strings.is_empty()) {
        value.report(empty);
    }
    let parse = |(_, item): (&str, TomlValue<'_>)| {
        item.parse("a name of a certificate", |text| {
            IdentityPattern::parse(text).map_err(|fault| {
                error(format!("\"{text}\" is no name of a certificate: {fault}")).with_remedy(
                    "a URI like \"spiffe://example.com/ws/*\", \"dns:client.example.com\", \
                     or \"sha256:HEX\" for a key",
                )
            })
        })
    };
    let parse_one = |(text, item)| {
        let pattern: IdentityPattern = parse((text, item))?;
        if pattern.has_odd_segment() {
            let finding = warning(format!(
                "\"{text}\" has an empty or a dot segment, which certificates hardly have"
            ));
            item.report(finding.with_remedy("write the name as the authority gives it out"));
        }
        Some(pattern)
    };
    strings.into_iter().filter_map(parse_one).collect()
}

/// Checks the name of a subprotocol (RFC 6455 §4.1).
pub fn subprotocol(text: &str) -> Result<&str, Finding> {
    let fault = || {
        error(format!("\"{text}\" is not a subprotocol"))
            .with_remedy("letters, digits and !#$%&'*+-.^_`|~")
    };
    if is_token(text) { Ok(text) } else { Err(fault()) }
}

/// Line numbers of a policy's rules; 0 for omitted ones.
pub fn lines(client: &TomlTable<'_>, limits: Option<&TomlTable<'_>>) -> RuleLines {
    let limit = |key| limits.map_or(0, |limits| limits.line(key));
    RuleLines {
        allow: client.line("allow"),
        deny: client.line("deny"),
        origins: client.line("origins"),
        subprotocols: client.line("subprotocols"),
        certificate: client.line("certificate"),
        upgrades: limit("upgrades"),
        requests: limit("requests"),
        connections: limit("connections"),
        streams: limit("streams"),
    }
}

/// The lists in `items`, and a list called `itself` of the networks written there. `look` is called
/// with each item that is a list's name, and its list.
fn lists(
    items: &[(&str, TomlValue<'_>)],
    itself: &str,
    list_table: &mut ListTable,
    now: Timestamp,
    look: impl Fn(&TomlValue<'_>, &List),
) -> Vec<Arc<List>> {
    let (mut lists, mut lines) = (Vec::new(), Vec::new());
    for (text, item) in items {
        // Reserved, and so the name of no list.
        if UnixPattern::is_meant(text.trim_start_matches('!')) {
            lines.push(*item);
        } else if is_name(text) {
            lists.extend(list_table.find(text, item).inspect(|list| look(item, list)));
        } else if text.strip_prefix('!').is_some_and(is_name) {
            item.report(error("a list cannot be carved out").with_remedy("put it into `deny`"));
        } else {
            lines.push(*item);
        }
    }
    if !lines.is_empty() {
        lists.extend(
            list::from_strings(itself.into(), list_table.policy(), &lines, now).map(Arc::new),
        );
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

//! Renders a status as text of at most 100 columns, if names have a reasonable length.
//!
//! Rendering is a pure function, which golden tests cover. Control characters in the agent's texts
//! are replaced.

use crate::cli::output::count_u64;
use crate::cli::status::format::{bytes, day, duration, number, rate, timestamp};
use crate::cli::status::table::{Row, Tone, paint, table};
use sidegate::admin::wire::{
    BackendStatus, CandidateStatus, CertificateStatus, DiagnosticReport, EXPIRY_WARNING_DAYS,
    LastOutcome, LastReload, ListStatus, ListenerProtocol, ListenerStatus, PendingStatus,
    ReloadCause, RouteRates, RouteStatus, StatusAnswer,
};
use sidegate::observe::printable;

/// The text of all sections that have content.
pub fn screen(status: &StatusAnswer, color: bool) -> String {
    let sections = [head, listeners, routes, candidates, certificates, lists, warnings]
        .map(|section| section(status, color));
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The head lines: version, configuration, generation, and the last reload.
fn head(status: &StatusAnswer, color: bool) -> String {
    let line = |name: &str, value: &str| headline(name, value, color);
    let StatusAnswer { pid, tunnels, exchanges, generation, .. } = status;
    let draining =
        if status.draining { paint(", draining", Tone::Warning, color) } else { String::new() };
    let noun = if *tunnels == 1 { "tunnel" } else { "tunnels" };
    let version = plain(&status.version);
    let mut out =
        line("sidegate", &format!("{version}, pid {pid}, {} {noun}{draining}", number(*tunnels)));
    if *exchanges > 0 {
        out.push_str(&line("exchanges", &format!("{} in flight", number(*exchanges))));
    }
    if status.bans > 0 {
        out.push_str(&line("bans", &format!("{} in force", number(status.bans))));
    }
    out.push_str(&line("config", &plain(&status.config)));
    out.push_str(&line("generation", &format!("{generation} ({})", plain(&status.digest))));
    out.push_str(&line("since", &timestamp(status.since, status.now)));
    if let Some(pending) = &status.pending {
        out.push_str(&self::pending(pending, status, color));
    }
    match &status.last_reload {
        None => out.push_str(&line("last reload", "none since the start")),
        Some(last) => out.push_str(&last_reload(last, status, color)),
    }
    out
}

/// The line about pending files, and a line for each of their diagnostics.
fn pending(pending: &PendingStatus, status: &StatusAnswer, color: bool) -> String {
    let effect = match (pending.rejected, pending.would_revoke) {
        (true, _) => paint("would be rejected", Tone::Error, color),
        (false, None) => paint("effect not known", Tone::Warning, color),
        (false, Some(revoked)) => {
            let what = format!("would close {}", count_u64(revoked, "tunnel"));
            paint(&what, Tone::Warning, color)
        }
    };
    let since = timestamp(pending.since, status.now);
    let mut out = headline("pending", &format!("saved {since}, {effect}"), color);
    for file in &pending.changed {
        out.push_str(&format!("  {}\n", plain(file)));
    }
    for diagnostic in &pending.diagnostics {
        out.push_str(&format!("  {}\n", one_line(diagnostic, status)));
    }
    out
}

fn headline(name: &str, value: &str, color: bool) -> String {
    format!("{}  {value}\n", paint(&format!("{name:<11}"), Tone::Head, color))
}

fn last_reload(last: &LastReload, status: &StatusAnswer, color: bool) -> String {
    let (outcome, tone) = match last.outcome {
        LastOutcome::Published => ("published", Tone::Good),
        LastOutcome::Unchanged => ("unchanged", Tone::Good),
        LastOutcome::Rejected => ("rejected", Tone::Error),
    };
    let cause = match &last.cause {
        ReloadCause::Saved => "a file was saved".to_owned(),
        ReloadCause::Poll => "a poll found a change".into(),
        ReloadCause::Signal => "by SIGHUP".into(),
        ReloadCause::Asked => "by `sidegate reload`".into(),
        ReloadCause::Other(word) => plain(word),
    };
    let when = timestamp(last.at, status.now);
    let mut out = headline(
        "last reload",
        &format!("{}, {cause}, {when}", paint(outcome, tone, color)),
        color,
    );
    for diagnostic in &last.diagnostics {
        out.push_str(&format!("  {}\n", one_line(diagnostic, status)));
    }
    out
}

fn listeners(status: &StatusAnswer, color: bool) -> String {
    let one = |listener: &ListenerStatus| {
        let speaks = match &listener.speaks {
            Some(ListenerProtocol::Tls) => "TLS".to_owned(),
            Some(ListenerProtocol::Plain) => "plain".into(),
            Some(ListenerProtocol::Redirect) => "redirect".into(),
            Some(ListenerProtocol::Other(word)) => plain(word),
            None => "-".into(),
        };
        let (open, limit) = (listener.connections, listener.limit);
        let near = open.zip(limit).is_some_and(|(open, limit)| {
            limit > 0 && open.saturating_mul(10) >= limit.saturating_mul(9)
        });
        let shown = |count: Option<u64>| count.map_or_else(|| "-".into(), number);
        let tone = if near { Tone::Warning } else { Tone::Plain };
        let connections = (format!("{} of {}", shown(open), shown(limit)), tone);
        let cells =
            vec![cell(&listener.name), cell(&listener.address), (speaks, Tone::Plain), connections];
        Row { cells, note: String::new() }
    };
    section(&["LISTENER", "ADDRESS", "SPEAKS", ">CONNECTIONS"], &status.listeners, one, color)
}

fn routes(status: &StatusAnswer, color: bool) -> String {
    let over = |route: &RouteStatus| route.per_second.as_ref().map(|rates| rates.over_seconds);
    let longest = status.routes.iter().filter_map(over).max();
    let one = |route: &RouteStatus| {
        let shown = |of: fn(&RouteRates) -> f64, show: fn(f64) -> String| {
            let rates = route.per_second.as_ref();
            (rates.map_or_else(|| "-".into(), |rates| show(of(rates))), Tone::Plain)
        };
        let cells = vec![
            cell(&route.name),
            (number(route.tunnels), Tone::Plain),
            shown(|rates| rates.opened, rate),
            shown(|rates| rates.refused, rate),
            shown(|rates| rates.from_client.messages, rate),
            shown(|rates| rates.from_backend.messages, rate),
            shown(|rates| rates.from_client.bytes, bytes),
            shown(|rates| rates.from_backend.bytes, bytes),
        ];
        // A route that was added since the oldest sample has a shorter average, and says so.
        let younger = over(route).filter(|seconds| Some(*seconds) != longest);
        let younger =
            younger.map(|seconds| format!(" (over {})", seconds_span(seconds))).unwrap_or_default();
        let place =
            format!("{}{}", plain(route.host.as_deref().unwrap_or_default()), plain(&route.path));
        let backends: Vec<_> = route.backends.iter().map(|one| backend(one, color)).collect();
        let note =
            format!("{place} → {}, policy {}{younger}", backends.join(", "), plain(&route.policy));
        Row { cells, note }
    };
    let heads = [
        "ROUTE",
        ">TUNNELS",
        ">OPENED/S",
        ">REFUSED/S",
        ">MESSAGES/S IN",
        ">OUT",
        ">BYTES/S IN",
        ">OUT",
    ];
    let mut out = section(&heads, &status.routes, one, color);
    if let Some(seconds) = longest {
        // Samples are 5 s apart, so a whole minute of them covers 55 s at least.
        let over = if seconds < 55 {
            format!("the {} since the start", seconds_span(seconds))
        } else {
            "the last minute".into()
        };
        let line = format!("rates over {over}; in: from clients, out: from backends\n");
        out.push_str(&paint(&line, Tone::Quiet, color));
    }
    out
}

/// A backend's address and whether it is up.
fn backend(backend: &BackendStatus, color: bool) -> String {
    let (word, tone) = if backend.up { ("up", Tone::Good) } else { ("down", Tone::Error) };
    format!("{} {}", plain(&backend.address), paint(word, tone, color))
}

fn certificates(status: &StatusAnswer, color: bool) -> String {
    let one = |certificate: &CertificateStatus| {
        let count = |days: i64| count_u64(u64::try_from(days).unwrap_or_default(), "day");
        let until = day(certificate.not_after);
        let expires = match certificate.days_left {
            ..0 => (format!("expired {until}"), Tone::Error),
            days @ 0..EXPIRY_WARNING_DAYS => (format!("{}, {until}", count(days)), Tone::Warning),
            days => (format!("{}, {until}", count(days)), Tone::Plain),
        };
        let names: Vec<_> = certificate.names.iter().take(2).map(|name| plain(name)).collect();
        let (first, rest) = (names.join(" "), certificate.names.len().saturating_sub(2));
        let names = if rest > 0 { format!("{first} and {rest} more") } else { first };
        Row {
            cells: vec![cell(&certificate.chain), (names, Tone::Plain), expires],
            note: String::new(),
        }
    };
    section(&["CERTIFICATE", "NAMES", "EXPIRES IN"], &status.certificates, one, color)
}

/// The candidates, with how often each differs from its policy.
fn candidates(status: &StatusAnswer, color: bool) -> String {
    let one = |candidate: &CandidateStatus| {
        let odd = |count: u64| (number(count), if count > 0 { Tone::Warning } else { Tone::Plain });
        let revoked = candidate.would_revoke.map_or_else(|| ("-".into(), Tone::Plain), odd);
        let cells = vec![
            cell(&candidate.file),
            odd(candidate.would_refuse),
            odd(candidate.would_admit),
            revoked,
        ];
        Row { cells, note: String::new() }
    };
    let all: Vec<_> =
        status.policies.iter().filter_map(|policy| policy.candidate.clone()).collect();
    section(&["CANDIDATE", ">WOULD REFUSE", ">WOULD ADMIT", ">WOULD CLOSE"], &all, one, color)
}

fn lists(status: &StatusAnswer, color: bool) -> String {
    let one = |list: &ListStatus| {
        let age = list
            .age_seconds
            .map_or_else(|| "-".into(), |seconds| format!("{} ago", seconds_span(seconds)));
        let lapsing = (
            number(list.lapsing_30d),
            if list.lapsing_30d > 0 { Tone::Warning } else { Tone::Plain },
        );
        let entries = (number(list.entries), Tone::Plain);
        Row {
            cells: vec![cell(&list.name), cell(&list.policy), entries, (age, Tone::Plain), lapsing],
            note: String::new(),
        }
    };
    section(
        &["LIST", "POLICY", ">ENTRIES", ">WRITTEN", ">LAPSE IN 30 DAYS"],
        &status.lists,
        one,
        color,
    )
}

/// The section of warnings: those about the agent, then those about the files.
fn warnings(status: &StatusAnswer, color: bool) -> String {
    let sentences = status.warnings.iter().map(|warning| plain(&warning.sentence));
    let odd = status.diagnostics.iter().map(|diagnostic| one_line(diagnostic, status));
    let lines: Vec<_> = sentences
        .chain(odd)
        .map(|line| format!("  {}\n", paint(&line, Tone::Warning, color)))
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("{}\n{}", paint("WARNINGS", Tone::Head, color), lines.concat())
    }
}

/// A diagnostic as `policies/chat.toml:2:8: fault (remedy)`, with the file relative to
/// `sidegate.toml`.
fn one_line(diagnostic: &DiagnosticReport, status: &StatusAnswer) -> String {
    let DiagnosticReport { line, column, .. } = diagnostic;
    let folder =
        status.config.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
    let file = plain(diagnostic.file.strip_prefix(&folder).unwrap_or(&diagnostic.file));
    let remedy = diagnostic
        .remedy
        .as_ref()
        .map(|remedy| format!(" ({})", plain(remedy)))
        .unwrap_or_default();
    format!("{file}:{line}:{column}: {}{remedy}", plain(&diagnostic.message))
}

/// A table of `things`; empty if there are none.
fn section<T>(heads: &[&str], things: &[T], row: impl Fn(&T) -> Row, color: bool) -> String {
    let rows: Vec<_> = things.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { table(heads, &rows, color) }
}

fn cell(text: &str) -> (String, Tone) {
    (plain(text), Tone::Plain)
}

fn plain(text: &str) -> String {
    printable::line(text).into_owned()
}

fn seconds_span(seconds: u64) -> String {
    duration(i64::try_from(seconds).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> StatusAnswer {
        serde_json::from_str(json).unwrap()
    }

    /// Checks the screen that is made of an answer of the socket.
    fn check(json: &str, expected: &str) {
        let status = read(json);
        let text = screen(&status, false);
        assert_eq!(text, expected, "\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "too wide:\n{text}");
    }

    #[test]
    fn screen_without_problems() {
        check(include_str!("golden/quiet.json"), include_str!("golden/quiet.txt"));
    }

    #[test]
    fn screen_with_every_problem() {
        check(include_str!("golden/bad.json"), include_str!("golden/bad.txt"));
    }

    #[test]
    fn screen_of_an_agent_that_just_started() {
        check(include_str!("golden/bare.json"), include_str!("golden/bare.txt"));
    }

    #[test]
    fn color_changes_no_text() {
        let status = read(include_str!("golden/bad.json"));
        let (colored, mut stripped) = (screen(&status, true), screen(&status, true));
        while let Some(from) = stripped.find('\u{1b}') {
            let end = stripped[from..].find('m').unwrap();
            stripped.replace_range(from..=from + end, "");
        }
        assert_eq!(stripped, include_str!("golden/bad.txt"));
        assert!(colored.contains("\u{1b}[31m"), "{colored:?}");
    }

    #[test]
    fn agent_text_has_no_terminal_controls() {
        for control in ["\\u001b", "\\u009b", "\\u0007", "\\u202e", "\\u2066", "\\n"] {
            // Every text of the status that the screen shows.
            let mut json: serde_json::Value =
                serde_json::from_str(include_str!("golden/bad.json")).unwrap();
            spoil(
                &mut json,
                &serde_json::from_str::<String>(&format!("\"{control}[2J\"")).unwrap(),
            );
            let text = screen(&serde_json::from_value(json).unwrap(), false);
            assert!(text.contains("\u{fffd}[2J"), "{text}");
            assert!(!text.contains(|c| printable::is_control(c) && c != '\n'), "{text:?}");
            assert_eq!(
                text.lines().count(),
                include_str!("golden/bad.txt").lines().count(),
                "{text}"
            );
        }
    }

    /// Puts `spoilt` at the end of every text in `json` that is neither an outcome nor a time.
    fn spoil(json: &mut serde_json::Value, spoilt: &str) {
        match json {
            serde_json::Value::Object(members) => {
                let kept = ["outcome", "level", "at", "now", "since", "not_after", "modified"];
                members
                    .iter_mut()
                    .filter(|(name, _)| !kept.contains(&name.as_str()))
                    .for_each(|(_, value)| spoil(value, spoilt));
            }
            serde_json::Value::Array(items) => {
                items.iter_mut().for_each(|item| spoil(item, spoilt));
            }
            serde_json::Value::String(text) => text.push_str(spoilt),
            _ => {}
        }
    }
}

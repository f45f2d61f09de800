//! The screen: the socket's JSON in, text of at most 100 columns out, for names of a sane length.
//!
//! A pure function, so that golden tests can hold it. What an older or newer agent leaves out is
//! left out here.

use serde_json::Value;

use crate::cli::count;
use crate::cli::status::table::{Row, Tone, paint, table};
use crate::cli::status::words::{bytes, day, moment, number, plain, rate, span};

/// A certificate that lasts for less is painted.
const SOON: i64 = 14;

/// The whole screen.
pub fn screen(status: &Value, color: bool) -> String {
    let sections = [head, listeners, routes, candidates, certificates, lists, warnings].map(|section| section(status, color));
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

/// What runs since when, and how the last reload went.
fn head(status: &Value, color: bool) -> String {
    let now = text(&status["now"]);
    let line = |name: &str, value: &str| format!("{}  {value}\n", paint(&format!("{name:<11}"), Tone::Head, color));
    let (version, pid) = (text(&status["version"]), &status["pid"]);
    let tunnels = whole(&status["tunnels"]);
    let draining = if status["draining"] == true { paint(", draining", Tone::Odd, color) } else { String::new() };
    let noun = if tunnels == 1 { "tunnel" } else { "tunnels" };
    let mut out = line("sidegate", &format!("{version}, pid {pid}, {} {noun}{draining}", number(tunnels)));
    let exchanges = whole(&status["exchanges"]);
    if exchanges > 0 {
        out.push_str(&line("exchanges", &format!("{} in flight", number(exchanges))));
    }
    out.push_str(&line("config", &text(&status["config"])));
    out.push_str(&line("generation", &format!("{} ({})", status["generation"], text(&status["digest"]))));
    out.push_str(&line("since", &moment(&text(&status["since"]), &now)));
    let last = &status["last_reload"];
    if last.is_null() {
        out.push_str(&line("last reload", "none since the start"));
        return out;
    }
    let outcome = text(&last["outcome"]);
    let tone = if outcome == "rejected" { Tone::Bad } else { Tone::Good };
    let cause = match &*text(&last["cause"]) {
        "saved" => "a file was saved".to_owned(),
        "poll" => "a poll found a change".into(),
        "signal" => "by SIGHUP".into(),
        "asked" => "by `sidegate reload`".into(),
        other => other.to_owned(),
    };
    let when = moment(&text(&last["at"]), &now);
    out.push_str(&line("last reload", &format!("{}, {cause}, {when}", paint(&outcome, tone, color))));
    for diagnostic in each(&last["diagnostics"]) {
        out.push_str(&format!("  {}\n", one_line(diagnostic, status)));
    }
    out
}

fn listeners(status: &Value, color: bool) -> String {
    let one = |listener: &Value| {
        let speaks = match &*text(&listener["speaks"]) {
            "tls" => "TLS".to_owned(),
            other => other.to_owned(),
        };
        let (open, limit) = (whole(&listener["connections"]), whole(&listener["limit"]));
        let tone = if limit > 0 && open * 10 >= limit * 9 { Tone::Odd } else { Tone::Plain };
        let connections = (format!("{} of {}", number(open), number(limit)), tone);
        Row {
            cells: vec![cell(&listener["name"]), cell(&listener["address"]), (speaks, Tone::Plain), connections],
            note: String::new(),
        }
    };
    section(&["LISTENER", "ADDRESS", "SPEAKS", ">CONNECTIONS"], &status["listeners"], one, color)
}

fn routes(status: &Value, color: bool) -> String {
    let over = |route: &Value| route["per_second"]["over_seconds"].as_u64();
    let longest = each(&status["routes"]).filter_map(over).max();
    let one = |route: &Value| {
        let rates = &route["per_second"];
        let shown = |value: &Value, show: fn(f64) -> String| (value.as_f64().map_or_else(|| "-".into(), show), Tone::Plain);
        let cells = vec![
            cell(&route["name"]),
            (number(whole(&route["tunnels"])), Tone::Plain),
            shown(&rates["opened"], rate),
            shown(&rates["refused"], rate),
            shown(&rates["from_client"]["messages"], rate),
            shown(&rates["from_backend"]["messages"], rate),
            shown(&rates["from_client"]["bytes"], bytes),
            shown(&rates["from_backend"]["bytes"], bytes),
        ];
        let younger = over(route).filter(|seconds| Some(*seconds) != longest);
        let younger = younger.map(|seconds| format!(" (over {})", span(seconds as i64))).unwrap_or_default();
        let place = format!("{}{}", text(&route["host"]), text(&route["path"]));
        let backends: Vec<_> = each(&route["backends"]).map(|one| backend(one, color)).collect();
        let note = format!("{place} → {}, policy {}{younger}", backends.join(", "), text(&route["policy"]));
        Row { cells, note }
    };
    let heads = ["ROUTE", ">TUNNELS", ">OPENED/S", ">REFUSED/S", ">MESSAGES/S IN", ">OUT", ">BYTES/S IN", ">OUT"];
    let mut out = section(&heads, &status["routes"], one, color);
    if let Some(seconds) = longest {
        let over = if seconds < 55 { format!("the {} since the start", span(seconds as i64)) } else { "the last minute".into() };
        out.push_str(&paint(&format!("rates over {over}; in: from clients, out: from backends\n"), Tone::Quiet, color));
    }
    out
}

/// A backend, and whether it is up, as far as that is known.
fn backend(backend: &Value, color: bool) -> String {
    let address = text(&backend["address"]);
    match backend["up"].as_bool() {
        Some(true) => format!("{address} {}", paint("up", Tone::Good, color)),
        Some(false) => format!("{address} {}", paint("down", Tone::Bad, color)),
        None => address,
    }
}

fn certificates(status: &Value, color: bool) -> String {
    let one = |certificate: &Value| {
        let days = certificate["days_left"].as_i64().unwrap_or_default();
        let count = |days: i64, noun| count(usize::try_from(days).unwrap_or_default(), noun);
        let until = day(&text(&certificate["not_after"]));
        let expires = match days {
            ..0 => (format!("expired {until}"), Tone::Bad),
            0..SOON => (format!("{}, {until}", count(days, "day")), Tone::Odd),
            _ => (format!("{}, {until}", count(days, "day")), Tone::Plain),
        };
        let names: Vec<_> = each(&certificate["names"]).map(text).collect();
        let (first, rest) = (names.iter().take(2).cloned().collect::<Vec<_>>().join(" "), names.len().saturating_sub(2));
        let names = if rest > 0 { format!("{first} and {rest} more") } else { first };
        Row { cells: vec![cell(&certificate["chain"]), (names, Tone::Plain), expires], note: String::new() }
    };
    section(&["CERTIFICATE", "NAMES", "EXPIRES IN"], &status["certificates"], one, color)
}

/// Of the policies that a candidate stands beside: how far the two are apart.
fn candidates(status: &Value, color: bool) -> String {
    let one = |candidate: &Value| {
        let odd = |name: &str| {
            let count = whole(&candidate[name]);
            (number(count), if count > 0 { Tone::Odd } else { Tone::Plain })
        };
        let cells = vec![cell(&candidate["file"]), odd("would_refuse"), odd("would_admit"), odd("would_revoke")];
        Row { cells, note: String::new() }
    };
    let all: Value = each(&status["policies"]).map(|policy| policy["candidate"].clone()).filter(|one| !one.is_null()).collect();
    section(&["CANDIDATE", ">WOULD REFUSE", ">WOULD ADMIT", ">WOULD CLOSE"], &all, one, color)
}

fn lists(status: &Value, color: bool) -> String {
    let one = |list: &Value| {
        let age = list["age_seconds"].as_i64().map_or_else(|| "-".into(), |seconds| format!("{} ago", span(seconds)));
        let lapsing = whole(&list["lapsing_30d"]);
        let lapsing = (number(lapsing), if lapsing > 0 { Tone::Odd } else { Tone::Plain });
        let entries = (number(whole(&list["entries"])), Tone::Plain);
        Row { cells: vec![cell(&list["name"]), cell(&list["policy"]), entries, (age, Tone::Plain), lapsing], note: String::new() }
    };
    section(&["LIST", "POLICY", ">ENTRIES", ">WRITTEN", ">LAPSE IN 30 DAYS"], &status["lists"], one, color)
}

/// What somebody should look at: how it stands, and then what is odd in the files.
fn warnings(status: &Value, color: bool) -> String {
    let sentences = each(&status["warnings"]).map(|warning| text(&warning["sentence"]));
    let odd = each(&status["diagnostics"]).map(|diagnostic| one_line(diagnostic, status));
    let lines: Vec<_> = sentences.chain(odd).map(|line| format!("  {}\n", paint(&line, Tone::Odd, color))).collect();
    if lines.is_empty() { String::new() } else { format!("{}\n{}", paint("WARNINGS", Tone::Head, color), lines.concat()) }
}

/// `policies/chat.toml:2:8: what is wrong (what to do)`; the file as seen from `sidegate.toml`.
fn one_line(diagnostic: &Value, status: &Value) -> String {
    let config = text(&status["config"]);
    let folder = config.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
    let file = text(&diagnostic["file"]);
    let file = file.strip_prefix(&folder).unwrap_or(&file);
    let remedy = diagnostic["remedy"].as_str().map(|remedy| format!(" ({})", plain(remedy))).unwrap_or_default();
    format!("{file}:{}:{}: {}{remedy}", diagnostic["line"], diagnostic["column"], text(&diagnostic["message"]))
}

/// A table of these things; nothing where there is none.
fn section(heads: &[&str], things: &Value, row: impl Fn(&Value) -> Row, color: bool) -> String {
    let rows: Vec<_> = each(things).map(row).collect();
    if rows.is_empty() { String::new() } else { table(heads, &rows, color) }
}

fn each(things: &Value) -> impl Iterator<Item = &Value> {
    things.as_array().into_iter().flatten()
}

fn cell(value: &Value) -> (String, Tone) {
    (text(value), Tone::Plain)
}

fn text(value: &Value) -> String {
    plain(value.as_str().unwrap_or_default())
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the socket said, and the screen that is made of it.
    fn check(json: &str, expected: &str) {
        let status: Value = serde_json::from_str(json).unwrap();
        let text = screen(&status, false);
        assert_eq!(text, expected, "\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "too wide:\n{text}");
    }

    #[test]
    fn a_quiet_day() {
        check(include_str!("golden/quiet.json"), include_str!("golden/quiet.txt"));
    }

    #[test]
    fn a_bad_day() {
        check(include_str!("golden/bad.json"), include_str!("golden/bad.txt"));
    }

    #[test]
    fn an_agent_that_has_just_begun_and_serves_nothing() {
        check(include_str!("golden/bare.json"), include_str!("golden/bare.txt"));
    }

    #[test]
    fn color_changes_nothing_else() {
        let status: Value = serde_json::from_str(include_str!("golden/bad.json")).unwrap();
        let (colored, mut stripped) = (screen(&status, true), screen(&status, true));
        while let Some(from) = stripped.find('\u{1b}') {
            let end = stripped[from..].find('m').unwrap();
            stripped.replace_range(from..=from + end, "");
        }
        assert_eq!(stripped, include_str!("golden/bad.txt"));
        assert!(colored.contains("\u{1b}[31m"), "{colored:?}");
    }

    #[test]
    fn what_the_agent_says_cannot_command_the_terminal() {
        let status = serde_json::json!({ "config": "/etc/\u{1b}[2J", "warnings": [{ "sentence": "\u{7}" }] });
        assert!(!screen(&status, false).contains(['\u{1b}', '\u{7}']));
    }
}

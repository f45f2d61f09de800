//! `sidegate diff`: what the files on disk would change of what runs, and whom that would cut off.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::cli::{Config, Exit, ask, complain, complain_whole, say};
use sidegate::control::config::{Bound, bound};

/// The agent reads all of its files for it.
const PATIENCE: Duration = Duration::from_secs(70);

/// The arguments.
#[derive(clap::Args)]
pub struct Diff {
    #[command(flatten)]
    config: Config,
    /// End with 1 if more open tunnels than this would be closed: a number, or a share like 20%.
    #[arg(long, value_name = "N|P%", value_parser = bound)]
    max_revoked: Option<Bound>,
    /// Print it for programs.
    #[arg(long)]
    json: bool,
}

/// Prints the difference; 1 where the files are broken, a reload would be held, or the bound is exceeded.
pub fn diff(verb: &Diff) -> Exit {
    let told = match ask::ask(&verb.config.config, &Method::POST, "/v1/diff", PATIENCE) {
        Ok(told) => told,
        Err(what) => {
            complain(what);
            return Exit::No;
        }
    };
    if verb.json {
        say(format_args!("{told:#}"));
    } else {
        tell(&told);
    }
    if told["outcome"] == "rejected" || !is_empty(&told["held"]) {
        return Exit::No;
    }
    let count = |name: &str| {
        let all = told["tunnels"][name].as_u64().unwrap_or(0) + told["streams"][name].as_u64().unwrap_or(0);
        usize::try_from(all).unwrap_or(usize::MAX)
    };
    match verb.max_revoked {
        Some(bound) if bound.is_exceeded(count("revoked"), count("open")) => {
            complain(format_args!("that is more than {bound}"));
            Exit::No
        }
        _ => Exit::Yes,
    }
}

/// Prints what would change, for people; what would be rejected or held goes to standard error.
pub fn tell(told: &Value) {
    for diagnostic in items(&told["diagnostics"]).chain(items(&told["held"])) {
        complain_whole(text(&diagnostic["text"]));
    }
    if told["outcome"] == "rejected" {
        complain("the files are wrong: a reload would be rejected, and what runs kept");
        return;
    }
    if is_empty(&told["keys"]) && is_empty(&told["lists"]) {
        let same = told["outcome"] == "unchanged";
        say(if same { "the files are what runs" } else { "nothing that anybody would notice" });
    }
    for key in items(&told["keys"]) {
        say(key_line(key));
    }
    for list in items(&told["lists"]) {
        say(list_lines(list));
    }
    say(tunnel_lines(&told["tunnels"]));
    if told["streams"]["open"].as_u64().is_some_and(|open| open > 0) {
        say(stream_lines(&told["streams"]));
    }
}

/// `~ policies/market-data.toml  client.origins: ["a"] -> ["b"]`
fn key_line(key: &Value) -> String {
    let (file, name) = (text(&key["file"]), text(&key["key"]));
    match (&key["from"], &key["to"]) {
        (Value::Null, _) if name.is_empty() => format!("+ {file}"),
        (_, Value::Null) if name.is_empty() => format!("- {file}"),
        (Value::Null, to) => format!("+ {file}  {name}: {to}"),
        (from, Value::Null) => format!("- {file}  {name}: {from}"),
        (from, to) => format!("~ {file}  {name}: {from} -> {to}"),
    }
}

/// `~ policies/lists/partners.cidr  +1 -0 ~0` and the first of the entries.
fn list_lines(list: &Value) -> String {
    let number = |name: &str| list[name].as_u64().unwrap_or_default();
    let (added, removed, altered) = (number("added"), number("removed"), number("altered"));
    let mut lines = format!("~ {}  +{added} -{removed} ~{altered}", text(&list["file"]));
    let name = text(&list["list"]);
    let place = if name.starts_with('(') { name.trim_matches(['(', ')']).to_owned() } else { format!("`{name}`") };
    lines.push_str(&format!("  in {place} of {}", text(&list["policy"])));
    let sample = items(&list["sample"]).map(text);
    sample.for_each(|entry| lines.push_str(&format!("\n    {entry}")));
    let told = items(&list["sample"]).count() as u64;
    let all = added + removed + altered;
    if all > told {
        lines.push_str(&format!("\n    … and {} more", all - told));
    }
    lines
}

/// `  now: 1 of 12 streams would be cut`, which and why.
fn stream_lines(streams: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let (revoked, open) = (number(&streams["revoked"]), number(&streams["open"]));
    format!("  now: {revoked} of {open} streams would be cut{}", sample_lines(streams))
}

/// A line for each of the first that would be closed.
fn sample_lines(live: &Value) -> String {
    let mut lines = String::new();
    for one in items(&live["sample"]) {
        let why = one["entry"].as_str().or(one["rule"].as_str());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let (client, route, opened) = (text(&one["client"]), text(&one["route"]), text(&one["opened"]));
        lines.push_str(&format!("\n      {client} on {route}, open since {opened}{why}"));
    }
    lines
}

/// `  now: 2 of 3,102 open tunnels would be closed`, which and why.
fn tunnel_lines(tunnels: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let mut lines =
        format!("  now: {} of {} open tunnels would be closed", number(&tunnels["revoked"]), number(&tunnels["open"]));
    for by in items(&tunnels["by"]) {
        lines.push_str(&format!("\n    {} on {}: {}", number(&by["tunnels"]), text(&by["route"]), text(&by["reason"])));
    }
    lines.push_str(&sample_lines(tunnels));
    lines
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn is_empty(value: &Value) -> bool {
    items(value).next().is_none()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

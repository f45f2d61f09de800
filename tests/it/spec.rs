//! `docs/spec/`: the specification and the program say the same, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sidegate::close::{Reason, code};
use sidegate::policy::limit::TunnelLimits;
use sidegate::refusal::{Backend, Head, Refusal};
use tempfile::TempDir;

use crate::harness::certificate::signed;

/// A page of `docs/`.
pub fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The section below the heading `title`, up to the next heading of any level.
pub fn section<'p>(page: &'p str, title: &str) -> &'p str {
    let (_, rest) =
        page.split_once(&format!("# {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    rest.split("\n#").next().unwrap_or_default()
}

/// The cells of each row of the tables in `text`, without their heads.
pub fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<_> = text.lines().collect();
    let is_row = |at: usize| lines.get(at).is_some_and(|line| line.starts_with("| "));
    let is_head = |at: usize| lines.get(at + 1).is_some_and(|line| line.starts_with("|---"));
    let rows = (0..lines.len()).filter(|at| is_row(*at) && !is_head(*at));
    rows.map(|at| lines[at].trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The texts between backticks in `text`.
pub fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The default that a schema states for one key.
#[derive(Debug, PartialEq)]
enum Default {
    Required,
    None,
    Is(Value),
}

/// Every key of `sidegate schema KIND` by its path, such as `listener[].name`.
fn schema(kind: &str) -> BTreeMap<String, Default> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sidegate")).args(["schema", kind]).output().unwrap();
    let root: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut keys = BTreeMap::new();
    walk(&root, &root, "", &mut keys);
    keys
}

fn walk(root: &Value, at: &Value, path: &str, keys: &mut BTreeMap<String, Default>) {
    let at = resolved(root, at);
    at["anyOf"].as_array().into_iter().flatten().for_each(|one| walk(root, one, path, keys));
    if at["items"].is_object() {
        walk(root, &at["items"], &format!("{path}[]"), keys);
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let required: Vec<_> = at["required"].as_array().into_iter().flatten().collect();
    for (key, value) in at["properties"].as_object().into_iter().flatten() {
        let says = match resolved(root, value).get("default") {
            Some(default) => Default::Is(default.clone()),
            None if required.contains(&&Value::from(key.as_str())) => Default::Required,
            None => Default::None,
        };
        keys.insert(below(key), says);
        walk(root, value, &below(key), keys);
    }
    if at["additionalProperties"].is_object() {
        walk(root, &at["additionalProperties"], &below("*"), keys);
    }
}

fn resolved<'v>(root: &'v Value, at: &'v Value) -> &'v Value {
    let Some(reference) = at["$ref"].as_str() else { return at };
    root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"))
}

/// Every key that the page's tables below `chapter` have, with the cell of its default; a table's
/// own key has none.
fn documented(chapter: &str) -> BTreeMap<String, Option<String>> {
    let page = page("spec/formats.md");
    let (_, rest) = page.split_once(&format!("\n## `{chapter}`\n")).unwrap();
    let chapter = rest.split("\n## ").next().unwrap();
    let mut keys = BTreeMap::new();
    for section in chapter.split("\n### ").skip(1) {
        let (title, text) = section.split_once('\n').unwrap();
        let table = title.trim_matches('`');
        let name = table.trim_matches(['[', ']']);
        let prefix = match table {
            "At the top" => String::new(),
            "[lists]" => "lists.*.".into(),
            _ if table.starts_with("[[") => format!("{name}[]."),
            _ => format!("{name}."),
        };
        if !prefix.is_empty() {
            keys.insert(name.to_owned(), None);
        }
        for row in rows(text) {
            for key in code_spans(row[0]) {
                let twice = keys.insert(format!("{prefix}{key}"), Some(row[1].to_owned()));
                assert_eq!(twice, None, "{prefix}{key} is there twice");
            }
        }
    }
    keys
}

/// The value in a cell such as `"10s"` between backticks.
fn value(cell: &str) -> Option<Value> {
    let text = cell.strip_prefix('`')?.strip_suffix('`')?;
    let table: toml::Table =
        format!("it = {text}").parse().unwrap_or_else(|error| panic!("{cell}: {error}"));
    Some(serde_json::to_value(&table["it"]).unwrap())
}

/// The defaults of the limits that hold without a key; in the schema they belong to no key, since
/// `[[limits.for]]` has them from `[limits]`.
fn limits() -> BTreeMap<&'static str, String> {
    let limits = TunnelLimits::default();
    let seconds =
        |time: std::time::Duration| Value::from(format!("{}s", time.as_secs())).to_string();
    let frames = limits.frames.unwrap();
    let frames = format!("{{\"rate\":\"{}/s\",\"burst\":{}}}", frames.tokens, frames.burst);
    let frames: Value = serde_json::from_str(&frames).unwrap();
    [
        ("limits.frames", frames.to_string()),
        ("limits.ping", seconds(limits.ping.unwrap())),
        ("limits.pong", seconds(limits.pong)),
    ]
    .into()
}

fn expect_same_keys(kind: &str, chapter: &str, required: &[&str]) {
    let (schema, page) = (schema(kind), documented(chapter));
    let names = |keys: Vec<&String>| keys.into_iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(
        names(page.keys().collect()),
        names(schema.keys().collect()),
        "docs/spec/formats.md, {chapter}"
    );
    let limits = limits();
    for (key, says) in &schema {
        let Some(cell) = &page[key] else { continue };
        let written = value(cell);
        let expected = match says {
            Default::Is(default) => Some(default.to_string()),
            Default::Required | Default::None => limits.get(&**key).cloned(),
        };
        assert_eq!(written.map(|value| value.to_string()), expected, "{key}: {cell}");
        let is_required = *says == Default::Required || required.contains(&&**key);
        assert_eq!(cell == "required", is_required, "{key}: {cell}");
        let is_word = cell.starts_with('`')
            || cell == "required"
            || cell == "–"
            || cell.starts_with("as in `[");
        assert!(is_word, "{key}: {cell}");
    }
}

#[test]
fn formats_has_every_key_of_the_configuration_and_its_default() {
    expect_same_keys("config", "sidegate.toml", &[]);
}

#[test]
fn formats_has_every_key_of_a_policy_and_its_default() {
    // A baseline has no `allow`, so the schema requires it by a condition.
    expect_same_keys("policy", "policies/NAME.toml", &["client.allow"]);
}

#[test]
fn formats_examples_pass_a_strict_check() {
    let (page, folder) = (page("spec/formats.md"), TempDir::new().unwrap());
    let put = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let mut paths = Vec::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (_kind, text) = block.split_once('\n').unwrap();
        let path = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .unwrap_or_else(|| panic!("no path: {text}"));
        put(path, &format!("{text}\n"));
        paths.push(path);
    }
    assert!(paths.len() >= 7 && paths.contains(&"policies/baseline.toml"), "{paths:?}");
    let pair = signed(&["ws.example.com"]);
    put("certs/ws.example.com.pem", &pair.chain);
    put("certs/ws.example.com.key", &pair.key);
    fs::set_permissions(
        folder.path().join("certs/ws.example.com.key"),
        Permissions::from_mode(0o600),
    )
    .unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(["check", "--strict"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// Refusals that a later version gives.
const RESERVED: [Refusal; 3] = [Refusal::Proxy, Refusal::Forwarded, Refusal::Identity];

/// Answers by other means than a refusal's status: those before a request is read.
const OTHERS: [(&str, Option<u16>); 3] = [("head", None), ("tls", Some(400)), ("network", None)];

#[test]
fn wire_has_every_refusal_with_its_status_and_no_other() {
    let page = page("spec/wire.md");
    let decisions = section(&page, "The order of decisions");
    let status =
        |answer: &str| answer.split([' ', ',']).next().and_then(|word| word.parse::<u16>().ok());
    let with_reason = rows(decisions).into_iter().filter(|row| !row[3].is_empty());
    let written: BTreeSet<_> =
        with_reason.map(|row| (code_spans(row[3])[0].to_owned(), status(row[2]))).collect();
    let heads = [Head::TargetTooLong, Head::TargetBroken, Head::TooLarge].map(Refusal::Head);
    let more = heads.into_iter().chain([Refusal::Backend(Backend::Late)]);
    let given = Refusal::ALL.into_iter().filter(|refusal| !RESERVED.contains(refusal)).chain(more);
    let given = given.map(|refusal| (refusal.word(), refusal.status())).chain(OTHERS);
    let given: BTreeSet<_> = given.map(|(word, status)| (word.to_owned(), status)).collect();
    assert_eq!(written, given);
    let reserved = decisions
        .lines()
        .find(|line| line.starts_with("Reserved:"))
        .expect("a line about reserved words");
    assert_eq!(code_spans(reserved), RESERVED.map(Refusal::word));
}

#[test]
fn wire_has_every_ending_with_its_codes_and_no_other() {
    let page = page("spec/wire.md");
    let mut written = BTreeMap::new();
    for row in rows(section(&page, "Close codes")) {
        for word in code_spans(row[0]) {
            assert!(
                written.insert(word.to_owned(), (row[1].to_owned(), row[2].to_owned())).is_none(),
                "{word}"
            );
        }
    }
    let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.word().to_owned()).collect();
    assert_eq!(written.keys().cloned().collect::<BTreeSet<_>>(), words);
    for reason in Reason::ALL {
        let (to_client, to_backend) = &written[reason.word()];
        let first = to_client.split([' ', ',']).next().unwrap();
        // Codes that `to_client` does not have: they are configured, or go to either side.
        let told = match reason {
            Reason::Drain => Some(code::AWAY),
            Reason::TooBig => Some(code::TOO_BIG),
            Reason::Framing => Some(code::PROTOCOL),
            _ => reason.to_client(),
        };
        assert_eq!(
            first,
            told.map_or("–".into(), |code| code.to_string()),
            "{reason} to the client"
        );
        let expected = if told.is_some() { reason.to_backend().to_string() } else { "–".into() };
        assert_eq!(*to_backend, expected, "{reason} to the backend");
    }
}

#[test]
fn wire_names_every_close_code_that_the_program_has() {
    let source = include_str!("../../src/close.rs");
    let constants = source
        .split("u16 = ")
        .skip(1)
        .filter_map(|rest| rest.split(';').next()?.parse::<u16>().ok());
    // 1012 is the other value of `[shutdown] code`.
    let known: BTreeSet<_> = constants.chain([1012]).collect();
    assert!(known.len() >= 5, "{known:?}");
    let page = page("spec/wire.md");
    let codes = rows(section(&page, "Close codes"));
    let words =
        codes.iter().flat_map(|row| row[1..3].iter().flat_map(|cell| cell.split([' ', ','])));
    let written: BTreeSet<_> = words.filter_map(|word| word.parse::<u16>().ok()).collect();
    assert_eq!(written, known);
}

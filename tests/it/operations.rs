//! `docs/operations.md` says what the program does: its tables are made from the words of the code.
//!
//! Each table lies between `<!-- table NAME -->` and `<!-- end -->`. After a change of the code,
//! `SIDEGATE_WRITE_DOCS=1 cargo test --test it operations` rewrites them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use sidegate::close::{CloseReason, ExchangeReason};
use sidegate::observe::log::fields::FIELDS;
use sidegate::observe::metrics::{Family, table as families};
use sidegate::refusal::{BackendError, HeadError, Refusal};

/// The tables of the document, each with how to make it.
const TABLES: [(&str, fn() -> String); 8] = [
    ("refusals", refusals),
    ("endings", endings),
    ("exchanges", exchanges),
    ("metrics", metrics),
    ("fields", fields),
    ("exits", || chapter("Exit codes", "exit code")),
    ("signals", || chapter("Signals of `run`", "signal")),
    ("files", || chapter("Files", "file")),
];

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")
}

/// The document with its tables made anew.
fn made_anew(text: &str) -> String {
    TABLES.iter().fold(text.to_owned(), |text, (name, make)| {
        let opening = format!("<!-- table {name} -->\n");
        let (before, rest) = text.split_once(&opening).unwrap_or_else(|| panic!("no {opening}"));
        let (_, after) = rest.split_once("<!-- end -->").expect("an end of each table");
        format!("{before}{opening}{}<!-- end -->{after}", make())
    })
}

#[test]
fn operations_page_tables_match_the_code() {
    let written = fs::read_to_string(document()).unwrap();
    let made = made_anew(&written);
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        return fs::write(document(), &made).unwrap();
    }
    let differing = written.lines().zip(made.lines()).find(|(written, made)| written != made);
    assert!(
        written == made,
        "docs/operations.md: {differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --test it operations"
    );
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head_line = line(head.iter().map(|cell| (*cell).to_owned()).collect());
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    [head_line, rule].into_iter().chain(rows.into_iter().map(line)).collect()
}

fn refusals() -> String {
    let [long, large] = [HeadError::TargetTooLong, HeadError::TooLarge].map(Refusal::Head);
    let more = [long, large, Refusal::Backend(BackendError::TimedOut)];
    let all = Refusal::ALL.iter().flat_map(|refusal| {
        let is_twin = move |twin: &&Refusal| twin.word() == refusal.word() && *twin != refusal;
        [refusal].into_iter().chain(more.iter().filter(is_twin))
    });
    let row = |refusal: &Refusal| {
        let answer =
            refusal.status().map_or("closed without an answer".into(), |status| status.to_string());
        vec![format!("`{}`", refusal.word()), answer, refusal.sentence().to_owned()]
    };
    table(&["reason", "answer", "title for the client"], all.map(row))
}

fn endings() -> String {
    let code = |code: Option<u16>| code.map_or("–".into(), |code| code.to_string());
    let row = |reason: &CloseReason| {
        vec![
            format!("`{}`", reason.word()),
            code(reason.client_close_code()),
            reason.sentence().to_owned(),
        ]
    };
    table(&["reason", "code sent to the client", "meaning"], CloseReason::ALL.iter().map(row))
}

fn exchanges() -> String {
    let row = |reason: &ExchangeReason| {
        vec![format!("`{}`", reason.word()), reason.sentence().to_owned()]
    };
    table(&["reason", "meaning"], ExchangeReason::ALL.iter().map(row))
}

fn metrics() -> String {
    let row = |family: &Family| {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        vec![
            format!("`{}`", family.name),
            family.kind.word().into(),
            labels.join(", "),
            family.help.to_owned(),
        ]
    };
    table(&["metric", "type", "labels", "meaning"], families().iter().map(row))
}

fn fields() -> String {
    table(
        &["field", "meaning"],
        FIELDS.iter().map(|(name, meaning)| vec![format!("`{name}`"), (*meaning).to_owned()]),
    )
}

/// A chapter of `sidegate --help`.
fn chapter(title: &str, head: &str) -> String {
    let help = Command::new(env!("CARGO_BIN_EXE_sidegate")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, rest) =
        help.split_once(&format!("{title}:\n")).unwrap_or_else(|| panic!("no {title} in {help}"));
    let lines = rest.lines().take_while(|line| line.starts_with("  "));
    let row = |line: &str| {
        let (name, meaning) = line.trim().split_once("  ").expect("a name and a meaning");
        vec![format!("`{name}`"), meaning.trim().to_owned()]
    };
    table(&[head, "meaning"], lines.map(row))
}

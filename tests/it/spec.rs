//! `docs/spec/`: the specification and the program say the same, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use sidegate::close::{CloseReason, code};
use sidegate::refusal::{BackendError, HeadError, Refusal};
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

/// The headings of tables in a chapter of a page.
fn tables(name: &str, chapter: &str) -> Vec<String> {
    let page = page(name);
    let (_, rest) = page.split_once(&format!("\n## `{chapter}`\n")).unwrap();
    let chapter = rest.split("\n## ").next().unwrap();
    let headings = chapter.lines().filter_map(|line| line.strip_prefix("### "));
    headings.map(str::to_owned).collect()
}

#[test]
fn formats_has_a_section_for_every_table_of_the_reference() {
    for (chapter, tables) in [("sidegate.toml", 14), ("policies/NAME.toml", 6)] {
        let written = self::tables("reference.md", chapter);
        assert_eq!(written.len(), tables, "{written:?}");
        let mut of_formats = self::tables("spec/formats.md", chapter);
        of_formats.sort();
        let mut written = written;
        written.sort();
        assert_eq!(of_formats, written);
    }
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

/// Answers by other means than a refusal's status: those before a request is read.
const OTHERS: [(&str, Option<u16>); 4] =
    [("head", None), ("tls", Some(400)), ("network", None), ("banned", None)];

#[test]
fn wire_page_has_every_refusal_with_its_status() {
    let page = page("spec/wire.md");
    let decisions = section(&page, "The order of decisions");
    let status =
        |answer: &str| answer.split([' ', ',']).next().and_then(|word| word.parse::<u16>().ok());
    let with_reason = rows(decisions).into_iter().filter(|row| !row[3].is_empty());
    let written: BTreeSet<_> =
        with_reason.map(|row| (code_spans(row[3])[0].to_owned(), status(row[2]))).collect();
    let heads = [HeadError::TargetTooLong, HeadError::InvalidTarget, HeadError::TooLarge]
        .map(Refusal::Head);
    let more = heads.into_iter().chain([Refusal::Backend(BackendError::TimedOut)]);
    let given = Refusal::ALL.into_iter().chain(more);
    let given = given.map(|refusal| (refusal.word(), refusal.status())).chain(OTHERS);
    let given: BTreeSet<_> = given.map(|(word, status)| (word.to_owned(), status)).collect();
    assert_eq!(written, given);
}

#[test]
fn wire_page_has_every_close_reason_with_its_codes() {
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
    let words: BTreeSet<_> =
        CloseReason::ALL.iter().map(|reason| reason.word().to_owned()).collect();
    assert_eq!(written.keys().cloned().collect::<BTreeSet<_>>(), words);
    for reason in CloseReason::ALL {
        let (to_client, to_backend) = &written[reason.word()];
        let first = to_client.split([' ', ',']).next().unwrap();
        // Codes that `client_close_code` does not have: they are configured, or go to either side.
        let told = match reason {
            CloseReason::Drain | CloseReason::Operator => Some(code::GOING_AWAY),
            CloseReason::TooBig => Some(code::MESSAGE_TOO_BIG),
            CloseReason::Framing => Some(code::PROTOCOL_ERROR),
            _ => reason.client_close_code(),
        };
        assert_eq!(
            first,
            told.map_or("–".into(), |code| code.to_string()),
            "{reason} to the client"
        );
        let expected =
            if told.is_some() { reason.backend_close_code().to_string() } else { "–".into() };
        assert_eq!(*to_backend, expected, "{reason} to the backend");
    }
}

#[test]
fn wire_page_has_every_close_code() {
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

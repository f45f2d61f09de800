//! `sidegate import nginx`: what it writes and reports, and that it writes all or nothing.
//!
//! `import/NAME.md` holds what becomes of `import/NAME.conf`; after a change of the code, `SIDEGATE_WRITE_DOCS=1 cargo test
//! --test it import` writes it anew, for people to read. That nginx decides alike is for tests/system/import.py.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::certificate::signed;
use crate::harness::wire::lossy;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/import")
}

/// A folder with all the configurations, and the certificate that one of them names.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(sources()).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let pair = signed(&["ws.example.com"]);
    fs::write(folder.path().join("ws.pem"), pair.chain).unwrap();
    fs::write(folder.path().join("ws.key"), pair.key).unwrap();
    folder
}

fn sidegate(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidegate")).args(arguments).current_dir(folder).output().unwrap()
}

fn import(file: &str, folder: &Path) -> Output {
    sidegate(&["import", "nginx", file, "--out", "out"], folder)
}

/// Imports `text` as a file of its own; the folder, and what was said.
fn import_text(text: &str) -> (TempDir, Output) {
    let folder = folder();
    fs::write(folder.path().join("nginx.conf"), text).unwrap();
    let output = import("nginx.conf", folder.path());
    (folder, output)
}

/// Every file below `folder`, by its path there.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let (mut folders, mut files) = (vec![folder.to_owned()], BTreeMap::new());
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

/// That what becomes of `NAME.conf` is what stands in `NAME.md`, and passes `check`.
fn check_golden(name: &str) {
    let folder = folder();
    let output = import(&format!("{name}.conf"), folder.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut page = format!("What becomes of [{name}.conf]({name}.conf).\n\n```\n{}```\n", lossy(&output.stdout));
    for (path, text) in files(&folder.path().join("out")) {
        page.push_str(&format!("\n`{}`\n\n```\n{text}```\n", path.display()));
        if path.ends_with("sidegate.toml") {
            let checked = sidegate(&["check", "--config", path.to_str().unwrap()], &folder.path().join("out"));
            assert_eq!(checked.status.code(), Some(0), "{checked:?}");
        }
    }
    let here = folder.path().canonicalize().unwrap();
    let page = page.replace(here.to_str().unwrap(), "/etc/nginx").replace(folder.path().to_str().unwrap(), "/etc/nginx");
    let golden = sources().join(format!("{name}.md"));
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        return fs::write(golden, page).unwrap();
    }
    let expected = fs::read_to_string(golden).unwrap();
    let differing = expected.lines().zip(page.lines()).find(|(expected, got)| expected != got);
    assert!(expected == page, "{name}.md: {differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --test it import");
}

/// That nothing is written, with exit code 1 and all of these said.
fn expect_refused((folder, output): (TempDir, Output), said: &[&str]) {
    let text = lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(said.iter().all(|part| text.contains(part)), "{said:?} in {text}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn the_recipe_of_every_tutorial_is_imported() {
    check_golden("classic");
}

#[test]
fn it_is_loud_where_the_inheritance_of_nginx_fails_open() {
    check_golden("fails-open");
}

#[test]
fn what_cannot_be_carried_over_is_said_line_by_line() {
    check_golden("left-out");
}

#[test]
fn sockets_with_other_servers_get_a_configuration_each_and_long_lists_a_file() {
    check_golden("ports");
}

#[test]
fn every_line_of_the_source_has_its_line_in_the_report() {
    for name in ["classic", "fails-open", "left-out", "ports"] {
        let folder = folder();
        let report = lossy(&import(&format!("{name}.conf"), folder.path()).stdout);
        let text = fs::read_to_string(sources().join(format!("{name}.conf"))).unwrap();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.contains(';')) {
            let place = format!("{name}.conf:{number} ");
            assert!(report.lines().any(|told| told.starts_with(&place)), "{place}{line}");
        }
    }
}

#[test]
fn nothing_is_written_where_one_of_its_files_is_there() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("out/policies")).unwrap();
    fs::write(folder.path().join("out/policies/ws-example-com-ticks.toml"), "mine").unwrap();
    let output = import("classic.conf", folder.path());
    let text = lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && text.contains("out/policies/ws-example-com-ticks.toml is there already"),
        "{text}"
    );
    assert_eq!(files(&folder.path().join("out")).into_values().collect::<Vec<_>>(), ["mine"]);
}

#[test]
fn what_nginx_could_not_read_is_said_with_its_place() {
    expect_refused(import_text("http {\n server {\n  listen 80;\n"), &["nginx.conf:4: unexpected end of file", "line 2"]);
    expect_refused(import_text("http {\n include none/a.conf;\n}"), &["nginx.conf:2: none/a.conf cannot be read"]);
    expect_refused(import_text("events {}\ninclude nginx.conf;"), &["nginx.conf:2: nginx.conf includes itself"]);
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let text =
        "server {\n allow 10.0.0.256;\n location / {\n  limit_req zone=a;\n  proxy_pass http://127.0.0.1:1;\n }\n listen x:1;\n}";
    let said = ["nginx.conf:2: invalid parameter \"10.0.0.256\"", "nginx.conf:4: there is no zone \"a\"", "nginx.conf:7: `x:1`"];
    expect_refused(import_text(&text.replace("listen x:1;", "listen x:1; listen 80;")), &said);
}

#[test]
fn a_certificate_that_is_not_there_or_does_not_fit_leaves_nothing_behind() {
    let server = |key: &str| {
        let tls = format!("ssl_certificate ws.pem; ssl_certificate_key {key};");
        format!("server {{ listen 443 ssl; {tls} location / {{ proxy_pass http://127.0.0.1:1; }} }}")
    };
    expect_refused(import_text(&server("none.key")), &["nginx.conf:1", "none.key cannot be read"]);
    expect_refused(import_text(&server("ws.pem")), &["holds no private key", "nothing was written"]);
}

#[test]
fn a_file_that_passes_nothing_on_is_nothing_to_import() {
    let text = "http { server { listen 80; location / { root /srv; } } }";
    expect_refused(import_text(text), &["nginx.conf", "there is nothing to import"]);
}

#[test]
fn programs_get_the_report_as_json() {
    let folder = folder();
    let output = sidegate(&["import", "nginx", "left-out.conf", "--out", "out", "--json"], folder.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let regex = lines.iter().find(|line| line["directive"] == "location ~ \\.ws$").unwrap();
    assert_eq!((&regex["line"], &regex["word"]), (&14.into(), &"differs".into()));
    assert_eq!(regex["notes"][0]["attempts"][0]["path"], "~ \\.ws$");
    assert_eq!(report["configs"][0]["file"], "out/sidegate.toml");
    assert_eq!(report["written"].as_array().unwrap().len(), files(&folder.path().join("out")).len());
}

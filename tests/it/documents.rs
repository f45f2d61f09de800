//! The documents for newcomers are true: names of tests and files, links, crates, the MSRV.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::layers::sources;
use crate::spec::{code_spans, page, rows};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Markdown page for people, as a path from the root.
fn pages() -> BTreeSet<PathBuf> {
    let mut pages: BTreeSet<PathBuf> = BTreeSet::new();
    for folder in [".", "docs", "docs/spec", "docs/decisions", "monitoring", "certs"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.insert(
                    path.strip_prefix(root())
                        .unwrap()
                        .components()
                        .filter(|part| *part != Component::CurDir)
                        .collect(),
                );
            }
        }
    }
    assert!(pages.len() > 40, "{pages:?}");
    pages
}

/// Whether the Rust file at `path` has a function `name`.
fn has_function(path: &str, name: &str) -> bool {
    let text = read(path);
    text.contains(&format!("fn {name}(")) || text.contains(&format!("def {name}("))
}

#[test]
fn threat_model_names_tests_that_exist_in_every_row() {
    let page = page("threat-model.md");
    let (_, attacks) = page.split_once("## One client against the others").unwrap();
    let rows = rows(attacks);
    assert!(rows.len() > 40, "{}", rows.len());
    for row in rows {
        let tests = code_spans(row[3]);
        assert!(!tests.is_empty(), "{} is proved by nothing", row[0]);
        for test in tests {
            match test.split_once("::") {
                Some((path, name)) => assert!(has_function(path, name), "{test}"),
                None => assert!(
                    test.starts_with("fuzz/fuzz_targets/") && root().join(test).exists(),
                    "{test}"
                ),
            }
        }
    }
}

#[test]
fn contributing_names_files_and_tests_that_exist() {
    let page = read("CONTRIBUTING.md");
    let functions: String = sources().into_values().chain(files_of_tests()).collect();
    let names: Vec<_> = code_spans(&page);
    let is_test = |name: &&str| {
        name.matches('_').count() > 4
            && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    let tests: Vec<_> = names.iter().copied().filter(is_test).collect();
    assert!(tests.len() > 12, "{tests:?}");
    for test in tests.into_iter().filter(|test| *test != "subject_does_x_when_y") {
        assert!(functions.contains(&format!("fn {test}(")), "{test}");
    }
    let is_path = |name: &&str| {
        ["src/", "docs/", "tests/"].iter().any(|folder| name.starts_with(folder))
            && !name.contains("NNN")
    };
    for path in names.into_iter().filter(is_path) {
        assert!(root().join(path).exists(), "{path}");
    }
}

/// The texts of the files of `tests/it`.
fn files_of_tests() -> Vec<String> {
    let entries = fs::read_dir(root().join("tests/it")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn dependencies_has_every_direct_crate_and_no_other() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let crates = |table: &str| -> BTreeSet<String> {
        manifest[table].as_table().unwrap().keys().cloned().collect()
    };
    let page = page("dependencies.md");
    let (program, tests) = page.split_once("## In tests and benchmarks alone").unwrap();
    let listed = |text: &str| -> BTreeSet<String> {
        rows(text).iter().map(|row| code_spans(row[0])[0].to_owned()).collect()
    };
    let built_in = crates("dependencies");
    assert_eq!(listed(program), built_in);
    // tokio has one more feature in tests. The benchmarks depend on this crate, too.
    let benches: toml::Table = read("benches/Cargo.toml").parse().unwrap();
    let benches = benches["dev-dependencies"].as_table().unwrap().keys().cloned();
    let mut beside = crates("dev-dependencies");
    beside.extend(benches.filter(|name| name != "sidegate"));
    assert_eq!(listed(tests), &beside - &built_in);
    for row in rows(&page) {
        assert!(row.len() == 5 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn one_file_calls_the_archived_pem_reader() {
    let calls = sources().into_iter().filter(|(path, text)| {
        !path.components().any(|part| part.as_os_str() == "tests")
            && text.contains("rustls_pemfile::")
    });
    let calls: Vec<_> = calls.map(|(path, _)| path).collect();
    assert_eq!(calls, [Path::new("control/config/certificate.rs")]);
}

#[test]
fn readme_has_the_msrv_and_keeps_its_width() {
    let (readme, manifest) =
        (read("README.md"), read("Cargo.toml").parse::<toml::Table>().unwrap());
    let msrv = manifest["package"]["rust-version"].as_str().unwrap();
    for path in ["README.md", "CONTRIBUTING.md"] {
        assert!(read(path).contains(&format!("Rust {msrv} or later")), "{path}");
    }
    for workflow in [".github/workflows/ci.yml", ".github/workflows/release.yml"] {
        assert!(read(workflow).contains(&format!("rust:{msrv}-")), "{workflow}");
    }
    for (number, line) in (1..).zip(readme.lines()) {
        assert!(
            line.chars().count() <= 120,
            "README.md:{number} has {} columns",
            line.chars().count()
        );
    }
}

/// The figure of `proxy` in the row `what` of a table of the performance page. `None` means not
/// measured.
fn figure(page: &str, what: &str, proxy: &str) -> Option<String> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let lines: Vec<_> = page.lines().collect();
    let row = lines
        .iter()
        .position(|line| line.starts_with(&format!("| {what} |")))
        .unwrap_or_else(|| panic!("no {what}"));
    let head = (0..row).rev().find(|at| lines[at + 1].starts_with("| ---")).unwrap();
    let column = cells(lines[head]).iter().position(|name| name == proxy)?;
    Some(cells(lines[row])[column].split(' ').next()?.to_owned())
}

#[test]
fn readme_figures_match_the_performance_page() {
    let (readme, page) = (read("README.md"), page("performance.md"));
    let row = readme
        .lines()
        .find(|line| line.starts_with("| CPU of an echo, memory of a tunnel"))
        .unwrap();
    let written: Vec<_> = row.trim_matches('|').split('|').skip(1).map(str::trim).collect();
    let proxies = ["Sidegate", "nginx", "HAProxy", "Envoy", "Caddy"];
    let measured = proxies.map(|proxy| {
        let echo = figure(&page, "64 B echo", proxy).unwrap_or_else(|| "1".into());
        let tunnel = figure(&page, "an idle tunnel, kB", proxy)
            .map_or("–".into(), |kilobytes| format!("{kilobytes} kB"));
        format!("{echo}, {tunnel}")
    });
    assert_eq!(written, measured);
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let mut parts = heading.split("](");
    let first = parts.next().unwrap_or_default();
    let text: String = std::iter::once(first)
        .chain(parts.filter_map(|part| Some(part.split_once(')')?.1)))
        .collect();
    let text = text.to_lowercase();
    let kept = text.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The anchors of a page; a heading that is there twice has a number behind it.
fn anchors(text: &str) -> BTreeSet<String> {
    let (mut anchors, mut is_code) = (BTreeSet::new(), false);
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !is_code) else { continue };
        let first = anchor(heading.trim_start_matches('#'));
        let numbered = (1..).map(|number| format!("{first}-{number}"));
        let free =
            std::iter::once(first.clone()).chain(numbered).find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

#[test]
fn links_between_pages_resolve() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = read(page.to_str().unwrap());
        let prose: String = text.split("\n```").step_by(2).collect();
        let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in
            links.filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
        {
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let beside = page.parent().unwrap_or(Path::new(""));
            let file =
                if path.is_empty() { root().join(&page) } else { root().join(beside).join(path) };
            let leads = file.exists()
                && (fragment.is_empty()
                    || anchors(&fs::read_to_string(&file).unwrap()).contains(fragment));
            if !leads {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn anchors_match_those_of_github() {
    let text = "# `policies/lists/NAME.cidr`\n## A [link](x.md), and more\n```\n# no heading\n```\n## At the top\n## At the top\n";
    let expected = ["policieslistsnamecidr", "a-link-and-more", "at-the-top", "at-the-top-1"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
}

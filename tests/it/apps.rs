//! `docs/apps.md`: its files pass `check`, and each application has at most ten lines of them.
//!
//! A block whose first line is `# PATH` belongs to that file, and the blocks of a file are put
//! together. `tests/system/apps.py` runs the applications with the same files.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::certificate::signed;

/// The sections of the page that configure an application, without the common beginning.
const APPLICATIONS: usize = 10;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/apps.md")).unwrap()
}

/// The blocks of a part of the page: the path of the file, and the lines below it.
fn blocks(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let fenced = text.split("\n```").skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix("toml\n# ")?.split_once('\n'))
}

#[test]
fn files_of_the_apps_page_pass_check_when_put_together() {
    let folder = TempDir::new().unwrap();
    let put = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    };
    let page = page();
    let mut files = BTreeMap::<_, String>::new();
    for (path, text) in blocks(&page) {
        files.entry(path).or_default().push_str(&format!("{text}\n"));
    }
    for (path, text) in files {
        put(path, &text);
    }
    let pair = signed(&["*.example.com"]);
    put("certs/example.com.pem", &pair.chain);
    put("certs/example.com.key", &pair.key);
    let mut check = Command::new(env!("CARGO_BIN_EXE_sidegate"));
    let checked = check.arg("check").arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    // The page has no room for tests of its policies.
    let others =
        said.lines().filter(|line| line.starts_with("warning") && !line.contains("[[test]]"));
    assert_eq!(others.collect::<Vec<_>>(), [""; 0], "{said}");
}

#[test]
fn apps_page_sections_have_ten_lines_and_differences() {
    let page = page();
    let sections = page.split("\n## ").filter(|section| blocks(section).count() > 0).skip(1);
    let mut count = 0;
    for section in sections {
        let title = section.lines().next().unwrap();
        let lines = blocks(section).flat_map(|(_, text)| text.lines());
        let lines = lines.filter(|line| !line.is_empty()).count();
        assert!((1..=10).contains(&lines), "{title} has {lines} lines of configuration");
        for peer in ["- Application:", "- nginx:", "- Caddy:"] {
            assert!(section.contains(peer), "{title} has no line `{peer}`");
        }
        count += 1;
    }
    assert_eq!(count, APPLICATIONS);
}

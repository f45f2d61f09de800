//! The commands and files that the README shows work as printed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::certificate::signed;

/// The blocks of this kind, in their order.
fn blocks(kind: &str) -> Vec<String> {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let fenced = readme.split("\n```").skip(1).step_by(2);
    fenced
        .filter_map(|block| {
            block.strip_prefix(kind)?.strip_prefix('\n').map(|text| format!("{text}\n"))
        })
        .collect()
}

#[test]
fn readme_configuration_passes_check_without_a_warning() {
    let folder = TempDir::new().unwrap();
    let put = |path: &str, text: &str| {
        fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
        fs::write(folder.path().join(path), text).unwrap();
    };
    let [config, policy] = blocks("toml").try_into().unwrap();
    put("sidegate.toml", &config);
    put("policies/market-data.toml", &policy);
    put(
        "policies/lists/partners.cidr",
        blocks("").iter().find(|text| text.starts_with("203.0.113.0/24")).unwrap(),
    );
    put("policies/lists/banned.cidr", "203.0.113.128/25\n");
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

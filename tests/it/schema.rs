//! `sidegate schema`: what it prints, and that the examples name it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sidegate::admin::wire;
use sidegate::control::config::schema;
use tempfile::TempDir;

/// What `sidegate` prints, and that it is well.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sidegate")).args(arguments).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The schema that the first line of a TOML file names, as editors find it: beside the file.
fn named(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let path =
        text.lines().next().unwrap().strip_prefix("#:schema ").unwrap_or_else(|| panic!("{text}"));
    fs::read_to_string(file.parent().unwrap().join(path)).unwrap()
}

#[test]
fn schema_is_printed_per_kind_or_for_both() {
    assert_eq!(printed(&["schema", "config"]), schema::CONFIG);
    assert_eq!(printed(&["schema", "policy"]), schema::POLICY);
    assert_eq!(printed(&["schema", "admin"]), wire::JSON_SCHEMA);
    let both: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    for (kind, text) in [("config", schema::CONFIG), ("policy", schema::POLICY)] {
        let alone: Value = serde_json::from_str(text).unwrap();
        assert_eq!(both["$defs"][kind]["properties"], alone["properties"]);
        assert!(
            alone["$defs"]
                .as_object()
                .unwrap()
                .iter()
                .all(|(name, one)| both["$defs"][name] == *one)
        );
    }
}

#[test]
fn files_of_init_reference_their_schema() {
    let folder = TempDir::new().unwrap();
    printed(&[
        "init",
        "--backend",
        "http://127.0.0.1:8080",
        "--dir",
        folder.path().to_str().unwrap(),
    ]);
    assert_eq!(named(&folder.path().join("sidegate.toml")), schema::CONFIG);
    assert_eq!(named(&folder.path().join("policies/main.toml")), schema::POLICY);
}

#[test]
fn the_example_in_this_repository_names_its_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(named(&root.join("policies/demo.toml")), schema::POLICY);
}

//! Files that cannot be read at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Diagnostic, Files, POLICY, SIDEGATE, check, write};
use crate::control::config::{load, named_socket};

/// Checks that loading the folder, after a change by `spoil`, reports `expected`, one line per
/// diagnostic.
#[track_caller]
fn spoiled(spoil: impl FnOnce(&Path), expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("sidegate.toml"), SIDEGATE);
    write(&folder.path().join("policies/chat.toml"), POLICY);
    spoil(folder.path());
    let found = load(&mut Files::for_person(), &folder.path().join("sidegate.toml"), None)
        .map(|loaded| loaded.warnings)
        .unwrap_or_else(|found| found);
    let lines: Vec<_> = found.iter().map(Diagnostic::one_line).collect();
    assert_eq!(lines.join("\n").replace(&format!("{}/", folder.path().display()), ""), expected);
}

// C-RLD-13
#[test]
fn path_that_is_not_a_regular_file_is_an_error() {
    spoiled(
        |folder| fs::remove_file(folder.join("sidegate.toml")).unwrap(),
        "sidegate.toml:1:1: error: sidegate.toml does not exist (name the file with --config, or let `sidegate init` write one)",
    );
    spoiled(
        |folder| write(&folder.join("sidegate.toml"), ""),
        "sidegate.toml:1:1: error: sidegate.toml is empty (zero bytes) (a file is never left empty on purpose here: was it cut short?)",
    );
    spoiled(
        |folder| fs::create_dir(folder.join("policies/desk.toml")).unwrap(),
        "policies/desk.toml:1:1: error: policies/desk.toml is a directory, not a file",
    );
    spoiled(
        |folder| {
            fs::write(
                folder.join("policies/chat.toml"),
                [&b"schema = 1\n# "[..], &vec![b'x'; 10 << 20]].concat(),
            )
            .unwrap();
        },
        "policies/chat.toml:1:1: error: policies/chat.toml is larger than 10 MiB",
    );
    spoiled(
        |folder| {
            fs::remove_dir_all(folder.join("policies")).unwrap();
            write(&folder.join("policies"), "");
        },
        "sidegate.toml:13:10: error: policy: there is no policies/chat.toml (write it; all that it must say is `schema` and `[client] allow`)\npolicies:1:1: error: policies cannot be read: not a directory",
    );
}

#[test]
fn symlink_loop_is_an_error() {
    spoiled(
        |folder| symlink("desk.toml", folder.join("policies/desk.toml")).unwrap(),
        "policies/desk.toml:1:1: error: policies/desk.toml is a symbolic link that leads in a circle (let the link lead to a file)",
    );
    spoiled(
        |folder| {
            let policy = "schema = 1\nclient.allow = [\"feed\"]\nlists.feed = { file = \"lists/feed.cidr\" }\n";
            write(&folder.join("policies/chat.toml"), policy);
            symlink("lists", folder.join("policies/lists")).unwrap();
        },
        "policies/chat.toml:3:23: error: file: policies/lists/feed.cidr is a symbolic link that leads in a circle (let the link lead to a file)",
    );
}

#[test]
fn policy_that_disappears_while_reading_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (config, desk) =
        (folder.path().join("sidegate.toml"), folder.path().join("policies/desk.toml"));
    for (path, text) in
        [(&config, SIDEGATE), (&folder.path().join("policies/chat.toml"), POLICY), (&desk, POLICY)]
    {
        write(path, text);
    }
    let mut files = Files::for_person();
    files.list(&folder.path().join("policies")).unwrap();
    fs::remove_file(&desk).unwrap();
    let found = load(&mut files, &config, None).unwrap_err();
    let shown = desk.display();
    assert_eq!(
        found.iter().map(Diagnostic::one_line).collect::<Vec<_>>(),
        [format!("{shown}:1:1: error: policies/desk.toml does not exist")]
    );
}

#[test]
fn list_that_disappears_after_reading_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let (config, feed) = (folder.path().join("sidegate.toml"), folder.path().join("feed.cidr"));
    let policy =
        "schema = 1\nclient.allow = [\"feed\"]\nlists.feed = { file = \"../feed.cidr\" }\n";
    let sidegate = format!("{SIDEGATE}\n[policies]\nlists_from = [\".\"]\n");
    for (path, text) in [
        (&config, &*sidegate),
        (&folder.path().join("policies/chat.toml"), policy),
        (&feed, "10.0.0.0/8\n"),
    ] {
        write(path, text);
    }
    let mut files = Files::for_person();
    load(&mut files, &config, None).unwrap();
    assert!(files.unchanged());
    fs::remove_file(&feed).unwrap();
    assert!(!files.unchanged());
    let found = load(&mut Files::for_person(), &config, None).unwrap_err();
    assert!(found[0].message.ends_with("policies/../feed.cidr does not exist"), "{found:?}");
}

#[test]
fn invalid_utf_8_is_reported_at_its_first_byte() {
    spoiled(
        |folder| {
            fs::write(folder.join("policies/chat.toml"), b"schema = 1\nowner = \"\xff\"\n")
                .unwrap();
        },
        "policies/chat.toml:2:10: error: not UTF-8 from here on (save the file as UTF-8)",
    );
}

#[test]
fn every_named_file_is_among_the_paths() {
    let folder = tempfile::tempdir().unwrap();
    let text = "schema = 1\n[[certificate]]\nchain = \"certs/a.pem\"\nkey = \"/nowhere/a.key\"\n";
    write(&folder.path().join("sidegate.toml"), text);
    let policy =
        "schema = 1\nclient.allow = [\"feed\"]\nlists.feed = { file = \"lists/feed.cidr\" }\n";
    write(&folder.path().join("policies/chat.toml"), policy);
    let mut files = Files::for_person();
    assert!(load(&mut files, &folder.path().join("sidegate.toml"), None).is_err());
    let paths: Vec<_> = files
        .paths()
        .chain(files.folders())
        .map(|path| path.strip_prefix(folder.path()).unwrap_or(path).display().to_string())
        .collect();
    assert_eq!(
        paths,
        [
            "/nowhere/a.key",
            "certs/a.pem",
            "policies/chat.toml",
            "policies/lists/feed.cidr",
            "sidegate.toml",
            "policies"
        ]
    );
}

#[test]
fn lists_may_be_named_by_an_absolute_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.cidr");
    write(&path, "10.0.0.0/8\n");
    let policy = format!(
        "schema = 1\nclient.allow = [\"feed\"]\nlists.feed = {{ file = \"{}\" }}\n",
        path.display()
    );
    let lists_from =
        format!("{SIDEGATE}\n[policies]\nlists_from = [\"{}\"]\n", folder.path().display());
    check(&[("sidegate.toml", &lists_from), ("policies/chat.toml", &policy)], "");
}

#[test]
fn the_admin_socket_is_found_in_a_file_that_is_broken_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidegate.toml");
    let named = |text: &str| {
        write(&path, text);
        named_socket(&path)
    };
    assert_eq!(
        named("schema = 7\nx = 16KiB\n[admin]\nsocket = \"run/a.sock\"\n"),
        Some(folder.path().join("run/a.sock"))
    );
    assert_eq!(named("[admin]\nsocket = \"auto\"\n"), None);
    assert_eq!(named(&format!("admin{} = 1", ".a".repeat(1_000_000))), None);
}

#[test]
fn list_outside_the_permitted_folders_is_refused() {
    let policy =
        "schema = 1\nclient.allow = [\"feed\"]\nlists.feed = { file = \"../feeds/feed.cidr\" }\n";
    let write = |lists_from: &'static str| {
        move |folder: &Path| {
            write(&folder.join("policies/chat.toml"), policy);
            write(&folder.join("feeds/feed.cidr"), "10.0.0.0/8\n");
            write(
                &folder.join("sidegate.toml"),
                &format!("{SIDEGATE}\n[policies]\nlists_from = [{lists_from}]\n"),
            );
        }
    };
    let outside = "policies/chat.toml:3:23: error: file: policies/../feeds/feed.cidr lies outside the folder of the policies, \
                   links followed (move it there, or let the operator add its folder to [policies] lists_from in sidegate.toml)";
    spoiled(write(""), outside);
    spoiled(write("\"certs\", \"nowhere\""), outside);
    spoiled(write("\"feeds\""), "");
    spoiled(write("\"certs\", \".\""), "");
    let torn = "sidegate.toml:16:24: error: unclosed array, expected `]` (close it with `]`)";
    spoiled(write("[\"feeds\""), torn);
}

#[test]
fn a_folder_for_lists_is_named_and_is_not_the_root() {
    let (_, found) = super::load(&[(
        "sidegate.toml",
        &format!("{SIDEGATE}\n[policies]\nlists_from = [\"\", \"/\", \"//.\", 7]\n"),
    )]);
    for said in [
        "lists_from: an empty path",
        "lists_from: the root holds every file",
        "expected a string, found an integer",
    ] {
        assert!(found.contains(said), "{said}: {found}");
    }
    assert_eq!(found.matches("the root holds every file").count(), 2, "{found}");
}

#[test]
fn metrics_hosts_are_host_names_only() {
    let text =
        "\n[metrics]\nhosts = [\"metrics.example\", \"metrics.example:80\", \"*.example\", \"\"]\n";
    let (_, found) = super::load(&[("sidegate.toml", &format!("{SIDEGATE}{text}"))]);
    assert_eq!(found.matches("is not the name of a host").count(), 3, "{found}");
}

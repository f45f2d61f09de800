//! Unchanged list files: their entries are parsed once, and their warnings are reported each time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{LoadOptions, LoadedConfig, Timestamp, load_with_time, now, text, write, write_all};
use crate::control::config::{Files, ListFileCache};
use crate::policy::list::List;

const POLICY: &str =
    "schema = 1\nlists.feed = { file = \"lists/feed.cidr\" }\nclient.allow = [\"feed\"]\n";
const FEED: &str = "policies/lists/feed.cidr";

/// Loads the folder again at `now`. Returns the values, and the findings as people see them.
fn again(folder: &Path, known: &ListFileCache, now: Timestamp) -> (LoadedConfig, String) {
    let options = LoadOptions { known: Some(known), ..LoadOptions::default() };
    let loaded =
        load_with_time(&mut Files::for_person(), &folder.join("sidegate.toml"), options, now);
    let found = text(&loaded, folder);
    (loaded.unwrap(), found)
}

/// The only list of the policy `name`.
fn list<'l>(loaded: &'l LoadedConfig, name: &str) -> &'l Arc<List> {
    let policy = loaded.policies.iter().find(|policy| &*policy.name == name).unwrap();
    policy.allow.lists().iter().next().unwrap()
}

#[test]
fn list_file_with_equal_bytes_is_not_parsed_again() {
    let folder = write_all(&[("policies/chat.toml", POLICY), (FEED, "192.0.2.0/24\n")]);
    let (first, _) = again(folder.path(), &ListFileCache::default(), now());
    let later = SystemTime::now() + Duration::from_secs(5);
    File::options()
        .write(true)
        .open(folder.path().join(FEED))
        .unwrap()
        .set_modified(later)
        .unwrap();
    let (second, _) = again(folder.path(), &first.lists, now());
    assert!(list(&second, "chat").shares(list(&first, "chat")));
    assert_eq!(list(&second, "chat").modified, Timestamp::try_from(later).ok());
}

#[test]
fn list_file_with_other_bytes_is_parsed_again() {
    let folder = write_all(&[("policies/chat.toml", POLICY), (FEED, "192.0.2.0/24\n")]);
    let (first, _) = again(folder.path(), &ListFileCache::default(), now());
    write(&folder.path().join(FEED), "192.0.3.0/24\n");
    let (second, _) = again(folder.path(), &first.lists, now());
    let networks: Vec<_> =
        list(&second, "chat").entries().map(|(entry, _)| entry.to_string()).collect();
    assert_eq!(networks, ["192.0.3.0/24"]);
    assert!(!list(&second, "chat").shares(list(&first, "chat")));
}

#[test]
fn policies_share_the_entries_of_one_file() {
    let desk = POLICY.replace("lists.feed", "lists.guests").replace("[\"feed\"]", "[\"guests\"]");
    let folder = write_all(&[
        ("policies/chat.toml", POLICY),
        ("policies/desk.toml", &desk),
        (FEED, "192.0.2.0/24\n"),
    ]);
    let (loaded, _) = again(folder.path(), &ListFileCache::default(), now());
    assert!(list(&loaded, "chat").shares(list(&loaded, "desk")));
    assert_eq!([&*list(&loaded, "chat").name, &*list(&loaded, "desk").name], ["feed", "guests"]);
}

#[test]
fn lapsed_entries_of_a_kept_list_are_reported() {
    let folder = write_all(&[
        ("policies/chat.toml", POLICY),
        (FEED, "192.0.2.0/24\n192.0.2.9 expires=2026-12-31\n"),
    ]);
    let (first, found) = again(folder.path(), &ListFileCache::default(), now());
    assert_eq!(found, "");
    let (second, found) =
        again(folder.path(), &first.lists, "2027-01-01T00:00:00Z".parse().unwrap());
    assert!(list(&second, "chat").shares(list(&first, "chat")));
    assert_eq!(
        found,
        "warning: 192.0.2.9/32 is lapsed since 2027-01-01T00:00:00Z
 --> policies/lists/feed.cidr:2:1
  |
2 | 192.0.2.9 expires=2026-12-31
  | ^^^^^^^^^
  |
  = help: a lapsed entry is as if absent: remove it, or renew it"
    );
}

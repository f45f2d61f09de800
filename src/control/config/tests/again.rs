//! Unchanged list files: their entries are parsed once, and their warnings are reported each time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Loaded, Pass, Timestamp, load_at, now, text, write, write_all};
use crate::control::config::{Files, ListFiles};
use crate::policy::list::List;

const POLICY: &str =
    "schema = 1\nlists.feed = { file = \"lists/feed.cidr\" }\nclient.allow = [\"feed\"]\n";
const FEED: &str = "policies/lists/feed.cidr";

/// Loads the folder again at `now`. Returns the values, and the findings as people see them.
fn again(folder: &Path, known: &ListFiles, now: Timestamp) -> (Loaded, String) {
    let pass = Pass { known: Some(known), ..Pass::default() };
    let loaded = load_at(&mut Files::for_person(), &folder.join("sidegate.toml"), pass, now);
    let found = text(&loaded, folder);
    (loaded.unwrap(), found)
}

/// The only list of the policy `name`.
fn list<'l>(loaded: &'l Loaded, name: &str) -> &'l Arc<List> {
    let policy = loaded.policies.iter().find(|policy| &*policy.name == name).unwrap();
    policy.allow.lists().iter().next().unwrap()
}

#[test]
fn a_list_file_that_says_the_same_is_kept_whenever_it_was_written() {
    let folder = write_all(&[("policies/chat.toml", POLICY), (FEED, "192.0.2.0/24\n")]);
    let (first, _) = again(folder.path(), &ListFiles::default(), now());
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
fn a_list_file_that_says_something_else_is_read_again() {
    let folder = write_all(&[("policies/chat.toml", POLICY), (FEED, "192.0.2.0/24\n")]);
    let (first, _) = again(folder.path(), &ListFiles::default(), now());
    write(&folder.path().join(FEED), "192.0.3.0/24\n");
    let (second, _) = again(folder.path(), &first.lists, now());
    let networks: Vec<_> =
        list(&second, "chat").entries().map(|(entry, _)| entry.to_string()).collect();
    assert_eq!(networks, ["192.0.3.0/24"]);
    assert!(!list(&second, "chat").shares(list(&first, "chat")));
}

#[test]
fn policies_that_name_one_file_share_what_it_says_each_by_its_own_name() {
    let desk = POLICY.replace("lists.feed", "lists.guests").replace("[\"feed\"]", "[\"guests\"]");
    let folder = write_all(&[
        ("policies/chat.toml", POLICY),
        ("policies/desk.toml", &desk),
        (FEED, "192.0.2.0/24\n"),
    ]);
    let (loaded, _) = again(folder.path(), &ListFiles::default(), now());
    assert!(list(&loaded, "chat").shares(list(&loaded, "desk")));
    assert_eq!([&*list(&loaded, "chat").name, &*list(&loaded, "desk").name], ["feed", "guests"]);
}

#[test]
fn what_has_lapsed_since_is_told_of_a_list_that_is_kept() {
    let folder = write_all(&[
        ("policies/chat.toml", POLICY),
        (FEED, "192.0.2.0/24\n192.0.2.9 expires=2026-12-31\n"),
    ]);
    let (first, found) = again(folder.path(), &ListFiles::default(), now());
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

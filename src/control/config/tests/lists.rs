//! Errors in `*.cidr` files.

use super::check;

const POLICY: &str =
    "schema = 1\n[lists]\nfeed = { file = \"lists/feed.cidr\" }\n[client]\nallow = [\"feed\"]\n";

/// Checks that the list `text` reports `expected`.
#[track_caller]
fn list(text: &str, expected: &str) {
    check(&[("policies/chat.toml", POLICY), ("policies/lists/feed.cidr", text)], expected);
}

#[test]
fn a_fault_is_shown_in_its_line() {
    list(
        "# ours\r\n203.0.113.0/24    owner=acme\r\n203.0.113.66/24  ticket=SEC-2190\r\n198.51.100.7  expire=2026-12-31\r\n",
        r#"
error: 203.0.113.66/24 has host bits set
 --> policies/lists/feed.cidr:3:1
  |
3 | 203.0.113.66/24  ticket=SEC-2190
  | ^^^^^^^^^^^^^^^
  |
  = help: write 203.0.113.0/24 for the network, or 203.0.113.66 for the one address

error: unknown annotation `expire`
 --> policies/lists/feed.cidr:4:15
  |
4 | 198.51.100.7  expire=2026-12-31
  |               ^^^^^^
  |
  = help: did you mean `expires`?
"#,
    );
}

#[test]
fn a_plain_feed_with_a_byte_order_mark_loads() {
    list("\u{feff}1.10.16.0/20 ; SBL256894\r\n\r\n; end\r\n2001:db8::/32", "");
}

#[test]
fn the_same_network_with_both_signs_names_the_first() {
    list(
        "203.0.113.0/24\n!203.0.113.66\n203.0.113.66 ticket=SEC-1\n198.51.100.7\n  !198.51.100.7/32 # no\n",
        r#"
error: the same network with both signs
 --> policies/lists/feed.cidr:3:1
  |
3 | 203.0.113.66 ticket=SEC-1
  | ^^^^^^^^^^^^
  |
 ::: policies/lists/feed.cidr:2:1
  |
2 | !203.0.113.66
  | ------------- first here
  |
  = help: keep one of the two: no order decides between them

error: the same network with both signs
 --> policies/lists/feed.cidr:5:3
  |
5 |   !198.51.100.7/32 # no
  |   ^^^^^^^^^^^^^^^^
  |
 ::: policies/lists/feed.cidr:4:1
  |
4 | 198.51.100.7
  | ------------ first here
  |
  = help: keep one of the two: no order decides between them
"#,
    );
}

#[test]
fn comments_only_is_an_empty_list() {
    list(
        "# nobody yet\n",
        r#"
warning: allow: `feed` has no entries: it admits no client
 --> policies/chat.toml:5:10
  |
5 | allow = ["feed"]
  |          ^^^^^^
"#,
    );
}

#[test]
fn lapsed_entries_are_one_warning() {
    list(
        "192.0.2.9\n192.0.2.1 expires=2026-01-01\n192.0.2.2 expires=2026-07-01\n192.0.2.3 expires=2026-06-30T23:59:59Z\n",
        r#"
warning: 192.0.2.1/32 is lapsed since 2026-01-02T00:00:00Z, and one more entry
 --> policies/lists/feed.cidr:2:1
  |
2 | 192.0.2.1 expires=2026-01-01
  | ^^^^^^^^^
  |
  = help: a lapsed entry is as if absent: remove it, or renew it
"#,
    );
}

#[test]
fn of_many_faults_the_first_twenty_are_shown() {
    let text: String = (0..27).map(|number| format!("10.0.0.{number}/33\n")).collect();
    let (_, found) =
        super::load(&[("policies/chat.toml", POLICY), ("policies/lists/feed.cidr", &text)]);
    assert_eq!(found.matches("error: /33 is too long").count(), 20, "{found}");
    assert!(found.ends_with("error: … and 7 more errors in this file\n  --> policies/lists/feed.cidr:21:1\n   |\n21 | 10.0.0.20/33\n   | ^^^^^^^^^^^^"), "{found}");
}

// C-RLD-13
#[test]
fn a_long_line_is_refused_without_being_shown() {
    for length in [4096, 10_000_000] {
        list(
            &format!("192.0.2.0/24\n192.0.2.1 # {}\n", "x".repeat(length)),
            r#"
error: a line of more than 4 KiB
--> policies/lists/feed.cidr:2:1
 = help: a list has one network on each line: is this a list?
"#,
        );
    }
}

// C-RLD-13
#[test]
fn a_list_of_a_hundred_megabytes_is_refused_at_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let feed = folder.path().join("feed.cidr");
    std::fs::File::create(&feed).unwrap().set_len(100_000_000).unwrap();
    let lists_from =
        format!("{}\n[policies]\nlists_from = [{:?}]\n", super::SIDEGATE, folder.path());
    let policy = POLICY.replace("lists/feed.cidr", feed.to_str().unwrap());
    let (_, found) =
        super::load(&[("sidegate.toml", &lists_from), ("policies/chat.toml", &policy)]);
    let found = found.replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(
        found.replace(&"^".repeat(feed.as_os_str().len() + 2), "^^^"),
        r#"error: file: feed.cidr is larger than 64 MiB
 --> policies/chat.toml:3:17
  |
3 | feed = { file = "feed.cidr" }
  |                 ^^^
  |
  = help: split it: a rule may name several lists"#
    );
}

#[test]
fn missing_list_file_is_an_error_at_its_name() {
    check(
        &[("policies/chat.toml", POLICY)],
        r#"
error: file: policies/lists/feed.cidr does not exist
 --> policies/chat.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr" }
  |                 ^^^^^^^^^^^^^^^^^
"#,
    );
    list(
        "",
        r#"
error: file: policies/lists/feed.cidr is empty (zero bytes)
 --> policies/chat.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr" }
  |                 ^^^^^^^^^^^^^^^^^
  |
  = help: a file is never left empty on purpose here: was it cut short?
"#,
    );
    check(
        &[("policies/chat.toml", POLICY), ("policies/lists/feed.cidr/x", "")],
        r#"
error: file: policies/lists/feed.cidr is a directory, not a file
 --> policies/chat.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr" }
  |                 ^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn file_shared_by_two_policies_is_reported_once() {
    check(
        &[
            ("policies/chat.toml", POLICY),
            ("policies/desk.toml", POLICY),
            ("policies/lists/feed.cidr", "10.0.0.0/33\n"),
        ],
        r#"
error: /33 is too long for an IPv4 address
 --> policies/lists/feed.cidr:1:1
  |
1 | 10.0.0.0/33
  | ^^^^^^^^^^^
  |
  = help: write a prefix length from /0 to /32
"#,
    );
}

#[test]
fn byte_order_marks_in_a_list_are_passed_over() {
    let policy =
        "schema = 1\nlists.feed = { file = \"lists/feed.cidr\" }\nclient.allow = [\"feed\"]\n";
    let feed = "\u{feff}192.0.2.0/24\r\n\u{feff}198.51.100.0/24\n\u{feff}\u{feff}# joined\n";
    let (loaded, found) =
        super::load(&[("policies/chat.toml", policy), ("policies/lists/feed.cidr", feed)]);
    assert_eq!((loaded.unwrap().policies[0].feeds[0].entries, &*found), (2, ""));
}

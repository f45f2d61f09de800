//! Lists in files: the age that they may have, and the share that they may lose.

use std::fs::File;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::{check, now, text, write_all};
use crate::control::config::source::Files;
use crate::control::config::{LoadOptions, LoadedConfig, load_with_time};

const FEED: &str = "policies/lists/feed.cidr";

/// A policy whose list `feed` has these keys besides its file.
fn policy(keys: &str) -> String {
    format!(
        "schema = 1\n[lists]\nfeed = {{ file = \"lists/feed.cidr\"{keys} }}\n[client]\nallow = [\"feed\"]\n"
    )
}

/// Loads the policy whose list `feed` has these keys and so many entries, `age` after its file was
/// written.
fn loaded(keys: &str, entries: u32, age: Duration) -> (LoadedConfig, String) {
    let lines: String = (0..entries).map(|n| format!("10.0.{}.{}\n", n / 256, n % 256)).collect();
    let folder = write_all(&[("policies/chat.toml", &policy(keys)), (FEED, &lines)]);
    let feed = File::options().write(true).open(folder.path().join(FEED)).unwrap();
    feed.set_modified(SystemTime::from(now()) - age).unwrap();
    let loaded = load_with_time(
        &mut Files::for_person(),
        &folder.path().join("sidegate.toml"),
        LoadOptions::default(),
        now(),
    );
    let found = text(&loaded, folder.path());
    (loaded.unwrap_or_else(|_| panic!("{found}")), found)
}

/// The rejection of a reload with the policy, if the running list has `before` entries.
fn held(keys: &str, (before, entries): (usize, u32), age: Duration, accepted: bool) -> String {
    let (loaded, _) = loaded(keys, entries, age);
    let (_, feed) = loaded.feeds().next().unwrap();
    let held = feed
        .rejection(Some(before), accepted, now(), "sidegate reload")
        .map(|held| held.to_string())
        .unwrap_or_default();
    let folder = feed.place.file.strip_suffix("policies/chat.toml").unwrap();
    held.replace(folder, "")
}

fn shrinks(keys: &str, before: usize, entries: u32) -> bool {
    !held(keys, (before, entries), Duration::ZERO, false).is_empty()
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn feed_settings_of_a_list_are_read() {
    check(
        &[
            (
                "policies/chat.toml",
                &policy(
                    ", max_age = \"0s\", on_stale = \"rejct\", max_shrink = \"200%\", max_shrnk = \"5%\"",
                ),
            ),
            (FEED, "192.0.2.1\n"),
        ],
        r#"
error: max_age: zero makes no sense here
 --> policies/chat.toml:3:46
  |
3 | feed = { file = "lists/feed.cidr", max_age = "0s", on_stale = "rejct", max_shrink = "200%", max_shrnk = "5%" }
  |                                              ^^^^
  |
  = help: more than "0s"

error: on_stale: expected "warn" or "reject", found "rejct"
 --> policies/chat.toml:3:63
  |
3 | feed = { file = "lists/feed.cidr", max_age = "0s", on_stale = "rejct", max_shrink = "200%", max_shrnk = "5%" }
  |                                                               ^^^^^^^
  |
  = help: did you mean `reject`?

error: max_shrink: "200%" is not a share
 --> policies/chat.toml:3:85
  |
3 | feed = { file = "lists/feed.cidr", max_age = "0s", on_stale = "rejct", max_shrink = "200%", max_shrnk = "5%" }
  |                                                                                     ^^^^^^
  |
  = help: 0% to 100%, in whole percent

error: unknown key `max_shrnk` in the list `feed`
 --> policies/chat.toml:3:93
  |
3 | feed = { file = "lists/feed.cidr", max_age = "0s", on_stale = "rejct", max_shrink = "200%", max_shrnk = "5%" }
  |                                                                                             ^^^^^^^^^
  |
  = help: remove it: `max_shrink` is there already
"#,
    );
    check(
        &[("policies/chat.toml", &policy(", on_stale = \"reject\"")), (FEED, "192.0.2.1\n")],
        r#"
warning: on_stale: nothing is ever stale without a `max_age`
 --> policies/chat.toml:3:47
  |
3 | feed = { file = "lists/feed.cidr", on_stale = "reject" }
  |                                               ^^^^^^^^
  |
  = help: max_age = "36h"
"#,
    );
    check(
        &[
            ("policies/chat.toml", &policy(", max_age = 36, max_shrink = 50")),
            (FEED, "192.0.2.1\n"),
        ],
        r#"
error: max_age: expected a duration like "10s", found an integer
 --> policies/chat.toml:3:46
  |
3 | feed = { file = "lists/feed.cidr", max_age = 36, max_shrink = 50 }
  |                                              ^^
  |
  = help: with its unit, like "36s"

error: max_shrink: expected a share like "50%", found an integer
 --> policies/chat.toml:3:63
  |
3 | feed = { file = "lists/feed.cidr", max_age = 36, max_shrink = 50 }
  |                                                               ^^
"#,
    );
}

#[test]
fn list_past_max_age_is_a_warning() {
    assert_eq!(
        loaded(", max_age = \"36h\"", 1, 5 * DAY).1,
        r#"
warning: file: policies/lists/feed.cidr was last written 5 days ago; max_age is "36h"
 --> policies/chat.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr", max_age = "36h" }
  |                 ^^^^^^^^^^^^^^^^^
  |
  = help: let whatever writes it write it again, or raise max_age
"#
        .trim_matches('\n')
    );
    for (keys, age) in [
        ("", 5 * DAY),
        (", max_age = \"36h\"", Duration::from_secs(36 * 3600)),
        (", max_age = \"120h\"", 5 * DAY),
    ] {
        assert_eq!(loaded(keys, 1, age).1, "");
    }
}

#[test]
fn stale_list_rejects_a_reload_only_when_configured() {
    let keys = ", max_age = \"36h\", on_stale = \"reject\"";
    for accepted in [false, true] {
        assert_eq!(
            held(keys, (1, 1), 5 * DAY, accepted),
            r#"
error: feed: policies/lists/feed.cidr was last written 5 days ago; max_age is "36h"
 --> policies/chat.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr", max_age = "36h", on_stale = "reject" }
  |                 ^^^^^^^^^^^^^^^^^
  |
  = help: let whatever writes it write it again; on_stale = "warn" takes it as it is
"#
            .trim_matches('\n')
        );
    }
    assert_eq!(held(keys, (1, 1), DAY, false), "");
    assert_eq!(held(", max_age = \"36h\"", (1, 1), 5 * DAY, false), "");
}

#[test]
fn shrunken_list_holds_a_reload_with_a_remedy() {
    assert_eq!(
        held("", (1204, 9), Duration::ZERO, false),
        r#"
error: feed: policies/lists/feed.cidr shrank from 1204 entries to 9; max_shrink is "50%"
 --> policies/chat.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr" }
  |                 ^^^^^^^^^^^^^^^^^
  |
  = help: was it cut short? If it is meant: sidegate reload --accept-shrink feed
"#
        .trim_matches('\n')
    );
    assert_eq!(held("", (1204, 9), Duration::ZERO, true), "", "accepted");
}

#[test]
fn shrink_limit_is_half_by_default_and_off_for_small_lists() {
    assert!(!shrinks("", 200, 100) && shrinks("", 200, 99) && !shrinks("", 200, 300));
    assert!(!shrinks("", 100, 1) && shrinks("", 101, 1));
    assert!(shrinks(", max_shrink = \"10%\"", 10, 8) && !shrinks(", max_shrink = \"10%\"", 10, 9));
    assert!(
        shrinks(", max_shrink = \"0%\"", 200, 199) && !shrinks(", max_shrink = \"100%\"", 200, 1)
    );
}

#[test]
fn list_that_was_inline_before_has_not_shrunk() {
    let (loaded, _) = loaded("", 1, Duration::ZERO);
    assert!(
        loaded.feeds().all(|(_, feed)| feed.rejection(None, false, Timestamp::MAX, "").is_none())
    );
}

#[test]
fn live_marks_of_one_file_have_to_agree() {
    let desk = policy(", live = true");
    check(
        &[
            ("policies/chat.toml", &policy("")),
            ("policies/desk.toml", &desk),
            (FEED, "192.0.2.1\n"),
        ],
        r#"
error: file: policies/lists/feed.cidr is `live` in one list, and not in another
 --> policies/desk.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr", live = true }
  |                 ^^^^^^^^^^^^^^^^^
  |
 ::: policies/chat.toml:3:17
  |
3 | feed = { file = "lists/feed.cidr" }
  |                 ----------------- the other list
  |
  = help: mark every list of the file, or none: it is held or it is not"#,
    );
    let same = [("policies/chat.toml", &*desk), ("policies/desk.toml", &desk), (FEED, "::1\n")];
    check(&same, "");
}

#[test]
fn live_lists_are_no_texts_that_can_be_held() {
    for (keys, is_held) in [("", true), (", live = false", true), (", live = true", false)] {
        let folder = write_all(&[("policies/chat.toml", &policy(keys)), (FEED, "192.0.2.1\n")]);
        let mut files = Files::for_person();
        let config = folder.path().join("sidegate.toml");
        load_with_time(&mut files, &config, LoadOptions::default(), now()).unwrap();
        let held = files.texts();
        let names = held.texts().map(|(path, _)| path.strip_prefix(folder.path()).unwrap());
        let names: Vec<_> = names.filter_map(|name| name.to_str()).collect();
        let texts = ["policies/chat.toml", "policies/lists/feed.cidr", "sidegate.toml"];
        let expected: Vec<_> = texts.into_iter().filter(|name| is_held || *name != FEED).collect();
        assert_eq!(names, expected, "{keys}");
        // A change of the live list alone is no difference of the texts.
        std::fs::write(folder.path().join(FEED), "192.0.2.2\n").unwrap();
        let mut files = Files::for_person();
        load_with_time(&mut files, &config, LoadOptions::default(), now()).unwrap();
        let changed = files.texts_differing(&held, true);
        assert_eq!(!changed.is_empty(), is_held, "{keys}: {changed:?}");
    }
}

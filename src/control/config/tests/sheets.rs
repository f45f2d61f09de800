//! The baseline and candidates: the keys allowed in each file, and the file names that are allowed.

use super::{check, load, load_promoting, now, text, write_all};
use crate::control::config::source::Files;
use crate::control::config::{LoadOptions, load_with_time};

const POLICY: &str = "schema = 1\n[client]\nallow = [\"192.0.2.0/24\"]\n";

#[test]
fn baseline_has_deny_and_no_other_rule() {
    let text = "schema = 1\nowner = \"security@example.com\"\n[lists]\nbanned = [\"192.0.2.1\"]\n[client]\nallow = [\"any\"]\ndeny = [\"banned\"]\n\
                origins = [\"none\"]\nsubprotocols = []\n[limits]\nidle = \"1h\"\n[[limits.for]]\nclient = [\"banned\"]\n";
    check(
        &[("policies/baseline.toml", text)],
        r#"
error: allow: the baseline has lists, `deny` and tests only
 --> policies/baseline.toml:6:1
  |
6 | allow = ["any"]
  | ^^^^^
  |
  = help: write it in a policy

error: origins: the baseline has lists, `deny` and tests only
 --> policies/baseline.toml:8:1
  |
8 | origins = ["none"]
  | ^^^^^^^
  |
  = help: write it in a policy

error: subprotocols: the baseline has lists, `deny` and tests only
 --> policies/baseline.toml:9:1
  |
9 | subprotocols = []
  | ^^^^^^^^^^^^
  |
  = help: write it in a policy

error: limits: the baseline has lists, `deny` and tests only
  --> policies/baseline.toml:10:2
   |
10 | [limits]
   |  ^^^^^^
   |
   = help: write it in a policy
"#,
    );
}

#[test]
fn baseline_without_denials_is_a_warning() {
    // The schema cannot recognise a baseline by its name, so it requires a rule.
    let folder = write_all(&[("policies/baseline.toml", "schema = 1\n")]);
    let loaded = load_with_time(
        &mut Files::for_person(),
        &folder.path().join("sidegate.toml"),
        LoadOptions::default(),
        now(),
    );
    let expected = r#"
warning: the baseline denies no client
 --> policies/baseline.toml:1:1
  |
1 | schema = 1
  | ^
  |
  = help: deny = ["banned"] denies a list on every route
"#;
    assert_eq!(text(&loaded, folder.path()), expected.trim_matches('\n'));
    check(
        &[("policies/baseline.toml", "schema = 1\n[client]\ndeny = []\n")],
        r#"
warning: the baseline denies no client
 --> policies/baseline.toml:2:1
  |
2 | [client]
  | ^^^^^^^^
  |
  = help: deny = ["banned"] denies a list on every route
"#,
    );
    check(
        &[("policies/baseline.toml", "schema = 1\n[client]\ndeny = [\"bannd\"]\n")],
        r#"
error: deny: there is no list `bannd`
 --> policies/baseline.toml:3:9
  |
3 | deny = ["bannd"]
  |         ^^^^^^^
  |
  = help: add `bannd` to [lists], or write a network
"#,
    );
}

#[test]
fn candidate_is_read_beside_its_policy() {
    check(&[("policies/chat.shadow.toml", POLICY)], "");
    check(
        &[("policies/chta.shadow.toml", POLICY)],
        r#"
error: a candidate of a policy that isn't there: policies/chta.toml
--> policies/chta.shadow.toml:1:1
 = help: did you mean `chat`?
"#,
    );
    check(
        &[("policies/chat.shadow.toml", "schema = 1\n[client]\nalow = [\"any\"]\n")],
        r#"
error: unknown key `alow` in [client], which lacks `allow`
 --> policies/chat.shadow.toml:3:1
  |
3 | alow = ["any"]
  | ^^^^
  |
  = help: did you mean `allow`?
"#,
    );
}

#[test]
fn neither_the_baseline_nor_a_reserved_word_has_a_candidate() {
    check(
        &[("policies/baseline.shadow.toml", POLICY)],
        r#"
error: the baseline has no candidate
--> policies/baseline.shadow.toml:1:1
 = help: deny in the candidates of the policies, policies/NAME.shadow.toml
"#,
    );
    check(
        &[("policies/unix.shadow.toml", POLICY), ("policies/null.toml", POLICY)],
        r#"
error: `null` is a reserved word
--> policies/null.toml:1:1
 = help: take another name

error: `unix` is a reserved word
--> policies/unix.shadow.toml:1:1
 = help: take another name
"#,
    );
    check(
        &[
            ("policies/Chat.shadow.toml", "x"),
            ("policies/chat.shadow.shadow.toml", POLICY),
            ("policies/.shadow.toml", "x"),
        ],
        "",
    );
}

#[test]
fn no_route_is_under_the_baseline() {
    let sidegate = super::SIDEGATE.replace("policy = \"chat\"", "policy = \"baseline\"");
    check(
        &[
            ("sidegate.toml", &sidegate),
            ("policies/baseline.toml", "schema = 1\n[client]\ndeny = [\"192.0.2.1\"]\n"),
        ],
        r#"
error: policy: `baseline` is a reserved word
  --> sidegate.toml:13:10
   |
13 | policy = "baseline"
   |          ^^^^^^^^^^
   |
   = help: take another name
"#,
    );
}

#[test]
fn each_policy_file_has_its_kind() {
    let files = [
        ("policies/baseline.toml", "schema = 1\nclient.deny = ['192.0.2.1']\n"),
        ("policies/chat.shadow.toml", POLICY),
    ];
    let (loaded, found) = load(&files);
    let loaded = loaded.unwrap_or_else(|_| panic!("{found}"));
    let baseline = loaded.baseline.unwrap();
    assert_eq!(
        (&*baseline.name, &*baseline.file, baseline.deny[0].len()),
        ("baseline", "policies/baseline.toml", 1)
    );
    let [policy, candidate] = [&loaded.policies[..], &loaded.candidates[..]].map(|pages| &pages[0]);
    assert_eq!(
        (&*policy.name, &*policy.file, policy.allow.lists().len()),
        ("chat", "policies/chat.toml", 0)
    );
    assert_eq!(
        (&*candidate.name, &*candidate.file, candidate.allow.lists().len()),
        ("chat", "policies/chat.shadow.toml", 1)
    );
}

#[test]
fn promoted_candidate_replaces_its_policy() {
    let (loaded, found) = load_promoting(
        &[("policies/chat.shadow.toml", POLICY), ("policies/desk.toml", POLICY)],
        "chat",
    );
    let loaded = loaded.unwrap_or_else(|_| panic!("{found}"));
    let files: Vec<_> = loaded.policies.iter().map(|page| (&*page.name, &*page.file)).collect();
    assert_eq!(files, [("chat", "policies/chat.shadow.toml"), ("desk", "policies/desk.toml")]);
    assert!(loaded.candidates.is_empty());
}

#[test]
fn without_a_candidate_there_is_nothing_to_promote() {
    let (loaded, found) = load_promoting(
        &[("policies/desk.shadow.toml", POLICY), ("policies/desk.toml", POLICY)],
        "chat",
    );
    assert!(loaded.is_err());
    assert_eq!(
        found,
        r#"
error: policies/chat.shadow.toml does not exist: there is nothing to promote
--> policies/chat.shadow.toml:1:1
 = help: policies with a candidate: desk; a candidate is written there, judged beside the policy for a while, and then promoted
"#
        .trim_matches('\n')
    );
}

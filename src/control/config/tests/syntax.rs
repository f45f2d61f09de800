//! Errors of TOML's syntax.

use proptest::prelude::*;

use super::{SIDEGATE, check};

#[test]
fn syntax_errors_come_at_once_with_the_other_errors() {
    let text = SIDEGATE
        .replace("\"127.0.0.1:8443\"", "127.0.0.1:8443")
        .replace("name = \"chat\"", "name = \"chat")
        .replace("false", "0");
    check(
        &[("sidegate.toml", &text)],
        r#"
error: invalid float
 --> sidegate.toml:5:15
  |
5 | listen = 127.0.0.1:8443
  |               ^^^^^^^^^
  |
  = help: if it is meant as a string, put it in quotes

error: tls: expected true or false, found an integer
 --> sidegate.toml:6:7
  |
6 | tls = 0
  |       ^

error: a string without its last quotation mark
 --> sidegate.toml:9:13
  |
9 | name = "chat
  |             ^
  |
  = help: put one behind it
"#,
    );
}

#[test]
fn string_without_quotes_is_an_error() {
    check(
        &[("sidegate.toml", &SIDEGATE.replace("tls = false", "tls = false\nmax_head = 16KiB"))],
        r#"
error: a string without its quotes
 --> sidegate.toml:7:12
  |
7 | max_head = 16KiB
  |            ^^^^^
  |
  = help: write "16KiB"
"#,
    );
}

#[test]
fn missing_value_is_an_error() {
    check(
        &[("sidegate.toml", &SIDEGATE.replace("\"127.0.0.1:8443\"", ""))],
        r#"
error: a value is missing
 --> sidegate.toml:5:10
  |
5 | listen = 
  |          ^
  |
  = help: write one behind the `=`, or remove the line
"#,
    );
}

#[test]
fn repeated_key_names_the_first() {
    check(
        &[("sidegate.toml", &SIDEGATE.replace("tls = false", "tls = false\nname = \"other\""))],
        r#"
error: `name` is defined twice
 --> sidegate.toml:7:1
  |
7 | name = "other"
  | ^^^^
  |
 ::: sidegate.toml:4:1
  |
4 | name = "public"
  | ---- first here
  |
  = help: keep one of the two, or correct the name of one
"#,
    );
}

#[test]
fn repeated_table_names_the_first() {
    check(
        &[("sidegate.toml", &format!("{SIDEGATE}\n[reload] # once\n[admin]\n[reload] # once\n"))],
        r#"
error: `reload` is defined twice
  --> sidegate.toml:17:2
   |
17 | [reload] # once
   |  ^^^^^^
   |
  ::: sidegate.toml:15:1
   |
15 | [reload] # once
   | --------------- first here
   |
   = help: keep one of the two
"#,
    );
}

#[test]
fn an_unclosed_bracket_is_one_error() {
    let policy = "schema = 1\n[client]\nallow = [\"10.0.0.0/8\",\ndeny = [\"10.1.0.0/16\"]\n\n[limits]\nidle = \"10m\"\n";
    check(
        &[("policies/chat.toml", policy)],
        r#"
error: unexpected `=` in array, expected value, `]`
 --> policies/chat.toml:4:6
  |
4 | deny = ["10.1.0.0/16"]
  |      ^
  |
  = help: is a bracket above it not closed?
"#,
    );
}

#[test]
fn an_unclosed_header_is_one_error() {
    check(
        &[("sidegate.toml", &SIDEGATE.replace("[[route]]", "[[route]"))],
        r#"
error: unclosed array table, expected `]`
 --> sidegate.toml:8:9
  |
8 | [[route]
  |         ^
  |
  = help: close it with `]]`
"#,
    );
}

#[test]
fn a_line_without_meaning_is_one_error() {
    check(
        &[("sidegate.toml", &SIDEGATE.replace("tls = false", "tls"))],
        r#"
error: key with no value, expected `=`
 --> sidegate.toml:6:4
  |
6 | tls
  |    ^
  |
  = help: write `=` and a value behind the key
"#,
    );
}

// C-RLD-13
#[test]
fn a_file_nested_too_deep_is_not_parsed() {
    check(
        &[("policies/chat.toml", &format!("schema = 1\na = {}\n", "[".repeat(40)))],
        r#"
error: nested deeper than 32
 --> policies/chat.toml:2:37
  |
2 | a = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[
  |                                     ^
"#,
    );
    let bomb = format!("a{} = 1", ".a".repeat(1_000_000));
    assert!(super::load(&[("sidegate.toml", &bomb)]).1.starts_with("error: nested deeper than 32"));
}

#[test]
fn a_byte_order_mark_is_no_error() {
    check(&[("sidegate.toml", &format!("\u{feff}{}", SIDEGATE.replace('\n', "\r\n")))], "");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_text_parses_without_a_panic(noise in "(?s).{0,40}|[\\[\\]{}=\"'.,#\n a-z0-9]{0,40}", at in 0..SIDEGATE.len(), cut in 0..40_usize) {
        let rest = SIDEGATE.get(at + cut..).unwrap_or_default();
        let text = format!("{}{noise}{rest}", &SIDEGATE[..at]);
        let _ = super::load(&[("sidegate.toml", &text), ("policies/chat.toml", &format!("schema = 1\n{noise}"))]);
    }
}

//! Lists of all variants: each is complete, so that no table or metric lacks a word.

use crate::layers::sources;

/// The variants of the enum `name` in a file as rustfmt writes it.
fn variants(text: &str, name: &str) -> Vec<String> {
    let start = format!("enum {name} {{\n");
    let Some(body) = text.split(&start).nth(1) else { panic!("no enum {name} beside its ALL") };
    let body = body.split("\n}").next().unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    let word =
        |line: &str| line.chars().take_while(|c| c.is_ascii_alphanumeric()).collect::<String>();
    lines.map(word).collect()
}

/// The enums of a file that have a list `ALL`, each with the variants that the list lacks.
fn lacking(text: &str) -> Vec<(String, Vec<String>)> {
    let lists = text.split("const ALL: [").skip(1);
    let one = |list: &str| {
        let (name, list) = list.split_once(';').unwrap();
        let list = list.split("];").next().unwrap();
        let words: Vec<_> = list.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').collect();
        let is_listed = |variant: &String| {
            words.iter().any(|word| {
                *word == format!("{name}::{variant}") || *word == format!("Self::{variant}")
            })
        };
        let lacks = variants(text, name).into_iter().filter(|one| !is_listed(one)).collect();
        (name.to_owned(), lacks)
    };
    lists.map(one).collect()
}

#[test]
fn every_list_of_all_variants_is_complete() {
    let mut seen = Vec::new();
    for (path, text) in sources() {
        for (name, lacks) in lacking(&text) {
            assert!(lacks.is_empty(), "{}: {name}::ALL lacks {lacks:?}", path.display());
            seen.push(name);
        }
    }
    for known in ["Refusal", "CloseReason", "ExchangeReason", "RateLimit", "TlsResult"] {
        assert!(seen.iter().any(|name| name == known), "{known} is not among {seen:?}");
    }
}

#[test]
fn variant_is_missed_when_the_list_lacks_it() {
    let text = "pub enum Word {\n    /// One.\n    One,\n    Two(u8),\n\
                \x20   Three {\n        at: u8,\n    },\n}\n\
                impl Word {\n    pub const ALL: [Word; 2] = [Word::One, Word::Two(1)];\n}\n";
    assert_eq!(lacking(text), [("Word".to_owned(), vec!["Three".to_owned()])]);
}

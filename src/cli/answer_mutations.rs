//! Property tests: for any change of a valid answer, no command ends with 0 unless the answer still
//! says yes.
//!
//! The changed answers come from the samples of the admin API. Whether an answer says yes is
//! decided here from its bare JSON, not by the types that the commands use.

use http::StatusCode;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::cli::exit::Exit;
use crate::cli::{diff, explain, promote, reload};
use sidegate::admin::wire::{
    AdminRequest, DiffRequest, DrainRequest, ExplainRequest, Received, ReloadRequest,
    StatusRequest, read,
};
use sidegate::control::config::ShareOrCount;

/// The digest that a promotion expects.
const EXPECTED_DIGEST: &str = "b2e43fa9c0d1";

/// A command whose exit code depends on an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TestedCommand {
    Status,
    Reload,
    ReloadWait,
    Diff,
    DiffBound,
    PromoteDiff,
    PromoteReload,
    Explain,
    Drain,
}

const TESTED_COMMANDS: [TestedCommand; 9] = [
    TestedCommand::Status,
    TestedCommand::Reload,
    TestedCommand::ReloadWait,
    TestedCommand::Diff,
    TestedCommand::DiffBound,
    TestedCommand::PromoteDiff,
    TestedCommand::PromoteReload,
    TestedCommand::Explain,
    TestedCommand::Drain,
];

fn samples() -> Map<String, Value> {
    serde_json::from_str(include_str!("../admin/wire/samples.json")).unwrap()
}

/// The answer to `command` that says yes, and its status.
fn positive(command: TestedCommand) -> (u16, Value) {
    let name = match command {
        TestedCommand::Status => "status",
        TestedCommand::Reload => "reload_asked",
        TestedCommand::ReloadWait | TestedCommand::PromoteReload => "reload_published",
        TestedCommand::Diff | TestedCommand::DiffBound => "diff_unchanged",
        TestedCommand::PromoteDiff => "diff_changed",
        TestedCommand::Explain => "explain_permitted",
        TestedCommand::Drain => "drain",
    };
    let mut sample = samples().remove(name).unwrap();
    if command == TestedCommand::PromoteDiff {
        sample["answer"]["held"] = json!([]);
    }
    (sample["status"].as_u64().unwrap() as u16, sample["answer"].take())
}

/// How `command` ends after this answer.
fn exit(command: TestedCommand, status: u16, body: &[u8]) -> Exit {
    let received = Received { status: StatusCode::from_u16(status).unwrap(), server: None, body };
    fn answer<R: AdminRequest>(request: &R, received: &Received<'_>) -> Option<R::Answer> {
        read(request, received).ok()
    }
    let wait = |wait| ReloadRequest { wait, ..ReloadRequest::default() };
    let promote = || DiffRequest { promote: Some("chat".into()), ..DiffRequest::default() };
    let yes = |is_yes: bool| if is_yes { Exit::Success } else { Exit::Failure };
    let ended = match command {
        TestedCommand::Status => answer(&StatusRequest, &received).map(|_| Exit::Success),
        TestedCommand::Drain => answer(&DrainRequest, &received).map(|_| Exit::Success),
        TestedCommand::Reload => {
            answer(&wait(false), &received).map(|answer| reload::exit(&answer))
        }
        TestedCommand::ReloadWait => {
            answer(&wait(true), &received).map(|answer| reload::exit(&answer))
        }
        TestedCommand::Diff => {
            answer(&DiffRequest::default(), &received).map(|answer| diff::exit(&answer, None))
        }
        TestedCommand::DiffBound => {
            let bound = Some(ShareOrCount::Count(0));
            answer(&DiffRequest::default(), &received).map(|answer| diff::exit(&answer, bound))
        }
        TestedCommand::PromoteDiff => answer(&promote(), &received)
            .map(|answer| yes(promote::check_preview(&answer, EXPECTED_DIGEST, false).is_ok())),
        TestedCommand::PromoteReload => answer(&wait(true), &received)
            .map(|answer| yes(promote::check_running(&answer, EXPECTED_DIGEST).is_ok())),
        TestedCommand::Explain => {
            let (client, url) = ("192.0.2.7".into(), "wss://ws.example.com/chat".into());
            let request = ExplainRequest {
                client,
                forwarded_for: None,
                listener: None,
                url,
                origin: None,
                subprotocol: None,
                at: None,
                identity: None,
            };
            answer(&request, &received).map(|answer| explain::exit(&answer))
        }
    };
    ended.unwrap_or(Exit::Failure)
}

/// Whether `answer` says yes to `command`.
fn says_yes(command: TestedCommand, status: u16, answer: &Value) -> bool {
    let at = |pointer: &str| answer.pointer(pointer);
    let is = |pointer: &str, value: Value| at(pointer) == Some(&value);
    let outcome = |words: &[&str]| {
        at("/outcome").and_then(Value::as_str).is_some_and(|word| words.contains(&word))
    };
    let whole = |pointer: &str| at(pointer).is_some_and(Value::is_u64);
    let looked = || {
        let same = at("/from") == at("/to");
        let closed = ["/tunnels/revoked", "/tunnels/open", "/streams/revoked", "/streams/open"];
        outcome(&[if same { "unchanged" } else { "changed" }])
            && is("/held", json!([]))
            && closed.into_iter().all(whole)
    };
    let ran = || outcome(&["published", "unchanged"]) && whole("/generation");
    let expected = match command {
        TestedCommand::Reload | TestedCommand::Drain => 202,
        _ => 200,
    };
    status == expected
        && is("/schema", json!(1))
        && match command {
            TestedCommand::Status => {
                whole("/generation")
                    && whole("/tunnels")
                    && at("/draining").is_some_and(Value::is_boolean)
            }
            TestedCommand::Reload => outcome(&["asked"]),
            TestedCommand::ReloadWait => ran() && at("/digest").is_some_and(Value::is_string),
            TestedCommand::PromoteReload => ran() && is("/digest", json!(EXPECTED_DIGEST)),
            TestedCommand::Diff => looked() && is("/promote", Value::Null),
            TestedCommand::DiffBound => {
                let none = is("/tunnels/revoked", json!(0)) && is("/streams/revoked", json!(0));
                looked() && is("/promote", Value::Null) && none
            }
            TestedCommand::PromoteDiff => {
                looked() && is("/promote", json!("chat")) && is("/to", json!(EXPECTED_DIGEST))
            }
            TestedCommand::Explain => {
                is("/permitted", json!(true))
                    && is("/reason", Value::Null)
                    && is("/status", Value::Null)
            }
            TestedCommand::Drain => {
                outcome(&["draining"]) && at("/already").is_some_and(Value::is_boolean)
            }
        }
}

/// One change of an answer.
#[derive(Debug, Clone)]
enum Mutation {
    Remove(usize),
    Rename(usize, &'static str),
    Replace(usize, Value),
    Status(u16),
    /// The answer of another sample.
    Answer(String),
    Truncate(usize),
    /// Text inserted before the first member.
    Prefix(&'static str),
    /// Replaces all texts that are equal to another.
    Word(&'static str, &'static str),
}

const REPLACEMENT_WORDS: [&str; 9] =
    ["published", "unchanged", "changed", "rejected", "asked", "draining", "accepted", "", "chat"];

fn mutations() -> impl Strategy<Value = Mutation> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(vec![
            json!(0),
            json!(1),
            json!(-1),
            json!(2),
            json!(1.5),
            json!(u64::MAX),
            json!(1e300)
        ]),
        select(REPLACEMENT_WORDS.to_vec()).prop_map(Value::from),
        select(vec![
            json!([]),
            json!({}),
            json!([null]),
            json!({ "schema": 1 }),
            json!(EXPECTED_DIGEST)
        ]),
    ];
    let names = vec!["outcome", "schema", "held", "revoked", "permitted", "digest", "Outcome", "x"];
    let prefixes = vec![
        "\"outcome\":\"published\",",
        "\"schema\":1,",
        "\"permitted\":true,",
        "\"held\":[],",
        "\u{feff}",
    ];
    let samples: Vec<_> = samples().keys().cloned().collect();
    prop_oneof![
        any::<usize>().prop_map(Mutation::Remove),
        (any::<usize>(), select(names)).prop_map(|(at, name)| Mutation::Rename(at, name)),
        (any::<usize>(), value).prop_map(|(at, value)| Mutation::Replace(at, value)),
        select(vec![200, 201, 202, 204, 400, 404, 422, 500, 503]).prop_map(Mutation::Status),
        select(samples).prop_map(Mutation::Answer),
        any::<usize>().prop_map(Mutation::Truncate),
        select(prefixes).prop_map(Mutation::Prefix),
        (select(REPLACEMENT_WORDS.to_vec()), select(REPLACEMENT_WORDS.to_vec()))
            .prop_map(|(from, to)| Mutation::Word(from, to)),
    ]
}

/// The pointers to every member and item of `value`.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut add = |name: String, inner: &Value| {
        let at = format!("{at}/{name}");
        found.push(at.clone());
        pointers(inner, &at, found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, inner)| add(name.clone(), inner)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(number, inner)| add(number.to_string(), inner));
        }
        _ => {}
    }
}

fn replace_text(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(|inner| replace_text(inner, from, to));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| replace_text(inner, from, to)),
        Value::String(text) if text == from => to.clone_into(text),
        _ => {}
    }
}

/// Applies `change` to the answer; changes of the text alone come last.
fn apply(change: &Mutation, status: &mut u16, answer: &mut Value) {
    let mut all = Vec::new();
    pointers(answer, "", &mut all);
    let chosen = |at: usize| all.get(at % all.len().max(1)).cloned().unwrap_or_default();
    let around =
        |at: &str| at.rsplit_once('/').map(|(around, name)| (around.to_owned(), name.to_owned()));
    match change {
        Mutation::Status(other) => *status = *other,
        Mutation::Answer(name) => *answer = samples().remove(name).unwrap()["answer"].take(),
        Mutation::Word(from, to) => replace_text(answer, from, to),
        Mutation::Replace(at, value) => {
            if let Some(found) = answer.pointer_mut(&chosen(*at)) {
                *found = value.clone();
            }
        }
        Mutation::Remove(at) | Mutation::Rename(at, _) => {
            let Some((around, name)) = around(&chosen(*at)) else { return };
            match answer.pointer_mut(&around) {
                Some(Value::Object(members)) => {
                    let removed = members.remove(&name);
                    if let (Mutation::Rename(_, new), Some(removed)) = (change, removed) {
                        members.insert((*new).to_owned(), removed);
                    }
                }
                Some(Value::Array(items)) => drop(items.remove(name.parse().unwrap())),
                _ => {}
            }
        }
        Mutation::Truncate(_) | Mutation::Prefix(_) => {}
    }
}

#[test]
fn every_command_ends_with_0_after_its_positive_answer() {
    for command in TESTED_COMMANDS {
        let (status, answer) = positive(command);
        assert!(says_yes(command, status, &answer), "{command:?}");
        assert_eq!(
            exit(command, status, answer.to_string().as_bytes()),
            Exit::Success,
            "{command:?}"
        );
    }
}

#[test]
fn no_command_ends_with_0_after_a_negative_answer() {
    for (command, name) in [
        (TestedCommand::ReloadWait, "reload_rejected"),
        (TestedCommand::Reload, "reload_published"),
        (TestedCommand::ReloadWait, "reload_asked"),
        (TestedCommand::Diff, "diff_rejected"),
        (TestedCommand::Diff, "diff_changed"),
        (TestedCommand::Explain, "explain_refused"),
        (TestedCommand::Status, "error"),
        (TestedCommand::Drain, "reload_asked"),
    ] {
        let sample = &samples()[name];
        let status = sample["status"].as_u64().unwrap() as u16;
        assert_eq!(
            exit(command, status, sample["answer"].to_string().as_bytes()),
            Exit::Failure,
            "{command:?} {name}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_mutation_of_an_answer_ends_a_command_with_0_without_a_yes(
        command in select(TESTED_COMMANDS.to_vec()),
        changes in proptest::collection::vec(mutations(), 1..4),
    ) {
        let (mut status, mut answer) = positive(command);
        changes.iter().for_each(|change| apply(change, &mut status, &mut answer));
        let mut text = answer.to_string();
        for change in &changes {
            match change {
                Mutation::Prefix(prefix) => text = text.replacen('{', &format!("{{{prefix}"), 1),
                Mutation::Truncate(at) => text.truncate(text.floor_char_boundary(at % text.len().max(1))),
                _ => {}
            }
        }
        if exit(command, status, text.as_bytes()) == Exit::Success {
            let answer: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(says_yes(command, status, &answer), "{command:?} {status} {text}");
        }
    }
}

//! What is read as an answer, and what isn't.

use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::docs::SAMPLES;
use super::*;
use crate::observe::printable;

/// The samples of answers to requests, by name.
fn samples() -> Map<String, Value> {
    serde_json::from_str(SAMPLES).unwrap()
}

/// The answer that `body` is read as, to the sample's request.
fn read_changed(sample: &Value, status: u16, body: &str) -> Result<String, ReadError> {
    fn of<R: AdminRequest>(query: &str, received: &Received<'_>) -> Result<String, ReadError> {
        let request = R::parse(query).unwrap_or_else(|sentence| panic!("{query}: {sentence}"));
        read(&request, received).map(|answer| encode(&answer))
    }
    let line = sample["request"].as_str().unwrap();
    let (_, target) = line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let received = Received {
        status: StatusCode::from_u16(status).unwrap(),
        server: None,
        body: body.as_bytes(),
    };
    match path {
        "/v1/status" => of::<StatusRequest>(query, &received),
        "/v1/overview" => of::<OverviewRequest>(query, &received),
        "/v1/config" => of::<ConfigRequest>(query, &received),
        "/v1/tunnels" if query == "limit=0" => of::<TunnelsRequest>("", &received),
        "/v1/tunnels" => of::<TunnelsRequest>(query, &received),
        "/v1/decisions" => of::<DecisionsRequest>(query, &received),
        "/v1/refused" => of::<RefusalsRequest>(query, &received),
        "/v1/close" => of::<CloseRequest>(query, &received),
        "/v1/lapsing" => of::<LapsingRequest>(query, &received),
        "/v1/reload" => of::<ReloadRequest>(query, &received),
        "/v1/explain" => of::<ExplainRequest>(query, &received),
        "/v1/pause" => of::<PauseRequest>(query, &received),
        "/v1/diff" => of::<DiffRequest>(query, &received),
        "/v1/log-level" => of::<LogLevelRequest>(query, &received),
        "/v1/upgrade" => of::<UpgradeRequest>(query, &received),
        "/v1/drain" => of::<DrainRequest>(query, &received),
        "/v1/ban" => of::<BanRequest>(query, &received),
        "/v1/unban" => of::<UnbanRequest>(query, &received),
        "/v1/bans" => of::<BansRequest>(query, &received),
        "/v1/crowdsec" => of::<CrowdsecRequest>(query, &received),
        path => panic!("{path} is not of the admin socket"),
    }
}

/// The samples that the admin socket answers, with their statuses.
fn answers() -> impl Iterator<Item = (String, Value, u16)> {
    let ours = samples()
        .into_iter()
        .filter(|(name, _)| !["error", "livez", "readyz"].contains(&name.as_str()));
    ours.map(|(name, sample)| {
        let status = sample["status"].as_u64().unwrap() as u16;
        (name, sample, status)
    })
}

#[test]
fn samples_round_trip() {
    for (name, sample, status) in answers() {
        let written = read_changed(&sample, status, &sample["answer"].to_string())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), sample["answer"], "{name}");
    }
    for (name, sample) in samples() {
        let same = |written: String| {
            assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), sample["answer"]);
        };
        let answer = sample["answer"].clone();
        match &*name {
            "error" => same(encode(&serde_json::from_value::<ErrorAnswer>(answer).unwrap())),
            "livez" => same(encode(&serde_json::from_value::<LivezAnswer>(answer).unwrap())),
            "readyz" => same(encode(&serde_json::from_value::<ReadyzAnswer>(answer).unwrap())),
            _ => {}
        }
    }
}

/// Every way into `value` that leads to a member of an object, but not into configuration files.
fn members(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(all) => {
            for (name, inner) in all {
                let at = format!("{at}/{name}");
                let is_free = at == "/sidegate" || at == "/policies/chat";
                found.push(at.clone());
                if !is_free {
                    members(inner, &at, found);
                }
            }
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(number, item)| members(item, &format!("{at}/{number}"), found));
        }
        _ => {}
    }
}

/// The member at `at` of `answer`, taken out.
fn take(answer: &mut Value, at: &str) -> (String, Value) {
    let (around, name) = at.rsplit_once('/').unwrap();
    let around = answer.pointer_mut(around).unwrap().as_object_mut().unwrap();
    (name.to_owned(), around.remove(name).unwrap())
}

#[test]
fn answer_without_a_field_is_an_error() {
    for (name, sample, status) in answers() {
        let (whole, mut all) = (&sample["answer"], Vec::new());
        members(whole, "", &mut all);
        // The policies by name are no fields.
        for at in all.iter().filter(|at| *at != "/policies/chat") {
            let mut answer = whole.clone();
            take(&mut answer, at);
            let read = read_changed(&sample, status, &answer.to_string());
            assert!(read.is_err(), "{name} without {at}: {read:?}");
        }
    }
}

#[test]
fn new_fields_and_new_informative_words_are_accepted() {
    for (name, sample, status) in answers() {
        let mut answer = sample["answer"].clone();
        answer["of_tomorrow"] = serde_json::json!({ "x": 1 });
        assert!(read_changed(&sample, status, &answer.to_string()).is_ok(), "{name}");
    }
    let (_, sample, status) = answers().find(|(name, ..)| name == "status").unwrap();
    for at in ["/warnings/0/word", "/last_reload/cause", "/listeners/0/speaks"] {
        let mut answer = sample["answer"].clone();
        *answer.pointer_mut(at).unwrap() = "of_tomorrow".into();
        let read = read_changed(&sample, status, &answer.to_string()).unwrap();
        assert!(read.contains("of_tomorrow"), "{at}: {read}");
    }
}

#[test]
fn another_schema_or_none_is_an_error_that_names_both_versions() {
    for (name, sample, status) in answers() {
        for (schema, said) in
            [(Some(2), "schema 2"), (Some(0), "schema 0"), (None, "without a schema number")]
        {
            let mut answer = sample["answer"].clone();
            take(&mut answer, "/schema");
            if let Some(schema) = schema {
                answer["schema"] = schema.into();
            }
            let error = read_changed(&sample, status, &answer.to_string()).unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains(PRODUCT) && error.contains("(schema 1)"),
                "{name}: {error}"
            );
        }
    }
}

#[test]
fn answer_with_the_status_of_another_outcome_is_an_error() {
    for (name, sample, status) in answers() {
        for other in
            [200, 201, 202, 204, 302, 422, 500].into_iter().filter(|other| *other != status)
        {
            let read = read_changed(&sample, other, &sample["answer"].to_string());
            assert!(read.is_err(), "{name} with {other}: {read:?}");
        }
    }
}

#[test]
fn contradictory_answer_is_an_error() {
    for (name, at, value) in [
        ("explain_refused", "/permitted", Value::from(true)),
        ("explain_permitted", "/permitted", false.into()),
        ("explain_permitted", "/reason", "network".into()),
        ("explain_permitted", "/client", "192.0.2.8".into()),
        ("explain_permitted", "/generation", Value::Null),
        ("diff_unchanged", "/to", "b2e43fa9c0d1".into()),
        ("diff_changed", "/to", "3fa9c0d1b2e4".into()),
        ("diff_changed", "/promote", Value::Null),
        ("diff_changed", "/promote", "other".into()),
        ("diff_unchanged", "/promote", "chat".into()),
        ("diff_changed", "/tunnels/revoked", 0.into()),
        ("diff_changed", "/tunnels/open", 0.into()),
        ("diff_changed", "/streams/revoked", 0.into()),
        ("diff_changed", "/streams/open", 0.into()),
        ("reload_asked", "/outcome", "published".into()),
    ] {
        let (_, sample, status) = answers().find(|(own, ..)| own == name).unwrap();
        let mut answer = sample["answer"].clone();
        *answer.pointer_mut(at).unwrap() = value.clone();
        let read = read_changed(&sample, status, &answer.to_string());
        assert!(read.is_err(), "{name} with {at} {value}: {read:?}");
    }
    let wait = ReloadRequest::default();
    let asked = Received {
        status: StatusCode::ACCEPTED,
        server: None,
        body: br#"{"schema":1,"outcome":"asked"}"#,
    };
    assert!(read(&wait, &asked).is_err(), "a reload that waits is told an outcome");
}

#[test]
fn agent_refusal_is_shown_without_controls() {
    let body = "{\"schema\":1,\"error\":\"no\\u001b[2J\\n\\u009b\"}";
    for status in [400, 404, 405, 503] {
        let received = Received {
            status: StatusCode::from_u16(status).unwrap(),
            server: None,
            body: body.as_bytes(),
        };
        let error = read(&StatusRequest, &received).unwrap_err();
        assert!(matches!(error, ReadError::Refused(_)), "{error:?}");
        assert_eq!(error.to_string(), "no\u{fffd}[2J\u{fffd}\u{fffd}");
    }
}

#[test]
fn excerpt_of_a_foreign_answer_is_short_and_printable() {
    let long = "\u{9b}x".repeat(1 << 20);
    let odd = serde_json::json!({ "schema": 1, "outcome": long }).to_string();
    for body in
        ["", "hello\u{1b}[2J", "[]", "null", "{}", &long, &odd, "{\"schema\":1,\"schema\":1}"]
    {
        let server = Some(&*long);
        let received = Received { status: StatusCode::OK, server, body: body.as_bytes() };
        let error = read(&ReloadRequest::default(), &received).unwrap_err().to_string();
        assert!(error.len() < 2000, "{}", error.len());
        assert!(!error.contains(printable::is_control), "{error:?}");
    }
}

proptest! {
    #[test]
    fn bytes_are_read_without_a_panic(status in 100..1000u16, body in proptest::collection::vec(any::<u8>(), 0..64)) {
        let received = Received { status: StatusCode::from_u16(status).unwrap(), server: None, body: &body };
        prop_assert!(read(&StatusRequest, &received).is_err());
    }

    #[test]
    fn requests_survive_their_encoding(
        texts in proptest::collection::vec(proptest::option::of(".{0,12}"), 3),
        lists in proptest::collection::vec("[a-z][a-z0-9_-]{0,8}", 0..3),
        (limit, after, flags) in (1..=MAX_PAGE_TUNNELS, any::<u64>(), any::<[bool; 2]>()),
    ) {
        let [one, two, three] = &texts[..] else { unreachable!() };
        fn check<R: AdminRequest + PartialEq + std::fmt::Debug>(request: R) {
            let target = request.target();
            let query = target.strip_prefix(R::PATH).unwrap().trim_start_matches('?');
            assert!(target.is_ascii() && http::Uri::try_from(&target).is_ok(), "{target}");
            assert_eq!(R::parse(query), Ok(request));
        }
        let selector = TunnelSelector {
            route: one.clone(),
            client: two.clone(),
            identity: three.clone(),
            policy: one.clone(),
            older: Some(after),
            bytes: Some(limit as u64),
            kind: Some(if flags[0] { EntryKind::Tunnel } else { EntryKind::Exchange }),
        };
        let sort = if flags[1] { TunnelOrder::Bytes } else { TunnelOrder::Id };
        check(TunnelsRequest { selector: selector.clone(), sort, limit, after });
        let reason = one.clone().filter(|text| text.len() <= 123).unwrap_or_default();
        let dry_run = flags[1];
        check(CloseRequest { selector, all: false, code: 4001, reason, dry_run });
        check(OverviewRequest { rows: limit % MAX_ROWS + 1, short: flags[0] });
        check(LapsingRequest { within: after.max(1) });
        check(DecisionsRequest { request: one.clone().unwrap_or_default() + "x" });
        check(RefusalsRequest { last: Some(after).filter(|last| *last > 0), top: limit });
        let names = lists.clone();
        let overrides = vec!["the office, on tuesdays".to_owned(), "b".to_owned()];
        check(ReloadRequest {
            wait: flags[0],
            accept_shrink: lists,
            accept_revocations: flags[1],
            accept_widening: flags[0] != flags[1],
            overrides: if flags[0] { overrides } else { Vec::new() },
            live: flags[1],
            expect: flags[0].then(|| "3fa9c0d1b2e4".to_owned()),
        });
        check(DiffRequest {
            promote: one.clone().filter(|name| !name.is_empty()),
            staged: flags[1],
            overrides: vec!["the office, on tuesdays".to_owned()],
            files: StagedFiles::default(),
        });
        let (client, url) = (one.clone().unwrap_or_default(), two.clone().unwrap_or_default());
        let (origin, subprotocol, at) = (three.clone(), one.clone(), two.clone());
        check(CrowdsecRequest { accept_held: one.clone() });
        check(UnbanRequest {
            client: one.clone(),
            identity: two.clone(),
            all: flags[0],
            origin: one.clone(),
        });
        check(BanRequest {
            client: one.clone(),
            identity: two.clone(),
            period: three.clone(),
            forever: flags[0],
            why: one.clone().unwrap_or_default(),
            overrides: names,
            origin: three.clone(),
        });
        let (forwarded_for, listener, identity) = (two.clone(), one.clone(), three.clone());
        check(ExplainRequest {
            client,
            forwarded_for,
            listener,
            url,
            origin,
            subprotocol,
            identity,
            at,
        });
    }
}

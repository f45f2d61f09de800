//! The effective configuration: every key, in a form that a file may have.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::defaults::{EVERYTHING, NOTHING, POLICY, loaded};
use super::schema::keys;
use crate::control::config::schema::{self, CONFIG};
use crate::control::config::{LoadedConfig, effective};

/// The text of a file as JSON.
fn written(text: &str) -> Value {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

/// The effective policy of the only page, in the middle of December 2026.
fn policy(loaded: LoadedConfig) -> Value {
    let page = loaded.policies.into_iter().find(|page| &*page.name == "market-data").unwrap();
    effective::policy(&page.policy, "2026-12-15T00:00:00Z".parse().unwrap())
}

/// Every key in `shown`, as a path: `listener[].name`.
fn paths(shown: &Value, above: &str, paths: &mut BTreeSet<String>) {
    let dot = if above.is_empty() { "" } else { "." };
    for (key, value) in shown.as_object().into_iter().flatten() {
        let path = format!("{above}{dot}{key}");
        self::paths(value, &path, paths);
        let items = value.as_array().into_iter().flatten();
        items.for_each(|item| self::paths(item, &format!("{path}[]"), paths));
        paths.insert(path);
    }
}

/// The paths in `shown`, and those of the declarations. `absent` begin the paths that are not
/// compared.
#[track_caller]
fn expect_every_key(shown: &Value, of: &str, absent: &[&str]) {
    let is_compared = |path: &String| !absent.iter().any(|absent| path.starts_with(absent));
    let mut found = BTreeSet::new();
    paths(shown, "", &mut found);
    let declared = keys(&serde_json::from_str(of).unwrap()).into_keys();
    let [found, declared]: [BTreeSet<_>; 2] =
        [found.into_iter().filter(is_compared).collect(), declared.filter(is_compared).collect()];
    assert_eq!(found, declared);
}

#[test]
fn effective_configuration_has_every_declared_key() {
    let tls = "backend_tls = { ca = \"certs/ws.example.com.pem\", name = \"app\", \
               chain = \"certs/ws.example.com.pem\", key = \"certs/ws.example.com.key\" }\n";
    let text = format!("{EVERYTHING}{tls}").replace("http://", "https://");
    let text = text.replace(
        "strict_sni",
        "public_port = 443\n\
                     client_certificates = { ca = \"certs/ws.example.com.pem\" }\nstrict_sni",
    );
    let text = text.replace("http2  = false", "proxy_protocol = { from = [\"10.20.0.0/24\"] }");
    let forwarded = "forwarded = { header = \"forwarded\", from = [\"10.20.0.0/24\"] }\nstrict_sni";
    let text = text.replace("strict_sni", forwarded);
    let local = "[[listener]]\nname = \"local\"\nlisten = \"unix:/run/a.sock\"\ntls = false\n";
    let shown = effective::settings(&loaded(&format!("{text}{local}"), POLICY).settings);
    // A listener of another kind, a policy that each route names itself, and a table that is left
    // out: `crowdsec` and `traces` check these keys.
    let absent = ["listener[].redirect", "defaults.policy", "crowdsec", "tracing.otlp_ca"];
    expect_every_key(&shown, CONFIG, &absent);
    // The tests are no part of a running policy, and of a list it shows the length.
    let absent = ["test", "lists", "file", "limits.for[].connections", "limits.for[].streams"];
    expect_every_key(&policy(loaded(NOTHING, POLICY)), schema::POLICY, &absent);
}

/// Checks that `shown` has all of `expected`.
#[track_caller]
fn expect_within(expected: &Value, shown: &Value) {
    match (expected, shown) {
        (Value::Object(expected), Value::Object(shown)) => {
            expected.iter().for_each(|(key, value)| expect_within(value, &shown[key]));
        }
        (Value::Array(expected), Value::Array(shown)) if expected.len() == shown.len() => {
            expected.iter().zip(shown).for_each(|(expected, shown)| expect_within(expected, shown));
        }
        _ => assert_eq!(expected, shown),
    }
}

#[test]
fn effective_configuration_has_every_key_with_its_default() {
    let mut expected = written(EVERYTHING);
    // A route's values from `[timeouts]`.
    expected["route"][0]["backend"] = json!(["http://127.0.0.1:8080"]);
    expected["defaults"]["timeouts"] = json!({ "body_stall": "1m", "body_pace": "500B/s", "dial": "2s", "response": "2m", "write_stall": "30s", "grace": "5s" });
    expected["route"][0]["timeouts"] = expected["defaults"]["timeouts"].clone();
    for text in [EVERYTHING, NOTHING] {
        expect_within(&expected, &effective::settings(&loaded(text, POLICY).settings));
    }
}

#[test]
fn effective_configuration_parses_back() {
    let shown =
        effective::settings(&loaded(&NOTHING.replace("0.0.0.0:8443", "[::1]:9"), POLICY).settings);
    let text = toml::to_string(&shown).unwrap();
    assert_eq!(effective::settings(&loaded(&text, POLICY).settings), shown, "{text}");
}

#[test]
fn effective_policy_shows_rules_and_list_sizes() {
    let shown = policy(loaded(NOTHING, POLICY));
    let mut expected = written(POLICY);
    expected["file"] = "policies/market-data.toml".into();
    expected["lists"] = json!({
        "office": { "file": "policies/market-data.toml", "entries": 2, "lapsing_30d": 0 },
        "partners": { "file": "policies/lists/partners.cidr", "entries": 3, "lapsing_30d": 1 },
        "banned": { "file": "policies/lists/banned.cidr", "entries": 1, "lapsing_30d": 0 },
    });
    expected.as_object_mut().unwrap().remove("test");
    expect_within(&expected, &shown);
}

#[test]
fn rule_with_many_networks_is_cut_with_a_note() {
    let many: Vec<_> = (0..250).map(|last| format!("'10.0.0.{last}'")).collect();
    let text =
        format!("schema = 1\nclient.allow = ['10.0.1.0/24', '!10.0.1.7', {}]", many.join(", "));
    let shown = policy(loaded(NOTHING, &text));
    let allow = shown["client"]["allow"].as_array().unwrap();
    assert_eq!(
        (allow.len(), &allow[1], &allow[100]),
        (101, &json!("!10.0.1.7/32"), &json!("… and 152 more"))
    );
    assert_eq!(
        (&shown["client"]["origins"], &shown["limits"]["idle"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn nothing_of_a_key_and_no_password_is_shown() {
    let loaded = loaded(NOTHING, POLICY);
    let shown = effective::settings(&loaded.settings).to_string();
    assert!(shown.contains("certs/ws.example.com.key") && !shown.contains("PRIVATE"), "{shown}");
    for backend in [
        "http://user:secret@127.0.0.1:8080",
        "https://user:secret@127.0.0.1",
        "ws://secret@127.0.0.1",
    ] {
        let (found, _) = super::load(&[(
            "sidegate.toml",
            &super::SIDEGATE.replace("http://127.0.0.1:8080", backend),
        )]);
        let found = found.unwrap_err();
        assert!(
            found
                .iter()
                .any(|one| one.message.ends_with("a backend has no user name and no password")),
            "{backend}: {found:?}"
        );
        assert!(found.iter().all(|one| !one.one_line().contains("secret")), "{found:?}");
    }
}

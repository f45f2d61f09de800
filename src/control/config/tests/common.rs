//! `[defaults]`: values that routes inherit, and errors in it.

use std::time::Duration;

use super::{SIDEGATE, check, load};
use crate::control::config::{RouteSettings, effective};
use crate::snapshot::route::{PlainHttp, RouteTimeouts};

/// [`SIDEGATE`] with `defaults`, a route without these keys, and a route with the keys `own`.
fn text(defaults: &str, own: &str) -> String {
    let base = SIDEGATE.replace("policy = \"chat\"\n", "");
    let other = "[[route]]\nname = \"other\"\nhost = \"*\"\npath = \"/other/\"\nbackend = \"http://127.0.0.1:8080\"\n";
    format!("{base}{other}{own}\n{defaults}\n")
}

/// The two routes of that file.
fn routes(defaults: &str, own: &str) -> [RouteSettings; 2] {
    let desk = ("policies/desk.toml", "schema = 1\nclient.allow = [\"any\"]\n");
    let (loaded, found) = load(&[("sidegate.toml", &text(defaults, own)), desk]);
    assert_eq!(found, "");
    loaded.unwrap().settings.routes.try_into().unwrap()
}

const DEFAULTS: &str = "[timeouts]\ndial = \"1s\"\n[defaults]\npolicy = \"chat\"\nhttp = \"forward\"\n\
                        max_body = \"5MiB\"\ntimeouts = { grace = \"7s\", write_stall = \"8s\" }";

#[test]
fn route_inherits_omitted_values() {
    let (dial, grace, write_stall) =
        (Duration::from_secs(1), Duration::from_secs(7), Duration::from_secs(8));
    let timeouts = RouteTimeouts { dial, grace, write_stall, ..RouteTimeouts::default() };
    let [first, other] = routes(DEFAULTS, "");
    for route in [first, other] {
        assert_eq!(
            (&*route.policy, route.http, route.max_body),
            ("chat", PlainHttp::Forward, Some(5 << 20))
        );
        assert_eq!(route.timeouts, timeouts);
    }
}

#[test]
fn a_routes_own_value_wins_and_timeouts_key_by_key() {
    let own = "policy = \"desk\"\nhttp = \"refuse\"\nmax_body = 0\ntimeouts = { grace = \"9s\" }";
    let [first, other] = routes(DEFAULTS, own);
    assert_eq!((&*first.policy, first.timeouts.grace), ("chat", Duration::from_secs(7)));
    assert_eq!((&*other.policy, other.http, other.max_body), ("desk", PlainHttp::Refuse, Some(0)));
    let RouteTimeouts { dial, grace, write_stall, .. } = other.timeouts;
    assert_eq!([dial, grace, write_stall], [1, 9, 8].map(Duration::from_secs));
}

#[test]
fn effective_configuration_with_defaults_parses_back() {
    let (loaded, _) = load(&[("sidegate.toml", &text(DEFAULTS, ""))]);
    let shown = effective::settings(&loaded.unwrap().settings);
    assert_eq!(
        (&shown["defaults"]["policy"], &shown["defaults"]["timeouts"]["grace"]),
        (&"chat".into(), &"7s".into())
    );
    let (again, found) = load(&[("sidegate.toml", &toml::to_string(&shown).unwrap())]);
    assert_eq!((effective::settings(&again.unwrap().settings), &*found), (shown, ""));
}

/// Checks that `defaults` reports `expected`.
#[track_caller]
fn wrong(defaults: &str, expected: &str) {
    check(&[("sidegate.toml", &format!("{SIDEGATE}\n{defaults}\n"))], expected);
}

#[test]
fn a_wrong_key_is_an_error_in_its_place() {
    wrong(
        "[defaults]\nhtpt = \"forward\"\npath = \"/\"\nmax_body = \"1MB\"\ntimeouts = { head = \"1s\" }",
        r#"
error: unknown key `htpt` in [defaults]
  --> sidegate.toml:16:1
   |
16 | htpt = "forward"
   | ^^^^
   |
   = help: did you mean `http`?

error: path: each route has its own
  --> sidegate.toml:17:1
   |
17 | path = "/"
   | ^^^^
   |
   = help: write it in the [[route]]

error: max_body: "1MB" is not a size
  --> sidegate.toml:18:12
   |
18 | max_body = "1MB"
   |            ^^^^^
   |
   = help: a whole number and B, KiB, MiB or GiB, like "1MiB"; or "off" for no bound

error: head: not per route
  --> sidegate.toml:19:14
   |
19 | timeouts = { head = "1s" }
   |              ^^^^
   |
   = help: set it in [timeouts]: it is over before a route is found
"#,
    );
}

#[test]
fn missing_policy_is_one_error_for_all_routes() {
    let said = load(&[("sidegate.toml", &text("[defaults]\npolicy = \"caht\"", ""))]).1;
    assert!(
        said.contains("there is no policies/caht.toml") && said.contains("did you mean `chat`?"),
        "{said}"
    );
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
}

#[test]
fn a_route_without_a_policy_of_either_kind_is_an_error() {
    let said = load(&[("sidegate.toml", &text("[defaults]\nhttp = \"forward\"", ""))]).1;
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(
        said.contains("error: policy: missing from [[route]]") && said.contains("also here"),
        "{said}"
    );
}

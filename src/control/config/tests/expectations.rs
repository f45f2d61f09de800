//! Errors in a `[[test]]` of a policy, which show before the test runs.

use super::{check, load};
use crate::control::config::ExpectedVerdict;
use crate::refusal::Refusal;

/// Checks that the policy whose only test has these keys reports `expected`.
#[track_caller]
fn test(keys: &str, expected: &str) {
    let text = format!("schema = 1\nclient.allow = [\"any\"]\n[[test]]\n{keys}\n");
    check(&[("policies/chat.toml", &text)], expected);
}

/// The test "x" of the client 192.0.2.1, which expects `expect`, with these further keys.
fn asking(keys: &str, expect: &str) -> String {
    format!("name = \"x\"\nclient = \"192.0.2.1\"\nexpect = \"{expect}\"\n{keys}")
}

#[test]
fn test_needs_a_name_a_client_a_url_and_an_expectation() {
    test(
        "",
        r#"
error: [[test]] has no keys
 --> policies/chat.toml:3:1
  |
3 | [[test]]
  | ^^^^^^^^
  |
  = help: write `name`, `client`, `url`, `expect` below it, or remove it
"#,
    );
    test(
        "name = \"x\"\nclent = \"192.0.2.1\"\nurl = \"wss://a.example/\"\nexpect = \"allow\"",
        r#"
error: unknown key `clent` in [[test]], which lacks `client`
 --> policies/chat.toml:5:1
  |
5 | clent = "192.0.2.1"
  | ^^^^^
  |
  = help: did you mean `client`?
"#,
    );
}

#[test]
fn name_of_a_test_is_one_line() {
    let rest = "client = \"192.0.2.1\"\nurl = \"wss://a.example/\"\nexpect = \"allow\"";
    test(
        &format!("name = \" \"\n{rest}"),
        r#"
error: name: the name of a test is empty
 --> policies/chat.toml:4:8
  |
4 | name = " "
  |        ^^^
  |
  = help: what the test shows, like "the office may connect"
"#,
    );
    test(
        &format!("name = \"a\\nb\"\n{rest}"),
        r#"
error: name: the name of a test is one line, without controls
 --> policies/chat.toml:4:8
  |
4 | name = "a\nb"
  |        ^^^^^^
  |
  = help: what the test shows, like "the office may connect"
"#,
    );
}

#[test]
fn all_errors_of_a_test_are_reported_at_once() {
    test(
        "name = 1\nclient = \"office\"\nurl = \"a.example\"\nsubprotocol = \"v2 ticks\"\nat = 7\nexpect = \"alow\"",
        r#"
error: name: expected a string, found an integer
 --> policies/chat.toml:4:8
  |
4 | name = 1
  |        ^

error: client: "office" is not an address
 --> policies/chat.toml:5:10
  |
5 | client = "office"
  |          ^^^^^^^^
  |
  = help: one client, like "192.0.2.1"

error: url: not a URL
 --> policies/chat.toml:6:7
  |
6 | url = "a.example"
  |       ^^^^^^^^^^^
  |
  = help: write it as a page would: wss://ws.example.com/ticks/btc

error: subprotocol: "v2 ticks" is not a subprotocol
 --> policies/chat.toml:7:15
  |
7 | subprotocol = "v2 ticks"
  |               ^^^^^^^^^^
  |
  = help: letters, digits and !#$%&'*+-.^_`|~

error: at: expected a date and time like 2027-01-01T00:00:00Z, found an integer
 --> policies/chat.toml:8:6
  |
8 | at = 7
  |      ^

error: expect: "alow" is nothing that a test can expect
 --> policies/chat.toml:9:10
  |
9 | expect = "alow"
  |          ^^^^^^
  |
  = help: did you mean `allow`?
"#,
    );
}

#[test]
fn a_client_is_one_address() {
    let of = |client: &str| {
        format!(
            "name = \"x\"\nclient = \"{client}\"\nurl = \"wss://a.example/\"\nexpect = \"allow\""
        )
    };
    test(
        &of("192.0.2.0/24"),
        r#"
error: client: "192.0.2.0/24" is not an address
 --> policies/chat.toml:5:10
  |
5 | client = "192.0.2.0/24"
  |          ^^^^^^^^^^^^^^
  |
  = help: one client, like "192.0.2.1"
"#,
    );
    test(&of("::ffff:192.0.2.1"), "");
}

#[test]
fn expectation_is_a_word_of_a_refusal_that_judge_returns() {
    let of = |expect: &str| asking("url = \"wss://a.example/\"", expect);
    test(
        &of("alow"),
        r#"
error: expect: "alow" is nothing that a test can expect
 --> policies/chat.toml:6:10
  |
6 | expect = "alow"
  |          ^^^^^^
  |
  = help: did you mean `allow`?
"#,
    );
    test(
        &of("refuse:netwrok"),
        r#"
error: expect: there is no reason `netwrok`
 --> policies/chat.toml:6:18
  |
6 | expect = "refuse:netwrok"
  |                  ^^^^^^^
  |
  = help: did you mean `network`?
"#,
    );
    test(
        &of("refuse:rate"),
        r#"
error: expect: `rate` is not for a policy to say
 --> policies/chat.toml:6:18
  |
6 | expect = "refuse:rate"
  |                  ^^^^
  |
  = help: what judging gives: path, route, network, origin, identity, subprotocol, plain
"#,
    );
    test(
        &of("refuse:"),
        r#"
error: expect: the reason is missing
 --> policies/chat.toml:6:18
  |
6 | expect = "refuse:"
  |                  ^
  |
  = help: what judging gives: path, route, network, origin, identity, subprotocol, plain
"#,
    );
    test(
        &of("403"),
        r#"
error: expect: "403" is nothing that a test can expect
 --> policies/chat.toml:6:10
  |
6 | expect = "403"
  |          ^^^^^
  |
  = help: "allow", "refuse" or "refuse:network"
"#,
    );
    for word in [
        "allow",
        "refuse",
        "refuse:path",
        "refuse:route",
        "refuse:network",
        "refuse:origin",
        "refuse:subprotocol",
    ] {
        test(&of(word), "");
    }
}

#[test]
fn test_url_is_absolute_ws_wss_http_or_https() {
    let of = |url: &str| asking(&format!("url = \"{url}\""), "allow");
    test(
        &of("ws.example.com/ticks"),
        r#"
error: url: not a URL
 --> policies/chat.toml:7:7
  |
7 | url = "ws.example.com/ticks"
  |       ^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write it as a page would: wss://ws.example.com/ticks/btc
"#,
    );
    test(
        &of("ftp://a.example/"),
        r#"
error: url: neither a WebSocket's URL nor plain HTTP's
 --> policies/chat.toml:7:7
  |
7 | url = "ftp://a.example/"
  |       ^^^^^^^^^^^^^^^^^^
  |
  = help: write it as a page would: wss://ws.example.com/ticks/btc
"#,
    );
    test(
        &of("wss://a.example/#top"),
        r#"
error: url: a WebSocket's URL has no fragment
 --> policies/chat.toml:7:7
  |
7 | url = "wss://a.example/#top"
  |       ^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: leave out the `#` and what follows
"#,
    );
    test(
        &of("wss:///ticks"),
        r#"
error: url: the host is neither a name nor an address
 --> policies/chat.toml:7:7
  |
7 | url = "wss:///ticks"
  |       ^^^^^^^^^^^^^^
  |
  = help: write it as a page would: wss://ws.example.com/ticks/btc
"#,
    );
    test(
        &of("wss://a.example/a b"),
        r#"
error: url: the path or the query holds what a URL cannot
 --> policies/chat.toml:7:7
  |
7 | url = "wss://a.example/a b"
  |       ^^^^^^^^^^^^^^^^^^^^^
  |
  = help: percent-encode it (RFC 3986 §2.1)
"#,
    );
    for url in ["ws://a.example", "HTTPS://A.example:8443/x?y=z", "wss://[2001:db8::1]/"] {
        test(&of(url), "");
    }
}

#[test]
fn an_instant_is_a_date_and_time_with_its_offset() {
    let of = |at: &str| asking(&format!("url = \"wss://a.example/\"\nat = {at}"), "allow");
    test(
        &of("2027-01-01T00:00:00"),
        r#"
error: at: 2027-01-01T00:00:00 is no instant
 --> policies/chat.toml:8:6
  |
8 | at = 2027-01-01T00:00:00
  |      ^^^^^^^^^^^^^^^^^^^
  |
  = help: a date and time with its offset, like 2027-01-01T00:00:00Z
"#,
    );
    test(
        &of("\"2027-01-01T00:00:00Z\""),
        r#"
error: at: expected a date and time, found a string
 --> policies/chat.toml:8:6
  |
8 | at = "2027-01-01T00:00:00Z"
  |      ^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write it without quotes: 2027-01-01T00:00:00Z
"#,
    );
    test(
        &of("00:30:00"),
        r#"
error: at: 00:30:00 is no instant
 --> policies/chat.toml:8:6
  |
8 | at = 00:30:00
  |      ^^^^^^^^
  |
  = help: a date and time with its offset, like 2027-01-01T00:00:00Z
"#,
    );
    test(
        &of("2027-02-30"),
        r#"
error: invalid date, expected day between 01 and 28
 --> policies/chat.toml:8:6
  |
8 | at = 2027-02-30
  |      ^^^^^^^^^^
  |
  = help: if it is meant as a string, put it in quotes
"#,
    );
    for at in ["2027-01-01", "2027-01-01T01:00:00+01:00", "2027-01-01 00:00:00Z"] {
        test(&of(at), "");
    }
}

#[test]
fn a_test_is_a_table_of_an_array() {
    check(
        &[("policies/chat.toml", "schema = 1\nclient.allow = [\"any\"]\n[test]\nname = \"x\"\n")],
        r#"
error: test: one table where several can be
 --> policies/chat.toml:3:1
  |
3 | [test]
  | ^^^^^^
  |
  = help: write [[test]]
"#,
    );
}

#[test]
fn parsed_test_has_the_configured_values() {
    let text = "schema = 1\nclient.allow = ['any']\n[[test]]\nname = 'new year'\nclient = '::ffff:192.0.2.1'\n\
                url = 'WSS://A.example:8443/x/../y?z'\norigin = 'https://a.example'\nsubprotocol = 'v2'\nat = 2027-01-01\n\
                expect = 'refuse:network'\n[[test]]\nname = 'hidden'\nclient = '2001:db8::1'\nurl = 'ws://a.example/x%5cy'\nexpect = 'refuse'\n";
    let (loaded, found) = load(&[("policies/chat.toml", text)]);
    let tests = &loaded.unwrap_or_else(|_| panic!("{found}")).policies[0].tests;
    let [one, other] = &tests[..] else { panic!("{tests:?}") };
    let request = one.request.as_ref().unwrap();
    assert_eq!(
        (&*one.name, one.subject.client.to_string(), one.expect),
        ("new year", "192.0.2.1".into(), ExpectedVerdict::RefuseFor("network"))
    );
    assert_eq!(
        (request.host.to_string(), request.path.forwarded(false)),
        ("a.example:8443".into(), "/y")
    );
    assert_eq!(
        (request.origin.as_deref(), request.is_attempt()),
        (Some("https://a.example"), true)
    );
    assert_eq!(one.at, Some("2027-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(
        (other.request.as_ref().err(), other.at, other.expect),
        (Some(&Refusal::Path), None, ExpectedVerdict::Refuse)
    );
}

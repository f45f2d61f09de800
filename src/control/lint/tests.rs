//! The wording of every lint, and configurations that each leaves alone.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;

use super::lint;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::load;
use crate::control::config::source::Files;

const SIDEGATE: &str = r#"schema = 1

[[listener]]
name = "public"
listen = "127.0.0.1:8443"
tls = false

[[route]]
name = "chat"
host = "*"
path = "/"
backend = "http://127.0.0.1:8080"
policy = "chat"
"#;

/// Lines below `[client] allow` that make a policy free of warnings.
const SOUND: &str = "origins = [\"none\"]
[limits]
connections = { per_client = 10 }
[[test]]
name = \"nobody from there\"
client = \"203.0.113.1\"
url = \"wss://ws.example.com/\"
expect = \"refuse\"
";

/// A policy without any fault.
const SOUND_CHAT: (&str, &str) =
    ("policies/chat.toml", "schema = 1\nclient.allow = [\"192.0.2.0/24\"]\n");

/// Findings about `files`, beside [`SIDEGATE`], in the middle of 2026.
fn lints(files: &[(&str, &str)]) -> String {
    let folder = TempDir::new().unwrap();
    for (name, text) in [("sidegate.toml", SIDEGATE)].iter().chain(files) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let (config, mut files) = (folder.path().join("sidegate.toml"), Files::for_person());
    let loaded = load(&mut files, &config, None).unwrap();
    let found = lint(&mut files, &config, &loaded, "2026-07-01T00:00:00Z".parse().unwrap());
    let text: Vec<_> = found.iter().map(Diagnostic::to_string).collect();
    text.join("\n\n").replace(&format!("{}/", folder.path().display()), "")
}

/// Findings about loops where the listener and the backend are these.
fn loops(listen: &str, backend: &str) -> String {
    let text = SIDEGATE.replace("127.0.0.1:8443", listen);
    let text = text.replace("\"http://127.0.0.1:8080\"", backend);
    let policy = format!("schema = 1\n[client]\nallow = [\"192.0.2.0/24\"]\n{SOUND}");
    lints(&[("sidegate.toml", &text), ("policies/chat.toml", &policy)])
}

#[test]
fn backend_that_is_a_listener_is_a_loop() {
    let line = "warning: the backend http://127.0.0.1:8080 of the route `chat` is the listener \
                `public` (0.0.0.0:8080): requests come back to Sidegate";
    let found = loops("0.0.0.0:8080", "\"http://127.0.0.1:8080\"");
    assert!(found.contains(line) && found.contains("sidegate.toml:9:"), "{found}");
    for (listen, backend) in [
        ("127.0.0.1:80", "\"http://127.0.0.1\""),
        ("192.0.2.1:8080", "\"http://192.0.2.1:8080\""),
        ("[::]:8080", "\"http://127.0.0.9:8080\""),
        ("[::]:8080", "\"http://[::1]:8080\""),
        ("[::1]:8080", "\"http://localhost:8080\""),
        ("127.0.0.1:8080", "[\"http://127.0.0.1:8081\", \"http://127.0.0.1:8080\"]"),
        ("0.0.0.0:8443", "\"https://127.0.0.1:8443\"\nbackend_tls = { name = \"a.example\" }"),
    ] {
        let found = loops(listen, backend);
        assert!(found.contains("come back to Sidegate"), "{listen} {backend}: {found}");
    }
    for (listen, backend) in [
        ("127.0.0.1:8080", "\"http://127.0.0.1:8081\""),
        ("127.0.0.1:8080", "\"http://127.0.0.2:8080\""),
        ("0.0.0.0:8080", "\"http://[::1]:8080\""),
        // Another host, unless this one has the address.
        ("0.0.0.0:8080", "\"http://192.0.2.1:8080\""),
        ("0.0.0.0:8080", "\"http://app:8080\""),
        ("127.0.0.1:0", "\"http://127.0.0.1:8080\""),
        ("systemd:public", "\"http://127.0.0.1:8080\""),
    ] {
        assert_eq!(loops(listen, backend), "", "{listen} {backend}");
    }
}

/// Checks the findings about the policy `client`, whose list `feed` has these lines.
#[track_caller]
fn check(client: &str, feed: &str, expected: &str) {
    let policy = format!(
        "schema = 1\n[lists]\nfeed = {{ file = \"lists/feed.cidr\" }}\n[client]\n{client}\n{SOUND}"
    );
    let found = lints(&[("policies/chat.toml", &policy), ("policies/lists/feed.cidr", feed)]);
    expect(&found, expected);
}

#[track_caller]
fn expect(found: &str, expected: &str) {
    assert_eq!(found, expected.trim_matches('\n'), "\n{found}\n");
}

const FEED: &str = "allow = [\"feed\"]";

#[test]
fn sound_policy_gets_no_lint() {
    check(FEED, "192.0.2.0/24\n!192.0.2.13\n2001:db8::/32\n", "");
}

#[test]
fn unused_policy_is_linted() {
    let policy = format!("schema = 1\n[client]\nallow = [\"any\"]\n{SOUND}");
    let found = lints(&[("policies/chat.toml", &policy), ("policies/desk.toml", &policy)]);
    expect(
        &found,
        r#"
warning: no route names the policy `desk`: it has no effect
--> policies/desk.toml:1:1
 = help: policy = "desk" in a [[route]], or remove the file
"#,
    );
}

#[test]
fn missing_rules_are_linted() {
    let found = lints(&[(
        "policies/chat.toml",
        "schema = 1\n[client]\nallow = [\"any\"]\n[limits]\nidle = \"10m\"\n",
    )]);
    expect(
        &found,
        r#"
warning: no [[test]] leads to the route `chat`: nothing notices when its policy says something else
 --> sidegate.toml:9:9
  |
9 | name = "chat"
  |         ^^^^
  |
  = help: add one to policies/chat.toml, with a client and a URL, and what you expect

warning: no `origins` beside it: any web page can open this from its visitor's browser, with the visitor's cookies
 --> policies/chat.toml:3:1
  |
3 | allow = ["any"]
  | ^^^^^
  |
  = help: origins = ["same", "none"] admits the pages of the same host; "none" is for clients that are no browsers

warning: `chat` limits neither `upgrades` nor `connections`: one client can take all there is
--> policies/chat.toml:1:1
 = help: [limits] upgrades = { rate = "5/s", burst = 20 } and connections = { per_client = 10 }
"#,
    );
}

#[test]
fn entry_inside_a_wider_one_of_its_sign_is_linted() {
    check(
        FEED,
        "10.1.2.0/24 owner=acme\n10.0.0.0/8\n10.0.0.1\n!10.3.0.0/16\n!10.3.3.0/24\n10.3.3.3\n",
        r#"
warning: 10.1.2.0/24 changes nothing: 10.0.0.0/8 says the same of it, for as long (… and 2 more entries)
 --> policies/lists/feed.cidr:1:1
  |
1 | 10.1.2.0/24 owner=acme
  | ^^^^^^^^^^^
  |
 ::: policies/lists/feed.cidr:2:1
  |
2 | 10.0.0.0/8
  | ---------- the wider one
  |
  = help: remove it, or narrow the wider one
"#,
    );
    check(
        "allow = [\"10.0.0.0/8\", \"10.1.0.0/16 ticket=A\"]\ndeny = [\"feed\"]",
        "192.0.2.1\n",
        r#"
warning: 10.1.0.0/16 changes nothing: 10.0.0.0/8 says the same of it, for as long
 --> policies/chat.toml:5:25
  |
5 | allow = ["10.0.0.0/8", "10.1.0.0/16 ticket=A"]
  |                         ^^^^^^^^^^^
  |
 ::: policies/chat.toml:5:11
  |
5 | allow = ["10.0.0.0/8", "10.1.0.0/16 ticket=A"]
  |           ---------- the wider one
  |
  = help: remove it, or narrow the wider one
"#,
    );
}

#[test]
fn entry_that_outlasts_a_wider_one_is_not_linted() {
    check(FEED, "10.0.0.0/8 expires=2030-01-01\n10.1.0.0/16\n10.2.0.0/16 expires=2030-01-02\n", "");
    check(FEED, "10.0.0.0/8\n!10.1.0.0/16 expires=2030-01-01\n10.1.2.0/24\n", "");
    check(FEED, "!10.0.0.0/8\n10.1.0.0/16 expires=2030-01-01\n10.1.2.0/24\n", "");
    check(FEED, "10.0.0.0/8 expires=2020-01-01\n10.1.0.0/16\n10.2.0.0/16 expires=2020-01-01\n", "");
}

#[test]
fn lapse_of_a_wider_entry_leaves_the_decision_to_the_next() {
    check(
        FEED,
        "10.0.0.0/8\n!10.4.0.0/16 expires=2020-01-01\n10.4.4.0/24\n10.1.0.0/16 expires=2030-01-01\n10.1.2.0/24\n",
        r#"
warning: 10.4.4.0/24 changes nothing: 10.0.0.0/8 says the same of it, for as long (… and 2 more entries)
 --> policies/lists/feed.cidr:3:1
  |
3 | 10.4.4.0/24
  | ^^^^^^^^^^^
  |
 ::: policies/lists/feed.cidr:1:1
  |
1 | 10.0.0.0/8
  | ---------- the wider one
  |
  = help: remove it, or narrow the wider one
"#,
    );
}

#[test]
fn allow_entry_covered_by_deny_is_linted() {
    check(
        "allow = [\"feed\", \"192.0.2.7\"]\ndeny = [\"192.0.2.0/24\", \"10.0.0.0/8\"]",
        "10.1.0.0/16\n!10.1.2.3\n10.2.0.0/16 expires=2030-01-01\n198.51.100.0/24\n",
        r#"
warning: 10.1.0.0/16 admits no client: 10.0.0.0/8 denies all of it (… and 1 more entry)
 --> policies/lists/feed.cidr:1:1
  |
1 | 10.1.0.0/16
  | ^^^^^^^^^^^
  |
 ::: policies/chat.toml:6:26
  |
6 | deny = ["192.0.2.0/24", "10.0.0.0/8"]
  |                          ---------- denied here
  |
  = help: remove one of the two, or carve it out of the denying list: "!10.1.0.0/16"

warning: 192.0.2.7 admits no client: 192.0.2.0/24 denies all of it
 --> policies/chat.toml:5:19
  |
5 | allow = ["feed", "192.0.2.7"]
  |                   ^^^^^^^^^
  |
 ::: policies/chat.toml:6:10
  |
6 | deny = ["192.0.2.0/24", "10.0.0.0/8"]
  |          ------------ denied here
  |
  = help: remove one of the two, or carve it out of the denying list: "!192.0.2.7"
"#,
    );
}

#[test]
fn allow_entry_partly_denied_is_not_linted() {
    for (deny, allow) in [
        ("\"10.1.0.0/16\"", "10.0.0.0/8"),
        ("\"10.0.0.0/8\", \"!10.1.2.3\"", "10.1.0.0/16"),
        ("\"10.0.0.0/8\", \"!10.1.0.0/16\"", "10.1.0.0/16"),
        ("\"10.0.0.0/8\", \"!10.1.0.0/16\"", "10.1.2.0/24"),
        ("\"10.0.0.0/8 expires=2030-01-01\"", "10.1.0.0/16"),
        ("\"::/0\"", "10.1.0.0/16"),
    ] {
        check(&format!("{FEED}\ndeny = [{deny}]"), allow, "");
    }
}

#[test]
fn list_of_two_policies_is_linted_once() {
    let policy = format!(
        "schema = 1\n[lists]\nfeed = {{ file = \"lists/feed.cidr\" }}\n[client]\n{FEED}\n{SOUND}"
    );
    let found = lints(&[
        ("policies/chat.toml", &policy),
        ("policies/desk.toml", &policy),
        ("policies/lists/feed.cidr", "10.0.0.0/8\n10.0.0.1\n"),
    ]);
    assert_eq!(found.matches("changes nothing").count(), 1, "{found}");
}

#[test]
fn test_covers_the_route_of_its_url() {
    let routes = [("first", "/chat"), ("second", "/chat/"), ("third", "/refused/")].map(|(name, path)| {
        format!(
            "[[route]]\nname = \"{name}\"\nhost = \"a.example\"\npath = \"{path}\"\nbackend = \"unix:/a\"\npolicy = \"chat\"\n"
        )
    });
    let test = |url: &str| {
        format!(
            "[[test]]\nname = \"a\"\nclient = \"192.0.2.1\"\nurl = \"{url}\"\nexpect = \"refuse\"\n"
        )
    };
    let tests =
        ["wss://a.example/chat/%2e/deep", "https://A.example:9/refused/", "wss://a.example/%2f"]
            .map(test)
            .concat();
    let policy = format!("schema = 1\n[client]\nallow = [\"any\"]\n{SOUND}{tests}");
    let found = lints(&[
        ("sidegate.toml", &format!("{SIDEGATE}{}", routes.concat())),
        ("policies/chat.toml", &policy),
    ]);
    assert_eq!(found.matches("warning").count(), 1, "{found}");
    assert!(found.contains("no [[test]] leads to the route `first`"), "{found}");
}

/// Findings about routes, each written as `name host path [policy]`, beside a route for every path
/// of any host.
fn routes(written: &[&str]) -> String {
    let route = |line: &&str| {
        let [name, host, path, ..] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let policy = line.split(' ').nth(3).unwrap_or("chat");
        let place = format!("name = \"{name}\"\nhost = \"{host}\"\npath = \"{path}\"\n");
        format!("[[route]]\n{place}backend = \"unix:/a\"\npolicy = \"{policy}\"\n")
    };
    let routes: String = written.iter().map(route).collect();
    let policy = format!("schema = 1\n[client]\nallow = [\"any\"]\n{SOUND}");
    let config = format!("{SIDEGATE}{routes}");
    lints(&[
        ("sidegate.toml", &config),
        ("policies/chat.toml", &policy),
        ("policies/desk.toml", &policy),
    ])
}

#[test]
fn lint_warns_when_a_path_looks_like_a_pattern() {
    let said = |path: &str| {
        lints(&[("sidegate.toml", &SIDEGATE.replace("\"/\"", &format!("\"{path}\""))), SOUND_CHAT])
    };
    let told = said("/api/v1/*");
    let told = told.split("\n\n").find(|told| told.contains("pattern")).unwrap_or_default();
    expect(
        told,
        r#"
warning: the path of the route `chat` is no pattern: `*` in it is literal
  --> sidegate.toml:11:9
   |
11 | path = "/api/v1/*"
   |         ^^^^^^^^^
   |
   = help: path = "/api/v1/" is for all below it
"#,
    );
    for (path, is_told) in
        [("/users/:id/", true), ("/chat$", true), ("/a(b)/c:d/", false), ("/c++/", false)]
    {
        assert_eq!(said(path).contains("no pattern"), is_told, "{path}");
    }
}

#[test]
fn lint_warns_when_routes_differ_in_letter_case_only() {
    let found = routes(&["one a.example /Admin/x", "two a.example /admin/x"]);
    let told = found.split("\n\n").find(|told| told.contains("letter case")).unwrap_or_default();
    expect(
        told,
        r#"
warning: the routes `one` and `two` differ in letter case only: a backend that ignores case takes one for the other
  --> sidegate.toml:21:9
   |
21 | name = "two"
   |         ^^^
   |
  ::: sidegate.toml:15:9
   |
15 | name = "one"
   |         --- the other one
   |
   = help: name the same policy in both, or keep one of them, unless the backend tells them apart
"#,
    );
    for (others, told) in [
        (["one a.example /Admin/", "two a.example /admin"], false),
        (["one a.example /Admin/", "two b.example /admin/"], false),
        (["one *.example /Admin/", "two a.example /admin/"], true),
        (["one a.example /Admin/", "two * /admin/"], true),
        (["one *.a.example /Admin/", "two a.example /admin/"], false),
        (["one a.example /a!B", "two a.example /a%21b"], true),
    ] {
        assert_eq!(routes(&others).contains("letter case"), told, "{others:?}");
    }
}

#[test]
fn lint_warns_when_a_routes_own_path_is_ambiguous() {
    let found = routes(&["files a.example /files;v=1/ desk"]);
    let told = found.split("\n\n").find(|told| told.contains("are refused")).unwrap_or_default();
    expect(
        told,
        r#"
warning: requests for the route `files` are refused: some backends read its path as that of `chat`, under another policy
  --> sidegate.toml:15:9
   |
15 | name = "files"
   |         ^^^^^
   |
  ::: sidegate.toml:9:9
   |
 9 | name = "chat"
   |         ---- the other one
   |
   = help: name the same policy in both, or another path (parameters cut: /files/)
"#,
    );
    for (written, told) in [
        ("files a.example /files;v=1/ chat", false),
        ("files * /v1./ desk", true),
        ("files *.example /caf%C3%A9/100%25/ desk", false),
        ("files *.example /%2541/ desk", true),
    ] {
        assert_eq!(routes(&[written]).contains("are refused"), told, "{written}");
    }
}

#[test]
fn allow_entry_denied_by_the_baseline_is_linted() {
    let policy = format!("schema = 1\n[client]\nallow = [\"10.0.0.1\"]\n{SOUND}");
    let found = lints(&[
        ("policies/chat.toml", &policy),
        ("policies/baseline.toml", "schema = 1\n[client]\ndeny = [\"10.0.0.0/8\"]\n"),
    ]);
    expect(
        &found,
        r#"
warning: 10.0.0.1 admits no client: 10.0.0.0/8 denies all of it
 --> policies/chat.toml:3:11
  |
3 | allow = ["10.0.0.1"]
  |           ^^^^^^^^
  |
 ::: policies/baseline.toml:3:10
  |
3 | deny = ["10.0.0.0/8"]
  |          ---------- denied here
  |
  = help: remove one of the two, or carve it out of the denying list: "!10.0.0.1"
"#,
    );
}

#[test]
fn candidate_is_linted_like_its_policy() {
    let policy = format!("schema = 1\n[client]\nallow = [\"any\"]\n{SOUND}");
    let candidate =
        policy.replace("\"any\"", "\"10.0.0.0/8\", \"10.0.0.1\"").replace("origins", "#");
    let found =
        lints(&[("policies/chat.toml", &policy), ("policies/chat.shadow.toml", &candidate)]);
    assert_eq!(
        (
            found.matches("policies/chat.shadow.toml:3").count(),
            found.matches("policies/chat.toml").count()
        ),
        (3, 0),
        "{found}"
    );
}

#[test]
fn narrower_network_with_other_limits_is_not_linted() {
    let lists = "[lists]\nnat = [\"10.0.0.0/8\", \"10.1.2.0/24\"]\n[client]\nallow = [\"nat\"]\n";
    let limits = "[[limits.for]]\nclient = [\"nat\"]\nidle = \"1m\"\n[[limits.for]]\nclient = [\"10.1.0.0/16\"]\nidle = \"2m\"\n";
    assert_eq!(
        lints(&[("policies/chat.toml", &format!("schema = 1\n{lists}{SOUND}{limits}"))]),
        ""
    );
}

#[test]
fn certificate_that_no_listener_asks_for_is_noticed() {
    let policy =
        |rule: &str| format!("schema = 1\n[client]\nallow = [\"192.0.2.0/24\"]\n{rule}\n{SOUND}");
    let found = lints(&[("policies/chat.toml", &policy("certificate = { required = true }"))]);
    let expected = r#"
warning: no listener asks for certificates: every client is refused
 --> policies/chat.toml:4:1
  |
4 | certificate = { required = true }
  | ^^^^^^^^^^^
  |
  = help: client_certificates = { ca = "certs/clients.pem" } in a [[listener]] with TLS
"#;
    assert_eq!(found, expected.trim_matches('\n'), "{found}");
    assert_eq!(lints(&[("policies/chat.toml", &policy("certificate = { required = false }"))]), "");
}

#[test]
fn identity_in_limits_is_noticed_when_no_listener_asks() {
    let policy = "schema = 1\n[client]\nallow = [\"192.0.2.0/24\"]\norigins = [\"none\"]\n[limits]\n\
                  upgrades = { rate = \"5/s\", per = \"identity\" }\n\
                  [[limits.for]]\nidentity = [\"spiffe://a/*\"]\nidle = \"1h\"\n\
                  [[test]]\nname = \"x\"\nclient = \"203.0.113.1\"\n\
                  url = \"wss://ws.example.com/\"\nexpect = \"refuse\"\n";
    let found = lints(&[("policies/chat.toml", policy)]);
    let expected = r#"
warning: no listener asks for certificates: every client is counted by its address
 --> policies/chat.toml:6:35
  |
6 | upgrades = { rate = "5/s", per = "identity" }
  |                                   ^^^^^^^^
  |
  = help: client_certificates = { ca = "certs/clients.pem" } in a [[listener]] with TLS

warning: no listener asks for certificates: these limits apply to no client
 --> policies/chat.toml:8:1
  |
8 | identity = ["spiffe://a/*"]
  | ^^^^^^^^
  |
  = help: client_certificates = { ca = "certs/clients.pem" } in a [[listener]] with TLS
"#;
    assert_eq!(found, expected.trim_matches('\n'), "{found}");
}

#[test]
fn client_without_a_certificate_is_noticed_where_limits_count_by_it() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["ws.example.com".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
    let found = |mode: &str, rule: &str| {
        let asks =
            format!("tls = true\nclient_certificates = {{ ca = \"a.pem\", mode = \"{mode}\" }}");
        let own = "[[certificate]]\nchain = \"a.pem\"\nkey = \"a.pem\"\n";
        let config = SIDEGATE.replace("tls = false", &asks) + own;
        let limits = SOUND.replace("per_client = 10", "per_client = 10, per = \"identity\"");
        let policy = format!("schema = 1\n[client]\nallow = [\"192.0.2.0/24\"]\n{rule}\n{limits}");
        lints(&[("sidegate.toml", &config), ("a.pem", &pem), ("policies/chat.toml", &policy)])
    };
    let expected = r#"
warning: a client without a certificate is admitted, and counted by its address
 --> policies/chat.toml:7:41
  |
7 | connections = { per_client = 10, per = "identity" }
  |                                         ^^^^^^^^
  |
  = help: certificate = { required = true } in [client], or mode = "required" in the client_certificates of every listener
"#;
    for rule in ["", "certificate = { required = false }"] {
        assert_eq!(found("optional", rule), expected.trim_matches('\n'));
    }
    assert_eq!(found("optional", "certificate = { required = true }"), "");
    assert_eq!(found("required", ""), "");
}

/// The listener of [`SIDEGATE`] with these lines, and tables after it.
fn with_listener(lines: &str, more: &str) -> String {
    let plain = "name = \"public\"\nlisten = \"127.0.0.1:8443\"\ntls = false\n";
    SIDEGATE.replace(plain, &format!("{lines}\n{more}"))
}

/// Lines of a listener that asks for certificates.
fn asking(mode: &str) -> String {
    format!(
        "name = \"public\"\nlisten = \"127.0.0.1:8443\"\n\
         client_certificates = {{ ca = \"a.pem\", mode = \"{mode}\" }}"
    )
}

/// Messages of the warnings about a policy with these lines in `[client]`, and these after it.
fn told(config: &str, client: &str, more: &str) -> Vec<String> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["ws.example.com".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    let certificate = "[[certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n";
    let config = match config.contains("client_certificates") {
        true => format!("{config}{certificate}"),
        false => config.to_owned(),
    };
    let policy = format!("schema = 1\n[client]\n{client}\n{SOUND}{more}");
    let found = lints(&[
        ("sidegate.toml", &config),
        ("a.pem", &pem),
        ("a.key", &key.serialize_pem()),
        ("policies/chat.toml", &policy),
    ]);
    let first = |one: &str| {
        let line = one.lines().next().unwrap_or_default();
        line.strip_prefix("warning: ").unwrap_or(line).to_owned()
    };
    found.split("\n\n").map(first).filter(|line| !line.is_empty()).collect()
}

/// Expects one warning that begins so, or none where `expected` is empty.
#[track_caller]
fn expect_told(told: &[String], expected: &str) {
    let is_as_expected = match told {
        [] => expected.is_empty(),
        [one] => !expected.is_empty() && one.contains(expected),
        _ => false,
    };
    assert!(is_as_expected, "{expected:?}: {told:?}");
}

const PLAIN: &str = "[[listener]]\nname = \"plain\"\nlisten = \"127.0.0.1:8081\"\ntls = false\n";
const NETS: &str = "allow = [\"192.0.2.0/24\"]";

#[test]
fn denied_certificate_that_can_be_left_out_is_linted() {
    let escaped = "a client whose certificate is denied is admitted without it";
    let client = |rule: &str| format!("{NETS}\ncertificate = {{ {rule} }}");
    for (mode, rule, expected) in [
        ("optional", "required = false, deny = [\"spiffe://a/bad\"]", escaped),
        ("optional", "required = false, allow = [\"spiffe://a/**\"]", ""),
        ("optional", "deny = [\"spiffe://a/bad\"]", ""),
        ("required", "required = false, deny = [\"spiffe://a/bad\"]", ""),
    ] {
        let config = with_listener(&asking(mode), "");
        expect_told(&told(&config, &client(rule), ""), expected);
    }
}

#[test]
fn required_certificates_beside_an_open_listener_are_linted() {
    let beside = "the listener `plain` admits the same clients under the policy `chat` without one";
    let redirect = PLAIN.replace("tls = false", "tls = false\nredirect = \"https\"");
    let needs = format!("{NETS}\ncertificate = {{ allow = [\"spiffe://a/**\"] }}");
    for (more, client, expected) in
        [(PLAIN, NETS, beside), (&redirect, NETS, ""), ("", NETS, ""), (PLAIN, &needs, "")]
    {
        let config = with_listener(&asking("required"), more);
        expect_told(&told(&config, client, ""), expected);
    }
}

#[test]
fn optional_certificates_without_a_use_are_linted() {
    let unused = "clients may leave their certificate out, and no policy and no route uses it";
    let config = with_listener(&asking("optional"), "");
    expect_told(&told(&config, NETS, ""), unused);
    let sends = format!("{config}client_certificate = \"leaf\"\n");
    expect_told(&told(&sends, NETS, ""), "");
    let rule = format!("{NETS}\ncertificate = {{ required = false }}");
    expect_told(&told(&config, &rule, ""), "");
}

#[test]
fn stricter_limits_of_optional_certificates_are_linted() {
    let wider = "without its certificate such a client has the wider limits of all others";
    let more = |limit: &str| format!("[[limits.for]]\nidentity = [\"spiffe://a/x\"]\n{limit}\n");
    for (mode, limit, expected) in [
        ("optional", "connections = { per_client = 5 }", wider),
        ("optional", "upgrades = { rate = \"1/s\" }", wider),
        ("optional", "connections = { per_client = 50 }", ""),
        ("required", "connections = { per_client = 5 }", ""),
    ] {
        let config = with_listener(&asking(mode), "");
        expect_told(&told(&config, NETS, &more(limit)), expected);
    }
}

#[test]
fn unix_socket_where_anyone_names_clients_is_linted() {
    let folder = TempDir::new().unwrap();
    let listener = |mode: &str, key: &str| {
        let path = folder.path().display();
        let lines = format!(
            "name = \"public\"\nlisten = \"unix:{path}/s\"\ntls = false\nmode = \"{mode}\"\n{key}"
        );
        with_listener(&lines, "")
    };
    let forwarded = "forwarded = { header = \"x-forwarded-for\", from = [\"unix\"] }";
    let anyone = "any user of this host may connect with mode 0666, and `";
    for (mode, key, expected) in [
        ("0666", forwarded, anyone),
        ("0666", "proxy_protocol = { from = [\"unix\"] }", anyone),
        ("0660", forwarded, ""),
        ("0666", "proxy_protocol = { from = [\"unix:uid=0\"] }", ""),
    ] {
        expect_told(&told(&listener(mode, key), NETS, ""), expected);
    }
    let none = "every client comes over a Unix socket: the networks in `allow` admit none";
    expect_told(&told(&listener("0660", ""), NETS, ""), none);
    expect_told(&told(&listener("0660", ""), "allow = [\"192.0.2.0/24\", \"unix\"]", ""), "");
    expect_told(&told(&listener("0660", ""), "allow = [\"any\"]", ""), "");
}

#[test]
fn users_in_allow_without_a_unix_socket_are_linted() {
    let users = "no listener is a Unix socket: the users in `allow` cannot connect";
    for client in ["allow = [\"unix:uid=0\"]", "allow = [\"192.0.2.0/24\", \"unix\"]"] {
        expect_told(&told(SIDEGATE, client, ""), users);
    }
}

#[test]
fn policy_that_admits_only_the_proxies_is_linted() {
    let proxies = "`allow` holds nothing but proxies of `from`";
    let forwarded = "forwarded = { header = \"x-forwarded-for\", from = [\"192.0.2.0/24\"] }";
    for (key, client, expected) in [
        (forwarded, "allow = [\"192.0.2.0/24\"]", proxies),
        (forwarded, "allow = [\"192.0.2.7\", \"192.0.2.9\"]", proxies),
        ("proxy_protocol = { from = [\"192.0.2.0/24\"] }", "allow = [\"192.0.2.7\"]", proxies),
        (forwarded, "allow = [\"192.0.2.0/24\", \"10.0.0.0/8\"]", ""),
        (forwarded, "allow = [\"192.0.0.0/16\"]", ""),
        (forwarded, "allow = [\"any\"]", ""),
    ] {
        let lines = format!("name = \"public\"\nlisten = \"127.0.0.1:8443\"\ntls = false\n{key}\n");
        expect_told(&told(&with_listener(&lines, ""), client, ""), expected);
        // Others come to a second listener by themselves.
        expect_told(&told(&with_listener(&lines, PLAIN), client, ""), "");
    }
}

#[test]
fn drop_that_only_proxies_meet_is_linted() {
    for (from, expected) in [("127.0.0.1", "of the route `chat` drops nothing"), ("10.0.0.1", "")] {
        let lines = format!(
            "name = \"public\"\nlisten = \"127.0.0.1:8443\"\ntls = false\n\
             forwarded = {{ header = \"x-forwarded-for\", from = [\"{from}\"] }}"
        );
        let config = format!("{}refuse = \"drop\"\n", with_listener(&lines, ""));
        expect_told(&told(&config, NETS, ""), expected);
    }
}

#[test]
fn limits_for_clients_that_cannot_come_are_linted() {
    let more =
        |client: &str, limits: &str| format!("[[limits.for]]\nclient = [\"{client}\"]\n{limits}\n");
    let (wide, same) = ("connections = { per_client = 50 }", "connections = { per_client = 10 }");
    let outside = "these limits apply to no client: `allow` has none of these";
    let denied = "these limits apply to no client: `deny` has all of these";
    let allow = "allow = [\"192.0.2.0/24\"]";
    let deny = "allow = [\"any\"]\ndeny = [\"10.0.0.0/8\"]";
    for (client, of, limits, expected) in [
        (allow, "10.0.0.0/8", wide, outside),
        (allow, "192.0.2.7", wide, ""),
        (allow, "192.0.0.0/16", wide, ""),
        (deny, "10.1.0.0/16", wide, denied),
        (deny, "0.0.0.0/0", wide, ""),
        (allow, "192.0.2.7", same, "these limits change nothing"),
        (allow, "192.0.2.7", "", "these limits change nothing"),
    ] {
        expect_told(&told(SIDEGATE, client, &more(of, limits)), expected);
    }
    let both = more("192.0.2.0/25", wide) + &more("192.0.2.7", same);
    expect_told(&told(SIDEGATE, allow, &both), "");
}

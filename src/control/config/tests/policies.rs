//! Errors in `policies/NAME.toml`.

use super::{check, load};
use crate::policy::rule::RuleLines;

/// Checks that the policy `text`, after its `schema`, reports `expected`.
#[track_caller]
fn policy(text: &str, expected: &str) {
    check(&[("policies/chat.toml", &format!("schema = 1\n{text}\n"))], expected);
}

#[test]
fn allow_is_required() {
    policy(
        "",
        r#"
error: allow: missing from [client]
 --> policies/chat.toml:1:1
  |
1 | schema = 1
  | ^
  |
  = help: allow = ["any"] admits everyone
"#,
    );
    policy(
        "[client]\norigins = [\"none\"]",
        r#"
error: allow: missing from [client]
 --> policies/chat.toml:2:1
  |
2 | [client]
  | ^^^^^^^^
  |
  = help: allow = ["any"] admits everyone
"#,
    );
}

#[test]
fn any_is_accepted_alone_and_in_allow_only() {
    policy(
        "[client]\nallow = [\"any\", \"10.0.0.0/8\"]\ndeny = [\"any\"]",
        r#"
error: allow: "any" excludes other entries
 --> policies/chat.toml:3:10
  |
3 | allow = ["any", "10.0.0.0/8"]
  |          ^^^^^
  |
  = help: everyone is admitted already: leave the others out

error: deny: "any" is valid in `allow` only
 --> policies/chat.toml:4:9
  |
4 | deny = ["any"]
  |         ^^^^^
  |
  = help: allow = [] admits no client
"#,
    );
}

#[test]
fn allow_and_deny_name_lists_or_networks() {
    policy(
        "[lists]\noffice = [\"192.0.2.0/24\"]\n[client]\nallow = [\"ofice\", \"10.0.0.1/8\", \"everybody\", \"!office\"]\ndeny = [\"office\", 7]",
        r#"
error: allow: there is no list `ofice`
 --> policies/chat.toml:5:10
  |
5 | allow = ["ofice", "10.0.0.1/8", "everybody", "!office"]
  |          ^^^^^^^
  |
  = help: did you mean `office`?

error: allow: 10.0.0.1/8 has host bits set
 --> policies/chat.toml:5:20
  |
5 | allow = ["ofice", "10.0.0.1/8", "everybody", "!office"]
  |                    ^^^^^^^^^^
  |
  = help: write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address

error: allow: there is no list `everybody`
 --> policies/chat.toml:5:33
  |
5 | allow = ["ofice", "10.0.0.1/8", "everybody", "!office"]
  |                                 ^^^^^^^^^^^
  |
  = help: add `everybody` to [lists], or write a network

error: allow: a list cannot be carved out
 --> policies/chat.toml:5:46
  |
5 | allow = ["ofice", "10.0.0.1/8", "everybody", "!office"]
  |                                              ^^^^^^^^^
  |
  = help: put it into `deny`

error: deny: expected a string, found an integer
 --> policies/chat.toml:6:19
  |
6 | deny = ["office", 7]
  |                   ^
"#,
    );
}

#[test]
fn the_strings_of_a_list_have_a_lines_grammar() {
    policy(
        "[lists]\noffice = [\"192.0.2.0/24 expire=2026-12-31\", '!192.0.2.13 ticket=SEC-3', \"192.0.2.\\u0033/24\"]\n[client]\nallow = [\"office\"]",
        r#"
error: office: unknown annotation `expire`
 --> policies/chat.toml:3:25
  |
3 | office = ["192.0.2.0/24 expire=2026-12-31", '!192.0.2.13 ticket=SEC-3', "192.0.2.\u0033/24"]
  |                         ^^^^^^
  |
  = help: did you mean `expires`?

error: office: 192.0.2.3/24 has host bits set
 --> policies/chat.toml:3:73
  |
3 | office = ["192.0.2.0/24 expire=2026-12-31", '!192.0.2.13 ticket=SEC-3', "192.0.2.\u0033/24"]
  |                                                                         ^^^^^^^^^^^^^^^^^^^
  |
  = help: write 192.0.2.0/24 for the network, or 192.0.2.3 for the one address
"#,
    );
}

#[test]
fn an_entry_expires_on_a_day_or_at_a_time() {
    policy(
        "[client]\nallow = [\"192.0.2.1 expires=tomorrow\", \"192.0.2.2 expires=2026-02-30\", \"192.0.2.3 expires=2026-12-31T18:00\", \"192.0.2.4 expires=\"]",
        r#"
error: allow: `tomorrow` is not a date
 --> policies/chat.toml:3:21
  |
3 | allow = ["192.0.2.1 expires=tomorrow", "192.0.2.2 expires=2026-02-30", "192.0.2.3 expires=2026-12-31T18:00", "192.0.2.4 expires="]
  |                     ^^^^^^^^^^^^^^^^
  |
  = help: write expires=2026-12-31 (through the end of that day in UTC) or expires=2026-12-31T18:00:00Z

error: allow: `2026-02-30` is not a date
 --> policies/chat.toml:3:51
  |
3 | allow = ["192.0.2.1 expires=tomorrow", "192.0.2.2 expires=2026-02-30", "192.0.2.3 expires=2026-12-31T18:00", "192.0.2.4 expires="]
  |                                                   ^^^^^^^^^^^^^^^^^^
  |
  = help: write expires=2026-12-31 (through the end of that day in UTC) or expires=2026-12-31T18:00:00Z

error: allow: `2026-12-31T18:00` is not a date
 --> policies/chat.toml:3:83
  |
3 | allow = ["192.0.2.1 expires=tomorrow", "192.0.2.2 expires=2026-02-30", "192.0.2.3 expires=2026-12-31T18:00", "192.0.2.4 expires="]
  |                                                                                   ^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write expires=2026-12-31 (through the end of that day in UTC) or expires=2026-12-31T18:00:00Z

error: allow: `expires` has no value
 --> policies/chat.toml:3:121
  |
3 | allow = ["192.0.2.1 expires=tomorrow", "192.0.2.2 expires=2026-02-30", "192.0.2.3 expires=2026-12-31T18:00", "192.0.2.4 expires="]
  |                                                                                                                         ^^^^^^^^
  |
  = help: write it right after the `=`, or leave `expires` out
"#,
    );
    policy(
        "[client]\nallow = [\"192.0.2.1 expires=2026-12-31\", \"192.0.2.2 expires=2026-12-31T18:00:00+01:00\"]",
        "",
    );
}

#[test]
fn one_network_has_one_sign_in_a_list() {
    policy(
        "[client]\nallow = [\"10.0.0.0/8\", \"!10.1.0.0/16\", \"10.1.0.0/16\"]",
        r#"
error: allow: the same network with both signs
 --> policies/chat.toml:3:40
  |
3 | allow = ["10.0.0.0/8", "!10.1.0.0/16", "10.1.0.0/16"]
  |                                        ^^^^^^^^^^^^^
  |
 ::: policies/chat.toml:3:24
  |
3 | allow = ["10.0.0.0/8", "!10.1.0.0/16", "10.1.0.0/16"]
  |                        -------------- first here
  |
  = help: keep one of the two: no order decides between them
"#,
    );
}

#[test]
fn a_carve_out_of_nothing_is_a_warning() {
    policy(
        "[lists]\noffice = [\"192.0.2.0/24\"]\n[client]\nallow = [\"office\", \"!192.0.2.13\"]",
        r#"
warning: allow: !192.0.2.13/32 carves out of nothing
 --> policies/chat.toml:5:20
  |
5 | allow = ["office", "!192.0.2.13"]
  |                    ^^^^^^^^^^^^^
  |
  = help: a carve-out applies within its own list only; a network that no list may admit goes into `deny`
"#,
    );
    policy("[client]\nallow = [\"192.0.2.0/24\", \"!192.0.2.13\"]", "");
}

#[test]
fn lists_that_admit_no_client_are_warnings() {
    policy(
        "[client]\nallow = []\norigins = []\nsubprotocols = []",
        r#"
warning: allow: an empty list admits no client
 --> policies/chat.toml:3:9
  |
3 | allow = []
  |         ^^
  |
  = help: allow = ["any"] admits everyone

warning: origins: an empty list admits no page
 --> policies/chat.toml:4:11
  |
4 | origins = []
  |           ^^
  |
  = help: leave it out, and the origin is not looked at

warning: subprotocols: an empty list admits no attempt
 --> policies/chat.toml:5:16
  |
5 | subprotocols = []
  |                ^^
  |
  = help: leave it out, and subprotocols are not looked at
"#,
    );
    policy(
        "[lists]\noffice = [\"# nobody yet\"]\nspare = []\n[client]\nallow = [\"office\"]",
        r#"
warning: the list `spare` is used by no rule
 --> policies/chat.toml:4:1
  |
4 | spare = []
  | ^^^^^
  |
  = help: name it in a rule, such as deny = ["spare"], or remove it

warning: allow: `office` has no entries: it admits no client
 --> policies/chat.toml:6:10
  |
6 | allow = ["office"]
  |          ^^^^^^^^
"#,
    );
}

#[test]
fn lapsed_entries_are_warnings() {
    policy(
        "[client]\nallow = [\"192.0.2.1 expires=2026-06-30\", \"192.0.2.2 expires=2026-07-01\"]",
        r#"
warning: allow: 192.0.2.1/32 is lapsed since 2026-07-01T00:00:00Z
 --> policies/chat.toml:3:10
  |
3 | allow = ["192.0.2.1 expires=2026-06-30", "192.0.2.2 expires=2026-07-01"]
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: a lapsed entry is as if absent: remove it, or renew it
"#,
    );
}

#[test]
fn lists_have_names_and_known_keys() {
    policy(
        "[lists]\nAny = []\nany = []\nfeed = { fil = \"x\" }\nnumber = 1\n[client]\nallow = [\"feed\"]",
        r#"
error: `Any` is not a name
 --> policies/chat.toml:3:1
  |
3 | Any = []
  | ^^^
  |
  = help: lower-case letters, digits, - and _, the first a letter

error: `any` is a reserved word
 --> policies/chat.toml:4:1
  |
4 | any = []
  | ^^^
  |
  = help: take another name

error: unknown key `fil` in the list `feed`, which lacks `file`
 --> policies/chat.toml:5:10
  |
5 | feed = { fil = "x" }
  |          ^^^
  |
  = help: did you mean `file`?

error: number: expected an array of networks or { file = "lists/NAME.cidr" }, found an integer
 --> policies/chat.toml:6:10
  |
6 | number = 1
  |          ^
"#,
    );
}

#[test]
fn origins_and_subprotocols_are_read() {
    policy(
        "[client]\nallow = [\"any\"]\norigins = [\"app.example.com\", \"https://*.a.example/x\"]\nsubprotocols = [\"v2 ticks\", \"\"]",
        r#"
error: origins: an origin begins with its scheme: write `https://app.example.com`
 --> policies/chat.toml:4:12
  |
4 | origins = ["app.example.com", "https://*.a.example/x"]
  |            ^^^^^^^^^^^^^^^^^

error: origins: an origin has no path, query or fragment: write `https://*.a.example`
 --> policies/chat.toml:4:31
  |
4 | origins = ["app.example.com", "https://*.a.example/x"]
  |                               ^^^^^^^^^^^^^^^^^^^^^^^

error: subprotocols: "v2 ticks" is not a subprotocol
 --> policies/chat.toml:5:17
  |
5 | subprotocols = ["v2 ticks", ""]
  |                 ^^^^^^^^^^
  |
  = help: letters, digits and !#$%&'*+-.^_`|~

error: subprotocols: "" is not a subprotocol
 --> policies/chat.toml:5:29
  |
5 | subprotocols = ["v2 ticks", ""]
  |                             ^^
  |
  = help: letters, digits and !#$%&'*+-.^_`|~
"#,
    );
}

#[test]
fn names_of_certificates_are_read() {
    policy(
        "[client]\ncertificate = {\n  allow = [\"example.com\", \"spiffe://a/x**\",\n           \
         \"sha256:0\"],\n  deny = [7],\n  pinned = true,\n}\nallow = [\"any\"]",
        r#"
error: allow: "example.com" is no name of a certificate: it is no URI: a DNS name has `dns:` before it
 --> policies/chat.toml:4:12
  |
4 |   allow = ["example.com", "spiffe://a/x**",
  |            ^^^^^^^^^^^^^
  |
  = help: a URI like "spiffe://example.com/ws/*", "dns:client.example.com", or "sha256:HEX" for a key

error: allow: "spiffe://a/x**" is no name of a certificate: `**` matches whole segments: write it between slashes
 --> policies/chat.toml:4:27
  |
4 |   allow = ["example.com", "spiffe://a/x**",
  |                           ^^^^^^^^^^^^^^^^
  |
  = help: a URI like "spiffe://example.com/ws/*", "dns:client.example.com", or "sha256:HEX" for a key

error: allow: "sha256:0" is no name of a certificate: behind `sha256:` come 64 hex digits
 --> policies/chat.toml:5:12
  |
5 |            "sha256:0"],
  |            ^^^^^^^^^^
  |
  = help: a URI like "spiffe://example.com/ws/*", "dns:client.example.com", or "sha256:HEX" for a key

error: deny: expected a string, found an integer
 --> policies/chat.toml:6:11
  |
6 |   deny = [7],
  |           ^

error: unknown key `pinned` in `certificate`
 --> policies/chat.toml:7:3
  |
7 |   pinned = true,
  |   ^^^^^^
  |
  = help: remove it; what may be there: `allow`, `deny`, `required`
"#,
    );
}

#[test]
fn the_line_of_each_rule_is_known() {
    let text = "schema = 1\n[client]\ndeny = []\nallow = [\n  \"any\",\n]\norigins = [\"https://a.example\"]\n\
                [limits]\nconnections = { total = 3 }\n[limits.upgrades]\nrate = \"1/s\"\n";
    let (loaded, found) = load(&[("policies/chat.toml", text)]);
    let lines = loaded.unwrap_or_else(|_| panic!("{found}")).policies[0].lines;
    let expected = RuleLines {
        deny: 3,
        allow: 4,
        origins: 7,
        connections: 9,
        upgrades: 10,
        ..RuleLines::default()
    };
    assert_eq!(lines, expected);
}

#[test]
fn limits_are_read() {
    policy(
        r#"client.allow = ["any"]
[limits]
upgrades = { rate = "5", burst = 0 }
requests = { burst = 5 }
connections = { per_client = 0, totl = 5 }
message = { max = "0B", rate = "0/s" }
idle = "0s"
ping = "on"
pong = "off"
frames = { burst = 5, rate = "1/h" }
[[limits.for]]
client = ["192.0.2.1"]
frames = "on"
"#,
        r#"
error: rate: "5" is not a rate
 --> policies/chat.toml:4:21
  |
4 | upgrades = { rate = "5", burst = 0 }
  |                     ^^^
  |
  = help: a whole number per second or minute, like "5/s" or "300/m"

error: burst: 0 is out of range
 --> policies/chat.toml:4:34
  |
4 | upgrades = { rate = "5", burst = 0 }
  |                                  ^
  |
  = help: 1 to 1000000

error: rate: missing from `requests`
 --> policies/chat.toml:5:12
  |
5 | requests = { burst = 5 }
  |            ^^^^^^^^^^^^^
  |
  = help: requests = { rate = "5/s", burst = 20 }

error: per_client: 0 is out of range
 --> policies/chat.toml:6:30
  |
6 | connections = { per_client = 0, totl = 5 }
  |                              ^
  |
  = help: at least 1

error: unknown key `totl` in `connections`
 --> policies/chat.toml:6:33
  |
6 | connections = { per_client = 0, totl = 5 }
  |                                 ^^^^
  |
  = help: did you mean `total`?

error: max: zero makes no sense here
 --> policies/chat.toml:7:19
  |
7 | message = { max = "0B", rate = "0/s" }
  |                   ^^^^
  |
  = help: leave it out for no limit

error: rate: "0/s" is out of range
 --> policies/chat.toml:7:32
  |
7 | message = { max = "0B", rate = "0/s" }
  |                                ^^^^^
  |
  = help: 1 to 1000000

error: idle: zero makes no sense here
 --> policies/chat.toml:8:8
  |
8 | idle = "0s"
  |        ^^^^
  |
  = help: more than "0s"

error: ping: "on" is not a duration
 --> policies/chat.toml:9:8
  |
9 | ping = "on"
  |        ^^^^
  |
  = help: a duration like "25s", or "off"

error: pong: "off" is not a duration
  --> policies/chat.toml:10:8
   |
10 | pong = "off"
   |        ^^^^^
   |
   = help: a whole number and ms, s, m or h, like "250ms" or "10s"

error: rate: "1/h" is not a rate
  --> policies/chat.toml:11:30
   |
11 | frames = { burst = 5, rate = "1/h" }
   |                              ^^^^^
   |
   = help: a whole number per second or minute, like "5/s" or "300/m"

error: frames: expected a table or "off", found a string
  --> policies/chat.toml:14:10
   |
14 | frames = "on"
   |          ^^^^
"#,
    );
}

#[test]
fn users_of_this_host_are_named_or_numbered() {
    let policy_of = |allow: &str| format!("schema = 1\n[client]\nallow = [{allow}]\n");
    let load = |allow: &str| super::load(&[("policies/chat.toml", &policy_of(allow))]);
    let (loaded, found) = load("\"unix\", \"unix:uid=root\", \"!unix:uid=33 ticket=A\", \"::/0\"");
    assert_eq!((loaded.is_ok(), &*found), (true, ""));
    for (allow, said) in [
        ("\"unix:uid=no-such-user\"", "this host has no user `no-such-user`"),
        ("\"unix:gid=no-such-group\"", "this host has no group `no-such-group`"),
        ("\"unix:33\"", "not a pattern of Unix clients"),
        ("\"unix:uid=4294967295\"", "neither the name nor the number of a user"),
        ("\"unix\", \"!unix:gid=33\"", "a group cannot be carved out"),
        ("\"unix:uid=65534\"", "unix:uid=65534 admits any user of other user namespaces"),
        ("\"unix:gid=65534\"", "unix:gid=65534 admits any user of other user namespaces"),
        ("\"!unix:uid=33\"", "carves out of nothing"),
    ] {
        let (_, found) = load(allow);
        assert!(found.contains(said) && found.contains("policies/chat.toml:3:"), "{found}");
    }
    let (_, found) = load("\"any\"]\ndeny = [\"unix:uid=65534\"");
    assert_eq!(found, "", "what is unknown may be denied");
    let (_, found) = super::load(&[
        (
            "policies/chat.toml",
            "schema = 1\nlists.a = { file = \"lists/a.cidr\" }\nclient.allow = [\"a\"]\n",
        ),
        ("policies/lists/a.cidr", "unix:uid=33\nunix:gid=root\n"),
    ]);
    assert!(found.contains("a list's file has no names of groups"), "{found}");
}

#[test]
fn per_is_address_or_identity_where_clients_are_counted() {
    policy(
        r#"
[client]
allow = ["any"]
[limits]
upgrades = { rate = "5/s", per = "identiy" }
requests = { rate = "5/s", per = 1 }
connections = { total = 5, per = "identity" }
frames = { rate = "5/s", per = "identity" }
message = { rate = "5/s", per = "identity" }
per = "identity"
"#,
        r#"
error: per: expected "address" or "identity", found "identiy"
 --> policies/chat.toml:6:34
  |
6 | upgrades = { rate = "5/s", per = "identiy" }
  |                                  ^^^^^^^^^
  |
  = help: did you mean `identity`?

error: per: expected "address" or "identity", found an integer
 --> policies/chat.toml:7:34
  |
7 | requests = { rate = "5/s", per = 1 }
  |                                  ^

error: per: nothing is counted: `per_client` is missing
 --> policies/chat.toml:8:34
  |
8 | connections = { total = 5, per = "identity" }
  |                                  ^^^^^^^^^^
  |
  = help: per_client = 10 beside it

error: per: `frames` is a limit of each tunnel
 --> policies/chat.toml:9:26
  |
9 | frames = { rate = "5/s", per = "identity" }
  |                          ^^^
  |
  = help: leave it out

error: unknown key `per` in `message`
  --> policies/chat.toml:10:27
   |
10 | message = { rate = "5/s", per = "identity" }
   |                           ^^^
   |
   = help: remove it; what may be there: `max`, `rate`

error: unknown key `per` in [limits]
  --> policies/chat.toml:11:1
   |
11 | per = "identity"
   | ^^^
   |
   = help: remove it; what may be there: `connections`, `for`, `frames`, `idle`, `lifetime`, `message`, `ping`, `pong`, `requests`, `streams`, `upgrades`
"#,
    );
    policy(
        r#"
[client]
allow = ["any"]
[limits]
upgrades = { rate = "5/s", per = "identity" }
requests = { rate = "5/s", per = "address" }
connections = { per_client = 5, per = "identity" }
streams = { per_client = 5, per = "identity" }
"#,
        "",
    );
}

#[test]
fn policy_files_with_reserved_names_are_errors() {
    check(
        &[
            ("policies/README.md", "x"),
            ("policies/.chat.toml.swp", "x"),
            ("policies/Chat.toml", "x"),
            ("policies/chat.toml~", "x"),
        ],
        "",
    );
    check(
        &[("policies/any.toml", "schema = 1")],
        r#"
error: `any` is a reserved word
--> policies/any.toml:1:1
 = help: take another name
"#,
    );
}

#[test]
fn an_unused_policy_is_checked_too() {
    check(
        &[("policies/spare.toml", "schema = 1\n")],
        r#"
error: allow: missing from [client]
 --> policies/spare.toml:1:1
  |
1 | schema = 1
  | ^
  |
  = help: allow = ["any"] admits everyone
"#,
    );
    check(
        &[("policies/spare.toml", "")],
        r#"
error: policies/spare.toml is empty (zero bytes)
--> policies/spare.toml:1:1
 = help: a file is never left empty on purpose here: was it cut short?
"#,
    );
}

//! Errors in `sidegate.toml`.

use super::{SIDEGATE, check, load};

/// Checks that [`SIDEGATE`] followed by `text` reports `expected`.
#[track_caller]
fn with(text: &str, expected: &str) {
    check(&[("sidegate.toml", &format!("{SIDEGATE}\n{text}\n"))], expected);
}

/// Checks that [`SIDEGATE`] with `from` replaced by `to` reports `expected`.
#[track_caller]
fn changed(from: &str, to: &str, expected: &str) {
    assert!(SIDEGATE.contains(from), "{from}");
    check(&[("sidegate.toml", &SIDEGATE.replace(from, to))], expected);
}

#[test]
fn a_bound_on_revocations_is_a_share_or_a_number() {
    let text = |bound: &str| format!("reload.max_revoked = {bound}\n{}", super::SIDEGATE);
    check(
        &[("sidegate.toml", &text("\"101%\""))],
        r#"
error: max_revoked: "101%" is neither a share nor a number
 --> sidegate.toml:1:22
  |
1 | reload.max_revoked = "101%"
  |                      ^^^^^^
  |
  = help: like "20%" or "300"
"#,
    );
    check(
        &[("sidegate.toml", &text("-1"))],
        r#"
error: max_revoked: expected a share like "20%", or a number like "300", found an integer
 --> sidegate.toml:1:22
  |
1 | reload.max_revoked = -1
  |                      ^^
"#,
    );
    for bound in ["\"0%\"", "\"100%\"", "\"300\"", "\"0\"", "0", "300"] {
        check(&[("sidegate.toml", &text(bound))], "");
        check(&[("sidegate.toml", &text(bound).replace("max_revoked", "max_widened"))], "");
    }
}

#[test]
fn an_unknown_key_is_an_error_that_guesses() {
    changed(
        "tls = false",
        "tls = false\nlistn = \"127.0.0.1:1\"",
        r#"
error: unknown key `listn` in [[listener]]
 --> sidegate.toml:7:1
  |
7 | listn = "127.0.0.1:1"
  | ^^^^^
  |
  = help: remove it: `listen` is there already
"#,
    );
    with(
        "[shutdwn]\ndelay = \"1s\"",
        r#"
error: unknown key `shutdwn` in the file
  --> sidegate.toml:15:2
   |
15 | [shutdwn]
   |  ^^^^^^^
   |
   = help: did you mean `shutdown`?
"#,
    );
    with(
        "[metrics]\ncolour = \"red\"",
        r#"
error: unknown key `colour` in [metrics]
  --> sidegate.toml:16:1
   |
16 | colour = "red"
   | ^^^^^^
   |
   = help: remove it; what may be there: `allow`, `hosts`, `listen`
"#,
    );
}

#[test]
fn wrong_type_names_the_expected_one() {
    changed(
        "\"127.0.0.1:8443\"",
        "8443",
        r#"
error: listen: expected an address like "0.0.0.0:8443", found an integer
 --> sidegate.toml:5:10
  |
5 | listen = 8443
  |          ^^^^
"#,
    );
    with(
        "[timeouts]\ndial = 2\n[reload]\nwatch = true",
        r#"
error: dial: expected a duration like "10s", found an integer
  --> sidegate.toml:16:8
   |
16 | dial = 2
   |        ^
   |
   = help: with its unit, like "2s"

error: watch: expected "auto", "poll", "off" or "hold", found a boolean
  --> sidegate.toml:18:9
   |
18 | watch = true
   |         ^^^^
"#,
    );
    changed(
        "[[listener]]",
        "[listener]",
        r#"
error: listener: one table where several can be
 --> sidegate.toml:3:1
  |
3 | [listener]
  | ^^^^^^^^^^
  |
  = help: write [[listener]]
"#,
    );
    with(
        "metrics = []",
        r#"
error: unknown key `metrics` in [[route]]
  --> sidegate.toml:15:1
   |
15 | metrics = []
   | ^^^^^^^
   |
   = help: it belongs at the top of the file, or below a header of its own
"#,
    );
}

#[test]
fn many_errors_come_at_once_and_errors_before_warnings() {
    let text = r#"schema = 2
[metrics]
listen = "localhost:10464"
allow = ["10.0.0.1/8", "::1"]

[admin]
mode = "rw"

[shutdown]
code = 1000
spread = "1min"

[[listener]]
name = "Public"
listen = "0.0.0.0:8080"
tls = false
max_head = "4KiB"

[[route]]
name = "chat"
host = "*"
path = "/"
backend = "http://10.0.0.1:80"
policy = "chatt"
"#;
    check(
        &[("sidegate.toml", text)],
        r#"
error: schema: 2 is not known to this version
 --> sidegate.toml:1:10
  |
1 | schema = 2
  |          ^
  |
  = help: schema = 1

error: listen: "localhost:10464" is not an address with a port
 --> sidegate.toml:3:10
  |
3 | listen = "localhost:10464"
  |          ^^^^^^^^^^^^^^^^^
  |
  = help: like "127.0.0.1:8443" or "[::]:8443"

error: allow: 10.0.0.1/8 has host bits set
 --> sidegate.toml:4:11
  |
4 | allow = ["10.0.0.1/8", "::1"]
  |           ^^^^^^^^^^
  |
  = help: write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address

error: mode: "rw" is not a file mode
 --> sidegate.toml:7:8
  |
7 | mode = "rw"
  |        ^^^^
  |
  = help: three octal digits after a zero, like "0660"

error: code: 1000 is not a code for a shutdown
  --> sidegate.toml:10:8
   |
10 | code = 1000
   |        ^^^^
   |
   = help: 1001 (going away) or 1012 (service restart)

error: spread: "1min" is not a duration
  --> sidegate.toml:11:10
   |
11 | spread = "1min"
   |          ^^^^^^
   |
   = help: a whole number and ms, s, m or h, like "250ms" or "10s"

error: name: `Public` is not a name
  --> sidegate.toml:14:8
   |
14 | name = "Public"
   |        ^^^^^^^^
   |
   = help: lower-case letters, digits, - and _, the first a letter

error: max_head: out of range
  --> sidegate.toml:17:12
   |
17 | max_head = "4KiB"
   |            ^^^^^^
   |
   = help: 8KiB to 1MiB

error: policy: there is no policies/chatt.toml
  --> sidegate.toml:24:10
   |
24 | policy = "chatt"
   |          ^^^^^^^
   |
   = help: did you mean `chat`?

warning: listen: plain ws:// on an address that others can reach
  --> sidegate.toml:15:10
   |
15 | listen = "0.0.0.0:8080"
   |          ^^^^^^^^^^^^^^
   |
   = help: tls = true, or listen on a loopback address

warning: backend: not on this host: data sent there is not encrypted
  --> sidegate.toml:23:11
   |
23 | backend = "http://10.0.0.1:80"
   |           ^^^^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn errors_come_from_all_files_at_once() {
    let policy = "schema = 1\n[client]\nallow = [\"ofice\"]\n[lists]\noffice = { file = \"lists/office.cidr\" }\n";
    let list = "192.0.2.0/24\n192.0.2.300\n";
    let sidegate = SIDEGATE.replace("tls = false", "tsl = false");
    check(
        &[
            ("sidegate.toml", &sidegate),
            ("policies/desk.toml", policy),
            ("policies/lists/office.cidr", list),
        ],
        r#"
error: unknown key `tsl` in [[listener]]
 --> sidegate.toml:6:1
  |
6 | tsl = false
  | ^^^
  |
  = help: did you mean `tls`?

error: allow: there is no list `ofice`
 --> policies/desk.toml:3:10
  |
3 | allow = ["ofice"]
  |          ^^^^^^^
  |
 ::: policies/desk.toml:5:1
  |
5 | office = { file = "lists/office.cidr" }
  | ------ the list that no rule names
  |
  = help: did you mean `office`, which no rule names?

error: `192.0.2.300` is not an address
 --> policies/lists/office.cidr:2:1
  |
2 | 192.0.2.300
  | ^^^^^^^^^^^
  |
  = help: write an address such as 192.0.2.1 or 2001:db8::1, or a network such as 192.0.2.0/24
"#,
    );
}

#[test]
fn the_schema_is_required_and_known() {
    changed(
        "schema = 1\n",
        "",
        r#"
error: schema: missing from the file
 --> sidegate.toml:1:1
  |
1 |
  | ^
  |
  = help: begin the file with: schema = 1
"#,
    );
    changed(
        "schema = 1",
        "schema = 2",
        r#"
error: schema: 2 is not known to this version
 --> sidegate.toml:1:10
  |
1 | schema = 2
  |          ^
  |
  = help: schema = 1
"#,
    );
}

#[test]
fn missing_required_keys_are_errors() {
    check(
        &[("sidegate.toml", "schema = 1\n[[listener]]\ntls = false\n[[certificate]]\n[[route]]\n")],
        r#"
error: name: missing from [[listener]]
 --> sidegate.toml:2:1
  |
2 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: name = "public"

error: listen: missing from [[listener]]
 --> sidegate.toml:2:1
  |
2 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: listen = "0.0.0.0:8443"

error: [[certificate]] has no keys
 --> sidegate.toml:4:1
  |
4 | [[certificate]]
  | ^^^^^^^^^^^^^^^
  |
  = help: write `chain`, `key` below it, or remove it

error: [[route]] has no keys
 --> sidegate.toml:5:1
  |
5 | [[route]]
  | ^^^^^^^^^
  |
  = help: write `name`, `host`, `path`, `backend`, `policy` below it, or remove it
"#,
    );
}

#[test]
fn a_file_that_serves_nothing_is_a_warning() {
    check(
        &[("sidegate.toml", "schema = 1\n")],
        r#"
warning: no [[listener]]: nothing is served
 --> sidegate.toml:1:1
  |
1 | schema = 1
  | ^

warning: no [[route]]: every request is answered 404
 --> sidegate.toml:1:1
  |
1 | schema = 1
  | ^
"#,
    );
}

#[test]
fn names_are_lower_case_and_not_reserved() {
    changed(
        "name = \"chat\"",
        "name = \"none\"",
        r#"
error: name: `none` is a reserved word
 --> sidegate.toml:9:8
  |
9 | name = "none"
  |        ^^^^^^
  |
  = help: take another name
"#,
    );
    changed(
        "name = \"public\"",
        "name = \"public interface\"",
        r#"
error: name: `public interface` is not a name
 --> sidegate.toml:4:8
  |
4 | name = "public interface"
  |        ^^^^^^^^^^^^^^^^^^
  |
  = help: lower-case letters, digits, - and _, the first a letter
"#,
    );
}

#[test]
fn names_and_addresses_are_unique() {
    with(
        "[[listener]]\nname = \"public\"\nlisten = \"127.0.0.1:8443\"\ntls = false\n[metrics]\nlisten = \"127.0.0.1:8443\"",
        r#"
error: listen: 127.0.0.1:8443 is the address of [metrics]
 --> sidegate.toml:5:10
  |
5 | listen = "127.0.0.1:8443"
  |          ^^^^^^^^^^^^^^^^
  |
  = help: another port here, or another `listen` in [metrics]

error: name: `public` is defined twice
  --> sidegate.toml:16:8
   |
16 | name = "public"
   |        ^^^^^^^^
   |
  ::: sidegate.toml:4:8
   |
 4 | name = "public"
   |        -------- first here
   |
   = help: take another name

error: listen: 127.0.0.1:8443 is the address of [metrics]
  --> sidegate.toml:17:10
   |
17 | listen = "127.0.0.1:8443"
   |          ^^^^^^^^^^^^^^^^
   |
   = help: another port here, or another `listen` in [metrics]
"#,
    );
    with(
        "[[listener]]\nname = \"other\"\nlisten = \"127.0.0.1:8443\"\ntls = false",
        r#"
error: listen: 127.0.0.1:8443 is the address of `public`
  --> sidegate.toml:17:10
   |
17 | listen = "127.0.0.1:8443"
   |          ^^^^^^^^^^^^^^^^
   |
  ::: sidegate.toml:5:10
   |
 5 | listen = "127.0.0.1:8443"
   |          ---------------- first here
   |
   = help: another address or port for one of the two
"#,
    );
    for (listen, metrics) in [
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
    ] {
        let text = SIDEGATE.replace("127.0.0.1:8443", &format!("{listen}:10464"));
        let (_, found) = load(&[(
            "sidegate.toml",
            &format!("{text}\n[metrics]\nlisten = \"{metrics}:10464\"\n"),
        )]);
        assert!(found.contains("takes the address of [metrics]"), "{listen} {metrics}: {found}");
    }
    for (listen, metrics) in
        [("0.0.0.0", "[::1]"), ("127.0.0.2", "127.0.0.1"), ("[::1]", "127.0.0.1")]
    {
        let text = SIDEGATE.replace("127.0.0.1:8443", &format!("{listen}:10464"));
        let (_, found) = load(&[(
            "sidegate.toml",
            &format!("{text}\n[metrics]\nlisten = \"{metrics}:10464\"\n"),
        )]);
        assert!(!found.contains("the address of [metrics]"), "{listen} {metrics}: {found}");
    }
    with(
        "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:0\"\ntls = false\n[[listener]]\nname = \"b\"\nlisten = \"127.0.0.1:0\"\ntls = false",
        "",
    );
}

#[test]
fn two_routes_with_one_host_and_path_are_an_error() {
    with(
        "[[route]]\nname = \"again\"\nhost = \"*\"\npath = \"/\"\nbackend = \"http://127.0.0.1:9\"\npolicy = \"chat\"",
        r#"
error: path: route `chat` has the same host and path
  --> sidegate.toml:18:8
   |
18 | path = "/"
   |        ^^^
   |
  ::: sidegate.toml:11:8
   |
11 | path = "/"
   |        --- first here
   |
   = help: make one of them more specific
"#,
    );
    changed("path = \"/\"", "path = \"/a%2Cb/\"", "");
    let twin = "[[route]]\nname = \"again\"\nhost = \"*\"\npath = \"/a,b/\"\nbackend = \"http://127.0.0.1:9\"\npolicy = \"chat\"";
    check(
        &[(
            "sidegate.toml",
            &format!("{}\n{twin}\n", SIDEGATE.replace("path = \"/\"", "path = \"/a%2Cb/\"")),
        )],
        r#"
error: path: route `chat` has the same host and path
  --> sidegate.toml:18:8
   |
18 | path = "/a,b/"
   |        ^^^^^^^
   |
  ::: sidegate.toml:11:8
   |
11 | path = "/a%2Cb/"
   |        --------- first here
   |
   = help: make one of them more specific
"#,
    );
}

#[test]
fn hosts_and_paths_are_patterns() {
    changed(
        "host = \"*\"",
        "host = \"ws.*.example.com\"",
        r#"
error: host: `*` matches one whole label, and the first: write `*.example.com`, or `*` for every host
  --> sidegate.toml:10:8
   |
10 | host = "ws.*.example.com"
   |        ^^^^^^^^^^^^^^^^^^
"#,
    );
    changed(
        "path = \"/\"",
        "path = \"chat\"",
        r#"
error: path: a path begins with a slash: write `/chat`
  --> sidegate.toml:11:8
   |
11 | path = "chat"
   |        ^^^^^^
"#,
    );
}

#[test]
fn unknown_policy_gets_a_suggestion() {
    changed(
        "policy = \"chat\"",
        "policy = \"caht\"",
        r#"
error: policy: there is no policies/caht.toml
  --> sidegate.toml:13:10
   |
13 | policy = "caht"
   |          ^^^^^^
   |
   = help: did you mean `chat`?
"#,
    );
    changed(
        "policy = \"chat\"",
        "policy = \"market-data\"",
        r#"
error: policy: there is no policies/market-data.toml
  --> sidegate.toml:13:10
   |
13 | policy = "market-data"
   |          ^^^^^^^^^^^^^
   |
   = help: write it; all that it must say is `schema` and `[client] allow`
"#,
    );
}

#[test]
fn tls_needs_a_certificate() {
    changed(
        "tls = false",
        "tls = true",
        r#"
error: TLS without a certificate
 --> sidegate.toml:3:1
  |
3 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: add a [[certificate]] with its chain and key, or tls = false
"#,
    );
}

#[test]
fn clear_websockets_beyond_this_host_are_a_warning() {
    changed(
        "127.0.0.1:8443",
        "0.0.0.0:8443",
        r#"
warning: listen: plain ws:// on an address that others can reach
 --> sidegate.toml:5:10
  |
5 | listen = "0.0.0.0:8443"
  |          ^^^^^^^^^^^^^^
  |
  = help: tls = true, or listen on a loopback address
"#,
    );
    changed(
        "tls = false",
        "tls = false\ntls_min = \"1.3\"\nstrict_sni = true",
        r#"
warning: tls_min: has no effect on a plain listener
 --> sidegate.toml:7:11
  |
7 | tls_min = "1.3"
  |           ^^^^^

warning: strict_sni: has no effect on a plain listener
 --> sidegate.toml:8:14
  |
8 | strict_sni = true
  |              ^^^^
"#,
    );
    changed(
        "listen = \"127.0.0.1:8443\"\ntls = false",
        "listen = \"[::]:8443\"\ntls = false\nredirect = \"https\"",
        "",
    );
}

#[test]
fn handshakes_per_client_is_a_rate_or_off() {
    let wrong = |value: &str, said: &str| {
        changed("tls = false", &format!("tls = false\nhandshakes_per_client = {value}"), said);
    };
    wrong("\"off\"", "");
    wrong(
        "\"on\"",
        r#"
error: handshakes_per_client: "on" is not a rate per client
 --> sidegate.toml:7:25
  |
7 | handshakes_per_client = "on"
  |                         ^^^^
  |
  = help: { rate = "500/s", burst = 10000 }, or "off"
"#,
    );
    wrong(
        "{ rate = \"0/s\", burst = 0, per = \"client\" }",
        r#"
error: rate: "0/s" is out of range
 --> sidegate.toml:7:34
  |
7 | handshakes_per_client = { rate = "0/s", burst = 0, per = "client" }
  |                                  ^^^^^
  |
  = help: 1 to 1000000

error: burst: 0 is out of range
 --> sidegate.toml:7:49
  |
7 | handshakes_per_client = { rate = "0/s", burst = 0, per = "client" }
  |                                                 ^
  |
  = help: 1 to 1000000

error: unknown key `per` in `handshakes_per_client`
 --> sidegate.toml:7:52
  |
7 | handshakes_per_client = { rate = "0/s", burst = 0, per = "client" }
  |                                                    ^^^
  |
  = help: remove it; what may be there: `burst`, `rate`

warning: handshakes_per_client: has no effect on a plain listener
 --> sidegate.toml:7:25
  |
7 | handshakes_per_client = { rate = "0/s", burst = 0, per = "client" }
  |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"#,
    );
    wrong(
        "{ burst = 5 }",
        r#"
error: rate: missing from `handshakes_per_client`
 --> sidegate.toml:7:25
  |
7 | handshakes_per_client = { burst = 5 }
  |                         ^^^^^^^^^^^^^
  |
  = help: handshakes_per_client = { rate = "500/s", burst = 10000 }, or "off"

warning: handshakes_per_client: has no effect on a plain listener
 --> sidegate.toml:7:25
  |
7 | handshakes_per_client = { burst = 5 }
  |                         ^^^^^^^^^^^^^
"#,
    );
    wrong(
        "5",
        r#"
error: handshakes_per_client: expected a table, found an integer
 --> sidegate.toml:7:25
  |
7 | handshakes_per_client = 5
  |                         ^
"#,
    );
}

#[test]
fn only_a_plain_listener_redirects() {
    changed(
        "tls = false",
        "redirect = \"https\"",
        r#"
error: TLS without a certificate
 --> sidegate.toml:3:1
  |
3 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: add a [[certificate]] with its chain and key, or tls = false

error: redirect: only a plain listener can redirect
 --> sidegate.toml:6:12
  |
6 | redirect = "https"
  |            ^^^^^^^
  |
  = help: tls = false
"#,
    );
}

#[test]
fn named_backend_is_resolved_at_an_interval_and_not_by_check() {
    let listed = |third: &str| format!("[\"http://app\", \"https://App.:8443\", \"{third}\"]");
    changed("\"http://127.0.0.1:8080\"", &listed("http://a_b-c:81"), "");
    changed(
        "\"http://127.0.0.1:8080\"",
        &listed("http://APP:80"),
        r#"
error: backend: http://app:80 is listed twice
  --> sidegate.toml:12:47
   |
12 | backend = ["http://app", "https://App.:8443", "http://APP:80"]
   |                                               ^^^^^^^^^^^^^^^
   |
  ::: sidegate.toml:12:12
   |
12 | backend = ["http://app", "https://App.:8443", "http://APP:80"]
   |            ------------ first here
"#,
    );
    changed(
        "http://127.0.0.1:8080\"",
        "http://app.example\"\nresolve = \"500ms\"",
        r#"
error: resolve: too short
  --> sidegate.toml:13:11
   |
13 | resolve = "500ms"
   |           ^^^^^^^
   |
   = help: "1s" or more

warning: backend: the name may lead to another host: data sent there is not encrypted
  --> sidegate.toml:12:11
   |
12 | backend = "http://app.example"
   |           ^^^^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn a_backend_is_an_address_without_a_path() {
    changed(
        "http://127.0.0.1:8080",
        "http://backend..internal:80",
        r#"
error: backend: "backend..internal" is not a host: "" is no label
  --> sidegate.toml:12:11
   |
12 | backend = "http://backend..internal:80"
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: labels of letters, digits, - and _ with dots between, at most 63 characters each
"#,
    );
    changed(
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8080/app",
        r#"
error: backend: a backend has no path
  --> sidegate.toml:12:33
   |
12 | backend = "http://127.0.0.1:8080/app"
   |                                 ^^^^
   |
   = help: leave it out; strip_prefix = true takes a route's prefix off
"#,
    );
    changed(
        "http://127.0.0.1:8080",
        "ws://127.0.0.1:8080",
        r#"
error: backend: "ws://127.0.0.1:8080" is not a backend
  --> sidegate.toml:12:11
   |
12 | backend = "ws://127.0.0.1:8080"
   |           ^^^^^^^^^^^^^^^^^^^^^
   |
   = help: write "http://127.0.0.1:8080"
"#,
    );
    changed(
        "http://127.0.0.1:8080",
        "http://127.0.0.1:+80",
        r#"
error: backend: "+80" is not a port
  --> sidegate.toml:12:11
   |
12 | backend = "http://127.0.0.1:+80"
   |           ^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: 1 to 65535
"#,
    );
    changed(
        "http://127.0.0.1:8080",
        "https://127.0.0.1:8443/app",
        r#"
error: backend: a backend has no path
  --> sidegate.toml:12:34
   |
12 | backend = "https://127.0.0.1:8443/app"
   |                                  ^^^^
   |
   = help: leave it out; strip_prefix = true takes a route's prefix off
"#,
    );
    changed(
        "\"http://127.0.0.1:8080\"",
        "[\"http://localhost\", \"unix:run/app.sock\", \"http://127.0.0.1:80\"]",
        r#"
warning: backend: http://127.0.0.1:80 and http://localhost:80 are the same server
  --> sidegate.toml:12:53
   |
12 | backend = ["http://localhost", "unix:run/app.sock", "http://127.0.0.1:80"]
   |                                                     ^^^^^^^^^^^^^^^^^^^^^
   |
   = help: write one of them
"#,
    );
    changed(
        "http://127.0.0.1:8080",
        "http://10.0.0.1:8080",
        r#"
warning: backend: not on this host: data sent there is not encrypted
  --> sidegate.toml:12:11
   |
12 | backend = "http://10.0.0.1:8080"
   |           ^^^^^^^^^^^^^^^^^^^^^^
"#,
    );
    changed(
        "\"http://127.0.0.1:8080\"",
        "[]",
        r#"
error: backend: an empty list
  --> sidegate.toml:12:11
   |
12 | backend = []
   |           ^^
   |
   = help: backend = "http://127.0.0.1:8080"
"#,
    );
}

#[test]
fn numbers_sizes_and_times_have_bounds() {
    let listener = "tls = false\nmax_head = \"2MiB\"\nmax_connections = 0\npending_per_client = -1\nmax_fields = 15";
    changed(
        "tls = false",
        listener,
        r#"
error: max_head: out of range
 --> sidegate.toml:7:12
  |
7 | max_head = "2MiB"
  |            ^^^^^^
  |
  = help: 8KiB to 1MiB

error: max_connections: 0 is out of range
 --> sidegate.toml:8:19
  |
8 | max_connections = 0
  |                   ^
  |
  = help: at least 1

error: pending_per_client: -1 is out of range
 --> sidegate.toml:9:22
  |
9 | pending_per_client = -1
  |                      ^^
  |
  = help: at least 1

error: max_fields: 15 is out of range
  --> sidegate.toml:10:14
   |
10 | max_fields = 15
   |              ^^
   |
   = help: 16 to 1000
"#,
    );
    with(
        "[timeouts]\ndial = \"0s\"\nresponse = \"1d\"\ngrace = \"9000h\"\n[process]\nthreads = \"all\"",
        r#"
error: dial: zero makes no sense here
  --> sidegate.toml:16:8
   |
16 | dial = "0s"
   |        ^^^^
   |
   = help: more than "0s"

error: response: "1d" is not a duration
  --> sidegate.toml:17:12
   |
17 | response = "1d"
   |            ^^^^
   |
   = help: a whole number and ms, s, m or h, like "60s", up to "8784h"; or "off" for no bound

error: grace: "9000h" is too long
  --> sidegate.toml:18:9
   |
18 | grace = "9000h"
   |         ^^^^^^^
   |
   = help: at most 366 days: "8784h"

error: threads: expected "auto", found "all"
  --> sidegate.toml:20:11
   |
20 | threads = "all"
   |           ^^^^^
"#,
    );
    with(
        "[shutdown]\nspread = \"1m\"",
        r#"
warning: `spread` is longer than `deadline`: some tunnels are cut without a Close
  --> sidegate.toml:15:1
   |
15 | [shutdown]
   | ^^^^^^^^^^
"#,
    );
}

#[test]
fn messages_name_off_where_a_bound_can_be_off() {
    changed(
        "policy = \"chat\"",
        "policy = \"chat\"\nmax_body = \"1MB\"\ntimeouts = { body_stall = \"0s\", response = false }",
        r#"
error: max_body: "1MB" is not a size
  --> sidegate.toml:14:12
   |
14 | max_body = "1MB"
   |            ^^^^^
   |
   = help: a whole number and B, KiB, MiB or GiB, like "1MiB"; or "off" for no bound

error: body_stall: zero makes no sense here
  --> sidegate.toml:15:27
   |
15 | timeouts = { body_stall = "0s", response = false }
   |                           ^^^^
   |
   = help: a whole number and ms, s, m or h, like "60s", up to "8784h"; or "off" for no bound

error: response: expected a duration like "60s", or "off", found a boolean
  --> sidegate.toml:15:44
   |
15 | timeouts = { body_stall = "0s", response = false }
   |                                            ^^^^^
"#,
    );
    let off = "timeouts = { body_stall = \"off\", response = \"off\" }\nmax_body = \"off\"";
    changed("policy = \"chat\"", &format!("policy = \"chat\"\n{off}"), "");
}

#[test]
fn a_route_overrides_timeouts_from_body_stall_down() {
    changed(
        "policy = \"chat\"",
        "policy = \"chat\"\ntimeouts = { response = \"2m\", head = \"1s\" }",
        r#"
error: head: not per route
  --> sidegate.toml:14:31
   |
14 | timeouts = { response = "2m", head = "1s" }
   |                               ^^^^
   |
   = help: set it in [timeouts]: it is over before a route is found
"#,
    );
}

#[test]
fn recent_decisions_have_bounds_in_count_and_bytes() {
    with(
        "[admin]\nrecent_decisions = 1000001",
        r#"
error: recent_decisions: 1000001 is out of range
  --> sidegate.toml:16:20
   |
16 | recent_decisions = 1000001
   |                    ^^^^^^^
   |
   = help: 0 to 1000000
"#,
    );
}

#[test]
fn page_listens_at_loopback_addresses_only() {
    with(
        "[admin]\npage_listen = \"0.0.0.0:9401\"\npage = \"all\"",
        r#"
error: page_listen: 0.0.0.0:9401 is no loopback address: the page has no login and no TLS
  --> sidegate.toml:16:15
   |
16 | page_listen = "0.0.0.0:9401"
   |               ^^^^^^^^^^^^^^
   |
   = help: 127.0.0.1 or [::1], or "unix:PATH"; from elsewhere, reach it through `ssh -L`

error: page: expected "short" or "full", found "all"
  --> sidegate.toml:17:8
   |
17 | page = "all"
   |        ^^^^^
"#,
    );
    for (listen, said) in [
        ("127.0.0.1:9401", ""),
        ("127.9.9.9:9401", ""),
        ("[::1]:9401", ""),
        ("[::ffff:127.0.0.1]:9401", ""),
        ("unix:/run/page.sock", ""),
        ("off", ""),
        ("127.0.0.1:10464", "127.0.0.1:10464 is the address of [metrics]"),
        ("192.0.2.1:9401", "is no loopback address"),
        ("[::]:9401", "is no loopback address"),
        ("[fe80::1]:9401", "is no loopback address"),
        ("localhost:9401", "is not an address with a port"),
        ("127.0.0.1", "is not an address with a port"),
        ("systemd:page", "the page takes no socket from systemd"),
        ("unix:@page", "an abstract socket has no permissions"),
        ("", "is not an address with a port"),
    ] {
        let text = SIDEGATE
            .replace("schema = 1", &format!("schema = 1\nadmin.page_listen = \"{listen}\""));
        let (loaded, found) = super::load(&[("sidegate.toml", &text)]);
        assert!(found.contains(said), "{listen}: {found}");
        assert_eq!(loaded.is_ok(), said.is_empty(), "{listen}: {found}");
    }
}

#[test]
fn page_shares_its_address_with_no_other_socket() {
    let listener = |listen: &str| {
        format!("[[listener]]\nname = \"one\"\nlisten = \"{listen}\"\ntls = false\n")
    };
    for (text, said) in [
        (
            ["admin.page_listen = \"127.0.0.1:9401\"\n", &listener("0.0.0.0:9401")].concat(),
            "0.0.0.0:9401 takes the address of the page",
        ),
        (
            ["admin.page_listen = \"unix:/e/p.sock\"\n", &listener("unix:/e/p.sock")].concat(),
            "unix:/e/p.sock is the address of the page",
        ),
        (
            "admin = { socket = \"/e/p.sock\", page_listen = \"unix:/e/f/../p.sock\" }\n"
                .to_owned(),
            "page_listen: unix:/e/f/../p.sock leads to unix:/e/p.sock, the address of [admin]",
        ),
    ] {
        let (loaded, found) = super::load(&[("sidegate.toml", &format!("schema = 1\n{text}"))]);
        assert!(found.contains(said) && loaded.is_err(), "no {said} in {found}");
    }
}

#[test]
fn the_admin_socket_is_a_path_with_a_mode_and_a_group() {
    with(
        "[admin]\nsocket = \"unix:/run/x\"\nmode = \"0999\"\ngroup = \"a b\"",
        r#"
error: socket: a path needs `unix:` in front
  --> sidegate.toml:16:10
   |
16 | socket = "unix:/run/x"
   |          ^^^^^^^^^^^^^

error: mode: "0999" is not a file mode
  --> sidegate.toml:17:8
   |
17 | mode = "0999"
   |        ^^^^^^
   |
   = help: three octal digits after a zero, like "0660"

error: group: "a b" cannot be the name of a group
  --> sidegate.toml:18:9
   |
18 | group = "a b"
   |         ^^^^^
"#,
    );
    with(
        &format!("[admin]\nsocket = \"/{}\"", "x".repeat(120)),
        r#"
error: socket: a Unix socket's path has at most 107 bytes
  --> sidegate.toml:16:10
   |
16 | socket = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
   |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: a path in a directory nearer to the root
"#,
    );
}

#[test]
fn unix_listener_without_a_usable_file_is_an_error() {
    let listener = |lines: &str| format!("[[listener]]\nname = \"a{}\"\n{lines}", lines.len());
    let text = [
        "listen = \"unix:run/public.sock\"\ntls = false",
        "listen = \"unix:@public\"\ntls  = false",
        "listen = \"unix:/run/sidegate/\"\ntls = false",
        "listen = \"unix:/run/a.sock\"\ntls = false\nmode = \"0999\"\ngroup = \"no-such-group\"",
        "listen = \"127.0.0.1:1\"\ntls = false\nmode = \"0660\"",
        "listen = \"unix:/run/b.sock\"\ntls = false\nmode = \"0600\"",
        "listen = \"unix:/run/b.sock\"\ntls = false\n",
    ];
    let text = text.map(listener).join("\n");
    let text = format!("schema = 1\n{text}\n");
    let (_, found) = super::load(&[("sidegate.toml", &text)]);
    for said in [
        "listen: the path of a listener's socket begins with a slash",
        "listen: an abstract socket has no permissions: every local user could connect",
        "listen: the path of a directory, which is no socket",
        "mode: \"0999\" is not a file mode",
        "group: this host has no group `no-such-group`",
        "mode: only a socket with a file has permissions",
        "listen: unix:/run/b.sock is the address of `a",
    ] {
        assert!(found.contains(said), "no {said} in {found}");
    }
}

#[test]
fn unix_paths_that_lead_to_one_file_are_errors() {
    let listener = |name: &str, path: &str| {
        format!("[[listener]]\nname = \"{name}\"\nlisten = \"unix:{path}\"\ntls = false\n")
    };
    let metrics = "metrics.listen = \"unix:/e/m.sock\"\n";
    let admin = "admin.socket = \"/e/f/../a.sock\"\n";
    let route = |backend: &str| {
        let keys = "name = \"r\"\nhost = \"*\"\npath = \"/\"\npolicy = \"chat\"\n";
        format!("[[route]]\n{keys}backend = \"{backend}\"\n")
    };
    let (one, other) = (listener("one", "/e/x.sock"), listener("other", "/e/../e/./x.sock"));
    for (text, said) in [
        (
            [&*one, &other].concat(),
            "listen: unix:/e/../e/./x.sock leads to unix:/e/x.sock, the address of `one`",
        ),
        (
            [metrics, &listener("one", "/d/../e/m.sock")].concat(),
            "listen: unix:/d/../e/m.sock leads to unix:/e/m.sock, the address of [metrics]",
        ),
        (
            [admin, &listener("one", "/e/a.sock")].concat(),
            "listen: unix:/e/a.sock leads to unix:/e/f/../a.sock, the address of [admin]",
        ),
        (
            ["metrics.listen = \"unix:/e/a.sock\"\n", admin].concat(),
            "socket: unix:/e/f/../a.sock leads to unix:/e/a.sock, the address of [metrics]",
        ),
        (
            [&*one, &route("unix:/e//x.sock")].concat(),
            "backend: unix:/e//x.sock is the listener `one`: requests would come back here",
        ),
        (
            [admin, &one, &route("unix:/e/a.sock")].concat(),
            "backend: unix:/e/a.sock is the admin socket: every client of the route could command",
        ),
        ([&*one, &listener("other", "/f/x.sock"), &route("unix:/e/y.sock")].concat(), ""),
        ([metrics, &one, &route("unix:/e/m.sock")].concat(), ""),
    ] {
        let (loaded, found) = super::load(&[("sidegate.toml", &format!("schema = 1\n{text}"))]);
        assert!(found.contains(said), "no {said} in {found}");
        assert_eq!(loaded.is_ok(), said.is_empty(), "{found}");
    }
}

#[test]
fn socket_path_is_measured_from_the_root() {
    let deep = format!("/e/{}", "x".repeat(105));
    for (keys, is_valid) in [
        (format!("metrics.listen = \"unix:{deep}\""), false),
        (format!("admin.socket = \"{deep}\""), false),
        (format!("admin.socket = \"{}\"", &deep[..107]), true),
        // Relative paths begin in the folder of the file.
        (format!("metrics.listen = \"unix:{}\"", "x".repeat(100)), false),
    ] {
        let (loaded, found) = super::load(&[(
            "sidegate.toml",
            &SIDEGATE.replace("schema = 1", &format!("schema = 1\n{keys}")),
        )]);
        assert_eq!(loaded.is_ok(), is_valid, "{found}");
        assert_eq!(found.contains("a Unix socket's path has at most 107 bytes"), !is_valid);
    }
}

#[test]
fn reserved_keys_and_values_are_errors() {
    let text = r#"schema = 1
[reload]
max_revoked = "10%"

[[listener]]
name = "public"
listen = "127.0.0.1:8080"
tls = false
http2 = true

[[route]]
name = "chat"
host = "*"
path = "/"
backend = "http://127.0.0.1:8080"
policy = "chat"
forward_as = "forwarded"
"#;
    check(
        &[("sidegate.toml", text)],
        r#"
error: http2: not in this version
 --> sidegate.toml:9:9
  |
9 | http2 = true
  |         ^^^^

error: forward_as: "forwarded": not in this version
  --> sidegate.toml:17:14
   |
17 | forward_as = "forwarded"
   |              ^^^^^^^^^^^
"#,
    );
}

#[test]
fn form_of_refusals_is_one_of_three_words() {
    let text = |form: &str| format!("{SIDEGATE}refuse = {form}\n");
    check(
        &[("sidegate.toml", &text("\"reset\""))],
        r#"
error: refuse: expected "answer", "close" or "drop", found "reset"
  --> sidegate.toml:14:10
   |
14 | refuse = "reset"
   |          ^^^^^^^
"#,
    );
    for form in ["answer", "close", "drop"] {
        check(&[("sidegate.toml", &text(&format!("\"{form}\"")))], "");
    }
}

#[test]
fn public_port_is_a_tcp_port() {
    for port in ["0", "65536", "-1"] {
        let (found, _) = load(&[("sidegate.toml", &with_port(port))]);
        let found = found.unwrap_err();
        assert_eq!(found[0].remedy.as_deref(), Some("1 to 65535"), "{port}: {found:?}");
    }
    changed(
        "tls = false",
        "tls = false\npublic_port = \"443\"",
        r#"
error: public_port: expected an integer, found a string
 --> sidegate.toml:7:15
  |
7 | public_port = "443"
  |               ^^^^^
  |
  = help: write 443, without quotes
"#,
    );
    for port in ["1", "443", "65535"] {
        check(&[("sidegate.toml", &with_port(port))], "");
    }
}

/// [`SIDEGATE`] with this `public_port`.
fn with_port(port: &str) -> String {
    SIDEGATE.replace("tls = false", &format!("tls = false\npublic_port = {port}"))
}

#[test]
fn the_only_values_of_this_version_are_accepted() {
    changed("tls = false", "tls = false\nhttp2 = false", "");
    changed(
        "policy = \"chat\"",
        "policy = \"chat\"\nforward_as = \"x-forwarded\"\nrefuse = \"answer\"",
        "",
    );
    with("[reload]\nmax_revoked = \"100%\"", "");
}

#[test]
fn systemd_sockets_are_assumed_outside_an_agent() {
    changed("listen = \"127.0.0.1:8443\"", "listen = \"systemd:sidegate.socket\"", "");
    with("[metrics]\nlisten = \"systemd:metrics\"\n[admin]\nsocket = \"systemd:admin\"", "");
    with("[metrics]\nlisten = \"unix:run/metrics.sock\"", "");
}

#[test]
fn a_socket_from_systemd_has_a_name_and_one_user() {
    with(
        "[metrics]\nlisten = \"systemd:\"\n[admin]\nsocket = \"systemd:a:b\"",
        r#"
error: listen: "systemd:" cannot be the name of a socket
  --> sidegate.toml:16:10
   |
16 | listen = "systemd:"
   |          ^^^^^^^^^^
   |
   = help: like "systemd:public", with FileDescriptorName=public in the .socket unit

error: socket: "systemd:a:b" cannot be the name of a socket
  --> sidegate.toml:18:10
   |
18 | socket = "systemd:a:b"
   |          ^^^^^^^^^^^^^
   |
   = help: like "systemd:public", with FileDescriptorName=public in the .socket unit
"#,
    );
    with(
        "[metrics]\nlisten = \"systemd:one\"\n[admin]\nsocket = \"systemd:one\"",
        r#"
error: socket: the socket `one` is that of [metrics]
  --> sidegate.toml:18:10
   |
18 | socket = "systemd:one"
   |          ^^^^^^^^^^^^^
   |
  ::: sidegate.toml:16:10
   |
16 | listen = "systemd:one"
   |          ------------- first here
"#,
    );
}

#[test]
fn as_is_paths_need_a_route_without_overlap() {
    let as_is = |path: &str, keys: &str| {
        let own = format!("path = \"{path}\"\npaths = \"as-is\"{keys}");
        SIDEGATE.replace("path = \"/\"", &own)
    };
    let other = |host: &str, path: &str| {
        format!(
            "[[route]]\nname = \"other\"\nhost = \"{host}\"\npath = \"{path}\"\n\
             backend = \"http://127.0.0.1:9\"\npolicy = \"chat\"\n"
        )
    };
    let sound = |text: String| check(&[("sidegate.toml", &text)], "");
    sound(as_is("/", ""));
    sound(as_is("/api/", ""));
    sound(as_is("/caf%C3%A9/", ""));
    sound(as_is("/exact", ""));
    sound(as_is("/api/", "") + &other("*", "/"));
    sound(as_is("/api/", "") + &other("a.example", "/apis/"));
    sound(as_is("/api/", "") + &other("*", "/api"));
    sound(as_is("/api/", "").replace("\"*\"", "\"a.example\"") + &other("*", "/api/x/"));
    sound(as_is("/api/", "").replace("\"*\"", "\"a.example\"") + &other("b.example", "/api/x/"));
    sound(as_is("/api/", "").replace("\"*\"", "\"*.example\"") + &other("a.b.example", "/api/x/"));
    // A host with a route of its own for that path never reaches the broader route.
    let twin = as_is("/api/", "") + &other("a.example", "/api/");
    sound(twin.clone());
    sound(twin + &other("a.example", "/api/x/").replace("other", "third"));
    sound(
        as_is("/api/", "")
            + &other("*.example", "/")
            + &other("a.example", "/api/x").replace("other", "third"),
    );
    let below = |host: &str, path: &str| {
        let text = as_is("/api/", "") + &other(host, path);
        let (_, found) = load(&[("sidegate.toml", &text)]);
        assert!(found.contains("route `other` lies below"), "{host} {path}: {found}");
    };
    below("*", "/api/x");
    below("*", "/API/");
    below("*.example", "/api/x/");
    below("a.example", "/api/x");
    below("a.example", "/Api/");
    check(
        &[("sidegate.toml", &(as_is("/api/", "") + &other("a.example", "/api/x/")))],
        r#"
error: paths: route `other` lies below: a path that is passed as it is may lead there
  --> sidegate.toml:12:9
   |
12 | paths = "as-is"
   |         ^^^^^^^
   |
  ::: sidegate.toml:18:8
   |
18 | path = "/api/x/"
   |        --------- below
   |
   = help: leave `paths` out, or serve one of the two under another host
"#,
    );
    check(
        &[("sidegate.toml", &as_is("/api/", "\nstrip_prefix = true"))],
        r#"
error: paths: a path that is passed as it is has no prefix that can be taken off
  --> sidegate.toml:12:9
   |
12 | paths = "as-is"
   |         ^^^^^^^
   |
  ::: sidegate.toml:13:16
   |
13 | strip_prefix = true
   |                ---- taken off here
   |
   = help: leave out `paths` or `strip_prefix`
"#,
    );
    check(
        &[("sidegate.toml", &as_is("/a;b/", ""))],
        r#"
error: paths: some servers read `/a;b/` as another path
  --> sidegate.toml:12:9
   |
12 | paths = "as-is"
   |         ^^^^^^^
   |
  ::: sidegate.toml:11:8
   |
11 | path = "/a;b/"
   |        ------- the path
   |
   = help: leave `paths` out: it needs a path without `;`, `%25` and dots at an end
"#,
    );
    changed(
        "path = \"/\"",
        "path = \"/\"\npaths = \"raw\"",
        r#"
error: paths: expected "canonical" or "as-is", found "raw"
  --> sidegate.toml:12:9
   |
12 | paths = "raw"
   |         ^^^^^
"#,
    );
}

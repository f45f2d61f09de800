//! `sidegate import nginx`: from where the client's address comes, and Unix sockets.
//!
//! tests/system/import_fuzz.py compares the same directives with a real nginx.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::wire::lossy;

/// The outcome of an import with `--accept-opens`.
struct Imported {
    folder: TempDir,
    report: Value,
}

/// Imports a file with this in its `http` block. `PASS` is a location for all paths that passes
/// requests on, and `CLIENTS` rules that admit 203.0.113.0/24 alone.
fn import(http: &str) -> Imported {
    let http = http
        .replace("PASS", "location / { proxy_pass http://127.0.0.1:9000; }")
        .replace("CLIENTS", "allow 203.0.113.0/24; deny all;");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("nginx.conf");
    fs::write(&file, format!("http {{\n{}\n}}", http.replace("; ", ";\n"))).unwrap();
    let words = ["import", "nginx", "nginx.conf", "--out", "out", "--json", "--accept-opens"];
    let output = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(words)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{http}: {}", lossy(&output.stderr));
    Imported { report: serde_json::from_slice(&output.stdout).unwrap(), folder }
}

impl Imported {
    /// The words of the directives that begin so, the gravest of each.
    fn words(&self, directive: &str) -> Vec<&str> {
        let lines = self.report["lines"].as_array().unwrap().iter();
        let named = lines.filter(|line| line["directive"].as_str().unwrap().starts_with(directive));
        named.map(|line| line["word"].as_str().unwrap()).collect()
    }

    /// All that was said of the directives that begin so.
    fn said(&self, directive: &str) -> String {
        let lines = self.report["lines"].as_array().unwrap().iter();
        let named = lines.filter(|line| line["directive"].as_str().unwrap().starts_with(directive));
        named.map(|line| line["notes"].to_string()).collect()
    }

    fn opens(&self) -> bool {
        self.report["lines"].as_array().unwrap().iter().any(|line| line["word"] == "opens")
    }

    fn toml(&self, path: &str) -> toml::Table {
        let text = fs::read_to_string(self.folder.path().join("out").join(path)).unwrap();
        text.parse().unwrap()
    }

    /// A key of each listener of the first configuration, by the `listen` of the listener.
    fn listeners(&self, key: &str) -> BTreeMap<String, String> {
        let config = self.toml("sidegate.toml");
        let listeners = config["listener"].as_array().unwrap().iter();
        let shown = |one: &toml::Value| {
            let listen = one["listen"].as_str().unwrap().to_owned();
            (listen, one.get(key).map(|value| value.to_string()).unwrap_or_default())
        };
        listeners.map(shown).collect()
    }

    /// `allow` and `deny` of the policy of the route `name`.
    fn clients(&self, name: &str) -> String {
        let config = self.toml("sidegate.toml");
        let routes = config["route"].as_array().unwrap().iter();
        let route = routes.into_iter().find(|one| one["name"].as_str() == Some(name)).unwrap();
        let policy = self.toml(&format!("policies/{}.toml", route["policy"].as_str().unwrap()));
        let client = policy["client"].as_table().unwrap();
        let shown =
            |key| client.get(key).map_or("-".into(), |value: &toml::Value| value.to_string());
        format!("{} {}", shown("allow"), shown("deny"))
    }
}

/// The one listener's key, or nothing.
#[track_caller]
fn expect_key(http: &str, key: &str, expected: &str) -> Imported {
    let imported = import(http);
    let all = imported.listeners(key);
    assert_eq!(all.values().map(String::as_str).collect::<Vec<_>>(), [expected], "{http}");
    imported
}

const XFF: &str = "real_ip_header X-Forwarded-For; real_ip_recursive on;";

#[test]
fn forwarded_is_written_where_nginx_walks_alike() {
    for (from, expected) in [
        ("set_real_ip_from 10.1.2.3/16;", "\"10.1.0.0/16\""),
        (
            "set_real_ip_from 10.1.0.7; set_real_ip_from 2001:db8::/32;",
            "\"10.1.0.7\", \"2001:db8::/32\"",
        ),
        ("set_real_ip_from 10.1.0.7; set_real_ip_from 10.1.0.7/32;", "\"10.1.0.7\""),
        ("set_real_ip_from unix:; set_real_ip_from 10.1.0.7;", "\"10.1.0.7\""),
        ("set_real_ip_from ::ffff:10.0.0.0/104; set_real_ip_from ::1;", "\"::1\""),
    ] {
        let http = format!("{from} {XFF} server {{ listen 8080; CLIENTS PASS }}");
        let expected = format!("{{ from = [{expected}], header = \"x-forwarded-for\" }}");
        let imported = expect_key(&http, "forwarded", &expected);
        assert!(!imported.opens(), "{http}");
        assert_eq!(imported.words("real_ip_header"), ["differs"], "{http}");
    }
}

#[test]
fn last_address_alone_opens_where_proxies_are_refused() {
    let from = "set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;";
    for (rules, word) in [
        ("CLIENTS", "opens"),
        ("allow 10.0.0.0/9; allow 203.0.113.0/24; deny all;", "opens"),
        ("allow 10.0.0.0/8; allow 203.0.113.0/24; deny all;", "closes"),
        ("deny all;", "differs"),
        ("", "differs"),
        ("limit_conn a 5;", "opens"),
    ] {
        let zone = "limit_conn_zone $binary_remote_addr zone=a:1m;";
        for header in [from.to_owned(), format!("{from} real_ip_recursive off;")] {
            // A server without a client would have no route.
            let open = "location /open { proxy_pass http://127.0.0.1:9000; allow all; }";
            let http = format!("{zone} {header} server {{ listen 8080; {rules} PASS {open} }}");
            let imported = import(&http);
            let last = if header == from { "real_ip_header" } else { "real_ip_recursive" };
            assert_eq!(imported.words(last), [word], "{http}");
            assert!(imported.listeners("forwarded")["0.0.0.0:8080"].contains("10.0.0.0/8"));
        }
    }
}

#[test]
fn header_without_an_equivalent_is_graded_by_the_rules() {
    let zone = "limit_conn_zone $binary_remote_addr zone=a:1m;";
    let headers = ["X-Real-IP", "Forwarded", "CF-Connecting-IP"];
    let set = headers.map(|name| format!("real_ip_header {name};"));
    // Without the directive it is X-Real-IP.
    for header in [&[String::new()], &set[..]].concat() {
        for (from, rules, word) in [
            ("10.0.0.1", "CLIENTS", "closes"),
            ("10.0.0.1", "allow 10.0.0.0/8; deny all;", "opens"),
            ("10.0.0.1", "deny 198.51.100.0/24;", "opens"),
            ("10.0.0.1", "", "differs"),
            ("10.0.0.1", "limit_conn a 5;", "closes"),
            ("10.0.0.0/31", "limit_conn a 5;", "opens"),
            ("proxy.example", "CLIENTS", "opens"),
        ] {
            let http = format!(
                "{zone} set_real_ip_from {from}; {header} server {{ listen 8080; {rules} PASS }}"
            );
            let imported = expect_key(&http, "forwarded", "");
            assert_eq!(imported.words("set_real_ip_from"), [word], "{http}");
        }
    }
}

#[test]
fn peers_that_forwarded_cannot_list_are_told() {
    for (from, kept, word, part) in [
        ("set_real_ip_from 0.0.0.0/0;", "", "opens", "takes no 0.0.0.0/0"),
        (
            "set_real_ip_from 0.0.0.0/1; set_real_ip_from 128.0.0.0/1;",
            "",
            "opens",
            "takes no 0.0.0.0/0",
        ),
        ("set_real_ip_from 8000::/1; set_real_ip_from ::/1;", "", "closes", "takes no ::/0"),
        ("set_real_ip_from proxy.example;", "", "opens", "names of peers are not looked up"),
        (
            "set_real_ip_from proxy.example; set_real_ip_from 10.0.0.1;",
            "10.0.0.1",
            "opens",
            "proxy.example is not listed",
        ),
    ] {
        let http = format!("{from} {XFF} server {{ listen 8080; CLIENTS PASS }}");
        let imported = import(&http);
        let said = imported.said("real_ip_").to_lowercase();
        assert!(said.contains(&part.to_lowercase()), "{said}");
        assert_eq!(imported.words("real_ip_recursive"), [word], "{http}");
        assert!(imported.listeners("forwarded")["0.0.0.0:8080"].contains(kept), "{http}");
    }
}

#[test]
fn levels_with_other_forwarders_leave_the_listener_to_its_peers() {
    let own = "location /own/ { set_real_ip_from 10.9.0.0/16; proxy_pass http://127.0.0.1:1; }";
    for http in [
        format!(
            "set_real_ip_from 10.0.0.1; {XFF} \
             server {{ listen 8080; PASS {own} allow 10.0.0.0/8; deny all; }}"
        ),
        format!("{XFF} server {{ listen 8080; PASS {own} allow 10.0.0.0/8; deny all; }}"),
        format!(
            "{XFF} allow 10.0.0.0/8; deny all; \
             server {{ listen 8080; PASS set_real_ip_from 10.9.0.0/16; }} \
             server {{ listen 8080; server_name b.example; PASS }}"
        ),
    ] {
        let imported = expect_key(&http, "forwarded", "");
        assert!(imported.words("set_real_ip_from 10.9.0.0/16").contains(&"opens"), "{http}");
    }
    let alike = format!(
        "{XFF} server {{ listen 8080; PASS set_real_ip_from 10.0.0.1; }} \
         server {{ listen 8080 default_server; server_name _; return 444; }} \
         server {{ listen 8080; server_name b.example; PASS set_real_ip_from 10.0.0.1/32; }}"
    );
    let expected = "{ from = [\"10.0.0.1\"], header = \"x-forwarded-for\" }";
    assert!(!expect_key(&alike, "forwarded", expected).opens());
}

#[test]
fn proxy_protocol_lists_the_peers_that_nginx_believes() {
    let listen = "server { listen 8080 proxy_protocol; real_ip_header proxy_protocol;";
    for (rest, from, word) in [
        ("set_real_ip_from 10.0.0.0/8; CLIENTS PASS }", "\"10.0.0.0/8\"", "opens"),
        (
            "set_real_ip_from 10.0.0.0/8; allow 10.1.0.0/16; deny all; PASS }",
            "\"10.0.0.0/8\"",
            "carried",
        ),
        (
            "set_real_ip_from 0.0.0.0/0; set_real_ip_from ::/0; CLIENTS PASS }",
            "\"0.0.0.0/0\", \"::/0\"",
            "carried",
        ),
        ("set_real_ip_from 0.0.0.0/0; PASS }", "\"0.0.0.0/0\"", "opens"),
    ] {
        let http = format!("{listen} {rest}");
        let imported = expect_key(&http, "proxy_protocol", &format!("{{ from = [{from}] }}"));
        assert_eq!(imported.words("listen"), [word], "{http}");
        assert!(imported.words("set_real_ip_from").iter().all(|word| *word == "carried"));
    }
}

#[test]
fn proxy_header_that_names_no_client_opens_and_closes() {
    for (rest, part) in [
        ("PASS", "believes none. List the balancers"),
        (
            "set_real_ip_from 10.0.0.1; real_ip_header X-Forwarded-For; PASS",
            "from a header of the request",
        ),
        (
            "real_ip_header proxy_protocol; PASS \
             location /a/ { set_real_ip_from 10.0.0.1; proxy_pass http://127.0.0.1:1; }",
            "from elsewhere",
        ),
        (
            "real_ip_header proxy_protocol; set_real_ip_from lb.example; PASS",
            "write their addresses",
        ),
    ] {
        let http = format!("server {{ listen 8080 proxy_protocol; {rest} }}");
        let imported = expect_key(&http, "proxy_protocol", "");
        let said = imported.said("listen 8080");
        assert_eq!(imported.words("listen"), ["opens"], "{http}");
        assert!(said.contains("\"closes\"") && said.contains(part), "{said}");
        assert!(imported.listeners("forwarded")["0.0.0.0:8080"].is_empty(), "{http}");
    }
}

#[test]
fn missing_proxy_header_is_told_of_every_path() {
    // nginx answers /ping itself, and no connection without a header gets that far.
    let ping = "location /ping { return 204; }";
    let imported = import(&format!("server {{ listen 8080 proxy_protocol; PASS {ping} }}"));
    let lines = imported.report["lines"].as_array().unwrap();
    let listen = lines.iter().find(|line| line["directive"] == "listen 8080 proxy_protocol");
    let notes = listen.unwrap()["notes"].as_array().unwrap();
    let opens = notes.iter().find(|note| note["word"] == "opens").unwrap();
    assert_eq!(opens["attempts"][0]["path"], "/");
    assert_eq!(opens["attempts"][0]["but"].as_array().unwrap().len(), 0);
}

#[test]
fn proxy_protocol_of_one_server_is_that_of_its_socket() {
    let real = "set_real_ip_from 10.0.0.1; real_ip_header proxy_protocol;";
    let http = format!(
        "{real} server {{ listen 8080; listen 8081; PASS }} \
         server {{ listen 8080 proxy_protocol; listen 8081; server_name b.example; PASS }}"
    );
    let all = import(&http).listeners("proxy_protocol");
    assert_eq!(all["0.0.0.0:8080"], "{ from = [\"10.0.0.1\"] }");
    assert_eq!(all["0.0.0.0:8081"], "");
    // IPv4 clients share the listener here, and nginx asks them for no header.
    let http = format!("{real} server {{ listen 8080; listen [::]:8080 proxy_protocol; PASS }}");
    let imported = expect_key(&http, "proxy_protocol", "");
    assert!(imported.said("listen").contains("in one address family alone"));
}

#[test]
fn redirects_expect_proxy_headers_as_their_servers_did() {
    let certificate = "ssl_certificate ws.pem; ssl_certificate_key ws.key;";
    let pair = crate::harness::certificate::signed(&["ws.example.com"]);
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("ws.pem"), pair.chain).unwrap();
    fs::write(folder.path().join("ws.key"), pair.key).unwrap();
    let certificate = certificate.replace(" ws.", &format!(" {}/ws.", folder.path().display()));
    let http = format!(
        "set_real_ip_from 10.0.0.1; real_ip_header proxy_protocol; \
         server {{ listen 80 proxy_protocol; return 301 https://$host$request_uri; }} \
         server {{ listen 443 ssl proxy_protocol; {certificate} PASS }}"
    );
    let all = import(&http).listeners("proxy_protocol");
    assert_eq!(all.into_values().collect::<Vec<_>>(), ["{ from = [\"10.0.0.1\"] }"; 2]);
}

#[test]
fn unix_socket_and_its_rules_are_carried_over() {
    for (rules, expected) in [
        ("", "[\"any\"] -"),
        ("allow unix:; deny all;", "[\"unix\"] -"),
        ("deny unix:;", "[\"any\"] [\"unix\"]"),
        ("deny unix:; allow all;", "[\"any\"] [\"unix\"]"),
        ("CLIENTS", "[\"203.0.113.0/24\"] -"),
        ("allow 203.0.113.0/24; allow unix:; deny all;", "[\"203.0.113.0/24\", \"unix\"] -"),
        ("deny all; allow unix:;", "[] -"),
        ("deny 198.51.100.0/24; deny unix:;", "[\"any\"] [\"198.51.100.0/24\", \"unix\"]"),
        ("deny 0.0.0.0/0; deny ::/0;", "[\"unix\"] -"),
    ] {
        let open = "location /open { allow all; proxy_pass http://127.0.0.1:1; }";
        let http = format!("server {{ listen unix:/run/public.sock; {rules} PASS {open} }}");
        let imported = expect_key(&http, "mode", "\"0666\"");
        assert!(imported.listeners("mode").contains_key("unix:/run/public.sock"));
        if expected != "[] -" {
            assert_eq!(imported.clients("default"), expected, "{http}");
        }
        assert!(!imported.opens(), "{http}");
    }
}

#[test]
fn certificates_of_clients_are_told_with_their_keys() {
    let authority = "ssl_client_certificate ca.pem; ssl_crl ca.crl;";
    let header = "proxy_set_header X-Cert $ssl_client_escaped_cert;";
    for (verify, word, part) in [
        ("on", "opens", "client_certificates = { ca = "),
        ("optional", "differs", "mode = \\\"optional\\\""),
        ("optional_no_ca", "differs", "mode = \\\"optional\\\""),
        ("off", "needless", "nothing of the kind"),
    ] {
        let http = format!(
            "server {{ listen 8080; {authority} ssl_verify_client {verify}; {header} PASS }}"
        );
        let imported = import(&http);
        assert_eq!(imported.words("ssl_verify_client"), [word], "{http}");
        let said = imported.said("ssl_verify_client");
        assert!(said.contains(part) && !said.contains("not in this version"), "{said}");
        for directive in ["ssl_client_certificate", "ssl_crl"] {
            assert!(imported.said(directive).contains("`client_certificates`"), "{http}");
        }
        assert!(imported.said("proxy_set_header").contains("`client_certificate` of the route"));
    }
}

#[test]
fn users_that_the_rules_forget_fail_open() {
    let rules = "allow 10.0.0.0/8; deny 0.0.0.0/0; deny ::/0;";
    let imported = import(&format!("server {{ listen unix:/run/a.sock; {rules} PASS }}"));
    assert_eq!(imported.words("allow"), ["fails_open"]);
    assert!(imported.said("allow").contains("users of this host"));
    let without = import(&format!("server {{ listen 8080; {rules} PASS }}"));
    assert_eq!(without.words("allow"), ["carried"]);
    assert_eq!(without.clients("default"), "[\"10.0.0.0/8\"] -");
}

#[test]
fn location_that_refuses_users_is_not_opened_to_them() {
    let pass = "proxy_pass http://127.0.0.1:9000;";
    let closed = "deny unix:; allow all;";
    for location in ["~ ^/.*admin", "/admin", "~ \\.php$"] {
        let http = format!(
            "server {{ listen unix:/run/a.sock; PASS location {location} {{ {closed} {pass} }} }}"
        );
        assert!(import(&http).opens(), "{http}");
        let http = http.replace("unix:/run/a.sock", "8080");
        assert!(!import(&http).opens(), "{http}");
    }
}

#[test]
fn forwarded_of_a_unix_socket_lists_its_users() {
    let http = format!(
        "set_real_ip_from unix:; set_real_ip_from 127.0.0.1; {XFF} \
         server {{ listen unix:/run/a.sock; listen 8080; CLIENTS PASS }}"
    );
    let all = import(&http).listeners("forwarded");
    let key = |from: &str| format!("{{ from = [{from}], header = \"x-forwarded-for\" }}");
    assert_eq!(all["unix:/run/a.sock"], key("\"127.0.0.1\", \"unix\""));
    assert_eq!(all["0.0.0.0:8080"], key("\"127.0.0.1\""));
    // Addresses alone are no peers of a Unix socket.
    let http = http.replace("set_real_ip_from unix:;", "");
    assert_eq!(import(&http).listeners("forwarded")["unix:/run/a.sock"], "");
    // Without a listed address in the header, the last one alone is what the walk finds.
    let http = "set_real_ip_from unix:; real_ip_header X-Forwarded-For; \
                server { listen unix:/run/a.sock; CLIENTS PASS }";
    assert!(!import(http).opens());
}

#[test]
fn ipv6_rules_judge_the_ipv4_clients_of_a_shared_socket() {
    for listen in ["listen [::]:8080 ipv6only=off;", "listen [::]:8080;"] {
        for (rules, expected) in [
            ("allow 2001:db8::/32; deny ::/0;", "[\"2001:db8::/32\"] -"),
            ("deny ::ffff:127.2.0.0/112;", "[\"any\"] [\"127.2.0.0/16\"]"),
            ("deny ::/64;", "[\"::/0\", \"!::/64\"] -"),
            ("allow ::ffff:127.2.0.9; deny ::/0;", "[\"127.2.0.9\"] -"),
            ("deny ::/0; allow 10.0.0.0/8;", "[\"0.0.0.0/0\"] -"),
        ] {
            let open = "location /open { allow all; proxy_pass http://127.0.0.1:1; }";
            let imported = import(&format!("server {{ {listen} {rules} PASS {open} }}"));
            assert!(!imported.opens(), "{listen} {rules}");
            assert_eq!(imported.clients("default"), expected, "{listen} {rules}");
        }
    }
}

#[test]
fn mapped_addresses_that_only_ipv6_rules_refuse_open() {
    let real = "set_real_ip_from 10.0.0.1;";
    for socket in [
        format!("listen 8080; {real} {XFF}"),
        format!("listen [::]:8080 ipv6only=off; {real} {XFF}"),
        format!("listen 8080 proxy_protocol; {real} real_ip_header proxy_protocol;"),
        "listen [::]:8080 ipv6only=off; listen 127.0.0.1:8081;".to_owned(),
    ] {
        for (rules, opens) in [
            ("allow 2001:db8::/32; deny ::/0;", true),
            ("deny ::ffff:127.2.0.0/112;", true),
            ("deny ::/1;", true),
            ("deny 2001:db8::/32;", false),
            ("allow 2001:db8::/32; deny ::/0; deny 0.0.0.0/0;", false),
            ("allow 2001:db8::/32; deny all;", false),
        ] {
            let http = format!("server {{ {socket} {rules} PASS }}");
            let open = "location /open { allow all; proxy_pass http://127.0.0.1:1; }";
            let http = http.replace("PASS", &format!("PASS {open}"));
            let words = import(&http);
            let words = words.words("deny");
            assert_eq!(words.contains(&"opens"), opens, "{http}: {words:?}");
        }
    }
    // Without a socket of IPv6 and a header, no client has such an address.
    for listen in ["8080", "127.0.0.1:8080", "[::1]:8080", "unix:/run/a.sock"] {
        let http = format!("server {{ listen {listen}; allow 2001:db8::/32; deny ::/0; PASS }}");
        assert!(!import(&http).opens(), "{http}");
    }
    let both = "server { listen 8080; listen [::]:8080; allow 2001:db8::/32; deny ::/0; PASS }";
    assert!(!import(both).opens());
}

#[test]
fn socket_inside_of_a_wider_one_opens_unless_its_servers_are_alike() {
    let pass = "location / { proxy_pass http://127.0.0.1:9000; }";
    for (wide, narrow, inner, word) in [
        ("8080", "127.0.0.1:8080", "location / { return 403; }", "opens"),
        ("*:8080", "127.0.0.1:8080", "return 403;", "opens"),
        ("8080", "127.0.0.1:8080", "deny all; PASS", "opens"),
        ("8080", "127.0.0.1:8080", "PASS", "opens"),
        ("[::]:8080", "127.0.0.1:8080", "return 403;", "opens"),
        ("[::]:8080", "[::1]:8080", "return 403;", "opens"),
        ("[::]:8080", "8080", "return 403;", "opens"),
        ("[::]:8080", "8080", "PASS", "opens"),
        ("8080", "127.0.0.1:8080", "return 301 https://$host$request_uri;", "opens"),
        ("8080", "127.0.0.1:8081", "return 403;", "dropped"),
        ("8080", "[::1]:8080", "return 403;", "dropped"),
        ("127.0.0.2:8080", "127.0.0.1:8080", "return 403;", "dropped"),
    ] {
        let http =
            format!("server {{ listen {wide}; {pass} }} server {{ listen {narrow}; {inner} }}");
        let imported = import(&http);
        assert_eq!(imported.words(&format!("listen {narrow}")), [word], "{http}");
        // The wider server alone serves nothing else.
        let turned =
            format!("server {{ listen {wide}; return 403; }} server {{ listen {narrow}; PASS }}");
        assert!(!import(&turned).words(&format!("listen {wide}")).contains(&"opens"), "{turned}");
    }
    let alike = "server { listen 8080; listen 127.0.0.1:8080; listen [::1]:8080; PASS }";
    let imported = import(alike);
    assert!(!imported.opens());
    let addresses: Vec<_> = imported.listeners("listen").into_keys().collect();
    assert_eq!(addresses, ["0.0.0.0:8080", "[::1]:8080"]);
    let other = "server { listen 8080; listen 127.0.0.1:8080 proxy_protocol; PASS }";
    let imported = import(other);
    assert_eq!(imported.words("listen 127.0.0.1"), ["opens"]);
    assert_eq!(imported.listeners("listen").len(), 1);
}

#[test]
fn redirect_gives_way_to_a_socket_at_its_port() {
    let tls = "server { listen 8443; PASS }";
    let redirect = "return 301 https://$host$request_uri;";
    for (one, other) in [("80", "127.0.0.1:80"), ("127.0.0.1:80", "80"), ("[::]:80", "80")] {
        let http = format!(
            "server {{ listen 8443; listen {one}; PASS }} \
             server {{ listen {other}; {redirect} }}"
        );
        let listens = import(&http).listeners("listen").len();
        assert_eq!(listens, 2, "{http}");
    }
    let both = format!(
        "{tls} server {{ listen 80; {redirect} }} server {{ listen 127.0.0.1:80; {redirect} }}"
    );
    assert!(!import(&both).opens());
}

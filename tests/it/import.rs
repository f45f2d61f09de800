//! `sidegate import nginx`: what it writes and reports, and that it writes all or nothing.
//!
//! Each `import/NAME.md` holds the result for `import/NAME.conf`. After a change of the code,
//! `SIDEGATE_WRITE_DOCS=1 cargo test --test it import` rewrites it. tests/system/import.py checks
//! that nginx decides alike.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::certificate::signed;
use crate::harness::wire::lossy;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/import")
}

/// A folder with all the configurations, and the certificate that one of them names.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(sources()).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let pair = signed(&["ws.example.com"]);
    fs::write(folder.path().join("ws.pem"), pair.chain).unwrap();
    fs::write(folder.path().join("ws.key"), pair.key).unwrap();
    folder
}

fn sidegate(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn import(file: &str, folder: &Path) -> Output {
    sidegate(&["import", "nginx", file, "--out", "out"], folder)
}

fn import_accepting(file: &str, folder: &Path) -> Output {
    sidegate(&["import", "nginx", file, "--out", "out", "--accept-opens"], folder)
}

/// Imports a server with this in its braces; `PASS` passes requests on.
fn import_server(text: &str, more: &[&str]) -> (TempDir, Output) {
    let folder = folder();
    let recipe = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;\
                  proxy_set_header Connection upgrade;";
    let zone = "limit_req_zone $http_x zone=by_name:1m rate=1r/s;";
    let text = text.replace("PASS", "proxy_pass http://127.0.0.1:9000;");
    let text = format!("http {{ {recipe} {zone}\nserver {{ listen 127.0.0.1:8080;\n{text}\n}} }}");
    fs::write(folder.path().join("nginx.conf"), text).unwrap();
    let words = ["import", "nginx", "nginx.conf", "--out", "out"];
    let output = sidegate(&[&words[..], more].concat(), folder.path());
    (folder, output)
}

/// Whether what was imported into `folder` admits a client from outside to `path`.
fn admits(folder: &TempDir, path: &str) -> bool {
    let url = format!("ws://ws.example.com{path}");
    let words =
        ["explain", "--config", "out/sidegate.toml", "--client", "203.0.113.9", "--url", &url];
    sidegate(&words, folder.path()).status.success()
}

/// Asserts that each guard in place of `TEXT` opens nothing: the import says OPENS and writes
/// nothing, or `path` is closed.
fn expect_told(locations: &str, guards: &[&str], path: &str) {
    for guard in guards {
        let text = locations.replace("TEXT", guard);
        let (folder, output) = import_server(&text, &[]);
        let said = lossy(&output.stdout);
        let opens = output.status.code() == Some(1) && said.contains("  OPENS  ");
        let closed =
            output.status.success() && !admits(&folder, path) && !said.contains("  OPENS  ");
        assert!(opens || closed, "{text}: {output:?}");
        assert_eq!(opens, !folder.path().join("out").exists(), "{text}");
    }
}

const GUARDS: [&str; 14] = [
    "deny all; PASS",
    "allow 10.0.0.0/8; deny all; PASS",
    "auth_basic staff; PASS",
    "auth_request /auth; PASS",
    "auth_jwt staff; PASS",
    "unknown_module on; PASS",
    "if ($allowed = 0) { return 403; } PASS",
    "if ($invalid_referer) { return 444; } PASS",
    "limit_except GET { deny all; } PASS",
    "satisfy any; allow 10.0.0.0/8; auth_basic staff; PASS",
    "internal; PASS",
    "return 404;",
    "limit_req zone=by_name; PASS",
    "rewrite ^ https://login.example.com/ redirect; PASS",
];

/// Imports `text` as a file of its own; the folder, and what was said.
fn import_text(text: &str) -> (TempDir, Output) {
    let folder = folder();
    fs::write(folder.path().join("nginx.conf"), text).unwrap();
    let output = import("nginx.conf", folder.path());
    (folder, output)
}

/// Every file below `folder`, by its path there.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let (mut folders, mut files) = (vec![folder.to_owned()], BTreeMap::new());
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(
                    path.strip_prefix(folder).unwrap().to_owned(),
                    fs::read_to_string(&path).unwrap(),
                );
            }
        }
    }
    files
}

/// Asserts that the import of `NAME.conf` gives the content of `NAME.md`, and passes `check`.
fn check_golden(name: &str) {
    let folder = folder();
    let output = import_accepting(&format!("{name}.conf"), folder.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut page = format!(
        "What becomes of [{name}.conf]({name}.conf).\n\n```\n{}```\n",
        lossy(&output.stdout)
    );
    for (path, text) in files(&folder.path().join("out")) {
        page.push_str(&format!("\n`{}`\n\n```\n{text}```\n", path.display()));
        if path.ends_with("sidegate.toml") {
            let checked = sidegate(
                &["check", "--config", path.to_str().unwrap()],
                &folder.path().join("out"),
            );
            assert_eq!(checked.status.code(), Some(0), "{checked:?}");
        }
    }
    let here = folder.path().canonicalize().unwrap();
    let page = page
        .replace(here.to_str().unwrap(), "/etc/nginx")
        .replace(folder.path().to_str().unwrap(), "/etc/nginx");
    let golden = sources().join(format!("{name}.md"));
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        return fs::write(golden, page).unwrap();
    }
    let expected = fs::read_to_string(golden).unwrap();
    let differing = expected.lines().zip(page.lines()).find(|(expected, got)| expected != got);
    assert!(
        expected == page,
        "{name}.md: {differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --test it import"
    );
}

/// Asserts that nothing is written, with exit code 1 and all of these said.
fn expect_refused((folder, output): (TempDir, Output), said: &[&str]) {
    let text = lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(said.iter().all(|part| text.contains(part)), "{said:?} in {text}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn common_nginx_websocket_recipe_is_imported() {
    check_golden("classic");
}

#[test]
fn import_reports_inheritance_that_fails_open() {
    check_golden("fails-open");
}

#[test]
fn uncarried_directives_are_reported_line_by_line() {
    check_golden("left-out");
}

#[test]
fn sockets_with_other_servers_get_their_own_configuration() {
    check_golden("ports");
}

#[test]
fn every_source_line_has_a_report_line() {
    for name in ["classic", "fails-open", "left-out", "ports"] {
        let folder = folder();
        let report = lossy(&import_accepting(&format!("{name}.conf"), folder.path()).stdout);
        let text = fs::read_to_string(sources().join(format!("{name}.conf"))).unwrap();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.contains(';')) {
            let place = format!("{name}.conf:{number} ");
            assert!(report.lines().any(|told| told.starts_with(&place)), "{place}{line}");
        }
    }
}

#[test]
fn import_writes_nothing_when_an_output_file_exists() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("out/policies")).unwrap();
    fs::write(folder.path().join("out/policies/ws-example-com-ticks.toml"), "mine").unwrap();
    let output = import("classic.conf", folder.path());
    let text = lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && text.contains("out/policies/ws-example-com-ticks.toml exists already"),
        "{text}"
    );
    assert_eq!(files(&folder.path().join("out")).into_values().collect::<Vec<_>>(), ["mine"]);
}

#[test]
fn nginx_syntax_errors_are_reported_with_their_place() {
    expect_refused(
        import_text("http {\n server {\n  listen 80;\n"),
        &["nginx.conf:4: unexpected end of file", "line 2"],
    );
    expect_refused(
        import_text("http {\n include none/a.conf;\n}"),
        &["nginx.conf:2: none/a.conf cannot be read"],
    );
    expect_refused(
        import_text("events {}\ninclude nginx.conf;"),
        &["nginx.conf:2: nginx.conf includes itself"],
    );
}

#[test]
fn all_import_errors_are_reported_at_once() {
    let text = "server {\n allow 10.0.0.256;\n location / {\n  limit_req zone=a;\n  proxy_pass http://127.0.0.1:1;\n }\n listen x:1;\n}";
    let said = [
        "nginx.conf:2: invalid parameter \"10.0.0.256\"",
        "nginx.conf:4: there is no zone \"a\"",
        "nginx.conf:7: `x:1`",
    ];
    expect_refused(import_text(&text.replace("listen x:1;", "listen x:1; listen 80;")), &said);
}

#[test]
fn invalid_certificate_leaves_no_output() {
    let server = |key: &str| {
        let tls = format!("ssl_certificate ws.pem; ssl_certificate_key {key};");
        format!(
            "server {{ listen 443 ssl; {tls} location / {{ proxy_pass http://127.0.0.1:1; }} }}"
        )
    };
    expect_refused(import_text(&server("none.key")), &["nginx.conf:1", "none.key cannot be read"]);
    expect_refused(
        import_text(&server("ws.pem")),
        &["holds no private key", "nothing was written"],
    );
}

#[test]
fn file_without_proxy_pass_is_an_error() {
    let text = "http { server { listen 80; location / { root /srv; } } }";
    expect_refused(import_text(text), &["nginx.conf", "there is nothing to import"]);
}

#[test]
fn import_report_is_available_as_json() {
    let folder = folder();
    let output = sidegate(
        &["import", "nginx", "left-out.conf", "--out", "out", "--accept-opens", "--json"],
        folder.path(),
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let regex = lines.iter().find(|line| line["directive"] == "location ~ \\.ws$").unwrap();
    assert_eq!((&regex["line"], &regex["word"]), (&14.into(), &"opens".into()));
    assert_eq!(regex["notes"][0]["attempts"][0]["path"], "~ \\.ws$");
    assert_eq!(report["configs"][0]["file"], "out/sidegate.toml");
    assert_eq!(
        report["written"].as_array().unwrap().len(),
        files(&folder.path().join("out")).len()
    );
}

#[test]
fn regular_expressions_open_nothing_silently() {
    for (regex, path) in [
        ("~ ^/reports/(daily|weekly)$", "/reports/weekly"),
        ("~* ^/console/", "/CONSOLE/x"),
        ("~* ^/console/", "/console/x"),
        (r"~ \.php$", "/a/b.php"),
        ("~ internal", "/shop/internal-api"),
        (r"~ ^/v[0-9]+/admin", "/v2/admin"),
        ("~ ^/(?!public/)", "/x"),
        (r"~ ^/a/\d+$", "/a/7"),
    ] {
        expect_told(&format!("location / {{ PASS }}\nlocation {regex} {{ TEXT }}"), &GUARDS, path);
    }
}

#[test]
fn limits_of_a_regular_expression_are_not_lost_silently() {
    let limits =
        ["client_max_body_size 1k;", "limit_req zone=by_client;", "limit_conn by_client 1;"];
    for limit in limits {
        let zones = "limit_req_zone $remote_addr zone=by_client:1m rate=1r/s;\
                     limit_conn_zone $remote_addr zone=by_client:1m;";
        let pass = "proxy_pass http://127.0.0.1:9000;";
        let locations = format!("location / {{ {pass} }} location ~ up$ {{ {limit} {pass} }}");
        let text = format!("http {{ {zones} server {{ listen 80; {locations} }} }}");
        expect_refused(import_text(&text), &["nothing was written: 1 line says OPENS"]);
        let none = text.replace("location /", &format!("{limit} location /"));
        let (_folder, output) = import_text(&none);
        assert!(output.status.success(), "{none}: {output:?}");
    }
}

#[test]
fn prefixes_open_nothing_silently() {
    for (location, path) in [
        ("/admin", "/admin/x"),
        ("/admin", "/adminx"),
        ("/admin/", "/admin/x"),
        ("^~ /admin", "/admin-x"),
        ("= /admin", "/admin"),
    ] {
        let text = format!("location / {{ PASS }}\nlocation {location} {{ TEXT }}");
        expect_told(&text, &GUARDS, path);
    }
    expect_told("location /a/ { PASS location ~ /b { TEXT } }", &GUARDS, "/a/b");
    let inside = "location /b/ { PASS } location /a/ { TEXT location /a/b { PASS } }";
    expect_told(inside, &GUARDS, "/a/x");
}

#[test]
fn server_guards_open_nothing_silently() {
    for guard in [
        "auth_basic a;",
        "ssl_verify_client on;",
        "if ($bad) { return 403; }",
        "if ($bad) { rewrite ^ /p/ break; }",
        "merge_slashes off;",
    ] {
        expect_told("TEXT location / { PASS }", &[guard], "/x");
    }
    let named = "location / { TEXT try_files $uri @app; } location @app { auth_basic a; PASS }";
    expect_told(named, &["", "allow all;"], "/x");
    let named = "location / { try_files $uri @app; } location @app { rewrite x /p/ last; PASS }
                 location /p/ { deny all; PASS }";
    expect_told(named, &[""], "/x");
    let condition =
        "location / { try_files $uri @app; if ($x) { set $y 1; } } location @app { PASS }";
    expect_told(condition, &[""], "/x");
    let led = "TEXT location / { PASS } location /p/ { deny all; PASS }";
    expect_told(
        led,
        &["rewrite ^/x /p/ last;", "rewrite ^/.*x$ /p/ last;", "rewrite ^ /p/;"],
        "/x",
    );
}

#[test]
fn unanchored_pattern_does_not_close_the_site() {
    let text = r"location / { PASS } location ~ /\.ht { deny all; }";
    let (folder, output) = import_server(text, &["--accept-opens"]);
    assert!(output.status.success() && lossy(&output.stdout).contains("OPENS"), "{output:?}");
    assert!(admits(&folder, "/page") && admits(&folder, "/a/.htaccess"));
}

#[test]
fn pattern_closes_paths_with_its_literal_prefix() {
    let text = "location / { PASS } location ~ ^/reports/[0-9]+$ { deny all; PASS }";
    let (folder, output) = import_server(text, &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        admits(&folder, "/page")
            && !admits(&folder, "/reports/7")
            && !admits(&folder, "/reports/x")
    );
    let shuts = "CLOSES  /reports/ on every other host: shuts `location /` (nginx.conf:3)";
    assert_eq!(lossy(&output.stdout).lines().next(), Some(shuts));
}

#[test]
fn a_guarded_location_is_closed_unless_opens_is_accepted() {
    let text = "location / { PASS }\nlocation /private/ { auth_basic staff; PASS }";
    let (folder, output) = import_server(text, &[]);
    assert!(output.status.success() && !lossy(&output.stdout).contains("OPENS"), "{output:?}");
    assert!(!admits(&folder, "/private/x") && admits(&folder, "/open"));
    let (folder, output) = import_server(text, &["--accept-opens"]);
    let said = lossy(&output.stdout);
    assert!(output.status.success() && admits(&folder, "/private/x"), "{output:?}");
    assert!(said.contains("nginx.conf:4  OPENS       location /private/"), "{said}");
}

#[test]
fn opening_configuration_is_not_written_unless_accepted() {
    let text = "location / { PASS }\nlocation /admin { deny all; PASS }";
    let refused = import_server(text, &[]);
    assert!(lossy(&refused.1.stdout).contains("nginx.conf:4  OPENS       location /admin"));
    expect_refused(refused, &["nothing was written: 1 line says OPENS", "--accept-opens"]);
    let (folder, output) = import_server(text, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["written"]), (Some(1), &serde_json::json!([])));
    assert!(!folder.path().join("out").exists());
}

#[test]
fn opening_by_two_routes_is_reported_for_both() {
    let inside = "location /a { auth_basic staff; PASS } location /a/b/ { PASS }";
    let (_folder, output) =
        import_server(&format!("location / {{ PASS {inside} }}"), &["--accept-opens", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let guarded = lines.iter().find(|line| line["directive"] == "location /a").unwrap();
    let notes = guarded["notes"].as_array().unwrap().iter().filter(|note| note["word"] == "opens");
    let paths: Vec<_> = notes
        .flat_map(|note| note["attempts"].as_array().unwrap())
        .map(|one| &one["path"])
        .collect();
    for path in ["/a/", "~ ^/a[^/]", "~ ^/a/b[^/]"] {
        assert!(paths.iter().any(|told| *told == path), "{path}: {paths:?}");
    }
}

#[test]
fn location_without_upgrade_fields_is_no_opening() {
    let text = "location / { PASS }\nlocation /api/ { proxy_set_header Host $host; PASS }";
    let (_folder, output) = import_server(text, &[]);
    let said = lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("OPENS"), "{said}");
    assert!(said.contains("nginx.conf:4  UPGRADES    proxy_pass"), "{said}");
}

#[test]
fn nginx_version_decides_its_defaults() {
    let recipe = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $c;";
    let server =
        format!("server {{ listen 80; {recipe} location / {{ proxy_pass http://127.0.0.1:9; }} }}");
    let text = format!("http {{ map $http_upgrade $c {{ default upgrade; '' close; }} {server} }}");
    for (version, upgrades, map) in
        [("1.22.1", true, "needless"), ("nginx/1.29.7", false, "DIFFERS")]
    {
        let folder = folder();
        fs::write(folder.path().join("n.conf"), &text).unwrap();
        let words = ["import", "nginx", "n.conf", "--out", "out", "--nginx", version];
        let said = lossy(&sidegate(&words, folder.path()).stdout);
        assert_eq!(said.contains("UPGRADES"), upgrades, "{said}");
        assert!(said.contains(&format!("{map:10}  map $http_upgrade")), "{said}");
    }
    let (_folder, output) = import_server("location / { PASS }", &["--nginx", "new"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn unsupported_host_opens_nothing_silently() {
    let second = |name: &str, rules: &str| {
        let first = "server_name open.example.com; location / { PASS } }";
        format!(
            "{first}\nserver {{ listen 127.0.0.1:8080; server_name {name}; location / {{ {rules} PASS }}"
        )
    };
    for name in [r"~^admin\.", "admin.*", "*.example.com", "''"] {
        for (rules, code) in [("deny all;", 1), ("", 0)] {
            let (_folder, output) = import_server(&second(name, rules), &[]);
            assert_eq!(output.status.code(), Some(code), "{name} {rules}: {output:?}");
        }
    }
}

#[test]
fn inner_rules_that_replace_outer_ones_are_reported() {
    for (outer, inner) in [
        ("satisfy any; allow 10.0.0.0/8; deny all;", "satisfy all; allow all; auth_basic a;"),
        ("limit_req_dry_run on;", "limit_req_dry_run off; limit_req zone=by_name;"),
    ] {
        let (folder, output) =
            import_server(&format!("{outer} location / {{ {inner} PASS }}"), &[]);
        assert!(output.status.success() && !admits(&folder, "/x"), "{output:?}");
    }
}

/// Returns the route made from a location with these rules, and the report's word for each
/// directive.
fn imported(rules: &str) -> (toml::Table, BTreeMap<String, String>) {
    let folder = folder();
    let zone = "limit_req_zone $remote_addr zone=by_client:1m rate=1r/s;";
    let location = format!("location / {{ {rules} proxy_pass http://127.0.0.1:9000; }}");
    let server = format!("server {{ listen 127.0.0.1:8080; {location} }}");
    let text = format!("http {{ {zone} send_timeout 20s; proxy_read_timeout 5m; {server} }}");
    fs::write(folder.path().join("nginx.conf"), text).unwrap();
    let words = ["import", "nginx", "nginx.conf", "--out", "out", "--json"];
    let output = sidegate(&words, folder.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = report["lines"].as_array().unwrap().iter();
    let words = lines.map(|line| (text(&line["directive"]), text(&line["word"]))).collect();
    let written = fs::read_to_string(folder.path().join("out/sidegate.toml")).unwrap();
    let config: toml::Table = toml::from_str(&written).unwrap();
    let checked = sidegate(&["check", "--config", "out/sidegate.toml"], folder.path());
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    (config["route"][0].as_table().unwrap().clone(), words)
}

#[test]
fn timeouts_of_nginx_become_those_of_the_route() {
    let check = |rules: &str, written: &str, words: &[&str]| {
        let (route, report) = imported(rules);
        let expected: toml::Table = toml::from_str(&format!("timeouts = {{ {written} }}")).unwrap();
        assert_eq!(route["timeouts"], expected["timeouts"], "{rules}");
        let directives = rules.split("; ").map(|rule| rule.trim_end_matches(';'));
        for (directive, word) in directives.zip(words) {
            assert_eq!(report[directive], *word, "{directive} in {rules}");
        }
    };
    // Outer settings apply inside: 5m to read, 20 s to send to clients; else 60 s.
    let outside = "response = '5m', body_stall = '5m', write_stall = '1m'";
    check("", outside, &[]);
    let longer = "response = '24h', body_stall = '24h', write_stall = '1h'";
    check("proxy_read_timeout 1d; proxy_send_timeout 60m;", longer, &["carried", "differs"]);
    let shorter = "dial = '250ms', response = '10s', body_stall = '1m', write_stall = '20s'";
    let given = "proxy_read_timeout 10; proxy_send_timeout 5s; proxy_connect_timeout 250ms;";
    check(given, shorter, &["differs", "differs", "carried"]);
    let both = "response = '1h', body_stall = '1h', write_stall = '1m'";
    check("proxy_read_timeout 1h; client_body_timeout 10s;", both, &["carried", "differs"]);
    check("proxy_read_timeout 0; proxy_connect_timeout 0;", "write_stall = '1m'", &["differs"; 2]);
    let longest = "response = '8784h', body_stall = '8784h', write_stall = '1m'";
    check("proxy_read_timeout 366d;", longest, &["carried"]);
    check("proxy_read_timeout 520w;", longest, &["differs"]);
    let both = "response = '10s', body_stall = '8784h', write_stall = '8784h'";
    let given = "proxy_read_timeout 10; client_body_timeout 53w; send_timeout 9223372036854775;";
    check(given, both, &["differs"; 3]);
    check("proxy_connect_timeout 367d;", &format!("dial = '8784h', {outside}"), &["differs"]);
}

/// The report's line about each directive of a configuration: a server with `server` in its braces,
/// in an `http` with `http` in its own.
fn told(http: &str, server: &str) -> String {
    let more = "location / { proxy_set_header Host $http_host; proxy_pass http://127.0.0.1:9; }";
    let (folder, output) =
        import_text(&format!("http {{\n{http}\nserver {{\nlisten 80;\n{server}\n{more}\n}} }}"));
    assert!(output.status.success() && folder.path().join("out").exists(), "{output:?}");
    lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("nginx.conf:"))
        .fold(String::new(), |out, line| out + line + "\n")
}

#[test]
fn differing_value_is_reported_with_both() {
    for (http, line) in [
        (
            "client_header_timeout 5s;",
            "DIFFERS     client_header_timeout 5s: `timeouts.head` is 10s; nginx had 5s",
        ),
        ("client_header_timeout 10;", "carried     client_header_timeout 10:"),
        (
            "client_header_timeout 0;",
            "DIFFERS     client_header_timeout 0: `timeouts.head` is 10s; nginx gave up at once",
        ),
        (
            "keepalive_timeout 1h30m;",
            "DIFFERS     keepalive_timeout 1h30m: `timeouts.keep_alive` is 75s; nginx had 90m",
        ),
        ("keepalive_timeout 75 60;", "carried     keepalive_timeout 75 60:"),
        ("keepalive_timeout 0;", "nginx closed after each answer"),
        ("keepalive_requests 100;", "DIFFERS     keepalive_requests 100:"),
        ("large_client_header_buffers 4 8k;", "needless    large_client_header_buffers 4 8k:"),
        (
            "large_client_header_buffers 4 32k;",
            "32 KiB: the listener's `max_head`; nginx had 4 buffers of 32768 bytes",
        ),
        ("proxy_buffer_size 8k;", "needless    proxy_buffer_size 8k:"),
        (
            "proxy_buffer_size 128k;",
            "DIFFERS     proxy_buffer_size 128k: the head of an answer may have 64 KiB; nginx had 131072 bytes",
        ),
        (
            "upstream a { server 127.0.0.1:9 max_fails=9; }",
            "DIFFERS     server 127.0.0.1:9 max_fails=9: `max_fails=9` is not carried over",
        ),
        (
            "upstream a { server 127.0.0.1:9 slow_start=1y; }",
            "DIFFERS     server 127.0.0.1:9 slow_start=1y:",
        ),
        (
            "upstream a { server 127.0.0.1:9 max_conns=0; keepalive 9; }",
            "carried     server 127.0.0.1:9 max_conns=0:",
        ),
        ("upstream a { server 127.0.0.1:9; keepalive 9; }", "DIFFERS     keepalive 9:"),
    ] {
        let said = told(http, "");
        assert!(said.contains(line), "{line} in {said}");
    }
    let said = told("", "listen 127.0.0.1:81 backlog=9 reuseport;");
    assert!(
        said.contains("`backlog=9` is not carried over") && !said.contains("`reuseport`"),
        "{said}"
    );
}

#[test]
fn limit_out_of_bounds_is_reported_with_both_values() {
    for (rate, burst, lines) in [
        (
            "1000000r/s",
            "burst=999999",
            ["1000000/s and a burst of 1000000", "carried     limit_req_zone"],
        ),
        (
            "2000000r/s",
            "",
            [
                "1000000/s and a burst of 1",
                "1000000/s in the policies, the most that Sidegate takes; nginx had 2000000r/s",
            ],
        ),
        (
            "5000000000r/m",
            "burst=1000000",
            [
                "nginx had burst=1000000, and Sidegate takes 1000000 at most",
                "nginx had 5000000000r/m",
            ],
        ),
        (
            "10",
            "burst=9223372036854775807",
            ["10/s and a burst of 1000000", "nginx had burst=9223372036854775807"],
        ),
    ] {
        let zone = format!("limit_req_zone $binary_remote_addr zone=a:1m rate={rate};");
        let said = told(&zone, &format!("limit_req zone=a {burst} nodelay;"));
        assert!(lines.iter().all(|line| said.contains(line)), "{lines:?} in {said}");
    }
}

#[test]
fn differing_proxy_header_is_reported() {
    for (header, word) in [
        ("X-Forwarded-For $remote_addr", "needless"),
        ("X-Forwarded-For $proxy_add_x_forwarded_for", "DIFFERS"),
        ("X-Forwarded-Proto $scheme", "needless"),
        ("X-Forwarded-Proto https", "DIFFERS"),
        ("X-Forwarded-Host $http_host", "needless"),
        ("X-Forwarded-Port 443", "DIFFERS"),
        ("X-Forwarded-Port $server_port", "DIFFERS"),
        ("X-Forwarded-Prefix /a", "DIFFERS"),
        ("X-Request-Id $http_x_request_id", "DIFFERS"),
    ] {
        let location = format!(
            "location /a/ {{\nproxy_set_header {header};\nproxy_pass http://127.0.0.1:9; }}"
        );
        let said = told("", &location);
        assert!(
            said.contains(&format!("{word:10}  proxy_set_header {header}")),
            "{word} {header} in {said}"
        );
        assert!(said.contains("nginx sent its own name of the backend"), "{said}");
    }
}

#[test]
fn body_sizes_of_nginx_become_those_of_the_route() {
    let sizes = [
        ("0", "off"),
        ("0m", "off"),
        ("512", "512B"),
        ("10k", "10KiB"),
        ("8M", "8MiB"),
        ("2g", "2GiB"),
    ];
    for (size, written) in sizes {
        let rule = format!("client_max_body_size {size}");
        let (route, report) = imported(&format!("{rule};"));
        let found = (route["max_body"].as_str(), report[&rule].as_str());
        assert_eq!(found, (Some(written), "carried"), "{size}");
    }
    assert!(!imported("").0.contains_key("max_body"), "nginx' default is Sidegate's");
}

#[test]
fn delayed_requests_are_reported_to_differ() {
    for (rule, word) in [
        ("limit_req zone=by_client burst=20 nodelay", "carried"),
        ("limit_req zone=by_client", "carried"),
        ("limit_req zone=by_client burst=20 delay=20", "carried"),
        ("limit_req zone=by_client burst=20", "differs"),
        ("limit_req zone=by_client burst=20 delay=8", "differs"),
        ("limit_req zone=by_client delay=1 burst=2", "differs"),
    ] {
        assert_eq!(imported(&format!("{rule};")).1[rule], word, "{rule}");
    }
}

/// What `explain` says of plain HTTP for `path` under what was imported into `folder`.
fn explained(folder: &TempDir, path: &str) -> String {
    let url = format!("http://ws.example.com{path}");
    let words =
        ["explain", "--config", "out/sidegate.toml", "--client", "203.0.113.9", "--url", &url];
    lossy(&sidegate(&words, folder.path()).stdout)
}

#[test]
fn slash_redirect_is_imported_only_when_nginx_has_it() {
    for (beside, sent) in [
        ("", true),
        ("location = /app { return 301 /app/; }", true),
        ("location /app { return 302 $uri/; }", true),
        ("rewrite ^/app$ /app/ permanent;", true),
        ("location = /app { return 403; }", false),
        ("location = /app { return 404; }", false),
        ("location = /app { return 301 /login; }", false),
        ("location = /app { deny all; PASS }", false),
        ("location = /app { auth_basic staff; PASS }", false),
        ("location = /app { PASS }", false),
        ("location /app { return 403; }", false),
        ("location ^~ /app { deny all; }", false),
        ("location ~ ^/app$ { return 403; } location = /app {}", false),
        ("rewrite ^/app$ /other permanent;", false),
    ] {
        let (folder, output) = import_server(&format!("{beside} location /app/ {{ PASS }}"), &[]);
        assert!(output.status.success(), "{beside}: {output:?}");
        let said = explained(&folder, "/app");
        assert_eq!(said.contains("308 to /app/"), sent, "{beside}: {said}");
        assert!(admits(&folder, "/app/x"), "{beside}");
    }
    let (folder, _) = import_server("location ~ ^/app/ { PASS }", &[]);
    assert!(!explained(&folder, "/app").contains("308"), "a regular expression adds no slash");
}

#[test]
fn nginx_path_is_imported_literally() {
    for (location, written) in [
        ("/a*b/", "/a*b/"),
        ("'/a{b}/'", "/a{b}/"),
        ("'/two words/'", "/two%20words/"),
        ("/\u{e9}/", "/%C3%A9/"),
        ("/a%2fb/", "/a%252fb/"),
        ("'= /a*'", "/a*"),
    ] {
        let location = location.replace("'= ", "= '");
        let (folder, output) = import_server(&format!("location {location} {{ PASS }}"), &[]);
        assert!(output.status.success(), "{location}: {output:?}");
        let text = fs::read_to_string(folder.path().join("out/sidegate.toml")).unwrap();
        let config: toml::Table = toml::from_str(&text).unwrap();
        let routes = config["route"].as_array().unwrap();
        assert!(
            routes.iter().any(|route| route["path"].as_str() == Some(written)),
            "{location}: {text}"
        );
    }
}

#[test]
fn prefix_within_a_segment_opens_nothing() {
    for (location, path) in
        [("/.", "/.htaccess"), ("/..", "/..x"), ("^~ /a/.", "/a/.git"), (r"~ ^/\.", "/.ht")]
    {
        let text = format!("location / {{ PASS }}\nlocation {location} {{ TEXT }}");
        expect_told(&text, &GUARDS, path);
    }
    for (location, word) in
        [("/a//b/", "dropped"), ("/a/../b/", "dropped"), ("= /a/.", "dropped"), ("'/a?'", "CLOSES")]
    {
        let text = format!("location / {{ PASS }}\nlocation {location} {{ deny all; }}");
        let said = lossy(&import_server(&text, &[]).1.stdout);
        assert!(
            said.contains(&format!("nginx.conf:4  {word:10}  location ")),
            "{location}: {said}"
        );
    }
}

#[test]
fn ambiguous_path_is_reported_as_refused() {
    let other = "location / { deny 10.0.0.0/8; PASS }";
    for location in ["/a%2fb/", "'/a;b/'", "/a./", "'/a /'"] {
        let (_folder, output) =
            import_server(&format!("{other}\nlocation {location} {{ PASS }}"), &[]);
        let said = lossy(&output.stdout);
        assert!(
            said.contains("nginx.conf:4  CLOSES")
                && said.contains("some servers read a path of it as"),
            "{said}"
        );
    }
    let (_folder, output) = import_server(&format!("{other}\nlocation /a*/ {{ PASS }}"), &[]);
    assert!(!lossy(&output.stdout).contains("CLOSES"), "{output:?}");
}

#[test]
fn a_slash_that_is_added_over_a_broader_route_differs() {
    for (locations, differs) in [
        ("location / { PASS } location /a/ { PASS }", true),
        ("location / { return 403; } location /a/ { PASS }", false),
        ("location /a/ { PASS }", false),
        ("location / { PASS } location = /a { PASS } location /a/ { PASS }", false),
        ("location / { PASS } location /a { PASS } location /a/ { PASS }", false),
        ("location / { PASS } location /a/ { return 403; }", false),
        ("location / { PASS } location /a/ { auth_basic a; PASS }", true),
        ("location /a/ { auth_basic a; PASS } location /b/ { PASS }", true),
    ] {
        let (_folder, output) = import_server(locations, &[]);
        let text = lossy(&output.stdout);
        let is_it = |line: &str| line.contains("nginx sends plain HTTP for /a to /a/");
        let told = text.lines().any(is_it);
        assert_eq!(told, differs, "{locations}: {text}");
    }
}

//! `check`, `explain` and `lapsing` away from the serving host: `--off-host` and
//! `--root`.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::done;

/// The files that `init` writes, with `more` at the end of sidegate.toml.
async fn repository(more: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    check(&["init", "--backend", "http://127.0.0.1:9"], folder.path(), 0, &[]).await;
    append(&folder.path().join("sidegate.toml"), more);
    folder
}

/// Runs a command that ends with `code`, and says all of `expected` on either output.
async fn check(arguments: &[&str], folder: &Path, code: i32, expected: &[&str]) {
    let output = done(arguments, folder).await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for text in expected {
        assert!(said.contains(text), "{arguments:?}: no {text:?} in {said}");
    }
}

fn append(path: &Path, more: &str) {
    fs::write(path, fs::read_to_string(path).unwrap() + more).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

const OFF_HOST: [&str; 4] = ["check", "--off-host", "--strict", "."];

#[tokio::test]
async fn absent_key_is_a_note_off_host_and_a_hint_else() {
    let folder = repository("").await;
    fs::remove_file(folder.path().join("certs/dev.key")).unwrap();
    let said = ["certs/dev.key does not exist", "`sidegate check --off-host`", "1 error"];
    check(&["check", "."], folder.path(), 1, &said).await;
    let said = [
        "note: key: certs/dev.key is a private key: not read with --off-host",
        ".: fine: 1 route, 1 policy, 1 thing not checked",
    ];
    check(&OFF_HOST, folder.path(), 0, &said).await;
    fs::remove_file(folder.path().join("certs/dev.pem")).unwrap();
    let said = ["note: chain: certs/dev.pem does not exist: not checked with --off-host"];
    check(&OFF_HOST, folder.path(), 0, &said).await;
    let explain = ["explain", "--config", ".", "--client", "127.0.0.1"];
    let explain = [&explain[..], &["--url", "wss://localhost:8443/"]].concat();
    check(&explain, folder.path(), 78, &["certs/dev.pem does not exist"]).await;
    check(&[&explain[..], &["--off-host"]].concat(), folder.path(), 0, &["ALLOW"]).await;
    let lapsing = ["lapsing", "--config", ".", "--off-host"];
    check(&lapsing, folder.path(), 0, &["no entry lapses"]).await;
}

#[tokio::test]
async fn chain_that_is_left_out_may_cover_a_strict_name() {
    let folder = repository("").await;
    let config = folder.path().join("sidegate.toml");
    replace(&config, "#strict_sni ", "strict_sni = true # ");
    let explain = ["explain", "--config", ".", "--off-host", "--client", "127.0.0.1"];
    let explain = [&explain[..], &["--url", "wss://ws.example.com/"]].concat();
    check(&explain, folder.path(), 1, &["REFUSE", "no certificate covers ws.example.com"]).await;
    fs::remove_file(folder.path().join("certs/dev.pem")).unwrap();
    let output = done(&explain, folder.path()).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("ALLOW") && !said.contains("covers"), "{said}");
}

#[tokio::test]
async fn key_is_not_read_and_the_chain_is_off_host() {
    let folder = repository("").await;
    let at = |name: &str| folder.path().join(name);
    fs::write(at("certs/dev.key"), "another secret").unwrap();
    check(&["check", "."], folder.path(), 1, &["dev.key"]).await;
    check(&OFF_HOST, folder.path(), 0, &["fine"]).await;
    let second = "\n[[certificate]]\nchain = 'certs/dev.pem'\nkey = 'certs/other.key'\n";
    append(&at("sidegate.toml"), second);
    // The type of each key is known without it.
    check(&OFF_HOST, folder.path(), 1, &["is never served", "type of key (ECDSA P-256)"]).await;
    fs::write(at("certs/dev.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    check(&OFF_HOST, folder.path(), 1, &["certs/dev.pem is not valid PEM"]).await;
    fs::remove_file(at("certs/dev.pem")).unwrap();
    fs::create_dir(at("certs/dev.pem")).unwrap();
    check(&OFF_HOST, folder.path(), 1, &["is a directory, not a file"]).await;
}

#[tokio::test]
async fn users_of_the_serving_host_are_distinct_off_host() {
    let folder = repository("").await;
    let policy = folder.path().join("policies/main.toml");
    replace(&policy, "[\"office\"]", "['office', 'unix:uid=app-of-prod']");
    let test = |user: &str, expect: &str| {
        let client = format!("client = 'unix:uid={user},gid=5'\nurl = 'wss://localhost:8443/'");
        format!("\n[[test]]\nname = '{user}'\n{client}\nexpect = '{expect}'\n")
    };
    append(&policy, &(test("app-of-prod", "allow") + &test("app-of-test", "refuse:network")));
    check(&["check", "."], folder.path(), 1, &["this host has no user `app-of-prod`"]).await;
    let said = [
        "note: this host has no user `app-of-prod`: not checked with --off-host",
        "note: this host has no user `app-of-test`: not checked with --off-host",
        "fine",
    ];
    check(&["check", "--off-host", "."], folder.path(), 0, &said).await;
    check(&["check", "--off-host", "policies"], folder.path(), 0, &said).await;
    replace(&policy, "'refuse:network'", "'allow'");
    let said = ["test \"app-of-test\" failed: expected allow"];
    check(&["check", "--off-host", "."], folder.path(), 1, &said).await;
    replace(&policy, "uid=app-of-prod'", "uid=app of prod'");
    check(&["check", "--off-host", "."], folder.path(), 1, &["app of prod"]).await;
}

#[tokio::test]
async fn other_files_of_the_serving_host_may_be_absent() {
    let more = r#"
[[listener]]
name = "mtls"
listen = "127.0.0.1:8444"
client_certificates = { ca = "/none/ca.pem", crl = ["/none/crl"], revoked_serials = "/none/s" }

[[certificate]]
chain = "/none/b.pem"
key = "/none/b.key"

[[route]]
name = "far"
host = "b.example"
path = "/"
backend = "https://10.0.0.1:8443"
backend_tls = { ca = "/none/backend.pem", chain = "/none/me.pem", key = "/none/me.key" }
policy = "main"

[crowdsec]
url = "https://crowdsec.example"
ca = "/none/lapi.pem"
key = { file = "/none/crowdsec.key" }
"#;
    let folder = repository(more).await;
    let output = done(&["check", "--off-host", "--format", "json", "."], folder.path()).await;
    assert_eq!(output.status.code(), Some(0));
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let notes = all.iter().filter(|one| one["level"] == "note");
    let notes: Vec<_> = notes.map(|one| one["message"].as_str().unwrap()).collect();
    for name in ["b.pem", "ca.pem", "crl", "s", "backend.pem", "me.pem", "lapi.pem", "crowdsec.key"]
    {
        let name = format!("/none/{name} ");
        assert_eq!(
            notes.iter().filter(|note| note.contains(&name)).count(),
            1,
            "{name}: {notes:?}"
        );
    }
    assert!(!all.iter().any(|one| one["message"].as_str().unwrap().contains("covers it")));
    let output = done(&["check", "--off-host", "--format", "github", "."], folder.path()).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("::notice file=sidegate.toml,line="), "{said}");
    check(&["check", "."], folder.path(), 1, &["/none/ca.pem does not exist"]).await;
}

#[tokio::test]
async fn absolute_paths_are_below_the_root() {
    let folder = repository("").await;
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("var/lib/feeds")).unwrap();
    fs::create_dir_all(at("etc")).unwrap();
    fs::rename(folder.path().join("certs"), at("etc/certs")).unwrap();
    let list = folder.path().join("policies/lists/office.cidr");
    fs::rename(list, at("var/lib/feeds/office.cidr")).unwrap();
    let config = folder.path().join("sidegate.toml");
    replace(&config, "\"certs/", "\"/etc/certs/");
    replace(&config, "#lists_from = []", "lists_from = ['/var/lib/feeds']");
    replace(&folder.path().join("policies/main.toml"), "\"lists/", "\"/var/lib/feeds/");
    check(&["check", "."], folder.path(), 1, &["/var/lib/feeds/office.cidr does not exist"]).await;
    let root = root.path().to_str().unwrap();
    let rooted = ["check", "--strict", "--root", root];
    check(&[&rooted[..], &["."]].concat(), folder.path(), 0, &["fine"]).await;
    fs::create_dir(at("etc/sidegate")).unwrap();
    fs::copy(&config, at("etc/sidegate/sidegate.toml")).unwrap();
    fs::rename(folder.path().join("policies"), at("etc/sidegate/policies")).unwrap();
    check(&rooted, folder.path(), 0, &["etc/sidegate/sidegate.toml: fine"]).await;
    let lapsing = ["lapsing", "--root", root];
    check(&lapsing, folder.path(), 0, &["no entry lapses"]).await;
    fs::rename(at("etc/sidegate/policies"), folder.path().join("policies")).unwrap();
    append(&at("var/lib/feeds/office.cidr"), "10.0.0.1/8\n");
    let said = ["var/lib/feeds/office.cidr:", "10.0.0.0/8"];
    check(&[&rooted[..], &["policies"]].concat(), folder.path(), 1, &said).await;
}

#[tokio::test]
async fn only_commands_that_read_files_take_the_options() {
    let folder = repository("").await;
    for verb in ["run", "reload", "diff", "apply", "promote"] {
        check(&[verb, "--off-host"], folder.path(), 2, &["--off-host"]).await;
    }
    let live = ["lapsing", "--live", "--off-host"];
    check(&live, folder.path(), 2, &["cannot be used with"]).await;
}

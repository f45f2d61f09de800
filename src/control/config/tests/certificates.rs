//! What can be wrong with PEM files.

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

use super::{SIDEGATE, check, load};

/// A chain of one and its key, for `names`, valid in 2026.
fn pair(names: &[&str]) -> (String, String) {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    made(CertificateParams::new(names).unwrap(), 2026, 2027)
}

fn made(mut params: CertificateParams, from: i32, to: i32) -> (String, String) {
    params.distinguished_name.push(DnType::CommonName, "ws.example.com");
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// [`SIDEGATE`] with TLS, for `host`, and `certificate` in the place of both files' names.
fn sidegate(host: &str) -> String {
    let tls = SIDEGATE.replace("tls = false\n", "").replace("\"*\"", &format!("\"{host}\""));
    format!("{tls}\n[[certificate]]\nchain = \"certs/ws.pem\"\nkey = \"certs/ws.key\"\n")
}

/// That `chain` and `key` say `expected`.
#[track_caller]
fn certificate(chain: &str, key: &str, expected: &str) {
    check(&[("sidegate.toml", &sidegate("*")), ("certs/ws.pem", chain), ("certs/ws.key", key)], expected);
}

#[test]
fn a_chain_and_its_key_load_with_the_names_of_the_sans() {
    let (chain, key) = pair(&["WS.example.com", "*.example.org", "192.0.2.1", "2001:db8::1"]);
    let (loaded, found) = load(&[("sidegate.toml", &sidegate("*")), ("certs/ws.pem", &chain), ("certs/ws.key", &key)]);
    assert_eq!(found, "");
    let loaded = loaded.unwrap();
    let certificate = &loaded.settings.certificates[0];
    let names: Vec<_> = certificate.names.iter().map(|name| &**name).collect();
    assert_eq!(names, ["ws.example.com", "*.example.org", "192.0.2.1", "2001:db8::1"]);
    assert_eq!(&*certificate.label, "certs/ws.pem");
    assert_eq!(certificate.not_after.to_string(), "2027-01-01T00:00:00Z");
}

#[test]
fn one_file_may_hold_both() {
    let (chain, key) = pair(&["ws.example.com"]);
    let text = sidegate("*").replace("ws.pem", "both.key").replace("ws.key", "both.key");
    check(&[("sidegate.toml", &text), ("certs/both.key", &format!("{key}{chain}"))], "");
}

#[test]
fn a_certificate_that_never_expires_loads() {
    let (chain, key) = made(CertificateParams::new(vec!["ws.example.com".to_owned()]).unwrap(), 2026, 9999);
    certificate(&chain, &key, "");
}

#[test]
fn a_key_of_another_certificate_names_both_files() {
    let ((chain, _), (_, key)) = (pair(&["ws.example.com"]), pair(&["ws.example.com"]));
    certificate(
        &chain,
        &key,
        r#"
error: key: certs/ws.key is not the key of the first certificate in certs/ws.pem
  --> sidegate.toml:16:7
   |
16 | key = "certs/ws.key"
   |       ^^^^^^^^^^^^^^
   |
   = help: replace both files together; the server's own certificate comes first in a chain
"#,
    );
}

#[test]
fn files_that_hold_something_else_are_told_apart() {
    let (chain, key) = pair(&["ws.example.com"]);
    certificate(
        &key,
        &chain,
        r#"
error: chain: certs/ws.pem holds no certificate
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: sections "-----BEGIN CERTIFICATE-----", the server's own first

error: key: certs/ws.key holds no private key
  --> sidegate.toml:16:7
   |
16 | key = "certs/ws.key"
   |       ^^^^^^^^^^^^^^
   |
   = help: a section "-----BEGIN PRIVATE KEY-----", or of an RSA or EC PRIVATE KEY
"#,
    );
    certificate(
        "hello\n",
        "hello\n",
        r#"
error: chain: certs/ws.pem holds no certificate
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: sections "-----BEGIN CERTIFICATE-----", the server's own first

error: key: certs/ws.key holds no private key
  --> sidegate.toml:16:7
   |
16 | key = "certs/ws.key"
   |       ^^^^^^^^^^^^^^
   |
   = help: a section "-----BEGIN PRIVATE KEY-----", or of an RSA or EC PRIVATE KEY
"#,
    );
    certificate(
        &chain[..chain.len() / 2],
        &key,
        r#"
error: chain: certs/ws.pem is not valid PEM: the end of a section is missing
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: was it cut short?
"#,
    );
    certificate(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        &key,
        r#"
error: chain: certificate 1 in certs/ws.pem cannot be read
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: was it cut short?
"#,
    );
    certificate(
        &chain,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        r#"
error: key: certs/ws.key holds a key that TLS cannot use: failed to parse private key as RSA, ECDSA, or EdDSA
  --> sidegate.toml:16:7
   |
16 | key = "certs/ws.key"
   |       ^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn missing_and_empty_files_are_errors_at_their_keys() {
    check(
        &[("sidegate.toml", &sidegate("*")), ("certs/ws.pem", "")],
        r#"
error: chain: certs/ws.pem is empty (zero bytes)
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: a file is never left empty on purpose here: was it cut short?

error: key: certs/ws.key does not exist
  --> sidegate.toml:16:7
   |
16 | key = "certs/ws.key"
   |       ^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn a_passphrase_is_told_how_to_remove() {
    let (chain, _) = pair(&["ws.example.com"]);
    let new = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let expected = r#"
error: key: certs/ws.key is protected by a passphrase
  --> sidegate.toml:16:7
   |
16 | key = "certs/ws.key"
   |       ^^^^^^^^^^^^^^
   |
   = help: remove the passphrase: openssl pkey -in certs/ws.key -out NEW.key
"#;
    certificate(&chain, new, expected);
    certificate(&chain, old, expected);
}

#[test]
fn a_certificate_without_names_is_an_error() {
    let (chain, key) = pair(&[]);
    certificate(
        &chain,
        &key,
        r#"
error: chain: the certificate in certs/ws.pem has no subject alternative names
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: have it issued with its DNS names: browsers ignore the common name
"#,
    );
}

#[test]
fn a_certificate_out_of_its_time_is_a_warning() {
    let params = || CertificateParams::new(vec!["ws.example.com".to_owned()]).unwrap();
    let (chain, key) = made(params(), 2025, 2026);
    certificate(
        &chain,
        &key,
        r#"
warning: chain: the certificate expired at 2026-01-01T00:00:00Z
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: renew it; until then it is served
"#,
    );
    let (chain, key) = made(params(), 2027, 2028);
    certificate(
        &chain,
        &key,
        r#"
warning: chain: the certificate is not valid before 2027-01-01T00:00:00Z
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
"#,
    );
}

// C-RLD-12
#[test]
fn a_key_that_others_can_read_is_a_warning() {
    let (chain, key) = pair(&["ws.example.com"]);
    let text = sidegate("*").replace("ws.key", "ws-key.pem");
    check(
        &[("sidegate.toml", &text), ("certs/ws.pem", &chain), ("certs/ws-key.pem", &key)],
        r#"
warning: key: others can read the private key
  --> sidegate.toml:16:7
   |
16 | key = "certs/ws-key.pem"
   |       ^^^^^^^^^^^^^^^^^^
   |
   = help: chmod o-rwx certs/ws-key.pem, and check who has seen it
"#,
    );
}

#[test]
fn a_host_that_no_certificate_covers_is_a_warning() {
    let (chain, key) = pair(&["ws.example.com", "*.example.org", "2001:db8::1"]);
    let covers = |host: &str, expected: &str| {
        check(&[("sidegate.toml", &sidegate(host)), ("certs/ws.pem", &chain), ("certs/ws.key", &key)], expected);
    };
    for host in ["ws.example.com", "a.example.org", "*.example.org", "[2001:db8::1]", "*"] {
        covers(host, "");
    }
    covers(
        "a.b.example.org",
        r#"
warning: host: no certificate covers it: browsers will refuse the default one
 --> sidegate.toml:9:8
  |
9 | host = "a.b.example.org"
  |        ^^^^^^^^^^^^^^^^^
"#,
    );
    covers(
        "*.example.com",
        r#"
warning: host: no certificate covers it: browsers will refuse the default one
 --> sidegate.toml:9:8
  |
9 | host = "*.example.com"
  |        ^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn a_broken_certificate_does_not_hide_the_next() {
    let (chain, key) = pair(&["ws.example.com"]);
    let text = format!("{}[[certificate]]\nchain = \"certs/b.pem\"\nkey = 7\n", sidegate("ws.example.com"));
    check(
        &[("sidegate.toml", &text), ("certs/ws.pem", &chain[..40]), ("certs/ws.key", &key)],
        r#"
error: chain: certs/ws.pem is not valid PEM: the end of a section is missing
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: was it cut short?

error: chain: certs/b.pem does not exist
  --> sidegate.toml:18:9
   |
18 | chain = "certs/b.pem"
   |         ^^^^^^^^^^^^^

error: key: expected a string, found an integer
  --> sidegate.toml:19:7
   |
19 | key = 7
   |       ^
"#,
    );
}

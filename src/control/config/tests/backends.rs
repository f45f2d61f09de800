//! Backends over TLS: valid values of `backend_tls`, and errors in it.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;

use super::{SIDEGATE, check, load};

/// [`SIDEGATE`] with a backend over TLS and this `backend_tls`.
fn over_tls(words: &str) -> String {
    SIDEGATE.replace(
        "\"http://127.0.0.1:8080\"",
        &format!("\"https://127.0.0.1:8443\"\nbackend_tls = {words}"),
    )
}

/// A certificate without any name, and its key.
fn nameless() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::default().self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Checks that [`over_tls`] reports `expected`, with all files that it may name present and valid.
#[track_caller]
fn told(words: &str, expected: &str) {
    let (chain, key) = nameless();
    let files =
        [("certs/ca.pem", &chain), ("certs/client.pem", &chain), ("certs/client.key", &key)];
    let files = files.map(|(name, text)| (name, text.as_str()));
    check(&[&[("sidegate.toml", over_tls(words).as_str())][..], &files].concat(), expected);
}

#[test]
fn backend_tls_with_all_keys_loads() {
    let (chain, key) = nameless();
    let text = over_tls(
        "{ ca = \"certs/ca.pem\", name = \"app.internal\", chain = \"certs/client.pem\", key = \"certs/client.key\" }",
    );
    let (loaded, found) = load(&[
        ("sidegate.toml", &text),
        ("certs/ca.pem", &chain),
        ("certs/client.pem", &chain),
        ("certs/client.key", &key),
    ]);
    assert_eq!(found, "");
    let route = &loaded.unwrap().settings.routes[0];
    let tls = route.backend_tls.as_ref().unwrap();
    assert_eq!(route.backends[0].to_string(), "https://127.0.0.1:8443");
    assert_eq!((tls.ca.as_deref(), tls.roots.len()), (Some("certs/ca.pem"), 1));
    assert_eq!(tls.name, Some(ServerName::try_from("app.internal").unwrap()));
    assert_eq!(tls.identity.as_ref().map(|identity| &*identity.key_file), Some("certs/client.key"));
}

#[test]
fn client_certificate_needs_chain_and_key() {
    told(
        "{ ca = \"certs/ca.pem\", chain = \"certs/client.pem\" }",
        r#"
error: key: missing from `backend_tls`
  --> sidegate.toml:13:15
   |
13 | backend_tls = { ca = "certs/ca.pem", chain = "certs/client.pem" }
   |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: key = "certs/client.key"
"#,
    );
    told(
        "{ ca = \"certs/ca.pem\", key = \"certs/client.key\" }",
        r#"
error: key: a key without its chain
  --> sidegate.toml:13:44
   |
13 | backend_tls = { ca = "certs/ca.pem", key = "certs/client.key" }
   |                                            ^^^^^^^^^^^^^^^^^^
   |
   = help: chain = "certs/client.pem"
"#,
    );
}

#[test]
fn invalid_backend_name_and_authority_are_errors() {
    told(
        "{ ca = \"certs/client.key\", name = \"app internal\" }",
        r#"
error: ca: certs/client.key holds no certificate
  --> sidegate.toml:13:22
   |
13 | backend_tls = { ca = "certs/client.key", name = "app internal" }
   |                      ^^^^^^^^^^^^^^^^^^
   |
   = help: sections "-----BEGIN CERTIFICATE-----", of the CAs that sign the backends' certificates

error: name: "app internal" is not a name that a certificate can have
  --> sidegate.toml:13:49
   |
13 | backend_tls = { ca = "certs/client.key", name = "app internal" }
   |                                                 ^^^^^^^^^^^^^^
   |
   = help: like "app.internal"
"#,
    );
}

#[test]
fn backend_tls_without_a_tls_backend_is_a_warning() {
    let (chain, _) = nameless();
    let text = over_tls("{ ca = \"certs/ca.pem\" }").replace("https://", "http://");
    check(
        &[("sidegate.toml", &text), ("certs/ca.pem", &chain)],
        r#"
warning: backend_tls: no backend of this route is https://, so it does nothing
  --> sidegate.toml:13:15
   |
13 | backend_tls = { ca = "certs/ca.pem" }
   |               ^^^^^^^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn authorities_behind_byte_order_marks_are_all_read() {
    let (one, other) = (nameless().0, nameless().0);
    let joined = format!("\u{feff}{one}\u{feff}{other}");
    let text = over_tls("{ ca = \"certs/ca.pem\" }");
    let (loaded, found) = load(&[("sidegate.toml", &text), ("certs/ca.pem", &joined)]);
    assert_eq!(found, "");
    assert_eq!(loaded.unwrap().settings.routes[0].backend_tls.as_ref().unwrap().roots.len(), 2);
}

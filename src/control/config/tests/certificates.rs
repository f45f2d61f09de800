//! Errors in PEM files.

use data_encoding::BASE64;
use rcgen::{
    CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, SanType, SignatureAlgorithm, date_time_ymd,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{SIDEGATE, check, load};

/// A self-signed certificate for `names`, valid in 2026, and its key.
fn pair(names: &[&str]) -> (String, String) {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    made(CertificateParams::new(names).unwrap(), 2026, 2027)
}

fn made(params: CertificateParams, from: i32, to: i32) -> (String, String) {
    made_for(params, "ws.example.com", (from, to))
}

fn made_for(
    mut params: CertificateParams,
    common: &str,
    (from, to): (i32, i32),
) -> (String, String) {
    params.distinguished_name.push(DnType::CommonName, common);
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// [`SIDEGATE`] with TLS, for `host`, and the certificate in certs/ws.pem and certs/ws.key.
fn sidegate(host: &str) -> String {
    let tls = SIDEGATE.replace("tls = false\n", "").replace("\"*\"", &format!("\"{host}\""));
    format!("{tls}\n[[certificate]]\nchain = \"certs/ws.pem\"\nkey = \"certs/ws.key\"\n")
}

/// Checks that `chain` and `key` report `expected`.
#[track_caller]
fn certificate(chain: &str, key: &str, expected: &str) {
    check(
        &[("sidegate.toml", &sidegate("*")), ("certs/ws.pem", chain), ("certs/ws.key", key)],
        expected,
    );
}

#[test]
fn a_chain_and_its_key_load_with_the_names_of_the_sans() {
    let (chain, key) = pair(&["WS.example.com", "*.example.org", "192.0.2.1", "2001:db8::1"]);
    let (loaded, found) = load(&[
        ("sidegate.toml", &sidegate("*")),
        ("certs/ws.pem", &chain),
        ("certs/ws.key", &key),
    ]);
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
    let (chain, key) =
        made(CertificateParams::new(vec!["ws.example.com".to_owned()]).unwrap(), 2026, 9999);
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
fn files_with_other_contents_are_distinguished() {
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
fn encrypted_key_names_the_command_to_decrypt_it() {
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
fn a_certificate_without_sans_is_a_warning() {
    let (chain, key) = pair(&[]);
    let text = sidegate("*");
    let files = [("sidegate.toml", &*text), ("certs/ws.pem", &chain), ("certs/ws.key", &key)];
    let (loaded, found) = load(&files);
    let expected = r#"
warning: chain: the certificate in certs/ws.pem has no host among its subject alternative names, only the common name `ws.example.com`: browsers and most clients refuse it
  --> sidegate.toml:15:9
   |
15 | chain = "certs/ws.pem"
   |         ^^^^^^^^^^^^^^
   |
   = help: have it issued with its DNS names as subject alternative names
"#;
    assert_eq!(found, expected.trim_matches('\n'));
    assert_eq!(*loaded.unwrap().settings.certificates[0].names, ["ws.example.com".into()]);
}

/// The first line of the findings about a certificate with these SANs and this common name, and its
/// names.
fn said_of(sans: &[SanType], common: &str) -> (String, Vec<String>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = sans.to_vec();
    let (chain, key) = made_for(params, common, (2026, 2027));
    let text = sidegate("*");
    let (loaded, found) =
        load(&[("sidegate.toml", &text), ("certs/ws.pem", &chain), ("certs/ws.key", &key)]);
    let names =
        loaded.unwrap().settings.certificates[0].names.iter().map(ToString::to_string).collect();
    (found.lines().next().unwrap_or_default().to_owned(), names)
}

#[test]
fn a_certificate_serves_its_sans_or_its_common_name() {
    let mail = SanType::Rfc822Name("ops@example.com".try_into().unwrap());
    let address = SanType::IpAddress("192.0.2.1".parse().unwrap());
    let only_common = |name: &str| {
        format!(
            "warning: chain: the certificate in certs/ws.pem has no host among its subject alternative names, only the common name \
             `{name}`: browsers and most clients refuse it"
        )
    };
    let nameless = "warning: chain: the certificate in certs/ws.pem names no host: browsers and most clients refuse it";
    for (sans, common, said, names) in [
        (&[][..], "*.Example.org", only_common("*.example.org"), &["*.example.org"][..]),
        (&[], "192.0.2.7", only_common("192.0.2.7"), &["192.0.2.7"]),
        (&[], "Acme Gateway", nameless.to_owned(), &[]),
        (&[], "*", nameless.to_owned(), &[]),
        (std::slice::from_ref(&mail), "a.example", only_common("a.example"), &["a.example"]),
        (std::slice::from_ref(&address), "a.example", String::new(), &["192.0.2.1"]),
        (&[mail.clone(), address.clone()], "a.example", String::new(), &["192.0.2.1"]),
    ] {
        assert_eq!(
            said_of(sans, common),
            (said, names.iter().map(ToString::to_string).collect()),
            "{common}"
        );
    }
}

/// The certificate in `pem` as old tools would make it: version 1, without extensions. Its
/// signature is wrong, but is never checked.
fn of_version_1(pem: &str) -> String {
    let der = rustls_pemfile::certs(&mut pem.as_bytes()).next().unwrap().unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let offset = |part: &[u8]| part.as_ptr().addr() - der.as_ptr().addr();
    let (tbs, key) = (certificate.tbs_certificate.as_ref(), certificate.public_key().raw);
    // The bytes between the version (five bytes behind the header) and the extensions.
    let header = if tbs[1] < 0x80 { 2 } else { 2 + usize::from(tbs[1] & 0x7f) };
    let kept = &der[offset(tbs) + header + 5..offset(key) + key.len()];
    let rest = &der[offset(tbs) + tbs.len()..];
    let sequence = |content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[0x30, 0x82], &length[..], content].concat()
    };
    let whole = sequence(&[&sequence(kept)[..], rest].concat());
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(&whole))
}

#[test]
fn a_certificate_of_version_1_is_matched_with_its_key() {
    let (chain, key) = pair(&[]);
    let (chain, text) = (of_version_1(&chain), sidegate("*"));
    let found = |key: &str| {
        load(&[("sidegate.toml", &text), ("certs/ws.pem", &chain), ("certs/ws.key", key)]).1
    };
    assert!(
        found(&key).starts_with("warning: chain: the certificate in certs/ws.pem has no host"),
        "{}",
        found(&key)
    );
    let other = found(&pair(&["ws.example.com"]).1);
    assert!(
        other.starts_with("error: key: certs/ws.key is not the key of the first certificate"),
        "{other}"
    );
}

#[test]
fn byte_order_marks_in_pem_files_are_passed_over() {
    let (chain, key) = pair(&["ws.example.com"]);
    let (other, _) = pair(&["other.example"]);
    // Joined from two files of Windows editors.
    let text = format!("\u{feff}{chain}\u{feff}{other}");
    let config = sidegate("*");
    let marked = format!("\u{feff}{key}");
    let (loaded, found) =
        load(&[("sidegate.toml", &config), ("certs/ws.pem", &text), ("certs/ws.key", &marked)]);
    assert_eq!(found, "");
    assert_eq!(loaded.unwrap().settings.certificates[0].key.cert.len(), 2);
}

#[test]
fn a_certificate_in_another_encoding_is_named() {
    let (chain, key) = pair(&["ws.example.com"]);
    let said = |chain: &[u8]| {
        let folder = super::write_all(&[("sidegate.toml", &sidegate("*")), ("certs/ws.key", &key)]);
        std::fs::write(folder.path().join("certs/ws.pem"), chain).unwrap();
        let config = folder.path().join("sidegate.toml");
        let found = super::load_with_time(
            &mut super::Files::for_person(),
            &config,
            super::LoadOptions::default(),
            super::now(),
        );
        found.map(drop).unwrap_err()[0].to_string().lines().next().unwrap().to_owned()
    };
    let wide: Vec<u8> =
        format!("\u{feff}{chain}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(said(&wide), "error: chain: certs/ws.pem is in UTF-16");
    let der = rustls_pemfile::certs(&mut chain.as_bytes()).next().unwrap().unwrap();
    assert_eq!(
        said(&der),
        "error: chain: certs/ws.pem holds binary data (DER or PKCS #12), not PEM"
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
        check(
            &[("sidegate.toml", &sidegate(host)), ("certs/ws.pem", &chain), ("certs/ws.key", &key)],
            expected,
        );
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
    let text = format!(
        "{}[[certificate]]\nchain = \"certs/b.pem\"\nkey = 7\n",
        sidegate("ws.example.com")
    );
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

/// Reports of certificates 0, 1, … with these names and types of keys.
fn reports(all: &[(&[&str], Option<&'static SignatureAlgorithm>)]) -> String {
    let mut files = Vec::new();
    let mut text = SIDEGATE.replace("tls = false\n", "");
    for (index, (names, algorithm)) in all.iter().enumerate() {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(2100, 1, 1);
        let key = algorithm.map_or_else(KeyPair::generate, KeyPair::generate_for).unwrap();
        files.push((format!("certs/{index}.pem"), params.self_signed(&key).unwrap().pem()));
        files.push((format!("certs/{index}.key"), key.serialize_pem()));
        text += &format!(
            "\n[[certificate]]\nchain = \"certs/{index}.pem\"\nkey = \"certs/{index}.key\"\n"
        );
    }
    files.push(("sidegate.toml".to_owned(), text));
    let files: Vec<_> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    load(&files).1
}

#[test]
fn certificates_of_two_key_types_share_a_name() {
    let names: &[&str] = &["ws.example.com", "*.example.com"];
    let rsa = Some(&PKCS_RSA_SHA256);
    assert_eq!(reports(&[(names, None), (names, rsa)]), "");
    assert_eq!(reports(&[(names, rsa), (&["ws.example.com"], None), (&["x.example"], rsa)]), "");
    // Some of the names of another.
    assert_eq!(reports(&[(&["a.example"], None), (&["a.example", "b.example"], None)]), "");
    assert_eq!(reports(&[(&["*.b.example"], None), (&["x.b.example"], None)]), "");
}

#[test]
fn certificate_that_is_never_served_is_an_error() {
    let (a, b): (&[&str], &[&str]) = (&["a.example"], &["b.example"]);
    assert_eq!(
        reports(&[(a, None), (b, None), (a, None)]),
        r#"
error: chain: certs/2.pem is never served: certs/0.pem has its names and type of key (ECDSA P-256)
  --> sidegate.toml:23:9
   |
23 | chain = "certs/2.pem"
   |         ^^^^^^^^^^^^^
   |
  ::: sidegate.toml:15:9
   |
15 | chain = "certs/0.pem"
   |         ------------- served instead
   |
   = help: remove one of them; several for one name need keys of several types, as ECDSA and RSA
"#
        .trim()
    );
    let found = reports(&[(a, None), (b, None), (&["b.example", "a.example"], None)]);
    let earlier = "certs/0.pem and certs/1.pem have its names and type of key (ECDSA P-256)";
    assert!(found.contains(&format!("certs/2.pem is never served: {earlier}")), "{found}");
    let rsa = Some(&PKCS_RSA_SHA256);
    let found = reports(&[(a, None), (a, rsa), (a, rsa)]);
    let earlier = "certs/1.pem has its names and type of key (RSA)";
    assert!(found.contains(&format!("certs/2.pem is never served: {earlier}")), "{found}");
}

#[test]
fn certificate_without_a_server_name_has_to_be_the_default() {
    let (named, address): (&[&str], &[&str]) = (&["a.example"], &["192.0.2.1"]);
    assert_eq!(reports(&[(address, None), (named, None)]), "");
    let found = reports(&[(named, None), (address, None)]);
    assert_eq!(
        found,
        r#"
error: chain: certs/1.pem is never served: it has no DNS name, and certs/0.pem is the default
  --> sidegate.toml:19:9
   |
19 | chain = "certs/1.pem"
   |         ^^^^^^^^^^^^^
   |
   = help: put it first, which makes it the default, or remove it
"#
        .trim()
    );
}

#[test]
fn client_certificates_need_authorities_and_tls() {
    let (chain, key) = pair(&["ws.example.com"]);
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let asking = |text: String, keys: &str, expected: &str| {
        let text = text
            .replace("[[listener]]\n", &format!("[[listener]]\nclient_certificates = {keys}\n"));
        let files = [("certs/ws.pem", &*chain), ("certs/ws.key", &key), ("certs/ca.pem", &ca)];
        check(&[&[("sidegate.toml", &*text)][..], &files].concat(), expected);
    };
    asking(
        sidegate("ws.example.com"),
        "{ mode = \"on\", pinned = true }",
        r#"
error: ca: missing from `client_certificates`
 --> sidegate.toml:4:23
  |
4 | client_certificates = { mode = "on", pinned = true }
  |                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: ca = "certs/clients.pem", the authorities of clients

error: mode: expected "required" or "optional", found "on"
 --> sidegate.toml:4:32
  |
4 | client_certificates = { mode = "on", pinned = true }
  |                                ^^^^

error: unknown key `pinned` in `client_certificates`
 --> sidegate.toml:4:38
  |
4 | client_certificates = { mode = "on", pinned = true }
  |                                      ^^^^^^
  |
  = help: remove it; what may be there: `ca`, `crl`, `mode`, `on_expired`, `revoked_serials`
"#,
    );
    asking(
        SIDEGATE.to_owned(),
        "{ ca = \"certs/ca.pem\" }",
        r#"
error: client_certificates: only a listener with TLS can ask for certificates
 --> sidegate.toml:4:23
  |
4 | client_certificates = { ca = "certs/ca.pem" }
  |                       ^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: tls = true
"#,
    );
}

#[test]
fn certificate_rules_that_match_nothing_are_reported() {
    let said = |rule: &str| {
        let policy = format!("{}client.certificate = {{ {rule} }}\n", super::POLICY);
        super::load(&[("policies/chat.toml", &policy)]).1
    };
    for pattern in ["cn:x", "CN:x", "DNS:client example", "SHA256:00", "URI:t", "ou:x"] {
        let found = said(&format!("allow = [\"{pattern}\"]"));
        let start = format!("error: allow: \"{pattern}\" is no name of a certificate: ");
        assert!(found.starts_with(&start), "{pattern}: {found}");
    }
    for (pattern, is_odd) in [
        ("spiffe://t/../x", true),
        ("spiffe://t/./x", true),
        ("spiffe://t//x", true),
        ("spiffe://t/x/", true),
        ("spiffe://t/x", false),
        ("spiffe://t", false),
        ("urn:a:..:b", false),
        ("https://t/x?y=1", false),
    ] {
        for key in ["allow", "deny"] {
            let found = said(&format!("{key} = [\"{pattern}\"]"));
            let warning = format!("warning: {key}: \"{pattern}\" has an empty or a dot segment");
            assert_eq!(found.starts_with(&warning), is_odd, "{pattern}: {found}");
            assert_eq!(found.is_empty(), !is_odd, "{pattern}: {found}");
        }
    }
    let key = format!("sha256:{}", "0f".repeat(32));
    for (allow, deny, is_denied) in [
        ("spiffe://t/x", "spiffe://t/x", true),
        ("spiffe://T/x", "SPIFFE://t/x", true),
        ("spiffe://t/x", "spiffe://t/*", true),
        ("spiffe://t/a/b", "spiffe://t/**", true),
        ("dns:a.example", "dns:*.example", true),
        ("dns:*.example", "dns:*.example", true),
        (&*key, &*key, true),
        ("spiffe://t/*", "spiffe://t/x", false),
        ("spiffe://t/x", "spiffe://t/y", false),
    ] {
        let found =
            said(&format!("allow = [\"{allow}\"]\ndeny = [\"{deny}\"]").replace('\n', ", "));
        let is_found = found.starts_with("warning: allow: admits no certificate: ");
        assert_eq!(is_found, is_denied, "{allow} {deny}: {found}");
    }
}

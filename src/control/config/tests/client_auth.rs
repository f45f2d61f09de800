//! The files of `client_certificates`, each at a key of a document of its own.

use std::fs;
use std::path::Path;

use data_encoding::BASE64;
use rustls::RootCertStore;
use tempfile::TempDir;

use super::now;
use crate::control::config::client_auth::{
    ExpiredCrl, authorities, revocation_lists, revocation_lists_by, revoked_serials,
};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::disclosure::Disclosure;
use crate::control::config::document::{Document, TomlValue};
use crate::control::config::list::ListFileCache;
use crate::control::config::load_context::LoadContext;
use crate::control::config::source::Files;
use crate::snapshot::client_auth::tests::{Authority, options};

/// A folder with these files.
fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let text = BASE64.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into()
}

fn certificate(authority: &Authority) -> Vec<u8> {
    pem("CERTIFICATE", &authority.der)
}

/// Reads the value of the one key of `text` by `read`, and returns its result with the findings.
fn reading<T>(
    folder: &Path,
    text: &str,
    read: impl FnOnce(&mut LoadContext<'_>, TomlValue<'_>) -> (T, Vec<Diagnostic>),
) -> (T, String) {
    let document = Document::parse("sidegate.toml".into(), text.as_bytes(), Disclosure::Lines);
    let known = ListFileCache::default();
    let mut files = Files::for_person();
    let context = LoadContext::new(&mut files, folder, &known, now());
    let mut load = LoadContext { rejects_expired_crls: true, ..context };
    let (result, more) = {
        let root = document.root();
        let value = root.peek("key").unwrap();
        read(&mut load, value)
    };
    let found = document.into_diagnostics().into_iter().chain(more);
    let found: Vec<_> = found.map(|one| one.to_string()).collect();
    (result, found.join("\n\n").replace(&format!("{}/", folder.display()), ""))
}

fn roots(all: &[&Authority]) -> RootCertStore {
    RootCertStore::clone(&options(all).roots)
}

/// How many lists are read from the files of an array, and the findings.
fn lists(
    folder: &Path,
    names: &str,
    roots: &RootCertStore,
    expired: ExpiredCrl,
) -> (Option<usize>, String) {
    reading(folder, &format!("key = [{names}]\n"), |load, value| {
        let read = revocation_lists(load, &value.items().unwrap(), roots, expired);
        (read.map(|lists| lists.len()), Vec::new())
    })
}

#[test]
fn authorities_are_read_and_an_expired_one_is_a_warning() {
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let both = [certificate(&one), certificate(&two)].concat();
    let folder = folder(&[
        ("both.pem", both),
        ("none.pem", b"hello\n".to_vec()),
        ("junk.pem", pem("CERTIFICATE", b"\x30\x03\x02\x01\x00")),
    ]);
    let read = |name: &str| {
        reading(folder.path(), &format!("key = \"{name}\"\n"), |load, value| {
            (authorities(load, value).map(|roots| roots.len()), Vec::new())
        })
    };
    assert_eq!(read("both.pem"), (Some(2), String::new()));
    let (none, found) = read("none.pem");
    assert_eq!(none, None);
    assert!(found.contains("key: none.pem holds no certificate"), "{found}");
    assert!(found.contains("of the CAs that sign the clients' certificates"), "{found}");
    let (junk, found) = read("junk.pem");
    assert_eq!(junk, None);
    assert!(found.contains("certificate 1 in junk.pem is no authority"), "{found}");
    assert!(read("missing.pem").1.contains("missing.pem does not exist"));
}

#[test]
fn certificate_of_a_client_is_no_authority() {
    let authority = Authority::root("clients");
    let leaf = |is_signed: bool| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        let signed = match is_signed {
            true => params.signed_by(&key, &authority.issuer),
            false => params.self_signed(&key),
        };
        signed.unwrap().pem().into_bytes()
    };
    let (signed, itself) = (leaf(true), leaf(false));
    let joined = [certificate(&authority), signed.clone()].concat();
    for (file, level) in [(signed, "error: "), (joined, "error: "), (itself, "warning: ")] {
        let folder = folder(&[("ca.pem", file)]);
        let read = |load: &mut LoadContext<'_>, value: TomlValue<'_>| {
            (authorities(load, value), Vec::new())
        };
        let (_, found) = reading(folder.path(), "key = \"ca.pem\"", read);
        let is_said = found.starts_with(level) && found.contains("is no authority's (CA:FALSE)");
        assert!(is_said, "{level}: {found}");
    }
}

#[test]
fn revocation_lists_are_read_in_pem_and_der() {
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let of = |authority: &Authority| authority.crl(&[7], 2027);
    let two_in_one = [pem("X509 CRL", &of(&one)), pem("X509 CRL", &of(&two))].concat();
    let folder = folder(&[("two.pem", two_in_one), ("one.crl", of(&one).to_vec())]);
    let (roots, reject) = (roots(&[&one, &two]), ExpiredCrl::Reject);
    assert_eq!(lists(folder.path(), "\"two.pem\"", &roots, reject), (Some(2), String::new()));
    let (read, found) = lists(folder.path(), "\"one.crl\"", &roots, reject);
    assert_eq!(read, Some(1));
    assert_eq!(
        found,
        r#"
warning: key: authority 2 of `ca` has no revocation list
 --> sidegate.toml:1:8
  |
1 | key = ["one.crl"]
  |        ^^^^^^^^^
  |
  = help: its clients are refused: add its list
"#
        .trim()
    );
}

#[test]
fn expired_revocation_list_is_an_error_or_a_warning() {
    let one = Authority::root("one");
    let folder = folder(&[("old.crl", one.crl(&[7], 2026).to_vec())]);
    let roots = roots(&[&one]);
    let (read, found) = lists(folder.path(), "\"old.crl\"", &roots, ExpiredCrl::Reject);
    assert_eq!(read, None, "{found}");
    let what = "the revocation list of CN=one in old.crl expired at 2026-01-01T00:00:00Z";
    assert!(found.starts_with(&format!("error: key: {what}\n")), "{found}");
    assert!(found.contains("on_expired = \"warn\""), "{found}");
    let (read, found) = lists(folder.path(), "\"old.crl\"", &roots, ExpiredCrl::Warn);
    assert_eq!(read, Some(1));
    assert!(found.starts_with(&format!("warning: key: {what}\n")), "{found}");
    // An agent publishes in spite of it.
    let text = "key = [\"old.crl\"]\n";
    let (read, found) = reading(folder.path(), text, |load, value| {
        load.rejects_expired_crls = false;
        let items = value.items().unwrap();
        (revocation_lists(load, &items, &roots, ExpiredCrl::Reject), Vec::new())
    });
    let due = read.unwrap()[0].due.clone().unwrap();
    assert_eq!((&*due.issuer, &*due.file), ("CN=one", "old.crl"));
    assert!(found.starts_with(&format!("warning: key: {what}: new TLS handshakes")), "{found}");
}

#[test]
fn serial_of_an_unknown_issuer_is_a_warning() {
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let line = format!("{}:01\n", two.pin());
    let folder = folder(&[("serials", line.into())]);
    for (known, is_warned) in [(&[&one][..], true), (&[&two], false), (&[&one, &two], false)] {
        let (read, found) = reading(folder.path(), "key = \"serials\"\n", |load, value| {
            revoked_serials(load, value, &roots(known))
        });
        assert!(read.is_some());
        assert_eq!(found.contains(" in serials is no authority of `ca`"), is_warned, "{found}");
    }
}

/// A list with this number, dated the first day of `year`.
fn dated(authority: &Authority, number: u8, year: i32, expires: i32) -> Vec<u8> {
    let list = authority.crl_with(&[number], expires, |params| {
        params.crl_number = rcgen::SerialNumber::from_slice(&[number]);
        params.this_update = rcgen::date_time_ymd(year, 1, 1);
    });
    list.to_vec()
}

#[test]
fn newest_list_of_an_authority_counts_in_any_order() {
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let inter = Authority::root("inter");
    let roots = roots(&[&one, &two]);
    let joined =
        [pem("X509 CRL", &dated(&one, 2, 2023, 2027)), pem("X509 CRL", &two.crl(&[], 2027))];
    let folder = folder(&[
        ("old", dated(&one, 1, 2022, 2026)),
        ("middle", dated(&one, 2, 2023, 2027)),
        ("new", dated(&one, 3, 2024, 2027)),
        // A higher number with an older date.
        ("odd", dated(&one, 9, 2021, 2027)),
        ("two", two.crl(&[], 2027).to_vec()),
        ("joined", joined.concat()),
        ("inter1", dated(&inter, 1, 2022, 2027)),
        ("inter2", dated(&inter, 2, 2023, 2027)),
    ]);
    let older = |old: &str, new: &str| {
        format!("list 1 in {old} is older than list 1 in {new}, of the same authority (CN=")
    };
    for (files, kept, replaced) in [
        ("old new two", 2, vec![older("old", "new")]),
        ("new old two", 2, vec![older("old", "new")]),
        ("old middle new two", 2, vec![older("old", "new"), older("middle", "new")]),
        ("joined new", 2, vec![older("joined", "new")]),
        ("new odd two", 3, vec![]),
        ("new new two", 2, vec![]),
        ("two new inter2 inter1", 3, vec![older("inter1", "inter2")]),
    ] {
        let names: Vec<_> = files.split(' ').map(|name| format!("{name:?}")).collect();
        let (read, found) = lists(folder.path(), &names.join(","), &roots, ExpiredCrl::Reject);
        assert_eq!(read, Some(kept), "{files}: {found}");
        assert_eq!(found.matches("is older than").count(), replaced.len(), "{files}: {found}");
        replaced.iter().for_each(|what| assert!(found.contains(what), "{what}: {found}"));
    }
}

#[test]
fn list_that_its_authority_has_not_signed_is_an_error() {
    let (one, twin) = (Authority::root("one"), Authority::root("one"));
    let whole = one.crl(&[7], 2027).to_vec();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    let folder = folder(&[("one.crl", whole), ("changed.crl", changed)]);
    for (file, root, is_good) in
        [("one.crl", &one, true), ("one.crl", &twin, false), ("changed.crl", &one, false)]
    {
        let (read, found) =
            lists(folder.path(), &format!("{file:?}"), &roots(&[root]), ExpiredCrl::Warn);
        assert_eq!(read.is_some(), is_good, "{file}: {found}");
        let what = format!("error: key: revocation list 1 in {file} is not signed by");
        assert_eq!(found.starts_with(&what), !is_good, "{file}: {found}");
    }
    // Authorities may share a name: one of their keys is enough.
    let both = roots(&[&twin, &one]);
    let read = lists(folder.path(), "\"one.crl\"", &both, ExpiredCrl::Warn);
    assert_eq!(read, (Some(1), String::new()));
}

#[test]
fn list_dated_in_the_future_is_a_warning() {
    let one = Authority::root("one");
    let folder = folder(&[("one.crl", dated(&one, 1, 2030, 2031))]);
    let (read, found) = lists(folder.path(), "\"one.crl\"", &roots(&[&one]), ExpiredCrl::Reject);
    assert_eq!(read, Some(1));
    let what = "the revocation list of CN=one in one.crl is dated 2030-01-01T00:00:00Z";
    assert!(found.starts_with(&format!("warning: key: {what}\n")), "{found}");
}

#[test]
fn broken_revocation_lists_are_errors_each() {
    let one = Authority::root("one");
    let whole = one.crl(&[7], 2027).to_vec();
    let folder = folder(&[
        ("cut.crl", whole[..whole.len() / 2].to_vec()),
        ("cut.pem", pem("X509 CRL", &whole[..40])),
        ("none.pem", certificate(&one)),
    ]);
    let names = "\"cut.crl\", \"cut.pem\", \"none.pem\", \"missing.pem\"";
    let (read, found) = lists(folder.path(), names, &roots(&[&one]), ExpiredCrl::Warn);
    assert_eq!(read, None);
    for expected in [
        "revocation list 1 in cut.crl cannot be read: ",
        "revocation list 1 in cut.pem cannot be read: ",
        "none.pem holds no revocation list",
        "missing.pem does not exist",
    ] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}

#[test]
fn panic_of_a_parser_is_an_error_at_its_file() {
    let one = Authority::root("one");
    let folder = folder(&[("one.crl", one.crl(&[7], 2027).to_vec())]);
    let (read, found) = reading(folder.path(), "key = [\"one.crl\"]\n", |load, value| {
        let (items, roots) = (value.items().unwrap(), roots(&[&one]));
        let parse = |_: &[u8]| panic!("injected");
        (revocation_lists_by(load, &items, &roots, ExpiredCrl::Warn, &parse), Vec::new())
    });
    assert!(read.is_none());
    let what = "revocation list 1 in one.crl cannot be read: a bug in the library that reads it";
    assert!(found.starts_with(&format!("error: key: {what}\n")), "{found}");
}

#[test]
fn revoked_serials_are_read_with_each_fault_at_its_place() {
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let pin = "00".repeat(32);
    let text = format!(
        "# revoked\n\u{feff}{pin}:01 ticket=SEC-1\r\n{pin}:02 expires=2026-01-01 # lapsed\n"
    );
    let folder = folder(&[
        ("good", text.clone().into()),
        ("bad", format!("{text}1A2B\n{pin}:03 expires=soon\n").into()),
        ("comments", b"; none yet\n".to_vec()),
        ("key", pem("PRIVATE KEY", &[7; 48])),
    ]);
    let read = |name: &str, roots: &RootCertStore| {
        reading(folder.path(), &format!("key = \"{name}\"\n"), |load, value| {
            let (read, found) = revoked_serials(load, value, roots);
            (read.map(|revoked| revoked.len()), found)
        })
    };
    let both = roots(&[&one, &two]);
    let (good, found) = read("good", &both);
    assert_eq!(good, Some(2));
    assert!(found.starts_with("warning: key: a serial number in good has lapsed"), "{found}");
    let what = "warning: key: the issuers of 2 lines in good are no authorities of `ca`\n";
    assert!(found.contains(what), "{found}");
    let (bad, found) = read("bad", &both);
    assert_eq!(bad, None);
    let placed = "error: which authority's? `ca` has several\n--> bad:4:1\n";
    assert!(found.starts_with(placed), "{found}");
    assert!(found.contains("is not a date\n--> bad:5:69\n"), "{found}");
    // With one authority a line may leave it out.
    let (bad, found) = read("bad", &roots(&[&one]));
    assert!(bad.is_none() && !found.contains("which authority"), "{found}");
    assert_eq!(read("comments", &both), (Some(0), String::new()));
    let (key, found) = read("key", &both);
    assert!(key.is_none() && !found.contains("BwcH"), "{found}");
}

//! rustls-pemfile, which is archived, reads the same as its successor in rustls-pki-types.
//!
//! As long as this holds, the one file that calls it can switch without a change for operators.

use data_encoding::BASE64;
use proptest::collection::vec;
use proptest::prelude::*;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pemfile::{Error, Item};

/// Section labels, each with whether both libraries know it.
const LABELS: [(&str, bool); 10] = [
    ("CERTIFICATE", true),
    ("PRIVATE KEY", true),
    ("RSA PRIVATE KEY", true),
    ("EC PRIVATE KEY", true),
    ("PUBLIC KEY", true),
    ("X509 CRL", true),
    ("CERTIFICATE REQUEST", true),
    ("ENCRYPTED PRIVATE KEY", false),
    ("EC PARAMETERS", false),
    ("certificate", false),
];

/// The items up to the end of the file or to the first fault.
#[derive(Debug, PartialEq)]
struct Reading {
    items: Vec<(&'static str, Vec<u8>)>,
    fault: Option<&'static str>,
}

fn by_pemfile(mut rest: &[u8]) -> Reading {
    let (mut items, mut fault) = (Vec::new(), None);
    loop {
        match rustls_pemfile::read_one_from_slice(rest) {
            Ok(Some((item, left))) => {
                items.push(match item {
                    Item::X509Certificate(der) => ("CERTIFICATE", der.to_vec()),
                    Item::Pkcs8Key(der) => ("PRIVATE KEY", der.secret_pkcs8_der().to_vec()),
                    Item::Pkcs1Key(der) => ("RSA PRIVATE KEY", der.secret_pkcs1_der().to_vec()),
                    Item::Sec1Key(der) => ("EC PRIVATE KEY", der.secret_sec1_der().to_vec()),
                    Item::SubjectPublicKeyInfo(der) => ("PUBLIC KEY", der.to_vec()),
                    Item::Crl(der) => ("X509 CRL", der.to_vec()),
                    Item::Csr(der) => ("CERTIFICATE REQUEST", der.to_vec()),
                    other => panic!("{other:?}"),
                });
                rest = left;
            }
            Ok(None) => break,
            Err(error) => {
                fault = Some(match error {
                    Error::MissingSectionEnd { .. } => "end",
                    Error::IllegalSectionStart { .. } => "start",
                    Error::Base64Decode(_) => "base64",
                });
                break;
            }
        }
    }
    Reading { items, fault }
}

fn by_pki_types(text: &[u8]) -> Reading {
    let (mut items, mut fault) = (Vec::new(), None);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        match section {
            Ok((kind, der)) => items.push((
                match kind {
                    SectionKind::Certificate => "CERTIFICATE",
                    SectionKind::PrivateKey => "PRIVATE KEY",
                    SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
                    SectionKind::EcPrivateKey => "EC PRIVATE KEY",
                    SectionKind::PublicKey => "PUBLIC KEY",
                    SectionKind::Crl => "X509 CRL",
                    SectionKind::Csr => "CERTIFICATE REQUEST",
                    // rustls-pemfile skips sections of kinds that it has no item for.
                    _ => continue,
                },
                der,
            )),
            Err(error) => {
                fault = Some(match error {
                    pem::Error::MissingSectionEnd { .. } => "end",
                    pem::Error::IllegalSectionStart { .. } => "start",
                    _ => "base64",
                });
                break;
            }
        }
    }
    Reading { items, fault }
}

/// One part of a file: its text, and the item in it, if it is one.
type LinePart = (String, Option<(&'static str, Vec<u8>)>);

fn line_end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["\n", "\r\n", "\r"])
}

/// A complete section of any label.
fn section() -> impl Strategy<Value = LinePart> {
    let label = prop::sample::select(LABELS.to_vec());
    (label, vec(any::<u8>(), 0..200), 1usize..80, line_end()).prop_map(
        |((label, is_known), der, width, end)| {
            let base64 = BASE64.encode(&der);
            let mut text = format!("-----BEGIN {label}-----{end}");
            for line in base64.as_bytes().chunks(width) {
                text.push_str(&format!("{}{end}", str::from_utf8(line).unwrap()));
            }
            text.push_str(&format!("-----END {label}-----{end}"));
            (text, is_known.then_some((label, der)))
        },
    )
}

/// Lines between sections, as `openssl x509 -text` and people write them.
fn between() -> impl Strategy<Value = LinePart> {
    (vec("[ -,.-~]{0,40}|[\\PC&&[^-]]{0,20}", 0..4), line_end()).prop_map(|(lines, end)| {
        let text: String = lines.iter().map(|line| format!("{line}{end}")).collect();
        (text, None)
    })
}

/// Text that looks like a part of a section.
fn torn() -> impl Strategy<Value = String> {
    let label = prop::sample::select(LABELS.to_vec()).prop_map(|(label, _)| label);
    let piece = prop_oneof![
        label.clone().prop_map(|label| format!("-----BEGIN {label}-----\n")),
        label.clone().prop_map(|label| format!("-----END {label}-----\r\n")),
        label.clone().prop_map(|label| format!("-----BEGIN {label}----\n")),
        label.clone().prop_map(|label| format!("-----BEGIN {label}----- \n")),
        label.prop_map(|label| format!("-----BEGIN {label}-----")),
        Just("Proc-Type: 4,ENCRYPTED\n".to_owned()),
        "[A-Za-z0-9+/=]{0,70}\n",
        "[-BEGINCRTFA =\r\n]{0,40}",
        "(?s).{0,20}",
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn both_read_every_item_of_a_sound_file(parts in vec(prop_oneof![2 => section(), 1 => between()], 0..8)) {
        let text: String = parts.iter().map(|(text, _)| text.as_str()).collect();
        let items: Vec<_> = parts.into_iter().filter_map(|(_, item)| item).collect();
        let expected = Reading { items, fault: None };
        prop_assert_eq!(&by_pemfile(text.as_bytes()), &expected, "{}", text);
        prop_assert_eq!(&by_pki_types(text.as_bytes()), &expected, "{}", text);

        let is = |item: &&(&str, Vec<u8>), kinds: &[&str]| kinds.contains(&item.0);
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| der.unwrap().to_vec());
        let of_items = expected.items.iter().filter(|item| is(item, &["CERTIFICATE"])).map(|(_, der)| der.clone());
        prop_assert_eq!(certificates.collect::<Vec<_>>(), of_items.collect::<Vec<_>>());
        let keys = PrivateKeyDer::pem_slice_iter(text.as_bytes()).map(|der| der.unwrap().secret_der().to_vec());
        let kinds = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
        let of_items = expected.items.iter().filter(|item| is(item, &kinds)).map(|(_, der)| der.clone());
        prop_assert_eq!(keys.collect::<Vec<_>>(), of_items.collect::<Vec<_>>());
    }

    #[test]
    fn both_read_the_same_of_a_torn_file(before in torn(), (whole, _) in section(), after in torn()) {
        for text in [before.clone(), format!("{before}{whole}"), format!("{whole}{after}"), format!("{before}{whole}{after}")] {
            prop_assert_eq!(by_pemfile(text.as_bytes()), by_pki_types(text.as_bytes()), "{}", text);
        }
        let cut = whole.len() / 2;
        prop_assert_eq!(by_pemfile(&whole.as_bytes()[..cut]), by_pki_types(&whole.as_bytes()[..cut]), "{}", whole);
    }

    #[test]
    fn both_read_the_same_of_any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(by_pemfile(&bytes), by_pki_types(&bytes));
    }
}

//! The certificates of one generation, and the choice among them by server name and key.
//!
//! This module chooses and never parses: `control/config/certificate.rs` reads PEM, and `data/tls`
//! serves the chosen certificate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;

use crate::snapshot::key_type::{KeyType, SignatureOffer};

/// A certificate chain with its private key, checked to match.
pub struct Certificate {
    /// `chain` as written in `sidegate.toml`; the `certificate` label.
    pub label: Arc<str>,
    /// Path of the private key (`key`), as written.
    pub key_file: Arc<str>,
    /// The DNS names and addresses of the leaf's SANs, lower case, without a
    /// trailing dot; a wildcard as `*.example.com`; an address as `192.0.2.1`.
    pub names: Vec<Box<str>>,
    /// End of the leaf's validity.
    pub not_after: Timestamp,
    /// The chain and signing key, in the form rustls uses.
    pub key: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("label", &self.label)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// The certificate that a TLS handshake got, chosen by the server name of its ClientHello (SNI).
#[derive(Debug, Clone)]
pub struct ServedCertificate {
    /// The certificate whose key signed the handshake.
    pub certificate: Arc<Certificate>,
    /// The server name, if it got the default certificate since no certificate covers it. `None`
    /// means that the certificate covers the server name.
    pub uncovered_name: Option<Box<str>>,
}

impl ServedCertificate {
    /// Whether a request for `host` agrees with the TLS handshake: the client knows the certificate
    /// as one for `host`, or has asked for that very name.
    pub fn agrees_with(&self, host: &str) -> bool {
        self.certificate.covers(host) || self.uncovered_name.as_deref() == Some(host)
    }
}

/// All certificates of a generation; the first is the default.
#[derive(Debug, Default)]
pub struct Certificates {
    all: Vec<Arc<Certificate>>,
    key_types: Vec<KeyType>,
    by_name: HashMap<Box<str>, Alternatives>,
    defaults: Alternatives,
    /// Whether others are left out, as in a check without them.
    is_partial: bool,
}

/// Certificates for one name, each with a key of another type, as indices in the order written.
type Alternatives = Vec<usize>;

/// Why a certificate can never be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeverServed {
    /// Each of its names has an earlier certificate with a key of the same type: these.
    Superseded(Vec<usize>),
    /// It has no name that a ClientHello can ask for, and is not the default.
    Nameless,
}

impl Certificates {
    /// Indexes `all`. If two with keys of one type cover one name, the first serves it.
    pub fn new(all: Vec<Arc<Certificate>>) -> Self {
        let key_types: Vec<_> = all.iter().map(|one| KeyType::of(&*one.key.key)).collect();
        let mut by_name: HashMap<Box<str>, Alternatives> = HashMap::new();
        for (index, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                add(by_name.entry(name.clone()).or_default(), index, &key_types);
            }
        }
        let mut defaults = Alternatives::new();
        if let Some(first) = all.first() {
            for (index, certificate) in all.iter().enumerate() {
                // Another certificate for all names of the default may take its place: the client's
                // signature schemes choose.
                let has_all = first.names.iter().all(|name| certificate.covers(name));
                if index == 0 || has_all && !first.names.is_empty() {
                    add(&mut defaults, index, &key_types);
                }
            }
        }
        Certificates { all, key_types, by_name, defaults, is_partial: false }
    }

    /// Says that others may be left out.
    pub fn partial(self, is_partial: bool) -> Self {
        Certificates { is_partial, ..self }
    }

    /// Whether a certificate may cover `name`: one does, or others are left out.
    pub fn may_cover(&self, name: &str) -> bool {
        self.is_partial || self.covering(name).is_some()
    }

    /// Returns the first certificate that covers `name` (lower case, no trailing dot): an exact
    /// match, else a wildcard of one label.
    pub fn covering(&self, name: &str) -> Option<&Arc<Certificate>> {
        let index = self.exact(name).or_else(|| self.wildcard(name))?.first()?;
        self.all.get(*index)
    }

    /// Chooses the certificate for a client that asks for `name` (lower case, no trailing dot).
    /// An exact match precedes a wildcard, unless the client can verify only signatures of the
    /// wildcard's key. `None` means that no certificate covers the name.
    pub fn choose(&self, name: &str, offer: &SignatureOffer<'_>) -> Option<&Arc<Certificate>> {
        // An exact name comes first even with a costlier key: operators mean the special
        // certificate. The wildcard's is for clients whose handshake would fail otherwise.
        let exact = self.exact(name);
        let best = exact.and_then(|exact| self.best(exact, offer));
        let best = best.or_else(|| self.best(self.wildcard(name)?, offer));
        // A client that can verify none of the signatures gets the alert of rustls.
        best.or_else(|| self.covering(name))
    }

    /// Chooses the certificate for a client that asks for no known name: the first one, or another
    /// for the same names. `None` means that there are no certificates.
    pub fn choose_default(&self, offer: &SignatureOffer<'_>) -> Option<&Arc<Certificate>> {
        self.best(&self.defaults, offer).or_else(|| self.all.first())
    }

    /// Iterates over the certificates, the default first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.all.iter()
    }

    /// The type of the key of the certificate `index`.
    pub fn key_type(&self, index: usize) -> KeyType {
        self.key_types.get(index).copied().unwrap_or(KeyType::Other)
    }

    /// The certificates that no client can get, with the reasons.
    pub fn never_served(&self) -> Vec<(usize, NeverServed)> {
        let unserved = |(index, certificate): (usize, &Arc<Certificate>)| {
            // Served to clients without a server name, whatever its own names.
            if self.defaults.contains(&index) {
                return None;
            }
            let asked = certificate.names.iter().filter(|name| is_server_name(name));
            let mut earlier = Vec::new();
            let mut is_nameless = true;
            for alternatives in asked.filter_map(|name| self.by_name.get(name)) {
                is_nameless = false;
                let same = |other: &&usize| self.key_types[**other] == self.key_types[index];
                match alternatives.iter().find(same) {
                    Some(other) if *other != index => earlier.push(*other),
                    // It is the first of its type for this name, and served.
                    _ => return None,
                }
            }
            earlier.sort_unstable();
            earlier.dedup();
            let why = NeverServed::Superseded(earlier);
            Some((index, if is_nameless { NeverServed::Nameless } else { why }))
        };
        self.all.iter().enumerate().filter_map(unserved).collect()
    }

    fn exact(&self, name: &str) -> Option<&Alternatives> {
        self.by_name.get(name)
    }

    fn wildcard(&self, name: &str) -> Option<&Alternatives> {
        let (_, parent) = name.split_once('.')?;
        self.by_name.get(format!("*.{parent}").as_str())
    }

    /// The best of `alternatives` for a client. `None` means that it can verify none of them.
    fn best(
        &self,
        alternatives: &[usize],
        offer: &SignatureOffer<'_>,
    ) -> Option<&Arc<Certificate>> {
        let ranked = alternatives
            .iter()
            .filter_map(|index| Some((self.key_types[*index].rank(offer)?, *index)));
        let (_, index) = ranked.min_by_key(|(rank, _)| *rank)?;
        self.all.get(index)
    }
}

/// Adds the certificate `index`, unless one with a key of the same type is there.
fn add(alternatives: &mut Alternatives, index: usize, key_types: &[KeyType]) {
    if alternatives.iter().all(|other| key_types[*other] != key_types[index]) {
        alternatives.push(index);
    }
}

/// Whether a ClientHello can ask for `name`: for a wildcard, or a name that is no address (RFC 6066
/// §3).
fn is_server_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_err()
}

impl Certificate {
    /// Whether this certificate is valid for `name` (lower case, no trailing dot). A wildcard
    /// matches exactly one whole label (RFC 6125 §6.4.3).
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|own| {
            **own == *name
                || own.strip_prefix("*.").is_some_and(|parent| {
                    name.split_once('.')
                        .is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
        SignatureAlgorithm,
    };
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{CipherSuite, NamedGroup, SignatureScheme};

    const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const P384: SignatureScheme = SignatureScheme::ECDSA_NISTP384_SHA384;
    const ED: SignatureScheme = SignatureScheme::ED25519;
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

    /// Certificates with these labels, key types and names. Equal labels are possible.
    fn certificates(all: &[(&str, &'static SignatureAlgorithm, &[&str])]) -> Certificates {
        let certificate =
            |(label, algorithm, names): &(&str, &'static SignatureAlgorithm, &[&str])| {
                let key = KeyPair::generate_for(algorithm).unwrap().serialize_der();
                let key = any_supported_type(&PrivateKeyDer::try_from(key).unwrap()).unwrap();
                Arc::new(Certificate {
                    label: (*label).into(),
                    key_file: "".into(),
                    names: names.iter().map(|name| (*name).into()).collect(),
                    not_after: Timestamp::MAX,
                    key: Arc::new(CertifiedKey::new(Vec::new(), key)),
                })
            };
        Certificates::new(all.iter().map(certificate).collect())
    }

    /// An offer of TLS 1.2 and 1.3 with these schemes and no groups.
    fn offer(schemes: &[SignatureScheme]) -> SignatureOffer<'_> {
        let suites = &[
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        SignatureOffer { schemes, groups: None, suites }
    }

    #[track_caller]
    fn check(all: &Certificates, name: &str, schemes: &[SignatureScheme], expected: &str) {
        let chosen = all.choose(name, &offer(schemes)).map_or("", |one| &*one.label);
        assert_eq!(chosen, expected, "{name} {schemes:?}");
    }

    #[test]
    fn signature_schemes_choose_among_certificates_of_a_name() {
        let names: &[&str] = &["a.example"];
        let all = certificates(&[
            ("rsa", &PKCS_RSA_SHA256, names),
            ("p256", &PKCS_ECDSA_P256_SHA256, names),
            ("p384", &PKCS_ECDSA_P384_SHA384, names),
            ("ed", &PKCS_ED25519, names),
        ]);
        assert!(all.never_served().is_empty());
        check(&all, "a.example", &[RSA, P256], "p256");
        check(&all, "a.example", &[RSA], "rsa");
        check(&all, "a.example", &[SignatureScheme::RSA_PKCS1_SHA384], "rsa");
        // Among short keys the client's order decides.
        check(&all, "a.example", &[P384, P256, RSA], "p384");
        check(&all, "a.example", &[ED, P384, P256], "ed");
        // The client gets the alert of rustls.
        check(&all, "a.example", &[SignatureScheme::RSA_PKCS1_SHA1], "rsa");
        check(&all, "b.example", &[P256], "");
    }

    #[test]
    fn exact_name_precedes_a_wildcard_that_suits_better() {
        let all = certificates(&[
            ("wild p256", &PKCS_ECDSA_P256_SHA256, &["*.a.example"]),
            ("wild rsa", &PKCS_RSA_SHA256, &["*.a.example"]),
            ("exact rsa", &PKCS_RSA_SHA256, &["x.a.example"]),
            ("exact p384", &PKCS_ECDSA_P384_SHA384, &["y.a.example"]),
        ]);
        assert!(all.never_served().is_empty());
        check(&all, "x.a.example", &[P256, RSA], "exact rsa");
        check(&all, "x.a.example", &[P256], "wild p256");
        check(&all, "y.a.example", &[P256, P384, RSA], "exact p384");
        check(&all, "y.a.example", &[P256, RSA], "wild p256");
        check(&all, "y.a.example", &[RSA], "wild rsa");
        check(&all, "z.a.example", &[RSA], "wild rsa");
        check(&all, "x.y.a.example", &[RSA], "");
    }

    #[test]
    fn default_has_partners_with_all_of_its_names() {
        let all = certificates(&[
            ("first", &PKCS_ECDSA_P256_SHA256, &["a.example", "x.b.example"]),
            ("some", &PKCS_RSA_SHA256, &["a.example"]),
            ("all", &PKCS_RSA_SHA256, &["a.example", "*.b.example"]),
        ]);
        let default = |schemes: &[_]| all.choose_default(&offer(schemes)).unwrap().label.clone();
        assert_eq!(&*default(&[RSA, P256]), "first");
        assert_eq!(&*default(&[RSA]), "all");
        assert_eq!(&*default(&[ED]), "first");
        // As a default and for its wildcard, though another serves a.example.
        assert!(all.never_served().is_empty());
    }

    #[test]
    fn curve_has_to_be_a_group_of_a_client_of_tls_1_2() {
        let names: &[&str] = &["a.example"];
        let all = certificates(&[
            ("p256", &PKCS_ECDSA_P256_SHA256, names),
            ("rsa", &PKCS_RSA_SHA256, names),
        ]);
        let chosen = |schemes: &[_], group, suites: &[_]| {
            let groups = [group];
            let offer = SignatureOffer { schemes, groups: Some(&groups), suites };
            all.choose("a.example", &offer).unwrap().label.clone()
        };
        let (new, old) = (
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        );
        let (own, other) = (NamedGroup::secp256r1, NamedGroup::X25519);
        assert_eq!(&*chosen(&[P256, RSA], own, &[old]), "p256");
        assert_eq!(&*chosen(&[P256, RSA], other, &[old]), "rsa");
        assert_eq!(&*chosen(&[P256, RSA], other, &[new, old]), "rsa");
        assert_eq!(&*chosen(&[P256, RSA], other, &[new]), "p256");
        assert_eq!(&*chosen(&[P256], other, &[old]), "p256");
    }

    #[test]
    fn superseded_and_nameless_certificates_are_never_served() {
        let (p256, rsa) = (&PKCS_ECDSA_P256_SHA256, &PKCS_RSA_SHA256);
        let all = certificates(&[
            ("0", p256, &["a.example"]),
            ("1", p256, &["b.example", "*.b.example"]),
            ("2", p256, &["a.example"]),
            ("3", p256, &["b.example", "a.example"]),
            ("4", p256, &["x.b.example"]),
            ("5", p256, &["*.b.example", "c.example"]),
            ("6", rsa, &["a.example"]),
            ("7", rsa, &["a.example"]),
            ("8", rsa, &["192.0.2.1", "2001:db8::1"]),
            ("9", rsa, &[]),
            ("10", p256, &["192.0.2.1", "c.example"]),
        ]);
        let superseded = |by: &[usize]| NeverServed::Superseded(by.into());
        let expected = [
            (2, superseded(&[0])),
            (3, superseded(&[0, 1])),
            (7, superseded(&[6])),
            (8, NeverServed::Nameless),
            (9, NeverServed::Nameless),
            (10, superseded(&[5])),
        ];
        assert_eq!(all.never_served(), expected);
    }

    #[test]
    fn nameless_certificate_is_served_as_the_default_alone() {
        let (p256, rsa) = (&PKCS_ECDSA_P256_SHA256, &PKCS_RSA_SHA256);
        let all = certificates(&[("0", p256, &["192.0.2.1"]), ("1", rsa, &["192.0.2.1"])]);
        assert!(all.never_served().is_empty());
        let all = certificates(&[("0", p256, &[]), ("1", rsa, &["a.example"]), ("2", rsa, &[])]);
        assert_eq!(all.never_served(), [(2, NeverServed::Nameless)]);
        assert_eq!(&*all.choose_default(&offer(&[RSA])).unwrap().label, "0");
    }
}

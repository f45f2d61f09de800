//! `--off-host`: checking a configuration away from the host that serves, as in CI.
//!
//! Private keys are not read there, and files and users that only the serving host has may be
//! absent. Each of them is a note. Everything that is present is checked as always.

use std::sync::Arc;

use rustix::io::Errno;
use rustls::pki_types::{Der, SubjectPublicKeyInfoDer, TrustAnchor};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, RootCertStore, SignatureAlgorithm, SignatureScheme};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::document::TomlValue;
use super::load_context::{LoadContext, about};
use super::source::{FileError, MAX_LIST_BYTES};
use super::source_text::{Finding, note};

/// Whether the file that `value` names is left out: absent, or not readable by this user. That is
/// reported as a note.
pub(super) fn is_left_out(load: &mut LoadContext<'_>, value: TomlValue<'_>) -> bool {
    // An array or an empty path has an error of its own.
    let Some(name) = value.as_str().filter(|_| load.is_off_host) else { return false };
    let Ok(path) = load.path(name) else { return false };
    // Read once per pass: its reader gets the same bytes. The bound is that of the largest kind.
    let Err(fault) = load.files.read_open(&path, MAX_LIST_BYTES, false) else { return false };
    let is_absent = is_absent(&fault);
    if is_absent {
        value.report(note(format!("{name} {fault}: not checked with --off-host")));
    }
    is_absent
}

/// The error that the certificate or key in `name` cannot be read. A check names the option for
/// hosts that lack it.
pub(super) fn about_absent(load: &LoadContext<'_>, name: &str, fault: &FileError) -> Finding {
    // Only a check has the option; the error of an agent is about its own host.
    let is_check = load.rejects_expired_crls && !load.is_off_host;
    let hint = "on a host that does not serve, as in CI: `sidegate check --off-host`";
    let hint = (is_check && is_absent(fault)).then(|| match fault.remedy() {
        Some(remedy) => format!("{remedy}; {hint}"),
        None => hint.to_owned(),
    });
    about(name, fault).with_remedy_if(hint)
}

/// Whether another host may well have the file.
fn is_absent(fault: &FileError) -> bool {
    match fault {
        FileError::Missing => true,
        FileError::Unreadable(code) => *code == Errno::ACCESS.raw_os_error(),
        // A directory or a loop of links is as wrong on every other host.
        _ => false,
    }
}

/// Reports that the private key `value` is not read.
pub(super) fn leave_key_out(value: TomlValue<'_>) {
    let name = value.as_str().unwrap_or_default();
    value.report(note(format!("{name} is a private key: not read with --off-host")));
}

/// A key that signs nothing, in place of the private key of a certificate.
#[derive(Debug)]
pub(super) struct PlaceholderKey {
    /// The subject's public key info, in DER.
    public_key: Box<[u8]>,
    algorithm: SignatureAlgorithm,
    /// The scheme by which the type of the key is recognised.
    scheme: SignatureScheme,
}

impl PlaceholderKey {
    /// The placeholder for the key of `public_key`, a subject's public key info in DER. `None`
    /// means that TLS cannot use keys of this type.
    pub fn of(public_key: &[u8]) -> Option<Arc<dyn SigningKey>> {
        const ECDSA: SignatureAlgorithm = SignatureAlgorithm::ECDSA;
        let (_, info) = SubjectPublicKeyInfo::from_der(public_key).ok()?;
        let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string());
        let (algorithm, scheme) =
            match (&*info.algorithm.algorithm.to_id_string(), curve.as_deref()) {
                ("1.2.840.113549.1.1.1", _) => {
                    (SignatureAlgorithm::RSA, SignatureScheme::RSA_PSS_SHA256)
                }
                ("1.3.101.112", _) => (SignatureAlgorithm::ED25519, SignatureScheme::ED25519),
                ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => {
                    (ECDSA, SignatureScheme::ECDSA_NISTP256_SHA256)
                }
                ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => {
                    (ECDSA, SignatureScheme::ECDSA_NISTP384_SHA384)
                }
                ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => {
                    (ECDSA, SignatureScheme::ECDSA_NISTP521_SHA512)
                }
                _ => return None,
            };
        Some(Arc::new(PlaceholderKey { public_key: public_key.into(), algorithm, scheme }))
    }
}

impl SigningKey for PlaceholderKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = || Box::new(NoSigner(self.scheme)) as Box<dyn Signer>;
        offered.contains(&self.scheme).then(signer)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&*self.public_key))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

/// A signer that always fails.
#[derive(Debug)]
struct NoSigner(SignatureScheme);

impl Signer for NoSigner {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        Err(Error::General("a check has no private key".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.0
    }
}

/// An authority that has signed nothing, in place of those in a file that is left out: rustls makes
/// no verifier without one.
pub(super) fn placeholder_authorities() -> Arc<RootCertStore> {
    // A name and a key without contents. To make a certificate would take random bytes, of which
    // the first ones of a process cost 40 ms.
    let (subject, subject_public_key_info) = (Der::from_slice(&[]), Der::from_slice(&[]));
    let anchor = TrustAnchor { subject, subject_public_key_info, name_constraints: None };
    Arc::new(RootCertStore { roots: vec![anchor] })
}

#[cfg(test)]
mod tests {
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _,
    };

    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::snapshot::key_type::{Curve, KeyType};

    #[test]
    fn placeholder_key_has_the_type_of_the_true_one() {
        let kinds = [
            (&PKCS_ECDSA_P256_SHA256, KeyType::Ecdsa(Curve::P256)),
            (&PKCS_ECDSA_P384_SHA384, KeyType::Ecdsa(Curve::P384)),
            (&PKCS_ED25519, KeyType::Ed25519),
        ];
        for (algorithm, kind) in kinds {
            let info = KeyPair::generate_for(algorithm).unwrap().subject_public_key_info();
            let key = PlaceholderKey::of(&info).unwrap();
            assert_eq!(KeyType::of(&*key), kind);
            let offer = [SignatureScheme::ED25519, key_scheme(&*key)];
            assert!(key.choose_scheme(&offer).unwrap().sign(b"x").is_err());
        }
        assert!(PlaceholderKey::of(b"\x30\x00").is_none());
    }

    fn key_scheme(key: &dyn SigningKey) -> SignatureScheme {
        let all = [
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ];
        key.choose_scheme(&all).unwrap().scheme()
    }

    #[test]
    fn rustls_makes_a_verifier_of_the_placeholder() {
        let builder = WebPkiClientVerifier::builder_with_provider(
            placeholder_authorities(),
            crate::snapshot::tls::provider(),
        );
        assert!(builder.build().is_ok());
    }
}

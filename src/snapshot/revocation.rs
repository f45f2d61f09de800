//! Revocation lists of which several have the same issuer: partitions, or keys of one name.
//!
//! webpki asks the first list that covers a certificate, and no other. Here each list is asked
//! (`docs/decisions/048-several-crls.md`). The version of a list that counts is chosen
//! where the files are read.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use rustls::{CertificateError, Error, OtherError};
use webpki::{
    Cert, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;

/// Most paths of one chain that are checked: a client may send many copies of an intermediate.
const MAX_PATHS: usize = 8;

/// The revocation lists of a verifier, if some have the same issuer.
pub struct SharedLists {
    /// Lists whose issuer has no other list.
    sole: Vec<CertRevocationList<'static>>,
    /// Lists whose issuer has several, with their DER.
    shared: Vec<(CertRevocationList<'static>, CertificateRevocationListDer<'static>)>,
}

/// A chain to check, with the authorities that it may lead to.
pub struct ChainCheck<'c> {
    /// The client's own certificate.
    pub end_entity: &'c CertificateDer<'c>,
    /// The other certificates that the client has sent.
    pub intermediates: &'c [CertificateDer<'c>],
    /// Authorities that a path may end at.
    pub roots: &'c [TrustAnchor<'static>],
    /// Signature algorithms that count.
    pub algorithms: &'c [&'c dyn SignatureVerificationAlgorithm],
    /// The time of the check.
    pub now: UnixTime,
    /// Whether an expired list refuses what it covers.
    pub enforces_expiry: bool,
}

impl SharedLists {
    /// Reads the lists. `None` means that each has an issuer of its own, as webpki wants them.
    ///
    /// # Errors
    /// A list cannot be read.
    pub fn read(lists: &[CertificateRevocationListDer<'static>]) -> Result<Option<Self>, String> {
        let (mut sole, mut shared) = (Vec::new(), Vec::new());
        for der in lists {
            let list = OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
            shared.push((CertRevocationList::from(list), der.clone()));
        }
        let issuers: Vec<Box<[u8]>> = shared.iter().map(|(list, _)| list.issuer().into()).collect();
        let is_sole = |list: &CertRevocationList<'_>| {
            issuers.iter().filter(|issuer| ***issuer == *list.issuer()).count() == 1
        };
        for (list, _) in shared.extract_if(.., |(list, _)| is_sole(list)) {
            sole.push(list);
        }
        Ok((!shared.is_empty()).then_some(SharedLists { sole, shared }))
    }

    /// Checks that a path of the chain exists on which no list revokes a certificate, and on which
    /// lists cover each.
    ///
    /// # Errors
    /// A certificate is revoked, a list that covers it has expired, or no list covers it.
    pub fn check(&self, chain: &ChainCheck<'_>) -> Result<(), Error> {
        let (paths, last) = (Cell::new(0), RefCell::new(None));
        let check = |path: &VerifiedPath<'_>| {
            paths.set(paths.get() + 1);
            if paths.get() > MAX_PATHS {
                return Err(webpki::Error::MaximumPathBuildCallsExceeded);
            }
            self.check_path(chain, path).inspect_err(|fault| {
                last.replace(Some(fault.clone()));
            })
        };
        let verified = chain.verify(chain.roots, chain.intermediates, None, Some(&check));
        // webpki tells the fault of one of several paths: that of a list says more.
        verified.map_err(|fault| in_words_of_rustls(last.take().unwrap_or(fault)))
    }

    fn check_path(
        &self,
        chain: &ChainCheck<'_>,
        path: &VerifiedPath<'_>,
    ) -> Result<(), webpki::Error> {
        let others: Vec<_> = path.intermediate_certificates().map(|one| one.der()).collect();
        let anchor = [path.anchor().to_owned()];
        let check = |lists: &[&CertRevocationList<'_>], unknown| {
            let expiry = match chain.enforces_expiry {
                true => ExpirationPolicy::Enforce,
                false => ExpirationPolicy::Ignore,
            };
            let builder = RevocationOptionsBuilder::new(lists);
            let builder = builder.map_err(|_| webpki::Error::UnknownRevocationStatus)?;
            let options = builder.with_status_policy(unknown).with_expiration_policy(expiry);
            chain.verify(&anchor, &others, Some(options.build()), None)
        };
        let mut signed: Vec<_> = self.sole.iter().collect();
        for (list, der) in &self.shared {
            // Another authority of that name has signed the list: it is not about this path.
            if is_signed_on(path, list.issuer(), der) {
                check(&[list], UnknownStatusPolicy::Allow)?;
                signed.push(list);
            }
        }
        check(&signed, UnknownStatusPolicy::Deny)
    }
}

impl ChainCheck<'_> {
    fn verify(
        &self,
        roots: &[TrustAnchor<'_>],
        intermediates: &[CertificateDer<'_>],
        lists: Option<webpki::RevocationOptions<'_>>,
        check: Option<&dyn Fn(&VerifiedPath<'_>) -> Result<(), webpki::Error>>,
    ) -> Result<(), webpki::Error> {
        let usage = KeyUsage::client_auth();
        let certificate = EndEntityCert::try_from(self.end_entity)?;
        certificate
            .verify_for_usage(self.algorithms, roots, intermediates, self.now, usage, lists, check)
            .map(|_| ())
    }
}

/// The certificates of `path` from the client's on, each with the key of its issuer: that of the
/// next certificate, and for the last that of the authority.
pub fn links<'p>(
    path: &'p VerifiedPath<'_>,
) -> impl Iterator<Item = (&'p Cert<'p>, SubjectPublicKeyInfoDer<'static>)> {
    let own: &Cert<'_> = path.end_entity();
    let issuers: Vec<_> = path.intermediate_certificates().collect();
    let keys: Vec<_> = issuers
        .iter()
        .map(|issuer| issuer.subject_public_key_info())
        .chain([webpki::spki_for_anchor(path.anchor())])
        .collect();
    [own].into_iter().chain(issuers).zip(keys)
}

/// Whether an issuer of `path` with the name `issuer` has signed the list `der`.
fn is_signed_on(path: &VerifiedPath<'_>, issuer: &[u8], der: &[u8]) -> bool {
    links(path).any(|(certificate, key)| certificate.issuer() == issuer && is_signed(der, &key))
}

/// Whether the key `spki` (SubjectPublicKeyInfo) has signed the revocation list `der`.
pub fn is_signed(der: &[u8], spki: &[u8]) -> bool {
    let signed = || {
        let (list, _) = element(der)?;
        let (_, after) = element(list)?;
        let tbs = &list[..list.len() - after.len()];
        let (algorithm, after) = element(after)?;
        let (signature, _) = element(after)?;
        let (spki, _) = element(spki)?;
        let (key_algorithm, after) = element(spki)?;
        let (key, _) = element(after)?;
        // The first byte of a BIT STRING counts unused bits.
        let (signature, key) = (signature.get(1..)?, key.get(1..)?);
        let provider = aws_lc_rs::default_provider();
        let mut known = provider.signature_verification_algorithms.all.iter().filter(|one| {
            *one.signature_alg_id() == *algorithm && *one.public_key_alg_id() == *key_algorithm
        });
        known.any(|one| one.verify_signature(key, tbs, signature).is_ok()).then_some(())
    };
    signed().is_some()
}

/// The contents of the first element of `der`, and the bytes after it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (after, any) = Any::from_der(der).ok()?;
    Some((any.data, after))
}

fn in_words_of_rustls(fault: webpki::Error) -> Error {
    Error::InvalidCertificate(match fault {
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

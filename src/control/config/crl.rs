//! Facts of a revocation list: its issuer, signature and age, and the newer list that replaces it.
//!
//! Reads bytes only. webpki consults the lists when clients come (`snapshot/client_auth`).

use std::cmp::Ordering;

use jiff::Timestamp;
use rustls::RootCertStore;
use x509_parser::oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::snapshot::revocation::is_signed;

/// Facts of a revocation list.
pub struct CrlFacts {
    /// The issuer's name in DER, without its outer tag and length.
    pub issuer: Box<[u8]>,
    /// The issuer's name for people.
    pub shown: String,
    /// The list's `thisUpdate`. `None` means a time out of range.
    pub this_update: Option<Timestamp>,
    /// The list's `nextUpdate`. `None` means that it has none.
    pub next_update: Option<Timestamp>,
    /// The issuing distribution point in DER, a part of the issuer's certificates. `None` means all
    /// of them.
    scope: Option<Box<[u8]>>,
    /// The list's number, big-endian without zeros in front. `None` means that it has none.
    number: Option<Box<[u8]>>,
    /// The authority key identifier in DER. `None` means that the list has none.
    authority_key: Option<Box<[u8]>>,
}

/// The authority of `ca` that has signed a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrlSigner {
    /// The authority at this index.
    Root(usize),
    /// An authority whose name `ca` lacks: one between it and the clients.
    Unknown,
}

/// Reads a revocation list, in the ways of webpki, which checks clients, and of x509-parser.
///
/// # Errors
/// One of them cannot read it.
pub fn facts(der: &[u8]) -> Result<CrlFacts, String> {
    let list = webpki::OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
    let of_webpki = webpki::CertRevocationList::from(list);
    let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
    let at = |seconds| Timestamp::from_second(seconds).ok();
    let authority_key = list.tbs_cert_list.find_extension(&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER);
    Ok(CrlFacts {
        issuer: of_webpki.issuer().into(),
        shown: list.issuer().to_string(),
        this_update: at(list.last_update().timestamp()),
        next_update: list.next_update().and_then(|time| at(time.timestamp())),
        scope: of_webpki.issuing_distribution_point().map(Into::into),
        number: list.crl_number().map(|number| number.to_bytes_be().into()),
        authority_key: authority_key.map(|extension| extension.value.into()),
    })
}

/// The authority among `roots` that has signed the list `der` of `issuer`. `None` means that
/// authorities have its name, and that none of their keys has signed it.
pub fn signer(der: &[u8], issuer: &[u8], roots: &RootCertStore) -> Option<CrlSigner> {
    let mut named = roots.roots.iter().enumerate().filter(|(_, root)| *root.subject == *issuer);
    if named.clone().next().is_none() {
        return Some(CrlSigner::Unknown);
    }
    let signer = named.find(|(_, root)| is_signed(der, &webpki::spki_for_anchor(root)));
    signer.map(|(index, _)| CrlSigner::Root(index))
}

impl CrlFacts {
    /// Whether this list replaces `older`: both are complete lists for the same certificates, and
    /// this one is newer by its number and its `thisUpdate`. Where these contradict each other,
    /// neither replaces the other, and both count.
    pub fn replaces(&self, own: CrlSigner, older: &CrlFacts, of_older: CrlSigner) -> bool {
        let is_same_key = match (own, of_older) {
            (CrlSigner::Root(one), CrlSigner::Root(other)) => one == other,
            // The key is only known when a client comes, and then by its certificate.
            (CrlSigner::Unknown, CrlSigner::Unknown) => {
                self.authority_key.is_some() && self.authority_key == older.authority_key
            }
            _ => false,
        };
        if !is_same_key || self.issuer != older.issuer || self.scope != older.scope {
            return false;
        }
        let by_number = match (&self.number, &older.number) {
            (Some(own), Some(other)) => own.len().cmp(&other.len()).then_with(|| own.cmp(other)),
            _ => Ordering::Equal,
        };
        let by_time = self.this_update.cmp(&older.this_update);
        !by_number.is_lt() && !by_time.is_lt() && (by_number.is_gt() || by_time.is_gt())
    }
}

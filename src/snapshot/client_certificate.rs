//! Reads the names of a client's certificate, which TLS has verified.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::policy::certificate::{ClientCertificate, KeyPin};

/// The most bytes of a chain that a connection keeps.
const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// Reads the certificate at the start of `chain`.
///
/// # Errors
/// A sentence: the certificate cannot be read, or the chain is too long to keep. Such a client has
/// no identity, and its connection is refused.
pub fn read(chain: &[CertificateDer<'_>]) -> Result<ClientCertificate, &'static str> {
    let leaf = chain.first().ok_or("the client sent no certificate")?;
    if chain.iter().map(|certificate| certificate.len()).sum::<usize>() > MAX_CHAIN_BYTES {
        return Err("the client's certificate chain is longer than 64 KiB");
    }
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| "the client's certificate cannot be read")?;
    let (mut uris, mut dns_names, mut has_odd_uri) = (Vec::new(), Vec::new(), false);
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| "the names of the client's certificate cannot be read")?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => match ClientCertificate::uri_name(uri) {
                Some(uri) => uris.push(uri),
                None => has_odd_uri = true,
            },
            GeneralName::DNSName(name) => dns_names.extend(ClientCertificate::dns_name(name)),
            _ => {}
        }
    }
    let common_name = certificate.subject().iter_common_name().last();
    let end = certificate.validity().not_after.timestamp();
    Ok(ClientCertificate {
        uris: uris.into(),
        has_odd_uri,
        dns_names: dns_names.into(),
        key_pin: key_pin(certificate.public_key().raw),
        digest: KeyPin(Sha256::digest(leaf).into()),
        common_name: common_name.and_then(|name| name.as_str().ok()).map(Box::from),
        serial: serial(certificate.raw_serial()),
        // "No expiry" is a day more than a timestamp can hold (RFC 5280 §4.1.2.5).
        not_after: Timestamp::from_second(end).unwrap_or(Timestamp::MAX),
        chain: chain.iter().map(|certificate| Box::from(&**certificate)).collect(),
    })
}

/// The digest of a SubjectPublicKeyInfo in DER.
pub fn key_pin(spki: &[u8]) -> KeyPin {
    KeyPin(Sha256::digest(spki).into())
}

/// A serial number as [`ClientCertificate::serial`] has it: DER puts a zero before a high bit.
pub fn serial(raw: &[u8]) -> Box<[u8]> {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw[zeros..].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::certificate::Identity;

    use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber};

    fn certificate(sans: Vec<SanType>, serial: &[u8]) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names = sans;
        params.serial_number = Some(SerialNumber::from_slice(serial));
        (vec![params.self_signed(&key).unwrap().der().clone()], key)
    }

    #[test]
    fn names_of_each_kind_are_read_in_order() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let sans = vec![
            uri("SPIFFE://Example.com/A"),
            SanType::DnsName("A.Example.com".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 1].into()),
            uri("urn:x:y"),
            uri("spiffe://example.com/with space"),
        ];
        let (chain, key) = certificate(sans, &[0x81, 2]);
        let read = read(&chain).unwrap();
        assert_eq!(*read.uris, ["spiffe://example.com/A".into(), "urn:x:y".into()]);
        assert!(read.has_odd_uri);
        assert_eq!(*read.dns_names, ["a.example.com".into()]);
        assert_eq!(*read.serial, [0x81, 2]);
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        assert_eq!(read.key_pin, key_pin(&spki));
        assert_eq!(read.common_name.as_deref(), Some("rcgen self signed cert"));
        assert_eq!(read.identity(), Identity::Uri("spiffe://example.com/A"));
        assert_eq!(*read.chain, [Box::from(&*chain[0])]);
    }

    #[test]
    fn broken_or_huge_certificate_is_an_error() {
        let (chain, _) = certificate(Vec::new(), &[1]);
        assert!(read(&[]).is_err());
        assert!(read(&[CertificateDer::from(chain[0][..chain[0].len() / 2].to_vec())]).is_err());
        let junk = CertificateDer::from(vec![0; MAX_CHAIN_BYTES]);
        assert!(read(&[chain[0].clone(), junk]).is_err());
        let read = read(&chain).unwrap();
        assert_eq!(read.identity(), Identity::Key(read.key_pin));
    }
}

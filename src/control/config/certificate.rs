//! PEM files: a chain and its key, read, matched and named.
//!
//! The only module that calls rustls-pemfile. Chooses no certificate for a connection, and puts
//! nothing of a key into a message.
//!
//! Memory that holds a key or the bytes of its file is overwritten before it is freed. aws-lc does
//! the same with the copy that signs; rustls-pemfile's own line buffer is out of reach.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use rustls_pemfile::Item;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;
use zeroize::Zeroizing;

use super::document::TomlValue;
use super::encoding;
use super::load_context::{LoadContext, about};
use super::off_host::{self, PlaceholderKey};
use super::source::{MAX_CRL_BYTES, MAX_PEM_BYTES};
use super::source_text::{Finding, error, warning};
use crate::policy::route::HostPattern;
use crate::snapshot::certificate::Certificate;

/// Reads the certificate in the files `chain` and `key`. `None` means that an error was reported.
pub fn read(
    load: &mut LoadContext<'_>,
    chain: TomlValue<'_>,
    key: TomlValue<'_>,
) -> Option<Certificate> {
    let (certificate, leaf) = pair(load, chain, key)?;
    for finding in leaf.warnings(&certificate.label) {
        chain.report(finding);
    }
    Some(certificate)
}

/// Reads a client certificate. Servers do not check its names, so no doubts are reported.
pub fn read_client(
    load: &mut LoadContext<'_>,
    chain: TomlValue<'_>,
    key: TomlValue<'_>,
) -> Option<Certificate> {
    pair(load, chain, key).map(|(certificate, _)| certificate)
}

/// Reads the certificate authorities in the file that `value` names. `None` means that an error was
/// reported.
pub fn authorities(load: &mut LoadContext<'_>, value: TomlValue<'_>) -> Option<RootCertStore> {
    let name = value.string()?;
    let read = |load: &mut LoadContext<'_>| {
        let mut roots = RootCertStore::empty();
        for (number, certificate) in (1..).zip(sections(load, name, "backends")?) {
            roots.add(certificate).map_err(|fault| {
                error(format!("certificate {number} in {name} is no authority: {fault}"))
            })?;
        }
        Ok(roots)
    };
    read(load).map_err(|finding| value.report(finding)).ok()
}

/// Reads the certificates in the file `name`, of the authorities that sign for `signed`, at least
/// one.
pub fn sections(
    load: &mut LoadContext<'_>,
    name: &str,
    signed: &str,
) -> Result<Vec<CertificateDer<'static>>, Finding> {
    let pem = PemSections::read_open(load, name, false)?;
    if !pem.certificates.is_empty() {
        return Ok(pem.certificates);
    }
    let remedy = format!(
        "sections \"-----BEGIN CERTIFICATE-----\", of the CAs that sign the {signed}' certificates"
    );
    Err(error(format!("{name} holds no certificate")).with_remedy(remedy))
}

/// Reads the revocation lists in the file `name`, at least one: PEM, or one list in DER, which
/// authorities publish.
pub fn revocation_lists(
    load: &mut LoadContext<'_>,
    name: &str,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Finding> {
    let path = load.path(name)?;
    let bytes = load.files.read_open(&path, MAX_CRL_BYTES, false);
    let bytes = bytes.map_err(|fault| about(name, &fault))?;
    if let [0x30, 0x81..=0x84, ..] = bytes[..] {
        return Ok(vec![bytes.to_vec().into()]);
    }
    let pem = PemSections::parse(&bytes, name)?;
    if !pem.revocation_lists.is_empty() {
        return Ok(pem.revocation_lists);
    }
    let remedy = "sections \"-----BEGIN X509 CRL-----\", or one list in DER";
    Err(error(format!("{name} holds no revocation list")).with_remedy(remedy))
}

fn pair(
    load: &mut LoadContext<'_>,
    chain: TomlValue<'_>,
    key: TomlValue<'_>,
) -> Option<(Certificate, LeafCertificate)> {
    let (chain_name, key_name) = (chain.string(), key.string());
    let in_chain = chain_name.and_then(|name| {
        // Not where the key is the same file. A file with a key is never kept either way.
        let read = match key_name == chain_name {
            true => PemSections::read(load, name),
            false => PemSections::read_open(load, name, true),
        };
        read.map_err(|finding| chain.report(finding)).ok()
    });
    // One file may hold both. It is then read, and reported, once.
    let in_key = if key_name == chain_name || load.is_off_host {
        None
    } else {
        key_name.and_then(|name| {
            PemSections::read(load, name).map_err(|finding| key.report(finding)).ok()
        })
    };
    let (chain_name, key_name) = (chain_name?, key_name?);
    let in_key = if key_name == chain_name { in_chain.as_ref() } else { in_key.as_ref() };

    let first =
        |pem| LeafCertificate::first(pem, chain_name).map_err(|finding| chain.report(finding)).ok();
    let leaf = in_chain.as_ref().and_then(first);
    if load.is_off_host {
        return without_key(in_chain.as_ref()?, leaf?, chain, key, load.now);
    }
    let private =
        in_key.and_then(|pem| pem.key(key_name).map_err(|finding| key.report(finding)).ok());
    if private.is_some() && is_open_to_others(load, key_name) {
        let finding = warning("others can read the private key");
        key.report(
            finding.with_remedy(format!("chmod o-rwx {key_name}, and check who has seen it")),
        );
    }
    let (leaf, private, certificates) = (leaf?, private?, in_chain.as_ref()?.certificates.clone());
    let certified = match certified(certificates, private, &leaf) {
        Ok(certified) => certified,
        Err(Error::InvalidCertificate(fault)) => {
            chain.report(error(format!(
                "{chain_name} holds a certificate that TLS cannot use: {fault}"
            )));
            return None;
        }
        Err(fault) => {
            key.report(unusable_key(fault, chain_name, key_name, &leaf));
            return None;
        }
    };
    if let Some(finding) = leaf.out_of_date(load.now) {
        chain.report(finding);
    }
    let (label, key_file, names) = (chain_name.into(), key_name.into(), leaf.names.clone());
    let certificate =
        Certificate { label, key_file, names, not_after: leaf.not_after, key: Arc::new(certified) };
    Some((certificate, leaf))
}

/// The certificate in `pem` with a placeholder for its private key.
fn without_key(
    pem: &PemSections,
    leaf: LeafCertificate,
    chain: TomlValue<'_>,
    key: TomlValue<'_>,
    now: Timestamp,
) -> Option<(Certificate, LeafCertificate)> {
    let (chain_name, key_name) = (chain.string()?, key.string()?);
    off_host::leave_key_out(key);
    let placeholder = PlaceholderKey::of(&leaf.public_key).filter(|_| !leaf.is_short());
    let unusable = || Error::General("its type is unknown".into());
    let certified = placeholder.ok_or_else(unusable).and_then(|placeholder| {
        let certified = CertifiedKey::new(pem.certificates.clone(), placeholder);
        leaf.matches(&certified).map(|()| certified)
    });
    let report = |fault| key.report(unusable_key(fault, chain_name, key_name, &leaf));
    let certified = certified.map_err(report).ok()?;
    if let Some(finding) = leaf.out_of_date(now) {
        chain.report(finding);
    }
    let (label, key_file, names) = (chain_name.into(), key_name.into(), leaf.names.clone());
    let (not_after, key) = (leaf.not_after, Arc::new(certified));
    Some((Certificate { label, key_file, names, not_after, key }, leaf))
}

/// Says why TLS cannot use a key with its certificate.
fn unusable_key(fault: Error, chain_name: &str, key_name: &str, leaf: &LeafCertificate) -> Finding {
    match fault {
        // Most often a renewal has replaced one of the two files so far.
        Error::InconsistentKeys(_) => {
            error(format!("{key_name} is not the key of the first certificate in {chain_name}"))
                .with_remedy(
                    "replace both files together; the server's own certificate comes first in a \
                     chain",
                )
                .half_renewed()
        }
        _ if leaf.is_short() => error(format!(
            "{key_name} holds an RSA key of fewer than {MIN_RSA_BITS} bits, which TLS cannot use"
        ))
        .with_remedy("have the certificate issued for a longer one, or for an EC key"),
        fault => {
            let why = if let Error::General(why) = fault { why } else { fault.to_string() };
            error(format!("{key_name} holds a key that TLS cannot use: {why}"))
        }
    }
}

/// Like `CertifiedKey::from_der`, which however takes ownership of the key and leaves it in memory.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
    leaf: &LeafCertificate,
) -> Result<CertifiedKey, Error> {
    let certified = CertifiedKey::new(chain, any_supported_type(key)?);
    let matched = match certified.keys_match() {
        // rustls reads version 3 alone; old tools issue certificates without names in version 1.
        Err(Error::InvalidCertificate(_)) if leaf.is_version_1 => leaf.matches(&certified),
        matched => matched,
    };
    match matched {
        // An unknown public key is no error.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}

/// The sections of a PEM file that are used here.
struct PemSections {
    certificates: Vec<CertificateDer<'static>>,
    revocation_lists: Vec<CertificateRevocationListDer<'static>>,
    key: Option<Zeroizing<PrivateKeyDer<'static>>>,
    has_passphrase: bool,
}

impl PemSections {
    fn read(load: &mut LoadContext<'_>, name: &str) -> Result<PemSections, Finding> {
        let path = load.path(name)?;
        let bytes = load.files.read(&path, MAX_PEM_BYTES);
        let bytes = bytes.map_err(|fault| off_host::about_absent(load, name, &fault))?;
        PemSections::parse(&bytes, name)
    }

    /// Reads a file that has no key in it.
    fn read_open(
        load: &mut LoadContext<'_>,
        name: &str,
        is_chain: bool,
    ) -> Result<PemSections, Finding> {
        let path = load.path(name)?;
        let bytes = load.files.read_open(&path, MAX_PEM_BYTES, is_chain);
        let bytes = bytes.map_err(|fault| off_host::about_absent(load, name, &fault))?;
        PemSections::parse(&bytes, name)
    }

    fn parse(bytes: &[u8], name: &str) -> Result<PemSections, Finding> {
        if let Some(finding) = not_pem(bytes, name) {
            return Err(finding);
        }
        let unmarked = without_marks(bytes);
        let bytes = unmarked.as_ref().map_or(bytes, |plain| &plain[..]);
        let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        let has_passphrase =
            has("-----BEGIN ENCRYPTED PRIVATE KEY-----") || has("Proc-Type: 4,ENCRYPTED");
        let (certificates, revocation_lists, key) = Default::default();
        let mut pem = PemSections { certificates, revocation_lists, key, has_passphrase };
        let mut rest = bytes;
        loop {
            let (item, left) = match rustls_pemfile::read_one_from_slice(rest) {
                Ok(Some(read)) => read,
                Ok(None) => return Ok(pem),
                // The old way to encrypt a key leaves no base64 in its section.
                Err(_) if has_passphrase => return Ok(pem),
                Err(fault) => {
                    let finding = error(format!("{name} is not valid PEM: {}", pem_fault(&fault)));
                    return Err(finding.with_remedy("was it cut short?"));
                }
            };
            rest = left;
            match item {
                Item::X509Certificate(certificate) => pem.certificates.push(certificate),
                Item::Crl(list) => pem.revocation_lists.push(list),
                Item::Pkcs1Key(key) => pem.push_key(key.into()),
                Item::Pkcs8Key(key) => pem.push_key(key.into()),
                Item::Sec1Key(key) => pem.push_key(key.into()),
                _ => {}
            }
        }
    }

    fn push_key(&mut self, key: PrivateKeyDer<'static>) {
        self.key.get_or_insert(Zeroizing::new(key));
    }

    fn key(&self, name: &str) -> Result<&PrivateKeyDer<'static>, Finding> {
        if let Some(key) = &self.key {
            return Ok(key);
        }
        if self.has_passphrase {
            let remedy = format!("remove the passphrase: openssl pkey -in {name} -out NEW.key");
            return Err(error(format!("{name} is protected by a passphrase")).with_remedy(remedy));
        }
        let finding = error(format!("{name} holds no private key"));
        Err(finding.with_remedy(
            "a section \"-----BEGIN PRIVATE KEY-----\", or of an RSA or EC PRIVATE KEY",
        ))
    }
}

/// Recognises other contents in the place of PEM: text in another encoding, or binary data.
fn not_pem(bytes: &[u8], name: &str) -> Option<Finding> {
    if let Some(encoding) = encoding::wide(bytes) {
        let remedy = format!("iconv -f {encoding} -t UTF-8 {name} > NEW.pem");
        return Some(error(format!("{name} is in {encoding}")).with_remedy(remedy));
    }
    // A SEQUENCE with a length of several bytes begins all of DER, PKCS #12 included.
    let [0x30, 0x81..=0x84, ..] = bytes else { return None };
    let remedy = format!("openssl x509 -in {name} -out NEW.pem, or openssl pkey for a key");
    Some(error(format!("{name} holds binary data (DER or PKCS #12), not PEM")).with_remedy(remedy))
}

/// `bytes` without the byte order marks at the beginnings of lines, if there are any. Joined files
/// have one at each seam, and the section behind it would go unread.
fn without_marks(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
    let lines = || bytes.split_inclusive(|byte| *byte == b'\n');
    if !lines().any(|line| line.starts_with(BYTE_ORDER_MARK)) {
        return None;
    }
    // Allocated at full size, so that growing never leaves part of a key in freed memory.
    let mut plain = Zeroizing::new(Vec::with_capacity(bytes.len()));
    for mut line in lines() {
        while let Some(rest) = line.strip_prefix(BYTE_ORDER_MARK) {
            line = rest;
        }
        plain.extend_from_slice(line);
    }
    Some(plain)
}

/// The fault of a PEM file. The error's own text is not used: it repeats a line, which may be of a
/// key.
fn pem_fault(fault: &rustls_pemfile::Error) -> &'static str {
    match fault {
        rustls_pemfile::Error::MissingSectionEnd { .. } => "the end of a section is missing",
        rustls_pemfile::Error::IllegalSectionStart { .. } => "a section does not begin as one",
        rustls_pemfile::Error::Base64Decode(_) => "a section is not base64",
    }
}

/// Properties of the server's own certificate, the first of a chain.
struct LeafCertificate {
    /// As defined by [`Certificate::names`].
    names: Vec<Box<str>>,
    /// Whether `names` come from the SANs, not from the common name.
    has_sans: bool,
    is_version_1: bool,
    /// Whether an authority signed it with a digest that clients no longer accept.
    has_weak_signature: bool,
    /// The public key, as DER.
    public_key: Box<[u8]>,
    /// Length of the RSA modulus, in bits. `None` means that the key is no RSA key.
    rsa_bits: Option<usize>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl LeafCertificate {
    fn first(pem: &PemSections, name: &str) -> Result<LeafCertificate, Finding> {
        let mut leaf = None;
        for (number, der) in (1..).zip(&pem.certificates) {
            let (_, certificate) = X509Certificate::from_der(der).map_err(|_| {
                error(format!("certificate {number} in {name} cannot be read"))
                    .with_remedy("was it cut short?")
            })?;
            // The others are only parsed: a chain that was cut short shows there.
            leaf.get_or_insert_with(|| LeafCertificate::from_x509(&certificate));
        }
        leaf.ok_or_else(|| {
            let finding = error(format!("{name} holds no certificate"));
            finding.with_remedy("sections \"-----BEGIN CERTIFICATE-----\", the server's own first")
        })
    }

    fn from_x509(certificate: &X509Certificate<'_>) -> LeafCertificate {
        let (sans, validity) = (sans(certificate), certificate.validity());
        let has_sans = !sans.is_empty();
        let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
        // Clients trust a self-signed certificate by itself, and do not look at its signature.
        let is_own = certificate.subject() == certificate.issuer();
        LeafCertificate {
            names: if has_sans { sans } else { common_name(certificate).into_iter().collect() },
            has_sans,
            is_version_1: certificate.version() == X509Version::V1,
            has_weak_signature: !is_own && WEAK_SIGNATURES.contains(&&*algorithm),
            public_key: certificate.public_key().raw.into(),
            rsa_bits: rsa_bits(certificate),
            not_before: timestamp(validity.not_before),
            not_after: timestamp(validity.not_after),
        }
    }

    /// Reasons why clients may refuse the certificate at any time. It is served all the same: the
    /// decision is the client's, and some look at the common name, or at nothing.
    fn warnings(&self, name: &str) -> Vec<Finding> {
        let mut doubts = Vec::new();
        if !self.has_sans {
            let issued = "have it issued with its DNS names as subject alternative names";
            let finding = match self.names.first() {
                Some(common) => {
                    format!(
                        "the certificate in {name} has no host among its subject alternative \
                         names, only the common name `{common}`"
                    )
                }
                None => format!("the certificate in {name} names no host"),
            };
            doubts.push(
                warning(format!("{finding}: browsers and most clients refuse it"))
                    .with_remedy(issued),
            );
        }
        if self.has_weak_signature {
            let finding = warning(format!(
                "the certificate in {name} is signed with a broken digest (MD5 or SHA-1)"
            ));
            doubts.push(finding.with_remedy("have it issued anew: most clients refuse it"));
        }
        doubts
    }

    fn is_short(&self) -> bool {
        self.rsa_bits.is_some_and(|bits| bits < MIN_RSA_BITS)
    }

    /// Whether the certificate's public key is that of `certified`, with the result of
    /// `CertifiedKey::keys_match`.
    fn matches(&self, certified: &CertifiedKey) -> Result<(), Error> {
        let own = certified.key.public_key().ok_or(InconsistentKeys::Unknown)?;
        if *own == *self.public_key { Ok(()) } else { Err(InconsistentKeys::KeyMismatch.into()) }
    }

    /// Warns of a certificate outside its validity. It is served all the same: the decision is the
    /// client's.
    fn out_of_date(&self, now: Timestamp) -> Option<Finding> {
        if self.not_after < now {
            return Some(
                warning(format!("the certificate expired at {}", self.not_after))
                    .with_remedy("renew it; until then it is served"),
            );
        }
        (now < self.not_before)
            .then(|| warning(format!("the certificate is not valid before {}", self.not_before)))
    }
}

/// Fewest bits of an RSA key that TLS signs with.
const MIN_RSA_BITS: usize = 2048;

fn rsa_bits(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

/// RSA with MD5 and SHA-1, and ECDSA with SHA-1.
const WEAK_SIGNATURES: [&str; 3] =
    ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"];

/// The common name, if it is a host name: OpenSSL and Node compare it if there is no SAN.
fn common_name(certificate: &X509Certificate<'_>) -> Option<Box<str>> {
    let common = certificate.subject().iter_common_name().last()?.as_str().ok()?;
    HostPattern::parse(common)
        .ok()
        .filter(|host| *host != HostPattern::Any)
        .map(|host| host.to_string().into())
}

/// DNS names and addresses of the SANs (RFC 5280 §4.2.1.6), as defined by [`Certificate::names`].
fn sans(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase().into()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string().into()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(v6)
}

/// Converts a time. "No expiry" is 9999-12-31 in a certificate (RFC 5280 §4.1.2.5), a day more than
/// a [`Timestamp`] can hold.
fn timestamp(time: ASN1Time) -> Timestamp {
    let end = if time.timestamp() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(time.timestamp()).unwrap_or(end)
}

/// Whether users beyond owner and group can read the file `name`.
pub fn is_open_to_others(load: &LoadContext<'_>, name: &str) -> bool {
    let mode = load.path(name).ok().and_then(|path| load.files.mode(&path));
    // The group is left out: a key is `root:sidegate 0640` by docs/operations.md.
    mode.is_some_and(|mode| mode & 0o007 != 0)
}

//! Certificates for local use: those of `demo` and of `init`.
//!
//! The certificates name the loopback addresses, and the host and address of `init`. The key of an
//! authority never leaves this process.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// The names in every certificate.
pub const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate and its key, as PEM.
pub struct CertificateAndKey {
    /// The certificate, as PEM.
    pub chain: String,
    /// The private key, as PEM (PKCS#8).
    pub key: String,
}

/// Creates a temporary authority and the one certificate that it signs; returns the authority's
/// certificate as PEM and the pair. The authority's key is dropped.
pub fn issue(name: &str, days: i32) -> Result<(String, CertificateAndKey), Error> {
    let mut params = params(name, days)?;
    // Path length 0: it signs end entities alone, and no further authority (RFC 5280 §4.2.1.9).
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let signing = KeyPair::generate()?;
    let authority = params.self_signed(&signing)?.pem();
    let key = KeyPair::generate()?;
    let certificate = server("localhost", days)?.signed_by(&key, &Issuer::new(params, signing))?;
    Ok((authority, CertificateAndKey { chain: certificate.pem(), key: key.serialize_pem() }))
}

/// Creates a self-signed certificate for `LOCAL_NAMES` and `more`. It is no authority, so trusting
/// it means trusting nothing else.
pub fn self_signed(name: &str, days: i32, more: &[String]) -> Result<CertificateAndKey, Error> {
    let key = KeyPair::generate()?;
    let mut params = server(name, days)?;
    params.subject_alt_names.extend(CertificateParams::new(more)?.subject_alt_names);
    let certificate = params.self_signed(&key)?;
    Ok(CertificateAndKey { chain: certificate.pem(), key: key.serialize_pem() })
}

fn server(name: &str, days: i32) -> Result<CertificateParams, Error> {
    let mut params = params(name, days)?;
    params.subject_alt_names =
        CertificateParams::new(LOCAL_NAMES.map(String::from))?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Strict verifiers (Python's since 3.13) require the authority key identifier.
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(name: &str, days: i32) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    let midnight = |date: Date| {
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    // Valid from yesterday on: a client's clock may be behind ours.
    params.not_before = midnight(today.saturating_sub(Span::new().days(1)));
    params.not_after = midnight(today.saturating_add(Span::new().days(days)));
    Ok(params)
}

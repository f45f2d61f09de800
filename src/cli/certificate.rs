//! Certificates for a machine's own use: the demo's and `init`'s.
//!
//! They name the loopback, and what `init` is told. A signing key never leaves this process.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// What they are valid for.
pub const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate and its key, as PEM.
pub struct Pair {
    /// The certificate.
    pub chain: String,
    /// The key, PKCS#8.
    pub key: String,
}

/// An authority of a moment, as PEM, and the one certificate that it signed.
pub fn of_own_authority(name: &str, days: i32) -> Result<(String, Pair), Error> {
    let mut params = params(name, days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let signing = KeyPair::generate()?;
    let authority = params.self_signed(&signing)?.pem();
    let key = KeyPair::generate()?;
    let certificate = server("localhost", days)?.signed_by(&key, &Issuer::new(params, signing))?;
    Ok((authority, Pair { chain: certificate.pem(), key: key.serialize_pem() }))
}

/// A certificate that vouches for itself, for these names as well: who trusts it trusts nothing else.
pub fn self_signed(name: &str, days: i32, more: &[String]) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let mut params = server(name, days)?;
    params.subject_alt_names.extend(CertificateParams::new(more)?.subject_alt_names);
    let certificate = params.self_signed(&key)?;
    Ok(Pair { chain: certificate.pem(), key: key.serialize_pem() })
}

fn server(name: &str, days: i32) -> Result<CertificateParams, Error> {
    let mut params = params(name, days)?;
    params.subject_alt_names = CertificateParams::new(NAMES.map(String::from))?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Strict verifiers (Python's, since 3.13) want to see who signed.
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
    // From yesterday: a client's clock may be behind ours.
    params.not_before = midnight(today.saturating_sub(Span::new().days(1)));
    params.not_after = midnight(today.saturating_add(Span::new().days(days)));
    Ok(params)
}

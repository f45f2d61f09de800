//! The type of a certificate's key, and whether a client can verify what it signs.
//!
//! The type decides which of several certificates for one name a client gets. Nothing is signed
//! here.

use std::fmt;

use rustls::sign::SigningKey;
use rustls::{CipherSuite, NamedGroup, SignatureAlgorithm, SignatureScheme};

/// The type of a key: keys of one type sign for exactly the same clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA over one of the curves that TLS 1.3 names.
    Ecdsa(Curve),
    /// Ed25519, which is EdDSA over Curve25519.
    Ed25519,
    /// RSA of any length.
    Rsa,
    /// A type that this version of rustls has added.
    Other,
}

/// The curve of an ECDSA key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST's curve P-256 (FIPS 186-5).
    P256,
    /// NIST's curve P-384 (FIPS 186-5).
    P384,
    /// NIST's curve P-521 (FIPS 186-5).
    P521,
}

/// The part of a ClientHello that says which signatures its client verifies.
#[derive(Debug, Clone, Copy)]
pub struct SignatureOffer<'h> {
    /// The signature schemes in the client's order, without any that its cipher suites exclude.
    pub schemes: &'h [SignatureScheme],
    /// The groups. `None` means that the client names none.
    pub groups: Option<&'h [NamedGroup]>,
    /// The cipher suites, of both versions of TLS.
    pub suites: &'h [CipherSuite],
}

const RSA_SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];

impl Curve {
    fn scheme(self) -> SignatureScheme {
        match self {
            Curve::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Curve::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            Curve::P521 => SignatureScheme::ECDSA_NISTP521_SHA512,
        }
    }

    fn group(self) -> NamedGroup {
        match self {
            Curve::P256 => NamedGroup::secp256r1,
            Curve::P384 => NamedGroup::secp384r1,
            Curve::P521 => NamedGroup::secp521r1,
        }
    }
}

impl KeyType {
    /// The type of `key`.
    pub fn of(key: &dyn SigningKey) -> KeyType {
        match key.algorithm() {
            SignatureAlgorithm::RSA => KeyType::Rsa,
            SignatureAlgorithm::ED25519 => KeyType::Ed25519,
            // rustls does not name the curve, but each curve signs with one scheme alone (RFC 8446
            // §4.2.3).
            SignatureAlgorithm::ECDSA => [Curve::P256, Curve::P384, Curve::P521]
                .into_iter()
                .find(|curve| key.choose_scheme(&[curve.scheme()]).is_some())
                .map_or(KeyType::Other, KeyType::Ecdsa),
            _ => KeyType::Other,
        }
    }

    /// The schemes that a key of this type signs with.
    fn schemes(self) -> &'static [SignatureScheme] {
        match self {
            KeyType::Ecdsa(Curve::P256) => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            KeyType::Ecdsa(Curve::P384) => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            KeyType::Ecdsa(Curve::P521) => &[SignatureScheme::ECDSA_NISTP521_SHA512],
            KeyType::Ed25519 => &[SignatureScheme::ED25519],
            KeyType::Rsa => &RSA_SCHEMES,
            KeyType::Other => &[],
        }
    }

    /// How well a key of this type suits a client; the least rank is the best. `None` means that
    /// the client cannot verify its signatures.
    pub fn rank(self, offer: &SignatureOffer<'_>) -> Option<SignatureRank> {
        let at = offer.schemes.iter().position(|scheme| self.schemes().contains(scheme))?;
        Some(match self {
            KeyType::Rsa => SignatureRank::Rsa,
            KeyType::Ecdsa(curve) if !offer.has_group(curve) => SignatureRank::OtherGroup(at),
            KeyType::Ecdsa(_) | KeyType::Ed25519 | KeyType::Other => SignatureRank::Short(at),
        })
    }
}

/// How well a key suits a client that can verify its signatures, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignatureRank {
    /// Short keys, which are cheap to sign with, in the client's order.
    Short(usize),
    /// RSA, whatever the client's order: its signatures cost the server most.
    Rsa,
    /// ECDSA over a curve that is not among the client's groups, in the client's order.
    OtherGroup(usize),
}

impl SignatureOffer<'_> {
    /// Whether `curve` is among the groups of a client that may speak TLS 1.2 with an ECDSA key.
    /// There the groups bind the key of the certificate too (RFC 8422 §5.1.1), and OpenSSL ends the
    /// handshake over it. In TLS 1.3 they are those of the key exchange (RFC 8446 §4.2.7).
    fn has_group(&self, curve: Curve) -> bool {
        let Some(groups) = self.groups else { return true };
        let is_of_12 = |suite| ECDSA_SUITES.contains(suite);
        groups.contains(&curve.group()) || !self.suites.iter().any(is_of_12)
    }
}

/// The cipher suites of TLS 1.2 that rustls speaks with an ECDSA or Ed25519 key.
const ECDSA_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyType::Ecdsa(Curve::P256) => "ECDSA P-256",
            KeyType::Ecdsa(Curve::P384) => "ECDSA P-384",
            KeyType::Ecdsa(Curve::P521) => "ECDSA P-521",
            KeyType::Ed25519 => "Ed25519",
            KeyType::Rsa => "RSA",
            KeyType::Other => "another type",
        })
    }
}

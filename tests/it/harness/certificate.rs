//! Certificates for a test: one authority for the whole run, and what it signs.

use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SignatureAlgorithm, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A chain and its key as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    pub chain: String,
    pub key: String,
}

/// Makes a certificate for `names`, signed by the run's authority.
pub fn signed(names: &[&str]) -> Pair {
    issued(names, |_| (), &authority().issuer)
}

/// The same, for a key of this type.
pub fn signed_for(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Pair {
    let key = KeyPair::generate_for(algorithm).unwrap();
    issued_for(key, names, |_| (), &authority().issuer)
}

/// Makes a certificate that expired long ago.
pub fn expired(names: &[&str]) -> Pair {
    expired_for(names, &PKCS_ECDSA_P256_SHA256)
}

/// The same, for a key of this type.
pub fn expired_for(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Pair {
    let past = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    };
    issued_for(KeyPair::generate_for(algorithm).unwrap(), names, past, &authority().issuer)
}

/// Makes a certificate of an unknown authority.
pub fn unknown(names: &[&str]) -> Pair {
    issued(names, |_| (), &Authority::new("somebody else's authority").issuer)
}

fn issued(
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
    issuer: &Issuer<'_, KeyPair>,
) -> Pair {
    issued_for(KeyPair::generate().unwrap(), names, change, issuer)
}

fn issued_for(
    key: KeyPair,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
    issuer: &Issuer<'_, KeyPair>,
) -> Pair {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a test's server");
    change(&mut params);
    let certificate = params.signed_by(&key, issuer).unwrap();
    Pair { chain: certificate.pem(), key: key.serialize_pem() }
}

/// Makes a server's TLS configuration, with a fresh certificate for `names`. With `asks`, it
/// accepts only clients with a certificate of the run's authority.
pub fn server(names: &[&str], asks: bool) -> Arc<ServerConfig> {
    server_with(&signed(names), asks, &[])
}

/// The same with this certificate and these ALPN protocols; none means no choice.
pub fn server_with(pair: &Pair, asks: bool, protocols: &[&str]) -> Arc<ServerConfig> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if asks {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Returns the run's authority as PEM.
pub fn authority_pem() -> &'static str {
    &authority().pem
}

/// Returns a store that trusts the run's authority alone.
pub fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority().certificate.clone()).unwrap();
    Arc::new(roots)
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let signed = params.self_signed(&key).unwrap();
        let (certificate, pem) = (signed.der().clone(), signed.pem());
        Authority { issuer: Issuer::new(params, key), certificate, pem }
    }
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new("a test's authority"))
}

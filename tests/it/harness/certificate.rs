//! Certificates for a test: one authority for the whole run, and what it signs.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
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

/// A fresh certificate for `names`, signed by the run's authority.
pub fn signed(names: &[&str]) -> Pair {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a test's server");
    let certificate = params.signed_by(&key, &authority().issuer).unwrap();
    Pair { chain: certificate.pem(), key: key.serialize_pem() }
}

/// A server's side of TLS, with a fresh certificate for `names`; `asks`: it lets in only clients that the run's authority
/// vouches for.
pub fn server(names: &[&str], asks: bool) -> Arc<ServerConfig> {
    let pair = signed(names);
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = if asks {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// The run's authority, as PEM.
pub fn authority_pem() -> &'static str {
    &authority().pem
}

/// What trusts the run's authority and nobody else.
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

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a test's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let signed = params.self_signed(&key).unwrap();
        let (certificate, pem) = (signed.der().clone(), signed.pem());
        Authority { issuer: Issuer::new(params, key), certificate, pem }
    })
}

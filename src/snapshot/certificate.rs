//! The certificates of one generation, and the choice among them by server name.
//!
//! This module chooses and never parses: `control/config/certificate.rs` reads PEM, and `data/tls`
//! serves the chosen certificate.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;

/// A certificate chain with its private key, checked to match.
pub struct Certificate {
    /// `chain` as written in `sidegate.toml`; the `certificate` label.
    pub label: Arc<str>,
    /// Path of the private key (`key`), as written.
    pub key_file: Arc<str>,
    /// The DNS names and addresses of the leaf's SANs, lower case, without a
    /// trailing dot; a wildcard as `*.example.com`; an address as `192.0.2.1`.
    pub names: Vec<Box<str>>,
    /// End of the leaf's validity.
    pub not_after: Timestamp,
    /// The chain and signing key, in the form rustls uses.
    pub key: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("label", &self.label)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// All certificates of a generation; the first is the default.
#[derive(Debug, Default)]
pub struct Certificates {
    all: Vec<Arc<Certificate>>,
    by_name: HashMap<Box<str>, usize>,
}

impl Certificates {
    /// Indexes `all`. If two cover one name, the first serves it.
    pub fn new(all: Vec<Arc<Certificate>>) -> Self {
        let mut by_name = HashMap::new();
        for (index, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                by_name.entry(name.clone()).or_insert(index);
            }
        }
        Certificates { all, by_name }
    }

    /// Returns the certificate that covers `name` (lower case, no trailing dot): an exact match,
    /// else a wildcard of one label.
    pub fn covering(&self, name: &str) -> Option<&Arc<Certificate>> {
        let exact = self.by_name.get(name);
        let index = exact.or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        })?;
        self.all.get(*index)
    }

    /// The certificate for clients that send no known server name. `None` means that there are no
    /// certificates.
    pub fn default(&self) -> Option<&Arc<Certificate>> {
        self.all.first()
    }

    /// Iterates over the certificates, the default first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.all.iter()
    }
}

impl Certificate {
    /// Whether this certificate is valid for `name` (lower case, no trailing dot). A wildcard
    /// matches exactly one whole label (RFC 6125 §6.4.3).
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|own| {
            **own == *name
                || own.strip_prefix("*.").is_some_and(|parent| {
                    name.split_once('.')
                        .is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
                })
        })
    }
}

//! Judges again who an open connection speaks for, and whether its certificate is valid.
//!
//! A PROXY header is read once, and a TLS handshake verifies once. The listed peers, authorities,
//! revocation lists, revoked serials and the mode of a listener may change while its connections
//! are open, and each verdict asks for the present ones.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use crate::policy::certificate::ClientCertificate;
use crate::policy::network::Peer;
use crate::policy::subject::{Ingress, Subject};
use crate::refusal::Refusal;
use crate::snapshot::client_auth::{ClientAuth, ClientAuthMode};
use crate::snapshot::generation::Snapshot;

impl Snapshot {
    /// Returns `subject` as this generation knows it: without its certificate, where the listener
    /// no longer verifies any.
    ///
    /// # Errors
    /// [`Refusal::Proxy`]: the client was named by a peer whose PROXY headers count no more.
    ///
    /// [`Refusal::Identity`]: the listener now requires a certificate that the connection lacks, or
    /// no longer accepts the connection's certificate.
    pub(super) fn recognise<'s>(
        &self,
        subject: &'s Subject,
        now: Timestamp,
    ) -> Result<Cow<'s, Subject>, Refusal> {
        let Some(ingress) = &subject.ingress else { return Ok(Cow::Borrowed(subject)) };
        if ingress.named_by.is_some_and(|peer| !self.believes(&ingress.listener, peer)) {
            return Err(Refusal::Proxy);
        }
        let verifier = self.verifier_of(&ingress.listener);
        match (verifier, &ingress.certificate) {
            (None, None) => Ok(Cow::Borrowed(subject)),
            // Without a verifier no authority is trusted any more: the certificate proves nothing
            // now.
            (None, Some(_)) => Ok(Cow::Owned(subject.without_certificate())),
            (Some(verifier), None) => match verifier.mode() {
                // The connection is older than the mode: its handshake would fail now.
                ClientAuthMode::Required => Err(Refusal::Identity),
                ClientAuthMode::Optional => Ok(Cow::Borrowed(subject)),
            },
            // A handshake is the last to look at the clock of a connection that stays open.
            (Some(_), Some(certificate)) if certificate.not_after < now => Err(Refusal::Identity),
            (Some(verifier), Some(certificate)) => verify(verifier, ingress, certificate, now)
                .then_some(Cow::Borrowed(subject))
                .ok_or(Refusal::Identity),
        }
    }

    /// Whether a PROXY header from `peer` counts at `listener`. At a listener that is gone, none
    /// does: nothing says any more which peers speak the truth.
    fn believes(&self, listener: &str, peer: Peer) -> bool {
        let listed = self.listeners.get(listener).map(|rules| &rules.listener.proxy_protocol);
        listed.is_some_and(|peers| peers.as_ref().is_some_and(|peers| peers.contains(peer)))
    }

    fn verifier_of(&self, listener: &str) -> Option<&ClientAuth> {
        // Mostly no listener has one, and then no name is looked up.
        let has_any = |rules: &super::ListenerRules| {
            rules.tls.as_ref().is_some_and(|tls| tls.client_auth().is_some())
        };
        if !self.listeners.values().any(has_any) {
            return None;
        }
        self.listeners.get(listener)?.tls.as_ref()?.client_auth().map(|verifier| &**verifier)
    }
}

/// Verifies a certificate, unless `verifier` has done so before. That costs signatures, and a
/// reconcile asks for every tunnel.
fn verify(
    verifier: &ClientAuth,
    ingress: &Ingress,
    certificate: &ClientCertificate,
    now: Timestamp,
) -> bool {
    // Relaxed: two threads that verify at once come to the same end.
    if ingress.verified_by.load(Ordering::Relaxed) == verifier.id() {
        return true;
    }
    let chain: Vec<_> = certificate.chain.iter().map(|der| CertificateDer::from(&**der)).collect();
    let is_valid = verifier.verify(&chain, now).is_ok();
    if is_valid {
        ingress.verified_by.store(verifier.id(), Ordering::Relaxed);
    }
    is_valid
}

//! The subject of a verdict: a client, and what it has proved about itself.
//!
//! The client alone decides for networks and most limits. Credentials are shared by all requests of
//! a connection, and stay with a tunnel, so that a reload judges it by them again.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::policy::certificate::ClientCertificate;
use crate::policy::network::{Client, Peer, UnixUser};

/// A client with its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The address that requests are judged by.
    pub client: Client,
    /// What the client has proved. `None` means nothing beyond its address.
    pub credentials: Option<Arc<Credentials>>,
    /// The connection by which the client came. `None` means that there is none, as for a test.
    pub ingress: Option<Arc<Ingress>>,
}

/// A connection as a verdict depends on it: its listener, the peer that named its client, and the
/// certificate that was shown on it. Behind a forwarder, that certificate is not the client's.
#[derive(Debug)]
pub struct Ingress {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The peer whose PROXY header has named the client. `None` means that no header has: the
    /// socket itself says who the client is.
    pub named_by: Option<Peer>,
    /// The certificate. `None` means that none was shown.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The number of the verifier that has verified the certificate last.
    pub verified_by: AtomicU64,
}

/// What a client has proved about itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The supplementary groups of a user of this host (`SO_PEERGROUPS`, unix(7)).
    pub groups: Box<[u32]>,
    /// The certificate that a listener has verified. `None` means that the client sent none.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// Compares what a client can see, not which verifier was asked last.
impl PartialEq for Ingress {
    fn eq(&self, other: &Self) -> bool {
        (&self.listener, self.named_by, &self.certificate)
            == (&other.listener, other.named_by, &other.certificate)
    }
}

impl Eq for Ingress {}

impl Subject {
    /// The client without credentials.
    pub const fn new(client: Client) -> Self {
        Subject { client, credentials: None, ingress: None }
    }

    /// A user of this host, in these supplementary groups.
    pub fn of_user(user: UnixUser, groups: Box<[u32]>) -> Self {
        let credentials =
            (!groups.is_empty()).then(|| Arc::new(Credentials { groups, certificate: None }));
        Subject { client: Client::of_peer(Peer::unix(user)), credentials, ingress: None }
    }

    /// The same client with a certificate.
    pub fn with_certificate(self, certificate: Arc<ClientCertificate>) -> Self {
        let groups = self.credentials.as_ref().map(|of| of.groups.clone()).unwrap_or_default();
        let credentials = Arc::new(Credentials { groups, certificate: Some(certificate) });
        Subject { credentials: Some(credentials), ..self }
    }

    /// The client's verified certificate. `None` means that it has none.
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.credentials.as_ref()?.certificate.as_deref()
    }

    /// The same client without its certificate.
    pub fn without_certificate(&self) -> Self {
        let groups = self.credentials.as_ref().map(|of| of.groups.clone()).unwrap_or_default();
        let credentials =
            (!groups.is_empty()).then(|| Arc::new(Credentials { groups, certificate: None }));
        Subject { client: self.client, credentials, ingress: self.ingress.clone() }
    }

    /// Whether the client is a user of this host and in the group `gid`.
    pub fn is_in_group(&self, gid: u32) -> bool {
        SubjectRef::from(self).is_in_group(gid)
    }
}

/// A borrowed subject, for look-ups.
#[derive(Debug, Clone, Copy)]
pub struct SubjectRef<'s> {
    /// The address that requests are judged by.
    pub client: Client,
    /// What the client has proved. `None` means nothing beyond its address.
    pub credentials: Option<&'s Credentials>,
}

impl<'s> SubjectRef<'s> {
    /// The client's verified certificate. `None` means that it has none.
    pub fn certificate(self) -> Option<&'s ClientCertificate> {
        self.credentials?.certificate.as_deref()
    }

    /// Whether the client is a user of this host and in the group `gid`.
    pub fn is_in_group(self, gid: u32) -> bool {
        let is_listed = || self.credentials.is_some_and(|all| all.groups.contains(&gid));
        self.client.user().is_some_and(|user| user.gid == gid || is_listed())
    }
}

impl<'s> From<&'s Subject> for SubjectRef<'s> {
    fn from(subject: &'s Subject) -> Self {
        SubjectRef { client: subject.client, credentials: subject.credentials.as_deref() }
    }
}

/// A client that has proved nothing.
impl From<Client> for SubjectRef<'_> {
    fn from(client: Client) -> Self {
        SubjectRef { client, credentials: None }
    }
}

impl From<Client> for Subject {
    fn from(client: Client) -> Self {
        Subject::new(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_a_user_of_this_host() {
        let groups = Arc::new(Credentials { groups: [44, 45].into(), certificate: None });
        let user = Client::of_peer(Peer::unix(UnixUser { uid: 33, gid: 43 }));
        let subject =
            Subject { client: user, credentials: Some(Arc::clone(&groups)), ingress: None };
        let is_in = [42, 43, 44, 45, 33].map(|gid| subject.is_in_group(gid));
        assert_eq!(is_in, [false, true, true, true, false]);
        assert!(Subject::new(user).is_in_group(43) && !Subject::new(user).is_in_group(44));
        let remote = Client::new([192, 0, 2, 1].into());
        assert!(
            !Subject { client: remote, credentials: Some(groups), ingress: None }.is_in_group(44)
        );
    }
}

//! What a limit counts by: the address of a client, or the identity of its certificate.
//!
//! Nothing here counts. A key of one kind never equals a key of another kind.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::policy::certificate::Identity;
use crate::policy::network::ClientKey;
use crate::policy::subject::Subject;

/// The key `per` of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitUnit {
    /// `"address"`: by the address of a client (IPv6: its /64), or by a user of this host.
    #[default]
    Address,
    /// `"identity"`: by the identity of a client's certificate. A client without one is counted by
    /// its address.
    Identity,
}

/// The units of a share. The unit of a limit that is off has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitUnits {
    /// Unit of the rate `upgrades`.
    pub upgrades: LimitUnit,
    /// Unit of the rate `requests`.
    pub requests: LimitUnit,
    /// Unit of the count `connections.per_client`.
    pub connections: LimitUnit,
    /// Unit of the count `streams.per_client`.
    pub streams: LimitUnit,
}

/// The key that a limit counts a client by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// An address, an IPv6 /64 or a user of this host.
    Client(ClientKey),
    /// The identity of a certificate.
    Identity(IdentityKey),
}

/// A digest of an [`Identity`], so that a name of any length takes the same room in a table.
///
/// 128 bits of SHA-256: a client that chooses among its names still finds none that shares the
/// budget of another identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdentityKey([u8; 16]);

impl IdentityKey {
    /// The digest itself.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The key with this digest, as another process of the agent has made it.
    pub const fn from_bytes(bytes: [u8; 16]) -> IdentityKey {
        IdentityKey(bytes)
    }
}

impl LimitUnit {
    /// Returns the unit that `self` is not.
    pub const fn other(self) -> LimitUnit {
        match self {
            LimitUnit::Address => LimitUnit::Identity,
            LimitUnit::Identity => LimitUnit::Address,
        }
    }
}

impl LimitUnits {
    /// Returns the units in the order of the fields.
    pub fn all(self) -> [LimitUnit; 4] {
        let LimitUnits { upgrades, requests, connections, streams } = self;
        [upgrades, requests, connections, streams]
    }
}

impl LimitKey {
    /// The key by which a limit of this unit counts `subject`.
    pub fn of(subject: &Subject, unit: LimitUnit) -> LimitKey {
        let certificate = match unit {
            LimitUnit::Address => None,
            LimitUnit::Identity => subject.certificate(),
        };
        // Without a certificate there is no identity, and yet no client escapes the limit.
        certificate.map_or(LimitKey::Client(subject.client.key()), |certificate| {
            LimitKey::Identity(IdentityKey::of(certificate.identity()))
        })
    }
}

impl From<ClientKey> for LimitKey {
    fn from(key: ClientKey) -> Self {
        LimitKey::Client(key)
    }
}

impl IdentityKey {
    /// The key of `identity`.
    pub fn of(identity: Identity<'_>) -> IdentityKey {
        // The kind is hashed too: a URI name may equal a DNS name, and must not share its budget.
        let (kind, name) = match &identity {
            Identity::Uri(uri) => (b"u", uri.as_bytes()),
            Identity::Dns(name) => (b"d", name.as_bytes()),
            Identity::Key(pin) => (b"k", pin.0.as_slice()),
        };
        // Each kind is one byte, so that no kind and name together equal those of another identity.
        let digest = Sha256::new().chain_update(kind).chain_update(name).finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        IdentityKey(key)
    }
}

impl fmt::Display for LimitUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitUnit::Address => "address",
            LimitUnit::Identity => "identity",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::certificate::{ClientCertificate, KeyPin};
    use crate::policy::network::Client;

    const PIN: &str = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn of(host: u8, identity: Option<&str>) -> Subject {
        let client = Client::new([192, 0, 2, host].into());
        match identity {
            Some(name) => {
                let certificate = ClientCertificate::named(name).unwrap();
                Subject::new(client).with_certificate(certificate.into())
            }
            None => client.into(),
        }
    }

    /// Whether both subjects have one key, by address and by identity.
    fn same(one: &Subject, other: &Subject) -> (bool, bool) {
        let by = |unit| LimitKey::of(one, unit) == LimitKey::of(other, unit);
        (by(LimitUnit::Address), by(LimitUnit::Identity))
    }

    #[test]
    fn key_is_of_the_address_or_of_the_identity() {
        let (one, two) = (Some("spiffe://a/1"), Some("spiffe://a/2"));
        for (first, second, is_same) in [
            ((1, one), (1, one), (true, true)),
            ((1, one), (2, one), (false, true)),
            ((1, one), (1, two), (true, false)),
            ((1, one), (1, None), (true, false)),
            ((1, None), (1, None), (true, true)),
            ((1, None), (2, None), (false, false)),
            ((1, Some("spiffe://A/1")), (2, one), (false, true)),
            ((1, Some("dns:A.example")), (2, Some("dns:a.example")), (false, true)),
            ((1, Some(PIN)), (2, Some(PIN)), (false, true)),
        ] {
            let subjects = (of(first.0, first.1), of(second.0, second.1));
            assert_eq!(same(&subjects.0, &subjects.1), is_same, "{first:?} {second:?}");
        }
    }

    #[test]
    fn names_of_two_kinds_are_two_identities() {
        // A URI may have any scheme, and then reads like another kind of name.
        let uri = |text: &str| {
            let mut certificate = ClientCertificate::named("spiffe://a/b").unwrap();
            certificate.uris = [text.into()].into();
            certificate
        };
        for name in ["dns:a.example", PIN] {
            let (odd, plain) = (uri(name), ClientCertificate::named(name).unwrap());
            assert_eq!(odd.identity().to_string(), format!("uri:{}", plain.identity()));
            assert_ne!(IdentityKey::of(odd.identity()), IdentityKey::of(plain.identity()));
        }
        let (uri, dns) = (Identity::Uri("a.example"), Identity::Dns("a.example"));
        assert_ne!(IdentityKey::of(uri), IdentityKey::of(dns));
        let (text, pin) = ("x".repeat(32), Identity::Key(KeyPin([b'x'; 32])));
        assert_ne!(IdentityKey::of(Identity::Uri(&text)), IdentityKey::of(pin));
    }

    #[test]
    fn first_name_is_the_identity_whatever_the_key() {
        let mut certificate = ClientCertificate::named("dns:a.example").unwrap();
        let before = IdentityKey::of(certificate.identity());
        certificate.key_pin.0[0] ^= 1;
        assert_eq!(IdentityKey::of(certificate.identity()), before, "a renewal");
        certificate.uris = ["spiffe://a/1".into(), "spiffe://a/2".into()].into();
        let named = ClientCertificate::named("spiffe://a/1").unwrap();
        assert_eq!(IdentityKey::of(certificate.identity()), IdentityKey::of(named.identity()));
    }
}
